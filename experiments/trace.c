#include "experiments/trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/dtype.h"
#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/str.h"
#include "experiments/trace_chunks.h"
#include "experiments/trace_h5.h"
#include "experiments/trace_spec.h"

#ifdef HAVE_HDF5

#define MAX_RANK 7

/* One big array, written row by row. `lead` leading axes number the rows, the rest is one row. */
typedef struct array {
    hid_t set, mem_type;
    int rank, lead;
    hsize_t dims[MAX_RANK], chunk[MAX_RANK];
    int64_t row_count;                /* elements of a row */
    int n_rows;
    int frame_axis;
    int64_t block_frames;             /* 0: a row comes as a whole */
    int64_t *put;                     /* frames of each row so far */
    trace_type type;
    const char *name;                 /* a literal */
#if TRACE_CHUNKS
    trace_chunk_layout layout;
    bool direct;                      /* written by t->chunks, else by HDF5's own filters */
#endif
} array;

struct trace_writer {
    char *path, *part;
    hid_t file;
    h5_disk disk;                     /* notes what the operating system refused */
    err first_error;
    int steps, gzip;
    int64_t block_frames;
    int32_t *latent_rows, *velocity_steps, *attention_steps, *attention_layers;    /* NULL when not stored */
    int n_latent_rows, n_velocity_steps, n_attention_steps, n_attention_layers;
    double *sigmas, *timesteps, *guidance;
    int32_t *expert;
    bool *step_put;
    bool failed;
    array latents, velocity, maps;
    uint16_t *scratch;                /* a row in f16 */
#if TRACE_CHUNKS
    trace_chunks *chunks;
#endif
};

/* ---- small things into the file ---- */

static int fail(trace_writer *t, err *e, const char *what)
{
    return h5_fail(e, &t->disk, t->part, "%s cannot be written", what);
}

static bool write_attribute(hid_t at, const char *name, hid_t file_type, hid_t mem_type, hsize_t n, const void *value)
{
    hid_t space = n ? H5Screate_simple(1, &n, NULL) : H5Screate(H5S_SCALAR);
    hid_t id = space < 0 ? -1 : H5Acreate2(at, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = id >= 0 && H5Awrite(id, mem_type, value) >= 0;
    if (id >= 0 && H5Aclose(id) < 0)
        ok = false;
    if (space >= 0)
        H5Sclose(space);
    return ok;
}

static bool write_text(hid_t at, const char *name, const char *value)
{
    hid_t type = h5_text_type();
    const char *text = value ? value : "";
    bool ok = type >= 0 && write_attribute(at, name, type, type, 0, &text);
    if (type >= 0)
        H5Tclose(type);
    return ok;
}

/* A text of fixed length: unlike a variable-length one it lies where a checksum covers it. Programs rely on these. */
static bool write_fixed_text(hid_t at, const char *name, const char *value)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, strlen(value) + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0 &&
              write_attribute(at, name, type, type, 0, value);
    if (type >= 0)
        H5Tclose(type);
    return ok;
}

/* The axis names in the form of HDF5's dimension scales interface: h5py shows them as dataset.dims[i].label. */
static bool write_labels(hid_t set, int n, const char *const *names)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, H5T_VARIABLE) >= 0 &&
              write_attribute(set, "DIMENSION_LABELS", type, type, (hsize_t)n, names);
    if (type >= 0)
        H5Tclose(type);
    return ok;
}

/* Dates would make two equal traces differ. */
static hid_t creation_list(void)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    if (p >= 0 && H5Pset_obj_track_times(p, false) < 0) {
        H5Pclose(p);
        return -1;
    }
    return p;
}

/* A small array of n entries. Variable-length ones can have no checksum filter; stored in the object header their
 * references at least come under the header's own checksum. */
static int write_axis(trace_writer *t, const char *name, hid_t file_type, hid_t mem_type, int64_t n, const void *values,
                      const char *label, err *e)
{
    hsize_t dims[1] = { (hsize_t)n };
    hid_t space = H5Screate_simple(1, dims, NULL), list = creation_list(), set = -1;
    H5T_class_t kind = H5Tget_class(file_type);
    bool ok = space >= 0 && list >= 0;
    if (kind == H5T_INTEGER || kind == H5T_FLOAT || (kind == H5T_STRING && H5Tis_variable_str(file_type) == 0))
        ok = ok && H5Pset_chunk(list, 1, dims) >= 0 && H5Pset_fletcher32(list) >= 0;
    else if (n <= 2000)
        ok = ok && H5Pset_layout(list, H5D_COMPACT) >= 0;
    if (ok)
        set = H5Dcreate2(t->file, name, file_type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    ok = set >= 0 && H5Dwrite(set, mem_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0 &&
         write_labels(set, 1, &label);
    int rc = ok && !t->disk.error ? 0 : fail(t, e, name);
    if (set >= 0 && (H5Dclose(set) < 0 || t->disk.error) && !rc)
        rc = fail(t, e, name);
    if (list >= 0)
        H5Pclose(list);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

static int write_texts(trace_writer *t, const char *name, int n, const char *const *texts, const char *label, err *e)
{
    hid_t type = h5_text_type();
    int rc = type < 0 ? fail(t, e, name) : write_axis(t, name, type, type, n, texts, label, e);
    if (type >= 0)
        H5Tclose(type);
    return rc;
}

/* Texts of one length with zeros behind, because these, unlike variable-length ones, have a checksum, and HDF5 1.10 crashes on
 * a variable-length text that is damaged. */
static int write_table(trace_writer *t, const char *name, int n, const char *const *texts, const char *label, err *e)
{
    size_t bytes = 1;
    for (int i = 0; i < n; i++)
        bytes = strlen(texts[i]) > bytes ? strlen(texts[i]) : bytes;
    char *table = calloc(n > 0 ? (size_t)n : 1, bytes);
    if (!table)
        return ERR(e, ERR_MEMORY, "%s: no memory for %d texts", t->path, n);
    for (int i = 0; i < n; i++)
        memcpy(table + (size_t)i * bytes, texts[i], strlen(texts[i]));
    hid_t type = H5Tcopy(H5T_C_S1);
    int rc;
    if (type < 0 || H5Tset_size(type, bytes) < 0 || H5Tset_strpad(type, H5T_STR_NULLPAD) < 0 ||
        H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        rc = fail(t, e, name);
    else
        rc = write_axis(t, name, type, type, n, table, label, e);
    if (type >= 0)
        H5Tclose(type);
    free(table);
    return rc;
}

static int write_words(trace_writer *t, const trace_axes *a, err *e)
{
    const char **words = calloc((size_t)a->n_words, sizeof *words);
    if (!words)
        return ERR(e, ERR_MEMORY, "%s: no memory for %d words", t->path, a->n_words);
    for (int i = 0; i < a->n_words; i++)
        words[i] = a->words[i].text;
    int rc = write_table(t, "/attention/words", a->n_words, words, "word", e);
    free(words);
    return rc;
}

static int write_tokens(trace_writer *t, const trace_axes *a, err *e)
{
    hvl_t *lists = calloc((size_t)a->n_words, sizeof *lists);
    if (!lists)
        return ERR(e, ERR_MEMORY, "%s: no memory for %d words", t->path, a->n_words);
    for (int i = 0; i < a->n_words; i++) {
        lists[i].len = (size_t)a->words[i].n_tokens;
        lists[i].p = (void *)(uintptr_t)a->words[i].tokens;    /* only read */
    }
    hid_t file_type = H5Tvlen_create(H5T_STD_I32LE), mem_type = H5Tvlen_create(H5T_NATIVE_INT32);
    int rc = file_type < 0 || mem_type < 0
                 ? fail(t, e, "/attention/tokens")
                 : write_axis(t, "/attention/tokens", file_type, mem_type, a->n_words, lists, "word", e);
    if (file_type >= 0)
        H5Tclose(file_type);
    if (mem_type >= 0)
        H5Tclose(mem_type);
    free(lists);
    return rc;
}

static int write_root(trace_writer *t, const trace_spec *s, err *e)
{
    const struct { const char *name, *value; } texts[] = {
        { "prompt", s->prompt }, { "negative_prompt", s->negative_prompt },
        { "clean_prompt", s->clean_prompt }, { "solver", s->solver }, { "family", s->family },
        { "checkpoints", s->checkpoints }, { "build", s->build }, { "device", s->device }, { "config", s->config },
    };
    const struct { const char *name; int64_t value; } whole[] = {
        { "seed", s->seed }, { "steps", s->steps }, { "context_len", s->context_len }, { "width", s->pixel_width },
        { "height", s->pixel_height }, { "frames", s->pixel_frames },
    };
    const struct { const char *name; double value; } real[] = {
        { "shift", s->shift }, { "guidance", s->guidance }, { "fps", s->fps },
    };
    bool ok = write_fixed_text(t->file, "format_version", TRACE_FORMAT_VERSION);
    for (size_t i = 0; i < sizeof texts / sizeof *texts && ok; i++)
        ok = write_text(t->file, texts[i].name, texts[i].value);
    for (size_t i = 0; i < sizeof whole / sizeof *whole && ok; i++)
        ok = write_attribute(t->file, whole[i].name, H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &whole[i].value);
    for (size_t i = 0; i < sizeof real / sizeof *real && ok; i++)
        ok = write_attribute(t->file, real[i].name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, 0, &real[i].value);
    for (size_t i = 0; i < s->n_more && ok; i++)
        ok = write_text(t->file, s->more[i].name, s->more[i].value);
    return ok && !t->disk.error ? 0 : fail(t, e, "the attributes");
}

/* ---- the big arrays ---- */

/* HDF5 filters what it writes itself where trace_chunks.h cannot: also a single chunk, and blocks that do not fill whole chunks. */
#if TRACE_CHUNKS
static bool prepare_direct(array *a, hid_t list, hid_t file_type, int gzip)
{
    a->layout = (trace_chunk_layout){ .set = a->set, .rank = a->rank, .element = (size_t)trace_type_bytes(a->type), .level = gzip, .name = a->name };
    memcpy(a->layout.chunk, a->chunk, sizeof a->chunk);
    for (int i = 0; i < a->rank; i++)
        a->direct = a->direct || a->dims[i] > a->chunk[i];
    if (a->block_frames && (hsize_t)a->block_frames % a->chunk[a->frame_axis])
        a->direct = false;
    return H5Pget_fill_value(list, file_type, a->layout.fill) >= 0;
}

/* Before any other call that changes the file. */
static int drain(trace_writer *t, err *e)
{
    return trace_chunks_drain(t->chunks, e);
}
#else
static bool prepare_direct(array *a, hid_t list, hid_t file_type, int gzip)
{
    (void)a, (void)list, (void)file_type, (void)gzip;
    return true;
}

static int drain(trace_writer *t, err *e)
{
    (void)t, (void)e;
    return 0;
}
#endif

static int create_array(trace_writer *t, array *a, const char *name, trace_type type, int gzip, int rank, int lead,
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
    hid_t file_type = -1, space = H5Screate_simple(rank, a->dims, NULL), list = creation_list();
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
    if (!ok || a->set < 0 || !write_labels(a->set, rank, labels) || !prepare_direct(a, list, file_type, gzip) || t->disk.error)
        rc = fail(t, e, name);
    if (file_type >= 0)
        H5Tclose(file_type);
    if (list >= 0)
        H5Pclose(list);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

static int close_array(trace_writer *t, array *a, err *e)
{
    int rc = 0;
    if (a->set >= 0 && (H5Dclose(a->set) < 0 || t->disk.error))
        rc = fail(t, e, a->name);
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

static int repeat(const trace_writer *t, err *e)
{
    return ERR(e, t->first_error.kind, "%s", t->first_error.text);
}

static int write_part(trace_writer *t, const array *a, int row, const hsize_t *start, const hsize_t *count, const void *data, err *e)
{
#if TRACE_CHUNKS
    if (a->direct)
        return trace_chunks_write(t->chunks, &a->layout, row, start, count, data, e);
#endif
    int rc = drain(t, e);
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
static int put_part(trace_writer *t, array *a, int row, int64_t first, int64_t frames, const float *values, err *e)
{
    const void *data = values;
    hsize_t start[MAX_RANK] = { 0 }, count[MAX_RANK];
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

static int put_row(trace_writer *t, array *a, int row, const float *values, err *e)
{
    return put_part(t, a, row, 0, -1, values, e);
}

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

/* *out is the caller's to close. */
static int create_group(trace_writer *t, const char *name, hid_t *out, err *e)
{
    hid_t list = H5Pcreate(H5P_GROUP_CREATE);
    *out = -1;
    if (list >= 0 && H5Pset_obj_track_times(list, false) >= 0)
        *out = H5Gcreate2(t->file, name, H5P_DEFAULT, list, H5P_DEFAULT);
    if (list >= 0)
        H5Pclose(list);
    return *out < 0 ? fail(t, e, name) : 0;
}

static int write_shots(trace_writer *t, const trace_shots *s, err *e)
{
    hid_t group, i32 = H5T_STD_I32LE, own = H5T_NATIVE_INT32;
    int64_t sparse = s->sparse, masked = s->token_begin != NULL;
    int rc = create_group(t, "/shots", &group, e);
    if (rc)
        return rc;
    if (!write_attribute(group, "sparse", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &sparse) ||
        !write_attribute(group, "masked", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &masked) || !write_text(group, "mask_type", s->mask_type) || t->disk.error)
        rc = fail(t, e, "the attributes of /shots");
    H5Gclose(group);
    rc = rc ? rc : write_axis(t, "/shots/latent_shot", i32, own, s->n_latent_frames, s->latent_shot, "latent_frame", e);
    rc = rc ? rc : write_axis(t, "/shots/first_frames", i32, own, s->n_shots, s->first_frames, "shot", e);
    rc = rc ? rc : write_axis(t, "/shots/first_latents", i32, own, s->n_shots, s->first_latents, "shot", e);
    if (!rc && s->global_caption) {
        rc = write_table(t, "/shots/global_caption", 1, &s->global_caption, "scene", e);
        rc = rc ? rc : write_table(t, "/shots/captions", s->n_captions, s->captions, "caption", e);
    }
    if (!rc && masked) {
        rc = write_axis(t, "/shots/global_tokens", i32, own, 2, s->global_tokens, "begin_end", e);
        rc = rc ? rc : write_axis(t, "/shots/token_begin", i32, own, s->n_shots, s->token_begin, "shot", e);
        rc = rc ? rc : write_axis(t, "/shots/token_end", i32, own, s->n_shots, s->token_end, "shot", e);
    }
    return rc;
}

static int create_attention(trace_writer *t, const trace_spec *s, err *e)
{
    static const char *const labels[] = { "step", "layer", "head", "word", "frame", "height", "width" };
    const trace_axes *a = &s->axes;
    hid_t group;
    int rc = create_group(t, "/attention", &group, e);
    if (!rc)
        H5Gclose(group);
    int64_t dims[] = { a->n_steps, a->n_layers, a->n_heads, a->n_words, a->frames, a->height, a->width };
    if (!rc)
        rc = create_array(t, &t->maps, "/attention/maps", a->type, a->gzip, 7, 2, dims, labels, e);
    if (!rc)
        rc = write_words(t, a, e);
    if (!rc)
        rc = write_tokens(t, a, e);
    if (!rc)
        rc = write_axis(t, "/attention/steps", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_steps, a->steps, "step", e);
    if (!rc)
        rc = write_axis(t, "/attention/layers", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_layers, a->layers, "layer", e);
    if (!rc)
        rc = write_axis(t, "/attention/heads", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_heads, a->heads, "head", e);
    if (!rc && a->token_pieces && a->n_token_pieces > 0)
        rc = write_texts(t, "/attention/token_pieces", a->n_token_pieces, a->token_pieces, "token", e);
    return rc;
}

static int write_steps(trace_writer *t, err *e);

/* Readers may look from now on; nothing new can be created, so what a block's steps are is written before. */
static int begin_blocks(trace_writer *t, const trace_spec *s, err *e)
{
    memcpy(t->sigmas, s->block_sigmas, ((size_t)t->steps + 1) * sizeof *t->sigmas);
    memcpy(t->timesteps, s->block_timesteps, (size_t)t->steps * sizeof *t->timesteps);
    memcpy(t->guidance, s->block_guidance, (size_t)t->steps * sizeof *t->guidance);
    int rc = write_axis(t, "/block_prompts", H5T_STD_I32LE, H5T_NATIVE_INT32, s->n_blocks, s->block_prompts, "block", e);
    if (!rc)
        rc = write_steps(t, e);
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
        rc = write_root(t, s, e);
    if (!rc && s->latents) {
        int64_t dims[] = { t->n_latent_rows, s->channels, s->frames, s->height, s->width };
        rc = create_array(t, &t->latents, "/latents", s->latent_type, t->gzip, 5, 1, dims, row_labels, e);
        if (!rc)
            rc = write_axis(t, "/latent_rows", H5T_STD_I32LE, H5T_NATIVE_INT32, t->n_latent_rows, t->latent_rows, "row",
                            e);
    }
    if (!rc && s->velocity) {
        int64_t dims[] = { t->n_velocity_steps, s->channels, s->frames, s->height, s->width };
        rc = create_array(t, &t->velocity, "/velocity", s->latent_type, t->gzip, 5, 1, dims, step_labels, e);
        if (!rc)
            rc = write_axis(t, "/velocity_steps", H5T_STD_I32LE, H5T_NATIVE_INT32, t->n_velocity_steps,
                            t->velocity_steps, "step", e);
    }
    if (!rc && s->attention)
        rc = create_attention(t, s, e);
    if (!rc && s->shots)
        rc = write_shots(t, s->shots, e);
    if (!rc && s->n_blocks)
        rc = begin_blocks(t, s, e);
    if (rc)
        trace_abort(t);
    else
        *out = t;
    return rc;
}

/* ---- put ---- */

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

/* Failures need their sentence remembered even when the caller does not want it. */
#define WITH_ERROR(t, e, call) \
    do { \
        err here_ = { 0 }; \
        err *e_ = (e) ? (e) : &here_; \
        if ((t)->failed) \
            return repeat((t), e_); \
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
    int rc = drain(t, e);
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
    int rc = drain(t, e);
    if (!rc && (H5Fflush(t->file, H5F_SCOPE_LOCAL) < 0 || t->disk.error))
        rc = h5_fail(e, &t->disk, t->part, "step %d cannot be written", step);
    return rc;
}

int trace_put_step(trace_writer *t, int step, double sigma, double sigma_next, double timestep, double guidance,
                   int expert, err *e)
{
    WITH_ERROR(t, e, put_step(t, step, sigma, sigma_next, timestep, guidance, expert, e_));
}

/* ---- finish ---- */

static int check_complete(const trace_writer *t, err *e)
{
    const array *arrays[] = { &t->latents, &t->velocity, &t->maps };
    for (int k = 0; k < t->steps; k++)
        if (!t->step_put[k])
            return ERR(e, ERR_INTERNAL, "%s: step %d was never recorded", t->path, k);
    for (int i = 0; i < 3; i++)
        for (int row = 0; arrays[i]->set >= 0 && row < arrays[i]->n_rows; row++)
            if (arrays[i]->put[row] != (int64_t)arrays[i]->dims[arrays[i]->frame_axis])
                return ERR(e, ERR_INTERNAL, "%s: row %d of %s was never recorded", t->path, row, arrays[i]->name);
    return 0;
}

static int write_steps(trace_writer *t, err *e)
{
    int n = t->steps, rc;
    if ((rc = write_axis(t, "/sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n + 1, t->sigmas, "steps_done", e)) ||
        (rc = write_axis(t, "/timesteps", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n, t->timesteps, "step", e)) ||
        (rc = write_axis(t, "/guidance", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n, t->guidance, "step", e)))
        return rc;
    return write_axis(t, "/expert", H5T_STD_I32LE, H5T_NATIVE_INT32, n, t->expert, "step", e);
}

/* Closes everything; the first failure is told. A file with something still open would not be complete on the disk. */
static int close_all(trace_writer *t, err *e)
{
    int rc = close_array(t, &t->latents, e), rc2 = close_array(t, &t->velocity, rc ? NULL : e);
    rc = rc ? rc : rc2;
    rc2 = close_array(t, &t->maps, rc ? NULL : e);
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
    int rc = t->failed ? repeat(t, e) : check_complete(t, e);
    if (!rc)
        rc = drain(t, e);
    if (!rc && !t->block_frames)
        rc = write_steps(t, e);
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
