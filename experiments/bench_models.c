/* `wanscope bench`: whole networks with random weights, through the loaders of real ones. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dit/dit.h"
#include "core/io/ckpt_random.h"
#include "core/sample/rng.h"
#include "core/text/umt5.h"
#include "core/vae/vace_context.h"
#include "core/vae/vae.h"
#include "experiments/bench.h"
#include "experiments/bench_models.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- sizes ---- */

/* config.json and shapes of Wan2.1-T2V-1.3B and -14B, umT5-XXL, the Wan 2.1 VAE; VACE layers of Wan2.1-VACE-1.3B and -14B */
static const struct {
    const char *name;
    int dim, ffn, heads, layers, text_dim, text_len, vace_every;
    umt5_config t5;
    int vae_dim;
} MODELS[] = {
    { "1.3b", 1536, 8960, 12, 30, 4096, 512, 2, { 256384, 4096, 4096, 10240, 64, 24, 32 }, 96 },
    { "14b", 5120, 13824, 40, 40, 4096, 512, 5, { 256384, 4096, 4096, 10240, 64, 24, 32 }, 96 },
    { "tiny", 256, 512, 2, 2, 64, 32, 2, { 256, 64, 64, 128, 2, 2, 32 }, 8 },
};

int bench_find_model(bench_model *out, const char *name, err *e)
{
    for (size_t i = 0; i < sizeof MODELS / sizeof *MODELS; i++) {
        if (strcmp(MODELS[i].name, name))
            continue;
        memset(out, 0, sizeof *out);
        out->name = MODELS[i].name;
        out->dit = (dit_config){ .model_type = "t2v", .in_dim = 16, .out_dim = 16, .dim = MODELS[i].dim, .ffn_dim = MODELS[i].ffn, .freq_dim = 256,
                                 .text_dim = MODELS[i].text_dim, .text_len = MODELS[i].text_len, .num_heads = MODELS[i].heads,
                                 .num_layers = MODELS[i].layers, .eps = 1e-6, .patch_t = 1, .patch_h = 2, .patch_w = 2 };
        for (int k = 0; k < MODELS[i].layers; k += MODELS[i].vace_every)
            out->dit.vace_layers[out->dit.n_vace_layers++] = k;
        out->t5 = MODELS[i].t5;
        out->vae = (vae_config){ .dim = MODELS[i].vae_dim, .z_dim = 16, .mult = { 1, 2, 4, 4 }, .num_res_blocks = 2,
                                 .temporal_down = { false, true, true } };
        return 0;
    }
    return ERR(e, ERR_ARG, "bench knows no model '%s': use 1.3b, 14b or tiny", name);
}

int bench_fill(const bench *b, tensor *t, uint64_t stream, float scale, err *e)
{
    enum { PIECE = 1 << 22 };          /* values repeat from here on: making billions of them would take longer than measuring */
    int64_t n = tensor_count(t), m = n < PIECE ? n : PIECE;
    size_t item = dtype_size(t->dtype);
    float *values = malloc((size_t)m * sizeof *values);
    char *host = malloc((size_t)m * item);
    rng_cpu g;
    int rc = values && host ? 0 : ERR(e, ERR_MEMORY, "memory ran out while making random values");
    if (!rc) {
        rng_cpu_seed(&g, b->seed * 1000 + stream);
        rng_cpu_normal(&g, values, m);
        for (int64_t i = 0; i < m; i++)
            values[i] *= scale;
        dtype_from_f32(host, t->dtype, values, m);
    }
    for (int64_t i = 0; i < n && !rc; i += m) {
        int64_t k = i + m < n ? m : n - i;
        tensor part = tensor_wrap(t->be, (char *)t->data + (size_t)i * item, t->dtype, 1, &k);
        rc = op_upload(&part, host, e);
    }
    free(values);
    free(host);
    return rc;
}

int bench_random(const bench *b, tensor *t, dtype type, int ndim, const int64_t *shape, uint64_t stream, float scale, err *e)
{
    int rc = tensor_new(t, b->be, type, ndim, shape, e);
    return rc ? rc : bench_fill(b, t, stream, scale, e);
}

/* ---- counts: a multiply and an add are two ---- */

double bench_attention_ops(const bench *b, double queries, double keys)
{
    return 4 * queries * keys * b->model.dit.dim;
}

double bench_block_ops(const bench *b, double queries, double keys, bool text)
{
    double d = b->model.dit.dim, m = b->model.dit.ffn_dim, t = b->model.dit.text_len;
    return 2 * queries * (6 * d * d + 2 * d * m) + (text ? 4 * t * d * d : 0) + bench_attention_ops(b, queries, keys) + bench_attention_ops(b, queries, t);
}

double bench_forward_ops(const bench *b)
{
    double n = (double)b->tokens;
    return b->model.dit.num_layers * bench_block_ops(b, n, n, true) + 2 * n * b->model.dit.dim * 128;
}

double bench_block_bytes(const bench *b)
{
    double d = b->model.dit.dim, m = b->model.dit.ffn_dim;
    dtype t = b->prec->block == DT_COUNT ? DT_BF16 : b->prec->block;      /* DT_COUNT: as in the checkpoint */
    return (double)dtype_size(t) * (8 * d * d + 2 * d * m);
}

typedef struct convs {
    double ops, bytes, item;
} convs;

/* `shrink`: the input is that much smaller than the output's plane (read enlarged) */
static void conv(convs *c, double t, double h, double w, double cin, double cout, double taps, double shrink)
{
    c->ops += 2 * t * h * w * cin * cout * taps;
    c->bytes += c->item * (t * h * w * (cin / shrink + cout) + cin * cout * taps);
}

void bench_decode_counts(const bench *b, int64_t n, double *ops, double *bytes)
{
    convs c = { .item = (double)dtype_size(b->prec->vae) };
    double d = b->model.vae.dim, z = b->model.vae.z_dim, t = (double)n, h = (double)b->H, w = (double)b->W;
    conv(&c, t, h, w, z, z, 1, 1);
    conv(&c, t, h, w, z, 4 * d, 27, 1);
    for (int i = 0; i < 4; i++)
        conv(&c, t, h, w, 4 * d, 4 * d, 27, 1);
    conv(&c, t, h, w, 4 * d, 12 * d, 1, 1);
    conv(&c, t, h, w, 4 * d, 4 * d, 1, 1);
    c.ops += t * 4 * h * w * h * w * 4 * d;                 /* attention over the pixels of a frame */
    const double in[4] = { 4 * d, 2 * d, 2 * d, d }, out[4] = { 4 * d, 4 * d, 2 * d, d };
    for (int stage = 0; stage < 4; stage++) {
        for (int r = 0; r < 3; r++) {
            double cin = r ? out[stage] : in[stage];
            conv(&c, t, h, w, cin, out[stage], 27, 1);
            conv(&c, t, h, w, out[stage], out[stage], 27, 1);
            if (cin != out[stage])
                conv(&c, t, h, w, cin, out[stage], 1, 1);
        }
        if (stage < 2) {
            conv(&c, t - 1, h, w, out[stage], 2 * out[stage], 3, 1);
            t = 1 + 2 * (t - 1);
        }
        if (stage < 3) {
            h *= 2;
            w *= 2;
            conv(&c, t, h, w, out[stage], out[stage] / 2, 9, 4);
        }
    }
    conv(&c, t, h, w, d, 3, 27, 1);
    *ops = c.ops;
    *bytes = c.bytes;
}

static void residual_pair(convs *c, double t, double h, double w, double cin, double cout)
{
    conv(c, t, h, w, cin, cout, 27, 1);
    conv(c, t, h, w, cout, cout, 27, 1);
    if (cin != cout)
        conv(c, t, h, w, cin, cout, 1, 1);
    conv(c, t, h, w, cout, cout, 27, 1);
    conv(c, t, h, w, cout, cout, 27, 1);
}

/* The encoder over all frames of the clip. */
static void encode_counts(const bench *b, double *ops, double *bytes)
{
    convs c = { .item = (double)dtype_size(b->prec->vae) };
    double d = b->model.vae.dim, z = b->model.vae.z_dim, t = b->frames, h = b->height, w = b->width;
    const double in[4] = { d, d, 2 * d, 4 * d }, out[4] = { d, 2 * d, 4 * d, 4 * d };
    conv(&c, t, h, w, 3, d, 27, 1);
    for (int stage = 0; stage < 4; stage++) {
        residual_pair(&c, t, h, w, in[stage], out[stage]);
        if (stage == 3)
            break;
        h /= 2;
        w /= 2;
        conv(&c, t, h, w, out[stage], out[stage], 9, 0.25);     /* the input's plane is four times the output's */
        if (stage > 0) {
            t = 1 + (t - 1) / 2;
            conv(&c, t - 1, h, w, out[stage], out[stage], 3, 0.5);
        }
    }
    for (int i = 0; i < 4; i++)
        conv(&c, t, h, w, 4 * d, 4 * d, 27, 1);
    conv(&c, t, h, w, 4 * d, 12 * d, 1, 1);
    conv(&c, t, h, w, 4 * d, 4 * d, 1, 1);
    c.ops += t * 4 * h * w * h * w * 4 * d;
    conv(&c, t, h, w, 4 * d, 2 * z, 27, 1);
    conv(&c, t, h, w, 2 * z, 2 * z, 1, 1);
    *ops = c.ops;
    *bytes = c.bytes;
}

/* ---- a DiT ready to be called ---- */

int bench_dit_open(bench_dit *out, bench *b, int layers, bool vace, int n_swapped, err *e)
{
    int rc = 0;
    dit_config *c = &out->config;
    tensor rows = { 0 };
    memset(out, 0, sizeof *out);
    *c = b->model.dit;
    c->num_layers = layers;
    c->vace_in_dim = vace ? VACE_CHANNELS : 0;
    if (!vace)
        c->n_vace_layers = 0;
    out->b = b;
    out->skip = calloc((size_t)layers, sizeof *out->skip);
    if (!out->skip)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(ckpt_random_dit(&out->file, "random weights", c, b->seed, e));
    TRY(dit_open_swapped(&out->d, b->be, out->file, c, b->prec, NULL, 0, n_swapped, e));
    if (vace) {
        TRY(dit_add_vace(out->d, out->file, VACE_CHANNELS, c->n_vace_layers, c->vace_layers, e));
        TRY(bench_random(b, &out->control, DT_F32, 4, (int64_t[]){ VACE_CHANNELS, b->F, b->H, b->W }, 8, 1, e));
    }
    TRY(bench_random(b, &rows, DT_F32, 2, (int64_t[]){ c->text_len, c->text_dim }, 5, 1, e));
    TRY(tensor_new(&out->context, b->be, b->prec->act, 2, (int64_t[]){ c->text_len, c->dim }, e));
    TRY(dit_embed_text(out->d, &rows, &out->context, e));
    TRY(bench_random(b, &out->latents, DT_F32, 4, (int64_t[]){ 16, b->F, b->H, b->W }, 6, 1, e));
    TRY(tensor_new(&out->velocity, b->be, DT_F32, 4, (int64_t[]){ 16, b->F, b->H, b->W }, e));
    TRY(dit_work_new(&out->work, out->d, b->F, b->H, b->W, e));
    out->timestep = 987;
out:
    tensor_free(&rows);
    if (rc)
        bench_dit_close(out);
    return rc;
}

void bench_dit_close(bench_dit *d)
{
    dit_work_free(d->work);
    tensor_free(&d->context);
    tensor_free(&d->latents);
    tensor_free(&d->velocity);
    tensor_free(&d->control);
    dit_close(d->d);
    ckpt_close(d->file);
    free(d->skip);
    memset(d, 0, sizeof *d);
}

static int forward(bench_dit *d, const bool *skip, const tensor *control, const hooks *h, const hook_point *at, err *e)
{
    dit_input in = { .latents = &d->latents, .context = &d->context, .n_timesteps = 1, .timesteps = &d->timestep, .skip_block = skip,
                     .vace_context = control, .vace_scale = control ? 1 : 0 };
    return dit_forward(d->d, d->work, &in, &d->velocity, h, at, e);
}

int bench_dit_forward(bench_dit *d, const hooks *h, const hook_point *at, err *e)
{
    return forward(d, NULL, NULL, h, at, e);
}

static int whole(void *user, err *e)
{
    return forward(user, NULL, NULL, NULL, NULL, e);
}

static int without_blocks(void *user, err *e)
{
    bench_dit *d = user;
    return forward(d, d->skip, NULL, NULL, NULL, e);
}

static int with_hints(void *user, err *e)
{
    bench_dit *d = user;
    return forward(d, NULL, &d->control, NULL, NULL, e);
}

int bench_check_finite(bench *b, const tensor *t, err *e)
{
    int64_t n = tensor_count(t);
    float *values = malloc((size_t)n * sizeof *values);
    int rc = values ? op_download_f32(values, t, e) : ERR(e, ERR_MEMORY, "memory ran out");
    for (int64_t i = 0; i < n && !rc; i++)
        if (!isfinite(values[i]))
            rc = ERR(e, ERR_NAN, "bench %s with random weights gave NaN or infinity; the times would mean nothing", b->model.name);
    free(values);
    return rc;
}

int bench_check_same(bench *b, bench_fn fn, void *user, const tensor *t, err *e)
{
    int64_t n = tensor_count(t), differ = 0;
    float *before = malloc((size_t)n * sizeof *before), *after = malloc((size_t)n * sizeof *after);
    int rc = before && after ? bench_check_finite(b, t, e) : ERR(e, ERR_MEMORY, "memory ran out");
    rc = rc ? rc : op_download_f32(before, t, e);
    rc = rc ? rc : fn(user, e);
    rc = rc ? rc : op_download_f32(after, t, e);
    for (int64_t i = 0; i < n && !rc; i++)
        differ += memcmp(&before[i], &after[i], sizeof *after) != 0;
    if (differ)
        rc = ERR(e, ERR_INTERNAL, "the same call gave other numbers the second time: %" PRId64 " of %" PRId64 " differ", differ, n);
    free(before);
    free(after);
    return rc;
}

static void latents_shape(const bench *b, str *out)
{
    str_addf(out, "latents [16 %" PRId64 " %" PRId64 " %" PRId64 "]", b->F, b->H, b->W);
}

int bench_block(bench *b, err *e)
{
    int rc = 0, layers = b->model.dit.num_layers < 4 ? b->model.dit.num_layers : 4;
    bench_dit d = { 0 };
    bench_row row = BENCH_ROW_INIT;
    double *with = malloc((size_t)b->repeat * sizeof *with), *without = malloc((size_t)b->repeat * sizeof *without);
    if (!with || !without) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    TRY(bench_dit_open(&d, b, layers, false, 0, e));
    for (int i = 0; i < layers; i++)
        d.skip[i] = true;
    TRY(bench_time_pair(b, whole, without_blocks, &d, with, without, e));
    TRY(bench_check_finite(b, &d.velocity, e));
    for (int i = 0; i < b->repeat; i++)
        with[i] = (with[i] - without[i]) / layers;
    row.what = "block";
    row.item = "cond";
    row.ops = bench_block_ops(b, (double)b->tokens, (double)b->tokens, true);
    row.bytes = bench_block_bytes(b) + 8 * (double)b->tokens * b->model.dit.dim;
    str_addf(&row.shape, "tokens %" PRId64 " text %d", b->tokens, b->model.dit.text_len);
    str_addf(&row.note, "a forward of %d blocks less one of none / %d", layers, layers);
    rc = bench_put(b, &row, with, b->repeat, e);
out:
    bench_dit_close(&d);
    free(with);
    free(without);
    return rc;
}

int bench_forward(bench *b, err *e)
{
    int rc = 0;
    bench_dit d = { 0 };
    bench_row row = BENCH_ROW_INIT;
    double *ms = malloc((size_t)b->repeat * sizeof *ms);
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_dit_open(&d, b, b->model.dit.num_layers, false, 0, e));
    TRY(bench_time(b, whole, &d, ms, e));
    TRY(bench_check_same(b, whole, &d, &d.velocity, e));
    row.what = "forward";
    row.item = "cond";
    row.ops = bench_forward_ops(b);
    row.bytes = b->model.dit.num_layers * bench_block_bytes(b) + 8.0 * 16 * (double)(b->F * b->H * b->W);
    latents_shape(b, &row.shape);
    str_addf(&row.shape, " tokens %" PRId64, b->tokens);
    str_addf(&row.note, "weights %.2f GB", (double)dit_weight_bytes(d.d) / 1e9);
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    bench_dit_close(&d);
    free(ms);
    return rc;
}

int bench_vace(bench *b, err *e)
{
    int rc = 0;
    bench_dit d = { 0 };
    bench_row row = BENCH_ROW_INIT;
    double *with = malloc((size_t)b->repeat * sizeof *with), *without = malloc((size_t)b->repeat * sizeof *without);
    if (!with || !without) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    TRY(bench_dit_open(&d, b, b->model.dit.num_layers, true, 0, e));
    TRY(bench_time_pair(b, with_hints, whole, &d, with, without, e));
    TRY(with_hints(&d, e));
    TRY(bench_check_same(b, with_hints, &d, &d.velocity, e));
    int n = d.config.n_vace_layers;
    double D = d.config.dim, L = (double)b->tokens;
    row.what = "vace";
    row.item = "cond";
    row.ops = bench_forward_ops(b) + n * bench_block_ops(b, L, L, true) + 2 * L * (D * 4 * VACE_CHANNELS + (n + 1) * D * D);
    row.bytes = (d.config.num_layers + n) * bench_block_bytes(b) + (double)dtype_size(b->prec->act) * (n + 1) * D * D;
    latents_shape(b, &row.shape);
    str_addf(&row.shape, " hints %d", n);
    str_addf(&row.note, "%.3f times the forward without hints", bench_quantile(with, b->repeat, 0.5) / bench_quantile(without, b->repeat, 0.5));
    rc = bench_put(b, &row, with, b->repeat, e);
out:
    bench_dit_close(&d);
    free(with);
    free(without);
    return rc;
}

/* ---- umT5 ---- */

typedef struct encoding {
    umt5 *t;
    int32_t *ids;
    int n;
    tensor rows;
} encoding;

static int encode_text(void *user, err *e)
{
    encoding *x = user;
    return umt5_encode(x->t, x->ids, x->n, x->n, &x->rows, e);
}

int bench_t5(bench *b, err *e)
{
    int rc = 0;
    const umt5_config *c = &b->model.t5;
    encoding x = { .n = b->model.dit.text_len };
    ckpt *file = NULL;
    bench_row row = BENCH_ROW_INIT;
    double *ms = malloc((size_t)b->repeat * sizeof *ms), N = x.n;
    x.ids = malloc((size_t)x.n * sizeof *x.ids);
    if (!ms || !x.ids) {
        rc = ERR(e, ERR_MEMORY, "memory ran out");
        goto out;
    }
    for (int i = 0; i < x.n; i++)
        x.ids[i] = 1 + (int32_t)((uint32_t)i * 2654435761u % (uint32_t)(c->vocab_size - 1));
    TRY(ckpt_random_umt5(&file, "random weights", c, b->seed, e));
    TRY(umt5_open(&x.t, b->be, file, b->prec, e));
    TRY(tensor_new(&x.rows, b->be, DT_F32, 2, (int64_t[]){ x.n, c->dim }, e));
    TRY(bench_time(b, encode_text, &x, ms, e));
    TRY(bench_check_same(b, encode_text, &x, &x.rows, e));
    row.what = "t5";
    row.item = "encode";
    row.ops = c->num_layers * (2 * N * (4.0 * c->dim * c->dim_attn + 3.0 * c->dim * c->dim_ffn) + 4 * N * N * c->dim_attn);
    row.bytes = (double)dtype_size(b->prec->weight == DT_COUNT ? DT_BF16 : b->prec->weight) * c->num_layers *
                (4.0 * c->dim * c->dim_attn + 3.0 * c->dim * c->dim_ffn);
    str_addf(&row.shape, "tokens %d", x.n);
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    tensor_free(&x.rows);
    umt5_close(x.t);
    ckpt_close(file);
    free(x.ids);
    free(ms);
    return rc;
}

/* ---- VAE ---- */

typedef struct coding {
    bench *b;
    vae *v;
    tensor latents, video, encoded;
} coding;

int bench_vae_open(vae **v, ckpt **file, bench *b, err *e)
{
    int rc = ckpt_random_vae(file, "random weights", &b->model.vae, b->seed, e);
    return rc ? rc : vae_open(v, b->be, *file, b->prec, e);
}

int bench_drop_frame(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    (void)index;
    (void)width;
    (void)height;
    (void)rgb;
    (void)user;
    (void)e;
    return 0;
}

static int decode_all(void *user, err *e)
{
    coding *x = user;
    vae_stream *s = NULL;
    int64_t index = 0;
    int rc = vae_decoder_new(&s, x->v, e);
    rc = rc ? rc : vae_decode_rgb(s, &x->latents, &index, bench_drop_frame, NULL, e);
    vae_stream_free(s);
    return rc;
}

static int encode_all(void *user, err *e)
{
    coding *x = user;
    return vae_encode(x->v, &x->video, &x->encoded, e);
}

int bench_vae(bench *b, err *e)
{
    int rc = 0;
    coding x = { .b = b };
    ckpt *file = NULL;
    bench_row row = BENCH_ROW_INIT;
    double *ms = malloc((size_t)b->repeat * sizeof *ms);
    if (!ms)
        return ERR(e, ERR_MEMORY, "memory ran out");
    TRY(bench_vae_open(&x.v, &file, b, e));
    TRY(bench_random(b, &x.latents, DT_F32, 4, (int64_t[]){ 16, b->F, b->H, b->W }, 6, 1, e));
    TRY(bench_time(b, decode_all, &x, ms, e));
    row.what = "vae";
    row.item = "decode";
    row.pixel_frames = b->frames;
    bench_decode_counts(b, b->F, &row.ops, &row.bytes);
    latents_shape(b, &row.shape);
    str_add(&row.note, "to 8-bit frames on the host");
    TRY(bench_put(b, &row, ms, b->repeat, e));
    tensor_free(&x.latents);
    TRY(bench_random(b, &x.video, DT_F32, 4, (int64_t[]){ 3, b->frames, b->height, b->width }, 7, 0.4f, e));
    TRY(tensor_new(&x.encoded, b->be, DT_F32, 4, (int64_t[]){ 16, b->F, b->H, b->W }, e));
    TRY(bench_time(b, encode_all, &x, ms, e));
    TRY(bench_check_same(b, encode_all, &x, &x.encoded, e));
    row = (bench_row)BENCH_ROW_INIT;
    row.what = "vae";
    row.item = "encode";
    row.pixel_frames = b->frames;
    encode_counts(b, &row.ops, &row.bytes);
    str_addf(&row.shape, "video [3 %d %d %d]", b->frames, b->height, b->width);
    rc = bench_put(b, &row, ms, b->repeat, e);
out:
    tensor_free(&x.latents);
    tensor_free(&x.video);
    tensor_free(&x.encoded);
    vae_close(x.v);
    ckpt_close(file);
    free(ms);
    return rc;
}
