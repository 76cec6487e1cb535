/* Slots and host memory for weights that do not fit: the checks shared by all backends. */
#include "core/backend.h"

int backend_host_alloc(backend *be, void **p, size_t bytes, err *e)
{
    *p = NULL;
    return be->ops->host_alloc(be, p, bytes ? bytes : 1, e);
}

void backend_host_free(backend *be, void *p, size_t bytes)
{
    if (p)
        be->ops->host_free(be, p, bytes ? bytes : 1);
}

int backend_slot_new(backend_slot *s, backend *be, size_t bytes, err *e)
{
    *s = (backend_slot){ .be = be, .bytes = bytes ? bytes : 1 };
    int rc = be->ops->slot_new(be, s, e);
    if (rc)
        *s = (backend_slot){ 0 };
    return rc;
}

void backend_slot_free(backend_slot *s)
{
    if (s->data)
        s->be->ops->slot_free(s->be, s);
    *s = (backend_slot){ 0 };
}

int backend_slot_fill(backend_slot *s, const void *host, size_t bytes, err *e)
{
    if (s->held || bytes > s->bytes)
        return ERR(e, ERR_INTERNAL, "a slot of %zu bytes %s and cannot be filled with %zu", s->bytes, s->held ? "is in use" : "is too small", bytes);
    int rc = s->be->ops->slot_fill(s->be, s, host, bytes, e);
    s->filled = !rc;
    return rc;
}

int backend_slot_acquire(backend_slot *s, err *e)
{
    if (s->held || !s->filled)
        return ERR(e, ERR_INTERNAL, "a slot %s cannot be acquired", s->held ? "in use" : "that holds nothing");
    int rc = s->be->ops->slot_acquire(s->be, s, e);
    s->held = !rc;
    return rc;
}

int backend_slot_release(backend_slot *s, err *e)
{
    if (!s->held)
        return ERR(e, ERR_INTERNAL, "a slot that is not in use cannot be released");
    s->held = false;
    return s->be->ops->slot_release(s->be, s, e);
}

int backend_download_begin(backend_download *d, void *host, const tensor *src, int64_t first, int64_t n, err *e)
{
    size_t size = dtype_size(src->dtype);
    if (first < 0 || n < 0 || first > tensor_count(src) - n || (d->be && d->be != src->be))
        return ERR(e, ERR_INTERNAL, "a download of %lld elements from %lld on does not fit a tensor of %lld", (long long)n, (long long)first,
                   (long long)tensor_count(src));
    d->be = src->be;
    return n ? src->be->ops->download_begin(src->be, d, host, (const char *)src->data + (size_t)first * size, (size_t)n * size, e) : 0;
}

int backend_download_wait(backend_download *d, err *e)
{
    return d->be ? d->be->ops->download_wait(d->be, d, e) : 0;
}

void backend_download_free(backend_download *d)
{
    if (d->be)
        d->be->ops->download_free(d->be, d);
    *d = (backend_download){ 0 };
}

void backend_trim(backend *be)
{
    if (be->ops->trim)
        be->ops->trim(be);
}

bool backend_memory(backend *be, int64_t *free_bytes, int64_t *total_bytes)
{
    *free_bytes = *total_bytes = 0;
    return be->ops->memory && be->ops->memory(be, free_bytes, total_bytes);
}
