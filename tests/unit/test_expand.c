/* wanscope expand as a user sees it: standard output, standard error, exit status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/json.h"

int cmd_expand(int argc, char **argv);

static char *out_text, *err_text;   /* of the last call */

static char *tmp_path(const char *name)
{
    const char *tmp = getenv("TEST_TMP");
    return fs_join(tmp ? tmp : "/tmp", name);
}

static int redirect(FILE *stream, const char *path, int *saved)
{
    fflush(stream);
    *saved = dup(fileno(stream));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    int rc = dup2(fileno(f), fileno(stream));
    fclose(f);
    return rc;
}

static int expand(int argc, const char **args)
{
    char *argv[8] = { (char *)"expand" }, *out = tmp_path("expand.out"), *errors = tmp_path("expand.err");
    int saved_out, saved_err;
    size_t n;
    for (int i = 0; i < argc; i++)
        argv[i + 1] = (char *)args[i];
    free(out_text);
    free(err_text);
    redirect(stdout, out, &saved_out);
    redirect(stderr, errors, &saved_err);
    int rc = cmd_expand(argc + 1, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(saved_out, 1);
    dup2(saved_err, 2);
    close(saved_out);
    close(saved_err);
    assert_int_equal(fs_read_text(&out_text, &n, out, NULL), 0);
    assert_int_equal(fs_read_text(&err_text, &n, errors, NULL), 0);
    remove(out);
    remove(errors);
    free(out);
    free(errors);
    return rc;
}

#define EXPAND(...) \
    expand((int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)), (const char *[]){ __VA_ARGS__ })

static void test_lines(void **state)
{
    (void)state;
    assert_int_equal(EXPAND("a [red|blue] (cat:1.5)"), 0);
    assert_string_equal(out_text, "a red cat\na blue cat\n");
    assert_string_equal(err_text, "");
    assert_int_equal(EXPAND("[a|b|c|d]", "--start", "1", "--limit=2"), 0);
    assert_string_equal(out_text, "b\nc\n");
    assert_int_equal(EXPAND("--limit", "0", "[a|b]"), 0);
    assert_string_equal(out_text, "");
    assert_int_equal(EXPAND("--", "--count"), 0);
    assert_string_equal(out_text, "--count\n");
    assert_int_equal(EXPAND("line\nbreak"), 0);
    assert_string_equal(out_text, "line break\n");
    assert_int_equal(EXPAND("--help"), 0);
    assert_non_null(strstr(out_text, "usage: wanscope expand"));
}

static void test_count(void **state)
{
    (void)state;
    str s = STR_INIT;
    for (int i = 0; i < 7; i++)
        str_add(&s, "[0|1|2|3|4|5|6|7|8|9]");
    clock_t start = clock();
    assert_int_equal(EXPAND(str_text(&s), "--count"), 0);
    assert_string_equal(out_text, "10000000\n");
    assert_int_equal(EXPAND(str_text(&s), "--start", "9999998"), 0);
    assert_string_equal(out_text, "9999998\n9999999\n");
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 0.5);
    for (int i = 0; i < 4; i++) {
        char *copy = str_dup(str_text(&s));
        str_add(&s, copy);
        free(copy);
    }
    assert_int_equal(EXPAND(str_text(&s), "--count"), 0);
    assert_string_equal(out_text, "more than 340282366920938463463374607431768211455\n");
    assert_int_equal(EXPAND(str_text(&s), "--json", "--limit", "1"), 0);
    assert_non_null(strstr(out_text, "\"count\":\"more than "));
    str_release(&s);
}

static void test_json(void **state)
{
    (void)state;
    json *doc;
    err e = { 0 };
    assert_int_equal(EXPAND("--json", "[who=two men|a \"q\" 猫] (kiss:2) [a|b [c|d]]"), 0);
    if (json_parse(&doc, out_text, strlen(out_text), "stdout", &e))
        fail_msg("%s", e.text);
    assert_int_equal(json_get_int(doc, "count", 0), 6);
    const json *list = json_get(doc, "variations");
    assert_int_equal(json_count(list), 6);
    const json *v = json_at(list, 4);
    assert_int_equal(json_get_int(v, "number", -1), 4);
    assert_string_equal(json_get_string(v, "clean", ""), "a \"q\" 猫 kiss b c");
    assert_string_equal(json_get_string(v, "marked", ""), "a \"q\" 猫 (kiss:2) b c");
    assert_string_equal(json_get_string(v, "slug", ""), "a-q-b-c");
    assert_int_equal(strlen(json_get_string(v, "id", "")), 16);
    const json *mark = json_at(json_get(v, "marks"), 0);
    assert_string_equal(json_get_string(mark, "word", ""), "kiss");
    assert_true(json_get_number(mark, "weight", 0) == 2);
    const json *choices = json_get(v, "choices");
    assert_int_equal(json_count(choices), 3);
    assert_string_equal(json_get_string(json_at(choices, 0), "name", ""), "who");
    assert_int_equal(json_get_int(json_at(choices, 2), "alternative", 9), 0);
    assert_int_equal(json_get_int(json_at(json_get(json_at(list, 0), "choices"), 2), "alternative", 9), -1);
    json_free(doc);
    assert_int_equal(EXPAND("--json", "[a|b]", "--limit", "0"), 0);
    assert_int_equal(json_parse(&doc, out_text, strlen(out_text), "stdout", &e), 0);
    json_free(doc);
}

static void test_duplicates(void **state)
{
    (void)state;
    assert_int_equal(EXPAND("[a|a] [x|y]"), 0);
    assert_string_equal(out_text, "a x\na y\na x\na y\n");
    assert_string_equal(err_text, "wanscope expand: variations 0 and 2 have the same text \"a x\": 0 is (1:a, 2:x), 2 "
                                  "is (1:a, 2:x)\n"
                                  "wanscope expand: variations 1 and 3 have the same text \"a y\": 1 is (1:a, 2:y), 3 "
                                  "is (1:a, 2:y)\n");
    assert_int_equal(EXPAND("[a|a][b|b][c|c][d|d][e|e]"), 0);
    assert_non_null(strstr(err_text, "wanscope expand: 21 more variations repeat an earlier text\n"));
}

static void test_file(void **state)
{
    (void)state;
    char *path = tmp_path("expand_template.txt"), *at = str_format("@%s", path);
    assert_int_equal(fs_write_atomic(path, "a [b|c]\n", 8, NULL), 0);
    assert_int_equal(EXPAND(at), 0);
    assert_string_equal(out_text, "a b\na c\n");
    assert_int_equal(fs_write_atomic(path, "a\n[b|c\n", 7, NULL), 0);
    assert_int_equal(EXPAND(at), 2);
    assert_string_equal(out_text, "");
    assert_non_null(strstr(err_text, "expand_template.txt:2:1: '[' is never closed"));
    remove(path);
    assert_int_equal(EXPAND(at), 2);
    assert_non_null(strstr(err_text, path));
    free(path);
    free(at);
}

static void test_errors(void **state)
{
    (void)state;
    assert_int_equal(EXPAND("a [b"), 2);
    assert_string_equal(out_text, "");
    assert_string_equal(err_text, "wanscope expand: template:1:3: '[' is never closed; add ']', or write '\\[' for a "
                                  "plain one\n"
                                  "  a [b\n    ^\n");
    assert_int_equal(EXPAND("--count"), 2);
    assert_non_null(strstr(err_text, "no template was given; 'wanscope expand --help' lists what there is"));
    assert_int_equal(EXPAND("a", "b"), 2);
    assert_non_null(strstr(err_text, "unexpected argument b"));
    assert_int_equal(EXPAND("a", "--cuont"), 2);
    assert_non_null(strstr(err_text, "unknown option --cuont"));
    assert_int_equal(EXPAND("a", "--limit"), 2);
    assert_non_null(strstr(err_text, "--limit needs a whole number of 0 or more, found 'nothing'"));
    assert_int_equal(EXPAND("a", "--limit", "-3"), 2);
    assert_non_null(strstr(err_text, "found '-3'"));
    assert_int_equal(EXPAND("a", "--start=x"), 2);
    assert_non_null(strstr(err_text, "--start needs a whole number"));
    assert_int_equal(EXPAND("[a|b]", "--start", "2"), 2);
    assert_non_null(strstr(err_text, "--start 2 lies behind the last variation: the template has 2, numbered from 0"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines), cmocka_unit_test(test_count), cmocka_unit_test(test_json),
        cmocka_unit_test(test_duplicates),
        cmocka_unit_test(test_file), cmocka_unit_test(test_errors),
    };
    int rc = cmocka_run_group_tests_name("expand", tests, NULL, NULL);
    free(out_text);
    free(err_text);
    return rc;
}
