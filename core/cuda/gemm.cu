/* linear: out[R,N] = act(x[R,K] w[N,K]^T + b), f32 through cuBLAS with f32 arithmetic (no TF32), bias and activation after. */
#include "core/cuda/cuda.cuh"

__global__ static void finish(float *y, int64_t n, int64_t cols, const float *bias, activation act)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x) {
        float v = y[i] + (bias ? bias[i % cols] : 0.0f);
        y[i] = act == ACT_GELU_TANH ? gelu_tanh_of(v) : act == ACT_SILU ? silu_of(v) : v;
    }
}

extern "C" int cuda_linear(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    int64_t R = tensor_nrows(x), K = w->shape[1], N = w->shape[0];
    const float one = 1, none = 0;
    if (x->dtype != DT_F32 || out->dtype != DT_F32 || w->dtype != DT_F32)
        return ERR(e, ERR_INTERNAL, "linear: the CUDA backend computes in F32");
    if (!R || !N)
        return 0;
    cublasStatus_t s = blas.sgemm_64(impl(be)->blas, CUBLAS_OP_T, CUBLAS_OP_N, N, R, K, &one, (const float *)w->data, K,
                                      (const float *)x->data, K, &none, (float *)out->data, N);
    if (s != CUBLAS_STATUS_SUCCESS)
        return ERR(e, ERR_DEVICE, "%s: cuBLAS refused a product of %lld x %lld x %lld: %s", be->device, (long long)R, (long long)K, (long long)N,
                   blas.status_string(s));
    if (bias || act != ACT_NONE)
        finish<<<blocks_for(R * N, 1024), 256, 0, impl(be)->stream>>>((float *)out->data, R * N, N, bias ? (const float *)bias->data : NULL, act);
    return cuda_launched(be, "linear", e);
}
