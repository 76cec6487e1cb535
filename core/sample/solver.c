#include "core/sample/solver.h"

#include <math.h>
#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum { M0, M1, LAST, X0, D1, CORR, N_STATE };

struct solver {
    const schedule *s;
    int history;           /* x0 predictions kept: 0, 1, 2 */
    int order;             /* order of the previous predictor (the next corrector's) */
    tensor t[N_STATE];     /* M0 newest x0 prediction, M1 the one before; the others are scratch or remembered */
};

int solver_new(solver **out, backend *be, const schedule *s, int ndim, const int64_t *shape, err *e)
{
    int rc = 0;
    bool euler = s->kind == SOLVER_DIFFUSERS_EULER || s->kind == SOLVER_DIFFSYNTH_EULER;
    solver *v = calloc(1, sizeof *v);
    *out = NULL;
    if (!v)
        return ERR(e, ERR_MEMORY, "no memory for a solver");
    v->s = s;
    for (int i = 0; i < N_STATE && !euler; i++)
        TRY(tensor_new(&v->t[i], be, DT_F32, ndim, shape, e));
    *out = v;
    return 0;
out:
    solver_free(v);
    return rc;
}

void solver_free(solver *s)
{
    if (s) {
        for (int i = 0; i < N_STATE; i++)
            tensor_free(&s->t[i]);
        free(s);
    }
}

static float lambda(float sigma)
{
    return logf(1.0f - sigma) - logf(sigma);      /* +inf at 0, -inf at 1: IEEE does the limits */
}

/* ratio * x - coef * m, two products and one subtraction; where the limit makes a coefficient infinite times zero the
 * upstream tensors do the same arithmetic, and the limits below are finite */
static int base(tensor *out, float ratio, const tensor *x, float coef, const tensor *m, err *e)
{
    return op_axpby(out, ratio, x, -coef, m, e);
}

static void shift_history(solver *v)
{
    tensor oldest = v->t[M1];
    v->t[M1] = v->t[M0];
    v->t[M0] = v->t[X0];
    v->t[X0] = oldest;      /* its memory is free for the next prediction */
    if (v->history < 2)
        v->history++;
}

/* x += -(scale * D1-like sum): x = x - scale * (weight * d) */
static int subtract_scaled(tensor *x, float scale, float weight, const tensor *d, tensor *tmp, err *e)
{
    int rc = op_axpby(tmp, weight, d, 0.0f, d, e);      /* weight * d, rounded */
    return rc ? rc : op_axpby(x, 1.0f, x, -scale, tmp, e);
}

/* UniPC, x0 prediction, bh2: corrector at step i (target sigma_i from sigma_{i-1}); wan-engine.md 7.3 step 2 */
static int unipc_correct(solver *v, int i, tensor *x, err *e)
{
    int rc = 0;
    const float *sg = v->s->sigmas;
    float h = lambda(sg[i]) - lambda(sg[i - 1]), hh = -h, phi1 = expm1f(hh), B = expm1f(hh), alpha = 1.0f - sg[i];
    TRY(base(x, sg[i] / sg[i - 1], &v->t[LAST], alpha * phi1, &v->t[M0], e));
    TRY(op_axpby(&v->t[CORR], 1.0f, &v->t[X0], -1.0f, &v->t[M0], e));          /* D1t */
    if (v->order == 1) {
        TRY(subtract_scaled(x, alpha * B, 0.5f, &v->t[CORR], &v->t[D1], e));
    } else {
        float r = (lambda(sg[i - 2]) - lambda(sg[i - 1])) / h;
        TRY(op_axpby(&v->t[D1], 1.0f, &v->t[M1], -1.0f, &v->t[M0], e));
        TRY(op_div_scalar(&v->t[D1], &v->t[D1], r, e));
        float h_phi = phi1 / hh - 1.0f, b1 = h_phi / B, b2 = (h_phi / hh - 0.5f) * 2.0f / B;
        /* [[1,1],[r,1]] rho = b, LU with partial pivoting in f32 as torch.linalg.solve */
        float rho0, rho1;
        if (fabsf(r) > 1.0f) {
            float m = 1.0f / r;
            rho1 = (b1 - m * b2) / (1.0f - m);
            rho0 = (b2 - rho1) / r;
        } else {
            rho1 = (b2 - r * b1) / (1.0f - r);
            rho0 = b1 - rho1;
        }
        TRY(op_axpby(&v->t[D1], rho0, &v->t[D1], rho1, &v->t[CORR], e));
        TRY(op_axpby(x, 1.0f, x, -(alpha * B), &v->t[D1], e));
    }
out:
    return rc;
}

static int unipc_step(solver *v, int i, tensor *x, const tensor *velocity, err *e)
{
    int rc = 0, N = v->s->steps;
    const float *sg = v->s->sigmas;
    TRY(op_axpby(&v->t[X0], 1.0f, x, -sg[i], velocity, e));
    if (i > 0)
        TRY(unipc_correct(v, i, x, e));
    shift_history(v);
    int order = N - i < 2 ? N - i : 2;
    if (order > i + 1)
        order = i + 1;
    v->order = order;
    TRY(op_copy(&v->t[LAST], x, e));
    if (sg[i + 1] == 0.0f) {      /* h = inf, phi1 = -1: exactly the x0 prediction */
        TRY(op_copy(x, &v->t[M0], e));
        goto out;
    }
    float h = lambda(sg[i + 1]) - lambda(sg[i]), phi1 = expm1f(-h), B = phi1, alpha = 1.0f - sg[i + 1];
    if (order == 2) {
        float r = (lambda(sg[i - 1]) - lambda(sg[i])) / h;
        TRY(op_axpby(&v->t[D1], 1.0f, &v->t[M1], -1.0f, &v->t[M0], e));
        TRY(op_div_scalar(&v->t[D1], &v->t[D1], r, e));
    }
    TRY(base(x, sg[i + 1] / sg[i], x, alpha * phi1, &v->t[M0], e));
    if (order == 2)
        TRY(subtract_scaled(x, alpha * B, 0.5f, &v->t[D1], &v->t[CORR], e));
out:
    return rc;
}

/* DPM-Solver++(2M), midpoint, first and last step of first order; wan-engine.md 7.5 */
static int dpmpp_step(solver *v, int i, tensor *x, const tensor *velocity, err *e)
{
    int rc = 0;
    const float *sg = v->s->sigmas;
    TRY(op_axpby(&v->t[X0], 1.0f, x, -sg[i], velocity, e));
    shift_history(v);
    if (sg[i + 1] == 0.0f) {
        TRY(op_copy(x, &v->t[M0], e));
        goto out;
    }
    float h = lambda(sg[i + 1]) - lambda(sg[i]), em1 = expf(-h) - 1.0f, alpha = 1.0f - sg[i + 1];
    if (i > 0) {
        float r0 = (lambda(sg[i]) - lambda(sg[i - 1])) / h;
        TRY(op_axpby(&v->t[D1], 1.0f, &v->t[M0], -1.0f, &v->t[M1], e));
        TRY(op_axpby(&v->t[D1], 1.0f / r0, &v->t[D1], 0.0f, &v->t[D1], e));
    }
    TRY(base(x, sg[i + 1] / sg[i], x, alpha * em1, &v->t[M0], e));
    if (i > 0)
        TRY(op_axpby(x, 1.0f, x, -(0.5f * (alpha * em1)), &v->t[D1], e));
out:
    return rc;
}

int solver_step(solver *v, int i, tensor *x, const tensor *velocity, err *e)
{
    switch (v->s->kind) {
    case SOLVER_UNIPC:
    case SOLVER_DIFFUSERS_UNIPC: return unipc_step(v, i, x, velocity, e);
    case SOLVER_DPMPP: return dpmpp_step(v, i, x, velocity, e);
    default: return op_axpby(x, 1.0f, x, v->s->sigmas[i + 1] - v->s->sigmas[i], velocity, e);
    }
}
