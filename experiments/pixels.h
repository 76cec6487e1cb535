/* pixels: sizes and ranges of images on their way into the model. Planes are f32, rows from top to bottom. */
#ifndef WANSCOPE_PIXELS_H
#define WANSCOPE_PIXELS_H

#include <stdint.h>

#include "core/base/err.h"

/* Bilinear, half-pixel centres, no antialiasing: torch.nn.functional.interpolate(mode="bilinear", align_corners=False). */
void pixels_resize(float *out, int out_w, int out_h, const float *in, int w, int h);
void pixels_resize_nearest(float *out, int out_w, int out_h, const float *in, int w, int h);

/* 8-bit RGB [h, w, 3] -> three planes in [-1, 1], (v / 255 - 0.5) / 0.5 */
void pixels_from_rgb(float *planes, const uint8_t *rgb, int w, int h);

/* A reference image as VACE takes it (wan_vace.py:229-242): scaled to fit, sizes truncated, centred on white. */
int pixels_letterbox(float *planes, int out_w, int out_h, const uint8_t *rgb, int w, int h, const char *name, err *e);

/* Scaled to cover, then cut out of the middle. `nearest` keeps the values there are (masks). */
int pixels_cover(float *plane, int out_w, int out_h, const float *in, int w, int h, int nearest, err *e);

/* 8-bit RGB [h, w, 3] to three planes [out_h, out_w] in [-1, 1] as VACE's loader takes control videos: scaled to cover with antialiased
 * bicubic weights (a = -1/2, wider where the picture shrinks), rounded to bytes, the middle cut out, then v / 127.5 - 1
 * (preprocessor.py:107-145). */
int pixels_cover_rgb(float *const planes[3], int out_w, int out_h, const uint8_t *rgb, int w, int h, err *e);

#endif
