#include "core/run_windows.h"

#include <stdlib.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

int window_run_begin(window_run *x, const engine *g, const run_params *r, const int64_t shape[4], err *e)
{
    int rc = 0, channels = g->dit_cfg.in_dim;
    *x = (window_run){ 0 };
    if (!r->windows || shape[1] <= r->windows->length)
        return 0;
    if (r->vace_references && run_has_vace(g, r))
        return ERR(e, ERR_CONFIG, "context windows and VACE references exclude each other: a reference stands before the whole video, not before every window; "
                   "leave one of the two out");
    for (int i = 0; i < 4; i++)
        x->shape[i] = shape[i];
    x->in_channels = channels;
    TRY(windows_make(&x->list, r->windows, (int)shape[1], e));
    for (int i = 0; i < x->list.n; i++)
        x->longest = x->list.items[i].n > x->longest ? x->list.items[i].n : x->longest;
    int64_t plane = shape[2] * shape[3], most = channels;
    if (run_has_vace(g, r)) {
        most = g->dit_cfg.vace_in_dim > most ? g->dit_cfg.vace_in_dim : most;
        x->vace = malloc((size_t)(g->dit_cfg.vace_in_dim * shape[1] * plane) * sizeof *x->vace);
    }
    x->whole = malloc((size_t)(shape[0] * shape[1] * plane) * sizeof *x->whole);
    x->part = malloc((size_t)(most * x->longest * plane) * sizeof *x->part);
    if (!x->whole || !x->part || (run_has_vace(g, r) && !x->vace))
        rc = ERR(e, ERR_MEMORY, "no host memory for context windows of %d latent frames", x->longest);
    else
        rc = window_sum_begin(&x->sum, r->windows, (int)shape[0], (int)shape[1], plane, e);
out:
    if (rc)
        window_run_end(x);
    return rc;
}

void window_run_end(window_run *x)
{
    windows_release(&x->list);
    window_sum_end(&x->sum);
    tensor_free(&x->latents);
    tensor_free(&x->cut);
    tensor_free(&x->velocity);
    free(x->whole);
    free(x->part);
    free(x->vace);
    *x = (window_run){ 0 };
}

static int make_tensors(window_run *x, const dit_input *in, int frames, err *e)
{
    int rc = 0;
    int64_t H = x->shape[2], W = x->shape[3];
    backend *be = in->latents->be;
    if (x->latents.data && x->latents.shape[1] == frames)
        return 0;
    tensor_free(&x->latents);
    tensor_free(&x->cut);
    tensor_free(&x->velocity);
    TRY(TENSOR_NEW(&x->latents, be, DT_F32, e, x->in_channels, frames, H, W));
    TRY(TENSOR_NEW(&x->velocity, be, DT_F32, e, x->shape[0], frames, H, W));
    if (in->vace_context)
        TRY(TENSOR_NEW(&x->cut, be, DT_F32, e, in->vace_context->shape[0], frames, H, W));
out:
    return rc;
}

/* One window of the latents, with the shot's channel where the checkpoint has one. */
static int put_latents(window_run *x, int i, const shot_run *shots, tensor *to, err *e)
{
    const window *w = &x->list.items[i];
    int64_t plane = x->shape[2] * x->shape[3], C = x->shape[0];
    window_gather(x->part, x->whole, w, (int)C, (int)x->shape[1], plane);
    for (int f = 0; x->in_channels > C && f < w->n; f++)
        for (int64_t k = 0; k < plane; k++)
            x->part[(C * w->n + f) * plane + k] = shot_run_channel(shots, i, f);
    return op_upload(to, x->part, e);
}

int window_run_forward(window_run *x, dit *d, dit_work *work, const dit_input *in, shot_run *shots, const prompt *text, bool cond, tensor *velocity,
                       err *e)
{
    int rc = 0;
    TRY(op_download(x->whole, in->latents, e));
    if (in->vace_context && x->vace_of != in->vace_context) {
        TRY(op_download(x->vace, in->vace_context, e));
        x->vace_of = in->vace_context;
    }
    window_sum_reset(&x->sum);
    for (int i = 0; i < x->list.n; i++) {
        const window *w = &x->list.items[i];
        dit_input part = *in;
        TRY(make_tensors(x, in, w->n, e));
        TRY(shot_run_window(shots, i, text, cond, &part, e));
        TRY(put_latents(x, i, shots, &x->latents, e));
        part.latents = &x->latents;
        if (in->vace_context) {
            window_gather(x->part, x->vace, w, (int)x->cut.shape[0], (int)x->shape[1], x->shape[2] * x->shape[3]);
            TRY(op_upload(&x->cut, x->part, e));
            part.vace_context = &x->cut;
        }
        TRY(dit_forward(d, work, &part, &x->velocity, NULL, NULL, e));
        TRY(op_download(x->part, &x->velocity, e));
        window_sum_add(&x->sum, w, x->part);
    }
    TRY(op_upload(velocity, window_sum_finish(&x->sum), e));
out:
    return rc;
}
