/* Downloads beside the computation: a second stream copies what the first has finished, and an event says when it is there. */
#include <stdlib.h>

#include "core/cuda/cuda.cuh"

typedef struct {
    cudaEvent_t ready, done;    /* recorded on the computing stream, on the stream of downloads */
} download_events;

int cuda_download_begin(backend *be, backend_download *d, void *host, const void *src, size_t bytes, err *e)
{
    cuda_impl *c = impl(be);
    download_events *v = (download_events *)d->impl;
    if (!c->downloads)
        CUDA_TRY(cudaStreamCreateWithFlags(&c->downloads, cudaStreamNonBlocking), "making a stream for downloads");
    if (!v) {
        if (!(v = (download_events *)calloc(1, sizeof *v)))
            return ERR(e, ERR_MEMORY, "no host memory for a download");
        d->impl = v;
    }
    if (!v->ready)
        CUDA_TRY(cudaEventCreateWithFlags(&v->ready, cudaEventDisableTiming), "an event for a download");
    if (!v->done)
        CUDA_TRY(cudaEventCreateWithFlags(&v->done, cudaEventDisableTiming), "an event for a download");
    CUDA_TRY(cudaEventRecord(v->ready, c->stream), "download");
    CUDA_TRY(cudaStreamWaitEvent(c->downloads, v->ready, 0), "download");
    CUDA_TRY(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, c->downloads), "download");
    CUDA_TRY(cudaEventRecord(v->done, c->downloads), "download");
    return 0;
}

/* May be another thread than the one that began it. */
int cuda_download_wait(backend *be, backend_download *d, err *e)
{
    download_events *v = (download_events *)d->impl;
    if (!v || !v->done)
        return 0;
    CUDA_TRY(cudaSetDevice(impl(be)->device), "download");
    CUDA_TRY(cudaEventSynchronize(v->done), "download");
    return 0;
}

void cuda_download_free(backend *be, backend_download *d)
{
    download_events *v = (download_events *)d->impl;
    if (!v)
        return;
    cuda_download_wait(be, d, NULL);
    if (v->ready)
        cudaEventDestroy(v->ready);
    if (v->done)
        cudaEventDestroy(v->done);
    free(v);
    d->impl = NULL;
}

void cuda_downloads_close(backend *be)
{
    cuda_impl *c = impl(be);
    if (!c->downloads)
        return;
    cudaStreamSynchronize(c->downloads);
    cudaStreamDestroy(c->downloads);
    c->downloads = NULL;
}
