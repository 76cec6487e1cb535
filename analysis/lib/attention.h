/* attention: the cross-attention map of one word out of a trace, and pictures of it. */
#ifndef WANSCOPE_ATTENTION_H
#define WANSCOPE_ATTENTION_H

#include <stdint.h>

#include "analysis/lib/trace_reader.h"
#include "core/base/err.h"

#define ATTENTION_MEAN (-1) /* of step, layer, head: the mean over all that are stored */

typedef struct attention_choice {
    const char *word;
    int64_t step, layer, head; /* numbers as in the trace, or ATTENTION_MEAN */
    bool one_shot;             /* of a multi-shot video, only the frames of this shot, from 0 */
    int64_t shot;
} attention_choice;

typedef struct attention_map {
    int64_t F, h, w;
    int64_t first; /* latent frame of the video that is frame 0 here; not 0 with one_shot only */
    float *value; /* [F][h][w] probabilities, summed over the word's tokens */
    double min, max, mean;
} attention_map;

/* Index of a word, or -1. */
int64_t attention_find_word(const trace_reader *r, const char *word);
/* ERR_ARG with what is stored when the word, step, layer or head is not. Means are summed in f64. */
int attention_load(attention_map *m, trace_reader *r, const attention_choice *c, err *e);
void attention_map_close(attention_map *m);

/* Black through violet, red and yellow to white; v is clamped to 0..1. */
void heat_colour(uint8_t rgb[3], double v);
/* Map at time `frame` (fractional, clamped) stretched to width x height, bilinear in space, linear in time, as 0..1 of
 * `top`. */
void attention_stretch(float *out, const attention_map *m, double frame, int width, int height, double top);
/* Latent time of video frame p: frame 0 is latent 0, latent f > 0 covers video frames 4f-3..4f, its middle is 4f - 1.5.
 */
double attention_latent_time(int64_t p, int64_t stride);

/* A contact sheet of all latent frames, with labels and the scale where the build has cairo. `background` is NULL or
 * RGB of width x height for each latent frame, over which the map is laid. */
int attention_write_png(const char *path, const attention_map *m, const char *title, const char *subtitle,
                        const uint8_t *background, int width, int height, err *e);
/* The map as a video, alone or over the frames of `video`. width, height and fps are used when there is no video. */
int attention_write_mp4(const char *path, const attention_map *m, const char *video, int width, int height, double fps,
                        const char *comment, err *e);
/* For each latent frame the video frame nearest to its middle: [F][height][width] RGB; free() *out. */
int attention_read_background(uint8_t **out, int *width, int *height, const char *video, int64_t F, err *e);
int attention_write_csv(const char *path, const attention_map *m, err *e);

/* The program attention-export; returns the exit status. */
int attention_program(int argc, char **argv);

#endif
