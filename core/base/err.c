#include "core/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(err *e, int kind, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        e->kind = kind;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
    }
    return kind;
}

int err_at(err *e, int rc, const char *fmt, ...)
{
    if (e && rc) {
        char crumb[512], old[sizeof e->text];
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(crumb, sizeof crumb, fmt, ap);
        va_end(ap);
        memcpy(old, e->text, sizeof old);
        int n = snprintf(e->text, sizeof e->text, "%s: ", crumb);
        if (n >= 0 && (size_t)n < sizeof e->text)
            snprintf(e->text + n, sizeof e->text - (size_t)n, "%s", old);
    }
    return rc;
}

int err_exit_code(int rc)
{
    switch (rc) {
    case 0: return 0;
    case ERR_ARG:
    case ERR_CONFIG:
    case ERR_FORMAT:
    case ERR_SHAPE:
    case ERR_IO: return 2;
    case ERR_MEMORY:
    case ERR_DEVICE: return 3;
    case ERR_CANCELLED: return 130;
    default: return 1;
    }
}
