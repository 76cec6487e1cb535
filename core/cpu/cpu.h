/* cpu: the reference backend. All activations are f32; matrix products go to OpenBLAS, one thread a call, over tiles whose
 * cutting does not depend on the number of threads, so that results do not either. Internal to core/cpu. */
#ifndef WANSCOPE_CPU_H
#define WANSCOPE_CPU_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/backend.h"

/* Elementwise loops are compiled for several instruction sets and chosen at run time. Contraction is off and reductions are
 * written out in lanes, so all of them give the same bits. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__clang__)
#define CPU_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CPU_CLONES
#endif

typedef struct cpu_impl {
    void **scratch;          /* one buffer a thread */
    size_t scratch_bytes;
    int n_scratch;
} cpu_impl;

/* Makes sure every thread has `bytes` of scratch memory; call before parallel_for, then use cpu_scratch(be, thread). */
int cpu_need_scratch(backend *be, size_t bytes, err *e);
static inline void *cpu_scratch(backend *be, int thread)
{
    return ((cpu_impl *)be->impl)->scratch[thread];
}

/* e^x to within 2 ulp for |x| < 87, 0 below, 3e38 above; written so that compilers vectorise it. */
static inline __attribute__((always_inline)) float cpu_exp(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f;       /* adds 1.5 * 2^23: the integer lands in the low mantissa bits */
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;                                       /* unsigned: NaN must pass through without an overflow */
    memcpy(&bits, &shifted, 4);
    bits = (bits - 0x4b400000u + 127u) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

static inline __attribute__((always_inline)) float cpu_silu(float x)
{
    return x / (1.0f + cpu_exp(-x));
}

/* 0.5 x (1 + tanh(u)) = x / (1 + e^(-2u)), u = sqrt(2/pi) (x + 0.044715 x^3) */
static inline __attribute__((always_inline)) float cpu_gelu_tanh(float x)
{
    float u = 0.7978845608028654f * (x + 0.044715f * (x * x * x));
    return x / (1.0f + cpu_exp(-2.0f * u));
}

/* the ops, one file a family */
int cpu_linear(backend *, tensor *, const tensor *, const tensor *, const tensor *, activation, err *);
int cpu_layernorm(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cpu_layernorm_mod(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cpu_rmsnorm(backend *, tensor *, const tensor *, const tensor *, float, err *);
int cpu_pixel_norm(backend *, tensor *, const tensor *, const tensor *, activation, err *);
int cpu_rope(backend *, tensor *, const rope_table *, int, err *);
int cpu_gate_add(backend *, tensor *, const tensor *, const tensor *, err *);
int cpu_add_row(backend *, tensor *, const tensor *, const tensor *, err *);
int cpu_attention(backend *, const attn_args *, err *);
int cpu_attn_probs(backend *, const attn_probs_args *, err *);
int cpu_silu_op(backend *, tensor *, const tensor *, err *);
int cpu_gated_gelu(backend *, tensor *, const tensor *, const tensor *, err *);
int cpu_embed(backend *, tensor *, const tensor *, const int32_t *, int64_t, err *);
int cpu_patchify(backend *, tensor *, const tensor *, err *);
int cpu_unpatchify(backend *, tensor *, const tensor *, err *);
int cpu_axpby(backend *, tensor *, float, const tensor *, float, const tensor *, err *);
int cpu_div_scalar(backend *, tensor *, const tensor *, float, err *);
int cpu_x0(backend *, tensor *, const tensor *, double, const tensor *, err *);
int cpu_nonfinite(backend *, tensor *, const tensor *, err *);
int cpu_conv(backend *, const conv_args *, err *);
int cpu_time_interleave(backend *, tensor *, const tensor *, err *);
int cpu_to_channels_last(backend *, tensor *, const tensor *, const float *, const float *, err *);
int cpu_to_channels_first(backend *, tensor *, const tensor *, const float *, const float *, err *);
int cpu_rgb_begin(backend *, rgb_frames *, const tensor *, err *);
int cpu_rgb_wait(backend *, rgb_frames *, err *);
void cpu_rgb_free(backend *, rgb_frames *);

#endif
