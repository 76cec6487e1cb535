/* What the tests of attention kernels with heads of 128 share: random numbers, bf16 tensors on the device named by TEST_DEVICE, and the way in.
 * Without such a device, or with the CPU, which has no bf16 arithmetic, `be` stays NULL and tests skip themselves. */
#ifndef WANSCOPE_TESTS_ATTENTION_FIXTURE_H
#define WANSCOPE_TESTS_ATTENTION_FIXTURE_H

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

enum { D = 128 };

static backend *be;

static inline uint64_t random_bits(void)
{
    static uint64_t state = 88172645463325252ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static inline float normal(void)      /* near enough: a sum of four uniforms of variance 1/3 each, scaled */
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)((double)(random_bits() >> 11) / 9007199254740992.0 * 2 - 1);
    return sum * 0.8660254f;
}

static inline float rounded(float x)
{
    return bf16_to_f32(f32_to_bf16(x));
}

static inline tensor bf16_on_device(const float *host, int64_t rows, int64_t cols)
{
    tensor t;
    err e = { 0 };
    assert_int_equal(TENSOR_NEW(&t, be, DT_BF16, &e, rows, cols), 0);
    assert_int_equal(op_upload_f32(&t, host, &e), 0);
    return t;
}

/* false: TEST_DEVICE cannot be opened, and the reason is printed */
static inline bool open_test_device(void)
{
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (!device || !strcmp(device, "cpu") || !backend_open(&be, device, &e))
        return true;
    fprintf(stderr, "%s\n", e.text);
    return false;
}

#endif
