#include "core/sample/windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int windows_latents(int frames)
{
    return frames < 1 ? 1 : (frames - 1) / 4 + 1;
}

int windows_overlap_latents(int frames)
{
    return frames < 1 ? 0 : (frames - 1) / 4 + 1;
}

void windows_release(window_list *l)
{
    for (int i = 0; i < l->n; i++)
        free(l->items[i].frames);
    free(l->items);
    *l = (window_list){ 0 };
}

static int no_memory(err *e)
{
    return ERR(e, ERR_MEMORY, "no memory for context windows");
}

/* n frames from `first` on, every step-th, modulo `all`; inserted at place `at`. */
static int insert(window_list *l, int at, int64_t first, int n, int step, int all, err *e)
{
    window *more = realloc(l->items, ((size_t)l->n + 1) * sizeof *more);
    if (!more)
        return no_memory(e);
    l->items = more;
    int *frames = malloc((size_t)n * sizeof *frames);
    if (!frames)
        return no_memory(e);
    for (int i = 0; i < n; i++)
        frames[i] = (int)((first + (int64_t)i * step) % all);
    memmove(l->items + at + 1, l->items + at, (size_t)(l->n - at) * sizeof *l->items);
    l->items[at] = (window){ n, frames };
    l->n++;
    return 0;
}

static bool holds(const window *w, int frame)
{
    for (int i = 0; i < w->n; i++)
        if (w->frames[i] == frame)
            return true;
    return false;
}

static bool same(const window *a, const window *b)
{
    return a->n == b->n && memcmp(a->frames, b->frames, (size_t)a->n * sizeof *a->frames) == 0;
}

/* Windows that run over the end are moved back to end there; what their rest stood for gets a window of its own unless the
 * next one has it; repeated windows go. */
static int unroll(window_list *l, const window_options *o, int n, err *e)
{
    for (int i = 0; i < l->n; i++) {
        window *w = &l->items[i];
        int roll = 1;
        while (roll < w->n && w->frames[roll] >= w->frames[roll - 1])
            roll++;
        if (roll >= w->n)
            continue;
        int value = w->frames[roll], start = w->frames[0];
        for (int k = 0; k < w->n; k++)
            w->frames[k] = (w->frames[k] - start + n) % n;
        int by = n - 1 - w->frames[w->n - 1];
        for (int k = 0; k < w->n; k++)
            w->frames[k] += by;
        if (!holds(&l->items[(i + 1) % l->n], value)) {
            int rc = insert(l, i + 1, value, o->length, 1, n, e);
            if (rc)
                return rc;
        }
    }
    int kept = 0;
    for (int i = 0; i < l->n; i++) {
        bool again = false;
        for (int k = 0; k < kept; k++)
            again |= same(&l->items[k], &l->items[i]);
        if (again)
            free(l->items[i].frames);
        else
            l->items[kept++] = l->items[i];
    }
    l->n = kept;
    return 0;
}

static int make_uniform(window_list *l, const window_options *o, int n, err *e)
{
    int levels = (int)ceil(log2((double)n / o->length)) + 1, rc = 0;
    levels = o->stride < levels ? o->stride : levels;
    for (int k = 0; k < levels && !rc; k++) {
        int64_t step = INT64_C(1) << k, advance = o->length * step - o->overlap, end = n - (o->closed_loop ? 0 : o->overlap);
        for (int64_t j = 0; j < end && !rc; j += advance)
            rc = insert(l, l->n, j, o->length, (int)step, n, e);
    }
    return rc || o->schedule == WINDOWS_LOOPED ? rc : unroll(l, o, n, e);
}

static int make_even(window_list *l, const window_options *o, int n, err *e)
{
    bool batched = o->schedule == WINDOWS_BATCHED;
    int step = batched ? o->length : o->length - o->overlap, rc = 0;
    for (int start = 0; start < n && !rc; start += step) {
        bool last = start + o->length >= n;
        if (batched)
            rc = insert(l, l->n, start, last ? n - start : o->length, 1, n, e);
        else
            rc = insert(l, l->n, last ? n - o->length : start, o->length, 1, n, e);
        if (last)
            break;
    }
    return rc;
}

int windows_make(window_list *out, const window_options *o, int n, err *e)
{
    *out = (window_list){ 0 };
    if (o->length < 1 || o->overlap < 0 || o->overlap >= o->length || o->stride < 1)
        return ERR(e, ERR_CONFIG, "context windows of %d latent frames that overlap by %d, stride %d: the overlap must be smaller than the window, the stride "
                   "1 or more", o->length, o->overlap, o->stride);
    int rc = n <= o->length                                                          ? insert(out, 0, 0, n, 1, n, e)
             : o->schedule == WINDOWS_STATIC || o->schedule == WINDOWS_BATCHED ? make_even(out, o, n, e)
                                                                                     : make_uniform(out, o, n, e);
    for (int f = 0; f < n && !rc; f++) {
        bool seen = false;
        for (int i = 0; i < out->n; i++)
            seen |= holds(&out->items[i], f);
        if (!seen)
            rc = ERR(e, ERR_CONFIG, "no context window covers latent frame %d of %d: choose a smaller stride or overlap, or the schedule standard_static", f, n);
    }
    if (rc)
        windows_release(out);
    return rc;
}

/* torch.linspace(1e-37, 1, n): in f32 the small end adds nothing to the other values. */
static float ramp_at(int i, int n)
{
    return i == 0 ? 1e-37f : (float)((double)i / (n - 1));
}

void windows_weights(float *out, const window *w, const window_options *o, int n)
{
    int ov = o->overlap < w->n ? o->overlap : w->n;
    for (int i = 0; i < w->n; i++)
        out[i] = o->fuse == FUSE_PYRAMID ? (float)(i < w->n - i ? i + 1 : w->n - i) : 1;
    if (o->fuse != FUSE_OVERLAP_LINEAR)
        return;
    bool first = holds(w, 0), last = holds(w, n - 1);
    for (int i = 0; i < ov && !first; i++)
        out[i] = ramp_at(i, ov);
    for (int i = 0; i < ov && !last; i++)      /* where both ramps meet the later one holds, as upstream; linspace(1, 1e-37, 1) is 1 */
        out[w->n - 1 - i] = ov == 1 ? 1 : ramp_at(i, ov);
}

int window_sum_begin(window_sum *s, const window_options *o, int channels, int n, int64_t plane, err *e)
{
    *s = (window_sum){ .o = o, .channels = channels, .n = n, .plane = plane };
    s->values = malloc((size_t)(channels * n * plane) * sizeof *s->values);
    s->weights = malloc((size_t)n * sizeof *s->weights);
    s->ramp = malloc((size_t)n * sizeof *s->ramp);
    if (!s->values || !s->weights || !s->ramp) {
        window_sum_end(s);
        return no_memory(e);
    }
    window_sum_reset(s);
    return 0;
}

void window_sum_end(window_sum *s)
{
    free(s->values);
    free(s->weights);
    free(s->ramp);
    *s = (window_sum){ 0 };
}

void window_sum_reset(window_sum *s)
{
    memset(s->values, 0, (size_t)(s->channels * s->n * s->plane) * sizeof *s->values);
    memset(s->weights, 0, (size_t)s->n * sizeof *s->weights);
}

/* The running average weighs each frame by how near it is to the middle of its window. */
static float nearness(const window *w, int frame)
{
    double first = w->frames[0], last = w->frames[w->n - 1];
    double b = 1 - fabs(frame - (first + last) / 2) / ((last - first + 1e-2) / 2);
    return (float)(b > 1e-2 ? b : 1e-2);
}

void window_sum_add(window_sum *s, const window *w, const float *part)
{
    bool running = s->o->fuse == FUSE_RELATIVE;
    if (!running)
        windows_weights(s->ramp, w, s->o, s->n);
    for (int i = 0; i < w->n; i++) {
        int f = w->frames[i];
        float b = running ? nearness(w, f) : s->ramp[i], before = s->weights[f], old = before / (before + b), new = b / (before + b);
        for (int c = 0; c < s->channels; c++) {
            float *to = s->values + ((int64_t)c * s->n + f) * s->plane;
            const float *from = part + ((int64_t)c * w->n + i) * s->plane;
            for (int64_t k = 0; k < s->plane; k++)
                to[k] = running ? to[k] * old + from[k] * new : to[k] + from[k] * b;
        }
        s->weights[f] = before + b;
    }
}

const float *window_sum_finish(window_sum *s)
{
    for (int c = 0; s->o->fuse != FUSE_RELATIVE && c < s->channels; c++)
        for (int f = 0; f < s->n; f++) {
            float *v = s->values + ((int64_t)c * s->n + f) * s->plane;
            for (int64_t k = 0; k < s->plane; k++)
                v[k] /= s->weights[f];
        }
    return s->values;
}

void window_gather(float *out, const float *all, const window *w, int channels, int n, int64_t plane)
{
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < w->n; i++)
            memcpy(out + ((int64_t)c * w->n + i) * plane, all + ((int64_t)c * n + w->frames[i]) * plane, (size_t)plane * sizeof *out);
}
