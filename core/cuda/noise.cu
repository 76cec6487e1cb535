/* Normal noise of PyTorch's CUDA generator: Philox4x32-10 and Box-Muller with the instructions its own kernel compiles to.
 *
 * Thread p of P takes the blocks (first + k, p) of the counter; its four values lie P apart. P and the number of blocks come
 * from the GPU whose noise is wanted (core/sample/rng.h), not from the one at work. Formulas: pytorch
 * aten/src/ATen/native/cuda/DistributionTemplates.h, cuRAND's curand_normal.h (_curand_box_muller). */
#include "core/cuda/cuda.cuh"

namespace {

enum { THREADS = 256 };

/* The sine comes first. The hardware's sine and cosine, the exact logarithm and root; u and v with one rounding, as nvcc
 * contracts them. */
__device__ __forceinline__ void box_muller(uint32_t a, uint32_t b, float *first, float *second)
{
    const float inv = 2.3283064e-10f, inv_2pi = 2.3283064e-10f * 6.2831855f;
    float u = fmaf((float)a, inv, inv / 2.0f), v = fmaf((float)b, inv_2pi, inv_2pi / 2.0f);
    float radius = sqrtf(-2.0f * logf(u)), sine, cosine;
    __sincosf(v, &sine, &cosine);
    *first = __fadd_rn(__fmul_rn(sine, radius), 0.0f);      /* plus the mean: -0 becomes 0 */
    *second = __fadd_rn(__fmul_rn(cosine, radius), 0.0f);
}

__global__ void __launch_bounds__(THREADS) normal(float *out, int64_t n, uint64_t seed, uint64_t first, int64_t threads, int64_t calls)
{
    int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (t >= threads * calls)
        return;
    int64_t k = t / threads, p = t - k * threads;
    uint64_t block = first + (uint64_t)k;
    uint32_t c0 = (uint32_t)block, c1 = (uint32_t)(block >> 32), c2 = (uint32_t)p, c3 = (uint32_t)((uint64_t)p >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0, high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c2 = high0 ^ c3 ^ k1;
        c1 = low1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    float v[4];
    box_muller(c0, c1, &v[0], &v[1]);
    box_muller(c2, c3, &v[2], &v[3]);
#pragma unroll
    for (int w = 0; w < 4; w++) {
        int64_t i = (k * 4 + w) * threads + p;
        if (i < n)
            out[i] = v[w];
    }
}

}

extern "C" int cuda_randn(backend *be, tensor *out, uint64_t seed, uint64_t first, int64_t threads, int64_t calls, err *e)
{
    int64_t n = tensor_count(out), blocks = (threads * calls + THREADS - 1) / THREADS;
    if (blocks > 2147483647)
        return ERR(e, ERR_DEVICE, "%lld values of noise at once: the CUDA backend draws up to 2^41", (long long)n);
    normal<<<(unsigned)blocks, THREADS, 0, impl(be)->stream>>>((float *)out->data, n, seed, first, threads, calls);
    return cuda_launched(be, "randn", e);
}
