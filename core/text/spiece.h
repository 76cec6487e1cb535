/* spiece: what a sentencepiece model file (spiece.model, a protobuf ModelProto) says, read without the library: to
 * check a file before the library sees it, to know its pieces, and to tokenise where the library is missing. */
#ifndef WANSCOPE_SPIECE_H
#define WANSCOPE_SPIECE_H

#include "core/text/charsmap.h"
#include "core/text/vocab.h"

typedef struct spiece {
    vocab vocab;
    charsmap *map;                  /* NULL: identity */
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    bool byte_fallback, whitespace_as_suffix;
    int model_type;                 /* 1 Unigram, 2 BPE, 3 word, 4 character */
} spiece;

/* ERR_IO, ERR_FORMAT (with the byte offset), ERR_MEMORY. *out is empty after an error. */
int spiece_read(spiece *out, const char *path, err *e);
int spiece_parse(spiece *out, const void *bytes, size_t n, const char *path, err *e);
void spiece_release(spiece *s);

#endif
