/* Holding rows: traces store whole rows, sums want all rows of a block of elements. Three ways from one to the other:
 * everything fits in memory; a scratch file (uncompressed, ordered by block, unlinked as soon as it is open); or one
 * reading of the traces for each part of the elements that fits in memory. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "analysis/lib/sweep_internal.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/parallel.h"

#define BLOCK_BYTES ((int64_t)40 << 20) /* f64 working set of one block */
#define STAGE_BYTES ((int64_t)24 << 20) /* rows collected before they are written out */
#define MAX_BLOCK 65536

typedef struct store {
    sweep *s;
    const sweep_options *o;
    bool across;
    int64_t first, n; /* runs */
    int64_t slots;    /* runs the scratch file was laid out for */
    int64_t block;    /* elements of a block */
    int64_t lo, hi;   /* elements held in `memory` */
    float *memory;    /* [n * T][hi - lo] */
    int fd;           /* scratch file or -1 */
    float *row;       /* one row */
    uint16_t *half;   /* one f16 row */
    float *stage;
    int64_t stage_rows;
} store;

static int64_t block_elems(const sweep *s, int64_t n_runs, bool across)
{
    int64_t rows = n_runs * s->T, pooled = s->n_pooled > n_runs ? s->n_pooled : n_runs;
    int64_t bytes = rows * 4 + (across ? pooled * 8 : 0);
    int64_t n = BLOCK_BYTES / (bytes > 0 ? bytes : 1) / SWEEP_GRAIN * SWEEP_GRAIN;
    n = n < SWEEP_GRAIN ? SWEEP_GRAIN : n > MAX_BLOCK ? MAX_BLOCK : n;
    return n < s->elems ? n : s->elems;
}

static int scratch_write(const store *st, const void *bytes, int64_t n, int64_t at, err *e)
{
    for (int64_t done = 0; done < n;) {
        ssize_t k = pwrite(st->fd, (const char *)bytes + done, (size_t)(n - done), (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return ERR(e, ERR_IO,
                       "%s: the scratch file cannot be written: %s. Give --out a folder on a disk with more space.",
                       st->o->scratch_dir, k < 0 ? strerror(errno) : "nothing was written");
        done += k;
    }
    return 0;
}

static int scratch_read(const store *st, void *bytes, int64_t n, int64_t at, err *e)
{
    for (int64_t done = 0; done < n;) {
        ssize_t k = pread(st->fd, (char *)bytes + done, (size_t)(n - done), (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return ERR(e, ERR_IO, "%s: the scratch file cannot be read back: %s.", st->o->scratch_dir,
                       k < 0 ? strerror(errno) : "it is shorter than written");
        done += k;
    }
    return 0;
}

/* Offset of element block `b`, row `r` (counted over all runs): rows of one block lie together. */
static int64_t scratch_at(const store *st, int64_t b, int64_t r)
{
    return (b * st->slots * st->s->T + r) * st->block * 4;
}

static int flush_stage(store *st, int64_t row0, int64_t n_rows, float *packed, err *e)
{
    int64_t elems = st->s->elems;
    for (int64_t b = 0; b * st->block < elems; b++) {
        int64_t lo = b * st->block, ne = elems - lo < st->block ? elems - lo : st->block;
        for (int64_t r = 0; r < n_rows; r++)
            memcpy(packed + r * st->block, st->stage + r * elems + lo, (size_t)ne * sizeof *packed);
        int rc = scratch_write(st, packed, n_rows * st->block * 4, scratch_at(st, b, row0), e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Reads one run into slot `slot`. The sentence of a damaged run goes to *bad (kind set), our own failures to e. */
static int load_run(store *st, const batch_run *run, int64_t slot, err *bad, err *e)
{
    trace_reader t;
    sweep *s = st->s;
    int64_t T = s->T, width = st->hi - st->lo, staged = 0;
    int rc = 0;
    float *packed = NULL;
    if (trace_reader_open(&t, run->trace, bad))
        return bad->kind;
    if (t.n_rows != T || t.row_elems != s->elems) {
        ERR(bad, ERR_FORMAT,
            "%s: the file changed while it was being read. Analyse the batch again when it is complete.", run->trace);
        trace_reader_close(&t);
        return bad->kind;
    }
    if (st->fd >= 0 && !(packed = calloc((size_t)(st->stage_rows * st->block), sizeof *packed)))
        rc = ERR(e, ERR_MEMORY, "no memory for the scratch file's buffer");
    for (int64_t r = 0; r < T && !rc; r++) {
        float *to = st->fd >= 0 ? st->stage + staged * s->elems : st->row;
        if ((rc = trace_reader_row(&t, to, st->half, r, bad)))
            break;
        if (st->fd < 0) {
            memcpy(st->memory + (slot * T + r) * width, to + st->lo, (size_t)width * sizeof *to);
        } else if (++staged == st->stage_rows || r + 1 == T) {
            rc = flush_stage(st, slot * T + r + 1 - staged, staged, packed, e);
            staged = 0;
        }
    }
    free(packed);
    trace_reader_close(&t);
    return rc;
}

/* Reads every run; damaged ones are dropped, which closes the gap for the next. Only the first reading may drop. */
static int load_all(store *st, bool may_drop, err *e)
{
    for (int64_t i = 0; i < st->n;) {
        const batch_run *run = st->s->runs[st->first + i].run;
        err bad = { 0 }, own = { 0 };
        if (st->across)
            log_progress("reading traces", i, st->n, -1);
        int rc = load_run(st, run, i, &bad, &own);
        if (!rc) {
            i++;
            continue;
        }
        if (own.kind || bad.kind == ERR_MEMORY || !may_drop)
            return ERR(e, rc, "%s", own.kind ? own.text : bad.text);
        if ((rc = sweep_skip(st->s, run, bad.text, e)))
            return rc;
        sweep_drop_run(st->s, st->first + i);
        st->n--;
    }
    if (st->across) {
        log_progress("reading traces", st->n, st->n, -1);
        log_progress_end();
    }
    return 0;
}

static int add_memory(store *st, sweep_adder *a)
{
    int64_t width = st->hi - st->lo;
    for (int64_t at = 0; at < width; at += st->block) {
        sweep_block b = { st->memory + at, width, width - at < st->block ? width - at : st->block, st->first, st->n };
        sweep_adder_add(a, st->s, &b);
    }
    return 0;
}

static int add_scratch(store *st, sweep_adder *a, err *e)
{
    int64_t rows = st->n * st->s->T, elems = st->s->elems;
    float *block = malloc((size_t)(rows * st->block) * sizeof *block);
    if (!block)
        return ERR(e, ERR_MEMORY, "no memory for a block of the scratch file");
    int rc = 0;
    for (int64_t k = 0; k * st->block < elems && !rc; k++) {
        rc = scratch_read(st, block, rows * st->block * 4, scratch_at(st, k, 0), e);
        int64_t ne = elems - k * st->block;
        sweep_block b = { block, st->block, ne < st->block ? ne : st->block, st->first, st->n };
        if (!rc)
            sweep_adder_add(a, st->s, &b);
        if (!rc && st->across)
            log_progress("adding up", k + 1, (elems + st->block - 1) / st->block, -1);
    }
    if (st->across)
        log_progress_end();
    free(block);
    return rc;
}

/* An unnamed file: it disappears with the process, however that ends. */
static int scratch_open(int *fd, const sweep_options *o, err *e)
{
    char *path = fs_join(o->scratch_dir, ".scratch-XXXXXX");
    if (!path)
        return ERR(e, ERR_MEMORY, "no memory for a file name");
    *fd = mkstemp(path);
    int rc = 0;
    if (*fd < 0)
        rc = ERR(e, ERR_IO, "%s: no scratch file can be made there: %s. Give --out a folder that may be written.",
                 o->scratch_dir, strerror(errno));
    else
        unlink(path);
    free(path);
    return rc;
}

/* Elements of one reading: whole grains, so that sums are cut the same way however much memory there is. */
static int64_t part_width(const sweep *s, int64_t passes)
{
    int64_t grains = (s->elems + SWEEP_GRAIN - 1) / SWEEP_GRAIN, width = (grains + passes - 1) / passes * SWEEP_GRAIN;
    return width < s->elems ? width : s->elems;
}

static int prepare(store *st, int64_t passes, err *e)
{
    const sweep *s = st->s;
    bool scratch = st->fd >= 0;
    int64_t width = part_width(s, passes);
    st->stage_rows = STAGE_BYTES / (s->elems * 4);
    st->stage_rows = st->stage_rows < 1 ? 1 : st->stage_rows > s->T ? s->T : st->stage_rows;
    st->half = malloc((size_t)s->elems * sizeof *st->half);
    if (scratch)
        st->stage = malloc((size_t)(st->stage_rows * s->elems) * sizeof *st->stage);
    else {
        st->row = malloc((size_t)s->elems * sizeof *st->row);
        st->memory = malloc((size_t)(st->n * s->T * width) * sizeof *st->memory);
    }
    if (!st->half || (scratch ? !st->stage : !st->row || !st->memory))
        return ERR(e, ERR_MEMORY, "no memory for rows of %lld numbers", (long long)s->elems);
    return 0;
}

int sweep_store_process(sweep *s, int64_t first, int64_t *n, const sweep_options *o, bool across, err *e)
{
    store st = { .s = s, .o = o, .across = across, .first = first, .n = *n, .slots = *n, .fd = -1 };
    sweep_adder a = { 0 };
    double bytes = (double)*n * (double)s->T * (double)s->elems * 4;
    int64_t passes = (int64_t)((bytes + (double)o->memory - 1) / (double)o->memory);
    int rc = 0;
    if (passes < 1)
        passes = 1;
    st.block = block_elems(s, *n, across);
    s->how = "memory";
    if (passes > 1) {
        int64_t free_bytes = fs_free_bytes(o->scratch_dir);
        int64_t blocks = (s->elems + st.block - 1) / st.block;
        double need = (double)st.slots * (double)s->T * (double)st.block * (double)blocks * 4;
        if (!o->no_scratch && (free_bytes < 0 || need < 0.9 * (double)free_bytes)) {
            if ((rc = scratch_open(&st.fd, o, e)))
                return rc;
            passes = 1;
            s->how = "scratch file";
        } else {
            log_msg(LOG_WARN, "%s: a scratch file of %.1f GB does not fit; the traces are read %lld times instead",
                    o->scratch_dir, need / 1e9, (long long)passes);
            s->how = "several readings";
        }
    }
    rc = prepare(&st, passes, e);
    int64_t width = part_width(s, passes);
    for (int64_t p = 0; p < passes && !rc; p++) {
        st.lo = p * width < s->elems ? p * width : s->elems;
        st.hi = st.lo + width < s->elems ? st.lo + width : s->elems;
        if (p > 0 && st.lo == st.hi)
            break;
        rc = load_all(&st, p == 0, e);
        if (p == 0 && !rc && st.n > 0 && across) /* known only now that damaged runs are out */
            rc = sweep_prepare_across(s, e);
        if (p == 0 && !rc && st.n > 0)
            rc = sweep_adder_open(&a, s, across, e);
        if (!rc && st.n > 0)
            rc = st.fd >= 0 ? add_scratch(&st, &a, e) : add_memory(&st, &a);
        if (st.n == 0)
            break;
    }
    *n = st.n;
    sweep_adder_close(&a, s);
    if (st.fd >= 0)
        close(st.fd);
    free(st.row);
    free(st.half);
    free(st.stage);
    free(st.memory);
    return rc;
}
