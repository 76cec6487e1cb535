/* yaml_reader: a YAML 1.1 document as a tree that remembers where everything stood. Thin over libyaml.
 *
 * Strict where YAML lets mistakes pass: duplicate keys, several documents, anchors, aliases and merge keys ("<<"),
 unknown
 * tags, keys that are not scalars and NUL characters are refused, each with file, line and column.
 *
 * Scalars stay text until asked for, since what they mean depends on the setting they are given to: `name: 12` is a
 * string there, `seed: 12` a number.
 *
 * The prefix is yml_ because libyaml itself has a yaml_free().
 *
 * Without libyaml in the build (HAVE_YAML) yml_read_file() answers with a sentence that says so, and yml_parse() reads values of
 * one line only (yaml_flow.h).
 *
 * Ownership: yml_parse() gives a document; all nodes and texts are borrowed from it until yml_free(). */
#ifndef WANSCOPE_YAML_READER_H
#define WANSCOPE_YAML_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

#define YML_MAX_DEPTH 64
#define YML_MAX_BYTES ((size_t)4 << 20)

typedef enum { YML_SCALAR, YML_LIST, YML_MAP } yml_kind;

typedef struct yml_node {
    yml_kind kind;
    int line, column;            /* 1-based, columns in characters */
    char *text;                  /* scalar: NUL-terminated UTF-8 */
    bool plain;                  /* scalar: written without quotes, so it may mean a number, a boolean or null */
    int n;                       /* list or map: entries */
    struct yml_node **items;    /* list: elements; map: values */
    struct yml_node **keys;     /* map: scalar nodes */
} yml_node;

typedef struct yml_doc {
    yml_node *root;             /* NULL for a document without content */
    char *name;                  /* for messages */
} yml_doc;

/* Errors: ERR_CONFIG with "name:line:column: ...", ERR_MEMORY; yml_read_file also ERR_IO. */
int yml_parse(yml_doc **out, const char *text, size_t len, const char *name, err *e);
int yml_read_file(yml_doc **out, const char *path, err *e);
void yml_free(yml_doc *d);

const yml_node *yml_get(const yml_node *map, const char *key);   /* NULL for a missing key or no map */

/* What a scalar can be read as. All false for NULL and for lists and maps. */
bool yml_is_null(const yml_node *n);                     /* plain ~, null, Null, NULL or nothing */
bool yml_bool(const yml_node *n,
              bool *out);             /* plain yes/no/true/false/on/off/y/n as YAML 1.1 spells them */
bool yml_int(const yml_node *n,
             int64_t *out);           /* plain decimal (1_000 too), 0x hexadecimal; no leading zeros */
bool yml_double(const yml_node *n, double *out);         /* plain decimal with or without exponent; finite */
const char *yml_kind_name(const yml_node *n);            /* "a list", "a mapping", "a text" ... for messages */

/* Appends `text` as a YAML scalar that reads back as the same string: always in double quotes, one line. */
void yml_quote(str *out, const char *text);

#endif
