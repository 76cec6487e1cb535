/* spm: a small C face over the sentencepiece library. Compiled only where the library is found (HAVE_SENTENCEPIECE);
 * spm.cc is the only C++ of the engine. No exception leaves it. */
#ifndef WANSCOPE_SPM_H
#define WANSCOPE_SPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "core/base/err.h"

typedef struct spm spm;

/* The model file's bytes, already checked by spiece_parse(); `path` is for messages. ERR_FORMAT, ERR_MEMORY. */
int spm_open(spm **out, const void *bytes, size_t n, const char *path, err *e);
void spm_free(spm *s);
int32_t spm_size(const spm *s);

typedef struct spm_piece {
    int32_t id;
    const char *text;         /* the piece as found in the normalised text (for an unknown one the characters
                                 themselves; a byte piece is spelled <0xNN>), text_len bytes, valid during `emit` */
    size_t text_len;
    size_t begin, end;        /* bytes of the input, by the library's own reckoning */
} spm_piece;

/* Calls emit(arg, piece) for each piece of `text` in order; a non-zero return of emit ends it and is returned. */
int spm_encode(const spm *s, const char *text, size_t n, int (*emit)(void *arg, const spm_piece *piece), void *arg,
               err *e);

#ifdef __cplusplus
}
#endif

#endif
