#include "core/io/scaled.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/str.h"

bool scaled_is(const ckpt_tensor *t)
{
    return t->dtype == DT_F8_E4M3 || t->dtype == DT_F8_E5M2;
}

static int64_t count(const ckpt_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->ndim; i++)
        n *= t->shape[i];
    return n;
}

static const ckpt_tensor *scale_of(const ckpt *c, const ckpt_tensor *t, ckpt_want *want)
{
    if (!scaled_is(t) || !str_ends_with(t->name, ".weight"))
        return NULL;
    char *name = str_format("%.*sscale_weight", (int)(strlen(t->name) - strlen("weight")), t->name);
    const ckpt_tensor *s = name ? ckpt_find(c, name) : NULL;
    if (s && want)
        ckpt_want_optional(want, name);
    free(name);
    return s;
}

static float rounded(float v, dtype type)
{
    return type == DT_BF16 ? bf16_to_f32(f32_to_bf16(v)) : type == DT_F16 ? f16_to_f32(f32_to_f16(v)) : v;
}

int scaled_read(float *out, const ckpt *c, const ckpt_tensor *t, ckpt_want *want, scaled_tally *tally, err *e)
{
    int64_t n = count(t), rows = t->ndim > 0 ? t->shape[0] : 1;
    const ckpt_tensor *s = scale_of(c, t, want);
    int64_t scales = s ? count(s) : 0;
    dtype_to_f32(out, t->data, t->dtype, n);
    if (!scaled_is(t))
        return 0;
    if (tally) {
        tally->file = c;
        tally->weights++;
        tally->unscaled += scales == 0;
    }
    if (!scales)
        return 0;
    if (scales != 1 && scales != rows)
        return ERR(e, ERR_SHAPE, "%s: '%s' holds %lld scales, but '%s' has %lld output channels: one scale or one a channel is understood",
                   ckpt_path(c), s->name, (long long)scales, t->name, (long long)rows);
    if (s->dtype > DT_F64)
        return ERR(e, ERR_SHAPE, "%s: '%s' is of type %s, expected floating-point scales", ckpt_path(c), s->name, dtype_name(s->dtype));
    float *factor = malloc((size_t)scales * sizeof *factor);
    if (!factor)
        return ERR(e, ERR_MEMORY, "no memory for the scales of '%s'", t->name);
    dtype_to_f32(factor, s->data, s->dtype, scales);
    for (int64_t i = 0; i < scales; i++)
        if (!isfinite(factor[i])) {
            free(factor);
            return ERR(e, ERR_NAN, "%s: '%s' holds a scale that is no finite number; the file is damaged", ckpt_path(c), s->name);
        }
    int64_t cols = rows > 0 ? n / rows : 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < cols; k++)
            out[r * cols + k] = rounded(out[r * cols + k] * factor[scales == 1 ? 0 : r], s->dtype);
    free(factor);
    return 0;
}

dtype scaled_type(const ckpt *c, const ckpt_tensor *t, dtype wanted)
{
    if (wanted != DT_COUNT)
        return wanted;
    if (!scaled_is(t))
        return t->dtype == DT_BF16 || t->dtype == DT_F16 ? t->dtype : DT_F32;
    const ckpt_tensor *s = scale_of(c, t, NULL);
    return s && count(s) && (s->dtype == DT_BF16 || s->dtype == DT_F16) ? s->dtype : DT_F32;
}

int scaled_weight(tensor *out, backend *be, const ckpt *c, const ckpt_tensor *t, dtype wanted, ckpt_want *want, scaled_tally *tally, err *e)
{
    if (!scaled_is(t))
        return op_weight(be, out, t, wanted, e);
    int64_t n = count(t);
    float *host = malloc((size_t)(n ? n : 1) * sizeof *host);
    if (!host)
        return ERR(e, ERR_MEMORY, "no memory to multiply out '%s' (%lld values)", t->name, (long long)n);
    int rc = scaled_read(host, c, t, want, tally, e);
    if (!rc)
        rc = tensor_new(out, be, scaled_type(c, t, wanted), t->ndim, t->shape, e);
    if (!rc)
        rc = op_upload_f32(out, host, e);
    free(host);
    return rc;
}

void scaled_warn(const scaled_tally *t)
{
    if (t->unscaled)
        log_msg(LOG_WARN, "%s: %d of %d 8-bit weights have no scale or an empty one; it is taken as 1, which is right only for weights "
                "that were cast without scaling", ckpt_path(t->file), t->unscaled, t->weights);
}
