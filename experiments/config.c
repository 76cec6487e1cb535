/* Loading: defaults, file, --set, then what concerns more than one setting. */
#include "experiments/config.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/sample/windows.h"
#include "experiments/config_internal.h"
#include "experiments/template_internal.h"
#include "experiments/timeline.h"

typedef enum { FROM_DEFAULT, FROM_FILE, FROM_SET } source;

typedef struct origin {
    source from;
    int line, column;        /* FROM_FILE */
    const char *set;         /* FROM_SET: the assignment */
} origin;

typedef struct loader {
    config *c;
    const char *name;        /* of the file, for messages */
    origin *origins;         /* by index in SETTINGS */
    bool guidance_off, prompts_off, unweighted;   /* switches of old configs */
    config_notes *notes;
    err *e;
} loader;

/* ---- messages ---- */

static int note(loader *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int note(loader *l, const char *fmt, ...)
{
    char text[1024];
    if (!l->notes)
        return 0;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (int i = 0; i < l->notes->n; i++)
        if (!strcmp(l->notes->items[i], text))
            return 0;
    char **more = realloc(l->notes->items, ((size_t)l->notes->n + 1) * sizeof *more);
    if (more)
        l->notes->items = more;
    char *copy = str_dup(text);
    if (!more || !copy) {
        free(copy);
        return ERR(l->e, ERR_MEMORY, "%s: out of memory while reading settings", l->name);
    }
    more[l->notes->n++] = copy;
    return 0;
}

void config_notes_release(config_notes *notes)
{
    for (int i = 0; i < notes->n; i++)
        free(notes->items[i]);
    free(notes->items);
    *notes = (config_notes){ 0 };
}

static origin *origin_of(loader *l, const char *key)
{
    return &l->origins[setting_find(key) - SETTINGS];
}

/* "file:line:column" or "--set a.b=c" of a setting; free() it. */
static char *where(const loader *l, const origin *o)
{
    if (o->from == FROM_SET)
        return str_format("--set %s", o->set);
    if (o->from == FROM_FILE)
        return str_format("%s:%d:%d", l->name, o->line, o->column);
    return str_dup(l->name);
}

/* An error that belongs to a setting. */
static int fail(loader *l, const char *key, int kind, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

static int fail(loader *l, const char *key, int kind, const char *fmt, ...)
{
    char what[1800];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    char *place = where(l, origin_of(l, key));
    ERR(l->e, kind, "%s: %s", place ? place : l->name, what);
    free(place);
    return kind;
}

/* ---- one value ---- */

static int put_value(loader *l, const setting *s, const yml_node *v, const yml_node *key)
{
    origin *o = &l->origins[s - SETTINGS];
    err why = { 0 };
    if (o->from == FROM_FILE)
        return ERR(l->e, ERR_CONFIG, "%s:%d:%d: %s is already given at line %d, perhaps under its other name; keep "
                                     "one of the two",
                   l->name, key->line, key->column, s->key, o->line);
    if (yml_is_null(v))
        return 0;   /* "frames: null" asks for the default */
    int rc = setting_put(l->c, s, v, &why);
    if (rc)
        return ERR(l->e, rc, "%s:%d:%d: %s", l->name, v->line, v->column, why.text);
    *o = (origin){ FROM_FILE, v->line, v->column, NULL };
    return 0;
}

static int put_old(loader *l, const old_key *o, const yml_node *v, const yml_node *key)
{
    bool on = false;
    if (o->kind == OLD_DEAD)
        return note(l, "%s:%d: '%s' is ignored: %s", l->name, key->line, o->old, o->note);
    const setting *s = setting_find(o->key);
    if (o->kind == OLD_SAME)
        return put_value(l, s, v, key);
    if (yml_is_null(v))
        return 0;
    if (!yml_bool(v, &on))
        return ERR(l->e, ERR_CONFIG, "%s:%d:%d: %s is %s%.60s%s, expected true or false", l->name, v->line, v->column,
                   o->old, v->kind == YML_SCALAR ? "'" : "", v->kind == YML_SCALAR ? v->text : yml_kind_name(v),
                   v->kind == YML_SCALAR ? "'" : "");
    if (o->kind == OLD_WEIGHTED) {
        l->unweighted = !on;
    } else if (o->kind == OLD_SCHEDULE) {
        *(s->type == SETTING_GUIDANCE ? &l->guidance_off : &l->prompts_off) = !on;
    } else if (o->kind == OLD_OFFLOAD) {
        if (on)
            l->c->memory.offload = OFFLOAD_ALL;
    } else {
        const char *text = o->kind == OLD_PER_HEAD ? (on ? "all" : "mean") : on ? s->fallback : "0";
        int rc = setting_put_text(l->c, s, text, l->e);
        if (rc)
            return rc;
        l->origins[s - SETTINGS] = (origin){ FROM_FILE, v->line, v->column, NULL };
    }
    return 0;
}

/* Keys of a mapping below `prefix` ("" at the top). */
static int walk(loader *l, const yml_node *map, const char *prefix)
{
    int rc = 0;
    for (int i = 0; i < map->n && !rc; i++) {
        const yml_node *key = map->keys[i], *value = map->items[i];
        char *full = prefix[0] ? str_format("%s.%s", prefix, key->text) : str_dup(key->text);
        if (!full)
            return ERR(l->e, ERR_MEMORY, "%s: out of memory while reading settings", l->name);
        const setting *s = setting_find(full);
        const old_key *old = old_key_find(full);
        if (s) {
            rc = put_value(l, s, value, key);
        } else if (old) {
            rc = put_old(l, old, value, key);
        } else if (is_section(full)) {
            if (value->kind == YML_MAP)
                rc = walk(l, value, full);
            else if (!yml_is_null(value))
                rc = ERR(l->e, ERR_CONFIG, "%s:%d:%d: the section '%.80s' is %s, expected a mapping of settings",
                         l->name,
                         value->line, value->column, full, yml_kind_name(value));
        } else {
            const char *near = nearest_key(full);
            rc = ERR(l->e, ERR_CONFIG, "%s:%d:%d: unknown key '%.120s'%s%s%s; docs/config.md lists all keys", l->name,
                     key->line,
                     key->column, full, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
        free(full);
    }
    return rc;
}

/* "section.key=value" */
static int put_set(loader *l, const char *assignment)
{
    const char *equals = strchr(assignment, '=');
    err why = { 0 };
    if (!equals || equals == assignment)
        return ERR(l->e, ERR_ARG, "--set %s: expected section.key=value, for example --set model.seed=7", assignment);
    char *key = str_dupn(assignment, (size_t)(equals - assignment));
    if (!key)
        return ERR(l->e, ERR_MEMORY, "out of memory for --set");
    const setting *s = setting_find(key);
    const old_key *old = s ? NULL : old_key_find(key);
    int rc = 0;
    if (old && old->kind == OLD_SAME)
        s = setting_find(old->key);
    if (s) {
        if ((rc = setting_put_text(l->c, s, equals + 1, &why)))
            ERR(l->e, rc, "--set %s: %s", assignment, why.text);
        else
            l->origins[s - SETTINGS] = (origin){ FROM_SET, 0, 0, assignment };
    } else if (old) {
        rc = ERR(l->e, ERR_CONFIG, "--set %s: '%s' is a key of old configs; %s%s", assignment, key,
                 old->key ? "set " : old->note,
                 old->key ? old->key : "");
    } else {
        const char *near = nearest_key(key);
        rc = ERR(l->e, ERR_CONFIG, "--set %s: unknown key '%.120s'%s%s%s; docs/config.md lists all keys", assignment,
                 key,
                 near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    }
    free(key);
    return rc;
}

/* Text of --set comes from a shell: it must be UTF-8 like a file's. */
static int check_set_text(loader *l, const char *assignment)
{
    size_t len = strlen(assignment), fault = template_utf8_fault(assignment, len);
    if (fault == len)
        return 0;
    return ERR(l->e, ERR_ARG, "--set %.*s: byte %zu (0x%02x) is not valid UTF-8; check the terminal's encoding",
               (int)(fault < 80 ? fault : 80), assignment, fault, (unsigned)(unsigned char)assignment[fault]);
}

/* ---- what concerns more than one setting ---- */

static int resolve_one(loader *l, const setting *s, char **field)
{
    const char *slash = strrchr(l->name, '/');
    if (l->origins[s - SETTINGS].from != FROM_FILE || !**field || **field == '/' || !slash || fs_exists(*field))
        return 0;
    char *folder = str_dupn(l->name, (size_t)(slash - l->name) + (slash == l->name));
    char *beside = folder ? fs_join(folder, *field) : NULL;
    free(folder);
    if (!beside)
        return ERR(l->e, ERR_MEMORY, "out of memory for a path");
    if (fs_exists(beside)) {
        free(*field);
        *field = beside;
    } else {
        free(beside);
    }
    return 0;
}

static int resolve_path(loader *l, const setting *s)
{
    int rc = 0;
    void *field = setting_field(l->c, s);
    if (s->type == SETTING_PATH)
        return resolve_one(l, s, field);
    for (int i = 0; s->type == SETTING_PATHS && i < ((string_list *)field)->n && !rc; i++)
        rc = resolve_one(l, s, &((string_list *)field)->items[i]);
    for (int i = 0; s->type == SETTING_LORAS && i < ((lora_list *)field)->n && !rc; i++)
        rc = resolve_one(l, s, &((lora_list *)field)->items[i].path);
    return rc;
}

static int finish_video(loader *l)
{
    config *c = l->c;
    origin *frames = origin_of(l, "video.frames"), *duration = origin_of(l, "video.duration");
    if (c->video.duration != CONFIG_AUTO && frames->from >= duration->from && frames->from != FROM_DEFAULT) {
        int rc = note(l, "%s: video.duration is ignored, since video.frames is given (%lld)", l->name,
                      (long long)c->video.frames);
        if (rc)
            return rc;
    } else if (c->video.duration != CONFIG_AUTO) {
        if (c->video.fps == CONFIG_AUTO)
            c->video.fps = 16;
        double exact = c->video.duration * c->video.fps;
        int64_t k = exact < 1 ? 0 : (int64_t)floor((exact - 1) / 4 + 0.5);
        if (4 * k + 1 > 100001)
            return fail(l, "video.duration", ERR_CONFIG, "video.duration %g s at %g frames a second is %.0f frames; "
                                                         "at most 100001 "
                        "are possible", c->video.duration, c->video.fps, exact);
        c->video.frames = 4 * k + 1;
        int rc = note(l, "%s: %g s at %g frames a second: %lld frames (4k+1)", l->name, c->video.duration, c->video.fps,
                      (long long)c->video.frames);
        if (rc)
            return rc;
    }
    c->video.duration = CONFIG_AUTO;
    if (c->causal.blocks != CONFIG_AUTO && origin_of(l, "causal.blocks")->from >= frames->from) {
        int64_t n = 4 * c->causal.blocks * c->causal.frames_per_block - 3;
        if (n > 100001)
            return fail(l, "causal.blocks", ERR_CONFIG, "causal.blocks %lld of %lld latent frames are %lld video frames; at most 100001 are possible",
                        (long long)c->causal.blocks, (long long)c->causal.frames_per_block, (long long)n);
        c->video.frames = n;
    } else if (c->causal.blocks != CONFIG_AUTO) {
        int rc = note(l, "%s: causal.blocks is ignored, since video.frames is given (%lld)", l->name, (long long)c->video.frames);
        if (rc)
            return rc;
    }
    c->causal.blocks = CONFIG_AUTO;
    source crf = origin_of(l, "video.crf")->from, quality = origin_of(l, "video.quality")->from;
    if (c->video.quality != CONFIG_AUTO && crf == quality)
        return fail(l, "video.quality", ERR_CONFIG, "video.quality and video.crf are both given; keep one of the two");
    if (c->video.quality != CONFIG_AUTO && quality > crf)
        c->video.crf = (int64_t)(51 * (1 - c->video.quality / 10));   /* imageio's rule, wan-engine.md 9 */
    c->video.quality = CONFIG_AUTO;
    return 0;
}

/* Prompts must parse now, not after the checkpoint is loaded. */
static int check_prompt(loader *l, const char *key, const char *what, const char *text, bool single, uint64_t *count)
{
    char *place = where(l, origin_of(l, key));
    char *name = place ? str_format("%s: %s", place, what) : NULL;
    prompt_template *t = NULL;
    int rc = name ? template_parse(&t, text, strlen(text), name, l->e) : ERR(l->e, ERR_MEMORY,
                                                                             "out of memory for a prompt");
    if (!rc && single && template_count(t) != 1)
        rc = ERR(l->e, ERR_CONFIG, "%s has %llu variations, expected one prompt; write '\\[' and '\\|' for plain ones",
                 name,
                 (unsigned long long)template_count(t));
    if (!rc && count)
        *count = template_count(t);
    template_free(t);
    free(name);
    free(place);
    return rc;
}

static int finish_shots(loader *l)
{
    source captions = origin_of(l, "shots.captions")->from, global = origin_of(l, "shots.global_caption")->from;
    const char *key = "shots.captions";
    str rounded = STR_INIT;
    bool structured = l->c->shots.captions.n > 0 && origin_of(l, "prompt.template")->from < (captions > global ? captions : global);
    err why = { 0 };
    int rc = config_shots_join(l->c, captions > global ? captions : global, origin_of(l, "prompt.template")->from, &key, &rounded, &why);
    if (rc)
        rc = fail(l, key, rc, "%s", why.text);
    else if (rounded.len)
        rc = note(l, "%s: cuts fall on frames of the form 4n+1: %s", l->name, str_text(&rounded));
    str_release(&rounded);
    if (!rc && structured)
        *origin_of(l, "prompt.template") = *origin_of(l, captions > global ? "shots.captions" : "shots.global_caption");
    return rc;
}

static int check_shots(loader *l)
{
    const char *key = "prompt.template";
    err why = { 0 };
    int rc = config_shots_check(l->c, &key, &why);
    return rc ? fail(l, key, rc, "%s", why.text) : 0;
}

static int finish_prompt(loader *l)
{
    config *c = l->c;
    source template = origin_of(l, "prompt.template")->from, file = origin_of(l, "prompt.template_file")->from;
    uint64_t count = UINT64_MAX;
    int rc = 0;
    bool has_file = c->prompt.template_file[0] && file >= template;
    if (has_file && c->prompt.template[0] && file == template)
        return fail(l, "prompt.template_file", ERR_CONFIG, "prompt.template and prompt.template_file are both given; "
                                                           "keep one of the two");
    if (has_file) {
        char *text;
        size_t len;
        err why = { 0 };
        if ((rc = template_read_file(&text, &len, c->prompt.template_file, &why)))
            return fail(l, "prompt.template_file", rc, "prompt.template_file: %s", why.text);
        if (strlen(text) != len) {
            free(text);
            return fail(l, "prompt.template_file", ERR_CONFIG, "prompt.template_file: %s holds NUL characters; save "
                                                               "it as UTF-8 text",
                        c->prompt.template_file);
        }
        free(c->prompt.template);
        c->prompt.template = text;
        *origin_of(l, "prompt.template") = *origin_of(l, "prompt.template_file");
    }
    c->prompt.template_file[0] = 0;
    source listed = origin_of(l, "prompt.timeline")->from;
    if (c->prompt.timeline.n && c->prompt.template[0] && listed == origin_of(l, "prompt.template")->from)
        return fail(l, "prompt.timeline", ERR_CONFIG, "prompts and prompt.template are both given; keep one of the two");
    if (c->prompt.timeline.n && listed > origin_of(l, "prompt.template")->from) {
        str joined = STR_INIT;
        timeline_join(&joined, &c->prompt.timeline);
        if (joined.failed) {
            str_release(&joined);
            return ERR(l->e, ERR_MEMORY, "out of memory for the prompts");
        }
        free(c->prompt.template);
        c->prompt.template = str_take(&joined);
        *origin_of(l, "prompt.template") = *origin_of(l, "prompt.timeline");
    }
    prompt_schedule_release(&c->prompt.timeline);
    if ((rc = finish_shots(l)))
        return rc;
    if (c->prompt.template[0] && (rc = check_prompt(l, "prompt.template", "prompt.template", c->prompt.template, false,
                                                    &count)))
        return rc;
    if (int_ranges_last(&c->batch.variations) >= 0 && (uint64_t)int_ranges_last(&c->batch.variations) >= count)
        return fail(l, "batch.variations", ERR_CONFIG, "batch.variations asks for variation %lld, but the template "
                                                       "has %llu, "
                    "numbered from 0", (long long)int_ranges_last(&c->batch.variations), (unsigned long long)count);
    if (l->guidance_off && origin_of(l, "schedules.guidance")->from != FROM_SET)
        guidance_schedule_release(&c->schedules.guidance);
    if (l->prompts_off && origin_of(l, "schedules.prompt")->from != FROM_SET)
        prompt_schedule_release(&c->schedules.prompt);
    for (int i = 0; i < c->schedules.prompt.n && !rc; i++) {
        char what[64];
        snprintf(what, sizeof what, "schedules.prompt, step %lld", (long long)c->schedules.prompt.steps[i]);
        rc = check_prompt(l, "schedules.prompt", what, c->schedules.prompt.texts[i], true, NULL);
    }
    if (l->unweighted && origin_of(l, "prompt.weighting")->from != FROM_SET)
        c->prompt.weighting = WEIGHTING_NONE;
    return rc;
}

/* Steps that a capture asks for but that will not happen. Needs a known number of steps. */
static int check_steps(const config *c, char *what, size_t size)
{
    int64_t last = int_ranges_last(&c->attention.steps);
    if (c->sampling.steps == CONFIG_AUTO || !c->attention.enabled || last < c->sampling.steps)
        return 0;
    snprintf(what, size, "capture.attention.steps asks for step %lld, but there are %lld steps, numbered from 0",
             (long long)last,
             (long long)c->sampling.steps);
    return ERR_CONFIG;
}

static int finish(loader *l)
{
    config *c = l->c;
    char what[256];
    int rc = 0;
    for (int i = 0; i < N_SETTINGS && !rc; i++)
        rc = resolve_path(l, &SETTINGS[i]);
    if (rc || (rc = finish_video(l)) || (rc = finish_prompt(l)) || (rc = check_shots(l)))
        return rc;
    if (c->bending.enabled || c->bending.variations_enabled)
        return fail(l, c->bending.enabled ? "bending.enabled" : "bending.variations.enabled", ERR_CONFIG,
                    "attention bending is not available in this version of wanscope; set %s to false",
                    c->bending.enabled ? "bending.enabled" : "bending.variations.enabled");
    if (!c->model.path[0] && !c->model.dit[0])
        return fail(l, "model.path", ERR_CONFIG, "no checkpoint is given; set model.path to a checkpoint folder or "
                                                 "file, for example "
                    "experiments/shapes/checkpoint");
    if (!c->output.dir[0])
        return fail(l, "output.dir", ERR_CONFIG, "output.dir is empty; name the folder that batches are made in, for "
                                                 "example outputs");
    if (strchr(c->batch.name, '/') || !strcmp(c->batch.name, ".") || !strcmp(c->batch.name, ".."))
        return fail(l, "batch.name", ERR_CONFIG, "batch.name is '%.80s', expected the name of a folder, without '/'; "
                                                 "output.dir says "
                    "where it is made", c->batch.name);
    if ((rc = check_steps(c, what, sizeof what)))
        return fail(l, "capture.attention.steps", rc, "%s", what);
    return 0;
}

/* ---- the whole ---- */

static int load(config *c, const yml_doc *doc, const char *name, const char *const *sets, int n_sets,
                config_notes *notes, err *e)
{
    loader l = { .c = c, .name = name, .notes = notes, .e = e };
    int rc = 0;
    memset(c, 0, sizeof *c);
    l.origins = calloc((size_t)N_SETTINGS, sizeof *l.origins);
    if (!l.origins)
        return ERR(e, ERR_MEMORY, "out of memory for the settings");
    for (int i = 0; i < N_SETTINGS && !rc; i++)
        rc = setting_put_text(c, &SETTINGS[i], SETTINGS[i].fallback, e);
    if (!rc && doc && doc->root && !yml_is_null(doc->root)) {
        if (doc->root->kind == YML_MAP)
            rc = walk(&l, doc->root, "");
        else
            rc = ERR(e, ERR_CONFIG, "%s:%d:%d: the file is %s, expected sections like 'model:' with settings below",
                     name,
                     doc->root->line, doc->root->column, yml_kind_name(doc->root));
    }
    for (int i = 0; i < n_sets && !rc; i++) {
        rc = check_set_text(&l, sets[i]);
        rc = rc ? rc : put_set(&l, sets[i]);
    }
    rc = rc ? rc : finish(&l);
    free(l.origins);
    if (rc)
        config_release(c);
    return rc;
}

int config_parse(config *c, const char *text, size_t len, const char *name, const char *const *sets, int n_sets,
                 config_notes *notes, err *e)
{
    yml_doc *doc;
    memset(c, 0, sizeof *c);
    int rc = yml_parse(&doc, text, len, name, e);
    if (rc)
        return rc;
    rc = load(c, doc, name, sets, n_sets, notes, e);
    yml_free(doc);
    return rc;
}

int config_load(config *c, const char *path, const char *const *sets, int n_sets, config_notes *notes, err *e)
{
    yml_doc *doc = NULL;
    memset(c, 0, sizeof *c);
    int rc = path ? yml_read_file(&doc, path, e) : 0;
    if (rc)
        return rc;
    rc = load(c, doc, path ? path : "settings", sets, n_sets, notes, e);
    yml_free(doc);
    return rc;
}

void config_release(config *c)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (SETTINGS[i].type != SETTING_SHAPE)
            setting_release(c, &SETTINGS[i]);
    memset(c, 0, sizeof *c);
}

/* LongLive: four steps, no guidance (longlive-vace.md 2.3); and what only it can do. */
static int resolve_causal(config *c, const char *family, err *e)
{
    size_t at;
    if (strcmp(family, "longlive")) {
        if (timeline_marked(c->prompt.template, &at))
            return ERR(e, ERR_CONFIG, "the prompt has a switch ('%.20s...'), which only a causal model (LongLive) can follow, and this is %s; write \\[at N\\] "
                       "if the text is meant", c->prompt.template + at, family);
        return 0;
    }
    if (c->schedules.guidance.n || c->schedules.prompt.n)
        return ERR(e, ERR_CONFIG, "schedules.%s: LongLive makes a block in a few unguided steps and follows no schedule by step; prompts change by "
                   "latent frame, with prompts: [{at: 0, text: ...}, {at: 21, text: ...}]", c->schedules.guidance.n ? "guidance" : "prompt");
    const struct { bool given; const char *key, *why; } others[] = {
        { c->shots.cut_frames.given, "shots.cut_frames", "it knows no shots; prompts change by latent frame, with prompts: [{at: 0, text: ...}, {at: 21, text: ...}]" },
        { int_ranges_last(&c->sampling.slg_layers) >= 0 || c->sampling.slg_layers.all, "sampling.slg_layers", "it takes no guidance" },
        { c->sampling.cfg_skip != CFG_SKIP_NONE, "sampling.cfg_skip_mode", "it takes no guidance" },
        { c->sampling.context_windows, "sampling.context_windows", "it has a window of its own (causal.window)" },
        { c->sampling.latent_dtype != LATENT_F32, "sampling.latent_dtype", "bf16 are the roundings of another pipeline" },
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].given)
            return ERR(e, ERR_CONFIG, "%s is set, but the model is LongLive: %s; leave it out", others[i].key, others[i].why);
    double given[2] = { c->sampling.guidance_scale, c->sampling.guidance_scale_low };
    for (int i = 0; i < 2; i++)
        if (given[i] != CONFIG_AUTO && given[i] != 1)
            return ERR(e, ERR_CONFIG, "sampling.guidance_scale%s is %g: LongLive takes no guidance, since it was distilled with it; leave it on auto or set it "
                       "to 1", i ? "_low" : "", given[i]);
    c->sampling.guidance_scale = c->sampling.guidance_scale_low = 1;
    int n = c->causal.timesteps.n;
    if (c->sampling.steps == CONFIG_AUTO)
        c->sampling.steps = n ? n : 4;
    if (n && n != c->sampling.steps)
        return ERR(e, ERR_CONFIG, "causal.timesteps has %d entries, sampling.steps is %lld; leave sampling.steps on auto", n, (long long)c->sampling.steps);
    return 0;
}

static int check_windows(const config *c, err *e)
{
    int length = windows_latents((int)c->sampling.context_length), overlap = windows_overlap_latents((int)c->sampling.context_overlap);
    if (!c->sampling.context_windows)
        return 0;
    if (overlap >= length && c->sampling.context_schedule != WINDOWS_BATCHED)
        return ERR(e, ERR_CONFIG, "sampling.context_overlap is %lld frames (%d of latent time) and sampling.context_length %lld (%d): a window must be longer than "
                   "what it shares with the next", (long long)c->sampling.context_overlap, overlap, (long long)c->sampling.context_length, length);
    if (c->attention.enabled && (c->video.frames - 1) / 4 + 1 > length)
        return ERR(e, ERR_CONFIG, "capture.attention.enabled and sampling.context_windows exclude each other for a video of %lld frames: attention is "
                   "computed window by window, and there is no map of the whole; switch one of the two off", (long long)c->video.frames);
    return 0;
}

/* wan-engine.md 1.1 (steps, shift, scales, boundary), harness.md 2.1 (shift of the diffusers pipelines by size) */
int config_resolve(config *c, const char *family, err *e)
{
    int rc = resolve_causal(c, family, e);
    if (rc)
        return rc;
    bool experts = !strcmp(family, "wan2.2-a14b"), vace = !strcmp(family, "vace"), holocine = !strcmp(family, "holocine");
    if (c->sampling.solver == CONFIG_AUTO)
        c->sampling.solver = holocine ? SOLVER_DIFFSYNTH_EULER : SOLVER_UNIPC;
    if (c->video.fps == CONFIG_AUTO)
        c->video.fps = holocine ? 15 : 16;
    bool diffusers = c->sampling.solver == SOLVER_DIFFUSERS_UNIPC || c->sampling.solver == SOLVER_DIFFUSERS_EULER;
    int64_t longer = c->video.width > c->video.height ? c->video.width : c->video.height;
    char what[256];
    if (c->sampling.steps == CONFIG_AUTO)
        c->sampling.steps = experts ? 40 : 50;
    if (c->sampling.shift == CONFIG_AUTO)
        c->sampling.shift = experts ? 12 : vace ? 16 : diffusers && longer < 720 ? 3 : 5;
    if (c->sampling.guidance_scale_low == CONFIG_AUTO)
        c->sampling.guidance_scale_low =
            c->sampling.guidance_scale != CONFIG_AUTO ? c->sampling.guidance_scale : experts ? 3 : 5;
    if (c->sampling.guidance_scale == CONFIG_AUTO)
        c->sampling.guidance_scale = experts ? 4 : 5;
    if (c->sampling.boundary == CONFIG_AUTO)
        c->sampling.boundary = 0.875;
    if (check_steps(c, what, sizeof what))
        return ERR(e, ERR_CONFIG, "%s", what);
    return check_windows(c, e);
}

/* Wan2.1/wan/configs/shared_config.py:19, the same in Wan2.2; used whenever the negative prompt is empty */
const char CONFIG_WAN_NEGATIVE[] =
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

const char *config_negative_prompt(const config *c)
{
    bool official = !c->prompt.negative[0] && c->prompt.negative_default == NEGATIVE_WAN;
    return official ? CONFIG_WAN_NEGATIVE : c->prompt.negative;
}
