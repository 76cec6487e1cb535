/* prompts: the text embeddings of a batch. Each distinct clean text with its weights is encoded once and kept (the least
 * recently used go when they take more than PROMPTS_BYTES; those of schedules.prompt stay); weights act on the rows of the tokens that a mark touches.
 *
 * Also finds which tokens a word has, and makes the prompts of the single steps when schedules.prompt is in use. */
#ifndef WANSCOPE_PROMPTS_H
#define WANSCOPE_PROMPTS_H

#include "core/engine.h"
#include "experiments/settings.h"
#include "experiments/template.h"

#define PROMPTS_BYTES ((int64_t)1 << 30)

typedef struct prompts prompts;

int prompts_new(prompts **out, engine *g, const config *cfg, err *e);
void prompts_free(prompts *p);

/* *out is owned by `p` and good until the next call but one (the last 2 are never dropped). */
int prompts_of_variation(prompts *p, const variation *v, const prompt **out, err *e);
/* The same, good until prompts_unpin(): for runs with many prompts. */
int prompts_pin(prompts *p, const variation *v, const prompt **out, err *e);
void prompts_unpin(prompts *p);
/* The negative prompt: encoded once, never dropped. */
int prompts_negative(prompts *p, const prompt **out, err *e);

/* One prompt a step, or one for all. */
typedef struct step_prompts {
    int n;                         /* 1 or steps */
    const prompt **cond;
    int n_owned;
    prompt **owned;
} step_prompts;

/* The prompts of a run: that of `v`, or those of schedules.prompt. Release with step_prompts_release(). */
int prompts_of_run(prompts *p, const variation *v, int steps, step_prompts *out, err *e);
void step_prompts_release(step_prompts *s);

/* A word and its tokens in the text sequence. */
typedef struct prompt_word {
    char *text;
    int32_t *tokens;
    int n_tokens;
} prompt_word;

typedef struct prompt_words {
    prompt_word *items;            /* each has at least one token */
    int n;
    str dropped;                   /* JSON list of words that stand in no token (cut off, cleaned away, not in the text) */
    int n_dropped;
} prompt_words;

/* The words to capture (capture.attention.words, else the marked ones) with all their places. With schedules.prompt a word
 * must have the same tokens in every prompt of the schedule: ERR_CONFIG otherwise. What is dropped is logged. */
int prompts_words(prompts *p, const variation *v, prompt_words *out, err *e);
void prompt_words_release(prompt_words *w);
/* The words to capture in `v` alone. */
int prompts_words_in(prompts *p, const variation *v, bool quiet, prompt_words *out, err *e);

/* How many words prompts_words() would look for, from the text alone: for forecasts. */
int prompts_count_words(const config *cfg, const variation *v, int *n, err *e);

int prompts_encoded(const prompts *p);    /* how often the text encoder ran; for tests */

#endif
