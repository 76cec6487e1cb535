/* Arithmetic of few-step samplers, and the question whether a step went wrong. */
#include "core/cuda/cuda.cuh"

enum { THREADS = 256, PER_BLOCK = 1024 };

#define EACH(i, n) for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (int64_t)blockDim.x)

/* f64 with a product and a difference of their own, then one rounding to f32: what the CPU does */
__global__ static void x0_k(float *o, const float *x, double sigma, const float *v, int64_t n)
{
    EACH(i, n) o[i] = (float)__dsub_rn((double)x[i], __dmul_rn(sigma, (double)v[i]));
}

extern "C" int cuda_x0(backend *be, tensor *out, const tensor *x, double sigma, const tensor *v, err *e)
{
    int64_t n = tensor_count(x);
    x0_k<<<blocks_for(n, PER_BLOCK), THREADS, 0, impl(be)->stream>>>((float *)out->data, (const float *)x->data, sigma, (const float *)v->data, n);
    return cuda_launched(be, "x0", e);
}

/* Every thread that finds one writes the same 1, so the order does not matter. */
__global__ static void nonfinite_k(int *flag, const unsigned *bits, int64_t n)
{
    bool found = false;
    EACH(i, n) found |= (bits[i] & 0x7f800000u) == 0x7f800000u;
    if (found)
        *flag = 1;
}

extern "C" int cuda_nonfinite(backend *be, tensor *flag, const tensor *x, err *e)
{
    int64_t n = tensor_count(x);
    CUDA_TRY(cudaMemsetAsync(flag->data, 0, sizeof(int), impl(be)->stream), "nonfinite");
    nonfinite_k<<<blocks_for(n, PER_BLOCK), THREADS, 0, impl(be)->stream>>>((int *)flag->data, (const unsigned *)x->data, n);
    return cuda_launched(be, "nonfinite", e);
}
