/* Attention of bf16 heads wider than 128 (the VAE's one head of 384): scores by cuBLAS in f32, softmax, product by cuBLAS. Queries go
 * in pieces, so that the scores of a frame never lie in memory as a whole. */
#include "core/cuda/attention_wide.h"
#include "core/cuda/cuda.cuh"

namespace {

typedef __nv_bfloat16 bf16;

enum { THREADS = 256, PIECE = 1024 };

__device__ float block_max(float v, float *shared)
{
    v = warp_max(v);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++)
        v = fmaxf(v, shared[i]);
    return v;
}

__device__ float block_sum(float v, float *shared)
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

/* One block a query: probabilities of its scores, divided by their sum before they are rounded. */
__global__ void __launch_bounds__(THREADS) softmax(bf16 *p, const float *scores, int64_t keys, int64_t ld, float *lse)
{
    __shared__ float shared[THREADS / 32];
    const float *s = scores + blockIdx.x * ld;
    bf16 *out = p + blockIdx.x * ld;
    float top = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < keys; i += THREADS)
        top = fmaxf(top, s[i]);
    top = block_max(top, shared);
    for (int64_t i = threadIdx.x; i < keys; i += THREADS)
        sum += __expf(s[i] - top);
    sum = block_sum(sum, shared);
    const float inv = 1.0f / sum;
    for (int64_t i = threadIdx.x; i < keys; i += THREADS)
        out[i] = __float2bfloat16(__expf(s[i] - top) * inv);
    if (lse && threadIdx.x == 0)
        lse[blockIdx.x] = top + logf(sum);
}

int product(backend *be, cublasOperation_t ta, cublasOperation_t tb, int64_t m, int64_t n, int64_t k, float alpha, const bf16 *a, int64_t lda, const bf16 *b,
            int64_t ldb, void *c, cudaDataType type, int64_t ldc, err *e)
{
    const float none = 0;
    blas.set_math_mode(impl(be)->blas, CUBLAS_DEFAULT_MATH);      /* the handle is pedantic for f32: that would leave the tensor cores out */
    cublasStatus_t s = blas.gemm_ex(impl(be)->blas, ta, tb, (int)m, (int)n, (int)k, &alpha, a, CUDA_R_16BF, (int)lda, b, CUDA_R_16BF, (int)ldb, &none, c, type,
                                    (int)ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    blas.set_math_mode(impl(be)->blas, CUBLAS_PEDANTIC_MATH);
    return s == CUBLAS_STATUS_SUCCESS ? 0 : ERR(e, ERR_DEVICE, "%s: cuBLAS refused a product of %lld x %lld x %lld in bf16: %s", be->device, (long long)m,
                                                (long long)k, (long long)n, blas.status_string(s));
}

}

int cuda_attention_wide(backend *be, const attn_args *a, err *e)
{
    int rc = 0;
    const int64_t width = tensor_cols(a->q), D = width / a->n_heads, Lq = tensor_nrows(a->q), Lk = tensor_nrows(a->k);
    const attn_range all_keys = { 0, Lk };
    const attn_segment all = { 0, Lq, 1, &all_keys };
    const attn_segment *segments = a->plan.n_segments ? a->plan.segments : &all;
    const int n_segments = a->plan.n_segments ? a->plan.n_segments : 1;
    int64_t most = 0;
    bool joined = false;
    if (a->q->dtype != DT_BF16 || a->rel_bias)
        return ERR(e, ERR_INTERNAL, "attention: heads of %lld are computed in BF16 without a relative bias", (long long)D);
    for (int s = 0; s < n_segments; s++) {
        int64_t keys = 0;
        for (int r = 0; r < segments[s].n_ranges; r++)
            keys += segments[s].ranges[r].end - segments[s].ranges[r].begin;
        most = keys > most ? keys : most;
        joined |= segments[s].n_ranges > 1;
    }
    const int64_t ld = (most + 7) / 8 * 8, piece = Lq < PIECE ? Lq : PIECE;      /* rows of scores start on 16 bytes */
    const size_t scores_bytes = (size_t)(piece * ld) * 4, probs_bytes = (size_t)(piece * ld) * 2, rows_bytes = joined ? (size_t)(most * width) * 2 : 0;
    if ((rc = cuda_need_work(be, scores_bytes + probs_bytes + 2 * rows_bytes, e)))
        return rc;
    float *scores = (float *)impl(be)->work;
    bf16 *probs = (bf16 *)((char *)scores + scores_bytes), *own_k = (bf16 *)((char *)probs + probs_bytes), *own_v = (bf16 *)((char *)own_k + rows_bytes);
    for (int s = 0; s < n_segments; s++) {
        const attn_segment *g = &segments[s];
        int64_t keys = 0;
        const bf16 *k = (const bf16 *)a->k->data + g->ranges[0].begin * width, *v = (const bf16 *)a->v->data + g->ranges[0].begin * width;
        for (int r = 0; r < g->n_ranges; r++) {      /* several ranges: their rows one after another in scratch memory */
            int64_t n = g->ranges[r].end - g->ranges[r].begin, from = g->ranges[r].begin * width;
            if (g->n_ranges > 1 && n) {
                CUDA_TRY(cudaMemcpyAsync(own_k + keys * width, (const bf16 *)a->k->data + from, (size_t)(n * width) * 2, cudaMemcpyDeviceToDevice,
                                         impl(be)->stream), "attention");
                CUDA_TRY(cudaMemcpyAsync(own_v + keys * width, (const bf16 *)a->v->data + from, (size_t)(n * width) * 2, cudaMemcpyDeviceToDevice,
                                         impl(be)->stream), "attention");
            }
            keys += n;
        }
        if (g->n_ranges > 1) {
            k = own_k;
            v = own_v;
        }
        for (int h = 0; h < a->n_heads; h++)
            for (int64_t q = g->q_begin; q < g->q_end; q += piece) {
                int64_t n = g->q_end - q < piece ? g->q_end - q : piece, at = q * width + h * D;
                /* row-major scores [n, keys] are column-major [keys, n] */
                if ((rc = product(be, CUBLAS_OP_T, CUBLAS_OP_N, keys, n, D, a->scale, k + h * D, width, (const bf16 *)a->q->data + at, width, scores, CUDA_R_32F,
                                  ld, e)))
                    return rc;
                softmax<<<(unsigned)n, THREADS, 0, impl(be)->stream>>>(probs, scores, keys, ld, a->lse ? (float *)a->lse->data + h * Lq + q : NULL);
                if ((rc = cuda_launched(be, "attention", e)) ||
                    (rc = product(be, CUBLAS_OP_N, CUBLAS_OP_N, D, n, keys, 1.0f, v + h * D, width, probs, ld, (bf16 *)a->out->data + at, CUDA_R_16BF, width, e)))
                    return rc;
            }
    }
    return 0;
}
