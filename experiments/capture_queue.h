/* capture_queue: what a run shows, on its way from the device into a file while the run goes on.
 *
 * The thread of the run takes an item, queues downloads into it and sends it; a second thread waits for the numbers and hands the
 * items over to `store` in the order in which they were sent. Host memory is bounded: when the file is slower than the run, taking
 * waits. The first failure of `store` is what later calls return; after it nothing is stored any more.
 *
 *     capture_queue_take(q, be, n, &item, &e);
 *     capture_queue_staging(q, be, n, &maps, &e);          a tensor to compute into, or
 *     capture_queue_copy(q, item, value, &e);              a tensor that the run will overwrite
 *     capture_queue_download(q, item, 0, &maps, 0, n, &e);
 *     capture_queue_send(q, item, &e);
 */
#ifndef WANSCOPE_CAPTURE_QUEUE_H
#define WANSCOPE_CAPTURE_QUEUE_H

#include "core/backend.h"

/* One piece of a trace: where it belongs. */
typedef struct capture_record {
    int32_t kind, row, slot;           /* a hook_kind or RECORD_STEP; row, slot of a step, or step; slot of a layer */
    int64_t first, frames, n;          /* frames -1: a whole row; n: numbers that follow */
} capture_record;

typedef struct capture_item {
    capture_record is;
    float *values;                     /* is.n, host memory of the queue */
    struct capture_item_more *more;
} capture_item;

/* Runs in the queue's thread; `values` are borrowed during the call. */
typedef int (*capture_store)(void *user, const capture_record *r, const float *values, err *e);

typedef struct capture_queue capture_queue;

int capture_queue_new(capture_queue **out, capture_store store, void *user, err *e);
/* Waits for the item in work and drops those not stored yet. NULL is harmless. Before the backend is closed. */
void capture_queue_free(capture_queue *q);

/* An item with room for n floats; is.n is set. It goes back with send or, after a failure, with drop. */
int capture_queue_take(capture_queue *q, backend *be, int64_t n, capture_item **out, err *e);
void capture_queue_drop(capture_queue *q, capture_item *item);
int capture_queue_send(capture_queue *q, capture_item *item, err *e);
/* A view of device memory, f32 [n], to compute into; the next but one call may hand the same memory out again, once what was
 * downloaded from it is there. Downloads from it are queued before that call. */
int capture_queue_staging(capture_queue *q, backend *be, int64_t n, tensor *out, err *e);
/* n numbers of the last staging tensor, from `first` on, to item->values + at. */
int capture_queue_download(capture_queue *q, capture_item *item, int64_t at, const tensor *staged, int64_t first, int64_t n, err *e);
/* All of `value` (any float type, widened) to item->values; `value` may be overwritten by what is queued next. */
int capture_queue_copy(capture_queue *q, capture_item *item, const tensor *value, err *e);
/* Waits until everything sent is stored. */
int capture_queue_drain(capture_queue *q, err *e);
/* Host memory that a queue takes at most when its largest item has `largest` bytes and all that are sent between two drains `all`. */
int64_t capture_queue_most(int64_t largest, int64_t all);

#endif
