/* Typed values: from YAML or text into a field. config_lists.c and config_schedules.c read those that are more than one word,
 * config_print.c writes them. */
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"

void *setting_field(config *c, const setting *s)
{
    return (char *)c + s->offset;
}

/* "video.width is 'abc', expected ..." */
int setting_wrong(const setting *s, const yml_node *v, err *e)
{
    str want = STR_INIT;
    setting_type_text(s, &want);
    int rc;
    if (v->kind == YML_SCALAR)
        rc = ERR(e, ERR_CONFIG, "%s is '%.80s', expected %s", s->key, v->text, str_text(&want));
    else if (v->kind == YML_LIST && (s->type == SETTING_TEXT || s->type == SETTING_PATH))
        rc = ERR(e, ERR_CONFIG, "%s is a list, expected %s; a text that begins with '[' needs quotes", s->key,
                 str_text(&want));
    else
        rc = ERR(e, ERR_CONFIG, "%s is %s, expected %s", s->key, yml_kind_name(v), str_text(&want));
    str_release(&want);
    return rc;
}

static bool is_auto(const setting *s, const yml_node *v)
{
    return (s->flags & MAY_BE_AUTO) && v->kind == YML_SCALAR && !strcmp(v->text, "auto");
}

static int put_int(int64_t *field, const setting *s, const yml_node *v, err *e)
{
    int64_t x;
    if (is_auto(s, v)) {
        *field = CONFIG_AUTO;
        return 0;
    }
    if (!yml_int(v, &x) || (double)x < s->min || (double)x > s->max)
        return setting_wrong(s, v, e);
    if (s->multiple && x % s->multiple != s->rest) {
        int64_t below = (x - s->rest) / s->multiple * s->multiple + s->rest, above = below + s->multiple;
        if (x < s->rest)
            below = above = s->rest;
        str want = STR_INIT;
        setting_type_text(s, &want);
        int rc = below < (int64_t)s->min || above > (int64_t)s->max || below == above
                     ? ERR(e, ERR_CONFIG, "%s is %lld, expected %s; the nearest is %lld", s->key, (long long)x,
                           str_text(&want),
                           (long long)(below < (int64_t)s->min ? above : below))
                     : ERR(e, ERR_CONFIG, "%s is %lld, expected %s; the nearest are %lld and %lld", s->key,
                           (long long)x,
                           str_text(&want), (long long)below, (long long)above);
        str_release(&want);
        return rc;
    }
    *field = x;
    return 0;
}

static int put_double(double *field, const setting *s, const yml_node *v, err *e)
{
    double x;
    if (is_auto(s, v)) {
        *field = CONFIG_AUTO;
        return 0;
    }
    if (!yml_double(v, &x) || !(x >= s->min && x <= s->max))
        return setting_wrong(s, v, e);
    *field = x == 0 ? 0 : x;   /* no negative zero */
    return 0;
}

/* Other spellings in use for the same values. */
static const char *canonical(const char *text)
{
    static const char *const SYNONYMS[][2] = {
        { "float32", "f32" }, { "fp32", "f32" }, { "float16", "f16" }, { "fp16", "f16" }, { "half", "f16" },
        { "bfloat16", "bf16" }, { "euler", "diffsynth_euler" }, { "dpm++", "dpmpp" }, { "torch_cpu", "torch-cpu" },
        { "torch_cuda", "torch-cuda" },
    };
    for (size_t i = 0; i < sizeof SYNONYMS / sizeof *SYNONYMS; i++)
        if (!strcmp(text, SYNONYMS[i][0]))
            return SYNONYMS[i][1];
    return text;
}

static int put_enum(int *field, const setting *s, const yml_node *v, err *e)
{
    if (v->kind != YML_SCALAR)
        return setting_wrong(s, v, e);
    if (is_auto(s, v)) {
        *field = CONFIG_AUTO;
        return 0;
    }
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; s->names[i]; i++)
            if (!strcmp(s->names[i], pass ? canonical(v->text) : v->text)) {
                *field = i;
                return 0;
            }
    size_t n = 0;
    while (s->names[n])
        n++;
    const char *near = str_nearest(v->text, s->names, n);
    str want = STR_INIT;
    setting_type_text(s, &want);
    int rc = ERR(e, ERR_CONFIG, "%s is '%.80s', expected %s%s%s%s", s->key, v->text, str_text(&want),
                 near ? "; did you mean '" : "",
                 near ? near : "", near ? "'?" : "");
    str_release(&want);
    return rc;
}

static int put_text(char **field, const setting *s, const yml_node *v, err *e)
{
    if (v->kind != YML_SCALAR)
        return setting_wrong(s, v, e);
    if (s->type == SETTING_DEVICE) {
        const char *n = v->text + 5;
        bool known = !strcmp(v->text, "auto") || !strcmp(v->text, "cpu") || !strcmp(v->text, "cuda");
        bool numbered = !strncmp(v->text, "cuda:", 5) && *n && strspn(n, "0123456789") == strlen(n) && strlen(n) <= 3;
        if (!known && !numbered)
            return setting_wrong(s, v, e);
    }
    char *copy = str_dup(v->text);
    if (!copy)
        return ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    free(*field);
    *field = copy;
    return 0;
}

static int put_bytes(int64_t *field, const setting *s, const yml_node *v, err *e)
{
    static const struct { const char *suffix; double factor; } UNITS[] = {
        { "", 1 }, { "B", 1 }, { "K", 1024.0 }, { "KiB", 1024.0 }, { "kB", 1e3 }, { "KB", 1e3 }, { "M", 1048576.0 },
        { "MiB", 1048576.0 }, { "MB", 1e6 }, { "G", 1073741824.0 }, { "GiB", 1073741824.0 }, { "GB", 1e9 },
        { "T", 1099511627776.0 }, { "TiB", 1099511627776.0 }, { "TB", 1e12 },
    };
    if (v->kind != YML_SCALAR || v->text[0] < '0' || v->text[0] > '9')
        return setting_wrong(s, v, e);
    size_t digits = strspn(v->text, "0123456789.");
    char number[32], *end;
    if (digits >= sizeof number)
        return setting_wrong(s, v, e);
    memcpy(number, v->text, digits);
    number[digits] = 0;
    double x = strtod(number, &end);
    const char *unit = v->text + digits;
    while (*unit == ' ')
        unit++;
    for (size_t i = 0; !*end && i < sizeof UNITS / sizeof *UNITS; i++)
        if (!strcmp(unit, UNITS[i].suffix) && x * UNITS[i].factor <= s->max && x * UNITS[i].factor >= s->min) {
            *field = (int64_t)(x * UNITS[i].factor);
            return 0;
        }
    return setting_wrong(s, v, e);
}

int setting_put(config *c, const setting *s, const yml_node *v, err *e)
{
    void *field = setting_field(c, s);
    switch (s->type) {
    case SETTING_INT: return put_int(field, s, v, e);
    case SETTING_DOUBLE: return put_double(field, s, v, e);
    case SETTING_BOOL: return yml_bool(v, field) ? 0 : setting_wrong(s, v, e);
    case SETTING_ENUM: return put_enum(field, s, v, e);
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_DEVICE: return put_text(field, s, v, e);
    case SETTING_BYTES: return put_bytes(field, s, v, e);
    case SETTING_RANGES:
    case SETTING_HEADS: return setting_put_ranges(field, s, v, e);
    case SETTING_WORDS:
    case SETTING_PATHS: return setting_put_words(field, s, v, e);
    case SETTING_LORAS: return setting_put_loras(field, s, v, e);
    case SETTING_NUMBERS: return setting_put_numbers(field, s, v, e);
    case SETTING_TEXTS: return setting_put_texts(field, s, v, e);
    case SETTING_FRAMES: return setting_put_frames(field, s, v, e);
    case SETTING_GUIDANCE:
    case SETTING_PROMPTS: return setting_put_schedule(field, s, v, e);
    case SETTING_TIMELINE: return setting_put_timeline(field, s, v, e);
    case SETTING_SHAPE: return setting_check_shape(s, v, e);
    }
    return ERR(e, ERR_INTERNAL, "setting %s has no type", s->key);
}

int setting_put_text(config *c, const setting *s, const char *text, err *e)
{
    bool yaml = s->type == SETTING_TEXTS || (s->type == SETTING_FRAMES && text[0] == '[') || s->type == SETTING_NUMBERS ||
                ((s->type == SETTING_PATHS || s->type == SETTING_LORAS) && text[0] == '[') || (s->type == SETTING_LORAS && text[0] == '{') ||
                s->type == SETTING_GUIDANCE || s->type == SETTING_PROMPTS || s->type == SETTING_TIMELINE || s->type == SETTING_SHAPE ||
                ((s->type == SETTING_WORDS || s->type == SETTING_RANGES || s->type == SETTING_HEADS) && text[0] == '[');
    yml_node plain = { .kind = YML_SCALAR, .line = 1, .column = 1, .text = (char *)text, .plain = true };
    if (!yaml)
        return setting_put(c, s, &plain, e);
    if (!strcmp(text, "[]") || !strcmp(text, "{}")) {   /* the defaults, also in a build without libyaml */
        yml_node empty = { .kind = text[0] == '[' ? YML_LIST : YML_MAP, .line = 1, .column = 1 };
        return setting_put(c, s, &empty, e);
    }
    yml_doc *d;
    int rc = yml_parse(&d, text, strlen(text), s->key, e);
    if (rc)
        return rc;
    rc = setting_put(c, s, d->root ? d->root : &plain, e);
    yml_free(d);
    return rc;
}

void setting_release(config *c, const setting *s)
{
    void *field = setting_field(c, s);
    switch (s->type) {
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_DEVICE:
        free(*(char **)field);
        *(char **)field = NULL;
        break;
    case SETTING_RANGES:
    case SETTING_HEADS:
        int_ranges_release(field);
        break;
    case SETTING_LORAS:
        lora_list_release(field);
        break;
    case SETTING_NUMBERS:
        free(((number_list *)field)->items);
        *(number_list *)field = (number_list){ 0 };
        break;
    case SETTING_WORDS:
    case SETTING_TEXTS:
    case SETTING_PATHS:
        string_list_release(field);
        break;
    case SETTING_FRAMES:
        frame_list_release(field);
        break;
    case SETTING_GUIDANCE:
        guidance_schedule_release(field);
        break;
    case SETTING_PROMPTS:
    case SETTING_TIMELINE:
        prompt_schedule_release(field);
        break;
    default:
        break;
    }
}
