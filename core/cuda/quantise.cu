/* Rows in e4m3 with a factor each, for 8-bit products. The factor takes the largest magnitude of the row to 448, the largest e4m3 value. */
#include <cuda_fp8.h>

#include "core/cuda/cuda.cuh"

typedef __nv_bfloat16 bf16;

/* threads of a block, values a thread takes at a time */
enum { THREADS = 256, RUN = 8 };

static __device__ __constant__ const float LARGEST = 448.0f;

__device__ static float block_max(float v, float *shared)
{
    v = warp_max(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    float m = 0;
    for (int i = 0; i < (int)blockDim.x / 32; i++)
        m = fmaxf(m, shared[i]);
    return m;
}

__device__ static unsigned char e4m3(float v)
{
    return (unsigned char)__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

/* any width */
template <class T>
__global__ static void rows_loop(unsigned char *out, float *scale, const T *x, int64_t width)
{
    __shared__ float shared[32];
    const T *in = x + blockIdx.x * width;
    float most = 0;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
        most = fmaxf(most, fabsf(to_f(in[i])));
    most = block_max(most, shared);
    float s = most > 0 ? most / LARGEST : 1.0f, inverse = 1.0f / s;
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x)
        out[blockIdx.x * width + i] = e4m3(to_f(in[i]) * inverse);
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
}

/* multiples of 8: a row stays in registers between finding its largest value and rounding it */
template <class T, int PIECES>
__global__ static void __launch_bounds__(512) rows_kept(unsigned char *out, float *scale, const T *x, int64_t width)
{
    __shared__ float shared[32];
    const T *in = x + blockIdx.x * width;
    float v[PIECES][RUN], most = 0;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int64_t at = ((int64_t)p * blockDim.x + threadIdx.x) * RUN;
        if (at < width) {
            load_run<RUN>(v[p], in + at);
#pragma unroll
            for (int i = 0; i < RUN; i++)
                most = fmaxf(most, fabsf(v[p][i]));
        }
    }
    most = block_max(most, shared);
    float s = most > 0 ? most / LARGEST : 1.0f, inverse = 1.0f / s;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
        int64_t at = ((int64_t)p * blockDim.x + threadIdx.x) * RUN;
        if (at < width) {
            uint2 packed;
            __nv_fp8x2_storage_t *two = (__nv_fp8x2_storage_t *)&packed;
#pragma unroll
            for (int i = 0; i < RUN; i += 2)
                two[i / 2] = __nv_cvt_float2_to_fp8x2(make_float2(v[p][i] * inverse, v[p][i + 1] * inverse), __NV_SATFINITE, __NV_E4M3);
            *(uint2 *)(out + blockIdx.x * width + at) = packed;
        }
    }
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
}

template <class T>
static void launch(backend *be, tensor *out, const tensor *x)
{
    int64_t rows = tensor_nrows(x), width = tensor_cols(x), runs = width / RUN;
    unsigned char *o = (unsigned char *)out->data;
    const T *in = (const T *)x->data;
    bool kept = width % RUN == 0 && runs <= 4 * 512 && ((uintptr_t)o % 8 | (uintptr_t)in % 16) == 0;
    int pieces = runs <= 512 ? 1 : runs <= 1024 ? 2 : 4, threads = (int)(((runs + pieces - 1) / pieces + 31) / 32 * 32);
    cudaStream_t s = impl(be)->stream;
    if (!kept)
        rows_loop<T><<<blocks_for(rows, 1), THREADS, 0, s>>>(o, out->scale, in, width);
    else if (pieces == 1)
        rows_kept<T, 1><<<blocks_for(rows, 1), threads, 0, s>>>(o, out->scale, in, width);
    else if (pieces == 2)
        rows_kept<T, 2><<<blocks_for(rows, 1), threads, 0, s>>>(o, out->scale, in, width);
    else
        rows_kept<T, 4><<<blocks_for(rows, 1), threads, 0, s>>>(o, out->scale, in, width);
}

extern "C" int cuda_quantise(backend *be, tensor *out, const tensor *x, err *e)
{
    if (!tensor_nrows(x))
        return 0;
    if (x->dtype == DT_BF16)
        launch<bf16>(be, out, x);
    else if (x->dtype == DT_F32)
        launch<float>(be, out, x);
    else
        return ERR(e, ERR_INTERNAL, "quantise: no kernel for %s", dtype_name(x->dtype));
    return cuda_launched(be, "quantise", e);
}
