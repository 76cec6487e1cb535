/* Every op against a plain double-precision reference, one case list for every backend (TEST_DEVICE, default cpu).
 * Random inputs are drawn afresh for each case and outputs are poisoned with NaN first. A row that fails is printed. */
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
#include "core/text/umt5.h"

static backend *be;
static uint64_t rng = 88172645463325252ull;

static float uniform(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (float)((double)(rng >> 11) / 9007199254740992.0 * 2 - 1);
}

static float *values(int64_t n, float scale)
{
    float *v = malloc((size_t)n * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++)
        v[i] = uniform() * scale;
    return v;
}

static tensor on_device(const float *host, dtype type, int ndim, const int64_t *shape)
{
    tensor t;
    err e = { 0 };
    assert_int_equal(tensor_new(&t, be, type, ndim, shape, &e), 0);
    assert_int_equal(op_upload_f32(&t, host, &e), 0);
    return t;
}
#define DEV(host, ...) on_device(host, DT_F32, (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__})

static tensor poisoned(int ndim, const int64_t *shape)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++)
        n *= shape[i];
    float *host = malloc((size_t)n * sizeof *host);
    for (int64_t i = 0; i < n; i++)
        host[i] = NAN;
    tensor t = on_device(host, DT_F32, ndim, shape);
    free(host);
    return t;
}
#define OUT(...) poisoned((int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__})

/* largest difference over the largest reference value; frees nothing */
static void close_to(const char *what, const tensor *t, const double *ref, double tolerance)
{
    err e = { 0 };
    int64_t n = tensor_count(t), at = -1;
    float *host = malloc((size_t)n * sizeof *host);
    double worst = 0, largest = 1e-30;
    assert_int_equal(op_download_f32(host, t, &e), 0);
    for (int64_t i = 0; i < n; i++) {
        double d = fabs(host[i] - ref[i]);
        largest = fabs(ref[i]) > largest ? fabs(ref[i]) : largest;
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
    }
    if (!(worst / largest <= tolerance))
        fail_msg("%s on %s: element %lld is %.9g, reference %.9g (relative %.2e, tolerance %.0e)", what, be->device, (long long)at,
                 (double)host[at], ref[at], worst / largest, tolerance);
    free(host);
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static double silu(double x)
{
    return x / (1 + exp(-x));
}

/* ---- linear ---- */

static const struct { int64_t rows, depth, cols; dtype weight; bool bias; activation act; } linear_cases[] = {
    { 1, 1, 1, DT_F32, true, ACT_NONE },        { 1, 256, 1536, DT_F32, true, ACT_SILU },
    { 3, 17, 65, DT_F32, true, ACT_GELU_TANH }, { 513, 96, 64, DT_F32, false, ACT_NONE },
    { 1025, 33, 129, DT_F32, true, ACT_NONE },  { 70001, 8, 3, DT_F32, true, ACT_NONE },
    { 5, 96, 70, DT_BF16, true, ACT_NONE },     { 513, 40, 130, DT_F16, true, ACT_GELU_TANH },
};

static void test_linear(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof linear_cases / sizeof *linear_cases; k++) {
        int64_t R = linear_cases[k].rows, K = linear_cases[k].depth, N = linear_cases[k].cols;
        err e = { 0 };
        char row[96];
        snprintf(row, sizeof row, "linear { %lld, %lld, %lld, %s }", (long long)R, (long long)K, (long long)N, dtype_name(linear_cases[k].weight));
        float *x = values(R * K, 1), *w = values(N * K, 1), *b = values(N, 1);
        if (linear_cases[k].weight != DT_F32) {      /* what the type can hold is what both sides multiply */
            uint16_t *narrow = malloc((size_t)(N * K) * 2);
            dtype_from_f32(narrow, linear_cases[k].weight, w, N * K);
            dtype_to_f32(w, narrow, linear_cases[k].weight, N * K);
            free(narrow);
        }
        double *ref = malloc((size_t)(R * N) * sizeof *ref);
        for (int64_t r = 0; r < R; r++)
            for (int64_t n = 0; n < N; n++) {
                double s = linear_cases[k].bias ? b[n] : 0;
                for (int64_t i = 0; i < K; i++)
                    s += (double)x[r * K + i] * w[n * K + i];
                ref[r * N + n] = linear_cases[k].act == ACT_GELU_TANH ? gelu(s) : linear_cases[k].act == ACT_SILU ? silu(s) : s;
            }
        tensor tx = DEV(x, R, K), tw = on_device(w, linear_cases[k].weight, 2, (int64_t[]){ N, K }), tb = DEV(b, N), out = OUT(R, N);
        assert_int_equal(op_linear(&out, &tx, &tw, linear_cases[k].bias ? &tb : NULL, linear_cases[k].act, &e), 0);
        close_to(row, &out, ref, 2e-6);
        tensor_free(&tx), tensor_free(&tw), tensor_free(&tb), tensor_free(&out);
        free(x), free(w), free(b), free(ref);
    }
}

/* ---- norms, modulation, gates ---- */

static const struct { int64_t rows, width, groups; } norm_cases[] = { { 1, 1, 1 }, { 3, 7, 1 }, { 64, 96, 4 }, { 70001, 16, 1 }, { 130, 1536, 5 } };

static void test_norms(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof norm_cases / sizeof *norm_cases; k++) {
        int64_t R = norm_cases[k].rows, W = norm_cases[k].width, G = norm_cases[k].groups;
        err e = { 0 };
        char row[96];
        float *x = values(R * W, 3), *w = values(W, 1), *b = values(W, 1), *sc = values(G * W, 1), *sh = values(G * W, 1), *y = values(R * W, 1);
        double *plain = malloc((size_t)(R * W) * 8), *affine = malloc((size_t)(R * W) * 8), *mod = malloc((size_t)(R * W) * 8),
               *rms = malloc((size_t)(R * W) * 8), *pix = malloc((size_t)(R * W) * 8), *gate = malloc((size_t)(R * W) * 8);
        for (int64_t r = 0; r < R; r++) {
            double mean = 0, var = 0, sq = 0;
            for (int64_t i = 0; i < W; i++) {
                mean += x[r * W + i];
                sq += (double)x[r * W + i] * x[r * W + i];
            }
            mean /= (double)W;
            for (int64_t i = 0; i < W; i++)
                var += (x[r * W + i] - mean) * (x[r * W + i] - mean);
            var /= (double)W;
            for (int64_t i = 0; i < W; i++) {
                int64_t at = r * W + i, g = r / (R / G) * W + i;
                plain[at] = (x[at] - mean) / sqrt(var + 1e-6);
                affine[at] = plain[at] * w[i] + b[i];
                mod[at] = plain[at] * (1 + sc[g]) + sh[g];
                rms[at] = x[at] / sqrt(sq / (double)W + 1e-6) * w[i];
                pix[at] = silu(x[at] / fmax(sqrt(sq), 1e-12) * sqrt((double)W) * w[i]);
                gate[at] = x[at] + (double)y[at] * sc[g];
            }
        }
        tensor tx = DEV(x, R, W), tw = DEV(w, W), tb = DEV(b, W), tsc = DEV(sc, G, W), tsh = DEV(sh, G, W), ty = DEV(y, R, W), out = OUT(R, W);
        snprintf(row, sizeof row, "norm { %lld, %lld, %lld }", (long long)R, (long long)W, (long long)G);
        /* one column has no variance: 1e-6 in the root amplifies rounding of the mean */
        double tol = W == 1 ? 1e-3 : 5e-6;
        assert_int_equal(op_layernorm(&out, &tx, NULL, NULL, 1e-6f, &e), 0);
        close_to(row, &out, plain, tol);
        assert_int_equal(op_layernorm(&out, &tx, &tw, &tb, 1e-6f, &e), 0);
        close_to(row, &out, affine, tol);
        assert_int_equal(op_layernorm_mod(&out, &tx, &tsc, &tsh, 1e-6f, &e), 0);
        close_to(row, &out, mod, tol);
        assert_int_equal(op_rmsnorm(&out, &tx, &tw, 1e-6f, &e), 0);
        close_to(row, &out, rms, 2e-6);
        assert_int_equal(op_pixel_norm(&out, &tx, &tw, ACT_SILU, &e), 0);
        close_to(row, &out, pix, 2e-6);
        assert_int_equal(op_gate_add(&tx, &ty, &tsc, &e), 0);
        close_to(row, &tx, gate, 1e-6);
        tensor_free(&tx), tensor_free(&tw), tensor_free(&tb), tensor_free(&tsc), tensor_free(&tsh), tensor_free(&ty), tensor_free(&out);
        free(x), free(w), free(b), free(sc), free(sh), free(y), free(plain), free(affine), free(mod), free(rms), free(pix), free(gate);
    }
}

/* ---- attention ---- */

/* segments by hand: full, two shots with a shared summary and a key counted twice, a window */
static attn_range R0[] = { { 0, 40 } }, R1[] = { { 0, 5 }, { 0, 20 }, { 30, 32 } }, R2[] = { { 20, 40 }, { 7, 7 } };
static attn_segment two[] = { { 0, 11, 3, R1 }, { 11, 37, 2, R2 } }, one[] = { { 0, 37, 1, R0 } };

static const struct { int64_t n_q, n_k; int heads, dim; const attn_segment *seg; int n_seg; bool bias; float scale; } attn_cases[] = {
    { 1, 1, 1, 6, NULL, 0, false, 1 },          { 37, 40, 2, 8, NULL, 0, false, 0.5f },
    { 37, 40, 3, 16, two, 2, false, 0.25f },    { 37, 40, 2, 16, one, 1, true, 1 },
    { 130, 601, 2, 128, NULL, 0, false, 0.09f }, { 65, 300, 12, 24, NULL, 0, true, 1 },
};

static double *attention_ref(size_t k, const float *q, const float *key, const float *v, const float *bias, double *probs)
{
    int64_t Lq = attn_cases[k].n_q, Lk = attn_cases[k].n_k;
    int N = attn_cases[k].heads, D = attn_cases[k].dim, W = N * D;
    double *out = calloc((size_t)(Lq * W), 8);
    int64_t span = Lq > Lk ? Lq : Lk;
    for (int h = 0; h < N; h++)
        for (int64_t i = 0; i < Lq; i++) {
            double *weight = calloc((size_t)Lk, 8), total = 0, most = -INFINITY;
            int *times = calloc((size_t)Lk, sizeof *times);
            for (int64_t j = 0; j < Lk && !attn_cases[k].seg; j++)
                times[j] = 1;
            for (int s = 0; s < attn_cases[k].n_seg; s++) {
                const attn_segment *g = &attn_cases[k].seg[s];
                if (i >= g->q_begin && i < g->q_end)
                    for (int r = 0; r < g->n_ranges; r++)
                        for (int64_t j = g->ranges[r].begin; j < g->ranges[r].end; j++)
                            times[j]++;
            }
            for (int64_t j = 0; j < Lk; j++) {
                double s = 0;
                for (int d = 0; d < D; d++)
                    s += (double)q[i * W + h * D + d] * key[j * W + h * D + d];
                weight[j] = s * attn_cases[k].scale + (bias ? bias[h * (2 * span - 1) + j - i + span - 1] : 0);
                if (times[j] && weight[j] > most)
                    most = weight[j];
            }
            for (int64_t j = 0; j < Lk; j++) {
                weight[j] = times[j] * exp(weight[j] - most);
                total += weight[j];
            }
            for (int64_t j = 0; j < Lk; j++) {
                for (int d = 0; d < D; d++)
                    out[i * W + h * D + d] += weight[j] / total * v[j * W + h * D + d];
                probs[(h * Lk + j) * Lq + i] = weight[j] / total;
            }
            free(weight);
            free(times);
        }
    return out;
}

static void test_attention(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof attn_cases / sizeof *attn_cases; k++) {
        int64_t Lq = attn_cases[k].n_q, Lk = attn_cases[k].n_k, span = Lq > Lk ? Lq : Lk;
        int N = attn_cases[k].heads, D = attn_cases[k].dim, W = N * D;
        err e = { 0 };
        char row[96];
        snprintf(row, sizeof row, "attention case %zu: %lld x %lld, %d heads of %d", k, (long long)Lq, (long long)Lk, N, D);
        float *q = values(Lq * W, 2), *key = values(Lk * W, 2), *v = values(Lk * W, 1), *bias = values(N * (2 * span - 1), 3);
        double *probs = malloc((size_t)(N * Lk * Lq) * 8);
        double *ref = attention_ref(k, q, key, v, attn_cases[k].bias ? bias : NULL, probs);
        tensor tq = DEV(q, Lq, W), tk = DEV(key, Lk, W), tv = DEV(v, Lk, W), tb = DEV(bias, N, 2 * span - 1), out = OUT(Lq, W);
        attn_args a = { .out = &out, .q = &tq, .k = &tk, .v = &tv, .n_heads = N, .scale = attn_cases[k].scale,
                        .plan = { attn_cases[k].n_seg, attn_cases[k].seg }, .rel_bias = attn_cases[k].bias ? &tb : NULL };
        assert_int_equal(op_attention(&a, &e), 0);
        close_to(row, &out, ref, 5e-6);
        if (!attn_cases[k].bias) {      /* probabilities of single columns and of a word of several */
            int cols[] = { 0, (int)(Lk / 2), (int)(Lk - 1), (int)(Lk / 3) }, begin[] = { 0, 1, 2, 4 };
            tensor maps = OUT(N, 3, Lq), mean = OUT(1, 3, Lq);
            double *want = calloc((size_t)(N * 3 * Lq), 8), *want_mean = calloc((size_t)(3 * Lq), 8);
            for (int h = 0; h < N; h++)
                for (int w = 0; w < 3; w++)
                    for (int c = begin[w]; c < begin[w + 1]; c++)
                        for (int64_t i = 0; i < Lq; i++) {
                            want[(h * 3 + w) * Lq + i] += probs[(h * Lk + cols[c]) * Lq + i];
                            want_mean[w * Lq + i] += probs[(h * Lk + cols[c]) * Lq + i] / N;
                        }
            attn_probs_args p = { .out = &maps, .q = &tq, .k = &tk, .n_heads = N, .scale = attn_cases[k].scale, .plan = a.plan,
                                  .n_words = 3, .word_begin = begin, .columns = cols };
            assert_int_equal(op_attn_probs(&p, &e), 0);
            close_to(row, &maps, want, 1e-6);
            p.out = &mean;
            assert_int_equal(op_attn_probs(&p, &e), 0);
            close_to(row, &mean, want_mean, 1e-6);
            tensor_free(&maps), tensor_free(&mean);
            free(want), free(want_mean);
        }
        tensor_free(&tq), tensor_free(&tk), tensor_free(&tv), tensor_free(&tb), tensor_free(&out);
        free(q), free(key), free(v), free(bias), free(probs), free(ref);
    }
}

static void test_attention_plan_errors(void **state)
{
    (void)state;
    err e = { 0 };
    float x[12] = { 0 };
    attn_range r = { 0, 9 };
    attn_segment gap = { 1, 2, 1, &r }, beyond = { 0, 2, 1, &r };
    tensor q = DEV(x, 2, 6), out = OUT(2, 6);
    attn_args a = { .out = &out, .q = &q, .k = &q, .v = &q, .n_heads = 1, .scale = 1, .plan = { 1, &gap } };
    assert_int_equal(op_attention(&a, &e), ERR_INTERNAL);
    assert_non_null(strstr(e.text, "gap or overlap"));
    a.plan.segments = &beyond;
    assert_int_equal(op_attention(&a, &e), ERR_INTERNAL);
    assert_non_null(strstr(e.text, "outside the keys"));
    tensor_free(&q), tensor_free(&out);
}

/* ---- rotary positions ---- */

static void test_rope(void **state)
{
    (void)state;
    err e = { 0 };
    enum { F = 3, H = 2, W = 5, OFFSET = 4, HEADS = 2, P0 = 2, P1 = 1, P2 = 1, D = 2 * (P0 + P1 + P2), L = F * H * W };
    int pairs[3] = { P0, P1, P2 };
    float *x = values(L * HEADS * D, 1);
    double ref[L * HEADS * D];
    tensor cs[3];
    float *table[3];
    for (int a = 0; a < 3; a++) {
        table[a] = malloc(sizeof(float) * 16 * 2 * (size_t)pairs[a]);
        for (int p = 0; p < 16; p++)
            for (int j = 0; j < pairs[a]; j++) {
                table[a][(p * pairs[a] + j) * 2] = cosf((float)p * (0.3f + (float)j + (float)a));
                table[a][(p * pairs[a] + j) * 2 + 1] = sinf((float)p * (0.3f + (float)j + (float)a));
            }
        cs[a] = DEV(table[a], 16, pairs[a], 2);
    }
    for (int t = 0; t < L; t++)
        for (int h = 0; h < HEADS; h++) {
            int at[3] = { t / (H * W) + OFFSET, t / W % H, t % W }, d = 0;
            for (int a = 0; a < 3; a++)
                for (int j = 0; j < pairs[a]; j++, d += 2) {
                    const float *c = &table[a][(at[a] * pairs[a] + j) * 2], *v = &x[(t * HEADS + h) * D + d];
                    ref[(t * HEADS + h) * D + d] = (double)v[0] * c[0] - (double)v[1] * c[1];
                    ref[(t * HEADS + h) * D + d + 1] = (double)v[0] * c[1] + (double)v[1] * c[0];
                }
        }
    tensor tx = DEV(x, L, HEADS * D);
    rope_table r = { { F, H, W }, { P0, P1, P2 }, OFFSET, { &cs[0], &cs[1], &cs[2] } };
    assert_int_equal(op_rope(&tx, &r, HEADS, &e), 0);
    close_to("rope", &tx, ref, 1e-6);
    r.frame_offset = 14;
    assert_int_equal(op_rope(&tx, &r, HEADS, &e), ERR_INTERNAL);
    assert_non_null(strstr(e.text, "table too short"));
    tensor_free(&tx);
    for (int a = 0; a < 3; a++) {
        tensor_free(&cs[a]);
        free(table[a]);
    }
    free(x);
}

/* ---- convolution ---- */

static const struct { int64_t T, H, W, cin, cout; int kt, kh, kw, n_past, have_past, st, sh, sw, ph, pw; bool up, residual; int64_t To, Ho, Wo; } conv_cases[] = {
    { 1, 4, 6, 3, 5, 3, 3, 3, 2, 0, 1, 1, 1, 1, 1, false, false, 1, 4, 6 },     /* first frame: two zero frames before */
    { 4, 5, 7, 2, 3, 3, 3, 3, 2, 1, 1, 1, 1, 1, 1, false, true, 4, 5, 7 },      /* one frame of history */
    { 4, 16, 17, 3, 16, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1, false, true, 4, 16, 17 }, /* more pixels than a tile */
    { 2, 3, 5, 4, 8, 3, 1, 1, 2, 2, 1, 1, 1, 0, 0, false, false, 2, 3, 5 },     /* temporal up */
    { 4, 3, 5, 4, 4, 3, 1, 1, 1, 1, 2, 1, 1, 0, 0, false, false, 2, 3, 5 },     /* temporal down */
    { 2, 8, 6, 3, 3, 1, 3, 3, 0, 0, 1, 2, 2, 0, 0, false, false, 2, 4, 3 },     /* spatial down: zeros right and below */
    { 2, 3, 4, 4, 2, 1, 3, 3, 0, 0, 1, 1, 1, 1, 1, true, false, 2, 6, 8 },      /* nearest 2x, then 3x3 */
};

static void test_conv(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof conv_cases / sizeof *conv_cases; k++) {
        int64_t T = conv_cases[k].T, H = conv_cases[k].H, W = conv_cases[k].W, ci = conv_cases[k].cin, co = conv_cases[k].cout, P = conv_cases[k].have_past;
        int64_t To = conv_cases[k].To, Ho = conv_cases[k].Ho, Wo = conv_cases[k].Wo;
        int kt = conv_cases[k].kt, kh = conv_cases[k].kh, kw = conv_cases[k].kw, up = conv_cases[k].up ? 2 : 1;
        err e = { 0 };
        char row[48];
        snprintf(row, sizeof row, "conv case %zu", k);
        float *x = values(T * H * W * ci, 1), *past = values((P ? P : 1) * H * W * ci, 1), *w = values(co * kt * kh * kw * ci, 1), *b = values(co, 1),
              *res = values(To * Ho * Wo * co, 1);
        double *ref = malloc((size_t)(To * Ho * Wo * co) * 8);
        for (int64_t t = 0; t < To; t++)
            for (int64_t y = 0; y < Ho; y++)
                for (int64_t xx = 0; xx < Wo; xx++)
                    for (int64_t o = 0; o < co; o++) {
                        double s = b[o] + (conv_cases[k].residual ? res[((t * Ho + y) * Wo + xx) * co + o] : 0);
                        for (int a = 0; a < kt; a++)
                            for (int c = 0; c < kh; c++)
                                for (int d = 0; d < kw; d++) {
                                    int64_t it = t * conv_cases[k].st + a - conv_cases[k].n_past, iy = y * conv_cases[k].sh + c - conv_cases[k].ph,
                                            ix = xx * conv_cases[k].sw + d - conv_cases[k].pw;
                                    if (it < -P || iy < 0 || iy >= H * up || ix < 0 || ix >= W * up)
                                        continue;
                                    const float *f = it < 0 ? past + (it + P) * H * W * ci : x + it * H * W * ci;
                                    for (int64_t i = 0; i < ci; i++)
                                        s += (double)f[(iy / up * W + ix / up) * ci + i] * w[(((o * kt + a) * kh + c) * kw + d) * ci + i];
                                }
                        ref[((t * Ho + y) * Wo + xx) * co + o] = s;
                    }
        tensor tx = DEV(x, T, H, W, ci), tp = DEV(past, P ? P : 1, H, W, ci), tw = DEV(w, co, kt, kh, kw, ci), tb = DEV(b, co), tr = DEV(res, To, Ho, Wo, co),
               out = OUT(To, Ho, Wo, co);
        conv_args a = { .out = &out, .x = &tx, .past = P ? &tp : NULL, .w = &tw, .bias = &tb, .residual = conv_cases[k].residual ? &tr : NULL,
                        .n_past = conv_cases[k].n_past, .stride_t = conv_cases[k].st, .stride_h = conv_cases[k].sh, .stride_w = conv_cases[k].sw,
                        .pad_h = conv_cases[k].ph, .pad_w = conv_cases[k].pw, .upsample2x = conv_cases[k].up };
        assert_int_equal(op_conv(&a, &e), 0);
        close_to(row, &out, ref, 2e-6);
        tensor_free(&tx), tensor_free(&tp), tensor_free(&tw), tensor_free(&tb), tensor_free(&tr), tensor_free(&out);
        free(x), free(past), free(w), free(b), free(res), free(ref);
    }
}

/* ---- the rest ---- */

static void test_elementwise(void **state)
{
    (void)state;
    enum { N = 40003 };
    err e = { 0 };
    float *x = values(N, 20), *y = values(N, 3), *host = malloc(N * sizeof *host);
    double *ref = malloc(N * sizeof *ref);
    tensor tx = DEV(x, N), ty = DEV(y, N), out = OUT(N);
    for (int i = 0; i < N; i++)
        ref[i] = silu(x[i]);
    assert_int_equal(op_silu(&out, &tx, &e), 0);
    close_to("silu", &out, ref, 1e-6);
    for (int i = 0; i < N; i++)
        ref[i] = x[i] * gelu(y[i]);
    assert_int_equal(op_gated_gelu(&out, &tx, &ty, &e), 0);
    close_to("gated_gelu", &out, ref, 1e-6);
    /* sampler arithmetic is exact: each product and the sum rounded on its own */
    assert_int_equal(op_axpby(&out, 0.3f, &tx, -1.7f, &ty, &e), 0);
    assert_int_equal(op_download(host, &out, &e), 0);
    for (int i = 0; i < N; i++) {
        volatile float a = 0.3f * x[i], b = -1.7f * y[i];
        volatile float s = a + b;
        assert_memory_equal(&host[i], (const float *)&s, sizeof s);
    }
    assert_int_equal(op_div_scalar(&out, &tx, 3.3f, &e), 0);
    assert_int_equal(op_download(host, &out, &e), 0);
    for (int i = 0; i < N; i++) {
        volatile float s = x[i] / 3.3f;
        assert_memory_equal(&host[i], (const float *)&s, sizeof s);
    }
    /* x - sigma v in f64: the product and the difference are rounded to f64, the result once more */
    const double sigma = (double)0.8333333f;
    assert_int_equal(op_x0(&out, &tx, sigma, &ty, &e), 0);
    assert_int_equal(op_download(host, &out, &e), 0);
    for (int i = 0; i < N; i++) {
        volatile double product = sigma * (double)y[i], difference = (double)x[i] - product;
        volatile float s = (float)difference;
        assert_memory_equal(&host[i], (const float *)&s, sizeof s);
    }
    assert_int_equal(op_x0(&ty, &tx, sigma, &ty, &e), 0);      /* in place */
    float *again = malloc(N * sizeof *again);
    assert_int_equal(op_download(again, &ty, &e), 0);
    assert_memory_equal(again, host, N * sizeof *host);
    free(again);
    tensor_free(&tx), tensor_free(&ty), tensor_free(&out);
    free(x), free(y), free(host), free(ref);
}

/* One bad value anywhere is found; the largest finite one and denormal ones are none. */
static void test_nonfinite(void **state)
{
    (void)state;
    enum { N = 70001 };
    const float bad[3] = { NAN, INFINITY, -INFINITY };
    const int places[3] = { 0, 35000, N - 1 };
    err e = { 0 };
    bool found = true;
    float *x = values(N, 20);
    x[5] = 3.4028234e38f;
    x[6] = -1e-45f;
    tensor t = DEV(x, N);
    assert_int_equal(op_any_nonfinite(&found, &t, &e), 0);
    assert_false(found);
    for (int i = 0; i < 3; i++) {
        float kept = x[places[i]];
        x[places[i]] = bad[i];
        assert_int_equal(op_upload(&t, x, &e), 0);
        assert_int_equal(op_any_nonfinite(&found, &t, &e), 0);
        assert_true(found);
        x[places[i]] = kept;
    }
    assert_int_equal(op_upload(&t, x, &e), 0);      /* a flag that was set is taken back */
    tensor flags = { 0 };
    const int32_t ones[3] = { 1, 1, 1 };
    int32_t got[3];
    assert_int_equal(TENSOR_NEW(&flags, t.be, DT_I32, &e, 3), 0);
    assert_int_equal(op_upload(&flags, ones, &e), 0);
    tensor middle = tensor_rows(&flags, 1, 1);
    assert_int_equal(op_nonfinite(&middle, &t, &e), 0);
    assert_int_equal(op_download(got, &flags, &e), 0);
    assert_int_equal(got[0], 1);
    assert_int_equal(got[1], 0);
    assert_int_equal(got[2], 1);
    tensor_free(&flags), tensor_free(&t);
    free(x);
}

static void test_patches_round_trip(void **state)
{
    (void)state;
    enum { C = 3, F = 2, H = 4, W = 6, N = C * F * H * W };
    err e = { 0 };
    float *x = values(N, 1);
    double want[N], same[N];
    for (int c = 0; c < C; c++)
        for (int f = 0; f < F; f++)
            for (int y = 0; y < H; y++)
                for (int i = 0; i < W; i++) {
                    int token = (f * (H / 2) + y / 2) * (W / 2) + i / 2;
                    want[token * C * 4 + c * 4 + y % 2 * 2 + i % 2] = x[((c * F + f) * H + y) * W + i];
                }
    tensor lat = DEV(x, C, F, H, W), tok = OUT(F * H / 2 * W / 2, C * 4), back = OUT(C, F, H, W);
    assert_int_equal(op_patchify(&tok, &lat, &e), 0);
    close_to("patchify", &tok, want, 0);
    /* the head's order is channel-fastest */
    float *t = malloc(N * sizeof *t);
    for (int k = 0; k < F * H / 2 * W / 2; k++)
        for (int q = 0; q < 4; q++)
            for (int c = 0; c < C; c++)
                t[k * C * 4 + q * C + c] = (float)want[k * C * 4 + c * 4 + q];
    tensor head = DEV(t, F * H / 2 * W / 2, C * 4);
    assert_int_equal(op_unpatchify(&back, &head, &e), 0);
    for (int i = 0; i < N; i++)
        same[i] = x[i];
    close_to("unpatchify", &back, same, 0);
    tensor_free(&lat), tensor_free(&tok), tensor_free(&back), tensor_free(&head);
    free(t), free(x);
}

static void test_same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    enum { R = 700, K = 96, N = 200, W = 64 };
    err e = { 0 };
    float *x = values(R * K, 1), *w = values(N * K, 1), *first = NULL;
    if (strcmp(be->ops->name, "cpu"))
        skip();
    for (int threads = 1; threads <= 3; threads++) {
        parallel_set_threads(threads);
        tensor tx = DEV(x, R, K), tw = DEV(w, N, K), y = OUT(R, N), a = OUT(R, W);
        assert_int_equal(op_linear(&y, &tx, &tw, NULL, ACT_GELU_TANH, &e), 0);
        float *host = malloc(R * N * sizeof *host);
        tensor q = DEV(x, R, W);
        attn_args args = { .out = &a, .q = &q, .k = &q, .v = &q, .n_heads = 4, .scale = 0.25f };
        assert_int_equal(op_attention(&args, &e), 0);
        assert_int_equal(op_download(host, &y, &e), 0);
        assert_int_equal(op_download(host, &a, &e), 0);      /* over the first R*W values */
        if (first)
            assert_memory_equal(first, host, R * N * sizeof *host);
        else
            first = memcpy(malloc(R * N * sizeof *host), host, R * N * sizeof *host);
        free(host);
        tensor_free(&tx), tensor_free(&tw), tensor_free(&y), tensor_free(&a), tensor_free(&q);
    }
    parallel_set_threads(0);
    free(x), free(w), free(first);
}

static void test_embed_rejects_ids_outside_the_vocabulary(void **state)
{
    (void)state;
    err e = { 0 };
    float x[12] = { 0 };
    tensor table = DEV(x, 4, 3), out = OUT(2, 3);
    assert_int_equal(op_embed(&out, &table, (int32_t[]){ 1, 4 }, 2, &e), ERR_SHAPE);
    assert_non_null(strstr(e.text, "token id 4 at position 1 is outside the text encoder's vocabulary of 4"));
    tensor_free(&table), tensor_free(&out);
}

/* wan-engine.md 4: the table of the float32 formula */
static void test_umt5_buckets(void **state)
{
    (void)state;
    const int from[] = { 8, 12, 16, 23, 32, 46, 64, 91 };
    for (int a = 0; a < 8; a++)
        assert_int_equal(umt5_bucket(-a), a);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(umt5_bucket(-from[i]), 8 + i);
        assert_int_equal(umt5_bucket(from[i]), 24 + i);
        assert_int_equal(umt5_bucket(-(from[i] - 1)), 7 + i);
    }
    assert_int_equal(umt5_bucket(511), 31);
}

static int open_device(void **state)
{
    err e = { 0 };
    (void)state;
    const char *device = getenv("TEST_DEVICE");
    if (backend_open(&be, device ? device : "cpu", &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    return 0;
}

static int close_device(void **state)
{
    (void)state;
    backend_close(be);
    parallel_shutdown();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_plan_errors),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_elementwise), cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_patches_round_trip),
        cmocka_unit_test(test_same_bits_for_any_number_of_threads),
        cmocka_unit_test(test_embed_rejects_ids_outside_the_vocabulary),
        cmocka_unit_test(test_umt5_buckets),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
