/* dit: the one forward pass of the Wan diffusion transformer, for every model family.
 *
 * Families differ by what is passed in dit_input, not by code: one timestep or one a frame, attention plans (full, shots,
 * causal window), an offset of the frame positions. Formulas: Wan2.1/wan/modules/model.py:296-317, 493-607.
 */
#ifndef WANSCOPE_DIT_H
#define WANSCOPE_DIT_H

#include "core/backend.h"
#include "core/dit/dit_config.h"
#include "core/dit/kv_cache.h"
#include "core/dit/lora.h"
#include "core/dit/text_cache.h"
#include "core/hooks/hooks.h"
#include "core/precision.h"

typedef struct dit dit;            /* weights of one expert; immutable after dit_open */
typedef struct dit_work dit_work;  /* activations of one run, reused from step to step */

/* `c` must be normalised (ckpt_normalise) and stay open as long as the DiT: weights may be views of the mapping. All problems
 * of the checkpoint are reported in one sentence. */
int dit_open(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, err *e);
/* The same with adapters merged into the matrices. */
int dit_open_lora(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, const lora *loras, int n_loras, err *e);
/* The same, with `blocks_to_swap` of the transformer blocks in host memory, from where they are streamed (core/dit/dit_swap.h), and
 * VACE's in proportion; results are the same bits. ERR_CONFIG for more than there are. */
int dit_open_swapped(dit **out, backend *be, const ckpt *c, const dit_config *config, const precision *prec, const lora *loras, int n_loras,
                     int blocks_to_swap, err *e);
/* Frees what only a forward needs on the device; the next one takes it again. */
void dit_rest(dit *d);
/* Adds the blocks of a VACE checkpoint (only its vace_* tensors are read): hint i is added after main block layers[i]. */
int dit_add_vace(dit *d, const ckpt *c, int vace_in_dim, int n_layers, const int *layers, err *e);
/* The same with what adapters hold for VACE blocks merged into them. */
int dit_add_vace_lora(dit *d, const ckpt *c, int vace_in_dim, int n_layers, const int *layers, const lora *loras, int n_loras, err *e);
void dit_close(dit *d);
const dit_config *dit_get_config(const dit *d);
int64_t dit_weight_bytes(const dit *d);                /* on the device, without slots */
int64_t dit_host_bytes(const dit *d);                  /* in host memory */

/* Bytes on the device, from the configuration alone: what dit_open(), dit_add_vace() and dit_work_new() will take. */
typedef struct dit_sizes {
    int64_t fixed, vace_fixed;       /* outside of blocks */
    int64_t block, hint;             /* one block; one of VACE */
    int64_t work;                    /* activations for L tokens and G timesteps */
} dit_sizes;
/* bf16_file: the checkpoint holds bf16. */
void dit_sizes_of(const dit_config *c, const precision *prec, bool bf16_file, bool vace, int64_t L, int64_t G, dit_sizes *out);

/* Text rows [n, text_dim] f32 or of the activations' type (n <= text_len; the rest is zeros, and attended, as upstream) -> context [text_len, dim]. */
int dit_embed_text(dit *d, const tensor *rows, tensor *context, err *e);

/* Memory for latents of [*, F, H, W]; grows when a later call needs more. */
int dit_work_new(dit_work **out, const dit *d, int64_t F, int64_t H, int64_t W, err *e);
void dit_work_free(dit_work *w);

typedef struct dit_input {
    const tensor *latents;         /* f32 [in_dim, F, H, W], H and W even */
    const tensor *context;         /* [text_len, dim] from dit_embed_text */
    int n_timesteps;               /* 1, or F for one timestep a frame */
    const double *timesteps;       /* 0..1000 */
    int64_t frame_offset;          /* rotary position of the first frame */
    attn_plan self_plan;           /* zeroed: full attention */
    attn_plan cross_plan;          /* zeroed: every token sees the whole context */
    const bool *skip_block;        /* num_layers: blocks that do nothing in this pass, or NULL */
    const int *frame_shot;         /* F: the shot of each frame, or NULL; used where the checkpoint has a shot embedding */

    /* causal generation: keys and values of earlier frames; self_plan is then the cache's */
    kv_cache *cache;               /* NULL: none. The first token of this call is number frame_offset * tokens a frame */
    text_cache *text;              /* NULL: none. Of `context`; the caller resets it when that changes */
    bool force_sink;               /* write the sink's slots too when recomputing (kv_cache_plan) */

    /* VACE: needs dit_add_vace() */
    const tensor *vace_context;    /* f32 [vace_in_dim, F, H, W], or NULL */
    double vace_scale;             /* 0 gives exactly the unconditioned result */
    const double *vace_block_scale;/* one factor a hint on top of that, or NULL for 1 */
    bool vace_pad_keys;            /* Scope pads the hint blocks' keys with zeros to a multiple of 128, which take part in the softmax */
    bool sinusoid_f32;             /* Scope computes the timestep's sinusoid in f32 */
} dit_input;

/* velocity: f32 [out_dim, F, H, W]. `where` gives hooks step, sigma and branch; may be NULL with hooks NULL. */
int dit_forward(dit *d, dit_work *w, const dit_input *in, tensor *velocity, const hooks *h, const hook_point *where, err *e);

#endif
