/* schedule_text: guidance and prompts that change while a video is denoised, as maps step -> value.
 *
 * A step is the index of a model call, 0 for the first. Before the first key its value holds,
 behind the last key the last.
 * Sources: harness.md 1.7, 1.8. Unlike upstream the cosine uses pi itself, not 3.14159 in f32. */
#ifndef WANSCOPE_SCHEDULE_TEXT_H
#define WANSCOPE_SCHEDULE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

typedef enum { GUIDANCE_LINEAR, GUIDANCE_STEP, GUIDANCE_COSINE } guidance_interpolation;
typedef enum { PROMPT_SLERP, PROMPT_LERP, PROMPT_STEP } prompt_interpolation;

typedef struct guidance_schedule {
    int n;                /* 0: no schedule */
    int64_t *steps;       /* ascending, >= 0 */
    double *values;
} guidance_schedule;

typedef struct prompt_schedule {
    int n;
    int64_t *steps;       /* ascending, >= 0 */
    char **texts;         /* with marks and escapes, as a template without alternatives */
} prompt_schedule;

/* Inserts in order; ERR_CONFIG for a step that is there already. */
int guidance_schedule_add(guidance_schedule *s, int64_t step, double value, err *e);
int prompt_schedule_add(prompt_schedule *s, int64_t step, const char *text, err *e);
void guidance_schedule_release(guidance_schedule *s);
void prompt_schedule_release(prompt_schedule *s);

/* The guidance scale of a step; `fallback` without a schedule. */
double guidance_schedule_at(const guidance_schedule *s, guidance_interpolation how, int64_t step, double fallback);

/* Which two texts step lies between and how far (0 <= t < 1): the embedding is the one of texts[a] when t == 0, else
 * between those of texts[a] and texts[b]. With PROMPT_STEP t is always 0. The schedule must not be empty. */
void prompt_schedule_at(const prompt_schedule *s, prompt_interpolation how, int64_t step, int *a, int *b, double *t);

#endif
