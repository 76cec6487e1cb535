#include "core/vae/vae_weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/vae/vae_bands.h"

/* Convolution weights are stored [Cout, Cin, kt, kh, kw] and used [Cout, kt, kh, kw, Cin], so that a gathered pixel is one run
 * of channels; they are small (0.5 GB for the full VAE) and repacked once. */

typedef struct {
    vae *v;
    const ckpt *c;
    ckpt_want *want;
    err *e;
    int rc;
    dtype type;      /* what the convolutions' weights are held in; biases and gammas are F32 */
} loader;

static void fail(loader *l, int rc)
{
    if (!l->rc)
        l->rc = rc;
}

static void gamma_of(loader *l, tensor *out, int channels, bool image, const char *name)
{
    const ckpt_tensor *t = image ? ckpt_want_tensor(l->want, 3, (int64_t[]){ channels, 1, 1 }, "%s", name)
                                 : ckpt_want_tensor(l->want, 4, (int64_t[]){ channels, 1, 1, 1 }, "%s", name);
    if (t && !l->rc)
        fail(l, op_weight(l->v->be, out, t, DT_F32, l->e));
}

/* dims: 2 for a 2-D convolution (kt is 1 and absent in the file) */
static void conv_of(loader *l, vae_conv *out, int cout, int cin, int kt, int kh, int kw, int dims, const char *name)
{
    char full[128];
    int64_t taps = (int64_t)kt * kh * kw, shape[5] = { cout, cin, kt, kh, kw }, flat[4] = { cout, cin, kh, kw };
    snprintf(full, sizeof full, "%s.weight", name);
    const ckpt_tensor *w = ckpt_want_tensor(l->want, dims == 2 ? 4 : 5, dims == 2 ? flat : shape, "%s", full);
    snprintf(full, sizeof full, "%s.bias", name);
    const ckpt_tensor *b = ckpt_want_tensor(l->want, 1, (int64_t[]){ cout }, "%s", full);
    if (!w || !b || l->rc)
        return;
    int64_t n = taps * cout * cin;
    float *file = malloc((size_t)n * 4), *ours = malloc((size_t)n * 4);
    if (!file || !ours) {
        fail(l, ERR(l->e, ERR_MEMORY, "no memory to repack '%s' (%lld values)", name, (long long)n));
    } else {
        dtype_to_f32(file, w->data, w->dtype, n);
        for (int64_t o = 0; o < cout; o++)
            for (int64_t i = 0; i < cin; i++)
                for (int64_t k = 0; k < taps; k++)
                    ours[(o * taps + k) * cin + i] = file[(o * cin + i) * taps + k];
        int rc = taps == 1 ? TENSOR_NEW(&out->w, l->v->be, l->type, l->e, cout, cin)
                           : TENSOR_NEW(&out->w, l->v->be, l->type, l->e, cout, kt, kh, kw, cin);
        fail(l, rc);
        if (!rc)
            fail(l, op_upload_f32(&out->w, ours, l->e));
        if (!l->rc)
            fail(l, op_weight(l->v->be, &out->b, b, DT_F32, l->e));
    }
    free(file);
    free(ours);
}

/* Row d of a 3x3 kernel over the 2x nearest enlargement falls on row (parity + d - 1) >> 1 of the small frame: for parity 0 the first
 * tap on row -1, the others on row 0; for parity 1 the first two on row 0, the last on row 1. Columns alike. */
static void sum_taps(loader *l, tensor *out, const vae_conv *conv, int cout, int cin, const char *name)
{
    char full[128];
    snprintf(full, sizeof full, "%s.weight", name);
    const ckpt_tensor *w = ckpt_find(l->c, full);
    if (!w || l->type == DT_F32 || l->rc || !conv->w.data)
        return;
    int64_t n = (int64_t)cout * cin;
    float *file = malloc((size_t)n * 9 * 4), *sums = calloc((size_t)n * 16, 4);
    if (!file || !sums) {
        fail(l, ERR(l->e, ERR_MEMORY, "no memory to sum the taps of '%s' (%lld values)", name, (long long)n * 16));
    } else {
        dtype_to_f32(file, w->data, w->dtype, n * 9);
        for (int64_t o = 0; o < cout; o++)
            for (int64_t i = 0; i < cin; i++)
                for (int k = 0; k < 36; k++) {      /* phase a, b and tap dy, dx */
                    int a = k / 18, b = k / 9 % 2, dy = k % 9 / 3, dx = k % 3, y = a ? dy == 2 : dy > 0, x = b ? dx == 2 : dx > 0;
                    sums[((o * 4 + a * 2 + b) * 4 + y * 2 + x) * cin + i] += file[(o * cin + i) * 9 + dy * 3 + dx];
                }
        int rc = TENSOR_NEW(out, l->v->be, l->type, l->e, cout, 4, 2, 2, cin);
        fail(l, rc ? rc : op_upload_f32(out, sums, l->e));
    }
    free(file);
    free(sums);
}

static void res_layer(loader *l, vae_side *s, int cin, int cout, const char *name)
{
    char full[112];
    vae_layer *y = &s->layers[s->n_layers++];
    y->kind = VAE_RES;
    snprintf(full, sizeof full, "%s.residual.0.gamma", name);
    gamma_of(l, &y->norm1, cin, false, full);
    snprintf(full, sizeof full, "%s.residual.2", name);
    conv_of(l, &y->conv1, cout, cin, 3, 3, 3, 3, full);
    snprintf(full, sizeof full, "%s.residual.3.gamma", name);
    gamma_of(l, &y->norm2, cout, false, full);
    snprintf(full, sizeof full, "%s.residual.6", name);
    conv_of(l, &y->conv2, cout, cout, 3, 3, 3, 3, full);
    y->has_shortcut = cin != cout;
    if (y->has_shortcut) {
        snprintf(full, sizeof full, "%s.shortcut", name);
        conv_of(l, &y->shortcut, cout, cin, 1, 1, 1, 3, full);
    }
}

/* the rows of to_qkv are q, k, v in thirds (vae.py:223-262) */
static void attn_layer(loader *l, vae_side *s, int c, const char *name)
{
    char full[112];
    vae_layer *y = &s->layers[s->n_layers++];
    vae_conv *part[3] = { &y->q, &y->k, &y->v };
    vae_conv qkv = { 0 };
    y->kind = VAE_ATTN;
    snprintf(full, sizeof full, "%s.norm.gamma", name);
    gamma_of(l, &y->norm1, c, true, full);
    snprintf(full, sizeof full, "%s.to_qkv", name);
    conv_of(l, &qkv, 3 * c, c, 1, 1, 1, 2, full);
    for (int i = 0; i < 3 && qkv.w.data && qkv.b.data && !l->rc; i++) {
        tensor w = tensor_rows(&qkv.w, (int64_t)i * c, c), b = tensor_rows(&qkv.b, (int64_t)i * c, c);
        int rc = TENSOR_NEW(&part[i]->w, l->v->be, l->type, l->e, c, c);
        if (!rc)
            rc = TENSOR_NEW(&part[i]->b, l->v->be, DT_F32, l->e, c);
        if (!rc)
            rc = op_copy(&part[i]->w, &w, l->e);
        if (!rc)
            rc = op_copy(&part[i]->b, &b, l->e);
        fail(l, rc);
    }
    tensor_free(&qkv.w);
    tensor_free(&qkv.b);
    snprintf(full, sizeof full, "%s.proj", name);
    conv_of(l, &y->proj, c, c, 1, 1, 1, 2, full);
}

static void resample_layer(loader *l, vae_side *s, bool up, bool temporal, int cin, int cout, const char *name)
{
    char full[112];
    vae_layer *y = &s->layers[s->n_layers++];
    y->kind = up ? VAE_UP : VAE_DOWN;
    y->temporal = temporal;
    snprintf(full, sizeof full, "%s.resample.1", name);
    conv_of(l, &y->conv1, cout, cin, 1, 3, 3, 2, full);
    if (up)
        sum_taps(l, &y->conv1_up, &y->conv1, cout, cin, full);
    if (temporal) {
        snprintf(full, sizeof full, "%s.time_conv", name);
        conv_of(l, &y->conv2, up ? 2 * cin : cin, cin, 3, 1, 1, 3, full);
    }
}

static void middle(loader *l, vae_side *s, int c, const char *side)
{
    char name[64];
    snprintf(name, sizeof name, "%s.middle.0", side);
    res_layer(l, s, c, c, name);
    snprintf(name, sizeof name, "%s.middle.1", side);
    attn_layer(l, s, c, name);
    snprintf(name, sizeof name, "%s.middle.2", side);
    res_layer(l, s, c, c, name);
}

static void encoder(loader *l, vae_side *s, const vae_config *c)
{
    char name[64];
    int at = 0, in = c->dim, out = c->dim;
    conv_of(l, &s->conv_in, c->dim, 3, 3, 3, 3, 3, "encoder.conv1");
    for (int i = 0; i < 4; i++) {
        out = c->dim * c->mult[i];
        for (int r = 0; r < c->num_res_blocks; r++, in = out) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", at++);
            res_layer(l, s, in, out, name);
        }
        if (i < 3) {
            snprintf(name, sizeof name, "encoder.downsamples.%d", at++);
            resample_layer(l, s, false, c->temporal_down[i], out, out, name);
        }
    }
    middle(l, s, out, "encoder");
    gamma_of(l, &s->norm_out, out, false, "encoder.head.0.gamma");
    conv_of(l, &s->conv_out, 2 * c->z_dim, out, 3, 3, 3, 3, "encoder.head.2");
}

static void decoder(loader *l, vae_side *s, const vae_config *c)
{
    char name[64];
    vae_shape list[VAE_MAX_LAYERS];
    int n = vae_decoder_shapes(c, list);
    conv_of(l, &s->conv_in, list[0].cin, c->z_dim, 3, 3, 3, 3, "decoder.conv1");
    for (int i = 0; i < n; i++) {
        if (i < 3)
            snprintf(name, sizeof name, "decoder.middle.%d", i);
        else
            snprintf(name, sizeof name, "decoder.upsamples.%d", i - 3);
        if (list[i].kind == VAE_RES)
            res_layer(l, s, list[i].cin, list[i].cout, name);
        else if (list[i].kind == VAE_ATTN)
            attn_layer(l, s, list[i].cin, name);
        else
            resample_layer(l, s, true, list[i].temporal, list[i].cin, list[i].cout, name);
    }
    gamma_of(l, &s->norm_out, list[n - 1].cout, false, "decoder.head.0.gamma");
    conv_of(l, &s->conv_out, 3, list[n - 1].cout, 3, 3, 3, 3, "decoder.head.2");
}

int vae_weights_load(vae *v, const ckpt *c, err *e)
{
    loader l = { .v = v, .c = c, .e = e, .type = v->type };
    vae_shape list[VAE_MAX_LAYERS];
    if (!vae_decoder_shapes(&v->cfg, list))      /* the encoder has fewer */
        return ERR(e, ERR_SHAPE, "%s: a VAE with %d residual blocks a stage is not supported", ckpt_path(c), v->cfg.num_res_blocks);
    int rc = ckpt_want_begin(&l.want, c, "VAE", e);
    if (rc)
        return rc;
    encoder(&l, &v->encoder, &v->cfg);
    decoder(&l, &v->decoder, &v->cfg);
    l.type = DT_F32;      /* a few kilobytes next to the latents, which are F32 */
    conv_of(&l, &v->quant, 2 * v->cfg.z_dim, 2 * v->cfg.z_dim, 1, 1, 1, 3, "conv1");
    conv_of(&l, &v->post_quant, v->cfg.z_dim, v->cfg.z_dim, 1, 1, 1, 3, "conv2");
    rc = ckpt_want_finish(l.want, true, l.rc ? NULL : e);
    return l.rc ? l.rc : rc;
}

static int64_t visit_conv(vae_conv *c, bool release)
{
    int64_t n = tensor_bytes(&c->w) + tensor_bytes(&c->b);
    if (release) {
        tensor_free(&c->w);
        tensor_free(&c->b);
    }
    return n;
}

static int64_t visit_side(vae_side *s, bool release)
{
    int64_t n = visit_conv(&s->conv_in, release) + visit_conv(&s->conv_out, release);
    if (release)
        tensor_free(&s->norm_out);
    for (int i = 0; i < s->n_layers; i++) {
        vae_layer *y = &s->layers[i];
        vae_conv *all[] = { &y->conv1, &y->conv2, &y->shortcut, &y->q, &y->k, &y->v, &y->proj };
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            n += visit_conv(all[k], release);
        n += tensor_bytes(&y->norm1) + tensor_bytes(&y->norm2) + tensor_bytes(&y->conv1_up);
        if (release) {
            tensor_free(&y->conv1_up);
            tensor_free(&y->norm1);
            tensor_free(&y->norm2);
        }
    }
    return n;
}

static int64_t visit(vae *v, bool release)
{
    return visit_side(&v->encoder, release) + visit_side(&v->decoder, release) + visit_conv(&v->quant, release) +
           visit_conv(&v->post_quant, release);
}

void vae_weights_free(vae *v)
{
    visit(v, true);
}

int64_t vae_weights_bytes(const vae *v)
{
    vae copy = *v;
    return visit(&copy, false);
}
