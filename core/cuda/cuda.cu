/* Device, memory, weights and the op table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cuda/cuda.cuh"

int cuda_fail(backend *be, cudaError_t status, const char *op, err *e)
{
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    if (status == cudaErrorMemoryAllocation) {
        cudaMemGetInfo(&free_bytes, &total);
        return ERR(e, ERR_MEMORY, "%s: the memory of %s ran out during %s: %lld MiB in use by this program, %zu of %zu MiB free; use fewer frames, a "
                   "smaller size or the CPU", be->device, be->device, op, (long long)(be->bytes_now >> 20), free_bytes >> 20, total >> 20);
    }
    return ERR(e, ERR_DEVICE, "%s: %s failed: %s (%s)", be->device, op, cudaGetErrorString(status), cudaGetErrorName(status));
}

int cuda_launched(backend *be, const char *op, err *e)
{
    static int wait = -1;
    if (wait < 0) {
        const char *v = getenv("WANSCOPE_CUDA_SYNC");
        wait = v && *v && *v != '0';
    }
    cudaError_t status = cudaGetLastError();
    if (status == cudaSuccess && wait)
        status = cudaStreamSynchronize(impl(be)->stream);
    return status == cudaSuccess ? 0 : cuda_fail(be, status, op, e);
}

int cuda_need_work(backend *be, size_t bytes, err *e)
{
    cuda_impl *c = impl(be);
    if (bytes <= c->work_bytes)
        return 0;
    if (c->work) {
        cudaFreeAsync(c->work, c->stream);
        be->bytes_now -= (int64_t)c->work_bytes;
    }
    c->work = NULL;
    c->work_bytes = 0;
    CUDA_TRY(cudaMallocAsync(&c->work, bytes, c->stream), "scratch memory");
    c->work_bytes = bytes;
    be->bytes_now += (int64_t)bytes;
    if (be->bytes_now > be->bytes_peak)
        be->bytes_peak = be->bytes_now;
    return 0;
}

/* Sizes of the blocks handed out, so that free() can keep the account. */

typedef struct block_size {
    void *p;
    size_t bytes;
    struct block_size *next;
} block_size;

static block_size *blocks;      /* of this process; runs go one after another */

static int alloc_(backend *be, void **p, size_t bytes, err *e)
{
    block_size *b = (block_size *)malloc(sizeof *b);
    *p = NULL;
    if (!b)
        return ERR(e, ERR_MEMORY, "no host memory to note a device block");
    cudaError_t status = cudaMallocAsync(p, bytes, impl(be)->stream);
    if (status != cudaSuccess) {
        free(b);
        *p = NULL;
        char what[64];
        snprintf(what, sizeof what, "an allocation of %zu MiB", bytes >> 20);
        return cuda_fail(be, status, what, e);
    }
    b->p = *p;
    b->bytes = bytes;
    b->next = blocks;
    blocks = b;
    be->bytes_now += (int64_t)bytes;
    if (be->bytes_now > be->bytes_peak)
        be->bytes_peak = be->bytes_now;
    return 0;
}

static void free_(backend *be, void *p)
{
    for (block_size **at = &blocks; *at; at = &(*at)->next)
        if ((*at)->p == p) {
            block_size *b = *at;
            *at = b->next;
            be->bytes_now -= (int64_t)b->bytes;
            free(b);
            break;
        }
    cudaFreeAsync(p, impl(be)->stream);
}

static int upload(backend *be, void *dst, const void *host, size_t bytes, err *e)
{
    CUDA_TRY(cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, impl(be)->stream), "upload");
    CUDA_TRY(cudaStreamSynchronize(impl(be)->stream), "upload");      /* the caller may change `host` now */
    return 0;
}

static int download(backend *be, void *host, const void *src, size_t bytes, err *e)
{
    CUDA_TRY(cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, impl(be)->stream), "download");
    CUDA_TRY(cudaStreamSynchronize(impl(be)->stream), "download");
    return 0;
}

static int copy(backend *be, void *dst, const void *src, size_t bytes, err *e)
{
    CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, impl(be)->stream), "copy");
    return 0;
}

static int zero(backend *be, void *dst, size_t bytes, err *e)
{
    CUDA_TRY(cudaMemsetAsync(dst, 0, bytes, impl(be)->stream), "zero");
    return 0;
}

static int sync(backend *be, err *e)
{
    CUDA_TRY(cudaStreamSynchronize(impl(be)->stream), "sync");
    return 0;
}

/* f32 on the device whatever the file holds; converted on the host a piece at a time */
static int weight(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e)
{
    enum { PIECE = 1 << 22 };
    (void)want;
    int rc = tensor_new(out, be, DT_F32, src->ndim, src->shape, e);
    if (rc)
        return rc;
    int64_t n = tensor_count(out), size = (int64_t)dtype_size(src->dtype);
    if (src->dtype == DT_F32)
        return upload(be, out->data, src->data, (size_t)n * 4, e);
    float *piece = (float *)malloc((size_t)PIECE * 4);
    if (!piece)
        rc = ERR(e, ERR_MEMORY, "no host memory to convert weights");
    for (int64_t at = 0; !rc && at < n; at += PIECE) {
        int64_t m = n - at < PIECE ? n - at : PIECE;
        dtype_to_f32(piece, (const char *)src->data + at * size, src->dtype, m);
        rc = upload(be, (float *)out->data + at, piece, (size_t)m * 4, e);
    }
    free(piece);
    if (rc)
        tensor_free(out);
    return rc;
}

static void close_(backend *be)
{
    cuda_impl *c = impl(be);
    if (c->work)
        cudaFreeAsync(c->work, c->stream);
    if (c->blas)
        blas.destroy(c->blas);
    if (c->stream) {
        cudaStreamSynchronize(c->stream);
        cudaStreamDestroy(c->stream);
    }
}

static backend_ops make_ops(void)
{
    backend_ops o;
    memset(&o, 0, sizeof o);
    o.name = "cuda";
    o.close = close_;
    o.alloc = alloc_;
    o.free = free_;
    o.upload = upload;
    o.download = download;
    o.copy = copy;
    o.zero = zero;
    o.sync = sync;
    o.weight = weight;
    o.linear = cuda_linear;
    o.layernorm = cuda_layernorm;
    o.layernorm_mod = cuda_layernorm_mod;
    o.rmsnorm = cuda_rmsnorm;
    o.rope = cuda_rope;
    o.gate_add = cuda_gate_add;
    o.add_row = cuda_add_row;
    o.attention = cuda_attention;
    o.attn_probs = cuda_attn_probs;
    o.silu = cuda_silu;
    o.gated_gelu = cuda_gated_gelu;
    o.embed = cuda_embed;
    o.patchify = cuda_patchify;
    o.unpatchify = cuda_unpatchify;
    o.axpby = cuda_axpby;
    o.div_scalar = cuda_div_scalar;
    o.x0 = cuda_x0;
    o.nonfinite = cuda_nonfinite;
    o.conv = cuda_conv;
    o.pixel_norm = cuda_pixel_norm;
    o.time_interleave = cuda_time_interleave;
    o.to_channels_last = cuda_to_channels_last;
    o.to_channels_first = cuda_to_channels_first;
    return o;
}

extern "C" int backend_gpu_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return n;
}

extern "C" int backend_open_cuda(backend **out, int device, err *e)
{
    static const backend_ops ops = make_ops();
    int n = 0;
    *out = NULL;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status != cudaSuccess || n == 0) {
        cudaGetLastError();
        return ERR(e, ERR_DEVICE, "device cuda:%d: no usable NVIDIA GPU (%s); check the driver with nvidia-smi, or use --device cpu", device,
                   status == cudaSuccess ? "none is installed" : cudaGetErrorString(status));
    }
    if (device >= n)
        return ERR(e, ERR_DEVICE, "device cuda:%d: this machine has %d GPU%s, numbered from 0", device, n, n == 1 ? "" : "s");
    cudaDeviceProp p;
    status = cudaGetDeviceProperties(&p, device);
    if (status != cudaSuccess)
        return ERR(e, ERR_DEVICE, "device cuda:%d: %s", device, cudaGetErrorString(status));
    if (p.major < 8)
        return ERR(e, ERR_DEVICE, "device cuda:%d is a %s of compute capability %d.%d; 8.0 (Ampere) or newer is needed, or --device cpu", device, p.name,
                   p.major, p.minor);
    int rc = blas_load(e);
    if (rc)
        return rc;
    backend *be = (backend *)calloc(1, sizeof *be);
    cuda_impl *c = (cuda_impl *)calloc(1, sizeof *c);
    if (!be || !c) {
        free(be);
        free(c);
        return ERR(e, ERR_MEMORY, "no host memory to open the CUDA backend");
    }
    be->ops = &ops;
    be->impl = c;
    c->device = device;
    c->sm_count = p.multiProcessorCount;
    c->shared_limit = p.sharedMemPerBlockOptin;
    snprintf(be->device, sizeof be->device, "%.100s (cuda:%d)", p.name, device);
    status = cudaSetDevice(device);
    if (status == cudaSuccess)
        status = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    cudaMemPool_t pool;
    uint64_t keep = UINT64_MAX;      /* freed blocks stay ours: the next step needs the same ones */
    if (status == cudaSuccess)
        status = cudaDeviceGetDefaultMemPool(&pool, device);
    if (status == cudaSuccess)
        status = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
    if (status != cudaSuccess) {
        rc = cuda_fail(be, status, "opening the device", e);
        backend_close(be);
        return rc;
    }
    if (blas.create(&c->blas) != CUBLAS_STATUS_SUCCESS || blas.set_stream(c->blas, c->stream) != CUBLAS_STATUS_SUCCESS ||
        blas.set_math_mode(c->blas, CUBLAS_PEDANTIC_MATH) != CUBLAS_STATUS_SUCCESS) {
        backend_close(be);
        return ERR(e, ERR_DEVICE, "device cuda:%d: cuBLAS could not start; is its library the one this program was built with?", device);
    }
    *out = be;
    return 0;
}
