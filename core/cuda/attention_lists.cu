/* Work lists of the Hopper attention kernels, kept by content, and the summing of pieces. */
#include <stdlib.h>
#include <string.h>

#include "core/cuda/attention_pipe.cuh"

static int key_of(void **key, size_t *bytes, const attn_args *a, attn_variant v, err *e)
{
    int64_t words = 8, at = 0;
    for (int s = 0; s < a->plan.n_segments; s++)
        words += 3 + 2 * a->plan.segments[s].n_ranges;
    int64_t *k = (int64_t *)malloc((size_t)words * sizeof *k);
    if (!k)
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d segments", a->plan.n_segments);
    k[at++] = tensor_nrows(a->q);
    k[at++] = tensor_nrows(a->k);
    k[at++] = a->n_heads;
    k[at++] = v.bn;
    k[at++] = v.kvs;
    k[at++] = v.qs;
    k[at++] = v.cluster;
    k[at++] = a->plan.n_segments;
    for (int s = 0; s < a->plan.n_segments; s++) {
        const attn_segment *g = &a->plan.segments[s];
        k[at++] = g->q_begin;
        k[at++] = g->q_end;
        k[at++] = g->n_ranges;
        for (int r = 0; r < g->n_ranges; r++) {
            k[at++] = g->ranges[r].begin;
            k[at++] = g->ranges[r].end;
        }
    }
    *key = k;
    *bytes = (size_t)at * sizeof *k;
    return 0;
}

int attn_work_of(backend *be, attn_work_cache **out, const attn_args *a, attn_variant v, int min_piece, err *e)
{
    void *key;
    size_t key_bytes;
    attn_work w;
    int rc = key_of(&key, &key_bytes, a, v, e);
    if (rc)
        return rc;
    for (attn_work_cache *c = impl(be)->attn_work; c; c = c->next)
        if (c->key_bytes == key_bytes && !memcmp(c->key, key, key_bytes)) {
            free(key);
            *out = c;
            return 0;
        }
    rc = attn_work_build(&w, &a->plan, tensor_nrows(a->q), tensor_nrows(a->k), a->n_heads, BM * v.cluster, v.bn, impl(be)->sm_count / v.cluster,
                         min_piece, e);
    if (rc) {
        free(key);
        return rc;
    }
    size_t items = (size_t)w.n_turns * (size_t)w.n_workers * sizeof *w.items, ranges = (size_t)w.n_ranges * sizeof *w.ranges,
           splits = (size_t)w.n_splits * sizeof *w.splits;
    attn_work_cache *c = (attn_work_cache *)calloc(1, sizeof *c);
    char *host = (char *)malloc(items + ranges + splits);
    if (!c || !host) {
        rc = ERR(e, ERR_MEMORY, "no memory for an attention plan of %d pieces", w.n_turns * w.n_workers);
        goto out;
    }
    c->ranges_at = items;
    c->splits_at = items + ranges;
    c->over_at = (items + ranges + splits + 7) / 8 * 8;
    c->bytes = c->over_at + ((size_t)w.n_turns + 1) * (size_t)(w.n_workers * v.cluster) * 8;
    memcpy(host, w.items, items);
    memcpy(host + c->ranges_at, w.ranges, ranges);
    if (splits)
        memcpy(host + c->splits_at, w.splits, splits);
    if ((rc = be->ops->alloc(be, (void **)&c->device, c->bytes, e)) || (rc = be->ops->upload(be, c->device, host, items + ranges + splits, e)))
        goto out;
    c->key = key;
    c->key_bytes = key_bytes;
    c->work = w;
    c->work.items = NULL;
    c->work.ranges = NULL;
    c->work.splits = NULL;
    c->next = impl(be)->attn_work;
    impl(be)->attn_work = c;
    *out = c;
out:
    attn_work_release(&w);
    free(host);
    if (rc) {
        if (c && c->device)
            be->ops->free(be, c->device);
        free(c);
        free(key);
    }
    return rc;
}

void cuda_attention_hopper_close(backend *be)
{
    for (attn_work_cache *c = impl(be)->attn_work, *next; c; c = next) {
        next = c->next;
        be->ops->free(be, c->device);
        free(c->key);
        free(c);
    }
    impl(be)->attn_work = NULL;
}

int attn_out_of(backend *be, attn_out *o, const attn_args *a, const attn_work_cache *c, int cluster, err *e)
{
    size_t rows = (size_t)c->work.n_slots * cluster * BM, part = rows * HEAD * sizeof(float), part_ml = rows * 2 * sizeof(float);
    int rc = part ? cuda_need_work(be, part + part_ml, e) : 0;
    if (rc)
        return rc;
    memset(o, 0, sizeof *o);
    o->out = (__nv_bfloat16 *)a->out->data;
    o->lse = a->lse ? (float *)a->lse->data : NULL;
    o->part = part ? (float *)impl(be)->work : NULL;
    o->part_ml = part ? o->part + part / sizeof(float) : NULL;
    o->width = tensor_cols(a->out);
    o->n_q = tensor_nrows(a->q);
    return 0;
}

/* Sums the pieces of a tile in key order; a warp a row. */
__global__ static void __launch_bounds__(256) attend_combine(const attn_out p, const attn_split *splits, int tile_rows)
{
    const attn_split split = splits[blockIdx.x];
    int row = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    int64_t query = (int64_t)split.q_begin + row;
    if (query >= split.q_end)
        return;
    const float *ml = p.part_ml + ((int64_t)split.first_slot * tile_rows + row) * 2;
    const float *part = p.part + ((int64_t)split.first_slot * tile_rows + row) * HEAD + 4 * lane;
    float m = -INFINITY, l = 0, o[4] = { 0, 0, 0, 0 };
    for (int i = 0; i < split.n_slots; i++)
        m = fmaxf(m, ml[(int64_t)i * tile_rows * 2]);
    for (int i = 0; i < split.n_slots; i++) {
        float f = exp2f(ml[(int64_t)i * tile_rows * 2] - m);
        float4 v = *(const float4 *)(part + (int64_t)i * tile_rows * HEAD);
        l += ml[(int64_t)i * tile_rows * 2 + 1] * f;
        o[0] += v.x * f;
        o[1] += v.y * f;
        o[2] += v.z * f;
        o[3] += v.w * f;
    }
    float inverse = 1.0f / l;
    uint2 packed;
    __nv_bfloat162 a = __floats2bfloat162_rn(o[0] * inverse, o[1] * inverse), b = __floats2bfloat162_rn(o[2] * inverse, o[3] * inverse);
    memcpy(&packed.x, &a, 4);
    memcpy(&packed.y, &b, 4);
    *(uint2 *)(p.out + query * p.width + split.head * HEAD + 4 * lane) = packed;
    if (lane == 0 && p.lse)
        p.lse[split.head * p.n_q + query] = m * 0.6931471805599453f + logf(l);
}

void attn_combine(backend *be, const attn_out *o, const attn_work_cache *c, int cluster)
{
    if (c->work.n_splits)
        attend_combine<<<dim3((unsigned)c->work.n_splits, BM * cluster / 8), 256, 0, impl(be)->stream>>>(*o, (const attn_split *)(c->device + c->splits_at), BM * cluster);
}

void attn_launch_of(attn_launch *l, backend *be, const attn_work_cache *c, int cluster, int shared_bytes)
{
    memset(l, 0, sizeof *l);
    l->config.gridDim = dim3((unsigned)(c->work.n_workers * cluster));
    l->config.blockDim = dim3(ATTN_THREADS);
    l->config.dynamicSmemBytes = (size_t)shared_bytes;
    l->config.stream = impl(be)->stream;
    l->cluster.id = cudaLaunchAttributeClusterDimension;
    l->cluster.val.clusterDim.x = (unsigned)cluster;
    l->cluster.val.clusterDim.y = l->cluster.val.clusterDim.z = 1;
    l->config.attrs = &l->cluster;
    l->config.numAttrs = cluster > 1;
}
