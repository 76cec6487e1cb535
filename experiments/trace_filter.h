/* trace_filter: what HDF5's filters shuffle, deflate and fletcher32 make of a chunk, without HDF5, so that several threads can do
 * it at once. The bytes are those that the library's own filters write when both use the same zlib; with another zlib they
 * unpack to the same. The formats: "HDF5 File Format Specification" 3.0, IV.A.2.l (filter pipeline) and RFC 1950. */
#ifndef WANSCOPE_TRACE_FILTER_H
#define WANSCOPE_TRACE_FILTER_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#if defined(HAVE_ZLIB) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__      /* chunks are little-endian in the file */

/* Bit i of a filter mask: filter i of shuffle, deflate, fletcher32 was left out. */
#define TRACE_FILTER_NO_DEFLATE 2u

/* Room that both buffers of trace_filter_apply() need for a chunk of n bytes. */
size_t trace_filter_room(size_t n);

/* `chunk` has n bytes, a multiple of `element` (2 or 4), and room behind them; `spare` is of the same size and comes out undefined.
 * The result replaces the chunk: *n_out bytes. level 0: the checksum only. *mask: the filters left out. ERR_MEMORY. */
int trace_filter_apply(uint8_t *chunk, uint8_t *spare, size_t n, size_t element, int level, size_t *n_out, uint32_t *mask, err *e);

uint32_t trace_filter_fletcher32(const uint8_t *p, size_t n);

#endif

#endif
