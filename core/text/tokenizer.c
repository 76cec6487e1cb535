#include "core/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "core/text/tokenizer_internal.h"

#define EOS_TEXT "</s>"
#define PAD_TEXT "<pad>"

/* ---- opening ---------------------------------------------------------------------------------------------------- */

bool tokenizer_has_library(void)
{
#ifdef HAVE_SENTENCEPIECE
    return true;
#else
    return false;
#endif
}

const char *tokenizer_engine_name(tokenizer_engine engine)
{
    static const char *const names[] = { "auto", "sentencepiece library", "spiece.model", "tokenizer.json" };
    return names[engine];
}

static int choose_engine(tokenizer_engine *engine, bool spiece, bool json, const char *folder, err *e)
{
    if (*engine == TOKENIZER_AUTO)
        *engine = !spiece ? TOKENIZER_JSON : tokenizer_has_library() ? TOKENIZER_SENTENCEPIECE : TOKENIZER_SPIECE;
    if (!spiece && !json)
        return ERR(e, ERR_IO, "%s: neither spiece.model nor tokenizer.json is there; expected the folder "
                   "google/umt5-xxl of the checkpoint", folder);
    if (*engine == TOKENIZER_SENTENCEPIECE && !tokenizer_has_library())
        return ERR(e, ERR_CONFIG, "%s: this build has no sentencepiece library; let the tokenizer read spiece.model "
                   "itself, or install libsentencepiece-dev and build again", folder);
    if (*engine == TOKENIZER_JSON ? !json : !spiece)
        return ERR(e, ERR_IO, "%s: %s is not there, but the tokenizer is asked to use it", folder,
                   *engine == TOKENIZER_JSON ? "tokenizer.json" : "spiece.model");
    return 0;
}

static int open_spiece(tokenizer *t, const char *path, bool special_pieces, err *e)
{
    fs_map m = { 0 };
    spiece s;
    int rc = fs_map_open(&m, path, e);
    if (rc)
        return rc;
    rc = spiece_parse(&s, m.data, m.size, path, e);
    if (rc)
        goto out;
    t->vocab = s.vocab;
    t->map = s.map;
    t->add_dummy_prefix = s.add_dummy_prefix;
    t->remove_extra_whitespaces = s.remove_extra_whitespaces;
    t->escape_whitespaces = s.escape_whitespaces;
    for (size_t i = 0; !rc && special_pieces && i < t->vocab.n; i++) {
        const vocab_piece *p = &t->vocab.pieces[i];
        if (p->kind == PIECE_CONTROL || p->kind == PIECE_UNKNOWN)
            rc = tokenizer_add_special(t, p->text, p->len, (int32_t)i, false, false, false, e);
    }
    if (rc)
        goto out;
    if (t->engine == TOKENIZER_SPIECE && (s.model_type != 1 || s.whitespace_as_suffix)) {
        rc = ERR(e, ERR_FORMAT, "%s: the model is %s, expected a Unigram model with blanks in front of words as in the "
                 "T5 family; a build with the sentencepiece library may read it", path,
                 s.model_type != 1 ? "not of the Unigram type" : "one with blanks after words");
        goto out;
    }
#ifdef HAVE_SENTENCEPIECE
    if (t->engine == TOKENIZER_SENTENCEPIECE)
        rc = spm_open(&t->library, m.data, m.size, path, e);
#endif
out:
    fs_map_close(&m);
    return rc;
}

/* Ids that padding and the end of a text need, and the number of ids. */
static int find_specials(tokenizer *t, err *e)
{
    t->eos = tokenizer_id(t, EOS_TEXT);
    t->pad = tokenizer_id(t, PAD_TEXT);
    if (t->eos < 0 || t->pad < 0)
        return ERR(e, ERR_FORMAT, "%s: the vocabulary has no piece '%s', expected one as in the T5 family", t->folder,
                   t->eos < 0 ? EOS_TEXT : PAD_TEXT);
    t->size = (int32_t)t->vocab.n;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id >= t->size)
            t->size = t->added[i].id + 1;
    return 0;
}

int tokenizer_open(tokenizer **out, const char *folder, const tokenizer_options *options, err *e)
{
    int rc;
    const tokenizer_options both_auto = { TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO };
    char *spiece = fs_join(folder, "spiece.model"), *json = fs_join(folder, "tokenizer.json");
    tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!options)
        options = &both_auto;
    if (!t || !spiece || !json || !(t->folder = str_dup(folder))) {
        rc = ERR(e, ERR_MEMORY, "%s: out of memory for the tokenizer", folder);
        goto out;
    }
    bool has_spiece = fs_exists(spiece), has_json = fs_exists(json);
    t->engine = options->engine;
    if ((rc = choose_engine(&t->engine, has_spiece, has_json, folder, e)))
        goto out;
    if (t->engine != TOKENIZER_JSON && (rc = open_spiece(t, spiece, !has_json, e)))
        goto out;
    if (has_json && (rc = tokenizer_read_json(t, json, t->engine == TOKENIZER_JSON, e)))
        goto out;
    t->keep_bytes = options->bytes == TOKENIZER_BYTES_KEEP ||
                    (options->bytes == TOKENIZER_BYTES_AUTO && t->json_byte_fallback);
    if ((rc = find_specials(t, e)))
        goto out;
    *out = t;
    t = NULL;
out:
    tokenizer_free(t);
    free(spiece);
    free(json);
    return rc;
}

void tokenizer_free(tokenizer *t)
{
    if (!t)
        return;
#ifdef HAVE_SENTENCEPIECE
    spm_free(t->library);
#endif
    for (size_t i = 0; i < t->n_added; i++)
        free(t->added[i].content);
    free(t->added);
    norm_steps_release(t->steps, t->n_steps);
    vocab_release(&t->vocab);
    charsmap_free(t->map);
    free(t->folder);
    free(t);
}

tokenizer_engine tokenizer_engine_used(const tokenizer *t)
{
    return t->engine;
}

int32_t tokenizer_size(const tokenizer *t)
{
    return t->size;
}

const char *tokenizer_piece(const tokenizer *t, int32_t id)
{
    if (id >= 0 && (size_t)id < t->vocab.n)
        return t->vocab.pieces[id].text;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].id == id)
            return t->added[i].content;
    return NULL;
}

int32_t tokenizer_id(const tokenizer *t, const char *piece)
{
    int32_t id = vocab_find(&t->vocab, piece, strlen(piece));
    for (size_t i = 0; id < 0 && i < t->n_added; i++)
        if (strcmp(t->added[i].content, piece) == 0)
            id = t->added[i].id;
    return id;
}

int32_t tokenizer_pad_id(const tokenizer *t)
{
    return t->pad;
}

int32_t tokenizer_eos_id(const tokenizer *t)
{
    return t->eos;
}

int32_t tokenizer_unk_id(const tokenizer *t)
{
    return t->vocab.unk;
}

/* ---- spans ------------------------------------------------------------------------------------------------------ */

void text_tokens_release(text_tokens *t)
{
    if (!t)
        return;
    for (int32_t i = 0; t->tokens && i < t->n; i++)
        free(t->tokens[i].piece);
    free(t->tokens);
    free(t->ids);
    memset(t, 0, sizeof *t);
}

int tokenizer_span_tokens(const text_tokens *t, size_t begin, size_t end, int32_t **index, int32_t *n, err *e)
{
    *index = NULL;
    *n = 0;
    if (begin > end)
        return ERR(e, ERR_ARG, "a span from byte %zu to byte %zu is impossible, expected its begin before its end",
                   begin, end);
    int32_t *found = malloc((size_t)(t->n ? t->n : 1) * sizeof *found);
    if (!found)
        return ERR(e, ERR_MEMORY, "out of memory for the tokens of a span");
    for (int32_t i = 0; i + 1 < t->n; i++)              /* the last one is the </s> that ends every text */
        if (t->tokens[i].text_begin < end && t->tokens[i].end > begin && t->tokens[i].text_begin < t->tokens[i].end)
            found[(*n)++] = i;
    if (*n)
        *index = found;
    else
        free(found);
    return 0;
}
