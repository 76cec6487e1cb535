/* io_fixture: makes the files that the tests of core/io read. Included by the test programs only. */
#ifndef WANSCOPE_IO_FIXTURE_H
#define WANSCOPE_IO_FIXTURE_H

#include <inttypes.h>
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/dtype.h"
#include "core/base/fs.h"
#include "core/base/str.h"

#pragma GCC diagnostic ignored "-Wunused-function"

/* A fresh folder of this test program; removed by tmp_remove(). */
static char tmp_dir[512];

static void tmp_make(void)
{
    const char *base = getenv("TEST_TMP");
    snprintf(tmp_dir, sizeof tmp_dir, "%s/io-XXXXXX", base ? base : "/tmp");
    if (base)
        fs_mkdirs(base, NULL);
    assert_non_null(mkdtemp(tmp_dir));
}

static void tmp_remove(void)
{
    assert_int_equal(fs_remove_tree(tmp_dir, NULL), 0);
}

/* a path below it; the buffers rotate */
static const char *tmp_path(const char *name)
{
    static char paths[8][1200];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", tmp_dir, name);
    return p;
}

static const char *goldens(void)
{
    const char *g = getenv("GOLDENS");
    return g ? g : "../shared/goldens";
}

#define assert_text_has(text, part)                                                       \
    do {                                                                                  \
        if (!strstr((text), (part)))                                                      \
            fail_msg("expected a text with \"%s\", found \"%s\"", (part), (text));        \
    } while (0)

/* safetensors */

typedef struct made {
    str entries;                /* of the header */
    size_t bytes;               /* of the data */
    size_t count;
} made;

static void made_tensor(made *m, const char *name, const char *type, int ndim, const int64_t *shape)
{
    size_t n = dtype_size((dtype)dtype_from_name(type));
    str_addf(&m->entries, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", m->count++ ? "," : "", name, type);
    for (int i = 0; i < ndim; i++) {
        str_addf(&m->entries, "%s%" PRId64, i ? "," : "", shape[i]);
        n *= (size_t)shape[i];
    }
    str_addf(&m->entries, "],\"data_offsets\":[%zu,%zu]}", m->bytes, m->bytes + n);
    m->bytes += n;
}

#define MADE(m, name, type, ...) \
    made_tensor((m), (name), (type), (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / 8), (int64_t[]){ __VA_ARGS__ })

/* a header and a data block of `data_bytes`, which stays a hole in the file */
static void write_safetensors_raw(const char *path, const char *header, size_t data_bytes)
{
    FILE *f = fopen(path, "wb");
    uint64_t n = strlen(header);
    assert_non_null(f);
    for (int i = 0; i < 8; i++)
        fputc((int)(n >> (8 * i) & 255), f);
    fputs(header, f);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(truncate(path, (off_t)(8 + n + data_bytes)), 0);
}

static void write_safetensors(made *m, const char *path)
{
    str header = STR_INIT;
    str_addf(&header, "{%s}", str_text(&m->entries));
    write_safetensors_raw(path, str_text(&header), m->bytes);
    str_release(&header);
    str_release(&m->entries);
    memset(m, 0, sizeof *m);
}

/* pickle and zip, as torch.save writes them */

static void pk_u32(str *s, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        str_addc(s, (char)(v >> (8 * i)));
}

static void pk_u16(str *s, uint32_t v)
{
    str_addc(s, (char)v);
    str_addc(s, (char)(v >> 8));
}

static void pk_text(str *s, const char *text)
{
    str_addc(s, 'X');
    pk_u32(s, (uint32_t)strlen(text));
    str_add(s, text);
}

static void pk_int(str *s, int64_t v)
{
    if (v >= 0 && v < 256) {
        str_addc(s, 'K');
        str_addc(s, (char)v);
    } else if (v >= INT32_MIN && v <= INT32_MAX) {
        str_addc(s, 'J');
        pk_u32(s, (uint32_t)(int32_t)v);
    } else {
        str_add(s, "\x8a\x08");
        for (int i = 0; i < 8; i++)
            str_addc(s, (char)((uint64_t)v >> (8 * i)));
    }
}

static void pk_ints(str *s, int n, const int64_t *v)
{
    str_addc(s, '(');
    for (int i = 0; i < n; i++)
        pk_int(s, v[i]);
    str_addc(s, 't');
}

typedef struct pk_tensor {
    const char *storage;        /* "FloatStorage" */
    const char *key;
    int64_t elements, offset;
    int ndim;
    int64_t shape[8], stride[8];
} pk_tensor;

static void pk_add_tensor(str *s, const pk_tensor *t)
{
    str_add(s, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pk_text(s, "storage");
    str_addf(s, "ctorch\n%s\n", t->storage);
    pk_text(s, t->key);
    pk_text(s, "cpu");
    pk_int(s, t->elements);
    str_add(s, "tQ");
    pk_int(s, t->offset);
    pk_ints(s, t->ndim, t->shape);
    pk_ints(s, t->ndim, t->stride);
    str_addc(s, '\x89');
    str_add(s, "ccollections\nOrderedDict\n)RtR");
}

typedef struct zip_made {
    str bytes, directory;
    int count;
    bool zip64;                 /* sizes and offsets in zip64 fields, as beyond 4 GiB */
    int method;                 /* written into the entries: 0 stored */
} zip_made;

static void zip_u64(str *s, uint64_t v)
{
    pk_u32(s, (uint32_t)v);
    pk_u32(s, (uint32_t)(v >> 32));
}

static void zip_add(zip_made *z, const char *name, const void *data, size_t n)
{
    size_t offset = z->bytes.len, name_len = strlen(name);
    size_t pad = 64 - (offset + 30 + name_len + 4) % 64;
    /* local header; the extra field "FB" aligns the payload, as PyTorch does */
    pk_u32(&z->bytes, 0x04034b50);
    pk_u16(&z->bytes, 0);
    pk_u16(&z->bytes, 0);
    pk_u16(&z->bytes, (uint32_t)z->method);
    pk_u32(&z->bytes, 0);
    pk_u32(&z->bytes, 0);
    pk_u32(&z->bytes, (uint32_t)n);
    pk_u32(&z->bytes, (uint32_t)n);
    pk_u16(&z->bytes, (uint32_t)name_len);
    pk_u16(&z->bytes, (uint32_t)(pad + 4));
    str_add(&z->bytes, name);
    str_add(&z->bytes, "FB");
    pk_u16(&z->bytes, (uint32_t)pad);
    for (size_t i = 0; i < pad; i++)
        str_addc(&z->bytes, 'Z');
    str_addn(&z->bytes, data, n);

    pk_u32(&z->directory, 0x02014b50);
    pk_u32(&z->directory, 0);
    pk_u16(&z->directory, 0);
    pk_u16(&z->directory, (uint32_t)z->method);
    pk_u32(&z->directory, 0);
    pk_u32(&z->directory, 0);
    pk_u32(&z->directory, z->zip64 ? 0xffffffffu : (uint32_t)n);
    pk_u32(&z->directory, z->zip64 ? 0xffffffffu : (uint32_t)n);
    pk_u16(&z->directory, (uint32_t)name_len);
    pk_u16(&z->directory, z->zip64 ? 28 : 0);
    pk_u16(&z->directory, 0);
    pk_u32(&z->directory, 0);
    pk_u32(&z->directory, 0);
    pk_u32(&z->directory, z->zip64 ? 0xffffffffu : (uint32_t)offset);
    str_add(&z->directory, name);
    if (z->zip64) {
        pk_u16(&z->directory, 1);
        pk_u16(&z->directory, 24);
        zip_u64(&z->directory, n);
        zip_u64(&z->directory, n);
        zip_u64(&z->directory, offset);
    }
    z->count++;
}

static void zip_finish(zip_made *z)
{
    size_t at = z->bytes.len, n = z->directory.len, end64;
    str_addn(&z->bytes, str_text(&z->directory), n);
    end64 = z->bytes.len;
    if (z->zip64) {
        pk_u32(&z->bytes, 0x06064b50);
        zip_u64(&z->bytes, 44);
        pk_u32(&z->bytes, 0x002d002d);
        zip_u64(&z->bytes, 0);
        zip_u64(&z->bytes, (uint64_t)z->count);
        zip_u64(&z->bytes, (uint64_t)z->count);
        zip_u64(&z->bytes, n);
        zip_u64(&z->bytes, at);
        pk_u32(&z->bytes, 0x07064b50);
        pk_u32(&z->bytes, 0);
        zip_u64(&z->bytes, end64);
        pk_u32(&z->bytes, 1);
    }
    pk_u32(&z->bytes, 0x06054b50);
    pk_u32(&z->bytes, 0);
    pk_u16(&z->bytes, z->zip64 ? 0xffff : (uint32_t)z->count);
    pk_u16(&z->bytes, z->zip64 ? 0xffff : (uint32_t)z->count);
    pk_u32(&z->bytes, z->zip64 ? 0xffffffffu : (uint32_t)n);
    pk_u32(&z->bytes, z->zip64 ? 0xffffffffu : (uint32_t)at);
    pk_u16(&z->bytes, 0);
    str_release(&z->directory);
}

#endif
