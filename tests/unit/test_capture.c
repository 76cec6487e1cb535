/* Runs of a tiny random model with hooks: what is captured is what the run had, and capturing changes nothing. */
#include <inttypes.h>
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

#ifdef HAVE_HDF5
#include <hdf5.h>
#endif

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "core/io/ckpt.h"
#include "experiments/capture.h"
#include "experiments/forecast.h"
#include "experiments/interrupt.h"
#include "experiments/run_one.h"

#define MODEL "tests/golden/wan-tiny"

static char folder[1024];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/capture-%d", base ? base : "/tmp", (int)getpid());
    log_set_level(LOG_ERROR);
    return fs_mkdirs(folder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    return fs_remove_tree(folder, NULL);
}

static const char *in_folder(const char *name)
{
    static char paths[6][1200];
    static int next;
    char *p = paths[next++ % 6];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

#define assert_says(e, part) do { if (!strstr((e).text, (part))) fail_msg("'%s' does not say '%s'", (e).text, (part)); } while (0)
#define must(call) do { err *must_e = &e; if (call) fail_msg("%s", must_e->text); } while (0)

typedef struct bench {
    config c;
    runner *r;
    prompt_template *t;
    variation v;
} bench;

static int open_bench(bench *b, err *e, const char *prompt, const char *const *more, int n)
{
    const char *sets[24] = { "model.path=" MODEL, "model.device=cpu", "video.width=48", "video.height=32", "video.frames=5", "video.fps=8",
                             "sampling.steps=3", "sampling.shift=3", "sampling.guidance_scale=4", "prompt.negative=no" };
    char template[256];
    memset(b, 0, sizeof *b);
    snprintf(template, sizeof template, "prompt.template=%s", prompt);
    sets[10] = template;
    for (int i = 0; i < n; i++)
        sets[11 + i] = more[i];
    int rc = config_load(&b->c, NULL, sets, 11 + n, NULL, e);
    if (rc)
        return rc;
    if ((rc = runner_open(&b->r, &b->c, e)) || (rc = template_parse(&b->t, prompt, strlen(prompt), "t", e)) ||
        (rc = template_variation(b->t, 0, &b->v, e))) {
        runner_close(b->r);
        template_free(b->t);
        config_release(&b->c);
        memset(b, 0, sizeof *b);
    }
    return rc;
}
#define OPEN(b, e, prompt, ...) \
    open_bench((b), (e), (prompt), (const char *const[]){ "output.preview=true", __VA_ARGS__ }, \
               (int)(sizeof((const char *[]){ "output.preview=true", __VA_ARGS__ }) / sizeof(char *)))

static void close_bench(bench *b)
{
    variation_release(&b->v);
    template_free(b->t);
    runner_close(b->r);
    config_release(&b->c);
}

/* An independent witness of a run. */
typedef struct witness {
    float *rows[8];
    int64_t n;
    int attn_shown, cond_shown;
} witness;

static bool witness_wants(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_LATENTS || p->kind == HOOK_CROSS_ATTN;
}

static int witness_show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    witness *w = user;
    if (p->kind == HOOK_LATENTS) {
        w->n = tensor_count(d->value);
        w->rows[p->step] = malloc((size_t)w->n * sizeof(float));
        return op_download_f32(w->rows[p->step], d->value, e);
    }
    w->attn_shown++;
    w->cond_shown += p->cond;
    return 0;
}

#ifdef HAVE_HDF5
static float *read_floats(const char *path, const char *name, hsize_t *dims, int *n_dims)
{
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(f, name, H5P_DEFAULT), s = H5Dget_space(d);
    assert_true(f >= 0 && d >= 0);
    *n_dims = H5Sget_simple_extent_dims(s, dims, NULL);
    float *out = malloc((size_t)H5Sget_simple_extent_npoints(s) * sizeof *out);
    assert_true(H5Dread(d, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Sclose(s);
    H5Dclose(d);
    H5Fclose(f);
    return out;
}

static bool has(const char *path, const char *name)
{
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    bool there = H5Lexists(f, name, H5P_DEFAULT) > 0;
    H5Fclose(f);
    return there;
}

static void test_trace_is_the_run(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    witness w = { 0 };
    hooks h = { 0 };
    tensor latents = { 0 };
    step_prompts texts;
    run_files files = { .trace = in_folder("a.h5") };
    must(OPEN(&b, &e, "a (ca)", "capture.latents.enabled=true", "capture.attention.enabled=true"));
    must(runner_run(b.r, &b.v, 5, &files, &e));

    run_params p = *runner_params(b.r);      /* the same run by hand, with nothing but a witness */
    must(prompts_of_run(runner_prompts(b.r), &b.v, p.steps, &texts, &e));
    must(prompts_negative(runner_prompts(b.r), &p.uncond, &e));
    p.cond = texts.cond;
    p.n_cond = texts.n;
    p.seed = 5;
    must(hooks_observe(&h, (hook_observer){ witness_wants, witness_show, &w }, &e));
    must(engine_run(runner_engine(b.r), &p, &h, &latents, &e));
    hsize_t dims[8];
    int n;
    float *rows = read_floats(in_folder("a.h5"), "/latents", dims, &n);
    assert_int_equal(n, 5);
    assert_int_equal(dims[0], 4);
    assert_int_equal(dims[1], 16);
    for (int k = 0; k < 4; k++) {
        assert_memory_equal(rows + k * w.n, w.rows[k], (size_t)w.n * sizeof(float));
        free(w.rows[k]);
    }
    assert_int_equal(w.attn_shown, 3 * 2 * 2);      /* steps, blocks, branches */
    assert_int_equal(w.cond_shown * 2, w.attn_shown);
    free(rows);
    float *maps = read_floats(in_folder("a.h5"), "/attention/maps", dims, &n);
    assert_int_equal(n, 7);
    assert_int_equal(dims[0], 3);
    assert_int_equal(dims[1], 2);
    assert_int_equal(dims[2], 1);
    assert_int_equal(dims[3], 1);
    for (hsize_t i = 0; i < dims[0] * dims[1] * dims[4] * dims[5] * dims[6]; i++)
        assert_true(maps[i] > 0 && maps[i] < 1);
    free(maps);
    tensor_free(&latents);
    step_prompts_release(&texts);
    close_bench(&b);
}

static void test_sparse_choices(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    hsize_t dims[8];
    int n;
    run_files all = { .trace = in_folder("all.h5") }, some = { .trace = in_folder("some.h5") };
    must(OPEN(&b, &e, "a (ca) (no)", "capture.latents.enabled=true", "capture.attention.enabled=true", "capture.attention.heads=all"));
    must(runner_run(b.r, &b.v, 5, &all, &e));
    close_bench(&b);
    must(OPEN(&b, &e, "a (ca) (no)", "capture.latents.enabled=true", "capture.latents.every=2", "capture.latents.velocity=true",
              "capture.attention.enabled=true", "capture.attention.heads=1", "capture.attention.layers=1", "capture.attention.every=2"));
    must(runner_run(b.r, &b.v, 5, &some, &e));
    close_bench(&b);
    float *a = read_floats(in_folder("all.h5"), "/attention/maps", dims, &n);
    assert_int_equal(dims[2], 2);
    assert_int_equal(dims[3], 2);
    size_t map = (size_t)(dims[4] * dims[5] * dims[6]);
    float *s = read_floats(in_folder("some.h5"), "/attention/maps", dims, &n);
    assert_int_equal(dims[0], 2);      /* steps 0 and 2 */
    assert_int_equal(dims[1], 1);
    assert_int_equal(dims[2], 1);
    /* all: [3 steps][2 layers][2 heads][2 words]; some: steps 0, 2, layer 1, head 1 */
    for (int k = 0; k < 2; k++)
        assert_memory_equal(s + (size_t)k * 2 * map, a + (((size_t)(2 * k) * 2 + 1) * 2 + 1) * 2 * map, 2 * map * sizeof(float));
    free(a);
    free(s);
    float *la = read_floats(in_folder("all.h5"), "/latents", dims, &n), *ls = NULL;
    size_t row = (size_t)(dims[1] * dims[2] * dims[3] * dims[4]);
    ls = read_floats(in_folder("some.h5"), "/latents", dims, &n);
    assert_int_equal(dims[0], 3);      /* 0, 2 and the last, 3 */
    assert_memory_equal(ls + row, la + 2 * row, row * sizeof(float));
    assert_memory_equal(ls + 2 * row, la + 3 * row, row * sizeof(float));
    assert_true(has(in_folder("some.h5"), "/velocity"));
    assert_false(has(in_folder("all.h5"), "/velocity"));
    free(la);
    free(ls);
}

/* The stored mean is that of the heads, taken in double precision. */
static void test_mean_of_heads(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    hsize_t dims[8];
    int n;
    run_files mean = { .trace = in_folder("mean.h5") }, heads = { .trace = in_folder("heads.h5") };
    must(OPEN(&b, &e, "a (ca)", "capture.attention.enabled=true"));
    must(runner_run(b.r, &b.v, 9, &mean, &e));
    close_bench(&b);
    must(OPEN(&b, &e, "a (ca)", "capture.attention.enabled=true", "capture.attention.heads=all"));
    must(runner_run(b.r, &b.v, 9, &heads, &e));
    close_bench(&b);
    float *h = read_floats(in_folder("heads.h5"), "/attention/maps", dims, &n);
    size_t n_heads = (size_t)dims[2], map = (size_t)(dims[4] * dims[5] * dims[6]), blocks = (size_t)(dims[0] * dims[1]);
    float *m = read_floats(in_folder("mean.h5"), "/attention/maps", dims, &n);
    for (size_t k = 0; k < blocks; k++)
        for (size_t i = 0; i < map; i++) {
            double sum = 0;
            for (size_t head = 0; head < n_heads; head++)
                sum += (double)h[(k * n_heads + head) * map + i];
            assert_true(fabs(sum / (double)n_heads - (double)m[k * map + i]) < 1e-6);
        }
    free(h);
    free(m);
}

static void test_no_word(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    run_files files = { .trace = in_folder("none.h5") };
    must(OPEN(&b, &e, "a ca", "capture.latents.enabled=true", "capture.attention.enabled=true"));
    must(runner_run(b.r, &b.v, 5, &files, &e));
    assert_false(has(in_folder("none.h5"), "/attention"));
    assert_true(has(in_folder("none.h5"), "/latents"));
    close_bench(&b);
}
#endif

static void test_refusals(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    assert_int_equal(OPEN(&b, &e, "a", "capture.attention.enabled=true", "capture.attention.layers=0,7"), ERR_CONFIG);
    assert_says(e, "capture.attention.layers names 7, but there are 2 transformer blocks, numbered from 0");
    assert_int_equal(OPEN(&b, &e, "a", "capture.attention.enabled=true", "capture.attention.heads=2"), ERR_CONFIG);
    assert_says(e, "capture.attention.heads names 2, but there are 2 heads");
    assert_int_equal(OPEN(&b, &e, "a", "capture.attention.enabled=true", "capture.attention.steps=9"), ERR_CONFIG);
    assert_says(e, "steps");
    assert_int_equal(OPEN(&b, &e, "a", "model.family=wan2.2-a14b"), ERR_CONFIG);
    assert_says(e, "model.family is wan2.2-a14b, but the files are those of wan2.1");
    assert_int_equal(OPEN(&b, &e, "a", "sampling.latent_dtype=bf16"), ERR_CONFIG);
    assert_says(e, "sampling.latent_dtype");
}

static void test_interrupted_run_leaves_nothing(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    run_files files = { .trace = in_folder("int.h5"), .video = in_folder("int.y4m"), .preview = in_folder("int.png") };
    must(OPEN(&b, &e, "a (ca)", "capture.latents.enabled=true"));
    interrupt_raise();
    assert_int_equal(runner_run(b.r, &b.v, 5, &files, &e), ERR_CANCELLED);
    interrupt_clear();
    assert_false(fs_exists(in_folder("int.h5")));
    assert_false(fs_exists(in_folder("int.h5.part")));
    assert_false(fs_exists(in_folder("int.y4m")));
    close_bench(&b);
}

static void test_unwritable(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    run_files trace = { .trace = in_folder("missing/t.h5") }, video = { .video = in_folder("missing/v.y4m") };
    must(OPEN(&b, &e, "a (ca)", "capture.latents.enabled=true"));
    assert_int_not_equal(runner_run(b.r, &b.v, 5, &trace, &e), 0);
    assert_says(e, "missing/t.h5");
    assert_int_not_equal(runner_run(b.r, &b.v, 5, &video, &e), 0);
    assert_says(e, "missing/v.y4m");
    close_bench(&b);
}

static void test_prompts_once(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    const prompt *p, *q;
    prompt_template *t;
    variation v = { 0 };
    must(OPEN(&b, &e, "a (ca:1.5)"));
    prompts *texts = runner_prompts(b.r);
    must(prompts_of_variation(texts, &b.v, &p, &e));
    must(prompts_of_variation(texts, &b.v, &q, &e));
    assert_ptr_equal(p, q);
    must(prompts_negative(texts, &q, &e));
    must(prompts_negative(texts, &q, &e));
    assert_int_equal(prompts_encoded(texts), 2);
    /* marks do not make another prompt, weights do, and they act on the word's rows alone */
    must(template_parse(&t, "a (ca)", 6, "t", &e));
    must(template_variation(t, 0, &v, &e));
    must(prompts_of_variation(texts, &v, &q, &e));
    assert_int_equal(prompts_encoded(texts), 3);
    variation_release(&v);
    template_free(t);
    must(template_parse(&t, "(a) ca", 6, "t", &e));
    must(template_variation(t, 0, &v, &e));
    const prompt *same;
    must(prompts_of_variation(texts, &v, &same, &e));
    assert_ptr_equal(same, q);
    variation_release(&v);
    template_free(t);
    prompt_words words;
    must(prompts_words(texts, &b.v, &words, &e));
    assert_int_equal(words.n, 1);
    assert_string_equal(words.items[0].text, "ca");
    int dim = prompt_dim(p), n = prompt_n_tokens(p);
    const float *heavy = prompt_rows((prompt *)p), *plain = prompt_rows((prompt *)q);
    for (int i = 0; i < n; i++) {
        bool hit = false;
        for (int k = 0; k < words.items[0].n_tokens; k++)
            hit = hit || words.items[0].tokens[k] == i;
        for (int k = 0; k < dim; k++)
            assert_true(heavy[i * dim + k] == (hit ? plain[i * dim + k] * 1.5f : plain[i * dim + k]));
    }
    prompt_words_release(&words);
    close_bench(&b);
}

static void test_listed_words(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    prompt_words words;
    int n;
    must(OPEN(&b, &e, "a ca a cat", "capture.attention.words=[a, zebra]"));
    must(prompts_words(runner_prompts(b.r), &b.v, &words, &e));
    assert_int_equal(words.n, 1);
    assert_string_equal(words.items[0].text, "a");
    assert_int_equal(words.n_dropped, 1);
    assert_string_equal(str_text(&words.dropped), "[\"zebra\"]");
    must(prompts_count_words(&b.c, &b.v, &n, &e));
    assert_int_equal(n, 1);
    prompt_words_release(&words);
    close_bench(&b);
}

static void test_latent_file(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    ckpt *c;
    run_files files = { .latent = in_folder("l.safetensors") };
    must(OPEN(&b, &e, "a"));
    must(runner_run(b.r, &b.v, 5, &files, &e));
    must(ckpt_open(&c, in_folder("l.safetensors"), &e));
    const ckpt_tensor *t = ckpt_find(c, "latent");
    assert_non_null(t);
    assert_int_equal(t->ndim, 5);
    assert_int_equal(t->shape[1], 16);
    assert_int_equal(t->shape[4], 6);
    assert_non_null(ckpt_metadata(c, "parameters"));
    ckpt_close(c);
    close_bench(&b);
}

static void test_parameters(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    str text = STR_INIT, other = STR_INIT;
    json *j;
    must(OPEN(&b, &e, "a \"(ca)\"", "capture.latents.enabled=true", "model.threads=1"));
    must(runner_parameters_json(b.r, &b.v, 5, &text, &e));
    must(json_parse(&j, str_text(&text), text.len, "parameters", &e));
    assert_string_equal(json_get_string(j, "prompt", ""), "a \"ca\"");
    assert_int_equal(json_get_int(j, "seed", 0), 5);
    assert_int_equal(strlen(json_get_string(json_get(j, "checkpoints"), "dit", "")), 64);
    json_free(j);
    close_bench(&b);
    must(OPEN(&b, &e, "a \"(ca)\""));      /* capture and threads leave no mark on the video */
    must(runner_parameters_json(b.r, &b.v, 5, &other, &e));
    assert_string_equal(str_text(&text), str_text(&other));
    str_release(&text);
    str_release(&other);
    close_bench(&b);
}

static void test_forecast(void **state)
{
    (void)state;
    bench b;
    err e = { 0 };
    batch list;
    forecast f;
    str text = STR_INIT;
    json *j;
    must(OPEN(&b, &e, "[a|b] (ca)", "capture.latents.enabled=true", "capture.attention.enabled=true", "batch.videos_per_variation=3"));
    must(batch_enumerate(&list, &b.c, &e));
    must(forecast_make(&f, b.r, &list, NULL, 1, folder, &e));
    assert_int_equal(f.runs, 6);
    assert_int_equal(f.runs_left, 5);
    assert_true(f.seconds_run > 0 && f.rate > 1e6 && f.host_bytes > 0);
    /* 4 rows of 16 x 2 x 4 x 6 f32, 3 steps x 2 blocks x 1 word x 2 x 2 x 3 f32, and small tables */
    assert_true(f.trace_bytes >= 4 * 16 * 2 * 4 * 6 * 4 + 3 * 2 * 12 * 4 && f.trace_bytes < 200000);
    /* all of that in f32 may wait in the queue; the threads that compress hold a step of it twice, or nothing without zlib */
    const int64_t row = 16 * 2 * 4 * 6 * 4, map = 12 * 4, sent = 4 * row + 6 * map, step = 2 * (row + 2 * map);
    assert_true(f.buffer_bytes >= sent && f.buffer_bytes <= sent + step + step / 100 + 100 && f.buffer_bytes < f.host_bytes);
    forecast_json(&f, &text);
    must(json_parse(&j, str_text(&text), text.len, "forecast", &e));
    assert_int_equal(json_get_int(j, "runs_left", 0), 5);
    assert_int_equal(json_get_int(j, "trace_buffer_bytes", 0), f.buffer_bytes);
    json_free(j);
    str_clear(&text);
    forecast_print(&f, &text);
    assert_non_null(strstr(str_text(&text), "6 (2 variations x 3 seeds), 5 left"));
    assert_non_null(strstr(str_text(&text), "on the way into the trace"));
    str_clear(&text);
    forecast_bytes_text(&text, 1500);
    str_add(&text, ", ");
    forecast_bytes_text(&text, 999);
    str_add(&text, ", ");
    forecast_time_text(&text, 3 * 3600 + 20 * 60);
    assert_string_equal(str_text(&text), "1.50 kB, 999 bytes, 3 h 20 min");
    str_release(&text);
    batch_release(&list);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#ifdef HAVE_HDF5
        cmocka_unit_test(test_trace_is_the_run), cmocka_unit_test(test_sparse_choices), cmocka_unit_test(test_mean_of_heads),
        cmocka_unit_test(test_no_word),
#endif
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_interrupted_run_leaves_nothing), cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_prompts_once), cmocka_unit_test(test_listed_words), cmocka_unit_test(test_latent_file),
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_forecast),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
