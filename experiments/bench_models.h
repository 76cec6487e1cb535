/* bench_models: networks with random weights, ready to be called; for the parts of `wanscope bench`. */
#ifndef WANSCOPE_BENCH_MODELS_H
#define WANSCOPE_BENCH_MODELS_H

#include "core/dit/dit.h"
#include "core/vae/vae.h"
#include "experiments/bench.h"

typedef struct bench_dit {
    bench *b;
    ckpt *file;
    dit_config config;
    dit *d;
    dit_work *work;
    tensor context, latents, velocity;   /* of random text, random latents, and what comes out */
    tensor control;                      /* the conditioning latents of VACE, or empty */
    bool *skip;                          /* a flag a block, all false */
    double timestep;
} bench_dit;

/* `n_swapped` of the blocks lie in host memory. */
int bench_dit_open(bench_dit *out, bench *b, int layers, bool vace, int n_swapped, err *e);
void bench_dit_close(bench_dit *d);      /* harmless on a zeroed one */
int bench_dit_forward(bench_dit *d, const hooks *h, const hook_point *at, err *e);

/* Both are closed by the caller, the VAE first. */
int bench_vae_open(vae **v, ckpt **file, bench *b, err *e);
int bench_drop_frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e);      /* a frame_fn */

/* ERR_NAN when a value is none: random weights that overflow would be measured in another regime than real ones. */
int bench_check_finite(bench *b, const tensor *t, err *e);
/* The same, and ERR_INTERNAL when another call of fn does not write the same bytes into t. */
int bench_check_same(bench *b, bench_fn fn, void *user, const tensor *t, err *e);

#endif
