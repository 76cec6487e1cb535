/* wanscope compare: two traces or two tensor files; what differs first, by how much, where. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "experiments/trace_compare.h"

int cmd_compare(int argc, char **argv);

static const char HELP[] =
    "usage: wanscope compare A B [--tolerance T] [--json]\n"
    "\n"
    "Compares two trace.h5 files, or two files or folders of tensors (.safetensors, .pth, .pt), array by array.\n"
    "A is the reference. For each array: the largest difference, absolute and relative to the largest value of that\n"
    "array in A, where it is, and where the first difference is. Attributes of traces (prompt, seed, build, ...) that\n"
    "differ are listed but decide nothing.\n"
    "\n"
    "  --tolerance T  relative difference that still counts as equal (default 0: every value must be the same)\n"
    "  --json         prints a JSON document\n"
    "\n"
    "Exit status: 0 equal within the tolerance, 1 different, 2 unreadable or bad usage.\n";

typedef struct options {
    const char *a, *b;
    double tolerance;
    bool json, help;
} options;

static int read_options(options *o, int argc, char **argv, err *e)
{
    bool plain = false;
    *o = (options){ 0 };
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (plain || arg[0] != '-' || !arg[1]) {
            if (o->b)
                return ERR(e, ERR_ARG, "'%s' is a third file: compare takes two", arg);
            *(o->a ? &o->b : &o->a) = arg;
        } else if (!strcmp(arg, "--")) {
            plain = true;
        } else if (!strcmp(arg, "--help") || !strcmp(arg, "-h")) {
            o->help = true;
            return 0;
        } else if (!strcmp(arg, "--json")) {
            o->json = true;
        } else if (!strcmp(arg, "--tolerance") || !strncmp(arg, "--tolerance=", 12)) {
            const char *text = arg[11] ? arg + 12 : ++i < argc ? argv[i] : "";
            char *end;
            o->tolerance = strtod(text, &end);
            if (!*text || *end || !(o->tolerance >= 0) || !isfinite(o->tolerance))
                return ERR(e, ERR_ARG, "--tolerance needs a number of 0 or more, such as 1e-5; found '%s'", text);
        } else {
            return ERR(e, ERR_ARG, "unknown option %s; 'wanscope compare --help' lists what there is", arg);
        }
    }
    if (!o->b)
        return ERR(e, ERR_ARG, "two files are needed, found %s; 'wanscope compare --help' says more",
                   o->a ? "one" : "none");
    return 0;
}

static bool has_numbers(const compare_item *x)
{
    return x->outcome == COMPARE_WITHIN || (x->outcome == COMPARE_DIFFERENT && (x->max_abs > 0 || x->n_nan));
}

static void put_shape(int n, const int64_t *v)
{
    printf("[");
    for (int i = 0; i < n; i++)
        printf("%s%lld", i ? "," : "", (long long)v[i]);
    printf("]");
}

static void put_place(const compare_item *x, int64_t flat)
{
    int64_t at[COMPARE_MAX_DIMS];
    compare_index(at, x, flat);
    put_shape(x->ndim, at);
}

static void print_item(const compare_item *x)
{
    printf("%s ", x->name);
    if (x->outcome == COMPARE_ONLY_A || x->outcome == COMPARE_ONLY_B) {
        printf("%s\n", compare_outcome_name(x->outcome));
        return;
    }
    put_shape(x->ndim, x->shape);
    printf(" %s", compare_outcome_name(x->outcome));
    if (x->outcome == COMPARE_SHAPE) {
        printf(": ");
        put_shape(x->ndim, x->shape);
        printf(" and ");
        put_shape(x->ndim_b, x->shape_b);
    } else if (x->n_different) {
        if (has_numbers(x)) {
            printf(": largest difference %.9g (%.3g of the largest value, %.9g) at ", x->max_abs, x->relative,
                   x->max_ref);
            put_place(x, x->worst);
            printf(", %.9g and %.9g", x->worst_a, x->worst_b);
        }
        printf("%s first at ", has_numbers(x) ? ";" : ":");
        put_place(x, x->first);
        if (has_numbers(x))
            printf(", %.9g and %.9g", x->first_a, x->first_b);
        printf("; %lld of %lld", (long long)x->n_different, (long long)x->n);
        if (x->n_nan)
            printf("; %lld NaN on one side only", (long long)x->n_nan);
    }
    printf("\n");
}

static void print_report(const compare_report *r)
{
    size_t n = 0;
    for (size_t i = 0; i < r->n_items; i++) {
        const compare_item *x = &r->items[i];
        n += x->outcome != COMPARE_EQUAL && x->outcome != COMPARE_WITHIN;
        print_item(x);
    }
    for (size_t i = 0; i < r->n_notes; i++)
        printf("note: %s\n", r->notes[i]);
    if (r->first_different < 0)
        printf("equal%s: %zu arrays\n", r->tolerance > 0 ? " within the tolerance" : "", r->n_items);
    else
        printf("different: %zu of %zu arrays, the first is %s\n", n, r->n_items, r->items[r->first_different].name);
}

static void json_numbers(json_writer *w, const char *key, int n, const int64_t *v)
{
    jw_key(w, key);
    jw_array(w);
    for (int i = 0; i < n; i++)
        jw_int(w, v[i]);
    jw_end_array(w);
}

static void json_item(json_writer *w, const compare_item *x)
{
    int64_t at[COMPARE_MAX_DIMS];
    jw_object(w);
    jw_kstring(w, "name", x->name);
    jw_kstring(w, "outcome", compare_outcome_name(x->outcome));
    if (x->outcome != COMPARE_ONLY_A && x->outcome != COMPARE_ONLY_B) {
        json_numbers(w, "shape", x->ndim, x->shape);
        if (x->outcome == COMPARE_SHAPE)
            json_numbers(w, "shape_b", x->ndim_b, x->shape_b);
        jw_kint(w, "elements", x->n);
        jw_kint(w, "different", x->n_different);
        jw_kint(w, "nan_mismatches", x->n_nan);
    }
    if (x->first >= 0) {
        compare_index(at, x, x->first);
        json_numbers(w, "first_at", x->ndim, at);
    }
    if (has_numbers(x)) {
        compare_index(at, x, x->worst);
        json_numbers(w, "largest_at", x->ndim, at);
        jw_kdouble(w, "largest_difference", x->max_abs);
        jw_kdouble(w, "relative", x->relative);
        jw_kdouble(w, "largest_value", x->max_ref);
        jw_kdouble(w, "a", x->worst_a);
        jw_kdouble(w, "b", x->worst_b);
    }
    jw_end_object(w);
}

static int print_json(const compare_report *r, const options *o, err *e)
{
    str out = STR_INIT;
    json_writer w;
    jw_init(&w, &out, 1);
    jw_object(&w);
    jw_kstring(&w, "a", o->a);
    jw_kstring(&w, "b", o->b);
    jw_kdouble(&w, "tolerance", o->tolerance);
    jw_kbool(&w, "equal", r->first_different < 0);
    jw_kstring(&w, "first", r->first_different < 0 ? NULL : r->items[r->first_different].name);
    jw_key(&w, "arrays");
    jw_array(&w);
    for (size_t i = 0; i < r->n_items; i++)
        json_item(&w, &r->items[i]);
    jw_end_array(&w);
    jw_key(&w, "notes");
    jw_array(&w);
    for (size_t i = 0; i < r->n_notes; i++)
        jw_string(&w, r->notes[i]);
    jw_end_array(&w);
    jw_end_object(&w);
    bool failed = out.failed;
    if (!failed)
        puts(str_text(&out));
    str_release(&out);
    return failed ? ERR(e, ERR_MEMORY, "no memory for the JSON document") : 0;
}

int cmd_compare(int argc, char **argv)
{
    options o;
    compare_report r = { .first_different = -1 };
    err e = { 0 };
    int rc = read_options(&o, argc, argv, &e), status = 0;
    if (!rc && o.help) {
        fputs(HELP, stdout);
        return 0;
    }
    if (!rc)
        rc = compare_files(&r, o.a, o.b, o.tolerance, &e);
    if (!rc && o.json)
        rc = print_json(&r, &o, &e);
    else if (!rc)
        print_report(&r);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = ERR(&e, ERR_IO, "the comparison cannot be written to standard output");
    if (rc) {
        log_msg(LOG_ERROR, "wanscope compare: %s", e.text);
        status = rc == ERR_MEMORY ? 3 : 2;      /* 1 means different, nothing else */
    } else if (r.first_different >= 0) {
        status = 1;
    }
    compare_report_release(&r);
    return status;
}
