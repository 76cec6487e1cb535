/* Where the parts of a model lie. Layouts: wan-engine.md 2.1, 2.3 (ComfyUI), holocine.md 5.2, longlive-vace.md 1.2. */
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/dit/dit_config.h"
#include "core/io/ckpt_internal.h"

typedef struct finder {
    model_files *out;
    const char *path;       /* as the user gave it */
    bool failed;            /* memory ran out */
    err *e;
} finder;

void model_files_release(model_files *m)
{
    if (!m)
        return;
    free(m->dit);
    free(m->dit_low);
    free(m->config);
    free(m->config_low);
    free(m->t5);
    free(m->vae);
    free(m->tokenizer);
    free(m->lora);
    memset(m, 0, sizeof *m);
}

static int no_memory(finder *f)
{
    return ERR(f->e, ERR_MEMORY, "%s: memory ran out while looking for the parts of the model", f->path);
}

/* small helpers: each gives an owned path of something that exists, or NULL */

static char *existing(finder *f, const char *folder, const char *name, bool want_folder)
{
    char *p = fs_join(folder, name);
    if (!p)
        f->failed = true;
    else if (!fs_exists(p) || fs_is_dir(p) != want_folder) {
        free(p);
        p = NULL;
    }
    return p;
}

static bool checkpoint_name(const char *name)
{
    return str_ends_with(name, ".safetensors") || str_ends_with(name, ".pth") || str_ends_with(name, ".pt");
}

/* lower-case search */
static bool holds(const char *name, const char *part)
{
    size_t n = strlen(part);
    for (; *name; name++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)name[i]) == part[i])
            i++;
        if (i == n)
            return true;
    }
    return false;
}

static bool t5_name(const char *name)
{
    return checkpoint_name(name) && (holds(name, "umt5") || holds(name, "t5_") || holds(name, "t5-"));
}

static bool vae_name(const char *name)
{
    return checkpoint_name(name) && holds(name, "vae") && !holds(name, "2.2") && !holds(name, "2_2");
}

static bool other_name(const char *name)
{
    return t5_name(name) || holds(name, "vae") || holds(name, "lora") || holds(name, "clip");
}

/* a set of names from a folder, sorted */
typedef struct names {
    struct dirent **list;
    int count;
} names;

static names read_names(const char *folder, bool (*keep)(const char *))
{
    names n = { NULL, 0 };
    int got = scandir(folder, &n.list, NULL, alphasort);
    for (int i = 0; i < got; i++) {
        if (n.list[i]->d_name[0] != '.' && keep(n.list[i]->d_name))
            n.list[n.count++] = n.list[i];
        else
            free(n.list[i]);
    }
    return n;
}

static void names_free(names *n)
{
    for (int i = 0; i < n->count; i++)
        free(n->list[i]);
    free(n->list);
    *n = (names){ NULL, 0 };
}

static char *first_match(finder *f, const char *folder, bool (*keep)(const char *))
{
    names n = read_names(folder, keep);
    char *p = n.count ? existing(f, folder, n.list[0]->d_name, false) : NULL;
    names_free(&n);
    return p;
}

/* a folder that ckpt_open() can open */
static char *checkpoint_folder(finder *f, const char *folder, const char *name)
{
    char *p = existing(f, folder, name, true), *inside = NULL;
    if (p && ckpt_file_in_folder(&inside, p, NULL)) {
        free(p);
        p = NULL;
    }
    free(inside);
    return p;
}

/* a config.json that describes a DiT */
static char *find_config(finder *f, const char *folder)
{
    char *p = existing(f, folder, "config.json", false);
    json *doc = NULL;
    if (p && json_read_file(&doc, p, NULL) == 0 && !json_get(doc, "dim") && !json_get(doc, "num_layers") &&
        !json_get(doc, "model_type")) {
        free(p);
        p = NULL;
    }
    json_free(doc);
    return p;
}

static char *folder_of(const char *path)
{
    const char *name = fs_basename(path);
    size_t n = (size_t)(name - path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return n ? str_dupn(path, n) : str_dup(".");
}

/* companions: text encoder, VAE, tokenizer */

static char *find_t5(finder *f, const char *folder, bool near)
{
    static const char EXACT[] = "models_t5_umt5-xxl-enc-bf16.pth";
    char *sub, *p = existing(f, folder, EXACT, false);
    if (!p)
        p = existing(f, folder, "models_t5_umt5-xxl-enc-bf16.safetensors", false);
    if (!p && near)
        p = first_match(f, folder, t5_name);
    if (!p)
        p = checkpoint_folder(f, folder, "text_encoder");
    if (!p && (sub = existing(f, folder, "text_encoders", true))) {
        p = first_match(f, sub, t5_name);
        free(sub);
    }
    return p;
}

static char *find_vae(finder *f, const char *folder, bool near)
{
    static const char *const EXACT[] = { "Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors", "wan_2.1_vae.safetensors" };
    char *sub, *p = NULL;
    for (size_t i = 0; i < sizeof EXACT / sizeof *EXACT && !p; i++)
        p = existing(f, folder, EXACT[i], false);
    if (!p && near)
        p = first_match(f, folder, vae_name);
    if (!p)
        p = checkpoint_folder(f, folder, "vae");
    if (!p && (sub = existing(f, folder, "vae", true))) {
        p = first_match(f, sub, vae_name);
        free(sub);
    }
    return p;
}

static char *find_tokenizer(finder *f, const char *folder)
{
    static const char *const PLACES[] = { "google/umt5-xxl", "tokenizer", "umt5-xxl", "." };
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        char *p = strcmp(PLACES[i], ".") ? existing(f, folder, PLACES[i], true) : str_dup(folder);
        char *model = p ? existing(f, p, "spiece.model", false) : NULL;
        if (model) {
            free(model);
            return p;
        }
        free(p);
    }
    return NULL;
}

/* Beside the DiT, one and two folders up, and in the released folders of Wan there. */
static int find_companions(finder *f, const char *root)
{
    static const char *const UP[] = { "", "..", "../.." };
    static const char *const RELEASES[] = {
        "", "Wan2.1-T2V-1.3B", "Wan2.2-T2V-A14B", "Wan2.2-T2V-A14B/Wan2.2-T2V-A14B", "Wan2.1-T2V-14B",
        "wan_models/Wan2.1-T2V-1.3B",
    };
    model_files *m = f->out;
    for (size_t u = 0; u < 3; u++)
        for (size_t r = 0; r < sizeof RELEASES / sizeof *RELEASES; r++) {
            char *up = *UP[u] ? fs_join(root, UP[u]) : str_dup(root);
            char *folder = up && *RELEASES[r] ? existing(f, up, RELEASES[r], true) : up ? str_dup(up) : NULL;
            bool near = r == 0 && u == 0;
            if (!up)
                f->failed = true;
            if (folder) {
                if (!m->t5)
                    m->t5 = find_t5(f, folder, near);
                if (!m->vae)
                    m->vae = find_vae(f, folder, near);
                if (!m->tokenizer)
                    m->tokenizer = find_tokenizer(f, folder);
                if (!m->config && !m->dit_low && strcmp(m->family, "longlive") == 0 && strstr(RELEASES[r], "1.3B"))
                    m->config = find_config(f, folder);     /* LongLive is built from the config of its base */
            }
            free(folder);
            free(up);
        }
    return f->failed ? no_memory(f) : 0;
}

/* the DiT */

static void set_family(finder *f, const char *family)
{
    snprintf(f->out->family, sizeof f->out->family, "%s", family);
}

/* Opens the DiT (a mapping and a header, so it is quick) to see whether it is one, and of which family. */
static int look_inside(finder *f)
{
    ckpt *c = NULL;
    bool vace = false, nested = false;
    int rc = ckpt_open(&c, f->out->dit, f->e);
    if (rc)
        return rc;
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const char *name = ckpt_at(c, i)->name;
        vace |= strstr(name, "vace_patch_embedding.") != NULL;
        nested |= str_starts_with(name, "generator.") || str_starts_with(name, "generator_ema.");
    }
    rc = ckpt_normalise(c, CKPT_DIT, f->e);
    if (!rc && !ckpt_find(c, "patch_embedding.weight") && !ckpt_find(c, "vace_patch_embedding.weight"))
        rc = ERR(f->e, ERR_SHAPE, "%s: this is not a video model: expected a Wan DiT, but the tensor "
                 "'patch_embedding.weight' is missing", f->out->dit);
    ckpt_close(c);
    if (!rc && !*f->out->family)
        set_family(f, vace ? "vace" : nested ? "longlive" : f->out->dit_low ? "wan2.2-a14b" : "wan2.1");
    return rc;
}

/* ".../x_high_noise_y" <-> ".../x_low_noise_y"; the partner's path, there or not; NULL if the name has neither */
static char *partner(const char *path, bool *is_high)
{
    const char *name = fs_basename(path), *high = strstr(name, "high_noise"), *low = strstr(name, "low_noise");
    *is_high = high != NULL;
    if (high)
        return str_format("%.*slow_noise%s", (int)(high - path), path, high + 10);
    return low ? str_format("%.*shigh_noise%s", (int)(low - path), path, low + 9) : NULL;
}

bool model_files_named_holocine(const char *path)
{
    const char *name = fs_basename(path);
    return holds(name, "holocine") || str_starts_with(name, "full_") || str_starts_with(name, "sparse_");
}

static int take_file(finder *f, const char *path)
{
    bool is_high;
    model_files *m = f->out;
    char *other = partner(path, &is_high), *folder = folder_of(path);
    int rc = 0;
    if (!folder || !(m->dit = str_dup(path))) {
        rc = no_memory(f);
        goto out;
    }
    if (other && !fs_exists(other)) {
        rc = ERR(f->e, ERR_IO, "%s: this is the %s-noise expert of a pair and '%s' is not beside it; both are needed",
                 path, is_high ? "high" : "low", fs_basename(other));
        goto out;
    }
    if (other) {
        m->dit_low = other;
        other = NULL;
        if (!is_high) {
            char *swap = m->dit;
            m->dit = m->dit_low;
            m->dit_low = swap;
        }
        if (model_files_named_holocine(m->dit))
            set_family(f, "holocine");
    }
    m->config = find_config(f, folder);
    if (m->dit_low && m->config && !(m->config_low = str_dup(m->config)))
        rc = no_memory(f);
    if (!rc && strstr(fs_basename(path), "longlive"))
        set_family(f, "longlive");
    if (!rc)
        rc = look_inside(f);
    if (!rc && strcmp(m->family, "longlive") == 0) {
        static const char *const ADAPTERS[] = { "lora.pt", "lora.safetensors" };
        for (size_t i = 0; i < 2 && !m->lora; i++)
            m->lora = existing(f, folder, ADAPTERS[i], false);
    }
    if (!rc)
        rc = find_companions(f, folder);
out:
    free(other);
    free(folder);
    return rc;
}

/* two folders, one an expert each */
static int take_pair(finder *f, const char *root, char *high, char *low)
{
    model_files *m = f->out;
    m->dit = high;
    m->dit_low = low;
    m->config = find_config(f, high);
    m->config_low = find_config(f, low);
    set_family(f, "wan2.2-a14b");
    int rc = look_inside(f);
    return rc ? rc : find_companions(f, root);
}

static bool dit_name(const char *name)
{
    return checkpoint_name(name) && !other_name(name) && !str_starts_with(name, "diffusion_pytorch_model-");
}

/* Single files in a folder: the one there is, or the pair (full attention first). */
static int take_loose(finder *f, const char *root)
{
    static const char *const FIRST[] = {
        "longlive_base.pt", "full_high_noise.safetensors", "sparse_high_noise.safetensors",
    };
    static const char *const BELOW[] = { "full", "sparse", "HoloCine_dit/full", "HoloCine_dit/sparse" };
    int rc = 0;
    char *file = NULL;
    str text = STR_INIT;
    names n = { NULL, 0 };
    for (size_t i = 0; i < sizeof FIRST / sizeof *FIRST && !file; i++)
        file = existing(f, root, FIRST[i], false);
    for (size_t i = 0; i < sizeof BELOW / sizeof *BELOW && !file; i++) {
        char *folder = existing(f, root, BELOW[i], true);
        if (folder)
            file = existing(f, folder, str_ends_with(BELOW[i], "full") ? FIRST[1] : FIRST[2], false);
        free(folder);
    }
    if (!file) {
        n = read_names(root, dit_name);
        int high = -1, n_high = 0, n_low = 0;
        for (int i = 0; i < n.count; i++) {
            bool h = holds(n.list[i]->d_name, "high_noise");
            n_low += holds(n.list[i]->d_name, "low_noise");
            if (h) {
                high = i;
                n_high++;
            }
        }
        if (n.count == 1)
            file = existing(f, root, n.list[0]->d_name, false);
        else if (n.count == 2 && n_high == 1 && n_low == 1)
            file = existing(f, root, n.list[high]->d_name, false);
        else if (n.count > 1) {
            for (int i = 0; i < n.count && i < 6; i++)
                str_addf(&text, "%s%s", i ? ", " : "", n.list[i]->d_name);
            rc = ERR(f->e, ERR_IO, "%s: the folder holds %d files that may be the model (%s%s); name one of them", root,
                     n.count, str_text(&text), n.count > 6 ? ", ..." : "");
        }
    }
    if (f->failed)
        rc = no_memory(f);
    else if (file)
        rc = take_file(f, file);
    else if (!rc)
        rc = ERR(f->e, ERR_IO, "%s: no Wan model found here: expected diffusion_pytorch_model*.safetensors, "
                 "high_noise_model/ and low_noise_model/, transformer/ (diffusers), full_high_noise.safetensors "
                 "(HoloCine), longlive_base.pt, or one .safetensors file", root);
    free(file);
    names_free(&n);
    str_release(&text);
    return rc;
}

static bool is_official(const char *name)
{
    return str_starts_with(name, "diffusion_pytorch_model") && checkpoint_name(name);
}

static int take_folder(finder *f, const char *root)
{
    int rc;
    model_files *m = f->out;
    char *inside = NULL;
    char *high = existing(f, root, "high_noise_model", true), *low = existing(f, root, "low_noise_model", true);
    if (high && low)
        return take_pair(f, root, high, low);
    if (high || low) {
        rc = ERR(f->e, ERR_IO, "%s: found %s but not %s; a Wan 2.2 A14B model needs both experts", root,
                 high ? "high_noise_model/" : "low_noise_model/", high ? "low_noise_model/" : "high_noise_model/");
        free(high);
        free(low);
        return rc;
    }
    /* diffusers: "transformer" is the high-noise expert when there are two (wan-engine.md 1.4) */
    high = existing(f, root, "transformer", true);
    low = high ? existing(f, root, "transformer_2", true) : NULL;
    if (high && low)
        return take_pair(f, root, high, low);
    if (high) {
        m->dit = high;
        m->config = find_config(f, high);
    } else if ((rc = ckpt_file_in_folder(&inside, root, f->e)) == 0) {
        m->config = find_config(f, root);
        if (!(m->dit = str_dup(root)))
            f->failed = true;
    } else {
        names shards = read_names(root, is_official);   /* shards without their index: the sentence is there already */
        bool official = shards.count > 0;
        names_free(&shards);
        return official ? rc : take_loose(f, root);
    }
    free(inside);
    if (f->failed)
        return no_memory(f);
    rc = look_inside(f);
    return rc ? rc : find_companions(f, root);
}

int model_files_find(model_files *out, const char *path, err *e)
{
    finder f = { .out = out, .path = path, .e = e };
    int rc;
    memset(out, 0, sizeof *out);
    if (!fs_exists(path))
        return ERR(e, ERR_IO, "%s: there is no such file or folder; give a model's folder or its DiT file", path);
    rc = fs_is_dir(path) ? take_folder(&f, path) : take_file(&f, path);
    if (rc)
        model_files_release(out);
    return rc;
}
