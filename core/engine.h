/* engine: a model, opened once; and runs over it.
 *
 *     engine *g;  prompt *p, *neg;  tensor latents = {0};
 *     engine_options o = ENGINE_OPTIONS_INIT;
 *     o.model = "experiments/shapes/checkpoint";
 *     if (engine_open(&g, &o, &e)) return fail(&e);
 *     engine_encode(g, "a red circle moving left", &p, &e);
 *     engine_encode(g, "", &neg, &e);
 *     run_params r = RUN_PARAMS_INIT;
 *     r.width = r.height = 128; r.frames = 17; r.steps = 20; r.shift = 3; r.seed = 1;
 *     r.cond = &p; r.n_cond = 1; r.uncond = neg; r.guidance = &(double){ 4 }; r.n_guidance = 1;
 *     engine_run(g, &r, NULL, &latents, &e);                    denoise
 *     engine_decode(g, &latents, on_frame, user, &e);           8-bit RGB, frame by frame
 *
 * The engine is immutable after engine_open but for caches; runs over one engine go one after another. The same
 * parameters give the same bytes, whatever hooks are registered and however many threads work.
 */
#ifndef WANSCOPE_ENGINE_H
#define WANSCOPE_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/str.h"
#include "core/causal.h"
#include "core/dit/dit_config.h"
#include "core/dit/shots.h"
#include "core/hooks/hooks.h"
#include "core/sample/schedule.h"
#include "core/sample/windows.h"
#include "core/tensor.h"
#include "core/vae/vae.h"

typedef struct engine engine;

/* What leaves the device while it is not needed: what does not fit, nothing, everything. */
typedef enum { ENGINE_OFFLOAD_AUTO, ENGINE_OFFLOAD_NONE, ENGINE_OFFLOAD_ALL } engine_offload;

/* An adapter merged into the diffusion model when its weights are read (core/dit/lora.h). */
typedef enum { LORA_BOTH, LORA_HIGH, LORA_LOW } lora_expert;   /* LORA_LOW: the low-noise expert, or the only model */
typedef struct engine_lora {
    const char *path;
    double multiplier;
    lora_expert expert;
    const char *digest;                      /* filled by engine_get_info(), "" before */
    const char *include, *exclude;           /* regular expressions on the names of its tensors (core/dit/lora.h); NULL or "": all */
} engine_lora;

typedef struct engine_options {
    const char *model;                       /* folder or file, see model_files_find() */
    const char *dit, *dit_low, *t5, *vae, *tokenizer;   /* replace what the model folder gives; NULL or "" to keep */
    const char *device;                      /* "auto", "cpu", "cuda", "cuda:N" */
    const char *precision;                   /* "exact" */
    int threads;                             /* CPU threads, 0 = all */
    int text_len;                            /* 0: as the checkpoint says */
    bool ftfy;                               /* clean prompts as with ftfy installed (core/text/clean.h) */
    const char *family;                      /* "holocine": two experts are that, whatever they are called; NULL or "": by the files */
    const engine_lora *loras;                /* in the order they are added; checked against the model at once */
    int n_loras;
    const char *vace;                        /* VACE weights for this base: the release whole, or only its vace_* tensors; NULL or "": those of
                                              * the diffusion model itself, if it has some */
    bool fp8_scaled;                         /* round the matrices of the blocks to 8-bit floats with a scale each, as H1111's --fp8_scaled: the
                                              * numbers of a file that 'wanscope convert --fp8-scaled' writes */
    const char *lora;                        /* LongLive's adapter; NULL or "": the one beside the model, "none": none */
    double lora_alpha;                       /* 0: its rank */
    int blocks_to_swap;                      /* transformer blocks in host memory, streamed: results are the same bits. 0: as many as must be */
    engine_offload offload;
    int64_t memory_budget;                   /* device memory to use, in bytes; 0: what is free. Without meaning on the CPU */
} engine_options;
#define ENGINE_OPTIONS_INIT { NULL, NULL, NULL, NULL, NULL, NULL, "auto", "exact", 0, 0, false, NULL, NULL, 0, NULL, false, NULL, 0, 0, ENGINE_OFFLOAD_AUTO, 0 }

int engine_open(engine **out, const engine_options *o, err *e);
void engine_close(engine *g);
backend *engine_backend(const engine *g);    /* where its tensors live */

typedef struct engine_info {
    const char *family;                      /* "wan2.1", "wan2.2-a14b" ... */
    const char *dit_path;                    /* the file or folder of the diffusion model, of a pair the high-noise one */
    const char *device;                      /* for people */
    const char *precision;
    const dit_config *dit;
    const umt5_config *t5;
    const vae_config *vae;
    bool two_experts;
    /* content digests (ckpt_digest), computed on the first call of engine_info(); "" for a missing part */
    const char *dit_digest, *dit_low_digest, *t5_digest, *vae_digest, *lora_digest;
    const char *vace_digest;                 /* "" when the VACE weights are in the diffusion model's own file, or there are none */
    const engine_lora *loras;                /* with their digests */
    int n_loras;
    const char *conditions;                  /* for the caller: JSON of the digests of the files that condition its runs; NULL here */
    bool causal;                             /* makes video block by block: runs need run_params.causal */
    const char *lora;                        /* path of LongLive's own adapter, or NULL */
    int64_t dit_bytes, t5_bytes, vae_bytes;  /* weights as held */
} engine_info;
/* Digests read every byte of the checkpoint once; pass with_digests false to leave them "". */
int engine_get_info(engine *g, bool with_digests, engine_info *out, err *e);

/* ---- prompts ---- */

typedef struct prompt prompt;

/* Cleans, tokenises and encodes. A prompt that fills more than text_len tokens is truncated as upstream does, which is logged. */
int engine_encode(engine *g, const char *text, prompt **out, err *e);
/* The same from token ids (n of them, of which n_visible are attended), for tests and for builds without sentencepiece. */
int engine_encode_ids(engine *g, const int32_t *ids, int n, int n_visible, prompt **out, err *e);
void prompt_free(prompt *p);

const char *prompt_clean_text(const prompt *p);       /* after core/text/clean.h */
int prompt_n_tokens(const prompt *p);                 /* pieces and </s>; the rest of text_len is padding */
const char *prompt_piece(const prompt *p, int token); /* "▁kiss" */
bool prompt_truncated(const prompt *p);
/* Tokens whose characters the bytes [begin, end) of the text given to engine_encode() touch, ascending; *n of them
 * (0 when cleaning or truncation removed the span). `tokens` has room for prompt_n_tokens(). */
int prompt_tokens_of(const prompt *p, size_t begin, size_t end, int *tokens, int *n, err *e);
/* Token ranges of the captions of a multi-shot prompt; shot_spans_release() them. Marks are looked for in the clean text, which is
 * what was tokenised. `raw`: in the text as given to engine_encode(), as upstream does: where cleaning moved characters, its
 * ranges are off by as many. ERR_ARG for prompts without text of their own (from token ids, or blended). */
int prompt_shot_spans(const prompt *p, bool raw, shot_spans *out, err *e);
/* The embedding, host memory: f32 [prompt_n_tokens, prompt_dim]. */
float *prompt_rows(prompt *p);
int prompt_dim(const prompt *p);
/* Scales the rows of the given tokens (prompt weights, method "multiply"; harness.md 1.5). */
void prompt_scale(prompt *p, const int *tokens, int n, double weight);
/* "interpolation": row = eos + (row - eos) * weight with the embedding of </s>. */
void prompt_interpolate(prompt *p, const int *tokens, int n, double weight);
typedef enum { BLEND_LERP, BLEND_SLERP } blend_kind;
/* Between two prompts of one engine, t in 0..1; rows the shorter one lacks count as zeros; slerp falls back to lerp row by
 * row where the rows are parallel (harness.md 1.7). */
int prompt_blend(prompt **out, const prompt *a, const prompt *b, double t, blend_kind kind, err *e);

/* ---- VACE: reference images, control video, mask (docs/vace.md) ---- */

typedef struct vace_inputs {                 /* host memory, borrowed during engine_vace_encode(); with a causal model until the condition is freed */
    int width, height, frames;               /* of the video; pixels, as in run_params */
    int n_references;
    const float *const *references;          /* f32 [3, height, width] each, in [-1, 1] */
    const float *control;                    /* f32 [3, frames, height, width] in [-1, 1], or NULL for mid-grey */
    const float *mask;                       /* f32 [frames, height, width], 1 = to be made, or NULL for everywhere */
} vace_inputs;

/* `n` frames from frame `first` on, f32 [3, n, height, width] of a control or [n, height, width] of a mask, into host memory. Each is asked for
 * once, in their order. */
typedef int (*vace_frames_fn)(int64_t first, int64_t n, float *out, void *user, err *e);
typedef struct vace_source {
    vace_frames_fn control, mask;            /* NULL: there is none */
    void *user;
} vace_source;

typedef struct vace_condition vace_condition;

/* Does this model have VACE weights? ERR_CONFIG with what to do if not. */
int engine_check_vace(const engine *g, err *e);
/* Encodes with the VAE. NaN and infinity are refused with their place. With a causal model only the references are encoded here: control and
 * mask follow when the blocks are made that they condition, once for all runs, and wait on the host for the next run. */
int engine_vace_encode(engine *g, const vace_inputs *in, vace_condition **out, err *e);
/* The same for a causal model whose control and mask come from `from` (copied) as blocks are made; those of `in` are NULL. A run that begins
 * in the middle asks for everything up to there first. After an error of `from` every further block gives the same error. */
int engine_vace_follow(engine *g, const vace_inputs *in, const vace_source *from, vace_condition **out, err *e);
void vace_condition_free(vace_condition *c);
const tensor *vace_condition_context(const vace_condition *c);   /* f32 [96, latent frames + references, height/8, width/8]; empty for a causal
                                                                  * model, whose blocks get theirs one after another */

/* ---- runs ---- */

typedef enum { NOISE_TORCH_CPU, NOISE_TORCH_CUDA } noise_kind;

/* Several shots in one video, as HoloCine makes them (core/dit/shots.h). The conditional prompt has a global caption and one
 * caption a shot; every shot sees the global caption and its own. */
enum { SHOT_MASK_NONE = -1 };
typedef struct run_shots {
    int n_cuts;                              /* 0: one shot */
    const int *cuts;                         /* first pixel frame of each shot but the first: 4n+1, ascending */
    bool sparse;                             /* sparse attention between shots, for checkpoints trained with it; in both passes */
    int mask_channel;                        /* shot_mask_kind, or SHOT_MASK_NONE; for checkpoints with 17 input channels */
    bool raw_spans;                          /* prompt_shot_spans() */
    bool lenient;                            /* where captions and shots do not fit, go on without a mask as upstream does (logged) */
} run_shots;
#define RUN_SHOTS_INIT { 0, NULL, false, SHOT_MASK_NONE, false, false }

/* Skip-layer guidance (H1111 wan2_generate_video.py, run_sampling), in guided steps only: the prediction of a model that leaves
 * out some blocks shows where not to go. v = u + g (c - u) + scale (c - k), k the pass with the negative prompt without them;
 * or, `uncond`, u itself is that pass and there is no third one. */
typedef struct run_skip {
    int n_layers;
    const int *layers;                       /* blocks from 0, each once */
    double scale;
    int begin, end;                          /* steps begin .. end - 1 */
    bool uncond;
} run_skip;

/* Context windows (core/sample/windows.h, lengths in latent frames): each pass of each step is computed window by window, positions
 * starting at 0 in each, and averaged. Only where the video is longer than a window. Hooks inside the model see nothing of it. */
typedef window_options run_windows;

typedef struct run_params {
    int width, height, frames;               /* pixels, multiples of 16; 4n+1 */
    uint64_t seed;
    const float *initial_noise;              /* NULL: drawn from the seed; else latents of the run's shape to start from */
    noise_kind noise;
    int noise_sms, noise_threads_per_sm;     /* for NOISE_TORCH_CUDA: the GPU whose noise is wanted (132, 2048: H200) */
    solver_kind solver;
    int steps;
    double shift;
    double boundary;                         /* two experts: the high-noise one works while timestep >= 1000 * boundary */
    const prompt *const *cond;               /* n_cond is 1, or steps: one a step */
    int n_cond;
    const prompt *uncond;                    /* may be NULL when every guidance is 1 */
    const double *guidance;                  /* n_guidance is 1, or steps. 1 skips the unconditional pass */
    int n_guidance;
    const run_shots *shots;                  /* NULL: an ordinary video */
    const run_skip *skip;                    /* NULL: none */
    const run_windows *windows;              /* NULL: none */
    bool latents_bf16;                       /* round latents, guidance, Euler update and timestep to bf16 as DiffSynth does
                                              * (wan_video_holocine.py:455-478); SOLVER_DIFFSYNTH_EULER only */
    /* VACE. With every scale 0 the run is exactly the one without. */
    vace_condition *vace;                    /* NULL: none. A causal run encodes what it reaches first */
    int vace_references;                     /* those of `vace`; known before it is encoded, since each adds a latent frame (not in causal runs) */
    const double *vace_scale;                /* n_vace_scale is 0 (then 1 throughout), 1, or steps */
    int n_vace_scale;
    const double *vace_block_scale;          /* one factor a VACE block, or NULL */
    /* NULL but for causal models: window, blocks and steps. Sizes, seed, shift and generator are those above. There is no guidance;
     * cond[i] rules from latent frame prompt_at[i] on (prompt_at[0] is 0), from the next block's beginning. */
    const causal_options *causal;
    const int64_t *prompt_at;
    bool latents_only;                       /* nothing will be decoded: the plan of memory leaves no room for it */
} run_params;
#define RUN_PARAMS_INIT { 0, 0, 0, 0, NULL, NOISE_TORCH_CPU, 132, 2048, SOLVER_UNIPC, 50, 5, 0.875, NULL, 0, NULL, NULL, 0, \
                          NULL, NULL, NULL, false, NULL, 0, NULL, 0, NULL, NULL, NULL, false }

/* What engine_run() will do: noise levels, timesteps and, per step, the expert (0 high noise or only, 1 low noise; room for
 * `steps`; may be NULL). schedule_release() it. */
int engine_schedule(const engine *g, const run_params *r, schedule *out, int *expert, err *e);

/* Latent shape of a run: [16, (frames-1)/4+1, height/8, width/8], with one frame a VACE reference in front. Checks sizes. */
int engine_latent_shape(const engine *g, const run_params *r, int64_t shape[4], err *e);

/* Denoises. *latents is allocated (f32, shape above without the frames of references, on the engine's device) and the caller frees it with tensor_free().
 * Hooks see HOOK_LATENTS 0..steps, HOOK_VELOCITY and the points inside the model, the conditional pass first.
 * NaN or infinity in a step stops the run with ERR_NAN, naming the step and, if the weights are the cause, the tensor. */
int engine_run(engine *g, const run_params *r, const hooks *h, tensor *latents, err *e);

/* ---- causal runs, block by block (core/causal.h has the rules) ---- */

typedef struct engine_clip engine_clip;

/* `r` (with `causal`) and its prompts must live until the end. Frames are decoded when the engine has a VAE. */
int engine_clip_begin(engine_clip **out, engine *g, const run_params *r, err *e);
void engine_clip_end(engine_clip *c);        /* NULL is harmless */
/* The next block of latents [16, block, height/8, width/8]; the caller frees it. Switches the prompt where one is due. */
int engine_clip_next(engine_clip *c, const hooks *h, tensor *latents, err *e);
int engine_clip_decode(engine_clip *c, const tensor *latents, frame_fn fn, void *user, err *e);
void engine_clip_decode_anew(engine_clip *c);         /* the next latents to decode are the clip's first again */
int64_t engine_clip_blocks(const engine_clip *c);     /* made so far */
/* Which of the prompts rules block `block` (from 0): switches come one a block, so two at once take two blocks. */
int engine_clip_prompt_of(const run_params *r, int64_t block);
int engine_clip_save(engine_clip *c, const char *path, const char *identity, err *e);
/* Right after engine_clip_begin(). */
int engine_clip_load(engine_clip *c, const char *path, const char *identity, err *e);

/* ---- device memory ---- */

/* What a run takes on the device, and what is done to make it fit. The run allocates by this plan. Bytes; all 0 but blocks_to_swap, decode_bands,
 * host_bytes and the parts' sizes on the CPU. */
typedef struct engine_memory {
    int blocks_to_swap;          /* of each expert, in host memory (core/dit/dit_swap.h) */
    bool streams_text;           /* the text encoder is read from its file layer by layer for every prompt */
    bool releases_vae;           /* the VAE is loaded for every use */
    int decode_bands;            /* the decoder makes a picture in so many bands of rows (core/vae/vae.h), the same bytes; 1: whole */
    bool one_expert;             /* of two experts one is open at a time, and read from its file when its turn comes */
    int64_t runtime_bytes;       /* CUDA itself: context, code, libraries */
    int64_t dit_bytes;           /* weights of the diffusion model that stay */
    int64_t slot_bytes;          /* room for blocks on their way */
    int64_t work_bytes;          /* activations of a step */
    int64_t latent_bytes;        /* latents, the sampler's history, text contexts; keys and values of a causal model */
    int64_t text_bytes;          /* the text encoder while it works */
    int64_t text_kept_bytes;     /* of that, what stays */
    int64_t vae_bytes;           /* weights of the VAE */
    int64_t decode_bytes;        /* its activations */
    int64_t device_bytes;        /* the peak of encoding, denoising and decoding, as the driver reports it */
    int64_t limit_bytes;         /* what may be used; 0: no limit */
    int64_t host_bytes;          /* pinned */
} engine_memory;
/* ERR_MEMORY with numbers and what to change if it cannot fit (*out is then the smallest plan), ERR_CONFIG for more blocks than there are. */
int engine_plan_memory(const engine *g, const run_params *r, engine_memory *out, err *e);
/* Takes the plan of this run into use, before prompts are encoded: engine_run() does the same, later than the text encoder loads. */
int engine_prepare(engine *g, const run_params *r, err *e);

/* Decodes and hands out 8-bit RGB frames in order as they are made (vae_decode_rgb). A callback's error stops the decoding. */
int engine_decode(engine *g, const tensor *latents, frame_fn fn, void *user, err *e);

/* Estimates for a forecast, from shapes alone. */
typedef struct engine_cost {
    double flops_step;           /* one step: both branches of guidance */
    double flops_text;           /* one prompt */
    double flops_decode;
    int64_t weight_bytes;        /* of all parts, as held by this engine */
    int64_t activation_bytes;    /* peak of denoising */
    int64_t decode_bytes;        /* peak of decoding, pictures made whole */
    engine_memory memory;        /* the plan, also where it does not fit */
} engine_cost;
int engine_forecast(const engine *g, const run_params *r, engine_cost *out, err *e);

#endif
