/* output: where results go. CSV and JSON are built in memory and written whole; numbers that do not exist are empty
 * cells in CSV and null in JSON. */
#ifndef WANSCOPE_OUTPUT_H
#define WANSCOPE_OUTPUT_H

#include <stdbool.h>
#include <stdint.h>

#include "analysis/lib/sweep.h"
#include "core/base/err.h"
#include "core/base/json.h"
#include "core/base/str.h"

#ifndef WANSCOPE_VERSION
#define WANSCOPE_VERSION "0.1.0"
#endif

typedef enum { PLOTS_NONE, PLOTS_SVG, PLOTS_PNG } plot_format;

typedef struct output {
    const char *dir; /* exists */
    bool csv, json;
    plot_format plots;
    int64_t resamples; /* bootstrap */
    uint64_t seed;
    int64_t n_files; /* written so far */
} output;

int output_write(output *o, const char *name, const void *bytes, size_t n, err *e);
int output_write_str(output *o, const char *name, str *text, err *e); /* releases text */

/* One CSV row: csv_text / csv_int / csv_number in order, then csv_end. */
void csv_text(str *s, const char *text);
void csv_int(str *s, int64_t v);
void csv_number(str *s, double v);
void csv_end(str *s);

/* The members every JSON result starts with: program, command, batch, rows, sigmas, variations, skipped runs ... The
 * object stays open. */
void output_json_head(json_writer *w, const output *o, const sweep *s, const char *command, const char *batch_dir);

#endif
