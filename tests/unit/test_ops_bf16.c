/* The ops of the transformer in bf16, and their fused forms in every type a backend has, against a double reference of the rounded
 * inputs. TEST_DEVICE as in test_ops.c; a backend without bf16 runs the f32 rows only. */
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

static backend *be;
static uint64_t rng = 88172645463325252ull;

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

static tensor put(const float *host, dtype type, int64_t rows, int64_t cols)
{
    tensor t;
    err e = { 0 };
    assert_int_equal(TENSOR_NEW(&t, be, type, &e, rows, cols), 0);
    assert_int_equal(op_upload_f32(&t, host, &e), 0);
    return t;
}

static tensor poisoned(dtype type, int64_t rows, int64_t cols)
{
    float *host = malloc((size_t)(rows * cols) * sizeof *host);
    for (int64_t i = 0; i < rows * cols; i++)
        host[i] = NAN;
    tensor t = put(host, type, rows, cols);
    free(host);
    return t;
}

/* One rounding is half of 2^-7 (bf16: 8 bits of significand) or 2^-23 of a value; `roundings` of them, and `noise` of the largest for the
 * f32 arithmetic before. */
static void check(const char *what, const tensor *t, const double *ref, int roundings, double noise)
{
    err e = { 0 };
    int64_t n = tensor_count(t), at = -1;
    float *host = malloc((size_t)n * sizeof *host);
    double worst = 0, largest = 0, ulp = t->dtype == DT_BF16 ? 0x1p-7 : 0x1p-23;
    assert_int_equal(op_download_f32(host, t, &e), 0);
    for (int64_t i = 0; i < n; i++)
        largest = fabs(ref[i]) > largest ? fabs(ref[i]) : largest;
    for (int64_t i = 0; i < n; i++) {
        double excess = fabs(host[i] - ref[i]) / (roundings * 0.51 * ulp * fabs(ref[i]) + noise * largest + 1e-30);
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

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static int n_types(void)
{
    return be->ops->bf16 ? 2 : 1;
}

static const dtype TYPES[] = { DT_F32, DT_BF16 };

/* ---- products ---- */

static const struct { int64_t rows, depth, cols; dtype x, w, out, bias; activation act; } products[] = {
    { 1, 1, 1, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_NONE },        { 3, 17, 65, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_GELU_TANH },
    { 130, 96, 64, DT_BF16, DT_BF16, DT_BF16, DT_COUNT, ACT_NONE },   { 257, 1536, 136, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_GELU_TANH },
    { 1025, 40, 129, DT_BF16, DT_BF16, DT_BF16, DT_F32, ACT_NONE },   { 70001, 16, 24, DT_BF16, DT_BF16, DT_BF16, DT_BF16, ACT_NONE },
    { 512, 264, 520, DT_BF16, DT_BF16, DT_BF16, DT_COUNT, ACT_GELU_TANH }, { 33, 128, 48, DT_BF16, DT_BF16, DT_F32, DT_F32, ACT_NONE },
    { 1, 256, 1536, DT_F32, DT_BF16, DT_F32, DT_F32, ACT_SILU },      { 21, 100, 60, DT_F32, DT_BF16, DT_F32, DT_F32, ACT_NONE },
    { 2048, 96, 64, DT_F32, DT_BF16, DT_F32, DT_F32, ACT_NONE },      { 9, 64, 40, DT_F32, DT_F32, DT_BF16, DT_F32, ACT_NONE },
};

static void test_products(void **state)
{
    (void)state;
    if (!be->ops->bf16)
        skip();
    for (size_t k = 0; k < sizeof products / sizeof *products; k++) {
        int64_t R = products[k].rows, K = products[k].depth, N = products[k].cols;
        bool biased = products[k].bias != DT_COUNT;
        err e = { 0 };
        char row[96];
        snprintf(row, sizeof row, "product { %lld, %lld, %lld, %s, %s, %s }", (long long)R, (long long)K, (long long)N, dtype_name(products[k].x),
                 dtype_name(products[k].w), dtype_name(products[k].out));
        /* a bias joins the sum in the type of the result, as autocast casts it */
        float *x = values(R * K, 1, products[k].x), *w = values(N * K, 1, products[k].w), *b = values(N, 1, products[k].out);
        double *ref = malloc((size_t)(R * N) * sizeof *ref);
        for (int64_t r = 0; r < R; r++)
            for (int64_t n = 0; n < N; n++) {
                double s = biased ? b[n] : 0;
                for (int64_t i = 0; i < K; i++)
                    s += (double)x[r * K + i] * w[n * K + i];
                ref[r * N + n] = products[k].act == ACT_GELU_TANH ? gelu(s) : products[k].act == ACT_SILU ? s / (1 + exp(-s)) : s;
            }
        tensor tx = put(x, products[k].x, R, K), tw = put(w, products[k].w, N, K), tb = put(b, biased ? products[k].bias : DT_F32, 1, N);
        tensor out = poisoned(products[k].out, R, N);
        assert_int_equal(op_linear(&out, &tx, &tw, biased ? &tb : NULL, products[k].act, &e), 0);
        check(row, &out, ref, 1, 5e-6);
        tensor_free(&tx), tensor_free(&tw), tensor_free(&tb), tensor_free(&out);
        free(x), free(w), free(b), free(ref);
    }
}

/* ---- norms ---- */

static const struct { int64_t rows, width, groups; } norms[] = { { 1, 6, 1 }, { 3, 7, 1 }, { 64, 96, 4 }, { 66000, 16, 1 }, { 130, 1536, 5 }, { 40, 5120, 1 } };

static void test_norms(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof norms / sizeof *norms; k++)
        for (int type = 0; type < n_types(); type++) {
            int64_t R = norms[k].rows, W = norms[k].width, G = norms[k].groups;
            dtype act = TYPES[type];
            err e = { 0 };
            char row[96];
            snprintf(row, sizeof row, "norm { %lld, %lld, %lld } to %s", (long long)R, (long long)W, (long long)G, dtype_name(act));
            float *x = values(R * W, 3, DT_F32), *y = values(R * W, 2, act), *a = values(W, 1, DT_F32), *b = values(W, 1, DT_F32);
            float *scale = values(G * W, 1, DT_F32), *shift = values(G * W, 1, DT_F32), *narrow = values(R * W, 3, act);
            size_t bytes = (size_t)(R * W) * sizeof(double);
            double *sum = malloc(bytes), *gated = malloc(bytes), *affine = malloc(bytes), *mod = malloc(bytes), *after = malloc(bytes), *rms = malloc(bytes);
            for (int64_t r = 0; r < R; r++) {
                double mean = 0, var = 0, gmean = 0, gvar = 0, sq = 0;
                for (int64_t i = 0; i < W; i++) {
                    int64_t at = r * W + i, g = r / (R / G) * W + i;
                    sum[at] = (double)x[at] + y[at];
                    gated[at] = x[at] + (double)y[at] * scale[g];
                    mean += x[at] / (double)W;
                    gmean += gated[at] / (double)W;
                    sq += (double)narrow[at] * narrow[at] / (double)W;
                }
                for (int64_t i = 0; i < W; i++) {
                    var += (x[r * W + i] - mean) * (x[r * W + i] - mean) / (double)W;
                    gvar += (gated[r * W + i] - gmean) * (gated[r * W + i] - gmean) / (double)W;
                }
                for (int64_t i = 0; i < W; i++) {
                    int64_t at = r * W + i, g = r / (R / G) * W + i;
                    affine[at] = (x[at] - mean) / sqrt(var + 1e-6) * a[i] + b[i];
                    mod[at] = (x[at] - mean) / sqrt(var + 1e-6) * (1 + scale[g]) + shift[g];
                    after[at] = (gated[at] - gmean) / sqrt(gvar + 1e-6) * a[i] + b[i];
                    rms[at] = narrow[at] / sqrt(sq + 1e-6) * a[i];
                }
            }
            tensor tx = put(x, DT_F32, R, W), ty = put(y, act, R, W), ta = put(a, DT_F32, 1, W), tb = put(b, DT_F32, 1, W), tscale = put(scale, DT_F32, G, W),
                   tshift = put(shift, DT_F32, G, W), tn = put(narrow, act, R, W), out = poisoned(act, R, W);
            assert_int_equal(op_layernorm(&out, &tx, &ta, &tb, 1e-6f, &e), 0);
            check(row, &out, affine, 1, 3e-6);
            assert_int_equal(op_layernorm_mod(&out, &tx, &tscale, &tshift, 1e-6f, &e), 0);
            check(row, &out, mod, 1, 3e-6);
            assert_int_equal(op_rmsnorm(&out, &tn, &ta, 1e-6f, &e), 0);
            check(row, &out, rms, 2, 1e-6);
            tensor first = put(x, DT_F32, R, W);
            assert_int_equal(op_gate_add(&first, &ty, NULL, &e), 0);
            check(row, &first, sum, 2, 1e-7);
            residual_norm_args n = { .x = &tx, .y = &ty, .gate = &tscale, .out = &out, .a = &ta, .b = &tb, .eps = 1e-6f };
            assert_int_equal(op_residual_norm(&n, &e), 0);
            check(row, &tx, gated, 2, 1e-6);
            check(row, &out, after, 1, 3e-6);
            tensor_free(&tx), tensor_free(&ty), tensor_free(&ta), tensor_free(&tb), tensor_free(&tscale), tensor_free(&tshift), tensor_free(&tn);
            tensor_free(&out), tensor_free(&first);
            free(x), free(y), free(a), free(b), free(scale), free(shift), free(narrow), free(sum), free(gated), free(affine), free(mod), free(after), free(rms);
        }
}

/* ---- queries and keys: RMSNorm and rotary positions ---- */

static const struct { int64_t grid[3], offset; int heads, pairs[3]; } rotations[] = {
    { { 3, 2, 5 }, 4, 2, { 2, 1, 1 } }, { { 2, 3, 4 }, 0, 12, { 22, 21, 21 } }, { { 1, 1, 1 }, 7, 1, { 1, 1, 1 } }, { { 4, 9, 7 }, 1, 3, { 6, 5, 5 } },
};

static void test_rmsnorm_rope(void **state)
{
    (void)state;
    for (size_t k = 0; k < sizeof rotations / sizeof *rotations; k++)
        for (int type = 0; type < n_types(); type++) {
            const int64_t *grid = rotations[k].grid;
            const int *pairs = rotations[k].pairs;
            int half = pairs[0] + pairs[1] + pairs[2], heads = rotations[k].heads;
            int64_t R = grid[0] * grid[1] * grid[2], W = (int64_t)heads * half * 2;
            dtype act = TYPES[type];
            err e = { 0 };
            char row[96];
            snprintf(row, sizeof row, "rmsnorm_rope case %zu in %s", k, dtype_name(act));
            float *x = values(R * W, 2, act), *w = values(W, 1, DT_F32), *table[3];
            double *ref = malloc((size_t)(R * W) * sizeof *ref);
            tensor cs[3];
            rope_table rope = { .grid = { grid[0], grid[1], grid[2] }, .pairs = { pairs[0], pairs[1], pairs[2] }, .frame_offset = rotations[k].offset };
            for (int axis = 0; axis < 3; axis++) {
                table[axis] = malloc(sizeof(float) * 16 * 2 * (size_t)pairs[axis]);
                for (int i = 0; i < 16 * pairs[axis]; i++) {
                    table[axis][2 * i] = cosf((float)i * 0.7f + (float)axis);
                    table[axis][2 * i + 1] = sinf((float)i * 0.7f + (float)axis);
                }
                assert_int_equal(TENSOR_NEW(&cs[axis], be, DT_F32, &e, 16, pairs[axis], 2), 0);
                assert_int_equal(op_upload(&cs[axis], table[axis], &e), 0);
                rope.cs[axis] = &cs[axis];
            }
            for (int64_t r = 0; r < R; r++) {
                int64_t at[3] = { r / (grid[1] * grid[2]) + rope.frame_offset, r / grid[2] % grid[1], r % grid[2] };
                double sq = 0;
                for (int64_t i = 0; i < W; i++)
                    sq += (double)x[r * W + i] * x[r * W + i] / (double)W;
                for (int h = 0; h < heads; h++)
                    for (int p = 0, axis = 0, first = 0; p < half; p++) {
                        while (p - first >= pairs[axis])
                            first += pairs[axis++];
                        const float *c = table[axis] + (at[axis] * pairs[axis] + p - first) * 2;
                        int64_t i = (int64_t)h * half * 2 + 2 * p;
                        double re = x[r * W + i] / sqrt(sq + 1e-6) * w[i], im = x[r * W + i + 1] / sqrt(sq + 1e-6) * w[i + 1];
                        ref[r * W + i] = re * c[0] - im * c[1];
                        ref[r * W + i + 1] = re * c[1] + im * c[0];
                    }
            }
            tensor tx = put(x, act, R, W), tw = put(w, DT_F32, 1, W), out = poisoned(act, R, W);
            assert_int_equal(op_rmsnorm_rope(&out, &tx, &tw, 1e-6f, &rope, heads, &e), 0);
            check(row, &out, ref, 2, act == DT_BF16 ? 4e-3 : 1e-6);      /* two rounded values meet in a rotation: their error is not relative to the result */
            assert_int_equal(op_rmsnorm_rope(&tx, &tx, &tw, 1e-6f, &rope, heads, &e), 0);
            check(row, &tx, ref, 2, act == DT_BF16 ? 4e-3 : 1e-6);
            tensor_free(&tx), tensor_free(&tw), tensor_free(&out);
            for (int axis = 0; axis < 3; axis++) {
                tensor_free(&cs[axis]);
                free(table[axis]);
            }
            free(x), free(w), free(ref);
        }
}

/* ---- single elements ---- */

static void test_elements(void **state)
{
    (void)state;
    enum { R = 101, W = 40 };
    err e = { 0 };
    for (int type = 0; type < n_types(); type++) {
        dtype act = TYPES[type];
        float *x = values(R * W, 2, act), *g = values(R * W, 2, act), *table = values(4 * W, 2, DT_F32);
        double ref[R * W];
        tensor tx = put(x, act, R, W), tg = put(g, act, R, W), out = poisoned(act, R, W), wide = poisoned(DT_F32, R, W);
        for (int i = 0; i < R * W; i++)
            ref[i] = x[i] * gelu(g[i]);
        assert_int_equal(op_gated_gelu(&out, &tx, &tg, &e), 0);
        check("gated_gelu", &out, ref, 1, 1e-6);
        for (int i = 0; i < R * W; i++)
            ref[i] = x[i];
        assert_int_equal(op_cast(&wide, &tx, &e), 0);
        check("cast to f32", &wide, ref, 0, 0);
        assert_int_equal(op_cast(&out, &wide, &e), 0);
        check("cast back", &out, ref, 0, 0);
        tensor tt = put(table, DT_F32, 4, W), sums = poisoned(DT_F32, 100, W), head = tensor_rows(&wide, 0, 100);
        for (int r = 0; r < 100; r++)
            for (int i = 0; i < W; i++)
                ref[r * W + i] = (double)x[r * W + i] + table[r / 25 * W + i];
        assert_int_equal(op_add_row(&sums, &head, &tt, &e), 0);
        check("add_row of four groups", &sums, (double *)ref, 1, 1e-7);
        tensor_free(&tx), tensor_free(&tg), tensor_free(&out), tensor_free(&wide), tensor_free(&tt), tensor_free(&sums);
        free(x), free(g), free(table);
    }
}

/* the same call twenty times gives the same bytes */
static void test_repeats(void **state)
{
    (void)state;
    enum { R = 700, K = 96, N = 160 };
    dtype act = be->ops->bf16 ? DT_BF16 : DT_F32;
    err e = { 0 };
    float *x = values(R * K, 1, act), *w = values(N * K, 1, act), first[R * N / 100], again[R * N / 100];
    tensor tx = put(x, act, R, K), tw = put(w, act, N, K), out = poisoned(act, R, N), part = tensor_rows(&out, 0, R / 100);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(op_linear(&out, &tx, &tw, NULL, ACT_NONE, &e), 0);
        assert_int_equal(op_download_f32(i ? again : first, &part, &e), 0);
        assert_true(!i || memcmp(first, again, sizeof first) == 0);
    }
    tensor_free(&tx), tensor_free(&tw), tensor_free(&out);
    free(x), free(w);
}

static int setup(void **state)
{
    (void)state;
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (backend_open(&be, device && *device ? device : "cpu", &e)) {
        print_error("%s\n", e.text);
        return -1;
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    backend_close(be);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products), cmocka_unit_test(test_norms), cmocka_unit_test(test_rmsnorm_rope), cmocka_unit_test(test_elements),
        cmocka_unit_test(test_repeats),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
