#include "experiments/run_one.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "experiments/batch.h"
#include "experiments/capture.h"
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

int runner_prepare(runner *r, err *e)
{
    if (!r->conditioned || r->inputs_read)
        return 0;
    int rc = r->info.causal ? vace_inputs_follow(&r->inputs, r->cfg, e) : vace_inputs_load(&r->inputs, r->cfg, e);
    r->inputs_read = !rc;
    return rc;
}

/* Encoded once for all runs; with a causal model block by block, during the first. */
int runner_need_condition(runner *r, err *e)
{
    if (!r->conditioned || r->condition)
        return 0;
    int rc = runner_prepare(r, e);
    const bool causal = r->info.causal;
    const vace_source from = vace_inputs_source(&r->inputs);
    const vace_inputs in = { r->params.width, r->params.height, r->params.frames, r->inputs.n_references, (const float *const *)r->inputs.references,
                             causal ? NULL : r->inputs.control, causal ? NULL : r->inputs.mask };
    if (!rc)
        rc = engine_vace_follow(r->g, &in, causal ? &from : NULL, &r->condition, e);
    if (!rc && !causal)      /* a causal run comes to them block by block */
        vace_inputs_release(&r->inputs);
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
    TRY(runner_fill_params(r, e));
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
