/* What an umT5 or VAE checkpoint is, read from its shapes (wan-engine.md 2.6, 6.1, appendix A). */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/dit/dit_config.h"

enum { MAX_DIM = 1 << 24 };

/* One dimension of a tensor that must be there; the whole sentence otherwise. */
static int read_dim(int *out, const ckpt *c, const char *what, const char *name, int ndim, int axis, err *e)
{
    const ckpt_tensor *t = ckpt_find(c, name);
    if (!t)
        return ERR(e, ERR_SHAPE, "%s: this is not %s: the tensor '%s' is missing", ckpt_path(c), what, name);
    if (t->ndim != ndim)
        return ERR(e, ERR_SHAPE, "%s: tensor '%s' has %d dimensions, expected %d", ckpt_path(c), name, t->ndim, ndim);
    if (t->shape[axis] < 1 || t->shape[axis] > MAX_DIM)
        return ERR(e, ERR_SHAPE, "%s: tensor '%s': dimension %d is %" PRId64 ", which is no sensible size",
                   ckpt_path(c), name, axis, t->shape[axis]);
    *out = (int)t->shape[axis];
    return 0;
}

#define TRY(call)       \
    do {                \
        int rc = (call); \
        if (rc)         \
            return rc;  \
    } while (0)

int umt5_config_detect(umt5_config *out, const ckpt *c, err *e)
{
    static const char what[] = "an umT5 text encoder";
    char name[64];
    memset(out, 0, sizeof *out);
    TRY(read_dim(&out->vocab_size, c, what, "token_embedding.weight", 2, 0, e));
    TRY(read_dim(&out->dim, c, what, "token_embedding.weight", 2, 1, e));
    TRY(read_dim(&out->dim_attn, c, what, "blocks.0.attn.q.weight", 2, 0, e));
    TRY(read_dim(&out->dim_ffn, c, what, "blocks.0.ffn.fc1.weight", 2, 0, e));
    TRY(read_dim(&out->num_buckets, c, what, "blocks.0.pos_embedding.embedding.weight", 2, 0, e));
    TRY(read_dim(&out->num_heads, c, what, "blocks.0.pos_embedding.embedding.weight", 2, 1, e));
    for (;;) {
        snprintf(name, sizeof name, "blocks.%d.attn.q.weight", out->num_layers);
        if (!ckpt_find(c, name))
            break;
        out->num_layers++;
    }
    if (out->dim_attn % out->num_heads)
        return ERR(e, ERR_SHAPE, "%s: %d attention heads (columns of blocks.0.pos_embedding.embedding.weight) do not "
                   "divide the attention width %d", ckpt_path(c), out->num_heads, out->dim_attn);
    return 0;
}

/* Stages of the encoder are runs of residual blocks, each but the last ended by a resampling. */
static int walk_encoder(vae_config *out, int widths[4], const ckpt *c, err *e)
{
    char name[96];
    int stage = 0, blocks = 0;
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "encoder.downsamples.%d.residual.2.weight", i);
        const ckpt_tensor *t = ckpt_find(c, name);
        if (t) {
            if (stage > 3 || t->ndim != 5 || t->shape[0] < 1 || t->shape[0] > MAX_DIM)
                return ERR(e, ERR_SHAPE, "%s: tensor '%s' does not fit a Wan 2.1 VAE, whose encoder has four stages of "
                           "3x3x3 convolutions", ckpt_path(c), name);
            widths[stage] = (int)t->shape[0];
            blocks++;
            continue;
        }
        snprintf(name, sizeof name, "encoder.downsamples.%d.resample.1.weight", i);
        bool resample = ckpt_find(c, name) != NULL;
        if (resample && stage >= 3)
            return ERR(e, ERR_SHAPE, "%s: '%s': expected three down-samplings, found a fourth", ckpt_path(c), name);
        if (blocks < 1)
            return ERR(e, ERR_SHAPE, "%s: the encoder's stage %d has no residual block before "
                       "'encoder.downsamples.%d'; "
                       "tensors are missing, or this is not a Wan 2.1 VAE", ckpt_path(c), stage, i);
        if (stage && blocks != out->num_res_blocks)
            return ERR(e, ERR_SHAPE, "%s: the encoder's stage %d has %d residual blocks, stage 0 has %d; tensors are "
                       "missing around 'encoder.downsamples.%d'", ckpt_path(c), stage, blocks, out->num_res_blocks, i);
        out->num_res_blocks = blocks;
        if (!resample)
            break;
        snprintf(name, sizeof name, "encoder.downsamples.%d.time_conv.weight", i);
        out->temporal_down[stage++] = ckpt_find(c, name) != NULL;
        blocks = 0;
    }
    if (stage != 3)
        return ERR(e, ERR_SHAPE, "%s: the encoder has %d stages, expected four; tensors are missing after "
                   "'encoder.downsamples', or this is not a Wan 2.1 VAE", ckpt_path(c), stage + 1);
    return 0;
}

int vae_config_detect(vae_config *out, const ckpt *c, err *e)
{
    static const char what[] = "a Wan 2.1 VAE";
    int widths[4] = { 0 };
    memset(out, 0, sizeof *out);
    if (ckpt_find(c, "encoder.downsamples.0.downsamples.0.residual.2.weight") ||
        ckpt_find(c, "decoder.upsamples.0.upsamples.0.residual.2.weight"))
        return ERR(e, ERR_SHAPE, "%s: this is the Wan 2.2 VAE of the 5B model, which is not supported; use "
                   "Wan2.1_VAE.pth",
                   ckpt_path(c));
    TRY(read_dim(&out->dim, c, what, "encoder.conv1.weight", 5, 0, e));
    TRY(read_dim(&out->z_dim, c, what, "conv2.weight", 5, 0, e));
    TRY(walk_encoder(out, widths, c, e));
    for (int i = 0; i < 4; i++) {
        if (widths[i] % out->dim)
            return ERR(e, ERR_SHAPE, "%s: the encoder's stage %d is %d wide, expected a multiple of the %d rows of "
                       "encoder.conv1.weight", ckpt_path(c), i, widths[i], out->dim);
        out->mult[i] = widths[i] / out->dim;
    }
    return 0;
}
