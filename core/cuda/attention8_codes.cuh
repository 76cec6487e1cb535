/* attention8_codes: from int32 scores to the codes of e4m3 probabilities, in the registers of a consumer of attention8_hopper.cu (what a code is stands
 * there). Scores lie as wgmma leaves them: lane (g = lane / 4, q = lane % 4) has s[4i], s[4i + 1] of row g, columns 8i + 2q, + 1, and
 * s[4i + 2], s[4i + 3] of row g + 8. They are the bits of the floats 12582912 + score. */
#ifndef WANSCOPE_CUDA_ATTENTION8_CODES_CUH
#define WANSCOPE_CUDA_ATTENTION8_CODES_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#define HEADROOM 1.0f       /* how far above m a score may be, in powers of two */
#define MAGIC 0x4b400000    /* 12582912 = 1.5 * 2^23 */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct row_state { float m0, m1, fq0, fq1, a0, a1; };      /* rows g and g + 8: maximum, factor of the query, factor for O when m was raised */

/* the largest score of each row among this lane's, in base 2 */
__device__ static __forceinline__ float2 lane_max(const int (&s)[64], float f0, float f1)
{
    int t0 = max(s[0], s[1]), t1 = max(s[2], s[3]);
#pragma unroll
    for (int i = 1; i < 16; i++) {
        t0 = __vimax3_s32(t0, s[4 * i], s[4 * i + 1]);
        t1 = __vimax3_s32(t1, s[4 * i + 2], s[4 * i + 3]);
    }
    return make_float2((__int_as_float(t0) - 12582912.0f) * f0, (__int_as_float(t1) - 12582912.0f) * f1);
}

/* keys beyond `keys` become -inf; most blocks are whole */
__device__ static __forceinline__ void mask(int (&s)[64], int keys, int q)
{
    const int none = (int)0xff800000;
    if (keys < 128) {
        int limit = keys - 2 * q;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (8 * i >= limit) {
                s[4 * i] = none;
                s[4 * i + 2] = none;
            }
            if (8 * i + 1 >= limit) {
                s[4 * i + 1] = none;
                s[4 * i + 3] = none;
            }
        }
    }
}

/* Scores to codes, in pairs of neighbouring keys in 16 bits each: c[2i] of row g, c[2i + 1] of row g + 8. No code is above 126, because no score
 * is further above m than HEADROOM. */
__device__ static __forceinline__ void codes(uint32_t (&c)[32], const int (&s)[64], const row_state &r, float k_factor)
{
    const float unit = 0x1p-24f;
    const float a0 = r.fq0 * k_factor * (8 * unit), a1 = r.fq1 * k_factor * (8 * unit);
    const float b0 = fmaf(-12582912.0f, a0, unit * (126 - 8 * (r.m0 + HEADROOM))), b1 = fmaf(-12582912.0f, a1, unit * (126 - 8 * (r.m1 + HEADROOM)));
#pragma unroll
    for (int i = 0; i < 32; i++) {
        const float a = i % 2 ? a1 : a0, b = i % 2 ? b1 : b0;
        const float low = __saturatef(fmaf(__int_as_float(s[2 * i]), a, b)), high = __saturatef(fmaf(__int_as_float(s[2 * i + 1]), a, b));
        asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(c[i]) : "f"(high), "f"(low));
    }
}

/* Pairs to the A operand: of 16 keys a thread has 2q, 2q + 8, 2q + 1, 2q + 9, in that order. */
__device__ static __forceinline__ void pack(uint32_t (&p)[16], const uint32_t (&c)[32])
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        p[2 * j] = c[4 * j + 2] * 256 + c[4 * j];
        p[2 * j + 1] = c[4 * j + 3] * 256 + c[4 * j + 1];
    }
}

#endif
#endif
