#include "experiments/build_id.h"

#ifndef WANSCOPE_BUILD
#define WANSCOPE_BUILD "unknown"
#endif

const char *const wanscope_build = WANSCOPE_BUILD;
const char *const wanscope_version = "0.1.0";
