/* Row-wise normalisations, alone and with what stands before or after them in the transformer: the gated residual sum in front of a
 * LayerNorm, the rotary positions behind the RMSNorm of queries and keys.
 *
 * Widths that are multiples of 8 with aligned rows take the fast kernels: a block keeps a row in registers, 8 values a thread, and goes on to
 * the next row; every value is read once and written once. Other shapes take a loop. Sums have a fixed order: a thread's own values, the
 * lanes of a warp as a tree, the warps in order. */
#include "core/cuda/cuda.cuh"

typedef __nv_bfloat16 bf16;
typedef enum { LAYERNORM, LAYERNORM_MOD, RMSNORM } norm_kind;

enum { THREADS = 128, RUN = 8, MAX_WIDTH = 8192 };

/* the sum over the block, the same in every thread; `shared` must not be read again before the block met elsewhere */
__device__ static float block_sum(float v, float *shared, int warps)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    float s = 0;
    for (int i = 0; i < warps; i++)
        s += shared[i];
    return s;
}

/* ---- any width ---- */

template <class X, class O>
__global__ static void norm(norm_kind kind, O *out, const X *x, const float *a, const float *b, int64_t width, int64_t rows_per_group, float eps,
                            activation act)
{
    __shared__ float shared[2][THREADS / 32];
    const X *in = x + blockIdx.x * width;
    O *y = out + blockIdx.x * width;
    float mean = 0, sq = 0;
    int64_t group = blockIdx.x / rows_per_group * width;
    if (kind == LAYERNORM || kind == LAYERNORM_MOD) {
        float s = 0;
        for (int64_t i = threadIdx.x; i < width; i += THREADS)
            s += to_f(in[i]);
        mean = block_sum(s, shared[0], THREADS / 32) / (float)width;
    }
    for (int64_t i = threadIdx.x; i < width; i += THREADS)
        sq += (to_f(in[i]) - mean) * (to_f(in[i]) - mean);
    sq = block_sum(sq, shared[1], THREADS / 32);
    float inv = 1.0f / sqrtf(sq / (float)width + eps);
    for (int64_t i = threadIdx.x; i < width; i += THREADS) {
        float v = (to_f(in[i]) - mean) * inv;
        if (kind == LAYERNORM_MOD)
            v = __fadd_rn(__fmul_rn(v, 1.0f + a[group + i]), b[group + i]);
        else if (kind == LAYERNORM)
            v = a ? __fadd_rn(__fmul_rn(v, a[i]), b[i]) : v;
        else
            v = to_f(from_f<O>(v)) * a[i];      /* (x r) takes the type of the result before the weight (model.py:81-84) */
        y[i] = from_f<O>(act == ACT_SILU ? silu_of(v) : v);
    }
}

/* ---- LayerNorm with a row in registers, after x += y * gate where y is given ---- */

typedef struct {
    const float *a, *b;             /* scale and shift [G, width] when modulated, weight and bias [width], or NULL */
    const float *gate;              /* [Gg, width] or NULL for 1 */
    int64_t rows, width, rows_per_group, rows_per_gate;
    bool modulated;
    float eps;
} layer_args;

template <class X, class Y, class O>
__global__ static void __launch_bounds__(1024) layer(O *out, X *x, const Y *y, layer_args k)
{
    __shared__ float shared[2][32];
    int warps = blockDim.x / 32;
    int64_t at = threadIdx.x * (int64_t)RUN;
    bool mine = at < k.width;
    float a[RUN], b[RUN], g[RUN];
    int64_t group = -1, gate = -1;
    for (int64_t row = blockIdx.x; row < k.rows; row += gridDim.x) {
        float v[RUN], s = 0, sq = 0;
        if (mine) {
            load_run<RUN>(v, x + row * k.width + at);
            if (y) {
                float add[RUN];
                load_run<RUN>(add, y + row * k.width + at);
                if (k.gate && row / k.rows_per_gate != gate) {
                    gate = row / k.rows_per_gate;
                    load_run<RUN>(g, k.gate + gate * k.width + at);
                }
#pragma unroll
                for (int i = 0; i < RUN; i++)
                    v[i] = to_f(from_f<X>(__fadd_rn(v[i], k.gate ? __fmul_rn(add[i], g[i]) : add[i])));
                store_run<RUN>(x + row * k.width + at, v);
            }
            if (k.a && (group < 0 || (k.modulated && row / k.rows_per_group != group))) {
                group = k.modulated ? row / k.rows_per_group : 0;
                load_run<RUN>(a, k.a + group * k.width + at);
                load_run<RUN>(b, k.b + group * k.width + at);
            }
#pragma unroll
            for (int i = 0; i < RUN; i++)
                s += v[i];
        }
        float mean = block_sum(s, shared[0], warps) / (float)k.width;
        if (mine)
#pragma unroll
            for (int i = 0; i < RUN; i++)
                sq += (v[i] - mean) * (v[i] - mean);
        float inv = 1.0f / sqrtf(block_sum(sq, shared[1], warps) / (float)k.width + k.eps);
        if (mine) {
#pragma unroll
            for (int i = 0; i < RUN; i++) {
                v[i] = (v[i] - mean) * inv;
                if (k.modulated)
                    v[i] = __fadd_rn(__fmul_rn(v[i], 1.0f + a[i]), b[i]);
                else if (k.a)
                    v[i] = __fadd_rn(__fmul_rn(v[i], a[i]), b[i]);
            }
            store_run<RUN>(out + row * k.width + at, v);
        }
    }
}

/* ---- RMSNorm with a row in registers, then rotary positions where a table is given ---- */

typedef struct {
    const float *cs[3];
    int64_t hw, w, offset;          /* tokens a frame, tokens a row, first frame */
    int pairs[3], per_head;         /* per_head 0: no rotation */
} rope_dev;

template <class X, class O>
__global__ static void __launch_bounds__(1024) rms(O *out, const X *x, const float *w, int64_t rows, int64_t width, float eps, rope_dev r)
{
    __shared__ float shared[2][32];
    int warps = blockDim.x / 32, parity = 0, axis[RUN / 2], pair[RUN / 2];
    int64_t at = threadIdx.x * (int64_t)RUN;
    bool mine = at < width;
    float weight[RUN];
    if (mine) {
        load_run<RUN>(weight, w + at);
#pragma unroll
        for (int i = 0; i < RUN / 2; i++) {
            pair[i] = r.per_head ? (int)((at / 2 + i) % r.per_head) : 0;
            axis[i] = 0;
#pragma unroll
            for (int k = 0; k < 2; k++)
                if (r.per_head && axis[i] == k && pair[i] >= r.pairs[k]) {
                    pair[i] -= r.pairs[k];
                    axis[i] = k + 1;
                }
        }
    }
    for (int64_t row = blockIdx.x; row < rows; row += gridDim.x, parity ^= 1) {
        float v[RUN], sq = 0;
        if (mine) {
            load_run<RUN>(v, x + row * width + at);
#pragma unroll
            for (int i = 0; i < RUN; i++)
                sq += v[i] * v[i];
        }
        float inv = 1.0f / sqrtf(block_sum(sq, shared[parity], warps) / (float)width + eps);
        if (!mine)
            continue;
#pragma unroll
        for (int i = 0; i < RUN; i++)
            v[i] = to_f(from_f<O>(v[i] * inv)) * weight[i];      /* (x r) takes the type of the result before the weight (model.py:81-84) */
        if (r.per_head) {
            int64_t frame = row / r.hw, rest = row - frame * r.hw, high = rest / r.w, wide = rest - high * r.w;
#pragma unroll
            for (int i = 0; i < RUN / 2; i++) {
                int64_t position = axis[i] == 0 ? frame + r.offset : axis[i] == 1 ? high : wide;
                const float *table = axis[i] == 0 ? r.cs[0] : axis[i] == 1 ? r.cs[1] : r.cs[2];
                int n = axis[i] == 0 ? r.pairs[0] : axis[i] == 1 ? r.pairs[1] : r.pairs[2];
                float2 cs = *(const float2 *)(table + (position * n + pair[i]) * 2);
                float re = v[2 * i], im = v[2 * i + 1];
                v[2 * i] = re * cs.x - im * cs.y;
                v[2 * i + 1] = re * cs.y + im * cs.x;
            }
        }
        store_run<RUN>(out + row * width + at, v);
    }
}

/* ---- launches ---- */

static bool aligned(const tensor *t)
{
    return !t || ((uintptr_t)t->data % 16 == 0 && tensor_cols(t) * (int64_t)dtype_size(t->dtype) % 16 == 0);
}

static bool fast(const tensor *a, const tensor *b, const tensor *c, const tensor *d, const tensor *e)
{
    return tensor_cols(a) % RUN == 0 && tensor_cols(a) <= MAX_WIDTH && aligned(a) && aligned(b) && aligned(c) && aligned(d) && aligned(e);
}

static int threads_of(int64_t width)
{
    return (int)((width / RUN + 31) / 32 * 32);
}

/* enough blocks to fill the GPU several times over; a row's result does not depend on it */
static unsigned grid_of(backend *be, int64_t rows, int threads)
{
    int64_t blocks = (int64_t)impl(be)->sm_count * (2048 / threads);
    return (unsigned)(rows < blocks ? rows : blocks);
}

#define BY_TYPES(kernel_f_f, kernel_f_b, kernel_b_b, in, out)                                                                      \
    ((in)->dtype == DT_F32 && (out)->dtype == DT_F32 ? (kernel_f_f, 0) : (in)->dtype == DT_F32 && (out)->dtype == DT_BF16 ? (kernel_f_b, 0) \
     : (in)->dtype == DT_BF16 && (out)->dtype == DT_BF16 ? (kernel_b_b, 0)                                                          \
     : ERR(e, ERR_INTERNAL, "norm: no kernel for %s -> %s", dtype_name((in)->dtype), dtype_name((out)->dtype)))

template <class X, class O>
static void run_loop(backend *be, norm_kind kind, tensor *out, const tensor *x, const tensor *a, const tensor *b, int64_t rows_per_group, float eps, activation act)
{
    norm<X, O><<<blocks_for(tensor_nrows(x), 1), THREADS, 0, impl(be)->stream>>>(kind, (O *)out->data, (const X *)x->data, a ? (const float *)a->data : NULL,
                                                                                b ? (const float *)b->data : NULL, tensor_cols(x), rows_per_group, eps, act);
}

static int loop(backend *be, norm_kind kind, tensor *out, const tensor *x, const tensor *a, const tensor *b, int64_t rows_per_group, float eps, activation act,
                err *e)
{
    if (!tensor_nrows(x))
        return 0;
    int rc = BY_TYPES((run_loop<float, float>(be, kind, out, x, a, b, rows_per_group, eps, act)), (run_loop<float, bf16>(be, kind, out, x, a, b, rows_per_group, eps, act)),
                      (run_loop<bf16, bf16>(be, kind, out, x, a, b, rows_per_group, eps, act)), x, out);
    return rc ? rc : cuda_launched(be, "norm", e);
}

template <class X, class Y, class O>
static void run_layer(backend *be, tensor *out, tensor *x, const tensor *y, const layer_args &k)
{
    int threads = threads_of(k.width);
    layer<X, Y, O><<<grid_of(be, k.rows, threads), threads, 0, impl(be)->stream>>>((O *)out->data, (X *)x->data, y ? (const Y *)y->data : NULL, k);
}

static layer_args layer_of(const tensor *x, const tensor *gate, const tensor *a, const tensor *b, bool modulated, float eps)
{
    int64_t rows = tensor_nrows(x);
    layer_args k = { a ? (const float *)a->data : NULL, b ? (const float *)b->data : NULL, gate ? (const float *)gate->data : NULL, rows, tensor_cols(x),
                     modulated ? rows / tensor_nrows(a) : rows, gate ? rows / tensor_nrows(gate) : rows, modulated, eps };
    return k;
}

static int layernorm(backend *be, tensor *out, const tensor *x, const tensor *a, const tensor *b, bool modulated, float eps, err *e)
{
    if (!tensor_nrows(x))
        return 0;
    if (!fast(x, out, a, b, NULL))
        return loop(be, modulated ? LAYERNORM_MOD : LAYERNORM, out, x, a, b, modulated ? tensor_nrows(x) / tensor_nrows(a) : 1, eps, ACT_NONE, e);
    layer_args k = layer_of(x, NULL, a, b, modulated, eps);
    tensor in = *x;
    int rc = BY_TYPES((run_layer<float, float, float>(be, out, &in, NULL, k)), (run_layer<float, float, bf16>(be, out, &in, NULL, k)),
                      (run_layer<bf16, bf16, bf16>(be, out, &in, NULL, k)), x, out);
    return rc ? rc : cuda_launched(be, "layernorm", e);
}

extern "C" int cuda_layernorm(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e)
{
    return layernorm(be, out, x, w, b, false, eps, e);
}

extern "C" int cuda_layernorm_mod(backend *be, tensor *out, const tensor *x, const tensor *scale, const tensor *shift, float eps, err *e)
{
    return layernorm(be, out, x, scale, shift, true, eps, e);
}

extern "C" int cuda_residual_norm(backend *be, const residual_norm_args *r, err *e)
{
    tensor *x = r->x, *out = r->out;
    if (!tensor_nrows(x))
        return 0;
    if (!fast(x, out, r->y, r->gate, r->a) || x->dtype != DT_F32 || (r->y->dtype != DT_F32 && r->y->dtype != DT_BF16)) {
        int rc = cuda_gate_add(be, x, r->y, r->gate, e);
        return rc ? rc : layernorm(be, out, x, r->a, r->b, r->modulated, r->eps, e);
    }
    layer_args k = layer_of(x, r->gate, r->a, r->b, r->modulated, r->eps);
    if (r->y->dtype == DT_BF16 && out->dtype == DT_BF16)
        run_layer<float, bf16, bf16>(be, out, x, r->y, k);
    else if (r->y->dtype == DT_F32 && out->dtype == DT_F32)
        run_layer<float, float, float>(be, out, x, r->y, k);
    else
        return ERR(e, ERR_INTERNAL, "residual_norm: no kernel for %s -> %s", dtype_name(r->y->dtype), dtype_name(out->dtype));
    return cuda_launched(be, "residual_norm", e);
}

template <class X, class O>
static void run_rms(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, const rope_dev &r)
{
    int threads = threads_of(tensor_cols(x));
    rms<X, O><<<grid_of(be, tensor_nrows(x), threads), threads, 0, impl(be)->stream>>>((O *)out->data, (const X *)x->data, (const float *)w->data, tensor_nrows(x),
                                                                                     tensor_cols(x), eps, r);
}

extern "C" int cuda_rmsnorm_rope(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, const rope_table *t, int n_heads, err *e)
{
    rope_dev r = {};
    if (!tensor_nrows(x))
        return 0;
    if (!fast(x, out, w, NULL, NULL)) {
        int rc = loop(be, RMSNORM, out, x, w, NULL, 1, eps, ACT_NONE, e);
        return rc || !t ? rc : cuda_rope(be, out, t, n_heads, e);
    }
    if (t) {
        r.hw = t->grid[1] * t->grid[2];
        r.w = t->grid[2];
        r.offset = t->frame_offset;
        for (int a = 0; a < 3; a++) {
            r.cs[a] = (const float *)t->cs[a]->data;
            r.pairs[a] = t->pairs[a];
            r.per_head += t->pairs[a];
        }
    }
    int rc = BY_TYPES((run_rms<float, float>(be, out, x, w, eps, r)), (run_rms<float, bf16>(be, out, x, w, eps, r)), (run_rms<bf16, bf16>(be, out, x, w, eps, r)), x, out);
    return rc ? rc : cuda_launched(be, "rmsnorm", e);
}

extern "C" int cuda_rmsnorm(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, err *e)
{
    return cuda_rmsnorm_rope(be, out, x, w, eps, NULL, 0, e);
}
