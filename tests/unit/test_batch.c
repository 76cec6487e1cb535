#include <inttypes.h>
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
#include "core/base/log.h"
#include "experiments/batch.h"
#include "experiments/preview.h"

static char folder[1024];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/batch-%d", base ? base : "/tmp", (int)getpid());
    log_set_level(LOG_ERROR);
    return fs_mkdirs(folder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    return fs_remove_tree(folder, NULL);
}

#define assert_says(e, part) do { if (!strstr((e).text, (part))) fail_msg("'%s' does not say '%s'", (e).text, (part)); } while (0)

static void make_config(config *c, const char *const *more, int n)
{
    err e = { 0 };
    const char *sets[16] = { "model.path=m", "sampling.steps=3", "sampling.shift=3", "sampling.guidance_scale=4",
                             "sampling.guidance_scale_low=4", "sampling.boundary=0.875" };
    for (int i = 0; i < n; i++)
        sets[6 + i] = more[i];
    if (config_load(c, NULL, sets, 6 + n, NULL, &e))
        fail_msg("%s", e.text);
}
#define CONFIG(c, ...) make_config((c), (const char *const[]){ __VA_ARGS__ }, (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)))

static void test_order_and_seeds(void **state)
{
    (void)state;
    static const char *const clean[] = { "a c", "a c", "a d", "a d", "b c", "b c", "b d", "b d" };
    config c;
    batch b;
    err e = { 0 };
    CONFIG(&c, "prompt.template=[a|b] [c|d]", "batch.videos_per_variation=2", "model.seed=42");
    assert_int_equal(batch_enumerate(&b, &c, &e), 0);
    assert_int_equal(b.n_runs, 8);
    for (uint64_t i = 0; i < 8; i++) {
        variation v = { 0 };
        int64_t seed;
        assert_int_equal(batch_run(&b, i, &v, &seed, &e), 0);
        assert_string_equal(v.clean, clean[i]);
        assert_int_equal(seed, 42 + (int64_t)(i % 2));
        variation_release(&v);
    }
    batch_release(&b);
    config_release(&c);
}

static void test_choice_of_variations(void **state)
{
    (void)state;
    config c;
    batch b;
    err e = { 0 };
    CONFIG(&c, "prompt.template=[a|b|c|d|e|f]", "batch.variations=1,3-5", "batch.limit=3");
    assert_int_equal(batch_enumerate(&b, &c, &e), 0);
    assert_int_equal(b.n_variations, 3);
    assert_int_equal(batch_number(&b, 0), 1);
    assert_int_equal(batch_number(&b, 1), 3);
    assert_int_equal(batch_number(&b, 2), 4);
    assert_true(batch_number(&b, 99) == UINT64_MAX);
    batch_release(&b);
    config_release(&c);
}

static void test_ten_million(void **state)
{
    (void)state;
    config c;
    batch b;
    err e = { 0 };
    variation v = { 0 };
    int64_t seed;
    CONFIG(&c, "prompt.template=[0|1|2|3|4|5|6|7|8|9][0|1|2|3|4|5|6|7|8|9][0|1|2|3|4|5|6|7|8|9][0|1|2|3|4|5|6|7|8|9]"
               "[0|1|2|3|4|5|6|7|8|9][0|1|2|3|4|5|6|7|8|9][0|1|2|3|4|5|6|7|8|9]");
    assert_int_equal(batch_enumerate(&b, &c, &e), 0);
    assert_int_equal(b.n_runs, 10000000);
    assert_int_equal(batch_run(&b, 7654321, &v, &seed, &e), 0);
    assert_string_equal(v.clean, "7654321");
    variation_release(&v);
    batch_release(&b);
    config_release(&c);
}

static void refuses(const char *part, const char *const *more, int n)
{
    config c;
    batch b;
    err e = { 0 };
    const char *sets[16] = { "model.path=m" };
    for (int i = 0; i < n; i++)
        sets[1 + i] = more[i];
    int rc = config_load(&c, NULL, sets, 1 + n, NULL, &e);
    if (!rc) {
        rc = batch_enumerate(&b, &c, &e);
        if (!rc)
            batch_release(&b);
        config_release(&c);
    }
    assert_int_not_equal(rc, 0);
    assert_says(e, part);
}
#define REFUSES(part, ...) \
    refuses((part), (const char *const[]){ __VA_ARGS__ }, (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)))

static void test_refusals(void **state)
{
    (void)state;
    REFUSES("variation 9, but the template has 2", "prompt.template=[a|b]", "batch.variations=0,9");
    REFUSES("no prompt", "prompt.template=");
    REFUSES("^", "prompt.template=a [b|c");
    REFUSES("seed", "prompt.template=a", "model.seed=9223372036854775807");
    REFUSES("replaces the prompt of every step", "prompt.template=[a|b]", "schedules.prompt={0: x, 3: y}", "sampling.steps=9");
}

static void test_names(void **state)
{
    (void)state;
    config c;
    CONFIG(&c, "prompt.template=a", "output.use_timestamp=false", "output.dir=out/x");
    char *name = batch_name(&c, "configs/my sweep.yaml");
    assert_string_equal(name, "my-sweep");
    char *dir = batch_folder(&c, name, 0);
    assert_string_equal(dir, "out/x/my-sweep");
    free(dir);
    free(name);
    c.output.use_timestamp = true;
    dir = batch_folder(&c, "a", 1000000000);
    assert_int_equal(strlen(dir), strlen("out/x/a-20010909-014640"));
    free(dir);
    config_release(&c);
    CONFIG(&c, "prompt.template=a");      /* --batch-name refuses slashes; the name of a file is made fit */
    name = batch_name(&c, "x/.a b$c.yml");
    assert_string_equal(name, "-a-b-c");
    free(name);
    name = batch_name(&c, NULL);
    assert_string_equal(name, "batch");
    free(name);
    config_release(&c);
}

static void test_run_config(void **state)
{
    (void)state;
    config a, b;
    err e = { 0 };
    str ta = STR_INIT, tb = STR_INIT, again = STR_INIT;
    char ia[65], ib[65];
    engine_info info = { .precision = "exact", .dit_digest = "d1", .dit_low_digest = "", .t5_digest = "t", .vae_digest = "v" };
    CONFIG(&a, "prompt.template=[a|b] (c)", "model.seed=5", "output.dir=here", "model.threads=1", "batch.videos_per_variation=9");
    CONFIG(&b, "prompt.template=[x|y|a] (c)", "model.seed=6", "output.dir=two", "batch.name=n", "output.video=false");
    assert_int_equal(batch_run_config(&ta, &a, "a (c)", 6, &e), 0);
    assert_int_equal(batch_run_config(&tb, &b, "a (c)", 6, &e), 0);
    assert_string_equal(str_text(&ta), str_text(&tb));      /* where, how many, how fast do not matter */
    assert_null(strstr(str_text(&ta), "here"));
    assert_int_equal(batch_identity(ia, str_text(&ta), &info, &e), 0);
    assert_int_equal(batch_identity(ib, str_text(&tb), &info, &e), 0);
    assert_string_equal(ia, ib);
    info.dit_digest = "d2";
    assert_int_equal(batch_identity(ib, str_text(&tb), &info, &e), 0);
    assert_string_not_equal(ia, ib);
    str_clear(&tb);
    assert_int_equal(batch_run_config(&tb, &b, "a (c)", 7, &e), 0);
    assert_string_not_equal(str_text(&ta), str_text(&tb));

    config run;      /* the text is a config that stands for this one run */
    batch one;
    assert_int_equal(config_parse(&run, str_text(&ta), ta.len, "run", NULL, 0, NULL, &e), 0);
    assert_int_equal(batch_enumerate(&one, &run, &e), 0);
    assert_int_equal(one.n_runs, 1);
    assert_int_equal(batch_seed(&one, 0), 6);
    assert_int_equal(batch_run_config(&again, &run, "a (c)", 6, &e), 0);
    assert_string_equal(str_text(&again), str_text(&ta));
    batch_release(&one);
    config_release(&run);
    config_release(&a);
    config_release(&b);
    str_release(&ta);
    str_release(&tb);
    str_release(&again);
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(fs_write_atomic(path, text, strlen(text), NULL), 0);
}

static void test_folder(void **state)
{
    (void)state;
    char dir[1100], path[1200];
    err e = { 0 };
    manifest *m = NULL, *second = NULL;
    snprintf(dir, sizeof dir, "%s/new/sweep", folder);
    assert_int_equal(batch_check_new(dir, "a: 1\n", &e), 0);
    assert_false(fs_exists(dir));
    assert_int_equal(batch_create(&m, dir, "a: 1\n", "[a|b]", &e), 0);
    assert_int_equal(batch_reopen(&second, dir, &e), ERR_IO);      /* locked */
    assert_null(second);
    manifest_close(m);
    assert_int_equal(batch_create(&m, dir, "a: 1\n", "[a|b]", &e), ERR_CONFIG);
    assert_says(e, "this very batch exists; go on with it: wanscope run --resume");
    assert_int_equal(batch_create(&m, dir, "a: 2\n", "[a|b]", &e), ERR_CONFIG);
    assert_says(e, "a batch with other settings exists there");
    put(dir, "manifest.jsonl.part", "x");
    assert_int_equal(batch_reopen(&m, dir, &e), 0);
    snprintf(path, sizeof path, "%s/manifest.jsonl.part", dir);
    assert_false(fs_exists(path));
    manifest_close(m);

    /* a start that was cut short before config.yaml can begin again; a stranger's folder cannot */
    snprintf(dir, sizeof dir, "%s/cut", folder);
    assert_int_equal(fs_mkdirs(dir, &e), 0);
    put(dir, "template.txt", "a");
    put(dir, "config.yaml.part", "a");
    assert_int_equal(batch_create(&m, dir, "a: 1\n", "a", &e), 0);
    manifest_close(m);
    snprintf(dir, sizeof dir, "%s/other", folder);
    assert_int_equal(fs_mkdirs(dir, &e), 0);
    put(dir, "thesis.tex", "x");
    assert_int_equal(batch_create(&m, dir, "a: 1\n", "a", &e), ERR_CONFIG);
    assert_says(e, "holds 'thesis.tex' but no batch");
    snprintf(path, sizeof path, "%s/thesis.tex", dir);
    assert_int_equal(batch_create(&m, path, "a: 1\n", "a", &e), ERR_CONFIG);
    assert_says(e, "a file of that name is in the way");
}

static void test_run_folder(void **state)
{
    (void)state;
    variation v = { .number = 3 };
    strcpy(v.slug, "red-cat");
    char *p = batch_run_folder(&v, 44);
    assert_string_equal(p, "runs/0003-red-cat/s44");
    free(p);
    v.slug[0] = '\0';
    v.number = 123456;
    p = batch_run_folder(&v, 0);
    assert_string_equal(p, "runs/123456/s0");
    free(p);
}

static void test_preview(void **state)
{
    (void)state;
    preview p;
    err e = { 0 };
    assert_int_equal(preview_init(&p, 512, 64, 17, &e), 0);
    assert_int_equal(p.n, 5);
    assert_int_equal(p.factor, 2);
    assert_int_equal(p.width, 256);
    assert_int_equal(p.height, 32);
    assert_int_equal(p.at[0], 0);
    assert_int_equal(p.at[2], 8);
    assert_int_equal(p.at[4], 16);
    uint8_t *rgb = malloc(512 * 64 * 3);
    memset(rgb, 200, 512 * 64 * 3);
    preview_frame(&p, 8, 512, 64, rgb);
    preview_frame(&p, 9, 512, 64, rgb);
    assert_int_equal(p.sheet[2 * 256 * 3], 200);
    assert_int_equal(p.sheet[1 * 256 * 3], 0);
    assert_int_equal(p.sheet[3 * 256 * 3], 0);
    preview_release(&p);
    assert_int_equal(preview_init(&p, 16, 16, 1, &e), 0);
    assert_int_equal(p.n, 1);
    preview_frame(&p, 0, 16, 16, rgb);
    assert_int_equal(p.sheet[0], 200);
    preview_release(&p);
    free(rgb);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_seeds), cmocka_unit_test(test_choice_of_variations), cmocka_unit_test(test_ten_million),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_names), cmocka_unit_test(test_run_config), cmocka_unit_test(test_folder),
        cmocka_unit_test(test_run_folder), cmocka_unit_test(test_preview),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
