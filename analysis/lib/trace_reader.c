#include "analysis/lib/trace_reader.h"

#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/dtype.h"
#include "core/base/fs.h"
#include "core/base/str.h"

_Static_assert(sizeof(hid_t) == sizeof(int64_t), "HDF5 1.10 or newer is needed: handles are 64 bits wide");

#define MAX_ROW_ELEMS INT32_MAX
#define MAX_AXIS (1 << 24)
#define MAX_PIXELS 16384 /* what core/base/media can write */
#define WRONG_FILE "Is it a trace written by wanscope? Run the batch again with --resume to replace it"

static int bad(err *e, const trace_reader *r, const char *what)
{
    return ERR(e, ERR_FORMAT, "%s: %s. %s.", r->path, what, WRONG_FILE);
}

/* Opens a dataset and reads its shape; *id is -1 when an optional one is absent. */
static int open_dataset(hid_t *id, hsize_t *dims, const trace_reader *r, const char *name, int rank, bool required,
                        err *e)
{
    *id = -1;
    if (H5Lexists(r->file, name, H5P_DEFAULT) <= 0) {
        if (required)
            return ERR(e, ERR_FORMAT, "%s: dataset '%s' is missing. %s.", r->path, name, WRONG_FILE);
        return 0;
    }
    *id = H5Dopen2(r->file, name, H5P_DEFAULT);
    if (*id < 0)
        return ERR(e, ERR_FORMAT, "%s: '%s' cannot be opened as a dataset. %s.", r->path, name, WRONG_FILE);
    hid_t space = H5Dget_space(*id);
    int found = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    if (found == rank)
        H5Sget_simple_extent_dims(space, dims, NULL);
    if (space >= 0)
        H5Sclose(space);
    if (found == rank)
        return 0;
    H5Dclose(*id);
    *id = -1;
    return ERR(e, ERR_FORMAT, "%s: dataset '%s' has %d dimensions, expected %d. %s.", r->path, name, found, rank,
               WRONG_FILE);
}

/* 4 for IEEE f32, 2 for IEEE f16 (both little-endian), 0 for anything else */
static int float_bytes(hid_t dataset)
{
    hid_t type = H5Dget_type(dataset);
    int bytes = 0;
    if (type < 0)
        return 0;
    if (H5Tget_class(type) == H5T_FLOAT && H5Tget_order(type) == H5T_ORDER_LE) {
        size_t spos = 0, epos = 0, esize = 0, mpos = 0, msize = 0;
        H5Tget_fields(type, &spos, &epos, &esize, &mpos, &msize);
        if (H5Tget_size(type) == 4 && esize == 8 && msize == 23)
            bytes = 4;
        if (H5Tget_size(type) == 2 && esize == 5 && msize == 10 && epos == 10 && spos == 15)
            bytes = 2;
    }
    H5Tclose(type);
    return bytes;
}

/* Reads a whole 1-d dataset of any number type into fresh memory of `want` elements of `mem_type`. */
static int read_axis(void **out, int64_t *n, const trace_reader *r, const char *name, hid_t mem_type, bool required,
                     err *e)
{
    hsize_t dims[1] = { 0 };
    hid_t id = -1;
    *out = NULL;
    *n = 0;
    int rc = open_dataset(&id, dims, r, name, 1, required, e);
    if (rc || id < 0)
        return rc;
    hid_t type = H5Dget_type(id);
    H5T_class_t class = type < 0 ? H5T_NO_CLASS : H5Tget_class(type);
    if (type >= 0)
        H5Tclose(type);
    if (class != H5T_FLOAT && class != H5T_INTEGER) {
        rc = ERR(e, ERR_FORMAT, "%s: dataset '%s' does not hold numbers. %s.", r->path, name, WRONG_FILE);
    } else if (dims[0] == 0 || dims[0] > MAX_AXIS) {
        rc = ERR(e, ERR_FORMAT, "%s: dataset '%s' has %llu entries, expected 1 to %d. %s.", r->path, name,
                 (unsigned long long)dims[0], MAX_AXIS, WRONG_FILE);
    } else {
        *out = malloc((size_t)dims[0] * H5Tget_size(mem_type));
        if (!*out)
            rc = ERR(e, ERR_MEMORY, "%s: no memory for the %llu entries of '%s'", r->path, (unsigned long long)dims[0],
                     name);
        else if (H5Dread(id, mem_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *out) < 0)
            rc = ERR(e, ERR_FORMAT, "%s: dataset '%s' cannot be read: the file is damaged or truncated. %s.", r->path,
                     name, WRONG_FILE);
    }
    H5Dclose(id);
    if (rc) {
        free(*out);
        *out = NULL;
        return rc;
    }
    *n = (int64_t)dims[0];
    return 0;
}

static bool read_attribute(const trace_reader *r, const char *name, hid_t mem_type, H5T_class_t class_a,
                           H5T_class_t class_b, void *out)
{
    if (H5Aexists(r->file, name) <= 0)
        return false;
    hid_t id = H5Aopen(r->file, name, H5P_DEFAULT);
    if (id < 0)
        return false;
    hid_t space = H5Aget_space(id), type = H5Aget_type(id);
    bool ok = space >= 0 && type >= 0 && H5Sget_simple_extent_npoints(space) == 1 &&
              (H5Tget_class(type) == class_a || H5Tget_class(type) == class_b) && H5Aread(id, mem_type, out) >= 0;
    if (type >= 0)
        H5Tclose(type);
    if (space >= 0)
        H5Sclose(space);
    H5Aclose(id);
    return ok;
}

static int read_latents_layout(trace_reader *r, err *e)
{
    hsize_t d[5];
    hid_t id;
    int rc = open_dataset(&id, d, r, "/latents", 5, false, e);
    if (rc || id < 0)
        return rc;
    r->latents = id;
    r->has_latents = true;
    r->latents_bytes = float_bytes(id);
    if (!r->latents_bytes)
        return bad(e, r, "'/latents' is neither 32-bit nor 16-bit little-endian floating point");
    double elems = (double)d[1] * (double)d[2] * (double)d[3] * (double)d[4];
    if (elems < 1 || elems > MAX_ROW_ELEMS)
        return ERR(e, ERR_FORMAT,
                   "%s: a row of '/latents' is %llu x %llu x %llu x %llu (C, F, H, W), expected 1 to %d numbers. %s.",
                   r->path, (unsigned long long)d[1], (unsigned long long)d[2], (unsigned long long)d[3],
                   (unsigned long long)d[4], MAX_ROW_ELEMS, WRONG_FILE);
    if (d[0] < 2 || d[0] > MAX_AXIS)
        return ERR(e, ERR_FORMAT, "%s: '/latents' has %llu rows, expected at least 2 (the noise and the result). %s.",
                   r->path, (unsigned long long)d[0], WRONG_FILE);
    r->n_rows = (int64_t)d[0];
    r->C = (int64_t)d[1];
    r->F = (int64_t)d[2];
    r->H = (int64_t)d[3];
    r->W = (int64_t)d[4];
    r->row_elems = r->C * r->F * r->H * r->W;
    return 0;
}

static int read_schedule(trace_reader *r, err *e)
{
    int64_t n_sigmas, n;
    int rc = read_axis((void **)&r->sigmas, &n_sigmas, r, "/sigmas", H5T_NATIVE_DOUBLE, true, e);
    if (!rc)
        rc = read_axis((void **)&r->rows, &n, r, "/latent_rows", H5T_NATIVE_INT32, false, e);
    if (rc)
        return rc;
    r->n_steps = n_sigmas - 1;
    if (!r->has_latents)
        return 0;
    if (!r->rows) {
        if (r->n_rows != n_sigmas)
            return ERR(e, ERR_FORMAT,
                       "%s: '/latents' has %lld rows but '/sigmas' has %lld entries; without '/latent_rows' they must "
                       "be equal. %s.",
                       r->path, (long long)r->n_rows, (long long)n_sigmas, WRONG_FILE);
        r->rows = malloc((size_t)r->n_rows * sizeof *r->rows);
        for (int64_t i = 0; r->rows && i < r->n_rows; i++)
            r->rows[i] = (int32_t)i;
    } else if (n != r->n_rows) {
        return ERR(e, ERR_FORMAT, "%s: '/latent_rows' has %lld entries for %lld rows of '/latents'. %s.", r->path,
                   (long long)n, (long long)r->n_rows, WRONG_FILE);
    }
    r->row_sigma = malloc((size_t)r->n_rows * sizeof *r->row_sigma);
    if (!r->rows || !r->row_sigma)
        return ERR(e, ERR_MEMORY, "%s: no memory for the row axis", r->path);
    for (int64_t i = 0; i < n_sigmas; i++)
        if (!isfinite(r->sigmas[i]))
            return ERR(e, ERR_FORMAT, "%s: '/sigmas' entry %lld is not a finite number. %s.", r->path, (long long)i,
                       WRONG_FILE);
    for (int64_t i = 0; i < r->n_rows; i++) {
        if (r->rows[i] < 0 || r->rows[i] > r->n_steps || (i > 0 && r->rows[i] <= r->rows[i - 1]))
            return ERR(
                e, ERR_FORMAT,
                "%s: '/latent_rows' entry %lld is %d; the entries must rise from 0 to the number of steps, %lld. "
                "%s.",
                r->path, (long long)i, (int)r->rows[i], (long long)r->n_steps, WRONG_FILE);
        r->row_sigma[i] = r->sigmas[r->rows[i]];
    }
    if (r->rows[0] != 0 || r->rows[r->n_rows - 1] != r->n_steps)
        return ERR(e, ERR_FORMAT,
                   "%s: the stored rows run from step %d to step %d; the noise (0) and the result (%lld) must be among "
                   "them. %s.",
                   r->path, (int)r->rows[0], (int)r->rows[r->n_rows - 1], (long long)r->n_steps, WRONG_FILE);
    return 0;
}

static int read_words(trace_reader *r, err *e)
{
    trace_attention *a = &r->attention;
    hsize_t d[1];
    hid_t id, type = -1, space = -1;
    char **raw = NULL, *table = NULL;
    int rc = open_dataset(&id, d, r, "/attention/words", 1, true, e);
    if (rc)
        return rc;
    type = H5Dget_type(id);
    space = H5Dget_space(id);
    if (type < 0 || space < 0 || H5Tget_class(type) != H5T_STRING) {
        rc = bad(e, r, "'/attention/words' does not hold strings");
        goto out;
    }
    size_t bytes = H5Tis_variable_str(type) > 0 ? 0 : H5Tget_size(type); /* 0: variable length */
    if ((int64_t)d[0] != a->words.n) {
        rc = ERR(e, ERR_FORMAT, "%s: '/attention/words' has %llu entries but the maps have %lld words. %s.", r->path,
                 (unsigned long long)d[0], (long long)a->words.n, WRONG_FILE);
        goto out;
    }
    raw = calloc((size_t)a->words.n + 1, sizeof *raw);
    if (bytes && bytes <= 1 << 20)
        table = calloc((size_t)a->words.n + 1, bytes);
    a->words.text = calloc((size_t)a->words.n + 1, sizeof *a->words.text);
    if (!raw || !a->words.text || (bytes && !table)) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the marked words", r->path);
        goto out;
    }
    if (H5Dread(id, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes ? (void *)table : raw) < 0) {
        rc = bad(e, r, "'/attention/words' cannot be read: the file is damaged or truncated");
        goto out;
    }
    for (int64_t i = 0; i < a->words.n && !rc; i++) {
        const char *text = bytes ? table + (size_t)i * bytes : raw[i] ? raw[i] : "";
        a->words.text[i] = str_dupn(text, bytes ? strnlen(text, bytes) : strlen(text));
        if (!a->words.text[i])
            rc = ERR(e, ERR_MEMORY, "%s: no memory for the marked words", r->path);
    }
    if (!bytes)
        H5Dvlen_reclaim(type, space, H5P_DEFAULT, raw);
out:
    free(raw);
    free(table);
    if (space >= 0)
        H5Sclose(space);
    if (type >= 0)
        H5Tclose(type);
    H5Dclose(id);
    return rc;
}

static int read_attention_axis(int32_t **out, int64_t want, const trace_reader *r, const char *name, err *e)
{
    int64_t n;
    int rc = read_axis((void **)out, &n, r, name, H5T_NATIVE_INT32, true, e);
    if (!rc && n != want)
        rc = ERR(e, ERR_FORMAT, "%s: '%s' has %lld entries but that axis of '/attention/maps' has %lld. %s.", r->path,
                 name, (long long)n, (long long)want, WRONG_FILE);
    return rc;
}

static int read_attention_layout(trace_reader *r, err *e)
{
    trace_attention *a = &r->attention;
    hsize_t d[7];
    hid_t id;
    if (H5Lexists(r->file, "/attention", H5P_DEFAULT) <= 0)
        return 0;
    int rc = open_dataset(&id, d, r, "/attention/maps", 7, false, e);
    if (rc || id < 0)
        return rc;
    r->maps = id;
    r->maps_bytes = float_bytes(id);
    if (!r->maps_bytes)
        return bad(e, r, "'/attention/maps' is neither 32-bit nor 16-bit little-endian floating point");
    double map = (double)d[2] * (double)d[4] * (double)d[5] * (double)d[6];
    for (int i = 0; i < 7; i++)
        if (d[i] == 0 || d[i] > MAX_AXIS || map > MAX_ROW_ELEMS)
            return ERR(e, ERR_FORMAT, "%s: '/attention/maps' has an impossible shape (axis %d has %llu entries). %s.",
                       r->path, i, (unsigned long long)d[i], WRONG_FILE);
    a->n_steps = (int64_t)d[0];
    a->n_layers = (int64_t)d[1];
    a->n_heads = (int64_t)d[2];
    a->words.n = (int64_t)d[3];
    a->F = (int64_t)d[4];
    a->h = (int64_t)d[5];
    a->w = (int64_t)d[6];
    rc = read_attention_axis(&a->steps, a->n_steps, r, "/attention/steps", e);
    if (!rc)
        rc = read_attention_axis(&a->layers, a->n_layers, r, "/attention/layers", e);
    if (!rc)
        rc = read_attention_axis(&a->heads, a->n_heads, r, "/attention/heads", e);
    if (!rc)
        rc = read_words(r, e);
    a->present = !rc;
    return rc;
}

static int read_shots(trace_reader *r, err *e)
{
    int64_t F = r->has_latents ? r->F : r->attention.F;
    if (H5Lexists(r->file, "/shots", H5P_DEFAULT) <= 0)
        return 0;
    int rc = read_axis((void **)&r->latent_shot, &r->n_latent_shot, r, "/shots/latent_shot", H5T_NATIVE_INT32, true, e);
    if (rc)
        return rc;
    bool ok = r->n_latent_shot == F && r->latent_shot[0] == 0;
    for (int64_t f = 1; ok && f < F; f++)
        ok = r->latent_shot[f] == r->latent_shot[f - 1] || r->latent_shot[f] == r->latent_shot[f - 1] + 1;
    return ok ? 0 : bad(e, r, "'/shots/latent_shot' does not number the shots of its latent frames from 0");
}

/* A version this code does not know is refused; a file without one is judged by its datasets. */
static int check_version(const trace_reader *r, err *e)
{
    char version[32] = "";
    if (H5Aexists(r->file, "format_version") <= 0)
        return 0;
    hid_t id = H5Aopen(r->file, "format_version", H5P_DEFAULT), type = id < 0 ? -1 : H5Aget_type(id);
    bool ok = false;
    if (type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) > 0) {
        char *text = NULL;
        if (H5Aread(id, type, &text) >= 0 && text) {
            ok = !strcmp(text, TRACE_READER_VERSION);
            snprintf(version, sizeof version, "%.31s", text);
            H5free_memory(text);
        }
    } else if (type >= 0 && H5Tget_class(type) == H5T_STRING && H5Tget_size(type) < sizeof version) {
        ok = H5Aread(id, type, version) >= 0 && !strcmp(version, TRACE_READER_VERSION);
    }
    if (type >= 0)
        H5Tclose(type);
    if (id >= 0)
        H5Aclose(id);
    return ok ? 0
              : ERR(e, ERR_FORMAT,
                    "%s: its format version is '%s', this program reads version '%s'. Use the wanscope that wrote it.",
                    r->path, version, TRACE_READER_VERSION);
}

int trace_reader_open(trace_reader *r, const char *path, err *e)
{
    memset(r, 0, sizeof *r);
    r->file = r->latents = r->maps = -1;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    r->path = str_dup(path);
    if (!r->path)
        return ERR(e, ERR_MEMORY, "%s: no memory to open it", path);
    int rc = 0;
    if (!fs_exists(path)) {
        rc = ERR(e, ERR_IO, "%s: the file is missing. Run the batch again with --resume to make it.", path);
        goto out;
    }
    r->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (r->file < 0) {
        rc = ERR(e, ERR_FORMAT, "%s: cannot be opened as HDF5 (%s). %s.", path,
                 H5Fis_hdf5(path) > 0 ? "it is damaged or truncated" : "it is not an HDF5 file or may not be read",
                 WRONG_FILE);
        goto out;
    }
    rc = check_version(r, e);
    if (!rc)
        rc = read_latents_layout(r, e);
    if (!rc)
        rc = read_schedule(r, e);
    if (!rc)
        rc = read_attention_layout(r, e);
    if (!rc && !r->has_latents && !r->attention.present)
        rc = bad(e, r, "it holds neither '/latents' nor '/attention/maps'");
    if (!rc)
        rc = read_shots(r, e);
    if (rc)
        goto out;
    r->has_seed = read_attribute(r, "seed", H5T_NATIVE_INT64, H5T_INTEGER, H5T_INTEGER, &r->seed);
    if (!read_attribute(r, "fps", H5T_NATIVE_DOUBLE, H5T_FLOAT, H5T_INTEGER, &r->fps) || !isfinite(r->fps) ||
        r->fps < 0)
        r->fps = 0;
    if (!read_attribute(r, "width", H5T_NATIVE_INT64, H5T_INTEGER, H5T_INTEGER, &r->width) || r->width < 0 ||
        r->width > MAX_PIXELS)
        r->width = 0;
    if (!read_attribute(r, "height", H5T_NATIVE_INT64, H5T_INTEGER, H5T_INTEGER, &r->height) || r->height < 0 ||
        r->height > MAX_PIXELS)
        r->height = 0;
out:
    if (rc)
        trace_reader_close(r);
    return rc;
}

void trace_reader_close(trace_reader *r)
{
    if (!r->path) /* zeroed: no handle was ever opened */
        return;
    if (r->latents >= 0)
        H5Dclose(r->latents);
    if (r->maps >= 0)
        H5Dclose(r->maps);
    if (r->file >= 0)
        H5Fclose(r->file);
    for (int64_t i = 0; r->attention.words.text && i < r->attention.words.n; i++)
        free(r->attention.words.text[i]);
    free(r->attention.words.text);
    free(r->attention.steps);
    free(r->attention.layers);
    free(r->attention.heads);
    free(r->latent_shot);
    free(r->rows);
    free(r->sigmas);
    free(r->row_sigma);
    free(r->path);
    memset(r, 0, sizeof *r);
}

/* A hyperslab as f32. f16 is read as stored and converted by core/base/dtype, which is exact and far quicker than
 * HDF5's conversion of a type no CPU has. */
static int read_slab(hid_t dataset, float *out, uint16_t *scratch, int rank, const hsize_t *start, const hsize_t *count,
                     int bytes)
{
    hsize_t n = 1;
    for (int i = 0; i < rank; i++)
        n *= count[i];
    hid_t file_space = H5Dget_space(dataset), mem_space = H5Screate_simple(1, &n, NULL), type = H5Dget_type(dataset);
    int ok = file_space >= 0 && mem_space >= 0 && type >= 0 &&
             H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
             H5Dread(dataset, bytes == 2 ? type : H5T_NATIVE_FLOAT, mem_space, file_space, H5P_DEFAULT,
                     bytes == 2 ? (void *)scratch : (void *)out) >= 0;
    if (type >= 0)
        H5Tclose(type);
    if (mem_space >= 0)
        H5Sclose(mem_space);
    if (file_space >= 0)
        H5Sclose(file_space);
    if (ok && bytes == 2)
        dtype_to_f32(out, scratch, DT_F16, (int64_t)n);
    return ok ? 0 : -1;
}

int trace_reader_row(trace_reader *r, float *out, uint16_t *scratch, int64_t i, err *e)
{
    hsize_t start[5] = { (hsize_t)i, 0, 0, 0, 0 };
    hsize_t count[5] = { 1, (hsize_t)r->C, (hsize_t)r->F, (hsize_t)r->H, (hsize_t)r->W };
    if (read_slab(r->latents, out, scratch, 5, start, count, r->latents_bytes))
        return ERR(e, ERR_FORMAT,
                   "%s: row %lld of '/latents' (step %d) cannot be read: the file is damaged or truncated. %s.",
                   r->path, (long long)i, (int)r->rows[i], WRONG_FILE);
    for (int64_t k = 0; k < r->row_elems; k++)
        if (!isfinite(out[k]))
            return ERR(
                e, ERR_NAN,
                "%s: row %lld of '/latents' (step %d) holds %s at element %lld, expected finite numbers. The run "
                "itself failed at that step; look at its log and run it again.",
                r->path, (long long)i, (int)r->rows[i], isnan(out[k]) ? "NaN" : "an infinity", (long long)k);
    return 0;
}

int trace_reader_maps(trace_reader *r, float *out, int64_t step, int64_t layer, int64_t word, err *e)
{
    const trace_attention *a = &r->attention;
    hsize_t start[7] = { (hsize_t)step, (hsize_t)layer, 0, (hsize_t)word, 0, 0, 0 };
    hsize_t count[7] = { 1, 1, (hsize_t)a->n_heads, 1, (hsize_t)a->F, (hsize_t)a->h, (hsize_t)a->w };
    int64_t n = a->n_heads * a->F * a->h * a->w;
    uint16_t *scratch = NULL;
    if (r->maps_bytes == 2 && !(scratch = malloc((size_t)n * sizeof *scratch)))
        return ERR(e, ERR_MEMORY, "%s: no memory for an attention map", r->path);
    int rc = read_slab(r->maps, out, scratch, 7, start, count, r->maps_bytes);
    free(scratch);
    if (rc)
        return ERR(e, ERR_FORMAT,
                   "%s: the attention maps of step %d, layer %d cannot be read: the file is damaged or truncated. %s.",
                   r->path, (int)a->steps[step], (int)a->layers[layer], WRONG_FILE);
    for (int64_t k = 0; k < n; k++)
        if (!isfinite(out[k]))
            return ERR(e, ERR_NAN,
                       "%s: the attention maps of step %d, layer %d hold a value that is not finite. Run it again.",
                       r->path, (int)a->steps[step], (int)a->layers[layer]);
    return 0;
}
