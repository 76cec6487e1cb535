/* fs: files and folders. All functions return 0 or an err_kind with a sentence that names the path and the reason. */
#ifndef WANSCOPE_FS_H
#define WANSCOPE_FS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* A read-only mapping of a whole file. `data` is NULL and `size` 0 for an empty file. */
typedef struct fs_map {
    const uint8_t *data;
    size_t size;
    char *path;       /* owned copy, for messages */
} fs_map;

int fs_map_open(fs_map *m, const char *path, err *e);
void fs_map_close(fs_map *m);                                     /* harmless on a zeroed fs_map */

bool fs_exists(const char *path);
bool fs_is_dir(const char *path);
char *fs_join(const char *a, const char *b);                      /* "a/b"; free() it; NULL when memory runs out */
const char *fs_basename(const char *path);                        /* points into path */
int fs_mkdirs(const char *path, err *e);                          /* like mkdir -p */
int fs_read_text(char **out, size_t *len, const char *path, err *e); /* NUL-terminated copy; free() it */
int fs_remove_tree(const char *path, err *e);                     /* removes a folder made by us; missing is fine */
int64_t fs_free_bytes(const char *path);                          /* space an unprivileged user may still write; -1 unknown */

/* Writes bytes under `path`.part, flushes to the disk, renames. The final name never shows a partial file. */
int fs_write_atomic(const char *path, const void *bytes, size_t n, err *e);
/* The last half of the same for a file written by somebody else: fsync(part), rename(part, path), fsync(folder). */
int fs_publish(const char *part, const char *path, err *e);
/* Appends one line (adds '\n') with a single write and flushes it to the disk. */
int fs_append_line(const char *path, const char *line, err *e);

#endif
