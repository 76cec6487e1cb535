/* A causal clip on the disk: a safetensors file (so that it opens anywhere), its numbers in the metadata, with a checksum. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/sha256.h"
#include "core/base/str.h"
#include "core/causal_internal.h"
#include "core/io/ckpt.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

#define STATE_FORMAT "wanscope causal state"
#define STATE_VERSION "1"
#define SUM_KEY "\"sha256\":\""
#define NO_SUM "0000000000000000000000000000000000000000000000000000000000000000"

enum { RNG_WORDS = RNG_MT_WORDS + 4 };      /* state, next, has_cached, the two halves of cached */

/* What must be equal for a state to mean the same. */
static void describe_options(const causal *c, str *out)
{
    const causal_options *o = &c->o;
    const dit_config *d = dit_get_config(c->m.d);
    str_addf(out, "latents %d x %" PRId64 " x %" PRId64 ", model %d x %d, block %d, window %d, sink %d, total %" PRId64 ", global sink %d, warp %d, shift %.17g, "
             "context noise %.17g, hard cut %d, draws %d, seed %" PRIu64 ", cuda noise %d %d %d, steps", c->channels, o->height, o->width, d->num_layers, d->dim,
             o->block, o->window, o->sink, o->window == -1 || o->draws == CAUSAL_DRAW_CLIP ? o->total : 0, o->global_sink, o->warp, o->shift,
             o->context_noise, o->hard_cut, (int)o->draws, o->seed, o->cuda_noise, o->cuda_noise ? o->noise_sms : 0,
             o->cuda_noise ? o->noise_threads_per_sm : 0);
    for (int i = 0; i < o->n_steps; i++)
        str_addf(out, " %d", o->steps[i]);
}

static void pack_rng(int32_t out[RNG_WORDS], const rng_cpu *g)
{
    uint32_t words[RNG_WORDS];
    memcpy(words, g->state, sizeof g->state);
    words[RNG_MT_WORDS] = (uint32_t)g->next;
    words[RNG_MT_WORDS + 1] = g->has_cached;
    memcpy(&words[RNG_MT_WORDS + 2], &g->cached, sizeof g->cached);
    memcpy(out, words, sizeof words);
}

static bool unpack_rng(rng_cpu *g, const void *data)
{
    uint32_t words[RNG_WORDS];
    memcpy(words, data, sizeof words);
    memcpy(g->state, words, sizeof g->state);
    g->next = (int)words[RNG_MT_WORDS];
    g->has_cached = words[RNG_MT_WORDS + 1] != 0;
    memcpy(&g->cached, &words[RNG_MT_WORDS + 2], sizeof g->cached);
    return g->next >= 0 && g->next <= RNG_MT_WORDS;
}

/* ---- what a state consists of ---- */

typedef struct piece {
    char name[48];
    dtype type;
    int ndim;
    int64_t shape[TENSOR_MAX_DIMS];
    size_t bytes;
    tensor *device;        /* or */
    void *host;
} piece;

typedef struct pieces {
    piece *items;
    size_t n, room;
} pieces;

static piece *add(pieces *p, const char *name, dtype type, int ndim, const int64_t *shape)
{
    if (p->n == p->room) {
        size_t room = p->room ? 2 * p->room : 64;
        piece *more = realloc(p->items, room * sizeof *more);
        if (!more)
            return NULL;
        p->items = more;
        p->room = room;
    }
    piece *x = &p->items[p->n++];
    *x = (piece){ .type = type, .ndim = ndim, .bytes = dtype_size(type) };
    snprintf(x->name, sizeof x->name, "%s", name);
    for (int i = 0; i < ndim; i++) {
        x->shape[i] = shape[i];
        x->bytes *= (size_t)shape[i];
    }
    return x;
}

static int add_tensor(pieces *p, const char *name, tensor *t, err *e)
{
    piece *x = add(p, name, t->dtype, t->ndim, t->shape);
    if (!x)
        return ERR(e, ERR_MEMORY, "no memory for the state of a clip");
    x->device = t;
    return 0;
}

static int add_host(pieces *p, const char *name, dtype type, int ndim, const int64_t *shape, void *host, err *e)
{
    piece *x = add(p, name, type, ndim, shape);
    if (!x)
        return ERR(e, ERR_MEMORY, "no memory for the state of a clip");
    x->host = host;
    return 0;
}

static int add_vae(const char *name, tensor *slot, void *user, err *e)
{
    char full[48];
    snprintf(full, sizeof full, "vae.%s", name);
    return slot->data ? add_tensor(user, full, slot, e) : 0;
}

/* Everything but the VAE's history, whose shapes only the file knows when loading. */
static int collect(causal *c, pieces *p, int32_t *rng, err *e)
{
    int rc = 0;
    char name[48];
    for (int i = 0; i < c->cache->n_layers; i++) {
        snprintf(name, sizeof name, "cache.k.%d", i);
        TRY(add_tensor(p, name, &c->cache->k[i], e));
        snprintf(name, sizeof name, "cache.v.%d", i);
        TRY(add_tensor(p, name, &c->cache->v[i], e));
    }
    TRY(add_host(p, "recent", DT_F32, 4, (int64_t[]){ c->room, c->channels, c->o.height, c->o.width }, c->recent, e));
    TRY(add_host(p, "rng", DT_I32, 2, (int64_t[]){ 2, RNG_WORDS }, rng, e));
out:
    return rc;
}

/* ---- saving ---- */

static const struct { const char *name; size_t at; } NUMBERS[] = {
    { "blocks", offsetof(causal, n_blocks) }, { "frames", offsetof(causal, n_frames) }, { "position", offsetof(causal, position) },
    { "pixel", offsetof(causal, pixel) }, { "recent", offsetof(causal, n_recent) }, { "rng_offset", offsetof(causal, offset) },
};
enum { N_NUMBERS = sizeof NUMBERS / sizeof *NUMBERS };

static void header_text(causal *c, const pieces *p, const char *identity, str *out)
{
    json_writer w;
    char number[32];
    size_t at = 0;
    str options = STR_INIT;
    const kv_cache *k = c->cache;
    const struct { const char *name; int64_t value; } more[] = {
        { "global_end", k->global_end }, { "local_end", k->local_end }, { "base", k->base }, { "vae_frames", c->vae ? vae_stream_done(c->vae) : -1 },
    };
    describe_options(c, &options);
    jw_init(&w, out, 0);
    jw_object(&w);
    jw_key(&w, "__metadata__");
    jw_object(&w);
    jw_kstring(&w, "format", STATE_FORMAT);
    jw_kstring(&w, "version", STATE_VERSION);
    jw_kstring(&w, "sha256", NO_SUM);
    jw_kstring(&w, "identity", identity);
    jw_kstring(&w, "options", str_text(&options));
    for (size_t i = 0; i < N_NUMBERS; i++) {
        snprintf(number, sizeof number, "%" PRId64, *(const int64_t *)((const char *)c + NUMBERS[i].at));
        jw_kstring(&w, NUMBERS[i].name, number);
    }
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        snprintf(number, sizeof number, "%" PRId64, more[i].value);
        jw_kstring(&w, more[i].name, number);
    }
    jw_end_object(&w);
    for (size_t i = 0; i < p->n; i++) {
        const piece *x = &p->items[i];
        jw_key(&w, x->name);
        jw_object(&w);
        jw_kstring(&w, "dtype", dtype_name(x->type));
        jw_key(&w, "shape");
        jw_array(&w);
        for (int d = 0; d < x->ndim; d++)
            jw_int(&w, x->shape[d]);
        jw_end_array(&w);
        jw_key(&w, "data_offsets");
        jw_array(&w);
        jw_int(&w, (int64_t)at);
        jw_int(&w, (int64_t)(at + x->bytes));
        jw_end_array(&w);
        jw_end_object(&w);
        at += x->bytes;
    }
    jw_end_object(&w);
    while (out->len % 8 && !out->failed)
        str_addc(out, ' ');
    str_release(&options);
}

static int put_bytes(FILE *f, sha256 *sum, const void *data, size_t n, const char *path, err *e)
{
    sha256_add(sum, data, n);
    return fwrite(data, 1, n, f) == n ? 0 : ERR(e, ERR_IO, "%s: the state of the clip cannot be written: %s; free some space", path, strerror(errno));
}

static int write_pieces(FILE *f, sha256 *sum, const pieces *p, const char *path, err *e)
{
    int rc = 0;
    void *host = NULL;
    for (size_t i = 0; i < p->n; i++) {
        const piece *x = &p->items[i];
        if (x->device) {
            free(host);
            if (!(host = malloc(x->bytes))) {
                rc = ERR(e, ERR_MEMORY, "%s: no memory for %zu bytes of the state of the clip", path, x->bytes);
                goto out;
            }
            TRY(op_download(host, x->device, e));
        }
        TRY(put_bytes(f, sum, x->device ? host : x->host, x->bytes, path, e));
    }
out:
    free(host);
    return rc;
}

int causal_save(causal *c, const char *path, const char *identity, err *e)
{
    int rc = 0;
    pieces p = { 0 };
    str header = STR_INIT;
    int32_t rng[2 * RNG_WORDS] = { 0 };
    char *part = str_format("%s.part", path), hex[65];
    FILE *f = NULL;
    sha256 sum;
    if (!part) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the state of the clip", path);
        goto out;
    }
    if (c->broken) {
        rc = ERR(e, ERR_INTERNAL, "%s: after an error the clip has no state to save", path);
        goto out;
    }
    pack_rng(rng, &c->first);
    pack_rng(rng + RNG_WORDS, &c->later);
    TRY(collect(c, &p, rng, e));
    if (c->vae)
        TRY(vae_stream_visit(c->vae, add_vae, &p, e));
    header_text(c, &p, identity, &header);
    char *sum_at = header.failed ? NULL : strstr(str_text(&header), SUM_KEY);
    if (!sum_at) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the state of the clip", path);
        goto out;
    }
    if (!(f = fopen(part, "wb"))) {
        rc = ERR(e, ERR_IO, "%s: the state of the clip cannot be created: %s; check that the folder exists and is writable", part, strerror(errno));
        goto out;
    }
    uint8_t length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(header.len >> (8 * i));
    sha256_init(&sum);
    TRY(put_bytes(f, &sum, length, sizeof length, part, e));
    TRY(put_bytes(f, &sum, header.data, header.len, part, e));
    TRY(write_pieces(f, &sum, &p, part, e));
    sha256_hex(&sum, hex);
    long at = 8 + (long)(sum_at - header.data) + (long)strlen(SUM_KEY);
    if (fseek(f, at, SEEK_SET) || fwrite(hex, 1, 64, f) != 64) {
        rc = ERR(e, ERR_IO, "%s: the state of the clip cannot be written: %s; free some space", part, strerror(errno));
        goto out;
    }
    int closed = fclose(f);
    f = NULL;
    if (closed) {
        rc = ERR(e, ERR_IO, "%s: the state of the clip cannot be finished: %s; free some space", part, strerror(errno));
        goto out;
    }
    TRY(fs_publish(part, path, e));
out:
    if (f)
        fclose(f);
    if (rc && part)
        unlink(part);
    free(p.items);
    free(part);
    str_release(&header);
    return rc;
}

/* ---- loading ---- */

static int check_sum(const char *path, err *e)
{
    int rc = 0;
    fs_map m = { 0 };
    sha256 sum;
    char hex[65];
    TRY(fs_map_open(&m, path, e));
    uint64_t n = 0;
    for (int i = 0; i < 8 && m.size > 8; i++)
        n |= (uint64_t)m.data[i] << (8 * i);
    const uint8_t *at = n && n <= m.size - 8 ? memmem(m.data + 8, (size_t)n, SUM_KEY, strlen(SUM_KEY)) : NULL;
    size_t before = at ? (size_t)(at - m.data) + strlen(SUM_KEY) : 0;
    if (!at || before + 64 > m.size) {
        rc = ERR(e, ERR_FORMAT, "%s: this is no state of a causal clip: it has no checksum; give the file that a run left, or begin anew without it", path);
        goto out;
    }
    sha256_init(&sum);
    sha256_add(&sum, m.data, before);
    sha256_add(&sum, NO_SUM, 64);
    sha256_add(&sum, m.data + before + 64, m.size - before - 64);
    sha256_hex(&sum, hex);
    if (memcmp(hex, m.data + before, 64))
        rc = ERR(e, ERR_FORMAT, "%s: the state of the clip is damaged (its checksum is %.64s, its content has %s); remove it and begin anew", path,
                 (const char *)m.data + before, hex);
out:
    fs_map_close(&m);
    return rc;
}

static int number(const ckpt *f, const char *name, int64_t low, int64_t high, int64_t *out, err *e)
{
    const char *text = ckpt_metadata(f, name);
    char *end = NULL;
    errno = 0;
    long long v = text ? strtoll(text, &end, 10) : 0;
    if (!text || end == text || *end || errno || v < low || v > high)
        return ERR(e, ERR_FORMAT, "%s: '%s' of the state is %s, expected a whole number from %" PRId64 " to %" PRId64 "; begin anew without the file",
                   ckpt_path(f), name, text ? text : "missing", low, high);
    *out = v;
    return 0;
}

static int compare_text(const ckpt *f, const char *name, const char *want, const char *advice, err *e)
{
    const char *found = ckpt_metadata(f, name);
    if (found && strcmp(found, want) == 0)
        return 0;
    return ERR(e, ERR_CONFIG, "%s: the state belongs to another clip: its %s is '%.400s', expected '%.400s'; %s", ckpt_path(f), name, found ? found : "missing",
               want, advice);
}

static int take(const piece *x, const ckpt *f, err *e)
{
    const ckpt_tensor *t = ckpt_find(f, x->name);
    bool same = t && t->dtype == x->type && t->ndim == x->ndim && t->bytes == x->bytes;
    for (int i = 0; same && i < x->ndim; i++)
        same = t->shape[i] == x->shape[i];
    if (!same)
        return ERR(e, ERR_SHAPE, "%s: tensor '%s' of the state is %s; begin anew without the file", ckpt_path(f), x->name,
                   t ? "of another size or type" : "missing");
    if (x->device)
        return op_upload(x->device, t->data, e);
    memcpy(x->host, t->data, x->bytes);
    return 0;
}

typedef struct vae_loader {
    causal *c;
    const ckpt *f;
} vae_loader;

static int load_vae(const char *name, tensor *slot, void *user, err *e)
{
    vae_loader *l = user;
    char full[48];
    snprintf(full, sizeof full, "vae.%s", name);
    const ckpt_tensor *t = ckpt_find(l->f, full);
    if (!t)
        return 0;
    if (t->dtype != vae_frame_type(l->c->m.v) || t->ndim != 4)
        return ERR(e, ERR_SHAPE, "%s: tensor '%s' of the state is %s with %d axes, the VAE needs [frames, rows, columns, channels] in %s; begin anew without the file",
                   ckpt_path(l->f), full, dtype_name(t->dtype), t->ndim, dtype_name(vae_frame_type(l->c->m.v)));
    int rc = tensor_new(slot, l->c->m.be, t->dtype, t->ndim, t->shape, e);
    return rc ? rc : op_upload(slot, t->data, e);
}

int causal_load(causal *c, const char *path, const char *identity, err *e)
{
    int rc = 0;
    ckpt *f = NULL;
    pieces p = { 0 };
    str options = STR_INIT;
    int32_t rng[2 * RNG_WORDS];
    int64_t v[N_NUMBERS], global_end, local_end, base, vae_frames;
    const kv_cache *k = c->cache;
    if (c->n_blocks) {
        rc = ERR(e, ERR_INTERNAL, "%s: a state is loaded into a clip that has begun", path);
        goto out;
    }
    TRY(ckpt_open(&f, path, e));
    TRY(check_sum(path, e));
    TRY(compare_text(f, "format", STATE_FORMAT, "give the file that a run left", e));
    TRY(compare_text(f, "version", STATE_VERSION, "make the clip anew with this version", e));
    describe_options(c, &options);
    TRY(compare_text(f, "options", str_text(&options), "use the settings it was made with, or begin anew without the file", e));
    TRY(compare_text(f, "identity", identity, "use the model, prompts and settings it was made with, or begin anew without the file", e));
    for (size_t i = 0; i < N_NUMBERS; i++)
        TRY(number(f, NUMBERS[i].name, 0, INT64_MAX, &v[i], e));
    TRY(number(f, "global_end", 0, CAUSAL_POSITIONS * k->frame_tokens, &global_end, e));
    TRY(number(f, "local_end", 0, k->slots, &local_end, e));
    TRY(number(f, "base", 0, k->slots, &base, e));
    TRY(number(f, "vae_frames", -1, INT64_MAX, &vae_frames, e));
    if (v[0] > INT64_MAX / c->o.block || v[1] != v[0] * c->o.block || v[2] > CAUSAL_POSITIONS || v[4] > c->room || v[4] > v[2] ||
        global_end != v[2] * k->frame_tokens || local_end > global_end || (c->o.total && v[1] > c->o.total)) {
        rc = ERR(e, ERR_FORMAT, "%s: the numbers of the state contradict each other; begin anew without the file", path);
        goto out;
    }
    TRY(collect(c, &p, rng, e));
    for (size_t i = 0; i < p.n; i++)
        TRY(take(&p.items[i], f, e));
    if (!unpack_rng(&c->first, rng) || !unpack_rng(&c->later, rng + RNG_WORDS)) {
        rc = ERR(e, ERR_FORMAT, "%s: the random numbers of the state are none; begin anew without the file", path);
        goto out;
    }
    if (vae_frames >= 0) {
        if (!c->m.v) {
            rc = ERR(e, ERR_CONFIG, "%s: the state has frames of a VAE, but no VAE is loaded; set model.vae", path);
            goto out;
        }
        vae_stream_free(c->vae);
        c->vae = NULL;
        TRY(vae_decoder_new(&c->vae, c->m.v, e));
        TRY(vae_stream_visit(c->vae, load_vae, &(vae_loader){ c, f }, e));
        vae_stream_set_done(c->vae, vae_frames);
    }
    for (size_t i = 0; i < N_NUMBERS; i++)
        *(int64_t *)((char *)c + NUMBERS[i].at) = v[i];
    c->cache->global_end = global_end;
    c->cache->local_end = local_end;
    c->cache->base = base;
out:
    if (rc)
        c->broken = true;
    free(p.items);
    ckpt_close(f);
    str_release(&options);
    return rc;
}
