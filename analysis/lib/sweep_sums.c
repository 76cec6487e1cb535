/* Adding up: each block of elements adds its share to the sums of every path and to the Gram matrices across runs. */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/linalg.h"
#include "analysis/lib/sweep_internal.h"
#include "core/base/parallel.h"

int path_sums_open(path_sums *p, int64_t T, err *e)
{
    int64_t m = T - 1, total = m * m + 3 * T + 2 * m + 3 * (T - 2);
    double *at = calloc((size_t)total + 1, sizeof *at);
    if (!at)
        return ERR(e, ERR_MEMORY, "no memory for the step Gram matrix of %lld rows", (long long)T);
    p->vv = at;
    p->from_start = (at += m * m);
    p->to_end = (at += T);
    p->along = (at += T);
    p->v_along = (at += T);
    p->off_straight = (at += m);
    p->turn_minus = (at += m);
    p->turn_plus = (at += T - 2);
    p->accel = at + (T - 2);
    p->end2 = 0;
    return 0;
}

void path_sums_close(path_sums *p)
{
    free(p->vv); /* the other arrays lie behind it */
    memset(p, 0, sizeof *p);
}

void path_sums_finish(path_sums *p, int64_t T)
{
    int64_t m = T - 1;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < i; j++)
            p->vv[j * m + i] = p->vv[i * m + j];
}

int sweep_adder_open(sweep_adder *a, const sweep *s, bool across, err *e)
{
    memset(a, 0, sizeof *a);
    a->across = across;
    a->n_threads = parallel_threads();
    int64_t wide = s->n_pooled > s->n_runs ? s->n_pooled : s->n_runs;
    bool ok = (a->thread = calloc((size_t)a->n_threads, sizeof *a->thread)) != NULL;
    for (int t = 0; ok && t < a->n_threads; t++)
        ok = (a->thread[t] = malloc((size_t)((2 * s->T + 2) * SWEEP_GRAIN) * sizeof **a->thread)) != NULL;
    if (ok && across)
        ok = (a->centered = malloc((size_t)(wide * SWEEP_GRAIN) * sizeof *a->centered)) &&
             (a->mean = malloc(SWEEP_GRAIN * sizeof *a->mean));
    if (ok)
        return 0;
    sweep_adder_close(a, s);
    return ERR(e, ERR_MEMORY, "no memory to add up %lld rows", (long long)wide);
}

void sweep_adder_close(sweep_adder *a, const sweep *s)
{
    (void)s;
    for (int t = 0; a->thread && t < a->n_threads; t++)
        free(a->thread[t]);
    free(a->thread);
    free(a->centered);
    free(a->mean);
    memset(a, 0, sizeof *a);
}

typedef struct add_job {
    sweep_adder *a;
    sweep *s;
    const sweep_block *b;
} add_job;

static double square_sum(const double *x, int64_t n)
{
    return cblas_ddot((int)n, x, 1, x, 1);
}

/* One path: all its rows for this block in f64, the step differences, their products. */
static void add_path_grain(const sweep *s, path_sums *p, double *work, const float *base, int64_t stride, int64_t n)
{
    int64_t T = s->T, m = T - 1;
    double *x = work, *v = x + T * n, *e = v + m * n, *t = e + n;
    for (int64_t r = 0; r < T; r++) {
        const float *row = base + r * stride;
        for (int64_t i = 0; i < n; i++)
            x[r * n + i] = row[i];
    }
    for (int64_t i = 0; i < m * n; i++)
        v[i] = x[i + n] - x[i];
    for (int64_t i = 0; i < n; i++)
        e[i] = x[m * n + i] - x[i];
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasNoTrans, (int)m, (int)n, 1.0, v, (int)n, 1.0, p->vv, (int)m);
    p->end2 += square_sum(e, n);
    for (int64_t r = 0; r < T; r++) {
        for (int64_t i = 0; i < n; i++)
            t[i] = x[r * n + i] - x[i];
        p->from_start[r] += square_sum(t, n);
        p->along[r] += cblas_ddot((int)n, t, 1, e, 1);
        for (int64_t i = 0; i < n; i++)
            t[i] = x[r * n + i] - x[m * n + i];
        p->to_end[r] += square_sum(t, n);
    }
    double span = 0;
    for (int64_t k = 0; k < m; k++)
        span += fabs(s->sigma[k + 1] - s->sigma[k]);
    for (int64_t k = 0; k < m; k++) {
        const double *vk = v + k * n, *next = vk + n;
        double ds = fabs(s->sigma[k + 1] - s->sigma[k]), scale = span / ds;
        p->v_along[k] += cblas_ddot((int)n, vk, 1, e, 1);
        if (ds > 0) {
            for (int64_t i = 0; i < n; i++)
                t[i] = e[i] - scale * vk[i];
            p->off_straight[k] += square_sum(t, n);
        } else {
            p->off_straight[k] = NAN;
        }
        if (k + 1 == m)
            break;
        double ds_next = fabs(s->sigma[k + 2] - s->sigma[k + 1]);
        for (int64_t i = 0; i < n; i++)
            t[i] = next[i] - vk[i];
        p->turn_minus[k] += square_sum(t, n);
        for (int64_t i = 0; i < n; i++)
            t[i] = next[i] + vk[i];
        p->turn_plus[k] += square_sum(t, n);
        if (ds > 0 && ds_next > 0) {
            for (int64_t i = 0; i < n; i++)
                t[i] = next[i] / ds_next - vk[i] / ds;
            p->accel[k] += square_sum(t, n);
        } else {
            p->accel[k] = NAN;
        }
    }
}

static void add_path(int64_t piece, int thread, void *arg)
{
    add_job *j = arg;
    const sweep_block *b = j->b;
    path_sums *p = &j->s->runs[b->first_run + piece].path;
    for (int64_t at = 0; at < b->elems; at += SWEEP_GRAIN)
        add_path_grain(j->s, p, j->a->thread[thread], b->base + piece * j->s->T * b->stride + at, b->stride,
                       b->elems - at < SWEEP_GRAIN ? b->elems - at : SWEEP_GRAIN);
}

static const float *pooled_row(const sweep *s, const sweep_block *b, int64_t i)
{
    int64_t run = i / s->pooled_per_run, row = s->pooled_rows[i % s->pooled_per_run];
    return b->base + (run * s->T + row) * b->stride;
}

static const float *end_row(const sweep *s, const sweep_block *b, int64_t run)
{
    return b->base + (run * s->T + s->T - 1) * b->stride;
}

/* Mean of the pooled rows; sums run down the rows, element by element. */
static void pooled_mean(double *mean, const sweep *s, const sweep_block *b)
{
    memset(mean, 0, (size_t)b->elems * sizeof *mean);
    for (int64_t r = 0; r < s->n_pooled; r++) {
        const float *row = pooled_row(s, b, r);
        for (int64_t i = 0; i < b->elems; i++)
            mean[i] += row[i];
    }
    for (int64_t i = 0; i < b->elems; i++)
        mean[i] /= (double)s->n_pooled;
}

static void mean_of_ends(double *mean, const sweep *s, const sweep_block *b, int64_t first, int64_t n)
{
    memset(mean, 0, (size_t)b->elems * sizeof *mean);
    for (int64_t r = first; r < first + n; r++) {
        const float *row = end_row(s, b, r);
        for (int64_t i = 0; i < b->elems; i++)
            mean[i] += row[i];
    }
    for (int64_t i = 0; i < b->elems; i++)
        mean[i] /= (double)n;
}

static void add_across(add_job *j)
{
    sweep *s = j->s;
    const sweep_block *b = j->b;
    int64_t n = b->elems;
    double *c = j->a->centered, *mean = j->a->mean;
    pooled_mean(mean, s, b);
    for (int64_t r = 0; r < s->n_pooled; r++) {
        const float *row = pooled_row(s, b, r);
        for (int64_t i = 0; i < n; i++)
            c[r * n + i] = row[i] - mean[i];
    }
    gram_add(s->pooled, c, s->n_pooled, n);

    mean_of_ends(mean, s, b, 0, s->n_runs);
    for (int64_t r = 0; r < s->n_runs; r++) {
        const float *row = end_row(s, b, r);
        for (int64_t i = 0; i < n; i++)
            c[r * n + i] = row[i] - mean[i];
    }
    gram_add(s->ends, c, s->n_runs, n);

    for (int64_t g = 0; g < s->n_groups; g++) {
        mean_of_ends(mean, s, b, s->groups[g].first, s->groups[g].n);
        for (int64_t r = s->groups[g].first; r < s->groups[g].first + s->groups[g].n; r++) {
            const float *row = end_row(s, b, r);
            for (int64_t i = 0; i < n; i++)
                c[r * n + i] = row[i] - mean[i];
        }
    }
    gram_add(s->end_devs, c, s->n_runs, n);

    for (int64_t g = 0; g < s->n_groups; g++)
        mean_of_ends(c + g * n, s, b, s->groups[g].first, s->groups[g].n);
    for (int64_t i = 0; i < n; i++) {
        double m = 0;
        for (int64_t g = 0; g < s->n_groups; g++)
            m += c[g * n + i];
        m /= (double)s->n_groups;
        for (int64_t g = 0; g < s->n_groups; g++)
            c[g * n + i] -= m;
    }
    gram_add(s->end_means, c, s->n_groups, n);
}

void sweep_adder_add(sweep_adder *a, sweep *s, const sweep_block *b)
{
    add_job j = { a, s, b };
    parallel_for(b->n_runs, add_path, &j);
    for (int64_t at = 0; a->across && at < b->elems; at += SWEEP_GRAIN) {
        sweep_block grain = *b;
        grain.base += at;
        grain.elems = b->elems - at < SWEEP_GRAIN ? b->elems - at : SWEEP_GRAIN;
        add_job one = { a, s, &grain };
        add_across(&one);
    }
}
