#include "core/dit/dit.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "core/dit/dit_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* cos and sin of p * 10000^(-2j/n) for n/2 pairs, computed in f64 (model.py:31-38) */
static int rope_axis(tensor *out, backend *be, int n, err *e)
{
    int rc = 0, pairs = n / 2;
    float *t = malloc((size_t)ROPE_POSITIONS * (size_t)(pairs + 1) * 2 * sizeof *t);
    if (!t)
        return ERR(e, ERR_MEMORY, "no memory for rotary tables");
    for (int p = 0; p < ROPE_POSITIONS; p++)
        for (int j = 0; j < pairs; j++) {
            double angle = p * pow(10000.0, -2.0 * j / n);
            t[(p * pairs + j) * 2] = (float)cos(angle);
            t[(p * pairs + j) * 2 + 1] = (float)sin(angle);
        }
    TRY(TENSOR_NEW(out, be, DT_F32, e, ROPE_POSITIONS, pairs, 2));
    TRY(op_upload(out, t, e));
out:
    free(t);
    return rc;
}

int dit_open(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, err *e)
{
    return dit_open_lora(out, be, c, config, prec, NULL, 0, e);
}

int dit_open_lora(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, const lora *loras, int n_loras, err *e)
{
    return dit_open_swapped(out, be, c, config, prec, loras, n_loras, 0, e);
}

int dit_open_swapped(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, const lora *loras, int n_loras,
                     int blocks_to_swap, err *e)
{
    int rc = 0;
    if (blocks_to_swap < 0 || blocks_to_swap > config->num_layers) {
        *out = NULL;
        return ERR(e, ERR_CONFIG, "memory.blocks_to_swap is %d, but %s has %d transformer blocks: use 0 to %d", blocks_to_swap, ckpt_path(c),
                   config->num_layers, config->num_layers);
    }
    dit *d = calloc(1, sizeof *d);
    *out = NULL;
    if (!d)
        return ERR(e, ERR_MEMORY, "no memory for a DiT");
    static uint64_t opened;
    d->number = ++opened;
    static atomic_uint_fast64_t serial;
    d->serial = atomic_fetch_add(&serial, 1);
    d->be = be;
    d->cfg = *config;
    d->prec = prec;
    int head = config->dim / config->num_heads;
    if (config->num_heads < 1 || config->dim % config->num_heads || head % 2 || head < 6) {
        rc = ERR(e, ERR_SHAPE, "%s: %d heads do not divide a width of %d into even head sizes of at least 6; check num_heads in "
                 "config.json", ckpt_path(c), config->num_heads, config->dim);
        goto out;
    }
    int axes[3] = { head - 4 * (head / 6), 2 * (head / 6), 2 * (head / 6) };      /* model.py:480-485 */
    for (int a = 0; a < 3; a++) {
        d->rope_pairs[a] = axes[a] / 2;
        TRY(rope_axis(&d->rope_cs[a], be, axes[a], e));
    }
    if (!(d->order = calloc((size_t)config->num_layers + DIT_MAX_VACE_LAYERS, sizeof *d->order))) {
        rc = ERR(e, ERR_MEMORY, "no memory for a DiT");
        goto out;
    }
    d->n_swapped = blocks_to_swap;
    if (blocks_to_swap)
        TRY(dit_swap_new(&d->swap, be, e));
    TRY(dit_weights_load(&d->w, be, c, config, prec, loras, n_loras, d->swap, blocks_to_swap, e));
    backend_trim(be);      /* what weights passed through on their way */
    *out = d;
    return 0;
out:
    dit_close(d);
    return err_at(e, rc, "while loading the DiT");
}

void dit_close(dit *d)
{
    if (!d)
        return;
    for (int a = 0; a < 3; a++)
        tensor_free(&d->rope_cs[a]);
    dit_weights_free(&d->w);
    dit_vace_free(&d->vace);
    dit_swap_free(d->swap);
    free(d->order);
    free(d);
}

int dit_add_vace(dit *d, const ckpt *c, int vace_in_dim, int n_layers, const int *layers, err *e)
{
    return dit_add_vace_lora(d, c, vace_in_dim, n_layers, layers, NULL, 0, e);
}

int dit_add_vace_lora(dit *d, const ckpt *c, int vace_in_dim, int n_layers, const int *layers, const lora *loras, int n_loras, err *e)
{
    if (d->vace.n_blocks)
        return ERR(e, ERR_INTERNAL, "a DiT takes one set of VACE blocks");
    if (n_layers < 1 || n_layers > DIT_MAX_VACE_LAYERS || layers[0] != 0)
        return ERR(e, ERR_CONFIG, "%s: %d VACE layers starting at %d: 1 to %d are possible and the first must be 0", ckpt_path(c), n_layers,
                   n_layers > 0 ? layers[0] : -1, DIT_MAX_VACE_LAYERS);
    for (int i = 0; i < n_layers; i++)
        if (layers[i] >= d->cfg.num_layers || (i && layers[i] <= layers[i - 1]))
            return ERR(e, ERR_CONFIG, "%s: VACE layer %d of a model with %d layers: layers must ascend and exist", ckpt_path(c), layers[i], d->cfg.num_layers);
    int n_swapped = (int)(((int64_t)d->n_swapped * n_layers + d->cfg.num_layers - 1) / d->cfg.num_layers);
    int rc = dit_vace_load(&d->vace, d->be, c, &d->cfg, d->prec, vace_in_dim, n_layers, layers, loras, n_loras, d->swap, n_swapped, e);
    backend_trim(d->be);
    if (rc)
        dit_vace_free(&d->vace);
    return err_at(e, rc, "while loading VACE blocks");
}

const dit_config *dit_get_config(const dit *d)
{
    return &d->cfg;
}

static int64_t linear_bytes(const dit_linear *l)
{
    return tensor_bytes(&l->w) + tensor_bytes(&l->b);
}

static int64_t block_bytes(dit_block *b)
{
    int64_t n = 0;
    tensor *parts[DIT_BLOCK_TENSORS];
    dit_block_tensors(b, parts);
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++)
        n += tensor_extent(parts[k]);
    return n;
}

int64_t dit_weight_bytes(const dit *d)
{
    const dit_weights *w = &d->w;
    int64_t n = linear_bytes(&w->patch_embedding) + linear_bytes(&w->text_embedding_0) + linear_bytes(&w->text_embedding_2) +
                linear_bytes(&w->time_embedding_0) + linear_bytes(&w->time_embedding_2) +
                linear_bytes(&w->time_projection) + linear_bytes(&w->head) + tensor_bytes(&w->head_modulation);
    n += tensor_bytes(&w->shot_embedding) + linear_bytes(&d->vace.patch_embedding) + linear_bytes(&d->vace.before_proj);
    for (int i = 0; i < w->n_blocks; i++)
        n += block_bytes(&w->blocks[i]);
    for (int i = 0; i < d->vace.n_blocks; i++)
        n += block_bytes(&d->vace.blocks[i]);
    return n;
}

int64_t dit_host_bytes(const dit *d)
{
    return dit_swap_host_bytes(d->swap);
}

void dit_rest(dit *d)
{
    dit_swap_rest(d->swap);
}

int dit_pass_begin(dit *d, const bool *skip, int n_hints, err *e)
{
    int n = 0;
    for (int i = 0, hint = 0; d->swap && i < d->cfg.num_layers; i++) {
        if (!skip || !skip[i])
            d->order[n++] = i;
        if (hint < n_hints && d->vace.layers[hint] == i)
            d->order[n++] = d->cfg.num_layers + hint++;
    }
    return d->swap ? dit_swap_begin_pass(d->swap, d->order, n, e) : 0;
}

int dit_block_begin(dit *d, int id, const dit_block **out, err *e)
{
    if (dit_swap_has(d->swap, id))
        return dit_swap_get(d->swap, id, out, e);
    *out = id < d->cfg.num_layers ? &d->w.blocks[id] : &d->vace.blocks[id - d->cfg.num_layers];
    return 0;
}

int dit_block_end(dit *d, int id, err *e)
{
    return dit_swap_has(d->swap, id) ? dit_swap_done(d->swap, e) : 0;
}

int dit_embed_text(dit *d, const tensor *rows, tensor *context, err *e)
{
    int rc = 0;
    int64_t n = tensor_nrows(rows), L = d->cfg.text_len, D = d->cfg.dim;
    tensor padded = { 0 }, hidden = { 0 };
    if (tensor_cols(rows) != d->cfg.text_dim || n > L)
        return ERR(e, ERR_SHAPE, "text embedding is [%" PRId64 ",%" PRId64 "], the DiT takes at most %d rows of %d; do text encoder and "
                   "DiT belong together?", n, tensor_cols(rows), d->cfg.text_len, d->cfg.text_dim);
    /* rows beyond the prompt are zeros and are attended, as upstream (model.py:552-559) */
    TRY(TENSOR_NEW(&padded, d->be, d->prec->act, e, L, d->cfg.text_dim));
    TRY(op_zero(&padded, e));
    tensor head = tensor_rows(&padded, 0, n);
    TRY(op_cast(&head, rows, e));
    TRY(TENSOR_NEW(&hidden, d->be, d->prec->act, e, L, D));
    TRY(op_linear(&hidden, &padded, &d->w.text_embedding_0.w, &d->w.text_embedding_0.b, ACT_GELU_TANH, e));
    TRY(op_linear(context, &hidden, &d->w.text_embedding_2.w, &d->w.text_embedding_2.b, ACT_NONE, e));
out:
    tensor_free(&padded);
    tensor_free(&hidden);
    return rc;
}

/* ---- activations ---- */

static void work_release(dit_work *w)
{
    dit_graphs_free(w);
    tensor_free(&w->memory);
    free(w->host_sinusoid);
    *w = (dit_work){ .be = w->be };
}

int dit_work_reserve(dit_work *w, const dit *d, int64_t L, int64_t G, err *e)
{
    int rc = 0;
    int64_t vace = d->vace.n_blocks ? tensor_cols(&d->vace.patch_embedding.w) : 0;
    if (L <= w->capacity && G <= w->groups && (!vace || w->c.data))
        return 0;
    work_release(w);
    int64_t bytes = dit_work_layout(w, &d->cfg, d->prec, vace, L, G, NULL);
    TRY(TENSOR_NEW(&w->memory, w->be, DT_U8, e, bytes));
    dit_work_layout(w, &d->cfg, d->prec, vace, L, G, w->memory.data);
    if (!(w->host_sinusoid = malloc((size_t)(G * d->cfg.freq_dim) * sizeof(float)))) {
        rc = ERR(e, ERR_MEMORY, "no memory for the timestep embedding");
        goto out;
    }
    w->capacity = L;
    w->groups = G;
out:
    if (rc)
        work_release(w);
    return rc;
}

int dit_work_new(dit_work **out, const dit *d, int64_t F, int64_t H, int64_t W, err *e)
{
    dit_work *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w)
        return ERR(e, ERR_MEMORY, "no memory for a run");
    w->be = d->be;
    int rc = dit_work_reserve(w, d, F * (H / 2) * (W / 2), 1, e);
    if (rc) {
        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void dit_work_free(dit_work *w)
{
    if (w) {
        work_release(w);
        free(w);
    }
}
