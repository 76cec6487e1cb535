#include "core/io/st_write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/str.h"

struct st_writer {
    char *path, *part;
    FILE *f;
    str tensors, metadata;
    json_writer to_tensors, to_metadata;
    uint64_t bytes, written;
};

int st_writer_new(st_writer **out, const char *path, err *e)
{
    st_writer *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w || !(w->path = str_dup(path)) || !(w->part = str_format("%s.part", path))) {
        st_writer_abort(w);
        return ERR(e, ERR_MEMORY, "%s: no memory to write a file", path);
    }
    if (!(w->f = fopen(w->part, "wb"))) {
        int rc = ERR(e, ERR_IO, "%s: cannot create the file: %s", w->part, strerror(errno));
        st_writer_abort(w);
        return rc;
    }
    jw_init(&w->to_tensors, &w->tensors, 0);
    jw_object(&w->to_tensors);
    jw_init(&w->to_metadata, &w->metadata, 0);
    jw_object(&w->to_metadata);
    *out = w;
    return 0;
}

int st_writer_metadata(st_writer *w, const char *key, const char *value, err *e)
{
    jw_kstring(&w->to_metadata, key, value);
    return w->metadata.failed ? ERR(e, ERR_MEMORY, "%s: no memory for metadata", w->path) : 0;
}

int st_writer_tensor(st_writer *w, const char *name, dtype type, int ndim, const int64_t *shape, err *e)
{
    uint64_t n = dtype_size(type);
    json_writer *j = &w->to_tensors;
    if (w->written)
        return ERR(e, ERR_INTERNAL, "%s: tensor '%s' is announced after data was written", w->path, name);
    jw_key(j, name);
    jw_object(j);
    jw_kstring(j, "dtype", dtype_name(type));
    jw_key(j, "shape");
    jw_array(j);
    for (int i = 0; i < ndim; i++) {
        jw_int(j, shape[i]);
        n *= (uint64_t)shape[i];
    }
    jw_end_array(j);
    jw_key(j, "data_offsets");
    jw_array(j);
    jw_int(j, (int64_t)w->bytes);
    jw_int(j, (int64_t)(w->bytes + n));
    jw_end_array(j);
    jw_end_object(j);
    w->bytes += n;
    return w->tensors.failed ? ERR(e, ERR_MEMORY, "%s: no memory for the table of tensors", w->path) : 0;
}

static int put(st_writer *w, const void *bytes, size_t n, err *e)
{
    return fwrite(bytes, 1, n, w->f) == n ? 0 : ERR(e, ERR_IO, "%s: writing %zu bytes failed: %s", w->part, n, strerror(errno));
}

static int put_header(st_writer *w, err *e)
{
    str header = STR_INIT;
    uint8_t size[8];
    jw_end_object(&w->to_tensors);
    jw_end_object(&w->to_metadata);
    if (w->metadata.len > 2)      /* more than {} */
        str_addf(&header, "{\"__metadata__\":%s%s%s", str_text(&w->metadata), w->tensors.len > 2 ? "," : "", str_text(&w->tensors) + 1);
    else
        str_addn(&header, str_text(&w->tensors), w->tensors.len);
    while (header.len % 8 && !header.failed)
        str_addc(&header, ' ');
    for (int i = 0; i < 8; i++)
        size[i] = (uint8_t)(header.len >> (8 * i) & 255);
    int rc = header.failed || w->metadata.failed || w->tensors.failed ? ERR(e, ERR_MEMORY, "%s: no memory for the table of tensors", w->path) : 0;
    if (!rc)
        rc = put(w, size, 8, e);
    if (!rc)
        rc = put(w, header.data, header.len, e);
    str_release(&header);
    return rc;
}

int st_writer_data(st_writer *w, const void *bytes, size_t n, err *e)
{
    if (!n)
        return 0;
    int rc = w->written ? 0 : put_header(w, e);
    if (!rc && w->written + n > w->bytes)
        rc = ERR(e, ERR_INTERNAL, "%s: more bytes are written than tensors were announced", w->path);
    if (!rc)
        rc = put(w, bytes, n, e);
    w->written += n;
    return rc;
}

static void release(st_writer *w)
{
    free(w->path);
    free(w->part);
    str_release(&w->tensors);
    str_release(&w->metadata);
    free(w);
}

int st_writer_close(st_writer *w, err *e)
{
    int rc = w->written ? 0 : put_header(w, e);
    if (!rc && w->written != w->bytes)
        rc = ERR(e, ERR_INTERNAL, "%s: %" PRIu64 " of %" PRIu64 " bytes were written", w->path, w->written, w->bytes);
    bool failed = fclose(w->f) != 0;
    w->f = NULL;
    if (!rc && failed)
        rc = ERR(e, ERR_IO, "%s: closing the file failed: %s", w->part, strerror(errno));
    if (!rc)
        rc = fs_publish(w->part, w->path, e);
    if (rc) {
        st_writer_abort(w);
        return rc;
    }
    release(w);
    return 0;
}

void st_writer_abort(st_writer *w)
{
    if (!w)
        return;
    if (w->f)
        fclose(w->f);
    if (w->part)
        unlink(w->part);
    release(w);
}
