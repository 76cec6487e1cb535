#include "experiments/yaml_reader.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "core/base/fs.h"
#include "core/base/str.h"
#include "experiments/yaml_flow.h"

#ifdef HAVE_YAML
#include <yaml.h>

#define FAIL(b, line, column, ...) fail((b), (int)(line), (int)(column), __VA_ARGS__)

typedef struct builder {
    yaml_parser_t parser;
    const char *name, *text;
    size_t len;
    err *e;
} builder;

static int fail(builder *b, int line, int column, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int fail(builder *b, int line, int column, const char *fmt, ...)
{
    char what[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return ERR(b->e, ERR_CONFIG, "%s:%d:%d: %s", b->name, line, column, what);
}

static int out_of_memory(builder *b)
{
    return ERR(b->e, ERR_MEMORY, "%s: out of memory while reading YAML", b->name);
}

/* The byte of a 0-based line and column (in characters), to look at what libyaml stumbled over. */
static size_t byte_at(const builder *b, size_t line, size_t column)
{
    size_t i = 0;
    while (line > 0 && i < b->len)
        line -= b->text[i++] == '\n';
    while (column > 0 && i < b->len && b->text[i] != '\n') {
        i++;
        while (i < b->len && ((unsigned char)b->text[i] & 0xc0) == 0x80)
            i++;
        column--;
    }
    return i;
}

/* Turns libyaml's complaint into ours, with a hint for what people usually meant. */
static int parser_failed(builder *b)
{
    const yaml_parser_t *p = &b->parser;
    const char *problem = p->problem ? p->problem : "not YAML";
    if (p->error == YAML_MEMORY_ERROR)
        return out_of_memory(b);
    if (p->error == YAML_READER_ERROR) {
        int line = 1, column = 1;
        for (size_t i = 0; i < p->problem_offset && i < b->len; i++) {
            column = b->text[i] == '\n' ? 1 : column + 1;
            line += b->text[i] == '\n';
        }
        if (p->problem_value >= 0)
            return FAIL(b, line, column, "the text is not valid here (%s, 0x%02X at byte %zu); save the file as UTF-8 "
                                         "without "
                        "control characters", problem, (unsigned)p->problem_value, p->problem_offset);
        return FAIL(b, line, column, "the text is not valid here (%s, at byte %zu); save the file as UTF-8", problem,
                    p->problem_offset);
    }
    size_t at = byte_at(b, p->problem_mark.line, p->problem_mark.column);
    size_t start = at;
    while (start > 0 && b->text[start - 1] != '\n')
        start--;
    size_t indent = start;
    while (indent < b->len && b->text[indent] == ' ')
        indent++;
    const char *hint = "";
    if ((at < b->len && b->text[at] == '\t') || (indent < b->len && b->text[indent] == '\t'))
        hint = "; this line is indented with a tab, and YAML wants blanks";
    else if (strstr(problem, "mapping values are not allowed"))
        hint = "; a text with ': ' in it needs quotes";
    else if (strstr(problem, "did not find expected key") || strstr(problem, "did not find expected ',' or") ||
             strstr(problem, "block end") || strstr(problem, "flow"))
        hint = "; check the indentation, and put a text that begins with '[', '{', '*', '&', '!' or a quote in quotes";
    else if (strstr(problem, "found character that cannot start any token"))
        hint = "; put a text that begins with '@', '`' or '%' in quotes";
    else if (strstr(problem, "unknown escape character"))
        hint = "; in double quotes write '\\\\' for a backslash, or use single quotes";
    if (p->context && p->context_mark.line != p->problem_mark.line)
        return FAIL(b, p->problem_mark.line + 1, p->problem_mark.column + 1, "%s (%s that began at line %zu)%s",
                    problem,
                    p->context, p->context_mark.line + 1, hint);
    return FAIL(b, p->problem_mark.line + 1, p->problem_mark.column + 1, "%s%s%s%s", problem, p->context ? " " : "",
                p->context ? p->context : "", hint);
}

static int next_event(builder *b, yaml_event_t *ev)
{
    if (!yaml_parser_parse(&b->parser, ev)) {
        memset(ev, 0, sizeof *ev);
        return parser_failed(b);
    }
    return 0;
}

static bool known_tag(const char *tag, bool *text)
{
    static const char *const KNOWN[] = { "str", "int", "float", "bool", "null", "seq", "map" };
    if (!strcmp(tag, "!")) {
        *text = true;
        return true;
    }
    if (!str_starts_with(tag, "tag:yaml.org,2002:"))
        return false;
    tag += strlen("tag:yaml.org,2002:");
    *text = !strcmp(tag, "str");
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (!strcmp(tag, KNOWN[i]))
            return true;
    return false;
}

static int check_properties(builder *b, const yaml_event_t *ev, const yaml_char_t *anchor, const yaml_char_t *tag,
                            bool *text)
{
    if (anchor)
        return FAIL(b, ev->start_mark.line + 1, ev->start_mark.column + 1,
                    "anchors ('&%.60s') are not supported; write the value where it is needed", (const char *)anchor);
    if (tag && !known_tag((const char *)tag, text))
        return FAIL(b, ev->start_mark.line + 1, ev->start_mark.column + 1,
                    "the tag '%.80s' is not supported; write a plain text, number, list or mapping", (const char *)tag);
    return 0;
}

static int append(builder *b, yml_node *parent, yml_node *key, yml_node *item)
{
    return yml_node_append(parent, key, item) ? 0 : out_of_memory(b);
}

static int build(builder *b, yaml_event_t *ev, int depth, yml_node **out);

static int build_scalar(builder *b, const yaml_event_t *ev, yml_node *n)
{
    bool text = false;
    int rc = check_properties(b, ev, ev->data.scalar.anchor, ev->data.scalar.tag, &text);
    if (rc)
        return rc;
    const char *value = (const char *)ev->data.scalar.value;
    if (memchr(value, 0, ev->data.scalar.length))
        return FAIL(b, n->line, n->column, "a text with a NUL character; take the '\\0' out");
    n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && !text;
    n->text = str_dupn(value, ev->data.scalar.length);
    return n->text ? 0 : out_of_memory(b);
}

static int compare_keys(const void *a, const void *b)
{
    const yml_node *x = *(yml_node *const *)a, *y = *(yml_node *const *)b;
    int c = strcmp(x->text, y->text);
    return c ? c : x->line != y->line ? (x->line < y->line ? -1 : 1) : x->column - y->column;
}

/* Sorted copies, so that a mapping of many thousand keys does not take minutes. */
static int check_duplicates(builder *b, const yml_node *map)
{
    if (map->n < 2)
        return 0;
    yml_node **sorted = malloc((size_t)map->n * sizeof *sorted);
    if (!sorted)
        return out_of_memory(b);
    memcpy(sorted, map->keys, (size_t)map->n * sizeof *sorted);
    qsort(sorted, (size_t)map->n, sizeof *sorted, compare_keys);
    int rc = 0;
    for (int i = 1; i < map->n && !rc; i++)
        if (!strcmp(sorted[i]->text, sorted[i - 1]->text))
            rc = FAIL(b, sorted[i]->line, sorted[i]->column, "the key '%.80s' is already given at line %d; keep one "
                                                             "of the two",
                      sorted[i]->text, sorted[i - 1]->line);
    free(sorted);
    return rc;
}

static int build_map(builder *b, yml_node *n, int depth)
{
    int rc = 0;
    while (!rc) {
        yaml_event_t ev;
        yml_node *key = NULL, *value = NULL;
        if ((rc = next_event(b, &ev)))
            return rc;
        if (ev.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&ev);
            return check_duplicates(b, n);
        }
        if (ev.type != YAML_SCALAR_EVENT && ev.type != YAML_ALIAS_EVENT)
            rc = FAIL(b, ev.start_mark.line + 1, ev.start_mark.column + 1, "a key must be a plain word, found a list "
                                                                           "or a mapping; "
                      "a text that begins with '[' or '{' needs quotes");
        else
            rc = build(b, &ev, depth, &key);
        yaml_event_delete(&ev);
        if (!rc && key->plain && !strcmp(key->text, "<<"))
            rc = FAIL(b, key->line, key->column, "merge keys ('<<') are not supported; write the settings out");
        if (!rc && !(rc = next_event(b, &ev))) {
            rc = build(b, &ev, depth, &value);
            yaml_event_delete(&ev);
        }
        if (rc)
            yml_node_free(key);
        else
            rc = append(b, n, key, value);
    }
    return rc;
}

static int build_list(builder *b, yml_node *n, int depth)
{
    int rc = 0;
    while (!rc) {
        yaml_event_t ev;
        yml_node *item = NULL;
        if ((rc = next_event(b, &ev)))
            return rc;
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&ev);
            return 0;
        }
        rc = build(b, &ev, depth, &item);
        yaml_event_delete(&ev);
        if (!rc)
            rc = append(b, n, NULL, item);
    }
    return rc;
}

/* One node from its first event; on failure *out is NULL and nothing is left behind. */
static int build(builder *b, yaml_event_t *ev, int depth, yml_node **out)
{
    int line = (int)ev->start_mark.line + 1, column = (int)ev->start_mark.column + 1, rc;
    bool text = false;
    *out = NULL;
    if (ev->type == YAML_ALIAS_EVENT)
        return FAIL(b, line, column, "aliases ('*%.60s') are not supported; write the value out, or put a text that "
                                     "begins with "
                    "'*' in quotes", (const char *)ev->data.alias.anchor);
    if (depth == YML_MAX_DEPTH)
        return FAIL(b, line, column, "lists and mappings are nested more than %d deep", YML_MAX_DEPTH);
    yml_node *n = calloc(1, sizeof *n);
    if (!n)
        return out_of_memory(b);
    n->line = line;
    n->column = column;
    if (ev->type == YAML_SCALAR_EVENT) {
        n->kind = YML_SCALAR;
        rc = build_scalar(b, ev, n);
    } else if (ev->type == YAML_SEQUENCE_START_EVENT) {
        n->kind = YML_LIST;
        rc = check_properties(b, ev, ev->data.sequence_start.anchor, ev->data.sequence_start.tag, &text);
        rc = rc ? rc : build_list(b, n, depth + 1);
    } else {
        n->kind = YML_MAP;
        rc = check_properties(b, ev, ev->data.mapping_start.anchor, ev->data.mapping_start.tag, &text);
        rc = rc ? rc : build_map(b, n, depth + 1);
    }
    if (rc)
        yml_node_free(n);
    else
        *out = n;
    return rc;
}

/* stream start, one document or none, stream end */
static int build_document(builder *b, yml_node **root)
{
    int documents = 0, rc = 0;
    for (bool end = false; !end && !rc;) {
        yaml_event_t ev;
        if ((rc = next_event(b, &ev)))
            return rc;
        if (ev.type == YAML_STREAM_END_EVENT) {
            end = true;
        } else if (ev.type == YAML_DOCUMENT_START_EVENT && documents++ > 0) {
            rc = FAIL(b, ev.start_mark.line + 1, ev.start_mark.column + 1,
                      "a second document begins here ('---'); one file holds one document");
        } else if (ev.type == YAML_SCALAR_EVENT || ev.type == YAML_SEQUENCE_START_EVENT ||
                   ev.type == YAML_MAPPING_START_EVENT || ev.type == YAML_ALIAS_EVENT) {
            rc = build(b, &ev, 0, root);
        }
        yaml_event_delete(&ev);
    }
    return rc;
}

int yml_parse(yml_doc **out, const char *text, size_t len, const char *name, err *e)
{
    builder b = { .name = name, .text = text, .len = len, .e = e };
    *out = NULL;
    if (len > YML_MAX_BYTES)
        return ERR(e, ERR_CONFIG, "%s: %zu bytes; a YAML file may have at most %zu", name, len, YML_MAX_BYTES);
    yml_doc *d = calloc(1, sizeof *d);
    if (!d || !(d->name = str_dup(name)) || !yaml_parser_initialize(&b.parser)) {
        yml_free(d);
        return out_of_memory(&b);
    }
    yaml_parser_set_encoding(&b.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&b.parser, (const unsigned char *)text, len);
    int rc = build_document(&b, &d->root);
    yaml_parser_delete(&b.parser);
    if (rc)
        yml_free(d);
    else
        *out = d;
    return rc;
}

#else

/* Settings from flags are one value of one line, which needs no library. */
int yml_parse(yml_doc **out, const char *text, size_t len, const char *name, err *e)
{
    *out = NULL;
    yml_doc *d = calloc(1, sizeof *d);
    if (!d || !(d->name = str_dup(name))) {
        yml_free(d);
        return ERR(e, ERR_MEMORY, "%s: out of memory while reading a value", name);
    }
    int rc = yml_flow_parse(&d->root, text, len, name, e);
    if (rc)
        yml_free(d);
    else
        *out = d;
    return rc;
}

#endif

int yml_read_file(yml_doc **out, const char *path, err *e)
{
    char *text = NULL;
    size_t len = 0;
    *out = NULL;
#ifndef HAVE_YAML
    if (fs_exists(path))
        return ERR(e, ERR_CONFIG, "%s: this build cannot read YAML files, since libyaml was not found; install it (make setup, or the package libyaml-dev) "
                   "and build again", path);
#endif
    int rc = fs_read_text(&text, &len, path, e);
    if (!rc) {
        size_t bom = len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0;
        rc = yml_parse(out, text + bom, len - bom, path, e);
    }
    free(text);
    return rc;
}

void yml_free(yml_doc *d)
{
    if (!d)
        return;
    yml_node_free(d->root);
    free(d->name);
    free(d);
}

const yml_node *yml_get(const yml_node *map, const char *key)
{
    if (map && map->kind == YML_MAP)
        for (int i = 0; i < map->n; i++)
            if (!strcmp(map->keys[i]->text, key))
                return map->items[i];
    return NULL;
}

/* ---- scalars ---- */

static bool is_plain(const yml_node *n)
{
    return n && n->kind == YML_SCALAR && n->plain;
}

static bool one_of(const char *text, const char *const *words)
{
    while (*words)
        if (!strcmp(text, *words++))
            return true;
    return false;
}

bool yml_is_null(const yml_node *n)
{
    static const char *const NULLS[] = { "", "~", "null", "Null", "NULL", NULL };
    return is_plain(n) && one_of(n->text, NULLS);
}

bool yml_bool(const yml_node *n, bool *out)
{
    static const char *const YES[] = { "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", NULL };
    static const char *const NO[] = { "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF",
                                      NULL };
    if (!is_plain(n))
        return false;
    *out = one_of(n->text, YES);
    return *out || one_of(n->text, NO);
}

/* Copies without the '_' between digits that YAML 1.1 allows; false when one stands elsewhere or it is too long. */
static bool without_underscores(const char *text, char out[64])
{
    size_t n = 0;
    for (size_t i = 0; text[i]; i++) {
        if (n == 63)
            return false;
        bool digit_before = i > 0 && text[i - 1] >= '0' && text[i - 1] <= '9';
        if (text[i] == '_' && !(digit_before && text[i + 1] >= '0' && text[i + 1] <= '9'))
            return false;
        if (text[i] != '_')
            out[n++] = text[i];
    }
    out[n] = 0;
    return n > 0;
}

bool yml_int(const yml_node *n, int64_t *out)
{
    char text[64], *end;
    if (!is_plain(n) || !without_underscores(n->text, text))
        return false;
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    bool hex = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
    /* YAML 1.1 reads 010 as 8 and 1:30 as 90; nobody who writes a config means that, so neither is a number here */
    if (!hex && (strspn(digits, "0123456789") != strlen(digits) || !*digits || (digits[0] == '0' && digits[1])))
        return false;
    if (hex && (!digits[2] || strspn(digits + 2, "0123456789abcdefABCDEF") != strlen(digits + 2)))
        return false;
    errno = 0;
    long long v = strtoll(text, &end, hex ? 16 : 10);
    if (*end || errno)
        return false;
    *out = v;
    return true;
}

bool yml_double(const yml_node *n, double *out)
{
    char text[64], *end;
    int64_t whole;
    if (yml_int(n, &whole)) {
        *out = (double)whole;
        return true;
    }
    if (!is_plain(n) || !without_underscores(n->text, text))
        return false;
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    if (strspn(digits, "0123456789.eE+-") != strlen(digits) || !strpbrk(digits, ".eE") || !strpbrk(digits,
                                                                                                   "0123456789"))
        return false;
    double v = strtod(text, &end);
    if (*end || !isfinite(v))
        return false;
    *out = v;
    return true;
}

const char *yml_kind_name(const yml_node *n)
{
    bool b;
    double d;
    if (!n || yml_is_null(n))
        return "nothing";
    if (n->kind == YML_LIST)
        return "a list";
    if (n->kind == YML_MAP)
        return "a mapping";
    return yml_bool(n, &b) ? "a yes or no" : yml_double(n, &d) ? "a number" : "a text";
}

void yml_quote(str *out, const char *text)
{
    const unsigned char *s = (const unsigned char *)text;
    str_addc(out, '"');
    for (size_t i = 0; s[i]; i++) {
        unsigned char c = s[i];
        if (c == '"' || c == '\\') {
            str_addc(out, '\\');
            str_addc(out, (char)c);
        } else if (c == '\n') {
            str_add(out, "\\n");
        } else if (c == '\t') {
            str_add(out, "\\t");
        } else if (c < 0x20 || c == 0x7f) {
            str_addf(out, "\\x%02X", c);
        } else if (c == 0xc2 && s[i + 1] >= 0x80 && s[i + 1] <= 0x9f) {      /* C1 controls; NEL is a line break */
            str_addf(out, "\\x%02X", s[++i]);
        } else if (c == 0xe2 && s[i + 1] == 0x80 && (s[i + 2] == 0xa8 || s[i + 2] == 0xa9)) {
            /* line and paragraph separators */
            str_addf(out, "\\u20%02X", s[i + 2] - 0x80);
            i += 2;
        } else if (c == 0xef && s[i + 1] == 0xbb && s[i + 2] == 0xbf) {      /* byte order mark */
            str_add(out, "\\uFEFF");
            i += 2;
        } else if (c == 0xef && s[i + 1] == 0xbf && s[i + 2] >= 0xbe) {      /* U+FFFE, U+FFFF: not printable to YAML */
            str_addf(out, "\\uFF%02X", 0xfe + (s[i + 2] - 0xbe));
            i += 2;
        } else {
            str_addc(out, (char)c);
        }
    }
    str_addc(out, '"');
}
