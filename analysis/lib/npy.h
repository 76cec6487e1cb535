/* npy: NumPy's array files, version 1.0, little-endian f32 in C order. */
#ifndef WANSCOPE_NPY_H
#define WANSCOPE_NPY_H

#include <stdint.h>

#include "core/base/err.h"

int npy_write_f32(const char *path, const float *data, const int64_t *shape, int rank, err *e); /* atomic */

#endif
