#include "core/dit/dit_swap.h"

#include <inttypes.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum {
    SLOTS = 2,
    ALIGN = 256,                /* of each tensor in a block's buffer: what allocations of a GPU have */
    NONE = -1,
};

typedef struct {
    int id;
    dit_block block;            /* types and shapes; no memory */
    int64_t offsets[DIT_BLOCK_TENSORS];
    void *host;
    int64_t bytes;
} stored;

struct dit_swap {
    backend *be;
    stored *blocks;
    int n_blocks;
    backend_slot slots[SLOTS];
    int holds[SLOTS];           /* index into blocks, or NONE */
    dit_block view;             /* of the block that is out */
    int open;                   /* the slot it is in, or NONE */
    int *order, n_order, at;    /* indices into blocks; at: the one that was given out last, or NONE */
    int64_t block_bytes;        /* of the largest */
};

int dit_swap_new(dit_swap **out, backend *be, err *e)
{
    if (!(*out = calloc(1, sizeof **out)))
        return ERR(e, ERR_MEMORY, "no memory for swapped blocks");
    **out = (dit_swap){ .be = be, .holds = { NONE, NONE }, .open = NONE, .at = NONE };
    return 0;
}

void dit_swap_rest(dit_swap *s)
{
    for (int k = 0; s && k < SLOTS; k++) {
        backend_slot_free(&s->slots[k]);
        s->holds[k] = NONE;
    }
    if (s)
        s->open = NONE;
}

void dit_swap_free(dit_swap *s)
{
    if (!s)
        return;
    dit_swap_rest(s);
    for (int i = 0; i < s->n_blocks; i++)
        backend_host_free(s->be, s->blocks[i].host, (size_t)s->blocks[i].bytes);
    free(s->blocks);
    free(s->order);
    free(s);
}

bool dit_swap_picks(int i, int n, int swapped)
{
    return (int64_t)(i + 1) * swapped / n > (int64_t)i * swapped / n;
}

int dit_swap_take(dit_swap *s, int id, dit_block *b, err *e)
{
    int rc = 0;
    tensor *parts[DIT_BLOCK_TENSORS];
    stored x = { .id = id };
    dit_block_tensors(b, parts);
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++) {
        x.offsets[k] = x.bytes;
        x.bytes += (tensor_extent(parts[k]) + ALIGN - 1) / ALIGN * ALIGN;
    }
    stored *more = realloc(s->blocks, (size_t)(s->n_blocks + 1) * sizeof *more);
    if (more)
        s->blocks = more;
    int *order = more ? realloc(s->order, (size_t)(s->n_blocks + 1) * sizeof *order) : NULL;
    if (!order)
        return ERR(e, ERR_MEMORY, "no memory to note a swapped block");
    s->order = order;
    TRY(backend_host_alloc(s->be, &x.host, (size_t)x.bytes, e));
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++)
        if (parts[k]->data)
            TRY(s->be->ops->download(s->be, (char *)x.host + x.offsets[k], parts[k]->data, (size_t)tensor_extent(parts[k]), e));
    x.block = *b;
    dit_block_free(b);
    dit_block_tensors(&x.block, parts);
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++) {
        parts[k]->owner = false;
        if (parts[k]->data)
            parts[k]->data = x.host;        /* any address: there is such a tensor */
    }
    s->blocks[s->n_blocks++] = x;
    if (x.bytes > s->block_bytes) {
        dit_swap_rest(s);       /* slots of the new size are made by the next pass */
        s->block_bytes = x.bytes;
    }
out:
    if (rc)
        backend_host_free(s->be, x.host, (size_t)x.bytes);
    return rc;
}

static int find(const dit_swap *s, int id)
{
    for (int i = 0; s && i < s->n_blocks; i++)
        if (s->blocks[i].id == id)
            return i;
    return NONE;
}

bool dit_swap_has(const dit_swap *s, int id)
{
    return find(s, id) != NONE;
}

static int slot_of(const dit_swap *s, int block)
{
    for (int k = 0; k < SLOTS; k++)
        if (s->holds[k] == block)
            return k;
    return NONE;
}

/* Entry n places after the one given out last, past the end the next pass's. */
static int coming(const dit_swap *s, int n)
{
    return s->order[(s->at + n) % s->n_order];
}

static int fill(dit_swap *s, int slot, int block, err *e)
{
    int rc = 0;
    if (!s->slots[slot].data)
        TRY(backend_slot_new(&s->slots[slot], s->be, (size_t)s->block_bytes, e));
    s->holds[slot] = NONE;
    TRY(backend_slot_fill(&s->slots[slot], s->blocks[block].host, (size_t)s->blocks[block].bytes, e));
    s->holds[slot] = block;
out:
    return rc;
}

/* The slot to fill with something new: not in use, and not holding what comes sooner than `block`. */
static int slot_for(const dit_swap *s, int places)
{
    for (int k = 0; k < SLOTS; k++) {
        bool needed = k == s->open;
        for (int n = 1; n < places && !needed; n++)
            needed = s->holds[k] == coming(s, n);
        if (!needed)
            return k;
    }
    return NONE;
}

static int prefetch(dit_swap *s, err *e)
{
    int rc = 0;
    for (int n = 1; n <= SLOTS && s->n_order && !rc; n++) {
        int slot = slot_of(s, coming(s, n)) == NONE ? slot_for(s, n) : NONE;
        if (slot != NONE)
            rc = fill(s, slot, coming(s, n), e);
    }
    return rc;
}

int dit_swap_begin_pass(dit_swap *s, const int *ids, int n, err *e)
{
    s->n_order = 0;
    for (int k = 0; k < n && s->n_order < s->n_blocks; k++) {
        int block = find(s, ids[k]);
        if (block != NONE)
            s->order[s->n_order++] = block;
    }
    s->at = s->n_order - 1;      /* what comes next is the first */
    int rc = s->open != NONE ? dit_swap_done(s, e) : 0;      /* of a pass that failed */
    return rc ? rc : prefetch(s, e);
}

int dit_swap_get(dit_swap *s, int id, const dit_block **out, err *e)
{
    int rc = 0, block = find(s, id);
    if (block == NONE || s->open != NONE)
        return ERR(e, ERR_INTERNAL, "block %d is not swapped, or another is in use", id);
    int slot = slot_of(s, block), at = NONE;
    for (int n = 1; n <= s->n_order && at == NONE; n++)
        if (coming(s, n) == block)
            at = (s->at + n) % s->n_order;
    if (slot == NONE) {
        slot = s->n_order ? slot_for(s, SLOTS) : 0;
        TRY(fill(s, slot == NONE ? 0 : slot, block, e));
        slot = slot_of(s, block);
    }
    TRY(backend_slot_acquire(&s->slots[slot], e));
    s->open = slot;
    if (at != NONE)
        s->at = at;
    TRY(prefetch(s, e));
    s->view = s->blocks[block].block;
    tensor *parts[DIT_BLOCK_TENSORS];
    dit_block_tensors(&s->view, parts);
    for (int k = 0; k < DIT_BLOCK_TENSORS; k++)
        if (parts[k]->data)
            tensor_move(parts[k], (char *)s->slots[slot].data + s->blocks[block].offsets[k]);
    *out = &s->view;
out:
    return rc;
}

int dit_swap_done(dit_swap *s, err *e)
{
    int rc = s->open == NONE ? 0 : backend_slot_release(&s->slots[s->open], e);
    s->open = NONE;
    return rc ? rc : prefetch(s, e);
}

int64_t dit_swap_host_bytes(const dit_swap *s)
{
    int64_t n = 0;
    for (int i = 0; s && i < s->n_blocks; i++)
        n += s->blocks[i].bytes;
    return n;
}

int64_t dit_swap_slot_bytes(const dit_swap *s)
{
    return s ? s->block_bytes * (s->n_blocks < SLOTS ? s->n_blocks : SLOTS) : 0;
}
