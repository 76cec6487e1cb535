/* wanscope expand: the variations of a template, one a line, or as JSON. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "experiments/template.h"

int cmd_expand(int argc, char **argv);

#define DUPLICATES_WITHIN 200000   /* variations searched for duplicates, so that memory stays flat */
#define DUPLICATES_SHOWN 10

static const char HELP[] =
    "usage: wanscope expand TEMPLATE|@FILE [--count] [--json] [--start N] [--limit N]\n"
    "\n"
    "Prints the variations of a prompt template, one a line, marks and escapes resolved.\n"
    "\n"
    "  TEMPLATE     a [red|blue] (cat)      two variations; (cat) is marked for attention capture\n"
    "               [who=men|women] [=who]  a named choice and a link to it; more in docs/templates.md\n"
    "  @FILE        reads the template from a file\n"
    "  --count      prints only how many variations there are\n"
    "  --json       prints number, id, slug, marked text, clean text, marks and choices of each\n"
    "  --start N    begins with variation N (the first is 0)\n"
    "  --limit N    prints at most N variations\n"
    "\n"
    "Variations with the same text are reported on stderr with the choices that lead to them.\n";

typedef struct options {
    const char *template;
    bool count, json;
    uint64_t start, limit;
} options;

static int usage_error(err *e, const char *what, const char *arg)
{
    return ERR(e, ERR_ARG, "%s%s; 'wanscope expand --help' lists what there is", what, arg);
}

static int read_number(const char *option, const char *text, uint64_t *out, err *e)
{
    char *end;
    errno = 0;
    unsigned long long v = text && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    if (!text || *text < '0' || *text > '9' || *end || errno)
        return ERR(e, ERR_ARG, "%s needs a whole number of 0 or more, found '%s'", option, text ? text : "nothing");
    *out = v;
    return 0;
}

static int read_options(options *o, int argc, char **argv, bool *help, err *e)
{
    bool plain = false;
    int rc = 0;
    *o = (options){ .limit = UINT64_MAX };
    *help = false;
    for (int i = 1; i < argc && !rc; i++) {
        const char *a = argv[i], *value = NULL;
        if (!plain && a[0] == '-' && a[1]) {
            if (!strcmp(a, "--")) {
                plain = true;
            } else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
                *help = true;
                return 0;
            } else if (!strcmp(a, "--count")) {
                o->count = true;
            } else if (!strcmp(a, "--json")) {
                o->json = true;
            } else if (!strcmp(a, "--limit") || !strcmp(a, "--start")) {
                value = ++i < argc ? argv[i] : NULL;
                rc = read_number(a, value, a[2] == 'l' ? &o->limit : &o->start, e);
            } else if (str_starts_with(a, "--limit=") || str_starts_with(a, "--start=")) {
                rc = read_number(a[2] == 'l' ? "--limit" : "--start", a + 8, a[2] == 'l' ? &o->limit : &o->start, e);
            } else {
                rc = usage_error(e, "unknown option ", a);
            }
        } else if (o->template) {
            rc = usage_error(e, "one template at a time: quote it so that the shell keeps it together; unexpected "
                                "argument ", a);
        } else {
            o->template = a;
        }
    }
    if (!rc && !o->template)
        rc = usage_error(e, "no template was given", "");
    return rc;
}

static void json_variation(json_writer *w, const variation *v)
{
    jw_object(w);
    char number[24];
    snprintf(number, sizeof number, "%llu", (unsigned long long)v->number);
    jw_key(w, "number");
    jw_raw(w, number);
    jw_kstring(w, "id", v->id);
    jw_kstring(w, "slug", v->slug);
    jw_kstring(w, "clean", v->clean);
    jw_kstring(w, "marked", v->marked);
    jw_key(w, "marks");
    jw_array(w);
    for (int i = 0; i < v->n_spans; i++) {
        jw_object(w);
        jw_kstring(w, "word", v->spans[i].word);
        jw_kint(w, "begin", (int64_t)v->spans[i].begin);
        jw_kint(w, "end", (int64_t)v->spans[i].end);
        jw_kdouble(w, "weight", v->spans[i].weight);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_key(w, "choices");
    jw_array(w);
    for (int i = 0; i < v->n_choices; i++) {
        const variation_choice *c = &v->choices[i];
        jw_object(w);
        jw_kint(w, "bracket", c->bracket);
        jw_kstring(w, "name", c->name[0] ? c->name : NULL);
        jw_kint(w, "alternative", c->alternative);
        jw_kstring(w, "text", c->alternative < 0 ? NULL : c->text);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_end_object(w);
}

/* The text around the list; variations come between, one a line, so that a long list never lies in memory. */
static void json_head(str *out, const prompt_template *t, const char *text)
{
    char count[64];
    json_writer w;
    template_count_text(t, count);
    str_add(out, "{\"template\":");
    jw_init(&w, out, 0);
    jw_string(&w, text);
    bool exact = count[0] >= '0' && count[0] <= '9';
    str_addf(out, exact ? ",\"count\":%s,\"variations\":[" : ",\"count\":\"%s\",\"variations\":[", count);
}

/* 0, or ERR_IO; a reader that has seen enough ("| head") is no error but ends the listing. */
static int put(const str *line, bool *closed, err *e)
{
    if (line->failed)
        return ERR(e, ERR_MEMORY, "out of memory for a line of the listing");
    if (fwrite(str_text(line), 1, line->len, stdout) == line->len)
        return 0;
    if (errno == EPIPE) {
        *closed = true;
        return 0;
    }
    return ERR(e, ERR_IO, "cannot write the list of variations to standard output: %s", strerror(errno));
}

static int list(const prompt_template *t, const options *o, const char *text, err *e)
{
    uint64_t count = template_count(t), n_duplicates = 0, seen = 0;
    uint64_t end = o->limit < count && o->start <= count - o->limit ? o->start + o->limit : count;
    bool closed = false;
    str line = STR_INIT, notes = STR_INIT;
    duplicate_finder *d = NULL;
    int rc = duplicate_finder_new(&d, e);
    if (!rc && o->json) {
        json_head(&line, t, text);
        rc = put(&line, &closed, e);
    }
    for (uint64_t i = o->start; !rc && !closed && i < end; i++) {
        variation v = { 0 };
        str_clear(&line);
        bool check = seen < DUPLICATES_WITHIN;
        if (o->json || check)
            rc = template_variation(t, i, &v, e);
        if (!rc && o->json) {
            json_writer w;
            str_add(&line, i == o->start ? "\n" : ",\n");
            jw_init(&w, &line, 0);
            json_variation(&w, &v);
        } else if (!rc) {
            if (check)
                str_add(&line, v.clean);
            else
                rc = template_clean_text(t, i, &line, e);
            for (size_t k = 0; k < line.len; k++)   /* one variation, one line; the tokeniser sees a blank there too */
                if (line.data[k] == '\n' || line.data[k] == '\r')
                    line.data[k] = ' ';
            str_addc(&line, '\n');
        }
        if (!rc)
            rc = put(&line, &closed, e);
        uint64_t earlier = UINT64_MAX;
        if (!rc && check && !(rc = duplicate_finder_add(d, &v, &earlier, e)) && earlier != UINT64_MAX &&
            n_duplicates++ < DUPLICATES_SHOWN) {
            str_add(&notes, "wanscope expand: ");
            rc = template_describe_duplicate(t, earlier, i, &notes, e);
            str_add(&notes, "\n");
        }
        seen++;
        variation_release(&v);
    }
    if (!rc && o->json && !closed) {
        str_clear(&line);
        str_add(&line, "\n]}\n");
        rc = put(&line, &closed, e);
    }
    if (!rc && !closed && fflush(stdout) && errno != EPIPE)
        rc = ERR(e, ERR_IO, "cannot write the list of variations to standard output: %s", strerror(errno));
    if (!rc) {
        fputs(str_text(&notes), stderr);
        if (n_duplicates > DUPLICATES_SHOWN)
            fprintf(stderr, "wanscope expand: %llu more variations repeat an earlier text\n",
                    (unsigned long long)(n_duplicates - DUPLICATES_SHOWN));
        if (seen > DUPLICATES_WITHIN && !closed)
            fprintf(stderr, "wanscope expand: duplicates were looked for among the first %d variations only\n",
                    DUPLICATES_WITHIN);
    }
    str_release(&line);
    str_release(&notes);
    duplicate_finder_free(d);
    return rc;
}

int cmd_expand(int argc, char **argv)
{
    err e = { 0 };
    options o;
    bool help;
    char *text = NULL;
    size_t len = 0;
    prompt_template *t = NULL;
    const char *name = "template";
    int rc = read_options(&o, argc, argv, &help, &e);
    if (rc)
        goto out;
    if (help) {
        fputs(HELP, stdout);
        return 0;
    }
    if (o.template[0] == '@') {
        name = o.template + 1;
        rc = template_read_file(&text, &len, name, &e);
    } else {
        len = strlen(o.template);
        text = str_dup(o.template);
        if (!text)
            rc = ERR(&e, ERR_MEMORY, "out of memory for the template");
    }
    if (!rc)
        rc = template_parse(&t, text, len, name, &e);
    if (rc)
        goto out;
    if (o.count) {
        char count[64];
        template_count_text(t, count);
        if (printf("%s\n", count) < 0 || fflush(stdout))
            rc = ERR(&e, ERR_IO, "cannot write to standard output: %s", strerror(errno));
    } else if (o.start >= template_count(t)) {
        char count[64];
        template_count_text(t, count);
        rc = ERR(&e, ERR_ARG, "--start %llu lies behind the last variation: the template has %s, numbered from 0",
                 (unsigned long long)o.start, count);
    } else {
        rc = list(t, &o, text, &e);
    }
out:
    if (rc)
        fprintf(stderr, "wanscope expand: %s\n", e.text);
    template_free(t);
    free(text);
    return err_exit_code(rc);
}
