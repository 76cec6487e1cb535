/* The rough look at latents: colours, enlargement, files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "experiments/latent_preview.h"

static void test_colours(void **state)
{
    (void)state;
    enum { F = 2, N = 4, C = 16 };
    float x[C * F * N] = { 0 }, noise[C * F * N], rgb[F * N * 3];
    for (int i = 0; i < C * F * N; i++)
        noise[i] = 1;
    x[0] = 1;      /* channel 0 of the first pixel is blue, the most of all */
    latent_preview_colours(rgb, x, noise, 0, F, 2, 2);
    float low = 1, high = 0;
    for (int i = 0; i < F * N * 3; i++) {
        low = rgb[i] < low ? rgb[i] : low;
        high = rgb[i] > high ? rgb[i] : high;
    }
    assert_true(low == 0 && high == 1 && rgb[2] == 1);
    float shifted[F * N * 3];
    for (int i = 0; i < C * F * N; i++)      /* noise of half the level comes off again */
        x[i] += 0.5f;
    latent_preview_colours(shifted, x, noise, 0.5, F, 2, 2);
    for (int i = 0; i < F * N * 3; i++)
        assert_true(fabsf(rgb[i] - shifted[i]) < 1e-5f);
    memset(x, 0, sizeof x);      /* nothing to see is black, not NaN */
    latent_preview_colours(rgb, x, x, 1, F, 2, 2);
    for (int i = 0; i < F * N * 3; i++)
        assert_true(rgb[i] >= 0 && rgb[i] <= 1);
}

static void test_enlarge(void **state)
{
    (void)state;
    float flat[2 * 3 * 3], step[1 * 2 * 3] = { 0, 0, 0, 1, 1, 1 };
    uint8_t out[16 * 24 * 3], wide[8 * 16 * 3];
    for (int i = 0; i < 18; i++)
        flat[i] = 0.5f;
    latent_preview_enlarge(out, flat, 2, 3);
    for (size_t i = 0; i < sizeof out; i++)
        assert_int_equal(out[i], 127);
    latent_preview_enlarge(wide, step, 1, 2);
    assert_int_equal(wide[0], 0);               /* dark at the left end, overshoot clamped */
    assert_int_equal(wide[15 * 3], 255);
    for (int x = 3; x < 12; x++)                /* and rising between the two centres */
        assert_true(wide[x * 3] <= wide[(x + 1) * 3]);
    assert_int_equal(wide[7 * 3] + wide[8 * 3], 254);      /* symmetric: v and 1 - v, each truncated */
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_colours), cmocka_unit_test(test_enlarge) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
