#include "core/vae/vace_context.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* pixels [3, F, H, W] -> latents written at out[0..16) of a [96, T, h, w] array, from frame `at` */
static int encode_into(vae *v, backend *be, const float *pixels, int64_t F, int64_t H, int64_t W, float *out, int64_t T, int64_t at, err *e)
{
    int rc = 0;
    int64_t n = (F - 1) / VAE_TIME + 1, plane = H / VAE_SPACE * (W / VAE_SPACE);
    tensor latents = { 0 };
    float *host = malloc((size_t)(16 * n * plane) * sizeof *host);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for a VACE context");
    TRY(TENSOR_NEW(&latents, be, DT_F32, e, 16, n, H / VAE_SPACE, W / VAE_SPACE));
    TRY(vae_encode_host(v, pixels, F, H, W, &latents, e));
    TRY(op_download(host, &latents, e));
    for (int64_t c = 0; c < 16; c++)
        memcpy(out + (c * T + at) * plane, host + c * n * plane, (size_t)(n * plane) * sizeof *host);
out:
    tensor_free(&latents);
    free(host);
    return rc;
}

int64_t vace_mask_frame(int64_t i, int64_t F, int64_t n)
{
    return (int64_t)(((double)i + 0.5) * (double)F / (double)n);
}

/* channel 8 dy + dx of pixel (dy, dx) of each 8 x 8 cell */
void vace_mask_fold(float *out, int64_t stride, const float *mask, int64_t H, int64_t W)
{
    int64_t h = H / VAE_SPACE, w = W / VAE_SPACE;
    for (int64_t dy = 0; dy < 8; dy++)
        for (int64_t dx = 0; dx < 8; dx++)
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++)
                    out[(8 * dy + dx) * stride + y * w + x] = mask ? mask[(y * 8 + dy) * W + x * 8 + dx] : 1.0f;
}

/* What is kept (inactive: frame (1 - m)) or what changes (reactive: frame m), with the mask made hard; n values a channel. */
static void take_side(float *out, const float *frames, const float *mask, int64_t n, bool reactive)
{
    for (int64_t c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++) {
            float m = !mask || mask[i] > 0.5f ? 1.0f : 0.0f;
            out[c * n + i] = frames[c * n + i] * (reactive ? m : 1.0f - m);
        }
}

int vace_context_build(tensor *context, vae *v, backend *be, const float *frames, const float *mask, int64_t F, int64_t H, int64_t W,
                       const float *const *references, int n_references, err *e)
{
    int rc = 0;
    *context = (tensor){ 0 };
    if (F < 1 || F % VAE_TIME != 1 || H % 16 || W % 16)
        return ERR(e, ERR_SHAPE, "a VACE context of %lld frames of %lld x %lld: 4n+1 frames and multiples of 16 are needed", (long long)F, (long long)W, (long long)H);
    int64_t n = (F - 1) / VAE_TIME + 1, T = n + n_references, plane = H / VAE_SPACE * (W / VAE_SPACE), pixels = F * H * W;
    float *host = calloc((size_t)(VACE_CHANNELS * T * plane), sizeof *host), *part = malloc((size_t)(3 * pixels) * sizeof *part);
    if (!host || !part) {
        rc = ERR(e, ERR_MEMORY, "no memory for a VACE context of %lld frames", (long long)F);
        goto out;
    }
    bool grey = !mask;      /* nothing given: both sides are the same zeros */
    for (int64_t i = 0; grey && i < 3 * pixels; i++)
        grey = frames[i] == 0;
    for (int side = 0; side < 2; side++) {
        if (side && grey) {
            memcpy(host + 16 * T * plane, host, (size_t)(16 * T * plane) * sizeof *host);
            break;
        }
        take_side(part, frames, mask, pixels, side);
        TRY(encode_into(v, be, part, F, H, W, host + side * 16 * T * plane, T, n_references, e));
    }
    for (int64_t i = 0; i < n; i++)
        vace_mask_fold(host + (32 * T + n_references + i) * plane, T * plane, mask ? mask + vace_mask_frame(i, F, n) * H * W : NULL, H, W);
    for (int r = 0; r < n_references; r++)      /* 16 latent channels, the rest zeros */
        TRY(encode_into(v, be, references[r], 1, H, W, host, T, r, e));
    TRY(TENSOR_NEW(context, be, DT_F32, e, VACE_CHANNELS, T, H / VAE_SPACE, W / VAE_SPACE));
    TRY(op_upload(context, host, e));
out:
    free(host);
    free(part);
    if (rc)
        tensor_free(context);
    return rc;
}

/* ---- piece by piece ---- */

struct vace_stream {
    vae *v;
    backend *be;
    vae_stream *side[2];       /* inactive, reactive */
    int64_t H, W;
    float *part;               /* one side's frames */
};

int vace_stream_new(vace_stream **out, vae *v, backend *be, int64_t H, int64_t W, err *e)
{
    int rc = 0;
    vace_stream *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s)
        return ERR(e, ERR_MEMORY, "no memory for a VACE context");
    s->v = v;
    s->be = be;
    s->H = H;
    s->W = W;
    if (H % 16 || W % 16) {
        rc = ERR(e, ERR_SHAPE, "a VACE context of %lld x %lld: multiples of 16 are needed", (long long)W, (long long)H);
        goto out;
    }
    if (!(s->part = malloc((size_t)(3 * VAE_TIME * H * W) * sizeof *s->part))) {
        rc = ERR(e, ERR_MEMORY, "no memory for a VACE context of %lld x %lld", (long long)W, (long long)H);
        goto out;
    }
    *out = s;
    return 0;
out:
    vace_stream_free(s);
    return rc;
}

void vace_stream_free(vace_stream *s)
{
    if (!s)
        return;
    vae_stream_free(s->side[0]);
    vae_stream_free(s->side[1]);
    free(s->part);
    free(s);
}

int vace_stream_next(vace_stream *s, const float *frames, const float *mask, float *out, err *e)
{
    int rc = 0;
    int64_t h = s->H / VAE_SPACE, w = s->W / VAE_SPACE, half = 16 * h * w;
    tensor latent = { 0 };
    TRY(TENSOR_NEW(&latent, s->be, DT_F32, e, 16, 1, h, w));
    for (int side = 0; side < 2; side++) {
        if (side && !frames) {      /* both sides are the same zeros, whatever the mask */
            memcpy(out + half, out, (size_t)half * sizeof *out);
            break;
        }
        if (!s->side[side])
            TRY(vae_encoder_new(&s->side[side], s->v, e));
        int64_t n = vae_stream_done(s->side[side]) ? VAE_TIME : 1, pixels = n * s->H * s->W;
        if (frames)
            take_side(s->part, frames, mask, pixels, side);
        else
            memset(s->part, 0, (size_t)(3 * pixels) * sizeof *s->part);
        TRY(vae_encode_next(s->side[side], s->part, s->H, s->W, &latent, e));
        TRY(op_download(out + side * half, &latent, e));
    }
out:
    tensor_free(&latent);
    return rc;
}

int vace_reference_encode(float *out, vae *v, backend *be, const float *reference, int64_t H, int64_t W, err *e)
{
    return encode_into(v, be, reference, 1, H, W, out, 1, 0, e);
}
