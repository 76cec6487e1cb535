#include "core/attention8.h"

#include <stddef.h>
#include <string.h>

typedef struct { char *base; int64_t at; } cursor;

static void *take(cursor *c, int64_t bytes)
{
    char *p = c->base ? c->base + c->at : NULL;
    c->at += (bytes + 255) / 256 * 256;
    return p;
}

static int64_t lay_out(attn8 *t, void *base, int64_t n_q, int64_t n_k, int heads)
{
    int64_t width = (int64_t)heads * ATTN8_HEAD, f = (int64_t)sizeof(float);
    cursor c = { base, 0 };
    memset(t, 0, sizeof *t);
    t->n_q = n_q;
    t->n_k = n_k;
    t->heads = heads;
    t->blocks = (n_k + ATTN8_BLOCK - 1) / ATTN8_BLOCK;
    t->padded = t->blocks * ATTN8_BLOCK;
    t->chunks = (n_k + ATTN8_CHUNK - 1) / ATTN8_CHUNK;
    t->q = take(&c, n_q * width);
    t->k = take(&c, n_k * width);
    t->v = take(&c, t->padded * width);
    t->q_scale = take(&c, n_q * heads * f);
    t->k_scale = take(&c, t->blocks * 4 * heads * f);
    t->v_scale = take(&c, width * f);
    t->k_mean = take(&c, width * f);
    t->part = take(&c, t->chunks * 2 * width * f);
    return c.at;
}

void attn8_place(attn8 *out, void *base, int64_t n_q, int64_t n_k, int heads)
{
    lay_out(out, base, n_q, n_k, heads);
}

int64_t attn8_bytes(int64_t n_q, int64_t n_k, int heads, int head_dim)
{
    attn8 t;
    return head_dim == ATTN8_HEAD ? lay_out(&t, NULL, n_q, n_k, heads) : 0;
}
