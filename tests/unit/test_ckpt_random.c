/* Checkpoints of random weights: complete for their network, of the scale of trained ones, the same every time. And the quantiles
 * that bench prints. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/io/ckpt_random.h"
#include "core/io/expect.h"
#include "experiments/bench.h"

/* wide enough that matrices are mapped, not copied (1 MiB) */
static dit_config wide(void)
{
    dit_config c = { .model_type = "t2v", .in_dim = 16, .out_dim = 16, .dim = 768, .ffn_dim = 1536, .freq_dim = 256, .text_dim = 64, .text_len = 32,
                     .num_heads = 6, .num_layers = 2, .eps = 1e-6, .patch_t = 1, .patch_h = 2, .patch_w = 2 };
    return c;
}

static int64_t statistics(const ckpt *c, const char *name, double *mean, double *deviation)
{
    const ckpt_tensor *t = ckpt_find(c, name);
    assert_non_null(t);
    int64_t n = (int64_t)(t->bytes / dtype_size(t->dtype));
    float *v = malloc((size_t)n * sizeof *v);
    double sum = 0, squares = 0;
    dtype_to_f32(v, t->data, t->dtype, n);
    for (int64_t i = 0; i < n; i++) {
        sum += v[i];
        squares += (double)v[i] * v[i];
    }
    free(v);
    *mean = sum / (double)n;
    *deviation = sqrt(fabs(squares / (double)n - *mean * *mean));
    return n;
}

/* to five standard errors of as many independent draws */
static void check_scale(const ckpt *c, const char *name, double want_mean, double want)
{
    double mean, deviation;
    double n = (double)statistics(c, name, &mean, &deviation);
    if (fabs(mean - want_mean) > 5 * want / sqrt(n) || fabs(deviation - want) > 5 * want / sqrt(2 * n))
        fail_msg("%s: mean %g, deviation %g; expected %g and %g", name, mean, deviation, want_mean, want);
}

static void test_dit(void **state)
{
    (void)state;
    err e = { 0 };
    ckpt *c;
    ckpt_want *w;
    dit_config want = wide(), got;
    assert_int_equal(ckpt_random_dit(&c, "random", &want, 3, &e), 0);
    assert_int_equal(dit_config_detect(&got, c, NULL, &e), 0);
    assert_int_equal(got.dim, want.dim);
    assert_int_equal(got.ffn_dim, want.ffn_dim);
    assert_int_equal(got.num_layers, want.num_layers);
    assert_int_equal(got.num_heads, want.num_heads);
    assert_int_equal(ckpt_want_begin(&w, c, "DiT", &e), 0);
    expect_dit(w, &want);
    if (ckpt_want_finish(w, true, &e))
        fail_msg("%s", e.text);
    check_scale(c, "blocks.0.self_attn.q.weight", 0, 1 / sqrt(768));
    check_scale(c, "blocks.1.ffn.2.weight", 0, 1 / sqrt(1536));
    check_scale(c, "blocks.0.self_attn.norm_q.weight", 1, 0);
    check_scale(c, "blocks.0.norm3.bias", 0, 0);
    const ckpt_tensor *q = ckpt_find(c, "blocks.0.self_attn.q.weight"), *k = ckpt_find(c, "blocks.0.self_attn.k.weight");
    assert_int_equal(q->dtype, DT_BF16);
    assert_int_not_equal(memcmp(q->data, k->data, q->bytes), 0);      /* else every query would see itself alone */
    assert_true(k->bytes >= 1 << 20);
    ckpt_close(c);
}

/* a tensor longer than the pattern behind it, which begins anew inside */
static void test_long(void **state)
{
    (void)state;
    err e = { 0 };
    ckpt *c;
    umt5_config t5 = { .vocab_size = 140000, .dim = 128, .dim_attn = 128, .dim_ffn = 256, .num_heads = 2, .num_layers = 1, .num_buckets = 32 }, got;
    assert_int_equal(ckpt_random_umt5(&c, "random", &t5, 3, &e), 0);
    assert_int_equal(umt5_config_detect(&got, c, &e), 0);
    assert_int_equal(got.vocab_size, t5.vocab_size);
    check_scale(c, "token_embedding.weight", 0, 1);
    check_scale(c, "blocks.0.attn.q.weight", 0, 1 / sqrt(128) / 8);       /* the scores' 1/sqrt(64) is in it */
    ckpt_close(c);
}

static void test_vae_and_seed(void **state)
{
    (void)state;
    err e = { 0 };
    ckpt *a, *b, *other;
    vae_config v = { .dim = 32, .z_dim = 16, .mult = { 1, 2, 4, 4 }, .num_res_blocks = 2, .temporal_down = { false, true, true } }, got;
    char x[65], y[65], z[65];
    assert_int_equal(ckpt_random_vae(&a, "random", &v, 3, &e), 0);
    assert_int_equal(ckpt_random_vae(&b, "random", &v, 3, &e), 0);
    assert_int_equal(ckpt_random_vae(&other, "random", &v, 4, &e), 0);
    assert_int_equal(vae_config_detect(&got, a, &e), 0);
    assert_int_equal(got.dim, 32);
    assert_int_equal(ckpt_digest(a, x, &e) | ckpt_digest(b, y, &e) | ckpt_digest(other, z, &e), 0);
    assert_string_equal(x, y);
    assert_string_not_equal(x, z);
    check_scale(a, "decoder.middle.0.residual.2.weight", 0, 1 / sqrt(128 * 27));
    check_scale(a, "decoder.middle.0.residual.0.gamma", 1, 0);
    ckpt_close(a);
    ckpt_close(b);
    ckpt_close(other);
}

static void test_quantile(void **state)
{
    (void)state;
    const double ms[] = { 5, 1, 4, 2, 3, 10 };
    assert_true(bench_quantile(ms, 6, 0.5) == 3.5);
    assert_true(bench_quantile(ms, 5, 0.5) == 3);
    assert_true(bench_quantile(ms, 6, 0) == 1);
    assert_true(bench_quantile(ms, 6, 1) == 10);
    assert_true(bench_quantile(ms, 6, 0.99) == 10);
    assert_true(bench_quantile(ms, 1, 0.5) == 5);
}

/* 1.3B at 832x480, 81 frames: 32760 tokens. By hand: 30 blocks of 2 x 32760 x (6 x 1536^2 + 2 x 1536 x 8960) for the matrices,
 * 4 x 512 x 1536^2 for the text's, 4 x 32760 x (32760 + 512) x 1536 for the scores and values; 2 x 32760 x 1536 x 128 at the ends. */
static void test_counts(void **state)
{
    (void)state;
    err e = { 0 };
    bench b = { 0 };
    assert_int_equal(bench_find_model(&b.model, "1.3b", &e), 0);
    b.tokens = 32760;
    assert_true(fabs(bench_forward_ops(&b) / 2.8299e14 - 1) < 1e-3);
    assert_int_equal(bench_find_model(&b.model, "2b", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "use 1.3b, 14b or tiny"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dit), cmocka_unit_test(test_long), cmocka_unit_test(test_vae_and_seed), cmocka_unit_test(test_quantile),
        cmocka_unit_test(test_counts),
    };
    return cmocka_run_group_tests_name("ckpt_random", tests, NULL, NULL);
}
