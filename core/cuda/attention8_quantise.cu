/* q, k and v to 8 bits for attention8_hopper.cu (core/attention8.h has the forms). Floor: each is read once more than it must be, because the mean
 * of the keys and the factors of the values are known only after all rows. NaN and infinity make NaN of every output they touch. */
#include <cuda_fp8.h>

#include "core/cuda/attention8.cuh"

typedef __nv_bfloat16 bf16;

enum { D = ATTN8_HEAD, COLUMNS = 512, LANES = 4, RUN = 8 };      /* columns of a block of `part_rows`, rows it reads at a time, columns a thread */

/* the larger, or NaN if either is */
__device__ static float max_nan(float a, float b)
{
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
}

/* part[chunk] = sum of k and largest |v| of every column over its rows */
__global__ static void __launch_bounds__(256) part_rows(float *part, const bf16 *k, const bf16 *v, int64_t n, int64_t width)
{
    __shared__ float shared[LANES][2][COLUMNS];
    int lane = threadIdx.x / (COLUMNS / RUN), at = threadIdx.x % (COLUMNS / RUN) * RUN;
    int64_t column = (int64_t)blockIdx.x * COLUMNS + at, first = (int64_t)blockIdx.y * ATTN8_CHUNK, end = first + ATTN8_CHUNK < n ? first + ATTN8_CHUNK : n;
    float sum[RUN] = { 0 }, most[RUN] = { 0 };
    if (column < width)
        for (int64_t row = first + lane; row < end; row += LANES) {
            float x[RUN], y[RUN];
            load_run<RUN>(x, k + row * width + column);
            load_run<RUN>(y, v + row * width + column);
#pragma unroll
            for (int i = 0; i < RUN; i++) {
                sum[i] += x[i];
                most[i] = max_nan(most[i], fabsf(y[i]));
            }
        }
#pragma unroll
    for (int i = 0; i < RUN; i++) {
        shared[lane][0][at + i] = sum[i];
        shared[lane][1][at + i] = most[i];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < COLUMNS && (int64_t)blockIdx.x * COLUMNS + c < width; c += blockDim.x) {
        float s = 0, m = 0;
        for (int l = 0; l < LANES; l++) {
            s += shared[l][0][c];
            m = max_nan(m, shared[l][1][c]);
        }
        float *to = part + (int64_t)blockIdx.y * 2 * width + (int64_t)blockIdx.x * COLUMNS + c;
        to[0] = s;
        to[width] = m;
    }
}

__global__ static void __launch_bounds__(128) join_parts(float *mean, float *v_scale, const float *part, int64_t chunks, int64_t n, int64_t width)
{
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    float s = 0, m = 0;
    if (column >= width)
        return;
    for (int64_t i = 0; i < chunks; i++) {
        s += part[i * 2 * width + column];
        m = max_nan(m, part[i * 2 * width + width + column]);
    }
    mean[column] = s / (float)n;
    v_scale[column] = m == 0 ? 1.0f : m / 448.0f;
}

__device__ static uint32_t int8_four(float a, float b, float c, float d)
{
    return (uint32_t)(__float2int_rn(a) & 255) | (uint32_t)(__float2int_rn(b) & 255) << 8 | (uint32_t)(__float2int_rn(c) & 255) << 16 |
           (uint32_t)(__float2int_rn(d) & 255) << 24;
}

/* a warp a query and head */
__global__ static void __launch_bounds__(256) quantise_q(int8_t *out, float *scale, const bf16 *q, int64_t n, int heads, float c)
{
    int64_t i = (int64_t)blockIdx.x * 8 + threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (i >= n * heads)
        return;
    int64_t row = i / heads;
    int head = (int)(i % heads);
    uint2 raw = *(const uint2 *)(q + i * D + 4 * lane);      /* [row][head][channel] */
    float2 a = __bfloat1622float2(*(const __nv_bfloat162 *)&raw.x), b = __bfloat1622float2(*(const __nv_bfloat162 *)&raw.y);
    float most = max_nan(max_nan(fabsf(a.x), fabsf(a.y)), max_nan(fabsf(b.x), fabsf(b.y)));
#pragma unroll
    for (int o = 16; o; o >>= 1)
        most = max_nan(most, __shfl_xor_sync(0xffffffffu, most, o));
    float s = most == 0 ? 1.0f : most / 127.0f, inverse = 1.0f / s;
    *(uint32_t *)(out + i * D + 4 * lane) = int8_four(a.x * inverse, a.y * inverse, b.x * inverse, b.y * inverse);
    if (lane == 0)
        scale[head * n + row] = s * c;
}

/* a block of 128 keys of one head; two threads a key */
__global__ static void __launch_bounds__(256) quantise_k(int8_t *out, float *scale, const bf16 *k, const float *mean, int64_t n, int heads)
{
    __shared__ float row_max[ATTN8_BLOCK], factor[4];
    int r = threadIdx.x / 2, half = threadIdx.x % 2, head = blockIdx.y;
    int64_t row = (int64_t)blockIdx.x * ATTN8_BLOCK + r, width = (int64_t)heads * D, at = row * width + head * D + 64 * half;
    const float *m = mean + head * D + 64 * half;
    float x[64], most = 0;
    if (row < n) {
        load_run<64>(x, k + at);
#pragma unroll
        for (int i = 0; i < 64; i++) {
            x[i] -= __ldg(m + i);
            most = max_nan(most, fabsf(x[i]));
        }
    }
    most = max_nan(most, __shfl_xor_sync(0xffffffffu, most, 1));
    if (half == 0)
        row_max[r] = most;
    __syncthreads();
    if (threadIdx.x < 4) {
        float all = 0;
        for (int j = 0; j < ATTN8_BLOCK; j++)
            if (j % 8 / 2 == (int)threadIdx.x)
                all = max_nan(all, row_max[j]);
        factor[threadIdx.x] = all == 0 ? 1.0f : all / 127.0f;
        scale[((int64_t)head * gridDim.x + blockIdx.x) * 4 + threadIdx.x] = factor[threadIdx.x];
    }
    __syncthreads();
    if (row >= n)
        return;
    float inverse = 1.0f / factor[r % 8 / 2];
#pragma unroll
    for (int i = 0; i < 64; i += 16) {
        uint4 packed;
        packed.x = int8_four(x[i] * inverse, x[i + 1] * inverse, x[i + 2] * inverse, x[i + 3] * inverse);
        packed.y = int8_four(x[i + 4] * inverse, x[i + 5] * inverse, x[i + 6] * inverse, x[i + 7] * inverse);
        packed.z = int8_four(x[i + 8] * inverse, x[i + 9] * inverse, x[i + 10] * inverse, x[i + 11] * inverse);
        packed.w = int8_four(x[i + 12] * inverse, x[i + 13] * inverse, x[i + 14] * inverse, x[i + 15] * inverse);
        *(uint4 *)(out + at + i) = packed;
    }
}

/* a block of 128 keys of one head, turned through shared memory: key in, channel out */
__global__ static void __launch_bounds__(256) quantise_v(uint8_t *out, const float *scale, const bf16 *v, int64_t n, int heads, int64_t padded)
{
    __shared__ uint8_t turned[D][ATTN8_BLOCK + 4];
    int r = threadIdx.x / 2, half = threadIdx.x % 2, head = blockIdx.y;
    int64_t row = (int64_t)blockIdx.x * ATTN8_BLOCK + r, width = (int64_t)heads * D;
    int within = r % 16, place = r - within + (within % 8 / 2) * 4 + within / 8 * 2 + within % 2;      /* the inverse of ORDER */
    const float *s = scale + head * D + 64 * half;
#pragma unroll
    for (int i = 0; i < 64; i += RUN) {
        float x[RUN] = { 0 };
        if (row < n)
            load_run<RUN>(x, v + row * width + head * D + 64 * half + i);
#pragma unroll
        for (int j = 0; j < RUN; j++)
            turned[64 * half + i + j][place] = (uint8_t)__nv_cvt_float_to_fp8(x[j] / __ldg(s + i + j), __NV_SATFINITE, __NV_E4M3);
    }
    __syncthreads();
    int channel = threadIdx.x / 2;
    uint8_t *to = out + ((int64_t)head * D + channel) * padded + (int64_t)blockIdx.x * ATTN8_BLOCK + 64 * half;
#pragma unroll
    for (int i = 0; i < 64; i += 16) {
        const uint32_t *from = (const uint32_t *)&turned[channel][64 * half + i];
        *(uint4 *)(to + i) = make_uint4(from[0], from[1], from[2], from[3]);
    }
}

int attn8_quantise(backend *be, const attn8 *t, const attn_args *a, err *e)
{
    int64_t width = (int64_t)t->heads * D;
    cudaStream_t s = impl(be)->stream;
    const bf16 *q = (const bf16 *)a->q->data, *k = (const bf16 *)a->k->data, *v = (const bf16 *)a->v->data;
    dim3 tiles((unsigned)t->blocks, (unsigned)t->heads);
    part_rows<<<dim3(blocks_for(width, COLUMNS), (unsigned)t->chunks), 256, 0, s>>>(t->part, k, v, t->n_k, width);
    join_parts<<<blocks_for(width, 128), 128, 0, s>>>(t->k_mean, t->v_scale, t->part, t->chunks, t->n_k, width);
    quantise_q<<<blocks_for(t->n_q * t->heads, 8), 256, 0, s>>>(t->q, t->q_scale, q, t->n_q, t->heads, (float)((double)a->scale * 1.4426950408889634));
    quantise_k<<<tiles, 256, 0, s>>>(t->k, t->k_scale, k, t->k_mean, t->n_k, t->heads);
    quantise_v<<<tiles, 256, 0, s>>>(t->v, t->v_scale, v, t->n_k, t->heads, t->padded);
    return cuda_launched(be, "attention in 8 bits", e);
}
