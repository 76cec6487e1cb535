/* Template text -> tree, guided by the pairs that template_pairs.c has found. docs/templates.md has the grammar. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/fs.h"
#include "experiments/template_internal.h"

#define MAX_NAMES 4096   /* names are looked up one by one */

typedef struct parser {
    prompt_template *t;
    const char *name, *text;
    size_t len, at;
    pair *pairs;
    int n_pairs, next_pair;
    err *e;
} parser;

#define FAIL(p, where, ...) template_error((p)->e, (p)->name, (p)->text, (p)->len, (where), __VA_ARGS__)

static int out_of_memory(parser *p)
{
    return ERR(p->e, ERR_MEMORY, "%s: out of memory while parsing a template of %zu bytes", p->name, p->len);
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int column_of(const parser *p, size_t at)
{
    return template_column(p->text, at);
}

bool template_number(const char *s, size_t n, double *value)
{
    char buf[64], *end;
    if (n == 0 || n >= sizeof buf)
        return false;
    memcpy(buf, s, n);
    buf[n] = 0;
    const char *digits = buf + (buf[0] == '+' || buf[0] == '-');
    bool decimal = strspn(buf, "+-.0123456789eE") == n && strpbrk(buf, "0123456789");
    bool word = !strcasecmp(digits, "nan") || !strcasecmp(digits, "inf") || !strcasecmp(digits, "infinity");
    if (!decimal && !word)
        return false;
    *value = strtod(buf, &end);
    return *end == 0;
}

/* ---- the tree ---- */

static seq *seq_new(seq *parent, bool in_choice)
{
    seq *s = calloc(1, sizeof *s);
    if (s) {
        s->parent = parent;
        s->depth = parent ? parent->depth + 1 : 0;
        s->in_choice = in_choice;
    }
    return s;
}

static void seq_free(seq *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n; i++) {
        node *d = &s->nodes[i];
        str_release(&d->text);
        for (int a = 0; a < d->n_alts; a++)
            seq_free(d->alts[a]);
        free(d->alts);
    }
    free(s->nodes);
    free(s);
}

static node *seq_push(seq *s, node_kind kind, size_t at)
{
    if (s->n == s->cap) {
        int cap = s->cap ? s->cap * 2 : 4;
        node *more = realloc(s->nodes, (size_t)cap * sizeof *more);
        if (!more)
            return NULL;
        s->nodes = more;
        s->cap = cap;
    }
    node *d = &s->nodes[s->n++];
    memset(d, 0, sizeof *d);
    d->kind = kind;
    d->at = at;
    d->name = d->bracket = -1;
    return d;
}

static int seq_add_text(parser *p, seq *s, char c, size_t at)
{
    node *last = s->n && s->nodes[s->n - 1].kind == NODE_TEXT ? &s->nodes[s->n - 1] : seq_push(s, NODE_TEXT, at);
    if (!last)
        return out_of_memory(p);
    str_addc(&last->text, c);
    return last->text.failed ? out_of_memory(p) : 0;
}

/* ---- items ---- */

typedef enum { IN_TEMPLATE, IN_ALTERNATIVE, IN_PLAIN, IN_MARK } place;

/* The last ':' directly inside a mark. */
typedef struct colon {
    size_t at;               /* NOWHERE: none */
    int node;
    size_t offset;           /* of the ':' in that node's text */
} colon;

static int parse_items(parser *p, seq *s, size_t end, place where, colon *c);

/* How many alternatives are nothing but a number: such a bracket may give weights. Counted once, because any number of
 * links may ask. */
static void count_numbers(node *d)
{
    d->bad_weight = -1;
    for (int a = 0; a < d->n_alts; a++) {
        const seq *s = d->alts[a];
        double w;
        if (s->n != 1 || s->nodes[0].kind != NODE_TEXT)
            continue;
        const str *text = &s->nodes[0].text;
        if (!template_number(str_text(text), text->len, &w))
            continue;
        d->n_numbers++;
        d->n_whole += strspn(text->data, "0123456789") == text->len;
        if (!(isfinite(w) && w >= 0) && d->bad_weight < 0)
            d->bad_weight = a;
    }
}

static int parse_alternatives(parser *p, node *d, seq *parent, size_t close, bool in_choice)
{
    int cap = 0;
    for (;;) {
        if (d->n_alts == cap) {
            cap = cap ? cap * 2 : 4;
            seq **more = realloc(d->alts, (size_t)cap * sizeof *more);
            if (!more)
                return out_of_memory(p);
            d->alts = more;
        }
        seq *alt = seq_new(parent, in_choice);
        if (!alt)
            return out_of_memory(p);
        d->alts[d->n_alts++] = alt;
        int rc = parse_items(p, alt, close, IN_ALTERNATIVE, NULL);
        if (rc)
            return rc;
        if (p->at == close) {
            count_numbers(d);
            return 0;
        }
        p->at++;   /* the '|' */
    }
}

static bool is_name(const char *s, size_t n)
{
    if (n == 0 || (s[0] >= '0' && s[0] <= '9') || s[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        bool letter = c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!letter && !(c >= '0' && c <= '9') && c != '-')
            return false;
    }
    return true;
}

static int find_name(const prompt_template *t, const char *s, size_t n)
{
    for (int i = 0; i < t->n_names; i++)
        if (strlen(t->names[i].text) == n && !memcmp(t->names[i].text, s, n))
            return i;
    return -1;
}

static int bad_name(parser *p, size_t begin, size_t end, size_t at)
{
    return FAIL(p, at, "'%.*s' is not a name for a choice (letters, digits, '_' and '-', beginning with a letter, no "
                       "blanks, "
                "directly between '[' and '='); write '\\=' for a plain equals sign",
                (int)(end - begin > 60 ? 60 : end - begin), p->text + begin);
}

static int add_name(parser *p, seq *s, size_t begin, size_t end, size_t at, int *index)
{
    prompt_template *t = p->t;
    int old = find_name(t, p->text + begin, end - begin);
    if (old >= 0) {
        int line, column;
        template_line_column(p->text, t->names[old].at, &line, &column);
        return FAIL(p, at, "the choice '%s' is already defined at line %d, column %d; use another name, or '[=%s]' to "
                           "repeat it",
                    t->names[old].text, line, column, t->names[old].text);
    }
    if (t->n_names == MAX_NAMES)
        return FAIL(p, at, "more than %d named choices in one template", MAX_NAMES);
    if (t->n_names == t->cap_names) {
        int cap = t->cap_names ? t->cap_names * 2 : 8;
        tmpl_name *more = realloc(t->names, (size_t)cap * sizeof *more);
        if (!more)
            return out_of_memory(p);
        t->names = more;
        t->cap_names = cap;
    }
    char *text = str_dupn(p->text + begin, end - begin);
    if (!text)
        return out_of_memory(p);
    t->names[t->n_names] = (tmpl_name){ .text = text, .scope = s, .at = at };
    *index = t->n_names++;
    return 0;
}

static int add_bracket(parser *p, int name, size_t at, bool in_choice, int *index)
{
    prompt_template *t = p->t;
    if (t->n_brackets == t->cap_brackets) {
        int cap = t->cap_brackets ? t->cap_brackets * 2 : 8;
        tmpl_bracket *more = realloc(t->brackets, (size_t)cap * sizeof *more);
        if (!more)
            return out_of_memory(p);
        t->brackets = more;
        t->cap_brackets = cap;
    }
    t->brackets[t->n_brackets] = (tmpl_bracket){ name, at, in_choice };
    *index = t->n_brackets++;
    return 0;
}

/* Frees what a node that never reached its sequence holds. */
static void node_drop(node *d)
{
    for (int a = 0; a < d->n_alts; a++)
        seq_free(d->alts[a]);
    free(d->alts);
}

/* [a|b] and [who=a|b] */
static int parse_choice(parser *p, seq *s, const pair *b, bool named)
{
    node d = { .kind = NODE_CHOICE, .at = b->open, .name = -1, .bracket = -1 };
    int rc;
    if (named) {
        if (!is_name(p->text + b->open + 1, b->equals - b->open - 1))
            return bad_name(p, b->open + 1, b->equals, b->open + 1);
        if ((rc = add_name(p, s, b->open + 1, b->equals, b->open, &d.name)))
            return rc;
    }
    if ((rc = add_bracket(p, d.name, b->open, s->in_choice, &d.bracket)))
        return rc;
    p->at = (named ? b->equals : b->open) + 1;
    if ((rc = parse_alternatives(p, &d, s, b->close, true)))
        goto fail;
    node *slot = seq_push(s, NODE_CHOICE, b->open);
    if (!slot) {
        rc = out_of_memory(p);
        goto fail;
    }
    *slot = d;
    if (named) {
        tmpl_name *n = &p->t->names[d.name];
        n->node = s->n - 1;
        n->n_alts = d.n_alts;
        n->done = true;
    }
    return 0;
fail:
    node_drop(&d);
    return rc;
}

static int unknown_name(parser *p, size_t begin, size_t n)
{
    for (int i = p->next_pair; i < p->n_pairs; i++) {
        const pair *b = &p->pairs[i];
        if (p->text[b->open] == '[' && b->equals != NOWHERE && b->equals - b->open - 1 == n &&
            !memcmp(p->text + b->open + 1, p->text + begin, n))
            return FAIL(p, begin, "the choice '%.*s' is only defined further right, at column %d; put the definition "
                                  "first: "
                        "name this bracket, '[%.*s=...]', and link the other one",
                        (int)n, p->text + begin, column_of(p, b->open), (int)n, p->text + begin);
    }
    const char **known = calloc((size_t)p->t->n_names + 1, sizeof *known);
    char *word = str_dupn(p->text + begin, n);
    int rc;
    if (!known || !word) {
        rc = out_of_memory(p);
    } else {
        for (int i = 0; i < p->t->n_names; i++)
            known[i] = p->t->names[i].text;
        const char *near = str_nearest(word, known, (size_t)p->t->n_names);
        if (near)
            rc = FAIL(p, begin, "no choice is named '%s'; did you mean '%s'?", word, near);
        else
            rc = FAIL(p, begin, "no choice is named '%s'; define it to the left of here with '[%s=...|...]'", word,
                      word);
    }
    free(known);
    free(word);
    return rc;
}

/* [=who] and [=who|x|y] */
static int parse_link(parser *p, seq *s, const pair *b)
{
    node d = { .kind = NODE_LINK, .at = b->open, .name = -1, .bracket = -1 };
    size_t begin = b->equals + 1, end = b->bar != NOWHERE ? b->bar : b->close;
    if (!is_name(p->text + begin, end - begin)) {
        if (begin == end)
            return FAIL(p, begin, "a link needs the name of a choice, as in '[=who]'; write '\\=' for a plain equals "
                                  "sign");
        return FAIL(p, begin, "'%.*s' cannot be the name of a choice (letters, digits, '_' and '-', beginning with a "
                              "letter); "
                    "write '\\=' for a plain equals sign", (int)(end - begin > 60 ? 60 : end - begin), p->text + begin);
    }
    d.name = find_name(p->t, p->text + begin, end - begin);
    if (d.name < 0)
        return unknown_name(p, begin, end - begin);
    const tmpl_name *target = &p->t->names[d.name];
    if (!target->done)
        return FAIL(p, b->open, "this link to '%s' stands inside the choice '%s' itself; move it behind the closing "
                                "']'",
                    target->text, target->text);
    const seq *up = s;
    while (up && up != target->scope)
        up = up->parent;
    if (!up)
        return FAIL(p, b->open, "the choice '%s' is defined inside an alternative that is not always taken when this "
                                "link is "
                    "reached; define it in front of the brackets, or link inside the same alternative", target->text);
    int rc = 0;
    p->at = end;
    if (b->bar != NOWHERE) {
        p->at = b->bar + 1;
        if ((rc = parse_alternatives(p, &d, s, b->close, s->in_choice)))
            goto fail;
        target = &p->t->names[d.name];   /* the table may have moved */
        if (d.n_alts != target->n_alts) {
            rc = FAIL(p, b->open, "this link has %d alternative%s, but the choice '%s' that it follows has %d; give "
                                  "it one for each",
                      d.n_alts, d.n_alts == 1 ? "" : "s", target->text, target->n_alts);
            goto fail;
        }
    }
    node *slot = seq_push(s, NODE_LINK, b->open);
    if (!slot) {
        rc = out_of_memory(p);
        goto fail;
    }
    *slot = d;
    return 0;
fail:
    node_drop(&d);
    return rc;
}

static int parse_bracket(parser *p, seq *s, const pair *b)
{
    int rc;
    if (b->equals != NOWHERE && (b->bar == NOWHERE || b->equals < b->bar)) {
        rc = b->equals == b->open + 1 ? parse_link(p, s, b) : parse_choice(p, s, b, true);
    } else if (b->bar != NOWHERE) {
        rc = parse_choice(p, s, b, false);
    } else {
        p->at = b->open + 1;
        if (!seq_push(s, NODE_PLAIN_OPEN, b->open))
            return out_of_memory(p);
        if ((rc = parse_items(p, s, b->close, IN_PLAIN, NULL)))
            return rc;
        if (!seq_push(s, NODE_PLAIN_CLOSE, b->close))
            return out_of_memory(p);
    }
    p->at = b->close + 1;
    return rc;
}

/* ---- marks and weights ---- */

static int check_weight(parser *p, double w, size_t at)
{
    if (!isfinite(w))
        return FAIL(p, at, "a weight must be a finite number; write '\\:' for a plain colon");
    if (w < 0)
        return FAIL(p, at, "a weight must be 0 or more, found %g; write '\\:' for a plain colon", w);
    return 0;
}

/* "12:30" and "16:9" are times and ratios: whole numbers behind a digit. */
static bool is_ratio(char before, const char *tail, size_t n)
{
    return before >= '0' && before <= '9' && n > 0 && strspn(tail, "0123456789") >= n;
}

/* The text behind the last colon of a mark: a weight (*is), plain text, or so near a weight that we ask. */
static int read_weight(parser *p, char before, const char *tail, size_t n, size_t at, bool *is, double *w)
{
    *is = false;
    size_t b = 0, f = n;
    while (b < f && is_blank(tail[b]))
        b++;
    while (f > b && is_blank(tail[f - 1]))
        f--;
    if (b == f)
        return FAIL(p, at, "the weight behind ':' is missing; write '(word:1.5)', or '\\:' for a plain colon");
    if (is_ratio(before, tail + b, f - b))
        return 0;
    if (template_number(tail + b, f - b, w)) {
        if (b > 0 || f < n)
            return FAIL(p, at, "a blank beside the number leaves open whether it is a weight: write ':%.*s' for a "
                               "weight, "
                        "'\\:' for a plain colon", (int)(f - b), tail + b);
        *is = true;
        return check_weight(p, *w, at);
    }
    const char *d = tail + (tail[0] == '+' || tail[0] == '-' || tail[0] == '.');
    bool looks = d < tail + n && *d >= '0' && *d <= '9' && !(before >= '0' && before <= '9');
    for (size_t i = 0; i < n; i++)
        looks = looks && !is_blank(tail[i]);
    if (looks)
        return FAIL(p, at, "'%.*s' is not a number, so it cannot be the weight of the mark; write it like 1.5, or "
                           "'\\:' for a "
                    "plain colon", (int)(n > 40 ? 40 : n), tail);
    return 0;
}

/* (word:[1|1.5]): *is when all alternatives of the bracket are numbers. */
static int read_weight_choice(parser *p, const node *d, char before, bool *is)
{
    *is = false;
    const node *c = d;
    if (d->kind == NODE_LINK && d->n_alts == 0) {
        const tmpl_name *target = &p->t->names[d->name];
        c = &target->scope->nodes[target->node];
    }
    bool ratio = before >= '0' && before <= '9' && c->n_whole == c->n_alts;
    if (c->n_numbers == 0 || ratio)
        return 0;
    if (c->n_numbers < c->n_alts)
        return FAIL(p, d->at, "some alternatives behind ':' are numbers and some are not, so they cannot all be "
                              "weights; "
                    "give numbers only, or write '\\:' for a plain colon");
    if (c->bad_weight >= 0) {
        const node *x = &c->alts[c->bad_weight]->nodes[0];
        double w = 0;
        template_number(x->text.data, x->text.len, &w);
        return check_weight(p, w, x->at);
    }
    *is = true;
    return 0;
}

static int parse_mark(parser *p, seq *s, const pair *m)
{
    int first = s->n, rc;
    if (!seq_push(s, NODE_MARK_OPEN, m->open))
        return out_of_memory(p);
    p->at = m->open + 1;
    colon c = { NOWHERE, 0, 0 };
    if ((rc = parse_items(p, s, m->close, IN_MARK, &c)))
        return rc;
    double weight = 1;
    if (c.at != NOWHERE) {
        node *x = &s->nodes[c.node];
        char *text = x->text.data;
        char before = c.offset ? text[c.offset - 1] : 0;
        bool is = false, last = c.node == s->n - 1, bracket = false;
        if (last)
            rc = read_weight(p, before, text + c.offset + 1, x->text.len - c.offset - 1, c.at, &is, &weight);
        else if (c.node == s->n - 2 && c.offset + 1 == x->text.len && s->nodes[s->n - 1].kind >= NODE_CHOICE)
            rc = read_weight_choice(p, &s->nodes[s->n - 1], before, &is), bracket = true;
        if (rc)
            return rc;
        if (is) {
            x->text.len = c.offset;
            text[c.offset] = 0;
            if (bracket)
                s->nodes[s->n - 1].is_weight = true;
        } else {
            weight = 1;
        }
    }
    bool empty = true;
    for (int i = first + 1; i < s->n; i++) {
        const node *d = &s->nodes[i];
        if (d->kind == NODE_TEXT)
            for (size_t k = 0; k < d->text.len; k++)
                empty = empty && is_blank(d->text.data[k]);
        else if (!d->is_weight)
            empty = false;
    }
    if (empty)
        return FAIL(p, m->open, "this mark holds no text; put a word inside, or write '\\(' for a plain parenthesis");
    node *close = seq_push(s, NODE_MARK_CLOSE, m->close);
    if (!close)
        return out_of_memory(p);
    close->weight = weight;
    p->at = m->close + 1;
    return 0;
}

/* Everything up to `end`, or to a '|' in an alternative. */
static int parse_items(parser *p, seq *s, size_t end, place where, colon *c)
{
    int rc;
    while (p->at < end) {
        char ch = p->text[p->at];
        if (ch == '|' && where == IN_ALTERNATIVE)
            return 0;
        if (ch == '[' || ch == '(') {
            pair b = p->pairs[p->next_pair++];
            if ((rc = ch == '[' ? parse_bracket(p, s, &b) : parse_mark(p, s, &b)))
                return rc;
            continue;
        }
        bool escaped = ch == '\\' && p->at + 1 < end && template_escapable(p->text[p->at + 1]);
        size_t at = p->at;
        if (escaped)
            ch = p->text[++p->at];
        if ((rc = seq_add_text(p, s, ch, at)))
            return rc;
        if (ch == ':' && !escaped && where == IN_MARK)
            *c = (colon){ at, s->n - 1, s->nodes[s->n - 1].text.len - 1 };
        p->at++;
    }
    return 0;
}

int template_parse(prompt_template **out, const char *text, size_t len, const char *name, err *e)
{
    parser p = { .name = name, .text = text, .len = len, .e = e };
    int rc = 0, *env = NULL;
    *out = NULL;
    if (len > TEMPLATE_MAX_BYTES)
        return ERR(e, ERR_ARG, "%s: a template of %zu bytes; at most %zu are read", name, len, TEMPLATE_MAX_BYTES);
    size_t fault = template_utf8_fault(text, len);
    if (fault < len)
        return ERR(e, ERR_ARG, "%s: byte %zu (0x%02x) is not valid UTF-8 text; save the template as UTF-8", name, fault,
                   (unsigned)(unsigned char)text[fault]);
    size_t blanks = 0;
    while (blanks < len && is_blank(text[blanks]))
        blanks++;
    if (blanks == len)
        return ERR(e, ERR_ARG, "%s: the template is empty; write a prompt, for example 'a [red|blue] (ball)'", name);
    p.t = calloc(1, sizeof *p.t);
    if (!p.t || !(p.t->root = seq_new(NULL, false))) {
        rc = out_of_memory(&p);
        goto out;
    }
    if ((rc = template_pairs(&p.pairs, &p.n_pairs, text, len, name, e)) || (rc = parse_items(&p, p.t->root, len,
                                                                                             IN_TEMPLATE, NULL)))
        goto out;
    env = calloc((size_t)p.t->n_names + 1, sizeof *env);
    if (!env) {
        rc = out_of_memory(&p);
        goto out;
    }
    if ((rc = template_measure(p.t, name, text, len, env, e)))
        goto out;
    if (p.t->root->cost > TEMPLATE_MAX_COST) {
        rc = ERR(e, ERR_ARG, "%s: links repeat each other so often that a variation can grow to %llu bytes; at most "
                             "%zu are "
                 "allowed", name, (unsigned long long)p.t->root->cost, TEMPLATE_MAX_COST);
        goto out;
    }
    p.t->count = p.t->root->count;
    *out = p.t;
    p.t = NULL;
out:
    template_free(p.t);
    free(p.pairs);
    free(env);
    return rc;
}

void template_free(prompt_template *t)
{
    if (!t)
        return;
    seq_free(t->root);
    for (int i = 0; i < t->n_names; i++)
        free(t->names[i].text);
    free(t->names);
    free(t->brackets);
    free(t);
}

int template_read_file(char **text, size_t *len, const char *path, err *e)
{
    char *raw = NULL;
    size_t n = 0;
    *text = NULL;
    *len = 0;
    int rc = fs_read_text(&raw, &n, path, e);
    if (rc)
        return rc;
    size_t b = n >= 3 && !memcmp(raw, "\xef\xbb\xbf", 3) ? 3 : 0;
    while (b < n && is_blank(raw[b]))
        b++;
    while (n > b && is_blank(raw[n - 1]))
        n--;
    memmove(raw, raw + b, n - b);
    raw[n - b] = 0;
    if (n == b) {
        free(raw);
        return ERR(e, ERR_ARG, "%s: the template file is empty; write one template into it", path);
    }
    *text = raw;
    *len = n - b;
    return 0;
}
