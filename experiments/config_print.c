/* Values as text, and the sentences that say what a setting can be. */
#include <stdio.h>
#include <stdlib.h>

#include "experiments/config_internal.h"

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
