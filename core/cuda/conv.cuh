/* conv: the ways a convolution of bf16 frames is computed. Internal to core/cuda. All give f32 sums rounded once, after bias and
 * residual; out is bf16 or, for the last layer of a side, f32. */
#ifndef WANSCOPE_CUDA_CONV_CUH
#define WANSCOPE_CUDA_CONV_CUH

#include "core/cuda/cuda.cuh"

/* Tensor cores of sm_90a: stride 1, kernels kt x 3 x 3 or kt x 1 x 1, input channels in multiples of 64 (or 32 with 3 x 3).
 * Applies a->norm, in the same kernel for 96 and 192 channels. */
bool conv_hopper_can(const backend *be, const conv_args *a);
int conv_hopper(backend *be, const conv_args *a, err *e);
/* Any shape on any GPU from sm_80 on; a->norm is left to the caller. */
int conv_plain(backend *be, const conv_args *a, err *e);

#endif
