#include "core/io/quantise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

bool fp8_takes(const char *name, int ndim)
{
    static const char *const LEFT[] = { "norm", "patch_embedding", "text_embedding", "time_embedding", "time_projection", "head", "modulation", "img_emb" };
    if (ndim != 2 || !strstr(name, "blocks") || !str_ends_with(name, ".weight"))
        return false;
    for (size_t i = 0; i < sizeof LEFT / sizeof *LEFT; i++)
        if (strstr(name, LEFT[i]))
            return false;
    return true;
}

static float rounded(float v, dtype type)
{
    return type == DT_BF16 ? bf16_to_f32(f32_to_bf16(v)) : type == DT_F16 ? f16_to_f32(f32_to_f16(v)) : v;
}

double fp8_relative(const fp8_error *s)
{
    return s->squares > 0 ? sqrt(s->error_squares / s->squares) : 0;
}

int fp8_quantise(uint8_t *out, float *scale, const float *w, int64_t n, dtype type, const char *name, fp8_error *error, err *e)
{
    float top = 0;
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(w[i]))
            return ERR(e, ERR_NAN, "tensor '%s' holds NaN or infinity at element %lld; the file is damaged", name, (long long)i);
        if (fabsf(w[i]) > top)
            top = fabsf(w[i]);
    }
    *scale = rounded(top / 448.0f, type);
    if (*scale == 0)      /* zeros, or weights too small for their type to be divided */
        *scale = 1;
    for (int64_t i = 0; i < n; i++) {
        float q = rounded(w[i] / *scale, type);
        out[i] = f32_to_f8_e4m3(q > 448 ? 448 : q < -448 ? -448 : q);
        double back = rounded(f8_e4m3_to_f32(out[i]) * *scale, type), d = back - (double)w[i];
        error->squares += (double)w[i] * w[i];
        error->error_squares += d * d;
        if (fabs(d) > largest)
            largest = fabs(d);
    }
    error->values += n;
    if (top > 0 && largest / top > error->largest)
        error->largest = largest / top;
    return 0;
}

int fp8_round(float *w, int64_t n, dtype type, const char *name, err *e)
{
    fp8_error ignored = { 0 };
    float scale;
    if (type == DT_F8_E4M3 || type == DT_F8_E5M2)
        return ERR(e, ERR_CONFIG, "'%s' is %s already: quantising twice only adds error; leave model.fp8_scaled (--fp8-scaled) out", name, dtype_name(type));
    void *held = malloc((size_t)n * sizeof *w + 4);
    uint8_t *q = malloc((size_t)n + 1);
    int rc = held && q ? 0 : ERR(e, ERR_MEMORY, "no memory to quantise '%s'", name);
    if (!rc) {
        dtype_from_f32(held, type, w, n);      /* adapters are merged before: their sum is rounded as a file would hold it */
        dtype_to_f32(w, held, type, n);
        rc = fp8_quantise(q, &scale, w, n, type, name, &ignored, e);
    }
    if (!rc) {
        dtype_to_f32(w, q, DT_F8_E4M3, n);
        for (int64_t i = 0; i < n; i++)
            w[i] *= scale;
        dtype_from_f32(held, type, w, n);
        dtype_to_f32(w, held, type, n);
    }
    free(held);
    free(q);
    return rc;
}
