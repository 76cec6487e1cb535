/* The two ways a tokenizer rewrites text before cutting it into pieces: sentencepiece's own (spiece.model) and the
 * steps of tokenizer.json. Points keep the bytes they came from, by the conventions of the fast tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "core/text/tokenizer_internal.h"

static int out_of_memory(size_t n, err *e)
{
    return ERR(e, ERR_MEMORY, "out of memory for a text of %zu bytes", n);
}

int points_to_utf8(char **text, size_t *n, size_t **starts, const point *v, size_t n_points, err *e)
{
    char *bytes = malloc(n_points * 4 + 1);
    size_t *at = malloc((n_points + 1) * sizeof *at);
    if (!bytes || !at) {
        free(bytes);
        free(at);
        return out_of_memory(n_points, e);
    }
    *n = 0;
    for (size_t i = 0; i < n_points; i++) {
        at[i] = *n;
        *n += (size_t)utf8_encode(bytes + *n, v[i].c);
    }
    at[n_points] = *n;
    bytes[*n] = '\0';
    *text = bytes;
    *starts = at;
    return 0;
}

/* ---- spiece.model ----------------------------------------------------------------------------------------------- */

/* What one match of the map becomes; blanks follow the rule "none after a blank". */
static void add_spiece_char(points *out, const tokenizer *t, uint32_t c, size_t begin, size_t end, bool *after_blank)
{
    bool blank = c == ' ';
    if (blank && *after_blank) {
        point *last = out->n ? &out->v[out->n - 1] : NULL;
        if (last && (last->c == BLANK || last->c == ' ')) {     /* the last blank of a run is the one that counts */
            last->begin = begin;
            last->end = end;
        }
        return;
    }
    points_add(out, blank && t->escape_whitespaces ? BLANK : c, begin, end);
    *after_blank = blank && t->remove_extra_whitespaces;
}

int normalise_spiece(points *out, const tokenizer *t, const char *text, size_t begin, size_t end, err *e)
{
    bool after_blank = t->remove_extra_whitespaces, any = false;
    uint32_t blank = t->escape_whitespaces ? BLANK : ' ';
    points p = POINTS_INIT;
    size_t lead = SIZE_MAX, lead_end = 0;       /* the last blank stripped from the front */
    for (size_t i = begin; i < end; ) {
        size_t used = 0;
        int length;
        const char *r = t->map ? charsmap_longest(t->map, text + i, end - i, &used) : NULL;
        if (!r) {
            int32_t c = utf8_decode(text + i, text + end, &length);
            used = (size_t)length;
            if (c == ' ' && !any && t->remove_extra_whitespaces) {
                lead = i;
                lead_end = i + used;
            }
            any |= c != ' ';
            add_spiece_char(&p, t, (uint32_t)c, i, i + used, &after_blank);
        } else {
            size_t n = strlen(r);
            for (size_t k = 0; k < n; k += (size_t)length) {
                int32_t c = utf8_decode(r + k, r + n, &length);
                if (c == ' ' && !any && t->remove_extra_whitespaces) {
                    lead = i;
                    lead_end = i + used;
                }
                any |= c != ' ';
                add_spiece_char(&p, t, (uint32_t)c, i, i + used, &after_blank);
            }
        }
        i += used;
    }
    if (t->remove_extra_whitespaces)
        while (p.n && p.v[p.n - 1].c == blank)
            p.n--;
    if (p.n && t->add_dummy_prefix)
        points_add(out, blank, lead == SIZE_MAX ? p.v[0].begin : lead, lead == SIZE_MAX ? p.v[0].end : lead_end);
    points_append(out, p.v, p.n);
    bool failed = p.failed || out->failed;
    points_release(&p);
    return failed ? out_of_memory(end - begin, e) : 0;
}

/* ---- tokenizer.json --------------------------------------------------------------------------------------------- */

/* A character of the new text and how it changes the count: 1 inserted, 0 in place of one, -k in place of 1 + k. */
typedef struct change {
    uint32_t c;
    int64_t count;
} change;

typedef struct changes {
    change *v;
    size_t n, cap;
    bool failed;
} changes;

static void changes_add(changes *h, uint32_t c, int64_t count)
{
    if (h->n == h->cap && !h->failed) {
        size_t cap = h->cap ? h->cap * 2 : 64;
        change *v = realloc(h->v, cap * sizeof *v);
        if (v) {
            h->v = v;
            h->cap = cap;
        } else {
            h->failed = true;
        }
    }
    if (!h->failed)
        h->v[h->n++] = (change) { c, count };
}

/* n_old characters become the text r: surplus new ones are insertions, missing ones are charged to the last one written
 * (which may belong to the text before; the fast tokenizer does the same, and its offsets follow from it). */
static void changes_replace(changes *h, size_t n_old, const char *r)
{
    size_t n = strlen(r), count = 0;
    int length;
    for (size_t k = 0; k < n; k += (size_t)length) {
        uint32_t c = (uint32_t)utf8_decode(r + k, r + n, &length);
        changes_add(h, c, count < n_old ? 0 : 1);
        count++;
    }
    if (count < n_old && h->n)
        h->v[h->n - 1].count -= (int64_t)(n_old - count);
}

/* Where the fast tokenizer says each new character came from. */
static void changes_apply(points *out, const changes *h, const points *old)
{
    size_t at = 0;
    for (size_t i = 0; i < h->n; i++) {
        bool inserted = h->v[i].count > 0;
        size_t from = inserted && at ? at - 1 : at;
        const point *source = &old->v[from < old->n ? from : old->n - 1];
        points_add(out, h->v[i].c, source->begin, source->end);
        if (!inserted)
            at += 1 + (size_t)-h->v[i].count;
    }
    out->failed |= h->failed;
}

static bool is_control(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0xad || c == 0x200b || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff0 && c <= 0xfffb);
}

/* Hugging Face looks up whole user-visible characters of fewer than six bytes first, by their shortest match, and then
 * single code points. */
static void apply_charsmap(points *out, const charsmap *m, const points *in)
{
    changes h = { NULL, 0, 0, false };
    for (size_t i = 0; i < in->n; ) {
        char bytes[8];
        size_t end = i + 1, n = (size_t)utf8_encode(bytes, in->v[i].c);
        if (in->v[i].c == '\r' && end < in->n && in->v[end].c == '\n') {
            end++;
            bytes[n++] = '\n';
        } else if (!is_control(in->v[i].c)) {
            for (; end < in->n && unicode_extends(in->v[end].c); end++) {
                char more[4];
                size_t k = (size_t)utf8_encode(more, in->v[end].c);
                if (n < 6 && n + k < 6)
                    memcpy(bytes + n, more, k);
                n += k;
            }
        }
        const char *r = n < 6 ? charsmap_shortest(m, bytes, n) : NULL;
        if (r) {
            changes_replace(&h, end - i, r);
            i = end;
            continue;
        }
        for (; i < end; i++) {
            n = (size_t)utf8_encode(bytes, in->v[i].c);
            if ((r = charsmap_shortest(m, bytes, n)))
                changes_replace(&h, 1, r);
            else
                changes_add(&h, in->v[i].c, 0);
        }
    }
    changes_apply(out, &h, in);
    free(h.v);
}

/* Length in points of a match of the step's pattern at p->v[i]. */
static size_t match(const norm_step *s, const points *p, size_t i)
{
    size_t n = 0;
    if (s->literal.n) {
        while (n < s->literal.n && i + n < p->n && p->v[i + n].c == s->literal.v[n].c)
            n++;
        return n == s->literal.n ? n : 0;
    }
    while (i + n < p->n && (s->repeated ? p->v[i + n].c == s->repeated : unicode_is_space(p->v[i + n].c)))
        n++;
    return n >= s->least ? n : 0;
}

static void apply_replace(points *out, const norm_step *s, const points *in)
{
    for (size_t i = 0; i < in->n; ) {
        size_t n = match(s, in, i);
        if (!n) {
            points_append(out, in->v + i, 1);
            i++;
            continue;
        }
        i += n;
        for (size_t k = 0; k < s->content.n; k++)      /* stands where the last replaced character stood */
            points_add(out, s->content.v[k].c, in->v[i - 1].begin, in->v[i - 1].end);
    }
}

static void apply_strip(points *out, const norm_step *s, const points *in)
{
    size_t begin = 0, end = in->n;
    while (s->left && begin < end && unicode_is_space(in->v[begin].c))
        begin++;
    while (s->right && end > begin && unicode_is_space(in->v[end - 1].c))
        end--;
    points_append(out, in->v + begin, end - begin);
}

static void apply_step(points *out, const norm_step *s, points *in)
{
    switch (s->kind) {
    case NORM_CHARSMAP:
        apply_charsmap(out, s->map, in);
        break;
    case NORM_REPLACE:
        apply_replace(out, s, in);
        break;
    case NORM_STRIP:
        apply_strip(out, s, in);
        break;
    case NORM_NFC:
        points_nfc(in);
        points_append(out, in->v, in->n);
        break;
    case NORM_PREPEND:
        for (size_t k = 0; in->n && k < s->content.n; k++)
            points_add(out, s->content.v[k].c, in->v[0].begin, in->v[0].end);
        points_append(out, in->v, in->n);
        break;
    }
    out->failed |= in->failed;
}

int normalise_json(points *out, const tokenizer *t, const char *text, size_t begin, size_t end, err *e)
{
    points p = POINTS_INIT;
    points_from_utf8(&p, text + begin, end - begin, begin);
    for (size_t i = 0; i < t->n_steps; i++) {
        points next = POINTS_INIT;
        next.failed = p.failed;
        if (p.n)
            apply_step(&next, &t->steps[i], &p);
        points_release(&p);
        p = next;
    }
    points_append(out, p.v, p.n);
    bool failed = p.failed || out->failed;
    points_release(&p);
    return failed ? out_of_memory(end - begin, e) : 0;
}

void norm_steps_release(norm_step *steps, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        charsmap_free(steps[i].map);
        points_release(&steps[i].content);
        points_release(&steps[i].literal);
    }
    free(steps);
}
