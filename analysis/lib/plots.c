#include "analysis/lib/plots.h"

#ifdef HAVE_CAIRO

#include <cairo.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/figure.h"

bool plots_available(void)
{
    return true;
}

/* fontconfig comes in through cairo, without headers of its own to build against: its end is looked up by name. */
void plots_shutdown(void)
{
    void *symbol = dlsym(RTLD_DEFAULT, "FcFini");
    void (*font_config_end)(void) = NULL;
    memcpy(&font_config_end, &symbol, sizeof font_config_end);
    cairo_debug_reset_static_data();
    if (font_config_end)
        font_config_end();
}

#define LEGEND 190.0
#define SHOWN_VARIATIONS 60 /* rows of a dot plot; CSV has them all */

/* Names and colours of the variations. */
typedef struct key {
    char **label;
    colour *c;
    int64_t n;
} key;

static void key_close(key *k)
{
    for (int64_t i = 0; k->label && i < k->n; i++)
        free(k->label[i]);
    free(k->label);
    free(k->c);
}

static int key_open(key *k, const sweep *s, err *e)
{
    k->n = s->n_groups;
    k->label = calloc((size_t)k->n + 1, sizeof *k->label);
    k->c = calloc((size_t)k->n + 1, sizeof *k->c);
    bool ok = k->label && k->c;
    for (int64_t g = 0; ok && g < k->n; g++) {
        k->c[g] = figure_colour(g, k->n);
        k->label[g] = str_format("%s (%lld)", s->groups[g].variation->slug, (long long)s->groups[g].n);
        ok = k->label[g] != NULL;
    }
    if (ok)
        return 0;
    key_close(k);
    return ERR(e, ERR_MEMORY, "no memory for the figures");
}

static void legend(figure *f, double x, double y, const key *k)
{
    draw_text(f, x, y + 4, "variation (seeds)", 10, ALIGN_LEFT, GREY);
    draw_legend(f, x, y + 14, LEGEND - 20, (const char *const *)k->label, k->c, k->n);
}

/* Mean and standard deviation over the seeds of a group, per row, of one profile column. */
static void group_profile(double *mean, double *low, double *high, const sweep *s, const double *profiles, int64_t g,
                          int column)
{
    int64_t T = s->T;
    for (int64_t t = 0; t < T; t++) {
        double sum = 0, square = 0;
        int64_t n = 0;
        for (int64_t i = s->groups[g].first; i < s->groups[g].first + s->groups[g].n; i++) {
            double x = profiles[(i * T + t) * PC_COUNT + column];
            if (isfinite(x)) {
                sum += x;
                n++;
            }
        }
        mean[t] = n ? sum / (double)n : NAN;
        for (int64_t i = s->groups[g].first; i < s->groups[g].first + s->groups[g].n; i++) {
            double x = profiles[(i * T + t) * PC_COUNT + column];
            square += isfinite(x) ? (x - mean[t]) * (x - mean[t]) : 0;
        }
        double sd = n > 1 ? sqrt(square / (double)(n - 1)) : 0;
        low[t] = mean[t] - sd;
        high[t] = mean[t] + sd;
    }
}

static void profile_panel(figure *f, panel p, const sweep *s, const double *profiles, const key *k, int column,
                          const char *title, const char *y_label, double *work)
{
    int64_t T = s->T;
    double *x = work, *mean = work + T, *low = mean + T, *high = low + T;
    p.x0 = 0;
    p.x1 = s->rows[T - 1];
    p.y0 = INFINITY;
    p.y1 = -INFINITY;
    for (int64_t t = 0; t < T; t++)
        x[t] = s->rows[t];
    for (int64_t g = 0; g < s->n_groups; g++) {
        group_profile(mean, low, high, s, profiles, g, column);
        for (int64_t t = 0; t < T; t++)
            if (isfinite(mean[t])) {
                p.y0 = fmin(p.y0, low[t]);
                p.y1 = fmax(p.y1, high[t]);
            }
    }
    if (p.y0 > 0 && p.y0 < 0.35 * p.y1)
        p.y0 = 0;
    double floor_at = p.y0;
    panel_range(&p.y0, &p.y1, 0.05);
    if (floor_at == 0)
        p.y0 = 0;
    panel_draw(f, &p, title, "sampling step", y_label, 1);
    panel_clip(f, &p);
    for (int64_t g = 0; g < s->n_groups; g++) {
        group_profile(mean, low, high, s, profiles, g, column);
        draw_band(f, &p, x, low, high, T, k->c[g], 0.13);
    }
    for (int64_t g = 0; g < s->n_groups; g++) {
        group_profile(mean, low, high, s, profiles, g, column);
        draw_line(f, &p, x, mean, T, k->c[g], 1.6, 0.95);
        if (T <= 30)
            for (int64_t t = 0; t < T; t++)
                draw_dot(f, &p, x[t], mean[t], 2, k->c[g], 1);
    }
    panel_unclip(f);
}

static int profiles_figure(const sweep *s, const double *profiles, const key *k, output *o, err *e)
{
    static const struct {
        int column;
        const char *title, *label;
    } panels[6] = {
        { PC_VELOCITY, "Velocity", "latent units per unit of sigma" },
        { PC_SPEED, "Step length", "latent units per step" },
        { PC_CHORD_REL, "Deviation from the chord", "share of the endpoint distance" },
        { PC_TURNING, "Turning angle", "radians" },
        { PC_ACCELERATION, "Acceleration", "latent units per sigma squared" },
        { PC_TO_END, "Distance to the result", "latent units" },
    };
    const double pw = 255, ph = 170, left = 74, top = 58, gap_x = 84, gap_y = 76;
    figure *f;
    double *work = malloc((size_t)(4 * s->T) * sizeof *work);
    if (!work)
        return ERR(e, ERR_MEMORY, "no memory for the figures");
    int rc = figure_open(&f, left + 3 * pw + 2 * gap_x + 24 + LEGEND, top + 2 * ph + gap_y + 62, o->plots, e);
    if (rc) {
        free(work);
        return rc;
    }
    draw_text(f, left - 50, 24, "Denoising paths, step by step", 15, ALIGN_LEFT, BLACK);
    draw_text(f, left - 50 + text_width(f, "Denoising paths, step by step", 15) + 14, 24,
              "lines: mean over seeds, bands: \xc2\xb1 1 standard deviation", 10, ALIGN_LEFT, GREY);
    for (int i = 0; i < 6; i++) {
        panel p = { .x = left + (pw + gap_x) * (i % 3), .y = top + (ph + gap_y) * (i / 3), .w = pw, .h = ph };
        profile_panel(f, p, s, profiles, k, panels[i].column, panels[i].title, panels[i].label, work);
    }
    legend(f, left + 3 * pw + 2 * gap_x + 24, top, k);
    free(work);
    return figure_finish(f, o, "trajectory_profiles", e);
}

/* Rows of one metric: every seed a small dot, the mean a square, its interval a whisker. */
typedef struct dots {
    const char *title, *label;
    const double *value; /* per run with this stride, or NULL */
    int64_t stride;
    const stats_interval *interval; /* per group with this stride */
    int64_t interval_stride;
} dots;

static void dots_panel(figure *f, panel p, const sweep *s, const key *k, const dots *d)
{
    int64_t shown = s->n_groups < SHOWN_VARIATIONS ? s->n_groups : SHOWN_VARIATIONS;
    p.x0 = INFINITY;
    p.x1 = -INFINITY;
    for (int64_t g = 0; g < shown; g++) {
        const stats_interval *v = &d->interval[g * d->interval_stride];
        double lo = v->mean, hi = v->mean;
        for (int64_t i = s->groups[g].first; d->value && i < s->groups[g].first + s->groups[g].n; i++)
            if (isfinite(d->value[i * d->stride])) {
                lo = fmin(lo, d->value[i * d->stride]);
                hi = fmax(hi, d->value[i * d->stride]);
            }
        /* a t-interval of two seeds can be ten times wider than the data: it may run out of the panel */
        double reach = d->value ? 1.5 * (hi - lo) : INFINITY;
        if (isfinite(v->lo) && isfinite(v->hi)) {
            lo = fmin(lo, fmax(v->lo, lo - reach));
            hi = fmax(hi, fmin(v->hi, hi + reach));
        }
        if (isfinite(lo))
            p.x0 = fmin(p.x0, lo);
        if (isfinite(hi))
            p.x1 = fmax(p.x1, hi);
    }
    bool empty = !(p.x0 <= p.x1);
    panel_range(&p.x0, &p.x1, 0.06);
    p.y0 = (double)shown - 0.5;
    p.y1 = -0.5;
    if (empty) {
        draw_text(f, p.x, p.y - 8, d->title, 11.5, ALIGN_LEFT, BLACK);
        draw_text(f, p.x + 0.5 * p.w, p.y + 0.5 * p.h, "not defined for this batch", 10, ALIGN_CENTER, GREY);
        return;
    }
    panel_draw(f, &p, d->title, d->label, "", 0);
    panel_clip(f, &p);
    for (int64_t g = 0; g < shown; g++) {
        const stats_interval *v = &d->interval[g * d->interval_stride];
        double up = d->value ? 0.15 : 0; /* the mean above, its seeds below */
        draw_whisker(f, &p, v->lo, v->hi, (double)g - up, k->c[g]);
        for (int64_t i = s->groups[g].first; d->value && i < s->groups[g].first + s->groups[g].n; i++)
            draw_dot(f, &p, d->value[i * d->stride], (double)g + 0.25, 1.9, k->c[g], 0.6);
        draw_square(f, &p, v->mean, (double)g - up, 3.5, k->c[g]);
    }
    panel_unclip(f);
}

/* A page of dot plots that share the names on the left. */
static int dots_figure(const char *name, const char *title, const char *note, const sweep *s, const key *k,
                       const dots *d, int n, output *o, err *e)
{
    const int columns = 3, rows = (n + columns - 1) / columns;
    int64_t shown = s->n_groups < SHOWN_VARIATIONS ? s->n_groups : SHOWN_VARIATIONS;
    double ph = fmax(60, 19 * (double)shown), pw = 215, left = 205, top = 58, gap_x = 28, gap_y = 74;
    figure *f;
    int rc = figure_open(&f, left + columns * pw + (columns - 1) * gap_x + 26,
                         top + rows * ph + (rows - 1) * gap_y + 46, o->plots, e);
    if (rc)
        return rc;
    draw_text(f, 20, 24, title, 15, ALIGN_LEFT, BLACK);
    draw_text(f, 20 + text_width(f, title, 15) + 14, 24, note, 10, ALIGN_LEFT, GREY);
    for (int i = 0; i < n; i++) {
        panel p = {
            .x = left + (pw + gap_x) * (i % columns), .y = top + (ph + gap_y) * (i / columns), .w = pw, .h = ph
        };
        dots_panel(f, p, s, k, &d[i]);
        for (int64_t g = 0; i % columns == 0 && g < shown; g++) {
            char label[64];
            text_fit(f, label, sizeof label, k->label[g], 10, left - 34);
            draw_text(f, p.x - 10, p.y + ph * ((double)g + 0.5) / (double)shown + 3.5, label, 10, ALIGN_RIGHT, BLACK);
        }
    }
    return figure_finish(f, o, name, e);
}

int plots_trajectory(const metrics *m, const double *profiles, output *o, err *e)
{
    static const struct {
        int metric;
        const char *title, *label;
    } shown[6] = {
        { TM_PATH_LENGTH, "Path length", "latent units" },
        { TM_TORTUOSITY, "Tortuosity", "path length / endpoint distance" },
        { TM_STRAIGHTNESS_REL, "Straightness (0 = straight)", "S / endpoint distance squared" },
        { TM_CHORD_MAX_REL, "Largest deviation from the chord", "share of the endpoint distance" },
        { TM_TURNING_TOTAL, "Total turning", "radians" },
        { TM_HALF_SIGMA, "Half-way to the result", "sigma" },
    };
    key k;
    dots d[6];
    int rc = key_open(&k, m->s, e);
    if (rc)
        return rc;
    for (int i = 0; i < 6; i++)
        d[i] =
            (dots){ shown[i].title, shown[i].label, m->value + shown[i].metric, m->n_defs, m->group + shown[i].metric,
                    m->n_defs };
    rc = profiles_figure(m->s, profiles, &k, o, e);
    if (!rc)
        rc = dots_figure("trajectory_summary", "Shape of the denoising paths",
                         "dots: seeds, squares: means, whiskers: 95 % intervals", m->s, &k, d, 6, o, e);
    key_close(&k);
    return rc;
}

int plots_volume(const sweep *s, const volume *v, output *o, err *e)
{
    static const struct {
        int set, metric;
        const char *title, *label;
    } shown[6] = {
        { VS_ENDS, VM_LOG_VOLUME, "Results: log-volume", "ln of latent units^r" },
        { VS_ENDS, VM_SIDE, "Results: effective side", "latent units" },
        { VS_ENDS, VM_AREA_2D, "Results: hull area, PC1-PC2", "latent units squared" },
        { VS_PATHS, VM_LOG_VOLUME, "Paths: log-volume", "ln of latent units^r" },
        { VS_PATHS, VM_AREA_2D, "Paths: hull area, PC1-PC2", "latent units squared" },
        { VS_PATHS, VM_VOLUME_3D, "Paths: hull volume, PC1-PC3", "latent units cubed" },
    };
    key k;
    dots d[6];
    char note[160];
    int rc = key_open(&k, s, e);
    if (rc)
        return rc;
    for (int i = 0; i < 6; i++)
        d[i] = (dots){ shown[i].title,
                       shown[i].label,
                       NULL,
                       0,
                       v->value + (shown[i].set * s->n_groups) * VM_COUNT + shown[i].metric,
                       VM_COUNT };
    snprintf(note, sizeof note,
             "squares: values, whiskers: 95 %% jackknife intervals; r = %lld (results), %lld (paths)",
             (long long)v->rank[VS_ENDS], (long long)v->rank[VS_PATHS]);
    rc = dots_figure("volume", "Latent space a variation occupies", note, s, &k, d, 6, o, e);
    key_close(&k);
    return rc;
}

static void scatter_range(panel *p, const pca_set *q)
{
    p->x0 = p->y0 = INFINITY;
    p->x1 = p->y1 = -INFINITY;
    for (int64_t i = 0; i < q->n; i++) {
        double y = q->k > 1 ? q->scores[q->n + i] : 0;
        p->x0 = fmin(p->x0, q->scores[i]);
        p->x1 = fmax(p->x1, q->scores[i]);
        p->y0 = fmin(p->y0, y);
        p->y1 = fmax(p->y1, y);
    }
    panel_range(&p->x0, &p->x1, 0.06);
    panel_range(&p->y0, &p->y1, 0.06);
    double unit_x = (p->x1 - p->x0) / p->w,
           unit_y = (p->y1 - p->y0) / p->h; /* one scale for both axes: distances are true */
    if (unit_x > unit_y) {
        double middle = 0.5 * (p->y0 + p->y1);
        p->y0 = middle - 0.5 * unit_x * p->h;
        p->y1 = middle + 0.5 * unit_x * p->h;
    } else {
        double middle = 0.5 * (p->x0 + p->x1);
        p->x0 = middle - 0.5 * unit_y * p->w;
        p->x1 = middle + 0.5 * unit_y * p->w;
    }
}

static void axis_label(char *out, size_t room, const pca_set *q, int c)
{
    snprintf(out, room, "PC%d (%.1f %% of the variance), latent units", c + 1,
             q->total > 0 && c < q->n ? 100 * q->lambda[c] / q->total : 0.0);
}

static void paths_panel(figure *f, panel p, const sweep *s, const pca_set *q, const key *k)
{
    char x_label[96], y_label[96];
    int64_t r = s->pooled_per_run;
    scatter_range(&p, q);
    axis_label(x_label, sizeof x_label, q, 0);
    axis_label(y_label, sizeof y_label, q, 1);
    panel_draw(f, &p, "Paths in the pooled components (rings: noise, dots: results)", x_label, y_label, 1);
    panel_clip(f, &p);
    for (int64_t i = 0; i < s->n_runs && q->k > 1; i++)
        draw_line(f, &p, q->scores + i * r, q->scores + q->n + i * r, r, k->c[s->runs[i].group], 1, 0.55);
    for (int64_t i = 0; i < s->n_runs && q->k > 1; i++)
        draw_ring(f, &p, q->scores[i * r], q->scores[q->n + i * r], 2.6, k->c[s->runs[i].group]);
    for (int64_t i = 0; i < s->n_runs && q->k > 1; i++)
        draw_dot(f, &p, q->scores[i * r + r - 1], q->scores[q->n + i * r + r - 1], 3.4, k->c[s->runs[i].group], 1);
    panel_unclip(f);
}

static void ends_panel(figure *f, panel p, const sweep *s, const pca_set *q, const key *k)
{
    char x_label[96], y_label[96];
    scatter_range(&p, q);
    axis_label(x_label, sizeof x_label, q, 0);
    axis_label(y_label, sizeof y_label, q, 1);
    panel_draw(f, &p, "Results in their own components (squares: means)", x_label, y_label, 1);
    panel_clip(f, &p);
    for (int64_t g = 0; g < s->n_groups && q->k > 1; g++) {
        double mx = 0, my = 0, n = (double)s->groups[g].n;
        for (int64_t i = s->groups[g].first; i < s->groups[g].first + s->groups[g].n; i++) {
            mx += q->scores[i] / n;
            my += q->scores[q->n + i] / n;
        }
        for (int64_t i = s->groups[g].first; i < s->groups[g].first + s->groups[g].n; i++) {
            double x[2] = { mx, q->scores[i] }, y[2] = { my, q->scores[q->n + i] };
            draw_line(f, &p, x, y, 2, k->c[g], 0.6, 0.4);
            draw_dot(f, &p, x[1], y[1], 3.4, k->c[g], 0.85);
        }
        if (s->groups[g].n > 1)
            draw_square(f, &p, mx, my, 4.5, k->c[g]);
    }
    panel_unclip(f);
}

static int scatter_figure(const sweep *s, const pca *p, const key *k, output *o, err *e)
{
    const double size = 390, left = 78, top = 62, gap = 92;
    figure *f;
    int rc = figure_open(&f, left + 2 * size + gap + 24 + LEGEND, top + size + 52, o->plots, e);
    if (rc)
        return rc;
    draw_text(f, left - 54, 26, "Principal components", 15, ALIGN_LEFT, BLACK);
    paths_panel(f, (panel){ .x = left, .y = top, .w = size, .h = size }, s, &p->set[PCA_POOLED], k);
    ends_panel(f, (panel){ .x = left + size + gap, .y = top, .w = size, .h = size }, s, &p->set[PCA_ENDS], k);
    legend(f, left + 2 * size + gap + 24, top, k);
    return figure_finish(f, o, "pca_scatter", e);
}

/* Bars: share of each component; line: running total. */
static int variance_figure(const sweep *s, const pca *p, output *o, err *e)
{
    const double pw = 400, ph = 170, left = 70, top = 62, gap_x = 80, gap_y = 78;
    const colour bar = figure_colour(0, 4), line = figure_colour(1, 4);
    figure *f;
    (void)s;
    int rc = figure_open(&f, left + 2 * pw + gap_x + 30, top + 2 * ph + gap_y + 52, o->plots, e);
    if (rc)
        return rc;
    draw_text(f, left - 46, 26, "Explained variance", 15, ALIGN_LEFT, BLACK);
    draw_text(f, left - 46 + text_width(f, "Explained variance", 15) + 14, 26,
              "bars: each component, line: running total", 10, ALIGN_LEFT, GREY);
    for (int i = 0; i < PCA_SETS; i++) {
        const pca_set *q = &p->set[i];
        int64_t n = q->rank < 20 ? q->rank : 20;
        double x[20], y[20], sum = 0;
        char title[160];
        panel a = { left + (pw + gap_x) * (i % 2),
                    top + (ph + gap_y) * (i / 2),
                    pw,
                    ph,
                    0.25,
                    (double)(n > 1 ? n : 1) + 0.75,
                    0,
                    104 };
        snprintf(title, sizeof title, "%s: %s (%lld points)", q->name, q->what, (long long)q->n);
        panel_whole_ticks(f, true);
        panel_draw(f, &a, title, "component", "% of the variance", 1);
        if (isfinite(q->participation)) {
            snprintf(title, sizeof title, "participation ratio %.1f, 90 %% at %lld", q->participation,
                     (long long)q->dims_90);
            draw_text(f, a.x + pw - 8, a.y + 0.55 * ph, title, 10, ALIGN_RIGHT, GREY);
        }
        if (n == 0)
            draw_text(f, a.x + 0.5 * pw, a.y + 0.5 * ph, "all points coincide", 10, ALIGN_CENTER, GREY);
        panel_clip(f, &a);
        for (int64_t c = 0; c < n; c++) {
            sum += q->lambda[c];
            x[c] = (double)(c + 1);
            y[c] = 100 * sum / q->total;
            draw_bar(f, &a, x[c], 0.36, 0, 100 * q->lambda[c] / q->total, bar, 0.85);
        }
        draw_line(f, &a, x, y, n, line, 1.6, 1);
        for (int64_t c = 0; c < n; c++)
            draw_dot(f, &a, x[c], y[c], 2.4, line, 1);
        panel_unclip(f);
    }
    return figure_finish(f, o, "pca_variance", e);
}

int plots_pca(const sweep *s, const pca *p, output *o, err *e)
{
    key k;
    int rc = key_open(&k, s, e);
    if (rc)
        return rc;
    rc = scatter_figure(s, p, &k, o, e);
    if (!rc)
        rc = variance_figure(s, p, o, e);
    key_close(&k);
    return rc;
}

#else

bool plots_available(void)
{
    return false;
}

void plots_shutdown(void)
{
}

static int no_cairo(err *e)
{
    return ERR(
        e, ERR_ARG,
        "this build has no cairo and draws no plots; build again with libcairo2-dev installed, or give --plots none");
}

int plots_trajectory(const metrics *m, const double *profiles, output *o, err *e)
{
    (void)m, (void)profiles, (void)o;
    return no_cairo(e);
}

int plots_pca(const sweep *s, const pca *p, output *o, err *e)
{
    (void)s, (void)p, (void)o;
    return no_cairo(e);
}

int plots_volume(const sweep *s, const volume *v, output *o, err *e)
{
    (void)s, (void)v, (void)o;
    return no_cairo(e);
}

#endif
