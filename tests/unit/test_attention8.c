/* Attention in 8 bits against double arithmetic on the bf16 inputs, on the device named by TEST_DEVICE (skipped on the CPU, which has none).
 * The scratch and the outputs are poisoned with NaN first. What rounding may cost is bounded as a share of the norm; where every
 * value is a power of two and every softmax has one key, nothing is rounded and the result must be exact. */
#include "tests/unit/attention_fixture.h"

#include "core/attention8.h"

static const float SCALE = 0.08838834764f;

typedef struct { int64_t n_q, n_k; int heads; float *q, *k, *v, *out; } sample;

static sample sample_new(int64_t n_q, int64_t n_k, int heads)
{
    sample s = { n_q, n_k, heads, NULL, NULL, NULL, NULL };
    int64_t width = (int64_t)heads * D;
    s.q = malloc((size_t)(n_q * width) * 4);
    s.k = malloc((size_t)(n_k * width) * 4);
    s.v = malloc((size_t)(n_k * width) * 4);
    s.out = malloc((size_t)(n_q * width) * 4);
    for (int64_t i = 0; i < n_q * width; i++)
        s.q[i] = rounded(normal());
    for (int64_t i = 0; i < n_k * width; i++) {
        s.k[i] = rounded(normal());
        s.v[i] = rounded(normal());
    }
    return s;
}

static void sample_free(sample *s)
{
    free(s->q);
    free(s->k);
    free(s->v);
    free(s->out);
}

/* s->out = what the device makes of it; `narrow` 0: in bf16 */
static void attend(sample *s, int narrow)
{
    int64_t width = (int64_t)s->heads * D, bytes = attn8_bytes(s->n_q, s->n_k, s->heads, D);
    err e = { 0 };
    for (int64_t i = 0; i < s->n_q * width; i++)
        s->out[i] = NAN;
    tensor q = bf16_on_device(s->q, s->n_q, width), k = bf16_on_device(s->k, s->n_k, width), v = bf16_on_device(s->v, s->n_k, width), out = bf16_on_device(s->out, s->n_q, width), room;
    assert_int_equal(TENSOR_NEW(&room, be, DT_U8, &e, 1, bytes), 0);
    void *poison = malloc((size_t)bytes);
    memset(poison, 0xff, (size_t)bytes);
    assert_int_equal(op_upload(&room, poison, &e), 0);
    attn_args a = { .out = &out, .q = &q, .k = &k, .v = &v, .n_heads = s->heads, .scale = SCALE, .room8 = narrow ? &room : NULL };
    if (op_attention(&a, &e))
        fail_msg("%s", e.text);
    assert_int_equal(op_download_f32(s->out, &out, &e), 0);
    if (narrow) {      /* the scratch was used: a silent fall back to bf16 would pass every bound */
        void *after = malloc((size_t)bytes);
        assert_int_equal(op_download(after, &room, &e), 0);
        assert_memory_not_equal(after, poison, (size_t)bytes);
        free(after);
    }
    free(poison);
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&v);
    tensor_free(&out);
    tensor_free(&room);
}

/* |out - softmax(scale q k^T) v| / |that| over every `stride`-th query and the last hundred, largest over the heads */
static double error_of(const sample *s, int stride)
{
    int64_t width = (int64_t)s->heads * D;
    double worst = 0, *p = malloc((size_t)s->n_k * sizeof *p);
    for (int h = 0; h < s->heads; h++) {
        double off = 0, size = 0;
        for (int64_t i = 0; i < s->n_q; i++) {
            if (i % stride && i < s->n_q - 100)
                continue;
            double top = -INFINITY, sum = 0, out[D] = { 0 };
            for (int64_t j = 0; j < s->n_k; j++) {
                p[j] = 0;
                for (int d = 0; d < D; d++)
                    p[j] += (double)s->q[i * width + h * D + d] * (double)s->k[j * width + h * D + d];
                p[j] *= (double)SCALE;
                top = p[j] > top ? p[j] : top;
            }
            for (int64_t j = 0; j < s->n_k; j++) {
                p[j] = exp(p[j] - top);
                sum += p[j];
                for (int d = 0; d < D; d++)
                    out[d] += p[j] * (double)s->v[j * width + h * D + d];
            }
            for (int d = 0; d < D; d++) {
                double want = out[d] / sum, x = (double)s->out[i * width + h * D + d] - want;
                off += x * x;
                size += want * want;
            }
        }
        double ratio = sqrt(off / size);
        worst = ratio <= worst ? worst : ratio;      /* NaN stays */
    }
    free(p);
    return worst;
}

static void check(const char *name, sample *s, int stride, double bound)
{
    attend(s, 1);
    double off = error_of(s, stride);
    print_message("%s: %lld queries, %lld keys, %d heads: off by %.4f of the norm\n", name, (long long)s->n_q, (long long)s->n_k, s->heads, off);
    if (!(off <= bound))
        fail_msg("%s on %s, %lld queries, %lld keys, %d heads: off by %.4f of the norm, at most %.4f is expected", name, be->device, (long long)s->n_q,
                 (long long)s->n_k, s->heads, off, bound);
}

/* Rounding values to e4m3 costs 2.6 % of the norm (a relative error even over +-1/16 .. 1/32), probabilities to codes 3.2 % (rounded logarithm 2.5 %,
 * line for curve 2 %), scores of int8 about 1 %: together 4.3 %. */
static const double BOUND = 0.055;

static void lengths(void **state)
{
    static const int64_t some[] = { 1, 7, 15, 16, 17, 64, 127, 128, 129, 255, 256, 257, 383, 385, 640, 641 };
    (void)state;
    if (!be)
        skip();
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        sample s = sample_new(65, some[i], 2), t = sample_new(some[i], 300, 1);
        check("keys", &s, 1, some[i] < 64 ? 0.09 : BOUND);      /* few keys: one rounded value is a large part of the result */
        check("queries", &t, 1, BOUND);
        sample_free(&s);
        sample_free(&t);
    }
    sample s = sample_new(1560, 1560, 3);
    check("frame", &s, 11, BOUND);
    sample_free(&s);
}

/* Every softmax has one key, values are powers of two: which key and which channel goes where must be right to the bit. */
static void one_key_each(void **state)
{
    static const int64_t sizes[][3] = { { 300, 700, 2 }, { 129, 128, 1 }, { 64, 1, 1 }, { 1000, 4111, 3 } };
    (void)state;
    if (!be)
        skip();
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        sample s = sample_new(sizes[c][0], sizes[c][1], (int)sizes[c][2]);
        int64_t width = (int64_t)s.heads * D;
        for (int64_t i = 0; i < s.n_k * width; i++) {
            s.k[i] = random_bits() >> 40 & 1 ? 1.0f : -1.0f;
            s.v[i] = ldexpf(random_bits() >> 40 & 1 ? 1.0f : -1.0f, (int)(random_bits() >> 40) % 7 - 3);
        }
        for (int h = 0; h < s.heads; h++)
            for (int d = 0; d < D; d++)      /* the largest of every channel: it becomes 448, and the others 448 halved some times, all exact */
                s.v[((d + h) % s.n_k) * width + h * D + d] = 8;
        for (int64_t i = 0; i < s.n_q; i++)
            for (int h = 0; h < s.heads; h++)
                for (int d = 0; d < D; d++)
                    s.q[i * width + h * D + d] = 8 * s.k[(i * 37 + 11 * h) % s.n_k * width + h * D + d];
        attend(&s, 1);
        for (int64_t i = 0; i < s.n_q; i++)
            for (int h = 0; h < s.heads; h++)
                for (int d = 0; d < D; d++) {
                    float want = s.v[(i * 37 + 11 * h) % s.n_k * width + h * D + d], got = s.out[i * width + h * D + d];
                    if (got != want)
                        fail_msg("%lld keys: query %lld, head %d, channel %d is %g, the value of key %lld there is %g", (long long)s.n_k, (long long)i, h, d,
                                 (double)got, (long long)((i * 37 + 11 * h) % s.n_k), (double)want);
                }
        sample_free(&s);
    }
}

static void scores_that_grow(void **state)      /* the maximum is raised again and again, differently in neighbouring rows */
{
    (void)state;
    if (!be)
        skip();
    sample s = sample_new(400, 3000, 2);
    int64_t width = (int64_t)s.heads * D;
    for (int64_t j = 0; j < s.n_k; j++)
        for (int64_t c = 0; c < width; c++)
            s.k[j * width + c] = rounded(s.k[j * width + c] * (1 + 2.0f * (float)j / (float)s.n_k) + (c % 3 ? 0.5f : -2.0f));
    for (int64_t i = 0; i < s.n_q; i++)
        for (int64_t c = 0; c < width; c++)
            s.q[i * width + c] = rounded(s.q[i * width + c] * (i % 13 == 5 ? 2.0f : i % 7 == 3 ? 0.01f : 1.0f));
    check("rising", &s, 3, 0.08);      /* larger scores: int8 rounds them more */
    sample_free(&s);
}

static void few_queries_many_keys(void **state)      /* tiles are cut between workers and their pieces summed */
{
    (void)state;
    if (!be)
        skip();
    sample s = sample_new(200, 9000, 3), t = sample_new(66000, 300, 1);
    check("cut", &s, 9, BOUND);
    check("many queries", &t, 1000, BOUND);
    sample_free(&s);
    sample_free(&t);
}

static void equal_scores(void **state)      /* long sums of equal terms: what the tensor cores lose of them shows here */
{
    (void)state;
    if (!be)
        skip();
    sample s = sample_new(130, 20000, 1);
    memset(s.q, 0, (size_t)(s.n_q * D) * 4);
    for (int64_t i = 0; i < s.n_k * D; i++)
        s.v[i] = i / D % 2 ? 0.5f : 1.0f;
    attend(&s, 1);
    for (int64_t i = 0; i < s.n_q * D; i++)
        if (!(fabsf(s.out[i] - 0.75f) <= 0.004f))
            fail_msg("the mean of 1 and 0.5 came out as %g at row %lld", (double)s.out[i], (long long)(i / D));
    sample_free(&s);
}

static void nan_is_seen(void **state)
{
    (void)state;
    if (!be)
        skip();
    for (int where = 0; where < 3; where++)
        for (int kind = 0; kind < 2; kind++) {
            sample s = sample_new(100, 300, 2);
            float *x = where == 0 ? s.q : where == 1 ? s.k : s.v;
            x[57 * 2 * D + 5] = kind ? INFINITY : NAN;
            attend(&s, 1);
            int64_t bad = 0, other = 0;
            for (int64_t i = 0; i < s.n_q * 2 * D; i++)
                if (isnan(s.out[i])) {
                    bad++;
                    other += i / D % 2 == 1;
                }
            assert_int_equal(other, 0);      /* the head without it is whole */
            assert_int_equal(bad, where == 0 ? D : where == 1 ? 100 * D : 100);
            sample_free(&s);
        }
}

static void same_bits(void **state)
{
    (void)state;
    if (!be)
        skip();
    sample s = sample_new(1000, 6000, 2);
    size_t bytes = (size_t)(s.n_q * s.heads * D) * 4;
    float *first = malloc(bytes);
    for (int run = 0; run < 20; run++) {
        attend(&s, 1);
        if (run)
            assert_memory_equal(first, s.out, bytes);
        else
            memcpy(first, s.out, bytes);
    }
    free(first);
    sample_free(&s);
}

static void room_that_is_not_used(void **state)      /* a plan or a log-sum-exp it does not know: the bytes of bf16 */
{
    (void)state;
    if (!be)
        skip();
    sample s = sample_new(200, 500, 2);
    size_t n = (size_t)(s.n_q * s.heads * D);
    float *wide = malloc(n * 4);
    err e = { 0 };
    tensor q = bf16_on_device(s.q, s.n_q, 2 * D), k = bf16_on_device(s.k, s.n_k, 2 * D), v = bf16_on_device(s.v, s.n_k, 2 * D), out = bf16_on_device(s.out, s.n_q, 2 * D), room, lse;
    assert_int_equal(TENSOR_NEW(&room, be, DT_U8, &e, 1, attn8_bytes(s.n_q, s.n_k, 2, D)), 0);
    assert_int_equal(TENSOR_NEW(&lse, be, DT_F32, &e, 2, s.n_q), 0);
    attn_range part = { 0, 400 };
    attn_segment segment = { 0, s.n_q, 1, &part };
    for (int how = 0; how < 2; how++)
        for (int narrow = 0; narrow < 2; narrow++) {
            attn_args a = { .out = &out, .q = &q, .k = &k, .v = &v, .n_heads = 2, .scale = SCALE, .room8 = narrow ? &room : NULL };
            if (how)
                a.lse = &lse;
            else
                a.plan = (attn_plan){ 1, &segment };
            assert_int_equal(op_attention(&a, &e), 0);
            assert_int_equal(op_download_f32(narrow ? s.out : wide, &out, &e), 0);
            if (narrow)
                assert_memory_equal(wide, s.out, n * 4);
        }
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&v);
    tensor_free(&out);
    tensor_free(&room);
    tensor_free(&lse);
    free(wide);
    sample_free(&s);
}

static void layout(void **state)      /* needs no device: nothing overlaps, and the size is that of the parts */
{
    (void)state;
    attn8 t;
    char *base = (char *)256;
    attn8_place(&t, base, 300, 700, 3);
    assert_int_equal(t.blocks, 6);
    assert_int_equal(t.padded, 768);
    assert_int_equal(t.chunks, 6);
    const struct { void *at; int64_t bytes; } part[] = { { t.q, 300 * 384 }, { t.k, 700 * 384 }, { t.v, 768 * 384 }, { t.q_scale, 300 * 3 * 4 },
                                                         { t.k_scale, 6 * 4 * 3 * 4 }, { t.v_scale, 384 * 4 }, { t.k_mean, 384 * 4 }, { t.part, 6 * 2 * 384 * 4 } };
    int64_t at = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++) {
        assert_true((char *)part[i].at == base + at);
        at += (part[i].bytes + 255) / 256 * 256;
    }
    assert_int_equal(attn8_bytes(300, 700, 3, 128), at);
    assert_int_equal(attn8_bytes(300, 700, 3, 64), 0);
}

int main(void)
{
    if (!open_test_device())
        return 1;
    const struct CMUnitTest tests[] = { cmocka_unit_test(layout), cmocka_unit_test(one_key_each), cmocka_unit_test(lengths), cmocka_unit_test(scores_that_grow),
                                        cmocka_unit_test(few_queries_many_keys), cmocka_unit_test(equal_scores), cmocka_unit_test(nan_is_seen),
                                        cmocka_unit_test(same_bits), cmocka_unit_test(room_that_is_not_used) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    return failed;
}
