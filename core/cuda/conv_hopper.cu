/* Convolution of bf16 frames on Hopper's tensor cores: an implicit GEMM with M = pixels, N = output channels, K = frames x taps x
 * input channels, f32 sums.
 *
 * A block makes TH x 16 pixels of one frame and BN channels. For each input frame and each block of CB channels one copy brings the
 * region with its border of one pixel (the "slab"; TMA fills zeros outside the frame), and all nine taps are read from it: rows of a
 * slab are pixels, so a tap is only another start address of the wgmma descriptor, and an m64 tile is 8 x 8 pixels: eight neighbours
 * of a row are the eight rows of a core matrix, the distance between two rows of pixels is the descriptor's stride. The swizzle acts
 * on addresses, so any row may be the first. History frames have tensor maps of their own, nothing is joined in memory. A nearest
 * 2x enlargement is never made: each of the four output phases (row and column parity) reads the small frame through a shift table,
 * or, where the caller has summed the taps that fall on one pixel, as a 2 x 2 kernel of its own.
 *
 * One producer warp copies, two consumer warpgroups multiply; blocks are persistent and take tiles in a fixed order. The sum over K
 * of one output has one order for given channel counts (frame, channel block, tap), whatever the tile, so results do not depend on
 * how many frames go together. */
#include <cuda_bf16.h>

#include "core/cuda/conv.cuh"
#include "core/cuda/hopper.cuh"

#pragma nv_diag_suppress 177      /* the helpers of the kernel are not used in code for older chips */

namespace {

typedef __nv_bfloat16 bf16;

struct slab_args {
    CUtensorMap frames[3];          /* x, past, before */
    CUtensorMap weights;
    const float *bias;
    const float *gamma;             /* of the norm that follows, or NULL */
    const bf16 *residual;           /* or NULL */
    void *out;
    int n_frames[3];                /* frames of x, past, before */
    int H, W;                       /* of the input, and so of the tile grid */
    int Cout, n_blocks;             /* output channels, blocks of CB input channels */
    int kt, n_past;
    int phases;                     /* 4 with the 2x enlargement, otherwise 1 */
    int tiles_x, tiles_y, tiles_n;
    int n_tiles;
    int out_f32, silu;
};

template <int CB_, int BN_, int MB_, int TH_, int KS_, int TAPS_, int GROUP_, int WEIGHTS_, int SLABS_, int UNITS_> struct tile {
    static constexpr int CB = CB_;                  /* input channels of a slab: 64 with 128-byte swizzle, 32 with 64-byte */
    static constexpr int BN = BN_;                  /* output channels */
    static constexpr int MB = MB_;                  /* m64 tiles of a consumer */
    static constexpr int TW = 16, TH = TH_;
    static constexpr int KS = KS_;                  /* 3 or 1: rows and columns that the kernel spans */
    static constexpr int TAPS = TAPS_;              /* KS KS, or 4: the sums of the taps that coincide in one phase of an enlargement */
    static constexpr int GROUP = GROUP_;            /* taps of one weight stage */
    static constexpr int WEIGHTS = WEIGHTS_;        /* weight stages */
    static constexpr int SLABS = SLABS_;            /* slab stages */
    static constexpr int UNITS = UNITS_;            /* staging pieces of a warp: 16 pixels x CHUNK channels */
    static constexpr int HALO = KS / 2, PITCH = TW + 2 * HALO, ROWS = TH + 2 * HALO;
    static constexpr int SLAB_BYTES = PITCH * ROWS * CB * 2, SLAB_STEP = (SLAB_BYTES + 1023) / 1024 * 1024;
    static constexpr int TAP_BYTES = BN * CB * 2, WEIGHT_BYTES = GROUP * TAP_BYTES, WEIGHT_STEP = (WEIGHT_BYTES + 1023) / 1024 * 1024;
    static constexpr int CHUNK = BN % 64 == 0 ? 64 : BN % 32 == 0 ? 32 : 0;      /* 0: too narrow to stage */
    static constexpr int CHUNKS = CHUNK ? BN / CHUNK : 1;
    static constexpr int UNIT_BYTES = 16 * CHUNK * 2;
    static constexpr int STAGING = 8 * UNITS * UNIT_BYTES;
    static constexpr int SMEM = SLABS * SLAB_STEP + WEIGHTS * WEIGHT_STEP + STAGING + 8 * 2 * (SLABS + WEIGHTS);
    static_assert(2 * MB * 64 == TW * TH, "the consumers share the tile");
    static_assert(TAPS % GROUP == 0, "whole groups");
    static_assert(SMEM <= 232448, "shared memory of a block");
};

/* where a tile lies */
struct place {
    int n, a, b, x, y, t;      /* first channel, phase, first column and row of the tile grid, output frame */
};

__device__ inline place place_of(const slab_args &p, int i, int bn, int th)
{
    place q;
    q.n = i % p.tiles_n * bn;
    i /= p.tiles_n;
    int phase = i % p.phases;
    i /= p.phases;
    q.a = phase >> 1;
    q.b = phase & 1;
    q.x = i % p.tiles_x * 16;
    i /= p.tiles_x;
    q.y = i % p.tiles_y * th;
    q.t = i / p.tiles_y;
    return q;
}

/* which map and frame of it holds input frame t (counted from the first of x); false: before the clip, zeros */
__device__ inline bool frame_of(const slab_args &p, int t, int *map, int *frame)
{
    for (int m = 0; m < 3; m++) {
        if (t >= 0) {
            *map = m;
            *frame = t;
            return true;
        }
        if (m < 2)
            t += p.n_frames[m + 1];
    }
    return false;
}

/* first tap of kt whose input frame exists for output frame t */
__device__ inline int first_frame_tap(const slab_args &p, int t)
{
    int missing = p.n_past - t - p.n_frames[1] - p.n_frames[2];
    return missing > 0 ? missing : 0;
}

__device__ inline void copy_async_16(uint32_t to, const void *from, bool there)
{
    int n = there ? 16 : 0;      /* fewer source bytes: the rest is filled with zeros */
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n) : "memory");
}

template <class C> __global__ void __launch_bounds__(384, 1) slab_conv(const __grid_constant__ slab_args p)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint8_t smem[];
    const uint32_t base = smem_u32(smem), slabs = base, weights = slabs + C::SLABS * C::SLAB_STEP, staging = weights + C::WEIGHTS * C::WEIGHT_STEP;
    const uint32_t slab_full = staging + C::STAGING, slab_empty = slab_full + 8 * C::SLABS, weight_full = slab_empty + 8 * C::SLABS,
                   weight_empty = weight_full + 8 * C::WEIGHTS;
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        if (base & 1023)
            asm volatile("trap;");
        for (int i = 0; i < C::SLABS; i++) {
            mbar_init(slab_full + 8 * i, 1);
            mbar_init(slab_empty + 8 * i, 8);
        }
        for (int i = 0; i < C::WEIGHTS; i++) {
            mbar_init(weight_full + 8 * i, 1);
            mbar_init(weight_empty + 8 * i, 8);
        }
        mbar_init_fence();
    }
    __syncthreads();

    if (group == 0) {      /* producer */
        registers_give<24>();
        if (threadIdx.x == 0) {
            int slab = 0, slab_phase = 1, stage = 0, stage_phase = 1;
            for (int i = blockIdx.x; i < p.n_tiles; i += gridDim.x) {
                place q = place_of(p, i, C::BN, C::TH);
                for (int dt = first_frame_tap(p, q.t); dt < p.kt; dt++) {
                    int map = 0, frame = 0;
                    frame_of(p, q.t + dt - p.n_past, &map, &frame);
                    for (int cb = 0; cb < p.n_blocks; cb++) {
                        mbar_wait(slab_empty + 8 * slab, slab_phase);
                        mbar_expect(slab_full + 8 * slab, C::SLAB_BYTES);
                        tma_load_4d(slabs + slab * C::SLAB_STEP, &p.frames[map], slab_full + 8 * slab, cb * C::CB, q.x - C::HALO, q.y - C::HALO, frame, L2_NORMAL);
                        if (++slab == C::SLABS) {
                            slab = 0;
                            slab_phase ^= 1;
                        }
                        for (int g = 0; g < C::TAPS; g += C::GROUP) {
                            mbar_wait(weight_empty + 8 * stage, stage_phase);
                            mbar_expect(weight_full + 8 * stage, C::WEIGHT_BYTES);
                            tma_load_3d(weights + stage * C::WEIGHT_STEP, &p.weights, weight_full + 8 * stage, cb * C::CB, q.n, (C::TAPS == 4 ? 2 * q.a + q.b : dt) * C::TAPS + g,
                                        L2_EVICT_LAST);
                            if (++stage == C::WEIGHTS) {
                                stage = 0;
                                stage_phase ^= 1;
                            }
                        }
                    }
                }
            }
        }
    } else {
        registers_take<240>();
        constexpr uint64_t SWIZZLE = C::CB == 64 ? DESC_SWIZZLE_128 : DESC_SWIZZLE_64;
        constexpr int ROW = C::CB * 2;
        const int consumer = group - 1;
        int warp = ((int)threadIdx.x / 32) & 3, lane = (int)threadIdx.x & 31;
        uint32_t my_staging = staging + (uint32_t)(consumer * 4 + warp) * C::UNITS * C::UNIT_BYTES;
        const int Ho = p.phases == 4 ? 2 * p.H : p.H, Wo = p.phases == 4 ? 2 * p.W : p.W;
        const uint64_t a_desc = wgmma_desc(0, 16, C::PITCH * ROW, SWIZZLE), b_desc = wgmma_desc(0, 16, 8 * ROW, SWIZZLE);
        int slab = 0, slab_phase = 0, stage = 0, stage_phase = 0;
        float acc[C::MB][C::BN / 2];

        for (int i = blockIdx.x; i < p.n_tiles; i += gridDim.x) {
            place q = place_of(p, i, C::BN, C::TH);

            /* row r of this warp's share of m64 tile m -> pixel of the output, -1 outside */
            auto pixel = [&](int m, int r) -> int {
                int block = consumer * C::MB + m, y = q.y + block / 2 * 8 + warp * 2 + (r >> 3), x = q.x + block % 2 * 8 + (r & 7);
                if (y >= p.H || x >= p.W)
                    return -1;
                if (p.phases == 4) {
                    y = 2 * y + q.a;
                    x = 2 * x + q.b;
                }
                return (q.t * Ho + y) * Wo + x;
            };
            /* the unit's 16-byte pieces: lane -> row and piece of the row */
            constexpr int PER_ROW = C::CHUNK ? C::CHUNK / 8 : 1, ROWS_A_GO = 32 / PER_ROW;
            auto slot = [&](int unit, int row, int piece) -> uint32_t {
                int turn = C::CHUNK == 64 ? row & 7 : (row >> 1) & 3;
                return my_staging + (uint32_t)(unit % C::UNITS * C::UNIT_BYTES + row * C::CHUNK * 2 + (piece ^ turn) * 16);
            };
            auto fetch_residual = [&](int unit) {      /* always one group of copies, empty ones included, so that waits can count */
                if (unit < C::MB * C::CHUNKS && p.residual) {
                    int m = unit / C::CHUNKS, c = q.n + unit % C::CHUNKS * C::CHUNK + lane % PER_ROW * 8;
#pragma unroll
                    for (int j = 0; j < 16 / ROWS_A_GO; j++) {
                        int row = j * ROWS_A_GO + lane / PER_ROW;
                        int at = pixel(m, row);
                        bool there = at >= 0 && c < p.Cout;
                        copy_async_16(slot(unit, row, lane % PER_ROW), p.residual + (there ? (int64_t)at * p.Cout + c : 0), there);
                    }
                }
                asm volatile("cp.async.commit_group;" ::: "memory");
            };
            if constexpr (C::CHUNK > 0) {
#pragma unroll
                for (int u = 0; u < C::UNITS; u++)
                    fetch_residual(u);
            }

            /* without this the compiler keeps the addresses of the epilogue in registers through the products, and spills */
            auto forget = [&] { asm volatile("" : "+r"(q.n), "+r"(q.x), "+r"(q.y), "+r"(q.t), "+r"(lane), "+r"(warp), "+r"(my_staging)); };
            forget();
            int keep = 0, old_stage = -1, old_slab = -1;
            for (int dt = first_frame_tap(p, q.t); dt < p.kt; dt++)
                for (int cb = 0; cb < p.n_blocks; cb++) {
                    mbar_wait(slab_full + 8 * slab, slab_phase);
                    const uint32_t corner = slabs + slab * C::SLAB_STEP;
#pragma unroll 1
                    for (int first = 0; first < C::TAPS; first += C::GROUP) {
                        mbar_wait(weight_full + 8 * stage, stage_phase);
                        wgmma_fence();
#pragma unroll
                        for (int j = 0; j < C::GROUP; j++) {
                            int tap = first + j, dy = tap / C::KS, dx = tap % C::KS;
                            if constexpr (C::TAPS == 4) {
                                dy = q.a + tap / 2;
                                dx = q.b + tap % 2;
                            } else if (p.phases == 4) {      /* floor((phase + d - 1) / 2), from the border */
                                dy = (q.a + dy + 1) >> 1;
                                dx = (q.b + dx + 1) >> 1;
                            }
                            uint32_t from = corner + (uint32_t)(dy * C::PITCH + dx) * ROW, w = weights + stage * C::WEIGHT_STEP + j * C::TAP_BYTES;
#pragma unroll
                            for (int k = 0; k < C::CB / 16; k++)
#pragma unroll
                                for (int m = 0; m < C::MB; m++) {
                                    int block = consumer * C::MB + m;
                                    uint32_t a = from + (uint32_t)(block / 2 * 8 * C::PITCH + block % 2 * 8) * ROW + k * 32;
                                    wgmma_ss<C::BN, 0>(acc[m], a_desc + (a >> 4), b_desc + ((w + k * 32) >> 4), j || k ? 1 : keep);
                                }
                        }
                        wgmma_commit();
                        keep = 1;
                        wgmma_wait<1>();      /* the group before is done: give back what it read */
                        if (lane == 0) {
                            if (old_stage >= 0)
                                mbar_arrive(weight_empty + 8 * old_stage);
                            if (old_slab >= 0)
                                mbar_arrive(slab_empty + 8 * old_slab);
                        }
                        old_slab = -1;
                        old_stage = stage;
                        if (++stage == C::WEIGHTS) {
                            stage = 0;
                            stage_phase ^= 1;
                        }
                    }
                    old_slab = slab;
                    if (++slab == C::SLABS) {
                        slab = 0;
                        slab_phase ^= 1;
                    }
                }
            wgmma_wait<0>();
#pragma unroll
            for (int m = 0; m < C::MB; m++)
                wgmma_pin(acc[m]);
            if (lane == 0) {
                mbar_arrive(weight_empty + 8 * old_stage);
                mbar_arrive(slab_empty + 8 * old_slab);
            }

            forget();
            if constexpr (C::CHUNK > 0) {
                if (p.gamma) {      /* the block has all channels of its pixels: four lanes share two rows of an m64 tile */
                    const int quad = lane & 3;
#pragma unroll
                    for (int m = 0; m < C::MB; m++) {
                        float sq[2] = { 0, 0 };
#pragma unroll
                        for (int j = 0; j < C::BN / 8; j++) {
                            const float2 b = __ldg((const float2 *)(p.bias + j * 8 + 2 * quad));
#pragma unroll
                            for (int v = 0; v < 4; v++) {
                                acc[m][4 * j + v] += v & 1 ? b.y : b.x;
                                sq[v >> 1] += acc[m][4 * j + v] * acc[m][4 * j + v];
                            }
                        }
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            sq[half] += __shfl_xor_sync(0xffffffffu, sq[half], 1);
                            sq[half] += __shfl_xor_sync(0xffffffffu, sq[half], 2);
                            sq[half] = sqrtf((float)C::BN) / fmaxf(sqrtf(sq[half]), 1e-12f);
                        }
#pragma unroll
                        for (int j = 0; j < C::BN / 8; j++) {
                            const float2 w = __ldg((const float2 *)(p.gamma + j * 8 + 2 * quad));
#pragma unroll
                            for (int v = 0; v < 4; v++) {
                                float x = acc[m][4 * j + v] * sq[v >> 1] * (v & 1 ? w.y : w.x);
                                acc[m][4 * j + v] = p.silu ? silu_fast(x) : x;
                            }
                        }
                    }
                }
#pragma unroll
                for (int u = 0; u < C::MB * C::CHUNKS; u++) {
                    constexpr int GROUPS = C::CHUNK / 8;
                    const int m = u / C::CHUNKS, g = lane >> 2, quad = lane & 3, first = u % C::CHUNKS * GROUPS;
                    asm volatile("cp.async.wait_group %0;" ::"n"(C::UNITS - 1) : "memory");
                    __syncwarp();
#pragma unroll
                    for (int j = 0; j < GROUPS; j++) {
                        const int c = q.n + (first + j) * 8 + 2 * quad;
                        float2 b = c < p.Cout && !p.gamma ? __ldg((const float2 *)(p.bias + c)) : make_float2(0, 0);
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            uint32_t at = slot(u, g + 8 * half, j) + quad * 4, old = 0;
                            float lo = acc[m][(first + j) * 4 + 2 * half] + b.x, hi = acc[m][(first + j) * 4 + 2 * half + 1] + b.y;
                            if (p.residual) {
                                asm volatile("ld.shared.b32 %0, [%1];" : "=r"(old) : "r"(at) : "memory");
                                lo += __uint_as_float(old << 16);
                                hi += __uint_as_float(old & 0xffff0000u);
                            }
                            asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pack_bf16(lo, hi)) : "memory");
                        }
                    }
                    __syncwarp();
                    const int c = q.n + first * 8 + lane % PER_ROW * 8;
#pragma unroll
                    for (int j = 0; j < 16 / ROWS_A_GO; j++) {
                        int row = j * ROWS_A_GO + lane / PER_ROW;
                        int at = pixel(m, row);
                        uint4 v;
                        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(slot(u, row, lane % PER_ROW)) : "memory");
                        if (at >= 0 && c < p.Cout)
                            *(uint4 *)((bf16 *)p.out + (int64_t)at * p.Cout + c) = v;
                    }
                    __syncwarp();
                    fetch_residual(u + C::UNITS);
                    forget();
                }
            } else {      /* a few channels only */
                const int g = lane >> 2, quad = lane & 3;
#pragma unroll
                for (int m = 0; m < C::MB; m++)
#pragma unroll
                    for (int j = 0; j < C::BN / 2; j++) {
                        int c = q.n + j / 4 * 8 + 2 * quad + (j & 1);
                        int64_t at = pixel(m, g + ((j >> 1) & 1) * 8);
                        if (c < p.Cout && at >= 0) {
                            float v = acc[m][j] + p.bias[c];
                            if (p.residual)
                                v += __bfloat162float(p.residual[at * p.Cout + c]);
                            if (p.out_f32)
                                ((float *)p.out)[at * p.Cout + c] = v;
                            else
                                ((bf16 *)p.out)[at * p.Cout + c] = __float2bfloat16(v);
                        }
                    }
            }
        }
    }
#endif
}

/* CB BN MB TH KS taps, taps a stage, weight stages, slab stages, staging units */
typedef tile<64, 192, 2, 16, 3, 9, 1, 4, 2, 3> wide;        /* 192 channels, or 384 in two */
typedef tile<64, 128, 3, 24, 3, 9, 1, 4, 2, 2> tall;        /* 384 in three: fewer, larger tiles */
typedef tile<64, 192, 1, 8, 3, 9, 1, 5, 2, 3> small;        /* small frames: twice as many tiles */
typedef tile<32, 96, 3, 24, 3, 9, 3, 4, 2, 9> narrow;       /* 96 channels */
typedef tile<32, 16, 3, 24, 3, 9, 9, 3, 2, 1> picture;      /* the decoder's head */
typedef tile<64, 16, 1, 8, 3, 9, 9, 3, 2, 1> tiny;          /* the encoder's head, in two */
typedef tile<64, 192, 2, 16, 1, 1, 1, 3, 3, 3> temporal;    /* kernels of one pixel over frames */
typedef tile<64, 192, 2, 16, 3, 4, 1, 4, 2, 3> wide_up;
typedef tile<32, 96, 3, 24, 3, 4, 4, 3, 2, 9> narrow_up;

template <class C> int launch(backend *be, const conv_args *a, err *e)
{
    slab_args p = {};
    int64_t C_in = a->x->shape[3], kt = a->w->shape[1];
    const tensor *w = C::TAPS == 4 ? a->w_up : a->w;
    const tensor *frames[3] = { a->x, a->past, a->before };
    const char *names[3] = { "the frames of a convolution", "the past of a convolution", "the older past of a convolution" };
    const CUtensorMapSwizzle swizzle = C::CB == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B;
    for (int i = 0; i < 3; i++) {
        const tensor *f = frames[i];
        p.n_frames[i] = f ? (int)f->shape[0] : 0;
        if (!f)
            continue;
        uint64_t dim[4] = { (uint64_t)C_in, (uint64_t)f->shape[2], (uint64_t)f->shape[1], (uint64_t)f->shape[0] };
        uint64_t stride[3] = { dim[0] * 2, dim[0] * dim[1] * 2, dim[0] * dim[1] * dim[2] * 2 };
        uint32_t box[4] = { C::CB, C::PITCH, C::ROWS, 1 };
        int rc = tma_map(be, &p.frames[i], CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, f->data, dim, stride, box, swizzle, names[i], e);
        if (rc)
            return rc;
    }
    uint64_t dim[3] = { (uint64_t)C_in, (uint64_t)w->shape[0], (uint64_t)(C::TAPS == 4 ? 16 : kt * C::TAPS) };
    uint64_t stride[2] = { dim[0] * dim[2] * 2, dim[0] * 2 };
    uint32_t box[3] = { C::CB, C::BN, C::GROUP };
    int rc = tma_map(be, &p.weights, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, w->data, dim, stride, box, swizzle, "the weights of a convolution", e);
    if (rc)
        return rc;
    p.bias = (const float *)a->bias->data;
    p.gamma = a->norm ? (const float *)a->norm->data : NULL;
    p.silu = a->act == ACT_SILU;
    p.residual = a->residual ? (const bf16 *)a->residual->data : NULL;
    p.out = a->out->data;
    p.out_f32 = a->out->dtype == DT_F32;
    p.H = (int)a->x->shape[1];
    p.W = (int)a->x->shape[2];
    p.Cout = (int)a->w->shape[0];
    p.n_blocks = (int)(C_in / C::CB);
    p.kt = (int)kt;
    p.n_past = a->n_past;
    p.phases = a->upsample2x ? 4 : 1;
    p.tiles_x = (p.W + C::TW - 1) / C::TW;
    p.tiles_y = (p.H + C::TH - 1) / C::TH;
    p.tiles_n = (p.Cout + C::BN - 1) / C::BN;
    int64_t tiles = (int64_t)p.tiles_x * p.tiles_y * p.tiles_n * p.phases * a->out->shape[0];
    if (tensor_nrows(a->out) > 2147483647)
        return ERR(e, ERR_SHAPE, "a convolution of %lld pixels is too large for one launch", (long long)tensor_nrows(a->out));
    p.n_tiles = (int)tiles;
    static int sized = -1;      /* the device that knows the size of this kernel's shared memory */
    if (sized != impl(be)->device)
        CUDA_TRY(cudaFuncSetAttribute(slab_conv<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, C::SMEM), "conv");
    sized = impl(be)->device;
    int blocks = p.n_tiles < impl(be)->sm_count ? p.n_tiles : impl(be)->sm_count;
    slab_conv<C><<<blocks, 384, C::SMEM, impl(be)->stream>>>(p);
    return cuda_launched(be, "conv", e);
}

/* rounds of tiles on all multiprocessors, in units of pixels x channels of one block */
template <class C> double cost(backend *be, const conv_args *a, double slower)
{
    int64_t tiles = (a->x->shape[2] + C::TW - 1) / C::TW * ((a->x->shape[1] + C::TH - 1) / C::TH) * ((a->w->shape[0] + C::BN - 1) / C::BN) *
                    (a->upsample2x ? 4 : 1) * a->out->shape[0];
    return (double)((tiles + impl(be)->sm_count - 1) / impl(be)->sm_count) * C::TW * C::TH * C::BN * slower;
}

}

bool conv_hopper_can(const backend *be, const conv_args *a)
{
    int64_t cin = a->x->shape[3], cout = a->w->shape[0], ks = a->w->shape[2];
    bool f32 = a->out->dtype == DT_F32, wide_ok = cin % 64 == 0 && cout % 8 == 0, narrow_ok = ks == 3 && cin % 32 == 0 && cout % 8 == 0;
    int up = a->upsample2x ? 2 : 1;
    int major = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, impl((backend *)be)->device);
    return major == 9 && ks == a->w->shape[3] && (ks == 3 || ks == 1) && a->pad_h == ks / 2 && a->pad_w == ks / 2 && a->stride_t == 1 &&
           a->stride_h == 1 && a->stride_w == 1 && a->out->shape[1] == up * a->x->shape[1] && a->out->shape[2] == up * a->x->shape[2] &&
           (up == 1 || ks == 3) && a->w->shape[1] <= a->n_past + 1 && (f32 ? ks == 3 && cin % 32 == 0 && cout <= 64 : wide_ok || narrow_ok) &&
           a->x->shape[1] < 32768 && a->x->shape[2] < 32768;
}

/* the norm that follows is made by the same kernel where a block has all channels; otherwise by one of its own */
static bool fuses(const conv_args *a)
{
    int64_t cin = a->x->shape[3], cout = a->w->shape[0];
    return a->norm && !a->residual && a->w->shape[2] == 3 && (cout == 96 || (cout == 192 && cin % 64 == 0));
}

int conv_hopper(backend *be, const conv_args *args, err *e)
{
    conv_args copy = *args, *a = &copy;
    if (a->norm && !fuses(a)) {
        a->norm = NULL;
        int rc = conv_hopper(be, a, e);
        return rc ? rc : cuda_pixel_norm(be, a->out, a->out, args->norm, args->act, e);
    }
    int64_t cin = a->x->shape[3], cout = a->w->shape[0], ks = a->w->shape[2];
    if (ks == 1)
        return launch<temporal>(be, a, e);
    if (a->out->dtype == DT_F32)
        return cin % 64 ? launch<picture>(be, a, e) : launch<tiny>(be, a, e);
    if (cin % 64 || cout == 96)
        return a->w_up ? launch<narrow_up>(be, a, e) : launch<narrow>(be, a, e);
    if (a->w_up)
        return launch<wide_up>(be, a, e);
    if (a->norm)
        return launch<wide>(be, a, e);
    double w = cost<wide>(be, a, 1.0), t = cost<tall>(be, a, 1.0), s = cost<small>(be, a, 1.15);
    return w <= t && w <= s ? launch<wide>(be, a, e) : t <= s ? launch<tall>(be, a, e) : launch<small>(be, a, e);
}
