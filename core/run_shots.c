#include "core/run_shots.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum { CHANNELS = 16 };

static int check_cuts(const run_shots *s, int frames, err *e)
{
    for (int i = 0; i < s->n_cuts; i++) {
        int c = s->cuts[i];
        if (c < 1 || c >= frames || c % 4 != 1)
            return ERR(e, ERR_CONFIG, "cut %d of the shots is at frame %d: cuts are frames of the form 4n+1 from 1 to %d; the nearest is %d", i + 1, c,
                       frames - 1, c < 1 ? 1 : shots_enforce(c) < frames ? shots_enforce(c) : frames - 4 > 0 ? frames - 4 : 1);
        if (i && c <= s->cuts[i - 1])
            return ERR(e, ERR_CONFIG, "cut %d of the shots is at frame %d, not after the one before it at %d: cuts ascend", i + 1, c, s->cuts[i - 1]);
    }
    return 0;
}

static int check_channel(const engine *g, const run_shots *s, err *e)
{
    bool wanted = s && s->mask_channel != SHOT_MASK_NONE, there = g->dit_cfg.in_dim == CHANNELS + 1;
    if (there && !wanted)
        return ERR(e, ERR_CONFIG, "%s takes 17 channels, the last of which tells the shot: give the cuts of the video (shots.cut_frames, [] for one "
                   "shot) and set shots.mask_type to id, normalized or alternating, as it was trained", g->files.dit);
    if (wanted && !there)
        return ERR(e, ERR_CONFIG, "shots.mask_type asks for a channel that tells the shot, but %s takes %d channels, not 17: set it to none",
                   g->files.dit, g->dit_cfg.in_dim);
    return 0;
}

/* The captions of one prompt against the shots of the video; on success *spans is the caller's. */
static int fit(const shot_run *x, const prompt *p, shot_spans *spans, err *e)
{
    int rc = prompt_shot_spans(p, x->s->raw_spans, spans, e);
    if (rc)
        return rc;
    const char *why = prompt_truncated(p) ? ", since the end of the prompt is cut off: shorten it" : "";
    if (!spans->has_global)
        rc = ERR(e, ERR_CONFIG, "the prompt has no [global caption] among the %d tokens that are read: write \"[global caption] ... [per shot caption] "
                 "... [shot cut] ...\", or give no cuts for an ordinary video", prompt_n_tokens(p));
    else if (spans->n < x->n_shots)
        rc = ERR(e, ERR_CONFIG, "the video has %d shots and the prompt captions for %d of them%s: give as many captions as shots", x->n_shots, spans->n,
                 why);
    else if (spans->n > x->n_shots && !x->s->lenient)
        rc = ERR(e, ERR_CONFIG, "the prompt has captions for %d shots and the video has %d: give one cut less than captions, none of them in the same "
                 "four frames", spans->n, x->n_shots);
    if (rc)
        shot_spans_release(spans);
    return rc;
}

static void release_plans(shot_run *x)
{
    shot_plans_release(&x->plans);
    for (int i = 0; x->of_window && i < x->windows->n; i++)
        shot_plans_release(&x->of_window[i].plans);
    x->of = NULL;
}

static int make_plans(shot_run *x, const prompt *p, err *e)
{
    shot_spans spans = { 0 };
    err why = { 0 };
    int rc = 0;
    if (x->of == p)
        return 0;
    release_plans(x);
    x->masked = true;
    if (x->unguided && x->s->lenient)      /* upstream clears the ranges of both passes at once (UTIL:256, PIPE:449-451) */
        rc = ERR(&why, ERR_CONFIG, "upstream forgets the captions when guidance is 1");
    else
        rc = fit(x, p, &spans, &why);
    if (rc && rc != ERR_MEMORY && x->s->lenient) {
        log_msg(LOG_WARN, "no shot has a caption of its own: %s", why.text);
        x->masked = false;
        rc = 0;
    } else if (rc) {
        return ERR(e, rc, "%s", why.text);
    }
    rc = shots_make_plans(&x->plans, x->shot, x->n_latent_frames, x->tokens_per_frame, x->masked ? &spans : NULL, x->text_len, e);
    for (int i = 0; !rc && x->windows && i < x->windows->n; i++)
        rc = shots_make_plans(&x->of_window[i].plans, x->of_window[i].shot, x->windows->items[i].n, x->tokens_per_frame, x->masked ? &spans : NULL,
                              x->text_len, e);
    shot_spans_release(&spans);
    if (!rc)
        x->of = p;
    return rc;
}

/* How much of the text the shots do not see: a missing mask is easy to overlook. */
static void tell(const shot_run *x)
{
    str starts = STR_INIT;
    double seen = 0, all = 0;
    for (int t = 1; t < x->n_latent_frames; t++)
        if (x->shot[t] != x->shot[t - 1])
            str_addf(&starts, "%s%d", starts.len ? ", " : "", 4 * t - 3);
    for (int k = 0; x->masked && k < x->plans.cross.n_segments; k++) {
        const attn_segment *s = &x->plans.cross.segments[k];
        for (int i = 0; i < s->n_ranges; i++)
            seen += (double)(s->ranges[i].end - s->ranges[i].begin);
        all += x->text_len;
    }
    log_msg(LOG_DEBUG, "%d shot%s%s%s, %s self-attention, %s", x->n_shots, x->n_shots == 1 ? "" : "s", starts.len ? ", new ones at frames " : "",
            str_text(&starts), x->s->sparse ? "sparse" : "full", x->masked ? "captions masked" : "no mask");
    if (x->masked)
        log_msg(LOG_DEBUG, "a shot sees %.0f %% of the text positions", 100 * seen / all);
    str_release(&starts);
}

/* The shots of each context window's frames. */
static int slice_windows(shot_run *x, const window_list *windows, err *e)
{
    x->windows = windows;
    if (!(x->of_window = calloc((size_t)windows->n, sizeof *x->of_window)))
        return ERR(e, ERR_MEMORY, "no memory for the shots of %d context windows", windows->n);
    for (int i = 0; i < windows->n; i++) {
        const window *w = &windows->items[i];
        if (!(x->of_window[i].shot = calloc((size_t)w->n, sizeof(int))))
            return ERR(e, ERR_MEMORY, "no memory for the shots of %d context windows", windows->n);
        for (int f = 0; f < w->n; f++)
            x->of_window[i].shot[f] = x->shot[w->frames[f]];
    }
    return 0;
}

int shot_run_begin(shot_run *x, engine *g, const run_params *r, const int64_t shape[4], const window_list *windows, err *e)
{
    int rc = 0;
    *x = (shot_run){ .s = r->shots, .text_len = g->dit_cfg.text_len, .n_latent_frames = (int)shape[1],
                      .tokens_per_frame = shape[2] / 2 * (shape[3] / 2) };
    TRY(check_channel(g, x->s, e));
    if (!x->s)
        return 0;
    TRY(check_cuts(x->s, r->frames, e));
    if (!(x->shot = calloc((size_t)shape[1], sizeof *x->shot))) {
        rc = ERR(e, ERR_MEMORY, "no memory for the shots of %lld frames", (long long)shape[1]);
        goto out;
    }
    x->unguided = true;
    for (int i = 0; i < r->n_guidance; i++)
        x->unguided &= r->guidance[i] == 1;
    x->n_shots = shots_of_latents(r->frames, x->s->cuts, x->s->n_cuts, x->shot, e);
    if (windows && windows->n)
        TRY(slice_windows(x, windows, e));
    for (int i = 0; i < r->n_cond; i++)
        if (!i || r->cond[i] != r->cond[i - 1])
            TRY(make_plans(x, r->cond[i], e));
    tell(x);
    if (x->s->mask_channel != SHOT_MASK_NONE && !x->windows) {
        int64_t plane = shape[2] * shape[3], n = shape[1] * plane;
        float *host = malloc((size_t)n * sizeof *host);
        TRY(TENSOR_NEW(&x->input, g->be, DT_F32, e, CHANNELS + 1, shape[1], shape[2], shape[3]));
        tensor channel = tensor_rows(&x->input, CHANNELS, 1);
        for (int64_t i = 0; host && i < n; i++)
            host[i] = shots_mask_value((shot_mask_kind)x->s->mask_channel, x->shot[i / plane], x->n_shots);
        rc = host ? op_upload(&channel, host, e) : ERR(e, ERR_MEMORY, "no host memory for a channel of the latents");
        free(host);
    }
out:
    if (rc)
        shot_run_end(x);
    return rc;
}

void shot_run_end(shot_run *x)
{
    release_plans(x);
    for (int i = 0; x->of_window && i < x->windows->n; i++)
        free(x->of_window[i].shot);
    free(x->of_window);
    free(x->shot);
    tensor_free(&x->input);
    *x = (shot_run){ 0 };
}

int shot_run_pass(shot_run *x, const prompt *p, bool cond, const tensor *latents, dit_input *in, err *e)
{
    int rc = 0;
    in->latents = latents;
    if (!x->s)
        return 0;
    TRY(make_plans(x, p, e));
    in->frame_shot = x->shot;
    in->self_plan = x->s->sparse ? x->plans.sparse : (attn_plan){ 0 };
    in->cross_plan = cond && x->masked ? x->plans.cross : (attn_plan){ 0 };      /* no mask in the negative pass (PIPE:449-451) */
    if (x->input.data) {
        tensor first = tensor_rows(&x->input, 0, CHANNELS);
        TRY(op_copy(&first, latents, e));
        in->latents = &x->input;
    }
out:
    return rc;
}

int shot_run_window(shot_run *x, int i, const prompt *p, bool cond, dit_input *in, err *e)
{
    if (!x->s)
        return 0;
    int rc = make_plans(x, p, e);
    if (rc)
        return rc;
    const struct shot_window *w = &x->of_window[i];
    in->frame_shot = w->shot;
    in->self_plan = x->s->sparse ? w->plans.sparse : (attn_plan){ 0 };
    in->cross_plan = cond && x->masked ? w->plans.cross : (attn_plan){ 0 };
    return 0;
}

float shot_run_channel(const shot_run *x, int i, int f)
{
    return shots_mask_value((shot_mask_kind)x->s->mask_channel, x->of_window[i].shot[f], x->n_shots);
}

double shot_run_pairs(const run_shots *s, int frames, int64_t latent_frames, int64_t tokens_per_frame)
{
    double all = (double)latent_frames * (double)tokens_per_frame, pairs = 0;
    int *shot = s && s->sparse ? calloc((size_t)latent_frames, sizeof *shot) : NULL, n = 0;
    if (!shot)
        return all * all;
    n = shots_of_latents(frames, s->cuts, s->n_cuts, shot, NULL);
    for (int64_t t = 0, begin = 0; t < latent_frames; t++)
        if (t + 1 == latent_frames || shot[t + 1] != shot[t]) {
            double own = (double)(t + 1 - begin);
            pairs += own * (own + n);
            begin = t + 1;
        }
    free(shot);
    return pairs * (double)tokens_per_frame * (double)tokens_per_frame;
}
