/* Pictures of an attention map: colours, stretching, contact sheet, video. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/attention.h"
#include "core/base/media.h"
#include "core/base/str.h"

#ifdef HAVE_CAIRO
#include <cairo.h>
#endif

#define MARGIN 16
#define HEADER 58
#define LABEL 18
#define SCALE_ROOM 84
#define OVERLAY 0.80 /* opacity of the hottest place over a video */

void heat_colour(uint8_t rgb[3], double v)
{
    static const double at[6] = { 0, 0.22, 0.45, 0.65, 0.85, 1 };
    static const double c[6][3] = { { 6, 5, 20 },    { 74, 20, 110 },  { 170, 45, 95 },
                                    { 230, 95, 45 }, { 250, 190, 60 }, { 255, 252, 225 } };
    int i = 0;
    v = v > 0 ? v < 1 ? v : 1 : 0;
    while (i < 4 && v > at[i + 1])
        i++;
    double t = (v - at[i]) / (at[i + 1] - at[i]);
    for (int k = 0; k < 3; k++)
        rgb[k] = (uint8_t)(c[i][k] + t * (c[i + 1][k] - c[i][k]) + 0.5);
}

/* Cell centres of n cells stretched over `size` pixels: which two cells a pixel lies between, and how far. */
static void neighbours(int64_t *a, int64_t *b, double *t, int pixel, int size, int64_t n)
{
    double x = ((double)pixel + 0.5) * (double)n / (double)size - 0.5;
    x = x<0 ? 0 : x>(double)(n - 1) ? (double)(n - 1) : x;
    *a = (int64_t)x;
    *b = *a + 1 < n ? *a + 1 : *a;
    *t = x - (double)*a;
}

double attention_latent_time(int64_t p, int64_t stride)
{
    return p <= 0 ? 0 : ((double)p + 0.5 * (double)(stride - 1)) / (double)stride;
}

void attention_stretch(float *out, const attention_map *m, double frame, int width, int height, double top)
{
    frame = frame<0 ? 0 : frame>(double)(m->F - 1) ? (double)(m->F - 1) : frame;
    int64_t f0 = (int64_t)frame, f1 = f0 + 1 < m->F ? f0 + 1 : f0;
    double tf = frame - (double)f0, scale = top > 0 ? 1 / top : 0;
    const float *u = m->value + f0 * m->h * m->w, *v = m->value + f1 * m->h * m->w;
    for (int y = 0; y < height; y++) {
        int64_t y0, y1;
        double ty;
        neighbours(&y0, &y1, &ty, y, height, m->h);
        for (int x = 0; x < width; x++) {
            int64_t x0, x1;
            double tx, corner[4];
            neighbours(&x0, &x1, &tx, x, width, m->w);
            const int64_t cell[4] = { y0 * m->w + x0, y0 * m->w + x1, y1 * m->w + x0, y1 * m->w + x1 };
            for (int k = 0; k < 4; k++)
                corner[k] = (1 - tf) * u[cell[k]] + tf * v[cell[k]];
            double value =
                (1 - ty) * ((1 - tx) * corner[0] + tx * corner[1]) + ty * ((1 - tx) * corner[2] + tx * corner[3]);
            out[(int64_t)y * width + x] = (float)(value * scale);
        }
    }
}

/* Over a picture the map's opacity grows with its value, so that what the word does not attend to stays as it is. */
static void paint(uint8_t *rgb, const float *v, int64_t n, bool over)
{
    for (int64_t i = 0; i < n; i++) {
        uint8_t c[3];
        heat_colour(c, v[i]);
        double opacity = over ? OVERLAY * sqrt(v[i] > 0 ? v[i] < 1 ? v[i] : 1 : 0) : 1;
        for (int k = 0; k < 3; k++)
            rgb[3 * i + k] = (uint8_t)(opacity * c[k] + (1 - opacity) * rgb[3 * i + k] + 0.5);
    }
}

typedef struct sheet {
    uint8_t *rgb;
    int width, height, columns, cell_w, cell_h;
    int64_t frames, first;
} sheet;

static void cell_at(int *x, int *y, const sheet *s, int64_t f)
{
    *x = MARGIN + (int)(f % s->columns) * (s->cell_w + MARGIN);
    *y = HEADER + (int)(f / s->columns) * (s->cell_h + LABEL + MARGIN);
}

static void scale_bar(sheet *s)
{
    int x = s->width - SCALE_ROOM, height = s->cell_h > 120                     ? s->cell_h
                                            : s->height - HEADER - MARGIN < 120 ? s->cell_h
                                                                                : 120;
    for (int i = 0; i < height; i++)
        for (int k = 0; k < 14; k++)
            heat_colour(s->rgb + 3 * ((int64_t)(HEADER + i) * s->width + x + k),
                        1 - (double)i / (double)(height > 1 ? height - 1 : 1));
}

#ifdef HAVE_CAIRO
static void text_at(cairo_t *cr, double x, double y, double size, double grey, const char *text, double room)
{
    char line[512];
    cairo_text_extents_t t;
    cairo_set_font_size(cr, size);
    cairo_set_source_rgb(cr, grey, grey, grey);
    snprintf(line, sizeof line, "%s", text);
    for (size_t n = strlen(line); n > 1; n--) {
        cairo_text_extents(cr, line, &t);
        if (t.x_advance <= room && !cairo_status(cr))
            break;
        while (n > 1 && ((unsigned char)line[n - 1] & 0xc0) == 0x80)
            n--; /* whole UTF-8 characters only */
        line[n - 1] = '\0';
    }
    cairo_move_to(cr, x, y);
    cairo_show_text(cr, line);
}

static int write_labels(sheet *s, const char *title, const char *subtitle, double top, err *e)
{
    cairo_surface_t *surface = cairo_image_surface_create(CAIRO_FORMAT_RGB24, s->width, s->height);
    cairo_t *cr = cairo_create(surface);
    char text[64];
    int rc = 0, stride = cairo_image_surface_get_stride(surface);
    unsigned char *data = cairo_image_surface_get_data(surface);
    if (cairo_status(cr) || !data) {
        rc = ERR(e, ERR_MEMORY, "no memory for a picture of %d x %d", s->width, s->height);
        goto out;
    }
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++) {
            const uint8_t *c = s->rgb + 3 * ((int64_t)y * s->width + x);
            uint32_t pixel = (uint32_t)c[0] << 16 | (uint32_t)c[1] << 8 | c[2];
            memcpy(data + (int64_t)y * stride + 4 * x, &pixel, 4);
        }
    cairo_surface_mark_dirty(surface);
    cairo_select_font_face(cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    text_at(cr, MARGIN, 24, 15, 0.1, title, s->width - 2 * MARGIN);
    text_at(cr, MARGIN, 43, 11, 0.45, subtitle, s->width - 2 * MARGIN);
    for (int64_t f = 0; f < s->frames; f++) {
        int x, y;
        cell_at(&x, &y, s, f);
        snprintf(text, sizeof text, "latent frame %lld", (long long)(s->first + f));
        text_at(cr, x, y + s->cell_h + 13, 10.5, 0.4, text, s->cell_w);
    }
    int bar = s->width - SCALE_ROOM, height = s->cell_h > 120                     ? s->cell_h
                                              : s->height - HEADER - MARGIN < 120 ? s->cell_h
                                                                                  : 120;
    for (int i = 0; i <= 4; i++) {
        snprintf(text, sizeof text, "%.3g", top * (4 - i) / 4);
        text_at(cr, bar + 20, HEADER + 4 + i * (height - 1) / 4.0, 10.5, 0.3, text, SCALE_ROOM - 22);
    }
    text_at(cr, bar, HEADER + height + 15, 10.5, 0.4, "probability", SCALE_ROOM - 4);
    cairo_surface_flush(surface);
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++) {
            uint32_t pixel;
            uint8_t *c = s->rgb + 3 * ((int64_t)y * s->width + x);
            memcpy(&pixel, data + (int64_t)y * stride + 4 * x, 4);
            c[0] = (uint8_t)(pixel >> 16);
            c[1] = (uint8_t)(pixel >> 8);
            c[2] = (uint8_t)pixel;
        }
out:
    cairo_destroy(cr);
    cairo_surface_destroy(surface);
    return rc;
}
#else
static int write_labels(sheet *s, const char *title, const char *subtitle, double top, err *e)
{
    (void)s, (void)title, (void)subtitle, (void)top, (void)e;
    return 0; /* the same facts are in the PNG's tags */
}
#endif

/* Cells about 200 pixels wide, as many a row as look square. */
static int sheet_open(sheet *s, const attention_map *m, int width, int height, err *e)
{
    double aspect = width > 0 && height > 0 ? (double)height / width : (double)m->h / (double)m->w;
    s->frames = m->F;
    s->cell_w = 208;
    s->cell_h = (int)(s->cell_w * aspect + 0.5);
    s->cell_h = s->cell_h < 24 ? 24 : s->cell_h > 620 ? 620 : s->cell_h;
    s->columns = (int)ceil(sqrt((double)m->F * 1.6 * aspect));
    s->columns = s->columns < 2 ? 2 : s->columns > m->F ? (int)m->F : s->columns > 12 ? 12 : s->columns;
    int64_t rows = (m->F + s->columns - 1) / s->columns;
    s->width = MARGIN + s->columns * (s->cell_w + MARGIN) + SCALE_ROOM;
    int64_t tall = HEADER + rows * (s->cell_h + LABEL + MARGIN);
    if (tall > 16000)
        return ERR(e, ERR_ARG,
                   "a contact sheet of %lld latent frames would be %lld pixels tall. Export mp4 or npy instead.",
                   (long long)m->F, (long long)tall);
    s->height = (int)tall;
    s->rgb = malloc((size_t)s->width * (size_t)s->height * 3);
    if (!s->rgb)
        return ERR(e, ERR_MEMORY, "no memory for a picture of %d x %d", s->width, s->height);
    memset(s->rgb, 255, (size_t)s->width * (size_t)s->height * 3);
    return 0;
}

/* One latent frame of a background, averaged or repeated to the cell's size. */
static void shrink(uint8_t *out, int cell_w, int cell_h, const uint8_t *rgb, int width, int height)
{
    for (int y = 0; y < cell_h; y++)
        for (int x = 0; x < cell_w; x++) {
            int xa = x * width / cell_w, xb = (x + 1) * width / cell_w, ya = y * height / cell_h,
                yb = (y + 1) * height / cell_h;
            xb = xb > xa ? xb : xa + 1;
            yb = yb > ya ? yb : ya + 1;
            unsigned sum[3] = { 0, 0, 0 }, n = (unsigned)((xb - xa) * (yb - ya));
            for (int v = ya; v < yb; v++)
                for (int u = xa; u < xb; u++)
                    for (int k = 0; k < 3; k++)
                        sum[k] += rgb[3 * ((int64_t)v * width + u) + k];
            for (int k = 0; k < 3; k++)
                out[3 * ((int64_t)y * cell_w + x) + k] = (uint8_t)((sum[k] + n / 2) / n);
        }
}

int attention_write_png(const char *path, const attention_map *m, const char *title, const char *subtitle,
                        const uint8_t *background, int width, int height, err *e)
{
    sheet s = { 0 };
    float *v = NULL;
    uint8_t *cell = NULL;
    int rc = sheet_open(&s, m, width, height, e);
    if (rc)
        return rc;
    s.first = m->first;
    v = malloc((size_t)s.cell_w * (size_t)s.cell_h * sizeof *v);
    cell = calloc((size_t)s.cell_w * (size_t)s.cell_h, 3);
    if (!v || !cell) {
        rc = ERR(e, ERR_MEMORY, "no memory for a cell of the contact sheet");
        goto out;
    }
    for (int64_t f = 0; f < m->F; f++) {
        int x, y;
        cell_at(&x, &y, &s, f);
        if (background)
            shrink(cell, s.cell_w, s.cell_h, background + 3 * f * width * height, width, height);
        attention_stretch(v, m, (double)f, s.cell_w, s.cell_h, m->max);
        paint(cell, v, (int64_t)s.cell_w * s.cell_h, background != NULL);
        for (int r = 0; r < s.cell_h; r++)
            memcpy(s.rgb + 3 * ((int64_t)(y + r) * s.width + x), cell + 3 * (int64_t)r * s.cell_w,
                   3 * (size_t)s.cell_w);
    }
    scale_bar(&s);
    if ((rc = write_labels(&s, title, subtitle, m->max, e)))
        goto out;
    char scale[128];
    snprintf(scale, sizeof scale, "{\"scale_min\": 0, \"scale_max\": %.9g}", m->max);
    const media_tag tags[] = { { "title", title }, { "description", subtitle }, { "comment", scale } };
    rc = media_png_write(path, s.width, s.height, s.rgb, tags, 3, e);
out:
    free(cell);
    free(v);
    free(s.rgb);
    return rc;
}

int attention_read_background(uint8_t **out, int *width, int *height, const char *video, int64_t F, err *e)
{
    video_reader *r = NULL;
    uint8_t *frame = NULL, *all = NULL;
    int64_t have = 0;
    int rc = video_reader_open(&r, video, e);
    if (rc)
        return rc;
    const video_info *info = video_reader_info(r);
    size_t bytes = 3 * (size_t)info->width * (size_t)info->height;
    int64_t stride = F > 1 ? (info->n_frames - 1) / (F - 1) : 1;
    stride = stride < 1 ? 1 : stride;
    frame = malloc(bytes);
    all = calloc((size_t)F, bytes);
    if (!frame || !all) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for %lld frames", video, (long long)F);
        goto out;
    }
    for (int64_t p = 0; (rc = video_reader_frame(r, frame, e)) > 0; p++) {
        while (have < F && p >= (have == 0 ? 0 : stride * have - stride / 2)) {
            memcpy(all + (size_t)have * bytes, frame, bytes);
            have++;
        }
    }
    for (; !rc && have > 0 && have < F; have++)
        memcpy(all + (size_t)have * bytes, all + (size_t)(have - 1) * bytes, bytes);
    if (!rc && have == 0)
        rc = ERR(e, ERR_FORMAT, "%s: the video has no frames. Run it again with --resume.", video);
out:
    if (!rc) {
        *out = all;
        *width = info->width;
        *height = info->height;
        all = NULL;
    }
    free(all);
    free(frame);
    video_reader_close(r);
    return rc < 0 ? rc : 0;
}

int attention_write_mp4(const char *path, const attention_map *m, const char *video, int width, int height, double fps,
                        const char *comment, err *e)
{
    video_reader *r = NULL;
    video_writer *w = NULL;
    video_spec spec = VIDEO_SPEC_INIT;
    const media_tag tag = { "comment", comment };
    uint8_t *frame = NULL;
    float *v = NULL;
    int64_t n_frames = (m->F - 1) * 4 + 1, stride = 4;
    int rc = 0;
    if (video) {
        if ((rc = video_reader_open(&r, video, e)))
            return rc;
        const video_info *info = video_reader_info(r);
        width = info->width;
        height = info->height;
        n_frames = info->n_frames;
        stride = m->F > 1 ? (n_frames - 1) / (m->F - 1) : 1;
        stride = stride < 1 ? 1 : stride;
        spec.fps_num = info->fps_num > 0 ? info->fps_num : 16;
        spec.fps_den = info->fps_num > 0 ? info->fps_den : 1;
    } else if ((rc = video_fps(&spec.fps_num, &spec.fps_den, fps > 0 ? fps : 16, e))) {
        return rc;
    }
    spec.width = width;
    spec.height = height;
    spec.chroma = width % 2 || height % 2 ? VIDEO_444 : VIDEO_420;
    spec.tags = &tag;
    spec.n_tags = 1;
    size_t pixels = (size_t)width * (size_t)height;
    frame = calloc(pixels, 3);
    v = malloc(pixels * sizeof *v);
    if (!frame || !v) {
        rc = ERR(e, ERR_MEMORY, "no memory for a frame of %d x %d", width, height);
        goto out;
    }
    if ((rc = video_writer_open(&w, path, &spec, e)))
        goto out;
    for (int64_t p = 0; video || p < n_frames; p++) {
        if (video) {
            int got = video_reader_frame(r, frame, e);
            if (got <= 0) {
                rc = got;
                break;
            }
        }
        attention_stretch(v, m, attention_latent_time(p, stride), width, height, m->max);
        paint(frame, v, (int64_t)pixels, video != NULL);
        if ((rc = video_writer_frame(w, frame, e)))
            break;
    }
    if (rc) {
        video_writer_abort(w);
    } else {
        rc = video_writer_close(w, e);
    }
out:
    free(v);
    free(frame);
    video_reader_close(r);
    return rc;
}
