#include "experiments/prompts.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/str.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

typedef struct kept {
    char *key;
    prompt *p;
    int64_t bytes;
    uint64_t used;
    bool pinned;               /* of a schedule: every run of the batch comes back to it */
} kept;

struct prompts {
    engine *g;
    const config *cfg;
    kept *items;
    size_t n, cap;
    int64_t bytes;
    uint64_t clock;
    prompt *negative;
    int encoded;
};

int prompts_new(prompts **out, engine *g, const config *cfg, err *e)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return ERR(e, ERR_MEMORY, "out of memory for prompts");
    (*out)->g = g;
    (*out)->cfg = cfg;
    return 0;
}

static void drop(prompts *p, size_t i)
{
    prompt_free(p->items[i].p);
    free(p->items[i].key);
    p->bytes -= p->items[i].bytes;
    p->items[i] = p->items[--p->n];
}

void prompts_free(prompts *p)
{
    if (!p)
        return;
    while (p->n)
        drop(p, p->n - 1);
    free(p->items);
    prompt_free(p->negative);
    free(p);
}

int prompts_encoded(const prompts *p)
{
    return p->encoded;
}

/* ---- encoding and weights ---- */

static bool weighted(const prompts *p)
{
    return p->cfg->prompt.weighting == WEIGHTING_MULTIPLY || p->cfg->prompt.weighting == WEIGHTING_INTERPOLATION;
}

/* What distinguishes embeddings: the clean text and, when weights act, each weighted place. */
static char *make_key(const prompts *p, const variation *v)
{
    str key = STR_INIT;
    str_add(&key, v->clean);
    for (int i = 0; weighted(p) && i < v->n_spans; i++)
        if (v->spans[i].weight != 1)
            str_addf(&key, "\n%zu-%zu:%.17g", v->spans[i].begin, v->spans[i].end, v->spans[i].weight);
    return str_take(&key);
}

static int apply_weights(const prompts *p, const variation *v, prompt *out, err *e)
{
    int rc = 0, n = 0;
    int *tokens = malloc((size_t)(prompt_n_tokens(out) + 1) * sizeof *tokens);
    if (!tokens)
        return ERR(e, ERR_MEMORY, "out of memory for prompt weights");
    for (int i = 0; i < v->n_spans; i++) {
        if (v->spans[i].weight == 1)
            continue;
        TRY(prompt_tokens_of(out, v->spans[i].begin, v->spans[i].end, tokens, &n, e));
        if (!n)
            log_msg(LOG_WARN, "the weight %g of '%s' has no effect: no token of it is left in the prompt", v->spans[i].weight, v->spans[i].word);
        else if (p->cfg->prompt.weighting == WEIGHTING_INTERPOLATION)
            prompt_interpolate(out, tokens, n, v->spans[i].weight);
        else
            prompt_scale(out, tokens, n, v->spans[i].weight);
    }
out:
    free(tokens);
    return rc;
}

static int get(prompts *p, const variation *v, bool pin, const prompt **out, err *e)
{
    int rc = 0;
    prompt *fresh = NULL;
    char *key = make_key(p, v);
    *out = NULL;
    if (!key)
        return ERR(e, ERR_MEMORY, "out of memory for a prompt");
    for (size_t i = 0; i < p->n; i++)
        if (strcmp(p->items[i].key, key) == 0) {
            p->items[i].used = ++p->clock;
            p->items[i].pinned |= pin;
            *out = p->items[i].p;
            goto out;
        }
    TRY(engine_encode(p->g, v->clean, &fresh, e));
    p->encoded++;
    if (weighted(p))
        TRY(apply_weights(p, v, fresh, e));
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 16;
        kept *more = realloc(p->items, cap * sizeof *more);
        if (!more) {
            rc = ERR(e, ERR_MEMORY, "out of memory for prompts");
            goto out;
        }
        p->items = more;
        p->cap = cap;
    }
    int64_t bytes = (int64_t)prompt_n_tokens(fresh) * prompt_dim(fresh) * (int64_t)sizeof(float);
    p->items[p->n++] = (kept){ key, fresh, bytes, ++p->clock, pin };
    p->bytes += bytes;
    *out = fresh;
    key = NULL;
    fresh = NULL;
    while (p->n > 2 && p->bytes > PROMPTS_BYTES) {
        size_t oldest = SIZE_MAX;
        for (size_t i = 0; i < p->n; i++)
            if (!p->items[i].pinned && p->items[i].used + 1 < p->clock && (oldest == SIZE_MAX || p->items[i].used < p->items[oldest].used))
                oldest = i;
        if (oldest == SIZE_MAX)
            break;
        drop(p, oldest);
    }
out:
    prompt_free(fresh);
    free(key);
    return rc;
}

int prompts_of_variation(prompts *p, const variation *v, const prompt **out, err *e)
{
    return get(p, v, false, out, e);
}

int prompts_pin(prompts *p, const variation *v, const prompt **out, err *e)
{
    return get(p, v, true, out, e);
}

void prompts_unpin(prompts *p)
{
    for (size_t i = 0; i < p->n && !p->cfg->schedules.prompt.n; i++)
        p->items[i].pinned = false;
}

int prompts_negative(prompts *p, const prompt **out, err *e)
{
    int rc = 0;
    if (!p->negative) {
        rc = engine_encode(p->g, config_negative_prompt(p->cfg), &p->negative, e);
        p->encoded += !rc;
    }
    *out = p->negative;
    return err_at(e, rc, "the negative prompt");
}

/* ---- schedules ---- */

/* The one variation that a text of schedules.prompt stands for. */
static int keyframe(const config *cfg, int i, variation *v, err *e)
{
    char name[64];
    prompt_template *t = NULL;
    const char *text = cfg->schedules.prompt.texts[i];
    snprintf(name, sizeof name, "schedules.prompt, step %" PRId64, cfg->schedules.prompt.steps[i]);
    int rc = template_parse(&t, text, strlen(text), name, e);
    if (!rc && template_count(t) != 1)
        rc = ERR(e, ERR_CONFIG, "%s: must be one text, found %" PRIu64 " variations in '%s'", name, template_count(t), text);
    if (!rc)
        rc = template_variation(t, 0, v, e);
    template_free(t);
    return rc;
}

static int scheduled(prompts *p, int steps, step_prompts *out, err *e)
{
    const prompt_schedule *s = &p->cfg->schedules.prompt;
    int rc = 0;
    prompt_interpolation how = p->cfg->schedules.prompt_interpolation;
    const prompt **frames = calloc((size_t)s->n, sizeof *frames);
    out->owned = calloc((size_t)steps, sizeof *out->owned);
    if (!out->owned || !frames) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the prompts of a schedule");
        goto out;
    }
    for (int i = 0; i < s->n; i++) {
        variation v = { 0 };
        rc = keyframe(p->cfg, i, &v, e);
        if (!rc)
            rc = get(p, &v, true, &frames[i], e);
        variation_release(&v);
        if (rc)
            goto out;
    }
    for (int k = 0; k < steps; k++) {
        int a, b;
        double t;
        prompt_schedule_at(s, how, k, &a, &b, &t);
        if (t == 0) {
            out->cond[k] = frames[a];
            continue;
        }
        TRY(prompt_blend(&out->owned[out->n_owned], frames[a], frames[b], t, how == PROMPT_SLERP ? BLEND_SLERP : BLEND_LERP, e));
        out->cond[k] = out->owned[out->n_owned++];
    }
    out->n = steps;
out:
    free(frames);
    return rc;
}

int prompts_of_run(prompts *p, const variation *v, int steps, step_prompts *out, err *e)
{
    int rc = 0;
    *out = (step_prompts){ 0 };
    out->cond = calloc((size_t)(steps > 0 ? steps : 1), sizeof *out->cond);
    if (!out->cond)
        return ERR(e, ERR_MEMORY, "out of memory for the prompts of a run");
    if (p->cfg->schedules.prompt.n > 0) {
        rc = scheduled(p, steps, out, e);
    } else {
        out->n = 1;
        rc = prompts_of_variation(p, v, &out->cond[0], e);
    }
    if (rc)
        step_prompts_release(out);
    return rc;
}

void step_prompts_release(step_prompts *s)
{
    for (int i = 0; i < s->n_owned; i++)
        prompt_free(s->owned[i]);
    free(s->owned);
    free(s->cond);
    *s = (step_prompts){ 0 };
}

/* ---- words ---- */

/* The places of the words to capture: marked ones, or those of the configuration wherever they stand as whole words. */
static int find_places(const config *cfg, const variation *v, variation_word **words, int *n, err *e)
{
    int n_listed = cfg->attention.words.n;
    if (!n_listed)
        return variation_words(v, words, n, e);
    variation_span *spans = calloc((size_t)n_listed, sizeof *spans);
    if (!spans)
        return ERR(e, ERR_MEMORY, "out of memory for the words to capture");
    for (int i = 0; i < n_listed; i++)      /* a span that lies nowhere: only whole words of the text are found */
        spans[i] = (variation_span){ SIZE_MAX - 1, SIZE_MAX, 1, cfg->attention.words.items[i] };
    variation listed = { .clean = v->clean, .spans = spans, .n_spans = n_listed };
    int rc = variation_words(&listed, words, n, e);
    free(spans);
    return rc;
}

int prompts_count_words(const config *cfg, const variation *v, int *n, err *e)
{
    variation_word *words = NULL;
    int all = 0;
    int rc = find_places(cfg, v, &words, &all, e);
    *n = 0;
    for (int i = 0; !rc && i < all; i++)
        *n += words[i].n_places > 0;
    if (!rc)
        variation_words_free(words, all);
    return rc;
}

/* Tokens of all places of a word, ascending, each once. */
static int tokens_of_word(const prompt *p, const variation_word *w, prompt_word *out, err *e)
{
    int rc = 0, total = prompt_n_tokens(p);
    bool *hit = calloc((size_t)total + 1, sizeof *hit);
    int *tokens = malloc(((size_t)total + 1) * sizeof *tokens);
    *out = (prompt_word){ 0 };
    if (!hit || !tokens || !(out->tokens = malloc(((size_t)total + 1) * sizeof *out->tokens)) || !(out->text = str_dup(w->text))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the tokens of '%s'", w->text);
        goto out;
    }
    for (int i = 0; i < w->n_places; i++) {
        int n = 0;
        TRY(prompt_tokens_of(p, w->places[i][0], w->places[i][1], tokens, &n, e));
        for (int k = 0; k < n; k++)
            if (tokens[k] >= 0 && tokens[k] < total)
                hit[tokens[k]] = true;
    }
    for (int k = 0; k < total; k++)
        if (hit[k])
            out->tokens[out->n_tokens++] = k;
out:
    if (rc) {
        free(out->tokens);
        free(out->text);
        *out = (prompt_word){ 0 };
    }
    free(hit);
    free(tokens);
    return rc;
}

static int words_of(const config *cfg, const prompt *p, const variation *v, bool quiet, prompt_words *out, err *e)
{
    int rc = 0, n = 0;
    variation_word *words = NULL;
    json_writer w;
    *out = (prompt_words){ 0 };
    jw_init(&w, &out->dropped, 0);
    jw_array(&w);
    TRY(find_places(cfg, v, &words, &n, e));
    if (!(out->items = calloc((size_t)n + 1, sizeof *out->items))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the words to capture");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        prompt_word found;
        TRY(tokens_of_word(p, &words[i], &found, e));
        if (found.n_tokens) {
            out->items[out->n++] = found;
            continue;
        }
        jw_string(&w, words[i].text);
        out->n_dropped++;
        if (!quiet && words[i].n_places == 0)
            log_msg(LOG_WARN, "no attention map of '%s': it does not stand in \"%.80s\" as a whole word", words[i].text, v->clean);
        else if (!quiet)
            log_msg(LOG_WARN, "no attention map of '%s': no token of it is left in the prompt (%s)", words[i].text,
                    prompt_truncated(p) ? "the prompt is longer than the model reads" : "cleaning removed it");
        free(found.tokens);
        free(found.text);
    }
    jw_end_array(&w);
out:
    variation_words_free(words, n);
    if (rc)
        prompt_words_release(out);
    return rc;
}

static bool same_words(const prompt_words *a, const prompt_words *b, const char **differs)
{
    *differs = "";
    for (int i = 0; i < a->n; i++) {
        int k = 0;
        while (k < b->n && strcmp(a->items[i].text, b->items[k].text))
            k++;
        *differs = a->items[i].text;
        if (k == b->n || a->items[i].n_tokens != b->items[k].n_tokens ||
            memcmp(a->items[i].tokens, b->items[k].tokens, (size_t)a->items[i].n_tokens * sizeof(int32_t)))
            return false;
    }
    return true;
}

int prompts_words(prompts *p, const variation *v, prompt_words *out, err *e)
{
    int rc = 0, n = p->cfg->schedules.prompt.n;
    const prompt *first = NULL;
    variation start = { 0 };
    if (!n) {
        rc = prompts_of_variation(p, v, &first, e);
        return rc ? rc : words_of(p->cfg, first, v, false, out, e);
    }
    *out = (prompt_words){ 0 };
    TRY(keyframe(p->cfg, 0, &start, e));
    TRY(get(p, &start, true, &first, e));
    TRY(words_of(p->cfg, first, &start, false, out, e));
    for (int i = 1; i < n; i++) {
        variation other = { 0 };
        const prompt *text = NULL;
        prompt_words there = { 0 };
        const char *differs = "";
        rc = keyframe(p->cfg, i, &other, e);
        if (!rc && !(rc = get(p, &other, true, &text, e)) && !(rc = words_of(p->cfg, text, &other, true, &there, e)) &&
            !same_words(out, &there, &differs))
            rc = ERR(e, ERR_CONFIG, "capture.attention: '%s' does not have the same tokens in the prompts of steps %" PRId64 " and %" PRId64
                     " of schedules.prompt, so its map would change its meaning on the way; mark words that stand at the same place in all "
                     "of them, or switch the capture of attention off", differs, p->cfg->schedules.prompt.steps[0], p->cfg->schedules.prompt.steps[i]);
        prompt_words_release(&there);
        variation_release(&other);
        if (rc)
            goto out;
    }
out:
    variation_release(&start);
    if (rc)
        prompt_words_release(out);
    return rc;
}

int prompts_words_in(prompts *p, const variation *v, bool quiet, prompt_words *out, err *e)
{
    const prompt *text = NULL;
    int rc = prompts_of_variation(p, v, &text, e);
    return rc ? rc : words_of(p->cfg, text, v, quiet, out, e);
}

void prompt_words_release(prompt_words *w)
{
    for (int i = 0; i < w->n; i++) {
        free(w->items[i].text);
        free(w->items[i].tokens);
    }
    free(w->items);
    str_release(&w->dropped);
    *w = (prompt_words){ 0 };
}
