#include "core/sample/noise.h"

int noise_cuda_normal(backend *be, uint64_t seed, uint64_t *offset, int sms, int threads_per_sm, float *out, int64_t n, err *e)
{
    int64_t threads, calls;
    tensor values;
    if (!be->ops->randn_cuda)
        return rng_cuda_normal(seed, offset, sms, threads_per_sm, out, n, e);
    int rc = rng_cuda_geometry(&threads, &calls, *offset, sms, threads_per_sm, n, e);
    if (rc || n == 0)
        return rc;
    if ((rc = tensor_new(&values, be, DT_F32, 1, &n, e)))
        return rc;
    if (!(rc = op_randn_cuda(&values, seed, *offset / 4, threads, calls, e)) && !(rc = op_download(out, &values, e)))
        *offset += (uint64_t)calls * 4;
    tensor_free(&values);
    return rc;
}
