/* expect: the complete list of tensors that a network of a known configuration has (wan-engine.md 2.5, 2.6, appendix
 * A). Each call records what is missing or misshapen in `w`; ckpt_want_finish() tells. */
#ifndef WANSCOPE_EXPECT_H
#define WANSCOPE_EXPECT_H

#include "core/dit/dit_config.h"
#include "core/io/ckpt.h"

void expect_dit(ckpt_want *w, const dit_config *cfg);
void expect_umt5(ckpt_want *w, const umt5_config *cfg);
void expect_vae(ckpt_want *w, const vae_config *cfg);

#endif
