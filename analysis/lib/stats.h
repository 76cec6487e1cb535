/* stats: intervals and tests over seeds. A handful of seeds is the usual case, so every result carries its N, intervals
 * of fewer than five values are t-intervals, and tests say the smallest p they could have reached. */
#ifndef WANSCOPE_STATS_H
#define WANSCOPE_STATS_H

#include <stdbool.h>
#include <stdint.h>

/* xoshiro256** seeded by splitmix64: our own generator, so that a seed means the same everywhere. */
typedef struct stats_rng {
    uint64_t s[4];
} stats_rng;

void stats_rng_seed(stats_rng *r, uint64_t seed);
uint64_t stats_rng_below(stats_rng *r, uint64_t n);                      /* uniform on 0..n-1, without bias; n > 0 */
void stats_rng_subset(stats_rng *r, int64_t *out, int64_t k, int64_t n); /* k of 0..n-1, rising, all subsets alike */

double stats_t_quantile(double p, double df);                     /* of Student's t; df > 0 */
double stats_quantile(const double *sorted, int64_t n, double q); /* linear between order statistics */

typedef enum { CI_NONE, CI_BOOTSTRAP, CI_T, CI_JACKKNIFE } ci_method;
const char *stats_ci_name(ci_method m); /* "bootstrap", "t", "jackknife", "none" */

typedef struct stats_interval {
    int64_t n;                         /* finite values used */
    double mean, sd, min, max, lo, hi; /* sd with n-1; NaN where there are too few values */
    ci_method method;
} stats_interval;

/* Mean and 95 % interval of values; values that are not finite are left out. n >= 5: percentile bootstrap with
 * `resamples` resamples from `seed`; 2..4: t-interval; 1: none. */
stats_interval stats_mean_interval(const double *values, int64_t n, int64_t resamples, uint64_t seed);

typedef struct stats_paired {
    stats_interval diff; /* of a - b over the pairs */
    double dz;           /* mean difference / its standard deviation */
    double p, p_min;     /* two-sided sign-flip test; smallest p this N can give */
    double p_holm;       /* filled by stats_holm() */
    bool exact;          /* all 2^N sign patterns; else random ones */
} stats_paired;

/* a[i] and b[i] belong together; pairs with a value that is not finite are left out. */
stats_paired stats_compare_paired(const double *a, const double *b, int64_t n, int64_t resamples, uint64_t seed);

/* Delete-one jackknife: the value from all data and the n values with one left out each give a 95 % t-interval. */
stats_interval stats_jackknife(double value, const double *without, int64_t n);

/* The same for a positive quantity such as an area: on its logarithm, so that the interval stays positive. */
stats_interval stats_jackknife_log(double value, const double *without, int64_t n);

/* Holm's correction of n p values (NaN entries are left out and stay NaN). */
void stats_holm(double *adjusted, const double *p, int64_t n);

#endif
