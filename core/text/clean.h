/* clean: what the upstream code does to a prompt before it is tokenised.
 *
 * In order: (optionally) ftfy's repairs; html-unescape twice; strip; every run of Unicode white space becomes one
 * blank; strip. No lower-casing, no template. Upstream: Wan wan/modules/tokenizers.py:12-22, diffusers prompt_clean.
 *
 * The result remembers for each of its bytes which bytes of the input it stands for, so that a span marked in the text
 * a user typed can be found in the clean text:
 *
 *     text_clean_result r;
 *     text_clean("caf&eacute;  (red)", &TEXT_CLEAN_DEFAULT, &r, e);      r.text is "café (red)"
 *     text_clean_map(&r, 14, 17, &b, &end);                              bytes of "red" in r.text
 *     text_clean_release(&r);
 *
 * ftfy: the official code applies it, the diffusers code only when it is installed, and the goldens were made without
 * it. What is reproduced of ftfy.fix_text 6 in its default configuration: HTML entities where a line has no '<' (also
 * in capitals), terminal escapes, control characters, C1 controls read as Windows-1252, Latin ligatures, full and half
 * width forms, curly quotes, line breaks, NFC, all repeated until nothing changes (at most 64 times). Not reproduced:
 * the guess that text was decoded with a wrong encoding ("mojibake"), which ordinary prompts never trigger.
 */
#ifndef WANSCOPE_CLEAN_H
#define WANSCOPE_CLEAN_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

/* Longest prompt accepted, in bytes. The text encoder reads a few hundred tokens of it at most. */
#define TEXT_CLEAN_MAX_BYTES ((size_t)1 << 20)

typedef struct text_clean_options {
    bool ftfy;
} text_clean_options;

extern const text_clean_options TEXT_CLEAN_DEFAULT;     /* ftfy off, as the goldens */

typedef struct text_clean_result {
    char *text;            /* clean text, NUL-terminated UTF-8 */
    size_t len;            /* its bytes */
    size_t *origin;        /* [len + 1]: byte i of text stands for input bytes [origin[i], origin_end[i]); the same for
                              all bytes of a character; never decreasing. The last entry is the length of the input */
    size_t *origin_end;    /* [len + 1] */
} text_clean_result;

/* `in` is NUL-terminated. *out need not be initialised and is empty after an error.
 * ERR_ARG when `in` is not UTF-8 (with the byte offset) or longer than TEXT_CLEAN_MAX_BYTES; ERR_MEMORY. */
int text_clean(const char *in, const text_clean_options *options, text_clean_result *out, err *e);
void text_clean_release(text_clean_result *r);

/* The bytes [*out_begin, *out_end) of the clean text that stand for input bytes [begin, end): every character that came
 * at least partly from there. Empty (begin == end) when cleaning removed all of it. */
void text_clean_map(const text_clean_result *r, size_t begin, size_t end, size_t *out_begin, size_t *out_end);

#endif
