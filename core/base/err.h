/* err: one sentence about what went wrong, carried by the caller.
 *
 * Every fallible function returns an int: 0 for success, a negative `err_kind` otherwise, and takes an `err *`
 * as its last parameter. The place that detects a fault writes the whole sentence: what, where (file, tensor,
 * YAML line), what was expected, what was found, what to do. Callers may add one breadcrumb in front with err_at().
 * `e` may be NULL when the caller does not want the text. Nothing below main() exits or aborts.
 *
 *     if (t->shape[0] != want)
 *         return ERR(e, ERR_SHAPE, "%s: tensor '%s' has %lld rows, expected %lld", file, name, got, want);
 */
#ifndef WANSCOPE_ERR_H
#define WANSCOPE_ERR_H

enum err_kind {
    ERR_ARG = -1,       /* a caller or a user passed something impossible (flags, template) */
    ERR_CONFIG = -2,    /* a configuration file or key is wrong */
    ERR_IO = -3,        /* the operating system refused: open, read, write, disk full */
    ERR_FORMAT = -4,    /* a file's content is not what its format promises */
    ERR_SHAPE = -5,     /* a tensor is missing, misshapen or of another type */
    ERR_MEMORY = -6,    /* host or device memory ran out */
    ERR_DEVICE = -7,    /* no device, or the device failed */
    ERR_CANCELLED = -8, /* the user interrupted; the work can be resumed */
    ERR_NAN = -9,       /* a computation produced NaN or infinity */
    ERR_INTERNAL = -10, /* our own bug */
};

typedef struct err {
    int kind;         /* 0 or an err_kind */
    char text[2048];  /* the sentence, never ends in a newline */
} err;

/* Records the sentence and returns `kind`, so that a failure is one line. A second call replaces the first. */
int err_set(err *e, int kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
#define ERR(e, kind, ...) err_set((e), (kind), __VA_ARGS__)

/* Puts "while ...: " in front of the sentence already there; returns rc. */
int err_at(err *e, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The exit status of a program for a result: 0, 2 (usage, config, template, unreadable input), 3 (device or memory),
 * 130 (interrupted), 1 (anything else). */
int err_exit_code(int rc);

#endif
