/* rng: the initial noise PyTorch would draw for the same seed, for a generator on the CPU and for one on a CUDA device.
 *
 * Both are reproduced number by number, so that a video made here and one made by the Python code start from the same
 * latents. Neither depends on the machine that runs this code.
 *
 *     rng_cpu g;
 *     rng_cpu_seed(&g, 42);
 *     rng_cpu_normal(&g, latents, n);              one torch.randn(n, generator=g), float32
 *
 * CPU: mt19937. Bit-equal to torch.randn of an x86 build with AVX2 (the only vectorised code path of PyTorch; machines
 * with AVX-512 take it too), whatever CPU runs this, because every rounding is written down.
 *
 * CUDA: Philox4x32-10 with the launch geometry of a given GPU, which decides the numbers as soon as n exceeds
 * 256 * sms * (threads_per_sm / 256). Integers, order and offsets are exact; values agree with the GPU's to 4.4e-6
 * absolute (measured 3.6e-6 over 4 million values), because the hardware sine it uses, off by up to 6.4e-7 before the factor
 * of at most 6.8, has no documented equivalent on a CPU. core/sample/noise.h draws them on a GPU, to the bit.
 *
 * Upstream: aten/src/ATen/native/cpu/DistributionTemplates.h, aten/src/ATen/core/DistributionsHelper.h,
 * aten/src/ATen/native/cuda/DistributionTemplates.h, cuRAND's Box-Muller. No function here allocates.
 */
#ifndef WANSCOPE_RNG_H
#define WANSCOPE_RNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define RNG_MT_WORDS 624

/* A torch.Generator('cpu'). A plain value: copying it copies the stream. */
typedef struct rng_cpu {
    uint32_t state[RNG_MT_WORDS];
    int next;                /* words of `state` already handed out */
    bool has_cached;         /* a draw of fewer than 16 values makes them in pairs and keeps the second half */
    double cached;
} rng_cpu;

/* manual_seed: only the low 32 bits reach the generator, as in PyTorch. Forgets the cached value. */
void rng_cpu_seed(rng_cpu *g, uint64_t seed);

uint32_t rng_cpu_u32(rng_cpu *g);

/* One torch.randn call: n float32 values into out[0..n), contiguous. n <= 0 draws nothing.
 * Drawing 20 values is not the same as drawing 16 and then 4: call it once per upstream call. */
void rng_cpu_normal(rng_cpu *g, float *out, int64_t n);

/* One torch.randn call on a CUDA generator with seed `seed`: n float32 values into out[0..n).
 * *offset is the generator's Philox offset: 0 after manual_seed, a multiple of 4, advanced by this call.
 * sms and threads_per_sm describe the GPU whose noise is wanted (132 and 2048 for an H100 SXM or H200).
 * ERR_ARG for n < 0, sms < 1, threads_per_sm < 256 or an offset that is no multiple of 4; nothing is drawn then. */
int rng_cuda_normal(uint64_t seed, uint64_t *offset, int sms, int threads_per_sm, float *out, int64_t n, err *e);

/* How that draw is laid out: `threads` threads use `calls` Philox blocks of four values each; value i belongs to thread i mod threads.
 * The same errors. */
int rng_cuda_geometry(int64_t *threads, int64_t *calls, uint64_t offset, int sms, int threads_per_sm, int64_t n, err *e);

/* The 10-round Philox block function: counter and key in, four words out. */
void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* Launch geometry of GPUs people own, for "the RTX 4090's seed 42". */
typedef struct rng_gpu {
    const char *name;        /* lower case, hyphens: "h200", "rtx-4090" */
    int sms, threads_per_sm;
} rng_gpu;

/* All known ones; *n of them. */
const rng_gpu *rng_gpus(size_t *n);
/* Case, blanks, hyphens, underscores and a leading "nvidia" or "geforce" do not matter. ERR_CONFIG lists the names
 * known. */
int rng_gpu_find(const rng_gpu **out, const char *name, err *e);

#endif
