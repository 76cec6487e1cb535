/* First pass over a template: is it text, and which brackets and parentheses belong together? */
#include <stdlib.h>
#include <string.h>

#include "experiments/template_internal.h"

typedef struct finder {
    const char *name, *text;
    size_t len;
    pair *pairs;
    int n_pairs, cap_pairs;
    err *e;
} finder;

#define FAIL(p, where, ...) template_error((p)->e, (p)->name, (p)->text, (p)->len, (where), __VA_ARGS__)

/* Byte of the first fault in UTF-8, or len. Overlong forms, surrogates and values above U+10FFFF are faults. */
size_t template_utf8_fault(const char *s, size_t len)
{
    const unsigned char *u = (const unsigned char *)s;
    for (size_t i = 0; i < len;) {
        unsigned char c = u[i];
        size_t n = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
        if (!n || !c || n > len - i)
            return i;
        for (size_t k = 1; k < n; k++)
            if ((u[i + k] & 0xc0) != 0x80)
                return i;
        if ((c == 0xe0 && u[i + 1] < 0xa0) || (c == 0xed && u[i + 1] > 0x9f) || (c == 0xf0 && u[i + 1] < 0x90) ||
            (c == 0xf4 && u[i + 1] > 0x8f))
            return i;
        i += n;
    }
    return len;
}

bool template_escapable(char c)
{
    return c && strchr("[]()|:=\\", c) != NULL;
}

int template_column(const char *text, size_t at)
{
    int line, column;
    template_line_column(text, at, &line, &column);
    return column;
}

static int pair_open(finder *p, int *stack, int *depth, size_t at)
{
    if (*depth == TEMPLATE_MAX_DEPTH)
        return FAIL(p, at, "brackets and parentheses are nested more than %d deep; flatten the template",
                    TEMPLATE_MAX_DEPTH);
    if (p->n_pairs == p->cap_pairs) {
        int cap = p->cap_pairs ? p->cap_pairs * 2 : 32;
        pair *more = realloc(p->pairs, (size_t)cap * sizeof *more);
        if (!more)
            return ERR(p->e, ERR_MEMORY, "%s: out of memory while parsing a template of %zu bytes", p->name, p->len);
        p->pairs = more;
        p->cap_pairs = cap;
    }
    stack[(*depth)++] = p->n_pairs;
    p->pairs[p->n_pairs++] = (pair){ at, NOWHERE, NOWHERE, NOWHERE };
    return 0;
}

static int pair_close(finder *p, int *stack, int *depth, size_t at)
{
    char c = p->text[at], opener = c == ']' ? '[' : '(';
    if (*depth == 0)
        return FAIL(p, at, "'%c' closes nothing; add the missing '%c', or write '\\%c' for a plain one", c, opener, c);
    pair *top = &p->pairs[stack[*depth - 1]];
    if (p->text[top->open] != opener)
        return FAIL(p, top->open, "'%c' is not closed before the '%c' at column %d; close it, or write '\\%c' for a "
                                  "plain one",
                    p->text[top->open], c, template_column(p->text, at), p->text[top->open]);
    top->close = at;
    (*depth)--;
    return 0;
}

static int find(finder *p)
{
    int stack[TEMPLATE_MAX_DEPTH], depth = 0, rc;
    for (size_t i = 0; i < p->len; i++) {
        char c = p->text[i];
        pair *top = depth ? &p->pairs[stack[depth - 1]] : NULL;
        bool in_bracket = top && p->text[top->open] == '[';
        if (c == '\\' && i + 1 < p->len && template_escapable(p->text[i + 1])) {
            i++;
        } else if (c == '[' || c == '(') {
            if ((rc = pair_open(p, stack, &depth, i)))
                return rc;
        } else if (c == ']' || c == ')') {
            if ((rc = pair_close(p, stack, &depth, i)))
                return rc;
        } else if (c == '|' && top && !in_bracket) {
            return FAIL(p, i, "'|' stands inside the mark opened at column %d, which must hold whole alternatives: "
                        "close the mark first, choose inside it with '([a|b])', or write '\\|' for a plain one",
                        template_column(p->text, top->open));
        } else if (c == '|' && in_bracket && top->bar == NOWHERE) {
            top->bar = i;
        } else if (c == '=' && in_bracket && top->equals == NOWHERE) {
            top->equals = i;
        }
    }
    if (depth) {
        const pair *top = &p->pairs[stack[depth - 1]];
        char c = p->text[top->open];
        return FAIL(p, top->open, "'%c' is never closed; add '%c', or write '\\%c' for a plain one", c,
                    c == '[' ? ']' : ')', c);
    }
    return 0;
}

int template_pairs(pair **out, int *n, const char *text, size_t len, const char *name, err *e)
{
    finder p = { .name = name, .text = text, .len = len, .e = e };
    int rc = find(&p);
    *out = rc ? NULL : p.pairs;
    *n = rc ? 0 : p.n_pairs;
    if (rc)
        free(p.pairs);
    return rc;
}
