/* Blocks in host memory: the same bytes as a resident model, for any number of them, with and without VACE; slots are used in order and
 * filled ahead. */
#include "tests/unit/dit_fixture.h"

#include "core/dit/dit.h"
#include "core/dit/dit_swap.h"

/* ---- a CPU whose copies arrive at the last moment ---- */

static struct {
    const void *host[8];
    size_t bytes[8];
    backend_slot *slot[8];
    int n_fills, n_acquired;
} lazy;

static int place(backend_slot *s)
{
    for (int k = 0; k < 8; k++)
        if (lazy.slot[k] == s || !lazy.slot[k]) {
            lazy.slot[k] = s;
            return k;
        }
    fail_msg("too many slots");
    return 0;
}

/* what was there is gone at once, what is coming is not there yet */
static int lazy_fill(backend *be, backend_slot *s, const void *host, size_t bytes, err *e)
{
    int k = place(s);
    (void)be, (void)e;
    memset(s->data, 0xff, s->bytes);
    lazy.host[k] = host;
    lazy.bytes[k] = bytes;
    lazy.n_fills++;
    return 0;
}

static int lazy_acquire(backend *be, backend_slot *s, err *e)
{
    int k = place(s);
    (void)be, (void)e;
    memcpy(s->data, lazy.host[k], lazy.bytes[k]);
    lazy.n_acquired++;
    return 0;
}

static backend *lazy_backend(void)
{
    static backend_ops ops;
    backend *be;
    DO(backend_open_cpu(&be, e));
    ops = *be->ops;
    ops.slot_fill = lazy_fill;
    ops.slot_acquire = lazy_acquire;
    be->ops = &ops;
    memset(&lazy, 0, sizeof lazy);
    return be;
}

/* ---- runs ---- */

static const dit_config CFG = { .dim = DIM, .ffn_dim = FFN, .freq_dim = 32, .in_dim = 16, .out_dim = 16, .num_heads = 2, .num_layers = LAYERS,
                                .text_dim = TEXT_DIM, .text_len = TEXT, .eps = 1e-6, .n_vace_layers = HINTS };
enum { F = 2, H = 4, W = 6, N_OUT = 16 * F * H * W };

typedef struct {
    bool vace;
    const bool *skip;
    double block_scale[HINTS];
} variant;

/* velocities of `n` forwards, alternating between two variants, as guidance does */
static void forwards(backend *be, const ckpt *c, int n_swapped, const variant *v, int n, float *out)
{
    static const int layers[HINTS] = { 0, 2, 4 };
    const precision *prec;
    dit *d;
    dit_work *work = NULL;
    tensor x = { 0 }, rows = { 0 }, context = { 0 }, hint = { 0 }, velocity = { 0 };
    float *values = malloc(N_OUT * sizeof *values);
    state_of_noise = 99;
    DO(precision_find(&prec, "exact", e));
    DO(dit_open_swapped(&d, be, c, &CFG, prec, NULL, 0, n_swapped, e));
    DO(dit_add_vace(d, c, VACE_IN, HINTS, layers, e));
    DO(TENSOR_NEW(&x, be, DT_F32, e, 16, F, H, W));
    DO(TENSOR_NEW(&hint, be, DT_F32, e, VACE_IN, F, H, W));
    DO(TENSOR_NEW(&velocity, be, DT_F32, e, 16, F, H, W));
    DO(TENSOR_NEW(&rows, be, DT_F32, e, 3, TEXT_DIM));
    DO(TENSOR_NEW(&context, be, DT_F32, e, TEXT, DIM));
    for (tensor *t[] = { &x, &hint, &rows }, **at = t; at < t + 3; at++) {
        for (int64_t i = 0; i < tensor_count(*at); i++)
            values[i] = 5 * noise();
        DO(op_upload(*at, values, e));
    }
    DO(dit_embed_text(d, &rows, &context, e));
    DO(dit_work_new(&work, d, F, H, W, e));
    for (int k = 0; k < n; k++) {
        const variant *u = &v[k % 2];
        double t = 900 - 100 * k;
        dit_input in = { .latents = &x, .context = &context, .n_timesteps = 1, .timesteps = &t, .skip_block = u->skip };
        if (u->vace) {
            in.vace_context = &hint;
            in.vace_scale = 0.7;
            in.vace_block_scale = u->block_scale;
        }
        DO(dit_forward(d, work, &in, &velocity, NULL, NULL, e));
        DO(op_download(out + (size_t)k * N_OUT, &velocity, e));
        if (k == 2)
            dit_rest(d);      /* anything between two passes */
    }
    assert_true(n_swapped == 0 ? dit_host_bytes(d) == 0 : dit_host_bytes(d) > 0);
    for (tensor *t[] = { &x, &hint, &rows, &context, &velocity }, **at = t; at < t + 5; at++)
        tensor_free(*at);
    dit_work_free(work);
    dit_close(d);
    free(values);
}

static void test_same_bytes(void **state)
{
    (void)state;
    enum { PASSES = 5 };
    static float want[PASSES * N_OUT], got[PASSES * N_OUT];
    static const bool some[LAYERS] = { true, false, true, false, false }, all[LAYERS] = { true, true, true, true, true };
    const variant cases[][2] = {
        { { 0 }, { 0 } },
        { { .vace = true, .block_scale = { 1, 1, 1 } }, { .vace = true, .block_scale = { 1, 0, 1 } } },
        { { .vace = true, .block_scale = { 1, 1, 0 } }, { .skip = some } },
        { { .skip = all }, { .skip = some } },
    };
    ckpt *c;
    backend *be;
    make_model(tmp_path("model.safetensors"), 7, true);
    DO(ckpt_open(&c, tmp_path("model.safetensors"), e));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        DO(backend_open_cpu(&be, e));
        forwards(be, c, 0, cases[k], PASSES, want);
        assert_memory_not_equal(want, want + N_OUT, N_OUT * sizeof(float));
        for (int n = 1; n <= LAYERS; n++) {
            forwards(be, c, n, cases[k], PASSES, got);
            assert_memory_equal(got, want, sizeof want);
        }
        assert_int_equal(be->bytes_now, 0);
        backend_close(be);
        for (int n = 1; n <= LAYERS; n++) {
            be = lazy_backend();
            forwards(be, c, n, cases[k], PASSES, got);
            assert_memory_equal(got, want, sizeof want);
            backend_close(be);
        }
    }
    ckpt_close(c);
}

/* Steady state: every block but the first of all was asked for before the one ahead of it was given back; a slot's copy is made once a
 * pass, and not at all when the slots hold everything. */
static void test_ahead(void **state)
{
    (void)state;
    enum { N = 5, PASSES = 4 };
    dit_block blocks[N];
    dit_swap *s;
    const dit_block *b;
    backend *be = lazy_backend();
    err e = { 0 };
    for (int count = 1; count <= N; count++) {
        memset(&lazy, 0, sizeof lazy);
        DO(dit_swap_new(&s, be, e));
        for (int i = 0; i < count; i++) {
            float v[8] = { (float)i, (float)i * 10 };
            memset(&blocks[i], 0, sizeof blocks[i]);
            DO(TENSOR_NEW(&blocks[i].modulation, be, DT_F32, e, 2, 4));
            DO(TENSOR_NEW(&blocks[i].norm3_b, be, DT_F32, e, i + 1));
            DO(op_upload(&blocks[i].modulation, v, e));
            DO(dit_swap_take(s, 10 * i, &blocks[i], e));
            assert_null(blocks[i].modulation.data);
        }
        assert_true(dit_swap_has(s, 0) && !dit_swap_has(s, 5) && !dit_swap_has(NULL, 0));
        assert_int_equal(dit_swap_get(s, 3, &b, &e), ERR_INTERNAL);
        for (int pass = 0; pass < PASSES; pass++) {
            int ids[2 * N], n = 0;
            for (int i = 0; i < count; i++) {
                ids[n++] = 10 * i;
                ids[n++] = 10 * i + 5;      /* resident ones in between */
            }
            DO(dit_swap_begin_pass(s, ids, n, e));
            for (int i = 0; i < count; i++) {
                int before = lazy.n_fills;
                DO(dit_swap_get(s, 10 * i, &b, e));
                assert_int_equal(lazy.n_fills, before);      /* asked for earlier */
                assert_int_equal(((float *)b->modulation.data)[1], i * 10);
                assert_int_equal(b->norm3_b.shape[0], i + 1);
                assert_null(b->self_attn.q.w.data);
                assert_int_equal(dit_swap_get(s, 0, &b, &e), ERR_INTERNAL);      /* one at a time */
                DO(dit_swap_done(s, e));
            }
        }
        assert_int_equal(lazy.n_acquired, PASSES * count);
        assert_int_equal(lazy.n_fills, count <= 2 ? count : PASSES * count + 2);
        /* a pass that ends in the middle of a block, and one that announced nothing */
        DO(dit_swap_begin_pass(s, (int[]){ 0 }, 1, e));
        DO(dit_swap_get(s, 0, &b, e));
        DO(dit_swap_begin_pass(s, (int[]){ 0, 1 }, 0, e));
        DO(dit_swap_get(s, 10 * (count - 1), &b, e));
        assert_int_equal(((float *)b->modulation.data)[0], count - 1);
        DO(dit_swap_done(s, e));
        dit_swap_free(s);
    }
    dit_swap_free(NULL);
    assert_int_equal(be->bytes_now, 0);
    backend_close(be);
}

static void test_spread(void **state)
{
    (void)state;
    for (int n = 1; n <= 40; n++)
        for (int swapped = 0; swapped <= n; swapped++) {
            int count = 0, gap = 0, most = 0;
            for (int i = 0; i < n; i++) {
                bool it = dit_swap_picks(i, n, swapped);
                count += it;
                gap = it ? 0 : gap + 1;
                most = gap > most ? gap : most;
            }
            assert_int_equal(count, swapped);
            assert_true(!swapped || most <= (n + swapped - 1) / swapped);
        }
}

static void test_slot_order(void **state)
{
    (void)state;
    backend *be;
    backend_slot s;
    err e = { 0 };
    char data[100] = { 0 };
    DO(backend_open_cpu(&be, e));
    DO(backend_slot_new(&s, be, 64, e));
    assert_int_equal(backend_slot_acquire(&s, &e), ERR_INTERNAL);
    assert_text_has(e.text, "holds nothing");
    assert_int_equal(backend_slot_fill(&s, data, 65, &e), ERR_INTERNAL);
    assert_text_has(e.text, "too small");
    DO(backend_slot_fill(&s, data, 64, e));
    DO(backend_slot_acquire(&s, e));
    assert_int_equal(backend_slot_fill(&s, data, 64, &e), ERR_INTERNAL);
    assert_text_has(e.text, "is in use");
    DO(backend_slot_release(&s, e));
    assert_int_equal(backend_slot_release(&s, &e), ERR_INTERNAL);
    backend_slot_free(&s);
    backend_slot_free(&s);
    backend_close(be);
}

static void test_too_many(void **state)
{
    (void)state;
    backend *be;
    ckpt *c;
    dit *d;
    err e = { 0 };
    const precision *prec;
    make_model(tmp_path("model.safetensors"), 7, true);
    DO(ckpt_open(&c, tmp_path("model.safetensors"), e));
    DO(backend_open_cpu(&be, e));
    DO(precision_find(&prec, "exact", e));
    assert_int_equal(dit_open_swapped(&d, be, c, &CFG, prec, NULL, 0, 6, &e), ERR_CONFIG);
    assert_text_has(e.text, "memory.blocks_to_swap is 6");
    assert_text_has(e.text, "has 5 transformer blocks: use 0 to 5");
    assert_null(d);
    assert_int_equal(dit_open_swapped(&d, be, c, &CFG, prec, NULL, 0, -1, &e), ERR_CONFIG);
    ckpt_close(c);
    backend_close(be);
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
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_ahead), cmocka_unit_test(test_spread), cmocka_unit_test(test_slot_order),
        cmocka_unit_test(test_too_many),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
