/* hooks: how to look into a run while it goes, and how to change it.
 *
 * An observer is asked first (`wants`, cheap, called before work is queued) and then shown the tensor, which it borrows until
 * it returns and cannot write. An editor is another kind, registered separately, so that a run with observers only is by
 * construction the run without them. A callback that returns an error stops the run with that sentence; ERR_CANCELLED is
 * how a user's interrupt arrives.
 *
 * Points are named with the step they belong to and with the noise level of *this* tensor: row k of the latents (k = 0 is the
 * initial noise) has sigma[k], the velocity of step k was computed at sigma[k] and timestep[k].
 */
#ifndef WANSCOPE_HOOKS_H
#define WANSCOPE_HOOKS_H

#include <stdbool.h>

#include "core/backend.h"

typedef enum {
    HOOK_LATENTS,      /* tensor: latents [C,F,H,W] after `step` steps (step 0: the initial noise) */
    HOOK_VELOCITY,     /* tensor: guided model output [C,F,H,W] of step `step` */
    HOOK_ACTIVATION,   /* tensor: output of upstream's module `module`, [tokens, dim] (before gate and residual for attention) */
    HOOK_CROSS_ATTN,   /* attn: queries and keys of the cross-attention of `layer`; use op_attn_probs() to see maps */
    HOOK_X0,           /* causal generation: the estimate [C,F,H,W] of the clean latents after a call of the model */
} hook_kind;

/* What a call of the model is for. Causal generation calls it also to fill its cache; those calls are no steps. */
typedef enum { PASS_DENOISE, PASS_CLEAN, PASS_RECACHE } hook_pass;

struct kv_cache;

typedef struct hook_point {
    hook_kind kind;
    int step, n_steps;       /* step counts from 0; for HOOK_LATENTS it is the number of steps done */
    double sigma, timestep;
    int expert;              /* 0 high noise (or the only model), 1 low noise */
    bool cond;               /* the conditional branch of guidance */
    int layer, n_layers;     /* -1 outside blocks */
    const char *module;      /* upstream's name: "blocks.3.self_attn", "patch_embedding"; "" where there is none */
    /* causal generation: tensors are those of one block of latent frames, steps count from 0 in every block */
    hook_pass pass;
    int64_t block, frame;    /* the block, and the clip's latent frame that the tensor begins with; 0 elsewhere */
} hook_point;

typedef struct hook_data {
    const tensor *value;     /* or NULL */
    const attn_args *attn;   /* or NULL; `out` in it must not be written */
    int64_t grid[3];         /* tokens are frame-major in this grid (F, H/2, W/2) */
    const struct kv_cache *cache;   /* HOOK_VELOCITY and HOOK_X0 of causal generation: the cache after the call, else NULL */
} hook_data;

typedef struct hook_observer {
    bool (*wants)(const hook_point *p, void *user);
    int (*show)(const hook_point *p, const hook_data *d, void *user, err *e);
    void *user;
} hook_observer;

typedef struct hook_editor {
    bool (*wants)(const hook_point *p, void *user);
    /* HOOK_LATENTS: may write `value`. HOOK_CROSS_ATTN: must compute a->out itself. The unused argument is NULL. */
    int (*edit)(const hook_point *p, tensor *value, const attn_args *a, void *user, err *e);
    void *user;
} hook_editor;

enum { HOOKS_MAX = 8 };

typedef struct hooks {
    int n_observers, n_editors;
    hook_observer observers[HOOKS_MAX];
    hook_editor editors[HOOKS_MAX];
} hooks;

int hooks_observe(hooks *h, hook_observer o, err *e);
int hooks_edit(hooks *h, hook_editor ed, err *e);

/* For the engine. `h` may be NULL. */
bool hooks_wanted(const hooks *h, const hook_point *p);
int hooks_show(const hooks *h, const hook_point *p, const hook_data *d, err *e);
bool hooks_edited(const hooks *h, const hook_point *p);
int hooks_apply(const hooks *h, const hook_point *p, tensor *value, const attn_args *a, err *e);

#endif
