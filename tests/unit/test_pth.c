#include "tests/unit/io_fixture.h"

#include "core/io/ckpt.h"
#include "core/io/ckpt_internal.h"

static ckpt *open_bytes(const str *bytes, err *e)
{
    ckpt *c;
    /* an exact copy, so that the sanitizers see a read one byte too far */
    uint8_t *copy = malloc(bytes->len ? bytes->len : 1);
    memcpy(copy, str_text(bytes), bytes->len);
    e->text[0] = '\0';
    e->kind = ckpt_open_memory(&c, CKPT_PTH, copy, bytes->len, "m.pth", e);
    free(copy);         /* the table stays readable, the tensors' bytes do not */
    return c;
}

/* an archive around a pickle, with two storages of floats */
static void archive(zip_made *z, const str *pickle)
{
    static const float A[6] = { 1, 2, 3, 4, 5, 6 };
    static const uint16_t B[4] = { 0x3f80, 0x4000, 0x4040, 0x4080 };
    zip_add(z, "model/data.pkl", pickle->data, pickle->len);
    zip_add(z, "model/byteorder", "little", 6);
    zip_add(z, "model/data/0", A, sizeof A);
    zip_add(z, "model/data/1", B, sizeof B);
    zip_add(z, "model/version", "3\n", 2);
    zip_finish(z);
}

static void refused(const str *pickle, const char *sentence)
{
    zip_made z = { .bytes = STR_INIT };
    err e = { 0 };
    archive(&z, pickle);
    ckpt *c = open_bytes(&z.bytes, &e);
    assert_null(c);
    assert_int_equal(e.kind, ERR_FORMAT);
    assert_text_has(e.text, sentence);
    assert_text_has(e.text, "m.pth: ");
    str_release(&z.bytes);
}

static void pickle_begin(str *p)
{
    str_clear(p);
    str_add(p, "\x80\x02}(");
}

static const pk_tensor PLAIN = { "FloatStorage", "0", 6, 0, 2, { 2, 3 }, { 3, 1 } };

/* what PyTorch writes and more: memo, a parameter, shared storages, offsets, nested dicts, values to pass over */
static void reads_state_dicts(void **state)
{
    (void)state;
    for (int zip64 = 0; zip64 < 2; zip64++) {
        str p = STR_INIT;
        err e = { 0 };
        pickle_begin(&p);
        pk_text(&p, "generator");
        str_add(&p, "}q");
        str_addc(&p, 1);
        str_addc(&p, '(');
        pk_text(&p, "model.w");
        pk_add_tensor(&p, &PLAIN);
        pk_text(&p, "model.row");       /* the second row of the same storage, as a parameter */
        str_add(&p, "ctorch._utils\n_rebuild_parameter\n(");
        pk_add_tensor(&p, &(pk_tensor){ "FloatStorage", "0", 6, 3, 1, { 3 }, { 1 } });
        str_add(&p, "\x88" "ccollections\nOrderedDict\n)RtR");
        pk_text(&p, "model.scalar");
        pk_add_tensor(&p, &(pk_tensor){ "BFloat16Storage", "1", 4, 3, 0, { 0 }, { 0 } });
        pk_text(&p, "model.column");    /* dimensions of size 1 may have any stride */
        pk_add_tensor(&p, &(pk_tensor){ "BFloat16Storage", "1", 4, 0, 3, { 1, 4, 1 }, { 77, 1, 9 } });
        pk_text(&p, "model.none");
        pk_add_tensor(&p, &(pk_tensor){ "BFloat16Storage", "1", 4, 4, 2, { 0, 5 }, { 5, 1 } });
        str_addc(&p, 'u');
        pk_text(&p, "optimizer");
        str_add(&p, "}(");
        pk_int(&p, 0);
        str_add(&p, "}(");
        pk_text(&p, "exp_avg");
        pk_add_tensor(&p, &PLAIN);
        str_add(&p, "uu");
        pk_text(&p, "step");
        pk_int(&p, 3000000000000);
        pk_text(&p, "lr");
        str_add(&p, "G?");
        str_addn(&p, "\xf0\0\0\0\0\0\0", 7);
        pk_text(&p, "list");
        str_add(&p, "](NNe");
        pk_text(&p, "note");
        str_add(&p, "\x8c\x04tiny");
        str_add(&p, "u.");

        zip_made z = { .bytes = STR_INIT, .zip64 = zip64 };
        archive(&z, &p);
        assert_int_equal(fs_write_atomic(tmp_path("m.pth"), z.bytes.data, z.bytes.len, &e), 0);
        ckpt *c;
        if (ckpt_open(&c, tmp_path("m.pth"), &e))
            fail_msg("%s", e.text);
        assert_int_equal(ckpt_count(c), 6);
        const ckpt_tensor *t = ckpt_find(c, "generator.model.w");
        static const float WHOLE[6] = { 1, 2, 3, 4, 5, 6 };
        assert_int_equal(t->bytes, 24);
        assert_memory_equal(t->data, WHOLE, 24);
        t = ckpt_find(c, "generator.model.row");
        assert_memory_equal(t->data, WHOLE + 3, 12);
        t = ckpt_find(c, "generator.model.scalar");
        assert_true(t->ndim == 0 && t->bytes == 2 && t->dtype == DT_BF16);
        assert_memory_equal(t->data, "\x80\x40", 2);
        assert_int_equal(ckpt_find(c, "generator.model.column")->shape[1], 4);
        assert_int_equal(ckpt_find(c, "generator.model.none")->bytes, 0);
        assert_non_null(ckpt_find(c, "optimizer.0.exp_avg"));
        ckpt_close(c);
        str_release(&z.bytes);
        str_release(&p);
    }
}

static void protocol_4_and_new_types(void **state)
{
    (void)state;
    /* STACK_GLOBAL, MEMOIZE, FRAME, and the form for element types without a storage class (fp8) */
    str p = STR_INIT;
    err e = { 0 };
    str_addn(&p, "\x80\x04\x95\x01\0\0\0\0\0\0\0}(", 13);
    str_add(&p, "\x8c\x01w\x94\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v3\x93((");
    str_add(&p, "\x8c\x07storage\x8c\x0dtorch.storage\x8c\x0eUntypedStorage\x93\x8c\x01" "0\x8c\x03" "cpuK\x18tQ");
    static const char REST[] = "K\0(K\x03K\x02tK\x02K\x01\x86\x89"
                               "ccollections\nOrderedDict\n)Rctorch\nfloat8_e4m3fn\ntRu.";
    str_addn(&p, REST, sizeof REST - 1);
    zip_made z = { .bytes = STR_INIT };
    archive(&z, &p);
    assert_int_equal(fs_write_atomic(tmp_path("v4.pt"), z.bytes.data, z.bytes.len, &e), 0);
    ckpt *c;
    if (ckpt_open(&c, tmp_path("v4.pt"), &e))
        fail_msg("%s", e.text);
    const ckpt_tensor *t = ckpt_find(c, "w");
    assert_true(t && t->dtype == DT_F8_E4M3 && t->bytes == 6 && t->shape[0] == 3);
    ckpt_close(c);
    str_release(&z.bytes);
    str_release(&p);
}

static void dangerous_pickles(void **state)
{
    (void)state;
    static const struct {
        const char *pickle;
        size_t n;
        const char *sentence;
    } BAD[] = {
#define P(text) text, sizeof text - 1
        { P("\x80\x02" "cos\nsystem\n(X\x02\0\0\0idtR."), "the pickle asks to call 'os.system', which no checkpoint "
        "of tensors" },
        { P("\x80\x02" "cbuiltins\neval\n."), "asks to call 'builtins.eval'" },
        { P("\x80\x04\x8c\x05posix\x8c\x06system\x93."), "asks to call 'posix.system'" },
        { P("\x80\x02" "c__builtin__\ngetattr\n."), "asks to call '__builtin__.getattr'" },
        { P("(S'id'\nios\nsystem\n."), "uses opcode 0x53 (STRING)" },
        { P("(ios\nsystem\n."), "asks to call 'os.system'" },
        { P("\x80\x02" "ctorch\nload\n."), "asks to call 'torch.load'" },
        { P("\x80\x02" "ctorch._utils\n_rebuild_tensor_v2.__globals__\n."), "_rebuild_tensor_v2.__globals__" },
        { P("\x80\x02" "cx\x1b[31m\nq\n."), "asks to call 'x?[31m.q'" },
        { P("\x80\x02}\x81."), "uses opcode 0x81 (NEWOBJ) at byte 3" },
        { P("\x80\x02(o."), "(OBJ)" },
        { P("\x80\x02\x82\x01."), "(EXT1)" },
        { P("\x80\x02P1\n."), "(PERSID)" },
        { P("\x80\x02\xff."), "opcode 0xff (not an opcode of pickle)" },
        { P("\x80\x09}."), "a protocol newer than 5" },
        { P("\x80\x02}"), "ends without a STOP" },
        { P(""), "ends without a STOP" },
        { P("\x80\x02."), "stops without exactly one result" },
        { P("\x80\x02}}."), "stops without exactly one result" },
        { P("\x80\x02(."), "stops without exactly one result" },
        { P("\x80\x02]."), "expected a dict of tensors, found something else" },
        { P("\x80\x02h\x01."), "recalls a value that was never memorised" },
        { P("\x80\x02q\x01."), "memorises a value that is not there" },
        { P("\x80\x02(q\x01."), "memorises a value that is not there" },
        { P("\x80\x02X\xff\xff\xff\xff" "a."), "a text runs past the end" },
        { P("\x80\x02J\x01."), "ends inside an instruction" },
        { P("\x80\x02}(K\x01u."), "a dict gets a key without a value" },
        { P("\x80\x02](K\x01K\x02u."), "not a dict" },
        { P("\x80\x02}K\x01" "a."), "not a list" },
        { P("\x80\x02K\x01\x86."), "a tuple takes more values than there are" },
        { P("\x80\x02t."), "a tuple without its mark" },
        { P("\x80\x02}R."), "a call lacks its function" },
        { P("\x80\x02})R."), "something that is not a function is called" },
        { P("\x80\x02" "ctorch\nFloatStorage\n)R."), "a storage or element type is called" },
        { P("\x80\x02" "ccollections\nOrderedDict\n(K\x01tR."), "an OrderedDict is built with arguments" },
        { P("\x80\x02K\x01Q."), "a persistent id is not a storage" },
        { P("\x80\x02)K\x01" "b."), "a state is set on something that is not a dict" },
        { P("\x80\x02" "ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02tR."), "built from too few values" },
#undef P
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        str p = STR_INIT;
        str_addn(&p, BAD[i].pickle, BAD[i].n);
        refused(&p, BAD[i].sentence);
        str_release(&p);
    }
    /* the file a dangerous pickle would make is not there */
    assert_false(fs_exists(tmp_path("owned")));
}

static void lying_tensors(void **state)
{
    (void)state;
    static const struct {
        pk_tensor t;
        const char *sentence;
    } BAD[] = {
        { { "FloatStorage", "0", 6, 0, 2, { 3, 2 }, { 1, 3 } }, "tensor 'w' of shape [3, 2] is not contiguous" },
        { { "FloatStorage", "0", 6, 0, 2, { 2, 3 }, { 0, 0 } }, "not contiguous" },
        { { "FloatStorage", "0", 6, 4, 2, { 2, 3 }, { 3, 1 } }, "at offset 4 reaches beyond its storage of 6 "
        "elements" },
        { { "FloatStorage", "0", 6, -1, 1, { 2 }, { 1 } }, "begins before its storage (offset -1)" },
        { { "FloatStorage", "0", 6, INT64_MAX, 1, { 2 }, { 1 } }, "reaches beyond its storage" },
        { { "FloatStorage", "0", 7, 0, 1, { 7 }, { 1 } }, "its storage of 7 elements does not fit into the 24 bytes" },
        { { "DoubleStorage", "0", 6, 0, 1, { 6 }, { 1 } }, "does not fit into the 24 bytes" },
        { { "FloatStorage", "0", INT64_MAX, 0, 1, { 6 }, { 1 } }, "does not fit into the 24 bytes" },
        { { "FloatStorage", "9", 6, 0, 1, { 6 }, { 1 } }, "the archive has no entry for its storage 'data/9'" },
        { { "FloatStorage", "../0", 6, 0, 1, { 6 }, { 1 } }, "no entry for its storage" },
        { { "FloatStorage", "0", 6, 0, 2, { -2, 3 }, { 3, 1 } }, "dimension 0 of the shape [-2, 3] is negative" },
        { { "FloatStorage", "0", 6, 0, 2, { INT64_MAX, 3 }, { 3, 1 } }, "overflows the size of memory" },
    };
    str p = STR_INIT;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        pickle_begin(&p);
        pk_text(&p, "w");
        pk_add_tensor(&p, &BAD[i].t);
        str_add(&p, "u.");
        refused(&p, BAD[i].sentence);
    }
    /* twice the same name; a name that is too long; one with a NUL; dicts in circles */
    pickle_begin(&p);
    pk_text(&p, "w");
    pk_add_tensor(&p, &PLAIN);
    pk_text(&p, "w");
    pk_add_tensor(&p, &PLAIN);
    str_add(&p, "u.");
    refused(&p, "the tensor 'w' occurs twice");
    pickle_begin(&p);
    char big[1200];
    memset(big, 'n', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    pk_text(&p, big);
    pk_add_tensor(&p, &PLAIN);
    str_add(&p, "u.");
    refused(&p, "is longer than the 1000 bytes allowed");
    pickle_begin(&p);
    str_addn(&p, "X\x03\0\0\0a\0b", 8);
    pk_add_tensor(&p, &PLAIN);
    str_add(&p, "u.");
    refused(&p, "holds a NUL");
    str_clear(&p);
    str_addn(&p, "\x80\x02}q\0(", 6);
    pk_text(&p, "again");
    str_addn(&p, "h\0u.", 4);
    refused(&p, "nested more than 32 deep at 'again.again");
    /* each dict holds the last one twice: 2^25 names from a few bytes */
    str outer = STR_INIT;
    str_add(&outer, "\x80\x02}(");
    for (int i = 0; i <= 25; i++) {
        pk_text(&outer, "k");
        if (i == 0) {
            str_addn(&outer, "}q\0", 3);
            continue;
        }
        str_addf(&outer, "}q%c(", i);
        for (int k = 0; k < 2; k++) {
            pk_text(&outer, k ? "b" : "a");
            str_addc(&outer, 'h');
            str_addc(&outer, (char)(i - 1));
        }
        str_addc(&outer, 'u');
    }
    str_add(&outer, "u.");
    refused(&outer, "repeats the same dicts without end");
    str_release(&outer);
    str_release(&p);
}

static void lying_archives(void **state)
{
    (void)state;
    str p = STR_INIT;
    err e = { 0 };
    pickle_begin(&p);
    pk_text(&p, "w");
    pk_add_tensor(&p, &PLAIN);
    str_add(&p, "u.");

    zip_made z = { .bytes = STR_INIT, .method = 8 };
    archive(&z, &p);
    assert_null(open_bytes(&z.bytes, &e));
    assert_text_has(e.text, "the zip entry 'model/data.pkl' is compressed (method 8)");
    str_release(&z.bytes);

    z = (zip_made){ .bytes = STR_INIT };
    zip_add(&z, "model/other", "x", 1);
    zip_finish(&z);
    assert_null(open_bytes(&z.bytes, &e));
    assert_text_has(e.text, "holds no data.pkl");
    str_release(&z.bytes);

    z = (zip_made){ .bytes = STR_INIT };
    zip_add(&z, "a/data.pkl", p.data, p.len);
    zip_add(&z, "b/data.pkl", p.data, p.len);
    zip_finish(&z);
    assert_null(open_bytes(&z.bytes, &e));
    assert_text_has(e.text, "holds more than one data.pkl");
    str_release(&z.bytes);

    z = (zip_made){ .bytes = STR_INIT };
    zip_add(&z, "a/data.pkl", p.data, p.len);
    zip_add(&z, "a/data.pkl", p.data, p.len);
    zip_finish(&z);
    assert_null(open_bytes(&z.bytes, &e));
    assert_text_has(e.text, "the zip entry 'a/data.pkl' occurs twice");
    str_release(&z.bytes);

    z = (zip_made){ .bytes = STR_INIT };
    zip_add(&z, "a/data.pkl", p.data, p.len);
    zip_add(&z, "a/byteorder", "big", 3);
    zip_finish(&z);
    assert_null(open_bytes(&z.bytes, &e));
    assert_text_has(e.text, "saved on a big-endian machine");
    str_release(&z.bytes);

    /* fields of the directory that point elsewhere */
    static const struct {
        int from_end;           /* of the field, counted from the file's end */
        const char *sentence;
    } FIELDS[] = {
        { 6, "zip directory" },         /* offset of the directory */
        { 10, "zip directory" },        /* its size */
        { 12, "cannot hold" },          /* number of entries */
    };
    for (size_t i = 0; i < 3; i++) {
        z = (zip_made){ .bytes = STR_INIT };
        archive(&z, &p);
        z.bytes.data[z.bytes.len - (size_t)FIELDS[i].from_end] ^= 0x70;
        z.bytes.data[z.bytes.len - (size_t)FIELDS[i].from_end + 1] ^= 0x70;
        assert_null(open_bytes(&z.bytes, &e));
        assert_text_has(e.text, FIELDS[i].sentence);
        str_release(&z.bytes);
    }
    str_release(&p);
}

/* Every prefix of a small archive, and every single byte of it replaced, ends in a sentence or in a checkpoint. */
static void every_prefix_and_byte(void **state)
{
    (void)state;
    str p = STR_INIT;
    err e = { 0 };
    pickle_begin(&p);
    pk_text(&p, "w");
    pk_add_tensor(&p, &PLAIN);
    str_add(&p, "u.");
    for (int zip64 = 0; zip64 < 2; zip64++) {
        zip_made z = { .bytes = STR_INIT, .zip64 = zip64 };
        archive(&z, &p);
        size_t n = z.bytes.len;
        for (size_t k = 0; k < n; k++) {
            z.bytes.len = k;
            assert_null(open_bytes(&z.bytes, &e));
            assert_int_equal(e.kind, ERR_FORMAT);
            assert_text_has(e.text, "m.pth: ");
        }
        z.bytes.len = n;
        static const uint8_t VALUES[] = { 0, 1, 0x7f, 0x80, 0xff };
        for (size_t k = 0; k < n; k++)
            for (size_t v = 0; v < sizeof VALUES; v++) {
                char kept = z.bytes.data[k];
                z.bytes.data[k] = (char)VALUES[v];
                ckpt *c = open_bytes(&z.bytes, &e);
                assert_true(c || e.text[0]);
                ckpt_close(c);
                z.bytes.data[k] = kept;
            }
        str_release(&z.bytes);
    }
    str_release(&p);
}

/* files PyTorch itself wrote */
static void goldens_open(void **state)
{
    (void)state;
    static const struct {
        const char *file, *tensor;
        size_t least;
    } FILES[] = {
        { "wan-t2v/Wan2.1_VAE.pth", "decoder.head.2.bias", 100 },
        { "wan-t2v/models_t5_umt5-xxl-enc-bf16.pth", "blocks.0.attn.q.weight", 12 },
        { "longlive/longlive_base.pt", "generator.model.head.head.weight", 60 },
        { "longlive/lora.pt", "generator_lora.base_model.model.blocks.0.self_attn.q.lora_A.weight", 20 },
    };
    if (!fs_is_dir(goldens()))
        skip();
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++) {
        char path[1000];
        ckpt *c;
        err e = { 0 };
        snprintf(path, sizeof path, "%s/%s", goldens(), FILES[i].file);
        if (!fs_exists(path))
            continue;
        if (ckpt_open(&c, path, &e))
            fail_msg("%s", e.text);
        assert_true(ckpt_count(c) >= FILES[i].least);
        assert_non_null(ckpt_find(c, FILES[i].tensor));
        ckpt_close(c);
    }
}

static int setup(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_state_dicts), cmocka_unit_test(protocol_4_and_new_types),
        cmocka_unit_test(dangerous_pickles), cmocka_unit_test(lying_tensors),
        cmocka_unit_test(lying_archives),    cmocka_unit_test(every_prefix_and_byte),
        cmocka_unit_test(goldens_open),
    };
    return cmocka_run_group_tests_name("pth", tests, setup, teardown);
}
