/* options: long options of the two analysis programs: --name value, --name=value, flags; underscores count as hyphens.
 */
#ifndef WANSCOPE_OPTIONS_H
#define WANSCOPE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef struct option_def {
    const char *name;  /* without the two hyphens */
    const char **text; /* where the value goes; NULL for a flag */
    bool *flag;
} option_def;

/* Reads argv[first..argc). Anything unknown is ERR_ARG with the nearest known option. */
int options_parse(const option_def *defs, int n_defs, int argc, char **argv, int first, err *e);
/* A whole number in lo..hi; `text` NULL leaves *out alone. */
int options_int(int64_t *out, const char *text, const char *name, int64_t lo, int64_t hi, err *e);
/* One of n words; its index. */
int options_word(int *out, const char *text, const char *name, const char *const *words, int n, err *e);

#endif
