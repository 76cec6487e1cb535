/* The YAML reader: the tree, scalars, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "experiments/yaml_flow.h"
#include "experiments/yaml_reader.h"

static yml_doc *parse(const char *text)
{
    yml_doc *d;
    err e = { 0 };
    if (yml_parse(&d, text, strlen(text), "t.yaml", &e))
        fail_msg("%s", e.text);
    return d;
}

static void check_error(const char *text, const char *place, const char *what)
{
    yml_doc *d;
    err e = { 0 };
    if (yml_parse(&d, text, strlen(text), "t.yaml", &e) != ERR_CONFIG)
        fail_msg("should not parse: %s", text);
    assert_null(d);
    if (strncmp(e.text, place, strlen(place)) || !strstr(e.text, what))
        fail_msg("the message\n%s\nshould begin with '%s' and hold '%s'", e.text, place, what);
}

static void test_tree(void **state)
{
    (void)state;
    yml_doc *d = parse("# comment\na: 1\nb:\n  - x\n  - {c: 'd e', f: [1, 2]}\ng: \"q\\n\"\nh:\n");
    assert_int_equal(d->root->kind, YML_MAP);
    assert_int_equal(d->root->n, 4);
    const yml_node *b = yml_get(d->root, "b");
    assert_int_equal(b->kind, YML_LIST);
    assert_int_equal(b->n, 2);
    assert_int_equal(b->items[0]->line, 4);
    assert_int_equal(b->items[0]->column, 5);
    assert_string_equal(yml_get(b->items[1], "c")->text, "d e");
    assert_int_equal(yml_get(b->items[1], "f")->n, 2);
    assert_string_equal(yml_get(d->root, "g")->text, "q\n");
    assert_true(yml_is_null(yml_get(d->root, "h")));
    assert_null(yml_get(d->root, "z"));
    assert_null(yml_get(b, "z"));
    assert_null(yml_get(NULL, "z"));
    yml_free(d);
    d = parse("# nothing\n");
    assert_null(d->root);
    yml_free(d);
    d = parse("!!str 5");
    int64_t i;
    assert_false(yml_int(d->root, &i));
    yml_free(d);
}

static void test_scalars(void **state)
{
    (void)state;
    static const struct { const char *text; bool ok; int64_t value; } INTS[] = {
        { "0", true, 0 }, { "-12", true, -12 }, { "+5", true, 5 }, { "1_000", true, 1000 }, { "0x1F", true, 31 },
        { "9223372036854775807", true, INT64_MAX }, { "9223372036854775808", false, 0 }, { "010", false, 0 },
        { "1:30", false, 0 }, { "1.0", false, 0 }, { "1e3", false, 0 }, { "'1'", false, 0 }, { "abc", false, 0 },
        { "1_", false, 0 }, { "0x", false, 0 }, { "[1]", false, 0 }, { "~", false, 0 },
    };
    for (size_t k = 0; k < sizeof INTS / sizeof *INTS; k++) {
        yml_doc *d = parse(INTS[k].text);
        int64_t v = 0;
        if (yml_int(d->root, &v) != INTS[k].ok || v != INTS[k].value)
            fail_msg("%s as a whole number", INTS[k].text);
        yml_free(d);
    }
    static const struct { const char *text; bool ok; double value; } DOUBLES[] = {
        { "1.5", true, 1.5 }, { "-.5", true, -.5 }, { "1e3", true, 1000 }, { "1.5e-3", true, .0015 }, { "7", true, 7 },
        { ".inf", false, 0 }, { ".nan", false, 0 }, { "nan", false, 0 }, { "1e999", false, 0 }, { "1,5", false, 0 },
        { "\"1.5\"", false, 0 }, { "1.5.2", false, 0 }, { "e5", false, 0 },
    };
    for (size_t k = 0; k < sizeof DOUBLES / sizeof *DOUBLES; k++) {
        yml_doc *d = parse(DOUBLES[k].text);
        double v = 0;
        if (yml_double(d->root, &v) != DOUBLES[k].ok || v != DOUBLES[k].value)
            fail_msg("%s as a number", DOUBLES[k].text);
        yml_free(d);
    }
    static const struct { const char *text; bool ok, value; } BOOLS[] = {
        { "yes", true, true }, { "No", true, false }, { "on", true, true }, { "OFF", true, false }, { "true", true,
                                                                                                      true },
        { "False", true, false }, { "1", false, false }, { "'yes'", false, false }, { "yEs", false, false },
    };
    for (size_t k = 0; k < sizeof BOOLS / sizeof *BOOLS; k++) {
        yml_doc *d = parse(BOOLS[k].text);
        bool v = false;
        if (yml_bool(d->root, &v) != BOOLS[k].ok || v != BOOLS[k].value)
            fail_msg("%s as a yes or no", BOOLS[k].text);
        yml_free(d);
    }
}

static void test_errors(void **state)
{
    (void)state;
    check_error("a: 1\nb: 2\na: 3\n", "t.yaml:3:1: ", "the key 'a' is already given at line 1");
    check_error("a: &x 1\n", "t.yaml:1:4: ", "anchors ('&x') are not supported");
    check_error("a: *x\n", "t.yaml:1:4: ", "aliases ('*x') are not supported");
    check_error("a:\n  <<: {b: 1}\n", "t.yaml:2:3: ", "merge keys ('<<') are not supported");
    check_error("a: 1\n---\nb: 2\n", "t.yaml:2:1: ", "a second document begins here");
    check_error("a: !!python/tuple [1]\n", "t.yaml:1:4: ", "the tag 'tag:yaml.org,2002:python/tuple' is not supported");
    check_error("a:\n\tb: 1\n", "t.yaml:2:1: ", "indented with a tab");
    check_error("? [a]\n: 1\n", "t.yaml:1:3: ", "a key must be a plain word");
    check_error("a: \"x\\0y\"\n", "t.yaml:1:4: ", "a text with a NUL character");
    check_error("a: b: c\n", "t.yaml:1:5: ", "a text with ': ' in it needs quotes");
    check_error("template: [a|b] cat\n", "t.yaml:1:17: ", "put a text that begins with '['");
    check_error("a: [1, 2\nb: 3\n", "t.yaml:2:2: ", "check the indentation");
    check_error("a: @x\n", "t.yaml:1:4: ", "put a text that begins with '@'");
    check_error("a: \"\\q\"\n", "t.yaml:1:", "write '\\\\' for a backslash");
    check_error("a: 'x\n", "t.yaml:2:1: ", "line 1");
    check_error("a: \xff\n", "t.yaml:1:4: ", "save the file as UTF-8");
    check_error("a: \x01\n", "t.yaml:1:4: ", "control characters");
    str s = STR_INIT;
    for (int i = 0; i < 200; i++)
        str_add(&s, "[");
    check_error(str_text(&s), "t.yaml:1:65: ", "nested more than 64 deep");
    str_release(&s);
    yml_doc *d;
    err e = { 0 };
    char *big = calloc(1, YML_MAX_BYTES + 1);
    assert_non_null(big);
    assert_int_equal(yml_parse(&d, big, YML_MAX_BYTES + 1, "t.yaml", &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "may have at most 4194304"));
    free(big);
    assert_int_equal(yml_read_file(&d, "/nonexistent/x.yaml", &e), ERR_IO);
    assert_non_null(strstr(e.text, "/nonexistent/x.yaml"));
}

static void test_quote(void **state)
{
    (void)state;
    static const char *const TEXTS[] = {
        "", "plain", " two  blanks ", "quote \" and \\ and ' and # and : x", "line\nbreak\ttab\x01\x7f", "\r\n",
        "色调艳丽，过曝 é 😀", "\xc2\x85 \xc2\x9f \xc2\xa0 \xe2\x80\xa8 \xe2\x80\xa9 \xef\xbb\xbf \xef\xbf\xbe \xef\xbf\xbf",
        "- [a|b] {c}", "null", "---",
    };
    for (size_t k = 0; k < sizeof TEXTS / sizeof *TEXTS; k++) {
        str s = STR_INIT;
        str_add(&s, "key: ");
        yml_quote(&s, TEXTS[k]);
        yml_doc *d = parse(str_text(&s));
        assert_string_equal(yml_get(d->root, "key")->text, TEXTS[k]);
        assert_false(yml_get(d->root, "key")->plain);
        yml_free(d);
        str_release(&s);
    }
}

/* ---- values of one line, read without libyaml ---- */

static void same_tree(const yml_node *a, const yml_node *b, const char *text)
{
    if (!a || !b) {
        if (a || b)
            fail_msg("%s: one reader sees nothing", text);
        return;
    }
    if (a->kind != b->kind || a->n != b->n || a->plain != b->plain || a->line != b->line || a->column != b->column ||
        (a->kind == YML_SCALAR && strcmp(a->text, b->text)))
        fail_msg("%s: column %d and %d, '%s' and '%s'", text, a->column, b->column, a->text ? a->text : "", b->text ? b->text : "");
    for (int i = 0; i < a->n; i++) {
        same_tree(a->items[i], b->items[i], text);
        if (a->kind == YML_MAP)
            same_tree(a->keys[i], b->keys[i], text);
    }
}

static void test_flow(void **state)
{
    (void)state;
    static const char *const GOOD[] = {
        "", "  ", "12", "\"quoted \\\" \\\\ \\n \\x41 \\u00e9 \\u20AC\"", "'it''s'", "[]", "{}", "[ ]", "[1, 2.5, yes, ~]", "[a b, 'c, d', \"e]\"]", "[a,]",
        "{path: \"x y.safetensors\", multiplier: 0.5}", "[{path: \"a\", expert: low}, {path: b}]", "{a: [1, [2, {c: d}]], 'e f': g}", "[http://a/b, 10:30]",
        "{\"a\": 1, b: {c: 2}}", "\xc3\xa9t\xc3\xa9 [0]", "[\xc3\xa9, x]", "a#b", "-1", "[-x]", "\"\"",
    };
    static const struct { const char *text, *place, *what; } BAD[] = {
        { "[a, b", "v:1:6:", "expected ',' or ']'" }, { "[a, ", "v:1:5:", "the text ends" }, { "{a: 1", "v:1:6:", "expected ',' or '}'" }, { "{a}", "v:1:3:", "after the key" },
        { "{a: 1, a: 2}", "v:1:8:", "given twice" }, { "{[a]: 1}", "v:1:2:", "plain word" }, { "{<<: 1}", "v:1:2:", "merge" }, { "\"a", "v:1:1:", "not closed" },
        { "'a' b", "v:1:5:", "follows" }, { "\"\\q\"", "v:1:2:", "escape" }, { "\"\\x4\"", "v:1:2:", "hexadecimal" }, { "\"\\x00\"", "v:1:2:", "no character" }, { "&a b", "v:1:1:", "quotes" },
        { "a: 1", "v:1:2:", "quotes" }, { "a #b", "v:1:3:", "quotes" }, { "- a", "v:1:1:", "quotes" }, { "[x, ?y]", "v:1:5:", "quotes" }, { "a: 1\nb: 2", "v:1:5:", "one line" }, { "a\001", "v:1:2:", "control" },
        { "[a\xff]", "v", "UTF-8" },
    };
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        yml_node *root;
        err e = { 0 };
        if (yml_flow_parse(&root, GOOD[i], strlen(GOOD[i]), "v", &e))
            fail_msg("%s: %s", GOOD[i], e.text);
#ifdef HAVE_YAML
        yml_doc *d = parse(GOOD[i]);
        same_tree(root, d->root, GOOD[i]);
        yml_free(d);
#endif
        yml_node_free(root);
    }
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        yml_node *root;
        err e = { 0 };
        assert_int_not_equal(yml_flow_parse(&root, BAD[i].text, strlen(BAD[i].text), "v", &e), 0);
        assert_null(root);
        if (strncmp(e.text, BAD[i].place, strlen(BAD[i].place)) || !strstr(e.text, BAD[i].what))
            fail_msg("%s: '%s' should begin with '%s' and hold '%s'", BAD[i].text, e.text, BAD[i].place, BAD[i].what);
    }
    str nested = STR_INIT;
    err e = { 0 };
    yml_node *root;
    for (int i = 0; i < 100; i++)
        str_addc(&nested, '[');
    assert_int_equal(yml_flow_parse(&root, nested.data, nested.len, "v", &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "nested too deep"));
    str_release(&nested);
}

int main(void)
{
#ifdef HAVE_YAML
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree), cmocka_unit_test(test_scalars), cmocka_unit_test(test_errors), cmocka_unit_test(test_quote),
        cmocka_unit_test(test_flow),
    };
#else
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_flow) };
    (void)test_tree, (void)test_scalars, (void)test_errors, (void)test_quote;
#endif
    return cmocka_run_group_tests_name("yaml", tests, NULL, NULL);
}
