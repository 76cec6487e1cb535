/* attention8: what attention in 8 bits keeps of q, k and v, and where it lies in attn_args.room8. Plain sizes, so that a plan of memory can count
 * them without a device; core/cuda/attention8_*.cu fill and read them.
 *
 * q and k are int8, [rows, heads * 128] as they come, k less its mean over all keys (which no softmax notices). A query has one factor, in which
 * scale log2 e is included. Keys of a block of 128 share four: key j has factor (j % 8) / 2, because a thread of the kernel sees two neighbouring
 * keys of every eight (SageAttention2's per-thread factors). v is e4m3, [heads][128 channels][keys padded to 128, the rest zeros] with a
 * factor a channel, its keys in the order in which a thread of the kernel holds its probabilities: at 16 b + p lies key 16 b + 8 (p % 2) + p / 2. */
#ifndef WANSCOPE_ATTENTION8_H
#define WANSCOPE_ATTENTION8_H

#include <stdint.h>

enum { ATTN8_HEAD = 128, ATTN8_BLOCK = 128, ATTN8_CHUNK = 128 };      /* channels; keys that share factors; keys of one partial sum of the mean */

typedef struct attn8 {
    int64_t n_q, n_k, padded, blocks, chunks;      /* padded: n_k in whole blocks */
    int heads;
    int8_t *q, *k;
    uint8_t *v;
    float *q_scale;             /* [heads][n_q] */
    float *k_scale;             /* [heads][blocks][4] */
    float *v_scale;             /* [heads * 128] */
    float *k_mean;              /* [heads * 128] */
    float *part;                /* [chunks][2][heads * 128]: sum of k, largest |v| */
} attn8;

/* Lays it out from `base` on, 256-byte aligned. */
void attn8_place(attn8 *out, void *base, int64_t n_q, int64_t n_k, int heads);
/* Bytes of attn_args.room8; 0 for heads that attention in 8 bits does not know. */
int64_t attn8_bytes(int64_t n_q, int64_t n_k, int heads, int head_dim);

#endif
