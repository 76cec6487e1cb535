#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "analysis/lib/plots.h"
#include "analysis/lib/trajectory.h"

static int write_profiles_csv(const sweep *s, const double *profiles, output *o, err *e)
{
    str t = STR_INIT;
    str_add(&t, "run,variation,slug,seed,step,sigma");
    for (int c = 0; c < PC_COUNT; c++)
        str_addf(&t, ",%s", PROFILE_COLUMNS[c].name);
    csv_end(&t);
    for (int64_t i = 0; i < s->n_runs; i++)
        for (int64_t r = 0; r < s->T; r++) {
            csv_text(&t, s->runs[i].run->id);
            csv_int(&t, s->groups[s->runs[i].group].variation->number);
            csv_text(&t, s->groups[s->runs[i].group].variation->slug);
            csv_int(&t, s->runs[i].run->seed);
            csv_int(&t, s->rows[r]);
            csv_number(&t, s->sigma[r]);
            for (int c = 0; c < PC_COUNT; c++)
                csv_number(&t, profiles[(i * s->T + r) * PC_COUNT + c]);
            csv_end(&t);
        }
    return output_write_str(o, "trajectory_profiles.csv", &t, e);
}

static int write_json(const sweep *s, const metrics *m, const double *profiles, output *o, const char *batch_dir,
                      err *e)
{
    str t = STR_INIT;
    json_writer w;
    jw_init(&w, &t, 1);
    output_json_head(&w, o, s, "trajectory", batch_dir);
    metrics_write_json(&w, m);
    jw_key(&w, "profile_columns");
    jw_array(&w);
    for (int c = 0; c < PC_COUNT; c++) {
        jw_object(&w);
        jw_kstring(&w, "name", PROFILE_COLUMNS[c].name);
        jw_kstring(&w, "unit", PROFILE_COLUMNS[c].unit);
        jw_kstring(&w, "what", PROFILE_COLUMNS[c].what);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_key(&w, "profiles");
    jw_array(&w);
    for (int64_t i = 0; i < s->n_runs; i++) {
        jw_object(&w);
        jw_kstring(&w, "run", s->runs[i].run->id);
        for (int c = 0; c < PC_COUNT; c++) {
            jw_key(&w, PROFILE_COLUMNS[c].name);
            jw_array(&w);
            for (int64_t r = 0; r < s->T; r++)
                jw_double(&w, profiles[(i * s->T + r) * PC_COUNT + c]);
            jw_end_array(&w);
        }
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_end_object(&w);
    str_addc(&t, '\n');
    return output_write_str(o, "trajectory.json", &t, e);
}

int trajectory_report(const sweep *s, output *o, const char *batch_dir, err *e)
{
    metrics m;
    int rc = metrics_open(&m, TRAJECTORY_METRICS, TM_COUNT, s, e);
    if (rc)
        return rc;
    double *profiles = malloc((size_t)(s->n_runs * s->T * PC_COUNT) * sizeof *profiles);
    if (!profiles)
        rc = ERR(e, ERR_MEMORY, "no memory for the profiles of %lld runs", (long long)s->n_runs);
    for (int64_t i = 0; i < s->n_runs && !rc; i++)
        rc = trajectory_of_path(m.value + i * TM_COUNT, profiles + i * s->T * PC_COUNT, &s->runs[i].path, s->rows,
                                s->sigma, s->T, e);
    if (!rc)
        rc = metrics_summarise(&m, o, e);
    if (!rc && o->csv)
        rc = metrics_write_csv(&m, o, "trajectory", e);
    if (!rc && o->csv)
        rc = write_profiles_csv(s, profiles, o, e);
    if (!rc && o->json)
        rc = write_json(s, &m, profiles, o, batch_dir, e);
    if (!rc && o->plots != PLOTS_NONE)
        rc = plots_trajectory(&m, profiles, o, e);
    if (!rc) {
        const int64_t columns[] = { TM_PATH_LENGTH, TM_TORTUOSITY, TM_STRAIGHTNESS_REL, TM_TURNING_TOTAL };
        metrics_print(&m, "trajectory", columns, 4);
    }
    free(profiles);
    metrics_close(&m);
    return rc;
}
