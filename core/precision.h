/* precision: the one place that says in which type each kind of value is held and computed.
 *
 * exact: f32 everywhere; equals upstream run in float32 (diffusers with torch_dtype=float32), and is what goldens check.
 * The sinusoid of the timestep and the rotary angles are computed in f64 and rounded to f32, as official Wan does
 * (Wan2.1/wan/modules/model.py:18-28, 31-70). */
#ifndef WANSCOPE_PRECISION_H
#define WANSCOPE_PRECISION_H

#include "core/base/err.h"
#include "core/tensor.h"

typedef struct precision {
    const char *name;
    dtype stream;     /* residual stream, norms, modulation, head */
    dtype act;        /* inputs and outputs of matrix products, q, k, v */
    dtype weight;     /* matrices; DT_COUNT: as in the file, widened exactly where they are used */
} precision;

/* "exact"; others come with the backends that have them. The sentence lists what this build knows. */
int precision_find(const precision **out, const char *name, err *e);

#endif
