/* vae_bands: which of the decoder's layers can make a picture a band of rows at a time, and which rows each of them needs then.
 * Internal to core/vae. */
#ifndef WANSCOPE_VAE_BANDS_H
#define WANSCOPE_VAE_BANDS_H

#include "core/vae/vae_weights.h"

typedef struct vae_rows { int64_t begin, end; } vae_rows;

/* What a layer is, known from the configuration alone. */
typedef struct vae_shape { vae_layer_kind kind; bool temporal; int cin, cout; } vae_shape;

/* The decoder's layers from its middle on, at most VAE_MAX_LAYERS; their number, 0 where they are more. */
int vae_decoder_shapes(const vae_config *c, vae_shape *list);
/* The first of the layers at the decoder's end that have nothing but 3x3 convolutions of frames and their histories, norms of a pixel and
 * enlargements of a frame. What lies before has a change of frame rate, attention between all pixels, or a product that may round
 * otherwise with another number of pixels (a residual shortcut). n: there are none. */
int vae_bands_first(const vae_shape *list, int n);
/* The rows of a picture of `height` rows that make up band `band` of `bands`. */
vae_rows vae_band(int64_t height, int bands, int band);
/* need[i], first <= i < n: the rows that layer i gets of its input, so that the rows `keep` of the picture come out exactly. A cut edge is
 * zero padding to a convolution, and what is wrong by that moves inwards a row a convolution. need[n]: the rows that the last convolution
 * gets. Rows are counted in the whole frames there. */
void vae_band_needs(const vae_shape *list, int first, int n, int64_t height, vae_rows keep, vae_rows *need);

#endif
