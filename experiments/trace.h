/* trace: writes trace.h5, the record of one run: latents along the denoising trajectory, what entered the model at each
 * step, cross-attention maps of the marked words. docs/formats.md describes the file for its readers.
 *
 *     trace_create(&t, path, &spec, e);
 *     trace_put_latents(t, 0, noise, e);
 *     for (k = 0; k < S; k++) {
 *         ... sampler step; trace_put_attention(t, step_slot, layer_slot, maps, e) for each captured layer ...
 *         trace_put_step(t, k, sigma, sigma_next, timestep, guidance, expert, e);
 *         if ((row = trace_latent_row(t, k + 1)) >= 0)
 *             trace_put_latents(t, row, latents, e);
 *     }
 *     trace_commit(t, e);
 *
 * The file is `path`.part until trace_commit() has written, checked, flushed and renamed it; a failure of any call
 * makes commit fail too, with the first sentence, and leaves no file. All numbers come in as host f32. The same calls
 * with the same values give the same bytes. Numbers are compressed in threads of the writer's own (trace_chunks.h): what the disk
 * refuses may be said by a later call than the one that brought it. HDF5 is not thread-safe: use it from one thread at a time in the whole
 * program. Rows may come in any order, each exactly once.
 *
 * A clip that comes in blocks (n_blocks) can be read while it grows, after each trace_flush(): HDF5's SWMR, on `path`.part.
 *
 * Without HDF5 (no HAVE_HDF5) trace_create() says so and the other functions are never reached.
 */
#ifndef WANSCOPE_TRACE_H
#define WANSCOPE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define TRACE_FORMAT_VERSION "1"
#define TRACE_CHUNK_BYTES (64 << 20)  /* a row or map above this is cut along its leading axes into several chunks */

typedef enum { TRACE_F32, TRACE_F16 } trace_type;

/* A marked word and the positions of its tokens in the text sequence. */
typedef struct trace_word {
    const char *text;
    const int32_t *tokens;
    int n_tokens;                     /* at least 1 */
} trace_word;

typedef struct trace_axes {           /* of /attention/maps */
    const int32_t *steps, *layers;    /* rising numbers of the captured steps (0..S-1) and DiT blocks */
    int n_steps, n_layers;
    const int32_t *heads;             /* rising, or the single entry -1: the mean over all heads */
    int n_heads;
    const trace_word *words;
    int n_words;
    int64_t frames, height, width;    /* the token grid: F, H/2, W/2 */
    trace_type type;
    const char *const *token_pieces;  /* optional: the tokenizer's pieces of the whole prompt, for readers */
    int n_token_pieces;
    int gzip;                         /* 0..9; 0 stores plain */
} trace_axes;

/* The /shots group of a multi-shot video. */
typedef struct trace_shots {
    int n_shots, n_latent_frames;
    const int32_t *latent_shot;       /* [n_latent_frames] */
    const int32_t *first_frames, *first_latents;    /* [n_shots], of the video and of the latents */
    const char *global_caption;       /* NULL: the prompt has no captions */
    int n_captions;
    const char *const *captions;
    const int32_t *token_begin, *token_end;    /* [n_shots] text positions [begin, end) of the captions; NULL: no mask was used */
    int32_t global_tokens[2];
    bool sparse;
    const char *mask_type;
} trace_shots;

/* A further text attribute of the root group. */
typedef struct trace_attribute {
    const char *name, *value;
} trace_attribute;

/* Everything is borrowed during trace_create() only. Texts are UTF-8; NULL is written as "". */
typedef struct trace_spec {
    int steps;                        /* S */
    bool latents, velocity, attention;    /* which groups are stored */
    int64_t channels, frames, height, width;    /* C, F, H, W of the latents */
    trace_type latent_type;           /* also of /velocity */
    const int32_t *latent_rows;       /* rising step counts from 0 to S, both included; NULL stores all S + 1 */
    int n_latent_rows;
    const int32_t *velocity_steps;    /* rising step numbers in 0..S-1; NULL stores all S */
    int n_velocity_steps;
    trace_axes axes;                  /* read when `attention` */
    int gzip;                         /* of /latents and /velocity: 0..9; 0 stores plain */
    int n_blocks;                     /* causal clips: frames come in blocks of block_frames, n_blocks of them; else 0 */
    int64_t block_frames;
    const int32_t *block_prompts;     /* which prompt rules each block */
    const double *block_sigmas, *block_timesteps, *block_guidance;    /* of the steps of a block: S + 1, S, S */

    const char *prompt, *negative_prompt, *clean_prompt;    /* with its marks; as is; without marks */
    int64_t seed;
    const char *solver;
    double shift, guidance;           /* as configured; /guidance has the value of each step */
    const char *family;
    const char *checkpoints;          /* JSON: {"dit": "<sha256>", ...} */
    const char *build, *device;
    const char *config;               /* the resolved config text */
    int context_len;                  /* text positions the softmax runs over */
    int pixel_width, pixel_height, pixel_frames;
    double fps;
    const trace_attribute *more;
    size_t n_more;
    const trace_shots *shots;         /* NULL: an ordinary video */
} trace_spec;

/* The rows of "every n-th step": 0, n, 2n, ... and always S. `rows` has room for steps + 1; returns how many. */
int trace_rows_every(int32_t *rows, int steps, int every);
/* The rows that trace_rows_every() leaves from: for velocity_steps. `out` has room for steps; returns how many. */
int trace_steps_every(int32_t *out, int steps, int every);
/* Bytes of the arrays before compression, which real latents hardly shrink under: the forecast of the file's size. */
int64_t trace_raw_bytes(const trace_spec *spec);
/* For the forecast of host memory, bytes: the largest array of f32 that one trace_put_...() call brings; all that are put between two
 * trace_flush() or, without blocks, in the whole run; and what the writer holds at most on its way into the file. */
int64_t trace_largest_piece(const trace_spec *spec);
int64_t trace_sent_bytes(const trace_spec *spec);
int64_t trace_buffer_bytes(const trace_spec *spec);

typedef struct trace_writer trace_writer;

/* Checks the spec (ERR_ARG), creates `path`.part in an existing folder. On failure *t is NULL and nothing is left. */
int trace_create(trace_writer **t, const char *path, const trace_spec *spec, err *e);

/* Where something belongs, or -1 when it is not stored. */
int trace_latent_row(const trace_writer *t, int steps_done);
int trace_velocity_row(const trace_writer *t, int step);
int trace_step_slot(const trace_writer *t, int step);
int trace_layer_slot(const trace_writer *t, int layer);

int trace_put_latents(trace_writer *t, int row, const float *latents, err *e);             /* C*F*H*W */
/* Rows that come block by block: `frames` frames from `first` on, [C][frames][H][W] and so on; the blocks of a row in order. */
int trace_put_latents_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *latents, err *e);
int trace_put_velocity_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *velocity, err *e);
int trace_put_attention_part(trace_writer *t, int step_slot, int layer_slot, int64_t first, int64_t frames, const float *maps, err *e);
/* Brings what was put so far into the file, for the end of a block. */
int trace_flush(trace_writer *t, err *e);
/* Step k: the noise levels of rows k and k + 1, and what entered the model. Flushes the file. All S steps are due. */
int trace_put_step(trace_writer *t, int step, double sigma, double sigma_next, double timestep, double guidance,
                   int expert, err *e);
int trace_put_velocity(trace_writer *t, int row, const float *velocity, err *e);           /* C*F*H*W, guided */
/* [heads][words][frames][height][width] of one captured step and layer */
int trace_put_attention(trace_writer *t, int step_slot, int layer_slot, const float *maps, err *e);

/* Finishes and frees t whatever happens. ERR_INTERNAL names the first row, step or map that was never put. */
int trace_commit(trace_writer *t, err *e);
/* Frees t and removes the partial file. NULL is harmless. */
void trace_abort(trace_writer *t);

#endif
