/* from_video: the settings of a run out of the parameters that its video (or PNG) carries, to repeat it. */
#ifndef WANSCOPE_FROM_VIDEO_H
#define WANSCOPE_FROM_VIDEO_H

#include "core/base/json.h"
#include "core/engine.h"

/* What runner_parameters_json() had written. ERR_FORMAT when the file has none of ours. json_free() *out. */
int from_video_read(json **out, const char *path, err *e);
/* Assignments "section.key=value" for config_load(), all but the checkpoint, which a video names by digests only. free() each and
 * the list. */
int from_video_sets(char ***sets, int *n, const json *parameters, const char *path, err *e);
/* Warns about each part of the checkpoint that is another than then. */
void from_video_compare(const json *parameters, const engine_info *info, const char *path);

#endif
