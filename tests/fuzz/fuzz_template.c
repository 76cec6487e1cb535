/* Any bytes as a template: parse, expand some variations, and hold each to what template.h promises. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

static void check_variation(const prompt_template *t, uint64_t index)
{
    variation v, w;
    variation_word *words;
    int n;
    prompt_template *u;
    str clean = STR_INIT;
    err e = { 0 };
    require(template_variation(t, index, &v, &e) == 0, "a number below the count gives a variation");
    require(template_clean_text(t, index, &clean, &e) == 0 && !strcmp(str_text(&clean), v.clean),
            "both ways give the same text");
    str_release(&clean);
    size_t len = strlen(v.clean);
    for (int i = 0; i < v.n_spans; i++)
        require(v.spans[i].begin < v.spans[i].end && v.spans[i].end <= len && v.spans[i].weight >= 0,
                "spans lie in the text");
    require(strspn(v.slug, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(v.slug) && v.slug[0], "a slug is plain");
    require(variation_words(&v, &words, &n, &e) == 0, "words are found");
    variation_words_free(words, n);
    /* the marked text is a template with this one variation */
    int rc = v.marked[strspn(v.marked, " \t\n\v\f\r")] ? template_parse(&u, v.marked, strlen(v.marked), "marked",
                                                                        &e) : 1;
    if (rc == 0) {
        require(template_count(u) == 1, "a marked text has one variation");
        require(template_variation(u, 0, &w, &e) == 0, "a marked text expands");
        require(!strcmp(w.clean, v.clean) && !strcmp(w.marked, v.marked) && w.n_spans == v.n_spans,
                "a marked text stays what it is");
        for (int i = 0; i < v.n_spans; i++)
            require(w.spans[i].begin == v.spans[i].begin && w.spans[i].end == v.spans[i].end &&
                    w.spans[i].weight == v.spans[i].weight, "marks stay where they are");
        variation_release(&w);
        template_free(u);
    } else if (rc != 1) {
        require(strlen(v.marked) > TEMPLATE_MAX_BYTES, e.text);
    }
    variation_release(&v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    prompt_template *t;
    err e = { 0 };
    char *copy = malloc(size + 1);   /* exactly as large as the input, so that reading behind it is seen */
    if (!copy)
        return 0;
    memcpy(copy, data, size);
    char *exact = realloc(copy, size ? size : 1);
    copy = exact ? exact : copy;
    int rc = template_parse(&t, copy, size, "fuzz", &e);
    if (rc == 0) {
        uint64_t n = template_count(t);
        for (uint64_t i = 0; i < n && i < 20; i++)
            check_variation(t, i);
        if (n > 20) {
            check_variation(t, n / 2);
            check_variation(t, n - 1);
        }
        template_free(t);
    } else {
        require(e.text[0], "a refusal has a sentence");
    }
    free(copy);
    return 0;
}
