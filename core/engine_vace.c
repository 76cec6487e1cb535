/* VACE in the engine: its weights, its conditions, and what they mean for a run. Source: longlive-vace.md 4. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_internal.h"
#include "core/vae/vace_context.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const ckpt *vace_source(const engine *g)
{
    return g->vace_file ? g->vace_file : g->dit_file[0];
}

/* Weights of zeros load without complaint and condition nothing. */
static int check_not_zero(const ckpt *c, err *e)
{
    const ckpt_tensor *t = ckpt_find(c, "vace_patch_embedding.weight");
    const unsigned char *bytes = t->data;
    for (size_t i = 0; i < t->bytes; i++)
        if (bytes[i] & 0x7f)
            return 0;
    return ERR(e, ERR_FORMAT, "%s: vace_patch_embedding.weight holds nothing but zeros; the file is damaged or was never trained", ckpt_path(c));
}

int engine_open_vace(engine *g, const char *path, err *e)
{
    int rc = 0;
    model_files files = { 0 };
    json *config = NULL;
    if (g->dit_file[1])
        return ERR(e, ERR_CONFIG, "model.vace is given, but %s is a pair of experts: VACE weights belong to models with one (Wan 2.1)", g->files.dit);
    TRY(ckpt_open(&g->vace_file, path, e));
    TRY(ckpt_normalise(g->vace_file, CKPT_DIT, e));
    if (model_files_find(&files, path, NULL) == 0 && files.config)
        TRY(json_read_file(&config, files.config, e));
    TRY(dit_config_add_vace(&g->dit_cfg, g->vace_file, config, e));
    TRY(check_not_zero(g->vace_file, e));
    if (strcmp(g->files.family, "wan2.1") == 0)
        snprintf(g->files.family, sizeof g->files.family, "vace");
out:
    json_free(config);
    model_files_release(&files);
    return err_at(e, rc, "while opening model.vace");
}

int engine_check_vace(const engine *g, err *e)
{
    if (!g->dit_cfg.n_vace_layers)
        return ERR(e, ERR_CONFIG, "references, a control video or a mask are given, but %s has no VACE weights: set model.vace to a VACE checkpoint "
                   "(Wan2.1-VACE-1.3B, or a file with its vace_* tensors), or model.path to the release itself", g->files.dit);
    if (g->dit_cfg.vace_in_dim != VACE_CHANNELS)
        return ERR(e, ERR_SHAPE, "%s: its VACE part takes %d channels; the conditions have %d (16 kept, 16 to change, 64 of the mask)",
                   ckpt_path(vace_source(g)), g->dit_cfg.vace_in_dim, VACE_CHANNELS);
    return 0;
}

int engine_need_vace_blocks(engine *g, err *e)
{
    if (g->vace_loaded)
        return 0;
    const dit_config *c = &g->dit_cfg;
    lora *loras = NULL;
    int n = 0, rc = engine_check_vace(g, e);
    if (!rc)
        rc = engine_loras_of(g, 0, &loras, &n, e);
    if (!rc)
        rc = dit_add_vace_lora(g->dits[0], vace_source(g), c->vace_in_dim, c->n_vace_layers, c->vace_layers, loras, n, e);
    free(loras);
    g->vace_loaded = !rc;
    return rc;
}

/* ---- conditions ---- */

static int check_values(const float *v, int64_t frames, int64_t plane, int channels, const char *what, err *e)
{
    for (int64_t i = 0; v && i < channels * frames * plane; i++)
        if (!isfinite(v[i]))
            return ERR(e, ERR_NAN, "%s holds NaN or infinity in frame %lld; clean it before it conditions a video", what, (long long)(i / plane % frames));
    return 0;
}

/* The context of a causal clip goes to the host, where it waits for its blocks; references are kept apart from it. */
static int keep_on_host(engine *g, vace_condition *c, const vace_inputs *in, err *e)
{
    int rc = 0, n = in->n_references;
    tensor faces = { 0 };
    float *grey = NULL, *all = NULL;
    c->controlled = in->control || in->mask;
    c->latent_frames = c->context.shape[1];
    c->plane = c->context.shape[2] * c->context.shape[3];
    if (!(c->host = malloc((size_t)tensor_count(&c->context) * sizeof *c->host))) {
        rc = ERR(e, ERR_MEMORY, "no memory for the conditions of %" PRId64 " latent frames", c->latent_frames);
        goto out;
    }
    TRY(op_download(c->host, &c->context, e));
    tensor_free(&c->context);
    if (!n)
        goto out;
    grey = calloc(3 * (size_t)in->width * (size_t)in->height, sizeof *grey);
    all = malloc((size_t)(VACE_CHANNELS * (n + 1) * c->plane) * sizeof *all);
    c->references = malloc((size_t)(16 * n * c->plane) * sizeof *c->references);
    if (!grey || !all || !c->references) {
        rc = ERR(e, ERR_MEMORY, "no memory for %d references", n);
        goto out;
    }
    TRY(vace_context_build(&faces, g->vae, g->be, grey, NULL, 1, in->height, in->width, in->references, n, e));
    TRY(op_download(all, &faces, e));
    for (int r = 0; r < n; r++)
        for (int k = 0; k < 16; k++)
            memcpy(c->references + (r * 16 + k) * c->plane, all + (k * (n + 1) + r) * c->plane, (size_t)c->plane * sizeof *all);
out:
    tensor_free(&faces);
    free(grey);
    free(all);
    return rc;
}

int vace_condition_block(const vace_condition *c, backend *be, int64_t first, int64_t n, tensor *out, err *e)
{
    int rc = 0;
    int64_t plane = c->plane, shown = c->controlled && first > 0 ? 0 : c->n_references < n ? c->n_references : n;
    float *host = malloc((size_t)(VACE_CHANNELS * n * plane) * sizeof *host);
    *out = (tensor){ 0 };
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for the conditions of a block");
    for (int64_t k = 0; k < VACE_CHANNELS; k++)
        for (int64_t f = 0; f < n; f++) {
            float *to = host + (k * n + f) * plane;
            if (f >= shown)
                memcpy(to, c->host + (k * c->latent_frames + first + f) * plane, (size_t)plane * sizeof *to);
            else if (k < 16)
                memcpy(to, c->references + (f * 16 + k) * plane, (size_t)plane * sizeof *to);
            else
                memset(to, 0, (size_t)plane * sizeof *to);
        }
    TRY(TENSOR_NEW(out, be, DT_F32, e, VACE_CHANNELS, n, c->height / VAE_SPACE, c->width / VAE_SPACE));
    TRY(op_upload(out, host, e));
out:
    free(host);
    if (rc)
        tensor_free(out);
    return rc;
}

int engine_vace_encode(engine *g, const vace_inputs *in, vace_condition **out, err *e)
{
    int rc = 0;
    vace_condition *c = calloc(1, sizeof *c);
    run_params size = RUN_PARAMS_INIT;
    int64_t shape[4], plane = (int64_t)in->width * in->height;
    *out = NULL;
    if (!c)
        return ERR(e, ERR_MEMORY, "no memory for the conditions of a video");
    c->width = size.width = in->width;
    c->height = size.height = in->height;
    c->frames = size.frames = in->frames;
    c->n_references = in->n_references;
    float *grey = NULL;
    TRY(engine_check_vace(g, e));
    TRY(engine_latent_shape(g, &size, shape, e));
    TRY(check_values(in->control, in->frames, plane, 3, "the control video", e));
    TRY(check_values(in->mask, in->frames, plane, 1, "the mask", e));
    for (int i = 0; i < in->n_references; i++) {
        char what[40];
        snprintf(what, sizeof what, "reference %d", i);
        TRY(check_values(in->references[i], 1, plane, 3, what, e));
    }
    if (!in->control && !(grey = calloc((size_t)(3 * in->frames) * (size_t)plane, sizeof *grey))) {
        rc = ERR(e, ERR_MEMORY, "no memory for a control video of %d frames", in->frames);
        goto out;
    }
    TRY(engine_need_vae(g, e));
    TRY(vace_context_build(&c->context, g->vae, g->be, in->control ? in->control : grey, in->mask, in->frames, in->height, in->width,
                           g->causal ? NULL : in->references, g->causal ? 0 : in->n_references, e));
    if (g->causal)
        TRY(keep_on_host(g, c, in, e));
    *out = c;
    c = NULL;
out:
    free(grey);
    vace_condition_free(c);
    engine_leave_vae(g);
    return err_at(e, rc, "while encoding the conditions of the video");
}

void vace_condition_free(vace_condition *c)
{
    if (c) {
        tensor_free(&c->context);
        free(c->host);
        free(c->references);
        free(c);
    }
}

const tensor *vace_condition_context(const vace_condition *c)
{
    return &c->context;
}

/* ---- a run ---- */

bool run_has_vace(const engine *g, const run_params *r)
{
    bool step = r->n_vace_scale == 0, block = !r->vace_block_scale;
    if (!r->vace && !r->vace_references && !r->n_vace_scale)
        return false;
    for (int i = 0; i < r->n_vace_scale; i++)
        step |= r->vace_scale[i] != 0;
    for (int i = 0; r->vace_block_scale && i < g->dit_cfg.n_vace_layers; i++)
        block |= r->vace_block_scale[i] != 0;
    return step && block;
}

int run_check_vace(const engine *g, const run_params *r, err *e)
{
    const vace_condition *c = r->vace;
    if (!c)
        return ERR(e, ERR_INTERNAL, "VACE scales or references without conditions");
    if (r->shots)
        return ERR(e, ERR_CONFIG, "a run has shots and VACE conditions: no model knows both, leave one of the two out");
    if (r->n_vace_scale > 1 && r->n_vace_scale != r->steps)
        return ERR(e, ERR_INTERNAL, "%d VACE scales for %d steps", r->n_vace_scale, r->steps);
    for (int i = 0; i < r->n_vace_scale; i++)
        if (!isfinite(r->vace_scale[i]))
            return ERR(e, ERR_CONFIG, "the VACE scale of step %d is not a number", i);
    if (c->width != r->width || c->height != r->height || c->frames != r->frames || c->n_references != r->vace_references)
        return ERR(e, ERR_INTERNAL, "conditions for %d frames of %d x %d with %d references, a run of %d frames of %d x %d with %d", c->frames, c->width,
                   c->height, c->n_references, r->frames, r->width, r->height, r->vace_references);
    if (r->causal && c->n_references > r->causal->block)
        return ERR(e, ERR_CONFIG, "vace.references names %d images, but a block has %d latent frames and a reference takes the place of one: give at most %d, or "
                   "make causal.frames_per_block larger", c->n_references, r->causal->block, r->causal->block);
    return engine_check_vace(g, e);
}

int run_drop_frames(tensor *latents, int n, err *e)
{
    int rc = 0;
    int64_t C = latents->shape[0], F = latents->shape[1], plane = latents->shape[2] * latents->shape[3], kept = F - n;
    tensor less = { 0 };
    float *host = malloc((size_t)(C * F * plane) * sizeof *host);
    if (!host)
        return ERR(e, ERR_MEMORY, "no host memory for latents");
    TRY(op_download_f32(host, latents, e));
    for (int64_t c = 0; c < C; c++)
        memmove(host + c * kept * plane, host + (c * F + n) * plane, (size_t)(kept * plane) * sizeof *host);
    TRY(TENSOR_NEW(&less, latents->be, DT_F32, e, C, kept, latents->shape[2], latents->shape[3]));
    TRY(op_upload(&less, host, e));
    tensor_free(latents);
    *latents = less;
    less = (tensor){ 0 };
out:
    tensor_free(&less);
    free(host);
    return rc;
}
