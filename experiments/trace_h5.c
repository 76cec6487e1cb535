#include "experiments/trace_h5.h"

#ifdef HAVE_HDF5

#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/str.h"

void h5_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* ---- the file driver ---- */

typedef struct disk_file {
    H5FD_t head;               /* the library's part, must come first */
    int fd;
    haddr_t eoa, eof;          /* end of the space given out; end of what was written, or would have been */
    h5_disk *disk;
} disk_file;

static void note(disk_file *f, int number)
{
    if (!f->disk->error)
        f->disk->error = number ? number : EIO;
}

static H5FD_t *disk_open(const char *name, unsigned flags, hid_t access, haddr_t max)
{
    h5_disk *const *info = H5Pget_driver_info(access);
    (void)max;
    if (!info || !(flags & H5F_ACC_CREAT) || !(flags & H5F_ACC_TRUNC))
        return NULL;
    disk_file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->disk = *info;
    f->fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        note(f, errno);
        free(f);
        return NULL;
    }
    return &f->head;
}

static herr_t disk_close(H5FD_t *file)
{
    disk_file *f = (disk_file *)file;
    if (close(f->fd))
        note(f, errno);
    free(f);
    return 0;
}

static herr_t disk_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
             H5FD_FEAT_AGGREGATE_SMALLDATA | H5FD_FEAT_DEFAULT_VFD_COMPATIBLE | H5FD_FEAT_SUPPORTS_SWMR_IO;
    return 0;
}

static haddr_t disk_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const disk_file *)file)->eoa;
}

static herr_t disk_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr)
{
    (void)type;
    ((disk_file *)file)->eoa = addr;
    return 0;
}

static haddr_t disk_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const disk_file *)file)->eof;
}

/* What lies behind the end reads as zeros, as the library expects. */
static herr_t disk_read(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t addr, size_t n, void *buffer)
{
    disk_file *f = (disk_file *)file;
    char *p = buffer;
    (void)type;
    (void)transfer;
    while (n) {
        ssize_t got = pread(f->fd, p, n, (off_t)addr);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            if (got < 0)
                note(f, errno);
            memset(p, 0, n);
            break;
        }
        p += got;
        addr += (haddr_t)got;
        n -= (size_t)got;
    }
    return 0;
}

static herr_t disk_write(H5FD_t *file, H5FD_mem_t type, hid_t transfer, haddr_t addr, size_t n, const void *buffer)
{
    disk_file *f = (disk_file *)file;
    const char *p = buffer;
    (void)type;
    (void)transfer;
    if (addr + n > f->eof)
        f->eof = addr + n;
    while (n && !f->disk->error) {
        ssize_t done = pwrite(f->fd, p, n, (off_t)addr);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            note(f, done < 0 ? errno : ENOSPC);
            break;
        }
        p += done;
        addr += (haddr_t)done;
        n -= (size_t)done;
    }
    return 0;
}

static herr_t disk_truncate(H5FD_t *file, hid_t transfer, hbool_t closing)
{
    disk_file *f = (disk_file *)file;
    (void)transfer;
    (void)closing;
    if (f->eoa != f->eof && !f->disk->error && ftruncate(f->fd, (off_t)f->eoa))
        note(f, errno);
    f->eof = f->eoa;
    return 0;
}

/* Nobody else writes a ".part" (batches are locked), so nothing is locked; but only a driver that could makes the library mark the
 * file as open for writing, which SWMR readers look for. */
static herr_t disk_lock(H5FD_t *file, hbool_t exclusive)
{
    (void)file;
    (void)exclusive;
    return 0;
}

static herr_t disk_unlock(H5FD_t *file)
{
    (void)file;
    return 0;
}

herr_t h5_disk_use(hid_t access, h5_disk *disk)
{
    static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 14, 0)
        .version = H5FD_CLASS_VERSION,
        .value = (H5FD_class_value_t)487,      /* of the range left to applications that register with nobody */
#endif
        .name = "wanscope",
        .maxaddr = ((haddr_t)1 << 62) - 1,
        .fc_degree = H5F_CLOSE_WEAK,
        .fapl_size = sizeof(h5_disk *),
        .open = disk_open,
        .close = disk_close,
        .query = disk_query,
        .get_eoa = disk_get_eoa,
        .set_eoa = disk_set_eoa,
        .get_eof = disk_get_eof,
        .read = disk_read,
        .write = disk_write,
        .truncate = disk_truncate,
        .lock = disk_lock,
        .unlock = disk_unlock,
        .fl_map = H5FD_FLMAP_DICHOTOMY,
    };
    /* Stays registered until the library ends: closing the last file of a driver that was unregistered reads freed
     * memory. */
    static hid_t id = -1;
    if (id < 0 || H5Iget_type(id) != H5I_VFL)
        id = H5FDregister(&driver);
    return id < 0 ? -1 : H5Pset_driver(access, id, &disk);
}

/* ---- errors ---- */

typedef struct reason {
    char text[300];
    bool from_system;
} reason;

/* The first entry is the most specific one, but the system's own message, where there is one, says more. */
static herr_t note_reason(unsigned n, const H5E_error2_t *error, void *arg)
{
    static const char mark[] = "error message = '";
    reason *r = arg;
    const char *desc = error->desc ? error->desc : "", *at = strstr(desc, mark);
    if (at && !r->from_system) {
        at += sizeof mark - 1;
        const char *end = strchr(at, '\'');
        snprintf(r->text, sizeof r->text, "%.*s", (int)(end ? end - at : (long)strlen(at)), at);
        r->from_system = true;
    } else if (!n && desc[0])
        snprintf(r->text, sizeof r->text, "%s", desc);
    return 0;
}

int h5_fail(err *e, const h5_disk *disk, const char *path, const char *fmt, ...)
{
    char what[600];
    reason r = { "HDF5 gives no reason", false };
    int number = disk ? disk->error : 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    if (number)
        snprintf(r.text, sizeof r.text, "%s", strerror(number));
    else
        H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_reason, &r);
    bool no_room = number == ENOSPC || number == EFBIG || number == EDQUOT;
    return ERR(e, ERR_IO, "%s: %s: %s%s", path, what, r.text, no_room ? "; free some space and run again" : "");
}

/* ---- types ---- */

hid_t h5_f16_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t < 0 || H5Tset_fields(t, 15, 10, 5, 0, 10) < 0 || H5Tset_size(t, 2) < 0 || H5Tset_ebias(t, 15) < 0) {
        if (t >= 0)
            H5Tclose(t);
        return -1;
    }
    return t;
}

hid_t h5_text_type(void)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    if (t < 0 || H5Tset_size(t, H5T_VARIABLE) < 0 || H5Tset_cset(t, H5T_CSET_UTF8) < 0) {
        if (t >= 0)
            H5Tclose(t);
        return -1;
    }
    return t;
}

#else

typedef int trace_h5_is_empty_without_hdf5;

#endif
