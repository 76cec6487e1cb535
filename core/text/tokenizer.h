/* tokenizer: clean text to the token ids of umT5, and back from a span of the text to its tokens.
 *
 *     tokenizer *tok;
 *     text_tokens t;
 *     tokenizer_open(&tok, "google/umt5-xxl", NULL, e);
 *     tokenizer_encode(tok, clean.text, 512, &t, e);           t.ids[512], t.n valid ones, the last of them </s>
 *     tokenizer_span_tokens(&t, begin, end, index, &n, e);      which of t.tokens the bytes [begin, end) touch
 *     text_tokens_release(&t);
 *     tokenizer_free(tok);
 *
 * Parity: ids are those of the sentencepiece model, with Hugging Face's conventions around it (wan-engine.md 3.2, 3.3):
 * special tokens typed literally ("</s>", "<extra_id_0>") are matched as such, neighbouring unknown characters make one
 * <unk>, byte pieces are not used unless tokenizer.json says so, and offsets are those of the fast tokenizer.
 *
 * A tokenizer is immutable after tokenizer_open(); any number of threads may encode with it.
 */
#ifndef WANSCOPE_TOKENIZER_H
#define WANSCOPE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

typedef enum {
    TOKENIZER_AUTO,            /* the library where this build has it and spiece.model exists, else SPIECE, else JSON */
    TOKENIZER_SENTENCEPIECE,   /* spiece.model through the sentencepiece library */
    TOKENIZER_SPIECE,          /* spiece.model read by ourselves: the same ids, for builds without the library */
    TOKENIZER_JSON             /* tokenizer.json alone: exactly the fast tokenizer. The others differ from it where two
                                  cuts of a word have equal scores ("aaaa": a|aaa or aaa|a; the library compares rounded
                                  sums), for a letter with a combining mark that has no composed form, and at the ends of
                                  a text that was not cleaned */
} tokenizer_engine;

typedef enum {
    TOKENIZER_BYTES_AUTO,      /* as model.byte_fallback of tokenizer.json says; without that file or key: <unk> */
    TOKENIZER_BYTES_UNKNOWN,   /* always <unk>: what the official code gives */
    TOKENIZER_BYTES_KEEP       /* pieces <0x00>..<0xFF> where the vocabulary has them: raw sentencepiece, ComfyUI */
} tokenizer_bytes;

typedef struct tokenizer_options {
    tokenizer_engine engine;
    tokenizer_bytes bytes;
} tokenizer_options;

typedef struct tokenizer tokenizer;

/* `folder` holds spiece.model and / or tokenizer.json. options NULL: both AUTO.
 * ERR_IO when a file is missing or unreadable, ERR_FORMAT when it is damaged, of an unsupported kind, or when the two
 * files do not belong together, ERR_CONFIG when the engine asked for is not in this build, ERR_MEMORY. */
int tokenizer_open(tokenizer **out, const char *folder, const tokenizer_options *options, err *e);
void tokenizer_free(tokenizer *t);

tokenizer_engine tokenizer_engine_used(const tokenizer *t);        /* never AUTO */
const char *tokenizer_engine_name(tokenizer_engine engine);        /* "sentencepiece library", ... */
bool tokenizer_has_library(void);                                  /* was this program built with sentencepiece? */
int32_t tokenizer_size(const tokenizer *t);                        /* highest id + 1, added tokens included */
const char *tokenizer_piece(const tokenizer *t, int32_t id);       /* borrowed; NULL when there is no such id */
int32_t tokenizer_id(const tokenizer *t, const char *piece);       /* -1 when there is no such piece */
int32_t tokenizer_pad_id(const tokenizer *t);
int32_t tokenizer_eos_id(const tokenizer *t);
int32_t tokenizer_unk_id(const tokenizer *t);                      /* -1: the vocabulary has none */

/* One token of a text. Offsets are bytes of the text given to tokenizer_encode(). */
typedef struct text_token {
    int32_t id;
    size_t begin, end;        /* as the fast tokenizer: a leading blank belongs to the piece, the blank put in front of
                                 the whole text does not add to it; when that blank is a piece of its own it has the
                                 range of the first character; </s> at the end has 0, 0. Characters composed by the
                                 model's normalisation cover all their parts (JSON: the first, as upstream) */
    size_t text_begin;        /* where its characters begin after the leading blank; == end for a mere blank */
    bool special;             /* </s> at the end, or a special token typed in the text */
    char *piece;              /* owned: "▁kiss"; for an unknown token the normalised characters it stands for */
} text_token;

typedef struct text_tokens {
    int32_t *ids;             /* [text_len], padded with the pad id */
    int32_t text_len;
    int32_t n;                /* tokens with the final </s>; the attention mask is 1 for i < n */
    text_token *tokens;       /* [n] */
    bool truncated;           /* the text had more than text_len - 1 tokens */
    int64_t n_untruncated;    /* what n would be without the limit */
    size_t kept_bytes;        /* bytes of the text that the kept tokens cover; all of the text unless truncated */
} text_tokens;

/* `text` is NUL-terminated UTF-8, normally text_clean_result.text. *out need not be initialised, is empty after an
 * error. ERR_ARG when the text is not UTF-8 or text_len < 1; ERR_FORMAT when a character is unknown and the vocabulary
 * has no unknown piece; ERR_MEMORY. */
int tokenizer_encode(const tokenizer *t, const char *text, int32_t text_len, text_tokens *out, err *e);
void text_tokens_release(text_tokens *t);

/* Indices into t->tokens, ascending, of the tokens whose characters intersect bytes [begin, end): the leading blank of
 * a piece does not count, nor does the final </s>. *index is malloc'ed (NULL when *n is 0). ERR_ARG when begin >
 * end. */
int tokenizer_span_tokens(const text_tokens *t, size_t begin, size_t end, int32_t **index, int32_t *n, err *e);

#endif
