/* bf16 attention on mma.sync, for heads of 1 to 128 and everything op_attention() allows: plans, a relative bias, log-sum-exp.
 * The plain path: any chip from sm_80 on, any head size, any alignment.
 *
 * A block of four warps owns 64*MT queries of one head, MT strips of 16 rows a warp, and visits the keys BN at a time. K and V
 * come through a ring of two stages by cp.async, one barrier a block of keys. Scores, softmax and sums are f32, the
 * probabilities are rounded to bf16 for the product with V, as flash attention does. What a row computes does not depend on
 * MT: the same keys in the same blocks by the same instructions. */
#include <cuda_bf16.h>
#include <stdint.h>

#include "core/cuda/attn_plan.cuh"

namespace {

enum { WARPS = 4, THREADS = WARPS * 32, BN = 64 };

typedef __nv_bfloat16 bf16;

struct mma_params {
    bf16 *out;
    const bf16 *q, *k, *v;
    const float *bias;      /* [N, 2*span-1] or NULL */
    float *lse;             /* [N, Lq] or NULL */
    plan_dev plan;
    int D;
    int64_t width, span;
    float scale;
    bool wide;              /* rows of heads begin at multiples of 16 bytes */
};

__device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, or zeros */
__device__ __forceinline__ void copy_16(uint32_t to, const void *from, bool there)
{
    int bytes = there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copies_done()
{
    asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;\n" ::: "memory");
}

__device__ __forceinline__ void load_4(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

__device__ __forceinline__ void load_4_transposed(uint32_t (&r)[4], uint32_t from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float exp2_of(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high)
{
    __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &two, 4);
    return bits;
}

/* ROWS rows of one head into shared memory with rows of DP + 8 elements: 16-byte columns of consecutive rows then lie in
 * different banks. Rows beyond `rows` and columns beyond D are zeros. */
template <int DP, int ROWS, bool WIDE>
__device__ __forceinline__ void load_tile(bf16 *to, const bf16 *from, int rows, const mma_params &p)
{
    constexpr int CHUNKS = DP / 8;
    int thread = threadIdx.x;
    asm volatile("" : "+r"(thread));      /* addresses are computed where they are used: kept, they would spill */
    if (WIDE || p.wide) {
        constexpr int STEP = THREADS / CHUNKS;      /* rows a pass; a few threads are left over where CHUNKS is no power of two */
        const int r0 = thread / CHUNKS, c = thread % CHUNKS * 8;
        if (THREADS % CHUNKS && r0 >= STEP)
            return;
        const bool there = c < p.D;
        const int64_t stride = STEP * p.width;
        uint32_t at = shared_address(to + r0 * (DP + 8) + c);
        from += there ? r0 * p.width + c : 0;
        if (rows >= ROWS) {
#pragma unroll
            for (int r = 0; r < ROWS; r += STEP, from += stride, at += STEP * (DP + 8) * sizeof(bf16))
                if (ROWS % STEP == 0 || r + r0 < ROWS)
                    copy_16(at, from, there);
        } else {
#pragma unroll 1
            for (int r = r0; r < ROWS; r += STEP, from += stride, at += STEP * (DP + 8) * sizeof(bf16))
                copy_16(at, r < rows ? from : p.q, there && r < rows);
        }
        return;
    }
    if constexpr (!WIDE)
        for (int i = thread; i < ROWS * DP; i += THREADS) {
            int r = i / DP, c = i % DP;
            to[r * (DP + 8) + c] = r < rows && c < p.D ? from[r * p.width + c] : __float2bfloat16(0.0f);
        }
}

template <int DP, int MT>
__global__ void __launch_bounds__(THREADS, MT == 2 || DP > 80 ? 2 : 3) attend(const __grid_constant__ mma_params p)
{
    constexpr int BM = 64 * MT, LD = DP + 8, KS = DP / 16, NS = BN / 8;
    constexpr bool Q_IN_REGISTERS = MT * KS * 4 <= 32;
    constexpr int KEPT = Q_IN_REGISTERS ? KS : 1;
    constexpr bool LEAN = MT == 2;      /* aligned rows, no bias: registers are short */
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *sq = (bf16 *)shared, *sk = sq + BM * LD, *sv = sk + 2 * BN * LD;
    const int head = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, quad = lane % 4;
    const int row_in_block = warp * 16 * MT;
    int64_t q0, q_end, r0, r1;
    find_segment(p.plan, blockIdx.x, BM, &q0, &q_end, &r0, &r1);
    const int rows = (int)(q_end - q0 < BM ? q_end - q0 : BM);
    const bf16 *k_head = p.k + (int64_t)head * p.D, *v_head = p.v + (int64_t)head * p.D;
    /* the scores of a biased row are complete before the softmax; others carry their scale in the exponent */
    const float to_log2 = (!LEAN && p.bias ? 1.0f : p.scale) * 1.4426950408889634f;

    key_blocks<BN> at;
    at.start(p.plan, r0, r1);
    load_tile<DP, BM, LEAN>(sq, p.q + q0 * p.width + (int64_t)head * p.D, rows, p);
    if (!at.done()) {
        load_tile<DP, BN, LEAN>(sk, k_head + at.k0 * p.width, at.keys(), p);
        load_tile<DP, BN, LEAN>(sv, v_head + at.k0 * p.width, at.keys(), p);
    }

    const uint32_t q_from = shared_address(sq + (row_in_block + lane % 16) * LD + lane / 16 * 8);
    const uint32_t k_lane = (uint32_t)(((lane % 8 + lane / 16 * 8) * LD + lane / 8 % 2 * 8) * sizeof(bf16));
    const uint32_t v_lane = (uint32_t)((lane % 16 * LD + lane / 16 * 8) * sizeof(bf16));
    uint32_t qf[KEPT][MT][4];
    float o[MT][DP / 8][4], top[MT][2], sum[MT][2];
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int d = 0; d < DP / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[m][d][i] = 0;
        top[m][0] = top[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0;
    }

    for (int stage = 0, first = 1; !at.done(); stage ^= 1, first = 0) {
        const int keys = at.keys();
        const int64_t k0 = at.k0;
        copies_done();
        __syncthreads();      /* this block of keys is there, and nobody reads the other stage any more */
        at.next(p.plan);
        if (!at.done()) {
            load_tile<DP, BN, LEAN>(sk + (stage ^ 1) * BN * LD, k_head + at.k0 * p.width, at.keys(), p);
            load_tile<DP, BN, LEAN>(sv + (stage ^ 1) * BN * LD, v_head + at.k0 * p.width, at.keys(), p);
        }
        if (Q_IN_REGISTERS && first) {
#pragma unroll
            for (int ks = 0; ks < KEPT; ks++)
#pragma unroll
                for (int m = 0; m < MT; m++)
                    load_4(qf[ks][m], q_from + (uint32_t)((m * 16 * LD + ks * 16) * sizeof(bf16)));
        }

        float s[MT][NS][4];
#pragma unroll
        for (int m = 0; m < MT; m++)
#pragma unroll
            for (int n = 0; n < NS; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    s[m][n][i] = 0;
        const uint32_t k_from = shared_address(sk + stage * BN * LD) + k_lane;
#pragma unroll
        for (int ks = 0; ks < KS; ks++) {
            uint32_t q_now[MT][4];
#pragma unroll
            for (int m = 0; m < MT; m++) {
                if (Q_IN_REGISTERS) {
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        q_now[m][i] = qf[Q_IN_REGISTERS ? ks : 0][m][i];
                } else {
                    load_4(q_now[m], q_from + (uint32_t)((m * 16 * LD + ks * 16) * sizeof(bf16)));
                }
            }
#pragma unroll
            for (int n = 0; n < NS; n += 2) {
                uint32_t b[4];
                load_4(b, k_from + (uint32_t)((n * 8 * LD + ks * 16) * sizeof(bf16)));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    multiply(s[m][n], q_now[m], b[0], b[1]);
                    multiply(s[m][n + 1], q_now[m], b[2], b[3]);
                }
            }
        }

        if (!LEAN && p.bias) {
            const float *bias = p.bias + (int64_t)head * (2 * p.span - 1) + k0 - q0 - row_in_block + p.span - 1;
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int row = m * 16 + g + i / 2 * 8, col = n * 8 + quad * 2 + i % 2;
                        if (row_in_block + row < rows && col < keys)
                            s[m][n][i] = s[m][n][i] * p.scale + bias[col - row];
                    }
        }
        if (keys < BN) {
#pragma unroll
            for (int m = 0; m < MT; m++)
#pragma unroll
                for (int n = 0; n < NS; n++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (n * 8 + quad * 2 + i % 2 >= keys)
                            s[m][n][i] = -INFINITY;
        }

        /* softmax: a row lies in the four lanes of a quad; the sum stays apart until the end */
        uint32_t prob[MT][BN / 16][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            float shift[2], shrink[2];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float now = top[m][half];
#pragma unroll
                for (int n = 0; n < NS; n++)
                    now = fmaxf(now, fmaxf(s[m][n][half * 2], s[m][n][half * 2 + 1]));
                now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
                now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
                /* the old terms are relative to the rounded product: a fused one here would add its rounding with every new maximum */
                shift[half] = now == -INFINITY ? 0.0f : __fmul_rn(now, to_log2);
                shrink[half] = exp2_of(__fmul_rn(top[m][half], to_log2) - shift[half]);
                top[m][half] = now;
                sum[m][half] *= shrink[half];
            }
#pragma unroll
            for (int n = 0; n < NS; n++) {
                float e0 = exp2_of(fmaf(s[m][n][0], to_log2, -shift[0])), e1 = exp2_of(fmaf(s[m][n][1], to_log2, -shift[0]));
                float e2 = exp2_of(fmaf(s[m][n][2], to_log2, -shift[1])), e3 = exp2_of(fmaf(s[m][n][3], to_log2, -shift[1]));
                sum[m][0] += e0 + e1;
                sum[m][1] += e2 + e3;
                prob[m][n / 2][n % 2 * 2] = pack(e0, e1);
                prob[m][n / 2][n % 2 * 2 + 1] = pack(e2, e3);
            }
            if (__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f)) {      /* times 1 changes nothing */
#pragma unroll
                for (int d = 0; d < DP / 8; d++)
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        o[m][d][i] *= shrink[i / 2];
            }
        }

        const uint32_t v_from = shared_address(sv + stage * BN * LD) + v_lane;
#pragma unroll
        for (int ks = 0; ks < BN / 16; ks++)
#pragma unroll
            for (int d = 0; d < DP / 8; d += 2) {
                uint32_t b[4];
                load_4_transposed(b, v_from + (uint32_t)((ks * 16 * LD + d * 8) * sizeof(bf16)));
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    multiply(o[m][d], prob[m][ks], b[0], b[1]);
                    multiply(o[m][d + 1], prob[m][ks], b[2], b[3]);
                }
            }
    }

    /* each warp turns its own rows of Q into its rows of the output */
    __syncwarp();
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = sum[m][half];
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            int row = row_in_block + m * 16 + g + half * 8;
            float inverse = 1.0f / all;
            if (p.lse && quad == 0 && row < rows) {
                /* in double: the rounding of top * to_log2 is in every term of the sum, that of to_log2 itself in the largest */
                const double ln2 = 0.6931471805599453, to_e = !LEAN && p.bias ? 1.0 : (double)p.scale, high = top[m][half];
                p.lse[head * p.plan.n_q + q0 + row] = (float)((double)__fmul_rn(top[m][half], to_log2) * ln2 + high * (to_e - (double)to_log2 * ln2) + (double)logf(all));
            }
#pragma unroll
            for (int d = 0; d < DP / 8; d++)
                *(uint32_t *)(sq + row * LD + d * 8 + quad * 2) = pack(o[m][d][half * 2] * inverse, o[m][d][half * 2 + 1] * inverse);
        }
    __syncwarp();
    bf16 *out = p.out + (q0 + row_in_block) * p.width + (int64_t)head * p.D;
    const bf16 *from = sq + row_in_block * LD;
    const int n = rows - row_in_block < 16 * MT ? rows - row_in_block : 16 * MT;
    if (LEAN || p.wide) {
        for (int i = lane; i < 16 * MT * (DP / 8); i += 32) {
            int r = i / (DP / 8), c = i % (DP / 8) * 8;
            if (r < n && c < p.D)
                *(uint4 *)(out + r * p.width + c) = *(const uint4 *)(from + r * LD + c);
        }
    } else {
        for (int i = lane; i < 16 * MT * DP; i += 32)
            if (i / DP < n && i % DP < p.D)
                out[i / DP * p.width + i % DP] = from[i / DP * LD + i % DP];
    }
}

template <int DP, int MT>
constexpr size_t shared_bytes()
{
    return (size_t)(64 * MT + 4 * BN) * (DP + 8) * sizeof(bf16);
}

template <int DP, int MT>
int launch(backend *be, const mma_params &p, int n_heads, int64_t tiles, err *e)
{
    CUDA_TRY(cudaFuncSetAttribute(attend<DP, MT>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes<DP, MT>()), "attention");
    attend<DP, MT><<<dim3(blocks_for(tiles, 1), (unsigned)n_heads), THREADS, shared_bytes<DP, MT>(), impl(be)->stream>>>(p);
    return cuda_launched(be, "attention", e);
}

template <int DP>
int run(backend *be, const attn_args *a, mma_params &p, err *e)
{
    int64_t tiles;
    int rc = cuda_plan(be, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), 128, &p.plan, &tiles, e);
    if (rc || !tiles)
        return rc;
    /* small problems spread over more blocks; smaller chips may lack the shared memory */
    if (p.wide && !p.bias && tiles * a->n_heads >= 2 * impl(be)->sm_count && shared_bytes<DP, 2>() <= impl(be)->shared_limit)
        return launch<DP, 2>(be, p, a->n_heads, tiles, e);
    rc = cuda_plan(be, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), 64, &p.plan, &tiles, e);
    return rc ? rc : launch<DP, 1>(be, p, a->n_heads, tiles, e);
}

}

extern "C" int cuda_attention_mma(backend *be, const attn_args *a, err *e)
{
    const tensor *all[] = { a->out, a->q, a->k, a->v };
    mma_params p = {};
    p.out = (bf16 *)a->out->data;
    p.q = (const bf16 *)a->q->data;
    p.k = (const bf16 *)a->k->data;
    p.v = (const bf16 *)a->v->data;
    p.width = tensor_cols(a->q);
    p.D = (int)(p.width / a->n_heads);
    p.scale = a->scale;
    p.lse = a->lse ? (float *)a->lse->data : NULL;
    p.bias = a->rel_bias ? (const float *)a->rel_bias->data : NULL;
    p.span = a->rel_bias ? a->rel_bias->shape[1] / 2 + 1 : 0;
    p.wide = p.D % 8 == 0;
    for (int i = 0; i < 4; i++)
        p.wide &= (uintptr_t)all[i]->data % 16 == 0;
    if (a->n_heads > 65535)
        return ERR(e, ERR_DEVICE, "%d attention heads: the CUDA backend handles up to 65535", a->n_heads);
    if (p.D <= 16)
        return run<16>(be, a, p, e);
    if (p.D <= 32)
        return run<32>(be, a, p, e);
    if (p.D <= 48)
        return run<48>(be, a, p, e);
    if (p.D <= 64)
        return run<64>(be, a, p, e);
    if (p.D <= 80)
        return run<80>(be, a, p, e);
    if (p.D <= 96)
        return run<96>(be, a, p, e);
    if (p.D <= 112)
        return run<112>(be, a, p, e);
    if (p.D <= 128)
        return run<128>(be, a, p, e);
    return ERR(e, ERR_DEVICE, "bf16 attention heads of %d: this path handles up to 128", p.D);
}
