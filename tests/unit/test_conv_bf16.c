/* The VAE in bf16: its convolutions against a double reference of the rounded inputs, its other ops, and a whole encode and decode
 * against f32. For a GPU (TEST_DEVICE=cuda); skipped on a backend without bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend.h"
#include "core/base/parallel.h"
#include "core/vae/vae.h"
#include "tests/unit/vae_fixture.h"

static backend *be;
static uint64_t rng = 88172645463325252ull;

#define DO(call) do { err e_ = { 0 }, *e = &e_; (void)e; if (call) fail_msg("%s", e_.text); } while (0)

static float *values(int64_t n, float scale, dtype type)
{
    float *v = malloc((size_t)n * sizeof *v);
    uint16_t narrow;
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        v[i] = (float)((double)(rng >> 11) / 9007199254740992.0 * 2 - 1) * scale;
        if (type == DT_BF16) {      /* what the type can hold is what both sides compute with */
            dtype_from_f32(&narrow, DT_BF16, &v[i], 1);
            dtype_to_f32(&v[i], &narrow, DT_BF16, 1);
        }
    }
    return v;
}

static tensor put(const float *host, dtype type, int ndim, const int64_t *shape)
{
    tensor t;
    DO(tensor_new(&t, be, type, ndim, shape, e));
    DO(op_upload_f32(&t, host, e));
    return t;
}
#define PUT(host, type, ...) put((host), (type), (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / 8), (int64_t[]){ __VA_ARGS__ })

static tensor poisoned(dtype type, int ndim, const int64_t *shape)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++)
        n *= shape[i];
    float *host = malloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = NAN;
    tensor t = put(host, type, ndim, shape);
    free(host);
    return t;
}
#define OUT(type, ...) poisoned((type), (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / 8), (int64_t[]){ __VA_ARGS__ })

/* One rounding to the type of t, and `noise` of the largest value for the f32 arithmetic before it. */
static void check(const char *what, const tensor *t, const double *ref, double noise)
{
    int64_t n = tensor_count(t), at = -1;
    float *host = malloc((size_t)n * sizeof *host);
    double worst = 0, largest = 0, ulp = t->dtype == DT_BF16 ? 0x1p-7 : 0x1p-23;
    DO(op_download_f32(host, t, e));
    for (int64_t i = 0; i < n; i++)
        largest = fabs(ref[i]) > largest ? fabs(ref[i]) : largest;
    for (int64_t i = 0; i < n; i++) {
        double excess = fabs(host[i] - ref[i]) / (0.51 * ulp * fabs(ref[i]) + noise * largest + 1e-30);
        if (!(excess <= worst)) {
            worst = excess;
            at = i;
        }
    }
    if (!(worst <= 1))
        fail_msg("%s on %s: element %lld is %.9g, reference %.9g (%.2f times what rounding explains)", what, be->device, (long long)at, (double)host[at], ref[at],
                 worst);
    free(host);
}

/* ---- convolutions ---- */

static const struct conv_case {
    const char *what;
    int64_t T, past, before, H, W, cin, cout;
    int kt, k, n_past, st, s, pad;
    bool up, residual, f32, norm;
} conv_cases[] = {
    { "stage 3", 1, 1, 1, 26, 37, 96, 96, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "stage 3, no history", 2, 0, 0, 24, 16, 96, 96, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "stage 2", 1, 1, 1, 17, 33, 192, 192, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "stage 2, one frame of history", 3, 1, 0, 16, 16, 192, 192, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "stage 1", 2, 2, 0, 9, 26, 384, 384, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "stage 1, large", 2, 2, 0, 121, 120, 64, 384, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "stage 0", 1, 1, 1, 15, 13, 384, 384, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "192 to 384", 1, 2, 0, 8, 25, 192, 384, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "96 to 192", 1, 0, 0, 25, 8, 96, 192, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "one pixel", 1, 2, 0, 1, 1, 64, 64, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "first", 1, 1, 1, 15, 26, 16, 384, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "96, norm", 1, 1, 1, 30, 33, 96, 96, 3, 3, 2, 1, 1, 1, false, false, false, true },
    { "96 to 192, norm", 1, 1, 1, 15, 17, 96, 192, 3, 3, 2, 1, 1, 1, false, false, false, true },
    { "192, norm", 2, 1, 0, 15, 17, 192, 192, 3, 3, 2, 1, 1, 1, false, false, false, true },
    { "192, norm and residual", 1, 1, 0, 15, 17, 192, 192, 3, 3, 2, 1, 1, 1, false, true, false, true },
    { "384, norm", 1, 1, 0, 15, 17, 384, 384, 3, 3, 2, 1, 1, 1, false, false, false, true },
    { "odd channels, norm", 1, 1, 0, 9, 7, 12, 6, 3, 3, 2, 1, 1, 1, false, true, false, true },
    { "head", 1, 1, 1, 30, 33, 96, 3, 3, 3, 2, 1, 1, 1, false, false, true, false },
    { "head, chunk", 4, 2, 0, 25, 17, 96, 3, 3, 3, 2, 1, 1, 1, false, false, true, false },
    { "head of the encoder", 1, 1, 0, 8, 13, 384, 32, 3, 3, 2, 1, 1, 1, false, false, true, false },
    { "enlarged 384 to 192", 2, 0, 0, 8, 13, 384, 192, 1, 3, 0, 1, 1, 1, true, false, false, false },
    { "enlarged 192 to 96", 1, 0, 0, 25, 17, 192, 96, 1, 3, 0, 1, 1, 1, true, false, false, false },
    { "enlarged with a residual", 1, 0, 0, 5, 7, 64, 64, 1, 3, 0, 1, 1, 1, true, true, false, false },
    { "over time", 2, 2, 0, 17, 18, 384, 768, 3, 1, 2, 1, 1, 0, false, false, false, false },
    { "over time, no history", 1, 0, 0, 5, 7, 64, 128, 3, 1, 2, 1, 1, 0, false, false, false, false },
    { "half the size", 2, 0, 0, 16, 18, 96, 96, 1, 3, 0, 1, 2, 0, false, false, false, false },
    { "half the rate", 4, 1, 0, 5, 6, 192, 192, 3, 1, 1, 2, 1, 0, false, false, false, false },
    { "half the rate, three frames", 2, 1, 0, 5, 6, 192, 192, 3, 1, 1, 2, 1, 0, false, false, false, false },
    { "3 to 96", 2, 1, 0, 16, 17, 3, 96, 3, 3, 2, 1, 1, 1, false, false, false, false },
    { "odd channels 6 to 12", 2, 1, 1, 7, 9, 6, 12, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "odd channels 12 to 3", 1, 2, 0, 7, 9, 12, 3, 3, 3, 2, 1, 1, 1, false, false, true, false },
    { "odd channels enlarged", 2, 0, 0, 5, 3, 12, 6, 1, 3, 0, 1, 1, 1, true, false, false, false },
    { "odd channels over time", 2, 1, 0, 5, 3, 5, 10, 3, 1, 2, 1, 1, 0, false, false, false, false },
    { "40 to 72", 1, 2, 0, 11, 10, 40, 72, 3, 3, 2, 1, 1, 1, false, true, false, false },
    { "32 to 40", 1, 2, 0, 11, 10, 32, 40, 3, 3, 2, 1, 1, 1, false, true, false, false },
};

typedef struct conv_ref {
    const struct conv_case *c;
    const float *x, *past, *before, *w, *b, *res;
    double *out;
    int64_t To, Ho, Wo;
} conv_ref;

static void ref_row(int64_t i, int thread, void *arg)
{
    const conv_ref *r = arg;
    const struct conv_case *c = r->c;
    int64_t t = i / r->Ho, y = i % r->Ho, frame = c->H * c->W * c->cin, up = c->up ? 2 : 1;
    (void)thread;
    for (int64_t x = 0; x < r->Wo; x++)
        for (int64_t o = 0; o < c->cout; o++) {
            int64_t to = (i * r->Wo + x) * c->cout + o;
            double s = r->b[o] + (r->res ? (double)r->res[to] : 0);
            for (int a = 0; a < c->kt; a++)
                for (int dy = 0; dy < c->k; dy++)
                    for (int dx = 0; dx < c->k; dx++) {
                        int64_t it = t * c->st + a - c->n_past, iy = y * c->s + dy - c->pad, ix = x * c->s + dx - c->pad;
                        const float *f = it >= 0 ? r->x + it * frame : it >= -c->past ? r->past + (it + c->past) * frame
                                       : it >= -c->past - c->before ? r->before + (it + c->past + c->before) * frame : NULL;
                        if (!f || iy < 0 || ix < 0 || iy >= c->H * up || ix >= c->W * up)
                            continue;
                        f += (iy / up * c->W + ix / up) * c->cin;
                        const float *w = r->w + (((o * c->kt + a) * c->k + dy) * c->k + dx) * c->cin;
                        for (int64_t k = 0; k < c->cin; k++)
                            s += (double)f[k] * (double)w[k];
                    }
            r->out[to] = s;
        }
}

static void test_conv(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof conv_cases / sizeof *conv_cases; i++) {
        const struct conv_case *c = &conv_cases[i];
        int64_t up = c->up ? 2 : 1, To = c->st == 1 ? c->T : (c->T + c->past - c->kt) / c->st + 1, Ho = c->H * up / c->s, Wo = c->W * up / c->s;
        int64_t frame = c->H * c->W * c->cin, n_out = To * Ho * Wo * c->cout, depth = (int64_t)c->kt * c->k * c->k * c->cin;
        float *x = values(c->T * frame, 1, DT_BF16), *past = values(c->past * frame, 1, DT_BF16), *before = values(c->before * frame, 1, DT_BF16);
        float *w = values(c->cout * depth, 1.7f / sqrtf((float)depth), DT_BF16), *b = values(c->cout, 1, DT_F32), *res = values(n_out, 1, DT_BF16);
        tensor tx = PUT(x, DT_BF16, c->T, c->H, c->W, c->cin), tw = PUT(w, DT_BF16, c->cout, c->kt, c->k, c->k, c->cin), tb = PUT(b, DT_F32, c->cout);
        tensor tp = { 0 }, tbefore = { 0 }, tr = PUT(res, DT_BF16, To, Ho, Wo, c->cout), out = OUT(c->f32 ? DT_F32 : DT_BF16, To, Ho, Wo, c->cout);
        if (c->past)
            tp = PUT(past, DT_BF16, c->past, c->H, c->W, c->cin);
        if (c->before)
            tbefore = PUT(before, DT_BF16, c->before, c->H, c->W, c->cin);
        conv_args a = { .out = &out, .x = &tx, .past = c->past ? &tp : NULL, .before = c->before ? &tbefore : NULL, .w = &tw, .bias = &tb,
                        .residual = c->residual ? &tr : NULL, .n_past = c->n_past, .stride_t = c->st, .stride_h = c->s, .stride_w = c->s,
                        .pad_h = c->pad, .pad_w = c->pad, .upsample2x = c->up };
        float *gamma = values(c->cout, 1, DT_F32);
        tensor tg = PUT(gamma, DT_F32, c->cout);
        if (c->norm) {
            a.norm = &tg;
            a.act = ACT_SILU;
        }
        tensor tu = { 0 };
        if (c->up) {      /* sixteenths: their sums have no rounding, so that summed taps give what the single ones give */
            for (int64_t k = 0; k < c->cout * depth; k++)
                w[k] = roundf(w[k] * 7 * sqrtf((float)depth) / 1.7f) / 16;
            DO(op_upload_f32(&tw, w, e));
            float *sums = calloc((size_t)(16 * c->cout * c->cin), sizeof *sums);
            for (int64_t o = 0; o < c->cout; o++)
                for (int phase = 0; phase < 4; phase++)
                    for (int tap = 0; tap < 9; tap++)
                        for (int64_t k = 0; k < c->cin; k++) {
                            int row = (phase / 2 + tap / 3 + 1) / 2 - phase / 2, column = (phase % 2 + tap % 3 + 1) / 2 - phase % 2;
                            sums[((o * 4 + phase) * 4 + row * 2 + column) * c->cin + k] += w[(o * 9 + tap) * c->cin + k];
                        }
            tu = PUT(sums, DT_BF16, c->cout, 4, 2, 2, c->cin);
            free(sums);
        }
        conv_ref r = { c, x, past, before, w, b, c->residual ? res : NULL, malloc((size_t)n_out * sizeof(double)), To, Ho, Wo };
        DO(op_conv(&a, e));
        parallel_for(To * Ho, ref_row, &r);
        for (int64_t p = 0; p < To * Ho * Wo && c->norm; p++) {
            double sq = 0, *y = r.out + p * c->cout;
            for (int64_t k = 0; k < c->cout; k++)
                sq += y[k] * y[k];
            for (int64_t k = 0; k < c->cout; k++) {
                double v = y[k] / fmax(sqrt(sq), 1e-12) * sqrt((double)c->cout) * (double)gamma[k];
                y[k] = v / (1 + exp(-v));
            }
        }
        char what[80];
        snprintf(what, sizeof what, "conv '%s'", c->what);
        /* tensor cores cut what does not fit behind the largest addend, up to 2^-23 of the sum so far for each step of 16 along K */
        /* before a norm that is not fused the values are rounded once more, by up to 2^-8 of each; the slope of silu is at most 1.1 */
        check(what, &out, r.out, 1e-6 + (double)depth / 16 * 0x1p-24 + (c->norm ? 1.1 * 0x1p-8 : 0));
        if (c->up) {
            a.w_up = &tu;
            DO(op_conv(&a, e));
            snprintf(what, sizeof what, "conv '%s' with summed taps", c->what);
            check(what, &out, r.out, 1e-6 + (double)depth / 16 * 0x1p-24);
        }
        free(r.out);
        for (float **p = (float *[]){ x, past, before, w, b, res, gamma, NULL }; *p; p++)
            free(*p);
        tensor *all[] = { &tx, &tw, &tb, &tp, &tbefore, &tr, &out, &tg, &tu };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            tensor_free(all[k]);
    }
}

/* A frame comes out the same whether it goes alone, with its history in two tensors, or with others. */
static void test_chunks(void **state)
{
    enum { T = 4, H = 24, W = 40 };
    static const int64_t channels[] = { 96, 192, 384 };
    (void)state;
    for (int i = 0; i < 3; i++) {
        int64_t C = channels[i], depth = 27 * C, n = H * W * C;
        float *x = values((T + 2) * n, 1, DT_BF16), *w = values(C * depth, 1.7f / sqrtf((float)depth), DT_BF16), *b = values(C, 1, DT_F32);
        tensor tx = PUT(x, DT_BF16, T + 2, H, W, C), tw = PUT(w, DT_BF16, C, 3, 3, 3, C), tb = PUT(b, DT_F32, C);
        tensor together = OUT(DT_BF16, T, H, W, C), alone = OUT(DT_BF16, T, H, W, C);
        tensor first = tensor_rows(&tx, 0, 2), rest = tensor_rows(&tx, 2, T);
        conv_args a = { .out = &together, .x = &rest, .past = &first, .w = &tw, .bias = &tb, .n_past = 2, .stride_t = 1, .stride_h = 1, .stride_w = 1,
                        .pad_h = 1, .pad_w = 1 };
        DO(op_conv(&a, e));
        for (int64_t t = 0; t < T; t++) {
            tensor to = tensor_rows(&alone, t, 1), x0 = tensor_rows(&tx, t + 2, 1), x1 = tensor_rows(&tx, t + 1, 1), x2 = tensor_rows(&tx, t, 1);
            a.out = &to;
            a.x = &x0;
            a.past = &x1;
            a.before = &x2;
            DO(op_conv(&a, e));
        }
        uint16_t *h1 = malloc((size_t)(T * n) * 2), *h2 = malloc((size_t)(T * n) * 2);
        DO(op_download(h1, &together, e));
        DO(op_download(h2, &alone, e));
        assert_memory_equal(h1, h2, (size_t)(T * n) * 2);
        for (void **p = (void *[]){ x, w, b, h1, h2, NULL }; *p; p++)
            free(*p);
        tensor *all[] = { &tx, &tw, &tb, &together, &alone };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            tensor_free(all[k]);
    }
}

/* ---- the other ops ---- */

static void test_pixel_norm(void **state)
{
    static const int64_t widths[] = { 6, 12, 96, 100, 192, 384 };
    (void)state;
    for (int i = 0; i < 6; i++)
        for (int act = 0; act < 2; act++)
            for (int in_place = 0; in_place < 2; in_place++) {
                int64_t C = widths[i], rows = 1013;
                float *x = values(rows * C, 2, DT_BF16), *g = values(C, 1, DT_F32);
                double *ref = malloc((size_t)(rows * C) * sizeof *ref);
                for (int64_t c = 0; c < C; c++)
                    x[5 * C + c] = 0;      /* a black pixel stays zero */
                for (int64_t r = 0; r < rows; r++) {
                    double sq = 0;
                    for (int64_t c = 0; c < C; c++)
                        sq += (double)x[r * C + c] * (double)x[r * C + c];
                    for (int64_t c = 0; c < C; c++) {
                        double v = (double)x[r * C + c] / fmax(sqrt(sq), 1e-12) * sqrt((double)C) * (double)g[c];
                        ref[r * C + c] = act ? v / (1 + exp(-v)) : v;
                    }
                }
                tensor tx = PUT(x, DT_BF16, rows, C), tg = PUT(g, DT_F32, C), out = OUT(DT_BF16, rows, C);
                DO(op_pixel_norm(in_place ? &tx : &out, &tx, &tg, act ? ACT_SILU : ACT_NONE, e));
                check(act ? "pixel_norm with silu" : "pixel_norm", in_place ? &tx : &out, ref, 2e-6);
                free(x);
                free(g);
                free(ref);
                tensor_free(&tx);
                tensor_free(&tg);
                tensor_free(&out);
            }
}

static void test_attention_wide(void **state)
{
    static const struct { int64_t Lq, Lk, D; int heads; bool segments, lse; } cases[] = {
        { 70, 70, 384, 1, false, true }, { 1300, 260, 384, 1, false, false }, { 150, 150, 192, 2, true, true }, { 33, 33, 136, 1, true, false },
    };
    (void)state;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int64_t Lq = cases[k].Lq, Lk = cases[k].Lk, D = cases[k].D, width = D * cases[k].heads;
        float *q = values(Lq * width, 1.7f, DT_BF16), *kk = values(Lk * width, 1.7f, DT_BF16), *v = values(Lk * width, 1, DT_BF16);
        double *ref = malloc((size_t)(Lq * width) * sizeof *ref), *lse = malloc((size_t)(Lq * cases[k].heads) * sizeof *lse), *s = malloc((size_t)(2 * Lk) * sizeof *s);
        attn_range ranges[2] = { { 0, Lk / 2 }, { Lk / 3, Lk } }, own = { 3, Lk };      /* the first segment sees some keys twice */
        attn_segment segments[2] = { { 0, Lq / 2, 2, ranges }, { Lq / 2, Lq, 1, &own } };
        attn_range whole = { 0, Lk };
        attn_segment all = { 0, Lq, 1, &whole };
        int n = cases[k].segments ? 2 : 1;
        for (int g = 0; g < n; g++) {
            const attn_segment *seg = cases[k].segments ? &segments[g] : &all;
            for (int h = 0; h < cases[k].heads; h++)
                for (int64_t i = seg->q_begin; i < seg->q_end; i++) {
                    int64_t at = 0;
                    double top = -INFINITY, sum = 0;
                    for (int r = 0; r < seg->n_ranges; r++)
                        for (int64_t j = seg->ranges[r].begin; j < seg->ranges[r].end; j++, at++) {
                            s[at] = 0;
                            for (int64_t d = 0; d < D; d++)
                                s[at] += (double)q[i * width + h * D + d] * (double)kk[j * width + h * D + d];
                            s[at] *= (double)(1.0f / sqrtf((float)D));
                            top = fmax(top, s[at]);
                        }
                    for (int64_t j = 0; j < at; j++)
                        sum += exp(s[j] - top);
                    lse[h * Lq + i] = top + log(sum);
                    for (int64_t d = 0; d < D; d++) {
                        double o = 0;
                        at = 0;
                        for (int r = 0; r < seg->n_ranges; r++)
                            for (int64_t j = seg->ranges[r].begin; j < seg->ranges[r].end; j++, at++)
                                o += exp(s[at] - top) / sum * (double)v[j * width + h * D + d];
                        ref[i * width + h * D + d] = o;
                    }
                }
        }
        tensor tq = PUT(q, DT_BF16, Lq, width), tk = PUT(kk, DT_BF16, Lk, width), tv = PUT(v, DT_BF16, Lk, width), out = OUT(DT_BF16, Lq, width);
        tensor tl = OUT(DT_F32, cases[k].heads, Lq);
        attn_args a = { .out = &out, .q = &tq, .k = &tk, .v = &tv, .n_heads = cases[k].heads, .scale = 1.0f / sqrtf((float)D), .lse = cases[k].lse ? &tl : NULL };
        if (cases[k].segments)
            a.plan = (attn_plan){ 2, segments };
        DO(op_attention(&a, e));
        check("attention of wide heads", &out, ref, 4e-3);      /* probabilities are rounded to bf16: 2^-9 of the largest */
        if (cases[k].lse)
            check("its log-sum-exp", &tl, lse, 2e-6);
        for (void **p = (void *[]){ q, kk, v, ref, lse, s, NULL }; *p; p++)
            free(*p);
        tensor *every[] = { &tq, &tk, &tv, &out, &tl };
        for (size_t i = 0; i < sizeof every / sizeof *every; i++)
            tensor_free(every[i]);
    }
}

static void test_layouts(void **state)
{
    enum { T = 2, H = 3, W = 5 };
    (void)state;
    for (int64_t C = 3; C <= 8; C += 5) {
        int64_t n = T * H * W * 2 * C;
        float *x = values(n, 1, DT_BF16);
        double *ref = malloc((size_t)n * sizeof *ref);
        for (int64_t i = 0; i < n; i++) {
            int64_t c = i % C, p = i / C % (H * W), t = i / C / (H * W);
            ref[i] = x[((t / 2 * H * W + p) * 2 + t % 2) * C + c];
        }
        tensor tx = PUT(x, DT_BF16, T, H, W, 2 * C), out = OUT(DT_BF16, 2 * T, H, W, C);
        DO(op_time_interleave(&out, &tx, e));
        check("time_interleave", &out, ref, 0);
        tensor first = tensor_reshape(&tx, 4, (int64_t[]){ T * 2, H, W, C }), planes = OUT(DT_F32, C, T * 2, H, W), last = OUT(DT_BF16, T * 2, H, W, C);
        DO(op_to_channels_first(&planes, &first, NULL, NULL, e));
        DO(op_to_channels_last(&last, &planes, NULL, NULL, e));
        for (int64_t i = 0; i < n; i++)
            ref[i] = x[i];
        check("to_channels_first and last", &last, ref, 0);
        free(x);
        free(ref);
        tensor_free(&tx);
        tensor_free(&out);
        tensor_free(&planes);
        tensor_free(&last);
    }
}

/* ---- the whole VAE ---- */

static double psnr(const float *a, const float *b, int64_t n)
{
    double se = 0;
    for (int64_t i = 0; i < n; i++) {
        double x = fmin(fmax(a[i], -1), 1), y = fmin(fmax(b[i], -1), 1);
        se += (x - y) * (x - y);
    }
    return 10 * log10(4 / (se / (double)n + 1e-30));
}

static int count_frames(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    uint8_t *all = user;
    (void)e;
    memcpy(all + index * width * height * 3, rgb, (size_t)width * (size_t)height * 3);
    return 0;
}

static void whole(int64_t dim, int64_t F, int64_t h, int64_t w, double limit)
{
    const char *tmp = getenv("TEST_TMP");
    char path[512];
    snprintf(path, sizeof path, "%s/vae-%lld.safetensors", tmp ? tmp : "/tmp", (long long)dim);
    DO(vae_fix_write(path, dim, DT_BF16, e));
    const char *names[2] = { "exact", "bf16" };
    int64_t n_z = 16 * F * h * w, frames = 4 * (F - 1) + 1, n_px = 3 * frames * 64 * h * w;
    float *z = values(n_z, 1, DT_F32), *video[2], *latents[2];
    ckpt *c;
    DO(ckpt_open(&c, path, e));
    for (int i = 0; i < 2; i++) {
        const precision *prec;
        vae *v;
        vae_stream *s;
        tensor tz = PUT(z, DT_F32, 16, F, h, w), px = OUT(DT_F32, 3, frames, 8 * h, 8 * w), back = OUT(DT_F32, 16, F, h, w);
        video[i] = malloc((size_t)n_px * sizeof(float));
        latents[i] = malloc((size_t)n_z * sizeof(float));
        DO(precision_find(&prec, names[i], e));
        DO(vae_open(&v, be, c, prec, e));
        DO(vae_decode(v, &tz, 1, &px, e));
        DO(op_download(video[i], &px, e));
        /* the encoder gets the same pixels both times */
        if (i == 1)
            DO(op_upload(&px, video[0], e));
        DO(vae_encode(v, &px, &back, e));
        DO(op_download(latents[i], &back, e));
        /* as bytes: the rounding of vae_decode's values, in order, and in pieces the same as in one go */
        uint8_t *rgb = malloc((size_t)n_px), *pieces = malloc((size_t)n_px);
        int64_t index = 0;
        DO(vae_decoder_new(&s, v, e));
        DO(vae_decode_rgb(s, &tz, &index, count_frames, rgb, e));
        vae_stream_free(s);
        assert_int_equal(index, frames);
        for (int64_t k = 0; k < n_px; k++) {
            int64_t ch = k % 3, p = k / 3;
            float value = video[i][ch * (n_px / 3) + p];
            value = value < -1 ? -1 : value > 1 ? 1 : value;
            if (rgb[k] != (uint8_t)((value + 1) / 2 * 255))
                fail_msg("byte %lld is %d for %.9g", (long long)k, rgb[k], (double)value);
        }
        DO(vae_decoder_new(&s, v, e));
        index = 0;
        for (int64_t f = 0; f < F; f++) {
            float *one = malloc((size_t)(n_z / F) * sizeof *one);
            for (int64_t ch = 0; ch < 16; ch++)
                memcpy(one + ch * h * w, z + (ch * F + f) * h * w, (size_t)(h * w) * sizeof *one);
            tensor tf = PUT(one, DT_F32, 16, 1, h, w);
            DO(vae_decode_rgb(s, &tf, &index, count_frames, pieces, e));
            tensor_free(&tf);
            free(one);
        }
        vae_stream_free(s);
        assert_memory_equal(rgb, pieces, (size_t)n_px);
        free(rgb);
        free(pieces);
        vae_close(v);
        tensor_free(&tz);
        tensor_free(&px);
        tensor_free(&back);
    }
    double se = 0, sum = 0, decoded = psnr(video[1], video[0], n_px);
    for (int64_t i = 0; i < n_z; i++) {
        se += ((double)latents[1][i] - (double)latents[0][i]) * ((double)latents[1][i] - (double)latents[0][i]);
        sum += (double)latents[0][i] * (double)latents[0][i];
    }
    print_message("VAE of %lld channels, %lld frames of %lld x %lld, random weights: bf16 against f32, decode PSNR %.1f dB, encode %.2e of the latents\n",
                  (long long)dim, (long long)frames, (long long)(8 * w), (long long)(8 * h), decoded, sqrt(se / sum));
    assert_true(decoded > limit);
    assert_true(sqrt(se / sum) < 0.05);
    for (int i = 0; i < 2; i++) {
        free(video[i]);
        free(latents[i]);
    }
    free(z);
    ckpt_close(c);
    remove(path);
}

static void test_whole(void **state)
{
    (void)state;
    whole(96, 3, 8, 10, 30);
}

static void test_whole_odd(void **state)
{
    (void)state;
    whole(6, 3, 5, 7, 30);      /* 6, 12 and 24 channels: no tensor-core tile fits */
}

/* A NaN in the latents ends the decoding with a sentence, and frames before it are handed out. */
static void test_nan(void **state)
{
    const char *tmp = getenv("TEST_TMP");
    char path[512];
    const precision *prec;
    ckpt *c;
    vae *v;
    vae_stream *s;
    err e = { 0 };
    (void)state;
    snprintf(path, sizeof path, "%s/vae-nan.safetensors", tmp ? tmp : "/tmp");
    DO(vae_fix_write(path, 6, DT_F32, e));
    DO(ckpt_open(&c, path, e));
    DO(precision_find(&prec, "bf16", e));
    DO(vae_open(&v, be, c, prec, e));
    float *z = values(16 * 3 * 16, 1, DT_F32);
    uint8_t rgb[9 * 32 * 32 * 3];
    z[2 * 16 + 3] = NAN;      /* the third latent frame: pictures 5 to 8 */
    tensor tz = PUT(z, DT_F32, 16, 3, 4, 4);
    int64_t index = 0;
    DO(vae_decoder_new(&s, v, e));
    assert_int_equal(vae_decode_rgb(s, &tz, &index, count_frames, rgb, &e), ERR_NAN);
    assert_int_equal(index, 5);
    assert_non_null(strstr(e.text, "NaN in frame 5"));
    vae_stream_free(s);
    tensor_free(&tz);
    free(z);
    vae_close(v);
    ckpt_close(c);
    remove(path);
}

int main(void)
{
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (backend_open(&be, device && *device ? device : "cpu", &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    if (!be->ops->bf16) {
        printf("1..1\nok 1 - bf16 # SKIP %s computes in f32 only; TEST_DEVICE=cuda\n", be->device);
        backend_close(be);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_conv), cmocka_unit_test(test_chunks), cmocka_unit_test(test_pixel_norm), cmocka_unit_test(test_attention_wide),
        cmocka_unit_test(test_layouts), cmocka_unit_test(test_whole_odd), cmocka_unit_test(test_whole), cmocka_unit_test(test_nan),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    return rc;
}
