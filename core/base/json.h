/* json: a reader and a writer, the only ones in the project.
 *
 * The engine must build on a machine that has nothing but a C compiler, OpenBLAS and CUDA, and safetensors headers
 * are JSON, so this small reader stands in for a library. It reads RFC 8259 strictly (UTF-8 checked, \u escapes
 * with surrogates, depth limited to 128, no trailing characters), keeps the order of keys, refuses duplicate keys,
 * and keeps integers exact up to 64 bits.
 *
 * Ownership: json_parse() gives a document; every other pointer is borrowed from it until json_free().
 * All getters accept NULL and wrong kinds and answer NULL / fallback, so that a path can be read without checks.
 */
#ifndef WANSCOPE_JSON_H
#define WANSCOPE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

typedef struct json json;

typedef enum { JSON_NONE, JSON_NULL, JSON_BOOL, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } json_kind;

/* `name` is only used in messages ("file.json: line 3, column 7: ..."). */
int json_parse(json **out, const char *text, size_t len, const char *name, err *e);
int json_read_file(json **out, const char *path, err *e);
void json_free(json *doc);

json_kind json_type(const json *v);                              /* JSON_NONE for NULL */
size_t json_count(const json *v);                                /* elements of an array, members of an object, else 0 */
const json *json_at(const json *array, size_t i);                /* element i, or member value i of an object */
const char *json_key(const json *object, size_t i);              /* member name i */
const json *json_get(const json *object, const char *key);
bool json_int(const json *v, int64_t *out);                      /* true only for an integer that fits */
double json_number(const json *v, double fallback);
bool json_bool(const json *v, bool fallback);
const char *json_string(const json *v, const char *fallback);    /* NUL-terminated; embedded NULs are refused when parsed */
int64_t json_get_int(const json *object, const char *key, int64_t fallback);
double json_get_number(const json *object, const char *key, double fallback);
const char *json_get_string(const json *object, const char *key, const char *fallback);

/* Writer: appends to a str; commas and quoting are its business. Compact by default, indent > 0 for people.
 * Doubles are written with the fewest digits that read back equal; NaN and infinities become null. */
typedef struct json_writer {
    str *out;
    int indent;         /* spaces a level, 0 = one line */
    int depth;
    bool first, after_key;
} json_writer;

void jw_init(json_writer *w, str *out, int indent);
void jw_object(json_writer *w);
void jw_end_object(json_writer *w);
void jw_array(json_writer *w);
void jw_end_array(json_writer *w);
void jw_key(json_writer *w, const char *key);
void jw_string(json_writer *w, const char *text);                 /* NULL writes null */
void jw_int(json_writer *w, int64_t v);
void jw_double(json_writer *w, double v);
void jw_bool(json_writer *w, bool v);
void jw_null(json_writer *w);
void jw_raw(json_writer *w, const char *json_text);               /* already valid JSON */
/* key + value in one call */
void jw_kstring(json_writer *w, const char *key, const char *text);
void jw_kint(json_writer *w, const char *key, int64_t v);
void jw_kdouble(json_writer *w, const char *key, double v);
void jw_kbool(json_writer *w, const char *key, bool v);

#endif
