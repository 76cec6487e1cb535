#include "core/cpu/cpu.h"

#include <cblas.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/parallel.h"

static int cpu_alloc(backend *be, void **p, size_t bytes, err *e)
{
    *p = NULL;
    /* 64-byte aligned rows of wide vectors; the size is kept beside the block by the allocator */
    if (bytes > SIZE_MAX / 2 || !(*p = aligned_alloc(64, (bytes + 63) / 64 * 64)))
        return ERR(e, ERR_MEMORY, "host memory ran out: %zu bytes asked for, %lld in use by tensors; "
                   "use fewer frames or a smaller size", bytes, (long long)be->bytes_now);
    be->bytes_now += (int64_t)malloc_usable_size(*p);
    if (be->bytes_now > be->bytes_peak)
        be->bytes_peak = be->bytes_now;
    return 0;
}

static void cpu_free(backend *be, void *p)
{
    if (p) {
        be->bytes_now -= (int64_t)malloc_usable_size(p);
        free(p);
    }
}

static int cpu_copy(backend *be, void *dst, const void *src, size_t bytes, err *e)
{
    (void)be, (void)e;
    memmove(dst, src, bytes);
    return 0;
}

static int cpu_zero(backend *be, void *dst, size_t bytes, err *e)
{
    (void)be, (void)e;
    memset(dst, 0, bytes);
    return 0;
}

static int cpu_sync(backend *be, err *e)
{
    (void)be, (void)e;
    return 0;
}

static int cpu_weight(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e)
{
    bool widened_by_ops = src->dtype == DT_F32 || src->dtype == DT_BF16 || src->dtype == DT_F16;
    bool aligned = (uintptr_t)src->data % dtype_size(src->dtype) == 0;
    if (widened_by_ops && aligned && (want == DT_COUNT || want == src->dtype)) {
        *out = tensor_wrap(be, src->data, src->dtype, src->ndim, src->shape);
        return 0;
    }
    int rc = tensor_new(out, be, DT_F32, src->ndim, src->shape, e);
    if (!rc)
        dtype_to_f32(out->data, src->data, src->dtype, tensor_count(out));
    return rc;
}

/* Weights are mapped and nothing needs swapping; asked for all the same, blocks go through plain copies. */

static int cpu_host_alloc(backend *be, void **p, size_t bytes, err *e)
{
    (void)be;
    return (*p = malloc(bytes)) ? 0 : ERR(e, ERR_MEMORY, "host memory ran out: %zu bytes asked for swapped weights; swap fewer blocks", bytes);
}

static void cpu_host_free(backend *be, void *p, size_t bytes)
{
    (void)be, (void)bytes;
    free(p);
}

static int cpu_slot_new(backend *be, backend_slot *s, err *e)
{
    return cpu_alloc(be, &s->data, s->bytes, e);
}

static void cpu_slot_free(backend *be, backend_slot *s)
{
    cpu_free(be, s->data);
}

static int cpu_slot_fill(backend *be, backend_slot *s, const void *host, size_t bytes, err *e)
{
    (void)be, (void)e;
    memcpy(s->data, host, bytes);
    return 0;
}

static int cpu_slot_pass(backend *be, backend_slot *s, err *e)
{
    (void)be, (void)s, (void)e;      /* everything happens in order */
    return 0;
}

static int cpu_download_begin(backend *be, backend_download *d, void *host, const void *src, size_t bytes, err *e)
{
    (void)be, (void)d, (void)e;
    memcpy(host, src, bytes);
    return 0;
}

static int cpu_download_wait(backend *be, backend_download *d, err *e)
{
    (void)be, (void)d, (void)e;
    return 0;
}

static void cpu_download_free(backend *be, backend_download *d)
{
    (void)be, (void)d;
}

int cpu_need_scratch(backend *be, size_t bytes, err *e)
{
    cpu_impl *c = be->impl;
    int threads = parallel_threads();
    if (c->n_scratch >= threads && c->scratch_bytes >= bytes)
        return 0;
    if (bytes < c->scratch_bytes)
        bytes = c->scratch_bytes;
    for (int i = 0; i < c->n_scratch; i++)
        free(c->scratch[i]);
    free(c->scratch);
    c->n_scratch = 0;
    c->scratch_bytes = 0;
    c->scratch = calloc((size_t)threads, sizeof *c->scratch);
    for (int i = 0; c->scratch && i < threads; i++) {
        c->scratch[i] = aligned_alloc(64, (bytes + 63) / 64 * 64);
        if (!c->scratch[i])
            break;
        c->n_scratch = i + 1;
    }
    if (c->n_scratch < threads)
        return ERR(e, ERR_MEMORY, "host memory ran out: %d threads need %zu bytes of scratch each", threads, bytes);
    c->scratch_bytes = bytes;
    return 0;
}

static void cpu_close(backend *be)
{
    cpu_impl *c = be->impl;
    for (int i = 0; i < c->n_scratch; i++)
        free(c->scratch[i]);
    free(c->scratch);
}

static const backend_ops cpu_ops = {
    .name = "cpu",
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .weight = cpu_weight,
    .download_begin = cpu_download_begin,
    .download_wait = cpu_download_wait,
    .download_free = cpu_download_free,
    .host_alloc = cpu_host_alloc,
    .host_free = cpu_host_free,
    .slot_new = cpu_slot_new,
    .slot_free = cpu_slot_free,
    .slot_fill = cpu_slot_fill,
    .slot_acquire = cpu_slot_pass,
    .slot_release = cpu_slot_pass,
    .linear = cpu_linear,
    .layernorm = cpu_layernorm,
    .layernorm_mod = cpu_layernorm_mod,
    .rmsnorm = cpu_rmsnorm,
    .rope = cpu_rope,
    .gate_add = cpu_gate_add,
    .add_row = cpu_add_row,
    .attention = cpu_attention,
    .attn_probs = cpu_attn_probs,
    .silu = cpu_silu_op,
    .gated_gelu = cpu_gated_gelu,
    .embed = cpu_embed,
    .patchify = cpu_patchify,
    .unpatchify = cpu_unpatchify,
    .axpby = cpu_axpby,
    .div_scalar = cpu_div_scalar,
    .x0 = cpu_x0,
    .nonfinite = cpu_nonfinite,
    .conv = cpu_conv,
    .pixel_norm = cpu_pixel_norm,
    .time_interleave = cpu_time_interleave,
    .to_channels_last = cpu_to_channels_last,
    .to_channels_first = cpu_to_channels_first,
    .rgb_begin = cpu_rgb_begin,
    .rgb_wait = cpu_rgb_wait,
    .rgb_free = cpu_rgb_free,
};

int backend_open_cpu(backend **out, err *e)
{
    *out = NULL;
    backend *be = calloc(1, sizeof *be);
    cpu_impl *c = calloc(1, sizeof *c);
    if (!be || !c) {
        free(be);
        free(c);
        return ERR(e, ERR_MEMORY, "no memory to open the CPU backend");
    }
    openblas_set_num_threads(1);     /* we cut the work ourselves: see the top of cpu.h */
    be->ops = &cpu_ops;
    be->impl = c;
    snprintf(be->device, sizeof be->device, "CPU");
    *out = be;
    return 0;
}
