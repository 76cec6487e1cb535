/* `wanscope bench fp8`: what 8 bits bring and cost: forwards in bf16 and fp8 in turn, and the latents of a short run in both. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/log.h"
#include "experiments/bench.h"
#include "experiments/bench_models.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum { STEPS = 8 };

typedef struct pair { bench_dit wide, narrow; } pair;

static int wide(void *user, err *e)
{
    return bench_dit_forward(&((pair *)user)->wide, NULL, NULL, e);
}

static int narrow(void *user, err *e)
{
    return bench_dit_forward(&((pair *)user)->narrow, NULL, NULL, e);
}

/* Euler steps from the random latents along the shifted noise levels of Wan (shift 5), without guidance. */
static int denoise(bench_dit *d, float *out, err *e)
{
    int rc = 0;
    tensor start = { 0 };
    TRY(tensor_new(&start, d->b->be, DT_F32, 4, d->latents.shape, e));
    TRY(op_copy(&start, &d->latents, e));
    for (int i = 0; i < STEPS; i++) {
        double sigma[2];
        for (int k = 0; k < 2; k++) {
            double t = 1 - (double)(i + k) / STEPS;
            sigma[k] = 5 * t / (1 + 4 * t);
        }
        d->timestep = 1000 * sigma[0];
        TRY(bench_dit_forward(d, NULL, NULL, e));
        TRY(op_axpby(&d->latents, 1, &d->latents, (float)(sigma[1] - sigma[0]), &d->velocity, e));
    }
    TRY(op_download_f32(out, &d->latents, e));
    TRY(op_copy(&d->latents, &start, e));
out:
    tensor_free(&start);
    return rc;
}

/* |a - b| / |b| */
static double distance(const float *a, const float *b, int64_t n)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        off += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(off / size);
}

/* The row of one side; its precision and the bytes of its weights are in it. */
static int put(const bench_dit *d, const precision *prec, const double *ms, str note, err *e)
{
    bench *b = d->b;
    bench_row row = BENCH_ROW_INIT;
    b->prec = prec;
    row.what = "fp8";
    row.item = prec->name;
    row.ops = bench_forward_ops(b);
    row.bytes = b->model.dit.num_layers * bench_block_bytes(b) + 8.0 * 16 * (double)(b->F * b->H * b->W);
    str_addf(&row.shape, "tokens %" PRId64 " weights %.2f GB", b->tokens, (double)dit_weight_bytes(d->d) / 1e9);
    row.note = note;
    return bench_put(b, &row, ms, b->repeat, e);
}

int bench_fp8(bench *b, err *e)
{
    int rc = 0;
    const precision *asked = b->prec, *bf16, *fp8;
    pair p = { 0 };
    int64_t n = 16 * b->F * b->H * b->W;
    double *ms[2] = { malloc((size_t)b->repeat * sizeof(double)), malloc((size_t)b->repeat * sizeof(double)) };
    float *x[2] = { malloc((size_t)n * sizeof(float)), malloc((size_t)n * sizeof(float)) };
    str note = STR_INIT;
    if (!ms[0] || !ms[1] || !x[0] || !x[1]) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    TRY(precision_find(&bf16, "bf16", e));
    TRY(precision_find(&fp8, "fp8", e));
    if (precision_on(fp8, b->be) != fp8) {
        if (b->named)
            rc = ERR(e, ERR_ARG, "bench fp8: %s does not multiply in 8 bits; it takes a Hopper GPU", b->be->device);
        else
            log_msg(LOG_INFO, "fp8 is left out: %s does not multiply in 8 bits", b->be->device);
        goto out;
    }
    b->prec = bf16;
    TRY(bench_dit_open(&p.wide, b, b->model.dit.num_layers, false, 0, e));
    b->prec = fp8;
    TRY(bench_dit_open(&p.narrow, b, b->model.dit.num_layers, false, 0, e));
    TRY(bench_time_pair(b, wide, narrow, &p, ms[0], ms[1], e));
    TRY(bench_check_same(b, narrow, &p, &p.narrow.velocity, e));
    TRY(op_download_f32(x[0], &p.wide.velocity, e));
    TRY(op_download_f32(x[1], &p.narrow.velocity, e));
    double one = distance(x[1], x[0], n);
    TRY(denoise(&p.wide, x[0], e));
    TRY(denoise(&p.narrow, x[1], e));
    TRY(put(&p.wide, bf16, ms[0], (str)STR_INIT, e));
    str_addf(&note, "%.2f times as fast as bf16 in turn; off from it: velocity %.2e of its norm, latents after %d Euler steps %.2e",
             bench_quantile(ms[0], b->repeat, 0.5) / bench_quantile(ms[1], b->repeat, 0.5), one, STEPS, distance(x[1], x[0], n));
    rc = put(&p.narrow, fp8, ms[1], note, e);
out:
    b->prec = asked;
    bench_dit_close(&p.wide);
    bench_dit_close(&p.narrow);
    for (int i = 0; i < 2; i++) {
        free(ms[i]);
        free(x[i]);
    }
    return rc;
}
