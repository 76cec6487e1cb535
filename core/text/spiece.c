#include "core/text/spiece.h"

#include <string.h>

#include "core/base/fs.h"

/* ---- protobuf wire format --------------------------------------------------------------------------------------- */

typedef struct wire {
    const uint8_t *at, *end, *file;     /* file: begin of the file, for offsets in messages */
    const char *path;
} wire;

typedef struct field {
    uint64_t number;
    int type;                           /* 0 varint, 1 fixed 64, 2 bytes, 5 fixed 32 */
    uint64_t value;                     /* type 0, 1, 5 */
    wire bytes;                         /* type 2 */
} field;

static int damaged(const wire *w, const char *what, err *e)
{
    return ERR(e, ERR_FORMAT, "%s: %s at byte %zu; this is no sentencepiece model, or it is damaged or cut off",
               w->path, what, (size_t)(w->at - w->file));
}

static bool read_varint(wire *w, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t b = *w->at++;
        *v |= (uint64_t)(b & 0x7f) << shift;
        if (!(b & 0x80))
            return true;
    }
    return false;
}

static int read_field(wire *w, field *f, err *e)
{
    uint64_t tag;
    if (!read_varint(w, &tag) || tag >> 3 == 0)
        return damaged(w, "no valid field", e);
    f->number = tag >> 3;
    f->type = (int)(tag & 7);
    if (f->type == 0) {
        if (!read_varint(w, &f->value))
            return damaged(w, "a number that does not end", e);
        return 0;
    }
    uint64_t n = f->type == 1 ? 8 : f->type == 5 ? 4 : 0;
    if (f->type == 2 && !read_varint(w, &n))
        return damaged(w, "a length that does not end", e);
    if (f->type != 1 && f->type != 2 && f->type != 5)
        return damaged(w, "a field of an unknown type", e);
    if (n > (uint64_t)(w->end - w->at))
        return damaged(w, "a field that is longer than the file", e);
    f->bytes = (wire) { w->at, w->at + n, w->file, w->path };
    f->value = 0;
    for (uint64_t i = 0; f->type != 2 && i < n; i++)
        f->value |= (uint64_t)w->at[i] << (8 * i);
    w->at += n;
    return 0;
}

/* ---- messages --------------------------------------------------------------------------------------------------- */

static int parse_piece(spiece *s, wire w, err *e)
{
    const uint8_t *text = NULL;
    size_t len = 0;
    float score = 0;
    uint64_t kind = PIECE_NORMAL;
    while (w.at < w.end) {
        field f;
        int rc = read_field(&w, &f, e);
        if (rc)
            return rc;
        if (f.number == 1 && f.type == 2) {
            text = f.bytes.at;
            len = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 2 && f.type == 5) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&score, &bits, sizeof score);
        } else if (f.number == 3 && f.type == 0) {
            kind = f.value;
        }
    }
    if (kind < PIECE_NORMAL || kind > PIECE_BYTE)
        return damaged(&w, "a piece of an unknown kind", e);
    if (kind == PIECE_UNKNOWN) {
        if (s->vocab.unk >= 0)
            return damaged(&w, "a second unknown piece", e);
        s->vocab.unk = (int32_t)s->vocab.n;
    }
    return vocab_add(&s->vocab, (const char *)text, len, (double)score, (piece_kind)kind, w.path, e);
}

static int parse_trainer(spiece *s, wire w, err *e)
{
    while (w.at < w.end) {
        field f;
        int rc = read_field(&w, &f, e);
        if (rc)
            return rc;
        if (f.type != 0)
            continue;
        if (f.number == 3)
            s->model_type = f.value <= 4 ? (int)f.value : 0;
        else if (f.number == 24)
            s->whitespace_as_suffix = f.value != 0;
        else if (f.number == 35)
            s->byte_fallback = f.value != 0;
    }
    return 0;
}

static int parse_normalizer(spiece *s, wire w, err *e)
{
    while (w.at < w.end) {
        field f;
        int rc = read_field(&w, &f, e);
        if (!rc && f.number == 2 && f.type == 2 && f.bytes.at < f.bytes.end) {
            charsmap_free(s->map);
            rc = charsmap_open(&s->map, f.bytes.at, (size_t)(f.bytes.end - f.bytes.at), w.path, e);
        }
        if (rc)
            return rc;
        if (f.type != 0)
            continue;
        if (f.number == 3)
            s->add_dummy_prefix = f.value != 0;
        else if (f.number == 4)
            s->remove_extra_whitespaces = f.value != 0;
        else if (f.number == 5)
            s->escape_whitespaces = f.value != 0;
    }
    return 0;
}

int spiece_parse(spiece *out, const void *bytes, size_t n, const char *path, err *e)
{
    const uint8_t *b = bytes;
    wire w = { b, n ? b + n : b, b, path };
    int rc = 0;
    *out = (spiece) { .vocab.unk = -1, .add_dummy_prefix = true, .remove_extra_whitespaces = true,
                      .escape_whitespaces = true, .model_type = 1 };
    while (!rc && w.at < w.end) {
        field f;
        if ((rc = read_field(&w, &f, e)) || f.type != 2)
            continue;
        if (f.number == 1)
            rc = parse_piece(out, f.bytes, e);
        else if (f.number == 2)
            rc = parse_trainer(out, f.bytes, e);
        else if (f.number == 3)
            rc = parse_normalizer(out, f.bytes, e);
    }
    if (!rc)
        rc = vocab_finish(&out->vocab, path, e);
    if (rc)
        spiece_release(out);
    return rc;
}

int spiece_read(spiece *out, const char *path, err *e)
{
    fs_map m;
    memset(out, 0, sizeof *out);
    int rc = fs_map_open(&m, path, e);
    if (rc)
        return rc;
    rc = spiece_parse(out, m.data, m.size, path, e);
    fs_map_close(&m);
    return rc;
}

void spiece_release(spiece *s)
{
    if (!s)
        return;
    vocab_release(&s->vocab);
    charsmap_free(s->map);
    memset(s, 0, sizeof *s);
}
