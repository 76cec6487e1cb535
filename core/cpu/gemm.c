#include <cblas.h>

#include "core/base/parallel.h"
#include "core/cpu/cpu.h"

/* out = act(x w^T + b), cut into tiles of ROWS x COLS of the output. The tile sizes are constants: a tile's sgemm sees the
 * same sizes whatever the number of threads. Weights of 16 bits are widened a panel at a time into scratch memory: the
 * cost is 1/ROWS of the products. */

enum { ROWS = 512, COLS = 64 };

typedef struct {
    backend *be;
    tensor *out;
    const tensor *x, *w, *bias;
    activation act;
    int64_t rows, cols, depth, col_tiles;
} linear_job;

CPU_CLONES static void finish_tile(float *y, int64_t ld, int64_t rows, int64_t cols, const float *bias, activation act)
{
    for (int64_t r = 0; r < rows; r++, y += ld) {
        if (bias)
            for (int64_t c = 0; c < cols; c++)
                y[c] += bias[c];
        if (act == ACT_GELU_TANH)
            for (int64_t c = 0; c < cols; c++)
                y[c] = cpu_gelu_tanh(y[c]);
        else if (act == ACT_SILU)
            for (int64_t c = 0; c < cols; c++)
                y[c] = cpu_silu(y[c]);
    }
}

static void linear_piece(int64_t piece, int thread, void *arg)
{
    linear_job *j = arg;
    int64_t r0 = piece / j->col_tiles * ROWS, c0 = piece % j->col_tiles * COLS;
    int64_t rows = j->rows - r0 < ROWS ? j->rows - r0 : ROWS;
    int64_t cols = j->cols - c0 < COLS ? j->cols - c0 : COLS;
    const float *w;
    if (j->w->dtype == DT_F32) {
        w = (const float *)j->w->data + c0 * j->depth;
    } else {
        float *panel = cpu_scratch(j->be, thread);
        dtype_to_f32(panel, (const char *)j->w->data + c0 * j->depth * (int64_t)dtype_size(j->w->dtype), j->w->dtype,
                     cols * j->depth);
        w = panel;
    }
    float *y = (float *)j->out->data + r0 * j->cols + c0;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)cols, (blasint)j->depth, 1.0f,
                (const float *)j->x->data + r0 * j->depth, (blasint)j->depth, w, (blasint)j->depth, 0.0f, y,
                (blasint)j->cols);
    finish_tile(y, j->cols, rows, cols, j->bias ? (const float *)j->bias->data + c0 : NULL, j->act);
}

int cpu_linear(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    linear_job j = { be, out, x, w, bias, act, tensor_nrows(x), w->shape[0], w->shape[1], 0 };
    if (x->dtype != DT_F32 || out->dtype != DT_F32 || (bias && bias->dtype != DT_F32))
        return ERR(e, ERR_INTERNAL, "linear: the CPU backend computes in F32");
    if (!j.rows || !j.cols)
        return 0;
    j.col_tiles = (j.cols + COLS - 1) / COLS;
    if (w->dtype != DT_F32) {
        int rc = cpu_need_scratch(be, (size_t)(COLS * j.depth) * 4, e);
        if (rc)
            return rc;
    }
    parallel_for((j.rows + ROWS - 1) / ROWS * j.col_tiles, linear_piece, &j);
    return 0;
}
