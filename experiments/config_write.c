/* The resolved config as YAML, and the tables of docs/config.md. */
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"

/* Length of the section part of a key: up to its last dot. */
static size_t section_of(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? (size_t)(dot - key) : 0;
}

/* Opens the sections of `key` that are not open after `before`, and returns the depth of the key itself. */
static int open_sections(str *out, const char *before, const char *key)
{
    int depth = 0;
    size_t end = section_of(key), from = 0;
    while (from < end) {
        const char *dot = memchr(key + from, '.', end - from);
        size_t to = dot ? (size_t)(dot - key) : end;
        bool open = section_of(before) >= to && !strncmp(before, key, to) && before[to] == '.';
        if (!open)
            str_addf(out, "%s%*s%.*s:\n", depth == 0 && out->len ? "\n" : "", 2 * depth, "", (int)(to - from),
                     key + from);
        depth++;
        from = to + 1;
    }
    return depth;
}

/* Does a printed value say what the default says? Texts are printed in quotes. */
static bool is_default(const setting *s, const char *printed)
{
    str quoted = STR_INIT;
    yml_quote(&quoted, s->fallback);
    bool same = strcmp(printed, s->fallback) == 0 || strcmp(printed, str_text(&quoted)) == 0;
    str_release(&quoted);
    return same;
}

int config_write(const config *c, str *out, err *e)
{
    const char *before = "";
    str s = STR_INIT;
    for (int i = 0; i < N_SETTINGS; i++) {
        if (SETTINGS[i].flags & ONLY_READ)
            continue;
        const char *key = SETTINGS[i].key;
        str value = STR_INIT;
        setting_print(c, &SETTINGS[i], &value);
        bool quiet = (SETTINGS[i].flags & QUIET_DEFAULT) && is_default(&SETTINGS[i], str_text(&value));
        s.failed |= value.failed;
        if (!quiet) {
            int depth = open_sections(&s, before, key);
            str_addf(&s, "%*s%s: ", 2 * depth, "", key + section_of(key) + 1);
            str_addn(&s, str_text(&value), value.len);
            str_addc(&s, '\n');
            before = key;
        }
        str_release(&value);
    }
    str_addn(out, str_text(&s), s.len);
    bool failed = s.failed || out->failed;
    str_release(&s);
    return failed ? ERR(e, ERR_MEMORY, "out of memory for the resolved config") : 0;
}

bool config_equal(const config *a, const config *b)
{
    str x = STR_INIT, y = STR_INIT;
    bool same = !config_write(a, &x, NULL) && !config_write(b, &y, NULL) && x.len == y.len &&
                !memcmp(str_text(&x), str_text(&y), x.len);
    str_release(&x);
    str_release(&y);
    return same;
}

const char *config_enum_name(const char *key, int value)
{
    const setting *s = setting_find(key);
    if (!s || s->type != SETTING_ENUM || value < 0)
        return "";
    for (int i = 0; s->names[i]; i++)
        if (i == value)
            return s->names[i];
    return "";
}

static void add_cell(str *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '|')
            str_addc(out, '\\');
        str_addc(out, *text);
    }
}

void config_reference(str *out)
{
    const char *before = "";
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *s = &SETTINGS[i];
        size_t n = section_of(s->key);
        if (n != section_of(before) || strncmp(before, s->key, n))
            str_addf(out, "%s### %.*s\n\n| key | value | default | meaning |\n|---|---|---|---|\n", i ? "\n" : "",
                     (int)n, s->key);
        str type = STR_INIT;
        setting_type_text(s, &type);
        str_addf(out, "| `%s` | ", s->key + n + 1);
        add_cell(out, str_text(&type));
        str_addf(out, " | %s%s%s | ", s->fallback[0] ? "`" : "", s->fallback[0] ? s->fallback : "empty",
                 s->fallback[0] ? "`" : "");
        add_cell(out, s->help);
        str_add(out, " |\n");
        str_release(&type);
        before = s->key;
    }
    str_add(out, "\n### Old keys\n\n| old key | now |\n|---|---|\n");
    for (int i = 0; i < N_OLD_KEYS; i++) {
        const old_key *o = &OLD_KEYS[i];
        static const char *const HOW[] = {
            [OLD_SAME] = "", [OLD_DEAD] = "", [OLD_COMPRESS] = " (true: the default level, false: 0)",
            [OLD_PER_HEAD] = " (true: all, false: mean)", [OLD_WEIGHTED] = " (false: none)",
            [OLD_SCHEDULE] = " (false: not applied)", [OLD_OFFLOAD] = " (true: all)",
        };
        if (o->key)
            str_addf(out, "| `%s` | `%s`%s |\n", o->old, o->key, HOW[o->kind]);
        else
            str_addf(out, "| `%s` | ignored: %s |\n", o->old, o->note);
    }
}
