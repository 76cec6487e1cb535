#include "analysis/lib/analyze.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/batch.h"
#include "analysis/lib/linalg.h"
#include "analysis/lib/options.h"
#include "analysis/lib/output.h"
#include "analysis/lib/pca.h"
#include "analysis/lib/plots.h"
#include "analysis/lib/shots.h"
#include "analysis/lib/sweep.h"
#include "analysis/lib/trajectory.h"
#include "analysis/lib/volume.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/parallel.h"

enum { NEEDS_PATHS = 1, NEEDS_ACROSS = 2 };

typedef struct job {
    const sweep *s;
    const pca *p;
    output *o;
    const char *batch_dir;
    int64_t rank, loadings;
    bool by_shot;
} job;

static int do_trajectory(const job *j, err *e)
{
    int rc = trajectory_report(j->s, j->o, j->batch_dir, e);
    return rc || !j->by_shot ? rc : shots_report(j->s, j->o, j->batch_dir, e);
}

static int do_volume(const job *j, err *e)
{
    return volume_report(j->s, j->p, j->o, j->batch_dir, j->rank, e);
}

static int do_pca(const job *j, err *e)
{
    return pca_report(j->s, j->p, j->o, j->batch_dir, j->loadings, e);
}

/* One line a subcommand; `all` runs them in this order. */
static const struct command {
    const char *name, *what;
    int needs;
    int (*run)(const job *j, err *e);
} COMMANDS[] = {
    { "trajectory", "length, straightness, turning, curvature, velocity and acceleration of each denoising path",
      NEEDS_PATHS, do_trajectory },
    { "volume", "log-determinants, simplices and convex hulls of the results and paths of each variation", NEEDS_ACROSS,
      do_volume },
    { "pca", "exact principal components within runs, over seeds, over variations and pooled", NEEDS_ACROSS, do_pca },
};
#define N_COMMANDS ((int)(sizeof COMMANDS / sizeof *COMMANDS))

static void print_help(FILE *to)
{
    fprintf(to, "latent-analyze <command> --batch-dir D [options]\n\nMeasures the denoising paths that `wanscope run "
                "--store-latents` left in a "
                "batch folder.\n\nCommands:\n");
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-12s %s\n", COMMANDS[i].name, COMMANDS[i].what);
    fprintf(to, "  %-12s everything above, reading the traces once\n\n", "all");
    fprintf(to,
            "Options:\n"
            "  --batch-dir D      the batch folder (it holds manifest.jsonl)\n"
            "  --out D            where results go; default <batch>/analysis\n"
            "  --format F         csv, json or both; default both\n"
            "  --plots P          svg, png or none; default %s\n"
            "  --by shot          trajectory: also each shot of multi-shot videos by itself, and how alike shots are\n"
            "  --rank R           eigenvalues in log-volumes; default: what all variations support\n"
            "  --bootstrap N      resamples of the intervals, 100 to 1000000; default 2000\n"
            "  --seed S           of resampling and subsampling; default 0\n"
            "  --max-rows N       most rows of the pooled Gram matrix (8 N^2 bytes); default %d\n"
            "  --loadings K       pca: also write the first K pooled components as latents (pca_loadings.npy)\n"
            "  --help, --version\n\n"
            "Exit status: 0 done; 1 some runs were left out (reasons on stderr and in the JSON); 2 bad usage or "
            "nothing to analyse; "
            "3 out of memory.\n",
            plots_available() ? "svg" : "none", SWEEP_MAX_ROWS);
}

static int usage_error(const char *sentence)
{
    fprintf(stderr, "latent-analyze: %s\n", sentence);
    return 2;
}

static int unknown_command(const char *given)
{
    fprintf(stderr, "latent-analyze: unknown command '%s'. Commands: ", given);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "%s, ", COMMANDS[i].name);
    fprintf(stderr, "all. See --help.\n");
    return 2;
}

static int run_commands(const char *command, const sweep *s, const sweep_options *so, job *j, err *e)
{
    pca p = { 0 };
    int rc = 0;
    if (so->across) {
        rc = pca_open(&p, s, e);
        j->p = &p;
    }
    for (int i = 0; i < N_COMMANDS && !rc; i++)
        if (!strcmp(command, COMMANDS[i].name) || !strcmp(command, "all"))
            rc = COMMANDS[i].run(j, e);
    pca_close(&p);
    return rc;
}

static int analyze(const char *command, const char *batch_dir, const char *out_dir, output *o, sweep_options *so,
                   job *j, int needs)
{
    batch b = { 0 };
    sweep s = { 0 };
    err e = { 0 };
    char *out = out_dir ? str_dup(out_dir) : fs_join(batch_dir, "analysis");
    int status = 0, rc = out ? batch_open(&b, batch_dir, &e) : ERR(&e, ERR_MEMORY, "no memory for a file name");
    if (!rc)
        rc = fs_mkdirs(out, &e);
    if (!rc) {
        o->dir = so->scratch_dir = out;
        so->across = needs & NEEDS_ACROSS;
        rc = sweep_open(&s, &b, so, &e);
    }
    if (!rc) {
        j->s = &s;
        j->o = o;
        j->batch_dir = batch_dir;
        log_msg(LOG_INFO, "%lld runs of %lld variations, %lld stored rows of %lld numbers, through %s",
                (long long)s.n_runs, (long long)s.n_groups, (long long)s.T, (long long)s.elems, s.how);
        if (s.n_failed)
            log_msg(LOG_WARN, "%lld runs are marked failed in the manifest and take no part", (long long)s.n_failed);
        rc = run_commands(command, &s, so, j, &e);
    }
    if (rc) {
        log_msg(LOG_ERROR, "%s", e.text);
        status = err_exit_code(rc);
    } else {
        log_msg(LOG_INFO, "%lld files in %s", (long long)o->n_files, out);
        status = s.n_skipped > 0;
        if (s.n_skipped)
            log_msg(LOG_WARN, "%lld runs were left out for the reasons above", (long long)s.n_skipped);
    }
    if (fflush(stdout) && !status) {
        log_msg(LOG_ERROR, "the table cannot be written to standard output");
        status = 1;
    }
    sweep_close(&s);
    batch_close(&b);
    free(out);
    parallel_shutdown();
    plots_shutdown();
    return status;
}

int analyze_program(int argc, char **argv)
{
    static const char *const groupings[] = { "video", "shot" };
    static const char *const formats[] = { "both", "csv", "json" }, *const plot_names[] = { "none", "svg", "png" };
    const char *batch_dir = NULL, *out = NULL, *format = NULL, *plots = NULL, *rank = NULL, *bootstrap = NULL,
               *seed = NULL, *max_rows = NULL, *loadings = NULL, *by = NULL;
    bool help = false, version = false;
    const option_def defs[] = {
        { "batch-dir", &batch_dir, NULL }, { "out", &out, NULL },           { "format", &format, NULL },
        { "plots", &plots, NULL },         { "rank", &rank, NULL },         { "bootstrap", &bootstrap, NULL },
        { "seed", &seed, NULL },           { "max-rows", &max_rows, NULL }, { "loadings", &loadings, NULL },
        { "help", NULL, &help },           { "version", NULL, &version },   { "by", &by, NULL },
    };
    err e = { 0 };
    int command = -1, grouping = 0, n_defs = (int)(sizeof defs / sizeof *defs), format_index = 0,
        plot_index = plots_available() ? PLOTS_SVG : PLOTS_NONE;
    int64_t seed_value = 0;
    output o = { .resamples = 2000 };
    sweep_options so = { .max_rows = SWEEP_MAX_ROWS, .memory = SWEEP_MEMORY };
    job j = { 0 };

    linalg_init();
    bool named = argc > 1 && argv[1][0] != '-';
    if (options_parse(defs, n_defs, argc, argv, named ? 2 : 1, &e))
        return usage_error(e.text);
    if (help) {
        print_help(stdout);
        return 0;
    }
    if (version) {
        printf("latent-analyze (wanscope) %s\n", WANSCOPE_VERSION);
        return 0;
    }
    if (!named) {
        print_help(stderr);
        return usage_error("a command is missing.");
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], COMMANDS[i].name))
            command = i;
    if (command < 0 && strcmp(argv[1], "all"))
        return unknown_command(argv[1]);
    if (!batch_dir)
        return usage_error("--batch-dir is missing. See --help.");
    if (options_word(&format_index, format, "format", formats, 3, &e) ||
        options_word(&plot_index, plots, "plots", plot_names, 3, &e) ||
        options_word(&grouping, by, "by", groupings, 2, &e) || options_int(&j.rank, rank, "rank", 1, 1000000, &e) ||
        options_int(&o.resamples, bootstrap, "bootstrap", 100, 1000000, &e) ||
        options_int(&seed_value, seed, "seed", 0, INT64_MAX, &e) ||
        options_int(&so.max_rows, max_rows, "max-rows", 2, 40000, &e) ||
        options_int(&j.loadings, loadings, "loadings", 1, PCA_SCORES, &e))
        return usage_error(e.text);
    if (plot_index != PLOTS_NONE && !plots_available())
        return usage_error("this build has no cairo and draws no plots; build again with libcairo2-dev installed, or "
                           "give --plots none.");
    if (grouping && command > 0)
        return usage_error("--by shot is for trajectory and all: volume and pca are of whole videos.");
    j.by_shot = grouping;
    o.seed = (uint64_t)seed_value;
    o.csv = format_index != 2;
    o.json = format_index != 1;
    o.plots = (plot_format)plot_index;
    int needs = 0;
    for (int i = 0; i < N_COMMANDS; i++)
        needs |= command < 0 || command == i ? COMMANDS[i].needs : 0;
    return analyze(argv[1], batch_dir, out, &o, &so, &j, needs);
}
