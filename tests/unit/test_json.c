#include "tests/unit/io_fixture.h"

#include <math.h>

#include "core/base/json.h"

static json *read_ok(const char *text)
{
    json *doc;
    err e = { 0 };
    if (json_parse(&doc, text, strlen(text), "t.json", &e))
        fail_msg("%s", e.text);
    return doc;
}

static void refused(const char *text, const char *sentence)
{
    json *doc;
    err e = { 0 };
    assert_int_equal(json_parse(&doc, text, strlen(text), "t.json", &e), ERR_FORMAT);
    assert_null(doc);
    assert_text_has(e.text, sentence);
}

static void values(void **state)
{
    (void)state;
    int64_t i;
    json *d = read_ok(" {\"a\": [1, -0, 2.5e3, true, false, null, \"x\\u00e9\\ud83d\\ude00\\n\"], \"b\": {}, "
                      "\"big\": 9223372036854775807, \"over\": 9223372036854775808, \"f\": 1.0, \"e\": []}\n");
    const json *a = json_get(d, "a");
    assert_int_equal(json_type(d), JSON_OBJECT);
    assert_int_equal(json_count(d), 6);
    assert_string_equal(json_key(d, 1), "b");
    assert_int_equal(json_count(a), 7);
    assert_true(json_int(json_at(a, 0), &i) && i == 1);
    assert_true(json_number(json_at(a, 2), 0) == 2500);
    assert_true(json_bool(json_at(a, 3), false) && !json_bool(json_at(a, 4), true));
    assert_int_equal(json_type(json_at(a, 5)), JSON_NULL);
    assert_string_equal(json_string(json_at(a, 6), ""), "x\xc3\xa9\xf0\x9f\x98\x80\n");
    assert_true(json_get_int(d, "big", 0) == INT64_MAX);
    assert_false(json_int(json_get(d, "over"), &i));
    assert_true(json_get_number(d, "over", 0) == 9223372036854775808.0);
    assert_false(json_int(json_get(d, "f"), &i));
    assert_int_equal(json_count(json_get(d, "e")), 0);
    /* wrong kinds and NULL answer quietly */
    assert_null(json_get(a, "x"));
    assert_null(json_at(a, 7));
    assert_null(json_at(json_get(d, "none"), 0));
    assert_string_equal(json_get_string(d, "a", "fallback"), "fallback");
    assert_int_equal(json_type(NULL), JSON_NONE);
    json_free(d);
    json_free(NULL);
}

static void many_members(void **state)
{
    (void)state;
    str s = STR_INIT;
    str_addc(&s, '{');
    for (int i = 0; i < 20000; i++)
        str_addf(&s, "%s\"key%d\":%d", i ? "," : "", i, i);
    str_addc(&s, '}');
    json *d = read_ok(str_text(&s));
    for (int i = 0; i < 20000; i += 7) {
        char key[32];
        snprintf(key, sizeof key, "key%d", i);
        assert_true(json_get_int(d, key, -1) == i);
    }
    json_free(d);
    s.data[s.len - 1] = ',';
    str_add(&s, "\"key77\":1}");
    refused(str_text(&s), "the member \"key77\" appears twice");
    str_release(&s);
}

static void refusals(void **state)
{
    (void)state;
    static const char *const BAD[][2] = {
        { "", "line 1, column 1: expected a value, found the end" },
        { "{\n \"a\": 1,\n}", "line 3, column 1: expected a member name" },
        { "[1, 2", "the text ends inside an array" },
        { "{\"a\" 1}", "expected ':'" },
        { "[1 2]", "expected ',' or ']'" },
        { "01", "must not begin with 0" },
        { "-", "expected a digit" },
        { "1.", "expected a digit after the decimal point" },
        { "1e", "expected a digit in the exponent" },
        { "1e999", "too large" },
        { "nul", "expected a value" },
        { "1 2", "unexpected characters" },
        { "\"a", "ends inside a string" },
        { "\"\x01\"", "control character" },
        { "\"\\x\"", "unknown escape" },
        { "\"\\ud800\"", "first half of a surrogate" },
        { "\"\\udc00\"", "second half of a surrogate" },
        { "\"\\u12g4\"", "hexadecimal" },
        { "\"\\u0000\"", "not supported" },
        { "\"\xff\"", "not UTF-8" },
        { "\"\xc0\x80\"", "not UTF-8" },
        { "\"\xed\xa0\x80\"", "not UTF-8" },
        { "{\"a\":1,\"a\":2}", "appears twice" },
        { "\xef\xbb\xbf{}", "expected a value" },
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        refused(BAD[i][0], BAD[i][1]);
    char deep[400];
    memset(deep, '[', 200);
    memset(deep + 200, ']', 200);
    json *doc;
    err e = { 0 };
    assert_int_equal(json_parse(&doc, deep, 400, "deep", &e), ERR_FORMAT);
    assert_text_has(e.text, "more than 128 levels");
    assert_int_equal(json_parse(&doc, deep + 100, 200, "deep", &e), 0);
    json_free(doc);
    assert_int_equal(json_read_file(&doc, "/nonexistent/x.json", &e), ERR_IO);
    assert_text_has(e.text, "/nonexistent/x.json: cannot open");
}

static void writes(void **state)
{
    (void)state;
    static const double NUMBERS[] = { 0, -0.0, 1, 0.1, 1.0 / 3, 1e300, 5e-324, 123456789012345678.0,
    0.999000012874603 };
    for (int indent = 0; indent < 3; indent++) {
        str s = STR_INIT;
        json_writer w;
        jw_init(&w, &s, indent);
        jw_object(&w);
        jw_kstring(&w, "te\"xt", "a\\\"\n\t\x01\xc3\xa9\xff");
        jw_kstring(&w, "none", NULL);
        jw_kint(&w, "int", INT64_MIN);
        jw_kbool(&w, "yes", true);
        jw_key(&w, "empty");
        jw_array(&w);
        jw_end_array(&w);
        jw_key(&w, "raw");
        jw_raw(&w, "[1]");
        jw_key(&w, "numbers");
        jw_array(&w);
        for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
            jw_double(&w, NUMBERS[i]);
        jw_double(&w, NAN);
        jw_double(&w, -INFINITY);
        jw_null(&w);
        jw_end_array(&w);
        jw_kdouble(&w, "d", 0.1);
        jw_end_object(&w);
        json *d = read_ok(str_text(&s));
        assert_string_equal(json_get_string(d, "te\"xt", ""), "a\\\"\n\t\x01\xc3\xa9\xef\xbf\xbd");
        assert_true(json_get_int(d, "int", 0) == INT64_MIN);
        const json *n = json_get(d, "numbers");
        for (size_t i = 0; i < sizeof NUMBERS / sizeof *NUMBERS; i++)
            assert_true(json_number(json_at(n, i), NAN) == NUMBERS[i]);
        assert_int_equal(json_type(json_at(n, json_count(n) - 2)), JSON_NULL);
        if (!indent)
            assert_text_has(str_text(&s),
                            "\"int\":-9223372036854775808,\"yes\":true,\"empty\":[],\"raw\":[1],\"numbers\":[0,");
        assert_text_has(str_text(&s), indent ? "\"d\": 0.1" : "\"d\":0.1}");
        json_free(d);
        str_release(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(values), cmocka_unit_test(many_members),
                                        cmocka_unit_test(refusals), cmocka_unit_test(writes) };
    return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
