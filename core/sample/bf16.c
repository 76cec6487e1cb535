#include "core/sample/bf16.h"

#include <stdlib.h>

#include "core/backend.h"

static float r(float v)
{
    return bf16_to_f32(f32_to_bf16(v));
}

double bf16_of(double v)
{
    return r((float)v);
}

typedef enum { ROUND, GUIDE, EULER } kind;

static int apply(kind k, tensor *t, const tensor *with, float scale, err *e)
{
    int64_t n = tensor_count(t);
    float *x = malloc((size_t)n * sizeof *x), *y = with ? malloc((size_t)n * sizeof *y) : NULL;
    int rc = !x || (with && !y) ? ERR(e, ERR_MEMORY, "no host memory for latents in bf16") : op_download_f32(x, t, e);
    if (!rc && with)
        rc = op_download_f32(y, with, e);
    for (int64_t i = 0; !rc && i < n; i++) {
        if (k == ROUND)
            x[i] = r(x[i]);
        else if (k == GUIDE)
            x[i] = r(r(y[i]) + r(scale * r(r(x[i]) - r(y[i]))));
        else
            x[i] = r(x[i] + r(r(y[i]) * scale));
    }
    if (!rc)
        rc = op_upload_f32(t, x, e);
    free(x);
    free(y);
    return rc;
}

int bf16_round(tensor *t, err *e)
{
    return apply(ROUND, t, NULL, 0, e);
}

int bf16_guide(tensor *cond, const tensor *uncond, double guidance, err *e)
{
    return apply(GUIDE, cond, uncond, (float)guidance, e);
}

int bf16_euler(tensor *x, const tensor *velocity, float delta, err *e)
{
    return apply(EULER, x, velocity, delta, e);
}
