#include "core/base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/str.h"

static struct {
    pthread_mutex_t lock;
    log_level level;
    FILE *file;
    char line[512];             /* the progress line now on the terminal; "" when there is none */
    bool plain_seen;            /* for a stderr that is no terminal: when and what was last printed */
    double plain_at;
    char plain_what[128];
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO };

static double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void log_set_level(log_level level)
{
    pthread_mutex_lock(&state.lock);
    state.level = level;
    pthread_mutex_unlock(&state.lock);
}

int log_open_file(const char *path, err *e)
{
    int rc = 0;
    const char *name = fs_basename(path);
    if (name > path) {
        char *folder = str_dupn(path, (size_t)(name - path));
        if (!folder)
            return ERR(e, ERR_MEMORY, "%s: memory ran out while opening the log", path);
        rc = fs_mkdirs(folder, e);
        free(folder);
        if (rc)
            return rc;
    }
    FILE *file = fopen(path, "ae");
    if (!file)
        return ERR(e, ERR_IO, "%s: cannot open the log file: %s", path, strerror(errno));
    pthread_mutex_lock(&state.lock);
    if (state.file)
        fclose(state.file);
    state.file = file;
    pthread_mutex_unlock(&state.lock);
    return 0;
}

void log_close_file(void)
{
    pthread_mutex_lock(&state.lock);
    if (state.file)
        fclose(state.file);
    state.file = NULL;
    pthread_mutex_unlock(&state.lock);
}

static void clear_line(void)
{
    if (state.line[0])
        fputs("\r\033[K", stderr);
}

void log_msg(log_level level, const char *fmt, ...)
{
    static const char *const LABEL[] = { "error", "warning", "info", "debug" };
    va_list ap, again;
    char stamp[40] = "";
    struct timespec t;
    struct tm local;
    if ((unsigned)level > LOG_DEBUG)
        level = LOG_DEBUG;
    clock_gettime(CLOCK_REALTIME, &t);
    if (localtime_r(&t.tv_sec, &local))
        strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &local);
    va_start(ap, fmt);
    va_copy(again, ap);
    pthread_mutex_lock(&state.lock);
    if (level <= state.level) {
        clear_line();
        if (level != LOG_INFO)
            fprintf(stderr, "%s: ", LABEL[level]);
        vfprintf(stderr, fmt, ap);
        fputc('\n', stderr);
        if (state.line[0])
            fputs(state.line, stderr);
        fflush(stderr);
    }
    if (state.file) {
        fprintf(state.file, "%s.%03ld %-7s ", stamp, t.tv_nsec / 1000000, LABEL[level]);
        vfprintf(state.file, fmt, again);
        fputc('\n', state.file);
        fflush(state.file);
    }
    pthread_mutex_unlock(&state.lock);
    va_end(again);
    va_end(ap);
}

static void describe_time(char *out, size_t n, double seconds)
{
    if (!(seconds >= 0)) {
        out[0] = '\0';
    } else if (seconds >= 3600) {
        long long minutes = seconds < 1e12 ? (long long)(seconds / 60) : 0;
        snprintf(out, n, ", %lld h %02lld min left", minutes / 60, minutes % 60);
    } else if (seconds >= 60) {
        snprintf(out, n, ", %d min %02d s left", (int)seconds / 60, (int)seconds % 60);
    } else {
        snprintf(out, n, ", %d s left", (int)(seconds + 0.5));
    }
}

void log_progress(const char *what, long long done, long long total, double seconds_left)
{
    char text[sizeof state.line], left[64];
    describe_time(left, sizeof left, seconds_left);
    if (total > 0)
        snprintf(text, sizeof text, "%.300s %lld/%lld (%d %%)%s", what, done, total, (int)(100.0 * (double)done /
                 (double)total), left);
    else
        snprintf(text, sizeof text, "%.300s %lld%s", what, done, left);
    pthread_mutex_lock(&state.lock);
    if (state.level < LOG_INFO) {
        /* a quiet run shows no progress */
    } else if (isatty(STDERR_FILENO)) {
        struct winsize size;
        size_t width = sizeof text;
        if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && size.ws_col < sizeof text)
            width = size.ws_col;        /* a line that wraps cannot be redrawn in place */
        if (strlen(text) >= width) {
            size_t cut = width - 1;
            while (cut > 0 && ((unsigned char)text[cut] & 0xc0) == 0x80)
                cut--;
            text[cut] = '\0';
        }
        clear_line();
        fputs(text, stderr);
        fflush(stderr);
        memcpy(state.line, text, sizeof text);
    } else {
        double now = now_seconds();
        bool other = strncmp(state.plain_what, what, sizeof state.plain_what - 1) != 0;
        if (!state.plain_seen || other || done == total || now - state.plain_at >= 10) {
            fprintf(stderr, "%s\n", text);
            fflush(stderr);
            state.plain_seen = true;
            state.plain_at = now;
            snprintf(state.plain_what, sizeof state.plain_what, "%s", what);
        }
    }
    pthread_mutex_unlock(&state.lock);
}

void log_progress_end(void)
{
    pthread_mutex_lock(&state.lock);
    if (state.line[0]) {
        fputc('\n', stderr);
        fflush(stderr);
        state.line[0] = '\0';
    }
    state.plain_seen = false;
    pthread_mutex_unlock(&state.lock);
}
