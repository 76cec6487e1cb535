/* settings: the configuration and the engine in one translation unit. Both name the two kinds of noise; the engine's names
 * win, the configuration's get a prefix. Both count torch-cpu as 0 and torch-cuda as 1. */
#ifndef WANSCOPE_SETTINGS_H
#define WANSCOPE_SETTINGS_H

#include "core/engine.h"

#define NOISE_TORCH_CPU CONFIG_NOISE_TORCH_CPU
#define NOISE_TORCH_CUDA CONFIG_NOISE_TORCH_CUDA
#include "experiments/config.h"
#undef NOISE_TORCH_CPU
#undef NOISE_TORCH_CUDA

#endif
