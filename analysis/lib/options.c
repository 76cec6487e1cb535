#include "analysis/lib/options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

static bool same_name(const char *given, size_t n, const char *name)
{
    if (strlen(name) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if ((given[i] == '_' ? '-' : given[i]) != name[i])
            return false;
    return true;
}

int options_parse(const option_def *defs, int n_defs, int argc, char **argv, int first, err *e)
{
    for (int i = first; i < argc; i++) {
        const char *a = argv[i];
        if (a[0] != '-' || a[1] != '-' || !a[2])
            return ERR(e, ERR_ARG, "'%s' is not an option; options start with two hyphens. See --help.", a);
        const char *name = a + 2, *equals = strchr(name, '=');
        size_t n = equals ? (size_t)(equals - name) : strlen(name);
        const option_def *d = NULL;
        for (int k = 0; k < n_defs; k++)
            if (same_name(name, n, defs[k].name))
                d = &defs[k];
        if (!d) {
            const char *names[32];
            for (int k = 0; k < n_defs && k < 32; k++)
                names[k] = defs[k].name;
            char *typed = str_dupn(name, n);
            const char *near = typed ? str_nearest(typed, names, (size_t)(n_defs < 32 ? n_defs : 32)) : NULL;
            free(typed);
            return near ? ERR(e, ERR_ARG, "unknown option '--%.*s'; did you mean '--%s'? See --help.",
                              (int)(n < 200 ? n : 200), name, near)
                        : ERR(e, ERR_ARG, "unknown option '--%.*s'. See --help.", (int)(n < 200 ? n : 200), name);
        }
        if (d->flag) {
            if (equals)
                return ERR(e, ERR_ARG, "--%s takes no value.", d->name);
            *d->flag = true;
        } else if (equals) {
            *d->text = equals + 1;
        } else if (i + 1 < argc) {
            *d->text = argv[++i];
        } else {
            return ERR(e, ERR_ARG, "--%s needs a value. See --help.", d->name);
        }
    }
    return 0;
}

int options_int(int64_t *out, const char *text, const char *name, int64_t lo, int64_t hi, err *e)
{
    if (!text)
        return 0;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < lo || v > hi)
        return ERR(e, ERR_ARG, "--%s %s: expected a whole number from %lld to %lld.", name, text, (long long)lo,
                   (long long)hi);
    *out = v;
    return 0;
}

int options_word(int *out, const char *text, const char *name, const char *const *words, int n, err *e)
{
    if (!text)
        return 0;
    str list = STR_INIT;
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, words[i])) {
            *out = i;
            str_release(&list);
            return 0;
        }
        str_addf(&list, "%s%s", i ? ", " : "", words[i]);
    }
    int rc = ERR(e, ERR_ARG, "--%s %s: expected one of %s.", name, text, str_text(&list));
    str_release(&list);
    return rc;
}
