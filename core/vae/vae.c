#include "core/vae/vae.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/vae/vae_weights.h"

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

/* ---- streams ---- */

/* The last input frames of a cached convolution: those of `past`, and before them those of `before`, so that a history that grows
 * by one frame is kept by moving tensors, not by copying frames. */
typedef struct history { tensor past, before; } history;

struct vae_stream {
    vae *v;
    const vae_side *side;
    bool decoding;
    int64_t chunks;                           /* latent frames done */
    history past_in, past_out;                /* of conv_in and conv_out */
    history past[VAE_MAX_LAYERS][2];          /* of each layer's cached convolutions */
    rgb_frames rgb[2];                        /* pictures on their way to the caller */
};

static int stream_new(vae_stream **out, vae *v, bool decoding, err *e)
{
    vae_stream *s = calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return ERR(e, ERR_MEMORY, "no memory for a VAE stream");
    s->v = v;
    s->decoding = decoding;
    s->side = decoding ? &v->decoder : &v->encoder;
    s->rgb[0].be = s->rgb[1].be = v->be;
    return 0;
}

int vae_decoder_new(vae_stream **out, vae *v, err *e)
{
    return stream_new(out, v, true, e);
}

int vae_encoder_new(vae_stream **out, vae *v, err *e)
{
    return stream_new(out, v, false, e);
}

static void history_free(history *h)
{
    tensor_free(&h->past);
    tensor_free(&h->before);
}

void vae_stream_free(vae_stream *s)
{
    if (!s)
        return;
    history_free(&s->past_in);
    history_free(&s->past_out);
    for (int i = 0; i < VAE_MAX_LAYERS; i++)
        for (int k = 0; k < 2; k++)
            history_free(&s->past[i][k]);
    for (int i = 0; i < 2; i++)
        op_rgb_free(&s->rgb[i]);
    free(s);
}

static int visit_history(const char *name, history *h, vae_slot_fn fn, void *user, err *e)
{
    char before[48];
    int rc = fn(name, &h->past, user, e);
    snprintf(before, sizeof before, "%s.before", name);
    return rc ? rc : fn(before, &h->before, user, e);
}

int vae_stream_visit(vae_stream *s, vae_slot_fn fn, void *user, err *e)
{
    char name[32];
    int rc = visit_history("past_in", &s->past_in, fn, user, e);
    if (!rc)
        rc = visit_history("past_out", &s->past_out, fn, user, e);
    for (int i = 0; i < s->side->n_layers && !rc; i++)
        for (int k = 0; k < 2 && !rc; k++) {
            snprintf(name, sizeof name, "past.%d.%d", i, k);
            rc = visit_history(name, &s->past[i][k], fn, user, e);
        }
    return rc;
}

int64_t vae_stream_done(const vae_stream *s)
{
    return s->chunks;
}

void vae_stream_set_done(vae_stream *s, int64_t done)
{
    s->chunks = done;
}

/* The history becomes its last `keep` (1 or 2) frames with x's frames after them. x is taken where it can be, and is empty then. */
static int remember(history *h, tensor *x, int64_t keep, err *e)
{
    int rc = 0;
    int64_t old = h->past.data ? h->past.shape[0] : 0, T = x->shape[0], older = T < keep && old ? 1 : 0;      /* of past's frames, its last */
    tensor next = { 0 };
    if (x->owner && T <= keep) {
        if (older && old > 1) {
            tensor last = tensor_rows(&h->past, old - 1, 1);
            TRY(TENSOR_NEW(&next, x->be, x->dtype, e, 1, x->shape[1], x->shape[2], x->shape[3]));
            TRY(op_copy(&next, &last, e));
        } else if (older) {
            next = h->past;
            h->past = (tensor){ 0 };
        }
        history_free(h);
        h->before = next;
        h->past = *x;
        *x = (tensor){ 0 };
        return 0;
    }
    int64_t from_x = T < keep ? T : keep;
    TRY(TENSOR_NEW(&next, x->be, x->dtype, e, older + from_x, x->shape[1], x->shape[2], x->shape[3]));
    if (older) {
        tensor dst = tensor_rows(&next, 0, 1), src = tensor_rows(&h->past, old - 1, 1);
        TRY(op_copy(&dst, &src, e));
    }
    tensor dst = tensor_rows(&next, older, from_x), src = tensor_rows(x, T - from_x, from_x);
    TRY(op_copy(&dst, &src, e));
    history_free(h);
    h->past = next;
    return 0;
out:
    tensor_free(&next);
    return rc;
}

static const tensor *or_null(const tensor *t)
{
    return t->data ? t : NULL;
}

static int like(tensor *out, const tensor *x, int64_t T, int64_t H, int64_t W, int64_t C, err *e)
{
    return TENSOR_NEW(out, x->be, x->dtype, e, T, H, W, C);
}

/* 3x3x3 causal convolution with history, stride 1; then, where norm is given, norm and SiLU. Takes x if it owns its memory. */
static int cached_conv(tensor *out, dtype type, tensor *x, const vae_conv *c, history *h, const tensor *residual, const tensor *norm, err *e)
{
    int rc = 0;
    TRY(TENSOR_NEW(out, x->be, type, e, x->shape[0], x->shape[1], x->shape[2], c->w.shape[0]));
    conv_args a = { .out = out, .x = x, .past = or_null(&h->past), .before = or_null(&h->before), .w = &c->w, .bias = &c->b,
                    .residual = residual, .n_past = 2, .stride_t = 1, .stride_h = 1, .stride_w = 1, .pad_h = 1, .pad_w = 1,
                    .norm = norm, .act = norm ? ACT_SILU : ACT_NONE };
    TRY(op_conv(&a, e));
    TRY(remember(h, x, 2, e));
out:
    return rc;
}

/* Each layer replaces *x, which it owns. */

static int run_res(const vae_layer *y, history *past, tensor *x, err *e)
{
    int rc = 0;
    tensor h = { 0 }, g = { 0 }, skip = { 0 }, out = { 0 };
    TRY(like(&h, x, x->shape[0], x->shape[1], x->shape[2], x->shape[3], e));
    TRY(op_pixel_norm(&h, x, &y->norm1, ACT_SILU, e));
    TRY(cached_conv(&g, x->dtype, &h, &y->conv1, &past[0], NULL, &y->norm2, e));
    tensor_free(&h);
    if (y->has_shortcut) {
        TRY(like(&skip, x, x->shape[0], x->shape[1], x->shape[2], y->shortcut.w.shape[0], e));
        TRY(op_linear(&skip, x, &y->shortcut.w, &y->shortcut.b, ACT_NONE, e));
    }
    TRY(cached_conv(&out, x->dtype, &g, &y->conv2, &past[1], y->has_shortcut ? &skip : x, NULL, e));
    tensor_free(x);
    *x = out;
    out = (tensor){ 0 };
out:
    tensor_free(&h);
    tensor_free(&g);
    tensor_free(&skip);
    tensor_free(&out);
    return rc;
}

static int run_attn(const vae_layer *y, tensor *x, err *e)
{
    int rc = 0;
    int64_t T = x->shape[0], P = x->shape[1] * x->shape[2], C = x->shape[3];
    tensor h = { 0 }, q = { 0 }, k = { 0 }, v = { 0 };
    attn_segment *seg = calloc((size_t)T, sizeof *seg);
    attn_range *range = calloc((size_t)T, sizeof *range);
    if (!seg || !range) {
        rc = ERR(e, ERR_MEMORY, "no memory for an attention plan of %lld frames", (long long)T);
        goto out;
    }
    for (int64_t t = 0; t < T; t++) {      /* every frame attends to itself */
        range[t] = (attn_range){ t * P, (t + 1) * P };
        seg[t] = (attn_segment){ t * P, (t + 1) * P, 1, &range[t] };
    }
    TRY(TENSOR_NEW(&h, x->be, x->dtype, e, T * P, C));
    TRY(TENSOR_NEW(&q, x->be, x->dtype, e, T * P, C));
    TRY(TENSOR_NEW(&k, x->be, x->dtype, e, T * P, C));
    TRY(TENSOR_NEW(&v, x->be, x->dtype, e, T * P, C));
    tensor rows = TENSOR_AS(x, T * P, C);
    TRY(op_pixel_norm(&h, &rows, &y->norm1, ACT_NONE, e));
    TRY(op_linear(&q, &h, &y->q.w, &y->q.b, ACT_NONE, e));
    TRY(op_linear(&k, &h, &y->k.w, &y->k.b, ACT_NONE, e));
    TRY(op_linear(&v, &h, &y->v.w, &y->v.b, ACT_NONE, e));
    attn_args a = { .out = &h, .q = &q, .k = &k, .v = &v, .n_heads = 1, .scale = 1.0f / sqrtf((float)C), .plan = { (int)T, seg } };
    TRY(op_attention(&a, e));
    TRY(op_linear(&q, &h, &y->proj.w, &y->proj.b, ACT_NONE, e));
    TRY(op_gate_add(&rows, &q, NULL, e));
out:
    tensor_free(&h);
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&v);
    free(seg);
    free(range);
    return rc;
}

static int run_up(const vae_stream *s, const vae_layer *y, history *past, tensor *x, err *e)
{
    int rc = 0;
    tensor t = { 0 }, d = { 0 }, out = { 0 };
    /* The first latent frame skips the temporal convolution and is not part of its history (the "Rep" rule, vae.py:101-137). */
    if (y->temporal && s->chunks > 0) {
        TRY(like(&t, x, x->shape[0], x->shape[1], x->shape[2], y->conv2.w.shape[0], e));
        conv_args a = { .out = &t, .x = x, .past = or_null(&past->past), .before = or_null(&past->before), .w = &y->conv2.w,
                        .bias = &y->conv2.b, .n_past = 2, .stride_t = 1, .stride_h = 1, .stride_w = 1 };
        TRY(op_conv(&a, e));
        TRY(like(&d, x, 2 * x->shape[0], x->shape[1], x->shape[2], x->shape[3], e));
        TRY(remember(past, x, 2, e));
        TRY(op_time_interleave(&d, &t, e));
        tensor_free(&t);
        tensor_free(x);
        *x = d;
        d = (tensor){ 0 };
    }
    TRY(like(&out, x, x->shape[0], 2 * x->shape[1], 2 * x->shape[2], y->conv1.w.shape[0], e));
    conv_args a = { .out = &out, .x = x, .w = &y->conv1.w, .bias = &y->conv1.b, .stride_t = 1, .stride_h = 1, .stride_w = 1,
                    .pad_h = 1, .pad_w = 1, .upsample2x = true, .w_up = or_null(&y->conv1_up) };
    TRY(op_conv(&a, e));
    tensor_free(x);
    *x = out;
    out = (tensor){ 0 };
out:
    tensor_free(&t);
    tensor_free(&d);
    tensor_free(&out);
    return rc;
}

static int run_down(const vae_stream *s, const vae_layer *y, history *past, tensor *x, err *e)
{
    int rc = 0;
    tensor h = { 0 }, out = { 0 };
    /* zeros right and below only: no padding above and to the left (vae.py:88-99) */
    TRY(like(&h, x, x->shape[0], x->shape[1] / 2, x->shape[2] / 2, y->conv1.w.shape[0], e));
    conv_args a = { .out = &h, .x = x, .w = &y->conv1.w, .bias = &y->conv1.b, .stride_t = 1, .stride_h = 2, .stride_w = 2 };
    TRY(op_conv(&a, e));
    tensor_free(x);
    *x = h;
    h = (tensor){ 0 };
    if (y->temporal) {
        if (s->chunks > 0) {      /* the last frame of the chunk before, then this one: 5 -> 2, 3 -> 1 */
            TRY(like(&out, x, x->shape[0] / 2, x->shape[1], x->shape[2], x->shape[3], e));
            conv_args b = { .out = &out, .x = x, .past = &past->past, .w = &y->conv2.w, .bias = &y->conv2.b, .n_past = 1,
                            .stride_t = 2, .stride_h = 1, .stride_w = 1 };
            TRY(op_conv(&b, e));
        }
        tensor last = tensor_rows(x, x->shape[0] - 1, 1);      /* a view: the first chunk's x goes on */
        TRY(remember(past, &last, 1, e));
        if (out.data) {
            tensor_free(x);
            *x = out;
            out = (tensor){ 0 };
        }
    }
out:
    tensor_free(&h);
    tensor_free(&out);
    return rc;
}

static int run_layers(vae_stream *s, int first, int end, tensor *y, err *e)
{
    int rc = 0;
    for (int i = first; i < end && !rc; i++) {
        const vae_layer *l = &s->side->layers[i];
        switch (l->kind) {
        case VAE_RES: rc = run_res(l, s->past[i], y, e); break;
        case VAE_ATTN: rc = run_attn(l, y, e); break;
        case VAE_UP: rc = run_up(s, l, s->past[i], y, e); break;
        case VAE_DOWN: rc = run_down(s, l, s->past[i], y, e); break;
        }
    }
    return rc;
}

static int run_head(vae_stream *s, const tensor *x, int end, tensor *y, err *e)
{
    tensor view = tensor_rows(x, 0, x->shape[0]);
    int rc = cached_conv(y, s->v->type, &view, &s->side->conv_in, &s->past_in, NULL, NULL, e);
    return rc ? rc : run_layers(s, 0, end, y, e);
}

static int run_tail(vae_stream *s, int first, tensor *y, tensor *out, err *e)
{
    int rc = run_layers(s, first, s->side->n_layers, y, e);
    tensor h = { 0 };
    if (!rc && y->owner)
        rc = op_pixel_norm(y, y, &s->side->norm_out, ACT_SILU, e);
    else if (!rc && !(rc = like(&h, y, y->shape[0], y->shape[1], y->shape[2], y->shape[3], e))) {
        rc = op_pixel_norm(&h, y, &s->side->norm_out, ACT_SILU, e);
        *y = h;
    }
    return rc ? rc : cached_conv(out, DT_F32, y, &s->side->conv_out, &s->past_out, NULL, NULL, e);
}

/* Copies the result of frame t to its place in *all, which is made with the first. */
static int join(tensor *all, const tensor *one, int64_t t, int64_t n, err *e)
{
    int rc = all->data ? 0 : TENSOR_NEW(all, one->be, one->dtype, e, n, one->shape[1], one->shape[2], one->shape[3]);
    tensor dst = tensor_rows(all, t, 1);
    return rc ? rc : op_copy(&dst, one, e);
}

/* Layers [*first, *end) see each frame and its history, never a change of frame rate, so that frames can go through one at a time:
 * behind the decoder's last temporal layer, before the encoder's first. In f32 chunks stay whole: products in cuBLAS and OpenBLAS
 * may round differently with another number of rows, and exact results are compared with older ones. */
static void single_frames(const vae_stream *s, int *first, int *end)
{
    const vae_side *side = s->side;
    *first = *end = s->decoding ? side->n_layers : 0;
    if (s->v->type == DT_F32)
        return;
    for (int i = side->n_layers - 1; s->decoding && i >= 0 && !(side->layers[i].kind == VAE_UP && side->layers[i].temporal) && side->layers[i].kind != VAE_ATTN; i--)
        *first = i;
    for (int i = 0; !s->decoding && i < side->n_layers && !(side->layers[i].kind == VAE_DOWN && side->layers[i].temporal) && side->layers[i].kind != VAE_ATTN; i++)
        *end = i + 1;
}

/* x [T, H, W, C] borrowed -> *out f32, owned by the caller */
static int run_side(vae_stream *s, const tensor *x, tensor *out, err *e)
{
    int rc = 0, first, end;
    tensor y = { 0 }, one = { 0 }, made = { 0 };
    *out = (tensor){ 0 };
    single_frames(s, &first, &end);
    if (!s->decoding && end > 0) {
        for (int64_t t = 0; t < x->shape[0]; t++) {
            tensor frame = tensor_rows(x, t, 1);
            TRY(run_head(s, &frame, end, &one, e));
            TRY(join(&y, &one, t, x->shape[0], e));
            tensor_free(&one);
        }
    } else {
        end = first;
        TRY(run_head(s, x, end, &y, e));
    }
    if (s->decoding && first < s->side->n_layers) {
        for (int64_t t = 0; t < y.shape[0]; t++) {
            one = tensor_rows(&y, t, 1);
            TRY(run_tail(s, first, &one, &made, e));
            TRY(join(out, &made, t, y.shape[0], e));
            tensor_free(&one);
            tensor_free(&made);
        }
    } else {
        TRY(run_tail(s, end, &y, out, e));
    }
    s->chunks++;
out:
    tensor_free(&y);
    tensor_free(&one);
    tensor_free(&made);
    if (rc)
        tensor_free(out);
    return rc;
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
    return run_side(s, latent_frame, frames, e);
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

int vae_decode(vae *v, const tensor *latents, tensor *video, err *e)
{
    int rc = 0;
    tensor z = { 0 }, all = { 0 }, frames = { 0 };
    vae_stream *s = NULL;
    int64_t F = latents->shape[1], at = 0;
    TRY(vae_decode_begin(v, latents, &z, e));
    TRY(vae_decoder_new(&s, v, e));
    TRY(TENSOR_NEW(&all, v->be, DT_F32, e, VAE_TIME * (F - 1) + 1, VAE_SPACE * latents->shape[2], VAE_SPACE * latents->shape[3], 3));
    for (int64_t f = 0; f < F; f++) {
        tensor one = tensor_rows(&z, f, 1);
        TRY(vae_decode_next(s, &one, &frames, e));
        tensor dst = tensor_rows(&all, at, frames.shape[0]);
        TRY(op_copy(&dst, &frames, e));
        at += frames.shape[0];
        tensor_free(&frames);
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
        TRY(run_side(s, &in, &chunk, e));
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
    TRY(run_side(s, &in, &moments, e));
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
