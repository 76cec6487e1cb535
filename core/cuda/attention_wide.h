/* attention_wide: attention of bf16 heads wider than the tensor-core kernels take. Internal to core/cuda. */
#ifndef WANSCOPE_CUDA_ATTENTION_WIDE_H
#define WANSCOPE_CUDA_ATTENTION_WIDE_H

extern "C" {
#include "core/backend.h"
}

/* As op_attention, for q, k, v and out in BF16 and heads of any width; no relative bias. */
int cuda_attention_wide(backend *be, const attn_args *a, err *e);

#endif
