/* What a run takes on the device, decided before anything is loaded: the forecast prints this plan, the run allocates by it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/log.h"
#include "core/engine_internal.h"

/* Of one process beside its allocations, measured on an H200 with CUDA 13.0 (cudaMemGetInfo): the context with cuBLAS when the engine
 * has opened, and what code, libraries and the granularity of allocations take in a run. */
enum { MIB = 1 << 20 };
static const int64_t RUNTIME_OPEN = 595LL * MIB, RUNTIME_LATER = 120LL * MIB;
/* Kept free below a limit: the plan is good to about 1 %. */
static const int64_t SPARE = 32LL * MIB;
/* Bands of a decode: each is most of a fifth of its time again. Beyond FEW, blocks leave first, which costs less. */
enum { FEW_BANDS = 4, MOST_BANDS = 8 };

typedef struct {
    dit_sizes z;
    umt5_sizes text;
    int experts, layers, hints;
    int64_t vae, latents;
    int64_t decode[MOST_BANDS + 1];      /* in so many bands; [0] unused */
    int bands;                           /* at most: 1 where the decoder cannot or may not make bands */
    bool causal;
} parts;

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* In frames of full size and `dim` channels: what the convolutions remember, and what is at work. In bf16 measured on an H200 at 832 x 480 and
 * 1280 x 720 (35.4); in f32, where a chunk of four frames goes through whole, counted from the allocations (36) with the same share for
 * the granularity of memory, and on a GPU the scratch of a convolution. What bands save is counted: at 832 x 480 23 of the 35.4 are of the layers
 * that go band by band (measured in four bands: 1.013 of it); the share for granularity is left as it is without bands. */
int64_t engine_decode_bytes(const engine *g, const run_params *r, const vae_config *v, int bands)
{
    int64_t size = (int64_t)dtype_size(g->prec->vae), frame = (int64_t)r->width * r->height * v->dim * v->mult[0] * size;
    if (g->prec->vae == DT_F32)
        return frame * 41 + (g->be->ops->memory ? 256 * MIB : 0);
    return frame * 354 / 10 - size * (vae_banded_values(v, r->width, r->height, 1) - vae_banded_values(v, r->width, r->height, bands));
}

/* Everything that depends on the choices in *m. Is decoding all that takes so much? */
static bool compose(const parts *p, engine_memory *m)
{
    int n = m->blocks_to_swap, experts = m->one_expert ? 1 : p->experts;
    int hints = n ? (n * p->hints + p->layers - 1) / p->layers : 0;      /* as dit_add_vace() */
    int64_t each = p->z.fixed + (p->layers - n) * p->z.block + (p->hints ? p->z.vace_fixed : 0) + (p->hints - hints) * p->z.hint;
    m->dit_bytes = experts * each;
    m->slot_bytes = (n + hints > 1 ? 2 : n + hints) * (hints ? p->z.hint : p->z.block);
    m->host_bytes = experts * (n * p->z.block + hints * p->z.hint);
    m->work_bytes = p->z.work;
    m->latent_bytes = p->latents;
    m->text_kept_bytes = m->streams_text ? 0 : p->text.all;
    m->text_bytes = (m->streams_text ? p->text.layer : p->text.all) + p->text.work;
    m->vae_bytes = p->vae;
    m->decode_bytes = p->decode[m->decode_bands];
    int64_t vae_kept = m->releases_vae ? 0 : p->vae;
    int64_t encode = m->dit_bytes + vae_kept + m->text_bytes;
    int64_t denoise = m->dit_bytes + vae_kept + m->text_kept_bytes + m->slot_bytes + m->work_bytes + m->latent_bytes;
    int64_t decode = m->dit_bytes + p->vae + m->text_kept_bytes + m->decode_bytes + p->latents;
    if (p->causal)      /* blocks are decoded while the clip goes on */
        denoise += m->decode_bytes;
    m->device_bytes = m->runtime_bytes + most(encode, most(denoise, decode));
    return m->runtime_bytes + most(encode, denoise) + SPARE <= m->limit_bytes;
}

static int64_t host_free(void)
{
    char line[128];
    long long kib = -1;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %lld kB", &kib) != 1)
            kib = -1;
    if (f)
        fclose(f);
    return kib < 0 ? INT64_MAX : kib * 1024;
}

/* In the fewest bands, up to `bands`, with which it does. */
static bool fits(const parts *p, engine_memory *m, int bands)
{
    for (m->decode_bands = 1;; m->decode_bands++) {
        bool others = compose(p, m);
        if (m->device_bytes + SPARE <= m->limit_bytes)
            return true;
        if (m->decode_bands >= bands || m->decode_bands >= p->bands || !others)
            return false;
    }
}

/* The first of these that fits: as asked for; without what is used now and then; with as few blocks swapped as must be; decoding in more
 * bands; with one expert at a time, which costs reading the other. Where only decoding does not fit, each of them goes with a few bands. */
static bool choose(const engine *g, const parts *p, engine_memory *m, int64_t host)
{
    bool may = g->offload != ENGINE_OFFLOAD_NONE, all = g->offload == ENGINE_OFFLOAD_ALL;
    m->blocks_to_swap = g->blocks_to_swap ? g->blocks_to_swap : all ? p->layers : 0;
    for (int released = all; released <= may; released++) {
        m->streams_text = m->releases_vae = released;
        m->releases_vae &= !p->causal;      /* a clip holds on to it */
        if (fits(p, m, FEW_BANDS))
            return true;
    }
    for (int one = 0; one <= (may && p->experts > 1); one++) {
        m->one_expert = one;
        for (int bands = FEW_BANDS; bands <= MOST_BANDS; bands += MOST_BANDS - FEW_BANDS)
            for (int n = g->blocks_to_swap ? g->blocks_to_swap : 1; n <= (g->blocks_to_swap ? g->blocks_to_swap : p->layers); n++) {
                m->blocks_to_swap = n;
                if (fits(p, m, bands) && m->host_bytes < host)
                    return true;
            }
    }
    return false;
}

static int no_room(const engine *g, const run_params *r, const parts *p, engine_memory *m, err *e)
{
    char how[160], bands[32] = "";
    const char *why = g->memory_budget && g->memory_budget <= m->limit_bytes ? "memory.budget" : "free on the device";
    int64_t host = host_free();
    if (m->device_bytes + SPARE <= m->limit_bytes)
        return ERR(e, ERR_MEMORY, "%s: this run fits into device memory only with %" PRId64 " MiB of weights pinned in host memory, and %" PRId64 " MiB are free "
                   "there: raise memory.budget, or run on a machine with more memory", g->be->device, m->host_bytes / MIB, host / MIB);
    if (g->blocks_to_swap && g->blocks_to_swap < p->layers) {
        engine_memory auto_choice = *m;
        auto_choice.blocks_to_swap = p->layers;
        snprintf(how, sizeof how, fits(p, &auto_choice, MOST_BANDS) ? "raise memory.blocks_to_swap (0 chooses it)" : "use fewer frames or a smaller size");
    } else {
        snprintf(how, sizeof how, g->offload == ENGINE_OFFLOAD_NONE ? "set memory.offload to auto, use fewer frames or a smaller size"
                                                                    : "use fewer frames or a smaller size");
    }
    if (m->decode_bands > 1)
        snprintf(bands, sizeof bands, " in %d bands", m->decode_bands);
    return ERR(e, ERR_MEMORY, "%s: a video of %d x %d with %d frames needs %" PRId64 " MiB of device memory with %d of %d transformer blocks swapped "
               "(activations %" PRId64 ", blocks on their way %" PRId64 ", other weights %" PRId64 ", text encoder %" PRId64 ", decoding %" PRId64 "%s, CUDA itself %" PRId64
               "), and %" PRId64 " MiB may be used (%s): %s, or raise memory.budget", g->be->device, r->width, r->height, r->frames, (m->device_bytes + SPARE) / MIB,
               m->blocks_to_swap, p->layers, (m->work_bytes + m->latent_bytes) / MIB, m->slot_bytes / MIB, m->dit_bytes / MIB, m->text_bytes / MIB,
               (m->vae_bytes + m->decode_bytes) / MIB, bands, m->runtime_bytes / MIB, m->limit_bytes / MIB, why, how);
}

static int64_t values_of(const ckpt *c)
{
    int64_t n = 0;
    for (size_t i = 0; c && i < ckpt_count(c); i++)
        n += (int64_t)(ckpt_at(c, i)->bytes / dtype_size(ckpt_at(c, i)->dtype));
    return n;
}

static int measure(const engine *g, const run_params *r, parts *p, err *e)
{
    int64_t shape[4];
    int rc = engine_latent_shape(g, r, shape, e);
    if (rc)
        return rc;
    const dit_config *c = &g->dit_cfg;
    const ckpt_tensor *table = ckpt_find(g->dit_file[0], "time_projection.1.weight");
    bool vace = run_has_vace(g, r) || g->vace_loaded;
    int64_t frame = shape[2] / 2 * (shape[3] / 2), frames = shape[1], groups = 1, kept = 0;
    *p = (parts){ .experts = g->dit_file[1] ? 2 : 1, .layers = c->num_layers, .hints = vace ? c->n_vace_layers : 0, .bands = 1, .causal = g->causal && r->causal };
    if (p->causal) {
        int64_t window = r->causal->window == -1 ? shape[1] : r->causal->window;
        frames = groups = r->causal->block;
        kept = 2 * c->num_layers * (window * frame + c->text_len) * c->dim * (int64_t)dtype_size(g->prec->act);
    }
    int64_t at_once = !r->causal && r->windows && r->windows->length < frames ? r->windows->length : frames;
    dit_sizes_of(c, g->prec, table && table->dtype == DT_BF16, vace, at_once * frame, groups, &p->z);
    /* latents, two predictions, the sampler's history; text: two contexts, and one while it is embedded */
    p->latents = kept + 9 * 4 * shape[0] * frames * shape[2] * shape[3] +
                 (int64_t)c->text_len * (3 * c->dim + c->text_dim) * (int64_t)dtype_size(g->prec->act) + (vace ? engine_condition_bytes(g, r, shape) : 0);
    if (g->t5_file) {
        umt5_config t;
        if ((rc = umt5_config_detect(&t, g->t5_file, e)))
            return rc;
        umt5_sizes_of(&t, g->prec, c->text_len, &p->text);
    }
    if (g->vae_file && (!r->latents_only || vace)) {      /* VACE encodes with it, in as much memory */
        vae_config v;
        if ((rc = vae_config_detect(&v, g->vae_file, e)))
            return rc;
        p->vae = values_of(g->vae_file) * (int64_t)dtype_size(g->prec->vae);
        for (int bands = 1; bands <= MOST_BANDS; bands++)
            p->decode[bands] = engine_decode_bytes(g, r, &v, bands);
        /* not for a causal clip, whose blocks are decoded one after another; not with VACE, which encodes whole; in f32 the bytes might differ */
        if (!p->causal && !vace && !r->vace && !r->vace_references && !r->n_vace_scale && g->prec->vae != DT_F32)
            p->bands = MOST_BANDS;
    }
    return 0;
}

int engine_plan_memory(const engine *g, const run_params *r, engine_memory *out, err *e)
{
    parts p;
    *out = (engine_memory){ .decode_bands = 1 };
    int rc = measure(g, r, &p, e);
    if (rc)
        return rc;
    if (g->blocks_to_swap < 0 || g->blocks_to_swap > p.layers)
        return ERR(e, ERR_CONFIG, "memory.blocks_to_swap is %d, but %s has %d transformer blocks: use 0 to %d", g->blocks_to_swap, g->files.dit, p.layers,
                   p.layers);
    if (g->free_at_open < 0) {      /* weights are mapped: nothing to fit */
        out->blocks_to_swap = g->blocks_to_swap;
        compose(&p, out);
        out->device_bytes = 0;
        return 0;
    }
    out->runtime_bytes = RUNTIME_OPEN + RUNTIME_LATER;
    out->limit_bytes = RUNTIME_OPEN + g->free_at_open;
    if (g->memory_budget && g->memory_budget < out->limit_bytes)
        out->limit_bytes = g->memory_budget;
    return choose(g, &p, out, host_free() + g->memory.host_bytes) ? 0 : no_room(g, r, &p, out, e);
}

int engine_prepare(engine *g, const run_params *r, err *e)
{
    engine_memory m;
    int rc = engine_plan_memory(g, r, &m, e);
    if (rc)
        return rc;
    bool other = m.blocks_to_swap != g->memory.blocks_to_swap;
    for (int k = 0; k < 2; k++)
        if (other && g->dits[k]) {      /* made for a video of another size */
            dit_close(g->dits[k]);
            g->dits[k] = NULL;
            g->vace_loaded = false;
        }
    if (g->t5 && m.streams_text != g->memory.streams_text) {
        umt5_close(g->t5);
        g->t5 = NULL;
    }
    char bands[48] = "";
    if (m.decode_bands > 1)
        snprintf(bands, sizeof bands, ", frames are decoded in %d bands of rows", m.decode_bands);
    if (g->free_at_open >= 0 && (other || m.streams_text != g->memory.streams_text || m.one_expert != g->memory.one_expert ||
                                 m.decode_bands != most(1, g->memory.decode_bands)))
        log_msg(LOG_INFO, "%s: %" PRId64 " MiB of device memory%s; %d of %d transformer blocks stream from host memory%s%s%s", g->be->device, m.device_bytes / MIB,
                g->memory_budget ? " within memory.budget" : "", m.blocks_to_swap, g->dit_cfg.num_layers,
                m.streams_text ? ", the text encoder from its file" : "", m.one_expert ? ", one expert is open at a time" : "", bands);
    g->memory = m;
    g->be->bytes_limit = m.limit_bytes > m.runtime_bytes ? m.limit_bytes - m.runtime_bytes : 0;
    engine_leave_vae(g);
    backend_trim(g->be);
    return 0;
}

void engine_leave_vae(engine *g)
{
    if (g->memory.releases_vae) {
        vae_close(g->vae);
        g->vae = NULL;
    }
    backend_trim(g->be);
}

void engine_settle(engine *g)
{
    for (int k = 0; k < 2; k++)
        if (g->dits[k])
            dit_rest(g->dits[k]);
    backend_trim(g->be);
}
