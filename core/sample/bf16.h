/* bf16: the sampler arithmetic of DiffSynth's pipeline, whose latents are bf16: every product, sum and difference is rounded to
 * bf16 on its own (HoloCine@ab32068/diffsynth/pipelines/wan_video_holocine.py:455-478, schedulers/flow_match.py:45-53).
 * Tensors stay f32 and hold bf16 values. The arithmetic is done on the host, so every device gives the same bytes. */
#ifndef WANSCOPE_SAMPLE_BF16_H
#define WANSCOPE_SAMPLE_BF16_H

#include "core/tensor.h"

double bf16_of(double v);
int bf16_round(tensor *t, err *e);                                            /* in place */
/* cond = R(uncond + R(guidance * R(cond - uncond))), of inputs rounded first */
int bf16_guide(tensor *cond, const tensor *uncond, double guidance, err *e);
/* x = R(x + R(velocity * delta)): the noise level is no tensor of the device upstream, so the product is in f32, rounded once */
int bf16_euler(tensor *x, const tensor *velocity, float delta, err *e);

#endif
