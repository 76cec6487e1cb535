/* What a run writes beside its video: the parameters and the latents. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "experiments/batch.h"
#include "experiments/build_id.h"
#include "experiments/run_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

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
    if (c->vace.control_timing != TIMING_FIRST)
        jw_kstring(w, "control_timing", config_enum_name("vace.control_timing", c->vace.control_timing));
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
