/* trace_internal: what trace.c, trace_arrays.c and trace_attributes.c share. */
#ifndef WANSCOPE_TRACE_INTERNAL_H
#define WANSCOPE_TRACE_INTERNAL_H

#include "experiments/trace.h"

#ifdef HAVE_HDF5

#include "experiments/trace_chunks.h"
#include "experiments/trace_h5.h"

#define TRACE_MAX_RANK 7

/* One big array, written row by row. `lead` leading axes number the rows, the rest is one row. */
typedef struct trace_array {
    hid_t set, mem_type;
    int rank, lead;
    hsize_t dims[TRACE_MAX_RANK], chunk[TRACE_MAX_RANK];
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
} trace_array;

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
    trace_array latents, velocity, maps;
    uint16_t *scratch;                /* a row in f16 */
#if TRACE_CHUNKS
    trace_chunks *chunks;
#endif
};

/* ---- trace_attributes.c: attributes, groups, small tables ---- */

/* ERR_IO: `what` (a dataset's name, or words) cannot be written, and what the operating system or HDF5 said. */
int trace_fail(trace_writer *t, err *e, const char *what);
/* A property list for a dataset, the caller's to close, or -1. */
hid_t trace_creation_list(void);
/* The names of the n axes of a dataset. */
bool trace_write_labels(hid_t set, int n, const char *const *names);
/* A one-dimensional dataset of n values, written at once. */
int trace_write_axis(trace_writer *t, const char *name, hid_t file_type, hid_t mem_type, int64_t n, const void *values,
                     const char *label, err *e);
/* The attributes of the file. */
int trace_write_root(trace_writer *t, const trace_spec *s, err *e);
/* /sigmas, /timesteps, /guidance, /expert, as they are in t. */
int trace_write_steps(trace_writer *t, err *e);
/* /shots, and /attention with its empty maps and its tables. */
int trace_write_shots(trace_writer *t, const trace_shots *s, err *e);
int trace_create_attention(trace_writer *t, const trace_spec *s, err *e);

/* ---- trace_arrays.c: the big arrays ---- */

/* An empty dataset; `lead` of its axes number the rows. a->set and a->mem_type are -1 before. The labels are those of the axes. */
int trace_create_array(trace_writer *t, trace_array *a, const char *name, trace_type type, int gzip, int rank, int lead,
                       const int64_t *dims, const char *const *labels, err *e);
/* Harmless for one that was not created. a->put stays. */
int trace_close_array(trace_writer *t, trace_array *a, err *e);
/* Brings into the file what threads still compress. Before any other call that changes the file. */
int trace_drain(trace_writer *t, err *e);
/* Tells the first failure of t once more. */
int trace_repeat(const trace_writer *t, err *e);

#endif

#endif
