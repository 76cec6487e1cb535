#include "experiments/vace_inputs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/sha256.h"
#include "experiments/depth.h"
#include "experiments/interrupt.h"
#include "experiments/pixels.h"
#include "experiments/vace_reader.h"

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

/* ---- control and mask ---- */

static int load_video(float *out, const config *c, const vace_size *to, err *e)
{
    vace_reader *r;
    int rc = vace_reader_new(&r, READ_VIDEO, c, to, e);
    for (int64_t f = 0; f < to->frames && !rc; f++)
        rc = vace_reader_frame(r, f, out + f * to->plane, to->frames * to->plane, e);
    vace_reader_free(r);
    return rc;
}

/* Depth in 0..1 as three equal planes in [-1, 1]. */
static void spread_depth(float *out, const float *depth, int64_t n)
{
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; i < n; i++)
            out[k * n + i] = depth[i] * 2 - 1;
}

/* one value a pixel, 0..1, of every frame; then three equal planes in [-1, 1] */
static int load_depth(float *out, const config *c, const vace_size *to, err *e)
{
    int rc = 0, w, h;
    int64_t n;
    vace_reader *r = NULL;
    float *all = NULL, *depth = malloc((size_t)(to->frames * to->plane) * sizeof *depth);
    const char *path = c->vace.control;
    if (!depth) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for depth maps", path);
        goto out;
    }
    if (depth_is_numbers(path)) {
        TRY(depth_read(&all, &n, &w, &h, path, e));
        if (vace_lacks_frames(c, n, to->frames))
            TRY(vace_too_short(path, n, to->frames, "the depth", e));
        vace_tell_fit(c, path, w, h, n, to);
    } else {
        TRY(vace_reader_new(&r, READ_DEPTH, c, to, e));
    }
    for (int64_t f = 0; f < to->frames; f++) {
        float *plane = depth + f * to->plane;
        TRY(r ? vace_reader_frame(r, f, plane, 0, e) : pixels_cover(plane, to->w, to->h, all + vace_frame_of(c, f, to->frames, n) * w * h, w, h, 0, e));
    }
    TRY(depth_prepare(depth, to->frames, to->plane, (depth_normalise)c->vace.depth_normalise, c->vace.depth_invert, (int)c->vace.depth_smooth, path, e));
    spread_depth(out, depth, to->frames * to->plane);
out:
    vace_reader_free(r);
    free(all);
    free(depth);
    return rc;
}

static int load_mask(float *out, const config *c, const vace_size *to, err *e)
{
    vace_reader *r;
    int rc = vace_reader_new(&r, READ_MASK, c, to, e);
    for (int64_t f = 0; f < to->frames && !rc; f++)
        rc = vace_reader_frame(r, f, out + f * to->plane, 0, e);
    vace_reader_free(r);
    return rc;
}

/* ---- for a causal model, as it asks ---- */

/* Does each frame of the control depend on its own picture alone? */
static bool control_by_frame(const config *c)
{
    return c->vace.control_type == CONTROL_VIDEO ||
           (!depth_is_numbers(c->vace.control) && c->vace.depth_normalise != (int)DEPTH_CLIP && c->vace.depth_smooth <= 1);
}

static int next_control(int64_t first, int64_t n, float *out, void *user, err *e)
{
    int rc = 0;
    vace_buffers *b = user;
    vace_reader *r = b->later[0];
    const config *cfg = b->cfg;
    float *depth = NULL;
    TRY(interrupt_check(e));
    for (int k = 0; !r && k < 3; k++)
        memcpy(out + k * n * b->plane, b->control + (k * b->frames + first) * b->plane, (size_t)(n * b->plane) * sizeof *out);
    if (r && cfg->vace.control_type != CONTROL_VIDEO && !(depth = malloc((size_t)(n * b->plane) * sizeof *depth))) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for depth maps", cfg->vace.control);
        goto out;
    }
    for (int64_t f = 0; r && f < n; f++)
        TRY(vace_reader_frame(r, first + f, (depth ? depth : out) + f * b->plane, n * b->plane, e));
    if (depth) {
        TRY(depth_prepare(depth, n, b->plane, (depth_normalise)cfg->vace.depth_normalise, cfg->vace.depth_invert, 1, cfg->vace.control, e));
        spread_depth(out, depth, n * b->plane);
    }
out:
    free(depth);
    return rc;
}

static int next_mask(int64_t first, int64_t n, float *out, void *user, err *e)
{
    vace_buffers *b = user;
    int rc = 0;
    for (int64_t f = 0; f < n && !rc; f++)
        rc = vace_reader_frame(b->later[1], first + f, out + f * b->plane, 0, e);
    return rc;
}

vace_source vace_inputs_source(vace_buffers *b)
{
    return (vace_source){ b->control || b->later[0] ? next_control : NULL, b->later[1] ? next_mask : NULL, b };
}

static int load(vace_buffers *out, const config *c, bool follow, err *e)
{
    int rc = 0;
    uint8_t *rgb = NULL;
    vace_size to = { (int)c->video.width, (int)c->video.height, c->video.frames, c->video.width * c->video.height };
    *out = (vace_buffers){ .cfg = c, .frames = to.frames, .plane = to.plane };
    for (int i = 0; i < c->vace.references.n; i++) {
        const char *path = c->vace.references.items[i];
        int w, h;
        if (!(out->references[i] = malloc(3 * (size_t)to.plane * sizeof(float)))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for a reference", path);
            goto out;
        }
        out->n_references = i + 1;
        TRY(vace_read_image(&rgb, &w, &h, path, e));
        TRY(pixels_letterbox(out->references[i], to.w, to.h, rgb, w, h, path, e));
        free(rgb);
        rgb = NULL;
    }
    if (c->vace.control[0] && follow && control_by_frame(c)) {
        TRY(vace_reader_new(&out->later[0], c->vace.control_type == CONTROL_VIDEO ? READ_VIDEO : READ_DEPTH, c, &to, e));
        TRY(vace_reader_look_through(out->later[0], e));
    } else if (c->vace.control[0]) {
        if (!(out->control = malloc(3 * (size_t)(to.plane * to.frames) * sizeof(float)))) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for %" PRId64 " frames", c->vace.control, to.frames);
            goto out;
        }
        TRY(c->vace.control_type == CONTROL_VIDEO ? load_video(out->control, c, &to, e) : load_depth(out->control, c, &to, e));
    }
    if (c->vace.mask[0] && follow) {
        TRY(vace_reader_new(&out->later[1], READ_MASK, c, &to, e));
        TRY(vace_reader_look_through(out->later[1], e));
    } else if (c->vace.mask[0]) {
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

int vace_inputs_load(vace_buffers *out, const config *c, err *e)
{
    return load(out, c, false, e);
}

int vace_inputs_follow(vace_buffers *out, const config *c, err *e)
{
    return load(out, c, true, e);
}

void vace_inputs_release(vace_buffers *b)
{
    vace_reader_free(b->later[0]);
    vace_reader_free(b->later[1]);
    for (int i = 0; i < VACE_MAX_REFERENCES; i++)
        free(b->references[i]);
    free(b->control);
    free(b->mask);
    *b = (vace_buffers){ 0 };
}
