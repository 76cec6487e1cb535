/* The plain bf16 attention of a GPU, captured attention and the GPU's noise against double precision (TEST_DEVICE=cuda; skipped
 * without). Inputs are rounded to bf16 first, so the reference sees what the kernel sees. */
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
#include "core/sample/noise.h"

static backend *be;
static uint64_t state = 88172645463325252ull;

static float uniform(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (float)((double)(state >> 11) / 9007199254740992.0 * 2 - 1);
}

static float as_bf16(float v)
{
    uint16_t narrow;
    dtype_from_f32(&narrow, DT_BF16, &v, 1);
    dtype_to_f32(&v, &narrow, DT_BF16, 1);
    return v;
}

static float *values(int64_t n, float scale)
{
    float *v = malloc((size_t)n * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++)
        v[i] = as_bf16(uniform() * scale);
    return v;
}

static tensor on_device(const float *host, dtype type, int ndim, const int64_t *shape)
{
    tensor t;
    err e = { 0 };
    assert_int_equal(tensor_new(&t, be, type, ndim, shape, &e), 0);
    if (host)
        assert_int_equal(op_upload_f32(&t, host, &e), 0);
    return t;
}
#define DEV(type, host, ...) on_device(host, type, (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (int64_t[]){__VA_ARGS__})

static float *download(const tensor *t)
{
    err e = { 0 };
    float *v = malloc((size_t)tensor_count(t) * sizeof *v);
    assert_non_null(v);
    if (op_download_f32(v, t, &e))
        fail_msg("%s", e.text);
    return v;
}

static tensor poisoned(dtype type, int64_t rows, int64_t cols)
{
    float *v = malloc((size_t)(rows * cols) * sizeof *v);
    for (int64_t i = 0; i < rows * cols; i++)
        v[i] = NAN;
    tensor t = DEV(type, v, rows, cols);
    free(v);
    return t;
}

/* ---- plans ---- */

enum { FULL, SOME_KEYS, THREE_SHOTS, SINGLES };

typedef struct {
    attn_plan plan;
    attn_segment segments[4];
    attn_range ranges[8];
} plan_of;

static void make_plan(plan_of *p, int kind, int64_t Lq, int64_t Lk)
{
    int64_t a = Lq / 3, b = Lq - Lq / 4;
    memset(p, 0, sizeof *p);
    switch (kind) {
    case SOME_KEYS:                         /* a padded text, an empty range, a repeated key */
        p->ranges[0] = (attn_range){ 0, (Lk + 1) / 2 };
        p->ranges[1] = (attn_range){ Lk / 2, Lk / 2 };
        p->ranges[2] = (attn_range){ 0, 1 };
        p->segments[0] = (attn_segment){ 0, Lq, 3, p->ranges };
        p->plan = (attn_plan){ 1, p->segments };
        break;
    case THREE_SHOTS:                       /* own keys and a pool that shows some of them again; one shot without queries */
        p->ranges[0] = (attn_range){ 0, Lk / 3 + 1 };
        p->ranges[1] = (attn_range){ Lk - Lk / 5 - 1, Lk };
        p->ranges[2] = (attn_range){ Lk / 4, Lk };
        p->ranges[3] = (attn_range){ Lk - 1, Lk };
        p->ranges[4] = (attn_range){ 0, Lk };
        p->segments[0] = (attn_segment){ 0, a, 2, p->ranges };
        p->segments[1] = (attn_segment){ a, a, 1, p->ranges + 4 };
        p->segments[2] = (attn_segment){ a, b, 2, p->ranges + 2 };
        p->segments[3] = (attn_segment){ b, Lq, 1, p->ranges + 3 };
        p->plan = (attn_plan){ 4, p->segments };
        break;
    case SINGLES:                           /* many one-key ranges */
        for (int i = 0; i < 8; i++)
            p->ranges[i] = (attn_range){ i * Lk / 8 % Lk, i * Lk / 8 % Lk + 1 };
        p->segments[0] = (attn_segment){ 0, Lq, 8, p->ranges };
        p->plan = (attn_plan){ 1, p->segments };
        break;
    }
}

/* Scores of one query and head over the keys in the plan's order, their indices, their number. */
static int64_t scores_of(const plan_of *p, int64_t i, int64_t Lk, const float *q, const float *k, const float *bias, int64_t span, int64_t width, int D,
                         int h, float scale, double *s, int64_t *key)
{
    int64_t n = 0;
    const attn_segment all = { 0, INT64_MAX, 1, &(attn_range){ 0, Lk } }, *g = &all;
    for (int c = 0; c < p->plan.n_segments; c++)
        if (i >= p->plan.segments[c].q_begin && i < p->plan.segments[c].q_end)
            g = &p->plan.segments[c];
    for (int r = 0; r < g->n_ranges; r++)
        for (int64_t j = g->ranges[r].begin; j < g->ranges[r].end; j++, n++) {
            double dot = 0;
            for (int d = 0; d < D; d++)
                dot += (double)q[i * width + h * D + d] * k[j * width + h * D + d];
            s[n] = dot * scale + (bias ? bias[h * (2 * span - 1) + j - i + span - 1] : 0.0);
            key[n] = j;
        }
    return n;
}

static const struct { int D, heads; int64_t Lq, Lk; int plan; bool bias; float spread; } cases[] = {
    { 1, 3, 7, 9, FULL, false, 1 },          { 6, 2, 65, 64, FULL, false, 1 },         { 12, 5, 63, 65, SOME_KEYS, false, 1 },
    { 16, 2, 64, 1, FULL, false, 1 },        { 40, 3, 65, 129, THREE_SHOTS, false, 1 }, { 64, 2, 512, 512, FULL, true, 1 },
    { 64, 64, 77, 77, SOME_KEYS, true, 2 },  { 80, 2, 130, 100, SINGLES, false, 1 },   { 96, 1, 64, 7, FULL, false, 1 },
    { 128, 3, 1, 1, FULL, false, 1 },        { 128, 2, 1, 1000, SOME_KEYS, false, 1 }, { 128, 2, 63, 63, FULL, false, 1 },
    { 128, 1, 64, 64, FULL, true, 1 },       { 128, 2, 65, 65, THREE_SHOTS, false, 1 }, { 128, 2, 1000, 1000, THREE_SHOTS, false, 4 },
    { 128, 1, 256, 512, FULL, false, 60 },   { 128, 1, 256, 512, FULL, false, 0 },     { 128, 40, 1000, 65, FULL, false, 1 },
    { 128, 300, 130, 190, THREE_SHOTS, false, 2 }, { 64, 300, 129, 64, FULL, false, 1 }, { 96, 300, 129, 65, SOME_KEYS, false, 1 },
    { 40, 300, 200, 63, FULL, false, 1 },    { 15, 300, 200, 63, SINGLES, false, 1 },  { 112, 300, 128, 128, FULL, false, 1 },
    { 80, 300, 128, 128, FULL, false, 1 },   { 12, 300, 128, 100, FULL, false, 1 },    { 24, 300, 257, 100, FULL, false, 1 },
    { 100, 2, 100, 100, FULL, true, 1 },     { 128, 1, 70001, 70, FULL, false, 1 },    { 8, 1, 70001, 70, THREE_SHOTS, false, 1 },
};

static double worst_lse, worst_probs[4];

/* Each probability is rounded to bf16 before it meets V, the result once more: at most 2^-8 of both. */
static void check_attention(size_t c, const plan_of *p, int64_t span, const float *q, const float *k, const float *v, const float *bias, float scale,
                            const float *out, const float *lse)
{
    int D = cases[c].D, N = cases[c].heads;
    int64_t Lq = cases[c].Lq, Lk = cases[c].Lk, width = (int64_t)N * D, cost = Lk * width, step = Lq * cost > 200000000 ? Lq * cost / 200000000 + 1 : 1;
    double *s = malloc((size_t)(4 * Lk + 8) * sizeof *s), worst = 0;
    int64_t *key = malloc((size_t)(4 * Lk + 8) * sizeof *key);
    for (int64_t i = 0; i < Lq; i = i + step < Lq || i == Lq - 1 ? i + step : Lq - 1)      /* the last row is always seen */
        for (int h = 0; h < N; h++) {
            int64_t n = scores_of(p, i, Lk, q, k, bias, span, width, D, h, scale, s, key);
            double top = -INFINITY, total = 0;
            for (int64_t j = 0; j < n; j++)
                top = s[j] > top ? s[j] : top;
            for (int64_t j = 0; j < n; j++)
                total += s[j] = exp(s[j] - top);
            double off = fabs(lse[h * Lq + i] - (top + log(total)));
            worst_lse = off > worst_lse ? off : worst_lse;
            if (!(off <= 2e-6 * (2 + fabs(top))))
                fail_msg("case %zu: lse of head %d, query %lld is %.9g, reference %.9g", c, h, (long long)i, (double)lse[h * Lq + i], top + log(total));
            for (int d = 0; d < D; d++) {
                double want = 0, sum = 0;
                for (int64_t j = 0; j < n; j++) {
                    want += s[j] / total * v[key[j] * width + h * D + d];
                    sum += s[j] / total * fabs(v[key[j] * width + h * D + d]);
                }
                double got = out[i * width + h * D + d], bound = (sum + fabs(want)) / 256 * 1.01 + 4e-5 * sum * (1 + fabs(top) / 16) + 1e-30;
                worst = fabs(got - want) / bound > worst ? fabs(got - want) / bound : worst;
                if (!(fabs(got - want) <= bound))
                    fail_msg("case %zu (heads %d of %d, %lld x %lld): head %d, query %lld, column %d is %.9g, reference %.9g, off by %.2e, at most %.2e expected",
                             c, N, D, (long long)Lq, (long long)Lk, h, (long long)i, d, got, want, fabs(got - want), bound);
            }
        }
    free(s), free(key);
}

static void test_attention(void **unused)
{
    (void)unused;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        int D = cases[c].D, N = cases[c].heads;
        int64_t Lq = cases[c].Lq, Lk = cases[c].Lk, width = (int64_t)N * D, span = Lq > Lk ? Lq : Lk;
        float scale = cases[c].bias ? 1.0f : 1.0f / sqrtf((float)D);
        float *q = values(Lq * width, 1.7f * cases[c].spread), *k = values(Lk * width, 1.7f), *v = values(Lk * width, 1), *bias = values(N * (2 * span - 1), 3);
        plan_of plan;
        err e = { 0 };
        make_plan(&plan, cases[c].plan, Lq, Lk);
        tensor tq = DEV(DT_BF16, q, Lq, width), tk = DEV(DT_BF16, k, Lk, width), tv = DEV(DT_BF16, v, Lk, width), tb = DEV(DT_F32, bias, N, 2 * span - 1);
        tensor out = poisoned(DT_BF16, Lq, width), lse = poisoned(DT_F32, N, Lq), again = poisoned(DT_BF16, Lq, width);
        attn_args a = { .out = &out, .q = &tq, .k = &tk, .v = &tv, .n_heads = N, .scale = scale, .plan = plan.plan, .rel_bias = cases[c].bias ? &tb : NULL,
                        .lse = &lse };
        if (op_attention(&a, &e))
            fail_msg("case %zu: %s", c, e.text);
        float *got = download(&out), *sums = download(&lse);
        check_attention(c, &plan, span, q, k, v, cases[c].bias ? bias : NULL, scale, got, sums);
        a.out = &again;
        a.lse = NULL;
        assert_int_equal(op_attention(&a, &e), 0);
        float *twice = download(&again);
        assert_memory_equal(got, twice, (size_t)(Lq * width) * sizeof *got);      /* same bits again, and without lse */
        tensor_free(&tq), tensor_free(&tk), tensor_free(&tv), tensor_free(&tb), tensor_free(&out), tensor_free(&lse), tensor_free(&again);
        free(q), free(k), free(v), free(bias), free(got), free(sums), free(twice);
    }
    printf("# lse off by at most %.2e\n", worst_lse);
}

/* One value of V is 1: the output is a column of probabilities, in the right place. */
static void test_one_hot(void **unused)
{
    (void)unused;
    enum { N = 2, D = 128, L = 200 };
    float *q = values(L * N * D, 0), *k = values(L * N * D, 0), *v = values(L * N * D, 0);
    v[77 * N * D + D + 19] = 1;
    err e = { 0 };
    tensor tq = DEV(DT_BF16, q, L, N * D), tk = DEV(DT_BF16, k, L, N * D), tv = DEV(DT_BF16, v, L, N * D), out = poisoned(DT_BF16, L, N * D);
    attn_args a = { .out = &out, .q = &tq, .k = &tk, .v = &tv, .n_heads = N, .scale = 1 };
    assert_int_equal(op_attention(&a, &e), 0);
    float *got = download(&out);
    for (int64_t i = 0; i < L * N * D; i++)
        if (got[i] != (i % (N * D) == D + 19 ? as_bf16(1.0f / L) : 0.0f))
            fail_msg("query %lld, column %lld is %.9g", (long long)(i / (N * D)), (long long)(i % (N * D)), (double)got[i]);
    tensor_free(&tq), tensor_free(&tk), tensor_free(&tv), tensor_free(&out);
    free(q), free(k), free(v), free(got);
}

/* Many heads take larger blocks of queries than one; a head's result is the same. */
static void test_one_head_of_many(void **unused)
{
    (void)unused;
    enum { N = 300, L = 200 };
    static const int sizes[] = { 16, 40, 64, 80, 96, 128 };
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        const int D = sizes[c];
        const int64_t W = (int64_t)N * D;
        float *x[3];
        err e = { 0 };
        tensor all[4], one[4];
        for (int t = 0; t < 3; t++) {
            x[t] = values(L * W, 2);
            all[t] = DEV(DT_BF16, x[t], L, W);
        }
        all[3] = poisoned(DT_BF16, L, W);
        attn_args a = { .out = &all[3], .q = &all[0], .k = &all[1], .v = &all[2], .n_heads = N, .scale = 0.2f };
        assert_int_equal(op_attention(&a, &e), 0);
        float *got = download(&all[3]), *part = malloc((size_t)(L * D) * sizeof *part);
        for (int h = 0; h < N; h += 149) {
            for (int t = 0; t < 3; t++) {
                for (int64_t i = 0; i < L; i++)
                    memcpy(part + i * D, x[t] + i * W + h * D, (size_t)D * sizeof *part);
                one[t] = DEV(DT_BF16, part, L, D);
            }
            one[3] = poisoned(DT_BF16, L, D);
            attn_args b = { .out = &one[3], .q = &one[0], .k = &one[1], .v = &one[2], .n_heads = 1, .scale = 0.2f };
            assert_int_equal(op_attention(&b, &e), 0);
            float *alone = download(&one[3]);
            for (int64_t i = 0; i < L; i++)
                if (memcmp(alone + i * D, got + i * W + h * D, (size_t)D * sizeof *alone))
                    fail_msg("heads of %d: query %lld of head %d differs from the same head alone", D, (long long)i, h);
            free(alone);
            for (int t = 0; t < 4; t++)
                tensor_free(&one[t]);
        }
        for (int t = 0; t < 4; t++)
            tensor_free(&all[t]);
        for (int t = 0; t < 3; t++)
            free(x[t]);
        free(got), free(part);
    }
}

/* ---- captured attention ---- */

static const struct { dtype type; int D, heads; int64_t Lq, Lk; int plan, n_words; bool given; float spread; } maps[] = {
    { DT_F32, 12, 4, 97, 50, FULL, 3, false, 1 },      { DT_F32, 12, 4, 97, 50, SOME_KEYS, 3, true, 1 },
    { DT_F32, 64, 6, 300, 512, THREE_SHOTS, 20, true, 1 }, { DT_F32, 1, 2, 5, 7, FULL, 1, false, 1 },
    { DT_BF16, 128, 12, 260, 512, FULL, 5, true, 1 },  { DT_BF16, 128, 12, 260, 512, FULL, 5, false, 1 },
    { DT_BF16, 128, 3, 129, 512, THREE_SHOTS, 40, true, 1 }, { DT_BF16, 40, 5, 130, 77, SOME_KEYS, 9, true, 1 },
    { DT_BF16, 128, 2, 128, 512, FULL, 2, true, 3 },   { DT_BF16, 128, 2, 128, 512, FULL, 2, false, 3 },
    { DT_BF16, 200, 2, 70, 65, SINGLES, 4, false, 1 }, { DT_BF16, 128, 40, 64, 512, FULL, 8, false, 1 },
};

static void check_probs(const char *kernels)
{
    memset(worst_probs, 0, sizeof worst_probs);
    for (size_t c = 0; c < sizeof maps / sizeof *maps; c++) {
        int D = maps[c].D, N = maps[c].heads, W = maps[c].n_words, n = 0;
        int64_t Lq = maps[c].Lq, Lk = maps[c].Lk, width = (int64_t)N * D;
        float scale = 1.0f / sqrtf((float)D), *q = values(Lq * width, 1.7f * maps[c].spread), *k = values(Lk * width, 1.7f);
        int *begin = malloc((size_t)(W + 1) * sizeof *begin), *columns = malloc((size_t)(W * 45 + 1) * sizeof *columns);
        for (int w = 0; w < W; w++) {      /* words of 0, 1, 2, 3 and once 45 columns, some of them twice */
            begin[w] = n;
            for (int i = 0; i < (w == 1 ? 45 : w % 4); i++)
                columns[n++] = (int)((w * 31 + i * 7) % Lk);
        }
        begin[W] = n;
        plan_of plan;
        err e = { 0 };
        make_plan(&plan, maps[c].plan, Lq, Lk);
        tensor tq = DEV(maps[c].type, q, Lq, width), tk = DEV(maps[c].type, k, Lk, width), out = poisoned(maps[c].type, Lq, width), lse = poisoned(DT_F32, N, Lq);
        tensor all = DEV(DT_F32, NULL, N, W, Lq), mean = DEV(DT_F32, NULL, 1, W, Lq);
        attn_args a = { .out = &out, .q = &tq, .k = &tk, .v = &tk, .n_heads = N, .scale = scale, .plan = plan.plan, .lse = &lse };
        if (maps[c].given && op_attention(&a, &e))
            fail_msg("%s", e.text);
        attn_probs_args p = { .out = &all, .q = &tq, .k = &tk, .n_heads = N, .scale = scale, .plan = plan.plan, .n_words = W, .word_begin = begin,
                              .columns = columns, .lse = maps[c].given ? &lse : NULL };
        if (op_attn_probs(&p, &e))
            fail_msg("%s", e.text);
        p.out = &mean;
        assert_int_equal(op_attn_probs(&p, &e), 0);
        float *heads = download(&all), *one = download(&mean);
        double *s = malloc((size_t)(4 * Lk + 8) * sizeof *s), *of_key = malloc((size_t)Lk * sizeof *of_key), *avg = malloc((size_t)W * sizeof *avg);
        int64_t *key = malloc((size_t)(4 * Lk + 8) * sizeof *key);
        double worst = 0, highest = 0;
        for (int64_t i = 0; i < Lq; i++) {
            for (int w = 0; w < W; w++)
                avg[w] = 0;
            for (int h = 0; h < N; h++) {
                int64_t m = scores_of(&plan, i, Lk, q, k, NULL, 0, width, D, h, scale, s, key);
                double top = -INFINITY, total = 0;
                for (int64_t j = 0; j < m; j++)
                    top = s[j] > top ? s[j] : top;
                highest = top > highest ? top : highest;
                memset(of_key, 0, (size_t)Lk * sizeof *of_key);
                for (int64_t j = 0; j < m; j++) {
                    of_key[key[j]] += exp(s[j] - top);
                    total += exp(s[j] - top);
                }
                for (int w = 0; w < W; w++) {
                    double want = 0;
                    for (int x = begin[w]; x < begin[w + 1]; x++)
                        want += of_key[columns[x]] / total;
                    avg[w] += want / N;
                    double off = fabs(heads[((int64_t)h * W + w) * Lq + i] - want);
                    if (!(off <= worst))
                        worst = off;
                }
            }
            for (int w = 0; w < W; w++) {
                double off = fabs(one[w * Lq + i] - avg[w]);
                if (!(off <= worst))
                    worst = off;
            }
        }
        printf("# case %zu: %s%s, scores up to %.1f: off by %.2e\n", c, dtype_name(maps[c].type), maps[c].given ? " with lse" : "", highest, worst);
        int slot = (maps[c].type == DT_BF16) * 2 + maps[c].given;
        if (!(worst <= worst_probs[slot]))
            worst_probs[slot] = worst;
        if (!(worst <= (maps[c].given && highest > 8 ? 2e-6 : 1e-6)))      /* a given log-sum-exp above 8 is itself off by 5e-7 for its type */
            fail_msg("maps case %zu: off by %.2e", c, worst);
        tensor_free(&tq), tensor_free(&tk), tensor_free(&out), tensor_free(&lse), tensor_free(&all), tensor_free(&mean);
        free(q), free(k), free(begin), free(columns), free(heads), free(one), free(s), free(of_key), free(avg), free(key);
    }
    printf("# %s: probabilities off by at most: f32 %.2e, with lse %.2e; bf16 %.2e, with lse %.2e\n", kernels, worst_probs[0], worst_probs[1], worst_probs[2], worst_probs[3]);
}

static void test_probs(void **unused)
{
    (void)unused;
    check_probs("plain attention");
}

/* log-sum-exp from the chip's own kernel, where it has one */
static void test_probs_fast(void **unused)
{
    (void)unused;
    setenv("WANSCOPE_PLAIN_ATTENTION", "0", 1);
    check_probs("fast attention");
    setenv("WANSCOPE_PLAIN_ATTENTION", "1", 1);
}

/* ---- noise ---- */

/* The layout must be rng_cuda_normal()'s, whose sine is another: the hardware's is off by at most 6.4e-7, the radius at most 6.8. */
static void test_noise(void **unused)
{
    (void)unused;
    static const struct { uint64_t seed; int64_t n; int sms, threads; } draws[] = {
        { 0, 1, 132, 2048 }, { 42, 5, 132, 2048 }, { 7, 1000, 132, 2048 }, { (uint64_t)1 << 40 | 3, (1 << 20) + 3, 132, 2048 }, { 42, 300000, 128, 1536 },
        { 42, 2000, 1, 256 },
    };
    float worst = 0;
    for (size_t c = 0; c < sizeof draws / sizeof *draws; c++) {
        int64_t n = draws[c].n;
        float *a = malloc((size_t)n * sizeof *a), *b = malloc((size_t)n * sizeof *b);
        uint64_t offset_a = 0, offset_b = 0;
        err e = { 0 };
        for (int draw = 0; draw < 3; draw++) {
            assert_int_equal(noise_cuda_normal(be, draws[c].seed, &offset_a, draws[c].sms, draws[c].threads, a, n, &e), 0);
            assert_int_equal(rng_cuda_normal(draws[c].seed, &offset_b, draws[c].sms, draws[c].threads, b, n, &e), 0);
            assert_int_equal(offset_a, offset_b);
            for (int64_t i = 0; i < n; i++)
                if (fabsf(a[i] - b[i]) > worst)
                    worst = fabsf(a[i] - b[i]);
            for (int64_t i = 0; i < n; i++)
                if (!(fabsf(a[i] - b[i]) <= 4.4e-6f))
                    fail_msg("noise case %zu, draw %d: value %lld is %.9g, expected %.9g", c, draw, (long long)i, (double)a[i], (double)b[i]);
        }
        free(a), free(b);
    }
    /* bits of torch.randn(n, generator=g, device="cuda"), the second draw of seed 42 (PyTorch 2.11 on an H200): FNV-1a of the words */
    static const struct { int64_t n; uint64_t hash; } torch[] = { { 1, 0xb999cea8595b96c2u }, { 5, 0x27fe0588aeb15cb5u }, { 1000, 0xd28ee13c8722c278u },
                                                                  { (1 << 20) + 3, 0xcc67dbd6271d763au }, { 16 * 21 * 60 * 104, 0x465dc3ef6551b84cu } };
    for (size_t c = 0; c < sizeof torch / sizeof *torch; c++) {
        float *v = malloc((size_t)torch[c].n * sizeof *v);
        uint64_t offset = 0, hash = 14695981039346656037u;
        err e = { 0 };
        for (int draw = 0; draw < 2; draw++)
            assert_int_equal(noise_cuda_normal(be, 42, &offset, 132, 2048, v, torch[c].n, &e), 0);
        for (int64_t i = 0; i < torch[c].n; i++) {
            uint32_t word;
            memcpy(&word, v + i, 4);
            hash = (hash ^ word) * 1099511628211u;
        }
        if (hash != torch[c].hash)
            fail_msg("the second draw of %lld values is not PyTorch's", (long long)torch[c].n);
        free(v);
    }
    printf("# noise differs from the CPU's by at most %.2e\n", (double)worst);
    float v[3];
    uint64_t offset = 0;
    err e = { 0 };
    assert_int_equal(noise_cuda_normal(be, 10, &offset, 132, 2048, v, 3, &e), 0);
    assert_float_equal(v[0], -0.1029f, 5e-5f);
    assert_float_equal(v[1], 1.6810f, 5e-5f);
    assert_float_equal(v[2], -0.2708f, 5e-5f);
    assert_int_equal(offset, 4);
    assert_int_equal(noise_cuda_normal(be, 10, &offset, 0, 2048, v, 3, &e), ERR_ARG);
}

/* ---- sizes beyond 2^31 elements, where the device has the memory ---- */

static bool room_for(tensor *t, dtype type, int64_t rows, int64_t cols)
{
    err e = { 0 };
    if (!tensor_new(t, be, type, 2, (int64_t[]){ rows, cols }, &e))
        return op_zero(t, &e) == 0;
    printf("# not run: %s\n", e.text);
    return false;
}

/* Zero queries see every key alike; the last two rows are given, and must come out as they do alone. */
static void test_attention_beyond_2_31(void **unused)
{
    (void)unused;
    enum { N = 40, D = 128, W = N * D, LK = 64, TAIL = 2 };
    const int64_t L = 430001;
    err e = { 0 };
    tensor q = { 0 }, out = { 0 };
    if (room_for(&q, DT_BF16, L, W) && room_for(&out, DT_BF16, L, W)) {
        float *k = values(LK * W, 1), *v = values(LK * W, 1), *end = values(TAIL * W, 2);
        tensor tk = DEV(DT_BF16, k, LK, W), tv = DEV(DT_BF16, v, LK, W), few = DEV(DT_BF16, end, TAIL, W), want = poisoned(DT_BF16, TAIL, W);
        tensor q_end = tensor_rows(&q, L - TAIL, TAIL), out_end = tensor_rows(&out, L - TAIL, TAIL), first = tensor_rows(&out, 0, 1), before = tensor_rows(&out, L - TAIL - 1, 1);
        assert_int_equal(op_copy(&q_end, &few, &e), 0);
        attn_args a = { .out = &out, .q = &q, .k = &tk, .v = &tv, .n_heads = N, .scale = 0.1f };
        assert_int_equal(op_attention(&a, &e), 0);
        a.q = &few;
        a.out = &want;
        assert_int_equal(op_attention(&a, &e), 0);
        float *got = download(&out_end), *ref = download(&want), *x = download(&first), *y = download(&before);
        assert_memory_equal(got, ref, TAIL * W * sizeof *got);
        assert_memory_equal(x, y, W * sizeof *x);
        for (int c = 0; c < W; c++) {
            double mean = 0;
            for (int j = 0; j < LK; j++)
                mean += v[j * W + c] / (double)LK;
            if (!(fabs(x[c] - mean) <= fabs(mean) / 256 + 1e-6))
                fail_msg("column %d of the first row is %.9g, expected %.9g", c, (double)x[c], mean);
        }
        tensor_free(&tk), tensor_free(&tv), tensor_free(&few), tensor_free(&want);
        free(k), free(v), free(end), free(got), free(ref), free(x), free(y);
    }
    tensor_free(&q), tensor_free(&out);
}

static void test_axpby_beyond_2_31(void **unused)
{
    (void)unused;
    const int64_t rows = 2100001, cols = 1024;
    err e = { 0 };
    tensor x = { 0 };
    if (room_for(&x, DT_F32, rows, cols)) {
        float *end = values(cols, 1);
        tensor few = DEV(DT_F32, end, 1, cols), x_end = tensor_rows(&x, rows - 1, 1), before = tensor_rows(&x, rows - 2, 1);
        assert_int_equal(op_copy(&x_end, &few, &e), 0);
        assert_int_equal(op_axpby(&x, 2.0f, &x, 1.0f, &x, &e), 0);
        float *got = download(&x_end), *zero = download(&before);
        for (int64_t c = 0; c < cols; c++)
            if (got[c] != 2 * end[c] + end[c] || zero[c] != 0)
                fail_msg("column %lld: %.9g and %.9g, expected %.9g and 0", (long long)c, (double)got[c], (double)zero[c], (double)(3 * end[c]));
        tensor_free(&few);
        free(end), free(got), free(zero);
    }
    tensor_free(&x);
}

static int close_device(void **unused)
{
    (void)unused;
    backend_close(be);
    return 0;
}

int main(void)
{
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (!device || strncmp(device, "cuda", 4)) {
        printf("1..1\nok 1 - bf16 attention # SKIP it is for GPUs: TEST_DEVICE=cuda\n");
        return 0;
    }
    setenv("WANSCOPE_PLAIN_ATTENTION", "1", 1);
    if (backend_open(&be, device, &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_hot),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_one_head_of_many),
        cmocka_unit_test(test_probs),
        cmocka_unit_test(test_probs_fast),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_attention_beyond_2_31),
        cmocka_unit_test(test_axpby_beyond_2_31),
    };
    return cmocka_run_group_tests(tests, NULL, close_device);
}
