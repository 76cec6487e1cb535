/* `wanscope bench capture`: what watching costs: guided steps whose conditional pass writes the attention to 16 text positions of
 * every block into a trace, against the same steps without. As in a run the file is written while the device goes on; the clock
 * of a step shows it only where the file is slower than the steps. The observer does what experiments/capture.c does. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "experiments/bench.h"
#include "experiments/bench_models.h"
#include "experiments/capture_queue.h"
#include "experiments/config.h"
#include "experiments/trace.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum { WORDS = 16, WARM_UP = 1, KINDS = 2, STEP = -1 };      /* STEP: the record that ends a step */

/* How maps are stored: as a run stores them unless told otherwise, and the cheapest way. */
typedef struct storage {
    const char *name;
    trace_type type;
    int gzip;
} storage;

typedef struct watching {
    bench *b;
    bench_dit d;
    trace_writer *t;                     /* NULL: nothing is written */
    capture_queue *queue;
    int begin[WORDS + 1], columns[WORDS];
    int step, steps;
} watching;

static bool wants(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_CROSS_ATTN && p->cond;
}

static int store(void *user, const capture_record *r, const float *values, err *e)
{
    watching *w = user;
    if (r->kind == STEP)
        return trace_put_step(w->t, r->row, 1 - (double)r->row / w->steps, 1 - (double)(r->row + 1) / w->steps, 1000, 5, 0, e);
    return trace_put_attention(w->t, r->row, r->slot, values, e);
}

static int show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    int rc = 0;
    watching *w = user;
    const attn_args *a = d->attn;
    capture_item *item = NULL;
    tensor flat, probs;
    int64_t tokens = a->q->shape[0];
    TRY(capture_queue_take(w->queue, a->q->be, WORDS * tokens, &item, e));
    item->is.kind = HOOK_CROSS_ATTN;
    item->is.row = w->step;
    item->is.slot = p->layer;
    TRY(capture_queue_staging(w->queue, a->q->be, WORDS * tokens, &flat, e));
    probs = TENSOR_AS(&flat, 1, WORDS, tokens);
    attn_probs_args args = { .out = &probs, .q = a->q, .k = a->k, .n_heads = a->n_heads, .scale = a->scale, .plan = a->plan, .n_words = WORDS,
                             .word_begin = w->begin, .columns = w->columns, .lse = a->lse };
    TRY(op_attn_probs(&args, e));
    TRY(capture_queue_download(w->queue, item, 0, &flat, 0, WORDS * tokens, e));
    rc = capture_queue_send(w->queue, item, e);
    item = NULL;
out:
    capture_queue_drop(w->queue, item);
    return rc;
}

static int only_probs(void *user, err *e)
{
    return op_attn_probs(user, e);
}

/* The share of one block that is on the device: the probabilities of its columns, from the log-sum-exp that the attention leaves. */
static int probs_row(watching *w, err *e)
{
    int rc = 0;
    bench *b = w->b;
    const dit_config *c = &b->model.dit;
    double dim = c->dim, n = (double)b->tokens, *ms = malloc((size_t)b->repeat * sizeof *ms);
    tensor q = { 0 }, k = { 0 }, y = { 0 }, lse = { 0 }, out = { 0 };
    bench_row row = BENCH_ROW_INIT;
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_random(b, &q, b->prec->act, 2, (int64_t[]){ b->tokens, c->dim }, 1, 1, e));
    TRY(bench_random(b, &k, b->prec->act, 2, (int64_t[]){ c->text_len, c->dim }, 2, 1, e));
    TRY(TENSOR_NEW(&y, b->be, b->prec->act, e, b->tokens, c->dim));
    TRY(TENSOR_NEW(&lse, b->be, DT_F32, e, c->num_heads, b->tokens));
    TRY(TENSOR_NEW(&out, b->be, DT_F32, e, 1, WORDS, b->tokens));
    attn_args attended = { .out = &y, .q = &q, .k = &k, .v = &k, .n_heads = c->num_heads, .scale = 1.0f / sqrtf((float)(c->dim / c->num_heads)), .lse = &lse };
    TRY(op_attention(&attended, e));
    attn_probs_args args = { .out = &out, .q = &q, .k = &k, .n_heads = c->num_heads, .scale = 1.0f / sqrtf((float)(c->dim / c->num_heads)),
                             .n_words = WORDS, .word_begin = w->begin, .columns = w->columns, .lse = &lse };
    TRY(bench_time(b, only_probs, &args, ms, e));
    row.what = "capture";
    row.item = "probs";
    row.ops = 2 * n * c->text_len * dim;
    row.bytes = (double)dtype_size(b->prec->act) * (n + c->text_len) * dim + 4.0 * WORDS * n;
    str_addf(&row.shape, "q[%" PRId64 " %d] k[%d %d] columns %d", b->tokens, c->dim, c->text_len, c->dim, WORDS);
    str_add(&row.note, "one block; without the copy to the host and the file");
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&y);
    tensor_free(&lse);
    tensor_free(&out);
    free(ms);
    return rc;
}

/* Both branches of guidance; the first is watched when there is a trace. */
static int guided_step(void *user, err *e)
{
    watching *w = user;
    hooks h = { 0 };
    hook_point at = { .step = w->step, .n_steps = w->steps, .cond = true, .layer = -1, .module = "" };
    int rc = w->t ? hooks_observe(&h, (hook_observer){ wants, show, w }, e) : 0;
    rc = rc ? rc : bench_dit_forward(&w->d, w->t ? &h : NULL, w->t ? &at : NULL, e);
    if (!rc && w->t) {
        capture_item *item;
        rc = capture_queue_take(w->queue, w->b->be, 0, &item, e);
        if (!rc) {
            item->is.kind = STEP;
            item->is.row = w->step++;
            rc = capture_queue_send(w->queue, item, e);
        }
    }
    return rc ? rc : bench_dit_forward(&w->d, NULL, NULL, e);
}

static int create(watching *w, const storage *how, const char *path, err *e)
{
    const bench *b = w->b;
    int layers = b->model.dit.num_layers;
    int32_t *numbers = malloc(((size_t)w->steps + (size_t)layers) * sizeof *numbers), head = -1, tokens[WORDS];
    trace_word words[WORDS];
    static const char *const names[WORDS] = { "w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8", "w9", "w10", "w11", "w12", "w13", "w14", "w15" };
    if (!numbers)
        return ERR(e, ERR_MEMORY, "memory ran out");
    for (int i = 0; i < w->steps; i++)
        numbers[i] = i;
    for (int i = 0; i < layers; i++)
        numbers[w->steps + i] = i;
    for (int i = 0; i < WORDS; i++) {
        tokens[i] = w->begin[i] = w->columns[i] = i;
        words[i] = (trace_word){ names[i], &tokens[i], 1 };
    }
    w->begin[WORDS] = WORDS;
    trace_spec t = { .steps = w->steps, .attention = true, .channels = 16, .frames = b->F, .height = b->H, .width = b->W,
                     .axes = { numbers, numbers + w->steps, w->steps, layers, &head, 1, words, WORDS, b->F, b->H / 2, b->W / 2, how->type, NULL, 0, how->gzip },
                     .solver = "euler", .context_len = b->model.dit.text_len, .pixel_width = b->width, .pixel_height = b->height,
                     .pixel_frames = b->frames, .fps = 16, .family = "wan2.1" };
    int rc = trace_create(&w->t, path, &t, e);
    free(numbers);
    return rc;
}

static int default_storage(storage *out, err *e)
{
    config cfg;
    const char *const sets[] = { "model.path=random", "prompt.template=none" };      /* a configuration has to have these */
    int rc = config_load(&cfg, NULL, sets, 2, NULL, e);
    if (rc)
        return rc;
    out->type = cfg.attention.dtype ? TRACE_F16 : TRACE_F32;
    out->gzip = (int)cfg.attention.compression;
    config_release(&cfg);
    return 0;
}

static void describe(bench_row *row, const watching *w, const char *item, bool written, int item_bytes)
{
    const bench *b = w->b;
    int layers = b->model.dit.num_layers;
    *row = (bench_row)BENCH_ROW_INIT;
    row->what = "capture";
    row->item = item;
    row->ops = 2 * bench_forward_ops(b);
    row->bytes = 2 * layers * bench_block_bytes(b) + (written ? (double)item_bytes * WORDS * (double)b->tokens * layers : 0);
    str_addf(&row->shape, "tokens %" PRId64, b->tokens);
    if (written)
        str_addf(&row->shape, " columns %d layers %d", WORDS, layers);
}

/* n steps without a trace, half of them before and half after n with one at `path`; then what the file still takes. */
static int measure_storage(watching *w, const storage *how, const char *path, double *plain, double *with, double *wait, double *closing, err *e)
{
    int rc = 0, n = w->b->repeat;
    double unused;
    trace_writer *t;
    for (int i = -WARM_UP; i < (n + 1) / 2; i++)
        TRY(bench_once(w->b, guided_step, w, i < 0 ? &unused : &plain[i], e));
    w->step = 0;
    w->steps = n + WARM_UP;
    TRY(create(w, how, path, e));
    for (int i = -WARM_UP; i < n; i++) {
        TRY(bench_once(w->b, guided_step, w, i < 0 ? &unused : &with[i], e));
        if (i == -1)
            TRY(capture_queue_drain(w->queue, e));
    }
    *wait = bench_now_ms();
    TRY(capture_queue_drain(w->queue, e));
    *closing = bench_now_ms();
    *wait = *closing - *wait;
    t = w->t;
    w->t = NULL;
    TRY(trace_commit(t, e));
    *closing = bench_now_ms() - *closing;
    for (int i = (n + 1) / 2; i < n; i++)
        TRY(bench_once(w->b, guided_step, w, &plain[i], e));
out:
    return rc;
}

static double sum(const double *v, int n)
{
    double s = 0;
    for (int i = 0; i < n; i++)
        s += v[i];
    return s;
}

int bench_capture(bench *b, err *e)
{
    int rc = 0, n = b->repeat;
    watching w = { .b = b };
    storage how[KINDS] = { { "with", TRACE_F32, 0 }, { "with-plain", TRACE_F16, 0 } };
    char folder[512], name[32];
    const char *tmp = getenv("TMPDIR");
    char *path = NULL;
    bench_row row;
    double *plain = malloc((size_t)n * sizeof *plain), *with = malloc((size_t)n * sizeof *with), wait = 0, closing = 0;
    folder[0] = 0;
    TRY(capture_queue_new(&w.queue, store, &w, e));
    if (!plain || !with) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    if ((size_t)snprintf(folder, sizeof folder, "%s/wanscope-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp") >= sizeof folder || !mkdtemp(folder)) {
        folder[0] = 0;
        rc = ERR(e, ERR_IO, "bench capture needs a folder for its trace, and none could be made in %s; set TMPDIR", tmp && *tmp ? tmp : "/tmp");
        goto out;
    }
    TRY(default_storage(&how[0], e));
    TRY(bench_dit_open(&w.d, b, b->model.dit.num_layers, false, 0, e));
    for (int k = 0; k < KINDS; k++) {
        snprintf(name, sizeof name, "%s.h5", how[k].name);
        free(path);
        if (!(path = fs_join(folder, name))) {
            rc = ERR(e, ERR_MEMORY, "memory ran out");
            goto out;
        }
        TRY(measure_storage(&w, &how[k], path, plain, with, &wait, &closing, e));
        if (k == 0) {
            describe(&row, &w, "without", false, 0);
            TRY(bench_put(b, &row, plain, n, e));
        }
        describe(&row, &w, how[k].name, true, how[k].type == TRACE_F16 ? 2 : 4);
        str_addf(&row.note, "%.4f times the step without (median of %d); %.4f with the wait for the file after the last (%.1f ms); closing it %.1f ms; "
                 "mean over heads; %s; gzip %d", bench_quantile(with, n, 0.5) / bench_quantile(plain, n, 0.5), n,
                 (sum(with, n) + wait) / sum(plain, n), wait, closing, how[k].type == TRACE_F16 ? "f16" : "f32", how[k].gzip);
        TRY(bench_put(b, &row, with, n, e));
    }
    rc = probs_row(&w, e);
out:
    capture_queue_free(w.queue);
    trace_abort(w.t);
    bench_dit_close(&w.d);
    if (folder[0] && !rc)
        rc = fs_remove_tree(folder, e);
    else if (folder[0])
        fs_remove_tree(folder, NULL);
    free(path);
    free(plain);
    free(with);
    return rc;
}
