/* charsmap: sentencepiece's precompiled character map (NFKC and the like), as it lies in spiece.model and, in base64,
 * in tokenizer.json: 4 bytes trie size, a double-array trie of 32-bit units, then NUL-terminated replacement texts.
 *
 * The whole map is checked when it is opened, so that a damaged file cannot lead a lookup out of it. Upstream:
 * sentencepiece src/normalizer.cc, the double array of darts-clone. */
#ifndef WANSCOPE_CHARSMAP_H
#define WANSCOPE_CHARSMAP_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct charsmap charsmap;

/* Copies the blob. `where` names the file and field in messages. ERR_FORMAT when it is damaged; ERR_MEMORY. */
int charsmap_open(charsmap **out, const void *blob, size_t n, const char *where, err *e);
int charsmap_open_base64(charsmap **out, const char *text, const char *where, err *e);
void charsmap_free(charsmap *m);

/* The replacement (NUL-terminated UTF-8, may be empty) of a text's beginning, or NULL when nothing matches: the longest
 * match with its length in *used (sentencepiece), or the shortest (Hugging Face's reading of the same map). */
const char *charsmap_longest(const charsmap *m, const char *text, size_t n, size_t *used);
const char *charsmap_shortest(const charsmap *m, const char *text, size_t n);

#endif
