#include "experiments/yaml_flow.h"

#include <stdlib.h>
#include <string.h>

#include "core/text/unicode.h"

void yml_node_free(yml_node *n)
{
    if (!n)
        return;
    for (int i = 0; i < n->n; i++) {
        if (n->items)
            yml_node_free(n->items[i]);
        if (n->keys)
            yml_node_free(n->keys[i]);
    }
    free(n->items);
    free(n->keys);
    free(n->text);
    free(n);
}

bool yml_node_append(yml_node *parent, yml_node *key, yml_node *item)
{
    if ((parent->n & (parent->n - 1)) == 0) {   /* capacity is the next power of two */
        size_t cap = parent->n ? (size_t)parent->n * 2 : 1;
        yml_node **items = realloc(parent->items, cap * sizeof *items);
        if (items)
            parent->items = items;
        yml_node **keys = key ? realloc(parent->keys, cap * sizeof *keys) : NULL;
        if (keys)
            parent->keys = keys;
        if (!items || (key && !keys)) {
            yml_node_free(key);
            yml_node_free(item);
            return false;
        }
    }
    if (key)
        parent->keys[parent->n] = key;
    parent->items[parent->n++] = item;
    return true;
}

/* ---- the reader ---- */

typedef struct flow {
    const char *text;
    size_t len, at;
    const char *name;
    err *e;
} flow;

static int column_of(const flow *f, size_t at)
{
    int column = 1;
    for (size_t i = 0; i < at && i < f->len; i++)
        column += ((unsigned char)f->text[i] & 0xc0) != 0x80;
    return column;
}

#define FAIL(f, at, ...) fail((f), (at), __VA_ARGS__)
static int fail(const flow *f, size_t at, const char *what)
{
    return ERR(f->e, ERR_CONFIG, "%s:1:%d: %s", f->name, column_of(f, at), what);
}

static int no_memory(const flow *f)
{
    return ERR(f->e, ERR_MEMORY, "%s: out of memory while reading a value", f->name);
}

static char peek(const flow *f, size_t ahead)
{
    return f->at + ahead < f->len ? f->text[f->at + ahead] : 0;
}

static void skip_blanks(flow *f)
{
    while (peek(f, 0) == ' ' || peek(f, 0) == '\t')
        f->at++;
}

static bool is_blank_or_end(char c)
{
    return c == ' ' || c == '\t' || !c;
}

static void add_utf8(str *s, unsigned c)
{
    if (c < 0x80) {
        str_addc(s, (char)c);
    } else if (c < 0x800) {
        str_addc(s, (char)(0xc0 | c >> 6));
        str_addc(s, (char)(0x80 | (c & 63)));
    } else {
        str_addc(s, (char)(0xe0 | c >> 12));
        str_addc(s, (char)(0x80 | (c >> 6 & 63)));
        str_addc(s, (char)(0x80 | (c & 63)));
    }
}

/* \xHH, \uHHHH and the letters that stand for one character */
static int escape(flow *f, str *out)
{
    size_t at = f->at++;
    char c = peek(f, 0);
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : 0;
    f->at++;
    if (digits) {
        unsigned value = 0;
        for (int i = 0; i < digits; i++, f->at++) {
            char d = peek(f, 0);
            int v = d >= '0' && d <= '9' ? d - '0' : d >= 'a' && d <= 'f' ? d - 'a' + 10 : d >= 'A' && d <= 'F' ? d - 'A' + 10 : -1;
            if (v < 0)
                return FAIL(f, at, "'\\x' needs two hexadecimal digits after it, '\\u' four");
            value = value * 16 + (unsigned)v;
        }
        if (!value || (value >= 0xd800 && value < 0xe000))
            return FAIL(f, at, "this number is no character of a text");
        add_utf8(out, value);
        return 0;
    }
    if (c != '"' && c != '\\' && c != '/' && c != 'n' && c != 't' && c != 'r' && c != ' ')
        return FAIL(f, at, "unknown escape; in double quotes write '\\\\' for a backslash, or use single quotes");
    str_addc(out, c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c);
    return 0;
}

static int quoted(flow *f, yml_node *n)
{
    size_t begin = f->at;
    char quote = f->text[f->at++];
    str s = STR_INIT;
    int rc = 0;
    for (;;) {
        if (f->at >= f->len) {
            rc = FAIL(f, begin, "this quote is not closed");
            break;
        }
        char c = f->text[f->at];
        if (c == quote && quote == '\'' && peek(f, 1) == '\'')
            f->at++;
        else if (c == quote)
            break;
        if (c == '\\' && quote == '"') {
            if ((rc = escape(f, &s)))
                break;
            continue;
        }
        str_addc(&s, c);
        f->at++;
    }
    f->at++;
    if (!rc && !(n->text = s.failed ? NULL : s.len ? str_dupn(s.data, s.len) : str_dup("")))
        rc = no_memory(f);
    str_release(&s);
    return rc;
}

/* Up to what ends it: inside brackets ',', ']', '}' and ':' before a blank, else the text's end. */
static int plain(flow *f, yml_node *n, bool inside)
{
    size_t begin = f->at, end;
    char first = peek(f, 0);
    if (!first)
        return FAIL(f, begin, "the text ends where a value is expected");
    if (strchr("&*!|>%@`#,]}?", first) || (strchr("-:", first) && is_blank_or_end(peek(f, 1))))
        return FAIL(f, begin, "a text that begins like this needs quotes");
    while (f->at < f->len) {
        char c = peek(f, 0), next = peek(f, 1);
        bool colon = c == ':' && (is_blank_or_end(next) || (inside && strchr(",[]{}", next)));
        if (inside && (c == ',' || c == ']' || c == '}'))
            break;
        if (colon && inside)
            break;
        if (colon)
            return FAIL(f, f->at, "a text with ': ' in it needs quotes");
        if (inside && (c == '[' || c == '{'))
            return FAIL(f, f->at, "a text with brackets in it needs quotes here");
        if (c == '#' && f->at > begin && is_blank_or_end(f->text[f->at - 1]))
            return FAIL(f, f->at, "a comment, or a text with ' #' in it, which needs quotes");
        f->at++;
    }
    for (end = f->at; end > begin && is_blank_or_end(f->text[end - 1]);)
        end--;
    n->plain = true;
    n->text = str_dupn(f->text + begin, end - begin);
    return n->text ? 0 : no_memory(f);
}

static int value(flow *f, yml_node **out, bool inside, int depth);

/* What may follow an entry. */
static int separator(flow *f, char close, bool *more)
{
    skip_blanks(f);
    if (peek(f, 0) == ',') {
        f->at++;
        skip_blanks(f);
        *more = peek(f, 0) != close;
        return 0;
    }
    *more = false;
    return peek(f, 0) == close ? 0 : FAIL(f, f->at, close == ']' ? "expected ',' or ']'" : "expected ',' or '}'");
}

static int list(flow *f, yml_node *n, int depth)
{
    f->at++;
    skip_blanks(f);
    for (bool more = peek(f, 0) != ']'; more;) {
        yml_node *item;
        int rc = value(f, &item, true, depth + 1);
        if (rc)
            return rc;
        if (!yml_node_append(n, NULL, item))
            return no_memory(f);
        if ((rc = separator(f, ']', &more)))
            return rc;
    }
    f->at++;
    return 0;
}

static int map(flow *f, yml_node *n, int depth)
{
    f->at++;
    skip_blanks(f);
    for (bool more = peek(f, 0) != '}'; more;) {
        yml_node *key, *item = NULL;
        size_t at = f->at;
        int rc = value(f, &key, true, depth + 1);
        if (rc)
            return rc;
        if (key->kind != YML_SCALAR)
            rc = FAIL(f, at, "a key must be a plain word, found a list or a mapping");
        else if (yml_get(n, key->text))
            rc = FAIL(f, at, "this key is given twice; keep one of the two");
        else if (key->plain && !strcmp(key->text, "<<"))
            rc = FAIL(f, at, "merge keys ('<<') are not supported; write the settings out");
        skip_blanks(f);
        if (!rc && peek(f, 0) != ':')
            rc = FAIL(f, f->at, "expected ': ' and a value after the key");
        if (!rc) {
            f->at++;
            skip_blanks(f);
            rc = value(f, &item, true, depth + 1);
        }
        if (rc) {
            yml_node_free(key);
            return rc;
        }
        if (!yml_node_append(n, key, item))
            return no_memory(f);
        if ((rc = separator(f, '}', &more)))
            return rc;
    }
    f->at++;
    return 0;
}

static int value(flow *f, yml_node **out, bool inside, int depth)
{
    int rc;
    char c = peek(f, 0);
    *out = NULL;
    if (depth == YML_MAX_DEPTH)
        return FAIL(f, f->at, "lists and mappings are nested too deep");
    yml_node *n = calloc(1, sizeof *n);
    if (!n)
        return no_memory(f);
    n->line = 1;
    n->column = column_of(f, f->at);
    n->kind = c == '[' ? YML_LIST : c == '{' ? YML_MAP : YML_SCALAR;
    if (n->kind == YML_LIST)
        rc = list(f, n, depth);
    else if (n->kind == YML_MAP)
        rc = map(f, n, depth);
    else if (c == '"' || c == '\'')
        rc = quoted(f, n);
    else
        rc = plain(f, n, inside);
    if (rc)
        yml_node_free(n);
    else
        *out = n;
    return rc;
}

int yml_flow_parse(yml_node **root, const char *text, size_t len, const char *name, err *e)
{
    flow f = { text, len, 0, name, e };
    *root = NULL;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)text[i] < 0x20 && text[i] != '\t')
            return FAIL(&f, i, text[i] == '\n' ? "this build reads values of one line only, since libyaml was not found; install it (make setup) "
                                                 "and build again" : "a control character");
    int rc = utf8_check(text, len, name, e);
    if (rc)
        return rc;
    skip_blanks(&f);
    if (f.at == len)
        return 0;
    rc = value(&f, root, false, 0);
    skip_blanks(&f);
    if (!rc && f.at < len) {
        rc = FAIL(&f, f.at, "something follows the value");
        yml_node_free(*root);
        *root = NULL;
    }
    return rc;
}
