#include "core/text/charsmap.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/unicode.h"

struct charsmap {
    uint32_t *units;
    size_t n_units;
    char *texts;            /* ends with NUL */
    size_t texts_bytes;
};

static bool unit_has_leaf(uint32_t u)
{
    return u >> 8 & 1;
}

static uint32_t unit_value(uint32_t u)
{
    return u & 0x7fffffffu;
}

static uint32_t unit_label(uint32_t u)
{
    return u & (0x80000000u | 0xff);        /* a leaf's top bit keeps it from matching any byte */
}

static uint32_t unit_offset(uint32_t u)
{
    return (u >> 10) << ((u & 0x200u) >> 6);
}

static uint32_t read_u32(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* Every step from a unit lands in the array and every leaf points at a text. */
static int check(const charsmap *m, const char *where, err *e)
{
    for (size_t i = 0; i < m->n_units; i++) {
        uint32_t u = m->units[i];
        if (u >> 31) {
            if (unit_value(u) >= m->texts_bytes)
                return ERR(e, ERR_FORMAT, "%s: entry %zu of the character map points at text %u, expected less than "
                           "%zu; the file is damaged", where, i, unit_value(u), m->texts_bytes);
        } else if (((i ^ unit_offset(u)) | 0xff) >= m->n_units) {
            return ERR(e, ERR_FORMAT, "%s: entry %zu of the character map leads to entry %zu, expected less than %zu; "
                       "the file is damaged", where, i, (size_t)((i ^ unit_offset(u)) | 0xff), m->n_units);
        } else if (unit_has_leaf(u) && !(m->units[i ^ unit_offset(u)] >> 31)) {
            return ERR(e, ERR_FORMAT, "%s: entry %zu of the character map promises a replacement that is not there; "
                       "the file is damaged", where, i);
        }
    }
    return utf8_check(m->texts, m->texts_bytes, where, e) ? ERR_FORMAT : 0;
}

int charsmap_open(charsmap **out, const void *blob, size_t n, const char *where, err *e)
{
    const uint8_t *b = blob;
    int rc = 0;
    *out = NULL;
    size_t trie = n >= 4 ? read_u32(b) : 0;
    if (n < 4 || trie < 1024 || trie % 4 || trie >= n - 4 || b[n - 1])
        return ERR(e, ERR_FORMAT, "%s: a character map of %zu bytes with a trie of %zu bytes is impossible, expected a "
                   "trie of at least 1024 bytes, a multiple of 4, followed by texts that end with a zero byte; the "
                   "file is damaged",
                   where, n, trie);
    charsmap *m = calloc(1, sizeof *m);
    if (m) {
        m->n_units = trie / 4;
        m->texts_bytes = n - 4 - trie;
        m->units = malloc(trie);
        m->texts = malloc(m->texts_bytes);
    }
    if (!m || !m->units || !m->texts) {
        charsmap_free(m);
        return ERR(e, ERR_MEMORY, "%s: out of memory for a character map of %zu bytes", where, n);
    }
    for (size_t i = 0; i < m->n_units; i++)
        m->units[i] = read_u32(b + 4 + 4 * i);
    memcpy(m->texts, b + 4 + trie, m->texts_bytes);
    if ((rc = check(m, where, e))) {
        charsmap_free(m);
        return rc;
    }
    *out = m;
    return 0;
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int charsmap_open_base64(charsmap **out, const char *text, const char *where, err *e)
{
    size_t n = strlen(text), bytes = 0;
    uint32_t bits = 0;
    int have = 0;
    *out = NULL;
    while (n && text[n - 1] == '=')
        n--;
    uint8_t *blob = malloc(n / 4 * 3 + 3);
    if (!blob)
        return ERR(e, ERR_MEMORY, "%s: out of memory for a character map", where);
    for (size_t i = 0; i < n; i++) {
        int v = base64_value(text[i]);
        if (v < 0) {
            free(blob);
            return ERR(e, ERR_FORMAT, "%s: the character map is not base64: byte 0x%02X at offset %zu", where,
                       (unsigned char)text[i], i);
        }
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have >= 8) {
            have -= 8;
            blob[bytes++] = (uint8_t)(bits >> have);
        }
    }
    int rc = charsmap_open(out, blob, bytes, where, e);
    free(blob);
    return rc;
}

void charsmap_free(charsmap *m)
{
    if (!m)
        return;
    free(m->units);
    free(m->texts);
    free(m);
}

static const char *walk(const charsmap *m, const char *text, size_t n, size_t *used, bool shortest)
{
    const char *found = NULL;
    size_t at = unit_offset(m->units[0]);
    for (size_t i = 0; i < n; i++) {
        uint32_t c = (unsigned char)text[i];
        at ^= c;
        uint32_t u = m->units[at];
        if (c == 0 || unit_label(u) != c)
            break;
        at ^= unit_offset(u);
        if (unit_has_leaf(u)) {
            found = m->texts + unit_value(m->units[at]);
            *used = i + 1;
            if (shortest)
                break;
        }
    }
    return found;
}

const char *charsmap_longest(const charsmap *m, const char *text, size_t n, size_t *used)
{
    return walk(m, text, n, used, false);
}

const char *charsmap_shortest(const charsmap *m, const char *text, size_t n)
{
    size_t used;
    return walk(m, text, n, &used, true);
}
