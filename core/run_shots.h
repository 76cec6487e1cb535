/* run_shots: what a run with several shots feeds to the model: attention plans and the channel that tells the shot. For run.c. */
#ifndef WANSCOPE_RUN_SHOTS_H
#define WANSCOPE_RUN_SHOTS_H

#include "core/engine_internal.h"

typedef struct shot_run {
    const run_shots *s;              /* NULL: an ordinary video, and the rest is empty */
    int n_shots, n_latent_frames, text_len;
    bool unguided;                   /* guidance 1 throughout */
    int *shot;                       /* of each latent frame */
    int64_t tokens_per_frame;
    bool masked;                     /* false: upstream's silent fallback */
    const prompt *of;                /* whose captions the plans are made of */
    shot_plans plans;
    const window_list *windows;      /* NULL: none; else `of_window` has a plan for each, instead of `plans` */
    struct shot_window {
        int *shot;                   /* of each of its frames */
        shot_plans plans;
    } *of_window;
    tensor input;                    /* [17,F,H,W] where the checkpoint has the channel, else empty */
} shot_run;

/* Checks cuts, channel and the captions of every conditional prompt. `windows` (may be NULL) is borrowed. */
int shot_run_begin(shot_run *x, engine *g, const run_params *r, const int64_t shape[4], const window_list *windows, err *e);
void shot_run_end(shot_run *x);

/* Fills in plans and latents of one pass over `latents` [16,F,H,W] for a step's conditional prompt. */
int shot_run_pass(shot_run *x, const prompt *p, bool cond, const tensor *latents, dit_input *in, err *e);

/* The same for context window `i`, whose latents the caller has put in place. */
int shot_run_window(shot_run *x, int i, const prompt *p, bool cond, dit_input *in, err *e);
/* The value of the shot's channel in frame `f` of window `i`. */
float shot_run_channel(const shot_run *x, int i, int f);

/* Pairs (query, key) of self-attention in a video of these sizes: L * L without sparse attention. */
double shot_run_pairs(const run_shots *s, int frames, int64_t latent_frames, int64_t tokens_per_frame);

#endif
