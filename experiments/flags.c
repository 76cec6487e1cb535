#include "experiments/flags.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

static const flag_spec *lookup(const flag_spec *specs, size_t n, const char *word, size_t len)
{
    for (size_t i = 0; i < n; i++) {
        const char *name = specs[i].name;
        size_t k = 0;
        while (k < len && name[k] && (name[k] == word[k] || (name[k] == '-' && word[k] == '_')))
            k++;
        if (k == len && !name[k])
            return &specs[i];
    }
    return NULL;
}

static int unknown(const char *command, const flag_spec *specs, size_t n, const char *word, size_t len, err *e)
{
    int rc;
    char *plain = str_dupn(word, len);
    const char **names = calloc(n + 1, sizeof *names);
    size_t usable = 0;
    if (!plain || !names) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    for (char *c = plain; *c; c++)
        if (*c == '_')
            *c = '-';
    for (size_t i = 0; i < n; i++)
        if (!specs[i].refusal)
            names[usable++] = specs[i].name;
    const char *near = str_nearest(plain, names, usable);
    if (near)
        rc = ERR(e, ERR_ARG, "unknown option --%s: did you mean --%s? 'wanscope %s --help' lists the options", plain, near, command);
    else
        rc = ERR(e, ERR_ARG, "unknown option --%s: 'wanscope %s --help' lists the options", plain, command);
out:
    free(names);
    free(plain);
    return rc;
}

int flags_parse(flags *f, const char *command, const flag_spec *specs, size_t n_specs, int argc, char **argv, err *e)
{
    *f = (flags){ .command = command };
    f->items = calloc((size_t)(argc > 0 ? argc : 1), sizeof *f->items);
    if (!f->items)
        return ERR(e, ERR_MEMORY, "out of memory for the command line");
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            f->help = true;
            return 0;
        }
        if (strcmp(word, "--version") == 0) {
            f->version = true;
            return 0;
        }
        if (!str_starts_with(word, "--") || !word[2])
            return ERR(e, ERR_ARG, "unexpected argument '%s': options start with two hyphens, and a text with blanks needs quotes "
                       "('wanscope %s --help' lists the options)", word, command);
        const char *name = word + 2, *joined = strchr(name, '=');
        size_t len = joined ? (size_t)(joined - name) : strlen(name);
        const flag_spec *spec = lookup(specs, n_specs, name, len);
        if (!spec)
            return unknown(command, specs, n_specs, name, len, e);
        if (spec->refusal)
            return ERR(e, ERR_ARG, "--%s: %s", spec->name, spec->refusal);
        flag_item *item = &f->items[f->n_items];
        item->spec = spec;
        if (joined && spec->n_values == FLAG_LIST)
            return ERR(e, ERR_ARG, "--%s takes values separated by blanks, not '='", spec->name);
        if (joined && spec->n_values != 1)
            return ERR(e, ERR_ARG, spec->n_values ? "--%s takes %d values separated by blanks, not '='" : "--%s takes no value (expected %d values)",
                       spec->name, spec->n_values);
        if (joined)
            item->values[0] = joined + 1;
        for (int k = 0; !joined && k < spec->n_values; k++) {
            if (i + 1 >= argc || str_starts_with(argv[i + 1], "--"))
                return ERR(e, ERR_ARG, "--%s needs %s after it, found %s%s%s", spec->name, spec->n_values == 1 ? "a value" : "two values",
                           i + 1 >= argc ? "the end of the command line" : "'", i + 1 >= argc ? "" : argv[i + 1], i + 1 >= argc ? "" : "'");
            item->values[k] = argv[++i];
        }
        if (spec->n_values == FLAG_LIST) {
            item->list = argv + i + 1;
            while (i + 1 < argc && !str_starts_with(argv[i + 1], "--")) {
                item->n_list++;
                i++;
            }
            if (!item->n_list)
                return ERR(e, ERR_ARG, "--%s needs one or more values after it, found %s%s%s", spec->name, i + 1 >= argc ? "the end of the command line" : "'",
                           i + 1 >= argc ? "" : argv[i + 1], i + 1 >= argc ? "" : "'");
            item->values[0] = item->list[0];
        }
        f->n_items++;
    }
    return 0;
}

void flags_release(flags *f)
{
    free(f->items);
    *f = (flags){ 0 };
}

const flag_item *flags_find(const flags *f, const char *name)
{
    for (size_t i = f->n_items; i-- > 0;)
        if (strcmp(f->items[i].spec->name, name) == 0)
            return &f->items[i];
    return NULL;
}

const char *flags_value(const flags *f, const char *name)
{
    const flag_item *item = flags_find(f, name);
    return item ? item->values[0] : NULL;
}

bool flags_given(const flags *f, const char *name)
{
    return flags_find(f, name) != NULL;
}

void flags_name_option(const flags *f, err *e)
{
    for (size_t i = f->n_items; i-- > 0;) {
        const flag_spec *spec = f->items[i].spec;
        const char *const *values = f->items[i].values;
        for (int k = 0; spec->key && k < (spec->n_values == 2 ? 2 : 1); k++) {
            char *set = str_format("--set %s=%s: ", k ? spec->value : spec->key, spec->n_values ? values[k] : spec->value);
            char *why = set && str_starts_with(e->text, set) ? str_dup(e->text + strlen(set)) : NULL;
            free(set);
            if (!why)
                continue;
            err_set(e, e->kind, "--%s%s%s%s%s: %s", spec->name, spec->n_values ? " " : "", spec->n_values ? values[0] : "", spec->n_values == 2 ? " " : "",
                    spec->n_values == 2 ? values[1] : "", why);
            free(why);
            return;
        }
    }
}
