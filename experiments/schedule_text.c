#include "experiments/schedule_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/str.h"

/* Where `step` belongs among ascending steps: the number of entries before it. */
static int place_of(const int64_t *steps, int n, int64_t step)
{
    int i = 0;
    while (i < n && steps[i] < step)
        i++;
    return i;
}

/* Room for one more step and one more element of `size` bytes. Both arrays stay valid when memory runs out. */
static int grow(int64_t **steps, void **values, size_t size, int n, int64_t step, err *e)
{
    int i = place_of(*steps, n, step);
    if (step < 0)
        return ERR(e, ERR_CONFIG, "step %lld; steps count from 0", (long long)step);
    if (i < n && (*steps)[i] == step)
        return ERR(e, ERR_CONFIG, "step %lld given twice", (long long)step);
    int64_t *s = realloc(*steps, ((size_t)n + 1) * sizeof *s);
    if (s)
        *steps = s;
    void *v = realloc(*values, ((size_t)n + 1) * size);
    if (v)
        *values = v;
    if (!s || !v)
        return ERR(e, ERR_MEMORY, "out of memory for a schedule");
    memmove(s + i + 1, s + i, (size_t)(n - i) * sizeof *s);
    memmove((char *)v + (size_t)(i + 1) * size, (char *)v + (size_t)i * size, (size_t)(n - i) * size);
    s[i] = step;
    return 0;
}

int guidance_schedule_add(guidance_schedule *s, int64_t step, double value, err *e)
{
    int i = place_of(s->steps, s->n, step);
    int rc = grow(&s->steps, (void **)&s->values, sizeof *s->values, s->n, step, e);
    if (rc)
        return rc;
    s->values[i] = value;
    s->n++;
    return 0;
}

int prompt_schedule_add(prompt_schedule *s, int64_t step, const char *text, err *e)
{
    int i = place_of(s->steps, s->n, step);
    char *copy = str_dup(text);
    if (!copy)
        return ERR(e, ERR_MEMORY, "out of memory for a schedule");
    int rc = grow(&s->steps, (void **)&s->texts, sizeof *s->texts, s->n, step, e);
    if (rc) {
        free(copy);
        return rc;
    }
    s->texts[i] = copy;
    s->n++;
    return 0;
}

void guidance_schedule_release(guidance_schedule *s)
{
    free(s->steps);
    free(s->values);
    memset(s, 0, sizeof *s);
}

void prompt_schedule_release(prompt_schedule *s)
{
    for (int i = 0; i < s->n; i++)
        free(s->texts[i]);
    free(s->texts);
    free(s->steps);
    memset(s, 0, sizeof *s);
}

/* Entries a <= b around `step` and the fraction between them. */
static void around(const int64_t *steps, int n, int64_t step, int *a, int *b, double *t)
{
    int i = place_of(steps, n, step);
    *t = 0;
    if (i == n) {
        *a = *b = n - 1;
    } else if (steps[i] == step || i == 0) {
        *a = *b = i;
    } else {
        *a = i - 1;
        *b = i;
        *t = (double)(step - steps[i - 1]) / (double)(steps[i] - steps[i - 1]);
    }
}

double guidance_schedule_at(const guidance_schedule *s, guidance_interpolation how, int64_t step, double fallback)
{
    int a, b;
    double t;
    if (s->n == 0)
        return fallback;
    around(s->steps, s->n, step, &a, &b, &t);
    if (how == GUIDANCE_STEP || t == 0)
        return s->values[a];
    if (how == GUIDANCE_COSINE)
        t = 0.5 * (1 - cos(3.14159265358979323846 * t));
    return s->values[a] + t * (s->values[b] - s->values[a]);
}

void prompt_schedule_at(const prompt_schedule *s, prompt_interpolation how, int64_t step, int *a, int *b, double *t)
{
    around(s->steps, s->n, step, a, b, t);
    if (how == PROMPT_STEP) {
        *b = *a;
        *t = 0;
    }
}
