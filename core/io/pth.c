/* PyTorch's zip container: <name>/data.pkl describes, <name>/data/<key> holds the bytes of each storage. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/io/ckpt_internal.h"
#include "core/io/pickle_internal.h"
#include "core/io/zip_internal.h"

enum { MAX_NESTING = 32, MAX_PICKLE_BYTES = 64 << 20 };

typedef struct walk {
    ckpt *c;
    const zip_dir *zip;
    const char *folder;             /* "<name>/", in the archive */
    size_t folder_len;
    const char *path;
    char name[CKPT_MAX_NAME + 1];   /* of where the walk is */
    int64_t visits_left;
    err *e;
} walk;

static int find_storage(walk *w, const pickle_value *storage, const zip_entry **out)
{
    char key[600];
    int shown = storage->count > 100 ? 100 : (int)storage->count;
    size_t n = w->folder_len + 5 + storage->count;
    if (n > sizeof key)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s': the name of its storage is too long", w->path, w->name);
    memcpy(key, w->folder, w->folder_len);
    memcpy(key + w->folder_len, "data/", 5);
    memcpy(key + w->folder_len + 5, storage->text, storage->count);
    *out = zip_dir_find(w->zip, key, n);
    if (!*out)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s': the archive has no entry for its storage 'data/%.*s'; the "
                   "file is damaged", w->path, w->name, shown, storage->text);
    return 0;
}

/* row-major without gaps; a dimension of size 1 may have any stride */
static bool contiguous(const pickle_tensor *t)
{
    int64_t expected = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] == 0)
            return true;
        if (t->shape[i] != 1 && t->stride[i] != expected)
            return false;
        if (__builtin_mul_overflow(expected, t->shape[i], &expected))
            return false;
    }
    return true;
}

static int add_tensor(walk *w, const pickle_tensor *t)
{
    const zip_entry *entry = NULL;
    char shape[200];
    size_t storage_bytes, begin;
    int rc = ckpt_check_name(w->name, strlen(w->name), w->path, w->e);
    if (rc)
        return rc;
    if (t->ndim > CKPT_MAX_DIMS)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' has %d dimensions, more than the %d supported", w->path,
                   w->name, t->ndim, CKPT_MAX_DIMS);
    if (t->lazy)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' is a conjugate or negative view; save the checkpoint again "
                   "with .resolve_conj().resolve_neg()", w->path, w->name);
    ckpt_shape_text(shape, t->shape, t->ndim);
    ckpt_tensor out = { .name = w->name, .file = w->path, .ndim = t->ndim };
    memcpy(out.shape, t->shape, sizeof out.shape);
    int type = t->dtype >= 0 ? t->dtype : t->storage->global;
    if (type < 0)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' has an untyped storage and no element type", w->path,
                   w->name);
    out.dtype = (dtype)type;
    for (int i = 0; i < t->ndim; i++)
        if (t->shape[i] < 0)
            return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s': dimension %d of the shape %s is negative", w->path,
                       w->name, i, shape);
    if (t->offset < 0)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' begins before its storage (offset %" PRId64 ")", w->path,
                   w->name, t->offset);
    if (!ckpt_shape_bytes(t->shape, t->ndim, out.dtype, &out.bytes))
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s': the shape %s overflows the size of memory", w->path, w->name,
                   shape);
    if (!contiguous(t))
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' of shape %s is not contiguous; save the checkpoint again "
                   "with .contiguous() on each tensor", w->path, w->name, shape);
    if ((rc = find_storage(w, t->storage, &entry)))
        return rc;
    size_t element = t->storage->global >= 0 ? dtype_size((dtype)t->storage->global) : 1;
    if (__builtin_mul_overflow((size_t)t->storage->integer, element, &storage_bytes) || storage_bytes > entry->size)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s': its storage of %" PRId64 " elements does not fit into the "
                   "%zu bytes "
                   "that the archive holds for it; the file is damaged", w->path, w->name, t->storage->integer,
                   entry->size);
    if (__builtin_mul_overflow((size_t)t->offset, dtype_size(out.dtype), &begin) || begin > storage_bytes ||
        out.bytes > storage_bytes - begin)
        return ERR(w->e, ERR_FORMAT, "%s: tensor '%.200s' of shape %s at offset %" PRId64 " reaches beyond its "
                   "storage of %"
                   PRId64 " elements; the file is damaged", w->path, w->name, shape, t->offset, t->storage->integer);
    out.data = entry->data + begin;
    return ckpt_add(w->c, &out, w->e);
}

/* Appends the dict's key to w->name; false when the entry is to be passed over (neither text nor integer). */
static int append_key(walk *w, const pickle_value *key, size_t at, bool *usable)
{
    char number[32];
    const char *text = key->text;
    size_t n = key->count;
    *usable = true;
    if (key->kind == PICKLE_INT) {
        n = (size_t)snprintf(number, sizeof number, "%" PRId64, key->integer);
        text = number;
    } else if (key->kind != PICKLE_TEXT || n == 0) {
        *usable = false;
        return 0;
    }
    size_t dot = at > 0;
    if (n + dot > CKPT_MAX_NAME - at)
        return ERR(w->e, ERR_FORMAT, "%s: a name below '%.100s' is longer than the %d bytes allowed", w->path, w->name,
                   CKPT_MAX_NAME);
    if (memchr(text, '\0', n))
        return ERR(w->e, ERR_FORMAT, "%s: a name below '%.100s' holds a NUL", w->path, w->name);
    if (dot)
        w->name[at] = '.';
    memcpy(w->name + at + dot, text, n);
    w->name[at + dot + n] = '\0';
    return 0;
}

static int walk_dict(walk *w, const pickle_value *dict, int depth)
{
    size_t at = strlen(w->name);
    int rc = 0;
    if (depth > MAX_NESTING)
        return ERR(w->e, ERR_FORMAT, "%s: dicts are nested more than %d deep at '%.100s...', or one holds itself",
                   w->path, MAX_NESTING, w->name);
    for (size_t i = 0; !rc && i + 1 < dict->count; i += 2) {
        const pickle_value *v = dict->items[i + 1];
        bool usable;
        if (--w->visits_left < 0)
            return ERR(w->e, ERR_FORMAT, "%s: the pickle repeats the same dicts without end", w->path);
        if (v->kind != PICKLE_TENSOR && v->kind != PICKLE_DICT)
            continue;               /* step counts, notes, optimiser settings */
        rc = append_key(w, dict->items[i], at, &usable);
        if (!rc && usable)
            rc = v->kind == PICKLE_TENSOR ? add_tensor(w, v->tensor) : walk_dict(w, v, depth + 1);
        w->name[at] = '\0';
    }
    return rc;
}

static int find_pickle(const zip_dir *z, const zip_entry **out, const char *path, err *e)
{
    *out = NULL;
    for (size_t i = 0; i < z->count; i++) {
        const zip_entry *z_i = &z->entries[i];
        size_t n = z_i->name_len;
        if (n < 8 || memcmp(z_i->name + n - 8, "data.pkl", 8) || (n > 8 && z_i->name[n - 9] != '/'))
            continue;
        if (*out)
            return ERR(e, ERR_FORMAT, "%s: the archive holds more than one data.pkl; it is not what torch.save writes",
                       path);
        *out = z_i;
    }
    if (!*out)
        return ERR(e, ERR_FORMAT, "%s: the zip archive holds no data.pkl; it is not a PyTorch checkpoint", path);
    if ((*out)->size > MAX_PICKLE_BYTES)
        return ERR(e, ERR_FORMAT, "%s: data.pkl is %zu bytes long, more than the %d allowed", path, (*out)->size,
                   MAX_PICKLE_BYTES);
    return 0;
}

int pth_parse(ckpt *c, const uint8_t *data, size_t size, const char *path, err *e)
{
    zip_dir zip;
    arena memory = { NULL };
    const zip_entry *pickle;
    pickle_value *top;
    char key[600];
    int rc = zip_dir_read(&zip, data, size, path, e);
    if (rc)
        return rc;
    if ((rc = find_pickle(&zip, &pickle, path, e)))
        goto out;
    size_t folder_len = pickle->name_len - 8;
    if (folder_len + 9 > sizeof key) {
        rc = ERR(e, ERR_FORMAT, "%s: the folder inside the archive has a name of %zu bytes, more than is sensible",
                 path, folder_len);
        goto out;
    }
    memcpy(key, pickle->name, folder_len);
    memcpy(key + folder_len, "byteorder", 9);
    const zip_entry *order = zip_dir_find(&zip, key, folder_len + 9);
    if (order && (order->size < 6 || memcmp(order->data, "little", 6))) {
        rc = ERR(e, ERR_FORMAT, "%s: the checkpoint was saved on a big-endian machine (byteorder is '%.*s'); save it "
                 "again on "
                 "a little-endian one", path, order->size > 20 ? 20 : (int)order->size, (const char *)order->data);
        goto out;
    }
    if ((rc = pickle_read(&top, &memory, pickle->data, pickle->size, path, e)))
        goto out;
    if (top->kind != PICKLE_DICT) {
        rc = ERR(e, ERR_FORMAT, "%s: expected a dict of tensors, found %s", path,
                 top->kind == PICKLE_TENSOR ? "a single tensor" : "something else");
        goto out;
    }
    walk w = { .c = c, .zip = &zip, .folder = pickle->name, .folder_len = folder_len, .path = path,
               .visits_left = 1000000 + (int64_t)pickle->size, .e = e };
    rc = walk_dict(&w, top, 1);
out:
    zip_dir_free(&zip);
    arena_release(&memory);
    return rc;
}
