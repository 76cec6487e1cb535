/* str: a growing byte string. Initialise with STR_INIT, release with str_release().
 *
 * Appending never fails half-way: when memory runs out the string keeps what it had and `failed` becomes true and
 * stays so; check it once at the end. `data` is always NUL-terminated (or NULL while nothing was ever appended;
 * str_text() gives "" then).
 */
#ifndef WANSCOPE_STR_H
#define WANSCOPE_STR_H

#include <stdbool.h>
#include <stddef.h>

typedef struct str {
    char *data;
    size_t len, cap;
    bool failed;
} str;

#define STR_INIT { 0, 0, 0, false }

void str_add(str *s, const char *text);
void str_addn(str *s, const void *bytes, size_t n);
void str_addc(str *s, char c);
void str_addf(str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
const char *str_text(const str *s);
char *str_take(str *s);    /* hands the bytes to the caller (free() them; NULL if it failed) and empties s */
void str_clear(str *s);    /* empty, memory kept */
void str_release(str *s);  /* empty, memory freed */

/* strdup and printf into fresh memory; NULL when memory runs out. free() them. */
char *str_dup(const char *text);
char *str_dupn(const char *text, size_t n);
char *str_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

bool str_ends_with(const char *text, const char *suffix);
bool str_starts_with(const char *text, const char *prefix);

/* Edit distance (Damerau-Levenshtein, restricted) and the candidate nearest to `word`, for "did you mean";
 * NULL when nothing is near (distance above a third of the length, at least 1). */
int str_distance(const char *a, const char *b);
const char *str_nearest(const char *word, const char *const *candidates, size_t n);

#endif
