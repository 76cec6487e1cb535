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
#pragma unroll 4
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

/* 32 columns a block; each of eight warps takes a run of the chunks, and the runs are joined in order */
__global__ static void __launch_bounds__(256) join_parts(float *mean, float *v_scale, const float *part, int64_t chunks, int64_t n, int64_t width)
{
    __shared__ float shared[8][2][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t column = (int64_t)blockIdx.x * 32 + lane, end = chunks * (warp + 1) / 8;
    float s = 0, m = 0;
#pragma unroll 8
    for (int64_t i = chunks * warp / 8; i < end; i++) {
        s += part[i * 2 * width + column];
        m = max_nan(m, part[i * 2 * width + width + column]);
    }
    shared[warp][0][lane] = s;
    shared[warp][1][lane] = m;
    __syncthreads();
    if (warp)
        return;
    for (int w = 1; w < 8; w++) {
        s += shared[w][0][lane];
        m = max_nan(m, shared[w][1][lane]);
    }
    mean[column] = s / (float)n;
    v_scale[column] = m == 0 ? 1.0f : m / 448.0f;
}

/* eight values times a factor, rounded to int8 */
__device__ static uint2 int8_run(const float (&x)[RUN], float factor)
{
    uint32_t half[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float *v = x + 4 * h;
        half[h] = (uint32_t)(__float2int_rn(v[0] * factor) & 255) | (uint32_t)(__float2int_rn(v[1] * factor) & 255) << 8 |
                  (uint32_t)(__float2int_rn(v[2] * factor) & 255) << 16 | (uint32_t)(__float2int_rn(v[3] * factor) & 255) << 24;
    }
    return make_uint2(half[0], half[1]);
}

/* sixteen lanes a query and head */
__global__ static void __launch_bounds__(256) quantise_q(int8_t *out, float *scale, const bf16 *q, int64_t n, int heads, float c)
{
    int64_t i = (int64_t)blockIdx.x * 16 + threadIdx.x / 16;
    int lane = threadIdx.x % 16;
    bool there = i < n * heads;
    float x[RUN] = { 0 }, most = 0;
    if (there)
        load_run<RUN>(x, q + i * D + RUN * lane);      /* [row][head][channel] */
#pragma unroll
    for (int j = 0; j < RUN; j++)
        most = max_nan(most, fabsf(x[j]));
#pragma unroll
    for (int o = 8; o; o >>= 1)
        most = max_nan(most, __shfl_xor_sync(0xffffffffu, most, o));
    float s = most == 0 ? 1.0f : most / 127.0f;
    if (!there)
        return;
    *(uint2 *)(out + i * D + RUN * lane) = int8_run(x, 1.0f / s);
    if (lane == 0)
        scale[i % heads * n + i / heads] = s * c;
}

/* A block of 128 keys of one head. Thread (y, lane) of 16 x 16 has eight channels of keys y, y + 16, ..: they share a factor with those of
 * y + 1 (y even) and y + 8. */
__global__ static void __launch_bounds__(256) quantise_k(int8_t *out, float *scale, const bf16 *k, const float *mean, int64_t n, int heads)
{
    __shared__ float largest[16];
    int y = threadIdx.x / 16, lane = threadIdx.x % 16, group = y % 8 / 2, head = blockIdx.y;
    int64_t first = (int64_t)blockIdx.x * ATTN8_BLOCK + y, width = (int64_t)heads * D, at = first * width + head * D + RUN * lane;
    float x[ATTN8_BLOCK / 16][RUN], m[RUN], most = 0;
    load_run<RUN>(m, mean + head * D + RUN * lane);
#pragma unroll
    for (int i = 0; i < ATTN8_BLOCK / 16; i++)
        if (first + 16 * i < n)
            load_run<RUN>(x[i], k + at + 16 * i * width);
#pragma unroll
    for (int i = 0; i < ATTN8_BLOCK / 16; i++)
        if (first + 16 * i < n)
#pragma unroll
            for (int j = 0; j < RUN; j++) {
                x[i][j] -= m[j];
                most = max_nan(most, fabsf(x[i][j]));
            }
#pragma unroll
    for (int o = 8; o; o >>= 1)
        most = max_nan(most, __shfl_xor_sync(0xffffffffu, most, o));
    if (lane == 0)
        largest[y] = most;
    __syncthreads();
    most = max_nan(max_nan(largest[2 * group], largest[2 * group + 1]), max_nan(largest[2 * group + 8], largest[2 * group + 9]));
    const float factor = most == 0 ? 1.0f : most / 127.0f, inverse = 1.0f / factor;
    if (lane == 0 && y < 8 && y % 2 == 0)
        scale[((int64_t)head * gridDim.x + blockIdx.x) * 4 + group] = factor;
#pragma unroll
    for (int i = 0; i < ATTN8_BLOCK / 16; i++)
        if (first + 16 * i < n)
            *(uint2 *)(out + at + 16 * i * width) = int8_run(x[i], inverse);
}

/* a block of 128 keys of one head, turned through shared memory: key in, channel out */
__global__ static void __launch_bounds__(256) quantise_v(uint8_t *out, const float *scale, const bf16 *v, int64_t n, int heads, int64_t padded)
{
    __shared__ uint8_t turned[D][ATTN8_BLOCK + 4];
    int y = threadIdx.x / 16, lane = threadIdx.x % 16, head = blockIdx.y, place = y % 8 * 2 + y / 8;      /* of the sixteen, as attention8.h has it */
    int64_t first = (int64_t)blockIdx.x * ATTN8_BLOCK + y, width = (int64_t)heads * D;
    float x[ATTN8_BLOCK / 16][RUN], inverse[RUN];
    load_run<RUN>(inverse, scale + head * D + RUN * lane);
#pragma unroll
    for (int j = 0; j < RUN; j++)
        inverse[j] = 1.0f / inverse[j];
#pragma unroll
    for (int i = 0; i < ATTN8_BLOCK / 16; i++)
        if (first + 16 * i < n)
            load_run<RUN>(x[i], v + (first + 16 * i) * width + head * D + RUN * lane);
#pragma unroll
    for (int i = 0; i < ATTN8_BLOCK / 16; i++)
#pragma unroll
        for (int j = 0; j < RUN; j++)
            turned[RUN * lane + j][16 * i + place] =
                first + 16 * i < n ? (uint8_t)__nv_cvt_float_to_fp8(x[i][j] * inverse[j], __NV_SATFINITE, __NV_E4M3) : (uint8_t)0;
    __syncthreads();
    int channel = threadIdx.x / 2, half = threadIdx.x % 2;
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
    join_parts<<<blocks_for(width, 32), 256, 0, s>>>(t->k_mean, t->v_scale, t->part, t->chunks, t->n_k, width);
    quantise_q<<<blocks_for(t->n_q * t->heads, 16), 256, 0, s>>>(t->q, t->q_scale, q, t->n_q, t->heads, (float)((double)a->scale * 1.4426950408889634));
    quantise_k<<<tiles, 256, 0, s>>>(t->k, t->k_scale, k, t->k_mean, t->n_k, t->heads);
    quantise_v<<<tiles, 256, 0, s>>>(t->v, t->v_scale, v, t->n_k, t->heads, t->padded);
    return cuda_launched(be, "attention in 8 bits", e);
}
