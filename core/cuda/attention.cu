/* Blocked softmax attention in f32, the exact path; bf16 goes to the kernels of the other files.
 *
 * attend: a block of 256 threads owns 64 queries of one head and visits the keys 64 at a time through shared memory with a
 * running maximum and sum. Thread (y, x) of 16 x 16 has the scores of rows 4y..4y+3 and columns x, x+16, .. and of the output
 * columns 4x.. (and 64 + 4x.. above 64).
 * attend_wide: the same for heads of 129 to 512, with 8 threads a row. */
#include <stdlib.h>
#include <string.h>

#include "core/cuda/attention_wide.h"
#include "core/cuda/attn_plan.cuh"

enum { QT = 32, THREADS = 256, TILE = 64 };

/* `rows` rows of D values into TILE rows of LD, zeros beyond */
__device__ static void load_rows(float *to, const float *from, int rows, int D, int columns, int LD, int64_t width)
{
    if (D % 4 == 0 && width % 4 == 0 && (uintptr_t)from % 16 == 0) {
        for (int i = threadIdx.x; i < TILE * (columns / 4); i += THREADS) {
            int r = i / (columns / 4), c = i % (columns / 4) * 4;
            *(float4 *)(to + r * LD + c) = r < rows && c < D ? *(const float4 *)(from + r * width + c) : make_float4(0, 0, 0, 0);
        }
        return;
    }
    for (int i = threadIdx.x; i < TILE * columns; i += THREADS) {
        int r = i / columns, c = i % columns;
        to[r * LD + c] = r < rows && c < D ? from[r * width + c] : 0.0f;
    }
}

template <int DP>
__global__ static void __launch_bounds__(THREADS) attend(float *out, const float *q, const float *k, const float *v, plan_dev plan, int D, int64_t width,
                                                         float scale, const float *bias, int64_t span, float *lse)
{
    constexpr int LD = DP + 4, LP = TILE + 4, PIECES = (DP + 63) / 64;
    extern __shared__ __align__(16) float tiles[];
    float *sq = tiles, *skv = sq + TILE * LD, *sp = skv + TILE * LD;
    int head = blockIdx.y, y = threadIdx.x / 16, x = threadIdx.x % 16;
    int64_t q0, q_end, r0, r1;
    find_segment(plan, blockIdx.x, TILE, &q0, &q_end, &r0, &r1);
    int rows = (int)(q_end - q0 < TILE ? q_end - q0 : TILE);
    float acc[4][PIECES][4], m[4], l[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        m[r] = -INFINITY;
        l[r] = 0;
        for (int n = 0; n < PIECES; n++)
            for (int i = 0; i < 4; i++)
                acc[r][n][i] = 0;
    }
    load_rows(sq, q + q0 * width + head * D, rows, D, DP, LD, width);
    key_blocks<TILE> at;
    for (at.start(plan, r0, r1); !at.done(); at.next(plan)) {
        int keys = at.keys();
        __syncthreads();
        load_rows(skv, k + at.k0 * width + head * D, keys, D, DP, LD, width);
        __syncthreads();
        float s[4][4] = { { 0 } };
        for (int d = 0; d < DP; d += 4) {
            float4 a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = *(const float4 *)(sq + (4 * y + i) * LD + d);
                b[i] = *(const float4 *)(skv + (x + 16 * i) * LD + d);
            }
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    s[r][c] = fmaf(a[r].x, b[c].x, s[r][c]);
                    s[r][c] = fmaf(a[r].y, b[c].y, s[r][c]);
                    s[r][c] = fmaf(a[r].z, b[c].z, s[r][c]);
                    s[r][c] = fmaf(a[r].w, b[c].w, s[r][c]);
                }
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            int row = 4 * y + r;
            float top = m[r], sum = 0;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int col = x + 16 * c;
                s[r][c] *= scale;
                if (bias && row < rows && col < keys)
                    s[r][c] += bias[head * (2 * span - 1) + at.k0 + col - q0 - row + span - 1];
                if (col >= keys)
                    s[r][c] = -INFINITY;
                top = fmaxf(top, s[r][c]);
            }
#pragma unroll
            for (int o = 8; o; o >>= 1)
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
            float shift = top == -INFINITY ? 0.0f : top, shrink = expf(m[r] - shift);
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[r][c] = expf(s[r][c] - shift);
                sum += s[r][c];
                sp[row * LP + x + 16 * c] = s[r][c];
            }
            m[r] = top;
            l[r] = l[r] * shrink + sum;
#pragma unroll
            for (int n = 0; n < PIECES; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    acc[r][n][i] *= shrink;
        }
        __syncthreads();
        load_rows(skv, v + at.k0 * width + head * D, keys, D, DP, LD, width);
        __syncthreads();
#pragma unroll 2
        for (int j = 0; j < TILE; j += 4) {
            float4 p[4];
#pragma unroll
            for (int r = 0; r < 4; r++)
                p[r] = *(const float4 *)(sp + (4 * y + r) * LP + j);
#pragma unroll
            for (int n = 0; n < PIECES; n++) {
                if (DP % 64 && n * 64 + 4 * x >= DP)
                    continue;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float4 value = *(const float4 *)(skv + (j + i) * LD + n * 64 + 4 * x);
#pragma unroll
                    for (int r = 0; r < 4; r++) {
                        float w = i == 0 ? p[r].x : i == 1 ? p[r].y : i == 2 ? p[r].z : p[r].w;
                        acc[r][n][0] = fmaf(w, value.x, acc[r][n][0]);
                        acc[r][n][1] = fmaf(w, value.y, acc[r][n][1]);
                        acc[r][n][2] = fmaf(w, value.z, acc[r][n][2]);
                        acc[r][n][3] = fmaf(w, value.w, acc[r][n][3]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        int row = 4 * y + r;
        float all = l[r];
#pragma unroll
        for (int o = 8; o; o >>= 1)
            all += __shfl_xor_sync(0xffffffffu, all, o);
        if (row >= rows)
            continue;
        if (lse && x == 0)
            lse[head * plan.n_q + q0 + row] = m[r] + logf(all);
#pragma unroll
        for (int n = 0; n < PIECES; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (n * 64 + 4 * x + i < D)
                    out[(q0 + row) * width + head * D + n * 64 + 4 * x + i] = acc[r][n][i] / all;
    }
}

template <int MAX_D, int KT>
__global__ static void __launch_bounds__(THREADS) attend_wide(float *out, const float *q, const float *k, const float *v, plan_dev plan, int D, int64_t width,
                                                         float scale, const float *bias, int64_t span, float *lse)
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
    if (lse && lane == 0 && q0 + row < q_end)
        lse[head * plan.n_q + q0 + row] = m + logf(l);
    if (q0 + row < q_end)
#pragma unroll
        for (int i = 0; i < MAX_D / 8; i++)
            if (lane + 8 * i < D)
                out[(q0 + row) * width + head * D + lane + 8 * i] = acc[i] / l;
}

typedef void kernel_fn(float *, const float *, const float *, const float *, plan_dev, int, int64_t, float, const float *, int64_t, float *);

static int launch(backend *be, const attn_args *a, kernel_fn *kernel, int tile_rows, size_t bytes, err *e)
{
    int64_t tiles, span = a->rel_bias ? a->rel_bias->shape[1] / 2 + 1 : 0;
    int D = (int)(tensor_cols(a->q) / a->n_heads);
    plan_dev plan;
    int rc = cuda_plan(be, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), tile_rows, &plan, &tiles, e);
    if (rc || !tiles)
        return rc;
    if (bytes > impl(be)->shared_limit)
        return ERR(e, ERR_DEVICE, "%s: attention heads of %d need %zu bytes of shared memory a block, %zu are there", be->device, D, bytes, impl(be)->shared_limit);
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attention");
    kernel<<<dim3(blocks_for(tiles, 1), (unsigned)a->n_heads), THREADS, bytes, impl(be)->stream>>>(
        (float *)a->out->data, (const float *)a->q->data, (const float *)a->k->data, (const float *)a->v->data, plan, D, tensor_cols(a->q), a->scale,
        a->rel_bias ? (const float *)a->rel_bias->data : NULL, span, a->lse ? (float *)a->lse->data : NULL);
    return cuda_launched(be, "attention", e);
}

template <int DP>
static int run(backend *be, const attn_args *a, err *e)
{
    return launch(be, a, attend<DP>, TILE, (size_t)(2 * TILE * (DP + 4) + TILE * (TILE + 4)) * sizeof(float), e);
}

static size_t wide_bytes(int D, int keys)
{
    return (size_t)(QT * (D + 1) + keys * (D + 1) + QT * (keys + 1)) * sizeof(float);
}

extern "C" int cuda_attention(backend *be, const attn_args *a, err *e)
{
    int D = (int)(tensor_cols(a->q) / a->n_heads);
    if (a->q->dtype == DT_BF16) {
        const char *plain = getenv("WANSCOPE_PLAIN_ATTENTION");      /* 1: what a chip without a kernel of its own runs, to compare with */
        if (D > 128)
            return cuda_attention_wide(be, a, e);
        if (!(plain && *plain == '1') && cuda_attention8_takes(be, a))
            return cuda_attention8(be, a, e);
        return !(plain && *plain == '1') && cuda_attention_hopper_takes(be, a) ? cuda_attention_hopper(be, a, e) : cuda_attention_mma(be, a, e);
    }
    if (a->n_heads > 65535)
        return ERR(e, ERR_DEVICE, "%d attention heads: the CUDA backend handles up to 65535", a->n_heads);
    if (D <= 16)
        return run<16>(be, a, e);
    if (D <= 32)
        return run<32>(be, a, e);
    if (D <= 64)
        return run<64>(be, a, e);
    if (D <= 128)
        return run<128>(be, a, e);
    if (D <= 256)
        return launch(be, a, attend_wide<256, 16>, QT, wide_bytes(D, 16), e);
    if (D <= 512)
        return launch(be, a, attend_wide<512, 16>, QT, wide_bytes(D, 16), e);
    return ERR(e, ERR_DEVICE, "attention heads of %d: the CUDA backend handles up to 512", D);
}
