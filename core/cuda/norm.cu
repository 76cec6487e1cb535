/* Row-wise normalisations: one block a row, fixed order of summation. */
#include "core/cuda/cuda.cuh"

typedef enum { LAYERNORM, LAYERNORM_MOD, RMSNORM } norm_kind;

enum { THREADS = 128 };

/* the sum over the block, the same in every thread */
__device__ static float block_sum(float v, float *shared)
{
    v = warp_sum(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    float s = 0;
    for (int i = 0; i < THREADS / 32; i++)
        s += shared[i];
    return s;
}

__global__ static void norm(norm_kind kind, float *out, const float *x, const float *a, const float *b, int64_t width, int64_t rows_per_group,
                            float eps, activation act)
{
    __shared__ float shared[THREADS / 32];
    const float *in = x + blockIdx.x * width;
    float *y = out + blockIdx.x * width, mean = 0, sq = 0;
    int64_t group = blockIdx.x / rows_per_group * width;
    if (kind == LAYERNORM || kind == LAYERNORM_MOD) {
        float s = 0;
        for (int64_t i = threadIdx.x; i < width; i += THREADS)
            s += in[i];
        mean = block_sum(s, shared) / (float)width;
    }
    for (int64_t i = threadIdx.x; i < width; i += THREADS)
        sq += (in[i] - mean) * (in[i] - mean);
    sq = block_sum(sq, shared);
    float inv = 1.0f / sqrtf(sq / (float)width + eps);
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        float v = (in[i] - mean) * inv;
        if (kind == LAYERNORM_MOD)
            v = __fadd_rn(__fmul_rn(v, 1.0f + a[group + i]), b[group + i]);
        else if (kind == LAYERNORM)
            v = a ? __fadd_rn(__fmul_rn(v, a[i]), b[i]) : v;
        else
            v *= a[i];
        y[i] = act == ACT_SILU ? silu_of(v) : v;
    }
}

static int run(backend *be, norm_kind kind, tensor *out, const tensor *x, const tensor *a, const tensor *b, int64_t rows_per_group, float eps,
               activation act, err *e)
{
    int64_t rows = tensor_nrows(x);
    if (rows)
        norm<<<blocks_for(rows, 1), THREADS, 0, impl(be)->stream>>>(kind, (float *)out->data, (const float *)x->data, a ? (const float *)a->data : NULL,
                                                                    b ? (const float *)b->data : NULL, tensor_cols(x), rows_per_group, eps, act);
    return cuda_launched(be, "norm", e);
}

extern "C" int cuda_layernorm(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e)
{
    return run(be, LAYERNORM, out, x, w, b, 1, eps, ACT_NONE, e);
}

extern "C" int cuda_layernorm_mod(backend *be, tensor *out, const tensor *x, const tensor *scale, const tensor *shift, float eps, err *e)
{
    return run(be, LAYERNORM_MOD, out, x, scale, shift, tensor_nrows(x) / tensor_nrows(scale), eps, ACT_NONE, e);
}

extern "C" int cuda_rmsnorm(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, err *e)
{
    return run(be, RMSNORM, out, x, w, NULL, 1, eps, ACT_NONE, e);
}
