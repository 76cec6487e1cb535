/* capture_choice: what the settings choose to store of a model's steps, layers and heads. */
#ifndef WANSCOPE_CAPTURE_CHOICE_H
#define WANSCOPE_CAPTURE_CHOICE_H

#include "experiments/settings.h"
#include "experiments/trace.h"

typedef struct capture_choice {
    int32_t *items;
    int n;
} capture_choice;

/* The parts of a trace's spec that follow from settings and sizes alone; the caller frees them. */
typedef struct capture_owned {
    capture_choice steps, layers, heads;
    int32_t *rows, *velocity;
} capture_owned;

/* Fills the parts of *t that `o` owns and the sizes: steps, the latents' `shape`, `layers` and `heads` of the model. ERR_CONFIG when a chosen
 * layer, step or head does not exist. After a failure nothing is owned. */
int capture_describe(trace_spec *t, capture_owned *o, const config *cfg, int steps, const int64_t shape[4], int layers, int heads, bool attention,
                     err *e);
void capture_owned_release(capture_owned *o);

#endif
