/* media_internal: what media.c, media_ffmpeg.c and media_png.c share. Not for callers. */
#ifndef WANSCOPE_MEDIA_INTERNAL_H
#define WANSCOPE_MEDIA_INTERNAL_H

#include "core/base/media.h"
#include "core/base/str.h"

#define MEDIA_MAX_SIDE 16384

#ifdef HAVE_FFMPEG
typedef struct mp4_encoder mp4_encoder;

/* Encodes into the file `part`; `path` is the name used in messages. `codec` names an FFmpeg encoder ("libx264",
 * "mpeg4"); NULL takes libx264, or mpeg4 with a logged sentence where the local FFmpeg has no libx264. */
int mp4_encoder_open(mp4_encoder **out, const char *part, const char *path, const video_spec *spec, const char *codec,
                     err *e);
int mp4_encoder_frame(mp4_encoder *m, const uint8_t *rgb, err *e);
int mp4_encoder_finish(mp4_encoder *m, err *e);
void mp4_encoder_free(mp4_encoder *m);

/* One image through FFmpeg's PNG coder, from and to memory. */
int ffmpeg_png_encode(str *out, int width, int height, const uint8_t *rgb, const char *path, err *e);
int ffmpeg_png_decode(int *width, int *height, uint8_t **rgb, const uint8_t *bytes, size_t n, const char *path, err *e);
#endif

#endif
