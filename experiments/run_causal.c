/* A run of a causal model: block after block into trace and video, with states on the disk to go on from. */
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "core/base/sha256.h"
#include "experiments/batch.h"
#include "experiments/interrupt.h"
#include "experiments/run_internal.h"
#include "experiments/timeline.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- settings ---- */

int runner_causal_params(runner *r, err *e)
{
    const config *c = r->cfg;
    causal_options *o = &r->causal;
    int n = (int)c->sampling.steps;
    *o = (causal_options)CAUSAL_OPTIONS_INIT;
    o->block = (int)c->causal.frames_per_block;
    o->window = (int)c->causal.window;
    o->sink = (int)c->causal.sink;
    o->global_sink = c->causal.global_sink;
    o->warp = c->causal.warp;
    o->hard_cut = c->causal.hard_cut;
    o->context_noise = c->causal.context_noise;
    o->draws = (causal_draws)c->causal.draws;
    o->n_steps = n;
    if (n > CAUSAL_MAX_STEPS)
        return ERR(e, ERR_CONFIG, "sampling.steps is %d: LongLive makes a block in 1 to %d steps (4)", n, CAUSAL_MAX_STEPS);
    for (int i = 0; i < n; i++) {
        const char *text = c->causal.timesteps.n ? c->causal.timesteps.items[i] : NULL;
        char *end = NULL;
        long v = text ? strtol(text, &end, 10) : lround(1000.0 * (n - i) / n);
        if (text && (end == text || *end || v < 1 || v > 1000))
            return ERR(e, ERR_CONFIG, "causal.timesteps: entry %d is '%s', expected a whole number from 1 to 1000", i, text);
        o->steps[i] = (int)v;
    }
    r->params.causal = o;
    return 0;
}

/* ---- prompts ---- */

typedef struct cast {
    timeline t;
    const prompt **prompts;        /* pinned in the runner's prompts */
    prompt_words all, *by_prompt;  /* every word of any prompt; the same words with their tokens in each */
    str json;                      /* of the timeline, when there are several */
} cast;

static void cast_release(cast *c, runner *r)
{
    for (int i = 0; c->by_prompt && i < c->t.n; i++)
        prompt_words_release(&c->by_prompt[i]);
    free(c->by_prompt);
    prompt_words_release(&c->all);
    free(c->prompts);
    str_release(&c->json);
    timeline_release(&c->t);
    prompts_unpin(r->texts);
}

static int encode(cast *c, runner *r, const variation *v, err *e)
{
    int rc = 0;
    int64_t frames = (r->cfg->video.frames - 1) / 4 + 1;
    TRY(timeline_split(&c->t, v, e));
    if (c->t.at[c->t.n - 1] >= frames) {
        rc = ERR(e, ERR_CONFIG, "the prompt \"%.80s\" begins at latent frame %" PRId64 ", but the video has %" PRId64 " latent frames (%" PRId64 " frames), numbered "
                 "from 0: let it begin earlier or make the video longer", c->t.parts[c->t.n - 1].clean, c->t.at[c->t.n - 1], frames, r->cfg->video.frames);
        goto out;
    }
    if (!(c->prompts = calloc((size_t)c->t.n, sizeof *c->prompts))) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the prompts of a run");
        goto out;
    }
    for (int i = 0; i < c->t.n; i++) {
        TRY(interrupt_check(e));
        TRY(prompts_pin(r->texts, &c->t.parts[i], &c->prompts[i], e));
    }
out:
    return rc;
}

int runner_try_timeline(runner *r, const variation *v, err *e)
{
    cast c = { .json = STR_INIT };
    int rc = encode(&c, r, v, e);
    cast_release(&c, r);
    return rc;
}

static int add_word(prompt_words *to, const prompt_word *w, bool with_tokens, err *e)
{
    prompt_word *more = realloc(to->items, ((size_t)to->n + 1) * sizeof *more);
    if (!more)
        return ERR(e, ERR_MEMORY, "out of memory for the words to capture");
    to->items = more;
    prompt_word *x = &to->items[to->n];
    int n = with_tokens ? w->n_tokens : 0;
    *x = (prompt_word){ str_dup(w->text), malloc(((size_t)n + 1) * sizeof *x->tokens), n };
    to->n++;
    if (!x->text || !x->tokens)
        return ERR(e, ERR_MEMORY, "out of memory for the words to capture");
    memcpy(x->tokens, w->tokens, (size_t)n * sizeof *x->tokens);
    return 0;
}

static const prompt_word *find_word(const prompt_words *in, const char *text)
{
    for (int i = 0; i < in->n; i++)
        if (strcmp(in->items[i].text, text) == 0)
            return &in->items[i];
    return NULL;
}

/* A word keeps its place on the axis over all prompts; where a prompt lacks it, its maps are zeros. */
static int find_words(cast *c, runner *r, err *e)
{
    int rc = 0, n = c->t.n;
    prompt_words *found = calloc((size_t)n, sizeof *found);
    c->by_prompt = calloc((size_t)n, sizeof *c->by_prompt);
    if (!found || !c->by_prompt) {
        rc = ERR(e, ERR_MEMORY, "out of memory for the words to capture");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        TRY(prompts_words_in(r->texts, &c->t.parts[i], n > 1, &found[i], e));
        for (int k = 0; k < found[i].n; k++)
            if (!find_word(&c->all, found[i].items[k].text))
                TRY(add_word(&c->all, &found[i].items[k], true, e));
    }
    for (int i = 0; i < n; i++)
        for (int k = 0; k < c->all.n; k++) {
            const prompt_word *w = find_word(&found[i], c->all.items[k].text);
            TRY(add_word(&c->by_prompt[i], w ? w : &c->all.items[k], w != NULL, e));
        }
out:
    for (int i = 0; found && i < n; i++)
        prompt_words_release(&found[i]);
    free(found);
    return rc;
}

/* [{"at": 0, "text": "...", "tokens": {"circle": [3, 4]}}, ...] */
static void describe(cast *c)
{
    json_writer w;
    jw_init(&w, &c->json, 0);
    jw_array(&w);
    for (int i = 0; i < c->t.n; i++) {
        jw_object(&w);
        jw_kint(&w, "at", c->t.at[i]);
        jw_kstring(&w, "text", c->t.parts[i].clean);
        jw_key(&w, "tokens");
        jw_object(&w);
        for (int k = 0; c->by_prompt && k < c->by_prompt[i].n; k++) {
            jw_key(&w, c->by_prompt[i].items[k].text);
            jw_array(&w);
            for (int j = 0; j < c->by_prompt[i].items[k].n_tokens; j++)
                jw_int(&w, c->by_prompt[i].items[k].tokens[j]);
            jw_end_array(&w);
        }
        jw_end_object(&w);
        jw_end_object(&w);
    }
    jw_end_array(&w);
}

/* ---- what blocks leave on the disk ---- */

static const char MAGIC[8] = "WSBLK001";

/* MAGIC, bytes of latents, bytes of journal, both, and the sha256 of all that in hex. */
static int block_write(const char *path, const float *latents, size_t latent_bytes, const str *journal, err *e)
{
    str all = STR_INIT;
    sha256 sum;
    char hex[65];
    uint64_t sizes[2] = { latent_bytes, journal->len };
    str_addn(&all, MAGIC, sizeof MAGIC);
    str_addn(&all, (const char *)sizes, sizeof sizes);
    str_addn(&all, (const char *)latents, latent_bytes);
    if (journal->len)
        str_addn(&all, journal->data, journal->len);
    int rc = all.failed ? ERR(e, ERR_MEMORY, "%s: out of memory for what a block leaves", path) : 0;
    if (!rc) {
        sha256_init(&sum);
        sha256_add(&sum, all.data, all.len);
        sha256_hex(&sum, hex);
        str_addn(&all, hex, 64);
        rc = all.failed ? ERR(e, ERR_MEMORY, "%s: out of memory for what a block leaves", path) : fs_write_atomic(path, all.data, all.len, e);
    }
    str_release(&all);
    return rc;
}

static int block_read(const char *path, float *latents, size_t latent_bytes, char **bytes, const char **journal, size_t *journal_bytes, err *e)
{
    size_t n = 0;
    sha256 sum;
    char hex[65];
    uint64_t sizes[2] = { 0, 0 };
    enum { HEAD = sizeof MAGIC + sizeof sizes };
    int rc = fs_read_text(bytes, &n, path, e);
    if (rc)
        return rc;
    if (n >= HEAD + 64)
        memcpy(sizes, *bytes + sizeof MAGIC, sizeof sizes);
    sha256_init(&sum);
    sha256_add(&sum, *bytes, n >= 64 ? n - 64 : 0);
    sha256_hex(&sum, hex);
    if (n < HEAD + 64 || memcmp(*bytes, MAGIC, sizeof MAGIC) || sizes[0] != latent_bytes || sizes[1] != n - HEAD - 64 - latent_bytes ||
        memcmp(hex, *bytes + n - 64, 64))
        return ERR(e, ERR_FORMAT, "%s: what a block left is damaged", path);
    memcpy(latents, *bytes + HEAD, latent_bytes);
    *journal = *bytes + HEAD + latent_bytes;
    *journal_bytes = (size_t)sizes[1];
    return 0;
}

int runner_remove_states(const char *folder, err *e)
{
    int rc = 0;
    DIR *d = opendir(folder);
    if (!d)
        return 0;
    struct dirent *entry;
    while (!rc && (entry = readdir(d))) {      /* only what is ours: the folder may be a user's */
        const char *n = entry->d_name;
        size_t digits = strncmp(n, "block-", 6) ? 0 : strspn(n + 6, "0123456789");
        bool block = digits && (strcmp(n + 6 + digits, ".bin") == 0 || strcmp(n + 6 + digits, ".bin.part") == 0);
        if (!block && strcmp(n, "state.safetensors") && strcmp(n, "state.safetensors.part"))
            continue;
        char *path = fs_join(folder, n);
        rc = path ? fs_remove_tree(path, e) : ERR(e, ERR_MEMORY, "out of memory");
        free(path);
    }
    closedir(d);
    rmdir(folder);
    return rc;
}

/* ---- the run ---- */

typedef struct causal_show {
    runner *r;
    const run_files *files;
    run_params p;
    hooks h;
    capture *trace;
    frame_sink sink;
    bool decodes;
    engine_clip *clip;
    int64_t shape[4], n_blocks;
    size_t block_bytes;            /* of a block's latents */
    float *all;                    /* [channels, frames, height, width] for .latent, else NULL */
    float *one;                    /* a block */
    str journal, parameters;
    char identity[65], *state;
} causal_show;

static char *block_path(const causal_show *s, int64_t k)
{
    return str_format("%s/block-%06" PRId64 ".bin", s->files->resume, k);
}

static void keep(causal_show *s, int64_t k)
{
    int64_t plane = s->shape[2] * s->shape[3], n = s->r->causal.block;
    for (int64_t c = 0; s->all && c < s->shape[0]; c++)
        memcpy(s->all + (c * s->shape[1] + k * n) * plane, s->one + c * n * plane, (size_t)(n * plane) * sizeof *s->one);
}

static int upload(causal_show *s, tensor *t, const tensor *like, const float *values, int64_t frames, err *e)
{
    int rc = TENSOR_NEW(t, like->be, DT_F32, e, s->shape[0], frames, s->shape[2], s->shape[3]);
    return rc ? rc : op_upload(t, values, e);
}

/* Block k once more from what it left: checked only, or put where a fresh block goes. */
static int old_block(causal_show *s, int64_t k, bool check_only, const tensor *like, err *e)
{
    int rc = 0;
    char *path = block_path(s, k), *bytes = NULL;
    const char *journal = NULL;
    size_t n = 0;
    tensor t = { 0 };
    if (!path) {
        rc = ERR(e, ERR_MEMORY, "out of memory");
        goto out;
    }
    TRY(interrupt_check(e));
    TRY(block_read(path, s->one, s->block_bytes, &bytes, &journal, &n, e));
    if (check_only)
        goto out;
    keep(s, k);
    if (s->trace)
        TRY(capture_replay(s->trace, journal, n, e));
    if (s->decodes) {
        TRY(upload(s, &t, like, s->one, s->r->causal.block, e));
        TRY(engine_clip_decode(s->clip, &t, frame_sink_take, &s->sink, e));
    }
out:
    tensor_free(&t);
    free(bytes);
    free(path);
    return rc;
}

/* Goes on from a saved state when there is a good one; what is wrong with a bad one is said, and the run begins anew. */
static int go_on(causal_show *s, err *e)
{
    int rc = 0;
    err why = { 0 };
    TRY(engine_clip_begin(&s->clip, s->r->g, &s->p, e));
    if (!s->files->resume || !fs_exists(s->state))
        goto out;
    rc = engine_clip_load(s->clip, s->state, s->identity, &why);
    int64_t n = engine_clip_blocks(s->clip);
    for (int64_t k = 0; !rc && k < n; k++)
        rc = old_block(s, k, true, NULL, &why);
    if (rc == ERR_CANCELLED || rc == ERR_MEMORY) {
        *e = why;
        goto out;
    }
    if (rc) {
        log_msg(LOG_WARN, "the run begins anew: %s", why.text);
        engine_clip_end(s->clip);
        s->clip = NULL;
        TRY(runner_remove_states(s->files->resume, e));
        rc = engine_clip_begin(&s->clip, s->r->g, &s->p, e);
        goto out;
    }
    log_msg(LOG_INFO, "%s: goes on after block %" PRId64 " of %" PRId64, s->r->progress.label, n, s->n_blocks);
    if (s->decodes)
        engine_clip_decode_anew(s->clip);      /* an encoder cannot be saved: the frames so far go through it again */
    tensor like = { .be = engine_backend(s->r->g) };
    for (int64_t k = 0; k < n; k++)
        TRY(old_block(s, k, false, &like, e));
out:
    return rc;
}

static int new_block(causal_show *s, int64_t k, err *e)
{
    int rc = 0;
    tensor t = { 0 };
    char *path = NULL;
    str_clear(&s->journal);
    TRY(engine_clip_next(s->clip, &s->h, &t, e));
    TRY(op_download_f32(s->one, &t, e));
    keep(s, k);
    if (s->trace)
        TRY(capture_flush(s->trace, e));
    if (s->decodes) {
        double began = runner_now();
        TRY(engine_clip_decode(s->clip, &t, frame_sink_take, &s->sink, e));
        s->r->progress.step_began += runner_now() - began;      /* the next step's clock */
    }
    int64_t every = s->r->cfg->causal.save_every;
    if (!s->files->resume || every < 1)
        goto out;
    if (!(path = block_path(s, k))) {
        rc = ERR(e, ERR_MEMORY, "out of memory");
        goto out;
    }
    TRY(fs_mkdirs(s->files->resume, e));
    TRY(block_write(path, s->one, s->block_bytes, &s->journal, e));
    if ((k + 1) % every == 0 && k + 1 < s->n_blocks)
        TRY(engine_clip_save(s->clip, s->state, s->identity, e));
out:
    tensor_free(&t);
    free(path);
    return rc;
}

static int open_trace(causal_show *s, cast *c, const variation *v, err *e)
{
    int rc = 0;
    runner *r = s->r;
    str text = STR_INIT, checkpoints = STR_INIT;
    TRY(runner_digests(r, e));
    if (r->cfg->attention.enabled) {
        TRY(find_words(c, r, e));
        if (!c->all.n)
            log_msg(LOG_WARN, "\"%.80s\" has no word to capture attention of: mark one as (word), or list it in capture.attention.words", v->clean);
    }
    if (c->t.n > 1)
        describe(c);
    TRY(batch_run_config(&text, r->cfg, v->marked, (int64_t)s->p.seed, e));
    batch_checkpoints_json(&checkpoints, &r->info);
    capture_spec spec = { .cfg = r->cfg, .info = &r->info, .g = r->g, .run = &s->p, .prompt = c->prompts[0], .words = &c->all,
                          .by_prompt = r->cfg->attention.enabled ? c->by_prompt : NULL, .timeline = c->t.n > 1 ? str_text(&c->json) : NULL,
                          .marked_prompt = v->marked, .clean_prompt = v->clean, .negative_prompt = "", .run_config = str_text(&text),
                          .checkpoints = str_text(&checkpoints) };
    TRY(capture_open(&s->trace, s->files->trace, &spec, e));
    TRY(capture_observe(s->trace, &s->h, e));
    if (s->files->resume)
        capture_journal(s->trace, &s->journal);
out:
    str_release(&text);
    str_release(&checkpoints);
    return rc;
}

static int prepare(causal_show *s, const variation *v, err *e)
{
    int rc = 0;
    runner *r = s->r;
    str text = STR_INIT;
    TRY(engine_latent_shape(r->g, &s->p, s->shape, e));
    s->n_blocks = s->shape[1] / r->causal.block;
    s->block_bytes = (size_t)(s->shape[0] * r->causal.block * s->shape[2] * s->shape[3]) * sizeof *s->one;
    s->one = malloc(s->block_bytes);
    if (s->files->latent)
        s->all = malloc(s->block_bytes * (size_t)s->n_blocks);
    if (!s->one || (s->files->latent && !s->all)) {
        rc = ERR(e, ERR_MEMORY, "out of memory for %" PRId64 " latent frames", s->shape[1]);
        goto out;
    }
    if (s->files->resume) {
        TRY(runner_digests(r, e));
        TRY(batch_run_config(&text, r->cfg, v->marked, (int64_t)s->p.seed, e));
        TRY(batch_identity(s->identity, str_text(&text), &r->info, e));
        if (!(s->state = fs_join(s->files->resume, "state.safetensors")))
            rc = ERR(e, ERR_MEMORY, "out of memory");
    }
out:
    str_release(&text);
    return rc;
}

int runner_run_causal(runner *r, const variation *v, int64_t seed, const run_files *files, err *e)
{
    int rc = 0;
    cast c = { .json = STR_INIT };
    tensor latents = { 0 };
    causal_show s = { .r = r, .files = files, .p = r->params, .journal = STR_INIT, .parameters = STR_INIT };
    s.decodes = frame_sink_wanted(files);
    s.p.seed = (uint64_t)seed;
    TRY(encode(&c, r, v, e));
    TRY(runner_need_condition(r, e));
    s.p.vace = r->condition;
    s.p.cond = c.prompts;
    s.p.n_cond = c.t.n;
    s.p.prompt_at = c.t.at;
    TRY(prepare(&s, v, e));
    r->progress.steps = s.n_blocks * s.p.steps;
    TRY(runner_parameters_json(r, v, seed, &s.parameters, e));
    if (files->trace)
        TRY(open_trace(&s, &c, v, e));
    TRY(runner_watch(r, &s.h, e));
    if (s.decodes)
        TRY(frame_sink_open(&s.sink, r, str_text(&s.parameters), files, e));
    TRY(go_on(&s, e));
    for (int64_t k = engine_clip_blocks(s.clip); k < s.n_blocks; k++)
        TRY(new_block(&s, k, e));
    if (s.trace) {
        capture *done = s.trace;
        s.trace = NULL;
        TRY(capture_commit(done, e));
    }
    if (files->latent) {
        tensor like = { .be = engine_backend(r->g) };
        TRY(upload(&s, &latents, &like, s.all, s.shape[1], e));
        TRY(runner_write_latent(r, &latents, str_text(&s.parameters), files->latent, e));
    }
    if (s.decodes)
        TRY(frame_sink_close(&s.sink, e));
out:
    capture_abort(s.trace);
    frame_sink_abort(&s.sink);
    engine_clip_end(s.clip);
    tensor_free(&latents);
    cast_release(&c, r);
    free(s.all);
    free(s.one);
    free(s.state);
    str_release(&s.journal);
    str_release(&s.parameters);
    return rc;
}
