/* batch: which runs a configuration stands for, the folder they are kept in, and what is already done.
 *
 * Order: variations outer, seeds inner, so that an interrupted batch has whole variations. Seed k of every variation is
 * model.seed + k: run (a, k) and run (b, k) start from the same noise, and statistics can pair them.
 *
 * With schedules.prompt the prompt of the first step takes the place of the template, which must then stand for one text.
 *
 *     <output.dir>/<name>/config.yaml template.txt manifest.jsonl runs/<NNNN>-<slug>/s<seed>/...
 */
#ifndef WANSCOPE_BATCH_H
#define WANSCOPE_BATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "experiments/manifest.h"
#include "experiments/settings.h"
#include "experiments/template.h"

typedef struct batch {
    const config *cfg;            /* borrowed */
    prompt_template *t;
    const char *text;             /* the template's text, borrowed from cfg */
    uint64_t n_all;               /* variations of the template */
    uint64_t n_variations;        /* of them, chosen by batch.variations and batch.limit */
    int64_t n_seeds;
    uint64_t n_runs;
} batch;

/* Parses the template and counts. Errors: ERR_ARG (template), ERR_CONFIG (a choice that names what does not exist). */
int batch_enumerate(batch *b, const config *cfg, err *e);
void batch_release(batch *b);

uint64_t batch_number(const batch *b, uint64_t i);        /* template number of chosen variation i */
int64_t batch_seed(const batch *b, int64_t k);
/* Run r: variation r / n_seeds, seed r % n_seeds. `v` is overwritten; variation_release() it. */
int batch_run(const batch *b, uint64_t r, variation *v, int64_t *seed, err *e);
/* Logs variations that are the same text, each with both choice vectors (the first 10, among the first 100 000). */
int batch_report_duplicates(const batch *b, err *e);

/* "runs/0003-red/s44"; free() it; NULL when memory runs out. */
char *batch_run_folder(const variation *v, int64_t seed);

/* The configuration that makes exactly this run again, alone: template and seed replaced, and every setting that only says
 * where, how many and how fast (output, batch, threads, memory) set to one value. Its text goes into traces, its hash into the
 * manifest. */
int batch_run_config(str *text, const config *cfg, const char *marked_prompt, int64_t seed, err *e);
/* sha256 of that text, the checkpoint digests and the precision. */
int batch_identity(char out[65], const char *run_config, const engine_info *info, err *e);
/* {"dit":"<sha256>","dit_low":...,"t5":...,"vae":...}, parts that are there. */
void batch_checkpoints_json(str *out, const engine_info *info);

/* ---- the folder ---- */

/* batch.name, or the name of the config file without its ending, or "batch"; other characters than letters, digits,
 * '.', '-' and '_' become '-'. free() it. */
char *batch_name(const config *cfg, const char *config_path);
/* output.dir/name, with "-20250131-235959" behind it for output.use_timestamp. free() it. */
char *batch_folder(const config *cfg, const char *name, time_t now);

/* Makes the folder (or takes one in which nothing was started), locks it and writes config.yaml and template.txt.
 * ERR_CONFIG when a batch is there already, saying whether it is this one and how to resume it. */
int batch_create(manifest **m, const char *dir, const char *config_text, const char *template_text, err *e);
/* Locks an existing batch, removes half-written files at its top. */
int batch_reopen(manifest **m, const char *dir, err *e);
/* Looks whether batch_create() would succeed, without touching anything. */
int batch_check_new(const char *dir, const char *config_text, err *e);

#endif
