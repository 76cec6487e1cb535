#include "experiments/pixels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void source(int i, float scale, int n, int *a, int *b, float *t)
{
    float at = scale * ((float)i + 0.5f) - 0.5f;
    if (at < 0)
        at = 0;
    *a = (int)at;
    if (*a > n - 1)
        *a = n - 1;
    *b = *a + (*a < n - 1);
    *t = at - (float)*a;
}

void pixels_resize(float *out, int out_w, int out_h, const float *in, int w, int h)
{
    float sy = (float)h / (float)out_h, sx = (float)w / (float)out_w;
    for (int y = 0; y < out_h; y++) {
        int y0, y1;
        float ty;
        source(y, sy, h, &y0, &y1, &ty);
        for (int x = 0; x < out_w; x++) {
            int x0, x1;
            float tx;
            source(x, sx, w, &x0, &x1, &tx);
            const float *top = in + (int64_t)y0 * w, *low = in + (int64_t)y1 * w;
            out[(int64_t)y * out_w + x] = (1 - ty) * ((1 - tx) * top[x0] + tx * top[x1]) + ty * ((1 - tx) * low[x0] + tx * low[x1]);
        }
    }
}

void pixels_resize_nearest(float *out, int out_w, int out_h, const float *in, int w, int h)
{
    for (int y = 0; y < out_h; y++)
        for (int x = 0; x < out_w; x++)
            out[(int64_t)y * out_w + x] = in[((2 * (int64_t)y + 1) * h / (2 * (int64_t)out_h)) * w + (2 * (int64_t)x + 1) * w / (2 * (int64_t)out_w)];
}

void pixels_from_rgb(float *planes, const uint8_t *rgb, int w, int h)
{
    int64_t n = (int64_t)w * h;
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            planes[c * n + i] = ((float)rgb[3 * i + c] / 255.0f - 0.5f) / 0.5f;
}

int pixels_letterbox(float *planes, int out_w, int out_h, const uint8_t *rgb, int w, int h, const char *name, err *e)
{
    double sh = (double)out_h / h, sw = (double)out_w / w, scale = sh < sw ? sh : sw;
    int nh = (int)(h * scale), nw = (int)(w * scale), top = (out_h - nh) / 2, left = (out_w - nw) / 2;
    int64_t n = (int64_t)w * h, out_n = (int64_t)out_w * out_h;
    if (w == out_w && h == out_h) {
        pixels_from_rgb(planes, rgb, w, h);
        return 0;
    }
    if (nh < 1 || nw < 1)
        return ERR(e, ERR_CONFIG, "%s: an image of %d x %d pixels is too long and narrow for a video of %d x %d", name, w, h, out_w, out_h);
    float *in = malloc((size_t)(3 * n) * sizeof *in), *small = malloc((size_t)nw * (size_t)nh * sizeof *small);
    if (!in || !small) {
        free(in);
        free(small);
        return ERR(e, ERR_MEMORY, "%s: out of memory for an image of %d x %d pixels", name, w, h);
    }
    pixels_from_rgb(in, rgb, w, h);
    for (int c = 0; c < 3; c++) {
        float *to = planes + c * out_n;
        for (int64_t i = 0; i < out_n; i++)
            to[i] = 1;      /* white */
        pixels_resize(small, nw, nh, in + c * n, w, h);
        for (int y = 0; y < nh; y++)
            memcpy(to + (int64_t)(top + y) * out_w + left, small + (int64_t)y * nw, (size_t)nw * sizeof *small);
    }
    free(in);
    free(small);
    return 0;
}

int pixels_cover(float *plane, int out_w, int out_h, const float *in, int w, int h, int nearest, err *e)
{
    double sh = (double)out_h / h, sw = (double)out_w / w, scale = sh > sw ? sh : sw;
    int nh = (int)lround(h * scale), nw = (int)lround(w * scale);
    nh = nh < out_h ? out_h : nh;
    nw = nw < out_w ? out_w : nw;
    if (w == out_w && h == out_h) {
        memcpy(plane, in, (size_t)w * (size_t)h * sizeof *in);
        return 0;
    }
    float *big = malloc((size_t)nw * (size_t)nh * sizeof *big);
    if (!big)
        return ERR(e, ERR_MEMORY, "out of memory for a frame of %d x %d pixels", nw, nh);
    (nearest ? pixels_resize_nearest : pixels_resize)(big, nw, nh, in, w, h);
    for (int y = 0; y < out_h; y++)
        memcpy(plane + (int64_t)y * out_w, big + (int64_t)(y + (nh - out_h) / 2) * nw + (nw - out_w) / 2, (size_t)out_w * sizeof *big);
    free(big);
    return 0;
}

/* ---- antialiased bicubic ---- */

/* For every place of `out` its first source place, the number of them and their weights, `wide` a place. */
typedef struct taps {
    int wide, *first, *n;
    float *weight;
} taps;

static double cubic(double x)
{
    x = fabs(x);
    return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

static void taps_free(taps *t)
{
    free(t->first);
    free(t->n);
    free(t->weight);
}

static int taps_make(taps *t, int out, int in, err *e)
{
    double scale = (double)in / out, stretch = scale > 1 ? scale : 1, reach = 2 * stretch;
    *t = (taps){ .wide = (int)ceil(reach) * 2 + 1 };
    t->first = malloc((size_t)out * sizeof *t->first);
    t->n = malloc((size_t)out * sizeof *t->n);
    t->weight = malloc((size_t)out * (size_t)t->wide * sizeof *t->weight);
    if (!t->first || !t->n || !t->weight)
        return ERR(e, ERR_MEMORY, "out of memory for resizing a frame");
    for (int i = 0; i < out; i++) {
        double at = scale * (i + 0.5), sum = 0;
        int a = (int)(at - reach + 0.5), b = (int)(at + reach + 0.5);
        a = a < 0 ? 0 : a;
        b = b > in ? in : b;
        t->first[i] = a;
        t->n[i] = b - a < t->wide ? b - a : t->wide;
        for (int k = 0; k < t->n[i]; k++)
            sum += cubic((a + k - at + 0.5) / stretch);
        for (int k = 0; k < t->n[i]; k++)
            t->weight[(int64_t)i * t->wide + k] = (float)(cubic((a + k - at + 0.5) / stretch) / sum);
    }
    return 0;
}

int pixels_cover_rgb(float *const planes[3], int out_w, int out_h, const uint8_t *rgb, int w, int h, err *e)
{
    double sh = (double)out_h / h, sw = (double)out_w / w, scale = sh > sw ? sh : sw;
    int nh = (int)lround(h * scale), nw = (int)lround(w * scale), rc = 0;
    nh = nh < out_h ? out_h : nh;
    nw = nw < out_w ? out_w : nw;
    int top = (nh - out_h) / 2, left = (nw - out_w) / 2;
    taps x = { 0 }, y = { 0 };
    float *rows = malloc((size_t)h * (size_t)out_w * sizeof *rows);
    if (!rows)
        return ERR(e, ERR_MEMORY, "out of memory for a frame of %d x %d pixels", out_w, h);
    if ((rc = taps_make(&x, nw, w, e)) || (rc = taps_make(&y, nh, h, e)))
        goto out;
    for (int c = 0; c < 3; c++) {
        for (int r = 0; r < h; r++)
            for (int i = 0; i < out_w; i++) {
                const float *weight = x.weight + (int64_t)(left + i) * x.wide;
                float v = 0;
                for (int k = 0; k < x.n[left + i]; k++)
                    v += weight[k] * (float)rgb[3 * ((int64_t)r * w + x.first[left + i] + k) + c];
                rows[(int64_t)r * out_w + i] = v;
            }
        for (int r = 0; r < out_h; r++)
            for (int i = 0; i < out_w; i++) {
                const float *weight = y.weight + (int64_t)(top + r) * y.wide;
                float v = 0;
                for (int k = 0; k < y.n[top + r]; k++)
                    v += weight[k] * rows[(int64_t)(y.first[top + r] + k) * out_w + i];
                v = roundf(v < 0 ? 0 : v > 255 ? 255 : v);
                planes[c][(int64_t)r * out_w + i] = v / 127.5f - 1;
            }
    }
out:
    taps_free(&x);
    taps_free(&y);
    free(rows);
    return rc;
}
