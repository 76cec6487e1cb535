#include "core/sample/schedule.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *const names[SOLVER_COUNT] = { "unipc", "dpmpp", "diffusers_unipc", "diffusers_euler", "diffsynth_euler" };

const char *solver_name(solver_kind k)
{
    return names[k];
}

int solver_from_name(const char *name)
{
    for (int i = 0; i < SOLVER_COUNT; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

/* numpy.linspace(a, b, n + 1)[i] */
static double linspace(double a, double b, int n, int i)
{
    return i * ((b - a) / n) + a;
}

static double shifted(double s, double x)
{
    return s * x / (1 + (s - 1) * x);
}

/* double schedules: sigma rounded to f32 once, timestep truncated from the double (fm_solvers_unipc.py:184-229,
 * fm_solvers.py:24-28, scheduling_unipc_multistep.py:428-466) */
static void integer_steps(schedule *s, double first, double last, bool nudge)
{
    for (int i = 0; i < s->steps; i++) {
        double x = shifted(s->shift, linspace(first, last, s->steps, i));
        if (nudge && i == 0 && fabs(x - 1) < 1e-6)
            x -= 1e-6;
        s->sigmas[i] = (float)x;
        s->timesteps[i] = (double)(long long)(x * 1000);
    }
}

/* scheduling_flow_match_euler_discrete.py:127-144, 334-380: the constructor's smallest sigma is all f32, the rest f64 */
static void diffusers_euler(schedule *s)
{
    float fs = (float)s->shift, min = 0.001f;
    float sigma_min = (fs * min) / (1.0f + (fs - 1.0f) * min);
    double a = 1000.0, b = (double)sigma_min * 1000.0;
    for (int i = 0; i < s->steps; i++) {
        double t = s->steps == 1 ? a : i == s->steps - 1 ? b : i * ((b - a) / (s->steps - 1)) + a;
        s->sigmas[i] = (float)shifted(s->shift, t / 1000.0);
        s->timesteps[i] = (double)(s->sigmas[i] * 1000.0f);
    }
}

/* HoloCine/diffsynth/schedulers/flow_match.py:18-31: f32 torch.linspace(1, 0, N+1), one rounding an element */
static void diffsynth_euler(schedule *s)
{
    int n = s->steps;
    float step = (float)(-1.0 / n), fs = (float)s->shift;
    for (int i = 0; i < n; i++) {
        float x = i < (n + 1) / 2 ? fmaf(step, (float)i, 1.0f) : fmaf(-step, (float)(n - i), 0.0f);
        s->sigmas[i] = (fs * x) / (1.0f + (fs - 1.0f) * x);
        s->timesteps[i] = (double)(s->sigmas[i] * 1000.0f);
    }
}

int schedule_build(schedule *out, solver_kind kind, int steps, double shift, err *e)
{
    *out = (schedule){ .kind = kind, .steps = steps, .shift = shift };
    if (steps < 1 || steps > 1000)
        return ERR(e, ERR_CONFIG, "sampling.steps is %d, 1 to 1000 are possible", steps);
    if (!(shift > 0) || !isfinite(shift))
        return ERR(e, ERR_CONFIG, "sampling.shift is %g, a positive number is needed", shift);
    out->sigmas = calloc((size_t)steps + 1, sizeof *out->sigmas);
    out->timesteps = calloc((size_t)steps, sizeof *out->timesteps);
    if (!out->sigmas || !out->timesteps) {
        schedule_release(out);
        return ERR(e, ERR_MEMORY, "no memory for a schedule of %d steps", steps);
    }
    switch (kind) {
    case SOLVER_UNIPC: integer_steps(out, (double)0.9990000128746033f, 0, false); break;
    case SOLVER_DPMPP: integer_steps(out, 1, 0, false); break;
    case SOLVER_DIFFUSERS_UNIPC: integer_steps(out, 1, 1.0 / 1000, true); break;
    case SOLVER_DIFFUSERS_EULER: diffusers_euler(out); break;
    default: diffsynth_euler(out); break;
    }
    return 0;
}

void schedule_release(schedule *s)
{
    free(s->sigmas);
    free(s->timesteps);
    s->sigmas = NULL;
    s->timesteps = NULL;
}
