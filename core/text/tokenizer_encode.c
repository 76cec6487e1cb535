/* From text to tokens: special tokens are cut out first, what lies between is normalised and segmented. */
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/text/tokenizer_internal.h"

/* Tokens as they come; beyond `limit` they are only counted. */
typedef struct builder {
    const tokenizer *t;
    text_token *v;
    int32_t n, cap, limit;
    int64_t total;
    err *e;
} builder;

static int out_of_memory(err *e)
{
    return ERR(e, ERR_MEMORY, "out of memory for the tokens of a prompt");
}

/* Takes over piece. */
static int push(builder *b, int32_t id, size_t begin, size_t end, size_t text_begin, bool special, char *piece)
{
    if (!piece)
        return out_of_memory(b->e);
    b->total++;
    if (b->n == b->limit) {
        free(piece);
        return 0;
    }
    if (b->n == b->cap) {
        int32_t cap = b->cap ? b->cap * 2 : 64;
        text_token *v = realloc(b->v, (size_t)cap * sizeof *v);
        if (!v) {
            free(piece);
            return out_of_memory(b->e);
        }
        b->v = v;
        b->cap = cap;
    }
    b->v[b->n++] = (text_token) { id, begin, end, text_begin, special, piece };
    return 0;
}

/* A stretch of normalised text: points, their UTF-8, where each begins in it. */
typedef struct stretch {
    const point *v;
    size_t n;
    char *text;
    size_t bytes;
    size_t *starts;
} stretch;

static int stretch_open(stretch *s, const point *v, size_t n, err *e)
{
    s->v = v;
    s->n = n;
    return points_to_utf8(&s->text, &s->bytes, &s->starts, v, n, e);
}

static void stretch_close(stretch *s)
{
    free(s->text);
    free(s->starts);
}

/* The point that holds byte `at`. */
static size_t point_of(const stretch *s, size_t at)
{
    size_t low = 0, high = s->n;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (s->starts[middle] <= at)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Bytes [from, to) of the stretch are one token, shown as `piece` (NULL: those bytes). */
static int emit(builder *b, const stretch *s, size_t from, size_t to, int32_t id, const char *piece)
{
    size_t first = point_of(s, from), last = point_of(s, to - 1), text = first;
    while (text <= last && s->v[text].c == BLANK)
        text++;
    size_t end = s->v[last].end;
    return push(b, id, s->v[first].begin, end, text <= last ? s->v[text].begin : end, false,
                piece ? str_dup(piece) : str_dupn(s->text + from, to - from));
}

/* The bytes of an unknown text as byte pieces, if the vocabulary has them all: 0 done, 1 not possible. */
static int emit_bytes(builder *b, const stretch *s, size_t from, size_t to)
{
    char name[8];
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = from; i < to; i++) {
            static const char hex[] = "0123456789ABCDEF";
            unsigned char c = (unsigned char)s->text[i];
            memcpy(name, "<0x__>", 7);
            name[3] = hex[c >> 4];
            name[4] = hex[c & 15];
            int32_t id = vocab_find(&b->t->vocab, name, 6);
            if (id < 0)
                return 1;
            int rc = pass ? emit(b, s, from, to, id, name) : 0;
            if (rc)
                return rc;
        }
    }
    return 0;
}

/* The cuts of a stretch to tokens; neighbouring unknown ones are one token. */
static int emit_cuts(builder *b, const stretch *s, const vocab_cut *cuts, size_t n)
{
    const tokenizer *t = b->t;
    for (size_t i = 0; i < n; ) {
        size_t begin = cuts[i].begin, end = cuts[i].end;
        int32_t id = cuts[i].id;
        i++;
        bool unknown = id == t->vocab.unk;
        /* sentencepiece spells each unknown character in bytes, Hugging Face the whole run: the same bytes */
        while (unknown && i < n && cuts[i].id == id)
            end = cuts[i++].end;
        if (unknown && t->engine == TOKENIZER_JSON) {      /* a run of unknown characters may be a piece after all */
            int32_t whole = vocab_find(&t->vocab, s->text + begin, end - begin);
            if (whole >= 0) {
                id = whole;
                unknown = false;
            }
        }
        int rc = unknown && t->keep_bytes ? emit_bytes(b, s, begin, end) : 1;
        if (rc == 1)
            rc = emit(b, s, begin, end, id, NULL);
        if (rc)
            return rc;
    }
    return 0;
}

static int segment(builder *b, vocab_rules rules, const point *v, size_t n)
{
    stretch s;
    vocab_cut *cuts = NULL;
    size_t n_cuts;
    int rc = stretch_open(&s, v, n, b->e);
    if (rc)
        return rc;
    rc = vocab_segment(&b->t->vocab, rules, s.text, s.bytes, &cuts, &n_cuts, b->e);
    if (!rc)
        rc = emit_cuts(b, &s, cuts, n_cuts);
    free(cuts);
    stretch_close(&s);
    return rc;
}

/* ---- spiece.model ----------------------------------------------------------------------------------------------- */

static int encode_spiece(builder *b, const char *text, size_t begin, size_t end)
{
    points p = POINTS_INIT;
    int rc = normalise_spiece(&p, b->t, text, begin, end, b->e);
    if (!rc && p.n)
        rc = segment(b, VOCAB_F32_KINDS, p.v, p.n);
    points_release(&p);
    return rc;
}

#ifdef HAVE_SENTENCEPIECE
/* What the library said, kept until we know whether our own normalisation explains it. */
typedef struct answer {
    const tokenizer *t;
    vocab_cut *cuts;            /* id; bytes of the normalised text */
    spm_piece *raw;             /* id, begin and end as the library has them */
    size_t n, cap, bytes;
    str text;                   /* pieces one after another, byte pieces as their byte */
    err *e;
} answer;

static int keep_piece(void *arg, const spm_piece *piece)
{
    answer *a = arg;
    if (a->n == a->cap) {
        size_t cap = a->cap ? a->cap * 2 : 64;
        vocab_cut *cuts = realloc(a->cuts, cap * sizeof *cuts);
        if (cuts)
            a->cuts = cuts;
        spm_piece *raw = cuts ? realloc(a->raw, cap * sizeof *raw) : NULL;
        if (!raw)
            return out_of_memory(a->e);
        a->raw = raw;
        a->cap = cap;
    }
    int32_t id = piece->id;
    if (id < 0 || (size_t)id >= a->t->vocab.n)
        return ERR(a->e, ERR_INTERNAL, "%s: the sentencepiece library gave id %d, expected 0 to %zu", a->t->folder, id,
                   a->t->vocab.n - 1);
    size_t begin = a->text.len;
    if (a->t->vocab.pieces[id].kind == PIECE_BYTE && piece->text_len == 6) {
        char hex[3] = { piece->text[3], piece->text[4], 0 };
        str_addc(&a->text, (char)strtol(hex, NULL, 16));
        id = a->t->vocab.unk;               /* emit_cuts() makes bytes of it again when they are wanted */
    } else {
        str_addn(&a->text, piece->text, piece->text_len);
    }
    a->cuts[a->n] = (vocab_cut) { id, begin, a->text.len };
    a->raw[a->n] = *piece;
    a->raw[a->n++].text = NULL;
    return 0;
}

/* The library normalised the text in a way we do not know: its own offsets, a blank in front not counted as text. */
static int emit_raw(builder *b, const answer *a, const char *text, size_t base, size_t limit)
{
    for (size_t i = 0; i < a->n; ) {
        size_t begin = base + a->raw[i].begin, end = base + a->raw[i].end, first = i;
        int32_t id = a->cuts[i].id;
        for (i++; i < a->n && id == b->t->vocab.unk && a->cuts[i].id == id; i++)
            end = base + a->raw[i].end;
        int length = 1;
        const char *piece = str_text(&a->text) + a->cuts[first].begin;
        size_t n = a->cuts[i - 1].end - a->cuts[first].begin;
        if (end <= begin && begin < limit) {
            utf8_decode(text + begin, text + limit, &length);
            end = begin + (size_t)length;
        }
        size_t text_begin = begin;
        bool blank = n == 3 && memcmp(piece, "\xe2\x96\x81", 3) == 0;
        while (text_begin < end && unicode_is_space((uint32_t)utf8_decode(text + text_begin, text + end, &length)))
            text_begin += (size_t)length;
        int rc = push(b, id, begin, end, blank ? end : text_begin, false, str_dupn(piece, n));
        if (rc)
            return rc;
    }
    return 0;
}

static int encode_library(builder *b, const char *text, size_t begin, size_t end)
{
    answer a = { .t = b->t, .text = STR_INIT, .e = b->e };
    points p = POINTS_INIT;
    stretch s = { 0 };
    int rc = spm_encode(b->t->library, text + begin, end - begin, keep_piece, &a, b->e);
    if (!rc && a.text.failed)
        rc = out_of_memory(b->e);
    if (!rc)
        rc = normalise_spiece(&p, b->t, text, begin, end, b->e);
    if (!rc)
        rc = stretch_open(&s, p.v, p.n, b->e);
    if (!rc && s.bytes == a.text.len && memcmp(s.text, str_text(&a.text), s.bytes) == 0)
        rc = emit_cuts(b, &s, a.cuts, a.n);
    else if (!rc)
        rc = emit_raw(b, &a, text, begin, end);
    stretch_close(&s);
    points_release(&p);
    str_release(&a.text);
    free(a.cuts);
    free(a.raw);
    return rc;
}
#endif

/* ---- tokenizer.json --------------------------------------------------------------------------------------------- */

/* One word (or the whole stretch): visible blanks, the one in front, and each part that begins with one on its own. */
static int encode_word(builder *b, const point *v, size_t n)
{
    const tokenizer *t = b->t;
    points p = POINTS_INIT;
    int rc = 0;
    if (t->metaspace && v[0].c != ' ' && v[0].c != BLANK &&
        (t->prepend == PREPEND_ALWAYS || (t->prepend == PREPEND_FIRST && v[0].begin == 0)))
        points_add(&p, BLANK, v[0].begin, v[0].end);
    points_append(&p, v, n);
    if (p.failed)
        rc = out_of_memory(b->e);
    for (size_t i = 0; t->metaspace && i < p.n; i++)
        if (p.v[i].c == ' ')
            p.v[i].c = BLANK;
    for (size_t i = 0; !rc && i < p.n; ) {
        size_t end = t->metaspace_split ? i + 1 : p.n;
        while (end < p.n && p.v[end].c != BLANK)
            end++;
        rc = segment(b, VOCAB_F64_ALL, p.v + i, end - i);
        i = end;
    }
    points_release(&p);
    return rc;
}

static int encode_json(builder *b, const char *text, size_t begin, size_t end)
{
    points p = POINTS_INIT;
    int rc = normalise_json(&p, b->t, text, begin, end, b->e);
    for (size_t i = 0; !rc && i < p.n; ) {
        size_t stop = b->t->blanks_outside ? i : p.n;
        while (stop < p.n && !unicode_is_space(p.v[stop].c))
            stop++;
        if (stop > i)
            rc = encode_word(b, p.v + i, stop - i);
        i = stop + b->t->blanks_outside;
    }
    points_release(&p);
    return rc;
}

/* ---- special tokens, the whole text ----------------------------------------------------------------------------- */

static int encode_between(builder *b, const char *text, size_t begin, size_t end)
{
    if (begin == end)
        return 0;
    if (b->t->engine == TOKENIZER_JSON)
        return encode_json(b, text, begin, end);
#ifdef HAVE_SENTENCEPIECE
    if (b->t->engine == TOKENIZER_SENTENCEPIECE)
        return encode_library(b, text, begin, end);
#endif
    return encode_spiece(b, text, begin, end);
}

static uint32_t char_before(const char *text, size_t at)
{
    size_t i = at - 1;
    int length;
    while (i && ((unsigned char)text[i] & 0xc0) == 0x80)
        i--;
    return (uint32_t)utf8_decode(text + i, text + at, &length);
}

static bool stands_alone(const char *text, size_t n, size_t begin, size_t end)
{
    int length;
    if (begin && unicode_is_word(char_before(text, begin)))
        return false;
    return end == n || !unicode_is_word((uint32_t)utf8_decode(text + end, text + n, &length));
}

/* The longest special token that begins at `at`, or NULL. */
static const added_token *special_at(const tokenizer *t, const char *text, size_t n, size_t at)
{
    const added_token *best = NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if (a->content[0] == text[at] && n - at >= a->len && memcmp(text + at, a->content, a->len) == 0 &&
            (!best || a->len > best->len))
            best = a;
    }
    return best && (!best->single_word || stands_alone(text, n, at, at + best->len)) ? best : NULL;
}

/* Text that a special token follows. spiece.model drops blanks at an end; the fast tokenizer keeps one there, as a
 * piece. */
static int encode_before_special(builder *b, const char *text, size_t begin, size_t end)
{
    static const char blank[] = "\xe2\x96\x81";
    int rc = encode_between(b, text, begin, end);
    if (rc || b->t->engine == TOKENIZER_JSON || begin == end || !unicode_is_space(char_before(text, end)))
        return rc;
    int32_t id = vocab_find(&b->t->vocab, blank, 3);
    size_t at = end - 1;
    while (at > begin && ((unsigned char)text[at] & 0xc0) == 0x80)
        at--;
    return push(b, id < 0 ? b->t->vocab.unk : id, at, end, end, false, str_dup(blank));
}

static int encode_text(builder *b, const char *text, size_t n)
{
    size_t from = 0;            /* begin of the ordinary text not yet encoded */
    int length, rc;
    for (size_t at = 0; at < n; ) {
        const added_token *a = special_at(b->t, text, n, at);
        if (!a) {
            at++;
            continue;
        }
        size_t begin = at, end = at + a->len;
        while (a->lstrip && begin > from && unicode_is_space(char_before(text, begin)))
            for (begin--; begin > from && ((unsigned char)text[begin] & 0xc0) == 0x80; )
                begin--;
        while (a->rstrip && end < n && unicode_is_space((uint32_t)utf8_decode(text + end, text + n, &length)))
            end += (size_t)length;
        if ((rc = encode_before_special(b, text, from, begin)) ||
            (rc = push(b, a->id, begin, end, at, true, str_dup(a->content))))
            return rc;
        from = at = end;
    }
    return encode_between(b, text, from, n);
}

int tokenizer_encode(const tokenizer *t, const char *text, int32_t text_len, text_tokens *out, err *e)
{
    int rc;
    size_t n = strlen(text);
    memset(out, 0, sizeof *out);
    if (text_len < 1)
        return ERR(e, ERR_ARG, "a prompt of %d tokens was asked for, expected at least 1", text_len);
    if ((rc = utf8_check(text, n, "the prompt", e)))
        return rc;
    builder b = { .t = t, .limit = text_len - 1, .e = e };
    if ((rc = encode_text(&b, text, n)))
        goto out;
    int64_t pieces = b.total;
    size_t kept = b.n ? b.v[b.n - 1].end : 0;
    b.limit = text_len;
    if ((rc = push(&b, t->eos, 0, 0, 0, true, str_dup("</s>"))))
        goto out;
    out->ids = malloc((size_t)text_len * sizeof *out->ids);
    if (!out->ids) {
        rc = out_of_memory(e);
        goto out;
    }
    for (int32_t i = 0; i < text_len; i++)
        out->ids[i] = i < b.n ? b.v[i].id : t->pad;
    out->text_len = text_len;
    out->n = b.n;
    out->tokens = b.v;
    out->n_untruncated = pieces + 1;
    out->truncated = out->n_untruncated > text_len;
    out->kept_bytes = out->truncated ? kept : n;
    return 0;
out:
    for (int32_t i = 0; i < b.n; i++)
        free(b.v[i].piece);
    free(b.v);
    return rc;
}
