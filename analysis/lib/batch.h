/* batch: what a batch folder holds, from its manifest.jsonl alone.
 *
 * The last line of a run decides. A torn last line (a killed writer) is ignored with a warning. Groups are the
 * manifest's variations, never folder names; seeds pair up by number. */
#ifndef WANSCOPE_BATCH_H
#define WANSCOPE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct batch_run {
    char *id;          /* "0003-s44" */
    int64_t variation; /* index into batch.variations */
    int64_t seed;
    bool done;           /* false: the manifest calls it failed */
    char *error;         /* why, for failed runs; may be NULL */
    char *trace, *video; /* full paths, NULL when the run left none */
    int64_t trace_bytes; /* size the manifest promises, -1 unknown */
} batch_run;

typedef struct batch_variation {
    int64_t number;           /* the manifest's number */
    char *id, *slug, *prompt; /* hash of its text, readable name, clean prompt ("" when absent) */
} batch_variation;

typedef struct batch {
    char *dir;
    batch_run *runs; /* sorted by variation number, then seed */
    int64_t n_runs;
    batch_variation *variations; /* sorted by number; only those with at least one run */
    int64_t n_variations;
} batch;

int batch_open(batch *b, const char *dir, err *e);
void batch_close(batch *b); /* harmless on a zeroed batch */

#endif
