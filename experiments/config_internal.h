/* The table of settings and the typed values, shared by the config_*.c files. */
#ifndef WANSCOPE_CONFIG_INTERNAL_H
#define WANSCOPE_CONFIG_INTERNAL_H

#include <stddef.h>

#include "experiments/config.h"
#include "experiments/yaml_reader.h"

typedef enum {
    SETTING_INT,          /* int64_t */
    SETTING_DOUBLE,       /* double */
    SETTING_BOOL,         /* bool */
    SETTING_ENUM,         /* int, an index of names */
    SETTING_TEXT,         /* char * */
    SETTING_PATH,         /* char *, looked for beside the config file too */
    SETTING_DEVICE,       /* char * */
    SETTING_BYTES,        /* int64_t, "8GiB" */
    SETTING_RANGES,       /* int_ranges */
    SETTING_HEADS,        /* int_ranges that may be "mean" */
    SETTING_WORDS,        /* string_list */
    SETTING_TEXTS,        /* string_list of whole texts: commas do not part them */
    SETTING_FRAMES,       /* frame_list */
    SETTING_GUIDANCE,     /* guidance_schedule */
    SETTING_PROMPTS,      /* prompt_schedule */
    SETTING_PATHS,        /* string_list, each looked for beside the config file too */
    SETTING_LORAS,        /* lora_list */
    SETTING_NUMBERS,      /* number_list */
    SETTING_TIMELINE,     /* prompt_schedule, from a list of {at, text} */
    SETTING_SHAPE,        /* nothing stored: a list of mappings whose keys are checked against names */
} setting_type;

enum {
    MAY_BE_AUTO = 1,      /* "auto" <-> CONFIG_AUTO */
    ONLY_READ = 2,        /* turned into another setting; not in the resolved config */
    QUIET_DEFAULT = 4,    /* came later: written only when it is not the default, so that older batches stay what they are */
};

typedef struct setting {
    const char *key;      /* "section.name" */
    setting_type type;
    size_t offset;        /* in struct config */
    double min, max;      /* SETTING_INT, SETTING_DOUBLE, SETTING_BYTES */
    int multiple, rest;   /* SETTING_INT: value % multiple == rest; 0: any */
    const char *const *names;   /* NULL-terminated */
    int flags;
    const char *fallback; /* the default, as --set would have it */
    const char *help;
} setting;

extern const setting SETTINGS[];
extern const int N_SETTINGS;

/* What an old key (of the Python harness) turns into. */
typedef enum {
    OLD_SAME,             /* the same value under another name */
    OLD_DEAD,             /* without effect upstream or here; `note` says why */
    OLD_COMPRESS,         /* yes: the default level; no: 0 */
    OLD_PER_HEAD,         /* yes: all heads; no: their mean */
    OLD_WEIGHTED,         /* no: weighting none */
    OLD_SCHEDULE,         /* no: the schedule is not applied */
    OLD_OFFLOAD,          /* yes: everything */
} old_kind;

typedef struct old_key {
    const char *old, *key;
    old_kind kind;
    const char *note;
} old_key;

extern const old_key OLD_KEYS[];
extern const int N_OLD_KEYS;

const setting *setting_find(const char *key);        /* NULL when there is none */
const old_key *old_key_find(const char *key);
bool is_section(const char *prefix);                 /* some setting or old key lies below it */

/* Puts a value into its field. `value` must fit the type; on failure the sentence has neither file nor line in it:
 * "video.width is 100, expected ...". */
int setting_put(config *c, const setting *s, const yml_node *value, err *e);
/* The same from the text of --set or a default: YAML for lists and maps, plain text else. */
int setting_put_text(config *c, const setting *s, const char *text, err *e);
void setting_print(const config *c, const setting *s, str *out);    /* as a YAML value */
void setting_release(config *c, const setting *s);
void setting_type_text(const setting *s, str *out);                 /* "whole number, 16 to 8192, multiple of 16" */

void *setting_field(config *c, const setting *s);
void print_double(str *out, double v);               /* fewest digits that read back equal */

/* Structured multi-shot input becomes prompt.template and shots.cut_frames; cuts are checked and rounded to 4n+1 (`note` says
 * which). from_*: whether defaults, file or --set gave them, the later the greater. On failure *key is the setting to blame and
 * `why` has no place in it. */
int config_shots_join(config *c, int from_captions, int from_template, const char **key, str *note, err *why);
/* The prompts against the cuts, as far as text tells. */
int config_shots_check(const config *c, const char **key, err *why);

/* "video.width is 'abc', expected a whole number ...": the sentence about a value of another kind; returns ERR_CONFIG. */
int setting_wrong(const setting *s, const yml_node *v, err *e);

/* Lists (config_lists.c). */
int setting_put_loras(lora_list *field, const setting *s, const yml_node *v, err *e);
void setting_print_loras(const lora_list *l, str *out);
void lora_list_release(lora_list *l);
int setting_put_numbers(number_list *field, const setting *s, const yml_node *v, err *e);
void setting_print_numbers(const number_list *l, str *out);
int setting_put_ranges(int_ranges *field, const setting *s, const yml_node *v, err *e);
int setting_put_texts(string_list *field, const setting *s, const yml_node *v, err *e);
int setting_put_frames(frame_list *field, const setting *s, const yml_node *v, err *e);
int setting_put_words(string_list *field, const setting *s, const yml_node *v, err *e);      /* a list, or words with commas between */
void string_list_release(string_list *w);
void frame_list_release(frame_list *f);

/* Mappings (config_schedules.c). `field` is a guidance_schedule or a prompt_schedule, as the type says. */
int setting_put_schedule(void *field, const setting *s, const yml_node *v, err *e);
int setting_put_timeline(prompt_schedule *field, const setting *s, const yml_node *v, err *e);
int setting_check_shape(const setting *s, const yml_node *v, err *e);

/* "did you mean" for a key that does not exist, or NULL. */
const char *nearest_key(const char *key);

#endif
