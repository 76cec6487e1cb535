/* engine_fixture: a short run of the tiny model with other weights. Included by test programs only. */
#ifndef WANSCOPE_ENGINE_FIXTURE_H
#define WANSCOPE_ENGINE_FIXTURE_H

#include "core/engine.h"
#include "tests/unit/weights_fixture.h"

static const char TINY[] = "tests/golden/wan-tiny";

static char *tiny(const char *name)
{
    static char paths[4][300];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, 300, "%s/%s", TINY, name);
    return p;
}

static bool round_weights;      /* engine_options.fp8_scaled of latents_of() */

/* the tiny model with another diffusion model; denoised latents of a short run */
static float *latents_of(const char *dit, const char *dit_low, const engine_lora *loras, int n_loras, int64_t *n, err *e)
{
    engine *g = NULL;
    prompt *p = NULL;
    tensor t = { 0 };
    float *host = NULL;
    double guidance = 1;
    engine_options o = ENGINE_OPTIONS_INIT;
    o.model = TINY;
    o.dit = dit;
    o.dit_low = dit_low;
    o.device = "cpu";
    o.threads = 2;
    o.loras = loras;
    o.n_loras = n_loras;
    o.fp8_scaled = round_weights;
    const int32_t ids[16] = { 5, 9, 1 };
    run_params r = RUN_PARAMS_INIT;
    r.width = 32;
    r.height = 32;
    r.frames = 5;
    r.seed = 3;
    r.steps = 4;
    r.shift = 3;
    r.guidance = &guidance;
    r.n_guidance = 1;
    r.n_cond = 1;
    int rc = engine_open(&g, &o, e);
    if (!rc)
        rc = engine_encode_ids(g, ids, 16, 3, &p, e);
    r.cond = (const prompt *const *)&p;
    if (!rc)
        rc = engine_run(g, &r, NULL, &t, e);
    if (!rc) {
        *n = tensor_count(&t);
        host = malloc((size_t)*n * sizeof *host);
        assert_int_equal(op_download_f32(host, &t, e), 0);
    }
    tensor_free(&t);
    prompt_free(p);
    engine_close(g);
    return host;
}

static void same_video(const char *dit, const char *dit_low, const engine_lora *loras, int n_loras, const char *merged, const char *merged_low)
{
    err e = { 0 };
    int64_t n, m;
    float *a = latents_of(dit, dit_low, loras, n_loras, &n, &e);
    if (!a)
        fail_msg("%s", e.text);
    float *b = latents_of(merged, merged_low, NULL, 0, &m, &e);
    if (!b)
        fail_msg("%s", e.text);
    assert_int_equal(n, m);
    assert_memory_equal(a, b, (size_t)n * sizeof *a);
    free(a);
    free(b);
}

#endif
