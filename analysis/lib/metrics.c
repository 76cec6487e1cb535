#include "analysis/lib/metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int metrics_open(metrics *m, const metric_def *defs, int64_t n_defs, const sweep *s, err *e)
{
    memset(m, 0, sizeof *m);
    m->defs = defs;
    m->n_defs = n_defs;
    m->s = s;
    m->value = malloc((size_t)(s->n_runs * n_defs) * sizeof *m->value);
    m->group = calloc((size_t)(s->n_groups * n_defs), sizeof *m->group);
    if (!m->value || !m->group) {
        metrics_close(m);
        return ERR(e, ERR_MEMORY, "no memory for the metrics of %lld runs", (long long)s->n_runs);
    }
    for (int64_t i = 0; i < s->n_runs * n_defs; i++)
        m->value[i] = NAN;
    return 0;
}

void metrics_close(metrics *m)
{
    free(m->value);
    free(m->group);
    free(m->pair);
    free(m->paired);
    memset(m, 0, sizeof *m);
}

int64_t metrics_shared_seeds(int64_t (*index)[2], const sweep *s, int64_t a, int64_t b)
{
    const sweep_group *ga = &s->groups[a], *gb = &s->groups[b];
    int64_t n = 0, i = 0, j = 0;
    while (i < ga->n && j < gb->n) { /* seeds rise in both */
        int64_t x = s->runs[ga->first + i].run->seed, y = s->runs[gb->first + j].run->seed;
        if (x == y) {
            index[n][0] = ga->first + i;
            index[n][1] = gb->first + j;
            n++;
        }
        i += x <= y;
        j += y <= x;
    }
    return n;
}

int metrics_pairs(int64_t **pair, int64_t *n, bool *all, const sweep *s, err *e)
{
    int64_t v = s->n_groups, k = 0;
    *all = v <= METRICS_ALL_PAIRS_UP_TO;
    *n = *all ? v * (v - 1) / 2 : v - 1;
    *pair = malloc((size_t)(2 * *n + 1) * sizeof **pair);
    if (!*pair)
        return ERR(e, ERR_MEMORY, "no memory for the pairs of %lld variations", (long long)v);
    for (int64_t a = 0; a < (*all ? v : 1); a++)
        for (int64_t b = a + 1; b < v; b++) {
            (*pair)[2 * k] = b; /* later minus earlier: the first variation is the natural baseline */
            (*pair)[2 * k++ + 1] = a;
        }
    return 0;
}

int metrics_summarise(metrics *m, const output *o, err *e)
{
    const sweep *s = m->s;
    int64_t d = m->n_defs, most = s->n_runs + 1;
    double *x = malloc((size_t)(2 * most) * sizeof *x), *y = x + most;
    int64_t (*index)[2] = malloc((size_t)most * sizeof *index);
    double *p = NULL, *adjusted = NULL;
    int rc = x && index ? metrics_pairs(&m->pair, &m->n_pairs, &m->all_pairs, s, e)
                        : ERR(e, ERR_MEMORY, "no memory for intervals");
    if (rc)
        goto out;
    m->paired = calloc((size_t)(m->n_pairs * d + 1), sizeof *m->paired);
    p = malloc((size_t)(2 * m->n_pairs + 2) * sizeof *p);
    if (!m->paired || !p) {
        rc = ERR(e, ERR_MEMORY, "no memory for the comparison of %lld pairs of variations", (long long)m->n_pairs);
        goto out;
    }
    adjusted = p + m->n_pairs + 1;
    for (int64_t k = 0; k < d; k++) {
        for (int64_t g = 0; g < s->n_groups; g++) {
            for (int64_t i = 0; i < s->groups[g].n; i++)
                x[i] = m->value[(s->groups[g].first + i) * d + k];
            m->group[g * d + k] = stats_mean_interval(x, s->groups[g].n, o->resamples, o->seed);
        }
        for (int64_t q = 0; q < m->n_pairs; q++) {
            int64_t n = metrics_shared_seeds(index, s, m->pair[2 * q], m->pair[2 * q + 1]);
            for (int64_t i = 0; i < n; i++) {
                x[i] = m->value[index[i][0] * d + k];
                y[i] = m->value[index[i][1] * d + k];
            }
            m->paired[q * d + k] = stats_compare_paired(x, y, n, o->resamples, o->seed);
            p[q] = m->paired[q * d + k].p;
        }
        stats_holm(adjusted, p, m->n_pairs);
        for (int64_t q = 0; q < m->n_pairs; q++)
            m->paired[q * d + k].p_holm = adjusted[q];
    }
out:
    free(p);
    free(index);
    free(x);
    return rc;
}

static void interval_csv(str *s, const stats_interval *v)
{
    csv_int(s, v->n);
    csv_number(s, v->mean);
    csv_number(s, v->sd);
    csv_number(s, v->lo);
    csv_number(s, v->hi);
    csv_text(s, stats_ci_name(v->method));
}

/* A table by shot says which, from 0, behind the seed or the slug. */
static bool by_shot(const metrics *m)
{
    return m->s->n_groups > 0 && m->s->groups[0].shot > 0;
}

static int write_runs(const metrics *m, output *o, const char *name, err *e)
{
    str s = STR_INIT;
    str_addf(&s, "run,variation,slug,seed%s", by_shot(m) ? ",shot" : "");
    for (int64_t k = 0; k < m->n_defs; k++)
        str_addf(&s, ",%s", m->defs[k].name);
    csv_end(&s);
    for (int64_t i = 0; i < m->s->n_runs; i++) {
        const sweep_run *r = &m->s->runs[i];
        const batch_variation *v = m->s->groups[r->group].variation;
        csv_text(&s, r->run->id);
        csv_int(&s, v->number);
        csv_text(&s, v->slug);
        csv_int(&s, r->run->seed);
        if (by_shot(m))
            csv_int(&s, m->s->groups[r->group].shot - 1);
        for (int64_t k = 0; k < m->n_defs; k++)
            csv_number(&s, m->value[i * m->n_defs + k]);
        csv_end(&s);
    }
    return output_write_str(o, name, &s, e);
}

static int write_summary(const metrics *m, output *o, const char *name, err *e)
{
    str s = STR_INIT;
    str_addf(&s, "variation,slug,%smetric,unit,n,mean,sd,ci_low,ci_high,ci_method,min,max\n", by_shot(m) ? "shot," : "");
    for (int64_t g = 0; g < m->s->n_groups; g++)
        for (int64_t k = 0; k < m->n_defs; k++) {
            const stats_interval *v = &m->group[g * m->n_defs + k];
            csv_int(&s, m->s->groups[g].variation->number);
            csv_text(&s, m->s->groups[g].variation->slug);
            if (by_shot(m))
                csv_int(&s, m->s->groups[g].shot - 1);
            csv_text(&s, m->defs[k].name);
            csv_text(&s, m->defs[k].unit);
            interval_csv(&s, v);
            csv_number(&s, v->min);
            csv_number(&s, v->max);
            csv_end(&s);
        }
    return output_write_str(o, name, &s, e);
}

static int write_pairs(const metrics *m, output *o, const char *name, err *e)
{
    str s = STR_INIT;
    str_addf(&s, "variation_a,slug_a,%svariation_b,slug_b,%smetric,unit,n,mean_a_minus_b,sd,ci_low,ci_high,ci_method,dz,p,p_min,p_holm,p_method\n",
             by_shot(m) ? "shot_a," : "", by_shot(m) ? "shot_b," : "");
    for (int64_t q = 0; q < m->n_pairs; q++)
        for (int64_t k = 0; k < m->n_defs; k++) {
            const stats_paired *v = &m->paired[q * m->n_defs + k];
            for (int side = 0; side < 2; side++) {
                const sweep_group *b = &m->s->groups[m->pair[2 * q + side]];
                csv_int(&s, b->variation->number);
                csv_text(&s, b->variation->slug);
                if (b->shot)
                    csv_int(&s, b->shot - 1);
            }
            csv_text(&s, m->defs[k].name);
            csv_text(&s, m->defs[k].unit);
            interval_csv(&s, &v->diff);
            csv_number(&s, v->dz);
            csv_number(&s, v->p);
            csv_number(&s, v->p_min);
            csv_number(&s, v->p_holm);
            csv_text(&s, v->exact ? "exact sign flips" : "random sign flips");
            csv_end(&s);
        }
    return output_write_str(o, name, &s, e);
}

int metrics_write_csv(const metrics *m, output *o, const char *prefix, err *e)
{
    char name[200];
    snprintf(name, sizeof name, "%s_runs.csv", prefix);
    int rc = write_runs(m, o, name, e);
    snprintf(name, sizeof name, "%s_summary.csv", prefix);
    if (!rc)
        rc = write_summary(m, o, name, e);
    snprintf(name, sizeof name, "%s_pairs.csv", prefix);
    if (!rc)
        rc = write_pairs(m, o, name, e);
    return rc;
}

void metrics_interval_json(json_writer *w, const stats_interval *v, const char *value_name)
{
    jw_kint(w, "n", v->n);
    jw_kdouble(w, value_name, v->mean);
    jw_kdouble(w, v->method == CI_JACKKNIFE ? "standard_error" : "sd", v->sd);
    jw_kdouble(w, "ci_low", v->lo);
    jw_kdouble(w, "ci_high", v->hi);
    jw_kstring(w, "ci_method", stats_ci_name(v->method));
}

void metrics_write_json(json_writer *w, const metrics *m)
{
    jw_key(w, "metrics");
    jw_array(w);
    for (int64_t k = 0; k < m->n_defs; k++) {
        jw_object(w);
        jw_kstring(w, "name", m->defs[k].name);
        jw_kstring(w, "unit", m->defs[k].unit);
        jw_kstring(w, "what", m->defs[k].what);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_key(w, "runs");
    jw_array(w);
    for (int64_t i = 0; i < m->s->n_runs; i++) {
        const sweep_run *r = &m->s->runs[i];
        jw_object(w);
        jw_kstring(w, "run", r->run->id);
        jw_kint(w, "variation", m->s->groups[r->group].variation->number);
        jw_kint(w, "seed", r->run->seed);
        if (by_shot(m))
            jw_kint(w, "shot", m->s->groups[r->group].shot - 1);
        for (int64_t k = 0; k < m->n_defs; k++)
            jw_kdouble(w, m->defs[k].name, m->value[i * m->n_defs + k]);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_key(w, "summary");
    jw_array(w);
    for (int64_t g = 0; g < m->s->n_groups; g++)
        for (int64_t k = 0; k < m->n_defs; k++) {
            const stats_interval *v = &m->group[g * m->n_defs + k];
            jw_object(w);
            jw_kint(w, "variation", m->s->groups[g].variation->number);
            if (by_shot(m))
                jw_kint(w, "shot", m->s->groups[g].shot - 1);
            jw_kstring(w, "metric", m->defs[k].name);
            metrics_interval_json(w, v, "mean");
            jw_kdouble(w, "min", v->min);
            jw_kdouble(w, "max", v->max);
            jw_end_object(w);
        }
    jw_end_array(w);
    jw_kstring(w, "pairs_compared", m->all_pairs ? "all pairs of variations" : "each variation with the first");
    jw_key(w, "pairs");
    jw_array(w);
    for (int64_t q = 0; q < m->n_pairs; q++)
        for (int64_t k = 0; k < m->n_defs; k++) {
            const stats_paired *v = &m->paired[q * m->n_defs + k];
            jw_object(w);
            jw_kint(w, "a", m->s->groups[m->pair[2 * q]].variation->number);
            jw_kint(w, "b", m->s->groups[m->pair[2 * q + 1]].variation->number);
            if (by_shot(m)) {
                jw_kint(w, "shot_a", m->s->groups[m->pair[2 * q]].shot - 1);
                jw_kint(w, "shot_b", m->s->groups[m->pair[2 * q + 1]].shot - 1);
            }
            jw_kstring(w, "metric", m->defs[k].name);
            metrics_interval_json(w, &v->diff, "mean_a_minus_b");
            jw_kdouble(w, "dz", v->dz);
            jw_kdouble(w, "p", v->p);
            jw_kdouble(w, "p_min", v->p_min);
            jw_kdouble(w, "p_holm", v->p_holm);
            jw_kbool(w, "p_exact", v->exact);
            jw_end_object(w);
        }
    jw_end_array(w);
}

void metrics_print(const metrics *m, const char *title, const int64_t *columns, int64_t n_columns)
{
    bool few = false;
    printf("%s: mean over seeds [95 %% interval]\n%-28s %5s", title, "variation", "seeds");
    for (int64_t c = 0; c < n_columns; c++)
        printf("  %-30s", m->defs[columns[c]].name);
    printf("\n");
    for (int64_t g = 0; g < m->s->n_groups; g++) {
        const sweep_group *v = &m->s->groups[g];
        if (v->shot)
            printf("%04lld %-15.15s shot %-2lld %5lld", (long long)v->variation->number, v->variation->slug, (long long)v->shot - 1, (long long)v->n);
        else
            printf("%04lld %-23.23s %5lld", (long long)v->variation->number, v->variation->slug, (long long)v->n);
        few |= v->n < 5;
        for (int64_t c = 0; c < n_columns; c++) {
            const stats_interval *i = &m->group[g * m->n_defs + columns[c]];
            char cell[80];
            if (!isfinite(i->mean))
                snprintf(cell, sizeof cell, "-");
            else if (i->method == CI_NONE)
                snprintf(cell, sizeof cell, "%.4g", i->mean);
            else
                snprintf(cell, sizeof cell, "%.4g [%.4g, %.4g]", i->mean, i->lo, i->hi);
            printf("  %-30s", cell);
        }
        printf("\n");
    }
    if (few)
        printf("Fewer than five seeds: t-intervals, which assume normal values; take them as a rough guide.\n");
}
