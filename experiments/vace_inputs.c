#include "experiments/vace_inputs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "core/base/sha256.h"
#include "experiments/depth.h"
#include "experiments/pixels.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

bool vace_inputs_given(const config *c)
{
    return c->vace.references.n > 0 || c->vace.control[0] || c->vace.mask[0];
}

static int check_file(const char *path, const char *key, err *e)
{
    if (!fs_exists(path))
        return ERR(e, ERR_IO, "%s: there is no such file (%s)", path, key);
    if (fs_is_dir(path))
        return ERR(e, ERR_IO, "%s: this is a folder, expected a file (%s)", path, key);
    return 0;
}

int vace_inputs_check(const config *c, err *e)
{
    int rc = 0;
    const string_list *refs = &c->vace.references;
    if (refs->n > VACE_MAX_REFERENCES)
        return ERR(e, ERR_CONFIG, "vace.references names %d images, at most %d are possible", refs->n, VACE_MAX_REFERENCES);
    for (int i = 0; i < refs->n && !rc; i++) {
        rc = check_file(refs->items[i], "vace.references", e);
        if (!rc && depth_is_numbers(refs->items[i]))
            rc = ERR(e, ERR_CONFIG, "%s: a reference is an image (PNG, or with FFmpeg JPEG and others)", refs->items[i]);
    }
    if (!rc && c->vace.control[0])
        rc = check_file(c->vace.control, "vace.control", e);
    if (!rc && c->vace.mask[0])
        rc = check_file(c->vace.mask, "vace.mask", e);
    if (!rc && c->vace.control[0] && depth_is_numbers(c->vace.control) && c->vace.control_type != CONTROL_DEPTH)
        rc = ERR(e, ERR_CONFIG, "%s: a file of numbers is read as depth maps; set vace.control_type to depth", c->vace.control);
    return rc;
}

int vace_inputs_digests(const config *c, str *out, err *e)
{
    int rc = 0;
    char hex[65];
    json_writer w;
    jw_init(&w, out, 0);
    jw_object(&w);
    if (c->vace.references.n) {
        jw_key(&w, "references");
        jw_array(&w);
        for (int i = 0; i < c->vace.references.n; i++) {
            TRY(sha256_file(c->vace.references.items[i], hex, e));
            jw_string(&w, hex);
        }
        jw_end_array(&w);
    }
    const char *files[2] = { c->vace.control, c->vace.mask }, *keys[2] = { "control", "mask" };
    for (int i = 0; i < 2; i++)
        if (files[i][0]) {
            TRY(sha256_file(files[i], hex, e));
            jw_kstring(&w, keys[i], hex);
        }
    jw_end_object(&w);
    if (out->failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for the digests of conditions");
out:
    return rc;
}

/* ---- pictures ---- */

/* The first picture of a file. free() *rgb. */
static int read_image(uint8_t **rgb, int *w, int *h, const char *path, err *e)
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
        return read_image(&s->rgb, &s->w, &s->h, path, e);
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

static int too_short(const char *path, int64_t found, int64_t wanted, const char *what, err *e)
{
    return ERR(e, ERR_CONFIG, "%s: %s has %" PRId64 " frames, but video.frames is %" PRId64 "; give a longer one, or make a shorter video", path, what, found,
               wanted);
}

/* Which of n frames stands for frame `at` of `wanted`. Spread over the whole: floor(at (n - 1/2) / (wanted - 1)), as VACE's loader spreads
 * its time stamps from 0 to the middle of the last frame (preprocessor.py:182-211). */
static int64_t frame_of(const config *c, int64_t at, int64_t wanted, int64_t n)
{
    return c->vace.control_timing == TIMING_WHOLE && wanted > 1 ? at * (2 * n - 1) / (2 * (wanted - 1)) : at;
}

/* Brings frame `at` of `wanted` into s->rgb; frames are asked for in their order. */
static int source_next(source *s, const config *c, int64_t at, int64_t wanted, const char *what, err *e)
{
    int64_t which = frame_of(c, at, wanted, s->n);
    while (s->video && s->read <= which) {
        int got = video_reader_frame(s->video, s->rgb, e);
        if (got != 1)
            return got < 0 ? got : too_short(s->path, s->read, wanted, what, e);
        s->read++;
    }
    return 0;
}

static bool lacks_frames(const config *c, int64_t n, int64_t wanted)
{
    return n < (c->vace.control_timing == TIMING_WHOLE ? 1 : wanted);
}

/* ---- control and mask ---- */

typedef struct size {
    int w, h;
    int64_t frames, plane;
} size;

static void tell_fit(const config *c, const char *path, int w, int h, int64_t n, const size *to)
{
    if (w != to->w || h != to->h)
        log_msg(LOG_INFO, "%s: %d x %d pixels are scaled to cover %d x %d, and the middle is taken", path, w, h, to->w, to->h);
    if (c->vace.control_timing == TIMING_WHOLE && n && n != to->frames)
        log_msg(LOG_INFO, "%s: %" PRId64 " frames are spread over %" PRId64, path, n, to->frames);
    else if (n > to->frames)
        log_msg(LOG_INFO, "%s: the first %" PRId64 " of %" PRId64 " frames are used", path, to->frames, n);
}

static int load_video(float *out, const config *c, const size *to, err *e)
{
    int rc = 0;
    source s;
    TRY(source_open(&s, c->vace.control, e));
    if (s.video && lacks_frames(c, s.n, to->frames))
        TRY(too_short(s.path, s.n, to->frames, "the control video", e));
    if (!s.video && to->frames > 1) {
        rc = ERR(e, ERR_CONFIG, "%s: a control video of %" PRId64 " frames is needed, this is one picture; an image that shows what should appear belongs into "
                 "vace.references", s.path, to->frames);
        goto out;
    }
    tell_fit(c, s.path, s.w, s.h, s.n, to);
    for (int64_t f = 0; f < to->frames; f++) {
        float *const planes[3] = { out + f * to->plane, out + (to->frames + f) * to->plane, out + (2 * to->frames + f) * to->plane };
        TRY(source_next(&s, c, f, to->frames, "the control video", e));
        TRY(pixels_cover_rgb(planes, to->w, to->h, s.rgb, s.w, s.h, e));
    }
out:
    source_close(&s);
    return rc;
}

/* one value a pixel, 0..1, of every frame; then three equal planes in [-1, 1] */
static int load_depth(float *out, const config *c, const size *to, err *e)
{
    int rc = 0, w, h;
    int64_t n;
    source s = { 0 };
    float *all = NULL, *one = NULL, *depth = malloc((size_t)(to->frames * to->plane) * sizeof *depth);
    const char *path = c->vace.control;
    if (!depth) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for depth maps", path);
        goto out;
    }
    if (depth_is_numbers(path)) {
        TRY(depth_read(&all, &n, &w, &h, path, e));
        if (lacks_frames(c, n, to->frames))
            TRY(too_short(path, n, to->frames, "the depth", e));
    } else {
        TRY(source_open(&s, path, e));
        w = s.w;
        h = s.h;
        n = s.n;
        if (s.video && lacks_frames(c, n, to->frames))
            TRY(too_short(path, n, to->frames, "the control video", e));
        if (!(one = malloc((size_t)w * (size_t)h * sizeof *one))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for a frame", path);
            goto out;
        }
    }
    tell_fit(c, path, w, h, n, to);
    for (int64_t f = 0; f < to->frames; f++) {
        if (!all)
            TRY(source_next(&s, c, f, to->frames, "the control video", e));
        if (!all && c->vace.control_type == CONTROL_EDGES)
            TRY(depth_from_edges(one, s.rgb, w, h, e));
        for (int64_t i = 0; !all && c->vace.control_type == CONTROL_DEPTH && i < (int64_t)w * h; i++)
            one[i] = (float)s.rgb[3 * i] / 255.0f;
        TRY(pixels_cover(depth + f * to->plane, to->w, to->h, all ? all + frame_of(c, f, to->frames, n) * w * h : one, w, h, 0, e));
    }
    TRY(depth_prepare(depth, to->frames, to->plane, (depth_normalise)c->vace.depth_normalise, c->vace.depth_invert, (int)c->vace.depth_smooth, path, e));
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < to->frames * to->plane; i++)
            out[k * to->frames * to->plane + i] = depth[i] * 2 - 1;
out:
    source_close(&s);
    free(all);
    free(one);
    free(depth);
    return rc;
}

static int load_mask(float *out, const config *c, const size *to, err *e)
{
    int rc = 0;
    source s;
    float *one = NULL, top = 0;
    TRY(source_open(&s, c->vace.mask, e));
    if (s.video && lacks_frames(c, s.n, to->frames))
        TRY(too_short(s.path, s.n, to->frames, "the mask", e));
    tell_fit(c, s.path, s.w, s.h, s.n, to);
    if (!(one = malloc((size_t)s.w * (size_t)s.h * sizeof *one))) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for a frame", s.path);
        goto out;
    }
    for (int64_t f = 0; f < to->frames; f++) {
        TRY(source_next(&s, c, f, to->frames, "the mask", e));
        for (int64_t i = 0; i < (int64_t)s.w * s.h; i++) {
            one[i] = (float)s.rgb[3 * i] / 255.0f;      /* the first channel, as upstream */
            top = one[i] > top ? one[i] : top;
        }
        TRY(pixels_cover(out + f * to->plane, to->w, to->h, one, s.w, s.h, 1, e));
    }
    if (top <= 0.5f)
        log_msg(LOG_WARN, "%s: the mask is dark everywhere (at most %g of 1): white is what is made anew, so nothing is", s.path, (double)top);
out:
    source_close(&s);
    free(one);
    return rc;
}

int vace_inputs_load(vace_buffers *out, const config *c, err *e)
{
    int rc = 0;
    uint8_t *rgb = NULL;
    size to = { (int)c->video.width, (int)c->video.height, c->video.frames, c->video.width * c->video.height };
    *out = (vace_buffers){ 0 };
    for (int i = 0; i < c->vace.references.n; i++) {
        const char *path = c->vace.references.items[i];
        int w, h;
        if (!(out->references[i] = malloc(3 * (size_t)to.plane * sizeof(float)))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for a reference", path);
            goto out;
        }
        out->n_references = i + 1;
        TRY(read_image(&rgb, &w, &h, path, e));
        TRY(pixels_letterbox(out->references[i], to.w, to.h, rgb, w, h, path, e));
        free(rgb);
        rgb = NULL;
    }
    if (c->vace.control[0]) {
        if (!(out->control = malloc(3 * (size_t)(to.plane * to.frames) * sizeof(float)))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for %" PRId64 " frames", c->vace.control, to.frames);
            goto out;
        }
        TRY(c->vace.control_type == CONTROL_VIDEO ? load_video(out->control, c, &to, e) : load_depth(out->control, c, &to, e));
    }
    if (c->vace.mask[0]) {
        if (!(out->mask = malloc((size_t)(to.plane * to.frames) * sizeof(float)))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for %" PRId64 " frames", c->vace.mask, to.frames);
            goto out;
        }
        TRY(load_mask(out->mask, c, &to, e));
    }
out:
    free(rgb);
    if (rc)
        vace_inputs_release(out);
    return rc;
}

void vace_inputs_release(vace_buffers *b)
{
    for (int i = 0; i < VACE_MAX_REFERENCES; i++)
        free(b->references[i]);
    free(b->control);
    free(b->mask);
    *b = (vace_buffers){ 0 };
}
