/* capture_shots: the /shots group of a run's trace. For capture.c. */
#ifndef WANSCOPE_CAPTURE_SHOTS_H
#define WANSCOPE_CAPTURE_SHOTS_H

#include "experiments/capture.h"
#include "experiments/shot_text.h"

typedef struct capture_shots {
    trace_shots t;             /* borrows from the rest */
    shot_text text;
    shot_spans spans;
    int32_t *numbers;
} capture_shots;

/* For a run with s->run->shots. Release with capture_shots_release(), which is harmless on a zeroed one. */
int capture_shots_describe(capture_shots *out, const capture_spec *s, err *e);
void capture_shots_release(capture_shots *c);

#endif
