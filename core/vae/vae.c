#include "core/vae/vae.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/vae/vae_stream.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* Wan2.1/wan/modules/vae.py:629-639 */
static const float WAN_MEAN[16] = { -0.7571f, -0.7089f, -0.9113f, 0.1075f, -0.1745f, 0.9653f, -0.1517f, 1.5508f,
                                    0.4134f, -0.0715f, 0.5517f, -0.3632f, -0.1922f, -0.9497f, 0.2503f, -0.2921f };
static const float WAN_STD[16] = { 2.8184f, 1.4541f, 2.3275f, 2.6558f, 1.2196f, 1.7708f, 2.6052f, 2.0743f,
                                   3.2687f, 2.1526f, 2.8652f, 1.5579f, 1.6382f, 1.1253f, 2.8251f, 1.9160f };

int vae_open(vae **out, backend *be, const ckpt *c, const precision *prec, err *e)
{
    int rc = 0;
    vae *v = calloc(1, sizeof *v);
    *out = NULL;
    if (!v)
        return ERR(e, ERR_MEMORY, "no memory for a VAE");
    v->be = be;
    v->type = be->ops->bf16 ? prec->vae : DT_F32;
    TRY(vae_config_detect(&v->cfg, c, e));
    if (v->cfg.z_dim != 16) {
        rc = ERR(e, ERR_SHAPE, "%s: a VAE with %d latent channels; the Wan 2.1 VAE with 16 is supported", ckpt_path(c), v->cfg.z_dim);
        goto out;
    }
    for (int i = 0; i < 16; i++) {
        v->mean[i] = WAN_MEAN[i];
        v->inv_std[i] = 1.0f / WAN_STD[i];
    }
    TRY(vae_weights_load(v, c, e));
    *out = v;
    return 0;
out:
    vae_close(v);
    return err_at(e, rc, "while loading the VAE");
}

void vae_close(vae *v)
{
    if (v) {
        vae_weights_free(v);
        free(v);
    }
}

const vae_config *vae_get_config(const vae *v)
{
    return &v->cfg;
}

int64_t vae_weight_bytes(const vae *v)
{
    return vae_weights_bytes(v);
}

dtype vae_frame_type(const vae *v)
{
    return v->type;
}

/* ---- decode ---- */

int vae_decode_begin(vae *v, const tensor *latents, tensor *out, err *e)
{
    int rc = 0;
    tensor z = { 0 }, exact = { 0 };
    *out = (tensor){ 0 };
    if (latents->ndim != 4 || latents->shape[0] != v->cfg.z_dim)
        return ERR(e, ERR_SHAPE, "the VAE decodes latents of %d channels, got %lld", v->cfg.z_dim, (long long)latents->shape[0]);
    int64_t F = latents->shape[1], h = latents->shape[2], w = latents->shape[3];
    TRY(TENSOR_NEW(&z, v->be, DT_F32, e, F, h, w, v->cfg.z_dim));
    TRY(op_to_channels_last(&z, latents, v->inv_std, v->mean, e));      /* z / (1/std) + mean (vae.py:544-551) */
    TRY(TENSOR_NEW(&exact, v->be, DT_F32, e, F, h, w, v->cfg.z_dim));
    TRY(op_linear(&exact, &z, &v->post_quant.w, &v->post_quant.b, ACT_NONE, e));
    if (v->type == DT_F32) {
        *out = exact;
        exact = (tensor){ 0 };
    } else {
        TRY(TENSOR_NEW(out, v->be, v->type, e, F, h, w, v->cfg.z_dim));
        TRY(op_cast(out, &exact, e));
    }
out:
    tensor_free(&z);
    tensor_free(&exact);
    if (rc)
        tensor_free(out);
    return rc;
}

int vae_decode_next(vae_stream *s, const tensor *latent_frame, tensor *frames, err *e)
{
    return vae_stream_run(s, latent_frame, frames, e);
}

/* waits for the pictures of a chunk and hands them out */
static int hand_out(rgb_frames *r, int64_t *index, frame_fn fn, void *user, err *e)
{
    int rc = op_rgb_wait(r, e);
    for (int64_t t = 0; t < r->frames && !rc; t++) {
        if (r->nan[t])
            return ERR(e, ERR_NAN, "the VAE gave NaN in frame %" PRId64 "; the VAE file or the latents are damaged", *index);
        rc = fn((*index)++, (int)r->width, (int)r->height, r->rgb + t * r->height * r->width * 3, user, e);
    }
    return rc;
}

/* While a chunk is computed, the pictures of the one before travel to the host and are handed out. */
int vae_decode_rgb(vae_stream *s, const tensor *latents, int64_t *index, frame_fn fn, void *user, err *e)
{
    int rc = 0;
    int64_t F = latents->shape[1];
    tensor z = { 0 }, frames = { 0 };
    TRY(vae_decode_begin(s->v, latents, &z, e));
    for (int64_t f = 0; f <= F; f++) {
        if (f < F) {
            tensor one = tensor_rows(&z, f, 1);
            TRY(vae_decode_next(s, &one, &frames, e));
            TRY(op_rgb_begin(&s->rgb[f % 2], &frames, e));
            tensor_free(&frames);
        }
        if (f > 0)
            TRY(hand_out(&s->rgb[(f - 1) % 2], index, fn, user, e));
    }
out:
    tensor_free(&z);
    tensor_free(&frames);
    return rc;
}

/* Pictures of which the bands come one after another */
typedef struct {
    uint8_t *all;
    int64_t height, first;      /* of a picture, and of the band's rows */
    bool last;
    frame_fn fn;
    void *user;
} gathered;

static int gather(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    gathered *g = user;
    size_t row = (size_t)width * 3;
    uint8_t *picture = g->all + (size_t)(index * g->height) * row;
    memcpy(picture + (size_t)g->first * row, rgb, (size_t)height * row);
    return g->last ? g->fn(index, width, (int)g->height, picture, g->user, e) : 0;
}

int vae_decode_clip(vae *v, const tensor *latents, int bands, frame_fn fn, void *user, err *e)
{
    int rc = 0;
    vae_stream *s = NULL;
    int64_t index = 0, frames = VAE_TIME * (latents->shape[1] - 1) + 1, width = VAE_SPACE * latents->shape[3];
    gathered g = { .height = VAE_SPACE * latents->shape[2], .fn = fn, .user = user };
    bands = vae_stream_bands(v, g.height, bands);
    if (bands == 1) {
        TRY(vae_decoder_new(&s, v, e));
        TRY(vae_decode_rgb(s, latents, &index, fn, user, e));
        goto out;
    }
    if (!(g.all = malloc((size_t)tensor_count(latents) / (size_t)v->cfg.z_dim * VAE_TIME * VAE_SPACE * VAE_SPACE * 3))) {
        rc = ERR(e, ERR_MEMORY, "no host memory for %" PRId64 " frames of %" PRId64 " x %" PRId64 ", which are decoded in %d bands", frames, width, g.height, bands);
        goto out;
    }
    for (int b = 0; b < bands; b++) {
        TRY(vae_stream_band(&s, v, g.height, bands, b, e));
        g.first = s->keep.begin;
        g.last = b == bands - 1;
        index = 0;
        TRY(vae_decode_rgb(s, latents, &index, gather, &g, e));
        vae_stream_free(s);
        s = NULL;
        backend_trim(v->be);      /* the next band has other sizes, for which what is kept for reuse may not serve */
    }
out:
    vae_stream_free(s);
    free(g.all);
    return rc;
}

int vae_decode(vae *v, const tensor *latents, int bands, tensor *video, err *e)
{
    int rc = 0;
    tensor z = { 0 }, all = { 0 }, frames = { 0 };
    vae_stream *s = NULL;
    int64_t F = latents->shape[1], H = VAE_SPACE * latents->shape[2], W = VAE_SPACE * latents->shape[3], n = VAE_TIME * (F - 1) + 1;
    TRY(vae_decode_begin(v, latents, &z, e));
    TRY(TENSOR_NEW(&all, v->be, DT_F32, e, n, H, W, 3));
    tensor rows = TENSOR_AS(&all, n * H, W, 3);
    bands = vae_stream_bands(v, H, bands);
    for (int b = 0; b < bands; b++) {
        vae_rows keep = { 0, H };
        TRY(bands > 1 ? vae_stream_band(&s, v, H, bands, b, e) : vae_decoder_new(&s, v, e));
        if (bands > 1)
            keep = s->keep;
        for (int64_t f = 0, at = 0; f < F; f++) {
            tensor one = tensor_rows(&z, f, 1);
            TRY(vae_decode_next(s, &one, &frames, e));
            for (int64_t t = 0; t < frames.shape[0]; t++, at++) {
                tensor src = tensor_rows(&frames, t, 1), dst = tensor_rows(&rows, at * H + keep.begin, keep.end - keep.begin);
                TRY(op_copy(&dst, &src, e));
            }
            tensor_free(&frames);
        }
        vae_stream_free(s);
        s = NULL;
    }
    TRY(op_to_channels_first(video, &all, NULL, NULL, e));
out:
    vae_stream_free(s);
    tensor_free(&z);
    tensor_free(&all);
    tensor_free(&frames);
    return rc;
}

/* ---- encode ---- */

/* Frames [first, first + n) as *pixels [n, H, W, 3] in the VAE's type, which stay until the next call. */
typedef int (*pixels_fn)(void *user, int64_t first, int64_t n, tensor *pixels, err *e);

static int encode(vae *v, int64_t F, int64_t H, int64_t W, pixels_fn fn, void *user, tensor *latents, err *e)
{
    int rc = 0;
    int64_t n = (F - 1) / VAE_TIME + 1;
    tensor in = { 0 }, quant = { 0 }, chunk = { 0 };
    vae_stream *s = NULL;
    if (F % VAE_TIME != 1 || H % VAE_SPACE || W % VAE_SPACE)
        return ERR(e, ERR_SHAPE, "the VAE encodes 4n+1 frames with height and width in multiples of 8, got %lld x %lld x %lld", (long long)F, (long long)H,
                   (long long)W);
    TRY(TENSOR_NEW(&quant, v->be, DT_F32, e, n, H / VAE_SPACE, W / VAE_SPACE, 2 * v->cfg.z_dim));
    TRY(vae_encoder_new(&s, v, e));
    for (int64_t f = 0; f < n; f++) {      /* 1 frame, then 4 at a time (vae.py:516-542) */
        TRY(fn(user, f ? VAE_TIME * (f - 1) + 1 : 0, f ? VAE_TIME : 1, &in, e));
        TRY(vae_stream_run(s, &in, &chunk, e));
        tensor dst = tensor_rows(&quant, f, 1);      /* frame by frame: a product may round differently with another number of rows */
        TRY(op_linear(&dst, &chunk, &v->quant.w, &v->quant.b, ACT_NONE, e));
        tensor_free(&chunk);
    }
    TRY(op_to_channels_first(latents, &quant, v->mean, v->inv_std, e));      /* the means are the first z channels */
out:
    vae_stream_free(s);
    tensor_free(&quant);
    tensor_free(&chunk);
    return rc;
}

static int pixels_there(void *user, int64_t first, int64_t n, tensor *pixels, err *e)
{
    (void)e;
    *pixels = tensor_rows(user, first, n);
    return 0;
}

int vae_encode(vae *v, const tensor *video, tensor *latents, err *e)
{
    int rc = 0;
    tensor pixels = { 0 };
    if (video->ndim != 4 || video->shape[0] != 3)
        return ERR(e, ERR_SHAPE, "the VAE encodes 3 channels, got a tensor of %d axes with %lld", video->ndim, (long long)video->shape[0]);
    TRY(TENSOR_NEW(&pixels, v->be, v->type, e, video->shape[1], video->shape[2], video->shape[3], 3));
    TRY(op_to_channels_last(&pixels, video, NULL, NULL, e));
    TRY(encode(v, video->shape[1], video->shape[2], video->shape[3], pixels_there, &pixels, latents, e));
out:
    tensor_free(&pixels);
    return rc;
}

typedef struct {
    vae *v;
    const float *video;              /* [3, F, H, W] */
    int64_t F, H, W;
    float *host;                     /* [3, VAE_TIME, H, W] */
    tensor video_part, pixels;
} host_video;

static int pixels_from_host(void *user, int64_t first, int64_t n, tensor *pixels, err *e)
{
    host_video *h = user;
    int rc = 0;
    int64_t plane = h->H * h->W;
    for (int c = 0; c < 3; c++)
        memcpy(h->host + c * n * plane, h->video + (c * h->F + first) * plane, (size_t)(n * plane) * sizeof *h->host);
    tensor_free(&h->video_part);
    tensor_free(&h->pixels);
    TRY(TENSOR_NEW(&h->video_part, h->v->be, DT_F32, e, 3, n, h->H, h->W));
    TRY(op_upload(&h->video_part, h->host, e));
    TRY(TENSOR_NEW(&h->pixels, h->v->be, h->v->type, e, n, h->H, h->W, 3));
    TRY(op_to_channels_last(&h->pixels, &h->video_part, NULL, NULL, e));
    *pixels = h->pixels;
    pixels->owner = false;
out:
    return rc;
}

int vae_encode_host(vae *v, const float *video, int64_t F, int64_t H, int64_t W, tensor *latents, err *e)
{
    host_video h = { .v = v, .video = video, .F = F, .H = H, .W = W };
    if (!(h.host = malloc((size_t)(3 * VAE_TIME * H * W) * sizeof *h.host)))
        return ERR(e, ERR_MEMORY, "no host memory for %d frames of %lld x %lld", VAE_TIME, (long long)W, (long long)H);
    int rc = encode(v, F, H, W, pixels_from_host, &h, latents, e);
    tensor_free(&h.video_part);
    tensor_free(&h.pixels);
    free(h.host);
    return rc;
}

int vae_encode_next(vae_stream *s, const float *frames, int64_t H, int64_t W, tensor *latent, err *e)
{
    int rc = 0;
    int64_t n = s->chunks ? VAE_TIME : 1;
    vae *v = s->v;
    host_video h = { .v = v, .video = frames, .F = n, .H = H, .W = W };
    tensor in = { 0 }, moments = { 0 }, quant = { 0 };
    if (s->decoding || H % VAE_SPACE || W % VAE_SPACE)
        return ERR(e, ERR_SHAPE, "an encoder takes frames with height and width in multiples of 8, got %lld x %lld", (long long)H, (long long)W);
    if (!(h.host = malloc((size_t)(3 * n * H * W) * sizeof *h.host)))
        return ERR(e, ERR_MEMORY, "no host memory for %lld frames of %lld x %lld", (long long)n, (long long)W, (long long)H);
    TRY(pixels_from_host(&h, 0, n, &in, e));
    TRY(vae_stream_run(s, &in, &moments, e));
    TRY(TENSOR_NEW(&quant, v->be, DT_F32, e, 1, H / VAE_SPACE, W / VAE_SPACE, 2 * v->cfg.z_dim));
    TRY(op_linear(&quant, &moments, &v->quant.w, &v->quant.b, ACT_NONE, e));
    TRY(op_to_channels_first(latent, &quant, v->mean, v->inv_std, e));      /* the means are the first z channels */
out:
    tensor_free(&h.video_part);
    tensor_free(&h.pixels);
    tensor_free(&moments);
    tensor_free(&quant);
    free(h.host);
    return rc;
}
