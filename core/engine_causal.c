/* Causal runs over an engine: parameters -> options, prompts on their timeline, one block after the other. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

int engine_causal_options(const engine *g, const run_params *r, causal_options *out, err *e)
{
    (void)g;
    *out = *r->causal;
    out->height = r->height / VAE_SPACE;
    out->width = r->width / VAE_SPACE;
    out->total = (r->frames - 1) / VAE_TIME + 1;
    out->shift = r->shift;
    out->seed = r->seed;
    out->cuda_noise = r->noise == NOISE_TORCH_CUDA;
    out->noise_sms = r->noise_sms;
    out->noise_threads_per_sm = r->noise_threads_per_sm;
    if (r->steps != out->n_steps)
        return ERR(e, ERR_INTERNAL, "%d steps and %d timesteps for a block", r->steps, out->n_steps);
    return causal_check(out, e);
}

struct engine_clip {
    engine *g;
    const run_params *r;
    causal *c;
    int n_switched;                /* prompts in use so far */
    bool vace;
    double *scale;                 /* of the hints, one a step */
    tensor context;                /* of the present prompt */
};

static int check_prompts(const engine *g, const run_params *r, int64_t total, err *e)
{
    if (!g->causal)
        return ERR(e, ERR_CONFIG, "%s is not causal (its family is %s): only LongLive makes video block by block", g->files.dit, g->files.family);
    if (r->n_cond < 1 || (r->n_cond > 1 && !r->prompt_at) || (r->prompt_at && r->prompt_at[0] != 0))
        return ERR(e, ERR_INTERNAL, "a causal run of %d prompts must have one from frame 0 on", r->n_cond);
    for (int i = 1; i < r->n_cond; i++)
        if (r->prompt_at[i] <= r->prompt_at[i - 1] || r->prompt_at[i] >= total)
            return ERR(e, ERR_CONFIG, "prompt %d begins at latent frame %" PRId64 ": prompts must follow each other and begin before the clip ends, at %" PRId64
                       " latent frames", i, r->prompt_at[i], total);
    if (r->shots || r->skip || r->windows || r->latents_bf16)
        return ERR(e, ERR_CONFIG, "a causal run takes no shots, no skip-layer guidance, no context windows and no bf16 latents: leave them out");
    if (r->initial_noise)
        return ERR(e, ERR_ARG, "a causal run cannot start from given noise: it draws fresh noise for every step");
    for (int i = 0; i < r->n_guidance; i++)
        if (r->guidance[i] != 1)
            return ERR(e, ERR_CONFIG, "guidance %g: a causal model takes none, since it was distilled with it; set sampling.guidance_scale to 1", r->guidance[i]);
    return 0;
}

int engine_clip_prompt_of(const run_params *r, int64_t block)
{
    int n = 1;
    for (int64_t b = 0; b <= block && n < r->n_cond; b++)      /* interactive_causal_inference.py:188-203 */
        n += b * r->causal->block >= r->prompt_at[n];
    return n - 1;
}

int engine_clip_begin(engine_clip **out, engine *g, const run_params *r, err *e)
{
    int rc = 0;
    causal_options o;
    int64_t shape[4];
    *out = NULL;
    engine_clip *c = calloc(1, sizeof *c);
    if (!c)
        return ERR(e, ERR_MEMORY, "no memory for a causal run");
    c->g = g;
    c->r = r;
    TRY(engine_latent_shape(g, r, shape, e));
    TRY(engine_causal_options(g, r, &o, e));
    TRY(check_prompts(g, r, o.total, e));
    TRY(engine_prepare(g, r, e));
    TRY(engine_need_dit(g, 0, e));
    if ((c->vace = run_has_vace(g, r))) {
        TRY(run_check_vace(g, r, e));
        TRY(engine_need_vace_blocks(g, e));
        if (!(c->scale = malloc((size_t)r->steps * sizeof *c->scale))) {
            rc = ERR(e, ERR_MEMORY, "no memory for %d steps", r->steps);
            goto out;
        }
        for (int i = 0; i < r->steps; i++)
            c->scale[i] = r->n_vace_scale == 0 ? 1 : r->vace_scale[r->n_vace_scale == 1 ? 0 : i];
    }
    if (g->vae_file)
        TRY(engine_need_vae(g, e));
    TRY(causal_new(&c->c, (causal_model){ g->be, g->dits[0], g->vae, g->prec->act }, &o, e));
    *out = c;
    return 0;
out:
    engine_clip_end(c);
    return rc;
}

void engine_clip_end(engine_clip *c)
{
    if (c) {
        causal_free(c->c);
        tensor_free(&c->context);
        free(c->scale);
        engine_settle(c->g);
        free(c);
    }
}

int64_t engine_clip_blocks(const engine_clip *c)
{
    return causal_blocks(c->c);
}

/* The weights are the first suspect when numbers go bad. */
static int blame(engine_clip *c, int rc, err *e)
{
    if (rc != ERR_NAN)
        return rc;
    const ckpt_tensor *bad = engine_first_bad(c->g, 0);
    return bad ? ERR(e, ERR_NAN, "block %" PRId64 " gave NaN or infinity: tensor '%s' of %s holds such values; the file is damaged", causal_blocks(c->c),
                     bad->name, bad->file)
               : rc;
}

int engine_clip_next(engine_clip *c, const hooks *h, tensor *latents, err *e)
{
    int rc = 0, now = engine_clip_prompt_of(c->r, causal_blocks(c->c)) + 1;
    tensor said = { 0 };
    *latents = (tensor){ 0 };
    if (c->vace) {
        int64_t n = c->r->causal->block;
        TRY(vace_condition_block(c->r->vace, c->g, causal_blocks(c->c) * n, n, &said, e));
        causal_condition_next(c->c, &(causal_condition){ &said, c->scale, c->r->vace_block_scale });
    }
    if (now != c->n_switched) {
        TRY(engine_embed(c->g, c->r->cond[now - 1], 0, &c->context, e));
        TRY(causal_prompt(c->c, &c->context, h, e));
        c->n_switched = now;
    }
    TRY(causal_block(c->c, h, latents, e));
out:
    causal_condition_next(c->c, NULL);
    tensor_free(&said);
    return blame(c, rc, e);
}

int engine_clip_decode(engine_clip *c, const tensor *latents, frame_fn fn, void *user, err *e)
{
    int rc = engine_need_vae(c->g, e);
    return rc ? rc : causal_decode(c->c, latents, fn, user, e);
}

int engine_clip_save(engine_clip *c, const char *path, const char *identity, err *e)
{
    return causal_save(c->c, path, identity, e);
}

int engine_clip_load(engine_clip *c, const char *path, const char *identity, err *e)
{
    int rc = 0;
    TRY(causal_load(c->c, path, identity, e));
    if (!causal_blocks(c->c))
        return 0;
    c->n_switched = engine_clip_prompt_of(c->r, causal_blocks(c->c) - 1) + 1;
    TRY(engine_embed(c->g, c->r->cond[c->n_switched - 1], 0, &c->context, e));
    causal_prompt_again(c->c, &c->context);
out:
    return rc;
}

int engine_run_causal(engine *g, const run_params *r, const hooks *h, tensor *latents, err *e)
{
    int rc = 0;
    int64_t shape[4];
    engine_clip *c = NULL;
    tensor block = { 0 };
    float *all = NULL, *one = NULL;
    *latents = (tensor){ 0 };
    TRY(engine_clip_begin(&c, g, r, e));
    TRY(engine_latent_shape(g, r, shape, e));
    int64_t n = r->causal->block, plane = shape[2] * shape[3];
    all = malloc((size_t)(shape[0] * shape[1] * plane) * sizeof *all);
    one = malloc((size_t)(shape[0] * n * plane) * sizeof *one);
    if (!all || !one) {
        rc = ERR(e, ERR_MEMORY, "no memory for %" PRId64 " latent frames", shape[1]);
        goto out;
    }
    for (int64_t f = 0; f < shape[1]; f += n) {
        TRY(engine_clip_next(c, h, &block, e));
        TRY(op_download_f32(one, &block, e));
        tensor_free(&block);
        for (int64_t k = 0; k < shape[0]; k++)
            memcpy(all + (k * shape[1] + f) * plane, one + k * n * plane, (size_t)(n * plane) * sizeof *all);
    }
    TRY(tensor_new(latents, g->be, DT_F32, 4, shape, e));
    TRY(op_upload(latents, all, e));
out:
    engine_clip_end(c);
    tensor_free(&block);
    free(all);
    free(one);
    if (rc)
        tensor_free(latents);
    return rc;
}

void engine_clip_decode_anew(engine_clip *c)
{
    causal_decode_anew(c->c);
}
