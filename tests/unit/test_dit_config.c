#include "tests/unit/io_fixture.h"

#include <sys/wait.h>
#include <time.h>

#include "core/base/json.h"
#include "core/dit/dit_config.h"
#include "core/io/expect.h"

int cmd_inspect(int argc, char **argv);

/* The tensors of a DiT by the published table, written down apart from the engine's own list. */
typedef struct dit_size {
    int64_t dim, in, out, ffn, freq, text, layers, vace_in, vace_blocks;
} dit_size;

static const dit_size TINY = { 64, 16, 16, 96, 32, 48, 2, 0, 0 };
static const dit_size T2V_1_3B = { 1536, 16, 16, 8960, 256, 4096, 30, 0, 0 };
static const dit_size T2V_14B = { 5120, 16, 16, 13824, 256, 4096, 40, 0, 0 };

static void linear(made *m, const char *prefix, const char *name, const char *type, int64_t out, int64_t in)
{
    char path[200];
    snprintf(path, sizeof path, "%s%s.weight", prefix, name);
    MADE(m, path, type, out, in);
    snprintf(path, sizeof path, "%s%s.bias", prefix, name);
    MADE(m, path, type, out);
}

static void block(made *m, const char *prefix, const char *type, const dit_size *s)
{
    static const char *const SQUARE[] = { "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
                                          "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o" };
    static const char *const NORMS[] = { "self_attn.norm_q.weight", "self_attn.norm_k.weight",
    "cross_attn.norm_q.weight",
                                         "cross_attn.norm_k.weight", "norm3.weight", "norm3.bias" };
    char path[200];
    for (int i = 0; i < 8; i++)
        linear(m, prefix, SQUARE[i], type, s->dim, s->dim);
    for (int i = 0; i < 6; i++) {
        snprintf(path, sizeof path, "%s%s", prefix, NORMS[i]);
        MADE(m, path, type, s->dim);
    }
    linear(m, prefix, "ffn.0", type, s->ffn, s->dim);
    linear(m, prefix, "ffn.2", type, s->dim, s->ffn);
    snprintf(path, sizeof path, "%smodulation", prefix);
    MADE(m, path, type, 1, 6, s->dim);
}

static void vace_part(made *m, const char *prefix, const char *type, const dit_size *s)
{
    char path[200];
    snprintf(path, sizeof path, "%svace_patch_embedding.weight", prefix);
    MADE(m, path, type, s->dim, s->vace_in, 1, 2, 2);
    snprintf(path, sizeof path, "%svace_patch_embedding.bias", prefix);
    MADE(m, path, type, s->dim);
    for (int64_t i = 0; i < s->vace_blocks; i++) {
        snprintf(path, sizeof path, "%svace_blocks.%d.", prefix, (int)i);
        block(m, path, type, s);
        if (i == 0)
            linear(m, path, "before_proj", type, s->dim, s->dim);
        linear(m, path, "after_proj", type, s->dim, s->dim);
    }
}

static void dit(made *m, const char *prefix, const char *type, const dit_size *s)
{
    char path[200];
    snprintf(path, sizeof path, "%spatch_embedding.weight", prefix);
    MADE(m, path, type, s->dim, s->in, 1, 2, 2);
    snprintf(path, sizeof path, "%spatch_embedding.bias", prefix);
    MADE(m, path, type, s->dim);
    linear(m, prefix, "text_embedding.0", type, s->dim, s->text);
    linear(m, prefix, "text_embedding.2", type, s->dim, s->dim);
    linear(m, prefix, "time_embedding.0", type, s->dim, s->freq);
    linear(m, prefix, "time_embedding.2", type, s->dim, s->dim);
    linear(m, prefix, "time_projection.1", type, 6 * s->dim, s->dim);
    for (int64_t i = 0; i < s->layers; i++) {
        snprintf(path, sizeof path, "%sblocks.%d.", prefix, (int)i);
        block(m, path, type, s);
    }
    linear(m, prefix, "head.head", type, 4 * s->out, s->dim);
    snprintf(path, sizeof path, "%shead.modulation", prefix);
    MADE(m, path, type, 1, 2, s->dim);
    if (s->vace_blocks)
        vace_part(m, prefix, type, s);
}

static void put(const char *path, const char *text)
{
    err e = { 0 };
    char *folder = str_dupn(path, (size_t)(fs_basename(path) - path));
    assert_int_equal(fs_mkdirs(folder, &e), 0);
    free(folder);
    if (fs_write_atomic(path, text, strlen(text), &e))
        fail_msg("%s", e.text);
}

static void put_dit(const char *path, const dit_size *s)
{
    made m = { .entries = STR_INIT };
    put(path, "");
    dit(&m, "", "BF16", s);
    write_safetensors(&m, path);
}

static ckpt *open_dit(const char *path)
{
    ckpt *c;
    err e = { 0 };
    if (ckpt_open(&c, path, &e) || ckpt_normalise(c, CKPT_DIT, &e))
        fail_msg("%s", e.text);
    return c;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* resident memory of this process, bytes */
static double resident(void)
{
    long pages = 0, all;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &all, &pages) != 2)
        pages = 0;
    if (f)
        fclose(f);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static uint64_t parameters(const ckpt *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < ckpt_count(c); i++)
        n += ckpt_at(c, i)->bytes / dtype_size(ckpt_at(c, i)->dtype);
    return n;
}

/* Sparse files with the names and shapes of the released models: opened, recognised and checked at once. */
static void full_size(void **state)
{
    (void)state;
    static const struct {
        const dit_size *size;
        const char *type, *describes;
        size_t tensors;
        uint64_t parameters;
    } MODELS[] = {
        { &T2V_1_3B, "F32", "Wan t2v: 30 layers, dim 1536, 12 heads, ffn 8960, 16 -> 16 channels, text 512 x 4096", 825,
          1418996800 },
        { &T2V_14B, "F32", "Wan t2v: 40 layers, dim 5120, 40 heads, ffn 13824, 16 -> 16 channels, text 512 x 4096",
        1095,
          14288491584 },
        { &T2V_14B, "BF16", "Wan t2v: 40 layers, dim 5120, 40 heads, ffn 13824, 16 -> 16 channels, text 512 x 4096",
        1095,
          14288491584 },
    };
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++) {
        made m = { .entries = STR_INIT };
        const char *path = tmp_path("big/diffusion_pytorch_model.safetensors");
        put(path, "");
        dit(&m, i == 2 ? "model.diffusion_model." : "", MODELS[i].type, MODELS[i].size);
        assert_int_equal(m.count, MODELS[i].tensors);
        write_safetensors(&m, path);

        double memory = resident(), start = now();
        err e = { 0 };
        ckpt_want *w;
        model_files files;
        dit_config cfg;
        str text = STR_INIT;
        if (model_files_find(&files, tmp_path("big"), &e))
            fail_msg("%s", e.text);
        ckpt *c = open_dit(files.dit);
        if (dit_config_detect(&cfg, c, NULL, &e))
            fail_msg("%s", e.text);
        double seconds = now() - start, grown = resident() - memory;
        assert_string_equal(files.family, "wan2.1");
        dit_config_describe(&cfg, &text);
        assert_string_equal(str_text(&text), MODELS[i].describes);
        assert_int_equal(ckpt_count(c), MODELS[i].tensors);
        assert_true(parameters(c) == MODELS[i].parameters);
        assert_int_equal(ckpt_want_begin(&w, c, "DiT", &e), 0);
        expect_dit(w, &cfg);
        if (ckpt_want_finish(w, true, &e))
            fail_msg("%s", e.text);
        ckpt_close(c);
        model_files_release(&files);
        str_release(&text);
        if (seconds > 1 || grown > 200e6)
            fail_msg("opening took %.3f s and %.1f MB", seconds, grown / 1e6);
    }
}

/* HF names of the released umT5: 242 tensors, 5 680 910 336 parameters */
static void full_size_umt5(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    char name[200];
    err e = { 0 };
    MADE(&m, "shared.weight", "BF16", 256384, 4096);
    for (int i = 0; i < 24; i++) {
        static const char *const ATTENTION[] = { "q", "k", "v", "o" };
        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof name, "encoder.block.%d.layer.0.SelfAttention.%s.weight", i, ATTENTION[k]);
            MADE(&m, name, "BF16", 4096, 4096);
        }
        snprintf(name, sizeof name, "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight", i);
        MADE(&m, name, "BF16", 32, 64);
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof name, "encoder.block.%d.layer.%d.layer_norm.weight", i, k);
            MADE(&m, name, "BF16", 4096);
            snprintf(name, sizeof name, "encoder.block.%d.layer.1.DenseReluDense.wi_%d.weight", i, k);
            MADE(&m, name, "BF16", 10240, 4096);
        }
        snprintf(name, sizeof name, "encoder.block.%d.layer.1.DenseReluDense.wo.weight", i);
        MADE(&m, name, "BF16", 4096, 10240);
    }
    MADE(&m, "encoder.final_layer_norm.weight", "BF16", 4096);
    assert_int_equal(m.count, 242);
    write_safetensors(&m, tmp_path("t5.safetensors"));
    ckpt *c;
    umt5_config cfg;
    ckpt_want *w;
    if (ckpt_open(&c, tmp_path("t5.safetensors"), &e) || ckpt_normalise(c, CKPT_T5, &e) || umt5_config_detect(&cfg, c,
                                                                                                              &e))
        fail_msg("%s", e.text);
    assert_true(parameters(c) == 5680910336);
    assert_true(cfg.vocab_size == 256384 && cfg.dim == 4096 && cfg.dim_attn == 4096 && cfg.dim_ffn == 10240);
    assert_true(cfg.num_heads == 64 && cfg.num_layers == 24 && cfg.num_buckets == 32);
    assert_int_equal(ckpt_want_begin(&w, c, "umT5", &e), 0);
    expect_umt5(w, &cfg);
    if (ckpt_want_finish(w, true, &e))
        fail_msg("%s", e.text);
    ckpt_close(c);
}

/* the table of the VAE at its published width and at a tiny one: 194 tensors, 126 892 531 parameters */
static void vae_of_any_width(void **state)
{
    (void)state;
    static const struct {
        int64_t dim, z;
    } SIZES[] = { { 96, 16 }, { 8, 5 } };
    err e = { 0 };
    char *table, *save = NULL;
    if (fs_read_text(&table, NULL, "tests/golden/ckpt/vae_names.tsv", &e))
        fail_msg("%s", e.text);
    for (int k = 0; k < 2; k++) {
        made m = { .entries = STR_INIT };
        char *copy = str_dup(table);
        for (char *line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            char name[100], *shape = strrchr(line, '\t') + 1;
            int64_t dims[5];
            int n = 0;
            assert_int_equal(sscanf(line, "%99s", name), 1);
            for (char *p = shape; n < 5; p++) {
                dims[n] = strtoll(p, &p, 10);
                if (dims[n] == 16 || dims[n] == 32)
                    dims[n] = dims[n] / 16 * SIZES[k].z;
                else if (dims[n] % 96 == 0)
                    dims[n] = dims[n] / 96 * SIZES[k].dim;
                n++;
                if (*p != ',')
                    break;
            }
            made_tensor(&m, name, "F32", n, dims);
        }
        free(copy);
        write_safetensors(&m, tmp_path("vae.safetensors"));
        ckpt *c;
        vae_config cfg;
        ckpt_want *w;
        if (ckpt_open(&c, tmp_path("vae.safetensors"), &e) || ckpt_normalise(c, CKPT_VAE, &e) ||
            vae_config_detect(&cfg, c, &e))
            fail_msg("%s", e.text);
        assert_int_equal(ckpt_count(c), 194);
        if (k == 0)
            assert_int_equal(parameters(c), 126892531);
        assert_true(cfg.dim == SIZES[k].dim && cfg.z_dim == SIZES[k].z && cfg.num_res_blocks == 2);
        assert_true(cfg.mult[0] == 1 && cfg.mult[1] == 2 && cfg.mult[2] == 4 && cfg.mult[3] == 4);
        assert_true(!cfg.temporal_down[0] && cfg.temporal_down[1] && cfg.temporal_down[2]);
        assert_int_equal(ckpt_want_begin(&w, c, "VAE", &e), 0);
        expect_vae(w, &cfg);
        if (ckpt_want_finish(w, true, &e))
            fail_msg("%s", e.text);
        ckpt_close(c);
    }
    free(table);
}

/* config.json against shapes */

static int detect(dit_config *cfg, const dit_size *s, const char *config, err *e)
{
    json *doc = NULL;
    const char *path = tmp_path("detect.safetensors");
    put_dit(path, s);
    ckpt *c = open_dit(path);
    if (config && json_parse(&doc, config, strlen(config), "config.json", e))
        fail_msg("%s", e->text);
    e->text[0] = '\0';
    int rc = dit_config_detect(cfg, c, doc, e);
    json_free(doc);
    ckpt_close(c);
    return rc;
}

static void config_agrees(void **state)
{
    (void)state;
    dit_config cfg;
    err e = { 0 };
    assert_int_equal(detect(&cfg, &TINY,
                            "{\"model_type\":\"t2v\",\"num_heads\":4,\"text_len\":77,\"eps\":1e-5,\"dim\":64,"
                            "\"ffn_dim\":96,\"num_layers\":2,\"in_dim\":16,\"out_dim\":16,\"freq_dim\":32}", &e), 0);
    assert_true(cfg.num_heads == 4 && cfg.text_len == 77 && cfg.eps == 1e-5 && cfg.text_dim == 48 &&
                cfg.freq_dim == 32);
    assert_string_equal(cfg.model_type, "t2v");
    /* the diffusers spelling */
    assert_int_equal(detect(&cfg, &TINY, "{\"_class_name\":\"WanTransformer3DModel\",\"num_attention_heads\":2,"
                            "\"attention_head_dim\":32,\"in_channels\":16,\"num_layers\":2}", &e), 0);
    assert_true(cfg.num_heads == 2 && cfg.text_len == 512 && cfg.eps == 1e-6);
    assert_int_equal(detect(&cfg, &TINY, "{\"attention_head_dim\":16}", &e), 0);
    assert_int_equal(cfg.num_heads, 4);
    /* detected types */
    assert_int_equal(detect(&cfg, &(dit_size){ 128, 36, 16, 96, 32, 48, 1, 0, 0 }, NULL, &e), 0);
    assert_string_equal(cfg.model_type, "i2v");
    assert_int_equal(cfg.num_heads, 1);
    assert_int_equal(detect(&cfg, &(dit_size){ 128, 48, 48, 96, 32, 48, 1, 0, 0 }, NULL, &e), 0);
    assert_string_equal(cfg.model_type, "ti2v");

    static const struct {
        const char *config, *sentence;
    } BAD[] = {
        { NULL, "the number of attention heads cannot be told from the width 64" },
        { "{\"num_heads\":4,\"dim\":128}", "config.json says dim 128, but patch_embedding.weight says 64" },
        { "{\"num_heads\":4,\"num_layers\":30}", "config.json says num_layers 30, but the number of blocks says 2" },
        { "{\"num_heads\":4,\"ffn_dim\":97}", "config.json says ffn_dim 97, but blocks.0.ffn.0.weight says 96" },
        { "{\"num_heads\":4,\"in_channels\":36}", "config.json says in_channels 36, but patch_embedding.weight says "
        "16" },
        { "{\"num_heads\":4,\"out_dim\":12}", "config.json says out_dim 12, but head.head.weight says 16" },
        { "{\"num_heads\":4,\"freq_dim\":256}", "config.json says freq_dim 256, but time_embedding.0.weight says 32" },
        { "{\"num_heads\":5}", "5 attention heads, which do not divide the width 64" },
        { "{\"num_heads\":64}", "do not divide the width 64 into even parts" },
        { "{\"num_heads\":0}", "'num_heads' must be a positive integer" },
        { "{\"num_heads\":\"four\"}", "'num_heads' must be a positive integer" },
        { "{\"num_heads\":4,\"attention_head_dim\":20}", "4 heads of 20, but patch_embedding.weight says the width is "
        "64" },
        { "{\"num_heads\":4,\"eps\":-1}", "'eps' must be a number between 0 and 1" },
        { "{\"num_heads\":4,\"text_len\":100000}", "text_len 100000 is more than the 65536 supported" },
        { "{\"num_heads\":4,\"model_type\":\"vace\"}", "says model_type \"vace\", but the checkpoint holds no VACE "
        "tensors" },
        { "{\"num_heads\":4,\"model_type\":\"a model type that is long\"}", "is no model_type" },
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(detect(&cfg, &TINY, BAD[i].config, &e), ERR_CONFIG);
        assert_text_has(e.text, BAD[i].sentence);
    }
}

static void vace_layers(void **state)
{
    (void)state;
    dit_config cfg;
    err e = { 0 };
    dit_size s = { 128, 16, 16, 96, 32, 48, 4, 96, 2 };
    assert_int_equal(detect(&cfg, &s, NULL, &e), 0);
    assert_string_equal(cfg.model_type, "vace");
    assert_true(cfg.vace_in_dim == 96 && cfg.n_vace_layers == 2 && cfg.vace_layers[0] == 0 && cfg.vace_layers[1] == 2);
    assert_int_equal(detect(&cfg, &s, "{\"vace_layers\":[0,3],\"vace_in_dim\":96,\"model_type\":\"vace\"}", &e), 0);
    assert_int_equal(cfg.vace_layers[1], 3);
    static const struct {
        const char *config, *sentence;
    } BAD[] = {
        { "{\"vace_layers\":[0]}", "lists 1 vace_layers, but the checkpoint has 2 VACE blocks" },
        { "{\"vace_layers\":[0,4]}", "stay below the 4 blocks (entry 1 does not)" },
        { "{\"vace_layers\":[1,2]}", "must begin with 0" },
        { "{\"vace_layers\":[0,0]}", "must begin with 0, rise" },
        { "{\"vace_in_dim\":16}", "config.json says vace_in_dim 16, but vace_patch_embedding.weight says 96" },
        { "{\"model_type\":\"t2v\"}", "says model_type \"t2v\", but the checkpoint holds its own VACE tensors" },
    };
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        assert_int_equal(detect(&cfg, &s, BAD[i].config, &e), ERR_CONFIG);
        assert_text_has(e.text, BAD[i].sentence);
    }
    /* released layouts without a config: 30/15 every second, 40/8 every fifth */
    s.layers = 30, s.vace_blocks = 15;
    assert_int_equal(detect(&cfg, &s, NULL, &e), 0);
    assert_true(cfg.vace_layers[1] == 2 && cfg.vace_layers[14] == 28);
    s.layers = 40, s.vace_blocks = 8;
    assert_int_equal(detect(&cfg, &s, NULL, &e), 0);
    assert_true(cfg.vace_layers[1] == 5 && cfg.vace_layers[7] == 35);
    /* a part of VACE only */
    made m = { .entries = STR_INIT };
    vace_part(&m, "", "F32", &s);
    write_safetensors(&m, tmp_path("part.safetensors"));
    ckpt *c = open_dit(tmp_path("part.safetensors"));
    assert_int_equal(dit_config_detect(&cfg, c, NULL, &e), ERR_SHAPE);
    assert_text_has(e.text, "this is not a Wan DiT: missing patch_embedding.weight");
    assert_text_has(e.text, "it holds only the VACE part of a model and needs a base DiT");
    ckpt_close(c);
}

static void shape_fails(made *m, ckpt_kind kind, const char *sentence)
{
    err e = { 0 };
    ckpt *c;
    dit_config d;
    umt5_config t;
    vae_config v;
    const char *path = tmp_path("bad.safetensors");
    write_safetensors(m, path);
    if (ckpt_open(&c, path, &e) || ckpt_normalise(c, kind, &e))
        fail_msg("%s", e.text);
    int rc = kind == CKPT_DIT ? dit_config_detect(&d, c, NULL, &e)
           : kind == CKPT_T5 ? umt5_config_detect(&t, c, &e) : vae_config_detect(&v, c, &e);
    ckpt_close(c);
    assert_text_has(e.text, sentence);
    assert_int_equal(rc, ERR_SHAPE);
}

static void wrong_checkpoints(void **state)
{
    (void)state;
    made m = { .entries = STR_INIT };
    MADE(&m, "patch_embedding.weight", "F32", 64, 16, 1, 2, 2);
    MADE(&m, "head.head.weight", "F32", 64, 64);
    shape_fails(&m, CKPT_DIT, "missing text_embedding.0.weight, time_embedding.0.weight, blocks.0.ffn.0.weight");
    MADE(&m, "patch_embedding.weight", "F32", 64, 16);
    shape_fails(&m, CKPT_DIT, "tensor 'patch_embedding.weight' has 2 dimensions, expected 5");
    dit_size s = TINY;
    s.dim = 0;
    dit(&m, "", "F32", &s);
    shape_fails(&m, CKPT_DIT, "dimension 0 is 0, which is no sensible size");
    dit(&m, "", "F32", &TINY);
    MADE(&m, "blocks.4.modulation", "F32", 1, 6, 64);
    shape_fails(&m, CKPT_DIT, "tensors of 'blocks.4' are there but none of 'blocks.2'");
    dit(&m, "", "F32", &TINY);
    MADE(&m, "blocks.99999999999999999999.modulation", "F32", 1, 6, 64);
    shape_fails(&m, CKPT_DIT, "but none of 'blocks.2'");
    MADE(&m, "base_model.model.blocks.0.self_attn.q.lora_A.weight", "F32", 8, 64);
    shape_fails(&m, CKPT_DIT, "it looks like a LoRA");

    MADE(&m, "token_embedding.weight", "F32", 10, 8);
    shape_fails(&m, CKPT_T5, "this is not an umT5 text encoder: the tensor 'blocks.0.attn.q.weight' is missing");
    MADE(&m, "token_embedding.weight", "F32", 10, 8);
    MADE(&m, "blocks.0.attn.q.weight", "F32", 9, 8);
    MADE(&m, "blocks.0.ffn.fc1.weight", "F32", 16, 8);
    MADE(&m, "blocks.0.pos_embedding.embedding.weight", "F32", 32, 2);
    shape_fails(&m, CKPT_T5, "2 attention heads (columns of blocks.0.pos_embedding.embedding.weight) do not divide");

    MADE(&m, "decoder.upsamples.0.upsamples.0.residual.2.weight", "F32", 1);
    shape_fails(&m, CKPT_VAE, "this is the Wan 2.2 VAE of the 5B model, which is not supported");
    MADE(&m, "encoder.conv1.weight", "F32", 8, 3, 3, 3, 3);
    shape_fails(&m, CKPT_VAE, "the tensor 'conv2.weight' is missing");
    MADE(&m, "encoder.conv1.weight", "F32", 8, 3, 3, 3, 3);
    MADE(&m, "conv2.weight", "F32", 16, 16, 1, 1, 1);
    shape_fails(&m, CKPT_VAE, "the encoder's stage 0 has no residual block");
    MADE(&m, "encoder.conv1.weight", "F32", 8, 3, 3, 3, 3);
    MADE(&m, "conv2.weight", "F32", 16, 16, 1, 1, 1);
    MADE(&m, "encoder.downsamples.0.residual.2.weight", "F32", 8, 8, 3, 3, 3);
    shape_fails(&m, CKPT_VAE, "the encoder has 1 stages, expected four");
}

/* where the parts of a model are */

static void found(const char *path, const char *family, const char *dit_at, const char *low_at, const char *t5,
                  const char *vae, const char *tokenizer)
{
    model_files f;
    err e = { 0 };
    if (model_files_find(&f, path, &e))
        fail_msg("%s", e.text);
    assert_string_equal(f.family, family);
    const char *got[] = { f.dit, f.dit_low, f.t5, f.vae, f.tokenizer }, *want[] = { dit_at, low_at, t5, vae,
    tokenizer };
    for (int i = 0; i < 5; i++) {
        if (!want[i] != !got[i])
            fail_msg("part %d of %s: expected %s, found %s", i, path, want[i] ? want[i] : "nothing",
                     got[i] ? got[i] : "nothing");
        if (want[i])
            assert_true(str_ends_with(got[i], want[i]));
    }
    model_files_release(&f);
    model_files_release(&f);
}

static void not_found(const char *path, int kind, const char *sentence)
{
    model_files f;
    err e = { 0 };
    assert_int_equal(model_files_find(&f, path, &e), kind);
    assert_text_has(e.text, sentence);
    assert_null(f.dit);
}

static void layouts(void **state)
{
    (void)state;
    static const dit_size MINI = { 128, 16, 16, 32, 32, 16, 1, 0, 0 };
    dit_size vace = MINI;
    vace.vace_in = 96, vace.vace_blocks = 1;
    static const char CONFIG[] = "{\"dim\":128,\"num_layers\":1,\"model_type\":\"t2v\"}";

    put_dit(tmp_path("orig/diffusion_pytorch_model.safetensors"), &MINI);
    put(tmp_path("orig/config.json"), CONFIG);
    put(tmp_path("orig/models_t5_umt5-xxl-enc-bf16.pth"), "x");
    put(tmp_path("orig/Wan2.1_VAE.pth"), "x");
    put(tmp_path("orig/google/umt5-xxl/spiece.model"), "x");
    found(tmp_path("orig"), "wan2.1", "orig", NULL, "orig/models_t5_umt5-xxl-enc-bf16.pth", "orig/Wan2.1_VAE.pth",
          "google/umt5-xxl");
    model_files f;
    err e = { 0 };
    assert_int_equal(model_files_find(&f, tmp_path("orig/diffusion_pytorch_model.safetensors"), &e), 0);
    assert_true(str_ends_with(f.config, "orig/config.json"));
    model_files_release(&f);

    put_dit(tmp_path("w22/high_noise_model/diffusion_pytorch_model.safetensors"), &MINI);
    not_found(tmp_path("w22"), ERR_IO, "found high_noise_model/ but not low_noise_model/");
    put_dit(tmp_path("w22/low_noise_model/diffusion_pytorch_model.safetensors"), &MINI);
    put(tmp_path("w22/Wan2.1_VAE.pth"), "x");
    found(tmp_path("w22"), "wan2.2-a14b", "w22/high_noise_model", "w22/low_noise_model", NULL, "w22/Wan2.1_VAE.pth",
          NULL);

    /* diffusers: "transformer" is the high-noise expert */
    put_dit(tmp_path("diff/transformer/diffusion_pytorch_model.safetensors"), &MINI);
    put(tmp_path("diff/text_encoder/model-00001-of-00002.safetensors"), "x");
    put(tmp_path("diff/text_encoder/model.safetensors.index.json"), "{}");
    put(tmp_path("diff/vae/diffusion_pytorch_model.safetensors"), "x");
    put(tmp_path("diff/tokenizer/spiece.model"), "x");
    found(tmp_path("diff"), "wan2.1", "diff/transformer", NULL, "diff/text_encoder", "diff/vae", "diff/tokenizer");
    put_dit(tmp_path("diff/transformer_2/diffusion_pytorch_model.safetensors"), &MINI);
    found(tmp_path("diff"), "wan2.2-a14b", "diff/transformer", "diff/transformer_2", "diff/text_encoder", "diff/vae",
          "diff/tokenizer");

    put_dit(tmp_path("vace/diffusion_pytorch_model.safetensors"), &vace);
    found(tmp_path("vace"), "vace", "vace", NULL, NULL, NULL, NULL);

    /* HoloCine below its checkpoints folder, T5 and VAE in the release of Wan 2.2 beside it */
    put_dit(tmp_path("ck/HoloCine_dit/full/full_high_noise.safetensors"), &MINI);
    not_found(tmp_path("ck/HoloCine_dit/full"), ERR_IO, "'full_low_noise.safetensors' is not beside it");
    put_dit(tmp_path("ck/HoloCine_dit/full/full_low_noise.safetensors"), &MINI);
    put(tmp_path("ck/Wan2.2-T2V-A14B/models_t5_umt5-xxl-enc-bf16.pth"), "x");
    put(tmp_path("ck/Wan2.2-T2V-A14B/Wan2.1_VAE.pth"), "x");
    put(tmp_path("ck/Wan2.2-T2V-A14B/google/umt5-xxl/spiece.model"), "x");
    static const char *const HOLOCINE[] = { "ck", "ck/HoloCine_dit", "ck/HoloCine_dit/full",
                                            "ck/HoloCine_dit/full/full_low_noise.safetensors" };
    for (int i = 0; i < 4; i++)
        found(tmp_path(HOLOCINE[i]), "holocine", "full/full_high_noise.safetensors", "full/full_low_noise.safetensors",
              "Wan2.2-T2V-A14B/models_t5_umt5-xxl-enc-bf16.pth", "Wan2.2-T2V-A14B/Wan2.1_VAE.pth",
              "Wan2.2-T2V-A14B/google/umt5-xxl");

    /* ComfyUI: one folder for each kind of file */
    put_dit(tmp_path("models/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"), &MINI);
    put(tmp_path("models/text_encoders/umt5_xxl_fp16.safetensors"), "x");
    put(tmp_path("models/vae/wan_2.1_vae.safetensors"), "x");
    found(tmp_path("models/diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"), "wan2.1", "t2v_1.3B_fp16.safetensors",
          NULL,
          "text_encoders/umt5_xxl_fp16.safetensors", "vae/wan_2.1_vae.safetensors", NULL);
    found(tmp_path("models/diffusion_models"), "wan2.1", "t2v_1.3B_fp16.safetensors", NULL,
          "text_encoders/umt5_xxl_fp16.safetensors", "vae/wan_2.1_vae.safetensors", NULL);
    put_dit(tmp_path("models/diffusion_models/wan2.2_t2v_high_noise_14B.safetensors"), &MINI);
    put_dit(tmp_path("models/diffusion_models/wan2.2_t2v_low_noise_14B.safetensors"), &MINI);
    found(tmp_path("models/diffusion_models/wan2.2_t2v_low_noise_14B.safetensors"), "wan2.2-a14b",
          "high_noise_14B.safetensors", "low_noise_14B.safetensors", "umt5_xxl_fp16.safetensors",
          "wan_2.1_vae.safetensors", NULL);
    not_found(tmp_path("models/diffusion_models"), ERR_IO, "the folder holds 3 files that may be the model");

    /* LongLive: nested names; its config is that of the base model */
    made m = { .entries = STR_INIT };
    put(tmp_path("ll/x.safetensors"), "");
    dit(&m, "generator.model.", "BF16", &MINI);
    write_safetensors(&m, tmp_path("ll/x.safetensors"));
    put(tmp_path("ll/wan_models/Wan2.1-T2V-1.3B/config.json"), CONFIG);
    put(tmp_path("ll/wan_models/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth"), "x");
    assert_int_equal(model_files_find(&f, tmp_path("ll/x.safetensors"), &e), 0);
    assert_string_equal(f.family, "longlive");
    assert_true(f.config && str_ends_with(f.config, "Wan2.1-T2V-1.3B/config.json"));
    model_files_release(&f);

    not_found(tmp_path("nowhere"), ERR_IO, "there is no such file or folder");
    assert_int_equal(fs_mkdirs(tmp_path("hollow"), &e), 0);
    not_found(tmp_path("hollow"), ERR_IO, "no Wan model found here: expected diffusion_pytorch_model*.safetensors");
    put(tmp_path("odd/x.safetensors"), "garbage");
    not_found(tmp_path("odd"), ERR_FORMAT, "7 bytes are too few");
    MADE(&m, "w", "F32", 1);
    write_safetensors(&m, tmp_path("odd/x.safetensors"));
    not_found(tmp_path("odd"), ERR_SHAPE, "this is not a video model");
    put(tmp_path("odd/diffusion_pytorch_model-00001-of-00002.safetensors"), "x");
    put(tmp_path("odd/diffusion_pytorch_model-00002-of-00002.safetensors"), "x");
    not_found(tmp_path("odd"), ERR_IO, "no *.safetensors.index.json");
}

static void golden_folders(void **state)
{
    (void)state;
    static const struct {
        const char *folder, *family;
        bool pair;
    } FOLDERS[] = {
        { "wan-t2v", "wan2.1", false },       { "wan22-a14b", "wan2.2-a14b", true }, { "wan-vace", "vace", false },
        { "holocine/full", "holocine", true }, { "holocine", "holocine", true },      { "longlive", "longlive", false },
    };
    if (!fs_is_dir(goldens()))
        skip();
    for (size_t i = 0; i < sizeof FOLDERS / sizeof *FOLDERS; i++) {
        char path[1000];
        model_files f;
        dit_config cfg;
        json *config = NULL;
        err e = { 0 };
        snprintf(path, sizeof path, "%s/%s", goldens(), FOLDERS[i].folder);
        if (!fs_is_dir(path))
            continue;
        if (model_files_find(&f, path, &e))
            fail_msg("%s", e.text);
        assert_string_equal(f.family, FOLDERS[i].family);
        assert_true(!!f.dit_low == FOLDERS[i].pair);
        ckpt *c = open_dit(f.dit);
        if ((f.config && json_read_file(&config, f.config, &e)) || dit_config_detect(&cfg, c, config, &e))
            fail_msg("%s", e.text);
        ckpt_close(c);
        json_free(config);
        model_files_release(&f);
    }
}

/* the command, its output read from a file */

static int inspect(char **out, int argc, const char *const *arguments)
{
    char *argv[8] = { "inspect" };
    err e = { 0 };
    const char *path = tmp_path("stdout"), *messages = tmp_path("stderr");
    for (int i = 0; i < argc; i++)
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen(path, "w", stdout) || !freopen(messages, "w", stderr))
            _exit(99);
        int rc = cmd_inspect(argc + 1, argv);
        fflush(NULL);
        _exit(rc);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(fs_read_text(out, NULL, WEXITSTATUS(status) ? messages : path, &e), 0);
    if (WEXITSTATUS(status) && !**out) {        /* the problem is part of the data then */
        free(*out);
        assert_int_equal(fs_read_text(out, NULL, path, &e), 0);
    }
    return WEXITSTATUS(status);
}

static void inspect_command(void **state)
{
    (void)state;
    char *out;
    dit_size s = TINY;
    s.dim = 128;
    put_dit(tmp_path("ins/diffusion_pytorch_model.safetensors"), &s);
    put(tmp_path("ins/config.json"), "{\"dim\":128,\"num_heads\":2,\"text_len\":40}");
    const char *folder = tmp_path("ins");
    assert_int_equal(inspect(&out, 1, (const char *[]){ folder }), 0);
    assert_text_has(out, "a model of the family wan2.1");
    assert_text_has(out, "Wan t2v: 2 layers, dim 128, 2 heads, ffn 96, 16 -> 16 channels, text 40 x 48");
    assert_text_has(out, "complete: nothing missing, nothing unused");
    free(out);
    assert_int_equal(inspect(&out, 4, (const char *[]){ folder, "--json", "--tensors", "--digest" }), 0);
    json *doc;
    err e = { 0 };
    assert_int_equal(json_parse(&doc, out, strlen(out), "stdout", &e), 0);
    const json *part = json_at(json_get(doc, "parts"), 0);
    assert_string_equal(json_get_string(doc, "family", ""), "wan2.1");
    assert_string_equal(json_get_string(part, "role", ""), "dit");
    assert_int_equal(json_get_int(part, "tensors", 0), 69);
    assert_int_equal(json_count(json_get(part, "tensor_list")), 69);
    assert_int_equal(strlen(json_get_string(part, "sha256", "")), 64);
    assert_int_equal(json_type(json_get(part, "problem")), JSON_NULL);
    json_free(doc);
    free(out);

    /* incomplete: what is missing stands in the output, exit code 2 */
    made m = { .entries = STR_INIT };
    dit(&m, "", "F32", &s);
    MADE(&m, "blocks.0.cross_attn.k_img.weight", "F32", 128, 128);
    char *cut = strstr(m.entries.data, "blocks.1.norm3.weight");
    memcpy(cut, "blocks.1.norm9.weight", strlen("blocks.1.norm9.weight"));
    write_safetensors(&m, tmp_path("broken.safetensors"));
    assert_int_equal(inspect(&out, 1, (const char *[]){ tmp_path("broken.safetensors") }), 2);
    assert_text_has(out, "1 missing: blocks.1.norm3.weight; 2 unused: blocks.0.cross_attn.k_img.weight (is this an "
                         "image-to-video file?), blocks.1.norm9.weight");
    free(out);

    assert_int_equal(inspect(&out, 0, NULL), 2);
    assert_text_has(out, "inspect needs the path of a checkpoint");
    free(out);
    assert_int_equal(inspect(&out, 2, (const char *[]){ folder, "--tensor" }), 2);
    assert_text_has(out, "does not know the option '--tensor'; did you mean '--tensors'?");
    free(out);
    assert_int_equal(inspect(&out, 2, (const char *[]){ folder, folder }), 2);
    assert_text_has(out, "inspect takes one path");
    free(out);
    assert_int_equal(inspect(&out, 1, (const char *[]){ tmp_path("nothing there") }), 2);
    assert_text_has(out, "cannot open the file: No such file or directory");
    free(out);
    assert_int_equal(inspect(&out, 1, (const char *[]){ "--help" }), 0);
    assert_text_has(out, "usage: wanscope inspect PATH");
    free(out);
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
        cmocka_unit_test(full_size),     cmocka_unit_test(full_size_umt5),    cmocka_unit_test(vae_of_any_width),
        cmocka_unit_test(config_agrees), cmocka_unit_test(vace_layers),       cmocka_unit_test(wrong_checkpoints),
        cmocka_unit_test(layouts),       cmocka_unit_test(golden_folders),    cmocka_unit_test(inspect_command),
    };
    return cmocka_run_group_tests_name("dit_config", tests, setup, teardown);
}
