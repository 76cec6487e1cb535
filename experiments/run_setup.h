/* run_setup: what `run` and `plan` do alike before anything starts: flags -> configuration -> checkpoint -> list of runs. */
#ifndef WANSCOPE_RUN_SETUP_H
#define WANSCOPE_RUN_SETUP_H

#include "experiments/batch.h"
#include "experiments/flags.h"
#include "experiments/run_one.h"

typedef struct run_setup {
    flags f;
    config cfg;
    bool loaded;                 /* cfg holds something */
    const char *config_path;     /* of --config, or the default; NULL when resuming */
    bool resume;
    char *name;                  /* of the batch, without date and time */
    char *dir;                   /* its folder */
    batch b;
    runner *r;
    str config_text;             /* resolved; what config.yaml holds */
    uint8_t *done;               /* one a run; filled by run_setup_look() */
    uint64_t n_done;
} run_setup;

enum { SETUP_RUN, SETUP_PLAN };
extern const char RUN_OPTIONS_HELP[];      /* the options both commands share */

/* Parses the flags (f.help and f.version may be set: then nothing else was done), reads the configuration, counts the
 * variations, opens the checkpoint's headers and resolves the settings. Nothing is written. */
int run_setup_open(run_setup *s, int command, int argc, char **argv, err *e);
void run_setup_close(run_setup *s);

/* Which runs are done: by manifest, identity and digests. `m` NULL: none. Logs why a recorded run has to be made again. */
int run_setup_look(run_setup *s, const manifest *m, err *e);

/* Identity of a run (needs runner_digests()). */
int run_setup_identity(run_setup *s, const variation *v, int64_t seed, char out[65], err *e);

#endif
