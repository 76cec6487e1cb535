/* windows: context windows, for videos longer than a model was trained for: each step is computed on overlapping windows of
 * latent frames, whose predictions are averaged frame by frame.
 *
 * Upstream: H1111@11d1d4d Wan2_2/context_windows.py (holocine.md 6.10). Its step counter stays 0, so that the windows are the
 * same at every step; ours are too. */
#ifndef WANSCOPE_WINDOWS_H
#define WANSCOPE_WINDOWS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef enum { WINDOWS_STATIC, WINDOWS_UNIFORM, WINDOWS_LOOPED, WINDOWS_BATCHED } window_schedule;
typedef enum { FUSE_PYRAMID, FUSE_FLAT, FUSE_OVERLAP_LINEAR, FUSE_RELATIVE } window_fuse;

typedef struct window_options {
    int length, overlap;         /* latent frames; 0 <= overlap < length */
    window_schedule schedule;    /* STATIC: evenly spaced, the last one moved back to end at the end; UNIFORM: the same with windows
                                  * of every 2nd, 4th ... frame up to `stride` of them; LOOPED: the same, running over the end into the
                                  * beginning; BATCHED: one behind the other, the last one shorter */
    int stride;                  /* from 1: UNIFORM and LOOPED have windows at so many spacings (1, 2, 4 ...) */
    bool closed_loop;            /* UNIFORM, LOOPED: windows begin up to the last frame */
    window_fuse fuse;
} window_options;
#define WINDOW_OPTIONS_INIT { 21, 8, WINDOWS_STATIC, 1, false, FUSE_PYRAMID }

typedef struct window {
    int n;
    int *frames;                 /* n of them, ascending but where a LOOPED window runs over the end */
} window;

typedef struct window_list {
    int n;
    window *items;
} window_list;

/* Latent frames of pixel frames as upstream counts them: 81 -> 21; of an overlap 30 -> 8, 0 -> 0 (CTX:661-662). */
int windows_latents(int frames);
int windows_overlap_latents(int frames);

/* The windows of a video of n latent frames, every frame in at least one. n <= length: one window of everything. */
int windows_make(window_list *out, const window_options *o, int n, err *e);
void windows_release(window_list *l);

/* Weight of each frame of a window in the average, all but FUSE_RELATIVE. An overlap of 0 leaves FUSE_OVERLAP_LINEAR flat (upstream,
 * whose slice [-0:] is everything, ramps the whole window down). */
void windows_weights(float *out, const window *w, const window_options *o, int n);

/* The average while it grows: values [channels, n, plane] f32, in the order in which windows are added. */
typedef struct window_sum {
    const window_options *o;
    int channels, n;
    int64_t plane;
    float *values, *weights, *ramp;    /* weights: of each of the n frames */
} window_sum;

int window_sum_begin(window_sum *s, const window_options *o, int channels, int n, int64_t plane, err *e);
void window_sum_reset(window_sum *s);
void window_sum_add(window_sum *s, const window *w, const float *part);      /* part: [channels, w->n, plane] */
const float *window_sum_finish(window_sum *s);                               /* [channels, n, plane], until the next reset */
void window_sum_end(window_sum *s);

/* [channels, w->n, plane] of [channels, n, plane] */
void window_gather(float *out, const float *all, const window *w, int channels, int n, int64_t plane);

#endif
