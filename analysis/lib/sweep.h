/* sweep: the one streaming pass over the traces of a batch, and the small matrices it leaves.
 *
 * Every metric is a function of inner products, so the latents are read once (each row decompressed once) and only Gram
 * matrices and per-step sums are kept, all in f64. Step differences are formed before multiplying, because differences
 * taken out of a Gram matrix of positions cancel. Memory besides the Gram matrices stays below 200 MB for a batch of
 * any size: what does not fit goes through an unnamed scratch file in the output folder, or, when that disk is too
 * small, through several readings. */
#ifndef WANSCOPE_SWEEP_H
#define WANSCOPE_SWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "analysis/lib/batch.h"
#include "core/base/err.h"

/* Sums over elements along one path x_0 .. x_{T-1} (stored rows), v_k = x_{k+1} - x_k, e = x_{T-1} - x_0. */
typedef struct path_sums {
    double *vv;           /* [T-1][T-1] v_k . v_l */
    double *from_start;   /* [T]   |x_t - x_0|^2 */
    double *to_end;       /* [T]   |x_t - x_{T-1}|^2 */
    double *along;        /* [T]   (x_t - x_0) . e */
    double *v_along;      /* [T-1] v_k . e */
    double *turn_minus;   /* [T-2] |v_{k+1} - v_k|^2 */
    double *turn_plus;    /* [T-2] |v_{k+1} + v_k|^2 */
    double *accel;        /* [T-2] |v_{k+1}/ds_{k+1} - v_k/ds_k|^2, ds = |difference of sigma|; NaN where ds is 0 */
    double *off_straight; /* [T-1] |e - v_k A/ds_k|^2, A = sum of ds; NaN where ds is 0 */
    double end2;          /* |e|^2 */
} path_sums;

typedef struct sweep_run {
    const batch_run *run; /* borrowed from the batch */
    int64_t group;        /* index into sweep.groups */
    path_sums path;
} sweep_run;

typedef struct sweep_group {
    const batch_variation *variation;
    int64_t first, n; /* its runs: runs[first .. first+n-1], seeds rising */
    int64_t shot;     /* 0: whole videos; tables by shot: 1 + the shot's number, one group a variation and shot */
} sweep_group;

typedef struct sweep_skipped {
    char *run, *reason;
} sweep_skipped;

typedef struct sweep {
    int64_t C, F, H, W, elems;
    int64_t T; /* stored rows of every run */
    int64_t n_steps;
    int32_t *rows; /* [T] steps taken at each row */
    double *sigma; /* [T] */
    sweep_run *runs;
    int64_t n_runs;
    sweep_group *groups;
    int64_t n_groups;
    sweep_skipped *skipped;      /* runs that had to be left out, with the sentence */
    int64_t n_skipped, n_failed; /* n_failed: called failed by the manifest itself */
    /* Gram matrices, NULL unless asked for: */
    double *ends;      /* [N][N] last rows minus their mean over all runs */
    double *end_devs;  /* [N][N] last rows minus the mean of their variation */
    double *end_means; /* [V][V] means of the variations minus the mean of those means */
    double *pooled;    /* [n_pooled][n_pooled] rows of all runs minus their mean */
    int64_t n_pooled, pooled_per_run;
    int64_t *pooled_rows; /* [pooled_per_run] which stored rows take part */
    const char *how;      /* "memory", "scratch file" or "several readings" */
} sweep;

typedef struct sweep_options {
    bool across;      /* also the Gram matrices across runs */
    int64_t max_rows; /* most rows of the pooled Gram matrix; longer batches use evenly spaced rows of each run */
    const char *scratch_dir; /* where the scratch file may live */
    int64_t memory;          /* bytes of latents held at once */
    bool no_scratch;         /* for tests: pretend that the disk is full */
} sweep_options;

#define SWEEP_MEMORY ((int64_t)72 << 20)
#define SWEEP_MAX_ROWS 4096

/* ERR_ARG when the batch has no run that can be analysed. Runs left out are logged as errors and listed. */
int sweep_open(sweep *s, const batch *b, const sweep_options *o, err *e);
void sweep_close(sweep *s); /* harmless on a zeroed sweep */

/* Adds the mean of all pooled rows to what scores mean: component[k][elems] += weights[k][n_pooled] . rows; reads the
 * traces once more. weights row k belongs to component k. */
int sweep_combine(double *component, const sweep *s, const double *weights, int64_t k, err *e);

#endif
