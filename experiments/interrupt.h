/* interrupt: SIGINT and SIGTERM as a flag that long work looks at.
 *
 * The first signal asks the work to stop: it ends with ERR_CANCELLED at the next place that looks, removes what it has half
 * written and says how to go on. A second one ends the process at once with status 130; what is half written then has names
 * ending in .part and goes when the batch is resumed. */
#ifndef WANSCOPE_INTERRUPT_H
#define WANSCOPE_INTERRUPT_H

#include <stdbool.h>

#include "core/base/err.h"

void interrupt_install(void);        /* SIGINT, SIGTERM, SIGHUP; SIGPIPE and SIGXFSZ become errors of the write */
bool interrupt_pending(void);
void interrupt_raise(void);          /* as if a signal had come; for tests */
void interrupt_clear(void);
int interrupt_check(err *e);         /* 0, or ERR_CANCELLED with a sentence */

#endif
