#include "experiments/depth.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/io/ckpt.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- files of numbers ---- */

bool depth_is_numbers(const char *path)
{
    return str_ends_with(path, ".npy") || str_ends_with(path, ".safetensors");
}

/* "'descr': '<f4'" -> a dtype; -1 for what is not read */
static int npy_type(const char *header)
{
    static const struct { const char *descr; dtype type; } TYPES[] = {
        { "'<f4'", DT_F32 }, { "'<f2'", DT_F16 }, { "'<f8'", DT_F64 }, { "'|u1'", DT_U8 }, { "'<i2'", DT_I16 }, { "'<i4'", DT_I32 },
    };
    const char *at = strstr(header, "'descr':");
    at = at ? at + strlen("'descr':") : "";
    at += strspn(at, " ");
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (str_starts_with(at, TYPES[i].descr))
            return (int)TYPES[i].type;
    return -1;
}

static int npy_shape(const char *header, int64_t shape[4])
{
    const char *at = strstr(header, "'shape':");
    int n = 0;
    at = at ? strchr(at, '(') : NULL;
    if (!at)
        return -1;
    for (at++; *at && *at != ')';) {
        char *end;
        long long v = strtoll(at, &end, 10);
        if (end == at || v < 1 || v > INT64_C(1) << 31 || n == 4)
            return -1;
        shape[n++] = v;
        at = end + strspn(end, ", ");
    }
    return *at == ')' ? n : -1;
}

/* where the numbers are; `m` stays open */
static int open_npy(fs_map *m, const char *path, ckpt_tensor *t, err *e)
{
    char *header = NULL;
    int rc = fs_map_open(m, path, e);
    if (rc)
        return rc;
    size_t size = 0, start = 0;
    if (m->size >= 12 && memcmp(m->data, "\x93NUMPY", 6) == 0) {
        bool wide = m->data[6] >= 2;
        start = wide ? 12 : 10;
        size = (size_t)m->data[8] | (size_t)m->data[9] << 8;
        if (wide)
            size |= (size_t)m->data[10] << 16 | (size_t)m->data[11] << 24;
    }
    if (!start || size > m->size - start)
        return ERR(e, ERR_FORMAT, "%s: this is no .npy file, or it is cut off", path);
    if (!(header = str_dupn((const char *)m->data + start, size)))
        return ERR(e, ERR_MEMORY, "%s: out of memory", path);
    int type = npy_type(header);
    t->ndim = npy_shape(header, t->shape);
    bool fortran = strstr(header, "'fortran_order': True") != NULL;
    free(header);
    if (type < 0 || t->ndim < 0 || fortran)
        return ERR(e, ERR_FORMAT, "%s: expected little-endian numbers (f2, f4, f8, u1, i2, i4) in C order with up to four axes", path);
    t->dtype = (dtype)type;
    t->data = m->data + start + size;
    t->bytes = m->size - start - size;
    double want = (double)dtype_size(t->dtype);
    for (int i = 0; i < t->ndim; i++)
        want *= (double)t->shape[i];
    if (want != (double)t->bytes)
        return ERR(e, ERR_FORMAT, "%s: the shape in the header asks for %.0f bytes, the file holds %zu", path, want, t->bytes);
    return 0;
}

int depth_read(float **out, int64_t *frames, int *width, int *height, const char *path, err *e)
{
    int rc = 0;
    fs_map m = { 0 };
    ckpt *c = NULL;
    ckpt_tensor t = { 0 };
    *out = NULL;
    if (str_ends_with(path, ".npy")) {
        TRY(open_npy(&m, path, &t, e));
    } else {
        TRY(ckpt_open(&c, path, e));
        if (ckpt_count(c) != 1) {
            rc = ERR(e, ERR_FORMAT, "%s: holds %zu tensors, expected one with the depth maps", path, ckpt_count(c));
            goto out;
        }
        t = *ckpt_at(c, 0);
    }
    if (t.ndim == 4 && (t.shape[1] == 1 || t.shape[3] == 1)) {
        if (t.shape[1] == 1) {
            t.shape[1] = t.shape[2];
            t.shape[2] = t.shape[3];
        }
        t.ndim = 3;
    }
    if (t.ndim != 3 || t.shape[1] > 16384 || t.shape[2] > 16384 || t.shape[0] < 1 || t.shape[1] < 1 || t.shape[2] < 1) {
        str shape = STR_INIT;
        for (int i = 0; i < t.ndim; i++)
            str_addf(&shape, "%s%" PRId64, i ? ", " : "", t.shape[i]);
        rc = ERR(e, ERR_SHAPE, "%s: the depth maps are [%s], expected [frames, height, width] or that with one channel", path, str_text(&shape));
        str_release(&shape);
        goto out;
    }
    *frames = t.shape[0];
    *height = (int)t.shape[1];
    *width = (int)t.shape[2];
    int64_t n = *frames * *height * *width;
    if (!(*out = malloc((size_t)n * sizeof **out))) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for %lld values", path, (long long)n);
        goto out;
    }
    dtype_to_f32(*out, t.data, t.dtype, n);
out:
    ckpt_close(c);
    fs_map_close(&m);
    return rc;
}

/* ---- preparation ---- */

static void to_unit(float *v, int64_t n)
{
    float low = v[0], high = v[0];
    for (int64_t i = 1; i < n; i++) {
        low = v[i] < low ? v[i] : low;
        high = v[i] > high ? v[i] : high;
    }
    for (int64_t i = 0; i < n; i++)
        v[i] = high > low ? (v[i] - low) / (high - low) : 0;
}

static int smooth_over_time(float *v, int64_t frames, int64_t plane, int window, err *e)
{
    float *line = malloc((size_t)frames * sizeof *line);
    if (!line)
        return ERR(e, ERR_MEMORY, "out of memory for %lld frames", (long long)frames);
    for (int64_t i = 0; i < plane; i++) {
        for (int64_t f = 0; f < frames; f++)
            line[f] = v[f * plane + i];
        for (int64_t f = 0; f < frames; f++) {
            double sum = 0;
            for (int64_t k = f - window / 2; k <= f + window / 2; k++)
                sum += (double)line[k < 0 ? 0 : k >= frames ? frames - 1 : k];
            v[f * plane + i] = (float)(sum / window);
        }
    }
    free(line);
    return 0;
}

int depth_prepare(float *v, int64_t frames, int64_t plane, depth_normalise how, bool invert, int smooth, const char *name, err *e)
{
    float low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < frames * plane; i++) {
        if (!isfinite(v[i]))
            return ERR(e, ERR_FORMAT, "%s: depth holds NaN or infinity in frame %lld; fill such places before (they would spread over the whole video)", name,
                       (long long)(i / plane));
        low = v[i] < low ? v[i] : low;
        high = v[i] > high ? v[i] : high;
    }
    if (how == DEPTH_AS_IS && (low < 0 || high > 1))
        return ERR(e, ERR_CONFIG, "%s: depth goes from %g to %g, expected 0 to 1; set vace.depth_normalise to clip (one range for the whole clip) or "
                   "frame", name, (double)low, (double)high);
    if (how == DEPTH_CLIP)
        to_unit(v, frames * plane);
    for (int64_t f = 0; how == DEPTH_FRAME && f < frames; f++)
        to_unit(v + f * plane, plane);
    for (int64_t i = 0; invert && i < frames * plane; i++)
        v[i] = 1 - v[i];
    return smooth > 1 ? smooth_over_time(v, frames, plane, smooth, e) : 0;
}

/* ---- the stand-in ---- */

/* mean over `size` pixels along rows, then columns; the border repeats */
static void blur(float *v, float *tmp, int w, int h, int size)
{
    int r = size / 2;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float sum = 0;
            for (int k = x - r; k <= x + r; k++)
                sum += v[(int64_t)y * w + (k < 0 ? 0 : k >= w ? w - 1 : k)];
            tmp[(int64_t)y * w + x] = sum / (float)size;
        }
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            float sum = 0;
            for (int k = y - r; k <= y + r; k++)
                sum += tmp[(int64_t)(k < 0 ? 0 : k >= h ? h - 1 : k) * w + x];
            v[(int64_t)y * w + x] = sum / (float)size;
        }
}

int depth_from_edges(float *plane, const uint8_t *rgb, int w, int h, err *e)
{
    const float threshold = 24.0f / 255;      /* of the gradient's length over two pixels, after the blur */
    int64_t n = (int64_t)w * h;
    float *grey = malloc((size_t)n * sizeof *grey), *tmp = malloc((size_t)n * sizeof *tmp);
    if (!grey || !tmp) {
        free(grey);
        free(tmp);
        return ERR(e, ERR_MEMORY, "out of memory for the edges of a frame");
    }
    for (int64_t i = 0; i < n; i++)
        grey[i] = (0.299f * (float)rgb[3 * i] + 0.587f * (float)rgb[3 * i + 1] + 0.114f * (float)rgb[3 * i + 2]) / 255.0f;
    blur(grey, tmp, w, h, 5);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int64_t row = (int64_t)y * w;
            float gx = grey[row + (x + 1 < w ? x + 1 : x)] - grey[row + (x > 0 ? x - 1 : x)];
            float gy = grey[(int64_t)(y + 1 < h ? y + 1 : y) * w + x] - grey[(int64_t)(y > 0 ? y - 1 : y) * w + x];
            plane[row + x] = sqrtf(gx * gx + gy * gy) > threshold ? 0 : 1;
        }
    blur(plane, tmp, w, h, 9);
    free(grey);
    free(tmp);
    return 0;
}
