#include "tests/unit/io_fixture.h"

#include <sys/stat.h>

static void paths(void **state)
{
    (void)state;
    char *a = fs_join("a", "b"), *b = fs_join("a/", "/b"), *c = fs_join("", "b");
    assert_string_equal(a, "a/b");
    assert_string_equal(b, "a/b");
    assert_string_equal(c, "b");
    free(a);
    free(b);
    free(c);
    assert_string_equal(fs_basename("x/y/z.txt"), "z.txt");
    assert_string_equal(fs_basename("z.txt"), "z.txt");
    assert_string_equal(fs_basename("x/y/"), "y/");
}

static void writes_whole_files(void **state)
{
    (void)state;
    err e = { 0 };
    char *text;
    size_t n;
    const char *deep = tmp_path("one/two/three"), *file = tmp_path("one/two/three/file.bin");
    assert_int_equal(fs_mkdirs(deep, &e), 0);
    assert_int_equal(fs_mkdirs(deep, &e), 0);
    assert_true(fs_is_dir(deep));
    assert_int_equal(fs_write_atomic(file, "a\0b", 3, &e), 0);
    assert_int_equal(fs_write_atomic(file, "second", 6, &e), 0);
    assert_false(fs_exists(tmp_path("one/two/three/file.bin.part")));
    assert_int_equal(fs_read_text(&text, &n, file, &e), 0);
    assert_int_equal(n, 6);
    assert_string_equal(text, "second");
    free(text);

    fs_map m;
    assert_int_equal(fs_map_open(&m, file, &e), 0);
    assert_int_equal(m.size, 6);
    assert_memory_equal(m.data, "second", 6);
    assert_string_equal(m.path, file);
    fs_map_close(&m);
    fs_map_close(&m);

    const char *empty = tmp_path("empty");
    assert_int_equal(fs_write_atomic(empty, NULL, 0, &e), 0);
    assert_int_equal(fs_map_open(&m, empty, &e), 0);
    assert_null(m.data);
    fs_map_close(&m);
    assert_int_equal(fs_read_text(&text, NULL, empty, &e), 0);
    assert_string_equal(text, "");
    free(text);

    assert_int_equal(fs_write_atomic(tmp_path("part"), "x", 1, &e), 0);
    assert_int_equal(fs_publish(tmp_path("part"), tmp_path("final"), &e), 0);
    assert_true(fs_exists(tmp_path("final")) && !fs_exists(tmp_path("part")));
    assert_true(fs_free_bytes(tmp_path("not/yet/there")) > 0);
}

static void appends_lines(void **state)
{
    (void)state;
    err e = { 0 };
    char *text;
    const char *log = tmp_path("log.jsonl");
    assert_int_equal(fs_append_line(log, "{\"a\":1}", &e), 0);
    assert_int_equal(fs_append_line(log, "", &e), 0);
    assert_int_equal(fs_append_line(log, "two", &e), 0);
    assert_int_equal(fs_read_text(&text, NULL, log, &e), 0);
    assert_string_equal(text, "{\"a\":1}\n\ntwo\n");
    free(text);
    if (fs_exists("/dev/full")) {
        assert_int_equal(fs_append_line("/dev/full", "x", &e), ERR_IO);
        assert_text_has(e.text, "/dev/full: appending a line of 2 bytes failed: No space left on device; free some "
                        "space");
    }
}

static void errors_are_sentences(void **state)
{
    (void)state;
    err e = { 0 };
    fs_map m;
    char *text;
    assert_int_equal(fs_map_open(&m, tmp_path("no such file"), &e), ERR_IO);
    assert_text_has(e.text, "no such file: cannot open the file: No such file or directory");
    assert_int_equal(fs_map_open(&m, tmp_dir, &e), ERR_IO);
    assert_text_has(e.text, "expected a file, found a folder");
    assert_int_equal(fs_map_open(&m, "/dev/null", &e), ERR_IO);
    assert_text_has(e.text, "not a plain file");
    assert_int_equal(fs_read_text(&text, NULL, tmp_dir, &e), ERR_IO);
    assert_text_has(e.text, "found a folder");
    assert_int_equal(fs_write_atomic(tmp_path("missing/dir/file"), "x", 1, &e), ERR_IO);
    assert_text_has(e.text, "cannot create the file");
    assert_int_equal(fs_write_atomic(tmp_path("plain"), "x", 1, &e), 0);
    assert_int_equal(fs_mkdirs(tmp_path("plain/below"), &e), ERR_IO);
    assert_text_has(e.text, "plain: cannot create the folder: a file of that name is in the way");
    /* a folder in the way of the final name; the partial file goes away */
    assert_int_equal(fs_mkdirs(tmp_path("taken/x"), &e), 0);
    assert_int_equal(fs_write_atomic(tmp_path("taken"), "x", 1, &e), ERR_IO);
    assert_text_has(e.text, "a folder of that name is in the way");
    assert_false(fs_exists(tmp_path("taken.part")));
    if (geteuid()) {
        assert_int_equal(fs_mkdirs(tmp_path("locked"), &e), 0);
        assert_int_equal(chmod(tmp_path("locked"), 0500), 0);
        assert_int_equal(fs_write_atomic(tmp_path("locked/x"), "x", 1, &e), ERR_IO);
        assert_text_has(e.text, "Permission denied; check the permissions");
    }
}

static void removes_trees(void **state)
{
    (void)state;
    err e = { 0 };
    assert_int_equal(fs_mkdirs(tmp_path("tree/a/b"), &e), 0);
    assert_int_equal(fs_write_atomic(tmp_path("tree/a/file"), "x", 1, &e), 0);
    assert_int_equal(fs_write_atomic(tmp_path("kept"), "x", 1, &e), 0);
    assert_int_equal(symlink("../kept", tmp_path("tree/link")), 0);
    assert_int_equal(fs_remove_tree(tmp_path("tree"), &e), 0);
    assert_false(fs_exists(tmp_path("tree")));
    assert_true(fs_exists(tmp_path("kept")));
    assert_int_equal(fs_remove_tree(tmp_path("tree"), &e), 0);
    assert_int_equal(fs_remove_tree("/", &e), ERR_INTERNAL);
    assert_int_equal(fs_remove_tree("../..", &e), ERR_INTERNAL);
    assert_int_equal(fs_remove_tree("", &e), ERR_INTERNAL);
}

static int setup(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    chmod(tmp_path("locked"), 0700);
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(paths), cmocka_unit_test(writes_whole_files),
                                        cmocka_unit_test(appends_lines), cmocka_unit_test(errors_are_sentences),
                                        cmocka_unit_test(removes_trees) };
    return cmocka_run_group_tests_name("fs", tests, setup, teardown);
}
