#include "core/dit/text_cache.h"

#include <stdlib.h>

int text_cache_new(text_cache **out, backend *be, int n_layers, int64_t text_len, int64_t dim, dtype type, err *e)
{
    int rc = 0;
    text_cache *c = calloc(1, sizeof *c);
    *out = NULL;
    if (c) {
        c->n_layers = n_layers;
        c->k = calloc((size_t)n_layers, sizeof *c->k);
        c->v = calloc((size_t)n_layers, sizeof *c->v);
    }
    if (!c || !c->k || !c->v)
        rc = ERR(e, ERR_MEMORY, "no memory for a cache of a prompt in %d layers", n_layers);
    for (int i = 0; i < n_layers && !rc; i++)
        if (!(rc = TENSOR_NEW(&c->k[i], be, type, e, text_len, dim)))
            rc = TENSOR_NEW(&c->v[i], be, type, e, text_len, dim);
    if (rc)
        text_cache_free(c);
    else
        *out = c;
    return rc;
}

void text_cache_free(text_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_layers; i++) {
        if (c->k)
            tensor_free(&c->k[i]);
        if (c->v)
            tensor_free(&c->v[i]);
    }
    free(c->k);
    free(c->v);
    free(c);
}

void text_cache_reset(text_cache *c)
{
    c->filled = false;
}
