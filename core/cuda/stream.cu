/* Host memory and the device: pinned memory, uploads through a pinned ring, and copies that run beside the computation. */
#include <stdlib.h>
#include <string.h>

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
