/* wan-t2v: tokenizer, umT5, DiT (outputs and inner activations), cross-attention maps, VAE, samplers, a whole run.
 * wan22-a14b: a whole run over two experts. Tolerances: goldens/README (f32: 1e-5 single forwards, T5 3e-5, runs 1e-4). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/engine.h"
#include "core/sample/solver.h"
#include "core/text/clean.h"
#include "core/text/tokenizer.h"
#include "core/text/umt5.h"
#include "core/dit/dit.h"
#include "core/vae/vae.h"
#include "tests/golden.h"

static const double FORWARD = 1e-5, T5 = 3e-5, RUN = 1e-4;

#define CHECK(call) do { if ((call)) { golden_fail(g, what, e.text); goto out; } } while (0)

/* ---- tokenizer and text encoder ---- */

static int int_array(const json *a, int32_t **out)
{
    int n = (int)json_count(a);
    *out = calloc((size_t)n + 1, sizeof **out);
    for (int i = 0; *out && i < n; i++)
        (*out)[i] = (int32_t)json_number(json_at(a, (size_t)i), -1);
    return *out ? n : 0;
}

static void tokenizer_cases(golden *g, const json *cases, const char *dir)
{
    const char *what = "tokenizer";
    err e = { 0 };
    tokenizer *tok = NULL;
    if (tokenizer_open(&tok, dir, NULL, &e)) {
        golden_fail(g, what, e.text);
        return;
    }
    for (size_t i = 0; i < json_count(cases); i++) {
        const json *c = json_at(cases, i);
        char name[64], detail[96];
        int32_t *ids = NULL, *mask = NULL;
        int n = int_array(json_get(c, "ids"), &ids), n_mask = int_array(json_get(c, "mask"), &mask), visible = 0;
        text_clean_result clean = { 0 };
        text_tokens t = { 0 };
        snprintf(name, sizeof name, "tokenizer.%zu.cleaned", i);
        if (text_clean(json_get_string(c, "text", ""), &TEXT_CLEAN_DEFAULT, &clean, &e)) {
            golden_fail(g, name, e.text);
        } else {
            bool same = !strcmp(clean.text, json_get_string(c, "cleaned", ""));
            golden_result(g, name, same, same ? "equal" : clean.text);
            snprintf(name, sizeof name, "tokenizer.%zu.ids", i);
            for (int k = 0; k < n_mask; k++)
                visible += mask[k];
            if (tokenizer_encode(tok, clean.text, n, &t, &e)) {
                golden_fail(g, name, e.text);
            } else {
                int wrong = 0;
                for (int k = 0; k < n; k++)
                    wrong += t.ids[k] != ids[k];
                snprintf(detail, sizeof detail, "%d of %d ids differ, %d attended (reference %d)", wrong, n, t.n, visible);
                golden_result(g, name, !wrong && t.n == visible && n > 0, detail);
            }
            text_tokens_release(&t);
        }
        text_clean_release(&clean);
        free(ids);
        free(mask);
    }
    tokenizer_free(tok);
}

static void text_encoder(golden *g, const json *cases)
{
    const char *what = "t5";
    err e = { 0 };
    ckpt *c = NULL;
    umt5 *t5 = NULL;
    tensor rows = { 0 };
    char *path = golden_path(g, "models_t5_umt5-xxl-enc-bf16.pth");
    CHECK(ckpt_open(&c, path, &e));
    CHECK(ckpt_normalise(c, CKPT_T5, &e));
    CHECK(umt5_open(&t5, g->be, c, g->prec, &e));
    for (size_t i = 0;; i++) {
        char key[48], ids_key[48];
        int visible = 0;
        snprintf(ids_key, sizeof ids_key, "t5.%zu.ids", i);
        snprintf(key, sizeof key, "t5.%zu.out", i);
        const ckpt_tensor *ids = ckpt_find(g->file, ids_key);
        if (!ids)
            break;
        what = key;
        int n = (int)(ids->bytes / 4);
        const json *mask = json_get(json_at(cases, i), "mask");
        for (size_t k = 0; k < json_count(mask); k++)
            visible += json_number(json_at(mask, k), 0) == 1;
        int32_t *copy = malloc((size_t)n * sizeof *copy);
        memcpy(copy, ids->data, (size_t)n * sizeof *copy);
        int rc = TENSOR_NEW(&rows, g->be, DT_F32, &e, n, umt5_get_config(t5)->dim);
        if (!rc)
            rc = umt5_encode(t5, copy, n, visible, &rows, &e);
        free(copy);
        CHECK(rc);
        golden_compare_tensor(g, key, &rows, T5);
        tensor_free(&rows);
    }
out:
    free(path);
    tensor_free(&rows);
    umt5_close(t5);
    ckpt_close(c);
}

/* ---- DiT ---- */

typedef struct {
    golden *g;
    const char *prefix;      /* "dit.0.act." */
    bool maps;               /* cross_probs of every text position */
    int text_len;
} watch;

static bool watch_wants(const hook_point *p, void *user)
{
    watch *w = user;
    char key[96];
    if (p->kind == HOOK_CROSS_ATTN)
        snprintf(key, sizeof key, "dit.0.cross_probs.%d", p->layer);
    else if (p->kind == HOOK_ACTIVATION)
        snprintf(key, sizeof key, "%s%s", w->prefix, p->module);
    else
        return false;
    return golden_has(w->g, key);
}

/* [F*h*w, D] tokens as upstream's conv output [1, D, F, h, w] */
static float *as_conv_output(const float *tokens, int64_t L, int64_t D)
{
    float *out = malloc((size_t)(L * D) * sizeof *out);
    for (int64_t l = 0; out && l < L; l++)
        for (int64_t d = 0; d < D; d++)
            out[d * L + l] = tokens[l * D + d];
    return out;
}

static int watch_show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    watch *w = user;
    char key[96];
    int rc = 0;
    if (p->kind == HOOK_ACTIVATION) {
        snprintf(key, sizeof key, "%s%s", w->prefix, p->module);
        int64_t n = tensor_count(d->value);
        float *host = malloc((size_t)n * sizeof *host);
        if ((rc = op_download_f32(host, d->value, e)) == 0) {
            float *turned = strcmp(p->module, "patch_embedding") ? NULL : as_conv_output(host, tensor_nrows(d->value), tensor_cols(d->value));
            golden_compare_key(w->g, key, turned ? turned : host, n, FORWARD);
            free(turned);
        }
        free(host);
        return rc;
    }
    /* one word a text position: all of softmax; the golden is [heads, tokens, positions] */
    int64_t T = tensor_nrows(d->attn->k), L = tensor_nrows(d->attn->q), N = d->attn->n_heads;
    tensor maps = { 0 };
    int *begin = malloc(((size_t)T + 1) * sizeof *begin), *cols = malloc((size_t)T * sizeof *cols);
    float *host = malloc((size_t)(N * T * L) * sizeof *host), *turned = malloc((size_t)(N * T * L) * sizeof *host);
    for (int i = 0; i <= T; i++)
        begin[i] = i;
    for (int i = 0; i < T; i++)
        cols[i] = i;
    snprintf(key, sizeof key, "dit.0.cross_probs.%d", p->layer);
    if (!(rc = TENSOR_NEW(&maps, d->attn->q->be, DT_F32, e, N, T, L))) {
        attn_probs_args a = { .out = &maps, .q = d->attn->q, .k = d->attn->k, .n_heads = (int)N, .scale = d->attn->scale,
                              .plan = d->attn->plan, .n_words = (int)T, .word_begin = begin, .columns = cols };
        if (!(rc = op_attn_probs(&a, e)) && !(rc = op_download(host, &maps, e))) {
            double worst = 0;
            for (int64_t h = 0; h < N; h++)
                for (int64_t l = 0; l < L; l++) {
                    double sum = 0;
                    for (int64_t t = 0; t < T; t++) {
                        turned[(h * L + l) * T + t] = host[(h * T + t) * L + l];
                        sum += host[(h * T + t) * L + l];
                    }
                    worst = fabs(sum - 1) > worst ? fabs(sum - 1) : worst;
                }
            golden_compare_key(w->g, key, turned, N * T * L, FORWARD);
            char name[96], detail[64];
            snprintf(name, sizeof name, "%s row sums", key);
            snprintf(detail, sizeof detail, "abs %.3e  tolerance 1e-06", worst);
            golden_result(w->g, name, worst <= 1e-6, detail);
        }
    }
    tensor_free(&maps);
    free(begin);
    free(cols);
    free(host);
    free(turned);
    return rc;
}

static int context_of(golden *g, dit *d, const float *rows, int64_t n, tensor *context, err *e)
{
    const dit_config *c = dit_get_config(d);
    tensor t = { 0 };
    int rc = TENSOR_NEW(&t, g->be, g->prec->act, e, n, c->text_dim);
    if (!rc)
        rc = op_upload_f32(&t, rows, e);
    if (!rc)
        rc = TENSOR_NEW(context, g->be, g->prec->act, e, c->text_len, c->dim);
    if (!rc)
        rc = dit_embed_text(d, &t, context, e);
    tensor_free(&t);
    return rc;
}

static int upload_key(golden *g, const char *key, tensor *out, err *e)
{
    const ckpt_tensor *t;
    int64_t n;
    float *host = golden_f32(g, key, &n, &t);
    if (!host)
        return ERR(e, ERR_FORMAT, "key '%s' is missing in golden.safetensors", key);
    int rc = tensor_new(out, g->be, DT_F32, t->ndim, t->shape, e);
    if (!rc)
        rc = op_upload_f32(out, host, e);
    free(host);
    return rc;
}

static void dit_forwards(golden *g, const json *cases)
{
    const char *what = "dit";
    err e = { 0 };
    ckpt *c = NULL;
    json *config = NULL;
    dit_config cfg;
    dit *d = NULL;
    dit_work *work = NULL;
    tensor context = { 0 };
    CHECK(ckpt_open(&c, g->dir, &e));
    CHECK(ckpt_normalise(c, CKPT_DIT, &e));
    if (!(config = golden_json(g, "config.json")))
        goto out;
    CHECK(dit_config_detect(&cfg, c, config, &e));
    CHECK(dit_open(&d, g->be, c, &cfg, g->prec, &e));
    for (int i = 0;; i++) {
        char key[64], out_key[64], t_key[64];
        bool odd = false;
        snprintf(out_key, sizeof out_key, "dit.%d.out", i);
        snprintf(t_key, sizeof t_key, "dit.%d.t", i);
        if (!golden_has(g, out_key)) {
            if (!golden_has(g, "dit.odd.out"))
                break;
            odd = true;
            snprintf(out_key, sizeof out_key, "dit.odd.out");
        }
        what = out_key;
        int64_t n, visible = 0;
        tensor x = { 0 }, v = { 0 };
        double t = 500;
        snprintf(key, sizeof key, "t5.%d.out", odd ? 1 : 0);
        float *rows = golden_f32(g, key, &n, NULL), *tv = odd ? NULL : golden_f32(g, t_key, &n, NULL);
        const json *mask = json_get(json_at(cases, odd ? 1 : 0), "mask");
        for (size_t k = 0; k < json_count(mask); k++)
            visible += json_number(json_at(mask, k), 0) == 1;
        if (tv)
            t = (double)tv[0];
        tensor_free(&context);
        int rc = rows ? 0 : ERR(&e, ERR_FORMAT, "key '%s' is missing", key);
        if (!rc)
            rc = context_of(g, d, rows, visible, &context, &e);
        if (!rc)
            rc = upload_key(g, odd ? "dit.odd.x" : "dit.x", &x, &e);
        if (!rc && !work)
            rc = dit_work_new(&work, d, x.shape[1], x.shape[2], x.shape[3], &e);
        if (!rc)
            rc = tensor_new(&v, g->be, DT_F32, 4, x.shape, &e);
        char prefix[32];
        snprintf(prefix, sizeof prefix, "dit.%d.act.", i);
        watch w = { g, prefix, i == 0, cfg.text_len };
        hooks h = { 0 };
        if (!rc && i == 0 && !odd)
            rc = hooks_observe(&h, (hook_observer){ watch_wants, watch_show, &w }, &e);
        dit_input in = { .latents = &x, .context = &context, .n_timesteps = 1, .timesteps = &t };
        if (!rc)
            rc = dit_forward(d, work, &in, &v, &h, NULL, &e);
        if (rc)
            golden_fail(g, out_key, e.text);
        else
            golden_compare_tensor(g, out_key, &v, FORWARD);
        tensor_free(&x);
        tensor_free(&v);
        free(rows);
        free(tv);
        if (odd)
            break;
    }
out:
    tensor_free(&context);
    dit_work_free(work);
    dit_close(d);
    json_free(config);
    ckpt_close(c);
}

/* ---- VAE ---- */

static void vae_passes(golden *g)
{
    const char *what = "vae";
    err e = { 0 };
    ckpt *c = NULL;
    vae *v = NULL;
    tensor in = { 0 }, out = { 0 };
    float *again = NULL, *whole = NULL;
    char *path = golden_path(g, "Wan2.1_VAE.pth");
    CHECK(ckpt_open(&c, path, &e));
    CHECK(ckpt_normalise(c, CKPT_VAE, &e));
    CHECK(vae_open(&v, g->be, c, g->prec, &e));
    const char *pairs[3][2] = { { "vae.z", "vae.dec" }, { "vae.z1", "vae.dec1" }, { "vae.video", "vae.enc" } };
    for (int i = 0; i < 3; i++) {
        what = pairs[i][1];
        const ckpt_tensor *ref = ckpt_find(g->file, what);
        if (!ref) {
            golden_fail(g, what, "key is missing in golden.safetensors");
            continue;
        }
        CHECK(upload_key(g, pairs[i][0], &in, &e));
        CHECK(tensor_new(&out, g->be, DT_F32, ref->ndim, ref->shape, &e));
        CHECK(i < 2 ? vae_decode(v, &in, 1, &out, &e) : vae_encode(v, &in, &out, &e));
        golden_compare_tensor(g, what, &out, FORWARD);
        if (i == 2) {      /* from host memory, a few frames at a time: the same bits */
            int64_t n = tensor_count(&out);
            again = malloc((size_t)n * sizeof *again);
            whole = malloc((size_t)n * sizeof *whole);
            float *video = golden_f32(g, pairs[i][0], &n, NULL);
            int rc = again && whole && video ? op_download_f32(whole, &out, &e) : ERR(&e, ERR_MEMORY, "no memory");
            if (!rc)
                rc = vae_encode_host(v, video, in.shape[1], in.shape[2], in.shape[3], &out, &e);
            free(video);
            CHECK(rc ? rc : op_download_f32(again, &out, &e));
            golden_compare(g, "vae.enc from the host", again, whole, tensor_count(&out), 0);
        }
        tensor_free(&in);
        tensor_free(&out);
    }
out:
    free(path);
    free(again);
    free(whole);
    tensor_free(&in);
    tensor_free(&out);
    vae_close(v);
    ckpt_close(c);
}

/* ---- samplers on v(x, t) = 0.7 sin(1.3 x + 2 t / 1000) + 0.1 x ---- */

static void sampler(golden *g, const char *solver_text, int steps, double shift, const char *prefix)
{
    const char *what = prefix;
    err e = { 0 };
    schedule s = { 0 };
    solver *sol = NULL;
    tensor x = { 0 }, v = { 0 };
    char key[96];
    int64_t n_t = 0, n_s = 0, n = 0;
    const ckpt_tensor *noise;
    float *timesteps = NULL, *sigmas = NULL, *host = NULL, *vel = NULL, *ours = NULL, *flat = NULL;
    int kind = solver_from_name(solver_text);
    if (kind < 0) {
        golden_fail(g, prefix, "this build does not know the solver");
        return;
    }
    CHECK(schedule_build(&s, (solver_kind)kind, steps, shift, &e));
    snprintf(key, sizeof key, "%s.timesteps", prefix);
    timesteps = golden_f32(g, key, &n_t, NULL);
    flat = malloc((size_t)(steps + 1) * sizeof *flat);
    for (int i = 0; i < steps; i++)
        flat[i] = (float)s.timesteps[i];
    golden_compare_key(g, key, flat, steps, 0);
    snprintf(key, sizeof key, "%s.sigmas", prefix);
    sigmas = golden_f32(g, key, &n_s, NULL);
    golden_compare_key(g, key, s.sigmas, n_s == steps ? steps : steps + 1, 0);
    host = golden_f32(g, "sampler.noise", &n, &noise);
    if (!host) {
        golden_fail(g, prefix, "key 'sampler.noise' is missing");
        goto out;
    }
    CHECK(tensor_new(&x, g->be, DT_F32, noise->ndim, noise->shape, &e));
    CHECK(tensor_new(&v, g->be, DT_F32, noise->ndim, noise->shape, &e));
    CHECK(op_upload(&x, host, &e));
    CHECK(solver_new(&sol, g->be, &s, noise->ndim, noise->shape, &e));
    vel = malloc((size_t)n * sizeof *vel);
    ours = malloc((size_t)(n * steps) * sizeof *ours);
    for (int i = 0; i < steps; i++) {
        CHECK(op_download(host, &x, &e));
        float t = (float)s.timesteps[i];
        for (int64_t k = 0; k < n; k++)
            vel[k] = 0.7f * sinf(1.3f * host[k] + 2.0f * t / 1000.0f) + 0.1f * host[k];
        CHECK(op_upload(&v, vel, &e));
        CHECK(solver_step(sol, i, &x, &v, &e));
        CHECK(op_download(ours + n * i, &x, &e));
    }
    snprintf(key, sizeof key, "%s.traj", prefix);
    golden_compare_key(g, key, ours, n * steps, RUN);
out:
    schedule_release(&s);
    solver_free(sol);
    tensor_free(&x);
    tensor_free(&v);
    free(timesteps);
    free(sigmas);
    free(host);
    free(vel);
    free(ours);
    free(flat);
}

static void samplers(golden *g)
{
    for (size_t i = 0; i < ckpt_count(g->file); i++) {
        const char *name = ckpt_at(g->file, i)->name;
        char solver_text[64], prefix[96];
        int steps;
        double shift;
        if (!strncmp(name, "sampler.", 8) && strlen(name) > 5 && !strcmp(name + strlen(name) - 5, ".traj") &&
            sscanf(name, "sampler.%63[^.].%d.%lf", solver_text, &steps, &shift) == 3 && steps > 0 && steps <= 1000) {
            snprintf(prefix, sizeof prefix, "%.*s", (int)(strlen(name) - 5), name);
            sampler(g, solver_text, steps, shift, prefix);
        }
    }
}

/* ---- whole runs ---- */

typedef struct {
    golden *g;
    float *latents, *velocity;
    int64_t n;
    int steps;
} recorder;

static bool rec_wants(const hook_point *p, void *user)
{
    (void)user;
    return (p->kind == HOOK_LATENTS && p->step > 0) || p->kind == HOOK_VELOCITY;
}

static int rec_show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    recorder *r = user;
    if (tensor_count(d->value) != r->n || p->step > r->steps)
        return ERR(e, ERR_SHAPE, "latents are of another size than the reference's");
    if (p->kind == HOOK_LATENTS)
        return op_download(r->latents + r->n * (p->step - 1), d->value, e);
    return op_download(r->velocity + r->n * p->step, d->value, e);
}

/* the prompt by the ids of the tokenizer cases where it is one of them, so that builds without sentencepiece can run */
static int encode(engine *eng, const json *cases, const char *text, prompt **out, err *e)
{
    for (size_t i = 0; i < json_count(cases); i++) {
        const json *c = json_at(cases, i);
        if (strcmp(json_get_string(c, "text", ""), text))
            continue;
        int32_t *ids = NULL, *mask = NULL;
        int n = int_array(json_get(c, "ids"), &ids), m = int_array(json_get(c, "mask"), &mask), visible = 0;
        for (int k = 0; k < m; k++)
            visible += mask[k];
        int rc = engine_encode_ids(eng, ids, n, visible, out, e);
        free(ids);
        free(mask);
        return rc;
    }
    return engine_encode(eng, text, out, e);
}

/* What the two layouts have in common; keys "latents" with a prefix, the noise, optionally velocity. */
static void whole_run(golden *g, engine *eng, const json *cases, const json *c, const char *prefix, const double *guidance, double boundary,
                      const int *want_expert, tensor *latents)
{
    const char *what = *prefix ? "e2e" : "run";
    err e = { 0 };
    prompt *cond = NULL, *uncond = NULL;
    schedule s = { 0 };
    char key[64];
    int64_t n = 0, n_lat;
    const ckpt_tensor *noise_t;
    int *expert = NULL;
    float *flat = NULL, *ref = NULL;
    recorder rec = { .g = g };
    snprintf(key, sizeof key, "%snoise", prefix);
    float *noise = golden_f32(g, key, &n, &noise_t);
    int steps = (int)json_get_int(c, "steps", 0), solver = solver_from_name(json_get_string(c, "solver", "?"));
    if (!noise || noise_t->ndim != 4 || steps < 1 || solver < 0) {
        golden_fail(g, what, "noise, steps or solver missing in the reference");
        goto out;
    }
    CHECK(encode(eng, cases, json_get_string(c, "prompt", ""), &cond, &e));
    CHECK(encode(eng, cases, json_get_string(c, "negative_prompt", ""), &uncond, &e));
    run_params r = RUN_PARAMS_INIT;
    r.width = (int)noise_t->shape[3] * 8;
    r.height = (int)noise_t->shape[2] * 8;
    r.frames = (int)(noise_t->shape[1] - 1) * 4 + 1;
    r.initial_noise = noise;
    r.solver = (solver_kind)solver;
    r.steps = steps;
    r.shift = json_get_number(c, "shift", 0);
    r.boundary = boundary;
    r.cond = (const prompt *const *)&cond;
    r.n_cond = 1;
    r.uncond = uncond;
    r.guidance = guidance;
    r.n_guidance = steps;
    expert = calloc((size_t)steps, sizeof *expert);
    flat = calloc((size_t)steps, sizeof *flat);
    CHECK(engine_schedule(eng, &r, &s, expert, &e));
    for (int i = 0; i < steps; i++)
        flat[i] = (float)s.timesteps[i];
    snprintf(key, sizeof key, "%stimesteps", prefix);
    golden_compare_key(g, key, flat, steps, 0);
    if (want_expert) {
        int wrong = 0;
        for (int i = 0; i < steps; i++)
            wrong += expert[i] != want_expert[i];
        snprintf(key, sizeof key, "%d of %d steps differ", wrong, steps);
        golden_result(g, "expert", !wrong, key);
    }
    rec.n = n;
    rec.steps = steps;
    rec.latents = calloc((size_t)(n * steps), sizeof(float));
    rec.velocity = calloc((size_t)(n * steps), sizeof(float));
    hooks h = { 0 };
    CHECK(hooks_observe(&h, (hook_observer){ rec_wants, rec_show, &rec }, &e));
    CHECK(engine_run(eng, &r, &h, latents, &e));
    snprintf(key, sizeof key, "%slatents", prefix);
    ref = golden_f32(g, key, &n_lat, NULL);
    golden_compare_key(g, key, rec.latents, n * steps, RUN);
    snprintf(key, sizeof key, "%svelocity", prefix);
    if (golden_has(g, key))
        golden_compare_key(g, key, rec.velocity, n * steps, RUN);
out:
    schedule_release(&s);
    prompt_free(cond);
    prompt_free(uncond);
    free(noise);
    free(expert);
    free(flat);
    free(ref);
    free(rec.latents);
    free(rec.velocity);
}

static void wan_run(golden *g, engine *eng, const json *cases)
{
    const char *what = "e2e.video";
    err e = { 0 };
    ckpt *c = NULL;
    vae *v = NULL;
    tensor latents = { 0 }, video = { 0 };
    float *host = NULL;
    double *guidance = NULL;
    char *path = golden_path(g, "Wan2.1_VAE.pth");
    json *run = golden_json(g, "e2e.json");
    if (!run)
        goto out;
    int steps = (int)json_get_int(run, "steps", 0);
    guidance = calloc((size_t)(steps > 0 ? steps : 1), sizeof *guidance);
    for (int i = 0; i < steps; i++)
        guidance[i] = json_get_number(run, "guidance_scale", 0);
    whole_run(g, eng, cases, run, "e2e.", guidance, 0, NULL, &latents);
    const ckpt_tensor *ref = ckpt_find(g->file, what);
    if (!latents.data || !ref) {
        golden_fail(g, what, "no latents, or the key is missing");
        goto out;
    }
    CHECK(ckpt_open(&c, path, &e));
    CHECK(ckpt_normalise(c, CKPT_VAE, &e));
    CHECK(vae_open(&v, g->be, c, g->prec, &e));
    CHECK(tensor_new(&video, g->be, DT_F32, ref->ndim, ref->shape, &e));
    tensor here = latents;      /* the engine's device is this one; only the handle differs */
    CHECK(vae_decode(v, &here, 1, &video, &e));
    int64_t n = tensor_count(&video);
    host = malloc((size_t)n * sizeof *host);
    CHECK(op_download_f32(host, &video, &e));
    for (int64_t i = 0; i < n; i++)
        host[i] = host[i] < -1 ? -1 : host[i] > 1 ? 1 : host[i];
    golden_compare_key(g, what, host, n, RUN);
out:
    free(path);
    free(host);
    free(guidance);
    tensor_free(&latents);
    tensor_free(&video);
    vae_close(v);
    ckpt_close(c);
    json_free(run);
}

void golden_wan(golden *g)
{
    const char *what = "engine";
    err e = { 0 };
    engine *eng = NULL;
    json *cases = golden_json(g, "tokenizer_cases.json");
    char *tok = golden_path(g, "google/umt5-xxl");
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = g->dir;
    o.device = g->be->ops->name;
    o.precision = g->prec->name;
    if (!cases)
        goto out;
    tokenizer_cases(g, cases, tok);
    CHECK(engine_open(&eng, &o, &e));
    text_encoder(g, cases);
    dit_forwards(g, cases);
    vae_passes(g);
    samplers(g);
    wan_run(g, eng, cases);
out:
    engine_close(eng);
    json_free(cases);
    free(tok);
}

void golden_wan22(golden *g)
{
    const char *what = "engine";
    err e = { 0 };
    engine *eng = NULL;
    json *c = golden_json(g, "case.json"), *cases = NULL;
    char *enc = NULL, *t5 = NULL, *tok = NULL, *tokc = NULL;
    tensor latents = { 0 };
    double *guidance = NULL;
    int *expert = NULL;
    int64_t n = 0;
    engine_options o = ENGINE_OPTIONS_INIT;
    if (!c)
        goto out;
    enc = golden_path(g, json_get_string(c, "text_encoder", "../wan-t2v"));
    t5 = fs_join(enc, "models_t5_umt5-xxl-enc-bf16.pth");
    tok = fs_join(enc, "google/umt5-xxl");
    tokc = fs_join(enc, "tokenizer_cases.json");
    CHECK(json_read_file(&cases, tokc, &e));
    o.model = g->dir;
    o.t5 = t5;
    o.tokenizer = tok;
    o.device = g->be->ops->name;
    o.precision = g->prec->name;
    CHECK(engine_open(&eng, &o, &e));
    const ckpt_tensor *ex = ckpt_find(g->file, "expert");
    int steps = (int)json_get_int(c, "steps", 0);
    if (!ex || ex->dtype != DT_I32 || (n = (int64_t)(ex->bytes / 4)) != steps) {
        golden_fail(g, "expert", "key missing or of another length than steps");
        goto out;
    }
    expert = malloc((size_t)n * sizeof *expert);
    guidance = malloc((size_t)n * sizeof *guidance);
    memcpy(expert, ex->data, (size_t)n * sizeof *expert);
    for (int64_t i = 0; i < n; i++)
        guidance[i] = json_get_number(c, expert[i] ? "guidance_scale_low" : "guidance_scale_high", 0);
    whole_run(g, eng, cases, c, "", guidance, json_get_number(c, "boundary", 0), expert, &latents);
out:
    tensor_free(&latents);
    engine_close(eng);
    json_free(c);
    json_free(cases);
    free(enc);
    free(t5);
    free(tok);
    free(tokc);
    free(guidance);
    free(expert);
}
