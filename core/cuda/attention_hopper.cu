/* Softmax attention on Hopper's tensor cores: bf16, heads of 128.
 *
 * A block of three warpgroups owns 128 queries of one head. The producer (one thread of the first warpgroup) copies Q and then
 * blocks of BN keys and values by TMA into rings in shared memory; each of two consumers owns 64 queries: S = Q K^T by wgmma from
 * shared memory, the softmax on its registers, O += P V with P from registers. Each consumer issues the scores of block j and the
 * products of block j-1 together, also from one piece of work to the next, and the two take turns (named barriers), so that
 * one's softmax hides behind the other's matrix work. Blocks stay on their SM and take pieces from a list made by attention_work.cu. In a cluster of two
 * neighbouring blocks share their keys: each copies half (64 of 128 channels) to both.
 *
 * Softmax in base 2: p = 2^(s c - m), c = scale log2 e. Any m gives the same softmax as long as nothing leaves the range of f32, so m is
 * the largest score of the piece's first block, common to rows g and g + 8, and stays: every instruction beside the matrix products
 * costs their time, as both read the registers. A row whose sum ends outside 2^-60 .. 2^96 (or is NaN) marks its piece, and a
 * second kernel (EXACT) does the marked pieces again with a running maximum for each row; without marks it ends at once. There m may
 * lag behind by up to 8, so that sums and outputs are rescaled rarely. P is rounded to bf16 for the product, the sum is taken before.
 *
 * Keys outside a range score -inf; values behind its end are read as zeros through a tensor map that ends there, so that
 * whatever lies in unused rows of a cache, NaN included, is never multiplied. */
#include <math.h>
#include <string.h>

#include "core/cuda/attention_pipe.cuh"

#define SUM_MOST 0x1p96f      /* rows with sums outside, and NaN, are done again with a running maximum */
#define SUM_LEAST 0x1p-60f

/* Shared memory: Q (QS tiles; O is staged in the tile it came from), KVS blocks of K, KVS of V, barriers; what the producer tells the
 * consumers: the last two pieces (q_begin, q_end, head, slot) and a word for every block of keys. */
template <int BN, int KVS, int QS> struct attn_layout {
    static constexpr int q_bytes = BM * HEAD * 2, kv_bytes = BN * HEAD * 2;
    static constexpr int k_at = QS * q_bytes, v_at = k_at + KVS * kv_bytes, bar_at = v_at + KVS * kv_bytes;
    static constexpr int n_bars = 2 * QS + 4 * KVS, item_at = (bar_at + n_bars * 8 + 15) / 16 * 16, word_at = item_at + 2 * 16,
                         bytes = word_at + KVS * 4;
};

struct attn_maps {
    CUtensorMap q, k, o, v[ATTN_MAX_MAPS];
};

struct attn_params {
    const attn_item *items;
    const attn_key_range *ranges;
    attn_out o;
    float c;                    /* scale log2 e */
    uint8_t *over;              /* [n_turns + 1][blocks][8 warps]: the piece's sums are to be done again; last: any of the turns */
    int n_turns;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct row_state { float m0, m1, l0, l1, a0, a1; };      /* rows g and g + 8: maximum (base 2), sum over this lane's columns, factor for O */

/* keys beyond `keys` score -inf; most blocks are whole */
template <int N> __device__ static __forceinline__ void mask(float (&s)[N], int keys, int q)
{
    if (keys < 2 * N) {
        int limit = keys - 2 * q;
#pragma unroll
        for (int i = 0; i < N / 4; i++) {
            if (8 * i >= limit) {
                s[4 * i] = -INFINITY;
                s[4 * i + 2] = -INFINITY;
            }
            if (8 * i + 1 >= limit) {
                s[4 * i + 1] = -INFINITY;
                s[4 * i + 3] = -INFINITY;
            }
        }
    }
}

/* the largest of this lane's scores of each row, in base 2 */
template <int N> __device__ static __forceinline__ float2 lane_max(const float (&s)[N], float c)
{
    float t0 = s[0], t1 = s[2], u0 = s[1], u1 = s[3];
#pragma unroll
    for (int i = 1; i < N / 4; i++) {
        t0 = fmaxf(t0, s[4 * i]);
        u0 = fmaxf(u0, s[4 * i + 1]);
        t1 = fmaxf(t1, s[4 * i + 2]);
        u1 = fmaxf(u1, s[4 * i + 3]);
    }
    return make_float2(fmaxf(t0, u0) * c, fmaxf(t1, u1) * c);
}

/* Raises the maxima that the scores exceed by more than 8; returns whether O is to be rescaled by a0, a1. */
template <int N> __device__ static __forceinline__ bool raise(const float (&s)[N], row_state &r, float c)
{
    float2 t = lane_max(s, c);
    bool grows = __any_sync(0xffffffffu, t.x > r.m0 + 8.0f || t.y > r.m1 + 8.0f);
    if (grows) {
        t = quad_max(t);
        t.x = t.x > r.m0 + 8.0f ? t.x : r.m0;
        t.y = t.y > r.m1 + 8.0f ? t.y : r.m1;
        r.a0 = exp2_fast(r.m0 - t.x);
        r.a1 = exp2_fast(r.m1 - t.y);
        r.l0 *= r.a0;
        r.l1 *= r.a1;
        r.m0 = t.x;
        r.m1 = t.y;
    }
    return grows;
}

/* scores to probabilities in place, and their sums */
template <int N> __device__ static __forceinline__ void exponentials(float (&s)[N], row_state &r, float c, float m0, float m1)
{
    float n0 = -m0, n1 = -m1;
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        s[4 * i] = exp2_fast(fmaf(s[4 * i], c, n0));
        s[4 * i + 1] = exp2_fast(fmaf(s[4 * i + 1], c, n0));
        s[4 * i + 2] = exp2_fast(fmaf(s[4 * i + 2], c, n1));
        s[4 * i + 3] = exp2_fast(fmaf(s[4 * i + 3], c, n1));
        r.l0 += s[4 * i];
        r.l0 += s[4 * i + 1];
        r.l1 += s[4 * i + 2];
        r.l1 += s[4 * i + 3];
    }
}

template <int N> __device__ static __forceinline__ void pack(uint32_t (&p)[N / 2], const float (&s)[N])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(p[i]) : "f"(s[2 * i + 1]), "f"(s[2 * i]));
}

template <int BN> __device__ static __forceinline__ void scores(float (&s)[BN / 2], uint32_t q_low, uint32_t k_low)
{
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++)
        wgmma_ss<BN, 0>(s, desc_at(q_low, k / 4 * (ROWS * 128) + k % 4 * 32), desc_at(k_low, k / 4 * (BN * 128) + k % 4 * 32), k > 0);
}

template <int BN> __device__ static __forceinline__ void products(float (&o)[HEAD / 2], const uint32_t (&p)[BN / 4], uint32_t v_low, int keep)
{
#pragma unroll
    for (int k = 0; k < BN / 16; k++)
        wgmma_rs<HEAD, 1>(o, p + 4 * k, desc_at(v_low, k * 2048), k > 0 || keep);
}

/* whether a sum of that turn (n_turns: of any) left the range in one of the cluster's blocks */
template <int CL> __device__ static __forceinline__ bool overflowed(const attn_params &p, int turn, int worker)
{
    const uint64_t *at = (const uint64_t *)p.over + (int64_t)turn * gridDim.x + worker * CL;
    uint64_t any = at[0];
    if (CL > 1)
        any |= at[1];
    return any != 0;
}

#endif

template <int BN, int KVS, int QS, int CL, bool EXACT>
__global__ static void __launch_bounds__(ATTN_THREADS, 1) attend_hopper(const __grid_constant__ attn_maps maps, const attn_params p)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef attn_layout<BN, KVS, QS> L;
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t base = smem_u32(shared);
    const attn_bars<QS, KVS> bars(base + L::bar_at);
    const uint32_t q_full = bars.q_full, q_empty = bars.q_empty, k_full = bars.k_full, k_empty = bars.k_empty, v_full = bars.v_full, v_empty = bars.v_empty;
    const int rank = CL > 1 ? (int)cluster_rank() : 0, worker = blockIdx.x / CL, workers = gridDim.x / CL;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    if (EXACT && !overflowed<CL>(p, p.n_turns, worker))
        return;
    if (threadIdx.x == 0) {
        if (base & 1023)
            asm volatile("trap;");
        bars.init(QS > 1 ? CONSUMERS : CONSUMERS * 4, CONSUMERS * 4 * CL);
    }
    if (CL > 1)
        cluster_sync();
    else
        __syncthreads();
    if (group == 0) {
        registers_give<40>();
        if (threadIdx.x == 0) {
            ring<QS> qr = { 0, 1 };
            ring<KVS> kr = { 0, 1 }, vr = { 0, 1 };
            tma_prefetch_map(&maps.q);
            tma_prefetch_map(&maps.k);
            tma_prefetch_map(&maps.v[0]);
            auto load = [&](const CUtensorMap *map, uint32_t dst, uint32_t bar, int from, int head) {
                mbar_expect(bar, L::kv_bytes);
                if (CL > 1)
                    tma_multicast_4d(dst + rank * (BN * 128), map, bar, (1 << CL) - 1, 0, from, rank, head, L2_EVICT_LAST);
                else
                    tma_load_4d(dst, map, bar, 0, from, 0, head, L2_EVICT_LAST);
            };
            int v_from = 0, v_map = 0, v_head = -1;      /* values follow their keys by one block, also from one item to the next */
            auto load_v = [&]() {
                mbar_wait(v_empty + 8 * vr.slot, vr.parity);
                load(&maps.v[v_map], base + L::v_at + vr.slot * L::kv_bytes, v_full + 8 * vr.slot, v_from, v_head);
                vr.step();
            };
            int posted = 0;
            auto load_q = [&](int turn) {
                const int4 item = item_queries(p.items, turn * workers + worker);
                uint32_t dst = base + qr.slot * L::q_bytes, bar = q_full + 8 * qr.slot;
                mbar_wait(q_empty + 8 * qr.slot, qr.parity);
                store_shared(base + L::item_at + (QS > 1 ? qr.slot : posted++ & 1) * 16,
                             make_int4(item.x, item.y, item.z | turn << 12, item.w));
                mbar_expect(bar, L::q_bytes);
                for (int w = 0; w < CONSUMERS; w++)
                    tma_load_4d(dst + w * (ROWS * HEAD * 2), &maps.q, bar, 0, item.x + rank * BM + w * ROWS, 0, item.z, L2_EVICT_FIRST);
                qr.step();
            };
            constexpr bool AHEAD = QS > 1 && !EXACT;      /* queries are fetched a piece ahead */
            if (AHEAD && item_keys(p.items, worker).z)
                load_q(0);
            for (int turn = 0;; turn++) {
                const int4 item = item_keys(p.items, turn * workers + worker);
                const int n_blocks = item.z;
                if (!n_blocks)
                    break;
                if (EXACT && !overflowed<CL>(p, turn, worker))
                    continue;
                key_walk<BN> walk;
                walk.start(p.ranges + item.x, item.y);
                const int head = item_queries(p.items, turn * workers + worker).z;
                for (int j = 0; j < n_blocks; j++) {
                    mbar_wait(k_empty + 8 * kr.slot, kr.parity);
                    int keys = walk.end - walk.from;
                    store_shared(base + L::word_at + 4 * kr.slot, (keys < BN ? keys : BN) | (j + 1 == n_blocks ? WORD_LAST : 0));
                    load(&maps.k, base + L::k_at + kr.slot * L::kv_bytes, k_full + 8 * kr.slot, walk.from, head);
                    kr.step();
                    if (v_head >= 0)
                        load_v();
                    v_from = walk.from;
                    v_map = walk.map;
                    v_head = head;
                    if (!AHEAD && j == 0)
                        load_q(turn);
                    if (j + 1 < n_blocks)
                        walk.step();
                    if (AHEAD && (j == 3 || (j < 3 && j + 1 == n_blocks)) && item_keys(p.items, (turn + 1) * workers + worker).z)
                        load_q(turn + 1);      /* not earlier: the slot's last output has to be stored */
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
        const int w = group - 1, tid = threadIdx.x % 128, lane = threadIdx.x % 32, warp = tid / 32, g = lane / 4, q = lane % 4;
        const uint32_t low = __shfl_sync(0xffffffffu, desc_low(base, 0), 0);
        const uint32_t q_low = low + w * (ROWS * HEAD * 2 >> 4), k_low = low + (L::k_at >> 4);
        const uint32_t v_low = low + (L::v_at >> 4) + ((uint32_t)(BN * 128 >> 4) << 16);
        ring<QS> qr = { 0, 0 };
        ring<KVS> kr = { 0, 0 }, vr = { 0, 0 };
        float s[BN / 2], o[HEAD / 2];
        uint32_t pr[BN / 4];
        row_state r;
        bool any_over = false;
        int unread = -1;            /* slot of Q whose staged output a store may still be reading (thread 0 of the group) */
        auto release = [&](uint32_t bar) {
            if (CL > 1) {
                if (lane < CL)
                    mbar_arrive_cluster(bar, lane);
            } else if (lane == 0) {
                mbar_arrive(bar);
            }
        };
        auto free_stage = [&]() {
            if (QS > 1 && unread >= 0) {
                tma_store_wait_read<0>();
                mbar_arrive(q_empty + 8 * unread);
                unread = -1;
            }
        };
        /* what O, m and l of a piece become, once complete; q_slot: where its queries are */
        auto finish = [&](int4 told, int q_slot, float m0, float m1, float l0, float l1) {
            const struct { int q_begin, q_end, head, turn, slot; } item = { told.x, told.y, told.z & 0xfff, told.z >> 12, told.w };
            l0 += __shfl_xor_sync(0xffffffffu, l0, 1);
            l1 += __shfl_xor_sync(0xffffffffu, l1, 1);
            l0 += __shfl_xor_sync(0xffffffffu, l0, 2);
            l1 += __shfl_xor_sync(0xffffffffu, l1, 2);
            if (!EXACT) {
                const bool over = __any_sync(0xffffffffu, !(l0 < SUM_MOST && l1 < SUM_MOST && l0 > SUM_LEAST && l1 > SUM_LEAST));
                if (lane == 0)
                    p.over[((int64_t)item.turn * gridDim.x + blockIdx.x) * 8 + w * 4 + warp] = over;
                any_over = any_over || over;
            }
            const int row0 = item.q_begin + rank * BM + w * ROWS, mine = row0 + warp * 16 + g;      /* and mine + 8 */
            bool staged = false;
            if (item.slot >= 0) {
                int64_t at = ((int64_t)item.slot * CL + rank) * BM + w * ROWS + warp * 16 + g;
                float *part = p.o.part + at * HEAD + 2 * q;
#pragma unroll
                for (int i = 0; i < HEAD / 8; i++) {
                    *(float2 *)(part + 8 * i) = make_float2(o[4 * i], o[4 * i + 1]);
                    *(float2 *)(part + 8 * HEAD + 8 * i) = make_float2(o[4 * i + 2], o[4 * i + 3]);
                }
                if (q == 0) {
                    *(float2 *)(p.o.part_ml + 2 * at) = make_float2(m0, l0);
                    *(float2 *)(p.o.part_ml + 2 * (at + 8)) = make_float2(m1, l1);
                }
            } else {
                float i0 = 1.0f / l0, i1 = 1.0f / l1;
#pragma unroll
                for (int i = 0; i < HEAD / 8; i++) {
                    o[4 * i] *= i0;
                    o[4 * i + 1] *= i0;
                    o[4 * i + 2] *= i1;
                    o[4 * i + 3] *= i1;
                }
                if (q == 0 && p.o.lse) {
                    float *lse = p.o.lse + item.head * p.o.n_q;
                    if (mine < item.q_end)
                        lse[mine] = m0 * 0.6931471805599453f + logf(l0);
                    if (mine + 8 < item.q_end)
                        lse[mine + 8] = m1 * 0.6931471805599453f + logf(l1);
                }
                if (QS > 1 && row0 + ROWS <= item.q_end) {
                    const uint32_t stage = base + q_slot * L::q_bytes + w * (ROWS * HEAD * 2);
                    const uint32_t line = stage + (warp * 16 + (lane / 8 & 1) * 8 + lane % 8) * 128;
                    named_sync(3 + w, 128);      /* all four warps have read Q */
#pragma unroll
                    for (int i = 0; i < HEAD / 8; i += 2) {
                        int chunk = i + lane / 16;
                        stmatrix_x4(line + (i / 8) * (ROWS * 128) + (((chunk % 8) ^ (lane % 8)) * 16), pack_bf16(o[4 * i], o[4 * i + 1]),
                                    pack_bf16(o[4 * i + 2], o[4 * i + 3]), pack_bf16(o[4 * i + 4], o[4 * i + 5]), pack_bf16(o[4 * i + 6], o[4 * i + 7]));
                    }
                    fence_async_shared();
                    named_sync(3 + w, 128);
                    staged = true;
                    if (tid == 0) {
                        tma_store_4d(&maps.o, stage, 0, row0, 0, item.head);
                        tma_store_commit();
                        unread = q_slot;
                    }
                } else {
                    __nv_bfloat16 *to = p.o.out + mine * p.o.width + item.head * HEAD + 2 * q;
#pragma unroll
                    for (int i = 0; i < HEAD / 8; i++) {
                        if (mine < item.q_end)
                            *(uint32_t *)(to + 8 * i) = pack_bf16(o[4 * i], o[4 * i + 1]);
                        if (mine + 8 < item.q_end)
                            *(uint32_t *)(to + 8 * p.o.width + 8 * i) = pack_bf16(o[4 * i + 2], o[4 * i + 3]);
                    }
                }
            }
            if (QS > 1 && !staged) {
                named_sync(3 + w, 128);
                if (tid == 0)
                    mbar_arrive(q_empty + 8 * q_slot);
            }
        };
        if (w == 1)
            named_arrive(1, 256);
        mbar_wait(k_full, 0);
        int word = load_shared(base + L::word_at);
        auto first_block = [&]() {
            mask(s, word & 0xffff, q);
            float2 t = quad_max(lane_max(s, p.c));
            r.m0 = EXACT ? t.x : fmaxf(t.x, t.y);
            r.m1 = EXACT ? t.y : r.m0;
            r.l0 = r.l1 = 0;
        };
        if (!(word & WORD_END)) {
            bool keep = false;      /* O holds earlier blocks of the piece that P belongs to */
            int which = 0, q_slot;
            mbar_wait(q_full, 0);
            wgmma_fence();
            scores<BN>(s, q_low, k_low);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_pin(s);
            release(k_empty);
            kr.step();
            first_block();
            exponentials(s, r, p.c, r.m0, EXACT ? r.m1 : r.m0);
            pack(pr, s);
            for (;;) {      /* P of one block and the keys of the next */
                const bool ends = word & WORD_LAST;
                q_slot = qr.slot;
                if (ends)
                    free_stage();      /* the producer may want that slot before it goes on to the next keys */
                mbar_wait(k_full + 8 * kr.slot, kr.parity);
                word = load_shared(base + L::word_at + 4 * kr.slot);
                if (word & WORD_END)
                    break;
                if (ends) {
                    if (QS == 1 && lane == 0)
                        mbar_arrive(q_empty);
                    qr.step();
                    mbar_wait(q_full + 8 * qr.slot, qr.parity);
                }
                named_sync(1 + w, 256);
                wgmma_fence();
                scores<BN>(s, q_low + qr.slot * (L::q_bytes >> 4), k_low + kr.slot * (L::kv_bytes >> 4));
                wgmma_commit();
                mbar_wait(v_full + 8 * vr.slot, vr.parity);
                wgmma_fence();
                products<BN>(o, pr, v_low + vr.slot * (L::kv_bytes >> 4), keep);
                wgmma_commit();
                named_arrive(2 - w, 256);
                wgmma_wait<1>();
                wgmma_pin(s);
                release(k_empty + 8 * kr.slot);
                kr.step();
                const float m0 = r.m0, m1 = r.m1, l0 = r.l0, l1 = r.l1;
                bool grows = false;
                if (ends) {
                    first_block();
                } else {
                    mask(s, word & 0xffff, q);
                    if (EXACT)
                        grows = raise(s, r, p.c);
                }
                exponentials(s, r, p.c, r.m0, EXACT ? r.m1 : r.m0);
                while (r.l0 + r.l1 < 0)      /* never; it depends on every exponential and keeps ptxas from moving them behind the wait */
                    r.l0 = -r.l0;
                free_stage();
                wgmma_wait<0>();
                wgmma_pin(o);
                release(v_empty + 8 * vr.slot);
                vr.step();
                pack(pr, s);
                keep = !ends;
                if (ends) {
                    finish(load_shared4(base + L::item_at + 16 * which), q_slot, m0, EXACT ? m1 : m0, l0, l1);
                    which ^= 1;
                } else if (EXACT && grows) {
#pragma unroll
                    for (int i = 0; i < HEAD / 8; i++) {
                        o[4 * i] *= r.a0;
                        o[4 * i + 1] *= r.a0;
                        o[4 * i + 2] *= r.a1;
                        o[4 * i + 3] *= r.a1;
                    }
                }
            }
            mbar_wait(v_full + 8 * vr.slot, vr.parity);
            wgmma_fence();
            products<BN>(o, pr, v_low + vr.slot * (L::kv_bytes >> 4), keep);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_pin(o);
            release(v_empty + 8 * vr.slot);
            finish(load_shared4(base + L::item_at + 16 * which), q_slot, r.m0, EXACT ? r.m1 : r.m0, r.l0, r.l1);
        }
        if (!EXACT && lane == 0)
            p.over[((int64_t)p.n_turns * gridDim.x + blockIdx.x) * 8 + w * 4 + warp] = any_over;
        if (tid == 0)
            tma_store_wait<0>();
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

/* q, k, v and out as (64 channels, rows, 2 halves of a head, heads) */
static int head_map(backend *be, CUtensorMap *map, const tensor *t, int n_heads, int64_t rows, int box_rows, int box_halves, const char *what, err *e)
{
    uint64_t width = (uint64_t)tensor_cols(t) * 2;
    uint64_t dim[4] = { 64, (uint64_t)rows, 2, (uint64_t)n_heads }, stride[3] = { width, 128, 256 };
    uint32_t box[4] = { 64, (uint32_t)box_rows, (uint32_t)box_halves, 1 };
    return tma_map(be, map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, t->data, dim, stride, box, CU_TENSOR_MAP_SWIZZLE_128B, what, e);
}

template <int BN, int KVS, int QS, int CL> static int launch(backend *be, const attn_args *a, err *e)
{
    typedef attn_layout<BN, KVS, QS> L;
    attn_variant v = { BN, KVS, QS, CL };
    attn_work_cache *c;
    attn_maps maps;
    attn_params p;
    memset(&p, 0, sizeof p);
    int rc = attn_work_of(be, &c, a, v, v.bn >= 160 ? 5 : 6, e);
    if (rc || (rc = attn_out_of(be, &p.o, a, c, CL, e)))
        return rc;
    if ((rc = head_map(be, &maps.q, a->q, a->n_heads, tensor_nrows(a->q), ROWS, 2, "attention queries", e)) ||
        (rc = head_map(be, &maps.k, a->k, a->n_heads, tensor_nrows(a->k), BN, 2 / CL, "attention keys", e)) ||
        (rc = head_map(be, &maps.o, a->out, a->n_heads, tensor_nrows(a->q), ROWS, 2, "attention output", e)))
        return rc;
    for (int i = 0; i < c->work.n_maps; i++)
        if ((rc = head_map(be, &maps.v[i], a->v, a->n_heads, c->work.map_ends[i], BN, 2 / CL, "attention values", e)))
            return rc;
    p.items = (const attn_item *)c->device;
    p.ranges = (const attn_key_range *)(c->device + c->ranges_at);
    p.over = (uint8_t *)c->device + c->over_at;
    p.n_turns = c->work.n_turns;
    p.c = (float)((double)a->scale * 1.4426950408889634);
    static uint64_t ready;      /* devices that know, a bit each */
    uint64_t bit = 1ull << (impl(be)->device & 63);
    if (!(ready & bit)) {
        CUDA_TRY(cudaFuncSetAttribute(attend_hopper<BN, KVS, QS, CL, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::bytes), "attention");
        CUDA_TRY(cudaFuncSetAttribute(attend_hopper<BN, KVS, QS, CL, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, L::bytes), "attention");
        ready |= bit;
    }
    attn_launch l;
    attn_launch_of(&l, be, c, CL, L::bytes);
    CUDA_TRY(cudaLaunchKernelEx(&l.config, attend_hopper<BN, KVS, QS, CL, false>, maps, p), "attention");
    CUDA_TRY(cudaLaunchKernelEx(&l.config, attend_hopper<BN, KVS, QS, CL, true>, maps, p), "attention");
    attn_combine(be, &p.o, c, CL);
    return cuda_launched(be, "attention", e);
}

extern "C" bool cuda_attention_hopper_takes(const backend *be, const attn_args *a)
{
    const cuda_impl *c = (const cuda_impl *)be->impl;
    int64_t width = tensor_cols(a->q);
    return c->hopper && a->q->dtype == DT_BF16 && a->k->dtype == DT_BF16 && a->v->dtype == DT_BF16 && a->out->dtype == DT_BF16 && !a->rel_bias &&
           a->scale > 0 && a->n_heads < 4096 && width == (int64_t)a->n_heads * HEAD &&
           !(((uintptr_t)a->q->data | (uintptr_t)a->k->data | (uintptr_t)a->v->data | (uintptr_t)a->out->data) & 15) &&
           attn_work_fits(&a->plan, tensor_nrows(a->q), tensor_nrows(a->k));
}

/* Short pieces want queries and outputs staged twice, long ones large blocks; pairs of neighbours sharing keys pay when there are many
 * tiles, single blocks divide few of them more evenly. Costs of a key relative to blocks of 176, measured on an H200. */
static int choose(const cuda_impl *c, const attn_args *a)
{
    int64_t n_q = tensor_nrows(a->q), n_k = tensor_nrows(a->k), tiles = (n_q + BM - 1) / BM + a->plan.n_segments;
    int64_t p128 = attn_work_padded(&a->plan, n_q, n_k, BM, 128), p160 = attn_work_padded(&a->plan, n_q, n_k, BM, 160),
            p176 = attn_work_padded(&a->plan, n_q, n_k, BM, 176);
    if (p176 < tiles * 24 * 176)
        return p128 * 103 <= p160 * 100 ? 1 : 2;
    if (tiles * a->n_heads < 12 * (int64_t)c->sm_count)
        return p160 * 102 < p176 * 100 ? 2 : 5;
    return p160 * 102 < p176 * 100 ? 3 : 4;
}

int cuda_attention_hopper_variant(backend *be, const attn_args *a, int variant, err *e)
{
    if (tensor_nrows(a->q) == 0)
        return 0;
    switch (variant ? variant : choose(impl(be), a)) {
    case 1: return launch<128, 2, 2, 1>(be, a, e);
    case 2: return launch<160, 2, 2, 1>(be, a, e);
    case 3: return launch<160, 2, 2, 2>(be, a, e);
    case 4: return launch<176, 2, 1, 2>(be, a, e);
    case 5: return launch<176, 2, 1, 1>(be, a, e);
    default: return ERR(e, ERR_INTERNAL, "attention variant %d", variant);
    }
}

extern "C" int cuda_attention_hopper(backend *be, const attn_args *a, err *e)
{
    return cuda_attention_hopper_variant(be, a, 0, e);
}
