/* From the names a file uses to the original Wan names. Tables: wan-engine.md 2.3, 2.5, 2.6 and appendix A; nested
 * training checkpoints: longlive-vace.md 1.2. */
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/io/ckpt_internal.h"

typedef struct rule {
    const char *from, *to;
} rule;

/* Parts a prefix may be made of, by kind. "generator_ema." only counts when there is no "generator.". */
static const char *const DIT_PARTS[] = { "generator.", "generator_ema.", "state_dict.", "model_state_dict.", "module.",
                                         "model.", "diffusion_model.", "transformer.", "dit.", NULL };
static const char *const T5_PARTS[] = { "text_encoders.", "text_encoder.", "cond_stage_model.", "t5xxl.", "umt5xxl.",
                                        "transformer.", "state_dict.", "module.", "model.", NULL };
static const char *const VAE_PARTS[] = { "first_stage_model.", "vae.", "state_dict.", "module.", "model.", NULL };

/* A tensor that every network of the kind has, in any of the layouts. */
static const char *const DIT_ANCHORS[] = { "patch_embedding.weight", "vace_patch_embedding.weight", NULL };
static const char *const T5_ANCHORS[] = { "token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight",
                                          NULL };
static const char *const VAE_ANCHORS[] = { "decoder.conv1.weight", "decoder.conv_in.weight", "encoder.conv1.weight",
                                           "encoder.conv_in.weight", NULL };

/* Other networks and states that files hold beside the one wanted; tensors below these are left out of the table. */
static const char *const OTHERS[] = { "generator_ema.", "generator_optimizer.", "critic.", "critic_ema.",
                                      "critic_optimizer.", "optimizer.", "optimizer_states.", "ema.", "model_ema.",
                                      "first_stage_model.", "vae.", "text_encoders.", "text_encoder.",
                                      "cond_stage_model.", "conditioner.", "model.diffusion_model.", NULL };

static const rule DIT_TOP[] = {
    { "condition_embedder.text_embedder.linear_1.", "text_embedding.0." },
    { "condition_embedder.text_embedder.linear_2.", "text_embedding.2." },
    { "condition_embedder.time_embedder.linear_1.", "time_embedding.0." },
    { "condition_embedder.time_embedder.linear_2.", "time_embedding.2." },
    { "condition_embedder.time_proj.", "time_projection.1." },
    { "condition_embedder.image_embedder.norm1.", "img_emb.proj.0." },
    { "condition_embedder.image_embedder.ff.net.0.proj.", "img_emb.proj.1." },
    { "condition_embedder.image_embedder.ff.net.2.", "img_emb.proj.3." },
    { "condition_embedder.image_embedder.norm2.", "img_emb.proj.4." },
    { "condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos" },
    { "scale_shift_table", "head.modulation" },
    { "proj_out.", "head.head." },
    { NULL, NULL },
};

/* after "blocks.N." or "vace_blocks.N." */
static const rule DIT_BLOCK[] = {
    { "scale_shift_table", "modulation" },
    { "attn1.to_q.", "self_attn.q." },         { "attn1.to_k.", "self_attn.k." },
    { "attn1.to_v.", "self_attn.v." },         { "attn1.to_out.0.", "self_attn.o." },
    { "attn1.norm_q.", "self_attn.norm_q." },  { "attn1.norm_k.", "self_attn.norm_k." },
    { "attn2.to_q.", "cross_attn.q." },        { "attn2.to_k.", "cross_attn.k." },
    { "attn2.to_v.", "cross_attn.v." },        { "attn2.to_out.0.", "cross_attn.o." },
    { "attn2.norm_q.", "cross_attn.norm_q." }, { "attn2.norm_k.", "cross_attn.norm_k." },
    { "attn2.add_k_proj.", "cross_attn.k_img." },
    { "attn2.add_v_proj.", "cross_attn.v_img." },
    { "attn2.norm_added_k.", "cross_attn.norm_k_img." },
    { "norm2.", "norm3." },                     { "norm3.", "norm2." },
    { "ffn.net.0.proj.", "ffn.0." },           { "ffn.net.2.", "ffn.2." },
    { "proj_in.", "before_proj." },            { "proj_out.", "after_proj." },
    { NULL, NULL },
};

/* after "block.N.layer." */
static const rule T5_BLOCK[] = {
    { "0.layer_norm.", "norm1." },
    { "0.SelfAttention.q.", "attn.q." },
    { "0.SelfAttention.k.", "attn.k." },
    { "0.SelfAttention.v.", "attn.v." },
    { "0.SelfAttention.o.", "attn.o." },
    { "0.SelfAttention.relative_attention_bias.", "pos_embedding.embedding." },
    { "1.layer_norm.", "norm2." },
    { "1.DenseReluDense.wi_0.", "ffn.gate.0." },
    { "1.DenseReluDense.wi_1.", "ffn.fc1." },
    { "1.DenseReluDense.wo.", "ffn.fc2." },
    { NULL, NULL },
};

static const rule VAE_TOP[] = {
    { "quant_conv.", "conv1." },
    { "post_quant_conv.", "conv2." },
    { NULL, NULL },
};

/* after "encoder." or "decoder." */
static const rule VAE_SIDE[] = {
    { "conv_in.", "conv1." },
    { "norm_out.", "head.0." },
    { "conv_out.", "head.2." },
    { "mid_block.resnets.0.", "middle.0." },
    { "mid_block.resnets.1.", "middle.2." },
    { "mid_block.attentions.0.", "middle.1." },
    { NULL, NULL },
};

/* after the name of a residual block */
static const rule VAE_RESIDUAL[] = {
    { "norm1.", "residual.0." }, { "conv1.", "residual.2." },        { "norm2.", "residual.3." },
    { "conv2.", "residual.6." }, { "conv_shortcut.", "shortcut." }, { NULL, NULL },
};

static const char *apply(const rule *r, const char *name, const char **rest)
{
    for (; r->from; r++)
        if (str_starts_with(name, r->from)) {
            *rest = name + strlen(r->from);
            return r->to;
        }
    return NULL;
}

/* a decimal number followed by a dot; *rest is behind the dot */
static bool number(const char *text, int *value, const char **rest)
{
    int v = 0, digits = 0;
    for (; *text >= '0' && *text <= '9' && digits < 7; text++, digits++)
        v = v * 10 + (*text - '0');
    if (!digits || *text != '.')
        return false;
    *value = v;
    *rest = text + 1;
    return true;
}

static bool rename_dit(str *out, const char *name)
{
    const char *rest, *to, *block = str_starts_with(name, "vace_blocks.") ? "vace_blocks."
                                  : str_starts_with(name, "blocks.") ? "blocks." : NULL;
    int i;
    if (block && number(name + strlen(block), &i, &rest)) {
        const char *tail;
        if (!(to = apply(DIT_BLOCK, rest, &tail)))
            return false;
        str_addf(out, "%s%d.%s%s", block, i, to, tail);
        return true;
    }
    if (!(to = apply(DIT_TOP, name, &rest)))
        return false;
    str_addf(out, "%s%s", to, rest);
    return true;
}

/* the same tables, read from right to left */
bool ckpt_diffusers_name(str *out, const char *wan)
{
    const rule *r;
    const char *rest = wan, *block = str_starts_with(wan, "vace_blocks.") ? "vace_blocks." : str_starts_with(wan, "blocks.") ? "blocks." : NULL;
    int i = 0;
    bool inside = block && number(wan + strlen(block), &i, &rest);
    for (r = inside ? DIT_BLOCK : DIT_TOP; r->from; r++)
        if (str_starts_with(rest, r->to)) {
            if (inside)
                str_addf(out, "%s%d.", block, i);
            str_addf(out, "%s%s", r->from, rest + strlen(r->to));
            return true;
        }
    return false;
}

static bool rename_t5(str *out, const char *name)
{
    const char *rest = name, *to, *tail;
    int i;
    if (strcmp(name, "shared.weight") == 0 || strcmp(name, "encoder.embed_tokens.weight") == 0) {
        str_add(out, "token_embedding.weight");
        return true;
    }
    if (str_starts_with(rest, "encoder."))
        rest += 8;
    if (strcmp(rest, "final_layer_norm.weight") == 0) {
        str_add(out, "norm.weight");
        return true;
    }
    if (!str_starts_with(rest, "block.") || !number(rest + 6, &i, &rest) || !str_starts_with(rest, "layer.") ||
        !(to = apply(T5_BLOCK, rest + 6, &tail)))
        return false;
    str_addf(out, "blocks.%d.%s%s", i, to, tail);
    return true;
}

static bool rename_vae(str *out, const char *name, int resnets)
{
    const char *rest, *to, *tail;
    int i, k;
    if ((to = apply(VAE_TOP, name, &rest))) {
        str_addf(out, "%s%s", to, rest);
        return true;
    }
    if (!str_starts_with(name, "encoder.") && !str_starts_with(name, "decoder."))
        return false;
    bool encoder = name[0] == 'e';
    rest = name + 8;
    str_addn(out, name, 8);
    if ((to = apply(VAE_SIDE, rest, &tail))) {
        const char *inner = str_starts_with(to, "middle.") ? apply(VAE_RESIDUAL, tail, &rest) : NULL;
        str_addf(out, "%s%s%s", to, inner ? inner : "", inner ? rest : tail);
        return true;
    }
    if (encoder && str_starts_with(rest, "down_blocks.") && number(rest + 12, &i, &tail)) {
        to = apply(VAE_RESIDUAL, tail, &rest);      /* or "resample.1." and "time_conv.", which keep their names */
        str_addf(out, "downsamples.%d.%s%s", i, to ? to : "", to ? rest : tail);
        return true;
    }
    if (!encoder && str_starts_with(rest, "up_blocks.") && number(rest + 10, &i, &tail)) {
        if (str_starts_with(tail, "resnets.") && number(tail + 8, &k, &rest)) {
            to = apply(VAE_RESIDUAL, rest, &tail);
            str_addf(out, "upsamples.%d.%s%s", i * (resnets + 1) + k, to ? to : "", to ? tail : rest);
            return true;
        }
        if (str_starts_with(tail, "upsamplers.0.")) {
            str_addf(out, "upsamples.%d.%s", i * (resnets + 1) + resnets, tail + 13);
            return true;
        }
    }
    return false;
}

/* residual blocks a decoder stage of a diffusers VAE has */
static int count_resnets(const ckpt *c, size_t skip)
{
    int n = 0, k;
    const char *rest;
    for (size_t i = 0; i < c->count; i++) {
        const char *name = c->tensors[i].name;
        if (strlen(name) > skip && str_starts_with(name + skip, "decoder.up_blocks.0.resnets.") &&
            number(name + skip + 28, &k, &rest) && k >= n)
            n = k + 1;
    }
    return n;
}

/* prefix */

/* -1 when the prefix is not made of known parts; else how unwelcome it is: averaged copies lose to the network */
static int prefix_cost(const char *prefix, size_t n, const char *const *parts)
{
    size_t at = 0;
    int cost = 0;
    while (at < n) {
        size_t part = 0;
        for (int i = 0; parts[i] && !part; i++) {
            size_t len = strlen(parts[i]);
            if (len <= n - at && memcmp(prefix + at, parts[i], len) == 0)
                part = len;
        }
        if (!part)
            return -1;
        cost += 1 + (part == 14 && memcmp(prefix + at, "generator_ema.", 14) == 0 ? 100 : 0);
        at += part;
    }
    return cost;
}

/* Where the network sits: the best prefix in front of an anchor; "" when there is none. The text lives in the table. */
static void find_prefix(const ckpt *c, const char *const *parts, const char *const *anchors, const char **out,
                        size_t *len)
{
    int best = -1;
    *out = "";
    *len = 0;
    for (int k = 0; anchors[k] && best < 0; k++) {
        size_t n = strlen(anchors[k]);
        for (size_t i = 0; i < c->count; i++) {
            const char *name = c->tensors[i].name;
            size_t total = strlen(name);
            if (!str_ends_with(name, anchors[k]) || (total > n && name[total - n - 1] != '.'))
                continue;
            int cost = prefix_cost(name, total - n, parts);
            if (cost >= 0 && (best < 0 || cost < best)) {
                best = cost;
                *out = name;
                *len = total - n;
            }
        }
    }
}

static bool other_network(const char *name, const char *prefix, size_t n, ckpt_kind kind)
{
    if (kind == CKPT_T5 && (str_starts_with(name, "decoder.") || str_starts_with(name, "lm_head.")))
        return true;
    for (int i = 0; OTHERS[i]; i++) {
        size_t len = strlen(OTHERS[i]);
        if (str_starts_with(name, OTHERS[i]) && !(len <= n && memcmp(prefix, OTHERS[i], len) == 0))
            return true;
    }
    return false;
}

/* FSDP and torch.compile leave their wrappers in the names */
static void drop_part(char *name, const char *part)
{
    size_t n = strlen(part);
    for (char *at; (at = strstr(name, part));)
        memmove(at, at + n, strlen(at + n) + 1);
}

static int no_memory(const ckpt *c, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: memory ran out while translating tensor names", c->path);
}

int ckpt_normalise(ckpt *c, ckpt_kind kind, err *e)
{
    const char *const *parts = kind == CKPT_DIT ? DIT_PARTS : kind == CKPT_T5 ? T5_PARTS : VAE_PARTS;
    const char *const *anchors = kind == CKPT_DIT ? DIT_ANCHORS : kind == CKPT_T5 ? T5_ANCHORS : VAE_ANCHORS;
    const char *prefix;
    size_t prefix_len, kept = 0;
    int rc = 0;
    str name = STR_INIT;
    bool diffusers = false;

    for (size_t i = 0; i < c->count; i++) {
        const char *old = c->tensors[i].name;
        if (!strstr(old, "_fsdp_wrapped_module.") && !strstr(old, "_orig_mod."))
            continue;
        char *copy = arena_text(&c->memory, old, strlen(old));
        if (!copy)
            return no_memory(c, e);
        drop_part(copy, "_fsdp_wrapped_module.");
        drop_part(copy, "_orig_mod.");
        c->tensors[i].name = copy;
    }
    find_prefix(c, parts, anchors, &prefix, &prefix_len);
    /* norm2 and norm3 change places only in the diffusers layout, which names nothing else the same way */
    for (size_t i = 0; i < c->count && !diffusers; i++)
        diffusers = strstr(c->tensors[i].name, ".attn1.") || strstr(c->tensors[i].name, "condition_embedder.");
    int resnets = kind == CKPT_VAE ? count_resnets(c, prefix_len) : 0;

    for (size_t i = 0; i < c->count; i++) {
        ckpt_tensor t = c->tensors[i];
        const char *old = t.name;
        if (prefix_len && strncmp(old, prefix, prefix_len) == 0)
            old += prefix_len;
        else if (other_network(old, prefix, prefix_len, kind))
            continue;
        if (kind == CKPT_T5 && other_network(old, "", 0, kind))
            continue;
        str_clear(&name);
        bool changed = kind == CKPT_DIT ? diffusers && rename_dit(&name, old)
                     : kind == CKPT_T5 ? rename_t5(&name, old) : rename_vae(&name, old, resnets);
        if (!changed) {
            str_clear(&name);
            str_add(&name, old);
        }
        /* the two spellings of an fp8 weight's scale */
        if (str_ends_with(str_text(&name), ".weight_scale")) {
            char *stem = str_dupn(name.data, name.len - strlen(".weight_scale"));
            str_clear(&name);
            str_addf(&name, "%s.scale_weight", stem ? stem : "");
            name.failed |= !stem;
            free(stem);
        }
        if (name.failed) {
            rc = no_memory(c, e);
            goto out;
        }
        if (strcmp(str_text(&name), t.name) && !(t.name = arena_text(&c->memory, name.data, name.len))) {
            rc = no_memory(c, e);
            goto out;
        }
        c->tensors[kept++] = t;
    }
    c->count = kept;
    if (kind == CKPT_T5) {
        /* HF files may hold the embedding twice, as "shared" and as the encoder's own; it is one matrix */
        size_t first = SIZE_MAX;
        for (size_t i = 0; i < c->count; i++)
            if (strcmp(c->tensors[i].name, "token_embedding.weight") == 0) {
                if (first == SIZE_MAX) {
                    first = i;
                    continue;
                }
                const ckpt_tensor *a = &c->tensors[first], *b = &c->tensors[i];
                if (a->ndim != b->ndim || memcmp(a->shape, b->shape, sizeof a->shape))
                    break;      /* not one matrix: ckpt_sort() refuses the pair */
                c->tensors[i--] = c->tensors[--c->count];
            }
    }
    rc = ckpt_sort(c, e);
out:
    str_release(&name);
    return rc;
}
