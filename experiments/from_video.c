#include "experiments/from_video.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/media.h"
#include "core/base/str.h"
#include "experiments/batch.h"
#include "experiments/settings.h"
#include "experiments/yaml_reader.h"

int from_video_read(json **out, const char *path, err *e)
{
    char *text = NULL;
    int rc = 0;
    *out = NULL;
    if (str_ends_with(path, ".png")) {
        rc = media_png_tag(path, "parameters", &text, e);
    } else {
        video_reader *r = NULL;
        rc = video_reader_open(&r, path, e);
        const char *tag = rc ? NULL : video_reader_tag(r, "comment");
        if (tag && !(text = str_dup(tag)))
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for its parameters", path);
        video_reader_close(r);
    }
    if (rc)
        return rc;
    err why = { 0 };
    if (!text || json_parse(out, text, strlen(text), path, &why) || strcmp(json_get_string(*out, "program", ""), "wanscope")) {
        json_free(*out);
        *out = NULL;
        rc = ERR(e, ERR_FORMAT, "%s: %s, so the run cannot be repeated from it; give its settings as options", path,
                 text ? "its parameters are not those of this program" : "it carries no parameters (was it made with --no-metadata, or converted?)");
    }
    free(text);
    return rc;
}

typedef struct {
    char **items;
    int n;
    bool failed;
} list;

static void add(list *l, char *text)
{
    char **more = realloc(l->items, ((size_t)l->n + 1) * sizeof *more);
    if (more)
        l->items = more;
    if (!more || !text) {
        free(text);
        l->failed = true;
        return;
    }
    l->items[l->n++] = text;
}

static void add_texts(list *l, const json *from)
{
    static const char *const KEYS[][2] = {
        { "marked_prompt", "prompt.template" }, { "weighting", "prompt.weighting" }, { "noise", "sampling.noise" }, { "solver", "sampling.solver" },
        { "latent_dtype", "sampling.latent_dtype" }, { "precision", "model.precision" }, { "cfg_skip_mode", "sampling.cfg_skip_mode" },
        { "slg_layers", "sampling.slg_layers" }, { "slg_mode", "sampling.slg_mode" }, { "prompt_interpolation", "schedules.prompt_interpolation" },
        { "draws", "causal.draws" },
    };
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        const char *value = json_get_string(from, KEYS[i][0], NULL);
        if (value && strcmp(value, "few_step"))      /* LongLive's own, and no setting */
            add(l, str_format("%s=%s", KEYS[i][1], value));
    }
    const char *negative = json_get_string(from, "negative_prompt", "");
    add(l, str_format("prompt.negative=%s", negative));
    if (!*negative)
        add(l, str_dup("prompt.negative_default=none"));
}

static void add_numbers(list *l, const json *from)
{
    static const char *const KEYS[][2] = {
        { "width", "video.width" }, { "height", "video.height" }, { "frames", "video.frames" }, { "fps", "video.fps" }, { "steps", "sampling.steps" },
        { "shift", "sampling.shift" }, { "guidance_scale", "sampling.guidance_scale" }, { "guidance_scale_low", "sampling.guidance_scale_low" },
        { "boundary", "sampling.boundary" }, { "cfg_apply_ratio", "sampling.cfg_apply_ratio" },
        { "slg_scale", "sampling.slg_scale" }, { "slg_start", "sampling.slg_start" }, { "slg_end", "sampling.slg_end" },
        { "frames_per_block", "causal.frames_per_block" }, { "window", "causal.window" }, { "sink", "causal.sink" },
        { "context_noise", "causal.context_noise" }, { "lora_alpha", "causal.lora_alpha" }, { "noise_sms", "sampling.noise_sms" }, { "noise_threads_per_sm", "sampling.noise_threads_per_sm" },
    };
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (json_get(from, KEYS[i][0]))
            add(l, str_format("%s=%.17g", KEYS[i][1], json_get_number(from, KEYS[i][0], 0)));
}

static void add_lists(list *l, const json *from)
{
    const json *guidance = json_get(from, "guidance"), *prompts = json_get(from, "prompt_schedule"), *shots = json_get(from, "shots");
    str s = STR_INIT;
    if (guidance) {      /* the value of every step */
        for (size_t i = 0; i < json_count(guidance); i++)
            str_addf(&s, "%s%zu: %.17g", i ? ", " : "", i, json_number(json_at(guidance, i), 0));
        add(l, str_format("schedules.guidance={%s}", str_text(&s)));
        add(l, str_dup("schedules.guidance_interpolation=step"));
    }
    if (prompts) {
        str_clear(&s);
        for (size_t i = 0; i < json_count(prompts); i++) {
            str_addf(&s, "%s%s: ", i ? ", " : "", json_key(prompts, i));
            yml_quote(&s, json_string(json_at(prompts, i), ""));
        }
        add(l, str_format("schedules.prompt={%s}", str_text(&s)));
    }
    if (shots) {
        const json *cuts = json_get(shots, "cut_frames");
        str_clear(&s);
        for (size_t i = 0; i < json_count(cuts); i++)
            str_addf(&s, "%s%.0f", i ? "," : "", json_number(json_at(cuts, i), 0));
        add(l, str_format("shots.cut_frames=[%s]", str_text(&s)));
        add(l, str_format("shots.sparse=%s", json_bool(json_get(shots, "sparse"), false) ? "true" : "false"));
        add(l, str_format("shots.strict=%s", json_bool(json_get(shots, "strict"), true) ? "true" : "false"));
        add(l, str_format("shots.mask_type=%s", json_get_string(shots, "mask_type", "none")));
        add(l, str_format("shots.spans=%s", json_get_string(shots, "spans", "cleaned")));
    }
    l->failed |= s.failed;
    str_release(&s);
}

static void add_computing(list *l, const json *from)
{
    if (json_bool(json_get(from, "fp8_scaled"), false))
        add(l, str_dup("model.fp8_scaled=true"));
    const json *w = json_get(from, "context_windows");
    if (!w)
        return;
    add(l, str_dup("sampling.context_windows=true"));
    add(l, str_format("sampling.context_length=%.17g", json_get_number(w, "length", 81)));
    add(l, str_format("sampling.context_overlap=%.17g", json_get_number(w, "overlap", 30)));
    add(l, str_format("sampling.context_stride=%.17g", json_get_number(w, "stride", 1)));
    add(l, str_format("sampling.context_schedule=%s", json_get_string(w, "schedule", "standard_static")));
    add(l, str_format("sampling.context_closed_loop=%s", json_bool(json_get(w, "closed_loop"), false) ? "true" : "false"));
    add(l, str_format("sampling.context_fuse_method=%s", json_get_string(w, "fuse_method", "pyramid")));
}

static void add_causal(list *l, const json *from)
{
    static const char *const KEYS[] = { "global_sink", "warp", "hard_cut" };
    const json *steps = json_get(from, "block_timesteps");
    str s = STR_INIT;
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++)
        if (json_get(from, KEYS[i]))
            add(l, str_format("causal.%s=%s", KEYS[i], json_bool(json_get(from, KEYS[i]), false) ? "true" : "false"));
    for (size_t i = 0; i < json_count(steps); i++)
        str_addf(&s, "%s%.0f", i ? "," : "", json_number(json_at(steps, i), 0));
    if (steps)
        add(l, str_format("causal.timesteps=%s", str_text(&s)));
    l->failed |= s.failed;
    str_release(&s);
}

static void add_vace(list *l, const json *vace)
{
    static const char *const TEXTS[] = { "control", "control_type", "mask", "depth_normalise" };
    const json *references = json_get(vace, "references"), *scale = json_get(vace, "scale"), *blocks = json_get(vace, "scale_by_block");
    str s = STR_INIT;
    if (!vace)
        return;
    for (size_t i = 0; i < sizeof TEXTS / sizeof *TEXTS; i++)
        if (json_get(vace, TEXTS[i]))
            add(l, str_format("vace.%s=%s", TEXTS[i], json_get_string(vace, TEXTS[i], "")));
    if (json_get(vace, "depth_smooth")) {
        add(l, str_format("vace.depth_smooth=%.0f", json_get_number(vace, "depth_smooth", 0)));
        add(l, str_format("vace.depth_invert=%s", json_bool(json_get(vace, "depth_invert"), false) ? "true" : "false"));
    }
    for (size_t i = 0; i < json_count(references); i++) {
        str_add(&s, i ? ", " : "");
        yml_quote(&s, json_string(json_at(references, i), ""));
    }
    add(l, str_format("vace.references=[%s]", str_text(&s)));
    str_clear(&s);
    for (size_t i = 0; i < json_count(scale); i++)      /* the value of every step */
        str_addf(&s, "%s%zu: %.17g", i ? ", " : "", i, json_number(json_at(scale, i), 0));
    add(l, json_count(scale) ? str_format("vace.scale_by_step={%s}", str_text(&s)) : str_format("vace.scale=%.17g", json_number(scale, 1)));
    str_clear(&s);
    for (size_t i = 0; i < json_count(blocks); i++)
        str_addf(&s, "%s%.17g", i ? ", " : "", json_number(json_at(blocks, i), 0));
    add(l, str_format("vace.scale_by_block=[%s]", str_text(&s)));
    l->failed |= s.failed;
    str_release(&s);
}

int from_video_sets(char ***sets, int *n, const json *parameters, const char *path, err *e)
{
    list l = { 0 };
    add_texts(&l, parameters);
    add_numbers(&l, parameters);
    add_lists(&l, parameters);
    add_computing(&l, parameters);
    add_causal(&l, parameters);
    add_vace(&l, json_get(parameters, "vace"));
    *sets = l.items;
    *n = l.n;
    return l.failed ? ERR(e, ERR_MEMORY, "%s: out of memory for its parameters", path) : 0;
}

static bool same(const json *a, const json *b)
{
    bool equal = json_type(a) == json_type(b) && json_count(a) == json_count(b) && json_number(a, 0) == json_number(b, 0) &&
                 strcmp(json_string(a, ""), json_string(b, "")) == 0;
    for (size_t i = 0; equal && i < json_count(a); i++)
        equal = same(json_at(a, i), json_at(b, i));
    return equal;
}

void from_video_compare(const json *parameters, const engine_info *info, const char *path)
{
    const struct { const char *key, *name, *now; } parts[] = {
        { "dit", "diffusion model", info->dit_digest }, { "dit_low", "low-noise expert", info->dit_low_digest }, { "t5", "text encoder", info->t5_digest },
        { "vae", "VAE", info->vae_digest }, { "vace", "VACE part", info->vace_digest },
        { "adapter", "adapter of LongLive", info->lora_digest },
    };
    static const char *const LISTS[][2] = { { "lora", "adapters are" }, { "conditions", "references, control video or mask are" } };
    str text = STR_INIT;
    json *now = NULL;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(json_get_string(json_get(parameters, "checkpoints"), parts[i].key, ""), parts[i].now))
            log_msg(LOG_WARN, "the %s is not the one that made %s: the video will be another", parts[i].name, path);
    batch_checkpoints_json(&text, info);
    if (json_parse(&now, str_text(&text), text.len, path, NULL) == 0)
        for (size_t i = 0; i < sizeof LISTS / sizeof *LISTS; i++)
            if (!same(json_get(json_get(parameters, "checkpoints"), LISTS[i][0]), json_get(now, LISTS[i][0])))
                log_msg(LOG_WARN, "the %s not what made %s: the video will be another", LISTS[i][1], path);
    json_free(now);
    str_release(&text);
}
