/* trace_spec: what trace.c needs to know of a trace_spec before it touches a file. Not for callers. */
#ifndef WANSCOPE_TRACE_SPEC_H
#define WANSCOPE_TRACE_SPEC_H

#include "experiments/trace.h"

int64_t trace_type_bytes(trace_type t);
int trace_spec_rows(const trace_spec *s);           /* stored rows of /latents */
int trace_spec_velocities(const trace_spec *s);     /* stored rows of /velocity */
/* 0, or ERR_ARG: after it every product of sizes fits. */
int trace_spec_check(const char *path, const trace_spec *s, err *e);

#endif
