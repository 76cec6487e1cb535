/* Settings that are lists: adapters, numbers, ranges, texts, frames, words. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"

static const char *const EXPERTS[] = { "both", "high", "low", NULL };      /* lora_expert */

/* ---- adapters ---- */

void lora_list_release(lora_list *l)
{
    for (int i = 0; i < l->n; i++) {
        free(l->items[i].path);
        free(l->items[i].include);
        free(l->items[i].exclude);
    }
    free(l->items);
    *l = (lora_list){ 0 };
}

static int add(lora_list *l, const char *path, size_t n, double multiplier, int expert)
{
    lora_setting *more = realloc(l->items, ((size_t)l->n + 1) * sizeof *more);
    if (!more)
        return ERR_MEMORY;
    l->items = more;
    l->items[l->n] = (lora_setting){ str_dupn(path, n), multiplier, expert, NULL, NULL };
    return l->items[l->n].path ? (l->n++, 0) : ERR_MEMORY;
}

static int expert_of(const char *text)
{
    for (int i = 0; EXPERTS[i]; i++)
        if (strcmp(text, EXPERTS[i]) == 0)
            return i;
    return -1;
}

/* "PATH", "PATH:0.8", "PATH:0.8@high"; what is no number and no expert belongs to the path */
static int add_text(lora_list *l, const setting *s, const char *text, err *e)
{
    size_t n = strlen(text);
    double multiplier = 1;
    int expert = 0;
    const char *at = strrchr(text, '@');
    if (at && expert_of(at + 1) >= 0) {
        expert = expert_of(at + 1);
        n = (size_t)(at - text);
    }
    char *head = str_dupn(text, n), *colon = head ? strrchr(head, ':') : NULL, *end;
    if (colon && colon[1]) {
        double v = strtod(colon + 1, &end);
        if (!*end && isfinite(v)) {
            multiplier = v;
            n = (size_t)(colon - head);
        }
    }
    free(head);
    if (!head)
        return ERR_MEMORY;
    if (!n)
        return ERR(e, ERR_CONFIG, "%s holds '%.80s', expected the path of an adapter, as in lora.safetensors:0.8@high", s->key, text);
    return add(l, text, n, multiplier, expert);
}

/* Copies a pattern of the map just added, if it has one. */
static int add_pattern(char **out, const setting *s, const yml_node *v, const char *key, int at, err *e)
{
    if (!v)
        return 0;
    if (v->kind != YML_SCALAR || !v->text[0])
        return ERR(e, ERR_CONFIG, "entry %d of %s: %s is %s, expected a regular expression on tensor names such as 'self_attn'", at, s->key, key,
                   v->kind == YML_SCALAR ? "empty" : yml_kind_name(v));
    return (*out = str_dup(v->text)) ? 0 : ERR_MEMORY;
}

static int add_map(lora_list *l, const setting *s, const yml_node *m, int at, err *e)
{
    static const char *const KEYS[] = { "path", "multiplier", "expert", "include", "exclude" };
    enum { N_KEYS = sizeof KEYS / sizeof *KEYS };
    const yml_node *path = yml_get(m, "path"), *multiplier = yml_get(m, "multiplier"), *expert = yml_get(m, "expert");
    double v = 1;
    int x = 0;
    for (int k = 0; k < m->n; k++) {
        const char *key = m->keys[k]->text, *near = str_nearest(key, KEYS, N_KEYS);
        bool known = false;
        for (int i = 0; i < N_KEYS; i++)
            known |= strcmp(key, KEYS[i]) == 0;
        if (!known)
            return ERR(e, ERR_CONFIG, "entry %d of %s has an unknown key '%.60s' (line %d)%s%s%s; path, multiplier, expert, include and exclude are known", at,
                       s->key, key, m->keys[k]->line, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    if (!path || path->kind != YML_SCALAR || !path->text[0])
        return ERR(e, ERR_CONFIG, "entry %d of %s (line %d) has no path, expected {path: FILE, multiplier: 1, expert: both}", at, s->key, m->line);
    if (multiplier && !yml_double(multiplier, &v))
        return ERR(e, ERR_CONFIG, "entry %d of %s: multiplier is '%.60s', expected a number", at, s->key,
                   multiplier->kind == YML_SCALAR ? multiplier->text : yml_kind_name(multiplier));
    if (expert && (expert->kind != YML_SCALAR || (x = expert_of(expert->text)) < 0))
        return ERR(e, ERR_CONFIG, "entry %d of %s: expert is '%.60s', expected both, high or low", at, s->key,
                   expert->kind == YML_SCALAR ? expert->text : yml_kind_name(expert));
    int rc = add(l, path->text, strlen(path->text), v == 0 ? 0 : v, x);
    rc = rc ? rc : add_pattern(&l->items[l->n - 1].include, s, yml_get(m, "include"), "include", at, e);
    return rc ? rc : add_pattern(&l->items[l->n - 1].exclude, s, yml_get(m, "exclude"), "exclude", at, e);
}

int setting_put_loras(lora_list *field, const setting *s, const yml_node *v, err *e)
{
    lora_list l = { 0 };
    int rc = 0;
    if (v->kind == YML_SCALAR && v->text[0])
        rc = add_text(&l, s, v->text, e);
    else if (v->kind == YML_MAP)
        rc = v->n ? add_map(&l, s, v, 0, e) : 0;
    for (int i = 0; v->kind == YML_LIST && i < v->n && !rc; i++) {
        const yml_node *x = v->items[i];
        if (x->kind == YML_SCALAR)
            rc = add_text(&l, s, x->text, e);
        else if (x->kind == YML_MAP)
            rc = add_map(&l, s, x, i, e);
        else
            rc = ERR(e, ERR_CONFIG, "entry %d of %s is %s, expected a path or {path: FILE, multiplier: 1, expert: both}", i, s->key, yml_kind_name(x));
    }
    if (rc) {
        lora_list_release(&l);
        return rc == ERR_MEMORY ? ERR(e, rc, "out of memory for %s", s->key) : rc;
    }
    lora_list_release(field);
    *field = l;
    return 0;
}

void setting_print_loras(const lora_list *l, str *out)
{
    str_addc(out, '[');
    for (int i = 0; i < l->n; i++) {
        str_addf(out, "%s{path: ", i ? ", " : "");
        yml_quote(out, l->items[i].path);
        str_add(out, ", multiplier: ");
        print_double(out, l->items[i].multiplier);
        str_addf(out, ", expert: %s", EXPERTS[l->items[i].expert]);
        const char *patterns[][2] = { { "include", l->items[i].include }, { "exclude", l->items[i].exclude } };
        for (int k = 0; k < 2; k++)
            if (patterns[k][1]) {
                str_addf(out, ", %s: ", patterns[k][0]);
                yml_quote(out, patterns[k][1]);
            }
        str_addc(out, '}');
    }
    str_addc(out, ']');
}

const char *lora_expert_name(int expert)
{
    return EXPERTS[expert];
}

/* ---- numbers ---- */

int setting_put_numbers(number_list *field, const setting *s, const yml_node *v, err *e)
{
    number_list l = { 0 };
    if (v->kind != YML_LIST)
        return ERR(e, ERR_CONFIG, "%s is %s, expected a list of numbers like [1, 0.5]", s->key, yml_kind_name(v));
    if (v->n && !(l.items = calloc((size_t)v->n, sizeof *l.items)))
        return ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    for (; l.n < v->n; l.n++)
        if (!yml_double(v->items[l.n], &l.items[l.n]) || l.items[l.n] < s->min || l.items[l.n] > s->max) {
            free(l.items);
            return ERR(e, ERR_CONFIG, "entry %d of %s is '%.60s', expected a number from %.15g to %.15g", l.n, s->key,
                       v->items[l.n]->kind == YML_SCALAR ? v->items[l.n]->text : yml_kind_name(v->items[l.n]), s->min, s->max);
        }
    free(field->items);
    *field = l;
    return 0;
}

void setting_print_numbers(const number_list *l, str *out)
{
    str_addc(out, '[');
    for (int i = 0; i < l->n; i++) {
        str_add(out, i ? ", " : "");
        print_double(out, l->items[i]);
    }
    str_addc(out, ']');
}

/* ---- ranges ---- */

int setting_put_ranges(int_ranges *field, const setting *s, const yml_node *v, err *e)
{
    int_ranges r = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind == YML_MAP)
        return setting_wrong(s, v, e);
    if (v->kind == YML_SCALAR && s->type == SETTING_HEADS && !strcmp(v->text, "mean")) {
        r.mean = true;
    } else if (v->kind == YML_SCALAR) {
        rc = int_ranges_parse(&r, v->text, &why);
    } else {
        for (int i = 0; i < v->n && !rc; i++) {
            int_ranges one = { 0 };
            if (v->items[i]->kind != YML_SCALAR) {
                rc = setting_wrong(s, v->items[i], e);
                int_ranges_release(&r);
                return rc;
            }
            rc = int_ranges_parse(&one, v->items[i]->text, &why);
            if (!rc && one.all)
                rc = ERR(&why, ERR_CONFIG, "a list with 'all' in it, expected 'all' alone or numbers and ranges");
            for (int k = 0; k < one.n && !rc; k++)
                rc = int_ranges_add(&r, one.items[k].first, one.items[k].last, &why);
            int_ranges_release(&one);
        }
    }
    if (!rc && s->type == SETTING_HEADS && !r.mean && !r.all && r.n == 0)
        rc = ERR(&why, ERR_CONFIG, "empty, expected mean, all, or numbers and ranges like 0-3,7");
    if (rc) {
        int_ranges_release(&r);
        return ERR(e, rc, "%s is %s", s->key, why.text);
    }
    int_ranges_release(field);
    *field = r;
    return 0;
}

/* ---- texts, frames, words ---- */

static int words_add(string_list *w, const char *text, size_t n)
{
    char **more = realloc(w->items, ((size_t)w->n + 1) * sizeof *more);
    if (!more)
        return ERR_MEMORY;
    w->items = more;
    w->items[w->n] = str_dupn(text, n);
    return w->items[w->n] ? (w->n++, 0) : ERR_MEMORY;
}

void string_list_release(string_list *w)
{
    for (int i = 0; i < w->n; i++)
        free(w->items[i]);
    free(w->items);
    *w = (string_list){ 0 };
}

int setting_put_texts(string_list *field, const setting *s, const yml_node *v, err *e)
{
    string_list w = { 0 };
    int rc = 0;
    if (v->kind != YML_LIST)
        return setting_wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        if (v->items[i]->kind != YML_SCALAR)
            rc = ERR(e, ERR_CONFIG, "entry %d of %s (line %d) is %s, expected a text; a text that begins with '[' needs quotes", i + 1, s->key, v->items[i]->line,
                     yml_kind_name(v->items[i]));
        else if (words_add(&w, v->items[i]->text, strlen(v->items[i]->text)))
            rc = ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    }
    if (rc) {
        string_list_release(&w);
        return rc;
    }
    string_list_release(field);
    *field = w;
    return 0;
}

void frame_list_release(frame_list *f)
{
    free(f->items);
    *f = (frame_list){ 0 };
}

int setting_put_frames(frame_list *field, const setting *s, const yml_node *v, err *e)
{
    frame_list f = { .given = true };
    if (v->kind == YML_SCALAR && !strcmp(v->text, "auto")) {
        frame_list_release(field);
        return 0;
    }
    if (v->kind != YML_LIST)
        return setting_wrong(s, v, e);
    if (!(f.items = malloc(((size_t)v->n + 1) * sizeof *f.items)))
        return ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    for (int i = 0; i < v->n; i++) {
        int64_t x;
        if (v->items[i]->kind != YML_SCALAR || !yml_int(v->items[i], &x) || x < -1000000 || x > 1000000) {
            frame_list_release(&f);
            return ERR(e, ERR_CONFIG, "entry %d of %s is '%.60s', expected the number of a frame", i + 1, s->key,
                       v->items[i]->kind == YML_SCALAR ? v->items[i]->text : yml_kind_name(v->items[i]));
        }
        f.items[f.n++] = x;
    }
    frame_list_release(field);
    *field = f;
    return 0;
}

/* A list, or words with commas between. */
int setting_put_words(string_list *field, const setting *s, const yml_node *v, err *e)
{
    string_list w = { 0 };
    int rc = 0;
    if (v->kind == YML_MAP)
        return setting_wrong(s, v, e);
    for (int i = 0; v->kind == YML_LIST && i < v->n && !rc; i++) {
        const yml_node *x = v->items[i];
        if (x->kind != YML_SCALAR || !x->text[0])
            rc = ERR(e, ERR_CONFIG, "%s holds %s, expected %s", s->key,
                     x->kind == YML_SCALAR ? "an empty word" : yml_kind_name(x), s->type == SETTING_PATHS ? "paths" : "words");
        else
            rc = words_add(&w, x->text, strlen(x->text));
    }
    for (const char *t = v->kind == YML_SCALAR ? v->text : ""; *t && !rc;) {
        size_t n = strcspn(t, ","), b = 0, f = n;
        while (b < f && t[b] == ' ')
            b++;
        while (f > b && t[f - 1] == ' ')
            f--;
        rc = b == f ? ERR(e, ERR_CONFIG, "%s is '%.80s', expected words with single commas between", s->key, v->text)
                    : words_add(&w, t + b, f - b);
        t += n + (t[n] == ',');
    }
    if (rc) {
        string_list_release(&w);
        return rc == ERR_MEMORY ? ERR(e, ERR_MEMORY, "out of memory for %s", s->key) : rc;
    }
    string_list_release(field);
    *field = w;
    return 0;
}
