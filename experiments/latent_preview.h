/* latent_preview: a rough look at a video while it is denoised, from its latents by a linear map to colours, without the VAE
 * (H1111 blissful_tuner/latent_preview.py). A small MP4, or PNG of a single frame or without FFmpeg, that is written anew every N
 * steps. The first latent frame of each shot of a multi-shot video has a white edge. */
#ifndef WANSCOPE_LATENT_PREVIEW_H
#define WANSCOPE_LATENT_PREVIEW_H

#include "core/engine.h"

typedef struct latent_preview latent_preview;

/* `path` without its ending; its folder exists. `run` is borrowed until the end. fps is that of the video. */
int latent_preview_new(latent_preview **out, const engine *g, const run_params *run, const char *path, int every, double fps, err *e);
void latent_preview_free(latent_preview *p);       /* NULL is harmless; the last preview stays */
int latent_preview_observe(latent_preview *p, hooks *h, err *e);
const char *latent_preview_path(const latent_preview *p);

/* For tests. RGB of one latent frame of x [16, F, H, W], min-max normalised over all F: rgb [F][H][W][3] in 0..1. */
void latent_preview_colours(float *rgb, const float *x, const float *noise, double sigma, int64_t F, int64_t H, int64_t W);
/* [h][w][3] in 0..1 enlarged 8 times, bicubic as torch (a = -0.75, edges repeated), to 8 bits, truncated. */
void latent_preview_enlarge(uint8_t *out, const float *rgb, int h, int w);

#endif
