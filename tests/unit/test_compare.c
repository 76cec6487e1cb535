#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef HAVE_HDF5
#include <hdf5.h>
#endif

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/str.h"
#include "experiments/trace.h"
#include "experiments/trace_compare.h"

int cmd_compare(int argc, char **argv);

static char folder[1024];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/compare-%d", base ? base : "/tmp", (int)getpid());
    return fs_mkdirs(folder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    return fs_remove_tree(folder, NULL);
}

static const char *in_folder(const char *name)
{
    static char paths[8][1200];
    static int next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

#define assert_text(text, part)                                                                                        \
    do {                                                                                                               \
        if (!strstr((text), (part)))                                                                                   \
            fail_msg("'%s' does not say '%s'", (text), (part));                                                        \
    } while (0)

static const compare_item *find(const compare_report *r, const char *name)
{
    for (size_t i = 0; i < r->n_items; i++)
        if (!strcmp(r->items[i].name, name))
            return &r->items[i];
    fail_msg("%s was not compared", name);
    return NULL;
}

/* Runs the command with its output in files. */
static int command(char **out, char **problem, int argc, const char *const *argv)
{
    size_t n;
    fflush(NULL);
    int saved_out = dup(1), saved_err = dup(2);
    assert_non_null(freopen(in_folder("stdout"), "wb", stdout));
    assert_non_null(freopen(in_folder("stderr"), "wb", stderr));
    int status = cmd_compare(argc, (char **)(uintptr_t)argv);
    fflush(NULL);
    dup2(saved_out, 1);
    dup2(saved_err, 2);
    close(saved_out);
    close(saved_err);
    assert_int_equal(fs_read_text(out, &n, in_folder("stdout"), NULL), 0);
    assert_int_equal(fs_read_text(problem, &n, in_folder("stderr"), NULL), 0);
    return status;
}

static int run(char **out, char **problem, const char *a, const char *b, const char *c, const char *d, const char *e)
{
    const char *argv[] = { "compare", a, b, c, d, e, NULL };
    int argc = 0;
    while (argv[argc])
        argc++;
    return command(out, problem, argc, argv);
}

/* ---- tensors ---- */

static void write_safetensors(const char *path, const char *header, const void *data, size_t n)
{
    size_t len = strlen(header);
    uint8_t head[8];
    str s = STR_INIT;
    for (int i = 0; i < 8; i++)
        head[i] = (uint8_t)((uint64_t)len >> (8 * i));
    str_addn(&s, head, 8);
    str_addn(&s, header, len);
    str_addn(&s, data, n);
    assert_int_equal(fs_write_atomic(path, s.data, s.len, NULL), 0);
    str_release(&s);
}

static const char TWO[] = "{\"step_2\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                          "\"step_10\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[24,40]}}";

typedef struct two {
    float f[6];
    int64_t i[2];
} two;

static void test_tensors(void **state)
{
    (void)state;
    err e = { 0 };
    compare_report r;
    two a = { { 1, -4, 3, 0, NAN, INFINITY }, { INT64_MIN, (1LL << 53) + 1 } }, b = a;
    write_safetensors(in_folder("a.safetensors"), TWO, &a, 40);
    write_safetensors(in_folder("b.safetensors"), TWO, &b, 40);
    if (compare_files(&r, in_folder("a.safetensors"), in_folder("b.safetensors"), 0, &e))
        fail_msg("%s", e.text);
    assert_int_equal(r.n_items, 2);
    assert_int_equal(r.first_different, -1);
    assert_string_equal(r.items[0].name, "step_2");     /* numbers in names count as numbers */
    assert_int_equal(r.items[0].outcome, COMPARE_EQUAL);
    compare_report_release(&r);

    b.f[3] = 0.25f;
    b.f[1] = -3.5f;
    b.i[1] -= 1;              /* not representable as a double, still seen */
    write_safetensors(in_folder("b.safetensors"), TWO, &b, 40);
    assert_int_equal(compare_files(&r, in_folder("a.safetensors"), in_folder("b.safetensors"), 0, &e), 0);
    const compare_item *x = find(&r, "step_2");
    assert_int_equal(x->outcome, COMPARE_DIFFERENT);
    assert_int_equal(x->n_different, 2);
    assert_int_equal(x->first, 1);
    assert_int_equal(x->worst, 1);
    assert_true(x->max_abs == 0.5 && x->max_ref == 4 && x->relative == 0.125);
    assert_true(x->worst_a == -4 && x->worst_b == -3.5);
    int64_t at[2];
    compare_index(at, x, 4);
    assert_true(at[0] == 1 && at[1] == 1);
    x = find(&r, "step_10");
    assert_int_equal(x->outcome, COMPARE_DIFFERENT);
    assert_int_equal(x->n_different, 1);
    assert_true(x->max_abs == 1);
    assert_int_equal(r.first_different, 0);
    compare_report_release(&r);

    assert_int_equal(compare_files(&r, in_folder("a.safetensors"), in_folder("b.safetensors"), 0.125, &e), 0);
    assert_int_equal(r.first_different, -1);
    assert_int_equal(find(&r, "step_2")->outcome, COMPARE_WITHIN);
    compare_report_release(&r);

    b = a;
    b.f[5] = 7;               /* infinity against a number, NaN against a number: no tolerance helps */
    b.f[4] = 0;
    write_safetensors(in_folder("b.safetensors"), TWO, &b, 40);
    assert_int_equal(compare_files(&r, in_folder("a.safetensors"), in_folder("b.safetensors"), 1e30, &e), 0);
    x = find(&r, "step_2");
    assert_int_equal(x->outcome, COMPARE_DIFFERENT);
    assert_int_equal(x->n_nan, 1);
    assert_int_equal(x->first, 4);
    assert_true(isinf(x->max_abs));
    compare_report_release(&r);

    /* other names, shapes and types */
    static const char other[] = "{\"step_2\":{\"dtype\":\"F32\",\"shape\":[3,2],\"data_offsets\":[0,24]},"
                                "\"more\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[24,40]}}";
    write_safetensors(in_folder("c.safetensors"), other, &a, 40);
    assert_int_equal(compare_files(&r, in_folder("a.safetensors"), in_folder("c.safetensors"), 0, &e), 0);
    assert_int_equal(find(&r, "step_2")->outcome, COMPARE_SHAPE);
    assert_int_equal(find(&r, "step_10")->outcome, COMPARE_ONLY_A);
    assert_int_equal(find(&r, "more")->outcome, COMPARE_ONLY_B);
    assert_int_equal(r.first_different, 0);
    compare_report_release(&r);
    static const char halves[] = "{\"x\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}",
                      doubles[] = "{\"x\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[0,16]}}";
    const uint16_t h[2] = { 0x3f80, 0xc040 };
    const double d[2] = { 1, -3 };
    write_safetensors(in_folder("h.safetensors"), halves, h, 4);
    write_safetensors(in_folder("d.safetensors"), doubles, d, 16);
    assert_int_equal(compare_files(&r, in_folder("h.safetensors"), in_folder("d.safetensors"), 0, &e), 0);
    assert_int_equal(r.items[0].outcome, COMPARE_EQUAL);
    compare_report_release(&r);
}

static void test_command(void **state)
{
    (void)state;
    char *out, *problem;
    two a = { { 1, -4, 3, 0, 5, 6 }, { 1, 2 } }, b = a;
    write_safetensors(in_folder("a.safetensors"), TWO, &a, 40);
    b.f[4] = 5.5f;
    write_safetensors(in_folder("b.safetensors"), TWO, &b, 40);
    char pa[1200], pb[1200];
    snprintf(pa, sizeof pa, "%s", in_folder("a.safetensors"));
    snprintf(pb, sizeof pb, "%s", in_folder("b.safetensors"));
    assert_int_equal(run(&out, &problem, pa, pa, NULL, NULL, NULL), 0);
    assert_text(out, "step_2 [2,3] equal\n");
    assert_text(out, "equal: 2 arrays\n");
    assert_string_equal(problem, "");
    free(out);
    free(problem);
    assert_int_equal(run(&out, &problem, pa, pb, NULL, NULL, NULL), 1);
    assert_text(out, "step_2 [2,3] different: largest difference 0.5 (0.0833 of the largest value, 6) at [1,1], 5 and "
                     "5.5; "
                     "first at [1,1], 5 and 5.5; 1 of 6\n");
    assert_text(out, "different: 1 of 2 arrays, the first is step_2\n");
    free(out);
    free(problem);
    assert_int_equal(run(&out, &problem, pa, pb, "--tolerance", "0.1", NULL), 0);
    assert_text(out, "within tolerance: largest difference 0.5");
    assert_text(out, "equal within the tolerance: 2 arrays\n");
    free(out);
    free(problem);
    assert_int_equal(run(&out, &problem, "--json", "--tolerance=0.01", pa, pb, NULL), 1);
    json *doc;
    assert_int_equal(json_parse(&doc, out, strlen(out), "output", NULL), 0);
    assert_false(json_bool(json_get(doc, "equal"), true));
    assert_string_equal(json_get_string(doc, "first", ""), "step_2");
    const json *x = json_at(json_get(doc, "arrays"), 0);
    assert_string_equal(json_get_string(x, "outcome", ""), "different");
    assert_true(json_get_number(x, "largest_difference", 0) == 0.5);
    int64_t v;
    assert_true(json_int(json_at(json_get(x, "largest_at"), 1), &v) && v == 1);
    json_free(doc);
    free(out);
    free(problem);

    static const struct { const char *a, *b, *c, *d, *says; } bad[] = {
        { NULL, NULL, NULL, NULL, "two files are needed, found none" },
        { "x", NULL, NULL, NULL, "found one" },
        { "x", "y", "z", NULL, "'z' is a third file" },
        { "x", "y", "--exact", NULL, "unknown option --exact" },
        { "x", "y", "--tolerance", NULL, "found ''" },
        { "x", "y", "--tolerance", "-1", "found '-1'" },
        { "x", "y", "--tolerance=nan", NULL, "found 'nan'" },
        { "x", "y", "--tolerance=1e-5z", NULL, "found '1e-5z'" },
        { "/no/such/a", "/no/such/b", NULL, NULL, "/no/such/a" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(run(&out, &problem, bad[i].a, bad[i].b, bad[i].c, bad[i].d, NULL), 2);
        assert_text(problem, bad[i].says);
        assert_string_equal(out, "");
        free(out);
        free(problem);
    }
    assert_int_equal(run(&out, &problem, "--help", NULL, NULL, NULL, NULL), 0);
    assert_text(out, "Exit status: 0 equal");
    free(out);
    free(problem);
    assert_int_equal(fs_write_atomic(in_folder("text.h5"), "no trace", 8, NULL), 0);
    assert_int_equal(run(&out, &problem, in_folder("text.h5"), pa, NULL, NULL, NULL), 2);
    assert_text(problem, "text.h5: not an HDF5 file");
    free(out);
    free(problem);
    assert_int_equal(fs_write_atomic(in_folder("short.safetensors"), "\x10", 1, NULL), 0);
    assert_int_equal(run(&out, &problem, pa, in_folder("short.safetensors"), NULL, NULL, NULL), 2);
    assert_text(problem, "short.safetensors");
    free(out);
    free(problem);
}

/* ---- traces ---- */

#ifdef HAVE_HDF5

enum { S = 3, ROW = 2 * 3 * 4 * 6, MAPS = 2 * 3 * 2 * 3 };

static const int32_t captured[] = { 0, 2 }, mean[] = { -1 }, tokens_a[] = { 1, 2 }, tokens_b[] = { 4 },
                     tokens_c[] = { 5 };

typedef struct change {
    int latent_row, latent_at;
    float latent;
    double guidance;
    int64_t seed;
    const char *config, *second_word;
    const int32_t *second_tokens;
    bool velocity, half;
    int map_step;
    float map;
} change;

static void write_trace(const char *path, const change *c)
{
    err e = { 0 };
    trace_writer *t;
    trace_word words[] = { { "red", tokens_a, 2 }, { c->second_word ? c->second_word : "circle",
                                                     c->second_tokens ? c->second_tokens : tokens_b, 1 } };
    trace_spec s = { .steps = S,
                     .latents = true,
                     .velocity = c->velocity,
                     .attention = true,
                     .channels = 2,
                     .frames = 3,
                     .height = 4,
                     .width = 6,
                     .latent_type = c->half ? TRACE_F16 : TRACE_F32,
                     .gzip = 1,
                     .prompt = "p",
                     .seed = c->seed,
                     .config = c->config,
                     .build = "one",
                     .axes = { .steps = captured,
                               .n_steps = 2,
                               .layers = captured,
                               .n_layers = 2,
                               .heads = mean,
                               .n_heads = 1,
                               .words = words,
                               .n_words = 2,
                               .frames = 3,
                               .height = 2,
                               .width = 3 } };
    float row[ROW], maps[MAPS];
    int rc = trace_create(&t, path, &s, &e);
    for (int k = 0; k <= S && !rc; k++) {
        for (int i = 0; i < ROW; i++)
            row[i] = (float)(k + 1) + (float)i / 300;
        if (k == c->latent_row)
            row[c->latent_at] += c->latent;
        rc = trace_put_latents(t, k, row, &e);
        if (!rc && k < S)
            rc = trace_put_step(t, k, 1 - k / 3.0, 1 - (k + 1) / 3.0, 1000 - k, 4 + c->guidance, 0, &e);
        if (!rc && k < S && c->velocity)
            rc = trace_put_velocity(t, k, row, &e);
    }
    for (int k = 0; k < 4 && !rc; k++) {
        for (int i = 0; i < MAPS; i++)
            maps[i] = (float)i / MAPS + (k / 2 == c->map_step && i == 7 ? c->map : 0);
        rc = trace_put_attention(t, k / 2, k % 2, maps, &e);
    }
    if (!rc)
        rc = trace_commit(t, &e);
    if (rc)
        fail_msg("%s", e.text);
}

static void test_traces(void **state)
{
    (void)state;
    err e = { 0 };
    compare_report r;
    const change none = { .config = "model:\n", .seed = 1 };
    char a[1200];
    snprintf(a, sizeof a, "%s", in_folder("a.h5"));
    write_trace(a, &none);
    write_trace(in_folder("b.h5"), &none);
    if (compare_files(&r, a, in_folder("b.h5"), 0, &e))
        fail_msg("%s", e.text);
    assert_int_equal(r.first_different, -1);
    assert_int_equal(r.n_items, 12);
    assert_int_equal(r.n_notes, 0);
    assert_string_equal(r.items[0].name, "/sigmas");
    assert_string_equal(r.items[5].name, "/latents");
    assert_int_equal(r.items[5].n, 4 * ROW);
    compare_report_release(&r);

    change c = none;
    c.latent_row = 2;
    c.latent_at = 100;
    c.latent = 0.5f;
    c.map_step = 1;
    c.map = 0.25f;
    c.seed = 2;
    c.config = "model:\n  other: 1\n";
    write_trace(in_folder("b.h5"), &c);
    assert_int_equal(compare_files(&r, a, in_folder("b.h5"), 0, &e), 0);
    const compare_item *x = find(&r, "/latents");
    assert_ptr_equal(x, &r.items[r.first_different]);
    int64_t at[5];
    compare_index(at, x, x->worst);
    assert_true(at[0] == 2 && at[1] == 1 && at[2] == 1 && at[3] == 0 && at[4] == 4);
    assert_int_equal(x->n_different, 1);
    assert_true(fabs(x->max_abs - 0.5) < 1e-6);
    assert_true(fabs(x->relative - 0.5 / (4 + 143.0 / 300)) < 1e-6);
    x = find(&r, "/attention/maps");
    assert_int_equal(x->outcome, COMPARE_DIFFERENT);
    assert_int_equal(x->n_different, 2);
    assert_int_equal(x->first, 2 * MAPS + 7);
    assert_int_equal(r.n_notes, 2);
    assert_string_equal(r.notes[0], "attribute 'config' differs");
    assert_string_equal(r.notes[1], "attribute 'seed' is '1' in a and '2' in b");
    compare_report_release(&r);

    c = none;
    c.second_word = "square";
    c.second_tokens = tokens_c;
    c.velocity = true;
    c.guidance = 1;
    write_trace(in_folder("b.h5"), &c);
    assert_int_equal(compare_files(&r, a, in_folder("b.h5"), 0.5, &e), 0);
    assert_int_equal(find(&r, "/guidance")->outcome, COMPARE_WITHIN);
    assert_int_equal(find(&r, "/velocity")->outcome, COMPARE_ONLY_B);
    assert_int_equal(find(&r, "/attention/words")->outcome, COMPARE_DIFFERENT);
    assert_int_equal(find(&r, "/attention/words")->first, 1);
    assert_int_equal(find(&r, "/attention/tokens")->outcome, COMPARE_DIFFERENT);
    assert_int_equal(find(&r, "/latents")->outcome, COMPARE_EQUAL);
    compare_report_release(&r);
    assert_int_equal(compare_files(&r, in_folder("b.h5"), a, 0.5, &e), 0);
    assert_int_equal(find(&r, "/velocity")->outcome, COMPARE_ONLY_A);
    compare_report_release(&r);

    c = none;
    c.half = true;
    write_trace(in_folder("b.h5"), &c);
    assert_int_equal(compare_files(&r, a, in_folder("b.h5"), 1e-3, &e), 0);
    assert_int_equal(r.first_different, -1);
    assert_int_equal(find(&r, "/latents")->outcome, COMPARE_WITHIN);
    compare_report_release(&r);
    assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
}

static void test_trace_command(void **state)
{
    (void)state;
    char *out, *problem;
    change c = { .config = "x", .seed = 1 };
    write_trace(in_folder("a.h5"), &c);
    c.latent_row = 3;
    c.latent = 1;
    c.seed = 9;
    write_trace(in_folder("b.h5"), &c);
    assert_int_equal(run(&out, &problem, in_folder("a.h5"), in_folder("b.h5"), NULL, NULL, NULL), 1);
    assert_text(out, "/sigmas [4] equal\n");
    assert_text(out, "/latents [4,2,3,4,6] different: largest difference 1 (");
    assert_text(out, "at [3,0,0,0,0], 4 and 5;");
    assert_text(out, "note: attribute 'seed' is '1' in a and '9' in b\n");
    assert_text(out, "different: 1 of 12 arrays, the first is /latents\n");
    free(out);
    free(problem);
    two t = { { 0 }, { 0 } };
    write_safetensors(in_folder("a.safetensors"), TWO, &t, 40);
    assert_int_equal(run(&out, &problem, in_folder("a.safetensors"), in_folder("b.h5"), NULL, NULL, NULL), 2);
    assert_text(problem, "compare two traces or two tensor files");
    free(out);
    free(problem);
}

static void test_truncated_traces(void **state)
{
    (void)state;
    const change none = { .config = "x", .seed = 1 };
    char *bytes;
    size_t n;
    write_trace(in_folder("a.h5"), &none);
    assert_int_equal(fs_read_text(&bytes, &n, in_folder("a.h5"), NULL), 0);
    for (size_t cut = 8; cut < n; cut += n / 60) {
        err e = { 0 };
        compare_report r;
        assert_int_equal(fs_write_atomic(in_folder("cut.h5"), bytes, cut, NULL), 0);
        assert_int_equal(compare_files(&r, in_folder("a.h5"), in_folder("cut.h5"), 0, &e), ERR_FORMAT);
        assert_text(e.text, "cut.h5");
        assert_text(e.text, "truncated");
        compare_report_release(&r);
    }
    free(bytes);
}

/* Eight bytes overwritten at many places: a sentence, or values that differ where no checksum covers them. */
static int read_damaged(char *bytes, size_t n)
{
    int sentences = 0;
    for (size_t at = 64; at + 8 < n; at += n / 150) {
        err e = { 0 };
        compare_report r;
        char saved[8];
        memcpy(saved, bytes + at, 8);
        memset(bytes + at, 0xa5, 8);
        int rc = fs_write_atomic(in_folder("bad.h5"), bytes, n, NULL);
        if (!rc)
            rc = compare_files(&r, in_folder("a.h5"), in_folder("bad.h5"), 0, &e);
        if (rc && (rc != ERR_FORMAT || !strstr(e.text, "bad.h5")))
            return -1;
        sentences += rc != 0;
        compare_report_release(&r);
        memcpy(bytes + at, saved, 8);
    }
    return sentences;
}

static void test_damaged_traces(void **state)
{
    (void)state;
    const change none = { .config = "x", .seed = 1 };
    char *bytes;
    size_t n;
    int status;
    write_trace(in_folder("a.h5"), &none);
    assert_int_equal(fs_read_text(&bytes, &n, in_folder("a.h5"), NULL), 0);
    fflush(NULL);
    pid_t child = fork();     /* HDF5 itself leaks when it meets damage; _exit() keeps that out of the leak report */
    if (!child)
        _exit(read_damaged(bytes, n) > 15 ? 0 : 1);
    waitpid(child, &status, 0);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    free(bytes);
}

/* Blocks smaller than a row, scalars, empty and fixed-length things, as other programs may write them. */
static void write_other(const char *path, int64_t changed)
{
    hsize_t dims[] = { 3, 2, 700000 }, none[] = { 0 }, three[] = { 3 };
    int32_t *v = malloc(sizeof *v * 4200000);
    for (int i = 0; i < 4200000; i++)
        v[i] = i * 7;
    if (changed >= 0)
        v[changed] = -1;
    double one = 2.5;
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), text = H5Tcopy(H5T_C_S1),
          big = H5Screate_simple(3, dims, NULL), scalar = H5Screate(H5S_SCALAR),
          empty = H5Screate_simple(1, none, NULL), list = H5Screate_simple(1, three, NULL),
          pair = H5Tcreate(H5T_COMPOUND, 4);
    H5Tset_size(text, 6);
    H5Tinsert(pair, "x", 0, H5T_NATIVE_INT32);
    struct { const char *name; hid_t type, space; const void *data; } sets[] = {
        { "big", H5T_NATIVE_INT32, big, v }, { "scalar", H5T_NATIVE_DOUBLE, scalar, &one },
        { "empty", H5T_NATIVE_DOUBLE, empty, &one }, { "fixed", text, list, "red\0\0\0green\0blue\0" },
        { "pairs", pair, list, v },
    };
    for (int i = 0; i < 5; i++) {
        hid_t set = H5Dcreate2(f, sets[i].name, sets[i].type, sets[i].space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        assert_true(H5Dwrite(set, sets[i].type, H5S_ALL, H5S_ALL, H5P_DEFAULT, sets[i].data) >= 0);
        H5Dclose(set);
    }
    H5Sclose(big);
    H5Sclose(scalar);
    H5Sclose(empty);
    H5Sclose(list);
    H5Tclose(text);
    H5Tclose(pair);
    H5Fclose(f);
    free(v);
}

static void test_other_files(void **state)
{
    (void)state;
    err e = { 0 };
    compare_report r;
    write_other(in_folder("a.h5"), -1);
    write_other(in_folder("b.h5"), 2800001);
    assert_int_equal(compare_files(&r, in_folder("a.h5"), in_folder("b.h5"), 0, &e), 0);
    assert_int_equal(find(&r, "/scalar")->outcome, COMPARE_EQUAL);
    assert_int_equal(find(&r, "/empty")->outcome, COMPARE_EQUAL);
    assert_int_equal(find(&r, "/fixed")->outcome, COMPARE_EQUAL);
    assert_int_equal(find(&r, "/pairs")->outcome, COMPARE_TYPE);
    const compare_item *x = find(&r, "/big");
    assert_int_equal(x->n_different, 1);
    assert_int_equal(x->first, 2800001);
    int64_t at[3];
    compare_index(at, x, x->first);
    assert_true(at[0] == 2 && at[1] == 0 && at[2] == 1);
    compare_report_release(&r);
    unlink(in_folder("a.h5"));
    unlink(in_folder("b.h5"));
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tensors), cmocka_unit_test(test_command),
#ifdef HAVE_HDF5
        cmocka_unit_test(test_traces), cmocka_unit_test(test_trace_command), cmocka_unit_test(test_truncated_traces),
        cmocka_unit_test(test_damaged_traces), cmocka_unit_test(test_other_files),
#endif
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
