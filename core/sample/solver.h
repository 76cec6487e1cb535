/* solver: one denoising step, latents at sigma[i] -> latents at sigma[i+1], given the velocity at sigma[i].
 *
 * Every scalar operation is f32 and every tensor operation rounds on its own, as upstream's separate kernels do; divisions by
 * scalars are true divisions (PyTorch on the CPU, and diffusers). wan-engine.md 7.3, 7.5, 7.6.
 */
#ifndef WANSCOPE_SOLVER_H
#define WANSCOPE_SOLVER_H

#include "core/backend.h"
#include "core/sample/schedule.h"

typedef struct solver solver;

/* `s` stays the caller's and must live as long. Allocates what the solver remembers (up to 6 tensors of the latents' size). */
int solver_new(solver **out, backend *be, const schedule *s, int ndim, const int64_t *shape, err *e);
void solver_free(solver *s);

/* In place. Steps must come in order, i = 0 .. steps-1. */
int solver_step(solver *s, int i, tensor *latents, const tensor *velocity, err *e);

#endif
