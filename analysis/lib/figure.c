#ifdef HAVE_CAIRO

#include "analysis/lib/figure.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PNG_SCALE 2.0
#define FONT "sans-serif"

struct figure {
    cairo_surface_t *surface;
    cairo_t *cr;
    str bytes; /* what the SVG surface has written */
    plot_format format;
    bool whole; /* x ticks at whole numbers only */
};

static cairo_status_t collect(void *closure, const unsigned char *data, unsigned int n)
{
    str *s = closure;
    str_addn(s, data, n);
    return s->failed ? CAIRO_STATUS_NO_MEMORY : CAIRO_STATUS_SUCCESS;
}

int figure_open(figure **out, double width, double height, plot_format format, err *e)
{
    figure *f = calloc(1, sizeof *f);
    *out = NULL;
    if (!f)
        return ERR(e, ERR_MEMORY, "no memory for a figure");
    f->format = format;
    if (format == PLOTS_SVG)
        f->surface = cairo_svg_surface_create_for_stream(collect, &f->bytes, width, height);
    else
        f->surface =
            cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)(width * PNG_SCALE), (int)(height * PNG_SCALE));
    f->cr = cairo_create(f->surface);
    if (cairo_status(f->cr)) {
        int rc = ERR(e, ERR_MEMORY, "a figure of %.0f x %.0f points cannot be made: %s", width, height,
                     cairo_status_to_string(cairo_status(f->cr)));
        figure_close(f);
        return rc;
    }
    if (format == PLOTS_PNG)
        cairo_scale(f->cr, PNG_SCALE, PNG_SCALE);
    cairo_set_source_rgb(f->cr, 1, 1, 1);
    cairo_paint(f->cr);
    cairo_select_font_face(f->cr, FONT, CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_line_join(f->cr, CAIRO_LINE_JOIN_ROUND);
    cairo_set_line_cap(f->cr, CAIRO_LINE_CAP_ROUND);
    *out = f;
    return 0;
}

int figure_finish(figure *f, output *o, const char *name, err *e)
{
    char *file = str_format("%s.%s", name, f->format == PLOTS_SVG ? "svg" : "png");
    int rc = 0;
    cairo_status_t status = cairo_status(f->cr);
    if (!status && f->format == PLOTS_SVG) {
        cairo_surface_finish(f->surface);
        status = cairo_surface_status(f->surface);
    } else if (!status) {
        status = cairo_surface_write_to_png_stream(f->surface, collect, &f->bytes);
    }
    if (!file || status || f->bytes.failed)
        rc = ERR(e, ERR_MEMORY, "the figure %s cannot be drawn: %s", name,
                 cairo_status_to_string(status ? status : CAIRO_STATUS_NO_MEMORY));
    else
        rc = output_write(o, file, f->bytes.data, f->bytes.len, e);
    free(file);
    figure_close(f);
    return rc;
}

void figure_close(figure *f)
{
    if (!f)
        return;
    cairo_destroy(f->cr);
    cairo_surface_destroy(f->surface);
    str_release(&f->bytes);
    free(f);
}

/* Seven colours that people with any colour vision tell apart; beyond that, hues around the circle in two tones. */
colour figure_colour(int64_t i, int64_t n)
{
    static const colour few[7] = {
        { 0.00, 0.45, 0.70 }, { 0.84, 0.37, 0.00 }, { 0.00, 0.62, 0.45 }, { 0.80, 0.47, 0.65 },
        { 0.90, 0.62, 0.00 }, { 0.34, 0.71, 0.91 }, { 0.35, 0.35, 0.38 },
    };
    if (n <= 7)
        return few[i % 7];
    double h = 6.0 * (double)i / (double)n, level = i % 2 ? 0.55 : 0.80, low = i % 2 ? 0.05 : 0.20;
    double ramp = fabs(fmod(h, 2) - 1);
    double c[3] = { 0, 0, 0 };
    int sector = (int)h % 6;
    c[(sector + 1) / 2 % 3] = 1;
    c[(7 - sector) % 3] = 1 - ramp;
    return (colour){ low + (level - low) * c[0], low + (level - low) * c[1] * 0.9, low + (level - low) * c[2] };
}

void panel_range(double *lo, double *hi, double margin)
{
    if (!isfinite(*lo) || !isfinite(*hi) || *lo > *hi) {
        *lo = 0;
        *hi = 1;
    }
    double width = *hi - *lo, least = 1e-9 * fmax(fabs(*lo), fabs(*hi));
    if (width <= least || width == 0) {
        double half = *lo != 0 ? 0.05 * fabs(*lo) : 0.5;
        *lo -= half;
        *hi += half;
        return;
    }
    *lo -= margin * width;
    *hi += margin * width;
}

double panel_x(const panel *p, double x)
{
    return p->x + p->w * (x - p->x0) / (p->x1 - p->x0);
}

double panel_y(const panel *p, double y)
{
    return p->y + p->h - p->h * (y - p->y0) / (p->y1 - p->y0);
}

static void ink(figure *f, colour c, double alpha)
{
    cairo_set_source_rgba(f->cr, c.r, c.g, c.b, alpha);
}

void draw_text(figure *f, double x, double y, const char *text, double size, int align, colour c)
{
    cairo_text_extents_t t;
    cairo_set_font_size(f->cr, size);
    cairo_text_extents(f->cr, text, &t);
    ink(f, c, 1);
    cairo_move_to(f->cr, align == ALIGN_LEFT ? x : align == ALIGN_CENTER ? x - 0.5 * t.x_advance : x - t.x_advance, y);
    cairo_show_text(f->cr, text);
    cairo_new_path(f->cr);
}

double text_width(figure *f, const char *text, double size)
{
    cairo_text_extents_t t;
    cairo_set_font_size(f->cr, size);
    cairo_text_extents(f->cr, text, &t);
    return t.x_advance;
}

void text_fit(figure *f, char *out, size_t room, const char *text, double size, double width)
{
    size_t n = strlen(text), most = room - 4;
    if (n < room && text_width(f, text, size) <= width) {
        memcpy(out, text, n + 1);
        return;
    }
    for (n = n < most ? n : most; n > 0; n--) {
        if (((unsigned char)text[n] & 0xc0) == 0x80)
            continue; /* never cut inside a UTF-8 sequence */
        memcpy(out, text, n);
        memcpy(out + n, "\xe2\x80\xa6", 4);
        if (text_width(f, out, size) <= width)
            return;
    }
    out[0] = '\0';
}

static void draw_text_up(figure *f, double x, double y, const char *text, double size, colour c)
{
    cairo_save(f->cr);
    cairo_translate(f->cr, x, y);
    cairo_rotate(f->cr, -0.5 * 3.14159265358979323846);
    draw_text(f, 0, 0, text, size, ALIGN_CENTER, c);
    cairo_restore(f->cr);
}

/* 1, 2 or 5 times a power of ten, about `n` steps over the range */
static double tick_step(double range, int n)
{
    double raw = range / n, power = pow(10, floor(log10(raw))), digit = raw / power;
    return power * (digit < 1.5 ? 1 : digit < 3.5 ? 2 : digit < 7.5 ? 5 : 10);
}

static void tick_label(char *out, size_t room, double value, double step)
{
    int digits = (int)ceil(-log10(step) - 1e-9);
    if (step >= 1e6 || (step < 1e-4 && value != 0))
        snprintf(out, room, "%.3g", value);
    else if (step >= 1000)
        snprintf(out, room, value == 0 ? "0" : "%.0fk", value / 1000);
    else
        snprintf(out, room, "%.*f", digits > 0 ? digits : 0, fabs(value) < 1e-9 * step ? 0 : value);
}

static void hairline(figure *f, double xa, double ya, double xb, double yb, double grey)
{
    cairo_set_source_rgb(f->cr, grey, grey, grey);
    cairo_set_line_width(f->cr, 0.6);
    cairo_move_to(f->cr, xa, ya);
    cairo_line_to(f->cr, xb, yb);
    cairo_stroke(f->cr);
}

void panel_draw(figure *f, const panel *p, const char *title, const char *x_label, const char *y_label, int y_ticks)
{
    char text[64], last[64];
    double step = tick_step(p->x1 - p->x0, p->w > 300 ? 8 : 5), widest = 0;
    tick_label(text, sizeof text, p->x0, step);
    tick_label(last, sizeof last, p->x1, step);
    double room = fmax(text_width(f, text, 9), text_width(f, last, 9)) + 10;
    if (room > p->w * step / (p->x1 - p->x0)) /* labels would touch */
        step = tick_step(p->x1 - p->x0, 3);
    if (f->whole && step < 1)
        step = 1;
    for (double t = ceil(p->x0 / step - 1e-9); t * step <= p->x1 + 1e-9 * step; t++) {
        double x = panel_x(p, t * step);
        hairline(f, x, p->y, x, p->y + p->h, 0.90);
        tick_label(text, sizeof text, t * step, step);
        draw_text(f, x, p->y + p->h + 13, text, 9, ALIGN_CENTER, GREY);
    }
    if (y_ticks) {
        step = tick_step(p->y1 - p->y0, 5);
        for (double t = ceil(p->y0 / step - 1e-9); t * step <= p->y1 + 1e-9 * step; t++) {
            double y = panel_y(p, t * step);
            hairline(f, p->x, y, p->x + p->w, y, 0.90);
            tick_label(text, sizeof text, t * step, step);
            draw_text(f, p->x - 5, y + 3, text, 9, ALIGN_RIGHT, GREY);
            widest = fmax(widest, text_width(f, text, 9));
        }
    }
    hairline(f, p->x, p->y + p->h, p->x + p->w, p->y + p->h, 0.45);
    hairline(f, p->x, p->y, p->x, p->y + p->h, 0.45);
    draw_text(f, p->x, p->y - 8, title, 11.5, ALIGN_LEFT, BLACK);
    draw_text(f, p->x + 0.5 * p->w, p->y + p->h + 28, x_label, 10, ALIGN_CENTER, GREY);
    if (y_label && *y_label)
        draw_text_up(f, p->x - widest - 13, p->y + 0.5 * p->h, y_label, 10, GREY);
}

void panel_whole_ticks(figure *f, bool on)
{
    f->whole = on;
}

void panel_clip(figure *f, const panel *p)
{
    cairo_save(f->cr);
    cairo_rectangle(f->cr, p->x - 3, p->y - 3, p->w + 6, p->h + 6);
    cairo_clip(f->cr);
}

void panel_unclip(figure *f)
{
    cairo_restore(f->cr);
}

void draw_line(figure *f, const panel *p, const double *x, const double *y, int64_t n, colour c, double width,
               double alpha)
{
    bool pen_down = false;
    ink(f, c, alpha);
    cairo_set_line_width(f->cr, width);
    cairo_new_path(f->cr);
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(x[i]) || !isfinite(y[i])) {
            pen_down = false;
            continue;
        }
        if (pen_down)
            cairo_line_to(f->cr, panel_x(p, x[i]), panel_y(p, y[i]));
        else
            cairo_move_to(f->cr, panel_x(p, x[i]), panel_y(p, y[i]));
        pen_down = true;
    }
    cairo_stroke(f->cr);
}

void draw_band(figure *f, const panel *p, const double *x, const double *low, const double *high, int64_t n, colour c,
               double alpha)
{
    cairo_new_path(f->cr);
    bool any = false;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(low[i]) && isfinite(high[i])) {
            cairo_line_to(f->cr, panel_x(p, x[i]), panel_y(p, high[i]));
            any = true;
        }
    for (int64_t i = n - 1; i >= 0; i--)
        if (isfinite(low[i]) && isfinite(high[i]))
            cairo_line_to(f->cr, panel_x(p, x[i]), panel_y(p, low[i]));
    if (any)
        cairo_close_path(f->cr);
    ink(f, c, alpha);
    cairo_fill(f->cr);
}

static void disc(figure *f, const panel *p, double x, double y, double radius)
{
    cairo_new_path(f->cr);
    cairo_arc(f->cr, panel_x(p, x), panel_y(p, y), radius, 0, 6.283185307179586);
}

void draw_dot(figure *f, const panel *p, double x, double y, double radius, colour c, double alpha)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    disc(f, p, x, y, radius);
    ink(f, c, alpha);
    cairo_fill(f->cr);
}

void draw_ring(figure *f, const panel *p, double x, double y, double radius, colour c)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    disc(f, p, x, y, radius);
    cairo_set_source_rgb(f->cr, 1, 1, 1);
    cairo_fill_preserve(f->cr);
    ink(f, c, 1);
    cairo_set_line_width(f->cr, 1.2);
    cairo_stroke(f->cr);
}

void draw_square(figure *f, const panel *p, double x, double y, double half, colour c)
{
    if (!isfinite(x) || !isfinite(y))
        return;
    cairo_rectangle(f->cr, panel_x(p, x) - half, panel_y(p, y) - half, 2 * half, 2 * half);
    ink(f, c, 1);
    cairo_fill_preserve(f->cr);
    cairo_set_source_rgb(f->cr, 1, 1, 1);
    cairo_set_line_width(f->cr, 0.8);
    cairo_stroke(f->cr);
}

void draw_whisker(figure *f, const panel *p, double x_low, double x_high, double y, colour c)
{
    if (!isfinite(x_low) || !isfinite(x_high))
        return;
    double a = panel_x(p, x_low), b = panel_x(p, x_high), at = panel_y(p, y);
    ink(f, c, 1);
    cairo_set_line_width(f->cr, 1.4);
    cairo_move_to(f->cr, a, at);
    cairo_line_to(f->cr, b, at);
    cairo_move_to(f->cr, a, at - 3);
    cairo_line_to(f->cr, a, at + 3);
    cairo_move_to(f->cr, b, at - 3);
    cairo_line_to(f->cr, b, at + 3);
    cairo_stroke(f->cr);
}

void draw_bar(figure *f, const panel *p, double x, double half_width, double y_from, double y_to, colour c,
              double alpha)
{
    if (!isfinite(y_to))
        return;
    double left = panel_x(p, x - half_width), right = panel_x(p, x + half_width), a = panel_y(p, y_from),
           b = panel_y(p, y_to);
    cairo_rectangle(f->cr, left, fmin(a, b), right - left, fabs(a - b));
    ink(f, c, alpha);
    cairo_fill(f->cr);
}

double draw_legend(figure *f, double x, double y, double width, const char *const *labels, const colour *colours,
                   int64_t n)
{
    const int64_t most = 28;
    int64_t shown = n > most ? most - 1 : n;
    for (int64_t i = 0; i < shown; i++) {
        cairo_rectangle(f->cr, x, y + 16 * (double)i, 10, 10);
        ink(f, colours[i], 1);
        cairo_fill(f->cr);
        char text[96];
        text_fit(f, text, sizeof text, labels[i], 10, width - 16);
        draw_text(f, x + 16, y + 16 * (double)i + 9, text, 10, ALIGN_LEFT, BLACK);
    }
    if (shown < n) {
        char text[64];
        snprintf(text, sizeof text, "and %lld more", (long long)(n - shown));
        draw_text(f, x + 16, y + 16 * (double)shown + 9, text, 10, ALIGN_LEFT, GREY);
    }
    return 16 * (double)(shown < n ? shown + 1 : n);
}

#else
typedef int figure_needs_cairo;
#endif
