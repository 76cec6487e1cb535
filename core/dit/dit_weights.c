#include "core/dit/dit_weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/dit/dit_swap.h"
#include "core/io/quantise.h"
#include "core/io/scaled.h"

/* Matrices stay in the type of the file (policy permitting); vectors and modulation tables are f32. */

typedef struct {
    backend *be;
    ckpt_want *want;
    const precision *prec;
    const ckpt *c;
    lora_merge *adapters;      /* NULL: none */
    bool fp8_scaled;
    scaled_tally tally;
    err *e;
    int rc;
} loader;

/* Any tensor: as it lies in the file, multiplied out where it is scaled, with all adapters added where there are some. */
static int fetch(loader *l, tensor *out, const ckpt_tensor *t, int64_t rows, int64_t cols, dtype type)
{
    int rc = 0, parts = 0;
    float *w = NULL;
    if (l->adapters && (rc = lora_merge_tensor(l->adapters, t->name, NULL, rows, cols, &parts, l->e)))
        return rc;
    bool round = l->fp8_scaled && fp8_takes(t->name, t->ndim);
    if (!parts && !round)
        return scaled_weight(out, l->be, l->c, t, type, l->want, &l->tally, l->e);
    if (!(w = malloc((size_t)(rows * cols) * sizeof *w)))
        return ERR(l->e, ERR_MEMORY, "no memory to merge adapters into '%s'", t->name);
    rc = scaled_read(w, l->c, t, l->want, &l->tally, l->e);
    if (!rc && parts)
        rc = lora_merge_tensor(l->adapters, t->name, w, rows, cols, &parts, l->e);
    if (!rc && round)
        rc = fp8_round(w, rows * cols, t->dtype, t->name, l->e);
    if (!rc)      /* a sum of a bf16 weight and its adapters is no bf16 number: exact keeps it in f32 (as the goldens of LongLive) */
        rc = tensor_new(out, l->be, type == DT_COUNT ? DT_F32 : type, t->ndim, t->shape, l->e);
    if (!rc)
        rc = op_upload_f32(out, w, l->e);
    free(w);
    return rc;
}

static void vector_as(loader *l, tensor *out, int64_t n, dtype type, const char *name)
{
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 1, (int64_t[]){ n }, "%s", name);
    if (t && !l->rc)
        l->rc = fetch(l, out, t, n, 1, type);
}

static void vector(loader *l, tensor *out, int64_t n, const char *name)
{
    vector_as(l, out, n, DT_F32, name);
}

/* `type` for the matrix, `bias` for the bias. A 2-D weight: the 5-D patch embedding is flattened by its own loader. */
static void linear_as(loader *l, dit_linear *out, int64_t rows, int64_t cols, dtype type, dtype bias, const char *prefix, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s%s.weight", prefix, name);
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 2, (int64_t[]){ rows, cols }, "%s", full);
    if (t && !l->rc)
        l->rc = fetch(l, &out->w, t, rows, cols, type);
    snprintf(full, sizeof full, "%s%s.bias", prefix, name);
    vector_as(l, &out->b, rows, bias, full);
}

/* Products of activations: autocast casts matrix and bias alike. */
static void linear(loader *l, dit_linear *out, int64_t rows, int64_t cols, const char *prefix, const char *name)
{
    linear_as(l, out, rows, cols, l->prec->weight, l->prec->act, prefix, name);
}

/* Products of a block with all tokens: in 8 bits where the policy says so and the sizes are those cuBLASLt takes. */
static void linear_block(loader *l, dit_linear *out, int64_t rows, int64_t cols, const char *prefix, const char *name)
{
    tensor wide, narrow;
    linear_as(l, out, rows, cols, l->prec->block == DT_F8_E4M3 ? l->prec->weight : l->prec->block, l->prec->act, prefix, name);
    if (l->prec->block != DT_F8_E4M3 || rows % 16 || cols % 16 || l->rc || !out->w.data)
        return;
    wide = out->w;
    if (!(l->rc = tensor_new_scaled(&narrow, l->be, rows, cols, l->e))) {
        out->w = narrow;
        l->rc = op_quantise(&out->w, &wide, l->e);
        tensor_free(&wide);
    }
}

/* Products in the stream's type (timestep, head): the values of the file, in no more bytes than it has. */
static void linear_stream(loader *l, dit_linear *out, int64_t rows, int64_t cols, const char *name)
{
    char full[160];
    snprintf(full, sizeof full, "%s.weight", name);
    const ckpt_tensor *t = ckpt_find(l->c, full);
    bool narrow = l->prec->act != DT_F32 && t && t->dtype == DT_BF16;
    linear_as(l, out, rows, cols, narrow ? DT_BF16 : l->prec->act != DT_F32 ? DT_F32 : l->prec->weight, DT_F32, "", name);
}

static void modulation(loader *l, tensor *out, int64_t rows, int64_t dim, const char *name)
{
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 3, (int64_t[]){ 1, rows, dim }, "%s", name);
    tensor whole;
    if (t && !l->rc && !(l->rc = fetch(l, &whole, t, rows, dim, DT_F32))) {
        *out = whole;
        out->ndim = 2;
        out->shape[0] = rows;
        out->shape[1] = dim;
        out->shape[2] = 1;
    }
}

static void attention(loader *l, dit_attention *a, int64_t dim, bool to_text, const char *block, const char *name)
{
    char prefix[96], full[160];
    snprintf(prefix, sizeof prefix, "%s%s.", block, name);
    linear_block(l, &a->q, dim, dim, prefix, "q");
    (to_text ? linear : linear_block)(l, &a->k, dim, dim, prefix, "k");
    (to_text ? linear : linear_block)(l, &a->v, dim, dim, prefix, "v");
    linear_block(l, &a->o, dim, dim, prefix, "o");
    snprintf(full, sizeof full, "%snorm_q.weight", prefix);
    vector(l, &a->norm_q, dim, full);
    snprintf(full, sizeof full, "%snorm_k.weight", prefix);
    vector(l, &a->norm_k, dim, full);
}

static void block(loader *l, dit_block *b, const dit_config *c, const char *stack, int i)
{
    char p[48], full[160];
    snprintf(p, sizeof p, "%s.%d.", stack, i);
    attention(l, &b->self_attn, c->dim, false, p, "self_attn");
    attention(l, &b->cross_attn, c->dim, true, p, "cross_attn");
    snprintf(full, sizeof full, "%snorm3.weight", p);
    vector(l, &b->norm3_w, c->dim, full);
    snprintf(full, sizeof full, "%snorm3.bias", p);
    vector(l, &b->norm3_b, c->dim, full);
    linear_block(l, &b->ffn_0, c->ffn_dim, c->dim, p, "ffn.0");
    linear_block(l, &b->ffn_2, c->dim, c->ffn_dim, p, "ffn.2");
    snprintf(full, sizeof full, "%smodulation", p);
    modulation(l, &b->modulation, 6, c->dim, full);
}

/* [dim, in, 1, 2, 2] is already [dim, in*4] in memory */
static void patch_embedding(loader *l, dit_linear *out, int dim, int in, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "%s.weight", name);
    const ckpt_tensor *t = ckpt_want_tensor(l->want, 5, (int64_t[]){ dim, in, 1, 2, 2 }, "%s", full);
    if (t && !l->rc && !(l->rc = fetch(l, &out->w, t, dim, (int64_t)in * 4, l->prec->weight))) {
        tensor *w = &out->w;
        w->ndim = 2;
        w->shape[1] = (int64_t)in * 4;
        w->shape[2] = w->shape[3] = w->shape[4] = 1;
    }
    snprintf(full, sizeof full, "%s.bias", name);
    vector_as(l, &out->b, dim, l->prec->act, full);
}

/* Blocks of a stack, numbered from first_id; the swapped ones last, so that they pass through memory that nothing else settles in. */
static void stack(loader *l, dit_block *blocks, int n, const dit_config *c, const char *name, int first_id, dit_swap *swap, int n_swapped)
{
    char full[64];
    for (int turn = 0; turn < (n_swapped ? 2 : 1); turn++)
        for (int i = 0; i < n; i++) {
            if (n_swapped && dit_swap_picks(i, n, n_swapped) != (turn == 1))
                continue;
            block(l, &blocks[i], c, name, i);
            if (first_id) {      /* VACE */
                snprintf(full, sizeof full, "%s.%d.", name, i);
                linear(l, &blocks[i].after, c->dim, c->dim, full, "after_proj");
            }
            if (turn == 1 && !l->rc)
                l->rc = dit_swap_take(swap, first_id + i, &blocks[i], l->e);
        }
}

int dit_weights_load(dit_weights *out, backend *be, const ckpt *c, const dit_config *cfg, const precision *prec, const lora *loras, int n_loras,
                     dit_swap *swap, int n_swapped, err *e)
{
    loader l = { .be = be, .prec = prec, .c = c, .e = e, .fp8_scaled = cfg->fp8_scaled };
    *out = (dit_weights){ .n_blocks = cfg->num_layers };
    if (!(out->blocks = calloc((size_t)cfg->num_layers, sizeof *out->blocks)))
        return ERR(e, ERR_MEMORY, "no memory for %d blocks", cfg->num_layers);
    int rc = n_loras ? lora_merge_begin(&l.adapters, loras, n_loras, e) : 0;
    if (!rc)
        rc = ckpt_want_begin(&l.want, c, "DiT", e);
    if (rc) {
        lora_merge_free(l.adapters);
        return rc;
    }
    patch_embedding(&l, &out->patch_embedding, cfg->dim, cfg->in_dim, "patch_embedding");
    linear(&l, &out->text_embedding_0, cfg->dim, cfg->text_dim, "", "text_embedding.0");
    linear(&l, &out->text_embedding_2, cfg->dim, cfg->dim, "", "text_embedding.2");
    linear_stream(&l, &out->time_embedding_0, cfg->dim, cfg->freq_dim, "time_embedding.0");
    linear_stream(&l, &out->time_embedding_2, cfg->dim, cfg->dim, "time_embedding.2");
    linear_stream(&l, &out->time_projection, 6 * (int64_t)cfg->dim, cfg->dim, "time_projection.1");
    linear_stream(&l, &out->head, 4 * (int64_t)cfg->out_dim, cfg->dim, "head.head");
    modulation(&l, &out->head_modulation, 2, cfg->dim, "head.modulation");
    stack(&l, out->blocks, cfg->num_layers, cfg, "blocks", 0, swap, n_swapped);
    if (cfg->has_shot_embedding) {
        const ckpt_tensor *t = ckpt_want_tensor(l.want, 2, (int64_t[]){ -1, cfg->dim }, "shot_embedding.weight");
        if (t && !l.rc)
            l.rc = op_weight(be, &out->shot_embedding, t, DT_F32, e);
    }
    if (cfg->n_vace_layers) {      /* hints are loaded by their own module */
        ckpt_want_ignore(l.want, "vace_blocks.");
        ckpt_want_ignore(l.want, "vace_patch_embedding.");
    }
    rc = ckpt_want_finish(l.want, true, l.rc ? NULL : e);
    if (l.rc)
        rc = l.rc;
    if (!rc && n_loras)
        rc = lora_merge_finish(l.adapters, false, e);
    if (!rc)
        scaled_warn(&l.tally);
    lora_merge_free(l.adapters);
    return rc;
}

int dit_vace_load(dit_vace *out, backend *be, const ckpt *c, const dit_config *cfg, const precision *prec, int vace_in_dim, int n_layers,
                  const int *layers, const lora *loras, int n_loras, dit_swap *swap, int n_swapped, err *e)
{
    loader l = { .be = be, .prec = prec, .c = c, .e = e, .fp8_scaled = cfg->fp8_scaled };
    *out = (dit_vace){ .n_blocks = n_layers };
    out->blocks = calloc((size_t)n_layers, sizeof *out->blocks);
    if (!out->blocks)
        return ERR(e, ERR_MEMORY, "no memory for %d VACE blocks", n_layers);
    int rc = n_loras ? lora_merge_begin(&l.adapters, loras, n_loras, e) : 0;
    if (!rc)
        rc = ckpt_want_begin(&l.want, c, "VACE", e);
    if (rc) {
        lora_merge_free(l.adapters);
        return rc;
    }
    patch_embedding(&l, &out->patch_embedding, cfg->dim, vace_in_dim, "vace_patch_embedding");
    linear(&l, &out->before_proj, cfg->dim, cfg->dim, "vace_blocks.0.", "before_proj");
    for (int i = 0; i < n_layers; i++)
        out->layers[i] = layers[i];
    stack(&l, out->blocks, n_layers, cfg, "vace_blocks", cfg->num_layers, swap, n_swapped);
    rc = ckpt_want_finish(l.want, false, l.rc ? NULL : e);      /* the base model may be in the same file */
    if (!rc && !l.rc)
        scaled_warn(&l.tally);
    lora_merge_free(l.adapters);
    return l.rc ? l.rc : rc;
}

static void linear_free(dit_linear *l)
{
    tensor_free(&l->w);
    tensor_free(&l->b);
}

void dit_block_tensors(dit_block *b, tensor *out[DIT_BLOCK_TENSORS])
{
    dit_attention *a = &b->self_attn, *c = &b->cross_attn;
    tensor *all[DIT_BLOCK_TENSORS] = {
        &a->q.w, &a->q.b, &a->k.w, &a->k.b, &a->v.w, &a->v.b, &a->o.w, &a->o.b, &a->norm_q, &a->norm_k,
        &c->q.w, &c->q.b, &c->k.w, &c->k.b, &c->v.w, &c->v.b, &c->o.w, &c->o.b, &c->norm_q, &c->norm_k,
        &b->norm3_w, &b->norm3_b, &b->ffn_0.w, &b->ffn_0.b, &b->ffn_2.w, &b->ffn_2.b, &b->modulation, &b->after.w, &b->after.b,
    };
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++)
        out[k] = all[k];
}

void dit_block_free(dit_block *b)
{
    tensor *parts[DIT_BLOCK_TENSORS];
    dit_block_tensors(b, parts);
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++)
        tensor_free(parts[k]);
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
    tensor_free(&w->shot_embedding);
    for (int i = 0; w->blocks && i < w->n_blocks; i++)
        dit_block_free(&w->blocks[i]);
    free(w->blocks);
    *w = (dit_weights){ 0 };
}

void dit_vace_free(dit_vace *v)
{
    linear_free(&v->patch_embedding);
    linear_free(&v->before_proj);
    for (int i = 0; v->blocks && i < v->n_blocks; i++)
        dit_block_free(&v->blocks[i]);
    free(v->blocks);
    *v = (dit_vace){ 0 };
}
