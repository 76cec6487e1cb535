/* wanscope convert: a diffusion model written again: with adapters merged, in another type, or 8-bit with scales. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "core/dit/lora.h"
#include "core/io/ckpt.h"
#include "core/io/quantise.h"
#include "core/io/scaled.h"
#include "core/io/st_write.h"
#include "experiments/build_id.h"
#include "experiments/interrupt.h"

int cmd_convert(int argc, char **argv);

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static const char USAGE[] =
    "usage: wanscope convert IN OUT.safetensors [--lora FILE[:MULTIPLIER]]... [--dtype f32|f16|bf16] [--fp8-scaled]\n"
    "\n"
    "Writes the diffusion model IN (file or folder; of a pair of experts one) as one safetensors file with the original\n"
    "Wan names. Prints a line a step; the file appears under its name when it is complete.\n"
    "\n"
    "  --lora FILE[:M]   merges an adapter, in the order given; may be repeated\n"
    "  --dtype TYPE      type of the matrices (without it: as they are; 8-bit ones of IN are multiplied out)\n"
    "  --fp8-scaled      matrices of the blocks become 8-bit floats with one scale each, as H1111 makes them (about half the\n"
    "                    size of bf16); the error is printed, over all and for the worst tensor\n"
    "  --help            this text\n"
    "\n"
    "Small vectors, norms and modulation tables stay as they are. A config.json beside IN is not copied.\n";

enum { MAX_LORAS = 32 };

typedef struct options {
    const char *in, *out;
    bool fp8, help;
    dtype type;                          /* DT_COUNT: as they are */
    int n_loras;
    char *paths[MAX_LORAS];
    double multipliers[MAX_LORAS];
} options;

static int add_lora(options *o, const char *text, err *e)
{
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    double v = colon && colon[1] ? strtod(colon + 1, &end) : 1;
    bool number = end && !*end && v > -1e6 && v < 1e6;
    if (o->n_loras == MAX_LORAS)
        return ERR(e, ERR_ARG, "more than %d adapters: merge some first", MAX_LORAS);
    o->multipliers[o->n_loras] = number ? v : 1;
    if (!(o->paths[o->n_loras] = number ? str_dupn(text, (size_t)(colon - text)) : str_dup(text)))
        return ERR(e, ERR_MEMORY, "out of memory for the command line");
    o->n_loras++;
    return 0;
}

static int parse(options *o, int argc, char **argv, err *e)
{
    *o = (options){ .type = DT_COUNT };
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            o->help = true;
            return 0;
        } else if (!strcmp(a, "--fp8-scaled") || !strcmp(a, "--fp8_scaled")) {
            o->fp8 = true;
        } else if (!strcmp(a, "--lora") || !strcmp(a, "--dtype")) {
            if (i + 1 >= argc)
                return ERR(e, ERR_ARG, "%s needs a value after it, found the end of the command line", a);
            const char *value = argv[++i];
            int rc = 0;
            if (a[2] == 'l')
                rc = add_lora(o, value, e);
            else if (!strcmp(value, "f32") || !strcmp(value, "f16") || !strcmp(value, "bf16"))
                o->type = value[0] == 'b' ? DT_BF16 : value[1] == '3' ? DT_F32 : DT_F16;
            else
                rc = ERR(e, ERR_ARG, "--dtype is '%s': expected f32, f16 or bf16 (--fp8-scaled writes 8-bit weights)", value);
            if (rc)
                return rc;
        } else if (a[0] == '-' && a[1]) {
            return ERR(e, ERR_ARG, "unknown option %s: 'wanscope convert --help' lists the options", a);
        } else if (!o->in) {
            o->in = a;
        } else if (!o->out) {
            o->out = a;
        } else {
            return ERR(e, ERR_ARG, "unexpected argument '%s': one model goes in and one file comes out", a);
        }
    }
    if (!o->in || !o->out)
        return ERR(e, ERR_ARG, "expected two paths: wanscope convert IN OUT.safetensors");
    if (!str_ends_with(o->out, ".safetensors"))
        return ERR(e, ERR_ARG, "%s: the file that is written must end in .safetensors", o->out);
    if (fs_exists(o->out))
        return ERR(e, ERR_ARG, "%s exists already: remove it or choose another name", o->out);
    if (!o->fp8 && !o->n_loras && o->type == DT_COUNT)
        return ERR(e, ERR_ARG, "nothing to do: give --lora, --dtype or --fp8-scaled");
    return 0;
}

typedef struct work {
    const options *o;
    ckpt *model, *files[MAX_LORAS];
    lora loras[MAX_LORAS];
    lora_merge *merge;
    st_writer *to;
    scaled_tally tally;
    fp8_error all;
    double worst;
    char worst_name[256];
    int quantised, merged;
} work;

static int64_t elements(const ckpt_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

static bool is_scale(const ckpt *c, const ckpt_tensor *t)
{
    if (!str_ends_with(t->name, ".scale_weight"))
        return false;
    char *name = str_format("%.*sweight", (int)(strlen(t->name) - strlen("scale_weight")), t->name);
    const ckpt_tensor *of = name ? ckpt_find(c, name) : NULL;
    free(name);
    return of && scaled_is(of);
}

static bool is_matrix(const ckpt_tensor *t)
{
    return t->ndim >= 2 && str_ends_with(t->name, ".weight") && t->dtype <= DT_F64;
}

/* The type a tensor is written in before it may be quantised. */
static dtype written_type(const work *w, const ckpt_tensor *t)
{
    if (is_matrix(t) && w->o->type != DT_COUNT)
        return w->o->type;
    return scaled_is(t) ? scaled_type(w->model, t, DT_COUNT) : t->dtype;
}

static int announce(work *w, err *e)
{
    int rc = 0;
    for (size_t i = 0; i < ckpt_count(w->model); i++) {
        const ckpt_tensor *t = ckpt_at(w->model, i);
        if (is_scale(w->model, t) || strcmp(t->name, "scaled_fp8") == 0)
            continue;
        bool small = w->o->fp8 && fp8_takes(t->name, t->ndim);
        if (small && scaled_is(t) && !w->merge)
            return ERR(e, ERR_ARG, "%s: '%s' is %s already: quantising twice only adds error; give --dtype bf16 to multiply it out", w->o->in, t->name,
                       dtype_name(t->dtype));
        TRY(st_writer_tensor(w->to, t->name, small ? DT_F8_E4M3 : written_type(w, t), t->ndim, t->shape, e));
        if (small) {
            char *name = str_format("%.*sscale_weight", (int)(strlen(t->name) - strlen("weight")), t->name);
            rc = name ? st_writer_tensor(w->to, name, written_type(w, t), 1, (int64_t[]){ 1 }, e) : ERR(e, ERR_MEMORY, "out of memory for a name");
            free(name);
            TRY(rc);
        }
    }
out:
    return rc;
}

static int write_small(work *w, const ckpt_tensor *t, const float *v, int64_t n, dtype type, err *e)
{
    fp8_error one = { 0 };
    float scale;
    uint8_t bytes[4], *q = malloc((size_t)n + 1);
    int rc = q ? fp8_quantise(q, &scale, v, n, type, t->name, &one, e) : ERR(e, ERR_MEMORY, "out of memory for '%s'", t->name);
    if (!rc)
        rc = st_writer_data(w->to, q, (size_t)n, e);
    free(q);
    if (rc)
        return rc;
    dtype_from_f32(bytes, type, &scale, 1);
    w->quantised++;
    w->all.squares += one.squares;
    w->all.error_squares += one.error_squares;
    w->all.values += n;
    if (one.largest > w->all.largest)
        w->all.largest = one.largest;
    if (fp8_relative(&one) >= w->worst) {
        w->worst = fp8_relative(&one);
        snprintf(w->worst_name, sizeof w->worst_name, "%s", t->name);
    }
    return st_writer_data(w->to, bytes, dtype_size(type), e);
}

static int write_tensor(work *w, const ckpt_tensor *t, err *e)
{
    int rc = 0, parts = 0;
    int64_t n = elements(t), rows = t->ndim > 0 ? t->shape[t->ndim == 3] : 1;
    dtype type = written_type(w, t);
    bool small = w->o->fp8 && fp8_takes(t->name, t->ndim);
    const options *o = w->o;
    void *bytes = NULL;
    float *v = NULL;
    if (w->merge)
        TRY(lora_merge_tensor(w->merge, t->name, NULL, rows, rows > 0 ? n / rows : 0, &parts, e));
    if (!parts && !small && type == t->dtype)
        return st_writer_data(w->to, t->data, t->bytes, e);
    if (!(v = malloc((size_t)n * sizeof *v + 4)) || !(bytes = malloc((size_t)n * sizeof *v + 4))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for '%s' (%lld values)", t->name, (long long)n);
        goto out;
    }
    TRY(scaled_read(v, w->model, t, NULL, &w->tally, e));
    if (parts)
        TRY(lora_merge_tensor(w->merge, t->name, v, rows, rows > 0 ? n / rows : 0, &parts, e));
    w->merged += parts > 0;
    if (type == DT_F64) {
        rc = ERR(e, ERR_ARG, "%s: '%s' is F64; give --dtype f32", o->in, t->name);
        goto out;
    }
    for (int64_t i = 0; type == DT_F16 && i < n; i++)
        if (v[i] > 65504 || v[i] < -65504) {
            rc = ERR(e, ERR_ARG, "%s: '%s' holds %g, which f16 cannot: its largest number is 65504; choose bf16 or f32", o->in, t->name, v[i]);
            goto out;
        }
    dtype_from_f32(bytes, type, v, n);      /* rounded once to the type; quantisation starts from there */
    if (!small) {
        TRY(st_writer_data(w->to, bytes, (size_t)n * dtype_size(type), e));
        goto out;
    }
    dtype_to_f32(v, bytes, type, n);
    TRY(write_small(w, t, v, n, type, e));
out:
    free(v);
    free(bytes);
    return rc;
}

static int convert(work *w, err *e)
{
    int rc = 0;
    const options *o = w->o;
    TRY(ckpt_open(&w->model, o->in, e));
    TRY(ckpt_normalise(w->model, CKPT_DIT, e));
    if (!ckpt_find(w->model, "patch_embedding.weight") && !ckpt_find(w->model, "vace_patch_embedding.weight")) {
        rc = ERR(e, ERR_SHAPE, "%s: this is no diffusion model: the tensor 'patch_embedding.weight' is missing", o->in);
        goto out;
    }
    for (int i = 0; i < o->n_loras; i++) {
        TRY(ckpt_open(&w->files[i], o->paths[i], e));
        w->loras[i] = (lora){ .file = w->files[i], .multiplier = o->multipliers[i] };
    }
    if (o->n_loras) {
        TRY(lora_check(w->model, NULL, w->loras, o->n_loras, e));
        TRY(lora_merge_begin(&w->merge, w->loras, o->n_loras, e));
    }
    TRY(st_writer_new(&w->to, o->out, e));
    TRY(st_writer_metadata(w->to, "format", "pt", e));
    TRY(st_writer_metadata(w->to, "wanscope", wanscope_version, e));
    TRY(announce(w, e));
    for (size_t i = 0; i < ckpt_count(w->model); i++) {
        const ckpt_tensor *t = ckpt_at(w->model, i);
        TRY(interrupt_check(e));
        log_progress("converting", (long long)i, (long long)ckpt_count(w->model), -1);
        if (!is_scale(w->model, t) && strcmp(t->name, "scaled_fp8"))
            TRY(write_tensor(w, t, e));
    }
    log_progress_end();
    st_writer *done = w->to;
    w->to = NULL;
    TRY(st_writer_close(done, e));
    scaled_warn(&w->tally);
    if (o->n_loras)
        printf("merged\t%d adapters into %d tensors\n", o->n_loras, w->merged);
    if (o->fp8)
        printf("quantised\t%d tensors, %" PRId64 " values\nrelative error\t%.4g over all, %.4g in the worst (%s)\nlargest difference\t%.4g of a tensor's "
               "largest magnitude\n", w->quantised, w->all.values, fp8_relative(&w->all), w->worst, w->worst_name, w->all.largest);
    printf("%s\n", o->out);
out:
    log_progress_end();
    st_writer_abort(w->to);
    lora_merge_free(w->merge);
    for (int i = 0; i < o->n_loras; i++)
        ckpt_close(w->files[i]);
    ckpt_close(w->model);
    return rc;
}

int cmd_convert(int argc, char **argv)
{
    err e = { 0 };
    options o;
    int rc = parse(&o, argc, argv, &e);
    if (!rc && o.help) {
        fputs(USAGE, stdout);
    } else if (!rc) {
        work w = { .o = &o };
        rc = convert(&w, &e);
    }
    if (rc == ERR_CANCELLED)
        log_msg(LOG_WARN, "interrupted: nothing was written");
    else if (rc)
        log_msg(LOG_ERROR, "%s", e.text);
    for (int i = 0; i < o.n_loras; i++)
        free(o.paths[i]);
    return err_exit_code(rc);
}
