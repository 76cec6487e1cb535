/* noise: rng_cuda_normal() on the device that runs the model. */
#ifndef WANSCOPE_NOISE_H
#define WANSCOPE_NOISE_H

#include "core/backend.h"
#include "core/sample/rng.h"

/* The same numbers, offsets and errors as rng_cuda_normal(), into host memory. Where `be` is a GPU it draws them itself, with its
 * own sine: then they equal PyTorch's on a GPU in every bit, whichever GPU's geometry is asked for. Other backends: rng_cuda_normal(). */
int noise_cuda_normal(backend *be, uint64_t seed, uint64_t *offset, int sms, int threads_per_sm, float *out, int64_t n, err *e);

#endif
