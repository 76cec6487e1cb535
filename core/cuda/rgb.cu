/* Pictures: f32 frames become bytes on the device and travel to pinned memory on a stream of their own, while the next are computed. */
#include <stdlib.h>

#include "core/cuda/cuda.cuh"

typedef struct cuda_rgb {
    void *device, *host;      /* bytes of the pictures, padded to 16, then one int a frame */
    cudaStream_t copies;
    cudaEvent_t made, there;
} cuda_rgb;

enum { THREADS = 256, EACH = 4 };

__global__ static void to_bytes(uint8_t *rgb, int *nan, const float *x, int64_t n, int64_t frame)
{
    int64_t first = (blockIdx.x * (int64_t)THREADS + threadIdx.x) * EACH;
    for (int64_t i = first; i < first + EACH && i < n; i++) {
        float v = x[i];
        if (isnan(v))
            nan[i / frame] = 1;      /* every writer writes the same */
        v = v < -1 ? -1 : v > 1 ? 1 : v;
        rgb[i] = isnan(v) ? 0 : (uint8_t)__fmul_rn(__fadd_rn(v, 1.0f) * 0.5f, 255.0f);
    }
}

extern "C" void cuda_rgb_free(backend *be, rgb_frames *r)
{
    cuda_rgb *c = (cuda_rgb *)r->impl;
    if (!c)
        return;
    if (c->copies)
        cudaStreamSynchronize(c->copies);
    if (c->device)
        be->ops->free(be, c->device);
    if (c->host)
        cudaFreeHost(c->host);
    if (c->made)
        cudaEventDestroy(c->made);
    if (c->there)
        cudaEventDestroy(c->there);
    if (c->copies)
        cudaStreamDestroy(c->copies);
    free(c);
    r->impl = NULL;
    r->room = 0;
}

static int make_room(backend *be, rgb_frames *r, size_t room, err *e)
{
    int rc = 0;
    cuda_rgb_free(be, r);
    cuda_rgb *c = (cuda_rgb *)calloc(1, sizeof *c);
    r->impl = c;
    if (!c)
        return ERR(e, ERR_MEMORY, "no host memory for pictures");
    CUDA_TRY(cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking), "a stream for pictures");
    CUDA_TRY(cudaEventCreateWithFlags(&c->made, cudaEventDisableTiming), "an event for pictures");
    CUDA_TRY(cudaEventCreateWithFlags(&c->there, cudaEventDisableTiming | cudaEventBlockingSync), "an event for pictures");
    CUDA_TRY(cudaMallocHost(&c->host, room), "pinned memory for pictures");
    if ((rc = be->ops->alloc(be, &c->device, room, e)))
        return rc;
    r->room = room;
    return 0;
}

extern "C" int cuda_rgb_begin(backend *be, rgb_frames *r, const tensor *frames, err *e)
{
    size_t bytes = (size_t)(r->frames * r->height * r->width * 3), at_nan = (bytes + 15) / 16 * 16, all = at_nan + (size_t)r->frames * sizeof(int);
    int rc = all > r->room ? make_room(be, r, all, e) : 0;
    if (rc)
        return rc;
    cuda_rgb *c = (cuda_rgb *)r->impl;
    cudaStream_t stream = impl(be)->stream;
    int *nan = (int *)((char *)c->device + at_nan);
    CUDA_TRY(cudaStreamWaitEvent(stream, c->there, 0), "pictures");      /* the bytes of the begin before have left */
    CUDA_TRY(cudaMemsetAsync(nan, 0, (size_t)r->frames * sizeof(int), stream), "pictures");
    if (bytes)
        to_bytes<<<blocks_for((int64_t)bytes, THREADS * EACH), THREADS, 0, stream>>>((uint8_t *)c->device, nan, (const float *)frames->data, (int64_t)bytes,
                                                                                    r->height * r->width * 3);
    if ((rc = cuda_launched(be, "rgb", e)))
        return rc;
    CUDA_TRY(cudaEventRecord(c->made, stream), "pictures");
    CUDA_TRY(cudaStreamWaitEvent(c->copies, c->made, 0), "pictures");
    CUDA_TRY(cudaMemcpyAsync(c->host, c->device, all, cudaMemcpyDeviceToHost, c->copies), "pictures");
    CUDA_TRY(cudaEventRecord(c->there, c->copies), "pictures");
    r->rgb = (const uint8_t *)c->host;
    r->nan = (const int *)((const char *)c->host + at_nan);
    return 0;
}

extern "C" int cuda_rgb_wait(backend *be, rgb_frames *r, err *e)
{
    CUDA_TRY(cudaEventSynchronize(((cuda_rgb *)r->impl)->there), "pictures");
    return 0;
}
