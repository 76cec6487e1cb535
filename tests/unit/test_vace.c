/* VACE through the engine: the reference's numbers, scale 0, parts of a release, faults. */
#include <math.h>

#include "tests/unit/weights_fixture.h"

#include "core/engine_internal.h"

#define TRY_SKIP(path) do { if (!fs_exists(path)) skip(); } while (0)

static char *golden(const char *name)
{
    static char paths[8][600];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, 600, "%s/%s", goldens(), name);
    return p;
}

/* the VACE golden's model with the text encoder and VAE of the T2V golden */
static int open_vace(engine **g, const char *dit, const char *vace, err *e)
{
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = golden("wan-vace");
    o.dit = dit;
    o.vace = vace;
    o.t5 = golden("wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
    o.vae = golden("wan-t2v/Wan2.1_VAE.pth");
    o.device = "cpu";
    o.threads = 2;
    return engine_open(g, &o, e);
}

typedef struct inputs {
    fix f;
    float *frames, *mask, *refs[2], *text;
} inputs;

static void inputs_read(inputs *in)
{
    int64_t n;
    fix_read(&in->f, golden("wan-vace/golden.safetensors"));
    in->frames = fix_values(&in->f, "frames", &n);
    in->mask = fix_values(&in->f, "mask", &n);
    in->refs[0] = fix_values(&in->f, "ref0", &n);
    in->refs[1] = fix_values(&in->f, "ref1", &n);
    in->text = fix_values(&in->f, "text", &n);
    assert_int_equal(n, 7 * 96);
}

static void inputs_free(inputs *in)
{
    free(in->frames);
    free(in->mask);
    free(in->refs[0]);
    free(in->refs[1]);
    free(in->text);
    fix_release(&in->f);
}

static prompt *prompt_of(engine *g, const float *rows)
{
    const int32_t ids[48] = { 5, 9, 7, 3, 4, 8, 1 };
    prompt *p;
    DO(engine_encode_ids(g, ids, 48, 7, &p, e));
    assert_int_equal(prompt_dim(p), 96);
    memcpy(prompt_rows(p), rows, 7 * 96 * sizeof *rows);
    return p;
}

/* puts the reference's latents before the second step, whose timestep is the reference's, and takes the velocity there */
typedef struct probe {
    const float *x;
    float *velocity;
    double timestep;
} probe;

static bool at_latents(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_LATENTS && p->step == 1;
}

static int put(const hook_point *p, tensor *value, const attn_args *a, void *user, err *e)
{
    (void)p;
    (void)a;
    return op_upload(value, ((probe *)user)->x, e);
}

static bool at_velocity(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_VELOCITY && p->step == 1;
}

static int take(const hook_point *p, const hook_data *d, void *user, err *e)
{
    probe *t = user;
    t->timestep = p->timestep;
    t->velocity = malloc((size_t)tensor_bytes(d->value));
    return op_download_f32(t->velocity, d->value, e);
}

static double difference(const float *a, const float *b, int64_t n)
{
    double worst = 0, top = 0;
    for (int64_t i = 0; i < n; i++) {
        worst = fmax(worst, isfinite(a[i]) ? fabs((double)a[i] - b[i]) : INFINITY);
        top = fmax(top, fabs((double)b[i]));
    }
    return worst / top;
}

static const double ONE = 1;

static run_params params(const prompt *const *p)
{
    run_params r = RUN_PARAMS_INIT;
    r.width = 64;
    r.height = 48;
    r.frames = 9;
    r.seed = 5;
    r.steps = 2;
    r.shift = 2.5958;      /* the second timestep is 721 */
    r.cond = p;
    r.n_cond = 1;
    r.guidance = &ONE;
    r.n_guidance = 1;
    return r;
}

static float *run(engine *g, const run_params *r, const hooks *h, int64_t *n)
{
    tensor t = { 0 };
    err e = { 0 };
    if (engine_run(g, r, h, &t, &e))
        fail_msg("%s", e.text);
    assert_int_equal(t.shape[1], 3);      /* without the frames of references */
    *n = tensor_count(&t);
    float *host = malloc((size_t)*n * sizeof *host);
    DO(op_download_f32(host, &t, e));
    tensor_free(&t);
    return host;
}

static void test_goldens(void **state)
{
    (void)state;
    static const struct { const char *name; bool frames, mask; int refs; double scale; } CASES[] = {
        { "depth", true, false, 0, 0.8 }, { "masked", true, true, 0, 0.8 }, { "r2v", false, false, 2, 1 }, { "masked_r2v", true, true, 1, 0.8 },
    };
    engine *g;
    inputs in;
    TRY_SKIP(golden("wan-vace/golden.safetensors"));
    inputs_read(&in);
    DO(open_vace(&g, NULL, NULL, e));
    prompt *p = prompt_of(g, in.text);
    for (int k = 0; k < 4; k++) {
        char key[40];
        int64_t n, m;
        vace_condition *c;
        vace_inputs v = { 64, 48, 9, CASES[k].refs, (const float *const *)in.refs, CASES[k].frames ? in.frames : NULL, CASES[k].mask ? in.mask : NULL };
        DO(engine_vace_encode(g, &v, &c, e));
        snprintf(key, sizeof key, "%s.context", CASES[k].name);
        float *want = fix_values(&in.f, key, &n), *ours = malloc((size_t)n * sizeof *ours);
        assert_int_equal(n, tensor_count(vace_condition_context(c)));
        DO(op_download_f32(ours, vace_condition_context(c), e));
        assert_true(difference(ours, want, n) < 1e-5);
        free(want);
        free(ours);

        run_params r = params((const prompt *const *)&p);
        probe t = { 0 };
        hooks h = { 0 };
        snprintf(key, sizeof key, "%s.x", CASES[k].name);
        float *x = fix_values(&in.f, key, &n);
        t.x = x;
        DO(hooks_edit(&h, (hook_editor){ at_latents, put, &t }, e));
        DO(hooks_observe(&h, (hook_observer){ at_velocity, take, &t }, e));
        r.vace = c;
        r.vace_references = CASES[k].refs;
        r.vace_scale = &CASES[k].scale;
        r.n_vace_scale = 1;
        float *latents = run(g, &r, &h, &m);
        assert_true(t.timestep == 721);
        snprintf(key, sizeof key, "%s.out", CASES[k].name);
        want = fix_values(&in.f, key, &m);
        assert_int_equal(n, m);
        assert_true(difference(t.velocity, want, n) < 1e-5);
        free(want);
        free(t.velocity);
        free(x);
        free(latents);
        vace_condition_free(c);
    }
    prompt_free(p);
    engine_close(g);
    inputs_free(&in);
}

static void test_scales(void **state)
{
    (void)state;
    engine *g;
    inputs in;
    int64_t n;
    vace_condition *c;
    TRY_SKIP(golden("wan-vace/golden.safetensors"));
    inputs_read(&in);
    DO(open_vace(&g, NULL, NULL, e));
    prompt *p = prompt_of(g, in.text);
    vace_inputs v = { 64, 48, 9, 1, (const float *const *)in.refs, in.frames, NULL };
    DO(engine_vace_encode(g, &v, &c, e));
    const double zero = 0, zeros[2] = { 0, 0 }, ones[2] = { 1, 1 }, half = 0.5, halves[2] = { 0.5, 0.5 }, first[2] = { 1, 0 };
    run_params plain = params((const prompt *const *)&p), r = plain;
    float *want = run(g, &plain, NULL, &n), *one, *other;
    const size_t bytes = (size_t)n * sizeof *want;
    r.vace = c;
    r.vace_references = 1;
    /* scale 0, at once, in every step, or in every block: the video without */
    for (int k = 0; k < 3; k++) {
        r.vace_scale = k == 1 ? zeros : k == 0 ? &zero : NULL;
        r.n_vace_scale = k == 1 ? 2 : k == 0;
        r.vace_block_scale = k == 2 ? zeros : NULL;
        one = run(g, &r, NULL, &n);
        assert_memory_equal(one, want, bytes);
        free(one);
    }
    r.vace_block_scale = NULL;
    r.n_vace_scale = 0;
    one = run(g, &r, NULL, &n);
    assert_memory_not_equal(one, want, bytes);
    r.vace_block_scale = ones;
    other = run(g, &r, NULL, &n);
    assert_memory_equal(one, other, bytes);      /* factors of 1 are none */
    free(other);
    r.vace_block_scale = first;
    other = run(g, &r, NULL, &n);
    assert_memory_not_equal(one, other, bytes);
    free(other);
    free(one);
    /* a scale is the same for all blocks and steps, or for each */
    r.vace_block_scale = NULL;
    r.vace_scale = &half;
    r.n_vace_scale = 1;
    one = run(g, &r, NULL, &n);
    r.vace_scale = halves;
    r.n_vace_scale = 2;
    other = run(g, &r, NULL, &n);
    assert_memory_equal(one, other, bytes);
    free(other);
    r.n_vace_scale = 0;
    r.vace_block_scale = halves;
    other = run(g, &r, NULL, &n);
    assert_memory_equal(one, other, bytes);
    free(other);
    /* watching changes nothing, also in steps with different scales */
    r.vace_block_scale = NULL;
    r.vace_scale = first;
    r.n_vace_scale = 2;
    other = run(g, &r, NULL, &n);
    assert_memory_not_equal(one, other, bytes);
    free(other);
    free(one);
    free(want);
    vace_condition_free(c);
    prompt_free(p);
    engine_close(g);
    inputs_free(&in);
}

/* a release split into its base and its vace_* tensors, put together again */
static void test_split(void **state)
{
    (void)state;
    inputs in;
    fix whole, base = { .n = 0 }, part = { .n = 0 };
    TRY_SKIP(golden("wan-vace/golden.safetensors"));
    inputs_read(&in);
    fix_read(&whole, golden("wan-vace/diffusion_pytorch_model.safetensors"));
    fs_mkdirs(tmp_path("base"), NULL);
    fs_mkdirs(tmp_path("part"), NULL);
    for (int i = 0; i < whole.n; i++) {
        fix *to = str_starts_with(whole.t[i].name, "vace_") ? &part : &base;
        to->t[to->n++] = whole.t[i];
    }
    fix_write(&base, tmp_path("base/diffusion_pytorch_model.safetensors"));
    fix_write(&part, tmp_path("part/vace_module.safetensors"));
    const char plain[] = "{\"model_type\":\"t2v\",\"num_heads\":2,\"text_len\":48,\"dim\":128}";
    DO(fs_write_atomic(tmp_path("base/config.json"), plain, strlen(plain), e));
    float *got[3];
    int64_t n = 0;
    for (int k = 0; k < 3; k++) {      /* whole; base and part; base and whole */
        engine *g;
        engine_info info;
        vace_condition *c;
        engine_options o = ENGINE_OPTIONS_INIT;
        o.model = k ? tmp_path("base") : golden("wan-vace");
        o.vace = k == 1 ? tmp_path("part/vace_module.safetensors") : k == 2 ? golden("wan-vace") : NULL;
        o.t5 = golden("wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
        o.vae = golden("wan-t2v/Wan2.1_VAE.pth");
        o.device = "cpu";
        DO(engine_open(&g, &o, e));
        DO(engine_get_info(g, true, &info, e));
        assert_string_equal(info.family, "vace");
        assert_int_equal(info.dit->n_vace_layers, 2);
        assert_int_equal(info.dit->vace_layers[1], 2);
        assert_int_equal(strlen(info.vace_digest), k ? 64 : 0);
        prompt *p = prompt_of(g, in.text);
        vace_inputs v = { 64, 48, 9, 2, (const float *const *)in.refs, in.frames, in.mask };
        DO(engine_vace_encode(g, &v, &c, e));
        run_params r = params((const prompt *const *)&p);
        r.vace = c;
        r.vace_references = 2;
        got[k] = run(g, &r, NULL, &n);
        vace_condition_free(c);
        prompt_free(p);
        engine_close(g);
    }
    assert_memory_equal(got[0], got[1], (size_t)n * sizeof(float));
    assert_memory_equal(got[0], got[2], (size_t)n * sizeof(float));
    for (int k = 0; k < 3; k++)
        free(got[k]);

    /* what is no VACE file, or not one for this base */
    err e = { 0 };
    engine *g;
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = tmp_path("base");
    o.device = "cpu";
    o.vace = tmp_path("base");
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_text_has(e.text, "no VACE weights found");
    assert_text_has(e.text, "plain base model, which belongs into model.path");
    o.vace = tmp_path("missing.safetensors");
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_text_has(e.text, "missing.safetensors");
    fix_tensor *t = fix_find(&part, "vace_patch_embedding.weight");
    memset(t->data, 0, t->bytes);
    fix_write(&part, tmp_path("part/zero.safetensors"));
    o.vace = tmp_path("part/zero.safetensors");
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_text_has(e.text, "nothing but zeros");
    o.vace = tmp_path("part/vace_module.safetensors");
    o.model = "tests/golden/wan-tiny";
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_text_has(e.text, "vace_patch_embedding.weight does not fit the model");
    o.dit = o.dit_low = "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors";
    assert_int_not_equal(engine_open(&g, &o, &e), 0);
    assert_text_has(e.text, "is a pair of experts");
    fix_release(&whole);
    inputs_free(&in);
}

/* conditions are cut along with context windows; references, which stand before the whole video, are refused */
static void test_windows(void **state)
{
    (void)state;
    engine *g;
    inputs in;
    int64_t n;
    vace_condition *c, *with;
    err e = { 0 };
    tensor t;
    TRY_SKIP(golden("wan-vace/golden.safetensors"));
    inputs_read(&in);
    DO(open_vace(&g, NULL, NULL, e));
    prompt *p = prompt_of(g, in.text);
    vace_inputs v = { 64, 48, 9, 0, NULL, in.frames, in.mask };
    DO(engine_vace_encode(g, &v, &c, e));
    v.n_references = 1;
    v.references = (const float *const *)in.refs;
    DO(engine_vace_encode(g, &v, &with, e));
    const double zero = 0;
    run_windows two = { 2, 1, WINDOWS_STATIC, 1, false, FUSE_FLAT }, whole = { 3, 1, WINDOWS_STATIC, 1, false, FUSE_FLAT };
    run_params r = params((const prompt *const *)&p);
    r.windows = &two;
    float *plain = run(g, &r, NULL, &n);
    const size_t bytes = (size_t)n * sizeof *plain;
    r.vace = c;
    float *steered = run(g, &r, NULL, &n);
    assert_memory_not_equal(plain, steered, bytes);
    r.vace_scale = &zero;
    r.n_vace_scale = 1;
    float *off = run(g, &r, NULL, &n);
    assert_memory_equal(plain, off, bytes);
    r.n_vace_scale = 0;
    r.windows = &whole;      /* one window: the run without, conditions and all */
    float *one = run(g, &r, NULL, &n);
    r.windows = NULL;
    float *none = run(g, &r, NULL, &n);
    assert_memory_equal(one, none, bytes);
    assert_memory_not_equal(steered, none, bytes);
    r.windows = &two;
    r.vace = with;
    r.vace_references = 1;
    assert_int_equal(engine_run(g, &r, NULL, &t, &e), ERR_CONFIG);
    assert_text_has(e.text, "context windows and VACE references exclude each other");
    float *const all[] = { plain, steered, off, one, none };
    for (int i = 0; i < 5; i++)
        free(all[i]);
    vace_condition_free(c);
    vace_condition_free(with);
    prompt_free(p);
    engine_close(g);
    inputs_free(&in);
}

/* adapters reach the hint blocks too, whether these lie with the base or in a file of their own */
static void test_adapter(void **state)
{
    (void)state;
    inputs in;
    fix whole, part = { .n = 0 }, adapter = { .n = 0 };
    float *down = malloc(2 * 128 * sizeof *down), *up = malloc(128 * 2 * sizeof *up), *w, *got[4];
    int64_t n;
    TRY_SKIP(golden("wan-vace/golden.safetensors"));
    inputs_read(&in);
    fix_noise(down, 2 * 128, 11, 0.3f);
    fix_noise(up, 128 * 2, 12, 0.3f);
    FIX_PUT(&adapter, "vace_blocks.1.self_attn.v.lora_A.weight", DT_F32, down, 2, 128);
    FIX_PUT(&adapter, "vace_blocks.1.self_attn.v.lora_B.weight", DT_F32, up, 128, 2);
    fix_write(&adapter, tmp_path("hints.safetensors"));
    fix_release(&adapter);
    fix_read(&whole, golden("wan-vace/diffusion_pytorch_model.safetensors"));
    for (int i = 0; i < whole.n; i++)
        if (str_starts_with(whole.t[i].name, "vace_"))
            part.t[part.n++] = whole.t[i];
    fs_mkdirs(tmp_path("hints"), NULL);
    fs_mkdirs(tmp_path("merged"), NULL);
    fix_write(&part, tmp_path("hints/vace_module.safetensors"));
    w = fix_values(&whole, "vace_blocks.1.self_attn.v.weight", &n);
    assert_int_equal(n, 128 * 128);
    for (int r = 0; r < 128; r++)
        for (int c = 0; c < 128; c++) {
            float sum = 0;
            for (int k = 0; k < 2; k++)
                sum += up[r * 2 + k] * down[k * 128 + c];
            w[r * 128 + c] += 0.5f * sum;
        }
    FIX_PUT(&whole, "vace_blocks.1.self_attn.v.weight", DT_F32, w, 128, 128);
    fix_write(&whole, tmp_path("merged/diffusion_pytorch_model.safetensors"));
    char *config;
    size_t len;
    DO(fs_read_text(&config, &len, golden("wan-vace/config.json"), e));
    DO(fs_write_atomic(tmp_path("merged/config.json"), config, len, e));
    free(config);
    engine_lora l = { tmp_path("hints.safetensors"), 0.5, LORA_BOTH, NULL, NULL, NULL };
    for (int k = 0; k < 4; k++) {      /* without; with; hints in their own file; merged by hand */
        engine *g;
        vace_condition *c;
        engine_options o = ENGINE_OPTIONS_INIT;
        o.model = k == 3 ? tmp_path("merged") : golden("wan-vace");
        o.vace = k == 2 ? tmp_path("hints/vace_module.safetensors") : NULL;
        o.t5 = golden("wan-t2v/models_t5_umt5-xxl-enc-bf16.pth");
        o.vae = golden("wan-t2v/Wan2.1_VAE.pth");
        o.device = "cpu";
        o.loras = k == 1 || k == 2 ? &l : NULL;
        o.n_loras = k == 1 || k == 2;
        DO(engine_open(&g, &o, e));
        prompt *p = prompt_of(g, in.text);
        vace_inputs v = { 64, 48, 9, 1, (const float *const *)in.refs, in.frames, in.mask };
        DO(engine_vace_encode(g, &v, &c, e));
        run_params r = params((const prompt *const *)&p);
        r.vace = c;
        r.vace_references = 1;
        got[k] = run(g, &r, NULL, &n);
        vace_condition_free(c);
        prompt_free(p);
        engine_close(g);
    }
    assert_memory_not_equal(got[0], got[1], (size_t)n * sizeof(float));
    assert_memory_equal(got[1], got[2], (size_t)n * sizeof(float));
    assert_memory_equal(got[1], got[3], (size_t)n * sizeof(float));
    for (int k = 0; k < 4; k++)
        free(got[k]);
    free(down);
    free(up);
    free(w);
    fix_release(&whole);
    inputs_free(&in);
}

static void test_faults(void **state)
{
    (void)state;
    err e = { 0 };
    engine *g;
    vace_condition *c;
    engine_options o = ENGINE_OPTIONS_INIT;
    float *values = calloc(3 * 5 * 32 * 32, sizeof *values);
    const float *refs[1] = { values };
    o.model = "tests/golden/wan-tiny";
    o.device = "cpu";
    DO(engine_open(&g, &o, e));
    vace_inputs v = { 32, 32, 5, 1, refs, values, NULL };
    assert_int_equal(engine_vace_encode(g, &v, &c, &e), ERR_CONFIG);
    assert_text_has(e.text, "has no VACE weights: set model.vace");
    engine_close(g);
    if (fs_exists(golden("wan-vace/golden.safetensors"))) {
        DO(open_vace(&g, NULL, NULL, e));
        values[2 * 32 * 32 + 7] = NAN;
        assert_int_equal(engine_vace_encode(g, &v, &c, &e), ERR_NAN);
        assert_text_has(e.text, "the control video holds NaN or infinity in frame 2");
        values[2 * 32 * 32 + 7] = 0;
        values[9] = INFINITY;
        v.control = NULL;
        v.mask = values;
        assert_int_equal(engine_vace_encode(g, &v, &c, &e), ERR_NAN);
        assert_text_has(e.text, "the mask holds NaN or infinity in frame 0");
        v.mask = NULL;
        assert_int_equal(engine_vace_encode(g, &v, &c, &e), ERR_NAN);
        assert_text_has(e.text, "reference 0 holds NaN or infinity");
        v.width = 40;
        assert_int_equal(engine_vace_encode(g, &v, &c, &e), ERR_CONFIG);
        assert_text_has(e.text, "multiples of 16");
        engine_close(g);
    }
    free(values);
}

static int make(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

/* What a block of a causal clip is told: its own frames, references in place of the first of them, beside a control in block 0 only. */
static void test_blocks(void **state)
{
    (void)state;
    enum { T = 6, PLANE = 4, N = 3 };
    engine g = { .be = NULL };
    tensor t;
    float *v;
    vace_condition c = { .latent_frames = T, .done = T, .plane = PLANE, .width = 16, .height = 16, .frames = 4 * T - 3, .n_references = 2 };
    DO(backend_open(&g.be, "cpu", e));
    c.latents = malloc(32 * T * PLANE * sizeof(float));
    c.references = malloc(16 * 2 * PLANE * sizeof(float));
    float *folded = malloc(64 * T * PLANE * sizeof(float));
    for (int k = 0; k < 96; k++)
        for (int f = 0; f < T; f++)
            for (int i = 0; i < PLANE; i++)
                *(k < 32 ? &c.latents[(f * 32 + k) * PLANE + i] : &folded[(f * 64 + k - 32) * PLANE + i]) = (float)(1000 * k + 10 * f + i);
    for (int i = 0; i < 16 * 2 * PLANE; i++)
        c.references[i] = (float)-1 - (float)i;
    for (int controlled = 0; controlled < 2; controlled++)
        for (int first = 0; first < T; first += N) {
            int shown = controlled && first ? 0 : 2;
            c.controlled = controlled;
            c.folded = controlled ? folded : NULL;
            DO(vace_condition_block(&c, &g, first, N, &t, e));
            assert_true(t.ndim == 4 && t.shape[0] == 96 && t.shape[1] == N && t.shape[2] == 2 && t.shape[3] == 2);
            v = t.data;
            for (int k = 0; k < 96; k++)
                for (int f = 0; f < N; f++)
                    for (int i = 0; i < PLANE; i++) {
                        float said = k < 32 || controlled ? (float)(1000 * k + 10 * (first + f) + i) : 1;      /* no mask: made everywhere */
                        float want = f >= shown ? said : k < 16 ? (float)-1 - (float)((f * 16 + k) * PLANE + i) : 0.0f;
                        assert_true(v[(k * N + f) * PLANE + i] == want);
                    }
            tensor_free(&t);
        }
    free(c.latents);
    free(c.references);
    free(folded);
    backend_close(g.be);
}

/* ---- conditions that are encoded block by block ---- */

enum { SW = 48, SH = 32, ST = 10, SF = 4 * ST - 3, SPLANE = SH / 8 * (SW / 8) };

/* what a causal engine has of its own in this, with the VAE of the tiny model */
static void causal_engine(engine *g, ckpt **file)
{
    *g = (engine){ .causal = true, .dit_cfg = { .n_vace_layers = 1, .vace_in_dim = 96, .out_dim = 16 } };
    DO(backend_open(&g->be, "cpu", e));
    DO(precision_find(&g->prec, "exact", e));
    DO(ckpt_open(file, "tests/golden/wan-tiny/Wan2.1_VAE.pth", e));
    DO(ckpt_normalise(*file, CKPT_VAE, e));
    g->vae_file = *file;
    DO(engine_need_vae(g, e));
}

static void causal_engine_close(engine *g)
{
    vae_close(g->vae);
    ckpt_close(g->vae_file);
    backend_close(g->be);
}

typedef struct film {
    float *control, *mask;
    int64_t next_control, next_mask, bad;      /* frames asked for; the frame that cannot be read, or -1 */
} film;

static int film_control(int64_t first, int64_t n, float *out, void *user, err *e)
{
    film *f = user;
    assert_int_equal(first, f->next_control);      /* once each, in their order */
    f->next_control += n;
    if (f->bad >= 0 && f->next_control > f->bad)
        return ERR(e, ERR_IO, "frame %d is lost", (int)f->bad);
    for (int k = 0; k < 3; k++)
        memcpy(out + k * n * SW * SH, f->control + (k * SF + first) * SW * SH, (size_t)(n * SW * SH) * sizeof *out);
    return 0;
}

static int film_mask(int64_t first, int64_t n, float *out, void *user, err *e)
{
    film *f = user;
    (void)e;
    assert_int_equal(first, f->next_mask);
    f->next_mask += n;
    memcpy(out, f->mask + first * SW * SH, (size_t)(n * SW * SH) * sizeof *out);
    return 0;
}

static void film_new(film *f)
{
    *f = (film){ .control = malloc(3 * SF * SW * SH * sizeof(float)), .mask = malloc(SF * SW * SH * sizeof(float)), .bad = -1 };
    fix_noise(f->control, 3 * SF * SW * SH, 3, 1);
    fix_noise(f->mask, SF * SW * SH, 4, 0.5f);
    for (int i = 0; i < SF * SW * SH; i++)
        f->mask[i] += 0.5f;
}

static void film_free(film *f)
{
    free(f->control);
    free(f->mask);
}

/* Bit for bit what one pass over the whole clip gives, from memory and asked for piece by piece, also when a clip begins in the middle. */
static void test_stream(void **state)
{
    (void)state;
    engine g;
    ckpt *file;
    film f;
    tensor whole, t;
    float *grey = calloc(3 * SF * SW * SH, sizeof *grey);
    film_new(&f);
    causal_engine(&g, &file);
    for (int kind = 0; kind < 4; kind++)
        for (int asked = 0; asked < 2; asked++)
            for (int block = 1; block <= 5; block += 4) {
                const float *control = kind & 1 ? f.control : NULL, *mask = kind & 2 ? f.mask : NULL;
                vace_inputs in = { SW, SH, SF, 0, NULL, asked ? NULL : control, asked ? NULL : mask };
                vace_source from = { control ? film_control : NULL, mask ? film_mask : NULL, &f };
                vace_condition *c;
                f.next_control = f.next_mask = 0;
                DO(vace_context_build(&whole, g.vae, g.be, control ? control : grey, mask, SF, SH, SW, NULL, 0, e));
                DO(asked ? engine_vace_follow(&g, &in, &from, &c, e) : engine_vace_encode(&g, &in, &c, e));
                assert_int_equal(c->done, 0);      /* nothing waits for the length of the clip */
                assert_int_equal(f.next_control + f.next_mask, 0);
                for (int at = block == 5 ? 5 : 0; at < ST; at += block) {
                    DO(vace_condition_block(c, &g, at, block, &t, e));
                    assert_int_equal(c->done, at + block);
                    for (int k = 0; k < 96; k++)
                        assert_memory_equal((float *)t.data + k * block * SPLANE, (float *)whole.data + (k * ST + at) * SPLANE, block * SPLANE * sizeof(float));
                    tensor_free(&t);
                }
                assert_null(c->stream);
                if (asked && control)
                    assert_int_equal(f.next_control, SF);
                if (asked && mask)
                    assert_int_equal(f.next_mask, SF);
                DO(vace_condition_block(c, &g, 0, 2, &t, e));      /* the next run begins again: nothing is encoded twice */
                assert_memory_equal((float *)t.data + 2 * SPLANE, (float *)whole.data + ST * SPLANE, SPLANE * sizeof(float));
                tensor_free(&t);
                vace_condition_free(c);
                tensor_free(&whole);
            }
    free(grey);
    film_free(&f);
    causal_engine_close(&g);
}

/* Device memory is that of a block and two histories, whatever the length; the plan counts them. */
static void test_stream_memory(void **state)
{
    (void)state;
    engine g;
    ckpt *file;
    film f;
    vace_condition *c;
    tensor t;
    int64_t held = 0, peak = 0;
    causal_options o = CAUSAL_OPTIONS_INIT;
    run_params r = RUN_PARAMS_INIT;
    film_new(&f);
    causal_engine(&g, &file);
    const int64_t before = g.be->bytes_now;
    vace_inputs in = { SW, SH, SF, 0, NULL, f.control, f.mask };
    DO(engine_vace_encode(&g, &in, &c, e));
    for (int at = 0; at + 1 < ST; at++) {
        g.be->bytes_peak = 0;
        DO(vace_condition_block(c, &g, at, 1, &t, e));
        if (at == 3) {
            held = g.be->bytes_now - before;
            peak = g.be->bytes_peak;
        } else if (at > 3) {
            assert_true(llabs(g.be->bytes_now - before - held) < 4096 && llabs(g.be->bytes_peak - peak) < 4096);
        }
        tensor_free(&t);
    }
    r.width = SW;
    r.height = SH;
    r.frames = SF;
    r.causal = &o;
    r.vace = c;
    const int64_t shape[4] = { 16, ST, SH / 8, SW / 8 }, longer[4] = { 16, 1000, SH / 8, SW / 8 };
    int64_t counted = engine_condition_bytes(&g, &r, shape) - 4 * 96 * 2 * SPLANE;      /* blocks of one here */
    assert_int_equal(engine_condition_bytes(&g, &r, shape), engine_condition_bytes(&g, &r, longer));
    if (counted < held - held / 20 || counted > held + held / 20)
        fail_msg("%lld bytes are counted, %lld are held", (long long)counted, (long long)held);
    DO(vace_condition_block(c, &g, ST - 1, 1, &t, e));      /* the last frame: the histories go */
    assert_true(g.be->bytes_now - before < (int64_t)tensor_bytes(&t) + 4096);
    tensor_free(&t);
    vace_condition_free(c);
    r.causal = NULL;
    assert_int_equal(engine_condition_bytes(&g, &r, shape), 4 * 96 * ST * SPLANE);
    film_free(&f);
    causal_engine_close(&g);
}

static void test_stream_faults(void **state)
{
    (void)state;
    engine g;
    ckpt *file;
    film f;
    vace_condition *c;
    tensor t;
    err e = { 0 };
    film_new(&f);
    causal_engine(&g, &file);
    vace_inputs in = { SW, SH, SF, 0, NULL, NULL, NULL };
    vace_source from = { film_control, film_mask, &f };
    f.bad = 12;
    DO(engine_vace_follow(&g, &in, &from, &c, e));
    DO(vace_condition_block(c, &g, 0, 3, &t, e));
    tensor_free(&t);
    for (int again = 0; again < 2; again++) {      /* the sentence stays: a history with a hole in it goes nowhere */
        e = (err){ 0 };
        assert_int_equal(vace_condition_block(c, &g, 3, 3, &t, &e), ERR_IO);
        assert_text_has(e.text, "frame 12 is lost");
        assert_null(t.data);
    }
    vace_condition_free(c);
    f = (film){ f.control, f.mask, 0, 0, -1 };
    f.mask[11 * SW * SH + 5] = NAN;
    DO(engine_vace_follow(&g, &in, &from, &c, e));
    assert_int_equal(vace_condition_block(c, &g, 0, 4, &t, &e), ERR_NAN);
    assert_text_has(e.text, "the mask holds NaN or infinity in frame 11");
    vace_condition_free(c);
    in.control = f.control;
    in.mask = f.mask;
    assert_int_equal(engine_vace_encode(&g, &in, &c, &e), ERR_NAN);      /* what lies there is looked at before anything runs */
    assert_text_has(e.text, "the mask holds NaN or infinity in frame 11");
    g.causal = false;
    in.control = in.mask = NULL;
    assert_int_equal(engine_vace_follow(&g, &in, &from, &c, &e), ERR_INTERNAL);
    film_free(&f);
    causal_engine_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens), cmocka_unit_test(test_scales), cmocka_unit_test(test_split), cmocka_unit_test(test_adapter), cmocka_unit_test(test_windows),
        cmocka_unit_test(test_faults), cmocka_unit_test(test_blocks), cmocka_unit_test(test_stream), cmocka_unit_test(test_stream_memory), cmocka_unit_test(test_stream_faults),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
