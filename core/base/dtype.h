/* dtype: element types of tensors and files, and their conversions.
 * Rounding from f32 is to nearest, ties to even; overflow gives infinity (f16, bf16) or NaN-free saturation (fp8 e4m3fn, +-448). */
#ifndef WANSCOPE_DTYPE_H
#define WANSCOPE_DTYPE_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    DT_F32, DT_F16, DT_BF16, DT_F8_E4M3, DT_F8_E5M2, DT_F64,
    DT_I64, DT_I32, DT_I16, DT_I8, DT_U8, DT_BOOL, DT_COUNT
} dtype;

size_t dtype_size(dtype t);              /* bytes an element */
const char *dtype_name(dtype t);         /* safetensors spelling: "F32", "BF16", "F8_E4M3" ... */
int dtype_from_name(const char *name);   /* a dtype, or -1 */

float f16_to_f32(uint16_t h);
float bf16_to_f32(uint16_t h);
float f8_e4m3_to_f32(uint8_t v);
float f8_e5m2_to_f32(uint8_t v);
uint16_t f32_to_f16(float f);
uint16_t f32_to_bf16(float f);
uint8_t f32_to_f8_e4m3(float f);

/* n elements of any floating type (or integers, converted exactly where they fit) to f32 */
void dtype_to_f32(float *out, const void *in, dtype t, int64_t n);
/* f32 to DT_F32, DT_F16, DT_BF16, DT_F8_E4M3 */
void dtype_from_f32(void *out, dtype t, const float *in, int64_t n);

#endif
