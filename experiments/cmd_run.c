/* wanscope run: a batch of videos from a template, with their traces; and going on with one. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "experiments/build_id.h"
#include "experiments/capture.h"
#include "experiments/forecast.h"
#include "experiments/interrupt.h"
#include "experiments/run_setup.h"

int cmd_run(int argc, char **argv);

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const char HELP[] =
    "usage: wanscope run --config FILE [options]\n"
    "       wanscope run --resume DIR\n"
    "\n"
    "Makes every variation of a prompt template with every seed: videos, previews and, where the settings ask for it,\n"
    "traces with latents and attention maps, in <output.dir>/<batch>/runs/. Prints the path of each finished run.\n"
    "Order: variations outer, seeds inner. A batch can be stopped at any moment and resumed; finished runs stay.\n"
    "\n"
    "  --dry-run                     check everything, list the runs and the forecast, write nothing\n";

static const char AFTER[] =
    "\n"
    "Exit status: 0 all done, 1 some runs failed (manifest.jsonl has the reasons), 2 settings, template or files are wrong,\n"
    "3 device or memory, 130 interrupted.\n";

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void open_log(const char *dir)
{
    err e = { 0 };
    char *path = str_format("logs/%s.log", fs_basename(dir));
    if (path && log_open_file(path, &e))
        log_msg(LOG_WARN, "no log file: %s", e.text);
    free(path);
}

/* ---- one run and its record ---- */

typedef struct run_paths {
    char *folder, *relative;       /* of the run; relative to the batch */
    char *trace, *video, *preview;
    char *resume;                  /* of causal runs: where states are saved, outside of the run's folder */
    const char *video_name;
} run_paths;

static void paths_release(run_paths *p)
{
    free(p->folder);
    free(p->relative);
    free(p->trace);
    free(p->video);
    free(p->preview);
    free(p->resume);
    *p = (run_paths){ 0 };
}

static int make_paths(run_paths *p, const run_setup *s, const variation *v, int64_t seed, err *e)
{
    *p = (run_paths){ .video_name = media_have_ffmpeg() ? "video.mp4" : "video.y4m" };
    p->relative = batch_run_folder(v, seed);
    p->folder = p->relative ? fs_join(s->dir, p->relative) : NULL;
    bool ok = p->folder != NULL;
    if (ok && runner_info(s->r)->causal && s->cfg.causal.save_every > 0) {
        char *run = manifest_run_id((int64_t)v->number, seed);
        ok = run && (p->resume = str_format("%s/resume/%s", s->dir, run)) != NULL;
        free(run);
    }
    if (ok && capture_wanted(&s->cfg))
        ok = (p->trace = fs_join(p->folder, "trace.h5")) != NULL;
    if (ok && s->cfg.output.video)
        ok = (p->video = fs_join(p->folder, p->video_name)) != NULL;
    if (ok && s->cfg.output.preview)
        ok = (p->preview = fs_join(p->folder, "preview.png")) != NULL;
    if (ok)
        return 0;
    paths_release(p);
    return ERR(e, ERR_MEMORY, "out of memory");
}

/* Takes away what a run left, and the variation's folder when nothing else is in it. */
static void remove_run(const run_paths *p)
{
    err e = { 0 };
    if (fs_remove_tree(p->folder, &e))
        log_msg(LOG_WARN, "%s", e.text);
    char *parent = str_dup(p->folder), *slash = parent ? strrchr(parent, '/') : NULL;
    if (slash) {
        *slash = '\0';
        rmdir(parent);
    }
    free(parent);
}

/* Saved states are of use until the run has ended. */
static void remove_states(const run_paths *p)
{
    err e = { 0 };
    if (!p->resume)
        return;
    if (runner_remove_states(p->resume, &e))
        log_msg(LOG_WARN, "%s", e.text);
    char *parent = str_dup(p->resume), *slash = parent ? strrchr(parent, '/') : NULL;
    if (slash) {
        *slash = '\0';
        rmdir(parent);
    }
    free(parent);
}

static int add_file(manifest_entry *x, const run_setup *s, const run_paths *p, const char *name, err *e)
{
    char *path = fs_join(p->relative, name);
    int rc = path ? manifest_entry_add_file(x, name, s->dir, path, e) : ERR(e, ERR_MEMORY, "out of memory");
    free(path);
    return rc;
}

static int describe(manifest_entry *x, run_setup *s, const variation *v, int64_t seed, err *e)
{
    int rc = 0;
    x->run = manifest_run_id((int64_t)v->number, seed);
    x->number = (int64_t)v->number;
    x->id = str_dup(v->id);
    x->slug = str_dup(v->slug);
    x->marked_prompt = str_dup(v->marked);
    x->clean_prompt = str_dup(v->clean);
    x->seed = seed;
    if (!x->run || !x->id || !x->slug || !x->marked_prompt || !x->clean_prompt)
        return ERR(e, ERR_MEMORY, "out of memory for a line of the manifest");
    for (int i = 0; !rc && i < v->n_choices; i++) {
        const variation_choice *c = &v->choices[i];
        rc = manifest_entry_add_choice(x, c->bracket, c->name[0] ? c->name : NULL, c->alternative, c->text, e);
    }
    if (!rc)
        rc = run_setup_identity(s, v, seed, x->identity, e);
    return rc;
}

static int make(run_setup *s, const variation *v, int64_t seed, const run_paths *p, manifest_entry *x, err *e)
{
    int rc = 0;
    run_files files = { .trace = p->trace, .video = p->video, .preview = p->preview, .resume = p->resume };
    TRY(fs_remove_tree(p->folder, e));       /* half a run of a killed process, or one that has to be made again */
    TRY(fs_mkdirs(p->folder, e));
    TRY(runner_run(s->r, v, seed, &files, e));
    if (p->video)
        TRY(add_file(x, s, p, p->video_name, e));
    if (p->preview)
        TRY(add_file(x, s, p, "preview.png", e));
    if (p->trace)
        TRY(add_file(x, s, p, "trace.h5", e));
out:
    return rc;
}

typedef struct tally {
    uint64_t made, failed;
    int last_failure;              /* err_kind */
    bool stdout_gone;
} tally;

static void print_path(const run_paths *p, tally *t)
{
    if (t->stdout_gone)
        return;
    if (printf("%s\n", p->video ? p->video : p->trace ? p->trace : p->folder) < 0 || fflush(stdout)) {
        t->stdout_gone = true;
        if (errno != EPIPE)
            log_msg(LOG_WARN, "cannot write the paths of finished runs to standard output: %s", strerror(errno));
    }
}

/* 0 also for a run that failed and is recorded; otherwise what ends the batch. */
static int one(run_setup *s, manifest *m, uint64_t i, tally *t, err *e)
{
    int rc = 0;
    variation v = { 0 };
    int64_t seed;
    run_paths p = { 0 };
    manifest_entry x;
    manifest_entry_init(&x);
    TRY(interrupt_check(e));
    TRY(batch_run(&s->b, i, &v, &seed, e));
    TRY(make_paths(&p, s, &v, seed, e));
    TRY(describe(&x, s, &v, seed, e));
    char label[200];
    snprintf(label, sizeof label, "run %" PRIu64 "/%" PRIu64 " %04" PRIu64 "-%s s%" PRId64, i + 1, s->b.n_runs, v.number, v.slug, seed);
    runner_progress(s->r, label, s->n_done + t->made + t->failed + 1, s->b.n_runs);
    double began = now_seconds();
    err failure = { 0 };
    rc = make(s, &v, seed, &p, &x, &failure);
    if (rc)
        remove_run(&p);
    if (rc == ERR_CANCELLED) {
        *e = failure;
        goto out;
    }
    remove_states(&p);
    x.seconds = now_seconds() - began;
    x.done = !rc;
    if (rc) {
        log_progress_end();
        log_msg(LOG_ERROR, "run %s failed: %s", x.run, failure.text);
        t->failed++;
        t->last_failure = rc;
        x.error = str_dup(failure.text);
        manifest_entry bare = x;      /* of a failed run nothing is kept */
        bare.files = NULL;
        bare.n_files = 0;
        rc = x.error ? manifest_append(m, &bare, e) : ERR(e, ERR_MEMORY, "out of memory");
    } else {
        t->made++;
        rc = manifest_append(m, &x, e);
        if (!rc)
            print_path(&p, t);
        if (!rc)
            log_msg(isatty(STDERR_FILENO) ? LOG_DEBUG : LOG_INFO, "%s: done in %.1f s", label, x.seconds);
    }
    if (rc)
        err_at(e, rc, "run %s cannot be recorded, so the batch stops here", x.run);
out:
    manifest_entry_release(&x);
    paths_release(&p);
    variation_release(&v);
    return rc;
}

/* ---- the whole ---- */

static int list_runs(const run_setup *s, err *e)
{
    int rc = 0;
    for (uint64_t i = 0; !rc && i < s->b.n_runs; i++) {
        variation v = { 0 };
        int64_t seed;
        rc = interrupt_check(e);
        if (!rc)
            rc = batch_run(&s->b, i, &v, &seed, e);
        if (!rc && printf("%04" PRIu64 "\t%s\ts%" PRId64 "\t%s\t%s\n", v.number, v.slug, seed, s->done && s->done[i] ? "done" : "to do", v.clean) < 0) {
            variation_release(&v);
            return errno == EPIPE ? 0 : ERR(e, ERR_IO, "cannot write the list of runs to standard output: %s", strerror(errno));
        }
        variation_release(&v);
    }
    return rc;
}

/* What would fail in every run fails once, before there is a folder: no tokenizer, damaged text encoder. */
static int preflight(run_setup *s, err *e)
{
    int rc = 0;
    variation v = { 0 };
    int64_t seed;
    uint64_t first = 0;
    while (s->done && first < s->b.n_runs && s->done[first])
        first++;
    if (first == s->b.n_runs)
        return 0;
    TRY(interrupt_check(e));
    TRY(batch_run(&s->b, first, &v, &seed, e));
    TRY(runner_prepare(s->r, e));
    TRY(runner_try_prompts(s->r, &v, e));
    TRY(interrupt_check(e));
out:
    variation_release(&v);
    return rc;
}

static void report(const run_setup *s, const tally *t, int rc)
{
    log_progress_end();
    if (rc == ERR_CANCELLED)
        log_msg(LOG_WARN, "interrupted: %" PRIu64 " of %" PRIu64 " runs are done; go on with: wanscope run --resume %s", s->n_done + t->made,
                s->b.n_runs, s->dir);
    else
        log_msg(t->failed ? LOG_WARN : LOG_INFO, "%" PRIu64 " of %" PRIu64 " runs done%s%s: %s", s->n_done + t->made, s->b.n_runs,
                s->n_done && t->made ? " (some before)" : s->n_done ? " (all before)" : "", t->failed ? ", some failed" : "", s->dir);
    if (t->failed)
        log_msg(LOG_WARN, "%" PRIu64 " failed; the reasons are in %s/manifest.jsonl; try them again with: wanscope run --resume %s", t->failed, s->dir,
                s->dir);
}

static int work(run_setup *s, manifest *m, tally *t, err *e)
{
    int rc = 0;
    int64_t most = s->cfg.batch.max_failures;
    for (uint64_t i = 0; i < s->b.n_runs; i++) {
        if (s->done[i])
            continue;
        TRY(one(s, m, i, t, e));
        if (most > 0 && t->failed >= (uint64_t)most) {
            log_msg(LOG_ERROR, "%" PRIu64 " runs failed: the batch stops here (batch.max_failures)", t->failed);
            break;
        }
    }
out:
    return rc;
}

static int dry_run(run_setup *s, err *e)
{
    int rc = 0;
    forecast f;
    manifest *m = NULL;
    str line = STR_INIT;
    if (s->resume) {
        TRY(runner_digests(s->r, e));
        TRY(manifest_open(&m, s->dir, MANIFEST_READ, e));
    } else {
        TRY(batch_check_new(s->dir, str_text(&s->config_text), e));
    }
    TRY(run_setup_look(s, m, e));
    TRY(batch_report_duplicates(&s->b, e));
    TRY(preflight(s, e));
    TRY(list_runs(s, e));
    fflush(stdout);
    TRY(forecast_make(&f, s->r, &s->b, m, s->n_done, s->dir, e));
    forecast_line(&f, &line);
    log_msg(LOG_INFO, "%s; nothing was written (--dry-run)", str_text(&line));
    forecast_warn(&f, s->dir);
out:
    manifest_close(m);
    str_release(&line);
    return rc;
}

static int whole(run_setup *s, tally *t, bool *started, err *e)
{
    int rc = 0;
    forecast f;
    manifest *m = NULL;
    str line = STR_INIT;
    if (!s->resume)
        TRY(batch_check_new(s->dir, str_text(&s->config_text), e));
    TRY(interrupt_check(e));
    TRY(runner_digests(s->r, e));
    TRY(interrupt_check(e));
    if (s->resume) {
        TRY(batch_reopen(&m, s->dir, e));
        TRY(run_setup_look(s, m, e));
        TRY(preflight(s, e));
    } else {
        TRY(run_setup_look(s, NULL, e));
        TRY(preflight(s, e));
        TRY(batch_create(&m, s->dir, str_text(&s->config_text), s->b.text, e));
    }
    *started = true;
    open_log(s->dir);
    log_msg(LOG_INFO, "wanscope %s (%s), %s on %s: %s", wanscope_version, wanscope_build, runner_info(s->r)->family, runner_info(s->r)->device, s->dir);
    TRY(batch_report_duplicates(&s->b, e));
    if (!media_have_ffmpeg() && s->cfg.output.video)
        log_msg(LOG_WARN, "this build has no FFmpeg: videos are written as video.y4m, without parameters in them");
    if (s->n_done < s->b.n_runs) {
        TRY(forecast_make(&f, s->r, &s->b, m, s->n_done, s->dir, e));
        forecast_line(&f, &line);
        log_msg(LOG_INFO, "%s", str_text(&line));
        forecast_warn(&f, s->dir);
    }
    TRY(work(s, m, t, e));
out:
    manifest_close(m);
    str_release(&line);
    return rc;
}

int cmd_run(int argc, char **argv)
{
    err e = { 0 };
    run_setup s;
    tally t = { 0 };
    bool started = false;
    int status;
    int rc = run_setup_open(&s, SETUP_RUN, argc, argv, &e);
    if (!rc && s.f.help) {
        fputs(HELP, stdout);
        fputs(RUN_OPTIONS_HELP, stdout);
        fputs(AFTER, stdout);
        run_setup_close(&s);
        return 0;
    }
    if (!rc && s.f.version) {
        printf("wanscope %s (%s)\n", wanscope_version, wanscope_build);
        run_setup_close(&s);
        return 0;
    }
    if (!rc)
        rc = flags_given(&s.f, "dry-run") ? dry_run(&s, &e) : whole(&s, &t, &started, &e);
    status = err_exit_code(rc);
    if (started)
        report(&s, &t, rc);
    if (rc && !(rc == ERR_CANCELLED && started)) {
        log_progress_end();
        log_msg(LOG_ERROR, "%s", e.text);
        if (started && status == 2)
            status = 1;      /* the settings were right; something broke on the way */
    }
    if (!rc && t.failed)
        status = !t.made && !s.n_done && (t.last_failure == ERR_DEVICE || t.last_failure == ERR_MEMORY) ? 3 : 1;
    run_setup_close(&s);
    log_close_file();
    return status;
}
