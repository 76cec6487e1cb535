/* int_ranges: a choice of steps, layers, heads or variations: "0-10,15", a YAML list, "all", for heads also "mean".
 * Kept sorted and merged,
 so that equal choices are equal data. Release with int_ranges_release(); a zeroed one is empty. */
#ifndef WANSCOPE_INT_RANGES_H
#define WANSCOPE_INT_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/str.h"

typedef struct int_range {
    int64_t first, last;   /* both included, 0 <= first <= last */
} int_range;

typedef struct int_ranges {
    bool all;              /* everything there is; items is empty */
    bool mean;             /* one average instead of single entries; items is empty */
    int n;
    int_range *items;
} int_ranges;

#define INT_RANGES_MAX 1000000000   /* largest number that may be listed */

/* The text "all", or numbers and a-b ranges with commas between; "" is the empty choice. On failure `out` is left
 * empty and the sentence continues "... is " (no file or key in it). */
int int_ranges_parse(int_ranges *out, const char *text, err *e);
int int_ranges_add(int_ranges *r, int64_t first, int64_t last, err *e);
bool int_ranges_contains(const int_ranges *r, int64_t i);     /* false for `mean` */
int64_t int_ranges_count(const int_ranges *r, int64_t limit); /* how many of 0..limit-1 are chosen */
int64_t int_ranges_last(const int_ranges *r);                 /* the largest listed number, -1 for none, all and mean */
void int_ranges_print(const int_ranges *r, str *out);         /* "all", "mean", "0-10,15", "" */
bool int_ranges_equal(const int_ranges *a, const int_ranges *b);
void int_ranges_release(int_ranges *r);

#endif
