/* vae_weights: the layers of encoder and decoder as two lists. Internal to core/vae. */
#ifndef WANSCOPE_VAE_WEIGHTS_H
#define WANSCOPE_VAE_WEIGHTS_H

#include "core/vae/vae.h"

typedef struct vae_conv { tensor w, b; } vae_conv;     /* [Cout, kt, kh, kw, Cin] (1x1x1: [Cout, Cin]), [Cout] */

typedef enum { VAE_RES, VAE_ATTN, VAE_UP, VAE_DOWN } vae_layer_kind;

typedef struct vae_layer {
    vae_layer_kind kind;
    tensor norm1, norm2;              /* RES: gammas; ATTN: norm1 */
    vae_conv conv1, conv2, shortcut;  /* RES; UP and DOWN: conv1 is the per-frame 3x3, conv2 the time_conv */
    tensor conv1_up;                  /* UP in BF16: conv1 for each phase of the enlargement (conv_args.w_up), summed in f32, rounded once */
    bool has_shortcut, temporal;
    vae_conv q, k, v, proj;           /* ATTN, [C, C] */
} vae_layer;

enum { VAE_MAX_LAYERS = 32 };

typedef struct vae_side {             /* encoder or decoder */
    vae_conv conv_in, conv_out;
    tensor norm_out;
    int n_layers;
    vae_layer layers[VAE_MAX_LAYERS];
} vae_side;

struct vae {
    backend *be;
    vae_config cfg;
    dtype type;                       /* of frames and convolution weights: F32 or BF16 */
    vae_side encoder, decoder;
    vae_conv quant, post_quant;       /* conv1 [2z, 2z], conv2 [z, z]: 1x1x1, always F32 */
    float mean[64], inv_std[64];
};

int vae_weights_load(vae *v, const ckpt *c, err *e);
void vae_weights_free(vae *v);
int64_t vae_weights_bytes(const vae *v);

#endif
