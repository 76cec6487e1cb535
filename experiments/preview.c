#include "experiments/preview.h"

#include <stdlib.h>

int preview_init(preview *p, int width, int height, int64_t n_frames, err *e)
{
    *p = (preview){ 0 };
    p->n = n_frames < PREVIEW_FRAMES ? (int)n_frames : PREVIEW_FRAMES;
    for (int i = 0; i < p->n; i++)
        p->at[i] = p->n == 1 ? 0 : i * (n_frames - 1) / (p->n - 1);
    p->factor = (width + PREVIEW_WIDTH - 1) / PREVIEW_WIDTH;
    p->width = width / p->factor;
    p->height = height / p->factor > 0 ? height / p->factor : 1;
    p->sheet = calloc((size_t)p->n * (size_t)p->width * (size_t)p->height, 3);
    return p->sheet ? 0 : ERR(e, ERR_MEMORY, "out of memory for a preview of %d x %d", p->n * p->width, p->height);
}

void preview_frame(preview *p, int64_t index, int width, int height, const uint8_t *rgb)
{
    int k = p->factor, half = k * k / 2;
    for (int slot = 0; slot < p->n; slot++) {
        if (p->at[slot] != index)
            continue;
        for (int y = 0; y < p->height; y++)
            for (int x = 0; x < p->width; x++)
                for (int c = 0; c < 3; c++) {
                    int sum = half;
                    for (int dy = 0; dy < k; dy++)
                        for (int dx = 0; dx < k; dx++) {
                            int sy = y * k + dy < height ? y * k + dy : height - 1, sx = x * k + dx < width ? x * k + dx : width - 1;
                            sum += rgb[((int64_t)sy * width + sx) * 3 + c];
                        }
                    p->sheet[(((int64_t)y * p->n + slot) * p->width + x) * 3 + c] = (uint8_t)(sum / (k * k));
                }
    }
}

int preview_write(const preview *p, const char *path, const media_tag *tags, size_t n_tags, err *e)
{
    return media_png_write(path, p->n * p->width, p->height, p->sheet, tags, n_tags, e);
}

void preview_release(preview *p)
{
    free(p->sheet);
    *p = (preview){ 0 };
}
