/* The noise of PyTorch's generators. Keys: cpu.SEED.N; cpu_seq.SEED.{a,b,c} (three draws in a row); cuda.SEED.N, .next (64 values of
 * the following call), SEED.wan480p.{stride4099,sum64}. Long cuda draws keep every 257th value. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/sample/rng.h"
#include "tests/golden.h"

enum { SMS = 132, THREADS = 2048 };      /* the goldens were drawn on an H200 */

static void cpu_draw(golden *g, const ckpt_tensor *t, uint64_t seed, int64_t n)
{
    float *ours = malloc((size_t)n * sizeof *ours);
    rng_cpu rng;
    rng_cpu_seed(&rng, seed);
    rng_cpu_normal(&rng, ours, n);
    golden_compare_key(g, t->name, ours, n, 0);
    free(ours);
}

static void cpu_sequence(golden *g, uint64_t seed)
{
    rng_cpu rng;
    rng_cpu_seed(&rng, seed);
    for (const char *part = "abc"; *part; part++) {
        char key[64];
        int64_t n;
        snprintf(key, sizeof key, "cpu_seq.%llu.%c", (unsigned long long)seed, *part);
        float *ref = golden_f32(g, key, &n, NULL);
        float *ours = ref ? malloc((size_t)n * sizeof *ours) : NULL;
        if (!ours) {
            golden_fail(g, key, "key is missing in golden.safetensors");
        } else {
            rng_cpu_normal(&rng, ours, n);
            golden_compare(g, key, ours, ref, n, 0);
        }
        free(ref);
        free(ours);
    }
}

static void cuda_draw(golden *g, const ckpt_tensor *t, uint64_t seed, int64_t n)
{
    err e = { 0 };
    int64_t kept, stride = 1, next;
    char key[64];
    uint64_t offset = 0;
    float *ref = golden_f32(g, t->name, &kept, NULL), *ours = malloc((size_t)n * sizeof *ours), after[64];
    if (kept < n)
        stride = 257;
    if (rng_cuda_normal(seed, &offset, SMS, THREADS, ours, n, &e)) {
        golden_fail(g, t->name, e.text);
    } else if ((n + stride - 1) / stride != kept) {
        golden_fail(g, t->name, "unexpected number of kept values");
    } else {
        for (int64_t i = 0; i < kept; i++)
            ours[i] = ours[i * stride];
        golden_compare_abs(g, t->name, ours, ref, kept, 2e-6);
        snprintf(key, sizeof key, "%s.next", t->name);
        float *want = golden_f32(g, key, &next, NULL);
        if (want && next == 64 && !rng_cuda_normal(seed, &offset, SMS, THREADS, after, 64, &e))
            golden_compare_abs(g, key, after, want, 64, 2e-6);
        else
            golden_fail(g, key, "missing, or of another length than 64");
        free(want);
    }
    free(ref);
    free(ours);
}

static void cuda_480p(golden *g, const ckpt_tensor *t, uint64_t seed)
{
    err e = { 0 };
    int64_t n = 16 * 21 * 60 * 104, kept;
    uint64_t offset = 0;
    char key[64], detail[96];
    float *ours = malloc((size_t)n * sizeof *ours), *ref = golden_f32(g, t->name, &kept, NULL);
    if (rng_cuda_normal(seed, &offset, SMS, THREADS, ours, n, &e)) {
        golden_fail(g, t->name, e.text);
    } else {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += ours[i];
        for (int64_t i = 0; i < kept && i * 4099 < n; i++)
            ours[i] = ours[i * 4099];
        golden_compare_abs(g, t->name, ours, ref, kept, 2e-6);
        snprintf(key, sizeof key, "cuda.%llu.wan480p.sum64", (unsigned long long)seed);
        const ckpt_tensor *s = ckpt_find(g->file, key);
        double want = NAN;
        if (s && s->dtype == DT_F64)
            memcpy(&want, s->data, sizeof want);
        snprintf(detail, sizeof detail, "abs %.3e  tolerance 1e-01  n 1", fabs(sum - want));
        golden_result(g, key, fabs(sum - want) <= 0.1, detail);
    }
    free(ref);
    free(ours);
}

void golden_rng(golden *g)
{
    for (size_t i = 0; i < ckpt_count(g->file); i++) {
        const ckpt_tensor *t = ckpt_at(g->file, i);
        unsigned long long seed;
        long long n;
        char end[64] = "";
        if (sscanf(t->name, "cpu.%llu.%lld%63s", &seed, &n, end) == 2 && n > 0 && n <= GOLDEN_MAX_COUNT)
            cpu_draw(g, t, seed, n);
        else if (sscanf(t->name, "cpu_seq.%llu.%63s", &seed, end) == 2)
            end[0] == 'a' ? cpu_sequence(g, seed) : (void)0;      /* a, b and c are one sequence */
        else if (sscanf(t->name, "cuda.%llu.wan480p.%63s", &seed, end) == 2)
            strcmp(end, "stride4099") == 0 ? cuda_480p(g, t, seed) : (void)0;
        else if (sscanf(t->name, "cuda.%llu.%lld%63s", &seed, &n, end) == 2 && n > 0 && n <= GOLDEN_MAX_COUNT)
            cuda_draw(g, t, seed, n);
        else if (!strstr(t->name, ".next"))
            golden_fail(g, t->name, "this build does not know the key");
    }
}
