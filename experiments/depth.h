/* depth: depth maps as a control video, and a stand-in for them. Values are f32 [frames, height, width], near = 1 as all depth
 * estimators that VACE was trained with write it (longlive-vace.md 6.3). */
#ifndef WANSCOPE_DEPTH_H
#define WANSCOPE_DEPTH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef enum { DEPTH_AS_IS, DEPTH_CLIP, DEPTH_FRAME } depth_normalise;

/* A file of numbers, .npy or .safetensors (its only tensor): [F, H, W], [F, 1, H, W] or [F, H, W, 1]. free() *out. */
int depth_read(float **out, int64_t *frames, int *width, int *height, const char *path, err *e);
bool depth_is_numbers(const char *path);      /* by its ending */

/* In place, in this order: to 0..1 (DEPTH_AS_IS refuses values outside), 1 - v, a mean over `smooth` frames around each (the first
 * and last frame repeat beyond the ends). NaN and infinity are ERR_FORMAT, naming the frame. A frame or clip without any range becomes 0. */
int depth_prepare(float *v, int64_t frames, int64_t plane, depth_normalise how, bool invert, int smooth, const char *name, err *e);

/* Not depth: dark lines where the picture has edges, on white (grey, blurred over 5 pixels, gradient above a threshold, inverted,
 * blurred over 9), for trying things out without a depth estimator. rgb [h, w, 3] -> plane in 0..1. */
int depth_from_edges(float *plane, const uint8_t *rgb, int w, int h, err *e);

#endif
