/* The one forward pass. Formulas: Wan2.1/wan/modules/model.py:296-317, 493-607; wan-engine.md 5. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/dit/dit_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef struct {
    dit *d;
    const dit_input *in;
    const hooks *h;
    hook_point at;
    rope_table rope;
    kv_step kv;                              /* with a cache */
    tensor x, hn, q, k, v, y, ffn;           /* views of L rows */
    tensor t_mod, mod;                       /* views of 6 x G rows */
    tensor of[6];                            /* views of mod: shift, scale, gate of self-attention, then of the FFN */
    dit_work *w;
} pass;

static int show(pass *p, const char *module, int layer, const tensor *value, err *e)
{
    if (!p->h)
        return 0;
    hook_point at = p->at;
    at.kind = HOOK_ACTIVATION;
    at.layer = layer;
    at.module = module;
    if (!hooks_wanted(p->h, &at))
        return 0;
    hook_data data = { .value = value, .grid = { p->rope.grid[0], p->rope.grid[1], p->rope.grid[2] } };
    return hooks_show(p->h, &at, &data, e);
}

static int show_in_block(pass *p, int layer, const char *part, const tensor *value, err *e)
{
    char name[48];
    if (!p->h)
        return 0;
    snprintf(name, sizeof name, "blocks.%d%s", layer, part);
    return show(p, name, layer, value, e);
}

/* The sinusoid of the timesteps is cos first, in f64, rounded once (model.py:18-28, 546-550). */
static int upload_time(pass *p, err *e)
{
    dit *d = p->d;
    dit_work *w = p->w;
    int G = p->in->n_timesteps, half = d->cfg.freq_dim / 2;
    for (int g = 0; g < G; g++)
        for (int j = 0; j < half; j++) {
            double angle = p->in->timesteps[g] * pow(10000.0, -(double)j / half);
            if (p->in->sinusoid_f32)      /* Scope, diffusers: frequency and product in f32 */
                angle = (double)((float)p->in->timesteps[g] * (float)exp((double)((float)-9.210340371976184 * (float)j / (float)half)));
            w->host_sinusoid[g * d->cfg.freq_dim + j] = (float)cos(angle);
            w->host_sinusoid[g * d->cfg.freq_dim + half + j] = (float)sin(angle);
        }
    tensor sinusoid = tensor_rows(&w->sinusoid, 0, G);
    return op_upload(&sinusoid, w->host_sinusoid, e);
}

/* t_emb [G, D] and its six projections */
static int embed_time(pass *p, err *e)
{
    int rc = 0, G = p->in->n_timesteps;
    dit *d = p->d;
    dit_work *w = p->w;
    int64_t D = d->cfg.dim;
    tensor sinusoid = tensor_rows(&w->sinusoid, 0, G), hidden = tensor_rows(&w->t_hidden, 0, G);
    tensor t_emb = tensor_rows(&w->t_emb, 0, G), silu = tensor_rows(&w->t_silu, 0, G);
    TRY(op_linear(&hidden, &sinusoid, &d->w.time_embedding_0.w, &d->w.time_embedding_0.b, ACT_SILU, e));
    TRY(op_linear(&t_emb, &hidden, &d->w.time_embedding_2.w, &d->w.time_embedding_2.b, ACT_NONE, e));
    TRY(show(p, "time_embedding", -1, &t_emb, e));
    TRY(op_silu(&silu, &t_emb, e));
    p->t_mod = tensor_rows(&w->t_mod, 0, 6 * G);
    p->mod = tensor_rows(&w->mod, 0, 6 * G);
    for (int k = 0; k < 6; k++) {      /* six separate products, so that each row of the table is contiguous for all G */
        tensor wk = tensor_rows(&d->w.time_projection.w, k * D, D), bk = tensor_rows(&d->w.time_projection.b, k * D, D);
        tensor out = tensor_rows(&w->t_mod, k * G, G);
        p->of[k] = tensor_rows(&w->mod, k * G, G);
        TRY(op_linear(&out, &silu, &wk, &bk, ACT_NONE, e));
    }
out:
    return rc;
}

/* What the product with `w` takes for x: x itself, or for 8-bit weights its rows rounded to 8 bits, which stay until the next call. */
static int input_for(pass *p, const tensor *w, const tensor *x, tensor *out, err *e)
{
    *out = *x;
    if (w->dtype != DT_F8_E4M3)
        return 0;
    *out = tensor_wrap(x->be, p->w->x8.data, DT_F8_E4M3, 2, (int64_t[]){ tensor_nrows(x), tensor_cols(x) });
    out->scale = p->w->x8_scale.data;
    return op_quantise(out, x, e);
}

static int product(pass *p, tensor *out, const tensor *x, const dit_linear *lin, activation act, err *e)
{
    tensor in;
    int rc = input_for(p, &lin->w, x, &in, e);
    return rc ? rc : op_linear(out, &in, &lin->w, &lin->b, act, e);
}

/* Queries or keys; `rope` NULL in cross-attention. */
static int qk(pass *p, tensor *out, const tensor *x, const dit_linear *lin, const tensor *norm, const rope_table *rope, err *e)
{
    int rc = op_linear(out, x, &lin->w, &lin->b, ACT_NONE, e);
    if (rc)
        return rc;
    return rope ? op_rmsnorm_rope(out, out, norm, (float)p->d->cfg.eps, rope, p->d->cfg.num_heads, e) : op_rmsnorm(out, out, norm, (float)p->d->cfg.eps, e);
}

/* A product whose result joins the stream: rounded to the type of activations first where the two differ (model.py:454-457). */
static int to_stream(pass *p, tensor *out, const tensor *x, const dit_linear *lin, err *e)
{
    if (p->y.dtype == out->dtype)
        return op_linear(out, x, &lin->w, &lin->b, ACT_NONE, e);
    int rc = op_linear(&p->y, x, &lin->w, &lin->b, ACT_NONE, e);
    return rc ? rc : op_cast(out, &p->y, e);
}

/* Where a block works: the main stack or the hint blocks of VACE, which share everything but the stream, see no cache and
 * are not shown to hooks. */
typedef struct {
    const dit_block *b;
    tensor *x;               /* the residual stream */
    int layer;
    bool hint;
} site;

/* From x to x with self-attention in it, and its norm3 in hn. */
static int self_attention(pass *p, const site *s, err *e)
{
    int rc = 0, N = p->d->cfg.num_heads;
    const dit_attention *w = &s->b->self_attn;
    int64_t L = tensor_nrows(&p->x);
    rope_table rope = p->rope;
    attn_segment segment = { 0, L, 1, NULL };
    attn_range padded = { 0, L };
    tensor hn;
    if (s->hint)
        rope.frame_offset = 0;
    TRY(op_layernorm_mod(&p->hn, s->x, &p->of[1], &p->of[0], (float)p->d->cfg.eps, e));
    TRY(input_for(p, &w->q.w, &p->hn, &hn, e));
    TRY(qk(p, &p->q, &hn, &w->q, &w->norm_q, &rope, e));
    TRY(qk(p, &p->k, &hn, &w->k, &w->norm_k, &rope, e));
    TRY(op_linear(&p->v, &hn, &w->v.w, &w->v.b, ACT_NONE, e));
    attn_args a = { .out = &p->hn, .q = &p->q, .k = &p->k, .v = &p->v, .n_heads = N,
                    .scale = 1.0f / sqrtf((float)(p->d->cfg.dim / N)), .plan = p->in->self_plan };
    tensor k_all, v_all;
    if (p->w->room8.data && !p->in->cache)
        a.room8 = &p->w->room8;
    if (s->hint) {
        int64_t pad = p->in->vace_pad_keys ? (VACE_PAD - L % VACE_PAD) % VACE_PAD : 0;
        k_all = tensor_rows(&p->w->k, 0, L + pad);
        v_all = tensor_rows(&p->w->v, 0, L + pad);
        if (pad) {
            tensor k_pad = tensor_rows(&p->w->k, L, pad), v_pad = tensor_rows(&p->w->v, L, pad);
            TRY(op_zero(&k_pad, e));
            TRY(op_zero(&v_pad, e));
        }
        padded.end = L + pad;
        segment.ranges = &padded;
        a.k = &k_all;
        a.v = &v_all;
        a.plan = (attn_plan){ 1, &segment };
    } else if (p->in->cache) {
        TRY(kv_cache_write(p->in->cache, s->layer, &p->kv, &p->k, &p->v, e));
        segment.n_ranges = p->kv.n_ranges;
        segment.ranges = p->kv.ranges;
        a.k = &p->in->cache->k[s->layer];
        a.v = &p->in->cache->v[s->layer];
        a.plan = (attn_plan){ 1, &segment };
    }
    TRY(op_attention(&a, e));
    TRY(product(p, &p->y, &p->hn, &w->o, ACT_NONE, e));
    if (!s->hint)
        TRY(show_in_block(p, s->layer, ".self_attn", &p->y, e));
    residual_norm_args r = { .x = s->x, .y = &p->y, .gate = &p->of[2], .out = &p->hn, .a = &s->b->norm3_w, .b = &s->b->norm3_b,
                             .eps = (float)p->d->cfg.eps };
    TRY(op_residual_norm(&r, e));
out:
    return rc;
}

/* From norm3 of x in hn to x with cross-attention in it, and its modulated norm2 in hn. */
static int cross_attention(pass *p, const site *s, err *e)
{
    int rc = 0, N = p->d->cfg.num_heads;
    const dit_attention *weights = &s->b->cross_attn;
    dit_work *w = p->w;
    tensor hn;
    TRY(input_for(p, &weights->q.w, &p->hn, &hn, e));
    TRY(qk(p, &p->q, &hn, &weights->q, &weights->norm_q, NULL, e));
    text_cache *kept = s->hint ? NULL : p->in->text;
    tensor *ctx_k = kept ? &kept->k[s->layer] : &w->ctx_k, *ctx_v = kept ? &kept->v[s->layer] : &w->ctx_v;
    if (!kept || !kept->filled) {
        TRY(qk(p, ctx_k, p->in->context, &weights->k, &weights->norm_k, NULL, e));
        TRY(op_linear(ctx_v, p->in->context, &weights->v.w, &weights->v.b, ACT_NONE, e));
    }
    attn_args a = { .out = &p->hn, .q = &p->q, .k = ctx_k, .v = ctx_v, .n_heads = N,
                    .scale = 1.0f / sqrtf((float)(p->d->cfg.dim / N)), .plan = p->in->cross_plan };
    tensor lse = { 0 };
    if (w->lse.data) {      /* in every pass, so that capture changes no launch */
        lse = TENSOR_AS(&w->lse, tensor_count(&w->lse));
        lse = tensor_rows(&lse, 0, N * tensor_nrows(&p->x));
        lse = TENSOR_AS(&lse, N, tensor_nrows(&p->x));
        a.lse = &lse;
    }
    hook_point at = p->at;
    at.kind = HOOK_CROSS_ATTN;
    at.layer = s->layer;
    at.module = "cross_attn";
    if (!s->hint && hooks_edited(p->h, &at)) {
        a.lse = NULL;
        TRY(hooks_apply(p->h, &at, NULL, &a, e));
    } else {
        TRY(op_attention(&a, e));
    }
    if (!s->hint && hooks_wanted(p->h, &at)) {
        hook_data data = { .attn = &a, .grid = { p->rope.grid[0], p->rope.grid[1], p->rope.grid[2] } };
        TRY(hooks_show(p->h, &at, &data, e));
    }
    TRY(product(p, &p->y, &p->hn, &weights->o, ACT_NONE, e));
    if (!s->hint)
        TRY(show_in_block(p, s->layer, ".cross_attn", &p->y, e));
    residual_norm_args r = { .x = s->x, .y = &p->y, .out = &p->hn, .a = &p->of[4], .b = &p->of[3], .modulated = true, .eps = (float)p->d->cfg.eps };
    TRY(op_residual_norm(&r, e));
out:
    return rc;
}

static int block(pass *p, const site *s, err *e)
{
    int rc = 0;
    TRY(op_add_row(&p->mod, &p->t_mod, &s->b->modulation, e));
    TRY(self_attention(p, s, e));
    TRY(cross_attention(p, s, e));
    TRY(product(p, &p->ffn, &p->hn, &s->b->ffn_0, ACT_GELU_TANH, e));
    TRY(product(p, &p->y, &p->ffn, &s->b->ffn_2, ACT_NONE, e));
    TRY(op_gate_add(s->x, &p->y, &p->of[5], e));
    if (!s->hint)
        TRY(show_in_block(p, s->layer, "", s->x, e));
out:
    return rc;
}

/* c = before_proj(patches of the VACE context) + x (VACE/vace/models/wan/modules/model.py:120-142) */
static int begin_hints(pass *p, tensor *c, err *e)
{
    int rc = 0;
    const dit_vace *v = &p->d->vace;
    int64_t L = tensor_nrows(&p->x);
    tensor patches = tensor_rows(&p->w->vace_patches, 0, L);
    *c = tensor_rows(&p->w->c, 0, L);
    TRY(op_patchify(&patches, p->in->vace_context, e));
    TRY(op_linear(&p->hn, &patches, &v->patch_embedding.w, &v->patch_embedding.b, ACT_NONE, e));
    TRY(to_stream(p, c, &p->hn, &v->before_proj, e));
    TRY(op_gate_add(c, &p->x, NULL, e));
out:
    return rc;
}

/* Hint blocks depend on their own stream only, so each runs right before its hint is needed and no hint is kept. */
static int add_hint(pass *p, int i, tensor *c, err *e)
{
    int rc = 0;
    int id = p->d->cfg.num_layers + i;
    site s = { .x = c, .layer = -1, .hint = true };
    double scale = p->in->vace_scale * (p->in->vace_block_scale ? p->in->vace_block_scale[i] : 1);
    TRY(dit_block_begin(p->d, id, &s.b, e));
    TRY(block(p, &s, e));
    if (scale != 0) {    /* 0: its stream goes on to later hints, its own addition is left out, exactly */
        const tensor *in = c;
        if (c->dtype != p->hn.dtype) {      /* as autocast does */
            TRY(op_cast(&p->hn, c, e));
            in = &p->hn;
        }
        TRY(op_linear(&p->y, in, &s.b->after.w, &s.b->after.b, ACT_NONE, e));
        TRY(op_axpby(&p->x, 1.0f, &p->x, (float)scale, &p->y, e));
    }
    TRY(dit_block_end(p->d, id, e));
out:
    return rc;
}

static int check_vace(const dit *d, const dit_input *in, err *e)
{
    const tensor *c = in->vace_context, *x = in->latents;
    if (!d->vace.n_blocks)
        return ERR(e, ERR_CONFIG, "references or control video are given, but the model has no VACE weights; set model.vace");
    int64_t want = tensor_cols(&d->vace.patch_embedding.w) / 4;
    if (c->ndim != 4 || c->shape[0] != want || c->shape[1] != x->shape[1] || c->shape[2] != x->shape[2] || c->shape[3] != x->shape[3])
        return ERR(e, ERR_SHAPE, "the VACE context is [%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "], [%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64
                   "] is needed", c->shape[0], c->shape[1], c->shape[2], c->shape[3], want, x->shape[1], x->shape[2], x->shape[3]);
    return 0;
}

/* x + emb[shot(token)] (HoloCine wan_video_holocine.py:1141-1146; the table is a checkpoint's own, most have none) */
static int add_shot_embedding(pass *p, err *e)
{
    int rc = 0;
    const tensor *table = &p->d->w.shot_embedding;
    int64_t frames = p->rope.grid[0], each = p->rope.grid[1] * p->rope.grid[2];
    for (int64_t f = 0; p->in->frame_shot && table->data && f < frames; f++) {
        if (p->in->frame_shot[f] >= table->shape[0])
            return ERR(e, ERR_CONFIG, "the video has a shot number %d, the checkpoint's shot embedding knows %" PRId64 ": make fewer shots",
                       p->in->frame_shot[f] + 1, table->shape[0]);
        tensor x = tensor_rows(&p->x, f * each, each), row = tensor_rows(table, p->in->frame_shot[f], 1);
        TRY(op_add_row(&x, &x, &row, e));
    }
out:
    return rc;
}

/* The head works in the stream's type (model.py:336-347). */
static int run_head(pass *p, tensor *out, err *e)
{
    int rc = 0, G = p->in->n_timesteps;
    dit *d = p->d;
    dit_work *w = p->w;
    tensor t_emb = tensor_rows(&w->t_emb, 0, G), mod[2];
    float eps = (float)d->cfg.eps;
    for (int k = 0; k < 2; k++) {
        tensor row = tensor_rows(&d->w.head_modulation, k, 1);
        mod[k] = tensor_rows(&w->head_mod[k], 0, G);
        TRY(op_add_row(&mod[k], &t_emb, &row, e));
    }
    if (p->hn.dtype == p->x.dtype) {
        TRY(op_layernorm_mod(&p->hn, &p->x, &mod[1], &mod[0], eps, e));
        TRY(op_linear(out, &p->hn, &d->w.head.w, &d->w.head.b, ACT_NONE, e));
        goto out;
    }
    int64_t each = tensor_nrows(&p->x) / G, room = tensor_nrows(&w->head_h);
    for (int g = 0; g < G; g++) {
        tensor scale = tensor_rows(&mod[1], g, 1), shift = tensor_rows(&mod[0], g, 1);
        for (int64_t at = g * each, n; at < (g + 1) * each; at += n) {
            n = (g + 1) * each - at < room ? (g + 1) * each - at : room;
            tensor x = tensor_rows(&p->x, at, n), h = tensor_rows(&w->head_h, 0, n), rows = tensor_rows(out, at, n);
            TRY(op_layernorm_mod(&h, &x, &scale, &shift, eps, e));
            TRY(op_linear(&rows, &h, &d->w.head.w, &d->w.head.b, ACT_NONE, e));
        }
    }
out:
    return rc;
}

/* All ops of a pass, from the latents to the velocity. */
static int queue(pass *p, int n_hints, tensor *velocity, err *e)
{
    int rc = 0;
    dit *d = p->d;
    const dit_input *in = p->in;
    int64_t L = tensor_nrows(&p->x);
    tensor patches = tensor_rows(&p->w->patches, 0, L), head = tensor_rows(&p->w->out, 0, L);

    TRY(show(p, "text_embedding", -1, in->context, e));
    TRY(op_patchify(&patches, in->latents, e));
    TRY(to_stream(p, &p->x, &patches, &d->w.patch_embedding, e));
    TRY(show(p, "patch_embedding", -1, &p->x, e));
    TRY(add_shot_embedding(p, e));
    TRY(embed_time(p, e));
    tensor c = { 0 };
    if (n_hints)
        TRY(begin_hints(p, &c, e));
    TRY(dit_pass_begin(d, in->skip_block, n_hints, e));
    for (int i = 0, hint = 0; i < d->cfg.num_layers; i++) {
        site s = { .x = &p->x, .layer = i };
        if (!in->skip_block || !in->skip_block[i]) {
            TRY(dit_block_begin(d, i, &s.b, e));
            TRY(block(p, &s, e));
            TRY(dit_block_end(d, i, e));
        }
        if (hint < n_hints && d->vace.layers[hint] == i)
            TRY(add_hint(p, hint++, &c, e));
    }
    TRY(run_head(p, &head, e));
    TRY(show(p, "head", -1, &head, e));
    TRY(op_unpatchify(velocity, &head, e));
out:
    return rc;
}

int dit_forward(dit *d, dit_work *w, const dit_input *in, tensor *velocity, const hooks *h, const hook_point *where, err *e)
{
    int rc = 0;
    int64_t C = in->latents->shape[0], F = in->latents->shape[1], H = in->latents->shape[2], W = in->latents->shape[3];
    int64_t L = F * (H / 2) * (W / 2);
    if (in->latents->ndim != 4 || C != d->cfg.in_dim || H % 2 || W % 2 || L < 1)
        return ERR(e, ERR_SHAPE, "latents are [%" PRId64 ",%" PRId64 ",%" PRId64 ",%" PRId64 "], the DiT takes %d channels and even height and width",
                   C, F, H, W, d->cfg.in_dim);
    if (F + in->frame_offset > ROPE_POSITIONS || H / 2 > ROPE_POSITIONS || W / 2 > ROPE_POSITIONS)
        return ERR(e, ERR_SHAPE, "a grid of %" PRId64 " x %" PRId64 " x %" PRId64 " tokens is beyond the %d rotary positions an axis; "
                   "use fewer frames or a smaller size", F + in->frame_offset, H / 2, W / 2, ROPE_POSITIONS);
    if (in->n_timesteps != 1 && in->n_timesteps != F)
        return ERR(e, ERR_INTERNAL, "%d timesteps for %" PRId64 " frames", in->n_timesteps, F);
    int n_hints = 0;      /* up to the last one that is added */
    if (in->vace_context && in->vace_scale != 0) {
        TRY(check_vace(d, in, e));
        for (int i = 0; i < d->vace.n_blocks; i++)
            if (!in->vace_block_scale || in->vace_block_scale[i] != 0)
                n_hints = i + 1;
    }
    TRY(dit_work_reserve(w, d, L, in->n_timesteps, e));

    pass p = { .d = d, .in = in, .h = h, .w = w, .at = { .layer = -1, .module = "" } };
    if (where)
        p.at = *where;
    p.at.n_layers = d->cfg.num_layers;
    p.rope = (rope_table){ .grid = { F, H / 2, W / 2 }, .frame_offset = in->frame_offset };
    for (int a = 0; a < 3; a++) {
        p.rope.pairs[a] = d->rope_pairs[a];
        p.rope.cs[a] = &d->rope_cs[a];
    }
    p.x = tensor_rows(&w->x, 0, L);
    p.hn = tensor_rows(&w->h, 0, L);
    p.q = tensor_rows(&w->q, 0, L);
    p.k = tensor_rows(&w->k, 0, L);
    p.v = tensor_rows(&w->v, 0, L);
    p.y = tensor_rows(&w->y, 0, L);
    p.ffn = tensor_rows(&w->ffn, 0, L);
    TRY(upload_time(&p, e));
    if (in->cache)
        TRY(kv_cache_plan(in->cache, in->frame_offset * (H / 2) * (W / 2), L, in->force_sink, &p.kv, e));
    dit_graph *kept = dit_graph_find(w, d, in, velocity, h, where);
    if (kept && kept->seen) {
        if (!kept->graph) {
            err other = { 0 };
            TRY(d->be->ops->graph_begin(d->be, e));
            rc = queue(&p, n_hints, velocity, e);
            int end = d->be->ops->graph_end(d->be, &kept->graph, rc ? &other : e);
            TRY(rc ? rc : end);
        }
        TRY(d->be->ops->graph_launch(d->be, kept->graph, e));
    } else {
        TRY(queue(&p, n_hints, velocity, e));
    }
    if (kept)
        kept->seen = true;
    if (in->cache)
        kv_cache_commit(in->cache, &p.kv);
    if (in->text)
        in->text->filled = true;
out:
    return rc;
}
