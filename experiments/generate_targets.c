/* Where the files of wanscope generate go. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/fs.h"
#include "core/base/media.h"
#include "experiments/generate_internal.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

void generate_targets_release(generate_targets *t)
{
    free(t->video);
    free(t->latent);
    free(t->images);
    free(t->images_part);
    free(t->preview);
    *t = (generate_targets){ 0 };
}

static int refuse_existing(const char *path, err *e)
{
    return path && fs_exists(path) ? ERR(e, ERR_ARG, "%s exists already: remove it or choose another --save-path", path) : 0;
}

bool generate_is_file_name(const char *path)
{
    return str_ends_with(path, ".mp4") || str_ends_with(path, ".y4m") || str_ends_with(path, ".safetensors");
}

static int choose_preview(generate_targets *t, const generate_request *q, const char *folder, err *e)
{
    const char *text = flags_value(&q->f, "preview"), *suffix = flags_value(&q->f, "preview-suffix");
    char *end = NULL;
    long every = text ? strtol(text, &end, 10) : 0;
    if (!text)
        return suffix ? ERR(e, ERR_ARG, "--preview-suffix belongs to --preview N, which is not given") : 0;
    if (end == text || *end || every < 1 || every > 1000)
        return ERR(e, ERR_ARG, "--preview is '%s': expected a number of steps from 1 to 1000", text);
    if (suffix && strchr(suffix, '/'))
        return ERR(e, ERR_ARG, "--preview-suffix is '%s': it becomes part of a file's name and cannot hold '/'", suffix);
    char *dir = fs_join(folder, "previews");
    t->preview_every = (int)every;
    t->preview = dir ? str_format("%s/latent_preview%s%s", dir, suffix ? "_" : "", suffix ? suffix : "") : NULL;
    int rc = t->preview ? fs_mkdirs(dir, e) : ERR(e, ERR_MEMORY, "out of memory");
    free(dir);
    return rc;
}

int generate_choose_targets(generate_targets *t, const generate_request *q, err *e)
{
    int rc = 0;
    const char *path = flags_value(&q->f, "save-path"), *ending = media_have_ffmpeg() ? "mp4" : "y4m";
    if (!path)
        path = flags_value(&q->f, "output");
    bool file = path && generate_is_file_name(path);
    char *folder = NULL, *base = NULL;
    *t = (generate_targets){ 0 };
    if (!path)      /* to standard output only */
        return 0;
    if (file) {
        char *dot = NULL;
        folder = str_dup(path);
        base = str_dup(path);
        if (!folder || !base)
            goto memory;
        dot = strrchr(base, '.');
        *dot = '\0';
        char *slash = strrchr(folder, '/');
        if (slash && slash != folder)
            *slash = '\0';
        else {
            free(folder);
            folder = str_dup(slash ? "/" : ".");
        }
        if (!str_ends_with(path, ".safetensors"))
            ending = path + strlen(path) - 3;
    } else {
        char stamp[32] = "video";
        time_t now = time(NULL);
        struct tm local;
        if (localtime_r(&now, &local))
            strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &local);
        folder = str_dup(path);
        char *leaf = q->number ? str_format("%s_%03d_%" PRId64, stamp, q->number, q->seed) : str_format("%s_%" PRId64, stamp, q->seed);
        base = leaf ? fs_join(path, leaf) : NULL;
        free(leaf);
    }
    if (!folder || !base)
        goto memory;
    if (q->video && !(t->video = str_format("%s.%s", base, ending)))
        goto memory;
    if (q->latent && !(t->latent = str_format("%s%s.safetensors", base, q->video || !file ? "_latent" : "")))
        goto memory;
    if (q->images && (!(t->images = str_dup(base)) || !(t->images_part = str_format("%s.part", base))))
        goto memory;
    if (t->video && str_ends_with(t->video, ".mp4") && !media_have_ffmpeg()) {      /* known now, not after the work */
        rc = ERR(e, ERR_ARG, "%s: this build has no FFmpeg, so MP4 cannot be written: use a name ending in .y4m, or install FFmpeg's libraries (make "
                 "setup) and build again", t->video);
        goto out;
    }
    TRY(refuse_existing(t->video, e));
    TRY(refuse_existing(t->latent, e));
    TRY(refuse_existing(t->images, e));
    TRY(fs_mkdirs(folder, e));
    TRY(choose_preview(t, q, folder, e));
out:
    free(folder);
    free(base);
    if (rc)
        generate_targets_release(t);
    return rc;
memory:
    rc = ERR(e, ERR_MEMORY, "out of memory");
    goto out;
}
