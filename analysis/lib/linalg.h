/* linalg: symmetric matrices in f64, row-major, full storage. LAPACK does the eigenvalues, with one BLAS thread, so
 * that results do not depend on the number of cores. */
#ifndef WANSCOPE_LINALG_H
#define WANSCOPE_LINALG_H

#include <stdint.h>

#include "core/base/err.h"

void linalg_init(void); /* pins BLAS to one thread; call once at the start of main */

/* G[n,n] += X X^T for X[n,elems]; both triangles. Cut into fixed tiles that run on all cores: the same bytes for any
 * number. */
void gram_add(double *G, const double *X, int64_t n, int64_t elems);

/* Replaces the Gram matrix of points by that of the points minus their mean. */
void gram_center(double *G, int64_t n);

/* out[m,m] = G[idx,idx] */
void gram_select(double *out, const double *G, int64_t n, const int64_t *idx, int64_t m);

/* All eigenvalues, largest first, and the first k eigenvectors (vectors[k,n], row j belongs to values[j]; sign fixed:
 * the component largest in size is positive). G is destroyed. k may be 0. Eigenvalues below zero by rounding become 0.
 */
int gram_eigen(double *values, double *vectors, double *G, int64_t n, int64_t k, err *e);

/* Number of eigenvalues (largest first) above 1e-11 of the first: what f64 Gram matrices of f32 data can resolve. */
int64_t spectrum_rank(const double *values, int64_t n);

#endif
