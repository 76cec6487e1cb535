/* holocine: shot tables and spans (exact), single forwards with the shot mask and sparse attention, whole runs with the expert
 * switch, the shot-mask channel. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/dit/dit.h"
#include "core/dit/shots.h"
#include "core/engine_internal.h"
#include "core/sample/solver.h"
#include "tests/golden.h"

#define CHECK(call) do { if ((call)) { golden_fail(g, what, e.text); goto out; } } while (0)

static int *ints_of(const json *a, int *n)
{
    *n = (int)json_count(a);
    int *v = calloc((size_t)*n + 1, sizeof *v);
    for (int i = 0; v && i < *n; i++)
        v[i] = (int)json_number(json_at(a, (size_t)i), -1e9);
    return v;
}

static bool same(const int *a, int n, const json *b)
{
    bool ok = (int)json_count(b) == n;
    for (int i = 0; ok && i < n; i++)
        ok = a[i] == (int)json_number(json_at(b, (size_t)i), -1e9);
    return ok;
}

static void shot_tables(golden *g)
{
    json *doc = golden_json(g, "shots.json");
    const json *table = json_get(doc, "enforce_4t_plus_1"), *cases = json_get(doc, "cases");
    char name[64], detail[96];
    int wrong = 0;
    for (size_t i = 0; i < json_count(table); i++)
        wrong += shots_enforce(atoi(json_key(table, i))) != (int)json_number(json_at(table, i), -1e9);
    snprintf(detail, sizeof detail, "%d of %zu differ", wrong, json_count(table));
    golden_result(g, "shots.enforce_4t_plus_1", !wrong && json_count(table), detail);
    for (size_t i = 0; i < json_count(cases); i++) {
        const json *c = json_at(cases, i), *want = json_get(c, "out"), *captions = json_get(c, "shot_captions"), *index = json_get(c, "shot_indices");
        err e = { 0 };
        shot_script s = { 0 };
        int n_cuts, n = (int)json_count(captions), *cuts = ints_of(json_get(c, "shot_cut_frames"), &n_cuts);
        const char **text = calloc((size_t)n + 1, sizeof *text);
        for (int k = 0; k < n; k++)
            text[k] = json_string(json_at(captions, (size_t)k), "");
        snprintf(name, sizeof name, "shots.%zu", i);
        if (shots_structured(&s, json_get_string(c, "global_caption", ""), text, n, (int)json_get_int(c, "num_frames", 0), cuts, n_cuts, &e)) {
            golden_fail(g, name, e.text);
        } else {
            int T = (s.num_frames - 1) / 4 + 1, *shot = calloc((size_t)T, sizeof *shot);
            bool prompt = !strcmp(s.prompt, json_get_string(want, "prompt", "")), frames = s.num_frames == json_get_int(want, "num_frames", -1);
            bool at = same(s.cuts, s.n_cuts, json_get(want, "shot_cut_frames"));
            bool rows = shots_of_latents(s.num_frames, s.cuts, s.n_cuts, shot, &e) > 0 && same(shot, T, index);
            snprintf(detail, sizeof detail, "prompt %s, frames %s, cuts %s, shot indices %s", prompt ? "equal" : "DIFFERS", frames ? "equal" : "DIFFERS",
                     at ? "equal" : "DIFFER", rows ? "equal" : "DIFFER");
            golden_result(g, name, prompt && frames && at && rows, detail);
            free(shot);
        }
        shot_script_release(&s);
        free(text);
        free(cuts);
    }
    json_free(doc);
}

static void span_cases(golden *g)
{
    json *doc = golden_json(g, "spans.json");
    for (size_t i = 0; i < json_count(doc); i++) {
        const json *c = json_at(doc, i), *offsets = json_get(c, "offsets"), *pos = json_get(c, "positions"), *want = json_get(pos, "global");
        const json *shots = json_get(pos, "shots");
        char name[64], detail[96];
        err e = { 0 };
        shot_spans s = { 0 };
        int n = (int)json_count(offsets);
        size_t *begin = calloc((size_t)n + 1, sizeof *begin), *end = calloc((size_t)n + 1, sizeof *end);
        for (int k = 0; k < n; k++) {
            begin[k] = (size_t)json_number(json_at(json_at(offsets, (size_t)k), 0), 0);
            end[k] = (size_t)json_number(json_at(json_at(offsets, (size_t)k), 1), 0);
        }
        snprintf(name, sizeof name, "spans.%zu", i);
        if (shots_find_spans(&s, json_get_string(c, "prompt", ""), begin, end, n, &e)) {
            golden_fail(g, name, e.text);
        } else {
            bool global = json_count(want) ? s.has_global && same(s.global, 2, want) : !s.has_global, each = (int)json_count(shots) == s.n;
            for (int k = 0; each && k < s.n; k++)
                each = same(s.shots[k], 2, json_at(shots, (size_t)k));
            snprintf(detail, sizeof detail, "global %s, %d shots %s", global ? "equal" : "DIFFERS", s.n, each ? "equal" : "DIFFER");
            golden_result(g, name, global && each, detail);
        }
        shot_spans_release(&s);
        free(begin);
        free(end);
    }
    json_free(doc);
}

static int upload_rows(golden *g, const char *key, tensor *out, err *e)
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

typedef struct {
    golden *g;
    ckpt *file[2];
    dit *expert[2];
    dit_work *work;
    tensor x, context[2][2];      /* [expert][cond, uncond] */
    shot_plans plans;
    int *shot, n_shots, T;
} scene;

static int open_dit(golden *g, const char *file, int text_len, ckpt **c, dit **d, err *e)
{
    dit_config cfg;
    char *path = golden_path(g, file);
    int rc = ckpt_open(c, path, e);
    free(path);
    if (!rc)
        rc = ckpt_normalise(*c, CKPT_DIT, e);
    if (!rc)
        rc = dit_config_detect(&cfg, *c, NULL, e);
    if (rc)
        return rc;
    cfg.text_len = text_len;
    return dit_open(d, g->be, *c, &cfg, g->prec, e);
}

static int embed(golden *g, dit *d, const char *key, tensor *context, err *e)
{
    tensor rows = { 0 };
    int rc = upload_rows(g, key, &rows, e);
    if (!rc)
        rc = TENSOR_NEW(context, g->be, g->prec->act, e, dit_get_config(d)->text_len, dit_get_config(d)->dim);
    if (!rc)
        rc = dit_embed_text(d, &rows, context, e);
    tensor_free(&rows);
    return rc;
}

static int forward(scene *s, int expert, bool cond, bool sparse, double t, const tensor *x, tensor *v, err *e)
{
    dit_input in = { .latents = x, .context = &s->context[expert][!cond], .n_timesteps = 1, .timesteps = &t };
    if (sparse)
        in.self_plan = s->plans.sparse;
    if (cond)      /* the negative pass has no mask (PIPE:449-451) */
        in.cross_plan = s->plans.cross;
    return dit_forward(s->expert[expert], s->work, &in, v, NULL, NULL, e);
}

static void forwards(scene *s)
{
    static const struct { const char *key; bool cond; double t; } cases[] = { { "t987.cond", true, 987 }, { "t300.cond", true, 300 }, { "t987.uncond", false, 987 } };
    golden *g = s->g;
    for (int sparse = 0; sparse < 2; sparse++)
        for (int i = 0; i < 3; i++) {
            char key[48];
            err e = { 0 };
            tensor v = { 0 };
            snprintf(key, sizeof key, "%s.%s", sparse ? "sparse" : "full", cases[i].key);
            int rc = tensor_new(&v, g->be, DT_F32, 4, s->x.shape, &e);
            if (!rc)
                rc = forward(s, 0, cases[i].cond, sparse, cases[i].t, &s->x, &v, &e);
            if (rc)
                golden_fail(g, key, e.text);
            else
                golden_compare_tensor(g, key, &v, 1e-5);
            tensor_free(&v);
        }
}

static void denoise(scene *s, const json *c, bool sparse)
{
    golden *g = s->g;
    const char *what = sparse ? "sparse.denoise" : "full.denoise";
    err e = { 0 };
    schedule sch = { 0 };
    solver *sol = NULL;
    tensor x = { 0 }, v = { 0 }, u = { 0 };
    int steps = (int)json_get_int(c, "steps", 0), wrong = 0;
    double boundary = json_get_number(c, "switch_boundary", 0);
    int64_t n = tensor_count(&s->x);
    float *all = calloc((size_t)(n * (steps > 0 ? steps : 1)), sizeof *all), *flat = calloc((size_t)steps + 1, sizeof *flat);
    const ckpt_tensor *expert = ckpt_find(g->file, "denoise.expert");
    CHECK(schedule_build(&sch, SOLVER_DIFFSYNTH_EULER, steps, json_get_number(c, "shift", 0), &e));
    CHECK(solver_new(&sol, g->be, &sch, 4, s->x.shape, &e));
    CHECK(tensor_new(&x, g->be, DT_F32, 4, s->x.shape, &e));
    CHECK(tensor_new(&v, g->be, DT_F32, 4, s->x.shape, &e));
    CHECK(tensor_new(&u, g->be, DT_F32, 4, s->x.shape, &e));
    CHECK(op_copy(&x, &s->x, &e));
    for (int i = 0; i < steps; i++) {
        int low = sch.timesteps[i] < boundary * 1000;
        int32_t want = -1;
        if (expert && expert->dtype == DT_I32 && (int64_t)expert->bytes / 4 > i)
            memcpy(&want, (const char *)expert->data + 4 * i, 4);
        wrong += want != low;
        flat[i] = (float)sch.timesteps[i];
        CHECK(forward(s, low, true, sparse, sch.timesteps[i], &x, &v, &e));
        CHECK(forward(s, low, false, sparse, sch.timesteps[i], &x, &u, &e));
        CHECK(op_axpby(&v, 1, &v, -1, &u, &e));
        CHECK(op_axpby(&v, 1, &u, (float)json_get_number(c, "guidance_scale", 0), &v, &e));
        CHECK(solver_step(sol, i, &x, &v, &e));
        CHECK(op_download_f32(all + n * i, &x, &e));
    }
    golden_compare_key(g, what, all, n * steps, 1e-4);
    if (!sparse) {
        golden_compare_key(g, "denoise.timesteps", flat, steps, 0);
        golden_result(g, "denoise.expert", !wrong, wrong ? "steps differ" : "equal");
    }
out:
    schedule_release(&sch);
    solver_free(sol);
    tensor_free(&x);
    tensor_free(&v);
    tensor_free(&u);
    free(all);
    free(flat);
}

/* A prompt whose rows are the golden's and whose tokens have the offsets of spans.json: the text encoder is not in the folder. */
static prompt *prompt_of(golden *g, const char *rows, const char *text, int text_len)
{
    int64_t n;
    const ckpt_tensor *t = NULL;
    json *doc = golden_json(g, "spans.json");
    const json *c = NULL, *at;
    for (size_t i = 0; i < json_count(doc) && !c; i++)
        c = strcmp(json_get_string(json_at(doc, i), "prompt", ""), text) ? NULL : json_at(doc, i);
    prompt *p = calloc(1, sizeof *p);
    p->rows = golden_f32(g, rows, &n, &t);
    p->dim = t ? (int)t->shape[1] : 0;
    p->n_tokens = p->text_len = text_len;      /* the golden's rows beyond the prompt are zeros already */
    p->tok.n = (int)json_count(json_get(c, "offsets"));
    p->tok.tokens = calloc((size_t)p->tok.n + 1, sizeof *p->tok.tokens);
    for (int i = 0; i < p->tok.n; i++) {
        at = json_at(json_get(c, "offsets"), (size_t)i);
        p->tok.tokens[i].begin = (size_t)json_number(json_at(at, 0), 0);
        p->tok.tokens[i].end = (size_t)json_number(json_at(at, 1), 0);
    }
    p->map.text = str_dup(text);
    p->map.len = strlen(text);
    p->raw = str_dup(text);
    json_free(doc);
    return p;
}

/* the same runs through engine_run(): spans from the prompt, plans from the cuts */
static void through_engine(golden *g, const json *c, const tensor *x, int frames, int text_len, const int *cuts, int n_cuts)
{
    static const char *const names[] = { "engine.full.denoise", "engine.sparse.denoise" };
    const char *what = "engine";
    err e = { 0 };
    engine *eng = NULL;
    int64_t n = tensor_count(x);
    int steps = (int)json_get_int(c, "steps", 0);
    float *noise = malloc((size_t)n * sizeof *noise), *ours = malloc((size_t)n * sizeof *ours);
    char *model = golden_path(g, "full/full_high_noise.safetensors");
    prompt *cond = prompt_of(g, "context", json_get_string(c, "prompt", ""), text_len), *uncond = prompt_of(g, "context_null", "", text_len);
    double guidance = json_get_number(c, "guidance_scale", 0);
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = model;
    o.text_len = text_len;
    o.device = !strcmp(g->be->ops->name, "cuda") ? "cuda" : "cpu";
    o.precision = g->prec->name;
    CHECK(op_download_f32(noise, x, &e));
    CHECK(engine_open(&eng, &o, &e));
    for (int sparse = 0; sparse < 2; sparse++) {
        what = names[sparse];
        run_shots shots = RUN_SHOTS_INIT;
        run_params r = RUN_PARAMS_INIT;
        tensor out = { 0 };
        shots.cuts = cuts;
        shots.n_cuts = n_cuts;
        shots.sparse = sparse;
        r.width = (int)x->shape[3] * 8;
        r.height = (int)x->shape[2] * 8;
        r.frames = frames;
        r.initial_noise = noise;
        r.solver = SOLVER_DIFFSYNTH_EULER;
        r.steps = steps;
        r.shift = json_get_number(c, "shift", 0);
        r.boundary = json_get_number(c, "switch_boundary", 0);
        r.cond = (const prompt *const *)&cond;
        r.n_cond = r.n_guidance = 1;
        r.uncond = uncond;
        r.guidance = &guidance;
        r.shots = &shots;
        CHECK(engine_run(eng, &r, NULL, &out, &e));
        int rc = op_download_f32(ours, &out, &e);
        tensor_free(&out);
        CHECK(rc);
        int64_t all;
        float *ref = golden_f32(g, sparse ? "sparse.denoise" : "full.denoise", &all, NULL);
        if (ref && all == n * steps)
            golden_compare(g, what, ours, ref + n * (steps - 1), n, 1e-4);
        else
            golden_fail(g, what, "the recorded run has other sizes");
        free(ref);
    }
out:
    prompt_free(cond);
    prompt_free(uncond);
    engine_close(eng);
    free(model);
    free(noise);
    free(ours);
}

/* the 17-channel model: the latents and one channel that tells the shot */
static void mask_channel(scene *s, int text_len)
{
    static const char *const keys[] = { "shot_mask.id", "shot_mask.normalized", "shot_mask.alternating" };
    golden *g = s->g;
    const char *what = "shot_mask";
    err e = { 0 };
    ckpt *c = NULL;
    dit *d = NULL;
    dit_work *work = NULL;
    tensor context = { 0 }, x = { 0 }, v = { 0 };
    int64_t n = tensor_count(&s->x), plane = s->x.shape[2] * s->x.shape[3], C = s->x.shape[0], F = s->x.shape[1];
    float *host = malloc((size_t)(n + F * plane) * sizeof *host);
    double t = 987;
    CHECK(open_dit(g, "shot_mask/dit.safetensors", text_len, &c, &d, &e));
    CHECK(embed(g, d, "context", &context, &e));
    CHECK(dit_work_new(&work, d, F, s->x.shape[2], s->x.shape[3], &e));
    CHECK(TENSOR_NEW(&x, g->be, DT_F32, &e, C + 1, F, s->x.shape[2], s->x.shape[3]));
    CHECK(tensor_new(&v, g->be, DT_F32, 4, s->x.shape, &e));
    CHECK(op_download_f32(host, &s->x, &e));
    for (int kind = 0; kind < 3; kind++) {
        what = keys[kind];
        for (int64_t f = 0; f < F; f++)
            for (int64_t i = 0; i < plane; i++)
                host[n + f * plane + i] = shots_mask_value((shot_mask_kind)kind, s->shot[f], s->n_shots);
        CHECK(op_upload(&x, host, &e));
        dit_input in = { .latents = &x, .context = &context, .n_timesteps = 1, .timesteps = &t, .cross_plan = s->plans.cross };
        CHECK(dit_forward(d, work, &in, &v, NULL, NULL, &e));
        golden_compare_tensor(g, what, &v, 1e-5);
    }
out:
    tensor_free(&context);
    tensor_free(&x);
    tensor_free(&v);
    dit_work_free(work);
    dit_close(d);
    ckpt_close(c);
    free(host);
}

void golden_holocine(golden *g)
{
    static const char *const files[] = { "full/full_high_noise.safetensors", "full/full_low_noise.safetensors" };
    const char *what = "holocine";
    err e = { 0 };
    scene s = { .g = g };
    shot_spans spans = { 0 };
    int n_cuts = 0, *cuts = NULL, *range = NULL, dummy;
    shot_tables(g);
    span_cases(g);
    json *c = golden_json(g, "case.json");
    const json *pos = json_get(c, "text_cut_positions"), *shots = json_get(pos, "shots");
    int text_len = (int)json_get_int(c, "text_len", 0), frames = (int)json_get_int(c, "num_frames", 0);
    if (!c || text_len < 1 || frames < 1) {
        golden_fail(g, what, "case.json lacks text_len or num_frames");
        goto out;
    }
    cuts = ints_of(json_get(c, "shot_cut_frames"), &n_cuts);
    s.T = (frames - 1) / 4 + 1;
    s.shot = calloc((size_t)s.T, sizeof *s.shot);
    s.n_shots = shots_of_latents(frames, cuts, n_cuts, s.shot, &e);
    const ckpt_tensor *index = ckpt_find(g->file, "shot_indices");
    bool equal = index && index->dtype == DT_I32 && (int)(index->bytes / 4) == s.T && !memcmp(index->data, s.shot, index->bytes);
    golden_result(g, "shot_indices", equal, equal ? "equal" : "DIFFER");
    spans.has_global = json_count(json_get(pos, "global")) == 2;
    range = ints_of(json_get(pos, "global"), &dummy);
    memcpy(spans.global, range, sizeof spans.global);
    spans.n = (int)json_count(shots);
    spans.shots = calloc((size_t)spans.n + 1, sizeof *spans.shots);
    for (int k = 0; k < spans.n; k++)
        for (int i = 0; i < 2; i++)
            spans.shots[k][i] = (int)json_number(json_at(json_at(shots, (size_t)k), (size_t)i), 0);
    CHECK(upload_rows(g, "x", &s.x, &e));
    CHECK(shots_make_plans(&s.plans, s.shot, s.T, s.x.shape[2] / 2 * (s.x.shape[3] / 2), &spans, text_len, &e));
    for (int i = 0; i < 2; i++) {
        CHECK(open_dit(g, files[i], text_len, &s.file[i], &s.expert[i], &e));
        CHECK(embed(g, s.expert[i], "context", &s.context[i][0], &e));
        CHECK(embed(g, s.expert[i], "context_null", &s.context[i][1], &e));
    }
    CHECK(dit_work_new(&s.work, s.expert[0], s.x.shape[1], s.x.shape[2], s.x.shape[3], &e));
    forwards(&s);
    denoise(&s, c, false);
    denoise(&s, c, true);
    mask_channel(&s, text_len);
    through_engine(g, c, &s.x, frames, text_len, cuts, n_cuts);
out:
    for (int i = 0; i < 2; i++) {
        tensor_free(&s.context[i][0]);
        tensor_free(&s.context[i][1]);
        dit_close(s.expert[i]);
        ckpt_close(s.file[i]);
    }
    tensor_free(&s.x);
    dit_work_free(s.work);
    shot_plans_release(&s.plans);
    shot_spans_release(&spans);
    free(s.shot);
    free(cuts);
    free(range);
    json_free(c);
}
