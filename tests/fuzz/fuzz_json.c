/* The JSON reader, and the writer on what was read: what it writes must read back. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_back(json_writer *w, const json *v)
{
    int64_t i;
    switch (json_type(v)) {
    case JSON_OBJECT:
        jw_object(w);
        for (size_t k = 0; k < json_count(v); k++) {
            jw_key(w, json_key(v, k));
            write_back(w, json_at(v, k));
        }
        jw_end_object(w);
        break;
    case JSON_ARRAY:
        jw_array(w);
        for (size_t k = 0; k < json_count(v); k++)
            write_back(w, json_at(v, k));
        jw_end_array(w);
        break;
    case JSON_STRING: jw_string(w, json_string(v, "")); break;
    case JSON_NUMBER:
        if (json_int(v, &i))
            jw_int(w, i);
        else
            jw_double(w, json_number(v, 0));
        break;
    case JSON_BOOL: jw_bool(w, json_bool(v, false)); break;
    case JSON_NULL:
    case JSON_NONE: jw_null(w); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json *doc, *again;
    err e = { 0 };
    if (json_parse(&doc, (const char *)data, size, "fuzz.json", &e)) {
        if (!e.text[0] || doc)
            abort();
        return 0;
    }
    for (int indent = 0; indent < 2; indent++) {
        str first = STR_INIT, second = STR_INIT;
        json_writer w;
        jw_init(&w, &first, indent);
        write_back(&w, doc);
        if (first.failed)
            abort();
        if (json_parse(&again, str_text(&first), first.len, "again.json", &e))
            abort();
        jw_init(&w, &second, indent);
        write_back(&w, again);
        if (strcmp(str_text(&first), str_text(&second)))
            abort();
        json_free(again);
        str_release(&first);
        str_release(&second);
    }
    json_free(doc);
    return 0;
}
