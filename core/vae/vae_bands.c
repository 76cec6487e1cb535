#include "core/vae/vae_bands.h"

int vae_decoder_shapes(const vae_config *c, vae_shape *list)
{
    int n = 0, in = c->dim * c->mult[3], out = in;
    if (c->num_res_blocks < 0 || c->num_res_blocks > (VAE_MAX_LAYERS - 6) / 4 - 1)
        return 0;
    list[n++] = (vae_shape){ VAE_RES, false, in, in };
    list[n++] = (vae_shape){ VAE_ATTN, false, in, in };
    list[n++] = (vae_shape){ VAE_RES, false, in, in };
    for (int i = 0; i < 4; i++) {
        out = c->dim * c->mult[3 - i];
        for (int r = 0; r <= c->num_res_blocks; r++, in = out)
            list[n++] = (vae_shape){ VAE_RES, false, in, out };
        if (i < 3) {      /* halves the channels (vae.py:403-404) */
            list[n++] = (vae_shape){ VAE_UP, c->temporal_down[2 - i], out, out / 2 };
            in = out / 2;
        }
    }
    return n;
}

int vae_bands_first(const vae_shape *list, int n)
{
    int first = n;
    while (first > 0 && (list[first - 1].kind == VAE_RES ? list[first - 1].cin == list[first - 1].cout
                                                         : list[first - 1].kind == VAE_UP && !list[first - 1].temporal))
        first--;
    return first;
}

vae_rows vae_band(int64_t height, int bands, int band)
{
    return (vae_rows){ height * band / bands, height * (band + 1) / bands };
}

static vae_rows widened(vae_rows r, int64_t by, int64_t height)
{
    return (vae_rows){ r.begin > by ? r.begin - by : 0, r.end < height - by ? r.end + by : height };
}

void vae_band_needs(const vae_shape *list, int first, int n, int64_t height, vae_rows keep, vae_rows *need)
{
    need[n] = widened(keep, 1, height);
    for (int i = n - 1; i >= first; i--) {
        if (list[i].kind == VAE_UP) {      /* its convolution sees the enlarged frame, two rows of which are one of its input */
            vae_rows large = widened(need[i + 1], 1, height);
            height /= 2;
            need[i] = (vae_rows){ large.begin / 2, (large.end + 1) / 2 };
        } else {
            need[i] = widened(need[i + 1], 2, height);
        }
    }
    for (int i = first; i < n; i++)      /* rows are cut off where frames are enlarged; residual layers pass on what they get */
        if (list[i].kind == VAE_RES)
            need[i + 1] = need[i];
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

int64_t vae_banded_values(const vae_config *c, int64_t width, int64_t height, int bands)
{
    vae_shape list[VAE_MAX_LAYERS];
    vae_rows need[VAE_MAX_LAYERS + 1];
    int n = vae_decoder_shapes(c, list), first = vae_bands_first(list, n);
    int64_t largest = 0;
    if (first == n)
        return 0;
    for (int b = 0; b < bands; b++) {
        int64_t columns = width, held, work = 0;
        vae_band_needs(list, first, n, height, vae_band(height, bands, b), need);
        held = 2 * (need[n].end - need[n].begin) * columns * list[n - 1].cout;
        for (int i = n - 1; i >= first; i--) {
            const vae_shape *y = &list[i];
            columns /= y->kind == VAE_UP ? 2 : 1;
            int64_t pixels = (need[i].end - need[i].begin) * columns;
            if (y->kind == VAE_RES)
                held += 2 * pixels * (y->cin + y->cout);      /* two frames before each of its convolutions */
            /* a residual layer has its input, and of the two convolutions input and output; the first input is a history then */
            work = most(work, y->kind == VAE_RES ? 3 * pixels * y->cout : pixels * (y->cin + 4 * y->cout));
        }
        largest = most(largest, held + work);
    }
    return largest;
}
