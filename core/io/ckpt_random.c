#include "core/io/ckpt_random.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/io/ckpt_internal.h"
#include "core/io/expect.h"
#include "core/sample/rng.h"

/* Elements of the pattern that large tensors repeat: whole pages in every type, and a prime number of them, so that the rows of
 * no matrix fall on themselves. */
enum { PAGE = 4096, POOL = 2048 * 4099, LARGE = 1 << 20, MAX_PATTERNS = 64 };

/* The pool, scaled and in one type, in a file without a name that is mapped as often as it is needed. */
typedef struct pattern {
    dtype dtype;
    float scale;
    int fd;
} pattern;

typedef struct maker {
    ckpt *c;
    ckpt_kind kind;
    float q_scale;                  /* umT5 has no 1/sqrt(head size) on its scores: trained ones have it in q */
    float *pool;                    /* POOL normals, once a large tensor is there */
    pattern patterns[MAX_PATTERNS];
    int n_patterns;
    rng_cpu rng;
    uint8_t *at;                    /* where the next large tensor goes */
} maker;

static int no_memory(const maker *m, const char *what, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: no memory for random weights (%s: %s)", ckpt_path(m->c), what, strerror(errno));
}

static float scale_of(const maker *m, const ckpt_tensor *t, float *mean)
{
    size_t elements = t->bytes / dtype_size(t->dtype);
    *mean = 0;
    if (strstr(t->name, "norm") || str_ends_with(t->name, ".gamma")) {
        *mean = str_ends_with(t->name, ".bias") ? 0 : 1;
        return 0;
    }
    if (str_ends_with(t->name, ".bias"))
        return 0.02f;
    if (str_ends_with(t->name, "modulation"))
        return 1 / sqrtf((float)t->shape[t->ndim - 1]);
    if (m->kind == CKPT_T5 && strstr(t->name, "token_embedding"))
        return 1;
    if (m->kind == CKPT_T5 && strstr(t->name, "pos_embedding"))
        return 0.5f;
    float scale = 1 / sqrtf((float)(elements / (size_t)t->shape[0]));
    return m->kind == CKPT_T5 && str_ends_with(t->name, "attn.q.weight") ? scale * m->q_scale : scale;
}

static int small_tensor(maker *m, ckpt_tensor *t, float scale, float mean, err *e)
{
    int64_t n = (int64_t)(t->bytes / dtype_size(t->dtype));
    void *data = arena_alloc(&m->c->memory, t->bytes);
    float *values = malloc((size_t)n * sizeof *values + 1);
    if (!data || !values) {
        free(values);
        return no_memory(m, t->name, e);
    }
    if (scale != 0)
        rng_cpu_normal(&m->rng, values, n);
    for (int64_t i = 0; i < n; i++)
        values[i] = scale != 0 ? values[i] * scale + mean : mean;
    dtype_from_f32(data, t->dtype, values, n);
    free(values);
    t->data = data;
    return 0;
}

static int find_pattern(maker *m, dtype type, float scale, int *fd, err *e)
{
    enum { PIECE = 1 << 16 };
    int rc = 0;
    for (int i = 0; i < m->n_patterns; i++)
        if (m->patterns[i].dtype == type && m->patterns[i].scale == scale) {
            *fd = m->patterns[i].fd;
            return 0;
        }
    if (m->n_patterns == MAX_PATTERNS)
        return ERR(e, ERR_INTERNAL, "%s: random weights of more than %d scales", ckpt_path(m->c), MAX_PATTERNS);
    if (!m->pool) {
        if (!(m->pool = malloc(POOL * sizeof *m->pool)))
            return no_memory(m, "the pattern", e);
        rng_cpu_normal(&m->rng, m->pool, POOL);
    }
    size_t bytes = POOL * dtype_size(type);
    float *scaled = malloc(PIECE * sizeof *scaled);
    *fd = memfd_create("weights", MFD_CLOEXEC);
    uint8_t *to = MAP_FAILED;
    if (scaled && *fd >= 0 && !ftruncate(*fd, (off_t)bytes))
        to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (to == MAP_FAILED) {
        rc = no_memory(m, "the pattern", e);
        if (*fd >= 0)
            close(*fd);
    } else {
        for (int64_t i = 0; i < POOL; i += PIECE) {
            int64_t n = i + PIECE < POOL ? PIECE : POOL - i;
            for (int64_t k = 0; k < n; k++)
                scaled[k] = m->pool[i + k] * scale;
            dtype_from_f32(to + (size_t)i * dtype_size(type), type, scaled, n);
        }
        munmap(to, bytes);
        m->patterns[m->n_patterns++] = (pattern){ type, scale, *fd };
    }
    free(scaled);
    return rc;
}

static size_t pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

/* Maps the pattern again and again, beginning at a page that the tensor's name decides: equal tensors would make q equal k. */
static int large_tensor(maker *m, ckpt_tensor *t, float scale, err *e)
{
    int fd = -1, rc = find_pattern(m, t->dtype, scale, &fd, e);
    if (rc)
        return rc;
    size_t period = POOL * dtype_size(t->dtype), n_pages = period / PAGE, hash = 5381;
    for (const char *p = t->name; *p; p++)
        hash = hash * 33 + (uint8_t)*p;
    size_t from = hash % n_pages * PAGE;
    for (size_t done = 0, want = pages(t->bytes); done < want; from = 0) {
        size_t n = period - from < want - done ? period - from : want - done;
        if (mmap(m->at + done, n, PROT_READ, MAP_SHARED | MAP_FIXED, fd, (off_t)from) == MAP_FAILED)
            return no_memory(m, t->name, e);
        done += n;
    }
    t->data = m->at;
    m->at += pages(t->bytes);
    return 0;
}

static int fill(maker *m, uint64_t seed, err *e)
{
    ckpt *c = m->c;
    size_t reserve = 0;
    int rc = 0;
    rng_cpu_seed(&m->rng, seed);
    for (size_t i = 0; i < c->count; i++) {
        ckpt_tensor *t = &c->tensors[i];
        float mean;
        if (m->kind != CKPT_VAE && t->ndim > 1 && !str_ends_with(t->name, "modulation"))
            t->dtype = DT_BF16;
        if (!ckpt_shape_bytes(t->shape, t->ndim, t->dtype, &t->bytes) || reserve > SIZE_MAX / 4 - pages(t->bytes))
            return ERR(e, ERR_SHAPE, "%s: the tensor '%s' is too large", ckpt_path(c), t->name);
        if (t->bytes >= LARGE && scale_of(m, t, &mean) != 0)
            reserve += pages(t->bytes);
    }
    if (reserve) {
        fs_map *map = calloc(1, sizeof *map);
        char *path = str_dup(ckpt_path(c));
        void *p = mmap(NULL, reserve, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (!map || !path || p == MAP_FAILED) {
            if (p != MAP_FAILED)
                munmap(p, reserve);
            free(map);
            free(path);
            return no_memory(m, "address space", e);
        }
        *map = (fs_map){ p, reserve, path };
        c->maps = map;
        c->n_maps = 1;
        m->at = p;
    }
    for (size_t i = 0; i < c->count && !rc; i++) {
        ckpt_tensor *t = &c->tensors[i];
        float mean, scale = scale_of(m, t, &mean);
        rc = t->bytes >= LARGE && scale != 0 ? large_tensor(m, t, scale, e) : small_tensor(m, t, scale, mean, e);
    }
    return rc;
}

static int make(ckpt **out, const char *name, ckpt_kind kind, const void *cfg, float q_scale, uint64_t seed, err *e)
{
    maker m = { .kind = kind, .q_scale = q_scale };
    ckpt_want *want = NULL;
    *out = NULL;
    int rc = ckpt_new(&m.c, name, e);
    if (rc)
        return rc;
    rc = ckpt_want_record(&want, m.c, name, e);
    if (!rc) {
        if (kind == CKPT_DIT)
            expect_dit(want, cfg);
        else if (kind == CKPT_T5)
            expect_umt5(want, cfg);
        else
            expect_vae(want, cfg);
        rc = ckpt_want_finish(want, false, e);
    }
    rc = rc ? rc : fill(&m, seed, e);
    for (int i = 0; i < m.n_patterns; i++)
        close(m.patterns[i].fd);        /* the maps keep what they need */
    free(m.pool);
    if (rc)
        ckpt_close(m.c);
    else
        *out = m.c;
    return rc;
}

int ckpt_random_dit(ckpt **out, const char *name, const dit_config *cfg, uint64_t seed, err *e)
{
    return make(out, name, CKPT_DIT, cfg, 1, seed, e);
}

int ckpt_random_umt5(ckpt **out, const char *name, const umt5_config *cfg, uint64_t seed, err *e)
{
    return make(out, name, CKPT_T5, cfg, 1 / sqrtf((float)cfg->dim_attn / (float)cfg->num_heads), seed, e);
}

int ckpt_random_vae(ckpt **out, const char *name, const vae_config *cfg, uint64_t seed, err *e)
{
    return make(out, name, CKPT_VAE, cfg, 1, seed, e);
}
