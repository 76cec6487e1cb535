/* Pictures and depth on their way into VACE: values of torch's own resizing, ranges, smoothing, the stand-in, files of numbers. */
#include <math.h>

#include "tests/unit/weights_fixture.h"

#include "core/base/media.h"
#include "experiments/depth.h"
#include "experiments/pixels.h"
#include "experiments/vace_inputs.h"

static void picture(uint8_t *rgb, int n)
{
    for (int i = 0; i < n; i++)
        rgb[i] = (uint8_t)((i * 37 + 11 * (i / 7)) % 256);
}

/* values: (x / 255 - 0.5) / 0.5, torch.nn.functional.interpolate, pasted on ones, as wan_vace.py:229-242 */
static void test_letterbox(void **state)
{
    (void)state;
    enum { W = 48, H = 32 };
    static const struct { int c, y, x; float v; } WANT[] = {
        { 0, 0, 0, 1 }, { 0, 5, 10, -0.13963906466960907f }, { 1, 16, 24, 0.5744875073432922f }, { 2, 31, 46, 1 },
        { 2, 20, 3, 0.47083336114883423f }, { 0, 15, 47, 1 }, { 1, 1, 1, 1 },
    };
    uint8_t rgb[5 * 7 * 3];
    float *out = malloc(3 * W * H * sizeof *out);
    picture(rgb, sizeof rgb);
    DO(pixels_letterbox(out, W, H, rgb, 7, 5, "p", e));
    for (size_t i = 0; i < sizeof WANT / sizeof *WANT; i++)
        assert_true(fabsf(out[(WANT[i].c * H + WANT[i].y) * W + WANT[i].x] - WANT[i].v) < 2e-6f);
    DO(pixels_letterbox(out, 7, 5, rgb, 7, 5, "p", e));      /* the size it has: no resizing */
    assert_true(out[0] == ((float)rgb[0] / 255 - 0.5f) / 0.5f && out[5 * 7] == ((float)rgb[1] / 255 - 0.5f) / 0.5f);
    err e = { 0 };
    uint8_t *strip = calloc(3, 4000);
    assert_int_equal(pixels_letterbox(out, W, H, strip, 4000, 1, "strip.png", &e), ERR_CONFIG);
    assert_text_has(e.text, "strip.png: an image of 4000 x 1 pixels is too long and narrow");
    free(strip);
    free(out);
}

static void test_resize(void **state)
{
    (void)state;
    static const float WANT[12] = { -0.27352941036224365f, -0.6715686917304993f, 0.26633989810943604f, 0.4539215862751007f,
                                    0.2754902243614197f,   -0.12254900485277176f, -0.35588231682777405f, -0.251960813999176f,
                                    0.0715685784816742f,   0.25915035605430603f, 0.025817012414336205f, -0.20490188896656036f };
    uint8_t rgb[5 * 7 * 3];
    float planes[3 * 35], out[12], wide[4] = { 1, 2, 3, 4 }, cut[4];
    picture(rgb, sizeof rgb);
    pixels_from_rgb(planes, rgb, 7, 5);
    pixels_resize(out, 4, 3, planes + 35, 7, 5);
    for (int i = 0; i < 12; i++)
        assert_true(fabsf(out[i] - WANT[i]) < 2e-6f);
    /* covered and cut out of the middle; the nearest value for masks */
    DO(pixels_cover(cut, 2, 1, wide, 4, 1, 0, e));
    assert_true(cut[0] == 2 && cut[1] == 3);
    DO(pixels_cover(cut, 4, 1, wide, 2, 2, 1, e));
    assert_true(cut[0] == cut[1] && cut[2] == cut[3] && cut[0] != cut[2]);
}

/* values: torch.nn.functional.interpolate(mode="bicubic", antialias=True) of the bytes as f32, clamped and rounded */
static void test_bicubic(void **state)
{
    (void)state;
    static const struct { int w, h; uint8_t v[3][12]; } WANT = { 4, 3, { { 129, 115, 118, 126, 125, 126, 133, 123, 132, 129, 127, 132 }, { 139, 128, 123, 133, 138, 131, 121, 125, 117, 135, 124, 116 }, { 117, 139, 139, 115, 119, 119, 129, 130, 115, 134, 119, 123 } } };
    uint8_t rgb[13 * 11 * 3];
    float a[3 * 12], big[3 * 26 * 22], *const small[3] = { a, a + 12, a + 24 }, *const same[3] = { big, big + 26 * 22, big + 2 * 26 * 22 };
    picture(rgb, sizeof rgb);
    DO(pixels_cover_rgb(small, WANT.w, WANT.h, rgb, 13, 11, e));
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < WANT.w * WANT.h; i++)
            assert_true(fabsf(small[c][i] - ((float)WANT.v[c][i] / 127.5f - 1)) < 1e-6f);
    DO(pixels_cover_rgb(same, 13, 11, rgb, 13, 11, e));      /* the size it has: nothing is lost */
    for (int i = 0; i < 13 * 11; i++)
        assert_true(same[1][i] == (float)rgb[3 * i + 1] / 127.5f - 1);
    DO(pixels_cover_rgb(same, 26, 22, rgb, 13, 11, e));
    assert_true(fabsf(same[2][26 * 11 + 13] - ((float)102 / 127.5f - 1)) < 1e-6f);
}

static void test_depth(void **state)
{
    (void)state;
    err e = { 0 };
    float v[6] = { 2, 4, 4, 8, 5, 5 };
    assert_int_equal(depth_prepare(v, 3, 2, DEPTH_AS_IS, false, 1, "d.npy", &e), ERR_CONFIG);
    assert_text_has(e.text, "d.npy: depth goes from 2 to 8, expected 0 to 1; set vace.depth_normalise to clip");
    DO(depth_prepare(v, 3, 2, DEPTH_CLIP, false, 1, "d", e));
    assert_true(v[0] == 0 && v[3] == 1 && v[4] == 0.5f);
    DO(depth_prepare(v, 3, 2, DEPTH_FRAME, true, 1, "d", e));
    assert_true(v[0] == 1 && v[1] == 0 && v[4] == 1);      /* a frame without range is 0, here inverted */
    float line[5] = { 0, 0, 1, 0, 1 };
    DO(depth_prepare(line, 5, 1, DEPTH_AS_IS, false, 3, "d", e));
    assert_true(fabsf(line[1] - 1 / 3.0f) < 1e-6f && fabsf(line[3] - 2 / 3.0f) < 1e-6f && fabsf(line[4] - 2 / 3.0f) < 1e-6f && line[0] == 0);
    line[3] = NAN;
    assert_int_equal(depth_prepare(line, 5, 1, DEPTH_CLIP, false, 1, "d", &e), ERR_FORMAT);
    assert_text_has(e.text, "NaN or infinity in frame 3");
}

static void test_edges(void **state)
{
    (void)state;
    enum { N = 32 };
    uint8_t rgb[N * N * 3];
    float out[N * N];
    for (int i = 0; i < N * N; i++)      /* a bright right half */
        memset(rgb + 3 * i, i % N < N / 2 ? 20 : 220, 3);
    DO(depth_from_edges(out, rgb, N, N, e));
    assert_true(out[10 * N] == 1 && out[10 * N + N - 1] == 1);
    assert_true(out[10 * N + N / 2] < 0.6f && out[10 * N + N / 2 - 1] < 0.6f);
    memset(rgb, 90, sizeof rgb);
    DO(depth_from_edges(out, rgb, N, N, e));
    for (int i = 0; i < N * N; i++)
        assert_true(out[i] == 1);
}

static void write_npy(const char *path, const char *header, const void *data, size_t bytes)
{
    str s = STR_INIT;
    str_addn(&s, "\x93NUMPY\x01\x00", 8);
    str_addc(&s, (char)(strlen(header) & 255));
    str_addc(&s, (char)(strlen(header) >> 8));
    str_add(&s, header);
    str_addn(&s, data, bytes);
    DO(fs_write_atomic(path, s.data, s.len, e));
    str_release(&s);
}

static void test_numbers(void **state)
{
    (void)state;
    const float v[12] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 };
    const uint8_t u[6] = { 0, 1, 2, 3, 4, 255 };
    float *out;
    int64_t n;
    int w, h;
    err e = { 0 };
    write_npy(tmp_path("a.npy"), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 3), }\n", v, sizeof v);
    DO(depth_read(&out, &n, &w, &h, tmp_path("a.npy"), e));
    assert_true(n == 2 && h == 2 && w == 3 && out[11] == 11);
    free(out);
    write_npy(tmp_path("b.npy"), "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 2, 3), }\n", u, sizeof u);
    DO(depth_read(&out, &n, &w, &h, tmp_path("b.npy"), e));
    assert_true(n == 1 && h == 2 && w == 3 && out[5] == 255);
    free(out);
    static const struct { const char *header; size_t bytes; const char *says; } BAD[] = {
        { "{'descr': '>f4', 'fortran_order': False, 'shape': (2, 2, 3), }", 48, "expected little-endian numbers" },
        { "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2, 3), }", 48, "C order" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 4), }", 48, "asks for 64 bytes, the file holds 48" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2, 3, 1, 1), }", 48, "up to four axes" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (12,), }", 48, "are [12], expected [frames, height, width]" },
        { "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -2, 3), }", 48, "up to four axes" },
        { "", 0, "" },
    };
    for (int i = 0; BAD[i].header[0]; i++) {
        write_npy(tmp_path("bad.npy"), BAD[i].header, v, BAD[i].bytes);
        assert_int_not_equal(depth_read(&out, &n, &w, &h, tmp_path("bad.npy"), &e), 0);
        assert_null(out);
        assert_text_has(e.text, BAD[i].says);
        assert_text_has(e.text, "bad.npy");
    }
    DO(fs_write_atomic(tmp_path("bad.npy"), "\x93NUMPY\x01\x00\xff\xff{", 11, e));
    assert_int_not_equal(depth_read(&out, &n, &w, &h, tmp_path("bad.npy"), &e), 0);
    assert_text_has(e.text, "cut off");
    fix f = { .n = 0 };
    FIX_PUT(&f, "a", DT_F32, v, 2, 2, 3, 1);
    fix_write(&f, tmp_path("one.safetensors"));
    DO(depth_read(&out, &n, &w, &h, tmp_path("one.safetensors"), e));
    assert_true(n == 2 && h == 2 && w == 3 && out[7] == 7);
    free(out);
    FIX_PUT(&f, "b", DT_F32, v, 2);
    fix_write(&f, tmp_path("two.safetensors"));
    assert_int_not_equal(depth_read(&out, &n, &w, &h, tmp_path("two.safetensors"), &e), 0);
    assert_text_has(e.text, "holds 2 tensors, expected one");
    fix_release(&f);
}

/* the section as a whole: sizes, order of planes, digests */
static void test_load(void **state)
{
    (void)state;
    config c;
    vace_buffers b;
    uint8_t rgb[16 * 16 * 3];
    float depth[5 * 16 * 16];
    fix f = { .n = 0 };
    char yaml[4000];
    str digests = STR_INIT;
    picture(rgb, sizeof rgb);
    for (int i = 0; i < 5 * 256; i++)
        depth[i] = (float)(i / 256) / 4;
    if (!media_have_ffmpeg())
        skip();      /* PNG files cannot be read */
    DO(media_png_write(tmp_path("ref.png"), 16, 16, rgb, NULL, 0, e));
    FIX_PUT(&f, "depth", DT_F32, depth, 5, 16, 16);
    fix_write(&f, tmp_path("depth.safetensors"));
    fix_release(&f);
    snprintf(yaml, sizeof yaml, "model: {path: x}\nvideo: {width: 16, height: 16, frames: 5}\nvace: {references: [\"%s\"], control: \"%s\", control_type: depth, "
             "mask: \"%s\"}\n", tmp_path("ref.png"), tmp_path("depth.safetensors"), tmp_path("ref.png"));
    DO(config_parse(&c, yaml, strlen(yaml), "test", NULL, 0, NULL, e));
    assert_true(vace_inputs_given(&c));
    DO(vace_inputs_check(&c, e));
    DO(vace_inputs_load(&b, &c, e));
    assert_int_equal(b.n_references, 1);
    assert_true(b.references[0][256] == ((float)rgb[1] / 255 - 0.5f) / 0.5f);
    for (int k = 0; k < 3; k++)      /* three equal planes in [-1, 1] */
        for (int t = 0; t < 5; t++)
            assert_true(b.control[(k * 5 + t) * 256 + 7] == (float)t / 4 * 2 - 1);
    assert_true(b.mask[4 * 256 + 3] == (float)rgb[9] / 255);
    vace_inputs_release(&b);
    DO(vace_inputs_digests(&c, &digests, e));
    assert_text_has(str_text(&digests), "{\"references\":[\"");
    assert_text_has(str_text(&digests), "\"control\":\"");
    str_release(&digests);
    config_release(&c);
}

/* A causal model asks for frames as it goes: the same values, in pieces of any size, from files that were looked through before. */
static void write_film(const char *path, int n)
{
    video_writer *w;
    video_spec spec = VIDEO_SPEC_INIT;
    uint8_t rgb[24 * 20 * 3];
    spec.width = 24;
    spec.height = 20;
    DO(video_writer_open(&w, path, &spec, e));
    for (int f = 0; f < n; f++) {
        picture(rgb, sizeof rgb);
        memset(rgb + 60 * f, 250 - 10 * f, 120);
        DO(video_writer_frame(w, rgb, e));
    }
    DO(video_writer_close(w, e));
}

static void film_config(config *c, const char *control, const char *mask, const char *more)
{
    char yaml[4000];
    snprintf(yaml, sizeof yaml, "model: {path: x}\nvideo: {width: 16, height: 16, frames: 9}\nvace: {control: \"%s\", mask: \"%s\"%s}\n", control, mask, more);
    DO(config_parse(c, yaml, strlen(yaml), "test", NULL, 0, NULL, e));
}

static void test_follow(void **state)
{
    (void)state;
    static const struct { const char *more; bool later; } CASES[] = {
        { "", true },
        { ", control_timing: whole", true },
        { ", control_type: depth, depth_invert: true", true },
        { ", control_type: depth, depth_normalise: frame", true },
        { ", control_type: edges, control_timing: whole", true },
        { ", control_type: depth, depth_normalise: clip", false },      /* needs the range of the whole clip */
        { ", control_type: depth, depth_smooth: 3", false },            /* needs frames before and after */
    };
    enum { F = 9, PLANE = 256 };
    if (!media_have_ffmpeg())
        skip();
    char film[600], mask[600];
    snprintf(film, sizeof film, "%s", tmp_path("film.y4m"));
    snprintf(mask, sizeof mask, "%s", tmp_path("mask.mp4"));
    write_film(film, 11);
    write_film(mask, 11);
    float *control = malloc(3 * F * PLANE * sizeof *control), *shown = malloc(F * PLANE * sizeof *shown);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        for (int64_t piece = 1; piece <= 5; piece += 2) {
            config c;
            vace_buffers all, b;
            film_config(&c, film, mask, CASES[i].more);
            DO(vace_inputs_load(&all, &c, e));
            DO(vace_inputs_follow(&b, &c, e));
            assert_true((b.control == NULL) == CASES[i].later && (b.later[0] != NULL) == CASES[i].later && !b.mask && b.later[1]);
            vace_source from = vace_inputs_source(&b);
            for (int64_t at = 0; at < F; at += piece) {
                int64_t n = at + piece < F ? piece : F - at;
                DO(from.control(at, n, control, from.user, e));
                DO(from.mask(at, n, shown, from.user, e));
                for (int k = 0; k < 3; k++)
                    assert_memory_equal(control + k * n * PLANE, all.control + (k * F + at) * PLANE, (size_t)(n * PLANE) * sizeof *control);
                assert_memory_equal(shown, all.mask + at * PLANE, (size_t)(n * PLANE) * sizeof *shown);
            }
            vace_inputs_release(&all);
            vace_inputs_release(&b);
            config_release(&c);
        }
    free(control);
    free(shown);
}

/* What a run would find in its middle is found before it begins. */
static void test_follow_faults(void **state)
{
    (void)state;
    config c;
    vace_buffers b;
    err e = { 0 };
    char *bytes;
    size_t n;
    if (!media_have_ffmpeg())
        skip();
    char film[600], cut[600], few[600], depth[600];
    snprintf(film, sizeof film, "%s", tmp_path("film.y4m"));
    snprintf(cut, sizeof cut, "%s", tmp_path("cut.y4m"));
    snprintf(few, sizeof few, "%s", tmp_path("few.mp4"));
    snprintf(depth, sizeof depth, "%s", tmp_path("depth.npy"));
    write_film(film, 11);
    write_film(few, 8);
    DO(fs_read_text(&bytes, &n, film, e));
    DO(fs_write_atomic(cut, bytes, n * 6 / 11, e));
    free(bytes);
    float v[9 * 4] = { 0 };
    v[30] = NAN;
    write_npy(depth, "{'descr': '<f4', 'fortran_order': False, 'shape': (9, 2, 2), }\n", v, sizeof v);
    static const char *const SAYS[] = { "cut.y4m", "has 8 frames, but video.frames is 9", "NaN or infinity in frame 7", "cut.y4m", "few.mp4: the mask has 8 frames" };
    for (int k = 0; k < 5; k++) {
        const char *control = k == 0 ? cut : k == 1 ? few : k == 2 ? depth : film, *mask = k == 3 ? cut : k == 4 ? few : film;
        film_config(&c, control, mask, k == 2 ? ", control_type: depth" : "");
        assert_int_not_equal(vace_inputs_follow(&b, &c, &e), 0);
        assert_text_has(e.text, SAYS[k]);
        assert_true(!b.control && !b.mask && !b.later[0] && !b.later[1]);
        config_release(&c);
    }
}

/* what came later is written only when it is not the default: identities of older batches stay */
static void test_quiet_defaults(void **state)
{
    (void)state;
    config c;
    str out = STR_INIT;
    const char plain[] = "model: {path: x}\n", full[] = "model: {path: x, lora: [a.safetensors:0.5@high], vace: v}\nvace: {scale: 0.5, scale_by_step: {0: 1}}\n";
    DO(config_parse(&c, plain, strlen(plain), "test", NULL, 0, NULL, e));
    DO(config_write(&c, &out, e));
    assert_null(strstr(str_text(&out), "vace"));
    assert_null(strstr(str_text(&out), "lora: ["));
    config_release(&c);
    str_clear(&out);
    DO(config_parse(&c, full, strlen(full), "test", NULL, 0, NULL, e));
    DO(config_write(&c, &out, e));
    assert_text_has(str_text(&out), "  lora: [{path: \"a.safetensors\", multiplier: 0.5, expert: high}]\n  vace: \"v\"\n");
    assert_text_has(str_text(&out), "\nvace:\n  scale: 0.5\n  scale_by_step: {0: 1}\n");
    config d;
    DO(config_parse(&d, str_text(&out), out.len, "again", NULL, 0, NULL, e));
    assert_true(config_equal(&c, &d));
    config_release(&c);
    config_release(&d);
    str_release(&out);
}

static int make(void **state)
{
    (void)state;
    tmp_make();
    return 0;
}

static int clean(void **state)
{
    (void)state;
    tmp_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_letterbox), cmocka_unit_test(test_resize), cmocka_unit_test(test_bicubic),  cmocka_unit_test(test_depth), cmocka_unit_test(test_edges),
        cmocka_unit_test(test_numbers),   cmocka_unit_test(test_load), cmocka_unit_test(test_follow),
        cmocka_unit_test(test_follow_faults), cmocka_unit_test(test_quiet_defaults),
    };
    return cmocka_run_group_tests(tests, make, clean);
}
