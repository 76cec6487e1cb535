/* The engine on the tiny checkpoint: same bytes whatever watches, editors, cancelling, damaged weights, sentences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/dit/shots.h"
#include "core/engine.h"

static const char TINY[] = "tests/golden/wan-tiny";

static engine *open_tiny(int threads)
{
    engine *g;
    err e = { 0 };
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = TINY;
    o.device = "cpu";
    o.threads = threads;
    if (engine_open(&g, &o, &e))
        fail_msg("%s", e.text);
    return g;
}

typedef struct {
    engine *g;
    prompt *cond, *uncond;
    double guidance;
    run_params r;
} setup;

static setup *setup_new(int threads)
{
    setup *s = calloc(1, sizeof *s);
    err e = { 0 };
    s->g = open_tiny(threads);
    s->guidance = 4;
    assert_int_equal(engine_encode(s->g, "a kiss between two men", &s->cond, &e), 0);
    assert_int_equal(engine_encode(s->g, "", &s->uncond, &e), 0);
    run_params r = RUN_PARAMS_INIT;
    r.width = 48;
    r.height = 32;
    r.frames = 5;
    r.seed = 3;
    r.steps = 4;
    r.shift = 3;
    r.uncond = s->uncond;
    s->r = r;
    s->r.cond = (const prompt *const *)&s->cond;
    s->r.n_cond = 1;
    s->r.guidance = &s->guidance;
    s->r.n_guidance = 1;
    return s;
}

static void setup_free(setup *s)
{
    prompt_free(s->cond);
    prompt_free(s->uncond);
    engine_close(s->g);
    free(s);
}

static float *run(setup *s, const hooks *h, int64_t *n)
{
    err e = { 0 };
    tensor t;
    if (engine_run(s->g, &s->r, h, &t, &e))
        fail_msg("%s", e.text);
    *n = tensor_count(&t);
    float *host = malloc((size_t)*n * sizeof *host);
    assert_int_equal(op_download_f32(host, &t, &e), 0);
    tensor_free(&t);
    return host;
}

/* ---- hooks ---- */

typedef struct {
    int seen[4], cancel_at;
    double last_sigma;
} counter;

static bool want_all(const hook_point *p, void *user)
{
    (void)p, (void)user;
    return true;
}

static int count(const hook_point *p, const hook_data *d, void *user, err *e)
{
    counter *c = user;
    c->seen[p->kind]++;
    if (p->kind == HOOK_LATENTS)
        c->last_sigma = p->sigma;
    if (p->kind == HOOK_CROSS_ATTN) {      /* look at one map, as capture does */
        tensor maps;
        int rc = TENSOR_NEW(&maps, d->attn->q->be, DT_F32, e, 1, 1, tensor_nrows(d->attn->q));
        attn_probs_args a = { .out = &maps, .q = d->attn->q, .k = d->attn->k, .n_heads = d->attn->n_heads, .scale = d->attn->scale,
                              .n_words = 1, .word_begin = (int[]){ 0, 2 }, .columns = (int[]){ 0, 1 } };
        rc = rc ? rc : op_attn_probs(&a, e);
        tensor_free(&maps);
        return rc;
    }
    if (c->cancel_at && p->kind == HOOK_VELOCITY && p->step == c->cancel_at)
        return ERR(e, ERR_CANCELLED, "interrupted");
    return 0;
}

static void test_observers_change_nothing(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    hooks h = { 0 };
    counter c = { 0 };
    int64_t n, m;
    float *plain = run(s, NULL, &n);
    assert_int_equal(hooks_observe(&h, (hook_observer){ want_all, count, &c }, &e), 0);
    float *watched = run(s, &h, &m);
    assert_int_equal(n, m);
    assert_memory_equal(plain, watched, (size_t)n * sizeof *plain);
    assert_int_equal(c.seen[HOOK_LATENTS], 5);               /* the noise and four steps */
    assert_int_equal(c.seen[HOOK_VELOCITY], 4);
    assert_int_equal(c.seen[HOOK_CROSS_ATTN], 4 * 2 * 2);    /* steps, branches, layers */
    assert_true(c.last_sigma == 0);
    free(plain);
    free(watched);
    setup_free(s);
}

static void test_threads_change_nothing(void **state)
{
    (void)state;
    int64_t n, m;
    setup *s = setup_new(1);
    float *one = run(s, NULL, &n);
    setup_free(s);
    s = setup_new(2);
    float *two = run(s, NULL, &m);
    assert_int_equal(n, m);
    assert_memory_equal(one, two, (size_t)n * sizeof *one);
    free(one);
    free(two);
    setup_free(s);
}

static bool want_first_latents(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_LATENTS && p->step == 1;
}

static int halve(const hook_point *p, tensor *value, const attn_args *a, void *user, err *e)
{
    (void)p, (void)a, (void)user;
    return op_axpby(value, 0.5f, value, 0, value, e);
}

static bool want_attention(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_CROSS_ATTN;
}

static int same_attention(const hook_point *p, tensor *value, const attn_args *a, void *user, err *e)
{
    (void)p, (void)value, (void)user;
    return op_attention(a, e);
}

static void test_editors(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    hooks change = { 0 }, same = { 0 };
    int64_t n;
    float *plain = run(s, NULL, &n);
    assert_int_equal(hooks_edit(&change, (hook_editor){ want_first_latents, halve, NULL }, &e), 0);
    float *edited = run(s, &change, &n);
    assert_memory_not_equal(plain, edited, (size_t)n * sizeof *plain);
    assert_int_equal(hooks_edit(&same, (hook_editor){ want_attention, same_attention, NULL }, &e), 0);
    free(edited);
    edited = run(s, &same, &n);      /* an editor that does what the engine does gives the same bytes */
    assert_memory_equal(plain, edited, (size_t)n * sizeof *plain);
    free(plain);
    free(edited);
    setup_free(s);
}

static void test_cancel(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    hooks h = { 0 };
    counter c = { .cancel_at = 2 };
    tensor t;
    assert_int_equal(hooks_observe(&h, (hook_observer){ want_all, count, &c }, &e), 0);
    assert_int_equal(engine_run(s->g, &s->r, &h, &t, &e), ERR_CANCELLED);
    assert_null(t.data);
    assert_int_equal(c.seen[HOOK_VELOCITY], 3);
    setup_free(s);
}

static void test_too_many_hooks(void **state)
{
    (void)state;
    err e = { 0 };
    hooks h = { 0 };
    for (int i = 0; i < HOOKS_MAX; i++)
        assert_int_equal(hooks_observe(&h, (hook_observer){ want_all, count, NULL }, &e), 0);
    assert_int_equal(hooks_observe(&h, (hook_observer){ want_all, count, NULL }, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "at most 8 observers"));
}

/* ---- guidance, noise, prompts ---- */

static void test_guidance_one_needs_no_negative(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    int64_t n;
    tensor t;
    s->r.uncond = NULL;
    assert_int_equal(engine_run(s->g, &s->r, NULL, &t, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "needs a negative prompt"));
    s->guidance = 1;
    free(run(s, NULL, &n));
    setup_free(s);
}

static void test_seed_and_noise(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    int64_t n;
    float *a = run(s, NULL, &n);
    s->r.seed = 4;
    float *b = run(s, NULL, &n);
    assert_memory_not_equal(a, b, (size_t)n * sizeof *a);
    free(b);
    s->r.seed = 3;
    s->r.noise = NOISE_TORCH_CUDA;
    b = run(s, NULL, &n);
    assert_memory_not_equal(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
    setup_free(s);
}

static void test_prompt_tokens(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    prompt *p;
    const char *text = "a  &amp; dog\tand a cat";      /* cleaned to "a & dog and a cat" */
    assert_int_equal(engine_encode(s->g, text, &p, &e), 0);
    assert_string_equal(prompt_clean_text(p), "a & dog and a cat");
    int *tokens = calloc((size_t)prompt_n_tokens(p), sizeof *tokens), n;
    const char *dog = strstr(text, "dog"), *cat = strstr(text, "cat");
    assert_int_equal(prompt_tokens_of(p, (size_t)(dog - text), (size_t)(dog - text) + 3, tokens, &n, &e), 0);
    assert_true(n >= 1);
    char joined[64] = "";
    for (int i = 0; i < n; i++)
        strcat(joined, prompt_piece(p, tokens[i]));
    assert_non_null(strstr(joined, "d"));
    assert_null(strstr(joined, "c"));
    assert_int_equal(prompt_tokens_of(p, (size_t)(cat - text), (size_t)(cat - text) + 3, tokens, &n, &e), 0);
    assert_true(n >= 1 && tokens[n - 1] <= prompt_n_tokens(p) - 2);      /* </s> comes after */
    free(tokens);
    prompt_free(p);
    setup_free(s);
}

static void test_prompt_arithmetic(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    prompt *mid;
    int dim = prompt_dim(s->cond), zero = 0;
    float before = prompt_rows(s->cond)[5], *eos = prompt_rows(s->cond) + (prompt_n_tokens(s->cond) - 1) * dim;
    assert_int_equal(prompt_blend(&mid, s->cond, s->uncond, 0, BLEND_LERP, &e), 0);
    assert_true(prompt_rows(mid)[5] == before);
    prompt_free(mid);
    assert_int_equal(prompt_blend(&mid, s->cond, s->uncond, 0.25, BLEND_LERP, &e), 0);
    float want = (float)(0.75 * before + 0.25 * prompt_rows(s->uncond)[5]);
    assert_true(fabsf(prompt_rows(mid)[5] - want) <= 1e-6f);
    prompt_free(mid);
    assert_int_equal(prompt_blend(&mid, s->cond, s->cond, 0.5, BLEND_SLERP, &e), 0);      /* parallel rows: the same again */
    assert_true(fabsf(prompt_rows(mid)[5] - before) <= 1e-6f);
    prompt_free(mid);
    float around = eos[5] + (before - eos[5]) * 2;
    prompt_interpolate(s->cond, &zero, 1, 2);
    assert_true(fabsf(prompt_rows(s->cond)[5] - around) <= 1e-5f);
    prompt_scale(s->cond, &zero, 1, 0.5);
    assert_true(fabsf(prompt_rows(s->cond)[5] - around / 2) <= 1e-5f);
    setup_free(s);
}

/* ---- decoding ---- */

static int frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    int *frames = user;
    assert_int_equal(index, *frames);
    assert_int_equal(width, 48);
    assert_int_equal(height, 32);
    assert_non_null(rgb);
    if (++*frames == 7)
        return ERR(e, ERR_IO, "the disk is full");
    return 0;
}

static void test_decode_streams_and_stops(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    tensor t;
    int frames = 0;
    assert_int_equal(engine_run(s->g, &s->r, NULL, &t, &e), 0);
    assert_int_equal(engine_decode(s->g, &t, frame, &frames, &e), 0);
    assert_int_equal(frames, 5);
    tensor_free(&t);
    s->r.frames = 9;
    frames = 0;
    assert_int_equal(engine_run(s->g, &s->r, NULL, &t, &e), 0);
    assert_int_equal(engine_decode(s->g, &t, frame, &frames, &e), ERR_IO);
    assert_string_equal(e.text, "the disk is full");
    tensor_free(&t);
    setup_free(s);
}

/* ---- bad input ---- */

static void expect_run(setup *s, const char *sentence)
{
    err e = { 0 };
    tensor t;
    assert_true(engine_run(s->g, &s->r, NULL, &t, &e) < 0);
    if (!strstr(e.text, sentence))
        fail_msg("expected \"%s\" in \"%s\"", sentence, e.text);
}

static void test_impossible_sizes(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    s->r.width = 40;
    expect_run(s, "multiples of 16");
    s->r.width = 48;
    s->r.frames = 6;
    expect_run(s, "4n+1 is needed");
    s->r.frames = 5;
    s->r.steps = 0;
    s->r.n_guidance = s->r.n_cond = 1;
    expect_run(s, "sampling.steps is 0");
    s->r.steps = 4;
    s->r.shift = -1;
    expect_run(s, "sampling.shift is -1");
    s->r.shift = 3;
    s->r.frames = 4093;
    s->r.width = s->r.height = 16;      /* 1024 latent frames is the last that rotary tables cover: no error from the checks */
    int64_t shape[4];
    err e = { 0 };
    assert_int_equal(engine_latent_shape(s->g, &s->r, shape, &e), 0);
    assert_int_equal(shape[1], 1024);
    setup_free(s);
}

static char *copy_tiny(const char *name)
{
    char *dir = fs_join(getenv("TEST_TMP") ? getenv("TEST_TMP") : "/tmp", name), cmd[512];
    snprintf(cmd, sizeof cmd, "rm -rf %s && cp -r %s %s && chmod -R u+w %s", dir, TINY, dir, dir);
    assert_int_equal(system(cmd), 0);
    return dir;
}

static void test_nan_weights_are_named(void **state)
{
    (void)state;
    char *dir = copy_tiny("engine-nan"), *path = fs_join(dir, "diffusion_pytorch_model.safetensors"), *bytes;
    size_t n;
    err e = { 0 };
    assert_int_equal(fs_read_text(&bytes, &n, path, &e), 0);
    memset(bytes + n - 2, 0xff, 2);      /* the last bf16 value of the last tensor */
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    free(bytes);
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = dir;
    o.device = "cpu";
    setup *s = setup_new(0);
    engine_close(s->g);
    assert_int_equal(engine_open(&s->g, &o, &e), 0);
    expect_run(s, "gave NaN or infinity: tensor '");
    expect_run(s, "the file is damaged");
    setup_free(s);
    free(path);
    free(dir);
}

static void expect_open(engine_options *o, const char *sentence)
{
    err e = { 0 };
    engine *g = NULL;
    prompt *p = NULL;
    int rc = engine_open(&g, o, &e);
    if (!rc)
        rc = engine_encode(g, "a dog", &p, &e);
    assert_true(rc < 0);
    if (!strstr(e.text, sentence))
        fail_msg("expected \"%s\" in \"%s\"", sentence, e.text);
    prompt_free(p);
    engine_close(g);
}

static void test_missing_parts(void **state)
{
    (void)state;
    engine_options o = ENGINE_OPTIONS_INIT;
    char *dir = copy_tiny("engine-parts"), *t5 = fs_join(dir, "models_t5_umt5-xxl-enc-bf16.pth"), *tok = fs_join(dir, "google/umt5-xxl/spiece.model");
    o.device = "cpu";
    expect_open(&o, "no diffusion model");
    o.model = "/nonexistent/folder";
    expect_open(&o, "/nonexistent/folder");
    o.model = dir;
    o.device = "tpu";
    expect_open(&o, "device 'tpu' is unknown");
    o.device = "cpu";
    o.precision = "int4";
    expect_open(&o, "model.precision 'int4'");
    o.precision = "exact";
    unlink(tok);
    expect_open(&o, "spiece.model");
    unlink(t5);
    o.tokenizer = "tests/golden/wan-tiny/google/umt5-xxl";
    expect_open(&o, "no text encoder beside");
    free(t5);
    free(tok);
    free(dir);
}

static void test_schedule_and_forecast(void **state)
{
    (void)state;
    setup *s = setup_new(0);
    err e = { 0 };
    schedule sch;
    int expert[4] = { 9, 9, 9, 9 };
    engine_cost one, two;
    engine_info info;
    assert_int_equal(engine_schedule(s->g, &s->r, &sch, expert, &e), 0);
    assert_int_equal(sch.timesteps[0], 999);
    assert_true(sch.sigmas[4] == 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(expert[i], 0);
    schedule_release(&sch);
    assert_int_equal(engine_forecast(s->g, &s->r, &one, &e), 0);
    s->guidance = 1;
    assert_int_equal(engine_forecast(s->g, &s->r, &two, &e), 0);
    assert_true(one.flops_step == 2 * two.flops_step && one.flops_decode > 0 && one.weight_bytes > 0 && one.activation_bytes > 0);
    assert_int_equal(engine_get_info(s->g, true, &info, &e), 0);
    assert_string_equal(info.family, "wan2.1");
    assert_int_equal(strlen(info.dit_digest), 64);
    assert_int_equal(strlen(info.vae_digest), 64);
    assert_string_equal(info.dit_low_digest, "");
    setup_free(s);
}

/* ---- shots ---- */

static void test_shots_refuse_what_upstream_ignores(void **state)
{
    (void)state;
    err e = { 0 };
    shot_plans p;
    int shot[] = { 0, 0, 1, 2 }, pairs[2][2] = { { 2, 4 }, { 4, 6 } };
    shot_spans s = { .has_global = true, .global = { 0, 2 }, .n = 2, .shots = pairs };
    assert_int_equal(shots_make_plans(&p, shot, 4, 6, &s, 16, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "the video has 3 shots and the prompt captions for 2"));
    s.has_global = false;
    assert_int_equal(shots_make_plans(&p, shot, 3, 6, &s, 16, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "no [global caption]"));
    s.has_global = true;
    assert_int_equal(shots_make_plans(&p, shot, 3, 6, &s, 16, &e), 0);
    /* shot 0 sees global 0..2, itself 2..4, padding from 7 (all ends one longer than stored, PIPE:1213) */
    assert_int_equal(p.cross.segments[0].n_ranges, 2);
    assert_int_equal(p.cross.segments[0].ranges[0].begin, 0);
    assert_int_equal(p.cross.segments[0].ranges[0].end, 5);
    assert_int_equal(p.cross.segments[0].ranges[1].begin, 7);
    assert_int_equal(p.cross.segments[0].ranges[1].end, 16);
    assert_int_equal(p.sparse.segments[1].n_ranges, 3);
    shot_plans_release(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_observers_change_nothing),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_editors),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_too_many_hooks),
        cmocka_unit_test(test_guidance_one_needs_no_negative),
        cmocka_unit_test(test_seed_and_noise),
        cmocka_unit_test(test_prompt_tokens),
        cmocka_unit_test(test_prompt_arithmetic),
        cmocka_unit_test(test_decode_streams_and_stops),
        cmocka_unit_test(test_impossible_sizes),
        cmocka_unit_test(test_nan_weights_are_named),
        cmocka_unit_test(test_missing_parts),
        cmocka_unit_test(test_schedule_and_forecast),
        cmocka_unit_test(test_shots_refuse_what_upstream_ignores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
