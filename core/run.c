#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_internal.h"
#include "core/run_windows.h"
#include "core/sample/bf16.h"
#include "core/sample/noise.h"
#include "core/sample/solver.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* One denoising run and its decoding: loops and bookkeeping, no arithmetic of its own but for guidance. */

int engine_latent_shape(const engine *g, const run_params *r, int64_t shape[4], err *e)
{
    if (r->width < 16 || r->height < 16 || r->width % 16 || r->height % 16 || r->width > 16384 || r->height > 16384)
        return ERR(e, ERR_CONFIG, "video.width and video.height are %d x %d: multiples of 16 from 16 to 16384 are needed", r->width, r->height);
    causal_options o;
    if (r->causal && r->frames > 0 && r->frames % VAE_TIME == 1) {
        int rc = engine_causal_options(g, r, &o, e);
        if (rc)
            return rc;
    } else if (r->frames < 1 || r->frames % VAE_TIME != 1 || r->frames > 4093)
        return ERR(e, ERR_CONFIG, "video.frames is %d: 4n+1 is needed (1, 5, 9, ... 81, ... 4093); the nearest is %d", r->frames,
                   r->frames < 1 ? 1 : r->frames > 4093 ? 4093 : (r->frames + 1) / 4 * 4 + 1);
    shape[0] = g->dit_cfg.out_dim;      /* a 17th input channel, the shot's, is no latent */
    shape[1] = (r->frames - 1) / VAE_TIME + 1 + (!r->causal && run_has_vace(g, r) ? r->vace_references : 0);
    shape[2] = r->height / VAE_SPACE;
    shape[3] = r->width / VAE_SPACE;
    return 0;
}

int engine_schedule(const engine *g, const run_params *r, schedule *out, int *expert, err *e)
{
    causal_options o;
    int rc = r->causal ? engine_causal_options(g, r, &o, e) : schedule_build(out, r->solver, r->steps, r->shift, e);
    if (!rc && r->causal)
        rc = causal_schedule(out, &o, e);
    if (rc)
        return rc;
    if (g->dit_file[1] && !(r->boundary >= 0 && r->boundary <= 1)) {
        schedule_release(out);
        return ERR(e, ERR_CONFIG, "sampling.boundary is %g, 0 to 1 is needed", r->boundary);
    }
    for (int i = 0; expert && i < r->steps; i++)      /* Wan2.2/wan/text2video.py:186-191, 341-349 */
        expert[i] = g->dit_file[1] && out->timesteps[i] < 1000.0 * r->boundary;
    for (int i = 0; r->latents_bf16 && i < r->steps; i++)      /* the switch looks at the unrounded timestep (PIPE:457-462) */
        out->timesteps[i] = bf16_of(out->timesteps[i]);
    return 0;
}

static int draw_noise(backend *be, const run_params *r, float *out, int64_t n, err *e)
{
    if (r->initial_noise) {
        memcpy(out, r->initial_noise, (size_t)n * sizeof *out);
        return 0;
    }
    if (r->noise == NOISE_TORCH_CUDA) {
        uint64_t offset = 0;
        return noise_cuda_normal(be, r->seed, &offset, r->noise_sms, r->noise_threads_per_sm, out, n, e);
    }
    rng_cpu rng;
    rng_cpu_seed(&rng, r->seed);
    rng_cpu_normal(&rng, out, n);
    return 0;
}

/* ---- text contexts: embedded once per distinct prompt of the run and expert ---- */

typedef struct {
    const prompt *of;
    int expert;
    tensor context;
} context_slot;

int engine_embed(engine *g, const prompt *p, int expert, tensor *context, err *e)
{
    int rc = 0;
    tensor rows = { 0 };
    if (!context->data)
        TRY(TENSOR_NEW(context, g->be, g->prec->act, e, g->dit_cfg.text_len, g->dit_cfg.dim));
    TRY(TENSOR_NEW(&rows, g->be, g->prec->act, e, p->n_tokens, p->dim));
    TRY(op_upload_f32(&rows, p->rows, e));
    TRY(dit_embed_text(g->dits[expert], &rows, context, e));
out:
    tensor_free(&rows);
    return rc;
}

static int context_get(engine *g, context_slot *slot, const prompt *p, int expert, err *e)
{
    if (slot->of == p && slot->expert == expert && slot->context.data)
        return 0;
    slot->of = NULL;
    int rc = engine_embed(g, p, expert, &slot->context, e);
    if (rc)
        return rc;
    slot->of = p;
    slot->expert = expert;
    return 0;
}

/* v = u + g (c - u), three roundings (text2video.py:240-246), into *cond */
static int guide(const run_params *r, tensor *cond, const tensor *uncond, double guidance, err *e)
{
    if (r->latents_bf16)
        return bf16_guide(cond, uncond, guidance, e);
    int rc = op_axpby(cond, 1.0f, cond, -1.0f, uncond, e);
    return rc ? rc : op_axpby(cond, 1.0f, uncond, (float)guidance, cond, e);
}

/* skip[layer] of the blocks to leave out; NULL without skip-layer guidance. free() *out. */
static int skipped_blocks(bool **out, const engine *g, const run_params *r, err *e)
{
    *out = NULL;
    if (!r->skip || !r->skip->n_layers)
        return 0;
    if (!(*out = calloc((size_t)g->dit_cfg.num_layers, sizeof **out)))
        return ERR(e, ERR_MEMORY, "no memory for %d layers", g->dit_cfg.num_layers);
    for (int i = 0; i < r->skip->n_layers; i++) {
        int layer = r->skip->layers[i];
        if (layer < 0 || layer >= g->dit_cfg.num_layers)
            return ERR(e, ERR_CONFIG, "sampling.slg_layers names %d, but there are %d transformer blocks, numbered from 0", layer, g->dit_cfg.num_layers);
        (*out)[layer] = true;
    }
    return 0;
}

/* The first tensor of a checkpoint that holds NaN or infinity. */
static const ckpt_tensor *first_bad_tensor(const ckpt *c)
{
    enum { CHUNK = 4096 };
    float buf[CHUNK];
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const ckpt_tensor *t = ckpt_at(c, i);
        size_t size = dtype_size(t->dtype);
        for (size_t at = 0; at < t->bytes / size; at += CHUNK) {
            int64_t n = t->bytes / size - at < CHUNK ? (int64_t)(t->bytes / size - at) : CHUNK;
            dtype_to_f32(buf, (const char *)t->data + at * size, t->dtype, n);
            for (int64_t k = 0; k < n; k++)
                if (!isfinite(buf[k]))
                    return t;
        }
    }
    return NULL;
}

const ckpt_tensor *engine_first_bad(const engine *g, int expert)
{
    const ckpt_tensor *bad = first_bad_tensor(g->dit_file[expert]);
    if (!bad && g->lora_file)
        bad = first_bad_tensor(g->lora_file);
    for (int k = 0; !bad && k < g->n_adapters; k++)
        bad = first_bad_tensor(g->adapters[k].file);
    if (!bad && g->vace_loaded && g->vace_file)
        bad = first_bad_tensor(g->vace_file);
    return bad;
}

static int check_finite(engine *g, const tensor *t, int step, int steps, int expert, err *e)
{
    bool found = false;
    int rc = op_any_nonfinite(&found, t, e);
    if (rc || !found)
        return rc;
    const ckpt_tensor *bad = engine_first_bad(g, expert);
    if (bad)
        return ERR(e, ERR_NAN, "step %d of %d gave NaN or infinity: tensor '%s' of %s holds such values; the file is damaged", step + 1, steps,
                   bad->name, bad->file);
    return ERR(e, ERR_NAN, "step %d of %d gave NaN or infinity although the weights are finite; check guidance, prompt weights and shift", step + 1, steps);
}

static int emit(const hooks *h, hook_point at, hook_kind kind, tensor *value, err *e)
{
    at.kind = kind;
    at.layer = -1;
    at.module = "";
    if (kind == HOOK_LATENTS && hooks_edited(h, &at)) {
        int rc = hooks_apply(h, &at, value, NULL, e);
        if (rc)
            return rc;
    }
    if (!hooks_wanted(h, &at))
        return 0;
    hook_data d = { .value = value, .grid = { value->shape[1], value->shape[2] / 2, value->shape[3] / 2 } };
    return hooks_show(h, &at, &d, e);
}

/* One pass of a step over all frames, at once or window by window. */
typedef struct {
    dit_work *work;
    shot_run shots;
    window_run windows;
} passes;

static int predict(passes *s, dit *d, const prompt *text, bool cond, const tensor *latents, dit_input *in, tensor *velocity, const hooks *h,
                   const hook_point *at, err *e)
{
    in->latents = latents;
    if (s->windows.list.n)
        return window_run_forward(&s->windows, d, s->work, in, &s->shots, text, cond, velocity, e);
    int rc = shot_run_pass(&s->shots, text, cond, latents, in, e);
    return rc ? rc : dit_forward(d, s->work, in, velocity, h, at, e);
}

static int check_params(const run_params *r, err *e)
{
    if ((r->n_cond != 1 && r->n_cond != r->steps) || (r->n_guidance != 1 && r->n_guidance != r->steps))
        return ERR(e, ERR_INTERNAL, "%d prompts and %d guidance values for %d steps", r->n_cond, r->n_guidance, r->steps);
    for (int i = 0; i < r->n_guidance; i++) {
        if (!isfinite(r->guidance[i]))
            return ERR(e, ERR_CONFIG, "guidance of step %d is not a number", i);
        if (r->guidance[i] != 1 && !r->uncond)
            return ERR(e, ERR_CONFIG, "guidance %g of step %d needs a negative prompt (it may be empty)", r->guidance[i], i);
    }
    if (r->latents_bf16 && r->solver != SOLVER_DIFFSYNTH_EULER)
        return ERR(e, ERR_CONFIG, "sampling.latent_dtype bf16 reproduces the roundings of DiffSynth's pipeline and needs its solver: set sampling.solver "
                   "to diffsynth_euler, found %s", solver_name(r->solver));
    return 0;
}

int engine_run(engine *g, const run_params *r, const hooks *h, tensor *latents, err *e)
{
    int rc = 0;
    int64_t shape[4];
    schedule s = { 0 };
    solver *sol = NULL;
    passes passes = { 0 };
    tensor cond = { 0 }, uncond = { 0 }, away = { 0 };
    bool *skip = NULL;
    context_slot slots[2] = { { 0 } };
    int *expert = NULL;
    float *host = NULL;
    if (r->causal)
        return engine_run_causal(g, r, h, latents, e);
    *latents = (tensor){ 0 };
    TRY(check_params(r, e));
    bool vace = run_has_vace(g, r);
    if (vace)
        TRY(run_check_vace(g, r, e));
    TRY(engine_latent_shape(g, r, shape, e));
    if (!(expert = calloc((size_t)(r->steps > 0 ? r->steps : 1), sizeof *expert))) {
        rc = ERR(e, ERR_MEMORY, "no memory for %d steps", r->steps);
        goto out;
    }
    TRY(engine_schedule(g, r, &s, expert, e));
    TRY(skipped_blocks(&skip, g, r, e));
    TRY(window_run_begin(&passes.windows, g, r, shape, e));
    TRY(shot_run_begin(&passes.shots, g, r, shape, &passes.windows.list, e));
    TRY(engine_prepare(g, r, e));
    for (int i = 0; i < r->steps && !g->memory.one_expert; i++)
        TRY(engine_need_dit(g, expert[i], e));
    TRY(engine_need_dit(g, expert[0], e));
    if (vace)
        TRY(engine_need_vace_blocks(g, e));
    TRY(tensor_new(latents, g->be, DT_F32, 4, shape, e));
    TRY(tensor_new(&cond, g->be, DT_F32, 4, shape, e));
    TRY(tensor_new(&uncond, g->be, DT_F32, 4, shape, e));
    if (skip && !r->skip->uncond)
        TRY(tensor_new(&away, g->be, DT_F32, 4, shape, e));
    TRY(solver_new(&sol, g->be, &s, 4, shape, e));
    int64_t at_once = passes.windows.list.n ? passes.windows.longest : shape[1];
    TRY(dit_work_new(&passes.work, g->dits[expert[0]], at_once, shape[2], shape[3], e));
    if (!(host = malloc((size_t)tensor_count(latents) * sizeof *host))) {
        rc = ERR(e, ERR_MEMORY, "no host memory for latents");
        goto out;
    }
    TRY(draw_noise(g->be, r, host, tensor_count(latents), e));
    TRY(op_upload(latents, host, e));
    if (r->latents_bf16)
        TRY(bf16_round(latents, e));

    hook_point at = { .n_steps = r->steps, .sigma = s.sigmas[0], .timestep = s.timesteps[0], .expert = expert[0], .cond = true, .layer = -1, .module = "" };
    TRY(emit(h, at, HOOK_LATENTS, latents, e));
    for (int i = 0; i < r->steps; i++) {
        double guidance = r->guidance[r->n_guidance == 1 ? 0 : i];
        TRY(engine_need_dit(g, expert[i], e));
        dit *d = g->dits[expert[i]];
        at = (hook_point){ .step = i, .n_steps = r->steps, .sigma = s.sigmas[i], .timestep = s.timesteps[i], .expert = expert[i],
                           .cond = true, .layer = -1, .module = "" };
        dit_input in = { .latents = latents, .n_timesteps = 1, .timesteps = &s.timesteps[i] };
        if (vace) {      /* in both branches of guidance, as upstream */
            in.vace_context = &r->vace->context;
            in.vace_scale = r->n_vace_scale == 0 ? 1 : r->vace_scale[r->n_vace_scale == 1 ? 0 : i];
            in.vace_block_scale = r->vace_block_scale;
        }
        const prompt *text = r->cond[r->n_cond == 1 ? 0 : i];
        TRY(context_get(g, &slots[0], text, expert[i], e));
        in.context = &slots[0].context;
        TRY(predict(&passes, d, text, true, latents, &in, &cond, h, &at, e));
        if (guidance != 1) {
            at.cond = false;
            TRY(context_get(g, &slots[1], r->uncond, expert[i], e));
            in.context = &slots[1].context;
            bool skips = skip && i >= r->skip->begin && i < r->skip->end;
            in.skip_block = skips && r->skip->uncond ? skip : NULL;
            TRY(predict(&passes, d, text, false, latents, &in, &uncond, h, &at, e));
            if (skips && !r->skip->uncond) {      /* of no branch that hooks know */
                in.skip_block = skip;
                TRY(predict(&passes, d, text, false, latents, &in, &away, NULL, NULL, e));
                TRY(op_axpby(&away, 1.0f, &cond, -1.0f, &away, e));
            }
            TRY(guide(r, &cond, &uncond, guidance, e));
            if (skips && !r->skip->uncond)
                TRY(op_axpby(&cond, 1.0f, &cond, (float)r->skip->scale, &away, e));
            at.cond = true;
        } else if (r->latents_bf16) {
            TRY(bf16_round(&cond, e));
        }
        TRY(check_finite(g, &cond, i, r->steps, expert[i], e));
        TRY(emit(h, at, HOOK_VELOCITY, &cond, e));
        if (r->latents_bf16)
            TRY(bf16_euler(latents, &cond, s.sigmas[i + 1] - s.sigmas[i], e));
        else
            TRY(solver_step(sol, i, latents, &cond, e));
        at.step = i + 1;
        at.sigma = s.sigmas[i + 1];
        at.timestep = i + 1 < r->steps ? s.timesteps[i + 1] : 0;
        TRY(emit(h, at, HOOK_LATENTS, latents, e));
    }
    if (vace && r->vace_references)
        TRY(run_drop_frames(latents, r->vace_references, e));
out:
    schedule_release(&s);
    solver_free(sol);
    dit_work_free(passes.work);
    shot_run_end(&passes.shots);
    window_run_end(&passes.windows);
    free(skip);
    tensor_free(&away);
    tensor_free(&cond);
    tensor_free(&uncond);
    tensor_free(&slots[0].context);
    tensor_free(&slots[1].context);
    free(expert);
    free(host);
    if (rc)
        tensor_free(latents);
    engine_settle(g);
    return rc;
}

/* ---- decode ---- */

int engine_decode(engine *g, const tensor *latents, frame_fn fn, void *user, err *e)
{
    int rc = engine_need_vae(g, e);
    if (!rc)
        rc = vae_decode_clip(g->vae, latents, g->memory.decode_bands, fn, user, e);
    engine_leave_vae(g);
    return rc;
}

/* ---- forecast ---- */

int engine_forecast(const engine *g, const run_params *r, engine_cost *out, err *e)
{
    int64_t shape[4];
    int rc = engine_latent_shape(g, r, shape, e);
    if (rc)
        return rc;
    const dit_config *c = &g->dit_cfg;
    double L = (double)shape[1] * (double)(shape[2] / 2) * (double)(shape[3] / 2), D = c->dim, M = c->ffn_dim, T = c->text_len;
    bool guided = false;
    for (int i = 0; i < r->n_guidance; i++)
        guided |= r->guidance[i] != 1;
    /* a multiply and an add count as two; per block: q k v o, scores and values, cross q o, cross k v of the text, FFN */
    double pairs = shot_run_pairs(r->shots, r->frames, shape[1], shape[2] / 2 * (shape[3] / 2));
    double block = 2 * L * D * D * 4 + 4 * pairs * D + 2 * L * D * D * 2 + 2 * T * D * D * 2 + 4 * L * T * D + 4 * L * D * M;
    double calls = guided ? 2 : 1;
    if (r->causal) {      /* queries see the window only; a fifth call (of four steps) fills the cache; nothing is guided */
        double frame = L / (double)shape[1], window = r->causal->window == -1 ? (double)shape[1] : r->causal->window;
        double keys = window < (double)shape[1] ? window * frame : L;
        block += 4 * L * (keys - L) * D;
        calls = (r->steps + 1.0) / r->steps;
    }
    double windows = 1;
    if (!r->causal && r->windows && shape[1] > r->windows->length) {      /* the same a window, which attends to itself alone */
        window_list list;
        if ((rc = windows_make(&list, r->windows, (int)shape[1], e)))
            return rc;
        windows = list.n;
        windows_release(&list);
        L = L / (double)shape[1] * r->windows->length;
        block = 2 * L * D * D * 4 + 4 * L * L * D + 2 * L * D * D * 2 + 2 * T * D * D * 2 + 4 * L * T * D + 4 * L * D * M;
    }
    *out = (engine_cost){ 0 };
    int n_blocks = c->num_layers + (run_has_vace(g, r) ? c->n_vace_layers : 0);
    out->flops_step = (n_blocks * block + 2 * L * D * (c->in_dim * 4 + c->out_dim * 4)) * calls * windows;
    if (g->t5_file) {
        umt5_config t;
        if ((rc = umt5_config_detect(&t, g->t5_file, e)))
            return rc;
        out->flops_text = t.num_layers * (2 * T * t.dim * (4.0 * t.dim_attn + 3.0 * t.dim_ffn) + 4 * T * T * t.dim_attn);
    }
    if (g->vae_file) {
        vae_config v;
        if ((rc = vae_config_detect(&v, g->vae_file, e)))
            return rc;
        /* multiply-adds a pixel of the full-size decoder, summed over its stages: 27-tap convolutions of c channels at a
         * resolution of 1, 1/4 (x frames 1, 1), 1/16 (1/2), 1/64 (1/4) */
        double pixels = (double)r->width * r->height * r->frames, d = v.dim, c0 = d * v.mult[0], c1 = d * v.mult[1], c2 = d * v.mult[2], c3 = d * v.mult[3];
        double per = 27 * (6 * c0 * c0) + 27 * (6 * c1 * c1) / 4 + 27 * (5.5 * c2 * c2) / 32 + 27 * (10 * c3 * c3) / 256 +
                     9 * c1 * c0 + 9 * c2 * c2 / 2 / 4 + 9 * c3 * c3 / 2 / 32;
        out->flops_decode = 2 * pixels * per;
        out->decode_bytes = engine_decode_bytes(g, r, &v, 1);
    }
    ckpt *files[6] = { g->dit_file[0], g->dit_file[1], g->t5_file, g->vae_file, g->vace_file, g->lora_file };
    for (int f = 0; f < 6; f++)
        for (size_t i = 0; files[f] && i < ckpt_count(files[f]); i++)
            out->weight_bytes += (int64_t)ckpt_at(files[f], i)->bytes;
    engine_plan_memory(g, r, &out->memory, NULL);      /* where it does not fit, the numbers tell by how much */
    out->activation_bytes = out->memory.work_bytes + out->memory.latent_bytes;
    return 0;
}
