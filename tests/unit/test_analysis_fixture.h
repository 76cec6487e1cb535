/* Small batches for the tests of analysis/: traces written with HDF5 itself, so that the reader is not tested against
 * our own writer alone. */
#ifndef WANSCOPE_TEST_ANALYSIS_FIXTURE_H
#define WANSCOPE_TEST_ANALYSIS_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/dtype.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/str.h"

#define FIXTURE static inline __attribute__((unused))

typedef struct fixture {
    char dir[512];  /* of the batch */
    char base[400]; /* of everything */
    int variations;
} fixture;

typedef struct fake_trace {
    int64_t T, C, F, H, W; /* stored rows and their shape */
    const float *latents;  /* [T][C*F*H*W]; NULL writes none */
    const double *sigmas;  /* [n_sigmas]; NULL: T values from 1 to 0 */
    int64_t n_sigmas;
    const int32_t *rows; /* NULL writes no /latent_rows */
    int64_t seed;
    bool half, no_seed;
    const int32_t *shots; /* [F] writes /shots/latent_shot */
    /* attention: [steps][layers][heads][words][F][h][w] */
    const float *maps;
    int64_t steps, layers, heads, words, h, w;
    const int32_t *step_numbers, *layer_numbers, *head_numbers;
    const char *const *word_texts;
} fake_trace;

FIXTURE void fixture_open(fixture *f, const char *name)
{
    const char *tmp = getenv("TEST_TMP");
    snprintf(f->base, sizeof f->base, "%.250s/wanscope-analysis-%.60s-%d", tmp ? tmp : "/tmp", name, (int)getpid());
    snprintf(f->dir, sizeof f->dir, "%s/batch", f->base);
    f->variations = 0;
    err e = { 0 };
    assert_int_equal(fs_remove_tree(f->base, &e), 0);
    assert_int_equal(fs_mkdirs(f->dir, &e), 0);
}

FIXTURE void fixture_close(fixture *f)
{
    err e = { 0 };
    assert_int_equal(fs_remove_tree(f->base, &e), 0);
}

FIXTURE void put(hid_t file, const char *name, hid_t type, hid_t mem, int rank, const hsize_t *dims, const void *data,
                 bool chunk)
{
    hid_t space = H5Screate_simple(rank, dims, NULL), list = H5Pcreate(H5P_DATASET_CREATE);
    if (chunk) {
        hsize_t c[7];
        for (int i = 0; i < rank; i++)
            c[i] = i ? dims[i] : 1;
        H5Pset_chunk(list, rank, c);
        H5Pset_fletcher32(list);
    }
    hid_t id = H5Dcreate2(file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    assert_true(id >= 0);
    assert_true(H5Dwrite(id, mem, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
    H5Dclose(id);
    H5Pclose(list);
    H5Sclose(space);
}

FIXTURE void put_number(hid_t file, const char *name, hid_t type, hid_t mem, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), id = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(id >= 0 && H5Awrite(id, mem, value) >= 0);
    H5Aclose(id);
    H5Sclose(space);
}

FIXTURE hid_t half_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(t, 15, 10, 5, 0, 10);
    H5Tset_size(t, 2);
    H5Tset_ebias(t, 15);
    return t;
}

FIXTURE void write_trace(const char *path, const fake_trace *t)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(file >= 0);
    int64_t n = t->n_sigmas ? t->n_sigmas : t->T;
    double *sigmas = malloc((size_t)n * sizeof *sigmas);
    for (int64_t i = 0; i < n; i++)
        sigmas[i] = t->sigmas ? t->sigmas[i] : 1.0 - (double)i / (double)(n > 1 ? n - 1 : 1);
    put(file, "/sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 1, (hsize_t[]){ (hsize_t)n }, sigmas, false);
    free(sigmas);
    if (t->latents) {
        hsize_t dims[5] = { (hsize_t)t->T, (hsize_t)t->C, (hsize_t)t->F, (hsize_t)t->H, (hsize_t)t->W };
        if (t->half) {
            int64_t m = t->T * t->C * t->F * t->H * t->W;
            uint16_t *h = malloc((size_t)m * sizeof *h);
            for (int64_t i = 0; i < m; i++)
                h[i] = f32_to_f16(t->latents[i]);
            hid_t type = half_type();
            put(file, "/latents", type, type, 5, dims, h, true);
            H5Tclose(type);
            free(h);
        } else {
            put(file, "/latents", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 5, dims, t->latents, true);
        }
    }
    if (t->rows)
        put(file, "/latent_rows", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, (hsize_t[]){ (hsize_t)t->T }, t->rows, false);
    if (!t->no_seed)
        put_number(file, "seed", H5T_STD_I64LE, H5T_NATIVE_INT64, &t->seed);
    if (t->shots) {
        hid_t group = H5Gcreate2(file, "/shots", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        put(file, "/shots/latent_shot", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, (hsize_t[]){ (hsize_t)t->F }, t->shots, false);
        H5Gclose(group);
    }
    if (t->maps) {
        hid_t group = H5Gcreate2(file, "/attention", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
        hsize_t dims[7] = { (hsize_t)t->steps, (hsize_t)t->layers, (hsize_t)t->heads, (hsize_t)t->words,
                            (hsize_t)t->F,     (hsize_t)t->h,      (hsize_t)t->w };
        put(file, "/attention/maps", H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, 7, dims, t->maps, true);
        put(file, "/attention/steps", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, dims, t->step_numbers, false);
        put(file, "/attention/layers", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, dims + 1, t->layer_numbers, false);
        put(file, "/attention/heads", H5T_STD_I32LE, H5T_NATIVE_INT32, 1, dims + 2, t->head_numbers, false);
        hid_t text = H5Tcopy(H5T_C_S1);
        H5Tset_size(text, H5T_VARIABLE);
        H5Tset_cset(text, H5T_CSET_UTF8);
        put(file, "/attention/words", text, text, 1, dims + 3, t->word_texts, false);
        H5Tclose(text);
        H5Gclose(group);
    }
    assert_true(H5Fclose(file) >= 0);
}

FIXTURE void add_line(const fixture *f, const char *line)
{
    char path[700];
    snprintf(path, sizeof path, "%s/manifest.jsonl", f->dir);
    FILE *m = fopen(path, "a");
    assert_non_null(m);
    fprintf(m, "%s\n", line);
    fclose(m);
}

/* The path of a run's folder; makes it. */
FIXTURE void run_folder(char *out, size_t room, const fixture *f, int variation, int64_t seed)
{
    err e = { 0 };
    snprintf(out, room, "%s/runs/%04d/s%lld", f->dir, variation, (long long)seed);
    assert_int_equal(fs_mkdirs(out, &e), 0);
}

/* Writes a trace and its manifest line. t == NULL only writes the line. */
FIXTURE void add_run(const fixture *f, int variation, const char *slug, int64_t seed, const fake_trace *t,
                     bool with_bytes)
{
    char folder[600], path[700], line[1600];
    struct stat st = { 0 };
    run_folder(folder, sizeof folder, f, variation, seed);
    snprintf(path, sizeof path, "%s/trace.h5", folder);
    if (t) {
        fake_trace copy = *t;
        copy.seed = copy.seed ? copy.seed : seed;
        write_trace(path, &copy);
        assert_int_equal(stat(path, &st), 0);
    }
    snprintf(line, sizeof line,
             "{\"run\":\"%04d-s%lld\",\"variation\":{\"number\":%d,\"id\":\"id-%s\",\"slug\":\"%s\",\"choices\":[],"
             "\"marked_prompt\":\"\",\"clean_prompt\":\"a "
             "%s\"},\"seed\":%lld,\"state\":\"done\",\"files\":{\"trace.h5\":{\"path\":"
             "\"runs/%04d/s%lld/trace.h5\",\"sha256\":\"\"%s%lld},\"video.mp4\":{\"path\":\"runs/%04d/s%lld/"
             "video.mp4\"}},\"seconds\":1.5,"
             "\"error\":null}",
             variation, (long long)seed, variation, slug, slug, slug, (long long)seed, variation, (long long)seed,
             with_bytes ? ",\"bytes\":" : ",\"other\":", (long long)st.st_size, variation, (long long)seed);
    add_line(f, line);
}

/* Runs fn(argc, argv) with stdout and stderr in files; returns its status. free() both texts. */
FIXTURE int run_program(int (*fn)(int, char **), const fixture *f, char **out, char **errors, ...)
{
    char *argv[32] = { "program" }, path[2][600];
    int argc = 1, saved[2];
    va_list args;
    va_start(args, errors);
    for (char *a; argc < 31 && (a = va_arg(args, char *)); argc++)
        argv[argc] = a;
    va_end(args);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/std%d", f->base, i + 1);
        fflush(i ? stderr : stdout);
        saved[i] = dup(i + 1);
        int fd = open(path[i], O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_true(fd >= 0 && dup2(fd, i + 1) >= 0);
        close(fd);
    }
    int status = fn(argc, argv);
    err e = { 0 };
    for (int i = 0; i < 2; i++) {
        fflush(i ? stderr : stdout);
        dup2(saved[i], i + 1);
        close(saved[i]);
        char *text = NULL;
        assert_int_equal(fs_read_text(&text, NULL, path[i], &e), 0);
        if (i ? errors != NULL : out != NULL)
            *(i ? errors : out) = text;
        else
            free(text);
    }
    return status;
}

FIXTURE void assert_says(const char *text, const char *expected)
{
    if (!strstr(text, expected))
        fail_msg("expected '%s' in: %s", expected, text);
}

/* Reproducible numbers of about unit variance, not normal: enough for geometry. */
FIXTURE double noise(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 3; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 11) / 9007199254740992.0 - 0.5;
    }
    return 2 * sum;
}

#endif
