/* parallel: run a loop over a fixed number of pieces on all cores.
 *
 * The cutting into pieces never depends on the number of threads, each piece writes its own part of the output and no
 * piece adds into another's, so results are the same for any number of threads. Not re-entrant: a piece must not call
 * parallel_for(). */
#ifndef WANSCOPE_PARALLEL_H
#define WANSCOPE_PARALLEL_H

#include <stdint.h>

void parallel_set_threads(int n);   /* 0 = all cores this process may use; call before the first parallel_for or between */
int parallel_threads(void);

/* fn(piece, thread, arg): piece 0..pieces-1, thread 0..parallel_threads()-1 (for scratch memory). */
void parallel_for(int64_t pieces, void (*fn)(int64_t piece, int thread, void *arg), void *arg);

void parallel_shutdown(void);       /* joins the threads; for leak-clean exits */

#endif
