/* The clock of `wanscope bench`, and its three kinds of output. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "experiments/bench.h"
#include "experiments/build_id.h"
#include "experiments/interrupt.h"

enum { MAX_CALLS = 1000 };
static const double SAMPLE_MS = 5;

double bench_now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static int calls(bench *b, bench_fn fn, void *user, int n, double *ms, err *e)
{
    int rc = interrupt_check(e);
    rc = rc ? rc : b->be->ops->sync(b->be, e);
    double begin = bench_now_ms();
    for (int i = 0; i < n && !rc; i++)
        rc = fn(user, e);
    rc = rc ? rc : b->be->ops->sync(b->be, e);
    *ms = (bench_now_ms() - begin) / n;
    return rc;
}

int bench_once(bench *b, bench_fn fn, void *user, double *ms, err *e)
{
    return calls(b, fn, user, 1, ms, e);
}

/* How often to call in a sample; the calls that find out are the warm-up. */
static int warm_up(bench *b, bench_fn fn, void *user, int *n, err *e)
{
    double first, second;
    int rc = calls(b, fn, user, 1, &first, e);
    rc = rc ? rc : calls(b, fn, user, 1, &second, e);
    if (rc)
        return rc;
    *n = second >= SAMPLE_MS ? 1 : second * MAX_CALLS <= SAMPLE_MS ? MAX_CALLS : (int)ceil(SAMPLE_MS / second);
    return 0;
}

int bench_time(bench *b, bench_fn fn, void *user, double *ms, err *e)
{
    int n, rc = warm_up(b, fn, user, &n, e);
    for (int i = 0; i < b->repeat && !rc; i++)
        rc = calls(b, fn, user, n, &ms[i], e);
    return rc;
}

int bench_time_pair(bench *b, bench_fn one, bench_fn two, void *user, double *ms_one, double *ms_two, err *e)
{
    int n_one, n_two, rc = warm_up(b, one, user, &n_one, e);
    rc = rc ? rc : warm_up(b, two, user, &n_two, e);
    for (int i = 0; i < b->repeat && !rc; i++) {
        rc = calls(b, one, user, n_one, &ms_one[i], e);
        rc = rc ? rc : calls(b, two, user, n_two, &ms_two[i], e);
    }
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

double bench_quantile(const double *ms, int n, double q)
{
    double *sorted = malloc((size_t)n * sizeof *sorted);
    if (!sorted || n < 1) {
        free(sorted);
        return NAN;
    }
    memcpy(sorted, ms, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    int rank = (int)ceil(q * n);
    rank = rank < 1 ? 1 : rank > n ? n : rank;
    double v = q == 0.5 && n % 2 == 0 ? (sorted[n / 2 - 1] + sorted[n / 2]) / 2 : sorted[rank - 1];
    free(sorted);
    return v;
}

/* ---- rows ---- */

/* numbers of a row, in the order of the columns */
typedef struct numbers {
    double median, min, max, p99, tflop, gbyte, floor_ops, floor_bytes, distance, rate, frames_s;
    int mhz;
} numbers;

static const char COLUMNS[] = "engine,what,case,model,size,frames,precision,shape,repeats,median_ms,min_ms,max_ms,p99_ms,tflop,gbyte,"
                              "floor_ops_ms,floor_bytes_ms,distance,tflop_s,frames_s,sm_mhz,note\n";

static int flush(bench *b, err *e)
{
    if (b->out.failed)
        return ERR(e, ERR_MEMORY, "memory ran out while printing");
    if (!b->to_stdout || b->format == BENCH_JSON)
        return 0;
    if (fwrite(b->out.data, 1, b->out.len, stdout) != b->out.len || fflush(stdout))
        return ERR(e, ERR_IO, "standard output could not be written; is the disk full or the pipe closed?");
    str_clear(&b->out);
    return 0;
}

static void machine_lines(bench *b, const char *prefix)
{
    const bench_machine *m = &b->machine;
    int sm = bench_machine_clock(m, false), memory = bench_machine_clock(m, true);
    str_addf(&b->out, "%swanscope: %s (%s)\n%sdevice: %s\n", prefix, wanscope_version, wanscope_build, prefix, m->device);
    if (m->cpu[0])
        str_addf(&b->out, "%scpu: %s\n", prefix, m->cpu);
    if (m->driver[0])
        str_addf(&b->out, "%sdriver: %s\n", prefix, m->driver);
    if (m->cuda[0])
        str_addf(&b->out, "%scuda: %s\n", prefix, m->cuda);
    if (sm)
        str_addf(&b->out, "%sclocks: SM %d MHz, memory %d MHz before the first measurement\n", prefix, sm, memory);
    str_addf(&b->out, "%sfloors: operations / %.0f TFLOP/s, bytes / %.1f TB/s; distance = median / the larger\n", prefix, BENCH_PEAK_OPS / 1e12,
             BENCH_PEAK_BYTES / 1e12);
}

int bench_begin(bench *b, err *e)
{
    if (b->format == BENCH_CSV) {
        machine_lines(b, "# ");
        str_add(&b->out, COLUMNS);
    } else if (b->format == BENCH_TABLE) {
        machine_lines(b, "");
        str_addf(&b->out, "model: %s, %dx%d, %d frames, %s, %d repeats\n\n", b->model.name, b->width, b->height, b->frames, b->prec->name, b->repeat);
        str_addf(&b->out, "%-10s %-16s %10s %10s %10s %10s %10s %9s %9s\n", "what", "case", "median ms", "min", "max", "ops floor", "byte floor",
                 "distance", "TFLOP/s");
    }
    return flush(b, e);
}

static void put_csv(bench *b, const bench_row *r, const numbers *x, int n)
{
    str_addf(&b->out, "wanscope,%s,%s,%s,%dx%d,%d,%s,%s,%d,%.4f,%.4f,%.4f,%.4f,%.4f,%.4f,%.4f,%.4f,%.3f,%.2f,", r->what, r->item, b->model.name,
             b->width, b->height, b->frames, b->prec->name, str_text(&r->shape), n, x->median, x->min, x->max, x->p99, x->tflop, x->gbyte,
             x->floor_ops, x->floor_bytes, x->distance, x->rate);
    if (x->frames_s > 0)
        str_addf(&b->out, "%.3f", x->frames_s);
    str_addc(&b->out, ',');
    if (x->mhz)
        str_addf(&b->out, "%d", x->mhz);
    str_addf(&b->out, ",\"%s\"\n", str_text(&r->note));
}

static void put_table(bench *b, const bench_row *r, const numbers *x)
{
    str_addf(&b->out, "%-10s %-16s %10.3f %10.3f %10.3f %10.3f %10.3f %9.2f %9.1f   %s", r->what, r->item, x->median, x->min, x->max, x->floor_ops,
             x->floor_bytes, x->distance, x->rate, str_text(&r->shape));
    if (x->frames_s > 0)
        str_addf(&b->out, "; %.2f frames a second", x->frames_s);
    if (r->note.len)
        str_addf(&b->out, "; %s", str_text(&r->note));
    if (x->mhz)
        str_addf(&b->out, "; SM at %d MHz", x->mhz);
    str_addc(&b->out, '\n');
}

/* JSON is one document; its rows wait here until the end. */
static void put_json(bench *b, const bench_row *r, const numbers *x, int n)
{
    json_writer w;
    char size[32];
    str text = STR_INIT;
    snprintf(size, sizeof size, "%dx%d", b->width, b->height);
    jw_init(&w, &text, 0);
    jw_object(&w);
    jw_kstring(&w, "engine", "wanscope");
    jw_kstring(&w, "what", r->what);
    jw_kstring(&w, "case", r->item);
    jw_kstring(&w, "model", b->model.name);
    jw_kstring(&w, "size", size);
    jw_kint(&w, "frames", b->frames);
    jw_kstring(&w, "precision", b->prec->name);
    jw_kstring(&w, "shape", str_text(&r->shape));
    jw_kint(&w, "repeats", n);
    jw_kdouble(&w, "median_ms", x->median);
    jw_kdouble(&w, "min_ms", x->min);
    jw_kdouble(&w, "max_ms", x->max);
    jw_kdouble(&w, "p99_ms", x->p99);
    jw_kdouble(&w, "tflop", x->tflop);
    jw_kdouble(&w, "gbyte", x->gbyte);
    jw_kdouble(&w, "floor_ops_ms", x->floor_ops);
    jw_kdouble(&w, "floor_bytes_ms", x->floor_bytes);
    jw_kdouble(&w, "distance", x->distance);
    jw_kdouble(&w, "tflop_s", x->rate);
    jw_key(&w, "frames_s");
    if (x->frames_s > 0)
        jw_double(&w, x->frames_s);
    else
        jw_null(&w);
    jw_key(&w, "sm_mhz");
    if (x->mhz)
        jw_int(&w, x->mhz);
    else
        jw_null(&w);
    jw_kstring(&w, "note", str_text(&r->note));
    jw_end_object(&w);
    str_addf(&b->out, "%s\n  %s", b->n_rows ? "," : "", str_text(&text));
    b->out.failed |= text.failed;
    str_release(&text);
}

int bench_put(bench *b, bench_row *r, const double *ms, int n, err *e)
{
    numbers x = { .median = bench_quantile(ms, n, 0.5), .min = bench_quantile(ms, n, 0), .max = bench_quantile(ms, n, 1),
                  .p99 = bench_quantile(ms, n, 0.99), .tflop = r->ops / 1e12, .gbyte = r->bytes / 1e9,
                  .floor_ops = 1e3 * r->ops / BENCH_PEAK_OPS, .floor_bytes = 1e3 * r->bytes / BENCH_PEAK_BYTES };
    double floor = x.floor_ops > x.floor_bytes ? x.floor_ops : x.floor_bytes;
    x.distance = floor > 0 ? x.median / floor : 0;
    x.rate = x.median > 0 ? r->ops / x.median * 1e-9 : 0;
    x.frames_s = x.median > 0 ? 1e3 * (double)r->pixel_frames / x.median : 0;
    x.mhz = bench_machine_clock(&b->machine, false);
    if (b->format == BENCH_CSV)
        put_csv(b, r, &x, n);
    else if (b->format == BENCH_JSON)
        put_json(b, r, &x, n);
    else
        put_table(b, r, &x);
    b->n_rows++;
    int rc = r->shape.failed || r->note.failed ? ERR(e, ERR_MEMORY, "memory ran out while printing") : flush(b, e);
    str_release(&r->shape);
    str_release(&r->note);
    return rc;
}

static void json_document(bench *b)
{
    json_writer w;
    str rows = b->out;
    const bench_machine *m = &b->machine;
    b->out = (str)STR_INIT;
    jw_init(&w, &b->out, 0);
    jw_object(&w);
    jw_key(&w, "machine");
    jw_object(&w);
    jw_kstring(&w, "wanscope", wanscope_version);
    jw_kstring(&w, "build", wanscope_build);
    jw_kstring(&w, "device", m->device);
    jw_kstring(&w, "cpu", m->cpu[0] ? m->cpu : NULL);
    jw_kstring(&w, "driver", m->driver[0] ? m->driver : NULL);
    jw_kstring(&w, "cuda", m->cuda[0] ? m->cuda : NULL);
    jw_kdouble(&w, "peak_ops", BENCH_PEAK_OPS);
    jw_kdouble(&w, "peak_bytes", BENCH_PEAK_BYTES);
    jw_end_object(&w);
    jw_key(&w, "results");
    str list = STR_INIT;
    str_addf(&list, "[%s\n]", str_text(&rows));
    jw_raw(&w, str_text(&list));
    jw_end_object(&w);
    str_addc(&b->out, '\n');
    b->out.failed |= rows.failed || list.failed;
    str_release(&rows);
    str_release(&list);
}

int bench_end(bench *b, err *e)
{
    if (b->format == BENCH_JSON)
        json_document(b);
    if (!b->out.failed && b->to_stdout && b->format == BENCH_JSON &&
        (fwrite(b->out.data, 1, b->out.len, stdout) != b->out.len || fflush(stdout)))
        return ERR(e, ERR_IO, "standard output could not be written; is the disk full or the pipe closed?");
    return b->out.failed ? ERR(e, ERR_MEMORY, "memory ran out while printing") : 0;
}
