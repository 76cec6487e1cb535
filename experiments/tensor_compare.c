/* The arithmetic of trace_compare.h, and the comparison of files that hold tensors. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"
#include "core/io/ckpt.h"
#include "experiments/trace_compare.h"

#define BLOCK 65536     /* elements converted at a time */

const char *compare_outcome_name(compare_outcome o)
{
    static const char *const names[] = { "equal",     "within tolerance", "different",   "only in a",
                                         "only in b", "shapes differ",    "types differ" };
    return names[o];
}

void compare_index(int64_t *at, const compare_item *x, int64_t flat)
{
    for (int i = x->ndim - 1; i >= 0; i--) {
        at[i] = x->shape[i] > 0 ? flat % x->shape[i] : 0;
        flat = x->shape[i] > 0 ? flat / x->shape[i] : 0;
    }
}

compare_item *compare_add(compare_report *r, const char *name)
{
    if (r->n_items == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 32;
        compare_item *grown = realloc(r->items, cap * sizeof *grown);
        if (!grown)
            return NULL;
        r->items = grown;
        r->cap = cap;
    }
    compare_item *x = &r->items[r->n_items];
    memset(x, 0, sizeof *x);
    x->first = x->worst = -1;
    x->name = str_dup(name);
    if (!x->name)
        return NULL;
    r->n_items++;
    return x;
}

bool compare_set_shape(compare_item *x, int ndim, const int64_t *shape, int ndim_b, const int64_t *shape_b)
{
    x->ndim = ndim;
    x->ndim_b = ndim_b;
    x->n = 1;
    for (int i = 0; i < ndim; i++)
        x->n *= x->shape[i] = shape[i];
    for (int i = 0; i < ndim_b; i++)
        x->shape_b[i] = shape_b[i];
    if (ndim == ndim_b && !memcmp(x->shape, x->shape_b, sizeof x->shape))
        return true;
    x->outcome = COMPARE_SHAPE;
    return false;
}

static void observe(compare_item *x, int64_t at, double a, double b, double difference)
{
    x->n_different++;
    if (x->first < 0) {
        x->first = at;
        x->first_a = a;
        x->first_b = b;
    }
    if (isnan(difference))
        x->n_nan++;
    bool worse = difference > x->max_abs;
    if (worse)
        x->max_abs = difference;
    if (worse || x->worst < 0) {
        x->worst = at;
        x->worst_a = a;
        x->worst_b = b;
    }
}

void compare_doubles(compare_item *x, int64_t at, const double *a, const double *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(a[i]) && fabs(a[i]) > x->max_ref)
            x->max_ref = fabs(a[i]);
        if (a[i] == b[i] || (isnan(a[i]) && isnan(b[i])))
            continue;
        observe(x, at + i, a[i], b[i], fabs(a[i] - b[i]));
    }
}

void compare_integers(compare_item *x, int64_t at, const int64_t *a, const int64_t *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double size = fabs((double)a[i]);
        x->max_ref = size > x->max_ref ? size : x->max_ref;
        if (a[i] != b[i])    /* the difference of two int64 always fits a uint64 */
            observe(x, at + i, (double)a[i], (double)b[i],
                    (double)(a[i] > b[i] ? (uint64_t)a[i] - (uint64_t)b[i] : (uint64_t)b[i] - (uint64_t)a[i]));
    }
}

void compare_finish(compare_item *x, double tolerance)
{
    if (!x->n_different) {
        x->outcome = COMPARE_EQUAL;
        return;
    }
    x->relative = x->max_abs == 0 ? 0 : x->max_abs / x->max_ref;
    x->outcome = !x->n_nan && isfinite(x->max_abs) && x->relative <= tolerance ? COMPARE_WITHIN : COMPARE_DIFFERENT;
}

void compare_decide(compare_report *r)
{
    r->first_different = -1;
    for (size_t i = 0; i < r->n_items && r->first_different < 0; i++)
        if (r->items[i].outcome != COMPARE_EQUAL && r->items[i].outcome != COMPARE_WITHIN)
            r->first_different = (int64_t)i;
}

void compare_report_release(compare_report *r)
{
    for (size_t i = 0; i < r->n_items; i++)
        free(r->items[i].name);
    for (size_t i = 0; i < r->n_notes; i++)
        free(r->notes[i]);
    free(r->items);
    free(r->notes);
    memset(r, 0, sizeof *r);
    r->first_different = -1;
}

/* ---- tensors ---- */

static bool is_whole(dtype t)
{
    return t == DT_I64 || t == DT_I32 || t == DT_I16 || t == DT_I8 || t == DT_U8 || t == DT_BOOL;
}

static void to_integers(int64_t *out, const void *in, dtype t, int64_t n)
{
    const uint8_t *p = in;
    for (int64_t i = 0; i < n; i++) {
        int64_t v64;
        int32_t v32;
        int16_t v16;
        switch (t) {
        case DT_I64: memcpy(&v64, p + 8 * i, 8); out[i] = v64; break;
        case DT_I32: memcpy(&v32, p + 4 * i, 4); out[i] = v32; break;
        case DT_I16: memcpy(&v16, p + 2 * i, 2); out[i] = v16; break;
        case DT_I8: out[i] = (int8_t)p[i]; break;
        default: out[i] = p[i]; break;
        }
    }
}

typedef struct buffers {
    double a[BLOCK], b[BLOCK];
    int64_t whole[BLOCK], whole_b[BLOCK];
    float single[BLOCK];
} buffers;

static void to_doubles(double *out, const void *in, dtype t, int64_t n, buffers *w)
{
    if (t == DT_F64) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else if (is_whole(t)) {
        to_integers(w->whole, in, t, n);
        for (int64_t i = 0; i < n; i++)
            out[i] = (double)w->whole[i];
    } else {
        dtype_to_f32(w->single, in, t, n);
        for (int64_t i = 0; i < n; i++)
            out[i] = w->single[i];
    }
}

static void compare_pair(compare_item *x, const ckpt_tensor *a, const ckpt_tensor *b, double tolerance, buffers *w)
{
    const uint8_t *pa = a->data, *pb = b->data;
    if (!compare_set_shape(x, a->ndim, a->shape, b->ndim, b->shape))
        return;
    for (int64_t at = 0; at < x->n; at += BLOCK) {
        int64_t n = x->n - at < BLOCK ? x->n - at : BLOCK;
        const void *ia = pa + (size_t)at * dtype_size(a->dtype), *ib = pb + (size_t)at * dtype_size(b->dtype);
        if (is_whole(a->dtype) && is_whole(b->dtype)) {
            to_integers(w->whole, ia, a->dtype, n);
            to_integers(w->whole_b, ib, b->dtype, n);
            compare_integers(x, at, w->whole, w->whole_b, n);
        } else {
            to_doubles(w->a, ia, a->dtype, n, w);
            to_doubles(w->b, ib, b->dtype, n, w);
            compare_doubles(x, at, w->a, w->b, n);
        }
    }
    compare_finish(x, tolerance);
}

/* step_2 before step_10 */
static int by_name(const void *a, const void *b)
{
    return strverscmp(((const compare_item *)a)->name, ((const compare_item *)b)->name);
}

int tensor_compare(compare_report *r, const char *path_a, const char *path_b, double tolerance, err *e)
{
    ckpt *a = NULL, *b = NULL;
    buffers *w = NULL;
    int rc;
    memset(r, 0, sizeof *r);
    r->tolerance = tolerance;
    r->first_different = -1;
    if ((rc = ckpt_open(&a, path_a, e)) || (rc = ckpt_open(&b, path_b, e)))
        goto out;
    w = malloc(sizeof *w);
    rc = w ? 0 : ERR(e, ERR_MEMORY, "no memory to compare tensors");
    for (size_t i = 0; i < ckpt_count(a) && !rc; i++) {
        const ckpt_tensor *ta = ckpt_at(a, i), *tb = ckpt_find(b, ta->name);
        compare_item *x = compare_add(r, ta->name);
        if (!x)
            rc = ERR(e, ERR_MEMORY, "no memory to compare %zu tensors", ckpt_count(a));
        else if (tb)
            compare_pair(x, ta, tb, tolerance, w);
        else
            x->outcome = COMPARE_ONLY_A;
    }
    for (size_t i = 0; i < ckpt_count(b) && !rc; i++) {
        const char *name = ckpt_at(b, i)->name;
        if (ckpt_find(a, name))
            continue;
        compare_item *x = compare_add(r, name);
        if (x)
            x->outcome = COMPARE_ONLY_B;
        else
            rc = ERR(e, ERR_MEMORY, "no memory to compare %zu tensors", ckpt_count(b));
    }
    if (!rc && r->n_items)
        qsort(r->items, r->n_items, sizeof *r->items, by_name);
    compare_decide(r);
out:
    free(w);
    ckpt_close(a);
    ckpt_close(b);
    return rc;
}

/* ---- which of the two ---- */

static int is_hdf5(bool *yes, const char *path, err *e)
{
    static const char signature[8] = "\x89HDF\r\n\x1a\n";
    char head[8] = "";
    *yes = false;
    FILE *f = fopen(path, "rb");
    if (!f)
        return 0;           /* ckpt_open() says it better, and it knows folders */
    size_t n = fread(head, 1, 8, f);
    fclose(f);
    *yes = n == 8 && !memcmp(head, signature, 8);
    if (!*yes && str_ends_with(path, ".h5"))
        return ERR(e, ERR_FORMAT, "%s: not an HDF5 file: it is damaged, truncated or something else", path);
    return 0;
}

int compare_files(compare_report *r, const char *a, const char *b, double tolerance, err *e)
{
    bool trace_a, trace_b;
    memset(r, 0, sizeof *r);
    r->first_different = -1;
    int rc = is_hdf5(&trace_a, a, e);
    if (!rc)
        rc = is_hdf5(&trace_b, b, e);
    if (rc)
        return rc;
    if (trace_a && trace_b)
        return trace_compare(r, a, b, tolerance, e);
    if (trace_a || trace_b) {
        FILE *other = fopen(trace_a ? b : a, "rb");
        if (!other)
            return ERR(e, ERR_IO, "%s: cannot be opened; check the name", trace_a ? b : a);
        fclose(other);
        return ERR(e, ERR_ARG, "%s is a trace (HDF5) and %s is not: compare two traces or two tensor files",
                   trace_a ? a : b, trace_a ? b : a);
    }
    return tensor_compare(r, a, b, tolerance, e);
}
