/* forecast: what a batch will take: runs, time, memory, disk. Computed from shapes; nothing is started.
 *
 * Time is arithmetic over a measured rate: a quarter of a second of matrix products on this machine. Once runs of the batch
 * are in its manifest their seconds and bytes take the place of the estimate. */
#ifndef WANSCOPE_FORECAST_H
#define WANSCOPE_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/str.h"
#include "experiments/batch.h"
#include "experiments/run_one.h"

typedef struct forecast {
    uint64_t variations, runs, runs_left;
    int64_t seeds;
    int steps;
    int64_t shape[4];                /* of the latents */
    int64_t tokens;
    double flops_run;                /* text, steps, decoding */
    double rate;                     /* measured, operations a second */
    double seconds_run, seconds_left;
    bool from_finished_runs;         /* seconds and bytes are means of finished runs */
    int64_t host_bytes, device_bytes;      /* peak while a run goes; device_bytes 0 on the CPU; with a GPU host_bytes is streamed blocks and buffer_bytes */
    int64_t buffer_bytes;            /* within host_bytes: on the way into the trace, at most */
    engine_memory memory;            /* of what device_bytes consists */
    int layers;
    int64_t weight_bytes;
    int64_t trace_bytes, video_bytes, run_bytes, bytes_left;
    int64_t free_bytes;              /* where the batch goes; -1 unknown */
    bool fits;
    const char *device, *family;
} forecast;

/* `m` may be NULL (no batch yet); `n_done` runs of it are done. `dir`: where the batch lies or will lie. */
int forecast_make(forecast *f, runner *r, const batch *b, const manifest *m, uint64_t n_done, const char *dir, err *e);

void forecast_print(const forecast *f, str *out);      /* lines for people */
void forecast_line(const forecast *f, str *out);       /* one line */
void forecast_json(const forecast *f, str *out);
/* A warning when what is left will not fit on the disk. */
void forecast_warn(const forecast *f, const char *dir);

/* "1.4 GB", "3 h 20 min", for messages. */
void forecast_bytes_text(str *out, int64_t bytes);
void forecast_time_text(str *out, double seconds);

#endif
