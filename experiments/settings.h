/* settings: the configuration and the engine it is for, together. */
#ifndef WANSCOPE_SETTINGS_H
#define WANSCOPE_SETTINGS_H

#include "core/engine.h"
#include "experiments/config.h"

#endif
