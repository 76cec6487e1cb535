#include "experiments/int_ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int int_ranges_add(int_ranges *r, int64_t first, int64_t last, err *e)
{
    if (first < 0 || last > INT_RANGES_MAX)
        return ERR(e, ERR_CONFIG, "%lld, expected numbers from 0 to %d", (long long)(first < 0 ? first : last),
                   INT_RANGES_MAX);
    if (last < first)
        return ERR(e, ERR_CONFIG, "%lld-%lld, which runs backwards; write the smaller number first", (long long)first,
                   (long long)last);
    int_range *items = malloc(((size_t)r->n + 1) * sizeof *items);
    if (!items)
        return ERR(e, ERR_MEMORY, "too long: out of memory for a list of numbers");
    int n = 0, i = 0;
    /* those clearly before, then everything that touches the new one, then the rest */
    for (; i < r->n && r->items[i].last + 1 < first; i++)
        items[n++] = r->items[i];
    int_range merged = { first, last };
    for (; i < r->n && r->items[i].first <= last + 1; i++) {
        merged.first = r->items[i].first < merged.first ? r->items[i].first : merged.first;
        merged.last = r->items[i].last > merged.last ? r->items[i].last : merged.last;
    }
    items[n++] = merged;
    for (; i < r->n; i++)
        items[n++] = r->items[i];
    free(r->items);
    r->items = items;
    r->n = n;
    return 0;
}

static bool read_number(const char **s, int64_t *out)
{
    char *end;
    if (**s < '0' || **s > '9')
        return false;
    errno = 0;
    *out = strtoll(*s, &end, 10);
    *s = end;
    return errno == 0;
}

static void skip_blanks(const char **s)
{
    while (**s == ' ' || **s == '\t')
        (*s)++;
}

int int_ranges_parse(int_ranges *out, const char *text, err *e)
{
    int_ranges r = { 0 };
    const char *s = text;
    int rc = 0;
    memset(out, 0, sizeof *out);
    skip_blanks(&s);
    if (!strcmp(s, "all")) {
        out->all = true;
        return 0;
    }
    while (*s && !rc) {
        int64_t first, last;
        bool ok = read_number(&s, &first);
        skip_blanks(&s);
        last = first;
        if (ok && *s == '-') {
            s++;
            skip_blanks(&s);
            ok = read_number(&s, &last);
            skip_blanks(&s);
        }
        ok = ok && (*s == 0 || *s == ',');
        if (!ok) {
            rc = ERR(e, ERR_CONFIG, "'%.80s', expected 'all' or numbers and ranges like 0-10,15", text);
        } else {
            rc = int_ranges_add(&r, first, last, e);
            if (*s == ',') {
                s++;
                skip_blanks(&s);
                if (!rc && !*s)
                    rc = ERR(e, ERR_CONFIG, "'%.80s', which ends in a comma; write numbers and ranges like 0-10,15",
                             text);
            }
        }
    }
    if (rc)
        int_ranges_release(&r);
    else
        *out = r;
    return rc;
}

bool int_ranges_contains(const int_ranges *r, int64_t i)
{
    if (r->all)
        return i >= 0;
    int low = 0, high = r->n;
    while (low < high) {
        int mid = (low + high) / 2;
        if (i < r->items[mid].first)
            high = mid;
        else if (i > r->items[mid].last)
            low = mid + 1;
        else
            return true;
    }
    return false;
}

int64_t int_ranges_count(const int_ranges *r, int64_t limit)
{
    int64_t n = 0;
    if (r->all)
        return limit > 0 ? limit : 0;
    for (int i = 0; i < r->n && r->items[i].first < limit; i++)
        n += (r->items[i].last < limit ? r->items[i].last + 1 : limit) - r->items[i].first;
    return n;
}

int64_t int_ranges_last(const int_ranges *r)
{
    return r->n ? r->items[r->n - 1].last : -1;
}

void int_ranges_print(const int_ranges *r, str *out)
{
    if (r->all || r->mean)
        str_add(out, r->all ? "all" : "mean");
    for (int i = 0; i < r->n; i++) {
        str_addf(out, "%s%lld", i ? "," : "", (long long)r->items[i].first);
        if (r->items[i].last > r->items[i].first)
            str_addf(out, "-%lld", (long long)r->items[i].last);
    }
}

bool int_ranges_equal(const int_ranges *a, const int_ranges *b)
{
    return a->all == b->all && a->mean == b->mean && a->n == b->n &&
           (a->n == 0 || !memcmp(a->items, b->items, (size_t)a->n * sizeof *a->items));
}

void int_ranges_release(int_ranges *r)
{
    free(r->items);
    memset(r, 0, sizeof *r);
}
