/* Adapters in every naming give the video of a checkpoint merged by hand, to the bit; and their faults are told. */
#include <math.h>

#include "tests/unit/weights_fixture.h"

#include "core/dit/lora.h"
#include "tests/unit/engine_fixture.h"

typedef struct target {
    const char *wan, *diffusers;
    int64_t rows, cols;
} target;

static const target TARGETS[] = {
    { "blocks.0.self_attn.q", "blocks.0.attn1.to_q", 48, 48 },       { "blocks.0.self_attn.o", "blocks.0.attn1.to_out.0", 48, 48 },
    { "blocks.1.cross_attn.k", "blocks.1.attn2.to_k", 48, 48 },      { "blocks.1.ffn.0", "blocks.1.ffn.net.0.proj", 80, 48 },
    { "blocks.0.ffn.2", "blocks.0.ffn.net.2", 48, 80 },              { "text_embedding.2", "condition_embedder.text_embedder.linear_2", 48, 48 },
    { "time_projection.1", "condition_embedder.time_proj", 288, 48 }, { "head.head", "proj_out", 64, 48 },
};
enum { N_TARGETS = sizeof TARGETS / sizeof *TARGETS, RANK = 3 };

/* the two factors of target i of adapter `which` */
static void factors(int i, int which, float *down, float *up)
{
    fix_noise(down, RANK * TARGETS[i].cols, (uint32_t)(100 * which + 2 * i + 1), 0.3f);
    fix_noise(up, TARGETS[i].rows * RANK, (uint32_t)(100 * which + 2 * i + 2), 0.3f);
}

/* W + factor * up down, as documented: in f32 throughout */
static void merge_by_hand(fix *f, int which, const float *factor)
{
    for (int i = 0; i < N_TARGETS; i++) {
        const target *t = &TARGETS[i];
        char name[200];
        int64_t n;
        float *down = malloc((size_t)(RANK * t->cols) * 4), *up = malloc((size_t)(t->rows * RANK) * 4);
        factors(i, which, down, up);
        snprintf(name, sizeof name, "%s.weight", t->wan);
        float *w = fix_values(f, name, &n);
        assert_int_equal(n, t->rows * t->cols);
        for (int64_t r = 0; r < t->rows; r++)
            for (int64_t c = 0; c < t->cols; c++) {
                float sum = 0;
                for (int k = 0; k < RANK; k++)
                    sum += up[r * RANK + k] * down[k * t->cols + c];
                w[r * t->cols + c] += factor[i] * sum;
            }
        fix_put(f, name, DT_F32, w, 2, (int64_t[]){ t->rows, t->cols });
        free(w);
        free(down);
        free(up);
    }
}

typedef enum { PEFT, PEFT_DEFAULT, DIFFUSERS, MUSUBI, KOHYA, KOHYA_FLAT, KOHYA_DIFFUSERS, OLD_DIFFUSERS, LONGLIVE, COMFY, N_NAMINGS } naming;

static void names_of(naming how, const target *t, char down[300], char up[300], char alpha[300])
{
    char flat[200], flat_diffusers[200];
    snprintf(flat, sizeof flat, "%s", t->wan);
    snprintf(flat_diffusers, sizeof flat_diffusers, "%s", t->diffusers);
    for (char *c = flat; *c; c++)
        *c = *c == '.' ? '_' : *c;
    for (char *c = flat_diffusers; *c; c++)
        *c = *c == '.' ? '_' : *c;
    static const char *const FORMS[N_NAMINGS][3] = {
        [PEFT] = { "base_model.model.%s.lora_A.weight", "base_model.model.%s.lora_B.weight", "base_model.model.%s.alpha" },
        [PEFT_DEFAULT] = { "base_model.model.%s.lora_A.default.weight", "base_model.model.%s.lora_B.default.weight", "%s.alpha" },
        [DIFFUSERS] = { "transformer.%s.lora_A.weight", "transformer.%s.lora_B.weight", "transformer.%s.alpha" },
        [MUSUBI] = { "%s.lora_down.weight", "%s.lora_up.weight", "%s.alpha" },
        [KOHYA] = { "lora_unet_%s.lora_down.weight", "lora_unet_%s.lora_up.weight", "lora_unet_%s.alpha" },
        [KOHYA_FLAT] = { "lora_unet_%s_lora_down_weight", "lora_unet_%s_lora_up_weight", "lora_unet_%s_lora_down_weight.alpha" },
        [KOHYA_DIFFUSERS] = { "lora_unet_%s.lora_down.weight", "lora_unet_%s.lora_up.weight", "lora_unet_%s.alpha" },
        [OLD_DIFFUSERS] = { "transformer.%s.lora.down.weight", "transformer.%s.lora.up.weight", "transformer.%s.alpha" },
        [LONGLIVE] = { "generator_lora.base_model.model.%s.lora_A.weight", "generator_lora.base_model.model.%s.lora_B.weight", "generator_lora.%s.alpha" },
        [COMFY] = { "diffusion_model.%s.lora_down.weight", "diffusion_model.%s.lora_up.weight", "diffusion_model.%s.alpha" },
    };
    const char *stem = how == DIFFUSERS || how == OLD_DIFFUSERS ? t->diffusers : how == KOHYA || how == KOHYA_FLAT ? flat : how == KOHYA_DIFFUSERS ? flat_diffusers
                                                                                                                                     : t->wan;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(down, 300, FORMS[how][0], stem);
    snprintf(up, 300, FORMS[how][1], stem);
    snprintf(alpha, 300, FORMS[how][2], stem);
#pragma GCC diagnostic pop
}

/* An adapter file; every second module has an alpha of its own. Fills the factor of each target for a multiplier. */
static void write_adapter(const char *path, naming how, int which, double multiplier, float *factor)
{
    fix f = { .n = 0 };
    for (int i = 0; i < N_TARGETS; i++) {
        const target *t = &TARGETS[i];
        char down_name[300], up_name[300], alpha_name[300];
        float down[RANK * 80], up[288 * RANK], alpha = 0.75f * (float)(i + 1);
        factors(i, which, down, up);
        names_of(how, t, down_name, up_name, alpha_name);
        FIX_PUT(&f, down_name, DT_F32, down, RANK, t->cols);
        FIX_PUT(&f, up_name, DT_F32, up, t->rows, RANK);
        if (i % 2)
            fix_put(&f, alpha_name, DT_F32, &alpha, 0, NULL);
        factor[i] = (float)(multiplier * (i % 2 ? (double)alpha / RANK : 1.0));
    }
    fix_write(&f, path);
    fix_release(&f);
}

static void test_namings(void **state)
{
    (void)state;
    float factor[N_TARGETS];
    for (int how = 0; how < N_NAMINGS; how++) {
        fix base;
        char adapter[64], merged[64];
        snprintf(adapter, sizeof adapter, "lora%d.safetensors", how);
        snprintf(merged, sizeof merged, "merged%d.safetensors", how);
        const char *a = tmp_path(adapter), *m = tmp_path(merged);
        write_adapter(a, (naming)how, 1, 0.8, factor);
        fix_read(&base, tiny("diffusion_pytorch_model.safetensors"));
        merge_by_hand(&base, 1, factor);
        fix_write(&base, m);
        fix_release(&base);
        engine_lora l = { a, 0.8, LORA_BOTH, NULL, NULL, NULL };
        same_video(NULL, NULL, &l, 1, m, NULL);
    }
}

/* several adapters, in order, with multipliers; one with 0 leaves no trace */
static void test_several(void **state)
{
    (void)state;
    float one[N_TARGETS], two[N_TARGETS], none[N_TARGETS];
    fix base;
    const char *a = tmp_path("one.safetensors"), *b = tmp_path("two.safetensors"), *z = tmp_path("zero.safetensors"), *m = tmp_path("both.safetensors");
    write_adapter(a, PEFT, 1, 0.5, one);
    write_adapter(b, KOHYA, 2, -1.25, two);
    write_adapter(z, MUSUBI, 3, 0, none);
    fix_read(&base, tiny("diffusion_pytorch_model.safetensors"));
    merge_by_hand(&base, 1, one);
    merge_by_hand(&base, 2, two);
    fix_write(&base, m);
    fix_release(&base);
    engine_lora l[3] = { { a, 0.5, LORA_BOTH, NULL, NULL, NULL }, { z, 0, LORA_BOTH, NULL, NULL, NULL }, { b, -1.25, LORA_LOW, NULL, NULL, NULL } };
    same_video(NULL, NULL, l, 3, m, NULL);
}

static void test_experts(void **state)
{
    (void)state;
    float one[N_TARGETS], two[N_TARGETS];
    fix base;
    const char *high = tiny("diffusion_pytorch_model.safetensors"), *low = high;
    const char *a = tmp_path("e1.safetensors"), *b = tmp_path("e2.safetensors"), *mh = tmp_path("mh.safetensors"), *ml = tmp_path("ml.safetensors");
    write_adapter(a, DIFFUSERS, 1, 1, one);
    write_adapter(b, KOHYA, 2, 1, two);
    fix_read(&base, high);
    merge_by_hand(&base, 1, one);
    fix_write(&base, mh);
    fix_release(&base);
    fix_read(&base, low);
    merge_by_hand(&base, 2, two);
    fix_write(&base, ml);
    fix_release(&base);
    engine_lora l[2] = { { a, 1, LORA_HIGH, NULL, NULL, NULL }, { b, 1, LORA_LOW, NULL, NULL, NULL } };
    same_video(high, low, l, 2, mh, ml);

    err e = { 0 };
    int64_t n;
    assert_null(latents_of(NULL, NULL, l, 1, &n, &e));
    assert_text_has(e.text, "meant for the high-noise expert, but");
    assert_text_has(e.text, "use expert both or low");
}

static void pattern_refused(const char *path, const char *include, const char *exclude, const char *sentence)
{
    engine_lora l = { path, 1, LORA_BOTH, NULL, include, exclude };
    err e = { 0 };
    int64_t n;
    assert_null(latents_of(NULL, NULL, &l, 1, &n, &e));
    assert_text_has(e.text, path);
    assert_text_has(e.text, sentence);
}

/* patterns on the names in the file: only what matches, and nothing that matches */
static void test_patterns(void **state)
{
    (void)state;
    static const struct { const char *include, *exclude; unsigned merged; } CASES[] = {
        { "self_attn", NULL, 0x03 },          { NULL, "self_attn", 0xfc },     { "blocks[._][0-9]+", "cross|ffn[._]2", 0x0b },
        { "^base_model.*lora_[AB]", "", 0x55 }, { "attn", "attn.o", 0x05 },
    };
    const char *a = tmp_path("p.safetensors"), *m = tmp_path("pm.safetensors");
    for (size_t k = 0; k < sizeof CASES / sizeof *CASES; k++) {
        float factor[N_TARGETS];
        fix base;
        write_adapter(a, PEFT, 1, 0.8, factor);
        for (int i = 0; i < N_TARGETS; i++) {
            if (!(CASES[k].merged >> i & 1) && k != 3)
                factor[i] = 0;
            if (k == 3)      /* all modules, but not their alphas, which are not matched: alpha is the rank */
                factor[i] = 0.8f;
        }
        fix_read(&base, tiny("diffusion_pytorch_model.safetensors"));
        merge_by_hand(&base, 1, factor);
        fix_write(&base, m);
        fix_release(&base);
        engine_lora l = { a, 0.8, LORA_BOTH, NULL, CASES[k].include, CASES[k].exclude };
        same_video(NULL, NULL, &l, 1, m, NULL);
    }
    pattern_refused(a, "(", NULL, "the include pattern '(' is no regular expression");
    pattern_refused(a, NULL, "blocks\\.\\d", "the exclude pattern 'blocks\\.\\d' has '\\d', which POSIX expressions do not know; write [0-9]");
    pattern_refused(a, "(?:a)", NULL, "has '(?'");
    pattern_refused(a, "nothing", NULL, "the patterns leave none of the");
    pattern_refused(a, NULL, "blocks.0.self_attn.q.lora_B", "the patterns leave out the other");
}

/* .diff, .diff_b, .diff_m */
static void test_differences(void **state)
{
    (void)state;
    fix base, f = { .n = 0 };
    float dw[48 * 48], db[48], dm[6 * 48], dn[48];
    int64_t n;
    fix_noise(dw, 48 * 48, 1, 0.1f);
    fix_noise(db, 48, 2, 0.1f);
    fix_noise(dm, 6 * 48, 3, 0.1f);
    fix_noise(dn, 48, 4, 0.1f);
    FIX_PUT(&f, "diffusion_model.blocks.1.self_attn.v.diff", DT_F32, dw, 48, 48);
    FIX_PUT(&f, "diffusion_model.blocks.1.self_attn.v.diff_b", DT_F32, db, 48);
    FIX_PUT(&f, "diffusion_model.blocks.0.diff_m", DT_F32, dm, 1, 6, 48);
    FIX_PUT(&f, "diffusion_model.blocks.0.norm3.diff", DT_F32, dn, 48);
    fix_write(&f, tmp_path("diff.safetensors"));
    fix_release(&f);
    fix_read(&base, tiny("diffusion_pytorch_model.safetensors"));
    const struct { const char *name; const float *d; } LIST[] = { { "blocks.1.self_attn.v.weight", dw }, { "blocks.1.self_attn.v.bias", db },
                                                                  { "blocks.0.modulation", dm }, { "blocks.0.norm3.weight", dn } };
    for (int i = 0; i < 4; i++) {
        float *v = fix_values(&base, LIST[i].name, &n);
        for (int64_t k = 0; k < n; k++)
            v[k] += 0.5f * LIST[i].d[k];
        fix_tensor *t = fix_find(&base, LIST[i].name);
        fix_put(&base, LIST[i].name, DT_F32, v, t->ndim, t->shape);
        free(v);
    }
    fix_write(&base, tmp_path("diffed.safetensors"));
    fix_release(&base);
    engine_lora l = { tmp_path("diff.safetensors"), 0.5, LORA_BOTH, NULL, NULL, NULL };
    same_video(NULL, NULL, &l, 1, tmp_path("diffed.safetensors"), NULL);
}

static void refused(fix *f, const char *path, const char *const *parts)
{
    err e = { 0 };
    int64_t n;
    if (f) {
        fix_write(f, path);
        fix_release(f);
    }
    engine_lora l = { path, 1, LORA_BOTH, NULL, NULL, NULL };
    assert_null(latents_of(NULL, NULL, &l, 1, &n, &e));
    assert_text_has(e.text, path);
    for (; *parts; parts++)
        assert_text_has(e.text, *parts);
}
#define REFUSED(f, path, ...) refused((f), (path), (const char *const[]){ __VA_ARGS__, NULL })

static void test_faults(void **state)
{
    (void)state;
    float v[48 * 96] = { 0 };
    fix f = { .n = 0 };
    REFUSED(NULL, tmp_path("none.safetensors"), "none.safetensors");
    FIX_PUT(&f, "hello.weight", DT_F32, v, 4);
    REFUSED(&f, tmp_path("f1.safetensors"), "holds no adapter", "lora_unet_blocks_0_self_attn_q.lora_down.weight", "found hello.weight");
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 48);
    REFUSED(&f, tmp_path("f2.safetensors"), "'blocks.0.self_attn.q.lora_A.weight' has no partner", "incomplete");
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 96);
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_B.weight", DT_F32, v, 48, 4);
    REFUSED(&f, tmp_path("f3.safetensors"), "does not fit a matrix of 48 x 48", "another model size");
    FIX_PUT(&f, "blocks.0.self_attn.q.diff", DT_F32, v, 96, 48);
    REFUSED(&f, tmp_path("f4.safetensors"), "does not fit a matrix of 48 x 48");
    FIX_PUT(&f, "down_blocks.0.attn.to_q.lora_A.weight", DT_F32, v, 4, 48);
    FIX_PUT(&f, "down_blocks.0.attn.to_q.lora_B.weight", DT_F32, v, 48, 4);
    REFUSED(&f, tmp_path("f5.safetensors"), "no tensor of this model has an adapter in the file", "down_blocks.0.attn.to_q");
    FIX_PUT(&f, "blocks.0.self_attn.q.hada_w1_a", DT_F32, v, 4, 48);
    REFUSED(&f, tmp_path("f6.safetensors"), "LoHa", "hada_w1_a");
    FIX_PUT(&f, "blocks.0.self_attn.q.dora_scale", DT_F32, v, 48);
    REFUSED(&f, tmp_path("f7.safetensors"), "DoRA");
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 48);
    FIX_PUT(&f, "base_model.model.blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 48);
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_B.weight", DT_F32, v, 48, 4);
    REFUSED(&f, tmp_path("f8.safetensors"), "are the same part of one module");
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 48);
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_B.weight", DT_F32, v, 48, 4);
    FIX_PUT(&f, "blocks.0.self_attn.q.alpha", DT_F32, v, 2);
    REFUSED(&f, tmp_path("f9.safetensors"), "holds 2 values, expected one");
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 4, 48);
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_B.weight", DT_F32, v, 48, 4);
    v[0] = INFINITY;
    FIX_PUT(&f, "blocks.0.self_attn.q.alpha", DT_F32, v, 1);
    REFUSED(&f, tmp_path("f10.safetensors"), "'blocks.0.self_attn.q.alpha' is not a finite number");
}

/* a damaged adapter is named when the run goes bad */
static void test_nan(void **state)
{
    (void)state;
    float v[48 * 2] = { 0 };
    fix f = { .n = 0 };
    v[5] = NAN;
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_A.weight", DT_F32, v, 2, 48);
    v[5] = 1;
    FIX_PUT(&f, "blocks.0.self_attn.q.lora_B.weight", DT_F32, v, 48, 2);
    REFUSED(&f, tmp_path("nan.safetensors"), "step 1 of 4 gave NaN", "tensor 'blocks.0.self_attn.q.lora_A.weight'");
}

/* names that differ from ours only in where k_img and friends end are other modules (holocine.md 6.2, 6) */
static void test_parts_counted(void **state)
{
    (void)state;
    float v[48 * 48] = { 0 };
    fix f = { .n = 0 };
    ckpt *c;
    lora_merge *m;
    int parts;
    FIX_PUT(&f, "lora_unet_blocks_0_cross_attn_k_img.lora_down.weight", DT_F32, v, 2, 48);
    FIX_PUT(&f, "lora_unet_blocks_0_cross_attn_k_img.lora_up.weight", DT_F32, v, 48, 2);
    FIX_PUT(&f, "lora_unet_blocks_0_cross_attn_k_diff_b", DT_F32, v, 48);
    fix_write(&f, tmp_path("img.safetensors"));
    fix_release(&f);
    DO(ckpt_open(&c, tmp_path("img.safetensors"), e));
    lora l = { c, 0, 1, NULL, NULL };
    DO(lora_merge_begin(&m, &l, 1, e));
    DO(lora_merge_tensor(m, "blocks.0.cross_attn.k.weight", NULL, 48, 48, &parts, e));
    assert_int_equal(parts, 0);
    DO(lora_merge_tensor(m, "blocks.0.cross_attn.k.bias", NULL, 48, 1, &parts, e));
    assert_int_equal(parts, 1);
    DO(lora_merge_tensor(m, "blocks.0.cross_attn.k_img.weight", NULL, 48, 48, &parts, e));
    assert_int_equal(parts, 1);
    lora_merge_free(m);
    ckpt_close(c);
}

static void test_digest(void **state)
{
    (void)state;
    float factor[N_TARGETS];
    engine *g;
    engine_info info;
    engine_options o = ENGINE_OPTIONS_INIT;
    write_adapter(tmp_path("d.safetensors"), PEFT, 1, 1, factor);
    engine_lora l = { tmp_path("d.safetensors"), 0.5, LORA_BOTH, NULL, NULL, NULL };
    o.model = TINY;
    o.device = "cpu";
    o.loras = &l;
    o.n_loras = 1;
    DO(engine_open(&g, &o, e));
    DO(engine_get_info(g, false, &info, e));
    assert_int_equal(info.n_loras, 1);
    assert_string_equal(info.loras[0].digest, "");
    DO(engine_get_info(g, true, &info, e));
    assert_int_equal(strlen(info.loras[0].digest), 64);
    assert_true(info.loras[0].multiplier == 0.5);
    engine_close(g);
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
        cmocka_unit_test(test_namings),     cmocka_unit_test(test_patterns), cmocka_unit_test(test_several), cmocka_unit_test(test_experts), cmocka_unit_test(test_differences),
        cmocka_unit_test(test_faults),      cmocka_unit_test(test_parts_counted), cmocka_unit_test(test_digest),
        cmocka_unit_test(test_nan),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
