#include "core/base/parallel.h"
#include "core/cpu/cpu.h"

/* Row-wise normalisations. Sums run in 16 lanes, added up in double at the end: exact enough for any width and the same
 * on every instruction set. */

enum { LANES = 16, ROWS = 64 };

static inline __attribute__((always_inline)) double sum_of(const float *x, int64_t n)
{
    float lane[LANES] = { 0 };
    double s = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += x[i + l];
    for (int l = 0; l < LANES; l++)
        s += lane[l];
    for (; i < n; i++)
        s += x[i];
    return s;
}

static inline __attribute__((always_inline)) double squares_about(const float *x, float mean, int64_t n)
{
    float lane[LANES] = { 0 };
    double s = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            lane[l] += (x[i + l] - mean) * (x[i + l] - mean);
    for (int l = 0; l < LANES; l++)
        s += lane[l];
    for (; i < n; i++)
        s += (double)(x[i] - mean) * (x[i] - mean);
    return s;
}

typedef struct {
    float *out;
    const float *x, *a, *b;       /* weight or scale, bias or shift */
    int64_t rows, width, rows_per_group;
    float eps;
    activation act;
    enum { LAYERNORM, LAYERNORM_MOD, RMSNORM, PIXEL_NORM } kind;
} norm_job;

CPU_CLONES static void norm_rows(const norm_job *j, int64_t r0, int64_t r1)
{
    int64_t n = j->width;
    for (int64_t r = r0; r < r1; r++) {
        const float *x = j->x + r * n;
        float *y = j->out + r * n;
        if (j->kind == RMSNORM) {
            float inv = 1.0f / sqrtf((float)(squares_about(x, 0, n) / (double)n) + j->eps);
            for (int64_t i = 0; i < n; i++)
                y[i] = x[i] * inv * j->a[i];
        } else if (j->kind == PIXEL_NORM) {
            float norm = sqrtf((float)squares_about(x, 0, n)), root = sqrtf((float)n);
            float inv = 1.0f / (norm > 1e-12f ? norm : 1e-12f);
            for (int64_t i = 0; i < n; i++)
                y[i] = x[i] * inv * root * j->a[i];
            if (j->act == ACT_SILU)
                for (int64_t i = 0; i < n; i++)
                    y[i] = cpu_silu(y[i]);
        } else {
            float mean = (float)(sum_of(x, n) / (double)n);
            float inv = 1.0f / sqrtf((float)(squares_about(x, mean, n) / (double)n) + j->eps);
            if (j->kind == LAYERNORM_MOD) {
                const float *scale = j->a + r / j->rows_per_group * n, *shift = j->b + r / j->rows_per_group * n;
                for (int64_t i = 0; i < n; i++)
                    y[i] = (x[i] - mean) * inv * (1.0f + scale[i]) + shift[i];
            } else if (j->a) {
                for (int64_t i = 0; i < n; i++)
                    y[i] = (x[i] - mean) * inv * j->a[i] + j->b[i];
            } else {
                for (int64_t i = 0; i < n; i++)
                    y[i] = (x[i] - mean) * inv;
            }
        }
    }
}

static void norm_piece(int64_t piece, int thread, void *arg)
{
    norm_job *j = arg;
    int64_t r1 = (piece + 1) * ROWS;
    (void)thread;
    norm_rows(j, piece * ROWS, r1 < j->rows ? r1 : j->rows);
}

static int run(norm_job *j)
{
    parallel_for((j->rows + ROWS - 1) / ROWS, norm_piece, j);
    return 0;
}

int cpu_layernorm(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e)
{
    (void)be, (void)e;
    norm_job j = { .out = out->data, .x = x->data, .a = w ? w->data : NULL, .b = b ? b->data : NULL,
                   .rows = tensor_nrows(x), .width = tensor_cols(x), .eps = eps, .kind = LAYERNORM };
    return run(&j);
}

int cpu_layernorm_mod(backend *be, tensor *out, const tensor *x, const tensor *scale, const tensor *shift, float eps, err *e)
{
    (void)be, (void)e;
    norm_job j = { .out = out->data, .x = x->data, .a = scale->data, .b = shift->data, .rows = tensor_nrows(x),
                   .width = tensor_cols(x), .rows_per_group = tensor_nrows(x) / tensor_nrows(scale), .eps = eps,
                   .kind = LAYERNORM_MOD };
    return run(&j);
}

int cpu_rmsnorm(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, err *e)
{
    (void)be, (void)e;
    norm_job j = { .out = out->data, .x = x->data, .a = w->data, .rows = tensor_nrows(x), .width = tensor_cols(x),
                   .eps = eps, .kind = RMSNORM };
    return run(&j);
}

int cpu_pixel_norm(backend *be, tensor *out, const tensor *x, const tensor *gamma, activation act, err *e)
{
    (void)be, (void)e;
    norm_job j = { .out = out->data, .x = x->data, .a = gamma->data, .rows = tensor_nrows(x), .width = tensor_cols(x),
                   .act = act, .kind = PIXEL_NORM };
    return run(&j);
}
