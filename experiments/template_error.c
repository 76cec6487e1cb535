/* Messages of the template parser: position, line, caret. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "experiments/template_internal.h"

#define SHOW_BEFORE 50   /* characters of the line shown before and after the caret */
#define SHOW_AFTER 26

/* Next code point of valid UTF-8. */
static uint32_t next_char(const char *s, size_t *i)
{
    unsigned char c = (unsigned char)s[(*i)++];
    int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
    uint32_t u = more == 3 ? c & 7u : more == 2 ? c & 15u : more == 1 ? c & 31u : c;
    while (more-- && ((unsigned char)s[*i] & 0xc0) == 0x80)
        u = u << 6 | ((unsigned char)s[(*i)++] & 0x3fu);
    return u;
}

/* Columns of a terminal: East Asian wide characters and emoji take two. */
static int char_width(uint32_t u)
{
    if (u < 0x300)
        return 1;
    if (u <= 0x36f || (u >= 0x200b && u <= 0x200f) || (u >= 0xfe00 && u <= 0xfe0f))
        return 0;
    if ((u >= 0x1100 && u <= 0x115f) || (u >= 0x2e80 && u <= 0xa4cf) || (u >= 0xac00 && u <= 0xd7a3) ||
        (u >= 0xf900 && u <= 0xfaff) || (u >= 0xfe30 && u <= 0xfe6f) || (u >= 0xff00 && u <= 0xff60) ||
        (u >= 0xffe0 && u <= 0xffe6) || (u >= 0x1f300 && u <= 0x1faff) || (u >= 0x20000 && u <= 0x3fffd))
        return 2;
    return 1;
}

void template_line_column(const char *text, size_t at, int *line, int *column)
{
    *line = *column = 1;
    for (size_t i = 0; i < at;) {
        if (next_char(text, &i) == '\n') {
            (*line)++;
            *column = 1;
        } else {
            (*column)++;
        }
    }
}

int template_error(err *e, const char *name, const char *text, size_t len, size_t at, const char *fmt, ...)
{
    char what[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);

    int line, column;
    template_line_column(text, at, &line, &column);
    size_t begin = at, end = at;
    while (begin > 0 && text[begin - 1] != '\n')
        begin--;
    while (end < len && text[end] != '\n')
        end++;
    /* a window around the character when the line is long */
    int before = 0, after = 0;
    size_t b = at, f = at;
    while (b > begin && before < SHOW_BEFORE) {
        do
            b--;
        while (b > begin && ((unsigned char)text[b] & 0xc0) == 0x80);
        before++;
    }
    while (f < end && after < SHOW_AFTER) {
        next_char(text, &f);
        after++;
    }
    str shown = STR_INIT;
    str_add(&shown, "  ");
    int pad = 2;
    if (b > begin) {
        str_add(&shown, "...");
        pad += 3;
    }
    for (size_t i = b; i < f;) {
        size_t start = i;
        uint32_t u = next_char(text, &i);
        bool blank = u < 0x20 || u == 0x7f;   /* a tab or a control character would spoil the caret line */
        if (blank)
            str_addc(&shown, ' ');
        else
            str_addn(&shown, text + start, i - start);
        if (start < at)
            pad += blank ? 1 : char_width(u);
    }
    if (f < end)
        str_add(&shown, "...");
    int rc = ERR(e, ERR_ARG, "%s:%d:%d: %s\n%s\n%*s^", name, line, column, what, str_text(&shown), pad, "");
    str_release(&shown);
    return rc;
}
