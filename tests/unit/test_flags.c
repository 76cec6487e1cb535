#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "experiments/flags.h"
#include "experiments/interrupt.h"

static const flag_spec SPECS[] = {
    { "output-dir", 1, "output.dir", NULL, NULL },
    { "set", 1, NULL, NULL, NULL },
    { "store-latents", 0, "capture.latents.enabled", "true", NULL },
    { "video-size", 2, "video.height", "video.width", NULL },
    { "captions", FLAG_LIST, NULL, NULL, NULL },
    { "image-path", 1, NULL, NULL, "this build takes no images" },
};

static int parse(flags *f, err *e, int argc, char **argv)
{
    return flags_parse(f, "run", SPECS, sizeof SPECS / sizeof *SPECS, argc, argv, e);
}

#define PARSE(f, e, ...) \
    parse((f), (e), (int)(sizeof((char *[]){ "run", __VA_ARGS__ }) / sizeof(char *)), (char *[]){ "run", __VA_ARGS__ })

static void test_forms(void **state)
{
    (void)state;
    flags f;
    err e = { 0 };
    assert_int_equal(PARSE(&f, &e, "--output_dir", "a", "--set=x.y=1", "--store-latents", "--set", "z=2", "--video_size", "32", "48",
                           "--output-dir=b=c"), 0);
    assert_int_equal(f.n_items, 6);
    assert_string_equal(flags_value(&f, "output-dir"), "b=c");
    assert_string_equal(f.items[1].values[0], "x.y=1");
    assert_string_equal(f.items[3].values[0], "z=2");
    assert_string_equal(flags_find(&f, "video-size")->values[1], "48");
    assert_true(flags_given(&f, "store-latents"));
    assert_null(flags_value(&f, "image-path"));
    flags_release(&f);
    assert_int_equal(PARSE(&f, &e, "--set", "a=-1", "--output-dir", "-5"), 0);      /* one hyphen is a value */
    flags_release(&f);
    assert_int_equal(PARSE(&f, &e, "--help"), 0);
    assert_true(f.help);
    flags_release(&f);
    assert_int_equal(PARSE(&f, &e, "--version"), 0);
    assert_true(f.version);
    flags_release(&f);
}

static void test_lists(void **state)
{
    (void)state;
    flags f;
    err e = { 0 };
    assert_int_equal(PARSE(&f, &e, "--captions", "a b", "-c", "d", "--set", "x=1", "--captions", "e"), 0);
    assert_int_equal(f.n_items, 3);
    assert_int_equal(f.items[0].n_list, 3);
    assert_string_equal(f.items[0].list[0], "a b");
    assert_string_equal(f.items[0].list[2], "d");
    assert_string_equal(flags_find(&f, "captions")->list[0], "e");
    flags_release(&f);
    assert_int_equal(PARSE(&f, &e, "--captions", "--set", "x=1"), ERR_ARG);
    assert_non_null(strstr(e.text, "--captions needs one or more values after it"));
    flags_release(&f);
    assert_int_equal(PARSE(&f, &e, "--captions=a"), ERR_ARG);
    flags_release(&f);
}

static void refuses(const char *part, int argc, char **argv)
{
    flags f;
    err e = { 0 };
    assert_int_equal(parse(&f, &e, argc, argv), ERR_ARG);
    if (!strstr(e.text, part))
        fail_msg("'%s' does not say '%s'", e.text, part);
    flags_release(&f);
}
#define REFUSES(part, ...) \
    refuses((part), (int)(sizeof((char *[]){ "run", __VA_ARGS__ }) / sizeof(char *)), (char *[]){ "run", __VA_ARGS__ })

static void test_refusals(void **state)
{
    (void)state;
    REFUSES("unknown option --store-latent: did you mean --store-latents?", "--store_latent");
    REFUSES("'wanscope run --help' lists the options", "--quux-is-nothing");
    REFUSES("--set needs a value after it, found the end", "--set");
    REFUSES("--set needs a value after it, found '--store-latents'", "--set", "--store-latents");
    REFUSES("--video-size needs two values", "--video-size", "32");
    REFUSES("--video-size takes 2 values", "--video-size=32");
    REFUSES("--store-latents takes no value", "--store-latents=yes");
    REFUSES("unexpected argument 'cat'", "cat");
    REFUSES("unexpected argument '--'", "--");
    REFUSES("--image-path: this build takes no images", "--image-path", "a.png");
}

static const char *named(err *e, const flags *f, const char *sentence)
{
    err_set(e, ERR_CONFIG, "%s", sentence);
    flags_name_option(f, e);
    assert_int_equal(e->kind, ERR_CONFIG);
    return e->text;
}

static void test_names(void **state)
{
    (void)state;
    flags f;
    err e = { 0 };
    assert_int_equal(PARSE(&f, &e, "--output-dir", "a=1: b", "--store-latents", "--video-size", "33", "48", "--set", "z=2", "--captions", "c", "--output_dir=d"), 0);
    assert_string_equal(named(&e, &f, "--set output.dir=d: output.dir is 100%, not"), "--output-dir d: output.dir is 100%, not");
    assert_string_equal(named(&e, &f, "--set output.dir=a=1: b: no"), "--output-dir a=1: b: no");       /* the earlier one */
    assert_string_equal(named(&e, &f, "--set video.height=33: no"), "--video-size 33 48: no");
    assert_string_equal(named(&e, &f, "--set video.width=48: no"), "--video-size 33 48: no");
    assert_string_equal(named(&e, &f, "--set capture.latents.enabled=true: no"), "--store-latents: no");
    assert_string_equal(named(&e, &f, "--set output.dir=dd: no"), "--set output.dir=dd: no");           /* --set itself */
    assert_string_equal(named(&e, &f, "--set z=2: no"), "--set z=2: no");
    assert_string_equal(named(&e, &f, "a.yaml:3:1: no"), "a.yaml:3:1: no");
    flags_release(&f);
}

static void test_interrupt(void **state)
{
    (void)state;
    err e = { 0 };
    interrupt_clear();
    assert_int_equal(interrupt_check(&e), 0);
    interrupt_raise();
    assert_true(interrupt_pending());
    assert_int_equal(interrupt_check(&e), ERR_CANCELLED);
    interrupt_clear();
    assert_false(interrupt_pending());
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_forms), cmocka_unit_test(test_lists), cmocka_unit_test(test_refusals), cmocka_unit_test(test_names),
                                        cmocka_unit_test(test_interrupt) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
