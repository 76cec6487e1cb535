/* driver: runs a libFuzzer-style target without libFuzzer, so that any compiler can fuzz.
 *
 *     fuzz_x [-seconds N] [-runs N] [-seed S] [-timeout N] [-max_len N] [-dict FILE] [-crash_dir DIR] SEED...
 *
 * SEED are files or folders. Every seed is run once, then mutated ones for N seconds (default 10; 0: only the seeds).
 * When the target and what it tests are compiled with -fsanitize-coverage=trace-pc, inputs that reach new code are kept
 * and mutated further; without it the driver mutates the seeds blindly.
 *
 * The target runs in a child process. Its input lies in memory shared with the parent, so that it survives any kind of
 * death: the parent then writes it to crash-<hash> (or hang-<hash>), says how to repeat it, and exits with 1. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#if defined(__has_attribute)
#if __has_attribute(no_sanitize_coverage)
#define UNSEEN __attribute__((no_sanitize_coverage))
#endif
#endif
#ifndef UNSEEN
#define UNSEEN
#endif

enum { MAP_SIZE = 1 << 16, POOL_MAX = 4096, TOKENS_MAX = 4096, TOKEN_BYTES = 64 };

/* coverage: which places ran, and how often, in powers of two */

static uint8_t trace[MAP_SIZE], seen[MAP_SIZE];
static bool tracing;

void __sanitizer_cov_trace_pc(void);
UNSEEN void __sanitizer_cov_trace_pc(void)
{
    uintptr_t pc = (uintptr_t)__builtin_return_address(0);
    uint32_t at = (uint32_t)((pc ^ pc >> 16) & (MAP_SIZE - 1));
    if (tracing && trace[at] < 255)
        trace[at]++;
}

/* true when the last run reached something new */
UNSEEN static bool new_coverage(void)
{
    bool fresh = false;
    for (size_t i = 0; i < MAP_SIZE; i++) {
        uint8_t n = trace[i], bucket;
        if (!n)
            continue;
        bucket = n < 4 ? (uint8_t)(1u << (n - 1)) : n < 8 ? 8 : n < 16 ? 16 : n < 32 ? 32 : n < 128 ? 64 : 128;
        if (!(seen[i] & bucket)) {
            seen[i] |= bucket;
            fresh = true;
        }
    }
    return fresh;
}

/* what parent and child share */
typedef struct shared {
    volatile uint64_t runs, kept, began_ms;     /* began_ms: when the present run began, 0 between runs */
    volatile size_t size;
    uint8_t input[];
} shared;

typedef struct options {
    double seconds;
    uint64_t runs, seed;
    int timeout;
    size_t max_len;
    const char *dict, *crash_dir;
} options;

typedef struct input {
    uint8_t *data;
    size_t size;
} input;

static struct {
    uint8_t bytes[TOKEN_BYTES];
    size_t size;
} tokens[TOKENS_MAX];
static size_t n_tokens;
static input pool[POOL_MAX];
static size_t n_pool;
static uint64_t rng_state;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static size_t below(size_t n)
{
    return n ? (size_t)(rng() >> 11) % n : 0;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool pool_add(const uint8_t *data, size_t size)
{
    size_t at = n_pool < POOL_MAX ? n_pool : below(POOL_MAX);
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return false;
    memcpy(copy, data, size);
    if (at == n_pool)
        n_pool++;
    else
        free(pool[at].data);
    pool[at] = (input){ copy, size };
    return true;
}

static void token_add(const uint8_t *bytes, size_t size)
{
    if (size < 1 || size > TOKEN_BYTES || n_tokens == TOKENS_MAX)
        return;
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i].size == size && memcmp(tokens[i].bytes, bytes, size) == 0)
            return;
    memcpy(tokens[n_tokens].bytes, bytes, size);
    tokens[n_tokens++].size = size;
}

static bool word_byte(uint8_t c)
{
    return c == '_' || c == '.' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
}

/* words of the seeds are tokens of the format */
static void tokens_from(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && word_byte(p[k]))
            k++;
        if (k - i >= 3)
            token_add(p + i, k - i);
        i = k + (k == i);
    }
}

/* seeds and dictionary */

static int read_seed(const char *path, size_t max_len)
{
    struct stat st;
    if (stat(path, &st)) {
        fprintf(stderr, "%s: cannot read the seed: %s\n", path, strerror(errno));
        return 2;
    }
    if (S_ISDIR(st.st_mode)) {
        struct dirent **list = NULL;
        int rc = 0, n = scandir(path, &list, NULL, alphasort);      /* sorted: the same seed number, the same run */
        for (int i = 0; i < n; i++) {
            char child[4096];
            if (!rc && list[i]->d_name[0] != '.' &&
                snprintf(child, sizeof child, "%s/%s", path, list[i]->d_name) < (int)sizeof child)
                rc = read_seed(child, max_len);
            free(list[i]);
        }
        free(list);
        return rc;
    }
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(max_len + 1);
    size_t n = f && data ? fread(data, 1, max_len, f) : 0;
    bool ok = f && data && pool_add(data, n);
    if (ok)
        tokens_from(data, n);
    else
        fprintf(stderr, "%s: cannot read the seed\n", path);
    if (f)
        fclose(f);
    free(data);
    return ok ? 0 : 2;
}

/* libFuzzer's dictionary: lines [name=]"text with \xNN, \\ and \" escapes", and # comments */
static int read_dict(const char *path)
{
    char line[1024];
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "%s: cannot read the dictionary: %s\n", path, strerror(errno));
        return 2;
    }
    while (fgets(line, sizeof line, f)) {
        uint8_t bytes[TOKEN_BYTES];
        size_t n = 0;
        const char *p = line[0] == '#' ? NULL : strchr(line, '"');
        for (p = p ? p + 1 : NULL; p && *p && *p != '"' && n < sizeof bytes; p++) {
            unsigned v;
            if (*p == '\\' && p[1] == 'x' && sscanf(p + 2, "%2x", &v) == 1) {
                bytes[n++] = (uint8_t)v;
                p += 3;
            } else {
                p += *p == '\\' && p[1];
                bytes[n++] = (uint8_t)*p;
            }
        }
        token_add(bytes, n);
    }
    fclose(f);
    return 0;
}

/* mutation */

static void put_number(uint8_t *p, size_t room)
{
    static const uint64_t NUMBERS[] = { 0, 1, 2, 7, 8, 16, 32, 64, 100, 127, 128, 255, 256, 511, 512, 1000, 1024, 4096,
    32767,
                                        32768, 65535, 65536, 1000000, 2147483647, 2147483648u, 4294967295u, 4294967296u,
                                        9223372036854775807u, 9223372036854775808u, UINT64_MAX };
    uint64_t v = NUMBERS[below(sizeof NUMBERS / sizeof *NUMBERS)];
    size_t width = (size_t)1 << below(4);
    bool big_endian = below(4) == 0;
    if (below(3) == 0)
        v = 0 - v;
    if (width > room)
        width = room;
    for (size_t i = 0; i < width; i++)
        p[i] = (uint8_t)(v >> (8 * (big_endian ? width - 1 - i : i)));
}

/* makes room for n bytes at `at` */
static bool open_gap(uint8_t *p, size_t *size, size_t at, size_t n, size_t max_len)
{
    if (n > max_len - *size)
        return false;
    memmove(p + at + n, p + at, *size - at);
    *size += n;
    return true;
}

static void mutate_once(uint8_t *p, size_t *size, size_t max_len)
{
    size_t at = below(*size), n;
    char digits[32];
    switch (below(12)) {
    case 0:
        if (*size)
            p[at] ^= (uint8_t)(1u << below(8));
        break;
    case 1:
        if (*size)
            p[at] = (uint8_t)rng();
        break;
    case 2:
        if (*size)
            put_number(p + at, *size - at);
        break;
    case 3:     /* truncate */
        if (below(4) == 0)
            *size = below(*size + 1);
        break;
    case 4:     /* delete */
        n = below(*size - at < 64 ? *size - at : 64) + 1;
        if (*size >= at + n) {
            memmove(p + at, p + at + n, *size - at - n);
            *size -= n;
        }
        break;
    case 5:     /* insert */
        n = below(16) + 1;
        if (open_gap(p, size, at, n, max_len)) {
            uint8_t v = (uint8_t)rng();
            bool same = below(2) == 0;
            for (size_t i = 0; i < n; i++)
                p[at + i] = same ? v : (uint8_t)rng();
        }
        break;
    case 6: {   /* duplicate a stretch elsewhere */
        size_t from = below(*size);
        n = below(*size - from < 128 ? *size - from : 128) + 1;
        if (*size >= from + n && n <= 128) {
            uint8_t copy[128];
            memcpy(copy, p + from, n);
            if (open_gap(p, size, at, n, max_len))
                memcpy(p + at, copy, n);
        }
        break;
    }
    case 7:     /* overwrite with a token */
        if (n_tokens) {
            size_t t = below(n_tokens);
            n = tokens[t].size < *size - at ? tokens[t].size : *size - at;
            memcpy(p + at, tokens[t].bytes, n);
        }
        break;
    case 8:     /* insert a token */
        if (n_tokens) {
            size_t t = below(n_tokens);
            if (open_gap(p, size, at, tokens[t].size, max_len))
                memcpy(p + at, tokens[t].bytes, tokens[t].size);
        }
        break;
    case 9: {   /* splice: our head, another input's tail */
        const input *other = &pool[below(n_pool)];
        size_t from = below(other->size);
        n = other->size - from;
        if (n <= max_len - at) {
            memcpy(p + at, other->data + from, n);
            *size = at + n;
        }
        break;
    }
    case 10: {  /* a decimal number in place of one */
        while (at < *size && !(p[at] >= '0' && p[at] <= '9'))
            at++;
        for (n = 0; at + n < *size && p[at + n] >= '0' && p[at + n] <= '9';)
            n++;
        if (!n)
            break;
        uint8_t number[8] = { 0 };
        uint64_t v;
        put_number(number, 8);
        memcpy(&v, number, 8);
        size_t len = (size_t)snprintf(digits, sizeof digits, below(2) ? "%" PRIu64 : "%" PRId64, v);
        if (*size - n + len <= max_len) {
            memmove(p + at + len, p + at + n, *size - at - n);
            memcpy(p + at, digits, len);
            *size = *size - n + len;
        }
        break;
    }
    default:    /* swap two bytes */
        if (*size > 1) {
            size_t to = below(*size);
            uint8_t v = p[at];
            p[at] = p[to];
            p[to] = v;
        }
    }
}

/* the child */

static void run_one(shared *s)
{
    /* an exact allocation, so that the sanitizer sees a read one byte too far */
    size_t size = s->size;
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        _exit(97);
    memcpy(exact, s->input, size);
    memset(trace, 0, sizeof trace);
    s->began_ms = now_ms();
    tracing = true;
    LLVMFuzzerTestOneInput(exact, size);
    tracing = false;
    s->began_ms = 0;
    s->runs++;
    free(exact);
}

static void work(shared *s, const options *o)
{
    uint64_t end = now_ms() + (uint64_t)(o->seconds * 1000);
    for (size_t i = 0; i < n_pool; i++) {
        s->size = pool[i].size;
        memcpy(s->input, pool[i].data, pool[i].size);
        run_one(s);
        new_coverage();
    }
    if (!n_pool)
        pool_add((const uint8_t *)"", 0);
    while (o->seconds > 0 && s->runs < o->runs && now_ms() < end) {
        /* half of the time one of the latest finds */
        const input *from = &pool[below(2) && n_pool > 16 ? n_pool - 1 - below(16) : below(n_pool)];
        size_t size = from->size, n = (size_t)1 << below(5);
        memcpy(s->input, from->data, size);
        for (size_t i = 0; i < n; i++)
            mutate_once(s->input, &size, o->max_len);
        s->size = size;
        run_one(s);
        if (new_coverage() && pool_add(s->input, size))
            s->kept++;
    }
}

/* the parent */

static void keep_input(const shared *s, const options *o, const char *kind, const char *program)
{
    char path[4096];
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < s->size; i++)
        hash = (hash ^ s->input[i]) * 1099511628211u;
    snprintf(path, sizeof path, "%s/%s-%016" PRIx64, o->crash_dir, kind, hash);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(s->input, 1, s->size, f) == s->size;
    if (f && fclose(f))
        ok = false;
    if (ok)
        fprintf(stderr, "the input of %zu bytes is in %s; repeat with: %s -seconds 0 %s\n", s->size, path, program,
                path);
    else
        fprintf(stderr, "%s: the input could not be written: %s\n", path, strerror(errno));
}

static int supervise(pid_t child, shared *s, const options *o, const char *program)
{
    int status = 0;
    for (;;) {
        pid_t got = waitpid(child, &status, WNOHANG);
        if (got == child)
            break;
        if (got < 0 && errno != EINTR)
            return 1;
        uint64_t began = s->began_ms;
        if (began && now_ms() > began + (uint64_t)o->timeout * 1000) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            fprintf(stderr, "HANG: one input took more than %d s\n", o->timeout);
            keep_input(s, o, "hang", program);
            return 1;
        }
        usleep(20000);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (s->began_ms) {
        fprintf(stderr, "CRASH: %s %d after %" PRIu64 " runs\n", WIFSIGNALED(status) ? "signal" : "exit status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), s->runs);
        keep_input(s, o, "crash", program);
    } else {
        fprintf(stderr, "FAIL: exit status %d at the end, after %" PRIu64 " runs; a leak is reported above\n",
                WIFEXITED(status) ? WEXITSTATUS(status) : -1, s->runs);
    }
    return 1;
}

static int usage(void)
{
    fputs("usage: fuzz_x [-seconds N] [-runs N] [-seed S] [-timeout N] [-max_len N] [-dict FILE] [-crash_dir DIR] "
          "SEED...\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    options o = { .seconds = 10, .runs = UINT64_MAX, .seed = 1, .timeout = 20, .max_len = 1 << 16, .crash_dir = "." };
    int first = 1, rc = 0;
    for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
        const char *name = argv[first], *value = argv[first + 1];
        if (strcmp(name, "-seconds") == 0)
            o.seconds = strtod(value, NULL);
        else if (strcmp(name, "-runs") == 0)
            o.runs = strtoull(value, NULL, 10);
        else if (strcmp(name, "-seed") == 0)
            o.seed = strtoull(value, NULL, 10);
        else if (strcmp(name, "-timeout") == 0)
            o.timeout = atoi(value);
        else if (strcmp(name, "-max_len") == 0)
            o.max_len = (size_t)strtoull(value, NULL, 10);
        else if (strcmp(name, "-dict") == 0)
            o.dict = value;
        else if (strcmp(name, "-crash_dir") == 0)
            o.crash_dir = value;
        else
            return usage();
    }
    if ((first < argc && argv[first][0] == '-') || o.max_len < 1 || o.max_len > 1u << 30 || o.timeout < 1)
        return usage();
    rng_state = o.seed * 0x9e3779b97f4a7c15u + 0x1234567;
    if (o.dict)
        rc = read_dict(o.dict);
    for (int i = first; i < argc && !rc; i++)
        rc = read_seed(argv[i], o.max_len);
    if (rc)
        return rc;
    size_t bytes = sizeof(shared) + o.max_len;
    shared *s = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s == MAP_FAILED) {
        fprintf(stderr, "no memory for inputs of %zu bytes\n", o.max_len);
        return 2;
    }
    uint64_t start = now_ms();
    size_t n_seeds = n_pool;
    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "cannot start the child: %s\n", strerror(errno));
        return 2;
    }
    if (child == 0) {
        work(s, &o);
        for (size_t i = 0; i < n_pool; i++)
            free(pool[i].data);
        exit(0);        /* the leak check runs here */
    }
    rc = supervise(child, s, &o, argv[0]);
    printf("%" PRIu64 " runs in %.1f s (%zu seeds, %" PRIu64 " inputs kept for new code): %s\n", s->runs,
           (double)(now_ms() - start) / 1000, n_seeds, s->kept, rc ? "FAIL" : "pass");
    for (size_t i = 0; i < n_pool; i++)
        free(pool[i].data);
    munmap(s, bytes);
    return rc;
}
