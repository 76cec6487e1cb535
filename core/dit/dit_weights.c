#include "core/dit/dit_weights.h"

#include <stdio.h>
#include <stdlib.h>

/* Matrices stay in the type of the file (policy permitting); vectors and modulation tables are f32. */

typedef struct {
    backend *be;
    ckpt_want *want;
    const precision *prec;
    err *e;
    int rc;
} loader;

/* 2-D weight viewed as [rows, cols]: the 5-D patch embedding is flattened by its own loader */
static void matrix(loader *l, tensor *out, int64_t rows, int64_t cols, const char *name)
{
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 2, (int64_t[]){ rows, cols }, "%s", name);
    if (t && !l->rc)
        l->rc = op_weight(l->be, out, t, l->prec->weight, l->e);
}

static void vector(loader *l, tensor *out, int64_t n, const char *name)
{
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 1, (int64_t[]){ n }, "%s", name);
    if (t && !l->rc)
        l->rc = op_weight(l->be, out, t, DT_F32, l->e);
}

static void linear(loader *l, dit_linear *out, int64_t rows, int64_t cols, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    matrix(l, &out->w, rows, cols, full);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    vector(l, &out->b, rows, full);
}

static void modulation(loader *l, tensor *out, int64_t rows, int64_t dim, const char *name)
{
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 3, (int64_t[]){ 1, rows, dim }, "%s", name);
    tensor whole;
    if (t && !l->rc && !(l->rc = op_weight(l->be, &whole, t, DT_F32, l->e))) {
        *out = whole;
        out->ndim = 2;
        out->shape[0] = rows;
        out->shape[1] = dim;
        out->shape[2] = 1;
    }
}

static void attention(loader *l, dit_attention *a, int64_t dim, const char *block, const char *name)
{
    char prefix[96], full[160];
    snprintf(prefix, sizeof prefix, "%s%s.", block, name);
    linear(l, &a->q, dim, dim, prefix, "q");
    linear(l, &a->k, dim, dim, prefix, "k");
    linear(l, &a->v, dim, dim, prefix, "v");
    linear(l, &a->o, dim, dim, prefix, "o");
    snprintf(full, sizeof full, "%snorm_q.weight", prefix);
    vector(l, &a->norm_q, dim, full);
    snprintf(full, sizeof full, "%snorm_k.weight", prefix);
    vector(l, &a->norm_k, dim, full);
}

static void block(loader *l, dit_block *b, const dit_config *c, int i)
{
    char p[48], full[160];
    snprintf(p, sizeof p, "blocks.%d.", i);
    attention(l, &b->self_attn, c->dim, p, "self_attn");
    attention(l, &b->cross_attn, c->dim, p, "cross_attn");
    snprintf(full, sizeof full, "%snorm3.weight", p);
    vector(l, &b->norm3_w, c->dim, full);
    snprintf(full, sizeof full, "%snorm3.bias", p);
    vector(l, &b->norm3_b, c->dim, full);
    linear(l, &b->ffn_0, c->ffn_dim, c->dim, p, "ffn.0");
    linear(l, &b->ffn_2, c->dim, c->ffn_dim, p, "ffn.2");
    snprintf(full, sizeof full, "%smodulation", p);
    modulation(l, &b->modulation, 6, c->dim, full);
}

int dit_weights_load(dit_weights *out, backend *be, const ckpt *c, const dit_config *cfg, const precision *prec, err *e)
{
    loader l = { .be = be, .prec = prec, .e = e };
    int64_t patch = (int64_t)cfg->in_dim * 4;
    *out = (dit_weights){ .n_blocks = cfg->num_layers };
    if (!(out->blocks = calloc((size_t)cfg->num_layers, sizeof *out->blocks)))
        return ERR(e, ERR_MEMORY, "no memory for %d blocks", cfg->num_layers);
    int rc = ckpt_want_begin(&l.want, c, "DiT", e);
    if (rc)
        return rc;
    const ckpt_tensor *t = ckpt_want_tensor(l.want, 5, (int64_t[]){ cfg->dim, cfg->in_dim, 1, 2, 2 }, "patch_embedding.weight");
    if (t && !(l.rc = op_weight(be, &out->patch_embedding.w, t, prec->weight, e))) {
        tensor *w = &out->patch_embedding.w;      /* [dim, in, 1, 2, 2] is already [dim, in*4] in memory */
        w->ndim = 2;
        w->shape[1] = patch;
        w->shape[2] = w->shape[3] = w->shape[4] = 1;
    }
    vector(&l, &out->patch_embedding.b, cfg->dim, "patch_embedding.bias");
    linear(&l, &out->text_embedding_0, cfg->dim, cfg->text_dim, "", "text_embedding.0");
    linear(&l, &out->text_embedding_2, cfg->dim, cfg->dim, "", "text_embedding.2");
    linear(&l, &out->time_embedding_0, cfg->dim, cfg->freq_dim, "", "time_embedding.0");
    linear(&l, &out->time_embedding_2, cfg->dim, cfg->dim, "", "time_embedding.2");
    linear(&l, &out->time_projection, 6 * (int64_t)cfg->dim, cfg->dim, "", "time_projection.1");
    linear(&l, &out->head, 4 * (int64_t)cfg->out_dim, cfg->dim, "", "head.head");
    modulation(&l, &out->head_modulation, 2, cfg->dim, "head.modulation");
    for (int i = 0; i < cfg->num_layers; i++)
        block(&l, &out->blocks[i], cfg, i);
    if (cfg->n_vace_layers) {      /* hints are loaded by their own module */
        ckpt_want_ignore(l.want, "vace_blocks.");
        ckpt_want_ignore(l.want, "vace_patch_embedding.");
    }
    rc = ckpt_want_finish(l.want, true, e);
    return rc ? rc : l.rc;
}

static void linear_free(dit_linear *l)
{
    tensor_free(&l->w);
    tensor_free(&l->b);
}

static void attention_free(dit_attention *a)
{
    linear_free(&a->q);
    linear_free(&a->k);
    linear_free(&a->v);
    linear_free(&a->o);
    tensor_free(&a->norm_q);
    tensor_free(&a->norm_k);
}

void dit_weights_free(dit_weights *w)
{
    linear_free(&w->patch_embedding);
    linear_free(&w->text_embedding_0);
    linear_free(&w->text_embedding_2);
    linear_free(&w->time_embedding_0);
    linear_free(&w->time_embedding_2);
    linear_free(&w->time_projection);
    linear_free(&w->head);
    tensor_free(&w->head_modulation);
    for (int i = 0; w->blocks && i < w->n_blocks; i++) {
        dit_block *b = &w->blocks[i];
        attention_free(&b->self_attn);
        attention_free(&b->cross_attn);
        linear_free(&b->ffn_0);
        linear_free(&b->ffn_2);
        tensor_free(&b->norm3_w);
        tensor_free(&b->norm3_b);
        tensor_free(&b->modulation);
    }
    free(w->blocks);
    *w = (dit_weights){ 0 };
}
