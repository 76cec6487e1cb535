#include "experiments/vace_reader.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/media.h"
#include "core/base/str.h"
#include "experiments/depth.h"
#include "experiments/pixels.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- pictures ---- */

int vace_read_image(uint8_t **rgb, int *w, int *h, const char *path, err *e)
{
    video_reader *r = NULL;
    *rgb = NULL;
    size_t n = strlen(path);
    if (n > 4 && (strcmp(path + n - 4, ".png") == 0 || strcmp(path + n - 4, ".PNG") == 0))
        return media_png_read(path, w, h, rgb, e);
    int rc = video_reader_open(&r, path, e);
    if (rc)
        return rc;
    *w = video_reader_info(r)->width;
    *h = video_reader_info(r)->height;
    if (!(*rgb = malloc(3 * (size_t)*w * (size_t)*h)))
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for an image of %d x %d pixels", path, *w, *h);
    int got = rc ? 0 : video_reader_frame(r, *rgb, e);
    if (!rc && got != 1)
        rc = got < 0 ? got : ERR(e, ERR_FORMAT, "%s: holds no picture", path);
    video_reader_close(r);
    if (rc) {
        free(*rgb);
        *rgb = NULL;
    }
    return rc;
}

/* Frames one after another: a video, or one picture again and again. */
typedef struct source {
    const char *path;
    video_reader *video;
    uint8_t *rgb;
    int w, h;
    int64_t n;                 /* frames; 0: a picture, any number */
    int64_t read;              /* frames read so far */
} source;

static bool is_picture(const char *path)
{
    static const char *const ENDINGS[] = { ".png", ".PNG", ".jpg", ".jpeg", ".JPG", ".JPEG", ".webp", ".bmp", ".tif", ".tiff" };
    for (size_t i = 0; i < sizeof ENDINGS / sizeof *ENDINGS; i++)
        if (str_ends_with(path, ENDINGS[i]))
            return true;
    return false;
}

static int source_open(source *s, const char *path, err *e)
{
    *s = (source){ .path = path };
    if (is_picture(path))
        return vace_read_image(&s->rgb, &s->w, &s->h, path, e);
    int rc = video_reader_open(&s->video, path, e);
    if (rc)
        return rc;
    s->w = video_reader_info(s->video)->width;
    s->h = video_reader_info(s->video)->height;
    s->n = video_reader_info(s->video)->n_frames;
    s->rgb = malloc(3 * (size_t)s->w * (size_t)s->h);
    return s->rgb ? 0 : ERR(e, ERR_MEMORY, "%s: out of memory for a frame of %d x %d pixels", path, s->w, s->h);
}

static void source_close(source *s)
{
    video_reader_close(s->video);
    free(s->rgb);
    *s = (source){ 0 };
}

int vace_too_short(const char *path, int64_t found, int64_t wanted, const char *what, err *e)
{
    return ERR(e, ERR_CONFIG, "%s: %s has %" PRId64 " frames, but video.frames is %" PRId64 "; give a longer one, or make a shorter video", path, what, found,
               wanted);
}

int64_t vace_frame_of(const config *c, int64_t at, int64_t wanted, int64_t n)
{
    return c->vace.control_timing == TIMING_WHOLE && wanted > 1 ? at * (2 * n - 1) / (2 * (wanted - 1)) : at;
}

/* Brings frame `at` of `wanted` into s->rgb; frames are asked for in their order. */
static int source_next(source *s, const config *c, int64_t at, int64_t wanted, const char *what, err *e)
{
    int64_t which = vace_frame_of(c, at, wanted, s->n);
    while (s->video && s->read <= which) {
        int got = video_reader_frame(s->video, s->rgb, e);
        if (got != 1)
            return got < 0 ? got : vace_too_short(s->path, s->read, wanted, what, e);
        s->read++;
    }
    return 0;
}

bool vace_lacks_frames(const config *c, int64_t n, int64_t wanted)
{
    return n < (c->vace.control_timing == TIMING_WHOLE ? 1 : wanted);
}

void vace_tell_fit(const config *c, const char *path, int w, int h, int64_t n, const vace_size *to)
{
    if (w != to->w || h != to->h)
        log_msg(LOG_INFO, "%s: %d x %d pixels are scaled to cover %d x %d, and the middle is taken", path, w, h, to->w, to->h);
    if (c->vace.control_timing == TIMING_WHOLE && n && n != to->frames)
        log_msg(LOG_INFO, "%s: %" PRId64 " frames are spread over %" PRId64, path, n, to->frames);
    else if (n > to->frames)
        log_msg(LOG_INFO, "%s: the first %" PRId64 " of %" PRId64 " frames are used", path, to->frames, n);
}

/* ---- readers ---- */

struct vace_reader {
    const config *c;
    const char *what;
    vace_read_kind kind;
    source s;
    vace_size to;
    float *one;                /* a frame as it is in the file */
    float top;                 /* of a mask: the brightest so far */
};

void vace_reader_free(vace_reader *r)
{
    if (r) {
        source_close(&r->s);
        free(r->one);
        free(r);
    }
}

int vace_reader_new(vace_reader **out, vace_read_kind kind, const config *c, const vace_size *to, err *e)
{
    int rc = 0;
    vace_reader *r = calloc(1, sizeof *r);
    const char *path = kind == READ_MASK ? c->vace.mask : c->vace.control;
    *out = NULL;
    if (!r)
        return ERR(e, ERR_MEMORY, "%s: out of memory", path);
    *r = (vace_reader){ .c = c, .what = kind == READ_MASK ? "the mask" : "the control video", .kind = kind, .to = *to };
    TRY(source_open(&r->s, path, e));
    if (r->s.video && vace_lacks_frames(c, r->s.n, to->frames))
        TRY(vace_too_short(path, r->s.n, to->frames, r->what, e));
    if (kind == READ_VIDEO && !r->s.video && to->frames > 1) {
        rc = ERR(e, ERR_CONFIG, "%s: a control video of %" PRId64 " frames is needed, this is one picture; an image that shows what should appear belongs into "
                 "vace.references", path, to->frames);
        goto out;
    }
    if (kind != READ_VIDEO && !(r->one = malloc((size_t)r->s.w * (size_t)r->s.h * sizeof *r->one))) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for a frame", path);
        goto out;
    }
    vace_tell_fit(c, path, r->s.w, r->s.h, r->s.n, to);
    *out = r;
    return 0;
out:
    vace_reader_free(r);
    return rc;
}

int vace_reader_frame(vace_reader *r, int64_t at, float *out, int64_t stride, err *e)
{
    int rc = 0;
    const source *s = &r->s;
    int64_t n = (int64_t)s->w * s->h;
    TRY(source_next(&r->s, r->c, at, r->to.frames, r->what, e));
    if (r->kind == READ_VIDEO)
        return pixels_cover_rgb((float *const[3]){ out, out + stride, out + 2 * stride }, r->to.w, r->to.h, s->rgb, s->w, s->h, e);
    if (r->kind == READ_DEPTH && r->c->vace.control_type == CONTROL_EDGES)
        TRY(depth_from_edges(r->one, s->rgb, s->w, s->h, e));
    else
        for (int64_t i = 0; i < n; i++)      /* the first channel, as upstream */
            r->one[i] = (float)s->rgb[3 * i] / 255.0f;
    for (int64_t i = 0; i < n; i++)
        r->top = r->one[i] > r->top ? r->one[i] : r->top;
    TRY(pixels_cover(out, r->to.w, r->to.h, r->one, s->w, s->h, r->kind == READ_MASK, e));
    if (r->kind == READ_MASK && at + 1 == r->to.frames && r->top <= 0.5f)
        log_msg(LOG_WARN, "%s: the mask is dark everywhere (at most %g of 1): white is what is made anew, so nothing is", s->path, (double)r->top);
out:
    return rc;
}

int vace_reader_look_through(vace_reader *r, err *e)
{
    int64_t there, last = vace_frame_of(r->c, r->to.frames - 1, r->to.frames, r->s.n);
    int rc = r->s.video ? video_reader_look_through(r->s.video, &there, e) : 0;
    return !rc && r->s.video && there <= last ? vace_too_short(r->s.path, there, r->to.frames, r->what, e) : rc;
}
