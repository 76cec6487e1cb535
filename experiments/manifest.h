/* manifest: the record of a batch, manifest.jsonl, and the truth for resuming it.
 *
 * One JSON object a line, appended when a run has ended, never rewritten; the last line of a run wins. A line is
 * written by one write() and flushed to the disk. A writer killed in between leaves a torn last line: opening ignores
 * it with a warning, the next append cuts it off first. A broken line anywhere else is an error that names the line.
 * docs/formats.md lists the members. Members this version does not know are ignored.
 */
#ifndef WANSCOPE_MANIFEST_H
#define WANSCOPE_MANIFEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* Which alternative a bracket of the template took. */
typedef struct manifest_choice {
    int64_t bracket;            /* number of the bracket in the template, from 0 */
    char *name;                 /* of a linked choice, or NULL */
    int64_t alternative;        /* from 0 */
    char *text;                 /* the alternative, marks included */
} manifest_choice;

typedef struct manifest_file {
    char *name;                 /* "video.mp4", "preview.png", "trace.h5" */
    char *path;                 /* relative to the batch folder */
    char sha256[65];
    int64_t bytes;
} manifest_file;

typedef struct manifest_entry {
    char *run;                  /* manifest_run_id() */
    char identity[65];          /* sha256, lower-case hex, of everything that determines the bytes of the run */
    int64_t number;             /* of the variation, as the template counts it */
    char *id, *slug;
    manifest_choice *choices;
    size_t n_choices;
    char *marked_prompt, *clean_prompt;
    int64_t seed;
    bool done;                  /* state "done", else "failed" */
    manifest_file *files;
    size_t n_files;
    double seconds;
    char *error;                /* the sentence of a failed run, or NULL */
    char *time;                 /* ISO 8601, UTC; NULL on append means now */
} manifest_entry;

void manifest_entry_init(manifest_entry *x);                /* all zero */
void manifest_entry_release(manifest_entry *x);             /* frees the members, leaves it zeroed */
/* These copy their texts. */
int manifest_entry_add_choice(manifest_entry *x, int64_t bracket, const char *name, int64_t alternative,
                              const char *text, err *e);
/* Digests batch_dir/path and adds it under `name`. */
int manifest_entry_add_file(manifest_entry *x, const char *name, const char *batch_dir, const char *path, err *e);
const manifest_file *manifest_entry_file(const manifest_entry *x, const char *name);    /* NULL when absent */

/* "0003-s44": the variation's number with at least four digits and the seed. free() it; NULL when memory runs out. */
char *manifest_run_id(int64_t number, int64_t seed);

typedef struct manifest manifest;

typedef enum { MANIFEST_READ, MANIFEST_WRITE } manifest_mode;

/* Reads batch_dir/manifest.jsonl; a missing file is an empty manifest. MANIFEST_WRITE takes a lock that lasts until
 * manifest_close() or the end of the process, so that two programs never fill the same batch; ERR_IO if it is taken. */
int manifest_open(manifest **m, const char *batch_dir, manifest_mode mode, err *e);
void manifest_close(manifest *m);                           /* NULL is harmless */

size_t manifest_count(const manifest *m);                   /* distinct runs */
/* The latest line of each run, in the order in which the runs first appeared; NULL when out of range. */
const manifest_entry *manifest_at(const manifest *m, size_t i);
const manifest_entry *manifest_find(const manifest *m, const char *run);  /* NULL when absent */

/* Appends a line (the entry stays the caller's) and takes it into the tables. ERR_ARG when a required member is
 * missing: run, identity, id, slug, both prompts; and `error` for a failed run. */
int manifest_append(manifest *m, const manifest_entry *x, err *e);

/* True when the latest line of `run` says done, with this identity, and each of its files is there with the recorded
 * size and, if verify_digests, the recorded digest. Otherwise false, and *why (optional; free() it) says what is not
 * so; *why is NULL for a run that was never tried. */
bool manifest_run_is_done(const manifest *m, const char *run, const char *identity, bool verify_digests, char **why);

#endif
