#include "core/io/expect.h"

#include <stdio.h>

#define SHAPE(...) (const int64_t[]){ __VA_ARGS__ }

/* [out, in], perhaps 8-bit with a scale beside it */
static void matrix(ckpt_want *w, int64_t out, int64_t in, const char *prefix, const char *name)
{
    char scale[128];
    const ckpt_tensor *t = ckpt_want_tensor(w, 2, SHAPE(out, in), "%s%s.weight", prefix, name);
    snprintf(scale, sizeof scale, "%s%s.scale_weight", prefix, name);
    if (t && (t->dtype == DT_F8_E4M3 || t->dtype == DT_F8_E5M2))
        ckpt_want_optional(w, scale);
}

static void linear(ckpt_want *w, const char *prefix, const char *name, int64_t out, int64_t in)
{
    matrix(w, out, in, prefix, name);
    ckpt_want_tensor(w, 1, SHAPE(out), "%s%s.bias", prefix, name);
}

static void attention(ckpt_want *w, const char *prefix, const char *name, int64_t dim)
{
    static const char *const PROJECTIONS[] = { "q", "k", "v", "o" };
    char path[64];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s.%s", name, PROJECTIONS[i]);
        linear(w, prefix, path, dim, dim);
    }
    ckpt_want_tensor(w, 1, SHAPE(dim), "%s%s.norm_q.weight", prefix, name);
    ckpt_want_tensor(w, 1, SHAPE(dim), "%s%s.norm_k.weight", prefix, name);
}

static void dit_block(ckpt_want *w, const dit_config *cfg, const char *prefix)
{
    int64_t dim = cfg->dim, ffn = cfg->ffn_dim;
    ckpt_want_tensor(w, 3, SHAPE(1, 6, dim), "%smodulation", prefix);
    attention(w, prefix, "self_attn", dim);
    attention(w, prefix, "cross_attn", dim);
    ckpt_want_tensor(w, 1, SHAPE(dim), "%snorm3.weight", prefix);
    ckpt_want_tensor(w, 1, SHAPE(dim), "%snorm3.bias", prefix);
    linear(w, prefix, "ffn.0", ffn, dim);
    linear(w, prefix, "ffn.2", dim, ffn);
}

void expect_dit(ckpt_want *w, const dit_config *cfg)
{
    int64_t dim = cfg->dim;
    char prefix[64];
    ckpt_want_tensor(w, 5, SHAPE(dim, cfg->in_dim, 1, 2, 2), "patch_embedding.weight");
    ckpt_want_tensor(w, 1, SHAPE(dim), "patch_embedding.bias");
    linear(w, "", "text_embedding.0", dim, cfg->text_dim);
    linear(w, "", "text_embedding.2", dim, dim);
    linear(w, "", "time_embedding.0", dim, cfg->freq_dim);
    linear(w, "", "time_embedding.2", dim, dim);
    linear(w, "", "time_projection.1", 6 * dim, dim);
    for (int i = 0; i < cfg->num_layers; i++) {
        snprintf(prefix, sizeof prefix, "blocks.%d.", i);
        dit_block(w, cfg, prefix);
    }
    linear(w, "", "head.head", 4 * (int64_t)cfg->out_dim, dim);
    ckpt_want_tensor(w, 3, SHAPE(1, 2, dim), "head.modulation");
    if (cfg->has_shot_embedding)
        ckpt_want_tensor(w, 2, SHAPE(-1, dim), "shot_embedding.weight");
    if (!cfg->vace_in_dim)
        return;
    ckpt_want_tensor(w, 5, SHAPE(dim, cfg->vace_in_dim, 1, 2, 2), "vace_patch_embedding.weight");
    ckpt_want_tensor(w, 1, SHAPE(dim), "vace_patch_embedding.bias");
    for (int i = 0; i < cfg->n_vace_layers; i++) {
        snprintf(prefix, sizeof prefix, "vace_blocks.%d.", i);
        dit_block(w, cfg, prefix);
        if (i == 0)
            linear(w, prefix, "before_proj", dim, dim);
        linear(w, prefix, "after_proj", dim, dim);
    }
}

void expect_umt5(ckpt_want *w, const umt5_config *cfg)
{
    int64_t dim = cfg->dim, attn = cfg->dim_attn, ffn = cfg->dim_ffn;
    matrix(w, cfg->vocab_size, dim, "", "token_embedding");
    for (int i = 0; i < cfg->num_layers; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "blocks.%d.", i);
        ckpt_want_tensor(w, 1, SHAPE(dim), "blocks.%d.norm1.weight", i);
        matrix(w, attn, dim, prefix, "attn.q");
        matrix(w, attn, dim, prefix, "attn.k");
        matrix(w, attn, dim, prefix, "attn.v");
        matrix(w, dim, attn, prefix, "attn.o");
        matrix(w, cfg->num_buckets, cfg->num_heads, prefix, "pos_embedding.embedding");
        ckpt_want_tensor(w, 1, SHAPE(dim), "blocks.%d.norm2.weight", i);
        matrix(w, ffn, dim, prefix, "ffn.gate.0");
        matrix(w, ffn, dim, prefix, "ffn.fc1");
        matrix(w, dim, ffn, prefix, "ffn.fc2");
    }
    ckpt_want_tensor(w, 1, SHAPE(dim), "norm.weight");
}

static void conv3d(ckpt_want *w, const char *name, int64_t out, int64_t in, int64_t kt, int64_t ks)
{
    ckpt_want_tensor(w, 5, SHAPE(out, in, kt, ks, ks), "%s.weight", name);
    ckpt_want_tensor(w, 1, SHAPE(out), "%s.bias", name);
}

static void conv2d(ckpt_want *w, const char *name, int64_t out, int64_t in, int64_t ks)
{
    ckpt_want_tensor(w, 4, SHAPE(out, in, ks, ks), "%s.weight", name);
    ckpt_want_tensor(w, 1, SHAPE(out), "%s.bias", name);
}

static void residual(ckpt_want *w, const char *prefix, int64_t in, int64_t out)
{
    char name[96];
    ckpt_want_tensor(w, 4, SHAPE(in, 1, 1, 1), "%s.residual.0.gamma", prefix);
    snprintf(name, sizeof name, "%s.residual.2", prefix);
    conv3d(w, name, out, in, 3, 3);
    ckpt_want_tensor(w, 4, SHAPE(out, 1, 1, 1), "%s.residual.3.gamma", prefix);
    snprintf(name, sizeof name, "%s.residual.6", prefix);
    conv3d(w, name, out, out, 3, 3);
    if (in != out) {
        snprintf(name, sizeof name, "%s.shortcut", prefix);
        conv3d(w, name, out, in, 1, 1);
    }
}

static void middle(ckpt_want *w, const char *side, int64_t dim)
{
    char name[96];
    snprintf(name, sizeof name, "%s.middle.0", side);
    residual(w, name, dim, dim);
    ckpt_want_tensor(w, 3, SHAPE(dim, 1, 1), "%s.middle.1.norm.gamma", side);
    snprintf(name, sizeof name, "%s.middle.1.to_qkv", side);
    conv2d(w, name, 3 * dim, dim, 1);
    snprintf(name, sizeof name, "%s.middle.1.proj", side);
    conv2d(w, name, dim, dim, 1);
    snprintf(name, sizeof name, "%s.middle.2", side);
    residual(w, name, dim, dim);
}

void expect_vae(ckpt_want *w, const vae_config *cfg)
{
    char name[96];
    int64_t dim = cfg->dim, z = cfg->z_dim, in = dim, top = dim * cfg->mult[3];
    int k = 0;
    conv3d(w, "encoder.conv1", dim, 3, 3, 3);
    for (int stage = 0; stage < 4; stage++) {
        int64_t out = dim * cfg->mult[stage];
        for (int r = 0; r < cfg->num_res_blocks; r++, in = out) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", k++);
            residual(w, name, in, out);
        }
        if (stage == 3)
            break;
        snprintf(name, sizeof name, "encoder.downsamples.%d.resample.1", k);
        conv2d(w, name, out, out, 3);
        snprintf(name, sizeof name, "encoder.downsamples.%d.time_conv", k++);
        if (cfg->temporal_down[stage])
            conv3d(w, name, out, out, 3, 1);
    }
    middle(w, "encoder", top);
    ckpt_want_tensor(w, 4, SHAPE(top, 1, 1, 1), "encoder.head.0.gamma");
    conv3d(w, "encoder.head.2", 2 * z, top, 3, 3);
    conv3d(w, "conv1", 2 * z, 2 * z, 1, 1);
    conv3d(w, "conv2", z, z, 1, 1);

    conv3d(w, "decoder.conv1", top, z, 3, 3);
    middle(w, "decoder", top);
    in = top;
    k = 0;
    for (int stage = 0; stage < 4; stage++) {
        int64_t out = dim * cfg->mult[3 - stage];
        for (int r = 0; r <= cfg->num_res_blocks; r++, in = out) {
            snprintf(name, sizeof name, "decoder.upsamples.%d", k++);
            residual(w, name, in, out);
        }
        if (stage == 3)
            break;
        snprintf(name, sizeof name, "decoder.upsamples.%d.resample.1", k);
        conv2d(w, name, out / 2, out, 3);           /* the resampling halves the channels */
        snprintf(name, sizeof name, "decoder.upsamples.%d.time_conv", k++);
        if (cfg->temporal_down[2 - stage])
            conv3d(w, name, 2 * out, out, 3, 1);
        in = out / 2;
    }
    ckpt_want_tensor(w, 4, SHAPE(in, 1, 1, 1), "decoder.head.0.gamma");
    conv3d(w, "decoder.head.2", 3, in, 3, 3);
}
