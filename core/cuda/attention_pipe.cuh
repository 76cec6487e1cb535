/* attention_pipe: what the Hopper attention kernels (attention_hopper.cu, attention8_hopper.cu) share: how a block's producer and consumers walk
 * a work list, and the lists and pieces on the host's side. Internal to core/cuda. */
#ifndef WANSCOPE_CUDA_ATTENTION_PIPE_CUH
#define WANSCOPE_CUDA_ATTENTION_PIPE_CUH

#include "core/cuda/attention_work.h"
#include "core/cuda/hopper.cuh"

enum { WORD_LAST = 1 << 16, WORD_END = 1 << 17 };      /* the piece's last block; no more blocks; below: how many keys are in the block */
enum { HEAD = 128, ROWS = 64, CONSUMERS = 2, BM = ROWS * CONSUMERS, ATTN_THREADS = 128 * (CONSUMERS + 1) };

/* ---- host ---- */

/* Work lists stay on the device until the backend closes: a captured graph may hold their addresses. */
typedef struct attn_work_cache {
    struct attn_work_cache *next;
    void *key;
    size_t key_bytes;
    char *device;               /* items, ranges, splits, marks */
    attn_work work;             /* host pointers NULL */
    size_t ranges_at, splits_at, over_at, bytes;
} attn_work_cache;

/* Shape of a kernel: keys a block, slots of keys and values, slots of queries, blocks of a cluster. Kernels differ in at least one of them. */
typedef struct { int bn, kvs, qs, cluster; } attn_variant;

/* The list for these arguments, made and uploaded if it is new. `min_piece` as in attn_work_build(). */
int attn_work_of(backend *be, attn_work_cache **out, const attn_args *a, attn_variant v, int min_piece, err *e);

/* Where results go. */
typedef struct attn_out {
    __nv_bfloat16 *out;
    float *lse;                 /* [heads, n_q] or NULL */
    float *part;                /* [slots][blocks of a cluster][128][128] unfinished sums, then [..][128][2] their m and l */
    float *part_ml;
    int64_t width;              /* elements a row of out */
    int64_t n_q;
} attn_out;

/* Fills *o; reserves scratch for the pieces of tiles that are cut. */
int attn_out_of(backend *be, attn_out *o, const attn_args *a, const attn_work_cache *c, int cluster, err *e);
/* Queues the summing of the pieces, in key order. */
void attn_combine(backend *be, const attn_out *o, const attn_work_cache *c, int cluster);

/* How a kernel over the list is launched: config holds a pointer to the attribute beside it. */
typedef struct attn_launch {
    cudaLaunchConfig_t config;
    cudaLaunchAttribute cluster;
} attn_launch;
void attn_launch_of(attn_launch *l, backend *be, const attn_work_cache *c, int cluster, int shared_bytes);

/* ---- device ---- */

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* Walks the key blocks of an item. */
template <int BN> struct key_walk {
    const attn_key_range *at;
    int from, end, map;
    __device__ __forceinline__ void read()
    {
        int4 r = __ldg((const int4 *)at);
        from = r.x;
        end = r.y;
        map = r.z;
    }
    __device__ __forceinline__ void start(const attn_key_range *range, int first)
    {
        at = range;
        read();
        from = first;
    }
    __device__ __forceinline__ void step()
    {
        from += BN;
        if (from >= end) {
            at++;
            read();
        }
    }
};

/* Halves of an item: whose queries (q_begin, q_end, head, slot), and which keys (range, from, n_blocks). */
__device__ static __forceinline__ int4 item_queries(const attn_item *items, int i)
{
    return __ldg((const int4 *)(items + i));
}

__device__ static __forceinline__ int4 item_keys(const attn_item *items, int i)
{
    return __ldg((const int4 *)(items + i) + 1);
}

__device__ static __forceinline__ void store_shared(uint32_t at, int v)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(v) : "memory");
}

__device__ static __forceinline__ void store_shared(uint32_t at, int4 v)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

__device__ static __forceinline__ int load_shared(uint32_t at)
{
    int v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

__device__ static __forceinline__ int4 load_shared4(uint32_t at)
{
    int4 v;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}

/* The first words of the descriptors: address and leading offset; desc_at() adds stride offset 1,024 and the 128-byte swizzle. */
__device__ static __forceinline__ uint32_t desc_low(uint32_t address, int lbo)
{
    return (address & 0x3ffff) >> 4 | (uint32_t)(lbo >> 4) << 16;
}

__device__ static __forceinline__ uint64_t desc_at(uint32_t low, int bytes)
{
    return (uint64_t)(((1024u >> 4)) | (1u << 30)) << 32 | (low + (uint32_t)(bytes >> 4));
}

/* the largest of the four lanes that share a row, of two rows at once */
__device__ static __forceinline__ float2 quad_max(float2 t)
{
    t.x = fmaxf(t.x, __shfl_xor_sync(0xffffffffu, t.x, 1));
    t.y = fmaxf(t.y, __shfl_xor_sync(0xffffffffu, t.y, 1));
    t.x = fmaxf(t.x, __shfl_xor_sync(0xffffffffu, t.x, 2));
    t.y = fmaxf(t.y, __shfl_xor_sync(0xffffffffu, t.y, 2));
    return t;
}

/* The barriers of a block, one behind the other in shared memory: QS slots of queries, KVS of keys and of values. */
template <int QS, int KVS> struct attn_bars {
    uint32_t q_full, q_empty, k_full, k_empty, v_full, v_empty;
    __device__ __forceinline__ explicit attn_bars(uint32_t at)
    {
        q_full = at;
        q_empty = q_full + 8 * QS;
        k_full = q_empty + 8 * QS;
        k_empty = k_full + 8 * KVS;
        v_full = k_empty + 8 * KVS;
        v_empty = v_full + 8 * KVS;
    }
    /* by one thread; how many arrivals free a slot */
    __device__ __forceinline__ void init(int q_arrivals, int kv_arrivals) const
    {
        for (int i = 0; i < QS; i++) {
            mbar_init(q_full + 8 * i, 1);
            mbar_init(q_empty + 8 * i, q_arrivals);
        }
        for (int i = 0; i < KVS; i++) {
            mbar_init(k_full + 8 * i, 1);
            mbar_init(v_full + 8 * i, 1);
            mbar_init(k_empty + 8 * i, kv_arrivals);
            mbar_init(v_empty + 8 * i, kv_arrivals);
        }
        mbar_init_fence();
    }
};

/* A ring position: slot and parity. */
template <int N> struct ring {
    int slot;
    uint32_t parity;
    __device__ __forceinline__ void step()
    {
        if (++slot == N) {
            slot = 0;
            parity ^= 1;
        }
    }
};

#endif
#endif
