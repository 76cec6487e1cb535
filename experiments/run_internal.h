/* run_internal: what the files that make a run share: run_one.c, run_params.c, run_written.c, run_causal.c, frame_sink.c. */
#ifndef WANSCOPE_RUN_INTERNAL_H
#define WANSCOPE_RUN_INTERNAL_H

#include "experiments/capture.h"
#include "experiments/preview.h"
#include "experiments/run_one.h"
#include "experiments/vace_inputs.h"

struct runner {
    config *cfg;
    engine *g;
    engine_info info;
    bool digests;
    prompts *texts;
    run_params params;
    double *guidance;                  /* one a step */
    run_shots shots;                   /* in params when there are cuts */
    int *cuts;
    run_skip skip;
    run_windows windows;
    int *skip_layers;
    bool uses_negative;
    double *vace_scale;                /* one a step */
    bool conditioned, inputs_read;
    vace_buffers inputs;               /* until they are encoded; of a causal model to the end */
    vace_condition *condition;
    str conditions;                    /* JSON of their digests */
    causal_options causal;             /* of a causal model; params.causal points here */
    struct {
        char label[160];
        uint64_t run, n_runs;
        int64_t steps;                 /* of the run under way, over all its blocks */
        double step_seconds, decode_seconds;     /* moving averages */
        double step_began;
        double told_at;                          /* the last plain line */
    } progress;
};

/* ---- frames on their way into files (frame_sink.c) ---- */

typedef struct frame_sink {
    runner *r;
    video_writer *video, *pipe;
    preview sheet;
    bool has_sheet;
    const run_files *files;
    media_tag comment, text;       /* the parameters, for video and images */
} frame_sink;

bool frame_sink_wanted(const run_files *f);
/* Zeroes and opens; frame_sink_abort() is harmless afterwards whatever happens. `parameters` and `f` must live until the end. */
int frame_sink_open(frame_sink *s, runner *r, const char *parameters, const run_files *f, err *e);
int frame_sink_take(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e);      /* a frame_fn */
int frame_sink_close(frame_sink *s, err *e);
void frame_sink_abort(frame_sink *s);

/* ---- pieces of a run ---- */

double runner_now(void);
/* Fills params and what they point to (run_params.c); the engine is open and cfg resolved. */
int runner_fill_params(runner *r, err *e);
int runner_need_condition(runner *r, err *e);      /* reads and encodes what conditions the videos, once for all runs; of a
                                                    * causal model the references, the rest with its blocks */
void runner_average(double *mean, double fresh);
/* Progress: `done` of the run's steps. */
void runner_tell(runner *r, int64_t done, const char *phase);
int runner_watch(runner *r, hooks *h, err *e);
/* {"latent": [1, C, F, H, W]} as .safetensors (run_written.c). */
int runner_write_latent(runner *r, const tensor *latents, const char *parameters, const char *path, err *e);
/* A run of a causal model, block by block (run_causal.c). */
int runner_run_causal(runner *r, const variation *v, int64_t seed, const run_files *files, err *e);
/* Fills params and causal of a causal model. */
int runner_causal_params(runner *r, err *e);
int runner_try_timeline(runner *r, const variation *v, err *e);

#endif
