/* The weights of the diffusion model as an engine holds them: read on first use, adapters merged. */
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/engine_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static bool is_for(const engine *g, const engine_lora *l, int expert)
{
    return l->expert == LORA_BOTH || !g->dit_file[1] || (l->expert == LORA_LOW) == (expert == 1);
}

int engine_loras_of(const engine *g, int expert, lora **out, int *n, err *e)
{
    *n = 0;
    *out = calloc((size_t)g->n_adapters + 2, sizeof **out);
    if (!*out)
        return ERR(e, ERR_MEMORY, "no memory for %d adapters", g->n_adapters);
    if (g->lora_file)
        (*out)[(*n)++] = (lora){ .file = g->lora_file, .alpha = g->lora_alpha, .multiplier = 1 };
    for (int i = 0; i < g->n_adapters; i++)
        if (is_for(g, &g->adapters[i].is, expert) && g->adapters[i].is.multiplier != 0)
            (*out)[(*n)++] = (lora){ .file = g->adapters[i].file, .multiplier = g->adapters[i].is.multiplier,
                                    .include = g->adapters[i].is.include, .exclude = g->adapters[i].is.exclude };
    return 0;
}

int engine_open_loras(engine *g, const engine_lora *loras, int n, err *e)
{
    int rc = 0, count;
    lora *list = NULL;
    g->adapters = calloc((size_t)n + 1, sizeof *g->adapters);
    g->loras = calloc((size_t)n + 1, sizeof *g->loras);
    if (!g->adapters || !g->loras)
        return ERR(e, ERR_MEMORY, "no memory for %d adapters", n);
    for (int i = 0; i < n; i++) {
        struct engine_adapter *a = &g->adapters[g->n_adapters];
        if (loras[i].expert == LORA_HIGH && !g->dit_file[1])
            return ERR(e, ERR_CONFIG, "%s: this adapter is meant for the high-noise expert, but %s is a single model; use expert both or low",
                       loras[i].path, g->files.dit);
        TRY(ckpt_open(&a->file, loras[i].path, e));
        g->n_adapters++;
        a->is = loras[i];
        a->is.path = ckpt_path(a->file);
        a->is.digest = a->digest;
        g->loras[i] = a->is;
    }
    for (int expert = 0; expert < 2 && g->dit_file[expert]; expert++) {
        TRY(engine_loras_of(g, expert, &list, &count, e));
        if (count)
            TRY(lora_check(g->dit_file[expert], g->vace_file, list, count, e));
        free(list);
        list = NULL;
    }
out:
    free(list);
    return err_at(e, rc, "while opening LoRA adapters");
}

void engine_close_loras(engine *g)
{
    for (int i = 0; i < g->n_adapters; i++)
        ckpt_close(g->adapters[i].file);
    free(g->adapters);
    free(g->loras);
    g->adapters = NULL;
    g->loras = NULL;
    g->n_adapters = 0;
}

int engine_lora_digests(engine *g, err *e)
{
    int rc = 0;
    for (int i = 0; i < g->n_adapters && !rc; i++)
        rc = ckpt_digest(g->adapters[i].file, g->adapters[i].digest, e);
    return rc;
}

int engine_need_dit(engine *g, int expert, err *e)
{
    int rc = 0, n;
    lora *list = NULL;
    if (g->dits[!expert] && g->memory.one_expert) {
        dit_close(g->dits[!expert]);
        g->dits[!expert] = NULL;
        backend_trim(g->be);
    } else if (g->dits[!expert]) {
        dit_rest(g->dits[!expert]);      /* one works at a time, and so do its slots */
    }
    if (g->dits[expert])
        return 0;
    TRY(engine_loras_of(g, expert, &list, &n, e));
    TRY(dit_open_swapped(&g->dits[expert], g->be, g->dit_file[expert], &g->dit_cfg, g->prec, list, n, g->memory.blocks_to_swap, e));
out:
    free(list);
    return rc;
}
