/* timeline: prompts that follow each other in one video that a causal model makes block by block.
 *
 * In a template a switch is written as the mark "[at N]": from latent frame N on, what follows rules. As a bracket pair without
 * '|' and '=' it passes through templates as plain text, so choices and links may span the prompts:
 *
 *     a [c=red|blue] (circle) moving left [at 21] a [=c] (square) moving left
 *
 * `prompts:` of a configuration is the same as a list: [{at: 0, text: ...}, {at: 21, text: ...}]. */
#ifndef WANSCOPE_TIMELINE_H
#define WANSCOPE_TIMELINE_H

#include "experiments/schedule_text.h"
#include "experiments/template.h"

typedef struct timeline {
    int n;                 /* at least 1 */
    int64_t *at;           /* latent frames; at[0] is 0 */
    variation *parts;      /* of each only clean, spans, n_spans and number are filled */
} timeline;

/* Splits the clean text of a variation. Errors: ERR_ARG, in the words of a template. */
int timeline_split(timeline *t, const variation *v, err *e);
void timeline_release(timeline *t);

/* The list as one template. */
void timeline_join(str *out, const prompt_schedule *list);
/* Does a template's text hold a mark that is not escaped? *at is where. */
bool timeline_marked(const char *text, size_t *at);

#endif
