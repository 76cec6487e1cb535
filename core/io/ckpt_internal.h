/* ckpt_internal: what the readers share. Not for use outside core/io and its fuzz targets. */
#ifndef WANSCOPE_CKPT_INTERNAL_H
#define WANSCOPE_CKPT_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/io/ckpt.h"

enum { CKPT_MAX_NAME = 1000 };      /* bytes of a tensor's name */

/* Memory that is given back all at once. arena_alloc() zeroes and aligns to 16; NULL when memory runs out. */
typedef struct arena {
    struct arena_chunk *head;
} arena;
void *arena_alloc(arena *a, size_t bytes);
char *arena_text(arena *a, const char *text, size_t n);
void arena_release(arena *a);

struct ckpt {
    char *path;
    fs_map *maps;
    size_t n_maps;
    ckpt_tensor *tensors;           /* sorted by name once ckpt_sort() has run */
    size_t count, cap;
    arena memory;                   /* names and paths */
    const char **metadata;          /* key, value, key, value ... */
    size_t n_metadata, metadata_cap;
};

/* An empty one; ckpt_close() it. */
int ckpt_new(ckpt **out, const char *path, err *e);
/* Adds a copy of `t`; its names and path are copied into the checkpoint (file_name defaults to name). */
int ckpt_add(ckpt *c, const ckpt_tensor *t, err *e);
int ckpt_add_metadata(ckpt *c, const char *key, const char *value, err *e);
/* Sorts by name and refuses a name that occurs twice. */
int ckpt_sort(ckpt *c, err *e);

/* Product of the dimensions times the element size; false when a dimension is negative or the product overflows. */
bool ckpt_shape_bytes(const int64_t *shape, int ndim, dtype t, size_t *bytes);
/* A want that writes down what it is asked for instead of looking it up: every tensor named is added to `c`, f32 and without data.
 * ckpt_want_finish() sorts. */
int ckpt_want_record(ckpt_want **out, ckpt *c, const char *what, err *e);
/* "[640, 256]" */
const char *ckpt_shape_text(char out[200], const int64_t *shape, int ndim);
/* A tensor's name fit to be used: not empty, not too long, no control characters. */
int ckpt_check_name(const char *name, size_t n, const char *path, err *e);

/* The readers proper, on bytes in memory that outlive `c`. `path` names the file in messages and in tensors. */
int safetensors_parse(ckpt *c, const uint8_t *data, size_t size, const char *path, err *e);
int pth_parse(ckpt *c, const uint8_t *data, size_t size, const char *path, err *e);

typedef enum { CKPT_SAFETENSORS, CKPT_PTH } ckpt_format;
/* The whole of ckpt_open() for one file whose bytes are already in memory; tests and fuzzing. */
int ckpt_open_memory(ckpt **out, ckpt_format format, const uint8_t *data, size_t size, const char *name, err *e);

/* The file inside a folder that ckpt_open() would read, or NULL (out of memory, or none: then `e` says so). */
int ckpt_file_in_folder(char **out, const char *folder, err *e);

static inline uint32_t read_le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t read_le64(const uint8_t *p)
{
    return (uint64_t)read_le32(p) | (uint64_t)read_le32(p + 4) << 32;
}

static inline uint32_t read_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

#endif
