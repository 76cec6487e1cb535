#include "experiments/prompt_file.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/str.h"

static const char *const OPTIONS[][2] = {
    { "w", "--width" }, { "h", "--height" }, { "f", "--video-length" }, { "d", "--seed" },      { "s", "--infer-steps" },
    { "g", "--guidance-scale" }, { "l", "--guidance-scale" }, { "fs", "--flow-shift" }, { "n", "--negative-prompt" },
};

static char *stripped(const char *from, size_t n)
{
    while (n && strchr(" \t\r", *from)) {
        from++;
        n--;
    }
    while (n && strchr(" \t\r", from[n - 1]))
        n--;
    return str_dupn(from, n);
}

static int add(prompt_line *line, char *word, const char *path, err *e)
{
    char **more = word ? realloc(line->words, ((size_t)line->n + 1) * sizeof *more) : NULL;
    if (!more) {
        free(word);
        return ERR(e, ERR_MEMORY, "%s: out of memory for its prompts", path);
    }
    line->words = more;
    line->words[line->n++] = word;
    return 0;
}

/* "d 7": the name up to a blank, the rest is the value */
static int read_option(prompt_line *line, const char *text, size_t n, const char *path, err *e)
{
    size_t name = 0;
    while (name < n && !strchr(" \t", text[name]))
        name++;
    char *value = stripped(text + name, n - name);
    for (size_t i = 0; value && i < sizeof OPTIONS / sizeof *OPTIONS; i++) {
        if (strlen(OPTIONS[i][0]) != name || strncmp(text, OPTIONS[i][0], name))
            continue;
        if (!*value) {
            free(value);
            return ERR(e, ERR_ARG, "%s:%d: --%s needs a value behind it", path, line->number, OPTIONS[i][0]);
        }
        int rc = add(line, str_dup(OPTIONS[i][1]), path, e);
        if (rc)
            free(value);
        return rc ? rc : add(line, value, path, e);
    }
    free(value);
    return ERR(e, ERR_ARG, "%s:%d: unknown option --%.*s behind the prompt: expected w, h, f, d, s, g, l, fs or n", path, line->number, (int)name, text);
}

static int read_line(prompt_line *line, const char *text, size_t n, const char *path, err *e)
{
    char *copy = str_dupn(text, n);
    const char *at = copy, *mark = copy ? strstr(copy, " --") : NULL;
    if (!copy)
        return ERR(e, ERR_MEMORY, "%s: out of memory for its prompts", path);
    char *prompt = stripped(at, mark ? (size_t)(mark - at) : strlen(at));
    int rc = 0;
    if (prompt && (!*prompt || str_starts_with(prompt, "--")))
        rc = ERR(e, ERR_ARG, "%s:%d: the line has options but no prompt before them", path, line->number);
    if (rc)
        free(prompt);
    rc = rc ? rc : add(line, str_dup("--prompt"), path, e);
    rc = rc ? rc : add(line, prompt, path, e);
    while (!rc && mark) {
        at = mark + 3;
        mark = strstr(at, " --");
        rc = read_option(line, at, mark ? (size_t)(mark - at) : strlen(at), path, e);
    }
    free(copy);
    return rc;
}

int prompt_file_read(prompt_file *out, const char *path, err *e)
{
    char *text = NULL;
    size_t size;
    int rc = fs_read_text(&text, &size, path, e), number = 0;
    *out = (prompt_file){ 0 };
    for (const char *at = text; !rc && at && *at; number++) {
        const char *end = strchr(at, '\n');
        size_t n = end ? (size_t)(end - at) : strlen(at), blank = strspn(at, " \t\r");
        if (blank < n && at[blank] != '#') {
            prompt_line *more = realloc(out->lines, ((size_t)out->n + 1) * sizeof *more);
            if (!more) {
                rc = ERR(e, ERR_MEMORY, "%s: out of memory for its prompts", path);
                break;
            }
            out->lines = more;
            out->lines[out->n] = (prompt_line){ .number = number + 1 };
            rc = read_line(&out->lines[out->n++], at + blank, n - blank, path, e);
        }
        at += n + (end != NULL);
    }
    free(text);
    if (!rc && !out->n)
        rc = ERR(e, ERR_ARG, "%s: no prompt in the file: expected one a line", path);
    if (rc)
        prompt_file_release(out);
    return rc;
}

void prompt_file_release(prompt_file *f)
{
    for (int i = 0; i < f->n; i++) {
        for (int k = 0; k < f->lines[i].n; k++)
            free(f->lines[i].words[k]);
        free(f->lines[i].words);
    }
    free(f->lines);
    *f = (prompt_file){ 0 };
}
