/* trace_compare: what differs between two traces, or between two sets of tensors: what `wanscope compare` prints.
 *
 * File a is the reference. Everything is compared in double precision (whole numbers as such). The difference of an
 * array is the largest |a - b|, relative to the largest finite |a| of that array. NaN equals NaN at the same place; NaN
 * on one side only, or unequal infinities, are a difference under any tolerance. Memory does not grow with the files.
 */
#ifndef WANSCOPE_TRACE_COMPARE_H
#define WANSCOPE_TRACE_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

#define COMPARE_MAX_DIMS 32        /* HDF5's limit */

typedef enum {
    COMPARE_EQUAL,
    COMPARE_WITHIN,                /* not equal, but within the tolerance */
    COMPARE_DIFFERENT,
    COMPARE_ONLY_A, COMPARE_ONLY_B,
    COMPARE_SHAPE,                 /* the shapes differ; nothing else was looked at */
    COMPARE_TYPE,                  /* text against numbers, or a type that this program does not know */
} compare_outcome;

typedef struct compare_item {
    char *name;
    compare_outcome outcome;
    int ndim, ndim_b;
    int64_t shape[COMPARE_MAX_DIMS], shape_b[COMPARE_MAX_DIMS];
    int64_t n, n_different, n_nan;      /* elements; those not equal; those NaN on one side only */
    double max_abs, max_ref, relative;  /* relative is infinite where the reference is all zero and b is not */
    int64_t first, worst;               /* flat indices of the first and of the largest difference; -1 for none */
    double first_a, first_b, worst_a, worst_b;
} compare_item;

typedef struct compare_report {
    compare_item *items; /* in the order of computation: sigmas, latents, ...; tensors by name, numbers in order */
    size_t n_items, cap;
    char **notes;                  /* sentences about differing attributes, which decide nothing */
    size_t n_notes;
    double tolerance;
    int64_t first_different;       /* index of the first item that is neither equal nor within, or -1 */
} compare_report;

const char *compare_outcome_name(compare_outcome o);       /* "equal", "within tolerance", ... */
void compare_index(int64_t *at, const compare_item *x, int64_t flat);    /* index vector, x->ndim entries */

/* Two files written by trace.h (or any HDF5 files of numbers and texts). */
int trace_compare(compare_report *r, const char *a, const char *b, double tolerance, err *e);
/* Two checkpoints or golden files, whatever ckpt_open() opens. */
int tensor_compare(compare_report *r, const char *a, const char *b, double tolerance, err *e);
/* One of the two, by the content of the files: both HDF5, or neither. */
int compare_files(compare_report *r, const char *a, const char *b, double tolerance, err *e);
void compare_report_release(compare_report *r);            /* also after a failure; harmless on a zeroed report */

/* For the two comparisons: adds an empty item; takes n pairs that start at flat index `at`; decides the outcome. */
compare_item *compare_add(compare_report *r, const char *name);          /* NULL when memory runs out */
/* Notes both shapes; true when they are equal. */
bool compare_set_shape(compare_item *x, int ndim, const int64_t *shape, int ndim_b, const int64_t *shape_b);
void compare_doubles(compare_item *x, int64_t at, const double *a, const double *b, int64_t n);
void compare_integers(compare_item *x, int64_t at, const int64_t *a, const int64_t *b, int64_t n);
void compare_finish(compare_item *x, double tolerance);
void compare_decide(compare_report *r);                    /* sets first_different */

#endif
