/* latent-analyze --by shot: shots whose paths and distances are known on paper, and what its user meets. */
#include "tests/unit/test_analysis_fixture.h"

#include <math.h>

#include "analysis/lib/analyze.h"
#include "analysis/lib/shots.h"
#include "analysis/lib/trajectory.h"
#include "core/base/json.h"

enum { T = 4, C = 2, F = 5, H = 2, W = 2, PLANE = H * W, ROW = C * F * PLANE };
static const int32_t SHOTS[F] = { 0, 0, 0, 1, 1 };

/* value of a number: its row, channel, frame within its shot, place */
typedef double (*rule)(int shot, int row, int channel, int frame, int place);

static double shifted(int shot, int row, int channel, int frame, int place)
{
    (void)channel, (void)frame, (void)place;
    return row + 2 * shot; /* both walk the same way, two apart */
}

static double opposite(int shot, int row, int channel, int frame, int place)
{
    (void)channel, (void)frame, (void)place;
    return shot ? -row : row;
}

static double mirrored(int shot, int row, int channel, int frame, int place)
{
    (void)row, (void)channel, (void)frame;
    return (place % 2 ? 1 : -1) * (shot ? -1 : 1); /* the same colours elsewhere; nothing moves */
}

static double framed(int shot, int row, int channel, int frame, int place)
{
    (void)row, (void)channel, (void)place;
    return shot ? 10 * frame : 10 * frame + 3; /* frame 2 of the first shot has no partner */
}

static void fill(float *x, rule r)
{
    for (int t = 0; t < T; t++)
        for (int c = 0; c < C; c++)
            for (int f = 0; f < F; f++)
                for (int p = 0; p < PLANE; p++)
                    x[t * ROW + (c * F + f) * PLANE + p] = (float)r(SHOTS[f], t, c, f < 3 ? f : f - 3, p);
}

static void near(double found, double want)
{
    if (!(fabs(found - want) <= 1e-12 * fmax(1, fabs(want))))
        fail_msg("found %.17g, expected %.17g", found, want);
}

static void read_paths(shot_paths *p, sweep *s, const fixture *f, rule r, int64_t memory)
{
    static int32_t rows[T] = { 0, 1, 2, 3 };
    static double sigma[T] = { 1, 2.0 / 3, 1.0 / 3, 0 };
    static float x[T * ROW];
    char path[700];
    err e = { 0 };
    fill(x, r);
    fake_trace t = { .T = T, .C = C, .F = F, .H = H, .W = W, .latents = x, .shots = SHOTS };
    snprintf(path, sizeof path, "%s/trace.h5", f->base);
    write_trace(path, &t);
    *s = (sweep){ .T = T, .rows = rows, .sigma = sigma };
    if (shot_paths_read(p, s, path, memory, &e))
        fail_msg("%s", e.text);
}

static void known_answers(void **state)
{
    (void)state;
    fixture f;
    sweep s;
    shot_paths p;
    double value[TM_COUNT], profile[T * PC_COUNT];
    err e = { 0 };
    fixture_open(&f, "shots");

    read_paths(&p, &s, &f, shifted, 1 << 20);
    assert_int_equal(p.n_shots, 2);
    assert_int_equal(p.n_pairs, 1);
    assert_true(p.frames[0] == 3 && p.frames[1] == 2 && p.pairs[0].matched == 2);
    near(p.pairs[0].value[SM_CENTROID_DISTANCE], 2);
    near(p.pairs[0].value[SM_CENTROID_COSINE], 1);
    near(p.pairs[0].value[SM_APPEARANCE_DISTANCE], 2);
    near(p.pairs[0].value[SM_PATH_DISTANCE], 2);
    near(p.pairs[0].value[SM_PATH_DISTANCE_END], 2);
    near(p.pairs[0].value[SM_PATH_ALIGNMENT], 1);
    for (int k = 0; k < 2; k++) { /* per number: a step of 1 whatever the length of the shot */
        assert_int_equal(trajectory_of_path(value, profile, &p.path[k], s.rows, s.sigma, T, &e), 0);
        near(value[TM_PATH_LENGTH], T - 1);
        near(value[TM_ENDPOINT_DISTANCE], T - 1);
        near(value[TM_TORTUOSITY], 1);
        near(value[TM_SPEED_MEAN], 1);
    }
    shot_paths_close(&p, T);

    read_paths(&p, &s, &f, opposite, 1 << 20);
    near(p.pairs[0].value[SM_CENTROID_DISTANCE], 2 * (T - 1));
    near(p.pairs[0].value[SM_CENTROID_COSINE], -1);
    near(p.pairs[0].value[SM_PATH_DISTANCE], 3); /* mean of 0, 2, 4, 6 */
    near(p.pairs[0].value[SM_PATH_DISTANCE_END], 6);
    near(p.pairs[0].value[SM_PATH_ALIGNMENT], -1);
    for (int t = 0; t < T; t++) {
        near(p.pairs[0].path[t], 2 * t);
        near(p.pairs[0].centroid[t], 2 * t);
    }
    shot_paths_close(&p, T);

    read_paths(&p, &s, &f, mirrored, 1 << 20);
    near(p.pairs[0].value[SM_CENTROID_DISTANCE], 2);
    near(p.pairs[0].value[SM_CENTROID_COSINE], -1);
    near(p.pairs[0].value[SM_APPEARANCE_DISTANCE], 0);
    assert_true(isnan(p.pairs[0].value[SM_PATH_ALIGNMENT])); /* nothing moved */
    shot_paths_close(&p, T);

    read_paths(&p, &s, &f, framed, 1 << 20);
    near(p.pairs[0].value[SM_PATH_DISTANCE_END], 3);
    near(p.pairs[0].value[SM_CENTROID_DISTANCE], 13 - 5); /* means of 3, 13, 23 and of 0, 10 */
    shot_paths_close(&p, T);
    fixture_close(&f);
}

/* one shot at a time gives the bytes of all at once */
static void little_memory(void **state)
{
    (void)state;
    fixture f;
    sweep s;
    shot_paths a, b;
    fixture_open(&f, "shots-memory");
    read_paths(&a, &s, &f, framed, 1 << 20);
    read_paths(&b, &s, &f, framed, 1);
    for (int k = 0; k < 2; k++) {
        assert_memory_equal(a.path[k].vv, b.path[k].vv, (T - 1) * (T - 1) * sizeof(double));
        assert_memory_equal(a.path[k].to_end, b.path[k].to_end, T * sizeof(double));
    }
    assert_memory_equal(a.pairs[0].value, b.pairs[0].value, sizeof a.pairs[0].value);
    shot_paths_close(&a, T);
    shot_paths_close(&b, T);
    fixture_close(&f);
}

static char *read_out(const fixture *f, const char *name)
{
    char path[700], *text = NULL;
    err e = { 0 };
    snprintf(path, sizeof path, "%s/analysis/%s", f->dir, name);
    if (fs_read_text(&text, NULL, path, &e))
        fail_msg("%s", e.text);
    return text;
}

static void batch_run_of(const fixture *f, int v, int seed, rule r, const int32_t *shots)
{
    static float x[T * ROW];
    char slug[16];
    fill(x, r);
    for (int i = 0; i < T * ROW; i++)
        x[i] += (float)(seed - 42) * 0.25f;
    snprintf(slug, sizeof slug, "v%d", v);
    fake_trace t = { .T = T, .C = C, .F = F, .H = H, .W = W, .latents = x, .shots = shots };
    add_run(f, v, slug, seed, &t, true);
}

static void program(void **state)
{
    (void)state;
    fixture f;
    char *out, *errors;
    fixture_open(&f, "shots-program");
    for (int seed = 42; seed < 44; seed++) {
        batch_run_of(&f, 0, seed, shifted, SHOTS);
        batch_run_of(&f, 1, seed, opposite, SHOTS);
    }
    assert_int_equal(run_program(analyze_program, &f, &out, &errors, "trajectory", "--batch-dir", f.dir, "--by", "shot", "--plots", "none", NULL), 0);
    assert_says(out, "v0              shot 1");
    assert_says(out, "between shots");
    free(out);
    free(errors);
    char *runs = read_out(&f, "shots_runs.csv"), *summary = read_out(&f, "shots_summary.csv"), *pairs = read_out(&f, "shots_pairs.csv");
    char *between = read_out(&f, "shots_between.csv"), *rows = read_out(&f, "shots_profiles.csv"), *text = read_out(&f, "shots.json");
    assert_says(runs, "run,variation,slug,seed,shot,path_length");
    assert_says(runs, "0000-s43,0,v0,43,1,3,");
    assert_says(summary, "0,v0,1,path_length,");
    assert_says(pairs, "variation_a,slug_a,shot_a,variation_b,slug_b,shot_b,metric");
    assert_says(pairs, "0,v0,1,0,v0,0,path_length,latent units,2,0,");
    assert_says(between, "0001-s42,1,v1,42,0,1,2,6,-1,6,3,6,-1");
    assert_says(rows, "0001-s42,1,42,0,1,3,0,6,6");
    json *doc = NULL;
    err e = { 0 };
    if (json_parse(&doc, text, strlen(text), "shots.json", &e))
        fail_msg("%s", e.text);
    assert_int_equal(json_count(json_get(doc, "latent_frames")), 2);
    assert_int_equal(json_count(json_get(json_get(doc, "shots"), "runs")), 8);
    assert_int_equal(json_count(json_get(json_get(doc, "consistency"), "runs")), 4);
    assert_int_equal(json_count(json_get(doc, "between_shots")), 4);
    json_free(doc);
    char *const texts[] = { runs, summary, pairs, between, rows, text };
    for (int i = 0; i < 6; i++)
        free(texts[i]);
    fixture_close(&f);
}

static void expect(const fixture *f, int status, const char *says, char *command, char *by)
{
    char *errors;
    assert_int_equal(run_program(analyze_program, f, NULL, &errors, command, "--batch-dir", f->dir, "--by", by, "--plots", "none", NULL), status);
    assert_says(errors, says);
    free(errors);
}

static void refusals(void **state)
{
    (void)state;
    static const int32_t other[F] = { 0, 0, 1, 1, 1 };
    fixture f;
    fixture_open(&f, "shots-refused");
    batch_run_of(&f, 0, 42, shifted, NULL);
    expect(&f, 2, "the video has no shots ('/shots' is missing)", "trajectory", "shot");
    expect(&f, 2, "--by shot is for trajectory and all", "pca", "shot");
    expect(&f, 2, "by", "trajectory", "frame");
    fixture_close(&f);
    fixture_open(&f, "shots-refused-2");
    batch_run_of(&f, 0, 42, shifted, SHOTS);
    batch_run_of(&f, 1, 42, shifted, other);
    expect(&f, 2, "its shots begin elsewhere than those of run 0000-s42", "trajectory", "shot");
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers), cmocka_unit_test(little_memory), cmocka_unit_test(program), cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
