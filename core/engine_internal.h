/* engine_internal: what engine.c, run.c and prompt.c share. */
#ifndef WANSCOPE_ENGINE_INTERNAL_H
#define WANSCOPE_ENGINE_INTERNAL_H

#include "core/dit/dit.h"
#include "core/engine.h"
#include "core/io/ckpt.h"
#include "core/text/clean.h"
#include "core/text/tokenizer.h"
#include "core/text/umt5.h"
#include "core/vae/vace_context.h"
#include "core/vae/vae.h"

struct engine {
    backend *be;
    const precision *prec;
    model_files files;
    bool ftfy;
    ckpt *lora_file;                           /* LongLive's own adapter, merged before all others, or NULL */
    double lora_alpha;
    bool causal;
    ckpt *dit_file[2], *t5_file, *vae_file;    /* index 0: high noise, or the only expert; 1: low noise */
    dit_config dit_cfg;
    umt5_config t5_cfg;                        /* filled by engine_get_info */
    vae_config vae_cfg;
    dit *dits[2];
    umt5 *t5;
    vae *vae;
    tokenizer *tok;
    char digest[5][65];                        /* dit, dit_low, t5, vae, lora; "" until asked for */
    bool have_digests;
    struct engine_adapter {
        engine_lora is;                        /* path and digest point into this engine */
        ckpt *file;
        char digest[65];
    } *adapters;
    engine_lora *loras;                        /* what engine_get_info() shows */
    int n_adapters;
    ckpt *vace_file;                           /* of its own; NULL: in dit_file[0], or none */
    char vace_digest[65];
    bool vace_loaded;
    int blocks_to_swap;                        /* as asked for */
    engine_offload offload;
    int64_t memory_budget, free_at_open;
    engine_memory memory;                      /* the plan in use */
};

struct vace_condition {
    int width, height, frames, n_references;
    tensor context;                            /* empty for a causal model, which gets a block at a time: */
    bool controlled;                           /* a control video or a mask was given */
    int64_t latent_frames, plane;
    float *references;                         /* [n_references, 16, plane] */
    int64_t done;                              /* latent frames encoded so far */
    float *latents;                            /* [latent_frames, 32, plane] of control and mask, or of grey to be made */
    float *folded;                             /* [latent_frames, 64, plane] of the mask; NULL: 1 everywhere */
    vace_source from;
    vace_inputs in;                            /* what `from` reads when the frames lie in memory */
    vace_stream *stream;                       /* until the last frame is encoded */
    float *pixels, *masks;                     /* frames of one latent frame; of masks one more, which the fold may look at */
    int64_t masks_first, masks_read;           /* the first in `masks`; asked for so far */
    err failed;                                /* the first failure: the stream cannot go on */
};

/* Opens model.vace and completes the configuration; loads the hint blocks on the first run that needs them. */
int engine_open_vace(engine *g, const char *path, err *e);
int engine_need_vace_blocks(engine *g, err *e);
/* Does VACE act on this run? Frames that its references add. */
bool run_has_vace(const engine *g, const run_params *r);
int run_check_vace(const engine *g, const run_params *r, err *e);
/* What a condition made for a causal model says about latent frames [first, first + n): f32 [96, n, h, w], the caller frees it. What is not
 * encoded up to there is. References stand in for the first frames of a block; beside a control video or a mask in the first block only. */
int vace_condition_block(vace_condition *c, engine *g, int64_t first, int64_t n, tensor *out, err *e);
/* Device bytes of conditions in a run of latents of this shape; for a causal one a block's context and the encoder's two histories. */
int64_t engine_condition_bytes(const engine *g, const run_params *r, const int64_t shape[4]);
/* Takes the first n frames of latents [C, F, H, W] away. */
int run_drop_frames(tensor *latents, int n, err *e);

/* Opens the adapters and holds them against the experts they are for. */
int engine_open_loras(engine *g, const engine_lora *loras, int n, err *e);
void engine_close_loras(engine *g);
/* The adapters of one expert, in order, LongLive's own first; free() *out. */
int engine_loras_of(const engine *g, int expert, lora **out, int *n, err *e);
int engine_lora_digests(engine *g, err *e);

/* Opens what is needed on first use: a forecast needs no weights, a run from token ids no tokenizer. */
int engine_need_t5(engine *g, err *e);
int engine_need_vae(engine *g, err *e);
int engine_need_dit(engine *g, int expert, err *e);

/* Between two uses of the model: activations are free, slots and kept-back memory go back to the device. */
void engine_settle(engine *g);
/* After the VAE was used: closed where the plan says so. */
void engine_leave_vae(engine *g);
/* Peak of decoding in `bands` bands, beside the VAE's weights. */
int64_t engine_decode_bytes(const engine *g, const run_params *r, const vae_config *v, int bands);

/* A prompt's rows through the text embedding of a DiT: *context is made when empty, [text_len, dim]. */
int engine_embed(engine *g, const prompt *p, int expert, tensor *context, err *e);
/* The first tensor of a model's files that holds NaN or infinity: the likely cause of a run that went bad; or NULL. */
const ckpt_tensor *engine_first_bad(const engine *g, int expert);
/* The options of a causal run with everything from the run's parameters in them, checked. */
int engine_causal_options(const engine *g, const run_params *r, causal_options *out, err *e);
/* engine_run() of a causal model: all blocks, one after the other. */
int engine_run_causal(engine *g, const run_params *r, const hooks *h, tensor *latents, err *e);

struct prompt {
    int n_tokens, dim, text_len;
    float *rows;                               /* [n_tokens, dim] */
    text_clean_result map;                     /* all three empty when made from ids or blended */
    text_tokens tok;
    char *raw;                                 /* the text before cleaning */
};

#endif
