#include <cblas.h>
#include <stdlib.h>

#include "core/base/parallel.h"
#include "core/cpu/cpu.h"

/* Blocked softmax attention: a tile of QT queries of one head visits the keys in tiles of KT, keeping the running maximum,
 * the running sum and the unnormalised output (Milakov and Gimelshein 2018; Dao et al. 2022). Lq x Lk is never stored. */

enum { QT = 64, KT = 256 };

static const attn_segment *segments_of(const attn_plan *p, attn_segment *all, attn_range *all_keys, int64_t n_q,
                                       int64_t n_k, int *n)
{
    if (p->n_segments) {
        *n = p->n_segments;
        return p->segments;
    }
    *all_keys = (attn_range){ 0, n_k };
    *all = (attn_segment){ 0, n_q, 1, all_keys };
    *n = 1;
    return all;
}

typedef struct {
    const attn_args *a;
    const attn_segment *segments;
    int64_t *first_tile;           /* n_segments + 1 */
    int n_segments;
    int64_t head_dim, width;
} attn_job;

CPU_CLONES static void softmax_tile(float *s, int64_t rows, int64_t keys, float scale, const float *bias, int64_t bias_step,
                                    float *max, float *sum, float *acc, int64_t d)
{
    for (int64_t r = 0; r < rows; r++, s += KT, acc += d) {
        float m = max[r];
        for (int64_t k = 0; k < keys; k++)
            s[k] *= scale;
        if (bias)
            for (int64_t k = 0; k < keys; k++)
                s[k] += bias[k - r * bias_step];
        for (int64_t k = 0; k < keys; k++)
            m = s[k] > m ? s[k] : m;
        float shrink = max[r] == -INFINITY ? 0.0f : cpu_exp(max[r] - m);
        float lane[16] = { 0 };
        double total = 0;
        int64_t k = 0;
        for (k = 0; k < keys; k++)
            s[k] = cpu_exp(s[k] - m);
        for (k = 0; k + 16 <= keys; k += 16)
            for (int l = 0; l < 16; l++)
                lane[l] += s[k + l];
        for (int l = 0; l < 16; l++)
            total += lane[l];
        for (; k < keys; k++)
            total += s[k];
        sum[r] = sum[r] * shrink + (float)total;
        max[r] = m;
        if (shrink != 1.0f)
            for (int64_t i = 0; i < d; i++)
                acc[i] *= shrink;
    }
}

static void attn_piece(int64_t piece, int thread, void *arg)
{
    attn_job *j = arg;
    const attn_args *a = j->a;
    int64_t tile = piece / a->n_heads, head = piece % a->n_heads, d = j->head_dim, w = j->width;
    int s = 0;
    while (j->first_tile[s + 1] <= tile)
        s++;
    const attn_segment *g = &j->segments[s];
    int64_t q0 = g->q_begin + (tile - j->first_tile[s]) * QT;
    int64_t rows = g->q_end - q0 < QT ? g->q_end - q0 : QT;
    float *scores = cpu_scratch(a->out->be, thread), *acc = scores + QT * KT, *max = acc + QT * d, *sum = max + QT;
    const float *q = (const float *)a->q->data + q0 * w + head * d;
    for (int64_t r = 0; r < rows; r++) {
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(acc, 0, (size_t)(rows * d) * 4);
    for (int n = 0; n < g->n_ranges; n++)
        for (int64_t k0 = g->ranges[n].begin; k0 < g->ranges[n].end; k0 += KT) {
            int64_t keys = g->ranges[n].end - k0 < KT ? g->ranges[n].end - k0 : KT;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)keys, (blasint)d, 1.0f, q,
                        (blasint)w, (const float *)a->k->data + k0 * w + head * d, (blasint)w, 0.0f, scores, KT);
            const float *bias = NULL;
            if (a->rel_bias) {
                int64_t span = a->rel_bias->shape[1] / 2 + 1;
                bias = (const float *)a->rel_bias->data + head * a->rel_bias->shape[1] + (k0 - q0 + span - 1);
            }
            softmax_tile(scores, rows, keys, a->scale, bias, 1, max, sum, acc, d);
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)rows, (blasint)d, (blasint)keys, 1.0f, scores,
                        KT, (const float *)a->v->data + k0 * w + head * d, (blasint)w, 1.0f, acc, (blasint)d);
        }
    for (int64_t r = 0; r < rows; r++) {
        float *out = (float *)a->out->data + (q0 + r) * w + head * d, inv = 1.0f / sum[r];
        for (int64_t i = 0; i < d; i++)
            out[i] = acc[r * d + i] * inv;
    }
}

int cpu_attention(backend *be, const attn_args *a, err *e)
{
    attn_segment all;
    attn_range all_keys;
    attn_job j = { .a = a, .width = tensor_cols(a->q), .head_dim = tensor_cols(a->q) / a->n_heads };
    j.segments = segments_of(&a->plan, &all, &all_keys, tensor_nrows(a->q), tensor_nrows(a->k), &j.n_segments);
    int rc = cpu_need_scratch(be, (size_t)(QT * KT + QT * j.head_dim + 2 * QT) * 4, e);
    if (rc)
        return rc;
    j.first_tile = malloc(((size_t)j.n_segments + 1) * sizeof *j.first_tile);
    if (!j.first_tile)
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d segments", j.n_segments);
    j.first_tile[0] = 0;
    for (int s = 0; s < j.n_segments; s++)
        j.first_tile[s + 1] = j.first_tile[s] + (j.segments[s].q_end - j.segments[s].q_begin + QT - 1) / QT;
    parallel_for(j.first_tile[j.n_segments] * a->n_heads, attn_piece, &j);
    free(j.first_tile);
    return 0;
}

/* ---- probabilities of chosen columns ---- */

enum { PT = 32 };        /* queries a tile */

typedef struct {
    const attn_probs_args *a;
    const attn_segment *g;
    int64_t head_dim, width, n_keys;
    int64_t *column;      /* positions, in the segment's key list, of the words' columns */
    int64_t *word_end;    /* n_words: end of each word in `column` */
} probs_job;

static void probs_piece(int64_t tile, int thread, void *arg)
{
    probs_job *j = arg;
    const attn_probs_args *a = j->a;
    int64_t d = j->head_dim, w = j->width, q0 = j->g->q_begin + tile * PT, n_q = tensor_nrows(a->q);
    int64_t rows = j->g->q_end - q0 < PT ? j->g->q_end - q0 : PT;
    float *scores = cpu_scratch(a->out->be, thread);
    bool mean = a->out->shape[0] == 1;
    double *head_sum = (double *)(void *)(scores + (PT * j->n_keys + 1) / 2 * 2);
    memset(head_sum, 0, (size_t)(PT * a->n_words) * sizeof *head_sum);
    for (int h = 0; h < a->n_heads; h++) {
        int64_t at = 0;
        for (int n = 0; n < j->g->n_ranges; n++) {
            int64_t k0 = j->g->ranges[n].begin, keys = j->g->ranges[n].end - k0;
            if (keys > 0)
                cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)keys, (blasint)d, 1.0f,
                            (const float *)a->q->data + q0 * w + h * d, (blasint)w,
                            (const float *)a->k->data + k0 * w + h * d, (blasint)w, 0.0f, scores + at,
                            (blasint)j->n_keys);
            at += keys;
        }
        for (int64_t r = 0; r < rows; r++) {
            float *s = scores + r * j->n_keys, m = -INFINITY;
            double total = 0;
            for (int64_t k = 0; k < j->n_keys; k++) {
                s[k] *= a->scale;
                m = s[k] > m ? s[k] : m;
            }
            for (int64_t k = 0; k < j->n_keys; k++) {
                s[k] = expf(s[k] - m);
                total += s[k];
            }
            int64_t c = 0;
            for (int word = 0; word < a->n_words; word++) {
                double p = 0;
                for (; c < j->word_end[word]; c++)
                    p += s[j->column[c]];
                p /= total;
                if (mean)
                    head_sum[r * a->n_words + word] += p;
                else
                    ((float *)a->out->data)[((int64_t)h * a->n_words + word) * n_q + q0 + r] = (float)p;
            }
        }
    }
    if (mean)
        for (int64_t r = 0; r < rows; r++)
            for (int word = 0; word < a->n_words; word++)
                ((float *)a->out->data)[(int64_t)word * n_q + q0 + r] =
                    (float)(head_sum[r * a->n_words + word] / a->n_heads);
}

int cpu_attn_probs(backend *be, const attn_probs_args *a, err *e)
{
    attn_segment all;
    attn_range all_keys;
    int n_segments, rc = 0;
    const attn_segment *segments =
        segments_of(&a->plan, &all, &all_keys, tensor_nrows(a->q), tensor_nrows(a->k), &n_segments);
    probs_job j = { .a = a, .width = tensor_cols(a->q), .head_dim = tensor_cols(a->q) / a->n_heads };
    for (int s = 0; s < n_segments && !rc; s++) {
        const attn_segment *g = j.g = &segments[s];
        int64_t hits = 0;
        j.n_keys = 0;
        for (int n = 0; n < g->n_ranges; n++)
            j.n_keys += g->ranges[n].end - g->ranges[n].begin;
        /* a key may stand in several ranges; each occurrence carries probability */
        int64_t most = (int64_t)a->word_begin[a->n_words] * g->n_ranges;
        j.column = malloc((size_t)(most + 1) * sizeof *j.column);
        j.word_end = malloc((size_t)(a->n_words + 1) * sizeof *j.word_end);
        if (!j.column || !j.word_end)
            rc = ERR(e, ERR_MEMORY, "no memory for the columns of %d words", a->n_words);
        for (int word = 0; word < a->n_words && !rc; word++) {
            for (int i = a->word_begin[word]; i < a->word_begin[word + 1]; i++) {
                int64_t at = 0;
                for (int n = 0; n < g->n_ranges; n++) {
                    if (a->columns[i] >= g->ranges[n].begin && a->columns[i] < g->ranges[n].end)
                        j.column[hits++] = at + a->columns[i] - g->ranges[n].begin;
                    at += g->ranges[n].end - g->ranges[n].begin;
                }
            }
            j.word_end[word] = hits;
        }
        if (!rc)
            rc = cpu_need_scratch(be, (size_t)(PT * j.n_keys + 2) * 4 + (size_t)(PT * a->n_words) * sizeof(double), e);
        if (!rc)
            parallel_for((g->q_end - g->q_begin + PT - 1) / PT, probs_piece, &j);
        free(j.column);
        free(j.word_end);
    }
    return rc;
}
