#include "core/dit/shots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

static const char GLOBAL[] = "[global caption]", PER_SHOT[] = "[per shot caption]", CUT[] = "[shot cut]";

int shots_enforce(int n)
{
    return 4 * (int)nearbyint((n - 1) / 4.0) + 1;      /* the default rounding mode is half to even, as Python's round */
}

static int ascending(const void *a, const void *b)
{
    return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

int shots_structured(shot_script *out, const char *global_caption, const char *const *captions, int n, int num_frames, const int *cuts,
                     int n_cuts, err *e)
{
    str p = STR_INIT;
    *out = (shot_script){ .num_frames = shots_enforce(num_frames) };
    if (n < 1)
        return ERR(e, ERR_ARG, "a multi-shot prompt needs at least one shot caption");
    str_add(&p, GLOBAL);
    str_addc(&p, ' ');
    if (strstr(global_caption, "This scene contains")) {
        str_add(&p, global_caption);
    } else {      /* stripped only when the suffix is added */
        static const char blanks[] = " \t\n\r\v\f";
        const char *from = global_caption + strspn(global_caption, blanks);
        size_t len = strlen(from);
        while (len && strchr(blanks, from[len - 1]))
            len--;
        str_addn(&p, from, len);
        str_addf(&p, " This scene contains %d shots.", n);
    }
    str_addf(&p, " %s ", PER_SHOT);
    for (int i = 0; i < n; i++) {
        if (i)
            str_addf(&p, " %s ", CUT);
        str_add(&p, captions[i]);
    }
    int wanted = n_cuts > 0 ? n_cuts : n - 1;
    out->cuts = calloc((size_t)wanted + 1, sizeof *out->cuts);
    out->prompt = str_take(&p);
    if (!out->cuts || !out->prompt) {
        shot_script_release(out);
        return ERR(e, ERR_MEMORY, "no memory for a multi-shot prompt");
    }
    for (int i = 0; i < wanted; i++)
        out->cuts[i] = n_cuts > 0 ? shots_enforce(cuts[i]) : shots_enforce((int)nearbyint((i + 1) * ((double)out->num_frames / n)));
    qsort(out->cuts, (size_t)wanted, sizeof *out->cuts, ascending);
    for (int i = 0; i < wanted; i++) {
        int c = out->cuts[i];
        if (c > 0 && c < out->num_frames && (!out->n_cuts || out->cuts[out->n_cuts - 1] != c))
            out->cuts[out->n_cuts++] = c;
    }
    return 0;
}

void shot_script_release(shot_script *s)
{
    free(s->prompt);
    free(s->cuts);
    *s = (shot_script){ 0 };
}

int shots_of_latents(int frames, const int *cuts, int n_cuts, int *shot, err *e)
{
    int T = (frames - 1) / 4 + 1, n = 0;
    if (frames < 1)
        return ERR(e, ERR_ARG, "a video of %d frames has no shots", frames);
    memset(shot, 0, (size_t)T * sizeof *shot);
    for (int i = 0; i < n_cuts; i++) {      /* 1 where a shot starts */
        int latent = cuts[i] > 0 ? (cuts[i] - 1) / 4 + 1 : T;
        if (latent < T)
            shot[latent] = 1;
    }
    for (int t = 0; t < T; t++)
        shot[t] = n += shot[t];
    return n + 1;
}

/* ---- token spans ---- */

static size_t code_points(const char *from, const char *to)
{
    size_t n = 0;
    for (; from < to; from++)
        n += ((unsigned char)*from & 0xc0) != 0x80;
    return n;
}

typedef struct { int id; size_t begin, end; } span;

static void widen(int range[2], bool *has, int token)
{
    if (!*has)
        range[0] = token;
    range[1] = token + 1;
    *has = true;
}

int shots_find_spans(shot_spans *out, const char *text, const size_t *begin, const size_t *end, int n_tokens, err *e)
{
    const char *g = strstr(text, GLOBAL), *ps = strstr(text, PER_SHOT);
    size_t length = code_points(text, text + strlen(text)), n_cuts = 0, n = 0;
    int most = -1;
    *out = (shot_spans){ 0 };
    for (const char *c = text; (c = strstr(c, CUT)); c += sizeof CUT - 1)
        n_cuts++;
    span *spans = calloc(n_cuts + 3, sizeof *spans);
    int(*shots)[2] = calloc(n_cuts + 2, sizeof *shots);
    bool *has = calloc(n_cuts + 2, sizeof *has);
    if (!spans || !shots || !has) {
        free(spans);
        free(shots);
        free(has);
        return ERR(e, ERR_MEMORY, "no memory for %zu shots", n_cuts + 1);
    }
    if (g)
        spans[n++] = (span){ -1, code_points(text, g), ps ? code_points(text, ps) : length };
    if (ps) {
        size_t at = code_points(text, ps);
        int id = 0;
        for (const char *c = text; (c = strstr(c, CUT)); c += sizeof CUT - 1) {      /* a marker ends the shot before it */
            size_t stop = code_points(text, c + sizeof CUT - 1);
            spans[n++] = (span){ id++, at, stop };
            at = stop;
        }
        if (at < length)
            spans[n++] = (span){ id, at, length };
    }
    for (int i = 0; i < n_tokens; i++) {
        if (begin[i] == end[i])
            continue;
        for (size_t k = 0; k < n; k++)
            if (end[i] > spans[k].begin && begin[i] < spans[k].end) {
                if (spans[k].id < 0)
                    widen(out->global, &out->has_global, i);
                else
                    widen(shots[spans[k].id], &has[spans[k].id], i);
                most = spans[k].id > most ? spans[k].id : most;
                break;
            }
    }
    for (int k = 0; k <= most; k++)      /* shots without a token vanish and later ones slide down, as upstream */
        if (has[k]) {
            memcpy(shots[out->n], shots[k], sizeof *shots);
            out->n++;
        }
    out->shots = shots;
    free(spans);
    free(has);
    return 0;
}

void shot_spans_release(shot_spans *s)
{
    free(s->shots);
    *s = (shot_spans){ 0 };
}

/* ---- plans ---- */

static bool sees(const shot_spans *s, int k, int j, int last)
{
    return (j >= s->global[0] && j <= s->global[1]) || (j >= s->shots[k][0] && j <= s->shots[k][1]) || j >= last + 1;
}

int shots_make_plans(shot_plans *out, const int *shot, int latent_frames, int64_t tokens_per_frame, const shot_spans *spans, int text_len, err *e)
{
    int S = 1, most = shot[0], last = 0, at = 0;      /* S: runs of frames of one shot */
    for (int t = 1; t < latent_frames; t++) {
        S += shot[t] != shot[t - 1];
        most = shot[t] > most ? shot[t] : most;
    }
    *out = (shot_plans){ 0 };
    if (spans && !spans->has_global)
        return ERR(e, ERR_ARG, "the prompt has no [global caption] within the %d tokens that are read: shots cannot be told apart", text_len);
    if (spans && most >= spans->n)
        return ERR(e, ERR_ARG, "the video has %d shots and the prompt captions for %d within the %d tokens that are read; shorten the prompt or remove "
                   "cuts", most + 1, spans->n, text_len);
    /* cross: at most three ranges a shot; sparse: the shot itself and one range a shot */
    out->segments = calloc(2 * (size_t)S, sizeof *out->segments);
    out->ranges = calloc((size_t)S * (3 + 1 + (size_t)S), sizeof *out->ranges);
    int64_t *first = calloc((size_t)S + 1, sizeof *first);
    if (!out->segments || !out->ranges || !first) {
        free(first);
        shot_plans_release(out);
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d shots", S);
    }
    for (int t = 0, k = 0; t < latent_frames; t++)
        if (!t || shot[t] != shot[t - 1])
            first[k++] = t * tokens_per_frame;
    first[S] = latent_frames * tokens_per_frame;
    if (spans) {
        last = spans->global[1];
        for (int k = 0; k < spans->n; k++)
            last = spans->shots[k][1] > last ? spans->shots[k][1] : last;
        for (int k = 0; k < S; k++) {
            attn_segment *g = &out->segments[k];
            int of = shot[first[k] / tokens_per_frame];
            *g = (attn_segment){ first[k], first[k + 1], 0, out->ranges + at };
            for (int j = 0; j < text_len; j++) {
                if (!sees(spans, of, j, last))
                    continue;
                if (!g->n_ranges || out->ranges[at - 1].end != j) {
                    out->ranges[at++] = (attn_range){ j, j };
                    g->n_ranges++;
                }
                out->ranges[at - 1].end = j + 1;
            }
        }
        out->cross = (attn_plan){ S, out->segments };
    }
    for (int k = 0; k < S; k++) {
        out->segments[S + k] = (attn_segment){ first[k], first[k + 1], 1 + S, out->ranges + at };
        out->ranges[at++] = (attn_range){ first[k], first[k + 1] };
        for (int o = 0; o < S; o++)
            out->ranges[at++] = (attn_range){ first[o], first[o] + tokens_per_frame };
    }
    out->sparse = (attn_plan){ S, out->segments + S };
    free(first);
    return 0;
}

void shot_plans_release(shot_plans *p)
{
    free(p->segments);
    free(p->ranges);
    *p = (shot_plans){ 0 };
}

float shots_mask_value(shot_mask_kind kind, int shot, int n_shots)
{
    switch (kind) {
    case SHOT_MASK_ID: return (float)shot;
    case SHOT_MASK_NORMALIZED: return n_shots > 1 ? (float)shot / 20.0f : 0.0f;
    default: return (float)(shot % 2);
    }
}
