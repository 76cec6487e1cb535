#include "experiments/shot_text.h"

#include <stdlib.h>
#include <string.h>

#include "core/dit/shots.h"

static const char GLOBAL[] = "[global caption]", PER_SHOT[] = "[per shot caption]", CUT[] = "[shot cut]";

bool shot_text_marked(const char *text)
{
    return strstr(text, PER_SHOT) || strstr(text, CUT);
}

int shot_text_count(const char *text)
{
    const char *at = strstr(text, PER_SHOT);
    int n = at != NULL;
    while (at && (at = strstr(at + 1, CUT)))
        n++;
    return n;
}

static char *stripped(const char *from, const char *to)
{
    static const char BLANKS[] = " \t\n\r\v\f";
    while (from < to && strchr(BLANKS, *from))
        from++;
    while (to > from && strchr(BLANKS, to[-1]))
        to--;
    return str_dupn(from, (size_t)(to - from));
}

int shot_text_parse(shot_text *out, const char *text, err *e)
{
    const char *g = strstr(text, GLOBAL), *p = strstr(text, PER_SHOT), *first_cut = strstr(text, CUT);
    int n = shot_text_count(text), rc = 0;
    *out = (shot_text){ 0 };
    if (!g)
        return ERR(e, ERR_CONFIG, "the prompt of a multi-shot video has no [global caption] mark: write \"[global caption] ... [per shot caption] ... "
                   "[shot cut] ...\"");
    if (!p)
        return ERR(e, ERR_CONFIG, "the prompt has a [global caption] but no [per shot caption] mark: write \"[global caption] ... [per shot caption] ... "
                   "[shot cut] ...\"");
    if (g > p)
        return ERR(e, ERR_CONFIG, "[global caption] stands behind [per shot caption]: the caption of the scene comes first");
    if (first_cut && first_cut < p)
        return ERR(e, ERR_CONFIG, "[shot cut] stands before [per shot caption]: cuts separate the captions of the shots, behind that mark");
    if (strstr(p + 1, PER_SHOT) || strstr(g + 1, GLOBAL))
        return ERR(e, ERR_CONFIG, "%s stands twice in the prompt: one is meant", strstr(p + 1, PER_SHOT) ? PER_SHOT : GLOBAL);
    out->captions = calloc((size_t)n, sizeof *out->captions);
    out->global = stripped(g + strlen(GLOBAL), p);
    if (!out->captions || !out->global)
        goto memory;
    for (const char *at = p + strlen(PER_SHOT); out->n < n; out->n++) {
        const char *end = strstr(at, CUT);
        if (!end)
            end = at + strlen(at);
        if (!(out->captions[out->n] = stripped(at, end)))
            goto memory;
        if (!*out->captions[out->n]) {
            out->n++;
            rc = ERR(e, ERR_CONFIG, "the caption of shot %d is empty%s: give every shot a caption, or one [shot cut] less", out->n,
                     out->n == n && n > 1 ? " (the prompt ends with [shot cut])" : "");
            goto out;
        }
        at = *end ? end + strlen(CUT) : end;
    }
    if (!*out->global)
        rc = ERR(e, ERR_CONFIG, "the global caption is empty: say what all shots have in common between [global caption] and [per shot caption]");
    goto out;
memory:
    rc = ERR(e, ERR_MEMORY, "out of memory for a multi-shot prompt");
out:
    if (rc)
        shot_text_release(out);
    return rc;
}

void shot_text_release(shot_text *t)
{
    for (int i = 0; t->captions && i < t->n; i++)
        free(t->captions[i]);
    free(t->captions);
    free(t->global);
    *t = (shot_text){ 0 };
}

int shot_text_check(const char *text, int n_cuts, err *e)
{
    shot_text t;
    int rc = shot_text_parse(&t, text, e);
    if (!rc && t.n != n_cuts + 1)
        rc = ERR(e, ERR_CONFIG, "Expected %d shot cuts for %d shots, got %d: shots.cut_frames names the first frame of each shot but the first, and the prompt "
                 "has %d [shot cut] marks", t.n - 1, t.n, n_cuts, t.n - 1);
    shot_text_release(&t);
    return rc;
}

int shot_text_even_cuts(str *out, int n, int frames, err *e)
{
    shot_script s;
    const char **none = calloc((size_t)(n > 0 ? n : 1), sizeof *none);
    for (int i = 0; none && i < n; i++)
        none[i] = "";
    int rc = none ? shots_structured(&s, "", none, n, frames, NULL, 0, e) : ERR(e, ERR_MEMORY, "out of memory for cuts");
    free(none);
    if (rc)
        return rc;
    str_addc(out, '[');
    for (int i = 0; i < s.n_cuts; i++)
        str_addf(out, "%s%d", i ? ", " : "", s.cuts[i]);
    str_addc(out, ']');
    shot_script_release(&s);
    return 0;
}
