/* generate_internal: what the files of wanscope generate share: generate_flags.c has the options, generate_settings.c makes a
 * configuration of them, generate_targets.c names the files, cmd_generate.c makes the video. */
#ifndef WANSCOPE_GENERATE_INTERNAL_H
#define WANSCOPE_GENERATE_INTERNAL_H

#include "core/base/json.h"
#include "experiments/config.h"
#include "experiments/flags.h"
#include "experiments/run_one.h"

extern const char GENERATE_HELP[];
extern const flag_spec GENERATE_FLAGS[];
extern const size_t N_GENERATE_FLAGS;

typedef struct generate_request {
    flags f;
    config cfg;
    bool loaded;
    bool video, images, latent;
    char *prompt_template;         /* the prompt with every special character escaped, or what captions become */
    bool structured;               /* captions in place of a prompt */
    int64_t seed;
    int number;                    /* of a prompt of --from-file, from 1; 0: the only one */
    json *recorded;                /* of --from-video */
} generate_request;

/* Refuses options that contradict each other or lack their other half (ERR_ARG, before any file is read); fills structured, video,
 * images and latent. */
int generate_check_choices(generate_request *q, err *e);
/* The seed: given, else of the video to repeat, else random. */
int generate_choose_seed(generate_request *q, err *e);
/* Fills cfg and prompt_template; after success cfg is the request's to release (loaded). */
int generate_config(generate_request *q, err *e);

typedef struct generate_targets {
    char *video, *latent, *images, *images_part;
    char *preview;                 /* of the latents, without its ending */
    int preview_every;
} generate_targets;

/* Names the files and makes their folder; refuses those that exist. Nothing to release after a failure. */
int generate_choose_targets(generate_targets *t, const generate_request *q, err *e);
void generate_targets_release(generate_targets *t);      /* harmless on a zeroed one */
/* Whether --save-path names a file, by its ending, and not a folder. */
bool generate_is_file_name(const char *path);

#endif
