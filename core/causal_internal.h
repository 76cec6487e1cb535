/* causal_internal: what causal.c and causal_state.c share. */
#ifndef WANSCOPE_CAUSAL_INTERNAL_H
#define WANSCOPE_CAUSAL_INTERNAL_H

#include "core/causal.h"
#include "core/sample/rng.h"

enum { CAUSAL_TABLE = 1000 };

typedef struct causal_table {
    float sigma[CAUSAL_TABLE], t[CAUSAL_TABLE];
} causal_table;

struct causal {
    causal_model m;
    causal_options o;
    int channels;
    schedule s;
    causal_table table;
    kv_cache *cache;
    text_cache *text;              /* of the present prompt */
    dit_work *work;
    vae_stream *vae;               /* from the first causal_decode() on */
    const tensor *context;         /* borrowed */
    int64_t n_blocks, n_frames;    /* made */
    int64_t position;              /* rotary position of the next frame: n_frames but for hard cuts */
    int64_t pixel;                 /* number of the next frame to hand out */
    bool broken;
    float *recent;                 /* the last clean frames since a cut, [n_recent][channels, height, width] */
    int64_t n_recent, room;        /* in frames */
    /* the generator: draws of initial noise and of the noise that goes in between */
    rng_cpu first, later;
    uint64_t offset;               /* of the CUDA generator */
    float *all_noise;              /* CUDA, CAUSAL_DRAW_CLIP: the numbers depend on how many are drawn at once */
    tensor x, x0, flow;            /* of a block, on the device: [channels, block, height, width] */
    tensor noise;                  /* of its steps: [steps, channels, block, height, width]; the first lies in x */
    tensor flags;                  /* i32, one a call of a block: did it give NaN or infinity? */
    float *drawn, *turned;         /* noise as it is drawn, frames-major; channels-major, room for max(block, room) frames */
    double *times;
    causal_condition vace;         /* of the next blocks; context NULL: none */
};

#endif
