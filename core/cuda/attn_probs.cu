/* Attention probabilities of chosen columns: out[h or 0][w][i] = sum over the columns c of word w of exp(scale * q_i k_c - lse_i).
 *
 * columns: a block owns 128 queries and one group of words with at most 16 columns together (or one word with more, 16 at a time),
 * and goes through the heads in order. Products are f32 FMAs of the widened q and k, 16 values of a head to a partial sum, so
 * that a score is good to 1e-7 of its largest part. A word's columns are added in the order given, heads in theirs.
 * denominators: without a given log-sum-exp, max and sum over all visible keys with scores of the same bits, sum in f64. */
#include <cuda_bf16.h>
#include <stdlib.h>
#include <string.h>

#include "core/cuda/attn_plan.cuh"

namespace {

enum { ROWS = 128, COLUMNS = 16, WORDS = 16, THREADS = 128, DEPTH = 64, LD = DEPTH + 4, LP = ROWS + 4, PART = 16 };
enum { TILE = 64, TILE_THREADS = 256 };

struct word_group {
    int first_word, n_words, first_column, n_columns;
};

struct probs_params {
    float *out;
    const void *q, *k;
    const float *lse;            /* given, or NULL */
    float2 *own_lse;             /* [N, Lq] computed by denominators: rounded, and what the rounding left */
    const word_group *groups;
    const int *word_begin, *columns;
    plan_dev plan;
    int D, heads, n_words;
    int64_t width;
    float scale;
    bool mean, wide;             /* wide: rows of heads begin at multiples of 16 bytes and hold whole 16-byte pieces */
};

template <typename T> __device__ __forceinline__ float widen(T v);
template <> __device__ __forceinline__ float widen(float v)
{
    return v;
}
template <> __device__ __forceinline__ float widen(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}

__device__ __forceinline__ void put_16_bytes(float *to, const float *from)
{
    *(float4 *)to = *(const float4 *)from;
}

__device__ __forceinline__ void put_16_bytes(float *to, const __nv_bfloat16 *from)
{
    uint4 v = *(const uint4 *)from;
    *(float4 *)to = make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
    *(float4 *)(to + 4) = make_float4(__uint_as_float(v.z << 16), __uint_as_float(v.z & 0xffff0000u), __uint_as_float(v.w << 16), __uint_as_float(v.w & 0xffff0000u));
}

__device__ __forceinline__ float2 lse_of(const probs_params &p, int64_t at)
{
    return p.lse ? make_float2(p.lse[at], 0.0f) : p.own_lse[at];
}

/* DEPTH values from column d0 of rows of one head, as f32; zeros beyond D. row(r) is the address of row r of the head, or NULL. */
template <typename T, int N, int N_THREADS, typename ROW>
__device__ __forceinline__ void load_depth(float *to, ROW row, int d0, int D, bool wide)
{
    constexpr int EACH = 16 / sizeof(T), PIECES = DEPTH / EACH;
    if (wide) {
#pragma unroll 2
        for (int i = threadIdx.x; i < N * PIECES; i += N_THREADS) {
            int r = i / PIECES, c = i % PIECES * EACH;
            const T *from = row(r);
            float *at = to + r * LD + c;
            if (from && d0 + c < D) {
                put_16_bytes(at, from + d0 + c);
            } else {
#pragma unroll
                for (int n = 0; n < EACH; n += 4)
                    *(float4 *)(at + n) = make_float4(0, 0, 0, 0);
            }
        }
        return;
    }
    for (int i = threadIdx.x; i < N * DEPTH; i += N_THREADS) {
        int r = i / DEPTH, c = i % DEPTH;
        const T *from = row(r);
        to[r * LD + c] = from && d0 + c < D ? widen(from[d0 + c]) : 0.0f;
    }
}

/* s[r][c] += the products of DEPTH values of rows a + r*A_STEP and b + c*B_STEP: the one order in which scores are summed */
template <int A_STEP, int B_STEP>
__device__ __forceinline__ void add_products(float (&s)[4][4], const float *a, const float *b)
{
#pragma unroll 1
    for (int d0 = 0; d0 < DEPTH; d0 += PART) {
        float part[4][4] = { { 0 } };
#pragma unroll
        for (int d = d0; d < d0 + PART; d += 4) {
            float4 x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = *(const float4 *)(a + i * A_STEP * LD + d);
                y[i] = *(const float4 *)(b + i * B_STEP * LD + d);
            }
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    part[r][c] = fmaf(x[r].x, y[c].x, part[r][c]);
                    part[r][c] = fmaf(x[r].y, y[c].y, part[r][c]);
                    part[r][c] = fmaf(x[r].z, y[c].z, part[r][c]);
                    part[r][c] = fmaf(x[r].w, y[c].w, part[r][c]);
                }
        }
#pragma unroll
        for (int r = 0; r < 4; r++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                s[r][c] += part[r][c];
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS, 3) columns(const __grid_constant__ probs_params p)
{
    __shared__ __align__(16) float sq[ROWS * LD], sk[COLUMNS * LD], sp[COLUMNS * LP];
    __shared__ float times[COLUMNS];
    __shared__ int column[COLUMNS];
    const word_group group = p.groups[blockIdx.y];
    const int thread = threadIdx.x, row = thread / 4, col = thread % 4;
    int64_t q0, q_end, r0, r1;
    find_segment(p.plan, blockIdx.x, ROWS, &q0, &q_end, &r0, &r1);
    const int rows = (int)(q_end - q0 < ROWS ? q_end - q0 : ROWS);
    const T *q = (const T *)p.q + q0 * p.width, *k = (const T *)p.k;
    float sum[WORDS];
#pragma unroll
    for (int w = 0; w < WORDS; w++)
        sum[w] = 0;

    for (int h = 0; h < p.heads; h++) {
        float word = 0;      /* of a word with more than COLUMNS columns */
        for (int c0 = 0; c0 < group.n_columns || c0 == 0; c0 += COLUMNS) {
            const int n = group.n_columns - c0 < COLUMNS ? group.n_columns - c0 : COLUMNS;
            if (thread < COLUMNS && (h == 0 || group.n_columns > COLUMNS)) {
                int j = thread < n ? p.columns[group.first_column + c0 + thread] : -1, seen = 0;
                for (int64_t r = r0; r < r1; r++) {
                    int64_t begin, end;
                    range_of(p.plan, r, &begin, &end);
                    seen += j >= begin && j < end;
                }
                column[thread] = j;
                times[thread] = (float)seen;
            }
            float s[4][4] = { { 0 } };
            for (int d0 = 0; d0 < p.D; d0 += DEPTH) {
                __syncthreads();
                load_depth<T, ROWS, THREADS>(sq, [&](int r) { return r < rows ? q + r * p.width + h * p.D : (const T *)NULL; }, d0, p.D, p.wide);
                load_depth<T, COLUMNS, THREADS>(sk, [&](int c) { return column[c] >= 0 ? k + column[c] * p.width + h * p.D : (const T *)NULL; }, d0, p.D, p.wide);
                __syncthreads();
                add_products<ROWS / 4, COLUMNS / 4>(s, sq + row * LD, sk + col * LD);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int r = row + i * (ROWS / 4);
                if (r >= rows)
                    continue;
                int64_t at = h * p.plan.n_q + q0 + r;
                float2 lse = lse_of(p, at);
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    int j = col + c * (COLUMNS / 4);
                    float t = times[j];
                    sp[j * LP + r] = t != 0.0f ? t * expf(fmaf(s[i][c], p.scale, -lse.x) - lse.y) : 0.0f;
                }
            }
            __syncthreads();
            if (thread < rows) {
                if (group.n_columns > COLUMNS) {
                    for (int c = 0; c < n; c++)
                        word += sp[c * LP + thread];
                    continue;
                }
#pragma unroll
                for (int w = 0; w < WORDS; w++) {
                    if (w >= group.n_words)
                        break;
                    float one = 0;
                    for (int c = p.word_begin[group.first_word + w]; c < p.word_begin[group.first_word + w + 1]; c++)
                        one += sp[(c - group.first_column) * LP + thread];
                    if (p.mean)
                        sum[w] += one;
                    else
                        p.out[((int64_t)h * p.n_words + group.first_word + w) * p.plan.n_q + q0 + thread] = one;
                }
            }
        }
        if (group.n_columns > COLUMNS && thread < rows) {
            if (p.mean)
                sum[0] += word;
            else
                p.out[((int64_t)h * p.n_words + group.first_word) * p.plan.n_q + q0 + thread] = word;
        }
    }
    if (!p.mean || thread >= rows)
        return;
#pragma unroll
    for (int w = 0; w < WORDS; w++)
        if (w < group.n_words)
            p.out[(int64_t)(group.first_word + w) * p.plan.n_q + q0 + thread] = sum[w] / (float)p.heads;
}

__device__ __forceinline__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void load_4(uint32_t (&r)[4], const void *from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((uint32_t)__cvta_generic_to_shared(from)) : "memory");
}

/* 16 bytes to shared memory, or zeros */
__device__ __forceinline__ void copy_16(void *to, const void *from, bool there)
{
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(bytes) : "memory");
}

/* The same with a given log-sum-exp, for bf16 heads of at most 128 in rows of whole 16-byte pieces, on tensor cores: a warp owns 16 queries. Queries and keys of
 * the next step (a head and 16 columns) come by cp.async while this one is multiplied, queries to where only their warp reads them.
 * A score is one chain of products of 16 values in ascending order, as in the attention kernels: where one key has nearly all of the
 * probability, its rounding in the score and in the log-sum-exp is the same and cancels. */
template <int DP>      /* head size rounded up to 32, 64, 96 or 128 */
__global__ void __launch_bounds__(THREADS, 4) columns_bf16(const __grid_constant__ probs_params p)
{
    typedef __nv_bfloat16 bf16;
    constexpr int WARPS = THREADS / 32, WARP_ROWS = 16, LW = WARP_ROWS + 1, LQ = DP + 8, CHUNKS = DP / 8;
    extern __shared__ __align__(16) unsigned char dynamic[];
    bf16 *sq = (bf16 *)dynamic, *sk = sq + 2 * WARPS * WARP_ROWS * LQ;      /* [2 stages][WARPS * WARP_ROWS][LQ], [2 stages][COLUMNS][LQ] */
    __shared__ float probs[WARPS][COLUMNS * LW];
    __shared__ float sums[WARPS][WORDS * WARP_ROWS];      /* over the heads, [word][query]; each lane keeps to its own */
    __shared__ float times[2][COLUMNS];
    __shared__ int begin_of[WORDS + 1];
    const word_group group = p.groups[blockIdx.y];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4, row = lane % 16;
    float *mine = probs[warp], *sum = sums[warp];
    int64_t q0, q_end, r0, r1;
    find_segment(p.plan, blockIdx.x, WARPS * WARP_ROWS, &q0, &q_end, &r0, &r1);
    q0 += warp * WARP_ROWS;
    const int rows = q_end - q0 < WARP_ROWS ? (int)(q_end - q0) : WARP_ROWS;      /* of this warp; may be negative */
    const bf16 *q = (const bf16 *)p.q + q0 * p.width, *k = (const bf16 *)p.k;
    const int steps_a_head = group.n_columns > COLUMNS ? (group.n_columns + COLUMNS - 1) / COLUMNS : 1;
    const int n_steps = p.heads * steps_a_head;
    float lse[2];      /* of rows g and g + 8 in the head of the next step */

    auto fetch = [&](int step) {
        const int h = step / steps_a_head, c0 = step % steps_a_head * COLUMNS, stage = step & 1;
        bf16 *to_q = sq + (stage * WARPS + warp) * WARP_ROWS * LQ, *to_k = sk + stage * COLUMNS * LQ;
        const bf16 *head = q + h * p.D;
#pragma unroll
        for (int i = lane; i < WARP_ROWS * CHUNKS; i += 32) {
            const int r = i / CHUNKS, c = i % CHUNKS * 8;
            const bool there = r < rows && c < p.D;
            copy_16(to_q + r * LQ + c, there ? head + r * p.width + c : k, there);
        }
#pragma unroll
        for (int i = threadIdx.x; i < COLUMNS * CHUNKS; i += THREADS) {
            const int r = i / CHUNKS, c = i % CHUNKS * 8;
            const bool there = c0 + r < group.n_columns && c < p.D;
            copy_16(to_k + r * LQ + c, there ? k + p.columns[group.first_column + c0 + r] * p.width + h * p.D + c : k, there);
        }
        asm volatile("cp.async.commit_group;\n" ::: "memory");
        if (threadIdx.x < COLUMNS && (step < 2 || steps_a_head > 1)) {
            const int j = c0 + (int)threadIdx.x < group.n_columns ? p.columns[group.first_column + c0 + threadIdx.x] : -1;
            int seen = 0;
            for (int64_t r = r0; r < r1; r++) {
                int64_t begin, end;
                range_of(p.plan, r, &begin, &end);
                seen += j >= begin && j < end;
            }
            times[stage][threadIdx.x] = (float)seen;
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
            lse[r] = g + 8 * r < rows ? p.lse[h * p.plan.n_q + q0 + g + 8 * r] : 0.0f;
    };

    for (int w = lane / 16; w < WORDS; w += 2)
        sum[w * WARP_ROWS + row] = 0;
    if (threadIdx.x <= group.n_words)
        begin_of[threadIdx.x] = p.word_begin[group.first_word + threadIdx.x] - group.first_column;
    fetch(0);
    float word = 0;      /* of a word with more than COLUMNS columns */
    for (int step = 0; step < n_steps; step++) {
        const int h = step / steps_a_head, part = step % steps_a_head, stage = step & 1;
        const float now[2] = { lse[0], lse[1] };
        asm volatile("cp.async.wait_group 0;\n" ::: "memory");
        __syncthreads();      /* this step is there, and nobody reads the other stage any more */
        if (step + 1 < n_steps)
            fetch(step + 1);
        const bf16 *from_q = sq + ((stage * WARPS + warp) * WARP_ROWS + lane % 16) * LQ + lane / 16 * 8;
        const bf16 *from_k = sk + (stage * COLUMNS + lane % 8 + lane / 16 * 8) * LQ + lane / 8 % 2 * 8;
        float s[2][4] = { { 0 } };
#pragma unroll
        for (int d = 0; d < DP; d += 16) {
            uint32_t a[4], b[4];
            load_4(a, from_q + d);
            load_4(b, from_k + d);
            multiply(s[0], a[0], a[1], a[2], a[3], b[0], b[1]);
            multiply(s[1], a[0], a[1], a[2], a[3], b[2], b[3]);
        }
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int x = 0; x < 4; x++) {
                const int c = x / 2 * 8 + quad * 2 + x % 2;
                const float t = times[stage][c];
                mine[c * LW + g + 8 * r] = t != 0.0f ? t * expf(fmaf(s[x / 2][r * 2 + x % 2], p.scale, -now[r])) : 0.0f;
            }
        __syncwarp();
        if (steps_a_head > 1) {
            const int n = group.n_columns - part * COLUMNS < COLUMNS ? group.n_columns - part * COLUMNS : COLUMNS;
            for (int c = 0; c < n; c++)
                word += mine[c * LW + row];
            if (part + 1 == steps_a_head) {
                if (p.mean && lane < WARP_ROWS)
                    sum[row] += word;
                else if (!p.mean && lane < WARP_ROWS && row < rows)
                    p.out[((int64_t)h * p.n_words + group.first_word) * p.plan.n_q + q0 + row] = word;
                word = 0;
            }
        } else {
#pragma unroll 1
            for (int w = lane / 16; w < group.n_words; w += 2) {      /* lanes 0-15 take the even words, 16-31 the odd ones */
                float one = 0;
                for (int c = begin_of[w]; c < begin_of[w + 1]; c++)
                    one += mine[c * LW + row];
                if (p.mean)
                    sum[w * WARP_ROWS + row] += one;
                else if (row < rows)
                    p.out[((int64_t)h * p.n_words + group.first_word + w) * p.plan.n_q + q0 + row] = one;
            }
        }
        __syncwarp();
    }
    if (!p.mean || row >= rows)
        return;
    for (int w = lane / 16; w < group.n_words; w += 2)
        p.out[(int64_t)(group.first_word + w) * p.plan.n_q + q0 + row] = sum[w * WARP_ROWS + row] / (float)p.heads;
}

template <int DP>
int launch_bf16(backend *be, const probs_params &p, dim3 grid, err *e)
{
    constexpr size_t bytes = (size_t)2 * (THREADS / 2 + COLUMNS) * (DP + 8) * 2;
    CUDA_TRY(cudaFuncSetAttribute(columns_bf16<DP>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes), "attn_probs");
    columns_bf16<DP><<<grid, THREADS, bytes, impl(be)->stream>>>(p);
    return cuda_launched(be, "attn_probs", e);
}

template <typename T>
__global__ void __launch_bounds__(TILE_THREADS) denominators(const __grid_constant__ probs_params p)
{
    __shared__ __align__(16) float sq[TILE * LD], sk[TILE * LD];
    const int head = blockIdx.y, y = threadIdx.x / 16, x = threadIdx.x % 16;
    int64_t q0, q_end, r0, r1;
    find_segment(p.plan, blockIdx.x, TILE, &q0, &q_end, &r0, &r1);
    const int rows = (int)(q_end - q0 < TILE ? q_end - q0 : TILE);
    const T *q = (const T *)p.q + q0 * p.width + head * p.D, *k = (const T *)p.k + head * p.D;
    float m[4];
    double l[4];
    for (int r = 0; r < 4; r++) {
        m[r] = -INFINITY;
        l[r] = 0;
    }
    key_blocks<TILE> at;
    for (at.start(p.plan, r0, r1); !at.done(); at.next(p.plan)) {
        const int keys = at.keys();
        float s[4][4] = { { 0 } };
        for (int d0 = 0; d0 < p.D; d0 += DEPTH) {
            __syncthreads();
            load_depth<T, TILE, TILE_THREADS>(sq, [&](int r) { return r < rows ? q + r * p.width : (const T *)NULL; }, d0, p.D, p.wide);
            load_depth<T, TILE, TILE_THREADS>(sk, [&](int r) { return r < keys ? k + (at.k0 + r) * p.width : (const T *)NULL; }, d0, p.D, p.wide);
            __syncthreads();
            add_products<TILE / 4, TILE / 4>(s, sq + y * LD, sk + x * LD);
        }
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float top = m[r], sum = 0;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[r][c] = x + c * (TILE / 4) < keys ? s[r][c] * p.scale : -INFINITY;
                top = fmaxf(top, s[r][c]);
            }
#pragma unroll
            for (int o = 8; o; o >>= 1)
                top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, o));
            float shift = top == -INFINITY ? 0.0f : top;
#pragma unroll
            for (int c = 0; c < 4; c++)
                sum += expf(s[r][c] - shift);
            l[r] = l[r] * (double)expf(m[r] - shift) + (double)sum;
            m[r] = top;
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
        double all = l[r];
#pragma unroll
        for (int o = 8; o; o >>= 1)
            all += __shfl_xor_sync(0xffffffffu, all, o);
        int i = y + r * (TILE / 4);
        double lse = (double)m[r] + log(all);
        if (x == 0 && i < rows)
            p.own_lse[head * p.plan.n_q + q0 + i] = make_float2((float)lse, (float)(lse - (double)(float)lse));
    }
}

/* Words in their order, as many to a group as fit. The table: groups, word_begin, columns. */
int group_words(backend *be, const attn_probs_args *a, probs_params *p, int *n_groups, err *e)
{
    int n_columns = a->word_begin[a->n_words], n = 0;
    size_t groups_bytes = (size_t)a->n_words * sizeof(word_group), begin_bytes = ((size_t)a->n_words + 1) * sizeof(int);
    size_t bytes = groups_bytes + begin_bytes + (size_t)n_columns * sizeof(int);
    char *host = (char *)calloc(1, bytes);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for a list of %d words", a->n_words);
    word_group *g = (word_group *)host;
    for (int w = 0; w < a->n_words; w++) {
        int more = a->word_begin[w + 1] - a->word_begin[w];
        if (n && g[n - 1].n_words < WORDS && g[n - 1].n_columns + more <= COLUMNS) {
            g[n - 1].n_words++;
            g[n - 1].n_columns += more;
        } else {
            word_group one = { w, 1, a->word_begin[w], more };
            g[n++] = one;
        }
    }
    memcpy(host + groups_bytes, a->word_begin, begin_bytes);
    if (n_columns)
        memcpy(host + groups_bytes + begin_bytes, a->columns, (size_t)n_columns * sizeof(int));
    const void *dev;
    int rc = cuda_table(be, &dev, host, bytes, e);
    free(host);
    *n_groups = n;
    p->groups = (const word_group *)dev;
    p->word_begin = (const int *)((const char *)dev + groups_bytes);
    p->columns = p->word_begin + a->n_words + 1;
    return rc;
}

template <typename T>
int run(backend *be, const attn_probs_args *a, probs_params &p, err *e)
{
    int64_t n_q = tensor_nrows(a->q), n_k = tensor_nrows(a->k), tiles;
    int n_groups, rc;
    p.D = (int)(tensor_cols(a->q) / a->n_heads);
    p.wide = p.D * sizeof(T) % 16 == 0 && (uintptr_t)a->q->data % 16 == 0 && (uintptr_t)a->k->data % 16 == 0;
    if ((rc = group_words(be, a, &p, &n_groups, e)))
        return rc;
    if (n_groups > 65535 || a->n_heads > 65535)
        return ERR(e, ERR_DEVICE, "%d words and %d heads: the CUDA backend handles up to 65535 groups of either", a->n_words, a->n_heads);
    if (!p.lse) {
        if ((rc = cuda_plan(be, &a->plan, n_q, n_k, TILE, &p.plan, &tiles, e)) || !tiles ||
            (rc = cuda_need_work(be, (size_t)(n_q * a->n_heads) * sizeof(float2), e)))
            return rc;
        p.own_lse = (float2 *)impl(be)->work;
        denominators<T><<<dim3(blocks_for(tiles, 1), (unsigned)a->n_heads), TILE_THREADS, 0, impl(be)->stream>>>(p);
        if ((rc = cuda_launched(be, "attn_probs", e)))
            return rc;
    }
    bool tensor_cores = sizeof(T) == 2 && p.lse && p.wide && p.D <= 128;      /* our own log-sum-exp is of scores summed as in columns() */
    if ((rc = cuda_plan(be, &a->plan, n_q, n_k, tensor_cores ? THREADS / 2 : ROWS, &p.plan, &tiles, e)) || !tiles || !n_groups)
        return rc;
    dim3 grid(blocks_for(tiles, 1), (unsigned)n_groups);
    if (tensor_cores)
        return p.D <= 32 ? launch_bf16<32>(be, p, grid, e) : p.D <= 64 ? launch_bf16<64>(be, p, grid, e) : p.D <= 96 ? launch_bf16<96>(be, p, grid, e)
                                                                                                                   : launch_bf16<128>(be, p, grid, e);
    columns<T><<<grid, THREADS, 0, impl(be)->stream>>>(p);
    return cuda_launched(be, "attn_probs", e);
}

}

extern "C" int cuda_attn_probs(backend *be, const attn_probs_args *a, err *e)
{
    probs_params p = {};
    p.out = (float *)a->out->data;
    p.q = a->q->data;
    p.k = a->k->data;
    p.lse = a->lse ? (const float *)a->lse->data : NULL;
    p.width = tensor_cols(a->q);
    p.heads = a->n_heads;
    p.n_words = a->n_words;
    p.scale = a->scale;
    p.mean = a->out->shape[0] == 1;
    return a->q->dtype == DT_BF16 ? run<__nv_bfloat16>(be, a, p, e) : run<float>(be, a, p, e);
}
