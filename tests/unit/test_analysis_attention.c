/* attention-export: values, files and sentences. */
#include "tests/unit/test_analysis_fixture.h"

#include <math.h>

#include "analysis/lib/attention.h"
#include "core/base/media.h"

enum { S = 2, L = 3, N = 2, W = 2, F = 3, H = 4, X = 5, MAP = F * H * X, ALL = S * L * N * W * MAP };

static const int32_t STEPS[S] = { 0, 10 }, LAYERS[L] = { 4, 7, 9 }, HEADS[N] = { 0, 3 }, MEAN_HEAD[1] = { -1 };
static const char *const WORDS[W] = { "cat", "two men" };

/* A value that tells where it came from; exact in f32. */
static float value_at(int s, int l, int n, int w, int i)
{
    return (float)(s * 64 + l * 16 + n * 8 + w * 4) / 256 + (float)i / 65536;
}

static void fill_maps(float *m)
{
    for (int s = 0; s < S; s++)
        for (int l = 0; l < L; l++)
            for (int n = 0; n < N; n++)
                for (int w = 0; w < W; w++)
                    for (int i = 0; i < MAP; i++)
                        *m++ = value_at(s, l, n, w, i);
}

static void add_attention_run(const fixture *f, int variation, int seed, const char *const *words, const int32_t *heads)
{
    float maps[ALL];
    fill_maps(maps);
    fake_trace t = { .T = 3,
                     .C = 1,
                     .F = F,
                     .H = 1,
                     .W = 1,
                     .latents = NULL,
                     .maps = maps,
                     .steps = S,
                     .layers = L,
                     .heads = heads == MEAN_HEAD ? 1 : N,
                     .words = W,
                     .h = H,
                     .w = X,
                     .step_numbers = STEPS,
                     .layer_numbers = LAYERS,
                     .head_numbers = heads,
                     .word_texts = words };
    add_run(f, variation, variation ? "dog" : "cat", seed, &t, false);
}

static void write_video(const fixture *f, int variation, int seed, int frames)
{
    char folder[600], path[700];
    video_writer *w = NULL;
    video_spec spec = VIDEO_SPEC_INIT;
    err e = { 0 };
    run_folder(folder, sizeof folder, f, variation, seed);
    snprintf(path, sizeof path, "%s/video.mp4", folder);
    spec.width = 64;
    spec.height = 48;
    uint8_t *rgb = malloc(64 * 48 * 3);
    assert_int_equal(video_writer_open(&w, path, &spec, &e), 0);
    for (int i = 0; i < frames; i++) {
        memset(rgb, 20 * i, 64 * 48 * 3);
        assert_int_equal(video_writer_frame(w, rgb, &e), 0);
    }
    assert_int_equal(video_writer_close(w, &e), 0);
    free(rgb);
}

static char *read_out(const fixture *f, const char *name, size_t *n)
{
    char path[800], *text = NULL;
    err e = { 0 };
    snprintf(path, sizeof path, "%s/analysis/attention/%s", f->dir, name);
    if (fs_read_text(&text, n, path, &e))
        fail_msg("%s", e.text);
    return text;
}

static void arrays(void **state)
{
    (void)state;
    fixture f;
    char *out;
    size_t n = 0;
    fixture_open(&f, "arrays");
    add_attention_run(&f, 0, 42, WORDS, HEADS);
    assert_int_equal(run_program(attention_program, &f, &out, NULL, "--batch-dir", f.dir, "--word", "two men", "--step",
                                 "10", "--layer", "7", "--head", "3", "--format", "npy", NULL),
                     0);
    assert_says(out, "0000-s42-two-men-t10-l7-h3.npy");
    free(out);
    char *npy = read_out(&f, "0000-s42-two-men-t10-l7-h3.npy", &n);
    assert_memory_equal(npy, "\x93NUMPY\x01\x00", 8);
    size_t header = 10 + (size_t)(uint8_t)npy[8] + 256 * (size_t)(uint8_t)npy[9];
    assert_int_equal(header % 64, 0);
    assert_int_equal(n, header + MAP * 4);
    assert_non_null(strstr(npy + 10, "'shape': (3, 4, 5)"));
    for (int i = 0; i < MAP; i++) {
        float v;
        memcpy(&v, npy + header + 4 * i, 4);
        assert_true(v == value_at(1, 1, 1, 1, i));
    }
    free(npy);
    assert_int_equal(
        run_program(attention_program, &f, NULL, NULL, "--batch-dir", f.dir, "--word", "cat", "--format=csv", NULL), 0);
    char *csv = read_out(&f, "0000-s42-cat-tmean-lmean-hmean.csv", NULL), line[80];
    snprintf(line, sizeof line, "\n1,2,3,%.9g\n",
             (double)(float)((32 + 16 + 4) / 256.0 + (H * X + 2 * X + 3) / 65536.0));
    assert_says(csv, "frame,row,column,value\n0,0,0,");
    assert_says(csv, line);
    free(csv);
    fixture_close(&f);
}

static void pictures(void **state)
{
    (void)state;
    fixture f;
    fixture_open(&f, "pictures");
    add_attention_run(&f, 0, 42, WORDS, MEAN_HEAD);
    assert_int_equal(run_program(attention_program, &f, NULL, NULL, "--batch-dir", f.dir, "--word", "cat", "--format",
                                 "png", NULL),
                     0);
    if (media_have_ffmpeg()) {
        char path[800], *tag = NULL;
        int width, height;
        uint8_t *rgb;
        err e = { 0 };
        snprintf(path, sizeof path, "%s/analysis/attention/0000-s42-cat-tmean-lmean-hmean.png", f.dir);
        assert_int_equal(media_png_read(path, &width, &height, &rgb, &e), 0);
        assert_true(width > 400 && height > 200);
        free(rgb);
        assert_int_equal(media_png_tag(path, "comment", &tag, &e), 0);
        assert_says(tag, "\"scale_max\"");
        free(tag);
        write_video(&f, 0, 42, 9);
        assert_int_equal(run_program(attention_program, &f, NULL, NULL, "--batch-dir", f.dir, "--word", "cat",
                                     "--format", "png", "--overlay", NULL),
                         0);
        assert_int_equal(run_program(attention_program, &f, NULL, NULL, "--batch-dir", f.dir, "--word", "cat",
                                     "--format", "mp4", "--overlay", NULL),
                         0);
        assert_int_equal(run_program(attention_program, &f, NULL, NULL, "--batch-dir", f.dir, "--word", "cat",
                                     "--format", "mp4", NULL),
                         0);
        video_reader *r = NULL;
        snprintf(path, sizeof path, "%s/analysis/attention/0000-s42-cat-tmean-lmean-hmean-overlay.mp4", f.dir);
        assert_int_equal(video_reader_open(&r, path, &e), 0);
        assert_int_equal(video_reader_info(r)->n_frames, 9);
        assert_int_equal(video_reader_info(r)->width, 64);
        assert_int_equal(video_reader_info(r)->height, 48);
        assert_says(video_reader_tag(r, "comment"), "\"word\":\"cat\"");
        video_reader_close(r);
        snprintf(path, sizeof path, "%s/analysis/attention/0000-s42-cat-tmean-lmean-hmean.mp4", f.dir);
        assert_int_equal(video_reader_open(&r, path, &e), 0);
        assert_int_equal(video_reader_info(r)->n_frames, 4 * (F - 1) + 1);
        assert_int_equal(video_reader_info(r)->width, 16 * X);
        video_reader_close(r);
    }
    fixture_close(&f);
}

static void stretching(void **state)
{
    (void)state;
    float v[4] = { 0, 1, 2, 3 }, out[16];
    attention_map m = { .F = 1, .h = 2, .w = 2, .value = v };
    attention_stretch(out, &m, 0, 2, 2, 1);
    for (int i = 0; i < 4; i++)
        assert_true(out[i] == v[i]);
    attention_stretch(out, &m, 0, 4, 4, 2); /* centres a quarter and three quarters between cells, edges held */
    assert_true(out[0] == 0 && out[3] == 0.5f && out[15] == 1.5f);
    assert_true(out[5] == (0.25f * 1 + 0.25f * 2) / 2);
    float u[2] = { 1, 3 };
    attention_map time = { .F = 2, .h = 1, .w = 1, .value = u };
    attention_stretch(out, &time, 0.25, 1, 1, 1);
    assert_true(out[0] == 1.5f);
    attention_stretch(out, &time, 9, 1, 1, 1);
    assert_true(out[0] == 3);
    assert_true(attention_latent_time(0, 4) == 0);
    assert_true(attention_latent_time(1, 4) == 0.625 && attention_latent_time(4, 4) == 1.375);
    uint8_t c[3], d[3];
    heat_colour(c, -1);
    heat_colour(d, 0);
    assert_memory_equal(c, d, 3);
    heat_colour(c, NAN);
    assert_memory_equal(c, d, 3);
    heat_colour(c, 2);
    assert_int_equal(c[0], 255);
}

static void words_of_a_sweep(void **state)
{
    (void)state;
    static const char *const dogs[W] = { "dog", "two men" };
    fixture f;
    char *out, *errors;
    fixture_open(&f, "words");
    add_attention_run(&f, 0, 42, WORDS, HEADS);
    add_attention_run(&f, 1, 42, dogs, HEADS);
    assert_int_equal(run_program(attention_program, &f, &out, &errors, "--batch-dir", f.dir, "--word", "dog",
                                 "--format", "npy", NULL),
                     0);
    assert_null(strstr(out, "0000-s42"));
    assert_says(out, "0001-s42");
    assert_says(errors, "1 runs have no map of 'dog'");
    free(out);
    free(errors);
    assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, "--word", "horse",
                                 "--format", "npy", NULL),
                     2);
    assert_says(errors, "no run has a map of the word 'horse'; the marked words are 'cat', 'two men', 'dog'.");
    free(errors);
    assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, "--word", "dog", "--run",
                                 "0000-s42", "--format", "npy", NULL),
                     2);
    assert_says(errors, "no map of the word 'dog'; the marked words are 'cat', 'two men'.");
    free(errors);
    fixture_close(&f);
}

static void complaints(void **state)
{
    (void)state;
    static const struct {
        const char *argv[10];
        int status;
        const char *says;
    } cases[] = {
        { { "--word", "cat", "--format", "npy", "--step", "3" }, 2, "--step 3 is not stored; stored: 0, 10" },
        { { "--word", "cat", "--format", "npy", "--layer", "5" }, 2, "--layer 5 is not stored; stored: 4, 7, 9" },
        { { "--word", "cat", "--format", "npy", "--head", "1" }, 2, "stores only the mean over heads" },
        { { "--word", "cat", "--format", "npy", "--step", "last" },
          2,
          "--step last: expected a whole number from 0, or mean" },
        { { "--word", "cat", "--format", "gif" }, 2, "--format gif: expected one of png, mp4, npy, csv" },
        { { "--word", "cat" }, 2, "--format is missing" },
        { { "--format", "npy" }, 2, "--word is missing" },
        { { "--word", "cat", "--format", "npy", "--overlay" }, 2, "--overlay makes a picture" },
        { { "--word", "cat", "--format", "npy", "--run", "0000-s43" },
          2,
          "no run '0000-s43'; did you mean '0000-s42'" },
        { { "--word", "cat", "--format", "npy", "--frame", "1" }, 2, "unknown option '--frame'" },
        { { "--word", "cat", "--format", "mp4", "--overlay" }, 2, "video.mp4" },
    };
    fixture f;
    char *errors;
    fixture_open(&f, "complaints");
    add_attention_run(&f, 0, 42, WORDS, MEAN_HEAD);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const *a = cases[i].argv;
        if (!media_have_ffmpeg() && !strcmp(cases[i].says, "video.mp4"))
            continue;
        assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, a[0], a[1], a[2], a[3],
                                     a[4], a[5], NULL),
                         cases[i].status);
        assert_says(errors, cases[i].says);
        free(errors);
    }
    assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--word", "cat", "--format", "npy", NULL), 2);
    assert_says(errors, "--batch-dir is missing");
    free(errors);
    if (!media_have_ffmpeg()) {
        assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, "--word", "cat",
                                     "--format", "mp4", NULL),
                         2);
        assert_says(errors, "this build has no FFmpeg");
        free(errors);
    }
    fixture_close(&f);
}

static void broken_runs(void **state)
{
    (void)state;
    fixture f;
    char *errors, folder[600], path[700];
    float x[2] = { 0, 1 };
    fake_trace plain = { .T = 2, .C = 1, .F = 1, .H = 1, .W = 1, .latents = x };
    fixture_open(&f, "broken");
    add_run(&f, 3, "plain", 42, &plain, false);
    assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, "--word", "cat",
                                 "--format", "npy", NULL),
                     2);
    assert_says(errors, "no run has attention maps");
    free(errors);
    add_attention_run(&f, 0, 42, WORDS, HEADS);
    add_run(&f, 0, "cat", 43, NULL, false);
    add_attention_run(&f, 0, 44, WORDS, HEADS);
    run_folder(folder, sizeof folder, &f, 0, 44);
    snprintf(path, sizeof path, "%s/trace.h5", folder);
    assert_int_equal(truncate(path, 3000), 0);
    assert_int_equal(run_program(attention_program, &f, NULL, &errors, "--batch-dir", f.dir, "--word", "cat",
                                 "--format", "npy", NULL),
                     1);
    assert_says(errors, "run 0000-s43 is left out");
    assert_says(errors, "run 0000-s44 is left out");
    free(errors);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays),           cmocka_unit_test(pictures),   cmocka_unit_test(stretching),
        cmocka_unit_test(words_of_a_sweep), cmocka_unit_test(complaints), cmocka_unit_test(broken_runs),
    };
    return cmocka_run_group_tests_name("analysis attention", tests, NULL, NULL);
}
