/* dit_fixture: a small diffusion model of five blocks, with hint blocks of VACE where wanted, whose text rows fit the tiny text encoder.
 * Included by test programs only. */
#ifndef WANSCOPE_DIT_FIXTURE_H
#define WANSCOPE_DIT_FIXTURE_H

#include "tests/unit/weights_fixture.h"

enum { LAYERS = 5, DIM = 48, FFN = 80, HINTS = 3, VACE_IN = 16, TEXT = 8, TEXT_DIM = 24 };

static uint32_t state_of_noise;

static float noise(void)
{
    state_of_noise = state_of_noise * 1664525u + 1013904223u;
    return ((float)(state_of_noise >> 8) / 8388608.0f - 1.0f) * 0.2f;
}

static void put(fix *f, const char *name, dtype type, int64_t a, int64_t b, int64_t c)
{
    int64_t n = a * (b ? b : 1) * (c ? c : 1);
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = noise();
    fix_put(f, name, type, v, c ? 3 : b ? 2 : 1, (int64_t[]){ a, b, c });
    free(v);
}

static void put_linear(fix *f, const char *prefix, const char *name, dtype type, int64_t rows, int64_t cols)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    put(f, full, type, rows, cols, 0);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    put(f, full, DT_F32, rows, 0, 0);
}

/* types differ from block to block, so that a slot holds other offsets each time */
static void put_block(fix *f, const char *stack, int i, bool vace)
{
    static const char *const parts[] = { "self_attn", "cross_attn" }, *const lins[] = { "q", "k", "v", "o" };
    char p[64], full[160];
    dtype type = i % 3 == 0 ? DT_F32 : i % 3 == 1 ? DT_BF16 : DT_F16;
    snprintf(p, sizeof p, "%s.%d.", stack, i);
    for (int a = 0; a < 2; a++) {
        for (int k = 0; k < 4; k++) {
            snprintf(full, sizeof full, "%s.%s", parts[a], lins[k]);
            put_linear(f, p, full, type, DIM, DIM);
        }
        snprintf(full, sizeof full, "%s%s.norm_q.weight", p, parts[a]);
        put(f, full, DT_F32, DIM, 0, 0);
        snprintf(full, sizeof full, "%s%s.norm_k.weight", p, parts[a]);
        put(f, full, DT_F32, DIM, 0, 0);
    }
    snprintf(full, sizeof full, "%snorm3.weight", p);
    put(f, full, DT_F32, DIM, 0, 0);
    snprintf(full, sizeof full, "%snorm3.bias", p);
    put(f, full, DT_F32, DIM, 0, 0);
    put_linear(f, p, "ffn.0", type, FFN, DIM);
    put_linear(f, p, "ffn.2", type, DIM, FFN);
    snprintf(full, sizeof full, "%smodulation", p);
    put(f, full, DT_F32, 1, 6, DIM);
    if (vace)
        put_linear(f, p, "after_proj", type, DIM, DIM);
}

static void put_patches(fix *f, const char *name, int in)
{
    char full[80];
    float *v = malloc((size_t)DIM * (size_t)in * 4 * sizeof *v);
    for (int i = 0; i < DIM * in * 4; i++)
        v[i] = noise();
    snprintf(full, sizeof full, "%s.weight", name);
    FIX_PUT(f, full, DT_F32, v, DIM, in, 1, 2, 2);
    free(v);
    snprintf(full, sizeof full, "%s.bias", name);
    put(f, full, DT_F32, DIM, 0, 0);
}

static void make_model(const char *path, uint32_t seed, bool vace)
{
    fix *f = calloc(1, sizeof *f);
    state_of_noise = seed;
    put_patches(f, "patch_embedding", 16);
    put_linear(f, "", "text_embedding.0", DT_F32, DIM, TEXT_DIM);
    put_linear(f, "", "text_embedding.2", DT_F32, DIM, DIM);
    put_linear(f, "", "time_embedding.0", DT_F32, DIM, 32);
    put_linear(f, "", "time_embedding.2", DT_F32, DIM, DIM);
    put_linear(f, "", "time_projection.1", DT_F32, 6 * DIM, DIM);
    put_linear(f, "", "head.head", DT_F32, 64, DIM);
    put(f, "head.modulation", DT_F32, 1, 2, DIM);
    for (int i = 0; i < LAYERS; i++)
        put_block(f, "blocks", i, false);
    if (vace) {
        put_patches(f, "vace_patch_embedding", VACE_IN);
        put_linear(f, "vace_blocks.0.", "before_proj", DT_F32, DIM, DIM);
    }
    for (int i = 0; vace && i < HINTS; i++)
        put_block(f, "vace_blocks", i, true);
    fix_write(f, path);
    fix_release(f);
    free(f);
}

#endif
