/* Steps that are not guided, and skip-layer guidance on the tiny checkpoint. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/engine.h"
#include "experiments/guidance.h"

static void test_which_steps_are_guided(void **state)
{
    (void)state;
    static const struct { config_cfg_skip mode; double ratio; const char *steps; } cases[] = {
        { CFG_SKIP_NONE, 0.1, "1111111111" },  { CFG_SKIP_EARLY, 0.4, "0000001111" },     { CFG_SKIP_LATE, 0.4, "1111000000" },
        { CFG_SKIP_EARLY_LATE, 0.4, "0001111000" }, { CFG_SKIP_MIDDLE, 0.4, "1100000011" }, { CFG_SKIP_ALTERNATE, 0.5, "0101010101" },
        { CFG_SKIP_ALTERNATE, 1, "1111111111" }, { CFG_SKIP_LATE, 0, "0000000000" },      { CFG_SKIP_EARLY, 1, "1111111111" },
        { CFG_SKIP_MIDDLE, 0.5, "1100000111" },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int i = 0; i < 10; i++)
            if (guidance_applies(cases[k].mode, cases[k].ratio, i, 10) != (cases[k].steps[i] == '1'))
                fail_msg("mode %d, ratio %g, step %d", cases[k].mode, cases[k].ratio, i);
}

typedef struct {
    engine *g;
    prompt *cond, *uncond;
    double guidance;
    run_skip skip;
    run_params r;
} setup;

static void begin(setup *s)
{
    static const int one[] = { 1 };
    engine_options o = ENGINE_OPTIONS_INIT;
    err e = { 0 };
    o.model = "tests/golden/wan-tiny";
    o.device = "cpu";
    if (engine_open(&s->g, &o, &e) || engine_encode(s->g, "a cat", &s->cond, &e) || engine_encode(s->g, "", &s->uncond, &e))
        fail_msg("%s", e.text);
    s->guidance = 4;
    s->skip = (run_skip){ .n_layers = 1, .layers = one, .scale = 3, .begin = 0, .end = 2 };
    s->r = (run_params)RUN_PARAMS_INIT;
    s->r.width = 48;
    s->r.height = 32;
    s->r.frames = 5;
    s->r.steps = 3;
    s->r.cond = (const prompt *const *)&s->cond;
    s->r.n_cond = s->r.n_guidance = 1;
    s->r.uncond = s->uncond;
    s->r.guidance = &s->guidance;
}

static bool want_attention(const hook_point *p, void *user)
{
    (void)user;
    return p->kind == HOOK_CROSS_ATTN;
}

static int count(const hook_point *p, const hook_data *d, void *user, err *e)
{
    (void)d, (void)e;
    ((int *)user)[p->cond]++;
    return 0;
}

/* `seen`: blocks shown in the unconditional and the conditional pass */
static float *run(setup *s, int seen[2], int64_t *n)
{
    err e = { 0 };
    hooks h = { 0 };
    tensor t;
    seen[0] = seen[1] = 0;
    assert_int_equal(hooks_observe(&h, (hook_observer){ want_attention, count, seen }, &e), 0);
    if (engine_run(s->g, &s->r, &h, &t, &e))
        fail_msg("%s", e.text);
    *n = tensor_count(&t);
    float *host = malloc((size_t)*n * sizeof *host);
    assert_int_equal(op_download_f32(host, &t, &e), 0);
    tensor_free(&t);
    return host;
}

static void test_skip_layers(void **state)
{
    (void)state;
    setup s;
    int seen[2];
    int64_t n;
    begin(&s);
    float *plain = run(&s, seen, &n);
    assert_true(seen[0] == 6 && seen[1] == 6);      /* three steps of two blocks */
    s.r.skip = &s.skip;
    float *skipped = run(&s, seen, &n);
    assert_true(seen[0] == 6 && seen[1] == 6);      /* the third pass is nobody's business */
    assert_memory_not_equal(plain, skipped, (size_t)n * sizeof *plain);
    free(skipped);
    s.skip.uncond = true;
    skipped = run(&s, seen, &n);
    assert_true(seen[0] == 4 && seen[1] == 6);      /* two of the unconditional passes leave a block out */
    assert_memory_not_equal(plain, skipped, (size_t)n * sizeof *plain);
    free(skipped);
    s.skip.end = 0;
    skipped = run(&s, seen, &n);
    assert_memory_equal(plain, skipped, (size_t)n * sizeof *plain);
    free(skipped);
    s.skip.end = 3;
    s.guidance = 1;      /* only where there is guidance */
    free(plain);
    skipped = run(&s, seen, &n);
    s.r.skip = NULL;
    plain = run(&s, seen, &n);
    assert_memory_equal(plain, skipped, (size_t)n * sizeof *plain);
    free(skipped);
    free(plain);
    err e = { 0 };
    tensor t;
    s.skip.layers = (const int[]){ 2 };
    s.r.skip = &s.skip;
    assert_int_equal(engine_run(s.g, &s.r, NULL, &t, &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "names 2, but there are 2 transformer blocks"));
    prompt_free(s.cond);
    prompt_free(s.uncond);
    engine_close(s.g);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_which_steps_are_guided), cmocka_unit_test(test_skip_layers) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
