/* `wanscope bench longlive`: a causal clip, block by block, in the state that lasts: the window is full, the sink is set. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/causal.h"
#include "experiments/bench.h"
#include "experiments/bench_models.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef struct clip {
    bench *b;
    bench_dit d;
    vae *v;
    ckpt *vae_file;
    causal *c;
    causal_options o;
    tensor block, other;             /* the last block's latents; the context of another prompt */
    double first_frame;              /* when the first frame of a block came, or 0 */
} clip;

static int next_block(void *user, err *e)
{
    clip *x = user;
    tensor_free(&x->block);
    return causal_block(x->c, NULL, &x->block, e);
}

static int on_frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    clip *x = user;
    if (x->first_frame == 0)
        x->first_frame = bench_now_ms();
    return bench_drop_frame(index, width, height, rgb, NULL, e);
}

static int decode_block(void *user, err *e)
{
    clip *x = user;
    return causal_decode(x->c, &x->block, on_frame, x, e);
}

static int open_clip(clip *x, err *e)
{
    int rc = 0;
    bench *b = x->b;
    tensor rows = { 0 };
    int64_t F = b->F;
    x->o = (causal_options)CAUSAL_OPTIONS_INIT;      /* those of configs/longlive.yaml: blocks of 3, window 12, sink 3, 4 steps */
    x->o.height = b->H;
    x->o.width = b->W;
    x->o.seed = b->seed;
    x->o.cuda_noise = true;
    x->o.hard_cut = true;                            /* beyond the positions the model knows */
    b->F = x->o.block;                               /* the activations of one block */
    rc = bench_dit_open(&x->d, b, b->model.dit.num_layers, false, 0, e);
    b->F = F;
    if (rc)
        return rc;
    TRY(bench_vae_open(&x->v, &x->vae_file, b, e));
    TRY(bench_random(b, &rows, DT_F32, 2, (int64_t[]){ b->model.dit.text_len, b->model.dit.text_dim }, 9, 1, e));
    TRY(tensor_new(&x->other, b->be, b->prec->act, 2, (int64_t[]){ b->model.dit.text_len, b->model.dit.dim }, e));
    TRY(dit_embed_text(x->d.d, &rows, &x->other, e));
    TRY(causal_new(&x->c, (causal_model){ b->be, x->d.d, x->v, b->prec->act }, &x->o, e));
    TRY(causal_prompt(x->c, &x->d.context, NULL, e));
out:
    tensor_free(&rows);
    return rc;
}

static void close_clip(clip *x)
{
    tensor_free(&x->block);
    tensor_free(&x->other);
    causal_free(x->c);
    vae_close(x->v);
    ckpt_close(x->vae_file);
    bench_dit_close(&x->d);
}

static int put(clip *x, const char *item, const double *ms, int n, bool decoded, const char *note, err *e)
{
    bench *b = x->b;
    bench_row row = BENCH_ROW_INIT;
    double per = (double)b->per_frame, queries = x->o.block * per, keys = x->o.window * per, calls = x->o.n_steps + 1, ops = 0, bytes = 0;
    int layers = b->model.dit.num_layers;
    row.what = "longlive";
    row.item = item;
    row.ops = calls * layers * bench_block_ops(b, queries, keys, false);
    row.bytes = calls * layers * (bench_block_bytes(b) + 2 * (double)dtype_size(b->prec->act) * keys * b->model.dit.dim);
    if (decoded)
        bench_decode_counts(b, x->o.block, &ops, &bytes);
    row.ops += ops;
    row.bytes += bytes;
    row.pixel_frames = (int64_t)VAE_TIME * x->o.block;
    str_addf(&row.shape, "tokens %.0f keys %.0f", queries, keys);
    str_add(&row.note, note);
    return bench_put(b, &row, ms, n, e);
}

int bench_longlive(bench *b, err *e)
{
    int rc = 0, n = b->blocks, n_switches = b->repeat < 5 ? b->repeat : 5;
    clip x = { .b = b };
    double *made = malloc((size_t)n * sizeof *made), *both = malloc((size_t)n * sizeof *both), decoded, latency[5];
    char note[280];
    if (!made || !both) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    TRY(open_clip(&x, e));
    int warm_up = (x.o.window + x.o.block - 1) / x.o.block + 1;      /* until the window has rolled once */
    int64_t at_first = 0, at_last = 0, all, tensors = 0;
    for (int i = -warm_up; i < n; i++) {
        double ms;
        if (i == 0) {
            backend_memory(b->be, &at_first, &all);
            tensors = b->be->bytes_now;
        }
        TRY(bench_once(b, next_block, &x, &ms, e));
        TRY(bench_once(b, decode_block, &x, &decoded, e));
        if (i >= 0) {
            made[i] = ms;
            both[i] = ms + decoded;
        }
    }
    backend_memory(b->be, &at_last, &all);
    TRY(bench_check_finite(b, &x.block, e));
    snprintf(note, sizeof note, "%d blocks after %d; the clock covers noise; %d calls of the model and the solver", n, warm_up, x.o.n_steps + 1);
    TRY(put(&x, "block", made, n, false, note, e));
    snprintf(note, sizeof note, "p50 %.2f ms; p99 %.2f ms, %.3f of the median; the clock covers also the decoding to 8-bit frames on the host; tensors grew by %.1f MiB, device memory by %.1f",
             bench_quantile(both, n, 0.5), bench_quantile(both, n, 0.99), bench_quantile(both, n, 0.99) / bench_quantile(both, n, 0.5),
             (double)(b->be->bytes_now - tensors) / (1 << 20), (double)(at_first - at_last) / (1 << 20));
    TRY(put(&x, "block+vae", both, n, true, note, e));
    for (int i = 0; i < n_switches; i++) {
        rc = b->be->ops->sync(b->be, e);
        if (rc)
            goto out;
        double begin = bench_now_ms();
        x.first_frame = 0;
        TRY(causal_prompt(x.c, i % 2 ? &x.d.context : &x.other, NULL, e));
        TRY(next_block(&x, e));
        TRY(decode_block(&x, e));
        latency[i] = x.first_frame - begin;
    }
    bench_row row = BENCH_ROW_INIT;
    row.what = "longlive";
    row.item = "prompt-switch";
    str_addf(&row.shape, "tokens %" PRId64 " window %d", x.o.block * b->per_frame, x.o.window);
    str_add(&row.note, "from the embedded prompt's arrival to the first 8-bit frame: the cache made anew; a block; its first decoding");
    rc = bench_put(b, &row, latency, n_switches, e);
out:
    close_clip(&x);
    free(made);
    free(both);
    return rc;
}
