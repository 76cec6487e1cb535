/* umt5: the umT5 text encoder (encoder stack only). Wan2.1/wan/modules/t5.py; wan-engine.md 4.
 * Differences from other T5s that matter: a relative-position table in every layer, no 1/sqrt(d) on the scores, tanh GELU. */
#ifndef WANSCOPE_UMT5_H
#define WANSCOPE_UMT5_H

#include "core/backend.h"
#include "core/dit/dit_config.h"
#include "core/precision.h"

typedef struct umt5 umt5;

/* `c` normalised with CKPT_T5; stays open as long as the encoder. */
int umt5_open(umt5 **out, backend *be, const ckpt *c, const precision *prec, err *e);
/* The same with nothing on the device between prompts: each layer is read from the file when its turn comes, and of the table of tokens
 * the rows that are needed. The same bits; the file is read once a prompt. */
int umt5_open_streamed(umt5 **out, backend *be, const ckpt *c, const precision *prec, err *e);
void umt5_close(umt5 *t);
const umt5_config *umt5_get_config(const umt5 *t);

/* ids[n] (padded as the tokenizer does), of which the first n_visible are attended -> rows f32 [n, dim].
 * Rows of padded positions are computed too, as upstream does. */
int umt5_encode(umt5 *t, const int32_t *ids, int n, int n_visible, tensor *rows, err *e);

/* Bytes on the device from the configuration alone: all weights, those of one layer, and what a prompt of n positions works on. */
typedef struct umt5_sizes { int64_t all, layer, work; } umt5_sizes;
void umt5_sizes_of(const umt5_config *c, const precision *prec, int n, umt5_sizes *out);

/* Bucket of the relative position key - query: 32 buckets, bidirectional, max distance 128 (t5.py:248-270). */
int umt5_bucket(int relative);

#endif
