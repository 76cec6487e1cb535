/* build_id: which build this is, for attributes and --version: the output of git describe, or "unknown". */
#ifndef WANSCOPE_BUILD_ID_H
#define WANSCOPE_BUILD_ID_H

extern const char *const wanscope_build;     /* "v0.1-3-gabc1234" */
extern const char *const wanscope_version;   /* "0.1.0" */

#endif
