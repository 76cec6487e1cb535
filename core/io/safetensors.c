/* The safetensors container: 8-byte little-endian header length, JSON header, data. Nothing in the header is believed
 * before it has been checked against the file. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/io/ckpt_internal.h"

/* The format's own limit for the header (github.com/huggingface/safetensors, README "Format"). */
#define MAX_HEADER_BYTES 100000000u

typedef struct extent {
    size_t begin, end;
    const char *name;
} extent;

static int by_begin(const void *a, const void *b)
{
    const extent *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

static int read_shape(ckpt_tensor *t, const json *shape, const char *path, err *e)
{
    if (json_type(shape) != JSON_ARRAY)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s' has no 'shape' array in the header", path, t->name);
    if (json_count(shape) > CKPT_MAX_DIMS)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s' has %zu dimensions, more than the %d supported", path, t->name,
                   json_count(shape), CKPT_MAX_DIMS);
    t->ndim = (int)json_count(shape);
    for (int i = 0; i < t->ndim; i++) {
        if (!json_int(json_at(shape, (size_t)i), &t->shape[i]))
            return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': dimension %d of the shape is not a 64-bit integer", path,
                       t->name, i);
        if (t->shape[i] < 0)
            return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': dimension %d of the shape is negative (%" PRId64 ")", path,
                       t->name, i, t->shape[i]);
    }
    return 0;
}

static int read_entry(ckpt_tensor *t, extent *x, const json *v, size_t data_bytes, const char *path, err *e)
{
    int64_t begin, end;
    char shape[200];
    int rc = ckpt_check_name(t->name, strlen(t->name), path, e);
    if (rc)
        return rc;
    if (json_type(v) != JSON_OBJECT)
        return ERR(e, ERR_FORMAT, "%s: the header's entry '%.200s' is not an object with dtype, shape and data_offsets",
                   path, t->name);
    const char *type = json_get_string(v, "dtype", NULL);
    if (!type)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s' has no 'dtype' in the header", path, t->name);
    int known = dtype_from_name(type);
    if (known < 0)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s' has the dtype '%.40s', which is not supported (F32 F16 BF16 "
                   "F8_E4M3 F8_E5M2 F64 I64 I32 I16 I8 U8 BOOL are)", path, t->name, type);
    t->dtype = (dtype)known;
    if ((rc = read_shape(t, json_get(v, "shape"), path, e)))
        return rc;
    if (!ckpt_shape_bytes(t->shape, t->ndim, t->dtype, &t->bytes))
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': the shape %s overflows the size of memory", path, t->name,
                   ckpt_shape_text(shape, t->shape, t->ndim));
    const json *offsets = json_get(v, "data_offsets");
    if (json_count(offsets) != 2 || json_type(offsets) != JSON_ARRAY || !json_int(json_at(offsets, 0), &begin) ||
        !json_int(json_at(offsets, 1), &end))
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': expected 'data_offsets' of two integers", path, t->name);
    if (begin < 0 || end < begin)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': data_offsets [%" PRId64 ", %" PRId64 "] are not a range", path,
                   t->name, begin, end);
    if ((uint64_t)end > data_bytes)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s' ends at byte %" PRId64 " of the data, but the file holds only "
                   "%zu; is the download complete?", path, t->name, end, data_bytes);
    if ((uint64_t)(end - begin) != t->bytes)
        return ERR(e, ERR_FORMAT, "%s: tensor '%.200s': %s of shape %s needs %zu bytes, but data_offsets "
                   "[%" PRId64 ", %"
                   PRId64 "] hold %" PRId64, path, t->name, type, ckpt_shape_text(shape, t->shape, t->ndim), t->bytes,
                   begin, end, end - begin);
    *x = (extent){ (size_t)begin, (size_t)end, t->name };
    return 0;
}

static int read_metadata(ckpt *c, const json *v, const char *path, err *e)
{
    if (json_type(v) != JSON_OBJECT)
        return ERR(e, ERR_FORMAT, "%s: '__metadata__' in the header is not an object of texts", path);
    for (size_t i = 0; i < json_count(v); i++) {
        const char *value = json_string(json_at(v, i), NULL);
        if (!value)
            return ERR(e, ERR_FORMAT, "%s: '__metadata__' member '%.200s' in the header is not a text", path,
                       json_key(v, i));
        int rc = ckpt_add_metadata(c, json_key(v, i), value, e);
        if (rc)
            return rc;
    }
    return 0;
}

int safetensors_parse(ckpt *c, const uint8_t *data, size_t size, const char *path, err *e)
{
    int rc;
    json *doc = NULL;
    extent *extents = NULL;
    char *title = NULL;
    size_t n_extents = 0;
    if (size < 8)
        return ERR(e, ERR_FORMAT, "%s: %zu bytes are too few for a safetensors file, which begins with the 8-byte "
                   "length of its header; is the download complete?", path, size);
    uint64_t header = read_le64(data);
    if (header > MAX_HEADER_BYTES)
        return ERR(e, ERR_FORMAT, "%s: the header length %" PRIu64 " is absurd (the format allows %u bytes); this is "
                   "not a safetensors file, or it is damaged", path, header, MAX_HEADER_BYTES);
    if (header > size - 8)
        return ERR(e, ERR_FORMAT, "%s: the header of %" PRIu64 " bytes does not fit into the file of %zu bytes; is the "
                   "download complete?", path, header, size);
    const uint8_t *base = data + 8 + header;
    size_t data_bytes = size - 8 - (size_t)header;
    if (!(title = str_format("%s: safetensors header", path))) {
        rc = ERR(e, ERR_MEMORY, "%s: memory ran out", path);
        goto out;
    }
    rc = json_parse(&doc, (const char *)data + 8, (size_t)header, title, e);
    if (rc)
        goto out;
    if (json_type(doc) != JSON_OBJECT) {
        rc = ERR(e, ERR_FORMAT, "%s: the safetensors header is not a JSON object", path);
        goto out;
    }
    size_t n = json_count(doc);
    extents = malloc((n ? n : 1) * sizeof *extents);
    if (!extents) {
        rc = ERR(e, ERR_MEMORY, "%s: memory ran out for %zu tensors", path, n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const char *name = json_key(doc, i);
        if (strcmp(name, "__metadata__") == 0) {
            if ((rc = read_metadata(c, json_at(doc, i), path, e)))
                goto out;
            continue;
        }
        ckpt_tensor t = { .name = name, .file = path };
        extent x;
        if ((rc = read_entry(&t, &x, json_at(doc, i), data_bytes, path, e)))
            goto out;
        t.data = base + x.begin;
        if ((rc = ckpt_add(c, &t, e)))
            goto out;
        if (t.bytes)
            extents[n_extents++] = x;
    }
    if (n_extents)
        qsort(extents, n_extents, sizeof *extents, by_begin);
    for (size_t i = 1; i < n_extents; i++)
        if (extents[i].begin < extents[i - 1].end) {
            rc = ERR(e, ERR_FORMAT, "%s: the tensors '%.200s' (bytes %zu to %zu) and '%.200s' (bytes %zu to %zu) "
                     "overlap; "
                     "the header is wrong", path, extents[i - 1].name, extents[i - 1].begin, extents[i - 1].end,
                     extents[i].name, extents[i].begin, extents[i].end);
            goto out;
        }
out:
    free(title);
    free(extents);
    json_free(doc);
    return rc;
}
