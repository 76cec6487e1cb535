#include "core/io/ckpt.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/sha256.h"
#include "core/io/ckpt_internal.h"

/* arena */

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, cap;
    /* the bytes follow, at an offset that keeps 16-byte alignment */
};
enum { CHUNK_HEAD = (sizeof(struct arena_chunk) + 15) / 16 * 16, CHUNK_BYTES = 64 * 1024 };

void *arena_alloc(arena *a, size_t bytes)
{
    struct arena_chunk *k = a->head;
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = (bytes + 15) / 16 * 16;
    if (!k || k->cap - k->used < bytes) {
        size_t cap = bytes > CHUNK_BYTES / 4 ? bytes : CHUNK_BYTES;
        k = calloc(1, CHUNK_HEAD + cap);
        if (!k)
            return NULL;
        k->cap = cap;
        if (cap == bytes && a->head) {  /* a large piece of its own: keep filling the current chunk afterwards */
            k->next = a->head->next;
            a->head->next = k;
        } else {
            k->next = a->head;
            a->head = k;
        }
    }
    void *p = (char *)k + CHUNK_HEAD + k->used;
    k->used += bytes;
    return p;
}

char *arena_text(arena *a, const char *text, size_t n)
{
    char *copy = arena_alloc(a, n + 1);
    if (copy && n)
        memcpy(copy, text, n);
    return copy;
}

void arena_release(arena *a)
{
    while (a->head) {
        struct arena_chunk *next = a->head->next;
        free(a->head);
        a->head = next;
    }
}

/* the table */

static int no_memory(const char *path, err *e)
{
    return ERR(e, ERR_MEMORY, "%s: memory ran out while reading the checkpoint's table of tensors", path);
}

bool ckpt_shape_bytes(const int64_t *shape, int ndim, dtype t, size_t *bytes)
{
    size_t n = dtype_size(t);
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return false;
        empty |= shape[i] == 0;
    }
    for (int i = 0; i < ndim && !empty; i++)
        if (__builtin_mul_overflow(n, (uint64_t)shape[i], &n) || n > (size_t)INT64_MAX)
            return false;
    *bytes = empty ? 0 : n;
    return true;
}

const char *ckpt_shape_text(char out[200], const int64_t *shape, int ndim)
{
    size_t n = 0;
    out[n++] = '[';
    for (int i = 0; i < ndim && n < 170; i++)
        n += (size_t)snprintf(out + n, 200 - n, "%s%" PRId64, i ? ", " : "", shape[i]);
    out[n++] = ']';
    out[n] = '\0';
    return out;
}

int ckpt_check_name(const char *name, size_t n, const char *path, err *e)
{
    if (n == 0)
        return ERR(e, ERR_FORMAT, "%s: a tensor has an empty name", path);
    if (n > CKPT_MAX_NAME)
        return ERR(e, ERR_FORMAT, "%s: a tensor's name is %zu bytes long, more than the %d allowed: '%.60s...'", path,
                   n, CKPT_MAX_NAME, name);
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f)
            return ERR(e, ERR_FORMAT, "%s: a tensor's name holds the control character 0x%02x after '%.*s'", path,
                       (unsigned)(uint8_t)name[i], (int)i, name);
    return 0;
}

int ckpt_add(ckpt *c, const ckpt_tensor *t, err *e)
{
    if (c->count == c->cap) {
        size_t cap = c->cap ? c->cap * 2 : 64;
        ckpt_tensor *more = cap <= SIZE_MAX / sizeof *more ? realloc(c->tensors, cap * sizeof *more) : NULL;
        if (!more)
            return no_memory(c->path, e);
        c->tensors = more;
        c->cap = cap;
    }
    ckpt_tensor copy = *t;
    copy.name = arena_text(&c->memory, t->name, strlen(t->name));
    copy.file_name = t->file_name && t->file_name != t->name
                         ? arena_text(&c->memory, t->file_name, strlen(t->file_name)) : copy.name;
    /* tensors of one file come one after another and share its path */
    if (c->count && strcmp(c->tensors[c->count - 1].file, t->file) == 0)
        copy.file = c->tensors[c->count - 1].file;
    else
        copy.file = arena_text(&c->memory, t->file, strlen(t->file));
    if (!copy.name || !copy.file_name || !copy.file)
        return no_memory(c->path, e);
    c->tensors[c->count++] = copy;
    return 0;
}

int ckpt_add_metadata(ckpt *c, const char *key, const char *value, err *e)
{
    if (c->n_metadata + 2 > c->metadata_cap) {
        size_t cap = c->metadata_cap ? c->metadata_cap * 2 : 16;
        const char **more = realloc(c->metadata, cap * sizeof *more);
        if (!more)
            return no_memory(c->path, e);
        c->metadata = more;
        c->metadata_cap = cap;
    }
    const char *k = arena_text(&c->memory, key, strlen(key)), *v = arena_text(&c->memory, value, strlen(value));
    if (!k || !v)
        return no_memory(c->path, e);
    c->metadata[c->n_metadata++] = k;
    c->metadata[c->n_metadata++] = v;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    const ckpt_tensor *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order ? order : strcmp(x->file_name, y->file_name);
}

int ckpt_sort(ckpt *c, err *e)
{
    if (c->count)
        qsort(c->tensors, c->count, sizeof *c->tensors, by_name);
    for (size_t i = 1; i < c->count; i++) {
        const ckpt_tensor *a = &c->tensors[i - 1], *b = &c->tensors[i];
        if (strcmp(a->name, b->name) == 0) {
            if (strcmp(a->file_name, b->file_name) == 0)
                return ERR(e, ERR_FORMAT, "%s: the tensor '%.200s' occurs twice (%s%s%s)", c->path, a->name, a->file,
                           a->file == b->file ? "" : " and ", a->file == b->file ? "" : b->file);
            return ERR(e, ERR_FORMAT, "%s: the tensors '%.200s' and '%.200s' are both named '%.200s' in Wan's naming; "
                       "the file mixes two layouts, keep one of them", c->path, a->file_name, b->file_name, a->name);
        }
    }
    return 0;
}

/* opening */

int ckpt_new(ckpt **out, const char *path, err *e)
{
    ckpt *c = calloc(1, sizeof *c);
    *out = NULL;
    if (!c || !(c->path = str_dup(path))) {
        free(c);
        return no_memory(path, e);
    }
    *out = c;
    return 0;
}

void ckpt_close(ckpt *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_maps; i++)
        fs_map_close(&c->maps[i]);
    free(c->maps);
    free(c->tensors);
    free(c->metadata);
    free(c->path);
    arena_release(&c->memory);
    free(c);
}

/* What a file is, from its first bytes; a sentence for the well-known kinds that are not read. */
static int recognise(ckpt_format *format, const uint8_t *data, size_t size, const char *path, err *e)
{
    if (size == 0)
        return ERR(e, ERR_FORMAT, "%s: the file is empty; download it again", path);
    if (size >= 4 && (memcmp(data, "PK\3\4", 4) == 0 || memcmp(data, "PK\5\6", 4) == 0)) {
        *format = CKPT_PTH;
        return 0;
    }
    if (size >= 4 && memcmp(data, "GGUF", 4) == 0)
        return ERR(e, ERR_FORMAT, "%s: this is a GGUF file, which is not read here; use the safetensors file of the "
                   "model",
                   path);
    if (size >= 22 && memcmp(data, "version https://git-lfs", 22) == 0)
        return ERR(e, ERR_FORMAT, "%s: this is a git LFS pointer, not the file itself; run 'git lfs pull' in its "
                   "repository", path);
    if (data[0] == '<')
        return ERR(e, ERR_FORMAT, "%s: this is a web page, not a checkpoint; the download went wrong", path);
    if (size >= 2 && data[0] == 0x80 && data[1] >= 2 && data[1] <= 5 && (size < 8 || read_le64(data) > size))
        return ERR(e, ERR_FORMAT, "%s: this is a bare pickle (PyTorch before 1.6, or not a checkpoint); only the zip "
                   "format of torch.save is read; load it with PyTorch and save it again", path);
    if (str_ends_with(path, ".pth") || str_ends_with(path, ".pt") || str_ends_with(path, ".bin"))
        return ERR(e, ERR_FORMAT, "%s: expected a zip archive as torch.save writes it (it begins with 'PK'), found "
                   "other bytes; is the file damaged?", path);
    *format = CKPT_SAFETENSORS;
    return 0;
}

static int parse(ckpt *c, ckpt_format format, const uint8_t *data, size_t size, const char *path, err *e)
{
    return format == CKPT_PTH ? pth_parse(c, data, size, path, e) : safetensors_parse(c, data, size, path, e);
}

int ckpt_open_memory(ckpt **out, ckpt_format format, const uint8_t *data, size_t size, const char *name, err *e)
{
    ckpt *c;
    *out = NULL;
    int rc = ckpt_new(&c, name, e);
    if (rc)
        return rc;
    rc = parse(c, format, data, size, name, e);
    if (!rc)
        rc = ckpt_sort(c, e);
    if (rc)
        ckpt_close(c);
    else
        *out = c;
    return rc;
}

static int add_file(ckpt *c, const char *path, err *e)
{
    ckpt_format format = CKPT_SAFETENSORS;
    fs_map *more = realloc(c->maps, (c->n_maps + 1) * sizeof *more);
    if (!more)
        return no_memory(path, e);
    c->maps = more;
    int rc = fs_map_open(&c->maps[c->n_maps], path, e);
    if (rc)
        return rc;
    const fs_map *m = &c->maps[c->n_maps++];
    rc = recognise(&format, m->data, m->size, path, e);
    return rc ? rc : parse(c, format, m->data, m->size, path, e);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* each tensor of the index must be in the shard the index names */
static int check_index(const ckpt *c, const json *map, const char *path, err *e)
{
    size_t n_lost = 0;
    const char *lost = NULL, *shard = NULL;
    for (size_t i = 0; i < json_count(map); i++) {
        const char *name = json_key(map, i), *file = json_string(json_at(map, i), "");
        const ckpt_tensor *t = ckpt_find(c, name);
        if (t && strcmp(fs_basename(t->file), file) == 0)
            continue;
        if (!n_lost++) {
            lost = name;
            shard = file;
        }
    }
    if (n_lost)
        return ERR(e, ERR_FORMAT, "%s: the index places %zu tensor%s in a shard that does not hold %s, the first being "
                   "'%.200s' in '%s'; the index and the shards do not belong together", path, n_lost,
                   n_lost == 1 ? "" : "s", n_lost == 1 ? "it" : "them", lost, shard);
    return 0;
}

static int open_index(ckpt *c, const char *path, err *e)
{
    int rc;
    json *doc = NULL;
    const char **files = NULL;
    char *folder = NULL, *file = NULL;
    str missing = STR_INIT;
    size_t n_files = 0, n_missing = 0;
    rc = json_read_file(&doc, path, e);
    if (rc)
        goto out;
    const json *map = json_get(doc, "weight_map");
    size_t n = json_count(map);
    if (json_type(map) != JSON_OBJECT || !n) {
        rc = ERR(e, ERR_FORMAT, "%s: expected an index with a member 'weight_map' that places tensors in files, found "
                 "none; is this the *.safetensors.index.json of a checkpoint?", path);
        goto out;
    }
    files = malloc(n * sizeof *files);
    folder = str_dupn(path, (size_t)(fs_basename(path) - path));
    if (!files || !folder) {
        rc = no_memory(path, e);
        goto out;
    }
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string(json_at(map, i), NULL);
        if (!name || !*name || strchr(name, '/') || strcmp(name, "..") == 0 || strcmp(name, ".") == 0) {
            rc = ERR(e, ERR_FORMAT, "%s: weight_map places '%.200s' in '%.200s', expected the name of a file in the "
                     "same folder", path, json_key(map, i), name ? name : "something that is not text");
            goto out;
        }
        files[i] = name;
    }
    qsort(files, n, sizeof *files, by_text);
    for (size_t i = 0; i < n; i++)
        if (!n_files || strcmp(files[n_files - 1], files[i]))
            files[n_files++] = files[i];
    for (size_t i = 0; i < n_files; i++) {
        free(file);
        if (!(file = fs_join(folder, files[i]))) {
            rc = no_memory(path, e);
            goto out;
        }
        if (!fs_exists(file)) {
            if (n_missing++ < 8)
                str_addf(&missing, "%s'%.100s'", n_missing > 1 ? ", " : "", files[i]);
            continue;
        }
        if (!n_missing && (rc = add_file(c, file, e)))
            goto out;
    }
    if (n_missing) {
        rc = ERR(e, ERR_IO, "%s: %zu of %zu shards are missing from the folder: %s%s; download them", path, n_missing,
                 n_files, str_text(&missing), n_missing > 8 ? " and more" : "");
        goto out;
    }
    rc = ckpt_sort(c, e);
    if (!rc)
        rc = check_index(c, map, path, e);
out:
    str_release(&missing);
    free(file);
    free(folder);
    free(files);
    json_free(doc);
    return rc;
}

int ckpt_open(ckpt **out, const char *path, err *e)
{
    ckpt *c = NULL;
    char *inside = NULL;
    int rc;
    *out = NULL;
    if (fs_is_dir(path)) {
        rc = ckpt_file_in_folder(&inside, path, e);
        if (rc)
            return rc;
    }
    const char *file = inside ? inside : path;
    rc = ckpt_new(&c, path, e);
    if (!rc && str_ends_with(file, ".json"))
        rc = open_index(c, file, e);
    else if (!rc && !(rc = add_file(c, file, e)))
        rc = ckpt_sort(c, e);
    if (!rc && !c->count)
        rc = ERR(e, ERR_FORMAT, "%s: the checkpoint holds no tensors", file);
    free(inside);
    if (rc)
        ckpt_close(c);
    else
        *out = c;
    return rc;
}

/* folders */

static int only(const struct dirent *d)
{
    static const char *const END[] = { ".safetensors", ".safetensors.index.json", ".pth", ".pt", ".bin" };
    if (strncmp(d->d_name, "diffusion_pytorch_model", 23) && strncmp(d->d_name, "model.", 6) &&
        strncmp(d->d_name, "model-", 6) && strncmp(d->d_name, "pytorch_model", 13))
        return 0;
    for (size_t i = 0; i < sizeof END / sizeof *END; i++)
        if (str_ends_with(d->d_name, END[i]))
            return 1;
    return 0;
}

/* which of the candidates to open: an index, then a plain name, then the only one there is */
static const struct dirent *choose(struct dirent **list, int n)
{
    static const char *const BEST[] = {
        "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors",
        "model.safetensors.index.json", "model.safetensors", "diffusion_pytorch_model.pth", "model.pth", "model.pt",
    };
    for (size_t k = 0; k < sizeof BEST / sizeof *BEST; k++)
        for (int i = 0; i < n; i++)
            if (strcmp(list[i]->d_name, BEST[k]) == 0)
                return list[i];
    const struct dirent *index = NULL;
    int n_index = 0;
    for (int i = 0; i < n; i++)
        if (str_ends_with(list[i]->d_name, ".index.json")) {
            index = list[i];
            n_index++;
        }
    return n_index == 1 ? index : n == 1 ? list[0] : NULL;
}

int ckpt_file_in_folder(char **out, const char *folder, err *e)
{
    struct dirent **list = NULL;
    int rc = 0, n = scandir(folder, &list, only, alphasort);
    str names = STR_INIT;
    *out = NULL;
    if (n < 0)
        return ERR(e, ERR_IO, "%s: cannot read the folder: %s", folder, strerror(errno));
    const struct dirent *best = choose(list, n);
    if (best) {
        if (!(*out = fs_join(folder, best->d_name)))
            rc = no_memory(folder, e);
    } else if (n == 0) {
        rc = ERR(e, ERR_IO, "%s: the folder holds no checkpoint: expected diffusion_pytorch_model*.safetensors, "
                 "model*.safetensors (or .pth, .pt), or name the file itself", folder);
    } else {
        for (int i = 0; i < n && i < 6; i++)
            str_addf(&names, "%s%s", i ? ", " : "", list[i]->d_name);
        rc = ERR(e, ERR_IO, "%s: the folder holds %d checkpoint files and no *.safetensors.index.json that joins them "
                 "(%s%s); add the index, or name one file", folder, n, str_text(&names), n > 6 ? ", ..." : "");
    }
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
    str_release(&names);
    return rc;
}

/* reading */

const char *ckpt_path(const ckpt *c)
{
    return c->path;
}

size_t ckpt_count(const ckpt *c)
{
    return c->count;
}

const ckpt_tensor *ckpt_at(const ckpt *c, size_t i)
{
    return i < c->count ? &c->tensors[i] : NULL;
}

const ckpt_tensor *ckpt_find(const ckpt *c, const char *name)
{
    size_t low = 0, high = c->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = strcmp(name, c->tensors[mid].name);
        if (order == 0)
            return &c->tensors[mid];
        if (order < 0)
            high = mid;
        else
            low = mid + 1;
    }
    return NULL;
}

const char *ckpt_metadata(const ckpt *c, const char *key)
{
    for (size_t i = 0; i < c->n_metadata; i += 2)
        if (strcmp(c->metadata[i], key) == 0)
            return c->metadata[i + 1];
    return NULL;
}

int ckpt_digest(const ckpt *c, char out[65], err *e)
{
    sha256 s;
    sha256_init(&s);
    for (size_t i = 0; i < c->count; i++) {
        const ckpt_tensor *t = &c->tensors[i];
        char shape[200], head[CKPT_MAX_NAME + 300];
        int n = snprintf(head, sizeof head, "%s %s %s\n", t->name, dtype_name(t->dtype),
                         ckpt_shape_text(shape, t->shape, t->ndim));
        if (n < 0 || (size_t)n >= sizeof head)
            return ERR(e, ERR_INTERNAL, "%s: the tensor name '%.60s...' is too long for the digest", c->path, t->name);
        sha256_add(&s, head, (size_t)n);
        sha256_add(&s, t->data, t->bytes);
    }
    sha256_hex(&s, out);
    return 0;
}
