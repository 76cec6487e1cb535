/* pickle_internal: the part of Python's pickle that a PyTorch state dict uses, read into plain values.
 *
 * Nothing is ever executed: a global is an entry of a fixed table or an error; "calling" one builds a value here. */
#ifndef WANSCOPE_PICKLE_INTERNAL_H
#define WANSCOPE_PICKLE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/io/ckpt_internal.h"

typedef enum {
    PICKLE_NONE, PICKLE_BOOL, PICKLE_INT, PICKLE_FLOAT, PICKLE_TEXT, PICKLE_TUPLE, PICKLE_LIST, PICKLE_DICT,
    PICKLE_GLOBAL, PICKLE_STORAGE, PICKLE_TENSOR, PICKLE_MARK
} pickle_kind;

typedef struct pickle_value pickle_value;

typedef struct pickle_tensor {
    const pickle_value *storage;
    int64_t offset;                     /* elements into the storage */
    int ndim;                           /* may exceed CKPT_MAX_DIMS; then shape and stride are not filled in */
    int64_t shape[CKPT_MAX_DIMS], stride[CKPT_MAX_DIMS];
    int dtype;                          /* of the tensor, or -1: that of the storage */
    bool lazy;                          /* a conjugate or negative view: the bytes are not the values */
} pickle_tensor;

struct pickle_value {
    pickle_kind kind;
    int global;                         /* PICKLE_GLOBAL: which entry of the table; PICKLE_STORAGE: dtype or -1 */
    union {
        int64_t integer;                /* BOOL, INT; STORAGE: number of elements (bytes if untyped) */
        double number;
        pickle_tensor *tensor;
        struct {
            pickle_value **items;       /* TUPLE, LIST; DICT: key, value, key, value ... */
            size_t cap;
        };
    };
    const char *text;                   /* TEXT; STORAGE: its key; not NUL-terminated */
    size_t count;                       /* bytes of text, or number of items */
};

/* `memory` owns the values; texts point into `data`. */
int pickle_read(pickle_value **out, arena *memory, const uint8_t *data, size_t size, const char *path, err *e);

#endif
