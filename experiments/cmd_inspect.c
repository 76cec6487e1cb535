/* wanscope inspect: what a checkpoint file or a model's folder holds. Reads headers only (all bytes with --digest). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "core/dit/dit_config.h"
#include "core/io/ckpt.h"
#include "core/io/expect.h"

int cmd_inspect(int argc, char **argv);

static const char USAGE[] =
    "usage: wanscope inspect PATH [--tensors] [--digest] [--json]\n"
    "\n"
    "Prints what PATH holds: a model's folder (original, diffusers, Wan 2.2, HoloCine, LongLive, VACE) or one\n"
    "checkpoint file (.safetensors, .safetensors.index.json, .pth, .pt): family, configuration, number of tensors and\n"
    "parameters, element types, and what is missing, misshapen or unused.\n"
    "\n"
    "  --tensors   also list every tensor: name, type, shape, file\n"
    "  --digest    also compute the sha256 of all tensors (reads every byte)\n"
    "  --json      machine-readable output\n"
    "  --help      this text\n"
    "\n"
    "Exit code 0 when everything is complete, 2 when something is missing, wrong or unreadable.\n";

typedef enum { ROLE_DIT, ROLE_VACE, ROLE_T5, ROLE_VAE, ROLE_LORA, ROLE_OTHER } role;

static const char *const ROLE_NAMES[] = { "DiT", "VACE part", "umT5 text encoder", "VAE", "LoRA", "tensors" };
static const char *const ROLE_KEYS[] = { "dit", "vace", "umt5", "vae", "lora", "other" };

typedef struct options {
    const char *path;
    bool tensors, digest, json;
} options;

/* One checkpoint and what was found out about it. */
typedef struct part {
    role role;
    const char *label;      /* "high-noise expert" ... or NULL */
    ckpt *c;
    str summary;            /* the configuration in one line */
    str problem;            /* what is wrong, or "" */
    int rc;                 /* its err_kind */
    char digest[65];
    size_t by_type[DT_COUNT];
    size_t bytes;
    uint64_t parameters;
} part;

static void part_release(part *p)
{
    ckpt_close(p->c);
    str_release(&p->summary);
    str_release(&p->problem);
    memset(p, 0, sizeof *p);
}

static bool has_lora_names(const ckpt *c)
{
    for (size_t i = 0; i < ckpt_count(c); i++)
        if (strstr(ckpt_at(c, i)->name, "lora_") || strstr(ckpt_at(c, i)->name, ".lora."))
            return true;
    return false;
}

/* Opens the checkpoint with the names of the network it turns out to be. */
static int open_as(part *p, const char *path, err *e)
{
    static const struct {
        ckpt_kind kind;
        role role;
        const char *anchor;
    } TRIES[] = {
        { CKPT_DIT, ROLE_DIT, "patch_embedding.weight" },
        { CKPT_DIT, ROLE_VACE, "vace_patch_embedding.weight" },
        { CKPT_T5, ROLE_T5, "token_embedding.weight" },
        { CKPT_VAE, ROLE_VAE, "decoder.conv1.weight" },
        { CKPT_VAE, ROLE_VAE, "encoder.conv1.weight" },
    };
    for (size_t i = 0; i < sizeof TRIES / sizeof *TRIES; i++) {
        int rc = ckpt_open(&p->c, path, e);
        if (rc)
            return rc;
        if (ckpt_normalise(p->c, TRIES[i].kind, NULL) == 0 && ckpt_find(p->c, TRIES[i].anchor)) {
            p->role = TRIES[i].role;
            return 0;
        }
        ckpt_close(p->c);
        p->c = NULL;
    }
    int rc = ckpt_open(&p->c, path, e);
    if (!rc)
        p->role = has_lora_names(p->c) ? ROLE_LORA : ROLE_OTHER;
    return rc;
}

static void count_tensors(part *p)
{
    for (size_t i = 0; i < ckpt_count(p->c); i++) {
        const ckpt_tensor *t = ckpt_at(p->c, i);
        p->by_type[t->dtype]++;
        p->bytes += t->bytes;
        p->parameters += t->bytes / dtype_size(t->dtype);
    }
}

static int check_part(part *p, const char *config_path, err *e)
{
    ckpt_want *w = NULL;
    json *config = NULL;
    dit_config dit;
    umt5_config t5;
    vae_config vae;
    int rc = 0;
    if (p->role == ROLE_DIT) {
        if (config_path && (rc = json_read_file(&config, config_path, e)))
            goto out;
        if ((rc = dit_config_detect(&dit, p->c, config, e)))
            goto out;
        dit_config_describe(&dit, &p->summary);
        if ((rc = ckpt_want_begin(&w, p->c, "DiT", e)))
            goto out;
        expect_dit(w, &dit);
    } else if (p->role == ROLE_T5) {
        if ((rc = umt5_config_detect(&t5, p->c, e)))
            goto out;
        str_addf(&p->summary, "umT5: %d layers, dim %d, attention %d, %d heads, ffn %d, %d buckets, vocabulary %d",
                 t5.num_layers, t5.dim, t5.dim_attn, t5.num_heads, t5.dim_ffn, t5.num_buckets, t5.vocab_size);
        if ((rc = ckpt_want_begin(&w, p->c, "umT5", e)))
            goto out;
        expect_umt5(w, &t5);
    } else if (p->role == ROLE_VAE) {
        if ((rc = vae_config_detect(&vae, p->c, e)))
            goto out;
        str_addf(&p->summary, "Wan 2.1 VAE: dim %d x (%d, %d, %d, %d), %d latent channels, %d residual blocks a "
                 "stage, time "
                 "halved after stages%s%s%s", vae.dim, vae.mult[0], vae.mult[1], vae.mult[2], vae.mult[3], vae.z_dim,
                 vae.num_res_blocks, vae.temporal_down[0] ? " 1" : "", vae.temporal_down[1] ? " 2" : "",
                 vae.temporal_down[2] ? " 3" : "");
        if ((rc = ckpt_want_begin(&w, p->c, "VAE", e)))
            goto out;
        expect_vae(w, &vae);
    } else if (p->role == ROLE_VACE) {
        const ckpt_tensor *t = ckpt_find(p->c, "vace_patch_embedding.weight");
        str_addf(&p->summary, "VACE tensors without a base model: dim %" PRId64 ", %" PRId64 " channels", t->shape[0],
                 t->ndim > 1 ? t->shape[1] : 0);
    } else {
        str_add(&p->summary, p->role == ROLE_LORA ? "low-rank weights to be laid over a model"
                                                  : "no network of the Wan family that is known here");
    }
    rc = ckpt_want_finish(w, true, e);
out:
    json_free(config);
    return rc;
}

static int load_part(part *p, const options *o, const char *label, const char *path, const char *config, err *e)
{
    err problem = { 0 };
    memset(p, 0, sizeof *p);
    p->label = label;
    int rc = open_as(p, path, e);
    if (rc)
        return rc;
    count_tensors(p);
    p->rc = check_part(p, config, &problem);
    if (p->rc)
        str_add(&p->problem, problem.text);
    if (o->digest)
        rc = ckpt_digest(p->c, p->digest, e);
    if (!rc && (p->summary.failed || p->problem.failed))
        rc = ERR(e, ERR_MEMORY, "%s: memory ran out while describing the checkpoint", path);
    return rc;
}

/* the distinct files of a checkpoint; free() the array */
static const char **list_files(const ckpt *c, size_t *n)
{
    size_t cap = 0;
    const char **files = NULL;
    *n = 0;
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const char *file = ckpt_at(c, i)->file;
        size_t k = *n;
        while (k > 0 && strcmp(files[k - 1], file))
            k--;
        if (k)
            continue;
        if (*n == cap) {
            cap = cap ? cap * 2 : 8;
            const char **more = realloc(files, cap * sizeof *more);
            if (!more)
                break;
            files = more;
        }
        files[(*n)++] = file;
    }
    return files;
}

static void add_shape(str *out, const ckpt_tensor *t)
{
    str_addc(out, '[');
    for (int i = 0; i < t->ndim; i++)
        str_addf(out, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    str_addc(out, ']');
}

static void print_part(str *out, const part *p, const options *o)
{
    size_t n_files;
    const char **files = list_files(p->c, &n_files);
    str_addf(out, "%s%s%s%s: %s\n", ROLE_NAMES[p->role], p->label ? " (" : "", p->label ? p->label : "",
             p->label ? ")" : "", ckpt_path(p->c));
    if (p->summary.len)
        str_addf(out, "  %s\n", str_text(&p->summary));
    double size = (double)p->bytes;
    const char *unit = size >= 1e9 ? "GB" : size >= 1e6 ? "MB" : "kB";
    str_addf(out, "  %zu tensors, %" PRIu64 " parameters, %.2f %s in %zu file%s;", ckpt_count(p->c), p->parameters,
             size / (size >= 1e9 ? 1e9 : size >= 1e6 ? 1e6 : 1e3), unit, n_files, n_files == 1 ? "" : "s");
    for (int t = 0; t < DT_COUNT; t++)
        if (p->by_type[t])
            str_addf(out, " %s x %zu", dtype_name((dtype)t), p->by_type[t]);
    str_addc(out, '\n');
    if (n_files > 1)
        for (size_t i = 0; i < n_files; i++)
            str_addf(out, "  file %s\n", files[i]);
    if (p->digest[0])
        str_addf(out, "  sha256 %s\n", p->digest);
    if (p->rc)
        str_addf(out, "  PROBLEM: %s\n", str_text(&p->problem));
    else if (p->role == ROLE_DIT || p->role == ROLE_T5 || p->role == ROLE_VAE)
        str_add(out, "  complete: nothing missing, nothing unused\n");
    for (size_t i = 0; o->tensors && i < ckpt_count(p->c); i++) {
        const ckpt_tensor *t = ckpt_at(p->c, i);
        str_addf(out, "    %s %s ", t->name, dtype_name(t->dtype));
        add_shape(out, t);
        str_addf(out, " %s\n", fs_basename(t->file));
    }
    free(files);
}

static void part_json(json_writer *w, const part *p, const options *o)
{
    size_t n_files;
    const char **files = list_files(p->c, &n_files);
    jw_object(w);
    jw_kstring(w, "role", ROLE_KEYS[p->role]);
    if (p->label)
        jw_kstring(w, "label", p->label);
    jw_kstring(w, "path", ckpt_path(p->c));
    jw_kstring(w, "summary", str_text(&p->summary));
    jw_kint(w, "tensors", (int64_t)ckpt_count(p->c));
    jw_kint(w, "parameters", (int64_t)p->parameters);
    jw_kint(w, "bytes", (int64_t)p->bytes);
    jw_key(w, "dtypes");
    jw_object(w);
    for (int t = 0; t < DT_COUNT; t++)
        if (p->by_type[t])
            jw_kint(w, dtype_name((dtype)t), (int64_t)p->by_type[t]);
    jw_end_object(w);
    jw_key(w, "files");
    jw_array(w);
    for (size_t i = 0; i < n_files; i++)
        jw_string(w, files[i]);
    jw_end_array(w);
    jw_kstring(w, "problem", p->rc ? str_text(&p->problem) : NULL);
    if (p->digest[0])
        jw_kstring(w, "sha256", p->digest);
    if (o->tensors) {
        jw_key(w, "tensor_list");
        jw_array(w);
        for (size_t i = 0; i < ckpt_count(p->c); i++) {
            const ckpt_tensor *t = ckpt_at(p->c, i);
            jw_object(w);
            jw_kstring(w, "name", t->name);
            if (strcmp(t->name, t->file_name))
                jw_kstring(w, "file_name", t->file_name);
            jw_kstring(w, "dtype", dtype_name(t->dtype));
            jw_key(w, "shape");
            jw_array(w);
            for (int k = 0; k < t->ndim; k++)
                jw_int(w, t->shape[k]);
            jw_end_array(w);
            jw_kstring(w, "file", fs_basename(t->file));
            jw_end_object(w);
        }
        jw_end_array(w);
    }
    jw_end_object(w);
    free(files);
}

enum { MAX_PARTS = 4 };

/* A model's folder, or one checkpoint. */
static int load(part *parts, int *n, model_files *m, const options *o, err *e)
{
    struct {
        const char *label, *path, *config;
    } list[MAX_PARTS];
    int count = 0, rc = 0;
    err why = { 0 };
    char *folder = NULL, *config = NULL;
    *n = 0;
    if (fs_is_dir(o->path) && model_files_find(m, o->path, &why) == 0) {
        list[count].label = m->dit_low ? "high-noise expert" : NULL;
        list[count].path = m->dit;
        list[count++].config = m->config;
        if (m->dit_low) {
            list[count].label = "low-noise expert";
            list[count].path = m->dit_low;
            list[count++].config = m->config_low;
        }
        const char *others[] = { m->t5, m->vae };
        for (int i = 0; i < 2; i++)
            if (others[i]) {
                list[count].label = list[count].config = NULL;
                list[count++].path = others[i];
            }
    } else {
        if (fs_is_dir(o->path)) {
            ckpt *c = NULL;
            if (ckpt_open(&c, o->path, NULL)) {
                rc = ERR(e, why.kind ? why.kind : ERR_IO, "%s", why.text);
                goto out;
            }
            ckpt_close(c);
            folder = str_dup(o->path);
        } else {
            folder = str_dupn(o->path, (size_t)(fs_basename(o->path) - o->path));
        }
        config = folder ? fs_join(folder, "config.json") : NULL;
        if (!config) {
            rc = ERR(e, ERR_MEMORY, "%s: memory ran out", o->path);
            goto out;
        }
        list[count].label = NULL;
        list[count].path = o->path;
        list[count++].config = fs_exists(config) ? config : NULL;
    }
    for (int i = 0; i < count && !rc; i++) {
        rc = load_part(&parts[i], o, list[i].label, list[i].path, list[i].config, e);
        *n = i + 1;
    }
out:
    free(folder);
    free(config);
    return rc;
}

static int print_text(str *out, const part *parts, int n, const model_files *m, const options *o)
{
    if (m->family[0])
        str_addf(out, "%s: a model of the family %s\n", o->path, m->family);
    for (int i = 0; i < n; i++)
        print_part(out, &parts[i], o);
    if (m->family[0]) {
        str_addf(out, "tokenizer: %s\n", m->tokenizer ? m->tokenizer : "not found");
        if (strcmp(m->family, "longlive") == 0)
            str_addf(out, "adapter: %s\n", m->lora ? m->lora : "lora.pt not found beside the model");
        if (!m->t5)
            str_add(out, "umT5 text encoder: not found beside the model\n");
        if (!m->vae)
            str_add(out, "VAE: not found beside the model\n");
    }
    return out->failed ? ERR_MEMORY : 0;
}

static int print_json(str *out, const part *parts, int n, const model_files *m, const options *o)
{
    json_writer w;
    jw_init(&w, out, 1);
    jw_object(&w);
    jw_kstring(&w, "path", o->path);
    jw_kstring(&w, "family", m->family[0] ? m->family : NULL);
    jw_kstring(&w, "tokenizer", m->tokenizer);
    if (m->lora)
        jw_kstring(&w, "lora", m->lora);
    jw_key(&w, "parts");
    jw_array(&w);
    for (int i = 0; i < n; i++)
        part_json(&w, &parts[i], o);
    jw_end_array(&w);
    jw_end_object(&w);
    str_addc(out, '\n');
    return out->failed ? ERR_MEMORY : 0;
}

static int parse_options(options *o, int argc, char **argv, bool *help, err *e)
{
    static const char *const KNOWN[] = { "--tensors", "--digest", "--json", "--help" };
    bool plain = false;
    memset(o, 0, sizeof *o);
    *help = false;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (plain || a[0] != '-' || !a[1]) {
            if (o->path)
                return ERR(e, ERR_ARG, "inspect takes one path, found '%s' and '%s'", o->path, a);
            o->path = a;
        } else if (strcmp(a, "--") == 0) {
            plain = true;
        } else if (strcmp(a, "--tensors") == 0) {
            o->tensors = true;
        } else if (strcmp(a, "--digest") == 0) {
            o->digest = true;
        } else if (strcmp(a, "--json") == 0) {
            o->json = true;
        } else if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) {
            *help = true;
        } else {
            const char *near = str_nearest(a, KNOWN, sizeof KNOWN / sizeof *KNOWN);
            return ERR(e, ERR_ARG, "inspect does not know the option '%s'%s%s%s", a, near ? "; did you mean '" : "",
                       near ? near : "", near ? "'?" : "; see wanscope inspect --help");
        }
    }
    if (!o->path && !*help)
        return ERR(e, ERR_ARG, "inspect needs the path of a checkpoint or of a model's folder; see wanscope inspect "
                   "--help");
    return 0;
}

int cmd_inspect(int argc, char **argv)
{
    options o;
    bool help;
    err e = { 0 };
    part parts[MAX_PARTS];
    model_files m;
    str out = STR_INIT;
    int n = 0;
    memset(parts, 0, sizeof parts);
    memset(&m, 0, sizeof m);
    int rc = parse_options(&o, argc, argv, &help, &e);
    if (rc || help) {
        if (help)
            fputs(USAGE, stdout);
        goto out;
    }
    if ((rc = load(parts, &n, &m, &o, &e)))
        goto out;
    rc = o.json ? print_json(&out, parts, n, &m, &o) : print_text(&out, parts, n, &m, &o);
    if (rc) {
        ERR(&e, rc, "%s: memory ran out while printing", o.path);
        goto out;
    }
    if (fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout)) {
        rc = ERR(&e, ERR_IO, "standard output could not be written; is the disk full or the pipe closed?");
        goto out;
    }
    for (int i = 0; i < n && !rc; i++)
        rc = parts[i].rc;           /* already told in the output */
out:
    if (rc && e.text[0])
        log_msg(LOG_ERROR, "%s", e.text);
    for (int i = 0; i < MAX_PARTS; i++)
        part_release(&parts[i]);
    model_files_release(&m);
    str_release(&out);
    return err_exit_code(rc);
}
