#include "core/vae/vae_stream.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

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

int vae_stream_bands(const vae *v, int64_t height, int bands)
{
    vae_shape list[VAE_MAX_LAYERS];
    int n = vae_decoder_shapes(&v->cfg, list);
    return vae_bands_first(list, n) == n || bands < 1 ? 1 : bands > height ? (int)height : bands;
}

int vae_stream_band(vae_stream **out, vae *v, int64_t height, int bands, int band, err *e)
{
    vae_shape list[VAE_MAX_LAYERS];
    int rc = vae_decoder_new(out, v, e), n = vae_decoder_shapes(&v->cfg, list);
    if (rc)
        return rc;
    vae_stream *s = *out;
    s->split = vae_bands_first(list, n);
    s->keep = vae_band(height, bands, band);
    vae_band_needs(list, s->split, n, height, s->keep, s->need);
    return 0;
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

/* *x, frames that begin with row `at` of theirs, becomes rows r of it. */
static int cut(tensor *x, int64_t at, vae_rows r, err *e)
{
    int rc = 0;
    int64_t T = x->shape[0], H = x->shape[1], W = x->shape[2], C = x->shape[3], n = r.end - r.begin;
    tensor all = TENSOR_AS(x, T * H, W, C), out = { 0 };
    if (n == H)
        return 0;
    TRY(like(&out, x, T, n, W, C, e));
    tensor to = TENSOR_AS(&out, T * n, W, C);
    for (int64_t t = 0; t < T; t++) {
        tensor src = tensor_rows(&all, t * H + r.begin - at, n), dst = tensor_rows(&to, t * n, n);
        TRY(op_copy(&dst, &src, e));
    }
    tensor_free(x);
    *x = out;
    return 0;
out:
    tensor_free(&out);
    return rc;
}

static int run_layers(vae_stream *s, int first, int end, tensor *y, err *e)
{
    int rc = 0;
    for (int i = first; i < end && !rc; i++) {
        const vae_layer *l = &s->side->layers[i];
        if (s->keep.end && i == s->split && (rc = cut(y, 0, s->need[i], e)))
            break;
        switch (l->kind) {
        case VAE_RES: rc = run_res(l, s->past[i], y, e); break;
        case VAE_ATTN: rc = run_attn(l, y, e); break;
        case VAE_UP: rc = run_up(s, l, s->past[i], y, e); break;
        case VAE_DOWN: rc = run_down(s, l, s->past[i], y, e); break;
        }
        if (!rc && s->keep.end && i >= s->split && l->kind == VAE_UP)      /* what lies further out than any layer behind sees */
            rc = cut(y, 2 * s->need[i].begin, s->need[i + 1], e);
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
    if (!rc)
        rc = cached_conv(out, DT_F32, y, &s->side->conv_out, &s->past_out, NULL, NULL, e);
    if (!rc && s->keep.end)
        rc = cut(out, s->need[s->side->n_layers].begin, s->keep, e);
    return rc;
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

int vae_stream_run(vae_stream *s, const tensor *x, tensor *out, err *e)
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
