/* What touches each pixel of channels-last frames once: the VAE's norm, the halves of a doubled frame rate, layouts and the bytes of
 * a picture. Frames are f32 or bf16; arithmetic is f32 with one rounding at the end. */
#include "core/cuda/cuda.cuh"

namespace {

typedef __nv_bfloat16 bf16;

enum { THREADS = 256 };

/* ---- x / max(|x|, 1e-12) sqrt(C) gamma ---- */

enum { NORM_THREADS = 128 };

/* one block a pixel, any width; the sum is over threads, then warps, in a fixed order */
template <class T> __global__ void norm_any(T *out, const T *x, const float *gamma, int64_t width, activation act)
{
    __shared__ float shared[NORM_THREADS / 32];
    const T *in = x + blockIdx.x * width;
    T *y = out + blockIdx.x * width;
    float sq = 0;
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS)
        sq += to_f(in[i]) * to_f(in[i]);
    sq = warp_sum(sq);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = sq;
    __syncthreads();
    sq = 0;
    for (int i = 0; i < NORM_THREADS / 32; i++)
        sq += shared[i];
    float inv = sqrtf((float)width) / fmaxf(sqrtf(sq), 1e-12f);
    for (int64_t i = threadIdx.x; i < width; i += NORM_THREADS) {
        float v = to_f(in[i]) * inv * gamma[i];
        y[i] = from_f<T>(act == ACT_SILU ? silu_of(v) : v);
    }
}

/* bf16, width = 24 LANES: a group of LANES threads holds a pixel in registers, three runs of eight channels each */
template <int LANES> __global__ void __launch_bounds__(THREADS) norm_fast(bf16 *out, const bf16 *x, const float *gamma, int64_t pixels, activation act)
{
    const int lane = (int)threadIdx.x % LANES;
    const int64_t step = (int64_t)gridDim.x * (THREADS / LANES);
    float g[24];
#pragma unroll
    for (int j = 0; j < 3; j++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            g[8 * j + i] = gamma[(lane + LANES * j) * 8 + i];
    for (int64_t first = blockIdx.x * (int64_t)(THREADS / LANES); first < pixels; first += step) {
        const int64_t pixel = first + (int)threadIdx.x / LANES;
        const bool there = pixel < pixels;
        const uint4 *in = (const uint4 *)(x + pixel * (24 * LANES));
        uint4 *to = (uint4 *)(out + pixel * (24 * LANES));
        uint4 raw[3];
        float sq = 0;
#pragma unroll
        for (int j = 0; j < 3; j++)
            raw[j] = there ? in[lane + LANES * j] : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < 3; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t w = (&raw[j].x)[i];
                float lo = __uint_as_float(w << 16), hi = __uint_as_float(w & 0xffff0000u);
                sq += lo * lo;
                sq += hi * hi;
            }
#pragma unroll
        for (int o = LANES / 2; o; o >>= 1)
            sq += __shfl_xor_sync(0xffffffffu, sq, o);
        const float inv = sqrtf((float)(24 * LANES)) / fmaxf(sqrtf(sq), 1e-12f);
#pragma unroll
        for (int j = 0; j < 3; j++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t w = (&raw[j].x)[i];
                float lo = __uint_as_float(w << 16) * inv * g[8 * j + 2 * i], hi = __uint_as_float(w & 0xffff0000u) * inv * g[8 * j + 2 * i + 1];
                if (act == ACT_SILU) {
                    lo = silu_fast(lo);
                    hi = silu_fast(hi);
                }
                __nv_bfloat162 both = __floats2bfloat162_rn(lo, hi);
                (&raw[j].x)[i] = *(uint32_t *)&both;
            }
            if (there)
                to[lane + LANES * j] = raw[j];
        }
    }
}

template <int LANES> void launch_fast(backend *be, tensor *out, const tensor *x, const tensor *gamma, activation act)
{
    int64_t pixels = tensor_nrows(x), blocks = (pixels + THREADS / LANES - 1) / (THREADS / LANES), most = (int64_t)impl(be)->sm_count * 16;
    norm_fast<LANES><<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, impl(be)->stream>>>((bf16 *)out->data, (const bf16 *)x->data,
                                                                                              (const float *)gamma->data, pixels, act);
}

/* ---- layouts ---- */

template <class T> __global__ void interleave(T *out, const T *x, int64_t n, int64_t pixels, int64_t C)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x) {
        int64_t c = i % C, p = i / C % pixels, t = i / C / pixels;
        out[i] = x[((t / 2 * pixels + p) * 2 + t % 2) * C + c];
    }
}

struct channel_pair { float a[64], b[64]; };

template <class O> __global__ void channels_last(O *out, const float *x, int64_t n, int64_t C, bool scaled, channel_pair k)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * C; i += gridDim.x * (int64_t)blockDim.x) {
        int64_t c = i % C;
        float v = x[c * n + i / C];
        out[i] = from_f<O>(scaled ? __fadd_rn(__fdiv_rn(v, k.a[c]), k.b[c]) : v);
    }
}

template <class I> __global__ void channels_first(float *out, const I *x, int64_t n, int64_t C, int64_t Cx, bool scaled, channel_pair k)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * C; i += gridDim.x * (int64_t)blockDim.x) {
        int64_t c = i / n;
        float v = to_f(x[i % n * Cx + c]);
        out[i] = scaled ? __fmul_rn(__fadd_rn(v, -k.a[c]), k.b[c]) : v;
    }
}

int pair_of(channel_pair *k, const float *a, const float *b, int64_t C, err *e)
{
    if (a && C > 64)
        return ERR(e, ERR_INTERNAL, "per-channel scaling of %lld channels (64 are possible)", (long long)C);
    for (int64_t c = 0; a && c < C; c++) {
        k->a[c] = a[c];
        k->b[c] = b[c];
    }
    return 0;
}

int wrong_types(const char *op, const tensor *a, const tensor *b, err *e)
{
    return ERR(e, ERR_INTERNAL, "%s: the CUDA backend has no such operation from %s to %s", op, dtype_name(a->dtype), dtype_name(b->dtype));
}

}

extern "C" int cuda_pixel_norm(backend *be, tensor *out, const tensor *x, const tensor *gamma, activation act, err *e)
{
    int64_t pixels = tensor_nrows(x), C = tensor_cols(x);
    if (x->dtype != out->dtype || (x->dtype != DT_F32 && x->dtype != DT_BF16) || gamma->dtype != DT_F32)
        return wrong_types("pixel_norm", x, out, e);
    if (!pixels)
        return 0;
    if (x->dtype == DT_F32)
        norm_any<<<blocks_for(pixels, 1), NORM_THREADS, 0, impl(be)->stream>>>((float *)out->data, (const float *)x->data, (const float *)gamma->data, C, act);
    else if (C == 96)
        launch_fast<4>(be, out, x, gamma, act);
    else if (C == 192)
        launch_fast<8>(be, out, x, gamma, act);
    else if (C == 384)
        launch_fast<16>(be, out, x, gamma, act);
    else
        norm_any<<<blocks_for(pixels, 1), NORM_THREADS, 0, impl(be)->stream>>>((bf16 *)out->data, (const bf16 *)x->data, (const float *)gamma->data, C, act);
    return cuda_launched(be, "pixel_norm", e);
}

extern "C" int cuda_time_interleave(backend *be, tensor *out, const tensor *x, err *e)
{
    int64_t C = out->shape[3], pixels = x->shape[1] * x->shape[2], bytes = C * (int64_t)dtype_size(x->dtype);
    if (x->dtype != out->dtype)
        return wrong_types("time_interleave", x, out, e);
    if (bytes % 16 == 0)      /* whole pieces of 16 bytes, whatever is in them */
        interleave<<<blocks_for(tensor_bytes(out) / 16, 1024), THREADS, 0, impl(be)->stream>>>((uint4 *)out->data, (const uint4 *)x->data, tensor_bytes(out) / 16,
                                                                                         pixels, bytes / 16);
    else if (x->dtype == DT_F32)
        interleave<<<blocks_for(tensor_count(out), 1024), THREADS, 0, impl(be)->stream>>>((float *)out->data, (const float *)x->data, tensor_count(out), pixels, C);
    else
        interleave<<<blocks_for(tensor_count(out), 1024), THREADS, 0, impl(be)->stream>>>((bf16 *)out->data, (const bf16 *)x->data, tensor_count(out), pixels, C);
    return cuda_launched(be, "time_interleave", e);
}

extern "C" int cuda_to_channels_last(backend *be, tensor *out, const tensor *x, const float *div, const float *add, err *e)
{
    channel_pair k;
    int64_t C = x->shape[0], n = tensor_count(x) / C;
    int rc = pair_of(&k, div, add, C, e);
    if (rc)
        return rc;
    if (x->dtype != DT_F32 || (out->dtype != DT_F32 && out->dtype != DT_BF16))
        return wrong_types("to_channels_last", x, out, e);
    if (out->dtype == DT_F32)
        channels_last<<<blocks_for(n * C, 1024), THREADS, 0, impl(be)->stream>>>((float *)out->data, (const float *)x->data, n, C, div != NULL, k);
    else
        channels_last<<<blocks_for(n * C, 1024), THREADS, 0, impl(be)->stream>>>((bf16 *)out->data, (const float *)x->data, n, C, div != NULL, k);
    return cuda_launched(be, "to_channels_last", e);
}

extern "C" int cuda_to_channels_first(backend *be, tensor *out, const tensor *x, const float *sub, const float *mul, err *e)
{
    channel_pair k;
    int64_t C = out->shape[0], Cx = x->shape[3], n = tensor_count(x) / Cx;
    int rc = pair_of(&k, sub, mul, C, e);
    if (rc)
        return rc;
    if (out->dtype != DT_F32 || (x->dtype != DT_F32 && x->dtype != DT_BF16))
        return wrong_types("to_channels_first", x, out, e);
    if (x->dtype == DT_F32)
        channels_first<<<blocks_for(n * C, 1024), THREADS, 0, impl(be)->stream>>>((float *)out->data, (const float *)x->data, n, C, Cx, sub != NULL, k);
    else
        channels_first<<<blocks_for(n * C, 1024), THREADS, 0, impl(be)->stream>>>((float *)out->data, (const bf16 *)x->data, n, C, Cx, sub != NULL, k);
    return cuda_launched(be, "to_channels_first", e);
}
