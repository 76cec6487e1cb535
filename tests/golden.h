/* golden: comparing our numbers with the upstream code's, one printed line a comparison. */
#ifndef WANSCOPE_GOLDEN_H
#define WANSCOPE_GOLDEN_H

#include <stdbool.h>

#include "core/backend.h"
#include "core/base/json.h"
#include "core/io/ckpt.h"
#include "core/precision.h"

typedef struct golden {
    const char *dir;            /* the folder checked */
    backend *be;
    const precision *prec;
    double bound;               /* of |ours - reference| / |reference|, in place of every tolerance but 0 where the precision is not exact; else 0 */
    ckpt *file;                 /* its golden.safetensors */
    int compared, failed, left_out;
} golden;

enum { GOLDEN_MAX_COUNT = 1 << 28 };

/* A golden tensor as f32 (free() it), its element count, and its record; NULL when the key is absent. */
float *golden_f32(golden *g, const char *key, int64_t *n, const ckpt_tensor **record);
bool golden_has(golden *g, const char *key);
/* Compares n values: largest |ours - ref| over the largest |ref|; NaN never passes. tolerance 0: equal in every bit. */
void golden_compare(golden *g, const char *name, const float *ours, const float *ref, int64_t n, double tolerance);
void golden_compare_abs(golden *g, const char *name, const float *ours, const float *ref, int64_t n, double tolerance);
/* Compares with a key of the file */
void golden_compare_key(golden *g, const char *key, const float *ours, int64_t n, double tolerance);
void golden_compare_tensor(golden *g, const char *key, const tensor *ours, double tolerance);
void golden_result(golden *g, const char *name, bool pass, const char *detail);
void golden_fail(golden *g, const char *name, const char *why);
/* A comparison this build cannot make (no sentencepiece): said, counted apart, no pass. */
void golden_leave_out(golden *g, const char *name, const char *why);
json *golden_json(golden *g, const char *file);      /* NULL (and a failed line) when it cannot be read */
char *golden_path(golden *g, const char *file);      /* free() it */
/* The path a case.json gives relative to the folder */

void golden_wan(golden *g);                          /* wan-t2v layout */
void golden_wan22(golden *g);                        /* wan22-a14b layout */
void golden_holocine(golden *g);                     /* holocine layout */
void golden_longlive(golden *g);                     /* longlive layout */
void golden_scope_vace(golden *g);                   /* scope-vace layout, beside longlive */
void golden_wan_vace(golden *g);                     /* wan-vace layout */
void golden_rng(golden *g);                          /* rng layout */

#endif
