#include "tests/unit/io_fixture.h"

static void grows(void **state)
{
    (void)state;
    str s = STR_INIT;
    assert_string_equal(str_text(&s), "");
    for (int i = 0; i < 1000; i++)
        str_addf(&s, "%d,", i);
    assert_int_equal(s.len, strlen(s.data));
    assert_true(str_starts_with(s.data, "0,1,2,"));
    assert_true(str_ends_with(s.data, "998,999,"));
    str_clear(&s);
    assert_string_equal(str_text(&s), "");
    str_addn(&s, "a\0b", 3);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.data, "a\0b", 4);
    char *taken = str_take(&s);
    assert_memory_equal(taken, "a\0b", 4);
    assert_int_equal(s.len, 0);
    free(taken);
    taken = str_take(&s);
    assert_string_equal(taken, "");
    free(taken);
    s.failed = true;
    str_add(&s, "lost");
    assert_null(str_take(&s));
    str_release(&s);
}

static void copies(void **state)
{
    (void)state;
    char *a = str_dupn("hello", 3), *b = str_format("%s-%04d", a, 7), *c = str_dup(b);
    assert_string_equal(a, "hel");
    assert_string_equal(c, "hel-0007");
    free(a);
    free(b);
    free(c);
    assert_true(str_ends_with("abc", "") && str_starts_with("abc", "") && !str_ends_with("c", "abc"));
}

static void nearest(void **state)
{
    static const char *const KEYS[] = { "sampling", "steps", "guidance_scale", "seed", "shift" };
    (void)state;
    assert_int_equal(str_distance("abc", "abc"), 0);
    assert_int_equal(str_distance("abcd", "acbd"), 1);      /* neighbours swapped */
    assert_int_equal(str_distance("", "abc"), 3);
    assert_int_equal(str_distance("kitten", "sitting"), 3);
    assert_int_equal(str_distance("ca", "abc"), 3);         /* the restricted form: no edit inside a swap */
    assert_string_equal(str_nearest("step", KEYS, 5), "steps");
    assert_string_equal(str_nearest("guidence_scale", KEYS, 5), "guidance_scale");
    assert_string_equal(str_nearest("sede", KEYS, 5), "seed");
    assert_null(str_nearest("entirely different", KEYS, 5));
    assert_null(str_nearest("zz", KEYS, 5));
    char big[300];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    assert_int_equal(str_distance(big, big), 0);
    assert_true(str_distance(big, "x") > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(grows), cmocka_unit_test(copies), cmocka_unit_test(nearest) };
    return cmocka_run_group_tests_name("str", tests, NULL, NULL);
}
