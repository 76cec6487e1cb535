/* ckpt_random: a checkpoint of a network of a given configuration with random weights, without a file. For measuring: it goes
 * through the loaders that a downloaded one goes through, and its values have the scale of trained ones.
 *
 * Matrices are normal with deviation 1/sqrt(fan-in) and held in bf16 (the VAE's in f32), norms are 1, biases small: activations
 * stay near 1 and attention is neither flat nor one-hot. Values repeat after some millions of elements, at another place in every
 * tensor: a 14B model takes address space, but only some dozens of megabytes of memory. The same configuration and seed give
 * the same values. */
#ifndef WANSCOPE_CKPT_RANDOM_H
#define WANSCOPE_CKPT_RANDOM_H

#include "core/dit/dit_config.h"
#include "core/io/ckpt.h"

/* ckpt_close() it. `name` stands for the path in messages. ERR_MEMORY when address space or memory runs out. */
int ckpt_random_dit(ckpt **out, const char *name, const dit_config *cfg, uint64_t seed, err *e);
int ckpt_random_umt5(ckpt **out, const char *name, const umt5_config *cfg, uint64_t seed, err *e);
int ckpt_random_vae(ckpt **out, const char *name, const vae_config *cfg, uint64_t seed, err *e);

#endif
