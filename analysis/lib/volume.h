/* volume: how much latent space a variation occupies: log-determinants, simplices, convex hulls. */
#ifndef WANSCOPE_VOLUME_H
#define WANSCOPE_VOLUME_H

#include "analysis/lib/metrics.h"
#include "analysis/lib/pca.h"

enum volume_metric {
    VM_LOG_VOLUME,
    VM_SIDE,
    VM_REGULARISED,
    VM_TOTAL_VARIANCE,
    VM_SIMPLEX,
    VM_AREA_2D,
    VM_PERIMETER_2D,
    VM_VOLUME_3D,
    VM_SURFACE_3D,
    VM_COUNT
};

#define VOLUME_PATH_RANK 8    /* default r of path volumes: beyond the first few, spectra of paths are smooth tails */

enum { VS_ENDS, VS_PATHS, VS_SETS }; /* results over seeds; all pooled rows */

extern const metric_def VOLUME_METRICS[VM_COUNT];

typedef struct volume_pair {
    stats_interval diff[VM_COUNT];
    double p, p_min, p_holm; /* label-swap test of the log-volume (results only), NaN elsewhere */
    bool exact;
} volume_pair;

typedef struct volume {
    int64_t rank[VS_SETS];   /* the r all variations share; 0: no volume of this set */
    double epsilon[VS_SETS]; /* of the regularised log-determinant */
    int64_t seeds;           /* seeds each variation contributes; larger ones are averaged over subsets */
    int64_t rank_runs;       /* r of the volume of single paths */
    double *gap;             /* [VS_SETS][groups] lambda_r / lambda_{r+1}; NaN when there is no r + 1 */
    stats_interval *value;   /* [VS_SETS][groups][VM_COUNT] */
    int64_t n_pairs;
    int64_t *pair;
    volume_pair *paired; /* [VS_SETS][n_pairs] */
} volume;

/* rank 0 chooses. */
int volume_open(volume *v, const sweep *s, const pca *p, int64_t rank, const output *o, err *e);
void volume_close(volume *v);
int volume_report(const sweep *s, const pca *p, output *o, const char *batch_dir, int64_t rank, err *e);

/* (exposed for tests) from a centred Gram matrix of m points, destroyed: lambda/(m-1) largest first -> r-dimensional
 * log-volume */
double volume_log(const double *lambda, int64_t m, int64_t r);
double volume_log_regularised(const double *lambda, int64_t m, double epsilon);
double volume_log_simplex(const double *lambda, int64_t m);

#endif
