/* PyTorch's noise. Every rounding is written down: fma where the upstream binary fuses, separate operations elsewhere
 * (the build has -ffp-contract=off, so nothing fuses by itself). */
#include "core/sample/rng.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

#include "core/base/str.h"

#define MT_MIDDLE 397
#define INV_2_24 (1.0f / 16777216.0f)
#define INV_2_53 (1.0 / 9007199254740992.0)
#define TWO_PI 6.283185307179586476925286766559

/* ---- mt19937 ---------------------------------------------------------------------------------------------------- */

void rng_cpu_seed(rng_cpu *g, uint64_t seed)
{
    g->state[0] = (uint32_t)seed;
    for (uint32_t j = 1; j < RNG_MT_WORDS; j++)
        g->state[j] = 1812433253u * (g->state[j - 1] ^ (g->state[j - 1] >> 30)) + j;
    g->next = RNG_MT_WORDS;
    g->has_cached = false;
    g->cached = 0.0;
}

static uint32_t mt_twist(uint32_t high, uint32_t low, uint32_t far)
{
    uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return far ^ (y >> 1) ^ ((low & 1u) ? 0x9908b0dfu : 0u);
}

static void mt_refill(rng_cpu *g)
{
    uint32_t *s = g->state;
    int i = 0;
    for (; i < RNG_MT_WORDS - MT_MIDDLE; i++)
        s[i] = mt_twist(s[i], s[i + 1], s[i + MT_MIDDLE]);
    for (; i < RNG_MT_WORDS - 1; i++)
        s[i] = mt_twist(s[i], s[i + 1], s[i + MT_MIDDLE - RNG_MT_WORDS]);
    s[i] = mt_twist(s[i], s[0], s[MT_MIDDLE - 1]);
    g->next = 0;
}

uint32_t rng_cpu_u32(rng_cpu *g)
{
    if (g->next >= RNG_MT_WORDS)
        mt_refill(g);
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

static float uniform_24(rng_cpu *g)
{
    return (float)(rng_cpu_u32(g) & 0xffffffu) * INV_2_24;
}

static double uniform_53(rng_cpu *g)
{
    uint64_t high = rng_cpu_u32(g);
    uint64_t r = high << 32 | rng_cpu_u32(g);
    return (double)(r & ((UINT64_C(1) << 53) - 1)) * INV_2_53;
}

/* ---- n >= 16: float32 polynomials ------------------------------------------------------------------------------- */

/* ln x for x in (0, 1], as log256_ps of aten/src/ATen/native/cpu/avx_mathfun.h computes it. */
static inline __attribute__((always_inline)) float poly_log(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    float exponent = (float)((int)(bits >> 23) - 126);
    bits = (bits & 0x007fffffu) | 0x3f000000u;
    float m;
    memcpy(&m, &bits, sizeof m);

    float f = m - 1.0f;
    if (m < 0.707106781186547524f) {
        exponent -= 1.0f;
        f += m;
    }
    float z = f * f;
    float y = 7.0376836292e-2f;
    y = __builtin_fmaf(y, f, -1.1514610310e-1f);
    y = __builtin_fmaf(y, f, 1.1676998740e-1f);
    y = __builtin_fmaf(y, f, -1.2420140846e-1f);
    y = __builtin_fmaf(y, f, 1.4249322787e-1f);
    y = __builtin_fmaf(y, f, -1.6668057665e-1f);
    y = __builtin_fmaf(y, f, 2.0000714765e-1f);
    y = __builtin_fmaf(y, f, -2.4999993993e-1f);
    y = __builtin_fmaf(y, f, 3.3333331174e-1f);
    y = y * f;
    float correction = exponent * -2.12194440e-4f;      /* rounded on its own, not fused */
    y = __builtin_fmaf(y, z, correction);
    y = __builtin_fmaf(-z, 0.5f, y);
    f = f + y;
    return __builtin_fmaf(exponent, 0.693359375f, f);
}

/* sin and cos for theta >= 0, as sincos256_ps. */
static inline __attribute__((always_inline)) void poly_sincos(float theta, float *sine, float *cosine)
{
    int j = (int)(theta * 1.27323954473516f);
    j = (j + 1) & ~1;
    float y = (float)j;
    float r = __builtin_fmaf(y, -0.78515625f, theta);
    r = __builtin_fmaf(y, -2.4187564849853515625e-4f, r);
    r = __builtin_fmaf(y, -3.77489497744594108e-8f, r);
    float z = r * r;

    float c = 2.443315711809948e-5f;
    c = __builtin_fmaf(c, z, -1.388731625493765e-3f);
    c = __builtin_fmaf(c, z, 4.166664568298827e-2f);
    c = c * z;
    c = c * z;
    c = __builtin_fmaf(-z, 0.5f, c);
    c = c + 1.0f;

    float s = -1.9515295891e-4f;
    s = __builtin_fmaf(s, z, 8.3321608736e-3f);
    s = __builtin_fmaf(s, z, -1.6666654611e-1f);
    s = s * z;
    s = __builtin_fmaf(s, r, r);

    bool swap = (j & 2) != 0;
    float out_s = swap ? c : s, out_c = swap ? s : c;
    *sine = (j & 4) ? -out_s : out_s;
    *cosine = ((j - 2) & 4) ? out_c : -out_c;
}

/* 16 uniforms in place to 16 normals: the first eight are radii, the last eight angles. */
static inline __attribute__((always_inline)) void box_muller_16(float *d)
{
    for (int j = 0; j < 8; j++) {
        float u1 = 1.0f - d[j], u2 = d[j + 8], s, c;
        float radius = sqrtf(-2.0f * poly_log(u1));
        poly_sincos(6.283185307179586f * u2, &s, &c);
        d[j] = radius * c;
        d[j + 8] = radius * s;
    }
}

static inline __attribute__((always_inline)) void transform_blocks(float *d, int64_t blocks)
{
    for (int64_t b = 0; b < blocks; b++)
        box_muller_16(d + b * 16);
}

static void transform_generic(float *d, int64_t blocks)
{
    transform_blocks(d, blocks);    /* fmaf of the C library where the target has no such instruction: exact, slower */
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("fma"))) static void transform_fma(float *d, int64_t blocks)
{
    transform_blocks(d, blocks);
}

static void transform(float *d, int64_t blocks)
{
    if (__builtin_cpu_supports("fma"))
        transform_fma(d, blocks);
    else
        transform_generic(d, blocks);
}
#else
static void transform(float *d, int64_t blocks)
{
    transform_generic(d, blocks);
}
#endif

/* ---- n < 16: double Box-Muller, two values at a time ------------------------------------------------------------ */

static double normal_double(rng_cpu *g)
{
    if (g->has_cached) {
        g->has_cached = false;
        return g->cached;
    }
    double u1 = uniform_53(g), u2 = uniform_53(g);
    double radius = sqrt(-2.0 * log1p(-u2)), theta = TWO_PI * u1;
    g->cached = radius * sin(theta);
    g->has_cached = true;
    return radius * cos(theta);
}

void rng_cpu_normal(rng_cpu *g, float *out, int64_t n)
{
    if (n < 16) {
        for (int64_t i = 0; i < n; i++)
            out[i] = (float)normal_double(g);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = uniform_24(g);
    transform(out, n / 16);
    if (n % 16) {                       /* the last 16 places are drawn anew, over the end of the previous block */
        float *tail = out + (n - 16);
        for (int i = 0; i < 16; i++)
            tail[i] = uniform_24(g);
        transform(tail, 1);
    }
}

/* ---- CUDA ------------------------------------------------------------------------------------------------------- */

#define CUDA_BLOCK 256
#define CUDA_UNROLL 4                   /* values a thread takes from one Philox block */

void rng_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* cuRAND's float Box-Muller: the sine comes first. */
static void curand_pair(uint32_t a, uint32_t b, float *first, float *second)
{
    const float inv = 2.3283064e-10f, inv_2pi = 2.3283064e-10f * 6.2831855f;
    float u = (float)a * inv + inv / 2.0f;
    float v = (float)b * inv_2pi + inv_2pi / 2.0f;
    float s = sqrtf(-2.0f * logf(u));
    *first = s * sinf(v);
    *second = s * cosf(v);
}

int rng_cuda_geometry(int64_t *threads, int64_t *calls, uint64_t offset, int sms, int threads_per_sm, int64_t n, err *e)
{
    *threads = *calls = 0;
    if (n < 0)
        return ERR(e, ERR_ARG, "CUDA noise: asked for %lld values, expected zero or more", (long long)n);
    if (sms < 1 || threads_per_sm < CUDA_BLOCK)
        return ERR(e, ERR_ARG, "CUDA noise: a GPU with %d multiprocessors of %d threads is impossible, expected at "
                   "least 1 and %d; an H100 SXM has 132 and 2048", sms, threads_per_sm, CUDA_BLOCK);
    if (offset % 4)
        return ERR(e, ERR_ARG, "CUDA noise: the generator's offset is %llu, expected a multiple of 4",
                   (unsigned long long)offset);
    if (n == 0)
        return 0;
    int64_t grid_max = (int64_t)sms * (threads_per_sm / CUDA_BLOCK);
    int64_t grid = (n - 1) / CUDA_BLOCK + 1;
    if (grid > grid_max)
        grid = grid_max;
    *threads = grid * CUDA_BLOCK;
    *calls = (n - 1) / (*threads * CUDA_UNROLL) + 1;
    return 0;
}

int rng_cuda_normal(uint64_t seed, uint64_t *offset, int sms, int threads_per_sm, float *out, int64_t n, err *e)
{
    int64_t threads, calls;                                  /* element i belongs to thread i mod threads */
    int rc = rng_cuda_geometry(&threads, &calls, *offset, sms, threads_per_sm, n, e);
    if (rc || n == 0)
        return rc;
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };

    for (int64_t k = 0; k < calls; k++) {
        uint64_t block = (uint64_t)k + *offset / 4;
        float *row = out + k * threads * CUDA_UNROLL;        /* component w of all threads lies at row + w * threads */
        int64_t left = n - k * threads * CUDA_UNROLL;
        int64_t active = left < threads ? left : threads;
        for (int64_t p = 0; p < active; p++) {
            const uint32_t counter[4] = { (uint32_t)block, (uint32_t)(block >> 32), (uint32_t)p,
                                          (uint32_t)((uint64_t)p >> 32) };
            uint32_t r[4];
            float a, b;
            rng_philox(counter, key, r);
            curand_pair(r[0], r[1], &a, &b);
            row[p] = a;
            if (p + threads < left)
                row[p + threads] = b;
            if (p + 2 * threads < left) {
                curand_pair(r[2], r[3], &a, &b);
                row[p + 2 * threads] = a;
                if (p + 3 * threads < left)
                    row[p + 3 * threads] = b;
            }
        }
    }
    *offset += (uint64_t)calls * 4;
    return 0;
}

/* ---- launch geometry -------------------------------------------------------------------------------------------- */

static const rng_gpu GPUS[] = {
    { "h200", 132, 2048 },      { "h100", 132, 2048 },      { "h100-pcie", 114, 2048 }, { "b200", 148, 2048 },
    { "a100", 108, 2048 },      { "v100", 80, 2048 },       { "t4", 40, 1024 },         { "l4", 58, 1536 },
    { "l40s", 142, 1536 },      { "l40", 142, 1536 },       { "a40", 84, 1536 },        { "a10", 72, 1536 },
    { "rtx-a6000", 84, 1536 },  { "rtx-6000-ada", 142, 1536 }, { "rtx-5090", 170, 1536 }, { "rtx-4090", 128, 1536 },
    { "rtx-4080", 76, 1536 },   { "rtx-3090", 82, 1536 },   { "rtx-3090-ti", 84, 1536 }, { "rtx-3080", 68, 1536 },
};

const rng_gpu *rng_gpus(size_t *n)
{
    *n = sizeof GPUS / sizeof GPUS[0];
    return GPUS;
}

/* Letters and digits in lower case, without the maker's words in front. */
static void plain_name(char out[64], const char *name)
{
    size_t n = 0;
    for (; *name && n < 63; name++)
        if (isalnum((unsigned char)*name))
            out[n++] = (char)tolower((unsigned char)*name);
    out[n] = '\0';
    const char *makers[] = { "nvidia", "geforce" };
    for (int i = 0; i < 2; i++)
        if (str_starts_with(out, makers[i]))
            memmove(out, out + strlen(makers[i]), strlen(out) - strlen(makers[i]) + 1);
}

int rng_gpu_find(const rng_gpu **out, const char *name, err *e)
{
    char want[64], have[64];
    const size_t n = sizeof GPUS / sizeof GPUS[0];
    *out = NULL;
    plain_name(want, name);
    for (size_t i = 0; i < n; i++) {
        plain_name(have, GPUS[i].name);
        if (strcmp(want, have) == 0) {
            *out = &GPUS[i];
            return 0;
        }
    }
    str names = STR_INIT;
    for (size_t i = 0; i < n; i++)
        str_addf(&names, "%s%s", i ? ", " : "", GPUS[i].name);
    int rc = ERR(e, ERR_CONFIG, "noise: no GPU named '%s' is known, expected one of: %s; for another one give its "
                 "number of multiprocessors and threads per multiprocessor", name, str_text(&names));
    str_release(&names);
    return rc;
}
