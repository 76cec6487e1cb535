#include <errno.h>
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

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/media.h"
#include "core/base/media_internal.h"
#include "core/base/sha256.h"
#include "core/base/str.h"

static char folder[1024];

static const char *in_folder(const char *name)
{
    static char paths[4][1200];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static int setup(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMP");
    snprintf(folder, sizeof folder, "%s/media-%d", base ? base : "/tmp", (int)getpid());
    return fs_mkdirs(folder, NULL);
}

static int teardown(void **state)
{
    (void)state;
    umount2(in_folder("disk"), MNT_DETACH);      /* still there when an assertion failed */
    return fs_remove_tree(folder, NULL);
}

#define assert_says(e, part)                                                                                           \
    do {                                                                                                               \
        if (!strstr((e).text, (part)))                                                                                 \
            fail_msg("'%s' does not say '%s'", (e).text, (part));                                                      \
    } while (0)

/* A smooth moving picture; a lossy codec must stay near it. */
static void paint(uint8_t *rgb, int w, int h, int frame)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            uint8_t *p = rgb + 3 * (y * w + x);
            p[0] = (uint8_t)(128 + 100 * sin((x + 3 * frame) * 0.08));
            p[1] = (uint8_t)(128 + 100 * sin(y * 0.06));
            p[2] = (uint8_t)(128 + 100 * cos((x + y) * 0.04));
        }
}

static int write_video(const char *path, const video_spec *s, int frames, err *e)
{
    video_writer *w;
    uint8_t *rgb = malloc((size_t)(3 * s->width * s->height));
    int rc = video_writer_open(&w, path, s, e);
    for (int i = 0; i < frames && !rc; i++) {
        paint(rgb, s->width, s->height, i);
        rc = video_writer_frame(w, rgb, e);
        if (rc) {
            assert_int_equal(video_writer_frame(w, rgb, NULL), rc);
            assert_int_equal(video_writer_close(w, NULL), rc);
            free(rgb);
            return rc;
        }
    }
    free(rgb);
    return rc ? rc : video_writer_close(w, e);
}

static double mean_error(const uint8_t *a, const uint8_t *b, size_t n)
{
    double s = 0;
    for (size_t i = 0; i < n; i++)
        s += abs(a[i] - b[i]);
    return s / (double)n;
}

static void test_fps(void **state)
{
    (void)state;
    static const struct { double fps; int num, den; } cases[] = {
        { 16, 16, 1 }, { 24, 24, 1 }, { 1, 1, 1 }, { 1000, 1000, 1 }, { 23.976, 24000, 1001 }, { 29.97, 30000, 1001 },
        { 59.94, 60000, 1001 }, { 30000.0 / 1001, 30000, 1001 }, { 12.5, 25, 2 }, { 0.5, 1, 2 }, { 0.01, 1, 100 },
        { 7.25, 29, 4 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int num, den;
        assert_int_equal(video_fps(&num, &den, cases[i].fps, NULL), 0);
        assert_int_equal(num, cases[i].num);
        assert_int_equal(den, cases[i].den);
    }
    static const double bad[] = { 0, -1, 1001, NAN, INFINITY };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err e = { 0 };
        int num, den;
        assert_int_equal(video_fps(&num, &den, bad[i], &e), ERR_ARG);
        assert_says(e, "from 0.01 to 1000");
    }
    assert_int_equal(video_crf_from_quality(8), 10);
    assert_int_equal(video_crf_from_quality(5), 25);
    assert_int_equal(video_crf_from_quality(10), 0);
    assert_int_equal(video_crf_from_quality(0), 51);
    assert_int_equal(video_crf_from_quality(-3), 51);
    assert_int_equal(video_crf_from_quality(NAN), 51);
}

static void test_colours(void **state)
{
    (void)state;
    static const uint8_t rgb[8][3] = { { 0, 0, 0 }, { 255, 255, 255 }, { 255, 0, 0 }, { 0, 255, 0 }, { 0, 0, 255 },
                                       { 128, 128, 128 }, { 255, 255, 0 }, { 0, 255, 255 } };
    static const uint8_t want[8][3] = { { 16, 128, 128 }, { 235, 128, 128 }, { 81, 90, 240 }, { 145, 54, 34 },
                                        { 41, 240, 110 }, { 126, 128, 128 }, { 210, 16, 146 }, { 170, 166, 16 } };
    for (int i = 0; i < 8; i++) {
        uint8_t y, u, v;
        media_rgb_to_yuv(&y, 1, &u, 1, &v, 1, rgb[i], 1, 1, VIDEO_444);
        assert_int_equal(y, want[i][0]);
        assert_int_equal(u, want[i][1]);
        assert_int_equal(v, want[i][2]);
        uint8_t block[2 * 2 * 3], ys[4], us, vs;
        for (int k = 0; k < 4; k++)
            memcpy(block + 3 * k, rgb[i], 3);
        media_rgb_to_yuv(ys, 2, &us, 1, &vs, 1, block, 2, 2, VIDEO_420);
        assert_int_equal(ys[0], want[i][0]);
        assert_int_equal(ys[3], want[i][0]);
        assert_int_equal(us, want[i][1]);
        assert_int_equal(vs, want[i][2]);
    }
}

static void test_y4m(void **state)
{
    (void)state;
    for (int full = 0; full < 2; full++) {
        err e = { 0 };
        const char *path = in_folder(full ? "a444.y4m" : "a420.y4m");
        video_spec s = VIDEO_SPEC_INIT;
        s.width = full ? 5 : 6;
        s.height = full ? 3 : 4;
        s.fps_num = 24;
        s.chroma = full ? VIDEO_444 : VIDEO_420;
        assert_int_equal(write_video(path, &s, 2, &e), 0);
        char *text;
        size_t n;
        assert_int_equal(fs_read_text(&text, &n, path, NULL), 0);
        const char *head = full ? "YUV4MPEG2 W5 H3 F24:1 Ip A1:1 C444 XCOLORRANGE=LIMITED\n"
                                : "YUV4MPEG2 W6 H4 F24:1 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED\n";
        assert_memory_equal(text, head, strlen(head));
        assert_int_equal(n, strlen(head) + 2 * (6 + (size_t)(full ? 45 : 36)));
        assert_memory_equal(text + strlen(head), "FRAME\n", 6);
        free(text);
        assert_false(fs_exists(in_folder(full ? "a444.y4m.part" : "a420.y4m.part")));
    }
}

static void test_refused(void **state)
{
    (void)state;
    err e = { 0 };
    video_writer *w = (video_writer *)&e;
    video_spec s = VIDEO_SPEC_INIT;
    s.width = 17;
    s.height = 16;
    assert_int_equal(video_writer_open(&w, in_folder("odd.y4m"), &s, &e), ERR_ARG);
    assert_says(e, "17x16");
    assert_says(e, "even width and height");
    assert_null(w);
    s.width = 0;
    assert_int_equal(video_writer_open(&w, in_folder("zero.y4m"), &s, &e), ERR_ARG);
    assert_says(e, "0x16");
    s.width = 16;
    assert_int_equal(video_writer_open(&w, in_folder("clip.avi"), &s, &e), ERR_ARG);
    assert_says(e, "use .mp4 or .y4m");
    s.fps_den = 0;
    assert_int_equal(video_writer_open(&w, in_folder("rate.y4m"), &s, &e), ERR_ARG);
    assert_says(e, "16/0");
    s.fps_den = 1;
    s.crf = 52;
    assert_int_equal(video_writer_open(&w, in_folder("crf.y4m"), &s, &e), ERR_ARG);
    assert_says(e, "crf of 52");
    s.crf = 10;
    for (int mp4 = 0; mp4 < 1 + media_have_ffmpeg(); mp4++) {
        assert_int_equal(video_writer_open(&w, in_folder(mp4 ? "no/such/x.mp4" : "no/such/x.y4m"), &s, &e), ERR_IO);
        assert_says(e, "no/such/x");
        assert_says(e, "No such file or directory");
        assert_int_equal(video_writer_open(&w, in_folder(mp4 ? "none.mp4" : "none.y4m"), &s, &e), 0);
        assert_int_equal(video_writer_close(w, &e), ERR_ARG);
        assert_says(e, "without frames");
        assert_false(fs_exists(in_folder(mp4 ? "none.mp4" : "none.y4m")));
        assert_false(fs_exists(in_folder(mp4 ? "none.mp4.part" : "none.y4m.part")));
        assert_int_equal(video_writer_open(&w, in_folder(mp4 ? "stop.mp4" : "stop.y4m"), &s, &e), 0);
        assert_true(fs_exists(in_folder(mp4 ? "stop.mp4.part" : "stop.y4m.part")));
        video_writer_abort(w);
        assert_false(fs_exists(in_folder(mp4 ? "stop.mp4.part" : "stop.y4m.part")));
    }
    if (!media_have_ffmpeg()) {
        assert_int_equal(video_writer_open(&w, in_folder("a.mp4"), &s, &e), ERR_ARG);
        assert_says(e, "this build has no FFmpeg");
    }
    video_writer_abort(NULL);
    assert_int_equal(video_writer_close(NULL, NULL), 0);
    video_reader_close(NULL);
}

static void need_ffmpeg(void)
{
    if (!media_have_ffmpeg())
        skip();
}

static void test_mp4(void **state)
{
    (void)state;
    need_ffmpeg();
    static const media_tag tags[] = { { "comment", "{\"prompt\":\"zwei M\xc3\xa4nner = \\\"two\\\"; 100 "
                                                   "%\",\"seed\":44}" },
                                      { "title", "0003-s44" },
                                      { "wanscope.version", "1" } };
    for (int full = 0; full < 2; full++) {
        err e = { 0 };
        video_spec s = VIDEO_SPEC_INIT;
        s.width = 98;
        s.height = 64;
        s.chroma = full ? VIDEO_444 : VIDEO_420;
        s.tags = tags;
        s.n_tags = 3;
        const char *path = in_folder(full ? "a:b%d 444.mp4" : "a:b%d.mp4");
        if (write_video(path, &s, 17, &e))
            fail_msg("%s", e.text);
        video_reader *r;
        if (video_reader_open(&r, path, &e))
            fail_msg("%s", e.text);
        const video_info *info = video_reader_info(r);
        assert_int_equal(info->width, 98);
        assert_int_equal(info->height, 64);
        assert_int_equal(info->fps_num, 16 * info->fps_den);
        assert_int_equal(info->n_frames, 17);
        for (int i = 0; i < 3; i++)
            assert_string_equal(video_reader_tag(r, tags[i].key), tags[i].value);
        assert_null(video_reader_tag(r, "absent"));
        uint8_t want[98 * 64 * 3], got[98 * 64 * 3];
        for (int i = 0; i < 17; i++) {
            paint(want, 98, 64, i);
            if (video_reader_frame(r, got, &e) != 1)
                fail_msg("frame %d: %s", i, e.text);
            double miss = mean_error(want, got, sizeof got);
            if (miss > 2.5)
                fail_msg("frame %d is off by %g on average", i, miss);
        }
        assert_int_equal(video_reader_frame(r, got, &e), 0);
        assert_int_equal(video_reader_frame(r, got, &e), 0);
        video_reader_close(r);
    }
}

static void test_sizes_and_rates(void **state)
{
    (void)state;
    need_ffmpeg();
    static const struct { int w, h, num, den, frames, crf; const char *ending; } cases[] = {
        { 2, 2, 16, 1, 1, 10, "mp4" }, { 16, 720, 24000, 1001, 3, 0, "mp4" }, { 130, 2, 1, 2, 2, 51, "mp4" },
        { 6, 4, 30000, 1001, 3, 10, "y4m" }, { 832, 480, 25, 2, 2, 23, "mp4" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err e = { 0 };
        video_spec s = VIDEO_SPEC_INIT;
        char name[32];
        s.width = cases[i].w;
        s.height = cases[i].h;
        s.fps_num = cases[i].num;
        s.fps_den = cases[i].den;
        s.crf = cases[i].crf;
        snprintf(name, sizeof name, "size%zu.%s", i, cases[i].ending);
        if (write_video(in_folder(name), &s, cases[i].frames, &e))
            fail_msg("case %zu: %s", i, e.text);
        video_reader *r;
        assert_int_equal(video_reader_open(&r, in_folder(name), &e), 0);
        const video_info *info = video_reader_info(r);
        assert_int_equal(info->width, s.width);
        assert_int_equal(info->height, s.height);
        assert_int_equal(info->n_frames, cases[i].frames);
        assert_true((int64_t)info->fps_num * s.fps_den == (int64_t)s.fps_num * info->fps_den);
        uint8_t *rgb = malloc((size_t)(3 * s.width * s.height));
        int n = 0, more;
        while ((more = video_reader_frame(r, rgb, &e)) == 1)
            n++;
        assert_int_equal(more, 0);
        assert_int_equal(n, cases[i].frames);
        free(rgb);
        video_reader_close(r);
    }
}

static void test_same_bytes(void **state)
{
    (void)state;
    need_ffmpeg();
    err e = { 0 };
    char first[65] = "", digest[65];
    media_tag tag = { "comment", "{\"seed\":1}" };
    video_spec s = VIDEO_SPEC_INIT;
    s.width = 256;
    s.height = 192;
    s.tags = &tag;
    s.n_tags = 1;
    for (int i = 0; i < 6; i++) {
        assert_int_equal(write_video(in_folder("same.mp4"), &s, 33, &e), 0);
        assert_int_equal(sha256_file(in_folder("same.mp4"), digest, NULL), 0);
        if (i)
            assert_string_equal(digest, first);
        strcpy(first, digest);
        if (i == 3)
            usleep(1100000);     /* no date inside */
    }
}

static void test_fallback_codec(void **state)
{
    (void)state;
    need_ffmpeg();
#ifdef HAVE_FFMPEG
    err e = { 0 };
    mp4_encoder *m;
    video_spec s = VIDEO_SPEC_INIT;
    uint8_t rgb[32 * 32 * 3];
    s.width = s.height = 32;
    const char *path = in_folder("fallback.mp4");
    if (mp4_encoder_open(&m, path, path, &s, "mpeg4", &e))
        fail_msg("%s", e.text);
    for (int i = 0; i < 5; i++) {
        paint(rgb, 32, 32, i);
        assert_int_equal(mp4_encoder_frame(m, rgb, &e), 0);
    }
    assert_int_equal(mp4_encoder_finish(m, &e), 0);
    mp4_encoder_free(m);
    video_reader *r;
    assert_int_equal(video_reader_open(&r, path, &e), 0);
    assert_int_equal(video_reader_info(r)->n_frames, 5);
    assert_int_equal(video_reader_frame(r, rgb, &e), 1);
    video_reader_close(r);
    assert_int_equal(mp4_encoder_open(&m, path, path, &s, "no-such-codec", &e), ERR_ARG);
    assert_says(e, "no encoder 'no-such-codec'");
    s.chroma = VIDEO_444;
    assert_int_equal(mp4_encoder_open(&m, path, path, &s, "mpeg4", &e), ERR_ARG);
    assert_says(e, "4:4:4 MP4 needs");
#endif
}

static void test_bad_videos(void **state)
{
    (void)state;
    need_ffmpeg();
    err e = { 0 };
    video_reader *r;
    assert_int_equal(video_reader_open(&r, in_folder("absent.mp4"), &e), ERR_IO);
    assert_says(e, "absent.mp4");
    assert_says(e, "No such file");
    assert_int_equal(fs_write_atomic(in_folder("text.mp4"), "not a video at all\n", 19, NULL), 0);
    assert_true(video_reader_open(&r, in_folder("text.mp4"), &e) < 0);
    assert_says(e, "text.mp4");
    assert_null(r);

    video_spec s = VIDEO_SPEC_INIT;
    s.width = s.height = 64;
    assert_int_equal(write_video(in_folder("whole.mp4"), &s, 20, &e), 0);
    char *bytes;
    size_t n;
    assert_int_equal(fs_read_text(&bytes, &n, in_folder("whole.mp4"), NULL), 0);
    uint8_t rgb[64 * 64 * 3];
    int refused = 0;
    int64_t there = 0;
    assert_int_equal(video_reader_open(&r, in_folder("whole.mp4"), &e), 0);
    assert_int_equal(video_reader_look_through(r, &there, &e), 0);
    assert_int_equal(there, 20);
    assert_int_equal(video_reader_frame(r, rgb, &e), 1);      /* the reader's place is where it was */
    video_reader_close(r);
    for (size_t cut = n / 20; cut < n - 8; cut += n / 20) {     /* never fewer frames without a sentence */
        assert_int_equal(fs_write_atomic(in_folder("cut.mp4"), bytes, cut, NULL), 0);
        e.text[0] = 0;
        int rc = video_reader_open(&r, in_folder("cut.mp4"), &e);
        if (!rc && !video_reader_look_through(r, &there, &e) && there == 20)
            fail_msg("a file cut after %zu of %zu bytes looked whole", cut, n);
        while (!rc && (rc = video_reader_frame(r, rgb, &e)) == 1)
            rc = 0;
        if (rc < 0) {
            refused++;
            assert_says(e, "cut.mp4");
        } else
            fail_msg("a file cut after %zu of %zu bytes was read as if it were whole", cut, n);
        video_reader_close(r);
    }
    assert_true(refused > 10);
    free(bytes);
}

/* ---- PNG ---- */

static void test_png(void **state)
{
    (void)state;
    err e = { 0 };
    uint8_t rgb[33 * 21 * 3];
    static const media_tag tags[] = { { "prompt", "ein M\xc3\xa4nnchen" },
                                      { "comment", "{\"seed\":3}" },
                                      { "empty", "" } };
    paint(rgb, 33, 21, 0);
    if (media_png_write(in_folder("a.png"), 33, 21, rgb, tags, 3, &e))
        fail_msg("%s", e.text);
    for (int i = 0; i < 3; i++) {
        char *value;
        assert_int_equal(media_png_tag(in_folder("a.png"), tags[i].key, &value, &e), 0);
        assert_string_equal(value, tags[i].value);
        free(value);
    }
    char *value;
    assert_int_equal(media_png_tag(in_folder("a.png"), "absent", &value, &e), 0);
    assert_null(value);
    char a[65], b[65];
    assert_int_equal(media_png_write(in_folder("b.png"), 33, 21, rgb, tags, 3, &e), 0);
    assert_int_equal(sha256_file(in_folder("a.png"), a, NULL), 0);
    assert_int_equal(sha256_file(in_folder("b.png"), b, NULL), 0);
    assert_string_equal(a, b);
    int w, h;
    uint8_t *back;
    if (!media_have_ffmpeg()) {
        assert_int_equal(media_png_read(in_folder("a.png"), &w, &h, &back, &e), ERR_ARG);
        assert_says(e, "no FFmpeg");
        return;
    }
    if (media_png_read(in_folder("a.png"), &w, &h, &back, &e))
        fail_msg("%s", e.text);
    assert_int_equal(w, 33);
    assert_int_equal(h, 21);
    assert_memory_equal(back, rgb, sizeof rgb);
    free(back);
}

static void test_bad_png(void **state)
{
    (void)state;
    err e = { 0 };
    uint8_t rgb[16 * 16 * 3], *back;
    int w, h;
    char *bytes;
    size_t n;
    paint(rgb, 16, 16, 0);
    media_tag blank = { "two words", "x" };
    assert_int_equal(media_png_write(in_folder("bad.png"), 16, 16, rgb, &blank, 1, &e), ERR_ARG);
    assert_says(e, "'two words'");
    assert_int_equal(media_png_write(in_folder("bad.png"), 16, 0, rgb, NULL, 0, &e), ERR_ARG);
    assert_says(e, "16x0");
    assert_false(fs_exists(in_folder("bad.png")));
    assert_int_equal(media_png_write(in_folder("no/such/a.png"), 16, 16, rgb, NULL, 0, &e), ERR_IO);
    assert_says(e, "no/such/a.png");
    assert_int_equal(media_png_write(in_folder("ok.png"), 16, 16, rgb, NULL, 0, &e), 0);
    assert_int_equal(fs_read_text(&bytes, &n, in_folder("ok.png"), NULL), 0);
    for (size_t cut = 0; cut < n; cut++) {
        assert_int_equal(fs_write_atomic(in_folder("cut.png"), bytes, cut, NULL), 0);
        assert_int_equal(media_png_read(in_folder("cut.png"), &w, &h, &back, &e), ERR_FORMAT);
        assert_null(back);
        assert_says(e, cut < 8 ? "signature is missing" : "cut off");
    }
    for (size_t at = 0; at < n; at += 3) {
        bytes[at] ^= 0x40;
        assert_int_equal(fs_write_atomic(in_folder("flip.png"), bytes, n, NULL), 0);
        assert_int_equal(media_png_read(in_folder("flip.png"), &w, &h, &back, &e), ERR_FORMAT);
        bytes[at] ^= 0x40;
    }
    free(bytes);
    assert_int_equal(media_png_read(in_folder("absent.png"), &w, &h, &back, &e), ERR_IO);
    assert_says(e, "absent.png");
}

/* ---- no room ---- */

static void check_full(const char *where, int mp4)
{
    char path[1400], part[1420];
    err e = { 0 };
    video_spec s = VIDEO_SPEC_INIT;
    s.width = s.height = 256;
    s.crf = 0;
    snprintf(path, sizeof path, "%s/full.%s", where, mp4 ? "mp4" : "y4m");
    snprintf(part, sizeof part, "%s.part", path);
    assert_int_equal(write_video(path, &s, 40, &e), ERR_IO);
    assert_says(e, "full.");
    assert_says(e, "free some space");
    assert_false(fs_exists(path));
    assert_false(fs_exists(part));
}

static void test_size_limit(void **state)
{
    (void)state;
    struct rlimit old, low;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    for (rlim_t bytes = 1000; bytes < 60000; bytes = bytes * 3) {     /* fails in the first frames or only at the end */
        low = old;
        low.rlim_cur = bytes;
        setrlimit(RLIMIT_FSIZE, &low);
        for (int mp4 = 0; mp4 < 1 + media_have_ffmpeg(); mp4++)
            check_full(folder, mp4);
        setrlimit(RLIMIT_FSIZE, &old);
    }
    uint8_t *rgb = malloc(256 * 256 * 3);
    srand(1);
    for (int i = 0; i < 256 * 256 * 3; i++)
        rgb[i] = (uint8_t)rand();
    err e = { 0 };
    low.rlim_cur = 1000;
    setrlimit(RLIMIT_FSIZE, &low);
    int rc = media_png_write(in_folder("full.png"), 256, 256, rgb, NULL, 0, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    free(rgb);
    assert_int_equal(rc, ERR_IO);
    assert_says(e, "full.png");
    assert_false(fs_exists(in_folder("full.png")));
}

static void test_full_disk(void **state)
{
    (void)state;
    char where[1200];
    snprintf(where, sizeof where, "%s", in_folder("disk"));
    assert_int_equal(fs_mkdirs(where, NULL), 0);
    if (mount("tmpfs", where, "tmpfs", 0, "size=64k"))
        skip();      /* needs root */
    for (int mp4 = 0; mp4 < 1 + media_have_ffmpeg(); mp4++)
        check_full(where, mp4);
    umount(where);
}

static void test_unwritable(void **state)
{
    (void)state;
    if (!geteuid())
        skip();      /* root may write anywhere */
    err e = { 0 };
    video_writer *w;
    video_spec s = VIDEO_SPEC_INIT;
    s.width = s.height = 16;
    assert_int_equal(fs_mkdirs(in_folder("locked"), NULL), 0);
    chmod(in_folder("locked"), 0500);
    assert_int_equal(video_writer_open(&w, in_folder("locked/a.y4m"), &s, &e), ERR_IO);
    assert_says(e, "Permission denied");
    chmod(in_folder("locked"), 0700);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fps), cmocka_unit_test(test_colours), cmocka_unit_test(test_y4m),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_mp4), cmocka_unit_test(test_sizes_and_rates),
        cmocka_unit_test(test_same_bytes), cmocka_unit_test(test_fallback_codec), cmocka_unit_test(test_bad_videos),
        cmocka_unit_test(test_png), cmocka_unit_test(test_bad_png), cmocka_unit_test(test_size_limit),
        cmocka_unit_test(test_full_disk), cmocka_unit_test(test_unwritable),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
