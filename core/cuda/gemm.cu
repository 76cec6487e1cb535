/* linear: out[R,N] = act(x[R,K] w[N,K]^T + b), f32 through cuBLAS with f32 arithmetic (no TF32), bias and activation after. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda/cuda.cuh"

__global__ static void finish(float *y, int64_t n, int64_t cols, const float *bias, activation act)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x) {
        float v = y[i] + (bias ? bias[i % cols] : 0.0f);
        y[i] = act == ACT_GELU_TANH ? gelu_tanh_of(v) : act == ACT_SILU ? silu_of(v) : v;
    }
}

__global__ static void widen(float *out, const void *in, int64_t n, bool bf16)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x)
        out[i] = bf16 ? __bfloat162float(((const __nv_bfloat16 *)in)[i]) : __half2float(((const __half *)in)[i]);
}

extern "C" int cuda_linear(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    int64_t R = tensor_nrows(x), K = w->shape[1], N = w->shape[0];
    const float one = 1, none = 0;
    const float *weight = (const float *)w->data;
    if (x->dtype != DT_F32 || out->dtype != DT_F32)
        return ERR(e, ERR_INTERNAL, "linear: the CUDA backend computes in F32");
    if (!R || !N)
        return 0;
    if (w->dtype != DT_F32) {      /* weights are f32 after cuda.cu's weight(); others are widened here, exactly */
        int rc = cuda_need_work(be, (size_t)(N * K) * 4, e);
        if (rc)
            return rc;
        widen<<<blocks_for(N * K, 1024), 256, 0, impl(be)->stream>>>((float *)impl(be)->work, w->data, N * K, w->dtype == DT_BF16);
        weight = (const float *)impl(be)->work;
    }
    cublasStatus_t s = blas.sgemm_64(impl(be)->blas, CUBLAS_OP_T, CUBLAS_OP_N, N, R, K, &one, weight, K,
                                      (const float *)x->data, K, &none, (float *)out->data, N);
    if (s != CUBLAS_STATUS_SUCCESS)
        return ERR(e, ERR_DEVICE, "%s: cuBLAS refused a product of %lld x %lld x %lld: %s", be->device, (long long)R, (long long)K, (long long)N,
                   blas.status_string(s));
    if (bias || act != ACT_NONE)
        finish<<<blocks_for(R * N, 1024), 256, 0, impl(be)->stream>>>((float *)out->data, R * N, N, bias ? (const float *)bias->data : NULL, act);
    return cuda_launched(be, "linear", e);
}
