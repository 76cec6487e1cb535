#include "core/base/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} TYPES[DT_COUNT] = {
    [DT_F32] = { "F32", 4 },         [DT_F16] = { "F16", 2 },         [DT_BF16] = { "BF16", 2 },
    [DT_F8_E4M3] = { "F8_E4M3", 1 }, [DT_F8_E5M2] = { "F8_E5M2", 1 }, [DT_F64] = { "F64", 8 },
    [DT_I64] = { "I64", 8 },         [DT_I32] = { "I32", 4 },         [DT_I16] = { "I16", 2 },
    [DT_I8] = { "I8", 1 },           [DT_U8] = { "U8", 1 },           [DT_BOOL] = { "BOOL", 1 },
};

size_t dtype_size(dtype t)
{
    return (unsigned)t < DT_COUNT ? TYPES[t].size : 0;
}

const char *dtype_name(dtype t)
{
    return (unsigned)t < DT_COUNT ? TYPES[t].name : "unknown";
}

int dtype_from_name(const char *name)
{
    for (int t = 0; t < DT_COUNT; t++)
        if (strcmp(TYPES[t].name, name) == 0)
            return t;
    return -1;
}

static inline float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline uint32_t to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

float bf16_to_f32(uint16_t h)
{
    return from_bits((uint32_t)h << 16);
}

/* A small float of `mant` mantissa bits, bias `bias`, widened; exact, since f32 holds every one of them. */
static inline float widen(uint32_t exponent, uint32_t fraction, uint32_t sign, int mant, int bias)
{
    if (exponent == 0) {        /* zero and subnormals: fraction * 2^(1 - bias - mant) */
        float v = (float)fraction * from_bits((uint32_t)(127 + 1 - bias - mant) << 23);
        return sign ? -v : v;
    }
    return from_bits(sign << 31 | (exponent + (uint32_t)(127 - bias)) << 23 | fraction << (23 - mant));
}

float f16_to_f32(uint16_t h)
{
    uint32_t sign = h >> 15, exponent = (h >> 10) & 31u, fraction = h & 1023u;
    if (exponent == 31)
        return from_bits(sign << 31 | 0x7f800000u | fraction << 13);
    return widen(exponent, fraction, sign, 10, 15);
}

float f8_e4m3_to_f32(uint8_t v)
{
    uint32_t sign = v >> 7, exponent = (v >> 3) & 15u, fraction = v & 7u;
    if (exponent == 15 && fraction == 7)
        return from_bits(sign << 31 | 0x7fc00000u);
    return widen(exponent, fraction, sign, 3, 7);
}

float f8_e5m2_to_f32(uint8_t v)
{
    return f16_to_f32((uint16_t)(v << 8));      /* the upper half of a half */
}

uint16_t f32_to_bf16(float f)
{
    uint32_t u = to_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);     /* quiet, so that the payload cannot vanish into infinity */
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* |f| (bits `u`, finite) rounded to a float of `mant` mantissa bits and bias `bias`: exponent and mantissa together,
 * ties to even, not limited above. */
static inline uint32_t narrow(uint32_t u, int mant, int bias)
{
    int32_t exponent = (int32_t)(u >> 23) - 127 + bias;
    uint32_t fraction = (u & 0x7fffffu) | 0x800000u;
    int shift = 23 - mant;
    if (exponent <= 0) {        /* subnormal in the target: one more bit lost for each step below 1 */
        shift += 1 - exponent;
        if (shift > 25)
            return 0;
        exponent = 0;
    }
    uint32_t keep = fraction >> shift, rest = fraction & ((1u << shift) - 1), half = 1u << (shift - 1);
    keep += rest > half || (rest == half && (keep & 1u));
    /* a normal number's leading one adds 1 to the exponent field; so does a carry out of the mantissa */
    return exponent > 0 ? ((uint32_t)(exponent - 1) << mant) + keep : keep;
}

uint16_t f32_to_f16(float f)
{
    uint32_t u = to_bits(f), sign = u >> 31 << 15;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((u >> 13) & 0x1ffu));
    if (u >= 0x47800000u)       /* 65536 and infinity */
        return (uint16_t)(sign | 0x7c00u);
    return (uint16_t)(sign | narrow(u, 10, 15));        /* a carry from 65520 up is infinity's pattern */
}

uint8_t f32_to_f8_e4m3(float f)
{
    uint32_t u = to_bits(f), sign = u >> 31 << 7;
    u &= 0x7fffffffu;
    if (u > 0x7f800000u)
        return (uint8_t)(sign | 0x7fu);
    if (u >= 0x43e00000u)       /* 448 and above */
        return (uint8_t)(sign | 0x7eu);
    return (uint8_t)(sign | narrow(u, 3, 7));
}

/* memcpy reads: tensors in files are not aligned */
#define EACH(type, expression)                                      \
    for (int64_t i = 0; i < n; i++) {                               \
        type v;                                                     \
        memcpy(&v, (const char *)in + i * (int64_t)sizeof v, sizeof v); \
        out[i] = (expression);                                      \
    }                                                               \
    break

void dtype_to_f32(float *out, const void *in, dtype t, int64_t n)
{
    if (n <= 0)
        return;
    switch (t) {
    case DT_F32: memcpy(out, in, (size_t)n * 4); break;
    case DT_F16: EACH(uint16_t, f16_to_f32(v));
    case DT_BF16: EACH(uint16_t, bf16_to_f32(v));
    case DT_F8_E4M3: EACH(uint8_t, f8_e4m3_to_f32(v));
    case DT_F8_E5M2: EACH(uint8_t, f8_e5m2_to_f32(v));
    case DT_F64: EACH(double, (float)v);
    case DT_I64: EACH(int64_t, (float)v);
    case DT_I32: EACH(int32_t, (float)v);
    case DT_I16: EACH(int16_t, (float)v);
    case DT_I8: EACH(int8_t, (float)v);
    case DT_U8: EACH(uint8_t, (float)v);
    case DT_BOOL: EACH(uint8_t, v ? 1.0f : 0.0f);
    case DT_COUNT: break;
    }
}
#undef EACH

void dtype_from_f32(void *out, dtype t, const float *in, int64_t n)
{
    if (n <= 0)
        return;
    if (t == DT_F32) {
        memcpy(out, in, (size_t)n * 4);
    } else if (t == DT_F16 || t == DT_BF16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t v = t == DT_F16 ? f32_to_f16(in[i]) : f32_to_bf16(in[i]);
            memcpy((char *)out + 2 * i, &v, 2);
        }
    } else if (t == DT_F8_E4M3) {
        for (int64_t i = 0; i < n; i++)
            ((uint8_t *)out)[i] = f32_to_f8_e4m3(in[i]);
    }
}
