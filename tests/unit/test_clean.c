/* clean: upstream's prompt cleaning, with and without ftfy, the way back to the input, and what it refuses. The
 * expected texts are what Python's html.unescape, the regex module and ftfy 6.3 (without its encoding guesses) give. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/text/clean.h"
#include "core/text/unicode.h"

static const text_clean_options FTFY = { .ftfy = true };

static void expect(const char *in, const text_clean_options *o, const char *want)
{
    text_clean_result r;
    err e = { 0 };
    if (text_clean(in, o, &r, &e))
        fail_msg("'%s': %s", in, e.text);
    if (strcmp(r.text, want))
        fail_msg("'%s' became '%s', expected '%s'", in, r.text, want);
    assert_int_equal(r.len, strlen(want));
    assert_int_equal(r.origin[r.len], strlen(in));
    for (size_t i = 0; i < r.len; i++) {
        assert_true(r.origin[i] <= r.origin[i + 1]);
        assert_true(r.origin[i] <= r.origin_end[i] && r.origin_end[i] <= r.origin_end[i + 1]);
    }
    text_clean_release(&r);
}

static void plain(const char *in, const char *want)
{
    expect(in, &TEXT_CLEAN_DEFAULT, want);
}

static void ftfy(const char *in, const char *want)
{
    expect(in, &FTFY, want);
}

static void test_white_space(void **state)
{
    (void)state;
    plain("", "");
    plain(" \t\r\n", "");
    plain("  a  beautiful\tflower \n", "a beautiful flower");
    plain("a\xc2\xa0\xe3\x80\x80" "b\xe2\x80\xa8" "c\xc2\x85", "a b c");           /* U+00A0 U+3000 U+2028 U+0085 */
    plain("\x1c" "a\x1c" "b\x1f", "a\x1c" "b");             /* str.strip() takes separators, the regex \s does not */
    plain("a\xe2\x80\x8b" "b", "a\xe2\x80\x8b" "b");        /* U+200B is no white space */
}

static void test_entities(void **state)
{
    (void)state;
    plain("fish &amp; chips", "fish & chips");
    plain("&amp;lt;b&amp;gt;", "<b>");                       /* twice */
    plain("&amp;amp;lt;", "&lt;");                           /* not three times */
    plain("&eacute;&copy &notit; &notin;", "\xc3\xa9\xc2\xa9 \xc2\xacit; \xe2\x88\x89");
    plain("&NotEqualTilde;", "\xe2\x89\x82\xcc\xb8");        /* two characters */
    plain("&#65;&#x42;&#67 &#x1F600;", "ABC \xf0\x9f\x98\x80");
    plain("&#150;&#x80;", "\xe2\x80\x93\xe2\x82\xac");       /* Windows-1252, as browsers */
    plain("&#0;&#xd800;&#99999999999;|&#1;&#xfffe;|", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd||");
    plain("&; &# &#x; &zzz; & &&", "&; &# &#x; &zzz; & &&");
    plain("a&nbsp;&nbsp;b", "a b");                          /* blanks made by entities collapse */
    plain("x&nbsp;", "x");
}

static void test_ftfy(void **state)
{
    (void)state;
    ftfy("\xe2\x80\x9cit\xe2\x80\x99s\xe2\x80\x9d", "\"it's\"");
    plain("\xe2\x80\x9cit\xe2\x80\x99s\xe2\x80\x9d", "\xe2\x80\x9cit\xe2\x80\x99s\xe2\x80\x9d");
    ftfy("\xef\xbc\xa1\xef\xbc\xa2\xef\xbc\x8c\xef\xbc\x9a", "AB,:");               /* full width */
    ftfy("\xef\xbd\xb6\xef\xbe\x9e", "\xe3\x82\xac");        /* half-width katakana and its voicing mark compose */
    ftfy("\xef\xac\x81re \xef\xac\x84", "fire ffl");         /* ligatures */
    ftfy("cafe\xcc\x81", "caf\xc3\xa9");                     /* NFC */
    ftfy("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81");                   /* Hangul */
    ftfy("q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87");          /* canonical order of marks */
    ftfy("\x1b[31;1mred\x1b[0m\x07 dog\x7f\xef\xbb\xbf", "red dog");
    ftfy("a\xc2\x93" "b", "a\"b");                           /* C1 control, read as Windows-1252, then uncurled */
    ftfy("a\r\nb\rc\xe2\x80\xa9" "d", "a b c d");
    ftfy("&EACUTE; &FFILIG; &NTILDE;&nTILDE;", "\xc3\x89 FFI \xc3\x91&nTILDE;");
    ftfy("&amp;amp;amp;amp;lt;", "<");                       /* repeated until nothing changes */
    ftfy("<p>&amp;amp;lt;", "<p>&lt;");                      /* looks like HTML: only the two later passes */
    ftfy("&amp;amp;amp;\n<b>\n&amp;amp;amp;", "& <b> &amp;");
}

static void test_origin(void **state)
{
    (void)state;
    text_clean_result r;
    err e = { 0 };
    size_t b, end;
    const char *in = "  caf&eacute;  (red)\n";
    assert_int_equal(text_clean(in, &TEXT_CLEAN_DEFAULT, &r, &e), 0);
    assert_string_equal(r.text, "caf\xc3\xa9 (red)");
    assert_int_equal(r.origin[0], 2);
    assert_int_equal(r.origin[3], 5);                        /* both bytes of the letter come from the whole entity */
    assert_int_equal(r.origin[4], 5);
    assert_int_equal(r.origin_end[4], 13);
    assert_int_equal(r.origin[5], 13);                       /* one blank for two */
    assert_int_equal(r.origin_end[5], 15);
    size_t red = (size_t)(strstr(in, "red") - in);
    text_clean_map(&r, red, red + 3, &b, &end);
    assert_int_equal(end - b, 3);
    assert_memory_equal(r.text + b, "red", 3);
    text_clean_map(&r, 7, 9, &b, &end);                      /* inside the entity: its letter */
    assert_int_equal(b, 3);
    assert_int_equal(end, 5);
    text_clean_map(&r, 0, 2, &b, &end);                      /* what was stripped maps to nothing */
    assert_int_equal(b, end);
    text_clean_map(&r, 4, 4, &b, &end);
    assert_int_equal(b, end);
    text_clean_map(&r, 0, strlen(in), &b, &end);
    assert_int_equal(b, 0);
    assert_int_equal(end, r.len);
    text_clean_release(&r);

    assert_int_equal(text_clean("e\xcc\x81\xef\xac\x81", &FTFY, &r, &e), 0);
    assert_string_equal(r.text, "\xc3\xa9" "fi");
    assert_int_equal(r.origin_end[0], 3);                    /* a composed letter covers its parts */
    assert_int_equal(r.origin[2], 3);                        /* both letters of a ligature cover all of it */
    assert_int_equal(r.origin[3], 3);
    assert_int_equal(r.origin_end[3], 6);
    text_clean_release(&r);
    text_clean_release(NULL);
}

static void refuse(const char *in, const char *sentence)
{
    text_clean_result r;
    err e = { 0 };
    assert_int_equal(text_clean(in, &TEXT_CLEAN_DEFAULT, &r, &e), ERR_ARG);
    assert_string_equal(e.text, sentence);
    assert_null(r.text);
}

static void test_bad_input(void **state)
{
    (void)state;
    refuse("caf\xe9!", "the prompt is not UTF-8: byte 0xE9 at offset 3 (of 5) does not begin or continue a character; "
                       "save the text as UTF-8");
    refuse("a\xc0\x80", "the prompt is not UTF-8: byte 0xC0 at offset 1 (of 3) does not begin or continue a character; "
                        "save the text as UTF-8");
    refuse("ab\xe2\x82", "the prompt is not UTF-8: byte 0xE2 at offset 2 (of 4) does not begin or continue a "
                         "character; save the text as UTF-8");
    refuse("\xed\xa0\x80", "the prompt is not UTF-8: byte 0xED at offset 0 (of 3) does not begin or continue a "
                           "character; save the text as UTF-8");
    char *big = malloc(TEXT_CLEAN_MAX_BYTES + 2);
    assert_non_null(big);
    memset(big, 'a', TEXT_CLEAN_MAX_BYTES + 1);
    big[TEXT_CLEAN_MAX_BYTES + 1] = '\0';
    refuse(big, "the prompt has 1048577 bytes, expected at most 1048576; the text encoder reads only its first few "
                "hundred tokens");
    big[TEXT_CLEAN_MAX_BYTES] = '\0';
    expect(big, &FTFY, big);
    free(big);
}

/* A megabyte of the worst the rules allow ends soon: nested entities, one long run of combining marks. */
static void test_adversarial(void **state)
{
    (void)state;
    str s = STR_INIT;
    text_clean_result r;
    err e = { 0 };
    str_add(&s, "&");
    for (int i = 0; i < 20000; i++)
        str_add(&s, "amp;");
    assert_int_equal(text_clean(str_text(&s), &FTFY, &r, &e), 0);
    assert_true(r.len < s.len);
    text_clean_release(&r);
    str_clear(&s);
    str_add(&s, "a");
    for (int i = 0; i < 100000; i++)
        str_add(&s, i % 2 ? "\xcc\x80" : "\xcc\xa3");
    assert_int_equal(text_clean(str_text(&s), &FTFY, &r, &e), 0);
    assert_memory_equal(r.text, "\xe1\xba\xa1\xcc\xa3", 5);
    text_clean_release(&r);
    str_release(&s);
}

static void test_tables(void **state)
{
    (void)state;
    for (size_t i = 1; i < HTML_ENTITIES_COUNT; i++)
        assert_true(strcmp(HTML_ENTITIES[i - 1].name, HTML_ENTITIES[i].name) < 0);
    for (size_t i = 1; i < UNICODE_DECOMPOSITIONS_COUNT; i++)
        assert_true(UNICODE_DECOMPOSITIONS[i - 1].a < UNICODE_DECOMPOSITIONS[i].a);
    for (uint32_t c = 1; c < 0x110000; c++) {
        char bytes[4];
        int length;
        if (c >= 0xd800 && c <= 0xdfff)
            continue;
        int n = utf8_encode(bytes, c);
        assert_int_equal(utf8_decode(bytes, bytes + n, &length), c);
        assert_int_equal(length, n);
        if (n > 1)
            assert_int_equal(utf8_decode(bytes, bytes + n - 1, &length), -1);
    }
}

static void test_goldens(void **state)
{
    (void)state;
    const char *root = getenv("GOLDENS");
    char *dir = fs_join(root ? root : "../shared/goldens", "wan-t2v");
    char *path = fs_join(dir, "tokenizer_cases.json");
    if (!fs_exists(path)) {
        free(path);
        free(dir);
        skip();
    }
    json *cases;
    err e = { 0 };
    if (json_read_file(&cases, path, &e))
        fail_msg("%s", e.text);
    assert_true(json_count(cases) > 0);
    for (size_t i = 0; i < json_count(cases); i++)
        plain(json_get_string(json_at(cases, i), "text", NULL), json_get_string(json_at(cases, i), "cleaned", NULL));
    json_free(cases);
    free(path);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_white_space), cmocka_unit_test(test_entities),  cmocka_unit_test(test_ftfy),
        cmocka_unit_test(test_origin),      cmocka_unit_test(test_bad_input), cmocka_unit_test(test_adversarial),
        cmocka_unit_test(test_tables),      cmocka_unit_test(test_goldens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
