/* tokenizer.json of Hugging Face's fast tokenizers, as far as the T5 family uses the format. What is not understood is
 * refused by name: a skipped step would silently give other tokens. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/str.h"
#include "core/text/tokenizer_internal.h"

static int memory(const char *path, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: out of memory for the tokenizer", path);
}

int tokenizer_add_special(tokenizer *t, const char *content, size_t len, int32_t id, bool single_word, bool lstrip,
                          bool rstrip, err *e)
{
    added_token *a = realloc(t->added, (t->n_added + 1) * sizeof *a);
    char *copy = str_dupn(content, len);
    if (a)
        t->added = a;
    if (!a || !copy) {
        free(copy);
        return memory(t->folder, e);
    }
    t->added[t->n_added++] = (added_token) { copy, len, id, single_word, lstrip, rstrip };
    return 0;
}

static int read_added(tokenizer *t, const json *list, const char *path, err *e)
{
    for (size_t i = 0; i < json_count(list); i++) {
        const json *a = json_at(list, i);
        const char *content = json_get_string(a, "content", "");
        int64_t id;
        err why = { 0 };
        if (!*content || !json_int(json_get(a, "id"), &id) || id < 0 || id > INT32_MAX - 1)
            return ERR(e, ERR_FORMAT, "%s: entry %zu of 'added_tokens' needs a 'content' and an 'id' from 0 on", path,
                       i);
        if (utf8_check(content, strlen(content), "it", &why))
            return ERR(e, ERR_FORMAT, "%s: entry %zu of 'added_tokens' is damaged: %s", path, i, why.text);
        int rc = tokenizer_add_special(t, content, strlen(content), (int32_t)id,
                                       json_bool(json_get(a, "single_word"), false),
                                       json_bool(json_get(a, "lstrip"), false),
                                       json_bool(json_get(a, "rstrip"), false), e);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- pre-tokenizer ---------------------------------------------------------------------------------------------- */

static int read_metaspace(tokenizer *t, const json *p, const char *path, err *e)
{
    const char *scheme = json_get_string(p, "prepend_scheme", NULL);
    const char *replacement = json_get_string(p, "replacement", "\xe2\x96\x81");
    if (strcmp(replacement, "\xe2\x96\x81"))
        return ERR(e, ERR_FORMAT, "%s: the Metaspace pre-tokenizer replaces blanks by '%s', expected U+2581", path,
                   replacement);
    if (!scheme)        /* older files */
        scheme = json_bool(json_get(p, "add_prefix_space"), true) ? "always" : "never";
    if (strcmp(scheme, "always") == 0)
        t->prepend = PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        t->prepend = PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        t->prepend = PREPEND_NEVER;
    else
        return ERR(e, ERR_FORMAT, "%s: the Metaspace pre-tokenizer has the prepend_scheme '%s', expected always, first "
                   "or never", path, scheme);
    t->metaspace = true;
    t->metaspace_split = json_bool(json_get(p, "split"), true);
    return 0;
}

static int read_pre_tokenizer(tokenizer *t, const json *p, const char *path, err *e)
{
    const char *type = json_get_string(p, "type", "");
    if (json_type(p) == JSON_NONE || json_type(p) == JSON_NULL)
        return 0;
    if (strcmp(type, "Metaspace") == 0)
        return read_metaspace(t, p, path, e);
    if (strcmp(type, "WhitespaceSplit") == 0 && !t->metaspace) {
        t->blanks_outside = true;
        return 0;
    }
    if (strcmp(type, "Sequence") == 0) {
        const json *list = json_get(p, "pretokenizers");
        for (size_t i = 0; i < json_count(list); i++) {
            int rc = read_pre_tokenizer(t, json_at(list, i), path, e);
            if (rc)
                return rc;
        }
        return 0;
    }
    return ERR(e, ERR_FORMAT, "%s: the pre-tokenizer '%s' is not supported here, expected Metaspace or WhitespaceSplit "
               "followed by Metaspace as in the T5 family", path, type);
}

/* ---- normalizer ------------------------------------------------------------------------------------------------- */

/* The regular expressions that T5 files use: a blank, \s or one plain character, then nothing, '+' or {n,}. */
static bool read_regex(norm_step *s, const char *r)
{
    static const char special[] = ".^$|()[]{}*+?\\";
    int length = 1;
    if (r[0] == '\\' && r[1] == 's') {
        s->repeated = 0;
        r += 2;
    } else if (r[0] && !strchr(special, r[0])) {
        s->repeated = (uint32_t)utf8_decode(r, r + strlen(r), &length);
        r += length;
    } else {
        return false;
    }
    s->least = 1;
    if (strcmp(r, "+") == 0)
        return true;
    char *end;
    if (*r != '{')
        return false;
    unsigned long least = strtoul(r + 1, &end, 10);
    s->least = least;
    return end > r + 1 && least >= 1 && least < 1000 && strcmp(end, ",}") == 0;
}

static int read_replace(norm_step *s, const json *p, const char *path, err *e)
{
    const json *pattern = json_get(p, "pattern");
    const char *content = json_get_string(p, "content", NULL);
    const char *regex = json_get_string(pattern, "Regex", NULL), *text = json_get_string(pattern, "String", NULL);
    if (!content || (!regex && !(text && *text)))
        return ERR(e, ERR_FORMAT, "%s: a Replace step of the normalizer needs a 'pattern' (String or Regex) and a "
                   "'content'",
                   path);
    if (regex && !read_regex(s, regex))
        return ERR(e, ERR_FORMAT, "%s: the normalizer replaces the regular expression '%s', which is not supported "
                   "here, expected one character or \\s followed by + or {n,}", path, regex);
    if (!regex)
        points_from_utf8(&s->literal, text, strlen(text), 0);
    points_from_utf8(&s->content, content, strlen(content), 0);
    return s->literal.failed || s->content.failed ? memory(path, e) : 0;
}

static int read_normalizer(tokenizer *t, const json *p, const char *path, err *e)
{
    const char *type = json_get_string(p, "type", "");
    if (json_type(p) == JSON_NONE || json_type(p) == JSON_NULL)
        return 0;
    if (strcmp(type, "Sequence") == 0) {
        const json *list = json_get(p, "normalizers");
        for (size_t i = 0; i < json_count(list); i++) {
            int rc = read_normalizer(t, json_at(list, i), path, e);
            if (rc)
                return rc;
        }
        return 0;
    }
    norm_step *steps = realloc(t->steps, (t->n_steps + 1) * sizeof *steps);
    if (!steps)
        return memory(path, e);
    t->steps = steps;
    norm_step *s = &steps[t->n_steps];
    memset(s, 0, sizeof *s);
    t->n_steps++;
    if (strcmp(type, "Precompiled") == 0) {
        const char *map = json_get_string(p, "precompiled_charsmap", "");
        s->kind = NORM_CHARSMAP;
        if (!*map) {            /* an identity map is left out */
            t->n_steps--;
            return 0;
        }
        return charsmap_open_base64(&s->map, map, path, e);
    }
    if (strcmp(type, "Replace") == 0) {
        s->kind = NORM_REPLACE;
        return read_replace(s, p, path, e);
    }
    if (strcmp(type, "Strip") == 0) {
        s->kind = NORM_STRIP;
        s->left = json_bool(json_get(p, "strip_left"), json_bool(json_get(p, "left"), true));
        s->right = json_bool(json_get(p, "strip_right"), json_bool(json_get(p, "right"), true));
        return 0;
    }
    if (strcmp(type, "NFC") == 0) {
        s->kind = NORM_NFC;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0) {
        const char *text = json_get_string(p, "prepend", "");
        s->kind = NORM_PREPEND;
        points_from_utf8(&s->content, text, strlen(text), 0);
        return s->content.failed ? memory(path, e) : 0;
    }
    return ERR(e, ERR_FORMAT, "%s: the normalizer step '%s' is not supported here, expected Precompiled, Replace, "
               "Strip, NFC or Prepend", path, type);
}

/* ---- vocabulary ------------------------------------------------------------------------------------------------- */

static int read_vocab(tokenizer *t, const json *model, const char *path, err *e)
{
    const json *list = json_get(model, "vocab");
    int64_t unk;
    if (json_type(list) != JSON_ARRAY || !json_count(list))
        return ERR(e, ERR_FORMAT, "%s: 'model.vocab' must be a list of [piece, score] pairs", path);
    for (size_t i = 0; i < json_count(list); i++) {
        const json *pair = json_at(list, i);
        const char *text = json_string(json_at(pair, 0), NULL);
        if (!text || json_type(json_at(pair, 1)) != JSON_NUMBER)
            return ERR(e, ERR_FORMAT, "%s: entry %zu of 'model.vocab' must be a pair of a piece and its score", path,
                       i);
        int rc = vocab_add(&t->vocab, text, strlen(text), json_number(json_at(pair, 1), 0), PIECE_NORMAL, path, e);
        if (rc)
            return rc;
    }
    t->vocab.unk = -1;
    if (json_int(json_get(model, "unk_id"), &unk)) {
        if (unk < 0 || (uint64_t)unk >= t->vocab.n)
            return ERR(e, ERR_FORMAT, "%s: 'model.unk_id' is %lld, expected 0 to %zu", path, (long long)unk,
                       t->vocab.n - 1);
        t->vocab.unk = (int32_t)unk;
    }
    return vocab_finish(&t->vocab, path, e);
}

/* Added tokens that the model also has must be at the same id in both files: two files of different checkpoints would
 * otherwise give wrong tokens without a word. */
static int check_added(const tokenizer *t, const char *path, err *e)
{
    for (size_t i = 0; i < t->n_added; i++) {
        const added_token *a = &t->added[i];
        if ((size_t)a->id >= t->vocab.n)
            continue;
        const vocab_piece *p = &t->vocab.pieces[a->id];
        if (p->len != a->len || memcmp(p->text, a->content, a->len))
            return ERR(e, ERR_FORMAT, "%s: the added token '%s' has id %d, which is '%s' in the vocabulary; the files "
                       "in this folder do not belong together", path, a->content, a->id, p->text);
    }
    return 0;
}

int tokenizer_read_json(tokenizer *t, const char *path, bool whole, err *e)
{
    json *doc;
    int rc = json_read_file(&doc, path, e);
    if (rc)
        return rc;
    const json *model = json_get(doc, "model");
    const char *type = json_get_string(model, "type", "");
    const json *bytes = json_get(model, "byte_fallback");
    t->json_has_bytes_key = json_type(bytes) == JSON_BOOL;
    t->json_byte_fallback = json_bool(bytes, false);
    if (strcmp(type, "Unigram"))
        rc = ERR(e, ERR_FORMAT, "%s: the model type is '%s', expected 'Unigram' as in the T5 family", path, type);
    if (!rc)
        rc = read_added(t, json_get(doc, "added_tokens"), path, e);
    if (!rc)
        rc = read_pre_tokenizer(t, json_get(doc, "pre_tokenizer"), path, e);
    if (!rc && whole)
        rc = read_normalizer(t, json_get(doc, "normalizer"), path, e);
    if (!rc && whole)
        rc = read_vocab(t, model, path, e);
    if (!rc)
        rc = check_added(t, path, e);
    json_free(doc);
    return rc;
}
