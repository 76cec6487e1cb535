/* dit_config: what a DiT, umT5 or VAE checkpoint is, read from tensor names and shapes and checked against config.json.
 * Sources: wan-engine.md 1.1, 2.4; Wan2.1/wan/modules/model.py:383-399 (defaults of keys a config.json may lack). */
#ifndef WANSCOPE_DIT_CONFIG_H
#define WANSCOPE_DIT_CONFIG_H

#include <stdbool.h>

#include "core/base/err.h"
#include "core/base/str.h"
#include "core/io/ckpt.h"

#define DIT_MAX_VACE_LAYERS 64

typedef struct dit_config {
    char model_type[16];     /* "t2v", "vace", "i2v", "ti2v" ...: config.json, or detected */
    int in_dim, out_dim;     /* latent channels in and out */
    int dim, ffn_dim, freq_dim, text_dim, text_len;
    int num_heads, num_layers;
    double eps;
    int patch_t, patch_h, patch_w;      /* always 1,2,2 for this family */
    bool fp8_scaled;                    /* not of the file: round the matrices of blocks to 8 bits as they are read (core/io/quantise.h) */
    bool has_shot_embedding;            /* HoloCine checkpoints that carry one */
    int vace_in_dim;                    /* 0: no VACE tensors */
    int n_vace_layers, vace_layers[DIT_MAX_VACE_LAYERS];
} dit_config;

/* `config` is the parsed config.json or NULL. Shapes win where the file is silent; a disagreement is an error naming both.
 * num_heads: config.json, else dim/128 when that is whole. text_len: config.json, else 512. */
int dit_config_detect(dit_config *out, const ckpt *c, const json *config, err *e);
/* Fills the VACE part of a base's configuration from a file with VACE tensors (the release as a whole, or those alone).
 * ERR_SHAPE for a file without, or one made for another base. */
int dit_config_add_vace(dit_config *base, const ckpt *vace, const json *config, err *e);
void dit_config_describe(const dit_config *c, str *out);  /* one line: "Wan t2v: 30 layers, dim 1536, 12 heads, ..." */

typedef struct umt5_config {
    int vocab_size, dim, dim_attn, dim_ffn, num_heads, num_layers, num_buckets;
} umt5_config;
int umt5_config_detect(umt5_config *out, const ckpt *c, err *e);

typedef struct vae_config {
    int dim, z_dim;           /* 96 and 16 for Wan 2.1 */
    int mult[4];              /* 1,2,4,4 */
    int num_res_blocks;       /* 2 */
    bool temporal_down[3];    /* F,T,T: which downsamples also halve time */
} vae_config;
int vae_config_detect(vae_config *out, const ckpt *c, err *e);

/* Where the parts of a model are, given what a user passes as a checkpoint: an original-layout folder, a diffusers
 * folder, a Wan 2.2 folder with two experts, or a single DiT file (then text encoder, VAE and tokenizer are looked for
 * beside it and may be given separately). Paths are owned; NULL when not found. */
typedef struct model_files {
    char *dit, *dit_low;      /* dit_low: the low-noise expert of a pair, dit is then the high-noise one */
    char *config, *config_low;/* their config.json, or NULL */
    char *t5, *vae;
    char *lora;               /* LongLive: lora.pt beside the model, or NULL */
    char *tokenizer;          /* folder with spiece.model and, usually, tokenizer.json */
    char family[24];          /* "wan2.1", "wan2.2-a14b", "vace", "holocine", "longlive" */
} model_files;
int model_files_find(model_files *out, const char *path, err *e);
void model_files_release(model_files *m);
/* Is a file of a pair called as HoloCine's are: full_*, sparse_*, *holocine*? */
bool model_files_named_holocine(const char *path);

#endif
