#include "experiments/forecast.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "experiments/capture.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

#define VARIATIONS_LOOKED_AT 1000     /* for the number of marked words */
#define CALIBRATION_SECONDS 0.2
#define VIDEO_BYTES_A_PIXEL 0.12      /* x264, 4:2:0, crf 10, moving pictures */
#define PREVIEW_BYTES 150000

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Operations a second of this device's matrix products, at a size that a block of the model has. */
static int measure(double *rate, const dit_config *dit, int64_t tokens, const char *device, err *e)
{
    int rc = 0;
    backend *be = NULL;
    tensor x = { 0 }, w = { 0 }, y = { 0 };
    float *host = NULL;
    int64_t rows = tokens < 64 ? 64 : tokens > 512 ? 512 : tokens, dim = dit->dim > 2048 ? 2048 : dit->dim;
    TRY(backend_open(&be, device, e));
    TRY(TENSOR_NEW(&x, be, DT_F32, e, rows, dim));
    TRY(TENSOR_NEW(&w, be, DT_F32, e, dim, dim));
    TRY(TENSOR_NEW(&y, be, DT_F32, e, rows, dim));
    int64_t most = rows > dim ? rows : dim;
    if (!(host = malloc((size_t)(most * dim) * sizeof *host))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a measurement");
        goto out;
    }
    for (int64_t i = 0; i < most * dim; i++)
        host[i] = (float)(i % 17) / 17 - 0.5f;
    TRY(op_upload(&x, host, e));
    TRY(op_upload(&w, host, e));
    TRY(op_linear(&y, &x, &w, NULL, ACT_NONE, e));      /* the first call sets up what later ones reuse */
    TRY(op_download(host, &y, e));
    double began = now_seconds(), spent = 0, done = 0;
    while (spent < CALIBRATION_SECONDS) {
        TRY(op_linear(&y, &x, &w, NULL, ACT_NONE, e));
        TRY(op_download(host, &y, e));
        done += 2.0 * (double)rows * (double)dim * (double)dim;
        spent = now_seconds() - began;
    }
    *rate = done / spent;
out:
    tensor_free(&x);
    tensor_free(&w);
    tensor_free(&y);
    free(host);
    backend_close(be);
    return rc;
}

/* The largest number of words that a variation marks. */
static int most_words(const batch *b, int *n, err *e)
{
    int rc = 0;
    *n = 0;
    for (uint64_t i = 0; !rc && i < b->n_variations && i < VARIATIONS_LOOKED_AT; i++) {
        variation v = { 0 };
        int words = 0;
        rc = template_variation(b->t, batch_number(b, i), &v, e);
        if (!rc)
            rc = prompts_count_words(b->cfg, &v, &words, e);
        if (words > *n)
            *n = words;
        variation_release(&v);
    }
    return rc;
}

static void learn(forecast *f, const manifest *m)
{
    double seconds = 0, bytes = 0;
    uint64_t n = 0;
    for (size_t i = 0; m && i < manifest_count(m); i++) {
        const manifest_entry *x = manifest_at(m, i);
        if (!x->done)
            continue;
        n++;
        seconds += x->seconds;
        for (size_t k = 0; k < x->n_files; k++)
            bytes += (double)x->files[k].bytes;
    }
    if (!n)
        return;
    f->from_finished_runs = true;
    f->seconds_run = seconds / (double)n;
    f->run_bytes = (int64_t)(bytes / (double)n);
}

/* The network's own work runs at a part of what one large matrix product reaches: norms, softmax, copies. */
#define PART_OF_RATE 0.6

int forecast_make(forecast *f, runner *r, const batch *b, const manifest *m, uint64_t n_done, const char *dir, err *e)
{
    int rc = 0, words = 0;
    engine_cost cost;
    const run_params *p = runner_params(r);
    const engine_info *info = runner_info(r);
    const config *c = b->cfg;
    *f = (forecast){ .variations = b->n_variations, .runs = b->n_runs, .runs_left = b->n_runs - n_done, .seeds = b->n_seeds,
                     .steps = p->steps, .device = info->device, .family = info->family };
    TRY(engine_latent_shape(runner_engine(r), p, f->shape, e));
    f->tokens = f->shape[1] * (f->shape[2] / 2) * (f->shape[3] / 2);
    TRY(engine_forecast(runner_engine(r), p, &cost, e));
    if (c->attention.enabled)
        TRY(most_words(b, &words, e));
    TRY(capture_bytes(c, p->steps, f->shape, info->dit->num_layers, info->dit->num_heads, words, &f->trace_bytes, e));
    TRY(capture_host_bytes(c, p->steps, f->shape, info->dit->num_layers, info->dit->num_heads, words, p->causal ? p->causal->block : 0,
                           &f->buffer_bytes, e));
    f->video_bytes = c->output.video ? (int64_t)(VIDEO_BYTES_A_PIXEL * (double)p->width * p->height * p->frames) + 2000 : 0;
    f->run_bytes = f->trace_bytes + f->video_bytes + (c->output.preview ? PREVIEW_BYTES : 0);
    bool decodes = c->output.video || c->output.preview;
    f->flops_run = cost.flops_step * p->steps + cost.flops_text / (double)b->n_seeds + (decodes ? cost.flops_decode : 0);
    TRY(measure(&f->rate, info->dit, f->tokens, c->model.device, e));
    f->seconds_run = f->flops_run / (f->rate * PART_OF_RATE);
    learn(f, m);
    f->seconds_left = f->seconds_run * (double)f->runs_left;
    f->weight_bytes = cost.weight_bytes;
    f->memory = cost.memory;
    f->layers = info->dit->num_layers;
    int64_t work = cost.activation_bytes > cost.decode_bytes ? cost.activation_bytes : cost.decode_bytes;
    f->device_bytes = cost.memory.device_bytes;
    f->host_bytes = (f->device_bytes ? cost.memory.host_bytes : cost.weight_bytes + work) + f->buffer_bytes;
    if ((double)f->run_bytes * (double)f->runs_left < 9e18)
        f->bytes_left = f->run_bytes * (int64_t)f->runs_left;
    else
        f->bytes_left = INT64_MAX;
    f->free_bytes = fs_free_bytes(dir);
    f->fits = f->free_bytes < 0 || f->bytes_left <= f->free_bytes;
out:
    return rc;
}

/* ---- saying it ---- */

void forecast_bytes_text(str *out, int64_t bytes)
{
    static const char *const units[] = { "bytes", "kB", "MB", "GB", "TB", "PB", "EB" };
    double v = (double)bytes;
    int k = 0;
    while (v >= 999.5 && k < 6) {
        v /= 1000;
        k++;
    }
    str_addf(out, k == 0 || v >= 99.5 ? "%.0f %s" : v >= 9.95 ? "%.1f %s" : "%.2f %s", v, units[k]);
}

void forecast_time_text(str *out, double s)
{
    if (s < 1)
        str_addf(out, "%.2f s", s);
    else if (s < 10)
        str_addf(out, "%.1f s", s);
    else if (s < 120)
        str_addf(out, "%.0f s", s);
    else if (s < 7200)
        str_addf(out, "%.0f min", s / 60);
    else if (s < 48 * 3600.0)
        str_addf(out, "%.0f h %02.0f min", (double)(int64_t)(s / 3600), (double)((int64_t)(s / 60) % 60));
    else
        str_addf(out, "%.1f days", s / 86400);
}

static void add_bytes(str *out, const char *before, int64_t bytes, const char *after)
{
    str_add(out, before);
    forecast_bytes_text(out, bytes);
    str_add(out, after);
}

/* what is there at the peak: of parts that take turns the larger */
static void print_device(const forecast *f, str *out)
{
    const engine_memory *m = &f->memory;
    add_bytes(out, "device   ", f->device_bytes, " at most: ");
    add_bytes(out, "diffusion weights ", m->dit_bytes, "");
    if (m->blocks_to_swap)
        add_bytes(out, " and room for two blocks ", m->slot_bytes, "");
    add_bytes(out, ", a step ", m->work_bytes + m->latent_bytes, "");
    add_bytes(out, ", text encoder ", m->text_bytes, m->streams_text ? " (layer by layer)" : "");
    add_bytes(out, ", VAE ", m->vae_bytes, "");
    add_bytes(out, " and decoding ", m->decode_bytes, "");
    if (m->decode_bands > 1)
        str_addf(out, " (in %d bands of rows)", m->decode_bands);
    add_bytes(out, ", CUDA itself ", m->runtime_bytes, "\n");
    if (m->blocks_to_swap) {
        str_addf(out, "host     %d of %d transformer blocks%s are streamed from ", m->blocks_to_swap, f->layers, m->one_expert ? " of one expert at a time" : "");
        forecast_bytes_text(out, m->host_bytes);
        str_add(out, " of pinned memory\n");
    }
    if (f->buffer_bytes)
        add_bytes(out, m->blocks_to_swap ? "         up to " : "host     up to ", f->buffer_bytes, " on the way into the trace\n");
}

void forecast_print(const forecast *f, str *out)
{
    str_addf(out, "model    %s on %s\n", f->family, f->device);
    str_addf(out, "runs     %" PRIu64 " (%" PRIu64 " variation%s x %" PRId64 " seed%s)", f->runs, f->variations,
             f->variations == 1 ? "" : "s", f->seeds, f->seeds == 1 ? "" : "s");
    if (f->runs_left != f->runs)
        str_addf(out, ", %" PRIu64 " left", f->runs_left);
    str_addf(out, "\nlatents  [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "], %" PRId64 " tokens, %d steps\n", f->shape[0],
             f->shape[1], f->shape[2], f->shape[3], f->tokens, f->steps);
    str_add(out, "time     ");
    forecast_time_text(out, f->seconds_run);
    str_add(out, " a run, ");
    forecast_time_text(out, f->seconds_left);
    str_addf(out, " in all (%s; %.3g operations a run", f->from_finished_runs ? "mean of the finished runs" : "estimate", f->flops_run);
    str_addf(out, ", %.3g a second measured)\n", f->rate);
    if (f->device_bytes)
        print_device(f, out);
    else {
        add_bytes(out, "memory   ", f->host_bytes, "");
        add_bytes(out, ", of these ", f->weight_bytes, " weights (mapped from the files)");
        if (f->buffer_bytes)
            add_bytes(out, ", up to ", f->buffer_bytes, " on the way into the trace");
        str_add(out, "\n");
    }
    add_bytes(out, "disk     ", f->run_bytes, " a run");
    if (!f->from_finished_runs) {
        if (f->trace_bytes)
            add_bytes(out, " (trace up to ", f->trace_bytes, "");
        add_bytes(out, f->trace_bytes ? ", video about " : " (video about ", f->video_bytes, ")");
    }
    add_bytes(out, ", ", f->bytes_left, " in all");
    if (f->free_bytes >= 0)
        add_bytes(out, "; free: ", f->free_bytes, "");
    str_add(out, "\n");
}

void forecast_line(const forecast *f, str *out)
{
    str_addf(out, "%" PRIu64 " run%s", f->runs_left, f->runs_left == 1 ? "" : "s");
    if (f->runs_left != f->runs)
        str_addf(out, " of %" PRIu64 " left", f->runs);
    str_add(out, ", about ");
    forecast_time_text(out, f->seconds_left);
    add_bytes(out, ", ", f->device_bytes ? f->device_bytes : f->host_bytes, f->device_bytes ? " of device memory" : " of memory");
    add_bytes(out, ", up to ", f->bytes_left, " of disk");
    if (f->free_bytes >= 0)
        add_bytes(out, " (", f->free_bytes, " free)");
}

void forecast_json(const forecast *f, str *out)
{
    json_writer w;
    char number[32];
    jw_init(&w, out, 2);
    jw_object(&w);
    jw_kstring(&w, "family", f->family);
    jw_kstring(&w, "device", f->device);
    snprintf(number, sizeof number, "%" PRIu64, f->variations);
    jw_key(&w, "variations");
    jw_raw(&w, number);
    jw_kint(&w, "videos_per_variation", f->seeds);
    snprintf(number, sizeof number, "%" PRIu64, f->runs);
    jw_key(&w, "runs");
    jw_raw(&w, number);
    snprintf(number, sizeof number, "%" PRIu64, f->runs_left);
    jw_key(&w, "runs_left");
    jw_raw(&w, number);
    jw_kint(&w, "steps", f->steps);
    jw_key(&w, "latent_shape");
    jw_array(&w);
    for (int i = 0; i < 4; i++)
        jw_int(&w, f->shape[i]);
    jw_end_array(&w);
    jw_kint(&w, "tokens", f->tokens);
    jw_kdouble(&w, "flops_per_run", f->flops_run);
    jw_kdouble(&w, "measured_flops_per_second", f->rate);
    jw_kdouble(&w, "seconds_per_run", f->seconds_run);
    jw_kdouble(&w, "seconds_left", f->seconds_left);
    jw_kbool(&w, "from_finished_runs", f->from_finished_runs);
    jw_kint(&w, "host_bytes", f->host_bytes);
    jw_kint(&w, "trace_buffer_bytes", f->buffer_bytes);
    jw_kint(&w, "device_bytes", f->device_bytes);
    jw_kint(&w, "weight_bytes", f->weight_bytes);
    jw_kint(&w, "blocks_to_swap", f->memory.blocks_to_swap);
    jw_kint(&w, "decode_bands", f->memory.decode_bands);
    jw_kint(&w, "trace_bytes_per_run", f->trace_bytes);
    jw_kint(&w, "video_bytes_per_run", f->video_bytes);
    jw_kint(&w, "bytes_per_run", f->run_bytes);
    jw_kint(&w, "bytes_left", f->bytes_left);
    jw_key(&w, "free_bytes");
    if (f->free_bytes < 0)
        jw_null(&w);
    else
        jw_int(&w, f->free_bytes);
    jw_kbool(&w, "fits", f->fits);
    jw_end_object(&w);
    str_add(out, "\n");
}

void forecast_warn(const forecast *f, const char *dir)
{
    str need = STR_INIT, have = STR_INIT;
    if (f->fits)
        return;
    forecast_bytes_text(&need, f->bytes_left);
    forecast_bytes_text(&have, f->free_bytes);
    log_msg(LOG_WARN, "%s: the disk has %s free, the runs that are left may take %s; make room, choose another output.dir, or store less "
            "(capture.latents.every, capture.latents.dtype f16, fewer layers and steps of attention)", dir, str_text(&have), str_text(&need));
    str_release(&need);
    str_release(&have);
}
