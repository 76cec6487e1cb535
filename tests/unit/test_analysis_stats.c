/* Intervals, tests, hulls and eigenvalues against values known on paper. */
#include "tests/unit/test_analysis_fixture.h"

#include <math.h>

#include "analysis/lib/hull.h"
#include "analysis/lib/linalg.h"
#include "analysis/lib/stats.h"
#include "core/base/parallel.h"

#define NEAR(a, b, tolerance)                                                                                          \
    do {                                                                                                               \
        double a_ = (a), b_ = (b);                                                                                     \
        if (!(fabs(a_ - b_) <= (tolerance)))                                                                           \
            fail_msg("%s = %.17g, expected %.17g", #a, a_, b_);                                                        \
    } while (0)

static void t_quantiles(void **state)
{
    (void)state;
    NEAR(stats_t_quantile(0.975, 1), 12.706204736174704, 1e-9); /* tan(0.475 pi) */
    NEAR(stats_t_quantile(0.975, 2), 4.302652729749464, 1e-10);
    NEAR(stats_t_quantile(0.975, 7), 2.364624251592785, 1e-10);
    NEAR(stats_t_quantile(0.975, 200), 1.971896224, 1e-8);
    NEAR(stats_t_quantile(0.025, 7), -2.364624251592785, 1e-10);
    NEAR(stats_t_quantile(0.5, 3), 0, 0);
}

static void intervals(void **state)
{
    (void)state;
    const double three[] = { 1, 2, 6 }, seven[] = { 1, NAN, 2, 3, 4, 5, 6, 7, INFINITY };
    stats_interval v = stats_mean_interval(three, 3, 1000, 1);
    assert_int_equal(v.method, CI_T);
    NEAR(v.mean, 3, 1e-15);
    NEAR(v.sd, sqrt(7), 1e-15);
    NEAR(v.hi - v.mean, 4.302652729749464 * sqrt(7.0 / 3), 1e-9);
    v = stats_mean_interval(seven, 9, 4000, 1);
    assert_int_equal(v.method, CI_BOOTSTRAP);
    assert_int_equal(v.n, 7);
    NEAR(v.mean, 4, 1e-15);
    NEAR(v.hi - v.mean, 1.96 * 2 / sqrt(7), 0.12); /* the normal limit, with sd (n) = 2 */
    NEAR(v.hi + v.lo, 8, 0.2);
    stats_interval again = stats_mean_interval(seven, 9, 4000, 1), other = stats_mean_interval(seven, 9, 4000, 2);
    assert_memory_equal(&v, &again, sizeof v);
    NEAR(other.lo, v.lo, 0.2);
    v = stats_mean_interval(three, 1, 1000, 1);
    assert_int_equal(v.method, CI_NONE);
    assert_true(isnan(v.lo) && isnan(v.sd));
    v = stats_mean_interval(three, 0, 1000, 1);
    assert_true(isnan(v.mean) && v.n == 0);
}

static void paired_tests(void **state)
{
    (void)state;
    const double a[] = { 2, 3, 4, 5, 7 }, b[] = { 1, 1, 1, 1, 1 };
    stats_paired r = stats_compare_paired(a, b, 5, 1000, 1);
    NEAR(r.diff.mean, 3.2, 1e-15);
    NEAR(r.dz, 3.2 / sqrt(3.7), 1e-14);
    NEAR(r.p, 0.0625, 1e-15); /* all differences positive: the smallest there is */
    NEAR(r.p_min, 0.0625, 1e-15);
    assert_true(r.exact);
    const double c[] = { 3, -1, 2 }, zero[] = { 0, 0, 0 }; /* sums 4 6 0 2 and opposites: |.| >= 4 in 4 of 8 */
    NEAR(stats_compare_paired(c, zero, 3, 1000, 1).p, 0.5, 1e-15);
    NEAR(stats_compare_paired(zero, zero, 3, 1000, 1).p, 1, 1e-15);
    double big[40], none[40] = { 0 };
    uint64_t s = 5;
    for (int i = 0; i < 40; i++)
        big[i] = noise(&s) + 0.2;
    r = stats_compare_paired(big, none, 40, 500, 3);
    assert_false(r.exact);
    assert_true(r.p > r.p_min && r.p <= 1);
    const double p[] = { 0.01, NAN, 0.04, 0.03, 0.005 };
    double h[5];
    stats_holm(h, p, 5); /* 4*0.005, 3*0.01, 2*0.03, max(1*0.04, 0.06) */
    NEAR(h[4], 0.02, 1e-15);
    NEAR(h[0], 0.03, 1e-15);
    NEAR(h[3], 0.06, 1e-15);
    NEAR(h[2], 0.06, 1e-15);
    assert_true(isnan(h[1]));
}

static void jackknife(void **state)
{
    (void)state;
    const double x[] = { 1, 2, 6, 7 }, mean = 4;
    double without[4];
    for (int i = 0; i < 4; i++)
        without[i] = (16 - x[i]) / 3;
    stats_interval v = stats_jackknife(mean, without, 4); /* of a mean: the usual standard error */
    NEAR(v.sd, sqrt((9 + 4 + 4 + 9) / 3.0 / 4), 1e-14);
    assert_int_equal(v.method, CI_JACKKNIFE);
    without[2] = NAN;
    assert_int_equal(stats_jackknife(mean, without, 4).method, CI_NONE);
    for (int i = 0; i < 4; i++)
        without[i] = 0.5 * (i + 1);
    v = stats_jackknife_log(1, without, 4);
    assert_true(v.lo > 0 && v.hi > 1);
    NEAR(v.lo * v.hi, 1, 1e-12);
}

static void subsets(void **state)
{
    (void)state;
    int64_t pick[3], seen[6] = { 0 };
    stats_rng r;
    stats_rng_seed(&r, 9);
    for (int i = 0; i < 6000; i++) {
        stats_rng_subset(&r, pick, 3, 6);
        assert_true(pick[0] < pick[1] && pick[1] < pick[2] && pick[2] < 6);
        for (int k = 0; k < 3; k++)
            seen[pick[k]]++;
    }
    for (int i = 0; i < 6; i++)
        assert_in_range(seen[i], 2800, 3200);
}

static void hulls(void **state)
{
    (void)state;
    hull_measure h;
    err e = { 0 };
    const double square[] = { 0, 0, 2, 0, 2, 3, 0, 3, 1, 1, 2, 1.5, 0, 0 };
    assert_int_equal(hull_2d(&h, square, 7, &e), 0);
    NEAR(h.volume, 6, 1e-14);
    NEAR(h.surface, 10, 1e-14);
    assert_int_equal(h.vertices, 4);
    const double line[] = { 0, 0, 1, 1, 3, 3, 2, 2 };
    hull_2d(&h, line, 4, &e);
    NEAR(h.volume, 0, 0);
    hull_2d(&h, line, 1, &e);
    NEAR(h.volume + h.surface, 0, 0);
    double cube[27 * 3]; /* corners, edge middles, face middles, centre */
    for (int i = 0; i < 27; i++) {
        cube[3 * i] = i % 3;
        cube[3 * i + 1] = 2 * (i / 3 % 3);
        cube[3 * i + 2] = i / 9;
    }
    assert_int_equal(hull_3d(&h, cube, 27, &e), 0);
    NEAR(h.volume, 16, 1e-12);
    NEAR(h.surface, 2 * (8 + 4 + 8), 1e-12);
    const double simplex[] = { 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1 };
    hull_3d(&h, simplex, 4, &e);
    NEAR(h.volume, 1.0 / 6, 1e-15);
    NEAR(h.surface, 1.5 + sqrt(3) / 2, 1e-14);
    hull_3d(&h, simplex, 3, &e); /* a triangle: flat, both sides */
    NEAR(h.volume, 0, 0);
    NEAR(h.surface, 1, 1e-14);
    double sphere[600 * 3];
    for (int i = 0; i < 600; i++) {
        double z = 1 - 2 * (i + 0.5) / 600, r = sqrt(1 - z * z), a = 2.399963229728653 * i;
        sphere[3 * i] = 5 + r * cos(a);
        sphere[3 * i + 1] = r * sin(a);
        sphere[3 * i + 2] = z;
    }
    assert_int_equal(hull_3d(&h, sphere, 600, &e), 0);
    assert_int_equal(h.vertices, 600);
    NEAR(h.volume, 4.18879, 0.05);
    NEAR(h.surface, 12.56637, 0.1);
}

/* Paths that start from the same points and stay almost in planes: what rounding makes hard. */
static void hull_degenerate(void **state)
{
    (void)state;
    double p[400 * 3];
    err e = { 0 };
    for (int round = 0; round < 60; round++) {
        uint64_t s = 77u + (uint64_t)round;
        for (int i = 0; i < 400; i++)
            for (int k = 0; k < 3; k++) {
                double fine = noise(&s) * pow(10, -(round % 17));
                p[3 * i + k] = (i * (k + 3) + i / 7) % 5 + (k == 2 ? fine : (round % 3) * fine * 1e-3);
            }
        hull_measure h, again;
        assert_int_equal(hull_3d(&h, p, 400, &e), 0);
        assert_true(isfinite(h.volume) && h.volume >= 0);
        for (int i = 0; i < 200; i++) /* in another order: the same body */
            for (int k = 0; k < 3; k++) {
                double t = p[3 * i + k];
                p[3 * i + k] = p[3 * (399 - i) + k];
                p[3 * (399 - i) + k] = t;
            }
        assert_int_equal(hull_3d(&again, p, 400, &e), 0);
        NEAR(again.volume, h.volume, 1e-8 * h.volume + 1e-9);
    }
}

static void eigenvalues(void **state)
{
    (void)state;
    err e = { 0 };
    double G[9] = { 2, 1, 0, 1, 2, 0, 0, 0, 5 }, values[3], vectors[6];
    assert_int_equal(gram_eigen(values, vectors, G, 3, 2, &e), 0);
    NEAR(values[0], 5, 1e-14);
    NEAR(values[1], 3, 1e-14);
    NEAR(values[2], 1, 1e-14);
    NEAR(vectors[2], 1, 1e-14);
    NEAR(vectors[3], sqrt(0.5), 1e-14);
    NEAR(vectors[4], sqrt(0.5), 1e-14);
    double one = 4, v = 0, u = 0;
    assert_int_equal(gram_eigen(&v, &u, &one, 1, 1, &e), 0);
    NEAR(v, 4, 0);
    NEAR(u, 1, 0);
    const double spectrum[] = { 1, 1e-3, 1e-13, 0 };
    assert_int_equal(spectrum_rank(spectrum, 4), 2);
    double line[9] = { 0, 0, 0, 0, 1, 2, 0, 2, 4 }; /* points 0, 1, 2 on a line, centred: 2 around the mean */
    gram_center(line, 3);
    NEAR(line[0], 1, 1e-15);
    NEAR(line[2], -1, 1e-15);
    NEAR(line[4], 0, 1e-15);
    double nan[4] = { NAN, 0, 0, 1 };
    e.kind = 0;
    int rc = gram_eigen(values, NULL, nan, 2, 0, &e);
    assert_true(rc == 0 || (rc == ERR_NAN && strstr(e.text, "did not converge")));
}

static void gram_threads(void **state)
{
    (void)state;
    enum { N = 230, D = 300 };
    double *x = malloc(N * D * sizeof *x), *one = calloc(N * N, sizeof *one), *two = calloc(N * N, sizeof *two);
    uint64_t s = 1;
    for (int i = 0; i < N * D; i++)
        x[i] = noise(&s);
    parallel_set_threads(1);
    gram_add(one, x, N, D);
    parallel_set_threads(2);
    gram_add(two, x, N, D);
    assert_memory_equal(one, two, N * N * sizeof *one);
    for (int i = 0; i < N; i += 37)
        for (int j = 0; j < N; j += 23) {
            double sum = 0;
            for (int k = 0; k < D; k++)
                sum += x[i * D + k] * x[j * D + k];
            NEAR(one[i * N + j], sum, 1e-11);
        }
    parallel_shutdown();
    free(two);
    free(one);
    free(x);
}

int main(void)
{
    linalg_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(t_quantiles),     cmocka_unit_test(intervals),   cmocka_unit_test(paired_tests),
        cmocka_unit_test(jackknife),       cmocka_unit_test(subsets),     cmocka_unit_test(hulls),
        cmocka_unit_test(hull_degenerate), cmocka_unit_test(eigenvalues), cmocka_unit_test(gram_threads),
    };
    return cmocka_run_group_tests_name("analysis stats", tests, NULL, NULL);
}
