/* Templates: grammar, order, counts, spans, links, messages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "experiments/template.h"

static prompt_template *parse(const char *text)
{
    prompt_template *t;
    err e = { 0 };
    if (template_parse(&t, text, strlen(text), "template", &e))
        fail_msg("'%s' did not parse: %s", text, e.text);
    return t;
}

/* All clean texts, joined with '/'. */
static void check_texts(const char *text, const char *want)
{
    prompt_template *t = parse(text);
    str got = STR_INIT;
    err e = { 0 };
    for (uint64_t i = 0; i < template_count(t); i++) {
        variation v;
        str clean = STR_INIT;
        assert_int_equal(template_variation(t, i, &v, &e), 0);
        assert_int_equal(v.number, i);
        str_add(&got, i ? "/" : "");
        str_add(&got, v.clean);
        assert_int_equal(template_clean_text(t, i, &clean, &e), 0);
        assert_string_equal(str_text(&clean), v.clean);
        str_release(&clean);
        variation_release(&v);
    }
    if (strcmp(str_text(&got), want))
        fail_msg("'%s' gives\n  %s\nexpected\n  %s", text, str_text(&got), want);
    str_release(&got);
    template_free(t);
}

static void check_marked(const char *text, uint64_t index, const char *want)
{
    prompt_template *t = parse(text);
    variation v;
    err e = { 0 };
    assert_int_equal(template_variation(t, index, &v, &e), 0);
    assert_string_equal(v.marked, want);
    variation_release(&v);
    template_free(t);
}

/* The message holds `what`, and the caret stands in column `column` of the (short) line shown. */
static void check_error(const char *text, int column, const char *what)
{
    prompt_template *t;
    err e = { 0 };
    int rc = template_parse(&t, text, strlen(text), "template", &e);
    if (rc == 0)
        fail_msg("'%s' should not parse", text);
    assert_null(t);
    assert_int_equal(rc, ERR_ARG);
    if (!strstr(e.text, what))
        fail_msg("'%s': the message\n%s\nlacks '%s'", text, e.text, what);
    if (column) {
        char place[32];
        snprintf(place, sizeof place, "template:1:%d: ", column);
        if (strncmp(e.text, place, strlen(place)))
            fail_msg("'%s': the message\n%s\nshould begin with %s", text, e.text, place);
        const char *last = strrchr(e.text, '\n');
        assert_non_null(last);
        assert_int_equal(strlen(last), 1 + 2 + column);
        assert_int_equal(last[strlen(last) - 1], '^');
    }
}

static void test_alternatives(void **state)
{
    (void)state;
    check_texts("a cat", "a cat");
    check_texts("a [red|blue] cat", "a red cat/a blue cat");
    check_texts("[a|b] [c|d]", "a c/a d/b c/b d");
    check_texts("[|dog]", "/dog");
    check_texts("[park|]", "park/");
    check_texts("[park|street|]", "park/street/");
    check_texts("[|]", "/");
    check_texts("My favorite [|dog|cat] in the [park|street|]",
                "My favorite  in the park/My favorite  in the street/My favorite  in the /My favorite dog in the park/"
                "My favorite dog in the street/My favorite dog in the /My favorite cat in the park/"
                "My favorite cat in the street/My favorite cat in the ");
    check_texts("[a [b|c]|d]", "a b/a c/d");
    check_texts("[a/[b|c]|d]", "a/b/a/c/d");
    check_texts("[x [a|b]|y] [p [c|d]|q]", "x a p c/x a p d/x a q/x b p c/x b p d/x b q/y p c/y p d/y q");
    check_texts("[a[b[c[d|e]|f]|g]|h]", "abcd/abce/abf/ag/h");
    check_texts("a | b", "a | b");
    check_texts("a = b : c", "a = b : c");
    check_texts("a  [ b |c ]  d", "a   b   d/a  c   d");
}

static void test_plain_brackets(void **state)
{
    (void)state;
    check_texts("[global caption] Two [character1]. [shot cut] x", "[global caption] Two [character1]. [shot cut] x");
    check_texts("[]", "[]");
    check_texts("[[a]]", "[[a]]");
    check_texts("[shot [1|2] cut]", "[shot 1 cut]/[shot 2 cut]");
    check_texts("[[a]|b]", "[a]/b");
    check_texts("[the (cat) sits]", "[the cat sits]");
}

static void test_escapes(void **state)
{
    (void)state;
    check_texts("\\[a\\|b\\] \\(c\\) \\\\ \\: \\=", "[a|b] (c) \\ : =");
    check_texts("[a\\|b|c]", "a|b/c");
    check_texts("[a\\|b]", "[a|b]");
    check_texts("[x\\=y]", "[x=y]");
    check_texts("[x\\=y|z]", "x=y/z");
    check_texts("C:\\dir\\", "C:\\dir\\");
    check_texts("a \\n b", "a \\n b");
    check_marked("C:\\dir", 0, "C:\\\\dir");
    check_marked("\\(a\\) [x\\=y] a=b [p|q=r]", 1, "\\(a\\) [x\\=y] a=b q=r");
}

static void test_links(void **state)
{
    (void)state;
    check_texts("[who=two men|two women] kiss, [=who]", "two men kiss, two men/two women kiss, two women");
    check_texts("[who=a|b] [=who|his|her] x", "a his x/b her x");
    check_texts("[who=a|b] [=who|x [1|2]|y] [p|q]", "a x 1 p/a x 1 q/a x 2 p/a x 2 q/b y p/b y q");
    check_texts("[who=a [1|2]|b]-[=who]", "a 1-a 1/a 2-a 2/b-b");
    check_texts("[n=x]-[=n]", "x-x");
    check_texts("[who=a=b|c]", "a=b/c");
    check_texts("[p|q=r]", "p/q=r");
    check_texts("[a [n=1|2] [=n|one|two]|b]", "a 1 one/a 2 two/b");
    check_texts("[n=1|2] [a [=n]|b]", "1 a 1/1 b/2 a 2/2 b");
    check_texts("[who=a|b][=who|[1|2]|[3|4]]", "a1/a2/b3/b4");
    check_texts("[名=a|b] [=名]", "a a/b b");
    /* two names that steer what follows, one inside the other's link */
    check_texts("[a=1|2][b=x|y][=a|[=b|p[u|v]|q]|r]", "1xpu/1xpv/1yq/2xr/2yr");
}

static void test_counts(void **state)
{
    (void)state;
    char text[64];
    str s = STR_INIT;
    for (int i = 0; i < 7; i++)
        str_add(&s, "[a|b|c|d|e|f|g|h|i|j]");
    prompt_template *t = parse(str_text(&s));
    assert_int_equal(template_count(t), 10000000);
    variation v;
    err e = { 0 };
    assert_int_equal(template_variation(t, 1234567, &v, &e), 0);
    assert_string_equal(v.clean, "bcdefgh");
    assert_int_equal(v.n_choices, 7);
    assert_int_equal(v.choices[6].alternative, 7);
    variation_release(&v);
    assert_int_equal(template_variation(t, 10000000, &v, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "variation 10000000 was asked for, but the template has 10000000 (numbers begin at "
                                   "0)"));
    template_free(t);
    /* 10^20 does not fit 64 bits, 10^40 not 128 */
    str_clear(&s);
    for (int i = 0; i < 20; i++)
        str_add(&s, "[a|b|c|d|e|f|g|h|i|j]");
    t = parse(str_text(&s));
    assert_true(template_count(t) == UINT64_MAX);
    template_count_text(t, text);
    assert_string_equal(text, "100000000000000000000");
    assert_int_equal(template_variation(t, 1234567, &v, &e), 0);
    assert_string_equal(v.clean, "aaaaaaaaaaaaabcdefgh");
    variation_release(&v);
    template_free(t);
    for (int i = 0; i < 20; i++)
        str_add(&s, "[a|b|c|d|e|f|g|h|i|j]");
    t = parse(str_text(&s));
    template_count_text(t, text);
    assert_string_equal(text, "more than 340282366920938463463374607431768211455");
    assert_int_equal(template_variation(t, 7, &v, &e), 0);
    assert_int_equal(v.choices[39].alternative, 7);
    variation_release(&v);
    template_free(t);
    str_release(&s);
}

static void test_marks(void **state)
{
    (void)state;
    prompt_template *t = parse("a (kiss) of ( two [men|women] :1.5) and ((red) ball:2), (at 12:30) (x:y) ([|dog])");
    variation v;
    err e = { 0 };
    assert_int_equal(template_variation(t, 0, &v, &e), 0);
    assert_string_equal(v.clean, "a kiss of  two men  and red ball, at 12:30 x:y ");
    assert_int_equal(v.n_spans, 6);
    static const struct { const char *word; double weight; } WANT[] = {
        { "kiss", 1 }, { "two men", 1.5 }, { "red ball", 2 }, { "red", 1 }, { "at 12:30", 1 }, { "x:y", 1 },
    };
    for (int i = 0; i < 6; i++) {
        assert_string_equal(v.spans[i].word, WANT[i].word);
        assert_true(v.spans[i].weight == WANT[i].weight);
        assert_int_equal(v.spans[i].end - v.spans[i].begin, strlen(WANT[i].word));
        assert_memory_equal(v.clean + v.spans[i].begin, WANT[i].word, strlen(WANT[i].word));
    }
    assert_string_equal(v.marked, "a (kiss) of ( two men :1.5) and ((red) ball:2), (at 12\\:30) (x\\:y) ");
    variation_release(&v);
    assert_int_equal(template_variation(t, 3, &v, &e), 0);
    assert_int_equal(v.n_spans, 7);
    assert_string_equal(v.spans[6].word, "dog");
    variation_release(&v);
    template_free(t);
    check_marked("(cat:1.0)", 0, "(cat)");
    check_marked("(route 66:2.0)", 0, "(route 66:2.0)");
    check_marked("(route 66:2)", 0, "(route 66\\:2)");
    check_marked("(cat:1e2) (dog:.5) (x:0)", 0, "(cat:1e+02) (dog:0.5) (x:0)");
    check_marked("(cat\\:1.5)", 0, "(cat\\:1.5)");
    check_marked("(a:b:1.5)", 0, "(a\\:b:1.5)");
}

static void test_weight_sweep(void **state)
{
    (void)state;
    prompt_template *t = parse("(kiss:[w=1|1.5|2]) (hug:[=w]) (style:[oil|ink]) (at 12:[30|45])");
    variation v;
    err e = { 0 };
    assert_int_equal(template_count(t), 12);
    assert_int_equal(template_variation(t, 4, &v, &e), 0);
    assert_string_equal(v.clean, "kiss hug style:oil at 12:30");
    assert_string_equal(v.marked, "(kiss:1.5) (hug:1.5) (style\\:oil) (at 12\\:30)");
    assert_string_equal(v.choices[0].text, "1.5");
    assert_string_equal(v.slug, "1-5-oil-30");
    variation_release(&v);
    template_free(t);
}

/* The marked text of a variation is a template with that one variation. */
static void test_round_trip(void **state)
{
    (void)state;
    static const char *const TEMPLATES[] = {
        "a [red|blue] (cat:[1|2]) \\(x\\) [plain] [a\\|b] (p\\:1.5) (q [r\\:2|s])", "([a|]) ((b) [c|d]:0.1) \\\\ [e "
                                                                                    "[f=g|h] i]",
        "[x|y=z] [foo [x|y=z|p\\|q] bar] ([m=1|2]:[=m])", "(a [b:1.5])", "(66 :2)(66:2.0)([66|x]:3)",
        "[shot (a:2) [b|c]] ( a )",
    };
    for (size_t k = 0; k < sizeof TEMPLATES / sizeof *TEMPLATES; k++) {
        prompt_template *t = parse(TEMPLATES[k]);
        err e = { 0 };
        for (uint64_t i = 0; i < template_count(t); i++) {
            variation v, w;
            assert_int_equal(template_variation(t, i, &v, &e), 0);
            prompt_template *u = parse(v.marked);
            assert_int_equal(template_count(u), 1);
            assert_int_equal(template_variation(u, 0, &w, &e), 0);
            assert_string_equal(w.clean, v.clean);
            assert_string_equal(w.marked, v.marked);
            assert_string_equal(w.id, v.id);
            assert_int_equal(w.n_spans, v.n_spans);
            for (int s = 0; s < v.n_spans; s++) {
                assert_int_equal(w.spans[s].begin, v.spans[s].begin);
                assert_int_equal(w.spans[s].end, v.spans[s].end);
                assert_true(w.spans[s].weight == v.spans[s].weight);
            }
            variation_release(&v);
            variation_release(&w);
            template_free(u);
        }
        template_free(t);
    }
}

static void test_choices_slug_id(void **state)
{
    (void)state;
    prompt_template *t = parse("[who=two (men)|Two Women] in a [big [old|new] |]house");
    variation v;
    err e = { 0 };
    assert_int_equal(template_count(t), 6);
    assert_int_equal(template_bracket_count(t), 3);
    assert_int_equal(template_variation(t, 1, &v, &e), 0);
    assert_int_equal(v.n_choices, 3);
    assert_string_equal(v.choices[0].name, "who");
    assert_string_equal(v.choices[0].text, "two men");
    assert_string_equal(v.choices[1].name, "");
    assert_string_equal(v.choices[1].text, "big new ");
    assert_int_equal(v.choices[2].alternative, 1);
    assert_string_equal(v.slug, "two-men-big-new");
    assert_int_equal(strlen(v.id), 16);
    str s = STR_INIT;
    variation_describe(&v, &s);
    assert_string_equal(str_text(&s), "who=two men, 2:big new , 3:new");
    variation_release(&v);
    assert_int_equal(template_variation(t, 5, &v, &e), 0);
    assert_int_equal(v.choices[2].alternative, -1);
    assert_string_equal(v.choices[2].text, "");
    assert_string_equal(v.slug, "two-women-none");
    str_clear(&s);
    variation_describe(&v, &s);
    assert_string_equal(str_text(&s), "who=Two Women, 2:'', 3:-");
    variation_release(&v);
    template_free(t);
    t = parse("a");
    assert_int_equal(template_variation(t, 0, &v, &e), 0);
    assert_string_equal(v.id, "ca978112ca1bbdca");   /* SHA-256 of "a" */
    variation_release(&v);
    template_free(t);
    /* other alphabets, long texts */
    t = parse("[猫|狗] [a very long alternative that will not fit into a slug of forty-eight|x]");
    assert_int_equal(template_variation(t, 2, &v, &e), 0);
    assert_string_equal(v.slug, "2-a-very-long-alternative-that-will-not-fit");
    assert_true(strlen(v.slug) <= TEMPLATE_SLUG_MAX);
    variation_release(&v);
    template_free(t);
    t = parse("猫");
    assert_int_equal(template_variation(t, 0, &v, &e), 0);
    assert_string_equal(v.slug, v.id);
    variation_release(&v);
    template_free(t);
    str_release(&s);
}

static void test_words(void **state)
{
    (void)state;
    prompt_template *t = parse("a (man) and a woman, the man's (hat) on a man (man), 黑(猫)和猫, (été) étés été");
    variation v;
    variation_word *w;
    int n;
    err e = { 0 };
    assert_int_equal(template_variation(t, 0, &v, &e), 0);
    assert_int_equal(variation_words(&v, &w, &n, &e), 0);
    assert_int_equal(n, 4);
    assert_string_equal(w[0].text, "man");
    assert_int_equal(w[0].n_places, 4);      /* not in "woman" */
    assert_int_equal(w[0].places[0][0], 2);
    assert_int_equal(w[1].n_places, 1);
    assert_string_equal(w[2].text, "猫");
    assert_int_equal(w[2].n_places, 2);
    assert_string_equal(w[3].text, "été");
    assert_int_equal(w[3].n_places, 2);      /* not in "étés" */
    variation_words_free(w, n);
    variation_release(&v);
    template_free(t);
}

static void test_duplicates(void **state)
{
    (void)state;
    prompt_template *t = parse("[a|b][|b] [x| x]");
    duplicate_finder *d;
    err e = { 0 };
    uint64_t pairs = 0, earlier;
    assert_int_equal(duplicate_finder_new(&d, &e), 0);
    for (uint64_t i = 0; i < template_count(t); i++) {
        variation v;
        assert_int_equal(template_variation(t, i, &v, &e), 0);
        assert_int_equal(duplicate_finder_add(d, &v, &earlier, &e), 0);
        if (earlier != UINT64_MAX) {
            pairs++;
            assert_int_equal(earlier, i - 1);   /* only the blank differs */
        }
        variation_release(&v);
    }
    assert_int_equal(pairs, 4);
    duplicate_finder_free(d);
    str s = STR_INIT;
    template_free(t);
    t = parse("[c|c] d");
    assert_int_equal(template_describe_duplicate(t, 0, 1, &s, &e), 0);
    assert_string_equal(str_text(&s), "variations 0 and 1 have the same text \"c d\": 0 is (1:c), 1 is (1:c)");
    str_release(&s);
    template_free(t);
    /* a bracket in an alternative that is not taken makes no duplicates */
    t = parse("[x [a|b]|y] [p [c|d]|q]");
    assert_int_equal(duplicate_finder_new(&d, &e), 0);
    for (uint64_t i = 0; i < template_count(t); i++) {
        variation v;
        assert_int_equal(template_variation(t, i, &v, &e), 0);
        assert_int_equal(duplicate_finder_add(d, &v, &earlier, &e), 0);
        assert_true(earlier == UINT64_MAX);
        variation_release(&v);
    }
    duplicate_finder_free(d);
    template_free(t);
}

static void test_errors(void **state)
{
    (void)state;
    check_error("", 0, "the template is empty");
    check_error(" \n", 0, "the template is empty");
    check_error("a [red|blue", 3, "'[' is never closed; add ']', or write '\\[' for a plain one");
    check_error("a (red", 3, "'(' is never closed");
    check_error("a ] b", 3, "']' closes nothing");
    check_error("a ) b", 3, "')' closes nothing");
    check_error("[a (b|c] d)", 6, "'|' stands inside the mark opened at column 4");
    check_error("[a (b] d)", 4, "'(' is not closed before the ']' at column 6");
    check_error("([a)]", 2, "'[' is not closed before the ')' at column 4");
    check_error("(a|b)", 3, "'|' stands inside the mark opened at column 1");
    check_error("a () b", 3, "this mark holds no text");
    check_error("a ( ) b", 3, "this mark holds no text");
    check_error("(:1.5)", 1, "this mark holds no text");
    check_error("(:[1|2])", 1, "this mark holds no text");
    check_error("[a b=c|d]", 2, "'a b' is not a name for a choice");
    check_error("[1=c|d]", 2, "'1' is not a name for a choice");
    check_error("[a [b|c]=d|e]", 2, "is not a name for a choice");
    check_error("[=]", 3, "a link needs the name of a choice");
    check_error("[= who]", 3, "' who' cannot be the name of a choice");
    check_error("[=who]", 3, "no choice is named 'who'; define it to the left of here");
    check_error("[who=a|b] [=woh]", 13, "did you mean 'who'?");
    check_error("[=who] [who=a|b]", 3, "the choice 'who' is only defined further right, at column 8");
    check_error("[who=a|b] [who=c|d]", 11, "the choice 'who' is already defined at line 1, column 1");
    check_error("[who=a [=who]|b]", 8, "this link to 'who' stands inside the choice 'who' itself");
    check_error("[a [n=1|2]|b] [=n]", 15, "the choice 'n' is defined inside an alternative that is not always taken");
    check_error("[who=a|b] [=who|x|y|z]", 11, "this link has 3 alternatives, but the choice 'who' that it follows has "
                                              "2");
    check_error("(cat:nan)", 5, "a weight must be a finite number");
    check_error("(cat:inf)", 5, "a weight must be a finite number");
    check_error("(cat:1e999)", 5, "a weight must be a finite number");
    check_error("(cat:-1)", 5, "a weight must be 0 or more, found -1");
    check_error("(cat:1,5)", 5, "'1,5' is not a number");
    check_error("(cat: 1.5)", 5, "a blank beside the number leaves open whether it is a weight");
    check_error("(cat:)", 5, "the weight behind ':' is missing");
    check_error("(cat:[1|x])", 6, "some alternatives behind ':' are numbers and some are not");
    check_error("(cat:[1|-2])", 9, "a weight must be 0 or more, found -2");
    check_error("a \xff b", 0, "byte 2 (0xff) is not valid UTF-8 text");
    check_error("a \xe4\xbd", 0, "byte 2 (0xe4) is not valid UTF-8 text");
    /* wide characters take two columns; the column counts characters */
    prompt_template *t;
    err e = { 0 };
    const char *wide = "你好 [a";
    assert_int_equal(template_parse(&t, wide, strlen(wide), "x.txt", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "x.txt:1:4: "));
    assert_non_null(strstr(e.text, "\n  你好 [a\n       ^"));
    /* the line of the fault, and a window of a long line */
    const char *lines = "first\nsecond ]\nthird";
    assert_int_equal(template_parse(&t, lines, strlen(lines), "x.txt", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "x.txt:2:8: "));
    assert_non_null(strstr(e.text, "\n  second ]\n         ^"));
    char line[400];
    memset(line, 'a', sizeof line);
    line[200] = ']';
    assert_int_equal(template_parse(&t, line, sizeof line, "x.txt", &e), ERR_ARG);
    const char *shown = strchr(e.text, '\n');
    assert_non_null(strstr(shown, "...aaaaa"));
    assert_true(strlen(shown) < 200);
    assert_int_equal(template_parse(&t, "a\0b", 3, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "byte 1 (0x00) is not valid UTF-8 text"));
}

static void test_limits(void **state)
{
    (void)state;
    str s = STR_INIT;
    err e = { 0 };
    prompt_template *t;
    /* depth */
    for (int i = 0; i < TEMPLATE_MAX_DEPTH; i++)
        str_add(&s, "[a|");
    for (int i = 0; i < TEMPLATE_MAX_DEPTH; i++)
        str_add(&s, "]");
    t = parse(str_text(&s));
    assert_int_equal(template_count(t), TEMPLATE_MAX_DEPTH + 1);
    template_free(t);
    str_clear(&s);
    for (int i = 0; i < 100000; i++)
        str_add(&s, "[a|");
    assert_int_equal(template_parse(&t, str_text(&s), s.len, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "nested more than 64 deep"));
    /* links that double a text again and again */
    str_clear(&s);
    str_add(&s, "[a0=longtext|y]");
    for (int i = 1; i < 60; i++)
        str_addf(&s, "[a%d=[=a%d][=a%d]|]", i, i - 1, i - 1);
    assert_int_equal(template_parse(&t, str_text(&s), s.len, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "links repeat each other so often"));
    /* marks that links nest without end */
    str_clear(&s);
    str_add(&s, "[a0=(x)|y]");
    for (int i = 1; i < 80; i++)
        str_addf(&s, "[a%d=([=a%d] z)|y]", i, i - 1);
    assert_int_equal(template_parse(&t, str_text(&s), s.len, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "with the text that links repeat, marks and plain brackets are nested more than 64 "
                                   "deep"));
    /* names that steer each other in bulk: refused in good time */
    str_clear(&s);
    for (int i = 0; i < 40; i++)
        str_addf(&s, "[a%d=x|y]", i);
    for (int i = 0; i < 40; i++)
        str_addf(&s, "[=a%d|p[q|r]|s]", i);
    clock_t start = clock();
    assert_int_equal(template_parse(&t, str_text(&s), s.len, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "too many linked choices"));
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2);
    /* the same beside their links is no trouble: (2 + 1)^40 */
    str_clear(&s);
    for (int i = 0; i < 12; i++)
        str_addf(&s, "[a%d=x|y][=a%d|p[q|r]|s]", i, i);
    t = parse(str_text(&s));
    assert_int_equal(template_count(t), 531441);
    template_free(t);
    char *big = malloc(TEMPLATE_MAX_BYTES + 1);
    assert_non_null(big);
    memset(big, 'a', TEMPLATE_MAX_BYTES + 1);
    assert_int_equal(template_parse(&t, big, TEMPLATE_MAX_BYTES + 1, "template", &e), ERR_ARG);
    assert_non_null(strstr(e.text, "at most 1048576 are read"));
    free(big);
    str_release(&s);
}

static void test_file(void **state)
{
    (void)state;
    const char *folder = getenv("TEST_TMP");
    char *path = str_format("%s/template_test.txt", folder ? folder : "/tmp"), *text;
    size_t len;
    err e = { 0 };
    assert_int_equal(fs_write_atomic(path, "\xef\xbb\xbf  a [b|c]\n\n", 14, &e), 0);
    assert_int_equal(template_read_file(&text, &len, path, &e), 0);
    assert_string_equal(text, "a [b|c]");
    assert_int_equal(len, 7);
    free(text);
    assert_int_equal(fs_write_atomic(path, "\n \n", 3, &e), 0);
    assert_int_equal(template_read_file(&text, &len, path, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "the template file is empty"));
    remove(path);
    assert_int_equal(template_read_file(&text, &len, path, &e), ERR_IO);
    assert_non_null(strstr(e.text, path));
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alternatives), cmocka_unit_test(test_plain_brackets), cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_links), cmocka_unit_test(test_counts), cmocka_unit_test(test_marks),
        cmocka_unit_test(test_weight_sweep), cmocka_unit_test(test_round_trip), cmocka_unit_test(test_choices_slug_id),
        cmocka_unit_test(test_words), cmocka_unit_test(test_duplicates), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests_name("template", tests, NULL, NULL);
}
