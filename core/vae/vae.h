/* vae: the Wan 2.1 video VAE, encoder and decoder, streamed so that memory does not grow with the number of frames.
 *
 * Frames are channels-last [T, H, W, C] inside. Each cached convolution keeps its last two input frames, which makes the
 * streamed result equal one causal pass over the whole clip (Wan2.1/wan/modules/vae.py:516-568; wan-engine.md 6).
 * A clip starts at latent frame 0: the first latent frame gives 1 pixel frame, each later one gives 4.
 *
 * Frames, histories and convolution weights have the type precision.vae where the backend computes in it (sums, norms, biases, the
 * pictures and the latents stay f32), otherwise f32. In bf16 the layers without a change of frame rate at full size see one frame
 * at a time: at 832 x 480 the history of a decoder is 1.9 GB and its temporaries under 0.6 GB, however long the clip. A clip that is there as
 * a whole can be decoded within less, in bands of rows: vae_decode_clip().
 */
#ifndef WANSCOPE_VAE_H
#define WANSCOPE_VAE_H

#include "core/backend.h"
#include "core/dit/dit_config.h"
#include "core/precision.h"

typedef struct vae vae;                  /* weights; immutable after vae_open */
typedef struct vae_stream vae_stream;    /* the history of one clip going through the decoder or the encoder */

enum { VAE_TIME = 4, VAE_SPACE = 8 };    /* pixel frames a latent frame (after the first), pixels a latent row or column */

int vae_open(vae **out, backend *be, const ckpt *c, const precision *prec, err *e);
void vae_close(vae *v);
const vae_config *vae_get_config(const vae *v);
int64_t vae_weight_bytes(const vae *v);
dtype vae_frame_type(const vae *v);      /* of frames and histories: DT_F32 or DT_BF16 */

int vae_decoder_new(vae_stream **out, vae *v, err *e);
int vae_encoder_new(vae_stream **out, vae *v, err *e);
void vae_stream_free(vae_stream *s);

/* Latents [z, F, h, w] f32 (normalised, as the sampler has them) -> channels-last [F, h, w, z] ready for vae_decode_next;
 * the caller frees *out. */
int vae_decode_begin(vae *v, const tensor *latents, tensor *out, err *e);
/* One latent frame [1, h, w, z] -> *frames f32 [1 or 4, 8h, 8w, 3], not clamped; the caller frees it. */
int vae_decode_next(vae_stream *s, const tensor *latent_frame, tensor *frames, err *e);

/* The next latents of a clip [z, F, h, w] as 8-bit RGB frames, handed out in order as they are made: truncated like upstream's
 * video writer, (uint8)((clamp(x) + 1) / 2 * 255). *index is the number of the next frame and moves on; a callback's error
 * stops the decoding. */
typedef int (*frame_fn)(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e);
int vae_decode_rgb(vae_stream *s, const tensor *latents, int64_t *index, frame_fn fn, void *user, err *e);

/* A clip as a whole: the latents [z, F, h, w] of all its frames through a decoder of their own. With `bands` above 1 the layers behind the last
 * change of frame rate make a band of rows of the picture over the whole clip, then the next, each with enough rows around it that the
 * kept ones come out as without bands: the same bytes in bf16, in f32 up to how products of other sizes round. Histories and temporaries
 * of those layers shrink with the bands, the layers before are computed for each again, and the pictures are gathered in host memory
 * (3 F' H W bytes): none is handed out before the last band. */
int vae_decode_clip(vae *v, const tensor *latents, int bands, frame_fn fn, void *user, err *e);
/* What those layers hold at most, in values of the frames' type where frames go through one at a time: histories and what is at work, of the
 * largest of `bands` bands of a picture. */
int64_t vae_banded_values(const vae_config *c, int64_t width, int64_t height, int bands);

/* What a stream remembers, tensor by tensor under names that stay ("past.3.0"), for saving it and putting it back. An empty
 * tensor is a place without history yet. */
typedef int (*vae_slot_fn)(const char *name, tensor *slot, void *user, err *e);
int vae_stream_visit(vae_stream *s, vae_slot_fn fn, void *user, err *e);
int64_t vae_stream_done(const vae_stream *s);                /* latent frames that went through */
void vae_stream_set_done(vae_stream *s, int64_t done);

/* Pixels f32 [3, F, H, W] in [-1, 1], F = 4n+1, H and W multiples of 8 -> latents f32 [z, n+1, H/8, W/8], normalised. */
int vae_encode(vae *v, const tensor *video, tensor *latents, err *e);
/* The same from host memory, [3, F, H, W] f32: a few frames at a time are on the device, so that its memory does not grow with F. */
int vae_encode_host(vae *v, const float *video, int64_t F, int64_t H, int64_t W, tensor *latents, err *e);
/* The next frames of a clip through an encoder, host f32 [3, n, H, W], where n is 1 the first time and then 4 -> their latent frame
 * f32 [z, 1, H/8, W/8]: what vae_encode_host() makes of them within the whole clip. */
int vae_encode_next(vae_stream *s, const float *frames, int64_t H, int64_t W, tensor *latent, err *e);
/* Latents -> pixels f32 [3, 4(F-1)+1, 8h, 8w], not clamped: all frames at once, for tests. */
int vae_decode(vae *v, const tensor *latents, int bands, tensor *video, err *e);

#endif
