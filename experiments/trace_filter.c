#include "experiments/trace_filter.h"

#if defined(HAVE_ZLIB) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#include <math.h>
#include <string.h>
#include <zlib.h>

enum { CHECKSUM = 4 };

/* The room HDF5 gives zlib. A chunk that does not fit is stored without this filter, so the number decides about bytes. */
static size_t deflate_room(size_t n)
{
    return (size_t)ceil((double)n * 1.001) + 12;
}

size_t trace_filter_room(size_t n)
{
    return deflate_room(n) + CHECKSUM;
}

/* First the lowest byte of every element, then the next one of every element, ... */
static void shuffle(uint8_t *out, const uint8_t *in, size_t n, size_t element)
{
    size_t count = n / element;
    uint8_t *a = out, *b = out + count, *c = out + 2 * count, *d = out + 3 * count;
    if (element == 4)
        for (size_t i = 0; i < count; i++) {
            a[i] = in[4 * i];
            b[i] = in[4 * i + 1];
            c[i] = in[4 * i + 2];
            d[i] = in[4 * i + 3];
        }
    else
        for (size_t i = 0; i < count; i++) {
            a[i] = in[2 * i];
            b[i] = in[2 * i + 1];
        }
}

/* Ones' complement sums of 16 bits: a sum that is not 0 never becomes 0. */
static uint32_t fold(uint64_t sum)
{
    return sum ? (uint32_t)((sum - 1) % 65535) + 1 : 0;
}

uint32_t trace_filter_fletcher32(const uint8_t *p, size_t n)
{
    enum { WORDS = 65536 };      /* between two folds: the second sum stays below 2^16 * 2^33 */
    uint64_t first = 0, second = 0;
    size_t words = n / 2;
    while (words) {
        size_t here = words < WORDS ? words : WORDS;
        words -= here;
        for (; here; here--, p += 2) {
            first += (uint64_t)p[0] << 8 | p[1];
            second += first;
        }
        first = fold(first);
        second = fold(second);
    }
    if (n % 2) {
        first = fold(first + ((uint64_t)p[0] << 8));
        second = fold(second + first);
    }
    return (uint32_t)second << 16 | (uint32_t)first;
}

int trace_filter_apply(uint8_t *chunk, uint8_t *spare, size_t n, size_t element, int level, size_t *n_out, uint32_t *mask, err *e)
{
    *mask = 0;
    if (level) {
        uLongf packed = deflate_room(n);
        shuffle(spare, chunk, n, element);
        int z = compress2(chunk, &packed, spare, n, level);
        if (z == Z_OK) {
            n = packed;
        } else if (z == Z_BUF_ERROR) {
            memcpy(chunk, spare, n);
            *mask = TRACE_FILTER_NO_DEFLATE;
        } else {
            return ERR(e, ERR_MEMORY, "out of memory for compressing a chunk of %zu bytes", n);
        }
    }
    uint32_t sum = trace_filter_fletcher32(chunk, n);
    for (int i = 0; i < CHECKSUM; i++)
        chunk[n++] = (uint8_t)(sum >> 8 * i);
    *n_out = n;
    return 0;
}

#else

typedef int trace_filter_is_empty_without_zlib;

#endif
