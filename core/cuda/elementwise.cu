/* Everything that touches each element once: activations, gates, rotary positions, sampler arithmetic, layouts. */
#include "core/cuda/cuda.cuh"

enum { THREADS = 256, PER_BLOCK = 1024 };

#define EACH(i, n) for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n); i += gridDim.x * (int64_t)blockDim.x)
#define LAUNCH(kernel, n, ...) kernel<<<blocks_for((n), PER_BLOCK), THREADS, 0, impl(be)->stream>>>(__VA_ARGS__)

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

__global__ static void gated_gelu_k(float *o, const float *x, const float *g, int64_t n)
{
    EACH(i, n) o[i] = x[i] * gelu_tanh_of(g[i]);
}

extern "C" int cuda_gated_gelu(backend *be, tensor *out, const tensor *x, const tensor *gate, err *e)
{
    LAUNCH(gated_gelu_k, tensor_count(x), f(out), f(x), f(gate), tensor_count(x));
    return cuda_launched(be, "gated_gelu", e);
}

__global__ static void axpby_k(float *o, float a, const float *x, float b, const float *y, int64_t n)
{
    EACH(i, n) o[i] = __fadd_rn(__fmul_rn(a, x[i]), __fmul_rn(b, y[i]));
}

extern "C" int cuda_axpby(backend *be, tensor *out, float a, const tensor *x, float b, const tensor *y, err *e)
{
    LAUNCH(axpby_k, tensor_count(x), f(out), a, f(x), b, f(y), tensor_count(x));
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

__global__ static void gate_add_k(float *x, const float *y, const float *g, int64_t n, int64_t width, int64_t rows_per_group)
{
    EACH(i, n) x[i] = __fadd_rn(x[i], g ? __fmul_rn(y[i], g[i / width / rows_per_group * width + i % width]) : y[i]);
}

extern "C" int cuda_gate_add(backend *be, tensor *x, const tensor *y, const tensor *gate, err *e)
{
    LAUNCH(gate_add_k, tensor_count(x), f(x), f(y), gate ? f(gate) : NULL, tensor_count(x), tensor_cols(x),
           gate ? tensor_nrows(x) / tensor_nrows(gate) : 1);
    return cuda_launched(be, "gate_add", e);
}

__global__ static void add_row_k(float *o, const float *x, const float *row, int64_t n, int64_t width)
{
    EACH(i, n) o[i] = x[i] + row[i % width];
}

extern "C" int cuda_add_row(backend *be, tensor *out, const tensor *x, const tensor *row, err *e)
{
    LAUNCH(add_row_k, tensor_count(x), f(out), f(x), f(row), tensor_count(x), tensor_cols(x));
    return cuda_launched(be, "add_row", e);
}

typedef struct { int64_t grid[3], offset; int pairs[3]; const float *cs[3]; } rope_dev;

__global__ static void rope_k(float *x, rope_dev r, int heads, int64_t n_pairs)
{
    int per_head = r.pairs[0] + r.pairs[1] + r.pairs[2];
    EACH(i, n_pairs) {
        int p = (int)(i % per_head), a = 0;
        int64_t token = i / per_head / heads;
        int64_t at[3] = { token / (r.grid[1] * r.grid[2]) + r.offset, token / r.grid[2] % r.grid[1], token % r.grid[2] };
        while (p >= r.pairs[a])
            p -= r.pairs[a++];
        const float *cs = r.cs[a] + (at[a] * r.pairs[a] + p) * 2;
        float re = x[2 * i], im = x[2 * i + 1];
        x[2 * i] = re * cs[0] - im * cs[1];
        x[2 * i + 1] = re * cs[1] + im * cs[0];
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
    LAUNCH(rope_k, tensor_count(x) / 2, f(x), d, n_heads, tensor_count(x) / 2);
    return cuda_launched(be, "rope", e);
}

__global__ static void embed_k(float *o, const float *table, const int32_t *ids, int64_t n, int64_t width)
{
    EACH(i, n * width) o[i] = table[ids[i / width] * width + i % width];
}

extern "C" int cuda_embed(backend *be, tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e)
{
    int rc = cuda_need_work(be, (size_t)n * sizeof *ids, e);
    if (!rc)
        rc = be->ops->upload(be, impl(be)->work, ids, (size_t)n * sizeof *ids, e);
    if (rc)
        return rc;
    LAUNCH(embed_k, n * tensor_cols(table), f(out), f(table), (const int32_t *)impl(be)->work, n, tensor_cols(table));
    return cuda_launched(be, "embed", e);
}

/* i runs over the latents [C,F,H,W]; `conv_order` is column c*4 + q*2 + r, otherwise (q*2 + r)*C + c */
__global__ static void patches_k(float *tokens, float *latents, int64_t C, int64_t F, int64_t H, int64_t W, bool to_tokens, bool conv_order)
{
    EACH(i, C * F * H * W) {
        int64_t x = i % W, y = i / W % H, fr = i / W / H % F, c = i / W / H / F;
        int64_t token = (fr * (H / 2) + y / 2) * (W / 2) + x / 2, q = y % 2 * 2 + x % 2;
        float *t = tokens + token * 4 * C + (conv_order ? c * 4 + q : q * C + c);
        if (to_tokens)
            *t = latents[i];
        else
            latents[i] = *t;
    }
}

extern "C" int cuda_patchify(backend *be, tensor *tokens, const tensor *latents, err *e)
{
    const int64_t *s = latents->shape;
    LAUNCH(patches_k, tensor_count(latents), f(tokens), (float *)latents->data, s[0], s[1], s[2], s[3], true, true);
    return cuda_launched(be, "patchify", e);
}

extern "C" int cuda_unpatchify(backend *be, tensor *latents, const tensor *tokens, err *e)
{
    const int64_t *s = latents->shape;
    LAUNCH(patches_k, tensor_count(latents), (float *)tokens->data, f(latents), s[0], s[1], s[2], s[3], false, false);
    return cuda_launched(be, "unpatchify", e);
}
