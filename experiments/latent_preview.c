#include "experiments/latent_preview.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/media.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

enum { CHANNELS = 16, SCALE = 8, EDGE = 4 };

/* latent channel -> red, green, blue; published for Wan's 16-channel VAE */
static const float FACTORS[CHANNELS][3] = {
    { -0.1299f, -0.1692f, 0.2932f }, { 0.0671f, 0.0406f, 0.0442f },   { 0.3568f, 0.2548f, 0.1747f },   { 0.0372f, 0.2344f, 0.1420f },
    { 0.0313f, 0.0189f, -0.0328f },  { 0.0296f, -0.0956f, -0.0665f }, { -0.3477f, -0.4059f, -0.2925f }, { 0.0166f, 0.1902f, 0.1975f },
    { -0.0412f, 0.0267f, -0.1364f }, { -0.1293f, 0.0740f, 0.1636f },  { 0.0680f, 0.3019f, 0.1128f },   { 0.0032f, 0.0581f, 0.0639f },
    { -0.1251f, 0.0927f, 0.1699f },  { 0.0060f, -0.0633f, 0.0005f },  { 0.3477f, 0.2275f, 0.2950f },   { 0.1984f, 0.0913f, 0.1861f },
};
static const float BIAS[3] = { -0.1835f, -0.0868f, -0.3360f };

struct latent_preview {
    const run_params *run;
    schedule s;
    int64_t F, H, W;
    int every;
    int fps;
    char *path;
    float *noise, *x, *rgb;
    uint8_t *frame;
    int *shot;              /* of each latent frame, or NULL */
};

int latent_preview_new(latent_preview **out, const engine *g, const run_params *run, const char *path, int every, double fps, err *e)
{
    int rc = 0;
    int64_t shape[4];
    latent_preview *p = calloc(1, sizeof *p);
    *out = NULL;
    if (!p)
        return ERR(e, ERR_MEMORY, "out of memory for a preview");
    TRY(engine_latent_shape(g, run, shape, e));
    TRY(engine_schedule(g, run, &p->s, NULL, e));
    p->run = run;
    p->F = shape[1];
    p->H = shape[2];
    p->W = shape[3];
    p->every = every;
    p->fps = (int)fps / 4 > 1 ? (int)fps / 4 : 1;
    int64_t n = CHANNELS * p->F * p->H * p->W;
    p->path = str_format("%s.%s", path, p->F > 1 && media_have_ffmpeg() ? "mp4" : "png");
    p->noise = malloc((size_t)n * sizeof *p->noise);
    p->x = malloc((size_t)n * sizeof *p->x);
    p->rgb = malloc((size_t)(p->F * p->H * p->W * 3) * sizeof *p->rgb);
    p->frame = malloc((size_t)(p->H * p->W * SCALE * SCALE * 3));
    p->shot = run->shots ? calloc((size_t)p->F, sizeof *p->shot) : NULL;
    if (!p->path || !p->noise || !p->x || !p->rgb || !p->frame || (run->shots && !p->shot)) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a preview");
        goto out;
    }
    if (p->shot)
        shots_of_latents(run->frames, run->shots->cuts, run->shots->n_cuts, p->shot, e);
    *out = p;
    return 0;
out:
    latent_preview_free(p);
    return rc;
}

void latent_preview_free(latent_preview *p)
{
    if (!p)
        return;
    schedule_release(&p->s);
    free(p->path);
    free(p->noise);
    free(p->x);
    free(p->rgb);
    free(p->frame);
    free(p->shot);
    free(p);
}

const char *latent_preview_path(const latent_preview *p)
{
    return p->path;
}

void latent_preview_colours(float *rgb, const float *x, const float *noise, double sigma, int64_t F, int64_t H, int64_t W)
{
    int64_t plane = F * H * W, n = CHANNELS * plane;
    double mean = 0, square = 0;
    float low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        mean += ((double)x[i] - sigma * noise[i]) / (double)n;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - sigma * noise[i] - mean;
        square += d * d;
    }
    double deviation = sqrt(square / (double)(n - 1)) + 1e-8;
    for (int64_t i = 0; i < plane; i++)
        for (int k = 0; k < 3; k++) {
            double v = BIAS[k];
            for (int c = 0; c < CHANNELS; c++)
                v += FACTORS[c][k] * ((double)x[c * plane + i] - sigma * noise[c * plane + i] - mean) / deviation;
            rgb[3 * i + k] = (float)v;
            low = v < low ? (float)v : low;
            high = v > high ? (float)v : high;
        }
    for (int64_t i = 0; i < 3 * plane; i++)
        rgb[i] = high > low ? (rgb[i] - low) / (high - low) : 0;
}

static double cubic(double x)
{
    const double a = -0.75;
    x = fabs(x);
    return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((x - 5) * x + 8) * x * a - 4 * a : 0;
}

static int clamped(int i, int n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

void latent_preview_enlarge(uint8_t *out, const float *rgb, int h, int w)
{
    for (int y = 0; y < h * SCALE; y++)
        for (int x = 0; x < w * SCALE; x++) {
            double v = (y + 0.5) / SCALE - 0.5, u = (x + 0.5) / SCALE - 0.5, sum[3] = { 0 };
            int v0 = (int)floor(v), u0 = (int)floor(u);
            for (int j = -1; j <= 2; j++)
                for (int i = -1; i <= 2; i++) {
                    double weight = cubic(v - v0 - j) * cubic(u - u0 - i);
                    const float *from = rgb + 3 * ((int64_t)clamped(v0 + j, h) * w + clamped(u0 + i, w));
                    for (int k = 0; k < 3; k++)
                        sum[k] += weight * from[k];
                }
            for (int k = 0; k < 3; k++)
                out[3 * ((int64_t)y * w * SCALE + x) + k] = (uint8_t)((sum[k] < 0 ? 0 : sum[k] > 1 ? 1 : sum[k]) * 255);
        }
}

static void white_edge(uint8_t *rgb, int h, int w)
{
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            if (y < EDGE || x < EDGE || y >= h - EDGE || x >= w - EDGE)
                memset(rgb + 3 * ((int64_t)y * w + x), 255, 3);
}

static int write_preview(latent_preview *p, int step, err *e)
{
    int rc = 0, h = (int)p->H * SCALE, w = (int)p->W * SCALE;
    video_writer *video = NULL;
    bool png = str_ends_with(p->path, ".png");
    latent_preview_colours(p->rgb, p->x, p->noise, p->s.timesteps[step] / 1000, p->F, p->H, p->W);
    if (!png) {
        video_spec spec = VIDEO_SPEC_INIT;
        spec.width = w;
        spec.height = h;
        spec.fps_num = p->fps;
        spec.crf = 23;
        TRY(video_writer_open(&video, p->path, &spec, e));
    }
    for (int64_t f = 0; f < (png ? 1 : p->F); f++) {
        latent_preview_enlarge(p->frame, p->rgb + f * p->H * p->W * 3, (int)p->H, (int)p->W);
        if (p->shot && (!f || p->shot[f] != p->shot[f - 1]))
            white_edge(p->frame, h, w);
        TRY(png ? media_png_write(p->path, w, h, p->frame, NULL, 0, e) : video_writer_frame(video, p->frame, e));
    }
    video_writer *done = video;
    video = NULL;
    rc = done ? video_writer_close(done, e) : 0;
out:
    video_writer_abort(video);
    return rc;
}

static bool wants(const hook_point *at, void *user)
{
    const latent_preview *p = user;
    return at->kind == HOOK_LATENTS && (!at->step || (at->step % p->every == 0 && at->step < at->n_steps));
}

static int show(const hook_point *at, const hook_data *d, void *user, err *e)
{
    latent_preview *p = user;
    int rc = op_download_f32(at->step ? p->x : p->noise, d->value, e);
    if (rc || !at->step)
        return rc;
    err why = { 0 };      /* a preview that cannot be written ends no run */
    if (write_preview(p, at->step - 1, &why))
        log_msg(LOG_WARN, "no preview of step %d: %s", at->step, why.text);
    return 0;
}

int latent_preview_observe(latent_preview *p, hooks *h, err *e)
{
    return hooks_observe(h, (hook_observer){ wants, show, p }, e);
}
