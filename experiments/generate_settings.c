/* From the options of wanscope generate to a configuration. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/base/log.h"
#include "core/dit/shots.h"
#include "experiments/from_video.h"
#include "experiments/generate_internal.h"
#include "experiments/yaml_reader.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

static char *escaped(const char *text)
{
    str out = STR_INIT;
    for (; *text; text++) {
        if (strchr("[]()|:=\\", *text))
            str_addc(&out, '\\');
        str_addc(&out, *text);
    }
    if (!out.data)
        return str_dup("");
    return str_take(&out);
}

int generate_choose_seed(generate_request *q, err *e)
{
    const char *text = flags_value(&q->f, "seed");
    char *end = NULL;
    errno = 0;
    long long given = text ? strtoll(text, &end, 10) : q->recorded ? json_get_int(q->recorded, "seed", -1) : -1;
    if (text && (errno || end == text || *end || given < -1 || given > INT64_C(9007199254740992)))
        return ERR(e, ERR_ARG, "--seed is '%s': expected a whole number from 0 to 9007199254740992, or -1 for a random one", text);
    q->seed = given;
    if (given < 0) {
        uint32_t drawn = (uint32_t)time(NULL);
        if (getrandom(&drawn, sizeof drawn, GRND_NONBLOCK) != sizeof drawn)
            log_msg(LOG_DEBUG, "the seed comes from the clock");
        q->seed = drawn;
    }
    return 0;
}

static const char *solver_of(const generate_request *q)
{
    const char *name = flags_value(&q->f, "sample-solver");
    if (!name)
        name = flags_value(&q->f, "solver");
    if (!name)
        return "auto";
    if (strcmp(name, "dpm++") == 0)
        return "dpmpp";
    if (strcmp(name, "flowmatch") == 0 || strcmp(name, "holocine") == 0)
        return "diffsynth_euler";
    return name;
}

static const char *length_of(const generate_request *q)
{
    static const char *const names[] = { "video-length", "frames", "num-frames" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (flags_given(&q->f, names[i]))
            return flags_value(&q->f, names[i]);
    return NULL;
}

int generate_check_choices(generate_request *q, err *e)
{
    static const char *const tasks[] = { "t2v-1.3B", "t2v-14B", "t2v-A14B", "longlive-1.3B" };
    const char *task = flags_value(&q->f, "task"), *type = flags_value(&q->f, "output-type"), *prompt = flags_value(&q->f, "prompt");
    bool known = !task;
    for (size_t i = 0; task && i < sizeof tasks / sizeof *tasks; i++)
        known |= strcmp(task, tasks[i]) == 0;
    if (!known)
        return ERR(e, ERR_ARG, "--task is '%s': this build makes videos from text with t2v-1.3B, t2v-14B, t2v-A14B and longlive-1.3B", task);
    q->structured = flags_given(&q->f, "global-caption") || flags_given(&q->f, "shot-captions");
    if (q->structured && prompt)
        return ERR(e, ERR_ARG, "--prompt and --%s are given: a multi-shot prompt is either one text with its marks or captions, not both",
                   flags_given(&q->f, "global-caption") ? "global-caption" : "shot-captions");
    if (q->structured && !flags_given(&q->f, "shot-captions"))
        return ERR(e, ERR_ARG, "--global-caption requires --shot-captions: give one caption a shot");
    if (q->structured && !flags_given(&q->f, "global-caption"))
        return ERR(e, ERR_ARG, "--shot-captions requires --global-caption: say what all shots have in common");
    if (q->structured && !length_of(q) && !flags_given(&q->f, "from-video"))
        return ERR(e, ERR_ARG, "--video-length required for structured multi-shot input: the cuts are spaced in it");
    if (!prompt && !q->structured && !flags_given(&q->f, "from-video"))
        return ERR(e, ERR_ARG, "no prompt: give --prompt 'what is to be seen', or --global-caption and --shot-captions");
    if (prompt && !prompt[strspn(prompt, " \t\n")])
        return ERR(e, ERR_ARG, "the prompt is empty: give --prompt 'what is to be seen'");
    static const char *const others[] = { "euler", "vanilla", "step_distill" };      /* H1111's own schedules */
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(solver_of(q), others[i]) == 0)
            return ERR(e, ERR_ARG, "--sample-solver %s: this build has unipc, dpm++, flowmatch, diffusers_unipc and diffusers_euler (Euler steps "
                       "on the noise levels of diffusers)", others[i]);
    if (!flags_given(&q->f, "ckpt-dir") && !flags_given(&q->f, "model") && !flags_given(&q->f, "dit") && !flags_given(&q->f, "dit-high-noise"))
        return ERR(e, ERR_ARG, "no model: give --ckpt-dir with a checkpoint's folder, or --dit, --t5, --vae and --tokenizer");
    if (flags_given(&q->f, "dit-high-noise") != flags_given(&q->f, "dit-low-noise"))
        return ERR(e, ERR_ARG, "--dit-high-noise and --dit-low-noise are the two experts of one model: give both, or --dit for a model with one");
    const char *pipe = flags_value(&q->f, "stdout");
    if (pipe && strcmp(pipe, "y4m"))
        return ERR(e, ERR_ARG, "--stdout is '%s': y4m is what can be written there", pipe);
    if (!pipe && !flags_given(&q->f, "save-path") && !flags_given(&q->f, "output"))
        return ERR(e, ERR_ARG, "no place for the video: give --save-path with a folder or a file name ending in .mp4");
    q->video = !type || strcmp(type, "video") == 0 || strcmp(type, "both") == 0;
    q->latent = type && (strcmp(type, "latent") == 0 || strcmp(type, "both") == 0);
    q->images = type && strcmp(type, "images") == 0;
    if (!q->video && !q->latent && !q->images)
        return ERR(e, ERR_ARG, "--output-type is '%s': expected video, images, latent or both", type);
    return 0;
}

static bool add(char **sets, int *n, char *text)
{
    sets[*n] = text;
    *n += text != NULL;
    return text != NULL;
}

/* Repeated flags add up: H1111's own page passes one caption a flag. */
static bool add_captions(const generate_request *q, char **sets, int *n)
{
    str list = STR_INIT;
    char *global = escaped(flags_value(&q->f, "global-caption"));
    bool ok = global && add(sets, n, str_format("shots.global_caption=%s", global));
    str_add(&list, "shots.captions=[");
    for (size_t i = 0, seen = 0; ok && i < q->f.n_items; i++)
        for (int k = 0; ok && strcmp(q->f.items[i].spec->name, "shot-captions") == 0 && k < q->f.items[i].n_list; k++) {
            char *text = escaped(q->f.items[i].list[k]);
            str_add(&list, seen++ ? ", " : "");
            if ((ok = text != NULL))
                yml_quote(&list, text);
            free(text);
        }
    str_addc(&list, ']');
    ok = ok && !list.failed && add(sets, n, str_dup(str_text(&list)));
    str_release(&list);
    free(global);
    return ok;
}

/* "--shot-cut-frames 41 81" or "41,81" -> "shots.cut_frames=[41,81]" */
static bool add_cuts(const generate_request *q, char **sets, int *n)
{
    str list = STR_INIT;
    bool ok = true;
    if (!flags_given(&q->f, "shot-cut-frames"))
        return true;
    str_add(&list, "shots.cut_frames=[");
    for (size_t i = 0, seen = 0; i < q->f.n_items; i++)
        for (int k = 0; strcmp(q->f.items[i].spec->name, "shot-cut-frames") == 0 && k < q->f.items[i].n_list; k++)
            if (strcmp(q->f.items[i].list[k], "none"))
                str_addf(&list, "%s%s", seen++ ? "," : "", q->f.items[i].list[k]);
    str_addc(&list, ']');
    ok = !list.failed && add(sets, n, str_dup(str_text(&list)));
    str_release(&list);
    return ok;
}

/* The scripts of HoloCine round the length of a multi-shot video to 4n+1 and say so. */
static char *frames_set(const generate_request *q, const char *text)
{
    char *end;
    errno = 0;
    long given = strtol(text, &end, 10);
    bool shots = q->structured || flags_given(&q->f, "shot-cut-frames");
    if (!shots || errno || end == text || *end || given < 1 || given > 100000 || shots_enforce((int)given) == given)
        return str_format("video.frames=%s", text);
    log_msg(LOG_INFO, "%ld frames become %d: videos have 4n+1 frames", given, shots_enforce((int)given));
    return str_format("video.frames=%d", shots_enforce((int)given));
}

/* The next value of a list flag, however often the flag is given; NULL behind the last. */
static const char *list_value(const flags *f, const char *name, int at)
{
    for (size_t i = 0; i < f->n_items; i++)
        if (strcmp(f->items[i].spec->name, name) == 0) {
            if (at < f->items[i].n_list)
                return f->items[i].list[at];
            at -= f->items[i].n_list;
        }
    return NULL;
}

static void add_pattern(str *text, const char *key, const char *pattern)
{
    if (!pattern || !*pattern)
        return;
    str_addf(text, ", %s: ", key);
    yml_quote(text, pattern);
}

/* "model.lora=[...]" from the eight flags of H1111; NULL without any. */
static int lora_assignment(char **out, const flags *f, err *e)
{
    static const struct { const char *weight, *multiplier, *expert, *include, *exclude; } KINDS[] = {
        { "lora-weight-high", "lora-multiplier-high", "high", "include-patterns-high", "exclude-patterns-high" },
        { "lora-weight", "lora-multiplier", "low", "include-patterns", "exclude-patterns" },
    };
    str text = STR_INIT;
    int total = 0;
    *out = NULL;
    for (int k = 0; k < 2; k++) {
        int n = 0;
        const char *file, *factor;
        for (; (file = list_value(f, KINDS[k].weight, n)); n++) {
            char *end;
            factor = list_value(f, KINDS[k].multiplier, n);
            double v = factor ? strtod(factor, &end) : 1;
            if (factor && (end == factor || *end || !(v > -1e6 && v < 1e6))) {
                str_release(&text);
                return ERR(e, ERR_ARG, "--%s is '%s': expected a number", KINDS[k].multiplier, factor);
            }
            str_addf(&text, "%s{path: ", total++ ? ", " : "model.lora=[");
            yml_quote(&text, file);
            str_addf(&text, ", multiplier: %.17g, expert: %s", v, KINDS[k].expert);
            add_pattern(&text, "include", list_value(f, KINDS[k].include, n));
            add_pattern(&text, "exclude", list_value(f, KINDS[k].exclude, n));
            str_addc(&text, '}');
        }
        const char *lists[] = { KINDS[k].multiplier, KINDS[k].include, KINDS[k].exclude };
        for (int i = 0; i < 3; i++)
            if (list_value(f, lists[i], n)) {
                str_release(&text);
                return ERR(e, ERR_ARG, "--%s has more values than --%s has files (%d)", lists[i], KINDS[k].weight, n);
            }
    }
    if (!total)
        return 0;
    str_addc(&text, ']');
    *out = str_take(&text);
    return *out ? 0 : ERR(e, ERR_MEMORY, "out of memory for the command line");
}

static int reference_assignment(char **out, const flags *f, err *e)
{
    str text = STR_INIT;
    const char *file;
    *out = NULL;
    for (int n = 0; (file = list_value(f, "ref-image", n)); n++) {
        str_add(&text, n ? ", " : "vace.references=[");
        yml_quote(&text, file);
    }
    if (!text.len && !text.failed)
        return 0;
    str_addc(&text, ']');
    *out = str_take(&text);
    return *out ? 0 : ERR(e, ERR_MEMORY, "out of memory for the command line");
}

int generate_config(generate_request *q, err *e)
{
    int rc = 0, n = 0, n_recorded = 0;
    bool ok = true;
    config_notes notes = { 0 };
    char **sets = NULL, **recorded = NULL;
    if (q->recorded && (rc = from_video_sets(&recorded, &n_recorded, q->recorded, flags_value(&q->f, "from-video"), e)))
        goto out;
    if (!(sets = calloc(q->f.n_items + 16 + (size_t)n_recorded, sizeof *sets))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    char *listed = NULL;
    ok = ok && add(sets, &n, str_dup("video.width=256")) && add(sets, &n, str_dup("video.height=256"));
    for (int i = 0; i < n_recorded; i++) {      /* sets owns them now; later ones win */
        const char *key = q->structured ? "prompt.template=" : "";
        if (*key && str_starts_with(recorded[i], key))
            continue;
        sets[n++] = recorded[i];
        recorded[i] = NULL;
    }
    TRY(lora_assignment(&listed, &q->f, e));
    add(sets, &n, listed);
    TRY(reference_assignment(&listed, &q->f, e));
    add(sets, &n, listed);
    for (size_t i = 0; ok && i < q->f.n_items; i++) {
        const flag_item *item = &q->f.items[i];
        const flag_spec *spec = item->spec;
        if (strcmp(spec->name, "video-size") == 0)
            ok = add(sets, &n, str_format("video.height=%s", item->values[0])) && add(sets, &n, str_format("video.width=%s", item->values[1]));
        else if (spec->key && strcmp(spec->key, "video.frames") == 0)
            ok = add(sets, &n, frames_set(q, item->values[0]));
        else if (spec->key && strcmp(spec->key, "sampling.solver") == 0)
            ok = add(sets, &n, str_format("sampling.solver=%s", solver_of(q)));
        else if (spec->key)
            ok = add(sets, &n, str_format("%s=%s", spec->key, spec->n_values ? item->values[0] : spec->value));
        else if (spec->value)
            log_msg(LOG_INFO, "--%s has no effect here: this program chooses how it computes by itself", spec->name);
    }
    if (q->structured) {
        ok = ok && add_captions(q, sets, &n);
    } else if (flags_given(&q->f, "prompt")) {
        char *text = escaped(flags_value(&q->f, "prompt"));
        ok = ok && text && add(sets, &n, str_format("prompt.template=%s", text));
        free(text);
    }
    ok = ok && add_cuts(q, sets, &n);
    ok = ok && add(sets, &n, str_format("model.seed=%" PRId64, q->seed));
    if (!ok) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the command line");
        goto out;
    }
    if ((rc = config_load(&q->cfg, NULL, (const char *const *)sets, n, &notes, e))) {
        flags_name_option(&q->f, e);
        goto out;
    }
    q->loaded = true;
    if (!(q->prompt_template = str_dup(q->cfg.prompt.template)))
        rc = ERR(e, ERR_MEMORY, "out of memory for the prompt");
    for (int i = 0; i < notes.n; i++)
        log_msg(LOG_INFO, "%s", notes.items[i]);
out:
    config_notes_release(&notes);
    for (int i = 0; i < n; i++)
        free(sets[i]);
    free(sets);
    for (int i = 0; i < n_recorded; i++)
        free(recorded[i]);
    free(recorded);
    return rc;
}
