#include "experiments/capture_queue.h"

#include <pthread.h>
#include <stdlib.h>

enum { STAGINGS = 2 };
#define HOST_BYTES ((size_t)256 << 20)      /* of items on their way; two items are allowed whatever their size */

typedef struct staging {
    tensor memory;
    backend_download download;
} staging;

typedef struct capture_item_more {
    capture_item item;                      /* first: an item is freed through this */
    struct capture_item_more *next;
    backend *be;
    size_t capacity;                        /* bytes of item.values */
    bool pinned;
    backend_download *download;             /* of the staging memory its numbers come from; NULL: they are there */
} item_more;

struct capture_queue {
    capture_store store;
    void *user;
    staging stagings[STAGINGS];
    int next_staging;                       /* the one to hand out next */
    size_t host_bytes;
    int n_items;
    pthread_t thread;
    bool started;
    /* shared with the thread */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    item_more *first, **last;               /* sent, in order */
    item_more *idle;
    bool busy, stop;
    int rc;                                 /* of the first failure */
    err failure;
};

static void *work(void *arg)
{
    capture_queue *q = arg;
    pthread_mutex_lock(&q->lock);
    while (!q->stop) {
        item_more *m = q->first;
        if (!m) {
            pthread_cond_wait(&q->changed, &q->lock);
            continue;
        }
        if (!(q->first = m->next))
            q->last = &q->first;
        q->busy = true;
        bool failed = q->rc != 0;
        pthread_mutex_unlock(&q->lock);
        err e = { 0 };
        int rc = m->download ? backend_download_wait(m->download, &e) : 0;
        if (!rc && !failed)
            rc = q->store(q->user, &m->item.is, m->item.values, &e);
        pthread_mutex_lock(&q->lock);
        if (rc && !q->rc) {
            q->rc = rc;
            q->failure = e;
        }
        m->next = q->idle;
        q->idle = m;
        q->busy = false;
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static void item_free(capture_queue *q, item_more *m)
{
    if (m->pinned)
        backend_host_free(m->be, m->item.values, m->capacity);
    else
        free(m->item.values);
    q->host_bytes -= m->capacity;
    q->n_items--;
    free(m);
}

int capture_queue_new(capture_queue **out, capture_store store, void *user, err *e)
{
    capture_queue *q = *out = calloc(1, sizeof *q);
    if (!q)
        return ERR(e, ERR_MEMORY, "out of memory for a trace");
    q->store = store;
    q->user = user;
    q->last = &q->first;
    if (pthread_mutex_init(&q->lock, NULL)) {
        free(q);
        *out = NULL;
        return ERR(e, ERR_MEMORY, "out of memory for a trace");
    }
    if (pthread_cond_init(&q->changed, NULL)) {
        pthread_mutex_destroy(&q->lock);
        free(q);
        *out = NULL;
        return ERR(e, ERR_MEMORY, "out of memory for a trace");
    }
    return 0;
}

void capture_queue_free(capture_queue *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    if (q->started)
        pthread_join(q->thread, NULL);
    for (int i = 0; i < STAGINGS; i++) {      /* waits for copies into the items */
        backend_download_free(&q->stagings[i].download);
        tensor_free(&q->stagings[i].memory);
    }
    for (item_more *m = q->first, *next; m; m = next) {
        next = m->next;
        item_free(q, m);
    }
    for (item_more *m = q->idle, *next; m; m = next) {
        next = m->next;
        item_free(q, m);
    }
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

static int failed(capture_queue *q, err *e)
{
    if (q->rc && e)
        *e = q->failure;
    return q->rc;
}

/* An idle item that is large enough, without wasting much. */
static item_more *take_idle(capture_queue *q, size_t bytes, backend *be)
{
    for (item_more **at = &q->idle; *at; at = &(*at)->next) {
        item_more *m = *at;
        if (m->capacity >= bytes && m->capacity / 4 <= bytes && m->be == be) {
            *at = m->next;
            return m;
        }
    }
    return NULL;
}

static int item_new(capture_queue *q, backend *be, size_t bytes, item_more **out, err *e)
{
    item_more *m = *out = calloc(1, sizeof *m);
    if (!m)
        return ERR(e, ERR_MEMORY, "out of memory for a trace");
    m->be = be;
    m->capacity = bytes;
    void *p = NULL;
    m->pinned = backend_host_alloc(be, &p, bytes, NULL) == 0;      /* memory that cannot be pinned is slower, nothing else */
    m->item.values = m->pinned ? p : malloc(bytes);
    if (!m->item.values) {
        free(m);
        *out = NULL;
        return ERR(e, ERR_MEMORY, "out of memory for a trace: %zu bytes are needed on their way to the file", bytes);
    }
    q->host_bytes += bytes;
    q->n_items++;
    return 0;
}

int capture_queue_take(capture_queue *q, backend *be, int64_t n, capture_item **out, err *e)
{
    int rc;
    item_more *m = NULL;
    *out = NULL;
    if (n < 0 || (uint64_t)n > SIZE_MAX / 2 / sizeof(float))
        return ERR(e, ERR_INTERNAL, "a piece of a trace of %lld numbers", (long long)n);
    size_t bytes = (size_t)(n > 0 ? n : 1) * sizeof(float);
    pthread_mutex_lock(&q->lock);
    while (!(rc = failed(q, e)) && !(m = take_idle(q, bytes, be))) {
        if (q->n_items < 2 || q->host_bytes + bytes <= HOST_BYTES) {
            rc = item_new(q, be, bytes, &m, e);
            break;
        }
        item_more *small = q->idle;
        if (small) {      /* of another size */
            q->idle = small->next;
            item_free(q, small);
        } else {
            pthread_cond_wait(&q->changed, &q->lock);
        }
    }
    pthread_mutex_unlock(&q->lock);
    if (rc)
        return rc;
    m->next = NULL;
    m->download = NULL;
    m->item.is = (capture_record){ .n = n };
    m->item.more = m;
    *out = &m->item;
    return 0;
}

void capture_queue_drop(capture_queue *q, capture_item *item)
{
    if (!item)
        return;
    item_more *m = item->more;
    if (m->download)
        backend_download_wait(m->download, NULL);
    pthread_mutex_lock(&q->lock);
    m->next = q->idle;
    q->idle = m;
    pthread_mutex_unlock(&q->lock);
}

int capture_queue_send(capture_queue *q, capture_item *item, err *e)
{
    item_more *m = item->more;
    if (!q->started && pthread_create(&q->thread, NULL, work, q)) {
        capture_queue_drop(q, item);
        return ERR(e, ERR_MEMORY, "no thread could be started to write a trace");
    }
    q->started = true;
    pthread_mutex_lock(&q->lock);
    m->next = NULL;
    *q->last = m;
    q->last = &m->next;
    int rc = failed(q, e);
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

int capture_queue_staging(capture_queue *q, backend *be, int64_t n, tensor *out, err *e)
{
    staging *s = &q->stagings[q->next_staging];
    int rc = backend_download_wait(&s->download, e);
    *out = (tensor){ 0 };
    if (!rc && (!s->memory.data || tensor_count(&s->memory) < n)) {      /* the download stays: the thread may be looking at it */
        tensor_free(&s->memory);
        rc = tensor_new(&s->memory, be, DT_F32, 1, &n, e);
    }
    if (rc)
        return rc;
    *out = tensor_rows(&s->memory, 0, n);
    q->next_staging = (q->next_staging + 1) % STAGINGS;
    return 0;
}

int capture_queue_download(capture_queue *q, capture_item *item, int64_t at, const tensor *staged, int64_t first, int64_t n, err *e)
{
    staging *s = &q->stagings[(q->next_staging + STAGINGS - 1) % STAGINGS];
    if (at < 0 || n < 0 || at > item->is.n - n || staged->data != s->memory.data)
        return ERR(e, ERR_INTERNAL, "a download of %lld numbers does not fit a piece of a trace", (long long)n);
    item->more->download = &s->download;
    return backend_download_begin(&s->download, item->values + at, staged, first, n, e);
}

int capture_queue_copy(capture_queue *q, capture_item *item, const tensor *value, err *e)
{
    tensor staged;
    int64_t n = tensor_count(value);
    if (n != item->is.n)
        return ERR(e, ERR_INTERNAL, "a tensor of %lld numbers does not fit a piece of a trace of %lld", (long long)n, (long long)item->is.n);
    if (value->dtype != DT_F32)
        return op_download_f32(item->values, value, e);
    int rc = capture_queue_staging(q, value->be, n, &staged, e);
    rc = rc ? rc : op_copy(&staged, value, e);
    return rc ? rc : capture_queue_download(q, item, 0, &staged, 0, n, e);
}

int capture_queue_drain(capture_queue *q, err *e)
{
    pthread_mutex_lock(&q->lock);
    while (q->first || q->busy)
        pthread_cond_wait(&q->changed, &q->lock);
    int rc = failed(q, e);
    pthread_mutex_unlock(&q->lock);
    return rc;
}

int64_t capture_queue_most(int64_t largest, int64_t all)
{
    int64_t most = (int64_t)HOST_BYTES / 2 > largest ? (int64_t)HOST_BYTES : largest <= INT64_MAX / 2 ? 2 * largest : INT64_MAX;
    return all < most ? all : most;
}
