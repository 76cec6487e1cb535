/* pca: exact principal components through Gram matrices, of any number of dimensions.
 *
 * Four sets of points across runs: `ends` (all results), `seeds` (results minus the mean of their variation: what
 * changes with the seed), `variations` (means of the variations: what changes with the prompt), `pooled` (all rows of
 * all runs). And one PCA within each run, over time. */
#ifndef WANSCOPE_PCA_H
#define WANSCOPE_PCA_H

#include "analysis/lib/metrics.h"
#include "analysis/lib/output.h"
#include "analysis/lib/sweep.h"

typedef struct pca_set {
    const char *name, *what;
    int64_t n, dof;                    /* points; degrees of freedom that divide (n - 1, or N - V for `seeds`) */
    double *lambda;                    /* [n] variance along each component, largest first */
    int64_t rank;                      /* of these, above rounding */
    int64_t k;                         /* components with scores */
    double *vectors;                   /* [k][n] orthonormal */
    double *scores;                    /* [k][n] coordinates of the points, in latent units */
    double total, participation;       /* total variance; (sum lambda)^2 / sum lambda^2 */
    int64_t dims_90, dims_95, dims_99; /* components that reach this share of the variance */
    double entropy; /* spectral: exp(-sum q ln q), q = lambda / total: an effective number of dimensions */
} pca_set;

enum { PCA_ENDS, PCA_SEEDS, PCA_VARIATIONS, PCA_POOLED, PCA_SETS };

typedef struct pca {
    pca_set set[PCA_SETS];
} pca;

#define PCA_SCORES 10 /* components written */

int pca_open(pca *p, const sweep *s, err *e);
void pca_close(pca *p);

/* Statistics of a spectrum of n eigenvalues already divided; fills everything of `set` but scores. */
void pca_describe(pca_set *set);

/* Everything `latent-analyze pca` writes. loadings > 0 also writes that many component images of `pooled` and `ends`.
 */
int pca_report(const sweep *s, const pca *p, output *o, const char *batch_dir, int64_t loadings, err *e);

#endif
