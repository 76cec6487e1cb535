/* Blocked softmax attention and the probabilities of chosen columns, f32. The readable version and the oracle of faster ones.
 *
 * attention: a block of 256 threads owns QT queries of one head and visits the keys KT at a time through shared memory with a
 * running maximum and sum. Thread (row, lane8) keeps columns lane8, lane8 + 8, ... of its row's output in registers. */
#include <stdlib.h>
#include <string.h>

#include "core/cuda/attention_wide.h"
#include "core/cuda/cuda.cuh"

enum { QT = 32, THREADS = 256 };

/* The plan on the device: segments as (q_begin, q_end, first range, end range), then ranges as (begin, end), then the first
 * tile of each segment. */
typedef struct {
    int n_segments;
    const int64_t *segments, *ranges, *first_tile;
    int64_t n_q, n_k;       /* for the full plan, which needs no tables */
} plan_dev;

__device__ static void find_segment(const plan_dev &p, int64_t tile, int tile_rows, int64_t *q0, int64_t *q_end, int64_t *r0, int64_t *r1)
{
    if (!p.n_segments) {
        *q0 = tile * tile_rows;
        *q_end = p.n_q;
        *r0 = 0;
        *r1 = 1;
        return;
    }
    int lo = 0, hi = p.n_segments - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (p.first_tile[mid] <= tile)
            lo = mid;
        else
            hi = mid - 1;
    }
    *q0 = p.segments[4 * lo] + (tile - p.first_tile[lo]) * tile_rows;
    *q_end = p.segments[4 * lo + 1];
    *r0 = p.segments[4 * lo + 2];
    *r1 = p.segments[4 * lo + 3];
}

__device__ static void range_of(const plan_dev &p, int64_t r, int64_t *begin, int64_t *end)
{
    *begin = p.n_segments ? p.ranges[2 * r] : 0;
    *end = p.n_segments ? p.ranges[2 * r + 1] : p.n_k;
}

template <int MAX_D, int KT>
__global__ static void __launch_bounds__(THREADS) attend(float *out, const float *q, const float *k, const float *v, plan_dev plan, int D, int64_t width,
                                                         float scale, const float *bias, int64_t span)
{
    extern __shared__ float shared[];
    float *sq = shared, *skv = sq + QT * (D + 1), *ss = skv + KT * (D + 1);
    int head = blockIdx.y, row = threadIdx.x / 8, lane = threadIdx.x % 8;
    int64_t q0, q_end, r0, r1;
    float acc[MAX_D / 8], m = -INFINITY, l = 0;
    find_segment(plan, blockIdx.x, QT, &q0, &q_end, &r0, &r1);
    for (int i = 0; i < MAX_D / 8; i++)
        acc[i] = 0;
    for (int i = threadIdx.x; i < QT * D; i += THREADS)
        sq[i / D * (D + 1) + i % D] = q0 + i / D < q_end ? q[(q0 + i / D) * width + head * D + i % D] : 0.0f;
    for (int64_t r = r0; r < r1; r++) {
        int64_t begin, end;
        range_of(plan, r, &begin, &end);
        for (int64_t k0 = begin; k0 < end; k0 += KT) {
            int keys = (int)(end - k0 < KT ? end - k0 : KT);
            __syncthreads();
            for (int i = threadIdx.x; i < KT * D; i += THREADS)
                skv[i / D * (D + 1) + i % D] = i / D < keys ? k[(k0 + i / D) * width + head * D + i % D] : 0.0f;
            __syncthreads();
            for (int j = lane; j < keys; j += 8) {
                float s = 0;
                for (int d = 0; d < D; d++)
                    s += sq[row * (D + 1) + d] * skv[j * (D + 1) + d];
                s *= scale;
                if (bias && q0 + row < q_end)
                    s += bias[head * (2 * span - 1) + (k0 + j) - (q0 + row) + span - 1];
                ss[row * (KT + 1) + j] = s;
            }
            __syncwarp();
            float top = m, sum = 0;
            for (int j = 0; j < keys; j++)
                top = fmaxf(top, ss[row * (KT + 1) + j]);
            float shrink = m == -INFINITY ? 0.0f : expf(m - top);
            for (int j = 0; j < keys; j++)
                sum += expf(ss[row * (KT + 1) + j] - top);
            __syncwarp();
            for (int j = lane; j < keys; j += 8)
                ss[row * (KT + 1) + j] = expf(ss[row * (KT + 1) + j] - top);
            l = l * shrink + sum;
            m = top;
            for (int i = 0; i < MAX_D / 8; i++)
                acc[i] *= shrink;
            __syncthreads();
            for (int i = threadIdx.x; i < KT * D; i += THREADS)
                skv[i / D * (D + 1) + i % D] = i / D < keys ? v[(k0 + i / D) * width + head * D + i % D] : 0.0f;
            __syncthreads();
            for (int j = 0; j < keys; j++) {
                float p = ss[row * (KT + 1) + j];
                const float *value = skv + j * (D + 1);
#pragma unroll
                for (int i = 0; i < MAX_D / 8; i++)
                    if (lane + 8 * i < D)
                        acc[i] += p * value[lane + 8 * i];
            }
        }
    }
    if (q0 + row < q_end)
#pragma unroll
        for (int i = 0; i < MAX_D / 8; i++)
            if (lane + 8 * i < D)
                out[(q0 + row) * width + head * D + lane + 8 * i] = acc[i] / l;
}

/* Puts the plan into scratch memory; returns the number of tiles. */
static int plan_upload(backend *be, const attn_plan *plan, int64_t n_q, int64_t n_k, int tile_rows, size_t extra, plan_dev *out, int64_t *tiles, err *e)
{
    int64_t ranges = 0, at = 0, first = 0;
    out->n_segments = plan->n_segments;
    out->segments = out->ranges = out->first_tile = NULL;
    out->n_q = n_q;
    out->n_k = n_k;
    *tiles = (n_q + tile_rows - 1) / tile_rows;
    for (int s = 0; s < plan->n_segments; s++)
        ranges += plan->segments[s].n_ranges;
    size_t words = (size_t)(plan->n_segments * 5 + 2 * ranges), bytes = words * sizeof(int64_t);
    int rc = cuda_need_work(be, bytes + extra + 256, e);
    if (rc || !plan->n_segments)
        return rc;
    int64_t *host = (int64_t *)malloc(bytes);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d segments", plan->n_segments);
    int64_t *seg = host, *rng = host + 4 * plan->n_segments, *tile = rng + 2 * ranges;
    for (int s = 0; s < plan->n_segments; s++) {
        const attn_segment *g = &plan->segments[s];
        int64_t row[4] = { g->q_begin, g->q_end, at, at + g->n_ranges };
        memcpy(seg + 4 * s, row, sizeof row);
        for (int r = 0; r < g->n_ranges; r++, at++) {
            rng[2 * at] = g->ranges[r].begin;
            rng[2 * at + 1] = g->ranges[r].end;
        }
        tile[s] = first;
        first += (g->q_end - g->q_begin + tile_rows - 1) / tile_rows;
    }
    *tiles = first;
    rc = be->ops->upload(be, impl(be)->work, host, bytes, e);
    free(host);
    out->segments = (const int64_t *)impl(be)->work;
    out->ranges = out->segments + 4 * plan->n_segments;
    out->first_tile = out->ranges + 2 * ranges;
    return rc;
}

template <int MAX_D, int KT>
static int launch(backend *be, const attn_args *a, const plan_dev &plan, int64_t tiles, int D, err *e)
{
    size_t bytes = (size_t)(QT * (D + 1) + KT * (D + 1) + QT * (KT + 1)) * sizeof(float);
    if (bytes > impl(be)->shared_limit)
        return ERR(e, ERR_DEVICE, "%s: attention heads of %d need %zu bytes of shared memory a block, %zu are there", be->device, D, bytes, impl(be)->shared_limit);
    CUDA_TRY(cudaFuncSetAttribute(attend<MAX_D, KT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attention");
    dim3 grid(blocks_for(tiles, 1), (unsigned)a->n_heads);
    int64_t span = a->rel_bias ? a->rel_bias->shape[1] / 2 + 1 : 0;
    attend<MAX_D, KT><<<grid, THREADS, bytes, impl(be)->stream>>>((float *)a->out->data, (const float *)a->q->data, (const float *)a->k->data,
                                                                 (const float *)a->v->data, plan, D, tensor_cols(a->q), a->scale,
                                                                 a->rel_bias ? (const float *)a->rel_bias->data : NULL, span);
    return cuda_launched(be, "attention", e);
}

extern "C" int cuda_attention(backend *be, const attn_args *a, err *e)
{
    int D = (int)(tensor_cols(a->q) / a->n_heads);
    plan_dev plan;
    int64_t tiles;
    if (a->q->dtype == DT_BF16 && D > 128)
        return cuda_attention_wide(be, a, e);
    int rc = plan_upload(be, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), QT, 0, &plan, &tiles, e);
    if (rc || !tiles)
        return rc;
    if (D <= 64)
        return launch<64, 32>(be, a, plan, tiles, D, e);
    if (D <= 128)
        return launch<128, 32>(be, a, plan, tiles, D, e);
    if (D <= 256)
        return launch<256, 16>(be, a, plan, tiles, D, e);
    if (D <= 512)
        return launch<512, 16>(be, a, plan, tiles, D, e);
    return ERR(e, ERR_DEVICE, "attention heads of %d: the CUDA backend handles up to 512", D);
}

/* ---- probabilities: one warp a query; the heads one after another, so that their mean has a fixed order ---- */

enum { PROBS_WARPS = 4 };

__global__ static void __launch_bounds__(PROBS_WARPS * 32) probs(float *out, const float *q, const float *k, plan_dev plan, int D, int64_t width, int heads,
                                                                 float scale, int n_words, const int *word_begin, const int *columns, bool mean, int64_t n_q)
{
    int lane = threadIdx.x % 32;
    int64_t i0, q_end, r0, r1;
    find_segment(plan, blockIdx.x, PROBS_WARPS, &i0, &q_end, &r0, &r1);
    int64_t i = i0 + threadIdx.x / 32;
    if (i >= q_end)
        return;
    for (int h = 0; h < heads; h++) {
        const float *query = q + i * width + h * D;
        float m = -INFINITY;
        double l = 0;
        for (int64_t r = r0; r < r1; r++) {
            int64_t begin, end;
            range_of(plan, r, &begin, &end);
            for (int64_t j = begin + lane; j < end; j += 32) {
                const float *key = k + j * width + h * D;
                float s = 0;
                for (int d = 0; d < D; d++)
                    s += query[d] * key[d];
                s *= scale;
                float top = fmaxf(m, s);
                l = (m == -INFINITY ? 0.0 : l * (double)expf(m - top)) + (double)expf(s - top);
                m = top;
            }
        }
        float top = warp_max(m);
        l = m == -INFINITY ? 0.0 : l * (double)expf(m - top);
        for (int o = 16; o; o >>= 1)
            l += __shfl_xor_sync(0xffffffffu, l, o);
        for (int w = 0; w < n_words; w++) {
            double p = 0;
            for (int c = word_begin[w] + lane; c < word_begin[w + 1]; c += 32) {
                int64_t j = columns[c];
                int times = 0;
                for (int64_t r = r0; r < r1; r++) {
                    int64_t begin, end;
                    range_of(plan, r, &begin, &end);
                    times += j >= begin && j < end;
                }
                const float *key = k + j * width + h * D;
                float s = 0;
                for (int d = 0; d < D; d++)
                    s += query[d] * key[d];
                p += times * (double)expf(s * scale - top);
            }
            for (int o = 16; o; o >>= 1)
                p += __shfl_xor_sync(0xffffffffu, p, o);
            p /= l;
            if (lane == 0) {
                float *at = out + ((int64_t)(mean ? 0 : h) * n_words + w) * n_q + i;
                *at = mean ? (h ? *at : 0.0f) + (float)(p / heads) : (float)p;
            }
        }
    }
}

extern "C" int cuda_attn_probs(backend *be, const attn_probs_args *a, err *e)
{
    int n_columns = a->word_begin[a->n_words], D = (int)(tensor_cols(a->q) / a->n_heads);
    size_t bytes = (size_t)(a->n_words + 1 + n_columns) * sizeof(int), plan_bytes = 0;
    plan_dev plan;
    int64_t tiles;
    int rc = plan_upload(be, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), PROBS_WARPS, bytes, &plan, &tiles, e);
    if (rc || !tiles)
        return rc;
    for (int s = 0; s < a->plan.n_segments; s++)
        plan_bytes += (size_t)(5 + 2 * a->plan.segments[s].n_ranges) * sizeof(int64_t);
    int *table = (int *)((char *)impl(be)->work + plan_bytes);
    if ((rc = be->ops->upload(be, table, a->word_begin, (size_t)(a->n_words + 1) * sizeof(int), e)) ||
        (n_columns && (rc = be->ops->upload(be, table + a->n_words + 1, a->columns, (size_t)n_columns * sizeof(int), e))))
        return rc;
    probs<<<blocks_for(tiles, 1), PROBS_WARPS * 32, 0, impl(be)->stream>>>((float *)a->out->data, (const float *)a->q->data, (const float *)a->k->data, plan, D,
                                                                          tensor_cols(a->q), a->n_heads, a->scale, a->n_words, table,
                                                                          table + a->n_words + 1, a->out->shape[0] == 1, tensor_nrows(a->q));
    return cuda_launched(be, "attn_probs", e);
}
