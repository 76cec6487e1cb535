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

/* channel 8 dy + dx of pixel (dy, dx) of each 8 x 8 cell; the source frame is nearest-exact: floor((i + 0.5) F / n) */
static void fold_mask(const float *mask, int64_t F, int64_t H, int64_t W, float *out, int64_t T, int64_t at, int64_t n)
{
    int64_t h = H / VAE_SPACE, w = W / VAE_SPACE;
    for (int64_t i = 0; i < n; i++) {
        const float *m = mask ? mask + (int64_t)(((double)i + 0.5) * (double)F / (double)n) * H * W : NULL;
        for (int64_t dy = 0; dy < 8; dy++)
            for (int64_t dx = 0; dx < 8; dx++)
                for (int64_t y = 0; y < h; y++)
                    for (int64_t x = 0; x < w; x++)
                        out[(((8 * dy + dx) * T + at + i) * h + y) * w + x] = m ? m[(y * 8 + dy) * W + x * 8 + dx] : 1.0f;
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
    for (int side = 0; side < 2; side++) {      /* inactive: frame (1 - m), reactive: frame m, with the mask made hard */
        if (side && grey) {
            memcpy(host + 16 * T * plane, host, (size_t)(16 * T * plane) * sizeof *host);
            break;
        }
        for (int64_t c = 0; c < 3; c++)
            for (int64_t i = 0; i < pixels; i++) {
                float m = !mask || mask[i] > 0.5f ? 1.0f : 0.0f;
                part[c * pixels + i] = frames[c * pixels + i] * (side ? m : 1.0f - m);
            }
        TRY(encode_into(v, be, part, F, H, W, host + side * 16 * T * plane, T, n_references, e));
    }
    fold_mask(mask, F, H, W, host + 32 * T * plane, T, n_references, n);
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
