#include "core/dit/lora.h"

#include <inttypes.h>
#include <math.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/parallel.h"
#include "core/base/str.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef enum { PART_DOWN, PART_UP, PART_ALPHA, PART_DIFF, PART_DIFF_B, PART_DIFF_M, N_PARTS, PART_UNKNOWN } part;

typedef struct module {
    char *flat;                          /* "blocks_0_self_attn_q" */
    const char *shown;                   /* a name of the file, for messages */
    const ckpt_tensor *parts[N_PARTS];
    bool matched;
} module;

typedef struct adapter {
    const lora *of;
    module *modules;                     /* sorted by flat */
    size_t n;
    str strange;                         /* names that are no part of an adapter */
    int n_strange;
} adapter;

struct lora_merge {
    adapter *adapters;
    int n;
};

/* ---- names ---- */

static bool cut_suffix(char *name, const char *suffix)
{
    if (!str_ends_with(name, suffix) || strlen(name) == strlen(suffix))
        return false;
    name[strlen(name) - strlen(suffix)] = '\0';
    return true;
}

/* Cuts what says which part it is; PEFT may put the adapter's own name between side and "weight". */
static part cut_part(char *name)
{
    static const struct { const char *suffix; part p; } SUFFIXES[] = {
        { ".lora_down.weight", PART_DOWN },      { ".lora_up.weight", PART_UP },
        { ".lora.down.weight", PART_DOWN },      { ".lora.up.weight", PART_UP },
        { "_lora_down_weight.alpha", PART_ALPHA }, { "_lora_down_weight", PART_DOWN }, { "_lora_up_weight", PART_UP },
        { ".alpha", PART_ALPHA },
        { ".diff_b", PART_DIFF_B }, { ".diff_m", PART_DIFF_M }, { ".diff", PART_DIFF },
        { "_diff_b", PART_DIFF_B }, { "_diff_m", PART_DIFF_M }, { "_diff", PART_DIFF },
    };
    static const char *const SIDES[] = { ".lora_A.", ".lora_B." };
    for (int s = 0; s < 2; s++) {
        char *at = strstr(name, SIDES[s]);
        if (!at || at == name || !str_ends_with(at, "weight"))
            continue;
        const char *rest = at + strlen(SIDES[s]), *dot = strchr(rest, '.');
        if (strcmp(rest, "weight") && (!dot || strcmp(dot, ".weight")))
            continue;
        *at = '\0';
        return s ? PART_UP : PART_DOWN;
    }
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof *SUFFIXES; i++)
        if (cut_suffix(name, SUFFIXES[i].suffix))
            return SUFFIXES[i].p;
    return PART_UNKNOWN;
}

static const char *without_prefixes(const char *name)
{
    static const char *const PREFIXES[] = { "generator_lora.", "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.",
                                            "dit.", "model.", "lora_unet_", "lora_transformer_" };
    for (size_t i = 0; i < sizeof PREFIXES / sizeof *PREFIXES;)
        if (str_starts_with(name, PREFIXES[i])) {
            name += strlen(PREFIXES[i]);
            i = 0;
        } else {
            i++;
        }
    return name;
}

static char *flatten(const char *name)
{
    char *flat = str_dup(name);
    for (char *c = flat; c && *c; c++)
        if (*c == '.')
            *c = '_';
    return flat;
}

/* Kinds of adapter whose tensors would otherwise be left out in silence. */
static const char *foreign_kind(const char *name)
{
    if (strstr(name, "dora_scale") || strstr(name, "lora_magnitude_vector"))
        return "DoRA";
    if (strstr(name, ".hada_") || strstr(name, "_hada_"))
        return "LoHa";
    if (strstr(name, ".lokr_") || strstr(name, "_lokr_"))
        return "LoKr";
    return strstr(name, "lora_mid") ? "a LoRA with a middle factor" : NULL;
}

/* ---- table ---- */

static int by_flat(const void *a, const void *b)
{
    return strcmp(((const module *)a)->flat, ((const module *)b)->flat);
}

/* ---- patterns ---- */

typedef struct patterns {
    regex_t keep, drop;
    bool has_keep, has_drop;
} patterns;

/* Escapes that Python knows and POSIX reads as plain letters would match something else without a word. */
static int compile(regex_t *out, bool *has, const char *text, const char *what, const ckpt *c, err *e)
{
    char why[128];
    if (!text || !*text)
        return 0;
    for (const char *p = text; *p; p++) {
        if (*p == '\\' && p[1] && strchr("dDAZ", p[1]))
            return ERR(e, ERR_CONFIG, "%s: the %s pattern '%.120s' has '\\%c', which POSIX expressions do not know; write [0-9] for \\d, ^ and $ for the ends",
                       ckpt_path(c), what, text, p[1]);
        if (*p == '(' && p[1] == '?')
            return ERR(e, ERR_CONFIG, "%s: the %s pattern '%.120s' has '(?', which POSIX expressions do not know; use plain groups", ckpt_path(c), what, text);
        p += *p == '\\' && p[1];
    }
    int rc = regcomp(out, text, REG_EXTENDED | REG_NOSUB);
    if (rc) {
        regerror(rc, out, why, sizeof why);
        return ERR(e, ERR_CONFIG, "%s: the %s pattern '%.120s' is no regular expression: %s", ckpt_path(c), what, text, why);
    }
    *has = true;
    return 0;
}

static void patterns_release(patterns *p)
{
    if (p->has_keep)
        regfree(&p->keep);
    if (p->has_drop)
        regfree(&p->drop);
}

static bool chosen(const patterns *p, const char *name)
{
    return (!p->has_keep || regexec(&p->keep, name, 0, NULL, 0) == 0) && (!p->has_drop || regexec(&p->drop, name, 0, NULL, 0) != 0);
}

static int no_memory(const adapter *a, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: no memory for the table of an adapter", ckpt_path(a->of->file));
}

static void note_strange(adapter *a, const char *name)
{
    if (a->n_strange++ < 5)
        str_addf(&a->strange, "%s%.120s", a->n_strange > 1 ? ", " : "", name);
}

static int read_tensors(adapter *a, const patterns *wanted, size_t *left_out, err *e)
{
    const ckpt *c = a->of->file;
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const ckpt_tensor *t = ckpt_at(c, i);
        if (!chosen(wanted, t->name)) {
            ++*left_out;
            continue;
        }
        const char *kind = foreign_kind(t->name);
        if (kind)
            return ERR(e, ERR_FORMAT, "%s: '%.200s' makes this %s: plain low-rank adapters and full differences are merged; convert the file, or "
                       "merge it with the program it was made for", ckpt_path(c), t->name, kind);
        char *name = str_dup(without_prefixes(t->name));
        part p = name ? cut_part(name) : PART_UNKNOWN;
        if (name && (p == PART_UNKNOWN || t->dtype > DT_F64)) {
            note_strange(a, t->name);
            free(name);
            continue;
        }
        module *m = &a->modules[a->n];
        m->flat = name ? flatten(name) : NULL;
        free(name);
        if (!m->flat)
            return no_memory(a, e);
        m->shown = t->name;
        m->parts[p] = t;
        a->n++;
    }
    return 0;
}

/* One entry a tensor, sorted, then entries of one module folded into the first of them. */
static int read_adapter(adapter *a, err *e)
{
    const ckpt *c = a->of->file;
    patterns wanted = { 0 };
    size_t kept = 0, left_out = 0;
    if (!(a->modules = calloc(ckpt_count(c) + 1, sizeof *a->modules)))
        return no_memory(a, e);
    int bad = compile(&wanted.keep, &wanted.has_keep, a->of->include, "include", c, e);
    bad = bad ? bad : compile(&wanted.drop, &wanted.has_drop, a->of->exclude, "exclude", c, e);
    bad = bad ? bad : read_tensors(a, &wanted, &left_out, e);
    patterns_release(&wanted);
    if (bad)
        return bad;
    if (left_out && left_out == ckpt_count(c))
        return ERR(e, ERR_CONFIG, "%s: the patterns leave none of the %zu tensors of this adapter, the first of which is '%.200s'", ckpt_path(c), left_out,
                   ckpt_at(c, 0)->name);
    if (a->n)
        qsort(a->modules, a->n, sizeof *a->modules, by_flat);
    for (size_t i = 0; i < a->n; i++) {
        module *m = &a->modules[i];
        if (!kept || strcmp(a->modules[kept - 1].flat, m->flat)) {
            if (kept != i)
                a->modules[kept] = *m;
            kept++;
            continue;
        }
        module *into = &a->modules[kept - 1];
        for (int p = 0; p < N_PARTS; p++)
            if (m->parts[p] && into->parts[p]) {
                int rc = ERR(e, ERR_FORMAT, "%s: '%.200s' and '%.200s' are the same part of one module; the file mixes two adapters", ckpt_path(c),
                             into->parts[p]->name, m->parts[p]->name);
                for (size_t k = i; k < a->n; k++) {      /* what was not folded yet still owns its name */
                    free(a->modules[k].flat);
                    a->modules[k].flat = NULL;
                }
                a->n = kept;
                return rc;
            } else if (m->parts[p]) {
                into->parts[p] = m->parts[p];
            }
        free(m->flat);
        m->flat = NULL;
    }
    a->n = kept;
    for (size_t i = 0; i < a->n; i++) {
        const module *m = &a->modules[i];
        if (!m->parts[PART_DOWN] != !m->parts[PART_UP])
            return ERR(e, ERR_FORMAT, "%s: '%.200s' has no partner: a low-rank part needs both its factors (lora_A and lora_B, or lora_down and lora_up); "
                       "%s", ckpt_path(c), (m->parts[PART_DOWN] ? m->parts[PART_DOWN] : m->parts[PART_UP])->name,
                       left_out ? "the patterns leave out the other" : "the file is incomplete");
    }
    if (!a->n)
        return ERR(e, ERR_FORMAT, "%s: this file holds no adapter: expected tensors named like 'blocks.0.self_attn.q.lora_A.weight' or "
                   "'lora_unet_blocks_0_self_attn_q.lora_down.weight'%s%s", ckpt_path(c), a->strange.len ? ", found " : "", str_text(&a->strange));
    return 0;
}

int lora_merge_begin(lora_merge **out, const lora *loras, int n, err *e)
{
    int rc = 0;
    lora_merge *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m || !(m->adapters = calloc((size_t)n + 1, sizeof *m->adapters))) {
        lora_merge_free(m);
        return ERR(e, ERR_MEMORY, "no memory for %d adapters", n);
    }
    m->n = n;
    for (int i = 0; i < n; i++)
        m->adapters[i].of = &loras[i];
    for (int i = 0; i < n; i++) {
        if (!isfinite(loras[i].multiplier)) {
            rc = ERR(e, ERR_CONFIG, "%s: the multiplier of this adapter is not a number", ckpt_path(loras[i].file));
            goto out;
        }
        TRY(read_adapter(&m->adapters[i], e));
    }
    *out = m;
    return 0;
out:
    lora_merge_free(m);
    return rc;
}

void lora_merge_free(lora_merge *m)
{
    if (!m)
        return;
    for (int i = 0; m->adapters && i < m->n; i++) {
        for (size_t k = 0; k < m->adapters[i].n; k++)
            free(m->adapters[i].modules[k].flat);
        free(m->adapters[i].modules);
        str_release(&m->adapters[i].strange);
    }
    free(m->adapters);
    free(m);
}

/* ---- merging ---- */

static int64_t elements(const ckpt_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

static float *as_f32(const ckpt_tensor *t)
{
    int64_t n = elements(t);
    float *v = malloc((size_t)(n ? n : 1) * sizeof *v);
    if (v)
        dtype_to_f32(v, t->data, t->dtype, n);
    return v;
}

typedef struct {
    float *w, scale;
    const float *up, *down;
    float *sums;                         /* one row a thread */
    int64_t rank, cols;
} product;

static void add_row(int64_t i, int thread, void *arg)
{
    const product *p = arg;
    float *sum = p->sums + thread * p->cols;
    memset(sum, 0, (size_t)p->cols * sizeof *sum);
    for (int64_t k = 0; k < p->rank; k++)
        for (int64_t j = 0; j < p->cols; j++)
            sum[j] += p->up[i * p->rank + k] * p->down[k * p->cols + j];
    for (int64_t j = 0; j < p->cols; j++)
        p->w[i * p->cols + j] += p->scale * sum[j];
}

static int misfit(const adapter *a, const ckpt_tensor *t, const char *name, int64_t rows, int64_t cols, err *e)
{
    return ERR(e, ERR_SHAPE, "%s: the adapter for '%s' does not fit a matrix of %lld x %lld ('%.200s'); is it for another model size?",
               ckpt_path(a->of->file), name, (long long)rows, (long long)cols, t->name);
}

static int add_product(const adapter *a, const module *m, const char *name, float *w, int64_t rows, int64_t cols, err *e)
{
    const ckpt_tensor *down = m->parts[PART_DOWN], *up = m->parts[PART_UP], *alpha = m->parts[PART_ALPHA];
    int64_t rank = down->ndim > 1 ? down->shape[0] : 0;
    if (rank < 1 || elements(down) != rank * cols || up->ndim < 2 || up->shape[0] != rows || elements(up) != rows * rank)
        return misfit(a, down, name, rows, cols, e);
    double factor = a->of->alpha > 0 ? a->of->alpha / (double)rank : 1;
    if (alpha) {
        float value;
        if (elements(alpha) != 1)
            return ERR(e, ERR_FORMAT, "%s: '%.200s' holds %lld values, expected one", ckpt_path(a->of->file), alpha->name, (long long)elements(alpha));
        dtype_to_f32(&value, alpha->data, alpha->dtype, 1);
        if (!isfinite(value))
            return ERR(e, ERR_NAN, "%s: '%.200s' is not a finite number; the file is damaged", ckpt_path(a->of->file), alpha->name);
        factor = (double)value / (double)rank;
    }
    if (!w)
        return 0;
    float *fd = as_f32(down), *fu = as_f32(up), *sums = malloc((size_t)parallel_threads() * (size_t)cols * sizeof *sums);
    int rc = fd && fu && sums ? 0 : ERR(e, ERR_MEMORY, "no memory to merge the adapter for '%s'", name);
    product p = { w, (float)(a->of->multiplier * factor), fu, fd, sums, rank, cols };
    if (!rc)
        parallel_for(rows, add_row, &p);
    free(fd);
    free(fu);
    free(sums);
    return rc;
}

static int add_difference(const adapter *a, const ckpt_tensor *diff, const char *name, float *w, int64_t rows, int64_t cols, err *e)
{
    if (elements(diff) != rows * cols)
        return misfit(a, diff, name, rows, cols, e);
    float *d = w ? as_f32(diff) : NULL;
    if (w && !d)
        return ERR(e, ERR_MEMORY, "no memory to merge the adapter for '%s'", name);
    for (int64_t i = 0; w && i < rows * cols; i++)
        w[i] += (float)a->of->multiplier * d[i];
    free(d);
    return 0;
}

static module *find(const adapter *a, char *flat)
{
    module key = { .flat = flat };
    return flat && a->n ? bsearch(&key, a->modules, a->n, sizeof key, by_flat) : NULL;
}

int lora_merge_tensor(lora_merge *m, const char *name, float *w, int64_t rows, int64_t cols, int *parts, err *e)
{
    static const struct { const char *suffix; part diff; } KINDS[] = { { ".weight", PART_DIFF }, { ".bias", PART_DIFF_B }, { ".modulation", PART_DIFF_M } };
    int rc = 0, kind = -1;
    str other = STR_INIT;
    char *stem = str_dup(name), *flats[2] = { NULL, NULL };
    *parts = 0;
    for (int k = 0; stem && kind < 0 && k < 3; k++)
        if (cut_suffix(stem, KINDS[k].suffix))
            kind = k;
    if (stem && kind < 0)
        goto out;
    flats[0] = stem ? flatten(stem) : NULL;
    if (stem && ckpt_diffusers_name(&other, name)) {
        char *as = str_dup(str_text(&other));
        if (as && (cut_suffix(as, KINDS[kind].suffix) || cut_suffix(as, ".scale_shift_table")))
            flats[1] = flatten(as);
        free(as);
    }
    if (!flats[0] || other.failed) {
        rc = ERR(e, ERR_MEMORY, "no memory to look for '%s' in adapters", name);
        goto out;
    }
    for (int i = 0; i < m->n; i++) {
        adapter *a = &m->adapters[i];
        bool hit = false;
        for (int k = 0; k < 2; k++) {
            module *mod = k && flats[1] && strcmp(flats[0], flats[1]) == 0 ? NULL : find(a, flats[k]);
            if (!mod)
                continue;
            if (kind == 0 && mod->parts[PART_DOWN]) {
                TRY(add_product(a, mod, name, w, rows, cols, e));
                hit = mod->matched = true;
            }
            if (mod->parts[KINDS[kind].diff]) {
                TRY(add_difference(a, mod->parts[KINDS[kind].diff], name, w, rows, cols, e));
                hit = mod->matched = true;
            }
        }
        *parts += hit;
    }
out:
    free(stem);
    free(flats[0]);
    free(flats[1]);
    str_release(&other);
    return rc;
}

/* ---- what found no place ---- */

/* Block numbers become '*', so that the modules of all blocks are told as one. */
static char *pattern_of(const char *flat)
{
    str s = STR_INIT;
    for (const char *p = flat; *p;) {
        size_t digits = strspn(p, "0123456789");
        bool block = digits && p - flat >= 7 && strncmp(p - 7, "blocks_", 7) == 0;
        if (block)
            str_addc(&s, '*');
        else
            str_addn(&s, p, digits ? digits : 1);
        p += digits ? digits : 1;
    }
    return str_take(&s);
}

static void tell_unmatched(const adapter *a)
{
    enum { SHOWN = 6 };
    str text = STR_INIT;
    size_t lost = 0, groups = 0;
    char **patterns = calloc(a->n + 1, sizeof *patterns);
    for (size_t i = 0; patterns && i < a->n; i++)
        if (!a->modules[i].matched) {
            patterns[i] = pattern_of(a->modules[i].flat);
            lost++;
        }
    for (size_t i = 0; patterns && i < a->n; i++) {
        size_t alike = 0;
        if (!patterns[i])
            continue;
        for (size_t k = i; k < a->n; k++)
            if (patterns[k] && strcmp(patterns[i], patterns[k]) == 0) {
                alike++;
                if (k > i) {
                    free(patterns[k]);
                    patterns[k] = NULL;
                }
            }
        if (groups++ < SHOWN && alike > 1)
            str_addf(&text, "%s%zu x %.120s", groups > 1 ? ", " : "", alike, patterns[i]);
        else if (groups <= SHOWN)
            str_addf(&text, "%s%.120s", groups > 1 ? ", " : "", a->modules[i].shown);
    }
    if (groups > SHOWN)
        str_addf(&text, " and %zu more groups", groups - SHOWN);
    if (lost)
        log_msg(LOG_WARN, "%s: %zu of %zu adapted modules have no place in this model and are left out: %s", ckpt_path(a->of->file), lost, a->n,
                str_text(&text));
    if (a->n_strange)
        log_msg(LOG_WARN, "%s: %d tensors are no part of an adapter and are left out: %s%s", ckpt_path(a->of->file), a->n_strange, str_text(&a->strange),
                a->n_strange > 5 ? ", ..." : "");
    for (size_t i = 0; patterns && i < a->n; i++)
        free(patterns[i]);
    free(patterns);
    str_release(&text);
}

int lora_merge_finish(lora_merge *m, bool warn, err *e)
{
    for (int i = 0; i < m->n; i++) {
        const adapter *a = &m->adapters[i];
        bool any = false;
        for (size_t k = 0; k < a->n; k++)
            any |= a->modules[k].matched || (!warn && str_starts_with(a->modules[k].flat, "vace_"));
        if (!any)
            return ERR(e, ERR_SHAPE, "%s: no tensor of this model has an adapter in the file, which begins with '%.200s'; is it for another model, or "
                       "of an unknown naming?", ckpt_path(a->of->file), a->modules[0].shown);
        if (warn)
            tell_unmatched(a);
    }
    return 0;
}

static int check_file(lora_merge *m, const ckpt *c, bool only_vace, err *e)
{
    int rc = 0, parts;
    for (size_t i = 0; i < ckpt_count(c) && !rc; i++) {
        const ckpt_tensor *t = ckpt_at(c, i);
        bool table = t->ndim == 3;      /* a modulation table [1, rows, dim] */
        int64_t rows = t->ndim > 0 ? t->shape[table] : 1;
        if (!only_vace || str_starts_with(t->name, "vace_"))
            rc = lora_merge_tensor(m, t->name, NULL, rows, rows > 0 ? elements(t) / rows : 0, &parts, e);
    }
    return rc;
}

int lora_check(const ckpt *model, const ckpt *vace, const lora *loras, int n, err *e)
{
    lora_merge *m = NULL;
    int rc = 0;
    TRY(lora_merge_begin(&m, loras, n, e));
    TRY(check_file(m, model, false, e));
    if (vace)
        TRY(check_file(m, vace, true, e));
    TRY(lora_merge_finish(m, true, e));
out:
    lora_merge_free(m);
    return rc;
}
