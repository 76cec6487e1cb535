/* VACE in the engine: its weights, its conditions, and what they mean for a run. Source: longlive-vace.md 4. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const ckpt *weights_of(const engine *g)
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
                   ckpt_path(weights_of(g)), g->dit_cfg.vace_in_dim, VACE_CHANNELS);
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
        rc = dit_add_vace_lora(g->dits[0], weights_of(g), c->vace_in_dim, c->n_vace_layers, c->vace_layers, loras, n, e);
    free(loras);
    g->vace_loaded = !rc;
    return rc;
}

/* ---- conditions ---- */

/* v [channels, frames, plane], whose frames are those from `first` on */
static int check_values(const float *v, int64_t first, int64_t frames, int64_t plane, int channels, const char *what, err *e)
{
    for (int64_t i = 0; v && i < channels * frames * plane; i++)
        if (!isfinite(v[i]))
            return ERR(e, ERR_NAN, "%s holds NaN or infinity in frame %lld; clean it before it conditions a video", what,
                       (long long)(first + i / plane % frames));
    return 0;
}

static int control_there(int64_t first, int64_t n, float *out, void *user, err *e)
{
    const vace_inputs *in = user;
    int64_t plane = (int64_t)in->width * in->height;
    (void)e;
    for (int k = 0; k < 3; k++)
        memcpy(out + k * n * plane, in->control + (k * in->frames + first) * plane, (size_t)(n * plane) * sizeof *out);
    return 0;
}

static int mask_there(int64_t first, int64_t n, float *out, void *user, err *e)
{
    const vace_inputs *in = user;
    int64_t plane = (int64_t)in->width * in->height;
    (void)e;
    memcpy(out, in->mask + first * plane, (size_t)(n * plane) * sizeof *out);
    return 0;
}

/* A causal clip's conditions wait for their blocks; only the references, which belong to none, are encoded now. */
static int begin_stream(engine *g, vace_condition *c, const vace_inputs *in, const vace_source *from, err *e)
{
    int rc = 0, n = in->n_references;
    int64_t frame = (int64_t)in->width * in->height;
    c->in = *in;
    c->from = from ? *from : (vace_source){ in->control ? control_there : NULL, in->mask ? mask_there : NULL, &c->in };
    c->controlled = c->from.control || c->from.mask;
    c->latents = malloc((size_t)(32 * c->latent_frames * c->plane) * sizeof *c->latents);
    c->references = malloc((size_t)(16 * (n + 1) * c->plane) * sizeof *c->references);
    if (c->from.control)
        c->pixels = malloc((size_t)(3 * VAE_TIME * frame) * sizeof *c->pixels);
    if (c->from.mask) {
        c->masks = malloc((size_t)((VAE_TIME + 1) * frame) * sizeof *c->masks);
        c->folded = malloc((size_t)(64 * c->latent_frames * c->plane) * sizeof *c->folded);
    }
    if (!c->latents || !c->references || (c->from.control && !c->pixels) || (c->from.mask && (!c->masks || !c->folded))) {
        rc = ERR(e, ERR_MEMORY, "no memory for the conditions of %" PRId64 " latent frames", c->latent_frames);
        goto out;
    }
    for (int i = 0; i < n; i++)
        TRY(vace_reference_encode(c->references + i * 16 * c->plane, g->vae, g->be, in->references[i], in->height, in->width, e));
out:
    return rc;
}

/* The masks of frames [first, first + n) and, where there is one, the frame after them. */
static int read_masks(vace_condition *c, int64_t first, int64_t n, err *e)
{
    int64_t frame = (int64_t)c->width * c->height, end = first + n + 1 < c->frames ? first + n + 1 : c->frames, at = c->masks_read;
    if (at > first)      /* frame `first` came with the ones before */
        memmove(c->masks, c->masks + (first - c->masks_first) * frame, (size_t)frame * sizeof *c->masks);
    c->masks_first = first;
    if (at >= end)
        return 0;
    float *to = c->masks + (at - first) * frame;
    int rc = c->from.mask(at, end - at, to, c->from.user, e);
    c->masks_read = end;
    return rc ? rc : check_values(to, at, end - at, frame, 1, "the mask", e);
}

/* Latent frame c->done. */
static int encode_next(engine *g, vace_condition *c, err *e)
{
    int rc = 0;
    int64_t i = c->done, first = i ? VAE_TIME * (i - 1) + 1 : 0, n = i ? VAE_TIME : 1, frame = (int64_t)c->width * c->height;
    TRY(engine_need_vae(g, e));
    if (!c->stream)
        TRY(vace_stream_new(&c->stream, g->vae, g->be, c->height, c->width, e));
    if (c->from.control) {
        TRY(c->from.control(first, n, c->pixels, c->from.user, e));
        TRY(check_values(c->pixels, first, n, frame, 3, "the control video", e));
    }
    if (c->from.mask) {
        TRY(read_masks(c, first, n, e));
        vace_mask_fold(c->folded + i * 64 * c->plane, c->plane, c->masks + (vace_mask_frame(i, c->frames, c->latent_frames) - first) * frame, c->height, c->width);
    }
    TRY(vace_stream_next(c->stream, c->pixels, c->masks, c->latents + i * 32 * c->plane, e));
    if (++c->done == c->latent_frames) {
        vace_stream_free(c->stream);
        c->stream = NULL;
    }
out:
    return rc;
}

int vace_condition_block(vace_condition *c, engine *g, int64_t first, int64_t n, tensor *out, err *e)
{
    int rc = 0;
    int64_t plane = c->plane, shown = c->controlled && first > 0 ? 0 : c->n_references < n ? c->n_references : n;
    float *host = NULL;
    *out = (tensor){ 0 };
    while (!c->failed.kind && c->done < first + n)
        (void)err_at(&c->failed, encode_next(g, c, &c->failed), "while encoding the conditions of a block");
    if (c->failed.kind) {
        vace_stream_free(c->stream);
        c->stream = NULL;
        return ERR(e, c->failed.kind, "%s", c->failed.text);
    }
    if (!(host = malloc((size_t)(VACE_CHANNELS * n * plane) * sizeof *host)))
        return ERR(e, ERR_MEMORY, "no memory for the conditions of a block");
    for (int64_t k = 0; k < VACE_CHANNELS; k++)
        for (int64_t f = 0; f < n; f++) {
            float *to = host + (k * n + f) * plane;
            const float *from = f < shown ? k < 16 ? c->references + (f * 16 + k) * plane : NULL
                              : k < 32    ? c->latents + ((first + f) * 32 + k) * plane
                              : c->folded ? c->folded + ((first + f) * 64 + k - 32) * plane : NULL;
            for (int64_t i = 0; i < plane; i++)
                to[i] = from ? from[i] : f < shown ? 0 : 1;
        }
    TRY(TENSOR_NEW(out, g->be, DT_F32, e, VACE_CHANNELS, n, c->height / VAE_SPACE, c->width / VAE_SPACE));
    TRY(op_upload(out, host, e));
out:
    free(host);
    if (rc)
        tensor_free(out);
    return rc;
}

static int encode_whole(engine *g, vace_condition *c, const vace_inputs *in, err *e)
{
    float *grey = NULL;
    if (!in->control && !(grey = calloc((size_t)(3 * in->frames) * (size_t)in->width * (size_t)in->height, sizeof *grey)))
        return ERR(e, ERR_MEMORY, "no memory for a control video of %d frames", in->frames);
    int rc = vace_context_build(&c->context, g->vae, g->be, in->control ? in->control : grey, in->mask, in->frames, in->height, in->width, in->references,
                                in->n_references, e);
    free(grey);
    return rc;
}

int engine_vace_follow(engine *g, const vace_inputs *in, const vace_source *from, vace_condition **out, err *e)
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
    c->frames = in->frames;
    size.frames = g->causal && in->frames % VAE_TIME == 1 ? 1 : in->frames;      /* as long as its run may be */
    c->n_references = in->n_references;
    TRY(engine_check_vace(g, e));
    TRY(engine_latent_shape(g, &size, shape, e));
    c->latent_frames = (in->frames - 1) / VAE_TIME + 1;
    c->plane = shape[2] * shape[3];
    TRY(check_values(in->control, 0, in->frames, plane, 3, "the control video", e));
    TRY(check_values(in->mask, 0, in->frames, plane, 1, "the mask", e));
    for (int i = 0; i < in->n_references; i++) {
        char what[40];
        snprintf(what, sizeof what, "reference %d", i);
        TRY(check_values(in->references[i], 0, 1, plane, 3, what, e));
    }
    TRY(engine_need_vae(g, e));
    if (!g->causal && from)
        TRY(ERR(e, ERR_INTERNAL, "only a causal model follows its conditions block by block"));
    TRY(g->causal ? begin_stream(g, c, in, from, e) : encode_whole(g, c, in, e));
    *out = c;
    c = NULL;
out:
    vace_condition_free(c);
    engine_leave_vae(g);
    return err_at(e, rc, "while encoding the conditions of the video");
}

int engine_vace_encode(engine *g, const vace_inputs *in, vace_condition **out, err *e)
{
    return engine_vace_follow(g, in, NULL, out, e);
}

void vace_condition_free(vace_condition *c)
{
    if (c) {
        tensor_free(&c->context);
        vace_stream_free(c->stream);
        free(c->references);
        free(c->latents);
        free(c->folded);
        free(c->pixels);
        free(c->masks);
        free(c);
    }
}

const tensor *vace_condition_context(const vace_condition *c)
{
    return &c->context;
}

/* The histories keep two frames before each 3x3x3 convolution and one before each that halves time (core/vae/vae.c). */
static int64_t history_bytes(const engine *g, const run_params *r, const vae_config *v)
{
    int64_t type = (int64_t)dtype_size(g->prec->vae), area = (int64_t)r->width * r->height, in = v->dim, bytes = 2 * 3 * area * type;
    for (int level = 0; level < 4; level++, area /= 4) {
        int64_t dim = (int64_t)v->dim * v->mult[level];
        bytes += 2 * (in + (2 * v->num_res_blocks - 1) * dim) * area * type;
        if (level < 3 && v->temporal_down[level])
            bytes += dim * area / 4 * type;
        if (level == 3)      /* the middle and the last convolution */
            bytes += 2 * 5 * dim * area * type;
        in = dim;
    }
    return bytes;
}

int64_t engine_condition_bytes(const engine *g, const run_params *r, const int64_t shape[4])
{
    err ignored = { 0 };
    vae_config v;
    int64_t frame = 4 * VACE_CHANNELS * shape[2] * shape[3];
    if (!g->causal || !r->causal)
        return frame * shape[1];
    bool encodes = run_has_vace(g, r) && g->vae_file && !vae_config_detect(&v, g->vae_file, &ignored);
    return frame * r->causal->block + (encodes ? 2 * history_bytes(g, r, &v) : 0);
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
