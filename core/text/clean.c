#include "core/text/clean.h"

#include <stdlib.h>
#include <string.h>

#include "core/text/unicode.h"

#define MAX_ROUNDS 64       /* ftfy repeats until nothing changes; deeper nesting of entities than this is no prompt */

const text_clean_options TEXT_CLEAN_DEFAULT = { .ftfy = false };

/* ---- HTML character references ---------------------------------------------------------------------------------- */

/* What browsers make of the numbers 0x80..0x9F: Windows-1252, with the five unassigned ones left as they are. */
static const uint16_t WINDOWS_1252[32] = {
    0x20ac, 0x81, 0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021, 0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8d, 0x017d,
    0x8f, 0x90, 0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014, 0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0x9d,
    0x017e, 0x0178,
};

/* A numeric reference: the character to write, or 0 for one that HTML drops. */
static uint32_t numeric_value(uint32_t n)
{
    if (n == 0 || (n >= 0xd800 && n <= 0xdfff) || n > 0x10ffff)
        return 0xfffd;
    if (n == 0x0d)
        return n;
    if (n >= 0x80 && n <= 0x9f)
        return WINDOWS_1252[n - 0x80];
    bool dropped = n < 9 || n == 0x0b || (n >= 0x0e && n <= 0x1f) || n == 0x7f || (n >= 0xfdd0 && n <= 0xfdef) ||
                   (n & 0xfffe) == 0xfffe;
    return dropped ? 0 : n;
}

static int digit_value(uint32_t c, int base)
{
    int d = c >= '0' && c <= '9' ? (int)c - '0' : c >= 'a' && c <= 'f' ? (int)c - 'a' + 10
          : c >= 'A' && c <= 'F' ? (int)c - 'A' + 10 : 99;
    return d < base ? d : -1;
}

/* "#65;" or "#x41" at v[0..n): points used (0: not a reference) and the number, held at 0x110000 when it is larger. */
static size_t numeric_reference(const point *v, size_t n, uint32_t *number, bool *semicolon)
{
    size_t i = 1;
    int base = 10;
    if (n < 2 || v[0].c != '#')
        return 0;
    if (v[1].c == 'x' || v[1].c == 'X') {
        base = 16;
        i = 2;
    }
    size_t first = i;
    *number = 0;
    for (int d; i < n && (d = digit_value(v[i].c, base)) >= 0; i++)
        *number = *number > 0x10ffff ? 0x110000 : *number * (uint32_t)base + (uint32_t)d;
    if (i == first)
        return 0;
    *semicolon = i < n && v[i].c == ';';
    return i + *semicolon;
}

/* The name at v[0..n) as HTML reads it: up to 32 characters other than blanks, '<', '&', '#', ';', and one ';' if
 * there. Only as far as it is ASCII, because all names are. */
static size_t reference_name(char name[34], const point *v, size_t n)
{
    size_t i = 0;
    while (i < n && i < 32 && v[i].c < 0x80 && !strchr("\t\n\f <&#;", (int)v[i].c)) {
        name[i] = (char)v[i].c;
        i++;
    }
    if (i && i < n && v[i].c == ';') {
        name[i] = ';';
        i++;
    }
    name[i] = '\0';
    return i;
}

static void add_entity(points *out, const html_entity *h, size_t begin, size_t end)
{
    points_add(out, h->first, begin, end);
    if (h->second)
        points_add(out, h->second, begin, end);
}

/* Python's html.unescape: also references without a semicolon where HTML accepts them, the longest name first. */
static void html_unescape(points *out, const point *v, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint32_t number;
        bool semicolon;
        if (v[i].c != '&') {
            points_append(out, v + i, 1);
            i++;
            continue;
        }
        size_t used = numeric_reference(v + i + 1, n - i - 1, &number, &semicolon);
        if (used) {
            uint32_t c = numeric_value(number);
            if (c)
                points_add(out, c, v[i].begin, v[i + used].end);
            i += 1 + used;
            continue;
        }
        char name[34];
        const html_entity *h = NULL;
        for (used = reference_name(name, v + i + 1, n - i - 1); used >= 2; used--)
            if ((h = html_entity_find(name, used)))
                break;
        if (h) {
            add_entity(out, h, v[i].begin, v[i + used].end);
            i += 1 + used;
        } else {
            points_append(out, v + i, 1);
            i++;
        }
    }
}

/* ---- ftfy ------------------------------------------------------------------------------------------------------- */

/* Letters inside the single-character ligatures of Latin letters. */
static const struct {
    uint32_t c;
    uint32_t letters[3];
} LIGATURES[] = {
    { 0x0132, { 'I', 'J', 0 } },    { 0x0133, { 'i', 'j', 0 } },    { 0x0149, { 0x02bc, 'n', 0 } },
    { 0x01c4, { 'D', 0x17d, 0 } },  { 0x01c5, { 'D', 0x17e, 0 } },  { 0x01c6, { 'd', 0x17e, 0 } },
    { 0x01c7, { 'L', 'J', 0 } },    { 0x01c8, { 'L', 'j', 0 } },    { 0x01c9, { 'l', 'j', 0 } },
    { 0x01ca, { 'N', 'J', 0 } },    { 0x01cb, { 'N', 'j', 0 } },    { 0x01cc, { 'n', 'j', 0 } },
    { 0x01f1, { 'D', 'Z', 0 } },    { 0x01f2, { 'D', 'z', 0 } },    { 0x01f3, { 'd', 'z', 0 } },
    { 0xfb00, { 'f', 'f', 0 } },    { 0xfb01, { 'f', 'i', 0 } },    { 0xfb02, { 'f', 'l', 0 } },
    { 0xfb03, { 'f', 'f', 'i' } },  { 0xfb04, { 'f', 'f', 'l' } },  { 0xfb05, { 0x17f, 't', 0 } },
    { 0xfb06, { 's', 't', 0 } },
};

static const uint32_t *ligature(uint32_t c)
{
    if (c < 0x132)
        return NULL;
    for (size_t i = 0; i < sizeof LIGATURES / sizeof LIGATURES[0]; i++)
        if (LIGATURES[i].c == c)
            return LIGATURES[i].letters;
    return NULL;
}

/* &EACUTE; for &eacute;: a name all in capitals whose small form has a meaning and which has none of its own. */
static bool add_capital_entity(points *out, const char *name, size_t n, size_t begin, size_t end)
{
    char small[34];
    for (size_t i = 0; i < n; i++) {
        if (name[i] >= 'a' && name[i] <= 'z')
            return false;
        small[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] + 32) : name[i];
    }
    const html_entity *h = html_entity_find(small, n);
    for (size_t k = n; h && k >= 2; k--)        /* html.unescape would already read a part of it */
        if (html_entity_find(name, k))
            return false;
    if (!h)
        return false;
    const uint32_t values[2] = { h->first, h->second };
    for (int i = 0; i < 2 && values[i]; i++) {
        const uint32_t *letters = values[i] >= 0xfb00 && values[i] <= 0xfb04 ? ligature(values[i]) : NULL;
        const unicode_triple *upper = letters ? NULL : unicode_lookup(UNICODE_UPPER, UNICODE_UPPER_COUNT, values[i]);
        for (int j = 0; letters && j < 3 && letters[j]; j++)
            points_add(out, letters[j] - 32, begin, end);
        bool small_ascii = values[i] >= 'a' && values[i] <= 'z';
        if (!letters)
            points_add(out, upper ? upper->b : small_ascii ? values[i] - 32 : values[i], begin, end);
        if (upper && upper->c)
            points_add(out, upper->c, begin, end);
    }
    return true;
}

static bool is_letter_or_digit(uint32_t c)
{
    return c < 0x80 && c != '_' && unicode_is_word(c);
}

/* ftfy's own, careful unescaping: only letters and digits between '&' and ';', at most 24 of them. */
static void ftfy_unescape(points *out, const point *v, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t used = 0;
        uint32_t number;
        bool semicolon = false;
        char name[34];
        if (v[i].c == '&') {
            const point *r = v + i + 1;
            size_t left = n - i - 1, k = 0;
            size_t hash = left && r[0].c == '#';
            while (hash + k < left && k < 24 && is_letter_or_digit(r[hash + k].c))
                k++;
            bool closed = k && hash + k < left && r[hash + k].c == ';';
            size_t begin = v[i].begin, end = closed ? r[hash + k].end : 0;
            if (closed && hash) {
                used = numeric_reference(r, left, &number, &semicolon);
                uint32_t c = used ? numeric_value(number) : 0;
                if (used != hash + k + 1 || c == ';')       /* ftfy takes a semicolon for one left over */
                    used = 0;
                if (used && c)
                    points_add(out, c, begin, end);
            } else if (closed) {
                size_t length = reference_name(name, r, left);
                const html_entity *h = html_entity_find(name, length);
                if (h)
                    add_entity(out, h, begin, end);
                if (h || add_capital_entity(out, name, length, begin, end))
                    used = length;
            }
        }
        if (used) {
            i += 1 + used;
        } else {
            points_append(out, v + i, 1);
            i++;
        }
    }
}

static bool is_dropped_control(uint32_t c)
{
    return c <= 8 || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f || (c >= 0x206a && c <= 0x206f) ||
           c == 0xfeff || (c >= 0xfff9 && c <= 0xfffc);
}

/* Points of an escape sequence such as ESC [ 3 1 m at v[0..n), or 0. */
static size_t terminal_escape(const point *v, size_t n)
{
    size_t i = 2;
    if (n < 3 || v[0].c != 0x1b || v[1].c != '[')
        return 0;
    while (i < n && ((v[i].c >= '0' && v[i].c <= '9') || v[i].c == ';'))
        i++;
    bool letter = i < n && ((v[i].c >= 'A' && v[i].c <= 'Z') || (v[i].c >= 'a' && v[i].c <= 'z'));
    return letter ? i + 1 : 0;
}

/* Replacements of one character by others, in ftfy's order: C1 controls, ligatures, widths, quotes, line breaks. */
static void ftfy_characters(points *out, const point *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t c = v[i].c;
        size_t begin = v[i].begin, end = v[i].end;
        if (c >= 0x80 && c <= 0x9f)
            c = WINDOWS_1252[c - 0x80];
        const uint32_t *letters = ligature(c);
        const unicode_triple *width = c >= 0x3000 ? unicode_lookup(UNICODE_WIDTHS, UNICODE_WIDTHS_COUNT, c) : NULL;
        if (letters) {
            for (int j = 0; j < 3 && letters[j]; j++)
                points_add(out, letters[j] == 0x2bc ? '\'' : letters[j], begin, end);
        } else if (width) {
            points_add(out, width->b, begin, end);
            if (width->c)
                points_add(out, width->c, begin, end);
        } else if (c == 0x2bc || (c >= 0x2018 && c <= 0x201b)) {
            points_add(out, '\'', begin, end);
        } else if (c >= 0x201c && c <= 0x201f) {
            points_add(out, '"', begin, end);
        } else if (c == '\r' && i + 1 < n && v[i + 1].c == '\n') {
            points_add(out, '\n', begin, v[i + 1].end);
            i++;
        } else if (c == '\r' || c == 0x2028 || c == 0x2029 || c == 0x85) {
            points_add(out, '\n', begin, end);
        } else {
            points_add(out, c, begin, end);
        }
    }
}

static void ftfy_removals(points *out, const point *v, size_t n)
{
    size_t i = 0;
    while (i < n) {
        size_t escape = terminal_escape(v + i, n - i);
        if (escape) {
            i += escape;
            continue;
        }
        points_append(out, v + i, 1);
        i++;
    }
    size_t kept = 0;
    for (i = 0; i < out->n; i++)
        if (!is_dropped_control(out->v[i].c))
            out->v[kept++] = out->v[i];
    out->n = kept;
}

static bool same_characters(const points *a, const points *b)
{
    if (a->n != b->n)
        return false;
    for (size_t i = 0; i < a->n; i++)
        if (a->v[i].c != b->v[i].c)
            return false;
    return true;
}

/* One line of text, until nothing changes any more. */
static void ftfy_line(points *out, const point *v, size_t n, bool unescape)
{
    points text = POINTS_INIT;
    points_append(&text, v, n);
    for (int round = 0; round < MAX_ROUNDS; round++) {
        points a = POINTS_INIT, b = POINTS_INIT, c = POINTS_INIT;
        if (unescape)
            ftfy_unescape(&a, text.v, text.n);
        else
            points_append(&a, text.v, text.n);
        ftfy_characters(&b, a.v, a.n);
        ftfy_removals(&c, b.v, b.n);
        points_nfc(&c);
        bool failed = a.failed || b.failed || c.failed, same = same_characters(&text, &c);
        points_release(&a);
        points_release(&b);
        points_release(&text);
        text = c;
        text.failed = failed;
        if (failed || same)
            break;
    }
    points_append(out, text.v, text.n);
    out->failed |= text.failed;
    points_release(&text);
}

/* Line by line; from the first line with a '<' on, the text is taken for HTML and keeps its entities. */
static void ftfy_text(points *out, const point *v, size_t n)
{
    bool unescape = true;
    for (size_t i = 0; i < n; ) {
        size_t end = i;
        while (end < n && v[end].c != '\n')
            end++;
        end += end < n;
        for (size_t j = i; j < end; j++)
            if (v[j].c == '<')
                unescape = false;
        ftfy_line(out, v + i, end - i, unescape);
        i = end;
    }
}

/* ---- white space, result ---------------------------------------------------------------------------------------- */

/* Strip, runs of white space to one blank: str.strip() removes four separators that the regex leaves alone. Upstream's
 * second strip finds nothing after that. */
static void collapse(points *out, const point *v, size_t n)
{
    while (n && unicode_is_strip_space(v[n - 1].c))
        n--;
    while (n && unicode_is_strip_space(v[0].c)) {
        v++;
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        if (!unicode_is_space(v[i].c)) {
            points_append(out, v + i, 1);
        } else if (out->n && out->v[out->n - 1].c == ' ') {
            out->v[out->n - 1].end = v[i].end;
        } else {
            points_add(out, ' ', v[i].begin, v[i].end);
        }
    }
}

static int build_result(text_clean_result *out, const points *p, size_t in_len, err *e)
{
    char bytes[4];
    size_t n = 0, at = 0, least = 0;
    for (size_t i = 0; i < p->n; i++)
        n += (size_t)utf8_encode(bytes, p->v[i].c);
    out->text = malloc(n + 1);
    out->origin = malloc((n + 1) * sizeof *out->origin);
    out->origin_end = malloc((n + 1) * sizeof *out->origin_end);
    if (!out->text || !out->origin || !out->origin_end) {
        text_clean_release(out);
        return ERR(e, ERR_MEMORY, "out of memory for a prompt of %zu bytes", in_len);
    }
    for (size_t i = 0; i < p->n; i++) {
        int k = utf8_encode(out->text + at, p->v[i].c);
        if (p->v[i].begin > least)          /* reordered marks may point back a little */
            least = p->v[i].begin;
        for (int j = 0; j < k; j++, at++) {
            out->origin[at] = least;
            out->origin_end[at] = p->v[i].end > least ? p->v[i].end : least;
        }
    }
    for (size_t i = at; i-- > 1; )          /* and ends must not decrease either */
        if (out->origin_end[i - 1] > out->origin_end[i])
            out->origin_end[i - 1] = out->origin_end[i];
    out->text[n] = '\0';
    out->len = n;
    out->origin[n] = out->origin_end[n] = in_len;
    return 0;
}

int text_clean(const char *in, const text_clean_options *options, text_clean_result *out, err *e)
{
    int rc;
    points a = POINTS_INIT, b = POINTS_INIT;
    size_t n = strlen(in);
    memset(out, 0, sizeof *out);
    if (n > TEXT_CLEAN_MAX_BYTES)
        return ERR(e, ERR_ARG, "the prompt has %zu bytes, expected at most %zu; the text encoder reads only its first "
                   "few hundred tokens", n, TEXT_CLEAN_MAX_BYTES);
    if ((rc = utf8_check(in, n, "the prompt", e)))
        return rc;

    points_from_utf8(&a, in, n, 0);
    if (options->ftfy) {
        ftfy_text(&b, a.v, a.n);
        b.failed |= a.failed;
        points_release(&a);
        a = b;
        b = (points)POINTS_INIT;
    }
    for (int pass = 0; pass < 2; pass++) {
        html_unescape(&b, a.v, a.n);
        b.failed |= a.failed;
        points_release(&a);
        a = b;
        b = (points)POINTS_INIT;
    }
    collapse(&b, a.v, a.n);
    if (a.failed || b.failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for a prompt of %zu bytes", n);
    else
        rc = build_result(out, &b, n, e);
    points_release(&a);
    points_release(&b);
    return rc;
}

void text_clean_release(text_clean_result *r)
{
    if (!r)
        return;
    free(r->text);
    free(r->origin);
    free(r->origin_end);
    memset(r, 0, sizeof *r);
}

void text_clean_map(const text_clean_result *r, size_t begin, size_t end, size_t *out_begin, size_t *out_end)
{
    size_t b = 0;
    while (b < r->len && r->origin_end[b] <= begin)
        b++;
    size_t stop = b;
    while (stop < r->len && r->origin[stop] < end)
        stop++;
    *out_begin = b;
    *out_end = begin < end ? stop : b;
}
