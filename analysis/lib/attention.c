#include "analysis/lib/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/str.h"

int64_t attention_find_word(const trace_reader *r, const char *word)
{
    for (int64_t i = 0; i < r->attention.words.n; i++)
        if (!strcmp(r->attention.words.text[i], word))
            return i;
    return -1;
}

/* Indices lo..hi-1 of an axis that a choice stands for. */
static int choose(int64_t *lo, int64_t *hi, const trace_reader *r, const char *axis, const int32_t *numbers, int64_t n,
                  int64_t wanted, err *e)
{
    *lo = 0;
    *hi = n;
    if (wanted == ATTENTION_MEAN)
        return 0;
    for (int64_t i = 0; i < n; i++)
        if (numbers[i] == wanted) {
            *lo = i;
            *hi = i + 1;
            return 0;
        }
    if (n == 1 && numbers[0] == -1)
        return ERR(e, ERR_ARG,
                   "%s: --%s %lld: the trace stores only the mean over heads. Give --%s mean, or capture single heads.",
                   r->path, axis, (long long)wanted, axis);
    str list = STR_INIT;
    for (int64_t i = 0; i < n && i < 60; i++)
        str_addf(&list, "%s%d", i ? ", " : "", (int)numbers[i]);
    int rc = ERR(e, ERR_ARG, "%s: --%s %lld is not stored; stored: %s%s. Give one of them or mean.", r->path, axis,
                 (long long)wanted, str_text(&list), n > 60 ? " ..." : "");
    str_release(&list);
    return rc;
}

/* Latent frames lo..hi-1 of a shot. */
static int choose_frames(int64_t *lo, int64_t *hi, const trace_reader *r, const attention_choice *c, err *e)
{
    *lo = 0;
    *hi = r->attention.F;
    if (!c->one_shot)
        return 0;
    if (!r->latent_shot)
        return ERR(e, ERR_ARG, "%s: --shot %lld: the run is no multi-shot video (it has no /shots). Leave --shot out.", r->path, (long long)c->shot);
    int64_t n = r->latent_shot[r->n_latent_shot - 1] + 1;
    if (c->shot >= n)
        return ERR(e, ERR_ARG, "%s: --shot %lld: the video has %lld shots, numbered from 0.", r->path, (long long)c->shot, (long long)n);
    while (r->latent_shot[*lo] < c->shot)
        ++*lo;
    while (r->latent_shot[*hi - 1] > c->shot)
        --*hi;
    return 0;
}

int attention_load(attention_map *m, trace_reader *r, const attention_choice *c, err *e)
{
    const trace_attention *a = &r->attention;
    int64_t range[3][2], frames[2], word, n = a->F * a->h * a->w;
    float *buf = NULL;
    double *sum = NULL;
    memset(m, 0, sizeof *m);
    if (!a->present)
        return ERR(
            e, ERR_ARG,
            "%s: the trace has no attention maps. Mark a word as (word) in the prompt and run with --store-attention.",
            r->path);
    word = attention_find_word(r, c->word);
    if (word < 0) {
        str list = STR_INIT;
        for (int64_t i = 0; i < a->words.n; i++)
            str_addf(&list, "%s'%s'", i ? ", " : "", a->words.text[i]);
        int bad =
            ERR(e, ERR_ARG, "%s: no map of the word '%s'; the marked words are %s.", r->path, c->word, str_text(&list));
        str_release(&list);
        return bad;
    }
    int rc = choose(&range[0][0], &range[0][1], r, "step", a->steps, a->n_steps, c->step, e);
    if (!rc)
        rc = choose(&range[1][0], &range[1][1], r, "layer", a->layers, a->n_layers, c->layer, e);
    if (!rc)
        rc = choose(&range[2][0], &range[2][1], r, "head", a->heads, a->n_heads, c->head, e);
    if (!rc)
        rc = choose_frames(&frames[0], &frames[1], r, c, e);
    if (rc)
        return rc;
    buf = malloc((size_t)(n * a->n_heads) * sizeof *buf);
    sum = calloc((size_t)n, sizeof *sum);
    m->value = malloc((size_t)n * sizeof *m->value);
    if (!buf || !sum || !m->value) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for a map of %lld values", r->path, (long long)n);
        goto out;
    }
    for (int64_t s = range[0][0]; s < range[0][1]; s++)
        for (int64_t l = range[1][0]; l < range[1][1]; l++) {
            if ((rc = trace_reader_maps(r, buf, s, l, word, e)))
                goto out;
            for (int64_t h = range[2][0]; h < range[2][1]; h++)
                for (int64_t i = 0; i < n; i++)
                    sum[i] += buf[h * n + i];
        }
    double parts = (double)((range[0][1] - range[0][0]) * (range[1][1] - range[1][0]) * (range[2][1] - range[2][0]));
    m->F = frames[1] - frames[0];
    m->first = frames[0];
    m->h = a->h;
    m->w = a->w;
    m->min = INFINITY;
    m->max = -INFINITY;
    n = m->F * a->h * a->w;
    for (int64_t i = 0; i < n; i++) {
        double v = sum[m->first * a->h * a->w + i] / parts;
        m->value[i] = (float)v;
        m->min = fmin(m->min, v);
        m->max = fmax(m->max, v);
        m->mean += v / (double)n;
    }
out:
    free(sum);
    free(buf);
    if (rc)
        attention_map_close(m);
    return rc;
}

void attention_map_close(attention_map *m)
{
    free(m->value);
    memset(m, 0, sizeof *m);
}

int attention_write_csv(const char *path, const attention_map *m, err *e)
{
    str s = STR_INIT;
    str_add(&s, "frame,row,column,value\n");
    for (int64_t f = 0; f < m->F; f++)
        for (int64_t y = 0; y < m->h; y++)
            for (int64_t x = 0; x < m->w; x++)
                str_addf(&s, "%lld,%lld,%lld,%.9g\n", (long long)(m->first + f), (long long)y, (long long)x,
                         (double)m->value[(f * m->h + y) * m->w + x]);
    int rc =
        s.failed ? ERR(e, ERR_MEMORY, "no memory to write %s", path) : fs_write_atomic(path, str_text(&s), s.len, e);
    str_release(&s);
    return rc;
}
