/* lora: low-rank adapters, merged into the weights when a DiT is loaded: W + multiplier * alpha / rank * B A, accumulated and
 * added in f32. PEFT names (base_model.model.X.lora_A.weight, optional .default and prefixes) and alphas given by the caller. */
#ifndef WANSCOPE_LORA_H
#define WANSCOPE_LORA_H

#include "core/io/ckpt.h"

typedef struct lora {
    const ckpt *file;        /* borrowed */
    double alpha;            /* 0: alpha = rank, as PEFT's files (LongLive@v1.0 utils/lora_utils.py:59-61) */
    double multiplier;
} lora;

/* Adds the adapter's part for tensor `name` ("blocks.0.ffn.0.weight", [rows, cols]) to w. 1 if it had one, 0 if not, or an
 * err_kind (shapes that do not fit). */
int lora_apply(const lora *l, const char *name, float *w, int64_t rows, int64_t cols, err *e);

#endif
