/* vace_inputs: the files that condition a video: section `vace` of the settings -> checked floats of the video's size. */
#ifndef WANSCOPE_VACE_INPUTS_H
#define WANSCOPE_VACE_INPUTS_H

#include "core/engine.h"
#include "experiments/settings.h"

enum { VACE_MAX_REFERENCES = 4 };

typedef struct vace_buffers {
    float *references[VACE_MAX_REFERENCES];    /* [3, height, width] */
    int n_references;
    float *control;                            /* [3, frames, height, width], or NULL */
    float *mask;                               /* [frames, height, width], or NULL */
    const config *cfg;                         /* of vace_inputs_follow(): */
    int64_t frames, plane;
    struct vace_reader *later[2];              /* control and mask that do not lie there */
} vace_buffers;

/* Does the section name anything? */
bool vace_inputs_given(const config *c);
/* What can be told without decoding: counts, files that are missing, empty or of a kind that cannot be read. */
int vace_inputs_check(const config *c, err *e);
/* {"references":["<sha256>"...],"control":...,"mask":...} of the files' bytes. */
int vace_inputs_digests(const config *c, str *out, err *e);
/* Decodes, fits and checks everything. */
int vace_inputs_load(vace_buffers *out, const config *c, err *e);
/* The same for a causal model, which asks for frames as it makes its blocks: what needs no other frames than the one (videos, depth in
 * videos that is neither stretched over the clip nor smoothed, masks) stays in its file, which is read through for being whole and long
 * enough, without decoding. The settings must live until vace_inputs_release(). */
int vace_inputs_follow(vace_buffers *out, const config *c, err *e);
/* Where a causal model gets its frames then; `b` must stay where it is. */
vace_source vace_inputs_source(vace_buffers *b);
void vace_inputs_release(vace_buffers *b);

#endif
