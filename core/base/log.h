/* log: messages for people. stderr gets what the level allows; a log file, when set, gets everything with a time stamp.
 * stdout is never touched: it carries data. Thread-safe. */
#ifndef WANSCOPE_LOG_H
#define WANSCOPE_LOG_H

#include "core/base/err.h"

typedef enum { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;

void log_set_level(log_level level);                              /* what stderr shows; default LOG_INFO */
int log_open_file(const char *path, err *e);                      /* appends; creates folders */
void log_close_file(void);
void log_msg(log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* One progress line: on a terminal it is redrawn in place, otherwise it is printed as a plain line at most every
 * ten seconds and when `done` equals `total`. log_msg() clears and restores it. */
void log_progress(const char *what, long long done, long long total, double seconds_left);
void log_progress_end(void);

#endif
