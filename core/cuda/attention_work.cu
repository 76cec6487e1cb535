#include "core/cuda/attention_work.h"

#include <stdlib.h>
#include <string.h>

/* A plan with ranges joined and empty ones dropped. */
typedef struct {
    int n_segments;
    int64_t *q_begin, *q_end;       /* [n_segments] */
    int *first_range;               /* [n_segments + 1] */
    attn_range *ranges;
} joined_plan;

static void joined_release(joined_plan *j)
{
    free(j->q_begin);
    free(j->q_end);
    free(j->first_range);
    free(j->ranges);
    memset(j, 0, sizeof *j);
}

static int join(joined_plan *j, const attn_plan *plan, int64_t n_q, int64_t n_k, err *e)
{
    attn_range all = { 0, n_k };
    attn_segment whole = { 0, n_q, 1, &all };
    int n = plan->n_segments ? plan->n_segments : 1, most = 0, at = 0;
    const attn_segment *segments = plan->n_segments ? plan->segments : &whole;
    for (int s = 0; s < n; s++)
        most += segments[s].n_ranges;
    memset(j, 0, sizeof *j);
    j->q_begin = (int64_t *)calloc((size_t)n, sizeof *j->q_begin);
    j->q_end = (int64_t *)calloc((size_t)n, sizeof *j->q_end);
    j->first_range = (int *)calloc((size_t)n + 1, sizeof *j->first_range);
    j->ranges = (attn_range *)calloc((size_t)most + 1, sizeof *j->ranges);
    if (!j->q_begin || !j->q_end || !j->first_range || !j->ranges) {
        joined_release(j);
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d segments", n);
    }
    for (int s = 0; s < n; s++) {
        const attn_segment *g = &segments[s];
        if (g->q_begin == g->q_end)
            continue;
        int first = at;
        for (int r = 0; r < g->n_ranges; r++) {
            if (g->ranges[r].begin == g->ranges[r].end)
                continue;
            if (at > first && j->ranges[at - 1].end == g->ranges[r].begin)
                j->ranges[at - 1].end = g->ranges[r].end;
            else
                j->ranges[at++] = g->ranges[r];
        }
        j->q_begin[j->n_segments] = g->q_begin;
        j->q_end[j->n_segments] = g->q_end;
        j->first_range[j->n_segments++] = first;
    }
    j->first_range[j->n_segments] = at;
    return 0;
}

static int64_t blocks_of(const joined_plan *j, int segment, int block_keys)
{
    int64_t n = 0;
    for (int r = j->first_range[segment]; r < j->first_range[segment + 1]; r++)
        n += (j->ranges[r].end - j->ranges[r].begin + block_keys - 1) / block_keys;
    return n;
}

static int64_t tiles_of(const joined_plan *j, int segment, int tile_rows)
{
    return (j->q_end[segment] - j->q_begin[segment] + tile_rows - 1) / tile_rows;
}

extern "C" int64_t attn_work_padded(const attn_plan *plan, int64_t n_q, int64_t n_k, int tile_rows, int block_keys)
{
    joined_plan j;
    int64_t keys = 0;
    err e;
    memset(&e, 0, sizeof e);
    if (join(&j, plan, n_q, n_k, &e))
        return -1;
    for (int s = 0; s < j.n_segments; s++)
        keys += tiles_of(&j, s, tile_rows) * blocks_of(&j, s, block_keys) * block_keys;
    joined_release(&j);
    return keys;
}

/* The map of ranges that end at `end`; map 0 is the whole tensor. Returns -1 if there are too many. */
static int map_of(attn_work *w, int64_t end)
{
    for (int m = 0; m < w->n_maps; m++)
        if (w->map_ends[m] == end)
            return m;
    if (w->n_maps == ATTN_MAX_MAPS)
        return -1;
    w->map_ends[w->n_maps] = end;
    return w->n_maps++;
}

extern "C" bool attn_work_fits(const attn_plan *plan, int64_t n_q, int64_t n_k)
{
    joined_plan j;
    attn_work w;
    bool fits = n_q < INT32_MAX - 4096 && n_k < INT32_MAX - 4096;
    err e;
    memset(&e, 0, sizeof e);
    memset(&w, 0, sizeof w);
    if (!fits || join(&j, plan, n_q, n_k, &e))
        return false;
    map_of(&w, n_k);
    for (int r = 0; r < j.first_range[j.n_segments]; r++)
        fits = fits && map_of(&w, j.ranges[r].end) >= 0;
    joined_release(&j);
    return fits;
}

typedef struct { int32_t segment, head; int64_t q_begin, n_blocks; } tile;

static attn_item item_of(const joined_plan *j, const tile *t, int64_t first_block, int64_t n_blocks, int block_keys, int slot)
{
    attn_item item;
    int r = j->first_range[t->segment];
    int64_t skip = first_block;
    for (;; r++) {
        int64_t n = (j->ranges[r].end - j->ranges[r].begin + block_keys - 1) / block_keys;
        if (skip < n)
            break;
        skip -= n;
    }
    memset(&item, 0, sizeof item);
    item.q_begin = (int32_t)t->q_begin;
    item.q_end = (int32_t)j->q_end[t->segment];
    item.head = t->head;
    item.range = r;
    item.from = (int32_t)(j->ranges[r].begin + skip * block_keys);
    item.n_blocks = (int32_t)n_blocks;
    item.slot = slot;
    return item;
}

/* Items a worker has so far, to fill the table of turns afterwards. */
typedef struct { attn_item *at; int *worker; int n, room; } item_list;

static int add_item(item_list *l, attn_item item, int worker, err *e)
{
    if (l->n == l->room) {
        int room = l->room ? 2 * l->room : 1024;
        attn_item *at = (attn_item *)realloc(l->at, (size_t)room * sizeof *at);
        if (at)
            l->at = at;
        int *who = (int *)realloc(l->worker, (size_t)room * sizeof *who);
        if (who)
            l->worker = who;
        if (!at || !who)
            return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d pieces", room);
        l->room = room;
    }
    l->at[l->n] = item;
    l->worker[l->n++] = worker;
    return 0;
}

/* Deals the tiles from `first` on by key blocks: every worker is filled up to its share of all work. */
static int deal_tail(attn_work *w, item_list *items, const joined_plan *j, const tile *tiles, int64_t first, int64_t n, const int64_t *load,
                     int block_keys, int min_piece, err *e)
{
    int W = w->n_workers, rc = 0;
    int64_t tail = 0, all = 0, at = 0, filled = 0, start = 0;
    for (int64_t t = first; t < n; t++)
        tail += tiles[t].n_blocks;
    for (int i = 0; i < W; i++)
        all += load[i];
    all += tail;
    w->splits = (attn_split *)calloc((size_t)(n - first) + 1, sizeof *w->splits);
    if (!w->splits)
        return ERR(e, ERR_MEMORY, "no memory for an attention plan of %d workers", W);
    int64_t t = first;              /* the tile that contains tail block `at`, which begins at tail block `start` */
    int parts = 0;                  /* pieces the tile has already */
    for (int i = 0; i < W && !rc && t < n; i++) {
        int64_t share = all * (i + 1) / W - all * i / W - load[i];
        filled += share > 0 ? share : 0;
        int64_t stop = i == W - 1 ? tail : filled < tail ? filled : tail;
        while (!rc && at < stop) {
            int64_t end = start + tiles[t].n_blocks, to = stop;
            if (to >= end || end - to < min_piece)
                to = end;           /* what would remain is not worth a piece */
            else if (to - start < min_piece || to - at < min_piece)
                break;              /* nor is this: the next worker takes it */
            bool whole = to == end && parts == 0;
            if (!whole && parts == 0) {
                attn_split *s = &w->splits[w->n_splits++];
                s->q_begin = (int32_t)tiles[t].q_begin;
                s->q_end = (int32_t)j->q_end[tiles[t].segment];
                s->head = tiles[t].head;
                s->first_slot = w->n_slots;
            }
            if (!whole)
                w->splits[w->n_splits - 1].n_slots++;
            rc = add_item(items, item_of(j, &tiles[t], at - start, to - at, block_keys, whole ? -1 : w->n_slots++), i, e);
            parts++;
            at = to;
            if (at == end) {
                start = end;
                parts = 0;
                if (++t == n)
                    break;
            }
        }
    }
    return rc;
}

extern "C" int attn_work_build(attn_work *out, const attn_plan *plan, int64_t n_q, int64_t n_k, int n_heads, int tile_rows, int block_keys, int n_workers,
                               int min_piece, err *e)
{
    joined_plan j;
    item_list items;
    int64_t n = 0, at = 0, whole;
    tile *tiles = NULL;
    int64_t *load = NULL;
    int *turn = NULL;
    memset(out, 0, sizeof *out);
    memset(&items, 0, sizeof items);
    int rc = join(&j, plan, n_q, n_k, e);
    if (rc)
        return rc;
    out->n_workers = n_workers;
    for (int s = 0; s < j.n_segments; s++)
        n += tiles_of(&j, s, tile_rows);
    n *= n_heads;
    out->n_ranges = j.first_range[j.n_segments];
    out->ranges = (attn_key_range *)calloc((size_t)out->n_ranges + 1, sizeof *out->ranges);
    tiles = (tile *)calloc((size_t)n + 1, sizeof *tiles);
    load = (int64_t *)calloc((size_t)n_workers, sizeof *load);
    turn = (int *)calloc((size_t)n_workers, sizeof *turn);
    if (!out->ranges || !tiles || !load || !turn) {
        rc = ERR(e, ERR_MEMORY, "no memory for an attention plan of %lld tiles", (long long)n);
        goto out;
    }
    map_of(out, n_k);
    for (int r = 0; r < out->n_ranges; r++) {
        int map = map_of(out, j.ranges[r].end);
        if (map < 0) {
            rc = ERR(e, ERR_INTERNAL, "an attention plan whose key ranges end at more than %d places", (int)ATTN_MAX_MAPS);
            goto out;
        }
        out->ranges[r].begin = (int32_t)j.ranges[r].begin;
        out->ranges[r].end = (int32_t)j.ranges[r].end;
        out->ranges[r].map = map;
    }
    for (int h = 0; h < n_heads; h++)
        for (int s = 0; s < j.n_segments; s++) {
            int64_t blocks = blocks_of(&j, s, block_keys);
            for (int64_t q = j.q_begin[s]; q < j.q_end[s]; q += tile_rows, at++) {
                tiles[at].segment = s;
                tiles[at].head = h;
                tiles[at].q_begin = q;
                tiles[at].n_blocks = blocks;
            }
        }
    whole = n;
    if (min_piece > 0 && n % n_workers)
        whole = n / n_workers > 1 ? (n / n_workers - 1) * n_workers : 0;
    for (int64_t t = 0; !rc && t < whole; t++) {
        rc = add_item(&items, item_of(&j, &tiles[t], 0, tiles[t].n_blocks, block_keys, -1), (int)(t % n_workers), e);
        load[t % n_workers] += tiles[t].n_blocks;
    }
    if (!rc && whole < n)
        rc = deal_tail(out, &items, &j, tiles, whole, n, load, block_keys, min_piece, e);
    if (rc)
        goto out;
    for (int i = 0; i < items.n; i++) {
        turn[items.worker[i]]++;
        if (turn[items.worker[i]] > out->n_turns)
            out->n_turns = turn[items.worker[i]];
    }
    out->items = (attn_item *)calloc((size_t)(out->n_turns + 1) * (size_t)n_workers, sizeof *out->items);      /* a turn of nothing ends every worker */
    if (!out->items) {
        rc = ERR(e, ERR_MEMORY, "no memory for an attention plan of %d pieces", items.n);
        goto out;
    }
    out->n_turns++;
    memset(turn, 0, (size_t)n_workers * sizeof *turn);
    for (int i = 0; i < items.n; i++) {
        int worker = items.worker[i];
        out->items[(int64_t)turn[worker]++ * n_workers + worker] = items.at[i];
    }
out:
    joined_release(&j);
    free(items.at);
    free(items.worker);
    free(tiles);
    free(load);
    free(turn);
    if (rc)
        attn_work_release(out);
    return rc;
}

extern "C" void attn_work_release(attn_work *w)
{
    free(w->items);
    free(w->ranges);
    free(w->splits);
    memset(w, 0, sizeof *w);
}
