/* capture: observers that write a run's trace.h5 while it goes.
 *
 * Only observers are registered, so a run with capture is the run without it. What is stored follows the configuration
 * (capture.latents, capture.attention); attention maps are those of the conditional branch, one a word, summed over its
 * tokens, softmax over all text positions. A failure to write fails the run. */
#ifndef WANSCOPE_CAPTURE_H
#define WANSCOPE_CAPTURE_H

#include "experiments/prompts.h"
#include "experiments/settings.h"
#include "experiments/trace.h"

typedef struct capture_spec {
    const config *cfg;
    const engine_info *info;
    const engine *g;
    const run_params *run;         /* sizes, schedule, guidance (one value a step) */
    const prompt *prompt;          /* whose pieces are listed; may be NULL */
    const prompt_words *words;
    /* causal runs: the tokens of those words in each of the run's prompts, none where a prompt lacks a word; else NULL */
    const prompt_words *by_prompt;
    const char *timeline;          /* JSON of the prompts, when there are several; or NULL */
    const char *marked_prompt, *clean_prompt, *negative_prompt;
    const char *run_config;        /* text of batch_run_config() */
    const char *checkpoints;       /* JSON of their digests */
} capture_spec;

typedef struct capture capture;

/* Does the configuration ask for a trace at all? */
bool capture_wanted(const config *cfg);

/* Creates `path`.part. Everything in the spec is borrowed during the call but `run`, which must live until the end. Without
 * a word to look at, the trace has no /attention. ERR_CONFIG when a chosen layer or head does not exist. */
int capture_open(capture **out, const char *path, const capture_spec *s, err *e);
int capture_observe(capture *c, hooks *h, err *e);
/* Causal runs: what goes into the trace is also appended to `journal` (NULL: no longer), from which capture_replay() puts it into
 * a trace once more. capture_flush() at the end of a block brings it into the file; capture_replay() ends with that. */
void capture_journal(capture *c, str *journal);
int capture_replay(capture *c, const void *journal, size_t bytes, err *e);
int capture_flush(capture *c, err *e);
/* Frees c whatever happens; after a failure no file is left. */
int capture_commit(capture *c, err *e);
void capture_abort(capture *c);    /* NULL is harmless */

/* Bytes of the arrays of one run's trace before compression, for n_words words (forecast). `layers` and `heads` are the
 * model's. */
int capture_bytes(const config *cfg, int steps, const int64_t shape[4], int layers, int heads, int n_words, int64_t *bytes, err *e);
/* Host memory at most of what is on its way into that file: in the queue and in the threads that compress (forecast). `block_frames`: latent
 * frames of a block of a causal run, else 0. */
int capture_host_bytes(const config *cfg, int steps, const int64_t shape[4], int layers, int heads, int n_words, int64_t block_frames, int64_t *bytes,
                       err *e);

#endif
