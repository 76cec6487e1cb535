/* What a run shows on its way to a file: order, bounds, failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "experiments/capture_queue.h"

static backend *be;

typedef struct sink {
    int n, fail_at, slow_us;
    int32_t rows[4096];
    double sums[4096];
} sink;

static int take_in(void *user, const capture_record *r, const float *values, err *e)
{
    sink *s = user;
    if (s->slow_us)
        usleep((unsigned)s->slow_us);
    if (r->row == s->fail_at)
        return ERR(e, ERR_IO, "disk full at %d", (int)r->row);
    s->rows[s->n] = r->row;
    s->sums[s->n] = 0;
    for (int64_t i = 0; i < r->n; i++)
        s->sums[s->n] += values[i];
    s->n++;
    return 0;
}

/* Item `row`: n times the number row. */
static int put(capture_queue *q, int row, int64_t n, err *e)
{
    capture_item *item;
    tensor t;
    int rc = capture_queue_take(q, be, n, &item, e);
    if (rc)
        return rc;
    item->is.row = row;
    float *v = malloc((size_t)(n + 1) * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)row;
    if (n && row % 2) {      /* through staging memory, in two pieces */
        tensor staged;
        assert_int_equal(capture_queue_staging(q, be, n, &staged, e), 0);
        assert_int_equal(op_upload(&staged, v, e), 0);
        assert_int_equal(capture_queue_download(q, item, 0, &staged, 0, n / 2, e), 0);
        assert_int_equal(capture_queue_download(q, item, n / 2, &staged, n / 2, n - n / 2, e), 0);
    } else if (n) {          /* a tensor that is overwritten at once, of another type now and then */
        assert_int_equal(tensor_new(&t, be, row % 4 ? DT_F32 : DT_BF16, 1, &n, e), 0);
        assert_int_equal(op_upload_f32(&t, v, e), 0);
        assert_int_equal(capture_queue_copy(q, item, &t, e), 0);
        assert_int_equal(op_zero(&t, e), 0);
        tensor_free(&t);
    }
    free(v);
    return capture_queue_send(q, item, e);
}

static void test_order(void **unused)
{
    (void)unused;
    for (int slow = 0; slow < 2; slow++) {
        sink *s = calloc(1, sizeof *s);
        capture_queue *q;
        err e = { 0 };
        s->fail_at = -1;
        s->slow_us = slow * 200;
        assert_int_equal(capture_queue_new(&q, take_in, s, &e), 0);
        for (int i = 0; i < 200; i++) {
            assert_int_equal(put(q, i, i % 7 * 100, &e), 0);
            if (i == 100) {
                assert_int_equal(capture_queue_drain(q, &e), 0);
                assert_int_equal(s->n, 101);
            }
        }
        assert_int_equal(capture_queue_drain(q, &e), 0);
        assert_int_equal(s->n, 200);
        for (int i = 0; i < 200; i++) {
            assert_int_equal(s->rows[i], i);
            assert_true(s->sums[i] == (double)(i % 7 * 100) * i);
        }
        capture_queue_free(q);
        free(s);
    }
}

/* 40 x 32 MiB through 256 MiB of host memory, with a reader slower than the writer. */
static void test_bound(void **unused)
{
    (void)unused;
    sink *s = calloc(1, sizeof *s);
    capture_queue *q;
    err e = { 0 };
    const int64_t n = 8 << 20;
    s->fail_at = -1;
    s->slow_us = 2000;
    assert_int_equal(capture_queue_new(&q, take_in, s, &e), 0);
    for (int i = 0; i < 40; i++) {
        capture_item *item;
        assert_int_equal(capture_queue_take(q, be, n, &item, &e), 0);
        memset(item->values, 0, (size_t)n * sizeof *item->values);
        item->is.row = i;
        assert_int_equal(capture_queue_send(q, item, &e), 0);
        if (i % 10 == 9)
            assert_int_equal(put(q, i, 5, &e), 0);      /* another size in between */
    }
    assert_int_equal(capture_queue_drain(q, &e), 0);
    assert_int_equal(s->n, 44);
    capture_queue_free(q);
    free(s);
}

static void test_failure(void **unused)
{
    (void)unused;
    sink *s = calloc(1, sizeof *s);
    capture_queue *q;
    err e = { 0 };
    int rc = 0;
    s->fail_at = 5;
    assert_int_equal(capture_queue_new(&q, take_in, s, &e), 0);
    for (int i = 0; i < 1000 && !rc; i++)
        rc = put(q, i, 10, &e);
    if (!rc)
        rc = capture_queue_drain(q, &e);
    assert_int_equal(rc, ERR_IO);
    assert_string_equal(e.text, "disk full at 5");
    err again = { 0 };
    capture_item *item;
    assert_int_equal(capture_queue_drain(q, &again), ERR_IO);
    assert_int_equal(capture_queue_take(q, be, 10, &item, &again), ERR_IO);
    assert_string_equal(again.text, "disk full at 5");
    assert_int_equal(s->n, 5);      /* nothing after the failure */
    capture_queue_free(q);
    free(s);
}

static void test_misuse(void **unused)
{
    (void)unused;
    sink *s = calloc(1, sizeof *s);
    capture_queue *q;
    capture_item *item;
    tensor staged, other;
    err e = { 0 };
    int64_t four = 4;
    s->fail_at = -1;
    assert_int_equal(capture_queue_new(&q, take_in, s, &e), 0);
    assert_int_equal(capture_queue_take(q, be, -1, &item, &e), ERR_INTERNAL);
    assert_int_equal(capture_queue_take(q, be, 3, &item, &e), 0);
    assert_int_equal(capture_queue_staging(q, be, 4, &staged, &e), 0);
    assert_int_equal(capture_queue_download(q, item, 0, &staged, 0, 4, &e), ERR_INTERNAL);      /* more than the item holds */
    assert_int_equal(capture_queue_download(q, item, 0, &staged, 2, 3, &e), ERR_INTERNAL);      /* beyond the staging memory */
    assert_int_equal(tensor_new(&other, be, DT_F32, 1, &four, &e), 0);
    assert_int_equal(capture_queue_copy(q, item, &other, &e), ERR_INTERNAL);
    assert_int_equal(capture_queue_download(q, item, 0, &other, 0, 3, &e), ERR_INTERNAL);
    tensor_free(&other);
    capture_queue_drop(q, item);
    capture_queue_drop(q, NULL);
    assert_int_equal(capture_queue_drain(q, &e), 0);      /* nothing was sent, no thread was started */
    assert_int_equal(s->n, 0);
    capture_queue_free(q);
    capture_queue_free(NULL);
    free(s);
}

/* Dropped while items wait: the one in work ends, the others are gone, nothing leaks (make asan). */
static void test_abort(void **unused)
{
    (void)unused;
    sink *s = calloc(1, sizeof *s);
    capture_queue *q;
    err e = { 0 };
    s->fail_at = -1;
    s->slow_us = 20000;
    assert_int_equal(capture_queue_new(&q, take_in, s, &e), 0);
    for (int i = 0; i < 100; i++)
        assert_int_equal(put(q, i, 1000, &e), 0);
    capture_queue_free(q);
    assert_true(s->n < 100);
    free(s);
}

static void test_most(void **state)
{
    (void)state;
    const int64_t mib = 1 << 20;
    assert_int_equal(capture_queue_most(100, 1000), 1000);
    assert_int_equal(capture_queue_most(mib, 5000 * mib), 256 * mib);
    assert_int_equal(capture_queue_most(200 * mib, 5000 * mib), 400 * mib);      /* two are allowed whatever their size */
    assert_int_equal(capture_queue_most(200 * mib, 300 * mib), 300 * mib);
    assert_int_equal(capture_queue_most(0, 0), 0);
}

int main(void)
{
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (backend_open(&be, device ? device : "cpu", &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_bound),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_misuse),
        cmocka_unit_test(test_abort),
        cmocka_unit_test(test_most),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    return failed;
}
