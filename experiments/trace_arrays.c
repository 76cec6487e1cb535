/* The big arrays of a trace: creating them, putting rows and steps. */
#include "experiments/trace_internal.h"

#ifdef HAVE_HDF5

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/dtype.h"
#include "experiments/trace_spec.h"

/* HDF5 filters what it writes itself where trace_chunks.h cannot: also a single chunk, and blocks that do not fill whole chunks. */
#if TRACE_CHUNKS
static bool prepare_direct(trace_array *a, hid_t list, hid_t file_type, int gzip)
{
    a->layout = (trace_chunk_layout){ .set = a->set, .rank = a->rank, .element = (size_t)trace_type_bytes(a->type), .level = gzip, .name = a->name };
    memcpy(a->layout.chunk, a->chunk, sizeof a->chunk);
    for (int i = 0; i < a->rank; i++)
        a->direct = a->direct || a->dims[i] > a->chunk[i];
    if (a->block_frames && (hsize_t)a->block_frames % a->chunk[a->frame_axis])
        a->direct = false;
    return H5Pget_fill_value(list, file_type, a->layout.fill) >= 0;
}

int trace_drain(trace_writer *t, err *e)
{
    return trace_chunks_drain(t->chunks, e);
}
#else
static bool prepare_direct(trace_array *a, hid_t list, hid_t file_type, int gzip)
{
    (void)a, (void)list, (void)file_type, (void)gzip;
    return true;
}

int trace_drain(trace_writer *t, err *e)
{
    (void)t, (void)e;
    return 0;
}
#endif

int trace_create_array(trace_writer *t, trace_array *a, const char *name, trace_type type, int gzip, int rank, int lead,
                       const int64_t *dims, const char *const *labels, err *e)
{
    hsize_t bytes = (hsize_t)trace_type_bytes(type);
    a->name = name;
    a->type = type;
    a->rank = rank;
    a->lead = lead;
    a->row_count = 1;
    a->n_rows = 1;
    for (int i = 0; i < rank; i++) {
        a->dims[i] = (hsize_t)dims[i];
        a->chunk[i] = i < lead ? 1 : a->dims[i];
        if (i < lead)
            a->n_rows *= (int)dims[i];
        else {
            a->row_count *= dims[i];
            bytes *= a->dims[i];
        }
    }
    a->frame_axis = rank - 3;
    a->block_frames = t->block_frames;
    if (a->block_frames) {               /* a block fills whole chunks */
        bytes = bytes / a->chunk[a->frame_axis] * (hsize_t)a->block_frames;
        a->chunk[a->frame_axis] = (hsize_t)a->block_frames;
    }
    for (int i = lead; i < rank && bytes > TRACE_CHUNK_BYTES; i++) {
        hsize_t inner = bytes / a->chunk[i], fit = TRACE_CHUNK_BYTES / inner;
        a->chunk[i] = fit > 0 ? fit : 1;
        bytes = inner * a->chunk[i];
    }
    a->put = calloc((size_t)a->n_rows, sizeof *a->put);
    if (!a->put)
        return ERR(e, ERR_MEMORY, "%s: no memory for the %d rows of %s", t->path, a->n_rows, name);
    const float missing = NAN;           /* what a reader sees of a chunk that a damaged index has lost */
    hid_t file_type = -1, space = H5Screate_simple(rank, a->dims, NULL), list = trace_creation_list();
    int rc = 0;
    if (type == TRACE_F16) {
        a->mem_type = h5_f16_type();     /* we round ourselves, HDF5 only stores */
        file_type = h5_f16_type();
    } else {
        a->mem_type = H5Tcopy(H5T_NATIVE_FLOAT);
        file_type = H5Tcopy(H5T_IEEE_F32LE);
    }
    bool ok = space >= 0 && list >= 0 && file_type >= 0 && a->mem_type >= 0 &&
              H5Pset_chunk(list, rank, a->chunk) >= 0 && H5Pset_fill_value(list, H5T_NATIVE_FLOAT, &missing) >= 0;
    if (ok && gzip)
        ok = H5Pset_shuffle(list) >= 0 && H5Pset_deflate(list, (unsigned)gzip) >= 0;
    ok = ok && H5Pset_fletcher32(list) >= 0;
    if (ok)
        a->set = H5Dcreate2(t->file, name, file_type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (!ok || a->set < 0 || !trace_write_labels(a->set, rank, labels) || !prepare_direct(a, list, file_type, gzip) || t->disk.error)
        rc = trace_fail(t, e, name);
    if (file_type >= 0)
        H5Tclose(file_type);
    if (list >= 0)
        H5Pclose(list);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int trace_close_array(trace_writer *t, trace_array *a, err *e)
{
    int rc = 0;
    if (a->set >= 0 && (H5Dclose(a->set) < 0 || t->disk.error))
        rc = trace_fail(t, e, a->name);
    if (a->mem_type >= 0)
        H5Tclose(a->mem_type);
    a->set = a->mem_type = -1;
    return rc;
}

/* Keeps the first failure; whoever calls again gets the same sentence. */
static int remember(trace_writer *t, int rc, err *e)
{
    if (rc && !t->failed) {
        t->failed = true;
        if (e)
            t->first_error = *e;
        t->first_error.kind = rc;
    }
    return rc;
}

int trace_repeat(const trace_writer *t, err *e)
{
    return ERR(e, t->first_error.kind, "%s", t->first_error.text);
}

static int write_part(trace_writer *t, const trace_array *a, int row, const hsize_t *start, const hsize_t *count, const void *data, err *e)
{
#if TRACE_CHUNKS
    if (a->direct)
        return trace_chunks_write(t->chunks, &a->layout, row, start, count, data, e);
#endif
    int rc = trace_drain(t, e);
    if (rc)
        return rc;
    /* of the selection's rank and shape: HDF5 goes element by element where the two differ */
    hid_t file_space = H5Dget_space(a->set), mem_space = H5Screate_simple(a->rank, count, NULL);
    bool ok = file_space >= 0 && mem_space >= 0 &&
              H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
              H5Dwrite(a->set, a->mem_type, mem_space, file_space, H5P_DEFAULT, data) >= 0;
    rc = ok && !t->disk.error ? 0 : h5_fail(e, &t->disk, t->part, "row %d of %s cannot be written", row, a->name);
    if (mem_space >= 0)
        H5Sclose(mem_space);
    if (file_space >= 0)
        H5Sclose(file_space);
    return rc;
}

/* Frames [first, first + frames) of a row; all of them with frames -1. */
static int put_part(trace_writer *t, trace_array *a, int row, int64_t first, int64_t frames, const float *values, err *e)
{
    const void *data = values;
    hsize_t start[TRACE_MAX_RANK] = { 0 }, count[TRACE_MAX_RANK];
    if (a->set < 0)
        return ERR(e, ERR_INTERNAL, "%s: %s is not part of this trace", t->path, a->name ? a->name : "that array");
    int64_t all = (int64_t)a->dims[a->frame_axis];
    if (frames < 0)
        frames = all;
    if (frames != (a->block_frames ? a->block_frames : all) || first < 0 || first > all - frames)
        return ERR(e, ERR_INTERNAL, "%s: frames %lld to %lld of row %d of %s are no block of it", t->path, (long long)first, (long long)(first + frames), row,
                   a->name);
    int64_t n = a->row_count / all * frames;
    if (row < 0 || row >= a->n_rows || a->put[row] != first)
        return ERR(e, ERR_INTERNAL, "%s: row %d of %s %s", t->path, row, a->name,
                   row < 0 || row >= a->n_rows ? "does not exist" : "was put before");
    if (a->type == TRACE_F16) {
        dtype_from_f32(t->scratch, DT_F16, values, n);
        for (int64_t i = 0; i < n; i++)
            if ((t->scratch[i] & 0x7fff) == 0x7c00 && isfinite(values[i]))
                return ERR(e, ERR_ARG,
                           "%s: element %lld of row %d of %s is %g, which does not fit into f16: store f32 instead",
                           t->path, (long long)i, row, a->name, (double)values[i]);
        data = t->scratch;
    }
    for (int i = a->rank - 1, rest = row; i >= 0; i--) {
        count[i] = i < a->lead ? 1 : a->dims[i];
        if (i < a->lead) {
            start[i] = (hsize_t)rest % a->dims[i];
            rest = (int)((hsize_t)rest / a->dims[i]);
        }
    }
    start[a->frame_axis] = (hsize_t)first;
    count[a->frame_axis] = (hsize_t)frames;
    int rc = write_part(t, a, row, start, count, data, e);
    if (!rc)
        a->put[row] = first + frames;
    return rc;
}

static int put_row(trace_writer *t, trace_array *a, int row, const float *values, err *e)
{
    return put_part(t, a, row, 0, -1, values, e);
}

/* ---- where something belongs ---- */

static int find_number(const int32_t *v, int n, int number)
{
    for (int lo = 0, hi = v ? n : 0; lo < hi;) {
        int mid = lo + (hi - lo) / 2;
        if (v[mid] == number)
            return mid;
        if (v[mid] < number)
            lo = mid + 1;
        else
            hi = mid;
    }
    return -1;
}

int trace_latent_row(const trace_writer *t, int steps_done)
{
    return find_number(t->latent_rows, t->n_latent_rows, steps_done);
}

int trace_velocity_row(const trace_writer *t, int step)
{
    return find_number(t->velocity_steps, t->n_velocity_steps, step);
}

int trace_step_slot(const trace_writer *t, int step)
{
    return find_number(t->attention_steps, t->n_attention_steps, step);
}

int trace_layer_slot(const trace_writer *t, int layer)
{
    return find_number(t->attention_layers, t->n_attention_layers, layer);
}

/* ---- put ---- */

/* Failures need their sentence remembered even when the caller does not want it. */
#define WITH_ERROR(t, e, call) \
    do { \
        err here_ = { 0 }; \
        err *e_ = (e) ? (e) : &here_; \
        if ((t)->failed) \
            return trace_repeat((t), e_); \
        return remember((t), (call), e_); \
    } while (0)

int trace_put_latents(trace_writer *t, int row, const float *latents, err *e)
{
    WITH_ERROR(t, e, put_row(t, &t->latents, row, latents, e_));
}

int trace_put_velocity(trace_writer *t, int row, const float *velocity, err *e)
{
    WITH_ERROR(t, e, put_row(t, &t->velocity, row, velocity, e_));
}

static int put_attention(trace_writer *t, int step_slot, int layer_slot, int64_t first, int64_t frames, const float *maps, err *e)
{
    if (step_slot < 0 || step_slot >= t->n_attention_steps || layer_slot < 0 || layer_slot >= t->n_attention_layers)
        return ERR(e, ERR_INTERNAL, "%s: there is no attention map for step slot %d and layer slot %d", t->path,
                   step_slot, layer_slot);
    return put_part(t, &t->maps, step_slot * t->n_attention_layers + layer_slot, first, frames, maps, e);
}

int trace_put_attention(trace_writer *t, int step_slot, int layer_slot, const float *maps, err *e)
{
    WITH_ERROR(t, e, put_attention(t, step_slot, layer_slot, 0, -1, maps, e_));
}

int trace_put_latents_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *latents, err *e)
{
    WITH_ERROR(t, e, put_part(t, &t->latents, row, first, frames, latents, e_));
}

int trace_put_velocity_part(trace_writer *t, int row, int64_t first, int64_t frames, const float *velocity, err *e)
{
    WITH_ERROR(t, e, put_part(t, &t->velocity, row, first, frames, velocity, e_));
}

int trace_put_attention_part(trace_writer *t, int step_slot, int layer_slot, int64_t first, int64_t frames, const float *maps, err *e)
{
    WITH_ERROR(t, e, put_attention(t, step_slot, layer_slot, first, frames, maps, e_));
}

static int flush(trace_writer *t, err *e)
{
    int rc = trace_drain(t, e);
    if (rc)
        return rc;
    if (H5Fflush(t->file, H5F_SCOPE_LOCAL) < 0 || t->disk.error)
        return h5_fail(e, &t->disk, t->part, "a block cannot be written");
    return 0;
}

int trace_flush(trace_writer *t, err *e)
{
    WITH_ERROR(t, e, flush(t, e_));
}

static int put_step(trace_writer *t, int step, double sigma, double sigma_next, double timestep, double guidance,
                    int expert, err *e)
{
    if (step < 0 || step >= t->steps || t->step_put[step])
        return ERR(e, ERR_INTERNAL, "%s: step %d %s", t->path, step,
                   step < 0 || step >= t->steps ? "does not exist" : "was put before");
    if (!isfinite(sigma) || !isfinite(sigma_next) || !isfinite(timestep) || !isfinite(guidance))
        return ERR(e, ERR_NAN, "%s: sigma, timestep or guidance of step %d is not a finite number", t->path, step);
    bool before = step > 0 && t->step_put[step - 1], after = step + 1 < t->steps && t->step_put[step + 1];
    if ((before && t->sigmas[step] != sigma) || (after && t->sigmas[step + 1] != sigma_next))
        return ERR(e, ERR_INTERNAL, "%s: step %d runs from sigma %.17g to %.17g, which does not meet its neighbours",
                   t->path, step, sigma, sigma_next);
    t->sigmas[step] = sigma;
    t->sigmas[step + 1] = sigma_next;
    t->timesteps[step] = timestep;
    t->guidance[step] = guidance;
    t->expert[step] = expert;
    t->step_put[step] = true;
    int rc = trace_drain(t, e);
    if (!rc && (H5Fflush(t->file, H5F_SCOPE_LOCAL) < 0 || t->disk.error))
        rc = h5_fail(e, &t->disk, t->part, "step %d cannot be written", step);
    return rc;
}

int trace_put_step(trace_writer *t, int step, double sigma, double sigma_next, double timestep, double guidance,
                   int expert, err *e)
{
    WITH_ERROR(t, e, put_step(t, step, sigma, sigma_next, timestep, guidance, expert, e_));
}

#else

typedef int trace_arrays_is_empty_without_hdf5;

#endif
