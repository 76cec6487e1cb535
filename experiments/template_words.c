/* What a variation's marks point at, and variations that say the same. */
#include <stdlib.h>
#include <string.h>

#include "core/base/sha256.h"
#include "experiments/template.h"

/* ---- words ---- */

/* Could the characters at these two neighbouring bytes belong to one word? Letters and digits of ASCII and letters of
 * alphabets outside of it do; scripts written without blanks (from U+2E80 on, lead byte 0xE2 0xBA) do not. */
static bool is_word_byte(const char *s, size_t len, size_t at)
{
    unsigned char c = (unsigned char)s[at];
    if (c < 0x80)
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    while (at > 0 && ((unsigned char)s[at] & 0xc0) == 0x80)
        at--;
    c = (unsigned char)s[at];
    if (c == 0xe2)   /* U+2000-U+2FFF: punctuation and symbols, then radicals */
        return false;
    return c < 0xe3 && at + 1 < len;
}

static bool whole_word(const char *s, size_t len, size_t begin, size_t end)
{
    if (begin > 0 && is_word_byte(s, len, begin - 1) && is_word_byte(s, len, begin))
        return false;
    return end >= len || !is_word_byte(s, len, end - 1) || !is_word_byte(s, len, end);
}

static int add_place(variation_word *w, size_t begin, size_t end)
{
    if ((w->n_places & (w->n_places - 1)) == 0) {
        size_t cap = w->n_places ? (size_t)w->n_places * 2 : 1;
        void *more = realloc(w->places, cap * sizeof *w->places);
        if (!more)
            return ERR_MEMORY;
        w->places = more;
    }
    w->places[w->n_places][0] = begin;
    w->places[w->n_places++][1] = end;
    return 0;
}

int variation_words(const variation *v, variation_word **out, int *n, err *e)
{
    variation_word *words = calloc((size_t)v->n_spans + 1, sizeof *words);
    int count = 0, rc = words ? 0 : ERR_MEMORY;
    size_t len = strlen(v->clean);
    for (int i = 0; !rc && i < v->n_spans; i++) {
        const char *word = v->spans[i].word;
        size_t word_len = strlen(word);
        int k = 0;
        while (k < count && strcmp(words[k].text, word))
            k++;
        if (k < count)
            continue;
        if (!(words[count].text = str_dup(word))) {
            rc = ERR_MEMORY;
            break;
        }
        variation_word *w = &words[count++];
        for (size_t at = 0; !rc && at + word_len <= len;) {
            const char *hit = strstr(v->clean + at, word);
            if (!hit)
                break;
            size_t begin = (size_t)(hit - v->clean), end = begin + word_len;
            bool marked = false;
            for (int s = 0; s < v->n_spans && v->spans[s].begin <= begin; s++)
                marked = marked || (v->spans[s].begin == begin && v->spans[s].end == end);
            if (marked || whole_word(v->clean, len, begin, end)) {
                rc = add_place(w, begin, end);
                at = end;
            } else {
                at = begin + 1;
            }
        }
    }
    if (rc) {
        variation_words_free(words, count);
        return ERR(e, rc, "out of memory for the marked words of a variation");
    }
    *out = words;
    *n = count;
    return 0;
}

void variation_words_free(variation_word *words, int n)
{
    for (int i = 0; words && i < n; i++) {
        free(words[i].text);
        free(words[i].places);
    }
    free(words);
}

/* ---- duplicates ---- */

typedef struct entry {
    uint64_t hash[2];        /* both 0: free */
    uint64_t number;
} entry;

struct duplicate_finder {
    entry *table;            /* open addressing, power of two, at most half full */
    size_t size, used;
};

int duplicate_finder_new(duplicate_finder **out, err *e)
{
    duplicate_finder *d = calloc(1, sizeof *d);
    *out = d;
    return d ? 0 : ERR(e, ERR_MEMORY, "out of memory for the search for duplicates");
}

void duplicate_finder_free(duplicate_finder *d)
{
    if (d)
        free(d->table);
    free(d);
}

static entry *slot_of(entry *table, size_t size, const uint64_t hash[2])
{
    size_t i = (size_t)hash[0] & (size - 1);
    while ((table[i].hash[0] || table[i].hash[1]) && (table[i].hash[0] != hash[0] || table[i].hash[1] != hash[1]))
        i = (i + 1) & (size - 1);
    return &table[i];
}

/* 128 bits of the SHA-256 of the marked text with runs of blanks as one: two different texts do not meet. */
static void hash_text(const char *text, uint64_t hash[2])
{
    char hex[65], part[17];
    sha256 s;
    sha256_init(&s);
    bool blank = false, begun = false;
    for (; *text; text++) {
        if (*text == ' ' || (*text >= '\t' && *text <= '\r')) {
            blank = true;
            continue;
        }
        if (blank && begun)
            sha256_add(&s, " ", 1);
        sha256_add(&s, text, 1);
        blank = false;
        begun = true;
    }
    sha256_hex(&s, hex);
    for (int i = 0; i < 2; i++) {
        memcpy(part, hex + 16 * i, 16);
        part[16] = 0;
        hash[i] = strtoull(part, NULL, 16);
    }
}

int duplicate_finder_add(duplicate_finder *d, const variation *v, uint64_t *earlier, err *e)
{
    uint64_t hash[2];
    *earlier = UINT64_MAX;
    if (2 * (d->used + 1) > d->size) {
        size_t size = d->size ? d->size * 2 : 64;
        entry *table = calloc(size, sizeof *table);
        if (!table)
            return ERR(e, ERR_MEMORY, "out of memory for the search for duplicates among %zu variations", d->used);
        for (size_t i = 0; i < d->size; i++)
            if (d->table[i].hash[0] || d->table[i].hash[1])
                *slot_of(table, size, d->table[i].hash) = d->table[i];
        free(d->table);
        d->table = table;
        d->size = size;
    }
    hash_text(v->marked, hash);
    entry *slot = slot_of(d->table, d->size, hash);
    if (slot->hash[0] || slot->hash[1]) {
        *earlier = slot->number;
        return 0;
    }
    *slot = (entry){ { hash[0], hash[1] }, v->number };
    d->used++;
    return 0;
}

int template_describe_duplicate(const prompt_template *t, uint64_t a, uint64_t b, str *out, err *e)
{
    variation va = { 0 }, vb = { 0 };
    int rc = template_variation(t, a, &va, e);
    if (!rc)
        rc = template_variation(t, b, &vb, e);
    if (!rc) {
        str_addf(out, "variations %llu and %llu have the same text \"%.200s%s\": %llu is (", (unsigned long long)a,
                 (unsigned long long)b, va.marked, strlen(va.marked) > 200 ? "..." : "", (unsigned long long)a);
        variation_describe(&va, out);
        str_addf(out, "), %llu is (", (unsigned long long)b);
        variation_describe(&vb, out);
        str_add(out, ")");
    }
    variation_release(&va);
    variation_release(&vb);
    return rc;
}
