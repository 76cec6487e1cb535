/* trajectory: the geometry of each denoising path, from the sums of one pass (sweep.h). docs/analysis.md has the
 * formulas. */
#ifndef WANSCOPE_TRAJECTORY_H
#define WANSCOPE_TRAJECTORY_H

#include "analysis/lib/metrics.h"
#include "analysis/lib/sweep.h"

enum trajectory_metric {
    TM_PATH_LENGTH,
    TM_ENDPOINT_DISTANCE,
    TM_TORTUOSITY,
    TM_LINEARITY,
    TM_STRAIGHTNESS,
    TM_STRAIGHTNESS_REL,
    TM_CHORD_MAX,
    TM_CHORD_MAX_REL,
    TM_CHORD_MEAN_REL,
    TM_TURNING_TOTAL,
    TM_TURNING_MEAN,
    TM_ALIGNMENT,
    TM_CURVATURE_MEAN,
    TM_CURVATURE_MAX,
    TM_HALF_STEP,
    TM_HALF_SIGMA,
    TM_PC1,
    TM_SIGMA_FIT,
    TM_SPEED_MEAN,
    TM_SPEED_SD,
    TM_VELOCITY_MEAN,
    TM_VELOCITY_CV,
    TM_ACCELERATION_MEAN,
    TM_COUNT
};

enum profile_column {
    PC_SPEED,
    PC_VELOCITY,
    PC_ARC,
    PC_ACCELERATION,
    PC_TURNING,
    PC_CURVATURE,
    PC_CHORD,
    PC_CHORD_REL,
    PC_FROM_START,
    PC_TO_END,
    PC_COUNT
};

extern const metric_def TRAJECTORY_METRICS[TM_COUNT];
extern const metric_def PROFILE_COLUMNS[PC_COUNT];

/* value[TM_COUNT], profile[T][PC_COUNT]; NaN where something does not exist (a turn needs three rows that differ). */
int trajectory_of_path(double *value, double *profile, const path_sums *p, const int32_t *rows, const double *sigma,
                       int64_t T, err *e);

/* Everything `latent-analyze trajectory` writes: tables, plots, a summary on stdout. */
int trajectory_report(const sweep *s, output *o, const char *batch_dir, err *e);

/* Gram matrix [T][T] of the centred positions x_t of a path, from its step products: differences come first, so nothing
 * cancels. */
void trajectory_position_gram(double *G, const path_sums *p, int64_t T);

#endif
