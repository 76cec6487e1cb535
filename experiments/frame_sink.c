/* Frames of a video as they are made: into the video file, a pipe, the preview, single images. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/base/media.h"
#include "core/base/str.h"
#include "experiments/interrupt.h"
#include "experiments/run_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

bool frame_sink_wanted(const run_files *f)
{
    return f->video || f->preview || f->images || f->to_stdout;
}

int frame_sink_open(frame_sink *s, runner *r, const char *parameters, const run_files *f, err *e)
{
    int rc = 0;
    const config *c = r->cfg;
    video_spec spec = VIDEO_SPEC_INIT;
    *s = (frame_sink){ .r = r, .files = f, .comment = { "comment", parameters }, .text = { "parameters", parameters } };
    spec.width = r->params.width;
    spec.height = r->params.height;
    spec.crf = (int)c->video.crf;
    spec.tags = &s->comment;
    spec.n_tags = !f->no_metadata;
    if (f->video || f->to_stdout)
        TRY(video_fps(&spec.fps_num, &spec.fps_den, c->video.fps, e));
    if (f->video)
        TRY(video_writer_open(&s->video, f->video, &spec, e));
    if (f->to_stdout)
        TRY(video_writer_open_stream(&s->pipe, stdout, "standard output", &spec, e));
    if (f->preview) {
        TRY(preview_init(&s->sheet, r->params.width, r->params.height, r->params.frames, e));
        s->has_sheet = true;
    }
out:
    return rc;
}

int frame_sink_take(int64_t index, int width, int height, const uint8_t *rgb, void *user, err *e)
{
    frame_sink *s = user;
    int rc = interrupt_check(e);
    if (!rc && s->pipe)      /* first: somebody may be watching */
        rc = video_writer_frame(s->pipe, rgb, e);
    if (!rc && s->video)
        rc = video_writer_frame(s->video, rgb, e);
    if (!rc && s->has_sheet)
        preview_frame(&s->sheet, index, width, height, rgb);
    if (!rc && s->files->images) {
        char *path = str_format("%s/frame_%03" PRId64 ".png", s->files->images, index);
        bool tagged = !s->files->no_metadata;
        rc = path ? media_png_write(path, width, height, rgb, tagged ? &s->text : NULL, tagged, e) : ERR(e, ERR_MEMORY, "out of memory");
        free(path);
    }
    return rc;
}

int frame_sink_close(frame_sink *s, err *e)
{
    int rc = 0;
    video_writer *video = s->video, *pipe = s->pipe;
    s->video = s->pipe = NULL;
    rc = video_writer_close(video, e);
    int piped = video_writer_close(pipe, rc ? NULL : e);
    rc = rc ? rc : piped;
    return rc || !s->has_sheet ? rc : preview_write(&s->sheet, s->files->preview, &s->text, !s->files->no_metadata, e);
}

void frame_sink_abort(frame_sink *s)
{
    video_writer_abort(s->video);
    video_writer_abort(s->pipe);
    s->video = s->pipe = NULL;
    preview_release(&s->sheet);
}
