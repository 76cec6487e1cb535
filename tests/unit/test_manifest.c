#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/sha256.h"
#include "core/base/str.h"
#include "experiments/manifest.h"

static char folder[1024], file[1100];

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/manifest-%d", base ? base : "/tmp", (int)getpid());
    snprintf(file, sizeof file, "%s/manifest.jsonl", folder);
    log_set_level(LOG_ERROR);
    return 0;
}

static int fresh(void **state)
{
    (void)state;
    return fs_remove_tree(folder, NULL) || fs_mkdirs(folder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    return fs_remove_tree(folder, NULL);
}

#define assert_says(e, part)                                                                                           \
    do {                                                                                                               \
        if (!strstr((e).text, (part)))                                                                                 \
            fail_msg("'%s' does not say '%s'", (e).text, (part));                                                      \
    } while (0)

static void put_file(const char *name, const char *text)
{
    char *path = fs_join(folder, name);
    assert_int_equal(fs_write_atomic(path, text, strlen(text), NULL), 0);
    free(path);
}

static __attribute__((noinline)) char *manifest_text(void)
{
    char *text;
    size_t n;
    assert_int_equal(fs_read_text(&text, &n, file, NULL), 0);
    return text;
}

static const char *identity_of(const char *text)
{
    static char digest[65];
    sha256_text(text, digest);
    return digest;
}

static void make_entry(manifest_entry *x, int64_t number, int64_t seed, bool done)
{
    manifest_entry_init(x);
    x->run = manifest_run_id(number, seed);
    strcpy(x->identity, identity_of("v1"));
    x->number = number;
    x->seed = seed;
    x->id = str_dup("0123456789abcdef");
    x->slug = str_dup("two-men");
    x->marked_prompt = str_dup("(two men:1.5) kiss\n");
    x->clean_prompt = str_dup("two men kiss \"M\xc3\xa4nner\"");
    x->done = done;
    x->seconds = 12.5;
    if (!done)
        x->error = str_dup("CUDA: out of memory");
    assert_int_equal(manifest_entry_add_choice(x, 0, "who", 1, "two men", NULL), 0);
    assert_int_equal(manifest_entry_add_choice(x, 1, NULL, -1, "", NULL), 0);
}

static void append(manifest *m, int64_t number, int64_t seed, bool done)
{
    err e = { 0 };
    manifest_entry x;
    make_entry(&x, number, seed, done);
    if (manifest_append(m, &x, &e))
        fail_msg("%s", e.text);
    manifest_entry_release(&x);
}

static manifest *must_open(manifest_mode mode)
{
    manifest *m;
    err e = { 0 };
    if (manifest_open(&m, folder, mode, &e))
        fail_msg("%s", e.text);
    return m;
}

static void test_round_trip(void **state)
{
    (void)state;
    err e = { 0 };
    manifest_entry x;
    put_file("video.mp4", "not really a video");
    manifest *m = must_open(MANIFEST_WRITE);
    assert_int_equal(manifest_count(m), 0);
    assert_false(fs_exists(file));
    make_entry(&x, 3, 44, true);
    assert_string_equal(x.run, "0003-s44");
    assert_int_equal(manifest_entry_add_file(&x, "video.mp4", folder, "video.mp4", &e), 0);
    assert_int_equal(manifest_append(m, &x, &e), 0);
    manifest_entry_release(&x);
    append(m, 12345, -7, false);
    manifest_close(m);

    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 2);
    const manifest_entry *r = manifest_find(m, "0003-s44");
    assert_ptr_equal(r, manifest_at(m, 0));
    assert_string_equal(r->identity, identity_of("v1"));
    assert_int_equal(r->number, 3);
    assert_int_equal(r->seed, 44);
    assert_true(r->done);
    assert_string_equal(r->marked_prompt, "(two men:1.5) kiss\n");
    assert_string_equal(r->clean_prompt, "two men kiss \"M\xc3\xa4nner\"");
    assert_int_equal(r->n_choices, 2);
    assert_string_equal(r->choices[0].name, "who");
    assert_int_equal(r->choices[0].alternative, 1);
    assert_null(r->choices[1].name);
    assert_int_equal(r->choices[1].alternative, -1);
    assert_true(r->seconds == 12.5);
    assert_null(r->error);
    assert_int_equal(strlen(r->time), 20);
    assert_int_equal(r->time[10], 'T');
    assert_int_equal(r->time[19], 'Z');
    const manifest_file *f = manifest_entry_file(r, "video.mp4");
    assert_int_equal(f->bytes, 18);
    assert_string_equal(f->path, "video.mp4");
    assert_string_equal(f->sha256, identity_of("not really a video"));
    assert_null(manifest_entry_file(r, "trace.h5"));
    r = manifest_find(m, "12345-s-7");
    assert_false(r->done);
    assert_string_equal(r->error, "CUDA: out of memory");
    assert_null(manifest_find(m, "0003-s45"));
    assert_null(manifest_at(m, 2));
    manifest_close(m);
    manifest_close(NULL);
}

static void test_last_line_wins(void **state)
{
    (void)state;
    manifest *m = must_open(MANIFEST_WRITE);
    for (int i = 0; i < 1000; i++)
        append(m, i % 300, 1, i < 300 ? false : true);
    assert_int_equal(manifest_count(m), 300);
    manifest_close(m);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 300);
    for (size_t i = 0; i < 300; i++) {
        assert_int_equal(manifest_at(m, i)->number, i);
        assert_true(manifest_at(m, i)->done);
    }
    manifest_close(m);
}

/* A writer killed at any byte of its last line: the lines before are kept and the next append gives a clean file. */
static void test_torn_line(void **state)
{
    (void)state;
    manifest *m = must_open(MANIFEST_WRITE);
    append(m, 0, 1, true);
    append(m, 1, 1, true);
    manifest_close(m);
    char *whole = manifest_text();
    size_t first = (size_t)(strchr(whole, '\n') + 1 - whole), n = strlen(whole);
    for (size_t cut = first + 1; cut < n; cut += 7) {
        assert_int_equal(fs_write_atomic(file, whole, cut, NULL), 0);
        m = must_open(MANIFEST_WRITE);
        assert_int_equal(manifest_count(m), cut == n - 1 ? 2 : 1);
        append(m, 2, 1, true);
        manifest_close(m);
        m = must_open(MANIFEST_READ);
        assert_non_null(manifest_find(m, "0000-s1"));
        assert_non_null(manifest_find(m, "0002-s1"));
        manifest_close(m);
        char *now = manifest_text();
        assert_memory_equal(now, whole, first);
        assert_memory_equal(now + first, "{\"run\":\"0002-s1\"", 16);
        free(now);
    }
    /* only the line end is missing: the line counts */
    assert_int_equal(fs_write_atomic(file, whole, n - 1, NULL), 0);
    m = must_open(MANIFEST_WRITE);
    assert_int_equal(manifest_count(m), 2);
    append(m, 2, 1, true);
    manifest_close(m);
    char *now = manifest_text();
    assert_memory_equal(now, whole, n);
    free(now);
    /* reading alone repairs nothing */
    assert_int_equal(fs_write_atomic(file, whole, n - 10, NULL), 0);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 1);
    manifest_close(m);
    now = manifest_text();
    assert_int_equal(strlen(now), n - 10);
    free(now);
    free(whole);
}

static void expect_refused(const char *text, const char *part, const char *other)
{
    err e = { 0 };
    manifest *m;
    assert_int_equal(fs_write_atomic(file, text, strlen(text), NULL), 0);
    assert_int_equal(manifest_open(&m, folder, MANIFEST_READ, &e), ERR_FORMAT);
    assert_null(m);
    assert_says(e, "manifest.jsonl");
    assert_says(e, part);
    assert_says(e, other);
}

static char *replace(const char *text, const char *what, const char *with)
{
    const char *at = strstr(text, what);
    assert_non_null(at);
    return str_format("%.*s%s%s", (int)(at - text), text, with, at + strlen(what));
}

static void test_broken_lines(void **state)
{
    (void)state;
    put_file("video.mp4", "x");
    manifest *m = must_open(MANIFEST_WRITE);
    manifest_entry x;
    make_entry(&x, 0, 1, true);
    assert_int_equal(manifest_entry_add_file(&x, "video.mp4", folder, "video.mp4", NULL), 0);
    assert_int_equal(manifest_append(m, &x, NULL), 0);
    manifest_entry_release(&x);
    manifest_close(m);
    char *good = manifest_text();
    static const struct { const char *what, *with, *says;
    } cases[] = {
        { "{\"run\"", "{run", "line 2" },
        { "\"run\":\"0000-s1\"", "\"ran\":\"0000-s1\"", "'run' is missing" },
        { "\"state\":\"done\"", "\"state\":\"maybe\"", "'maybe', expected 'done' or 'failed'" },
        { "\"seed\":1", "\"seed\":1.5", "'seed' of run '0000-s1' is not a whole number" },
        { "\"identity\":\"", "\"identity\":\"q", "'identity' of run '0000-s1'" },
        { "\"number\":0", "\"number\":-1", "'number' from 0 is missing" },
        { "\"slug\"", "\"slog\"", "'slug' is missing" },
        { "\"alternative\":1", "\"alternative\":\"one\"", "choice 0 lacks" },
        { "\"path\":\"video.mp4\"", "\"path\":\"../../etc/passwd\"",
          "'../../etc/passwd' of file 'video.mp4' does not lie" },
        { "\"path\":\"video.mp4\"", "\"path\":\"/etc/passwd\"", "does not lie in the batch folder" },
        { "\"path\":\"video.mp4\"", "\"path\":\"runs/../../x\"", "does not lie in the batch folder" },
        { "\"sha256\":\"", "\"sha256\":\"Z", "lacks a 'sha256'" },
        { "\"bytes\":1", "\"bytes\":-1", "or its 'bytes'" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *bad = replace(good, cases[i].what, cases[i].with), *text = str_format("%s%s\n%s", good, bad, good);
        expect_refused(text, "line 2", cases[i].says);
        free(text);
        free(bad);
    }
    /* members of later versions are ignored, blank lines too */
    char *later = replace(good, "\"seed\":1", "\"shots\":[1,2],\"seed\":1"),
         *text = str_format("\n%s\n\n%s\n", later, good);
    assert_int_equal(fs_write_atomic(file, text, strlen(text), NULL), 0);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 1);
    manifest_close(m);
    free(text);
    free(later);
    free(good);
}

static void test_is_done(void **state)
{
    (void)state;
    char *why;
    manifest_entry x;
    manifest *m = must_open(MANIFEST_WRITE);
    char good[65];
    strcpy(good, identity_of("v1"));
    assert_false(manifest_run_is_done(m, "0000-s1", good, true, &why));
    assert_null(why);
    put_file("video.mp4", "video");
    put_file("trace.h5", "trace");
    make_entry(&x, 0, 1, true);
    assert_int_equal(manifest_entry_add_file(&x, "video.mp4", folder, "video.mp4", NULL), 0);
    assert_int_equal(manifest_entry_add_file(&x, "trace.h5", folder, "trace.h5", NULL), 0);
    assert_int_equal(manifest_append(m, &x, NULL), 0);
    manifest_entry_release(&x);
    append(m, 1, 1, false);
    assert_true(manifest_run_is_done(m, "0000-s1", good, true, &why));
    assert_null(why);
    struct { const char *content; bool verify, done; const char *says; } cases[] = {
        { "trace", true, true, NULL },
        { "tracy", false, true, NULL },
        { "tracy", true, false, "has changed since it was made" },
        { "trace and more", false, false, "has 14 bytes, the manifest says 5" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_file("trace.h5", cases[i].content);
        assert_int_equal(manifest_run_is_done(m, "0000-s1", good, cases[i].verify, &why), cases[i].done);
        if (cases[i].says && !strstr(why, cases[i].says))
            fail_msg("'%s' does not say '%s'", why, cases[i].says);
        free(why);
        assert_int_equal(manifest_run_is_done(m, "0000-s1", good, cases[i].verify, NULL), cases[i].done);
    }
    char *path = fs_join(folder, "trace.h5");
    unlink(path);
    free(path);
    assert_false(manifest_run_is_done(m, "0000-s1", good, false, &why));
    assert_string_equal(why, "trace.h5 is missing");
    free(why);
    assert_false(manifest_run_is_done(m, "0000-s1", identity_of("v2"), false, &why));
    assert_non_null(strstr(why, "have changed"));
    free(why);
    assert_false(manifest_run_is_done(m, "0001-s1", good, false, &why));
    assert_string_equal(why, "it failed: CUDA: out of memory");
    free(why);
    manifest_close(m);
}

static void test_refused_entries(void **state)
{
    (void)state;
    err e = { 0 };
    manifest_entry x;
    manifest *m = must_open(MANIFEST_WRITE);
    make_entry(&x, 0, 1, true);
    x.identity[0] = 0;
    assert_int_equal(manifest_append(m, &x, &e), ERR_ARG);
    assert_says(e, "run '0000-s1'");
    assert_says(e, "'identity'");
    strcpy(x.identity, identity_of("v1"));
    x.done = false;
    assert_int_equal(manifest_append(m, &x, &e), ERR_ARG);
    assert_says(e, "if it failed, the error");
    x.done = true;
    assert_int_equal(manifest_entry_add_file(&x, "video.mp4", folder, "no/such.mp4", &e), ERR_IO);
    assert_says(e, "no/such.mp4");
    assert_int_equal(x.n_files, 0);
    assert_false(fs_exists(file));
    manifest_close(m);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_append(m, &x, &e), ERR_INTERNAL);
    manifest_close(m);
    /* an error sentence with a stray byte of a file name must not make the line unreadable */
    m = must_open(MANIFEST_WRITE);
    x.done = false;
    x.error = str_dup("caf\xe9: cannot be opened");
    assert_int_equal(manifest_append(m, &x, &e), 0);
    manifest_close(m);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 1);
    manifest_close(m);
    manifest_entry_release(&x);
}

static void test_lock(void **state)
{
    (void)state;
    err e = { 0 };
    manifest *m = must_open(MANIFEST_WRITE), *second;
    assert_int_equal(manifest_open(&second, folder, MANIFEST_WRITE, &e), ERR_IO);
    assert_says(e, "another wanscope is filling this batch folder");
    second = must_open(MANIFEST_READ);
    manifest_close(second);
    manifest_close(m);
    m = must_open(MANIFEST_WRITE);
    manifest_close(m);
}

static void test_io_errors(void **state)
{
    (void)state;
    err e = { 0 };
    manifest *m;
    char *absent = fs_join(folder, "absent");
    assert_int_equal(manifest_open(&m, absent, MANIFEST_WRITE, &e), ERR_IO);
    assert_says(e, "absent");
    free(absent);
    /* no room: the line is not half there */
    m = must_open(MANIFEST_WRITE);
    append(m, 0, 1, true);
    char *before = manifest_text();
    struct rlimit old, low;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    low = old;
    low.rlim_cur = strlen(before) + 50;
    setrlimit(RLIMIT_FSIZE, &low);
    manifest_entry x;
    make_entry(&x, 1, 1, true);
    int rc = manifest_append(m, &x, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(rc, ERR_IO);
    assert_says(e, "manifest.jsonl");
    assert_int_equal(manifest_count(m), 1);
    char *after = manifest_text();
    assert_string_equal(before, after);
    assert_int_equal(manifest_append(m, &x, &e), 0);
    manifest_entry_release(&x);
    manifest_close(m);
    free(before);
    free(after);
    m = must_open(MANIFEST_READ);
    assert_int_equal(manifest_count(m), 2);
    manifest_close(m);
}

/* A child that appends without end is killed; whatever it left opens and goes on. */
static void test_killed_writer(void **state)
{
    (void)state;
    for (int round = 0; round < 5; round++) {
        fflush(NULL);
        pid_t child = fork();
        if (!child) {
            manifest *m;
            if (manifest_open(&m, folder, MANIFEST_WRITE, NULL))
                _exit(1);
            for (int64_t i = 0;; i++) {
                manifest_entry x;
                manifest_entry_init(&x);
                make_entry(&x, i, round, true);
                if (manifest_append(m, &x, NULL))
                    _exit(1);
                manifest_entry_release(&x);
            }
        }
        usleep(30000 + (useconds_t)(7000 * round));
        kill(child, SIGKILL);
        int status;
        waitpid(child, &status, 0);
        assert_true(WIFSIGNALED(status));
        manifest *m = must_open(MANIFEST_WRITE);
        append(m, 1000000, round, true);
        manifest_close(m);
    }
    manifest *m = must_open(MANIFEST_READ);
    for (int round = 0; round < 5; round++) {
        char *run = manifest_run_id(1000000, round);
        assert_non_null(manifest_find(m, run));
        free(run);
    }
    manifest_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_round_trip, fresh), cmocka_unit_test_setup(test_last_line_wins, fresh),
        cmocka_unit_test_setup(test_torn_line, fresh), cmocka_unit_test_setup(test_broken_lines, fresh),
        cmocka_unit_test_setup(test_is_done, fresh), cmocka_unit_test_setup(test_refused_entries, fresh),
        cmocka_unit_test_setup(test_lock, fresh), cmocka_unit_test_setup(test_io_errors, fresh),
        cmocka_unit_test_setup(test_killed_writer, fresh),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
