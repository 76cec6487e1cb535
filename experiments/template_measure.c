/* How many variations a template has, and how large they can become. */
#include <limits.h>

#include "experiments/template_internal.h"

typedef struct meter {
    prompt_template *t;
    const char *name, *text;
    size_t len;
    err *e;
} meter;

#define FAIL(p, where, ...) template_error((p)->e, (p)->name, (p)->text, (p)->len, (where), __VA_ARGS__)

static u128 sat_add(u128 a, u128 b)
{
    return a > U128_MAX - b ? U128_MAX : a + b;
}

u128 sat_mul(u128 a, u128 b)
{
    return a && b > U128_MAX / a ? U128_MAX : a * b;
}

u128 seq_count(const prompt_template *t, const seq *s, int *env, int64_t *budget)
{
    return s->varies ? seq_count_from(t, s, 0, env, budget) : s->count;
}

u128 seq_count_from(const prompt_template *t, const seq *s, int i, int *env, int64_t *budget)
{
    u128 product = 1;
    if (s->simple)
        return i == 0 ? s->count : i < s->n ? sat_mul(s->nodes[i].count, s->nodes[i].suffix) : 1;
    for (; i < s->n; i++) {
        if (--*budget <= 0)
            return 1;
        const node *d = &s->nodes[i];
        if (d->kind == NODE_CHOICE && d->name >= 0 && t->names[d->name].branching) {
            /* the rest depends on this choice: one sum over its alternatives */
            u128 sum = 0;
            for (int a = 0; a < d->n_alts && *budget > 0; a++) {
                env[d->name] = a;
                u128 here = seq_count(t, d->alts[a], env, budget);
                sum = sat_add(sum, sat_mul(here, seq_count_from(t, s, i + 1, env, budget)));
            }
            return sat_mul(product, sum);
        }
        if (d->fixed) {
            product = sat_mul(product, d->count);
        } else if (d->kind == NODE_CHOICE) {
            u128 sum = 0;
            for (int a = 0; a < d->n_alts; a++)
                sum = sat_add(sum, seq_count(t, d->alts[a], env, budget));
            product = sat_mul(product, sum);
        } else {
            product = sat_mul(product, seq_count(t, d->alts[d->branches ? env[d->name] : 0], env, budget));
        }
    }
    return product;
}

static uint64_t cost_add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* Which links branch, which sequences depend on names outside of them, how many variations there are and how long a
 * text can become. Inner sequences first: every link to a name lies in the sequence that defines it or inside that. */
static int measure_seq(const meter *p, seq *s, int *env)
{
    prompt_template *t = p->t;
    s->lowest = INT_MAX;
    s->cost = 1;
    int open = 0;
    for (int i = 0; i < s->n; i++) {
        node *d = &s->nodes[i];
        int height = 0;
        open += d->kind == NODE_MARK_OPEN || d->kind == NODE_PLAIN_OPEN;
        open -= d->kind == NODE_MARK_CLOSE || d->kind == NODE_PLAIN_CLOSE;
        uint64_t cost = 2 * (uint64_t)d->text.len + 2;   /* twice: marks may need escapes */
        bool equal = true, varying = false;
        for (int a = 0; a < d->n_alts; a++) {
            seq *alt = d->alts[a];
            int rc = measure_seq(p, alt, env);
            if (rc)
                return rc;
            cost = alt->cost > cost ? alt->cost : cost;
            height = alt->height > height ? alt->height : height;
            s->lowest = alt->lowest < s->lowest ? alt->lowest : s->lowest;
            varying = varying || alt->varies;
            equal = equal && !alt->varies && alt->count == d->alts[0]->count;
        }
        d->fixed = !varying;
        if (d->kind == NODE_CHOICE && d->name >= 0) {
            t->names[d->name].cost = cost;
            t->names[d->name].height = height;
        } else if (d->kind == NODE_LINK && d->n_alts == 0) {
            cost = t->names[d->name].cost;
            height = t->names[d->name].height;
        } else if (d->kind == NODE_LINK && !equal) {
            tmpl_name *target = &t->names[d->name];
            d->branches = target->branching = true;
            d->fixed = false;
            s->lowest = target->scope->depth < s->lowest ? target->scope->depth : s->lowest;
        }
        s->cost = cost_add(s->cost, cost_add(cost, 2));
        height += open;
        s->height = height > s->height ? height : s->height;
        if (s->height > TEMPLATE_MAX_DEPTH)
            return FAIL(p, d->at, "with the text that links repeat, marks and plain brackets are nested more than %d "
                                  "deep here",
                        TEMPLATE_MAX_DEPTH);
    }
    s->varies = s->lowest < s->depth;
    s->simple = s->lowest > s->depth;
    for (int i = s->n - 1; i >= 0; i--) {
        node *d = &s->nodes[i];
        d->count = d->kind == NODE_CHOICE ? 0 : 1;
        if (d->fixed && d->kind == NODE_CHOICE)
            for (int a = 0; a < d->n_alts; a++)
                d->count = sat_add(d->count, d->alts[a]->count);
        else if (d->fixed && d->kind == NODE_LINK && d->n_alts)
            d->count = d->alts[0]->count;
        d->suffix = i + 1 < s->n ? sat_mul(s->nodes[i + 1].suffix, s->nodes[i + 1].count) : 1;
    }
    if (s->simple) {
        s->count = s->n ? sat_mul(s->nodes[0].suffix, s->nodes[0].count) : 1;
    } else if (!s->varies) {
        int64_t budget = COUNT_BUDGET;
        s->count = seq_count_from(t, s, 0, env, &budget);
        if (budget <= 0)
            return FAIL(p, s->nodes[0].at, "too many linked choices with brackets inside depend on each other here to "
                                           "be "
                        "counted; put fewer named choices in front of the links that follow them, or give the "
                        "alternatives "
                        "of each link equally many variations");
    }
    return 0;
}

int template_measure(prompt_template *t, const char *name, const char *text, size_t len, int *env, err *e)
{
    meter m = { t, name, text, len, e };
    return measure_seq(&m, t->root, env);
}
