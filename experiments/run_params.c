/* The parameters of runs, from the configuration and the model that was opened. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "experiments/capture.h"
#include "experiments/guidance.h"
#include "experiments/run_internal.h"
#include "experiments/shot_text.h"
#include "experiments/vace_inputs.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

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

int runner_fill_params(runner *r, err *e)
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
    r->params.latents_only = !c->output.video && !c->output.preview;
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
