#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "analysis/lib/linalg.h"
#include "analysis/lib/plots.h"
#include "analysis/lib/trajectory.h"
#include "analysis/lib/volume.h"


enum { RM_LOG_VOLUME, RM_SIDE, RM_TOTAL, RM_COUNT };

static const metric_def SINGLE[RM_COUNT] = {
    { "path_log_volume", "ln(latent units^r)",
      "half the sum of the logs of the r largest eigenvalues of one path's covariance over time" },
    { "path_effective_side", "latent units", "exp(path_log_volume / r)" },
    { "path_total_variance", "latent units^2", "variance of the stored rows around their mean (n-1)" },
};

static const char *const SET_NAMES[VS_SETS] = { "ends", "paths" };

/* Volume of each single path, so that seeds can be paired; r is what every path of the batch has. */
static int single_paths(metrics *m, volume *v, const sweep *s, int64_t wanted, err *e)
{
    int64_t T = s->T;
    double *G = malloc((size_t)(T * T) * sizeof *G), *lambda = malloc((size_t)(s->n_runs * T) * sizeof *lambda);
    int rc = G && lambda ? 0 : ERR(e, ERR_MEMORY, "no memory for the spectra of %lld runs", (long long)s->n_runs);
    v->rank_runs = wanted ? wanted : VOLUME_PATH_RANK;
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        double *l = lambda + i * T;
        trajectory_position_gram(G, &s->runs[i].path, T);
        rc = gram_eigen(l, NULL, G, T, 0, e);
        int64_t rank = rc ? 0 : spectrum_rank(l, T);
        rank = rank > T - 1 ? T - 1 : rank;
        v->rank_runs = rank < v->rank_runs ? rank : v->rank_runs;
        for (int64_t k = 0; k < T && !rc; k++)
            l[k] /= (double)(T - 1);
    }
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        double *x = m->value + i * RM_COUNT, *l = lambda + i * T;
        x[RM_LOG_VOLUME] = volume_log(l, T, v->rank_runs);
        x[RM_SIDE] = exp(x[RM_LOG_VOLUME] / (double)(v->rank_runs ? v->rank_runs : 1));
        x[RM_TOTAL] = 0;
        for (int64_t k = 0; k < T; k++)
            x[RM_TOTAL] += l[k];
    }
    free(lambda);
    free(G);
    return rc;
}

static int write_csv(const sweep *s, const volume *v, output *o, err *e)
{
    str t = STR_INIT;
    str_add(&t, "set,variation,slug,seeds,seeds_used,rank,epsilon,gap,metric,unit,value,standard_error,ci_low,ci_high,"
                "ci_method\n");
    for (int set = 0; set < VS_SETS; set++)
        for (int64_t g = 0; g < s->n_groups; g++)
            for (int k = 0; k < VM_COUNT; k++) {
                const stats_interval *x = &v->value[(set * s->n_groups + g) * VM_COUNT + k];
                if (set == VS_PATHS && k == VM_SIMPLEX)
                    continue;
                csv_text(&t, SET_NAMES[set]);
                csv_int(&t, s->groups[g].variation->number);
                csv_text(&t, s->groups[g].variation->slug);
                csv_int(&t, s->groups[g].n);
                csv_int(&t, v->seeds);
                csv_int(&t, v->rank[set]);
                csv_number(&t, v->epsilon[set]);
                csv_number(&t, v->gap[set * s->n_groups + g]);
                csv_text(&t, VOLUME_METRICS[k].name);
                csv_text(&t, VOLUME_METRICS[k].unit);
                csv_number(&t, x->mean);
                csv_number(&t, x->sd);
                csv_number(&t, x->lo);
                csv_number(&t, x->hi);
                csv_text(&t, stats_ci_name(x->method));
                csv_end(&t);
            }
    int rc = output_write_str(o, "volume_variations.csv", &t, e);
    if (rc)
        return rc;
    str_add(&t, "set,variation_a,slug_a,variation_b,slug_b,metric,a_minus_b,standard_error,ci_low,ci_high,ci_method,p,"
                "p_min,p_holm,p_method\n");
    for (int set = 0; set < VS_SETS; set++)
        for (int64_t q = 0; q < v->n_pairs; q++)
            for (int k = 0; k < VM_COUNT; k++) {
                const volume_pair *x = &v->paired[set * v->n_pairs + q];
                bool tested = k == VM_LOG_VOLUME && isfinite(x->p);
                if (set == VS_PATHS && k == VM_SIMPLEX)
                    continue;
                csv_text(&t, SET_NAMES[set]);
                for (int side = 0; side < 2; side++) {
                    csv_int(&t, s->groups[v->pair[2 * q + side]].variation->number);
                    csv_text(&t, s->groups[v->pair[2 * q + side]].variation->slug);
                }
                csv_text(&t, VOLUME_METRICS[k].name);
                csv_number(&t, x->diff[k].mean);
                csv_number(&t, x->diff[k].sd);
                csv_number(&t, x->diff[k].lo);
                csv_number(&t, x->diff[k].hi);
                csv_text(&t, stats_ci_name(x->diff[k].method));
                csv_number(&t, tested ? x->p : NAN);
                csv_number(&t, tested ? x->p_min : NAN);
                csv_number(&t, tested ? x->p_holm : NAN);
                csv_text(&t, !tested ? "none" : x->exact ? "exact label swaps" : "random label swaps");
                csv_end(&t);
            }
    return output_write_str(o, "volume_variation_pairs.csv", &t, e);
}

static void values_json(json_writer *w, const sweep *s, const volume *v, int set)
{
    for (int64_t g = 0; g < s->n_groups; g++)
        for (int k = 0; k < VM_COUNT; k++) {
            if (set == VS_PATHS && k == VM_SIMPLEX)
                continue;
            jw_object(w);
            jw_kint(w, "variation", s->groups[g].variation->number);
            jw_kdouble(w, "gap", v->gap[set * s->n_groups + g]);
            jw_kstring(w, "metric", VOLUME_METRICS[k].name);
            metrics_interval_json(w, &v->value[(set * s->n_groups + g) * VM_COUNT + k], "value");
            jw_end_object(w);
        }
}

static void pairs_json(json_writer *w, const sweep *s, const volume *v, int set)
{
    for (int64_t q = 0; q < v->n_pairs; q++)
        for (int k = 0; k < VM_COUNT; k++) {
            const volume_pair *x = &v->paired[set * v->n_pairs + q];
            if (set == VS_PATHS && k == VM_SIMPLEX)
                continue;
            jw_object(w);
            jw_kint(w, "a", s->groups[v->pair[2 * q]].variation->number);
            jw_kint(w, "b", s->groups[v->pair[2 * q + 1]].variation->number);
            jw_kstring(w, "metric", VOLUME_METRICS[k].name);
            metrics_interval_json(w, &x->diff[k], "a_minus_b");
            if (k == VM_LOG_VOLUME) {
                jw_kdouble(w, "p", x->p);
                jw_kdouble(w, "p_min", x->p_min);
                jw_kdouble(w, "p_holm", x->p_holm);
                jw_kbool(w, "p_exact", x->exact);
            }
            jw_end_object(w);
        }
}

static int write_json(const sweep *s, const volume *v, const metrics *m, output *o, const char *batch_dir, err *e)
{
    str t = STR_INIT;
    json_writer w;
    jw_init(&w, &t, 1);
    output_json_head(&w, o, s, "volume", batch_dir);
    jw_kint(&w, "seeds_used", v->seeds);
    jw_kint(&w, "pooled_rows_per_run", s->pooled_per_run);
    jw_key(&w, "sets");
    jw_array(&w);
    for (int set = 0; set < VS_SETS; set++) {
        jw_object(&w);
        jw_kstring(&w, "set", SET_NAMES[set]);
        jw_kint(&w, "rank", v->rank[set]);
        jw_kdouble(&w, "epsilon", v->epsilon[set]);
        jw_key(&w, "values");
        jw_array(&w);
        values_json(&w, s, v, set);
        jw_end_array(&w);
        jw_key(&w, "pairs");
        jw_array(&w);
        pairs_json(&w, s, v, set);
        jw_end_array(&w);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "single_paths");
    jw_object(&w);
    jw_kint(&w, "rank", v->rank_runs);
    metrics_write_json(&w, m);
    jw_end_object(&w);
    jw_end_object(&w);
    str_addc(&t, '\n');
    return output_write_str(o, "volume.json", &t, e);
}

static void print_table(const sweep *s, const volume *v)
{
    printf("\nvolume of the results over seeds (r = %lld) and of the paths (r = %lld), %lld seeds a variation\n%-28s "
           "%-28s %14s %14s %-28s\n",
           (long long)v->rank[VS_ENDS], (long long)v->rank[VS_PATHS], (long long)v->seeds, "variation",
           "log-volume, results", "side, results", "hull 2-d", "log-volume, paths");
    for (int64_t g = 0; g < s->n_groups; g++) {
        const stats_interval *ends = &v->value[g * VM_COUNT], *paths = &v->value[(s->n_groups + g) * VM_COUNT];
        printf("%04lld %-23.23s", (long long)s->groups[g].variation->number, s->groups[g].variation->slug);
        for (int set = 0; set < VS_SETS; set++) {
            const stats_interval *x = set ? &paths[VM_LOG_VOLUME] : &ends[VM_LOG_VOLUME];
            char cell[80] = "-";
            if (isfinite(x->mean) && isfinite(x->lo))
                snprintf(cell, sizeof cell, "%.4g [%.4g, %.4g]", x->mean, x->lo, x->hi);
            else if (isfinite(x->mean))
                snprintf(cell, sizeof cell, "%.4g", x->mean);
            printf(" %-28s", cell);
            if (!set) {
                isfinite(ends[VM_SIDE].mean) ? printf(" %14.4g", ends[VM_SIDE].mean) : printf(" %14s", "-");
                isfinite(ends[VM_AREA_2D].mean) ? printf(" %14.4g", ends[VM_AREA_2D].mean) : printf(" %14s", "-");
            }
        }
        printf("\n");
    }
    if (v->seeds < 3)
        printf("Fewer than three seeds a variation: volumes have no interval and say little.\n");
}

int volume_report(const sweep *s, const pca *p, output *o, const char *batch_dir, int64_t rank, err *e)
{
    volume v;
    metrics m;
    int rc = volume_open(&v, s, p, rank, o, e);
    if (rc)
        return rc;
    rc = metrics_open(&m, SINGLE, RM_COUNT, s, e);
    if (!rc)
        rc = single_paths(&m, &v, s, rank, e);
    if (!rc)
        rc = metrics_summarise(&m, o, e);
    if (!rc && o->csv)
        rc = metrics_write_csv(&m, o, "volume_single_paths", e);
    if (!rc && o->csv)
        rc = write_csv(s, &v, o, e);
    if (!rc && o->json)
        rc = write_json(s, &v, &m, o, batch_dir, e);
    if (!rc && o->plots != PLOTS_NONE)
        rc = plots_volume(s, &v, o, e);
    if (!rc)
        print_table(s, &v);
    metrics_close(&m);
    volume_close(&v);
    return rc;
}
