/* The small things of a trace: attributes, groups and tables. */
#include "experiments/trace_internal.h"

#ifdef HAVE_HDF5

#include <stdlib.h>
#include <string.h>

int trace_fail(trace_writer *t, err *e, const char *what)
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
bool trace_write_labels(hid_t set, int n, const char *const *names)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, H5T_VARIABLE) >= 0 &&
              write_attribute(set, "DIMENSION_LABELS", type, type, (hsize_t)n, names);
    if (type >= 0)
        H5Tclose(type);
    return ok;
}

/* Dates would make two equal traces differ. */
hid_t trace_creation_list(void)
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
int trace_write_axis(trace_writer *t, const char *name, hid_t file_type, hid_t mem_type, int64_t n, const void *values,
                     const char *label, err *e)
{
    hsize_t dims[1] = { (hsize_t)n };
    hid_t space = H5Screate_simple(1, dims, NULL), list = trace_creation_list(), set = -1;
    H5T_class_t kind = H5Tget_class(file_type);
    bool ok = space >= 0 && list >= 0;
    if (kind == H5T_INTEGER || kind == H5T_FLOAT || (kind == H5T_STRING && H5Tis_variable_str(file_type) == 0))
        ok = ok && H5Pset_chunk(list, 1, dims) >= 0 && H5Pset_fletcher32(list) >= 0;
    else if (n <= 2000)
        ok = ok && H5Pset_layout(list, H5D_COMPACT) >= 0;
    if (ok)
        set = H5Dcreate2(t->file, name, file_type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    ok = set >= 0 && H5Dwrite(set, mem_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0 &&
         trace_write_labels(set, 1, &label);
    int rc = ok && !t->disk.error ? 0 : trace_fail(t, e, name);
    if (set >= 0 && (H5Dclose(set) < 0 || t->disk.error) && !rc)
        rc = trace_fail(t, e, name);
    if (list >= 0)
        H5Pclose(list);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

static int write_texts(trace_writer *t, const char *name, int n, const char *const *texts, const char *label, err *e)
{
    hid_t type = h5_text_type();
    int rc = type < 0 ? trace_fail(t, e, name) : trace_write_axis(t, name, type, type, n, texts, label, e);
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
        rc = trace_fail(t, e, name);
    else
        rc = trace_write_axis(t, name, type, type, n, table, label, e);
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
                 ? trace_fail(t, e, "/attention/tokens")
                 : trace_write_axis(t, "/attention/tokens", file_type, mem_type, a->n_words, lists, "word", e);
    if (file_type >= 0)
        H5Tclose(file_type);
    if (mem_type >= 0)
        H5Tclose(mem_type);
    free(lists);
    return rc;
}

int trace_write_root(trace_writer *t, const trace_spec *s, err *e)
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
    return ok && !t->disk.error ? 0 : trace_fail(t, e, "the attributes");
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
    return *out < 0 ? trace_fail(t, e, name) : 0;
}

int trace_write_shots(trace_writer *t, const trace_shots *s, err *e)
{
    hid_t group, i32 = H5T_STD_I32LE, own = H5T_NATIVE_INT32;
    int64_t sparse = s->sparse, masked = s->token_begin != NULL;
    int rc = create_group(t, "/shots", &group, e);
    if (rc)
        return rc;
    if (!write_attribute(group, "sparse", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &sparse) ||
        !write_attribute(group, "masked", H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &masked) || !write_text(group, "mask_type", s->mask_type) || t->disk.error)
        rc = trace_fail(t, e, "the attributes of /shots");
    H5Gclose(group);
    rc = rc ? rc : trace_write_axis(t, "/shots/latent_shot", i32, own, s->n_latent_frames, s->latent_shot, "latent_frame", e);
    rc = rc ? rc : trace_write_axis(t, "/shots/first_frames", i32, own, s->n_shots, s->first_frames, "shot", e);
    rc = rc ? rc : trace_write_axis(t, "/shots/first_latents", i32, own, s->n_shots, s->first_latents, "shot", e);
    if (!rc && s->global_caption) {
        rc = write_table(t, "/shots/global_caption", 1, &s->global_caption, "scene", e);
        rc = rc ? rc : write_table(t, "/shots/captions", s->n_captions, s->captions, "caption", e);
    }
    if (!rc && masked) {
        rc = trace_write_axis(t, "/shots/global_tokens", i32, own, 2, s->global_tokens, "begin_end", e);
        rc = rc ? rc : trace_write_axis(t, "/shots/token_begin", i32, own, s->n_shots, s->token_begin, "shot", e);
        rc = rc ? rc : trace_write_axis(t, "/shots/token_end", i32, own, s->n_shots, s->token_end, "shot", e);
    }
    return rc;
}

int trace_create_attention(trace_writer *t, const trace_spec *s, err *e)
{
    static const char *const labels[] = { "step", "layer", "head", "word", "frame", "height", "width" };
    const trace_axes *a = &s->axes;
    hid_t group;
    int rc = create_group(t, "/attention", &group, e);
    if (!rc)
        H5Gclose(group);
    int64_t dims[] = { a->n_steps, a->n_layers, a->n_heads, a->n_words, a->frames, a->height, a->width };
    if (!rc)
        rc = trace_create_array(t, &t->maps, "/attention/maps", a->type, a->gzip, 7, 2, dims, labels, e);
    if (!rc)
        rc = write_words(t, a, e);
    if (!rc)
        rc = write_tokens(t, a, e);
    if (!rc)
        rc = trace_write_axis(t, "/attention/steps", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_steps, a->steps, "step", e);
    if (!rc)
        rc = trace_write_axis(t, "/attention/layers", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_layers, a->layers, "layer", e);
    if (!rc)
        rc = trace_write_axis(t, "/attention/heads", H5T_STD_I32LE, H5T_NATIVE_INT32, a->n_heads, a->heads, "head", e);
    if (!rc && a->token_pieces && a->n_token_pieces > 0)
        rc = write_texts(t, "/attention/token_pieces", a->n_token_pieces, a->token_pieces, "token", e);
    return rc;
}

int trace_write_steps(trace_writer *t, err *e)
{
    int n = t->steps, rc;
    if ((rc = trace_write_axis(t, "/sigmas", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n + 1, t->sigmas, "steps_done", e)) ||
        (rc = trace_write_axis(t, "/timesteps", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n, t->timesteps, "step", e)) ||
        (rc = trace_write_axis(t, "/guidance", H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, n, t->guidance, "step", e)))
        return rc;
    return trace_write_axis(t, "/expert", H5T_STD_I32LE, H5T_NATIVE_INT32, n, t->expert, "step", e);
}

#else

typedef int trace_attributes_is_empty_without_hdf5;

#endif
