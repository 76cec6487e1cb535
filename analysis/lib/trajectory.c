#include "analysis/lib/trajectory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "analysis/lib/linalg.h"

#define U "latent units"

const metric_def TRAJECTORY_METRICS[TM_COUNT] = {
    { "path_length", U, "L, sum of the lengths of all stored steps" },
    { "endpoint_distance", U, "d, distance from the noise to the result" },
    { "tortuosity", "1", "L / d; 1 for a straight path" },
    { "linearity", "1", "d / L; 1 for a straight path" },
    { "straightness", U "^2",
      "rectified-flow straightness S: 0 for a straight path walked at constant velocity in sigma" },
    { "straightness_relative", "1", "S / d^2" },
    { "chord_deviation_max", U, "largest distance from the line through noise and result" },
    { "chord_deviation_max_relative", "1", "the same over d" },
    { "chord_deviation_mean_relative", "1", "mean over the inner rows of the distance from that line, over d" },
    { "turning_total", "rad", "sum of the angles between successive steps" },
    { "turning_mean", "rad", "mean of the angles between successive steps" },
    { "endpoint_alignment", "1", "mean cosine between a step and the direction from noise to result" },
    { "curvature_mean", "1/" U, "mean of 2 sin(angle/2) over the mean of the two step lengths" },
    { "curvature_max", "1/" U, "largest of these" },
    { "half_life_step", "steps", "interpolated step at which the distance to the result has halved" },
    { "half_life_sigma", "sigma", "sigma at that point" },
    { "pc1_fraction", "1", "share of the variance of the stored rows on their first principal component" },
    { "sigma_fit_r2", "1", "share of the variance of the stored rows explained by a line in sigma" },
    { "speed_mean", U "/step", "mean step length" },
    { "speed_sd", U "/step", "standard deviation of the step lengths (n-1)" },
    { "velocity_mean", U "/sigma", "path length over the total change of sigma" },
    { "velocity_cv", "1", "spread of the step length over change of sigma: sigma-weighted deviation over mean" },
    { "acceleration_mean", U "/sigma^2", "mean length of the change of velocity over the change of sigma" },
};

const metric_def PROFILE_COLUMNS[PC_COUNT] = {
    { "speed", U "/step", "length of the step that ends here, over the number of sampling steps it covers" },
    { "velocity", U "/sigma", "length of the step that ends here, over its change of sigma" },
    { "arc_length", U, "path length up to here" },
    { "acceleration", U "/sigma^2", "change of velocity here, over the mean of the two changes of sigma" },
    { "turning_angle", "rad", "angle between the step that ends here and the next" },
    { "curvature", "1/" U, "2 sin(angle/2) over the mean length of the two steps" },
    { "chord_deviation", U, "distance from the line through noise and result" },
    { "chord_deviation_relative", "1", "the same over the distance from noise to result" },
    { "distance_from_start", U, "distance from the noise" },
    { "distance_to_end", U, "distance to the result" },
};

void trajectory_position_gram(double *G, const path_sums *p, int64_t T)
{
    int64_t m = T - 1;
    for (int64_t t = 0; t < T; t++)
        for (int64_t s = 0; s < T; s++)
            G[t * T + s] = t == 0 || s == 0 ? 0
                                            : p->vv[(t - 1) * m + s - 1] + G[(t - 1) * T + s] + G[t * T + s - 1] -
                                                  G[(t - 1) * T + s - 1];
    gram_center(G, T);
}

/* Angle between two steps from |u|, |w|, |u-w|^2 and |u+w|^2: with unit vectors, |u^-w^|^2 = (|u-w|^2 - (|u|-|w|)^2) /
 * (|u||w|), and the same with plus. atan2 of the two keeps full precision near 0 and near pi, where arccos has none. */
static double turning_angle(double u, double w, double minus2, double plus2)
{
    double between = minus2 - (u - w) * (u - w), across = plus2 - (u - w) * (u - w);
    return 2 * atan2(sqrt(between > 0 ? between : 0), sqrt(across > 0 ? across : 0));
}

static void profile_of(double *f, const path_sums *p, const int32_t *rows, const double *sigma, int64_t T)
{
    int64_t m = T - 1;
    double chord = sqrt(p->end2), arc = 0;
    for (int64_t i = 0; i < T * PC_COUNT; i++)
        f[i] = NAN;
    for (int64_t t = 0; t < T; t++) {
        double *row = f + t * PC_COUNT;
        row[PC_FROM_START] = sqrt(p->from_start[t]);
        row[PC_TO_END] = sqrt(p->to_end[t]);
        if (t > 0) {
            double step = sqrt(p->vv[(t - 1) * m + t - 1]), ds = fabs(sigma[t] - sigma[t - 1]);
            arc += step;
            row[PC_SPEED] = step / (double)(rows[t] - rows[t - 1]);
            row[PC_VELOCITY] = ds > 0 ? step / ds : NAN;
        }
        row[PC_ARC] = arc;
        if (p->end2 > 0) {
            /* The projection on the chord may lie beyond either end; the distance is to the line. */
            double off2 = p->from_start[t] - p->along[t] * (p->along[t] / p->end2);
            double off2_from_end = p->to_end[t] - (p->along[t] - p->end2) * ((p->along[t] - p->end2) / p->end2);
            if (t > m / 2) /* measured from the nearer end: less to cancel */
                off2 = off2_from_end;
            row[PC_CHORD] = t == 0 || t == m || off2 < 0 ? 0 : sqrt(off2);
            row[PC_CHORD_REL] = row[PC_CHORD] / chord;
        }
        if (t > 0 && t < m) {
            double u = sqrt(p->vv[(t - 1) * m + t - 1]), w = sqrt(p->vv[t * m + t]);
            double mean_ds = 0.5 * (fabs(sigma[t] - sigma[t - 1]) + fabs(sigma[t + 1] - sigma[t]));
            row[PC_ACCELERATION] = sqrt(p->accel[t - 1]) / mean_ds;
            if (u > 0 && w > 0) {
                row[PC_TURNING] = turning_angle(u, w, p->turn_minus[t - 1], p->turn_plus[t - 1]);
                row[PC_CURVATURE] = 2 * sin(0.5 * row[PC_TURNING]) / (0.5 * (u + w));
            }
        }
    }
}

/* Sum, mean and largest of the finite entries of a profile column. */
static int64_t column_stats(double *sum, double *max, const double *profile, int64_t T, int column)
{
    int64_t n = 0;
    *sum = 0;
    *max = NAN;
    for (int64_t t = 0; t < T; t++) {
        double x = profile[t * PC_COUNT + column];
        if (!isfinite(x))
            continue;
        *sum += x;
        *max = n ? fmax(*max, x) : x;
        n++;
    }
    return n;
}

static void half_life(double *value, const double *profile, const int32_t *rows, const double *sigma, int64_t T)
{
    double half = 0.5 * profile[PC_TO_END];
    if (!(half > 0))
        return;
    for (int64_t t = 1; t < T; t++) {
        double before = profile[(t - 1) * PC_COUNT + PC_TO_END], now = profile[t * PC_COUNT + PC_TO_END];
        if (now > half)
            continue;
        double share = before > now ? (before - half) / (before - now) : 0;
        value[TM_HALF_STEP] = rows[t - 1] + share * (rows[t] - rows[t - 1]);
        value[TM_HALF_SIGMA] = sigma[t - 1] + share * (sigma[t] - sigma[t - 1]);
        return;
    }
}

/* Straightness: with time running 0..1 as the share of the change of sigma, S = sum dt |e - v/dt|^2. */
static double straightness(const path_sums *p, const double *sigma, int64_t T)
{
    double span = 0, s = 0;
    for (int64_t k = 0; k + 1 < T; k++)
        span += fabs(sigma[k + 1] - sigma[k]);
    for (int64_t k = 0; k + 1 < T; k++)
        s += fabs(sigma[k + 1] - sigma[k]) / span * p->off_straight[k];
    return s;
}

static int spectrum_metrics(double *value, const path_sums *p, const double *sigma, int64_t T, err *e)
{
    double *G = malloc((size_t)(T * T + 2 * T) * sizeof *G), *lambda = G + T * T, *s = lambda + T;
    if (!G)
        return ERR(e, ERR_MEMORY, "no memory for the Gram matrix of %lld rows", (long long)T);
    trajectory_position_gram(G, p, T);
    double total = 0, mean = 0, ss = 0, fit = 0;
    for (int64_t t = 0; t < T; t++) {
        total += G[t * T + t];
        mean += sigma[t] / (double)T;
    }
    for (int64_t t = 0; t < T; t++) {
        s[t] = sigma[t] - mean;
        ss += s[t] * s[t];
    }
    for (int64_t t = 0; t < T; t++)
        for (int64_t u = 0; u < T; u++)
            fit += s[t] * G[t * T + u] * s[u];
    if (total > 0 && ss > 0)
        value[TM_SIGMA_FIT] = fit / (ss * total);
    int rc = gram_eigen(lambda, NULL, G, T, 0, e);
    if (!rc && total > 0)
        value[TM_PC1] = fmin(1, lambda[0] / total);
    free(G);
    return rc;
}

int trajectory_of_path(double *value, double *profile, const path_sums *p, const int32_t *rows, const double *sigma,
                       int64_t T, err *e)
{
    int64_t m = T - 1;
    double sum, max, span = 0;
    for (int k = 0; k < TM_COUNT; k++)
        value[k] = NAN;
    profile_of(profile, p, rows, sigma, T);
    double L = profile[m * PC_COUNT + PC_ARC], d = sqrt(p->end2);
    value[TM_PATH_LENGTH] = L;
    value[TM_ENDPOINT_DISTANCE] = d;
    value[TM_TORTUOSITY] = d > 0 ? L / d : NAN;
    value[TM_LINEARITY] = L > 0 ? d / L : NAN;
    value[TM_STRAIGHTNESS] = straightness(p, sigma, T);
    value[TM_STRAIGHTNESS_REL] = d > 0 ? value[TM_STRAIGHTNESS] / p->end2 : NAN;
    column_stats(&sum, &max, profile, T, PC_CHORD);
    value[TM_CHORD_MAX] = max;
    column_stats(&sum, &max, profile, T, PC_CHORD_REL);
    value[TM_CHORD_MAX_REL] = max;
    value[TM_CHORD_MEAN_REL] = m > 1 && d > 0 ? sum / (double)(m - 1) : NAN;
    int64_t n = column_stats(&sum, &max, profile, T, PC_TURNING);
    value[TM_TURNING_TOTAL] = n ? sum : NAN;
    value[TM_TURNING_MEAN] = n ? sum / (double)n : NAN;
    n = column_stats(&sum, &max, profile, T, PC_CURVATURE);
    value[TM_CURVATURE_MEAN] = n ? sum / (double)n : NAN;
    value[TM_CURVATURE_MAX] = max;
    n = column_stats(&sum, &max, profile, T, PC_ACCELERATION);
    value[TM_ACCELERATION_MEAN] = n ? sum / (double)n : NAN;
    n = 0;
    sum = 0;
    for (int64_t k = 0; k < m && d > 0; k++) {
        double step = sqrt(p->vv[k * m + k]);
        if (step > 0) {
            sum += p->v_along[k] / (step * d);
            n++;
        }
    }
    value[TM_ALIGNMENT] = n ? sum / (double)n : NAN;
    half_life(value, profile, rows, sigma, T);
    value[TM_SPEED_MEAN] = L / (double)(rows[m] - rows[0]);
    double square = 0, weighted = 0;
    for (int64_t t = 1; t < T; t++) {
        double ds = fabs(sigma[t] - sigma[t - 1]);
        square += pow(profile[t * PC_COUNT + PC_SPEED] - value[TM_SPEED_MEAN], 2);
        span += ds;
    }
    value[TM_SPEED_SD] = m > 1 ? sqrt(square / (double)(m - 1)) : NAN;
    value[TM_VELOCITY_MEAN] = span > 0 ? L / span : NAN;
    for (int64_t t = 1; t < T; t++)
        weighted += fabs(sigma[t] - sigma[t - 1]) / span *
                    pow(profile[t * PC_COUNT + PC_VELOCITY] - value[TM_VELOCITY_MEAN], 2);
    value[TM_VELOCITY_CV] = L > 0 ? sqrt(weighted) / value[TM_VELOCITY_MEAN] : NAN;
    return spectrum_metrics(value, p, sigma, T, e);
}
