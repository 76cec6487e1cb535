/* wanscope generate: one video from flags alone, with the command line of H1111's Wan 2.2 script. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "core/dit/shots.h"
#include "experiments/build_id.h"
#include "experiments/flags.h"
#include "experiments/from_video.h"
#include "experiments/interrupt.h"
#include "experiments/prompt_file.h"
#include "experiments/run_one.h"
#include "experiments/yaml_reader.h"

int cmd_generate(int argc, char **argv);

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const char HELP[] =
    "usage: wanscope generate --prompt TEXT --ckpt-dir PATH --save-path PATH [options]\n"
    "\n"
    "Makes one video from a prompt and prints its path. The prompt is taken as it is: brackets and parentheses have no\n"
    "meaning here ('wanscope run' expands templates). Settings that are not given are those the model's authors recommend.\n"
    "\n"
    "model\n"
    "  --ckpt-dir PATH | --model PATH   folder as its authors publish it, or a single file\n"
    "  --dit FILE                       diffusion model, in place of the one found there\n"
    "  --dit-high-noise FILE --dit-low-noise FILE    the two experts of Wan 2.2 A14B\n"
    "  --dual-dit-boundary B            noise level at which the experts change (0.875)\n"
    "  --t5 FILE  --vae FILE  --tokenizer DIR\n"
    "  --lora-weight FILE...            adapters of the low-noise expert or the only model; --lora-weight-high FILE... those of\n"
    "                                   the high-noise one: for both, name a file in both\n"
    "  --lora-multiplier M...           one an adapter, in their order (1); --lora-multiplier-high M...\n"
    "  --include-patterns RE...  --exclude-patterns RE...    one an adapter, '' for none: tensors of it that are merged (docs/lora.md);\n"
    "                                   --include-patterns-high RE...  --exclude-patterns-high RE...\n"
    "  --fp8-scaled                     the weights of the blocks rounded to 8 bits (docs/lora.md)\n"
    "  --task NAME                      t2v-1.3B, t2v-14B, t2v-A14B, longlive-1.3B: checked against the files\n"
    "  --device auto|cpu|cuda|cuda:N  --precision exact|bf16|fp8   --threads N\n"
    "  --blocks-to-swap N               transformer blocks kept in host memory and streamed; --max-device-memory 8GiB chooses it\n"
    "\n"
    "video\n"
    "  --prompt TEXT  --negative-prompt TEXT (empty: the official one, with\n"
    "                                   --negative-default none the empty text)\n"
    "  --video-size H W (256 256), or --height H --width W: multiples of 16\n"
    "  --video-length N | --frames N    4n+1 frames (81)\n"
    "  --fps R                          (16; HoloCine 15)\n"
    "  --infer-steps N | --steps N      (50; Wan A14B 40)\n"
    "  --guidance-scale G               1 switches guidance off (5; Wan A14B 4 and 3)\n"
    "  --guidance-scale-low G           of the low-noise expert\n"
    "  --cfg-skip-mode M --cfg-apply-ratio R    leave guidance out of some steps (docs/config.md)\n"
    "  --slg-layers A,B --slg-mode original|uncond --slg-scale S --slg-start R --slg-end R    skip-layer guidance\n"
    "  --use-context-windows            for videos longer than the model's length: --context-length N (81) --context-overlap N (30)\n"
    "                                   --context-schedule NAME --context-fuse-method NAME --context-stride N --context-closed-loop\n"
    "  --flow-shift S | --shift S       (5; Wan A14B 12)\n"
    "  --sample-solver NAME | --solver NAME    unipc, dpm++, flowmatch, or a name of sampling.solver\n"
    "  --seed N                         (random; -1 too)\n"
    "  --cpu-noise | --cuda-noise       noise of PyTorch's CPU (default) or CUDA generator\n"
    "\n"
    "VACE (docs/vace.md)\n"
    "  --vace FILE                      VACE weights for the model; not needed where the model is the VACE release\n"
    "  --ref-image FILE...              up to 4 images of what should appear\n"
    "  --control-video FILE             a video to follow; --control-type video|depth|edges says how\n"
    "  --depth-normalise none|clip|frame  --depth-invert  --depth-smooth N\n"
    "  --mask-video FILE                video or image, white where the video is made anew\n"
    "  --vace-scale S                   strength of all of these (1)\n"
    "\n"
    "several shots (HoloCine; docs/holocine.md)\n"
    "  --global-caption TEXT --shot-captions TEXT TEXT ...    in place of --prompt; needs --video-length\n"
    "  --prompt '[global caption] ... [per shot caption] ... [shot cut] ...'    the same as one text; needs the cuts\n"
    "  --shot-cut-frames N N ...        first frame of each shot but the first (with captions: evenly spaced)\n"
    "  --sparse true|false              sparse attention between shots (as the checkpoint's name says)\n"
    "  --shot-mask-type id|normalized|alternating    for checkpoints with 17 input channels\n"
    "  --shot-spans cleaned|raw  --lenient-shots  --latent-dtype f32|bf16    as upstream computes\n"
    "\n"
    "  --from-file FILE                 a video for each line of FILE: 'prompt --d seed --w width --h height --f frames --s steps\n"
    "                                   --g guidance --fs shift --n negative'; '#' begins a comment; --save-path is a folder\n"
    "\n"
    "repeating\n"
    "  --from-video FILE                everything but the model as the .mp4 or .png FILE says it was made; further options win\n"
    "\n"
    "output\n"
    "  --save-path PATH | --output PATH    a file (.mp4, .y4m, for latents .safetensors) or a folder, in which the name is\n"
    "                                   made of date, time and seed\n"
    "  --output-type video|images|latent|both    both: video and latent\n"
    "  --crf N                          0 lossless .. 51 (10)\n"
    "  --preview N                      every N steps a rough look at the latents, previews/latent_preview.mp4 beside the video\n"
    "  --preview-suffix TEXT            behind the name of that file\n"
    "  --no-metadata                    leave the parameters out of the file\n"
    "\n"
    "LongLive (video block by block; docs/longlive.md)\n"
    "  --prompt 'A [at 21] B'           B rules from latent frame 21 on\n"
    "  --blocks N                       length in blocks of 12 frames (the first has 9), in place of --video-length\n"
    "  --stdout y4m                     frames to standard output as they are made; needs no --save-path. To watch:\n"
    "                                   wanscope generate ... --stdout y4m | ffplay -\n"
    "  --resume-dir DIR                 keeps states in DIR and goes on from the one found there; removed at the end\n"
    "\n"
    "  --quiet | --verbose | --help | --version\n";

#define TEXT_ONLY "image-to-video and Fun-Control models are not in this build; --ref-image, --control-video and --mask-video condition a VACE model"
#define MERGE "'wanscope convert IN OUT --lora FILE:0.8' writes a model with adapters merged"

static const flag_spec FLAGS[] = {
    { "prompt", 1, NULL, NULL, NULL },
    { "negative-prompt", 1, "prompt.negative", NULL, NULL },
    { "negative-default", 1, "prompt.negative_default", NULL, NULL },
    { "ckpt-dir", 1, "model.path", NULL, NULL },
    { "model", 1, "model.path", NULL, NULL },
    { "task", 1, NULL, NULL, NULL },
    { "dit", 1, "model.dit", NULL, NULL },
    { "dit-high-noise", 1, "model.dit", NULL, NULL },
    { "dit-low-noise", 1, "model.dit_low", NULL, NULL },
    { "dual-dit-boundary", 1, "sampling.boundary", NULL, NULL },
    { "t5", 1, "model.t5", NULL, NULL },
    { "vae", 1, "model.vae", NULL, NULL },
    { "tokenizer", 1, "model.tokenizer", NULL, NULL },
    { "lora-weight", FLAG_LIST, NULL, NULL, NULL },
    { "lora-multiplier", FLAG_LIST, NULL, NULL, NULL },
    { "lora-weight-high", FLAG_LIST, NULL, NULL, NULL },
    { "lora-multiplier-high", FLAG_LIST, NULL, NULL, NULL },
    { "vace", 1, "model.vace", NULL, NULL },
    { "ref-image", FLAG_LIST, NULL, NULL, NULL },
    { "control-video", 1, "vace.control", NULL, NULL },
    { "control-type", 1, "vace.control_type", NULL, NULL },
    { "mask-video", 1, "vace.mask", NULL, NULL },
    { "vace-scale", 1, "vace.scale", NULL, NULL },
    { "depth-normalise", 1, "vace.depth_normalise", NULL, NULL },
    { "depth-invert", 0, "vace.depth_invert", "true", NULL },
    { "depth-smooth", 1, "vace.depth_smooth", NULL, NULL },
    { "device", 1, "model.device", NULL, NULL },
    { "precision", 1, "model.precision", NULL, NULL },
    { "threads", 1, "model.threads", NULL, NULL },
    { "text-len", 1, "model.text_len", NULL, NULL },
    { "video-size", 2, NULL, NULL, NULL },
    { "width", 1, "video.width", NULL, NULL },
    { "height", 1, "video.height", NULL, NULL },
    { "video-length", 1, "video.frames", NULL, NULL },
    { "frames", 1, "video.frames", NULL, NULL },
    { "num-frames", 1, "video.frames", NULL, NULL },
    { "fps", 1, "video.fps", NULL, NULL },
    { "infer-steps", 1, "sampling.steps", NULL, NULL },
    { "steps", 1, "sampling.steps", NULL, NULL },
    { "guidance-scale", 1, "sampling.guidance_scale", NULL, NULL },
    { "guidance-scale-low", 1, "sampling.guidance_scale_low", NULL, NULL },
    { "flow-shift", 1, "sampling.shift", NULL, NULL },
    { "shift", 1, "sampling.shift", NULL, NULL },
    { "sample-solver", 1, NULL, NULL, NULL },
    { "solver", 1, NULL, NULL, NULL },
    { "seed", 1, NULL, NULL, NULL },
    { "cpu-noise", 0, "sampling.noise", "torch-cpu", NULL },
    { "cuda-noise", 0, "sampling.noise", "torch-cuda", NULL },
    { "from-video", 1, NULL, NULL, NULL },
    { "from-file", 1, NULL, NULL, NULL },
    { "blocks", 1, "causal.blocks", NULL, NULL },
    { "lora-alpha", 1, "causal.lora_alpha", NULL, NULL },
    { "stdout", 1, NULL, NULL, NULL },
    { "resume-dir", 1, NULL, NULL, NULL },
    { "save-path", 1, NULL, NULL, NULL },
    { "output", 1, NULL, NULL, NULL },
    { "output-type", 1, NULL, NULL, NULL },
    { "crf", 1, "video.crf", NULL, NULL },
    { "quality", 1, "video.quality", NULL, NULL },
    { "preview", 1, NULL, NULL, NULL },
    { "preview-suffix", 1, NULL, NULL, NULL },
    { "no-metadata", 0, NULL, NULL, NULL },
    { "quiet", 0, NULL, NULL, NULL },
    { "verbose", 0, NULL, NULL, NULL },
    /* of H1111: they choose how its program computes, not what */
    { "attn-mode", 1, NULL, "ignored", NULL },
    { "compile", 0, NULL, "ignored", NULL },
    { "blocks-to-swap", 1, "memory.blocks_to_swap", NULL, NULL },
    { "max-device-memory", 1, "memory.budget", NULL, NULL },
    { "vae-cache-cpu", 0, NULL, "ignored", NULL },
    { "vae-dtype", 1, NULL, "ignored", NULL },
    { "dtype", 1, NULL, "ignored", NULL },
    { "fp8", 0, NULL, "ignored", NULL },
    { "fp8-scaled", 0, "model.fp8_scaled", "true", NULL },
    { "fp8-fast", 0, NULL, "ignored", NULL },
    { "fp8-t5", 0, NULL, "ignored", NULL },
    { "mixed-dtype", 0, NULL, "ignored", NULL },
    { "lycoris", 0, NULL, "ignored", NULL },
    { "tiled", 0, NULL, "ignored", NULL },
    { "enable-vram-management", 0, NULL, "ignored", NULL },
    { "offload-device", 1, NULL, "ignored", NULL },
    { "compile-args", FLAG_LIST, NULL, "ignored", NULL },
    { "global-caption", 1, NULL, NULL, NULL },
    { "shot-captions", FLAG_LIST, NULL, NULL, NULL },
    { "shot-cut-frames", FLAG_LIST, NULL, NULL, NULL },
    { "shot-mask-type", 1, "shots.mask_type", NULL, NULL },
    { "sparse", 1, "shots.sparse", NULL, NULL },
    { "shot-spans", 1, "shots.spans", NULL, NULL },
    { "lenient-shots", 0, "shots.strict", "false", NULL },
    { "family", 1, "model.family", NULL, NULL },
    { "latent-dtype", 1, "sampling.latent_dtype", NULL, NULL },
    /* of H1111: known, not in this build */
    { "image-path", 1, NULL, NULL, TEXT_ONLY },
    { "end-image-path", 1, NULL, NULL, TEXT_ONLY },
    { "video-path", 1, NULL, NULL, TEXT_ONLY },
    { "strength", 1, NULL, NULL, TEXT_ONLY },
    { "v2v-low-noise-only", 0, NULL, NULL, TEXT_ONLY },
    { "v2v-use-i2v", 0, NULL, NULL, TEXT_ONLY },
    { "control-path", 1, NULL, NULL, TEXT_ONLY },
    { "control-start", 1, NULL, NULL, TEXT_ONLY },
    { "control-end", 1, NULL, NULL, TEXT_ONLY },
    { "control-weight", 1, NULL, NULL, TEXT_ONLY },
    { "control-falloff-percentage", 1, NULL, NULL, TEXT_ONLY },
    { "extend-video", 1, NULL, NULL, TEXT_ONLY },
    { "extend-frames", 1, NULL, NULL, TEXT_ONLY },
    { "frames-to-check", 1, NULL, NULL, TEXT_ONLY },
    { "motion-frames", 1, NULL, NULL, TEXT_ONLY },
    { "force-low-noise", 0, NULL, NULL, TEXT_ONLY },
    { "force-high-noise", 0, NULL, NULL, TEXT_ONLY },
    { "extension-dual-dit-boundary", 1, NULL, NULL, TEXT_ONLY },
    { "inject-motion-timesteps", 1, NULL, NULL, TEXT_ONLY },
    { "injection-strength", 1, NULL, NULL, TEXT_ONLY },
    { "motion-noise-ratio", 1, NULL, NULL, TEXT_ONLY },
    { "color-match", 1, NULL, NULL, TEXT_ONLY },
    { "clip", 1, NULL, NULL, TEXT_ONLY },
    { "latent-path", 1, NULL, NULL, "this build decodes the latents it has just made, not stored ones" },
    { "save-merged-model", 1, NULL, NULL, MERGE },
    { "include-patterns", FLAG_LIST, NULL, NULL, NULL },
    { "exclude-patterns", FLAG_LIST, NULL, NULL, NULL },
    { "include-patterns-high", FLAG_LIST, NULL, NULL, NULL },
    { "exclude-patterns-high", FLAG_LIST, NULL, NULL, NULL },
    { "cfg-skip-mode", 1, "sampling.cfg_skip_mode", NULL, NULL },
    { "cfg-apply-ratio", 1, "sampling.cfg_apply_ratio", NULL, NULL },
    { "slg-layers", 1, "sampling.slg_layers", NULL, NULL },
    { "slg-scale", 1, "sampling.slg_scale", NULL, NULL },
    { "slg-start", 1, "sampling.slg_start", NULL, NULL },
    { "slg-end", 1, "sampling.slg_end", NULL, NULL },
    { "slg-mode", 1, "sampling.slg_mode", NULL, NULL },
    { "use-context-windows", 0, "sampling.context_windows", "true", NULL },
    { "context-length", 1, "sampling.context_length", NULL, NULL },
    { "context-overlap", 1, "sampling.context_overlap", NULL, NULL },
    { "context-schedule", 1, "sampling.context_schedule", NULL, NULL },
    { "context-stride", 1, "sampling.context_stride", NULL, NULL },
    { "context-closed-loop", 0, "sampling.context_closed_loop", "true", NULL },
    { "context-fuse-method", 1, "sampling.context_fuse_method", NULL, NULL },
    { "context-dim", 1, NULL, "ignored", NULL },
    { "trim-tail-frames", 1, NULL, NULL, "this build keeps every frame: ask for fewer with --video-length" },
};

typedef struct request {
    flags f;
    config cfg;
    bool loaded;
    bool video, images, latent;
    char *prompt_template;         /* the prompt with every special character escaped, or what captions become */
    bool structured;               /* captions in place of a prompt */
    int64_t seed;
    int number;                    /* of a prompt of --from-file, from 1; 0: the only one */
    json *recorded;                /* of --from-video */
} request;

static char *escaped(const char *text)
{
    str out = STR_INIT;
    for (; *text; text++) {
        if (strchr("[]()|:=\\", *text))
            str_addc(&out, '\\');
        str_addc(&out, *text);
    }
    if (!out.data)
        return str_dup("");
    return str_take(&out);
}

static int choose_seed(request *q, err *e)
{
    const char *text = flags_value(&q->f, "seed");
    char *end = NULL;
    errno = 0;
    long long given = text ? strtoll(text, &end, 10) : q->recorded ? json_get_int(q->recorded, "seed", -1) : -1;
    if (text && (errno || end == text || *end || given < -1 || given > INT64_C(9007199254740992)))
        return ERR(e, ERR_ARG, "--seed is '%s': expected a whole number from 0 to 9007199254740992, or -1 for a random one", text);
    q->seed = given;
    if (given < 0) {
        uint32_t drawn = (uint32_t)time(NULL);
        if (getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != sizeof drawn)
            log_msg(LOG_DEBUG, "the seed comes from the clock");
        q->seed = drawn;
    }
    return 0;
}

static const char *solver_of(const request *q)
{
    const char *name = flags_value(&q->f, "sample-solver");
    if (!name)
        name = flags_value(&q->f, "solver");
    if (!name)
        return "auto";
    if (strcmp(name, "dpm++") == 0)
        return "dpmpp";
    if (strcmp(name, "flowmatch") == 0 || strcmp(name, "holocine") == 0)
        return "diffsynth_euler";
    return name;
}

static const char *length_of(const request *q)
{
    static const char *const names[] = { "video-length", "frames", "num-frames" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (flags_given(&q->f, names[i]))
            return flags_value(&q->f, names[i]);
    return NULL;
}

static int check_choices(request *q, err *e)
{
    static const char *const tasks[] = { "t2v-1.3B", "t2v-14B", "t2v-A14B", "longlive-1.3B" };
    const char *task = flags_value(&q->f, "task"), *type = flags_value(&q->f, "output-type"), *prompt = flags_value(&q->f, "prompt");
    bool known = !task;
    for (size_t i = 0; task && i < sizeof tasks / sizeof *tasks; i++)
        known |= strcmp(task, tasks[i]) == 0;
    if (!known)
        return ERR(e, ERR_ARG, "--task is '%s': this build makes videos from text with t2v-1.3B, t2v-14B, t2v-A14B and longlive-1.3B", task);
    q->structured = flags_given(&q->f, "global-caption") || flags_given(&q->f, "shot-captions");
    if (q->structured && prompt)
        return ERR(e, ERR_ARG, "--prompt and --%s are given: a multi-shot prompt is either one text with its marks or captions, not both",
                   flags_given(&q->f, "global-caption") ? "global-caption" : "shot-captions");
    if (q->structured && !flags_given(&q->f, "shot-captions"))
        return ERR(e, ERR_ARG, "--global-caption requires --shot-captions: give one caption a shot");
    if (q->structured && !flags_given(&q->f, "global-caption"))
        return ERR(e, ERR_ARG, "--shot-captions requires --global-caption: say what all shots have in common");
    if (q->structured && !length_of(q) && !flags_given(&q->f, "from-video"))
        return ERR(e, ERR_ARG, "--video-length required for structured multi-shot input: the cuts are spaced in it");
    if (!prompt && !q->structured && !flags_given(&q->f, "from-video"))
        return ERR(e, ERR_ARG, "no prompt: give --prompt 'what is to be seen', or --global-caption and --shot-captions");
    if (prompt && !prompt[strspn(prompt, " \t\n")])
        return ERR(e, ERR_ARG, "the prompt is empty: give --prompt 'what is to be seen'");
    static const char *const others[] = { "euler", "vanilla", "step_distill" };      /* H1111's own schedules */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(solver_of(q), others[i]) == 0)
            return ERR(e, ERR_ARG, "--sample-solver %s: this build has unipc, dpm++, flowmatch, diffusers_unipc and diffusers_euler (Euler steps "
                       "on the noise levels of diffusers)", others[i]);
    if (!flags_given(&q->f, "ckpt-dir") && !flags_given(&q->f, "model") && !flags_given(&q->f, "dit") && !flags_given(&q->f, "dit-high-noise"))
        return ERR(e, ERR_ARG, "no model: give --ckpt-dir with a checkpoint's folder, or --dit, --t5, --vae and --tokenizer");
    if (flags_given(&q->f, "dit-high-noise") != flags_given(&q->f, "dit-low-noise"))
        return ERR(e, ERR_ARG, "--dit-high-noise and --dit-low-noise are the two experts of one model: give both, or --dit for a model with one");
    const char *pipe = flags_value(&q->f, "stdout");
    if (pipe && strcmp(pipe, "y4m"))
        return ERR(e, ERR_ARG, "--stdout is '%s': y4m is what can be written there", pipe);
    if (!pipe && !flags_given(&q->f, "save-path") && !flags_given(&q->f, "output"))
        return ERR(e, ERR_ARG, "no place for the video: give --save-path with a folder or a file name ending in .mp4");
    q->video = !type || strcmp(type, "video") == 0 || strcmp(type, "both") == 0;
    q->latent = type && (strcmp(type, "latent") == 0 || strcmp(type, "both") == 0);
    q->images = type && strcmp(type, "images") == 0;
    if (!q->video && !q->latent && !q->images)
        return ERR(e, ERR_ARG, "--output-type is '%s': expected video, images, latent or both", type);
    return 0;
}

static bool add(char **sets, int *n, char *text)
{
    sets[*n] = text;
    *n += text != NULL;
    return text != NULL;
}

/* Repeated flags add up: H1111's own page passes one caption a flag. */
static bool add_captions(const request *q, char **sets, int *n)
{
    str list = STR_INIT;
    char *global = escaped(flags_value(&q->f, "global-caption"));
    bool ok = global && add(sets, n, str_format("shots.global_caption=%s", global));
    str_add(&list, "shots.captions=[");
    for (size_t i = 0, seen = 0; ok && i < q->f.n_items; i++)
        for (int k = 0; ok && strcmp(q->f.items[i].spec->name, "shot-captions") == 0 && k < q->f.items[i].n_list; k++) {
            char *text = escaped(q->f.items[i].list[k]);
            str_add(&list, seen++ ? ", " : "");
            if ((ok = text != NULL))
                yml_quote(&list, text);
            free(text);
        }
    str_addc(&list, ']');
    ok = ok && !list.failed && add(sets, n, str_dup(str_text(&list)));
    str_release(&list);
    free(global);
    return ok;
}

/* "--shot-cut-frames 41 81" or "41,81" -> "shots.cut_frames=[41,81]" */
static bool add_cuts(const request *q, char **sets, int *n)
{
    str list = STR_INIT;
    bool ok = true;
    if (!flags_given(&q->f, "shot-cut-frames"))
        return true;
    str_add(&list, "shots.cut_frames=[");
    for (size_t i = 0, seen = 0; i < q->f.n_items; i++)
        for (int k = 0; strcmp(q->f.items[i].spec->name, "shot-cut-frames") == 0 && k < q->f.items[i].n_list; k++)
            if (strcmp(q->f.items[i].list[k], "none"))
                str_addf(&list, "%s%s", seen++ ? "," : "", q->f.items[i].list[k]);
    str_addc(&list, ']');
    ok = !list.failed && add(sets, n, str_dup(str_text(&list)));
    str_release(&list);
    return ok;
}

/* The scripts of HoloCine round the length of a multi-shot video to 4n+1 and say so. */
static char *frames_set(const request *q, const char *text)
{
    char *end;
    errno = 0;
    long given = strtol(text, &end, 10);
    bool shots = q->structured || flags_given(&q->f, "shot-cut-frames");
    if (!shots || errno || end == text || *end || given < 1 || given > 100000 || shots_enforce((int)given) == given)
        return str_format("video.frames=%s", text);
    log_msg(LOG_INFO, "%ld frames become %d: videos have 4n+1 frames", given, shots_enforce((int)given));
    return str_format("video.frames=%d", shots_enforce((int)given));
}

/* The next value of a list flag, however often the flag is given; NULL behind the last. */
static const char *list_value(const flags *f, const char *name, int at)
{
    for (size_t i = 0; i < f->n_items; i++)
        if (strcmp(f->items[i].spec->name, name) == 0) {
            if (at < f->items[i].n_list)
                return f->items[i].list[at];
            at -= f->items[i].n_list;
        }
    return NULL;
}

static void add_pattern(str *text, const char *key, const char *pattern)
{
    if (!pattern || !*pattern)
        return;
    str_addf(text, ", %s: ", key);
    yml_quote(text, pattern);
}

/* "model.lora=[...]" from the eight flags of H1111; NULL without any. */
static int lora_assignment(char **out, const flags *f, err *e)
{
    static const struct { const char *weight, *multiplier, *expert, *include, *exclude; } KINDS[] = {
        { "lora-weight-high", "lora-multiplier-high", "high", "include-patterns-high", "exclude-patterns-high" },
        { "lora-weight", "lora-multiplier", "low", "include-patterns", "exclude-patterns" },
    };
    str text = STR_INIT;
    int total = 0;
    *out = NULL;
    for (int k = 0; k < 2; k++) {
        int n = 0;
        const char *file, *factor;
        for (; (file = list_value(f, KINDS[k].weight, n)); n++) {
            char *end;
            factor = list_value(f, KINDS[k].multiplier, n);
            double v = factor ? strtod(factor, &end) : 1;
            if (factor && (end == factor || *end || !(v > -1e6 && v < 1e6))) {
                str_release(&text);
                return ERR(e, ERR_ARG, "--%s is '%s': expected a number", KINDS[k].multiplier, factor);
            }
            str_addf(&text, "%s{path: ", total++ ? ", " : "model.lora=[");
            yml_quote(&text, file);
            str_addf(&text, ", multiplier: %.17g, expert: %s", v, KINDS[k].expert);
            add_pattern(&text, "include", list_value(f, KINDS[k].include, n));
            add_pattern(&text, "exclude", list_value(f, KINDS[k].exclude, n));
            str_addc(&text, '}');
        }
        const char *lists[] = { KINDS[k].multiplier, KINDS[k].include, KINDS[k].exclude };
        for (int i = 0; i < 3; i++)
            if (list_value(f, lists[i], n)) {
                str_release(&text);
                return ERR(e, ERR_ARG, "--%s has more values than --%s has files (%d)", lists[i], KINDS[k].weight, n);
            }
    }
    if (!total)
        return 0;
    str_addc(&text, ']');
    *out = str_take(&text);
    return *out ? 0 : ERR(e, ERR_MEMORY, "out of memory for the command line");
}

static int reference_assignment(char **out, const flags *f, err *e)
{
    str text = STR_INIT;
    const char *file;
    *out = NULL;
    for (int n = 0; (file = list_value(f, "ref-image", n)); n++) {
        str_add(&text, n ? ", " : "vace.references=[");
        yml_quote(&text, file);
    }
    if (!text.len && !text.failed)
        return 0;
    str_addc(&text, ']');
    *out = str_take(&text);
    return *out ? 0 : ERR(e, ERR_MEMORY, "out of memory for the command line");
}

static int build_config(request *q, err *e)
{
    int rc = 0, n = 0, n_recorded = 0;
    bool ok = true;
    config_notes notes = { 0 };
    char **sets = NULL, **recorded = NULL;
    if (q->recorded && (rc = from_video_sets(&recorded, &n_recorded, q->recorded, flags_value(&q->f, "from-video"), e)))
        goto out;
    if (!(sets = calloc(q->f.n_items + 16 + (size_t)n_recorded, sizeof *sets))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    char *listed = NULL;
    ok = ok && add(sets, &n, str_dup("video.width=256")) && add(sets, &n, str_dup("video.height=256"));
    for (int i = 0; i < n_recorded; i++) {      /* sets owns them now; later ones win */
        const char *key = q->structured ? "prompt.template=" : "";
        if (*key && str_starts_with(recorded[i], key))
            continue;
        sets[n++] = recorded[i];
        recorded[i] = NULL;
    }
    TRY(lora_assignment(&listed, &q->f, e));
    add(sets, &n, listed);
    TRY(reference_assignment(&listed, &q->f, e));
    add(sets, &n, listed);
    for (size_t i = 0; ok && i < q->f.n_items; i++) {
        const flag_item *item = &q->f.items[i];
        const flag_spec *spec = item->spec;
        if (strcmp(spec->name, "video-size") == 0)
            ok = add(sets, &n, str_format("video.height=%s", item->values[0])) && add(sets, &n, str_format("video.width=%s", item->values[1]));
        else if (spec->key && strcmp(spec->key, "video.frames") == 0)
            ok = add(sets, &n, frames_set(q, item->values[0]));
        else if (spec->key)
            ok = add(sets, &n, str_format("%s=%s", spec->key, spec->n_values ? item->values[0] : spec->value));
        else if (spec->value)
            log_msg(LOG_INFO, "--%s has no effect here: this program chooses how it computes by itself", spec->name);
    }
    if (q->structured) {
        ok = ok && add_captions(q, sets, &n);
    } else if (flags_given(&q->f, "prompt")) {
        char *text = escaped(flags_value(&q->f, "prompt"));
        ok = ok && text && add(sets, &n, str_format("prompt.template=%s", text));
        free(text);
    }
    ok = ok && add_cuts(q, sets, &n);
    if (flags_given(&q->f, "sample-solver") || flags_given(&q->f, "solver"))
        ok = ok && add(sets, &n, str_format("sampling.solver=%s", solver_of(q)));
    ok = ok && add(sets, &n, str_format("model.seed=%" PRId64, q->seed));
    if (!ok) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    TRY(config_load(&q->cfg, NULL, (const char *const *)sets, n, &notes, e));
    q->loaded = true;
    if (!(q->prompt_template = str_dup(q->cfg.prompt.template)))
        rc = ERR(e, ERR_MEMORY, "out of memory for the prompt");
    for (int i = 0; i < notes.n; i++)
        log_msg(LOG_INFO, "%s", notes.items[i]);
out:
    config_notes_release(&notes);
    for (int i = 0; i < n; i++)
        free(sets[i]);
    free(sets);
    for (int i = 0; i < n_recorded; i++)
        free(recorded[i]);
    free(recorded);
    return rc;
}

static int check_task(const request *q, const engine_info *info, err *e)
{
    const char *task = flags_value(&q->f, "task");
    if (!task)
        return 0;
    if ((strcmp(task, "t2v-A14B") == 0) != info->two_experts)
        return ERR(e, ERR_CONFIG, "--task %s: the files hold %s (%s)", task, info->two_experts ? "two experts" : "one model", info->family);
    if ((strcmp(task, "longlive-1.3B") == 0) != info->causal)
        return ERR(e, ERR_CONFIG, "--task %s: the files hold a %s model (%s)", task, info->causal ? "causal" : "bidirectional", info->family);
    if (strcmp(task, "t2v-1.3B") == 0 && info->dit->num_layers >= 40)
        return ERR(e, ERR_CONFIG, "--task %s: the files hold a model of %d layers, width %d", task, info->dit->num_layers, info->dit->dim);
    return 0;
}

/* ---- where it goes ---- */

typedef struct targets {
    char *video, *latent, *images, *images_part;
    char *preview;                 /* of the latents, without its ending */
    int preview_every;
} targets;

static void targets_release(targets *t)
{
    free(t->video);
    free(t->latent);
    free(t->images);
    free(t->images_part);
    free(t->preview);
    *t = (targets){ 0 };
}

static int refuse_existing(const char *path, err *e)
{
    return path && fs_exists(path) ? ERR(e, ERR_ARG, "%s exists already: remove it or choose another --save-path", path) : 0;
}

static bool is_file_name(const char *path)
{
    return str_ends_with(path, ".mp4") || str_ends_with(path, ".y4m") || str_ends_with(path, ".safetensors");
}

static int choose_preview(targets *t, const request *q, const char *folder, err *e)
{
    const char *text = flags_value(&q->f, "preview"), *suffix = flags_value(&q->f, "preview-suffix");
    char *end = NULL;
    long every = text ? strtol(text, &end, 10) : 0;
    if (!text)
        return suffix ? ERR(e, ERR_ARG, "--preview-suffix belongs to --preview N, which is not given") : 0;
    if (end == text || *end || every < 1 || every > 1000)
        return ERR(e, ERR_ARG, "--preview is '%s': expected a number of steps from 1 to 1000", text);
    if (suffix && strchr(suffix, '/'))
        return ERR(e, ERR_ARG, "--preview-suffix is '%s': it becomes part of a file's name and cannot hold '/'", suffix);
    char *dir = fs_join(folder, "previews");
    t->preview_every = (int)every;
    t->preview = dir ? str_format("%s/latent_preview%s%s", dir, suffix ? "_" : "", suffix ? suffix : "") : NULL;
    int rc = t->preview ? fs_mkdirs(dir, e) : ERR(e, ERR_MEMORY, "out of memory");
    free(dir);
    return rc;
}

static int choose_targets(targets *t, const request *q, err *e)
{
    int rc = 0;
    const char *path = flags_value(&q->f, "save-path"), *ending = media_have_ffmpeg() ? "mp4" : "y4m";
    if (!path)
        path = flags_value(&q->f, "output");
    bool file = path && is_file_name(path);
    char *folder = NULL, *base = NULL;
    *t = (targets){ 0 };
    if (!path)      /* to standard output only */
        return 0;
    if (file) {
        char *dot = NULL;
        folder = str_dup(path);
        base = str_dup(path);
        if (!folder || !base)
            goto memory;
        dot = strrchr(base, '.');
        *dot = '\0';
        char *slash = strrchr(folder, '/');
        if (slash && slash != folder)
            *slash = '\0';
        else {
            free(folder);
            folder = str_dup(slash ? "/" : ".");
        }
        if (!str_ends_with(path, ".safetensors"))
            ending = path + strlen(path) - 3;
    } else {
        char stamp[32] = "video";
        time_t now = time(NULL);
        struct tm local;
        if (localtime_r(&now, &local))
            strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
        folder = str_dup(path);
        char *leaf = q->number ? str_format("%s_%03d_%" PRId64, stamp, q->number, q->seed) : str_format("%s_%" PRId64, stamp, q->seed);
        base = leaf ? fs_join(path, leaf) : NULL;
        free(leaf);
    }
    if (!folder || !base)
        goto memory;
    if (q->video && !(t->video = str_format("%s.%s", base, ending)))
        goto memory;
    if (q->latent && !(t->latent = str_format("%s%s.safetensors", base, q->video || !file ? "_latent" : "")))
        goto memory;
    if (q->images && (!(t->images = str_dup(base)) || !(t->images_part = str_format("%s.part", base))))
        goto memory;
    if (t->video && str_ends_with(t->video, ".mp4") && !media_have_ffmpeg()) {      /* known now, not after the work */
        rc = ERR(e, ERR_ARG, "%s: this build has no FFmpeg, so MP4 cannot be written: use a name ending in .y4m, or install FFmpeg's libraries (make "
                 "setup) and build again", t->video);
        goto out;
    }
    TRY(refuse_existing(t->video, e));
    TRY(refuse_existing(t->latent, e));
    TRY(refuse_existing(t->images, e));
    TRY(fs_mkdirs(folder, e));
    TRY(choose_preview(t, q, folder, e));
out:
    free(folder);
    free(base);
    if (rc)
        targets_release(t);
    return rc;
memory:
    rc = ERR(e, ERR_MEMORY, "out of memory");
    goto out;
}

static void print_path(const char *path)
{
    if (path && (printf("%s\n", path) < 0 || fflush(stdout)) && errno != EPIPE)
        log_msg(LOG_WARN, "cannot write to standard output: %s", strerror(errno));
}

static int generate(request *q, err *e)
{
    int rc = 0;
    runner *r = NULL;
    prompt_template *t = NULL;
    variation v = { 0 };
    targets to = { 0 };
    char *frames = NULL;
    TRY(check_choices(q, e));
    if (flags_given(&q->f, "from-video"))
        TRY(from_video_read(&q->recorded, flags_value(&q->f, "from-video"), e));
    TRY(choose_seed(q, e));
    TRY(build_config(q, e));
    TRY(template_parse(&t, q->prompt_template, strlen(q->prompt_template), "--prompt", e));
    TRY(template_variation(t, 0, &v, e));
    TRY(runner_open(&r, &q->cfg, e));
    const engine_info *info = runner_info(r);
    TRY(check_task(q, info, e));
    if (q->recorded) {
        TRY(runner_digests(r, e));
        from_video_compare(q->recorded, info, flags_value(&q->f, "from-video"));
    }
    if (!info->vae && (q->video || q->images)) {
        rc = ERR(e, ERR_CONFIG, "there is no VAE beside the model, so no video can be made: give --vae, or --output-type latent");
        goto out;
    }
    const char *resume = flags_value(&q->f, "resume-dir");
    bool pipe = flags_given(&q->f, "stdout");
    if (!info->causal && (resume || pipe || flags_given(&q->f, "blocks"))) {
        rc = ERR(e, ERR_CONFIG, "--%s belongs to models that make video block by block (LongLive), and this is %s", resume ? "resume-dir" : pipe ? "stdout" :
                 "blocks", info->family);
        goto out;
    }
    if (info->causal && flags_given(&q->f, "preview")) {
        rc = ERR(e, ERR_CONFIG, "--preview looks at a video that is denoised as a whole; this one is made block by block: --stdout y4m shows it as it is made");
        goto out;
    }
    if (pipe && !info->vae) {
        rc = ERR(e, ERR_CONFIG, "there is no VAE beside the model, so there are no frames for --stdout: give --vae");
        goto out;
    }
    if (resume && fs_exists(resume) && !fs_is_dir(resume)) {
        rc = ERR(e, ERR_ARG, "--resume-dir %s: a file of that name is in the way; name a folder", resume);
        goto out;
    }
    TRY(choose_targets(&to, q, e));
    if (to.images_part) {
        frames = fs_join(to.images_part, "frame");
        if (!frames) {
            rc = ERR(e, ERR_MEMORY, "out of memory");
            goto out;
        }
        TRY(fs_remove_tree(to.images_part, e));
        TRY(fs_mkdirs(frames, e));
    }
    log_msg(LOG_INFO, "%s on %s, %" PRId64 " x %" PRId64 ", %" PRId64 " frames, %" PRId64 " steps, shift %g, guidance %g, seed %" PRId64, info->family,
            info->device, q->cfg.video.width, q->cfg.video.height, q->cfg.video.frames, q->cfg.sampling.steps, q->cfg.sampling.shift,
            q->cfg.sampling.guidance_scale, q->seed);
    run_files files = { .video = to.video, .latent = to.latent, .images = frames, .latent_preview = to.preview,
                        .latent_preview_every = to.preview_every, .no_metadata = flags_given(&q->f, "no-metadata"),
                        .to_stdout = pipe, .resume = resume };
    TRY(runner_run(r, &v, q->seed, &files, e));
    if (to.images_part)
        TRY(fs_publish(to.images_part, to.images, e));
    log_progress_end();
    if (resume)
        TRY(runner_remove_states(resume, e));
    if (!pipe) {      /* else standard output is the video */
        print_path(to.video);
        print_path(to.latent);
        print_path(to.images);
    }
out:
    log_progress_end();
    if (rc) {
        err ignored = { 0 };
        if (to.images_part)
            fs_remove_tree(to.images_part, &ignored);
        if (to.latent)      /* its video failed: half an answer is none */
            fs_remove_tree(to.latent, &ignored);
    }
    free(frames);
    targets_release(&to);
    variation_release(&v);
    template_free(t);
    runner_close(r);
    return rc;
}

static void request_release(request *q)
{
    if (q->loaded)
        config_release(&q->cfg);
    free(q->prompt_template);
    json_free(q->recorded);
    flags_release(&q->f);
    *q = (request){ 0 };
}

/* One request a line: the command line with the line's words behind it. All lines are read before the first is made. */
static int generate_file(const flags *f, int argc, char **argv, err *e)
{
    int rc = 0;
    prompt_file file = { 0 };
    char **words = NULL;
    const char *path = flags_value(f, "from-file"), *place = flags_value(f, "save-path");
    static const char *const others[] = { "prompt", "global-caption", "shot-captions", "from-video" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (flags_given(f, others[i]))
            return ERR(e, ERR_ARG, "--from-file and --%s are given: prompts come from one of the two", others[i]);
    static const char *const single[] = { "stdout", "resume-dir" };
    for (size_t i = 0; i < sizeof single / sizeof *single; i++)
        if (flags_given(f, single[i]))
            return ERR(e, ERR_ARG, "--from-file makes several videos, and --%s is for one: leave it out", single[i]);
    if (!place)
        place = flags_value(f, "output");
    if (place && is_file_name(place))
        return ERR(e, ERR_ARG, "--from-file makes several videos, and --save-path %s names one: give a folder", place);
    TRY(prompt_file_read(&file, path, e));
    for (int i = 0; i < file.n; i++) {
        const prompt_line *line = &file.lines[i];
        request q = { .number = i + 1 };
        char **more = realloc(words, ((size_t)argc + (size_t)line->n) * sizeof *words);
        if (!more) {
            rc = ERR(e, ERR_MEMORY, "out of memory for the prompts of %s", path);
            goto out;
        }
        words = more;
        memcpy(words, argv, (size_t)argc * sizeof *words);
        memcpy(words + argc, line->words, (size_t)line->n * sizeof *words);
        log_msg(LOG_INFO, "prompt %d of %d", i + 1, file.n);
        rc = flags_parse(&q.f, "generate", FLAGS, sizeof FLAGS / sizeof *FLAGS, argc + line->n, words, e);
        rc = rc ? rc : generate(&q, e);
        request_release(&q);
        if (rc) {
            rc = rc == ERR_CANCELLED ? rc : err_at(e, rc, "%s:%d", path, line->number);
            goto out;
        }
    }
out:
    free(words);
    prompt_file_release(&file);
    return rc;
}

int cmd_generate(int argc, char **argv)
{
    err e = { 0 };
    request q = { 0 };
    int rc = flags_parse(&q.f, "generate", FLAGS, sizeof FLAGS / sizeof *FLAGS, argc, argv, &e);
    if (!rc && q.f.help) {
        fputs(HELP, stdout);
    } else if (!rc && q.f.version) {
        printf("wanscope %s (%s)\n", wanscope_version, wanscope_build);
    } else if (!rc) {
        log_set_level(flags_given(&q.f, "quiet") ? LOG_WARN : flags_given(&q.f, "verbose") ? LOG_DEBUG : LOG_INFO);
        rc = flags_given(&q.f, "from-file") ? generate_file(&q.f, argc, argv, &e) : generate(&q, &e);
    }
    const char *resume = rc ? flags_value(&q.f, "resume-dir") : NULL;
    if (rc == ERR_CANCELLED && resume && fs_is_dir(resume))
        log_msg(LOG_WARN, "interrupted: the same command goes on from the last state in %s", resume);
    else if (rc == ERR_CANCELLED)
        log_msg(LOG_WARN, "interrupted: nothing was written");
    else if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    request_release(&q);
    return err_exit_code(rc);
}
