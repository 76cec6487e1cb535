/* json_internal: what the JSON reader and writer share. */
#ifndef WANSCOPE_JSON_INTERNAL_H
#define WANSCOPE_JSON_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

/* Length of the UTF-8 sequence of two to four bytes at p, 0 when it is not one (overlong forms, surrogates and
 * code points beyond U+10FFFF are none). */
size_t json_utf8_length(const uint8_t *p, size_t left);

#endif
