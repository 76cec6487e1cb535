/* shots: denoising paths of the shots of multi-shot videos, each by itself, and how alike the shots of a video are.
 *
 * Shots differ in length, so everything here is per number: inner products are divided by how many numbers take part, and
 * lengths are root mean squares. docs/analysis.md has the formulas. */
#ifndef WANSCOPE_ANALYSIS_SHOTS_H
#define WANSCOPE_ANALYSIS_SHOTS_H

#include "analysis/lib/metrics.h"
#include "analysis/lib/sweep.h"

enum shot_metric {
    SM_CENTROID_DISTANCE,
    SM_CENTROID_COSINE,
    SM_APPEARANCE_DISTANCE,
    SM_PATH_DISTANCE,
    SM_PATH_DISTANCE_END,
    SM_PATH_ALIGNMENT,
    SM_COUNT
};

extern const metric_def SHOT_METRICS[SM_COUNT];

typedef struct shot_pair {
    int64_t a, b, matched; /* shots, and the latent frames compared one by one */
    double value[SM_COUNT];
    double *centroid, *path; /* [T] both distances, row by row */
} shot_pair;

/* One run: what its shots are and how they compare. */
typedef struct shot_paths {
    int64_t n_shots, n_pairs;
    int64_t *frames;  /* [n_shots] latent frames */
    path_sums *path;  /* [n_shots] sums over the numbers of a shot, divided by how many there are */
    shot_pair *pairs; /* all pairs a < b */
} shot_paths;

/* Reads a trace; memory: the stored rows of one shot, or of as many as fit `memory` bytes. ERR_FORMAT for one without /shots. */
int shot_paths_read(shot_paths *out, const sweep *s, const char *trace, int64_t memory, err *e);
void shot_paths_close(shot_paths *p, int64_t T); /* harmless on a zeroed one */

/* Everything `latent-analyze trajectory --by shot` writes besides the whole videos' tables. */
int shots_report(const sweep *s, output *o, const char *batch_dir, err *e);

#endif
