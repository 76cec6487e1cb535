/* dit_swap: transformer blocks that lie in host memory and pass through two slots on the device. Internal to core/dit.
 *
 * Blocks are numbered through: main block i is i, VACE hint block j is num_layers + j. While one swapped block computes out of a slot
 * the next one of the pass is copied into the other; after the last one comes the first of the next pass. The swapped ones are
 * spread evenly, so that resident ones between them give the copies time. Values do not change on the way: results are those of a
 * resident model, bit for bit.
 *
 * Two experts may have a swap each; only the one that works needs its slots (dit_swap_rest). */
#ifndef WANSCOPE_DIT_SWAP_H
#define WANSCOPE_DIT_SWAP_H

#include "core/dit/dit_weights.h"

typedef struct dit_swap dit_swap;

int dit_swap_new(dit_swap **out, backend *be, err *e);
void dit_swap_free(dit_swap *s);                    /* NULL is harmless */

/* Is block i of n among `swapped` that are spread evenly? */
bool dit_swap_picks(int i, int n, int swapped);
/* Moves the tensors of `b`, as loaded, to host memory and leaves it empty. `id` is new. */
int dit_swap_take(dit_swap *s, int id, dit_block *b, err *e);
bool dit_swap_has(const dit_swap *s, int id);       /* s may be NULL */

/* A pass uses these swapped blocks, in this order; ids that are not swapped are left out. A pass that failed may be followed by
 * another. */
int dit_swap_begin_pass(dit_swap *s, const int *ids, int n, err *e);
/* The block, on the device, for ops that are queued until dit_swap_done(). A block that was not announced is right but late. */
int dit_swap_get(dit_swap *s, int id, const dit_block **out, err *e);
int dit_swap_done(dit_swap *s, err *e);
void dit_swap_rest(dit_swap *s);                    /* frees the slots until the next pass */

int64_t dit_swap_host_bytes(const dit_swap *s);
int64_t dit_swap_slot_bytes(const dit_swap *s);     /* of all slots together, whether they are there or not */

#endif
