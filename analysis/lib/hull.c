#include "analysis/lib/hull.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FLAT 1e-11 /* distances below this share of the set's extent count as zero */
#define GRID_BITS 39

/* The three-dimensional hull decides which side of a face a point is on exactly: coordinates are rounded to a grid of
 * 2^39 steps over the extent of each axis, and the determinant of their differences is then an integer below 2^124.
 * With exact signs the incremental algorithm cannot be led into a contradiction by points that are almost in a plane,
 * which paths that start from the same noise are. Lengths and volumes use the coordinates as given. */
__extension__ typedef __int128 wide;

typedef struct p2 {
    double x, y;
} p2;

static int by_x_then_y(const void *a, const void *b)
{
    const p2 *p = a, *q = b;
    if (p->x != q->x)
        return p->x < q->x ? -1 : 1;
    return (p->y > q->y) - (p->y < q->y);
}

static double cross2(p2 o, p2 a, p2 b)
{
    return (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x);
}

/* Lower and upper chains of the points sorted by x. */
int hull_2d(hull_measure *out, const double *points, int64_t n, err *e)
{
    memset(out, 0, sizeof *out);
    if (n < 1)
        return 0;
    p2 *p = malloc((size_t)n * sizeof *p), *h = malloc((size_t)(2 * n + 2) * sizeof *h);
    if (!p || !h) {
        free(p);
        free(h);
        return ERR(e, ERR_MEMORY, "no memory for the convex hull of %lld points", (long long)n);
    }
    memcpy(p, points, (size_t)n * sizeof *p);
    qsort(p, (size_t)n, sizeof *p, by_x_then_y);
    int64_t k = 0;
    for (int64_t i = 0; i < n; i++) {
        while (k >= 2 && cross2(h[k - 2], h[k - 1], p[i]) <= 0)
            k--;
        h[k++] = p[i];
    }
    for (int64_t i = n - 2, lower = k + 1; i >= 0; i--) {
        while (k >= lower && cross2(h[k - 2], h[k - 1], p[i]) <= 0)
            k--;
        h[k++] = p[i];
    }
    if (k > 1)
        k--; /* the last point is the first again */
    double area = 0, extent = 0;
    for (int64_t i = 0; i < k; i++) {
        p2 a = h[i], b = h[(i + 1) % k];
        area += (a.x - h[0].x) * (b.y - h[0].y) - (a.y - h[0].y) * (b.x - h[0].x);
        out->surface += hypot(b.x - a.x, b.y - a.y);
        extent = fmax(extent, hypot(a.x - h[0].x, a.y - h[0].y));
    }
    out->volume = 0.5 * fabs(area) > FLAT * extent * extent ? 0.5 * fabs(area) : 0;
    out->vertices = k;
    free(p);
    free(h);
    return 0;
}

typedef struct face {
    int64_t v[3];           /* anticlockwise seen from outside */
    int64_t next[3];        /* the face across the edge v[i] -> v[i+1] */
    double normal[3], area; /* unit normal */
    bool gone;
} face;

typedef struct hull3 {
    const double *p;
    int64_t *grid; /* [n][3] the same, rounded */
    double tolerance;
    face *faces;
    int64_t n_faces, room;
    int64_t *mark; /* per face: the point that sees it */
} hull3;

static void sub3(double *o, const double *a, const double *b)
{
    for (int i = 0; i < 3; i++)
        o[i] = a[i] - b[i];
}

static void cross3(double *o, const double *a, const double *b)
{
    o[0] = a[1] * b[2] - a[2] * b[1];
    o[1] = a[2] * b[0] - a[0] * b[2];
    o[2] = a[0] * b[1] - a[1] * b[0];
}

static double dot3(const double *a, const double *b)
{
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

static double height(const hull3 *h, int64_t f, int64_t point)
{
    double d[3]; /* relative to a corner: no cancellation against the offset */
    sub3(d, h->p + 3 * point, h->p + 3 * h->faces[f].v[0]);
    return dot3(h->faces[f].normal, d);
}

/* 1 when the point is strictly outside the face's plane, 0 on it, -1 inside. Exact. */
static int side(const hull3 *h, int64_t f, int64_t point)
{
    const int64_t *v = h->faces[f].v;
    int64_t m[3][3];
    for (int i = 0; i < 3; i++) {
        m[0][i] = h->grid[3 * v[1] + i] - h->grid[3 * v[0] + i];
        m[1][i] = h->grid[3 * v[2] + i] - h->grid[3 * v[0] + i];
        m[2][i] = h->grid[3 * point + i] - h->grid[3 * v[0] + i];
    }
    wide x = (wide)m[0][1] * m[1][2] - (wide)m[0][2] * m[1][1], y = (wide)m[0][2] * m[1][0] - (wide)m[0][0] * m[1][2];
    wide z = (wide)m[0][0] * m[1][1] - (wide)m[0][1] * m[1][0];
    wide det = x * m[2][0] + y * m[2][1] + z * m[2][2];
    return (det > 0) - (det < 0);
}

static bool sees(const hull3 *h, int64_t f, int64_t point)
{
    return side(h, f, point) > 0;
}

static bool snap(hull3 *h, int64_t n)
{
    h->grid = malloc((size_t)n * 3 * sizeof *h->grid);
    for (int k = 0; h->grid && k < 3; k++) {
        double lo = h->p[k], hi = lo;
        for (int64_t i = 0; i < n; i++) {
            lo = fmin(lo, h->p[3 * i + k]);
            hi = fmax(hi, h->p[3 * i + k]);
        }
        double scale = hi > lo ? (double)((int64_t)1 << GRID_BITS) / (hi - lo) : 0;
        for (int64_t i = 0; i < n; i++)
            h->grid[3 * i + k] = (int64_t)llround((h->p[3 * i + k] - lo) * scale);
    }
    return h->grid != NULL;
}

static int64_t add_face(hull3 *h, int64_t a, int64_t b, int64_t c)
{
    if (h->n_faces == h->room) {
        int64_t room = h->room ? 2 * h->room : 64;
        face *f = realloc(h->faces, (size_t)room * sizeof *f);
        if (!f)
            return -1;
        h->faces = f;
        int64_t *m = realloc(h->mark, (size_t)room * sizeof *m);
        if (!m)
            return -1;
        h->mark = m;
        h->room = room;
    }
    face *f = &h->faces[h->n_faces];
    double ab[3], ac[3];
    memset(f, 0, sizeof *f);
    f->v[0] = a;
    f->v[1] = b;
    f->v[2] = c;
    sub3(ab, h->p + 3 * b, h->p + 3 * a);
    sub3(ac, h->p + 3 * c, h->p + 3 * a);
    cross3(f->normal, ab, ac);
    double length = sqrt(dot3(f->normal, f->normal));
    f->area = 0.5 * length;
    for (int i = 0; i < 3; i++)
        f->normal[i] = length > 0 ? f->normal[i] / length : 0;
    h->mark[h->n_faces] = -1;
    return h->n_faces++;
}

/* Two points farthest apart along an axis, the one farthest from their line, the one farthest from their plane. False
 * when the set is flat; then `corner` holds as many as could be found in *found. */
static bool first_simplex(int64_t *corner, int *found, hull3 *h, int64_t n)
{
    int64_t lo[3] = { 0, 0, 0 }, hi[3] = { 0, 0, 0 };
    int axis = 0;
    double extent[3], line[3], d[3], c[3], best = 0;
    for (int64_t i = 1; i < n; i++)
        for (int k = 0; k < 3; k++) {
            lo[k] = h->p[3 * i + k] < h->p[3 * lo[k] + k] ? i : lo[k];
            hi[k] = h->p[3 * i + k] > h->p[3 * hi[k] + k] ? i : hi[k];
        }
    for (int k = 0; k < 3; k++) {
        extent[k] = h->p[3 * hi[k] + k] - h->p[3 * lo[k] + k];
        axis = extent[k] > extent[axis] ? k : axis;
    }
    h->tolerance = FLAT * extent[axis];
    *found = 1;
    corner[0] = lo[axis];
    if (!(extent[axis] > 0))
        return false;
    corner[1] = hi[axis];
    *found = 2;
    sub3(line, h->p + 3 * corner[1], h->p + 3 * corner[0]);
    double length = sqrt(dot3(line, line));
    for (int64_t i = 0; i < n; i++) {
        sub3(d, h->p + 3 * i, h->p + 3 * corner[0]);
        cross3(c, line, d);
        double far = sqrt(dot3(c, c)) / length;
        if (far > best) {
            best = far;
            corner[2] = i;
        }
    }
    if (best <= h->tolerance)
        return false;
    *found = 3;
    double to_third[3], normal[3];
    sub3(to_third, h->p + 3 * corner[2], h->p + 3 * corner[0]);
    cross3(normal, line, to_third);
    length = sqrt(dot3(normal, normal));
    best = 0;
    double sign = 0;
    for (int64_t i = 0; i < n; i++) {
        sub3(d, h->p + 3 * i, h->p + 3 * corner[0]);
        double far = dot3(normal, d) / length;
        if (fabs(far) > best) {
            best = fabs(far);
            sign = far;
            corner[3] = i;
        }
    }
    if (best <= h->tolerance)
        return false;
    *found = 4;
    if (sign > 0) { /* the fourth must lie below the first face */
        int64_t t = corner[1];
        corner[1] = corner[2];
        corner[2] = t;
    }
    return true;
}

/* A flat set has no volume; its surface is both sides of its hull in its own plane. */
static int flat_measure(hull_measure *out, const hull3 *h, const int64_t *corner, int found, int64_t n, err *e)
{
    double u[3] = { 0 }, w[3] = { 0 }, t[3], c[3];
    if (found >= 2) {
        sub3(u, h->p + 3 * corner[1], h->p + 3 * corner[0]);
        double length = sqrt(dot3(u, u));
        for (int i = 0; i < 3; i++)
            u[i] /= length;
    }
    if (found >= 3) {
        sub3(t, h->p + 3 * corner[2], h->p + 3 * corner[0]);
        cross3(c, u, t);
        cross3(w, c, u);
        double length = sqrt(dot3(w, w));
        for (int i = 0; i < 3; i++)
            w[i] /= length;
    }
    double *flat = malloc((size_t)n * 2 * sizeof *flat);
    if (!flat)
        return ERR(e, ERR_MEMORY, "no memory for the convex hull of %lld points", (long long)n);
    for (int64_t i = 0; i < n; i++) {
        sub3(t, h->p + 3 * i, h->p + 3 * corner[0]);
        flat[2 * i] = dot3(t, u);
        flat[2 * i + 1] = dot3(t, w);
    }
    int rc = hull_2d(out, flat, n, e);
    free(flat);
    out->surface = 2 * out->volume;
    out->volume = 0;
    return rc;
}

typedef struct edge {
    int64_t from, to, outside; /* horizon edge a->b and the face beyond it that stays */
} edge;

typedef struct hull_scratch {
    int64_t *stack;
    edge *horizon;
    int64_t *fresh;
    int64_t room;
} hull_scratch;

static bool scratch_room(hull_scratch *s, int64_t want)
{
    if (want <= s->room)
        return true;
    int64_t room = 2 * want;
    int64_t *a = realloc(s->stack, (size_t)room * sizeof *a);
    if (a)
        s->stack = a;
    edge *b = realloc(s->horizon, (size_t)room * sizeof *b);
    if (b)
        s->horizon = b;
    int64_t *c = realloc(s->fresh, (size_t)room * sizeof *c);
    if (c)
        s->fresh = c;
    if (a && b && c)
        s->room = room;
    return a && b && c;
}

/* Adds a point: the faces it sees, which hang together, are replaced by a fan from their rim to the point. False when
 * memory runs out. */
static bool add_point(hull3 *h, hull_scratch *s, int64_t point)
{
    int64_t best = -1, n_stack = 0, n_rim = 0;
    for (int64_t f = 0; f < h->n_faces && best < 0; f++)
        if (sees(h, f, point))
            best = f;
    if (best < 0)
        return true; /* inside, or on the surface */
    if (!scratch_room(s, 3 * h->n_faces + 8))
        return false;
    h->mark[best] = point;
    s->stack[n_stack++] = best;
    while (n_stack > 0) {
        int64_t f = s->stack[--n_stack];
        h->faces[f].gone = true;
        for (int i = 0; i < 3; i++) {
            int64_t g = h->faces[f].next[i];
            if (h->mark[g] == point)
                continue;
            if (sees(h, g, point)) {
                h->mark[g] = point;
                s->stack[n_stack++] = g;
            } else {
                s->horizon[n_rim++] = (edge){ h->faces[f].v[i], h->faces[f].v[(i + 1) % 3], g };
            }
        }
    }
    for (int64_t i = 0; i < n_rim; i++) {
        int64_t f = add_face(h, s->horizon[i].from, s->horizon[i].to, point);
        if (f < 0)
            return false;
        s->fresh[i] = f;
        h->faces[f].next[0] = s->horizon[i].outside;
        face *out = &h->faces[s->horizon[i].outside];
        for (int k = 0; k < 3; k++)
            if (out->v[k] == s->horizon[i].to && out->v[(k + 1) % 3] == s->horizon[i].from)
                out->next[k] = f;
    }
    for (int64_t i = 0; i < n_rim; i++) /* neighbours inside the fan share the spoke to a rim corner */
        for (int64_t k = 0; k < n_rim; k++)
            if (s->horizon[i].to == s->horizon[k].from) {
                h->faces[s->fresh[i]].next[1] = s->fresh[k];
                h->faces[s->fresh[k]].next[2] = s->fresh[i];
            }
    return true;
}

/* Drops faces that are gone, so that later points look at living ones only. */
static bool compact(hull3 *h, hull_scratch *s)
{
    int64_t n = 0;
    if (!scratch_room(s, h->n_faces + 8))
        return false;
    for (int64_t f = 0; f < h->n_faces; f++)
        s->stack[f] = h->faces[f].gone ? -1 : n++;
    for (int64_t f = 0; f < h->n_faces; f++)
        if (s->stack[f] >= 0) {
            face moved = h->faces[f];
            for (int k = 0; k < 3; k++)
                moved.next[k] = s->stack[moved.next[k]];
            h->faces[s->stack[f]] = moved;
            h->mark[s->stack[f]] = -1;
        }
    h->n_faces = n;
    return true;
}

int hull_3d(hull_measure *out, const double *points, int64_t n, err *e)
{
    hull3 h = { .p = points };
    hull_scratch s = { 0 };
    int64_t c[4] = { 0 };
    int found = 0, rc = 0;
    char *corner = NULL;
    memset(out, 0, sizeof *out);
    if (n < 1)
        return 0;
    if (!first_simplex(c, &found, &h, n))
        return flat_measure(out, &h, c, found, n, e);
    corner = calloc((size_t)n, 1);
    bool ok = corner && snap(&h, n) && add_face(&h, c[0], c[1], c[2]) >= 0 && add_face(&h, c[0], c[3], c[1]) >= 0 &&
              add_face(&h, c[1], c[3], c[2]) >= 0 && add_face(&h, c[2], c[3], c[0]) >= 0;
    if (ok) {
        int64_t next[4][3] = { { 1, 2, 3 }, { 3, 2, 0 }, { 1, 3, 0 }, { 2, 1, 0 } };
        for (int f = 0; f < 4; f++)
            memcpy(h.faces[f].next, next[f], sizeof next[f]);
    }
    for (int f = 0; ok && f < 4; f++) { /* the fourth corner must be inside of each face, on the grid too */
        static const int opposite[4] = { 3, 2, 0, 1 };
        if (side(&h, f, c[opposite[f]]) >= 0) {
            rc = flat_measure(out, &h, c, 3, n, e);
            goto out;
        }
    }
    for (int64_t i = 0; ok && i < n; i++) {
        int64_t before = h.n_faces;
        ok = add_point(&h, &s, i);
        if (ok && h.n_faces != before)
            ok = compact(&h, &s);
    }
    if (!ok) {
        rc = ERR(e, ERR_MEMORY, "no memory for the convex hull of %lld points", (long long)n);
        goto out;
    }
    for (int64_t f = 0; f < h.n_faces; f++) {
        out->volume -= height(&h, f, c[0]) * h.faces[f].area / 3; /* pyramids over the faces, seen from one corner */
        out->surface += h.faces[f].area;
        for (int k = 0; k < 3; k++) {
            out->vertices += !corner[h.faces[f].v[k]];
            corner[h.faces[f].v[k]] = 1;
        }
    }
out:
    free(corner);
    free(h.grid);
    free(s.stack);
    free(s.horizon);
    free(s.fresh);
    free(h.faces);
    free(h.mark);
    return rc;
}
