#include "core/tensor.h"

#include <inttypes.h>
#include <stdio.h>

#include "core/backend.h"

int tensor_new(tensor *t, backend *be, dtype type, int ndim, const int64_t *shape, err *e)
{
    int64_t n = (int64_t)dtype_size(type);
    *t = (tensor){ 0 };
    if (ndim < 1 || ndim > TENSOR_MAX_DIMS)
        return ERR(e, ERR_INTERNAL, "tensor with %d dimensions (1 to %d are possible)", ndim, TENSOR_MAX_DIMS);
    for (int i = 0; i < TENSOR_MAX_DIMS; i++)
        t->shape[i] = 1;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0 || __builtin_mul_overflow(n, shape[i], &n))
            return ERR(e, ERR_MEMORY, "tensor of impossible size: dimension %d is %" PRId64, i, shape[i]);
        t->shape[i] = shape[i];
    }
    t->dtype = type;
    t->ndim = ndim;
    int rc = be->ops->alloc(be, &t->data, n > 0 ? (size_t)n : 1, e);
    if (rc) {
        *t = (tensor){ 0 };
        return rc;
    }
    t->be = be;
    t->owner = true;
    return 0;
}

/* where the factors of n bytes of data begin */
static int64_t scale_offset(int64_t n)
{
    return (n + 255) / 256 * 256;
}

int64_t tensor_extent(const tensor *t)
{
    return t->scale ? scale_offset(tensor_count(t)) + t->shape[0] * (int64_t)sizeof(float) : tensor_bytes(t);
}

void tensor_move(tensor *t, void *to)
{
    if (t->scale)
        t->scale = (float *)((char *)to + scale_offset(tensor_count(t)));
    t->data = to;
}

int tensor_new_scaled(tensor *t, backend *be, int64_t rows, int64_t cols, err *e)
{
    int64_t bytes = scale_offset(rows * cols) + rows * (int64_t)sizeof(float);
    int rc = tensor_new(t, be, DT_U8, 1, &bytes, e);
    if (rc)
        return rc;
    t->scale = (float *)((char *)t->data + scale_offset(rows * cols));
    t->dtype = DT_F8_E4M3;
    t->ndim = 2;
    t->shape[0] = rows;
    t->shape[1] = cols;
    return 0;
}

void tensor_free(tensor *t)
{
    if (t && t->owner && t->data)
        t->be->ops->free(t->be, t->data);
    if (t)
        *t = (tensor){ 0 };
}

tensor tensor_reshape(const tensor *t, int ndim, const int64_t *shape)
{
    tensor v = *t;
    v.owner = false;
    v.ndim = ndim;
    for (int i = 0; i < TENSOR_MAX_DIMS; i++)
        v.shape[i] = i < ndim ? shape[i] : 1;
    return v;
}

tensor tensor_rows(const tensor *t, int64_t first, int64_t n)
{
    tensor v = *t;
    int64_t row = t->shape[0] > 0 ? tensor_bytes(t) / t->shape[0] : 0;
    v.owner = false;
    v.data = (char *)t->data + first * row;
    if (t->scale)
        v.scale = t->scale + first;
    v.shape[0] = n;
    return v;
}

tensor tensor_wrap(backend *be, const void *data, dtype type, int ndim, const int64_t *shape)
{
    tensor v = { .data = (void *)(uintptr_t)data, .dtype = type, .ndim = ndim, .be = be, .owner = false };
    for (int i = 0; i < TENSOR_MAX_DIMS; i++)
        v.shape[i] = i < ndim ? shape[i] : 1;
    return v;
}

int64_t tensor_count(const tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return t->ndim ? n : 0;
}

int64_t tensor_bytes(const tensor *t)
{
    return tensor_count(t) * (int64_t)dtype_size(t->dtype);
}

int64_t tensor_cols(const tensor *t)
{
    return t->ndim ? t->shape[t->ndim - 1] : 0;
}

int64_t tensor_nrows(const tensor *t)
{
    int64_t c = tensor_cols(t);
    return c ? tensor_count(t) / c : 0;
}

void tensor_describe(const tensor *t, char *out, int n)
{
    int used = snprintf(out, (size_t)n, "%s [", dtype_name(t->dtype));
    for (int i = 0; i < t->ndim && used < n; i++)
        used += snprintf(out + used, (size_t)(n - used), i ? ",%" PRId64 : "%" PRId64, t->shape[i]);
    if (used < n)
        snprintf(out + used, (size_t)(n - used), "]");
}
