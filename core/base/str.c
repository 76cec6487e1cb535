#include "core/base/str.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* room for `more` bytes and the final NUL */
static bool str_reserve(str *s, size_t more)
{
    if (s->failed)
        return false;
    if (more >= SIZE_MAX - s->len) {
        s->failed = true;
        return false;
    }
    size_t need = s->len + more + 1;
    if (need <= s->cap)
        return true;
    size_t cap = s->cap ? s->cap : 32;
    while (cap < need) {
        if (cap > SIZE_MAX / 2) {
            cap = need;
            break;
        }
        cap *= 2;
    }
    char *data = realloc(s->data, cap);
    if (!data) {
        s->failed = true;
        return false;
    }
    if (!s->data)
        data[0] = '\0';
    s->data = data;
    s->cap = cap;
    return true;
}

void str_addn(str *s, const void *bytes, size_t n)
{
    if (!str_reserve(s, n))
        return;
    if (n)
        memcpy(s->data + s->len, bytes, n);
    s->len += n;
    s->data[s->len] = '\0';
}

void str_add(str *s, const char *text)
{
    str_addn(s, text, strlen(text));
}

void str_addc(str *s, char c)
{
    str_addn(s, &c, 1);
}

void str_addf(str *s, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0)
        s->failed = true;
    else if (str_reserve(s, (size_t)n)) {
        vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
        s->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

const char *str_text(const str *s)
{
    return s->data ? s->data : "";
}

char *str_take(str *s)
{
    char *data = NULL;
    if (!s->failed)
        data = s->data ? s->data : str_dup("");
    else
        free(s->data);
    *s = (str)STR_INIT;
    return data;
}

void str_clear(str *s)
{
    s->len = 0;
    s->failed = false;
    if (s->data)
        s->data[0] = '\0';
}

void str_release(str *s)
{
    free(s->data);
    *s = (str)STR_INIT;
}

char *str_dupn(const char *text, size_t n)
{
    char *copy = n < SIZE_MAX ? malloc(n + 1) : NULL;
    if (!copy)
        return NULL;
    if (n)
        memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

char *str_dup(const char *text)
{
    return str_dupn(text, strlen(text));
}

char *str_format(const char *fmt, ...)
{
    va_list ap, again;
    char *text = NULL;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0)
        text = malloc((size_t)n + 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(ap);
    return text;
}

bool str_starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool str_ends_with(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && memcmp(text + n - m, suffix, m) == 0;
}

int str_distance(const char *a, const char *b)
{
    /* words for "did you mean" are short; longer ones count their first 63 bytes and the difference in length */
    enum { LIMIT = 63 };
    size_t n = strlen(a), m = strlen(b), extra = 0;
    if (n > LIMIT || m > LIMIT) {
        size_t cut_n = n > LIMIT ? n - LIMIT : 0, cut_m = m > LIMIT ? m - LIMIT : 0;
        extra = cut_n > cut_m ? cut_n - cut_m : cut_m - cut_n;
        n -= cut_n;
        m -= cut_m;
    }
    int row[3][LIMIT + 1];      /* rows i-2, i-1 and i of the table, taken in turn */
    for (size_t j = 0; j <= m; j++)
        row[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            if (last[j] + 1 < best)
                best = last[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
                best = before[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m] + (int)(extra > 1000000 ? 1000000 : extra);
}

const char *str_nearest(const char *word, const char *const *candidates, size_t n)
{
    size_t len = strlen(word);
    int limit = len / 3 > 1 ? (int)(len / 3 > 1000 ? 1000 : len / 3) : 1;
    const char *best = NULL;
    for (size_t i = 0; i < n; i++) {
        int d = str_distance(word, candidates[i]);
        if (d <= limit) {
            if (best && d == limit)
                continue;       /* an earlier candidate was as near */
            best = candidates[i];
            limit = d;
            if (d == 0)
                break;
        }
    }
    return best;
}
