/* vace_reader: control videos and masks one frame after another, of the video's size. */
#ifndef WANSCOPE_VACE_READER_H
#define WANSCOPE_VACE_READER_H

#include "experiments/settings.h"

typedef struct vace_size {                     /* of the video that is made */
    int w, h;
    int64_t frames, plane;
} vace_size;

/* The first picture of a file. free() *rgb. */
int vace_read_image(uint8_t **rgb, int *w, int *h, const char *path, err *e);

/* Which of n frames stands for frame `at` of `wanted`. Spread over the whole: floor(at (n - 1/2) / (wanted - 1)), as VACE's loader spreads
 * its time stamps from 0 to the middle of the last frame (preprocessor.py:182-211). */
int64_t vace_frame_of(const config *c, int64_t at, int64_t wanted, int64_t n);
bool vace_lacks_frames(const config *c, int64_t n, int64_t wanted);
int vace_too_short(const char *path, int64_t found, int64_t wanted, const char *what, err *e);
void vace_tell_fit(const config *c, const char *path, int w, int h, int64_t n, const vace_size *to);

typedef enum { READ_VIDEO, READ_DEPTH, READ_MASK } vace_read_kind;      /* READ_DEPTH: of a video or picture, or its edges */
typedef struct vace_reader vace_reader;

/* Opens the section's control or mask and checks what its header tells; `c` is borrowed. */
int vace_reader_new(vace_reader **out, vace_read_kind kind, const config *c, const vace_size *to, err *e);
void vace_reader_free(vace_reader *r);         /* NULL is harmless */
/* Reads the file through, without decoding: is it whole, are there frames enough? */
int vace_reader_look_through(vace_reader *r, err *e);
/* Frame `at` of the video that is made, asked for in their order: of a video three planes in [-1, 1], `stride` values apart, of depth (0..1)
 * or a mask one. */
int vace_reader_frame(vace_reader *r, int64_t at, float *out, int64_t stride, err *e);

#endif
