/* wanscope bench: times of operations and networks with random weights, with their distance to what the hardware could do. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/parallel.h"
#include "experiments/bench.h"

int cmd_bench(int argc, char **argv);

static const char USAGE[] =
    "usage: wanscope bench [WHAT...] [options]\n"
    "\n"
    "Times the engine with random weights and inputs of the scale of real ones; needs no model. WHAT, all when none is named:\n"
    "\n"
    "  attention   self- and cross-attention of one block\n"
    "  gemm        the matrix products of one block\n"
    "  block       one transformer block\n"
    "  forward     one call of the whole transformer\n"
    "  vae         decoding to 8-bit frames, and encoding\n"
    "  t5          the text encoder over a whole context\n"
    "  capture     guided steps that write the attention to 16 text positions of every block (mean over heads) to a trace\n"
    "              while the device goes on, against steps that do not: with the settings a run has by default, and in f16\n"
    "              without compression; `probs` is the share of one block on the device\n"
    "  offload     a forward with half of the blocks, and all, in host memory, against all on the device, in turn\n"
    "  longlive    a causal clip: blocks of 3 latent frames that see 12, 4 denoising calls and one that fills the cache. The\n"
    "              clock of a block starts when the one before is done and stops when its latents are (with +vae: its\n"
    "              frames on the host); frames a second = 12 / median; prompt-switch is the time to the first frame\n"
    "  sparse      attention by shots, as HoloCine's sparse checkpoints have it (a shot every 40 frames, at least 2)\n"
    "  vace        a forward with the hint blocks of VACE\n"
    "  fp8         forwards in bf16 and fp8 in turn, and how far the latents of a short run in fp8 are from those in bf16\n"
    "\n"
    "  --model 1.3b|14b|tiny        sizes of the networks (1.3b)\n"
    "  --size 480p|720p|WxH         pixels; 832x480, 1280x720 (480p; tiny: 64x64)\n"
    "  --frames N                   4n+1 (81; tiny: 5)\n"
    "  --precision bf16|fp8|exact   without it bf16 where the device computes so, else exact\n"
    "  --repeat N                   samples of each (10), after warm-up\n"
    "  --blocks N                   measured blocks of longlive (20)\n"
    "  --device D                   auto, cpu, cuda, cuda:N (auto)\n"
    "  --threads N                  CPU threads (0: all)\n"
    "  --seed N                     of all random numbers (1)\n"
    "  --format table|csv|json      (table)\n"
    "  --output FILE                in place of standard output, written at the end\n"
    "  --help                       this text\n"
    "\n"
    "Each line has the median, least and most milliseconds of a call, and two floors: its operations at 989 TFLOP/s (dense bf16\n"
    "products of an H200, by its data sheet) and the bytes it must move at least once at 4.3 TB/s (an H200's copy rate as\n"
    "measured); `distance` is the median over the larger floor. On other devices the floors are still those of an H200. A\n"
    "measure that fails is told on standard error; the others go on, and the exit status is not 0.\n";

typedef struct measure {
    const char *name;
    int (*run)(bench *b, err *e);
} measure;
static const measure MEASURES[] = {
    { "attention", bench_attention }, { "gemm", bench_gemm }, { "block", bench_block }, { "forward", bench_forward }, { "vae", bench_vae },
    { "t5", bench_t5 }, { "capture", bench_capture }, { "offload", bench_offload }, { "longlive", bench_longlive }, { "sparse", bench_sparse }, { "vace", bench_vace },
    { "fp8", bench_fp8 },
};
enum { N_MEASURES = sizeof MEASURES / sizeof *MEASURES };

typedef struct options {
    bool chosen[N_MEASURES], any, help;
    const char *model, *size, *precision, *device, *output, *format;
    int64_t frames, repeat, blocks, threads, seed;
} options;

static int number(int64_t *out, const char *name, const char *text, int64_t least, int64_t most, err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end || errno || v < least || v > most)
        return ERR(e, ERR_ARG, "--%s needs a whole number from %" PRId64 " to %" PRId64 ", found '%s'", name, least, most, text);
    *out = v;
    return 0;
}

static int choose(options *o, const char *word, err *e)
{
    const char *names[N_MEASURES];
    for (int i = 0; i < N_MEASURES; i++) {
        names[i] = MEASURES[i].name;
        if (strcmp(word, names[i]) == 0) {
            o->chosen[i] = o->any = true;
            return 0;
        }
    }
    const char *near = str_nearest(word, names, N_MEASURES);
    return ERR(e, ERR_ARG, "bench cannot measure '%s'%s%s%s", word, near ? "; did you mean '" : "", near ? near : "",
               near ? "'?" : "; see wanscope bench --help");
}

static int parse_options(options *o, int argc, char **argv, err *e)
{
    static const char *const KNOWN[] = { "model", "size", "frames", "precision", "repeat", "blocks", "device", "threads", "seed", "format", "output",
                                         "help" };
    const char **texts[] = { &o->model, &o->size, NULL, &o->precision, NULL, NULL, &o->device, NULL, NULL, &o->format, &o->output };
    int64_t *numbers[] = { NULL, NULL, &o->frames, NULL, &o->repeat, &o->blocks, NULL, &o->threads, &o->seed, NULL, NULL };
    static const int64_t least[] = { 0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0 };
    static const int64_t most[] = { 0, 0, 4097, 0, BENCH_MAX_REPEAT, BENCH_MAX_REPEAT, 0, 1024, INT32_MAX, 0, 0 };
    enum { N_KNOWN = sizeof KNOWN / sizeof *KNOWN };
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        int k = 0, rc = 0;
        if (strncmp(a, "--", 2) && strcmp(a, "-h")) {
            if ((rc = choose(o, a, e)))
                return rc;
            continue;
        }
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            o->help = true;
            return 0;
        }
        size_t len = strcspn(a + 2, "=");
        while (k < N_KNOWN - 1 && (strlen(KNOWN[k]) != len || strncmp(a + 2, KNOWN[k], len)))
            k++;
        if (k == N_KNOWN - 1) {
            const char *near = str_nearest(a + 2, KNOWN, N_KNOWN);
            return ERR(e, ERR_ARG, "bench does not know the option '%s'%s%s%s", a, near ? "; did you mean '--" : "", near ? near : "",
                       near ? "'?" : "; see wanscope bench --help");
        }
        const char *value = a[2 + len] ? a + 3 + len : i + 1 < argc ? argv[++i] : NULL;
        if (!value)
            return ERR(e, ERR_ARG, "--%s needs a value after it", KNOWN[k]);
        if (texts[k])
            *texts[k] = value;
        else if ((rc = number(numbers[k], KNOWN[k], value, least[k], most[k], e)))
            return rc;
    }
    return 0;
}

static int set_size(bench *b, const options *o, err *e)
{
    static const struct { const char *name; int width, height; } SIZES[] = { { "480p", 832, 480 }, { "720p", 1280, 720 } };
    bool tiny = strcmp(b->model.name, "tiny") == 0;
    const char *size = o->size ? o->size : tiny ? "64x64" : "480p";
    char end = 0;
    b->frames = o->frames ? (int)o->frames : tiny ? 5 : 81;
    for (int i = 0; i < 2; i++)
        if (strcmp(size, SIZES[i].name) == 0) {
            b->width = SIZES[i].width;
            b->height = SIZES[i].height;
        }
    if (!b->width && (sscanf(size, "%dx%d%c", &b->width, &b->height, &end) != 2 || b->width < 16 || b->height < 16 || b->width % 16 || b->height % 16 ||
                      b->width > 8192 || b->height > 8192))
        return ERR(e, ERR_ARG, "--size is 480p, 720p or WIDTHxHEIGHT in multiples of 16 up to 8192, found '%s'", size);
    if (b->frames % 4 != 1)
        return ERR(e, ERR_ARG, "--frames must be 4n+1 (1, 5, 9 ... 81), found %d", b->frames);
    b->F = (b->frames - 1) / 4 + 1;
    b->H = b->height / 8;
    b->W = b->width / 8;
    b->per_frame = b->H / 2 * (b->W / 2);
    b->tokens = b->F * b->per_frame;
    return 0;
}

static int set_up(bench *b, const options *o, err *e)
{
    const char *format = o->format ? o->format : "table", *precision_name = o->precision;
    int rc = bench_find_model(&b->model, o->model ? o->model : "1.3b", e);
    rc = rc ? rc : set_size(b, o, e);
    if (rc)
        return rc;
    if (strcmp(format, "table") && strcmp(format, "csv") && strcmp(format, "json"))
        return ERR(e, ERR_ARG, "--format is table, csv or json, found '%s'", format);
    b->format = *format == 't' ? BENCH_TABLE : *format == 'c' ? BENCH_CSV : BENCH_JSON;
    b->repeat = (int)o->repeat;
    b->blocks = (int)o->blocks;
    b->seed = (uint64_t)o->seed;
    b->to_stdout = !o->output;
    if (precision_name && (rc = precision_find(&b->prec, precision_name, e)))
        return rc;
    parallel_set_threads((int)o->threads);
    if ((rc = backend_open(&b->be, o->device ? o->device : "auto", e)))
        return rc;
    if (!precision_name)
        rc = precision_find(&b->prec, b->be->ops->bf16 ? "bf16" : "exact", e);
    else if (precision_on(b->prec, b->be) != b->prec)
        rc = ERR(e, ERR_ARG, "--precision %s: %s does not compute so; it would be measured as %s", precision_name, b->be->device,
                 precision_on(b->prec, b->be)->name);
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    options o = { .repeat = 10, .blocks = 20, .seed = 1 };
    bench b = { .out = STR_INIT };
    err e = { 0 };
    int failed = 0, rc = parse_options(&o, argc, argv, &e);
    if (rc || o.help) {
        if (!rc)
            fputs(USAGE, stdout);
        goto out;
    }
    if ((rc = set_up(&b, &o, &e)))
        goto out;
    bench_machine_open(&b.machine, b.be);
    b.named = o.any;
    rc = bench_begin(&b, &e);
    for (int i = 0; i < N_MEASURES && !rc; i++) {
        if (!o.chosen[i] && o.any)
            continue;
        int one = err_at(&e, MEASURES[i].run(&b, &e), "while measuring %s", MEASURES[i].name);
        if (one == ERR_CANCELLED || one == ERR_IO) {
            rc = one;
        } else if (one) {                                /* the others go on */
            log_msg(LOG_ERROR, "%s", e.text);
            failed = one;
            e = (err){ 0 };
        }
    }
    rc = rc ? rc : bench_end(&b, &e);
    if (!rc && o.output)
        rc = fs_write_atomic(o.output, b.out.data, b.out.len, &e);
out:
    if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    bench_machine_close(&b.machine);
    backend_close(b.be);
    str_release(&b.out);
    parallel_shutdown();
    return err_exit_code(rc ? rc : failed);
}
