/* plots: the figures of latent-analyze. Without cairo in the build they are an error sentence (plots_available() is
 * false). */
#ifndef WANSCOPE_PLOTS_H
#define WANSCOPE_PLOTS_H

#include <stdbool.h>

#include "analysis/lib/output.h"
#include "analysis/lib/pca.h"
#include "analysis/lib/trajectory.h"
#include "analysis/lib/volume.h"

bool plots_available(void);
void plots_shutdown(
    void); /* frees what cairo and fontconfig cache; for leak-clean exits. They start again when needed. */
int plots_trajectory(const metrics *m, const double *profiles, output *o, err *e); /* profiles[n_runs][T][PC_COUNT] */
int plots_pca(const sweep *s, const pca *p, output *o, err *e);
int plots_volume(const sweep *s, const volume *v, output *o, err *e);

#endif
