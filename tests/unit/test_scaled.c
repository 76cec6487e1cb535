/* 8-bit weights: the quantiser's rule, and a model read from them is the one multiplied out by hand, to the bit. */
#include <math.h>

#include "tests/unit/weights_fixture.h"

#include "core/io/quantise.h"
#include "core/io/scaled.h"
#include "tests/unit/engine_fixture.h"

static float bf16(float v)
{
    return bf16_to_f32(f32_to_bf16(v));
}

static void test_rule(void **state)
{
    (void)state;
    const float w[8] = { 448, -448, 1, 0.0019f, 17, 19, 0, -300 };
    uint8_t q[8];
    float scale;
    fp8_error s = { 0 };
    err e = { 0 };
    assert_int_equal(fp8_quantise(q, &scale, w, 8, DT_F32, "w", &s, &e), 0);
    assert_true(scale == 1);
    const uint8_t want[8] = { 0x7e, 0xfe, 0x38, 0x01, 0x58, 0x5a, 0x00, 0xf9 };      /* 17 is a tie: to even, 16; 19 to 20 */
    assert_memory_equal(q, want, 8);
    assert_int_equal(s.values, 8);
    assert_true(s.error_squares > 0 && fp8_relative(&s) < 0.03);
    /* in bf16 the scale and the quotient are rounded on their way */
    const float v[3] = { bf16(0.7f), bf16(-0.31f), bf16(0.0123f) };
    assert_int_equal(fp8_quantise(q, &scale, v, 3, DT_BF16, "v", &s, &e), 0);
    assert_true(scale == bf16(v[0] / 448));
    for (int i = 0; i < 3; i++)
        assert_int_equal(q[i], f32_to_f8_e4m3(fminf(448, bf16(v[i] / scale))));
    const float zeros[2] = { 0, 0 }, bad[2] = { 1, NAN };
    assert_int_equal(fp8_quantise(q, &scale, zeros, 2, DT_BF16, "z", &s, &e), 0);
    assert_true(scale == 1 && q[0] == 0);
    assert_int_equal(fp8_quantise(q, &scale, bad, 2, DT_BF16, "blocks.0.x.weight", &s, &e), ERR_NAN);
    assert_text_has(e.text, "tensor 'blocks.0.x.weight' holds NaN or infinity at element 1");
    assert_true(fp8_takes("blocks.0.self_attn.q.weight", 2) && fp8_takes("vace_blocks.1.ffn.2.weight", 2));
    assert_false(fp8_takes("blocks.0.self_attn.norm_q.weight", 1) || fp8_takes("blocks.0.self_attn.q.bias", 1) || fp8_takes("text_embedding.0.weight", 2) ||
                 fp8_takes("head.head.weight", 2) || fp8_takes("patch_embedding.weight", 5));
}

typedef enum { BF16_ONE, F32_ONE, F32_CHANNEL, DIFFUSERS_SPELLING, N_KINDS } kind;

/* the tiny model 8-bit (`small`) and multiplied out by hand (`plain`) */
static void make_pair(kind how, const char *small, const char *plain)
{
    fix f, out;
    fix_read(&f, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors");
    fix_read(&out, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors");
    int n_tensors = f.n, done = 0;
    for (int i = 0; i < n_tensors; i++) {
        char name[200], scale_name[240];
        snprintf(name, sizeof name, "%s", f.t[i].name);
        if (!fp8_takes(name, f.t[i].ndim))
            continue;
        done++;
        int64_t n, rows = f.t[i].shape[0], cols = f.t[i].shape[1];
        float *w = fix_values(&f, name, &n), scales[96];
        uint8_t *q = malloc((size_t)n);
        fp8_error s = { 0 };
        dtype type = how == BF16_ONE ? DT_BF16 : DT_F32;
        int pieces = how == F32_CHANNEL ? (int)rows : 1;
        for (int p = 0; p < pieces; p++)
            DO(fp8_quantise(q + p * (n / pieces), &scales[p], w + p * (n / pieces), n / pieces, type, name, &s, e));
        for (int64_t k = 0; k < n; k++) {
            float v = f8_e4m3_to_f32(q[k]) * scales[how == F32_CHANNEL ? k / cols : 0];
            w[k] = how == BF16_ONE ? bf16(v) : v;
        }
        fix_put(&out, name, type, w, 2, (int64_t[]){ rows, cols });
        fix_put(&f, name, DT_F8_E4M3, w, 2, (int64_t[]){ rows, cols });
        memcpy(fix_find(&f, name)->data, q, (size_t)n);
        snprintf(scale_name, sizeof scale_name, "%.*s%s", (int)(strlen(name) - 6), name, how == DIFFUSERS_SPELLING ? "weight_scale" : "scale_weight");
        if (how == F32_CHANNEL)
            fix_put(&f, scale_name, type, scales, 2, (int64_t[]){ rows, 1 });
        else
            fix_put(&f, scale_name, type, scales, how == F32_ONE ? 0 : 1, (int64_t[]){ 1 });
        free(q);
        free(w);
    }
    assert_int_equal(done, 20);
    fix_write(&f, small);
    fix_write(&out, plain);
    fix_release(&f);
    fix_release(&out);
}

static void test_reading(void **state)
{
    (void)state;
    for (int how = 0; how < N_KINDS; how++) {
        make_pair((kind)how, tmp_path("small.safetensors"), tmp_path("plain.safetensors"));
        same_video(tmp_path("small.safetensors"), NULL, NULL, 0, tmp_path("plain.safetensors"), NULL);
    }
}

/* adapters are added to the multiplied-out weights */
static void test_with_lora(void **state)
{
    (void)state;
    float down[2 * 48], up[48 * 2];
    fix f = { .n = 0 };
    fix_noise(down, 96, 1, 0.4f);
    fix_noise(up, 96, 2, 0.4f);
    FIX_PUT(&f, "blocks.1.self_attn.q.lora_A.weight", DT_F32, down, 2, 48);
    FIX_PUT(&f, "blocks.1.self_attn.q.lora_B.weight", DT_F32, up, 48, 2);
    fix_write(&f, tmp_path("l.safetensors"));
    fix_release(&f);
    make_pair(F32_ONE, tmp_path("ls.safetensors"), tmp_path("lp.safetensors"));
    engine_lora l = { tmp_path("l.safetensors"), 1, LORA_BOTH, NULL, NULL, NULL };
    err e = { 0 };
    int64_t n, m;
    float *a = latents_of(tmp_path("ls.safetensors"), NULL, &l, 1, &n, &e), *b = latents_of(tmp_path("lp.safetensors"), NULL, &l, 1, &m, &e);
    assert_non_null(a);
    assert_non_null(b);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
}

/* rounded as they are read: the video of the file that was quantised before; adapters are merged before that */
static void test_at_load(void **state)
{
    (void)state;
    fix f;
    const char *base = tiny("diffusion_pytorch_model.safetensors");
    fix_read(&f, base);
    dtype type = fix_find(&f, "blocks.0.self_attn.q.weight")->type;
    assert_true(type == DT_F32 || type == DT_BF16);
    make_pair(type == DT_BF16 ? BF16_ONE : F32_ONE, tmp_path("small.safetensors"), tmp_path("plain.safetensors"));
    err e = { 0 };
    int64_t n, m;
    round_weights = true;
    float *a = latents_of(NULL, NULL, NULL, 0, &n, &e);
    float *twice = latents_of(tmp_path("small.safetensors"), NULL, NULL, 0, &m, &e);
    assert_null(twice);
    assert_text_has(e.text, "is F8_E4M3 already: quantising twice only adds error");
    round_weights = false;
    float *b = latents_of(tmp_path("plain.safetensors"), NULL, NULL, 0, &m, &e), *whole = latents_of(NULL, NULL, NULL, 0, &m, &e);
    assert_non_null(a);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    assert_memory_not_equal(a, whole, (size_t)n * sizeof *a);
    free(a);
    free(b);
    free(whole);

    /* an adapter of one module: rounded together with its weight */
    float down[2 * 48], up[48 * 2], *w;
    fix l = { .n = 0 };
    fix_noise(down, 96, 1, 0.4f);
    fix_noise(up, 96, 2, 0.4f);
    FIX_PUT(&l, "blocks.1.self_attn.q.lora_A.weight", DT_F32, down, 2, 48);
    FIX_PUT(&l, "blocks.1.self_attn.q.lora_B.weight", DT_F32, up, 48, 2);
    fix_write(&l, tmp_path("l.safetensors"));
    fix_release(&l);
    w = fix_values(&f, "blocks.1.self_attn.q.weight", &n);
    for (int r = 0; r < 48; r++)
        for (int c = 0; c < 48; c++) {
            float sum = 0;
            for (int k = 0; k < 2; k++)
                sum += up[r * 2 + k] * down[k * 48 + c];
            w[r * 48 + c] += sum;
        }
    FIX_PUT(&f, "blocks.1.self_attn.q.weight", type, w, 48, 48);
    free(w);
    fix_write(&f, tmp_path("merged.safetensors"));
    fix_release(&f);
    engine_lora adapter = { tmp_path("l.safetensors"), 1, LORA_BOTH, NULL, NULL, NULL };
    round_weights = true;
    a = latents_of(NULL, NULL, &adapter, 1, &n, &e);
    b = latents_of(tmp_path("merged.safetensors"), NULL, NULL, 0, &m, &e);
    round_weights = false;
    assert_non_null(a);
    assert_non_null(b);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
}

/* one weight and what is beside it, through scaled_read() */
static int read_one(fix *f, float *out, scaled_tally *tally, err *e)
{
    ckpt *c;
    fix_write(f, tmp_path("one.safetensors"));
    fix_release(f);
    DO(ckpt_open(&c, tmp_path("one.safetensors"), e));
    DO(ckpt_normalise(c, CKPT_DIT, e));
    int rc = scaled_read(out, c, ckpt_find(c, "blocks.0.a.weight"), NULL, tally, e);
    if (tally->unscaled)
        scaled_warn(tally);
    ckpt_close(c);
    return rc;
}

static void test_scales(void **state)
{
    (void)state;
    const float w[4] = { 1, 2, 3, 4 }, s[4] = { 0.5f, 2, 3, NAN };
    float out[4];
    fix f = { .n = 0 };
    scaled_tally t = { 0 };
    err e = { 0 };
    FIX_PUT(&f, "blocks.0.a.weight", DT_F8_E4M3, w, 2, 2);
    assert_int_equal(read_one(&f, out, &t, &e), 0);
    assert_true(out[3] == 4 && t.weights == 1 && t.unscaled == 1);
    FIX_PUT(&f, "blocks.0.a.weight", DT_F8_E4M3, w, 2, 2);
    FIX_PUT(&f, "blocks.0.a.scale_weight", DT_F32, s, 0);
    assert_int_equal(read_one(&f, out, &t, &e), 0);
    assert_true(out[3] == 4 && t.weights == 2 && t.unscaled == 2);
    FIX_PUT(&f, "blocks.0.a.weight", DT_F8_E4M3, w, 2, 2);
    FIX_PUT(&f, "blocks.0.a.weight_scale", DT_F32, s, 2);
    assert_int_equal(read_one(&f, out, &t, &e), 0);
    assert_true(out[0] == 0.5f && out[1] == 1 && out[2] == 6 && out[3] == 8 && t.unscaled == 2);
    FIX_PUT(&f, "blocks.0.a.weight", DT_F8_E4M3, w, 2, 2);
    FIX_PUT(&f, "blocks.0.a.scale_weight", DT_F32, s, 3);
    assert_int_equal(read_one(&f, out, &t, &e), ERR_SHAPE);
    assert_text_has(e.text, "holds 3 scales, but 'blocks.0.a.weight' has 2 output channels");
    FIX_PUT(&f, "blocks.0.a.weight", DT_F8_E4M3, w, 2, 2);
    FIX_PUT(&f, "blocks.0.a.scale_weight", DT_F32, s + 3, 1);
    assert_int_equal(read_one(&f, out, &t, &e), ERR_NAN);
    assert_text_has(e.text, "no finite number");
    /* a scale beside a weight that needs none belongs to nothing, and the model says so */
    float one = 1;
    int64_t n;
    fix_read(&f, "tests/golden/wan-tiny/diffusion_pytorch_model.safetensors");
    FIX_PUT(&f, "blocks.0.self_attn.q.scale_weight", DT_F32, &one, 1);
    fix_write(&f, tmp_path("stray.safetensors"));
    fix_release(&f);
    assert_null(latents_of(tmp_path("stray.safetensors"), NULL, NULL, 0, &n, &e));
    assert_text_has(e.text, "1 unused: blocks.0.self_attn.q.scale_weight");
}

/* the text encoder, as ComfyUI packs it: f32 scales beside every matrix of the blocks */
static void test_text_encoder(void **state)
{
    (void)state;
    fix f, plain;
    float *rows[2];
    int64_t n;
    fix_read(&f, "tests/golden/wan-tiny/models_t5_umt5-xxl-enc-bf16.pth");
    fix_read(&plain, "tests/golden/wan-tiny/models_t5_umt5-xxl-enc-bf16.pth");
    int n_tensors = f.n;
    for (int i = 0; i < n_tensors; i++) {
        char name[200], scale_name[240];
        snprintf(name, sizeof name, "%s", f.t[i].name);
        if (f.t[i].ndim != 2 || !strstr(name, "blocks."))
            continue;
        float *w = fix_values(&f, name, &n), scale = 0.01f;
        fix_tensor *t = fix_find(&f, name);
        for (int64_t k = 0; k < n; k++)
            w[k] /= scale;
        fix_put(&f, name, DT_F8_E4M3, w, 2, t->shape);
        free(w);
        w = fix_values(&f, name, &n);
        for (int64_t k = 0; k < n; k++)
            w[k] *= scale;
        fix_put(&plain, name, DT_F32, w, 2, t->shape);
        free(w);
        snprintf(scale_name, sizeof scale_name, "%.*sscale_weight", (int)(strlen(name) - 6), name);
        FIX_PUT(&f, scale_name, DT_F32, &scale, 1);
    }
    const char *paths[2] = { tmp_path("t5_8.safetensors"), tmp_path("t5_32.safetensors") };
    fix_write(&f, paths[0]);
    fix_write(&plain, paths[1]);
    fix_release(&f);
    fix_release(&plain);
    const int32_t ids[16] = { 5, 9, 7, 1 };
    for (int k = 0; k < 2; k++) {
        engine *g;
        prompt *p;
        engine_options o = ENGINE_OPTIONS_INIT;
        o.model = TINY;
        o.t5 = paths[k];
        o.device = "cpu";
        DO(engine_open(&g, &o, e));
        DO(engine_encode_ids(g, ids, 16, 4, &p, e));
        n = (int64_t)4 * prompt_dim(p);
        rows[k] = malloc((size_t)n * sizeof(float));
        memcpy(rows[k], prompt_rows(p), (size_t)n * sizeof(float));
        prompt_free(p);
        engine_close(g);
    }
    assert_memory_equal(rows[0], rows[1], (size_t)n * sizeof(float));
    free(rows[0]);
    free(rows[1]);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rule),   cmocka_unit_test(test_reading),      cmocka_unit_test(test_with_lora), cmocka_unit_test(test_at_load),
        cmocka_unit_test(test_scales), cmocka_unit_test(test_text_encoder),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
