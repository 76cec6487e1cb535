/* bench: what the parts of `wanscope bench` share: the shapes, the clock, the rows that are printed.
 *
 * A measurement is a call repeated: two calls that do not count, then `repeat` samples of the wall clock around the call and the
 * device's end of it. Calls shorter than 5 ms are made several times a sample. Every row has two floors below which no
 * implementation can be: operations / BENCH_PEAK_OPS and bytes that must move / BENCH_PEAK_BYTES, and the median over the larger. */
#ifndef WANSCOPE_BENCH_H
#define WANSCOPE_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "core/backend.h"
#include "core/base/str.h"
#include "core/dit/dit_config.h"
#include "core/precision.h"

#define BENCH_PEAK_OPS 989e12        /* dense bf16 products a second of an H200 (NVIDIA's data sheet, without sparsity) */
#define BENCH_PEAK_BYTES 4.3e12      /* measured copy rate of an H200, bytes read and written (data sheet: 4.8e12) */

enum { BENCH_MAX_REPEAT = 10000 };

typedef enum { BENCH_TABLE, BENCH_CSV, BENCH_JSON } bench_format;

typedef struct bench_model {
    const char *name;                /* "1.3b" */
    dit_config dit;
    umt5_config t5;
    vae_config vae;
} bench_model;

typedef struct bench_machine {
    char device[128], driver[96], cuda[32], cpu[128];     /* "" where it cannot be told */
    void *nvml, *gpu;                /* clocks, where the driver's library is there */
} bench_machine;

typedef struct bench {
    backend *be;
    const precision *prec;
    bench_model model;
    int width, height, frames;
    int64_t F, H, W;                 /* latents */
    int64_t per_frame, tokens;       /* tokens a latent frame, and all */
    int repeat, blocks;
    bool named;                      /* the measures were asked for by name, not all of them run */
    uint64_t seed;
    bench_format format;
    bench_machine machine;
    str out;                         /* rows not yet printed */
    bool to_stdout;                  /* rows of a table or CSV go out as they come */
    int n_rows;
} bench;

/* One line of the result. Times are milliseconds a call. */
typedef struct bench_row {
    const char *what, *item;         /* "attention", "self" */
    str shape, note;                 /* released by bench_put() */
    double ops, bytes;
    int64_t pixel_frames;            /* made by one call, for frames a second; 0: none */
} bench_row;
#define BENCH_ROW_INIT { NULL, NULL, STR_INIT, STR_INIT, 0, 0, 0 }

/* ---- the clock (bench_report.c) ---- */

typedef int (*bench_fn)(void *user, err *e);
double bench_now_ms(void);
/* Milliseconds of the call, the device's end awaited. */
int bench_once(bench *b, bench_fn fn, void *user, double *ms, err *e);
/* ms[b->repeat]: milliseconds a call. */
int bench_time(bench *b, bench_fn fn, void *user, double *ms, err *e);
/* The same for two things in turn, sample by sample. */
int bench_time_pair(bench *b, bench_fn one, bench_fn two, void *user, double *ms_one, double *ms_two, err *e);
double bench_quantile(const double *ms, int n, double q);      /* nearest rank; 0.5 of an even number: the mean of the middle two */

/* ---- rows ---- */

int bench_begin(bench *b, err *e);
/* Prints a row made of n samples and releases its texts. */
int bench_put(bench *b, bench_row *row, const double *ms, int n, err *e);
int bench_end(bench *b, err *e);

void bench_machine_open(bench_machine *m, const backend *be);
void bench_machine_close(bench_machine *m);
int bench_machine_clock(const bench_machine *m, bool memory);  /* MHz now, or 0 */

/* ---- models of random weights and their counts (bench_models.c) ---- */

int bench_find_model(bench_model *out, const char *name, err *e);
/* Standard normals times `scale`, rounded to the tensor's type. */
int bench_fill(const bench *b, tensor *t, uint64_t stream, float scale, err *e);
/* Allocates and fills. */
int bench_random(const bench *b, tensor *t, dtype type, int ndim, const int64_t *shape, uint64_t stream, float scale, err *e);
double bench_attention_ops(const bench *b, double queries, double keys);
double bench_block_ops(const bench *b, double queries, double keys, bool text);      /* text: its keys and values are made too */
double bench_forward_ops(const bench *b);
double bench_block_bytes(const bench *b);        /* the weights of one block as they are held */
/* Operations and bytes of the convolutions of one pass of the VAE's decoder over n latent frames. */
void bench_decode_counts(const bench *b, int64_t n, double *ops, double *bytes);

/* ---- what can be measured: all in the order of --help ---- */

int bench_attention(bench *b, err *e);
int bench_gemm(bench *b, err *e);
int bench_block(bench *b, err *e);
int bench_forward(bench *b, err *e);
int bench_vae(bench *b, err *e);
int bench_t5(bench *b, err *e);
int bench_capture(bench *b, err *e);
int bench_offload(bench *b, err *e);
int bench_longlive(bench *b, err *e);
int bench_sparse(bench *b, err *e);
int bench_vace(bench *b, err *e);
int bench_fp8(bench *b, err *e);

#endif
