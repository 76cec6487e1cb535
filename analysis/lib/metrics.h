/* metrics: a table of numbers, one row a run, with what every such table gets: means per variation with intervals over
 * seeds, and differences between variations paired by seed. */
#ifndef WANSCOPE_METRICS_H
#define WANSCOPE_METRICS_H

#include "analysis/lib/output.h"
#include "analysis/lib/stats.h"
#include "analysis/lib/sweep.h"

typedef struct metric_def {
    const char *name, *unit, *what;
} metric_def;

typedef struct metrics {
    const metric_def *defs;
    int64_t n_defs;
    const sweep *s;        /* borrowed */
    double *value;         /* [n_runs][n_defs]; NaN where it does not exist */
    stats_interval *group; /* [n_groups][n_defs] */
    int64_t n_pairs;
    int64_t *pair;        /* [n_pairs][2] groups a, b: differences are a - b */
    stats_paired *paired; /* [n_pairs][n_defs] */
    bool all_pairs;       /* false: only contrasts with the first variation, because there are many */
} metrics;

#define METRICS_ALL_PAIRS_UP_TO 40 /* variations */

int metrics_open(metrics *m, const metric_def *defs, int64_t n_defs, const sweep *s, err *e);
void metrics_close(metrics *m);                             /* harmless on a zeroed table */
int metrics_summarise(metrics *m, const output *o, err *e); /* fills group, pair and paired from value */

/* <prefix>_runs.csv, <prefix>_summary.csv, <prefix>_pairs.csv */
int metrics_write_csv(const metrics *m, output *o, const char *prefix, err *e);
/* members "metrics", "runs", "summary", "pairs" of an open object */
void metrics_write_json(json_writer *w, const metrics *m);
/* a short table for people on stdout; `columns` are indices into defs */
void metrics_print(const metrics *m, const char *title, const int64_t *columns, int64_t n_columns);

/* Seeds that two groups share: index[k][0] and index[k][1] are runs of a and b with the same seed. Returns how many. */
int64_t metrics_shared_seeds(int64_t (*index)[2], const sweep *s, int64_t a, int64_t b);
/* The pairs of groups that are compared; free() *pair. */
int metrics_pairs(int64_t **pair, int64_t *n, bool *all, const sweep *s, err *e);
/* An interval as JSON members of an open object / as CSV cells n, value, sd, lo, hi, method. */
void metrics_interval_json(json_writer *w, const stats_interval *v, const char *value_name);

#endif
