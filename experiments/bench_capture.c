/* `wanscope bench capture`: what watching costs: a forward that writes the attention to 16 text positions of every block into a
 * trace, against the same forward without. The observer does what experiments/capture.c does for a run. */
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

enum { WORDS = 16, WARM_UP = 2, KINDS = 2 };

/* How maps are stored: as a run stores them unless told otherwise, and the cheapest way. */
typedef struct storage {
    const char *name;
    trace_type type;
    int gzip;
} storage;

typedef struct watching {
    bench *b;
    bench_dit d;
    trace_writer *t, *writers[KINDS];    /* t: the one that is written now */
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
    return trace_put_attention(((watching *)user)->t, r->row, r->slot, values, e);
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

/* The share of one block that is on the device: the probabilities of its columns, computed anew. */
static int probs_row(watching *w, err *e)
{
    int rc = 0;
    bench *b = w->b;
    const dit_config *c = &b->model.dit;
    double dim = c->dim, n = (double)b->tokens, *ms = malloc((size_t)b->repeat * sizeof *ms);
    tensor q = { 0 }, k = { 0 }, out = { 0 };
    bench_row row = BENCH_ROW_INIT;
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_random(b, &q, b->prec->act, 2, (int64_t[]){ b->tokens, c->dim }, 1, 1, e));
    TRY(bench_random(b, &k, b->prec->act, 2, (int64_t[]){ c->text_len, c->dim }, 2, 1, e));
    TRY(TENSOR_NEW(&out, b->be, DT_F32, e, 1, WORDS, b->tokens));
    attn_probs_args args = { .out = &out, .q = &q, .k = &k, .n_heads = c->num_heads, .scale = 1.0f / sqrtf((float)(c->dim / c->num_heads)),
                             .n_words = WORDS, .word_begin = w->begin, .columns = w->columns };
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
    tensor_free(&out);
    free(ms);
    return rc;
}

static int with_capture(void *user, err *e)
{
    watching *w = user;
    hooks h = { 0 };
    hook_point at = { .step = w->step, .n_steps = w->steps, .cond = true, .layer = -1, .module = "" };
    int rc = hooks_observe(&h, (hook_observer){ wants, show, w }, e);
    rc = rc ? rc : bench_dit_forward(&w->d, &h, &at, e);
    rc = rc ? rc : capture_queue_drain(w->queue, e);      /* a run goes on with the next step meanwhile */
    rc = rc ? rc : trace_put_step(w->t, w->step, 1 - (double)w->step / w->steps, 1 - (double)(w->step + 1) / w->steps, 1000, 5, 0, e);
    return rc;
}

static int without(void *user, err *e)
{
    watching *w = user;
    return bench_dit_forward(&w->d, NULL, NULL, e);
}

static int create(watching *w, int kind, const storage *how, const char *path, err *e)
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
    trace_spec t = { .steps = w->steps, .attention = true, .channels = 16, .frames = b->F, .height = b->H, .width = b->W, .gzip = how->gzip,
                     .axes = { numbers, numbers + w->steps, w->steps, layers, &head, 1, words, WORDS, b->F, b->H / 2, b->W / 2, how->type, NULL, 0 },
                     .solver = "euler", .context_len = b->model.dit.text_len, .pixel_width = b->width, .pixel_height = b->height,
                     .pixel_frames = b->frames, .fps = 16, .family = "wan2.1" };
    int rc = trace_create(&w->writers[kind], path, &t, e);
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
    row->ops = bench_forward_ops(b);
    row->bytes = layers * bench_block_bytes(b) + (written ? (double)item_bytes * WORDS * (double)b->tokens * layers : 0);
    str_addf(&row->shape, "tokens %" PRId64, b->tokens);
    if (written)
        str_addf(&row->shape, " columns %d layers %d", WORDS, layers);
}

int bench_capture(bench *b, err *e)
{
    int rc = 0;
    watching w = { .b = b, .steps = b->repeat + WARM_UP };
    storage how[KINDS] = { { "with", TRACE_F32, 0 }, { "with-plain", TRACE_F16, 0 } };
    char folder[512], name[32];
    const char *tmp = getenv("TMPDIR");
    char *path = NULL;
    bench_row row;
    size_t n = (size_t)b->repeat;
    double *ms[KINDS + 1] = { NULL }, *ratio = malloc(n * sizeof *ratio), unused;
    bool memory = ratio && !capture_queue_new(&w.queue, store, &w, e);
    for (int i = 0; i <= KINDS; i++)
        memory &= (ms[i] = malloc(n * sizeof **ms)) != NULL;
    folder[0] = 0;
    if (!memory) {
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
        TRY(create(&w, k, &how[k], path, e));
    }
    for (w.step = 0; w.step < w.steps; w.step++) {
        int i = w.step - WARM_UP;
        TRY(bench_once(b, without, &w, i < 0 ? &unused : &ms[KINDS][i], e));
        for (int k = 0; k < KINDS; k++) {
            w.t = w.writers[k];
            TRY(bench_once(b, with_capture, &w, i < 0 ? &unused : &ms[k][i], e));
        }
    }
    describe(&row, &w, "without", false, 0);
    TRY(bench_put(b, &row, ms[KINDS], b->repeat, e));
    for (int k = 0; k < KINDS; k++) {
        double begin = bench_now_ms();
        trace_writer *t = w.writers[k];
        w.writers[k] = NULL;
        TRY(trace_commit(t, e));
        double end = bench_now_ms() - begin;
        for (int i = 0; i < b->repeat; i++)
            ratio[i] = ms[k][i] / ms[KINDS][i];
        describe(&row, &w, how[k].name, true, how[k].type == TRACE_F16 ? 2 : 4);
        str_addf(&row.note, "%.4f times the forward without (median of %d pairs; least %.4f; most %.4f); mean over heads; %s; gzip %d; closing the "
                 "file %.1f ms", bench_quantile(ratio, b->repeat, 0.5), b->repeat, bench_quantile(ratio, b->repeat, 0),
                 bench_quantile(ratio, b->repeat, 1), how[k].type == TRACE_F16 ? "f16" : "f32", how[k].gzip, end);
        TRY(bench_put(b, &row, ms[k], b->repeat, e));
    }
    rc = probs_row(&w, e);
out:
    capture_queue_free(w.queue);
    for (int k = 0; k < KINDS; k++) {
        trace_abort(w.writers[k]);
        free(ms[k]);
    }
    free(ms[KINDS]);
    bench_dit_close(&w.d);
    if (folder[0] && !rc)
        rc = fs_remove_tree(folder, e);
    else if (folder[0])
        fs_remove_tree(folder, NULL);
    free(path);
    free(ratio);
    return rc;
}
