#include "experiments/trace_internal.h"

#ifdef HAVE_HDF5

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/str.h"
#include "experiments/trace_spec.h"

/* ---- create ---- */

static int32_t *copy_numbers(const int32_t *from, int n)    /* NULL counts 0, 1, 2, ... */
{
    int32_t *to = malloc((size_t)n * sizeof *to);
    for (int i = 0; to && i < n; i++)
        to[i] = from ? from[i] : i;
    return to;
}

static void free_writer(trace_writer *t)
{
#if TRACE_CHUNKS
    trace_chunks_free(t->chunks);
#endif
    free(t->latents.put);
    free(t->velocity.put);
    free(t->maps.put);
    free(t->scratch);
    free(t->latent_rows);
    free(t->velocity_steps);
    free(t->attention_steps);
    free(t->attention_layers);
    free(t->sigmas);
    free(t->timesteps);
    free(t->guidance);
    free(t->expert);
    free(t->step_put);
    free(t->path);
    free(t->part);
    free(t);
}

static int make_writer(trace_writer **out, const char *path, const trace_spec *s, err *e)
{
    trace_writer *t = calloc(1, sizeof *t);
    *out = t;
    if (!t)
        return ERR(e, ERR_MEMORY, "%s: no memory for a trace writer", path);
    t->file = t->latents.set = t->velocity.set = t->maps.set = -1;
    t->latents.mem_type = t->velocity.mem_type = t->maps.mem_type = -1;
    size_t n = (size_t)s->steps;
    int64_t row = s->latents || s->velocity ? s->channels * s->frames * s->height * s->width : 0, half = 0;
    const trace_axes *a = &s->axes;
    if ((s->latents || s->velocity) && s->latent_type == TRACE_F16)
        half = row;
    if (s->attention && a->type == TRACE_F16) {
        int64_t maps = a->n_heads * a->n_words * a->frames * a->height * a->width;
        half = maps > half ? maps : half;
    }
    t->steps = s->steps;
    t->gzip = s->gzip;
    t->block_frames = s->n_blocks ? s->block_frames : 0;
    t->path = str_dup(path);
    t->part = str_format("%s.part", path);
    t->sigmas = calloc(n + 1, sizeof *t->sigmas);
    t->timesteps = calloc(n, sizeof *t->timesteps);
    t->guidance = calloc(n, sizeof *t->guidance);
    t->expert = calloc(n, sizeof *t->expert);
    t->step_put = calloc(n, sizeof *t->step_put);
    bool ok = t->path && t->part && t->sigmas && t->timesteps && t->guidance && t->expert && t->step_put;
    if (half)
        ok = (t->scratch = malloc((size_t)half * sizeof *t->scratch)) && ok;
    if (s->latents)
        ok = (t->latent_rows = copy_numbers(s->latent_rows, t->n_latent_rows = trace_spec_rows(s))) && ok;
    if (s->velocity) {
        t->n_velocity_steps = trace_spec_velocities(s);
        ok = (t->velocity_steps = copy_numbers(s->velocity_steps, t->n_velocity_steps)) && ok;
    }
    if (s->attention) {
        ok = (t->attention_steps = copy_numbers(a->steps, t->n_attention_steps = a->n_steps)) && ok;
        ok = (t->attention_layers = copy_numbers(a->layers, t->n_attention_layers = a->n_layers)) && ok;
    }
    if (!ok)
        return ERR(e, ERR_MEMORY, "%s: no memory for a trace of %d steps", path, s->steps);
#if TRACE_CHUNKS
    return trace_chunks_new(&t->chunks, t->part, &t->disk, 0, e);
#else
    return 0;
#endif
}

static int create_file(trace_writer *t, err *e)
{
    /* the oldest format whose chunk index has checksums; both bounds, so that newer libraries write the same bytes */
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    int rc = 0;
    if (access < 0 || create < 0 || H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
        h5_disk_use(access, &t->disk) < 0 || H5Pset_obj_track_times(create, false) < 0 ||
        (t->file = H5Fcreate(t->part, H5F_ACC_TRUNC, create, access)) < 0)
        rc = h5_fail(e, &t->disk, t->part, "the trace cannot be created; check that its folder exists and is writable");
    if (access >= 0)
        H5Pclose(access);
    if (create >= 0)
        H5Pclose(create);
    return rc;
}

/* Readers may look from now on; nothing new can be created, so what a block's steps are is written before. */
static int begin_blocks(trace_writer *t, const trace_spec *s, err *e)
{
    memcpy(t->sigmas, s->block_sigmas, ((size_t)t->steps + 1) * sizeof *t->sigmas);
    memcpy(t->timesteps, s->block_timesteps, (size_t)t->steps * sizeof *t->timesteps);
    memcpy(t->guidance, s->block_guidance, (size_t)t->steps * sizeof *t->guidance);
    int rc = trace_write_axis(t, "/block_prompts", H5T_STD_I32LE, H5T_NATIVE_INT32, s->n_blocks, s->block_prompts, "block", e);
    if (!rc)
        rc = trace_write_steps(t, e);
    if (!rc && (H5Fstart_swmr_write(t->file) < 0 || t->disk.error))
        rc = h5_fail(e, &t->disk, t->part, "the trace cannot be opened for readers");
    return rc;
}

int trace_create(trace_writer **out, const char *path, const trace_spec *s, err *e)
{
    static const char *const row_labels[] = { "row", "channel", "frame", "height", "width" };
    static const char *const step_labels[] = { "step", "channel", "frame", "height", "width" };
    trace_writer *t = NULL;
    *out = NULL;
    int rc = trace_spec_check(path, s, e);
    if (rc)
        return rc;
    h5_quiet();
    if ((s->gzip || (s->attention && s->axes.gzip)) && H5Zfilter_avail(H5Z_FILTER_DEFLATE) <= 0)
        return ERR(e, ERR_ARG, "%s: this HDF5 library cannot compress with gzip: set the compression level to 0", path);
    rc = make_writer(&t, path, s, e);
    if (!rc)
        rc = create_file(t, e);
    if (!rc)
        rc = trace_write_root(t, s, e);
    if (!rc && s->latents) {
        int64_t dims[] = { t->n_latent_rows, s->channels, s->frames, s->height, s->width };
        rc = trace_create_array(t, &t->latents, "/latents", s->latent_type, t->gzip, 5, 1, dims, row_labels, e);
        if (!rc)
            rc = trace_write_axis(t, "/latent_rows", H5T_STD_I32LE, H5T_NATIVE_INT32, t->n_latent_rows, t->latent_rows,
                                  "row", e);
    }
    if (!rc && s->velocity) {
        int64_t dims[] = { t->n_velocity_steps, s->channels, s->frames, s->height, s->width };
        rc = trace_create_array(t, &t->velocity, "/velocity", s->latent_type, t->gzip, 5, 1, dims, step_labels, e);
        if (!rc)
            rc = trace_write_axis(t, "/velocity_steps", H5T_STD_I32LE, H5T_NATIVE_INT32, t->n_velocity_steps,
                                  t->velocity_steps, "step", e);
    }
    if (!rc && s->attention)
        rc = trace_create_attention(t, s, e);
    if (!rc && s->shots)
        rc = trace_write_shots(t, s->shots, e);
    if (!rc && s->n_blocks)
        rc = begin_blocks(t, s, e);
    if (rc)
        trace_abort(t);
    else
        *out = t;
    return rc;
}

/* ---- finish ---- */

static int check_complete(const trace_writer *t, err *e)
{
    const trace_array *arrays[] = { &t->latents, &t->velocity, &t->maps };
    for (int k = 0; k < t->steps; k++)
        if (!t->step_put[k])
            return ERR(e, ERR_INTERNAL, "%s: step %d was never recorded", t->path, k);
    for (int i = 0; i < 3; i++)
        for (int row = 0; arrays[i]->set >= 0 && row < arrays[i]->n_rows; row++)
            if (arrays[i]->put[row] != (int64_t)arrays[i]->dims[arrays[i]->frame_axis])
                return ERR(e, ERR_INTERNAL, "%s: row %d of %s was never recorded", t->path, row, arrays[i]->name);
    return 0;
}

/* Closes everything; the first failure is told. A file with something still open would not be complete on the disk. */
static int close_all(trace_writer *t, err *e)
{
    int rc = trace_close_array(t, &t->latents, e), rc2 = trace_close_array(t, &t->velocity, rc ? NULL : e);
    rc = rc ? rc : rc2;
    rc2 = trace_close_array(t, &t->maps, rc ? NULL : e);
    rc = rc ? rc : rc2;
    if (t->file >= 0) {
        ssize_t open_ids = H5Fget_obj_count(t->file, H5F_OBJ_ALL);
        if (!rc && open_ids != 1)
            rc = ERR(e, ERR_INTERNAL, "%s: %lld HDF5 handles are open at the end, expected the file's own", t->path,
                     (long long)open_ids);
        if ((H5Fclose(t->file) < 0 || t->disk.error) && !rc)
            rc = h5_fail(e, &t->disk, t->part, "the trace cannot be finished");
        t->file = -1;
    }
    return rc;
}

int trace_commit(trace_writer *t, err *e)
{
    int rc = t->failed ? trace_repeat(t, e) : check_complete(t, e);
    if (!rc)
        rc = trace_drain(t, e);
    if (!rc && !t->block_frames)
        rc = trace_write_steps(t, e);
    if (!rc && (H5Fflush(t->file, H5F_SCOPE_LOCAL) < 0 || t->disk.error))
        rc = h5_fail(e, &t->disk, t->part, "the trace cannot be finished");
    int closed = close_all(t, rc ? NULL : e);
    rc = rc ? rc : closed;
    if (!rc)
        rc = fs_publish(t->part, t->path, e);
    if (rc)
        unlink(t->part);
    free_writer(t);
    return rc;
}

void trace_abort(trace_writer *t)
{
    if (!t)
        return;
    close_all(t, NULL);
    if (t->part)
        unlink(t->part);
    free_writer(t);
}

#else

int trace_create(trace_writer **t, const char *path, const trace_spec *spec, err *e)
{
    (void)spec;
    *t = NULL;
    return ERR(e, ERR_ARG,
               "%s: this build has no HDF5, so traces cannot be stored: switch the capture of latents and attention "
               "off, or install libhdf5-dev and build again",
               path);
}

static int no_trace(err *e)
{
    return ERR(e, ERR_INTERNAL, "this build has no HDF5, so there is no trace");
}

int trace_latent_row(const trace_writer *t, int steps_done)
{
    (void)t;
    (void)steps_done;
    return -1;
}

int trace_velocity_row(const trace_writer *t, int step)
{
    return trace_latent_row(t, step);
}

int trace_step_slot(const trace_writer *t, int step)
{
    return trace_latent_row(t, step);
}

int trace_layer_slot(const trace_writer *t, int layer)
{
    return trace_latent_row(t, layer);
}

int trace_put_latents(trace_writer *t, int row, const float *latents, err *e)
{
    (void)t;
    (void)row;
    (void)latents;
    return no_trace(e);
}

int trace_put_step(trace_writer *t, int step, double sigma, double sigma_next, double timestep, double guidance,
                   int expert, err *e)
{
    (void)t;
    (void)step;
    (void)sigma;
    (void)sigma_next;
    (void)timestep;
    (void)guidance;
    (void)expert;
    return no_trace(e);
}

int trace_put_velocity(trace_writer *t, int row, const float *velocity, err *e)
{
    return trace_put_latents(t, row, velocity, e);
}

int trace_put_attention(trace_writer *t, int step_slot, int layer_slot, const float *maps, err *e)
{
    (void)layer_slot;
    return trace_put_latents(t, step_slot, maps, e);
}

int trace_put_latents_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *latents, err *e)
{
    (void)first;
    (void)frames;
    return trace_put_latents(t, row, latents, e);
}

int trace_put_velocity_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *velocity, err *e)
{
    return trace_put_latents_part(t, row, first, frames, velocity, e);
}

int trace_put_attention_part(trace_writer *t, int step_slot, int layer_slot, int64_t first, int64_t frames, const float *maps, err *e)
{
    (void)layer_slot;
    return trace_put_latents_part(t, step_slot, first, frames, maps, e);
}

int trace_flush(trace_writer *t, err *e)
{
    (void)t;
    return no_trace(e);
}

int trace_commit(trace_writer *t, err *e)
{
    (void)t;
    return no_trace(e);
}

void trace_abort(trace_writer *t)
{
    (void)t;
}

#endif
