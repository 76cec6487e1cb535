/* longlive: whole causal runs with a rolling cache, adapters and a prompt switch. scope-vace: four blocks with VACE hints.
 * wan-vace: context tensors and forwards of bidirectional VACE. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/causal.h"
#include "core/dit/dit.h"
#include "core/vae/vace_context.h"
#include "tests/golden.h"

#define CHECK(call) do { if ((call)) { golden_fail(g, what, e.text); goto out; } } while (0)

/* ---- the model both causal folders use ---- */

typedef struct {
    ckpt *file, *adapter;
    dit *d;
    dit_work *work;
    kv_cache *cache;
    int64_t frame_tokens, h, w;
    int window, sink, block, frames;
} causal_parts;

static void parts_close(causal_parts *m)
{
    kv_cache_free(m->cache);
    dit_work_free(m->work);
    dit_close(m->d);
    ckpt_close(m->file);
    ckpt_close(m->adapter);
    *m = (causal_parts){ 0 };
}

/* `c` is longlive/case.json, `dir` its folder */
static int parts_open(golden *g, causal_parts *m, const char *dir, const json *c, bool with_lora, err *e)
{
    dit_config cfg;
    char *base = fs_join(dir, "longlive_base.pt"), *adapter = fs_join(dir, "lora.pt");
    const json *hw = json_get(c, "latent_hw"), *l = json_get(c, "lora");
    *m = (causal_parts){ .h = (int64_t)json_number(json_at(hw, 0), 0), .w = (int64_t)json_number(json_at(hw, 1), 0) };
    m->window = (int)json_get_int(c, "local_attn_size", -1);
    m->sink = (int)json_get_int(c, "sink_size", 0);
    m->block = (int)json_get_int(c, "num_frame_per_block", 0);
    m->frames = (int)json_get_int(c, "num_frames", 0);
    m->frame_tokens = m->h / 2 * (m->w / 2);
    int rc = m->frame_tokens > 0 && m->block > 0 && m->frames > 0 ? 0 : ERR(e, ERR_FORMAT, "case.json lacks latent_hw, num_frame_per_block or num_frames");
    if (!rc)
        rc = ckpt_open(&m->file, base, e);
    if (!rc)
        rc = ckpt_normalise(m->file, CKPT_DIT, e);
    if (!rc && with_lora)
        rc = ckpt_open(&m->adapter, adapter, e);
    if (!rc)
        rc = dit_config_detect(&cfg, m->file, NULL, e);
    if (!rc) {
        cfg.num_heads = (int)json_get_int(c, "num_heads", cfg.num_heads);
        cfg.text_len = (int)json_get_int(c, "text_len", cfg.text_len);
        lora a = { m->adapter, json_get_number(l, "alpha", 0), 1, NULL, NULL };
        rc = dit_open_lora(&m->d, g->be, m->file, &cfg, g->prec, &a, with_lora ? 1 : 0, e);
    }
    if (!rc)
        rc = dit_work_new(&m->work, m->d, m->block, m->h, m->w, e);
    if (!rc)
        rc = kv_cache_new(&m->cache, g->be, cfg.num_layers, cfg.dim, g->prec->act, m->frame_tokens, m->window, m->sink, m->block, m->frames, e);
    free(base);
    free(adapter);
    return rc;
}

static int embed_key(golden *g, dit *d, const char *key, tensor *context, err *e)
{
    int64_t n;
    const ckpt_tensor *t;
    tensor rows = { 0 };
    float *host = golden_f32(g, key, &n, &t);
    if (!host || t->ndim != 2) {
        free(host);
        return ERR(e, ERR_FORMAT, "key '%s' is missing or not a matrix", key);
    }
    int64_t keep = t->shape[0] < dit_get_config(d)->text_len ? t->shape[0] : dit_get_config(d)->text_len;
    int rc = TENSOR_NEW(&rows, g->be, g->prec->act, e, keep, t->shape[1]);
    if (!rc)
        rc = op_upload_f32(&rows, host, e);
    if (!rc)
        rc = TENSOR_NEW(context, g->be, g->prec->act, e, dit_get_config(d)->text_len, dit_get_config(d)->dim);
    if (!rc)
        rc = dit_embed_text(d, &rows, context, e);
    tensor_free(&rows);
    free(host);
    return rc;
}

/* [F, 16, h, w] and back */
static void swap_axes(float *out, const float *in, int64_t a, int64_t b, int64_t plane)
{
    for (int64_t i = 0; i < a; i++)
        for (int64_t k = 0; k < b; k++)
            memcpy(out + (k * a + i) * plane, in + (i * b + k) * plane, (size_t)plane * sizeof *in);
}

/* ---- longlive ---- */

typedef struct {
    golden *g;
    const char *name;
    int calls, most;
    float *start, *global_end, *local_end;     /* one entry a call */
    const float *noise, *renoise;              /* [F, 16, h, w]; draws one after the other */
    int64_t n_noise, n_renoise, n_steps;
} witness;

static int given_noise(int64_t block, int draw, float *out, int64_t n, void *user, err *e)
{
    const witness *w = user;
    int64_t at = (draw ? block * (w->n_steps - 1) + draw - 1 : block) * n;
    if (at + n > (draw ? w->n_renoise : w->n_noise))
        return ERR(e, ERR_FORMAT, "fewer draws of noise than steps");
    memcpy(out, (draw ? w->renoise : w->noise) + at, (size_t)n * sizeof *out);
    return 0;
}

static bool witness_wants(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_VELOCITY || p->kind == HOOK_X0;
}

static int witness_show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    witness *w = user;
    char key[64];
    const tensor *v = d->value;
    int64_t n = tensor_count(v);
    bool flow = p->kind == HOOK_VELOCITY;
    float t = (float)p->timestep, *channels = malloc((size_t)n * sizeof *channels), *frames = malloc((size_t)n * sizeof *frames);
    int rc = channels && frames && w->calls < w->most ? op_download(channels, v, e) : ERR(e, ERR_MEMORY, "no memory for a comparison");
    if (!rc) {
        swap_axes(frames, channels, v->shape[0], v->shape[1], v->shape[2] * v->shape[3]);
        snprintf(key, sizeof key, "%s.call%d.%s", w->name, w->calls, flow ? "flow" : "x0");
        if (golden_has(w->g, key))
            golden_compare_key(w->g, key, frames, n, 1e-5);
        snprintf(key, sizeof key, "%s.call%d.t", w->name, w->calls);
        if (flow && golden_has(w->g, key))
            golden_compare_key(w->g, key, &t, 1, 0);
        if (!flow) {
            w->start[w->calls] = (float)(p->frame * d->cache->frame_tokens);
            w->global_end[w->calls] = (float)d->cache->global_end;
            w->local_end[w->calls++] = (float)d->cache->local_end;
        }
    }
    free(channels);
    free(frames);
    return rc;
}

static void longlive_case(golden *g, const json *c, const char *name, bool with_lora, int switch_frame)
{
    const char *what = name;
    err e = { 0 };
    causal_parts m = { 0 };
    causal *clip = NULL;
    tensor context[2] = { { 0 }, { 0 } }, block = { 0 };
    hooks h = { 0 };
    char key[64];
    const ckpt_tensor *record;
    witness w = { .g = g, .name = name };
    float *noise = golden_f32(g, "noise", &w.n_noise, NULL), *steps = golden_f32(g, "denoising_steps", &w.n_steps, NULL), *out = NULL;
    snprintf(key, sizeof key, "%s.renoise", name);
    float *renoise = golden_f32(g, key, &w.n_renoise, &record);
    w.noise = noise;
    w.renoise = renoise;
    if (!noise || !steps || !renoise || w.n_steps != 4) {
        golden_fail(g, name, "noise, four denoising_steps or renoise are missing");
        goto out;
    }
    CHECK(parts_open(g, &m, g->dir, c, with_lora, &e));
    CHECK(embed_key(g, m.d, "context0", &context[0], &e));
    CHECK(embed_key(g, m.d, "context1", &context[1], &e));
    causal_options o = CAUSAL_OPTIONS_INIT;
    o.height = m.h;
    o.width = m.w;
    o.block = m.block;
    o.window = m.window;
    o.sink = m.sink;
    o.total = m.frames;
    o.shift = json_get_number(c, "timestep_shift", 5);
    o.context_noise = json_get_number(c, "context_noise", 0);
    o.noise = given_noise;
    o.noise_user = &w;
    CHECK(causal_new(&clip, (causal_model){ g->be, m.d, NULL, g->prec->act }, &o, &e));
    CHECK(hooks_observe(&h, (hook_observer){ witness_wants, witness_show, &w }, &e));
    w.most = m.frames / m.block * ((int)w.n_steps + 1) + 2;
    w.start = calloc((size_t)w.most, sizeof(float));
    w.global_end = calloc((size_t)w.most, sizeof(float));
    w.local_end = calloc((size_t)w.most, sizeof(float));
    int64_t frame = 16 * m.h * m.w;
    out = calloc((size_t)(2 * m.frames * frame), sizeof *out);
    float *turned = out + m.frames * frame;
    CHECK(causal_prompt(clip, &context[0], &h, &e));
    for (int f = 0; f + m.block <= m.frames; f += m.block) {
        if (switch_frame >= 0 && f >= switch_frame) {
            switch_frame = -1;
            CHECK(causal_prompt(clip, &context[1], &h, &e));
        }
        CHECK(causal_block(clip, &h, &block, &e));
        CHECK(op_download(turned, &block, &e));
        swap_axes(out + f * frame, turned, 16, m.block, m.h * m.w);
        tensor_free(&block);
    }
    snprintf(key, sizeof key, "%s.latents", name);
    golden_compare_key(g, key, out, m.frames * frame, 1e-4);
    snprintf(key, sizeof key, "%s.current_start", name);
    golden_compare_key(g, key, w.start, w.calls, 0);
    snprintf(key, sizeof key, "%s.kv_global_end", name);
    golden_compare_key(g, key, w.global_end, w.calls, 0);
    snprintf(key, sizeof key, "%s.kv_local_end", name);
    golden_compare_key(g, key, w.local_end, w.calls, 0);
out:
    causal_free(clip);
    tensor_free(&block);
    tensor_free(&context[0]);
    tensor_free(&context[1]);
    parts_close(&m);
    free(noise);
    free(steps);
    free(renoise);
    free(out);
    free(w.start);
    free(w.global_end);
    free(w.local_end);
}

void golden_longlive(golden *g)
{
    json *c = golden_json(g, "case.json");
    err e = { 0 };
    schedule s = { 0 };
    causal_options o = CAUSAL_OPTIONS_INIT;
    float warped[4];
    o.height = o.width = 2;
    o.shift = json_get_number(c, "timestep_shift", 5);
    if (causal_schedule(&s, &o, &e)) {
        golden_fail(g, "denoising_steps", e.text);
    } else {
        for (int i = 0; i < 4; i++)
            warped[i] = (float)s.timesteps[i];
        golden_compare_key(g, "denoising_steps", warped, 4, 0);
    }
    schedule_release(&s);
    longlive_case(g, c, "base", false, -1);
    longlive_case(g, c, "lora", true, -1);
    longlive_case(g, c, "switch", true, (int)json_get_int(c, "switch_frame", 0));
    json_free(c);
}

/* ---- VACE ---- */

static int vace_layers(const json *a, int *layers)
{
    int n = (int)json_count(a);
    for (int i = 0; i < n && i < DIT_MAX_VACE_LAYERS; i++)
        layers[i] = (int)json_number(json_at(a, (size_t)i), -1);
    return n < DIT_MAX_VACE_LAYERS ? n : DIT_MAX_VACE_LAYERS;
}

static int upload_key(golden *g, const char *key, tensor *out, err *e)
{
    int64_t n;
    const ckpt_tensor *t;
    float *host = golden_f32(g, key, &n, &t);
    if (!host)
        return ERR(e, ERR_FORMAT, "key '%s' is missing in golden.safetensors", key);
    int rc = tensor_new(out, g->be, DT_F32, t->ndim, t->shape, e);
    if (!rc)
        rc = op_upload(out, host, e);
    free(host);
    return rc;
}

void golden_scope_vace(golden *g)
{
    const char *what = "scope-vace";
    err e = { 0 };
    causal_parts m = { 0 };
    ckpt *hints = NULL;
    tensor context = { 0 }, x = { 0 }, v = { 0 }, vc = { 0 };
    float *times = NULL;
    int layers[DIT_MAX_VACE_LAYERS];
    json *c = golden_json(g, "case.json"), *lc = NULL;
    char *sibling = golden_path(g, "../longlive"), *case_path = fs_join(sibling, "case.json");
    CHECK(json_read_file(&lc, case_path, &e));
    CHECK(parts_open(g, &m, sibling, lc, false, &e));
    CHECK(ckpt_open(&hints, g->dir, &e));
    CHECK(ckpt_normalise(hints, CKPT_DIT, &e));
    CHECK(dit_add_vace(m.d, hints, (int)json_get_int(c, "vace_in_dim", 96), vace_layers(json_get(c, "vace_layers"), layers), layers, &e));
    CHECK(embed_key(g, m.d, "context", &context, &e));
    int64_t first = 0;
    for (int i = 0;; i++) {
        char out_key[32], key[32];
        int64_t n;
        double t[64];
        snprintf(out_key, sizeof out_key, "%d.out", i);
        if (!golden_has(g, out_key))
            break;
        what = out_key;
        snprintf(key, sizeof key, "%d.x", i);
        CHECK(upload_key(g, key, &x, &e));
        snprintf(key, sizeof key, "%d.vace_context", i);
        CHECK(upload_key(g, key, &vc, &e));
        snprintf(key, sizeof key, "%d.t", i);
        times = golden_f32(g, key, &n, NULL);
        if (!times || n != x.shape[1] || n > 64) {
            golden_fail(g, key, "missing, or not one timestep a frame");
            goto out;
        }
        for (int k = 0; k < n; k++)
            t[k] = (double)times[k];
        CHECK(tensor_new(&v, g->be, DT_F32, 4, x.shape, &e));
        dit_input in = { .latents = &x, .context = &context, .n_timesteps = (int)n, .timesteps = t, .frame_offset = first, .cache = m.cache,
                         .vace_context = &vc, .vace_scale = json_get_number(c, "vace_context_scale", 1), .vace_pad_keys = true, .sinusoid_f32 = true };
        CHECK(dit_forward(m.d, m.work, &in, &v, NULL, NULL, &e));
        golden_compare_tensor(g, out_key, &v, 1e-5);
        first += n;
        free(times);
        times = NULL;
        tensor_free(&x);
        tensor_free(&v);
        tensor_free(&vc);
    }
out:
    free(times);
    free(sibling);
    free(case_path);
    tensor_free(&context);
    tensor_free(&x);
    tensor_free(&v);
    tensor_free(&vc);
    parts_close(&m);
    ckpt_close(hints);
    json_free(c);
    json_free(lc);
}

void golden_wan_vace(golden *g)
{
    static const struct { const char *name; bool frames, mask; int refs; } cases[] = {
        { "depth", true, false, 0 }, { "masked", true, true, 0 }, { "r2v", false, false, 2 }, { "masked_r2v", true, true, 1 },
    };
    const char *what = "wan-vace";
    err e = { 0 };
    ckpt *c = NULL, *vc = NULL;
    dit *d = NULL;
    dit_work *work = NULL;
    vae *v = NULL;
    dit_config cfg;
    tensor text = { 0 }, context = { 0 }, given = { 0 }, x = { 0 }, y = { 0 };
    json *doc = golden_json(g, "cases.json"), *config = golden_json(g, "config.json");
    char *vae_path = golden_path(g, json_get_string(doc, "vae", "../wan-t2v/Wan2.1_VAE.pth"));
    int64_t n;
    const ckpt_tensor *shape = NULL;
    float *frames = golden_f32(g, "frames", &n, &shape), *mask = golden_f32(g, "mask", &n, NULL), *t = golden_f32(g, "t", &n, NULL), *zero = NULL;
    float *ref[2] = { golden_f32(g, "ref0", &n, NULL), golden_f32(g, "ref1", &n, NULL) };
    if (!frames || !mask || !t || !ref[0] || !ref[1] || shape->ndim != 4) {
        golden_fail(g, what, "frames, mask, t, ref0 or ref1 are missing");
        goto out;
    }
    CHECK(ckpt_open(&c, g->dir, &e));
    CHECK(ckpt_normalise(c, CKPT_DIT, &e));
    CHECK(dit_config_detect(&cfg, c, config, &e));
    CHECK(dit_open(&d, g->be, c, &cfg, g->prec, &e));
    CHECK(dit_add_vace(d, c, cfg.vace_in_dim, cfg.n_vace_layers, cfg.vace_layers, &e));
    CHECK(embed_key(g, d, "text", &text, &e));
    CHECK(ckpt_open(&vc, vae_path, &e));
    CHECK(ckpt_normalise(vc, CKPT_VAE, &e));
    CHECK(vae_open(&v, g->be, vc, g->prec, &e));
    int64_t F = shape->shape[1], H = shape->shape[2], W = shape->shape[3];
    zero = calloc((size_t)(3 * F * H * W), sizeof *zero);
    for (int i = 0; i < 4; i++) {
        char key[48];
        double when = (double)t[0];
        const json *scale = json_get(json_get(doc, "scales"), cases[i].name);
        what = cases[i].name;
        CHECK(vace_context_build(&context, v, g->be, cases[i].frames ? frames : zero, cases[i].mask ? mask : NULL, F, H, W,
                                 (const float *const *)ref, cases[i].refs, &e));
        snprintf(key, sizeof key, "%s.context", cases[i].name);
        golden_compare_tensor(g, key, &context, 1e-5);
        CHECK(upload_key(g, key, &given, &e));      /* the forward on the reference's own context, to keep stages apart */
        snprintf(key, sizeof key, "%s.x", cases[i].name);
        CHECK(upload_key(g, key, &x, &e));
        if (!work)
            CHECK(dit_work_new(&work, d, x.shape[1], x.shape[2], x.shape[3], &e));
        CHECK(tensor_new(&y, g->be, DT_F32, 4, x.shape, &e));
        dit_input in = { .latents = &x, .context = &text, .n_timesteps = 1, .timesteps = &when, .vace_context = &given, .vace_scale = json_number(scale, 1) };
        CHECK(dit_forward(d, work, &in, &y, NULL, NULL, &e));
        snprintf(key, sizeof key, "%s.out", cases[i].name);
        golden_compare_tensor(g, key, &y, 1e-5);
        tensor_free(&context);
        tensor_free(&given);
        tensor_free(&x);
        tensor_free(&y);
    }
out:
    tensor_free(&text);
    tensor_free(&context);
    tensor_free(&given);
    tensor_free(&x);
    tensor_free(&y);
    dit_work_free(work);
    dit_close(d);
    vae_close(v);
    ckpt_close(c);
    ckpt_close(vc);
    json_free(doc);
    json_free(config);
    free(vae_path);
    free(frames);
    free(mask);
    free(t);
    free(zero);
    free(ref[0]);
    free(ref[1]);
}
