/* unicode: UTF-8 and the few Unicode properties that prompt cleaning and the tokenizer need.
 *
 * Text is handled as code points that remember where they came from, so that a span marked in the text a user typed can
 * be found again after cleaning and in the tokens. */
#ifndef WANSCOPE_UNICODE_H
#define WANSCOPE_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* One code point at `s` (s < end): its value, *length set to 1..4. Overlong forms, surrogates, values above U+10FFFF
 * and cut-off sequences give -1 and *length 1. */
int32_t utf8_decode(const char *s, const char *end, int *length);
int utf8_encode(char out[4], uint32_t c);              /* bytes written, 1..4 */
/* 0, or ERR_ARG naming `what` ("the prompt") and the byte offset of the first byte that is not UTF-8. */
int utf8_check(const char *s, size_t n, const char *what, err *e);

/* A code point and the bytes [begin, end) of the source text that it stands for. */
typedef struct point {
    uint32_t c;
    size_t begin, end;
} point;

/* A growing row of points. Like str: when memory runs out it keeps what it had and `failed` stays true. */
typedef struct points {
    point *v;
    size_t n, cap;
    bool failed;
} points;

#define POINTS_INIT { NULL, 0, 0, false }

void points_add(points *p, uint32_t c, size_t begin, size_t end);
void points_append(points *p, const point *v, size_t n);
void points_release(points *p);
/* All of a text that utf8_check() accepted, appended; offsets count from the start of `s` plus `base`. */
void points_from_utf8(points *p, const char *s, size_t n, size_t base);

bool unicode_is_space(uint32_t c);        /* White_Space: what the regex \s matches */
bool unicode_is_strip_space(uint32_t c);  /* what Python's str.strip() removes: White_Space and U+001C..U+001F */
bool unicode_is_word(uint32_t c);         /* letters, digits, underscore, approximately: every non-ASCII character that
                                             is in no block of spaces, punctuation or symbols counts as a letter */
bool unicode_extends(uint32_t c);         /* combining marks and joiners: part of the character before */

/* NFC of p in place. Composed characters cover the bytes of all their parts. */
void points_nfc(points *p);

/* Tables, made by core/text/make_tables.py. */
typedef struct unicode_triple {
    uint32_t a, b, c;
} unicode_triple;

typedef struct html_entity {
    const char *name;                     /* without '&', with ';' where HTML wants one */
    uint32_t first, second;               /* second 0: one character */
} html_entity;

extern const unicode_triple UNICODE_DECOMPOSITIONS[], UNICODE_COMPOSITIONS[], UNICODE_CLASSES[], UNICODE_EXTENDERS[],
    UNICODE_WIDTHS[], UNICODE_UPPER[];
extern const size_t UNICODE_DECOMPOSITIONS_COUNT, UNICODE_COMPOSITIONS_COUNT, UNICODE_CLASSES_COUNT,
    UNICODE_EXTENDERS_COUNT, UNICODE_WIDTHS_COUNT, UNICODE_UPPER_COUNT;
extern const html_entity HTML_ENTITIES[];
extern const size_t HTML_ENTITIES_COUNT;

/* The entry whose first field is c, or NULL (tables sorted by their first field). */
const unicode_triple *unicode_lookup(const unicode_triple *table, size_t n, uint32_t c);
/* The entity with exactly this name of n bytes, or NULL. */
const html_entity *html_entity_find(const char *name, size_t n);

#endif
