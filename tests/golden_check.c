/* golden-check DIR [--device cpu|cuda] [--precision exact|bf16|fp8] [--threads N]: compares this build with a folder of golden outputs.
 * The layout is recognised from the files; all sizes are read from them. Exit 0: everything compared agrees; 1: something
 * differs or nothing was compared; 2: unreadable. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/parallel.h"
#include "core/base/str.h"
#include "tests/golden.h"

/* |ours - reference| / |reference|: about twice the largest that the shared folders show on an H200 (docs/speed.md). The text encoder of
 * the goldens amplifies rounding: upstream's own bf16 arithmetic is up to 0.067 off there, ours 0.073. */
static const double BF16_BOUND = 0.08, FP8_BOUND = 0.2, TEXT_BOUND = 0.15;

float *golden_f32(golden *g, const char *key, int64_t *n, const ckpt_tensor **record)
{
    const ckpt_tensor *t = ckpt_find(g->file, key);
    if (!t)
        return NULL;
    *n = (int64_t)(t->bytes / dtype_size(t->dtype));
    float *f = malloc((size_t)(*n ? *n : 1) * sizeof *f);
    if (f)
        dtype_to_f32(f, t->data, t->dtype, *n);
    if (record)
        *record = t;
    return f;
}

bool golden_has(golden *g, const char *key)
{
    return ckpt_find(g->file, key) != NULL;
}

void golden_result(golden *g, const char *name, bool pass, const char *detail)
{
    g->compared++;
    g->failed += !pass;
    printf("%-44s %s  %s\n", name, detail, pass ? "pass" : "FAIL");
}

void golden_fail(golden *g, const char *name, const char *why)
{
    golden_result(g, name, false, why);
}

void golden_leave_out(golden *g, const char *name, const char *why)
{
    g->left_out++;
    printf("%-44s left out: %s\n", name, why);
}

static void compare(golden *g, const char *name, const float *ours, const float *ref, int64_t n, double tolerance, bool relative)
{
    double worst = 0, largest = 0;
    int64_t at = -1;
    char detail[160];
    if (g->bound > 0 && tolerance > 0) {      /* another precision: how far all values together are off */
        double off = 0, all = 0;
        for (int64_t i = 0; i < n; i++) {
            off += ((double)ours[i] - ref[i]) * ((double)ours[i] - ref[i]);
            all += (double)ref[i] * ref[i];
        }
        double error = sqrt(off / (all > 0 ? all : 1)), bound = !strncmp(name, "t5.", 3) ? TEXT_BOUND : g->bound;
        snprintf(detail, sizeof detail, "norm %.3e  bound %.2f  n %lld", error, bound, (long long)n);
        golden_result(g, name, error <= bound && n > 0, detail);
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)ours[i] - ref[i]), r = fabs((double)ref[i]);
        if (r > largest)
            largest = r;
        if (!(d <= worst) || isnan(d)) {
            worst = isnan(d) ? INFINITY : d;
            at = i;
        }
        if (tolerance == 0 && memcmp(&ours[i], &ref[i], sizeof *ref)) {
            worst = worst > 0 ? worst : 1e-45;
            at = i;
        }
    }
    double error = relative && tolerance > 0 ? worst / (largest > 0 ? largest : 1) : worst;
    bool pass = error <= tolerance && n > 0;
    snprintf(detail, sizeof detail, "%s %.3e  tolerance %.0e  n %lld", relative && tolerance > 0 ? "rel" : "abs", error, tolerance, (long long)n);
    golden_result(g, name, pass, detail);
    if (!pass && at >= 0)
        printf("    worst at element %lld: ours %.9g, reference %.9g\n", (long long)at, (double)ours[at], (double)ref[at]);
}

void golden_compare(golden *g, const char *name, const float *ours, const float *ref, int64_t n, double tolerance)
{
    compare(g, name, ours, ref, n, tolerance, true);
}

void golden_compare_abs(golden *g, const char *name, const float *ours, const float *ref, int64_t n, double tolerance)
{
    compare(g, name, ours, ref, n, tolerance, false);
}

void golden_compare_key(golden *g, const char *key, const float *ours, int64_t n, double tolerance)
{
    int64_t want;
    float *ref = golden_f32(g, key, &want, NULL);
    char why[96];
    if (!ref) {
        golden_fail(g, key, "key is missing in golden.safetensors");
    } else if (want != n) {
        snprintf(why, sizeof why, "we have %lld values, the reference %lld", (long long)n, (long long)want);
        golden_fail(g, key, why);
    } else {
        golden_compare(g, key, ours, ref, n, tolerance);
    }
    free(ref);
}

void golden_compare_tensor(golden *g, const char *key, const tensor *ours, double tolerance)
{
    err e = { 0 };
    int64_t n = tensor_count(ours);
    float *host = malloc((size_t)(n ? n : 1) * sizeof *host);
    if (!host || op_download_f32(host, ours, &e))
        golden_fail(g, key, host ? e.text : "no memory");
    else
        golden_compare_key(g, key, host, n, tolerance);
    free(host);
}

char *golden_path(golden *g, const char *file)
{
    return fs_join(g->dir, file);
}

json *golden_json(golden *g, const char *file)
{
    err e = { 0 };
    json *doc = NULL;
    char *path = golden_path(g, file);
    if (!path || json_read_file(&doc, path, &e))
        golden_fail(g, file, path ? e.text : "no memory");
    free(path);
    return doc;
}

static bool has(golden *g, const char *file)
{
    char *path = golden_path(g, file);
    bool there = path && fs_exists(path);
    free(path);
    return there;
}

static int usage(FILE *f, int rc)
{
    fprintf(f, "usage: golden-check DIR [--device cpu|cuda|cuda:N] [--precision exact|bf16|fp8] [--threads N]\n"
               "Compares this build with the golden outputs in DIR (wan-t2v, wan22-a14b, wan-vace, holocine, longlive,\n"
               "scope-vace or rng layout, any sizes).\n"
               "One line a comparison: name, largest error, tolerance, pass or FAIL. Exit 0 when all agree.\n"
               "The goldens are f32: with bf16 (fp8) |ours - reference| / |reference| of the same runs is held to %g (%g); that\n"
               "of the text encoder to %g.\n", BF16_BOUND, FP8_BOUND, TEXT_BOUND);
    return rc;
}

int main(int argc, char **argv)
{
    golden g = { 0 };
    err e = { 0 };
    const char *device = "cpu", *precision = "exact";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help"))
            return usage(stdout, 0);
        if (!strcmp(argv[i], "--device") && i + 1 < argc)
            device = argv[++i];
        else if (!strcmp(argv[i], "--precision") && i + 1 < argc)
            precision = argv[++i];
        else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
            parallel_set_threads(atoi(argv[++i]));
        else if (argv[i][0] == '-' || g.dir)
            return usage(stderr, 2);
        else
            g.dir = argv[i];
    }
    if (!g.dir)
        return usage(stderr, 2);
    char *path = golden_path(&g, "golden.safetensors");
    int rc = path ? ckpt_open(&g.file, path, &e) : ERR(&e, ERR_MEMORY, "no memory");
    free(path);
    if (!rc)
        rc = backend_open(&g.be, device, &e);
    if (!rc)
        rc = precision_find(&g.prec, precision, &e);
    if (!rc && precision_on(g.prec, g.be) != g.prec)
        rc = ERR(&e, ERR_ARG, "%s does not compute in %s", g.be->device, precision);
    if (rc) {
        fprintf(stderr, "golden-check: %s\n", e.text);
        ckpt_close(g.file);
        return err_exit_code(rc) == 3 ? 3 : 2;
    }
    g.bound = !strcmp(precision, "exact") ? 0 : !strcmp(precision, "fp8") ? FP8_BOUND : BF16_BOUND;
    printf("%s on %s in %s\n", g.dir, g.be->device, precision);
    if (has(&g, "e2e.json") && has(&g, "tokenizer_cases.json"))
        golden_wan(&g);
    else if (has(&g, "high_noise_model") && has(&g, "case.json"))
        golden_wan22(&g);
    else if (has(&g, "shots.json") && has(&g, "spans.json"))
        golden_holocine(&g);
    else if (has(&g, "longlive_base.pt"))
        golden_longlive(&g);
    else if (has(&g, "cases.json"))
        golden_wan_vace(&g);
    else if (golden_has(&g, "0.vace_context"))
        golden_scope_vace(&g);
    else if (golden_has(&g, "cpu.0.16") || golden_has(&g, "cuda.0.1") || golden_has(&g, "cpu_seq.0.a") || (ckpt_count(g.file) && !strncmp(ckpt_at(g.file, 0)->name, "cpu", 3)))
        golden_rng(&g);
    else
        fprintf(stderr, "golden-check: %s: this build has no checks for this layout (known: wan-t2v, wan22-a14b, wan-vace, holocine, longlive, scope-vace, rng)\n", g.dir);
    printf("%s: %d compared, %d failed", g.dir, g.compared, g.failed);
    printf(g.left_out ? ", %d left out\n" : "\n", g.left_out);
    backend_close(g.be);
    ckpt_close(g.file);
    parallel_shutdown();
    return g.failed || !g.compared ? 1 : 0;
}
