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
#include "experiments/build_id.h"
#include "experiments/flags.h"
#include "experiments/interrupt.h"
#include "experiments/run_one.h"

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
    "  --task NAME                      t2v-1.3B, t2v-14B, t2v-A14B, longlive-1.3B: checked against the files\n"
    "  --device auto|cpu|cuda|cuda:N  --precision exact|bf16|fp8   --threads N\n"
    "\n"
    "video\n"
    "  --prompt TEXT  --negative-prompt TEXT (empty: the official one, with\n"
    "                                   --negative-default none the empty text)\n"
    "  --video-size H W (256 256), or --height H --width W: multiples of 16\n"
    "  --video-length N | --frames N    4n+1 frames (81)\n"
    "  --fps R (16)\n"
    "  --infer-steps N | --steps N      (50; A14B 40)\n"
    "  --guidance-scale G               1 switches guidance off (5; A14B 4 and 3)\n"
    "  --guidance-scale-low G           of the low-noise expert\n"
    "  --flow-shift S | --shift S       (5; A14B 12)\n"
    "  --sample-solver NAME | --solver NAME    unipc, dpm++, flowmatch, or a name of sampling.solver\n"
    "  --seed N                         (random; -1 too)\n"
    "  --cpu-noise | --cuda-noise       noise of PyTorch's CPU (default) or CUDA generator\n"
    "\n"
    "output\n"
    "  --save-path PATH | --output PATH    a file (.mp4, .y4m, for latents .safetensors) or a folder, in which the name is\n"
    "                                   made of date, time and seed\n"
    "  --output-type video|images|latent|both    both: video and latent\n"
    "  --crf N                          0 lossless .. 51 (10)\n"
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

#define SHOTS "this build generates single-shot Wan videos"
#define TEXT_ONLY "this build generates videos from text only: no images, videos or control signals go in"
#define LORA "this build reads no LoRA files"
#define GUIDANCE "this build guides every step alike: no skipped steps, layers or windows"

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
    { "blocks", 1, "causal.blocks", NULL, NULL },
    { "lora-alpha", 1, "causal.lora_alpha", NULL, NULL },
    { "stdout", 1, NULL, NULL, NULL },
    { "resume-dir", 1, NULL, NULL, NULL },
    { "save-path", 1, NULL, NULL, NULL },
    { "output", 1, NULL, NULL, NULL },
    { "output-type", 1, NULL, NULL, NULL },
    { "crf", 1, "video.crf", NULL, NULL },
    { "no-metadata", 0, NULL, NULL, NULL },
    { "quiet", 0, NULL, NULL, NULL },
    { "verbose", 0, NULL, NULL, NULL },
    /* of H1111: they choose how its program computes, not what */
    { "attn-mode", 1, NULL, "ignored", NULL },
    { "compile", 0, NULL, "ignored", NULL },
    { "blocks-to-swap", 1, NULL, "ignored", NULL },
    { "vae-cache-cpu", 0, NULL, "ignored", NULL },
    { "vae-dtype", 1, NULL, "ignored", NULL },
    { "dtype", 1, NULL, "ignored", NULL },
    { "fp8", 0, NULL, "ignored", NULL },
    { "fp8-scaled", 0, NULL, "ignored", NULL },
    { "fp8-fast", 0, NULL, "ignored", NULL },
    { "fp8-t5", 0, NULL, "ignored", NULL },
    { "mixed-dtype", 0, NULL, "ignored", NULL },
    { "lycoris", 0, NULL, "ignored", NULL },
    /* of H1111 and HoloCine: known, not in this build */
    { "global-caption", 1, NULL, NULL, SHOTS },
    { "shot-captions", 1, NULL, NULL, SHOTS },
    { "shot-cut-frames", 1, NULL, NULL, SHOTS },
    { "shot-mask-type", 1, NULL, NULL, SHOTS },
    { "image-path", 1, NULL, NULL, TEXT_ONLY },
    { "end-image-path", 1, NULL, NULL, TEXT_ONLY },
    { "video-path", 1, NULL, NULL, TEXT_ONLY },
    { "strength", 1, NULL, NULL, TEXT_ONLY },
    { "v2v-low-noise-only", 0, NULL, NULL, TEXT_ONLY },
    { "v2v-use-i2v", 0, NULL, NULL, TEXT_ONLY },
    { "control-path", 1, NULL, NULL, TEXT_ONLY },
    { "extend-video", 1, NULL, NULL, TEXT_ONLY },
    { "clip", 1, NULL, NULL, TEXT_ONLY },
    { "latent-path", 1, NULL, NULL, "this build decodes the latents it has just made, not stored ones" },
    { "lora-weight", 1, NULL, NULL, LORA },
    { "lora-multiplier", 1, NULL, NULL, LORA },
    { "lora-weight-high", 1, NULL, NULL, LORA },
    { "lora-multiplier-high", 1, NULL, NULL, LORA },
    { "save-merged-model", 1, NULL, NULL, LORA },
    { "cfg-skip-mode", 1, NULL, NULL, GUIDANCE },
    { "cfg-apply-ratio", 1, NULL, NULL, GUIDANCE },
    { "slg-layers", 1, NULL, NULL, GUIDANCE },
    { "slg-scale", 1, NULL, NULL, GUIDANCE },
    { "slg-start", 1, NULL, NULL, GUIDANCE },
    { "slg-end", 1, NULL, NULL, GUIDANCE },
    { "slg-mode", 1, NULL, NULL, GUIDANCE },
    { "use-context-windows", 0, NULL, NULL, GUIDANCE },
    { "preview", 1, NULL, NULL, "this build shows progress only; 'wanscope run' writes previews and traces" },
    { "trim-tail-frames", 1, NULL, NULL, "this build keeps every frame: ask for fewer with --video-length" },
};

typedef struct request {
    flags f;
    config cfg;
    bool loaded;
    bool video, images, latent;
    char *prompt_template;         /* the prompt with every special character escaped */
    int64_t seed;
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
    long long given = text ? strtoll(text, &end, 10) : -1;
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
        return "unipc";
    if (strcmp(name, "dpm++") == 0)
        return "dpmpp";
    if (strcmp(name, "flowmatch") == 0 || strcmp(name, "holocine") == 0)
        return "diffsynth_euler";
    return name;
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
    if (!prompt)
        return ERR(e, ERR_ARG, "no prompt: give --prompt 'what is to be seen'");
    if (!prompt[strspn(prompt, " \t\n")])
        return ERR(e, ERR_ARG, "the prompt is empty: give --prompt 'what is to be seen'");
    if (strstr(prompt, "[shot cut]"))
        log_msg(LOG_WARN, "the prompt has [shot cut] marks: " SHOTS ", so they are read as plain text");
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

static int build_config(request *q, err *e)
{
    int rc = 0, n = 0;
    bool ok = true;
    config_notes notes = { 0 };
    char **sets = calloc(q->f.n_items + 16, sizeof *sets);
    if (!sets)
        return ERR(e, ERR_MEMORY, "out of memory for the command line");
    ok = ok && add(sets, &n, str_dup("video.width=256")) && add(sets, &n, str_dup("video.height=256"));
    for (size_t i = 0; ok && i < q->f.n_items; i++) {
        const flag_item *item = &q->f.items[i];
        const flag_spec *spec = item->spec;
        if (strcmp(spec->name, "video-size") == 0)
            ok = add(sets, &n, str_format("video.height=%s", item->values[0])) && add(sets, &n, str_format("video.width=%s", item->values[1]));
        else if (spec->key)
            ok = add(sets, &n, str_format("%s=%s", spec->key, spec->n_values ? item->values[0] : spec->value));
        else if (spec->value)
            log_msg(LOG_INFO, "--%s has no effect here: this program chooses how it computes by itself", spec->name);
    }
    q->prompt_template = escaped(flags_value(&q->f, "prompt"));
    ok = ok && q->prompt_template && add(sets, &n, str_format("prompt.template=%s", q->prompt_template));
    ok = ok && add(sets, &n, str_format("sampling.solver=%s", solver_of(q)));
    ok = ok && add(sets, &n, str_format("model.seed=%" PRId64, q->seed));
    if (!ok) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    TRY(config_load(&q->cfg, NULL, (const char *const *)sets, n, &notes, e));
    q->loaded = true;
    for (int i = 0; i < notes.n; i++)
        log_msg(LOG_INFO, "%s", notes.items[i]);
out:
    config_notes_release(&notes);
    for (int i = 0; i < n; i++)
        free(sets[i]);
    free(sets);
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
} targets;

static void targets_release(targets *t)
{
    free(t->video);
    free(t->latent);
    free(t->images);
    free(t->images_part);
    *t = (targets){ 0 };
}

static int refuse_existing(const char *path, err *e)
{
    return path && fs_exists(path) ? ERR(e, ERR_ARG, "%s exists already: remove it or choose another --save-path", path) : 0;
}

static int choose_targets(targets *t, const request *q, err *e)
{
    int rc = 0;
    const char *path = flags_value(&q->f, "save-path"), *ending = media_have_ffmpeg() ? "mp4" : "y4m";
    if (!path)
        path = flags_value(&q->f, "output");
    bool file = path && (str_ends_with(path, ".mp4") || str_ends_with(path, ".y4m") || str_ends_with(path, ".safetensors"));
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
        char *leaf = str_format("%s_%" PRId64, stamp, q->seed);
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
    TRY(refuse_existing(t->video, e));
    TRY(refuse_existing(t->latent, e));
    TRY(refuse_existing(t->images, e));
    TRY(fs_mkdirs(folder, e));
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
    TRY(choose_seed(q, e));
    TRY(build_config(q, e));
    TRY(template_parse(&t, q->prompt_template, strlen(q->prompt_template), "--prompt", e));
    TRY(template_variation(t, 0, &v, e));
    TRY(runner_open(&r, &q->cfg, e));
    const engine_info *info = runner_info(r);
    TRY(check_task(q, info, e));
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
    run_files files = { .video = to.video, .latent = to.latent, .images = frames, .no_metadata = flags_given(&q->f, "no-metadata"),
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
        rc = generate(&q, &e);
    }
    const char *resume = rc ? flags_value(&q.f, "resume-dir") : NULL;
    if (rc == ERR_CANCELLED && resume && fs_is_dir(resume))
        log_msg(LOG_WARN, "interrupted: the same command goes on from the last state in %s", resume);
    else if (rc == ERR_CANCELLED)
        log_msg(LOG_WARN, "interrupted: nothing was written");
    else if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    if (q.loaded)
        config_release(&q.cfg);
    free(q.prompt_template);
    flags_release(&q.f);
    return err_exit_code(rc);
}
