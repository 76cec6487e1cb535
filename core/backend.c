#include "core/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/attention8.h"

/* The argument checks shared by all backends. A failing check is our own bug, never a user's: users' shapes are checked
 * where files and flags are read. It still ends in a sentence, not in a crash. */

static int bad(err *e, const char *op, const char *what, const tensor *a, const tensor *b)
{
    char ta[96] = "-", tb[96] = "-";
    if (a)
        tensor_describe(a, ta, sizeof ta);
    if (b)
        tensor_describe(b, tb, sizeof tb);
    return ERR(e, ERR_INTERNAL, "%s: %s (%s and %s)", op, what, ta, tb);
}

#define NEED(cond, what, a, b) do { if (!(cond)) return bad(e, op, (what), (a), (b)); } while (0)

static bool is_activation(dtype t)
{
    return t == DT_F32 || t == DT_BF16 || t == DT_F16;
}

static bool same_shape(const tensor *a, const tensor *b)
{
    return tensor_count(a) == tensor_count(b) && tensor_cols(a) == tensor_cols(b);
}

void backend_close(backend *be)
{
    if (be) {
        be->ops->close(be);
        free(be->impl);
        free(be);
    }
}

#ifndef HAVE_CUDA
int backend_gpu_count(void)
{
    return 0;
}
#endif

int backend_open(backend **out, const char *device, err *e)
{
    *out = NULL;
    if (!strcmp(device, "cpu"))
        return backend_open_cpu(out, e);
#ifdef HAVE_CUDA
    if (!strcmp(device, "auto"))
        return backend_gpu_count() > 0 ? backend_open_cuda(out, 0, e) : backend_open_cpu(out, e);
    if (!strcmp(device, "cuda"))
        return backend_open_cuda(out, 0, e);
    if (!strncmp(device, "cuda:", 5)) {
        char *end;
        long n = strtol(device + 5, &end, 10);
        if (end != device + 5 && !*end && n >= 0 && n < 1024)
            return backend_open_cuda(out, (int)n, e);
    }
#else
    if (!strcmp(device, "auto"))
        return backend_open_cpu(out, e);
    if (!strncmp(device, "cuda", 4) && (!device[4] || device[4] == ':'))
        return ERR(e, ERR_DEVICE, "device '%s': this build has no CUDA engine (it was made without nvcc); use --device cpu", device);
#endif
    return ERR(e, ERR_ARG, "device '%s' is unknown; use cpu, cuda, cuda:N or auto", device);
}

/* ---- memory ---- */

int op_upload(tensor *dst, const void *host, err *e)
{
    return dst->be->ops->upload(dst->be, dst->data, host, (size_t)tensor_bytes(dst), e);
}

int op_download(void *host, const tensor *src, err *e)
{
    return src->be->ops->download(src->be, host, src->data, (size_t)tensor_bytes(src), e);
}

int op_download_f32(float *host, const tensor *src, err *e)
{
    if (src->dtype == DT_F32)
        return op_download(host, src, e);
    void *tmp = malloc((size_t)tensor_bytes(src));
    if (!tmp)
        return ERR(e, ERR_MEMORY, "no memory for a host copy of %lld bytes", (long long)tensor_bytes(src));
    int rc = op_download(tmp, src, e);
    if (!rc)
        dtype_to_f32(host, tmp, src->dtype, tensor_count(src));
    free(tmp);
    return rc;
}

int op_upload_f32(tensor *dst, const float *host, err *e)
{
    if (dst->dtype == DT_F32)
        return op_upload(dst, host, e);
    void *tmp = malloc((size_t)tensor_bytes(dst));
    if (!tmp)
        return ERR(e, ERR_MEMORY, "no memory for a host copy of %lld bytes", (long long)tensor_bytes(dst));
    dtype_from_f32(tmp, dst->dtype, host, tensor_count(dst));
    int rc = op_upload(dst, tmp, e);
    free(tmp);
    return rc;
}

int op_copy(tensor *dst, const tensor *src, err *e)
{
    const char *op = "copy";
    NEED(dst->dtype == src->dtype && tensor_count(dst) == tensor_count(src), "type or size differs", dst, src);
    return dst->be->ops->copy(dst->be, dst->data, src->data, (size_t)tensor_bytes(src), e);
}

int op_zero(tensor *dst, err *e)
{
    return dst->be->ops->zero(dst->be, dst->data, (size_t)tensor_bytes(dst), e);
}

int op_weight(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e)
{
    *out = (tensor){ 0 };
    if (src->ndim < 1 || src->ndim > TENSOR_MAX_DIMS)
        return ERR(e, ERR_SHAPE, "%s: tensor '%s' has %d dimensions, at most %d can be used", src->file, src->name,
                   src->ndim, TENSOR_MAX_DIMS);
    return be->ops->weight(be, out, src, want, e);
}

/* ---- transformer ---- */

int op_linear(tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    const char *op = "linear";
    NEED(w->ndim == 2 && w->shape[1] == tensor_cols(x), "input width differs from the weight's", x, w);
    NEED(tensor_cols(out) == w->shape[0] && tensor_nrows(out) == tensor_nrows(x), "output does not fit", out, w);
    NEED(!bias || tensor_count(bias) == w->shape[0], "bias does not fit", bias, w);
    bool narrow = x->dtype == DT_F8_E4M3 && w->dtype == DT_F8_E4M3 && x->scale && w->scale && out->be->ops->fp8;
    NEED((narrow || is_activation(x->dtype)) && is_activation(out->dtype), "activation type", x, out);
    NEED(out->data != x->data, "output may not be the input", out, x);
    return out->be->ops->linear(out->be, out, x, w, bias, act, e);
}

int op_quantise(tensor *out, const tensor *x, err *e)
{
    const char *op = "quantise";
    NEED(same_shape(out, x) && out->dtype == DT_F8_E4M3 && out->scale && out->be->ops->quantise, "an 8-bit tensor with scales is needed", out, x);
    return out->be->ops->quantise(out->be, out, x, e);
}

int op_layernorm(tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e)
{
    const char *op = "layernorm";
    NEED(same_shape(out, x), "shapes differ", out, x);
    NEED((!w && !b) || (w && b && tensor_count(w) == tensor_cols(x) && tensor_count(b) == tensor_cols(x)),
         "affine part does not fit", w, x);
    return out->be->ops->layernorm(out->be, out, x, w, b, eps, e);
}

int op_layernorm_mod(tensor *out, const tensor *x, const tensor *scale, const tensor *shift, float eps, err *e)
{
    const char *op = "layernorm_mod";
    NEED(same_shape(out, x), "shapes differ", out, x);
    NEED(tensor_cols(scale) == tensor_cols(x) && same_shape(scale, shift) &&
         tensor_nrows(x) % tensor_nrows(scale) == 0, "modulation does not fit", scale, x);
    return out->be->ops->layernorm_mod(out->be, out, x, scale, shift, eps, e);
}

int op_rmsnorm(tensor *out, const tensor *x, const tensor *w, float eps, err *e)
{
    const char *op = "rmsnorm";
    NEED(same_shape(out, x), "shapes differ", out, x);
    NEED(tensor_count(w) == tensor_cols(x), "weight does not fit", w, x);
    return out->be->ops->rmsnorm(out->be, out, x, w, eps, e);
}

static int check_rope(const char *op, const tensor *x, const rope_table *r, int n_heads, err *e)
{
    int64_t pairs = r->pairs[0] + r->pairs[1] + r->pairs[2];
    NEED(n_heads > 0 && pairs * 2 * n_heads == tensor_cols(x), "pairs do not fit the heads", x, NULL);
    NEED(r->grid[0] * r->grid[1] * r->grid[2] == tensor_nrows(x), "grid does not fit the tokens", x, NULL);
    for (int a = 0; a < 3; a++)
        NEED(r->cs[a]->shape[0] >= r->grid[a] + (a ? 0 : r->frame_offset) && r->cs[a]->shape[1] == r->pairs[a],
             "table too short", r->cs[a], x);
    return 0;
}

int op_rope(tensor *x, const rope_table *r, int n_heads, err *e)
{
    int rc = check_rope("rope", x, r, n_heads, e);
    return rc ? rc : x->be->ops->rope(x->be, x, r, n_heads, e);
}

int op_gate_add(tensor *x, const tensor *y, const tensor *gate, err *e)
{
    const char *op = "gate_add";
    NEED(same_shape(x, y), "shapes differ", x, y);
    NEED(!gate || (tensor_cols(gate) == tensor_cols(x) && tensor_nrows(x) % tensor_nrows(gate) == 0),
         "gate does not fit", gate, x);
    return x->be->ops->gate_add(x->be, x, y, gate, e);
}

int op_residual_norm(const residual_norm_args *a, err *e)
{
    const char *op = "residual_norm";
    NEED(same_shape(a->x, a->y) && same_shape(a->x, a->out), "shapes differ", a->x, a->out);
    NEED(!a->gate || (tensor_cols(a->gate) == tensor_cols(a->x) && tensor_nrows(a->x) % tensor_nrows(a->gate) == 0), "gate does not fit", a->gate, a->x);
    NEED(a->a && a->b && tensor_cols(a->a) == tensor_cols(a->x) && same_shape(a->a, a->b) && tensor_nrows(a->x) % tensor_nrows(a->a) == 0,
         "modulation does not fit", a->a, a->x);
    NEED(a->out->data != a->x->data && a->out->data != a->y->data, "output may not be an input", a->out, a->x);
    backend *be = a->x->be;
    if (be->ops->residual_norm)
        return be->ops->residual_norm(be, a, e);
    int rc = op_gate_add(a->x, a->y, a->gate, e);
    if (rc)
        return rc;
    return a->modulated ? op_layernorm_mod(a->out, a->x, a->a, a->b, a->eps, e) : op_layernorm(a->out, a->x, a->a, a->b, a->eps, e);
}

int op_rmsnorm_rope(tensor *out, const tensor *x, const tensor *w, float eps, const rope_table *r, int n_heads, err *e)
{
    const char *op = "rmsnorm_rope";
    NEED(same_shape(out, x) && tensor_count(w) == tensor_cols(x), "shapes differ", out, w);
    int rc = check_rope(op, x, r, n_heads, e);
    if (rc)
        return rc;
    if (out->be->ops->rmsnorm_rope)
        return out->be->ops->rmsnorm_rope(out->be, out, x, w, eps, r, n_heads, e);
    rc = op_rmsnorm(out, x, w, eps, e);
    return rc ? rc : op_rope(out, r, n_heads, e);
}

int op_cast(tensor *out, const tensor *x, err *e)
{
    const char *op = "cast";
    NEED(tensor_count(out) == tensor_count(x), "sizes differ", out, x);
    if (out->dtype == x->dtype)
        return op_copy(out, x, e);
    NEED(out->be->ops->cast, "the backend knows one type", out, x);
    return out->be->ops->cast(out->be, out, x, e);
}

int op_add_row(tensor *out, const tensor *x, const tensor *row, err *e)
{
    const char *op = "add_row";
    NEED(same_shape(out, x) && tensor_cols(row) == tensor_cols(x) && tensor_nrows(x) % tensor_nrows(row) == 0, "row does not fit", row, x);
    return out->be->ops->add_row(out->be, out, x, row, e);
}

static int check_plan(const char *op, const attn_plan *p, int64_t n_q, int64_t n_k, const tensor *q, err *e)
{
    int64_t at = 0;
    for (int s = 0; s < p->n_segments; s++) {
        const attn_segment *g = &p->segments[s];
        NEED(g->q_begin == at && g->q_end >= at && g->q_end <= n_q, "query segments have a gap or overlap", q, NULL);
        at = g->q_end;
        NEED(g->n_ranges > 0, "a query segment sees no key", q, NULL);
        int64_t keys = 0;
        for (int r = 0; r < g->n_ranges; r++) {
            NEED(g->ranges[r].begin >= 0 && g->ranges[r].begin <= g->ranges[r].end && g->ranges[r].end <= n_k,
                 "key range outside the keys", q, NULL);
            keys += g->ranges[r].end - g->ranges[r].begin;
        }
        NEED(keys > 0 || g->q_begin == g->q_end, "a query segment sees no key", q, NULL);
    }
    NEED(p->n_segments == 0 || at == n_q, "query segments do not cover all queries", q, NULL);
    return 0;
}

int op_attention(const attn_args *a, err *e)
{
    const char *op = "attention";
    NEED(same_shape(a->q, a->out), "output does not fit", a->q, a->out);
    NEED(tensor_cols(a->q) == tensor_cols(a->k) && same_shape(a->k, a->v), "keys do not fit", a->q, a->k);
    NEED(a->n_heads > 0 && tensor_cols(a->q) % a->n_heads == 0, "heads do not divide the width", a->q, NULL);
    NEED(!a->rel_bias || (a->rel_bias->shape[0] == a->n_heads && a->rel_bias->dtype == DT_F32 &&
                          a->rel_bias->shape[1] >= tensor_nrows(a->q) + tensor_nrows(a->k) - 1),
         "relative bias does not fit", a->rel_bias, a->q);
    NEED(a->q->dtype == a->k->dtype && a->q->dtype == a->v->dtype && a->q->dtype == a->out->dtype, "types differ", a->q, a->out);
    NEED(!a->lse || (a->lse->dtype == DT_F32 && a->lse->shape[0] == a->n_heads && tensor_cols(a->lse) == tensor_nrows(a->q)),
         "log-sum-exp does not fit", a->lse, a->q);
    NEED(!a->room8 || (a->room8->dtype == DT_U8 && tensor_cols(a->room8) >= attn8_bytes(tensor_nrows(a->q), tensor_nrows(a->k), a->n_heads,
                                                                                       (int)(tensor_cols(a->q) / a->n_heads))),
         "the scratch for 8 bits is too small", a->room8, a->q);
    int rc = check_plan(op, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), a->q, e);
    return rc ? rc : a->out->be->ops->attention(a->out->be, a, e);
}

int op_attn_probs(const attn_probs_args *a, err *e)
{
    const char *op = "attn_probs";
    int64_t n_q = tensor_nrows(a->q), n_k = tensor_nrows(a->k);
    NEED(tensor_cols(a->q) == tensor_cols(a->k) && a->q->dtype == a->k->dtype, "keys do not fit", a->q, a->k);
    NEED(a->n_heads > 0 && tensor_cols(a->q) % a->n_heads == 0, "heads do not divide the width", a->q, NULL);
    NEED(a->out->dtype == DT_F32 && a->out->ndim == 3 && (a->out->shape[0] == 1 || a->out->shape[0] == a->n_heads) &&
         a->out->shape[1] == a->n_words && a->out->shape[2] == n_q, "output does not fit", a->out, a->q);
    NEED(!a->lse || (a->lse->dtype == DT_F32 && a->lse->shape[0] == a->n_heads && tensor_cols(a->lse) == n_q), "log-sum-exp does not fit", a->lse, a->q);
    for (int i = 0; i < a->word_begin[a->n_words]; i++)
        NEED(a->columns[i] >= 0 && a->columns[i] < n_k, "a word's column is outside the keys", a->k, NULL);
    int rc = check_plan(op, &a->plan, n_q, n_k, a->q, e);
    return rc ? rc : a->out->be->ops->attn_probs(a->out->be, a, e);
}

int op_silu(tensor *out, const tensor *x, err *e)
{
    const char *op = "silu";
    NEED(same_shape(out, x), "shapes differ", out, x);
    return out->be->ops->silu(out->be, out, x, e);
}

int op_gated_gelu(tensor *out, const tensor *x, const tensor *gate, err *e)
{
    const char *op = "gated_gelu";
    NEED(same_shape(out, x) && same_shape(out, gate), "shapes differ", x, gate);
    return out->be->ops->gated_gelu(out->be, out, x, gate, e);
}

int op_embed(tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e)
{
    const char *op = "embed";
    NEED(tensor_cols(out) == tensor_cols(table) && tensor_nrows(out) == n, "output does not fit", out, table);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= table->shape[0])
            return ERR(e, ERR_SHAPE, "token id %d at position %lld is outside the text encoder's vocabulary of %lld; "
                       "do tokenizer and text encoder belong together?", ids[i], (long long)i, (long long)table->shape[0]);
    return out->be->ops->embed(out->be, out, table, ids, n, e);
}

int op_patchify(tensor *tokens, const tensor *latents, err *e)
{
    const char *op = "patchify";
    NEED(latents->ndim == 4 && latents->shape[2] % 2 == 0 && latents->shape[3] % 2 == 0, "latents of even size", latents, NULL);
    NEED(tensor_cols(tokens) == latents->shape[0] * 4 && tensor_count(tokens) == tensor_count(latents), "output does not fit", tokens, latents);
    return tokens->be->ops->patchify(tokens->be, tokens, latents, e);
}

int op_unpatchify(tensor *latents, const tensor *tokens, err *e)
{
    const char *op = "unpatchify";
    NEED(latents->ndim == 4 && latents->shape[2] % 2 == 0 && latents->shape[3] % 2 == 0, "latents of even size", latents, NULL);
    NEED(tensor_cols(tokens) == latents->shape[0] * 4 && tensor_count(tokens) == tensor_count(latents), "input does not fit", tokens, latents);
    return latents->be->ops->unpatchify(latents->be, latents, tokens, e);
}

/* ---- sampler ---- */

int op_axpby(tensor *out, float a, const tensor *x, float b, const tensor *y, err *e)
{
    const char *op = "axpby";
    NEED(tensor_count(out) == tensor_count(x) && tensor_count(out) == tensor_count(y), "sizes differ", x, y);
    NEED(out->dtype == DT_F32 && x->dtype == DT_F32 && (y->dtype == DT_F32 || (y->dtype == DT_BF16 && out->be->ops->bf16)), "f32 expected", x, y);
    return out->be->ops->axpby(out->be, out, a, x, b, y, e);
}

int op_div_scalar(tensor *out, const tensor *x, float d, err *e)
{
    const char *op = "div_scalar";
    NEED(tensor_count(out) == tensor_count(x) && out->dtype == DT_F32 && x->dtype == DT_F32, "f32 of one size expected", out, x);
    return out->be->ops->div_scalar(out->be, out, x, d, e);
}

int op_randn_cuda(tensor *out, uint64_t seed, uint64_t first, int64_t threads, int64_t calls, err *e)
{
    const char *op = "randn_cuda";
    NEED(out->be->ops->randn_cuda, "the backend has no generator", out, NULL);
    NEED(out->dtype == DT_F32 && threads > 0 && calls > 0 && calls <= INT64_MAX / 4 / threads && tensor_count(out) <= 4 * threads * calls, "does not fit", out, NULL);
    return out->be->ops->randn_cuda(out->be, out, seed, first, threads, calls, e);
}

int op_x0(tensor *out, const tensor *x, double sigma, const tensor *v, err *e)
{
    const char *op = "x0";
    NEED(tensor_count(out) == tensor_count(x) && tensor_count(x) == tensor_count(v), "sizes differ", x, v);
    NEED(out->dtype == DT_F32 && x->dtype == DT_F32 && v->dtype == DT_F32, "f32 is needed", x, v);
    return out->be->ops->x0(out->be, out, x, sigma, v, e);
}

int op_nonfinite(tensor *flag, const tensor *x, err *e)
{
    const char *op = "nonfinite";
    NEED(flag->dtype == DT_I32 && tensor_count(flag) == 1 && x->dtype == DT_F32, "a flag i32 [1] and f32 values are needed", flag, x);
    return x->be->ops->nonfinite(x->be, flag, x, e);
}

int op_any_nonfinite(bool *found, const tensor *x, err *e)
{
    tensor flag = { 0 };
    int32_t value = 0;
    int rc = TENSOR_NEW(&flag, x->be, DT_I32, e, 1);
    if (!rc)
        rc = op_nonfinite(&flag, x, e);
    if (!rc)
        rc = op_download(&value, &flag, e);
    *found = value != 0;
    tensor_free(&flag);
    return rc;
}

/* ---- VAE ---- */

int op_conv(const conv_args *a, err *e)
{
    const char *op = "conv";
    NEED(a->x->ndim == 4 && a->out->ndim == 4 && a->w->ndim == 5, "x, out [T,H,W,C], w [Cout,kt,kh,kw,Cin]", a->x, a->w);
    NEED(a->w->shape[4] == a->x->shape[3] && a->w->shape[0] == a->out->shape[3], "channels differ", a->x, a->w);
    NEED(!a->past || (a->past->ndim == 4 && a->past->shape[1] == a->x->shape[1] && a->past->shape[2] == a->x->shape[2] &&
                      a->past->shape[3] == a->x->shape[3]), "past does not fit", a->past, a->x);
    NEED(!a->before || (a->past && a->before->ndim == 4 && a->before->shape[1] == a->x->shape[1] && a->before->shape[2] == a->x->shape[2] &&
                        a->before->shape[3] == a->x->shape[3]), "the frames before past do not fit", a->before, a->x);
    NEED(!a->residual || (same_shape(a->residual, a->out)), "residual does not fit", a->residual, a->out);
    NEED(!a->w_up || (a->upsample2x && a->w->shape[1] == 1 && a->w->shape[2] == 3 && a->w->shape[3] == 3 && a->w_up->dtype == a->w->dtype &&
                      tensor_count(a->w_up) == 16 * a->w->shape[0] * a->w->shape[4]), "the summed taps do not fit", a->w_up, a->w);
    NEED(!a->norm || (tensor_count(a->norm) == a->out->shape[3] && a->norm->dtype == DT_F32), "norm does not fit", a->norm, a->out);
    NEED(a->act == ACT_NONE || (a->norm && a->act == ACT_SILU), "activation", a->out, NULL);
    NEED(a->stride_t > 0 && a->stride_h > 0 && a->stride_w > 0, "strides", a->x, NULL);
    NEED((a->out->shape[0] - 1) * a->stride_t + a->w->shape[1] - 1 - a->n_past < a->x->shape[0], "needs frames after x", a->x, a->out);
    return a->out->be->ops->conv(a->out->be, a, e);
}

int op_pixel_norm(tensor *out, const tensor *x, const tensor *gamma, activation act, err *e)
{
    const char *op = "pixel_norm";
    NEED(same_shape(out, x) && tensor_count(gamma) == tensor_cols(x), "shapes differ", out, gamma);
    NEED(act == ACT_NONE || act == ACT_SILU, "activation", x, NULL);
    return out->be->ops->pixel_norm(out->be, out, x, gamma, act, e);
}

int op_time_interleave(tensor *out, const tensor *x, err *e)
{
    const char *op = "time_interleave";
    NEED(x->ndim == 4 && out->ndim == 4 && out->shape[0] == 2 * x->shape[0] && out->shape[3] * 2 == x->shape[3] &&
         tensor_count(out) == tensor_count(x), "shapes", out, x);
    return out->be->ops->time_interleave(out->be, out, x, e);
}

int op_to_channels_last(tensor *out, const tensor *x, const float *div, const float *add, err *e)
{
    const char *op = "to_channels_last";
    NEED(x->ndim == 4 && out->ndim == 4 && out->shape[3] == x->shape[0] && tensor_count(out) == tensor_count(x), "shapes", out, x);
    return out->be->ops->to_channels_last(out->be, out, x, div, add, e);
}

int op_to_channels_first(tensor *out, const tensor *x, const float *sub, const float *mul, err *e)
{
    const char *op = "to_channels_first";
    NEED(x->ndim == 4 && out->ndim == 4 && out->shape[0] <= x->shape[3] && out->shape[1] == x->shape[0] &&
         out->shape[2] == x->shape[1] && out->shape[3] == x->shape[2], "shapes", out, x);
    return out->be->ops->to_channels_first(out->be, out, x, sub, mul, e);
}

int op_rgb_begin(rgb_frames *r, const tensor *frames, err *e)
{
    const char *op = "rgb";
    NEED(frames->ndim == 4 && frames->shape[3] == 3 && frames->dtype == DT_F32 && frames->be == r->be, "frames f32 [T,H,W,3]", frames, NULL);
    r->frames = frames->shape[0];
    r->height = frames->shape[1];
    r->width = frames->shape[2];
    return r->be->ops->rgb_begin(r->be, r, frames, e);
}

int op_rgb_wait(rgb_frames *r, err *e)
{
    return r->be->ops->rgb_wait(r->be, r, e);
}

void op_rgb_free(rgb_frames *r)
{
    if (r->be && r->impl)
        r->be->ops->rgb_free(r->be, r);
    *r = (rgb_frames){ .be = r->be };
}
