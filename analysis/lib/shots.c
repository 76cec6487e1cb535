#include "analysis/lib/shots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/sweep_internal.h"
#include "analysis/lib/trace_reader.h"

#define U "latent units"

const metric_def SHOT_METRICS[SM_COUNT] = {
    { "centroid_distance", U, "root mean square difference of the mean latent frames of two results" },
    { "centroid_cosine", "1", "cosine between these mean frames" },
    { "appearance_distance", U, "the same of the means over frames and places, which layout does not change" },
    { "path_distance", U, "root mean square difference of matched frames, averaged over the stored rows" },
    { "path_distance_end", U, "the same of the results alone" },
    { "path_alignment", "1", "mean over the steps of the cosine between the steps of matched frames" },
};

void shot_paths_close(shot_paths *p, int64_t T)
{
    (void)T;
    for (int64_t i = 0; p->path && i < p->n_shots; i++)
        path_sums_close(&p->path[i]);
    for (int64_t i = 0; p->pairs && i < p->n_pairs; i++)
        free(p->pairs[i].centroid); /* path lies behind it */
    free(p->path);
    free(p->pairs);
    free(p->frames);
    memset(p, 0, sizeof *p);
}

static int open_paths(shot_paths *p, const trace_reader *t, err *e)
{
    int64_t n = t->latent_shot[t->F - 1] + 1, T = t->n_rows, k = 0;
    p->n_shots = n;
    p->n_pairs = n * (n - 1) / 2;
    p->frames = calloc((size_t)n, sizeof *p->frames);
    p->path = calloc((size_t)n, sizeof *p->path);
    p->pairs = calloc((size_t)p->n_pairs + 1, sizeof *p->pairs);
    int rc = p->frames && p->path && p->pairs ? 0 : ERR(e, ERR_MEMORY, "no memory for %lld shots", (long long)n);
    for (int64_t f = 0; !rc && f < t->F; f++)
        p->frames[t->latent_shot[f]]++;
    for (int64_t a = 0; !rc && a < n; a++) {
        rc = path_sums_open(&p->path[a], T, e);
        for (int64_t b = a + 1; !rc && b < n; b++) {
            shot_pair *q = &p->pairs[k++];
            q->a = a;
            q->b = b;
            q->matched = p->frames[a] < p->frames[b] ? p->frames[a] : p->frames[b];
            if (!(q->centroid = calloc(2 * (size_t)T, sizeof *q->centroid)))
                rc = ERR(e, ERR_MEMORY, "no memory for the distances of %lld rows", (long long)T);
            else
                q->path = q->centroid + T;
        }
    }
    return rc;
}

static int64_t first_frame(const shot_paths *p, int64_t shot)
{
    int64_t f = 0;
    for (int64_t k = 0; k < shot; k++)
        f += p->frames[k];
    return f;
}

/* Mean frame of a shot, [C][H*W]. */
static void centroid(double *out, const trace_reader *t, const float *row, int64_t first, int64_t n)
{
    int64_t plane = t->H * t->W;
    for (int64_t c = 0; c < t->C; c++)
        for (int64_t i = 0; i < plane; i++) {
            double sum = 0;
            for (int64_t f = first; f < first + n; f++)
                sum += row[(c * t->F + f) * plane + i];
            out[c * plane + i] = sum / (double)n;
        }
}

/* Steps of matched frames: their products. */
static double alignment(const trace_reader *t, const float *row, const float *before, int64_t fa, int64_t fb, int64_t matched)
{
    int64_t plane = t->H * t->W;
    double ab = 0, aa = 0, bb = 0;
    for (int64_t c = 0; c < t->C; c++)
        for (int64_t i = 0; i < matched * plane; i++) {
            int64_t x = (c * t->F + fa) * plane + i, y = (c * t->F + fb) * plane + i;
            double u = (double)row[x] - before[x], v = (double)row[y] - before[y];
            ab += u * v;
            aa += u * u;
            bb += v * v;
        }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

/* What one stored row says about a pair; `before` is NULL for the first. */
static void add_row(shot_pair *q, const shot_paths *p, const trace_reader *t, int64_t r, const float *row, const float *before, double *ca, double *cb,
                    int64_t *n_aligned)
{
    int64_t plane = t->H * t->W, values = t->C * plane, fa = first_frame(p, q->a), fb = first_frame(p, q->b);
    double far = 0, ab = 0, aa = 0, bb = 0, appearance = 0, matched = 0;
    centroid(ca, t, row, fa, p->frames[q->a]);
    centroid(cb, t, row, fb, p->frames[q->b]);
    for (int64_t c = 0; c < t->C; c++) {
        double mean = 0;
        for (int64_t i = c * plane; i < (c + 1) * plane; i++) {
            far += (ca[i] - cb[i]) * (ca[i] - cb[i]);
            ab += ca[i] * cb[i];
            aa += ca[i] * ca[i];
            bb += cb[i] * cb[i];
            mean += (ca[i] - cb[i]) / (double)plane;
        }
        appearance += mean * mean;
        for (int64_t i = 0; i < q->matched * plane; i++) {
            double d = (double)row[(c * t->F + fa) * plane + i] - row[(c * t->F + fb) * plane + i];
            matched += d * d;
        }
    }
    q->centroid[r] = sqrt(far / (double)values);
    q->path[r] = sqrt(matched / (double)(values * q->matched));
    q->value[SM_PATH_DISTANCE] += q->path[r] / (double)t->n_rows;
    if (before) {
        double cosine = alignment(t, row, before, fa, fb, q->matched);
        if (isfinite(cosine)) {
            q->value[SM_PATH_ALIGNMENT] += cosine;
            ++*n_aligned;
        }
    }
    if (r == t->n_rows - 1) {
        q->value[SM_CENTROID_DISTANCE] = q->centroid[r];
        q->value[SM_CENTROID_COSINE] = aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
        q->value[SM_APPEARANCE_DISTANCE] = sqrt(appearance / (double)t->C);
        q->value[SM_PATH_DISTANCE_END] = q->path[r];
        q->value[SM_PATH_ALIGNMENT] = *n_aligned ? q->value[SM_PATH_ALIGNMENT] / (double)*n_aligned : NAN;
    }
}

/* Divides all products by how many numbers they are over. */
static void scale(path_sums *p, int64_t T, double by)
{
    int64_t m = T - 1;
    double *const arrays[] = { p->vv, p->from_start, p->to_end, p->along, p->v_along, p->off_straight, p->turn_minus, p->turn_plus, p->accel };
    const int64_t sizes[] = { m * m, T, T, T, m, m, m - 1, m - 1, m - 1 };
    for (int a = 0; a < 9; a++)
        for (int64_t i = 0; i < sizes[a]; i++)
            arrays[a][i] *= by;
    p->end2 *= by;
}

/* The sums of shots first .. last-1, whose rows lie one shot behind the other in `rows`. */
static int add_paths(shot_paths *p, const sweep *s, const trace_reader *t, int64_t first, int64_t last, const float *rows, err *e)
{
    int rc = 0;
    for (int64_t k = first; k < last && !rc; k++) {
        int64_t n = t->C * p->frames[k] * t->H * t->W;
        sweep_run run = { .path = p->path[k] };
        sweep one = { .T = s->T, .rows = s->rows, .sigma = s->sigma, .runs = &run, .n_runs = 1 };
        sweep_block block = { rows, n, n, 0, 1 };
        sweep_adder adder;
        if (!(rc = sweep_adder_open(&adder, &one, false, e))) {
            sweep_adder_add(&adder, &one, &block);
            sweep_adder_close(&adder, &one);
            p->path[k] = run.path;
            path_sums_finish(&p->path[k], s->T);
            scale(&p->path[k], s->T, 1.0 / (double)n);
        }
        rows += s->T * n;
    }
    return rc;
}

/* One reading of the trace: the sums of as many shots as fit, from `first` on; pairs in the first reading. */
static int read_once(shot_paths *p, const sweep *s, trace_reader *t, int64_t first, int64_t *last, int64_t memory, err *e)
{
    int64_t plane = t->H * t->W, values = 0, n_aligned[64] = { 0 };
    int rc = 0;
    *last = first;
    while (*last < p->n_shots && (*last == first || (values + s->T * t->C * p->frames[*last] * plane) * (int64_t)sizeof(float) <= memory))
        values += s->T * t->C * p->frames[(*last)++] * plane;
    int64_t *aligned = p->n_pairs > 64 ? calloc((size_t)p->n_pairs, sizeof *aligned) : n_aligned;
    float *rows = malloc((size_t)values * sizeof *rows), *row[2];
    double *mean = malloc(2 * (size_t)(t->C * plane) * sizeof *mean);
    uint16_t *scratch = malloc((size_t)t->row_elems * sizeof *scratch);
    row[0] = malloc(2 * (size_t)t->row_elems * sizeof **row);
    if (!rows || !row[0] || !mean || !scratch || !aligned) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the rows of a shot", t->path);
        goto out;
    }
    row[1] = row[0] + t->row_elems;
    for (int64_t r = 0; r < s->T && !rc; r++) {
        const float *now = row[r & 1], *before = r ? row[1 - (r & 1)] : NULL;
        if ((rc = trace_reader_row(t, row[r & 1], scratch, r, e)))
            break;
        float *to = rows;
        for (int64_t k = first; k < *last; k++) {
            int64_t f = first_frame(p, k), part = p->frames[k] * plane;
            for (int64_t c = 0; c < t->C; c++)
                memcpy(to + (r * t->C + c) * part, now + (c * t->F + f) * plane, (size_t)part * sizeof *to);
            to += s->T * t->C * part;
        }
        for (int64_t q = 0; first == 0 && q < p->n_pairs; q++)
            add_row(&p->pairs[q], p, t, r, now, before, mean, mean + t->C * plane, &aligned[q]);
    }
    if (!rc)
        rc = add_paths(p, s, t, first, *last, rows, e);
out:
    if (aligned != n_aligned)
        free(aligned);
    free(rows);
    free(row[0]);
    free(mean);
    free(scratch);
    return rc;
}

int shot_paths_read(shot_paths *out, const sweep *s, const char *trace, int64_t memory, err *e)
{
    trace_reader t;
    memset(out, 0, sizeof *out);
    int rc = trace_reader_open(&t, trace, e);
    if (rc)
        return rc;
    if (!t.latent_shot)
        rc = ERR(e, ERR_FORMAT, "%s: the video has no shots ('/shots' is missing), so there is nothing to group by", trace);
    if (!rc)
        rc = open_paths(out, &t, e);
    for (int64_t k = 0; !rc && k < out->n_shots;)
        rc = read_once(out, s, &t, k, &k, memory, e);
    trace_reader_close(&t);
    if (rc)
        shot_paths_close(out, s->T);
    return rc;
}
