/* Section `shots`: from captions and cuts as people write them to one prompt template and cuts of the form 4n+1. */
#include <stdlib.h>
#include <string.h>

#include "core/dit/shots.h"
#include "experiments/config_internal.h"
#include "experiments/shot_text.h"
#include "experiments/template.h"

enum { CHECKED_VARIATIONS = 256 };      /* of a template, before the checkpoint is opened; every run checks its own text again */

static bool blank(const char *text)
{
    return !text[strspn(text, " \t\n\r\v\f")];
}

static int take_cuts(config *c, const int *cuts, int n, err *why)
{
    int64_t *items = malloc(((size_t)n + 1) * sizeof *items);
    if (!items)
        return ERR(why, ERR_MEMORY, "out of memory for %d cuts", n);
    for (int i = 0; i < n; i++)
        items[i] = cuts[i];
    free(c->shots.cut_frames.items);
    c->shots.cut_frames = (frame_list){ true, n, items };
    return 0;
}

/* Range and order of the cuts as given. */
static int check_range(const config *c, err *why)
{
    const frame_list *f = &c->shots.cut_frames;
    for (int i = 0; i < f->n; i++)
        if (f->items[i] <= 0 || f->items[i] >= c->video.frames)
            return ERR(why, ERR_CONFIG, "Shot cut frame %lld out of range [1, %lld]: a cut is the first frame of a shot, and the video has %lld frames, numbered "
                       "from 0", (long long)f->items[i], (long long)c->video.frames - 1, (long long)c->video.frames);
    for (int i = 1; i < f->n; i++)
        if (f->items[i] < f->items[i - 1])
            return ERR(why, ERR_CONFIG, "Shot cut frames must be in ascending order: %lld comes behind %lld", (long long)f->items[i],
                       (long long)f->items[i - 1]);
    return 0;
}

/* Cuts fall on frames 4n+1, where a latent frame begins. */
static int round_cuts(config *c, str *note, err *why)
{
    frame_list *f = &c->shots.cut_frames;
    for (int i = 0; i < f->n; i++) {
        int64_t given = f->items[i];
        f->items[i] = shots_enforce((int)given);
        if (f->items[i] >= c->video.frames)
            return ERR(why, ERR_CONFIG, "the cut at frame %lld falls on frame %lld (cuts are at 4n+1), where the video of %lld frames has ended; the last cut that is "
                       "possible is %lld", (long long)given, (long long)f->items[i], (long long)c->video.frames, (long long)c->video.frames - 4);
        if (i && f->items[i] == f->items[i - 1])
            return ERR(why, ERR_CONFIG, "the cuts %d and %d both fall on frame %lld (cuts are at 4n+1): every shot needs four frames of its own", i, i + 1,
                       (long long)f->items[i]);
        if (given != f->items[i])
            str_addf(note, "%s%lld -> %lld", note->len ? ", " : "", (long long)given, (long long)f->items[i]);
    }
    return 0;
}

static int check_captions(const config *c, const char **key, err *why)
{
    const string_list *captions = &c->shots.captions;
    static const char *const MARKS[] = { "[global caption]", "[per shot caption]", "[shot cut]" };
    *key = "shots.captions";
    if (blank(c->shots.global_caption))
        return ERR(why, ERR_CONFIG, "global_caption required when shot_captions is provided: set shots.global_caption to what all shots have in common");
    if (!captions->n) {
        *key = "shots.global_caption";
        return ERR(why, ERR_CONFIG, "shot_captions required when global_caption is provided: set shots.captions to a list with one caption a shot");
    }
    for (int i = -1; i < captions->n; i++) {
        const char *text = i < 0 ? c->shots.global_caption : captions->items[i];
        *key = i < 0 ? "shots.global_caption" : "shots.captions";
        if (blank(text))
            return ERR(why, ERR_CONFIG, "the caption of shot %d is empty: give every shot a caption, or remove it", i + 1);
        for (size_t k = 0; k < sizeof MARKS / sizeof *MARKS; k++)
            if (strstr(text, MARKS[k]))
                return ERR(why, ERR_CONFIG, "a caption holds the mark %s, which is put between the captions by itself: remove it, or write the whole prompt into "
                           "prompt.template", MARKS[k]);
    }
    *key = "shots.cut_frames";
    if (c->shots.cut_frames.n && c->shots.cut_frames.n != captions->n - 1)
        return ERR(why, ERR_CONFIG, "Expected %d shot cuts for %d shots, got %d: shots.cut_frames names the first frame of each shot but the first",
                   captions->n - 1, captions->n, c->shots.cut_frames.n);
    return 0;
}

static int join(config *c, const char **key, str *note, err *why)
{
    shot_script s;
    int n = c->shots.captions.n, n_cuts = c->shots.cut_frames.n;
    int rc = check_captions(c, key, why);
    rc = rc ? rc : check_range(c, why);
    rc = rc ? rc : round_cuts(c, note, why);
    int *cuts = rc ? NULL : calloc((size_t)n_cuts + 1, sizeof *cuts);
    if (rc)
        return rc;
    for (int i = 0; cuts && i < n_cuts; i++)
        cuts[i] = (int)c->shots.cut_frames.items[i];
    rc = cuts ? shots_structured(&s, c->shots.global_caption, (const char *const *)c->shots.captions.items, n, (int)c->video.frames, cuts, n_cuts, why)
              : ERR(why, ERR_MEMORY, "out of memory for %d cuts", n_cuts);
    free(cuts);
    if (rc)
        return rc;
    if (s.n_cuts != n - 1)
        rc = ERR(why, ERR_CONFIG, "%d shots do not fit into a video of %lld frames: every shot needs four frames of its own", n, (long long)c->video.frames);
    else
        rc = take_cuts(c, s.cuts, s.n_cuts, why);
    if (!rc) {
        free(c->prompt.template);
        c->prompt.template = s.prompt;
        s.prompt = NULL;
    }
    shot_script_release(&s);
    return rc;
}

int config_shots_join(config *c, int from_captions, int from_template, const char **key, str *note, err *why)
{
    int rc = 0;
    bool structured = c->shots.captions.n > 0 || c->shots.global_caption[0];
    *key = "shots.cut_frames";
    if (structured && c->prompt.template[0] && from_template == from_captions) {
        *key = "prompt.template";
        return ERR(why, ERR_CONFIG, "prompt.template and shots.captions are both given; keep one of the two: the captions of the scene and its shots, or the whole "
                   "prompt with its marks");
    }
    if (structured && from_template <= from_captions) {
        rc = join(c, key, note, why);
    } else {
        rc = check_range(c, why);
        rc = rc ? rc : round_cuts(c, note, why);
    }
    if (rc)
        return rc;
    setting_release(c, setting_find("shots.captions"));
    c->shots.global_caption[0] = '\0';
    return 0;
}

static int check_text(const char *clean, const config *c, err *why)
{
    return shot_text_check(clean, c->shots.cut_frames.n, why);
}

int config_shots_check(const config *c, const char **key, err *why)
{
    int rc = 0, n_scheduled = c->schedules.prompt.n;
    if (!c->shots.cut_frames.given || !c->shots.strict)
        return 0;
    *key = "schedules.prompt_interpolation";
    if (n_scheduled > 1 && c->schedules.prompt_interpolation != PROMPT_STEP)
        return ERR(why, ERR_CONFIG, "between two prompts there are no captions that shots could see: with shots.cut_frames set schedules.prompt_interpolation to step");
    for (int i = -1; i < n_scheduled && !rc; i++) {
        prompt_template *t = NULL;
        const char *text = i < 0 ? c->prompt.template : c->schedules.prompt.texts[i];
        *key = i < 0 ? "prompt.template" : "schedules.prompt";
        if (i < 0 && (n_scheduled || !text[0]))
            continue;
        rc = template_parse(&t, text, strlen(text), *key, why);
        for (uint64_t k = 0; !rc && k < template_count(t) && k < CHECKED_VARIATIONS; k++) {
            str clean = STR_INIT;
            err e = { 0 };
            rc = template_clean_text(t, k, &clean, why);
            if (!rc && (rc = check_text(str_text(&clean), c, &e)))
                rc = template_count(t) > 1 ? ERR(why, rc, "variation %llu: %s", (unsigned long long)k, e.text) : ERR(why, rc, "%s", e.text);
            str_release(&clean);
        }
        template_free(t);
    }
    return rc;
}
