/* Decoding in bands: the rows each layer needs, a clip in bands against the clip as a whole, and what that saves. On the CPU in f32; on a GPU
 * (TEST_DEVICE=cuda) in bf16, where the bytes must be equal. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/backend.h"
#include "core/vae/vae_bands.h"
#include "tests/unit/vae_fixture.h"

static backend *be;
static uint64_t rng = 88172645463325252ull;

#define DO(call) do { err e_ = { 0 }, *e = &e_; (void)e; if (call) fail_msg("%s", e_.text); } while (0)

static const vae_config WAN = { 96, 16, { 1, 2, 4, 4 }, 2, { false, true, true } };

/* ---- rows ---- */

static void test_layers(void **state)
{
    vae_shape list[VAE_MAX_LAYERS];
    vae_config c = WAN;
    (void)state;
    int n = vae_decoder_shapes(&c, list);
    assert_int_equal(n, 18);
    assert_int_equal(vae_bands_first(list, n), 11);      /* behind the second change of frame rate: three layers, an enlargement, three layers */
    assert_true(list[10].kind == VAE_UP && list[10].temporal && list[14].kind == VAE_UP && !list[14].temporal && list[17].cout == 96);
    c.temporal_down[0] = true;      /* the last enlargement has a change of frame rate of its own */
    n = vae_decoder_shapes(&c, list);
    assert_int_equal(vae_bands_first(list, n), 15);
    c = WAN;
    c.temporal_down[1] = c.temporal_down[2] = false;      /* then it is the shortcut of the second stage that stops them */
    n = vae_decoder_shapes(&c, list);
    assert_true(list[7].kind == VAE_RES && list[7].cin != list[7].cout);
    assert_int_equal(vae_bands_first(list, n), 8);
    c.num_res_blocks = 6;
    assert_int_equal(vae_decoder_shapes(&c, list), 0);
    assert_int_equal(vae_bands_first(list, 0), 0);
    assert_int_equal(vae_banded_values(&c, 832, 480, 2), 0);
}

/* Which rows are wrong behind the layers when their input has rows `in` only: a convolution at a cut edge spoils the row there, in each
 * layer one more. */
static void run_rows(const vae_shape *list, int first, int n, int64_t height, const vae_rows *need, bool *good)
{
    int64_t H = height;
    for (int i = first; i < n; i++)
        H /= list[i].kind == VAE_UP ? 2 : 1;
    bool *x = malloc((size_t)height), *y = malloc((size_t)height);
    for (int64_t r = 0; r < H; r++)
        x[r] = r >= need[first].begin && r < need[first].end;
    for (int i = first; i <= n; i++) {
        bool up = i < n && list[i].kind == VAE_UP;
        for (int64_t r = 0; r < H; r++)
            x[r] = x[r] && r >= need[i].begin && r < need[i].end;
        for (int c = 0; c < (i == n || up ? 1 : 2); c++) {
            H *= up ? 2 : 1;
            for (int64_t r = 0; r < H; r++) {
                y[r] = true;
                for (int64_t d = r - 1; d <= r + 1; d++)
                    y[r] &= d < 0 || d >= H || x[up ? d / 2 : d];
            }
            memcpy(x, y, (size_t)H);
        }
    }
    assert_int_equal(H, height);
    memcpy(good, x, (size_t)H);
    free(x);
    free(y);
}

static void test_needs(void **state)
{
    vae_shape list[VAE_MAX_LAYERS];
    vae_rows need[VAE_MAX_LAYERS + 1];
    int n = vae_decoder_shapes(&WAN, list), first = vae_bands_first(list, n);
    (void)state;
    /* 480 rows in three: the last convolution and six of full size see 7 rows more, the enlargement's one more, which are 4 of half
     * size, and there six more convolutions 6 */
    vae_band_needs(list, first, n, 480, vae_band(480, 3, 1), need);
    assert_int_equal(need[n].begin, 153);
    assert_int_equal(need[n].end, 327);
    assert_int_equal(need[first].begin, 70);
    assert_int_equal(need[first].end, 170);
    static const int64_t heights[] = { 8, 40, 56, 72, 480, 720 };
    for (size_t k = 0; k < sizeof heights / sizeof *heights; k++)
        for (int bands = 1; bands <= 8; bands++) {
            int64_t height = heights[k], at = 0;
            bool *good = malloc((size_t)height);
            for (int b = 0; b < bands; b++) {
                vae_rows keep = vae_band(height, bands, b);
                assert_int_equal(keep.begin, at);
                assert_true(keep.end > keep.begin);
                at = keep.end;
                vae_band_needs(list, first, n, height, keep, need);
                assert_true(bands > 1 || (need[first].begin == 0 && need[first].end == height / 2));
                run_rows(list, first, n, height, need, good);
                for (int64_t r = keep.begin; r < keep.end; r++)
                    assert_true(good[r]);
                for (int side = 0; side < 2; side++) {      /* no row too many: one less at either end, and a kept one is wrong */
                    vae_rows less[VAE_MAX_LAYERS + 1];
                    bool bad = false;
                    memcpy(less, need, sizeof less);
                    if (side ? need[first].end == height / 2 : need[first].begin == 0)
                        continue;
                    less[first].begin += !side;
                    less[first].end -= side;
                    run_rows(list, first, n, height, less, good);
                    for (int64_t r = keep.begin; r < keep.end; r++)
                        bad |= !good[r];
                    assert_true(bad);
                }
            }
            assert_int_equal(at, height);
            free(good);
        }
}

/* In frames of full size: 20 of history and 3 at work, in proportion to rows and halo. */
static void test_values(void **state)
{
    (void)state;
    int64_t row = 832 * 96;
    assert_int_equal(vae_banded_values(&WAN, 832, 480, 1), 23 * 480 * row);
    /* of two the upper: 247 rows of full size, 130 of half */
    assert_int_equal(vae_banded_values(&WAN, 832, 480, 2), (17 * 247 + 12 * 130) * row);
    assert_int_equal(vae_banded_values(&WAN, 832, 480, 3), (17 * 174 + 12 * 100) * row);
    for (int bands = 2; bands <= 8; bands++)
        assert_true(vae_banded_values(&WAN, 832, 480, bands) < vae_banded_values(&WAN, 832, 480, bands - 1));
}

/* ---- clips ---- */

typedef struct pictures {
    uint8_t *all;
    int64_t n, stop;      /* handed out; the one at which the callback fails, or -1 */
} pictures;

static int take(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    pictures *p = user;
    if (index == p->stop)
        return ERR(e, ERR_IO, "no room for frame %lld", (long long)index);
    assert_int_equal(index, p->n);
    memcpy(p->all + index * width * height * 3, rgb, (size_t)width * (size_t)height * 3);
    p->n++;
    return 0;
}

static vae *open_vae(int64_t dim, ckpt **c)
{
    const char *tmp = getenv("TEST_TMP");
    char path[512];
    const precision *prec;
    vae *v;
    snprintf(path, sizeof path, "%s/vae-bands-%lld.safetensors", tmp ? tmp : "/tmp", (long long)dim);
    DO(vae_fix_write(path, dim, DT_BF16, e));
    DO(ckpt_open(c, path, e));
    remove(path);
    DO(precision_find(&prec, be->ops->bf16 ? "bf16" : "exact", e));
    DO(vae_open(&v, be, *c, prec, e));
    return v;
}

static tensor noise(int64_t F, int64_t h, int64_t w, int64_t nan_at)
{
    int64_t n = 16 * F * h * w;
    float *z = malloc((size_t)n * sizeof *z);
    tensor t;
    for (int64_t i = 0; i < n; i++) {
        rng ^= rng << 13;
        rng ^= rng >> 7;
        rng ^= rng << 17;
        z[i] = (float)((double)(rng >> 11) / 9007199254740992.0 * 2 - 1);
    }
    if (nan_at >= 0)
        z[nan_at] = NAN;
    DO(TENSOR_NEW(&t, be, DT_F32, e, 16, F, h, w));
    DO(op_upload(&t, z, e));
    free(z);
    return t;
}

/* Frames in bands against those made whole, as numbers and as pictures. The bf16 convolutions have one order of summation whatever the tile:
 * nothing differs. The f32 ones on the CPU gather 128 pixels at a time for BLAS. Where a row of half size is made of such tiles, a
 * band has the same ones. Elsewhere they fall otherwise, and BLAS may add in another order for other pixels of a tile, or a shorter one. */
static void compare(int64_t dim, int64_t F, int64_t h, int64_t w, bool same)
{
    static const int counts[] = { 2, 3, 5, 8, 1000 };
    ckpt *c;
    vae *v = open_vae(dim, &c);
    int64_t frames = 4 * (F - 1) + 1, n = 3 * frames * 64 * h * w, index = 0;
    tensor z = noise(F, h, w, -1), video;
    float *whole = malloc((size_t)n * sizeof *whole), *banded = malloc((size_t)n * sizeof *banded);
    uint8_t *want = malloc((size_t)n);
    pictures p = { want, 0, -1 };
    vae_stream *s;
    DO(TENSOR_NEW(&video, be, DT_F32, e, 3, frames, 8 * h, 8 * w));
    DO(vae_decode(v, &z, 1, &video, e));
    DO(op_download(whole, &video, e));
    DO(vae_decoder_new(&s, v, e));
    DO(vae_decode_rgb(s, &z, &index, take, &p, e));
    vae_stream_free(s);
    p = (pictures){ malloc((size_t)n), 0, -1 };
    DO(vae_decode_clip(v, &z, 1, take, &p, e));
    assert_memory_equal(p.all, want, (size_t)n);
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        double worst = 0;
        int64_t other = 0;
        if (counts[k] > 8 && n > 100000)
            continue;      /* every row for itself takes long */
        DO(op_zero(&video, e));
        DO(vae_decode(v, &z, counts[k], &video, e));
        DO(op_download(banded, &video, e));
        for (int64_t i = 0; i < n; i++) {
            worst = fmax(worst, fabs((double)banded[i] - (double)whole[i]));
            other += memcmp(&banded[i], &whole[i], sizeof *whole) != 0;
        }
        int64_t before = be->bytes_now;
        memset(p.all, 0, (size_t)n);
        p.n = 0;
        DO(vae_decode_clip(v, &z, counts[k], take, &p, e));
        assert_int_equal(p.n, frames);
        assert_int_equal(be->bytes_now, before);
        if (other)
            print_message("%lld channels, %d bands on %s: %lld of %lld values differ, by %.1e at most\n", (long long)dim, counts[k], be->device, (long long)other,
                          (long long)n, worst);
        if (same || be->ops->bf16)
            assert_int_equal(other, 0);
        assert_true(worst <= 1e-5);
        for (int64_t i = 0; i < n; i++)      /* where values round otherwise, so may a byte */
            assert_true(p.all[i] == want[i] || (other && abs(p.all[i] - want[i]) == 1));
    }
    free(p.all);
    free(want);
    free(whole);
    free(banded);
    tensor_free(&z);
    tensor_free(&video);
    vae_close(v);
    ckpt_close(c);
}

static void test_same(void **state)
{
    (void)state;
    compare(6, 3, 5, 32, true);      /* 40 rows: bands of 13 and 14, and of one row */
    compare(6, 3, 5, 7, false);
    compare(6, 1, 9, 2, false);
}

static void test_same_wide(void **state)
{
    (void)state;
    if (be->ops->bf16)
        compare(96, 3, 27, 21, true);      /* the real width: the tiles of the tensor cores */
    else
        compare(16, 2, 3, 32, true);
}

/* The peak goes down by what is counted. In f32, where four frames go together, by more. */
static void test_memory(void **state)
{
    (void)state;
    int64_t dim = be->ops->bf16 ? 96 : 12, h = 40, w = be->ops->bf16 ? 30 : 2, peak[2];
    vae_config cfg = WAN;
    cfg.dim = (int)dim;
    ckpt *c;
    vae *v = open_vae(dim, &c);
    tensor z = noise(2, h, w, -1);
    uint8_t *all = malloc((size_t)(5 * 64 * h * w * 3));
    for (int k = 0; k < 2; k++) {
        pictures p = { all, 0, -1 };
        be->bytes_peak = be->bytes_now;
        DO(vae_decode_clip(v, &z, k ? 4 : 1, take, &p, e));
        peak[k] = be->bytes_peak;
    }
    int64_t counted = (vae_banded_values(&cfg, 8 * w, 8 * h, 1) - vae_banded_values(&cfg, 8 * w, 8 * h, 4)) * (int64_t)dtype_size(vae_frame_type(v));
    print_message("peak %lld in four bands, %lld whole: %.3f of what is counted is saved\n", (long long)peak[1], (long long)peak[0],
                  (double)(peak[0] - peak[1]) / (double)counted);
    assert_true(counted > 0 && peak[0] - peak[1] > 0.9 * (double)counted);
    free(all);
    tensor_free(&z);
    vae_close(v);
    ckpt_close(c);
}

/* What goes wrong in a band ends the decoding with the sentence it has without bands, and nothing is left behind. */
static void test_errors(void **state)
{
    (void)state;
    ckpt *c;
    vae *v = open_vae(6, &c);
    tensor bad = noise(3, 4, 4, 2 * 16 + 3), good = noise(3, 4, 4, -1);      /* NaN in the third latent frame: pictures 5 to 8 */
    uint8_t *all = malloc(9 * 32 * 32 * 3);
    pictures p = { all, 0, -1 };
    err e = { 0 };
    assert_int_equal(vae_decode_clip(v, &good, 2, take, &p, &e), 0);      /* a GPU keeps the plan of the attention from its first use on */
    int64_t before = be->bytes_now;
    p.n = 0;
    assert_int_equal(vae_decode_clip(v, &bad, 2, take, &p, &e), ERR_NAN);
    assert_non_null(strstr(e.text, "NaN in frame 5"));
    assert_int_equal(p.n, 0);
    p.stop = 2;
    assert_int_equal(vae_decode_clip(v, &good, 3, take, &p, &e), ERR_IO);
    assert_non_null(strstr(e.text, "no room for frame 2"));
    assert_int_equal(p.n, 2);
    assert_int_equal(be->bytes_now, before);
    free(all);
    tensor_free(&bad);
    tensor_free(&good);
    vae_close(v);
    ckpt_close(c);
}

int main(void)
{
    const char *device = getenv("TEST_DEVICE");
    err e = { 0 };
    if (backend_open(&be, device && *device ? device : "cpu", &e)) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers), cmocka_unit_test(test_needs), cmocka_unit_test(test_values), cmocka_unit_test(test_same), cmocka_unit_test(test_same_wide),
        cmocka_unit_test(test_memory), cmocka_unit_test(test_errors),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    backend_close(be);
    return rc;
}
