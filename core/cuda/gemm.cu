/* linear: out[R,N] = act(x[R,K] w[N,K]^T + b).
 *
 * f32: cuBLAS with f32 arithmetic (no TF32), bias and activation after.
 * bf16: cuBLASLt, f32 accumulation, bias and activation in its epilogue on the f32 sum, one rounding to bf16. The official code
 * rounds before its GELU as well (Wan2.1/wan/modules/model.py:279-281); that rounding is left out. Never split along K: one order of
 * summation an output.
 * e4m3: the same with a factor a row of x and a row of w on the f32 sum; sums are promoted to f32 on the way (no fast accumulation).
 * Mixed types, and rows that are no multiple of 16 bytes, go to a plain kernel, a warp a column: for such rows cuBLASLt adds bias and
 * activation to a sum that it has rounded already (seen with 3 x 17 x 65: 5e-4 off where 2e-5 is due). */
#include <cuda_fp16.h>
#include <stdlib.h>

#include "core/cuda/cuda.cuh"

typedef __nv_bfloat16 bf16;

/* ---- f32 ---- */

__global__ static void finish(float *y, int64_t n, int64_t cols, const float *bias, activation act)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x) {
        float v = y[i] + (bias ? bias[i % cols] : 0.0f);
        y[i] = act == ACT_GELU_TANH ? gelu_tanh_of(v) : act == ACT_SILU ? silu_of(v) : v;
    }
}

__global__ static void widen(float *out, const void *in, int64_t n, bool is_bf16)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x)
        out[i] = is_bf16 ? __bfloat162float(((const bf16 *)in)[i]) : __half2float(((const __half *)in)[i]);
}

static int linear_f32(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    int64_t R = tensor_nrows(x), K = w->shape[1], N = w->shape[0];
    const float one = 1, none = 0;
    const float *weight = (const float *)w->data;
    if (w->dtype != DT_F32) {
        int rc = cuda_need_work(be, (size_t)(N * K) * 4, e);
        if (rc)
            return rc;
        widen<<<blocks_for(N * K, 1024), 256, 0, impl(be)->stream>>>((float *)impl(be)->work, w->data, N * K, w->dtype == DT_BF16);
        weight = (const float *)impl(be)->work;
    }
    cublasStatus_t s = blas.sgemm_64(impl(be)->blas, CUBLAS_OP_T, CUBLAS_OP_N, N, R, K, &one, weight, K,
                                      (const float *)x->data, K, &none, (float *)out->data, N);
    if (s != CUBLAS_STATUS_SUCCESS)
        return ERR(e, ERR_DEVICE, "%s: cuBLAS refused a product of %lld x %lld x %lld: %s", be->device, (long long)R, (long long)K, (long long)N,
                   blas.status_string(s));
    if (bias || act != ACT_NONE)
        finish<<<blocks_for(R * N, 1024), 256, 0, impl(be)->stream>>>((float *)out->data, R * N, N, bias ? (const float *)bias->data : NULL, act);
    return cuda_launched(be, "linear", e);
}

/* ---- any types: a warp owns a column and walks over the rows; for a handful of rows (the timestep) and for odd sizes ---- */

enum { PLAIN_WARPS = 8, PLAIN_ROWS = 8 };

template <class X, class W, class O>
__global__ static void __launch_bounds__(PLAIN_WARPS * 32) plain(O *out, const X *x, const W *w, const void *bias, bool bias_bf16, int64_t R, int64_t K,
                                                                 int64_t N, activation act)
{
    int lane = threadIdx.x % 32;
    int64_t n = blockIdx.x * (int64_t)PLAIN_WARPS + threadIdx.x / 32, r0 = blockIdx.y * (int64_t)PLAIN_ROWS;
    if (n >= N)
        return;
    float sum[PLAIN_ROWS] = { 0 };
    for (int64_t k = lane; k < K; k += 32) {
        float weight = to_f(w[n * K + k]);
#pragma unroll
        for (int r = 0; r < PLAIN_ROWS; r++)
            if (r0 + r < R)
                sum[r] += to_f(x[(r0 + r) * K + k]) * weight;
    }
    float b = !bias ? 0.0f : bias_bf16 ? to_f(((const bf16 *)bias)[n]) : ((const float *)bias)[n];
#pragma unroll
    for (int r = 0; r < PLAIN_ROWS; r++) {
        float v = warp_sum(sum[r]) + b;
        if (lane == 0 && r0 + r < R)
            out[(r0 + r) * N + n] = from_f<O>(act == ACT_GELU_TANH ? gelu_tanh_of(v) : act == ACT_SILU ? silu_of(v) : v);
    }
}

template <class X, class W, class O>
static int run_plain(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    int64_t R = tensor_nrows(x), K = w->shape[1], N = w->shape[0], most = 65535 * (int64_t)PLAIN_ROWS;
    for (int64_t r = 0; r < R; r += most) {
        int64_t rows = R - r < most ? R - r : most;
        dim3 grid(blocks_for(N, PLAIN_WARPS), blocks_for(rows, PLAIN_ROWS));
        plain<X, W, O><<<grid, PLAIN_WARPS * 32, 0, impl(be)->stream>>>((O *)out->data + r * N, (const X *)x->data + r * K, (const W *)w->data,
                                                                       bias ? bias->data : NULL, bias && bias->dtype == DT_BF16, rows, K, N, act);
    }
    return cuda_launched(be, "linear", e);
}

static int linear_plain(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    bool xb = x->dtype == DT_BF16, wb = w->dtype == DT_BF16, ob = out->dtype == DT_BF16;
    if ((!xb && x->dtype != DT_F32) || (!wb && w->dtype != DT_F32) || (!ob && out->dtype != DT_F32) ||
        (bias && bias->dtype != DT_F32 && bias->dtype != DT_BF16))
        return ERR(e, ERR_INTERNAL, "linear: no kernel for %s x %s -> %s", dtype_name(x->dtype), dtype_name(w->dtype), dtype_name(out->dtype));
    if (xb)
        return wb ? ob ? run_plain<bf16, bf16, bf16>(be, out, x, w, bias, act, e) : run_plain<bf16, bf16, float>(be, out, x, w, bias, act, e)
                  : ob ? run_plain<bf16, float, bf16>(be, out, x, w, bias, act, e) : run_plain<bf16, float, float>(be, out, x, w, bias, act, e);
    return wb ? ob ? run_plain<float, bf16, bf16>(be, out, x, w, bias, act, e) : run_plain<float, bf16, float>(be, out, x, w, bias, act, e)
              : ob ? run_plain<float, float, bf16>(be, out, x, w, bias, act, e) : run_plain<float, float, float>(be, out, x, w, bias, act, e);
}

/* ---- bf16 through cuBLASLt ---- */

enum { WORKSPACE = 32 << 20, SLOTS = 64 };

typedef struct {
    int64_t R, K, N;
    bool bias, out_f32, fp8;
    activation act;
    int align_x, align_w, align_out;
} gemm_key;

typedef struct {
    gemm_key key;
    bool used, refused;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
} gemm_plan;

struct gemm_cache {
    cublasLtHandle_t lt;
    void *workspace;
    void *bias;                     /* an f32 bias rounded for the epilogue */
    int64_t bias_room;
    int next;                       /* the slot to give up when all are taken */
    gemm_plan plans[SLOTS];
};

static void drop(gemm_plan *p)
{
    if (p->desc)
        blas.desc_destroy(p->desc);
    if (p->w)
        blas.layout_destroy(p->w);
    if (p->x)
        blas.layout_destroy(p->x);
    if (p->out)
        blas.layout_destroy(p->out);
    *p = gemm_plan{};
}

void gemm_close(cuda_impl *c)
{
    if (!c->gemm)
        return;
    for (int i = 0; i < SLOTS; i++)
        drop(&c->gemm->plans[i]);
    if (c->gemm->workspace)
        cudaFreeAsync(c->gemm->workspace, c->stream);
    if (c->gemm->bias)
        cudaFreeAsync(c->gemm->bias, c->stream);
    if (c->gemm->lt)
        blas.lt_destroy(c->gemm->lt);
    free(c->gemm);
    c->gemm = NULL;
}

static int gemm_open(backend *be, err *e)
{
    cuda_impl *c = impl(be);
    if (c->gemm)
        return 0;
    if (!(c->gemm = (struct gemm_cache *)calloc(1, sizeof *c->gemm)))
        return ERR(e, ERR_MEMORY, "no host memory for the plans of matrix products");
    if (blas.lt_create(&c->gemm->lt) != CUBLAS_STATUS_SUCCESS)
        return ERR(e, ERR_DEVICE, "%s: cuBLASLt could not start; is its library the one this program was built with?", be->device);
    CUDA_TRY(cudaMallocAsync(&c->gemm->workspace, WORKSPACE, c->stream), "the workspace of matrix products");
    be->bytes_now += WORKSPACE;
    if (be->bytes_now > be->bytes_peak)
        be->bytes_peak = be->bytes_now;
    return 0;
}

static int alignment(const void *p, int64_t row_bytes)
{
    uint64_t bits = (uint64_t)p | (uint64_t)row_bytes | 256;
    return (int)(bits & (~bits + 1));
}

/* row-major out = x w^T is, in columns, out[N,R] = w[K,N]^T x[K,R] */
static bool describe(gemm_plan *p, const gemm_key *k)
{
    cublasOperation_t transpose = CUBLAS_OP_T;
    cublasLtEpilogue_t epilogue = k->act == ACT_GELU_TANH ? k->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU
                                                          : k->bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    cudaDataType_t out = k->out_f32 ? CUDA_R_32F : CUDA_R_16BF, in = k->fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    cublasLtMatmulMatrixScale_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    return blas.desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
           blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof transpose) == CUBLAS_STATUS_SUCCESS &&
           blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue) == CUBLAS_STATUS_SUCCESS &&
           (!k->fp8 || (blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &rows, sizeof rows) == CUBLAS_STATUS_SUCCESS &&
                        blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof rows) == CUBLAS_STATUS_SUCCESS)) &&
           blas.layout_create(&p->w, in, (uint64_t)k->K, (uint64_t)k->N, k->K) == CUBLAS_STATUS_SUCCESS &&
           blas.layout_create(&p->x, in, (uint64_t)k->K, (uint64_t)k->R, k->K) == CUBLAS_STATUS_SUCCESS &&
           blas.layout_create(&p->out, out, (uint64_t)k->N, (uint64_t)k->R, k->N) == CUBLAS_STATUS_SUCCESS;
}

static bool choose(struct gemm_cache *g, gemm_plan *p, const gemm_key *k)
{
    cublasLtMatmulPreference_t pref = NULL;
    cublasLtMatmulHeuristicResult_t best;
    uint64_t workspace = WORKSPACE;
    uint32_t no_split = CUBLASLT_REDUCTION_SCHEME_NONE, aw = (uint32_t)k->align_w, ax = (uint32_t)k->align_x, ao = (uint32_t)k->align_out;
    int found = 0;
    bool ok = blas.preference_create(&pref) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split, sizeof no_split) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aw, sizeof aw) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &ax, sizeof ax) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &ao, sizeof ao) == CUBLAS_STATUS_SUCCESS &&
              blas.preference_set(pref, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &ao, sizeof ao) == CUBLAS_STATUS_SUCCESS &&
              blas.heuristic(g->lt, p->desc, p->w, p->x, p->out, p->out, pref, 1, &best, &found) == CUBLAS_STATUS_SUCCESS && found;
    if (pref)
        blas.preference_destroy(pref);
    if (ok)
        p->algo = best.algo;
    return ok;
}

static void point_at_scales(gemm_plan *p, const tensor *w, const tensor *x)
{
    const void *a = w->scale, *b = x->scale;
    blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &a, sizeof a);
    blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &b, sizeof b);
}

/* The plan of a shape: cuBLASLt's first suggestion, which depends on shape, types, alignment and GPU only. */
static gemm_plan *plan_of(struct gemm_cache *g, const gemm_key *k, const tensor *w, const tensor *x)
{
    for (int i = 0; i < SLOTS; i++) {
        const gemm_key *o = &g->plans[i].key;
        if (g->plans[i].used && o->R == k->R && o->K == k->K && o->N == k->N && o->bias == k->bias && o->out_f32 == k->out_f32 && o->fp8 == k->fp8 && o->act == k->act &&
            o->align_x == k->align_x && o->align_w == k->align_w && o->align_out == k->align_out)
            return &g->plans[i];
    }
    gemm_plan *p = &g->plans[g->next];
    g->next = (g->next + 1) % SLOTS;
    drop(p);
    p->key = *k;
    p->used = true;
    p->refused = !describe(p, k);
    if (!p->refused && k->fp8)      /* without them the library does not find its kernels */
        point_at_scales(p, w, x);
    p->refused = p->refused || !choose(g, p, k);
    return p;
}

__global__ static void narrow(bf16 *out, const float *in, int64_t n)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (int64_t)blockDim.x)
        out[i] = __float2bfloat16_rn(in[i]);
}

/* The epilogue takes a bias of the output's type. */
static int bias_for(backend *be, const tensor *bias, dtype type, const void **out, err *e)
{
    struct gemm_cache *g = impl(be)->gemm;
    *out = bias->data;
    if (bias->dtype == type)
        return 0;
    int64_t n = tensor_count(bias);
    if (n > g->bias_room) {
        cuda_retire(be, g->bias);
        g->bias = NULL;
        g->bias_room = 0;
        CUDA_TRY(cudaMallocAsync(&g->bias, (size_t)n * 2, impl(be)->stream), "a rounded bias");
        g->bias_room = n;
    }
    narrow<<<blocks_for(n, 256), 256, 0, impl(be)->stream>>>((bf16 *)g->bias, (const float *)bias->data, n);
    *out = g->bias;
    return 0;
}

static int linear_lt(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    const float one = 1, none = 0;
    gemm_key k = { tensor_nrows(x), w->shape[1], w->shape[0], bias != NULL, out->dtype == DT_F32, x->dtype == DT_F8_E4M3, act };
    int64_t size = k.fp8 ? 1 : 2;
    int rc = gemm_open(be, e);
    if (rc)
        return rc;
    k.align_x = alignment(x->data, k.K * size);
    k.align_w = alignment(w->data, k.K * size);
    k.align_out = alignment(out->data, k.N * (k.out_f32 ? 4 : 2));
    if (!k.fp8 && (k.align_x < 16 || k.align_w < 16 || k.align_out < 16))
        return linear_plain(be, out, x, w, bias, act, e);
    gemm_plan *p = plan_of(impl(be)->gemm, &k, w, x);
    if (k.fp8 && p->refused)
        return ERR(e, ERR_DEVICE, "%s: cuBLASLt has no 8-bit product of %lld x %lld x %lld with a factor a row; use model.precision bf16", be->device,
                   (long long)k.R, (long long)k.K, (long long)k.N);
    if (k.fp8)
        point_at_scales(p, w, x);
    if (p->refused || act == ACT_SILU || (bias && k.out_f32 && bias->dtype != DT_F32))
        return linear_plain(be, out, x, w, bias, act, e);
    if (bias) {
        const void *b;
        if ((rc = bias_for(be, bias, out->dtype, &b, e)))
            return rc;
        blas.desc_set(p->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &b, sizeof b);
    }
    cublasStatus_t s = blas.matmul(impl(be)->gemm->lt, p->desc, &one, w->data, p->w, x->data, p->x, &none, out->data, p->out, out->data, p->out, &p->algo,
                                   impl(be)->gemm->workspace, WORKSPACE, impl(be)->stream);
    if (s != CUBLAS_STATUS_SUCCESS)
        return ERR(e, ERR_DEVICE, "%s: cuBLASLt refused a product of %lld x %lld x %lld: %s", be->device, (long long)k.R, (long long)k.K, (long long)k.N,
                   blas.status_string(s));
    return cuda_launched(be, "linear", e);
}

extern "C" int cuda_linear(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e)
{
    if (!tensor_nrows(x) || !w->shape[0])
        return 0;
    bool f32 = x->dtype == DT_F32 && out->dtype == DT_F32 && (!bias || bias->dtype == DT_F32);
    if (f32 && (w->dtype == DT_F32 || tensor_nrows(x) > 64 || w->dtype == DT_F16))
        return linear_f32(be, out, x, w, bias, act, e);
    if (x->dtype == w->dtype && (x->dtype == DT_BF16 || x->dtype == DT_F8_E4M3))
        return linear_lt(be, out, x, w, bias, act, e);
    return linear_plain(be, out, x, w, bias, act, e);
}
