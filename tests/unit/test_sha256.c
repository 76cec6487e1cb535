#include "tests/unit/io_fixture.h"

#include "core/base/sha256.h"

/* examples of FIPS 180-4 (one block, two blocks) and the long message of its companion document */
static void known_answers(void **state)
{
    (void)state;
    char hex[65];
    sha256_text("", hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    sha256_text("abc", hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_text("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000001);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    million[1000000] = '\0';
    sha256_text(million, hex);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");

    /* any cutting into pieces gives the same */
    uint32_t seed = 1;
    for (int round = 0; round < 20; round++) {
        sha256 s;
        char piecewise[65];
        sha256_init(&s);
        for (size_t at = 0; at < 1000000;) {
            seed = seed * 1664525u + 1013904223u;
            size_t n = (seed >> 16) % 3000;
            n = n < 1000000 - at ? n : 1000000 - at;
            sha256_add(&s, million + at, n);
            at += n;
        }
        sha256_hex(&s, piecewise);
        assert_string_equal(piecewise, hex);
    }
    free(million);
}

/* every length around the padding's borders: the digest of the digests, computed with another implementation */
static void padding(void **state)
{
    (void)state;
    uint8_t bytes[200];
    sha256 all;
    char hex[65];
    for (int i = 0; i < 200; i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    sha256_init(&all);
    for (size_t n = 0; n <= 200; n++) {
        sha256 s;
        sha256_init(&s);
        sha256_add(&s, bytes, n);
        sha256_hex(&s, hex);
        sha256_add(&all, hex, 64);
    }
    sha256_hex(&all, hex);
    assert_string_equal(hex, "2e4a3cd5a1498d68dbe42f5114a172594576fa45febce02f5d6ad8863181bef0");
}

static void files(void **state)
{
    (void)state;
    char hex[65];
    err e = { 0 };
    tmp_make();
    assert_int_equal(fs_write_atomic(tmp_path("abc"), "abc", 3, &e), 0);
    assert_int_equal(sha256_file(tmp_path("abc"), hex, &e), 0);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(sha256_file(tmp_path("none"), hex, &e), ERR_IO);
    assert_text_has(e.text, "cannot open the file to compute its digest");
    assert_int_equal(sha256_file(tmp_dir, hex, &e), ERR_IO);
    tmp_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(known_answers), cmocka_unit_test(padding),
    cmocka_unit_test(files) };
    return cmocka_run_group_tests_name("sha256", tests, NULL, NULL);
}
