/* precision: the one place that says in which type each kind of value is held and computed.
 *
 * exact: f32 everywhere; equals upstream run in float32 (diffusers with torch_dtype=float32), and is what goldens check.
 * The sinusoid of the timestep and the rotary angles are computed in f64 and rounded to f32, as official Wan does
 * (Wan2.1/wan/modules/model.py:18-28, 31-70).
 *
 * bf16: the casts of the official code under autocast(bf16) (wan-engine.md 5.4): matrix products take bf16 and give bf16 with f32
 * accumulation and one rounding after the bias; q, k, v and the attention's output are bf16, its softmax f32; the residual stream,
 * norms, modulation, the timestep's embedding, guidance and the sampler are f32. Where fusion drops a rounding of the official
 * code, the op that does so says it. The VAE computes in bf16 with f32 accumulation (official: f32 with TF32 products).
 *
 * fp8: as bf16, but the matrices of the blocks are held and multiplied in e4m3 with a scale a row of the weight and a row of the
 * activations, and self-attention over all keys multiplies in 8 bits: int8 scores, e4m3 probabilities and values. */
#ifndef WANSCOPE_PRECISION_H
#define WANSCOPE_PRECISION_H

#include "core/base/err.h"
#include "core/tensor.h"

typedef struct precision {
    const char *name;
    dtype stream;     /* residual stream, norms, modulation, head */
    dtype act;        /* inputs and outputs of matrix products, q, k, v */
    dtype weight;     /* matrices; DT_COUNT: as in the file, widened exactly where they are used */
    dtype block;      /* the matrices of the transformer's blocks */
    dtype attn;       /* DT_F8_E4M3: self-attention multiplies in 8 bits where the device can (core/attention8.h); else as act */
    dtype vae;        /* frames and convolutions of the VAE */
} precision;

/* The sentence lists the known ones. */
int precision_find(const precision **out, const char *name, err *e);
/* `p` where the backend can compute so, otherwise the nearest more exact one. */
const precision *precision_on(const precision *p, const backend *be);

#endif
