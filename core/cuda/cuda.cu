/* Device, memory, weights and the op table. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/cuda/attn_plan.cuh"

int cuda_fail(backend *be, cudaError_t status, const char *op, err *e)
{
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    if (status == cudaErrorMemoryAllocation) {
        cudaMemGetInfo(&free_bytes, &total);
        return ERR(e, ERR_MEMORY, "%s: the memory of %s ran out during %s: %lld MiB in use by this program, %zu of %zu MiB free; swap more blocks "
                   "(memory.blocks_to_swap), set memory.budget to less than what is free, use fewer frames or a smaller size",
                   be->device, be->device, op, (long long)(be->bytes_now >> 20), free_bytes >> 20, total >> 20);
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

/* Freed blocks leave gaps in what the pool holds, into which a larger block does not fit: the pool would grow beyond what is in use. */
static void keep_below_limit(backend *be, size_t bytes)
{
    cudaMemPool_t pool;
    uint64_t held = 0;
    if (be->bytes_limit && cudaDeviceGetDefaultMemPool(&pool, impl(be)->device) == cudaSuccess &&
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &held) == cudaSuccess && (int64_t)(held + bytes) > be->bytes_limit)
        cuda_trim(be);
}

int cuda_need_work(backend *be, size_t bytes, err *e)
{
    cuda_impl *c = impl(be);
    if (bytes <= c->work_bytes)
        return 0;
    if (c->work) {
        cuda_retire(be, c->work);
        be->bytes_now -= (int64_t)c->work_bytes;
    }
    c->work = NULL;
    c->work_bytes = 0;
    keep_below_limit(be, bytes);
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
    keep_below_limit(be, bytes);
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
    if (bytes >= 1 << 20)
        return cuda_upload_as(be, dst, DT_U8, host, DT_U8, (int64_t)bytes, e);
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

/* bf16 where that is wanted, otherwise f32 whatever the file holds */
static int weight(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e)
{
    dtype kept = want == DT_BF16 || want == DT_F8_E4M3 ? DT_BF16 : DT_F32;
    int rc = tensor_new(out, be, kept, src->ndim, src->shape, e);
    if (!rc)
        rc = cuda_upload_as(be, out->data, kept, src->data, src->dtype, tensor_count(out), e);
    if (rc)
        tensor_free(out);
    return rc;
}

static void close_(backend *be)
{
    cuda_impl *c = impl(be);
    cuda_stream_close(be);
    cuda_downloads_close(be);
    cuda_tables_free(be);
    cuda_attention_hopper_close(be);
    if (c->work)
        cudaFreeAsync(c->work, c->stream);
    gemm_close(c);
    if (c->blas)
        blas.destroy(c->blas);
    cuda_trim(be);              /* what this engine kept for itself goes back to the device */
    if (c->stream) {
        cudaStreamSynchronize(c->stream);
        cudaStreamDestroy(c->stream);
    }
}

static backend_ops make_ops(bool hopper)
{
    backend_ops o;
    memset(&o, 0, sizeof o);
    o.name = "cuda";
    o.bf16 = true;
    o.fp8 = hopper;             /* products with a factor a row: cuBLASLt has them for Hopper only */
    o.quantise = hopper ? cuda_quantise : NULL;
    o.graph_begin = cuda_graph_begin;
    o.graph_end = cuda_graph_end;
    o.graph_launch = cuda_graph_launch;
    o.graph_free = cuda_graph_free;
    o.residual_norm = cuda_residual_norm;
    o.rmsnorm_rope = cuda_rmsnorm_rope;
    o.cast = cuda_cast;
    o.close = close_;
    o.alloc = alloc_;
    o.free = free_;
    o.upload = upload;
    o.download = download;
    o.copy = copy;
    o.zero = zero;
    o.sync = sync;
    o.weight = weight;
    o.download_begin = cuda_download_begin;
    o.download_wait = cuda_download_wait;
    o.download_free = cuda_download_free;
    o.host_alloc = cuda_host_alloc;
    o.host_free = cuda_host_free;
    o.slot_new = cuda_slot_new;
    o.slot_free = cuda_slot_free;
    o.slot_fill = cuda_slot_fill;
    o.slot_acquire = cuda_slot_acquire;
    o.slot_release = cuda_slot_release;
    o.trim = cuda_trim;
    o.memory = cuda_memory;
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
    o.randn_cuda = cuda_randn;
    o.x0 = cuda_x0;
    o.nonfinite = cuda_nonfinite;
    o.conv = cuda_conv;
    o.pixel_norm = cuda_pixel_norm;
    o.time_interleave = cuda_time_interleave;
    o.to_channels_last = cuda_to_channels_last;
    o.to_channels_first = cuda_to_channels_first;
    o.rgb_begin = cuda_rgb_begin;
    o.rgb_wait = cuda_rgb_wait;
    o.rgb_free = cuda_rgb_free;
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
    static const backend_ops older = make_ops(false), hopper = make_ops(true);
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
    be->ops = p.major == 9 ? &hopper : &older;
    be->impl = c;
    c->device = device;
    c->sm_count = p.multiProcessorCount;
    c->shared_limit = p.sharedMemPerBlockOptin;
    c->hopper = p.major == 9 && p.minor == 0;
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
