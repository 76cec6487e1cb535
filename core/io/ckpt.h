/* ckpt: the tensors of a checkpoint by name, whatever it is stored in. Files are mapped, never copied.
 *
 * Opens: a .safetensors file; a sharded set through its *.safetensors.index.json; a .pth / .pt archive (zip, stored
 * entries, a pickle reader that executes nothing); a folder that holds one of these as diffusion_pytorch_model* or
 * model*. Every offset, length and shape is checked against the file before anything is used.
 */
#ifndef WANSCOPE_CKPT_H
#define WANSCOPE_CKPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/json.h"
#include "core/base/str.h"

#define CKPT_MAX_DIMS 8

typedef struct ckpt_tensor {
    const char *name;               /* as used by this project: original Wan naming after ckpt_normalise() */
    const char *file_name;          /* the name in the file */
    dtype dtype;
    int ndim;
    int64_t shape[CKPT_MAX_DIMS];
    const void *data;               /* in the mapping, row-major contiguous, `bytes` long; not aligned in general */
    size_t bytes;
    const char *file;               /* path of the file that holds it */
} ckpt_tensor;

typedef struct ckpt ckpt;

int ckpt_open(ckpt **out, const char *path, err *e);
void ckpt_close(ckpt *c);

const char *ckpt_path(const ckpt *c);
size_t ckpt_count(const ckpt *c);
const ckpt_tensor *ckpt_at(const ckpt *c, size_t i);                 /* sorted by name */
const ckpt_tensor *ckpt_find(const ckpt *c, const char *name);       /* NULL when absent */
/* safetensors __metadata__ value, or NULL */
const char *ckpt_metadata(const ckpt *c, const char *key);
/* sha256 over the sorted (name, dtype, shape, bytes) of all tensors: the checkpoint's identity, independent of sharding. */
int ckpt_digest(const ckpt *c, char out[65], err *e);

typedef enum { CKPT_DIT, CKPT_T5, CKPT_VAE } ckpt_kind;
/* Strips known prefixes and turns diffusers / HF / ComfyUI names into the original Wan names (wan-engine.md 2.3-2.6,
 * appendix A). Names it does not know stay as they are. */
int ckpt_normalise(ckpt *c, ckpt_kind kind, err *e);
/* The diffusers name of a DiT tensor by its Wan name; false when the two are the same. */
bool ckpt_diffusers_name(str *out, const char *wan_name);

/* Fetch with expectation. All problems are collected and reported together by ckpt_want_finish(): missing, misshapen,
 * wrong type, and (if `strict`) tensors nobody asked for, grouped by prefix with counts. */
typedef struct ckpt_want ckpt_want;
int ckpt_want_begin(ckpt_want **out, const ckpt *c, const char *what, err *e);   /* what: "DiT", "umT5", "VAE" */
/* NULL when missing or misshapen (recorded). A dimension of -1 in `shape` accepts any size. */
const ckpt_tensor *ckpt_want_tensor(ckpt_want *w, int ndim, const int64_t *shape, const char *name_fmt, ...)
    __attribute__((format(printf, 4, 5)));
bool ckpt_want_optional(ckpt_want *w, const char *name);             /* marks as used if there; true if there */
void ckpt_want_ignore(ckpt_want *w, const char *prefix);             /* tensors with this prefix are not "unused" */
int ckpt_want_finish(ckpt_want *w, bool strict, err *e);             /* frees w; 0 or ERR_SHAPE with the whole report */

#endif
