/* bf16 attention with heads of 128 against double arithmetic on the same bf16 inputs, on the device named by TEST_DEVICE
 * (skipped on the CPU, which has no bf16 arithmetic). Outputs are poisoned with NaN first; keys and values that no query sees are
 * NaN as well. */
#include "tests/unit/attention_fixture.h"

enum kind { RANDOM, ZERO, HUGE_SCORES, ONE_HOT, RISING, UNLIKE_ROWS };      /* later keys larger; queries of very different size */

/* softmax(scale q k^T) v of one query and head over the plan's ranges, in their order; `size` receives the sum of p |v|, and the
 * result is the largest sum of |q k| scale over the channels of a key: what f32 rounding of a score is relative to. */
static double reference(double *out, double *size, double *lse, const float *q, const float *k, const float *v, const attn_segment *g, int64_t width,
                        int head, double scale)
{
    int64_t n = 0, at = 0;
    double top = -INFINITY, sum = 0, terms = 0;
    for (int r = 0; r < g->n_ranges; r++)
        n += g->ranges[r].end - g->ranges[r].begin;
    double *s = malloc((size_t)n * sizeof *s);
    for (int r = 0; r < g->n_ranges; r++)
        for (int64_t j = g->ranges[r].begin; j < g->ranges[r].end; j++, at++) {
            double whole = 0, parts = 0;
            for (int d = 0; d < D; d++) {
                double x = (double)q[d] * (double)k[j * width + head * D + d];
                whole += x;
                parts += fabs(x);
            }
            s[at] = whole * scale;
            top = s[at] > top ? s[at] : top;
            terms = parts * scale > terms ? parts * scale : terms;
        }
    for (int d = 0; d < D; d++)
        out[d] = size[d] = 0;
    at = 0;
    for (int r = 0; r < g->n_ranges; r++)
        for (int64_t j = g->ranges[r].begin; j < g->ranges[r].end; j++, at++) {
            double p = exp(s[at] - top);
            sum += p;
            for (int d = 0; d < D; d++) {
                out[d] += p * (double)v[j * width + head * D + d];
                size[d] += p * fabs((double)v[j * width + head * D + d]);
            }
        }
    for (int d = 0; d < D; d++) {
        out[d] /= sum;
        size[d] /= sum;
    }
    *lse = top + log(sum);
    free(s);
    return terms;
}

/* Every `stride`-th query is compared, and the last hundred of every segment. */
static void check(const char *name, int64_t n_q, int64_t n_k, int heads, const attn_plan *plan, enum kind kind, int stride)
{
    int64_t width = heads * D;
    float scale = 0.08838834764f;
    attn_range all = { 0, n_k };
    attn_segment one = { 0, n_q, 1, &all };
    attn_plan whole = { 1, &one };
    const attn_plan *truth = plan ? plan : &whole;
    float *q = malloc((size_t)(n_q * width) * 4), *k = malloc((size_t)(n_k * width) * 4), *v = malloc((size_t)(n_k * width) * 4);
    float *got = malloc((size_t)(n_q * width) * 4), *got_lse = malloc((size_t)(n_q * heads) * 4);
    char *visible = calloc((size_t)n_k, 1);
    float size = kind == ZERO ? 0.0f : kind == HUGE_SCORES ? 100.0f : 1.0f;      /* 100: scores reach 1e4 and more */
    for (int64_t i = 0; i < n_q * width; i++)
        q[i] = rounded(normal() * size * (kind != UNLIKE_ROWS ? 1 : i / width % 13 == 5 ? 60 : i / width % 7 == 3 ? 0.01f : 1));
    for (int s = 0; s < truth->n_segments; s++)
        for (int r = 0; r < truth->segments[s].n_ranges; r++)
            for (int64_t j = truth->segments[s].ranges[r].begin; j < truth->segments[s].ranges[r].end; j++)
                visible[j] = 1;
    for (int64_t j = 0; j < n_k; j++)
        for (int64_t c = 0; c < width; c++) {
            k[j * width + c] = visible[j] ? rounded(normal() * size * (kind == RISING ? 1 + 40.0f * (float)j / (float)n_k : 1)) : NAN;
            v[j * width + c] = !visible[j] ? NAN : kind == ONE_HOT ? c % D == (j * 37 + j / D * 11) % D ? (float)(1 + j % 7) : 0.0f : rounded(normal());
        }
    for (int64_t i = 0; i < n_q * width; i++)
        got[i] = NAN;
    for (int64_t i = 0; i < n_q * heads; i++)
        got_lse[i] = NAN;
    tensor tq = bf16_on_device(q, n_q, width), tk = bf16_on_device(k, n_k, width), tv = bf16_on_device(v, n_k, width), to = bf16_on_device(got, n_q, width), tl;
    err e = { 0 };
    assert_int_equal(TENSOR_NEW(&tl, be, DT_F32, &e, heads, n_q), 0);
    assert_int_equal(op_upload(&tl, got_lse, &e), 0);
    attn_args a = { .out = &to, .q = &tq, .k = &tk, .v = &tv, .n_heads = heads, .scale = scale, .lse = &tl };
    if (plan)
        a.plan = *plan;
    if (op_attention(&a, &e))
        fail_msg("%s: %s", name, e.text);
    assert_int_equal(op_download_f32(got, &to, &e), 0);
    assert_int_equal(op_download(got_lse, &tl, &e), 0);
    /* Bounds: the output and every probability are rounded to bf16 (2^-8 each at most), scores to f32 (a few 2^-23 of their terms: it counts
     * where scores are huge), sums in f32. */
    double worst = 0, worst_lse = 0;
    int64_t at = -1;
    for (int s = 0; s < truth->n_segments; s++) {
        const attn_segment *g = &truth->segments[s];
        for (int64_t i = g->q_begin; i < g->q_end; i++) {
            if ((i - g->q_begin) % stride && i < g->q_end - 100)
                continue;
            for (int h = 0; h < heads; h++) {
                double want[D], size[D], lse;
                double noise = ldexp(reference(want, size, &lse, q + i * width + h * D, k, v, g, width, h, (double)scale), -21);
                for (int d = 0; d < D; d++) {
                    double bound = ldexp(fabs(want[d]) + size[d], -8) * 1.01 + (1e-4 + 2 * noise) * size[d] + 1e-30;
                    double off = fabs((double)got[i * width + h * D + d] - want[d]) / bound;
                    if (!(off <= worst)) {
                        worst = off < INFINITY ? off : INFINITY;      /* NaN too */
                        at = i * width + h * D + d;
                    }
                }
                double off = fabs((double)got_lse[h * n_q + i] - lse) / (3e-6 * (fabs(lse) > 1 ? fabs(lse) : 1) + noise);
                if (!(off <= worst_lse))
                    worst_lse = off < INFINITY ? off : INFINITY;
            }
        }
    }
    if (!(worst <= 1) || !(worst_lse <= 1))
        fail_msg("%s on %s, %lld queries, %lld keys, %d heads: %.2f times the bound at row %lld, column %lld; log-sum-exp %.2f times its bound", name,
                 be->device, (long long)n_q, (long long)n_k, heads, worst, (long long)(at / width), (long long)(at % width), worst_lse);
    tensor_free(&tq);
    tensor_free(&tk);
    tensor_free(&tv);
    tensor_free(&to);
    tensor_free(&tl);
    free(q);
    free(k);
    free(v);
    free(got);
    free(got_lse);
    free(visible);
}

static void lengths(void **state)
{
    static const int64_t some[] = { 1, 7, 64, 127, 128, 129, 159, 160, 161, 175, 176, 177, 319, 321, 351, 353 };
    (void)state;
    if (!be)
        skip();
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        check("keys", 65, some[i], 2, NULL, RANDOM, 1);
        check("queries", some[i], 300, 1, NULL, RANDOM, 1);
    }
    check("frame", 1560, 1560, 3, NULL, RANDOM, 11);
    check("text", 700, 512, 12, NULL, RANDOM, 7);
}

static void values_of_all_kinds(void **state)
{
    (void)state;
    if (!be)
        skip();
    for (enum kind k = ZERO; k <= UNLIKE_ROWS; k++) {
        check("kind, one key", 130, 1, 2, NULL, k, 1);
        check("kind", 300, 700, 2, NULL, k, 3);
    }
}

static void few_queries_many_keys(void **state)      /* tiles are cut between workers and their pieces summed */
{
    (void)state;
    if (!be)
        skip();
    check("cut", 200, 9000, 3, NULL, RANDOM, 9);
    check("cut, rising", 300, 9000, 2, NULL, RISING, 20);
    check("cut, one-hot", 1000, 6000, 2, NULL, ONE_HOT, 50);
}

static void plans(void **state)
{
    (void)state;
    if (!be)
        skip();
    attn_range ring[] = { { 10, 100 }, { 200, 200 }, { 350, 601 }, { 601, 700 }, { 60, 100 }, { 900, 901 } }, single[] = { { 990, 991 } };
    attn_segment segments[] = { { 0, 400, 6, ring }, { 400, 400, 1, single }, { 400, 401, 1, single }, { 401, 900, 4, ring + 2 } };
    attn_plan plan = { 4, segments };
    check("ranges", 900, 1000, 3, &plan, RANDOM, 3);
    check("ranges, one-hot", 900, 1000, 1, &plan, ONE_HOT, 3);
    enum { SHOTS = 4, FRAME = 70 };
    static const int64_t starts[SHOTS + 1] = { 0, 3, 4, 9, 13 };      /* own frames, then the first frame of every shot, the own one twice */
    attn_range seen[SHOTS][SHOTS + 1];
    attn_segment shots[SHOTS];
    for (int s = 0; s < SHOTS; s++) {
        seen[s][0] = (attn_range){ starts[s] * FRAME, starts[s + 1] * FRAME };
        for (int o = 0; o < SHOTS; o++)
            seen[s][1 + o] = (attn_range){ starts[o] * FRAME, (starts[o] + 1) * FRAME };
        shots[s] = (attn_segment){ starts[s] * FRAME, starts[s + 1] * FRAME, SHOTS + 1, seen[s] };
    }
    plan = (attn_plan){ SHOTS, shots };
    check("shots", 13 * FRAME, 13 * FRAME, 2, &plan, RANDOM, 5);
}

static void same_bits(void **state)      /* twenty times, with and without the log-sum-exp */
{
    enum { Q = 1000, K = 6000, HEADS = 2 };
    (void)state;
    if (!be)
        skip();
    size_t n = (size_t)K * HEADS * D;
    float *x = malloc(n * 4);
    uint16_t *first = malloc((size_t)Q * HEADS * D * 2), *again = malloc((size_t)Q * HEADS * D * 2);
    tensor t[4], lse;
    err e = { 0 };
    for (int i = 0; i < 4; i++) {
        for (size_t j = 0; j < n; j++)
            x[j] = normal();
        t[i] = bf16_on_device(x, i == 1 || i == 2 ? K : Q, HEADS * D);
    }
    assert_int_equal(TENSOR_NEW(&lse, be, DT_F32, &e, HEADS, Q), 0);
    for (int run = 0; run < 20; run++) {
        attn_args a = { .out = &t[3], .q = &t[0], .k = &t[1], .v = &t[2], .n_heads = HEADS, .scale = 0.088f, .lse = run % 2 ? &lse : NULL };
        assert_int_equal(op_zero(&t[3], &e), 0);
        assert_int_equal(op_attention(&a, &e), 0);
        assert_int_equal(op_download(run ? again : first, &t[3], &e), 0);
        if (run)
            assert_memory_equal(first, again, (size_t)Q * HEADS * D * 2);
    }
    for (int i = 0; i < 4; i++)
        tensor_free(&t[i]);
    tensor_free(&lse);
    free(x);
    free(first);
    free(again);
}

int main(void)
{
    if (!open_test_device())
        return 1;
    const struct CMUnitTest tests[] = { cmocka_unit_test(lengths), cmocka_unit_test(values_of_all_kinds), cmocka_unit_test(few_queries_many_keys),
                                        cmocka_unit_test(plans), cmocka_unit_test(same_bits) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    return failed;
}
