/* Convolution over channels-last frames. bf16 frames go to the tensor cores; in f32, pixels are gathered piece by piece into scratch
 * memory (im2col) and multiplied by cuBLAS. */
#include "core/cuda/conv.cuh"

typedef struct {
    const float *x, *past, *before;
    int64_t T, P, B, H, W, C, Ho, Wo;
    int kt, kh, kw, n_past, st, sh, sw, ph, pw, up;
} geometry;

__global__ static void gather(float *cols, geometry g, int64_t first_pixel, int64_t n)
{
    int64_t depth = (int64_t)g.kt * g.kh * g.kw * g.C;
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n * depth; i += gridDim.x * (int64_t)blockDim.x) {
        int64_t pixel = first_pixel + i / depth, k = i % depth;
        int64_t c = k % g.C, kx = k / g.C % g.kw, ky = k / g.C / g.kw % g.kh, kt = k / g.C / g.kw / g.kh;
        int64_t t = pixel / (g.Ho * g.Wo), oy = pixel / g.Wo % g.Ho, ox = pixel % g.Wo;
        int64_t it = t * g.st + kt - g.n_past, iy = oy * g.sh + ky - g.ph, ix = ox * g.sw + kx - g.pw;
        float v = 0;
        if (it >= -g.P - g.B && iy >= 0 && iy < g.H * g.up && ix >= 0 && ix < g.W * g.up) {
            int64_t frame = g.H * g.W * g.C;
            const float *f = it >= 0 ? g.x + it * frame : it >= -g.P ? g.past + (it + g.P) * frame : g.before + (it + g.P + g.B) * frame;
            v = f[(iy / g.up * g.W + ix / g.up) * g.C + c];
        }
        cols[i] = v;
    }
}

__global__ static void finish(float *y, int64_t n, int64_t cols, const float *bias, const float *residual)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x)
        y[i] = y[i] + bias[i % cols] + (residual ? residual[i] : 0.0f);
}

static int conv_f32(backend *be, const conv_args *a, err *e)
{
    const size_t PIECE = (size_t)256 << 20;
    geometry g = { (const float *)a->x->data, a->past ? (const float *)a->past->data : NULL, a->before ? (const float *)a->before->data : NULL,
                   a->x->shape[0], a->past ? a->past->shape[0] : 0, a->before ? a->before->shape[0] : 0, a->x->shape[1], a->x->shape[2], a->x->shape[3],
                   a->out->shape[1], a->out->shape[2], (int)a->w->shape[1], (int)a->w->shape[2], (int)a->w->shape[3], a->n_past, a->stride_t, a->stride_h, a->stride_w, a->pad_h, a->pad_w, a->upsample2x ? 2 : 1 };
    int64_t depth = (int64_t)g.kt * g.kh * g.kw * g.C, pixels = a->out->shape[0] * g.Ho * g.Wo, N = a->out->shape[3];
    int64_t step = (int64_t)(PIECE / ((size_t)depth * 4));
    const float one = 1, none = 0;
    float *out = (float *)a->out->data;
    step = step < 1 ? 1 : step > pixels ? pixels : step;
    int rc = cuda_need_work(be, (size_t)(step * depth) * 4, e);
    if (rc)
        return rc;
    for (int64_t p = 0; p < pixels; p += step) {
        int64_t n = pixels - p < step ? pixels - p : step;
        float *cols = (float *)impl(be)->work;
        gather<<<blocks_for(n * depth, 1024), 256, 0, impl(be)->stream>>>(cols, g, p, n);
        if ((rc = cuda_launched(be, "conv", e)))
            return rc;
        cublasStatus_t s = blas.sgemm_64(impl(be)->blas, CUBLAS_OP_T, CUBLAS_OP_N, N, n, depth, &one, (const float *)a->w->data, depth, cols, depth,
                                          &none, out + p * N, N);
        if (s != CUBLAS_STATUS_SUCCESS)
            return ERR(e, ERR_DEVICE, "%s: cuBLAS refused a convolution of %lld pixels, depth %lld: %s", be->device, (long long)n, (long long)depth,
                       blas.status_string(s));
    }
    finish<<<blocks_for(pixels * N, 1024), 256, 0, impl(be)->stream>>>(out, pixels * N, N, (const float *)a->bias->data,
                                                                      a->residual ? (const float *)a->residual->data : NULL);
    return cuda_launched(be, "conv", e);
}

extern "C" int cuda_conv(backend *be, const conv_args *a, err *e)
{
    bool f32 = a->x->dtype == DT_F32 && a->w->dtype == DT_F32 && a->out->dtype == DT_F32;
    int rc = 0;
    if (!f32 && (a->x->dtype != DT_BF16 || a->w->dtype != DT_BF16 || (a->out->dtype != DT_BF16 && a->out->dtype != DT_F32) || a->bias->dtype != DT_F32 ||
        (a->residual && a->residual->dtype != DT_BF16) || (a->past && a->past->dtype != DT_BF16) || (a->before && a->before->dtype != DT_BF16)))
        return ERR(e, ERR_INTERNAL, "conv: the CUDA backend takes all of it in F32, or frames and weights in BF16 with a bias in F32; got x %s, w %s, out %s",
                   dtype_name(a->x->dtype), dtype_name(a->w->dtype), dtype_name(a->out->dtype));
    if (!f32 && conv_hopper_can(be, a))
        return conv_hopper(be, a, e);
    rc = f32 ? conv_f32(be, a, e) : conv_plain(be, a, e);
    return rc || !a->norm ? rc : cuda_pixel_norm(be, a->out, a->out, a->norm, a->act, e);
}
