/* cuda: the backend for NVIDIA GPUs. Internal to core/cuda.
 *
 * One stream; every op is queued on it, downloads wait for it. Reductions have a fixed order and there are no atomics, so
 * that the same inputs give the same bits. Tokens and pixels are on grid.x, indices are 64-bit. */
#ifndef WANSCOPE_CUDA_CUH
#define WANSCOPE_CUDA_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "core/cuda/blas.h"

extern "C" {
#include "core/backend.h"
}

struct attn_work_cache;      /* attention_hopper.cu */

typedef struct cuda_impl {
    int device;
    cudaStream_t stream;
    cublasHandle_t blas;
    void *work;                 /* scratch of the convolutions and the plans */
    size_t work_bytes;
    int sm_count;
    size_t shared_limit;        /* dynamic shared memory a block may ask for */
    bool hopper;                /* compute capability 9.0: kernels of sm_90a run */
    struct attn_work_cache *attn_work;
} cuda_impl;

static inline cuda_impl *impl(backend *be)
{
    return (cuda_impl *)be->impl;
}

/* The sentence for a failed call: op, what CUDA says, what to do. */
int cuda_fail(backend *be, cudaError_t status, const char *op, err *e);
/* After a launch: its configuration errors. Set WANSCOPE_CUDA_SYNC=1 to wait after every op, so that a fault names its op. */
int cuda_launched(backend *be, const char *op, err *e);
/* Scratch memory, valid until the next op of the same stream asks for some. */
int cuda_need_work(backend *be, size_t bytes, err *e);
void cuda_attention_hopper_close(backend *be);      /* frees the kept work lists */
/* the kernel of one tile shape (1..5; 0: the one cuda_attention_hopper() would take), for tests and benchmarks */
int cuda_attention_hopper_variant(backend *be, const struct attn_args *a, int variant, err *e);

#define CUDA_TRY(call, op) do { cudaError_t status_ = (call); if (status_ != cudaSuccess) return cuda_fail(be, status_, (op), e); } while (0)

static inline unsigned blocks_for(int64_t n, int64_t per)
{
    int64_t b = (n + per - 1) / per;
    return (unsigned)(b < 1 ? 1 : b > 2147483647 ? 2147483647 : b);
}

__device__ static inline float warp_sum(float v)
{
    for (int o = 16; o; o >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, o);
    return v;
}

__device__ static inline float warp_max(float v)
{
    for (int o = 16; o; o >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, o));
    return v;
}

__device__ static inline float silu_of(float x)
{
    return x / (1.0f + expf(-x));
}

__device__ static inline float gelu_tanh_of(float x)
{
    float u = 0.7978845608028654f * (x + 0.044715f * (x * x * x));
    return 0.5f * x * (1.0f + tanhf(u));
}

extern "C" {
int cuda_linear(backend *, tensor *, const tensor *, const tensor *, const tensor *, activation, err *);
int cuda_layernorm(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cuda_layernorm_mod(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cuda_rmsnorm(backend *, tensor *, const tensor *, const tensor *, float, err *);
int cuda_pixel_norm(backend *, tensor *, const tensor *, const tensor *, activation, err *);
int cuda_rope(backend *, tensor *, const rope_table *, int, err *);
int cuda_gate_add(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_add_row(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_attention(backend *, const attn_args *, err *);
/* bf16, heads of 128, on Hopper */
int cuda_attention_hopper(backend *, const attn_args *, err *);
bool cuda_attention_hopper_takes(const backend *, const attn_args *);
int cuda_attn_probs(backend *, const attn_probs_args *, err *);
int cuda_silu(backend *, tensor *, const tensor *, err *);
int cuda_gated_gelu(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_embed(backend *, tensor *, const tensor *, const int32_t *, int64_t, err *);
int cuda_patchify(backend *, tensor *, const tensor *, err *);
int cuda_unpatchify(backend *, tensor *, const tensor *, err *);
int cuda_axpby(backend *, tensor *, float, const tensor *, float, const tensor *, err *);
int cuda_div_scalar(backend *, tensor *, const tensor *, float, err *);
int cuda_conv(backend *, const conv_args *, err *);
int cuda_time_interleave(backend *, tensor *, const tensor *, err *);
int cuda_to_channels_last(backend *, tensor *, const tensor *, const float *, const float *, err *);
int cuda_to_channels_first(backend *, tensor *, const tensor *, const float *, const float *, err *);
}

#endif
