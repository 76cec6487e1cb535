/* trace_chunks: writes HDF5 datasets chunk by chunk, filtered by several threads (trace_filter.h).
 *
 * The caller's thread alone calls HDF5, and in the order of its own calls: the same calls give the same file whatever the number of
 * threads. A write returns before its chunks are in the file; what goes wrong then is what a later write or the next
 * trace_chunks_drain() says. Drain before any other call that changes the file.
 *
 * Not for a dataset that is a single chunk: there HDF5 up to 1.10.8 and 1.12.1 takes a mask of filters for set that is not
 * (HDFGroup/hdf5 pull request 1261).
 *
 * Needs zlib and H5Dwrite_chunk() (HDF5 1.10.3 and later): TRACE_CHUNKS says whether this build has them. */
#ifndef WANSCOPE_TRACE_CHUNKS_H
#define WANSCOPE_TRACE_CHUNKS_H

#ifdef HAVE_HDF5

#include <hdf5.h>

#include "experiments/trace_filter.h"
#include "experiments/trace_h5.h"

#if H5_VERSION_GE(1, 10, 3) && defined(TRACE_FILTER_NO_DEFLATE)
#define TRACE_CHUNKS 1
#else
#define TRACE_CHUNKS 0
#endif

#if TRACE_CHUNKS

enum { TRACE_CHUNKS_RANK = 7, TRACE_CHUNKS_THREADS = 8 };
#define TRACE_CHUNKS_BYTES ((size_t)512 << 20)      /* host memory at most, or one chunk's where that is more */

typedef struct trace_chunk_layout {
    hid_t set;
    int rank;
    hsize_t chunk[TRACE_CHUNKS_RANK];
    size_t element;                         /* bytes of an element: 2 or 4 */
    uint8_t fill[4];                        /* an element of what chunks have beyond the end of the dataset */
    int level;                              /* the dataset's filters: 0 fletcher32; 1..9 shuffle, deflate, fletcher32 */
    const char *name;                       /* for sentences; a literal */
} trace_chunk_layout;

typedef struct trace_chunks trace_chunks;

/* Threads start with the first chunk: as many as the process has cores, at most TRACE_CHUNKS_THREADS; threads > 0 says how many. `path`
 * and `disk` are borrowed until trace_chunks_free(). */
int trace_chunks_new(trace_chunks **out, const char *path, const h5_disk *disk, int threads, err *e);
/* The elements [start, start + count) of a dataset: whole chunks, save that the dataset may end within them. `row` is for sentences.
 * Waits while all memory is in use. */
int trace_chunks_write(trace_chunks *q, const trace_chunk_layout *l, int row, const hsize_t *start, const hsize_t *count, const void *values,
                       err *e);
/* Brings what was written into the file. */
int trace_chunks_drain(trace_chunks *q, err *e);
/* Host memory taken at most when the largest chunk has `largest` bytes and all that are written between two drains `all`; `threads` as above. */
size_t trace_chunks_most(size_t largest, size_t all, int threads);
/* Forgets what was not drained. NULL is harmless. */
void trace_chunks_free(trace_chunks *q);

#endif

#endif

#endif
