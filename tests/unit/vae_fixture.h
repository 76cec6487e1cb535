/* vae_fixture: a Wan 2.1 VAE of any width with random weights, written as safetensors. Included by programs that link core only. */
#ifndef WANSCOPE_VAE_FIXTURE_H
#define WANSCOPE_VAE_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/io/st_write.h"

typedef struct vae_fix {
    st_writer *w;
    dtype type;
    bool writing;            /* first pass: names and shapes; second: bytes */
    uint64_t rng;
    err *e;
    int rc;
} vae_fix;

/* n values of variance about scale^2 around `mean` */
static void vae_fix_values(vae_fix *f, const char *name, int ndim, const int64_t *shape, float mean, float scale)
{
    enum { PIECE = 1 << 16 };
    int64_t n = 1;
    if (f->rc)
        return;
    if (!f->writing) {
        f->rc = st_writer_tensor(f->w, name, f->type, ndim, shape, f->e);
        return;
    }
    for (int i = 0; i < ndim; i++)
        n *= shape[i];
    float *v = malloc(PIECE * sizeof *v);
    char *bytes = malloc(PIECE * 4);
    for (int64_t at = 0; at < n && !f->rc; at += PIECE) {
        int64_t m = n - at < PIECE ? n - at : PIECE;
        for (int64_t i = 0; i < m; i++) {
            f->rng ^= f->rng << 13;
            f->rng ^= f->rng >> 7;
            f->rng ^= f->rng << 17;
            v[i] = mean + scale * 1.732f * (float)((double)(f->rng >> 11) / 9007199254740992.0 * 2 - 1);
        }
        dtype_from_f32(bytes, f->type, v, m);
        f->rc = st_writer_data(f->w, bytes, (size_t)m * dtype_size(f->type), f->e);
    }
    free(v);
    free(bytes);
}

static void vae_fix_conv(vae_fix *f, const char *name, int dims, int64_t cout, int64_t cin, int64_t kt, int64_t k)
{
    char full[128];
    int64_t s3[5] = { cout, cin, kt, k, k }, s2[4] = { cout, cin, k, k };
    snprintf(full, sizeof full, "%s.weight", name);
    vae_fix_values(f, full, dims == 2 ? 4 : 5, dims == 2 ? s2 : s3, 0, 1 / sqrtf((float)(cin * kt * k * k)));
    snprintf(full, sizeof full, "%s.bias", name);
    vae_fix_values(f, full, 1, &cout, 0, 0.1f);
}

static void vae_fix_gamma(vae_fix *f, const char *name, int64_t c, bool image)
{
    vae_fix_values(f, name, image ? 3 : 4, (int64_t[]){ c, 1, 1, 1 }, 1, 0.2f);
}

static void vae_fix_res(vae_fix *f, const char *at, int64_t cin, int64_t cout)
{
    char n[112];
    snprintf(n, sizeof n, "%s.residual.0.gamma", at);
    vae_fix_gamma(f, n, cin, false);
    snprintf(n, sizeof n, "%s.residual.2", at);
    vae_fix_conv(f, n, 3, cout, cin, 3, 3);
    snprintf(n, sizeof n, "%s.residual.3.gamma", at);
    vae_fix_gamma(f, n, cout, false);
    snprintf(n, sizeof n, "%s.residual.6", at);
    vae_fix_conv(f, n, 3, cout, cout, 3, 3);
    snprintf(n, sizeof n, "%s.shortcut", at);
    if (cin != cout)
        vae_fix_conv(f, n, 3, cout, cin, 1, 1);
}

static void vae_fix_middle(vae_fix *f, const char *side, int64_t c)
{
    char n[64];
    snprintf(n, sizeof n, "%s.middle.0", side);
    vae_fix_res(f, n, c, c);
    snprintf(n, sizeof n, "%s.middle.1.norm.gamma", side);
    vae_fix_gamma(f, n, c, true);
    snprintf(n, sizeof n, "%s.middle.1.to_qkv", side);
    vae_fix_conv(f, n, 2, 3 * c, c, 1, 1);
    snprintf(n, sizeof n, "%s.middle.1.proj", side);
    vae_fix_conv(f, n, 2, c, c, 1, 1);
    snprintf(n, sizeof n, "%s.middle.2", side);
    vae_fix_res(f, n, c, c);
}

static void vae_fix_pass(vae_fix *f, int64_t dim)
{
    const int64_t mult[4] = { 1, 2, 4, 4 };
    char n[64];
    int at = 0;
    int64_t in = dim, out = dim;
    vae_fix_conv(f, "encoder.conv1", 3, dim, 3, 3, 3);
    for (int i = 0; i < 4; i++) {
        out = dim * mult[i];
        for (int r = 0; r < 2; r++, in = out) {
            snprintf(n, sizeof n, "encoder.downsamples.%d", at++);
            vae_fix_res(f, n, in, out);
        }
        if (i < 3) {
            snprintf(n, sizeof n, "encoder.downsamples.%d.resample.1", at);
            vae_fix_conv(f, n, 2, out, out, 1, 3);
            snprintf(n, sizeof n, "encoder.downsamples.%d.time_conv", at++);
            if (i > 0)
                vae_fix_conv(f, n, 3, out, out, 3, 1);
        }
    }
    /* kernels of time_conv are 3 x 1 x 1 */
    vae_fix_middle(f, "encoder", out);
    vae_fix_gamma(f, "encoder.head.0.gamma", out, false);
    vae_fix_conv(f, "encoder.head.2", 3, 32, out, 3, 3);
    at = 0;
    in = dim * mult[3];
    vae_fix_conv(f, "decoder.conv1", 3, in, 16, 3, 3);
    vae_fix_middle(f, "decoder", in);
    for (int i = 0; i < 4; i++) {
        out = dim * mult[3 - i];
        for (int r = 0; r < 3; r++, in = out) {
            snprintf(n, sizeof n, "decoder.upsamples.%d", at++);
            vae_fix_res(f, n, in, out);
        }
        if (i < 3) {
            snprintf(n, sizeof n, "decoder.upsamples.%d.resample.1", at);
            vae_fix_conv(f, n, 2, out / 2, out, 1, 3);
            snprintf(n, sizeof n, "decoder.upsamples.%d.time_conv", at++);
            if (i < 2)
                vae_fix_conv(f, n, 3, 2 * out, out, 3, 1);
            in = out / 2;
        }
    }
    vae_fix_gamma(f, "decoder.head.0.gamma", out, false);
    vae_fix_conv(f, "decoder.head.2", 3, 3, out, 3, 3);
    vae_fix_conv(f, "conv1", 3, 32, 32, 1, 1);
    vae_fix_conv(f, "conv2", 3, 16, 16, 1, 1);
}

/* dim 96 is the published model */
static int vae_fix_write(const char *path, int64_t dim, dtype type, err *e)
{
    vae_fix f = { .type = type, .e = e };
    f.rc = st_writer_new(&f.w, path, e);
    for (int pass = 0; pass < 2 && !f.rc; pass++) {
        f.writing = pass == 1;
        f.rng = 88172645463325252ull;
        vae_fix_pass(&f, dim);
    }
    if (f.rc) {
        st_writer_abort(f.w);
        return f.rc;
    }
    return st_writer_close(f.w, e);
}

#endif
