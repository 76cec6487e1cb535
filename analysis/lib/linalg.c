#include "analysis/lib/linalg.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/parallel.h"

#define TILE 96
#define RANK_TOLERANCE 1e-11

void linalg_init(void)
{
    openblas_set_num_threads(1);
}

typedef struct gram_job {
    double *G;
    const double *X;
    int64_t n, elems, tiles;
} gram_job;

static void gram_tile(int64_t piece, int thread, void *arg)
{
    const gram_job *j = arg;
    (void)thread;
    int64_t row = 0, left = piece; /* pieces count the tiles of the lower triangle, row after row */
    while (left > row) {
        left -= row + 1;
        row++;
    }
    int64_t a = row * TILE, b = left * TILE;
    int64_t na = j->n - a < TILE ? j->n - a : TILE, nb = j->n - b < TILE ? j->n - b : TILE;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)na, (int)nb, (int)j->elems, 1.0, j->X + a * j->elems,
                (int)j->elems, j->X + b * j->elems, (int)j->elems, 1.0, j->G + a * j->n + b, (int)j->n);
    if (a != b)
        for (int64_t i = 0; i < na; i++)
            for (int64_t k = 0; k < nb; k++)
                j->G[(b + k) * j->n + a + i] = j->G[(a + i) * j->n + b + k];
}

void gram_add(double *G, const double *X, int64_t n, int64_t elems)
{
    gram_job j = { G, X, n, elems, (n + TILE - 1) / TILE };
    parallel_for(j.tiles * (j.tiles + 1) / 2, gram_tile, &j);
}

void gram_center(double *G, int64_t n)
{
    double grand = 0;
    double *mean = n > 0 ? malloc((size_t)n * sizeof *mean) : NULL;
    for (int64_t i = 0; mean && i < n; i++) {
        mean[i] = 0;
        for (int64_t j = 0; j < n; j++)
            mean[i] += G[i * n + j];
        mean[i] /= (double)n;
        grand += mean[i];
    }
    grand /= n > 0 ? (double)n : 1;
    for (int64_t i = 0; mean && i < n; i++)
        for (int64_t j = 0; j < n; j++)
            G[i * n + j] += grand - (mean[i] + mean[j]);
    free(mean);
}

void gram_select(double *out, const double *G, int64_t n, const int64_t *idx, int64_t m)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < m; j++)
            out[i * m + j] = G[idx[i] * n + idx[j]];
}

static void fix_sign(double *v, int64_t n)
{
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++)
        if (fabs(v[i]) > fabs(v[top]) * (1 + 1e-9))
            top = i;
    if (v[top] < 0)
        for (int64_t i = 0; i < n; i++)
            v[i] = -v[i];
}

/* Reduction to tridiagonal form in place, then all eigenvalues and only the wanted vectors: memory stays at one matrix.
 */
int gram_eigen(double *values, double *vectors, double *G, int64_t n, int64_t k, err *e)
{
    if (n <= 0)
        return 0;
    if (k > n)
        k = n;
    double *buf = malloc((size_t)(n * 6 + 8) * sizeof *buf);
    double *z = k ? malloc((size_t)(n * k) * sizeof *z) : NULL;
    lapack_int *isuppz = malloc((size_t)(2 * n + 2) * sizeof *isuppz);
    int rc = 0;
    if (!buf || !isuppz || (k && !z)) {
        rc = ERR(e, ERR_MEMORY, "no memory for the eigenvectors of a %lld x %lld Gram matrix; lower --max-rows",
                 (long long)n, (long long)n);
        goto out;
    }
    double *d = buf, *off = buf + n, *tau = buf + 2 * n, *d2 = buf + 3 * n, *off2 = buf + 4 * n, *w = buf + 5 * n;
    double query = 0;
    lapack_int info =
        LAPACKE_dsytrd_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, G, (lapack_int)n, d, off, tau, &query, -1);
    double *work = info ? NULL : malloc(((size_t)query + 1) * sizeof *work);
    if (!info && !work) {
        rc = ERR(e, ERR_MEMORY, "no memory for the eigenvalues of a %lld x %lld Gram matrix", (long long)n,
                 (long long)n);
        goto out;
    }
    if (!info)
        info = LAPACKE_dsytrd_work(LAPACK_COL_MAJOR, 'L', (lapack_int)n, G, (lapack_int)n, d, off, tau, work,
                                   (lapack_int)query);
    free(work);
    if (!info && k > 0) { /* vectors of the k largest: LAPACK counts from the smallest */
        lapack_int found = 0;
        lapack_logical tryrac = 1;
        memcpy(d2, d, (size_t)n * sizeof *d2);
        memcpy(off2, off, (size_t)(n > 1 ? n - 1 : 0) * sizeof *off2);
        off2[n - 1] = 0;
        info = LAPACKE_dstemr(LAPACK_COL_MAJOR, 'V', 'I', (lapack_int)n, d2, off2, 0, 0, (lapack_int)(n - k + 1),
                              (lapack_int)n, &found, w, z, (lapack_int)n, (lapack_int)k, isuppz, &tryrac);
        if (!info && found != k)
            info = 1;
        if (!info && n > 1)
            info = LAPACKE_dormtr(LAPACK_COL_MAJOR, 'L', 'L', 'N', (lapack_int)n, (lapack_int)k, G, (lapack_int)n, tau,
                                  z, (lapack_int)n);
        for (int64_t j = 0; !info && j < k; j++) {
            memcpy(vectors + j * n, z + (k - 1 - j) * n, (size_t)n * sizeof *vectors);
            fix_sign(vectors + j * n, n);
        }
    }
    if (!info)
        info = LAPACKE_dsterf((lapack_int)n, d, off);
    if (info) {
        rc = ERR(e, ERR_NAN,
                 "the eigenvalues of a %lld x %lld Gram matrix did not converge (LAPACK says %d); do the traces hold "
                 "numbers too large to square?",
                 (long long)n, (long long)n, (int)info);
        goto out;
    }
    for (int64_t i = 0; i < n; i++)
        values[i] = d[n - 1 - i] > 0 ? d[n - 1 - i] : 0;
out:
    free(isuppz);
    free(z);
    free(buf);
    return rc;
}

int64_t spectrum_rank(const double *values, int64_t n)
{
    int64_t r = 0;
    while (r < n && values[r] > 0 && values[r] > RANK_TOLERANCE * values[0])
        r++;
    return r;
}
