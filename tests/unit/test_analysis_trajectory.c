/* Paths whose measures are known on paper, read back through HDF5 and the whole streaming pass. */
#include "tests/unit/test_analysis_fixture.h"

#include <math.h>

#include "analysis/lib/batch.h"
#include "analysis/lib/linalg.h"
#include "analysis/lib/pca.h"
#include "analysis/lib/sweep.h"
#include "analysis/lib/trajectory.h"
#include "analysis/lib/volume.h"
#include "core/base/parallel.h"

#define NEAR(a, b, tolerance)                                                                                          \
    do {                                                                                                               \
        double a_ = (a), b_ = (b);                                                                                     \
        if (!(fabs(a_ - b_) <= (tolerance)))                                                                           \
            fail_msg("%s = %.17g, expected %.17g", #a, a_, b_);                                                        \
    } while (0)

static const sweep_options ALL = {
    .across = true, .max_rows = SWEEP_MAX_ROWS, .scratch_dir = ".", .memory = SWEEP_MEMORY
};

/* Measures one path of T points in D dimensions (D a multiple of 2). */
static void measure(double *value, double *profile, const float *points, int64_t T, int64_t D, const double *sigmas,
                    int64_t n_sigmas, const int32_t *rows, bool half)
{
    fixture f;
    batch b;
    sweep s;
    err e = { 0 };
    fixture_open(&f, "path");
    fake_trace t = { .T = T,
                     .C = 2,
                     .F = 1,
                     .H = 1,
                     .W = D / 2,
                     .latents = points,
                     .sigmas = sigmas,
                     .n_sigmas = n_sigmas,
                     .rows = rows,
                     .half = half };
    add_run(&f, 0, "one", 7, &t, true);
    if (batch_open(&b, f.dir, &e) || sweep_open(&s, &b, &ALL, &e))
        fail_msg("%s", e.text);
    assert_int_equal(s.n_runs, 1);
    assert_int_equal(trajectory_of_path(value, profile, &s.runs[0].path, s.rows, s.sigma, s.T, &e), 0);
    sweep_close(&s);
    batch_close(&b);
    fixture_close(&f);
}

static void straight_line(void **state)
{
    (void)state;
    enum { T = 5, D = 600 }; /* three grains of elements, the last short */
    float x[T * D];
    const double sigma[T] = { 1, 0.9, 0.6, 0.2, 0 };
    double v[TM_COUNT], p[T * PC_COUNT];
    for (int t = 0; t < T; t++) /* walked at constant velocity in sigma, 2 units in each dimension */
        for (int d = 0; d < D; d++)
            x[t * D + d] = (float)(3 - 2 * sigma[t]);
    measure(v, p, x, T, D, sigma, T, NULL, false);
    double d = 2 * sqrt(D);
    NEAR(v[TM_PATH_LENGTH], d, 1e-5);
    NEAR(v[TM_ENDPOINT_DISTANCE], d, 1e-5);
    NEAR(v[TM_TORTUOSITY], 1, 1e-12);
    NEAR(v[TM_LINEARITY], 1, 1e-12);
    NEAR(v[TM_STRAIGHTNESS_REL], 0, 1e-12);
    NEAR(v[TM_CHORD_MAX_REL], 0, 1e-7);
    NEAR(v[TM_TURNING_TOTAL], 0, 1e-6);
    NEAR(v[TM_ALIGNMENT], 1, 1e-12);
    NEAR(v[TM_CURVATURE_MAX], 0, 1e-6);
    NEAR(v[TM_HALF_SIGMA], 0.5, 1e-6);
    NEAR(v[TM_HALF_STEP], 2.25, 1e-6); /* a quarter of the way from sigma 0.6 to 0.2 */
    NEAR(v[TM_PC1], 1, 1e-12);
    NEAR(v[TM_SIGMA_FIT], 1, 1e-10);
    NEAR(v[TM_VELOCITY_MEAN], d, 1e-5);
    NEAR(v[TM_VELOCITY_CV], 0, 1e-6);
    NEAR(v[TM_SPEED_MEAN], d / 4, 1e-5);
    NEAR(v[TM_ACCELERATION_MEAN], 0, 1e-3);
    NEAR(p[2 * PC_COUNT + PC_ARC], 0.4 * d, 1e-5);
    NEAR(p[3 * PC_COUNT + PC_TO_END], 0.2 * d, 1e-5);
    assert_true(isnan(p[PC_SPEED]) && isnan(p[PC_TURNING]) && isnan(p[(T - 1) * PC_COUNT + PC_TURNING]));
}

/* A straight path walked unevenly: straight in every sense but the rectified-flow one. S = sum v^2/dt - d^2. */
static void uneven_line(void **state)
{
    (void)state;
    const float x[3 * 2] = { 0, 0, 3, 0, 4, 0 };
    double v[TM_COUNT], p[3 * PC_COUNT];
    measure(v, p, x, 3, 2, NULL, 0, NULL, false);
    NEAR(v[TM_STRAIGHTNESS], 9 / 0.5 + 1 / 0.5 - 16, 1e-12);
    NEAR(v[TM_STRAIGHTNESS_REL], 0.25, 1e-12);
    NEAR(v[TM_CHORD_MAX], 0, 1e-12);
    NEAR(v[TM_TURNING_TOTAL], 0, 1e-7);
    NEAR(v[TM_ACCELERATION_MEAN], (6 - 2) / 0.5, 1e-12);
    NEAR(v[TM_SPEED_SD], sqrt(2), 1e-12);
    NEAR(v[TM_VELOCITY_CV], 0.5, 1e-12); /* velocities 6 and 2 around 4 */
    NEAR(v[TM_HALF_STEP], 2.0 / 3, 1e-12);
}

static void circle(void **state)
{
    (void)state;
    enum { T = 13 }; /* a half circle of radius 2, twelve turns of 15 degrees but one */
    float x[T * 2];
    double v[TM_COUNT], p[T * PC_COUNT];
    for (int t = 0; t < T; t++) {
        x[2 * t] = (float)(2 * cos(M_PI * t / 12));
        x[2 * t + 1] = (float)(2 * sin(M_PI * t / 12));
    }
    measure(v, p, x, T, 2, NULL, 0, NULL, false);
    double chord = 4 * sin(M_PI / 24);
    NEAR(v[TM_PATH_LENGTH], 12 * chord, 1e-6);
    NEAR(v[TM_TORTUOSITY], 3 * chord, 1e-6);
    NEAR(v[TM_CHORD_MAX], 2, 1e-6);
    NEAR(v[TM_CHORD_MAX_REL], 0.5, 1e-6);
    NEAR(v[TM_TURNING_TOTAL], 11 * M_PI / 12, 1e-5);
    NEAR(v[TM_TURNING_MEAN], M_PI / 12, 1e-6);
    NEAR(v[TM_CURVATURE_MEAN], 0.5, 1e-5); /* exactly 1 / radius for even steps */
    double sum = 0;
    for (int t = 0; t < 12; t++)
        sum += sin(M_PI * (t + 0.5) / 12) / 12;
    NEAR(v[TM_ALIGNMENT], sum, 1e-6);
}

static void loop_and_rest(void **state)
{
    (void)state;
    const float x[5 * 2] = { 0, 0, 1, 0, 1, 0, 1, 1, 0, 0 }; /* a step of zero, and back home */
    double v[TM_COUNT], p[5 * PC_COUNT];
    measure(v, p, x, 5, 2, NULL, 0, NULL, false);
    NEAR(v[TM_PATH_LENGTH], 2 + sqrt(2), 1e-12);
    NEAR(v[TM_ENDPOINT_DISTANCE], 0, 0);
    assert_true(isnan(v[TM_TORTUOSITY]) && isnan(v[TM_ALIGNMENT]) && isnan(v[TM_CHORD_MAX]) && isnan(v[TM_HALF_STEP]));
    NEAR(v[TM_TURNING_TOTAL], 0.75 * M_PI, 1e-12);     /* only the turn whose two steps are not zero */
    const float back[3 * 2] = { 0, 0, 1, 0, 0.5f, 0 }; /* a reversal is pi, which arccos would blur */
    measure(v, p, back, 3, 2, NULL, 0, NULL, false);
    NEAR(v[TM_TURNING_TOTAL], M_PI, 1e-12);
    const float still[2 * 2] = { 1, 1, 1, 1 };
    measure(v, p, still, 2, 2, NULL, 0, NULL, false);
    NEAR(v[TM_PATH_LENGTH], 0, 0);
    assert_true(isnan(v[TM_LINEARITY]) && isnan(v[TM_PC1]));
}

static void sparse_and_half(void **state)
{
    (void)state;
    const float x[3 * 2] = { 8, 0, 4, 0, 0, 3 };
    const double sigma[9] = { 1, 0.95, 0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0 };
    const int32_t rows[3] = { 0, 4, 8 };
    double v[TM_COUNT], p[3 * PC_COUNT];
    measure(v, p, x, 3, 2, sigma, 9, rows, true);
    NEAR(v[TM_PATH_LENGTH], 9, 1e-12);
    NEAR(v[TM_SPEED_MEAN], 9.0 / 8, 1e-12);
    NEAR(p[PC_COUNT + PC_SPEED], 1, 1e-12); /* four sampling steps of one unit each */
    NEAR(p[PC_COUNT + PC_VELOCITY], 4 / 0.3, 1e-9);
    NEAR(p[2 * PC_COUNT + PC_VELOCITY], 5 / 0.7, 1e-9);
}

/* Batches for what lies across runs: V variations, N seeds, latents from a formula. */
typedef struct cloud {
    fixture f;
    batch b;
    sweep s;
    pca p;
    volume v;
    output o;
} cloud;

static void cloud_open(cloud *c, int V, int N, int64_t D, int64_t T, double (*at)(int v, int n, int64_t t, int64_t d),
                       const sweep_options *so)
{
    err e = { 0 };
    float *x = malloc((size_t)(T * D) * sizeof *x);
    fixture_open(&c->f, "cloud");
    for (int v = 0; v < V; v++)
        for (int n = 0; n < N; n++) {
            for (int64_t i = 0; i < T * D; i++)
                x[i] = (float)at(v, n, i / D, i % D);
            fake_trace t = { .T = T, .C = 1, .F = 1, .H = 2, .W = D / 2, .latents = x };
            char slug[24];
            snprintf(slug, sizeof slug, "v%d", v);
            add_run(&c->f, v, slug, 50 + n, &t, true);
        }
    free(x);
    c->o = (output){ .resamples = 500, .dir = c->f.base };
    sweep_options options = *so;
    options.scratch_dir = c->f.base;
    if (batch_open(&c->b, c->f.dir, &e) || sweep_open(&c->s, &c->b, &options, &e) || pca_open(&c->p, &c->s, &e) ||
        volume_open(&c->v, &c->s, &c->p, 0, &c->o, &e))
        fail_msg("%s", e.text);
}

static void cloud_close(cloud *c)
{
    volume_close(&c->v);
    pca_close(&c->p);
    sweep_close(&c->s);
    batch_close(&c->b);
    fixture_close(&c->f);
    parallel_shutdown();
}

/* Results at the corners of a regular simplex: seed n at scale * e_n. */
static double corners(int v, int n, int64_t t, int64_t d)
{
    return t == 0 ? 0.25 * (double)(d == 9) : (v + 1) * (double)(d == n) * 3;
}

static void simplex(void **state)
{
    (void)state;
    cloud c;
    cloud_open(&c, 2, 5, 10, 2, corners, &ALL);
    assert_int_equal(c.v.seeds, 5);
    assert_int_equal(c.v.rank[VS_ENDS], 3); /* leaving a seed out leaves three dimensions */
    for (int g = 0; g < 2; g++) {
        double a = 3.0 * (g + 1); /* centred covariance: a^2 / 4 in four dimensions */
        const stats_interval *x = &c.v.value[g * VM_COUNT];
        NEAR(x[VM_LOG_VOLUME].mean, 3 * log(a / 2), 1e-12);
        NEAR(x[VM_SIDE].mean, a / 2, 1e-12);
        NEAR(x[VM_TOTAL_VARIANCE].mean, a * a, 1e-10);
        NEAR(x[VM_SIMPLEX].mean, log(sqrt(5) * pow(a, 4) / 24), 1e-12);
        NEAR(x[VM_REGULARISED].mean, 4 * 0.5 * log1p(a * a / 4 / c.v.epsilon[VS_ENDS]), 1e-10);
        NEAR(c.v.gap[g], 1, 1e-10);
    }
    NEAR(c.v.epsilon[VS_ENDS], 0.01 * (9.0 / 4 + 36.0 / 4) / 2, 1e-12); /* a hundredth of the mean eigenvalue */
    const volume_pair *q = &c.v.paired[0];
    NEAR(q->diff[VM_LOG_VOLUME].mean, 3 * log(2), 1e-12);
    NEAR(q->p_min, 1.0 / 16, 1e-12);
    const pca_set *seeds = &c.p.set[PCA_SEEDS], *variations = &c.p.set[PCA_VARIATIONS];
    assert_int_equal(seeds->rank, 4); /* both clouds lie in the same four dimensions */
    NEAR(seeds->participation, 4, 1e-9);
    NEAR(seeds->lambda[0], (9 + 36) / 8.0, 1e-10);
    assert_int_equal(variations->rank, 1);
    NEAR(variations->total, 5 * 0.6 * 0.6 / 2, 1e-6); /* means 0.6 and 1.2 in five dimensions */
    cloud_close(&c);
}

/* Independent coordinates of known spread: the covariance's eigenvalues are near 1 and 16. */
static double gaussian(int v, int n, int64_t t, int64_t d)
{
    uint64_t s = (uint64_t)(v * 1000 + n * 10 + 1) * 0x9e3779b97f4a7c15u + (uint64_t)d * 0xbf58476d1ce4e5b9u;
    for (int i = 0; i < 4; i++)
        noise(&s);
    return t == 0 ? noise(&s) : (v ? 4 : 1) * noise(&s);
}

static void clouds(void **state)
{
    (void)state;
    cloud c;
    cloud_open(&c, 2, 7, 4000, 3, gaussian, &ALL);
    const stats_interval *small = &c.v.value[0], *large = &c.v.value[VM_COUNT];
    NEAR(large[VM_SIDE].mean / small[VM_SIDE].mean, 4, 0.2);
    NEAR(small[VM_TOTAL_VARIANCE].mean / 4000, 1, 0.15);
    NEAR(c.v.paired[0].p, 1.0 / 64, 1e-12); /* no swap comes near: the smallest p seven seeds can give */
    assert_true(c.v.paired[0].diff[VM_LOG_VOLUME].lo > 0);
    assert_true(large[VM_AREA_2D].mean > small[VM_AREA_2D].mean);
    cloud_close(&c);
}

/* However the rows are held, and with however many threads, the sums are the same to the last bit. */
static void ways_to_hold_rows(void **state)
{
    (void)state;
    enum { D = 3000, T = 4 };
    cloud c[4];
    const sweep_options ways[4] = {
        ALL,
        { .across = true, .max_rows = 4096, .memory = 100000 },
        { .across = true, .max_rows = 4096, .memory = 100000, .no_scratch = true },
        { .across = false, .max_rows = 4096, .memory = 30000 },
    };
    err e = { 0 };
    for (int i = 0; i < 4; i++) {
        parallel_set_threads(i == 1 ? 1 : 2);
        if (i < 3) {
            cloud_open(&c[i], 2, 3, D, T, gaussian, &ways[i]);
            assert_string_equal(c[i].s.how, i == 0 ? "memory" : i == 1 ? "scratch file" : "several readings");
        } else { /* paths alone, a run at a time */
            sweep_options o = ways[3];
            o.scratch_dir = c[0].f.base;
            cloud_open(&c[3], 2, 3, D, T, gaussian, &ALL);
            sweep_close(&c[3].s);
            assert_int_equal(sweep_open(&c[3].s, &c[3].b, &o, &e), 0);
        }
        for (int64_t r = 0; i && r < 6; r++) {
            const path_sums *x = &c[0].s.runs[r].path, *y = &c[i].s.runs[r].path;
            assert_memory_equal(x->vv, y->vv, (T - 1) * (T - 1) * sizeof *x->vv);
            assert_memory_equal(x->from_start, y->from_start, T * sizeof *x->vv);
            assert_true(x->end2 == y->end2);
        }
        if (i && i < 3) {
            assert_memory_equal(c[0].s.pooled, c[i].s.pooled, 24 * 24 * sizeof(double));
            assert_memory_equal(c[0].s.ends, c[i].s.ends, 36 * sizeof(double));
            assert_memory_equal(c[0].s.end_devs, c[i].s.end_devs, 36 * sizeof(double));
        }
    }
    for (int i = 3; i >= 0; i--)
        cloud_close(&c[i]);
}

static void thinned_rows(void **state)
{
    (void)state;
    cloud c;
    const sweep_options few = { .across = true, .max_rows = 20, .memory = SWEEP_MEMORY };
    cloud_open(&c, 2, 3, 8, 9, gaussian, &few);
    assert_int_equal(c.s.pooled_per_run, 3);
    assert_int_equal(c.s.pooled_rows[0], 0);
    assert_int_equal(c.s.pooled_rows[1], 4);
    assert_int_equal(c.s.pooled_rows[2], 8);
    assert_int_equal(c.s.n_pooled, 18);
    cloud_close(&c);
}

int main(void)
{
    linalg_init();
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(straight_line), cmocka_unit_test(uneven_line),       cmocka_unit_test(circle),
        cmocka_unit_test(loop_and_rest), cmocka_unit_test(sparse_and_half),   cmocka_unit_test(simplex),
        cmocka_unit_test(clouds),        cmocka_unit_test(ways_to_hold_rows), cmocka_unit_test(thinned_rows),
    };
    return cmocka_run_group_tests_name("analysis trajectory", tests, NULL, NULL);
}
