#include "experiments/timeline.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* Length of the mark that `text` begins with, 0 if it begins with none. */
static size_t mark(const char *text, int64_t *at)
{
    if (strncmp(text, "[at ", 4) || !isdigit((unsigned char)text[4]))
        return 0;
    char *end;
    errno = 0;
    long long v = strtoll(text + 4, &end, 10);
    if (*end != ']')
        return 0;
    *at = errno ? INT64_MAX : v;
    return (size_t)(end - text) + 1;
}

bool timeline_marked(const char *text, size_t *at)
{
    int64_t ignored;
    for (const char *p = text; *p; p++) {
        if (*p == '\\' && p[1])
            p++;
        else if (mark(p, &ignored)) {
            *at = (size_t)(p - text);
            return true;
        }
    }
    return false;
}

void timeline_join(str *out, const prompt_schedule *list)
{
    for (int i = 0; i < list->n; i++) {
        if (i)
            str_addf(out, " [at %" PRId64 "] ", list->steps[i]);
        str_add(out, list->texts[i]);
    }
}

static bool blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

/* Bytes [begin, end) of v, from frame `at` on. */
static int add(timeline *t, const variation *v, size_t begin, size_t end, int64_t at, err *e)
{
    while (begin < end && blank(v->clean[begin]))
        begin++;
    while (end > begin && blank(v->clean[end - 1]))
        end--;
    if (begin == end)
        return ERR(e, ERR_ARG, "the prompt from latent frame %" PRId64 " on is empty in \"%.200s\": write what is to be seen before and behind every [at N]", at,
                   v->clean);
    int64_t *frames = realloc(t->at, ((size_t)t->n + 1) * sizeof *frames);
    if (frames)
        t->at = frames;
    variation *parts = realloc(t->parts, ((size_t)t->n + 1) * sizeof *parts);
    if (parts)
        t->parts = parts;
    if (!frames || !parts)
        return ERR(e, ERR_MEMORY, "out of memory for the prompts of a run");
    variation *p = &t->parts[t->n];
    *p = (variation){ .number = v->number, .clean = str_dupn(v->clean + begin, end - begin),
                      .spans = calloc((size_t)v->n_spans + 1, sizeof *p->spans) };
    t->at[t->n++] = at;
    if (!p->clean || !p->spans)
        return ERR(e, ERR_MEMORY, "out of memory for the prompts of a run");
    for (int i = 0; i < v->n_spans; i++) {
        const variation_span *s = &v->spans[i];
        if (s->end <= begin || s->begin >= end)
            continue;
        if (s->begin < begin || s->end > end)
            return ERR(e, ERR_ARG, "the mark around '%.80s' goes beyond its prompt: mark words within what stands between two [at N]", s->word);
        char *word = str_dup(s->word);
        if (!word)
            return ERR(e, ERR_MEMORY, "out of memory for the prompts of a run");
        p->spans[p->n_spans++] = (variation_span){ s->begin - begin, s->end - begin, s->weight, word };
    }
    return 0;
}

int timeline_split(timeline *t, const variation *v, err *e)
{
    int rc = 0;
    size_t begin = 0, i = 0, n = strlen(v->clean);
    int64_t from = 0, at = 0;
    *t = (timeline){ 0 };
    while (i < n) {
        size_t len = v->clean[i] == '[' ? mark(v->clean + i, &at) : 0;
        if (!len) {
            i++;
            continue;
        }
        bool first = !t->n && strspn(v->clean, " \t\r\n") == i;
        if (at > INT32_MAX || (first ? at != 0 : at <= from)) {
            rc = ERR(e, ERR_ARG, "[at %" PRId64 "] comes after a prompt from latent frame %" PRId64 " on in \"%.200s\": the frames of a timeline must rise from 0", at,
                     from, v->clean);
            goto out;
        }
        if (!first)
            TRY(add(t, v, begin, i, from, e));
        from = at;
        begin = i += len;
    }
    TRY(add(t, v, begin, n, from, e));
out:
    if (rc)
        timeline_release(t);
    return rc;
}

void timeline_release(timeline *t)
{
    for (int i = 0; i < t->n; i++)
        variation_release(&t->parts[i]);
    free(t->parts);
    free(t->at);
    *t = (timeline){ 0 };
}
