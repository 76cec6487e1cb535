#include "core/dit/kv_cache.h"

#include <inttypes.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

int kv_cache_new(kv_cache **out, backend *be, int n_layers, int64_t dim, dtype type, int64_t frame_tokens, int window_frames, int sink_frames,
                 int block_frames, int total_frames, err *e)
{
    int rc = 0;
    kv_cache *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c)
        return ERR(e, ERR_MEMORY, "no memory for a cache of keys");
    if (window_frames != -1 && (sink_frames < 0 || sink_frames > block_frames || window_frames < sink_frames + block_frames)) {
        rc = ERR(e, ERR_CONFIG, "a window of %d frames with a sink of %d and blocks of %d: the window must hold the sink and a block, and the sink fit in a "
                 "block", window_frames, sink_frames, block_frames);
        goto out;
    }
    c->n_layers = n_layers;
    c->frame_tokens = frame_tokens;
    c->rolling = window_frames != -1;
    c->slots = (c->rolling ? window_frames : total_frames) * frame_tokens;
    c->sink = sink_frames * frame_tokens;
    c->max_attention = c->rolling ? c->slots : 32760;      /* causal_inference.py:285-295 */
    c->k = calloc((size_t)n_layers, sizeof *c->k);
    c->v = calloc((size_t)n_layers, sizeof *c->v);
    if (!c->k || !c->v) {
        rc = ERR(e, ERR_MEMORY, "no memory for a cache of %d layers", n_layers);
        goto out;
    }
    for (int i = 0; i < n_layers; i++) {
        TRY(TENSOR_NEW(&c->k[i], be, type, e, c->slots, dim));
        TRY(TENSOR_NEW(&c->v[i], be, type, e, c->slots, dim));
    }
    TRY(kv_cache_zero(c, e));
    *out = c;
    return 0;
out:
    kv_cache_free(c);
    return rc;
}

void kv_cache_free(kv_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_layers; i++) {
        if (c->k)
            tensor_free(&c->k[i]);
        if (c->v)
            tensor_free(&c->v[i]);
    }
    free(c->k);
    free(c->v);
    free(c);
}

int kv_cache_zero(kv_cache *c, err *e)
{
    int rc = 0;
    for (int i = 0; i < c->n_layers && !rc; i++)
        if (!(rc = op_zero(&c->k[i], e)))
            rc = op_zero(&c->v[i], e);
    return rc;
}

/* Logical slots [begin, end) as at most two physical ranges; none of them straddles the sink's end but as separate pieces. */
static int place(const kv_cache *c, int64_t base, int64_t begin, int64_t end, attn_range out[3])
{
    int n = 0;
    int64_t ring = c->slots - c->sink;
    if (begin < c->sink && begin < end) {
        int64_t stop = end < c->sink ? end : c->sink;
        out[n++] = (attn_range){ begin, stop };
        begin = stop;
    }
    while (begin < end) {
        int64_t at = c->sink + (begin - c->sink + base) % ring, len = c->slots - at < end - begin ? c->slots - at : end - begin;
        if (n && out[n - 1].end == at)
            out[n - 1].end += len;      /* an unbroken run stays one range */
        else
            out[n++] = (attn_range){ at, at + len };
        begin += len;
    }
    return n;
}

int kv_cache_plan(const kv_cache *c, int64_t start, int64_t n, bool force_sink, kv_step *s, err *e)
{
    int64_t from;
    *s = (kv_step){ .end = start + n, .base = c->base };
    s->recompute = s->end <= c->global_end && start > 0;
    if (c->rolling && s->end > c->global_end && n + c->local_end > c->slots) {
        int64_t evict = n + c->local_end - c->slots;
        if (c->local_end - evict - c->sink < 0)
            return ERR(e, ERR_INTERNAL, "a block of %" PRId64 " tokens does not fit the window of %" PRId64 " beside its sink of %" PRId64, n, c->slots, c->sink);
        s->base = (c->base + evict) % (c->slots - c->sink);
        s->local_end = c->local_end + s->end - c->global_end - evict;
    } else {
        s->local_end = c->local_end + s->end - c->global_end;
    }
    s->local_start = s->local_end - n;
    s->write_start = s->recompute && !force_sink && s->local_start < c->sink ? c->sink : s->local_start;
    if (s->local_start < 0 || s->local_end > c->slots)
        return ERR(e, ERR_INTERNAL, "tokens %" PRId64 " to %" PRId64 " do not fit a cache of %" PRId64 " that ends at %" PRId64, start, s->end, c->slots, c->global_end);
    if (c->sink > 0) {
        int64_t budget = c->max_attention - c->sink, first = s->local_end - budget > c->sink ? s->local_end - budget : c->sink;
        int64_t stop = budget > 0 && s->local_end > c->sink ? s->local_end : c->sink;
        if (stop == c->sink)
            first = c->sink;
        s->n_ranges = place(c, s->base, 0, c->sink, s->ranges);
        attn_range rest[3];
        int k = place(c, s->base, first, stop, rest);
        for (int i = 0; i < k; i++)
            s->ranges[s->n_ranges++] = rest[i];
    } else {
        from = s->local_end - c->max_attention;
        s->n_ranges = place(c, s->base, from > 0 ? from : 0, s->local_end, s->ranges);
    }
    return 0;
}

int kv_cache_write(kv_cache *c, int layer, const kv_step *s, const tensor *k, const tensor *v, err *e)
{
    attn_range at[3];
    int rc = 0, n = s->local_end > s->write_start ? place(c, s->base, s->write_start, s->local_end, at) : 0;
    int64_t from = s->write_start - s->local_start;
    for (int i = 0; i < n && !rc; i++) {
        int64_t len = at[i].end - at[i].begin;
        tensor dst = tensor_rows(&c->k[layer], at[i].begin, len), src = tensor_rows(k, from, len);
        if ((rc = op_copy(&dst, &src, e)))
            break;
        dst = tensor_rows(&c->v[layer], at[i].begin, len);
        src = tensor_rows(v, from, len);
        rc = op_copy(&dst, &src, e);
        from += len;
    }
    return rc;
}

void kv_cache_commit(kv_cache *c, const kv_step *s)
{
    c->base = s->base;      /* rolling happens once a block; a recomputation has the base it found */
    if (!s->recompute) {
        c->global_end = s->end;
        c->local_end = s->local_end;
    }
}
