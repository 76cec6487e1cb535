#include "core/dit/lora.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

/* The tensor of an adapter for module `stem` ("blocks.0.self_attn.q") and side "lora_A" or "lora_B", under any known spelling. */
static const ckpt_tensor *side(const ckpt *c, const char *stem, const char *which)
{
    static const char *const prefixes[] = { "", "generator_lora.", "base_model.model.", "generator_lora.base_model.model.", "diffusion_model.",
                                            "transformer." };
    static const char *const middles[] = { ".", ".default." };
    for (size_t p = 0; p < sizeof prefixes / sizeof *prefixes; p++)
        for (size_t m = 0; m < 2; m++) {
            char *name = str_format("%s%s.%s%sweight", prefixes[p], stem, which, middles[m]);
            const ckpt_tensor *t = name ? ckpt_find(c, name) : NULL;
            free(name);
            if (t)
                return t;
        }
    return NULL;
}

int lora_apply(const lora *l, const char *name, float *w, int64_t rows, int64_t cols, err *e)
{
    size_t len = strlen(name);
    if (len < 8 || strcmp(name + len - 7, ".weight"))
        return 0;
    char *stem = str_dupn(name, len - 7);
    const ckpt_tensor *a = stem ? side(l->file, stem, "lora_A") : NULL, *b = stem ? side(l->file, stem, "lora_B") : NULL;
    free(stem);
    if (!a && !b)
        return 0;
    if (!a || !b || a->ndim != 2 || b->ndim != 2 || a->shape[1] != cols || b->shape[0] != rows || a->shape[0] != b->shape[1])
        return ERR(e, ERR_SHAPE, "%s: the adapter for '%s' does not fit a matrix of %lld x %lld; is it for another model size?", ckpt_path(l->file), name,
                   (long long)rows, (long long)cols);
    int64_t r = a->shape[0];
    float *fa = malloc((size_t)(r * cols) * sizeof *fa), *fb = malloc((size_t)(rows * r) * sizeof *fb), *sum = malloc((size_t)cols * sizeof *sum);
    if (!fa || !fb || !sum) {
        free(fa);
        free(fb);
        free(sum);
        return ERR(e, ERR_MEMORY, "no memory to merge the adapter for '%s'", name);
    }
    dtype_to_f32(fa, a->data, a->dtype, r * cols);
    dtype_to_f32(fb, b->data, b->dtype, rows * r);
    float scale = (float)(l->multiplier * (l->alpha > 0 ? l->alpha / (double)r : 1));
    for (int64_t i = 0; i < rows; i++) {
        memset(sum, 0, (size_t)cols * sizeof *sum);
        for (int64_t k = 0; k < r; k++)
            for (int64_t j = 0; j < cols; j++)
                sum[j] += fb[i * r + k] * fa[k * cols + j];
        for (int64_t j = 0; j < cols; j++)
            w[i * cols + j] += scale * sum[j];
    }
    free(fa);
    free(fb);
    free(sum);
    return 1;
}
