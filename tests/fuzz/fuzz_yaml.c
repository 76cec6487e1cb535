/* Any bytes as a config: the YAML reader and every setting's parser. What loads must survive being written. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/config.h"
#include "experiments/yaml_flow.h"
#include "experiments/yaml_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken promise: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    yml_doc *doc;
    config c, again;
    config_notes notes = { 0 };
    err e = { 0 };
    if (yml_parse(&doc, (const char *)data, size, "fuzz", &e) == 0)
        yml_free(doc);
    else
        require(e.text[0], "a refusal has a sentence");
    yml_node *value;
    if (yml_flow_parse(&value, (const char *)data, size, "fuzz", &e) == 0)
        yml_node_free(value);
    else
        require(e.text[0], "a refusal has a sentence");
    const char *sets[] = { "model.path=m" };
    if (config_parse(&c, (const char *)data, size, "fuzz", sets, 1, &notes, &e) == 0) {
        str text = STR_INIT;
        require(config_write(&c, &text, &e) == 0, "a config can be written");
        require(config_parse(&again, str_text(&text), text.len, "written", NULL, 0, NULL, &e) == 0, e.text);
        require(config_equal(&c, &again), "a written config is the same config");
        str_release(&text);
        config_release(&again);
        config_release(&c);
    } else {
        require(e.text[0], "a refusal has a sentence");
    }
    config_notes_release(&notes);
    return 0;
}
