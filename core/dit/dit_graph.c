/* Which passes may be recorded, and those that were. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dit/dit_internal.h"

/* FNV-1a */
static uint64_t mix(uint64_t h, const void *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const unsigned char *)data)[i]) * 1099511628211u;
    return h;
}

static uint64_t mix_plan(uint64_t h, const attn_plan *p)
{
    h = mix(h, &p->n_segments, sizeof p->n_segments);
    for (int s = 0; s < p->n_segments; s++) {
        const attn_segment *g = &p->segments[s];
        int64_t row[3] = { g->q_begin, g->q_end, g->n_ranges };
        h = mix(h, row, sizeof row);
        h = mix(h, g->ranges, (size_t)g->n_ranges * sizeof *g->ranges);
    }
    return h;
}

/* Does anybody look into this pass, or change it? */
static bool watched(const hooks *h, const hook_point *where, int n_layers)
{
    static const char *const parts[] = { "", ".self_attn", ".cross_attn" };
    static const char *const outside[] = { "text_embedding", "patch_embedding", "time_embedding", "head" };
    hook_point at = where ? *where : (hook_point){ 0 };
    char name[48];
    if (!h || (!h->n_observers && !h->n_editors))
        return false;
    at.n_layers = n_layers;
    at.kind = HOOK_ACTIVATION;
    at.layer = -1;
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        at.module = outside[i];
        if (hooks_wanted(h, &at))
            return true;
    }
    for (at.layer = 0; at.layer < n_layers; at.layer++) {
        at.kind = HOOK_ACTIVATION;
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "blocks.%d%s", at.layer, parts[i]);
            at.module = name;
            if (hooks_wanted(h, &at))
                return true;
        }
        at.kind = HOOK_CROSS_ATTN;
        at.module = "cross_attn";
        if (hooks_wanted(h, &at) || hooks_edited(h, &at))
            return true;
    }
    return false;
}

dit_graph *dit_graph_find(dit_work *w, const dit *d, const dit_input *in, const tensor *velocity, const hooks *h, const hook_point *at)
{
    static int off = -1;
    if (off < 0) {      /* WANSCOPE_CUDA_SYNC waits after every op, which a recording cannot */
        const char *no = getenv("WANSCOPE_CUDA_GRAPHS"), *sync = getenv("WANSCOPE_CUDA_SYNC");
        off = (no && !strcmp(no, "0")) || (sync && *sync && *sync != '0');
    }
    if (off || !w->be->ops->graph_begin || in->cache || in->text || in->skip_block || in->vace_context || d->swap || watched(h, at, d->cfg.num_layers))
        return NULL;
    const int64_t *s = in->latents->shape;
    dit_graph_key key = (dit_graph_key){ d->number, in->latents->data, in->context->data, velocity->data, s[1], s[2], s[3], in->frame_offset, 14695981039346656037u, in->n_timesteps };
    key.plans = mix_plan(mix_plan(key.plans, &in->self_plan), &in->cross_plan);
    if (in->frame_shot)
        key.plans = mix(key.plans, in->frame_shot, (size_t)s[1] * sizeof *in->frame_shot);
    for (int i = 0; i < DIT_GRAPHS; i++) {
        const dit_graph_key *k = &w->graphs[i].key;
        if (w->graphs[i].seen && k->model == key.model && k->latents == key.latents && k->context == key.context && k->velocity == key.velocity && k->F == key.F &&
            k->H == key.H && k->W == key.W && k->frame_offset == key.frame_offset && k->plans == key.plans && k->n_timesteps == key.n_timesteps)
            return &w->graphs[i];
    }
    dit_graph *g = &w->graphs[w->next_graph];
    w->next_graph = (w->next_graph + 1) % DIT_GRAPHS;
    if (g->graph)
        w->be->ops->graph_free(w->be, g->graph);
    *g = (dit_graph){ .key = key };
    return g;
}

void dit_graphs_free(dit_work *w)
{
    for (int i = 0; i < DIT_GRAPHS; i++) {
        if (w->graphs[i].graph)
            w->be->ops->graph_free(w->be, w->graphs[i].graph);
        w->graphs[i] = (dit_graph){ 0 };
    }
}
