/* Typed values: from YAML or text into a field, and back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"

void *setting_field(config *c, const setting *s)
{
    return (char *)c + s->offset;
}

void print_double(str *out, double v)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    str_add(out, text);
}

void setting_type_text(const setting *s, str *out)
{
    switch (s->type) {
    case SETTING_INT:
    case SETTING_DOUBLE:
        str_add(out, s->type == SETTING_INT ? "a whole number" : "a number");
        if (s->type == SETTING_INT)
            str_addf(out, " from %lld to %lld", (long long)s->min, (long long)s->max);
        else
            str_addf(out, " from %.15g to %.15g", s->min, s->max);
        if (s->multiple && s->rest)
            str_addf(out, " of the form %dk+%d", s->multiple, s->rest);
        else if (s->multiple)
            str_addf(out, ", a multiple of %d", s->multiple);
        break;
    case SETTING_BOOL:
        str_add(out, "true or false");
        break;
    case SETTING_ENUM:
        for (int i = 0; s->names[i]; i++)
            str_addf(out, "%s%s", i == 0 ? "" : s->names[i + 1] ? ", " : " or ", s->names[i]);
        break;
    case SETTING_TEXT: str_add(out, "a text"); break;
    case SETTING_PATH: str_add(out, "a path"); break;
    case SETTING_DEVICE: str_add(out, "auto, cpu, cuda or cuda:N"); break;
    case SETTING_BYTES: str_add(out, "a number of bytes like 0, 512MiB or 16GB"); break;
    case SETTING_RANGES: str_add(out, "all, numbers and ranges like 0-10,15, or a list"); break;
    case SETTING_HEADS: str_add(out, "mean, all, numbers and ranges like 0-3,7, or a list"); break;
    case SETTING_WORDS: str_add(out, "a list of words"); break;
    case SETTING_TEXTS: str_add(out, "a list of texts"); break;
    case SETTING_FRAMES: str_add(out, "auto, or a list of frames like [41, 81]"); break;
    case SETTING_GUIDANCE: str_add(out, "a mapping of steps to numbers"); break;
    case SETTING_PROMPTS: str_add(out, "a mapping of steps to prompts"); break;
    case SETTING_PATHS: str_add(out, "a list of paths"); break;
    case SETTING_LORAS: str_add(out, "a list of paths like FILE:0.8@high, or of mappings with path, multiplier, expert"); break;
    case SETTING_NUMBERS: str_addf(out, "a list of numbers from %.15g to %.15g", s->min, s->max); break;
    case SETTING_TIMELINE: str_add(out, "a list of {at: latent frame, text: prompt}"); break;
    case SETTING_SHAPE: str_add(out, "a list of mappings"); break;
    }
    if (s->flags & MAY_BE_AUTO)
        str_add(out, ", or auto");
}

/* "video.width is 'abc', expected ..." */
static int wrong(const setting *s, const yml_node *v, err *e)
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
        return wrong(s, v, e);
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
        return wrong(s, v, e);
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
        return wrong(s, v, e);
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
        return wrong(s, v, e);
    if (s->type == SETTING_DEVICE) {
        const char *n = v->text + 5;
        bool known = !strcmp(v->text, "auto") || !strcmp(v->text, "cpu") || !strcmp(v->text, "cuda");
        bool numbered = !strncmp(v->text, "cuda:", 5) && *n && strspn(n, "0123456789") == strlen(n) && strlen(n) <= 3;
        if (!known && !numbered)
            return wrong(s, v, e);
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
        return wrong(s, v, e);
    size_t digits = strspn(v->text, "0123456789.");
    char number[32], *end;
    if (digits >= sizeof number)
        return wrong(s, v, e);
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
    return wrong(s, v, e);
}

static int put_ranges(int_ranges *field, const setting *s, const yml_node *v, err *e)
{
    int_ranges r = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind == YML_MAP)
        return wrong(s, v, e);
    if (v->kind == YML_SCALAR && s->type == SETTING_HEADS && !strcmp(v->text, "mean")) {
        r.mean = true;
    } else if (v->kind == YML_SCALAR) {
        rc = int_ranges_parse(&r, v->text, &why);
    } else {
        for (int i = 0; i < v->n && !rc; i++) {
            int_ranges one = { 0 };
            if (v->items[i]->kind != YML_SCALAR) {
                rc = wrong(s, v->items[i], e);
                int_ranges_release(&r);
                return rc;
            }
            rc = int_ranges_parse(&one, v->items[i]->text, &why);
            if (!rc && one.all)
                rc = ERR(&why, ERR_CONFIG, "a list with 'all' in it, expected 'all' alone or numbers and ranges");
            for (int k = 0; k < one.n && !rc; k++)
                rc = int_ranges_add(&r, one.items[k].first, one.items[k].last, &why);
            int_ranges_release(&one);
        }
    }
    if (!rc && s->type == SETTING_HEADS && !r.mean && !r.all && r.n == 0)
        rc = ERR(&why, ERR_CONFIG, "empty, expected mean, all, or numbers and ranges like 0-3,7");
    if (rc) {
        int_ranges_release(&r);
        return ERR(e, rc, "%s is %s", s->key, why.text);
    }
    int_ranges_release(field);
    *field = r;
    return 0;
}

static int words_add(string_list *w, const char *text, size_t n)
{
    char **more = realloc(w->items, ((size_t)w->n + 1) * sizeof *more);
    if (!more)
        return ERR_MEMORY;
    w->items = more;
    w->items[w->n] = str_dupn(text, n);
    return w->items[w->n] ? (w->n++, 0) : ERR_MEMORY;
}

static void words_release(string_list *w)
{
    for (int i = 0; i < w->n; i++)
        free(w->items[i]);
    free(w->items);
    *w = (string_list){ 0 };
}

static int put_texts(string_list *field, const setting *s, const yml_node *v, err *e)
{
    string_list w = { 0 };
    int rc = 0;
    if (v->kind != YML_LIST)
        return wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        if (v->items[i]->kind != YML_SCALAR)
            rc = ERR(e, ERR_CONFIG, "entry %d of %s (line %d) is %s, expected a text; a text that begins with '[' needs quotes", i + 1, s->key, v->items[i]->line,
                     yml_kind_name(v->items[i]));
        else if (words_add(&w, v->items[i]->text, strlen(v->items[i]->text)))
            rc = ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    }
    if (rc) {
        words_release(&w);
        return rc;
    }
    words_release(field);
    *field = w;
    return 0;
}

static void frames_release(frame_list *f)
{
    free(f->items);
    *f = (frame_list){ 0 };
}

static int put_frames(frame_list *field, const setting *s, const yml_node *v, err *e)
{
    frame_list f = { .given = true };
    if (v->kind == YML_SCALAR && !strcmp(v->text, "auto")) {
        frames_release(field);
        return 0;
    }
    if (v->kind != YML_LIST)
        return wrong(s, v, e);
    if (!(f.items = malloc(((size_t)v->n + 1) * sizeof *f.items)))
        return ERR(e, ERR_MEMORY, "out of memory for %s", s->key);
    for (int i = 0; i < v->n; i++) {
        int64_t x;
        if (v->items[i]->kind != YML_SCALAR || !yml_int(v->items[i], &x) || x < -1000000 || x > 1000000) {
            frames_release(&f);
            return ERR(e, ERR_CONFIG, "entry %d of %s is '%.60s', expected the number of a frame", i + 1, s->key,
                       v->items[i]->kind == YML_SCALAR ? v->items[i]->text : yml_kind_name(v->items[i]));
        }
        f.items[f.n++] = x;
    }
    frames_release(field);
    *field = f;
    return 0;
}

/* A list, or words with commas between. */
static int put_words(string_list *field, const setting *s, const yml_node *v, err *e)
{
    string_list w = { 0 };
    int rc = 0;
    if (v->kind == YML_MAP)
        return wrong(s, v, e);
    for (int i = 0; v->kind == YML_LIST && i < v->n && !rc; i++) {
        const yml_node *x = v->items[i];
        if (x->kind != YML_SCALAR || !x->text[0])
            rc = ERR(e, ERR_CONFIG, "%s holds %s, expected %s", s->key,
                     x->kind == YML_SCALAR ? "an empty word" : yml_kind_name(x), s->type == SETTING_PATHS ? "paths" : "words");
        else
            rc = words_add(&w, x->text, strlen(x->text));
    }
    for (const char *t = v->kind == YML_SCALAR ? v->text : ""; *t && !rc;) {
        size_t n = strcspn(t, ","), b = 0, f = n;
        while (b < f && t[b] == ' ')
            b++;
        while (f > b && t[f - 1] == ' ')
            f--;
        rc = b == f ? ERR(e, ERR_CONFIG, "%s is '%.80s', expected words with single commas between", s->key, v->text)
                    : words_add(&w, t + b, f - b);
        t += n + (t[n] == ',');
    }
    if (rc) {
        words_release(&w);
        return rc == ERR_MEMORY ? ERR(e, ERR_MEMORY, "out of memory for %s", s->key) : rc;
    }
    words_release(field);
    *field = w;
    return 0;
}

static int put_schedule(void *field, const setting *s, const yml_node *v, err *e)
{
    guidance_schedule g = { 0 };
    prompt_schedule p = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind != YML_MAP)
        return wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        const yml_node *key = v->keys[i], *value = v->items[i];
        int64_t step;
        double x = 0;
        if (!yml_int(key, &step) || step < 0 || step > 100000)
            rc = ERR(&why, ERR_CONFIG, "'%.60s' at line %d is no step, expected a whole number from 0", key->text,
                     key->line);
        else if (s->type == SETTING_GUIDANCE && !yml_double(value, &x))
            rc = ERR(&why, ERR_CONFIG, "step %lld has %s, expected a finite number", (long long)step,
                     yml_kind_name(value));
        else if (s->type == SETTING_GUIDANCE)
            rc = guidance_schedule_add(&g, step, x == 0 ? 0 : x, &why);
        else if (value->kind != YML_SCALAR || value->text[strspn(value->text, " \t\n")] == 0)
            rc = ERR(&why, ERR_CONFIG, "step %lld has %s, expected a prompt%s", (long long)step,
                     value->kind == YML_SCALAR ? "an empty text" : yml_kind_name(value),
                     value->kind == YML_LIST ? "; a text that begins with '[' needs quotes" : "");
        else
            rc = prompt_schedule_add(&p, step, value->text, &why);
    }
    if (rc) {
        guidance_schedule_release(&g);
        prompt_schedule_release(&p);
        return ERR(e, rc, "%s: %s", s->key, why.text);
    }
    if (s->type == SETTING_GUIDANCE) {
        guidance_schedule_release(field);
        *(guidance_schedule *)field = g;
    } else {
        prompt_schedule_release(field);
        *(prompt_schedule *)field = p;
    }
    return 0;
}

/* [{at: 0, text: ...}, {at: 21, text: ...}] */
static int put_timeline(prompt_schedule *field, const setting *s, const yml_node *v, err *e)
{
    prompt_schedule p = { 0 };
    err why = { 0 };
    int rc = 0;
    if (v->kind != YML_LIST)
        return wrong(s, v, e);
    for (int i = 0; i < v->n && !rc; i++) {
        const yml_node *m = v->items[i], *text = NULL, *at = NULL;
        int64_t frame = 0;
        for (int k = 0; m->kind == YML_MAP && k < m->n && !rc; k++) {
            if (!strcmp(m->keys[k]->text, "at"))
                at = m->items[k];
            else if (!strcmp(m->keys[k]->text, "text"))
                text = m->items[k];
            else
                rc = ERR(&why, ERR_CONFIG, "entry %d has an unknown key '%.60s' (line %d), expected at and text", i, m->keys[k]->text, m->keys[k]->line);
        }
        if (rc)
            break;
        if (m->kind != YML_MAP || !at || !text)
            rc = ERR(&why, ERR_CONFIG, "entry %d (line %d) is %s, expected {at: latent frame, text: prompt}", i, m->line,
                     m->kind != YML_MAP ? yml_kind_name(m) : !at ? "without 'at'" : "without 'text'");
        else if (!yml_int(at, &frame) || frame < 0 || frame > 100000)
            rc = ERR(&why, ERR_CONFIG, "entry %d begins at '%.60s', expected a latent frame, a whole number from 0", i, at->kind == YML_SCALAR ? at->text : "");
        else if (text->kind != YML_SCALAR || text->text[strspn(text->text, " \t\n")] == 0)
            rc = ERR(&why, ERR_CONFIG, "entry %d has %s, expected a prompt%s", i, text->kind == YML_SCALAR ? "an empty text" : yml_kind_name(text),
                     text->kind == YML_LIST ? "; a text that begins with '[' needs quotes" : "");
        else if (i == 0 && frame != 0)
            rc = ERR(&why, ERR_CONFIG, "the first prompt begins at latent frame %lld, expected 0", (long long)frame);
        else if (i && frame <= p.steps[p.n - 1])
            rc = ERR(&why, ERR_CONFIG, "entry %d begins at latent frame %lld, expected one after %lld, where the prompt before it begins", i, (long long)frame,
                     (long long)p.steps[p.n - 1]);
        else
            rc = prompt_schedule_add(&p, frame, text->text, &why);
    }
    if (rc) {
        prompt_schedule_release(&p);
        return ERR(e, rc, "%s: %s", s->key, why.text);
    }
    prompt_schedule_release(field);
    *field = p;
    return 0;
}

static int check_shape(const setting *s, const yml_node *v, err *e)
{
    size_t n = 0;
    while (s->names[n])
        n++;
    if (v->kind != YML_LIST)
        return wrong(s, v, e);
    for (int i = 0; i < v->n; i++) {
        const yml_node *m = v->items[i];
        if (m->kind != YML_MAP)
            return ERR(e, ERR_CONFIG, "entry %d of %s (line %d) is %s, expected a mapping", i, s->key, m->line,
                       yml_kind_name(m));
        for (int k = 0; k < m->n; k++) {
            size_t f = 0;
            while (f < n && strcmp(s->names[f], m->keys[k]->text))
                f++;
            if (f < n)
                continue;
            const char *near = str_nearest(m->keys[k]->text, s->names, n);
            return ERR(e, ERR_CONFIG, "entry %d of %s has an unknown key '%.60s' (line %d)%s%s%s", i, s->key,
                       m->keys[k]->text,
                       m->keys[k]->line, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
        }
    }
    return 0;
}

int setting_put(config *c, const setting *s, const yml_node *v, err *e)
{
    void *field = setting_field(c, s);
    switch (s->type) {
    case SETTING_INT: return put_int(field, s, v, e);
    case SETTING_DOUBLE: return put_double(field, s, v, e);
    case SETTING_BOOL: return yml_bool(v, field) ? 0 : wrong(s, v, e);
    case SETTING_ENUM: return put_enum(field, s, v, e);
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_DEVICE: return put_text(field, s, v, e);
    case SETTING_BYTES: return put_bytes(field, s, v, e);
    case SETTING_RANGES:
    case SETTING_HEADS: return put_ranges(field, s, v, e);
    case SETTING_WORDS:
    case SETTING_PATHS: return put_words(field, s, v, e);
    case SETTING_LORAS: return setting_put_loras(field, s, v, e);
    case SETTING_NUMBERS: return setting_put_numbers(field, s, v, e);
    case SETTING_TEXTS: return put_texts(field, s, v, e);
    case SETTING_FRAMES: return put_frames(field, s, v, e);
    case SETTING_GUIDANCE:
    case SETTING_PROMPTS: return put_schedule(field, s, v, e);
    case SETTING_TIMELINE: return put_timeline(field, s, v, e);
    case SETTING_SHAPE: return check_shape(s, v, e);
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

void setting_print(const config *c, const setting *s, str *out)
{
    const void *field = (const char *)c + s->offset;
    switch (s->type) {
    case SETTING_INT:
    case SETTING_BYTES: {
        int64_t x = *(const int64_t *)field;
        if ((s->flags & MAY_BE_AUTO) && x == CONFIG_AUTO)
            str_add(out, "auto");
        else
            str_addf(out, "%lld", (long long)x);
        break;
    }
    case SETTING_DOUBLE: {
        double x = *(const double *)field;
        if ((s->flags & MAY_BE_AUTO) && x == CONFIG_AUTO)
            str_add(out, "auto");
        else
            print_double(out, x);
        break;
    }
    case SETTING_BOOL:
        str_add(out, *(const bool *)field ? "true" : "false");
        break;
    case SETTING_ENUM:
        str_add(out, *(const int *)field == CONFIG_AUTO ? "auto" : s->names[*(const int *)field]);
        break;
    case SETTING_TEXT:
    case SETTING_PATH:
    case SETTING_DEVICE:
        yml_quote(out, *(char *const *)field);
        break;
    case SETTING_RANGES:
    case SETTING_HEADS:
        str_addc(out, '"');
        int_ranges_print(field, out);
        str_addc(out, '"');
        break;
    case SETTING_LORAS: setting_print_loras(field, out); break;
    case SETTING_NUMBERS: setting_print_numbers(field, out); break;
    case SETTING_FRAMES: {
        const frame_list *f = field;
        str_add(out, f->given ? "[" : "auto");
        for (int i = 0; i < f->n; i++)
            str_addf(out, "%s%lld", i ? ", " : "", (long long)f->items[i]);
        str_add(out, f->given ? "]" : "");
        break;
    }
    case SETTING_TEXTS:
    case SETTING_WORDS:
    case SETTING_PATHS: {
        const string_list *w = field;
        str_addc(out, '[');
        for (int i = 0; i < w->n; i++) {
            str_add(out, i ? ", " : "");
            yml_quote(out, w->items[i]);
        }
        str_addc(out, ']');
        break;
    }
    case SETTING_GUIDANCE: {
        const guidance_schedule *g = field;
        str_addc(out, '{');
        for (int i = 0; i < g->n; i++) {
            str_addf(out, "%s%lld: ", i ? ", " : "", (long long)g->steps[i]);
            print_double(out, g->values[i]);
        }
        str_addc(out, '}');
        break;
    }
    case SETTING_PROMPTS: {
        const prompt_schedule *p = field;
        str_addc(out, '{');
        for (int i = 0; i < p->n; i++) {
            str_addf(out, "%s%lld: ", i ? ", " : "", (long long)p->steps[i]);
            yml_quote(out, p->texts[i]);
        }
        str_addc(out, '}');
        break;
    }
    case SETTING_TIMELINE:      /* only read: it has become the template */
    case SETTING_SHAPE:
        str_add(out, "[]");
        break;
    }
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
        words_release(field);
        break;
    case SETTING_FRAMES:
        frames_release(field);
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
