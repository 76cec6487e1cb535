/* Traces that come block by block: parts of rows, reading along while the file grows, sentences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "experiments/trace.h"

#ifdef HAVE_HDF5
#include <hdf5.h>

enum { S = 2, C = 3, BLOCK = 2, BLOCKS = 3, F = BLOCK * BLOCKS, H = 4, W = 4, PART = C * BLOCK * H * W };

static char *place(const char *name)
{
    const char *tmp = getenv("TEST_TMP");
    return fs_join(tmp ? tmp : "/tmp", name);
}

static trace_spec make_spec(void)
{
    static const int32_t prompts[] = { 0, 0, 1 };
    static const double sigmas[] = { 1, 0.9375, 0 }, timesteps[] = { 1000, 937.5 }, guidance[] = { 1, 1 };
    return (trace_spec){ .steps = S, .latents = true, .velocity = true, .channels = C, .frames = F, .height = H, .width = W, .gzip = 1, .solver = "few_step",
                         .n_blocks = BLOCKS, .block_frames = BLOCK, .block_prompts = prompts, .block_sigmas = sigmas, .block_timesteps = timesteps,
                         .block_guidance = guidance };
}

/* Element (c, f, y * W + x) of the clip after k steps. */
static float value(int k, int c, int f, int at)
{
    return (float)(((k * C + c) * F + f) * H * W + at);
}

static int put_block(trace_writer *t, int b, err *e)
{
    float part[PART];
    int rc = 0;
    for (int k = 0; k <= S && !rc; k++) {
        for (int c = 0; c < C; c++)
            for (int f = 0; f < BLOCK; f++)
                for (int i = 0; i < H * W; i++)
                    part[(c * BLOCK + f) * H * W + i] = value(k, c, b * BLOCK + f, i);
        rc = trace_put_latents_part(t, k, b * BLOCK, BLOCK, part, e);
        if (!rc && k < S)
            rc = trace_put_velocity_part(t, k, b * BLOCK, BLOCK, part, e);
        if (!rc && k < S && b == 0)
            rc = trace_put_step(t, k, k ? 0.9375 : 1, k ? 0 : 0.9375, k ? 937.5 : 1000, 1, 0, e);
    }
    return rc ? rc : trace_flush(t, e);
}

/* How many frames of the last row a reader sees: 0..F, or -1 for a wrong number. In a process of its own. */
static int frames_seen(const char *path, unsigned flags)
{
    pid_t child = fork();
    if (!child) {
        float all[(S + 1) * C * F * H * W];
        int n = 0;
        hid_t f = H5Fopen(path, flags, H5P_DEFAULT), set = f < 0 ? -1 : H5Dopen2(f, "/latents", H5P_DEFAULT);
        if (set < 0 || H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, all) < 0)
            _exit(100);
        for (int frame = 0; frame < F; frame++) {
            float x = all[((S * C + C - 1) * F + frame) * H * W + 5];
            if (!isnan(x) && (x != value(S, C - 1, frame, 5) || n != frame))
                _exit(101);
            n += !isnan(x);
        }
        _exit(n);
    }
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_reading_along(void **state)
{
    (void)state;
    char *path = place("grows.h5"), *part = str_format("%s.part", path);
    trace_spec s = make_spec();
    trace_writer *t;
    err e = { 0 };
    if (trace_create(&t, path, &s, &e))
        fail_msg("%s", e.text);
    for (int b = 0; b < BLOCKS; b++) {
        if (put_block(t, b, &e))
            fail_msg("%s", e.text);
        assert_int_equal(frames_seen(part, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ), (b + 1) * BLOCK);
    }
    if (trace_commit(t, &e))
        fail_msg("%s", e.text);
    assert_int_equal(frames_seen(path, H5F_ACC_RDONLY), F);      /* afterwards a file like any other */
    assert_false(fs_exists(part));
    free(path);
    free(part);
}

static void test_misuse(void **state)
{
    (void)state;
    char *path = place("misuse.h5");
    trace_spec s = make_spec();
    trace_writer *t;
    float part[PART] = { 0 };
    err e = { 0 };
    assert_int_equal(trace_create(&t, path, &s, &e), 0);
    assert_int_equal(trace_put_latents_part(t, 0, 1, BLOCK, part, &e), ERR_INTERNAL);      /* out of turn */
    trace_abort(t);
    assert_int_equal(trace_create(&t, path, &s, &e), 0);
    assert_int_equal(trace_put_latents_part(t, 0, 0, 3, part, &e), ERR_INTERNAL);
    assert_non_null(strstr(e.text, "frames 0 to 3 of row 0 of /latents are no block of it"));
    trace_abort(t);
    assert_int_equal(trace_create(&t, path, &s, &e), 0);
    assert_int_equal(put_block(t, 0, &e), 0);
    assert_int_equal(trace_commit(t, &e), ERR_INTERNAL);
    assert_non_null(strstr(e.text, "row 0 of /latents was never recorded"));
    assert_false(fs_exists(path));
    s.n_blocks = 2;
    assert_int_equal(trace_create(&t, path, &s, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "2 blocks of 2 frames are not the 6 frames of the clip"));
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_reading_along), cmocka_unit_test(test_misuse) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_nothing(void **state)
{
    (void)state;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
