/* hopper: the instructions of sm_90a that CUDA C++ has no names for: tensor copies (TMA), their barriers, warpgroup matrix
 * products (wgmma), register shares and clusters. Internal to core/cuda.
 *
 * Kernel bodies that use it are guarded by __CUDA_ARCH_FEAT_SM90_ALL, so that one file also compiles for sm_80 and sm_89.
 * Shared memory is addressed by 32-bit shared-window addresses (smem_u32). Tiles for 128-byte swizzle start on 1,024 bytes.
 *
 * Built with -DHOPPER_WAIT_LIMIT=67108864 a wait traps after so many polls instead of hanging. For debugging: a trap inside a pipeline makes
 * ptxas serialize the products around it (C7512), so the kernel is slower and its timing another one. */
#ifndef WANSCOPE_CUDA_HOPPER_CUH
#define WANSCOPE_CUDA_HOPPER_CUH

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "core/cuda/cuda.cuh"

/* ---- host: tensor maps ---- */

/* Describes `rank` (1..5) dimensions, fastest first, for TMA. `stride` has rank-1 entries: bytes between neighbours in dimensions
 * 1.., multiples of 16; `base` is 16-byte aligned; box[0] elements fill at most the swizzle's width. Elements outside the dims
 * read as zero and are not written. `what` names the tensor in errors. The driver is asked through the runtime: no libcuda at link. */
int tma_map(backend *be, CUtensorMap *out, CUtensorMapDataType type, int rank, const void *base, const uint64_t *dim, const uint64_t *stride,
            const uint32_t *box, CUtensorMapSwizzle swizzle, const char *what, err *e);

/* ---- addresses and shared-memory barriers ---- */

__device__ static __forceinline__ uint32_t smem_u32(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

__device__ static __forceinline__ void mbar_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

/* after mbar_init, before the barrier that lets the others go */
__device__ static __forceinline__ void mbar_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ static __forceinline__ void mbar_expect(uint32_t bar, uint32_t bytes)      /* arrives, and waits for so many bytes too */
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

__device__ static __forceinline__ void mbar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Arrives at the same barrier of block `rank` of the cluster. Orders no ordinary stores for the other block (release at cluster scope would
 * cost a fence to the whole GPU): meant for "my wgmma reads are done". */
__device__ static __forceinline__ void mbar_arrive_cluster(uint32_t bar, uint32_t rank)
{
    asm volatile("{\n.reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(bar), "r"(rank) : "memory");
}

__device__ static __forceinline__ bool mbar_try(uint32_t bar, uint32_t parity)
{
    uint32_t done;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}" : "=r"(done) : "r"(bar), "r"(parity) : "memory");
    return done != 0;
}

/* Waits until the phase of that parity is over. On a fresh barrier parity 1 passes at once: producers start with 1, consumers with 0. */
__device__ static __forceinline__ void mbar_wait(uint32_t bar, uint32_t parity)
{
#ifdef HOPPER_WAIT_LIMIT
    for (uint32_t polls = 0; !mbar_try(bar, parity);)
        if (++polls > HOPPER_WAIT_LIMIT)
            asm volatile("trap;");
#else
    while (!mbar_try(bar, parity))
        ;
#endif
}

/* named barriers 1..15 among `threads` threads (a multiple of 32): sync waits, arrive does not */
__device__ static __forceinline__ void named_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ static __forceinline__ void named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Shared memory written by ordinary stores and read next by wgmma or TMA: every writer, then a barrier, then the reader. */
__device__ static __forceinline__ void fence_async_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- cluster ---- */

__device__ static __forceinline__ uint32_t cluster_rank()
{
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ static __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* ---- registers and election ---- */

template <int N> __device__ static __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> __device__ static __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* ---- tensor copies ---- */

enum : uint64_t {      /* L2 eviction policies, encoded as createpolicy would */
    L2_NORMAL = 0x1000000000000000ull,
    L2_EVICT_FIRST = 0x12f0000000000000ull,
    L2_EVICT_LAST = 0x14f0000000000000ull
};

__device__ static __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* n contiguous bytes, a multiple of 16, global -> shared, both aligned to 16, signalling `bar` with n; one thread */
__device__ static __forceinline__ void bulk_load(uint32_t dst, const void *src, uint32_t n, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(dst), "l"(src), "r"(n), "r"(bar) : "memory");
}

/* global -> shared, signalling `bar` with the box's bytes; coordinates fastest first; one thread */
__device__ static __forceinline__ void tma_load_2d(uint32_t dst, const CUtensorMap *map, uint32_t bar, int c0, int c1, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "l"(policy) : "memory");
}

__device__ static __forceinline__ void tma_load_3d(uint32_t dst, const CUtensorMap *map, uint32_t bar, int c0, int c1, int c2, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(
                     dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "l"(policy) : "memory");
}

__device__ static __forceinline__ void tma_load_4d(uint32_t dst, const CUtensorMap *map, uint32_t bar, int c0, int c1, int c2, int c3, uint64_t policy)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(dst),
        "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(policy) : "memory");
}

__device__ static __forceinline__ void tma_load_5d(uint32_t dst, const CUtensorMap *map, uint32_t bar, int c0, int c1, int c2, int c3, int c4, uint64_t policy)
{
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(
            dst),
        "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(policy) : "memory");
}

/* the same box to the same place of every block in `mask`, signalling each one's barrier */
__device__ static __forceinline__ void tma_multicast_2d(uint32_t dst, const CUtensorMap *map, uint32_t bar, uint16_t mask, int c0, int c1, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5}], "
                 "[%2], %3, %6;" ::"r"(dst), "l"(map), "r"(bar), "h"(mask), "r"(c0), "r"(c1), "l"(policy) : "memory");
}

__device__ static __forceinline__ void tma_multicast_3d(uint32_t dst, const CUtensorMap *map, uint32_t bar, uint16_t mask, int c0, int c1, int c2,
                                                        uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5, %6}], "
                 "[%2], %3, %7;" ::"r"(dst), "l"(map), "r"(bar), "h"(mask), "r"(c0), "r"(c1), "r"(c2), "l"(policy) : "memory");
}

__device__ static __forceinline__ void tma_multicast_4d(uint32_t dst, const CUtensorMap *map, uint32_t bar, uint16_t mask, int c0, int c1, int c2, int c3,
                                                        uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint [%0], [%1, {%4, %5, %6, "
                 "%7}], [%2], %3, %8;" ::"r"(dst), "l"(map), "r"(bar), "h"(mask), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(policy) : "memory");
}

/* shared -> global; then tma_store_commit() by the same thread */
__device__ static __forceinline__ void tma_store_4d(const CUtensorMap *map, uint32_t src, int c0, int c1, int c2, int c3)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(map), "r"(src), "r"(c0), "r"(c1), "r"(c2),
                 "r"(c3) : "memory");
}

__device__ static __forceinline__ void tma_store_5d(const CUtensorMap *map, uint32_t src, int c0, int c1, int c2, int c3, int c4)
{
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(map), "r"(src), "r"(c0), "r"(c1), "r"(c2),
                 "r"(c3), "r"(c4) : "memory");
}

__device__ static __forceinline__ void tma_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* until all but N of this thread's stores have read their shared memory */
template <int N> __device__ static __forceinline__ void tma_store_wait_read()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}

/* until all but N of this thread's stores are written */
template <int N> __device__ static __forceinline__ void tma_store_wait()
{
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

/* ---- warpgroup matrix products, bf16 x bf16 -> f32 ---- */

/* Descriptor of a swizzled operand in shared memory. lbo, sbo in bytes. 16-bit types, 128-byte swizzle:
 *   K-major (slabs of 64 k, [row][128 B]): lbo ignored (16), sbo 1,024, +32 B a step of 16 k inside a slab;
 *   MN-major (slabs of 64 n, [k][128 B]): lbo = bytes between slabs, sbo 1,024, +2,048 B a step of 16 k.
 * Add (bytes >> 4) to move the start. */
enum : uint64_t { DESC_SWIZZLE_128 = 1ull << 62, DESC_SWIZZLE_64 = 2ull << 62, DESC_SWIZZLE_32 = 3ull << 62 };

__device__ static __forceinline__ uint64_t wgmma_desc(uint32_t address, uint32_t lbo, uint32_t sbo, uint64_t swizzle)
{
    return (uint64_t)((address & 0x3ffff) >> 4) | (uint64_t)((lbo & 0x3ffff) >> 4) << 16 | (uint64_t)((sbo & 0x3ffff) >> 4) << 32 | swizzle;
}

__device__ static __forceinline__ void wgmma_fence()      /* before the first wgmma and after any ordinary write to its registers */
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ static __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> __device__ static __forceinline__ void wgmma_wait()      /* until at most N groups are under way */
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

template <int N> __device__ static __forceinline__ void wgmma_pin(float (&d)[N])      /* the compiler may not move uses of d across this line */
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int N> __device__ static __forceinline__ void wgmma_pin(int (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

#define WG_R0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define WG_R1 WG_R0 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define WG_R2 WG_R1 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define WG_R3 WG_R2 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define WG_R4 WG_R3 ",%32,%33,%34,%35,%36,%37,%38,%39"
#define WG_R5 WG_R4 ",%40,%41,%42,%43,%44,%45,%46,%47"
#define WG_R6 WG_R5 ",%48,%49,%50,%51,%52,%53,%54,%55"
#define WG_R7 WG_R6 ",%56,%57,%58,%59,%60,%61,%62,%63"
#define WG_R8 WG_R7 ",%64,%65,%66,%67,%68,%69,%70,%71"
#define WG_R9 WG_R8 ",%72,%73,%74,%75,%76,%77,%78,%79"
#define WG_R10 WG_R9 ",%80,%81,%82,%83,%84,%85,%86,%87"
#define WG_R11 WG_R10 ",%88,%89,%90,%91,%92,%93,%94,%95"
#define WG_R12 WG_R11 ",%96,%97,%98,%99,%100,%101,%102,%103"
#define WG_R13 WG_R12 ",%104,%105,%106,%107,%108,%109,%110,%111"
#define WG_R14 WG_R13 ",%112,%113,%114,%115,%116,%117,%118,%119"
#define WG_R15 WG_R14 ",%120,%121,%122,%123,%124,%125,%126,%127"
#define WG_D(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define WG_D0 WG_D(0)
#define WG_D1 WG_D0, WG_D(8)
#define WG_D2 WG_D1, WG_D(16)
#define WG_D3 WG_D2, WG_D(24)
#define WG_D4 WG_D3, WG_D(32)
#define WG_D5 WG_D4, WG_D(40)
#define WG_D6 WG_D5, WG_D(48)
#define WG_D7 WG_D6, WG_D(56)
#define WG_D8 WG_D7, WG_D(64)
#define WG_D9 WG_D8, WG_D(72)
#define WG_D10 WG_D9, WG_D(80)
#define WG_D11 WG_D10, WG_D(88)
#define WG_D12 WG_D11, WG_D(96)
#define WG_D13 WG_D12, WG_D(104)
#define WG_D14 WG_D13, WG_D(112)
#define WG_D15 WG_D14, WG_D(120)

/* wgmma_ss<N, TB>(d, a, b, keep): d[64xN] = (keep ? d : 0) + A B with both operands in shared memory; N a multiple of 16 up to 256.
 * wgmma_rs<N, TB>(d, a, b, keep): A (16-wide k) in four registers of bf16 pairs. TB 1: B is MN-major. Fragments: warp w holds rows
 * 16w.., lane (g = lane / 4, q = lane % 4): d[4i], d[4i+1] = row g, columns 8i + 2q, + 1; d[4i+2], d[4i+3] = row g + 8. */
template <int N, int TB> struct wgmma_bf16;

#define WGMMA_DEFINE(N_, R_, I0, I1, I2, I3, I4, I5, I6) \
    template <int TB> struct wgmma_bf16<N_, TB> { \
        __device__ static __forceinline__ void ss(float (&d)[N_ / 2], uint64_t a, uint64_t b, int keep) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I2 ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #N_ "k16.f32.bf16.bf16 {" WG_R##R_ "}, %" #I0 ", %" #I1 ", p, 1, 1, 0, %" #I3 ";\n}" \
                         : WG_D##R_ : "l"(a), "l"(b), "r"(keep), "n"(TB)); \
        } \
        __device__ static __forceinline__ void rs(float (&d)[N_ / 2], const uint32_t *a, uint64_t b, int keep) \
        { \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #I5 ", 0;\n" \
                         "wgmma.mma_async.sync.aligned.m64n" #N_ "k16.f32.bf16.bf16 {" WG_R##R_ "}, {%" #I0 ",%" #I1 ",%" #I2 ",%" #I3 "}, %" #I4 \
                         ", p, 1, 1, %" #I6 ";\n}" \
                         : WG_D##R_ : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(TB)); \
        } \
    };
WGMMA_DEFINE(16, 0, 8, 9, 10, 11, 12, 13, 14)
WGMMA_DEFINE(32, 1, 16, 17, 18, 19, 20, 21, 22)
WGMMA_DEFINE(48, 2, 24, 25, 26, 27, 28, 29, 30)
WGMMA_DEFINE(64, 3, 32, 33, 34, 35, 36, 37, 38)
WGMMA_DEFINE(80, 4, 40, 41, 42, 43, 44, 45, 46)
WGMMA_DEFINE(96, 5, 48, 49, 50, 51, 52, 53, 54)
WGMMA_DEFINE(112, 6, 56, 57, 58, 59, 60, 61, 62)
WGMMA_DEFINE(128, 7, 64, 65, 66, 67, 68, 69, 70)
WGMMA_DEFINE(144, 8, 72, 73, 74, 75, 76, 77, 78)
WGMMA_DEFINE(160, 9, 80, 81, 82, 83, 84, 85, 86)
WGMMA_DEFINE(176, 10, 88, 89, 90, 91, 92, 93, 94)
WGMMA_DEFINE(192, 11, 96, 97, 98, 99, 100, 101, 102)
WGMMA_DEFINE(208, 12, 104, 105, 106, 107, 108, 109, 110)
WGMMA_DEFINE(224, 13, 112, 113, 114, 115, 116, 117, 118)
WGMMA_DEFINE(240, 14, 120, 121, 122, 123, 124, 125, 126)
WGMMA_DEFINE(256, 15, 128, 129, 130, 131, 132, 133, 134)

template <int N, int TB> __device__ static __forceinline__ void wgmma_ss(float (&d)[N / 2], uint64_t a, uint64_t b, int keep)
{
    wgmma_bf16<N, TB>::ss(d, a, b, keep);
}

template <int N, int TB> __device__ static __forceinline__ void wgmma_rs(float (&d)[N / 2], const uint32_t *a, uint64_t b, int keep)
{
    wgmma_bf16<N, TB>::rs(d, a, b, keep);
}

/* ---- warpgroup matrix products in 8 bits: a step takes 32 values of K, and both operands are K-major ---- */

#define WG_I(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]), "+r"(d[i + 6]), "+r"(d[i + 7])

/* d[64x128] += A B of int8, both in shared memory; exact */
__device__ static __forceinline__ void wgmma_s8_128(int (&d)[64], uint64_t a, uint64_t b)
{
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {" WG_R7 "}, %64, %65, p;\n}"
                 : WG_I(0), WG_I(8), WG_I(16), WG_I(24), WG_I(32), WG_I(40), WG_I(48), WG_I(56) : "l"(a), "l"(b));
}

/* d[64x136] = (keep ? d : 0) + A B of e4m3, A (32-wide k) in four registers of four values: row g and k 4q.., row g + 8, then both at k + 16.
 * The tensor cores keep about 14 bits of the sum, so sums over many steps are to be taken apart and added in f32. */
__device__ static __forceinline__ void wgmma_e4m3_136(float (&d)[68], const uint32_t *a, uint64_t b, int keep)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %73, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n136k32.f32.e4m3.e4m3 {" WG_R7 ",%64,%65,%66,%67}, {%68,%69,%70,%71}, %72, p, 1, 1;\n}"
                 : WG_D7, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}

/* ---- small conversions ---- */

__device__ static __forceinline__ uint32_t pack_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ static __forceinline__ float exp2_fast(float x)      /* 2 ulp; -inf gives 0 */
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* four 8x8 tiles of 16-bit pairs, as wgmma leaves them, to rows of 16 bytes (lane l gives the address of row l % 8 of tile l / 8) */
__device__ static __forceinline__ void stmatrix_x4(uint32_t address, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

#endif
