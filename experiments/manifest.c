#include "experiments/manifest.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/sha256.h"
#include "core/base/str.h"

struct manifest {
    char *dir, *path;
    int lock;                    /* the folder, locked; -1 for MANIFEST_READ */
    manifest_mode mode;
    int64_t torn_at;             /* where a torn last line begins, or -1 */
    bool no_newline;             /* the last line is whole but its end is missing */
    manifest_entry *entries;
    size_t n, cap;
    size_t *slots, n_slots;      /* open addressing: index + 1 of the entry with that run id, 0 = free */
};

/* ---- entries ---- */

void manifest_entry_init(manifest_entry *x)
{
    memset(x, 0, sizeof *x);
}

void manifest_entry_release(manifest_entry *x)
{
    for (size_t i = 0; i < x->n_choices; i++) {
        free(x->choices[i].name);
        free(x->choices[i].text);
    }
    for (size_t i = 0; i < x->n_files; i++) {
        free(x->files[i].name);
        free(x->files[i].path);
    }
    free(x->choices);
    free(x->files);
    free(x->run);
    free(x->id);
    free(x->slug);
    free(x->marked_prompt);
    free(x->clean_prompt);
    free(x->error);
    free(x->time);
    manifest_entry_init(x);
}

int manifest_entry_add_choice(manifest_entry *x, int64_t bracket, const char *name, int64_t alternative,
                              const char *text, err *e)
{
    manifest_choice *grown = realloc(x->choices, (x->n_choices + 1) * sizeof *grown);
    if (grown)
        x->choices = grown;
    manifest_choice c = { bracket, name ? str_dup(name) : NULL, alternative, str_dup(text) };
    if (!grown || !c.text || (name && !c.name)) {
        free(c.name);
        free(c.text);
        return ERR(e, ERR_MEMORY, "no memory for an entry of the manifest");
    }
    x->choices[x->n_choices++] = c;
    return 0;
}

static int add_file(manifest_entry *x, const char *name, const char *path, const char *digest, int64_t bytes, err *e)
{
    manifest_file *grown = realloc(x->files, (x->n_files + 1) * sizeof *grown);
    if (grown)
        x->files = grown;
    manifest_file f = { str_dup(name), str_dup(path), "", bytes };
    if (!grown || !f.name || !f.path) {
        free(f.name);
        free(f.path);
        return ERR(e, ERR_MEMORY, "no memory for an entry of the manifest");
    }
    memcpy(f.sha256, digest, 65);
    x->files[x->n_files++] = f;
    return 0;
}

int manifest_entry_add_file(manifest_entry *x, const char *name, const char *batch_dir, const char *path, err *e)
{
    char digest[65];
    struct stat st;
    char *full = fs_join(batch_dir, path);
    if (!full)
        return ERR(e, ERR_MEMORY, "no memory for an entry of the manifest");
    int rc = sha256_file(full, digest, e);
    if (!rc && stat(full, &st))
        rc = ERR(e, ERR_IO, "%s: its size cannot be read: %s", full, strerror(errno));
    if (!rc)
        rc = add_file(x, name, path, digest, (int64_t)st.st_size, e);
    free(full);
    return rc;
}

const manifest_file *manifest_entry_file(const manifest_entry *x, const char *name)
{
    for (size_t i = 0; i < x->n_files; i++)
        if (!strcmp(x->files[i].name, name))
            return &x->files[i];
    return NULL;
}

char *manifest_run_id(int64_t number, int64_t seed)
{
    return str_format("%04" PRId64 "-s%" PRId64, number, seed);
}

/* ---- a line to an entry ---- */

static bool is_digest(const char *s)
{
    return strspn(s, "0123456789abcdef") == 64 && !s[64];
}

static bool is_inside(const char *path)
{
    return path[0] && path[0] != '/' && strcmp(path, "..") && !str_starts_with(path, "../") && !strstr(path, "/../") &&
           !str_ends_with(path, "/..");
}

/* A required text: copied to *out, or a sentence. */
static int take_text(char **out, const json *object, const char *key, const char *where, err *e)
{
    const char *s = json_get_string(object, key, NULL);
    if (!s)
        return ERR(e, ERR_FORMAT, "%s: '%s' is missing or not a text; correct or remove the line", where, key);
    *out = str_dup(s);
    return *out ? 0 : ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
}

static int take_variation(manifest_entry *x, const json *v, const char *where, err *e)
{
    int rc;
    if (json_type(v) != JSON_OBJECT || !json_int(json_get(v, "number"), &x->number) || x->number < 0)
        return ERR(e, ERR_FORMAT, "%s: 'variation' with a whole 'number' from 0 is missing; correct or remove the line",
                   where);
    if ((rc = take_text(&x->id, v, "id", where, e)) || (rc = take_text(&x->slug, v, "slug", where, e)) ||
        (rc = take_text(&x->marked_prompt, v, "marked_prompt", where, e)) ||
        (rc = take_text(&x->clean_prompt, v, "clean_prompt", where, e)))
        return rc;
    const json *list = json_get(v, "choices");
    for (size_t i = 0; i < json_count(list) && !rc; i++) {
        const json *c = json_at(list, i);
        int64_t bracket, alternative;
        const char *text = json_get_string(c, "text", NULL);
        if (!json_int(json_get(c, "bracket"), &bracket) || !json_int(json_get(c, "alternative"), &alternative) || !text)
            return ERR(e, ERR_FORMAT,
                       "%s: choice %zu lacks a whole 'bracket', a whole 'alternative' or a 'text'; correct or "
                       "remove the line",
                       where, i);
        rc = manifest_entry_add_choice(x, bracket, json_get_string(c, "name", NULL), alternative, text, e);
    }
    return rc;
}

static int take_files(manifest_entry *x, const json *files, const char *where, err *e)
{
    int rc = 0;
    for (size_t i = 0; i < json_count(files) && !rc; i++) {
        const json *f = json_at(files, i);
        const char *name = json_key(files, i), *path = json_get_string(f, "path", ""),
                   *digest = json_get_string(f, "sha256", "");
        int64_t bytes = json_get_int(f, "bytes", -1);
        if (!is_inside(path))
            return ERR(e, ERR_FORMAT,
                       "%s: the path '%s' of file '%s' does not lie in the batch folder; correct or remove the "
                       "line",
                       where, path, name);
        if (!is_digest(digest) || bytes < 0)
            return ERR(e, ERR_FORMAT,
                       "%s: file '%s' lacks a 'sha256' of 64 lower-case hex digits or its 'bytes'; correct or "
                       "remove the line",
                       where, name);
        rc = add_file(x, name, path, digest, bytes, e);
    }
    return rc;
}

static int entry_from_json(manifest_entry *x, const json *line, const char *where, err *e)
{
    int rc;
    manifest_entry_init(x);
    const char *state = json_get_string(line, "state", ""), *identity = json_get_string(line, "identity", "");
    if ((rc = take_text(&x->run, line, "run", where, e)))
        goto out;
    x->done = !strcmp(state, "done");
    if (!x->done && strcmp(state, "failed")) {
        rc = ERR(e, ERR_FORMAT,
                 "%s: 'state' of run '%s' is '%s', expected 'done' or 'failed'; correct or remove the line", where,
                 x->run, state);
        goto out;
    }
    if (!is_digest(identity)) {
        rc = ERR(e, ERR_FORMAT,
                 "%s: 'identity' of run '%s' is not a sha256 of 64 lower-case hex digits; correct or remove the "
                 "line",
                 where, x->run);
        goto out;
    }
    memcpy(x->identity, identity, 65);
    if (!json_int(json_get(line, "seed"), &x->seed)) {
        rc = ERR(e, ERR_FORMAT, "%s: 'seed' of run '%s' is not a whole number; correct or remove the line", where,
                 x->run);
        goto out;
    }
    x->seconds = json_get_number(line, "seconds", 0);
    if ((rc = take_variation(x, json_get(line, "variation"), where, e)) ||
        (rc = take_files(x, json_get(line, "files"), where, e)))
        goto out;
    const char *error = json_get_string(line, "error", NULL), *when = json_get_string(line, "time", NULL);
    if ((error && !(x->error = str_dup(error))) || (when && !(x->time = str_dup(when))))
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
out:
    if (rc)
        manifest_entry_release(x);
    return rc;
}

/* ---- an entry to a line ---- */

static void entry_to_line(str *out, const manifest_entry *x, const char *when)
{
    json_writer w;
    jw_init(&w, out, 0);
    jw_object(&w);
    jw_kstring(&w, "run", x->run);
    jw_kstring(&w, "identity", x->identity);
    jw_key(&w, "variation");
    jw_object(&w);
    jw_kint(&w, "number", x->number);
    jw_kstring(&w, "id", x->id);
    jw_kstring(&w, "slug", x->slug);
    jw_key(&w, "choices");
    jw_array(&w);
    for (size_t i = 0; i < x->n_choices; i++) {
        const manifest_choice *c = &x->choices[i];
        jw_object(&w);
        jw_kint(&w, "bracket", c->bracket);
        jw_kstring(&w, "name", c->name && c->name[0] ? c->name : NULL);
        jw_kint(&w, "alternative", c->alternative);
        jw_kstring(&w, "text", c->text);
        jw_end_object(&w);
    }
    jw_end_array(&w);
    jw_kstring(&w, "marked_prompt", x->marked_prompt);
    jw_kstring(&w, "clean_prompt", x->clean_prompt);
    jw_end_object(&w);
    jw_kint(&w, "seed", x->seed);
    jw_kstring(&w, "state", x->done ? "done" : "failed");
    jw_key(&w, "files");
    jw_object(&w);
    for (size_t i = 0; i < x->n_files; i++) {
        const manifest_file *f = &x->files[i];
        jw_key(&w, f->name);
        jw_object(&w);
        jw_kstring(&w, "path", f->path);
        jw_kstring(&w, "sha256", f->sha256);
        jw_kint(&w, "bytes", f->bytes);
        jw_end_object(&w);
    }
    jw_end_object(&w);
    jw_kdouble(&w, "seconds", x->seconds);
    jw_kstring(&w, "error", x->error);
    jw_kstring(&w, "time", when);
    jw_end_object(&w);
}

/* ---- tables ---- */

static uint64_t hash_text(const char *s)
{
    uint64_t h = 14695981039346656037u;     /* FNV-1a */
    for (; *s; s++)
        h = (h ^ (uint8_t)*s) * 1099511628211u;
    return h;
}

/* The slot that holds `run`, or the free one where it belongs. n_slots is a power of two, never full. */
static size_t slot_of(const manifest *m, const char *run)
{
    size_t at = (size_t)hash_text(run) & (m->n_slots - 1);
    while (m->slots[at] && strcmp(m->entries[m->slots[at] - 1].run, run))
        at = (at + 1) & (m->n_slots - 1);
    return at;
}

static int grow(manifest *m, err *e)
{
    size_t cap = m->cap ? 2 * m->cap : 64;
    manifest_entry *entries = realloc(m->entries, cap * sizeof *entries);
    if (entries)
        m->entries = entries;
    size_t *slots = calloc(4 * cap, sizeof *slots);
    if (!entries || !slots) {
        free(slots);
        return ERR(e, ERR_MEMORY, "%s: no memory for %zu runs", m->path, cap);
    }
    free(m->slots);
    m->slots = slots;
    m->n_slots = 4 * cap;
    m->cap = cap;
    for (size_t i = 0; i < m->n; i++)
        m->slots[slot_of(m, m->entries[i].run)] = i + 1;
    return 0;
}

/* Takes over the members of x. There is room: grow() was called. */
static void put(manifest *m, manifest_entry *x)
{
    size_t at = slot_of(m, x->run);
    if (m->slots[at]) {
        manifest_entry *old = &m->entries[m->slots[at] - 1];
        manifest_entry_release(old);
        *old = *x;
    } else {
        m->entries[m->n] = *x;
        m->slots[at] = ++m->n;
    }
    manifest_entry_init(x);
}

static bool is_blank(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != ' ' && s[i] != '\t' && s[i] != '\r' && s[i] != '\n')
            return false;
    return true;
}

static int read_lines(manifest *m, const char *text, size_t n, err *e)
{
    long long number = 0;
    for (size_t at = 0; at < n;) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - (text + at)) : n - at, next = at + len + (end ? 1 : 0);
        char where[1200];
        json *doc = NULL;
        manifest_entry x;
        err parse = { 0 };
        number++;
        if (!is_blank(text + at, len)) {
            int rc = m->n == m->cap ? grow(m, e) : 0;
            if (rc)
                return rc;
            snprintf(where, sizeof where, "%s: line %lld", m->path, number);
            rc = json_parse(&doc, text + at, len, where, &parse);
            if (rc == ERR_FORMAT && is_blank(text + next, n - next)) {
                log_msg(LOG_WARN, "%s is incomplete (the program that wrote it was interrupted) and is ignored", where);
                m->torn_at = (int64_t)at;
                return 0;
            }
            if (rc)
                return ERR(e, rc, "%s; the line is damaged: correct or remove it", parse.text);
            rc = entry_from_json(&x, doc, where, e);
            json_free(doc);
            if (rc)
                return rc;
            put(m, &x);
            m->no_newline = !end;
        }
        at = next;
    }
    return 0;
}

static int take_lock(manifest *m, err *e)
{
    m->lock = open(m->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (m->lock < 0)
        return ERR(e, ERR_IO, "%s: the batch folder cannot be opened: %s", m->dir, strerror(errno));
    if (flock(m->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)     /* some network file systems know no locks */
        return ERR(e, ERR_IO, "%s: another wanscope is filling this batch folder: wait for it or choose another name",
                   m->dir);
    return 0;
}

int manifest_open(manifest **out, const char *batch_dir, manifest_mode mode, err *e)
{
    int rc = 0;
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    manifest *m = calloc(1, sizeof *m);
    if (!m)
        return ERR(e, ERR_MEMORY, "%s: no memory for the manifest", batch_dir);
    m->lock = -1;
    m->mode = mode;
    m->torn_at = -1;
    m->dir = str_dup(batch_dir);
    m->path = fs_join(batch_dir, "manifest.jsonl");
    if (!m->dir || !m->path) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the manifest", batch_dir);
        goto out;
    }
    if (mode == MANIFEST_WRITE && (rc = take_lock(m, e)))
        goto out;
    if (fs_exists(m->path) && ((rc = fs_read_text(&text, &n, m->path, e)) || (rc = read_lines(m, text, n, e))))
        goto out;
out:
    free(text);
    if (rc)
        manifest_close(m);
    else
        *out = m;
    return rc;
}

void manifest_close(manifest *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++)
        manifest_entry_release(&m->entries[i]);
    if (m->lock >= 0)
        close(m->lock);
    free(m->entries);
    free(m->slots);
    free(m->dir);
    free(m->path);
    free(m);
}

size_t manifest_count(const manifest *m)
{
    return m->n;
}

const manifest_entry *manifest_at(const manifest *m, size_t i)
{
    return i < m->n ? &m->entries[i] : NULL;
}

const manifest_entry *manifest_find(const manifest *m, const char *run)
{
    size_t slot = m->n ? m->slots[slot_of(m, run)] : 0;
    return slot ? &m->entries[slot - 1] : NULL;
}

/* ---- appending ---- */

/* Cuts off a torn last line, or ends a whole one. */
static int repair_end(manifest *m, err *e)
{
    if (m->torn_at < 0 && !m->no_newline)
        return 0;
    int fd = open(m->path, O_WRONLY | O_APPEND | O_CLOEXEC), number = 0;
    if (fd < 0 || (m->torn_at >= 0 ? ftruncate(fd, (off_t)m->torn_at) != 0 : write(fd, "\n", 1) != 1) || fsync(fd))
        number = errno;
    if (fd >= 0 && close(fd) && !number)
        number = errno;
    if (number)
        return ERR(e, ERR_IO, "%s: its incomplete last line cannot be repaired: %s", m->path, strerror(number));
    m->torn_at = -1;
    m->no_newline = false;
    return 0;
}

int manifest_append(manifest *m, const manifest_entry *x, err *e)
{
    char now[32];
    str line = STR_INIT;
    json *doc = NULL;
    manifest_entry copy;
    err why = { 0 };
    manifest_entry_init(&copy);
    if (m->mode != MANIFEST_WRITE)
        return ERR(e, ERR_INTERNAL, "%s: was opened for reading and cannot grow", m->path);
    if (!x->run || !x->run[0] || !x->id || !x->slug || !x->marked_prompt || !x->clean_prompt || (!x->done && !x->error))
        return ERR(e, ERR_ARG,
                   "%s: an entry needs a run, an id, a slug, both prompts and, if it failed, the error; run '%s' "
                   "lacks one",
                   m->path, x->run ? x->run : "");
    time_t t = time(NULL);
    struct tm utc;
    if (!x->time && (!gmtime_r(&t, &utc) || !strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", &utc)))
        return ERR(e, ERR_INTERNAL, "%s: the clock gives no date", m->path);
    entry_to_line(&line, x, x->time ? x->time : now);
    int rc = 0;
    if (line.failed || (m->n == m->cap && grow(m, NULL)))
        rc = ERR(e, ERR_MEMORY, "%s: no memory for a line", m->path);
    /* The table gets what a reader of the line will see; a line that a reader would refuse is not written. */
    if (!rc)
        rc = json_parse(&doc, line.data, line.len, "manifest line", &why);
    if (!rc && why.kind == 0)
        rc = entry_from_json(&copy, doc, m->path, &why);
    if (why.kind)
        rc = ERR(e, why.kind == ERR_MEMORY ? ERR_MEMORY : ERR_ARG, "the entry of run '%s' is not written: %s", x->run,
                 why.text);
    if (!rc)
        rc = repair_end(m, e);
    if (!rc)
        rc = fs_append_line(m->path, line.data, e);
    if (!rc)
        put(m, &copy);
    manifest_entry_release(&copy);
    json_free(doc);
    str_release(&line);
    return rc;
}

/* ---- done? ---- */

static bool file_is_fine(const manifest *m, const manifest_file *f, bool verify_digests, char **why)
{
    char digest[65];
    struct stat st;
    err e = { 0 };
    bool fine = false;
    char *full = fs_join(m->dir, f->path);
    if (!full)
        *why = str_dup("memory ran out");
    else if (stat(full, &st) || !S_ISREG(st.st_mode))
        *why = str_format("%s is missing", f->path);
    else if (st.st_size != f->bytes)
        *why = str_format("%s has %lld bytes, the manifest says %lld", f->path, (long long)st.st_size,
                          (long long)f->bytes);
    else if (verify_digests && sha256_file(full, digest, &e))
        *why = str_dup(e.text);
    else if (verify_digests && strcmp(digest, f->sha256))
        *why = str_format("%s has changed since it was made: its sha256 is %s, the manifest says %s", f->path, digest,
                          f->sha256);
    else
        fine = true;
    free(full);
    return fine;
}

bool manifest_run_is_done(const manifest *m, const char *run, const char *identity, bool verify_digests, char **why)
{
    char *reason = NULL;
    bool done = false;
    const manifest_entry *x = manifest_find(m, run);
    if (!x)
        goto out;
    if (!x->done)
        reason = str_format("it failed: %s", x->error ? x->error : "no reason was recorded");
    else if (strcmp(x->identity, identity))
        reason = str_dup("its parameters, prompt, checkpoint or program have changed");
    else {
        done = true;
        for (size_t i = 0; i < x->n_files && done; i++)
            done = file_is_fine(m, &x->files[i], verify_digests, &reason);
    }
out:
    if (why)
        *why = reason;
    else
        free(reason);
    return done;
}
