#include "core/cuda/attn_plan.cuh"

#include <stdlib.h>
#include <string.h>

enum { TABLES_MAX_BYTES = 64 << 20, TABLES_MAX = 4096 };

typedef struct cuda_tables {
    struct cuda_tables *next;       /* most recently used first */
    size_t bytes;
    void *dev;
    char host[];                    /* what it holds */
} cuda_tables;

static void drop(backend *be, cuda_tables *t)
{
    cuda_retire(be, t->dev);
    be->bytes_now -= (int64_t)t->bytes;
    free(t);
}

void cuda_tables_free(backend *be)
{
    cuda_tables *next;
    for (cuda_tables *t = impl(be)->tables; t; t = next) {
        next = t->next;
        drop(be, t);
    }
    impl(be)->tables = NULL;
}

int cuda_table(backend *be, const void **dev, const void *host, size_t bytes, err *e)
{
    cuda_impl *c = impl(be);
    *dev = NULL;
    for (cuda_tables **at = &c->tables; *at; at = &(*at)->next) {
        cuda_tables *t = *at;
        if (t->bytes != bytes || memcmp(t->host, host, bytes))
            continue;
        *at = t->next;
        t->next = c->tables;
        c->tables = t;
        *dev = t->dev;
        return 0;
    }
    cuda_tables *t = (cuda_tables *)malloc(sizeof *t + bytes);
    if (!t)
        return ERR(e, ERR_MEMORY, "no host memory for a table of %zu bytes", bytes);
    t->bytes = bytes;
    memcpy(t->host, host, bytes);
    cudaError_t status = cudaMallocAsync(&t->dev, bytes ? bytes : 1, c->stream);
    if (status == cudaSuccess) {
        status = cudaMemcpyAsync(t->dev, t->host, bytes, cudaMemcpyHostToDevice, c->stream);
        if (status != cudaSuccess)
            cudaFreeAsync(t->dev, c->stream);
    }
    if (status != cudaSuccess) {
        free(t);
        return cuda_fail(be, status, "the upload of a table", e);
    }
    t->next = c->tables;
    c->tables = t;
    be->bytes_now += (int64_t)bytes;
    if (be->bytes_now > be->bytes_peak)
        be->bytes_peak = be->bytes_now;
    *dev = t->dev;
    size_t sum = bytes;
    int n = 1;
    for (cuda_tables *keep = t; keep->next; ) {      /* the new one stays, whatever its size */
        if ((sum += keep->next->bytes) <= TABLES_MAX_BYTES && ++n <= TABLES_MAX) {
            keep = keep->next;
        } else {
            cuda_tables *old = keep->next;
            sum -= old->bytes;
            keep->next = old->next;
            drop(be, old);
        }
    }
    return 0;
}

int cuda_plan(backend *be, const attn_plan *plan, int64_t n_q, int64_t n_k, int tile_rows, plan_dev *out, int64_t *tiles, err *e)
{
    int64_t ranges = 0, at = 0, first = 0;
    *out = (plan_dev){ plan->n_segments, NULL, NULL, NULL, n_q, n_k };
    *tiles = (n_q + tile_rows - 1) / tile_rows;
    if (!plan->n_segments)
        return 0;
    for (int s = 0; s < plan->n_segments; s++)
        ranges += plan->segments[s].n_ranges;
    size_t bytes = (size_t)(plan->n_segments * 5 + 2 * ranges) * sizeof(int64_t);
    int64_t *host = (int64_t *)malloc(bytes);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d segments", plan->n_segments);
    int64_t *seg = host, *rng = host + 4 * plan->n_segments, *tile = rng + 2 * ranges;
    for (int s = 0; s < plan->n_segments; s++) {
        const attn_segment *g = &plan->segments[s];
        int64_t row[4] = { g->q_begin, g->q_end, at, at + g->n_ranges };
        memcpy(seg + 4 * s, row, sizeof row);
        for (int r = 0; r < g->n_ranges; r++, at++) {
            rng[2 * at] = g->ranges[r].begin;
            rng[2 * at + 1] = g->ranges[r].end;
        }
        tile[s] = first;
        first += (g->q_end - g->q_begin + tile_rows - 1) / tile_rows;
    }
    *tiles = first;
    const void *dev;
    int rc = cuda_table(be, &dev, host, bytes, e);
    free(host);
    if (rc)
        return rc;
    out->segments = (const int64_t *)dev;
    out->ranges = out->segments + 4 * plan->n_segments;
    out->first_tile = out->ranges + 2 * ranges;
    return 0;
}
