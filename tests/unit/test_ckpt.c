#include "tests/unit/io_fixture.h"

#include "core/io/ckpt.h"
#include "core/io/ckpt_internal.h"

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

static ckpt *open_ok(const char *path)
{
    ckpt *c;
    err e = { 0 };
    if (ckpt_open(&c, path, &e))
        fail_msg("%s", e.text);
    return c;
}

static void open_fails(const char *path, int kind, const char *sentence)
{
    ckpt *c;
    err e = { 0 };
    int rc = ckpt_open(&c, path, &e);
    ckpt_close(c);
    assert_null(c);
    assert_text_has(e.text, sentence);
    assert_int_equal(rc, kind);
}

static void put(const char *path, const void *bytes, size_t n)
{
    err e = { 0 };
    if (fs_write_atomic(path, bytes, n, &e))
        fail_msg("%s", e.text);
}

static void reads(void **state)
{
    (void)state;
    static const char HEADER[] = "{\"__metadata__\":{\"format\":\"pt\",\"note\":\"x\"},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
        "\"a.x\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]},"
        "\"scalar\":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[28,29]},"
        "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[29,29]}}   ";
    const char *path = tmp_path("a.safetensors");
    write_safetensors_raw(path, HEADER, 29);
    ckpt *c = open_ok(path);
    assert_int_equal(ckpt_count(c), 4);
    assert_string_equal(ckpt_path(c), path);
    assert_string_equal(ckpt_at(c, 0)->name, "a.x");
    assert_null(ckpt_at(c, 4));
    const ckpt_tensor *b = ckpt_find(c, "b");
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_string_equal(b->file, path);
    assert_int_equal(ckpt_find(c, "scalar")->ndim, 0);
    assert_int_equal(ckpt_find(c, "empty")->bytes, 0);
    assert_null(ckpt_find(c, "c"));
    assert_string_equal(ckpt_metadata(c, "note"), "x");
    assert_null(ckpt_metadata(c, "other"));
    ckpt_close(c);
    ckpt_close(NULL);
}

#define ONE(dtype, shape, offsets) \
    "{\"w\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static void lying_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        const char *sentence;
    } BAD[] = {
        { ONE("\"F32\"", "[2,3]", "[0,28]"), "F32 of shape [2, 3] needs 24 bytes, but data_offsets [0, 28] hold 28" },
        { ONE("\"F32\"", "[2,3]", "[0,24]"), "" },
        { ONE("\"F32\"", "[20,3]", "[0,240]"), "tensor 'w' ends at byte 240 of the data, but the file holds only 100" },
        { ONE("\"F32\"", "[-2,-3]", "[0,24]"), "dimension 0 of the shape is negative (-2)" },
        { ONE("\"F32\"", "[4294967296,4294967296]", "[0,0]"), "the shape [4294967296, 4294967296] overflows" },
        { ONE("\"F32\"", "[9223372036854775807]", "[0,4]"), "overflows" },
        { ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "has 9 dimensions, more than the 8 supported" },
        { ONE("\"F32\"", "[1.5]", "[0,4]"), "dimension 0 of the shape is not a 64-bit integer" },
        { ONE("\"F32\"", "6", "[0,4]"), "has no 'shape' array" },
        { ONE("\"F32\"", "[1]", "[4,0]"), "data_offsets [4, 0] are not a range" },
        { ONE("\"F32\"", "[1]", "[-4,0]"), "are not a range" },
        { ONE("\"F32\"", "[1]", "[0]"), "expected 'data_offsets' of two integers" },
        { ONE("\"F32\"", "[1]", "[96,100.0]"), "expected 'data_offsets' of two integers" },
        { ONE("\"U32\"", "[1]", "[0,4]"), "has the dtype 'U32', which is not supported" },
        { ONE("3", "[1]", "[0,4]"), "has no 'dtype'" },
        { "{\"w\":5}", "is not an object with dtype, shape and data_offsets" },
        { "{\"\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "a tensor has an empty name" },
        { "{\"a\\u0007b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", "control character 0x07 after "
        "'a'" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
          "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
          "the tensors 'a' (bytes 0 to 8) and 'b' (bytes 4 to 12) overlap" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
          "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", "the member \"a\" appears twice" },
        { "[1]", "the safetensors header is not a JSON object" },
        { "{\"a\":", "safetensors header: line 1, column 6: expected a value" },
        { "{\"__metadata__\":3}", "'__metadata__' in the header is not an object" },
        { "{\"__metadata__\":{\"a\":3}}", "'__metadata__' member 'a' in the header is not a text" },
        { "{}", "holds no tensors" },
    };
    const char *path = tmp_path("lying.safetensors");
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        write_safetensors_raw(path, BAD[i].header, 100);
        if (*BAD[i].sentence)
            open_fails(path, ERR_FORMAT, BAD[i].sentence);
        else
            ckpt_close(open_ok(path));
    }
}

static void damaged_files(void **state)
{
    (void)state;
    const char *path = tmp_path("damaged.safetensors");
    put(path, "", 0);
    open_fails(path, ERR_FORMAT, "the file is empty");
    put(path, "abcd", 4);
    open_fails(path, ERR_FORMAT, "4 bytes are too few for a safetensors file");
    put(path, "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
    open_fails(path, ERR_FORMAT, "the header length 9223372036854775807 is absurd");
    put(path, "\x40\0\0\0\0\0\0\0{}", 10);
    open_fails(path, ERR_FORMAT, "the header of 64 bytes does not fit into the file of 10 bytes");
    put(path, "GGUF\3\0\0\0", 8);
    open_fails(path, ERR_FORMAT, "this is a GGUF file");
    put(path, "<!DOCTYPE html>", 15);
    open_fails(path, ERR_FORMAT, "this is a web page");
    put(path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", 62);
    open_fails(path, ERR_FORMAT, "git LFS pointer");
    put(path, "\x80\x02}q\x00.", 6);
    open_fails(path, ERR_FORMAT, "this is a bare pickle");
    put(tmp_path("x.pth"), "nothing like a zip", 18);
    open_fails(tmp_path("x.pth"), ERR_FORMAT, "expected a zip archive as torch.save writes it");
    open_fails(tmp_path("not there"), ERR_IO, "cannot open the file: No such file");
}

/* Every prefix of a small file fails cleanly; so does it from memory, where the sanitizers watch every byte. */
static void every_prefix_fails(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    const char *path = tmp_path("whole.safetensors");
    MADE(&m, "w.weight", "F32", 3, 2);
    MADE(&m, "w.bias", "BF16", 3);
    write_safetensors(&m, path);
    char *bytes;
    size_t n;
    err e = { 0 };
    assert_int_equal(fs_read_text(&bytes, &n, path, &e), 0);
    for (size_t k = 0; k <= n; k++) {
        uint8_t *part = malloc(k ? k : 1);
        ckpt *c;
        memcpy(part, bytes, k);
        e.text[0] = '\0';
        int rc = ckpt_open_memory(&c, CKPT_SAFETENSORS, part, k, "cut.safetensors", &e);
        if (k < n) {
            assert_int_equal(rc, ERR_FORMAT);
            assert_text_has(e.text, "cut.safetensors");
        } else {
            assert_int_equal(rc, 0);
        }
        ckpt_close(c);
        free(part);
    }
    free(bytes);
}

static void write_index(const char *name, const char *json)
{
    put(tmp_path(name), json, strlen(json));
}

static void shards(void **state)
{
    (void)state;
    err e = { 0 };
    made m = { .entries = STR_INIT };
    assert_int_equal(fs_mkdirs(tmp_path("sh"), &e), 0);
    MADE(&m, "a", "F32", 2);
    write_safetensors(&m, tmp_path("sh/diffusion_pytorch_model-00001-of-00002.safetensors"));
    MADE(&m, "b", "F32", 3);
    MADE(&m, "c", "F16", 3);
    write_safetensors(&m, tmp_path("sh/diffusion_pytorch_model-00002-of-00002.safetensors"));
    open_fails(tmp_path("sh"), ERR_IO, "holds 2 checkpoint files and no *.safetensors.index.json");
    write_index("sh/diffusion_pytorch_model.safetensors.index.json",
                "{\"metadata\":{\"total_size\":26},\"weight_map\":{"
                "\"a\":\"diffusion_pytorch_model-00001-of-00002.safetensors\","
                "\"b\":\"diffusion_pytorch_model-00002-of-00002.safetensors\","
                "\"c\":\"diffusion_pytorch_model-00002-of-00002.safetensors\"}}");
    ckpt *c = open_ok(tmp_path("sh"));
    assert_int_equal(ckpt_count(c), 3);
    assert_text_has(ckpt_find(c, "c")->file, "00002-of-00002");
    char sharded[65], whole[65];
    assert_int_equal(ckpt_digest(c, sharded, &e), 0);
    ckpt_close(c);
    c = open_ok(tmp_path("sh/diffusion_pytorch_model.safetensors.index.json"));
    ckpt_close(c);

    /* the same tensors in one file, in another order: the same identity */
    MADE(&m, "c", "F16", 3);
    MADE(&m, "b", "F32", 3);
    MADE(&m, "a", "F32", 2);
    write_safetensors(&m, tmp_path("whole.safetensors"));
    c = open_ok(tmp_path("whole.safetensors"));
    assert_int_equal(ckpt_digest(c, whole, &e), 0);
    assert_string_equal(sharded, whole);
    ckpt_close(c);
    MADE(&m, "c", "BF16", 3);
    MADE(&m, "b", "F32", 3);
    MADE(&m, "a", "F32", 2);
    write_safetensors(&m, tmp_path("whole.safetensors"));
    c = open_ok(tmp_path("whole.safetensors"));
    assert_int_equal(ckpt_digest(c, whole, &e), 0);
    assert_string_not_equal(sharded, whole);
    ckpt_close(c);

    const char *index = tmp_path("sh/bad.index.json");
    write_index("sh/bad.index.json", "{\"weight_map\":{\"a\":\"diffusion_pytorch_model-00002-of-00002.safetensors\"}}");
    open_fails(index, ERR_FORMAT, "the index places 1 tensor in a shard that does not hold it, the first being 'a'");
    write_index("sh/bad.index.json", "{\"weight_map\":{\"a\":\"x1.safetensors\",\"b\":\"x2.safetensors\"}}");
    open_fails(index, ERR_IO, "2 of 2 shards are missing from the folder: 'x1.safetensors', 'x2.safetensors'");
    write_index("sh/bad.index.json", "{\"weight_map\":{\"a\":\"../whole.safetensors\"}}");
    open_fails(index, ERR_FORMAT, "expected the name of a file in the same folder");
    write_index("sh/bad.index.json", "{\"weight_map\":{\"a\":7}}");
    open_fails(index, ERR_FORMAT, "something that is not text");
    write_index("sh/bad.index.json", "{\"other\":1}");
    open_fails(index, ERR_FORMAT, "expected an index with a member 'weight_map'");
    write_index("sh/bad.index.json", "{\"weight_map\":");
    open_fails(index, ERR_FORMAT, "bad.index.json: line 1, column 15: expected a value");
    MADE(&m, "b", "F32", 3);
    write_safetensors(&m, tmp_path("sh/twice.safetensors"));
    write_index("sh/bad.index.json", "{\"weight_map\":{\"a\":\"twice.safetensors\","
                "\"b\":\"diffusion_pytorch_model-00002-of-00002.safetensors\"}}");
    open_fails(index, ERR_FORMAT, "the tensor 'b' occurs twice");
    assert_int_equal(fs_mkdirs(tmp_path("hollow"), &e), 0);
    open_fails(tmp_path("hollow"), ERR_IO, "the folder holds no checkpoint: expected diffusion_pytorch_model");
}

/* names */

static ckpt *normalised(made *m, ckpt_kind kind)
{
    err e = { 0 };
    const char *path = tmp_path("names.safetensors");
    write_safetensors(m, path);
    ckpt *c = open_ok(path);
    if (ckpt_normalise(c, kind, &e) || ckpt_normalise(c, kind, &e))     /* doing it again changes nothing */
        fail_msg("%s", e.text);
    return c;
}

static void diffusers_dit(void **state)
{
    (void)state;
    static const char *const PAIRS[][2] = {
        { "condition_embedder.text_embedder.linear_1.weight", "text_embedding.0.weight" },
        { "condition_embedder.text_embedder.linear_2.bias", "text_embedding.2.bias" },
        { "condition_embedder.time_embedder.linear_1.weight", "time_embedding.0.weight" },
        { "condition_embedder.time_embedder.linear_2.weight", "time_embedding.2.weight" },
        { "condition_embedder.time_proj.bias", "time_projection.1.bias" },
        { "condition_embedder.image_embedder.norm1.weight", "img_emb.proj.0.weight" },
        { "condition_embedder.image_embedder.ff.net.0.proj.weight", "img_emb.proj.1.weight" },
        { "condition_embedder.image_embedder.ff.net.2.weight", "img_emb.proj.3.weight" },
        { "condition_embedder.image_embedder.norm2.weight", "img_emb.proj.4.weight" },
        { "condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos" },
        { "patch_embedding.weight", "patch_embedding.weight" },
        { "blocks.11.scale_shift_table", "blocks.11.modulation" },
        { "blocks.11.attn1.to_q.weight", "blocks.11.self_attn.q.weight" },
        { "blocks.11.attn1.to_out.0.bias", "blocks.11.self_attn.o.bias" },
        { "blocks.11.attn1.norm_k.weight", "blocks.11.self_attn.norm_k.weight" },
        { "blocks.11.norm2.weight", "blocks.11.norm3.weight" },
        { "blocks.11.norm2.bias", "blocks.11.norm3.bias" },
        { "blocks.11.attn2.to_v.weight", "blocks.11.cross_attn.v.weight" },
        { "blocks.11.attn2.add_k_proj.weight", "blocks.11.cross_attn.k_img.weight" },
        { "blocks.11.attn2.add_v_proj.bias", "blocks.11.cross_attn.v_img.bias" },
        { "blocks.11.attn2.norm_added_k.weight", "blocks.11.cross_attn.norm_k_img.weight" },
        { "blocks.11.ffn.net.0.proj.weight", "blocks.11.ffn.0.weight" },
        { "blocks.11.ffn.net.2.bias", "blocks.11.ffn.2.bias" },
        { "vace_blocks.1.proj_out.weight", "vace_blocks.1.after_proj.weight" },
        { "vace_blocks.0.proj_in.bias", "vace_blocks.0.before_proj.bias" },
        { "vace_blocks.0.attn1.to_k.bias", "vace_blocks.0.self_attn.k.bias" },
        { "scale_shift_table", "head.modulation" },
        { "proj_out.weight", "head.head.weight" },
        { "blocks.11.attn2.to_q.weight_scale", "blocks.11.cross_attn.q.scale_weight" },
        { "something.else", "something.else" },
    };
    static const char *const PREFIXES[] = { "", "model.diffusion_model.", "model.", "diffusion_model.", "transformer.",
                                            "state_dict.model." };
    for (size_t k = 0; k < sizeof PREFIXES / sizeof *PREFIXES; k++) {
        made m = { .entries = STR_INIT };
        size_t n = sizeof PAIRS / sizeof *PAIRS;
        for (size_t i = 0; i < n; i++) {
            char name[200];
            snprintf(name, sizeof name, "%s%s", PREFIXES[k], PAIRS[i][0]);
            MADE(&m, name, "F32", (int64_t)i + 1);
        }
        ckpt *c = normalised(&m, CKPT_DIT);
        assert_int_equal(ckpt_count(c), n);
        for (size_t i = 0; i < n; i++) {
            const ckpt_tensor *t = ckpt_find(c, PAIRS[i][1]);
            if (!t)
                fail_msg("%s%s did not become %s", PREFIXES[k], PAIRS[i][0], PAIRS[i][1]);
            assert_int_equal(t->shape[0], i + 1);
            assert_true(str_ends_with(t->file_name, PAIRS[i][0]));
        }
        ckpt_close(c);
    }
}

static void original_dit_stays(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    MADE(&m, "patch_embedding.weight", "F32", 1);
    MADE(&m, "blocks.0.norm3.weight", "F32", 2);
    MADE(&m, "blocks.0.norm2.weight", "F32", 3);
    ckpt *c = normalised(&m, CKPT_DIT);
    assert_int_equal(ckpt_find(c, "blocks.0.norm3.weight")->shape[0], 2);
    assert_int_equal(ckpt_find(c, "blocks.0.norm2.weight")->shape[0], 3);
    ckpt_close(c);
}

static void nested_files(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    /* a training checkpoint: the generator counts, its average and the critic do not */
    MADE(&m, "generator.model._fsdp_wrapped_module.patch_embedding.weight", "F32", 1);
    MADE(&m, "generator.model.head.modulation", "F32", 1);
    MADE(&m, "generator_ema.model.patch_embedding.weight", "F32", 2);
    MADE(&m, "critic.model.patch_embedding.weight", "F32", 3);
    ckpt *c = normalised(&m, CKPT_DIT);
    assert_int_equal(ckpt_count(c), 2);
    assert_int_equal(ckpt_find(c, "patch_embedding.weight")->shape[0], 1);
    assert_non_null(ckpt_find(c, "head.modulation"));
    ckpt_close(c);

    /* everything in one file */
    MADE(&m, "model.diffusion_model.patch_embedding.weight", "F32", 1);
    MADE(&m, "first_stage_model.decoder.conv1.weight", "F32", 2);
    MADE(&m, "text_encoders.umt5xxl.transformer.shared.weight", "F32", 3);
    MADE(&m, "text_encoders.umt5xxl.transformer.encoder.embed_tokens.weight", "F32", 3);
    write_safetensors(&m, tmp_path("all.safetensors"));
    static const char *const LEFT[] = { "patch_embedding.weight", "token_embedding.weight", "decoder.conv1.weight" };
    for (int kind = CKPT_DIT; kind <= CKPT_VAE; kind++) {
        err e = { 0 };
        c = open_ok(tmp_path("all.safetensors"));
        assert_int_equal(ckpt_normalise(c, (ckpt_kind)kind, &e), 0);
        assert_int_equal(ckpt_count(c), 1);
        assert_non_null(ckpt_find(c, LEFT[kind]));
        ckpt_close(c);
    }

    /* two layouts of one tensor */
    err e = { 0 };
    MADE(&m, "patch_embedding.weight", "F32", 1);
    MADE(&m, "blocks.0.self_attn.q.weight", "F32", 2);
    MADE(&m, "blocks.0.attn1.to_q.weight", "F32", 2);
    write_safetensors(&m, tmp_path("mixed.safetensors"));
    c = open_ok(tmp_path("mixed.safetensors"));
    assert_int_equal(ckpt_normalise(c, CKPT_DIT, &e), ERR_FORMAT);
    assert_text_has(e.text, "are both named 'blocks.0.self_attn.q.weight' in Wan's naming");
    ckpt_close(c);
}

static void hf_t5(void **state)
{
    (void)state;
    static const char *const PAIRS[][2] = {
        { "shared.weight", "token_embedding.weight" },
        { "encoder.block.23.layer.0.layer_norm.weight", "blocks.23.norm1.weight" },
        { "encoder.block.23.layer.0.SelfAttention.q.weight", "blocks.23.attn.q.weight" },
        { "encoder.block.23.layer.0.SelfAttention.o.weight", "blocks.23.attn.o.weight" },
        { "encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight",
          "blocks.23.pos_embedding.embedding.weight" },
        { "encoder.block.23.layer.1.layer_norm.weight", "blocks.23.norm2.weight" },
        { "encoder.block.23.layer.1.DenseReluDense.wi_0.weight", "blocks.23.ffn.gate.0.weight" },
        { "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", "blocks.23.ffn.fc1.weight" },
        { "encoder.block.23.layer.1.DenseReluDense.wo.weight", "blocks.23.ffn.fc2.weight" },
        { "encoder.final_layer_norm.weight", "norm.weight" },
        { "spiece_model", "spiece_model" },
    };
    made m = { .entries = STR_INIT };
    size_t n = sizeof PAIRS / sizeof *PAIRS;
    for (size_t i = 0; i < n; i++)
        MADE(&m, PAIRS[i][0], "F16", (int64_t)i + 1);
    MADE(&m, "encoder.embed_tokens.weight", "F16", 1);      /* the same matrix under its other name */
    MADE(&m, "decoder.block.0.layer.0.layer_norm.weight", "F16", 1);
    MADE(&m, "lm_head.weight", "F16", 1);
    ckpt *c = normalised(&m, CKPT_T5);
    assert_int_equal(ckpt_count(c), n);
    for (size_t i = 0; i < n; i++)
        assert_non_null(ckpt_find(c, PAIRS[i][1]));
    ckpt_close(c);
}

/* the whole table of the VAE, both ways of naming */
static void diffusers_vae(void **state)
{
    (void)state;
    char *table, *save = NULL;
    err e = { 0 };
    if (fs_read_text(&table, NULL, "tests/golden/ckpt/vae_names.tsv", &e))
        fail_msg("%s", e.text);
    for (int prefixed = 0; prefixed < 2; prefixed++) {
        made m = { .entries = STR_INIT };
        char *copy = str_dup(table);
        for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            char original[100], diffusers[100], name[120];
            int first;
            assert_int_equal(sscanf(line, "%99s %99s %d", original, diffusers, &first), 3);
            snprintf(name, sizeof name, "%s%s", prefixed ? "first_stage_model." : "", diffusers);
            MADE(&m, name, "F32", first, (int64_t)m.count + 1);
        }
        free(copy);
        ckpt *c = normalised(&m, CKPT_VAE);
        assert_int_equal(ckpt_count(c), 194);
        copy = str_dup(table);
        int64_t row = 0;
        for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            line[strcspn(line, "\t")] = '\0';
            const ckpt_tensor *t = ckpt_find(c, line);
            if (!t)
                fail_msg("'%s' is not there after renaming", line);
            assert_int_equal(t->shape[1], ++row);
        }
        free(copy);
        ckpt_close(c);
    }
    free(table);
}

/* expectations */

static void wants(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    char name[100];
    err e = { 0 };
    ckpt_want *w;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "blocks.%d.cross_attn.k_img.weight", i);
        MADE(&m, name, "F32", 4);
        snprintf(name, sizeof name, "blocks.%d.ffn.0.weight", i);
        MADE(&m, name, "BF16", 6, 4);
    }
    MADE(&m, "head.bias", "I32", 4);
    MADE(&m, "scaled_fp8", "F8_E4M3", 0);
    MADE(&m, "extra.stuff", "F32", 4);
    MADE(&m, "vace_patch_embedding.bias", "F32", 4);
    ckpt *c;
    write_safetensors(&m, tmp_path("want.safetensors"));
    c = open_ok(tmp_path("want.safetensors"));
    assert_int_equal(ckpt_want_begin(&w, c, "DiT", &e), 0);
    for (int i = 0; i < 41; i++) {
        ckpt_want_tensor(w, 2, (int64_t[]){ 8, -1 }, "blocks.%d.ffn.0.weight", i);
        assert_null(ckpt_want_tensor(w, 1, (int64_t[]){ 4 }, "blocks.%d.norm3.weight", i));
    }
    assert_null(ckpt_want_tensor(w, 1, (int64_t[]){ 4 }, "head.bias"));
    assert_null(ckpt_want_tensor(w, 1, (int64_t[]){ 4 }, "head.weight"));
    assert_false(ckpt_want_optional(w, "shot_embedding.weight"));
    assert_int_equal(ckpt_want_finish(w, true, &e), ERR_SHAPE);
    assert_text_has(e.text, "want.safetensors: these tensors do not make a DiT: 43 missing: 41 x "
                    "blocks.*.norm3.weight, "
                            "blocks.40.ffn.0.weight, head.weight; ");
    assert_text_has(e.text, "41 of the wrong shape or type: 40 x blocks.*.ffn.0.weight (expected [8, any], found [6, "
                    "4] in the "
                            "first), head.bias (expected floating-point numbers, found I32);");
    assert_text_has(e.text, " 42 unused: 40 x blocks.*.cross_attn.k_img.weight (is this an image-to-video file?), "
                    "extra.stuff, "
                            "vace_patch_embedding.bias (is this a VACE file?)");
    /* the same with everything asked for */
    assert_int_equal(ckpt_want_begin(&w, c, "DiT", &e), 0);
    for (int i = 0; i < 40; i++) {
        assert_non_null(ckpt_want_tensor(w, 2, (int64_t[]){ -1, 4 }, "blocks.%d.ffn.0.weight", i));
        snprintf(name, sizeof name, "blocks.%d.cross_attn.k_img.weight", i);
        assert_true(ckpt_want_optional(w, name));
    }
    ckpt_want_ignore(w, "vace_");
    ckpt_want_ignore(w, "head.");
    ckpt_want_ignore(w, "extra.");
    assert_int_equal(ckpt_want_finish(w, true, &e), 0);
    assert_int_equal(ckpt_want_begin(&w, c, "DiT", &e), 0);
    assert_int_equal(ckpt_want_finish(w, false, &e), 0);
    assert_int_equal(ckpt_want_finish(NULL, true, &e), 0);
    ckpt_close(c);
}

/* a table of many tensors is read and searched in no time */
static void many_tensors(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    char name[100];
    for (int i = 0; i < 50000; i++) {
        snprintf(name, sizeof name, "t.%d.weight", i);
        MADE(&m, name, "U8", 1);
    }
    write_safetensors(&m, tmp_path("many.safetensors"));
    ckpt *c = open_ok(tmp_path("many.safetensors"));
    assert_int_equal(ckpt_count(c), 50000);
    for (int i = 0; i < 50000; i++) {
        snprintf(name, sizeof name, "t.%d.weight", i);
        assert_non_null(ckpt_find(c, name));
    }
    ckpt_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),          cmocka_unit_test(lying_headers),      cmocka_unit_test(damaged_files),
        cmocka_unit_test(every_prefix_fails), cmocka_unit_test(shards),         cmocka_unit_test(diffusers_dit),
        cmocka_unit_test(original_dit_stays), cmocka_unit_test(nested_files),   cmocka_unit_test(hf_t5),
        cmocka_unit_test(diffusers_vae),  cmocka_unit_test(wants),              cmocka_unit_test(many_tensors),
    };
    return cmocka_run_group_tests_name("ckpt", tests, setup, teardown);
}
