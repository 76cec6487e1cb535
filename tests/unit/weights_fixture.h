/* weights_fixture: small checkpoints made in a test, and copies of one with tensors replaced. Included by test programs only. */
#ifndef WANSCOPE_WEIGHTS_FIXTURE_H
#define WANSCOPE_WEIGHTS_FIXTURE_H

#include "core/io/ckpt.h"
#include "core/io/st_write.h"
#include "tests/unit/io_fixture.h"

#define DO(call) do { err e_ = { 0 }; e_.kind = 0; if (({ err *e = &e_; (void)e; (call); })) fail_msg("%s", e_.text); } while (0)

enum { FIX_MAX = 256 };

typedef struct fix_tensor {
    char name[200];
    dtype type;
    int ndim;
    int64_t shape[5];
    void *data;
    size_t bytes;
} fix_tensor;

typedef struct fix {
    fix_tensor t[FIX_MAX];
    int n;
} fix;

static fix_tensor *fix_find(fix *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->t[i].name, name) == 0)
            return &f->t[i];
    return NULL;
}

/* adds or replaces; values in f32, stored as `type` */
static void fix_put(fix *f, const char *name, dtype type, const float *values, int ndim, const int64_t *shape)
{
    fix_tensor *t = fix_find(f, name);
    int64_t n = 1;
    if (!t) {
        assert_true(f->n < FIX_MAX);
        t = &f->t[f->n++];
        memset(t, 0, sizeof *t);
        snprintf(t->name, sizeof t->name, "%s", name);
    }
    free(t->data);
    t->type = type;
    t->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        t->shape[i] = shape[i];
        n *= shape[i];
    }
    t->bytes = (size_t)n * dtype_size(type);
    t->data = malloc(t->bytes + 1);
    dtype_from_f32(t->data, type, values, n);
}
#define FIX_PUT(f, name, type, values, ...) \
    fix_put((f), (name), (type), (values), (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / 8), (int64_t[]){ __VA_ARGS__ })

static void fix_read(fix *f, const char *path)
{
    ckpt *c;
    memset(f, 0, sizeof *f);
    DO(ckpt_open(&c, path, e));
    for (size_t i = 0; i < ckpt_count(c); i++) {
        const ckpt_tensor *from = ckpt_at(c, i);
        fix_tensor *t = &f->t[f->n++];
        assert_true(f->n <= FIX_MAX && from->ndim <= 5);
        snprintf(t->name, sizeof t->name, "%s", from->name);
        t->type = from->dtype;
        t->ndim = from->ndim;
        for (int k = 0; k < from->ndim; k++)
            t->shape[k] = from->shape[k];
        t->bytes = from->bytes;
        t->data = malloc(t->bytes + 1);
        memcpy(t->data, from->data, t->bytes);
    }
    ckpt_close(c);
}

static void fix_write(const fix *f, const char *path)
{
    st_writer *w;
    DO(st_writer_new(&w, path, e));
    for (int i = 0; i < f->n; i++)
        DO(st_writer_tensor(w, f->t[i].name, f->t[i].type, f->t[i].ndim, f->t[i].shape, e));
    for (int i = 0; i < f->n; i++)
        DO(st_writer_data(w, f->t[i].data, f->t[i].bytes, e));
    DO(st_writer_close(w, e));
}

static void fix_release(fix *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->t[i].data);
    f->n = 0;
}

static void fix_drop(fix *f, const char *name)
{
    fix_tensor *t = fix_find(f, name);
    assert_non_null(t);
    free(t->data);
    *t = f->t[--f->n];
}

/* values of a tensor as f32; free() them */
static float *fix_values(fix *f, const char *name, int64_t *n)
{
    fix_tensor *t = fix_find(f, name);
    assert_non_null(t);
    *n = (int64_t)(t->bytes / dtype_size(t->type));
    float *v = malloc((size_t)*n * sizeof *v + 4);
    dtype_to_f32(v, t->data, t->type, *n);
    return v;
}

/* small reproducible numbers */
static void fix_noise(float *out, int64_t n, uint32_t seed, float size)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = size * ((float)(seed >> 8) / 8388608.0f - 1.0f);
    }
}

#endif
