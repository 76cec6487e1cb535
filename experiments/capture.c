#include "experiments/capture.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "experiments/build_id.h"
#include "experiments/capture_choice.h"
#include "experiments/capture_queue.h"
#include "experiments/capture_shots.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

struct capture {
    trace_writer *t;
    const run_params *run;
    schedule s;
    int *expert;
    capture_queue *queue;              /* everything that is stored goes through it, in the order of the run */
    bool latents, velocity, attention;
    int n_heads;                       /* of the model */
    int32_t *heads;                    /* chosen, or the single -1 */
    int n_chosen_heads;
    int n_words;
    struct { int *begin, *columns; } *plans;      /* which text positions a word has: one for each prompt */
    int n_plans;
    str *journal;
    int64_t n_tokens;
    char *path;
};

static int store(void *user, const capture_record *r, const float *values, err *e);

/* ---- opening ---- */

static int prepare_attention(capture *c, trace_spec *t, capture_owned *o, const capture_spec *s, trace_word *words, err *e)
{
    int total = 0;
    for (int i = 0; i < s->words->n; i++)
        words[i] = (trace_word){ s->words->items[i].text, s->words->items[i].tokens, s->words->items[i].n_tokens };
    t->axes.words = words;
    t->axes.n_words = c->n_words = s->words->n;
    c->n_heads = s->info->dit->num_heads;
    c->heads = o->heads.items;
    c->n_chosen_heads = o->heads.n;
    o->heads.items = NULL;
    t->axes.heads = c->heads;
    c->n_plans = s->by_prompt ? s->run->n_cond : 1;
    c->plans = calloc((size_t)c->n_plans, sizeof *c->plans);
    if (!c->plans)
        return ERR(e, ERR_MEMORY, "out of memory for attention maps of %d words", c->n_words);
    for (int p = 0; p < c->n_plans; p++) {
        const prompt_words *from = s->by_prompt ? &s->by_prompt[p] : s->words;
        int at = 0;
        total = 0;
        for (int i = 0; i < c->n_words; i++)
            total += from->items[i].n_tokens;
        c->plans[p].begin = malloc(((size_t)c->n_words + 1) * sizeof *c->plans[p].begin);
        c->plans[p].columns = malloc((size_t)(total > 0 ? total : 1) * sizeof *c->plans[p].columns);
        if (!c->plans[p].begin || !c->plans[p].columns)
            return ERR(e, ERR_MEMORY, "out of memory for attention maps of %d words", c->n_words);
        for (int i = 0; i < c->n_words; i++) {
            c->plans[p].begin[i] = at;
            for (int k = 0; k < from->items[i].n_tokens; k++)
                c->plans[p].columns[at++] = from->items[i].tokens[k];
        }
        c->plans[p].begin[c->n_words] = at;
    }
    return 0;
}

/* What a person calls the device, without the number of threads, which changes nothing. */
static char *device_text(const char *device)
{
    const char *threads = strstr(device, " (");
    return threads ? str_dupn(device, (size_t)(threads - device)) : str_dup(device);
}

int capture_open(capture **out, const char *path, const capture_spec *s, err *e)
{
    int rc = 0;
    int64_t shape[4];
    trace_spec t;
    capture_owned o = { 0 };
    trace_word *words = NULL;
    const char **pieces = NULL;
    char *device = NULL;
    capture_shots shots = { 0 };
    int32_t *blocks = NULL;
    double *levels = NULL;
    const config *cfg = s->cfg;
    int steps = s->run->steps;
    *out = NULL;
    capture *c = calloc(1, sizeof *c);
    if (!c || !(c->path = str_dup(path))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a trace");
        goto out;
    }
    c->run = s->run;
    c->latents = cfg->latents.enabled;
    c->velocity = cfg->latents.velocity;
    c->attention = cfg->attention.enabled && s->words->n > 0;
    TRY(engine_latent_shape(s->g, s->run, shape, e));
    c->n_tokens = shape[1] * (shape[2] / 2) * (shape[3] / 2);
    c->expert = calloc((size_t)steps, sizeof *c->expert);
    words = calloc((size_t)s->words->n + 1, sizeof *words);
    device = device_text(s->info->device);
    if (!c->expert || !words || !device) {
        rc = ERR(e, ERR_MEMORY, "out of memory for a trace");
        goto out;
    }
    TRY(engine_schedule(s->g, s->run, &c->s, c->expert, e));
    TRY(capture_describe(&t, &o, cfg, steps, shape, s->info->dit->num_layers, s->info->dit->num_heads, c->attention, e));
    if (c->attention)
        TRY(prepare_attention(c, &t, &o, s, words, e));
    if (c->attention && s->prompt) {
        int n = prompt_n_tokens(s->prompt);
        pieces = calloc((size_t)n + 1, sizeof *pieces);
        if (!pieces) {
            rc = ERR(e, ERR_MEMORY, "out of memory for a trace");
            goto out;
        }
        for (int i = 0; i < n; i++)
            pieces[i] = prompt_piece(s->prompt, i);
        t.axes.token_pieces = pieces;
        t.axes.n_token_pieces = n;
    }
    trace_attribute more[6];
    char references[16];
    t.more = more;
    more[t.n_more++] = (trace_attribute){ "precision", s->info->precision };
    if (s->run->vace_references > 0 && !s->run->causal) {      /* the first latent frames of every row, which are dropped before decoding */
        snprintf(references, sizeof references, "%d", s->run->vace_references);
        more[t.n_more++] = (trace_attribute){ "reference_frames", references };
    }
    more[t.n_more++] = (trace_attribute){ "noise", config_enum_name("sampling.noise", cfg->sampling.noise) };
    if (s->words->n_dropped)
        more[t.n_more++] = (trace_attribute){ "words_not_found", str_text(&s->words->dropped) };
    if (s->timeline)
        more[t.n_more++] = (trace_attribute){ "timeline", s->timeline };
    if (s->run->causal) {
        t.block_frames = s->run->causal->block;
        t.n_blocks = (int)(shape[1] / t.block_frames);
        blocks = calloc((size_t)t.n_blocks, sizeof *blocks);
        levels = calloc(3 * (size_t)steps + 1, sizeof *levels);
        if (!blocks || !levels) {
            rc = ERR(e, ERR_MEMORY, "out of memory for a trace");
            goto out;
        }
        for (int i = 0; i < t.n_blocks; i++)
            blocks[i] = engine_clip_prompt_of(s->run, i);
        t.block_prompts = blocks;
        for (int k = 0; k <= steps; k++)
            levels[k] = c->s.sigmas[k];
        for (int k = 0; k < steps; k++) {
            levels[steps + 1 + k] = c->s.timesteps[k];
            levels[2 * steps + 1 + k] = s->run->guidance[s->run->n_guidance == 1 ? 0 : k];
        }
        t.block_sigmas = levels;
        t.block_timesteps = levels + steps + 1;
        t.block_guidance = levels + 2 * steps + 1;
    }
    t.prompt = s->marked_prompt;
    t.clean_prompt = s->clean_prompt;
    t.negative_prompt = s->negative_prompt;
    t.seed = (int64_t)s->run->seed;
    t.solver = s->run->causal ? "few_step" : solver_name(s->run->solver);
    t.shift = s->run->shift;
    t.guidance = cfg->sampling.guidance_scale;
    t.family = s->info->family;
    t.checkpoints = s->checkpoints;
    t.build = wanscope_build;
    t.device = device;
    t.config = s->run_config;
    t.context_len = s->info->dit->text_len;
    t.pixel_width = s->run->width;
    t.pixel_height = s->run->height;
    t.pixel_frames = s->run->frames;
    t.fps = cfg->video.fps;
    if (s->run->shots) {
        TRY(capture_shots_describe(&shots, s, e));
        t.shots = &shots.t;
    }
    TRY(capture_queue_new(&c->queue, store, c, e));
    TRY(trace_create(&c->t, path, &t, e));
    *out = c;
    c = NULL;
out:
    capture_abort(c);
    capture_owned_release(&o);
    capture_shots_release(&shots);
    free(words);
    free(blocks);
    free(levels);
    free(pieces);
    free(device);
    return rc;
}

/* ---- observing ---- */

static bool wants(const hook_point *p, void *user)
{
    const capture *c = user;
    if (p->pass != PASS_DENOISE)      /* the calls that fill a cache are no steps */
        return false;
    switch (p->kind) {
    case HOOK_LATENTS:
        return true;
    case HOOK_VELOCITY:
        return c->velocity && trace_velocity_row(c->t, p->step) >= 0;
    case HOOK_CROSS_ATTN:
        return c->attention && p->cond && trace_step_slot(c->t, p->step) >= 0 && trace_layer_slot(c->t, p->layer) >= 0;
    default:
        return false;
    }
}

enum { RECORD_STEP = -1 };

/* Runs in the thread of the queue; from here on only that thread touches the trace and the journal until the queue is drained. */
static int store(void *user, const capture_record *r, const float *values, err *e)
{
    capture *c = user;
    if (c->journal) {
        str_addn(c->journal, (const char *)r, sizeof *r);
        str_addn(c->journal, (const char *)values, (size_t)r->n * sizeof *values);
        if (c->journal->failed)
            return ERR(e, ERR_MEMORY, "%s: out of memory for what a block leaves", c->path);
    }
    if (r->kind == RECORD_STEP)
        return trace_put_step(c->t, r->row, c->s.sigmas[r->row], c->s.sigmas[r->row + 1], c->s.timesteps[r->row],
                              c->run->guidance[c->run->n_guidance == 1 ? 0 : r->row], c->expert[r->row], e);
    if (r->kind == HOOK_LATENTS)
        return r->frames < 0 ? trace_put_latents(c->t, r->row, values, e) : trace_put_latents_part(c->t, r->row, r->first, r->frames, values, e);
    if (r->kind == HOOK_VELOCITY)
        return r->frames < 0 ? trace_put_velocity(c->t, r->row, values, e) : trace_put_velocity_part(c->t, r->row, r->first, r->frames, values, e);
    return r->frames < 0 ? trace_put_attention(c->t, r->row, r->slot, values, e)
                         : trace_put_attention_part(c->t, r->row, r->slot, r->first, r->frames, values, e);
}

static capture_record place(const capture *c, const hook_point *p, int row, int slot, int64_t frames, int64_t n)
{
    return (capture_record){ p->kind, row, slot, p->frame, c->run->causal ? frames : -1, n };
}

static int show_value(capture *c, const hook_point *p, int row, const tensor *value, err *e)
{
    capture_item *item;
    int64_t n = tensor_count(value);
    int rc = capture_queue_take(c->queue, value->be, n, &item, e);
    if (rc)
        return rc;
    item->is = place(c, p, row, 0, value->shape[1], n);
    if ((rc = capture_queue_copy(c->queue, item, value, e))) {
        capture_queue_drop(c->queue, item);
        return rc;
    }
    return capture_queue_send(c->queue, item, e);
}

static int show_latents(capture *c, const hook_point *p, const hook_data *d, err *e)
{
    int rc = 0;
    int row = c->latents ? trace_latent_row(c->t, p->step) : -1;
    if (p->step > 0 && p->block == 0) {      /* every block has the same steps */
        capture_item *item;
        TRY(capture_queue_take(c->queue, d->value->be, 0, &item, e));
        item->is = (capture_record){ .kind = RECORD_STEP, .row = p->step - 1 };
        TRY(capture_queue_send(c->queue, item, e));
    }
    if (row >= 0)
        rc = show_value(c, p, row, d->value, e);
out:
    return rc;
}

static int show_attention(capture *c, const hook_point *p, const hook_data *d, err *e)
{
    int rc = 0;
    const attn_args *a = d->attn;
    capture_item *item = NULL;
    bool mean = c->heads[0] < 0;
    int64_t tokens = d->grid[0] * d->grid[1] * d->grid[2], map = (int64_t)c->n_words * tokens;
    int which = c->run->causal ? engine_clip_prompt_of(c->run, p->block) : 0;
    if (a->n_heads != c->n_heads || a->q->shape[0] != tokens || tokens > c->n_tokens || which >= c->n_plans)
        return ERR(e, ERR_INTERNAL, "block %d shows %d heads and %" PRId64 " tokens, expected %d and %" PRId64, p->layer, a->n_heads,
                   a->q->shape[0], c->n_heads, c->n_tokens);
    int rows = mean ? 1 : c->n_heads;
    const int *begin = c->plans[which].begin;
    TRY(capture_queue_take(c->queue, a->q->be, c->n_chosen_heads * map, &item, e));
    item->is = place(c, p, trace_step_slot(c->t, p->step), trace_layer_slot(c->t, p->layer), d->grid[0], c->n_chosen_heads * map);
    if (begin[c->n_words]) {
        tensor flat, probs;
        TRY(capture_queue_staging(c->queue, a->q->be, rows * map, &flat, e));
        probs = TENSOR_AS(&flat, rows, c->n_words, tokens);
        attn_probs_args args = { .out = &probs, .q = a->q, .k = a->k, .n_heads = a->n_heads, .scale = a->scale, .plan = a->plan,
                                 .n_words = c->n_words, .word_begin = begin, .columns = c->plans[which].columns, .lse = a->lse };
        TRY(op_attn_probs(&args, e));
        for (int i = 0; i < c->n_chosen_heads; i++)
            TRY(capture_queue_download(c->queue, item, i * map, &flat, mean ? 0 : c->heads[i] * map, map, e));
    } else {
        memset(item->values, 0, (size_t)item->is.n * sizeof *item->values);      /* no word of the clip is in this prompt */
    }
    capture_item *done = item;
    item = NULL;
    TRY(capture_queue_send(c->queue, done, e));
out:
    capture_queue_drop(c->queue, item);
    return rc;
}

static int show(const hook_point *p, const hook_data *d, void *user, err *e)
{
    switch (p->kind) {
    case HOOK_LATENTS:
        return show_latents(user, p, d, e);
    case HOOK_VELOCITY:
        return show_value(user, p, trace_velocity_row(((capture *)user)->t, p->step), d->value, e);
    case HOOK_CROSS_ATTN:
        return show_attention(user, p, d, e);
    default:
        return 0;
    }
}

/* ---- blocks that were made before ---- */

void capture_journal(capture *c, str *journal)
{
    c->journal = journal;
}

/* The same calls in the same order, so that the file is the same. */
int capture_replay(capture *c, const void *journal, size_t bytes, err *e)
{
    int rc = capture_queue_drain(c->queue, e);
    str *to = c->journal;
    c->journal = NULL;
    const char *at = journal;
    float *values = NULL;
    while (!rc && bytes) {
        capture_record r;
        if (bytes >= sizeof r)
            memcpy(&r, at, sizeof r);
        if (bytes < sizeof r || r.n < 0 || (uint64_t)r.n > (bytes - sizeof r) / sizeof *values) {
            rc = ERR(e, ERR_FORMAT, "%s: what a block left for its trace is cut off", c->path);
            break;
        }
        free(values);
        values = malloc((size_t)(r.n > 0 ? r.n : 1) * sizeof *values);
        if (!values) {
            rc = ERR(e, ERR_MEMORY, "%s: out of memory for what a block left", c->path);
            break;
        }
        memcpy(values, at + sizeof r, (size_t)r.n * sizeof *values);
        if (r.kind == RECORD_STEP && (r.row < 0 || r.row >= c->run->steps))
            rc = ERR(e, ERR_FORMAT, "%s: what a block left for its trace has a step %d", c->path, (int)r.row);
        else
            rc = store(c, &r, values, e);
        at += sizeof r + (size_t)r.n * sizeof *values;
        bytes -= sizeof r + (size_t)r.n * sizeof *values;
    }
    free(values);
    c->journal = to;
    return rc ? rc : trace_flush(c->t, e);
}

int capture_flush(capture *c, err *e)
{
    int rc = capture_queue_drain(c->queue, e);
    return rc ? rc : trace_flush(c->t, e);
}

int capture_observe(capture *c, hooks *h, err *e)
{
    return hooks_observe(h, (hook_observer){ wants, show, c }, e);
}

static void release(capture *c)
{
    capture_queue_free(c->queue);
    schedule_release(&c->s);
    free(c->expert);
    free(c->heads);
    for (int i = 0; c->plans && i < c->n_plans; i++) {
        free(c->plans[i].begin);
        free(c->plans[i].columns);
    }
    free(c->plans);
    free(c->path);
    free(c);
}

int capture_commit(capture *c, err *e)
{
    int rc = capture_queue_drain(c->queue, e);
    if (rc)
        trace_abort(c->t);
    else
        rc = trace_commit(c->t, e);
    c->t = NULL;
    release(c);
    return rc;
}

void capture_abort(capture *c)
{
    if (!c)
        return;
    capture_queue_free(c->queue);      /* before the trace it writes into */
    c->queue = NULL;
    trace_abort(c->t);
    release(c);
}
