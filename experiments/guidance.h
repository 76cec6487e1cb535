/* guidance: variants of classifier-free guidance that choose steps, as H1111 has them (wan2_generate_video.py, run_sampling). */
#ifndef WANSCOPE_GUIDANCE_H
#define WANSCOPE_GUIDANCE_H

#include <stdbool.h>

#include "experiments/config.h"

/* Is step i of n guided? A step that is not takes the conditional velocity alone. `ratio` is the share of guided steps; the
 * names say which end is left out. */
bool guidance_applies(config_cfg_skip mode, double ratio, int i, int n);

#endif
