/* tokenizer: against the goldens (ids, mask, pieces, offsets) with every engine of this build, against a small
 * vocabulary of our own (tests/golden/tokenizer), spans, truncation, special tokens, and files that are missing,
 * damaged or foreign. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/str.h"
#include "core/text/clean.h"
#include "core/text/tokenizer.h"

#define FIXTURE "tests/golden/tokenizer"

static const tokenizer_engine ENGINES[] = { TOKENIZER_SENTENCEPIECE, TOKENIZER_SPIECE, TOKENIZER_JSON };

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

static tokenizer *open_with(const char *folder, tokenizer_engine engine, tokenizer_bytes bytes)
{
    const tokenizer_options o = { engine, bytes };
    tokenizer *t;
    err e = { 0 };
    if (tokenizer_open(&t, folder, &o, &e))
        fail_msg("%s", e.text);
    return t;
}

static bool usable(tokenizer_engine engine)
{
    return engine != TOKENIZER_SENTENCEPIECE || tokenizer_has_library();
}

static text_tokens encode(const tokenizer *t, const char *text, int32_t text_len)
{
    text_tokens out;
    err e = { 0 };
    if (tokenizer_encode(t, text, text_len, &out, &e))
        fail_msg("'%s': %s", text, e.text);
    return out;
}

/* Code points before byte `at`. */
static int64_t code_points(const char *text, size_t at)
{
    int64_t n = 0;
    for (size_t i = 0; i < at; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

static int64_t number(const json *array, size_t i)
{
    int64_t v = -1;
    if (!json_int(json_at(array, i), &v))
        fail_msg("a list of integers has something else at %zu", i);
    return v;
}

static void check_offsets(const char *text, const text_tokens *t, const json *want, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int64_t begin = code_points(text, t->tokens[i].begin), end = code_points(text, t->tokens[i].end);
        if (begin != number(json_at(want, i), 0) || end != number(json_at(want, i), 1))
            fail_msg("'%s': token %zu ('%s') covers %lld..%lld, expected %lld..%lld", text, i, t->tokens[i].piece,
                     (long long)begin, (long long)end, (long long)number(json_at(want, i), 0),
                     (long long)number(json_at(want, i), 1));
    }
}

static json *read_json(const char *folder, const char *name)
{
    json *doc;
    err e = { 0 };
    char *path = fs_join(folder, name);
    if (json_read_file(&doc, path, &e))
        fail_msg("%s", e.text);
    free(path);
    return doc;
}

static char *golden_folder(const char *name)
{
    const char *root = getenv("GOLDENS");
    char *dir = fs_join(root ? root : "../shared/goldens", name);
    if (!fs_is_dir(dir)) {
        free(dir);
        return NULL;
    }
    return dir;
}

/* A scratch folder with a copy of the fixture's files, either of which may be left out. */
static char *scratch(bool spiece, bool json_file)
{
    const char *tmp = getenv("TEST_TMP");
    char *dir = str_format("%s/tokenizer-%d", tmp ? tmp : "/tmp", (int)getpid());
    err e = { 0 };
    assert_int_equal(fs_remove_tree(dir, &e), 0);
    assert_int_equal(fs_mkdirs(dir, &e), 0);
    const char *names[] = { "spiece.model", "tokenizer.json" };
    for (int i = 0; i < 2; i++) {
        if (!(i ? json_file : spiece))
            continue;
        char *from = fs_join(FIXTURE, names[i]), *to = fs_join(dir, names[i]), *text;
        size_t n;
        assert_int_equal(fs_read_text(&text, &n, from, &e), 0);
        assert_int_equal(fs_write_atomic(to, text, n, &e), 0);
        free(text);
        free(from);
        free(to);
    }
    return dir;
}

static void scratch_end(char *dir)
{
    err e = { 0 };
    assert_int_equal(fs_remove_tree(dir, &e), 0);
    free(dir);
}

/* Puts `with` in place of the first `what` in a text file. */
static void edit(const char *dir, const char *name, const char *what, const char *with)
{
    err e = { 0 };
    size_t n;
    char *path = fs_join(dir, name), *text;
    assert_int_equal(fs_read_text(&text, &n, path, &e), 0);
    char *at = strstr(text, what);
    if (!at)
        fail_msg("%s has no '%s'", name, what);
    str s = STR_INIT;
    str_addn(&s, text, (size_t)(at - text));
    str_add(&s, with);
    str_add(&s, at + strlen(what));
    assert_int_equal(fs_write_atomic(path, s.data, s.len, &e), 0);
    str_release(&s);
    free(text);
    free(path);
}

static void refuse(const char *dir, tokenizer_engine engine, int kind, const char *sentence)
{
    const tokenizer_options o = { engine, TOKENIZER_BYTES_AUTO };
    tokenizer *t;
    err e = { 0 };
    int rc = tokenizer_open(&t, dir, &o, &e);
    assert_null(t);
    if (rc != kind || !strstr(e.text, sentence))
        fail_msg("opening gave %d, '%s'; expected %d and '%s' in the sentence", rc, e.text, kind, sentence);
}

/* ---- goldens ---------------------------------------------------------------------------------------------------- */

static void check_case(const tokenizer *t, const json *c)
{
    const char *text = json_get_string(c, "cleaned", "");
    const json *ids = json_get(c, "ids"), *fast = json_get(c, "fast_ids"), *pieces = json_get(c, "pieces");
    size_t n = json_count(ids), valid = 0;
    bool same = true;
    text_tokens out = encode(t, text, (int32_t)n);
    for (size_t i = 0; i < n; i++) {
        if (out.ids[i] != number(ids, i))
            fail_msg("'%s': id %zu is %d, expected %lld (%s)", text, i, out.ids[i], (long long)number(ids, i),
                     tokenizer_engine_name(tokenizer_engine_used(t)));
        valid += (size_t)number(json_get(c, "mask"), i);
        same = same && number(ids, i) == number(fast, i);
    }
    assert_int_equal(out.n, valid);
    for (size_t i = 0; i < json_count(pieces) && i + 1 < valid; i++)
        assert_string_equal(out.tokens[i].piece, json_string(json_at(pieces, i), ""));
    if (same)
        check_offsets(text, &out, json_get(c, "fast_offsets"), valid);
    text_tokens_release(&out);
}

static void test_golden_cases(void **state)
{
    (void)state;
    char *dir = golden_folder("wan-t2v");
    if (!dir)
        skip();
    char *folder = fs_join(dir, "google/umt5-xxl");
    json *cases = read_json(dir, "tokenizer_cases.json");
    assert_true(json_count(cases) > 0);
    for (size_t k = 0; k < 3; k++) {
        if (!usable(ENGINES[k]))
            continue;
        tokenizer *t = open_with(folder, ENGINES[k], TOKENIZER_BYTES_AUTO);
        for (size_t i = 0; i < json_count(cases); i++)
            check_case(t, json_at(cases, i));
        tokenizer_free(t);
    }
    json_free(cases);
    free(folder);
    free(dir);
}

static void test_golden_spans(void **state)
{
    (void)state;
    char *dir = golden_folder("holocine"), *wan = golden_folder("wan-t2v");
    if (!dir || !wan) {
        free(dir);
        free(wan);
        skip();
    }
    char *folder = fs_join(wan, "google/umt5-xxl");
    json *cases = read_json(dir, "spans.json");
    for (size_t k = 0; k < 3; k++) {
        if (!usable(ENGINES[k]))
            continue;
        tokenizer *t = open_with(folder, ENGINES[k], TOKENIZER_BYTES_AUTO);
        for (size_t i = 0; i < json_count(cases); i++) {
            const json *c = json_at(cases, i);
            const char *text = json_get_string(c, "prompt", "");
            size_t n = json_count(json_get(c, "ids"));
            text_tokens out = encode(t, text, (int32_t)n);
            for (size_t j = 0; j < n; j++)
                assert_int_equal(out.ids[j], number(json_get(c, "ids"), j));
            assert_int_equal(out.n, json_get_int(c, "n", -1));
            check_offsets(text, &out, json_get(c, "offsets"), (size_t)out.n);
            text_tokens_release(&out);
        }
        tokenizer_free(t);
    }
    json_free(cases);
    free(folder);
    free(wan);
    free(dir);
}

/* ---- our own vocabulary ----------------------------------------------------------------------------------------- */

static void test_fixture(void **state)
{
    (void)state;
    json *cases = read_json(FIXTURE, "cases.json");
    for (size_t k = 0; k < 3; k++) {
        if (!usable(ENGINES[k]))
            continue;
        tokenizer *t = open_with(FIXTURE, ENGINES[k], TOKENIZER_BYTES_AUTO);
        tokenizer *bytes = open_with(FIXTURE, ENGINES[k], TOKENIZER_BYTES_KEEP);
        assert_int_equal(tokenizer_engine_used(t), ENGINES[k]);
        for (size_t i = 0; i < json_count(cases); i++) {
            const json *c = json_at(cases, i), *ids = json_get(c, "ids"), *raw = json_get(c, "bytes_ids");
            const char *text = json_get_string(c, "text", "");
            size_t n = json_count(ids);
            text_tokens out = encode(t, text, 512);
            assert_int_equal(out.n, n + 1);
            for (size_t j = 0; j < n; j++)
                assert_int_equal(out.ids[j], number(ids, j));
            assert_int_equal(out.ids[n], tokenizer_eos_id(t));
            assert_int_equal(out.ids[511], tokenizer_pad_id(t));
            assert_false(out.truncated);
            assert_int_equal(out.kept_bytes, strlen(text));
            /* with parts composed by the character map, the fast tokenizer covers the first part, spiece.model all */
            if (ENGINES[k] == TOKENIZER_JSON || !strstr(text, "e\xcc\x81"))
                check_offsets(text, &out, json_get(c, "offsets"), n);
            text_tokens_release(&out);
            if (!raw)
                continue;
            out = encode(bytes, text, 512);
            assert_int_equal(out.n, json_count(raw) + 1);
            for (size_t j = 0; j < json_count(raw); j++)
                assert_int_equal(out.ids[j], number(raw, j));
            text_tokens_release(&out);
        }
        tokenizer_free(t);
        tokenizer_free(bytes);
    }
    json_free(cases);
}

static void test_vocabulary(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        if (!usable(ENGINES[k]))
            continue;
        tokenizer *t = open_with(FIXTURE, ENGINES[k], TOKENIZER_BYTES_AUTO);
        assert_int_equal(tokenizer_size(t), 319);               /* 317 pieces and two added tokens */
        assert_string_equal(tokenizer_piece(t, 0), "<pad>");
        assert_string_equal(tokenizer_piece(t, 318), "<extra_id_1>");
        assert_null(tokenizer_piece(t, 319));
        assert_null(tokenizer_piece(t, -1));
        assert_int_equal(tokenizer_id(t, "</s>"), 1);
        assert_int_equal(tokenizer_id(t, "<extra_id_0>"), 317);
        assert_int_equal(tokenizer_id(t, "no such piece"), -1);
        assert_int_equal(tokenizer_unk_id(t), 2);
        for (int32_t i = 0; i < 319; i++)
            assert_int_equal(tokenizer_id(t, tokenizer_piece(t, i)), i);
        tokenizer_free(t);
    }
    tokenizer_free(NULL);
}

static void test_truncation(void **state)
{
    (void)state;
    tokenizer *t = open_with(FIXTURE, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    text_tokens whole = encode(t, "a man near a tree", 64);
    assert_false(whole.truncated);
    for (int32_t len = 1; len <= whole.n + 1; len++) {
        text_tokens cut = encode(t, "a man near a tree", len);
        assert_int_equal(cut.n, len < whole.n ? len : whole.n);
        assert_int_equal(cut.truncated, len < whole.n);
        assert_int_equal(cut.n_untruncated, whole.n);
        assert_int_equal(cut.ids[cut.n - 1], 1);
        for (int32_t i = 0; i + 1 < cut.n; i++)
            assert_int_equal(cut.ids[i], whole.ids[i]);
        if (len < whole.n)
            assert_int_equal(cut.kept_bytes, len > 1 ? whole.tokens[len - 2].end : 0);
        text_tokens_release(&cut);
    }
    text_tokens_release(&whole);
    text_tokens_release(NULL);
    tokenizer_free(t);
}

/* The pieces that the bytes of `word` touch, joined by blanks. */
static void expect_span(const tokenizer *t, const char *text, const char *word, const char *want)
{
    text_tokens out = encode(t, text, 128);
    const char *at = strstr(text, word);
    size_t begin = (size_t)(at - text);
    int32_t *index, n;
    err e = { 0 };
    str s = STR_INIT;
    assert_non_null(at);
    assert_int_equal(tokenizer_span_tokens(&out, begin, begin + strlen(word), &index, &n, &e), 0);
    for (int32_t i = 0; i < n; i++)
        str_addf(&s, "%s%s", i ? " " : "", out.tokens[index[i]].piece);
    assert_string_equal(str_text(&s), want);
    str_release(&s);
    free(index);
    text_tokens_release(&out);
}

static void test_spans(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        if (!usable(ENGINES[k]))
            continue;
        tokenizer *t = open_with(FIXTURE, ENGINES[k], TOKENIZER_BYTES_AUTO);
        expect_span(t, "a man near two people", "man", "\xe2\x96\x81m an");
        expect_span(t, "a man near two people", "n ", "an");          /* the blank of the next piece is no touch */
        expect_span(t, "a man near two people", " ", "");
        expect_span(t, "a man near two people", "n n", "an \xe2\x96\x81n");
        expect_span(t, "a man near two people", "a", "\xe2\x96\x81" "a");     /* the blank put in front belongs to it */
        expect_span(t, "zebra", "z", "z");                            /* but not when it is a piece of its own */
        expect_span(t, "zebra", "zebra", "z e b r a");
        expect_span(t, "a zzz man", "zz", "zzz");                             /* part of a fused unknown */
        expect_span(t, "a \xf0\x9f\x98\x80 man", "\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80");
        expect_span(t, "the </s> man", "</s>", "</s>");                       /* typed: it counts */
        expect_span(t, "a \xe3\x8e\x9e", "\xe3\x8e\x9e", "k m");              /* one character, two pieces */
        text_tokens out = encode(t, "a man", 16);
        int32_t *index, n;
        err e = { 0 };
        assert_int_equal(tokenizer_span_tokens(&out, 0, 1000, &index, &n, &e), 0);
        assert_int_equal(n, out.n - 1);                                       /* everything but the final </s> */
        free(index);
        assert_int_equal(tokenizer_span_tokens(&out, 2, 2, &index, &n, &e), 0);
        assert_int_equal(n, 0);
        assert_null(index);
        assert_int_equal(tokenizer_span_tokens(&out, 3, 2, &index, &n, &e), ERR_ARG);
        assert_string_equal(e.text, "a span from byte 3 to byte 2 is impossible, expected its begin before its end");
        text_tokens_release(&out);
        tokenizer_free(t);
    }
}

/* A mark in the typed text, through cleaning, to its tokens. */
static void test_from_mark_to_tokens(void **state)
{
    (void)state;
    tokenizer *t = open_with(FIXTURE, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    const char *typed = "  a&nbsp;&nbsp;man\tnear a tree";
    text_clean_result c;
    err e = { 0 };
    size_t begin, end, at = (size_t)(strstr(typed, "man") - typed);
    assert_int_equal(text_clean(typed, &TEXT_CLEAN_DEFAULT, &c, &e), 0);
    text_clean_map(&c, at, at + 3, &begin, &end);
    text_tokens out = encode(t, c.text, 32);
    int32_t *index, n;
    assert_int_equal(tokenizer_span_tokens(&out, begin, end, &index, &n, &e), 0);
    assert_int_equal(n, 2);
    assert_string_equal(out.tokens[index[0]].piece, "\xe2\x96\x81m");
    assert_string_equal(out.tokens[index[1]].piece, "an");
    free(index);
    text_tokens_release(&out);
    text_clean_release(&c);
    tokenizer_free(t);
}

static void test_special_flags(void **state)
{
    (void)state;
    char *dir = scratch(false, true);
    edit(dir, "tokenizer.json", "\"content\": \"<extra_id_0>\", \"single_word\": false, \"lstrip\": false, "
         "\"rstrip\": false",
         "\"content\": \"<extra_id_0>\", \"single_word\": true, \"lstrip\": true, \"rstrip\": true");
    tokenizer *t = open_with(dir, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    assert_int_equal(tokenizer_engine_used(t), TOKENIZER_JSON);
    text_tokens out = encode(t, "man  <extra_id_0>  man", 32);
    int32_t i = 0;
    while (i < out.n && out.tokens[i].id != 317)
        i++;
    assert_true(i < out.n && out.tokens[i].special);
    assert_int_equal(out.tokens[i].begin, 3);
    assert_int_equal(out.tokens[i].end, 19);
    text_tokens_release(&out);
    out = encode(t, "man<extra_id_0>man", 32);
    for (i = 0; i < out.n; i++)
        assert_int_not_equal(out.tokens[i].id, 317);
    text_tokens_release(&out);
    tokenizer_free(t);
    scratch_end(dir);
}

/* Blanks outside the pieces, as files with WhitespaceSplit have them. */
static void test_whitespace_split(void **state)
{
    (void)state;
    char *dir = scratch(false, true);
    edit(dir, "tokenizer.json",
         "{\"type\": \"Metaspace\", \"replacement\": \"\xe2\x96\x81\", \"prepend_scheme\": \"always\", "
         "\"split\": true}",
         "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"WhitespaceSplit\"}, {\"type\": \"Metaspace\", "
         "\"replacement\": \"\xe2\x96\x81\", \"add_prefix_space\": true}]}");
    tokenizer *t = open_with(dir, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    text_tokens out = encode(t, "a man", 32);
    assert_string_equal(out.tokens[1].piece, "\xe2\x96\x81m");
    assert_int_equal(out.tokens[1].begin, 2);
    assert_int_equal(out.tokens[1].end, 3);
    text_tokens_release(&out);
    tokenizer_free(t);
    scratch_end(dir);
}

/* ---- bad input -------------------------------------------------------------------------------------------------- */

static void test_bad_text(void **state)
{
    (void)state;
    tokenizer *t = open_with(FIXTURE, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    text_tokens out;
    err e = { 0 };
    assert_int_equal(tokenizer_encode(t, "a \xff man", 16, &out, &e), ERR_ARG);
    assert_string_equal(e.text, "the prompt is not UTF-8: byte 0xFF at offset 2 (of 7) does not begin or continue a "
                                "character; save the text as UTF-8");
    assert_null(out.ids);
    assert_int_equal(tokenizer_encode(t, "a man", 0, &out, &e), ERR_ARG);
    assert_string_equal(e.text, "a prompt of 0 tokens was asked for, expected at least 1");
    assert_null(out.tokens);
    tokenizer_free(t);
}

static void test_bad_files(void **state)
{
    (void)state;
    char *dir = scratch(false, false);
    refuse(dir, TOKENIZER_AUTO, ERR_IO, "neither spiece.model nor tokenizer.json is there; expected the folder "
                                        "google/umt5-xxl of the checkpoint");
    scratch_end(dir);
    refuse("no/such/folder", TOKENIZER_AUTO, ERR_IO, "no/such/folder: neither spiece.model nor");

    dir = scratch(true, false);
    refuse(dir, TOKENIZER_JSON, ERR_IO, "tokenizer.json is not there, but the tokenizer is asked to use it");
    scratch_end(dir);

    dir = scratch(false, true);
    refuse(dir, TOKENIZER_SPIECE, ERR_IO, "spiece.model is not there, but the tokenizer is asked to use it");
    if (!tokenizer_has_library())
        refuse(FIXTURE, TOKENIZER_SENTENCEPIECE, ERR_CONFIG, "this build has no sentencepiece library");
    edit(dir, "tokenizer.json", "\"Unigram\"", "\"BPE\"");
    refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, "the model type is 'BPE', expected 'Unigram' as in the T5 family");
    scratch_end(dir);

    dir = scratch(true, true);
    edit(dir, "tokenizer.json", "\"id\": 1, \"content\": \"</s>\"", "\"id\": 7, \"content\": \"</s>\"");
    refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, "the added token '</s>' has id 7, which is '<0x04>' in the vocabulary; the "
                                            "files in this folder do not belong together");
    scratch_end(dir);
}

static void test_bad_json(void **state)
{
    (void)state;
    static const char *const edits[][3] = {
        { "\"Metaspace\"", "\"ByteLevel\"", "the pre-tokenizer 'ByteLevel' is not supported here" },
        { "\"always\"", "\"sometimes\"", "has the prepend_scheme 'sometimes', expected always, first or never" },
        { "\"replacement\": \"\xe2\x96\x81\"", "\"replacement\": \"_\"", "replaces blanks by '_', expected U+2581" },
        { "\"Replace\"", "\"Lowercase\"", "the normalizer step 'Lowercase' is not supported here" },
        { "\" {2,}\"", "\"(a|b)*\"", "replaces the regular expression '(a|b)*', which is not supported here" },
        { "\"precompiled_charsmap\": \"", "\"precompiled_charsmap\": \"?",
          "the character map is not base64: byte 0x3F at offset 0" },
        { "\"precompiled_charsmap\": \"", "\"precompiled_charsmap\": \"AAAA", "the file is damaged" },
        { "\"unk_id\": 2", "\"unk_id\": 5000", "'model.unk_id' is 5000, expected 0 to 316" },
        { "[\"<pad>\", 0.0]", "[\"<pad>\"]", "entry 0 of 'model.vocab' must be a pair of a piece and its score" },
        { "[\"<pad>\", 0.0]", "[\"\", 0.0]", "piece 0 has 0 bytes, expected 1 to 4096" },
        { "[\"<0x00>\", 0.0]", "[\"<0x01>\", 0.0]", "are the same ('<0x01>'), expected each piece once" },
        { "\"vocab\": [", "\"vocabulary\": [", "'model.vocab' must be a list of [piece, score] pairs" },
        { "{\"id\": 0, \"content\"", "{\"id\": -4, \"content\"",
          "entry 0 of 'added_tokens' needs a 'content' and an 'id' from 0 on" },
        { "\"version\"", "version", "tokenizer.json" },
    };
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char *dir = scratch(false, true);
        edit(dir, "tokenizer.json", edits[i][0], edits[i][1]);
        refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, edits[i][2]);
        scratch_end(dir);
    }
}

static void write_model(const char *dir, const char *bytes, size_t n)
{
    char *path = fs_join(dir, "spiece.model");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    free(path);
}

/* Whatever happens to the bytes of spiece.model, opening and encoding end with a result or a sentence. */
static void test_damaged_model(void **state)
{
    (void)state;
    char *dir = scratch(true, false), *bytes;
    size_t n;
    err e = { 0 };
    assert_int_equal(fs_read_text(&bytes, &n, FIXTURE "/spiece.model", &e), 0);

    write_model(dir, bytes, 0);
    refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, "spiece.model: the vocabulary is empty");
    write_model(dir, bytes, 2000);
    refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, "this is no sentencepiece model, or it is damaged or cut off");
    write_model(dir, "PK\x03\x04 not a model", 16);
    refuse(dir, TOKENIZER_AUTO, ERR_FORMAT, "spiece.model: ");

    uint32_t seed = 1;
    for (int round = 0; round < 400; round++) {
        char *copy = malloc(n);
        assert_non_null(copy);
        memcpy(copy, bytes, n);
        size_t kept = n;
        for (int flips = 0; flips < 1 + round % 3; flips++) {
            seed = seed * 1664525u + 1013904223u;
            copy[(seed >> 8) % n] = (char)(seed >> 3);
        }
        if (round % 4 == 3)
            kept = (size_t)round * n / 400;
        write_model(dir, copy, kept);
        for (int k = 0; k < 2; k++) {
            const tokenizer_options o = { k ? TOKENIZER_SPIECE : TOKENIZER_AUTO, TOKENIZER_BYTES_KEEP };
            tokenizer *t;
            text_tokens out;
            int rc = tokenizer_open(&t, dir, &o, &e);
            if (rc) {
                assert_true(*e.text);
                continue;
            }
            if (tokenizer_encode(t, "two \xf0\x9f\x98\x80 \xef\xac\x81sh \xe3\x8e\x9e cafe\xcc\x81", 64, &out, &e) == 0)
                text_tokens_release(&out);
            tokenizer_free(t);
        }
        free(copy);
    }
    free(bytes);
    scratch_end(dir);
}

/* Without tokenizer.json the special pieces of the model itself are matched. */
static void test_spiece_alone(void **state)
{
    (void)state;
    char *dir = scratch(true, false);
    tokenizer *t = open_with(dir, TOKENIZER_AUTO, TOKENIZER_BYTES_AUTO);
    assert_int_equal(tokenizer_engine_used(t), tokenizer_has_library() ? TOKENIZER_SENTENCEPIECE : TOKENIZER_SPIECE);
    text_tokens out = encode(t, "man</s>zz", 16);
    assert_string_equal(out.tokens[2].piece, "</s>");
    assert_true(out.tokens[2].special);
    assert_int_equal(out.tokens[4].id, 2);              /* bytes only where they are asked for */
    text_tokens_release(&out);
    tokenizer_free(t);
    scratch_end(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_cases),     cmocka_unit_test(test_golden_spans),
        cmocka_unit_test(test_fixture),          cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_truncation),       cmocka_unit_test(test_spans),
        cmocka_unit_test(test_from_mark_to_tokens), cmocka_unit_test(test_special_flags),
        cmocka_unit_test(test_whitespace_split), cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_bad_files),        cmocka_unit_test(test_bad_json),
        cmocka_unit_test(test_damaged_model),    cmocka_unit_test(test_spiece_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
