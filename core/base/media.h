/* media: videos and still images in and out.
 *
 * Frames are packed 8-bit RGB, rows from top to bottom, no padding (3 * width * height bytes). How model output becomes
 * 8-bit values is the caller's business (videos truncate, stills round: see the VAE). Colours are converted by our own
 * integer arithmetic with the BT.601 matrix in limited range, chroma sited left, and MP4 files say so in their stream
 * tags: readers that look at the tags and readers that assume BT.601 (OpenCV, swscale) agree.
 *
 * With FFmpeg (HAVE_FFMPEG): MP4 with H.264 (libx264), or MPEG-4 part 2 where the local FFmpeg lacks it, which is
 * logged. Without: videos can be written as .y4m, PNG files can be written (uncompressed), nothing can be read. Two
 * encodings of the same frames with the same build give the same bytes: no dates, a fixed number of threads.
 *
 * Files are written under `path`.part and get their name from fs_publish() when complete. Folders must exist.
 */
#ifndef WANSCOPE_MEDIA_H
#define WANSCOPE_MEDIA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/err.h"

/* A UTF-8 key and value stored in a file. The project stores a run's parameters as JSON under "comment". */
typedef struct media_tag {
    const char *key, *value;
} media_tag;

bool media_have_ffmpeg(void);      /* was this build made with FFmpeg? */

/* ---- writing a video ---- */

typedef enum { VIDEO_420, VIDEO_444 } video_chroma;

#define VIDEO_CRF_DEFAULT 10 /* imageio's quality 8, what the Wan scripts ask for (wan/utils/utils.py cache_video) */

typedef struct video_spec {
    int width, height;             /* 1..16384; both even for VIDEO_420 */
    int fps_num, fps_den;          /* frames a second as a fraction; see video_fps() */
    int crf;                       /* x264's constant rate factor: 0 lossless .. 51 worst */
    video_chroma chroma;
    const media_tag *tags;         /* borrowed during video_writer_open() only; .y4m has no place for them */
    size_t n_tags;
} video_spec;

#define VIDEO_SPEC_INIT { 0, 0, 16, 1, VIDEO_CRF_DEFAULT, VIDEO_420, NULL, 0 }

/* The fraction nearest to a rate: 16 -> 16/1, 23.976 -> 24000/1001. ERR_ARG unless 0.01 <= fps <= 1000. */
int video_fps(int *num, int *den, double fps, err *e);
/* imageio's quality scale, 0 worst .. 10 best, as a crf: int(51 * (1 - quality / 10)), so 8 -> 10 and 5 -> 25. */
int video_crf_from_quality(double quality);

typedef struct video_writer video_writer;

/* Starts a video. The ending of `path` chooses the format: .mp4 or .y4m. On failure *w is NULL and nothing is left. */
int video_writer_open(video_writer **w, const char *path, const video_spec *spec, err *e);
/* The same as .y4m into a stream that is open, such as standard output: each frame is flushed, so whoever reads along sees it at
 * once. `name` is for messages; the stream stays the caller's. */
int video_writer_open_stream(video_writer **w, FILE *stream, const char *name, const video_spec *spec, err *e);
/* Adds one frame of the size given. After a failure only close (which fails too) or abort make sense. */
int video_writer_frame(video_writer *w, const uint8_t *rgb, err *e);
/* Finishes, flushes to the disk and renames. Frees w whatever happens; on failure (also of an earlier frame, also when
 * no frame was added) no file is left. NULL is harmless. */
int video_writer_close(video_writer *w, err *e);
/* Frees w and removes the partial file. NULL is harmless. */
void video_writer_abort(video_writer *w);

/* ---- reading a video ---- */

typedef struct video_info {
    int width, height;
    int fps_num, fps_den;          /* average rate; 0/1 when the file does not say */
    int64_t n_frames;              /* exact: from the container, else by counting packets */
} video_info;

typedef struct video_reader video_reader;

int video_reader_open(video_reader **r, const char *path, err *e);
const video_info *video_reader_info(const video_reader *r);
const char *video_reader_tag(const video_reader *r, const char *key);   /* container metadata, or NULL; owned by r */
/* Decodes the next frame into rgb (3 * width * height bytes). Returns 1 for a frame, 0 at the end, or an err_kind. */
int video_reader_frame(video_reader *r, uint8_t *rgb, err *e);
/* Reads the file through without decoding, beside the reader's own place: *n_frames that are there, ERR_FORMAT where it was cut off. */
int video_reader_look_through(video_reader *r, int64_t *n_frames, err *e);
void video_reader_close(video_reader *r);                               /* NULL is harmless */

/* ---- still images ---- */

/* 8-bit RGB PNG, atomic. Tags become iTXt chunks (UTF-8). */
int media_png_write(const char *path, int width, int height, const uint8_t *rgb, const media_tag *tags, size_t n_tags,
                    err *e);
/* Any PNG as 8-bit RGB: greys and palettes are expanded, 16 bits reduced, transparency dropped. free() *rgb. */
int media_png_read(const char *path, int *width, int *height, uint8_t **rgb, err *e);
/* The value of a tEXt or uncompressed iTXt chunk; *value is NULL when absent. free() it. Needs no FFmpeg. */
int media_png_tag(const char *path, const char *key, char **value, err *e);

/* ---- colours (exposed for tests) ---- */

/* Packed RGB to planes: y (w*h), u and v (w*h for 4:4:4, w/2*h/2 for 4:2:0), with the given line sizes. */
void media_rgb_to_yuv(uint8_t *y, int y_stride, uint8_t *u, int u_stride, uint8_t *v, int v_stride, const uint8_t *rgb,
                      int width, int height, video_chroma chroma);

#endif
