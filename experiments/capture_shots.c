#include "experiments/capture_shots.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

int capture_shots_describe(capture_shots *out, const capture_spec *s, err *e)
{
    const run_shots *shots = s->run->shots;
    int rc = 0, F = (s->run->frames - 1) / 4 + 1, n = 0, at = 0;
    err ignored = { 0 };
    *out = (capture_shots){ 0 };
    int *shot = calloc((size_t)F, sizeof *shot);
    if (!shot || !(out->numbers = calloc((size_t)F * 5, sizeof *out->numbers))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the shots of a trace");
        goto out;
    }
    n = shots_of_latents(s->run->frames, shots->cuts, shots->n_cuts, shot, e);
    int32_t *of = out->numbers, *frames = of + F, *latents = frames + F, *begin = latents + F, *end = begin + F;
    for (int f = 0; f < F; f++) {
        of[f] = shot[f];
        if (!f || shot[f] != shot[f - 1]) {
            frames[at] = f ? 4 * f - 3 : 0;
            latents[at++] = f;
        }
    }
    out->t = (trace_shots){ .n_shots = n, .n_latent_frames = F, .latent_shot = of, .first_frames = frames, .first_latents = latents,
                            .sparse = shots->sparse, .mask_type = config_enum_name("shots.mask_type", s->cfg->shots.mask_type) };
    if (!s->prompt || shot_text_parse(&out->text, prompt_clean_text(s->prompt), &ignored))      /* shots.strict false: any text */
        goto out;
    TRY(prompt_shot_spans(s->prompt, shots->raw_spans, &out->spans, e));
    out->t.global_caption = out->text.global;
    out->t.captions = (const char *const *)out->text.captions;
    out->t.n_captions = out->text.n;
    if (!out->spans.has_global || out->spans.n < n)
        goto out;
    for (int k = 0; k < n; k++) {
        begin[k] = out->spans.shots[k][0];
        end[k] = out->spans.shots[k][1];
    }
    out->t.token_begin = begin;
    out->t.token_end = end;
    out->t.global_tokens[0] = out->spans.global[0];
    out->t.global_tokens[1] = out->spans.global[1];
out:
    free(shot);
    if (rc)
        capture_shots_release(out);
    return rc;
}

void capture_shots_release(capture_shots *c)
{
    shot_text_release(&c->text);
    shot_spans_release(&c->spans);
    free(c->numbers);
    *c = (capture_shots){ 0 };
}
