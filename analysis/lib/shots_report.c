#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/shots.h"
#include "analysis/lib/trajectory.h"
#include "core/base/log.h"

enum { MEMORY = 256 << 20 }; /* bytes of rows held at once */

/* A sweep whose runs are the shots: groups are a variation's shots, so that seeds pair up between shots too. */
typedef struct shot_sweep {
    sweep s;
    sweep_run *runs;
    sweep_group *groups;
} shot_sweep;

static void shot_sweep_close(shot_sweep *x)
{
    free(x->runs);
    free(x->groups);
}

static int shot_sweep_open(shot_sweep *x, const sweep *s, int64_t n_shots, err *e)
{
    x->s = *s;
    x->runs = calloc((size_t)(s->n_runs * n_shots) + 1, sizeof *x->runs);
    x->groups = calloc((size_t)(s->n_groups * n_shots) + 1, sizeof *x->groups);
    if (!x->runs || !x->groups)
        return ERR(e, ERR_MEMORY, "no memory for the shots of %lld runs", (long long)s->n_runs);
    int64_t at = 0;
    for (int64_t g = 0; g < s->n_groups; g++)
        for (int64_t k = 0; k < n_shots; k++) {
            x->groups[g * n_shots + k] = (sweep_group){ s->groups[g].variation, at, s->groups[g].n, k + 1 };
            for (int64_t i = 0; i < s->groups[g].n; i++)
                x->runs[at++] = (sweep_run){ .run = s->runs[s->groups[g].first + i].run, .group = g * n_shots + k };
        }
    x->s.runs = x->runs;
    x->s.groups = x->groups;
    x->s.n_runs = s->n_runs * n_shots;
    x->s.n_groups = s->n_groups * n_shots;
    return 0;
}

/* Row of run i's shot k in the tables of the shot_sweep. */
static int64_t row_of(const sweep *s, int64_t n_shots, int64_t i, int64_t k)
{
    const sweep_group *g = &s->groups[s->runs[i].group];
    return n_shots * g->first + k * g->n + (i - g->first);
}

static int write_pairs_csv(const sweep *s, const shot_paths *paths, output *o, err *e)
{
    str t = STR_INIT;
    str_add(&t, "run,variation,slug,seed,shot_a,shot_b,matched_frames");
    for (int k = 0; k < SM_COUNT; k++)
        str_addf(&t, ",%s", SHOT_METRICS[k].name);
    csv_end(&t);
    for (int64_t i = 0; i < s->n_runs; i++)
        for (int64_t q = 0; q < paths[i].n_pairs; q++) {
            const shot_pair *p = &paths[i].pairs[q];
            csv_text(&t, s->runs[i].run->id);
            csv_int(&t, s->groups[s->runs[i].group].variation->number);
            csv_text(&t, s->groups[s->runs[i].group].variation->slug);
            csv_int(&t, s->runs[i].run->seed);
            csv_int(&t, p->a);
            csv_int(&t, p->b);
            csv_int(&t, p->matched);
            for (int k = 0; k < SM_COUNT; k++)
                csv_number(&t, p->value[k]);
            csv_end(&t);
        }
    return output_write_str(o, "shots_between.csv", &t, e);
}

static int write_profiles_csv(const sweep *s, const shot_paths *paths, output *o, err *e)
{
    str t = STR_INIT;
    str_add(&t, "run,variation,seed,shot_a,shot_b,step,sigma,centroid_distance,path_distance\n");
    for (int64_t i = 0; i < s->n_runs; i++)
        for (int64_t q = 0; q < paths[i].n_pairs; q++)
            for (int64_t r = 0; r < s->T; r++) {
                const shot_pair *p = &paths[i].pairs[q];
                csv_text(&t, s->runs[i].run->id);
                csv_int(&t, s->groups[s->runs[i].group].variation->number);
                csv_int(&t, s->runs[i].run->seed);
                csv_int(&t, p->a);
                csv_int(&t, p->b);
                csv_int(&t, s->rows[r]);
                csv_number(&t, s->sigma[r]);
                csv_number(&t, p->centroid[r]);
                csv_number(&t, p->path[r]);
                csv_end(&t);
            }
    return output_write_str(o, "shots_profiles.csv", &t, e);
}

static void pairs_json(json_writer *w, const sweep *s, const shot_paths *paths)
{
    jw_key(w, "between_shots");
    jw_array(w);
    for (int64_t i = 0; i < s->n_runs; i++)
        for (int64_t q = 0; q < paths[i].n_pairs; q++) {
            const shot_pair *p = &paths[i].pairs[q];
            jw_object(w);
            jw_kstring(w, "run", s->runs[i].run->id);
            jw_kint(w, "shot_a", p->a);
            jw_kint(w, "shot_b", p->b);
            jw_kint(w, "matched_frames", p->matched);
            for (int k = 0; k < SM_COUNT; k++)
                jw_kdouble(w, SHOT_METRICS[k].name, p->value[k]);
            const struct { const char *name; const double *v; } rows[] = { { "centroid_distance_by_row", p->centroid }, { "path_distance_by_row", p->path } };
            for (int k = 0; k < 2; k++) {
                jw_key(w, rows[k].name);
                jw_array(w);
                for (int64_t r = 0; r < s->T; r++)
                    jw_double(w, rows[k].v[r]);
                jw_end_array(w);
            }
            jw_end_object(w);
        }
    jw_end_array(w);
}

static int write_json(const sweep *s, const metrics *each, const metrics *between, const shot_paths *paths, output *o, const char *batch_dir, err *e)
{
    str t = STR_INIT;
    json_writer w;
    jw_init(&w, &t, 1);
    output_json_head(&w, o, s, "trajectory --by shot", batch_dir);
    jw_key(&w, "latent_frames");
    jw_array(&w);
    for (int64_t k = 0; k < paths[0].n_shots; k++)
        jw_int(&w, paths[0].frames[k]);
    jw_end_array(&w);
    jw_key(&w, "shots");
    jw_object(&w);
    metrics_write_json(&w, each);
    jw_end_object(&w);
    jw_key(&w, "consistency");
    jw_object(&w);
    metrics_write_json(&w, between);
    jw_end_object(&w);
    pairs_json(&w, s, paths);
    jw_end_object(&w);
    str_addc(&t, '\n');
    return output_write_str(o, "shots.json", &t, e);
}

/* Reads every run; all must have the same shots. */
static int read_all(shot_paths *paths, const sweep *s, err *e)
{
    int rc = 0;
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        rc = shot_paths_read(&paths[i], s, s->runs[i].run->trace, MEMORY, e);
        bool same = !rc && paths[i].n_shots == paths[0].n_shots &&
                    !memcmp(paths[i].frames, paths[0].frames, (size_t)paths[0].n_shots * sizeof *paths[0].frames);
        if (!rc && !same)
            rc = ERR(e, ERR_ARG, "%s: its shots begin elsewhere than those of run %s: --by shot compares videos with the same cuts", s->runs[i].run->trace,
                     s->runs[0].run->id);
    }
    return rc;
}

static int fill(metrics *each, metrics *between, double *profile, const shot_paths *paths, const sweep *s, err *e)
{
    int rc = 0;
    int64_t n = paths[0].n_shots;
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        for (int64_t k = 0; k < n && !rc; k++)
            rc = trajectory_of_path(each->value + row_of(s, n, i, k) * TM_COUNT, profile, &paths[i].path[k], s->rows, s->sigma, s->T, e);
        for (int m = 0; m < SM_COUNT; m++) {
            double sum = 0;
            int64_t found = 0;
            for (int64_t q = 0; q < paths[i].n_pairs; q++)
                if (isfinite(paths[i].pairs[q].value[m])) {
                    sum += paths[i].pairs[q].value[m];
                    found++;
                }
            between->value[i * SM_COUNT + m] = found ? sum / (double)found : NAN;
        }
    }
    return rc;
}

int shots_report(const sweep *s, output *o, const char *batch_dir, err *e)
{
    metrics each = { 0 }, between = { 0 };
    shot_sweep by = { 0 };
    shot_paths *paths = calloc((size_t)s->n_runs + 1, sizeof *paths);
    double *profile = malloc((size_t)(s->T * PC_COUNT) * sizeof *profile);
    int rc = paths && profile ? read_all(paths, s, e) : ERR(e, ERR_MEMORY, "no memory for the shots of %lld runs", (long long)s->n_runs);
    if (!rc)
        rc = shot_sweep_open(&by, s, paths[0].n_shots, e);
    if (!rc)
        rc = metrics_open(&each, TRAJECTORY_METRICS, TM_COUNT, &by.s, e);
    if (!rc)
        rc = metrics_open(&between, SHOT_METRICS, SM_COUNT, s, e);
    if (!rc)
        rc = fill(&each, &between, profile, paths, s, e);
    if (!rc)
        rc = metrics_summarise(&each, o, e);
    if (!rc)
        rc = metrics_summarise(&between, o, e);
    if (!rc && o->csv && !(rc = metrics_write_csv(&each, o, "shots", e)) && !(rc = metrics_write_csv(&between, o, "shots_consistency", e)) &&
        !(rc = write_pairs_csv(s, paths, o, e)))
        rc = write_profiles_csv(s, paths, o, e);
    if (!rc && o->json)
        rc = write_json(s, &each, &between, paths, o, batch_dir, e);
    if (!rc) {
        const int64_t columns[] = { TM_PATH_LENGTH, TM_TORTUOSITY, TM_STRAIGHTNESS_REL, TM_TURNING_TOTAL };
        const int64_t across[] = { SM_CENTROID_DISTANCE, SM_CENTROID_COSINE, SM_PATH_DISTANCE_END, SM_PATH_ALIGNMENT };
        metrics_print(&each, "shots", columns, 4);
        metrics_print(&between, "between shots", across, 4);
    }
    metrics_close(&each);
    metrics_close(&between);
    shot_sweep_close(&by);
    for (int64_t i = 0; paths && i < s->n_runs; i++)
        shot_paths_close(&paths[i], s->T);
    free(paths);
    free(profile);
    return rc;
}
