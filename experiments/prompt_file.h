/* prompt_file: prompts one a line, with options behind them, as H1111's --from_file reads them:
 *
 *     # a comment; blank lines count for nothing
 *     a cat on a sofa --d 7 --w 832 --h 480 --n blurred
 *
 * w width, h height, f frames, d seed, s steps, g or l guidance, fs shift, n negative prompt. */
#ifndef WANSCOPE_PROMPT_FILE_H
#define WANSCOPE_PROMPT_FILE_H

#include "core/base/err.h"

typedef struct prompt_line {
    int number;              /* in the file, from 1 */
    int n;                   /* words for a command line: --prompt TEXT and pairs of options */
    char **words;
} prompt_line;

typedef struct prompt_file {
    int n;
    prompt_line *lines;
} prompt_file;

/* ERR_ARG with file and line: an unknown option, no prompt, no value; ERR_IO; no prompt in the whole file. */
int prompt_file_read(prompt_file *out, const char *path, err *e);
void prompt_file_release(prompt_file *f);

#endif
