#include "experiments/trace_compare.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/str.h"
#include "experiments/trace_h5.h"

#ifdef HAVE_HDF5

#define BLOCK ((hsize_t)1 << 19)          /* numbers read at a time */
#define MAX_TEXTS ((int64_t)1 << 24)      /* texts and lists are read whole */
#define MAX_DEPTH 16                      /* groups in groups */

typedef struct names {
    char **v;
    size_t n, cap;
} names;

static int no_memory(const char *path, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: no memory to compare it", path);
}

static int damaged(const char *path, const char *name, err *e)
{
    return ERR(e, ERR_FORMAT, "%s: '%s' cannot be read: the file is damaged or truncated; make or copy it again", path,
               name);
}

static int add_name(names *l, const char *name, const char *path, err *e)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 32;
        char **grown = realloc(l->v, cap * sizeof *grown);
        if (!grown)
            return no_memory(path, e);
        l->v = grown;
        l->cap = cap;
    }
    l->v[l->n] = str_dup(name);
    return l->v[l->n] ? (l->n++, 0) : no_memory(path, e);
}

static void free_names(names *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
}

static bool has_name(const names *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (!strcmp(l->v[i], name))
            return true;
    return false;
}

/* Collects the full names of all datasets below a group. */
static int list_datasets(names *l, hid_t group, const char *prefix, int depth, const char *path, err *e)
{
    H5G_info_t info;
    int rc = 0;
    if (H5Gget_info(group, &info) < 0)
        return damaged(path, prefix, e);
    for (hsize_t i = 0; i < info.nlinks && !rc; i++) {
        char link[512];
        ssize_t n = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, link, sizeof link, H5P_DEFAULT);
        if (n < 0 || (size_t)n >= sizeof link)
            return damaged(path, prefix, e);
        char *full = str_format("%s/%s", prefix, link);
        if (!full)
            return no_memory(path, e);
        hid_t object = H5Oopen(group, link, H5P_DEFAULT);
        H5I_type_t kind = object < 0 ? H5I_BADID : H5Iget_type(object);
        if (kind == H5I_BADID)
            rc = damaged(path, full, e);
        else if (kind == H5I_DATASET)
            rc = add_name(l, full, path, e);
        else if (kind == H5I_GROUP && depth >= MAX_DEPTH)
            rc = ERR(e, ERR_FORMAT, "%s: groups lie more than %d deep at '%s', which no trace has", path, MAX_DEPTH,
                     full);
        else if (kind == H5I_GROUP)
            rc = list_datasets(l, object, full, depth + 1, path, e);
        if (object >= 0)
            H5Oclose(object);
        free(full);
    }
    return rc;
}

/* ---- one dataset of each file ---- */

typedef struct side {
    const char *path, *name;
    hid_t set, type, space;
    H5T_class_t kind;
    int ndim;
    hsize_t dims[COMPARE_MAX_DIMS];
    int64_t shape[COMPARE_MAX_DIMS], n;
} side;

static void close_side(side *s)
{
    if (s->space >= 0)
        H5Sclose(s->space);
    if (s->type >= 0)
        H5Tclose(s->type);
    if (s->set >= 0)
        H5Dclose(s->set);
}

/* The chunk cache must hold a chunk, or every block would unpack it anew. */
static hid_t open_with_cache(hid_t file, const char *name)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), list = set < 0 ? -1 : H5Dget_create_plist(set), type = -1,
          access = -1;
    hsize_t chunk[COMPARE_MAX_DIMS];
    double bytes = 1;
    if (list < 0 || H5Pget_layout(list) != H5D_CHUNKED)
        goto out;
    int n = H5Pget_chunk(list, COMPARE_MAX_DIMS, chunk);
    type = H5Dget_type(set);
    for (int i = 0; i < n; i++)
        bytes *= (double)chunk[i];
    bytes *= (double)H5Tget_size(type);
    if (bytes <= 1 << 20 || bytes > 1 << 30)
        goto out;
    access = H5Pcreate(H5P_DATASET_ACCESS);
    if (access >= 0 && H5Pset_chunk_cache(access, 521, (size_t)bytes, 1.0) >= 0) {
        H5Dclose(set);
        set = H5Dopen2(file, name, access);
    }
out:
    if (access >= 0)
        H5Pclose(access);
    if (type >= 0)
        H5Tclose(type);
    if (list >= 0)
        H5Pclose(list);
    return set;
}

static int open_side(side *s, hid_t file, const char *path, const char *name, err *e)
{
    *s = (side){ .path = path, .name = name, .set = -1, .type = -1, .space = -1, .n = 1 };
    s->set = open_with_cache(file, name);
    if (s->set < 0 || (s->type = H5Dget_type(s->set)) < 0 || (s->space = H5Dget_space(s->set)) < 0)
        return damaged(path, name, e);
    s->kind = H5Tget_class(s->type);
    s->ndim = H5Sget_simple_extent_dims(s->space, s->dims, NULL);
    if (s->ndim < 0)
        return damaged(path, name, e);
    for (int i = 0; i < s->ndim; i++) {
        s->shape[i] = (int64_t)s->dims[i];
        if (s->dims[i] > INT64_MAX || __builtin_mul_overflow(s->n, s->shape[i], &s->n))
            return ERR(e, ERR_FORMAT, "%s: '%s' has an impossible shape: the file is damaged; make or copy it again",
                       path, name);
    }
    return 0;
}

static bool is_number(H5T_class_t k)
{
    return k == H5T_INTEGER || k == H5T_FLOAT;
}

/* Reads the contiguous run of `count` elements at `start`: the trailing axes whole, a range of one axis, one of the
 * rest. */
static int read_block(side *s, void *out, hid_t type, const hsize_t *start, const hsize_t *count, hsize_t n, err *e)
{
    hid_t memory = H5Screate_simple(1, &n, NULL);
    bool ok = memory >= 0 &&
              (!s->ndim || H5Sselect_hyperslab(s->space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0) &&
              H5Dread(s->set, type, memory, s->space, H5P_DEFAULT, out) >= 0;
    if (memory >= 0)
        H5Sclose(memory);
    return ok ? 0 : damaged(s->path, s->name, e);
}

static int compare_numbers(compare_item *x, side *a, side *b, double tolerance, err *e)
{
    bool whole = a->kind == H5T_INTEGER && b->kind == H5T_INTEGER;
    hid_t type = whole ? H5T_NATIVE_INT64 : H5T_NATIVE_DOUBLE;
    hsize_t start[COMPARE_MAX_DIMS] = { 0 }, count[COMPARE_MAX_DIMS], inner = 1;
    int axis = a->ndim - 1, rc = 0;
    if (!x->n) {
        compare_finish(x, tolerance);
        return 0;
    }
    while (axis > 0 && inner * a->dims[axis] <= BLOCK)    /* axes behind `axis` are read whole */
        inner *= a->dims[axis--];
    hsize_t range = axis >= 0 ? BLOCK / inner : 1, cap = inner * (range ? range : 1);
    range = range ? range : 1;
    for (int i = 0; i < a->ndim; i++)
        count[i] = i > axis ? a->dims[i] : 1;
    void *va = malloc(cap * 8), *vb = malloc(cap * 8);
    if (!va || !vb)
        rc = no_memory(a->path, e);
    for (int64_t at = 0; at < x->n && !rc;) {
        hsize_t n = inner;
        if (axis >= 0) {
            count[axis] = a->dims[axis] - start[axis] < range ? a->dims[axis] - start[axis] : range;
            n = inner * count[axis];
        }
        if ((rc = read_block(a, va, type, start, count, n, e)) || (rc = read_block(b, vb, type, start, count, n, e)))
            break;
        if (whole)
            compare_integers(x, at, va, vb, (int64_t)n);
        else
            compare_doubles(x, at, va, vb, (int64_t)n);
        at += (int64_t)n;
        if (axis >= 0)
            start[axis] += count[axis];
        for (int i = axis; i > 0 && start[i] >= a->dims[i]; i--) {
            start[i] = 0;
            start[i - 1]++;
        }
    }
    free(va);
    free(vb);
    compare_finish(x, tolerance);
    return rc;
}

/* Texts and lists of whole numbers: element i is equal or not; the difference counts as 1 and no tolerance helps. */
typedef struct element {
    const void *bytes;
    size_t n;
} element;

static bool is_list(const side *s)
{
    if (s->kind != H5T_VLEN)
        return false;
    hid_t base = H5Tget_super(s->type);
    bool yes = base >= 0 && H5Tget_class(base) == H5T_INTEGER;
    if (base >= 0)
        H5Tclose(base);
    return yes;
}

typedef struct elements {
    element *v;
    void *raw;
    hid_t type, space;      /* for reclaiming what HDF5 allocated; -1 when it allocated nothing */
} elements;

static void free_elements(elements *l)
{
    if (l->type >= 0) {
        if (l->raw && l->space >= 0)
            H5Dvlen_reclaim(l->type, l->space, H5P_DEFAULT, l->raw);
        H5Tclose(l->type);
    }
    free(l->raw);
    free(l->v);
}

static int read_elements(elements *l, side *s, err *e)
{
    bool list = is_list(s), variable = list || H5Tis_variable_str(s->type) > 0;
    size_t size = list ? sizeof(hvl_t) : variable ? sizeof(char *) : H5Tget_size(s->type), n = (size_t)s->n;
    if (s->n > MAX_TEXTS || size > 1 << 20 || n * size > 1 << 28)
        return ERR(e, ERR_FORMAT, "%s: '%s' is too large to be compared as texts", s->path, s->name);
    l->space = s->space;
    l->v = calloc(n + 1, sizeof *l->v);
    l->raw = calloc(n + 1, size);
    if (!l->v || !l->raw)
        return no_memory(s->path, e);
    hid_t type = list ? H5Tvlen_create(H5T_NATIVE_INT64) : H5Tcopy(s->type);
    bool ok = type >= 0 && H5Dread(s->set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, l->raw) >= 0;
    if (ok && variable)
        l->type = type;
    else if (type >= 0)
        H5Tclose(type);
    if (!ok)
        return damaged(s->path, s->name, e);
    for (size_t i = 0; i < n; i++) {
        if (list) {
            const hvl_t *h = (const hvl_t *)l->raw + i;
            l->v[i] = (element){ h->p, h->len * 8 };
        } else if (variable) {
            const char *text = ((char **)l->raw)[i];
            l->v[i] = (element){ text ? text : "", text ? strlen(text) : 0 };
        } else {
            const char *text = (const char *)l->raw + i * size;
            l->v[i] = (element){ text, strnlen(text, size) };
        }
    }
    return 0;
}

static int compare_elements(compare_item *x, side *a, side *b, err *e)
{
    elements la = { NULL, NULL, -1, -1 }, lb = { NULL, NULL, -1, -1 };
    int rc = read_elements(&la, a, e);
    if (!rc)
        rc = read_elements(&lb, b, e);
    for (int64_t i = 0; !rc && i < x->n; i++)
        if (la.v[i].n != lb.v[i].n || (la.v[i].n && memcmp(la.v[i].bytes, lb.v[i].bytes, la.v[i].n))) {
            x->n_different++;
            if (x->first < 0)
                x->first = x->worst = i;
        }
    x->outcome = x->n_different ? COMPARE_DIFFERENT : COMPARE_EQUAL;
    free_elements(&la);
    free_elements(&lb);
    return rc;
}

static int compare_set(compare_item *x, hid_t fa, hid_t fb, const char *path_a, const char *path_b, double tolerance,
                       err *e)
{
    side a, b = { .set = -1, .type = -1, .space = -1 };
    int rc = open_side(&a, fa, path_a, x->name, e);
    if (!rc)
        rc = open_side(&b, fb, path_b, x->name, e);
    if (rc || !compare_set_shape(x, a.ndim, a.shape, b.ndim, b.shape))
        goto out;
    if (is_number(a.kind) && is_number(b.kind))
        rc = compare_numbers(x, &a, &b, tolerance, e);
    else if ((a.kind == H5T_STRING && b.kind == H5T_STRING) || (is_list(&a) && is_list(&b)))
        rc = compare_elements(x, &a, &b, e);
    else
        x->outcome = COMPARE_TYPE;
out:
    close_side(&a);
    close_side(&b);
    return rc;
}

/* ---- attributes ---- */

/* The value as text; NULL for kinds that no trace has. free() it. */
static char *attribute_text(hid_t attribute)
{
    hid_t type = H5Aget_type(attribute), space = H5Aget_space(attribute), memory = -1;
    H5T_class_t kind = H5Tget_class(type);
    char *out = NULL, *text = NULL;
    int64_t whole;
    double real;
    if (H5Sget_simple_extent_npoints(space) != 1)
        goto out;
    if (kind == H5T_INTEGER && H5Aread(attribute, H5T_NATIVE_INT64, &whole) >= 0)
        out = str_format("%" PRId64, whole);
    else if (kind == H5T_FLOAT && H5Aread(attribute, H5T_NATIVE_DOUBLE, &real) >= 0)
        out = str_format("%.17g", real);
    else if (kind == H5T_STRING && H5Tis_variable_str(type) > 0 && (memory = H5Tcopy(type)) >= 0 &&
             H5Aread(attribute, memory, &text) >= 0) {
        out = str_dup(text ? text : "");
        H5free_memory(text);
    } else if (kind == H5T_STRING && H5Tis_variable_str(type) == 0 && H5Tget_size(type) < 1 << 24 &&
               (text = calloc(H5Tget_size(type) + 1, 1))) {
        if (H5Aread(attribute, type, text) >= 0)
            out = str_dup(text);
        free(text);
    }
out:
    if (memory >= 0)
        H5Tclose(memory);
    H5Tclose(type);
    H5Sclose(space);
    return out;
}

static int add_note(compare_report *r, char *note, err *e)
{
    char **grown = note ? realloc(r->notes, (r->n_notes + 1) * sizeof *grown) : NULL;
    if (!grown) {
        free(note);
        return ERR(e, ERR_MEMORY, "no memory to compare attributes");
    }
    r->notes = grown;
    r->notes[r->n_notes++] = note;
    return 0;
}

static int compare_attribute(compare_report *r, hid_t fa, hid_t fb, const char *name, err *e)
{
    int rc = 0;
    if (H5Aexists(fb, name) <= 0)
        return add_note(r, str_format("attribute '%s' is only in a", name), e);
    hid_t a = H5Aopen(fa, name, H5P_DEFAULT), b = H5Aopen(fb, name, H5P_DEFAULT);
    char *ta = a < 0 ? NULL : attribute_text(a), *tb = b < 0 ? NULL : attribute_text(b);
    if (!ta != !tb)
        rc = add_note(r, str_format("attribute '%s' is of different types", name), e);
    else if (ta && strcmp(ta, tb)) {
        bool brief = strlen(ta) <= 80 && strlen(tb) <= 80 && !strchr(ta, '\n') && !strchr(tb, '\n');
        rc = add_note(r, brief ? str_format("attribute '%s' is '%s' in a and '%s' in b", name, ta, tb)
                               : str_format("attribute '%s' differs", name), e);
    }
    free(ta);
    free(tb);
    if (a >= 0)
        H5Aclose(a);
    if (b >= 0)
        H5Aclose(b);
    return rc;
}

static int compare_attributes(compare_report *r, hid_t fa, hid_t fb, err *e)
{
    char name[256];
    int rc = 0;
    for (hsize_t i = 0; !rc; i++) {
        ssize_t n = H5Aget_name_by_idx(fa, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
        if (n < 0)
            break;
        rc = compare_attribute(r, fa, fb, name, e);
    }
    for (hsize_t i = 0; !rc; i++) {
        ssize_t n = H5Aget_name_by_idx(fb, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
        if (n < 0)
            break;
        if (H5Aexists(fa, name) <= 0)
            rc = add_note(r, str_format("attribute '%s' is only in b", name), e);
    }
    return rc;
}

/* ---- files ---- */

/* The order in which a run computes things, so that the first difference is the one to look at. */
static int rank_of(const char *name)
{
    static const char *const order[] = { "/sigmas", "/timesteps", "/guidance", "/expert", "/latent_rows", "/latents",
                                         "/velocity_steps", "/velocity", "/attention/" };
    int n = sizeof order / sizeof *order;
    for (int i = 0; i < n; i++)
        if (i == n - 1 ? str_starts_with(name, order[i]) : !strcmp(name, order[i]))
            return i;
    return n;
}

static int by_rank(const void *a, const void *b)
{
    const compare_item *x = a, *y = b;
    int d = rank_of(x->name) - rank_of(y->name);
    return d ? d : strverscmp(x->name, y->name);
}

static hid_t open_file(const char *path, names *list, int *rc, err *e)
{
    hid_t f = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (f < 0)
        *rc = ERR(e, ERR_FORMAT,
                  "%s: cannot be opened as HDF5: the file is missing, damaged, truncated or being written", path);
    else
        *rc = list_datasets(list, f, "", 0, path, e);
    return f;
}

static int compare_here(compare_report *r, const char *path_a, const char *path_b, double tolerance, err *e)
{
    names la = { 0 }, lb = { 0 };
    hid_t fa = -1, fb = -1;
    int rc;
    h5_quiet();
    fa = open_file(path_a, &la, &rc, e);
    if (!rc)
        fb = open_file(path_b, &lb, &rc, e);
    for (size_t i = 0; i < la.n + lb.n && !rc; i++) {
        const char *name = i < la.n ? la.v[i] : lb.v[i - la.n];
        if (i >= la.n && has_name(&la, name))
            continue;
        compare_item *x = compare_add(r, name);
        if (!x)
            rc = no_memory(path_a, e);
        else if (i >= la.n)
            x->outcome = COMPARE_ONLY_B;
        else if (!has_name(&lb, name))
            x->outcome = COMPARE_ONLY_A;
        else
            rc = compare_set(x, fa, fb, path_a, path_b, tolerance, e);
    }
    if (!rc)
        rc = compare_attributes(r, fa, fb, e);
    if (!rc && r->n_items)
        qsort(r->items, r->n_items, sizeof *r->items, by_rank);
    if (fa >= 0)
        H5Fclose(fa);
    if (fb >= 0)
        H5Fclose(fb);
    free_names(&la);
    free_names(&lb);
    return rc;
}

/* ---- in a process of its own ---- */

/* HDF5 1.10 trusts parts of a file that carry no checksum (variable-length values) and may crash on a damaged one. So a
 * child process reads, and what it found comes back through a pipe: result, sentence, items, notes, an end mark. */

#define END_MARK 0x54524143

static bool send_bytes(int fd, const void *bytes, size_t n)
{
    const char *p = bytes;
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return false;
        p += done;
        n -= (size_t)done;
    }
    return true;
}

static bool send_text(int fd, const char *text)
{
    size_t n = strlen(text);
    return send_bytes(fd, &n, sizeof n) && send_bytes(fd, text, n);
}

static bool send_report(int fd, const compare_report *r, int rc, const err *e)
{
    int mark = END_MARK;
    bool ok = send_bytes(fd, &rc, sizeof rc) && send_bytes(fd, e, sizeof *e) &&
              send_bytes(fd, &r->n_items, sizeof r->n_items) && send_bytes(fd, &r->n_notes, sizeof r->n_notes);
    for (size_t i = 0; i < r->n_items && ok; i++)
        ok = send_text(fd, r->items[i].name) && send_bytes(fd, &r->items[i], sizeof r->items[i]);
    for (size_t i = 0; i < r->n_notes && ok; i++)
        ok = send_text(fd, r->notes[i]);
    return ok && send_bytes(fd, &mark, sizeof mark);
}

static bool receive_bytes(int fd, void *bytes, size_t n)
{
    char *p = bytes;
    while (n) {
        ssize_t got = read(fd, p, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        p += got;
        n -= (size_t)got;
    }
    return true;
}

static char *receive_text(int fd)
{
    size_t n;
    char *text = receive_bytes(fd, &n, sizeof n) && n < 1 << 20 ? calloc(n + 1, 1) : NULL;
    if (text && receive_bytes(fd, text, n))
        return text;
    free(text);
    return NULL;
}

/* false when the child did not get to its end, or memory runs out */
static bool receive_report(int fd, compare_report *r, int *rc, err *e)
{
    err ignored;
    size_t n_items, n_notes;
    int mark = 0;
    if (!receive_bytes(fd, rc, sizeof *rc) || !receive_bytes(fd, e ? e : &ignored, sizeof *e) ||
        !receive_bytes(fd, &n_items, sizeof n_items) || !receive_bytes(fd, &n_notes, sizeof n_notes))
        return false;
    for (size_t i = 0; i < n_items; i++) {
        char *name = receive_text(fd);
        compare_item *x = name ? compare_add(r, name) : NULL;
        char *own = x ? x->name : NULL;
        bool ok = x && receive_bytes(fd, x, sizeof *x);
        if (x)
            x->name = own;
        free(name);
        if (!ok)
            return false;
    }
    for (size_t i = 0; i < n_notes; i++) {
        char *note = receive_text(fd);
        if (!note || add_note(r, note, NULL))
            return false;
    }
    return receive_bytes(fd, &mark, sizeof mark) && mark == END_MARK;
}

int trace_compare(compare_report *r, const char *path_a, const char *path_b, double tolerance, err *e)
{
    int ends[2], rc = 0;
    memset(r, 0, sizeof *r);
    r->tolerance = tolerance;
    r->first_different = -1;
    if (pipe(ends))
        return ERR(e, ERR_IO, "no pipe to a process that reads the traces: %s", strerror(errno));
    fflush(NULL);
    pid_t child = fork();
    if (child < 0) {
        rc = ERR(e, ERR_IO, "no process to read the traces: %s", strerror(errno));
        close(ends[0]);
        close(ends[1]);
        return rc;
    }
    if (!child) {
        static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
        err found = { 0 };
        int nowhere = open("/dev/null", O_WRONLY);
        close(ends[0]);
        for (size_t i = 0; i < sizeof fatal / sizeof *fatal; i++)
            signal(fatal[i], SIG_DFL);
        if (nowhere >= 0)
            dup2(nowhere, STDERR_FILENO);     /* the parent says in a sentence what the library would say in a dump */
        rc = compare_here(r, path_a, path_b, tolerance, &found);
        _exit(send_report(ends[1], r, rc, &found) ? 0 : 1);
    }
    close(ends[1]);
    if (!receive_report(ends[0], r, &rc, e))
        rc = ERR(e, ERR_FORMAT,
                 "%s or %s: the HDF5 library broke down while reading it: the file is damaged; make or copy it again",
                 path_a, path_b);
    close(ends[0]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    compare_decide(r);
    return rc;
}

#else

int trace_compare(compare_report *r, const char *a, const char *b, double tolerance, err *e)
{
    memset(r, 0, sizeof *r);
    r->tolerance = tolerance;
    r->first_different = -1;
    return ERR(e, ERR_ARG,
               "%s and %s: this build has no HDF5, so traces cannot be read: install libhdf5-dev and build again", a,
               b);
}

#endif
