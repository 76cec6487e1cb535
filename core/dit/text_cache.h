/* text_cache: keys and values that the blocks make of a prompt, kept from call to call while the prompt stays. They depend on
 * the context alone, so keeping them changes no bit (longlive-vace.md 1.8). */
#ifndef WANSCOPE_TEXT_CACHE_H
#define WANSCOPE_TEXT_CACHE_H

#include <stdbool.h>

#include "core/backend.h"

typedef struct text_cache {
    int n_layers;
    bool filled;           /* by the first call after text_cache_new() or text_cache_reset() */
    tensor *k, *v;         /* n_layers of [text_len, dim] */
} text_cache;

int text_cache_new(text_cache **out, backend *be, int n_layers, int64_t text_len, int64_t dim, dtype type, err *e);
void text_cache_free(text_cache *c);         /* NULL is harmless */
void text_cache_reset(text_cache *c);        /* another prompt comes */

#endif
