/* Softmax attention in 8 bits on Hopper's tensor cores: heads of 128, every query against all keys.
 *
 * Built like the bf16 kernel (attention_hopper.cu): a TMA producer, two consumers of 64 queries that take turns, scores of a block issued together
 * with the products of the block before, pieces from a work list, clusters of two that share keys. What differs:
 *
 *  - S = Q K^T of int8 (core/attention8.h), exact in s32. The accumulators start at the bits of 1.5 * 2^23, so that they are the floats
 *    12582912 + S without a conversion.
 *  - A probability is made as the bits of its e4m3 value. Eight times the logarithm to base 2, rounded, is that value's code, with straight
 *    lines between powers of two in place of the curve. One multiply-add makes the code times 2^-24, its saturation clears what is below 0, and
 *    the conversion to f16, whose smallest numbers are multiples of 2^-24, rounds it and leaves it as an integer. So no exponential is
 *    computed. The line is up to 6 % above the curve, the same for all keys whose scores have the same fraction; rounding itself is +-4.4 %.
 *    126 is 448, the largest e4m3 value; what is 15.75 powers of two below counts as 0.
 *  - m, the maximum of a row (one a row, in base 2), is raised when a score exceeds it by more than one; then sums and outputs are scaled down.
 *  - The sum of a row comes out of the products: V has eight more channels that are 1.
 *  - The tensor cores keep about 14 bits of a sum of e4m3 products. CHAIN blocks are summed there, and added to O in f32.
 *
 * out = O / l * the factor of the channel. No log-sum-exp: what needs one takes the bf16 kernel. */
#include <math.h>
#include <string.h>

#include "core/cuda/attention8.cuh"
#include "core/cuda/attention8_codes.cuh"
#include "core/cuda/attention_pipe.cuh"

enum { BN = ATTN8_BLOCK, KVS = 5, QS = 2, CHAIN = 4 };

/* Shared memory: Q (QS tiles), KVS blocks of K, KVS of V with its channels of ones, barriers; what the producer tells the consumers:
 * the last two pieces, a word and four factors for every block of keys. */
struct layout8 {
    static constexpr int q_bytes = BM * HEAD, k_bytes = BN * HEAD, v_loaded = HEAD * BN, v_bytes = (HEAD + 8) * BN;
    static constexpr int k_at = QS * q_bytes, v_at = k_at + KVS * k_bytes, factor_at = v_at + KVS * v_bytes, bar_at = factor_at + KVS * 16;
    static constexpr int n_bars = 2 * QS + 4 * KVS, item_at = (bar_at + n_bars * 8 + 15) / 16 * 16, word_at = item_at + QS * 16,
                         bytes = word_at + KVS * 4;
};

struct attn8_maps {
    CUtensorMap q, k, v;
};

struct attn8_params {
    const attn_item *items;
    const attn_key_range *ranges;
    attn_out o;
    const float *q_scale, *k_scale, *v_scale;      /* as in attn8 */
    int64_t n_q;
    int blocks;                                     /* of keys */
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ static __forceinline__ void scores(int (&s)[64], uint32_t q_low, uint32_t k_low)
{
#pragma unroll
    for (int k = 0; k < HEAD / 32; k++)
        wgmma_s8_128(s, desc_at(q_low, k * 32), desc_at(k_low, k * 32));
}

__device__ static __forceinline__ void products(float (&f)[68], const uint32_t (&p)[16], uint32_t v_low, int keep)
{
#pragma unroll
    for (int k = 0; k < BN / 32; k++)
        wgmma_e4m3_136(f, p + 4 * k, desc_at(v_low, k * 32), k > 0 || keep);
}

#endif

template <int CL>
__global__ static void __launch_bounds__(ATTN_THREADS, 1) attend8(const __grid_constant__ attn8_maps maps, const attn8_params p)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef layout8 L;
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t base = smem_u32(shared);
    const attn_bars<QS, KVS> bars(base + L::bar_at);
    const uint32_t q_full = bars.q_full, q_empty = bars.q_empty, k_full = bars.k_full, k_empty = bars.k_empty, v_full = bars.v_full, v_empty = bars.v_empty;
    const int rank = CL > 1 ? (int)cluster_rank() : 0, worker = blockIdx.x / CL, workers = gridDim.x / CL;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        if (base & 1023)
            asm volatile("trap;");
        bars.init(CONSUMERS * 4, CONSUMERS * 4 * CL);
    }
    for (int i = threadIdx.x; i < KVS * 64; i += ATTN_THREADS)      /* the channels of ones */
        store_shared(base + L::v_at + i / 64 * L::v_bytes + L::v_loaded + i % 64 * 16, make_int4(0x38383838, 0x38383838, 0x38383838, 0x38383838));
    fence_async_shared();
    __syncthreads();
    if (CL > 1)
        cluster_sync();
    if (group == 0) {
        registers_give<40>();
        if (threadIdx.x == 0) {
            ring<QS> qr = { 0, 1 };
            ring<KVS> kr = { 0, 1 }, vr = { 0, 1 };
            int v_from = 0, v_head = -1;      /* values follow their keys by one block, also from one item to the next */
            auto load = [&](const CUtensorMap *map, uint32_t dst, uint32_t bar, int c0, int c1, int head) {      /* c1: of the whole tile's first row */
                if (CL > 1)
                    tma_multicast_3d(dst + rank * (64 * 128), map, bar, (1 << CL) - 1, c0, c1 + rank * 64, head, L2_EVICT_LAST);
                else
                    tma_load_3d(dst, map, bar, c0, c1, head, L2_EVICT_LAST);
            };
            auto load_v = [&]() {
                mbar_wait(v_empty + 8 * vr.slot, vr.parity);
                mbar_expect(v_full + 8 * vr.slot, L::v_loaded);
                load(&maps.v, base + L::v_at + vr.slot * L::v_bytes, v_full + 8 * vr.slot, v_from, 0, v_head);
                vr.step();
            };
            auto load_q = [&](int turn) {
                const int4 item = item_queries(p.items, turn * workers + worker);
                uint32_t dst = base + qr.slot * L::q_bytes, bar = q_full + 8 * qr.slot;
                mbar_wait(q_empty + 8 * qr.slot, qr.parity);
                store_shared(base + L::item_at + qr.slot * 16, item);
                mbar_expect(bar, L::q_bytes);
                for (int w = 0; w < CONSUMERS; w++)
                    tma_load_3d(dst + w * (ROWS * HEAD), &maps.q, bar, 0, item.x + rank * BM + w * ROWS, item.z, L2_EVICT_FIRST);
                qr.step();
            };
            if (item_keys(p.items, worker).z)
                load_q(0);
            for (int turn = 0;; turn++) {
                const int4 item = item_keys(p.items, turn * workers + worker);
                const int n_blocks = item.z;
                if (!n_blocks)
                    break;
                const int end = __ldg(&p.ranges[item.x].end), head = item_queries(p.items, turn * workers + worker).z;
                for (int j = 0, from = item.y; j < n_blocks; j++, from += BN) {
                    const uint32_t bar = k_full + 8 * kr.slot;
                    mbar_wait(k_empty + 8 * kr.slot, kr.parity);
                    store_shared(base + L::word_at + 4 * kr.slot, (end - from < BN ? end - from : BN) | (j + 1 == n_blocks ? WORD_LAST : 0));
                    mbar_expect(bar, L::k_bytes + 16);
                    bulk_load(base + L::factor_at + kr.slot * 16, p.k_scale + ((int64_t)head * p.blocks + from / BN) * 4, 16, bar);
                    load(&maps.k, base + L::k_at + kr.slot * L::k_bytes, bar, 0, from, head);
                    kr.step();
                    if (v_head >= 0)
                        load_v();
                    v_from = from;
                    v_head = head;
                    if ((j == 3 || (j < 3 && j + 1 == n_blocks)) && item_keys(p.items, (turn + 1) * workers + worker).z)
                        load_q(turn + 1);      /* not before the keys that free the slot are on their way */
                }
            }
            mbar_wait(k_empty + 8 * kr.slot, kr.parity);
            store_shared(base + L::word_at + 4 * kr.slot, WORD_END);
            mbar_arrive(k_full + 8 * kr.slot);
            if (v_head >= 0)
                load_v();
        }
        __syncwarp();
    } else {
        registers_take<232>();
        const int w = group - 1, lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, g = lane / 4, q = lane % 4;
        const uint32_t low = __shfl_sync(0xffffffffu, desc_low(base, 16), 0);
        const uint32_t q_low = low + w * (ROWS * HEAD >> 4), k_low = low + (L::k_at >> 4), v_low = low + (L::v_at >> 4);
        ring<QS> qr = { 0, 0 };
        ring<KVS> kr = { 0, 0 }, vr = { 0, 0 };
        int s[64];
        float f[68], o[64], l0 = 0, l1 = 0;
        uint32_t pr[16];
        row_state r;
        auto release = [&](uint32_t bar) {
            if (CL > 1) {
                if (lane < CL)
                    mbar_arrive_cluster(bar, lane);
            } else if (lane == 0) {
                mbar_arrive(bar);
            }
        };
        auto start_scores = [&]() {
#pragma unroll
            for (int i = 0; i < 64; i++)
                s[i] = MAGIC;
        };
        auto add_chain = [&]() {      /* what the tensor cores summed joins O */
#pragma unroll
            for (int i = 0; i < 64; i++)
                o[i] += f[i];
            l0 += f[64];
            l1 += f[66];
        };
        auto clear = [&]() {
#pragma unroll
            for (int i = 0; i < 64; i++)
                o[i] = 0;
            l0 = l1 = 0;
        };
        auto finish = [&](int slot, float m0, float m1) {      /* slot: of the piece's queries */
            const int4 told = load_shared4(base + L::item_at + 16 * slot);
            const struct { int q_begin, q_end, head, piece; } item = { told.x, told.y, told.z, told.w };
            const int mine = item.q_begin + rank * BM + w * ROWS + warp * 16 + g;      /* and mine + 8 */
            const float2 *factor = (const float2 *)(p.v_scale + item.head * HEAD + 2 * q);
            if (item.piece >= 0) {
                int64_t at = ((int64_t)item.piece * CL + rank) * BM + w * ROWS + warp * 16 + g;
                float *part = p.o.part + at * HEAD + 2 * q;
#pragma unroll
                for (int i = 0; i < HEAD / 8; i++) {
                    const float2 v = __ldg(factor + 4 * i);
                    *(float2 *)(part + 8 * i) = make_float2(o[4 * i] * v.x, o[4 * i + 1] * v.y);
                    *(float2 *)(part + 8 * HEAD + 8 * i) = make_float2(o[4 * i + 2] * v.x, o[4 * i + 3] * v.y);
                }
                if (q == 0) {
                    *(float2 *)(p.o.part_ml + 2 * at) = make_float2(m0, l0);
                    *(float2 *)(p.o.part_ml + 2 * (at + 8)) = make_float2(m1, l1);
                }
            } else {
                const float i0 = 1.0f / l0, i1 = 1.0f / l1;
                __nv_bfloat16 *to = p.o.out + mine * p.o.width + item.head * HEAD + 2 * q;
#pragma unroll
                for (int i = 0; i < HEAD / 8; i++) {
                    const float2 v = __ldg(factor + 4 * i);
                    if (mine < item.q_end)
                        *(uint32_t *)(to + 8 * i) = pack_bf16(o[4 * i] * i0 * v.x, o[4 * i + 1] * i0 * v.y);
                    if (mine + 8 < item.q_end)
                        *(uint32_t *)(to + 8 * p.o.width + 8 * i) = pack_bf16(o[4 * i + 2] * i1 * v.x, o[4 * i + 3] * i1 * v.y);
                }
            }
            __syncwarp();
            if (lane == 0)
                mbar_arrive(q_empty + 8 * slot);
        };
        int word;
        float k_factor;
        auto see_block = [&]() {      /* waits for the next keys and reads what is told of them */
            mbar_wait(k_full + 8 * kr.slot, kr.parity);
            word = load_shared(base + L::word_at + 4 * kr.slot);
            k_factor = __int_as_float(load_shared(base + L::factor_at + 16 * kr.slot + 4 * q));
        };
        auto first_block = [&]() {
            const int4 item = load_shared4(base + L::item_at + 16 * qr.slot);
            const int64_t mine = item.x + rank * BM + w * ROWS + warp * 16 + g, last = p.n_q - 1;
            const float *factor = p.q_scale + item.z * p.n_q;
            r.fq0 = __ldg(factor + (mine < last ? mine : last));
            r.fq1 = __ldg(factor + (mine + 8 < last ? mine + 8 : last));
            mask(s, word & 0xffff, q);
            const float2 t = quad_max(lane_max(s, r.fq0 * k_factor, r.fq1 * k_factor));
            r.m0 = t.x;
            r.m1 = t.y;
        };
        if (w == 1)
            named_arrive(1, 256);
        see_block();
        if (!(word & WORD_END)) {
            int chain = 0;      /* blocks in f */
            mbar_wait(q_full, 0);
            start_scores();
            wgmma_fence();
            scores(s, q_low, k_low);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_pin(s);
            release(k_empty);
            kr.step();
            first_block();
            uint32_t pairs[32];
            codes(pairs, s, r, k_factor);
            pack(pr, pairs);
            clear();
            for (;;) {      /* P of one block and the keys of the next */
                const bool ends = word & WORD_LAST;
                see_block();
                if (word & WORD_END)
                    break;
                if (ends) {
                    qr.step();
                    mbar_wait(q_full + 8 * qr.slot, qr.parity);
                }
                start_scores();
                named_sync(1 + w, 256);
                wgmma_fence();
                scores(s, q_low + qr.slot * (L::q_bytes >> 4), k_low + kr.slot * (L::k_bytes >> 4));
                wgmma_commit();
                mbar_wait(v_full + 8 * vr.slot, vr.parity);
                wgmma_fence();
                products(f, pr, v_low + vr.slot * (L::v_bytes >> 4), chain);
                wgmma_commit();
                named_arrive(2 - w, 256);
                wgmma_wait<1>();
                wgmma_pin(s);
                release(k_empty + 8 * kr.slot);
                kr.step();
                const float m0 = r.m0, m1 = r.m1;
                bool grows = false;
                if (ends) {
                    first_block();
                } else {
                    mask(s, word & 0xffff, q);
                    float2 t = lane_max(s, r.fq0 * k_factor, r.fq1 * k_factor);
                    grows = __any_sync(0xffffffffu, t.x > r.m0 + HEADROOM || t.y > r.m1 + HEADROOM);
                    if (grows) {
                        t = quad_max(t);
                        r.m0 = fmaxf(t.x, r.m0);
                        r.m1 = fmaxf(t.y, r.m1);
                        r.a0 = exp2_fast(m0 - r.m0);
                        r.a1 = exp2_fast(m1 - r.m1);
                    }
                }
                codes(pairs, s, r, k_factor);
                wgmma_wait<0>();
                wgmma_pin(f);
                release(v_empty + 8 * vr.slot);
                vr.step();
                pack(pr, pairs);
                if (++chain == CHAIN || ends) {
                    add_chain();
                    chain = 0;
                    if (ends) {
                        finish(qr.slot ^ 1, m0, m1);
                        clear();
                    }
                }
                if (grows) {
                    if (chain) {
                        add_chain();
#pragma unroll
                        for (int i = 0; i < 68; i++)
                            f[i] = 0;
                    }
                    l0 *= r.a0;
                    l1 *= r.a1;
#pragma unroll
                    for (int i = 0; i < 16; i++) {
                        o[4 * i] *= r.a0;
                        o[4 * i + 1] *= r.a0;
                        o[4 * i + 2] *= r.a1;
                        o[4 * i + 3] *= r.a1;
                    }
                }
            }
            mbar_wait(v_full + 8 * vr.slot, vr.parity);
            wgmma_fence();
            products(f, pr, v_low + vr.slot * (L::v_bytes >> 4), chain);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_pin(f);
            release(v_empty + 8 * vr.slot);
            add_chain();
            finish(qr.slot, r.m0, r.m1);
        }
    }
    if (CL > 1) {
        __syncwarp();
        cluster_sync();      /* nobody leaves while the other may still signal its barriers */
    }
#else
    (void)maps;
    (void)p;
#endif
}

/* ---- host ---- */

/* [rows][heads][128 bytes], or with `turned` [heads][128 channels][rows], as boxes of 128 bytes and box_rows of the second kind */
static int map_of(backend *be, CUtensorMap *map, const void *data, int heads, int64_t rows, bool turned, int box_rows, const char *what, err *e)
{
    uint64_t width = (uint64_t)heads * HEAD, dim[3] = { HEAD, (uint64_t)rows, (uint64_t)heads }, stride[2] = { width, HEAD };
    uint32_t box[3] = { 128, (uint32_t)box_rows, 1 };
    if (turned) {
        dim[0] = (uint64_t)rows;
        dim[1] = HEAD;
        stride[0] = (uint64_t)rows;
        stride[1] = (uint64_t)rows * HEAD;
    }
    return tma_map(be, map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, data, dim, stride, box, CU_TENSOR_MAP_SWIZZLE_128B, what, e);
}

template <int CL> static int launch(backend *be, const attn_args *a, const attn8 *t, err *e)
{
    attn_variant v = { BN, KVS, QS, CL };
    attn_work_cache *c;
    attn8_maps maps;
    attn8_params p;
    memset(&p, 0, sizeof p);
    int rc = attn_work_of(be, &c, a, v, 6, e);
    if (rc || (rc = attn_out_of(be, &p.o, a, c, CL, e)))
        return rc;
    if ((rc = map_of(be, &maps.q, t->q, t->heads, t->n_q, false, ROWS, "8-bit attention queries", e)) ||
        (rc = map_of(be, &maps.k, t->k, t->heads, t->n_k, false, BN / CL, "8-bit attention keys", e)) ||
        (rc = map_of(be, &maps.v, t->v, t->heads, t->padded, true, HEAD / CL, "8-bit attention values", e)))
        return rc;
    p.items = (const attn_item *)c->device;
    p.ranges = (const attn_key_range *)(c->device + c->ranges_at);
    p.q_scale = t->q_scale;
    p.k_scale = t->k_scale;
    p.v_scale = t->v_scale;
    p.n_q = t->n_q;
    p.blocks = (int)t->blocks;
    CUDA_TRY(cudaFuncSetAttribute(attend8<CL>, cudaFuncAttributeMaxDynamicSharedMemorySize, layout8::bytes), "attention in 8 bits");
    attn_launch l;
    attn_launch_of(&l, be, c, CL, layout8::bytes);
    CUDA_TRY(cudaLaunchKernelEx(&l.config, attend8<CL>, maps, p), "attention in 8 bits");
    attn_combine(be, &p.o, c, CL);
    return cuda_launched(be, "attention in 8 bits", e);
}

extern "C" bool cuda_attention8_takes(const backend *be, const attn_args *a)
{
    const cuda_impl *c = (const cuda_impl *)be->impl;
    int64_t n_q = tensor_nrows(a->q), n_k = tensor_nrows(a->k);
    bool whole = a->plan.n_segments == 0;
    if (a->plan.n_segments == 1) {
        const attn_segment *s = a->plan.segments;
        whole = s->q_begin == 0 && s->q_end == n_q && s->n_ranges == 1 && s->ranges[0].begin == 0 && s->ranges[0].end == n_k;
    }
    return c->hopper && a->room8 && whole && n_q && n_k && a->q->dtype == DT_BF16 && a->k->dtype == DT_BF16 && a->v->dtype == DT_BF16 && a->out->dtype == DT_BF16 &&
           !a->rel_bias && !a->lse && a->scale > 0 && a->n_heads < 4096 && tensor_cols(a->q) == (int64_t)a->n_heads * HEAD &&
           !(((uintptr_t)a->q->data | (uintptr_t)a->k->data | (uintptr_t)a->v->data | (uintptr_t)a->out->data) & 15) &&
           tensor_bytes(a->room8) >= (size_t)attn8_bytes(n_q, n_k, a->n_heads, HEAD) && attn_work_fits(&a->plan, n_q, n_k);
}

/* Pairs of blocks that share keys where there are many tiles, as in the bf16 kernel. */
extern "C" int cuda_attention8(backend *be, const attn_args *a, err *e)
{
    attn8 t;
    attn8_place(&t, a->room8->data, tensor_nrows(a->q), tensor_nrows(a->k), a->n_heads);
    int rc = attn8_quantise(be, &t, a, e);
    if (rc)
        return rc;
    return (t.n_q + BM - 1) / BM * t.heads < 12 * (int64_t)impl(be)->sm_count ? launch<1>(be, a, &t, e) : launch<2>(be, a, &t, e);
}
