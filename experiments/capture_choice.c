#include "experiments/capture_choice.h"

#include <inttypes.h>
#include <stdlib.h>

#include "experiments/capture.h"
#include "experiments/capture_queue.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

bool capture_wanted(const config *cfg)
{
    return cfg->latents.enabled || cfg->latents.velocity || cfg->attention.enabled;
}

/* The chosen of 0..count-1, of these every n-th. */
static int choose(capture_choice *out, const int_ranges *from, int64_t every, int count, const char *key, const char *things, err *e)
{
    int64_t last = int_ranges_last(from), seen = 0;
    *out = (capture_choice){ 0 };
    if (last >= count)
        return ERR(e, ERR_CONFIG, "capture.attention.%s names %" PRId64 ", but there are %d %s, numbered from 0", key, last, count, things);
    out->items = malloc((size_t)(count > 0 ? count : 1) * sizeof *out->items);
    if (!out->items)
        return ERR(e, ERR_MEMORY, "out of memory for the choice of %s", things);
    for (int i = 0; i < count; i++)
        if (int_ranges_contains(from, i) && seen++ % every == 0)
            out->items[out->n++] = i;
    if (!out->n) {
        free(out->items);
        *out = (capture_choice){ 0 };
        return ERR(e, ERR_CONFIG, "capture.attention.%s chooses none of the %d %s: give numbers such as \"0-3,7\", \"all\", or switch "
                   "capture.attention.enabled off", key, count, things);
    }
    return 0;
}

static int choose_heads(capture_choice *out, const config *cfg, int heads, err *e)
{
    if (!cfg->attention.heads.mean)
        return choose(out, &cfg->attention.heads, 1, heads, "heads", "heads", e);
    *out = (capture_choice){ malloc(sizeof(int32_t)), 1 };
    if (!out->items)
        return ERR(e, ERR_MEMORY, "out of memory for the choice of heads");
    out->items[0] = -1;
    return 0;
}

void capture_owned_release(capture_owned *o)
{
    free(o->steps.items);
    free(o->layers.items);
    free(o->heads.items);
    free(o->rows);
    free(o->velocity);
    *o = (capture_owned){ 0 };
}

int capture_describe(trace_spec *t, capture_owned *o, const config *cfg, int steps, const int64_t shape[4], int layers, int heads, bool attention,
                     err *e)
{
    int rc = 0;
    *t = (trace_spec){ .steps = steps, .latents = cfg->latents.enabled, .velocity = cfg->latents.velocity, .attention = attention,
                       .channels = shape[0], .frames = shape[1], .height = shape[2], .width = shape[3],
                       .latent_type = cfg->latents.dtype == STORE_F16 ? TRACE_F16 : TRACE_F32 };
    *o = (capture_owned){ 0 };
    t->gzip = (int)cfg->latents.compression;
    o->rows = malloc(((size_t)steps + 1) * sizeof *o->rows);
    o->velocity = malloc(((size_t)steps + 1) * sizeof *o->velocity);
    if (!o->rows || !o->velocity) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a trace");
        goto out;
    }
    t->latent_rows = o->rows;
    t->n_latent_rows = trace_rows_every(o->rows, steps, (int)cfg->latents.every);
    t->velocity_steps = o->velocity;
    t->n_velocity_steps = trace_steps_every(o->velocity, steps, (int)cfg->latents.every);
    if (cfg->attention.enabled) {      /* impossible choices are said even when a prompt has no word */
        TRY(choose(&o->steps, &cfg->attention.steps, cfg->attention.every, steps, "steps", "steps", e));
        TRY(choose(&o->layers, &cfg->attention.layers, 1, layers, "layers", "transformer blocks", e));
        TRY(choose_heads(&o->heads, cfg, heads, e));
        t->axes = (trace_axes){ .steps = o->steps.items, .n_steps = o->steps.n, .layers = o->layers.items, .n_layers = o->layers.n,
                                .heads = o->heads.items, .n_heads = o->heads.n, .frames = shape[1], .height = shape[2] / 2,
                                .width = shape[3] / 2, .type = cfg->attention.dtype == STORE_F16 ? TRACE_F16 : TRACE_F32,
                                .gzip = (int)cfg->attention.compression };
    }
out:
    if (rc)
        capture_owned_release(o);
    return rc;
}

int capture_bytes(const config *cfg, int steps, const int64_t shape[4], int layers, int heads, int n_words, int64_t *bytes, err *e)
{
    trace_spec t;
    capture_owned o;
    bool attention = cfg->attention.enabled && n_words > 0;
    *bytes = 0;
    int rc = capture_describe(&t, &o, cfg, steps, shape, layers, heads, attention, e);
    if (rc)
        return rc;
    t.axes.n_words = n_words;
    if (capture_wanted(cfg))
        *bytes = trace_raw_bytes(&t);
    capture_owned_release(&o);
    return 0;
}

int capture_host_bytes(const config *cfg, int steps, const int64_t shape[4], int layers, int heads, int n_words, int64_t block_frames, int64_t *bytes,
                       err *e)
{
    trace_spec t;
    capture_owned o;
    *bytes = 0;
    int rc = capture_describe(&t, &o, cfg, steps, shape, layers, heads, cfg->attention.enabled && n_words > 0, e);
    if (rc)
        return rc;
    t.axes.n_words = n_words;
    t.block_frames = block_frames;
    t.n_blocks = block_frames ? (int)(shape[1] / block_frames) : 0;
    if (t.latents || t.velocity || t.attention)
        *bytes = capture_queue_most(trace_largest_piece(&t), trace_sent_bytes(&t)) + trace_buffer_bytes(&t);
    capture_owned_release(&o);
    return 0;
}
