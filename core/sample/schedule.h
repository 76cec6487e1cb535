/* schedule: noise levels and timesteps of a run. wan-engine.md 7.1 gives the rules and their upstream lines. */
#ifndef WANSCOPE_SCHEDULE_H
#define WANSCOPE_SCHEDULE_H

#include "core/base/err.h"

typedef enum {
    SOLVER_UNIPC,             /* official Wan: UniPC order 2, bh2 */
    SOLVER_DPMPP,             /* official Wan: DPM-Solver++ 2M */
    SOLVER_DIFFUSERS_UNIPC,   /* diffusers UniPCMultistep with use_flow_sigmas */
    SOLVER_DIFFUSERS_EULER,   /* diffusers FlowMatchEulerDiscrete */
    SOLVER_DIFFSYNTH_EULER,   /* DiffSynth FlowMatchScheduler (HoloCine) */
    SOLVER_COUNT
} solver_kind;

const char *solver_name(solver_kind k);                 /* "unipc", "dpmpp", "diffusers_unipc", "diffusers_euler", "diffsynth_euler" */
int solver_from_name(const char *name);                 /* a solver_kind, or -1 */

typedef struct schedule {
    solver_kind kind;
    int steps;
    double shift;
    float *sigmas;         /* steps + 1, the last 0 */
    double *timesteps;     /* steps: what enters the model, integer valued or not as the solver's authors have it */
} schedule;

/* steps 1..1000, shift > 0. A schedule whose first integer timesteps coincide is used by loop index, not by search. */
int schedule_build(schedule *out, solver_kind kind, int steps, double shift, err *e);
void schedule_release(schedule *s);

#endif
