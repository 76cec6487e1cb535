/* rng against PyTorch: the golden file of the rng folder (any seeds and lengths), published values, and the rules
 * that decide the numbers (tail redraw, cached half, launch geometry, offsets). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/sample/rng.h"

#define H200_SMS 132
#define H200_THREADS 2048
#define WAN480P ((int64_t)16 * 21 * 60 * 104)
#define CUDA_TOLERANCE 2e-6     /* the GPU's hardware sine against a correct one */

/* A safetensors file, read just far enough for this test. */
typedef struct golden {
    fs_map map;
    json *header;
    const uint8_t *data;
} golden;

static bool golden_open(golden *g, const char *folder)
{
    memset(g, 0, sizeof *g);
    const char *root = getenv("GOLDENS");
    char *dir = fs_join(root ? root : "../shared/goldens", folder);
    char *path = fs_join(dir, "golden.safetensors");
    bool there = fs_exists(path);
    if (there) {
        err e = { 0 };
        uint64_t header;
        if (fs_map_open(&g->map, path, &e))
            fail_msg("%s", e.text);
        memcpy(&header, g->map.data, 8);
        if (json_parse(&g->header, (const char *)g->map.data + 8, header, path, &e))
            fail_msg("%s", e.text);
        g->data = g->map.data + 8 + header;
    }
    free(path);
    free(dir);
    return there;
}

static void golden_close(golden *g)
{
    json_free(g->header);
    fs_map_close(&g->map);
}

static const void *golden_tensor(const golden *g, const char *key, int64_t *n)
{
    const json *t = json_get(g->header, key);
    if (!t)
        return NULL;
    *n = 1;
    for (size_t i = 0; i < json_count(json_get(t, "shape")); i++)
        *n *= (int64_t)json_number(json_at(json_get(t, "shape"), i), 0);
    return g->data + (size_t)json_number(json_at(json_get(t, "data_offsets"), 0), 0);
}

static float *cuda_draw(uint64_t seed, uint64_t *offset, int64_t n)
{
    err e = { 0 };
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    assert_int_equal(rng_cuda_normal(seed, offset, H200_SMS, H200_THREADS, x, n, &e), 0);
    return x;
}

static void same_bits(const char *key, const float *got, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(got + i, want + i, sizeof *got))
            fail_msg("%s[%lld] is %.9g, expected %.9g", key, (long long)i, (double)got[i], (double)want[i]);
}

static void near_values(const char *key, const float *got, int64_t stride, const float *want, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i * stride] - (double)want[i]) <= CUDA_TOLERANCE))
            fail_msg("%s[%lld] is %.9g, expected %.9g", key, (long long)i, (double)got[i * stride], (double)want[i]);
}

static void check_cpu(const char *key, uint64_t seed, int64_t n, const float *want)
{
    float *x = malloc((size_t)n * sizeof *x);
    rng_cpu g;
    assert_non_null(x);
    rng_cpu_seed(&g, seed);
    rng_cpu_normal(&g, x, n);
    same_bits(key, x, want, n);
    free(x);
}

static void check_cpu_sequence(const golden *g, const char *key, uint64_t seed)
{
    rng_cpu r;
    rng_cpu_seed(&r, seed);
    for (char draw = 'a'; draw <= 'c'; draw++) {
        char name[128];
        int64_t n;
        snprintf(name, sizeof name, "%.*s%c", (int)strlen(key) - 1, key, draw);
        const float *want = golden_tensor(g, name, &n);
        if (!want)
            fail_msg("%s is missing", name);
        float *x = malloc((size_t)n * sizeof *x);
        assert_non_null(x);
        rng_cpu_normal(&r, x, n);
        same_bits(name, x, want, n);
        free(x);
    }
}

static void check_wan480p(const char *key, uint64_t seed, const void *want, int64_t n)
{
    uint64_t offset = 0;
    float *x = cuda_draw(seed, &offset, WAN480P);
    if (strstr(key, ".sum64")) {
        double sum = 0, expected;
        memcpy(&expected, want, sizeof expected);
        for (int64_t i = 0; i < WAN480P; i++)
            sum += (double)x[i];
        if (!(fabs(sum - expected) <= 0.1))
            fail_msg("%s is %.6f, expected %.6f", key, sum, expected);
    } else {
        int64_t stride = strtoll(strstr(key, ".stride") + 7, NULL, 10);
        assert_int_equal(n, (WAN480P + stride - 1) / stride);
        near_values(key, x, stride, want, n);
    }
    free(x);
}

static void check_cuda(const golden *g, const char *key, uint64_t seed, int64_t n, const float *want, int64_t stored)
{
    char name[128];
    int64_t n_next;
    uint64_t offset = 0;
    float *x = cuda_draw(seed, &offset, n);
    near_values(key, x, stored == n ? 1 : 257, want, stored);
    free(x);
    snprintf(name, sizeof name, "%s.next", key);
    const float *next = golden_tensor(g, name, &n_next);
    if (!next)
        return;
    assert_int_equal(offset, 4);
    x = cuda_draw(seed, &offset, n_next);
    near_values(name, x, 1, next, n_next);
    assert_int_equal(offset, 8);
    free(x);
}

static void test_goldens(void **state)
{
    (void)state;
    golden g;
    if (!golden_open(&g, "rng"))
        skip();
    int checked = 0;
    for (size_t i = 0; i < json_count(g.header); i++) {
        const char *key = json_key(g.header, i);
        int64_t n, count;
        if (strcmp(key, "__metadata__") == 0 || strstr(key, ".next"))
            continue;
        const void *want = golden_tensor(&g, key, &n);
        char *end;
        const char *dot = strchr(key, '.');
        assert_non_null(dot);
        uint64_t seed = strtoull(dot + 1, &end, 10);
        count = strtoll(end + 1, NULL, 10);
        if (str_starts_with(key, "cpu_seq.")) {
            if (str_ends_with(key, ".a"))
                check_cpu_sequence(&g, key, seed);
        } else if (str_starts_with(key, "cpu.")) {
            check_cpu(key, seed, count, want);
        } else if (strstr(key, ".wan480p.")) {
            check_wan480p(key, seed, want, n);
        } else {
            assert_true(str_starts_with(key, "cuda."));
            check_cuda(&g, key, seed, count, want, n);
        }
        checked++;
    }
    assert_true(checked > 0);
    golden_close(&g);
}

static void expect_values(const float *got, const double *want, int n)
{
    for (int i = 0; i < n; i++)
        assert_true(fabs((double)got[i] - want[i]) < 6e-5);
}

static void test_published_values(void **state)
{
    (void)state;
    rng_cpu g;
    float x[20];
    rng_cpu_seed(&g, 0);
    assert_int_equal(rng_cpu_u32(&g), 2357136044u);
    assert_int_equal(rng_cpu_u32(&g), 2546248239u);
    rng_cpu_seed(&g, UINT64_C(0xffffffff0000002a));         /* only the low 32 bits count */
    assert_int_equal(rng_cpu_u32(&g), 1608637542u);

    const double ten[] = { 1.5410, -0.2934, -2.1788, 0.5684, -1.0845, -1.3986, 0.4033, 0.8380, -0.7193, -0.4033 };
    rng_cpu_seed(&g, 0);
    rng_cpu_normal(&g, x, 10);
    expect_values(x, ten, 10);
    const double twenty[] = { -1.1258, -1.1524, -0.2506, -0.4339, 0.5988, -1.5551, -0.3414, 1.8530, 0.4681, -0.1577,
                              1.4437, 0.2660, 1.3894, 1.5863, 0.9463, -0.8437, 0.9318, 1.2590, 2.0050, 0.0537 };
    rng_cpu_seed(&g, 0);
    rng_cpu_normal(&g, x, 20);
    expect_values(x, twenty, 20);

    uint64_t offset = 0;
    err e = { 0 };
    const double three[] = { -0.1029, 1.6810, -0.2708 };
    assert_int_equal(rng_cuda_normal(10, &offset, H200_SMS, H200_THREADS, x, 3, &e), 0);
    expect_values(x, three, 3);
    const uint32_t zero[4] = { 0, 0, 0, 0 }, key[2] = { 42, 0 };
    uint32_t r[4];
    rng_philox(zero, key, r);
    assert_int_equal(r[0], 0x9ceaf053u);
    assert_int_equal(r[3], 0x5742b3d7u);
}

/* A short draw makes values in pairs and keeps the second half; a long draw neither uses nor drops it; a seed does. */
static void test_cached_half(void **state)
{
    (void)state;
    rng_cpu a, b;
    float x[32], y[32];
    rng_cpu_seed(&a, 7);
    b = a;
    rng_cpu_normal(&a, x, 3);
    assert_true(a.has_cached);
    rng_cpu_normal(&a, x + 3, 1);
    rng_cpu_normal(&b, y, 4);
    assert_memory_equal(x, y, 4 * sizeof *x);

    rng_cpu_normal(&a, x, 1);
    double kept = a.cached;
    rng_cpu_normal(&a, x, 32);
    assert_true(a.has_cached && memcmp(&a.cached, &kept, sizeof kept) == 0);
    rng_cpu_seed(&a, 7);
    assert_false(a.has_cached);
    rng_cpu before = a;
    rng_cpu_normal(&a, x, 0);
    rng_cpu_normal(&a, x, -5);
    assert_int_equal(a.next, before.next);
}

/* Elements beyond one launch of all threads come from the same threads again: recomputed here from the definition. */
static void test_launch_geometry(void **state)
{
    (void)state;
    err e = { 0 };
    const int sms = 3, threads_per_sm = 1000;               /* 3 * floor(1000 / 256) * 256 = 2304 threads */
    const int64_t threads = 2304;
    for (int64_t n = 9200; n <= 9300; n += 7) {
        float *x = malloc((size_t)n * sizeof *x);
        uint64_t offset = 8;
        assert_non_null(x);
        assert_int_equal(rng_cuda_normal(UINT64_C(0x123456789a), &offset, sms, threads_per_sm, x, n, &e), 0);
        assert_int_equal(offset, 8 + ((n - 1) / (threads * 4) + 1) * 4);
        for (int64_t i = 0; i < n; i += 13) {
            int64_t p = i % threads, w = i / threads;
            const uint32_t counter[4] = { (uint32_t)(w / 4 + 2), 0, (uint32_t)p, 0 }, key[2] = { 0x3456789au, 0x12u };
            uint32_t r[4];
            rng_philox(counter, key, r);
            double u = ((double)r[w % 4 / 2 * 2] + 0.5) / 4294967296.0;
            double v = ((double)r[w % 4 / 2 * 2 + 1] + 0.5) / 4294967296.0 * 6.283185307179586;
            double want = sqrt(-2 * log(u)) * (w % 2 ? cos(v) : sin(v));
            assert_true(fabs(want - (double)x[i]) < 1e-4);
        }
        free(x);
    }
}

static void test_bad_arguments(void **state)
{
    (void)state;
    err e = { 0 };
    float x[4] = { 9, 9, 9, 9 };
    uint64_t offset = 0;
    assert_int_equal(rng_cuda_normal(1, &offset, 0, 2048, x, 4, &e), ERR_ARG);
    assert_string_equal(e.text, "CUDA noise: a GPU with 0 multiprocessors of 2048 threads is impossible, expected at "
                                "least 1 and 256; an H100 SXM has 132 and 2048");
    assert_int_equal(rng_cuda_normal(1, &offset, 8, 255, x, 4, &e), ERR_ARG);
    assert_int_equal(rng_cuda_normal(1, &offset, 8, 2048, x, -1, &e), ERR_ARG);
    assert_string_equal(e.text, "CUDA noise: asked for -1 values, expected zero or more");
    offset = 3;
    assert_int_equal(rng_cuda_normal(1, &offset, 8, 2048, x, 4, &e), ERR_ARG);
    assert_string_equal(e.text, "CUDA noise: the generator's offset is 3, expected a multiple of 4");
    assert_true(x[0] == 9.0f);
    offset = 0;
    assert_int_equal(rng_cuda_normal(1, &offset, 8, 2048, x, 0, &e), 0);
    assert_int_equal(offset, 0);
}

static void test_gpu_names(void **state)
{
    (void)state;
    err e = { 0 };
    const rng_gpu *g;
    assert_int_equal(rng_gpu_find(&g, "NVIDIA GeForce RTX 4090", &e), 0);
    assert_int_equal(g->sms, 128);
    assert_int_equal(g->threads_per_sm, 1536);
    assert_int_equal(rng_gpu_find(&g, "H200", &e), 0);
    assert_int_equal(g->sms, 132);
    assert_int_equal(rng_gpu_find(&g, "abacus", &e), ERR_CONFIG);
    assert_null(g);
    assert_non_null(strstr(e.text, "no GPU named 'abacus' is known, expected one of: h200, h100"));
}

static void test_speed(void **state)
{
    (void)state;
    struct timespec a, b;
    uint64_t offset = 0;
    rng_cpu g;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    float *x = cuda_draw(42, &offset, WAN480P);
    rng_cpu_seed(&g, 42);
    rng_cpu_normal(&g, x, WAN480P);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    double seconds = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
    free(x);
    print_message("one 480p latent from each generator: %.3f s\n", seconds);
    assert_true(seconds < 5.0);       /* a sanitizer build on a busy machine is still far below */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),         cmocka_unit_test(test_published_values),
        cmocka_unit_test(test_cached_half),     cmocka_unit_test(test_launch_geometry),
        cmocka_unit_test(test_bad_arguments),   cmocka_unit_test(test_gpu_names),
        cmocka_unit_test(test_speed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
