/* run_windows: the passes of a run in context windows. For run.c. */
#ifndef WANSCOPE_RUN_WINDOWS_H
#define WANSCOPE_RUN_WINDOWS_H

#include "core/run_shots.h"

typedef struct window_run {
    window_list list;                /* empty: the video fits one window, and the rest is empty */
    int64_t shape[4];                /* of the whole video's latents */
    int longest, in_channels;
    float *whole, *part, *vace;      /* host: all frames, those of a window, VACE's context of all */
    const tensor *vace_of;
    tensor latents, cut, velocity;   /* of one window: input, VACE's context, output; kept, so that recorded passes find them again */
    window_sum sum;
} window_run;

/* shape: latents of the video. ERR_CONFIG where windows and the rest of the run do not go together. */
int window_run_begin(window_run *x, const engine *g, const run_params *r, const int64_t shape[4], err *e);
void window_run_end(window_run *x);

/* dit_forward() of in->latents (all frames) with the shots of each window, averaged into *velocity (all frames). */
int window_run_forward(window_run *x, dit *d, dit_work *work, const dit_input *in, shot_run *shots, const prompt *text, bool cond, tensor *velocity,
                       err *e);

#endif
