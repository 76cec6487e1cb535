#include "experiments/run_one.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "experiments/batch.h"
#include "experiments/build_id.h"
#include "experiments/capture.h"
#include "experiments/guidance.h"
#include "experiments/interrupt.h"
#include "experiments/latent_preview.h"
#include "experiments/run_internal.h"
#include "experiments/shot_text.h"
#include "experiments/vace_inputs.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

#define PLAIN_SECONDS 10      /* between two lines of progress that go to a file */

double runner_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- opening ---- */

static int check_family(const config *cfg, const engine_info *info, err *e)
{
    const char *wanted = config_enum_name("model.family", cfg->model.family);
    if (cfg->model.family != FAMILY_AUTO && strcmp(wanted, info->family))
        return ERR(e, ERR_CONFIG, "model.family is %s, but the files are those of %s; set it to auto or choose another checkpoint", wanted, info->family);
    return 0;
}

/* Markers without cuts: upstream would quietly show every shot all captions. */
static int check_marks(const runner *r, err *e)
{
    const config *c = r->cfg;
    const char *source = c->prompt.template;
    prompt_template *t = NULL;
    str clean = STR_INIT, even = STR_INIT;
    int rc = 0;
    if (c->shots.cut_frames.given || !source[0])
        return 0;
    TRY(template_parse(&t, source, strlen(source), "prompt.template", e));
    TRY(template_clean_text(t, 0, &clean, e));
    const char *text = str_text(&clean);
    if (!shot_text_marked(text))
        goto out;
    if (strcmp(r->info.family, "holocine") || !c->shots.strict) {
        log_msg(LOG_WARN, "the prompt has [shot cut] or [per shot caption] marks and no cuts are given: they are read as plain text");
        goto out;
    }
    int n = shot_text_count(text);
    TRY(shot_text_even_cuts(&even, n > 0 ? n : 1, (int)c->video.frames, e));
    rc = ERR(e, ERR_CONFIG, "the prompt has captions for %d shots and no cuts are given, so no shot could be told its caption: set shots.cut_frames, evenly "
                 "spaced that is %s (with shots.strict false the marks are plain text, as upstream)", n, str_text(&even));
out:
    str_release(&clean);
    str_release(&even);
    template_free(t);
    return rc;
}

static int fill_shots(runner *r, err *e)
{
    config *c = r->cfg;
    const frame_list *f = &c->shots.cut_frames;
    const char *name = r->info.dit_path ? fs_basename(r->info.dit_path) : "";
    bool named_sparse = str_starts_with(name, "sparse_"), named_full = str_starts_with(name, "full_");
    int rc = check_marks(r, e);
    if (rc)
        return rc;
    bool by_itself = c->shots.sparse == SPARSE_AUTO;
    if (by_itself)
        c->shots.sparse = named_sparse ? SPARSE_YES : SPARSE_NO;
    bool sparse = c->shots.sparse == SPARSE_YES;
    if (!f->given && sparse && c->shots.strict)
        return ERR(e, ERR_CONFIG, "%s and no cuts are given: sparse attention is between shots; set shots.cut_frames, to [] for a single shot, or shots.sparse to "
                   "false", by_itself ? "the checkpoint is one for sparse attention" : "shots.sparse is true");
    if (!f->given)
        return 0;
    if (sparse ? named_full : named_sparse)
        log_msg(LOG_WARN, "%s is a checkpoint for %s attention, and shots.sparse is %s: transitions will suffer", name, sparse ? "full" : "sparse",
                sparse ? "true" : "false");
    if (strcmp(r->info.family, "holocine"))
        log_msg(LOG_WARN, "cuts are given and the checkpoint is not known as HoloCine's (%s): it may not have learnt shots", r->info.family);
    if (!(r->cuts = calloc((size_t)f->n + 1, sizeof *r->cuts)))
        return ERR(e, ERR_MEMORY, "out of memory for %d cuts", f->n);
    for (int i = 0; i < f->n; i++)
        r->cuts[i] = (int)f->items[i];
    r->shots = (run_shots){ .n_cuts = f->n, .cuts = r->cuts, .sparse = sparse, .mask_channel = c->shots.mask_type - SHOT_CHANNEL_ID,
                            .raw_spans = c->shots.spans == SPANS_RAW, .lenient = !c->shots.strict };
    r->params.shots = &r->shots;
    return 0;
}

static int fill_skip(runner *r, int steps, err *e)
{
    const config *c = r->cfg;
    int layers = r->info.dit->num_layers, n = 0;
    int64_t last = int_ranges_last(&c->sampling.slg_layers);
    if (last >= layers)
        return ERR(e, ERR_CONFIG, "sampling.slg_layers names %" PRId64 ", but there are %d transformer blocks, numbered from 0", last, layers);
    if (int_ranges_count(&c->sampling.slg_layers, layers) == layers)
        return ERR(e, ERR_CONFIG, "sampling.slg_layers names all %d transformer blocks: leave some, usually one or two in the middle are named", layers);
    if (!int_ranges_count(&c->sampling.slg_layers, layers))
        return 0;
    if (c->sampling.latent_dtype == LATENT_BF16)
        return ERR(e, ERR_CONFIG, "sampling.slg_layers and latent_dtype bf16 exclude each other: the pipeline whose roundings those are has no skip-layer guidance");
    if (!(r->skip_layers = calloc((size_t)layers, sizeof *r->skip_layers)))
        return ERR(e, ERR_MEMORY, "out of memory for %d layers", layers);
    for (int i = 0; i < layers; i++)
        if (int_ranges_contains(&c->sampling.slg_layers, i))
            r->skip_layers[n++] = i;
    r->skip = (run_skip){ .n_layers = n, .layers = r->skip_layers, .scale = c->sampling.slg_scale, .begin = (int)(c->sampling.slg_start * steps),
                          .end = (int)(c->sampling.slg_end * steps), .uncond = c->sampling.slg_mode == SLG_UNCOND };
    r->params.skip = &r->skip;
    return 0;
}

static void fill_windows(runner *r)
{
    const config *c = r->cfg;
    r->windows = (run_windows){ .length = windows_latents((int)c->sampling.context_length), .schedule = (window_schedule)c->sampling.context_schedule,
                                .stride = (int)c->sampling.context_stride, .closed_loop = c->sampling.context_closed_loop,
                                .fuse = (window_fuse)c->sampling.context_fuse };
    if (r->windows.schedule != WINDOWS_BATCHED)
        r->windows.overlap = windows_overlap_latents((int)c->sampling.context_overlap);
    if (c->sampling.context_windows && !r->info.causal)
        r->params.windows = &r->windows;
}

/* Section vace, as far as it can be checked before any weights or pictures are read. */
static int fill_vace(runner *r, err *e)
{
    const config *c = r->cfg;
    const guidance_schedule *by_step = &c->vace.scale_by_step;
    int rc, steps = r->params.steps, blocks = r->info.dit->n_vace_layers;
    double top = 0;
    if (!vace_inputs_given(c)) {
        if (c->model.vace[0])
            log_msg(LOG_WARN, "model.vace is given, but section vace names no references, control video or mask: the videos are those without VACE");
        return 0;
    }
    if (r->params.shots)
        return ERR(e, ERR_CONFIG, "shots.cut_frames and section vace exclude each other: no model knows both shots and VACE's conditions; leave one of the two out");
    if ((rc = engine_check_vace(r->g, e)) || (rc = vace_inputs_check(c, e)))
        return rc;
    if (!r->info.vae)
        return ERR(e, ERR_CONFIG, "references, control video and mask are encoded by the VAE, and there is none: set model.vae");
    if (c->vace.scale_by_block.n && c->vace.scale_by_block.n != blocks)
        return ERR(e, ERR_CONFIG, "vace.scale_by_block has %d factors, but the model has %d VACE blocks", c->vace.scale_by_block.n, blocks);
    if (by_step->n && by_step->steps[by_step->n - 1] >= steps)
        return ERR(e, ERR_CONFIG, "vace.scale_by_step names step %" PRId64 ", but there are %d steps, numbered from 0", by_step->steps[by_step->n - 1], steps);
    if (!(r->vace_scale = calloc((size_t)steps, sizeof *r->vace_scale)))
        return ERR(e, ERR_MEMORY, "out of memory for %d steps", steps);
    for (int k = 0; k < steps; k++) {
        r->vace_scale[k] = guidance_schedule_at(by_step, GUIDANCE_LINEAR, k, c->vace.scale);
        top = fabs(r->vace_scale[k]) > top ? fabs(r->vace_scale[k]) : top;
    }
    if (top > 2)
        log_msg(LOG_WARN, "a VACE scale of %g is beyond the usual 0 to 2", top);
    double blocks_top = c->vace.scale_by_block.n ? 0 : 1;
    for (int k = 0; k < c->vace.scale_by_block.n; k++)
        blocks_top = c->vace.scale_by_block.items[k] > blocks_top ? c->vace.scale_by_block.items[k] : blocks_top;
    if (top == 0 || blocks_top == 0)      /* exactly the video without: nothing is read but the digests */
        return 0;
    r->conditioned = true;
    r->params.vace_references = c->vace.references.n;
    r->params.vace_scale = r->vace_scale;
    r->params.n_vace_scale = steps;
    r->params.vace_block_scale = c->vace.scale_by_block.n ? c->vace.scale_by_block.items : NULL;
    return 0;
}

int runner_prepare(runner *r, err *e)
{
    if (!r->conditioned || r->inputs_read)
        return 0;
    int rc = vace_inputs_load(&r->inputs, r->cfg, e);
    r->inputs_read = !rc;
    return rc;
}

/* Encoded once for all runs. */
int runner_need_condition(runner *r, err *e)
{
    if (!r->conditioned || r->condition)
        return 0;
    int rc = runner_prepare(r, e);
    const vace_inputs in = { r->params.width, r->params.height, r->params.frames, r->inputs.n_references, (const float *const *)r->inputs.references,
                             r->inputs.control, r->inputs.mask };
    if (!rc)
        rc = engine_vace_encode(r->g, &in, &r->condition, e);
    if (!rc)
        vace_inputs_release(&r->inputs);
    return rc;
}

static int fill_params(runner *r, err *e)
{
    const config *c = r->cfg;
    int rc = 0, steps = (int)c->sampling.steps;
    schedule s = { 0 };
    int *expert = calloc((size_t)steps, sizeof *expert);
    r->guidance = calloc((size_t)steps, sizeof *r->guidance);
    if (!expert || !r->guidance) {
        rc = ERR(e, ERR_MEMORY, "out of memory for %d steps", steps);
        goto out;
    }
    r->params = (run_params)RUN_PARAMS_INIT;
    r->params.width = (int)c->video.width;
    r->params.height = (int)c->video.height;
    r->params.frames = (int)c->video.frames;
    r->params.noise = c->sampling.noise == CONFIG_NOISE_TORCH_CUDA ? NOISE_TORCH_CUDA : NOISE_TORCH_CPU;
    r->params.noise_sms = (int)c->sampling.noise_sms;
    r->params.noise_threads_per_sm = (int)c->sampling.noise_threads_per_sm;
    r->params.solver = (solver_kind)c->sampling.solver;
    r->params.steps = steps;
    r->params.shift = c->sampling.shift;
    r->params.boundary = c->sampling.boundary;
    if (r->info.causal)
        TRY(runner_causal_params(r, e));
    r->params.guidance = r->guidance;
    r->params.n_guidance = steps;
    r->params.latents_bf16 = c->sampling.latent_dtype == LATENT_BF16;
    TRY(fill_shots(r, e));
    TRY(engine_schedule(r->g, &r->params, &s, expert, e));
    for (int k = 0; k < steps; k++) {
        double fallback = expert[k] ? c->sampling.guidance_scale_low : c->sampling.guidance_scale;
        r->guidance[k] = guidance_schedule_at(&c->schedules.guidance, c->schedules.guidance_interpolation, k, fallback);
        if (!guidance_applies((config_cfg_skip)c->sampling.cfg_skip, c->sampling.cfg_ratio, k, steps))
            r->guidance[k] = 1;
        r->uses_negative |= r->guidance[k] != 1;
    }
    TRY(fill_skip(r, steps, e));
    fill_windows(r);
    int64_t shape[4];
    TRY(fill_vace(r, e));
    TRY(engine_latent_shape(r->g, &r->params, shape, e));
    int64_t ignored;
    TRY(capture_bytes(c, steps, shape, r->info.dit->num_layers, r->info.dit->num_heads, 1, &ignored, e));   /* choices exist? */
out:
    schedule_release(&s);
    free(expert);
    return rc;
}

static int list_loras(const config *cfg, engine_lora **out, err *e)
{
    const lora_list *l = &cfg->model.lora;
    if (!(*out = calloc((size_t)l->n + 1, sizeof **out)))
        return ERR(e, ERR_MEMORY, "out of memory for %d adapters", l->n);
    for (int i = 0; i < l->n; i++)
        (*out)[i] = (engine_lora){ .path = l->items[i].path, .multiplier = l->items[i].multiplier, .expert = (lora_expert)l->items[i].expert,
                                  .include = l->items[i].include, .exclude = l->items[i].exclude };
    return 0;
}

int runner_open(runner **out, config *cfg, err *e)
{
    int rc = 0;
    engine_lora *loras = NULL;
    *out = NULL;
    runner *r = calloc(1, sizeof *r);
    if (!r)
        return ERR(e, ERR_MEMORY, "out of memory");
    r->cfg = cfg;
    r->progress.told_at = runner_now();
    engine_options o = ENGINE_OPTIONS_INIT;
    TRY(list_loras(cfg, &loras, e));
    o.loras = loras;
    o.n_loras = cfg->model.lora.n;
    o.vace = cfg->model.vace;
    o.fp8_scaled = cfg->model.fp8_scaled;
    o.model = cfg->model.path;
    o.dit = cfg->model.dit;
    o.dit_low = cfg->model.dit_low;
    o.t5 = cfg->model.t5;
    o.vae = cfg->model.vae;
    o.tokenizer = cfg->model.tokenizer;
    o.device = cfg->model.device;
    o.precision = config_enum_name("model.precision", cfg->model.precision);
    o.threads = (int)cfg->model.threads;
    o.text_len = (int)cfg->model.text_len;
    o.ftfy = cfg->model.clean_ftfy;
    o.family = cfg->model.family == FAMILY_HOLOCINE ? "holocine" : NULL;
    o.lora = cfg->causal.lora;
    o.lora_alpha = cfg->causal.lora_alpha;
    o.blocks_to_swap = (int)cfg->memory.blocks_to_swap;
    o.offload = cfg->memory.offload == OFFLOAD_ALL ? ENGINE_OFFLOAD_ALL : cfg->memory.offload == OFFLOAD_NONE ? ENGINE_OFFLOAD_NONE : ENGINE_OFFLOAD_AUTO;
    o.memory_budget = cfg->memory.budget;
    TRY(engine_open(&r->g, &o, e));
    TRY(engine_get_info(r->g, false, &r->info, e));
    TRY(check_family(cfg, &r->info, e));
    TRY(config_resolve(cfg, r->info.family, e));
    if (cfg->sampling.latent_dtype == LATENT_BF16 && cfg->sampling.solver != SOLVER_DIFFSYNTH_EULER) {
        rc = ERR(e, ERR_CONFIG, "sampling.latent_dtype bf16 reproduces the roundings of DiffSynth's pipeline: set sampling.solver to diffsynth_euler (found %s), or "
                 "latent_dtype to f32", config_enum_name("sampling.solver", cfg->sampling.solver));
        goto out;
    }
    TRY(prompts_new(&r->texts, r->g, cfg, e));
    TRY(fill_params(r, e));
    if (cfg->memory.budget > 0 && str_starts_with(r->info.device, "CPU"))
        log_msg(LOG_INFO, "memory.budget has no effect on the CPU: weights are mapped, not copied");
    TRY(engine_prepare(r->g, &r->params, e));
    *out = r;
    free(loras);
    return 0;
out:
    free(loras);
    runner_close(r);
    return rc;
}

void runner_close(runner *r)
{
    if (!r)
        return;
    prompts_free(r->texts);
    vace_condition_free(r->condition);
    vace_inputs_release(&r->inputs);
    engine_close(r->g);
    str_release(&r->conditions);
    free(r->vace_scale);
    free(r->guidance);
    free(r->cuts);
    free(r->skip_layers);
    free(r);
}

int runner_digests(runner *r, err *e)
{
    if (r->digests)
        return 0;
    int rc = engine_get_info(r->g, true, &r->info, e);
    if (!rc && vace_inputs_given(r->cfg)) {
        str_clear(&r->conditions);
        rc = vace_inputs_digests(r->cfg, &r->conditions, e);
        r->info.conditions = rc ? NULL : str_text(&r->conditions);
    }
    r->digests = !rc;
    return rc;
}

engine *runner_engine(runner *r) { return r->g; }
const engine_info *runner_info(const runner *r) { return &r->info; }
prompts *runner_prompts(runner *r) { return r->texts; }
const run_params *runner_params(const runner *r) { return &r->params; }

/* ---- progress ---- */

void runner_progress(runner *r, const char *label, uint64_t run, uint64_t n_runs)
{
    snprintf(r->progress.label, sizeof r->progress.label, "%s", label);
    r->progress.run = run;
    r->progress.n_runs = n_runs;
}

double runner_seconds_per_step(const runner *r)
{
    return r->progress.step_seconds;
}

void runner_tell(runner *r, int64_t done, const char *phase)
{
    char what[256];
    double each = r->progress.step_seconds, decode = r->progress.decode_seconds;
    int64_t steps = r->progress.steps > 0 ? r->progress.steps : r->params.steps;
    uint64_t later = r->progress.n_runs > r->progress.run ? r->progress.n_runs - r->progress.run : 0;
    double left = each > 0 ? each * (double)(steps - done) + decode + (double)later * (each * (double)steps + decode) : -1;
    if (!isatty(STDERR_FILENO)) {      /* in a file: a line now and then, not one for everything that moves */
        double now = runner_now();
        if (now - r->progress.told_at < PLAIN_SECONDS)
            return;
        r->progress.told_at = now;
    }
    if (each <= 0)
        snprintf(what, sizeof what, "%s, %s", r->progress.label, phase);
    else if (each < 1)
        snprintf(what, sizeof what, "%s, %.1f steps/s, %s", r->progress.label, 1 / each, phase);
    else
        snprintf(what, sizeof what, "%s, %.1f s/step, %s", r->progress.label, each, phase);
    log_progress(what, done, steps, left);
}

void runner_average(double *mean, double fresh)
{
    *mean = *mean > 0 ? 0.8 * *mean + 0.2 * fresh : fresh;
}

static bool watch_wants(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_LATENTS || interrupt_pending();
}

static int watch(const hook_point *p, const hook_data *d, void *user, err *e)
{
    runner *r = user;
    (void)d;
    if (p->kind == HOOK_LATENTS) {
        double now = runner_now();
        if (p->step > 0)
            runner_average(&r->progress.step_seconds, now - r->progress.step_began);
        r->progress.step_began = now;
        runner_tell(r, p->block * p->n_steps + p->step, "step");
    }
    return interrupt_check(e);
}

int runner_watch(runner *r, hooks *h, err *e)
{
    return hooks_observe(h, (hook_observer){ watch_wants, watch, r }, e);
}

/* ---- what goes into the files ---- */

static void vace_json(const runner *r, json_writer *w)
{
    const config *c = r->cfg;
    bool same = true;
    jw_key(w, "vace");
    jw_object(w);
    if (c->vace.references.n) {
        jw_key(w, "references");
        jw_array(w);
        for (int i = 0; i < c->vace.references.n; i++)
            jw_string(w, c->vace.references.items[i]);
        jw_end_array(w);
    }
    if (c->vace.control[0]) {
        jw_kstring(w, "control", c->vace.control);
        jw_kstring(w, "control_type", config_enum_name("vace.control_type", c->vace.control_type));
        if (c->vace.control_type != CONTROL_VIDEO) {
            jw_kstring(w, "depth_normalise", config_enum_name("vace.depth_normalise", c->vace.depth_normalise));
            jw_kbool(w, "depth_invert", c->vace.depth_invert);
            jw_kint(w, "depth_smooth", c->vace.depth_smooth);
        }
    }
    if (c->vace.mask[0])
        jw_kstring(w, "mask", c->vace.mask);
    for (int k = 1; k < r->params.steps; k++)
        same &= r->vace_scale[k] == r->vace_scale[0];
    jw_key(w, "scale");
    if (!same)
        jw_array(w);
    for (int k = 0; k < (same ? 1 : r->params.steps); k++)
        jw_double(w, r->vace_scale[k]);
    if (!same)
        jw_end_array(w);
    if (c->vace.scale_by_block.n) {
        jw_key(w, "scale_by_block");
        jw_array(w);
        for (int k = 0; k < c->vace.scale_by_block.n; k++)
            jw_double(w, c->vace.scale_by_block.items[k]);
        jw_end_array(w);
    }
    jw_end_object(w);
}

int runner_parameters_json(runner *r, const variation *v, int64_t seed, str *out, err *e)
{
    const config *c = r->cfg;
    json_writer w;
    str checkpoints = STR_INIT;
    int rc = runner_digests(r, e);
    if (rc)
        return rc;
    jw_init(&w, out, 0);
    jw_object(&w);
    jw_kstring(&w, "program", "wanscope");
    jw_kstring(&w, "version", wanscope_version);
    jw_kstring(&w, "build", wanscope_build);
    jw_kstring(&w, "family", r->info.family);
    jw_kstring(&w, "precision", r->info.precision);
    batch_checkpoints_json(&checkpoints, &r->info);
    jw_key(&w, "checkpoints");
    jw_raw(&w, str_text(&checkpoints));
    str_release(&checkpoints);
    jw_kstring(&w, "prompt", v->clean);
    jw_kstring(&w, "marked_prompt", v->marked);
    jw_kstring(&w, "weighting", config_enum_name("prompt.weighting", c->prompt.weighting));
    jw_kstring(&w, "negative_prompt", config_negative_prompt(c));
    if (c->schedules.prompt.n > 0) {
        jw_key(&w, "prompt_schedule");
        jw_object(&w);
        for (int i = 0; i < c->schedules.prompt.n; i++) {
            char step[24];
            snprintf(step, sizeof step, "%" PRId64, c->schedules.prompt.steps[i]);
            jw_kstring(&w, step, c->schedules.prompt.texts[i]);
        }
        jw_end_object(&w);
        jw_kstring(&w, "prompt_interpolation", config_enum_name("schedules.prompt_interpolation", c->schedules.prompt_interpolation));
    }
    jw_kint(&w, "seed", seed);
    jw_kstring(&w, "noise", config_enum_name("sampling.noise", c->sampling.noise));
    if (c->sampling.noise == CONFIG_NOISE_TORCH_CUDA) {
        jw_kint(&w, "noise_sms", c->sampling.noise_sms);
        jw_kint(&w, "noise_threads_per_sm", c->sampling.noise_threads_per_sm);
    }
    jw_kint(&w, "width", c->video.width);
    jw_kint(&w, "height", c->video.height);
    jw_kint(&w, "frames", c->video.frames);
    jw_kdouble(&w, "fps", c->video.fps);
    if (r->params.shots) {
        jw_key(&w, "shots");
        jw_object(&w);
        jw_key(&w, "cut_frames");
        jw_array(&w);
        for (int i = 0; i < r->shots.n_cuts; i++)
            jw_int(&w, r->cuts[i]);
        jw_end_array(&w);
        jw_kbool(&w, "sparse", r->shots.sparse);
        jw_kstring(&w, "mask_type", config_enum_name("shots.mask_type", c->shots.mask_type));
        jw_kstring(&w, "spans", config_enum_name("shots.spans", c->shots.spans));
        jw_kbool(&w, "strict", c->shots.strict);
        jw_end_object(&w);
    }
    if (r->params.latents_bf16)
        jw_kstring(&w, "latent_dtype", "bf16");
    if (c->model.fp8_scaled)
        jw_kbool(&w, "fp8_scaled", true);
    jw_kstring(&w, "solver", r->info.causal ? "few_step" : solver_name(r->params.solver));
    jw_kint(&w, "steps", c->sampling.steps);
    jw_kdouble(&w, "shift", c->sampling.shift);
    jw_kdouble(&w, "guidance_scale", c->sampling.guidance_scale);
    if (r->info.two_experts) {
        jw_kdouble(&w, "guidance_scale_low", c->sampling.guidance_scale_low);
        jw_kdouble(&w, "boundary", c->sampling.boundary);
    }
    if (c->sampling.cfg_skip != CFG_SKIP_NONE) {
        jw_kstring(&w, "cfg_skip_mode", config_enum_name("sampling.cfg_skip_mode", c->sampling.cfg_skip));
        jw_kdouble(&w, "cfg_apply_ratio", c->sampling.cfg_ratio);
    }
    if (r->params.skip) {
        str layers = STR_INIT;
        int_ranges_print(&c->sampling.slg_layers, &layers);
        jw_kstring(&w, "slg_layers", str_text(&layers));
        str_release(&layers);
        jw_kdouble(&w, "slg_scale", c->sampling.slg_scale);
        jw_kdouble(&w, "slg_start", c->sampling.slg_start);
        jw_kdouble(&w, "slg_end", c->sampling.slg_end);
        jw_kstring(&w, "slg_mode", config_enum_name("sampling.slg_mode", c->sampling.slg_mode));
    }
    if (r->params.windows) {
        jw_key(&w, "context_windows");
        jw_object(&w);
        jw_kint(&w, "length", c->sampling.context_length);
        jw_kint(&w, "overlap", c->sampling.context_overlap);
        jw_kstring(&w, "schedule", config_enum_name("sampling.context_schedule", c->sampling.context_schedule));
        jw_kint(&w, "stride", c->sampling.context_stride);
        jw_kbool(&w, "closed_loop", c->sampling.context_closed_loop);
        jw_kstring(&w, "fuse_method", config_enum_name("sampling.context_fuse_method", c->sampling.context_fuse));
        jw_end_object(&w);
    }
    if (r->info.causal) {
        const causal_options *o = &r->causal;
        jw_kint(&w, "frames_per_block", o->block);
        jw_kint(&w, "window", o->window);
        jw_kint(&w, "sink", o->sink);
        jw_kbool(&w, "global_sink", o->global_sink);
        jw_kbool(&w, "warp", o->warp);
        jw_kdouble(&w, "context_noise", o->context_noise);
        jw_kstring(&w, "draws", config_enum_name("causal.draws", c->causal.draws));
        if (o->hard_cut)
            jw_kbool(&w, "hard_cut", true);
        if (c->causal.lora_alpha != 0)
            jw_kdouble(&w, "lora_alpha", c->causal.lora_alpha);
        if (c->causal.timesteps.n) {
            jw_key(&w, "block_timesteps");
            jw_array(&w);
            for (int i = 0; i < o->n_steps; i++)
                jw_int(&w, o->steps[i]);
            jw_end_array(&w);
        }
    }
    if (c->schedules.guidance.n > 0) {
        jw_key(&w, "guidance");
        jw_array(&w);
        for (int k = 0; k < r->params.steps; k++)
            jw_double(&w, r->guidance[k]);
        jw_end_array(&w);
    }
    if (r->conditioned)
        vace_json(r, &w);
    jw_end_object(&w);
    return out->failed ? ERR(e, ERR_MEMORY, "out of memory for the parameters of a run") : 0;
}

/* ---- decoding ---- */

static int decode(runner *r, const tensor *latents, const char *parameters, const run_files *f, err *e)
{
    int rc = 0;
    frame_sink s;
    double began = runner_now();
    runner_tell(r, r->params.steps, "decoding");
    TRY(frame_sink_open(&s, r, parameters, f, e));
    TRY(engine_decode(r->g, latents, frame_sink_take, &s, e));
    TRY(frame_sink_close(&s, e));
    runner_average(&r->progress.decode_seconds, runner_now() - began);
out:
    frame_sink_abort(&s);
    return rc;
}

/* {"latent": [1, C, F, H, W]} as H1111 writes it, with the parameters as metadata. */
int runner_write_latent(runner *r, const tensor *latents, const char *parameters, const char *path, err *e)
{
    int rc = 0;
    str bytes = STR_INIT, header = STR_INIT;
    int64_t n = tensor_count(latents);
    float *host = malloc((size_t)n * sizeof *host);
    json_writer w;
    (void)r;
    if (!host) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for the latents", path);
        goto out;
    }
    TRY(op_download_f32(host, latents, e));
    jw_init(&w, &header, 0);
    jw_object(&w);
    jw_key(&w, "__metadata__");
    jw_object(&w);
    jw_kstring(&w, "parameters", parameters);
    jw_end_object(&w);
    jw_key(&w, "latent");
    jw_object(&w);
    jw_kstring(&w, "dtype", "F32");
    jw_key(&w, "shape");
    jw_array(&w);
    jw_int(&w, 1);
    for (int i = 0; i < 4; i++)
        jw_int(&w, latents->shape[i]);
    jw_end_array(&w);
    jw_key(&w, "data_offsets");
    jw_array(&w);
    jw_int(&w, 0);
    jw_int(&w, n * 4);
    jw_end_array(&w);
    jw_end_object(&w);
    jw_end_object(&w);
    while (header.len % 8 && !header.failed)
        str_addc(&header, ' ');
    for (int i = 0; i < 8; i++)
        str_addc(&bytes, (char)(header.len >> (8 * i) & 0xff));
    str_addn(&bytes, header.data, header.len);
    for (int64_t i = 0; i < n; i++) {      /* little-endian, whatever this machine is */
        uint32_t u;
        memcpy(&u, &host[i], 4);
        char le[4] = { (char)(u & 0xff), (char)(u >> 8 & 0xff), (char)(u >> 16 & 0xff), (char)(u >> 24) };
        str_addn(&bytes, le, 4);
    }
    if (bytes.failed || header.failed)
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for the latents", path);
    else
        rc = fs_write_atomic(path, bytes.data, bytes.len, e);
out:
    str_release(&bytes);
    str_release(&header);
    free(host);
    return rc;
}

/* ---- a run ---- */

static int open_trace(runner *r, const variation *v, const step_prompts *texts, const run_params *p, const char *path, capture **out, err *e)
{
    int rc = 0;
    prompt_words words = { 0 };
    str text = STR_INIT, checkpoints = STR_INIT;
    TRY(runner_digests(r, e));
    if (r->cfg->attention.enabled)
        TRY(prompts_words(r->texts, v, &words, e));
    if (r->cfg->attention.enabled && !words.n)
        log_msg(LOG_WARN, "\"%.80s\" has no word to capture attention of: mark one as (word), or list it in capture.attention.words", v->clean);
    TRY(batch_run_config(&text, r->cfg, v->marked, (int64_t)p->seed, e));
    batch_checkpoints_json(&checkpoints, &r->info);
    capture_spec s = { .cfg = r->cfg, .info = &r->info, .g = r->g, .run = p, .prompt = texts->cond[0], .words = &words,
                       .marked_prompt = v->marked, .clean_prompt = v->clean, .negative_prompt = config_negative_prompt(r->cfg),
                       .run_config = str_text(&text), .checkpoints = str_text(&checkpoints) };
    TRY(capture_open(out, path, &s, e));
out:
    prompt_words_release(&words);
    str_release(&text);
    str_release(&checkpoints);
    return rc;
}

int runner_try_prompts(runner *r, const variation *v, err *e)
{
    step_prompts texts = { 0 };
    int rc = r->info.causal ? runner_try_timeline(r, v, e) : prompts_of_run(r->texts, v, r->params.steps, &texts, e);
    step_prompts_release(&texts);
    return rc;
}

int runner_run(runner *r, const variation *v, int64_t seed, const run_files *files, err *e)
{
    int rc = 0;
    tensor latents = { 0 };
    step_prompts texts = { 0 };
    capture *trace = NULL;
    latent_preview *rough = NULL;
    str parameters = STR_INIT;
    hooks h = { 0 };
    run_params p = r->params;
    if (!r->progress.label[0])
        runner_progress(r, "run", 1, 1);
    if (r->info.causal)
        return runner_run_causal(r, v, seed, files, e);
    r->progress.steps = p.steps;
    TRY(interrupt_check(e));
    if (p.shots && !p.shots->lenient && !r->cfg->schedules.prompt.n)
        TRY(shot_text_check(v->clean, p.shots->n_cuts, e));
    TRY(prompts_of_run(r->texts, v, p.steps, &texts, e));
    TRY(interrupt_check(e));
    if (r->uses_negative)
        TRY(prompts_negative(r->texts, &p.uncond, e));
    TRY(runner_need_condition(r, e));
    TRY(interrupt_check(e));
    p.vace = r->condition;
    p.cond = texts.cond;
    p.n_cond = texts.n;
    p.seed = (uint64_t)seed;
    if (files->trace) {
        TRY(open_trace(r, v, &texts, &p, files->trace, &trace, e));
        TRY(capture_observe(trace, &h, e));
    }
    if (files->latent_preview) {
        TRY(latent_preview_new(&rough, r->g, &p, files->latent_preview, files->latent_preview_every, r->cfg->video.fps, e));
        TRY(latent_preview_observe(rough, &h, e));
    }
    TRY(runner_watch(r, &h, e));
    TRY(engine_run(r->g, &p, &h, &latents, e));
    if (trace) {
        capture *done = trace;
        trace = NULL;
        TRY(capture_commit(done, e));
    }
    TRY(interrupt_check(e));
    TRY(runner_parameters_json(r, v, seed, &parameters, e));
    if (files->latent)
        TRY(runner_write_latent(r, &latents, str_text(&parameters), files->latent, e));
    if (frame_sink_wanted(files))
        TRY(decode(r, &latents, str_text(&parameters), files, e));
out:
    capture_abort(trace);
    latent_preview_free(rough);
    step_prompts_release(&texts);
    tensor_free(&latents);
    str_release(&parameters);
    return rc;
}
