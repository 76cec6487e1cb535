#include <math.h>
#include <stdlib.h>

#include "core/cpu/cpu.h"

/* The bytes of pictures; the host is the device, so they are there at once. */

int cpu_rgb_begin(backend *be, rgb_frames *r, const tensor *frames, err *e)
{
    (void)be;
    size_t each = (size_t)(r->height * r->width * 3), bytes = each * (size_t)r->frames, room = (bytes + 15) / 16 * 16 + (size_t)r->frames * sizeof(int);
    if (room > r->room) {
        free(r->impl);
        r->room = 0;
        if (!(r->impl = malloc(room)))
            return ERR(e, ERR_MEMORY, "no host memory for %lld frames of %lld x %lld", (long long)r->frames, (long long)r->width, (long long)r->height);
        r->room = room;
    }
    uint8_t *rgb = r->impl;
    int *nan = (int *)(rgb + (bytes + 15) / 16 * 16);
    const float *in = frames->data;
    for (int64_t t = 0; t < r->frames; t++) {
        nan[t] = 0;
        for (size_t i = 0; i < each; i++) {
            float v = in[(size_t)t * each + i];
            nan[t] |= isnan(v);
            v = v < -1 ? -1 : v > 1 ? 1 : v;
            rgb[(size_t)t * each + i] = isnan(v) ? 0 : (uint8_t)((v + 1) / 2 * 255);      /* truncation, as upstream's videos (utils.py:23-61) */
        }
    }
    r->rgb = rgb;
    r->nan = nan;
    return 0;
}

int cpu_rgb_wait(backend *be, rgb_frames *r, err *e)
{
    (void)be;
    (void)r;
    (void)e;
    return 0;
}

void cpu_rgb_free(backend *be, rgb_frames *r)
{
    (void)be;
    free(r->impl);
}
