#include "core/dit/dit_config.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIM = 1 << 24, MAX_TEXT_LEN = 1 << 16 };

/* Where each size is read: wan-engine.md 2.4. */
typedef struct anchor {
    const char *name;
    int ndim, axis;
    size_t field;           /* offset of an int in dit_config */
} anchor;

#define FIELD(f) offsetof(dit_config, f)
static const anchor ANCHORS[] = {
    { "patch_embedding.weight", 5, 0, FIELD(dim) },     { "patch_embedding.weight", 5, 1, FIELD(in_dim) },
    { "patch_embedding.weight", 5, 2, FIELD(patch_t) }, { "patch_embedding.weight", 5, 3, FIELD(patch_h) },
    { "patch_embedding.weight", 5, 4, FIELD(patch_w) }, { "text_embedding.0.weight", 2, 1, FIELD(text_dim) },
    { "time_embedding.0.weight", 2, 1, FIELD(freq_dim) }, { "blocks.0.ffn.0.weight", 2, 0, FIELD(ffn_dim) },
    { "head.head.weight", 2, 0, FIELD(out_dim) },
};

static bool any_name(const ckpt *c, const char *part)
{
    for (size_t i = 0; i < ckpt_count(c); i++)
        if (strstr(ckpt_at(c, i)->name, part))
            return true;
    return false;
}

/* what a checkpoint that is no DiT may be */
static const char *what_else(const ckpt *c)
{
    if (any_name(c, "lora_"))
        return "; it looks like a LoRA, which is laid over a model and is not one";
    if (ckpt_find(c, "vace_patch_embedding.weight"))
        return "; it holds only the VACE part of a model and needs a base DiT";
    if (any_name(c, "attn.q.weight") && any_name(c, "token_embedding") && !any_name(c, "self_attn"))
        return "; it looks like the umT5 text encoder";
    if (any_name(c, "decoder."))
        return "; it looks like a VAE";
    return "";
}

static int read_anchors(dit_config *out, const ckpt *c, err *e)
{
    str missing = STR_INIT;
    int rc = 0, n_missing = 0;
    const char *last = "";
    for (size_t i = 0; i < sizeof ANCHORS / sizeof *ANCHORS && !rc; i++) {
        const anchor *a = &ANCHORS[i];
        const ckpt_tensor *t = ckpt_find(c, a->name);
        if (!t) {
            if (strcmp(a->name, last))
                str_addf(&missing, "%s%s", n_missing++ ? ", " : "", a->name);
            last = a->name;
            continue;
        }
        if (t->ndim != a->ndim)
            rc = ERR(e, ERR_SHAPE, "%s: tensor '%s' has %d dimensions, expected %d", ckpt_path(c), a->name, t->ndim,
                     a->ndim);
        else if (t->shape[a->axis] < 1 || t->shape[a->axis] > MAX_DIM)
            rc = ERR(e, ERR_SHAPE, "%s: tensor '%s': dimension %d is %" PRId64 ", which is no sensible size",
                     ckpt_path(c), a->name, a->axis, t->shape[a->axis]);
        else
            *(int *)((char *)out + a->field) = (int)t->shape[a->axis];
    }
    if (!rc && n_missing)
        rc = ERR(e, ERR_SHAPE, "%s: this is not a Wan DiT: missing %s%s", ckpt_path(c), str_text(&missing),
                 what_else(c));
    str_release(&missing);
    if (rc)
        return rc;
    if (out->patch_t != 1 || out->patch_h != 2 || out->patch_w != 2)
        return ERR(e, ERR_SHAPE, "%s: patch_embedding.weight has the patch %dx%dx%d, expected 1x2x2", ckpt_path(c),
                   out->patch_t, out->patch_h, out->patch_w);
    if (out->out_dim % 4)
        return ERR(e, ERR_SHAPE, "%s: head.head.weight has %d rows, expected 4 (one 1x2x2 patch) times the latent "
                   "channels",
                   ckpt_path(c), out->out_dim);
    out->out_dim /= 4;
    return 0;
}

static int by_int(const void *a, const void *b)
{
    return *(const int *)a < *(const int *)b ? -1 : *(const int *)a > *(const int *)b;
}

/* 1 + the largest block index below `prefix`; every index up to it must occur. */
static int count_blocks(int *out, const ckpt *c, const char *prefix, err *e)
{
    size_t n = strlen(prefix), count = 0, distinct = 0;
    int rc = 0, *seen = malloc((ckpt_count(c) + 1) * sizeof *seen);
    *out = 0;
    if (!seen)
        return ERR(e, ERR_MEMORY, "%s: memory ran out while counting blocks", ckpt_path(c));
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const char *name = ckpt_at(c, i)->name;
        char *end;
        if (strncmp(name, prefix, n) || name[n] < '0' || name[n] > '9')
            continue;
        long v = strtol(name + n, &end, 10);
        if (*end != '.')
            continue;
        if (v > INT_MAX - 1)
            v = INT_MAX - 1;
        seen[count++] = (int)v;
    }
    if (count)
        qsort(seen, count, sizeof *seen, by_int);
    for (size_t i = 0; i < count && !rc; i++) {
        if (i && seen[i] == seen[i - 1])
            continue;
        if ((size_t)seen[i] != distinct)
            rc = ERR(e, ERR_SHAPE, "%s: tensors of '%s%d' are there but none of '%s%zu'; a part of the checkpoint is "
                     "missing",
                     ckpt_path(c), prefix, seen[i], prefix, distinct);
        distinct++;
    }
    *out = (int)distinct;
    free(seen);
    return rc;
}

/* A size that config.json gives under either key must be the one found; 0 in `found` means: take it from there. */
static int agree(int *found, const ckpt *c, const json *config, const char *key, const char *key2, const char *source,
                 err *e)
{
    const json *v = json_get(config, key);
    int64_t given;
    if (!v && key2) {
        v = json_get(config, key2);
        key = key2;
    }
    if (!v || json_type(v) == JSON_NULL)
        return 0;
    if (!json_int(v, &given) || given < 1 || given > MAX_DIM)
        return ERR(e, ERR_CONFIG, "%s: config.json: '%s' must be a positive integer", ckpt_path(c), key);
    if (*found && given != *found)
        return ERR(e, ERR_CONFIG, "%s: config.json says %s %" PRId64 ", but %s says %d; the two files do not belong "
                   "together",
                   ckpt_path(c), key, given, source, *found);
    *found = (int)given;
    return 0;
}

static int read_heads(dit_config *out, const ckpt *c, const json *config, err *e)
{
    int head_dim = 0;
    int rc = agree(&out->num_heads, c, config, "num_heads", "num_attention_heads", "", e);
    if (!rc)
        rc = agree(&head_dim, c, config, "attention_head_dim", NULL, "", e);
    if (rc)
        return rc;
    if (!out->num_heads && head_dim && out->dim % head_dim == 0)
        out->num_heads = out->dim / head_dim;
    if (!out->num_heads && out->dim % 128 == 0)
        out->num_heads = out->dim / 128;
    if (!out->num_heads)
        return ERR(e, ERR_CONFIG, "%s: the number of attention heads cannot be told from the width %d, which is no "
                   "multiple of "
                   "128; put a config.json with \"num_heads\" beside the checkpoint", ckpt_path(c), out->dim);
    if (out->dim % out->num_heads || (out->dim / out->num_heads) % 2)
        return ERR(e, ERR_CONFIG, "%s: config.json says %d attention heads, which do not divide the width %d into "
                   "even parts",
                   ckpt_path(c), out->num_heads, out->dim);
    if (head_dim && head_dim * (int64_t)out->num_heads != out->dim)
        return ERR(e, ERR_CONFIG, "%s: config.json says %d heads of %d, but patch_embedding.weight says the width is "
                   "%d",
                   ckpt_path(c), out->num_heads, head_dim, out->dim);
    return 0;
}

static int read_vace_layers(dit_config *out, const ckpt *c, const json *config, err *e)
{
    const json *list = json_get(config, "vace_layers");
    int n = out->n_vace_layers;
    if (json_type(list) != JSON_ARRAY) {
        /* not told: spread evenly from block 0, as both released sizes do (30/15: every 2nd, 40/8: every 5th) */
        int step = (out->num_layers + n - 1) / n;
        for (int i = 0; i < n; i++)
            out->vace_layers[i] = i * step;
        if (out->vace_layers[n - 1] >= out->num_layers)
            return ERR(e, ERR_CONFIG, "%s: %d VACE blocks cannot be spread over %d blocks; put a config.json with "
                       "\"vace_layers\" beside the checkpoint", ckpt_path(c), n, out->num_layers);
        return 0;
    }
    if (json_count(list) != (size_t)n)
        return ERR(e, ERR_CONFIG, "%s: config.json lists %zu vace_layers, but the checkpoint has %d VACE blocks",
                   ckpt_path(c), json_count(list), n);
    for (int i = 0; i < n; i++) {
        int64_t v;
        if (!json_int(json_at(list, (size_t)i), &v) || v < 0 || v >= out->num_layers ||
            (i ? v <= out->vace_layers[i - 1] : v != 0))
            return ERR(e, ERR_CONFIG, "%s: config.json: vace_layers must begin with 0, rise, and stay below the %d "
                       "blocks (entry %d does not)", ckpt_path(c), out->num_layers, i);
        out->vace_layers[i] = (int)v;
    }
    return 0;
}

static int read_vace(dit_config *out, const ckpt *c, const json *config, err *e)
{
    const ckpt_tensor *t = ckpt_find(c, "vace_patch_embedding.weight");
    int rc = count_blocks(&out->n_vace_layers, c, "vace_blocks.", e);
    if (rc || (!t && !out->n_vace_layers))
        return rc;
    if (!t || !out->n_vace_layers)
        return ERR(e, ERR_SHAPE, "%s: the VACE part is incomplete: %s is missing", ckpt_path(c),
                   t ? "vace_blocks.0" : "vace_patch_embedding.weight");
    if (out->n_vace_layers > DIT_MAX_VACE_LAYERS || out->n_vace_layers > out->num_layers)
        return ERR(e, ERR_SHAPE, "%s: %d VACE blocks on a model of %d blocks; at most one a block and %d in all are "
                   "possible",
                   ckpt_path(c), out->n_vace_layers, out->num_layers, DIT_MAX_VACE_LAYERS);
    if (t->ndim != 5 || t->shape[0] != out->dim || t->shape[1] < 1 || t->shape[1] > MAX_DIM)
        return ERR(e, ERR_SHAPE, "%s: vace_patch_embedding.weight does not fit the model: expected [%d, channels, 1, "
                   "2, 2]",
                   ckpt_path(c), out->dim);
    out->vace_in_dim = (int)t->shape[1];
    if ((rc = agree(&out->vace_in_dim, c, config, "vace_in_dim", "vace_in_channels", "vace_patch_embedding.weight", e)))
        return rc;
    return read_vace_layers(out, c, config, e);
}

int dit_config_add_vace(dit_config *base, const ckpt *vace, const json *config, err *e)
{
    dit_config with = *base;
    with.vace_in_dim = with.n_vace_layers = 0;
    int rc = read_vace(&with, vace, config, e);
    if (!rc && !with.n_vace_layers)
        rc = ERR(e, ERR_SHAPE, "%s: no VACE weights found: expected tensors named vace_patch_embedding.* and vace_blocks.*%s", ckpt_path(vace),
                 ckpt_find(vace, "patch_embedding.weight") ? "; this is a plain base model, which belongs into model.path" : "");
    if (!rc)
        *base = with;
    return rc;
}

static const char *detect_type(const dit_config *d, const ckpt *c)
{
    if (d->vace_in_dim)
        return "vace";
    if (ckpt_find(c, "img_emb.emb_pos"))
        return "flf2v";
    if (ckpt_find(c, "img_emb.proj.1.weight"))
        return "i2v";
    if (d->in_dim == 48 && d->out_dim == 48)
        return "ti2v";
    return d->in_dim == 36 && d->out_dim == 16 ? "i2v" : "t2v";
}

static int read_type(dit_config *out, const ckpt *c, const json *config, err *e)
{
    const char *found = detect_type(out, c), *given = json_get_string(config, "model_type", NULL);
    const char *class_name = json_get_string(config, "_class_name", "");
    if (!given && strstr(class_name, "VACE"))
        given = "vace";
    if (given && (strlen(given) >= sizeof out->model_type || !*given))
        return ERR(e, ERR_CONFIG, "%s: config.json: '%.60s' is no model_type", ckpt_path(c), given);
    if (given && (strcmp(given, "vace") == 0) != (out->vace_in_dim > 0))
        return ERR(e, ERR_CONFIG, "%s: config.json says model_type \"%s\", but the checkpoint holds %s VACE tensors; "
                   "the two files do not belong together", ckpt_path(c), given, out->vace_in_dim ? "its own" : "no");
    snprintf(out->model_type, sizeof out->model_type, "%s", given ? given : found);
    return 0;
}

int dit_config_detect(dit_config *out, const ckpt *c, const json *config, err *e)
{
    memset(out, 0, sizeof *out);
    int rc = read_anchors(out, c, e);
    if (!rc)
        rc = count_blocks(&out->num_layers, c, "blocks.", e);
    if (!rc)
        rc = agree(&out->dim, c, config, "dim", NULL, "patch_embedding.weight", e);
    if (!rc)
        rc = agree(&out->in_dim, c, config, "in_dim", "in_channels", "patch_embedding.weight", e);
    if (!rc)
        rc = agree(&out->out_dim, c, config, "out_dim", "out_channels", "head.head.weight", e);
    if (!rc)
        rc = agree(&out->ffn_dim, c, config, "ffn_dim", NULL, "blocks.0.ffn.0.weight", e);
    if (!rc)
        rc = agree(&out->freq_dim, c, config, "freq_dim", NULL, "time_embedding.0.weight", e);
    if (!rc)
        rc = agree(&out->num_layers, c, config, "num_layers", NULL, "the number of blocks", e);
    /* text_dim is not checked: the official config excludes it and diffusers' default is the released 4096 */
    if (!rc)
        rc = agree(&out->text_len, c, config, "text_len", NULL, "", e);
    if (!rc)
        rc = read_heads(out, c, config, e);
    if (!rc)
        rc = read_vace(out, c, config, e);
    if (!rc)
        rc = read_type(out, c, config, e);
    if (rc)
        return rc;
    if (!out->text_len)
        out->text_len = 512;
    if (out->text_len > MAX_TEXT_LEN)
        return ERR(e, ERR_CONFIG, "%s: config.json: text_len %d is more than the %d supported", ckpt_path(c),
                   out->text_len, MAX_TEXT_LEN);
    if (out->freq_dim % 2)
        return ERR(e, ERR_SHAPE, "%s: time_embedding.0.weight has %d columns, expected an even number", ckpt_path(c),
                   out->freq_dim);
    const json *eps = json_get(config, "eps");
    out->eps = eps && json_type(eps) != JSON_NULL ? json_number(eps, -1) : 1e-6;
    if (!(out->eps > 0 && out->eps < 1))
        return ERR(e, ERR_CONFIG, "%s: config.json: 'eps' must be a number between 0 and 1", ckpt_path(c));
    out->has_shot_embedding = ckpt_find(c, "shot_embedding.weight") != NULL;
    return 0;
}

void dit_config_describe(const dit_config *c, str *out)
{
    str_addf(out, "Wan %s: %d layers, dim %d, %d heads, ffn %d, %d -> %d channels, text %d x %d", c->model_type,
             c->num_layers, c->dim, c->num_heads, c->ffn_dim, c->in_dim, c->out_dim, c->text_len, c->text_dim);
    if (c->vace_in_dim)
        str_addf(out, ", VACE with %d blocks on %d channels", c->n_vace_layers, c->vace_in_dim);
    if (c->has_shot_embedding)
        str_add(out, ", shot embedding");
}
