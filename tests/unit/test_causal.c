/* Causal clips on the DiT of the tiny checkpoint: blocks, caches, draws, saved states, sentences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/sha256.h"
#include "core/causal.h"
#include "core/engine.h"
#include "core/sample/rng.h"
#include "tests/unit/weights_fixture.h"

typedef struct {
    backend *be;
    ckpt *file, *vae_file;
    dit *d;
    vae *v;
    tensor context[2];
} parts;

static err E;
#define OK(call) do { E = (err){ 0 }; if (call) fail_msg("%s:%d: %s", __FILE__, __LINE__, E.text); } while (0)

static void context_new(parts *p, tensor *t, float phase)
{
    const dit_config *c = dit_get_config(p->d);
    tensor rows = { 0 };
    float *host = malloc((size_t)(3 * c->text_dim) * sizeof *host);
    for (int i = 0; i < 3 * c->text_dim; i++)
        host[i] = (float)((i * 37 % 101) / 50.0 - 1) + phase;
    OK(TENSOR_NEW(&rows, p->be, DT_F32, &E, 3, c->text_dim));
    OK(op_upload(&rows, host, &E));
    OK(TENSOR_NEW(t, p->be, DT_F32, &E, c->text_len, c->dim));
    OK(dit_embed_text(p->d, &rows, t, &E));
    tensor_free(&rows);
    free(host);
}

static int open_parts(void **state)
{
    parts *p = calloc(1, sizeof *p);
    json *config = NULL;
    dit_config cfg;
    const precision *prec;
    *state = p;
    tmp_make();
    OK(backend_open(&p->be, "cpu", &E));
    OK(precision_find(&prec, "exact", &E));
    OK(ckpt_open(&p->file, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors", &E));
    OK(ckpt_normalise(p->file, CKPT_DIT, &E));
    OK(json_read_file(&config, "tests/golden/wan-tiny/config.json", &E));
    OK(dit_config_detect(&cfg, p->file, config, &E));
    json_free(config);
    OK(dit_open(&p->d, p->be, p->file, &cfg, prec, &E));
    OK(ckpt_open(&p->vae_file, "tests/golden/wan-tiny/Wan2.1_VAE.pth", &E));
    OK(ckpt_normalise(p->vae_file, CKPT_VAE, &E));
    OK(vae_open(&p->v, p->be, p->vae_file, prec, &E));
    context_new(p, &p->context[0], 0);
    context_new(p, &p->context[1], 0.5f);
    return 0;
}

static int close_parts(void **state)
{
    parts *p = *state;
    tensor_free(&p->context[0]);
    tensor_free(&p->context[1]);
    vae_close(p->v);
    dit_close(p->d);
    ckpt_close(p->file);
    ckpt_close(p->vae_file);
    backend_close(p->be);
    free(p);
    tmp_remove();
    return 0;
}

static causal_options small(void)
{
    causal_options o = CAUSAL_OPTIONS_INIT;
    o.height = o.width = 2;
    o.block = 3;
    o.window = 8;      /* rolls after the third block, and not by whole blocks */
    o.sink = 2;
    o.n_steps = 2;
    o.steps[1] = 500;
    o.seed = 5;
    return o;
}

static causal *clip_new(parts *p, const causal_options *o)
{
    causal *c;
    OK(causal_new(&c, (causal_model){ p->be, p->d, p->v, DT_F32 }, o, &E));
    return c;
}

static int add_frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    (void)index, (void)e;
    sha256_add(user, rgb, (size_t)(width * height * 3));
    return 0;
}

/* Makes blocks up to `until`, switching the prompt before block 5, and adds latents and frames to `sum`. */
static void go(parts *p, causal *c, int64_t until, bool decode, const hooks *h, sha256 *sum)
{
    while (causal_blocks(c) < until) {
        tensor t;
        if (causal_blocks(c) == 0 || causal_blocks(c) == 5)
            OK(causal_prompt(c, &p->context[causal_blocks(c) == 5], h, &E));
        OK(causal_block(c, h, &t, &E));
        sha256_add(sum, t.data, (size_t)tensor_bytes(&t));
        if (decode)
            OK(causal_decode(c, &t, add_frame, sum, &E));
        tensor_free(&t);
    }
}

static void finish(sha256 *sum, char hex[65])
{
    sha256 copy = *sum;
    sha256_hex(&copy, hex);
}

static char *state_path(const char *name)
{
    const char *tmp = getenv("TEST_TMP");
    return fs_join(tmp ? tmp : "/tmp", name);
}

/* ---- the same bytes ---- */

static void resume_everywhere(parts *p, const causal_options *o, int64_t blocks)
{
    char whole[65], again[65];
    char *path = state_path("clip.safetensors");
    sha256 a, b;
    causal *c = clip_new(p, o);
    sha256_init(&a);
    for (int64_t k = 1; k <= blocks; k++) {
        go(p, c, k, true, NULL, &a);
        if (k % 7 && k != 5 && k != 6)      /* many blocks, with the switch among them */
            continue;
        OK(causal_save(c, path, "test", &E));
        causal *d = clip_new(p, o);
        b = a;
        OK(causal_load(d, path, "test", &E));
        assert_int_equal(causal_blocks(d), k);
        causal_prompt_again(d, &p->context[k > 5]);
        go(p, d, k + 3, true, NULL, &b);
        causal_free(d);
        causal *f = clip_new(p, o);
        sha256 plain;
        sha256_init(&plain);
        go(p, f, k + 3, true, NULL, &plain);
        causal_free(f);
        finish(&plain, whole);
        finish(&b, again);
        assert_string_equal(whole, again);
    }
    causal_free(c);
    free(path);
}

static void test_resume(void **state)
{
    causal_options o = small();
    resume_everywhere(*state, &o, 37);      /* states of up to 35 blocks, continued to 40 */
    o.global_sink = false;
    o.draws = CAUSAL_DRAW_CLIP;
    o.total = 30;
    resume_everywhere(*state, &o, 7);
    o.window = -1;
    o.cuda_noise = true;
    resume_everywhere(*state, &o, 7);
}

typedef struct {
    int latents, velocity, x0, denoise, clean, recache;
    int64_t most_kept;
} counter;

static bool want_all(const hook_point *p, void *user)
{
    (void)p, (void)user;
    return true;
}

static int count(const hook_point *p, const hook_data *d, void *user, err *e)
{
    counter *c = user;
    (void)e;
    c->latents += p->kind == HOOK_LATENTS;
    c->x0 += p->kind == HOOK_X0;
    if (p->kind == HOOK_VELOCITY) {
        c->velocity++;
        c->denoise += p->pass == PASS_DENOISE;
        c->clean += p->pass == PASS_CLEAN;
        c->recache += p->pass == PASS_RECACHE;
        assert_non_null(d->cache);
        if (d->cache->local_end > c->most_kept)
            c->most_kept = d->cache->local_end;
    }
    if (p->kind == HOOK_LATENTS) {
        assert_int_equal(p->frame, p->block * 3);
        assert_int_equal(d->value->shape[1], 3);
    }
    return 0;
}

static void test_hooks(void **state)
{
    parts *p = *state;
    causal_options o = small();
    counter n = { 0 };
    hooks h = { 0 };
    char a[65], b[65];
    sha256 sum;
    causal *c = clip_new(p, &o);
    sha256_init(&sum);
    go(p, c, 7, false, NULL, &sum);
    finish(&sum, a);
    causal_free(c);
    OK(hooks_observe(&h, (hook_observer){ want_all, count, &n }, &E));
    c = clip_new(p, &o);
    sha256_init(&sum);
    go(p, c, 7, false, &h, &sum);
    finish(&sum, b);
    causal_free(c);
    assert_string_equal(a, b);
    assert_int_equal(n.latents, 7 * 3);      /* noise and two steps a block */
    assert_int_equal(n.denoise, 7 * 2);
    assert_int_equal(n.clean, 7);
    assert_int_equal(n.recache, 1);
    assert_int_equal(n.x0, n.velocity);
    assert_int_equal(n.most_kept, 8);        /* a token a frame here: the window, never more */
}

static void sum_of(parts *p, const causal_options *o, int64_t blocks, char hex[65])
{
    sha256 sum;
    causal *c = clip_new(p, o);
    sha256_init(&sum);
    go(p, c, blocks, false, NULL, &sum);
    finish(&sum, hex);
    causal_free(c);
}

/* A velocity that goes bad stops the block, and the sentence names the first call that was bad, though all are looked at at its end. */
static int spoil(const hook_point *p, tensor *value, const attn_args *attn, void *user, err *e)
{
    float nan = NAN;
    (void)attn, (void)e;
    if (p->block == *(const int *)user && p->step == 1)
        memcpy(value->data, &nan, sizeof nan);
    return 0;
}

static bool want_latents(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_LATENTS;
}

static void test_not_finite(void **state)
{
    parts *p = *state;
    causal_options o = small();
    hooks h = { 0 };
    err e = { 0 };
    tensor t;
    int block = 2;
    OK(hooks_edit(&h, (hook_editor){ want_latents, spoil, &block }, &E));
    causal *c = clip_new(p, &o);
    sha256 sum;
    sha256_init(&sum);
    go(p, c, 2, false, &h, &sum);
    assert_int_equal(causal_block(c, &h, &t, &e), ERR_NAN);
    assert_non_null(strstr(e.text, "block 2, step 2 of 2 gave NaN or infinity"));
    assert_null(t.data);
    e = (err){ 0 };
    assert_int_equal(causal_block(c, &h, &t, &e), ERR_INTERNAL);
    causal_free(c);
}

/* A window that holds the clip is the whole clip; draws by block do not look ahead. */
static void test_window(void **state)
{
    causal_options o = small();
    char a[65], b[65];
    o.window = 24;
    sum_of(*state, &o, 5, a);
    o.window = -1;
    o.total = 24;
    sum_of(*state, &o, 5, b);
    assert_string_equal(a, b);
    o.total = 60;
    sum_of(*state, &o, 5, b);
    assert_string_equal(a, b);
    o.window = 8;
    sum_of(*state, &o, 5, b);
    assert_string_not_equal(a, b);
}

static int capture_noise(const hook_point *p, const hook_data *d, void *user, err *e)
{
    if (p->kind == HOOK_LATENTS && p->step == 0)
        return op_download((float *)user + p->block * tensor_count(d->value), d->value, e);
    return 0;
}

/* Draws by clip are one torch.randn of everything; draws by block are generators of their own. */
static void test_draws(void **state)
{
    parts *p = *state;
    causal_options o = small();
    enum { FRAME = 16 * 4, N = 9 * FRAME };
    float seen[N], all[N];
    hooks h = { 0 };
    rng_cpu g;
    sha256 ignored;
    sha256_init(&ignored);
    o.total = 9;
    OK(hooks_observe(&h, (hook_observer){ want_all, capture_noise, seen }, &E));
    for (int by_clip = 0; by_clip < 2; by_clip++) {
        o.draws = by_clip ? CAUSAL_DRAW_CLIP : CAUSAL_DRAW_BLOCK;
        causal *c = clip_new(p, &o);
        go(p, c, 3, false, &h, &ignored);
        causal_free(c);
        rng_cpu_seed(&g, o.seed);
        rng_cpu_normal(&g, all, N);
        for (int k = 0; k < 3 && !by_clip; k++) {
            rng_cpu_seed(&g, o.seed + (uint64_t)(3 * k));
            rng_cpu_normal(&g, all + k * 3 * FRAME, 3 * FRAME);
        }
        for (int f = 0; f < 9; f++)
            for (int ch = 0; ch < 16; ch++)
                assert_memory_equal(seen + f / 3 * 3 * FRAME + (ch * 3 + f % 3) * 4, all + f * FRAME + ch * 4, 4 * sizeof(float));
    }
}

static int same_noise(int64_t block, int draw, float *out, int64_t n, void *user, err *e)
{
    (void)block, (void)user, (void)e;
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((i * 7 + draw * 13) % 29) / 14.0f - 1;
    return 0;
}

/* Behind the table's end a clip begins afresh: with the same noise, the same latents as at the beginning. */
static void test_hard_cut(void **state)
{
    parts *p = *state;
    causal_options o = small();
    tensor first, t;
    o.block = o.sink = 512;
    o.window = 1024;
    o.n_steps = 1;
    o.noise = same_noise;
    causal *c = clip_new(p, &o);
    OK(causal_prompt(c, &p->context[0], NULL, &E));
    OK(causal_block(c, NULL, &first, &E));
    OK(causal_block(c, NULL, &t, &E));
    assert_memory_not_equal(first.data, t.data, (size_t)tensor_bytes(&t));
    tensor_free(&t);
    assert_int_equal(causal_block(c, NULL, &t, &E), ERR_CONFIG);
    assert_non_null(strstr(E.text, "the model's rotary table ends after 1024: stop here, or set causal.hard_cut to true"));
    causal_free(c);
    o.hard_cut = true;
    c = clip_new(p, &o);
    OK(causal_prompt(c, &p->context[0], NULL, &E));
    for (int k = 0; k < 3; k++) {
        OK(causal_block(c, NULL, &t, &E));
        if (k == 2)
            assert_memory_equal(first.data, t.data, (size_t)tensor_bytes(&t));
        tensor_free(&t);
    }
    assert_int_equal(causal_frames(c), 3 * 512);
    tensor_free(&first);
    causal_free(c);
}

static void test_unwarped(void **state)
{
    (void)state;
    causal_options o = small();
    schedule s;
    o.n_steps = 4;
    o.steps[1] = 750;
    OK(causal_schedule(&s, &o, &E));
    assert_true(s.timesteps[0] == 1000 && s.timesteps[1] == 937.5 && (float)s.timesteps[2] == 833.33331f && s.timesteps[3] == 625);
    schedule_release(&s);
    o.warp = false;
    OK(causal_schedule(&s, &o, &E));
    assert_true(s.timesteps[1] == 750 && s.sigmas[1] == 0.75000006f && s.sigmas[2] == 0.50059956f && s.sigmas[3] == 0.25159743f && s.sigmas[4] == 0);
    schedule_release(&s);
}

/* ---- sentences ---- */

static void refused(const causal_options *o, const char *text)
{
    E = (err){ 0 };
    assert_int_equal(causal_check(o, &E), ERR_CONFIG);
    if (!strstr(E.text, text))
        fail_msg("'%s' does not say '%s'", E.text, text);
}

static void test_options(void **state)
{
    (void)state;
    causal_options o = small();
#define WITH(change, text) do { o = small(); change; refused(&o, text); } while (0)
    WITH(o.height = 3, "multiples of 16 pixels");
    WITH(o.block = 0, "causal.frames_per_block is 0: at least 1");
    WITH(o.sink = 4, "causal.sink is 4 latent frames with blocks of 3: the sink must fit in the first block, so 0 to 3");
    WITH(o.window = 4, "causal.window is 4 latent frames, but a sink of 2 and a block of 3 need at least 5; -1 keeps the whole clip");
    WITH(o.window = 2000, "at most 1024");
    WITH(o.window = -1, "causal.window -1 keeps the whole clip of 0 latent frames: 3 to 1024");
    WITH(o.total = 20, "no multiple of causal.frames_per_block 3: the nearest lengths are 69 and 81 video frames");
    WITH(o.total = 1026, "rotary table ends after 1024: make at most 4089 video frames, or set causal.hard_cut");
    WITH(o.draws = CAUSAL_DRAW_CLIP, "its length must be known");
    WITH(o.n_steps = 0, "0 steps a block: 1 to 64");
    WITH(o.steps[1] = 1000, "entry 1 is 1000: the entries must fall");
    WITH(o.shift = 0, "sampling.shift is 0");
    WITH(o.context_noise = -1, "causal.context_noise is -1: a timestep from 0 to 1000");
}

static void load_says(parts *p, const causal_options *o, const char *path, const char *identity, int kind, const char *text)
{
    causal *c = clip_new(p, o);
    E = (err){ 0 };
    int rc = causal_load(c, path, identity, &E);
    if (rc != kind || !strstr(E.text, text))
        fail_msg("%d '%s', expected %d '%s'", rc, E.text, kind, text);
    tensor t;
    causal_prompt_again(c, &p->context[0]);
    assert_int_equal(causal_block(c, NULL, &t, &E), ERR_INTERNAL);      /* half-loaded clips go nowhere */
    causal_free(c);
}

static void rewrite(const char *path, const char *from, size_t at, size_t keep, char x)
{
    char *text;
    size_t len;
    OK(fs_read_text(&text, &len, from, &E));
    if (at < len)
        text[at] ^= x;
    OK(fs_write_atomic(path, text, keep < len ? keep : len, &E));
    free(text);
}

static void test_damaged_state(void **state)
{
    parts *p = *state;
    causal_options o = small();
    sha256 sum;
    char *good = state_path("good.safetensors"), *bad = state_path("bad.safetensors");
    causal *c = clip_new(p, &o);
    sha256_init(&sum);
    go(p, c, 4, true, NULL, &sum);
    OK(causal_save(c, good, "model A", &E));
    E = (err){ 0 };
    assert_int_equal(causal_save(c, "/nonexistent/folder/state", "model A", &E), ERR_IO);
    assert_non_null(strstr(E.text, "check that the folder exists and is writable"));
    causal_free(c);
    load_says(p, &o, good, "model B", ERR_CONFIG, "the state belongs to another clip: its identity is 'model A', expected 'model B'");
    causal_options other = o;
    other.seed++;
    load_says(p, &other, good, "model A", ERR_CONFIG, "use the settings it was made with");
    other = o;
    other.sink = 1;
    load_says(p, &other, good, "model A", ERR_CONFIG, "its options is");
    load_says(p, &o, "/nonexistent/state", "model A", ERR_IO, "/nonexistent/state");
    size_t len;
    char *text;
    OK(fs_read_text(&text, &len, good, &E));
    free(text);
    for (size_t at = 3000; at < len; at += len / 9) {      /* anywhere behind the header's beginning */
        rewrite(bad, good, at, len, 1);
        load_says(p, &o, bad, "model A", ERR_FORMAT, "bad.safetensors");
    }
    rewrite(bad, good, len - 3, len, 1);
    load_says(p, &o, bad, "model A", ERR_FORMAT, "the state of the clip is damaged");
    rewrite(bad, good, len, len - 10, 0);
    load_says(p, &o, bad, "model A", ERR_FORMAT, "bad.safetensors");
    load_says(p, &o, "tests/golden/wan-tiny/golden.safetensors", "model A", ERR_FORMAT, "this is no state of a causal clip");
    c = clip_new(p, &o);
    OK(causal_load(c, good, "model A", &E));
    assert_int_equal(causal_pixels(c), 45);
    causal_free(c);
    free(good);
    free(bad);
}

/* ---- a control video, through the engine ---- */

enum { SIDE = 32, BLOCKS = 8, FRAMES = 12 * BLOCKS - 3 };

/* the tiny model as LongLive, with hint blocks that are copies of its own blocks */
static engine *open_hinted(void)
{
    fix whole, part = { .n = 0 };
    engine *g;
    engine_options o = ENGINE_OPTIONS_INIT;
    float noise[48 * 96 * 4];
    char name[200], model[600], vace[600], *config;
    size_t len;
    snprintf(model, sizeof model, "%s", tmp_path("longlive"));
    snprintf(vace, sizeof vace, "%s", tmp_path("vace.safetensors"));
    fs_mkdirs(model, NULL);
    fix_read(&whole, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors");
    fix_write(&whole, tmp_path("longlive/longlive_base.safetensors"));
    OK(fs_read_text(&config, &len, "tests/golden/wan-tiny/config.json", &E));
    OK(fs_write_atomic(tmp_path("longlive/config.json"), config, len, &E));
    free(config);
    for (int i = 0; i < whole.n; i++)
        if (str_starts_with(whole.t[i].name, "blocks.")) {
            int64_t n;
            float *v = fix_values(&whole, whole.t[i].name, &n);
            snprintf(name, sizeof name, "vace_%s", whole.t[i].name);
            fix_put(&part, name, DT_F32, v, whole.t[i].ndim, whole.t[i].shape);
            free(v);
        }
    fix_noise(noise, 48 * 96 * 4, 21, 0.3f);
    FIX_PUT(&part, "vace_patch_embedding.weight", DT_F32, noise, 48, 96, 1, 2, 2);
    FIX_PUT(&part, "vace_patch_embedding.bias", DT_F32, noise, 48);
    FIX_PUT(&part, "vace_blocks.0.before_proj.weight", DT_F32, noise + 100, 48, 48);
    FIX_PUT(&part, "vace_blocks.0.before_proj.bias", DT_F32, noise, 48);
    for (int k = 0; k < 2; k++) {
        snprintf(name, sizeof name, "vace_blocks.%d.after_proj.weight", k);
        FIX_PUT(&part, name, DT_F32, noise + 200 + k, 48, 48);
        snprintf(name, sizeof name, "vace_blocks.%d.after_proj.bias", k);
        FIX_PUT(&part, name, DT_F32, noise + 300, 48);
    }
    fix_write(&part, vace);
    fix_release(&part);
    fix_release(&whole);
    o.model = model;
    o.t5 = "tests/golden/wan-tiny/models_t5_umt5-xxl-enc-bf16.pth";
    o.vae = "tests/golden/wan-tiny/Wan2.1_VAE.pth";
    o.vace = vace;
    o.lora = "none";
    o.device = "cpu";
    OK(engine_open(&g, &o, &E));
    return g;
}

/* Makes blocks up to `until`. */
static void follow(engine_clip *c, int64_t until, sha256 *sum)
{
    while (engine_clip_blocks(c) < until) {
        tensor t;
        OK(engine_clip_next(c, NULL, &t, &E));
        sha256_add(sum, t.data, (size_t)tensor_bytes(&t));
        OK(engine_clip_decode(c, &t, add_frame, sum, &E));
        tensor_free(&t);
    }
}

static engine_clip *follower_new(engine *g, run_params *r, const vace_inputs *in)
{
    engine_clip *c;
    OK(engine_vace_encode(g, in, &r->vace, &E));
    OK(engine_clip_begin(&c, g, r, &E));
    return c;
}

/* A clip that goes on from a state has no history of the control's encoder: the frames before are encoded again, to the same bytes. The
 * latents of the clip and the decoder's history are those of a clip without interruption. */
static void test_control(void **state)
{
    (void)state;
    const int32_t ids[16] = { 5, 9, 1 };
    const double guidance = 1;
    const int64_t from_start = 0;
    engine *g = open_hinted();
    prompt *text;
    causal_options o = small();
    run_params r = RUN_PARAMS_INIT;
    float *control = malloc(3 * FRAMES * SIDE * SIDE * sizeof *control), *mask = malloc(FRAMES * SIDE * SIDE * sizeof *mask);
    char whole[3][65], again[65], *path = state_path("control.safetensors");
    fix_noise(control, 3 * FRAMES * SIDE * SIDE, 5, 1);
    fix_noise(mask, FRAMES * SIDE * SIDE, 6, 1);
    OK(engine_encode_ids(g, ids, 16, 3, &text, &E));
    r.width = r.height = SIDE;
    r.frames = FRAMES;
    r.steps = o.n_steps;
    r.seed = o.seed;
    r.guidance = &guidance;
    r.n_guidance = r.n_cond = 1;
    r.cond = (const prompt *const *)&text;
    r.prompt_at = &from_start;
    r.causal = &o;
    for (int kind = 0; kind < 3; kind++) {      /* a control, a control with a mask, none */
        vace_inputs in = { SIDE, SIDE, FRAMES, 0, NULL, kind < 2 ? control : NULL, kind == 1 ? mask : NULL };
        sha256 a, b;
        sha256_init(&a);
        engine_clip *c = follower_new(g, &r, &in), *d;
        vace_condition *of_c = r.vace;
        for (int64_t k = 1; k < BLOCKS; k++) {
            follow(c, k, &a);
            OK(engine_clip_save(c, path, "test", &E));
            b = a;
            d = follower_new(g, &r, &in);
            OK(engine_clip_load(d, path, "test", &E));
            assert_int_equal(engine_clip_blocks(d), k);
            follow(d, BLOCKS, &b);
            finish(&b, k == 1 ? whole[kind] : again);
            if (k > 1)
                assert_string_equal(whole[kind], again);
            engine_clip_end(d);
            vace_condition_free(r.vace);
            r.vace = of_c;
        }
        follow(c, BLOCKS, &a);
        finish(&a, again);
        assert_string_equal(whole[kind], again);
        engine_clip_end(c);
        OK(engine_clip_begin(&c, g, &r, &E));      /* the next run has its conditions from this one */
        sha256_init(&a);
        follow(c, BLOCKS, &a);
        finish(&a, again);
        assert_string_equal(whole[kind], again);
        engine_clip_end(c);
        vace_condition_free(of_c);
        for (int i = 0; i < kind; i++)
            assert_string_not_equal(whole[i], whole[kind]);
    }
    prompt_free(text);
    engine_close(g);
    free(control);
    free(mask);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume), cmocka_unit_test(test_hooks), cmocka_unit_test(test_not_finite), cmocka_unit_test(test_window), cmocka_unit_test(test_draws),
        cmocka_unit_test(test_hard_cut), cmocka_unit_test(test_unwarped), cmocka_unit_test(test_options), cmocka_unit_test(test_damaged_state),
        cmocka_unit_test(test_control),
    };
    return cmocka_run_group_tests(tests, open_parts, close_parts);
}
