/* `wanscope bench offload`: what it costs to keep transformer blocks in host memory: half of them, and all. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/bench.h"
#include "experiments/bench_models.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef struct pair {
    bench_dit resident, swapped;
} pair;

static int resident(void *user, err *e)
{
    pair *p = user;
    return bench_dit_forward(&p->resident, NULL, NULL, e);
}

static int swapped(void *user, err *e)
{
    pair *p = user;
    return bench_dit_forward(&p->swapped, NULL, NULL, e);
}

/* Swapping promises the same bits. */
static int check_equal(const pair *p, err *e)
{
    int64_t n = tensor_count(&p->resident.velocity), differ = 0;
    float *a = malloc((size_t)n * sizeof *a), *b = malloc((size_t)n * sizeof *b);
    int rc = a && b ? op_download_f32(a, &p->resident.velocity, e) : ERR(e, ERR_MEMORY, "memory ran out");
    rc = rc ? rc : op_download_f32(b, &p->swapped.velocity, e);
    for (int64_t i = 0; i < n && !rc; i++)
        differ += memcmp(&a[i], &b[i], sizeof *a) != 0;
    if (differ)
        rc = ERR(e, ERR_INTERNAL, "blocks in host memory gave other numbers than resident ones: %" PRId64 " of %" PRId64 " differ", differ, n);
    free(a);
    free(b);
    return rc;
}

static int put(bench *b, const char *item, const bench_dit *d, int n_swapped, const double *ms, const double *base, err *e)
{
    bench_row row = BENCH_ROW_INIT;
    row.what = "offload";
    row.item = item;
    row.ops = bench_forward_ops(b);
    row.bytes = d->config.num_layers * bench_block_bytes(b) + 8.0 * 16 * (double)(b->F * b->H * b->W);
    str_addf(&row.shape, "tokens %" PRId64 " swapped %d of %d", b->tokens, n_swapped, d->config.num_layers);
    str_addf(&row.note, "weights %.2f GB on the device; %.2f GB in host memory", (double)dit_weight_bytes(d->d) / 1e9,
             (double)dit_host_bytes(d->d) / 1e9);
    if (base)
        str_addf(&row.note, "; %.3f times resident", bench_quantile(ms, b->repeat, 0.5) / bench_quantile(base, b->repeat, 0.5));
    return bench_put(b, &row, ms, b->repeat, e);
}

int bench_offload(bench *b, err *e)
{
    int rc = 0, layers = b->model.dit.num_layers;
    const int swaps[2] = { layers / 2, layers };
    static const char *const names[2] = { "half", "all" };
    pair p;
    double *with = malloc((size_t)b->repeat * sizeof *with), *without = malloc((size_t)b->repeat * sizeof *without);
    memset(&p, 0, sizeof p);
    if (!with || !without) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    TRY(bench_dit_open(&p.resident, b, layers, false, 0, e));
    for (int k = 0; k < 2; k++) {
        TRY(bench_dit_open(&p.swapped, b, layers, false, swaps[k], e));
        TRY(bench_time_pair(b, resident, swapped, &p, without, with, e));
        TRY(bench_check_finite(b, &p.swapped.velocity, e));
        TRY(check_equal(&p, e));
        if (k == 0)
            TRY(put(b, "resident", &p.resident, 0, without, NULL, e));
        TRY(put(b, names[k], &p.swapped, swaps[k], with, without, e));
        bench_dit_close(&p.swapped);
    }
out:
    bench_dit_close(&p.resident);
    bench_dit_close(&p.swapped);
    free(with);
    free(without);
    return rc;
}
