/* flags: long options of the subcommands, read by one table.
 *
 * `--name value`, `--name=value`, and the underscored spellings of the upstream scripts (`--save_path`) are the same.
 * A word that starts with "--" is never taken as a value unless joined by '='. Values stay text, borrowed from argv. */
#ifndef WANSCOPE_FLAGS_H
#define WANSCOPE_FLAGS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

enum { FLAG_MAX_VALUES = 2, FLAG_LIST = -1 };

typedef struct flag_spec {
    const char *name;        /* "seed", without the hyphens; hyphens inside, no underscores */
    int n_values;            /* 0, 1, 2, or FLAG_LIST: one or more, up to the next option */
    const char *key;         /* setting of the configuration that it replaces, or NULL when the command looks at it itself */
    const char *value;       /* n_values 0: what the key becomes ("true"); 2: the setting that the second value replaces */
    const char *refusal;     /* the sentence for a flag that is known but cannot be used here, or NULL */
} flag_spec;

typedef struct flag_item {
    const flag_spec *spec;
    const char *values[FLAG_MAX_VALUES];
    char **list;             /* FLAG_LIST: all of them, in argv */
    int n_list;
} flag_item;

typedef struct flags {
    const char *command;     /* "run", for messages */
    bool help, version;
    flag_item *items;        /* in the order of the command line */
    size_t n_items;
} flags;

/* argv[0] is the name of the subcommand. Errors: ERR_ARG with the nearest known option, ERR_MEMORY. -h is --help. A word
 * that belongs to no option is an error. Release with flags_release() whatever the result. */
int flags_parse(flags *f, const char *command, const flag_spec *specs, size_t n_specs, int argc, char **argv, err *e);
void flags_release(flags *f);

const flag_item *flags_find(const flags *f, const char *name);      /* the last one given, or NULL */
const char *flags_value(const flags *f, const char *name);          /* its first value, or NULL */
bool flags_given(const flags *f, const char *name);

/* A sentence of config_load() about the assignment that an option stands for ("--set model.precision=f8: ...") then begins with the
 * option as it was typed ("--precision f8: ..."). Any other sentence stays. */
void flags_name_option(const flags *f, err *e);

#endif
