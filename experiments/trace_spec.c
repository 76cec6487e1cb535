#include "experiments/trace_spec.h"

#include "experiments/trace_chunks.h"

int trace_rows_every(int32_t *rows, int steps, int every)
{
    int n = 0;
    for (int64_t k = 0; k < steps; k += every > 0 ? every : 1)
        rows[n++] = (int32_t)k;
    rows[n++] = steps;
    return n;
}

int trace_steps_every(int32_t *out, int steps, int every)
{
    int n = 0;
    for (int64_t k = 0; k < steps; k += every > 0 ? every : 1)
        out[n++] = (int32_t)k;
    return n;
}

int64_t trace_type_bytes(trace_type t)
{
    return t == TRACE_F16 ? 2 : 4;
}

int trace_spec_rows(const trace_spec *s)
{
    return s->latent_rows ? s->n_latent_rows : s->steps + 1;
}

int trace_spec_velocities(const trace_spec *s)
{
    return s->velocity_steps ? s->n_velocity_steps : s->steps;
}

int64_t trace_raw_bytes(const trace_spec *s)
{
    double row = (double)s->channels * (double)s->frames * (double)s->height * (double)s->width;
    double bytes = 0;
    const trace_axes *a = &s->axes;
    row *= (double)trace_type_bytes(s->latent_type);
    if (s->latents)
        bytes += row * trace_spec_rows(s);
    if (s->velocity)
        bytes += row * trace_spec_velocities(s);
    if (s->attention)
        bytes += (double)a->n_steps * a->n_layers * a->n_heads * a->n_words * (double)a->frames * (double)a->height *
                 (double)a->width * (double)trace_type_bytes(a->type);
    return bytes < 9e18 ? (int64_t)bytes + 65536 : INT64_MAX;
}

/* ---- memory ---- */

/* What is put at once: a row, or a block's part of it. */
typedef struct pieces {
    double latents, maps;      /* numbers of one, 0 when not stored */
    double n_latents, n_velocities, n_maps;      /* of a run, or of a block */
} pieces;

static pieces pieces_of(const trace_spec *s)
{
    const trace_axes *a = &s->axes;
    pieces p = { 0 };
    double part = s->n_blocks ? (double)s->block_frames / (double)s->frames : 1;
    if (s->latents || s->velocity)
        p.latents = (double)s->channels * (double)s->frames * (double)s->height * (double)s->width * part;
    if (s->attention)
        p.maps = (double)a->n_heads * a->n_words * (double)a->frames * (double)a->height * (double)a->width * part;
    p.n_latents = s->latents ? trace_spec_rows(s) : 0;
    p.n_velocities = s->velocity ? trace_spec_velocities(s) : 0;
    p.n_maps = s->attention ? (double)a->n_steps * a->n_layers : 0;
    return p;
}

static int64_t clamped(double bytes)
{
    return bytes < 9e18 ? (int64_t)bytes : INT64_MAX;
}

int64_t trace_largest_piece(const trace_spec *s)
{
    pieces p = pieces_of(s);
    return clamped(4 * (p.latents > p.maps ? p.latents : p.maps));
}

int64_t trace_sent_bytes(const trace_spec *s)
{
    pieces p = pieces_of(s);
    return clamped(4 * (p.latents * (p.n_latents + p.n_velocities) + p.maps * p.n_maps));
}

#if defined(HAVE_HDF5) && TRACE_CHUNKS
/* A piece that is cut leaves some of the room of its chunks empty, less than it fills. */
static double chunks_bytes(double piece)
{
    return piece > TRACE_CHUNK_BYTES ? 2 * piece : piece;
}

int64_t trace_buffer_bytes(const trace_spec *s)
{
    pieces p = pieces_of(s);
    double latents = p.latents * (double)trace_type_bytes(s->latent_type), maps = p.maps * (double)trace_type_bytes(s->axes.type);
    double largest = latents > maps ? latents : maps;
    if (!s->n_blocks) {      /* trace_put_step() waits for the threads; the last row comes behind the last step */
        p.n_latents = s->latents;
        p.n_velocities = s->velocity;
        p.n_maps = s->attention ? s->axes.n_layers : 0;
    }
    int64_t all = clamped(chunks_bytes(latents) * (p.n_latents + p.n_velocities) + chunks_bytes(maps) * p.n_maps);
    return (int64_t)trace_chunks_most((size_t)(largest < TRACE_CHUNK_BYTES ? largest : TRACE_CHUNK_BYTES), (size_t)all, 0);
}
#else
int64_t trace_buffer_bytes(const trace_spec *s)
{
    (void)s;
    return 0;
}
#endif

/* ---- checks ---- */

static int check_rising(const int32_t *v, int n, int64_t first, int64_t last, const char *what, const char *path,
                        err *e)
{
    if (!v || n < 1)
        return ERR(e, ERR_ARG, "%s: no %s are chosen: at least one is needed", path, what);
    for (int i = 0; i < n; i++)
        if (v[i] < first || v[i] > last || (i && v[i] <= v[i - 1]))
            return ERR(e, ERR_ARG, "%s: entry %d of the %s is %d: the entries must rise and lie between %lld and %lld",
                       path, i, what, (int)v[i], (long long)first, (long long)last);
    return 0;
}

static int check_axes(const char *path, const trace_spec *s, err *e)
{
    const trace_axes *a = &s->axes;
    int rc;
    if ((rc = check_rising(a->steps, a->n_steps, 0, s->steps - 1, "attention steps", path, e)) ||
        (rc = check_rising(a->layers, a->n_layers, 0, INT32_MAX, "attention layers", path, e)) ||
        (rc = check_rising(a->heads, a->n_heads, a->n_heads == 1 ? -1 : 0, INT32_MAX, "attention heads", path, e)))
        return rc;
    if (a->n_words < 1)
        return ERR(e, ERR_ARG, "%s: attention is to be stored but no word is marked: mark one as (word) in the prompt",
                   path);
    for (int i = 0; i < a->n_words; i++)
        if (a->words[i].n_tokens < 1)
            return ERR(e, ERR_ARG, "%s: the marked word '%s' has no token", path, a->words[i].text);
    return 0;
}

static bool small_product(int n, const int64_t *v)
{
    int64_t p = 1;
    for (int i = 0; i < n; i++)
        if (v[i] < 1 || __builtin_mul_overflow(p, v[i], &p))
            return false;
    return p <= INT32_MAX;
}

int trace_spec_check(const char *path, const trace_spec *s, err *e)
{
    const trace_axes *a = &s->axes;
    int rc = 0;
    if (s->steps < 1 || s->steps > 1000000)
        return ERR(e, ERR_ARG, "%s: a trace of %d steps cannot be stored: from 1 to 1000000 are possible", path,
                   s->steps);
    if (s->gzip < 0 || s->gzip > 9 || (s->attention && (a->gzip < 0 || a->gzip > 9)))
        return ERR(e, ERR_ARG, "%s: compression level %d is out of range: 0 (none) to 9", path, s->gzip < 0 || s->gzip > 9 ? s->gzip : a->gzip);
    if (s->n_blocks && (s->block_frames < 1 || s->n_blocks < 0 || s->block_frames * s->n_blocks != s->frames || !s->block_prompts ||
                        !s->block_sigmas || !s->block_timesteps || !s->block_guidance))
        return ERR(e, ERR_ARG, "%s: %d blocks of %lld frames are not the %lld frames of the clip", path, s->n_blocks, (long long)s->block_frames,
                   (long long)s->frames);
    if (!s->latents && !s->velocity && !s->attention)
        return ERR(e, ERR_ARG, "%s: neither latents nor attention are to be stored", path);
    if ((s->latents || s->velocity) && !small_product(4, (int64_t[]){ s->channels, s->frames, s->height, s->width }))
        return ERR(e, ERR_ARG,
                   "%s: latents of %lld x %lld x %lld x %lld (C, F, H, W) cannot be stored: from 1 to 2^31 - 1 numbers "
                   "are possible",
                   path, (long long)s->channels, (long long)s->frames, (long long)s->height, (long long)s->width);
    if (s->latents && s->latent_rows) {
        rc = check_rising(s->latent_rows, s->n_latent_rows, 0, s->steps, "latent rows", path, e);
        if (!rc && (s->latent_rows[0] != 0 || s->latent_rows[s->n_latent_rows - 1] != s->steps))
            rc = ERR(e, ERR_ARG, "%s: the stored latent rows must begin with 0, the noise, and end with %d, the result",
                     path, s->steps);
    }
    if (!rc && s->velocity && s->velocity_steps)
        rc = check_rising(s->velocity_steps, s->n_velocity_steps, 0, s->steps - 1, "velocity steps", path, e);
    if (!rc && s->attention) {
        rc = check_axes(path, s, e);
        if (!rc && !small_product(5, (int64_t[]){ a->n_heads, a->n_words, a->frames, a->height, a->width }))
            rc = ERR(e, ERR_ARG,
                     "%s: attention maps of %d heads x %d words x %lld x %lld x %lld cannot be stored: from 1 to "
                     "2^31 - 1 numbers a layer are possible; choose fewer words or the mean over heads",
                     path, a->n_heads, a->n_words, (long long)a->frames, (long long)a->height, (long long)a->width);
        if (!rc && !small_product(2, (int64_t[]){ a->n_steps, a->n_layers }))
            rc = ERR(e, ERR_ARG, "%s: attention of %d steps x %d layers cannot be stored: choose fewer", path,
                     a->n_steps, a->n_layers);
    }
    return rc;
}
