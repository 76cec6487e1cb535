/* latent-analyze as its user meets it: files, exit codes, sentences, memory. */
#include "tests/unit/test_analysis_fixture.h"

#include <math.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "analysis/lib/analyze.h"
#include "analysis/lib/plots.h"
#include "core/base/json.h"

enum { T = 5, D = 2 * 1 * 2 * 3 };

static void fill(float *x, int v, int n, int64_t rows, int64_t elems)
{
    uint64_t a = 1000u + (uint64_t)n, b = 77u + (uint64_t)(10 * v + n);
    for (int64_t i = 0; i < elems; i++) {
        double start = noise(&a), end = 0.5 * v + noise(&b), bend = noise(&b);
        for (int64_t t = 0; t < rows; t++) {
            double s = (double)t / (double)(rows - 1);
            x[t * elems + i] = (float)((1 - s) * start + s * end + s * (1 - s) * bend);
        }
    }
}

static void good_run(const fixture *f, int v, int n)
{
    float x[T * D];
    char slug[24];
    fill(x, v, n, T, D);
    fake_trace t = { .T = T, .C = 2, .F = 1, .H = 2, .W = 3, .latents = x };
    snprintf(slug, sizeof slug, "v,%d", v);
    add_run(f, v, slug, 42 + n, &t, true);
}

static char *read_out(const fixture *f, const char *name)
{
    char path[700], *text = NULL;
    err e = { 0 };
    snprintf(path, sizeof path, "%s/analysis/%s", f->dir, name);
    if (fs_read_text(&text, NULL, path, &e))
        fail_msg("%s", e.text);
    return text;
}

static bool out_exists(const fixture *f, const char *name)
{
    char path[700];
    snprintf(path, sizeof path, "%s/analysis/%s", f->dir, name);
    return fs_exists(path);
}

/* The parser is strict: a bare NaN would stop it. */
static json *read_json(const fixture *f, const char *name)
{
    char *text = read_out(f, name);
    json *doc = NULL;
    err e = { 0 };
    if (json_parse(&doc, text, strlen(text), name, &e))
        fail_msg("%s", e.text);
    free(text);
    return doc;
}

static void whole_batch(void **state)
{
    (void)state;
    static const char *const files[] = {
        "trajectory_runs.csv",
        "trajectory_summary.csv",
        "trajectory_pairs.csv",
        "trajectory_profiles.csv",
        "volume_variations.csv",
        "volume_variation_pairs.csv",
        "volume_single_paths_runs.csv",
        "pca_sets.csv",
        "pca_variance.csv",
        "pca_scores.csv",
        "pca_within_summary.csv",
    };
    static const char *const figures[] = { "trajectory_profiles", "trajectory_summary", "volume", "pca_scatter",
                                           "pca_variance" };
    fixture f;
    char *out, *errors;
    fixture_open(&f, "whole");
    for (int v = 0; v < 3; v++)
        for (int n = 0; n < 5; n++)
            good_run(&f, v, n);
    assert_int_equal(
        run_program(analyze_program, &f, &out, &errors, "all", "--batch-dir", f.dir, "--bootstrap", "200", NULL), 0);
    assert_says(errors, "15 runs of 3 variations");
    assert_says(out, "path_length");
    assert_says(out, "0002 v,2");
    free(out);
    free(errors);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        assert_true(out_exists(&f, files[i]));
    for (size_t i = 0; plots_available() && i < sizeof figures / sizeof *figures; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.svg", figures[i]);
        char *svg = read_out(&f, name);
        assert_says(svg, "</svg>");
        free(svg);
    }
    char *csv = read_out(&f, "trajectory_runs.csv");
    assert_says(csv, "run,variation,slug,seed,path_length,");
    assert_says(csv, "\n0000-s42,0,\"v,0\",42,");
    free(csv);
    json *doc = read_json(&f, "trajectory.json");
    assert_int_equal(json_count(json_get(doc, "runs")), 15);
    assert_int_equal(json_count(json_get(doc, "variations")), 3);
    assert_int_equal(json_count(json_get(json_at(json_get(doc, "variations"), 1), "seeds")), 5);
    const json *pair = json_at(json_get(doc, "pairs"), 0);
    assert_int_equal(json_get_int(pair, "n", 0), 5);
    assert_true(json_get_number(pair, "p_min", 0) == 0.0625);
    assert_true(json_get_number(pair, "p_holm", 0) >= json_get_number(pair, "p", 1));
    json_free(doc);
    json_free(read_json(&f, "volume.json"));
    json_free(read_json(&f, "pca.json"));

    /* again, elsewhere: the same bytes */
    char other[700], name[800];
    snprintf(other, sizeof other, "%s/again", f.base);
    assert_int_equal(run_program(analyze_program, &f, NULL, NULL, "all", "--batch-dir", f.dir, "--bootstrap=200",
                                 "--out", other, NULL),
                     0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        err e = { 0 };
        char *a = read_out(&f, files[i]), *b = NULL;
        snprintf(name, sizeof name, "%s/%s", other, files[i]);
        assert_int_equal(fs_read_text(&b, NULL, name, &e), 0);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    fixture_close(&f);
}

static void formats_and_plots(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, "formats");
    good_run(&f, 0, 0);
    good_run(&f, 0, 1);
    assert_int_equal(run_program(analyze_program, &f, NULL, NULL, "trajectory", "--batch_dir", f.dir, "--format", "csv",
                                 "--plots", "none", NULL),
                     0);
    assert_true(out_exists(&f, "trajectory_runs.csv"));
    assert_false(out_exists(&f, "trajectory.json"));
    assert_false(out_exists(&f, "trajectory_profiles.svg"));
    assert_int_equal(run_program(analyze_program, &f, NULL, NULL, "pca", "--batch-dir", f.dir, "--format", "json",
                                 "--loadings", "2", "--plots", plots_available() ? "png" : "none", NULL),
                     0);
    assert_true(out_exists(&f, "pca.json") && out_exists(&f, "pca_loadings.npy"));
    assert_false(out_exists(&f, "pca_sets.csv"));
    assert_int_equal(out_exists(&f, "pca_scatter.png"), plots_available());
    assert_int_equal(run_program(analyze_program, &f, NULL, NULL, "volume", "--batch-dir", f.dir, "--rank", "9", NULL),
                     0);
    json_free(read_json(&f, "volume.json"));
    fixture_close(&f);
}

/* One variation with one seed, all rows alike: most metrics do not exist, nothing breaks. */
static void smallest_batch(void **state)
{
    (void)state;
    fixture f;
    char *out;
    fixture_open(&f, "smallest");
    float x[2] = { 1, 1 };
    fake_trace t = { .T = 2, .C = 1, .F = 1, .H = 1, .W = 1, .latents = x };
    add_run(&f, 0, "only", 1, &t, false);
    assert_int_equal(run_program(analyze_program, &f, &out, NULL, "all", "--batch-dir", f.dir, NULL), 0);
    assert_says(out, "Fewer than three seeds");
    free(out);
    json *doc = read_json(&f, "trajectory.json");
    assert_int_equal(json_type(json_get(json_at(json_get(doc, "runs"), 0), "tortuosity")), JSON_NULL);
    json_free(doc);
    json_free(read_json(&f, "volume.json"));
    json_free(read_json(&f, "pca.json"));
    fixture_close(&f);
}

/* Unequal numbers of seeds: subsets, pairs by seed number, and a lone seed take their places. */
static void unequal_seeds(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, "unequal");
    for (int n = 0; n < 6; n++)
        good_run(&f, 0, n);
    for (int n = 2; n < 5; n++)
        good_run(&f, 1, n);
    good_run(&f, 2, 9);
    assert_int_equal(run_program(analyze_program, &f, NULL, NULL, "all", "--batch-dir", f.dir, NULL), 0);
    json *doc = read_json(&f, "trajectory.json");
    assert_int_equal(json_get_int(json_at(json_get(doc, "pairs"), 0), "n", -1), 3);
    json_free(doc);
    doc = read_json(&f, "volume.json");
    assert_int_equal(json_get_int(doc, "seeds_used", -1), 3);
    json_free(doc);
    fixture_close(&f);
}

static void usage(void **state)
{
    (void)state;
    static const struct {
        const char *argv[8];
        const char *says;
    } cases[] = {
        { { NULL }, "a command is missing" },
        { { "trajectry" }, "unknown command 'trajectry'. Commands: trajectory, volume, pca, all" },
        { { "dimension", "--batch-dir", "x" }, "unknown command 'dimension'" },
        { { "all" }, "--batch-dir is missing" },
        { { "all", "--batch-dir" }, "--batch-dir needs a value" },
        { { "all", "--batchdir", "x" }, "did you mean '--batch-dir'" },
        { { "all", "--batch-dir", "x", "--format", "xml" }, "--format xml: expected one of both, csv, json" },
        { { "all", "--batch-dir", "x", "--bootstrap", "3" },
          "--bootstrap 3: expected a whole number from 100 to 1000000" },
        { { "all", "--batch-dir", "x", "--rank", "two" }, "--rank two: expected a whole number" },
        { { "all", "--batch-dir", "x", "extra" }, "'extra' is not an option" },
        { { "all", "--batch-dir", "x", "--help=yes" }, "--help takes no value" },
        { { "all", "--batch-dir", "/nowhere/at/all" }, "/nowhere/at/all: no such batch folder" },
    };
    fixture f;
    fixture_open(&f, "usage");
    char *out, *errors;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const *a = cases[i].argv;
        assert_int_equal(run_program(analyze_program, &f, NULL, &errors, a[0], a[1], a[2], a[3], a[4], a[5], NULL), 2);
        assert_says(errors, cases[i].says);
        free(errors);
    }
    assert_int_equal(run_program(analyze_program, &f, &out, NULL, "--help", NULL), 0);
    assert_says(out, "--max-rows");
    free(out);
    assert_int_equal(run_program(analyze_program, &f, &out, NULL, "--version", NULL), 0);
    assert_says(out, "latent-analyze (wanscope)");
    free(out);
    assert_int_equal(run_program(analyze_program, &f, NULL, &errors, "all", "--batch-dir", f.dir, NULL), 2);
    assert_says(errors, "has no manifest.jsonl");
    free(errors);
    fixture_close(&f);
}

static void expect_manifest(const char *line, int status, const char *says)
{
    fixture f;
    char *errors;
    fixture_open(&f, "manifest");
    good_run(&f, 0, 0);
    add_line(&f, line);
    good_run(&f, 0, 1);
    assert_int_equal(run_program(analyze_program, &f, NULL, &errors, "trajectory", "--batch-dir", f.dir, "--plots",
                                 "none", NULL),
                     status);
    assert_says(errors, says);
    free(errors);
    fixture_close(&f);
}

static void manifests(void **state)
{
    (void)state;
    expect_manifest("{\"run\": \"0001-s1\", ", 2, "manifest.jsonl: line 2");
    expect_manifest("{\"run\": 5}", 2, "line 2: the key 'run' is missing");
    expect_manifest("{\"run\":\"x\",\"state\":\"maybe\"}", 2,
                    "the state of run 'x' is 'maybe', expected 'done' or 'failed'");
    expect_manifest("{\"run\":\"x\",\"state\":\"done\",\"seed\":\"one\"}", 2,
                    "the seed of run 'x' is not a whole number");
    expect_manifest("{\"run\":\"x\",\"state\":\"done\",\"seed\":1}", 2,
                    "the key 'variation' with a whole 'number' is missing");
    expect_manifest("{\"run\":\"x\",\"state\":\"done\",\"seed\":1,\"variation\":{\"number\":0,\"id\":\"other\"}}", 2,
                    "two templates seem to share");
    expect_manifest("{\"run\":\"x\",\"state\":\"done\",\"seed\":42,\"variation\":{\"number\":0,\"id\":\"id-v,0\"}}", 2,
                    "seeds must pair up one to one");
    expect_manifest("{\"run\":\"x\",\"state\":\"done\",\"seed\":1,\"variation\":{\"number\":3,\"id\":\"\"},\"files\":{"
                    "\"trace.h5\":{\"path\":"
                    "\"../../etc/x\"}}}",
                    2, "leaves the batch folder");
    expect_manifest("{\"run\":\"x\",\"state\":\"failed\",\"seed\":1,\"variation\":{\"number\":3,\"id\":\"\"},\"error\":"
                    "\"no memory\"}",
                    0, "1 runs are marked failed");
    expect_manifest(
        "{\"run\":\"x\",\"state\":\"done\",\"seed\":1,\"variation\":{\"number\":3,\"id\":\"\"},\"files\":{}}", 1,
        "lists no trace.h5");

    /* the last line of a run wins; a torn last line does not count */
    fixture f;
    char *errors;
    fixture_open(&f, "manifest");
    add_line(&f, "{\"run\":\"0000-s42\",\"state\":\"failed\",\"seed\":42,\"variation\":{\"number\":0,\"id\":\"id-v,0\"}"
                 ",\"error\":\"x\"}");
    good_run(&f, 0, 0);
    good_run(&f, 0, 1);
    char path[700];
    snprintf(path, sizeof path, "%s/manifest.jsonl", f.dir);
    FILE *m = fopen(path, "a");
    fputs("{\"run\":\"0000-s4", m);
    fclose(m);
    assert_int_equal(run_program(analyze_program, &f, NULL, &errors, "trajectory", "--batch-dir", f.dir, "--plots",
                                 "none", NULL),
                     0);
    assert_says(errors, "2 runs of 1 variations");
    assert_says(errors, "line 4 is incomplete");
    free(errors);
    fixture_close(&f);
}

/* Two good runs and a bad one: the bad one is named, the others are analysed, exit 1. */
static void expect_bad_trace(void (*spoil)(const char *path), const char *says)
{
    fixture f;
    char *errors, folder[600], path[700];
    fixture_open(&f, "bad");
    good_run(&f, 0, 0);
    good_run(&f, 0, 1);
    add_run(&f, 1, "bad", 42, NULL, false);
    run_folder(folder, sizeof folder, &f, 1, 42);
    snprintf(path, sizeof path, "%s/trace.h5", folder);
    spoil(path);
    assert_int_equal(
        run_program(analyze_program, &f, NULL, &errors, "all", "--batch-dir", f.dir, "--plots", "none", NULL), 1);
    assert_says(errors, "run 0001-s42 is left out");
    assert_says(errors, says);
    assert_says(errors, "2 runs of 1 variations");
    free(errors);
    json *doc = read_json(&f, "trajectory.json");
    assert_string_equal(json_get_string(json_at(json_get(doc, "runs_left_out"), 0), "run", ""), "0001-s42");
    json_free(doc);
    fixture_close(&f);
}

static void trace_with(const char *path, void (*change)(fake_trace *t))
{
    static float x[T * D];
    fill(x, 1, 0, T, D);
    fake_trace t = { .T = T, .C = 2, .F = 1, .H = 2, .W = 3, .latents = x, .seed = 42 };
    change(&t);
    write_trace(path, &t);
}

static void set_nan(fake_trace *t)
{
    ((float *)(uintptr_t)t->latents)[3 * D + 4] = NAN;
}
static void set_inf(fake_trace *t)
{
    ((float *)(uintptr_t)t->latents)[2 * D] = INFINITY;
}
static void set_seed(fake_trace *t)
{
    t->seed = 43;
}
static void set_shape(fake_trace *t)
{
    t->C = 4, t->H = 1;
}
static void set_fewer(fake_trace *t)
{
    t->T = 4;
}
static void set_sigmas(fake_trace *t)
{
    t->n_sigmas = 9;
}
static void set_one_row(fake_trace *t)
{
    t->T = 1;
}
static void set_no_latents(fake_trace *t)
{
    t->latents = NULL;
}
static void set_schedule(fake_trace *t)
{
    static const double s[T] = { 1, 0.9, 0.8, 0.7, 0 };
    t->sigmas = s;
}
static void set_nan_sigma(fake_trace *t)
{
    static const double s[T] = { 1, NAN, 0.8, 0.7, 0 };
    t->sigmas = s;
}
static void set_rows(fake_trace *t)
{
    static const int32_t rows[T] = { 0, 2, 1, 3, 4 };
    t->rows = rows;
}
static void set_no_noise(fake_trace *t)
{
    static const int32_t rows[T] = { 1, 2, 3, 4, 5 };
    t->rows = rows;
    t->n_sigmas = 6;
}

static void spoil_nan(const char *p)
{
    trace_with(p, set_nan);
}
static void spoil_inf(const char *p)
{
    trace_with(p, set_inf);
}
static void spoil_seed(const char *p)
{
    trace_with(p, set_seed);
}
static void spoil_shape(const char *p)
{
    trace_with(p, set_shape);
}
static void spoil_fewer(const char *p)
{
    trace_with(p, set_fewer);
}
static void spoil_sigmas(const char *p)
{
    trace_with(p, set_sigmas);
}
static void spoil_one_row(const char *p)
{
    trace_with(p, set_one_row);
}
static void spoil_no_latents(const char *p)
{
    trace_with(p, set_no_latents);
}
static void spoil_schedule(const char *p)
{
    trace_with(p, set_schedule);
}
static void spoil_nan_sigma(const char *p)
{
    trace_with(p, set_nan_sigma);
}
static void spoil_rows(const char *p)
{
    trace_with(p, set_rows);
}
static void spoil_no_noise(const char *p)
{
    trace_with(p, set_no_noise);
}
static void spoil_missing(const char *p)
{
    (void)p;
}

static void no_change(fake_trace *t)
{
    (void)t;
}

static void spoil_text(const char *p)
{
    FILE *f = fopen(p, "w");
    fputs("this is not HDF5\n", f);
    fclose(f);
}

static void spoil_empty(const char *p)
{
    fclose(fopen(p, "w"));
}

static void spoil_truncated(const char *p)
{
    struct stat st;
    trace_with(p, no_change);
    assert_int_equal(stat(p, &st), 0);
    assert_int_equal(truncate(p, st.st_size / 2), 0);
}

/* A flipped bit in the stored numbers: the checksum notices. */
static void spoil_bits(const char *p)
{
    char *text = NULL;
    size_t n = 0;
    float wanted[T * D];
    err e = { 0 };
    trace_with(p, no_change);
    fill(wanted, 1, 0, T, D);
    assert_int_equal(fs_read_text(&text, &n, p, &e), 0);
    for (size_t i = 0; i + sizeof wanted[0] * D <= n; i++)
        if (!memcmp(text + i, wanted + 2 * D, sizeof wanted[0] * D)) {
            text[i + 5] ^= 0x10;
            break;
        }
    FILE *f = fopen(p, "w");
    fwrite(text, 1, n, f);
    fclose(f);
    free(text);
}

static void spoil_type(const char *p)
{
    int32_t x[T * D] = { 0 };
    double s[T] = { 1, 0.75, 0.5, 0.25, 0 };
    hid_t file = H5Fcreate(p, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put(file, "/latents", H5T_STD_I32LE, H5T_NATIVE_INT32, 5, (hsize_t[]){ T, 2, 1, 2, 3 }, x, false);
    put(file, "/sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, (hsize_t[]){ T }, s, false);
    H5Fclose(file);
}

static void spoil_rank(const char *p)
{
    float x[T * D] = { 0 };
    hid_t file = H5Fcreate(p, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put(file, "/latents", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 2, (hsize_t[]){ T, D }, x, false);
    H5Fclose(file);
}

static void spoil_alien(const char *p)
{
    double s[T] = { 1, 0.75, 0.5, 0.25, 0 };
    hid_t file = H5Fcreate(p, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put(file, "/something", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, (hsize_t[]){ T }, s, false);
    H5Fclose(file);
}

/* A header that promises a row of 2^40 numbers that were never written. */
static void spoil_lying(const char *p)
{
    hsize_t dims[5] = { 5, 1024, 1024, 1024, 1024 }, chunk[5] = { 1, 1, 1, 64, 64 };
    double s[T] = { 1, 0.75, 0.5, 0.25, 0 };
    hid_t file = H5Fcreate(p, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), space = H5Screate_simple(5, dims, NULL);
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(list, 5, chunk);
    hid_t id = H5Dcreate2(file, "/latents", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
    put(file, "/sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, (hsize_t[]){ T }, s, false);
    H5Dclose(id);
    H5Pclose(list);
    H5Sclose(space);
    H5Fclose(file);
}

static void bad_traces(void **state)
{
    (void)state;
    expect_bad_trace(spoil_nan, "row 3 of '/latents' (step 3) holds NaN at element 4");
    expect_bad_trace(spoil_inf, "row 2 of '/latents' (step 2) holds an infinity");
    expect_bad_trace(spoil_seed, "made with seed 43, the manifest says 42");
    expect_bad_trace(spoil_shape, "its latents are 4 x 1 x 1 x 3");
    expect_bad_trace(spoil_fewer, "with 4 stored rows of 3 steps, most of the batch has");
    expect_bad_trace(spoil_sigmas, "'/latents' has 5 rows but '/sigmas' has 9 entries");
    expect_bad_trace(spoil_one_row, "has 1 rows, expected at least 2");
    expect_bad_trace(spoil_no_latents, "it holds neither '/latents' nor '/attention/maps'");
    expect_bad_trace(spoil_schedule, "or another noise schedule");
    expect_bad_trace(spoil_nan_sigma, "'/sigmas' entry 1 is not a finite number");
    expect_bad_trace(spoil_rows, "'/latent_rows' entry 2 is 1; the entries must rise");
    expect_bad_trace(spoil_no_noise, "the noise (0) and the result (5) must be among them");
    expect_bad_trace(spoil_missing, "the file is missing");
    expect_bad_trace(spoil_text, "cannot be opened as HDF5");
    expect_bad_trace(spoil_empty, "cannot be opened as HDF5");
    expect_bad_trace(spoil_truncated, "truncated");
    expect_bad_trace(spoil_bits, "the file is damaged or truncated");
    expect_bad_trace(spoil_type, "neither 32-bit nor 16-bit");
    expect_bad_trace(spoil_rank, "'/latents' has 2 dimensions, expected 5");
    expect_bad_trace(spoil_alien, "dataset '/sigmas' is missing");
    expect_bad_trace(spoil_lying, "expected 1 to 2147483647 numbers");
}

static void size_differs_from_manifest(void **state)
{
    (void)state;
    fixture f;
    char *errors, folder[600], path[700];
    fixture_open(&f, "size");
    good_run(&f, 0, 0);
    good_run(&f, 0, 1);
    run_folder(folder, sizeof folder, &f, 0, 43);
    snprintf(path, sizeof path, "%s/trace.h5", folder);
    FILE *t = fopen(path, "a");
    fputs("more", t);
    fclose(t);
    assert_int_equal(run_program(analyze_program, &f, NULL, &errors, "trajectory", "--batch-dir", f.dir, NULL), 1);
    assert_says(errors, "the manifest says");
    free(errors);
    fixture_close(&f);
}

static void nothing_left(void **state)
{
    (void)state;
    fixture f;
    char *errors;
    fixture_open(&f, "nothing");
    add_run(&f, 0, "a", 1, NULL, false);
    add_line(
        &f,
        "{\"run\":\"x\",\"state\":\"failed\",\"seed\":2,\"variation\":{\"number\":0,\"id\":\"id-a\"},\"error\":\"x\"}");
    assert_int_equal(run_program(analyze_program, &f, NULL, &errors, "all", "--batch-dir", f.dir, NULL), 2);
    assert_says(errors, "no run that can be analysed: 2 listed, 1 failed, 1 left out");
    free(errors);
    fixture_close(&f);
}

static void unwritable(void **state)
{
    (void)state;
    fixture f;
    char *errors, out[700];
    fixture_open(&f, "unwritable");
    good_run(&f, 0, 0);
    snprintf(out, sizeof out, "%s/manifest.jsonl/below",
             f.dir); /* a file where a folder is wanted: root cannot either */
    int status = run_program(analyze_program, &f, NULL, &errors, "all", "--batch-dir", f.dir, "--out", out, NULL);
    assert_true(status == 1 || status == 2);
    assert_says(errors, "manifest.jsonl");
    free(errors);
    fixture_close(&f);
}

/* More latents than the program may hold: peak memory of a child process, below 200 MB with everything loaded. */
static void memory_stays_small(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip();
#endif
    enum { ROWS = 6, ELEMS = 16 * 9 * 30 * 50, RUNS = 24 }; /* 124 MB of numbers */
    fixture f;
    fixture_open(&f, "memory");
    float *x = malloc((size_t)ROWS * ELEMS * sizeof *x);
    for (int i = 0; i < RUNS; i++) {
        fill(x, i / 6, i % 6, ROWS, ELEMS);
        fake_trace t = { .T = ROWS, .C = 16, .F = 9, .H = 30, .W = 50, .latents = x };
        char slug[24];
        snprintf(slug, sizeof slug, "v%d", i / 6);
        add_run(&f, i / 6, slug, i % 6, &t, true);
    }
    free(x);
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *errors = NULL;
        int status =
            run_program(analyze_program, &f, NULL, &errors, "all", "--batch-dir", f.dir, "--plots", "none", NULL);
        _exit(status == 0 && strstr(errors, "through scratch file") ? 0 : 1);
    }
    int status;
    struct rusage use;
    assert_int_equal(wait4(child, &status, 0, &use), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    print_message("peak memory: %ld MB\n", use.ru_maxrss / 1024);
    assert_true(use.ru_maxrss < 200 * 1024);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_stays_small),
        cmocka_unit_test(whole_batch),
        cmocka_unit_test(formats_and_plots),
        cmocka_unit_test(smallest_batch),
        cmocka_unit_test(unequal_seeds),
        cmocka_unit_test(usage),
        cmocka_unit_test(manifests),
        cmocka_unit_test(bad_traces),
        cmocka_unit_test(size_differs_from_manifest),
        cmocka_unit_test(nothing_left),
        cmocka_unit_test(unwritable),
    };
    return cmocka_run_group_tests_name("analysis program", tests, NULL, NULL);
}
