/* The parts of sweep: sweep.c decides what is read, sweep_store.c holds rows, sweep_sums.c adds up blocks of elements.
 */
#ifndef WANSCOPE_SWEEP_INTERNAL_H
#define WANSCOPE_SWEEP_INTERNAL_H

#include "analysis/lib/sweep.h"
#include "analysis/lib/trace_reader.h"

/* Sums are added up in grains of this many elements, counted from the first: the same roundings whatever the memory,
 * the number of threads and the way the rows are held. Blocks and parts of the latents are whole grains (the last may
 * be short). */
#define SWEEP_GRAIN 256

/* A block of elements of consecutive runs: row r of run i starts at base + (i * T + r) * stride. */
typedef struct sweep_block {
    const float *base;
    int64_t stride, elems;
    int64_t first_run, n_runs;
} sweep_block;

typedef struct sweep_adder {
    double *centered; /* [max(n_pooled, N)][SWEEP_GRAIN] */
    double *mean;     /* [SWEEP_GRAIN] */
    double **thread;  /* scratch of each thread: 2 T + 2 vectors of SWEEP_GRAIN */
    int n_threads;
    bool across;
} sweep_adder;

int sweep_adder_open(sweep_adder *a, const sweep *s, bool across, err *e);
void sweep_adder_close(sweep_adder *a, const sweep *s);
void sweep_adder_add(sweep_adder *a, sweep *s, const sweep_block *b);

/* Sums of one path. */
int path_sums_open(path_sums *p, int64_t T, err *e);
void path_sums_close(path_sums *p);
void path_sums_finish(path_sums *p, int64_t T); /* mirrors the triangle that was added up */

/* Reads runs[first..first+n) of `s` in blocks and adds them up. Runs that turn out unreadable are skipped with their
 * sentence and removed from s->runs. */
int sweep_store_process(sweep *s, int64_t first, int64_t *n, const sweep_options *o, bool across, err *e);

int sweep_skip(sweep *s, const batch_run *run, const char *reason, err *e);
void sweep_drop_run(sweep *s, int64_t i);
int sweep_prepare_across(sweep *s, err *e); /* groups and Gram matrices for the runs that are left */

#endif
