#include "core/base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json_internal.h"

enum { JSON_MAX_DEPTH = 128, INDEX_FROM = 16 };

struct json {
    json_kind kind;
    bool boolean, is_int;
    int64_t integer;
    double number;
    char *text;              /* of a string */
    size_t count, cap;
    json *items;             /* of an array or object */
    char **keys;             /* of an object */
    uint32_t *index;         /* hash table of member number + 1, once an object has INDEX_FROM members */
    size_t index_size;       /* a power of two */
};

typedef struct parser {
    const char *p, *start, *end;
    const char *name;
    err *e;
} parser;

static uint64_t hash_text(const char *s)
{
    uint64_t h = 1469598103934665603u;
    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * 1099511628211u;
    return h ^ h >> 29;
}

static void value_clear(json *v)
{
    for (size_t i = 0; i < v->count; i++) {
        value_clear(&v->items[i]);
        if (v->keys)
            free(v->keys[i]);
    }
    free(v->items);
    free(v->keys);
    free(v->index);
    free(v->text);
    memset(v, 0, sizeof *v);
}

void json_free(json *doc)
{
    if (!doc)
        return;
    value_clear(doc);
    free(doc);
}

/* line and column (in bytes) of `at`, then the sentence */
static int fail_at(parser *s, const char *at, int kind, const char *what)
{
    size_t line = 1;
    const char *row = s->start;
    for (const char *c = s->start; c < at; c++)
        if (*c == '\n') {
            line++;
            row = c + 1;
        }
    return ERR(s->e, kind, "%s: line %zu, column %zu: %s", s->name, line, (size_t)(at - row) + 1, what);
}

static int fail(parser *s, const char *what)
{
    return fail_at(s, s->p, ERR_FORMAT, what);
}

static int no_memory(parser *s)
{
    return fail_at(s, s->p, ERR_MEMORY, "memory ran out while reading JSON");
}

static void skip_space(parser *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static const json *member_find(const json *object, const char *key, size_t *at)
{
    if (object->index) {
        size_t mask = object->index_size - 1, slot = (size_t)hash_text(key) & mask;
        for (; object->index[slot]; slot = (slot + 1) & mask) {
            size_t i = object->index[slot] - 1;
            if (strcmp(object->keys[i], key) == 0) {
                *at = i;
                return &object->items[i];
            }
        }
        return NULL;
    }
    for (size_t i = 0; i < object->count; i++)
        if (strcmp(object->keys[i], key) == 0) {
            *at = i;
            return &object->items[i];
        }
    return NULL;
}

static void index_add(json *object, size_t i)
{
    size_t mask = object->index_size - 1, slot = (size_t)hash_text(object->keys[i]) & mask;
    while (object->index[slot])
        slot = (slot + 1) & mask;
    object->index[slot] = (uint32_t)i + 1;
}

/* Room for one more child; the hash table is kept at most half full. */
static bool grow(json *v, bool object)
{
    if (v->count == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 4;
        if (cap > UINT32_MAX / 4)
            return false;
        json *items = realloc(v->items, cap * sizeof *items);
        if (!items)
            return false;
        v->items = items;
        if (object) {
            char **keys = realloc(v->keys, cap * sizeof *keys);
            if (!keys)
                return false;
            v->keys = keys;
        }
        v->cap = cap;
    }
    if (object && v->count + 1 >= INDEX_FROM && (v->count + 1) * 2 > v->index_size) {
        size_t size = v->index_size ? v->index_size * 2 : INDEX_FROM * 4;
        uint32_t *index = calloc(size, sizeof *index);
        if (!index)
            return false;
        free(v->index);
        v->index = index;
        v->index_size = size;
        for (size_t i = 0; i < v->count; i++)
            index_add(v, i);
    }
    return true;
}

static int hex4(parser *s, uint32_t *out)
{
    uint32_t v = 0;
    if (s->end - s->p < 4)
        return fail(s, "expected four hexadecimal digits after \\u, found the end of the text");
    for (int i = 0; i < 4; i++) {
        char c = s->p[i];
        uint32_t d;
        if (c >= '0' && c <= '9')
            d = (uint32_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            d = (uint32_t)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            d = (uint32_t)(c - 'A') + 10;
        else
            return fail(s, "expected four hexadecimal digits after \\u");
        v = v << 4 | d;
    }
    s->p += 4;
    *out = v;
    return 0;
}

static void add_utf8(str *out, uint32_t c)
{
    if (c < 0x80) {
        str_addc(out, (char)c);
    } else if (c < 0x800) {
        str_addc(out, (char)(0xc0 | c >> 6));
        str_addc(out, (char)(0x80 | (c & 63)));
    } else if (c < 0x10000) {
        str_addc(out, (char)(0xe0 | c >> 12));
        str_addc(out, (char)(0x80 | (c >> 6 & 63)));
        str_addc(out, (char)(0x80 | (c & 63)));
    } else {
        str_addc(out, (char)(0xf0 | c >> 18));
        str_addc(out, (char)(0x80 | (c >> 12 & 63)));
        str_addc(out, (char)(0x80 | (c >> 6 & 63)));
        str_addc(out, (char)(0x80 | (c & 63)));
    }
}

static int parse_escape(parser *s, str *out)
{
    if (s->p == s->end)
        return fail(s, "the text ends inside a string; is the file truncated?");
    char c = *s->p++;
    switch (c) {
    case '"': case '\\': case '/': str_addc(out, c); return 0;
    case 'b': str_addc(out, '\b'); return 0;
    case 'f': str_addc(out, '\f'); return 0;
    case 'n': str_addc(out, '\n'); return 0;
    case 'r': str_addc(out, '\r'); return 0;
    case 't': str_addc(out, '\t'); return 0;
    case 'u': break;
    default:
        s->p--;
        return fail(s, "unknown escape in a string; JSON knows \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX");
    }
    uint32_t unit, low;
    int rc = hex4(s, &unit);
    if (rc)
        return rc;
    if (unit == 0)
        return fail(s, "\\u0000 inside a string is not supported");
    if (unit >= 0xdc00 && unit <= 0xdfff)
        return fail(s, "a \\u escape is the second half of a surrogate pair without the first");
    if (unit >= 0xd800 && unit <= 0xdbff) {
        if (s->end - s->p < 2 || s->p[0] != '\\' || s->p[1] != 'u')
            return fail(s, "a \\u escape is the first half of a surrogate pair without the second");
        s->p += 2;
        if ((rc = hex4(s, &low)))
            return rc;
        if (low < 0xdc00 || low > 0xdfff)
            return fail(s, "a \\u escape is the first half of a surrogate pair without the second");
        unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
    }
    add_utf8(out, unit);
    return 0;
}

size_t json_utf8_length(const uint8_t *p, size_t left)
{
    uint8_t c = p[0];
    size_t n = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (!n || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) || (c == 0xf0 && p[1] < 0x90) ||
        (c == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

/* s->p is behind the opening quote; *out is a fresh C string */
static int parse_string(parser *s, char **out)
{
    int rc = 0;
    str text = STR_INIT;
    for (;;) {
        const char *run = s->p;
        while (s->p < s->end && (uint8_t)*s->p >= 0x20 && (uint8_t)*s->p < 0x80 && *s->p != '"' && *s->p != '\\')
            s->p++;
        str_addn(&text, run, (size_t)(s->p - run));
        if (s->p == s->end) {
            rc = fail(s, "the text ends inside a string; is the file truncated?");
            goto out;
        }
        uint8_t c = (uint8_t)*s->p;
        if (c == '"') {
            s->p++;
            break;
        }
        if (c == '\\') {
            s->p++;
            if ((rc = parse_escape(s, &text)))
                goto out;
        } else if (c < 0x20) {
            rc = fail(s, "a control character stands in a string; it must be written as an escape");
            goto out;
        } else {
            size_t n = json_utf8_length((const uint8_t *)s->p, (size_t)(s->end - s->p));
            if (!n) {
                rc = fail(s, "a string holds bytes that are not UTF-8");
                goto out;
            }
            str_addn(&text, s->p, n);
            s->p += n;
        }
    }
    *out = str_take(&text);
    if (!*out)
        rc = no_memory(s);
out:
    str_release(&text);
    return rc;
}

static bool digits(parser *s)
{
    const char *from = s->p;
    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    return s->p > from;
}

static int parse_number(parser *s, json *v)
{
    const char *from = s->p;
    bool integer = true;
    if (*s->p == '-')
        s->p++;
    if (s->p < s->end && *s->p == '0')
        s->p++;
    else if (!digits(s))
        return fail(s, "expected a digit after the minus sign");
    if (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        return fail(s, "a number must not begin with 0");
    if (s->p < s->end && *s->p == '.') {
        integer = false;
        s->p++;
        if (!digits(s))
            return fail(s, "expected a digit after the decimal point");
    }
    if (s->p < s->end && (*s->p == 'e' || *s->p == 'E')) {
        integer = false;
        s->p++;
        if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
            s->p++;
        if (!digits(s))
            return fail(s, "expected a digit in the exponent");
    }
    char small[64], *text = small;
    size_t n = (size_t)(s->p - from);
    if (n >= sizeof small && !(text = malloc(n + 1)))
        return no_memory(s);
    memcpy(text, from, n);
    text[n] = '\0';
    v->kind = JSON_NUMBER;
    v->number = strtod(text, NULL);
    if (integer) {
        errno = 0;
        v->integer = strtoll(text, NULL, 10);
        v->is_int = errno == 0;
    }
    if (text != small)
        free(text);
    if (!isfinite(v->number))
        return fail_at(s, from, ERR_FORMAT, "a number is too large for a double");
    return 0;
}

static int parse_value(parser *s, json *v, int depth);

static int parse_children(parser *s, json *v, int depth, bool object)
{
    char close = object ? '}' : ']';
    v->kind = object ? JSON_OBJECT : JSON_ARRAY;
    if (depth >= JSON_MAX_DEPTH)
        return fail(s, "more than 128 levels of nesting");
    s->p++;
    skip_space(s);
    if (s->p < s->end && *s->p == close) {
        s->p++;
        return 0;
    }
    for (;;) {
        int rc;
        char *key = NULL;
        if (object) {
            size_t at;
            const char *from = s->p;
            if (s->p == s->end || *s->p != '"')
                return fail(s, s->p == s->end ? "the text ends inside an object; is the file truncated?"
                                              : "expected a member name in quotes");
            s->p++;
            if ((rc = parse_string(s, &key)))
                return rc;
            if (member_find(v, key, &at)) {
                str what = STR_INIT;
                str_addf(&what, "the member \"%.200s\" appears twice in one object", key);
                rc = fail_at(s, from, ERR_FORMAT, str_text(&what));
                str_release(&what);
                free(key);
                return rc;
            }
            skip_space(s);
            if (s->p == s->end || *s->p != ':') {
                free(key);
                return fail(s, "expected ':' after a member name");
            }
            s->p++;
            skip_space(s);
        }
        if (!grow(v, object)) {
            free(key);
            return no_memory(s);
        }
        json *child = &v->items[v->count];
        memset(child, 0, sizeof *child);
        if (object) {
            v->keys[v->count] = key;
            v->count++;
            if (v->index)
                index_add(v, v->count - 1);
        } else {
            v->count++;
        }
        if ((rc = parse_value(s, child, depth + 1)))
            return rc;
        skip_space(s);
        if (s->p < s->end && *s->p == ',') {
            s->p++;
            skip_space(s);
            continue;
        }
        if (s->p < s->end && *s->p == close) {
            s->p++;
            return 0;
        }
        if (s->p == s->end)
            return fail(s, object ? "the text ends inside an object; is the file truncated?"
                                  : "the text ends inside an array; is the file truncated?");
        return fail(s, object ? "expected ',' or '}' after a member" : "expected ',' or ']' after an element");
    }
}

static bool word(parser *s, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, text, n))
        return false;
    s->p += n;
    return true;
}

static int parse_value(parser *s, json *v, int depth)
{
    if (s->p == s->end)
        return fail(s, "expected a value, found the end of the text");
    switch (*s->p) {
    case '{': return parse_children(s, v, depth, true);
    case '[': return parse_children(s, v, depth, false);
    case '"':
        s->p++;
        v->kind = JSON_STRING;
        return parse_string(s, &v->text);
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return parse_number(s, v);
    default: break;
    }
    if (word(s, "true")) {
        v->kind = JSON_BOOL;
        v->boolean = true;
    } else if (word(s, "false")) {
        v->kind = JSON_BOOL;
    } else if (word(s, "null")) {
        v->kind = JSON_NULL;
    } else {
        return fail(s, "expected a value: an object, array, string, number, true, false or null");
    }
    return 0;
}

int json_parse(json **out, const char *text, size_t len, const char *name, err *e)
{
    parser s = { text ? text : "", text ? text : "", text ? text + len : "", name ? name : "JSON", e };
    int rc;
    *out = NULL;
    json *doc = calloc(1, sizeof *doc);
    if (!doc)
        return no_memory(&s);
    skip_space(&s);
    rc = parse_value(&s, doc, 0);
    if (!rc) {
        skip_space(&s);
        if (s.p != s.end)
            rc = fail(&s, "unexpected characters after the end of the JSON value");
    }
    if (rc)
        json_free(doc);
    else
        *out = doc;
    return rc;
}

int json_read_file(json **out, const char *path, err *e)
{
    char *text;
    size_t len;
    *out = NULL;
    int rc = fs_read_text(&text, &len, path, e);
    if (rc)
        return rc;
    rc = json_parse(out, text, len, path, e);
    free(text);
    return rc;
}

json_kind json_type(const json *v)
{
    return v ? v->kind : JSON_NONE;
}

size_t json_count(const json *v)
{
    return v ? v->count : 0;
}

const json *json_at(const json *array, size_t i)
{
    return array && i < array->count ? &array->items[i] : NULL;
}

const char *json_key(const json *object, size_t i)
{
    return object && object->kind == JSON_OBJECT && i < object->count ? object->keys[i] : NULL;
}

const json *json_get(const json *object, const char *key)
{
    size_t at;
    return object && object->kind == JSON_OBJECT && key ? member_find(object, key, &at) : NULL;
}

bool json_int(const json *v, int64_t *out)
{
    if (!v || v->kind != JSON_NUMBER || !v->is_int)
        return false;
    *out = v->integer;
    return true;
}

double json_number(const json *v, double fallback)
{
    return v && v->kind == JSON_NUMBER ? v->number : fallback;
}

bool json_bool(const json *v, bool fallback)
{
    return v && v->kind == JSON_BOOL ? v->boolean : fallback;
}

const char *json_string(const json *v, const char *fallback)
{
    return v && v->kind == JSON_STRING ? v->text : fallback;
}

int64_t json_get_int(const json *object, const char *key, int64_t fallback)
{
    int64_t v;
    return json_int(json_get(object, key), &v) ? v : fallback;
}

double json_get_number(const json *object, const char *key, double fallback)
{
    return json_number(json_get(object, key), fallback);
}

const char *json_get_string(const json *object, const char *key, const char *fallback)
{
    return json_string(json_get(object, key), fallback);
}
