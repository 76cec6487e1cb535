/* sha256: FIPS 180-4, streaming. */
#ifndef WANSCOPE_SHA256_H
#define WANSCOPE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct sha256 {
    uint32_t h[8];
    uint64_t bytes;
    uint8_t block[64];
} sha256;

void sha256_init(sha256 *s);
void sha256_add(sha256 *s, const void *data, size_t n);
void sha256_hex(sha256 *s, char out[65]);                         /* finishes; lower-case hex and NUL */
int sha256_file(const char *path, char out[65], err *e);
void sha256_text(const char *text, char out[65]);

#endif
