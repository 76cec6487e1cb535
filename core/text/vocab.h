/* vocab: the pieces of a Unigram vocabulary and the best segmentation of a text into them. */
#ifndef WANSCOPE_VOCAB_H
#define WANSCOPE_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define VOCAB_MAX_PIECE_BYTES 4096

typedef enum {      /* numbered as in sentencepiece_model.proto */
    PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4, PIECE_UNUSED = 5, PIECE_BYTE = 6
} piece_kind;

typedef struct vocab_piece {
    char *text;             /* owned, NUL-terminated */
    size_t len;
    double score;           /* log probability */
    piece_kind kind;
} vocab_piece;

typedef struct vocab {
    vocab_piece *pieces;    /* [n], index = id */
    size_t n, cap;
    int32_t *sorted;        /* [n] ids in the order of their bytes */
    double min_score, max_score;
    int32_t unk;            /* -1: none */
} vocab;

/* Appends a piece; `where` names the file. ERR_FORMAT when it is empty, too long, not UTF-8 or its score not finite. */
int vocab_add(vocab *v, const char *text, size_t len, double score, piece_kind kind, const char *where, err *e);
/* After the last piece: sorts. ERR_FORMAT when two usable pieces have the same text. */
int vocab_finish(vocab *v, const char *where, err *e);
void vocab_release(vocab *v);
int32_t vocab_find(const vocab *v, const char *text, size_t len);      /* id or -1 */

/* How ties and rounding go. */
typedef enum {
    VOCAB_F64_ALL,          /* the fast tokenizer of Hugging Face: doubles, every piece can match */
    VOCAB_F32_KINDS         /* sentencepiece: float sums, control, unknown, byte and unused pieces never match */
} vocab_rules;

typedef struct vocab_cut {
    int32_t id;             /* vocab.unk for a character without a piece */
    size_t begin, end;      /* bytes of the text */
} vocab_cut;

/* The segmentation with the highest total score, left to right, into *cuts (malloc'ed, [*n]). An unknown character
 * scores min_score - 10; of equal scores the one found first stays. `text` is UTF-8. ERR_MEMORY; ERR_FORMAT when a
 * character is unknown and the vocabulary has no unknown piece. */
int vocab_segment(const vocab *v, vocab_rules rules, const char *text, size_t n, vocab_cut **cuts, size_t *n_cuts,
                  err *e);

#endif
