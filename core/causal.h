/* causal: video without an end, block by block: a causal Wan model (LongLive) with a rolling cache of keys and values.
 *
 *     causal *c;
 *     causal_options o = CAUSAL_OPTIONS_INIT;
 *     o.height = 60; o.width = 104; o.seed = 42;
 *     causal_new(&c, (causal_model){ be, d, v }, &o, e);
 *     causal_prompt(c, &context, NULL, e);              later calls switch the prompt: the cache is computed again
 *     for (;;) {
 *         causal_block(c, hooks, &latents, e);          one block of latent frames
 *         causal_decode(c, &latents, on_frame, user, e);    its frames, with the VAE's history of the blocks before
 *         tensor_free(&latents);
 *     }
 *
 * A block is denoised in a few steps: each gives an estimate of the clean latents, which is noised again with fresh noise to
 * the level of the next step. Then one more call with the clean latents fills the cache. Upstream: LongLive@v1.0
 * pipeline/causal_inference.py, interactive_causal_inference.py; longlive-vace.md 1.6-2.6. Tensors inside and at hooks are
 * [channels, frames, height, width]; noise is drawn as upstream draws it, [frames, channels, height, width].
 *
 * What a block becomes depends on model, options and prompts so far, on nothing else: a clip of 10 blocks is the beginning of
 * one of 20 (with draws by block), and a clip that was saved and loaded goes on with the same bytes.
 */
#ifndef WANSCOPE_CAUSAL_H
#define WANSCOPE_CAUSAL_H

#include "core/dit/dit.h"
#include "core/sample/schedule.h"
#include "core/vae/vae.h"

enum { CAUSAL_MAX_STEPS = 64, CAUSAL_POSITIONS = 1024 };      /* rows of the rotary table, model.py:477-485 */

/* Which draws of a seeded generator the noise is made of. */
typedef enum {
    CAUSAL_DRAW_BLOCK,     /* a generator a block, seeded with seed + first frame (Scope): needs no length in advance */
    CAUSAL_DRAW_CLIP,      /* one generator: all initial noise first, then block after block (LongLive's inference.py) */
} causal_draws;

/* Gives n values [frames, channels, height, width]: draw 0 is the block's initial noise, draw k goes in after step k. */
typedef int (*causal_noise_fn)(int64_t block, int draw, float *out, int64_t n, void *user, err *e);

typedef struct causal_options {
    int64_t height, width;         /* latent rows and columns, even */
    int block, window, sink;       /* latent frames; window -1: everything up to `total` is kept */
    int64_t total;                 /* latent frames of the clip: for window -1 and CAUSAL_DRAW_CLIP, else 0 */
    bool global_sink;              /* the first frames' keys survive a switch of the prompt */
    int n_steps;
    int steps[CAUSAL_MAX_STEPS];   /* 1000 .. 1, falling */
    bool warp;                     /* steps index the shifted table (LongLive), or are timesteps themselves (Scope) */
    double shift;
    double context_noise;          /* timestep of the calls that fill the cache */
    bool hard_cut;                 /* begin afresh, with a visible cut, where the rotary table ends */
    causal_draws draws;
    uint64_t seed;
    bool cuda_noise;               /* PyTorch's CUDA generator of a GPU of this geometry, else its CPU generator */
    int noise_sms, noise_threads_per_sm;
    causal_noise_fn noise;         /* in place of the generator; NULL: none */
    void *noise_user;
} causal_options;
#define CAUSAL_OPTIONS_INIT { .block = 3, .window = 12, .sink = 3, .global_sink = true, .n_steps = 4, .steps = { 1000, 750, 500, 250 }, \
                              .warp = true, .shift = 5, .noise_sms = 132, .noise_threads_per_sm = 2048 }

/* ERR_CONFIG in the terms of the configuration when options do not go together. */
int causal_check(const causal_options *o, err *e);
/* Noise levels and timesteps of the steps of a block. schedule_release() it. */
int causal_schedule(schedule *out, const causal_options *o, err *e);

/* What it works with; borrowed. v may be NULL when nothing is decoded. `keys` is the type of the model's keys and values. */
typedef struct causal_model {
    backend *be;
    dit *d;
    vae *v;
    dtype keys;
} causal_model;

/* What VACE says about a block: borrowed. Its hints act in the denoising steps and never in the calls that fill the cache. */
typedef struct causal_condition {
    const tensor *context;         /* f32 [96, block, height, width] (core/vae/vace_context.h), or NULL: none */
    const double *scale;           /* one a step */
    const double *block_scale;     /* one a hint block on top, or NULL */
} causal_condition;

typedef struct causal causal;

int causal_new(causal **out, causal_model m, const causal_options *o, err *e);
void causal_free(causal *c);

/* The prompt from here on: a context of dit_embed_text(), borrowed until the next call or causal_free(). After the first block
 * the cache is computed again from the last frames with the new prompt. */
int causal_prompt(causal *c, const tensor *context, const hooks *h, err *e);
/* The same without touching the cache: after causal_load(), whose cache has seen this prompt. */
void causal_prompt_again(causal *c, const tensor *context);

/* Conditions of the blocks from here on; NULL: none. The model needs dit_add_vace(). */
void causal_condition_next(causal *c, const causal_condition *condition);

/* Makes the next block: *latents [channels, block, height, width], the caller frees it. Hooks see HOOK_LATENTS 0 .. n_steps
 * (0 is the initial noise, the last the result), HOOK_VELOCITY and HOOK_X0 of every call, and the points inside the model. After
 * an error the clip cannot go on. */
int causal_block(causal *c, const hooks *h, tensor *latents, err *e);
/* Frames of the next latents of the clip: 4 a latent frame, 1 for the very first. */
int causal_decode(causal *c, const tensor *latents, frame_fn fn, void *user, err *e);

/* The next causal_decode() begins with the clip's first latents again. */
void causal_decode_anew(causal *c);

int64_t causal_blocks(const causal *c);      /* made so far */
int64_t causal_frames(const causal *c);      /* latent frames made so far */
int64_t causal_pixels(const causal *c);      /* frames handed out by causal_decode() so far */
const kv_cache *causal_cache(const causal *c);

/* Everything that later blocks depend on, in one file (docs/formats.md), whole or not at all. `identity` is the caller's name for
 * model and settings; loading refuses another one. Loading wants a fresh `causal` with the same options; what is wrong with
 * the file is said. */
int causal_save(causal *c, const char *path, const char *identity, err *e);
int causal_load(causal *c, const char *path, const char *identity, err *e);

#endif
