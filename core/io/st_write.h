/* st_write: safetensors files, written tensor after tensor under `path`.part and published when complete.
 *
 *     st_writer *w;
 *     st_writer_new(&w, "out.safetensors", e);
 *     st_writer_tensor(w, "a.weight", DT_BF16, 2, shape, e);      all tensors first, in the order of their bytes
 *     st_writer_data(w, bytes, n, e);                             then the bytes, in pieces of any size
 *     st_writer_close(w, e);                                      or st_writer_abort(w)
 */
#ifndef WANSCOPE_ST_WRITE_H
#define WANSCOPE_ST_WRITE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"

typedef struct st_writer st_writer;

int st_writer_new(st_writer **out, const char *path, err *e);
int st_writer_metadata(st_writer *w, const char *key, const char *value, err *e);
int st_writer_tensor(st_writer *w, const char *name, dtype type, int ndim, const int64_t *shape, err *e);
int st_writer_data(st_writer *w, const void *bytes, size_t n, err *e);
/* Frees w whatever happens; ERR_INTERNAL when bytes are missing. */
int st_writer_close(st_writer *w, err *e);
void st_writer_abort(st_writer *w);            /* removes the partial file; NULL is harmless */

#endif
