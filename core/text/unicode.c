#include "core/text/unicode.h"

#include <stdlib.h>
#include <string.h>

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------ */

int32_t utf8_decode(const char *s, const char *end, int *length)
{
    const unsigned char *u = (const unsigned char *)s;
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    *length = 1;
    if (u[0] < 0x80)
        return u[0];
    int n = u[0] >= 0xf0 && u[0] < 0xf8 ? 4 : u[0] >= 0xe0 && u[0] < 0xf0 ? 3 : u[0] >= 0xc0 && u[0] < 0xe0 ? 2 : 0;
    if (!n || end - s < n)
        return -1;
    uint32_t c = u[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return -1;
        c = c << 6 | (u[i] & 0x3f);
    }
    if (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return -1;
    *length = n;
    return (int32_t)c;
}

int utf8_encode(char out[4], uint32_t c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((0xf00u >> n & 0xff) | c);
    return n;
}

int utf8_check(const char *s, size_t n, const char *what, err *e)
{
    const char *end = s + n;
    int length;
    for (const char *p = s; p < end; p += length)
        if (utf8_decode(p, end, &length) < 0)
            return ERR(e, ERR_ARG, "%s is not UTF-8: byte 0x%02X at offset %zu (of %zu) does not begin or continue a "
                       "character; save the text as UTF-8", what, (unsigned char)*p, (size_t)(p - s), n);
    return 0;
}

/* ---- rows of points --------------------------------------------------------------------------------------------- */

static bool points_reserve(points *p, size_t more)
{
    if (p->failed)
        return false;
    if (p->cap - p->n >= more)
        return true;
    size_t cap = p->cap ? p->cap : 64;
    while (cap - p->n < more) {
        if (cap > SIZE_MAX / 2 / sizeof(point)) {
            p->failed = true;
            return false;
        }
        cap *= 2;
    }
    point *v = realloc(p->v, cap * sizeof *v);
    if (!v) {
        p->failed = true;
        return false;
    }
    p->v = v;
    p->cap = cap;
    return true;
}

void points_add(points *p, uint32_t c, size_t begin, size_t end)
{
    if (points_reserve(p, 1))
        p->v[p->n++] = (point) { c, begin, end };
}

void points_append(points *p, const point *v, size_t n)
{
    if (n && points_reserve(p, n)) {
        memcpy(p->v + p->n, v, n * sizeof *v);
        p->n += n;
    }
}

void points_release(points *p)
{
    free(p->v);
    *p = (points)POINTS_INIT;
}

void points_from_utf8(points *p, const char *s, size_t n, size_t base)
{
    int length;
    for (size_t i = 0; i < n; i += (size_t)length) {
        int32_t c = utf8_decode(s + i, s + n, &length);
        points_add(p, c < 0 ? 0xfffd : (uint32_t)c, base + i, base + i + (size_t)length);
    }
}

/* ---- properties ------------------------------------------------------------------------------------------------- */

bool unicode_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
           c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool unicode_is_strip_space(uint32_t c)
{
    return unicode_is_space(c) || (c >= 0x1c && c <= 0x1f);
}

bool unicode_is_word(uint32_t c)
{
    if (c < 0x80)
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
    if (c < 0xc0)
        return c == 0xaa || c == 0xb5 || c == 0xba;
    if (c == 0xd7 || c == 0xf7 || unicode_is_space(c))
        return false;
    return !((c >= 0x2000 && c <= 0x206f) || (c >= 0x2190 && c <= 0x2bff) || (c >= 0x3001 && c <= 0x3003) ||
             (c >= 0x3008 && c <= 0x3020) || (c >= 0xff01 && c <= 0xff0f) || (c >= 0x1f000 && c <= 0x1faff));
}

const unicode_triple *unicode_lookup(const unicode_triple *table, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table[middle].a < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && table[low].a == c ? &table[low] : NULL;
}

/* The third field of the range that holds c, or 0. */
static uint32_t range_value(const unicode_triple *table, size_t n, uint32_t c)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (table[middle].b < c)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && table[low].a <= c ? table[low].c : 0;
}

bool unicode_extends(uint32_t c)
{
    return c >= 0x300 && range_value(UNICODE_EXTENDERS, UNICODE_EXTENDERS_COUNT, c);
}

const html_entity *html_entity_find(const char *name, size_t n)
{
    size_t low = 0, high = HTML_ENTITIES_COUNT;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const char *have = HTML_ENTITIES[middle].name;
        int order = strncmp(have, name, n);
        if (order == 0 && have[n])
            order = 1;
        if (order == 0)
            return &HTML_ENTITIES[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* ---- NFC -------------------------------------------------------------------------------------------------------- */

enum { HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7, N_L = 19, N_V = 21, N_T = 28 };

static int combining_class(uint32_t c)
{
    return c < 0x300 ? 0 : (int)range_value(UNICODE_CLASSES, UNICODE_CLASSES_COUNT, c);
}

/* Canonical decompositions nest at most four deep. */
static void decompose(points *out, point p)
{
    if (p.c >= HANGUL_S && p.c < HANGUL_S + N_L * N_V * N_T) {
        uint32_t s = p.c - HANGUL_S;
        points_add(out, HANGUL_L + s / (N_V * N_T), p.begin, p.end);
        points_add(out, HANGUL_V + s / N_T % N_V, p.begin, p.end);
        if (s % N_T)
            points_add(out, HANGUL_T + s % N_T, p.begin, p.end);
        return;
    }
    const unicode_triple *d = NULL;
    if (p.c >= 0xc0)
        d = unicode_lookup(UNICODE_DECOMPOSITIONS, UNICODE_DECOMPOSITIONS_COUNT, p.c);
    if (!d) {
        points_add(out, p.c, p.begin, p.end);
        return;
    }
    decompose(out, (point) { d->b, p.begin, p.end });
    if (d->c)
        points_add(out, d->c, p.begin, p.end);
}

static uint32_t compose(uint32_t a, uint32_t b)
{
    if (a >= HANGUL_L && a < HANGUL_L + N_L && b >= HANGUL_V && b < HANGUL_V + N_V)
        return HANGUL_S + ((a - HANGUL_L) * N_V + (b - HANGUL_V)) * N_T;
    if (a >= HANGUL_S && a < HANGUL_S + N_L * N_V * N_T && (a - HANGUL_S) % N_T == 0 && b > HANGUL_T &&
        b < HANGUL_T + N_T)
        return a + (b - HANGUL_T);
    size_t low = 0, high = UNICODE_COMPOSITIONS_COUNT;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const unicode_triple *t = &UNICODE_COMPOSITIONS[middle];
        if (t->a < a || (t->a == a && t->b < b))
            low = middle + 1;
        else
            high = middle;
    }
    const unicode_triple *t = &UNICODE_COMPOSITIONS[low];
    return low < UNICODE_COMPOSITIONS_COUNT && t->a == a && t->b == b ? t->c : 0;
}

/* What carries a combining class on its way through the sort below. */
typedef struct classed {
    point p;
    int class;
} classed;

/* Stable: marks of one class keep their order. Bottom-up merging, so that a long run of marks costs n log n. */
static void sort_marks(classed *v, classed *spare, size_t n)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t i = 0; i < n; i += 2 * width) {
            size_t middle = i + width < n ? i + width : n, end = i + 2 * width < n ? i + 2 * width : n;
            size_t a = i, b = middle;
            for (size_t k = i; k < end; k++)
                spare[k] = a < middle && (b >= end || v[a].class <= v[b].class) ? v[a++] : v[b++];
        }
        memcpy(v, spare, n * sizeof *v);
    }
}

static bool reorder(points *p)
{
    classed *v = malloc(2 * (p->n + 1) * sizeof *v);
    if (!v)
        return false;
    for (size_t i = 0; i < p->n; i++)
        v[i] = (classed) { p->v[i], combining_class(p->v[i].c) };
    for (size_t i = 0; i < p->n; ) {
        size_t end = i + 1;
        if (v[i].class) {
            while (end < p->n && v[end].class)
                end++;
            if (end - i > 1)
                sort_marks(v + i, v + p->n, end - i);
        }
        i = end;
    }
    for (size_t i = 0; i < p->n; i++)
        p->v[i] = v[i].p;
    free(v);
    return true;
}

void points_nfc(points *p)
{
    bool plain = true;
    for (size_t i = 0; i < p->n && plain; i++)
        plain = p->v[i].c < 0x300;
    if (plain)
        return;

    points d = POINTS_INIT;
    for (size_t i = 0; i < p->n; i++)
        decompose(&d, p->v[i]);
    if (d.failed || !reorder(&d)) {
        p->failed = true;
        points_release(&d);
        return;
    }

    size_t n = 0, starter = SIZE_MAX;       /* n points kept so far; where the last starter lies among them */
    int last = 0;                           /* class of the last point kept after the starter */
    for (size_t i = 0; i < d.n; i++) {
        int class = combining_class(d.v[i].c);
        bool blocked = starter == SIZE_MAX || (starter != n - 1 && (last == 0 || last >= class));
        uint32_t c = blocked ? 0 : compose(d.v[starter].c, d.v[i].c);
        if (c) {
            point *s = &d.v[starter];
            s->c = c;
            if (d.v[i].begin < s->begin)
                s->begin = d.v[i].begin;
            if (d.v[i].end > s->end)
                s->end = d.v[i].end;
            continue;
        }
        if (class == 0)
            starter = n;
        last = class;
        d.v[n++] = d.v[i];
    }
    d.n = n;
    points_release(p);
    *p = d;
}
