/* lora: low-rank adapters, merged into the weights when a DiT is loaded: W + multiplier * alpha / rank * B A, accumulated and
 * added in f32, adapter after adapter. The sum stays in f32 where the precision says "as in the file", else it is rounded once.
 *
 * Read (holocine.md 6.7; the form may change from tensor to tensor):
 *   X.lora_down.weight, X.lora_up.weight, X.alpha          musubi, lightx2v
 *   X.lora_A[.name].weight, X.lora_B[.name].weight         PEFT, diffusers
 *   X.lora.down.weight, X.lora.up.weight                   old diffusers
 *   lora_unet_X.lora_down.weight ... , X_lora_down_weight  kohya: dots of X are underscores
 *   X.diff, X.diff_b, X.diff_m                             full deltas of weight, bias and modulation
 * where X is a module by its original Wan or its diffusers name, behind any of the usual prefixes. Alpha: that of the file, else
 * the caller's, else the rank. DoRA, LoHa, LoKr and the like are refused. */
#ifndef WANSCOPE_LORA_H
#define WANSCOPE_LORA_H

#include <stdbool.h>

#include "core/io/ckpt.h"

typedef struct lora {
    const ckpt *file;        /* borrowed */
    double alpha;            /* where the file gives none; 0: alpha = rank, as PEFT's files (LongLive@v1.0 utils/lora_utils.py:59-61) */
    double multiplier;
    const char *include, *exclude;   /* POSIX extended regular expressions, found anywhere in a tensor's name in the file: only those that
                                      * match / not those that match are read; NULL or "": all */
} lora;

typedef struct lora_merge lora_merge;      /* adapters by module, while a model is loaded or checked */

/* The table of all adapters. ERR_FORMAT for a file that holds none, or one of a kind that is not merged here. */
int lora_merge_begin(lora_merge **out, const lora *loras, int n, err *e);
void lora_merge_free(lora_merge *m);       /* NULL is harmless */

/* Adds what the adapters hold for tensor `name` ("blocks.0.ffn.0.weight", "...bias", "blocks.0.modulation") of rows * cols values
 * to w. w NULL: only checks. *parts: how many adapters had a part. ERR_SHAPE where sizes do not fit. */
int lora_merge_tensor(lora_merge *m, const char *name, float *w, int64_t rows, int64_t cols, int *parts, err *e);

/* After all tensors: an adapter without any match is ERR_SHAPE (but without `warn`, for a model in two parts, not one that has
 * modules for VACE blocks); parts without a place are told in one warning a file, grouped by name, if `warn`. */
int lora_merge_finish(lora_merge *m, bool warn, err *e);

/* All of this on a checkpoint's table, without reading weights: do the adapters belong to this model? `vace` (may be NULL): where its
 * vace_* tensors are when they have a file of their own. Warns. */
int lora_check(const ckpt *model, const ckpt *vace, const lora *loras, int n, err *e);

#endif
