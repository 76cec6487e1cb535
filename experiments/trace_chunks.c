#include "experiments/trace_chunks.h"

#if defined(HAVE_HDF5) && TRACE_CHUNKS

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct job {
    struct job *next;                       /* put after this one, or idle */
    hid_t set;
    hsize_t offset[TRACE_CHUNKS_RANK];
    size_t bytes, element;                  /* unfiltered */
    int level, row;
    const char *name;
    uint8_t *data, *spare;
    size_t room;                            /* of each of the two */
    bool done;
    size_t n;
    uint32_t mask;
    int rc;
    err failure;
} job;

struct trace_chunks {
    const char *path;
    const h5_disk *disk;
    int wanted, n_threads;
    bool started;
    pthread_t threads[TRACE_CHUNKS_THREADS];
    size_t bytes;                           /* of all jobs */
    job *idle;
    int n_jobs, max_jobs;
    /* shared with the threads */
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    job *first, **last;                     /* put and not yet in the file, in order */
    job *waiting;                           /* of these the first that no thread has begun */
    bool stop;
};

static void filter(job *j)
{
    j->rc = trace_filter_apply(j->data, j->spare, j->bytes, j->element, j->level, &j->n, &j->mask, &j->failure);
}

static void *run(void *arg)
{
    trace_chunks *q = arg;
    pthread_mutex_lock(&q->lock);
    while (!q->stop) {
        job *j = q->waiting;
        if (!j) {
            pthread_cond_wait(&q->work, &q->lock);
            continue;
        }
        q->waiting = j->next;
        pthread_mutex_unlock(&q->lock);
        filter(j);
        pthread_mutex_lock(&q->lock);
        j->done = true;
        if (j == q->first)
            pthread_cond_signal(&q->finished);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static int usable_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int wanted_threads(int threads)
{
    int n = threads > 0 ? threads : usable_cores();
    return n < TRACE_CHUNKS_THREADS ? n : TRACE_CHUNKS_THREADS;
}

static int jobs_at_most(int threads)
{
    return 2 * threads;                     /* while one is written the next ones go on */
}

size_t trace_chunks_most(size_t largest, size_t all, int threads)
{
    if (!largest)
        return 0;
    size_t one = 2 * trace_filter_room(largest), most = one * (size_t)jobs_at_most(wanted_threads(threads));
    most = most < TRACE_CHUNKS_BYTES ? most : TRACE_CHUNKS_BYTES;
    most = most > one ? most : one;
    size_t whole = all < SIZE_MAX / 4 ? 2 * trace_filter_room(all) : SIZE_MAX;
    return whole < most ? whole : most;
}

int trace_chunks_new(trace_chunks **out, const char *path, const h5_disk *disk, int threads, err *e)
{
    trace_chunks *q = *out = calloc(1, sizeof *q);
    if (!q)
        return ERR(e, ERR_MEMORY, "%s: no memory for a trace writer", path);
    q->path = path;
    q->disk = disk;
    q->last = &q->first;
    q->wanted = wanted_threads(threads);
    q->max_jobs = jobs_at_most(q->wanted);
    pthread_mutex_init(&q->lock, NULL);     /* with default attributes these cannot fail */
    pthread_cond_init(&q->work, NULL);
    pthread_cond_init(&q->finished, NULL);
    return 0;
}

static void job_free(trace_chunks *q, job *j)
{
    q->bytes -= 2 * j->room;
    q->n_jobs--;
    free(j->data);
    free(j->spare);
    free(j);
}

static void free_list(trace_chunks *q, job *j)
{
    for (job *next; j; j = next) {
        next = j->next;
        job_free(q, j);
    }
}

void trace_chunks_free(trace_chunks *q)
{
    if (!q)
        return;
    pthread_mutex_lock(&q->lock);
    q->stop = true;
    pthread_cond_broadcast(&q->work);
    pthread_mutex_unlock(&q->lock);
    for (int i = 0; i < q->n_threads; i++)
        pthread_join(q->threads[i], NULL);
    free_list(q, q->first);
    free_list(q, q->idle);
    pthread_cond_destroy(&q->finished);
    pthread_cond_destroy(&q->work);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

/* Writes the oldest chunk. Without `wait` only if it is ready; *none: there was nothing to write. */
static int write_first(trace_chunks *q, bool wait, bool *none, err *e)
{
    pthread_mutex_lock(&q->lock);
    job *j = q->first;
    while (j && !j->done && wait)
        pthread_cond_wait(&q->finished, &q->lock);
    *none = !j || !j->done;
    if (!*none && !(q->first = j->next))
        q->last = &q->first;
    pthread_mutex_unlock(&q->lock);
    if (*none)
        return 0;
    int rc = j->rc;
    if (rc)
        ERR(e, rc, "%s: row %d of %s: %s", q->path, j->row, j->name, j->failure.text);
    else if (H5Dwrite_chunk(j->set, H5P_DEFAULT, j->mask, j->offset, j->n, j->data) < 0 || q->disk->error)
        rc = h5_fail(e, q->disk, q->path, "row %d of %s cannot be written", j->row, j->name);
    j->next = q->idle;
    q->idle = j;
    return rc;
}

int trace_chunks_drain(trace_chunks *q, err *e)
{
    int rc = 0;
    for (bool none = false; !rc && !none;)
        rc = write_first(q, true, &none, e);
    return rc;
}

static int job_new(trace_chunks *q, job **out, size_t room, err *e)
{
    job *j = *out = calloc(1, sizeof *j);
    if (j) {
        j->data = malloc(room);
        j->spare = malloc(room);
    }
    if (!j || !j->data || !j->spare) {
        if (j) {
            free(j->data);
            free(j->spare);
        }
        free(j);
        *out = NULL;
        return ERR(e, ERR_MEMORY, "%s: out of memory for a chunk of %zu bytes on its way to the file", q->path, room);
    }
    j->room = room;
    q->bytes += 2 * room;
    q->n_jobs++;
    return 0;
}

static job *take_idle(trace_chunks *q, size_t room)
{
    for (job **at = &q->idle; *at; at = &(*at)->next)
        if ((*at)->room >= room) {
            job *j = *at;
            *at = j->next;
            return j;
        }
    return NULL;
}

static int take(trace_chunks *q, job **out, size_t bytes, err *e)
{
    int rc = 0;
    size_t room = trace_filter_room(bytes);
    bool none = false;
    *out = NULL;
    while (!rc && !none)                    /* what is ready goes into the file now */
        rc = write_first(q, false, &none, e);
    while (!rc && !*out && !(*out = take_idle(q, room))) {
        if (!q->n_jobs || (q->n_jobs < q->max_jobs && q->bytes + 2 * room <= TRACE_CHUNKS_BYTES)) {
            rc = job_new(q, out, room, e);
        } else if (q->idle) {               /* of smaller chunks */
            job *small = q->idle;
            q->idle = small->next;
            job_free(q, small);
        } else {
            rc = write_first(q, true, &none, e);
        }
    }
    return rc;
}

static void put(trace_chunks *q, job *j)
{
    if (!q->started) {
        q->started = true;
        while (q->n_threads < q->wanted && !pthread_create(&q->threads[q->n_threads], NULL, run, q))
            q->n_threads++;
    }
    j->next = NULL;
    j->done = !q->n_threads;                /* nobody else: this thread does it */
    if (j->done)
        filter(j);
    pthread_mutex_lock(&q->lock);
    *q->last = j;
    q->last = &j->next;
    if (!j->done && !q->waiting)
        q->waiting = j;
    pthread_cond_signal(&q->work);
    pthread_mutex_unlock(&q->lock);
}

/* Copies the elements [first, first + n) of values[count] to the beginning of a chunk. */
static void gather(uint8_t *to, const trace_chunk_layout *l, const hsize_t *count, const hsize_t *first, const hsize_t *n, const uint8_t *values)
{
    size_t run = l->element;
    int axes = l->rank;                     /* the axes behind these are copied at once */
    while (axes > 0) {
        axes--;
        run *= n[axes];
        if (n[axes] != count[axes] || n[axes] != l->chunk[axes])
            break;
    }
    hsize_t at[TRACE_CHUNKS_RANK] = { 0 };
    for (;;) {
        size_t from = 0, into = 0;
        for (int i = 0; i < l->rank; i++) {
            from = from * count[i] + first[i] + at[i];
            into = into * l->chunk[i] + at[i];
        }
        memcpy(to + into * l->element, values + from * l->element, run);
        int i = axes - 1;
        while (i >= 0 && ++at[i] == n[i])
            at[i--] = 0;
        if (i < 0)
            return;
    }
}

int trace_chunks_write(trace_chunks *q, const trace_chunk_layout *l, int row, const hsize_t *start, const hsize_t *count, const void *values,
                       err *e)
{
    size_t bytes = l->element;
    hsize_t first[TRACE_CHUNKS_RANK] = { 0 }, n[TRACE_CHUNKS_RANK];      /* of the chunk within what is written */
    for (int i = 0; i < l->rank; i++)
        bytes *= l->chunk[i];
    for (;;) {
        job *j;
        bool whole = true;
        int rc = take(q, &j, bytes, e);
        if (rc)
            return rc;
        for (int i = 0; i < l->rank; i++) {
            n[i] = count[i] - first[i] < l->chunk[i] ? count[i] - first[i] : l->chunk[i];
            whole = whole && n[i] == l->chunk[i];
            j->offset[i] = start[i] + first[i];
        }
        for (size_t i = 0; !whole && i < bytes; i += l->element)
            memcpy(j->data + i, l->fill, l->element);
        gather(j->data, l, count, first, n, values);
        j->set = l->set;
        j->bytes = bytes;
        j->element = l->element;
        j->level = l->level;
        j->name = l->name;
        j->row = row;
        put(q, j);
        int i = l->rank - 1;
        while (i >= 0 && (first[i] += l->chunk[i]) >= count[i])
            first[i--] = 0;
        if (i < 0)
            return 0;
    }
}

#else

typedef int trace_chunks_is_empty_without_direct_writing;

#endif
