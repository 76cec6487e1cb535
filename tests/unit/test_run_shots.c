/* Runs with several shots on the tiny checkpoint: captions and plans, sparse attention, the channel and the embedding that tell
 * the shot, the roundings of DiffSynth's pipeline, and the sentences where captions and shots do not fit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/engine.h"
#include "core/io/ckpt.h"
#include "core/sample/bf16.h"

static const char TINY[] = "tests/golden/wan-tiny";
static const char TWO[] = "[global caption] a cat. This scene contains 2 shots. [per shot caption] a red ball [shot cut] a blue box";

typedef struct {
    engine *g;
    prompt *cond, *uncond;
    double guidance;
    int cut;
    run_shots shots;
    run_params r;
} setup;

/* `model`: a folder with another DiT than the tiny checkpoint's, or NULL */
static setup *setup_of(const char *text, const char *model)
{
    setup *s = calloc(1, sizeof *s);
    err e = { 0 };
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = model ? model : TINY;
    o.t5 = "tests/golden/wan-tiny/models_t5_umt5-xxl-enc-bf16.pth";
    o.tokenizer = "tests/golden/wan-tiny/google/umt5-xxl";
    o.device = "cpu";
    o.text_len = 128;
    if (engine_open(&s->g, &o, &e) || engine_encode(s->g, text, &s->cond, &e) || engine_encode(s->g, "", &s->uncond, &e))
        fail_msg("%s", e.text);
    s->guidance = 4;
    s->cut = 5;
    s->shots = (run_shots)RUN_SHOTS_INIT;
    s->shots.cuts = &s->cut;
    s->shots.n_cuts = 1;
    s->r = (run_params)RUN_PARAMS_INIT;
    s->r.width = 48;
    s->r.height = 32;
    s->r.frames = 13;
    s->r.seed = 3;
    s->r.steps = 3;
    s->r.solver = SOLVER_DIFFSYNTH_EULER;
    s->r.cond = (const prompt *const *)&s->cond;
    s->r.n_cond = s->r.n_guidance = 1;
    s->r.uncond = s->uncond;
    s->r.guidance = &s->guidance;
    s->r.shots = &s->shots;
    return s;
}

static void setup_free(setup *s)
{
    prompt_free(s->cond);
    prompt_free(s->uncond);
    engine_close(s->g);
    free(s);
}

static float *run(setup *s, int64_t *n)
{
    err e = { 0 };
    tensor t;
    if (engine_run(s->g, &s->r, NULL, &t, &e))
        fail_msg("%s", e.text);
    assert_int_equal(t.shape[0], 16);
    *n = tensor_count(&t);
    float *host = malloc((size_t)*n * sizeof *host);
    assert_int_equal(op_download_f32(host, &t, &e), 0);
    tensor_free(&t);
    return host;
}

static double distance(const float *a, const float *b, int64_t n)
{
    double far = 0;
    for (int64_t i = 0; i < n; i++)
        far = fabs((double)a[i] - b[i]) > far ? fabs((double)a[i] - b[i]) : far;
    return far;
}

static void expect(setup *s, const char *sentence)
{
    err e = { 0 };
    tensor t;
    int rc = engine_run(s->g, &s->r, NULL, &t, &e);
    if (!rc)
        tensor_free(&t);
    if (!rc || !strstr(e.text, sentence))
        fail_msg("expected \"%s\", found \"%s\"", sentence, rc ? e.text : "success");
}

/* ---- attention ---- */

static void test_masks_and_sparse_attention_act(void **state)
{
    (void)state;
    setup *s = setup_of(TWO, NULL);
    int64_t n;
    s->r.shots = NULL;
    float *plain = run(s, &n);
    s->r.shots = &s->shots;
    float *masked = run(s, &n), *again = run(s, &n);
    s->shots.sparse = true;
    float *sparse = run(s, &n);
    assert_memory_equal(masked, again, (size_t)n * sizeof *plain);
    assert_true(distance(plain, masked, n) > 1e-6);
    assert_true(distance(masked, sparse, n) > 1e-6);
    free(plain);
    free(masked);
    free(again);
    free(sparse);
    setup_free(s);
}

static void test_one_shot(void **state)
{
    (void)state;
    setup *s = setup_of("[global caption] a cat. This scene contains 1 shots. [per shot caption] a red ball", NULL);
    int64_t n;
    s->shots.n_cuts = 0;
    float *dense = run(s, &n);
    s->shots.sparse = true;      /* the own first frame counts twice, so even one shot differs */
    float *sparse = run(s, &n);
    assert_true(distance(dense, sparse, n) > 1e-7);
    s->guidance = 1;
    s->r.uncond = NULL;
    free(dense);
    dense = run(s, &n);
    free(dense);
    free(sparse);
    setup_free(s);
}

static void test_spans_of_clean_and_raw_text(void **state)
{
    (void)state;
    setup *s = setup_of("[global caption] a  cat &amp; dog [per shot caption] \xc3\xa9  ball [shot cut] box", NULL);
    err e = { 0 };
    shot_spans clean, raw;
    assert_int_equal(prompt_shot_spans(s->cond, false, &clean, &e), 0);
    assert_int_equal(prompt_shot_spans(s->cond, true, &raw, &e), 0);
    assert_true(clean.has_global && raw.has_global);
    assert_int_equal(clean.n, 2);
    assert_int_equal(clean.global[0], 0);
    /* every token of the second caption, and none of it in the first, lies behind the mark */
    int token = clean.shots[1][0], last = clean.shots[1][1] - 1;
    assert_true(token > clean.shots[0][0] && last == prompt_n_tokens(s->cond) - 2);
    assert_int_equal(token, clean.shots[0][1]);
    /* seven characters less in the clean text: upstream's ranges begin later */
    assert_true(raw.shots[0][0] > clean.shots[0][0]);
    shot_spans_release(&clean);
    shot_spans_release(&raw);
    setup_free(s);
}

/* ---- checkpoints that know the shot ---- */

/* A folder with the tiny DiT in f32 with one more input channel (every weight of it `weight`) and, if asked for, a shot embedding. */
static char *variant(const char *name, bool channel, int n_embedded)
{
    err e = { 0 };
    ckpt *c;
    char *dir = fs_join(getenv("TEST_TMP") ? getenv("TEST_TMP") : "/tmp", name), *path = dir ? fs_join(dir, "diffusion_pytorch_model.safetensors") : NULL;
    str header = STR_INIT;
    size_t at = 0;
    float **data;
    assert_non_null(path);
    assert_int_equal(fs_mkdirs(dir, &e), 0);
    assert_int_equal(ckpt_open(&c, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors", &e), 0);
    data = calloc(ckpt_count(c) + 1, sizeof *data);
    size_t *count = calloc(ckpt_count(c) + 1, sizeof *count), n = ckpt_count(c);
    str_addc(&header, '{');
    for (size_t i = 0; i <= n; i++) {
        const ckpt_tensor *t = i < n ? ckpt_at(c, i) : NULL;
        int64_t shape[5] = { n_embedded, 48 };
        int ndim = t ? t->ndim : 2;
        if (!t && !n_embedded)
            break;
        count[i] = t ? t->bytes / dtype_size(t->dtype) : (size_t)n_embedded * 48;
        for (int k = 0; t && k < ndim; k++)
            shape[k] = t->shape[k];
        bool patch = t && channel && !strcmp(t->name, "patch_embedding.weight");
        data[i] = calloc(patch ? count[i] / 16 * 17 : count[i], sizeof **data);
        if (patch) {
            float *old = malloc(count[i] * sizeof *old);
            dtype_to_f32(old, t->data, t->dtype, (int64_t)count[i]);
            for (int64_t r = 0; r < shape[0]; r++) {
                memcpy(data[i] + r * 17 * 4, old + r * 16 * 4, 16 * 4 * sizeof *old);
                for (int k = 0; k < 4; k++)
                    data[i][r * 17 * 4 + 16 * 4 + k] = 0.25f;
            }
            free(old);
            shape[1] = 17;
            count[i] = count[i] / 16 * 17;
        } else if (t) {
            dtype_to_f32(data[i], t->data, t->dtype, (int64_t)count[i]);
        } else {
            for (size_t k = 0; k < count[i]; k++)
                data[i][k] = (float)(k / 48) * (float)(k % 7) * 0.25f;
        }
        str_addf(&header, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "", t ? t->name : "shot_embedding.weight");
        for (int k = 0; k < ndim; k++)
            str_addf(&header, "%s%lld", k ? "," : "", (long long)shape[k]);
        str_addf(&header, "],\"data_offsets\":[%zu,%zu]}", at, at + 4 * count[i]);
        at += 4 * count[i];
    }
    str_addc(&header, '}');
    while (header.len % 8)
        str_addc(&header, ' ');
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    uint64_t len = header.len;
    fwrite(&len, 8, 1, f);
    fwrite(header.data, 1, header.len, f);
    for (size_t i = 0; i <= n; i++) {
        if (data[i])
            fwrite(data[i], sizeof **data, count[i], f);
        free(data[i]);
    }
    assert_int_equal(fclose(f), 0);
    char *json = fs_join(dir, "config.json");
    f = fopen(json, "w");
    assert_non_null(f);
    fprintf(f, "{\"model_type\":\"t2v\",\"dim\":48,\"eps\":1e-06,\"ffn_dim\":80,\"freq_dim\":32,\"in_dim\":%d,\"out_dim\":16,\"num_heads\":2,"
            "\"num_layers\":2,\"text_len\":16}", channel ? 17 : 16);
    assert_int_equal(fclose(f), 0);
    free(json);
    free(data);
    free(count);
    str_release(&header);
    free(path);
    ckpt_close(c);
    return dir;
}

static void test_mask_channel(void **state)
{
    (void)state;
    char *dir = variant("shot-channel", true, 0);
    setup *s = setup_of(TWO, dir);
    int64_t n;
    expect(s, "takes 17 channels, the last of which tells the shot");
    s->shots.mask_channel = SHOT_MASK_ID;
    float *id = run(s, &n);
    s->shots.mask_channel = SHOT_MASK_NORMALIZED;
    float *small = run(s, &n);
    s->shots.mask_channel = SHOT_MASK_ALTERNATING;      /* of two shots the same as the number */
    float *turns = run(s, &n);
    assert_memory_equal(id, turns, (size_t)n * sizeof *id);
    assert_true(distance(id, small, n) > 1e-6);
    s->r.shots = NULL;
    expect(s, "shots.mask_type");
    free(id);
    free(small);
    free(turns);
    setup_free(s);
    s = setup_of(TWO, NULL);
    s->shots.mask_channel = SHOT_MASK_ID;
    expect(s, "takes 16 channels, not 17");
    setup_free(s);
    free(dir);
}

static void test_shot_embedding(void **state)
{
    (void)state;
    char *dir = variant("shot-embedding", false, 2);
    setup *with = setup_of(TWO, dir), *without = setup_of(TWO, NULL);
    int64_t n;
    float *a = run(with, &n), *b = run(without, &n);
    assert_true(distance(a, b, n) > 1e-4);
    with->r.shots = without->r.shots = NULL;      /* an ordinary video has no shots to embed */
    free(a);
    free(b);
    a = run(with, &n);
    b = run(without, &n);
    assert_true(distance(a, b, n) < 1e-5);
    free(a);
    free(b);
    setup_free(with);
    setup_free(without);
    free(dir);
    dir = variant("shot-embedding-1", false, 1);
    with = setup_of(TWO, dir);
    expect(with, "the checkpoint's shot embedding knows 1");
    setup_free(with);
    free(dir);
}

/* ---- bf16 latents ---- */

static void test_bf16_latents(void **state)
{
    (void)state;
    setup *s = setup_of(TWO, NULL);
    int64_t n;
    err e = { 0 };
    float *exact = run(s, &n);
    s->r.latents_bf16 = true;
    float *rounded = run(s, &n);
    for (int64_t i = 0; i < n; i++)
        assert_true(rounded[i] == (float)bf16_of(rounded[i]));
    double far = distance(exact, rounded, n);
    assert_true(far > 0 && far < 0.5);
    free(exact);
    free(rounded);
    s->r.solver = SOLVER_UNIPC;
    expect(s, "set sampling.solver to diffsynth_euler, found unipc");
    s->r.solver = SOLVER_DIFFSYNTH_EULER;
    s->r.steps = 50;      /* the recorded schedule: 995.93 -> 996, 991.74 -> 992, ... 92.59 -> 92.5 */
    schedule t;
    assert_int_equal(engine_schedule(s->g, &s->r, &t, NULL, &e), 0);
    assert_true(t.timesteps[0] == 1000 && t.timesteps[1] == 996 && t.timesteps[2] == 992);
    assert_true(t.timesteps[20] == 884 && t.timesteps[21] == 872 && t.timesteps[49] == 92.5);
    assert_true(fabs(t.sigmas[1] - 0.99593494) < 1e-7);      /* the noise levels stay as they are */
    schedule_release(&t);
    setup_free(s);
}

static void test_bf16_arithmetic(void **state)
{
    (void)state;
    backend *be;
    err e = { 0 };
    tensor c, u;
    assert_int_equal(backend_open_cpu(&be, &e), 0);
    assert_int_equal(TENSOR_NEW(&c, be, DT_F32, &e, 2), 0);
    assert_int_equal(TENSOR_NEW(&u, be, DT_F32, &e, 2), 0);
    float a[2] = { 1.001f, -3 }, b[2] = { 0.5f, 1.0078125f }, got[2];
    op_upload(&c, a, &e);
    op_upload(&u, b, &e);
    assert_int_equal(bf16_guide(&c, &u, 5, &e), 0);
    op_download(got, &c, &e);
    assert_true(got[0] == 3);      /* R(1.001) = 1: 0.5 + 5 * 0.5 */
    assert_true(got[1] == -19);    /* -4.0078 -> -4, * 5 = -20, + 1.0078 = -18.992 -> -19 */
    op_upload(&c, a, &e);
    assert_int_equal(bf16_euler(&c, &u, -0.004f, &e), 0);
    op_download(got, &c, &e);
    assert_true(got[0] == 1);      /* 1.001 - 0.002 = 0.999, nearest bf16 1 */
    tensor_free(&c);
    tensor_free(&u);
    backend_close(be);
}

/* ---- bad input ---- */

static void test_cuts_are_checked(void **state)
{
    (void)state;
    setup *s = setup_of(TWO, NULL);
    static const struct { int cuts[2], n; const char *say; } cases[] = {
        { { 4 }, 1, "cut 1 of the shots is at frame 4: cuts are frames of the form 4n+1 from 1 to 12; the nearest is 5" },
        { { 0 }, 1, "is at frame 0" },
        { { 13 }, 1, "is at frame 13" },
        { { 9, 9 }, 2, "cut 2 of the shots is at frame 9, not after the one before it at 9" },
        { { 5, 9 }, 2, "the video has 3 shots and the prompt captions for 2 of them" },
        { { 0 }, 0, "the prompt has captions for 2 shots and the video has 1" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s->shots.cuts = cases[i].cuts;
        s->shots.n_cuts = cases[i].n;
        expect(s, cases[i].say);
    }
    setup_free(s);
}

static void test_prompts_are_checked(void **state)
{
    (void)state;
    setup *s = setup_of("a cat [per shot caption] a red ball [shot cut] a blue box", NULL);
    expect(s, "the prompt has no [global caption]");
    setup_free(s);
    s = setup_of("[global caption] a cat", NULL);
    expect(s, "captions for 0 of them");
    setup_free(s);
    str text = STR_INIT;
    str_add(&text, "[global caption] a cat [per shot caption]");
    for (int i = 0; i < 140; i++)
        str_add(&text, " red ball");
    str_add(&text, " [shot cut] a blue box");
    s = setup_of(str_text(&text), NULL);
    expect(s, "since the end of the prompt is cut off: shorten it");
    setup_free(s);
    str_release(&text);
    s = setup_of(TWO, NULL);
    prompt *blend;
    err e = { 0 };
    assert_int_equal(prompt_blend(&blend, s->cond, s->uncond, 0.5, BLEND_LERP, &e), 0);
    s->r.cond = (const prompt *const *)&blend;
    expect(s, "blended of two has no captions");
    prompt_free(blend);
    setup_free(s);
}

/* What upstream does without a word: the run goes on as if there were no shots. */
static void test_lenient_runs_are_upstreams(void **state)
{
    (void)state;
    setup *s = setup_of("a cat [per shot caption] a red ball [shot cut] a blue box", NULL);
    int64_t n;
    s->shots.lenient = true;
    float *fallback = run(s, &n);
    s->r.shots = NULL;
    float *plain = run(s, &n);
    assert_memory_equal(fallback, plain, (size_t)n * sizeof *plain);
    free(fallback);
    free(plain);
    setup_free(s);
    s = setup_of(TWO, NULL);
    s->guidance = 1;
    float *masked = run(s, &n);
    s->shots.lenient = true;      /* upstream: guidance 1 forgets the captions */
    fallback = run(s, &n);
    s->r.shots = NULL;
    plain = run(s, &n);
    assert_true(distance(masked, plain, n) > 1e-6);
    assert_memory_equal(fallback, plain, (size_t)n * sizeof *plain);
    free(masked);
    free(fallback);
    free(plain);
    setup_free(s);
}

static void test_forecast_counts_sparse_attention(void **state)
{
    (void)state;
    setup *s = setup_of(TWO, NULL);
    engine_cost full, sparse, plain;
    err e = { 0 };
    s->r.frames = 81;
    s->cut = 41;
    assert_int_equal(engine_forecast(s->g, &s->r, &full, &e), 0);
    s->shots.sparse = true;
    assert_int_equal(engine_forecast(s->g, &s->r, &sparse, &e), 0);
    s->r.shots = NULL;
    assert_int_equal(engine_forecast(s->g, &s->r, &plain, &e), 0);
    assert_true(full.flops_step == plain.flops_step && sparse.flops_step < full.flops_step);
    setup_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks_and_sparse_attention_act),
        cmocka_unit_test(test_one_shot),
        cmocka_unit_test(test_spans_of_clean_and_raw_text),
        cmocka_unit_test(test_mask_channel),
        cmocka_unit_test(test_shot_embedding),
        cmocka_unit_test(test_bf16_latents),
        cmocka_unit_test(test_bf16_arithmetic),
        cmocka_unit_test(test_cuts_are_checked),
        cmocka_unit_test(test_prompts_are_checked),
        cmocka_unit_test(test_lenient_runs_are_upstreams),
        cmocka_unit_test(test_forecast_counts_sparse_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
