/* shots: multi-shot videos as HoloCine makes them: prompts with shot captions, cuts in frames, and who attends to what.
 *
 * Upstream: HoloCine@ab32068 HoloCine_inference_full_attention.py:10-62, diffsynth/prompters/wan_prompter.py:124-213,
 * diffsynth/pipelines/wan_video_holocine.py:892-920, 1175-1241, diffsynth/models/wan_video_dit.py:187-276.
 * Quirks the weights were trained with are kept: marker tokens belong to their spans, ranges are used one token longer than
 * they are stored, padding is visible, a shot's own first frame counts twice in sparse attention.
 */
#ifndef WANSCOPE_SHOTS_H
#define WANSCOPE_SHOTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/backend.h"
#include "core/base/err.h"

/* 4t+1 nearest to n, ties to even t: 3 -> 1, 7 -> 9, 83 -> 81. */
int shots_enforce(int n);

/* A whole multi-shot prompt with its cuts, all in pixel frames. */
typedef struct shot_script {
    char *prompt;            /* "[global caption] ... This scene contains S shots. [per shot caption] a [shot cut] b" */
    int num_frames;          /* 4t+1 */
    int n_cuts;
    int *cuts;               /* first frame of each shot but the first; ascending, 0 < cut < num_frames */
} shot_script;

/* Structured input: captions of the scene and of its n shots. n_cuts 0: automatic, evenly spaced cuts. The suffix about the
 * number of shots is added when the global caption lacks "This scene contains". As upstream, cuts are rounded to 4t+1, sorted,
 * and duplicates and cuts outside the video are dropped; callers that want errors instead check n_cuts afterwards. */
int shots_structured(shot_script *out, const char *global_caption, const char *const *captions, int n, int num_frames, const int *cuts,
                     int n_cuts, err *e);
void shot_script_release(shot_script *s);

/* Shot of each latent frame: shot[(frames-1)/4+1]; returns the number of shots, or an err_kind. */
int shots_of_latents(int frames, const int *cuts, int n_cuts, int *shot, err *e);

/* Token ranges [first, last + 1) of the captions. */
typedef struct shot_spans {
    bool has_global;
    int global[2];
    int n;
    int (*shots)[2];
} shot_spans;

/* `text` is UTF-8; begin and end of each of n_tokens tokens are in code points of it (tokens with begin == end, such as
 * </s>, are skipped). */
int shots_find_spans(shot_spans *out, const char *text, const size_t *begin, const size_t *end, int n_tokens, err *e);
void shot_spans_release(shot_spans *s);

/* Attention plans of a multi-shot video; feed them to dit_input. */
typedef struct shot_plans {
    attn_plan cross;         /* each shot sees the global caption, its own caption and the padding */
    attn_plan sparse;        /* each shot sees itself and the first latent frame of every shot */
    attn_segment *segments;  /* memory behind the plans */
    attn_range *ranges;
} shot_plans;

/* shot[latent_frames] as above, or that of some of the frames (a context window): any numbers, one shot where they stay the same.
 * tokens_per_frame = h/2 * w/2 of the latents. `spans` may be NULL: then only `sparse` is made.
 * ERR_ARG, where upstream silently drops the mask: no global caption, or more shots than captions. */
int shots_make_plans(shot_plans *out, const int *shot, int latent_frames, int64_t tokens_per_frame, const shot_spans *spans, int text_len, err *e);
void shot_plans_release(shot_plans *p);

/* The value of the shot-mask channel for latent frame's shot; checkpoints with 17 input channels have one (PIPE:1092-1105). */
typedef enum { SHOT_MASK_ID, SHOT_MASK_NORMALIZED, SHOT_MASK_ALTERNATING } shot_mask_kind;
float shots_mask_value(shot_mask_kind kind, int shot, int n_shots);

#endif
