/* Context windows: where they lie, their weights, averages against a direct sum, and runs window by window on the tiny model. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/sample/windows.h"
#include "core/dit/shots.h"
#include "tests/unit/engine_fixture.h"

/* "0-3 3-6" of the windows; a window that does not run evenly is written out */
static void check_windows(window_options o, int n, const char *want)
{
    window_list l;
    str text = STR_INIT;
    DO(windows_make(&l, &o, n, e));
    for (int i = 0; i < l.n; i++) {
        const window *w = &l.items[i];
        bool even = true;
        for (int k = 1; k < w->n; k++)
            even &= w->frames[k] == w->frames[k - 1] + 1;
        str_add(&text, i ? " " : "");
        if (even)
            str_addf(&text, "%d-%d", w->frames[0], w->frames[w->n - 1]);
        for (int k = 0; !even && k < w->n; k++)
            str_addf(&text, "%s%d", k ? "," : "", w->frames[k]);
    }
    assert_string_equal(str_text(&text), want);
    str_release(&text);
    windows_release(&l);
}

static void test_schedules(void **state)
{
    (void)state;
    window_options o = { 4, 1, WINDOWS_STATIC, 1, false, FUSE_FLAT };
    check_windows(o, 3, "0-2");
    check_windows(o, 4, "0-3");
    check_windows(o, 5, "0-3 1-4");
    check_windows(o, 10, "0-3 3-6 6-9");
    check_windows(o, 11, "0-3 3-6 6-9 7-10");
    o.schedule = WINDOWS_BATCHED;
    check_windows(o, 10, "0-3 4-7 8-9");
    o.schedule = WINDOWS_UNIFORM;
    check_windows(o, 10, "0-3 3-6 6-9");
    check_windows(o, 11, "0-3 3-6 6-9 7-10");      /* 9,10,0,1 is moved back */
    o.closed_loop = true;
    check_windows(o, 10, "0-3 3-6 6-9");            /* 9,0,1,2 becomes 6-9, which is there already */
    o.schedule = WINDOWS_LOOPED;
    check_windows(o, 10, "0-3 3-6 6-9 9,0,1,2");
    o.closed_loop = false;
    check_windows(o, 11, "0-3 3-6 6-9 9,10,0,1");
    o.stride = 2;
    check_windows(o, 8, "0-3 3-6 6,7,0,1 0,2,4,6");      /* ceil(log2(8/4)) + 1 = 2 spacings */
    o.schedule = WINDOWS_UNIFORM;
    check_windows(o, 8, "0-3 3-6 4-7 0,2,4,6");
    o.stride = 9;                                        /* no more spacings than the video has room for */
    check_windows(o, 8, "0-3 3-6 4-7 0,2,4,6");
    window_options upstream = WINDOW_OPTIONS_INIT;       /* 81 and 30 frames of H1111, a video of 241 */
    upstream.length = windows_latents(81);
    upstream.overlap = windows_overlap_latents(30);
    check_windows(upstream, 61, "0-20 13-33 26-46 39-59 40-60");
}

static void test_lengths(void **state)
{
    (void)state;
    const int frames[] = { 81, 1, 5, 4, 0 }, latents[] = { 21, 1, 2, 1, 1 };
    for (int i = 0; i < 5; i++)
        assert_int_equal(windows_latents(frames[i]), latents[i]);
    assert_int_equal(windows_overlap_latents(30), 8);
    assert_int_equal(windows_overlap_latents(1), 1);
    assert_int_equal(windows_overlap_latents(0), 0);
}

static void test_bad_options(void **state)
{
    (void)state;
    window_options o = { 4, 4, WINDOWS_STATIC, 1, false, FUSE_FLAT };
    window_list l;
    err e = { 0 };
    assert_int_equal(windows_make(&l, &o, 10, &e), ERR_CONFIG);
    assert_text_has(e.text, "context windows of 4 latent frames that overlap by 4");
    assert_text_has(e.text, "the overlap must be smaller than the window");
}

static void check_weights(window_options o, const int *frames, int n, int all, const float *want)
{
    float got[16];
    window w = { n, (int *)frames };
    windows_weights(got, &w, &o, all);
    for (int i = 0; i < n; i++)
        if (got[i] != want[i])
            fail_msg("weight %d is %.9g, expected %.9g", i, got[i], want[i]);
}

static void test_weights(void **state)
{
    (void)state;
    const int first[5] = { 0, 1, 2, 3, 4 }, middle[5] = { 3, 4, 5, 6, 7 }, last[5] = { 5, 6, 7, 8, 9 };
    window_options o = { 5, 3, WINDOWS_STATIC, 1, false, FUSE_PYRAMID };
    check_weights(o, middle, 5, 10, (float[]){ 1, 2, 3, 2, 1 });
    check_weights(o, middle, 4, 10, (float[]){ 1, 2, 2, 1 });
    o.fuse = FUSE_FLAT;
    check_weights(o, middle, 5, 10, (float[]){ 1, 1, 1, 1, 1 });
    o.fuse = FUSE_OVERLAP_LINEAR;
    check_weights(o, first, 5, 10, (float[]){ 1, 1, 1, 0.5f, 1e-37f });
    check_weights(o, last, 5, 10, (float[]){ 1e-37f, 0.5f, 1, 1, 1 });
    check_weights(o, middle, 5, 10, (float[]){ 1e-37f, 0.5f, 1, 0.5f, 1e-37f });
    o.overlap = 1;
    check_weights(o, middle, 5, 10, (float[]){ 1e-37f, 1, 1, 1, 1 });
    o.overlap = 0;
    check_weights(o, middle, 5, 10, (float[]){ 1, 1, 1, 1, 1 });
}

/* every method against the definition, summed in double */
static void test_averages(void **state)
{
    (void)state;
    enum { C = 2, N = 7, PLANE = 3 };
    for (int fuse = FUSE_PYRAMID; fuse <= FUSE_RELATIVE; fuse++) {
        window_options o = { 4, 2, WINDOWS_STATIC, 1, false, (window_fuse)fuse };
        window_list l;
        window_sum s;
        double want[C * N * PLANE] = { 0 }, total[N] = { 0 };
        DO(windows_make(&l, &o, N, e));
        DO(window_sum_begin(&s, &o, C, N, PLANE, e));
        for (int round = 0; round < 2; round++) {      /* a second round starts afresh */
            window_sum_reset(&s);
            for (int i = 0; i < l.n; i++) {
                const window *w = &l.items[i];
                float part[C * 4 * PLANE], weights[4];
                fix_noise(part, C * 4 * PLANE, (uint32_t)(100 * fuse + i + 1), 1);
                window_sum_add(&s, w, part);
                windows_weights(weights, w, &o, N);
                for (int k = 0; round == 0 && k < w->n; k++) {
                    int f = w->frames[k];
                    double first = w->frames[0], last = w->frames[w->n - 1];
                    double b = fuse == FUSE_RELATIVE ? fmax(0.01, 1 - fabs(f - (first + last) / 2) / ((last - first + 0.01) / 2)) : weights[k];
                    for (int c = 0; c < C; c++)
                        for (int p = 0; p < PLANE; p++) {
                            double *v = &want[(c * N + f) * PLANE + p], x = part[(c * w->n + k) * PLANE + p];
                            *v = (*v * total[f] + x * b) / (total[f] + b);      /* both forms of the average are this one */
                        }
                    total[f] += b;
                }
            }
        }
        const float *got = window_sum_finish(&s);
        for (int i = 0; i < C * N * PLANE; i++)
            if (fabs(got[i] - want[i]) > 1e-6)
                fail_msg("method %d, value %d is %.9g, expected %.9g", fuse, i, got[i], want[i]);
        window_sum_end(&s);
        windows_release(&l);
    }
}

/* a window that begins in shot 1 of 3 sees the captions of its shots only, and the padding starts behind all captions */
static void test_shots_in_a_window(void **state)
{
    (void)state;
    int ranges[3][2] = { { 4, 8 }, { 8, 12 }, { 12, 16 } }, shot[3] = { 1, 2, 2 };
    shot_spans spans = { true, { 0, 4 }, 3, ranges };
    shot_plans p;
    DO(shots_make_plans(&p, shot, 3, 10, &spans, 20, e));
    assert_int_equal(p.cross.n_segments, 2);
    const attn_segment *a = &p.cross.segments[0], *b = &p.cross.segments[1];
    assert_true(a->q_begin == 0 && a->q_end == 10 && b->q_begin == 10 && b->q_end == 30);
    assert_int_equal(a->n_ranges, 3);      /* the scene and one more, its caption and one more, the padding from 17 on */
    assert_true(a->ranges[0].begin == 0 && a->ranges[0].end == 5 && a->ranges[1].begin == 8 && a->ranges[1].end == 13 && a->ranges[2].begin == 17);
    assert_int_equal(b->n_ranges, 2);
    assert_true(b->ranges[1].begin == 12 && b->ranges[1].end == 20);
    assert_int_equal(p.sparse.n_segments, 2);
    assert_int_equal(p.sparse.segments[1].n_ranges, 3);      /* itself, and the first frames of both */
    assert_true(p.sparse.segments[1].ranges[2].begin == 10 && p.sparse.segments[1].ranges[2].end == 20);
    shot_plans_release(&p);
}

/* ---- runs of the tiny model ---- */

typedef struct {
    engine *g;
    prompt *p;
    double guidance;
    run_params r;
} setup;

static void open_tiny(setup *s, int frames)
{
    const int32_t ids[16] = { 5, 9, 1 };
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = TINY;
    o.device = "cpu";
    DO(engine_open(&s->g, &o, e));
    DO(engine_encode_ids(s->g, ids, 16, 3, &s->p, e));
    s->guidance = 1;
    s->r = (run_params)RUN_PARAMS_INIT;
    s->r.width = s->r.height = 32;
    s->r.frames = frames;
    s->r.seed = 3;
    s->r.steps = 1;
    s->r.shift = 3;
    s->r.solver = SOLVER_DIFFSYNTH_EULER;
    s->r.guidance = &s->guidance;
    s->r.n_guidance = s->r.n_cond = 1;
    s->r.cond = (const prompt *const *)&s->p;
}

static void close_tiny(setup *s)
{
    prompt_free(s->p);
    engine_close(s->g);
}

static float *run(setup *s, int64_t *n)
{
    tensor t;
    DO(engine_run(s->g, &s->r, NULL, &t, e));
    *n = tensor_count(&t);
    float *host = malloc((size_t)*n * sizeof *host);
    DO(op_download_f32(host, &t, e));
    tensor_free(&t);
    return host;
}

/* one window over everything: byte for byte the run without */
static void test_one_window(void **state)
{
    (void)state;
    setup s;
    int64_t n, m;
    run_windows o = { 4, 1, WINDOWS_STATIC, 1, false, FUSE_PYRAMID };
    open_tiny(&s, 13);
    s.r.steps = 3;
    float *plain = run(&s, &n);
    s.r.windows = &o;
    float *windowed = run(&s, &m);
    assert_int_equal(n, m);
    assert_memory_equal(plain, windowed, (size_t)n * sizeof *plain);
    o.length = 3;
    float *two = run(&s, &m), *again = run(&s, &m);
    assert_int_equal(n, m);
    assert_memory_not_equal(plain, two, (size_t)n * sizeof *plain);
    assert_memory_equal(two, again, (size_t)n * sizeof *plain);
    engine_cost whole, cut;
    s.r.windows = NULL;
    DO(engine_forecast(s.g, &s.r, &whole, e));
    s.r.windows = &o;
    DO(engine_forecast(s.g, &s.r, &cut, e));
    assert_true(cut.activation_bytes < whole.activation_bytes);
    free(plain);
    free(windowed);
    free(two);
    free(again);
    close_tiny(&s);
}

/* One Euler step is linear in the velocity, so the step of the average is the average of the steps of the windows, each run as a
 * video of its own from its part of the noise: positions start at 0 in every window. */
static void test_windows_are_videos(void **state)
{
    (void)state;
    enum { N = 7, C = 16, PLANE = 16 };
    for (int kind = 0; kind < 4; kind++) {
        static const window_options KINDS[4] = {
            { 4, 2, WINDOWS_STATIC, 1, false, FUSE_PYRAMID }, { 3, 1, WINDOWS_BATCHED, 1, false, FUSE_FLAT },
            { 4, 2, WINDOWS_UNIFORM, 2, false, FUSE_OVERLAP_LINEAR }, { 4, 1, WINDOWS_LOOPED, 1, true, FUSE_RELATIVE },
        };
        setup s;
        window_list l;
        window_sum sum;
        int64_t n;
        float noise[C * N * PLANE], part[C * N * PLANE];
        run_windows o = KINDS[kind];
        fix_noise(noise, C * N * PLANE, 77, 1);
        open_tiny(&s, 4 * (N - 1) + 1);
        s.r.initial_noise = noise;
        s.r.windows = &o;
        float *got = run(&s, &n);
        assert_int_equal(n, C * N * PLANE);
        DO(windows_make(&l, &o, N, e));
        assert_true(l.n > 1);
        DO(window_sum_begin(&sum, &o, C, N, PLANE, e));
        s.r.windows = NULL;
        s.r.initial_noise = part;
        for (int i = 0; i < l.n; i++) {
            window_gather(part, noise, &l.items[i], C, N, PLANE);
            s.r.frames = 4 * (l.items[i].n - 1) + 1;
            float *one = run(&s, &n);
            window_sum_add(&sum, &l.items[i], one);
            free(one);
        }
        const float *want = window_sum_finish(&sum);
        double far = 0;
        for (int i = 0; i < C * N * PLANE; i++)
            far = fmax(far, fabs((double)got[i] - want[i]));
        if (far > 2e-6)
            fail_msg("kind %d differs by %g", kind, far);
        window_sum_end(&sum);
        windows_release(&l);
        free(got);
        close_tiny(&s);
    }
}

static int make(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_lengths),           cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_weights),   cmocka_unit_test(test_averages),          cmocka_unit_test(test_shots_in_a_window),
        cmocka_unit_test(test_one_window), cmocka_unit_test(test_windows_are_videos),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
