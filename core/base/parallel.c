#include "core/base/parallel.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

/* One pool for the process. Workers sleep on a condition variable; the pieces of a loop are handed out by an atomic
 * counter, which changes who computes a piece but never what is computed. */

enum { MAX_THREADS = 256 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    pthread_t threads[MAX_THREADS];
    int n_threads;          /* 0 until the first use */
    int wanted;
    int running;
    unsigned long epoch;
    bool quit;
    void (*fn)(int64_t, int, void *);
    void *arg;
    int64_t pieces;
    atomic_llong next;
} pool = { .lock = PTHREAD_MUTEX_INITIALIZER, .start = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };

static int usable_cores(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}

static void work(int thread)
{
    for (;;) {
        long long i = atomic_fetch_add(&pool.next, 1);
        if (i >= pool.pieces)
            return;
        pool.fn(i, thread, pool.arg);
    }
}

static void *worker(void *arg)
{
    int thread = (int)(intptr_t)arg;
    unsigned long seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.quit && pool.epoch == seen)
            pthread_cond_wait(&pool.start, &pool.lock);
        if (pool.quit)
            break;
        seen = pool.epoch;
        pthread_mutex_unlock(&pool.lock);
        work(thread);
        pthread_mutex_lock(&pool.lock);
        if (--pool.running == 0)
            pthread_cond_signal(&pool.done);
    }
    pthread_mutex_unlock(&pool.lock);
    return NULL;
}

static void pool_start(void)
{
    int want = pool.wanted > 0 ? pool.wanted : usable_cores();
    pool.quit = false;
    pool.n_threads = 1;
    pool.epoch = 0;
    for (int i = 1; i < want; i++) {
        if (pthread_create(&pool.threads[i], NULL, worker, (void *)(intptr_t)i) != 0)
            break;      /* fewer threads: slower, same numbers */
        pool.n_threads++;
    }
}

void parallel_set_threads(int n)
{
    parallel_shutdown();
    pool.wanted = n < 0 ? 0 : n > MAX_THREADS ? MAX_THREADS : n;
}

int parallel_threads(void)
{
    if (!pool.n_threads)
        pool_start();
    return pool.n_threads;
}

void parallel_for(int64_t pieces, void (*fn)(int64_t, int, void *), void *arg)
{
    if (pieces <= 0)
        return;
    if (parallel_threads() == 1 || pieces == 1) {
        for (int64_t i = 0; i < pieces; i++)
            fn(i, 0, arg);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    pool.fn = fn;
    pool.arg = arg;
    pool.pieces = pieces;
    atomic_store(&pool.next, 0);
    pool.running = pool.n_threads - 1;
    pool.epoch++;
    pthread_cond_broadcast(&pool.start);
    pthread_mutex_unlock(&pool.lock);
    work(0);
    pthread_mutex_lock(&pool.lock);
    while (pool.running > 0)
        pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
}

void parallel_shutdown(void)
{
    if (!pool.n_threads)
        return;
    pthread_mutex_lock(&pool.lock);
    pool.quit = true;
    pthread_cond_broadcast(&pool.start);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 1; i < pool.n_threads; i++)
        pthread_join(pool.threads[i], NULL);
    pool.n_threads = 0;
}
