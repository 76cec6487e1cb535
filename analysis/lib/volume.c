#include "analysis/lib/volume.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/hull.h"
#include "analysis/lib/linalg.h"
#include "core/base/log.h"

#define U "latent units"
#define SUBSETS 20           /* subsets averaged when a variation has more seeds than the others */
#define EXACT_SWAPS_UP_TO 10 /* seeds: 512 distinct swaps */
#define RANDOM_SWAPS 1000
#define EPSILON_SHARE 0.01

const metric_def VOLUME_METRICS[VM_COUNT] = {
    { "log_volume", "ln(" U "^r)", "half the sum of the logs of the r largest covariance eigenvalues" },
    { "effective_side", U, "exp(log_volume / r): geometric mean of the r standard deviations" },
    { "regularised_log_volume", "1", "half the sum of ln(1 + eigenvalue/epsilon), epsilon shared by all variations" },
    { "total_variance", U "^2", "sum of all covariance eigenvalues" },
    { "simplex_log_volume", "ln(" U "^(n-1))", "log-volume of the simplex whose corners are the results" },
    { "hull_area_2d", U "^2", "area of the convex hull in the shared first two components" },
    { "hull_perimeter_2d", U, "its perimeter" },
    { "hull_volume_3d", U "^3", "volume of the convex hull in the shared first three components" },
    { "hull_surface_3d", U "^2", "its surface" },
};

double volume_log(const double *lambda, int64_t m, int64_t r)
{
    double sum = 0;
    if (r < 1 || r > m - 1 || spectrum_rank(lambda, m) < r)
        return NAN;
    for (int64_t i = 0; i < r; i++)
        sum += 0.5 * log(lambda[i]);
    return sum;
}

double volume_log_regularised(const double *lambda, int64_t m, double epsilon)
{
    double sum = 0;
    if (m < 2 || !(epsilon > 0))
        return NAN;
    for (int64_t i = 0; i < m; i++)
        sum += 0.5 * log1p(lambda[i] / epsilon);
    return sum;
}

/* The determinant of the edge Gram matrix is m times the product of the non-zero eigenvalues of the centred one. */
double volume_log_simplex(const double *lambda, int64_t m)
{
    double sum = log((double)m);
    if (m < 2 || spectrum_rank(lambda, m) < m - 1)
        return NAN;
    for (int64_t i = 0; i < m - 1; i++)
        sum += log(lambda[i] * (double)(m - 1));
    return 0.5 * sum - lgamma((double)m);
}

typedef struct bench {
    const sweep *s;
    const pca *p;
    const volume *v;
    double *gram, *lambda, *points;
    int64_t *index;
} bench;

/* Points of some runs in a set: indices into its Gram matrix. */
static int64_t collect(bench *b, int set, const int64_t *runs, int64_t n)
{
    int64_t m = 0, k = b->s->pooled_per_run;
    for (int64_t i = 0; i < n; i++)
        if (set == VS_ENDS)
            b->index[m++] = runs[i];
        else
            for (int64_t r = 0; r < k; r++)
                b->index[m++] = runs[i] * k + r;
    return m;
}

static int spectrum(bench *b, int set, const int64_t *runs, int64_t n, int64_t *m, err *e)
{
    *m = collect(b, set, runs, n);
    gram_select(b->gram, set == VS_ENDS ? b->s->end_devs : b->s->pooled, set == VS_ENDS ? b->s->n_runs : b->s->n_pooled,
                b->index, *m);
    gram_center(b->gram, *m);
    int rc = gram_eigen(b->lambda, NULL, b->gram, *m, 0, e);
    for (int64_t i = 0; i < *m; i++)
        b->lambda[i] = *m > 1 ? b->lambda[i] / (double)(*m - 1) : 0;
    return rc;
}

static int evaluate(double *out, bench *b, int set, const int64_t *runs, int64_t n, err *e)
{
    int64_t m;
    for (int k = 0; k < VM_COUNT; k++)
        out[k] = NAN;
    int rc = spectrum(b, set, runs, n, &m, e);
    if (rc || m < 2)
        return rc;
    int64_t r = b->v->rank[set];
    out[VM_LOG_VOLUME] = volume_log(b->lambda, m, r);
    out[VM_SIDE] = exp(out[VM_LOG_VOLUME] / (double)(r ? r : 1));
    out[VM_REGULARISED] = volume_log_regularised(b->lambda, m, b->v->epsilon[set]);
    out[VM_TOTAL_VARIANCE] = 0;
    for (int64_t i = 0; i < m; i++)
        out[VM_TOTAL_VARIANCE] += b->lambda[i];
    if (set == VS_ENDS)
        out[VM_SIMPLEX] = volume_log_simplex(b->lambda, m);
    const pca_set *q = &b->p->set[set == VS_ENDS ? PCA_ENDS : PCA_POOLED];
    for (int dims = 2; dims <= 3; dims++) {
        hull_measure h;
        if (m < dims + 1 || q->k < dims || q->rank < dims)
            continue; /* fewer points than a simplex of that dimension: no volume to speak of */
        for (int64_t i = 0; i < m; i++)
            for (int c = 0; c < dims; c++)
                b->points[i * dims + c] = q->scores[c * q->n + b->index[i]];
        if ((rc = dims == 2 ? hull_2d(&h, b->points, m, e) : hull_3d(&h, b->points, m, e)))
            return rc;
        out[dims == 2 ? VM_AREA_2D : VM_VOLUME_3D] = h.volume;
        out[dims == 2 ? VM_PERIMETER_2D : VM_SURFACE_3D] = h.surface;
    }
    return 0;
}

/* The value of a list of runs, cut down to `seeds` runs: the mean over random subsets when there are more. */
static int evaluate_equalised(double *out, bench *b, int set, const int64_t *runs, int64_t n, int64_t seeds,
                              uint64_t seed, err *e)
{
    if (n <= seeds)
        return evaluate(out, b, set, runs, n, e);
    int64_t *pick = malloc((size_t)(2 * seeds) * sizeof *pick), *chosen = pick + seeds;
    double one[VM_COUNT];
    stats_rng rng;
    int rc = pick ? 0 : ERR(e, ERR_MEMORY, "no memory for subsets of seeds");
    stats_rng_seed(&rng, seed);
    for (int k = 0; k < VM_COUNT; k++)
        out[k] = 0;
    for (int i = 0; i < SUBSETS && !rc; i++) {
        stats_rng_subset(&rng, pick, seeds, n);
        for (int64_t j = 0; j < seeds; j++)
            chosen[j] = runs[pick[j]];
        rc = evaluate(one, b, set, chosen, seeds, e);
        for (int k = 0; k < VM_COUNT; k++)
            out[k] += one[k] / SUBSETS;
    }
    free(pick);
    return rc;
}

static void runs_of(int64_t *runs, const sweep *s, int64_t g, int64_t without)
{
    int64_t n = 0;
    for (int64_t i = 0; i < s->groups[g].n; i++)
        if (i != without)
            runs[n++] = s->groups[g].first + i;
}

/* One r and one epsilon for all variations. Leaving one seed out must still leave r dimensions, or there is no
 * interval. */
static int choose_ranks(volume *v, bench *b, int64_t wanted, int64_t *runs, err *e)
{
    const sweep *s = b->s;
    v->seeds = 0;
    for (int64_t g = 0; g < s->n_groups; g++)
        if (s->groups[g].n >= 2 && (!v->seeds || s->groups[g].n < v->seeds))
            v->seeds = s->groups[g].n;
    if (!v->seeds)
        v->seeds = 1;
    for (int set = 0; set < VS_SETS; set++) {
        int64_t limit = INT64_MAX, spare = v->seeds >= 3 ? v->seeds - 1 : v->seeds;
        double variance = 0, dof = 0;
        for (int64_t g = 0; g < s->n_groups; g++) {
            int64_t m;
            if (s->groups[g].n < v->seeds)
                continue;
            runs_of(runs, s, g, -1);
            int rc = spectrum(b, set, runs, wanted ? v->seeds : spare, &m, e);
            if (rc)
                return rc;
            int64_t rank = spectrum_rank(b->lambda, m);
            rank = rank > m - 1 ? m - 1 : rank;
            limit = rank < limit ? rank : limit;
            if ((rc = spectrum(b, set, runs, v->seeds, &m, e)))
                return rc;
            for (int64_t i = 0; i < m; i++)
                variance += b->lambda[i] * (double)(m - 1);
            dof += (double)(m - 1) * (double)(m - 1); /* mean eigenvalue = variance / (m - 1) over m - 1 dimensions */
        }
        limit = limit == INT64_MAX ? 0 : limit;
        int64_t choice = wanted ? wanted : set == VS_PATHS ? VOLUME_PATH_RANK : limit;
        v->rank[set] = choice < limit ? choice : limit;
        if (wanted > limit && limit > 0)
            log_msg(LOG_WARN, "--rank %lld: the %s of some variation span only %lld dimensions; %lld is used for them",
                    (long long)wanted, set == VS_ENDS ? "results" : "paths", (long long)limit, (long long)limit);
        v->epsilon[set] = dof > 0 ? EPSILON_SHARE * variance / dof : NAN;
    }
    return 0;
}

static int fill_gap(volume *v, bench *b, int set, int64_t g, const int64_t *runs, err *e)
{
    int64_t m, r = v->rank[set], seeds = v->seeds;
    int rc = spectrum(b, set, runs, seeds, &m, e);
    if (!rc && r > 0 && r < m - 1 && b->lambda[r] > 0)
        v->gap[set * b->s->n_groups + g] = b->lambda[r - 1] / b->lambda[r];
    return rc;
}

/* Values, and for the jackknife the values without each seed (without[i][VM_COUNT]). */
static int measure_group(volume *v, bench *b, int set, int64_t g, int64_t *runs, double *without, uint64_t seed, err *e)
{
    const sweep *s = b->s;
    int64_t n = s->groups[g].n;
    double value[VM_COUNT], *column = malloc((size_t)(n + 1) * sizeof *column);
    int rc = column ? 0 : ERR(e, ERR_MEMORY, "no memory for the jackknife");
    bool counts = n >= v->seeds && (set == VS_PATHS || n >= 2);
    for (int k = 0; k < VM_COUNT; k++)
        value[k] = NAN;
    for (int64_t i = 0; i < n * VM_COUNT; i++)
        without[i] = NAN;
    if (!rc && counts) {
        runs_of(runs, s, g, -1);
        rc = evaluate_equalised(value, b, set, runs, n, v->seeds, seed, e);
        if (!rc)
            rc = fill_gap(v, b, set, g, runs, e);
    }
    for (int64_t i = 0; i < n && !rc && counts && n >= 3; i++) {
        runs_of(runs, s, g, i);
        rc = evaluate_equalised(without + i * VM_COUNT, b, set, runs, n - 1, v->seeds, seed, e);
    }
    for (int k = 0; k < VM_COUNT && !rc; k++) {
        for (int64_t i = 0; i < n; i++) /* a simplex loses a dimension with a corner: nothing to compare */
            column[i] = k == VM_SIMPLEX ? NAN : without[i * VM_COUNT + k];
        bool is_log = k == VM_LOG_VOLUME || k == VM_REGULARISED || k == VM_SIMPLEX;
        v->value[(set * s->n_groups + g) * VM_COUNT + k] =
            (is_log ? stats_jackknife : stats_jackknife_log)(value[k], column, n);
    }
    free(column);
    return rc;
}

static bool same_seeds(const sweep *s, int64_t a, int64_t b)
{
    if (s->groups[a].n != s->groups[b].n)
        return false;
    for (int64_t i = 0; i < s->groups[a].n; i++)
        if (s->runs[s->groups[a].first + i].run->seed != s->runs[s->groups[b].first + i].run->seed)
            return false;
    return true;
}

/* Are the two clouds of results of equal volume? Each is centred on its own mean; swapping the two results of a seed
 * between them changes nothing if they are. The p value is the share of swaps with as large a difference. */
static int swap_test(volume_pair *out, bench *b, int64_t ga, int64_t gb, uint64_t seed, err *e)
{
    const sweep *s = b->s;
    int64_t n = s->groups[ga].n, r = b->v->rank[VS_ENDS], runs[2][64], reached = 1, m;
    if (n < 3 || n > 64 || r < 1)
        return 0;
    out->exact = n <= EXACT_SWAPS_UP_TO;
    int64_t trials = out->exact ? (int64_t)1 << (n - 1) : RANDOM_SWAPS + 1;
    double observed = 0;
    stats_rng rng;
    stats_rng_seed(&rng, seed ^ 0x243f6a88u);
    for (int64_t t = 0; t < trials; t++) { /* t = 0 is the data; the last seed never swaps (all swapped = none) */
        double log_volume[2];
        for (int64_t i = 0; i < n; i++) {
            bool swap = t > 0 && (out->exact ? t >> i & 1 : stats_rng_below(&rng, 2) == 1);
            runs[swap][i] = s->groups[ga].first + i;
            runs[!swap][i] = s->groups[gb].first + i;
        }
        for (int side = 0; side < 2; side++) {
            int rc = spectrum(b, VS_ENDS, runs[side], n, &m, e);
            if (rc)
                return rc;
            log_volume[side] = volume_log(b->lambda, m, r);
        }
        double difference = fabs(log_volume[0] - log_volume[1]);
        if (t == 0)
            observed = difference;
        else
            reached += difference >= observed * (1 - 1e-10);
    }
    if (!isfinite(observed))
        return 0;
    out->p = (double)reached / (double)trials;
    out->p_min = 1.0 / (double)trials;
    return 0;
}

static int compare_pairs(volume *v, bench *b, double *const *without, const output *o, err *e)
{
    const sweep *s = b->s;
    int64_t most = s->n_runs + 1;
    bool all;
    int rc = metrics_pairs(&v->pair, &v->n_pairs, &all, s, e);
    if (rc)
        return rc;
    double *column = malloc((size_t)(most + 2 * v->n_pairs + 2) * sizeof *column), *p = column + most,
           *adjusted = p + v->n_pairs + 1;
    v->paired = calloc((size_t)(VS_SETS * v->n_pairs + 1), sizeof *v->paired);
    if (!column || !v->paired) {
        free(column);
        return ERR(e, ERR_MEMORY, "no memory for %lld pairs of variations", (long long)v->n_pairs);
    }
    for (int set = 0; set < VS_SETS && !rc; set++) {
        for (int64_t q = 0; q < v->n_pairs && !rc; q++) {
            int64_t a = v->pair[2 * q], c = v->pair[2 * q + 1], n = s->groups[a].n;
            volume_pair *x = &v->paired[set * v->n_pairs + q];
            bool paired = same_seeds(s, a, c);
            for (int k = 0; k < VM_COUNT; k++) {
                double difference = v->value[(set * s->n_groups + a) * VM_COUNT + k].mean -
                                    v->value[(set * s->n_groups + c) * VM_COUNT + k].mean;
                for (int64_t i = 0; i < n; i++)
                    column[i] = paired && k != VM_SIMPLEX ? without[set * s->n_groups + a][i * VM_COUNT + k] -
                                                                without[set * s->n_groups + c][i * VM_COUNT + k]
                                                          : NAN;
                x->diff[k] = stats_jackknife(difference, column, n);
            }
            x->p = x->p_min = x->p_holm = NAN;
            if (set == VS_ENDS && paired)
                rc = swap_test(x, b, a, c, o->seed, e);
            p[q] = x->p;
        }
        stats_holm(adjusted, p, v->n_pairs);
        for (int64_t q = 0; q < v->n_pairs && !rc; q++)
            v->paired[set * v->n_pairs + q].p_holm = adjusted[q];
    }
    free(column);
    return rc;
}

int volume_open(volume *v, const sweep *s, const pca *p, int64_t rank, const output *o, err *e)
{
    memset(v, 0, sizeof *v);
    int64_t G = s->n_groups, largest = 1;
    for (int64_t g = 0; g < G; g++)
        largest = s->groups[g].n > largest ? s->groups[g].n : largest;
    int64_t points = largest * s->pooled_per_run;
    bench b = { s, p, v, NULL, NULL, NULL, NULL };
    double **without = calloc((size_t)(VS_SETS * G), sizeof *without);
    int64_t *runs = malloc((size_t)(largest + 1) * sizeof *runs);
    b.gram = malloc((size_t)(points * points + 1) * sizeof *b.gram);
    b.lambda = malloc((size_t)(points + 1) * sizeof *b.lambda);
    b.points = malloc((size_t)(points * 3 + 1) * sizeof *b.points);
    b.index = malloc((size_t)(points + 1) * sizeof *b.index);
    v->gap = malloc((size_t)(VS_SETS * G) * sizeof *v->gap);
    v->value = calloc((size_t)(VS_SETS * G * VM_COUNT), sizeof *v->value);
    int rc = 0;
    if (!without || !runs || !b.gram || !b.lambda || !b.points || !b.index || !v->gap || !v->value)
        rc = ERR(e, ERR_MEMORY, "no memory for the volumes of %lld variations; lower --max-rows", (long long)G);
    for (int64_t i = 0; i < VS_SETS * G && !rc; i++)
        v->gap[i] = NAN;
    if (!rc)
        rc = choose_ranks(v, &b, rank, runs, e);
    for (int set = 0; set < VS_SETS && !rc; set++)
        for (int64_t g = 0; g < G && !rc; g++) {
            double *w = without[set * G + g] = malloc((size_t)(s->groups[g].n * VM_COUNT + 1) * sizeof *w);
            rc = w ? measure_group(v, &b, set, g, runs, w, o->seed, e)
                   : ERR(e, ERR_MEMORY, "no memory for the jackknife");
            log_progress("volumes", set * G + g + 1, VS_SETS * G, -1);
        }
    log_progress_end();
    if (!rc)
        rc = compare_pairs(v, &b, without, o, e);
    for (int64_t i = 0; without && i < VS_SETS * G; i++)
        free(without[i]);
    free(without);
    free(runs);
    free(b.gram);
    free(b.lambda);
    free(b.points);
    free(b.index);
    if (rc)
        volume_close(v);
    return rc;
}

void volume_close(volume *v)
{
    free(v->gap);
    free(v->value);
    free(v->pair);
    free(v->paired);
    memset(v, 0, sizeof *v);
}
