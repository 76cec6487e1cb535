/* scaled: weights kept as 8-bit floats beside a scale ("X.weight" F8_E4M3 or F8_E5M2, "X.scale_weight"; "X.weight_scale" in
 * the file is the same after ckpt_normalise()). One scale a tensor or one an output channel.
 *
 * value = number * scale, the product rounded to the scale's own type: H1111 keeps the scale in the type the weight had and
 * multiplies there (wan-engine.md 2.3, holocine.md 6.6), so a bf16 scale gives its bf16 weights bit for bit; ComfyUI's f32
 * scales give the f32 product. A missing or empty scale counts as 1, with a warning. */
#ifndef WANSCOPE_SCALED_H
#define WANSCOPE_SCALED_H

#include "core/backend.h"
#include "core/io/ckpt.h"

typedef struct scaled_tally {
    const ckpt *file;
    int weights, unscaled;      /* 8-bit weights met; of them without a usable scale */
} scaled_tally;

bool scaled_is(const ckpt_tensor *t);      /* an 8-bit float? */

/* All values of `t` as f32: plain widening, or with its scale. `want` (may be NULL) learns that the scale is used, `tally` (may
 * be NULL) counts. ERR_SHAPE for a scale that fits neither way, ERR_NAN for one that is no finite number. */
int scaled_read(float *out, const ckpt *c, const ckpt_tensor *t, ckpt_want *want, scaled_tally *tally, err *e);

/* The type the values of `t` are held in where the backend has no wish (DT_COUNT): as stored, for 8-bit weights that of the
 * scale (f16, bf16) or f32. */
dtype scaled_type(const ckpt *c, const ckpt_tensor *t, dtype wanted);

/* op_weight() for any tensor: 8-bit ones are multiplied out, others stay views of the mapping where they can. */
int scaled_weight(tensor *out, backend *be, const ckpt *c, const ckpt_tensor *t, dtype wanted, ckpt_want *want, scaled_tally *tally, err *e);

/* Warns, in one line, of 8-bit weights without a scale. */
void scaled_warn(const scaled_tally *t);

#endif
