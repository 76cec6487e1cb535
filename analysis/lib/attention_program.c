#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/attention.h"
#include "analysis/lib/batch.h"
#include "analysis/lib/npy.h"
#include "analysis/lib/options.h"
#include "analysis/lib/output.h"
#include "analysis/lib/plots.h"
#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/media.h"

enum { FORMAT_PNG, FORMAT_MP4, FORMAT_NPY, FORMAT_CSV };
static const char *const FORMATS[] = { "png", "mp4", "npy", "csv" };

typedef struct task {
    const char *batch_dir, *run, *out;
    attention_choice choice;
    int format;
    bool overlay;
    /* tallies over the runs */
    int64_t n_written, n_without, n_broken;
    str words; /* marked words seen, quoted, each once */
} task;

static void print_help(FILE *to)
{
    fprintf(to,
            "attention-export --batch-dir D --word W --format png|mp4|npy|csv [options]\n\n"
            "Exports the cross-attention map of one marked word: for each token of the video the probability it gives "
            "the word.\n\n"
            "  --batch-dir D     the batch folder (it holds manifest.jsonl)\n"
            "  --word W          a word marked as (word) in the prompt\n"
            "  --run ID          one run, for example 0003-s44; default: every run that has the word\n"
            "  --step N|mean     sampling step; default mean over the stored ones\n"
            "  --layer N|mean    DiT block; default mean\n"
            "  --head N|mean     attention head; default mean\n"
            "  --format F        png: contact sheet; mp4: video; npy: f32 array [frames, rows, columns]; csv: table\n"
            "  --shot N          of a multi-shot video only the frames of shot N, from 0; png, npy and csv\n"
            "  --overlay         png and mp4: over the run's own video\n"
            "  --out D           where files go; default <batch>/analysis/attention\n"
            "  --help, --version\n\n"
            "Exit status: 0 done; 1 some runs could not be read; 2 bad usage or nothing to export; 3 out of memory.\n");
}

static int usage_error(const char *sentence)
{
    fprintf(stderr, "attention-export: %s\n", sentence);
    return 2;
}

static int parse_number(int64_t *out, const char *text, const char *name, err *e)
{
    *out = ATTENTION_MEAN;
    if (!text || !strcmp(text, "mean"))
        return 0;
    if (options_int(out, text, name, 0, 1000000, NULL))
        return ERR(e, ERR_ARG, "--%s %s: expected a whole number from 0, or mean.", name, text);
    return 0;
}

static void name_number(char *out, size_t room, char letter, int64_t v)
{
    if (v == ATTENTION_MEAN)
        snprintf(out, room, "%cmean", letter);
    else
        snprintf(out, room, "%c%lld", letter, (long long)v);
}

/* "0003-s44-two-men-tmean-l12-hmean.png": letters and digits of the word stay, the rest becomes hyphens. */
static char *file_name(const task *t, const char *run)
{
    char word[80], step[32], layer[32], head[32], shot[32] = "";
    size_t n = 0;
    for (const char *c = t->choice.word; *c && n < sizeof word - 1; c++) {
        bool keep = (*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') ||
                    (unsigned char)*c >= 0x80;
        if (keep || (n > 0 && word[n - 1] != '-'))
            word[n++] = keep ? *c : '-';
    }
    while (n > 0 && ((unsigned char)word[n - 1] >= 0x80 && t->choice.word[0] && n == sizeof word - 1))
        n--; /* a cut UTF-8 character at the very end */
    word[n] = '\0';
    name_number(step, sizeof step, 't', t->choice.step);
    name_number(layer, sizeof layer, 'l', t->choice.layer);
    name_number(head, sizeof head, 'h', t->choice.head);
    if (t->choice.one_shot)
        snprintf(shot, sizeof shot, "-shot%lld", (long long)t->choice.shot);
    return str_format("%s/%s-%s-%s-%s-%s%s%s.%s", t->out, run, word, step, layer, head, shot, t->overlay ? "-overlay" : "",
                      FORMATS[t->format]);
}

static void describe(char *out, size_t room, const char *axis, int64_t v, int64_t n)
{
    if (v == ATTENTION_MEAN)
        snprintf(out, room, n == 1 ? "the one stored %s" : "mean of %s", axis);
    else
        snprintf(out, room, "%s %lld", axis, (long long)v);
    if (v == ATTENTION_MEAN && n > 1)
        snprintf(out, room, "mean of %lld %ss", (long long)n, axis);
}

static int write_picture(const task *t, const trace_reader *r, const batch_run *run, const batch_variation *v,
                         const attention_map *m, const char *path, err *e)
{
    char title[400], subtitle[600], step[64], layer[64], head[64];
    uint8_t *background = NULL;
    int width = (int)(r->width ? r->width : m->w * 16), height = (int)(r->height ? r->height : m->h * 16), rc = 0;
    describe(step, sizeof step, "step", t->choice.step, r->attention.n_steps);
    describe(layer, sizeof layer, "layer", t->choice.layer, r->attention.n_layers);
    describe(head, sizeof head, "head", t->choice.head, r->attention.n_heads);
    if (t->choice.head == ATTENTION_MEAN && r->attention.heads[0] == -1)
        snprintf(head, sizeof head, "mean of all heads");
    snprintf(title, sizeof title, "Attention to \xe2\x80\x9c%s\xe2\x80\x9d", t->choice.word);
    snprintf(subtitle, sizeof subtitle, "%s: %.200s (%s, %s, %s)", run->id, v->prompt, step, layer, head);
    if (t->format == FORMAT_MP4) {
        str s = STR_INIT;
        json_writer w;
        jw_init(&w, &s, 0);
        jw_object(&w);
        jw_kstring(&w, "word", t->choice.word);
        jw_kstring(&w, "run", run->id);
        jw_kstring(&w, "what", subtitle);
        jw_kdouble(&w, "scale_min", 0);
        jw_kdouble(&w, "scale_max", m->max);
        jw_end_object(&w);
        rc = s.failed
                 ? ERR(e, ERR_MEMORY, "no memory for the video's tags")
                 : attention_write_mp4(path, m, t->overlay ? run->video : NULL, width, height, r->fps, str_text(&s), e);
        str_release(&s);
        return rc;
    }
    if (t->overlay)
        rc = attention_read_background(&background, &width, &height, run->video, r->attention.F, e);
    if (!rc)
        rc = attention_write_png(path, m, title, subtitle, background ? background + 3 * m->first * width * height : NULL, width, height, e);
    free(background);
    return rc;
}

static int export_map(task *t, trace_reader *r, const batch_run *run, const batch_variation *v, err *e)
{
    attention_map m;
    char *path = NULL;
    int rc = attention_load(&m, r, &t->choice, e);
    if (rc)
        return rc;
    path = file_name(t, run->id);
    int64_t shape[3] = { m.F, m.h, m.w };
    if (!path)
        rc = ERR(e, ERR_MEMORY, "no memory for a file name");
    else if (t->format == FORMAT_NPY)
        rc = npy_write_f32(path, m.value, shape, 3, e);
    else if (t->format == FORMAT_CSV)
        rc = attention_write_csv(path, &m, e);
    else
        rc = write_picture(t, r, run, v, &m, path, e);
    if (!rc) {
        if (!t->n_written++)
            printf("%-16s %12s %12s %12s  file\n", "run", "min", "mean", "max");
        printf("%-16s %12.5g %12.5g %12.5g  %s\n", run->id, m.min, m.mean, m.max, path);
    }
    free(path);
    attention_map_close(&m);
    return rc;
}

static void note_words(task *t, const trace_reader *r)
{
    for (int64_t i = 0; i < r->attention.words.n; i++) {
        char *quoted = str_format("'%s'", r->attention.words.text[i]);
        if (quoted && !strstr(str_text(&t->words), quoted))
            str_addf(&t->words, "%s%s", t->words.len ? ", " : "", quoted);
        free(quoted);
    }
}

/* A run that cannot be read is reported and counted; what would fail for every run alike ends the program. */
static int export_run(task *t, const batch_run *run, const batch_variation *v, err *e)
{
    trace_reader r;
    err why = { 0 };
    int rc;
    if (!run->trace) {
        t->n_without++;
        return t->run ? ERR(e, ERR_ARG, "run %s left no trace.h5. Run the batch with --store-attention.", run->id) : 0;
    }
    rc = trace_reader_open(&r, run->trace, &why);
    bool opened = !rc;
    if (!rc) {
        note_words(t, &r);
        if (!t->run && (!r.attention.present || attention_find_word(&r, t->choice.word) < 0))
            t->n_without++;
        else if (t->overlay && !run->video)
            rc = ERR(&why, ERR_FORMAT, "run %s left no video.mp4 to lay the map over. Leave --overlay out.", run->id);
        else
            rc = export_map(t, &r, run, v, &why);
        trace_reader_close(&r);
    }
    if (!rc)
        return 0;
    if (!opened ? rc != ERR_MEMORY : rc == ERR_FORMAT || rc == ERR_NAN) {
        log_msg(LOG_ERROR, "run %s is left out: %s", run->id, why.text);
        t->n_broken++;
        return 0;
    }
    return ERR(e, rc, "%s", why.text);
}

static int export_all(task *t, const batch *b, err *e)
{
    bool found = false;
    int rc = 0;
    for (int64_t i = 0; i < b->n_runs && !rc; i++) {
        const batch_run *run = &b->runs[i];
        if (t->run && strcmp(run->id, t->run))
            continue;
        found = true;
        if (run->done)
            rc = export_run(t, run, &b->variations[run->variation], e);
        else if (t->run)
            rc = ERR(e, ERR_ARG, "run %s failed: %s. Run the batch again with --resume.", run->id,
                     run->error ? run->error : "no reason is recorded");
        log_progress("maps", i + 1, b->n_runs, -1);
    }
    log_progress_end();
    if (rc)
        return rc;
    if (!found && t->run) {
        const char **ids = malloc((size_t)(b->n_runs + 1) * sizeof *ids);
        for (int64_t i = 0; ids && i < b->n_runs; i++)
            ids[i] = b->runs[i].id;
        const char *near = ids ? str_nearest(t->run, ids, (size_t)b->n_runs) : NULL;
        rc = near ? ERR(e, ERR_ARG, "%s: the batch has no run '%s'; did you mean '%s'?", b->dir, t->run, near)
                  : ERR(e, ERR_ARG, "%s: the batch has no run '%s'; it has %lld runs, the first is '%s'.", b->dir,
                        t->run, (long long)b->n_runs, b->n_runs ? b->runs[0].id : "(none)");
        free(ids);
        return rc;
    }
    if (t->n_written == 0 && t->n_broken == 0)
        return t->words.len ? ERR(e, ERR_ARG, "%s: no run has a map of the word '%s'; the marked words are %s.", b->dir,
                                  t->choice.word, str_text(&t->words))
                            : ERR(e, ERR_ARG,
                                  "%s: no run has attention maps. Mark a word as (word) in the prompt and run with "
                                  "--store-attention.",
                                  b->dir);
    if (t->n_without)
        log_msg(LOG_INFO, "%lld runs have no map of '%s'", (long long)t->n_without, t->choice.word);
    return 0;
}

int attention_program(int argc, char **argv)
{
    const char *step = NULL, *layer = NULL, *head = NULL, *shot = NULL, *format = NULL, *out = NULL;
    bool help = false, version = false;
    task t = { .format = -1 };
    err e = { 0 };
    batch b = { 0 };
    const option_def defs[] = {
        { "batch-dir", &t.batch_dir, NULL },
        { "word", &t.choice.word, NULL },
        { "run", &t.run, NULL },
        { "step", &step, NULL },
        { "layer", &layer, NULL },
        { "head", &head, NULL },
        { "shot", &shot, NULL },
        { "format", &format, NULL },
        { "out", &out, NULL },
        { "overlay", NULL, &t.overlay },
        { "help", NULL, &help },
        { "version", NULL, &version },
    };
    if (options_parse(defs, (int)(sizeof defs / sizeof *defs), argc, argv, 1, &e))
        return usage_error(e.text);
    if (help) {
        print_help(stdout);
        return 0;
    }
    if (version) {
        printf("attention-export (wanscope) %s\n", WANSCOPE_VERSION);
        return 0;
    }
    if (!t.batch_dir || !t.choice.word || !format) {
        print_help(stderr);
        return usage_error(!t.batch_dir     ? "--batch-dir is missing."
                           : !t.choice.word ? "--word is missing."
                                            : "--format is missing.");
    }
    if (options_word(&t.format, format, "format", FORMATS, 4, &e) || parse_number(&t.choice.step, step, "step", &e) ||
        parse_number(&t.choice.layer, layer, "layer", &e) || parse_number(&t.choice.head, head, "head", &e))
        return usage_error(e.text);
    if (shot) {
        if (options_int(&t.choice.shot, shot, "shot", 0, 1000000, &e))
            return usage_error(e.text);
        t.choice.one_shot = true;
        if (t.format == FORMAT_MP4)
            return usage_error("--shot cuts frames out: give --format png, npy or csv with it, or leave it out for the whole video.");
    }
    if (t.overlay && t.format != FORMAT_PNG && t.format != FORMAT_MP4)
        return usage_error("--overlay makes a picture: give --format png or mp4 with it.");
    if (!media_have_ffmpeg() && (t.overlay || t.format == FORMAT_MP4))
        return usage_error("this build has no FFmpeg and neither reads nor writes videos; build again with the FFmpeg "
                           "libraries installed, or "
                           "give --format png, npy or csv without --overlay.");
    char *folder = out ? str_dup(out) : fs_join(t.batch_dir, "analysis/attention");
    int rc = folder ? batch_open(&b, t.batch_dir, &e) : ERR(&e, ERR_MEMORY, "no memory for a file name");
    t.out = folder;
    if (!rc)
        rc = fs_mkdirs(folder, &e);
    if (!rc)
        rc = export_all(&t, &b, &e);
    int status = rc ? err_exit_code(rc) : t.n_broken > 0;
    if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    if (fflush(stdout) && !status) {
        log_msg(LOG_ERROR, "the table cannot be written to standard output");
        status = 1;
    }
    str_release(&t.words);
    batch_close(&b);
    free(folder);
    plots_shutdown();
    return status;
}
