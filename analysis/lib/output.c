#include "analysis/lib/output.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"

int output_write(output *o, const char *name, const void *bytes, size_t n, err *e)
{
    char *path = fs_join(o->dir, name);
    if (!path)
        return ERR(e, ERR_MEMORY, "no memory to write %s", name);
    int rc = fs_write_atomic(path, bytes, n, e);
    free(path);
    o->n_files += !rc;
    return rc;
}

int output_write_str(output *o, const char *name, str *text, err *e)
{
    int rc = text->failed ? ERR(e, ERR_MEMORY, "no memory to write %s", name)
                          : output_write(o, name, str_text(text), text->len, e);
    str_release(text);
    return rc;
}

static void separate(str *s)
{
    if (s->len > 0 && s->data[s->len - 1] != '\n')
        str_addc(s, ',');
}

void csv_text(str *s, const char *text)
{
    separate(s);
    if (!strpbrk(text, ",\"\r\n") && *text) {
        str_add(s, text);
        return;
    }
    str_addc(s, '"');
    for (; *text; text++) {
        if (*text == '"')
            str_addc(s, '"');
        str_addc(s, *text);
    }
    str_addc(s, '"');
}

void csv_int(str *s, int64_t v)
{
    separate(s);
    str_addf(s, "%lld", (long long)v);
}

void csv_number(str *s, double v)
{
    char buf[40];
    bool first = s->len == 0 || s->data[s->len - 1] == '\n';
    separate(s);
    if (!isfinite(v)) {
        if (first)
            str_add(s, "\"\"");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) { /* the fewest that read back equal */
        snprintf(buf, sizeof buf, "%.*g", digits, v);
        if (strtod(buf, NULL) == v)
            break;
    }
    str_add(s, buf);
}

void csv_end(str *s)
{
    str_addc(s, '\n');
}

void output_json_head(json_writer *w, const output *o, const sweep *s, const char *command, const char *batch_dir)
{
    jw_object(w);
    jw_kstring(w, "program", "latent-analyze");
    jw_kstring(w, "version", WANSCOPE_VERSION);
    jw_kstring(w, "command", command);
    jw_kstring(w, "batch", batch_dir);
    jw_kint(w, "bootstrap_resamples", o->resamples);
    jw_kint(w, "seed", (int64_t)o->seed);
    jw_key(w, "latents");
    jw_object(w);
    jw_kint(w, "channels", s->C);
    jw_kint(w, "frames", s->F);
    jw_kint(w, "height", s->H);
    jw_kint(w, "width", s->W);
    jw_kint(w, "steps", s->n_steps);
    jw_kint(w, "stored_rows", s->T);
    jw_end_object(w);
    jw_key(w, "rows");
    jw_array(w);
    for (int64_t i = 0; i < s->T; i++)
        jw_int(w, s->rows[i]);
    jw_end_array(w);
    jw_key(w, "sigmas");
    jw_array(w);
    for (int64_t i = 0; i < s->T; i++)
        jw_double(w, s->sigma[i]);
    jw_end_array(w);
    jw_key(w, "variations");
    jw_array(w);
    for (int64_t g = 0; g < s->n_groups; g++) {
        const sweep_group *v = &s->groups[g];
        jw_object(w);
        jw_kint(w, "number", v->variation->number);
        jw_kstring(w, "id", v->variation->id);
        jw_kstring(w, "slug", v->variation->slug);
        jw_kstring(w, "prompt", v->variation->prompt);
        jw_key(w, "seeds");
        jw_array(w);
        for (int64_t i = 0; i < v->n; i++)
            jw_int(w, s->runs[v->first + i].run->seed);
        jw_end_array(w);
        jw_end_object(w);
    }
    jw_end_array(w);
    jw_kint(w, "runs_failed", s->n_failed);
    jw_key(w, "runs_left_out");
    jw_array(w);
    for (int64_t i = 0; i < s->n_skipped; i++) {
        jw_object(w);
        jw_kstring(w, "run", s->skipped[i].run);
        jw_kstring(w, "reason", s->skipped[i].reason);
        jw_end_object(w);
    }
    jw_end_array(w);
}
