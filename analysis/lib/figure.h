/* figure: a page with panels, drawn by cairo, written as SVG or PNG. Only built with HAVE_CAIRO. */
#ifndef WANSCOPE_FIGURE_H
#define WANSCOPE_FIGURE_H

#include <stdint.h>

#include "analysis/lib/output.h"
#include "core/base/err.h"

typedef struct figure figure;

typedef struct panel {
    double x, y, w, h;     /* of the plotting area, in points */
    double x0, x1, y0, y1; /* data ranges */
} panel;

typedef struct colour {
    double r, g, b;
} colour;

enum { ALIGN_LEFT, ALIGN_CENTER, ALIGN_RIGHT };

int figure_open(figure **f, double width, double height, plot_format format, err *e);
/* Writes <name>.svg or <name>.png and frees f, whatever happens. */
int figure_finish(figure *f, output *o, const char *name, err *e);
void figure_close(figure *f); /* frees without writing; NULL is harmless */

colour figure_colour(int64_t i, int64_t n); /* the i-th of n distinguishable colours */

/* Widens lo..hi by a margin and makes it usable (never empty, never infinite). */
void panel_range(double *lo, double *hi, double margin);
/* Frame, grid, ticks with numbers, labels. y_ticks 0 leaves the y axis bare, for categories. */
void panel_draw(figure *f, const panel *p, const char *title, const char *x_label, const char *y_label, int y_ticks);
void panel_whole_ticks(figure *f, bool on); /* x ticks at whole numbers only */
double panel_x(const panel *p, double x);
double panel_y(const panel *p, double y);
void panel_clip(figure *f, const panel *p);
void panel_unclip(figure *f);

/* Points that are not finite break a line and are left out of everything else. */
void draw_line(figure *f, const panel *p, const double *x, const double *y, int64_t n, colour c, double width,
               double alpha);
void draw_band(figure *f, const panel *p, const double *x, const double *low, const double *high, int64_t n, colour c,
               double alpha);
void draw_dot(figure *f, const panel *p, double x, double y, double radius, colour c, double alpha);
void draw_ring(figure *f, const panel *p, double x, double y, double radius, colour c);
void draw_square(figure *f, const panel *p, double x, double y, double half, colour c);
void draw_whisker(figure *f, const panel *p, double x_low, double x_high, double y, colour c); /* horizontal */
void draw_bar(figure *f, const panel *p, double x, double half_width, double y_from, double y_to, colour c,
              double alpha);
void draw_text(figure *f, double x, double y, const char *text, double size, int align, colour c);
double text_width(figure *f, const char *text, double size);
/* Copies text, shortened with an ellipsis to fit `width`. */
void text_fit(figure *f, char *out, size_t room, const char *text, double size, double width);
/* A swatch and a label a row, from the top left corner; returns the height used. */
double draw_legend(figure *f, double x, double y, double width, const char *const *labels, const colour *colours,
                   int64_t n);

#define BLACK ((colour){ 0.10, 0.10, 0.12 })
#define GREY ((colour){ 0.45, 0.45, 0.48 })

#endif
