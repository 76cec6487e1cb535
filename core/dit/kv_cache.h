/* kv_cache: keys and values of earlier frames for causal generation: a sink that stays, and a window that rolls.
 *
 * Upstream: LongLive@v1.0 wan/modules/causal_model.py:204-348 (longlive-vace.md 1.6, 1.7). The indices are upstream's; the
 * window is a ring, so rolling moves no data: logical slot i >= sink lies at sink + (i - sink + base) mod (slots - sink).
 */
#ifndef WANSCOPE_KV_CACHE_H
#define WANSCOPE_KV_CACHE_H

#include "core/backend.h"

typedef struct kv_cache {
    int n_layers;
    int64_t frame_tokens;                /* tokens of one latent frame */
    int64_t slots, sink, max_attention;  /* in tokens; max_attention: how many keys a query may see */
    bool rolling;                        /* false: the cache holds the whole clip (local_attn_size -1) */
    int64_t global_end, local_end;       /* as upstream's, the same in all layers */
    int64_t base;                        /* of the ring */
    tensor *k, *v;                       /* n_layers of [slots, dim] */
} kv_cache;

/* window_frames: local_attn_size, or -1 to keep all of total_frames. The window must hold the sink and one block. */
int kv_cache_new(kv_cache **out, backend *be, int n_layers, int64_t dim, dtype type, int64_t frame_tokens, int window_frames, int sink_frames,
                 int block_frames, int total_frames, err *e);
void kv_cache_free(kv_cache *c);
int kv_cache_zero(kv_cache *c, err *e);      /* keys and values, not the indices (a prompt switch without a global sink) */

/* What one forward of `n` tokens starting at token `start` does, the same in every layer. */
typedef struct kv_step {
    int64_t base, local_end, local_start, write_start;
    bool recompute;
    int64_t end;
    attn_range ranges[3];                /* the keys to attend, in slots of the tensors, in upstream's order */
    int n_ranges;
} kv_step;

int kv_cache_plan(const kv_cache *c, int64_t start, int64_t n, bool force_sink, kv_step *out, err *e);
/* Writes the new keys and values of a layer where the plan says. */
int kv_cache_write(kv_cache *c, int layer, const kv_step *s, const tensor *k, const tensor *v, err *e);
/* After the last layer. */
void kv_cache_commit(kv_cache *c, const kv_step *s);

#endif
