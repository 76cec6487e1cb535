/* The plan of device memory: what is counted is what is allocated, what is chosen under a limit, the sentences, and a text encoder that is
 * read layer by layer. */
#include "tests/unit/dit_fixture.h"
#include "tests/unit/engine_fixture.h"

#include "core/engine_internal.h"
#include "core/io/ckpt_random.h"
#include "experiments/forecast.h"

enum { MIB = 1 << 20 };

static run_params a_run(int width, int height, int frames)
{
    static const double guidance = 1;
    run_params r = RUN_PARAMS_INIT;
    r.width = width;
    r.height = height;
    r.frames = frames;
    r.steps = 4;
    r.shift = 3;
    r.guidance = &guidance;
    r.n_guidance = 1;
    return r;
}

static engine *open_tiny(const engine_options *with, bool pair)
{
    engine *g;
    engine_options o = *with;
    o.model = TINY;
    o.device = "cpu";
    if (pair)
        o.dit = o.dit_low = tiny("diffusion_pytorch_model.safetensors");
    DO(engine_open(&g, &o, e));
    return g;
}

/* five blocks, so that swapping some makes room for others */
static engine *open_five(bool pair)
{
    static const char config[] = "{\"model_type\":\"t2v\",\"num_heads\":2,\"text_len\":16,\"dim\":48,\"num_layers\":5}";
    engine *g;
    engine_options o = ENGINE_OPTIONS_INIT;
    char file[400];
    fs_mkdirs(tmp_path("five"), NULL);
    snprintf(file, sizeof file, "%s", tmp_path("five/diffusion_pytorch_model.safetensors"));
    make_model(file, 7, false);
    DO(fs_write_atomic(tmp_path("five/config.json"), config, strlen(config), e));
    o.model = tmp_path("five");
    if (pair)
        o.dit = o.dit_low = file;
    o.t5 = tiny("models_t5_umt5-xxl-enc-bf16.pth");
    o.vae = tiny("Wan2.1_VAE.pth");
    o.device = "cpu";
    DO(engine_open(&g, &o, e));
    return g;
}

/* bytes by configuration against bytes that are held */
static void test_sizes(void **state)
{
    (void)state;
    engine_options o = ENGINE_OPTIONS_INIT;
    fix f;
    fix_read(&f, tiny("diffusion_pytorch_model.safetensors"));
    for (int i = 0; i < f.n; i++) {      /* as a GPU holds them in exact mode */
        int64_t n;
        float *v = fix_values(&f, f.t[i].name, &n);
        fix_put(&f, f.t[i].name, DT_F32, v, f.t[i].ndim, f.t[i].shape);
        free(v);
    }
    fix_write(&f, tmp_path("f32.safetensors"));
    fix_release(&f);
    o.dit = tmp_path("f32.safetensors");
    engine *g = open_tiny(&o, false);
    run_params r = a_run(64, 48, 9);
    dit_sizes z;
    DO(engine_need_dit(g, 0, e));
    int64_t L = 3 * 3 * 4, tensors = 2 * 27 + 20;
    dit_sizes_of(&g->dit_cfg, g->prec, false, false, L, 1, &z);
    int64_t held = dit_weight_bytes(g->dits[0]), counted = z.fixed + 2 * z.block;
    for (int a = 0; a < 3; a++)
        counted -= 1024 * (g->dit_cfg.dim / g->dit_cfg.num_heads) * 4 / 3;      /* rotary tables are no weights */
    assert_true(counted >= held - 3 * 256 && counted <= held + tensors * 256);

    int64_t before = g->be->bytes_now;
    dit_work *w;
    DO(dit_work_new(&w, g->dits[0], 3, 6, 8, e));
    assert_true(g->be->bytes_now - before >= z.work && g->be->bytes_now - before <= z.work + 256);
    dit_work_free(w);

    engine_memory m;
    DO(engine_plan_memory(g, &r, &m, e));
    assert_int_equal(m.work_bytes, z.work);
    assert_int_equal(m.dit_bytes, z.fixed + 2 * z.block);
    assert_int_equal(m.device_bytes, 0);      /* the CPU has no limit */
    assert_int_equal(m.host_bytes, 0);
    engine_close(g);
}

/* as on a GPU with so much free memory */
static int plan(engine *g, int64_t free_bytes, const run_params *r, engine_memory *m, err *e)
{
    g->free_at_open = free_bytes;
    int rc = engine_plan_memory(g, r, m, e);
    g->free_at_open = -1;
    return rc;
}

static void test_choices(void **state)
{
    (void)state;
    for (int pair = 0; pair < 2; pair++) {
        engine *g = open_five(pair);
        run_params r = a_run(32, 32, 5);
        r.latents_only = true;      /* decoding would outweigh so small a model */
        engine_memory m, less;
        int64_t all;
        DO(plan(g, INT64_MAX / 4, &r, &m, e));
        assert_int_equal(m.blocks_to_swap, 0);
        assert_true(!m.streams_text && !m.releases_vae && !m.one_expert);
        assert_true(m.device_bytes > m.runtime_bytes + m.dit_bytes + m.work_bytes && m.host_bytes == 0);
        all = m.device_bytes;
        /* a byte less and something gives way; what is chosen is within the limit, always */
        DO(plan(g, all + 32 * MIB - 595LL * MIB - 1, &r, &less, e));
        assert_true(less.device_bytes < all && (less.streams_text || less.blocks_to_swap || less.one_expert));
        err e = { 0 };
        int64_t smallest = 0;
        for (int64_t limit = all + 32 * MIB; limit > m.runtime_bytes; limit -= (all - m.runtime_bytes) / 397) {
            g->memory_budget = limit;
            int rc = plan(g, INT64_MAX / 4, &r, &less, &e);
            if (!rc) {
                assert_true(less.device_bytes <= limit - 32 * MIB && less.limit_bytes == limit);
                smallest = less.device_bytes;
                continue;
            }
            assert_int_equal(rc, ERR_MEMORY);
            assert_text_has(e.text, "a video of 32 x 32 with 5 frames needs ");
            assert_text_has(e.text, " MiB may be used (memory.budget)");
            assert_text_has(e.text, "use fewer frames or a smaller size, or raise memory.budget");
            assert_true(less.device_bytes > limit - 32 * MIB);
            break;
        }
        assert_true(smallest > 0 && smallest < all && less.blocks_to_swap == 5 && less.one_expert == pair);
        /* without a video there is nothing to decode */
        run_params video = r;
        video.latents_only = false;
        g->memory_budget = all + 32 * MIB;
        assert_int_equal(plan(g, INT64_MAX / 4, &video, &m, &e), ERR_MEMORY);
        DO(plan(g, INT64_MAX / 4, &r, &less, e));
        assert_true(less.decode_bytes == 0 && less.vae_bytes == 0 && m.decode_bytes > 0 && m.vae_bytes > 0);
        /* nothing may leave: less is possible */
        g->offload = ENGINE_OFFLOAD_NONE;
        g->memory_budget = smallest + 32 * MIB;
        assert_int_equal(plan(g, INT64_MAX / 4, &r, &less, &e), ERR_MEMORY);
        assert_text_has(e.text, "set memory.offload to auto");
        /* everything leaves, also where it would fit */
        g->offload = ENGINE_OFFLOAD_ALL;
        g->memory_budget = 0;
        DO(plan(g, INT64_MAX / 4, &r, &m, e));
        assert_true(m.blocks_to_swap == 5 && m.streams_text && m.releases_vae && m.host_bytes > 0);
        /* so many blocks and no more */
        g->offload = ENGINE_OFFLOAD_AUTO;
        g->blocks_to_swap = 1;
        DO(plan(g, INT64_MAX / 4, &r, &m, e));
        assert_int_equal(m.blocks_to_swap, 1);
        dit_sizes z;
        dit_sizes_of(&g->dit_cfg, g->prec, false, false, 2 * 2 * 2, 1, &z);
        for (int k = 1; k <= 5; k++) {      /* what is on its way, what stays, what lies in host memory */
            g->blocks_to_swap = k;
            DO(plan(g, INT64_MAX / 4, &r, &m, e));
            assert_int_equal(m.slot_bytes, (k < 2 ? 1 : 2) * z.block);
            assert_int_equal(m.dit_bytes, (1 + pair) * (z.fixed + (5 - k) * z.block));
            assert_int_equal(m.host_bytes, (1 + pair) * k * z.block);
            assert_true(m.device_bytes >= m.runtime_bytes + m.dit_bytes + m.slot_bytes + m.work_bytes + m.latent_bytes + m.text_kept_bytes);
        }
        g->blocks_to_swap = 1;
        g->memory_budget = 100LL * MIB;
        assert_int_equal(plan(g, INT64_MAX / 4, &r, &m, &e), ERR_MEMORY);
        assert_text_has(e.text, "with 1 of 5 transformer blocks swapped");
        g->memory_budget = 0;
        assert_int_equal(plan(g, 100LL * MIB, &r, &m, &e), ERR_MEMORY);
        assert_text_has(e.text, "695 MiB may be used (free on the device)");
        g->blocks_to_swap = 6;
        assert_int_equal(plan(g, INT64_MAX / 4, &r, &m, &e), ERR_CONFIG);
        assert_text_has(e.text, "memory.blocks_to_swap is 6, but ");
        engine_close(g);
    }
}

/* Wan 2.1 1.3B in bf16, as a GPU would plan it: where decoding alone is too large it goes in bands. */
static void test_bands(void **state)
{
    (void)state;
    static const dit_config dit = { .model_type = "t2v", .in_dim = 16, .out_dim = 16, .dim = 1536, .ffn_dim = 8960, .freq_dim = 256, .text_dim = 4096, .text_len = 512,
                                    .num_heads = 12, .num_layers = 30, .eps = 1e-6, .patch_t = 1, .patch_h = 2, .patch_w = 2 };
    static const umt5_config text = { 256384, 4096, 4096, 10240, 64, 24, 32 };
    static const vae_config vae = { .dim = 96, .z_dim = 16, .mult = { 1, 2, 4, 4 }, .num_res_blocks = 2, .temporal_down = { false, true, true } };
    const int64_t GIB = 1LL << 30, frame = 832 * 480 * 96 * 2;
    engine g = { .dit_cfg = dit, .files.dit = "random" };
    run_params r = a_run(832, 480, 81);
    engine_memory m, less;
    err e = { 0 };
    DO(backend_open_cpu(&g.be, e));
    DO(precision_find(&g.prec, "bf16", e));
    DO(ckpt_random_dit(&g.dit_file[0], "random", &dit, 1, e));
    DO(ckpt_random_umt5(&g.t5_file, "random", &text, 1, e));
    DO(ckpt_random_vae(&g.vae_file, "random", &vae, 1, e));
    DO(plan(&g, 80 * GIB, &r, &m, e));
    assert_int_equal(m.decode_bands, 1);
    assert_int_equal(m.decode_bytes, frame * 354 / 10);
    for (int bands = 2; bands <= 8; bands++)      /* never below what does not shrink */
        assert_true(engine_decode_bytes(&g, &r, &vae, bands) < engine_decode_bytes(&g, &r, &vae, bands - 1) &&
                    engine_decode_bytes(&g, &r, &vae, bands) > frame * 124 / 10);
    g.memory_budget = 6 * GIB;      /* the text encoder need not stay, the blocks can */
    DO(plan(&g, 80 * GIB, &r, &m, e));
    assert_true(m.decode_bands == 2 && m.blocks_to_swap == 0);
    assert_true(m.device_bytes + 32 * MIB <= 6 * GIB);
    g.memory_budget = 3 * GIB;
    DO(plan(&g, 80 * GIB, &r, &m, e));
    print_message("1.3B, 832 x 480, 81 frames within 3 GiB: %lld MiB, of these %lld for decoding in %d bands; %d of 30 blocks swapped\n",
                  (long long)(m.device_bytes / MIB), (long long)(m.decode_bytes / MIB), m.decode_bands, m.blocks_to_swap);
    assert_true(m.decode_bands == 4 && m.blocks_to_swap < 30 && m.device_bytes + 32 * MIB <= 3 * GIB);
    r.latents_only = true;
    DO(plan(&g, 80 * GIB, &r, &less, e));
    assert_true(less.decode_bands == 1 && less.blocks_to_swap < m.blocks_to_swap);
    r.latents_only = false;
    /* within every limit; in no more bands than needed, and in more than four only where no block is left to swap */
    int64_t budget = 8 * GIB;
    for (; !plan(&g, 80 * GIB, &r, &m, &e); budget -= 64 * MIB) {
        int64_t limit = m.limit_bytes - 32 * MIB;
        assert_true(m.device_bytes <= limit && m.decode_bands >= 1 && m.decode_bands <= 8);
        assert_true(m.decode_bands == 1 || m.device_bytes - m.decode_bytes + engine_decode_bytes(&g, &r, &vae, m.decode_bands - 1) > limit);
        assert_true(m.decode_bands <= 4 || m.runtime_bytes + m.dit_bytes + m.vae_bytes + engine_decode_bytes(&g, &r, &vae, 4) +
                                           m.latent_bytes - (30 - m.blocks_to_swap) * m.slot_bytes / 2 > limit);
        g.memory_budget = budget;
    }
    assert_true(budget < 5 * GIB / 2 && m.decode_bands == 8 && m.blocks_to_swap == 30);
    assert_text_has(e.text, " in 8 bands, CUDA itself ");
    /* never with VACE, in f32, or block by block */
    g.memory_budget = 6 * GIB;
    r.n_vace_scale = 4;
    r.vace_scale = (double[]){ 0, 0, 0, 0 };
    DO(plan(&g, 80 * GIB, &r, &m, e));
    assert_true(m.decode_bands == 1 && m.blocks_to_swap > 0);
    r.n_vace_scale = 0;
    causal_options block = CAUSAL_OPTIONS_INIT;
    r.causal = &block;
    g.causal = true;
    assert_int_equal(plan(&g, 80 * GIB, &r, &m, &e), ERR_MEMORY);
    assert_true(m.decode_bands == 1 && m.blocks_to_swap == 30);
    r.causal = NULL;
    g.causal = false;
    DO(precision_find(&g.prec, "exact", e));
    g.memory_budget = 12 * GIB;
    DO(plan(&g, 80 * GIB, &r, &m, e));
    assert_true(m.decode_bands == 1 && m.decode_bytes == frame * 2 * 41);
    ckpt_close(g.dit_file[0]);
    ckpt_close(g.t5_file);
    ckpt_close(g.vae_file);
    backend_close(g.be);
}

static int keep_frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    (void)e;
    memcpy((uint8_t *)user + index * width * height * 3, rgb, (size_t)(width * height * 3));
    return 0;
}

/* The engine decodes as its plan says. In f32 values may round otherwise in a band (tests/unit/test_vae_bands.c), and a byte with them. */
static void test_decode(void **state)
{
    (void)state;
    engine_options o = ENGINE_OPTIONS_INIT;
    engine *g = open_tiny(&o, false);
    enum { N = 5 * 64 * 48 * 3 };
    static uint8_t whole[N], banded[N];
    static float z[16 * 2 * 6 * 8];
    tensor t;
    for (size_t i = 0; i < sizeof z / sizeof *z; i++)
        z[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
    DO(TENSOR_NEW(&t, g->be, DT_F32, e, 16, 2, 6, 8));
    DO(op_upload(&t, z, e));
    int64_t peak[2];
    for (int k = 0; k < 2; k++) {
        DO(engine_need_vae(g, e));
        g->memory.decode_bands = k ? 3 : 0;      /* nothing planned yet: whole */
        g->be->bytes_peak = g->be->bytes_now;
        DO(engine_decode(g, &t, keep_frame, k ? banded : whole, e));
        peak[k] = g->be->bytes_peak - g->be->bytes_now;
    }
    for (int i = 0; i < N; i++)
        assert_true(abs(whole[i] - banded[i]) <= 1);
    assert_true(peak[1] < peak[0]);
    tensor_free(&t);
    engine_close(g);
}

/* One run; its latents, n of them. */
static float *denoise(engine *g, size_t *bytes)
{
    const int32_t ids[16] = { 5, 9, 1 };
    prompt *p;
    tensor t;
    run_params r = a_run(32, 32, 5);
    r.latents_only = true;
    DO(engine_prepare(g, &r, e));
    DO(engine_encode_ids(g, ids, 16, 3, &p, e));
    r.cond = (const prompt *const *)&p;
    r.n_cond = 1;
    r.boundary = 0.9;
    DO(engine_run(g, &r, NULL, &t, e));
    *bytes = (size_t)tensor_bytes(&t);
    float *host = malloc(*bytes);
    DO(op_download(host, &t, e));
    tensor_free(&t);
    prompt_free(p);
    return host;
}

/* One engine under smaller and smaller limits, and back: every plan gives the same bytes and does what it says. */
static void test_runs(void **state)
{
    (void)state;
    for (int pair = 0; pair < 2; pair++) {
        engine *g = open_five(pair);
        run_params r = a_run(32, 32, 5);
        r.latents_only = true;
        engine_memory m;
        err e = { 0 };
        size_t bytes, n;
        float *want = denoise(g, &bytes), *got;
        bool seen[2][6][2] = { 0 };      /* streamed text, blocks, one expert */
        int n_streamed = 0, n_swapped = 0, n_one = 0;
        g->free_at_open = INT64_MAX / 4;
        DO(engine_plan_memory(g, &r, &m, e));
        int64_t all = m.device_bytes + 32 * MIB, step = (m.device_bytes - m.runtime_bytes) / 400;
        for (g->memory_budget = all; engine_plan_memory(g, &r, &m, &e) == 0; g->memory_budget -= step) {
            if (seen[m.streams_text][m.blocks_to_swap][m.one_expert])
                continue;
            seen[m.streams_text][m.blocks_to_swap][m.one_expert] = true;
            got = denoise(g, &n);
            assert_int_equal(n, bytes);
            assert_memory_equal(got, want, bytes);
            free(got);
            assert_int_equal(g->memory.one_expert, m.one_expert);
            assert_true(!m.one_expert || !g->dits[0] || !g->dits[1]);
            assert_true((dit_host_bytes(g->dits[pair]) > 0) == (m.blocks_to_swap > 0));
            n_streamed += m.streams_text;
            n_swapped += m.blocks_to_swap > 0;
            n_one += m.one_expert;
        }
        assert_int_equal(e.kind, ERR_MEMORY);
        assert_true(n_streamed > 0 && n_swapped > 0 && (n_one > 0) == pair);
        g->memory_budget = all;
        got = denoise(g, &n);
        assert_memory_equal(got, want, bytes);
        assert_true(!g->memory.one_expert && !g->memory.blocks_to_swap && (!pair || (g->dits[0] && g->dits[1])));
        free(got);
        /* the same with so many blocks as asked for */
        for (int k = 1; k <= 5; k++) {
            g->blocks_to_swap = k;
            got = denoise(g, &n);
            assert_memory_equal(got, want, bytes);
            assert_true(dit_host_bytes(g->dits[pair]) > 0);
            free(got);
        }
        free(want);
        g->free_at_open = -1;
        engine_close(g);
    }
}

static void test_streamed_text(void **state)
{
    (void)state;
    engine_options o = ENGINE_OPTIONS_INIT;
    engine *g = open_tiny(&o, false);
    umt5 *kept, *streamed;
    const precision *prec = g->prec;
    err e = { 0 };
    int32_t ids[16] = { 5, 9, 31, 4, 1 };
    DO(umt5_open(&kept, g->be, g->t5_file, prec, e));
    DO(umt5_open_streamed(&streamed, g->be, g->t5_file, prec, e));
    int dim = umt5_get_config(kept)->dim;
    int64_t before = g->be->bytes_now;
    for (int k = 0; k < 3; k++) {
        tensor a, b;
        float x[16 * 512], y[16 * 512];
        assert_true(dim <= 512);
        DO(TENSOR_NEW(&a, g->be, prec->stream, e, 16, dim));
        DO(TENSOR_NEW(&b, g->be, prec->stream, e, 16, dim));
        DO(umt5_encode(kept, ids, 16, 5, &a, e));
        DO(umt5_encode(streamed, ids, 16, 5, &b, e));
        DO(op_download_f32(x, &a, e));
        DO(op_download_f32(y, &b, e));
        assert_memory_equal(x, y, 16 * (size_t)dim * sizeof *x);
        tensor_free(&a);
        tensor_free(&b);
        ids[2] = 7 + k;
    }
    umt5_sizes z;
    umt5_sizes_of(umt5_get_config(kept), prec, 16, &z);
    assert_true(z.layer > 0 && z.all > z.layer * umt5_get_config(kept)->num_layers && g->be->bytes_now - before < z.work);
    tensor a;
    DO(TENSOR_NEW(&a, g->be, prec->stream, e, 16, dim));
    ids[1] = 1 << 28;
    assert_int_equal(umt5_encode(streamed, ids, 16, 5, &a, &e), ERR_SHAPE);
    assert_text_has(e.text, "token id 268435456 at position 1 is outside the text encoder's vocabulary");
    tensor_free(&a);
    umt5_close(kept);
    umt5_close(streamed);
    engine_close(g);

    /* what is missing is told when it is opened */
    fix f;
    ckpt *c;
    backend *be;
    fix_read(&f, tiny("models_t5_umt5-xxl-enc-bf16.pth"));
    fix_drop(&f, "blocks.1.ffn.fc1.weight");
    fix_write(&f, tmp_path("t5.safetensors"));
    fix_release(&f);
    DO(ckpt_open(&c, tmp_path("t5.safetensors"), e));
    DO(backend_open_cpu(&be, e));
    DO(precision_find(&prec, "exact", e));
    assert_int_not_equal(umt5_open_streamed(&streamed, be, c, prec, &e), 0);
    assert_text_has(e.text, "blocks.1.ffn.fc1.weight");
    backend_close(be);
    ckpt_close(c);
}

static void test_forecast(void **state)
{
    (void)state;
    forecast f = { .family = "wan2.1", .device = "a GPU", .runs = 1, .runs_left = 1, .variations = 1, .seeds = 1, .steps = 2, .layers = 40, .fits = true,
                   .free_bytes = -1, .device_bytes = 8000000000, .host_bytes = 25300000000,
                   .memory = { .blocks_to_swap = 36, .streams_text = true, .dit_bytes = 3000000000, .slot_bytes = 1400000000, .work_bytes = 2400000000,
                               .latent_bytes = 100000000, .text_bytes = 450000000, .vae_bytes = 254000000, .decode_bytes = 1500000000,
                               .runtime_bytes = 750000000, .host_bytes = 25300000000 } };
    str text = STR_INIT;
    forecast_print(&f, &text);
    assert_text_has(str_text(&text), "device   8.00 GB at most: diffusion weights 3.00 GB and room for two blocks 1.40 GB, a step 2.50 GB, text encoder 450 MB "
                                     "(layer by layer), VAE 254 MB and decoding 1.50 GB, CUDA itself 750 MB\n");
    assert_text_has(str_text(&text), "host     36 of 40 transformer blocks are streamed from 25.3 GB of pinned memory\n");
    str_release(&text);
    f.memory.blocks_to_swap = 0;
    f.memory.decode_bands = 3;
    f.memory.streams_text = false;
    forecast_print(&f, &text);
    assert_text_has(str_text(&text), "diffusion weights 3.00 GB, a step 2.50 GB, text encoder 450 MB, VAE 254 MB and decoding 1.50 GB (in 3 bands of rows), CUDA itself");
    assert_null(strstr(str_text(&text), "host     "));
    str_release(&text);
    forecast_line(&f, &text);
    assert_text_has(str_text(&text), "8.00 GB of device memory");
    str_release(&text);
    forecast_json(&f, &text);
    assert_text_has(str_text(&text), "\"device_bytes\": 8000000000");
    assert_text_has(str_text(&text), "\"decode_bands\": 3");
    str_release(&text);
}

static int make(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes), cmocka_unit_test(test_choices), cmocka_unit_test(test_bands), cmocka_unit_test(test_decode), cmocka_unit_test(test_runs), cmocka_unit_test(test_streamed_text),
        cmocka_unit_test(test_forecast),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
