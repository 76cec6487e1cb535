/* trace_h5: the few things that writing and comparing traces share. Everything here needs HDF5. */
#ifndef WANSCOPE_TRACE_H5_H
#define WANSCOPE_TRACE_H5_H

#ifdef HAVE_HDF5

#include <hdf5.h>

#include "core/base/err.h"

/* HDF5 prints its errors unless told not to. Call before the first other call of a file. */
void h5_quiet(void);

/* HDF5 up to at least 1.10 does not survive a failed write: handles stay open and the program crashes when it ends.
 * With this file driver HDF5 never sees one. The first failure is noted in `error`, what comes later is dropped, and
 * the library closes the file in peace; whoever writes must look at `error` after each call that may touch the disk. */
typedef struct h5_disk {
    int error;      /* errno of the first failure, 0 while all is well */
} h5_disk;

/* Makes files created with the access list `access` go through the driver. `disk` must outlive the file. */
herr_t h5_disk_use(hid_t access, h5_disk *disk);

/* Records "path: what: reason". The reason is that of `disk` (may be NULL) if it noted one, else HDF5's. */
int h5_fail(err *e, const h5_disk *disk, const char *path, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* IEEE half precision, little-endian; h5py reads it as float16. H5Tclose() it; negative on failure. */
hid_t h5_f16_type(void);
/* Variable-length UTF-8 string. H5Tclose() it. */
hid_t h5_text_type(void);

#endif

#endif
