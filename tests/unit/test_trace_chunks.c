/* Chunks filtered beside the library against what its own filters make of them: the same bytes. */
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "experiments/trace_chunks.h"

#if defined(HAVE_HDF5) && TRACE_CHUNKS

#if H5_VERSION_GE(2, 0, 0)
#define H5Dread_chunk H5Dread_chunk1
#endif

static char *place(const char *name)
{
    const char *tmp = getenv("TEST_TMP");
    char *file = str_format("chunks-%d-%s", (int)getpid(), name), *path = fs_join(tmp ? tmp : "/tmp", file);
    free(file);
    return path;
}

/* ---- a dataset with the filters of a trace ---- */

typedef struct shape {
    int rank;
    hsize_t dims[7], chunk[7];
} shape;

static hid_t new_file(const char *path, h5_disk *disk)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_obj_track_times(create, false);
    h5_disk_use(access, disk);
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, create, access);
    assert_true(f >= 0);
    H5Pclose(access);
    H5Pclose(create);
    return f;
}

static hid_t type_of(size_t element)
{
    return element == 2 ? h5_f16_type() : H5Tcopy(H5T_IEEE_F32LE);
}

static hid_t new_set(hid_t f, const char *name, const shape *s, size_t element, int level, uint8_t fill[4])
{
    const float missing = NAN;
    hid_t space = H5Screate_simple(s->rank, s->dims, NULL), list = H5Pcreate(H5P_DATASET_CREATE), type = type_of(element);
    assert_true(H5Pset_chunk(list, s->rank, s->chunk) >= 0 && H5Pset_fill_value(list, H5T_NATIVE_FLOAT, &missing) >= 0 &&
                H5Pset_obj_track_times(list, false) >= 0);
    if (level)
        assert_true(H5Pset_shuffle(list) >= 0 && H5Pset_deflate(list, (unsigned)level) >= 0);
    assert_true(H5Pset_fletcher32(list) >= 0 && H5Pget_fill_value(list, type, fill) >= 0);
    hid_t set = H5Dcreate2(f, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(set >= 0);
    H5Tclose(type);
    H5Pclose(list);
    H5Sclose(space);
    return set;
}

static size_t count_of(const shape *s)
{
    size_t n = 1;
    for (int i = 0; i < s->rank; i++)
        n *= s->dims[i];
    return n;
}

static trace_chunk_layout layout_of(hid_t set, const shape *s, size_t element, int level, const uint8_t fill[4])
{
    trace_chunk_layout l = { .set = set, .rank = s->rank, .element = element, .level = level, .name = "/x" };
    memcpy(l.chunk, s->chunk, sizeof l.chunk);
    memcpy(l.fill, fill, 4);
    return l;
}

/* Smooth, noise, or the same everywhere, as bytes of f32 or of small f16 numbers. */
static void numbers(uint8_t *to, size_t n, size_t element, int kind, uint32_t seed)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        uint32_t bits = 0;
        float x = 0.3f + 0.2f * sinf((float)i * 0.01f);
        if (kind == 1)
            bits = seed >> 1 & ~(UINT32_C(1) << 30);      /* any finite number */
        else if (kind == 0 && element == 4)
            memcpy(&bits, &x, 4);
        else if (kind == 0)
            bits = 0x3000 + (uint32_t)(512 * x);
        if (element == 2)
            bits &= 0x3fff;
        memcpy(to + i * element, &bits, element);
    }
}

/* Every chunk as it lies in the file, its filter mask in front. */
static void compare_raw(hid_t a, hid_t b, const shape *s, int64_t *stored)
{
    hsize_t at[7] = { 0 };
    for (;;) {
        hsize_t na = 0, nb = 0;
        uint32_t ma = 7, mb = 9;
        assert_true(H5Dget_chunk_storage_size(a, at, &na) >= 0 && H5Dget_chunk_storage_size(b, at, &nb) >= 0);
        assert_int_equal(na, nb);
        uint8_t *xa = malloc(na + 1), *xb = malloc(nb + 1);
        assert_true(H5Dread_chunk(a, H5P_DEFAULT, at, &ma, xa) >= 0 && H5Dread_chunk(b, H5P_DEFAULT, at, &mb, xb) >= 0);
        assert_int_equal(ma, mb);
        assert_memory_equal(xa, xb, na);
        free(xa);
        free(xb);
        *stored += (int64_t)na;
        int i = s->rank - 1;
        while (i >= 0 && (at[i] += s->chunk[i]) >= s->dims[i])
            at[i--] = 0;
        if (i < 0)
            return;
    }
}

static const shape shapes[] = {
    { 1, { 2 }, { 1 } },
    { 1, { 40000 }, { 20000 } },
    { 2, { 6, 70001 }, { 3, 70001 } },
    { 3, { 5, 7, 11 }, { 2, 3, 4 } },              /* cut off in every axis */
    { 4, { 4, 5, 6, 50 }, { 1, 2, 6, 50 } },
    { 7, { 1, 2, 2, 3, 5, 6, 7 }, { 1, 1, 1, 2, 5, 6, 7 } },
    { 7, { 1, 1, 1, 3, 4, 9, 8 }, { 1, 1, 1, 3, 4, 4, 8 } },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void test_same_as_library(void **state)
{
    (void)state;
    static const int levels[] = { 0, 1, 4, 9 };
    char *ours = place("ours.h5"), *theirs = place("theirs.h5");
    int64_t stored = 0;
    for (int i = 0; i < SHAPES * 24; i++) {      /* 3 kinds of numbers, 2 types, 4 levels */
        const shape *s = &shapes[i / 24];
        int kind = i / 8 % 3, level = levels[i % 4];
        size_t element = i / 4 % 2 ? 4 : 2, n = count_of(s);
        h5_disk disk = { 0 };
        uint8_t fill[4] = { 0 }, *x = malloc(n * element), *back = malloc(n * element);
        err e = { 0 };
        numbers(x, n, element, kind, (uint32_t)i);
        hid_t fa = new_file(ours, &disk), fb = new_file(theirs, &disk), type = type_of(element);
        hid_t a = new_set(fa, "/x", s, element, level, fill), b = new_set(fb, "/x", s, element, level, fill);
        trace_chunk_layout l = layout_of(a, s, element, level, fill);
        trace_chunks *q;
        hsize_t zero[7] = { 0 };
        assert_int_equal(trace_chunks_new(&q, ours, &disk, 1 + i % 5, &e), 0);
        assert_int_equal(trace_chunks_write(q, &l, 0, zero, s->dims, x, &e), 0);
        assert_int_equal(trace_chunks_drain(q, &e), 0);
        trace_chunks_free(q);
        assert_true(H5Dwrite(b, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, x) >= 0);
        assert_true(H5Fflush(fa, H5F_SCOPE_LOCAL) >= 0 && H5Fflush(fb, H5F_SCOPE_LOCAL) >= 0);
        compare_raw(a, b, s, &stored);
        assert_true(H5Dread(a, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, back) >= 0);
        assert_memory_equal(back, x, n * element);
        H5Dclose(a);
        H5Dclose(b);
        H5Tclose(type);
        H5Fclose(fa);
        H5Fclose(fb);
        free(x);
        free(back);
    }
    assert_true(stored > 0);
    unlink(ours);
    unlink(theirs);
    free(ours);
    free(theirs);
}

/* ---- many rows ---- */

enum { ROWS = 60, ROW = 5000 };

static int write_rows(trace_chunks *q, const trace_chunk_layout *l, uint8_t *x, err *e)
{
    int rc = 0;
    for (int r = 0; r < ROWS && !rc; r++) {
        hsize_t start[2] = { (hsize_t)r, 0 }, count[2] = { 1, ROW };
        numbers(x, ROW, 4, r % 3, (uint32_t)r);
        rc = trace_chunks_write(q, l, r, start, count, x, e);
        memset(x, 0xee, ROW * 4);           /* a write has taken its numbers when it returns */
    }
    return rc ? rc : trace_chunks_drain(q, e);
}

static void test_any_number_of_threads(void **state)
{
    (void)state;
    static const int threads[] = { 1, 2, 3, 8, 100 };
    const shape s = { 2, { ROWS, ROW }, { 1, ROW } };
    uint8_t x[ROW * 4], fill[4], *first = NULL, *now = NULL;
    size_t n_first = 0, n = 0;
    char *path = place("threads.h5");
    for (int i = 0; i < 5; i++) {
        h5_disk disk = { 0 };
        err e = { 0 };
        trace_chunks *q;
        hid_t f = new_file(path, &disk), set = new_set(f, "/x", &s, 4, 4, fill);
        trace_chunk_layout l = layout_of(set, &s, 4, 4, fill);
        assert_int_equal(trace_chunks_new(&q, path, &disk, threads[i], &e), 0);
        assert_int_equal(write_rows(q, &l, x, &e), 0);
        trace_chunks_free(q);
        uint8_t *all = malloc((size_t)ROWS * ROW * 4), want[ROW * 4];
        assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, all) >= 0);
        for (int r = 0; r < ROWS; r++) {
            numbers(want, ROW, 4, r % 3, (uint32_t)r);
            assert_memory_equal(all + (size_t)r * ROW * 4, want, ROW * 4);
        }
        free(all);
        H5Dclose(set);
        H5Fclose(f);
        FILE *file = fopen(path, "rb");
        assert_non_null(file);
        fseek(file, 0, SEEK_END);
        n = (size_t)ftell(file);
        rewind(file);
        now = malloc(n);
        assert_int_equal(fread(now, 1, n, file), n);
        fclose(file);
        if (first) {
            assert_int_equal(n, n_first);
            assert_memory_equal(now, first, n);
            free(now);
        } else {
            first = now;
            n_first = n;
        }
    }
    free(first);
    unlink(path);
    free(path);
}

/* What the disk refuses is said at the latest by the drain; freeing with chunks under way is harmless. */
static void test_failures(void **state)
{
    (void)state;
    const shape s = { 2, { ROWS, ROW }, { 1, ROW } };
    uint8_t x[ROW * 4], fill[4];
    char *path = place("fails.h5");
    for (int abandoned = 0; abandoned < 2; abandoned++) {
        h5_disk disk = { 0 };
        err e = { 0 };
        trace_chunks *q;
        hid_t f = new_file(path, &disk), set = new_set(f, "/x", &s, 4, 1, fill);
        trace_chunk_layout l = layout_of(set, &s, 4, 1, fill);
        assert_int_equal(trace_chunks_new(&q, path, &disk, 3, &e), 0);
        if (abandoned) {
            hsize_t start[2] = { 7, 0 }, count[2] = { 1, ROW };
            numbers(x, ROW, 4, 1, 5);
            assert_int_equal(trace_chunks_write(q, &l, 7, start, count, x, &e), 0);
        } else {
            disk.error = ENOSPC;
            assert_int_equal(write_rows(q, &l, x, &e), ERR_IO);
            assert_non_null(strstr(e.text, "row 0 of /x cannot be written: No space left on device; free some space"));
        }
        trace_chunks_free(q);
        H5Dclose(set);
        H5Fclose(f);
    }
    trace_chunks_free(NULL);
    unlink(path);
    free(path);
}

/* Known sums: all zeros are 0; a sum that is a multiple of 65535 is 65535, not 0. */
static void test_checksum(void **state)
{
    (void)state;
    static const uint8_t zeros[10], ones[] = { 0xff, 0xff }, two[] = { 0xff, 0xfe, 0, 1 }, odd[] = { 0, 1, 2 };
    assert_int_equal(trace_filter_fletcher32(zeros, 10), 0);
    assert_int_equal(trace_filter_fletcher32(ones, 2), 0xffffffff);
    assert_int_equal(trace_filter_fletcher32(two, 4), 0xfffeffff);
    assert_int_equal(trace_filter_fletcher32(odd, 3), 0x02020201);
}

static void test_most(void **state)
{
    (void)state;
    const size_t mib = 1 << 20;
    assert_int_equal(trace_chunks_most(0, 0, 4), 0);
    assert_int_equal(trace_chunks_most(mib, 2 * mib, 4), 2 * trace_filter_room(2 * mib));
    assert_int_equal(trace_chunks_most(mib, 1024 * mib, 4), 8 * 2 * trace_filter_room(mib));      /* two jobs a thread */
    assert_int_equal(trace_chunks_most(mib, 1024 * mib, 100), TRACE_CHUNKS_THREADS * 2 * 2 * trace_filter_room(mib));
    assert_int_equal(trace_chunks_most(64 * mib, 10240 * mib, 8), TRACE_CHUNKS_BYTES);
    assert_int_equal(trace_chunks_most(300 * mib, 10240 * mib, 8), 2 * trace_filter_room(300 * mib));
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_checksum), cmocka_unit_test(test_same_as_library),
                                        cmocka_unit_test(test_any_number_of_threads), cmocka_unit_test(test_failures),
                                        cmocka_unit_test(test_most) };
    h5_quiet();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_nothing(void **state)
{
    (void)state;
    print_message("skipped: this build has no zlib or no H5Dwrite_chunk\n");
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_nothing) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
