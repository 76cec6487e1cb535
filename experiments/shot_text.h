/* shot_text: multi-shot prompts as text, "[global caption] ... [per shot caption] a [shot cut] b", taken apart and checked
 * against the cuts before anything is encoded. docs/holocine.md. */
#ifndef WANSCOPE_SHOT_TEXT_H
#define WANSCOPE_SHOT_TEXT_H

#include <stdbool.h>

#include "core/base/err.h"
#include "core/base/str.h"

typedef struct shot_text {
    char *global;          /* without blanks at its ends */
    int n;
    char **captions;       /* the same, one a shot */
} shot_text;

/* Does the text have a mark that asks for shots, "[per shot caption]" or "[shot cut]"? */
bool shot_text_marked(const char *text);
/* How many captions the marks make; 0 without "[per shot caption]". */
int shot_text_count(const char *text);
/* ERR_CONFIG, in a sentence without a place: a mark is missing, stands in the wrong order, or a caption is empty. */
int shot_text_parse(shot_text *out, const char *text, err *e);
void shot_text_release(shot_text *t);

/* Parses, and counts: ERR_CONFIG unless there is one cut less than captions. */
int shot_text_check(const char *text, int n_cuts, err *e);

/* "[41, 81]": the evenly spaced cuts of a video of n shots. */
int shot_text_even_cuts(str *out, int n, int frames, err *e);

#endif
