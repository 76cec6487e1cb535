#include "core/base/media.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/media_internal.h"

bool media_have_ffmpeg(void)
{
#ifdef HAVE_FFMPEG
    return true;
#else
    return false;
#endif
}

int video_fps(int *num, int *den, double fps, err *e)
{
    if (!(fps >= 0.01 && fps <= 1000))
        return ERR(e, ERR_ARG, "a frame rate of %g is out of range: give a number from 0.01 to 1000", fps);
    double whole = round(fps), ntsc = round(fps * 1.001);
    if (fps >= 1 && fabs(fps - whole) < 1e-6) {
        *num = (int)whole;
        *den = 1;
        return 0;
    }
    if (ntsc >= 1 && fabs(ntsc * 1000 / 1001 - fps) < 0.0006) {   /* 23.976, 29.97 and 59.94 are written rounded */
        *num = (int)ntsc * 1000;
        *den = 1001;
        return 0;
    }
    int best = 1;
    double best_miss = INFINITY;
    for (int d = 1; d <= 1000; d++) {
        double miss = fabs(round(fps * d) / d - fps);
        if (round(fps * d) >= 1 && miss < best_miss - 1e-12) {
            best_miss = miss;
            best = d;
        }
    }
    *num = (int)round(fps * best);
    *den = best;
    return 0;
}

int video_crf_from_quality(double quality)
{
    if (!(quality >= 0))
        quality = 0;
    if (quality > 10)
        quality = 10;
    return (int)(51.0 * (1.0 - quality / 10.0) + 1e-9);   /* 1 - 8/10 is a hair below 0.2 or above it */
}

/* ---- colours ---- */

/* BT.601: Y = 0.299 R + 0.587 G + 0.114 B scaled to 16..235, Cb and Cr to 16..240; coefficients times 65536. The chroma
 * coefficients of each row add up to 0, so greys have no colour. */
enum {
    Y_R = 16829, Y_G = 33039, Y_B = 6416,
    U_R = -9714, U_G = -19070, U_B = 28784,
    V_R = 28784, V_G = -24103, V_B = -4681,
};

static inline uint8_t luma(const uint8_t *p)
{
    return (uint8_t)((Y_R * p[0] + Y_G * p[1] + Y_B * p[2] + (16 << 16) + (1 << 15)) >> 16);
}

/* r, g, b are sums of `1 << shift` pixels. The bias keeps the shifted value positive. */
static inline uint8_t chroma_of(int kr, int kg, int kb, int64_t r, int64_t g, int64_t b, int shift)
{
    int bits = 16 + shift;
    int64_t v = kr * r + kg * g + kb * b + ((int64_t)128 << bits) + ((int64_t)1 << (bits - 1));
    return (uint8_t)(v >> bits);
}

void media_rgb_to_yuv(uint8_t *y, int y_stride, uint8_t *u, int u_stride, uint8_t *v, int v_stride, const uint8_t *rgb,
                      int width, int height, video_chroma chroma)
{
    for (int row = 0; row < height; row++) {
        const uint8_t *p = rgb + (size_t)row * (size_t)width * 3;
        for (int x = 0; x < width; x++)
            y[(size_t)row * (size_t)y_stride + (size_t)x] = luma(p + 3 * x);
    }
    if (chroma == VIDEO_444) {
        for (int row = 0; row < height; row++) {
            const uint8_t *p = rgb + (size_t)row * (size_t)width * 3;
            uint8_t *pu = u + (size_t)row * (size_t)u_stride, *pv = v + (size_t)row * (size_t)v_stride;
            for (int x = 0; x < width; x++, p += 3) {
                pu[x] = chroma_of(U_R, U_G, U_B, p[0], p[1], p[2], 0);
                pv[x] = chroma_of(V_R, V_G, V_B, p[0], p[1], p[2], 0);
            }
        }
        return;
    }
    /* Left-sited chroma sits on the even column, half-way between two rows: weights 1 2 1 across, 1 1 down. */
    for (int row = 0; row + 1 < height; row += 2) {
        const uint8_t *lines[2] = { rgb + (size_t)row * (size_t)width * 3,
                                    rgb + ((size_t)row + 1) * (size_t)width * 3 };
        uint8_t *pu = u + (size_t)(row / 2) * (size_t)u_stride, *pv = v + (size_t)(row / 2) * (size_t)v_stride;
        for (int x = 0; x + 1 < width; x += 2) {
            int left = x ? x - 1 : 0;
            int sum[3] = { 0, 0, 0 };
            for (int l = 0; l < 2; l++)
                for (int c = 0; c < 3; c++)
                    sum[c] += lines[l][3 * left + c] + 2 * lines[l][3 * x + c] + lines[l][3 * (x + 1) + c];
            pu[x / 2] = chroma_of(U_R, U_G, U_B, sum[0], sum[1], sum[2], 3);
            pv[x / 2] = chroma_of(V_R, V_G, V_B, sum[0], sum[1], sum[2], 3);
        }
    }
}

/* ---- the writer ---- */

struct video_writer {
    char *path, *part;
    int width, height;
    video_chroma chroma;
    int64_t n_frames;
    err first_error;       /* the first failure; close() repeats it */
    FILE *y4m;
    bool borrowed;         /* y4m is the caller's; there is no part */
    uint8_t *planes;
    size_t planes_bytes;
#ifdef HAVE_FFMPEG
    mp4_encoder *mp4;
#endif
};

static void writer_free(video_writer *w)
{
    if (!w)
        return;
    if (w->y4m && !w->borrowed)
        fclose(w->y4m);
#ifdef HAVE_FFMPEG
    mp4_encoder_free(w->mp4);
#endif
    free(w->planes);
    free(w->path);
    free(w->part);
    free(w);
}

static int check_spec(const char *path, const video_spec *s, err *e)
{
    if (s->width < 1 || s->height < 1 || s->width > MEDIA_MAX_SIDE || s->height > MEDIA_MAX_SIDE)
        return ERR(e, ERR_ARG, "%s: a video of %dx%d pixels cannot be written: each side must be from 1 to %d", path,
                   s->width, s->height, MEDIA_MAX_SIDE);
    if (s->chroma == VIDEO_420 && (s->width % 2 || s->height % 2))
        return ERR(e, ERR_ARG,
                   "%s: a video of %dx%d pixels cannot be written: 4:2:0 video needs an even width and height; "
                   "choose even sizes or 4:4:4",
                   path, s->width, s->height);
    if (s->fps_num < 1 || s->fps_den < 1)
        return ERR(e, ERR_ARG, "%s: a frame rate of %d/%d is not possible: both numbers must be positive", path,
                   s->fps_num, s->fps_den);
    if (s->crf < 0 || s->crf > 51)
        return ERR(e, ERR_ARG, "%s: a crf of %d is out of range: 0 is lossless, 51 the worst, %d the default", path,
                   s->crf, VIDEO_CRF_DEFAULT);
    return 0;
}

static int y4m_open(video_writer *w, const video_spec *s, err *e)
{
    size_t luma_bytes = (size_t)s->width * (size_t)s->height;
    w->planes_bytes = s->chroma == VIDEO_444 ? 3 * luma_bytes : luma_bytes + luma_bytes / 2;
    w->planes = malloc(w->planes_bytes);
    if (!w->planes)
        return ERR(e, ERR_MEMORY, "%s: no memory for a frame of %zu bytes", w->path, w->planes_bytes);
    if (!w->borrowed)
        w->y4m = fopen(w->part, "wb");
    if (!w->y4m)
        return ERR(e, ERR_IO, "%s: cannot be created: %s; check that the folder exists and is writable", w->part,
                   strerror(errno));
    if (fprintf(w->y4m, "YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 %s XCOLORRANGE=LIMITED\n", s->width, s->height, s->fps_num,
                s->fps_den, s->chroma == VIDEO_444 ? "C444" : "C420mpeg2") < 0)
        return ERR(e, ERR_IO, "%s: cannot be written: %s", w->borrowed ? w->path : w->part, strerror(errno));
    return 0;
}

static int y4m_frame(video_writer *w, const uint8_t *rgb, err *e)
{
    size_t n = (size_t)w->width * (size_t)w->height;
    bool full = w->chroma == VIDEO_444;
    int c_stride = full ? w->width : w->width / 2;
    uint8_t *u = w->planes + n, *v = u + (w->planes_bytes - n) / 2;
    media_rgb_to_yuv(w->planes, w->width, u, c_stride, v, c_stride, rgb, w->width, w->height, w->chroma);
    if (fputs("FRAME\n", w->y4m) < 0 || fwrite(w->planes, 1, w->planes_bytes, w->y4m) != w->planes_bytes ||
        (w->borrowed && fflush(w->y4m)))
        return ERR(e, ERR_IO, "%s: frame %lld cannot be written: %s%s", w->borrowed ? w->path : w->part,
                   (long long)w->n_frames, strerror(errno), w->borrowed ? "" : "; free some space and run again");
    return 0;
}

int video_writer_open(video_writer **out, const char *path, const video_spec *spec, err *e)
{
    bool y4m = str_ends_with(path, ".y4m");
    *out = NULL;
    if (!y4m && !str_ends_with(path, ".mp4"))
        return ERR(e, ERR_ARG, "%s: the ending does not name a video format that can be written: use .mp4 or .y4m",
                   path);
    int rc = check_spec(path, spec, e);
    if (rc)
        return rc;
#ifndef HAVE_FFMPEG
    if (!y4m)
        return ERR(e, ERR_ARG,
                   "%s: this build has no FFmpeg, so MP4 cannot be written: use a name ending in .y4m, or install "
                   "libavcodec-dev, libavformat-dev and libswscale-dev and build again",
                   path);
#endif
    video_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = str_dup(path)) || !(w->part = str_format("%s.part", path))) {
        writer_free(w);
        return ERR(e, ERR_MEMORY, "%s: no memory for a video writer", path);
    }
    w->width = spec->width;
    w->height = spec->height;
    w->chroma = spec->chroma;
    if (y4m)
        rc = y4m_open(w, spec, e);
#ifdef HAVE_FFMPEG
    else
        rc = mp4_encoder_open(&w->mp4, w->part, w->path, spec, NULL, e);
#endif
    if (rc) {
        video_writer_abort(w);
        return rc;
    }
    *out = w;
    return 0;
}

int video_writer_open_stream(video_writer **out, FILE *stream, const char *name, const video_spec *spec, err *e)
{
    *out = NULL;
    int rc = check_spec(name, spec, e);
    if (rc)
        return rc;
    video_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = str_dup(name))) {
        writer_free(w);
        return ERR(e, ERR_MEMORY, "%s: no memory for a video writer", name);
    }
    w->width = spec->width;
    w->height = spec->height;
    w->chroma = spec->chroma;
    w->y4m = stream;
    w->borrowed = true;
    if ((rc = y4m_open(w, spec, e)))
        writer_free(w);
    else
        *out = w;
    return rc;
}

int video_writer_frame(video_writer *w, const uint8_t *rgb, err *e)
{
    int rc = w->first_error.kind;
    if (rc)
        return ERR(e, rc, "%s", w->first_error.text);
    if (w->y4m)
        rc = y4m_frame(w, rgb, &w->first_error);
#ifdef HAVE_FFMPEG
    else
        rc = mp4_encoder_frame(w->mp4, rgb, &w->first_error);
#endif
    if (rc)
        return ERR(e, rc, "%s", w->first_error.text);
    w->n_frames++;
    return 0;
}

int video_writer_close(video_writer *w, err *e)
{
    int rc = 0;
    if (!w)
        return 0;
    if (w->first_error.kind)
        rc = ERR(e, w->first_error.kind, "%s", w->first_error.text);
    else if (!w->n_frames)
        rc = ERR(e, ERR_ARG, "%s: a video without frames is not written", w->path);
    else if (w->y4m) {
        int closed = w->borrowed ? fflush(w->y4m) : fclose(w->y4m);
        w->y4m = NULL;
        if (closed)
            rc = ERR(e, ERR_IO, "%s: cannot be finished: %s; free some space and run again", w->part ? w->part : w->path, strerror(errno));
    }
#ifdef HAVE_FFMPEG
    else
        rc = mp4_encoder_finish(w->mp4, e);
#endif
    if (!rc && w->part)
        rc = fs_publish(w->part, w->path, e);
    if (rc)
        video_writer_abort(w);
    else
        writer_free(w);
    return rc;
}

void video_writer_abort(video_writer *w)
{
    if (!w)
        return;
    char *part = w->part;
    w->part = NULL;
    writer_free(w);        /* closes the file first */
    if (part)
        unlink(part);
    free(part);
}
