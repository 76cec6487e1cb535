#include "analysis/lib/batch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/str.h"

static void run_release(batch_run *r)
{
    free(r->id);
    free(r->error);
    free(r->trace);
    free(r->video);
    memset(r, 0, sizeof *r);
}

/* A file's path inside the batch, joined to it. Paths that leave the batch are refused: a manifest is data. */
static int file_path(char **out, int64_t *bytes, const batch *b, const json *files, const char *name, const char *where,
                     err *e)
{
    const json *f = json_get(files, name);
    const char *path = json_get_string(f, "path", NULL);
    *out = NULL;
    if (bytes)
        *bytes = json_get_int(f, "bytes", -1);
    if (!path)
        return 0;
    if (path[0] == '/' || !strcmp(path, "..") || str_starts_with(path, "../") || strstr(path, "/../") ||
        str_ends_with(path, "/.."))
        return ERR(e, ERR_FORMAT, "%s: the path '%s' of '%s' leaves the batch folder. Correct the manifest.", where,
                   path, name);
    *out = fs_join(b->dir, path);
    return *out ? 0 : ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
}

static int add_variation(int64_t *index, batch *b, const json *v, const char *where, err *e)
{
    int64_t number;
    if (json_type(v) != JSON_OBJECT || !json_int(json_get(v, "number"), &number))
        return ERR(e, ERR_FORMAT,
                   "%s: the key 'variation' with a whole 'number' is missing. Correct or remove the line.", where);
    for (int64_t i = 0; i < b->n_variations; i++)
        if (b->variations[i].number == number) {
            const char *id = json_get_string(v, "id", "");
            if (strcmp(id, b->variations[i].id))
                return ERR(
                    e, ERR_FORMAT,
                    "%s: variation %lld has the id '%s' here but '%s' in an earlier line; two templates seem to share "
                    "this folder. Keep one batch in one folder.",
                    where, (long long)number, id, b->variations[i].id);
            *index = i;
            return 0;
        }
    batch_variation *grown = realloc(b->variations, (size_t)(b->n_variations + 1) * sizeof *grown);
    if (!grown)
        return ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
    b->variations = grown;
    batch_variation *n = &grown[b->n_variations++];
    n->number = number;
    n->id = str_dup(json_get_string(v, "id", ""));
    n->slug = str_dup(json_get_string(v, "slug", ""));
    n->prompt = str_dup(json_get_string(v, "clean_prompt", ""));
    if (n->slug && !*n->slug) {
        free(n->slug);
        n->slug = str_format("%04lld", (long long)number);
    }
    if (!n->id || !n->slug || !n->prompt)
        return ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
    *index = b->n_variations - 1;
    return 0;
}

static int add_line(batch *b, const json *line, const char *where, err *e)
{
    const char *id = json_get_string(line, "run", NULL), *state = json_get_string(line, "state", NULL);
    batch_run n = { 0 };
    int rc;
    if (!id || !*id)
        return ERR(e, ERR_FORMAT, "%s: the key 'run' is missing. Correct or remove the line.", where);
    if (!state || (strcmp(state, "done") && strcmp(state, "failed")))
        return ERR(e, ERR_FORMAT,
                   "%s: the state of run '%s' is '%s', expected 'done' or 'failed'. Correct or remove the line.", where,
                   id, state ? state : "(missing)");
    if (!json_int(json_get(line, "seed"), &n.seed))
        return ERR(e, ERR_FORMAT, "%s: the seed of run '%s' is not a whole number. Correct or remove the line.", where,
                   id);
    if ((rc = add_variation(&n.variation, b, json_get(line, "variation"), where, e)))
        return rc;
    n.done = !strcmp(state, "done");
    n.id = str_dup(id);
    const char *why = json_get_string(line, "error", NULL);
    n.error = why ? str_dup(why) : NULL;
    const json *files = json_get(line, "files");
    rc = file_path(&n.trace, &n.trace_bytes, b, files, "trace.h5", where, e);
    if (!rc)
        rc = file_path(&n.video, NULL, b, files, "video.mp4", where, e);
    if (!rc && !n.id)
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
    if (rc) {
        run_release(&n);
        return rc;
    }
    for (int64_t i = 0; i < b->n_runs; i++)
        if (!strcmp(b->runs[i].id, id)) {
            run_release(&b->runs[i]);
            b->runs[i] = n;
            return 0;
        }
    batch_run *grown = realloc(b->runs, (size_t)(b->n_runs + 1) * sizeof *grown);
    if (!grown) {
        run_release(&n);
        return ERR(e, ERR_MEMORY, "%s: no memory for the manifest", where);
    }
    b->runs = grown;
    b->runs[b->n_runs++] = n;
    return 0;
}

static int by_number(const void *a, const void *b)
{
    int64_t x = ((const batch_variation *)a)->number, y = ((const batch_variation *)b)->number;
    return (x > y) - (x < y);
}

static int by_variation_and_seed(const void *a, const void *b)
{
    const batch_run *x = a, *y = b;
    if (x->variation != y->variation)
        return x->variation < y->variation ? -1 : 1;
    if (x->seed != y->seed)
        return x->seed < y->seed ? -1 : 1;
    return strcmp(x->id, y->id);
}

/* Sorts variations by number and runs by variation and seed; two runs of one variation must not share a seed. */
static int sort_all(batch *b, const char *path, err *e)
{
    int64_t *number = malloc((size_t)(b->n_runs + 1) * sizeof *number);
    if (!number)
        return ERR(e, ERR_MEMORY, "%s: no memory for the manifest", path);
    for (int64_t i = 0; i < b->n_runs; i++)
        number[i] = b->variations[b->runs[i].variation].number;
    qsort(b->variations, (size_t)b->n_variations, sizeof *b->variations, by_number);
    for (int64_t i = 0; i < b->n_runs; i++)
        for (int64_t v = 0; v < b->n_variations; v++)
            if (b->variations[v].number == number[i])
                b->runs[i].variation = v;
    free(number);
    qsort(b->runs, (size_t)b->n_runs, sizeof *b->runs, by_variation_and_seed);
    for (int64_t i = 1; i < b->n_runs; i++)
        if (b->runs[i].variation == b->runs[i - 1].variation && b->runs[i].seed == b->runs[i - 1].seed)
            return ERR(
                e, ERR_FORMAT,
                "%s: runs '%s' and '%s' are the same variation with the same seed %lld; seeds must pair up one to one. "
                "Remove one of them from the manifest.",
                path, b->runs[i - 1].id, b->runs[i].id, (long long)b->runs[i].seed);
    return 0;
}

int batch_open(batch *b, const char *dir, err *e)
{
    char *path = NULL, *text = NULL;
    size_t len = 0;
    int rc = 0;
    memset(b, 0, sizeof *b);
    if (!fs_is_dir(dir))
        return ERR(e, ERR_ARG, "%s: no such batch folder. Give --batch-dir the folder that holds manifest.jsonl.", dir);
    b->dir = str_dup(dir);
    path = fs_join(dir, "manifest.jsonl");
    if (!b->dir || !path) {
        rc = ERR(e, ERR_MEMORY, "%s: no memory for the manifest", dir);
        goto out;
    }
    if (!fs_exists(path)) {
        rc = ERR(
            e, ERR_ARG,
            "%s: the folder has no manifest.jsonl, so it is not a batch. Give --batch-dir a folder that `wanscope run` "
            "wrote.",
            dir);
        goto out;
    }
    if ((rc = fs_read_text(&text, &len, path, e)))
        goto out;
    int64_t number = 0;
    for (size_t at = 0; at < len && !rc;) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end ? (size_t)(end - (text + at)) : len - at;
        number++;
        char where[1200];
        snprintf(where, sizeof where, "%s: line %lld", path, (long long)number);
        if (n > 0 && !(n == 1 && text[at] == '\r')) {
            json *line = NULL;
            err parse = { 0 };
            int bad = json_parse(&line, text + at, n, where, &parse);
            if (bad && !end)
                log_msg(LOG_WARN, "%s is incomplete (the run that wrote it was interrupted) and is left out", where);
            else if (bad)
                rc = ERR(e, ERR_FORMAT, "%s. Correct or remove the line.", parse.text);
            else
                rc = add_line(b, line, where, e);
            json_free(line);
        }
        at += n + 1;
    }
    if (!rc)
        rc = sort_all(b, path, e);
out:
    free(text);
    free(path);
    if (rc)
        batch_close(b);
    return rc;
}

void batch_close(batch *b)
{
    for (int64_t i = 0; i < b->n_runs; i++)
        run_release(&b->runs[i]);
    for (int64_t i = 0; i < b->n_variations; i++) {
        free(b->variations[i].id);
        free(b->variations[i].slug);
        free(b->variations[i].prompt);
    }
    free(b->runs);
    free(b->variations);
    free(b->dir);
    memset(b, 0, sizeof *b);
}
