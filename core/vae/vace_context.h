/* vace_context: the conditioning latents of VACE: what to keep, what to change, where, and reference images.
 *
 * Channels: 16 of the frames with the mask's part greyed out (inactive), 16 of the part to change (reactive), 64 of the mask, folded
 * 8 x 8; one latent frame a reference in front. Upstream: VACE/vace/models/wan/wan_vace.py:127-192 (longlive-vace.md 4.2). */
#ifndef WANSCOPE_VACE_CONTEXT_H
#define WANSCOPE_VACE_CONTEXT_H

#include "core/vae/vae.h"

enum { VACE_CHANNELS = 96 };

/* frames, host f32 [3, F, H, W] in [-1, 1]; mask, host f32 [F, H, W], 1 = to be made, NULL = everywhere; references, host f32
 * [3, H, W] each. F = 4n+1, H and W multiples of 16. *context: f32 [96, F/4 + 1 + n_references, H/8, W/8], owned by the caller. */
int vace_context_build(tensor *context, vae *v, backend *be, const float *frames, const float *mask, int64_t F, int64_t H, int64_t W,
                       const float *const *references, int n_references, err *e);

/* ---- the same piece by piece, for videos that are made block by block ---- */

/* A history of the encoder for each side, so that the pieces are those of one pass over the whole clip. */
typedef struct vace_stream vace_stream;

int vace_stream_new(vace_stream **out, vae *v, backend *be, int64_t H, int64_t W, err *e);
void vace_stream_free(vace_stream *s);      /* NULL is harmless */
/* The next frames, host f32 [3, n, H, W] or NULL for mid-grey in the whole clip, and their mask [n, H, W] or NULL, where n is 1 the first
 * time and then 4. out, host: channels 0 to 31 of their latent frame, [32, H/8 * W/8]. After an error it cannot go on. */
int vace_stream_next(vace_stream *s, const float *frames, const float *mask, float *out, err *e);

/* Which of the masks of F frames latent frame i of n shows: nearest-exact, floor((i + 0.5) F / n). With F = 4n-3 that is 4i - 1 to 4i + 1. */
int64_t vace_mask_frame(int64_t i, int64_t F, int64_t n);
/* One mask [H, W] (NULL: 1 everywhere) as the 64 channels of a latent frame: channel k begins at out[k * stride]. */
void vace_mask_fold(float *out, int64_t stride, const float *mask, int64_t H, int64_t W);

/* A reference alone: its channels 0 to 15, host [16, H/8 * W/8]; the others are zeros. */
int vace_reference_encode(float *out, vae *v, backend *be, const float *reference, int64_t H, int64_t W, err *e);

#endif
