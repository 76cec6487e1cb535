#include "tests/unit/io_fixture.h"

#include <math.h>

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void names(void **state)
{
    (void)state;
    for (int t = 0; t < DT_COUNT; t++)
        assert_int_equal(dtype_from_name(dtype_name((dtype)t)), t);
    assert_int_equal(dtype_from_name("F4"), -1);
    assert_int_equal(dtype_size(DT_BF16), 2);
    assert_int_equal(dtype_size(DT_F64), 8);
    assert_int_equal(dtype_size(DT_COUNT), 0);
}

/* every 16- and 8-bit pattern survives the way to f32 and back */
static void round_trips(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h), b = bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true((h & 0x7c00) == 0x7c00 && (h & 0x3ff) && isnan(f16_to_f32(f32_to_f16(f))));
        else
            assert_int_equal(f32_to_f16(f), h);
        if (isnan(b))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(b))));
        else
            assert_int_equal(f32_to_bf16(b), h);
    }
    for (uint32_t v = 0; v < 256; v++) {
        float f = f8_e4m3_to_f32((uint8_t)v);
        if (isnan(f))
            assert_true((v & 0x7f) == 0x7f);
        else
            assert_int_equal(f32_to_f8_e4m3(f), v);
        float g = f8_e5m2_to_f32((uint8_t)v);
        assert_int_equal(bits(g), bits(f16_to_f32((uint16_t)(v << 8))));
    }
    assert_true(f16_to_f32(0x3c00) == 1 && f16_to_f32(0x7bff) == 65504 && f16_to_f32(1) == ldexpf(1, -24));
    assert_true(f8_e4m3_to_f32(0x7e) == 448 && f8_e4m3_to_f32(1) == ldexpf(1, -9));
    assert_true(f8_e5m2_to_f32(0x7b) == 57344 && isinf(f8_e5m2_to_f32(0x7c)));
}

/* Nearest, ties to even, against an exact search among the neighbours. */
static void check_nearest(float f, float got, float below, float above, bool got_even)
{
    double d = fabs((double)got - f), a = fabs((double)below - f), b = fabs((double)above - f);
    assert_true(d <= a && d <= b);
    if ((d == a && below != got) || (d == b && above != got))
        assert_true(got_even);
}

static void rounds_to_nearest(void **state)
{
    (void)state;
    uint32_t seed = 12345;
    for (int i = 0; i < 400000; i++) {
        seed = seed * 1664525u + 1013904223u;
        uint32_t u = seed ^ seed >> 13;
        if (i % 3 == 0)
            u &= 0xfffff000u;       /* more exact ties */
        float f;
        memcpy(&f, &u, 4);
        if (!isfinite(f))
            continue;
        uint16_t h = f32_to_f16(f), b = f32_to_bf16(f);
        uint8_t q = f32_to_f8_e4m3(f);
        if (fabsf(f) < 65504) {
            uint16_t m = h & 0x7fff;
            float s = f < 0 ? -1.0f : 1.0f;
            check_nearest(f, f16_to_f32(h), m ? s * f16_to_f32((uint16_t)(m - 1)) : 0,
                          m < 0x7bff ? s * f16_to_f32((uint16_t)(m + 1)) : s * 65536.0f, !(h & 1));
        }
        if (fabsf(f) < 3.3e38f) {
            uint16_t m = b & 0x7fff;
            float s = f < 0 ? -1.0f : 1.0f;
            check_nearest(f, bf16_to_f32(b), m ? s * bf16_to_f32((uint16_t)(m - 1)) : 0,
                          s * bf16_to_f32((uint16_t)(m + 1)), !(b & 1));
        }
        if (fabsf(f) <= 448) {
            uint8_t m = q & 0x7f;
            float s = f < 0 ? -1.0f : 1.0f;
            check_nearest(f, f8_e4m3_to_f32(q), m ? s * f8_e4m3_to_f32((uint8_t)(m - 1)) : 0,
                          m < 0x7e ? s * f8_e4m3_to_f32((uint8_t)(m + 1)) : s * 480.0f, !(q & 1));
        } else {
            assert_true(fabsf(f8_e4m3_to_f32(q)) == 448);
        }
    }
    assert_int_equal(f32_to_f16(65520), 0x7c00);
    assert_int_equal(f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(f32_to_f16(ldexpf(1, -25)), 0);
    assert_int_equal(f32_to_f16(nextafterf(ldexpf(1, -25), 1)), 1);
    assert_int_equal(f32_to_bf16(3.4e38f), 0x7f80);
    assert_int_equal(f32_to_f8_e4m3(INFINITY), 0x7e);
    assert_int_equal(f32_to_f8_e4m3(-1e9f), 0xfe);
    assert_int_equal(f32_to_f8_e4m3(NAN) & 0x7f, 0x7f);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(bf16_to_f32(0x7f81)))));
}

static void arrays(void **state)
{
    (void)state;
    float out[4];
    /* an unaligned source, as a mapped file gives */
    uint8_t raw[40] = { 0 };
    double d[2] = { 1.0 / 3, -2 };
    memcpy(raw + 1, d, 16);
    dtype_to_f32(out, raw + 1, DT_F64, 2);
    assert_true(out[0] == (float)(1.0 / 3) && out[1] == -2);
    int64_t l[2] = { -5, 1 << 20 };
    memcpy(raw + 3, l, 16);
    dtype_to_f32(out, raw + 3, DT_I64, 2);
    assert_true(out[0] == -5 && out[1] == 1048576);
    uint8_t small[4] = { 0, 1, 200, 255 };
    dtype_to_f32(out, small, DT_U8, 4);
    assert_true(out[3] == 255);
    dtype_to_f32(out, small, DT_I8, 4);
    assert_true(out[3] == -1);
    dtype_to_f32(out, small, DT_BOOL, 4);
    assert_true(out[0] == 0 && out[2] == 1);
    float in[3] = { 1, -0.5f, 3.14159274f }, back[3];
    static const dtype WRITTEN[] = { DT_F32, DT_F16, DT_BF16, DT_F8_E4M3 };
    for (int i = 0; i < 4; i++) {
        dtype_from_f32(raw + 1, WRITTEN[i], in, 3);
        dtype_to_f32(back, raw + 1, WRITTEN[i], 3);
        assert_true(back[0] == 1 && back[1] == -0.5f && fabsf(back[2] - in[2]) < 0.13f);
    }
    dtype_to_f32(out, raw, DT_F32, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(names), cmocka_unit_test(round_trips),
                                        cmocka_unit_test(rounds_to_nearest), cmocka_unit_test(arrays) };
    return cmocka_run_group_tests_name("dtype", tests, NULL, NULL);
}
