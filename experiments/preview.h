/* preview: a small contact sheet, up to five frames of a video side by side, from frames that come one by one. */
#ifndef WANSCOPE_PREVIEW_H
#define WANSCOPE_PREVIEW_H

#include <stdint.h>

#include "core/base/err.h"
#include "core/base/media.h"

enum { PREVIEW_FRAMES = 5, PREVIEW_WIDTH = 256 };     /* a frame is reduced by a whole factor until it is no wider */

typedef struct preview {
    int n;                              /* frames on the sheet */
    int64_t at[PREVIEW_FRAMES];         /* their indices: first ... last */
    int width, height, factor;          /* of one small frame */
    uint8_t *sheet;                     /* n * width by height */
} preview;

int preview_init(preview *p, int width, int height, int64_t n_frames, err *e);
void preview_frame(preview *p, int64_t index, int width, int height, const uint8_t *rgb);
int preview_write(const preview *p, const char *path, const media_tag *tags, size_t n_tags, err *e);
void preview_release(preview *p);

#endif
