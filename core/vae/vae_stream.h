/* vae_stream: one clip on its way through the layers of the decoder or the encoder. Internal to core/vae. */
#ifndef WANSCOPE_VAE_STREAM_H
#define WANSCOPE_VAE_STREAM_H

#include "core/vae/vae_bands.h"

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
    int split;                                /* a band: layers from here on see rows need[i] of their input, and `keep` of the picture is made */
    vae_rows keep, need[VAE_MAX_LAYERS + 1];  /* keep.end is 0 where the picture is made whole */
};

/* Bands in which the decoder makes a picture of `height` rows where `bands` are wanted. */
int vae_stream_bands(const vae *v, int64_t height, int bands);
/* A new decoder of band `band` of so many; its frames have the rows s->keep of the picture only. */
int vae_stream_band(vae_stream **out, vae *v, int64_t height, int bands, int band, err *e);

/* The next chunk of a clip: x [T, H, W, C] borrowed -> *out f32, owned by the caller. */
int vae_stream_run(vae_stream *s, const tensor *x, tensor *out, err *e);

#endif
