/* wanscope plan: what a batch would take. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "experiments/build_id.h"
#include "experiments/forecast.h"
#include "experiments/run_setup.h"

int cmd_plan(int argc, char **argv);

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const char HELP[] =
    "usage: wanscope plan --config FILE [options]\n"
    "       wanscope plan --resume DIR\n"
    "\n"
    "The forecast of a batch: number of runs, time, memory and disk. Reads headers only, starts and writes nothing.\n"
    "With --resume the finished runs of the batch give its speed and sizes.\n"
    "\n"
    "  --json                        machine-readable output\n";

/* A run counts as done when its latest line says so: a forecast does not read the files again. */
static uint64_t count_done(const manifest *m)
{
    uint64_t n = 0;
    for (size_t i = 0; i < manifest_count(m); i++)
        n += manifest_at(m, i)->done;
    return n;
}

static int plan(run_setup *s, err *e)
{
    int rc = 0;
    forecast f;
    manifest *m = NULL;
    str text = STR_INIT;
    uint64_t done = 0;
    if (s->resume) {
        TRY(manifest_open(&m, s->dir, MANIFEST_READ, e));
        done = count_done(m);
        if (done > s->b.n_runs)
            done = s->b.n_runs;
    }
    TRY(forecast_make(&f, s->r, &s->b, m, done, s->dir, e));
    if (flags_given(&s->f, "json"))
        forecast_json(&f, &text);
    else
        forecast_print(&f, &text);
    if (text.failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for the forecast");
    else if (fputs(str_text(&text), stdout) < 0 || fflush(stdout))
        rc = errno == EPIPE ? 0 : ERR(e, ERR_IO, "cannot write to standard output: %s", strerror(errno));
    forecast_warn(&f, s->dir);
out:
    manifest_close(m);
    str_release(&text);
    return rc;
}

int cmd_plan(int argc, char **argv)
{
    err e = { 0 };
    run_setup s;
    int rc = run_setup_open(&s, SETUP_PLAN, argc, argv, &e);
    if (!rc && s.f.help) {
        fputs(HELP, stdout);
        fputs(RUN_OPTIONS_HELP, stdout);
    } else if (!rc && s.f.version) {
        printf("wanscope %s (%s)\n", wanscope_version, wanscope_build);
    } else if (!rc) {
        rc = plan(&s, &e);
    }
    if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    run_setup_close(&s);
    return err_exit_code(rc);
}
