/* Everything that touches each element once: activations, gates, rotary positions, sampler arithmetic, layouts. */
#include "core/cuda/cuda.cuh"

enum { THREADS = 256, PER_BLOCK = 1024 };

#define EACH(i, n) for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (int64_t)blockDim.x)
#define LAUNCH(kernel, n, ...) kernel<<<blocks_for((n), PER_BLOCK), THREADS, 0, impl(be)->stream>>>(__VA_ARGS__)

typedef __nv_bfloat16 bf16;

static inline float *f(tensor *t) { return (float *)t->data; }
static inline const float *f(const tensor *t) { return (const float *)t->data; }

__global__ static void silu_k(float *o, const float *x, int64_t n)
{
    EACH(i, n) o[i] = silu_of(x[i]);
}

extern "C" int cuda_silu(backend *be, tensor *out, const tensor *x, err *e)
{
    LAUNCH(silu_k, tensor_count(x), f(out), f(x), tensor_count(x));
    return cuda_launched(be, "silu", e);
}

static int no_kernel(const char *op, const tensor *a, const tensor *b, err *e)
{
    return ERR(e, ERR_INTERNAL, "%s: no kernel for %s and %s", op, dtype_name(a->dtype), dtype_name(b->dtype));
}

template <class T>
__global__ static void gated_gelu_k(T *o, const T *x, const T *g, int64_t n)
{
    EACH(i, n) o[i] = from_f<T>(to_f(x[i]) * gelu_tanh_of(to_f(g[i])));
}

extern "C" int cuda_gated_gelu(backend *be, tensor *out, const tensor *x, const tensor *gate, err *e)
{
    if (out->dtype != x->dtype || out->dtype != gate->dtype)
        return no_kernel("gated_gelu", out, x, e);
    if (out->dtype == DT_BF16)
        LAUNCH(gated_gelu_k<bf16>, tensor_count(x), (bf16 *)out->data, (const bf16 *)x->data, (const bf16 *)gate->data, tensor_count(x));
    else
        LAUNCH(gated_gelu_k<float>, tensor_count(x), f(out), f(x), f(gate), tensor_count(x));
    return cuda_launched(be, "gated_gelu", e);
}

template <class O, class X>
__global__ static void cast_k(O *o, const X *x, int64_t n)
{
    EACH(i, n) o[i] = from_f<O>(to_f(x[i]));
}

extern "C" int cuda_cast(backend *be, tensor *out, const tensor *x, err *e)
{
    if (out->dtype == DT_BF16 && x->dtype == DT_F32)
        LAUNCH((cast_k<bf16, float>), tensor_count(x), (bf16 *)out->data, f(x), tensor_count(x));
    else if (out->dtype == DT_F32 && x->dtype == DT_BF16)
        LAUNCH((cast_k<float, bf16>), tensor_count(x), f(out), (const bf16 *)x->data, tensor_count(x));
    else
        return no_kernel("cast", out, x, e);
    return cuda_launched(be, "cast", e);
}

template <class Y>
__global__ static void axpby_k(float *o, float a, const float *x, float b, const Y *y, int64_t n)
{
    EACH(i, n) o[i] = __fadd_rn(__fmul_rn(a, x[i]), __fmul_rn(b, to_f(y[i])));
}

extern "C" int cuda_axpby(backend *be, tensor *out, float a, const tensor *x, float b, const tensor *y, err *e)
{
    if (y->dtype == DT_BF16)
        LAUNCH(axpby_k<bf16>, tensor_count(x), f(out), a, f(x), b, (const bf16 *)y->data, tensor_count(x));
    else
        LAUNCH(axpby_k<float>, tensor_count(x), f(out), a, f(x), b, f(y), tensor_count(x));
    return cuda_launched(be, "axpby", e);
}

__global__ static void div_k(float *o, const float *x, float d, int64_t n)
{
    EACH(i, n) o[i] = __fdiv_rn(x[i], d);
}

extern "C" int cuda_div_scalar(backend *be, tensor *out, const tensor *x, float d, err *e)
{
    LAUNCH(div_k, tensor_count(x), f(out), f(x), d, tensor_count(x));
    return cuda_launched(be, "div_scalar", e);
}

template <class X, class Y>
__global__ static void gate_add_k(X *x, const Y *y, const float *g, int64_t n, int64_t width, int64_t rows_per_group)
{
    EACH(i, n) {
        float v = to_f(y[i]);
        x[i] = from_f<X>(__fadd_rn(to_f(x[i]), g ? __fmul_rn(v, g[i / width / rows_per_group * width + i % width]) : v));
    }
}

/* the same for aligned rows: 8 values a thread, the gate's stay in registers from row to row */
template <class X, class Y>
__global__ static void __launch_bounds__(1024) gate_rows(X *x, const Y *y, const float *g, int64_t rows, int64_t width, int64_t rows_per_group)
{
    int64_t at = threadIdx.x * (int64_t)8, group = -1;
    float gate[8];
    if (at >= width)
        return;
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
        float v[8], add[8];
        load_run<8>(v, x + row * width + at);
        load_run<8>(add, y + row * width + at);
        if (g && row / rows_per_group != group) {
            group = row / rows_per_group;
            load_run<8>(gate, g + group * width + at);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[i] = __fadd_rn(v[i], g ? __fmul_rn(add[i], gate[i]) : add[i]);
        store_run<8>(x + row * width + at, v);
    }
}

template <class X, class Y>
static void gate_add(backend *be, tensor *x, const tensor *y, const float *g, int64_t each)
{
    int64_t n = tensor_count(x), width = tensor_cols(x), rows = tensor_nrows(x);
    bool run = width % 8 == 0 && width <= 8192 && ((uintptr_t)x->data | (uintptr_t)y->data | (uintptr_t)g) % 16 == 0;
    int threads = (int)((width / 8 + 31) / 32 * 32);
    int64_t most = run ? (int64_t)impl(be)->sm_count * (2048 / threads) : 0;
    if (run)
        gate_rows<X, Y><<<(unsigned)(rows < most ? rows : most), threads, 0, impl(be)->stream>>>((X *)x->data, (const Y *)y->data, g, rows, width, each);
    else
        LAUNCH((gate_add_k<X, Y>), n, (X *)x->data, (const Y *)y->data, g, n, width, each);
}

extern "C" int cuda_gate_add(backend *be, tensor *x, const tensor *y, const tensor *gate, err *e)
{
    int64_t each = gate ? tensor_nrows(x) / tensor_nrows(gate) : 1;
    const float *g = gate ? f(gate) : NULL;
    if (!tensor_count(x))
        return 0;
    if (x->dtype == DT_F32 && y->dtype == DT_F32)
        gate_add<float, float>(be, x, y, g, each);
    else if (x->dtype == DT_F32 && y->dtype == DT_BF16)
        gate_add<float, bf16>(be, x, y, g, each);
    else if (x->dtype == DT_BF16 && y->dtype == DT_BF16)
        gate_add<bf16, bf16>(be, x, y, g, each);
    else
        return no_kernel("gate_add", x, y, e);
    return cuda_launched(be, "gate_add", e);
}

__global__ static void add_row_k(float *o, const float *x, const float *row, int64_t n, int64_t width, int64_t rows_per_group)
{
    EACH(i, n) o[i] = x[i] + row[i / width / rows_per_group * width + i % width];
}

extern "C" int cuda_add_row(backend *be, tensor *out, const tensor *x, const tensor *row, err *e)
{
    if (out->dtype != DT_F32 || x->dtype != DT_F32)
        return no_kernel("add_row", out, x, e);
    LAUNCH(add_row_k, tensor_count(x), f(out), f(x), f(row), tensor_count(x), tensor_cols(x), tensor_nrows(x) / tensor_nrows(row));
    return cuda_launched(be, "add_row", e);
}

typedef struct { int64_t grid[3], offset; int pairs[3]; const float *cs[3]; } rope_dev;

template <class T>
__global__ static void rope_k(T *x, rope_dev r, int heads, int64_t n_pairs)
{
    int per_head = r.pairs[0] + r.pairs[1] + r.pairs[2];
    EACH(i, n_pairs) {
        int p = (int)(i % per_head), a = 0;
        int64_t token = i / per_head / heads;
        int64_t at[3] = { token / (r.grid[1] * r.grid[2]) + r.offset, token / r.grid[2] % r.grid[1], token % r.grid[2] };
        while (p >= r.pairs[a])
            p -= r.pairs[a++];
        const float *cs = r.cs[a] + (at[a] * r.pairs[a] + p) * 2;
        float re = to_f(x[2 * i]), im = to_f(x[2 * i + 1]);
        x[2 * i] = from_f<T>(re * cs[0] - im * cs[1]);
        x[2 * i + 1] = from_f<T>(re * cs[1] + im * cs[0]);
    }
}

extern "C" int cuda_rope(backend *be, tensor *x, const rope_table *r, int n_heads, err *e)
{
    rope_dev d;
    for (int a = 0; a < 3; a++) {
        d.grid[a] = r->grid[a];
        d.pairs[a] = r->pairs[a];
        d.cs[a] = f(r->cs[a]);
    }
    d.offset = r->frame_offset;
    if (x->dtype == DT_BF16)
        LAUNCH(rope_k<bf16>, tensor_count(x) / 2, (bf16 *)x->data, d, n_heads, tensor_count(x) / 2);
    else
        LAUNCH(rope_k<float>, tensor_count(x) / 2, f(x), d, n_heads, tensor_count(x) / 2);
    return cuda_launched(be, "rope", e);
}

template <class T>
__global__ static void embed_k(float *o, const T *table, const int32_t *ids, int64_t n, int64_t width)
{
    EACH(i, n * width) o[i] = to_f(table[ids[i / width] * width + i % width]);
}

extern "C" int cuda_embed(backend *be, tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e)
{
    if (out->dtype != DT_F32 || (table->dtype != DT_F32 && table->dtype != DT_BF16))
        return no_kernel("embed", out, table, e);
    int rc = cuda_need_work(be, (size_t)n * sizeof *ids, e);
    if (!rc)
        rc = be->ops->upload(be, impl(be)->work, ids, (size_t)n * sizeof *ids, e);
    if (rc)
        return rc;
    if (table->dtype == DT_BF16)
        LAUNCH(embed_k<bf16>, n * tensor_cols(table), f(out), (const bf16 *)table->data, (const int32_t *)impl(be)->work, n, tensor_cols(table));
    else
        LAUNCH(embed_k<float>, n * tensor_cols(table), f(out), f(table), (const int32_t *)impl(be)->work, n, tensor_cols(table));
    return cuda_launched(be, "embed", e);
}

/* i runs over the latents [C,F,H,W]; `conv_order` is column c*4 + q*2 + r, otherwise (q*2 + r)*C + c */
template <class T>
__global__ static void patches_k(T *tokens, float *latents, int64_t C, int64_t F, int64_t H, int64_t W, bool to_tokens, bool conv_order)
{
    EACH(i, C * F * H * W) {
        int64_t x = i % W, y = i / W % H, fr = i / W / H % F, c = i / W / H / F;
        int64_t token = (fr * (H / 2) + y / 2) * (W / 2) + x / 2, q = y % 2 * 2 + x % 2;
        T *t = tokens + token * 4 * C + (conv_order ? c * 4 + q : q * C + c);
        if (to_tokens)
            *t = from_f<T>(latents[i]);
        else
            latents[i] = to_f(*t);
    }
}

template <class T>
static void patches(backend *be, tensor *tokens, tensor *latents, bool to_tokens)
{
    const int64_t *s = latents->shape;
    LAUNCH(patches_k<T>, tensor_count(latents), (T *)tokens->data, f(latents), s[0], s[1], s[2], s[3], to_tokens, to_tokens);
}

static int move_patches(backend *be, const char *op, const tensor *tokens, const tensor *latents, bool to_tokens, err *e)
{
    tensor t = *tokens, l = *latents;
    if (latents->dtype != DT_F32 || (tokens->dtype != DT_F32 && tokens->dtype != DT_BF16))
        return no_kernel(op, tokens, latents, e);
    if (tokens->dtype == DT_BF16)
        patches<bf16>(be, &t, &l, to_tokens);
    else
        patches<float>(be, &t, &l, to_tokens);
    return cuda_launched(be, op, e);
}

extern "C" int cuda_patchify(backend *be, tensor *tokens, const tensor *latents, err *e)
{
    return move_patches(be, "patchify", tokens, latents, true, e);
}

extern "C" int cuda_unpatchify(backend *be, tensor *latents, const tensor *tokens, err *e)
{
    return move_patches(be, "unpatchify", tokens, latents, false, e);
}
