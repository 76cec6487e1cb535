/* zip_internal: the directory of a zip archive whose entries are stored, as torch.save writes it. */
#ifndef WANSCOPE_ZIP_INTERNAL_H
#define WANSCOPE_ZIP_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct zip_entry {
    const char *name;           /* in the archive, not NUL-terminated */
    size_t name_len;
    const uint8_t *data;
    size_t size;
} zip_entry;

typedef struct zip_dir {
    zip_entry *entries;         /* sorted by name */
    size_t count;
} zip_dir;

/* Every offset is checked against `size`; `data` must outlive the directory. */
int zip_dir_read(zip_dir *z, const uint8_t *data, size_t size, const char *path, err *e);
void zip_dir_free(zip_dir *z);
const zip_entry *zip_dir_find(const zip_dir *z, const char *name, size_t name_len);

#endif
