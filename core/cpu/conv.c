#include <cblas.h>

#include "core/base/parallel.h"
#include "core/cpu/cpu.h"

/* Convolution over channels-last frames: tiles of PT output pixels of one frame are gathered (im2col, runs of whole
 * channels) and multiplied with the weights. Frames before the clip are zeros: their taps are a prefix of the depth and are
 * left out of the product. */

enum { PT = 128 };

typedef struct {
    const conv_args *a;
    int64_t kt, kh, kw, cin, cout, tiles;
} conv_job;

static const float *frame(const conv_args *a, int64_t t)
{
    int64_t size = a->x->shape[1] * a->x->shape[2] * a->x->shape[3];
    if (t >= 0)
        return (const float *)a->x->data + t * size;
    t += a->past ? a->past->shape[0] : 0;
    if (t >= 0)
        return (const float *)a->past->data + t * size;
    t += a->before ? a->before->shape[0] : 0;
    return t >= 0 ? (const float *)a->before->data + t * size : NULL;
}

static void gather(const conv_job *j, const float *in, int64_t oy, int64_t ox, float *to)
{
    const conv_args *a = j->a;
    int64_t H = a->x->shape[1], W = a->x->shape[2], C = j->cin;
    int64_t up = a->upsample2x ? 2 : 1;
    for (int64_t ky = 0; ky < j->kh; ky++) {
        int64_t y = oy * a->stride_h + ky - a->pad_h, x0 = ox * a->stride_w - a->pad_w;
        if (y < 0 || y >= H * up) {
            memset(to, 0, (size_t)(j->kw * C) * 4);
            to += j->kw * C;
        } else if (up == 1 && x0 >= 0 && x0 + j->kw <= W) {
            memcpy(to, in + (y * W + x0) * C, (size_t)(j->kw * C) * 4);
            to += j->kw * C;
        } else {
            for (int64_t kx = 0; kx < j->kw; kx++, to += C) {
                int64_t x = x0 + kx;
                if (x < 0 || x >= W * up)
                    memset(to, 0, (size_t)C * 4);
                else
                    memcpy(to, in + (y / up * W + x / up) * C, (size_t)C * 4);
            }
        }
    }
}

CPU_CLONES static void finish(float *y, int64_t rows, int64_t cols, const float *bias, const float *residual)
{
    for (int64_t r = 0; r < rows; r++, y += cols) {
        for (int64_t c = 0; c < cols; c++)
            y[c] += bias[c];
        if (residual) {
            for (int64_t c = 0; c < cols; c++)
                y[c] += residual[c];
            residual += cols;
        }
    }
}

static void conv_piece(int64_t piece, int thread, void *arg)
{
    conv_job *j = arg;
    const conv_args *a = j->a;
    int64_t t = piece / j->tiles, p0 = piece % j->tiles * PT, Wo = a->out->shape[2], pixels = a->out->shape[1] * Wo;
    int64_t rows = pixels - p0 < PT ? pixels - p0 : PT, plane = j->kh * j->kw * j->cin, depth = j->kt * plane, skip = 0;
    int64_t t0 = t * a->stride_t - a->n_past;
    while (skip < j->kt && !frame(a, t0 + skip))
        skip++;
    float *cols = cpu_scratch(a->out->be, thread), *y = (float *)a->out->data + (t * pixels + p0) * j->cout;
    int64_t used = depth - skip * plane;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = skip; k < j->kt; k++)
            gather(j, frame(a, t0 + k), (p0 + r) / Wo, (p0 + r) % Wo, cols + r * used + (k - skip) * plane);
    if (used)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)j->cout, (blasint)used, 1.0f, cols,
                    (blasint)used, (const float *)a->w->data + skip * plane, (blasint)depth, 0.0f, y, (blasint)j->cout);
    else
        memset(y, 0, (size_t)(rows * j->cout) * 4);
    finish(y, rows, j->cout, a->bias->data,
           a->residual ? (const float *)a->residual->data + (t * pixels + p0) * j->cout : NULL);
}

int cpu_conv(backend *be, const conv_args *a, err *e)
{
    conv_job j = { a, a->w->shape[1], a->w->shape[2], a->w->shape[3], a->w->shape[4], a->w->shape[0], 0 };
    j.tiles = (a->out->shape[1] * a->out->shape[2] + PT - 1) / PT;
    int rc = cpu_need_scratch(be, (size_t)(PT * j.kt * j.kh * j.kw * j.cin) * 4, e);
    if (!rc)
        parallel_for(a->out->shape[0] * j.tiles, conv_piece, &j);
    return rc || !a->norm ? rc : cpu_pixel_norm(be, a->out, a->out, a->norm, a->act, e);
}
