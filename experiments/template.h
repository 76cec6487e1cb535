/* template: prompts with alternatives, and the variations they stand for. The grammar for people: docs/templates.md.
 *
 *     a [red|blue] (cat)            two variations, "cat" marked for attention capture
 *     [who=men|women] and [=who]    a named choice, and a link that repeats its text
 *     [=who|his|her]                a link that takes the alternative with the same index
 *     (kiss:1.5)                    a mark with a weight; (kiss:[1|1.5|2]) sweeps the weight
 *
 * A parsed template is immutable and may be read from several threads. Nothing is expanded in advance: a variation is
 * computed from its number, so ten million of them cost as much memory as one.
 *
 *     prompt_template *t;
 *     variation v = {0};
 *     if (template_parse(&t, text, strlen(text), "template", &e)) ...
 *     for (uint64_t i = 0; i < template_count(t); i++) {
 *         if (template_variation(t, i, &v, &e)) ...
 *         puts(v.clean);
 *         variation_release(&v);
 *     }
 *     template_free(t);
 *
 * Order: the leftmost bracket is the slowest, as in nested loops written left to right; inside an alternative its own
 * brackets run through before the next alternative. A bracket in an alternative that is not taken does not multiply. */
#ifndef WANSCOPE_TEMPLATE_H
#define WANSCOPE_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

#define TEMPLATE_MAX_DEPTH 64                    /* brackets and marks open at the same time */
#define TEMPLATE_MAX_BYTES ((size_t)1 << 20)     /* of a template */
#define TEMPLATE_SLUG_MAX 48

typedef struct prompt_template prompt_template;

/* A marked stretch of the clean text. Blanks at its two ends are not part of it. Marks that are empty in a variation
 * ("([|dog])") are dropped from it. Sorted by begin, an outer mark before those inside it; the weight of a character is
 * the product over the marks it lies in. */
typedef struct variation_span {
    size_t begin, end;       /* bytes of variation.clean, end exclusive, begin < end */
    double weight;           /* finite, >= 0; 1 when none was written */
    char *word;              /* the marked text */
} variation_span;

/* What one bracket of the template took. Links have no entry of their own: what they take follows from the name. */
typedef struct variation_choice {
    int bracket;             /* number of the bracket, 0-based, in the order of the opening '[' */
    const char *name;        /* "who" of [who=...], or "" ; borrowed from the template */
    int alternative;         /* 0-based; -1: the bracket lies in an alternative that was not taken */
    char *text;              /* clean text of the alternative, "" when not reached */
} variation_choice;

typedef struct variation {
    uint64_t number;         /* the index it was made from, 0-based */
    char *marked;            /* with its marks, in one canonical spelling; is itself a template with one variation */
    char *clean;             /* without marks and escapes: the one string to tokenise, encode and look up */
    variation_span *spans;
    int n_spans;
    variation_choice *choices;   /* one a bracket, indexed by variation_choice.bracket */
    int n_choices;
    char slug[TEMPLATE_SLUG_MAX + 1];   /* [a-z0-9-]+, from the choices (without any: from the text); not unique */
    char id[17];             /* first 16 hex digits of the SHA-256 of `marked` */
} variation;

/* `name` is used in messages only ("template", or a file's name). Messages read "name:line:column: what", followed by
 * the line of the template and a caret under the character. Errors: ERR_ARG, ERR_MEMORY. */
int template_parse(prompt_template **out, const char *text, size_t len, const char *name, err *e);
void template_free(prompt_template *t);

/* Reads a template file: UTF-8, one template; a byte order mark and blanks around it are dropped. free() the text. */
int template_read_file(char **text, size_t *len, const char *path, err *e);

/* Number of variations. Above 2^64-1 the function answers UINT64_MAX, and those are the ones that can be reached by
 * number; template_count_text() has the exact number up to 2^128-1 ("more than ..." beyond). */
uint64_t template_count(const prompt_template *t);
void template_count_text(const prompt_template *t, char out[64]);

int template_bracket_count(const prompt_template *t);   /* entries of a choice vector */

/* Variation `index` (ERR_ARG when there are not so many). `out` is overwritten, not released. */
int template_variation(const prompt_template *t, uint64_t index, variation *out, err *e);
void variation_release(variation *v);

/* Only the clean text of variation `index`, appended to `out`: what a long listing needs. */
int template_clean_text(const prompt_template *t, uint64_t index, str *out, err *e);

/* "who=two men, 2:red, 3:-": name or 1-based number of each bracket and the text it took, '-' where not reached. */
void variation_describe(const variation *v, str *out);

/* The different marked texts of a variation and all places where they stand in the clean text: the marks themselves and
 * every other occurrence as a whole word (same letters, same case). Order of first mark. */
typedef struct variation_word {
    char *text;
    int n_places;
    size_t (*places)[2];     /* begin and end in variation.clean, ascending, not overlapping */
} variation_word;

int variation_words(const variation *v, variation_word **out, int *n, err *e);
void variation_words_free(variation_word *words, int n);

/* Finds variations with the same marked text (runs of blanks count as one blank, since the tokeniser sees one). Feed it
 * the variations of a batch; it keeps 24 to 48 bytes for each. */
typedef struct duplicate_finder duplicate_finder;

int duplicate_finder_new(duplicate_finder **out, err *e);
void duplicate_finder_free(duplicate_finder *d);
/* *earlier = number of an earlier variation with the same text, or -1 cast to uint64_t (UINT64_MAX) when it is new */
int duplicate_finder_add(duplicate_finder *d, const variation *v, uint64_t *earlier, err *e);
/* "variations 3 and 7 have the same text "a  dog": 3 is [...], 7 is [...]" */
int template_describe_duplicate(const prompt_template *t, uint64_t a, uint64_t b, str *out, err *e);

#endif
