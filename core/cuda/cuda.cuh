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

typedef struct cuda_stream cuda_stream;     /* stream.cu */
struct attn_work_cache;      /* attention_lists.cu */

typedef struct cuda_impl {
    int device;
    cudaStream_t stream;
    cublasHandle_t blas;
    struct gemm_cache *gemm;    /* cuBLASLt: its handle, workspace and the plan of every shape met (gemm.cu) */
    void *work;                 /* scratch of the convolutions and the plans */
    size_t work_bytes;
    int graphs;                 /* recorded and not freed: they keep addresses */
    struct cuda_retired *retired;   /* memory that goes with the last of them (graph.cu) */
    int sm_count;
    size_t shared_limit;        /* dynamic shared memory a block may ask for */
    cuda_stream *copier;        /* pinned memory and the second stream, made on first use */
    struct cuda_tables *tables; /* attn_plan.cuh */
    cudaStream_t downloads;     /* download.cu, made on first use */
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
/* Frees device memory that recorded graphs may use, now or when the last of them is gone. NULL is harmless. */
void cuda_retire(backend *be, void *p);
/* Queues an upload of n elements of `source` (pageable memory, which may change on return), held as `kept` (the same, f32, bf16,
 * f16): converted by all threads on the way through a pinned ring. */
int cuda_upload_as(backend *be, void *dst, dtype kept, const void *host, dtype source, int64_t n, err *e);
void cuda_stream_close(backend *be);
int cuda_host_alloc(backend *be, void **p, size_t bytes, err *e);
void cuda_host_free(backend *be, void *p, size_t bytes);
int cuda_download_begin(backend *be, backend_download *d, void *host, const void *src, size_t bytes, err *e);
int cuda_download_wait(backend *be, backend_download *d, err *e);
void cuda_download_free(backend *be, backend_download *d);
void cuda_downloads_close(backend *be);
int cuda_slot_new(backend *be, backend_slot *s, err *e);
void cuda_slot_free(backend *be, backend_slot *s);
int cuda_slot_fill(backend *be, backend_slot *s, const void *host, size_t bytes, err *e);
int cuda_slot_acquire(backend *be, backend_slot *s, err *e);
int cuda_slot_release(backend *be, backend_slot *s, err *e);
void cuda_trim(backend *be);
bool cuda_memory(backend *be, int64_t *free_bytes, int64_t *total_bytes);
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

/* with the hardware's exponential and reciprocal: 2 ulp of f32 each, far below a rounding to bf16 */
__device__ static inline float silu_fast(float x)
{
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.4426950408889634f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1.0f + e));
    return x * r;
}

__device__ static inline float gelu_tanh_of(float x)
{
    float u = 0.7978845608028654f * (x + 0.044715f * (x * x * x));
    return 0.5f * x * (1.0f + tanhf(u));
}

/* Values in f32, whatever the type; rounding to nearest even. */
__device__ static inline float to_f(float v) { return v; }
__device__ static inline float to_f(__nv_bfloat16 v) { return __bfloat162float(v); }
template <class T> __device__ static inline T from_f(float v);
template <> __device__ inline float from_f<float>(float v) { return v; }
template <> __device__ inline __nv_bfloat16 from_f<__nv_bfloat16>(float v) { return __float2bfloat16_rn(v); }

/* n consecutive values, n a multiple of 4 (f32) or 8 (bf16), at an address aligned to 16 bytes */
template <int n> __device__ static inline void load_run(float *v, const float *p)
{
#pragma unroll
    for (int i = 0; i < n; i += 4) {
        float4 a = *(const float4 *)(p + i);
        v[i] = a.x, v[i + 1] = a.y, v[i + 2] = a.z, v[i + 3] = a.w;
    }
}
template <int n> __device__ static inline void load_run(float *v, const __nv_bfloat16 *p)
{
#pragma unroll
    for (int i = 0; i < n; i += 8) {
        uint4 a = *(const uint4 *)(p + i);
        const __nv_bfloat162 *h = (const __nv_bfloat162 *)&a;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float2 two = __bfloat1622float2(h[k]);
            v[i + 2 * k] = two.x, v[i + 2 * k + 1] = two.y;
        }
    }
}
template <int n> __device__ static inline void store_run(float *p, const float *v)
{
#pragma unroll
    for (int i = 0; i < n; i += 4)
        *(float4 *)(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}
template <int n> __device__ static inline void store_run(__nv_bfloat16 *p, const float *v)
{
#pragma unroll
    for (int i = 0; i < n; i += 8) {
        uint4 a;
        __nv_bfloat162 *h = (__nv_bfloat162 *)&a;
#pragma unroll
        for (int k = 0; k < 4; k++)
            h[k] = __floats2bfloat162_rn(v[i + 2 * k], v[i + 2 * k + 1]);
        *(uint4 *)(p + i) = a;
    }
}

/* cuBLASLt of one backend: NULL until the first product; free with gemm_close. */
void gemm_close(cuda_impl *c);

extern "C" {
int cuda_graph_begin(backend *, err *);
int cuda_graph_end(backend *, void **, err *);
int cuda_graph_launch(backend *, void *, err *);
void cuda_graph_free(backend *, void *);
int cuda_linear(backend *, tensor *, const tensor *, const tensor *, const tensor *, activation, err *);
int cuda_layernorm(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cuda_layernorm_mod(backend *, tensor *, const tensor *, const tensor *, const tensor *, float, err *);
int cuda_rmsnorm(backend *, tensor *, const tensor *, const tensor *, float, err *);
int cuda_pixel_norm(backend *, tensor *, const tensor *, const tensor *, activation, err *);
int cuda_residual_norm(backend *, const residual_norm_args *, err *);
int cuda_rmsnorm_rope(backend *, tensor *, const tensor *, const tensor *, float, const rope_table *, int, err *);
int cuda_quantise(backend *, tensor *, const tensor *, err *);
int cuda_cast(backend *, tensor *, const tensor *, err *);
int cuda_rope(backend *, tensor *, const rope_table *, int, err *);
int cuda_gate_add(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_add_row(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_attention(backend *, const attn_args *, err *);
int cuda_attention_mma(backend *, const attn_args *, err *);      /* bf16, heads of 1 to 128; WANSCOPE_PLAIN_ATTENTION=1 takes it everywhere */
/* bf16, heads of 128, on Hopper */
int cuda_attention_hopper(backend *, const attn_args *, err *);
bool cuda_attention_hopper_takes(const backend *, const attn_args *);
/* the same in 8 bits, where every query sees all keys and a->room8 is there */
int cuda_attention8(backend *, const attn_args *, err *);
bool cuda_attention8_takes(const backend *, const attn_args *);
int cuda_attn_probs(backend *, const attn_probs_args *, err *);
int cuda_silu(backend *, tensor *, const tensor *, err *);
int cuda_gated_gelu(backend *, tensor *, const tensor *, const tensor *, err *);
int cuda_embed(backend *, tensor *, const tensor *, const int32_t *, int64_t, err *);
int cuda_patchify(backend *, tensor *, const tensor *, err *);
int cuda_unpatchify(backend *, tensor *, const tensor *, err *);
int cuda_axpby(backend *, tensor *, float, const tensor *, float, const tensor *, err *);
int cuda_div_scalar(backend *, tensor *, const tensor *, float, err *);
int cuda_randn(backend *, tensor *, uint64_t, uint64_t, int64_t, int64_t, err *);
int cuda_x0(backend *, tensor *, const tensor *, double, const tensor *, err *);
int cuda_nonfinite(backend *, tensor *, const tensor *, err *);
int cuda_conv(backend *, const conv_args *, err *);
int cuda_time_interleave(backend *, tensor *, const tensor *, err *);
int cuda_to_channels_last(backend *, tensor *, const tensor *, const float *, const float *, err *);
int cuda_to_channels_first(backend *, tensor *, const tensor *, const float *, const float *, err *);
int cuda_rgb_begin(backend *, rgb_frames *, const tensor *, err *);
int cuda_rgb_wait(backend *, rgb_frames *, err *);
void cuda_rgb_free(backend *, rgb_frames *);
}

#endif
