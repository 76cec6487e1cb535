/* run_one: one video, from a variation and a seed to the files: prompts -> engine -> hooks -> trace, video, preview.
 *
 *     runner *r;
 *     runner_open(&r, &cfg, e);                opens the checkpoint, resolves "auto" in cfg
 *     runner_digests(r, e);                    reads every byte of it once; needed for traces and identities
 *     run_files f = { .trace = "a/trace.h5", .video = "a/video.mp4" };
 *     runner_run(r, &v, seed, &f, e);
 *     runner_close(r);
 *
 * The files appear complete or not at all, each under its own name; after a failure the caller removes what is there. */
#ifndef WANSCOPE_RUN_ONE_H
#define WANSCOPE_RUN_ONE_H

#include "experiments/prompts.h"
#include "experiments/settings.h"
#include "experiments/template.h"

typedef struct runner runner;

/* What to write; NULL for nothing of that kind. Folders exist. */
typedef struct run_files {
    const char *trace;       /* trace.h5 */
    const char *video;       /* .mp4 or .y4m */
    const char *preview;     /* .png: frames of the video side by side */
    const char *images;      /* a folder for frame_000.png ... */
    const char *latent;      /* .safetensors: tensor `latent` [1, C, F, H, W] */
    const char *latent_preview;    /* a rough video of the latents, without its ending, written anew every so many steps */
    int latent_preview_every;
    bool no_metadata;        /* leave the parameters out of video and images */
    bool to_stdout;          /* causal runs: frames as .y4m to standard output, as they are made */
    const char *resume;      /* causal runs: a folder for saved states, made when needed; a run that finds one there goes on from it.
                              * The caller removes it when the run is complete. */
} run_files;

/* `cfg` is the caller's, is resolved here and must live until runner_close(). Opens the files' headers; weights are read on
 * first use. */
int runner_open(runner **out, config *cfg, err *e);
void runner_close(runner *r);        /* NULL is harmless */

engine *runner_engine(runner *r);
const engine_info *runner_info(const runner *r);
prompts *runner_prompts(runner *r);
int runner_digests(runner *r, err *e);

/* Reads and checks the files that condition the runs (section vace), which the first run otherwise does. */
int runner_prepare(runner *r, err *e);

/* Encodes what a run will need, so that what would fail in every run fails early. */
int runner_try_prompts(runner *r, const variation *v, err *e);

/* The parameters of runs but for prompts and noise seed; valid until runner_close(). */
const run_params *runner_params(const runner *r);

/* ERR_CANCELLED when interrupt_pending(). */
int runner_run(runner *r, const variation *v, int64_t seed, const run_files *files, err *e);

/* Removes the saved states of a run from its folder, and the folder when nothing else is in it. Missing is fine. */
int runner_remove_states(const char *folder, err *e);

/* The JSON that goes into videos and images: what determines the picture, and nothing else. */
int runner_parameters_json(runner *r, const variation *v, int64_t seed, str *out, err *e);

/* ---- progress ---- */

/* Tells how many runs are ahead and what the next one is called ("run 3/12 0001-red s43"). */
void runner_progress(runner *r, const char *label, uint64_t run, uint64_t n_runs);
double runner_seconds_per_step(const runner *r);     /* moving average, 0 before the first */

#endif
