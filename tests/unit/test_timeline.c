/* Timelines in templates: splitting a variation at its [at N], marks and their places, sentences. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/str.h"
#include "experiments/timeline.h"

static int split(timeline *t, const char *text, uint64_t number, err *e)
{
    prompt_template *p;
    variation v = { 0 };
    *e = (err){ 0 };
    if (template_parse(&p, text, strlen(text), "template", e) || template_variation(p, number, &v, e))
        fail_msg("%s", e->text);
    int rc = timeline_split(t, &v, e);
    variation_release(&v);
    template_free(p);
    return rc;
}

static void test_parts(void **state)
{
    (void)state;
    timeline t;
    err e;
    assert_int_equal(split(&t, "a [c=red|blue] (circle:1.5) [at 21] a [=c] (square) and a (dog)", 1, &e), 0);
    assert_int_equal(t.n, 2);
    assert_int_equal(t.at[0], 0);
    assert_int_equal(t.at[1], 21);
    assert_string_equal(t.parts[0].clean, "a blue circle");
    assert_string_equal(t.parts[1].clean, "a blue square and a dog");
    assert_int_equal(t.parts[0].n_spans, 1);
    assert_int_equal(t.parts[1].n_spans, 2);
    assert_true(t.parts[0].spans[0].weight == 1.5);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < t.parts[i].n_spans; k++) {      /* places are those in the part */
            const variation_span *s = &t.parts[i].spans[k];
            assert_memory_equal(t.parts[i].clean + s->begin, s->word, s->end - s->begin);
        }
    timeline_release(&t);

    assert_int_equal(split(&t, "a dog", 0, &e), 0);
    assert_int_equal(t.n, 1);
    assert_string_equal(t.parts[0].clean, "a dog");
    timeline_release(&t);

    assert_int_equal(split(&t, "[at 0] a dog [at 3] [at x] [global caption] a cat", 0, &e), 0);      /* other brackets are text */
    assert_int_equal(t.n, 2);
    assert_string_equal(t.parts[1].clean, "[at x] [global caption] a cat");
    timeline_release(&t);
}

static void refused(const char *text, const char *says)
{
    timeline t;
    err e;
    assert_int_equal(split(&t, text, 0, &e), ERR_ARG);
    if (!strstr(e.text, says))
        fail_msg("'%s' does not say '%s'", e.text, says);
}

static void test_sentences(void **state)
{
    (void)state;
    refused("a dog [at 9]", "the prompt from latent frame 9 on is empty");
    refused("a dog [at 3] [at 9] a cat", "the prompt from latent frame 3 on is empty");
    refused("a dog [at 9] a cat [at 9] a tree", "must rise from 0");
    refused("a dog [at 0] a cat", "must rise from 0");
    refused("[at 3] a dog", "must rise from 0");
    refused("a dog [at 99999999999999999999] a cat", "must rise from 0");
    refused("a (dog [at 9] a cat)", "the mark around 'dog [at 9] a cat' goes beyond its prompt");
}

static void test_joined(void **state)
{
    (void)state;
    prompt_schedule list = { 0 };
    str out = STR_INIT;
    size_t at;
    err e = { 0 };
    assert_int_equal(prompt_schedule_add(&list, 0, "a (dog)", &e), 0);
    assert_int_equal(prompt_schedule_add(&list, 21, "a cat", &e), 0);
    timeline_join(&out, &list);
    assert_string_equal(str_text(&out), "a (dog) [at 21] a cat");
    assert_true(timeline_marked(str_text(&out), &at));
    assert_int_equal(at, 8);
    assert_false(timeline_marked("a dog \\[at 21\\] a cat [at all]", &at));
    str_release(&out);
    prompt_schedule_release(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_parts), cmocka_unit_test(test_sentences), cmocka_unit_test(test_joined) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
