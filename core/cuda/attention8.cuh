/* The 8-bit forms of an attention's q, k and v on a GPU. Internal to core/cuda. */
#ifndef WANSCOPE_CUDA_ATTENTION8_CUH
#define WANSCOPE_CUDA_ATTENTION8_CUH

#include "core/cuda/cuda.cuh"

extern "C" {
#include "core/attention8.h"
}

/* Queues the making of all that `t` describes. */
int attn8_quantise(backend *be, const attn8 *t, const attn_args *a, err *e);

#endif
