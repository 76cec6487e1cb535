/* The last convolution of the decoder on Hopper: many channels to one, two or three, f32 out. Too few columns for the tiles of
 * conv_hopper.cu, so the product is turned round: rows are taps x output channels (27 of 64), columns the pixels of a slab with its
 * border, K is frames x input channels. Each pixel of the slab is read once a frame, not nine times; a tap's row then belongs to the
 * output pixel one step away, and nine shifted rows are added in shared memory, in the order of the taps. */
#include "core/cuda/conv.cuh"
#include "core/cuda/hopper.cuh"

#pragma nv_diag_suppress 177      /* the helpers of the kernel are not used in code for older chips */

namespace {

enum {
    CB = 32, ROW = CB * 2,                       /* input channels of a slab, bytes of a pixel in it */
    TW = 16, TH = 24, PITCH = TW + 2, ROWS = TH + 2,
    HALF = 240,                                  /* pixels of the slab that one consumer multiplies: 2 x 240 cover 18 x 26 */
    SLAB_BYTES = PITCH * ROWS * ROW, SLAB_STEP = 2 * HALF * ROW, SLABS = 4,
    MOST_COUT = 3, WEIGHT_STEP = 64 * ROW, MOST_WEIGHTS = 12,
    SUMS_PITCH = 2 * HALF + 8,                   /* of a row of products: eight rows of a store on different banks */
    SUMS = 9 * MOST_COUT * SUMS_PITCH * 4,
    SMEM = SLABS * SLAB_STEP + MOST_WEIGHTS * WEIGHT_STEP + SUMS + 8 * (2 * SLABS + 1)
};
static_assert(SLAB_BYTES <= SLAB_STEP && SLAB_STEP % 1024 == 0 && HALF * ROW % 512 == 0, "swizzled tiles");
static_assert(SMEM <= 232448, "shared memory of a block");

struct head_args {
    CUtensorMap frames[3];          /* x, past, before */
    CUtensorMap weights;
    const float *bias;
    float *out;
    int n_frames[3];
    int H, W, Cout, n_blocks, kt, n_past;
    int tiles_x, tiles_y, n_tiles;
};

__global__ void __launch_bounds__(384, 1) head_conv(const __grid_constant__ head_args p)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) uint8_t smem[];
    const uint32_t slabs = smem_u32(smem), weights = slabs + SLABS * SLAB_STEP, full = weights + MOST_WEIGHTS * WEIGHT_STEP + SUMS, empty = full + 8 * SLABS,
                   weights_full = empty + 8 * SLABS;
    float *const sums = (float *)(smem + SLABS * SLAB_STEP + MOST_WEIGHTS * WEIGHT_STEP);
    const int group = __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0);
    if (threadIdx.x == 0) {
        if (slabs & 1023)
            asm volatile("trap;");
        for (int i = 0; i < SLABS; i++) {
            mbar_init(full + 8 * i, 1);
            mbar_init(empty + 8 * i, 8);
        }
        mbar_init(weights_full, 1);
        mbar_init_fence();
    }
    __syncthreads();

    if (group == 0) {
        registers_give<40>();
        if (threadIdx.x == 0) {
            mbar_expect(weights_full, (uint32_t)(p.kt * p.n_blocks * 9 * p.Cout * ROW));
            for (int dt = 0; dt < p.kt; dt++)
                for (int cb = 0; cb < p.n_blocks; cb++)      /* rows in the order channel, tap */
                    tma_load_3d(weights + (uint32_t)(dt * p.n_blocks + cb) * WEIGHT_STEP, &p.weights, weights_full, cb * CB, dt * 9, 0, L2_EVICT_LAST);
            int slab = 0, phase = 1;
            for (int i = blockIdx.x; i < p.n_tiles; i += gridDim.x) {
                const int x = i % p.tiles_x * TW, y = i / p.tiles_x % p.tiles_y * TH, t = i / p.tiles_x / p.tiles_y;
                for (int dt = 0; dt < p.kt; dt++) {
                    int map = 0, frame = t + dt - p.n_past;
                    while (frame < 0 && map < 2)
                        frame += p.n_frames[++map];
                    if (frame < 0)      /* before the clip: zeros */
                        continue;
                    for (int cb = 0; cb < p.n_blocks; cb++) {
                        mbar_wait(empty + 8 * slab, phase);
                        mbar_expect(full + 8 * slab, SLAB_BYTES);
                        tma_load_4d(slabs + slab * SLAB_STEP, &p.frames[map], full + 8 * slab, cb * CB, x - 1, y - 1, frame, L2_NORMAL);
                        if (++slab == SLABS) {
                            slab = 0;
                            phase ^= 1;
                        }
                    }
                }
            }
        }
    } else {
        registers_take<232>();
        const int consumer = group - 1, thread = (int)threadIdx.x - 128, warp = (thread / 32) & 3, lane = thread & 31, g = lane >> 2, quad = lane & 3;
        const uint64_t desc = wgmma_desc(0, 16, 8 * ROW, DESC_SWIZZLE_64);
        const int taps = 9 * p.Cout;
        int slab = 0, phase = 0;
        float acc[HALF / 2];
        mbar_wait(weights_full, 0);
        for (int i = blockIdx.x; i < p.n_tiles; i += gridDim.x) {
            const int x0 = i % p.tiles_x * TW, y0 = i / p.tiles_x % p.tiles_y * TH, t = i / p.tiles_x / p.tiles_y;
            const int missing = p.n_past - t - p.n_frames[1] - p.n_frames[2];
            int keep = 0, old = -1;
            for (int dt = missing > 0 ? missing : 0; dt < p.kt; dt++)
                for (int cb = 0; cb < p.n_blocks; cb++) {
                    const uint32_t w = weights + (uint32_t)(dt * p.n_blocks + cb) * WEIGHT_STEP, px = slabs + slab * SLAB_STEP + consumer * HALF * ROW;
                    mbar_wait(full + 8 * slab, phase);
                    wgmma_fence();
#pragma unroll
                    for (int k = 0; k < CB / 16; k++)
                        wgmma_ss<HALF, 0>(acc, desc + ((w + k * 32) >> 4), desc + ((px + k * 32) >> 4), k ? 1 : keep);
                    wgmma_commit();
                    keep = 1;
                    wgmma_wait<1>();
                    if (lane == 0 && old >= 0)
                        mbar_arrive(empty + 8 * old);
                    old = slab;
                    if (++slab == SLABS) {
                        slab = 0;
                        phase ^= 1;
                    }
                }
            wgmma_wait<0>();
            wgmma_pin(acc);
            if (lane == 0)
                mbar_arrive(empty + 8 * old);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const int row = 16 * warp + g + 8 * half;
                if (row < taps)
#pragma unroll
                    for (int j = 0; j < HALF / 8; j++)
                        *(float2 *)(sums + row * SUMS_PITCH + consumer * HALF + 8 * j + 2 * quad) = make_float2(acc[4 * j + 2 * half], acc[4 * j + 2 * half + 1]);
            }
            named_sync(1, 256);
            for (int o = thread; o < TW * TH * p.Cout; o += 256) {
                const int c = o % p.Cout, x = o / p.Cout % TW, y = o / p.Cout / TW;
                if (x0 + x >= p.W || y0 + y >= p.H)
                    continue;
                const float *s = sums + c * 9 * SUMS_PITCH + y * PITCH + x;
                float v = p.bias[c];
#pragma unroll
                for (int tap = 0; tap < 9; tap++)
                    v += s[tap * SUMS_PITCH + tap / 3 * PITCH + tap % 3];
                p.out[(((int64_t)t * p.H + y0 + y) * p.W + x0 + x) * p.Cout + c] = v;
            }
            named_sync(1, 256);
        }
    }
#endif
}

}

bool conv_head_can(const conv_args *a)
{
    return a->out->dtype == DT_F32 && a->w->shape[0] <= MOST_COUT && a->w->shape[2] == 3 && a->x->shape[3] % CB == 0 &&
           a->w->shape[1] * (a->x->shape[3] / CB) <= MOST_WEIGHTS && !a->upsample2x && !a->residual;
}

int conv_head(backend *be, const conv_args *a, err *e)
{
    head_args p = {};
    const tensor *frames[3] = { a->x, a->past, a->before };
    const char *names[3] = { "the frames of a convolution", "the past of a convolution", "the older past of a convolution" };
    uint64_t C = (uint64_t)a->x->shape[3], taps = (uint64_t)a->w->shape[1] * 9;
    int rc = 0;
    for (int i = 0; i < 3; i++)
        if (frames[i]) {
            const int64_t *s = frames[i]->shape;
            uint64_t dim[4] = { C, (uint64_t)s[2], (uint64_t)s[1], (uint64_t)s[0] }, stride[3] = { C * 2, C * dim[1] * 2, C * dim[1] * dim[2] * 2 };
            uint32_t box[4] = { CB, PITCH, ROWS, 1 };
            p.n_frames[i] = (int)s[0];
            if ((rc = tma_map(be, &p.frames[i], CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, frames[i]->data, dim, stride, box, CU_TENSOR_MAP_SWIZZLE_64B, names[i], e)))
                return rc;
        }
    uint64_t dim[3] = { C, taps, (uint64_t)a->w->shape[0] }, stride[2] = { C * 2, C * taps * 2 };
    uint32_t box[3] = { CB, 9, (uint32_t)a->w->shape[0] };
    if ((rc = tma_map(be, &p.weights, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, a->w->data, dim, stride, box, CU_TENSOR_MAP_SWIZZLE_64B, "the weights of a convolution", e)))
        return rc;
    p.bias = (const float *)a->bias->data;
    p.out = (float *)a->out->data;
    p.H = (int)a->x->shape[1];
    p.W = (int)a->x->shape[2];
    p.Cout = (int)a->w->shape[0];
    p.n_blocks = (int)(C / CB);
    p.kt = (int)a->w->shape[1];
    p.n_past = a->n_past;
    p.tiles_x = (p.W + TW - 1) / TW;
    p.tiles_y = (p.H + TH - 1) / TH;
    p.n_tiles = (int)((int64_t)p.tiles_x * p.tiles_y * a->out->shape[0]);
    static int sized = -1;      /* the device that knows the size of this kernel's shared memory */
    if (sized != impl(be)->device)
        CUDA_TRY(cudaFuncSetAttribute(head_conv, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM), "conv");
    sized = impl(be)->device;
    head_conv<<<p.n_tiles < impl(be)->sm_count ? p.n_tiles : impl(be)->sm_count, 384, SMEM, impl(be)->stream>>>(p);
    return cuda_launched(be, "conv", e);
}
