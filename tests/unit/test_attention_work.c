/* The work lists of the Hopper attention kernel: every key block of every tile is done once, pieces are in key order, workers end
 * together. Needs no GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifdef HAVE_CUDA
#include "core/cuda/attention_work.h"

typedef struct { int64_t q_begin, head, keys; uint64_t sum; int pieces; } seen;

/* What an item visits: number of keys and an order-dependent hash of (key, run length), as the kernel walks. */
static int64_t walk(const attn_work *w, const attn_item *item, int block_keys, uint64_t *hash)
{
    int range = item->range;
    int64_t from = item->from, keys = 0;
    for (int b = 0; b < item->n_blocks; b++) {
        const attn_key_range *r = &w->ranges[range];
        assert_true(range < w->n_ranges && from >= r->begin && from < r->end);
        assert_int_equal(w->map_ends[r->map], r->end);
        int64_t to = from + block_keys < r->end ? from + block_keys : r->end;
        for (int64_t k = from; k < to; k++)
            *hash = *hash * 6364136223846793005ull + (uint64_t)k + 1;
        keys += to - from;
        from = to;
        if (from == r->end && ++range < w->n_ranges)
            from = w->ranges[range].begin;
    }
    return keys;
}

static void check(const attn_plan *plan, int64_t n_q, int64_t n_k, int heads, int tile_rows, int block_keys, int workers, int min_piece)
{
    attn_work w;
    err e = { 0 };
    attn_range all = { 0, n_k };
    attn_segment one = { 0, n_q, 1, &all };
    attn_plan whole = { 1, &one }, full = plan ? *plan : (attn_plan){ 0 };
    const attn_plan *truth = plan ? plan : &whole;
    assert_true(attn_work_fits(&full, n_q, n_k));
    assert_int_equal(attn_work_build(&w, &full, n_q, n_k, heads, tile_rows, block_keys, workers, min_piece, &e), 0);
    int64_t most = 0, total = 0, longest = 0;
    char *slots = calloc((size_t)w.n_slots + 1, 1);
    for (int i = 0; i < workers; i++) {
        int64_t blocks = 0;
        bool over = false;
        for (int t = 0; t < w.n_turns; t++) {
            const attn_item *item = &w.items[(int64_t)t * workers + i];
            over = over || !item->n_blocks;
            assert_true(!over || !item->n_blocks);
            blocks += item->n_blocks;
        }
        assert_true(over);
        most = blocks > most ? blocks : most;
        total += blocks;
    }
    for (int h = 0; h < heads; h++)
        for (int s = 0; s < truth->n_segments; s++) {
            const attn_segment *g = &truth->segments[s];
            uint64_t want = 0;
            int64_t keys = 0;
            for (int r = 0; r < g->n_ranges; r++)
                for (int64_t k = g->ranges[r].begin; k < g->ranges[r].end; k++, keys++)
                    want = want * 6364136223846793005ull + (uint64_t)k + 1;
            for (int64_t q = g->q_begin; q < g->q_end; q += tile_rows) {
                const attn_split *split = NULL;
                for (int i = 0; i < w.n_splits; i++)
                    if (w.splits[i].q_begin == q && w.splits[i].head == h)
                        split = &w.splits[i];
                uint64_t got = 0;
                int64_t done = 0;
                int blocks = 0, found = 0;
                for (int part = 0; part < (split ? split->n_slots : 1); part++)
                    for (int64_t i = 0; i < (int64_t)w.n_turns * workers; i++) {
                        const attn_item *item = &w.items[i];
                        if (!item->n_blocks || item->q_begin != q || item->head != h || item->slot != (split ? split->first_slot + part : -1))
                            continue;
                        assert_int_equal(item->q_end, g->q_end);
                        done += walk(&w, item, block_keys, &got);
                        blocks += item->n_blocks;
                        found++;
                        if (split) {
                            assert_int_equal(slots[item->slot]++, 0);
                            assert_true(item->n_blocks >= min_piece);
                        }
                    }
                assert_int_equal(done, keys);
                assert_true(got == want);
                assert_int_equal(found, split ? split->n_slots : 1);
                assert_true(!split || split->n_slots > 1);
                longest = blocks > longest ? blocks : longest;
            }
        }
    /* a worker's surplus is at most a tile without cutting, a few pieces with it */
    assert_true(most <= (total + workers - 1) / workers + (min_piece ? 2 * min_piece : longest));
    free(slots);
    attn_work_release(&w);
}

static void full_plans(void **state)
{
    static const struct { int64_t n_q, n_k; int heads, workers; } c[] = {
        { 1, 1, 1, 132 }, { 300, 9000, 5, 66 }, { 4680, 18720, 12, 66 }, { 4680, 18720, 12, 132 }, { 2000, 512, 12, 132 }, { 128, 160, 132, 132 },
        { 129, 161, 3, 5 }, { 5000, 3000, 4, 7 }, { 256, 20000, 1, 66 },
    };
    (void)state;
    for (size_t i = 0; i < sizeof c / sizeof *c; i++)
        for (int bn = 128; bn <= 176; bn += 16)
            for (int min_piece = 0; min_piece <= 6; min_piece += 3)
                check(NULL, c[i].n_q, c[i].n_k, c[i].heads, c[i].workers == 66 ? 256 : 128, bn, c[i].workers, min_piece);
}

static void plans_with_ranges(void **state)
{
    attn_range ring[] = { { 10, 100 }, { 200, 200 }, { 350, 601 }, { 601, 700 }, { 60, 100 }, { 900, 901 } }, last[] = { { 999, 1000 } };
    attn_segment segments[] = { { 0, 400, 6, ring }, { 400, 400, 1, last }, { 400, 401, 1, last }, { 401, 900, 4, ring + 2 } };
    attn_plan plan = { 4, segments };
    (void)state;
    for (int workers = 1; workers <= 66; workers += 13)
        for (int min_piece = 0; min_piece <= 4; min_piece += 2)
            check(&plan, 900, 1000, 3, 128, 160, workers, min_piece);
    assert_int_equal(attn_work_padded(&plan, 900, 1000, 128, 160), 4 * (160 + 3 * 160 + 160 + 160) + 160 + 4 * (3 * 160 + 160 + 160));
}

static void too_many_ends(void **state)
{
    attn_range r[ATTN_MAX_MAPS + 1];
    for (int i = 0; i <= ATTN_MAX_MAPS; i++)
        r[i] = (attn_range){ 10 * i, 10 * i + 5 };
    attn_segment s = { 0, 7, ATTN_MAX_MAPS - 1, r };
    attn_plan plan = { 1, &s };
    (void)state;
    assert_true(attn_work_fits(&plan, 7, 1000));
    s.n_ranges = ATTN_MAX_MAPS;
    assert_false(attn_work_fits(&plan, 7, 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(full_plans), cmocka_unit_test(plans_with_ranges), cmocka_unit_test(too_many_ends) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
static void no_gpu_engine(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(no_gpu_engine) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
