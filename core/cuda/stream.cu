/* Host memory and the device: pinned memory, uploads through a pinned ring, and copies that run beside the computation. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "core/cuda/cuda.cuh"

extern "C" {
#include "core/base/parallel.h"
}

enum {
    RING = 2,
    PIECE = 32 << 20,           /* bytes of a ring buffer: large enough for full speed, small enough to overlap filling and copying */
    GRAIN = 1 << 20,            /* bytes a thread fills at a time */
};

struct cuda_stream {
    cudaStream_t copies;        /* beside the computation; one saturates the link */
    void *ring[RING];
    cudaEvent_t taken[RING];    /* the copy out of this buffer is done */
    int next;
};

static int need_stream(backend *be, cuda_stream **out, err *e)
{
    cuda_impl *c = impl(be);
    if (!c->copier) {
        if (!(c->copier = (cuda_stream *)calloc(1, sizeof *c->copier)))
            return ERR(e, ERR_MEMORY, "no host memory for a copy stream");
        CUDA_TRY(cudaStreamCreateWithFlags(&c->copier->copies, cudaStreamNonBlocking), "making a copy stream");
    }
    *out = c->copier;
    return 0;
}

void cuda_stream_close(backend *be)
{
    cuda_stream *s = impl(be)->copier;
    if (!s)
        return;
    if (s->copies) {
        cudaStreamSynchronize(s->copies);
        cudaStreamDestroy(s->copies);
    }
    for (int i = 0; i < RING; i++) {
        if (s->taken[i])
            cudaEventDestroy(s->taken[i]);
        if (s->ring[i])
            cudaFreeHost(s->ring[i]);
    }
    free(s);
    impl(be)->copier = NULL;
}

/* ---- uploads of pageable memory: filled by all threads into one buffer while the other is copied ---- */

typedef struct {
    char *to;
    const char *from;
    int64_t n;                  /* elements of this piece */
    dtype source, kept;
} filling;

static void fill(int64_t piece, int thread, void *arg)
{
    const filling *f = (const filling *)arg;
    (void)thread;
    int64_t grain = GRAIN / (int64_t)dtype_size(f->kept), begin = piece * grain, n = f->n - begin < grain ? f->n - begin : grain;
    const char *from = f->from + begin * (int64_t)dtype_size(f->source);
    char *to = f->to + begin * (int64_t)dtype_size(f->kept);
    if (f->source == f->kept) {
        memcpy(to, from, (size_t)n * dtype_size(f->kept));
    } else if (f->kept == DT_F32) {
        dtype_to_f32((float *)to, from, f->source, n);
    } else {
        float wide[1024];       /* one rounding: every source widens to f32 exactly */
        for (int64_t at = 0; at < n; at += 1024) {
            int64_t m = n - at < 1024 ? n - at : 1024;
            dtype_to_f32(wide, from + at * (int64_t)dtype_size(f->source), f->source, m);
            dtype_from_f32(to + at * (int64_t)dtype_size(f->kept), f->kept, wide, m);
        }
    }
}

int cuda_upload_as(backend *be, void *dst, dtype kept, const void *host, dtype source, int64_t n, err *e)
{
    cuda_stream *s;
    int64_t size = (int64_t)dtype_size(kept), most = PIECE / size;
    int rc = need_stream(be, &s, e);
    for (int64_t at = 0; !rc && at < n; at += most) {
        int k = s->next, m_bytes;
        int64_t m = n - at < most ? n - at : most;
        if (!s->ring[k]) {
            if (!s->taken[k])
                CUDA_TRY(cudaEventCreateWithFlags(&s->taken[k], cudaEventDisableTiming), "an event for uploads");
            CUDA_TRY(cudaHostAlloc(&s->ring[k], PIECE, cudaHostAllocDefault), "pinned memory for uploads");
        }
        CUDA_TRY(cudaEventSynchronize(s->taken[k]), "upload");
        filling f = { (char *)s->ring[k], (const char *)host + at * (int64_t)dtype_size(source), m, source, kept };
        m_bytes = (int)(m * size);
        if (m_bytes <= GRAIN)
            fill(0, 0, &f);
        else
            parallel_for((m_bytes + GRAIN - 1) / GRAIN, fill, &f);
        CUDA_TRY(cudaMemcpyAsync((char *)dst + at * size, s->ring[k], (size_t)m_bytes, cudaMemcpyHostToDevice, impl(be)->stream), "upload");
        CUDA_TRY(cudaEventRecord(s->taken[k], impl(be)->stream), "upload");
        s->next = (k + 1) % RING;
    }
    return rc;
}

/* ---- pinned memory ---- */

#define HUGE_PAGE ((size_t)2 << 20)

static void touch(int64_t piece, int thread, void *arg)
{
    (void)thread;
    ((volatile char *)arg)[piece * (int64_t)HUGE_PAGE] = 0;
}

/* Huge pages, touched by all threads and registered: gigabytes are ready several times sooner than from cudaHostAlloc(). */
int cuda_host_alloc(backend *be, void **p, size_t bytes, err *e)
{
    size_t size = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *m = aligned_alloc(HUGE_PAGE, size);
    if (!m)
        return ERR(e, ERR_MEMORY, "host memory ran out: %zu MiB asked for weights that do not stay on the device; swap fewer blocks "
                   "(memory.blocks_to_swap) or raise memory.budget", bytes >> 20);
    madvise(m, size, MADV_HUGEPAGE);        /* a wish; small pages work too */
    parallel_for((int64_t)(size / HUGE_PAGE), touch, m);
    cudaError_t status = cudaHostRegister(m, size, cudaHostRegisterDefault);
    if (status != cudaSuccess) {
        free(m);
        cudaGetLastError();
        return ERR(e, ERR_MEMORY, "%s: %zu MiB of host memory could not be pinned for weights that do not stay on the device (%s); swap fewer blocks "
                   "(memory.blocks_to_swap), raise memory.budget, or raise the limit of locked memory (ulimit -l)", be->device, bytes >> 20,
                   cudaGetErrorString(status));
    }
    *p = m;
    return 0;
}

void cuda_host_free(backend *be, void *p, size_t bytes)
{
    (void)bytes;
    if (impl(be)->copier)
        cudaStreamSynchronize(impl(be)->copier->copies);
    cudaHostUnregister(p);
    free(p);
}

/* ---- slots ---- */

typedef struct {
    cudaEvent_t full, empty;    /* recorded on the copy stream, on the computing stream */
} slot_events;

int cuda_slot_new(backend *be, backend_slot *s, err *e)
{
    cuda_stream *copier;
    int rc = need_stream(be, &copier, e);
    if (rc)
        return rc;
    slot_events *v = (slot_events *)calloc(1, sizeof *v);
    if (!v)
        return ERR(e, ERR_MEMORY, "no host memory for a slot");
    s->impl = v;
    cudaError_t status = cudaEventCreateWithFlags(&v->full, cudaEventDisableTiming);
    if (status == cudaSuccess)
        status = cudaEventCreateWithFlags(&v->empty, cudaEventDisableTiming);
    rc = status == cudaSuccess ? be->ops->alloc(be, &s->data, s->bytes, e) : cuda_fail(be, status, "an event for a slot", e);
    if (!rc && (status = cudaEventRecord(v->empty, impl(be)->stream)) != cudaSuccess)      /* memory exists from here on in the stream's order */
        rc = cuda_fail(be, status, "an event for a slot", e);
    if (rc)
        cuda_slot_free(be, s);
    return rc;
}

void cuda_slot_free(backend *be, backend_slot *s)
{
    slot_events *v = (slot_events *)s->impl;
    if (s->data) {
        cudaStreamWaitEvent(impl(be)->stream, v->full, 0);      /* a fill nobody waited for */
        be->ops->free(be, s->data);
    }
    if (v->full)
        cudaEventDestroy(v->full);
    if (v->empty)
        cudaEventDestroy(v->empty);
    free(v);
    s->data = NULL;
    s->impl = NULL;
}

int cuda_slot_fill(backend *be, backend_slot *s, const void *host, size_t bytes, err *e)
{
    const size_t most = (size_t)64 << 20;       /* small urgent copies may slip between */
    slot_events *v = (slot_events *)s->impl;
    cudaStream_t copies = impl(be)->copier->copies;
    CUDA_TRY(cudaStreamWaitEvent(copies, v->empty, 0), "waiting for a slot");
    for (size_t at = 0; at < bytes; at += most)
        CUDA_TRY(cudaMemcpyAsync((char *)s->data + at, (const char *)host + at, bytes - at < most ? bytes - at : most, cudaMemcpyHostToDevice, copies),
                 "streaming weights");
    CUDA_TRY(cudaEventRecord(v->full, copies), "streaming weights");
    return 0;
}

int cuda_slot_acquire(backend *be, backend_slot *s, err *e)
{
    CUDA_TRY(cudaStreamWaitEvent(impl(be)->stream, ((slot_events *)s->impl)->full, 0), "waiting for weights");
    return 0;
}

int cuda_slot_release(backend *be, backend_slot *s, err *e)
{
    CUDA_TRY(cudaEventRecord(((slot_events *)s->impl)->empty, impl(be)->stream), "releasing a slot");
    return 0;
}

/* ---- the device's memory ---- */

void cuda_trim(backend *be)
{
    cudaMemPool_t pool;
    cudaStreamSynchronize(impl(be)->stream);
    if (cudaDeviceGetDefaultMemPool(&pool, impl(be)->device) == cudaSuccess)
        cudaMemPoolTrimTo(pool, 0);
    cudaGetLastError();
}

bool cuda_memory(backend *be, int64_t *free_bytes, int64_t *total_bytes)
{
    size_t f = 0, t = 0;
    (void)be;
    if (cudaMemGetInfo(&f, &t) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    *free_bytes = (int64_t)f;
    *total_bytes = (int64_t)t;
    return true;
}
