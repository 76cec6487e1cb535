/* Reading a parsed template: counts, the variation behind a number, its text, spans, slug and id. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/sha256.h"
#include "experiments/template_internal.h"

/* ---- counts ---- */

uint64_t template_count(const prompt_template *t)
{
    return t->count > UINT64_MAX ? UINT64_MAX : (uint64_t)t->count;
}

void template_count_text(const prompt_template *t, char out[64])
{
    char digits[48], *d = digits + sizeof digits - 1;
    u128 v = t->count;
    *d = 0;
    do
        *--d = (char)('0' + (int)(v % 10));
    while (v /= 10);
    snprintf(out, 64, "%s%s", t->count == U128_MAX ? "more than " : "", d);
}

int template_bracket_count(const prompt_template *t)
{
    return t->n_brackets;
}

/* ---- number -> choices ---- */

/* Follows `rank` down the tree: taken[bracket] and env[name] = alternative. */
static void unrank(const prompt_template *t, const seq *s, u128 rank, int *taken, int *env)
{
    for (int i = 0; i < s->n; i++) {
        const node *d = &s->nodes[i];
        if (d->n_alts == 0)
            continue;
        bool steers = d->kind == NODE_CHOICE && d->name >= 0 && t->names[d->name].branching;
        int first = d->kind == NODE_LINK ? env[d->name] : 0, last = d->kind == NODE_LINK ? first + 1 : d->n_alts;
        u128 rest = 1;
        int64_t budget = INT64_MAX;   /* the parser has counted all this within its budget */
        if (!steers)
            rest = s->simple ? d->suffix : seq_count_from(t, s, i + 1, env, &budget);
        for (int a = first; a < last; a++) {
            if (d->kind == NODE_CHOICE && d->name >= 0)
                env[d->name] = a;
            u128 inner = seq_count(t, d->alts[a], env, &budget);
            if (steers) {
                rest = seq_count_from(t, s, i + 1, env, &budget);
                env[d->name] = a;
            }
            u128 here = sat_mul(inner, rest);
            if (rank < here || a == last - 1) {
                if (d->kind == NODE_CHOICE)
                    taken[d->bracket] = a;
                unrank(t, d->alts[a], rank / rest, taken, env);
                rank %= rest;
                break;
            }
            rank -= here;
        }
    }
}

/* ---- choices -> text ---- */

typedef struct renderer {
    const prompt_template *t;
    const int *taken, *env;
    str clean, marked;
    bool full;                   /* with marks, spans and choice texts; else only the clean text */
    int marks, plains;           /* open at this point */
    double weight;               /* from a bracket, for the mark that closes next */
    bool has_weight;
    variation_span *spans;       /* word is filled in at the end */
    int n_spans, cap_spans;
    int mark_span[TEMPLATE_MAX_DEPTH];       /* per open mark: its span, and the byte of its '(' in marked */
    size_t mark_pos[TEMPLATE_MAX_DEPTH];
    char **choice_text;          /* by bracket */
    bool failed;
} renderer;

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The canonical spelling: an escape exactly where the plain character would mean something, so that equal meanings
 * have equal text and the text is itself a template of one variation. */
static void add_marked(renderer *r, char c)
{
    bool special = strchr("\\()[]", c) || ((c == '|' || c == ':') && r->marks) || ((c == '|' || c == '=') && r->plains);
    if (special)
        str_addc(&r->marked, '\\');
    str_addc(&r->marked, c);
}

static void render_text(renderer *r, const str *text)
{
    str_addn(&r->clean, str_text(text), text->len);
    if (r->full)
        for (size_t i = 0; i < text->len; i++)
            add_marked(r, text->data[i]);
}

static void mark_open(renderer *r)
{
    if (r->n_spans == r->cap_spans) {
        int cap = r->cap_spans ? r->cap_spans * 2 : 4;
        variation_span *more = realloc(r->spans, (size_t)cap * sizeof *more);
        if (!more) {
            r->failed = true;
            return;
        }
        r->spans = more;
        r->cap_spans = cap;
    }
    r->mark_pos[r->marks] = r->marked.len;
    r->mark_span[r->marks++] = r->n_spans;
    r->spans[r->n_spans++] = (variation_span){ .begin = r->clean.len };
    str_addc(&r->marked, '(');
}

static void add_weight(str *s, double w)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, w);
        if (strtod(text, NULL) == w)
            break;
    }
    char before = s->len ? s->data[s->len - 1] : 0;
    bool digit = before >= '0' && before <= '9';   /* "66:2" would be a ratio */
    str_addf(s, ":%s%s", text, digit && strspn(text, "0123456789") == strlen(text) ? ".0" : "");
}

static void mark_close(renderer *r, double weight)
{
    if (r->failed)
        return;
    r->marks--;
    variation_span *s = &r->spans[r->mark_span[r->marks]];
    const char *clean = str_text(&r->clean);
    size_t b = s->begin, f = r->clean.len;
    while (b < f && is_blank(clean[b]))
        b++;
    while (f > b && is_blank(clean[f - 1]))
        f--;
    if (b == f) {
        /* nothing is marked in this variation: take the '(' back; marks inside are gone already */
        size_t at = r->mark_pos[r->marks];
        if (!r->marked.failed) {
            memmove(r->marked.data + at, r->marked.data + at + 1, r->marked.len - at);
            r->marked.len--;
        }
        r->n_spans--;
        return;
    }
    s->begin = b;
    s->end = f;
    s->weight = weight == 0 ? 0 : weight;   /* no negative zero */
    if (weight != 1)
        add_weight(&r->marked, s->weight);
    str_addc(&r->marked, ')');
}

static void render(renderer *r, const seq *s)
{
    for (int i = 0; i < s->n && !r->failed; i++) {
        const node *d = &s->nodes[i], *from = d;
        switch (d->kind) {
        case NODE_TEXT:
            render_text(r, &d->text);
            break;
        case NODE_PLAIN_OPEN:
        case NODE_PLAIN_CLOSE:
            str_addc(&r->clean, d->kind == NODE_PLAIN_OPEN ? '[' : ']');
            if (r->full)
                str_addc(&r->marked, d->kind == NODE_PLAIN_OPEN ? '[' : ']');
            r->plains += d->kind == NODE_PLAIN_OPEN ? 1 : -1;
            break;
        case NODE_MARK_OPEN:
            if (r->full)
                mark_open(r);
            break;
        case NODE_MARK_CLOSE:
            if (r->full)
                mark_close(r, r->has_weight ? r->weight : d->weight);
            r->has_weight = false;
            break;
        case NODE_CHOICE:
        case NODE_LINK: {
            if (d->kind == NODE_LINK && d->n_alts == 0)
                from = &r->t->names[d->name].scope->nodes[r->t->names[d->name].node];
            int a = from->kind == NODE_CHOICE ? r->taken[from->bracket] : r->env[from->name];
            size_t start = r->clean.len;
            const seq *alt = from->alts[a];
            char *text = NULL;
            if (d->is_weight) {
                const str *number = &alt->nodes[0].text;
                template_number(number->data, number->len, &r->weight);
                r->has_weight = true;
                if (r->full && d->kind == NODE_CHOICE)
                    text = str_dupn(number->data, number->len);
            } else {
                render(r, alt);
                if (r->full && d->kind == NODE_CHOICE)
                    text = str_dupn(str_text(&r->clean) + start, r->clean.len - start);
            }
            /* a link may render a nested bracket once more: the first time counts */
            if (r->full && d->kind == NODE_CHOICE) {
                r->failed = r->failed || !text;
                if (r->choice_text[d->bracket])
                    free(text);
                else
                    r->choice_text[d->bracket] = text;
            }
            break;
        }
        }
    }
}

/* ---- slug and id ---- */

static void slug_add(char *slug, size_t *n, const char *text)
{
    bool gap = *n > 0;
    for (; *text; text++) {
        char c = *text;
        if (c >= 'A' && c <= 'Z')
            c = (char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
            if (gap && *n > 0 && *n < TEMPLATE_SLUG_MAX)
                slug[(*n)++] = '-';
            gap = false;
            if (*n < TEMPLATE_SLUG_MAX)
                slug[(*n)++] = c;
        } else if (c != '\'') {
            gap = true;
        }
    }
}

static bool has_letters(const char *text)
{
    for (; *text; text++)
        if ((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z') || (*text >= '0' && *text <= '9'))
            return true;
    return false;
}

/* The texts of the outer choices, joined; without choices the beginning of the text. Text of other alphabets falls back
 * to the alternative's number, so that the slug still tells the variations of a batch apart. */
static void make_slug(const prompt_template *t, variation *v)
{
    size_t n = 0;
    for (int i = 0; i < v->n_choices; i++) {
        const variation_choice *c = &v->choices[i];
        char number[16];
        if (c->alternative < 0 || t->brackets[i].in_choice)
            continue;
        snprintf(number, sizeof number, "%d", c->alternative + 1);
        bool blank = c->text[strspn(c->text, " \t\n\v\f\r")] == 0;
        slug_add(v->slug, &n, has_letters(c->text) ? c->text : blank ? "none" : number);
    }
    if (n == 0)
        slug_add(v->slug, &n, v->clean);
    if (n == 0)
        slug_add(v->slug, &n, v->id);
    if (n == TEMPLATE_SLUG_MAX) {
        /* cut: rather at a word than in it */
        size_t cut = n;
        while (cut > n - 12 && v->slug[cut - 1] != '-')
            cut--;
        n = v->slug[cut - 1] == '-' ? cut - 1 : n;
    }
    while (n > 0 && v->slug[n - 1] == '-')
        n--;
    v->slug[n] = 0;
}

/* ---- a variation ---- */

static int choose(const prompt_template *t, uint64_t index, int **taken, int **env, err *e)
{
    *taken = *env = NULL;
    if (index >= t->count) {
        char count[64];
        template_count_text(t, count);
        return ERR(e, ERR_ARG, "variation %llu was asked for, but the template has %s (numbers begin at 0)",
                   (unsigned long long)index, count);
    }
    *taken = malloc(((size_t)t->n_brackets + 1) * sizeof **taken);
    *env = malloc(((size_t)t->n_names + 1) * sizeof **env);
    if (!*taken || !*env) {
        free(*taken);
        free(*env);
        *taken = *env = NULL;
        return ERR(e, ERR_MEMORY, "out of memory for a variation of a template");
    }
    for (int i = 0; i < t->n_brackets; i++)
        (*taken)[i] = -1;
    for (int i = 0; i < t->n_names; i++)
        (*env)[i] = 0;
    unrank(t, t->root, index, *taken, *env);
    return 0;
}

int template_clean_text(const prompt_template *t, uint64_t index, str *out, err *e)
{
    int *taken, *env, rc = choose(t, index, &taken, &env, e);
    if (rc)
        return rc;
    renderer r = { .t = t, .taken = taken, .env = env, .clean = *out };
    render(&r, t->root);
    *out = r.clean;
    str_release(&r.marked);
    free(taken);
    free(env);
    if (out->failed)
        return ERR(e, ERR_MEMORY, "out of memory for the text of a variation");
    return 0;
}

int template_variation(const prompt_template *t, uint64_t index, variation *out, err *e)
{
    int *taken, *env;
    memset(out, 0, sizeof *out);
    int rc = choose(t, index, &taken, &env, e);
    if (rc)
        return rc;
    renderer r = { .t = t, .taken = taken, .env = env, .full = true };
    variation v = { .number = index };
    r.choice_text = calloc((size_t)t->n_brackets + 1, sizeof *r.choice_text);
    v.choices = calloc((size_t)t->n_brackets + 1, sizeof *v.choices);
    bool ok = r.choice_text && v.choices;
    if (ok)
        render(&r, t->root);
    ok = ok && !r.failed;
    if (ok) {
        v.n_choices = t->n_brackets;
        for (int i = 0; i < t->n_brackets; i++) {
            int name = t->brackets[i].name;
            char *text = r.choice_text[i] ? r.choice_text[i] : str_dup("");
            r.choice_text[i] = NULL;
            v.choices[i] = (variation_choice){ i, name < 0 ? "" : t->names[name].text, taken[i], text };
            ok = ok && text;
        }
    }
    for (int i = 0; r.choice_text && i < t->n_brackets; i++)
        free(r.choice_text[i]);
    free(r.choice_text);
    free(taken);
    free(env);
    str_addn(&r.clean, "", 0);
    v.clean = r.clean.data || r.clean.failed ? str_take(&r.clean) : str_dup("");
    v.marked = r.marked.data || r.marked.failed ? str_take(&r.marked) : str_dup("");
    str_release(&r.clean);
    str_release(&r.marked);
    v.spans = r.spans;
    ok = ok && v.clean && v.marked;
    for (int i = 0; ok && i < r.n_spans; i++) {
        v.spans[i].word = str_dupn(v.clean + v.spans[i].begin, v.spans[i].end - v.spans[i].begin);
        v.n_spans = i + 1;
        ok = v.spans[i].word;
    }
    if (!ok) {
        variation_release(&v);
        return ERR(e, ERR_MEMORY, "out of memory for variation %llu of a template", (unsigned long long)index);
    }
    char hex[65];
    sha256_text(v.marked, hex);
    memcpy(v.id, hex, 16);
    make_slug(t, &v);
    *out = v;
    return 0;
}

void variation_release(variation *v)
{
    for (int i = 0; i < v->n_spans; i++)
        free(v->spans[i].word);
    for (int i = 0; v->choices && i < v->n_choices; i++)
        free(v->choices[i].text);
    free(v->spans);
    free(v->choices);
    free(v->marked);
    free(v->clean);
    memset(v, 0, sizeof *v);
}

void variation_describe(const variation *v, str *out)
{
    if (v->n_choices == 0)
        str_add(out, "no choices");
    for (int i = 0; i < v->n_choices; i++) {
        const variation_choice *c = &v->choices[i];
        str_add(out, i ? ", " : "");
        if (c->name[0])
            str_addf(out, "%s=", c->name);
        else
            str_addf(out, "%d:", c->bracket + 1);
        str_add(out, c->alternative < 0 ? "-" : c->text[0] ? c->text : "''");
    }
}
