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

#endif
