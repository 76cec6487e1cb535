/* attention_work: an attention plan cut into the pieces that the workers of the Hopper kernel do one after another. Host only.
 *
 * A tile is `tile_rows` queries of one head against all key blocks of its segment. Ranges that touch are joined; each range is cut
 * into blocks of `block_keys`, the last one partial. Workers take whole tiles in turn, heads slowest, so that all of them read the
 * same keys at the same time; the last one to two turns are cut by key blocks instead, so that all workers end together. The
 * cut depends on nothing but the plan, the numbers here and the worker count. Pieces of one tile are summed in key order. */
#ifndef WANSCOPE_CUDA_ATTENTION_WORK_H
#define WANSCOPE_CUDA_ATTENTION_WORK_H

#ifdef __cplusplus
extern "C" {
#endif

#include "core/backend.h"

typedef struct attn_item {      /* 32 bytes */
    int32_t q_begin, q_end;     /* rows q_begin .. min(q_begin + tile_rows, q_end) are this tile's */
    int32_t head;
    int32_t slot;               /* >= 0: a piece of a tile, its unfinished sums go there; -1: a whole tile */
    int32_t range, from;        /* the first block begins at key `from` of this range and goes on in the ranges after it */
    int32_t n_blocks;           /* 0: nothing more to do for this worker */
    int32_t reserved;
} attn_item;

typedef struct attn_key_range { int32_t begin, end, map, reserved; } attn_key_range;      /* map: index into map_ends */

typedef struct attn_split { int32_t q_begin, q_end, head, first_slot, n_slots, reserved[3]; } attn_split;      /* a tile cut into pieces */

enum { ATTN_MAX_MAPS = 40 };

typedef struct attn_work {
    attn_item *items;           /* [n_turns][n_workers] */
    attn_key_range *ranges;
    attn_split *splits;
    int n_turns, n_workers, n_ranges, n_splits, n_slots;
    int n_maps;                 /* values have to read as zero from the end of their range on: one tensor map for each such end */
    int64_t map_ends[ATTN_MAX_MAPS];
} attn_work;

/* How many keys all tiles of a head visit with blocks of that size, padding included: to choose the size. */
int64_t attn_work_padded(const attn_plan *plan, int64_t n_q, int64_t n_k, int tile_rows, int block_keys);
/* True if the plan's ranges end at so few places that the kernel can hold a map for each. */
bool attn_work_fits(const attn_plan *plan, int64_t n_q, int64_t n_k);
/* min_piece: the fewest blocks worth a piece of their own; 0: tiles stay whole. */
int attn_work_build(attn_work *out, const attn_plan *plan, int64_t n_q, int64_t n_k, int n_heads, int tile_rows, int block_keys, int n_workers,
                    int min_piece, err *e);
void attn_work_release(attn_work *w);

#ifdef __cplusplus
}
#endif

#endif
