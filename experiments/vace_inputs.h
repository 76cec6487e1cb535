/* vace_inputs: the files that condition a video: section `vace` of the settings -> checked floats of the video's size. */
#ifndef WANSCOPE_VACE_INPUTS_H
#define WANSCOPE_VACE_INPUTS_H

#include "experiments/settings.h"

enum { VACE_MAX_REFERENCES = 4 };

typedef struct vace_buffers {
    float *references[VACE_MAX_REFERENCES];    /* [3, height, width] */
    int n_references;
    float *control;                            /* [3, frames, height, width], or NULL */
    float *mask;                               /* [frames, height, width], or NULL */
} vace_buffers;

/* Does the section name anything? */
bool vace_inputs_given(const config *c);
/* What can be told without decoding: counts, files that are missing, empty or of a kind that cannot be read. */
int vace_inputs_check(const config *c, err *e);
/* {"references":["<sha256>"...],"control":...,"mask":...} of the files' bytes. */
int vace_inputs_digests(const config *c, str *out, err *e);
/* Decodes, fits and checks everything. */
int vace_inputs_load(vace_buffers *out, const config *c, err *e);
void vace_inputs_release(vace_buffers *b);

#endif
