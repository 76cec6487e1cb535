/* config: every setting of a run, from YAML and --set, checked and resolved. For people: docs/config.md.
 *
 *     config c;
 *     config_notes notes = {0};
 *     const char *sets[] = { "model.seed=7" };
 *     if (config_load(&c, "configs/default.yaml", sets, 1, &notes, &e)) ...     e.text: "file:line:column: ..."
 *     for (int i = 0; i < notes.n; i++) log_msg(LOG_WARN, "%s", notes.items[i]);
 *     ... open the checkpoint, learn its family ...
 *     config_resolve(&c, "wan2.1", &e);              "auto" becomes numbers
 *     config_write(&c, &text, &e);                   loading that again gives an equal config
 *     config_release(&c);
 *     config_notes_release(&notes);
 *
 * All settings come from one table (config_schema.c): key, type, range, default, help. Files, --set, defaults, the
 * resolved file and the reference all go through it.
 *
 * Texts are never NULL; "" means not given. Numbers that may be "auto" hold CONFIG_AUTO until config_resolve(). */
#ifndef WANSCOPE_CONFIG_H
#define WANSCOPE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"
#include "core/sample/schedule.h"
#include "experiments/int_ranges.h"
#include "experiments/schedule_text.h"

#define CONFIG_AUTO (-1)

/* model.family; other families come with the issues that bring them */
typedef enum { FAMILY_AUTO, FAMILY_WAN21, FAMILY_WAN22_A14B, FAMILY_HOLOCINE, FAMILY_VACE, FAMILY_LONGLIVE } config_family;
typedef enum { PRECISION_EXACT, PRECISION_BF16, PRECISION_FP8 } config_precision;
typedef enum { CONFIG_NOISE_TORCH_CPU, CONFIG_NOISE_TORCH_CUDA } config_noise;
typedef enum { LATENT_F32, LATENT_BF16 } config_latent_dtype;
typedef enum { STORE_F32, STORE_F16 } config_store_dtype;
typedef enum { NEGATIVE_WAN, NEGATIVE_NONE } config_negative;
/* How (word:1.5) acts on the word's rows E of the text embedding. norm_preserving is the identity (harness.md 1.5). */
typedef enum { WEIGHTING_MULTIPLY, WEIGHTING_INTERPOLATION, WEIGHTING_NORM_PRESERVING,
               WEIGHTING_NONE } config_weighting;
typedef enum { CFG_SKIP_NONE, CFG_SKIP_EARLY, CFG_SKIP_LATE, CFG_SKIP_EARLY_LATE, CFG_SKIP_MIDDLE, CFG_SKIP_ALTERNATE } config_cfg_skip;
typedef enum { SLG_ORIGINAL, SLG_UNCOND } config_slg;
/* shots.sparse: auto follows the name of the checkpoint */
typedef enum { SPARSE_AUTO, SPARSE_NO, SPARSE_YES } config_sparse;
typedef enum { SHOT_CHANNEL_NONE, SHOT_CHANNEL_ID, SHOT_CHANNEL_NORMALIZED, SHOT_CHANNEL_ALTERNATING } config_shot_channel;
typedef enum { SPANS_CLEANED, SPANS_RAW } config_spans;
typedef enum { OFFLOAD_AUTO, OFFLOAD_NONE, OFFLOAD_ALL } config_offload;

typedef enum { CONTROL_VIDEO, CONTROL_DEPTH, CONTROL_EDGES } config_control;

typedef struct string_list {
    int n;
    char **items;
} string_list;

typedef struct frame_list {
    bool given;                /* false: auto */
    int n;
    int64_t *items;
} frame_list;

typedef struct number_list {
    int n;
    double *items;
} number_list;

typedef struct lora_setting {
    char *path;
    double multiplier;
    int expert;                /* lora_expert of core/engine.h: both, high, low */
    char *include, *exclude;   /* patterns of tensor names, or NULL */
} lora_setting;

typedef struct lora_list {
    int n;
    lora_setting *items;
} lora_list;

typedef struct config {
    struct {
        char *path;            /* checkpoint folder or file */
        char *dit, *dit_low, *t5, *vae, *tokenizer;   /* single parts in place of those found in path */
        int family;            /* config_family */
        char *device;          /* "auto", "cpu", "cuda", "cuda:N" */
        int precision;         /* config_precision */
        int64_t seed;          /* of video 0 of every variation; video k has seed + k */
        int64_t text_len;      /* 0: from the checkpoint */
        int64_t threads;       /* 0: all cores */
        bool clean_ftfy;
        lora_list lora;        /* adapters, in the order they are merged */
        char *vace;            /* VACE weights for this base */
        bool fp8_scaled;       /* round the matrices of blocks to 8 bits when they are read */
    } model;
    struct {
        int64_t width, height; /* pixels, multiples of 16 */
        int64_t frames;        /* 4k+1 */
        double fps;
        int64_t crf;           /* of x264, 0 lossless .. 51 */
        double duration;       /* seconds; only read: becomes frames */
        double quality;        /* 0..10; only read: becomes crf */
    } video;
    struct {
        int solver;            /* solver_kind */
        int64_t steps;
        double shift;
        double guidance_scale;       /* of the only, or the high-noise, expert */
        double guidance_scale_low;   /* of the low-noise expert */
        double boundary;             /* of the two experts, in sigma: the high-noise one from there up */
        int noise;             /* config_noise */
        int64_t noise_sms, noise_threads_per_sm;   /* geometry of the GPU whose noise torch-cuda reproduces */
        int latent_dtype;      /* config_latent_dtype */
        int cfg_skip;          /* config_cfg_skip */
        double cfg_ratio;
        int_ranges slg_layers; /* blocks that skip-layer guidance leaves out; empty: none of it */
        double slg_scale, slg_start, slg_end;
        int slg_mode;          /* config_slg */
        bool context_windows;  /* core/sample/windows.h; lengths in frames */
        int64_t context_length, context_overlap, context_stride;
        int context_schedule;  /* window_schedule */
        bool context_closed_loop;
        int context_fuse;      /* window_fuse */
    } sampling;
    struct {
        char *template;
        char *template_file;   /* only read: becomes template */
        prompt_schedule timeline;   /* only read: becomes template (experiments/timeline.h) */
        char *negative;
        int negative_default;  /* config_negative: what an empty negative prompt means */
        int weighting;         /* config_weighting */
    } prompt;
    struct {
        char *global_caption;        /* only read: with captions becomes prompt.template */
        string_list captions;
        frame_list cut_frames;       /* given: a multi-shot video; 4n+1, ascending */
        int sparse;                  /* config_sparse; not auto in a runner's configuration */
        int mask_type;               /* config_shot_channel */
        int spans;                   /* config_spans */
        bool strict;                 /* refuse what upstream lets pass without a mask */
    } shots;
    struct {
        guidance_schedule guidance;    /* n == 0: guidance_scale throughout */
        int guidance_interpolation;    /* guidance_interpolation */
        prompt_schedule prompt;        /* n > 0: in place of the template's prompt */
        int prompt_interpolation;      /* prompt_interpolation */
    } schedules;
    struct {                       /* models that make video block by block */
        int64_t blocks;        /* only read: becomes video.frames */
        int64_t frames_per_block, window, sink;    /* latent frames; window -1: the whole clip */
        bool global_sink, warp, hard_cut;
        string_list timesteps; /* empty: spread evenly over sampling.steps */
        double context_noise;
        int draws;             /* causal_draws */
        char *lora;            /* "": beside the model; "none" */
        double lora_alpha;     /* 0: the adapter's rank */
        int64_t save_every;    /* blocks between saved states, 0: none */
    } causal;
    struct {
        string_list references;        /* images, at most 4 */
        char *control;                 /* a video, or depth maps */
        int control_type;              /* config_control */
        char *mask;                    /* a video or an image; white is made anew */
        double scale;
        guidance_schedule scale_by_step;   /* n == 0: scale throughout */
        number_list scale_by_block;    /* one factor a VACE block */
        int depth_normalise;           /* depth_normalise of depth.h */
        bool depth_invert;
        int64_t depth_smooth;          /* frames */
    } vace;
    struct {
        int64_t blocks_to_swap;
        int offload;           /* config_offload */
        int64_t budget;        /* bytes of device memory, 0: all there is */
    } memory;
    struct {
        bool enabled;
        int dtype;             /* config_store_dtype */
        int64_t every;         /* steps between stored rows; noise and result are always stored */
        bool velocity;
        int64_t compression;   /* gzip level, 0 none */
    } latents;                 /* capture.latents */
    struct {
        bool enabled;
        string_list words;     /* empty: the marked words of each variation */
        int_ranges steps;      /* of the steps 0 .. steps-1 */
        int64_t every;         /* and of those every n-th */
        int_ranges layers;
        int_ranges heads;      /* .mean: averaged over heads */
        int dtype;             /* config_store_dtype */
        int64_t compression;
    } attention;               /* capture.attention */
    struct {
        bool enabled, apply_to_output, apply_before_softmax;
        bool variations_enabled, generate_baseline, renormalize;
    } bending;                 /* read and checked, but refused when enabled: not in this version */
    struct {
        char *name;            /* "": named after the config file */
        int64_t videos_per_variation;
        int_ranges variations; /* which variations of the template */
        int64_t limit;         /* at most so many variations, 0: all of them */
        int64_t max_failures;  /* stop after so many failed runs, 0: never */
    } batch;
    struct {
        char *dir;
        bool use_timestamp;    /* appended to the batch's name */
        bool video, preview;   /* write video.mp4, preview.png */
    } output;
} config;

/* Sentences that are no errors: old keys without effect, values that were derived. */
typedef struct config_notes {
    int n;
    char **items;
} config_notes;

void config_notes_release(config_notes *notes);

/* Defaults, then the file (NULL: none), then the assignments "section.key=value" in order, then everything that
 * concerns more than one setting. On failure `c` holds nothing. `notes` may be NULL. Relative paths in the file are
 * taken from the current folder or, when nothing is there, from the file's folder. */
int config_load(config *c, const char *path, const char *const *sets, int n_sets, config_notes *notes, err *e);
/* The same with the file's text in memory; `name` may hold a folder and is used in messages. */
int config_parse(config *c, const char *text, size_t len, const char *name, const char *const *sets, int n_sets,
                 config_notes *notes, err *e);
void config_release(config *c);     /* harmless on a zeroed config */

/* Replaces CONFIG_AUTO by what the model's authors recommend; `family` as in model_files ("wan2.1", "wan2.2-a14b" ...).
 * Then checks what needs the number of steps. Settings without "auto" stay. */
int config_resolve(config *c, const char *family, err *e);

/* Every setting as YAML, one a line. */
int config_write(const config *c, str *out, err *e);
bool config_equal(const config *a, const config *b);

/* The negative prompt to encode: the given one, or the official one, or "". Borrowed. */
const char *config_negative_prompt(const config *c);
extern const char CONFIG_WAN_NEGATIVE[];

/* Spelling of an enum value of a setting ("sampling.solver", SOLVER_UNIPC) -> "unipc"; "" for what does not exist. */
const char *config_enum_name(const char *key, int value);

/* "both", "high" or "low". */
const char *lora_expert_name(int expert);

/* The tables of docs/config.md in Markdown; a test holds the document to them. */
void config_reference(str *out);

#endif
