/* attn_plan: small host tables on the device (attention plans, columns of words), kept by content. Internal to core/cuda.
 *
 * A plan or a list of words is the same for every layer and step of a run. The first use uploads it; later uses find it by
 * comparing its bytes, so that they cost neither a copy nor a wait and can be part of a captured graph. */
#ifndef WANSCOPE_ATTN_PLAN_CUH
#define WANSCOPE_ATTN_PLAN_CUH

#include "core/cuda/cuda.cuh"

/* The plan on the device: segments as (q_begin, q_end, first range, end range), ranges as (begin, end), and the first tile of
 * each segment: a tile of queries never crosses a segment. All NULL for full attention, which needs no table. */
typedef struct plan_dev {
    int n_segments;
    const int64_t *segments, *ranges, *first_tile;
    int64_t n_q, n_k;
} plan_dev;

/* Device memory holding these bytes, valid until the backend closes or until so many other tables were asked for that the oldest
 * had to go (TABLES_MAX, TABLES_MAX_BYTES together). The work queued so far may still use a table that goes. */
int cuda_table(backend *be, const void **dev, const void *host, size_t bytes, err *e);
void cuda_tables_free(backend *be);

/* *tiles: how many tiles of tile_rows queries the plan has. */
int cuda_plan(backend *be, const attn_plan *plan, int64_t n_q, int64_t n_k, int tile_rows, plan_dev *out, int64_t *tiles, err *e);

__device__ static inline void find_segment(const plan_dev &p, int64_t tile, int tile_rows, int64_t *q0, int64_t *q_end, int64_t *r0, int64_t *r1)
{
    if (!p.n_segments) {
        *q0 = tile * tile_rows;
        *q_end = p.n_q;
        *r0 = 0;
        *r1 = 1;
        return;
    }
    int lo = 0, hi = p.n_segments - 1;
    while (lo < hi) {
        int mid = (lo + hi + 1) / 2;
        if (p.first_tile[mid] <= tile)
            lo = mid;
        else
            hi = mid - 1;
    }
    *q0 = p.segments[4 * lo] + (tile - p.first_tile[lo]) * tile_rows;
    *q_end = p.segments[4 * lo + 1];
    *r0 = p.segments[4 * lo + 2];
    *r1 = p.segments[4 * lo + 3];
}

__device__ static inline void range_of(const plan_dev &p, int64_t r, int64_t *begin, int64_t *end)
{
    *begin = p.n_segments ? p.ranges[2 * r] : 0;
    *end = p.n_segments ? p.ranges[2 * r + 1] : p.n_k;
}

/* Walks the keys of ranges [r, r_end) in blocks of at most BN keys that do not cross a range. */
template <int BN>
struct key_blocks {
    int64_t r, r_end, k0, end;

    __device__ void start(const plan_dev &p, int64_t r0, int64_t r1)
    {
        r = r0;
        r_end = r1;
        k0 = end = 0;
        settle(p, true);
    }
    __device__ bool done() const
    {
        return r >= r_end;
    }
    __device__ int keys() const
    {
        return (int)(end - k0 < BN ? end - k0 : BN);
    }
    __device__ void next(const plan_dev &p)
    {
        k0 += BN;
        settle(p, false);
    }

private:
    __device__ void settle(const plan_dev &p, bool first)
    {
        if (!first && k0 < end)
            return;
        if (!first)
            r++;
        for (; r < r_end; r++) {
            range_of(p, r, &k0, &end);
            if (k0 < end)
                return;
        }
    }
};

#endif
