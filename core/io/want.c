/* Fetching with expectation: everything wrong with a checkpoint is told in one sentence. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/io/ckpt_internal.h"

/* Names alike but for their block numbers, told as one: "40 x blocks.*.cross_attn.k.weight". */
typedef struct group {
    char *pattern;
    char *detail;           /* what is wrong with the first of them; NULL for missing and unused */
    char *first;            /* the first name itself */
    size_t count;
} group;

typedef struct group_list {
    group *items;
    size_t count, cap, total;
} group_list;

struct ckpt_want {
    const ckpt *c;
    char *what;
    uint8_t *used;          /* one flag a tensor */
    group_list missing, wrong, unused;
    char **ignored;
    size_t n_ignored;
    bool failed;            /* memory ran out */
    ckpt *record;           /* tensors asked for are added here; NULL: they are looked up */
};

/* numbers between dots become '*' */
static char *pattern_of(const char *name)
{
    str s = STR_INIT;
    for (const char *p = name; *p;) {
        size_t n = strcspn(p, "."), digits = strspn(p, "0123456789");
        /* only block numbers: the small indices of nn.Sequential ("ffn.0") tell layers apart */
        bool block = n == digits && n > 0 && p > name && p[-1] == '.' &&
                     (p - name >= 7 && strncmp(p - 7, "blocks.", 7) == 0);
        if (block)
            str_addc(&s, '*');
        else
            str_addn(&s, p, n);
        p += n;
        if (*p)
            str_addc(&s, *p++);
    }
    return str_take(&s);
}

static bool group_add(group_list *l, const char *name, const char *detail)
{
    char *pattern = pattern_of(name);
    if (!pattern)
        return false;
    l->total++;
    for (size_t i = 0; i < l->count; i++)
        if (strcmp(l->items[i].pattern, pattern) == 0) {
            l->items[i].count++;
            free(pattern);
            return true;
        }
    if (l->count == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 16;
        group *more = realloc(l->items, cap * sizeof *more);
        if (!more) {
            free(pattern);
            return false;
        }
        l->items = more;
        l->cap = cap;
    }
    group g = { pattern, detail ? str_dup(detail) : NULL, str_dup(name), 1 };
    if ((detail && !g.detail) || !g.first) {
        free(g.pattern);
        free(g.detail);
        free(g.first);
        return false;
    }
    l->items[l->count++] = g;
    return true;
}

static void group_free(group_list *l)
{
    for (size_t i = 0; i < l->count; i++) {
        free(l->items[i].pattern);
        free(l->items[i].detail);
        free(l->items[i].first);
    }
    free(l->items);
}

static void want_free(ckpt_want *w)
{
    if (!w)
        return;
    group_free(&w->missing);
    group_free(&w->wrong);
    group_free(&w->unused);
    for (size_t i = 0; i < w->n_ignored; i++)
        free(w->ignored[i]);
    free(w->ignored);
    free(w->used);
    free(w->what);
    free(w);
}

int ckpt_want_begin(ckpt_want **out, const ckpt *c, const char *what, err *e)
{
    ckpt_want *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w || !(w->what = str_dup(what)) || !(w->used = calloc(c->count + 1, 1))) {
        want_free(w);
        return ERR(e, ERR_MEMORY, "%s: memory ran out while checking the %s", c->path, what);
    }
    w->c = c;
    *out = w;
    return 0;
}

int ckpt_want_record(ckpt_want **out, ckpt *c, const char *what, err *e)
{
    int rc = ckpt_want_begin(out, c, what, e);
    if (!rc)
        (*out)->record = c;
    return rc;
}

static void record(ckpt_want *w, int ndim, const int64_t *shape, const char *name)
{
    err e = { 0 };
    ckpt_tensor t = { .name = name, .dtype = DT_F32, .ndim = ndim, .file = w->record->path };
    for (int i = 0; i < ndim; i++)
        t.shape[i] = shape[i] < 0 ? 1 : shape[i];
    w->failed |= ckpt_add(w->record, &t, &e) != 0;
}

static void wanted_shape(char out[200], const int64_t *shape, int ndim)
{
    size_t n = 0;
    out[n++] = '[';
    for (int i = 0; i < ndim && n < 170; i++)
        n += shape[i] < 0 ? (size_t)snprintf(out + n, 200 - n, "%sany", i ? ", " : "")
                          : (size_t)snprintf(out + n, 200 - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    out[n++] = ']';
    out[n] = '\0';
}

const ckpt_tensor *ckpt_want_tensor(ckpt_want *w, int ndim, const int64_t *shape, const char *name_fmt, ...)
{
    char name[CKPT_MAX_NAME + 1], expected[200], found[200], detail[512];
    va_list ap;
    va_start(ap, name_fmt);
    int n = vsnprintf(name, sizeof name, name_fmt, ap);
    va_end(ap);
    if (n < 0) {
        w->failed = true;
        return NULL;
    }
    if (w->record) {
        record(w, ndim, shape, name);
        return NULL;
    }
    const ckpt_tensor *t = ckpt_find(w->c, name);
    if (!t) {
        w->failed |= !group_add(&w->missing, name, NULL);
        return NULL;
    }
    w->used[t - w->c->tensors] = 1;
    bool fits = t->ndim == ndim;
    for (int i = 0; fits && i < ndim; i++)
        fits = shape[i] < 0 || shape[i] == t->shape[i];
    if (!fits) {
        wanted_shape(expected, shape, ndim);
        snprintf(detail, sizeof detail, "expected %s, found %s", expected, ckpt_shape_text(found, t->shape, t->ndim));
        w->failed |= !group_add(&w->wrong, name, detail);
        return NULL;
    }
    if (t->dtype > DT_F64) {
        snprintf(detail, sizeof detail, "expected floating-point numbers, found %s", dtype_name(t->dtype));
        w->failed |= !group_add(&w->wrong, name, detail);
        return NULL;
    }
    return t;
}

bool ckpt_want_optional(ckpt_want *w, const char *name)
{
    const ckpt_tensor *t = ckpt_find(w->c, name);
    if (t)
        w->used[t - w->c->tensors] = 1;
    return t != NULL;
}

void ckpt_want_ignore(ckpt_want *w, const char *prefix)
{
    char *copy = str_dup(prefix), **more = realloc(w->ignored, (w->n_ignored + 1) * sizeof *more);
    if (more)
        w->ignored = more;
    if (!copy || !more) {
        free(copy);
        w->failed = true;
        return;
    }
    w->ignored[w->n_ignored++] = copy;
}

/* Tensors that carry nothing the engine needs, whoever wrote the file: markers and activation hints of fp8 files, the
 * tokenizer ComfyUI packs beside T5, a norm that diffusers creates and never uses. */
static bool harmless(const char *name)
{
    return strcmp(name, "scaled_fp8") == 0 || strcmp(name, "spiece_model") == 0 ||
           str_ends_with(name, ".scale_input") ||
           str_ends_with(name, ".input_scale") || str_ends_with(name, ".norm_added_q.weight");
}

static const char *hint(const char *name)
{
    if (strstr(name, "k_img") || strstr(name, "v_img") || str_starts_with(name, "img_emb."))
        return " (is this an image-to-video file?)";
    if (str_starts_with(name, "vace_"))
        return " (is this a VACE file?)";
    if (str_ends_with(name, ".scale_weight"))
        return " (is this an fp8-scaled file?)";
    if (strstr(name, "lora_") || strstr(name, ".diff"))
        return " (is this a LoRA?)";
    if (strstr(name, "condition_embedder.") || strstr(name, ".attn1.") || strstr(name, "_blocks.") ||
        strstr(name, "SelfAttention"))
        return " (a layout that mixes naming schemes?)";
    return "";
}

static void report(str *out, const char *title, const group_list *l, bool hints)
{
    enum { SHOWN = 8 };
    if (!l->total)
        return;
    str_addf(out, "%s %zu %s: ", out->len ? ";" : "", l->total, title);
    size_t rest = 0;
    for (size_t i = 0; i < l->count; i++) {
        const group *g = &l->items[i];
        if (i >= SHOWN) {
            rest += g->count;
            continue;
        }
        str_add(out, i ? ", " : "");
        if (g->count > 1)
            str_addf(out, "%zu x %.120s", g->count, g->pattern);
        else
            str_addf(out, "%.120s", g->first);
        if (g->detail)
            str_addf(out, " (%s%s)", g->detail, g->count > 1 ? " in the first" : "");
        if (hints)
            str_add(out, hint(g->first));
    }
    if (rest)
        str_addf(out, " and %zu more", rest);
}

int ckpt_want_finish(ckpt_want *w, bool strict, err *e)
{
    int rc = 0;
    str text = STR_INIT;
    if (!w)
        return 0;
    if (w->record) {
        rc = w->failed ? ERR(e, ERR_MEMORY, "%s: memory ran out while listing the tensors of a %s", w->c->path, w->what) : ckpt_sort(w->record, e);
        want_free(w);
        return rc;
    }
    for (size_t i = 0; strict && i < w->c->count; i++) {
        const char *name = w->c->tensors[i].name;
        bool ignored = w->used[i] || harmless(name);
        for (size_t k = 0; k < w->n_ignored && !ignored; k++)
            ignored = str_starts_with(name, w->ignored[k]);
        if (!ignored)
            w->failed |= !group_add(&w->unused, name, NULL);
    }
    report(&text, "missing", &w->missing, false);
    report(&text, "of the wrong shape or type", &w->wrong, false);
    report(&text, "unused", &w->unused, true);
    if (w->failed || text.failed)
        rc = ERR(e, ERR_MEMORY, "%s: memory ran out while checking the %s", w->c->path, w->what);
    else if (text.len)
        rc = ERR(e, ERR_SHAPE, "%s: these tensors do not make a %s:%s", w->c->path, w->what, str_text(&text));
    str_release(&text);
    want_free(w);
    return rc;
}
