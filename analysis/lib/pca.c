#include "analysis/lib/pca.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/linalg.h"
#include "analysis/lib/npy.h"
#include "analysis/lib/plots.h"
#include "analysis/lib/trajectory.h"

enum { WM_PC1, WM_PC2, WM_PC3, WM_PARTICIPATION, WM_ENTROPY, WM_DIMS_90, WM_DIMS_95, WM_DIMS_99, WM_TOTAL, WM_COUNT };

static const metric_def WITHIN[WM_COUNT] = {
    { "pc1_fraction", "1", "share of the path's variance on its first component" },
    { "pc2_fraction", "1", "share on the second" },
    { "pc3_fraction", "1", "share on the third" },
    { "participation_ratio", "dimensions", "(sum of eigenvalues)^2 / sum of their squares" },
    { "spectral_dimensions", "dimensions", "exponential of the entropy of the normalised eigenvalues" },
    { "dims_90", "components", "components that hold 90 % of the variance" },
    { "dims_95", "components", "components that hold 95 %" },
    { "dims_99", "components", "components that hold 99 %" },
    { "total_variance", "latent units^2", "variance of the stored rows around their mean (n-1)" },
};

void pca_describe(pca_set *p)
{
    double squares = 0, sum = 0, log_sum = 0;
    p->total = 0;
    p->dims_90 = p->dims_95 = p->dims_99 = 0;
    p->rank = spectrum_rank(p->lambda, p->n);
    for (int64_t i = 0; i < p->n; i++) {
        p->total += p->lambda[i];
        squares += p->lambda[i] * p->lambda[i];
    }
    p->participation = squares > 0 ? p->total * p->total / squares : NAN;
    for (int64_t i = 0; i < p->n && p->total > 0; i++) {
        double q = p->lambda[i] / p->total;
        sum += q;
        log_sum -= q > 0 ? q * log(q) : 0;
        if (!p->dims_90 && sum >= 0.90 - 1e-12)
            p->dims_90 = i + 1;
        if (!p->dims_95 && sum >= 0.95 - 1e-12)
            p->dims_95 = i + 1;
        if (!p->dims_99 && sum >= 0.99 - 1e-12)
            p->dims_99 = i + 1;
    }
    p->entropy = p->total > 0 ? exp(log_sum) : NAN;
}

static int set_open(pca_set *p, const char *name, const char *what, const double *gram, int64_t n, int64_t dof, err *e)
{
    double *copy = malloc((size_t)(n * n) * sizeof *copy);
    p->name = name;
    p->what = what;
    p->n = n;
    p->dof = dof;
    p->k = n < PCA_SCORES ? n : PCA_SCORES;
    p->lambda = malloc((size_t)n * sizeof *p->lambda);
    p->vectors = calloc((size_t)(n * p->k), sizeof *p->vectors);
    p->scores = calloc((size_t)(n * p->k), sizeof *p->scores);
    int rc = 0;
    if (!copy || !p->lambda || !p->vectors || !p->scores) {
        rc =
            ERR(e, ERR_MEMORY, "no memory for the principal components of %lld points; lower --max-rows", (long long)n);
        goto out;
    }
    memcpy(copy, gram, (size_t)(n * n) * sizeof *copy);
    if ((rc = gram_eigen(p->lambda, p->vectors, copy, n, p->k, e)))
        goto out;
    int64_t rank = spectrum_rank(p->lambda, n);
    for (int64_t c = 0; c < p->k; c++)
        for (int64_t i = 0; i < n; i++)
            p->scores[c * n + i] = c < rank ? sqrt(p->lambda[c]) * p->vectors[c * n + i] : 0;
    for (int64_t i = 0; i < n; i++)
        p->lambda[i] = dof > 0 && i < rank ? p->lambda[i] / (double)dof : 0;
    pca_describe(p);
out:
    free(copy);
    return rc;
}

int pca_open(pca *p, const sweep *s, err *e)
{
    memset(p, 0, sizeof *p);
    int64_t N = s->n_runs, V = s->n_groups;
    int rc = set_open(&p->set[PCA_ENDS], "ends", "results of all runs", s->ends, N, N - 1, e);
    if (!rc)
        rc = set_open(&p->set[PCA_SEEDS], "seeds", "results minus the mean of their variation", s->end_devs, N, N - V,
                      e);
    if (!rc)
        rc = set_open(&p->set[PCA_VARIATIONS], "variations", "mean results of the variations", s->end_means, V, V - 1,
                      e);
    if (!rc)
        rc = set_open(&p->set[PCA_POOLED], "pooled", "stored rows of all runs", s->pooled, s->n_pooled, s->n_pooled - 1,
                      e);
    if (rc)
        pca_close(p);
    return rc;
}

void pca_close(pca *p)
{
    for (int i = 0; i < PCA_SETS; i++) {
        free(p->set[i].lambda);
        free(p->set[i].vectors);
        free(p->set[i].scores);
    }
    memset(p, 0, sizeof *p);
}

static int within_runs(metrics *m, const sweep *s, err *e)
{
    int64_t T = s->T;
    double *G = malloc((size_t)(T * T + T) * sizeof *G), *lambda = G + T * T;
    int rc = G ? 0 : ERR(e, ERR_MEMORY, "no memory for the Gram matrix of %lld rows", (long long)T);
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        double *v = m->value + i * WM_COUNT;
        trajectory_position_gram(G, &s->runs[i].path, T);
        if ((rc = gram_eigen(lambda, NULL, G, T, 0, e)))
            break;
        for (int64_t k = 0; k < T; k++)
            lambda[k] /= (double)(T - 1);
        pca_set p = { .n = T, .lambda = lambda };
        pca_describe(&p);
        v[WM_TOTAL] = p.total;
        if (!(p.total > 0))
            continue;
        for (int k = 0; k < 3 && k < T; k++)
            v[WM_PC1 + k] = lambda[k] / p.total;
        v[WM_PARTICIPATION] = p.participation;
        v[WM_ENTROPY] = p.entropy;
        v[WM_DIMS_90] = (double)p.dims_90;
        v[WM_DIMS_95] = (double)p.dims_95;
        v[WM_DIMS_99] = (double)p.dims_99;
    }
    free(G);
    return rc;
}

/* Which run, variation and row a point of a set is. */
static void point_of(int64_t *run, int64_t *group, int64_t *row, const sweep *s, int set, int64_t i)
{
    *run = set == PCA_POOLED ? i / s->pooled_per_run : set == PCA_VARIATIONS ? -1 : i;
    *row = set == PCA_POOLED ? s->pooled_rows[i % s->pooled_per_run] : s->T - 1;
    *group = set == PCA_VARIATIONS ? i : s->runs[*run].group;
}

static int write_csv(const sweep *s, const pca *p, output *o, err *e)
{
    str t = STR_INIT;
    str_add(&t, "set,points,degrees_of_freedom,rank,total_variance,participation_ratio,spectral_dimensions,dims_90,"
                "dims_95,dims_99\n");
    for (int k = 0; k < PCA_SETS; k++) {
        const pca_set *q = &p->set[k];
        csv_text(&t, q->name);
        csv_int(&t, q->n);
        csv_int(&t, q->dof);
        csv_int(&t, q->rank);
        csv_number(&t, q->total);
        csv_number(&t, q->participation);
        csv_number(&t, q->entropy);
        csv_int(&t, q->dims_90);
        csv_int(&t, q->dims_95);
        csv_int(&t, q->dims_99);
        csv_end(&t);
    }
    int rc = output_write_str(o, "pca_sets.csv", &t, e);
    if (rc)
        return rc;
    str_add(&t, "set,component,variance,fraction,cumulative\n");
    for (int k = 0; k < PCA_SETS; k++) {
        const pca_set *q = &p->set[k];
        double sum = 0;
        for (int64_t i = 0; i < q->rank; i++) {
            sum += q->lambda[i];
            csv_text(&t, q->name);
            csv_int(&t, i + 1);
            csv_number(&t, q->lambda[i]);
            csv_number(&t, q->lambda[i] / q->total);
            csv_number(&t, fmin(1, sum / q->total));
            csv_end(&t);
        }
    }
    if ((rc = output_write_str(o, "pca_variance.csv", &t, e)))
        return rc;
    str_add(&t, "set,run,variation,slug,seed,step,sigma");
    for (int c = 0; c < PCA_SCORES; c++)
        str_addf(&t, ",pc%d", c + 1);
    csv_end(&t);
    for (int k = 0; k < PCA_SETS; k++)
        for (int64_t i = 0; i < p->set[k].n; i++) {
            int64_t run, group, row;
            point_of(&run, &group, &row, s, k, i);
            csv_text(&t, p->set[k].name);
            csv_text(&t, run < 0 ? "mean" : s->runs[run].run->id);
            csv_int(&t, s->groups[group].variation->number);
            csv_text(&t, s->groups[group].variation->slug);
            if (run < 0)
                csv_number(&t, NAN);
            else
                csv_int(&t, s->runs[run].run->seed);
            csv_int(&t, s->rows[row]);
            csv_number(&t, s->sigma[row]);
            for (int64_t c = 0; c < PCA_SCORES; c++)
                csv_number(&t, c < p->set[k].k ? p->set[k].scores[c * p->set[k].n + i] : NAN);
            csv_end(&t);
        }
    return output_write_str(o, "pca_scores.csv", &t, e);
}

static void set_json(json_writer *w, const sweep *s, const pca_set *q, int set)
{
    jw_object(w);
    jw_kstring(w, "set", q->name);
    jw_kstring(w, "what", q->what);
    jw_kint(w, "points", q->n);
    jw_kint(w, "degrees_of_freedom", q->dof);
    jw_kint(w, "rank", q->rank);
    jw_kdouble(w, "total_variance", q->total);
    jw_kdouble(w, "participation_ratio", q->participation);
    jw_kdouble(w, "spectral_dimensions", q->entropy);
    jw_kint(w, "dims_90", q->dims_90);
    jw_kint(w, "dims_95", q->dims_95);
    jw_kint(w, "dims_99", q->dims_99);
    jw_key(w, "variance");
    jw_array(w);
    for (int64_t i = 0; i < q->rank; i++)
        jw_double(w, q->lambda[i]);
    jw_end_array(w);
    jw_key(w, "points_in_components");
    jw_array(w);
    for (int64_t i = 0; i < q->n; i++) {
        int64_t run, group, row;
        point_of(&run, &group, &row, s, set, i);
        jw_object(w);
        jw_kstring(w, "run", run < 0 ? NULL : s->runs[run].run->id);
        jw_kint(w, "variation", s->groups[group].variation->number);
        jw_kint(w, "step", s->rows[row]);
        jw_key(w, "scores");
        jw_array(w);
        for (int64_t c = 0; c < q->k && c < q->rank; c++)
            jw_double(w, q->scores[c * q->n + i]);
        jw_end_array(w);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_end_object(w);
}

/* Unit vectors in latent space: component c is sum_i vectors[c][i] x_i / sqrt(eigenvalue of the Gram matrix). */
static int write_loadings(const sweep *s, const pca_set *q, output *o, int64_t loadings, err *e)
{
    int64_t k = loadings < q->k ? loadings : q->k;
    k = k < q->rank ? k : q->rank;
    if (k < 1)
        return 0;
    double *image = calloc((size_t)(k * s->elems), sizeof *image), *w = malloc((size_t)(k * q->n) * sizeof *w);
    int rc = image && w
                 ? 0
                 : ERR(e, ERR_MEMORY, "no memory for %lld loadings of %lld numbers", (long long)k, (long long)s->elems);
    for (int64_t c = 0; c < k && !rc; c++)
        for (int64_t i = 0; i < q->n; i++)
            w[c * q->n + i] = q->vectors[c * q->n + i] / sqrt(q->lambda[c] * (double)q->dof);
    if (!rc)
        rc = sweep_combine(image, s, w, k, e);
    if (!rc) {
        float *f = (float *)image; /* narrowed in place: element i of f never lies behind element i of image */
        for (int64_t i = 0; i < k * s->elems; i++) {
            float x = (float)image[i];
            memcpy(f + i, &x, sizeof x);
        }
        char *path = str_format("%s/pca_loadings.npy", o->dir);
        int64_t shape[5] = { k, s->C, s->F, s->H, s->W };
        rc = path ? npy_write_f32(path, f, shape, 5, e) : ERR(e, ERR_MEMORY, "no memory for a file name");
        free(path);
        o->n_files += !rc;
    }
    free(w);
    free(image);
    return rc;
}

int pca_report(const sweep *s, const pca *p, output *o, const char *batch_dir, int64_t loadings, err *e)
{
    metrics m;
    int rc = metrics_open(&m, WITHIN, WM_COUNT, s, e);
    if (rc)
        return rc;
    rc = within_runs(&m, s, e);
    if (!rc)
        rc = metrics_summarise(&m, o, e);
    if (!rc && o->csv)
        rc = metrics_write_csv(&m, o, "pca_within", e);
    if (!rc && o->csv)
        rc = write_csv(s, p, o, e);
    if (!rc && o->json) {
        str t = STR_INIT;
        json_writer w;
        jw_init(&w, &t, 1);
        output_json_head(&w, o, s, "pca", batch_dir);
        jw_kint(&w, "pooled_rows_per_run", s->pooled_per_run);
        jw_key(&w, "sets");
        jw_array(&w);
        for (int k = 0; k < PCA_SETS; k++)
            set_json(&w, s, &p->set[k], k);
        jw_end_array(&w);
        jw_key(&w, "within_runs");
        jw_object(&w);
        metrics_write_json(&w, &m);
        jw_end_object(&w);
        jw_end_object(&w);
        str_addc(&t, '\n');
        rc = output_write_str(o, "pca.json", &t, e);
    }
    if (!rc && loadings > 0)
        rc = write_loadings(s, &p->set[PCA_POOLED], o, loadings, e);
    if (!rc && o->plots != PLOTS_NONE)
        rc = plots_pca(s, p, o, e);
    if (!rc) {
        printf("\nprincipal components\n%-12s %7s %6s %15s %14s %8s %8s\n", "set", "points", "rank", "total variance",
               "participation", "PC1", "90 % at");
        for (int k = 0; k < PCA_SETS; k++) {
            const pca_set *q = &p->set[k];
            printf("%-12s %7lld %6lld %15.5g %14.4g %7.1f%% %8lld\n", q->name, (long long)q->n, (long long)q->rank,
                   q->total, q->participation, q->total > 0 ? 100 * q->lambda[0] / q->total : 0, (long long)q->dims_90);
        }
        const int64_t columns[] = { WM_PC1, WM_PARTICIPATION };
        metrics_print(&m, "\nwithin runs", columns, 2);
    }
    metrics_close(&m);
    return rc;
}
