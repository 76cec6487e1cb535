#include "core/engine_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/parallel.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static int override(char **path, const char *with, err *e)
{
    if (!with || !*with)
        return 0;
    free(*path);
    *path = str_dup(with);
    return *path ? 0 : ERR(e, ERR_MEMORY, "no memory for a path");
}

static int open_part(ckpt **out, const char *path, ckpt_kind kind, err *e)
{
    int rc = ckpt_open(out, path, e);
    if (!rc)
        rc = ckpt_normalise(*out, kind, e);
    return rc;
}

static int read_config(const ckpt *c, const char *config_path, dit_config *out, err *e)
{
    json *config = NULL;
    int rc = config_path ? json_read_file(&config, config_path, e) : 0;
    if (!rc)
        rc = dit_config_detect(out, c, config, e);
    json_free(config);
    return rc;
}

static int same_experts(const engine *g, const dit_config *low, err *e)
{
    const dit_config *high = &g->dit_cfg;
    if (high->dim != low->dim || high->in_dim != low->in_dim || high->out_dim != low->out_dim ||
        high->text_dim != low->text_dim || high->text_len != low->text_len || high->num_heads != low->num_heads ||
        high->num_layers != low->num_layers || high->ffn_dim != low->ffn_dim)
        return ERR(e, ERR_SHAPE, "%s and %s differ in size (%d layers of width %d, %d layers of width %d): two experts of one "
                   "model must be alike", g->files.dit, g->files.dit_low, high->num_layers, high->dim, low->num_layers, low->dim);
    return 0;
}

/* LongLive is a base and an adapter that belong together; the adapter's alpha is in no file (longlive-vace.md 1.2). */
static int open_lora(engine *g, const engine_options *o, err *e)
{
    bool found = false;
    const char *given = o->lora && *o->lora ? o->lora : NULL, *path = given ? given : g->causal ? g->files.lora : NULL;
    if (!path || strcmp(path, "none") == 0) {
        if (!given && g->causal)
            log_msg(LOG_WARN, "no lora.pt beside %s: LongLive's base was trained to be used with it; name it in causal.lora, or set that to none", g->files.dit);
        return 0;
    }
    int rc = ckpt_open(&g->lora_file, path, e);
    for (size_t i = 0; !rc && i < ckpt_count(g->lora_file); i++)
        found |= strstr(ckpt_at(g->lora_file, i)->name, ".lora_A.") != NULL;
    if (!rc && !found)
        rc = ERR(e, ERR_SHAPE, "%s: this is no adapter: no tensor is named lora_A; give LongLive's lora.pt, or set causal.lora to none", path);
    g->lora_alpha = o->lora_alpha;
    return rc;
}

int engine_open(engine **out, const engine_options *o, err *e)
{
    int rc = 0;
    engine *g = calloc(1, sizeof *g);
    *out = NULL;
    if (!g)
        return ERR(e, ERR_MEMORY, "no memory for an engine");
    g->ftfy = o->ftfy;
    parallel_set_threads(o->threads);
    TRY(precision_find(&g->prec, o->precision ? o->precision : "exact", e));
    TRY(backend_open(&g->be, o->device ? o->device : "auto", e));
    int64_t total;
    g->blocks_to_swap = o->blocks_to_swap;
    g->offload = o->offload;
    g->memory_budget = o->memory_budget;
    if (!backend_memory(g->be, &g->free_at_open, &total))
        g->free_at_open = -1;
    g->memory.blocks_to_swap = o->blocks_to_swap;
    const precision *asked = g->prec;
    g->prec = precision_on(asked, g->be);
    if (g->prec != asked)
        log_msg(LOG_DEBUG, "%s computes in %s, not in %s; traces and videos name what was used", g->be->device, g->prec->name, asked->name);
    if (o->model && *o->model)
        TRY(model_files_find(&g->files, o->model, e));
    TRY(override(&g->files.dit, o->dit, e));
    TRY(override(&g->files.dit_low, o->dit_low, e));
    TRY(override(&g->files.t5, o->t5, e));
    TRY(override(&g->files.vae, o->vae, e));
    TRY(override(&g->files.tokenizer, o->tokenizer, e));
    g->causal = strcmp(g->files.family, "longlive") == 0;
    if (!g->files.dit) {
        rc = ERR(e, ERR_CONFIG, "no diffusion model: set model.path to a checkpoint folder or file");
        goto out;
    }
    /* HoloCine has the tensors of Wan 2.2: names and settings tell them apart */
    if ((o->family && strcmp(o->family, "holocine") == 0) || (o->dit && *o->dit && g->files.dit_low && model_files_named_holocine(o->dit))) {
        if (!g->files.dit_low) {
            rc = ERR(e, ERR_CONFIG, "%s is one model and HoloCine has two experts: name them as model.dit and model.dit_low", g->files.dit);
            goto out;
        }
        snprintf(g->files.family, sizeof g->files.family, "holocine");
    }
    TRY(open_part(&g->dit_file[0], g->files.dit, CKPT_DIT, e));
    TRY(read_config(g->dit_file[0], g->files.config, &g->dit_cfg, e));
    if (o->text_len > 0)
        g->dit_cfg.text_len = o->text_len;
    g->dit_cfg.fp8_scaled = o->fp8_scaled;
    if ((g->dit_cfg.in_dim != 16 && g->dit_cfg.in_dim != 17) || g->dit_cfg.out_dim != 16) {      /* 17: a channel that tells the shot */
        rc = ERR(e, ERR_SHAPE, "%s takes %d latent channels and gives %d: text-to-video Wan models with 16 and 16 are supported; is this "
                 "an image-to-video or a Wan 2.2 5B file?", g->files.dit, g->dit_cfg.in_dim, g->dit_cfg.out_dim);
        goto out;
    }
    if (g->files.dit_low) {
        dit_config low;
        TRY(open_part(&g->dit_file[1], g->files.dit_low, CKPT_DIT, e));
        TRY(read_config(g->dit_file[1], g->files.config_low ? g->files.config_low : g->files.config, &low, e));
        if (o->text_len > 0)
            low.text_len = o->text_len;
        TRY(same_experts(g, &low, e));
    }
    if (o->vace && *o->vace)
        TRY(engine_open_vace(g, o->vace, e));
    TRY(open_lora(g, o, e));
    TRY(engine_open_loras(g, o->loras, o->n_loras, e));
    if (g->files.t5)
        TRY(open_part(&g->t5_file, g->files.t5, CKPT_T5, e));
    if (g->files.vae)
        TRY(open_part(&g->vae_file, g->files.vae, CKPT_VAE, e));
    *out = g;
    return 0;
out:
    engine_close(g);
    return rc;
}

void engine_close(engine *g)
{
    if (!g)
        return;
    dit_close(g->dits[0]);
    dit_close(g->dits[1]);
    umt5_close(g->t5);
    vae_close(g->vae);
    tokenizer_free(g->tok);
    engine_close_loras(g);
    ckpt_close(g->vace_file);
    ckpt_close(g->lora_file);
    ckpt_close(g->dit_file[0]);
    ckpt_close(g->dit_file[1]);
    ckpt_close(g->t5_file);
    ckpt_close(g->vae_file);
    model_files_release(&g->files);
    backend_close(g->be);
    parallel_shutdown();
    free(g);
}

backend *engine_backend(const engine *g)
{
    return g->be;
}

int engine_need_t5(engine *g, err *e)
{
    if (g->t5)
        return 0;
    if (!g->t5_file)
        return ERR(e, ERR_CONFIG, "no text encoder beside %s: looked for models_t5_umt5-xxl-enc-bf16.pth and text_encoder/; set model.t5",
                   g->files.dit);
    int rc = (g->memory.streams_text ? umt5_open_streamed : umt5_open)(&g->t5, g->be, g->t5_file, g->prec, e);
    if (!rc && umt5_get_config(g->t5)->dim != g->dit_cfg.text_dim)
        rc = ERR(e, ERR_SHAPE, "%s gives rows of %d, %s takes rows of %d: text encoder and DiT do not belong together", g->files.t5,
                 umt5_get_config(g->t5)->dim, g->files.dit, g->dit_cfg.text_dim);
    return rc;
}

int engine_need_vae(engine *g, err *e)
{
    if (g->vae)
        return 0;
    if (!g->vae_file)
        return ERR(e, ERR_CONFIG, "no VAE beside %s: looked for Wan2.1_VAE.pth and vae/; set model.vae", g->files.dit);
    return vae_open(&g->vae, g->be, g->vae_file, g->prec, e);
}

static int64_t file_bytes(const ckpt *c)
{
    int64_t n = 0;
    for (size_t i = 0; c && i < ckpt_count(c); i++)
        n += (int64_t)ckpt_at(c, i)->bytes;
    return n;
}

int engine_get_info(engine *g, bool with_digests, engine_info *out, err *e)
{
    int rc = 0;
    *out = (engine_info){ .family = g->files.family, .dit_path = g->files.dit, .device = g->be->device, .precision = g->prec->name, .dit = &g->dit_cfg,
                          .two_experts = g->dit_file[1] != NULL, .causal = g->causal, .lora = g->lora_file ? ckpt_path(g->lora_file) : NULL };
    if (g->t5_file) {      /* from the headers: asking opens no weights */
        TRY(umt5_config_detect(&g->t5_cfg, g->t5_file, e));
        out->t5 = &g->t5_cfg;
    }
    if (g->vae_file) {
        TRY(vae_config_detect(&g->vae_cfg, g->vae_file, e));
        out->vae = &g->vae_cfg;
    }
    if (with_digests && !g->have_digests) {
        ckpt *files[5] = { g->dit_file[0], g->dit_file[1], g->t5_file, g->vae_file, g->lora_file };
        for (int i = 0; i < 5; i++)
            if (files[i])
                TRY(ckpt_digest(files[i], g->digest[i], e));
        TRY(engine_lora_digests(g, e));
        if (g->vace_file)
            TRY(ckpt_digest(g->vace_file, g->vace_digest, e));
        g->have_digests = true;
    }
    out->dit_digest = g->digest[0];
    out->dit_low_digest = g->digest[1];
    out->t5_digest = g->digest[2];
    out->vae_digest = g->digest[3];
    out->lora_digest = g->digest[4];
    out->vace_digest = g->vace_digest;
    out->loras = g->loras;
    out->n_loras = g->n_adapters;
    out->dit_bytes = file_bytes(g->dit_file[0]) + file_bytes(g->dit_file[1]) + file_bytes(g->vace_file);
    out->t5_bytes = file_bytes(g->t5_file);
    out->vae_bytes = file_bytes(g->vae_file);
out:
    return rc;
}
