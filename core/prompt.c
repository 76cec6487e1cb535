#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/engine_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* Prompts: text -> clean text -> tokens -> rows of the text encoder, cut at the real length (t5.py:505-513). */

static int encode_ids(engine *g, const int32_t *ids, int n, int n_visible, prompt *p, err *e)
{
    int rc = 0;
    tensor rows = { 0 };
    float *all = NULL;
    TRY(engine_need_t5(g, e));
    p->dim = umt5_get_config(g->t5)->dim;
    p->n_tokens = n_visible;
    p->text_len = n;
    TRY(TENSOR_NEW(&rows, g->be, g->prec->stream, e, n, p->dim));
    TRY(umt5_encode(g->t5, ids, n, n_visible, &rows, e));
    if (!(all = malloc((size_t)n * (size_t)p->dim * sizeof *all)) ||
        !(p->rows = malloc((size_t)n_visible * (size_t)p->dim * sizeof *p->rows))) {
        rc = ERR(e, ERR_MEMORY, "no memory for a text embedding");
        goto out;
    }
    TRY(op_download_f32(all, &rows, e));
    memcpy(p->rows, all, (size_t)n_visible * (size_t)p->dim * sizeof *p->rows);
    for (int64_t i = 0; i < (int64_t)n_visible * p->dim; i++)
        if (!isfinite(p->rows[i])) {
            rc = ERR(e, ERR_NAN, "the text encoder gave NaN or infinity; %s is damaged", g->files.t5);
            goto out;
        }
out:
    free(all);
    tensor_free(&rows);
    return rc;
}

int engine_encode_ids(engine *g, const int32_t *ids, int n, int n_visible, prompt **out, err *e)
{
    prompt *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p)
        return ERR(e, ERR_MEMORY, "no memory for a prompt");
    int rc = encode_ids(g, ids, n, n_visible, p, e);
    if (rc)
        prompt_free(p);
    else
        *out = p;
    return rc;
}

int engine_encode(engine *g, const char *text, prompt **out, err *e)
{
    int rc = 0;
    text_clean_options clean = TEXT_CLEAN_DEFAULT;
    prompt *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p)
        return ERR(e, ERR_MEMORY, "no memory for a prompt");
    clean.ftfy = g->ftfy;
    if (!g->tok) {
        if (!g->files.tokenizer) {
            rc = ERR(e, ERR_CONFIG, "no tokenizer beside %s: looked for google/umt5-xxl/ and tokenizer/; set model.tokenizer to the folder that holds "
                     "spiece.model", g->files.dit);
            goto out;
        }
        TRY(tokenizer_open(&g->tok, g->files.tokenizer, NULL, e));
    }
    if (!(p->raw = str_dup(text))) {
        rc = ERR(e, ERR_MEMORY, "no memory for a prompt");
        goto out;
    }
    TRY(text_clean(text, &clean, &p->map, e));
    TRY(tokenizer_encode(g->tok, p->map.text, g->dit_cfg.text_len, &p->tok, e));
    TRY(encode_ids(g, p->tok.ids, p->tok.text_len, p->tok.n, p, e));
    if (p->tok.truncated)
        log_msg(LOG_WARN, "a prompt of %lld tokens is cut to %d, as upstream does: \"%.60s...\"", (long long)p->tok.n_untruncated, p->tok.n, p->map.text);
    *out = p;
    return 0;
out:
    prompt_free(p);
    return rc;
}

void prompt_free(prompt *p)
{
    if (p) {
        text_clean_release(&p->map);
        text_tokens_release(&p->tok);
        free(p->rows);
        free(p->raw);
        free(p);
    }
}

const char *prompt_clean_text(const prompt *p)
{
    return p->map.text ? p->map.text : "";
}

int prompt_n_tokens(const prompt *p)
{
    return p->n_tokens;
}

const char *prompt_piece(const prompt *p, int token)
{
    return p->tok.tokens && token >= 0 && token < p->tok.n && p->tok.tokens[token].piece ? p->tok.tokens[token].piece : "";
}

bool prompt_truncated(const prompt *p)
{
    return p->tok.truncated;
}

int prompt_tokens_of(const prompt *p, size_t begin, size_t end, int *tokens, int *n, err *e)
{
    size_t b, x;
    int32_t *index = NULL, count = 0;
    *n = 0;
    if (!p->map.text)
        return 0;
    text_clean_map(&p->map, begin, end, &b, &x);
    int rc = tokenizer_span_tokens(&p->tok, b, x, &index, &count, e);
    for (int i = 0; !rc && i < count; i++)
        tokens[i] = index[i];
    if (!rc)
        *n = count;
    free(index);
    return rc;
}

/* Offsets of tokens are bytes of the clean text, spans are counted in code points as upstream's are. */
int prompt_shot_spans(const prompt *p, bool raw, shot_spans *out, err *e)
{
    *out = (shot_spans){ 0 };
    if (!p->map.text)
        return ERR(e, ERR_ARG, "a prompt made of token ids or blended of two has no captions: shots need prompts of text");
    size_t n = (size_t)p->tok.n, *points = malloc((p->map.len + 1 + 2 * n) * sizeof *points);
    if (!points)
        return ERR(e, ERR_MEMORY, "no memory for the captions of %d tokens", p->tok.n);
    size_t *begin = points + p->map.len + 1, *end = begin + n, seen = 0;
    for (size_t i = 0; i <= p->map.len; i++) {      /* code points before byte i */
        points[i] = seen;
        seen += i + 1 <= p->map.len && ((unsigned char)p->map.text[i + 1] & 0xc0) != 0x80;
    }
    for (size_t i = 0; i < n; i++) {
        begin[i] = points[p->tok.tokens[i].begin];
        end[i] = points[p->tok.tokens[i].end];
    }
    int rc = shots_find_spans(out, raw ? p->raw : p->map.text, begin, end, (int)n, e);
    free(points);
    return rc;
}

float *prompt_rows(prompt *p)
{
    return p->rows;
}

int prompt_dim(const prompt *p)
{
    return p->dim;
}

void prompt_scale(prompt *p, const int *tokens, int n, double weight)
{
    for (int i = 0; i < n; i++)
        for (int k = 0; k < p->dim; k++)
            p->rows[(int64_t)tokens[i] * p->dim + k] *= (float)weight;
}

void prompt_interpolate(prompt *p, const int *tokens, int n, double weight)
{
    const float *eos = p->rows + (int64_t)(p->n_tokens - 1) * p->dim;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < p->dim; k++) {
            float *x = &p->rows[(int64_t)tokens[i] * p->dim + k];
            *x = eos[k] + (*x - eos[k]) * (float)weight;
        }
}

int prompt_blend(prompt **out, const prompt *a, const prompt *b, double t, blend_kind kind, err *e)
{
    int n = a->n_tokens > b->n_tokens ? a->n_tokens : b->n_tokens, dim = a->dim;
    prompt *p = calloc(1, sizeof *p);
    *out = NULL;
    if (a->dim != b->dim) {
        free(p);
        return ERR(e, ERR_INTERNAL, "prompts of widths %d and %d cannot be blended", a->dim, b->dim);
    }
    if (!p || !(p->rows = calloc((size_t)n * (size_t)dim, sizeof *p->rows))) {
        free(p);
        return ERR(e, ERR_MEMORY, "no memory for a prompt");
    }
    p->n_tokens = n;
    p->dim = dim;
    p->text_len = a->text_len;
    for (int r = 0; r < n; r++) {
        const float *x = r < a->n_tokens ? a->rows + (int64_t)r * dim : NULL, *y = r < b->n_tokens ? b->rows + (int64_t)r * dim : NULL;
        double wx = 1 - t, wy = t;
        if (kind == BLEND_SLERP && x && y) {
            double xx = 0, yy = 0, xy = 0;
            for (int k = 0; k < dim; k++) {
                xx += (double)x[k] * x[k];
                yy += (double)y[k] * y[k];
                xy += (double)x[k] * y[k];
            }
            double c = xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 1;
            double omega = acos(c < -1 ? -1 : c > 1 ? 1 : c), s = sin(omega);
            if (s > 1e-6) {
                wx = sin((1 - t) * omega) / s;
                wy = sin(t * omega) / s;
            }
        } else if (kind == BLEND_SLERP) {      /* against a row of zeros the angle is a right one */
            wx = cos(t * M_PI_2);
            wy = sin(t * M_PI_2);
        }
        for (int k = 0; k < dim; k++)
            p->rows[(int64_t)r * dim + k] = (float)(wx * (x ? x[k] : 0) + wy * (y ? y[k] : 0));
    }
    *out = p;
    return 0;
}
