/* Convolution of bf16 frames on any GPU and for any shape: strides, enlargement, odd channel counts. An implicit GEMM over
 * mma.sync with f32 sums: 64 pixels x 64 channels a block, K in steps of 32 through shared memory. K is taps x input channels, as
 * the weights lie; frames before the clip and pixels outside are zeros. */
#include <cuda_bf16.h>

#include "core/cuda/conv.cuh"

namespace {

typedef __nv_bfloat16 bf16;

struct plain_args {
    const bf16 *frames[3];      /* x, past, before */
    int n_frames[3];
    const bf16 *w, *residual;
    const float *bias;
    void *out;
    int H, W, C, N, K;
    int64_t To, Ho, Wo;
    int kh, kw, n_past, st, sh, sw, ph, pw;
    int up;                     /* 1 with the enlargement: coordinates halve */
    bool out_f32;
};

enum { BM = 64, BN = 64, BK = 32, ROW = BK + 8 };

struct pixel_at { int t, y, x; bool there; };

/* element k of the K axis for an output pixel, where it lies; NULL: zero */
__device__ inline const bf16 *source(const plain_args &p, const pixel_at &at, int k)
{
    if (!at.there || k >= p.K)
        return NULL;
    int tap = k / p.C, c = k - tap * p.C, row = tap / p.kw, x = at.x + tap - row * p.kw, dt = row / p.kh, y = at.y + row - dt * p.kh, t = at.t + dt;
    if (y < 0 || x < 0 || y >= p.H << p.up || x >= p.W << p.up)
        return NULL;
#pragma unroll
    for (int m = 0; m < 3; m++) {
        if (t >= 0)
            return p.frames[m] + (((int64_t)t * p.H + (y >> p.up)) * p.W + (x >> p.up)) * p.C + c;
        if (m < 2)
            t += p.n_frames[m + 1];
    }
    return NULL;
}

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* EIGHT: runs of eight channels are 16 aligned bytes, in the frames and in the weights */
template <bool EIGHT> __global__ void __launch_bounds__(128) plain(const __grid_constant__ plain_args p)
{
    __shared__ __align__(16) bf16 sa[BM][ROW], sb[BN][ROW];
    const int thread = (int)threadIdx.x, warp = thread / 32, lane = thread % 32, g = lane >> 2, q = lane & 3;
    const int64_t first_pixel = (int64_t)blockIdx.x * BM, first_channel = (int64_t)blockIdx.y * BN, pixels = p.To * p.Ho * p.Wo;
    const int row = thread / 2, piece = thread % 2 * 16;      /* this thread loads 16 of a row's 32 values, of both sides */
    pixel_at at;
    int64_t pixel = first_pixel + row;
    at.there = pixel < pixels;
    at.t = (int)(pixel / (p.Ho * p.Wo)) * p.st - p.n_past;
    at.y = (int)(pixel / p.Wo % p.Ho) * p.sh - p.ph;
    at.x = (int)(pixel % p.Wo) * p.sw - p.pw;
    const bf16 *weights = first_channel + row < p.N ? p.w + (first_channel + row) * (int64_t)p.K : NULL;
    float acc[2][4][4] = {};

    for (int k0 = 0; k0 < p.K; k0 += BK) {
        union { uint4 v[2]; bf16 e[16]; } a, b;
        if (EIGHT) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int k = k0 + piece + 8 * j;
                const bf16 *from = source(p, at, k);
                a.v[j] = from ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
                b.v[j] = weights && k < p.K ? *(const uint4 *)(weights + k) : make_uint4(0, 0, 0, 0);
            }
        } else {
#pragma unroll
            for (int j = 0; j < 16; j++) {
                int k = k0 + piece + j;
                const bf16 *from = source(p, at, k);
                a.e[j] = from ? *from : __float2bfloat16(0);
                b.e[j] = weights && k < p.K ? weights[k] : __float2bfloat16(0);
            }
        }
        __syncthreads();
#pragma unroll
        for (int j = 0; j < 2; j++) {
            *(uint4 *)&sa[row][piece + 8 * j] = a.v[j];
            *(uint4 *)&sb[row][piece + 8 * j] = b.v[j];
        }
        __syncthreads();
        const int wm = warp / 2 * 32, wn = warp % 2 * 32;
#pragma unroll
        for (int k = 0; k < BK; k += 16) {
            uint32_t fa[2][4], fb[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    fa[i][j] = *(const uint32_t *)&sa[wm + 16 * i + g + (j & 1) * 8][k + 2 * q + (j >> 1) * 8];
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    fb[i][j] = *(const uint32_t *)&sb[wn + 8 * i + g][k + 2 * q + j * 8];
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma(acc[i][j], fa[i], fb[j]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int v = 0; v < 4; v++) {
                int64_t px = first_pixel + warp / 2 * 32 + 16 * i + g + v / 2 * 8, c = first_channel + warp % 2 * 32 + 8 * j + 2 * q + v % 2;
                if (px >= pixels || c >= p.N)
                    continue;
                float s = acc[i][j][v] + p.bias[c] + (p.residual ? __bfloat162float(p.residual[px * p.N + c]) : 0.0f);
                if (p.out_f32)
                    ((float *)p.out)[px * p.N + c] = s;
                else
                    ((bf16 *)p.out)[px * p.N + c] = __float2bfloat16(s);
            }
}

}

int conv_plain(backend *be, const conv_args *a, err *e)
{
    plain_args p = {};
    const tensor *frames[3] = { a->x, a->past, a->before };
    for (int i = 0; i < 3; i++)
        if (frames[i]) {
            p.frames[i] = (const bf16 *)frames[i]->data;
            p.n_frames[i] = (int)frames[i]->shape[0];
        }
    p.w = (const bf16 *)a->w->data;
    p.residual = a->residual ? (const bf16 *)a->residual->data : NULL;
    p.bias = (const float *)a->bias->data;
    p.out = a->out->data;
    p.out_f32 = a->out->dtype == DT_F32;
    p.H = (int)a->x->shape[1];
    p.W = (int)a->x->shape[2];
    p.C = (int)a->x->shape[3];
    p.To = a->out->shape[0];
    p.Ho = a->out->shape[1];
    p.Wo = a->out->shape[2];
    p.N = (int)a->out->shape[3];
    p.kh = (int)a->w->shape[2];
    p.kw = (int)a->w->shape[3];
    p.K = (int)(tensor_count(a->w) / a->w->shape[0]);
    p.n_past = a->n_past;
    p.st = a->stride_t;
    p.sh = a->stride_h;
    p.sw = a->stride_w;
    p.ph = a->pad_h;
    p.pw = a->pad_w;
    p.up = a->upsample2x ? 1 : 0;
    dim3 grid(blocks_for(p.To * p.Ho * p.Wo, BM), blocks_for(p.N, BN));
    if (!(p.To * p.Ho * p.Wo))
        return 0;
    if (p.C % 8 == 0)
        plain<true><<<grid, 128, 0, impl(be)->stream>>>(p);
    else
        plain<false><<<grid, 128, 0, impl(be)->stream>>>(p);
    return cuda_launched(be, "conv", e);
}
