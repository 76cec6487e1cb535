#include "analysis/lib/npy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/str.h"

/* Magic, version 1.0, 16-bit header length, a Python dict padded with spaces so that data start at a multiple of 64. */
static int header(str *h, const int64_t *shape, int rank)
{
    str dict = STR_INIT;
    str_add(&dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (");
    for (int i = 0; i < rank; i++)
        str_addf(&dict, rank == 1 ? "%lld," : i ? ", %lld" : "%lld", (long long)shape[i]);
    str_add(&dict, "), }");
    while ((10 + dict.len + 1) % 64)
        str_addc(&dict, ' ');
    str_addc(&dict, '\n');
    str_addn(h, "\x93NUMPY\x01\x00", 8);
    str_addc(h, (char)(dict.len & 0xff));
    str_addc(h, (char)(dict.len >> 8));
    str_addn(h, str_text(&dict), dict.len);
    int bad = dict.failed || h->failed;
    str_release(&dict);
    return bad;
}

int npy_write_f32(const char *path, const float *data, const int64_t *shape, int rank, err *e)
{
    str h = STR_INIT;
    char *part = str_format("%s.part", path);
    FILE *f = NULL;
    int rc = 0;
    size_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= (size_t)shape[i];
    if (!part || header(&h, shape, rank)) {
        rc = ERR(e, ERR_MEMORY, "no memory to write %s", path);
        goto out;
    }
    f = fopen(part, "wb");
    if (!f) {
        rc = ERR(e, ERR_IO, "%s: cannot be created: %s", part, strerror(errno));
        goto out;
    }
    int bad = fwrite(h.data, 1, h.len, f) != h.len || fwrite(data, sizeof *data, n, f) != n;
    int why = errno;
    if (fclose(f) && !bad) {
        bad = 1;
        why = errno;
    }
    if (bad) {
        remove(part);
        rc = ERR(e, ERR_IO, "%s: cannot be written: %s", part, strerror(why));
    } else {
        rc = fs_publish(part, path, e);
        if (rc)
            remove(part);
    }
out:
    str_release(&h);
    free(part);
    return rc;
}
