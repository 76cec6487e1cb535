#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/json_internal.h"

void jw_init(json_writer *w, str *out, int indent)
{
    *w = (json_writer){ .out = out, .indent = indent, .first = true };
}

static void new_line(json_writer *w)
{
    if (w->indent <= 0)
        return;
    str_addc(w->out, '\n');
    for (int i = 0; i < w->depth * w->indent; i++)
        str_addc(w->out, ' ');
}

/* what goes between the last value and the next one */
static void separate(json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (!w->first)
        str_addc(w->out, ',');
    if (w->depth > 0)
        new_line(w);
    w->first = false;
}

static void open_with(json_writer *w, char c)
{
    separate(w);
    str_addc(w->out, c);
    w->depth++;
    w->first = true;
}

static void close_with(json_writer *w, char c)
{
    w->depth--;
    if (!w->first)
        new_line(w);
    str_addc(w->out, c);
    w->first = false;
}

void jw_object(json_writer *w)
{
    open_with(w, '{');
}

void jw_end_object(json_writer *w)
{
    close_with(w, '}');
}

void jw_array(json_writer *w)
{
    open_with(w, '[');
}

void jw_end_array(json_writer *w)
{
    close_with(w, ']');
}

static void quote(str *out, const char *text)
{
    size_t left = strlen(text);
    str_addc(out, '"');
    while (left) {
        uint8_t c = (uint8_t)*text;
        size_t n = 1;
        if (c == '"' || c == '\\') {
            str_addc(out, '\\');
            str_addc(out, (char)c);
        } else if (c == '\n') {
            str_add(out, "\\n");
        } else if (c == '\t') {
            str_add(out, "\\t");
        } else if (c == '\r') {
            str_add(out, "\\r");
        } else if (c < 0x20 || c == 0x7f) {
            str_addf(out, "\\u%04x", c);
        } else if (c < 0x80) {
            str_addc(out, (char)c);
        } else if ((n = json_utf8_length((const uint8_t *)text, left))) {
            str_addn(out, text, n);
        } else {
            /* a stray byte, say from a file name: the replacement character keeps the document valid */
            str_add(out, "\xef\xbf\xbd");
            n = 1;
        }
        text += n;
        left -= n;
    }
    str_addc(out, '"');
}

void jw_key(json_writer *w, const char *key)
{
    separate(w);
    quote(w->out, key);
    str_add(w->out, w->indent > 0 ? ": " : ":");
    w->after_key = true;
}

void jw_string(json_writer *w, const char *text)
{
    separate(w);
    if (text)
        quote(w->out, text);
    else
        str_add(w->out, "null");
}

void jw_int(json_writer *w, int64_t v)
{
    separate(w);
    str_addf(w->out, "%" PRId64, v);
}

void jw_double(json_writer *w, double v)
{
    char text[40];
    separate(w);
    if (!isfinite(v)) {
        str_add(w->out, "null");
        return;
    }
    if (v == 0 && signbit(v)) {
        str_add(w->out, "-0.0");        /* "-0" would read back as the integer 0 */
        return;
    }
    for (int precision = 15; precision <= 17; precision++) {    /* %g drops trailing zeros, so 15 is not a minimum */
        snprintf(text, sizeof text, "%.*g", precision, v);
        if (strtod(text, NULL) == v)
            break;
    }
    str_add(w->out, text);
}

void jw_bool(json_writer *w, bool v)
{
    separate(w);
    str_add(w->out, v ? "true" : "false");
}

void jw_null(json_writer *w)
{
    separate(w);
    str_add(w->out, "null");
}

void jw_raw(json_writer *w, const char *json_text)
{
    separate(w);
    str_add(w->out, json_text);
}

void jw_kstring(json_writer *w, const char *key, const char *text)
{
    jw_key(w, key);
    jw_string(w, text);
}

void jw_kint(json_writer *w, const char *key, int64_t v)
{
    jw_key(w, key);
    jw_int(w, v);
}

void jw_kdouble(json_writer *w, const char *key, double v)
{
    jw_key(w, key);
    jw_double(w, v);
}

void jw_kbool(json_writer *w, const char *key, bool v)
{
    jw_key(w, key);
    jw_bool(w, v);
}
