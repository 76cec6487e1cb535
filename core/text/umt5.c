#include "core/text/umt5.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/io/scaled.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef struct {
    tensor norm1, norm2;             /* [dim] */
    tensor q, k, v, o;               /* [dim_attn, dim], o [dim, dim_attn] */
    tensor gate, fc1, fc2;           /* [dim_ffn, dim], fc2 [dim, dim_ffn] */
    float *buckets;                  /* host [32, heads] */
} umt5_block;

struct umt5 {
    backend *be;
    umt5_config cfg;
    const precision *prec;
    const ckpt *file;
    scaled_tally tally;
    bool streamed, warned;
    tensor embedding, norm;
    umt5_block *blocks;              /* streamed: only that of the layer at work has tensors */
    tensor bias;                     /* [layers * heads, 2n-1] for texts of bias_n positions, made when first needed */
    int bias_n;
};

static const float EPS = 1e-6f;      /* t5.py:57 */

int umt5_bucket(int relative)
{
    /* The upstream formula takes a float32 logarithm; its values, checked for all distances below 512, are these. */
    static const int from[] = { 91, 64, 46, 32, 23, 16, 12, 8 };
    int b = relative > 0 ? 16 : 0, a = abs(relative);
    for (int i = 0; i < 8; i++)
        if (a >= from[i])
            return b + 15 - i;
    return b + a;
}

/* `want` NULL: the tensors were checked before. With it, a streamed encoder only checks. */
static int load(umt5 *t, ckpt_want *want, tensor *out, int rows, int cols, dtype type, const char *name, err *e)
{
    const ckpt_tensor *c = !want ? ckpt_find(t->file, name) : cols ? ckpt_want_tensor(want, 2, (int64_t[]){ rows, cols }, "%s", name)
                                                                   : ckpt_want_tensor(want, 1, (int64_t[]){ rows }, "%s", name);
    if (!c)
        return 0;        /* missing ones are reported by ckpt_want_finish */
    if (!want || !t->streamed)
        return scaled_weight(out, t->be, t->file, c, type, want, &t->tally, e);
    char scale[128];
    if (scaled_is(c) && snprintf(scale, sizeof scale, "%.*sscale_weight", (int)(strlen(name) - strlen("weight")), name) < (int)sizeof scale)
        ckpt_want_optional(want, scale);
    return 0;
}

static int load_block(umt5 *t, ckpt_want *want, int i, err *e)
{
    int rc = 0;
    umt5_block *b = &t->blocks[i];
    const umt5_config *c = &t->cfg;
    struct { tensor *out; int rows, cols; const char *name; } list[] = {
        { &b->norm1, c->dim, 0, "norm1" }, { &b->norm2, c->dim, 0, "norm2" },
        { &b->q, c->dim_attn, c->dim, "attn.q" }, { &b->k, c->dim_attn, c->dim, "attn.k" },
        { &b->v, c->dim_attn, c->dim, "attn.v" }, { &b->o, c->dim, c->dim_attn, "attn.o" },
        { &b->gate, c->dim_ffn, c->dim, "ffn.gate.0" }, { &b->fc1, c->dim_ffn, c->dim, "ffn.fc1" },
        { &b->fc2, c->dim, c->dim_ffn, "ffn.fc2" },
    };
    char name[96];
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        snprintf(name, sizeof name, "blocks.%d.%s.weight", i, list[k].name);
        TRY(load(t, want, list[k].out, list[k].rows, list[k].cols, list[k].cols ? t->prec->weight : DT_F32, name, e));
    }
    snprintf(name, sizeof name, "blocks.%d.pos_embedding.embedding.weight", i);
    const ckpt_tensor *table = !want ? NULL : ckpt_want_tensor(want, 2, (int64_t[]){ c->num_buckets, c->num_heads }, "%s", name);
    if (table) {
        int64_t n = (int64_t)c->num_buckets * c->num_heads;
        if (!(b->buckets = malloc((size_t)n * sizeof *b->buckets))) {
            rc = ERR(e, ERR_MEMORY, "no memory for a position table");
            goto out;
        }
        TRY(scaled_read(b->buckets, t->file, table, want, &t->tally, e));
    }
out:
    return rc;
}

static int open_any(umt5 **out, backend *be, const ckpt *c, const precision *prec, bool streamed, err *e)
{
    int rc = 0;
    ckpt_want *want = NULL;
    umt5 *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t)
        return ERR(e, ERR_MEMORY, "no memory for a text encoder");
    t->be = be;
    t->file = c;
    t->prec = prec;
    t->streamed = streamed;
    TRY(umt5_config_detect(&t->cfg, c, e));
    if (t->cfg.num_buckets != 32) {
        rc = ERR(e, ERR_SHAPE, "%s: umT5 position tables have %d buckets, 32 are supported", ckpt_path(c), t->cfg.num_buckets);
        goto out;
    }
    if (t->cfg.dim_attn % t->cfg.num_heads) {
        rc = ERR(e, ERR_SHAPE, "%s: %d heads do not divide the attention width %d of umT5", ckpt_path(c), t->cfg.num_heads, t->cfg.dim_attn);
        goto out;
    }
    if (!(t->blocks = calloc((size_t)t->cfg.num_layers, sizeof *t->blocks))) {
        rc = ERR(e, ERR_MEMORY, "no memory for %d text encoder layers", t->cfg.num_layers);
        goto out;
    }
    TRY(ckpt_want_begin(&want, c, "umT5", e));
    rc = load(t, want, &t->embedding, t->cfg.vocab_size, t->cfg.dim, prec->weight, "token_embedding.weight", e);
    if (!rc)
        rc = load(t, want, &t->norm, t->cfg.dim, 0, DT_F32, "norm.weight", e);
    for (int i = 0; i < t->cfg.num_layers && !rc; i++)
        rc = load_block(t, want, i, e);
    int finish = ckpt_want_finish(want, true, rc ? NULL : e);
    TRY(rc ? rc : finish);
    scaled_warn(&t->tally);
    *out = t;
    return 0;
out:
    umt5_close(t);
    return err_at(e, rc, "while loading the text encoder");
}

int umt5_open(umt5 **out, backend *be, const ckpt *c, const precision *prec, err *e)
{
    return open_any(out, be, c, prec, false, e);
}

int umt5_open_streamed(umt5 **out, backend *be, const ckpt *c, const precision *prec, err *e)
{
    return open_any(out, be, c, prec, true, e);
}

static void release_block(umt5_block *b)
{
    tensor *all[] = { &b->norm1, &b->norm2, &b->q, &b->k, &b->v, &b->o, &b->gate, &b->fc1, &b->fc2 };
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        tensor_free(all[k]);
}

void umt5_close(umt5 *t)
{
    if (!t)
        return;
    tensor_free(&t->embedding);
    tensor_free(&t->norm);
    tensor_free(&t->bias);
    for (int i = 0; t->blocks && i < t->cfg.num_layers; i++) {
        release_block(&t->blocks[i]);
        free(t->blocks[i].buckets);
    }
    free(t->blocks);
    free(t);
}

const umt5_config *umt5_get_config(const umt5 *t)
{
    return &t->cfg;
}

/* [layers * heads, 2n-1]: column j - i + n - 1 holds the bias of key j for query i */
static int relative_bias(umt5 *t, int n, err *e)
{
    int rc = 0, N = t->cfg.num_heads, width = 2 * n - 1;
    int64_t rows = (int64_t)t->cfg.num_layers * N;
    if (t->bias_n == n)
        return 0;
    tensor_free(&t->bias);
    t->bias_n = 0;
    float *host = malloc((size_t)(rows * width) * sizeof *host);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for a position table");
    for (int64_t row = 0; row < rows; row++)
        for (int r = 1 - n; r < n; r++)
            host[row * width + r + n - 1] = t->blocks[row / N].buckets[umt5_bucket(r) * N + row % N];
    TRY(TENSOR_NEW(&t->bias, t->be, DT_F32, e, rows, width));
    TRY(op_upload(&t->bias, host, e));
    t->bias_n = n;
out:
    free(host);
    return rc;
}

/* Rows of the table of tokens that a prompt needs; ids[i] is row i of them. */
static int rows_of(umt5 *t, const int32_t *ids, int n, tensor *out, err *e)
{
    int rc = 0;
    const ckpt_tensor *table = ckpt_find(t->file, "token_embedding.weight");
    int64_t dim = t->cfg.dim;
    size_t size = scaled_is(table) ? sizeof(float) : dtype_size(table->dtype), row = (size_t)dim * size;
    float *all = NULL;
    char *picked = malloc((size_t)n * row);
    if (!picked || (scaled_is(table) && !(all = malloc((size_t)t->cfg.vocab_size * row)))) {
        rc = ERR(e, ERR_MEMORY, "no memory for the table of tokens");
        goto out;
    }
    if (all)
        TRY(scaled_read(all, t->file, table, NULL, NULL, e));
    for (int i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= t->cfg.vocab_size) {
            rc = ERR(e, ERR_SHAPE, "token id %d at position %d is outside the text encoder's vocabulary of %d; do tokenizer and text encoder belong "
                     "together?", ids[i], i, t->cfg.vocab_size);
            goto out;
        }
        memcpy(picked + (size_t)i * row, (all ? (const char *)all : (const char *)table->data) + (size_t)ids[i] * row, row);
    }
    if (all) {
        TRY(TENSOR_NEW(out, t->be, scaled_type(t->file, table, t->prec->weight), e, n, dim));
        TRY(op_upload_f32(out, (const float *)(const void *)picked, e));
        goto out;
    }
    ckpt_tensor part = *table;
    part.data = picked;
    part.shape[0] = n;
    part.bytes = (size_t)n * row;
    tensor view;
    TRY(op_weight(t->be, &view, &part, t->prec->weight, e));
    if (view.owner) {
        *out = view;
        goto out;
    }
    TRY(TENSOR_NEW(out, t->be, view.dtype, e, n, dim));      /* a view of `picked`, which goes */
    TRY(op_upload(out, picked, e));
out:
    free(all);
    free(picked);
    return rc;
}

void umt5_sizes_of(const umt5_config *c, const precision *prec, int n, umt5_sizes *out)
{
    int64_t w = (int64_t)dtype_size(prec->weight == DT_COUNT ? DT_F32 : prec->weight), s = (int64_t)dtype_size(prec->stream);
    int64_t a = (int64_t)dtype_size(prec->act), D = c->dim, A = c->dim_attn, M = c->dim_ffn;
    out->layer = w * (4 * D * A + 3 * D * M) + 2 * D * 4;
    out->all = out->layer * c->num_layers + w * c->vocab_size * D + D * 4;
    out->work = n * (2 * D * s + D * (a + w) + 4 * A * a + 2 * M * a) + (int64_t)c->num_layers * c->num_heads * (2 * n - 1) * 4;
}

int umt5_encode(umt5 *t, const int32_t *ids, int n, int n_visible, tensor *rows, err *e)
{
    int rc = 0;
    const umt5_config *c = &t->cfg;
    tensor x = { 0 }, h = { 0 }, q = { 0 }, k = { 0 }, v = { 0 }, y = { 0 }, g = { 0 }, f = { 0 }, picked = { 0 };
    int32_t *at = NULL;
    attn_range visible = { 0, n_visible };
    attn_segment segment = { 0, n, 1, &visible };
    dtype s = t->prec->stream, a = t->prec->act;
    if (n_visible < 1 || n_visible > n)
        return ERR(e, ERR_INTERNAL, "umT5: %d of %d positions visible", n_visible, n);
    TRY(relative_bias(t, n, e));
    TRY(TENSOR_NEW(&x, t->be, s, e, n, c->dim));
    TRY(TENSOR_NEW(&h, t->be, a, e, n, c->dim));
    TRY(TENSOR_NEW(&q, t->be, a, e, n, c->dim_attn));
    TRY(TENSOR_NEW(&k, t->be, a, e, n, c->dim_attn));
    TRY(TENSOR_NEW(&v, t->be, a, e, n, c->dim_attn));
    TRY(TENSOR_NEW(&y, t->be, a, e, n, c->dim_attn));
    TRY(TENSOR_NEW(&g, t->be, a, e, n, c->dim_ffn));
    TRY(TENSOR_NEW(&f, t->be, a, e, n, c->dim_ffn));
    if (t->streamed) {
        if (!(at = malloc((size_t)n * sizeof *at))) {
            rc = ERR(e, ERR_MEMORY, "no memory for %d tokens", n);
            goto out;
        }
        for (int i = 0; i < n; i++)
            at[i] = i;
        TRY(rows_of(t, ids, n, &picked, e));
        TRY(load(t, NULL, &t->norm, c->dim, 0, DT_F32, "norm.weight", e));
    }
    TRY(op_embed(&x, t->streamed ? &picked : &t->embedding, t->streamed ? at : ids, n, e));
    for (int i = 0; i < c->num_layers; i++) {
        const umt5_block *b = &t->blocks[i];
        if (t->streamed)
            TRY(load_block(t, NULL, i, e));
        tensor bias = tensor_rows(&t->bias, (int64_t)i * c->num_heads, c->num_heads);
        TRY(op_rmsnorm(&h, &x, &b->norm1, EPS, e));
        TRY(op_linear(&q, &h, &b->q, NULL, ACT_NONE, e));
        TRY(op_linear(&k, &h, &b->k, NULL, ACT_NONE, e));
        TRY(op_linear(&v, &h, &b->v, NULL, ACT_NONE, e));
        attn_args args = { .out = &y, .q = &q, .k = &k, .v = &v, .n_heads = c->num_heads, .scale = 1.0f,
                           .plan = { 1, &segment }, .rel_bias = &bias };
        TRY(op_attention(&args, e));
        TRY(op_linear(&h, &y, &b->o, NULL, ACT_NONE, e));
        TRY(op_gate_add(&x, &h, NULL, e));
        TRY(op_rmsnorm(&h, &x, &b->norm2, EPS, e));
        TRY(op_linear(&g, &h, &b->gate, NULL, ACT_NONE, e));
        TRY(op_linear(&f, &h, &b->fc1, NULL, ACT_NONE, e));
        TRY(op_gated_gelu(&f, &f, &g, e));
        TRY(op_linear(&h, &f, &b->fc2, NULL, ACT_NONE, e));
        TRY(op_gate_add(&x, &h, NULL, e));
        if (t->streamed)
            release_block(&t->blocks[i]);
    }
    TRY(op_rmsnorm(rows, &x, &t->norm, EPS, e));
out:
    if (t->streamed) {
        for (int i = 0; i < c->num_layers; i++)
            release_block(&t->blocks[i]);
        tensor_free(&t->norm);
        tensor_free(&picked);
        free(at);
        if (!t->warned)
            scaled_warn(&t->tally);
        t->warned = true;
    }
    tensor *all[] = { &x, &h, &q, &k, &v, &y, &g, &f };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(all[i]);
    return rc;
}
