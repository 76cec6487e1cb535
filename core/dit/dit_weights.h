/* dit_weights: the tensors of a DiT by role. Internal to core/dit. Shapes in wan-engine terms: D = dim, M = ffn_dim. */
#ifndef WANSCOPE_DIT_WEIGHTS_H
#define WANSCOPE_DIT_WEIGHTS_H

#include "core/backend.h"
#include "core/dit/dit_config.h"
#include "core/dit/lora.h"
#include "core/precision.h"

typedef struct dit_linear { tensor w, b; } dit_linear;      /* [out, in], [out] */

typedef struct dit_attention {
    dit_linear q, k, v, o;           /* [D, D] */
    tensor norm_q, norm_k;           /* [D]: RMSNorm over all heads together (model.py:127-128) */
} dit_attention;

typedef struct dit_block {
    dit_attention self_attn, cross_attn;
    tensor norm3_w, norm3_b;         /* [D], the only affine LayerNorm: before cross-attention */
    dit_linear ffn_0, ffn_2;         /* [M, D], [D, M] */
    tensor modulation;               /* f32 [6, D]: shift, scale, gate of self-attention, then of the FFN */
    dit_linear after;                /* [D, D]: after_proj of a VACE block, empty in others */
} dit_block;

/* All tensors of a block, those that it has not too; whoever adds one adds it there. */
enum { DIT_BLOCK_TENSORS = 29 };
void dit_block_tensors(dit_block *b, tensor *out[DIT_BLOCK_TENSORS]);
void dit_block_free(dit_block *b);      /* leaves it empty */

typedef struct dit_vace {
    dit_linear patch_embedding;      /* [D, vace_in_dim*4] */
    dit_linear before_proj;          /* [D, D], of the first block only */
    dit_block *blocks;
    int n_blocks;
    int layers[DIT_MAX_VACE_LAYERS]; /* main block after which hint i is added */
} dit_vace;

typedef struct dit_weights {
    dit_linear patch_embedding;      /* [D, in_dim*4] */
    dit_linear text_embedding_0, text_embedding_2;
    dit_linear time_embedding_0, time_embedding_2;
    dit_linear time_projection;      /* [6D, D] */
    dit_linear head;                 /* [4*out_dim, D] */
    tensor head_modulation;          /* f32 [2, D]: shift, scale */
    tensor shot_embedding;           /* [shots, D], or empty: most checkpoints have none */
    int n_blocks;
    dit_block *blocks;
} dit_weights;

/* On failure the weights loaded so far stay in *out for dit_weights_free(). Adapters are merged as the weights are read. `n_swapped`
 * blocks go to `swap` (NULL with 0) and are empty in *out. */
struct dit_swap;
int dit_weights_load(dit_weights *out, backend *be, const ckpt *c, const dit_config *cfg, const precision *prec, const lora *loras, int n_loras,
                     struct dit_swap *swap, int n_swapped, err *e);
void dit_weights_free(dit_weights *w);
int dit_vace_load(dit_vace *out, backend *be, const ckpt *c, const dit_config *cfg, const precision *prec, int vace_in_dim, int n_layers,
                  const int *layers, const lora *loras, int n_loras, struct dit_swap *swap, int n_swapped, err *e);
void dit_vace_free(dit_vace *v);

#endif
