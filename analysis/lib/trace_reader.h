/* trace_reader: reads the trace.h5 files of a batch (the format is described in docs/formats.md).
 *
 * Opening checks the whole layout: ranks, lengths that must agree, finite sigmas, rows that start with the noise and
 * end with the last step. What comes out of an open reader can be used without further checks. HDF5's own error
 * printing is switched off; every failure is one sentence that names the file. */
#ifndef WANSCOPE_TRACE_READER_H
#define WANSCOPE_TRACE_READER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct trace_words {
    char **text; /* marked words, UTF-8 */
    int64_t n;
} trace_words;

/* The axes of /attention/maps: (steps, layers, heads, words, F, h, w). */
typedef struct trace_attention {
    bool present;
    int64_t n_steps, n_layers, n_heads, F, h, w;
    trace_words words;
    int32_t *steps, *layers, *heads; /* what each index means; head -1 is the mean over all heads */
} trace_attention;

typedef struct trace_reader {
    char *path;
    int64_t file, latents, maps; /* HDF5 handles, -1 when not open */
    bool has_latents; /* a batch may store attention alone; then what follows is 0 and NULL up to maps_bytes */
    int64_t C, F, H, W;
    int64_t row_elems;       /* C*F*H*W, at most 2^31 - 1 */
    int64_t n_rows, n_steps; /* stored rows of /latents; sampling steps S */
    int32_t *rows;           /* [n_rows] how many steps had been taken: 0 is the noise, S the result */
    double *sigmas;          /* [S + 1] */
    double *row_sigma;       /* [n_rows] sigma of each stored row */
    int latents_bytes;       /* bytes an element: 4 (f32) or 2 (f16) */
    int maps_bytes;
    bool has_seed;
    int64_t seed;
    double fps;            /* 0 when the file does not say */
    int64_t width, height; /* pixels of the video, 0 when the file does not say */
    trace_attention attention;
    int32_t *latent_shot;  /* of a multi-shot video: the shot of each latent frame, from 0, never falling; else NULL */
    int64_t n_latent_shot; /* F */
} trace_reader;

#define TRACE_READER_VERSION "1" /* the format_version this code reads */

/* `r` need not be initialised. On failure nothing stays open. */
int trace_reader_open(trace_reader *r, const char *path, err *e);
void trace_reader_close(trace_reader *r); /* harmless on a zeroed or closed reader */

/* Row `i` of /latents as f32. NaN and infinity are ERR_NAN naming the file, the row and its step. `scratch` is used for
 * f16 files and needs room for row_elems 16-bit numbers; it may be NULL for f32 files. */
int trace_reader_row(trace_reader *r, float *out, uint16_t *scratch, int64_t i, err *e);

/* The maps of all heads of one word, [n_heads][F][h][w], for indices of step, layer and word (not their numbers). */
int trace_reader_maps(trace_reader *r, float *out, int64_t step, int64_t layer, int64_t word, err *e);

#endif
