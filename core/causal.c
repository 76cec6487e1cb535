#include "core/causal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/causal_internal.h"
#include "core/sample/noise.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- options and noise levels ---- */

int causal_check(const causal_options *o, err *e)
{
    if (o->height < 2 || o->width < 2 || o->height % 2 || o->width % 2)
        return ERR(e, ERR_CONFIG, "latents of %" PRId64 " x %" PRId64 ": height and width must be even, so videos have multiples of 16 pixels",
                   o->height, o->width);
    if (o->block < 1)
        return ERR(e, ERR_CONFIG, "causal.frames_per_block is %d: at least 1 latent frame is needed (LongLive: 3)", o->block);
    if (o->sink < 0 || o->sink > o->block)
        return ERR(e, ERR_CONFIG, "causal.sink is %d latent frames with blocks of %d: the sink must fit in the first block, so 0 to %d are possible",
                   o->sink, o->block, o->block);
    if (o->window != -1 && o->window < o->sink + o->block)
        return ERR(e, ERR_CONFIG, "causal.window is %d latent frames, but a sink of %d and a block of %d need at least %d; -1 keeps the whole clip",
                   o->window, o->sink, o->block, o->sink + o->block);
    if (o->window > CAUSAL_POSITIONS)
        return ERR(e, ERR_CONFIG, "causal.window is %d latent frames: at most %d, the rows of the rotary table, are possible", o->window, CAUSAL_POSITIONS);
    if (o->window == -1 && (o->total < o->block || o->total > CAUSAL_POSITIONS))
        return ERR(e, ERR_CONFIG, "causal.window -1 keeps the whole clip of %" PRId64 " latent frames: %d to %d are possible; choose a window", o->total,
                   o->block, CAUSAL_POSITIONS);
    if (o->total % o->block)
        return ERR(e, ERR_CONFIG, "the clip has %" PRId64 " latent frames, no multiple of causal.frames_per_block %d: the nearest lengths are %" PRId64
                   " and %" PRId64 " video frames", o->total, o->block, 4 * (o->total / o->block * o->block) - 3 > 0 ?
                   4 * (o->total / o->block * o->block) - 3 : 4 * (int64_t)o->block - 3, 4 * ((o->total / o->block + 1) * o->block) - 3);
    if (o->total > CAUSAL_POSITIONS && !o->hard_cut)
        return ERR(e, ERR_CONFIG, "the clip has %" PRId64 " latent frames, but the model's rotary table ends after %d: make at most %" PRId64
                   " video frames, or set causal.hard_cut to true to begin afresh there, with a visible cut", o->total, CAUSAL_POSITIONS,
                   4 * (int64_t)(CAUSAL_POSITIONS / o->block * o->block) - 3);
    if (o->draws == CAUSAL_DRAW_CLIP && !o->noise && o->total < 1)
        return ERR(e, ERR_CONFIG, "causal.draws clip draws the noise of the whole clip first, so its length must be known; choose draws by block");
    if (o->n_steps < 1 || o->n_steps > CAUSAL_MAX_STEPS)
        return ERR(e, ERR_CONFIG, "%d steps a block: 1 to %d are possible (LongLive: 4)", o->n_steps, CAUSAL_MAX_STEPS);
    for (int i = 0; i < o->n_steps; i++)
        if (o->steps[i] < 1 || o->steps[i] > CAUSAL_TABLE || (i && o->steps[i] >= o->steps[i - 1]))
            return ERR(e, ERR_CONFIG, "causal.timesteps: entry %d is %d: the entries must fall and lie between 1000 and 1 (LongLive: 1000, 750, 500, 250)",
                       i, o->steps[i]);
    if (!(o->shift > 0) || !isfinite(o->shift))
        return ERR(e, ERR_CONFIG, "sampling.shift is %g, a positive number is needed", o->shift);
    if (!(o->context_noise >= 0 && o->context_noise <= 1000))
        return ERR(e, ERR_CONFIG, "causal.context_noise is %g: a timestep from 0 to 1000 is needed (LongLive: 0)", o->context_noise);
    return 0;
}

/* float32 linspace(1, 0, 1001) without its end, as PyTorch rounds it, through the shift (scheduler.py:118-133; 2.1) */
static void fill_table(causal_table *table, float shift)
{
    float step = (float)(-1.0 / CAUSAL_TABLE);
    for (int i = 0; i < CAUSAL_TABLE; i++) {
        float s = i < CAUSAL_TABLE / 2 ? fmaf(step, (float)i, 1.0f) : fmaf(-step, (float)(CAUSAL_TABLE - i), 0.0f);
        table->sigma[i] = (shift * s) / (1.0f + (shift - 1.0f) * s);
        table->t[i] = 1000.0f * table->sigma[i];
    }
}

/* argmin |t - at|, the first minimum */
static float nearest_sigma(const causal_table *table, float at)
{
    int best = 0;
    for (int i = 1; i < CAUSAL_TABLE; i++)
        if (fabsf(table->t[i] - at) < fabsf(table->t[best] - at))
            best = i;
    return table->sigma[best];
}

int causal_schedule(schedule *out, const causal_options *o, err *e)
{
    causal_table table;
    *out = (schedule){ .steps = o->n_steps, .shift = o->shift };
    int rc = causal_check(o, e);
    if (rc)
        return rc;
    out->sigmas = calloc((size_t)o->n_steps + 1, sizeof *out->sigmas);
    out->timesteps = calloc((size_t)o->n_steps, sizeof *out->timesteps);
    if (!out->sigmas || !out->timesteps) {
        schedule_release(out);
        return ERR(e, ERR_MEMORY, "no memory for a schedule of %d steps", o->n_steps);
    }
    fill_table(&table, (float)o->shift);
    for (int i = 0; i < o->n_steps; i++) {      /* causal_inference.py:33-37; Scope feeds the numbers as they are (2.2) */
        float t = o->warp ? table.t[CAUSAL_TABLE - o->steps[i]] : (float)o->steps[i];
        out->timesteps[i] = (double)t;
        out->sigmas[i] = nearest_sigma(&table, t);
    }
    return 0;
}

/* ---- opening ---- */

static int draw_all(causal *c, err *e)
{
    const causal_options *o = &c->o;
    int64_t n = o->total * c->channels * o->height * o->width;
    if (o->noise || o->draws != CAUSAL_DRAW_CLIP)
        return 0;
    rng_cpu_seed(&c->first, o->seed);
    c->later = c->first;
    if (!o->cuda_noise) {      /* the draws are multiples of 16 values, so one draw of all is block after block */
        for (int64_t i = 0; i < n; i++)
            rng_cpu_u32(&c->later);
        return 0;
    }
    if (!(c->all_noise = malloc((size_t)n * sizeof *c->all_noise)))
        return ERR(e, ERR_MEMORY, "no memory for the noise of %" PRId64 " latent frames; causal.draws block draws it block by block", o->total);
    return noise_cuda_normal(c->m.be, o->seed, &c->offset, o->noise_sms, o->noise_threads_per_sm, c->all_noise, n, e);
}

int causal_new(causal **out, causal_model m, const causal_options *o, err *e)
{
    int rc = causal_check(o, e);
    causal *c = NULL;
    *out = NULL;
    if (rc)
        return rc;
    if (!(c = calloc(1, sizeof *c)))
        return ERR(e, ERR_MEMORY, "no memory for a causal clip");
    const dit_config *cfg = dit_get_config(m.d);
    c->m = m;
    c->o = *o;
    c->channels = cfg->in_dim;
    c->room = o->window == -1 ? o->total : o->window;
    fill_table(&c->table, (float)o->shift);
    size_t frame = (size_t)(c->channels * o->height * o->width), most = (size_t)(c->room > o->block ? c->room : o->block);
    c->recent = malloc((size_t)c->room * frame * sizeof *c->recent);
    c->drawn = malloc((size_t)o->block * frame * sizeof *c->drawn);
    c->turned = malloc(most * frame * sizeof *c->turned);
    c->times = malloc(most * sizeof *c->times);
    if (!c->recent || !c->drawn || !c->turned || !c->times) {
        rc = ERR(e, ERR_MEMORY, "no memory for the latents of a window of %" PRId64 " frames", c->room);
        goto out;
    }
    TRY(causal_schedule(&c->s, o, e));
    tensor *const own[] = { &c->x, &c->x0, &c->flow };
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        TRY(TENSOR_NEW(own[i], m.be, DT_F32, e, c->channels, o->block, o->height, o->width));
    TRY(TENSOR_NEW(&c->noise, m.be, DT_F32, e, c->s.steps, c->channels, o->block, o->height, o->width));
    TRY(TENSOR_NEW(&c->flags, m.be, DT_I32, e, c->s.steps + 1));
    TRY(dit_work_new(&c->work, m.d, o->block, o->height, o->width, e));
    TRY(kv_cache_new(&c->cache, m.be, cfg->num_layers, cfg->dim, m.keys, o->height / 2 * (o->width / 2), o->window, o->sink, o->block, (int)o->total, e));
    TRY(text_cache_new(&c->text, m.be, cfg->num_layers, cfg->text_len, cfg->dim, m.keys, e));
    TRY(draw_all(c, e));
    *out = c;
    return 0;
out:
    causal_free(c);
    return rc;
}

void causal_free(causal *c)
{
    if (!c)
        return;
    kv_cache_free(c->cache);
    text_cache_free(c->text);
    dit_work_free(c->work);
    vae_stream_free(c->vae);
    schedule_release(&c->s);
    free(c->recent);
    free(c->all_noise);
    tensor_free(&c->x);
    tensor_free(&c->x0);
    tensor_free(&c->flow);
    tensor_free(&c->noise);
    tensor_free(&c->flags);
    free(c->drawn);
    free(c->turned);
    free(c->times);
    free(c);
}

int64_t causal_blocks(const causal *c) { return c->n_blocks; }
int64_t causal_frames(const causal *c) { return c->n_frames; }
int64_t causal_pixels(const causal *c) { return c->pixel; }
const kv_cache *causal_cache(const causal *c) { return c->cache; }

/* ---- noise ---- */

/* [frames, channels, height, width] */
static int draw_host(causal *c, int number, float *out, err *e)
{
    const causal_options *o = &c->o;
    int64_t n = o->block * (int64_t)c->channels * o->height * o->width;
    if (o->noise)
        return o->noise(c->n_blocks, number, out, n, o->noise_user, e);
    if (o->draws == CAUSAL_DRAW_BLOCK && number == 0) {
        rng_cpu_seed(&c->first, o->seed + (uint64_t)c->n_frames);
        c->offset = 0;
    }
    if (o->cuda_noise && o->draws == CAUSAL_DRAW_CLIP && number == 0) {
        memcpy(out, c->all_noise + c->n_blocks * n, (size_t)n * sizeof *out);
        return 0;
    }
    if (o->cuda_noise)
        return noise_cuda_normal(c->m.be, o->draws == CAUSAL_DRAW_BLOCK ? o->seed + (uint64_t)c->n_frames : o->seed, &c->offset, o->noise_sms,
                                 o->noise_threads_per_sm, out, n, e);
    rng_cpu_normal(o->draws == CAUSAL_DRAW_BLOCK || number == 0 ? &c->first : &c->later, out, n);
    return 0;
}

/* The noise that goes in before step `step`, channels-major. */
static tensor noise_of(const causal *c, int step)
{
    tensor one = tensor_rows(&c->noise, step, 1);
    return tensor_reshape(&one, 4, c->x.shape);
}

/* ---- one call of the model ---- */

/* [a, b, plane] -> [b, a, plane] */
static void swap_axes(float *out, const float *in, int64_t a, int64_t b, int64_t plane)
{
    for (int64_t i = 0; i < a; i++)
        for (int64_t k = 0; k < b; k++)
            memcpy(out + (k * a + i) * plane, in + (i * b + k) * plane, (size_t)plane * sizeof *in);
}

/* Frames-major host values into a tensor [channels, frames, height, width]. */
static int put(causal *c, tensor *t, const float *values, err *e)
{
    swap_axes(c->turned, values, t->shape[1], c->channels, c->o.height * c->o.width);
    return op_upload(t, c->turned, e);
}

static int draw_noise(causal *c, int number, tensor *out, err *e)
{
    int rc = draw_host(c, number, c->drawn, e);
    return rc ? rc : put(c, out, c->drawn, e);
}

static int show(const causal *c, const hooks *h, hook_point at, hook_kind kind, const tensor *value, const kv_cache *cache, err *e)
{
    at.kind = kind;
    at.layer = -1;
    at.module = "";
    if (!hooks_wanted(h, &at))
        return 0;
    hook_data d = { .value = value, .grid = { value->shape[1], c->o.height / 2, c->o.width / 2 }, .cache = cache };
    return hooks_show(h, &at, &d, e);
}

/* Looks at the flags of `n` calls at once; `at` says what the first of them was, the others are the steps after it. */
static int check_finite(const causal *c, hook_point at, int n, err *e)
{
    static const char *const calls[] = { "step", "the call that fills the cache after step", "the new prompt's call before step" };
    int32_t found[CAUSAL_MAX_STEPS + 1];
    int rc = op_download(found, &c->flags, e);
    for (int i = 0; !rc && i < n; i++)
        if (found[i]) {
            bool clean = at.pass == PASS_DENOISE && i == c->s.steps;
            return ERR(e, ERR_NAN, "block %" PRId64 ", %s %d of %d gave NaN or infinity although what went in was finite", at.block,
                       calls[clean ? PASS_CLEAN : at.pass], clean ? c->s.steps : at.pass == PASS_DENOISE ? i + 1 : at.step, at.n_steps);
        }
    return rc;
}

/* One call for x [channels, frames, height, width] at rotary position `position`: the velocity into `flow`, its flag into flags[number].
 * x0 is computed where it is wanted: NULL leaves it out unless a hook asks. Nothing waits for the device here. */
static int call(causal *c, const tensor *x, tensor *flow, tensor *x0, int64_t position, double t, bool force_sink, int number, hook_point at, const hooks *h,
                err *e)
{
    int rc = 0;
    int64_t frames = x->shape[1];
    tensor own = { 0 }, flag = tensor_rows(&c->flags, number, 1);
    bool hinted = at.pass == PASS_DENOISE && c->vace.context;
    for (int64_t i = 0; i < frames; i++)
        c->times[i] = t;
    dit_input in = { .latents = x, .context = c->context, .n_timesteps = (int)frames, .timesteps = c->times, .frame_offset = position,
                     .cache = c->cache, .text = c->text, .force_sink = force_sink };
    if (hinted) {
        in.vace_context = c->vace.context;
        in.vace_scale = c->vace.scale[at.step];
        in.vace_block_scale = c->vace.block_scale;
    }
    TRY(dit_forward(c->m.d, c->work, &in, flow, h, &at, e));
    TRY(op_nonfinite(&flag, flow, e));
    TRY(show(c, h, at, HOOK_VELOCITY, flow, c->cache, e));
    at.kind = HOOK_X0;
    at.layer = -1;
    bool wanted = hooks_wanted(h, &at);
    if (!x0 && wanted) {
        TRY(tensor_new(&own, c->m.be, DT_F32, 4, x->shape, e));
        x0 = &own;
    }
    if (x0)      /* the level of the nearest entry also when t is that of the clean pass (2.3); f64, rounded once (wan_wrapper.py:244-255) */
        TRY(op_x0(x0, x, (double)nearest_sigma(&c->table, (float)t), flow, e));
    if (wanted)
        TRY(show(c, h, at, HOOK_X0, x0, c->cache, e));
out:
    tensor_free(&own);
    return rc;
}

/* ---- blocks ---- */

static hook_point point(const causal *c, hook_pass pass, int step)
{
    int n = c->s.steps;
    hook_point at = { .step = step, .n_steps = n, .cond = true, .layer = -1, .module = "", .pass = pass, .block = c->n_blocks, .frame = c->n_frames };
    at.timestep = pass == PASS_DENOISE ? step < n ? c->s.timesteps[step] : 0 : c->o.context_noise;
    at.sigma = pass == PASS_DENOISE ? step < n ? (double)c->s.sigmas[step] : 0 : (double)nearest_sigma(&c->table, (float)c->o.context_noise);
    return at;
}

void causal_condition_next(causal *c, const causal_condition *condition)
{
    c->vace = condition ? *condition : (causal_condition){ 0 };
}

void causal_prompt_again(causal *c, const tensor *context)
{
    c->context = context;
    text_cache_reset(c->text);
}

int causal_prompt(causal *c, const tensor *context, const hooks *h, err *e)
{
    int rc = 0;
    tensor x = { 0 }, flow = { 0 };
    causal_prompt_again(c, context);
    if (!c->n_recent)
        return 0;
    if (c->broken)
        return ERR(e, ERR_INTERNAL, "a causal clip cannot go on after an error");
    c->broken = true;
    if (!c->o.global_sink)      /* interactive_causal_inference.py:34-96 */
        TRY(kv_cache_zero(c->cache, e));
    hook_point at = point(c, PASS_RECACHE, 0);
    at.frame = c->n_frames - c->n_recent;
    TRY(TENSOR_NEW(&x, c->m.be, DT_F32, e, c->channels, c->n_recent, c->o.height, c->o.width));
    TRY(TENSOR_NEW(&flow, c->m.be, DT_F32, e, c->channels, c->n_recent, c->o.height, c->o.width));
    TRY(put(c, &x, c->recent, e));
    TRY(call(c, &x, &flow, NULL, c->position - c->n_recent, c->o.context_noise, !c->o.global_sink, 0, at, h, e));
    TRY(check_finite(c, at, 1, e));
    c->broken = false;
out:
    tensor_free(&x);
    tensor_free(&flow);
    return rc;
}

/* Shows the latents of a step, which editors may change. */
static int latents_hook(causal *c, const hooks *h, int step, err *e)
{
    hook_point at = point(c, PASS_DENOISE, step);
    at.kind = HOOK_LATENTS;
    int rc = hooks_edited(h, &at) ? hooks_apply(h, &at, &c->x, NULL, e) : 0;
    return rc ? rc : show(c, h, at, HOOK_LATENTS, &c->x, NULL, e);
}

/* The clean frames of a block, on the host: they are needed again when the prompt changes, and in saved states. */
static int remember(causal *c, err *e)
{
    int64_t plane = c->o.height * c->o.width, frame = c->channels * plane, n = c->o.block, keep = c->n_recent;
    int rc = op_download(c->turned, &c->x, e);
    if (rc)
        return rc;
    if (keep + n > c->room) {
        keep = c->room - n;
        memmove(c->recent, c->recent + (c->n_recent - keep) * frame, (size_t)(keep * frame) * sizeof *c->recent);
    }
    swap_axes(c->recent + keep * frame, c->turned, c->channels, n, plane);
    c->n_recent = keep + n;
    return 0;
}

/* Scope begins afresh where the rotary table ends (setup_caches.py:142-147): an empty cache, position 0. */
static int cut(causal *c, err *e)
{
    if (c->position + c->o.block <= CAUSAL_POSITIONS)
        return 0;
    if (!c->o.hard_cut)
        return ERR(e, ERR_CONFIG, "block %" PRId64 " would end at latent frame %" PRId64 ", but the model's rotary table ends after %d: stop here, or set "
                   "causal.hard_cut to true to begin afresh, with a visible cut", c->n_blocks, c->position + c->o.block, CAUSAL_POSITIONS);
    c->position = c->n_recent = 0;
    c->cache->global_end = c->cache->local_end = c->cache->base = 0;
    return kv_cache_zero(c->cache, e);
}

int causal_block(causal *c, const hooks *h, tensor *latents, err *e)
{
    int rc = 0, steps = c->s.steps;
    *latents = (tensor){ 0 };
    if (!c->context || c->broken)
        return ERR(e, ERR_INTERNAL, c->broken ? "a causal clip cannot go on after an error" : "a causal clip needs a prompt first");
    if (c->o.total && c->n_frames + c->o.block > c->o.total)
        return ERR(e, ERR_INTERNAL, "the clip of %" PRId64 " latent frames is complete", c->o.total);
    TRY(cut(c, e));
    c->broken = true;
    for (int i = 0; i < steps; i++) {      /* all of a block at once: an upload waits for the device */
        tensor draw = noise_of(c, i);
        TRY(draw_noise(c, i, i ? &draw : &c->x, e));
    }
    TRY(latents_hook(c, h, 0, e));
    for (int i = 0; i < steps; i++) {
        tensor *to = i + 1 < steps ? &c->x0 : &c->x;
        TRY(call(c, &c->x, &c->flow, to, c->position, c->s.timesteps[i], false, i, point(c, PASS_DENOISE, i), h, e));
        if (i + 1 < steps) {      /* f32 arithmetic with fresh noise (scheduler.py:159-176) */
            float s = c->s.sigmas[i + 1];
            tensor fresh = noise_of(c, i + 1);
            TRY(op_axpby(&c->x, 1.0f - s, &c->x0, s, &fresh, e));
        }
        TRY(latents_hook(c, h, i + 1, e));
    }
    TRY(call(c, &c->x, &c->flow, NULL, c->position, c->o.context_noise, false, steps, point(c, PASS_CLEAN, steps), h, e));
    TRY(check_finite(c, point(c, PASS_DENOISE, 0), steps + 1, e));
    TRY(remember(c, e));
    TRY(tensor_new(latents, c->m.be, DT_F32, 4, c->x.shape, e));
    TRY(op_copy(latents, &c->x, e));
    c->position += c->o.block;
    c->n_frames += c->o.block;
    c->n_blocks++;
    c->broken = false;
out:
    if (rc)
        tensor_free(latents);
    return rc;
}

int causal_decode(causal *c, const tensor *latents, frame_fn fn, void *user, err *e)
{
    int rc = 0;
    if (!c->m.v)
        return ERR(e, ERR_INTERNAL, "a causal clip without a VAE cannot be decoded");
    if (!c->vae)
        rc = vae_decoder_new(&c->vae, c->m.v, e);
    return rc ? rc : vae_decode_rgb(c->vae, latents, &c->pixel, fn, user, e);
}

void causal_decode_anew(causal *c)
{
    vae_stream_free(c->vae);
    c->vae = NULL;
    c->pixel = 0;
}
