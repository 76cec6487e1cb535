/* vae_stream: one clip on its way through the layers of the decoder or the encoder. Internal to core/vae. */
#ifndef WANSCOPE_VAE_STREAM_H
#define WANSCOPE_VAE_STREAM_H

#include "core/vae/vae_weights.h"

/* The last input frames of a cached convolution: those of `past`, and before them those of `before`, so that a history that grows
 * by one frame is kept by moving tensors, not by copying frames. */
typedef struct history { tensor past, before; } history;

struct vae_stream {
    vae *v;
    const vae_side *side;
    bool decoding;
    int64_t chunks;                           /* latent frames done */
    history past_in, past_out;                /* of conv_in and conv_out */
    history past[VAE_MAX_LAYERS][2];          /* of each layer's cached convolutions */
    rgb_frames rgb[2];                        /* pictures on their way to the caller */
};

/* The next chunk of a clip: x [T, H, W, C] borrowed -> *out f32, owned by the caller. */
int vae_stream_run(vae_stream *s, const tensor *x, tensor *out, err *e);

#endif
