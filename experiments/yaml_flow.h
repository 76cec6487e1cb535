/* yaml_flow: one YAML value on one line, read without libyaml: a plain or quoted scalar, [a list], {a: mapping}, nested. What
 * `wanscope generate` writes for its flags, and most of what --set takes; builds without libyaml read settings so. Anything else of
 * YAML (blocks, comments, anchors, tags, several lines) is refused with a sentence. Where both read a text, both give the same
 * tree (tests/unit/test_yaml.c). Internal to the yaml reader. */
#ifndef WANSCOPE_YAML_FLOW_H
#define WANSCOPE_YAML_FLOW_H

#include "experiments/yaml_reader.h"

/* *root is NULL for blank text; yml_node_free() it. ERR_CONFIG with "name:1:column: ...", ERR_MEMORY. */
int yml_flow_parse(yml_node **root, const char *text, size_t len, const char *name, err *e);

void yml_node_free(yml_node *n);                                                /* NULL is harmless */
/* Takes key (NULL in lists) and item, also when it fails for want of memory. */
bool yml_node_append(yml_node *parent, yml_node *key, yml_node *item);

#endif
