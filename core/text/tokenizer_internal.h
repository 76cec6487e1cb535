/* Shared by the parts of the tokenizer; nobody else includes it. */
#ifndef WANSCOPE_TOKENIZER_INTERNAL_H
#define WANSCOPE_TOKENIZER_INTERNAL_H

#include "core/text/charsmap.h"
#include "core/text/spiece.h"
#include "core/text/spm.h"
#include "core/text/tokenizer.h"
#include "core/text/unicode.h"
#include "core/text/vocab.h"

#define BLANK 0x2581u           /* ▁, sentencepiece's visible blank */

/* One step of tokenizer.json's normalizer. */
typedef struct norm_step {
    enum { NORM_CHARSMAP, NORM_REPLACE, NORM_STRIP, NORM_NFC, NORM_PREPEND } kind;
    charsmap *map;              /* NORM_CHARSMAP */
    points content;             /* NORM_REPLACE, NORM_PREPEND */
    points literal;             /* NORM_REPLACE of a text; or of ... */
    uint32_t repeated;          /* ... runs of this character (0: of white space; literal empty) */
    size_t least;               /* ... at least so long */
    bool left, right;           /* NORM_STRIP */
} norm_step;

typedef struct added_token {
    char *content;
    size_t len;
    int32_t id;
    bool single_word, lstrip, rstrip;
} added_token;

typedef enum { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER } prepend_scheme;

struct tokenizer {
    char *folder;
    tokenizer_engine engine;
    bool keep_bytes;
    vocab vocab;                /* of spiece.model, or of tokenizer.json for TOKENIZER_JSON */
    added_token *added;
    size_t n_added;
    int32_t pad, eos, size;

    /* spiece.model */
    charsmap *map;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    spm *library;

    /* tokenizer.json */
    norm_step *steps;
    size_t n_steps;
    bool blanks_outside;        /* WhitespaceSplit: pieces do not cover the blank before them */
    bool metaspace, metaspace_split;
    prepend_scheme prepend;
    bool json_byte_fallback, json_has_bytes_key;
};

/* Reads tokenizer.json: added tokens and pre-tokenizer always; normalizer and vocabulary only when `whole`. */
int tokenizer_read_json(tokenizer *t, const char *path, bool whole, err *e);
int tokenizer_add_special(tokenizer *t, const char *content, size_t len, int32_t id, bool single_word, bool lstrip,
                          bool rstrip, err *e);
void norm_steps_release(norm_step *steps, size_t n);

/* Text between special tokens to normalised points: all of spiece.model's rules, blanks already visible. */
int normalise_spiece(points *out, const tokenizer *t, const char *text, size_t begin, size_t end, err *e);
/* The normalizer steps of tokenizer.json (blanks still blanks). */
int normalise_json(points *out, const tokenizer *t, const char *text, size_t begin, size_t end, err *e);

/* The points as UTF-8 with, for each byte, the index of its point; starts has n + 1 entries, the byte where each
 * begins. */
int points_to_utf8(char **text, size_t *n, size_t **starts, const point *v, size_t n_points, err *e);

#endif
