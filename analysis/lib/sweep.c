#include "analysis/lib/sweep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "analysis/lib/sweep_internal.h"
#include "core/base/log.h"
#include "core/base/str.h"

int sweep_skip(sweep *s, const batch_run *run, const char *reason, err *e)
{
    sweep_skipped *grown = realloc(s->skipped, (size_t)(s->n_skipped + 1) * sizeof *grown);
    if (!grown)
        return ERR(e, ERR_MEMORY, "no memory for the list of skipped runs");
    s->skipped = grown;
    grown[s->n_skipped].run = str_dup(run->id);
    grown[s->n_skipped].reason = str_dup(reason);
    s->n_skipped++;
    log_msg(LOG_ERROR, "run %s is left out: %s", run->id, reason);
    return 0;
}

void sweep_drop_run(sweep *s, int64_t i)
{
    path_sums_close(&s->runs[i].path);
    memmove(&s->runs[i], &s->runs[i + 1], (size_t)(s->n_runs - i - 1) * sizeof *s->runs);
    s->n_runs--;
}

/* What must be the same for runs to be compared. */
typedef struct layout {
    int64_t C, F, H, W, T, n_steps;
    int32_t *rows;
    double *sigma;
    int64_t votes;
} layout;

static void layout_release(layout *l)
{
    free(l->rows);
    free(l->sigma);
}

static bool layout_same(const layout *a, const layout *b)
{
    return a->C == b->C && a->F == b->F && a->H == b->H && a->W == b->W && a->T == b->T && a->n_steps == b->n_steps &&
           !memcmp(a->rows, b->rows, (size_t)a->T * sizeof *a->rows) &&
           !memcmp(a->sigma, b->sigma, (size_t)a->T * sizeof *a->sigma);
}

/* Opens a trace, compares it with the manifest and takes its layout. A sentence in *bad skips the run. */
static int survey_run(layout *l, const batch_run *run, err *bad, err *e)
{
    trace_reader t;
    struct stat st;
    memset(l, 0, sizeof *l);
    if (!run->trace)
        return ERR(bad, ERR_FORMAT, "the manifest lists no trace.h5 for it. Run the batch with --store-latents.");
    if (run->trace_bytes >= 0 && !stat(run->trace, &st) && st.st_size != run->trace_bytes)
        return ERR(
            bad, ERR_FORMAT,
            "%s: the file has %lld bytes, the manifest says %lld: it is truncated or was replaced. Run the batch "
            "again with --resume.",
            run->trace, (long long)st.st_size, (long long)run->trace_bytes);
    int rc = trace_reader_open(&t, run->trace, bad);
    if (rc)
        return rc;
    if (t.has_seed && t.seed != run->seed) {
        rc = ERR(
            bad, ERR_FORMAT,
            "%s: the trace was made with seed %lld, the manifest says %lld: the file belongs to another run. Run the "
            "batch again with --resume.",
            run->trace, (long long)t.seed, (long long)run->seed);
    } else if (!t.has_latents) {
        rc = ERR(bad, ERR_FORMAT,
                 "%s: the trace holds attention maps but no '/latents'. Run the batch with --store-latents.",
                 run->trace);
    } else {
        *l = (layout){ t.C, t.F, t.H, t.W, t.n_rows, t.n_steps, NULL, NULL, 0 };
        l->rows = malloc((size_t)t.n_rows * sizeof *l->rows);
        l->sigma = malloc((size_t)t.n_rows * sizeof *l->sigma);
        if (!l->rows || !l->sigma) {
            layout_release(l);
            rc = ERR(e, ERR_MEMORY, "no memory for the axes of %s", run->trace);
        } else {
            memcpy(l->rows, t.rows, (size_t)t.n_rows * sizeof *l->rows);
            memcpy(l->sigma, t.row_sigma, (size_t)t.n_rows * sizeof *l->sigma);
        }
    }
    trace_reader_close(&t);
    return rc;
}

/* First look at every trace: the layout most runs share is the batch's; the others are skipped. */
static int survey(sweep *s, const batch *b, err *e)
{
    layout *layouts = NULL;
    int64_t n_layouts = 0, *which = malloc((size_t)(b->n_runs + 1) * sizeof *which);
    int rc = 0;
    s->runs = calloc((size_t)b->n_runs + 1, sizeof *s->runs);
    if (!which || !s->runs) {
        rc = ERR(e, ERR_MEMORY, "no memory for %lld runs", (long long)b->n_runs);
        goto out;
    }
    for (int64_t i = 0; i < b->n_runs && !rc; i++) {
        which[i] = -1;
        if (!b->runs[i].done) {
            s->n_failed++;
            continue;
        }
        layout l;
        err bad = { 0 }, own = { 0 };
        if (survey_run(&l, &b->runs[i], &bad, &own)) {
            rc = own.kind ? ERR(e, own.kind, "%s", own.text) : sweep_skip(s, &b->runs[i], bad.text, e);
            continue;
        }
        for (int64_t k = 0; k < n_layouts && which[i] < 0; k++)
            if (layout_same(&layouts[k], &l))
                which[i] = k;
        if (which[i] >= 0) {
            layout_release(&l);
        } else {
            layout *grown = realloc(layouts, (size_t)(n_layouts + 1) * sizeof *grown);
            if (!grown) {
                layout_release(&l);
                rc = ERR(e, ERR_MEMORY, "no memory for the layouts of the traces");
                continue;
            }
            layouts = grown;
            which[i] = n_layouts;
            layouts[n_layouts++] = l;
        }
        layouts[which[i]].votes++;
    }
    if (rc)
        goto out;
    int64_t best = 0;
    for (int64_t k = 1; k < n_layouts; k++)
        best = layouts[k].votes > layouts[best].votes ? k : best;
    for (int64_t i = 0; i < b->n_runs && !rc && n_layouts > 0; i++) {
        if (which[i] == best)
            s->runs[s->n_runs++].run = &b->runs[i];
        if (which[i] < 0 || which[i] == best)
            continue;
        const layout *x = &layouts[which[i]], *y = &layouts[best];
        char why[600];
        snprintf(why, sizeof why,
                 "%.300s: its latents are %lld x %lld x %lld x %lld with %lld stored rows of %lld steps, most of the "
                 "batch has "
                 "%lld x %lld x %lld x %lld with %lld of %lld%s. Analyse it in a batch of its own.",
                 b->runs[i].trace, (long long)x->C, (long long)x->F, (long long)x->H, (long long)x->W, (long long)x->T,
                 (long long)x->n_steps, (long long)y->C, (long long)y->F, (long long)y->H, (long long)y->W,
                 (long long)y->T, (long long)y->n_steps,
                 x->T == y->T && x->n_steps == y->n_steps ? " (or another noise schedule)" : "");
        rc = sweep_skip(s, &b->runs[i], why, e);
    }
    if (n_layouts > 0) {
        const layout *y = &layouts[best];
        s->C = y->C;
        s->F = y->F;
        s->H = y->H;
        s->W = y->W;
        s->elems = y->C * y->F * y->H * y->W;
        s->T = y->T;
        s->n_steps = y->n_steps;
        s->rows = y->rows;
        s->sigma = y->sigma;
        layouts[best].rows = NULL;
        layouts[best].sigma = NULL;
    }
out:
    for (int64_t k = 0; k < n_layouts; k++)
        layout_release(&layouts[k]);
    free(layouts);
    free(which);
    return rc;
}

static int group_runs(sweep *s, err *e)
{
    free(s->groups);
    s->n_groups = 0;
    s->groups = calloc((size_t)s->n_runs + 1, sizeof *s->groups);
    if (!s->groups)
        return ERR(e, ERR_MEMORY, "no memory for the groups");
    for (int64_t i = 0; i < s->n_runs; i++) { /* the batch sorted them by variation and seed */
        if (i == 0 || s->runs[i].run->variation != s->runs[i - 1].run->variation)
            s->groups[s->n_groups++].first = i;
        s->groups[s->n_groups - 1].n++;
        s->runs[i].group = s->n_groups - 1;
    }
    return 0;
}

int sweep_prepare_across(sweep *s, err *e)
{
    int rc = group_runs(s, e);
    if (rc)
        return rc;
    s->n_pooled = s->n_runs * s->pooled_per_run;
    s->pooled = calloc((size_t)(s->n_pooled * s->n_pooled), sizeof *s->pooled);
    s->ends = calloc((size_t)(s->n_runs * s->n_runs), sizeof *s->ends);
    s->end_devs = calloc((size_t)(s->n_runs * s->n_runs), sizeof *s->end_devs);
    s->end_means = calloc((size_t)(s->n_groups * s->n_groups), sizeof *s->end_means);
    if (!s->pooled || !s->ends || !s->end_devs || !s->end_means)
        return ERR(e, ERR_MEMORY, "no memory for Gram matrices of %lld rows and %lld runs; lower --max-rows",
                   (long long)s->n_pooled, (long long)s->n_runs);
    return 0;
}

/* Evenly spaced stored rows, the first and the last among them. */
static int choose_pooled_rows(sweep *s, int64_t max_rows, err *e)
{
    if (s->n_runs > max_rows)
        return ERR(
            e, ERR_ARG,
            "the batch has %lld runs, more than the %lld rows that the Gram matrix may have. Raise --max-rows to at "
            "least %lld (the matrix takes 8 bytes times its square).",
            (long long)s->n_runs, (long long)max_rows, (long long)s->n_runs);
    int64_t k = max_rows / s->n_runs;
    k = k > s->T ? s->T : k;
    s->pooled_per_run = k;
    s->n_pooled = k * s->n_runs;
    s->pooled_rows = malloc((size_t)k * sizeof *s->pooled_rows);
    if (!s->pooled_rows)
        return ERR(e, ERR_MEMORY, "no memory for the pooled rows");
    for (int64_t i = 0; i < k; i++)
        s->pooled_rows[i] = k == 1 ? s->T - 1 : (i * (s->T - 1) + (k - 1) / 2) / (k - 1);
    if (k < s->T)
        log_msg(LOG_WARN, "the pooled Gram matrix takes %lld of the %lld stored rows of each run (--max-rows %lld)",
                (long long)k, (long long)s->T, (long long)max_rows);
    return 0;
}

int sweep_open(sweep *s, const batch *b, const sweep_options *o, err *e)
{
    memset(s, 0, sizeof *s);
    s->how = "memory";
    int rc = survey(s, b, e);
    for (int64_t i = 0; i < s->n_runs && !rc; i++)
        rc = path_sums_open(&s->runs[i].path, s->T, e);
    if (!rc && s->n_runs > 0 && o->across) {
        rc = choose_pooled_rows(s, o->max_rows, e);
        int64_t n = s->n_runs;
        if (!rc)
            rc = sweep_store_process(s, 0, &n, o, true, e);
    } else if (!rc) {
        double run_bytes = (double)s->T * (double)s->elems * 4;
        int64_t at_once = run_bytes > 0 ? (int64_t)((double)o->memory / run_bytes) : 1;
        at_once = at_once < 1 ? 1 : at_once;
        for (int64_t i = 0; i < s->n_runs && !rc;) {
            int64_t n = s->n_runs - i < at_once ? s->n_runs - i : at_once;
            rc = sweep_store_process(s, i, &n, o, false, e);
            i += n;
            log_progress("reading traces", i, s->n_runs, -1);
        }
        log_progress_end();
    }
    if (!rc && s->n_runs == 0)
        rc = ERR(e, ERR_ARG,
                 "%s: the batch has no run that can be analysed: %lld listed, %lld failed, %lld left out for the "
                 "reasons above. "
                 "Run it with --store-latents, or with --resume if it was interrupted.",
                 b->dir, (long long)b->n_runs, (long long)s->n_failed, (long long)s->n_skipped);
    if (!rc)
        rc = group_runs(s, e);
    if (rc) {
        sweep_close(s);
        return rc;
    }
    for (int64_t g = 0; g < s->n_groups; g++)
        s->groups[g].variation = &b->variations[s->runs[s->groups[g].first].run->variation];
    for (int64_t i = 0; i < s->n_runs; i++)
        path_sums_finish(&s->runs[i].path, s->T);
    return 0;
}

void sweep_close(sweep *s)
{
    for (int64_t i = 0; i < s->n_runs; i++)
        path_sums_close(&s->runs[i].path);
    for (int64_t i = 0; i < s->n_skipped; i++) {
        free(s->skipped[i].run);
        free(s->skipped[i].reason);
    }
    free(s->skipped);
    free(s->runs);
    free(s->groups);
    free(s->rows);
    free(s->sigma);
    free(s->ends);
    free(s->end_devs);
    free(s->end_means);
    free(s->pooled);
    free(s->pooled_rows);
    memset(s, 0, sizeof *s);
}

int sweep_combine(double *component, const sweep *s, const double *weights, int64_t k, err *e)
{
    float *row = malloc((size_t)s->elems * sizeof *row);
    uint16_t *half = malloc((size_t)s->elems * sizeof *half);
    int rc = row && half ? 0 : ERR(e, ERR_MEMORY, "no memory for a row of latents");
    for (int64_t i = 0; i < s->n_runs && !rc; i++) {
        trace_reader t;
        if ((rc = trace_reader_open(&t, s->runs[i].run->trace, e)))
            break;
        if (t.n_rows != s->T || t.row_elems != s->elems)
            rc = ERR(e, ERR_FORMAT, "%s: the file changed while it was being read. Analyse the batch again.", t.path);
        for (int64_t r = 0; r < s->pooled_per_run && !rc; r++) {
            if ((rc = trace_reader_row(&t, row, half, s->pooled_rows[r], e)))
                break;
            for (int64_t c = 0; c < k; c++) {
                double w = weights[c * s->n_pooled + i * s->pooled_per_run + r];
                for (int64_t x = 0; x < s->elems; x++)
                    component[c * s->elems + x] += w * row[x];
            }
        }
        trace_reader_close(&t);
        log_progress("loadings", i + 1, s->n_runs, -1);
    }
    log_progress_end();
    free(half);
    free(row);
    return rc;
}
