/* hull: convex hulls of small point sets in two and three dimensions, in f64. */
#ifndef WANSCOPE_HULL_H
#define WANSCOPE_HULL_H

#include <stdint.h>

#include "core/base/err.h"

typedef struct hull_measure {
    double volume;    /* area in 2-d, volume in 3-d; 0 for points on a line (2-d) or in a plane (3-d) */
    double surface;   /* perimeter in 2-d, surface area in 3-d (of a flat set: both sides) */
    int64_t vertices; /* corners found */
} hull_measure;

/* points[n][2], points[n][3]. Fewer points than a simplex needs, repeated points and flat sets are fine: volume 0. */
int hull_2d(hull_measure *out, const double *points, int64_t n, err *e);
int hull_3d(hull_measure *out, const double *points, int64_t n, err *e);

#endif
