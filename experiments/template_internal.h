/* The tree behind prompt_template, shared by template_parse.c (makes it) and template.c (reads it). */
#ifndef WANSCOPE_TEMPLATE_INTERNAL_H
#define WANSCOPE_TEMPLATE_INTERNAL_H

#include "experiments/template.h"

typedef unsigned __int128 u128;
#define U128_MAX (~(u128)0)

/* Marks and plain bracket pairs do not nest nodes: they are flat OPEN/CLOSE nodes of the sequence they stand in. So the
 * only branching is that of choices and links, and scopes of names are sequences. */
typedef enum {
    NODE_TEXT, NODE_MARK_OPEN, NODE_MARK_CLOSE, NODE_PLAIN_OPEN, NODE_PLAIN_CLOSE, NODE_CHOICE, NODE_LINK
} node_kind;

struct seq;

typedef struct node {
    node_kind kind;
    size_t at;               /* byte of the template, for messages */
    str text;                /* NODE_TEXT: escapes resolved */
    double weight;           /* NODE_MARK_CLOSE */
    bool is_weight;          /* NODE_CHOICE, NODE_LINK: gives the weight of the mark that closes next, no text */
    int bracket;             /* NODE_CHOICE: index into brackets */
    int name;                /* NODE_CHOICE: index into names or -1; NODE_LINK: the name it follows */
    struct seq **alts;       /* NODE_CHOICE; NODE_LINK with alternatives of its own */
    int n_alts;              /* NODE_LINK: 0 when it repeats the text of its name */
    int n_numbers, n_whole;  /* alternatives that are a number, a whole number */
    int bad_weight;          /* first alternative that is a number but no weight, or -1 */
    bool branches;           /* NODE_LINK: how many variations it has depends on the choice it follows */
    bool fixed;              /* `count` below holds whatever outer choices are */
    u128 count;              /* variations of this node alone */
    u128 suffix;             /* in a simple sequence: product of the counts of all nodes after this one */
} node;

typedef struct seq {
    struct seq *parent;      /* the sequence whose alternative this is; NULL for the whole template */
    int depth;               /* 0 for the whole template */
    bool in_choice;          /* some enclosing bracket is a choice */
    node *nodes;
    int n, cap;
    int lowest;              /* smallest depth of a sequence whose names steer a branching link in here; INT_MAX none */
    bool varies;             /* its count depends on choices outside of it */
    bool simple;             /* no branching link in it follows a name of its own, and it does not vary */
    u128 count;              /* valid unless it varies */
    int height;              /* marks and plain brackets open at the same time in its text, at most */
    uint64_t cost;           /* upper bound of bytes and nodes rendered, saturating */
} seq;

typedef struct tmpl_name {
    char *text;
    seq *scope;
    int node;                /* index in scope->nodes once `done` */
    int n_alts;
    size_t at;
    uint64_t cost;           /* the largest of its alternatives */
    int height;              /* likewise */
    bool done;
    bool branching;          /* a branching link follows it */
} tmpl_name;

typedef struct tmpl_bracket {
    int name;                /* or -1 */
    size_t at;
    bool in_choice;
} tmpl_bracket;

struct prompt_template {
    seq *root;
    tmpl_name *names;
    int n_names, cap_names;
    tmpl_bracket *brackets;
    int n_brackets, cap_brackets;
    u128 count;
};

/* ---- template_pairs.c ---- */

#define NOWHERE SIZE_MAX

/* One '[' ... ']' or '(' ... ')', in the order of the openers. */
typedef struct pair {
    size_t open, close;
    size_t bar, equals;      /* first '|' and '=' directly inside a bracket, or NOWHERE */
} pair;

/* Refuses what does not balance, and a '|' directly inside a mark. free() the pairs. */
int template_pairs(pair **out, int *n, const char *text, size_t len, const char *name, err *e);
size_t template_utf8_fault(const char *s, size_t len);
bool template_escapable(char c);                       /* may a backslash stand before it? */
int template_column(const char *text, size_t at);

/* ---- template_measure.c ---- */

/* Fills in counts and bounds of the tree; env: one int a name, scratch. */
int template_measure(prompt_template *t, const char *name, const char *text, size_t len, int *env, err *e);
u128 sat_mul(u128 a, u128 b);
/* Variations of s, and of the nodes of s from i on. env[name] = alternative taken; *budget falls and ends at 0. */
u128 seq_count(const prompt_template *t, const seq *s, int *env, int64_t *budget);
u128 seq_count_from(const prompt_template *t, const seq *s, int i, int *env, int64_t *budget);


#define TEMPLATE_MAX_COST ((size_t)8 << 20)   /* bound of seq.cost: what rendering one variation may take */
#define COUNT_BUDGET 200000   /* steps one count may take; reached only by names that steer each other in bulk */

/* ERR_ARG with "name:line:column: sentence", the line and a caret under byte `at` */
int template_error(err *e, const char *name, const char *text, size_t len, size_t at, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
void template_line_column(const char *text, size_t at, int *line, int *column);

/* A number that could be a weight: optional sign, digits with a point, exponent; or nan, inf. */
bool template_number(const char *s, size_t n, double *value);

#endif
