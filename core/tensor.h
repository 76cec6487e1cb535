/* tensor: shape, element type, memory and who owns it.
 *
 * Tensors are dense and row-major (last index fastest). An owner frees its memory, a view never does and must not
 * outlive what it views. `data` lives where the backend says (host memory for the CPU backend); only backend ops may
 * touch it, except through backend->upload / download. Shapes are int64_t throughout: a 720p clip exceeds 2^31.
 */
#ifndef WANSCOPE_TENSOR_H
#define WANSCOPE_TENSOR_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"

#define TENSOR_MAX_DIMS 5

typedef struct backend backend;

typedef struct tensor {
    void *data;
    dtype dtype;
    int ndim;
    int64_t shape[TENSOR_MAX_DIMS];  /* unused entries are 1 */
    backend *be;                     /* whose memory; NULL for an empty tensor */
    bool owner;
    float *scale;                    /* of 8-bit tensors from tensor_new_scaled(): one factor a row, device memory; else NULL */
} tensor;

/* Allocates uninitialised memory on `be`. On failure *t is empty and the sentence says how many bytes were asked for. */
int tensor_new(tensor *t, backend *be, dtype type, int ndim, const int64_t *shape, err *e);
#define TENSOR_NEW(t, be, type, e, ...) \
    tensor_new((t), (be), (type), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__}, (e))
/* [rows, cols] in e4m3 with a factor a row in the same allocation: value = data * scale[row]. tensor_bytes() counts the data only. */
int tensor_new_scaled(tensor *t, backend *be, int64_t rows, int64_t cols, err *e);
void tensor_free(tensor *t);                       /* harmless on an empty tensor; leaves it empty */

/* Views: same memory, other shape (same element count), or rows [first, first + n) of the first axis. */
tensor tensor_reshape(const tensor *t, int ndim, const int64_t *shape);
#define TENSOR_AS(t, ...) \
    tensor_reshape((t), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
tensor tensor_rows(const tensor *t, int64_t first, int64_t n);
/* A view of host memory (a mapped file, an array): never freed by the tensor. */
tensor tensor_wrap(backend *be, const void *data, dtype type, int ndim, const int64_t *shape);

/* Bytes of data and factors together, as they lie in one allocation; and the same tensor at another address. */
int64_t tensor_extent(const tensor *t);
void tensor_move(tensor *t, void *to);

int64_t tensor_count(const tensor *t);             /* elements */
int64_t tensor_bytes(const tensor *t);
int64_t tensor_cols(const tensor *t);              /* last dimension */
int64_t tensor_nrows(const tensor *t);             /* elements / last dimension */
void tensor_describe(const tensor *t, char *out, int n);  /* "F32 [3,5]" */

#endif
