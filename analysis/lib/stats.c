#include "analysis/lib/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define EXACT_UP_TO 16 /* 65536 sign patterns */
#define RANDOM_PATTERNS 100000
#define T_BELOW 5

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

void stats_rng_seed(stats_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        r->s[i] = z ^ (z >> 31);
    }
}

static uint64_t rng_next(stats_rng *r)
{
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

uint64_t stats_rng_below(stats_rng *r, uint64_t n)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % n, x;
    do
        x = rng_next(r);
    while (x >= limit);
    return x % n;
}

void stats_rng_subset(stats_rng *r, int64_t *out, int64_t k, int64_t n)
{
    int64_t taken = 0;
    for (int64_t i = 0; i < n && taken < k; i++) /* selection sampling: i is in with (wanted left) / (offered left) */
        if ((int64_t)stats_rng_below(r, (uint64_t)(n - i)) < k - taken)
            out[taken++] = i;
}

/* Continued fraction of the incomplete beta function (Lentz), for x < (a+1)/(a+b+2). */
static double beta_fraction(double a, double b, double x)
{
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double h = d;
    for (int m = 1; m < 500; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        for (int half = 0; half < 2; half++) {
            double num = half ? odd : even;
            d = 1 + num * d;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = 1 + num / c;
            c = fabs(c) < tiny ? tiny : c;
            h *= d * c;
        }
        if (fabs(d * c - 1) < 1e-16)
            break;
    }
    return h;
}

static double beta_regularised(double a, double b, double x)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    return x < (a + 1) / (a + b + 2) ? front * beta_fraction(a, b, x) / a : 1 - front * beta_fraction(b, a, 1 - x) / b;
}

static double t_upper_tail(double t, double df)
{
    return 0.5 * beta_regularised(df / 2, 0.5, df / (df + t * t));
}

double stats_t_quantile(double p, double df)
{
    if (p == 0.5)
        return 0;
    if (p < 0.5)
        return -stats_t_quantile(1 - p, df);
    double lo = 0, hi = 1;
    while (t_upper_tail(hi, df) > 1 - p && hi < 1e12)
        hi *= 2;
    for (int i = 0; i < 200 && hi - lo > 1e-14 * hi; i++) {
        double mid = 0.5 * (lo + hi);
        if (t_upper_tail(mid, df) > 1 - p)
            lo = mid;
        else
            hi = mid;
    }
    return 0.5 * (lo + hi);
}

double stats_quantile(const double *sorted, int64_t n, double q)
{
    double at = q * (double)(n - 1);
    int64_t i = (int64_t)at;
    if (i >= n - 1)
        return sorted[n - 1];
    return sorted[i] + (at - (double)i) * (sorted[i + 1] - sorted[i]);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

const char *stats_ci_name(ci_method m)
{
    return m == CI_BOOTSTRAP ? "bootstrap" : m == CI_T ? "t" : m == CI_JACKKNIFE ? "jackknife" : "none";
}

static stats_interval interval_of(const double *x, int64_t n, int64_t resamples, uint64_t seed)
{
    stats_interval r = { n, NAN, NAN, NAN, NAN, NAN, NAN, CI_NONE };
    if (n == 0)
        return r;
    double sum = 0, square = 0;
    r.min = r.max = x[0];
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
        r.min = fmin(r.min, x[i]);
        r.max = fmax(r.max, x[i]);
    }
    r.mean = sum / (double)n;
    if (n == 1)
        return r;
    for (int64_t i = 0; i < n; i++)
        square += (x[i] - r.mean) * (x[i] - r.mean);
    r.sd = sqrt(square / (double)(n - 1));
    double *means = n >= T_BELOW && resamples > 0 ? malloc((size_t)resamples * sizeof *means) : NULL;
    if (!means) {
        double half = stats_t_quantile(0.975, (double)(n - 1)) * r.sd / sqrt((double)n);
        r.method = CI_T;
        r.lo = r.mean - half;
        r.hi = r.mean + half;
        return r;
    }
    stats_rng rng;
    stats_rng_seed(&rng, seed);
    for (int64_t k = 0; k < resamples; k++) {
        double s = 0;
        for (int64_t i = 0; i < n; i++)
            s += x[stats_rng_below(&rng, (uint64_t)n)];
        means[k] = s / (double)n;
    }
    qsort(means, (size_t)resamples, sizeof *means, by_value);
    r.method = CI_BOOTSTRAP;
    r.lo = stats_quantile(means, resamples, 0.025);
    r.hi = stats_quantile(means, resamples, 0.975);
    free(means);
    return r;
}

stats_interval stats_mean_interval(const double *values, int64_t n, int64_t resamples, uint64_t seed)
{
    stats_interval none = { 0, NAN, NAN, NAN, NAN, NAN, NAN, CI_NONE };
    double *x = calloc((size_t)n + 1, sizeof *x);
    if (!x)
        return none;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(values[i]))
            x[m++] = values[i];
    stats_interval r = interval_of(x, m, resamples, seed);
    free(x);
    return r;
}

/* Share of sign patterns whose |sum| reaches that of the data. The tolerance keeps ties (equal differences summed in
 * another order) on the side of "reached". */
static double sign_flip_p(const double *d, int64_t n, uint64_t seed, bool *exact)
{
    double observed = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        observed += d[i];
        scale += fabs(d[i]);
    }
    double bar = fabs(observed) - 1e-10 * scale;
    int64_t reached = 1;
    *exact = n <= EXACT_UP_TO;
    if (*exact) {
        /* The last sign stays: a pattern and its opposite have the same |sum|. Gray order changes one sign at a time.
         */
        int64_t patterns = (int64_t)1 << (n - 1);
        uint32_t gray = 0;
        double s = observed;
        for (int64_t k = 1; k < patterns; k++) {
            int bit = __builtin_ctzll((unsigned long long)k);
            gray ^= 1u << bit;
            s += gray >> bit & 1 ? -2 * d[bit] : 2 * d[bit];
            reached += fabs(s) >= bar;
        }
        return (double)reached / (double)patterns;
    }
    reached = 0;
    stats_rng rng;
    stats_rng_seed(&rng, seed);
    for (int k = 0; k < RANDOM_PATTERNS; k++) {
        double s = 0;
        for (int64_t i = 0; i < n; i++)
            s += rng_next(&rng) >> 63 ? -d[i] : d[i];
        reached += fabs(s) >= bar;
    }
    return (double)(reached + 1) / (RANDOM_PATTERNS + 1.0);
}

stats_paired stats_compare_paired(const double *a, const double *b, int64_t n, int64_t resamples, uint64_t seed)
{
    stats_paired r = { { 0, NAN, NAN, NAN, NAN, NAN, NAN, CI_NONE }, NAN, NAN, NAN, NAN, true };
    double *d = calloc((size_t)n + 1, sizeof *d);
    if (!d)
        return r;
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++)
        if (isfinite(a[i]) && isfinite(b[i]))
            d[m++] = a[i] - b[i];
    r.diff = interval_of(d, m, resamples, seed);
    if (m >= 2 && r.diff.sd > 0)
        r.dz = r.diff.mean / r.diff.sd;
    if (m >= 1) {
        r.p = sign_flip_p(d, m, seed ^ 0x5bd1e995u, &r.exact);
        r.p_min = r.exact ? 2.0 / (double)((int64_t)1 << m) : 1.0 / (RANDOM_PATTERNS + 1.0);
    }
    free(d);
    return r;
}

stats_interval stats_jackknife(double value, const double *without, int64_t n)
{
    stats_interval r = { n, value, NAN, NAN, NAN, NAN, NAN, CI_NONE };
    double mean = 0, square = 0;
    if (n < 3 || !isfinite(value))
        return r;
    for (int64_t i = 0; i < n; i++)
        mean += without[i] / (double)n;
    if (!isfinite(mean))
        return r;
    for (int64_t i = 0; i < n; i++)
        square += (without[i] - mean) * (without[i] - mean);
    r.sd = sqrt(square * (double)(n - 1) / (double)n); /* the standard error here */
    double half = stats_t_quantile(0.975, (double)(n - 1)) * r.sd;
    r.lo = value - half;
    r.hi = value + half;
    r.method = CI_JACKKNIFE;
    return r;
}

stats_interval stats_jackknife_log(double value, const double *without, int64_t n)
{
    stats_interval none = { n, value, NAN, NAN, NAN, NAN, NAN, CI_NONE };
    double *logs = calloc((size_t)n + 1, sizeof *logs);
    if (!logs || !(value > 0)) {
        free(logs);
        return none;
    }
    for (int64_t i = 0; i < n; i++)
        logs[i] = without[i] > 0 ? log(without[i]) : NAN;
    stats_interval r = stats_jackknife(log(value), logs, n);
    free(logs);
    r.mean = value;
    if (r.method == CI_NONE)
        return none;
    r.lo = exp(r.lo);
    r.hi = exp(r.hi);
    r.sd *= value; /* standard error by the delta rule */
    return r;
}

void stats_holm(double *adjusted, const double *p, int64_t n)
{
    int64_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        adjusted[i] = NAN;
        m += !isnan(p[i]);
    }
    double running = 0;
    for (int64_t rank = 0; rank < m; rank++) { /* the smallest not yet adjusted, and so on: n is small */
        int64_t next = -1;
        for (int64_t i = 0; i < n; i++)
            if (!isnan(p[i]) && isnan(adjusted[i]) && (next < 0 || p[i] < p[next]))
                next = i;
        running = fmax(running, fmin(1, p[next] * (double)(m - rank)));
        adjusted[next] = running;
    }
}
