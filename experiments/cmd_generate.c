/* wanscope generate: one video from flags alone, with the command line of H1111's Wan 2.2 script. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "experiments/build_id.h"
#include "experiments/from_video.h"
#include "experiments/generate_internal.h"
#include "experiments/prompt_file.h"

int cmd_generate(int argc, char **argv);

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static int check_task(const generate_request *q, const engine_info *info, err *e)
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

static void print_path(const char *path)
{
    if (path && (printf("%s\n", path) < 0 || fflush(stdout)) && errno != EPIPE)
        log_msg(LOG_WARN, "cannot write to standard output: %s", strerror(errno));
}

static int generate(generate_request *q, err *e)
{
    int rc = 0;
    runner *r = NULL;
    prompt_template *t = NULL;
    variation v = { 0 };
    generate_targets to = { 0 };
    char *frames = NULL;
    TRY(generate_check_choices(q, e));
    if (flags_given(&q->f, "from-video"))
        TRY(from_video_read(&q->recorded, flags_value(&q->f, "from-video"), e));
    TRY(generate_choose_seed(q, e));
    TRY(generate_config(q, e));
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
    TRY(generate_choose_targets(&to, q, e));
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
    generate_targets_release(&to);
    variation_release(&v);
    template_free(t);
    runner_close(r);
    return rc;
}

static void request_release(generate_request *q)
{
    if (q->loaded)
        config_release(&q->cfg);
    free(q->prompt_template);
    json_free(q->recorded);
    flags_release(&q->f);
    *q = (generate_request){ 0 };
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
    if (place && generate_is_file_name(place))
        return ERR(e, ERR_ARG, "--from-file makes several videos, and --save-path %s names one: give a folder", place);
    TRY(prompt_file_read(&file, path, e));
    for (int i = 0; i < file.n; i++) {
        const prompt_line *line = &file.lines[i];
        generate_request q = { .number = i + 1 };
        char **more = realloc(words, ((size_t)argc + (size_t)line->n) * sizeof *words);
        if (!more) {
            rc = ERR(e, ERR_MEMORY, "out of memory for the prompts of %s", path);
            goto out;
        }
        words = more;
        memcpy(words, argv, (size_t)argc * sizeof *words);
        memcpy(words + argc, line->words, (size_t)line->n * sizeof *words);
        log_msg(LOG_INFO, "prompt %d of %d", i + 1, file.n);
        rc = flags_parse(&q.f, "generate", GENERATE_FLAGS, N_GENERATE_FLAGS, argc + line->n, words, e);
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
    generate_request q = { 0 };
    int rc = flags_parse(&q.f, "generate", GENERATE_FLAGS, N_GENERATE_FLAGS, argc, argv, &e);
    if (!rc && q.f.help) {
        fputs(GENERATE_HELP, stdout);
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
