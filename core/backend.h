/* backend: the one table of operations that models are written in, with one implementation a kind of device.
 *
 * Rules for every op:
 *  - rows are tokens, pixels or text positions; the last axis is channels. Activations and outputs have the dtypes the
 *    caller's precision policy chose (core/precision.h); weights may be f32, bf16 or f16 and are widened exactly.
 *  - shapes are checked once, in backend.c (the op_* functions below), before dispatch, so that all backends refuse the
 *    same input with the same sentence. Models call op_*(), never the table.
 *  - no op changes its result with the number of threads, the other work on the device, or what is captured.
 *  - accumulation is f32; products are rounded on their own where the header says so (samplers).
 */
#ifndef WANSCOPE_BACKEND_H
#define WANSCOPE_BACKEND_H

#include "core/base/err.h"
#include "core/io/ckpt.h"
#include "core/tensor.h"

typedef enum { ACT_NONE, ACT_GELU_TANH, ACT_SILU } activation;

/* Which keys each query sees. Segments cover the queries without overlap; the key ranges of a segment are visited in
 * order and may repeat a key (HoloCine counts a shot's own first frame twice). Full attention is one segment with one
 * range; shot-sparse attention has one segment a shot; a causal window over a ring has up to three ranges (sink, two
 * pieces of the ring); a padded text has the range of its real tokens. */
typedef struct attn_range { int64_t begin, end; } attn_range;
typedef struct attn_segment {
    int64_t q_begin, q_end;
    int n_ranges;
    const attn_range *ranges;        /* borrowed */
} attn_segment;
typedef struct attn_plan {
    int n_segments;
    const attn_segment *segments;    /* borrowed; NULL with n_segments 0 means every query sees every key */
} attn_plan;

/* The gated residual sum and the LayerNorm that follows it: x += y * gate, then out = LayerNorm(x), modulated or affine. */
typedef struct residual_norm_args {
    tensor *x;                       /* [R, K] */
    const tensor *y, *gate;          /* [R, K]; gate [G, K] or NULL for 1 */
    tensor *out;                     /* [R, K] */
    const tensor *a, *b;             /* modulated: scale and shift [G, K] as op_layernorm_mod(); else weight and bias [K] */
    bool modulated;
    float eps;
} residual_norm_args;

typedef struct attn_args {
    tensor *out;                     /* [Lq, N*D] */
    const tensor *q, *k, *v;         /* [Lq, N*D], [Lk, N*D], [Lk, N*D] */
    int n_heads;
    float scale;                     /* 1/sqrt(D), or 1 for umT5 */
    attn_plan plan;
    const tensor *rel_bias;          /* [N, 2*span-1] f32 or NULL: added to the score of (i, j) at column j-i+span-1 */
    tensor *lse;                     /* f32 [N, Lq] or NULL: receives log(sum over the visible keys of exp(score)) of every query */
    tensor *room8;                   /* scratch, u8 [1, attn8_bytes() (core/attention8.h) or more], or NULL. With it the products may be of 8 bits (scores */
                                     /* of int8, probabilities and values of e4m3) where the backend can for this plan and these shapes and lse is NULL */
} attn_args;

/* Attention probabilities of chosen key columns, for capture: out[h or 0][w][i] = sum over the columns c of word w of
 * softmax over all keys the plan shows to query i. Never stores Lq x Lk. f32 softmax and accumulation. */
typedef struct attn_probs_args {
    tensor *out;                     /* f32 [N or 1, words, Lq]; first axis 1 = mean over heads */
    const tensor *q, *k;
    int n_heads;
    float scale;
    attn_plan plan;
    int n_words;
    const int *word_begin;           /* n_words + 1 offsets into columns */
    const int *columns;              /* key indices */
    const tensor *lse;               /* f32 [N, Lq] from op_attention() over the same q, k and plan, or NULL: computed anew */
} attn_probs_args;

/* Rotary tables: token i of a grid (F, H, W), w fastest, is at position (f + frame_offset, h, w). Pair j of a head is rotated
 * by the angle of the axis it belongs to: first pairs[0] pairs by frame, then pairs[1] by row, pairs[2] by column. */
typedef struct rope_table {
    int64_t grid[3];
    int pairs[3];
    int64_t frame_offset;
    const tensor *cs[3];             /* f32 [positions, pairs[a], 2]: cos, sin */
} rope_table;

/* Convolution over [T, H, W, C] frames with history. Input frame index of output frame t and tap a: t*stride_t + a - n_past,
 * where negative indices address `past` from its end and beyond that zeros. Rows and columns outside are zeros. */
typedef struct conv_args {
    tensor *out;                     /* [To, Ho, Wo, Cout] */
    const tensor *x;                 /* [T, H, W, Cin] */
    const tensor *past;              /* [n, H, W, Cin] frames before x, or NULL */
    const tensor *before;            /* [m, H, W, Cin] frames before past, or NULL: a history kept frame by frame need not be joined */
    const tensor *w;                 /* [Cout, kt, kh, kw, Cin] */
    const tensor *bias;              /* [Cout] */
    const tensor *residual;          /* like out, added after the bias, or NULL */
    int n_past;                      /* history the kernel reaches back: 2 for kt = 3 causal, 0 for a strided down conv */
    int stride_t, stride_h, stride_w;
    int pad_h, pad_w;                /* zeros above and to the left; below and right follow from the output size */
    bool upsample2x;                 /* x is read as its nearest 2x enlargement in rows and columns */
    const tensor *w_up;              /* with upsample2x, 3x3 and kt 1: w with the taps summed that fall on one pixel of x, [Cout, 2x2 phases, 2, 2, Cin] */
                                     /* (row parity, column parity; row, column), or NULL; a backend may use it instead: 4/9 of the products */
    const tensor *norm;              /* gamma f32 [Cout] or NULL: op_pixel_norm() with it and `act` is applied to the result; where that */
    activation act;                  /* is fused, the norm takes the f32 sums, otherwise values rounded to out's type */
} conv_args;

/* 8-bit pictures made from frames on the device and brought to the host while it goes on computing: op_rgb_begin(). Zeroed but for
 * `be` before the first use; used again and again; freed by op_rgb_free(). */
typedef struct rgb_frames {
    backend *be;
    int64_t frames, height, width;
    const uint8_t *rgb;              /* host [frames, height, width, 3], there after op_rgb_wait() */
    const int *nan;                  /* host [frames]: not 0 where a frame had a NaN */
    size_t room;                     /* bytes of pictures the buffers hold */
    void *impl;                      /* the backend's own */
} rgb_frames;

/* Device memory that is filled again and again while the device computes: backend_slot_new(). */
typedef struct backend_slot {
    backend *be;
    void *data;
    size_t bytes;
    bool filled, held;
    void *impl;                      /* the backend's own */
} backend_slot;

/* A download on its way: zeroed, then backend_download_begin(). */
typedef struct backend_download {
    backend *be;
    void *impl;                      /* the backend's own */
} backend_download;

typedef struct backend_ops {
    const char *name;                                                       /* "cpu", "cuda" */
    bool bf16;                                                              /* computes in bf16 and holds weights so, not only in f32 */
    bool fp8;                                                               /* multiplies in e4m3 */
    void (*close)(backend *be);                                             /* frees what impl holds, not impl */
    int (*alloc)(backend *be, void **p, size_t bytes, err *e);
    void (*free)(backend *be, void *p);
    int (*upload)(backend *be, void *dst, const void *host, size_t bytes, err *e);
    int (*download)(backend *be, void *host, const void *src, size_t bytes, err *e);   /* waits for the data */
    int (*copy)(backend *be, void *dst, const void *src, size_t bytes, err *e);
    int (*zero)(backend *be, void *dst, size_t bytes, err *e);
    int (*sync)(backend *be, err *e);
    int (*weight)(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e);
    /* backend_host_*, backend_slot_* and what follows them below; the checks are done before */
    int (*host_alloc)(backend *be, void **p, size_t bytes, err *e);
    void (*host_free)(backend *be, void *p, size_t bytes);
    int (*slot_new)(backend *be, backend_slot *s, err *e);
    void (*slot_free)(backend *be, backend_slot *s);
    int (*slot_fill)(backend *be, backend_slot *s, const void *host, size_t bytes, err *e);
    int (*slot_acquire)(backend *be, backend_slot *s, err *e);
    int (*slot_release)(backend *be, backend_slot *s, err *e);
    int (*download_begin)(backend *be, backend_download *d, void *host, const void *src, size_t bytes, err *e);
    int (*download_wait)(backend *be, backend_download *d, err *e);
    void (*download_free)(backend *be, backend_download *d);
    void (*trim)(backend *be);                                              /* NULL: nothing is kept back */
    bool (*memory)(backend *be, int64_t *free_bytes, int64_t *total_bytes); /* NULL: weights are mapped, there is no limit to plan for */

    /* A sequence of ops recorded once and started as one: between begin and end ops are noted, not run. Every op of it must have run
     * before with the same shapes, so that nothing has to be allocated. All NULL where the backend has none. */
    int (*graph_begin)(backend *be, err *e);
    int (*graph_end)(backend *be, void **graph, err *e);      /* also after a failure in between, which it reports if nobody did */
    int (*graph_launch)(backend *be, void *graph, err *e);
    void (*graph_free)(backend *be, void *graph);

    /* fused forms; NULL where the backend has none: the wrappers below then use the single ops, with the same result */
    int (*residual_norm)(backend *be, const residual_norm_args *a, err *e);
    int (*rmsnorm_rope)(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, const rope_table *r, int n_heads, err *e);

    int (*quantise)(backend *be, tensor *out, const tensor *x, err *e);      /* NULL where fp8 is false */

    int (*linear)(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e);
    int (*layernorm)(backend *be, tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e);
    int (*layernorm_mod)(backend *be, tensor *out, const tensor *x, const tensor *scale, const tensor *shift,
                         float eps, err *e);
    int (*rmsnorm)(backend *be, tensor *out, const tensor *x, const tensor *w, float eps, err *e);
    int (*rope)(backend *be, tensor *x, const rope_table *r, int n_heads, err *e);
    int (*gate_add)(backend *be, tensor *x, const tensor *y, const tensor *gate, err *e);
    int (*add_row)(backend *be, tensor *out, const tensor *x, const tensor *row, err *e);
    int (*cast)(backend *be, tensor *out, const tensor *x, err *e);
    int (*attention)(backend *be, const attn_args *a, err *e);
    int (*attn_probs)(backend *be, const attn_probs_args *a, err *e);
    int (*silu)(backend *be, tensor *out, const tensor *x, err *e);
    int (*gated_gelu)(backend *be, tensor *out, const tensor *x, const tensor *gate, err *e);
    int (*embed)(backend *be, tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e);
    int (*patchify)(backend *be, tensor *tokens, const tensor *latents, err *e);
    int (*unpatchify)(backend *be, tensor *latents, const tensor *tokens, err *e);
    int (*axpby)(backend *be, tensor *out, float a, const tensor *x, float b, const tensor *y, err *e);
    int (*div_scalar)(backend *be, tensor *out, const tensor *x, float d, err *e);
    int (*x0)(backend *be, tensor *out, const tensor *x, double sigma, const tensor *v, err *e);
    int (*nonfinite)(backend *be, tensor *flag, const tensor *x, err *e);
    int (*conv)(backend *be, const conv_args *a, err *e);
    int (*pixel_norm)(backend *be, tensor *out, const tensor *x, const tensor *gamma, activation act, err *e);
    /* NULL where the device has no generator of its own */
    int (*randn_cuda)(backend *be, tensor *out, uint64_t seed, uint64_t first, int64_t threads, int64_t calls, err *e);
    int (*time_interleave)(backend *be, tensor *out, const tensor *x, err *e);
    int (*to_channels_last)(backend *be, tensor *out, const tensor *x, const float *div, const float *add, err *e);
    int (*to_channels_first)(backend *be, tensor *out, const tensor *x, const float *sub, const float *mul, err *e);
    int (*rgb_begin)(backend *be, rgb_frames *r, const tensor *frames, err *e);
    int (*rgb_wait)(backend *be, rgb_frames *r, err *e);
    void (*rgb_free)(backend *be, rgb_frames *r);
} backend_ops;

struct backend {
    const backend_ops *ops;
    char device[128];          /* what a person calls it: "CPU (2 threads)", "NVIDIA H200" */
    void *impl;
    int64_t bytes_now, bytes_peak;  /* memory taken through alloc */
    int64_t bytes_limit;            /* what the device may hold for this backend, memory kept for reuse included; 0: no limit. Near it kept memory is */
                                    /* given back before more is taken, which waits for the device */
};

/* Opens "cpu", "cuda", "cuda:N" or "auto" (CUDA if this build has it and a GPU answers, else CPU). */
int backend_open(backend **out, const char *device, err *e);
int backend_open_cpu(backend **out, err *e);
int backend_gpu_count(void);       /* usable GPUs: 0 without a driver, or in a build without CUDA */
#ifdef HAVE_CUDA
int backend_open_cuda(backend **out, int device, err *e);
#endif
void backend_close(backend *be);

/* ---- memory ---- */
int op_upload(tensor *dst, const void *host, err *e);               /* tensor_bytes(dst) bytes, same dtype */
int op_download(void *host, const tensor *src, err *e);
int op_download_f32(float *host, const tensor *src, err *e);        /* any float dtype, widened */
int op_upload_f32(tensor *dst, const float *host, err *e);          /* rounded to dst's dtype */
int op_copy(tensor *dst, const tensor *src, err *e);                /* same dtype and element count */
int op_zero(tensor *dst, err *e);
/* A weight for this backend: a view of the mapping where it can be used as it lies, otherwise a copy; `want` is the
 * dtype the backend should hold it in (DT_COUNT: as in the file). Shape as in the file, up to 5 axes. */
int op_weight(backend *be, tensor *out, const ckpt_tensor *src, dtype want, err *e);

/* ---- memory for weights that do not fit ---- */
/* Host memory that the device reads at the full speed of the link (pinned); free with the same size. */
int backend_host_alloc(backend *be, void **p, size_t bytes, err *e);
void backend_host_free(backend *be, void *p, size_t bytes);
/* A slot goes through fill, acquire, release, fill ...: fill queues a copy that begins when the ops queued before the last release
 * have ended and runs beside the ops queued after it; ops queued after acquire see what was filled. `host` is from
 * backend_host_alloc() and stays as it is until the next acquire or free. A fill may follow a fill that was never acquired. */
int backend_slot_new(backend_slot *s, backend *be, size_t bytes, err *e);
void backend_slot_free(backend_slot *s);                           /* harmless on a zeroed slot */
int backend_slot_fill(backend_slot *s, const void *host, size_t bytes, err *e);
int backend_slot_acquire(backend_slot *s, err *e);
int backend_slot_release(backend_slot *s, err *e);
/* Queues a copy of n elements of src, from element `first` on, that begins when the ops queued so far have ended and runs beside those
 * queued later, which may not write there before backend_download_wait(). `host` should be from backend_host_alloc(): other memory is
 * as good, but the caller then waits for the copy. May be called again for the same d: a wait is for the last copy, which ends after
 * the ones before. Waiting is allowed in another thread. */
int backend_download_begin(backend_download *d, void *host, const tensor *src, int64_t first, int64_t n, err *e);
int backend_download_wait(backend_download *d, err *e);
void backend_download_free(backend_download *d);                    /* waits; harmless on a zeroed one */
/* Gives memory that was freed, and is kept for the next allocation, back to the device. */
void backend_trim(backend *be);
/* Memory of the device as its driver reports it, other programs included. False on a backend that needs no plan (CPU). */
bool backend_memory(backend *be, int64_t *free_bytes, int64_t *total_bytes);

/* ---- transformer ---- */
/* out[R,N] = act(x[R,K] w[N,K]^T + bias[N]); bias may be NULL */
int op_linear(tensor *out, const tensor *x, const tensor *w, const tensor *bias, activation act, err *e);
/* For products in 8 bits: out [R, K] from tensor_new_scaled(), scale[r] = max |x[r]| / 448, out = x / scale rounded to e4m3. op_linear() takes
 * x and w of this kind together. */
int op_quantise(tensor *out, const tensor *x, err *e);
/* (x - mean) / sqrt(var + eps) * w + b over the last axis, biased variance; w and b NULL: no affine part */
int op_layernorm(tensor *out, const tensor *x, const tensor *w, const tensor *b, float eps, err *e);
/* the same, then * (1 + scale) + shift, each rounded; scale and shift are [G, K]: row r uses group r / (R / G) */
int op_layernorm_mod(tensor *out, const tensor *x, const tensor *scale, const tensor *shift, float eps, err *e);
/* x / sqrt(mean(x^2) + eps) * w over the last axis; out may be x */
int op_rmsnorm(tensor *out, const tensor *x, const tensor *w, float eps, err *e);
/* rotates adjacent pairs (2j, 2j+1) of every head in place */
int op_rope(tensor *x, const rope_table *r, int n_heads, err *e);
/* x += y * gate; gate [G, K] as above, or NULL for 1 */
int op_gate_add(tensor *x, const tensor *y, const tensor *gate, err *e);
/* x += y * gate, then out = LayerNorm(x) as the two ops above; out may not be x or y */
int op_residual_norm(const residual_norm_args *a, err *e);
/* op_rmsnorm() and then op_rope() on the result; out may be x */
int op_rmsnorm_rope(tensor *out, const tensor *x, const tensor *w, float eps, const rope_table *r, int n_heads, err *e);
/* the same values in another type: f32 and bf16 */
int op_cast(tensor *out, const tensor *x, err *e);
/* out[r] = x[r] + row[r / (R / G)] with row [G, K]; out may be x */
int op_add_row(tensor *out, const tensor *x, const tensor *row, err *e);
int op_attention(const attn_args *a, err *e);
int op_attn_probs(const attn_probs_args *a, err *e);
int op_silu(tensor *out, const tensor *x, err *e);
/* out = x * gelu_tanh(gate) (umT5) */
int op_gated_gelu(tensor *out, const tensor *x, const tensor *gate, err *e);
int op_embed(tensor *out, const tensor *table, const int32_t *ids, int64_t n, err *e);
/* latents [C,F,H,W] -> tokens [F*H/2*W/2, C*4], column c*4 + q*2 + r for row offset q, column offset r (Wan2.1 model.py:456) */
int op_patchify(tensor *tokens, const tensor *latents, err *e);
/* tokens [.., 4*C], column (q*2 + r)*C + c -> latents [C,F,H,W] (model.py:600-606) */
int op_unpatchify(tensor *latents, const tensor *tokens, err *e);

/* ---- sampler arithmetic: each product and each sum is rounded to f32 on its own ---- */
int op_axpby(tensor *out, float a, const tensor *x, float b, const tensor *y, err *e);   /* a*x + b*y; out may alias; y may be bf16 */
int op_div_scalar(tensor *out, const tensor *x, float d, err *e);                       /* x / d, a true division */
/* x - sigma * v of f32 values, computed in f64 and rounded once; out may alias (few-step models: LongLive wan_wrapper.py:244-255) */
int op_x0(tensor *out, const tensor *x, double sigma, const tensor *v, err *e);
/* flag i32 [1] = 1 where f32 x holds NaN or infinity, else 0. Queued like any op: nothing is waited for. */
int op_nonfinite(tensor *flag, const tensor *x, err *e);
/* The same, waited for: four bytes come back. */
int op_any_nonfinite(bool *found, const tensor *x, err *e);

/* Normal f32 noise of a CUDA generator of PyTorch (core/sample/noise.h): `threads` threads take Philox blocks first .. first + calls - 1
 * each; only where ops->randn_cuda is there. */
int op_randn_cuda(tensor *out, uint64_t seed, uint64_t first, int64_t threads, int64_t calls, err *e);

/* ---- VAE ---- */
int op_conv(const conv_args *a, err *e);
/* x / max(||x||_2 over channels, 1e-12) * sqrt(C) * gamma, then act (Wan2.1 vae.py:39-54) */
int op_pixel_norm(tensor *out, const tensor *x, const tensor *gamma, activation act, err *e);
/* x [T,H,W,2C] -> out [2T,H,W,C]: the first C channels are frame 2t, the others 2t+1 (vae.py:128-133) */
int op_time_interleave(tensor *out, const tensor *x, err *e);
/* x [C,T,H,W] -> out [T,H,W,C], value / div[c] + add[c] if div is given (latent de-normalisation, a true division) */
int op_to_channels_last(tensor *out, const tensor *x, const float *div, const float *add, err *e);
/* x [T,H,W,C] -> out [C,T,H,W], (value - sub[c]) * mul[c] if given; out may have fewer channels than x */
int op_to_channels_first(tensor *out, const tensor *x, const float *sub, const float *mul, err *e);

/* frames f32 [T, H, W, 3]: queues their conversion to bytes, (uint8)((clamp(v, -1, 1) + 1) / 2 * 255) truncated, each step rounded to
 * f32, and their way to the host; the frames may be freed or changed on return. What a begin before it brought is lost. */
int op_rgb_begin(rgb_frames *r, const tensor *frames, err *e);
int op_rgb_wait(rgb_frames *r, err *e);      /* until r->rgb and r->nan are there */
void op_rgb_free(rgb_frames *r);             /* harmless on a zeroed one */

#endif
