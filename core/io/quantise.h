/* quantise: matrices of a DiT to 8-bit floats with a scale, by H1111's rule (holocine.md 6.6). Reading them back: scaled.h.
 *
 * One scale a tensor: largest magnitude / 448, rounded to the weight's own type; number = weight / scale, rounded to that type and
 * then, to nearest with ties to even, to F8_E4M3. A tensor of zeros gets the scale 1. */
#ifndef WANSCOPE_QUANTISE_H
#define WANSCOPE_QUANTISE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"

/* Is the tensor of that name one that is quantised? Those of blocks, but for norms, embeddings, head and modulation. */
bool fp8_takes(const char *name, int ndim);

/* How far the values read back are from the weights. */
typedef struct fp8_error {
    double squares, error_squares;      /* sums: of weights, of differences */
    double largest;                     /* difference over the tensor's largest magnitude */
    int64_t values;
} fp8_error;
double fp8_relative(const fp8_error *s);      /* sqrt(error_squares / squares) */

/* w: n weights, values of `type` (f32, f16, bf16) widened. Adds to *error what it costs. ERR_NAN when a weight is no finite number. */
int fp8_quantise(uint8_t *out, float *scale, const float *w, int64_t n, dtype type, const char *name, fp8_error *error, err *e);

/* The same and back: w holds what a file of such numbers gives. `type`: of the weight in its file, which the values are rounded to
 * first. ERR_CONFIG for one that is 8-bit already. */
int fp8_round(float *w, int64_t n, dtype type, const char *name, err *e);

#endif
