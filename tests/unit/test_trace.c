#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef HAVE_HDF5
#include <hdf5.h>
#endif

#include "core/base/dtype.h"
#include "core/base/fs.h"
#include "core/base/sha256.h"
#include "core/base/str.h"
#include "experiments/trace.h"
#include "experiments/trace_chunks.h"

static char folder[1024];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/trace-%d", base ? base : "/tmp", (int)getpid());
    return fs_mkdirs(folder, NULL);
}

static const char *in_folder(const char *name)
{
    static char paths[4][1200];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static int teardown(void **state)
{
    (void)state;
    umount2(in_folder("disk"), MNT_DETACH);
    return fs_remove_tree(folder, NULL);
}

#define assert_says(e, part)                                                                                           \
    do {                                                                                                               \
        if (!strstr((e).text, (part)))                                                                                 \
            fail_msg("'%s' does not say '%s'", (e).text, (part));                                                      \
    } while (0)

static void test_rows_every(void **state)
{
    (void)state;
    int32_t rows[21];
    assert_int_equal(trace_rows_every(rows, 20, 1), 21);
    assert_int_equal(rows[20], 20);
    assert_int_equal(trace_rows_every(rows, 20, 6), 5);
    assert_int_equal(rows[1], 6);
    assert_int_equal(rows[3], 18);
    assert_int_equal(rows[4], 20);
    assert_int_equal(trace_rows_every(rows, 20, 5), 5);
    assert_int_equal(rows[3], 15);
    assert_int_equal(trace_rows_every(rows, 20, 2147483647), 2);
    assert_int_equal(trace_rows_every(rows, 1, 0), 2);
    assert_int_equal(trace_steps_every(rows, 20, 6), 4);
    assert_int_equal(rows[3], 18);
}

#ifndef HAVE_HDF5

static void test_without_hdf5(void **state)
{
    (void)state;
    err e = { 0 };
    trace_writer *t = (trace_writer *)&e;
    trace_spec s = { 0 };
    assert_int_equal(trace_create(&t, in_folder("a.h5"), &s, &e), ERR_ARG);
    assert_says(e, "this build has no HDF5");
    assert_null(t);
    trace_abort(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_rows_every), cmocka_unit_test(test_without_hdf5) };
    return cmocka_run_group_tests(tests, setup, teardown);
}

#else

/* ---- a trace of recognisable numbers ---- */

enum {
    S = 6,
    C = 4,
    F = 3,
    H = 6,
    W = 8,
    HEADS = 3,
    WORDS = 2,
    ROW = C * F * H * W,
    MAPS = HEADS * WORDS * F * H / 2 * W / 2
};

static const int32_t steps[] = { 0, 2, 5 }, layers[] = { 1, 3 }, heads[] = { 0, 1, 2 }, tokens_a[] = { 2, 3, 9 },
                     tokens_b[] = { 5 };
static const int32_t sparse[] = { 0, 4, 6 };
static const trace_word words[] = { { "two m\xc3\xa4n", tokens_a, 3 }, { "kiss", tokens_b, 1 } };
static const char *const pieces[] = { "\xe2\x96\x81two", "\xe2\x96\x81m\xc3\xa4n", "</s>" };
static const trace_attribute more[] = { { "run", "0003-s44" } };

static trace_spec make_spec(void)
{
    trace_spec s = {
        .steps = S,
        .latents = true,
        .velocity = true,
        .attention = true,
        .channels = C,
        .frames = F,
        .height = H,
        .width = W,
        .axes = { .steps = steps,
                  .n_steps = 3,
                  .layers = layers,
                  .n_layers = 2,
                  .heads = heads,
                  .n_heads = HEADS,
                  .words = words,
                  .n_words = WORDS,
                  .frames = F,
                  .height = H / 2,
                  .width = W / 2,
                  .token_pieces = pieces,
                  .n_token_pieces = 3,
                  .gzip = 1 },
        .gzip = 1,
        .prompt = "(two m\xc3\xa4n) (kiss)",
        .negative_prompt = "",
        .clean_prompt = "two m\xc3\xa4n kiss",
        .seed = -44,
        .solver = "unipc",
        .shift = 5,
        .guidance = 4.5,
        .family = "wan2.1-t2v",
        .checkpoints = "{\"dit\":\"ab\"}",
        .build = "b",
        .device = "cpu",
        .config = "model:\n  family: wan\n",
        .context_len = 512,
        .pixel_width = 64,
        .pixel_height = 48,
        .pixel_frames = 9,
        .fps = 16,
        .more = more,
        .n_more = 1,
    };
    return s;
}

static float latent_value(int k, int i)
{
    return (float)(k + 1) * 0.37f + (float)i * 0.001f;
}

static float map_value(int step, int layer, int i)
{
    return (float)(step * 10 + layer) + (float)i / 4096;
}

static double sigma_at(int k)
{
    return 1.0 - (double)k / S;
}

/* Puts everything; stops at the first failure. */
static int fill(trace_writer *t, err *e)
{
    float row[ROW], maps[MAPS];
    int rc = 0, at;
    for (int k = 0; k <= S && !rc; k++) {
        for (int i = 0; i < ROW; i++)
            row[i] = latent_value(k, i);
        if ((at = trace_latent_row(t, k)) >= 0)
            rc = trace_put_latents(t, at, row, e);
        if (!rc && k < S && (at = trace_velocity_row(t, k)) >= 0)
            rc = trace_put_velocity(t, at, row, e);
        if (!rc && k < S && (at = trace_step_slot(t, k)) >= 0)
            for (int l = 0; l < 2 && !rc; l++) {
                for (int i = 0; i < MAPS; i++)
                    maps[i] = map_value(k, l, i);
                rc = trace_put_attention(t, at, l, maps, e);
            }
        if (!rc && k < S)
            rc = trace_put_step(t, k, sigma_at(k), sigma_at(k + 1), 1000 * sigma_at(k), 4.5 + k, k / 3, e);
    }
    return rc;
}

static void write_trace(const char *path, const trace_spec *s)
{
    err e = { 0 };
    trace_writer *t;
    if (trace_create(&t, path, s, &e) || fill(t, &e) || trace_commit(t, &e))
        fail_msg("%s", e.text);
    assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
    char *part = str_format("%s.part", path);
    assert_false(fs_exists(part));
    free(part);
}

/* ---- reading back with HDF5 alone ---- */

static int64_t read_all(hid_t f, const char *name, hid_t type, void *out, size_t cap, int *rank, hsize_t *dims)
{
    hid_t set = H5Dopen2(f, name, H5P_DEFAULT);
    if (set < 0)
        fail_msg("%s is missing", name);
    hid_t space = H5Dget_space(set);
    *rank = H5Sget_simple_extent_dims(space, dims, NULL);
    int64_t n = H5Sget_simple_extent_npoints(space);
    assert_true((size_t)n <= cap);
    assert_true(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    return n;
}

static char *read_text(hid_t at, const char *name)
{
    char *raw = NULL, *copy;
    hid_t a = H5Aopen(at, name, H5P_DEFAULT), type;
    assert_true(a >= 0);
    type = H5Aget_type(a);
    assert_int_equal(H5Tget_cset(type), H5T_CSET_UTF8);
    assert_true(H5Aread(a, type, &raw) >= 0);
    copy = str_dup(raw ? raw : "");
    H5free_memory(raw);
    H5Tclose(type);
    H5Aclose(a);
    return copy;
}

static double read_number(hid_t at, const char *name)
{
    double v = NAN;
    hid_t a = H5Aopen(at, name, H5P_DEFAULT);
    assert_true(a >= 0);
    assert_true(H5Aread(a, H5T_NATIVE_DOUBLE, &v) >= 0);
    H5Aclose(a);
    return v;
}

static void check_filters(hid_t f, const char *name, int n)
{
    hid_t set = H5Dopen2(f, name, H5P_DEFAULT), list = H5Dget_create_plist(set);
    assert_int_equal(H5Pget_nfilters(list), n);
    H5Pclose(list);
    H5Dclose(set);
}

static void check_layout(hid_t f)
{
    static const struct { const char *name, *value; } texts[] = {
        { "prompt", "(two m\xc3\xa4n) (kiss)" }, { "negative_prompt", "" },
        { "clean_prompt", "two m\xc3\xa4n kiss" }, { "solver", "unipc" }, { "family", "wan2.1-t2v" },
        { "checkpoints", "{\"dit\":\"ab\"}" }, { "build", "b" }, { "device", "cpu" },
        { "config", "model:\n  family: wan\n" }, { "run", "0003-s44" },
    };
    static const struct { const char *name; double value; } numbers[] = {
        { "seed", -44 }, { "steps", S }, { "shift", 5 }, { "guidance", 4.5 }, { "context_len", 512 }, { "width", 64 },
        { "height", 48 }, { "frames", 9 }, { "fps", 16 },
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *value = read_text(f, texts[i].name);
        assert_string_equal(value, texts[i].value);
        free(value);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        assert_true(read_number(f, numbers[i].name) == numbers[i].value);
    char version[2] = "";
    hid_t attribute = H5Aopen(f, "format_version", H5P_DEFAULT), text = H5Aget_type(attribute);
    assert_true(H5Tis_variable_str(text) == 0 && H5Tget_size(text) == 2);
    assert_true(H5Aread(attribute, text, version) >= 0);
    assert_string_equal(version, "1");
    H5Tclose(text);
    H5Aclose(attribute);
    double d[S + 1];
    int32_t n[16];
    int rank;
    hsize_t dims[7];
    assert_int_equal(read_all(f, "/sigmas", H5T_NATIVE_DOUBLE, d, S + 1, &rank, dims), S + 1);
    for (int k = 0; k <= S; k++)
        assert_true(d[k] == sigma_at(k));
    assert_int_equal(read_all(f, "/timesteps", H5T_NATIVE_DOUBLE, d, S, &rank, dims), S);
    assert_true(d[1] == 1000 * sigma_at(1));
    assert_int_equal(read_all(f, "/guidance", H5T_NATIVE_DOUBLE, d, S, &rank, dims), S);
    assert_true(d[5] == 9.5);
    assert_int_equal(read_all(f, "/expert", H5T_NATIVE_INT32, n, S, &rank, dims), S);
    assert_int_equal(n[2], 0);
    assert_int_equal(n[3], 1);
    assert_int_equal(read_all(f, "/attention/steps", H5T_NATIVE_INT32, n, 3, &rank, dims), 3);
    assert_int_equal(n[2], 5);
    assert_int_equal(read_all(f, "/attention/layers", H5T_NATIVE_INT32, n, 2, &rank, dims), 2);
    assert_int_equal(n[1], 3);
    assert_int_equal(read_all(f, "/attention/heads", H5T_NATIVE_INT32, n, 3, &rank, dims), 3);
    hvl_t lists[2];
    hid_t type = H5Tvlen_create(H5T_NATIVE_INT32);
    assert_int_equal(read_all(f, "/attention/tokens", type, lists, 2, &rank, dims), 2);
    assert_int_equal(lists[0].len, 3);
    assert_memory_equal(lists[0].p, tokens_a, sizeof tokens_a);
    assert_int_equal(lists[1].len, 1);
    H5free_memory(lists[0].p);
    H5free_memory(lists[1].p);
    H5Tclose(type);
    char *raw[3];
    type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    char fixed[2][8];
    hid_t eight = H5Tcopy(H5T_C_S1);
    H5Tset_size(eight, 8);
    H5Tset_cset(eight, H5T_CSET_UTF8);
    assert_int_equal(read_all(f, "/attention/words", eight, fixed, sizeof fixed, &rank, dims), 2);
    assert_memory_equal(fixed[0], "two m\xc3\xa4", 7);
    assert_string_equal(fixed[1], "kiss");
    H5Tclose(eight);
    check_filters(f, "/attention/words", 1);
    assert_int_equal(read_all(f, "/attention/token_pieces", type, raw, 3, &rank, dims), 3);
    assert_string_equal(raw[2], "</s>");
    for (int i = 0; i < 3; i++)
        H5free_memory(raw[i]);
    H5Tclose(type);
}

static void check_labels(hid_t f, const char *name, int n, const char *first, const char *last)
{
    char *raw[7];
    hid_t set = H5Dopen2(f, name, H5P_DEFAULT), a = H5Aopen(set, "DIMENSION_LABELS", H5P_DEFAULT),
          type = H5Aget_type(a), space = H5Aget_space(a);
    assert_int_equal(H5Sget_simple_extent_npoints(space), n);
    assert_true(H5Aread(a, type, raw) >= 0);
    assert_string_equal(raw[0], first);
    assert_string_equal(raw[n - 1], last);
    for (int i = 0; i < n; i++)
        H5free_memory(raw[i]);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    H5Dclose(set);
}

static void test_full(void **state)
{
    (void)state;
    trace_spec s = make_spec();
    write_trace(in_folder("full.h5"), &s);
    hid_t f = H5Fopen(in_folder("full.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(f >= 0);
    check_layout(f);
    check_labels(f, "/latents", 5, "row", "width");
    check_labels(f, "/attention/maps", 7, "step", "width");
    check_labels(f, "/sigmas", 1, "steps_done", "steps_done");
    check_filters(f, "/latents", 3);
    check_filters(f, "/attention/maps", 3);
    check_filters(f, "/sigmas", 1);
    float *all = malloc(sizeof(float) * (S + 1) * ROW);
    int32_t n[S + 1];
    int rank;
    hsize_t d[7];
    assert_int_equal(read_all(f, "/latents", H5T_NATIVE_FLOAT, all, (S + 1) * ROW, &rank, d), (S + 1) * ROW);
    assert_int_equal(rank, 5);
    assert_true(d[0] == S + 1 && d[1] == C && d[2] == F && d[3] == H && d[4] == W);
    for (int k = 0; k <= S; k++)
        for (int i = 0; i < ROW; i++)
            assert_true(all[k * ROW + i] == latent_value(k, i));
    assert_int_equal(read_all(f, "/latent_rows", H5T_NATIVE_INT32, n, S + 1, &rank, d), S + 1);
    for (int k = 0; k <= S; k++)
        assert_int_equal(n[k], k);
    assert_int_equal(read_all(f, "/velocity", H5T_NATIVE_FLOAT, all, S * ROW, &rank, d), S * ROW);
    assert_true(all[5 * ROW + 7] == latent_value(5, 7));
    assert_int_equal(read_all(f, "/velocity_steps", H5T_NATIVE_INT32, n, S, &rank, d), S);
    assert_int_equal(read_all(f, "/attention/maps", H5T_NATIVE_FLOAT, all, 6 * MAPS, &rank, d), 6 * MAPS);
    assert_int_equal(rank, 7);
    assert_true(d[0] == 3 && d[1] == 2 && d[2] == HEADS && d[3] == WORDS && d[4] == F && d[5] == H / 2 &&
                d[6] == W / 2);
    for (int k = 0; k < 3; k++)
        for (int l = 0; l < 2; l++)
            for (int i = 0; i < MAPS; i++)
                assert_true(all[(k * 2 + l) * MAPS + i] == map_value(steps[k], l, i));
    free(all);
    H5Fclose(f);
}

static void test_sparse_half(void **state)
{
    (void)state;
    static const int32_t v[] = { 0, 4 }, mean[] = { -1 };
    trace_spec s = make_spec();
    s.latent_type = s.axes.type = TRACE_F16;
    s.latent_rows = sparse;
    s.n_latent_rows = 3;
    s.velocity_steps = v;
    s.n_velocity_steps = 2;
    s.axes.heads = mean;
    s.axes.n_heads = 1;
    s.gzip = s.axes.gzip = 0;
    write_trace(in_folder("half.h5"), &s);
    hid_t f = H5Fopen(in_folder("half.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    float *all = malloc(sizeof(float) * 3 * ROW);
    int32_t n[3];
    int rank;
    hsize_t d[7];
    assert_int_equal(read_all(f, "/latents", H5T_NATIVE_FLOAT, all, 3 * ROW, &rank, d), 3 * ROW);
    for (int r = 0; r < 3; r++)
        for (int i = 0; i < ROW; i++)
            assert_true(all[r * ROW + i] == f16_to_f32(f32_to_f16(latent_value(sparse[r], i))));
    assert_int_equal(read_all(f, "/latent_rows", H5T_NATIVE_INT32, n, 3, &rank, d), 3);
    assert_memory_equal(n, sparse, sizeof sparse);
    assert_int_equal(read_all(f, "/velocity_steps", H5T_NATIVE_INT32, n, 2, &rank, d), 2);
    assert_memory_equal(n, v, sizeof v);
    assert_int_equal(read_all(f, "/attention/heads", H5T_NATIVE_INT32, n, 1, &rank, d), 1);
    assert_int_equal(n[0], -1);
    double sigmas[S + 1];
    assert_int_equal(read_all(f, "/sigmas", H5T_NATIVE_DOUBLE, sigmas, S + 1, &rank, d), S + 1);
    check_filters(f, "/latents", 1);
    free(all);
    H5Fclose(f);
}

static void test_parts(void **state)
{
    (void)state;
    for (int which = 0; which < 3; which++) {
        trace_spec s = make_spec();
        s.latents = which == 0;
        s.velocity = which == 1;
        s.attention = which == 2;
        write_trace(in_folder("part.h5"), &s);
        hid_t f = H5Fopen(in_folder("part.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
        assert_int_equal(H5Lexists(f, "/latents", H5P_DEFAULT) > 0, which == 0);
        assert_int_equal(H5Lexists(f, "/velocity", H5P_DEFAULT) > 0, which == 1);
        assert_int_equal(H5Lexists(f, "/attention", H5P_DEFAULT) > 0, which == 2);
        assert_true(H5Lexists(f, "/sigmas", H5P_DEFAULT) > 0);
        H5Fclose(f);
    }
}

static void test_same_bytes(void **state)
{
    (void)state;
    char first[65] = "", digest[65];
    trace_spec s = make_spec();
    char *config = malloc(200001);      /* larger than an object header may be */
    memset(config, 'x', 200000);
    config[200000] = 0;
    s.config = config;
    for (int i = 0; i < 3; i++) {
        void *holes[64];
        for (int k = 0; k < 64; k++) {  /* other contents of fresh memory */
            holes[k] = malloc((size_t)(k + 1) * 300);
            memset(holes[k], 0x5a + i, (size_t)(k + 1) * 300);
        }
        for (int k = 0; k < 64; k++)
            free(holes[k]);
        const char *path = in_folder(i == 1 ? "same-but-longer-name.h5" : "same.h5");
        write_trace(path, &s);
        assert_int_equal(sha256_file(path, digest, NULL), 0);
        if (i)
            assert_string_equal(digest, first);
        strcpy(first, digest);
        if (!i)
            usleep(1100000);            /* no date inside */
    }
    free(config);
}

/* Latents and maps are compressed at levels of their own. */
static void test_levels(void **state)
{
    (void)state;
    static const char *const names[] = { "/latents", "/velocity", "/attention/maps" };
    for (int which = 0; which < 2; which++) {
        trace_spec s = make_spec();
        s.gzip = which ? 0 : 6;
        s.axes.gzip = which ? 6 : 0;
        write_trace(in_folder("levels.h5"), &s);
        hid_t f = H5Fopen(in_folder("levels.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
        for (int i = 0; i < 3; i++) {
            hid_t set = H5Dopen2(f, names[i], H5P_DEFAULT), list = H5Dget_create_plist(set);
            unsigned flags, level = 0;
            size_t n = 1;
            herr_t found = H5Pget_filter_by_id2(list, H5Z_FILTER_DEFLATE, &flags, &n, &level, 0, NULL, NULL);
            assert_int_equal(found >= 0 ? level : 0, (i == 2) == which ? 6 : 0);
            H5Pclose(list);
            H5Dclose(set);
        }
        H5Fclose(f);
    }
}

static void test_large_rows(void **state)
{
    (void)state;
    trace_spec s = make_spec();
    s.velocity = s.attention = false;
    s.steps = 1;
    s.channels = 2;
    s.frames = 40;
    s.height = s.width = 512;           /* 80 MiB a row: two chunks */
    s.gzip = s.axes.gzip = 0;
    err e = { 0 };
    trace_writer *t;
    float *row = calloc(2 * 40 * 512 * 512, sizeof *row);
    row[2 * 40 * 512 * 512 - 1] = 3;
    assert_int_equal(trace_create(&t, in_folder("large.h5"), &s, &e), 0);
    assert_int_equal(trace_put_latents(t, 1, row, &e), 0);
    assert_int_equal(trace_put_latents(t, 0, row, &e), 0);
    assert_int_equal(trace_put_step(t, 0, 1, 0, 999, 1, 0, &e), 0);
    assert_int_equal(trace_commit(t, &e), 0);
    free(row);
    hid_t f = H5Fopen(in_folder("large.h5"), H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(f, "/latents", H5P_DEFAULT),
          list = H5Dget_create_plist(set);
    hsize_t chunk[5];
    assert_int_equal(H5Pget_chunk(list, 5, chunk), 5);
    assert_true(chunk[0] == 1 && chunk[1] == 1 && chunk[2] == 40 && chunk[4] == 512);
    H5Pclose(list);
    H5Dclose(set);
    H5Fclose(f);
    unlink(in_folder("large.h5"));
}

static void refuse(const trace_spec *s, const char *part)
{
    err e = { 0 };
    trace_writer *t;
    assert_int_equal(trace_create(&t, in_folder("bad.h5"), s, &e), ERR_ARG);
    assert_null(t);
    assert_says(e, "bad.h5");
    assert_says(e, part);
    assert_false(fs_exists(in_folder("bad.h5.part")));
}

static void test_bad_specs(void **state)
{
    (void)state;
    static const int32_t falling[] = { 0, 3, 2, 6 }, no_noise[] = { 1, 6 }, no_end[] = { 0, 5 }, far[] = { 6 },
                         twice[] = { 1, 1 };
    static const trace_word tokenless[] = { { "kiss", NULL, 0 } };
    trace_spec s;
#define BAD(change, part) do { s = make_spec(); change; refuse(&s, part); } while (0)
    BAD(s.steps = 0, "0 steps");
    BAD(s.gzip = 10, "level 10");
    BAD(s.axes.gzip = -1, "level -1");
    BAD((s.latents = s.velocity = s.attention = false), "neither latents nor attention");
    BAD(s.width = 0, "4 x 3 x 6 x 0");
    BAD((s.width = s.height = s.frames = 4000), "2^31 - 1");
    BAD((s.width = INT64_MAX, s.height = INT64_MAX), "2^31 - 1");
    BAD((s.latent_rows = falling, s.n_latent_rows = 4), "entry 2 of the latent rows is 2");
    BAD((s.latent_rows = no_noise, s.n_latent_rows = 2), "begin with 0");
    BAD((s.latent_rows = no_end, s.n_latent_rows = 2), "end with 6");
    BAD((s.velocity_steps = far, s.n_velocity_steps = 1), "between 0 and 5");
    BAD((s.axes.steps = far, s.axes.n_steps = 1), "attention steps is 6");
    BAD((s.axes.layers = twice, s.axes.n_layers = 2), "attention layers is 1");
    BAD(s.axes.n_layers = 0, "no attention layers are chosen");
    BAD(s.axes.n_words = 0, "no word is marked");
    BAD((s.axes.words = tokenless, s.axes.n_words = 1), "'kiss' has no token");
    BAD((s.axes.height = 1 << 20, s.axes.width = 1 << 20), "choose fewer words or the mean over heads");
#undef BAD
}

static void test_misuse(void **state)
{
    (void)state;
    float row[ROW] = { 0 }, maps[MAPS] = { 0 };
    for (int which = 0; which < 9; which++) {
        static const char *const says[] = { "row 7 of /latents does not exist", "row 2 of /latents was put before",
            "step slot 3", "step 6 does not exist", "step 0 was put before", "does not meet its neighbours",
            "is not a finite number", "step 0 was never recorded", "row 1 of /latents was never recorded" };
        err e = { 0 }, again = { 0 };
        trace_writer *t;
        trace_spec s = make_spec();
        s.velocity = false;
        assert_int_equal(trace_create(&t, in_folder("mis.h5"), &s, &e), 0);
        int rc = 0;
        switch (which) {
        case 0: rc = trace_put_latents(t, 7, row, &e); break;
        case 1: assert_int_equal(trace_put_latents(t, 2, row, &e), 0); rc = trace_put_latents(t, 2, row, &e); break;
        case 2: rc = trace_put_attention(t, 3, 0, maps, &e); break;
        case 3: rc = trace_put_step(t, S, 1, 0, 1, 1, 0, &e); break;
        case 4:
            assert_int_equal(trace_put_step(t, 0, 1, 0.5, 1, 1, 0, &e), 0);
            rc = trace_put_step(t, 0, 1, 0.5, 1, 1, 0, &e);
            break;
        case 5:
            assert_int_equal(trace_put_step(t, 0, 1, 0.5, 1, 1, 0, &e), 0);
            rc = trace_put_step(t, 1, 0.6, 0.5, 1, 1, 0, &e);
            break;
        case 6: rc = trace_put_step(t, 0, NAN, 0.5, 1, 1, 0, &e); break;
        case 7: break;
        case 8:
            assert_int_equal(trace_put_latents(t, 0, row, &e), 0);
            for (int k = 0; k < S; k++)
                assert_int_equal(trace_put_step(t, k, sigma_at(k), sigma_at(k + 1), 1, 1, 0, &e), 0);
            break;
        }
        assert_int_equal(rc, which == 6 ? ERR_NAN : which >= 7 ? 0 : ERR_INTERNAL);
        if (which < 7) {
            assert_says(e, says[which]);
            assert_int_equal(trace_put_latents(t, 0, row, NULL), rc);
        }
        assert_true(trace_commit(t, &again) < 0);
        assert_says(again, says[which]);
        assert_false(fs_exists(in_folder("mis.h5")));
        assert_false(fs_exists(in_folder("mis.h5.part")));
    }
    err e = { 0 };
    trace_writer *t;
    trace_spec s = make_spec();
    s.velocity = false;
    s.latent_type = TRACE_F16;
    assert_int_equal(trace_create(&t, in_folder("mis.h5"), &s, &e), 0);
    assert_int_equal(trace_put_velocity(t, 0, row, NULL),
                     ERR_INTERNAL); /* remembered though nobody took the sentence */
    assert_int_equal(trace_commit(t, &e), ERR_INTERNAL);
    assert_says(e, "is not part of this trace");
    assert_int_equal(trace_create(&t, in_folder("mis.h5"), &s, &e), 0);
    row[5] = 70000;
    assert_int_equal(trace_put_latents(t, 0, row, &e), ERR_ARG);
    assert_says(e, "element 5");
    assert_says(e, "70000, which does not fit into f16");
    trace_abort(t);
    assert_false(fs_exists(in_folder("mis.h5.part")));
    trace_abort(NULL);
    assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
}

/* ---- no room, no permission ---- */

static int try_to_write(const char *path, int gzip, err *e)
{
    trace_writer *t;
    trace_spec s = make_spec();
    s.gzip = s.axes.gzip = gzip;
    int rc = trace_create(&t, path, &s, e);
    if (rc)
        return rc;
    if ((rc = fill(t, e))) {
        assert_int_equal(trace_commit(t, NULL), rc);
        return rc;
    }
    return trace_commit(t, e);
}

static void check_gone(const char *path, int rc, const err *e)
{
    char *part = str_format("%s.part", path);
    assert_int_equal(rc, ERR_IO);
    assert_says(*e, part);
    assert_says(*e, "free some space");
    assert_false(fs_exists(path));
    assert_false(fs_exists(part));
    assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
    free(part);
}

static void test_size_limit(void **state)
{
    (void)state;
    struct rlimit old, low;
    struct stat st;
    err e = { 0 };
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (int gzip = 0; gzip < 2; gzip++) {
        assert_int_equal(try_to_write(in_folder("limit.h5"), gzip, &e), 0);
        assert_int_equal(stat(in_folder("limit.h5"), &st), 0);
        assert_int_equal(unlink(in_folder("limit.h5")), 0);
        for (rlim_t bytes = 0; bytes < (rlim_t)st.st_size; bytes += (rlim_t)st.st_size / 40) {
            memset(&e, 0, sizeof e);
            low = old;
            low.rlim_cur = bytes;
            setrlimit(RLIMIT_FSIZE, &low);
            int rc = try_to_write(in_folder("limit.h5"), gzip, &e);
            setrlimit(RLIMIT_FSIZE, &old);
            check_gone(in_folder("limit.h5"), rc, &e);
        }
        assert_int_equal(try_to_write(in_folder("limit.h5"), gzip, &e), 0);     /* the library is as good as new */
    }
}

static void test_full_disk(void **state)
{
    (void)state;
    char where[1200];
    snprintf(where, sizeof where, "%s", in_folder("disk"));
    assert_int_equal(fs_mkdirs(where, NULL), 0);
    for (int pages = 2; pages < 14; pages += 3) {
        char options[32];
        err e = { 0 };
        snprintf(options, sizeof options, "size=%dk", 4 * pages);
        if (mount("tmpfs", where, "tmpfs", 0, options))
            skip();      /* needs root */
        int rc = try_to_write(in_folder("disk/trace.h5"), 0, &e);
        check_gone(in_folder("disk/trace.h5"), rc, &e);
        umount(where);
    }
}

static void test_bad_places(void **state)
{
    (void)state;
    err e = { 0 };
    assert_int_equal(try_to_write(in_folder("no/such/trace.h5"), 1, &e), ERR_IO);
    assert_says(e, "no/such/trace.h5.part");
    assert_says(e, "No such file or directory");
    assert_says(e, "check that its folder exists");
    assert_int_equal(fs_mkdirs(in_folder("taken.h5/inside"), NULL), 0);
    assert_int_equal(try_to_write(in_folder("taken.h5"), 1, &e), ERR_IO);
    assert_says(e, "taken.h5");
    assert_false(fs_exists(in_folder("taken.h5.part")));
    if (geteuid()) {
        assert_int_equal(fs_mkdirs(in_folder("locked"), NULL), 0);
        chmod(in_folder("locked"), 0500);
        assert_int_equal(try_to_write(in_folder("locked/trace.h5"), 1, &e), ERR_IO);
        assert_says(e, "Permission denied");
        chmod(in_folder("locked"), 0700);
    }
}

static void test_raw_bytes(void **state)
{
    (void)state;
    trace_spec s = make_spec();
    struct stat st;
    s.gzip = s.axes.gzip = 0;
    write_trace(in_folder("raw.h5"), &s);
    assert_int_equal(stat(in_folder("raw.h5"), &st), 0);
    int64_t promised = trace_raw_bytes(&s);
    assert_true(st.st_size <= promised && promised <= st.st_size + 65536);
    s.channels = s.frames = s.height = s.width = INT64_MAX / 2;
    assert_true(trace_raw_bytes(&s) == INT64_MAX);
}

static void test_memory(void **state)
{
    (void)state;
    trace_spec s = make_spec();
    const int64_t row = (int64_t)C * F * H * W, map = (int64_t)HEADS * WORDS * F * (H / 2) * (W / 2);
    assert_int_equal(trace_largest_piece(&s), 4 * (row > map ? row : map));
    assert_int_equal(trace_sent_bytes(&s), 4 * (row * (S + 1 + S) + map * 3 * 2));
    int64_t step = 4 * (2 * row + 2 * map), whole = trace_buffer_bytes(&s);      /* two buffers for each piece of a step */
#if defined(HAVE_HDF5) && TRACE_CHUNKS
    assert_int_equal(whole, trace_chunks_most((size_t)trace_largest_piece(&s), (size_t)step, 0));
    assert_true(whole > 0);
#else
    assert_true(whole == 0 && step > 0);
#endif
    s.latent_type = s.axes.type = TRACE_F16;
    assert_true(trace_buffer_bytes(&s) <= whole);
    assert_int_equal(trace_sent_bytes(&s), 4 * (row * (S + 1 + S) + map * 3 * 2));
    s.n_blocks = F;
    s.block_frames = 1;
    assert_int_equal(trace_largest_piece(&s), 4 * (row > map ? row : map) / F);
    assert_int_equal(trace_sent_bytes(&s), 4 * (row * (S + 1 + S) + map * 3 * 2) / F);
    s.latents = s.velocity = s.attention = false;
    assert_int_equal(trace_largest_piece(&s), 0);
    assert_int_equal(trace_sent_bytes(&s), 0);
    assert_int_equal(trace_buffer_bytes(&s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_every), cmocka_unit_test(test_full), cmocka_unit_test(test_sparse_half),
        cmocka_unit_test(test_parts), cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_large_rows),
        cmocka_unit_test(test_bad_specs), cmocka_unit_test(test_misuse), cmocka_unit_test(test_size_limit),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_bad_places), cmocka_unit_test(test_raw_bytes),
        cmocka_unit_test(test_levels), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

#endif
