#include "core/text/vocab.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/text/unicode.h"

#define UNKNOWN_PENALTY 10.0

int vocab_add(vocab *v, const char *text, size_t len, double score, piece_kind kind, const char *where, err *e)
{
    err why = { 0 };
    if (len == 0 || len > VOCAB_MAX_PIECE_BYTES || memchr(text, 0, len))
        return ERR(e, ERR_FORMAT, "%s: piece %zu has %zu bytes%s, expected 1 to %d without a zero byte; the file is "
                   "damaged",
                   where, v->n, len, len && memchr(text, 0, len) ? ", one of them zero" : "", VOCAB_MAX_PIECE_BYTES);
    if (utf8_check(text, len, "it", &why))
        return ERR(e, ERR_FORMAT, "%s: piece %zu is damaged: %s", where, v->n, why.text);
    if (!isfinite(score))
        return ERR(e, ERR_FORMAT, "%s: piece %zu ('%.*s') has the score %g, expected a finite number", where, v->n,
                   (int)(len < 64 ? len : 64), text, score);
    if (v->n >= INT32_MAX / 2)
        return ERR(e, ERR_FORMAT, "%s: more than %d pieces", where, INT32_MAX / 2);
    if (v->n == v->cap) {
        size_t cap = v->cap ? v->cap * 2 : 1024;
        vocab_piece *p = realloc(v->pieces, cap * sizeof *p);
        if (!p)
            return ERR(e, ERR_MEMORY, "%s: out of memory for %zu pieces", where, cap);
        v->pieces = p;
        v->cap = cap;
    }
    char *copy = str_dupn(text, len);
    if (!copy)
        return ERR(e, ERR_MEMORY, "%s: out of memory for %zu pieces", where, v->n);
    v->pieces[v->n++] = (vocab_piece) { copy, len, score, kind };
    return 0;
}

static int compare_bytes(const char *a, size_t na, const char *b, size_t nb)
{
    int order = memcmp(a, b, na < nb ? na : nb);
    return order ? order : na < nb ? -1 : na > nb;
}

static int by_text(const void *a, const void *b, void *arg)
{
    const vocab *v = arg;
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    int order = compare_bytes(v->pieces[i].text, v->pieces[i].len, v->pieces[j].text, v->pieces[j].len);
    return order ? order : i < j ? -1 : i > j;
}

int vocab_finish(vocab *v, const char *where, err *e)
{
    bool first = true;
    v->max_score = (double)FLT_MIN;        /* sentencepiece's starting value, above every log probability */
    if (!v->n)
        return ERR(e, ERR_FORMAT, "%s: the vocabulary is empty", where);
    v->sorted = malloc(v->n * sizeof *v->sorted);
    if (!v->sorted)
        return ERR(e, ERR_MEMORY, "%s: out of memory for %zu pieces", where, v->n);
    for (size_t i = 0; i < v->n; i++) {
        v->sorted[i] = (int32_t)i;
        if (v->pieces[i].kind != PIECE_NORMAL)
            continue;
        double s = v->pieces[i].score;
        v->min_score = first || s < v->min_score ? s : v->min_score;
        v->max_score = s > v->max_score ? s : v->max_score;
        first = false;
    }
    qsort_r(v->sorted, v->n, sizeof *v->sorted, by_text, v);
    for (size_t i = 1; i < v->n; i++) {
        const vocab_piece *a = &v->pieces[v->sorted[i - 1]], *b = &v->pieces[v->sorted[i]];
        if (compare_bytes(a->text, a->len, b->text, b->len) == 0)
            return ERR(e, ERR_FORMAT, "%s: pieces %d and %d are the same ('%.64s'), expected each piece once", where,
                       v->sorted[i - 1], v->sorted[i], a->text);
    }
    return 0;
}

void vocab_release(vocab *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->pieces[i].text);
    free(v->pieces);
    free(v->sorted);
    memset(v, 0, sizeof *v);
}

int32_t vocab_find(const vocab *v, const char *text, size_t len)
{
    size_t low = 0, high = v->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const vocab_piece *p = &v->pieces[v->sorted[middle]];
        if (compare_bytes(p->text, p->len, text, len) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == v->n)
        return -1;
    const vocab_piece *p = &v->pieces[v->sorted[low]];
    return p->len == len && memcmp(p->text, text, len) == 0 ? v->sorted[low] : -1;
}

/* Narrows sorted[*low, *high), whose pieces agree in their first `at` bytes, to those with byte c there. */
static void narrow(const vocab *v, size_t at, unsigned char c, size_t *low, size_t *high)
{
    size_t bounds[2];
    for (int upper = 0; upper < 2; upper++) {
        size_t a = *low, b = *high;
        while (a < b) {
            size_t middle = a + (b - a) / 2;
            const vocab_piece *p = &v->pieces[v->sorted[middle]];
            int have = p->len > at ? (unsigned char)p->text[at] : -1;
            if (have < c + upper)
                a = middle + 1;
            else
                b = middle;
        }
        bounds[upper] = a;
    }
    *low = bounds[0];
    *high = bounds[1];
}

/* The best way to reach a byte position. */
typedef struct node {
    double score;
    size_t start;
    int32_t id;
    bool reached;
} node;

static void relax(node *target, double score, size_t start, int32_t id, bool f32)
{
    if (target->reached && !(score > target->score))
        return;
    *target = (node) { f32 ? (double)(float)score : score, start, id, true };
}

static bool can_match(const vocab_piece *p, vocab_rules rules)
{
    return rules == VOCAB_F64_ALL || p->kind == PIECE_NORMAL || p->kind == PIECE_USER;
}

static int fill(const vocab *v, vocab_rules rules, const char *text, size_t n, node *best, err *e)
{
    bool f32 = rules == VOCAB_F32_KINDS;
    double unknown = v->min_score - UNKNOWN_PENALTY;
    if (f32)
        unknown = (double)(float)unknown;
    best[0].reached = true;
    for (size_t start = 0; start < n; ) {
        int length;
        bool single = false;
        double here = best[start].score;
        utf8_decode(text + start, text + n, &length);
        size_t low = 0, high = v->n;
        for (size_t at = 0; start + at < n; at++) {
            narrow(v, at, (unsigned char)text[start + at], &low, &high);
            if (low == high)
                break;
            int32_t id = v->sorted[low];
            const vocab_piece *p = &v->pieces[id];
            if (p->len != at + 1 || !can_match(p, rules))
                continue;
            double score = p->score;
            if (f32 && p->kind == PIECE_USER)       /* always preferred */
                score = (double)((float)(at + 1) * (float)v->max_score) - 0.1;
            relax(&best[start + at + 1], score + here, start, id, f32);
            single |= at + 1 == (size_t)length;
        }
        if (!single) {
            double score = unknown + here;
            if (v->unk < 0)
                return ERR(e, ERR_FORMAT, "the vocabulary has neither a piece for '%.*s' nor an unknown piece", length,
                           text + start);
            relax(&best[start + (size_t)length], f32 ? (double)(float)score : score, start, v->unk, f32);
        }
        start += (size_t)length;
    }
    return 0;
}

int vocab_segment(const vocab *v, vocab_rules rules, const char *text, size_t n, vocab_cut **cuts, size_t *n_cuts,
                  err *e)
{
    int rc = 0;
    *cuts = NULL;
    *n_cuts = 0;
    if (!n)
        return 0;
    node *best = calloc(n + 1, sizeof *best);
    if (!best)
        return ERR(e, ERR_MEMORY, "out of memory for a text of %zu bytes", n);
    if ((rc = fill(v, rules, text, n, best, e)))
        goto out;
    size_t count = 0;
    for (size_t end = n; end; end = best[end].start)
        count++;
    *cuts = malloc(count * sizeof **cuts);
    if (!*cuts) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a text of %zu bytes", n);
        goto out;
    }
    *n_cuts = count;
    for (size_t end = n; end; end = best[end].start)
        (*cuts)[--count] = (vocab_cut) { best[end].id, best[end].start, end };
out:
    free(best);
    return rc;
}
