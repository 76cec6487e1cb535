/* Format: PKWARE APPNOTE 6.3, sections 4.3 (records) and 4.5.3 (zip64 extra field). */
#include "core/io/zip_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/io/ckpt_internal.h"

enum {
    LOCAL_SIGN = 0x04034b50, CENTRAL_SIGN = 0x02014b50, END_SIGN = 0x06054b50, END64_SIGN = 0x06064b50,
    LOCATOR_SIGN = 0x07064b50,
    LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, END64_BYTES = 56, LOCATOR_BYTES = 20,
};

typedef struct central {
    uint64_t count, bytes, offset;      /* of the central directory */
} central;

static int order(const char *a, size_t n, const char *b, size_t m)
{
    int c = memcmp(a, b, n < m ? n : m);
    return c ? c : n < m ? -1 : n > m;
}

static int by_name(const void *a, const void *b)
{
    const zip_entry *x = a, *y = b;
    return order(x->name, x->name_len, y->name, y->name_len);
}

static int find_central(central *out, const uint8_t *data, size_t size, const char *path, err *e)
{
    size_t at = size, last = size > END_BYTES + 65535u ? size - END_BYTES - 65535u : 0;
    bool found = false;
    if (size >= END_BYTES)
        for (at = size - END_BYTES;; at--) {
            if (read_le32(data + at) == END_SIGN && read_le16(data + at + 20) == size - at - END_BYTES) {
                found = true;
                break;
            }
            if (at == last)
                break;
        }
    if (!found)
        return ERR(e, ERR_FORMAT, "%s: the zip archive has no end record within its %zu bytes; the file is truncated, "
                   "download it again", path, size);
    const uint8_t *p = data + at;
    out->count = read_le16(p + 10);
    out->bytes = read_le32(p + 12);
    out->offset = read_le32(p + 16);
    if (at >= LOCATOR_BYTES && read_le32(data + at - LOCATOR_BYTES) == LOCATOR_SIGN) {
        uint64_t end64 = read_le64(data + at - LOCATOR_BYTES + 8);
        if (size < END64_BYTES || end64 > size - END64_BYTES || read_le32(data + end64) != END64_SIGN)
            return ERR(e, ERR_FORMAT, "%s: the zip64 end record is not where the archive says (byte %" PRIu64 "); the "
                       "file is damaged", path, end64);
        p = data + end64;
        out->count = read_le64(p + 32);
        out->bytes = read_le64(p + 40);
        out->offset = read_le64(p + 48);
    } else if (out->count == 0xffff || out->bytes == 0xffffffffu || out->offset == 0xffffffffu) {
        return ERR(e, ERR_FORMAT, "%s: the archive needs a zip64 end record and has none; the file is damaged", path);
    }
    if (out->offset > at || out->bytes > at - out->offset)
        return ERR(e, ERR_FORMAT, "%s: the zip directory (%" PRIu64 " bytes at byte %" PRIu64 ") lies outside the "
                   "file of %zu bytes; the file is truncated or damaged", path, out->bytes, out->offset, size);
    if (out->count > out->bytes / CENTRAL_BYTES)
        return ERR(e, ERR_FORMAT, "%s: the zip directory of %" PRIu64 " bytes cannot hold %" PRIu64 " entries; the "
                   "file is damaged", path, out->bytes, out->count);
    return 0;
}

/* The zip64 extra field holds, in this order, those of the values whose 32-bit field is all ones. */
static bool widen(const uint8_t *extra, size_t n, uint64_t *size, uint64_t *packed, uint64_t *offset)
{
    while (n >= 4) {
        uint32_t id = read_le16(extra), len = read_le16(extra + 2);
        if (len > n - 4)
            return false;
        if (id == 1) {
            const uint8_t *p = extra + 4, *end = p + len;
            uint64_t *want[3] = { size, packed, offset };
            for (int i = 0; i < 3; i++)
                if (*want[i] == 0xffffffffu) {
                    if (end - p < 8)
                        return false;
                    *want[i] = read_le64(p);
                    p += 8;
                }
            return true;
        }
        extra += 4 + len;
        n -= 4 + len;
    }
    return *size != 0xffffffffu && *packed != 0xffffffffu && *offset != 0xffffffffu;
}

/* One entry of the directory at `p` (inside, `left` bytes to the directory's end); *used is its length there. */
static int read_entry(zip_entry *out, const uint8_t *p, size_t left, size_t *used, const uint8_t *data, size_t size,
                      const char *path, err *e)
{
    if (left < CENTRAL_BYTES || read_le32(p) != CENTRAL_SIGN)
        return ERR(e, ERR_FORMAT, "%s: the zip directory is damaged: an entry does not begin where it should", path);
    uint32_t flags = read_le16(p + 8), method = read_le16(p + 10);
    uint64_t packed = read_le32(p + 20), bytes = read_le32(p + 24), offset = read_le32(p + 42);
    size_t name_len = read_le16(p + 28), extra_len = read_le16(p + 30), comment_len = read_le16(p + 32);
    if (name_len + extra_len + comment_len > left - CENTRAL_BYTES)
        return ERR(e, ERR_FORMAT, "%s: the zip directory is damaged: an entry runs past its end", path);
    *used = CENTRAL_BYTES + name_len + extra_len + comment_len;
    const char *name = (const char *)p + CENTRAL_BYTES;
    int shown = name_len > 200 ? 200 : (int)name_len;
    if (!widen(p + CENTRAL_BYTES + name_len, extra_len, &bytes, &packed, &offset))
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' has a damaged zip64 field", path, shown, name);
    if (flags & 1u)
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' is encrypted; only plain archives are read", path, shown,
                   name);
    if (method != 0)
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' is compressed (method %u); torch.save stores entries as "
                   "they are and only such archives are read", path, shown, name, method);
    if (packed != bytes)
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' is stored but has two different sizes (%" PRIu64 " and "
                   "%" PRIu64
                   "); the file is damaged", path, shown, name, packed, bytes);
    if (size < LOCAL_BYTES || offset > size - LOCAL_BYTES || read_le32(data + offset) != LOCAL_SIGN)
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' has no local header at byte %" PRIu64 "; the file is "
                   "damaged",
                   path, shown, name, offset);
    const uint8_t *local = data + offset;
    /* the payload's place follows from the local header, whose extra field torch.save pads to align it */
    uint64_t start = offset + LOCAL_BYTES + read_le16(local + 26) + read_le16(local + 28);
    if (start > size || bytes > size - start)
        return ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' (%" PRIu64 " bytes at byte %" PRIu64 ") runs past the end "
                   "of the file of %zu bytes; is the download complete?", path, shown, name, bytes, start, size);
    *out = (zip_entry){ name, name_len, data + start, (size_t)bytes };
    return 0;
}

int zip_dir_read(zip_dir *z, const uint8_t *data, size_t size, const char *path, err *e)
{
    central c = { 0, 0, 0 };
    memset(z, 0, sizeof *z);
    int rc = find_central(&c, data, size, path, e);
    if (rc)
        return rc;
    z->entries = malloc((c.count ? (size_t)c.count : 1) * sizeof *z->entries);
    if (!z->entries)
        return ERR(e, ERR_MEMORY, "%s: memory ran out for the zip directory of %" PRIu64 " entries", path, c.count);
    const uint8_t *p = data + c.offset;
    size_t left = (size_t)c.bytes;
    for (uint64_t i = 0; !rc && i < c.count; i++) {
        size_t used = 0;
        rc = read_entry(&z->entries[z->count], p, left, &used, data, size, path, e);
        if (!rc) {
            z->count++;
            p += used;
            left -= used;
        }
    }
    if (!rc && z->count)
        qsort(z->entries, z->count, sizeof *z->entries, by_name);
    for (size_t i = 1; !rc && i < z->count; i++)
        if (by_name(&z->entries[i - 1], &z->entries[i]) == 0)
            rc = ERR(e, ERR_FORMAT, "%s: the zip entry '%.*s' occurs twice; the file is damaged", path,
                     z->entries[i].name_len > 200 ? 200 : (int)z->entries[i].name_len, z->entries[i].name);
    if (rc)
        zip_dir_free(z);
    return rc;
}

void zip_dir_free(zip_dir *z)
{
    free(z->entries);
    memset(z, 0, sizeof *z);
}

const zip_entry *zip_dir_find(const zip_dir *z, const char *name, size_t name_len)
{
    size_t low = 0, high = z->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int c = order(name, name_len, z->entries[mid].name, z->entries[mid].name_len);
        if (c == 0)
            return &z->entries[mid];
        if (c < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}
