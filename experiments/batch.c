#include "experiments/batch.h"

#include <ctype.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/json.h"
#include "core/base/log.h"
#include "core/base/sha256.h"

#define DUPLICATES_WITHIN 100000
#define DUPLICATES_SHOWN 10

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

/* ---- enumeration ---- */

static int choose(batch *b, err *e)
{
    const int_ranges *chosen = &b->cfg->batch.variations;
    char count[64];
    template_count_text(b->t, count);
    if (chosen->all) {
        b->n_variations = b->n_all;
    } else {
        int64_t last = int_ranges_last(chosen);
        if (last >= 0 && (uint64_t)last >= b->n_all)
            return ERR(e, ERR_CONFIG, "batch.variations names variation %" PRId64 ", but the template has %s, numbered from 0", last, count);
        for (int i = 0; i < chosen->n; i++)
            b->n_variations += (uint64_t)(chosen->items[i].last - chosen->items[i].first) + 1;
        if (!b->n_variations)
            return ERR(e, ERR_CONFIG, "batch.variations chooses no variation: give numbers such as \"0-3,7\", or \"all\"");
    }
    if (b->cfg->batch.limit > 0 && (uint64_t)b->cfg->batch.limit < b->n_variations)
        b->n_variations = (uint64_t)b->cfg->batch.limit;
    if (__builtin_mul_overflow(b->n_variations, (uint64_t)b->n_seeds, &b->n_runs))
        return ERR(e, ERR_CONFIG, "the template has %s variations with %" PRId64 " seeds each: more runs than can be counted; choose some with "
                   "batch.variations or batch.limit", count, b->n_seeds);
    return 0;
}

int batch_enumerate(batch *b, const config *cfg, err *e)
{
    int rc = 0;
    bool scheduled = cfg->schedules.prompt.n > 0;
    *b = (batch){ .cfg = cfg, .text = scheduled ? cfg->schedules.prompt.texts[0] : cfg->prompt.template };
    b->n_seeds = cfg->batch.videos_per_variation;
    int64_t last;
    if (b->n_seeds < 1 || __builtin_add_overflow(cfg->model.seed, b->n_seeds - 1, &last))
        return ERR(e, ERR_CONFIG, "model.seed %" PRId64 " and batch.videos_per_variation %" PRId64 " lead beyond the largest seed",
                   cfg->model.seed, b->n_seeds);
    if (scheduled && cfg->prompt.template[0]) {
        TRY(template_parse(&b->t, cfg->prompt.template, strlen(cfg->prompt.template), "prompt.template", e));
        if (template_count(b->t) != 1) {
            rc = ERR(e, ERR_CONFIG, "schedules.prompt replaces the prompt of every step, so the %" PRIu64 " variations of prompt.template would "
                     "all be the same video: empty one of the two", template_count(b->t));
            goto out;
        }
        template_free(b->t);
        b->t = NULL;
    }
    if (!b->text[0]) {
        rc = ERR(e, ERR_CONFIG, "no prompt: set prompt.template in the config or give --template 'a [red|blue] ball'");
        goto out;
    }
    TRY(template_parse(&b->t, b->text, strlen(b->text), scheduled ? "schedules.prompt" : "template", e));
    b->n_all = template_count(b->t);
    if (scheduled && b->n_all != 1) {
        rc = ERR(e, ERR_CONFIG, "a prompt of schedules.prompt must be one text, found %" PRIu64 " variations in '%s'", b->n_all, b->text);
        goto out;
    }
    TRY(choose(b, e));
out:
    if (rc)
        batch_release(b);
    return rc;
}

void batch_release(batch *b)
{
    template_free(b->t);
    *b = (batch){ 0 };
}

uint64_t batch_number(const batch *b, uint64_t i)
{
    const int_ranges *chosen = &b->cfg->batch.variations;
    if (chosen->all)
        return i;
    for (int k = 0; k < chosen->n; k++) {
        uint64_t n = (uint64_t)(chosen->items[k].last - chosen->items[k].first) + 1;
        if (i < n)
            return (uint64_t)chosen->items[k].first + i;
        i -= n;
    }
    return UINT64_MAX;
}

int64_t batch_seed(const batch *b, int64_t k)
{
    return b->cfg->model.seed + k;
}

int batch_run(const batch *b, uint64_t r, variation *v, int64_t *seed, err *e)
{
    *seed = batch_seed(b, (int64_t)(r % (uint64_t)b->n_seeds));
    return template_variation(b->t, batch_number(b, r / (uint64_t)b->n_seeds), v, e);
}

int batch_report_duplicates(const batch *b, err *e)
{
    int rc = 0, shown = 0;
    duplicate_finder *d = NULL;
    str line = STR_INIT;
    TRY(duplicate_finder_new(&d, e));
    for (uint64_t i = 0; i < b->n_variations && i < DUPLICATES_WITHIN && shown <= DUPLICATES_SHOWN; i++) {
        variation v = { 0 };
        uint64_t earlier = UINT64_MAX;
        TRY(template_variation(b->t, batch_number(b, i), &v, e));
        rc = duplicate_finder_add(d, &v, &earlier, e);
        variation_release(&v);
        if (rc)
            goto out;
        if (earlier == UINT64_MAX)
            continue;
        if (shown++ == DUPLICATES_SHOWN) {
            log_msg(LOG_WARN, "more variations repeat an earlier text; 'wanscope expand' lists them");
            break;
        }
        str_clear(&line);
        TRY(template_describe_duplicate(b->t, earlier, batch_number(b, i), &line, e));
        log_msg(LOG_WARN, "%s", str_text(&line));
    }
out:
    str_release(&line);
    duplicate_finder_free(d);
    return rc;
}

char *batch_run_folder(const variation *v, int64_t seed)
{
    return str_format("runs/%04" PRIu64 "%s%s/s%" PRId64, v->number, v->slug[0] ? "-" : "", v->slug, seed);
}

/* ---- identity ---- */

static int put_text(char **field, const char *text, err *e)
{
    char *copy = str_dup(text);
    if (!copy)
        return ERR(e, ERR_MEMORY, "out of memory for a configuration");
    free(*field);
    *field = copy;
    return 0;
}

int batch_run_config(str *text, const config *cfg, const char *marked_prompt, int64_t seed, err *e)
{
    int rc = 0;
    str whole = STR_INIT;
    config c;
    memset(&c, 0, sizeof c);
    TRY(config_write(cfg, &whole, e));
    TRY(config_parse(&c, str_text(&whole), whole.len, "resolved config", NULL, 0, NULL, e));
    TRY(put_text(&c.prompt.template, cfg->schedules.prompt.n > 0 ? "" : marked_prompt, e));
    TRY(put_text(&c.output.dir, "outputs", e));
    TRY(put_text(&c.batch.name, "", e));
    c.model.seed = seed;
    c.model.threads = 0;
    c.memory.blocks_to_swap = 0;
    c.memory.offload = OFFLOAD_AUTO;
    c.memory.budget = 0;
    c.batch.videos_per_variation = 1;
    c.batch.limit = c.batch.max_failures = 0;
    c.causal.save_every = 0;
    int_ranges_release(&c.batch.variations);
    c.batch.variations.all = true;
    c.output.use_timestamp = false;
    c.output.video = c.output.preview = true;
    TRY(config_write(&c, text, e));
    if (text->failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for a configuration");
out:
    config_release(&c);
    str_release(&whole);
    return rc;
}

void batch_checkpoints_json(str *out, const engine_info *info)
{
    json_writer w;
    jw_init(&w, out, 0);
    jw_object(&w);
    if (info->dit_digest && info->dit_digest[0])
        jw_kstring(&w, "dit", info->dit_digest);
    if (info->dit_low_digest && info->dit_low_digest[0])
        jw_kstring(&w, "dit_low", info->dit_low_digest);
    if (info->t5_digest && info->t5_digest[0])
        jw_kstring(&w, "t5", info->t5_digest);
    if (info->vae_digest && info->vae_digest[0])
        jw_kstring(&w, "vae", info->vae_digest);
    if (info->lora_digest && info->lora_digest[0])
        jw_kstring(&w, "adapter", info->lora_digest);
    if (info->vace_digest && info->vace_digest[0])
        jw_kstring(&w, "vace", info->vace_digest);
    if (info->conditions) {
        jw_key(&w, "conditions");
        jw_raw(&w, info->conditions);
    }
    if (info->n_loras > 0 && info->loras[0].digest[0]) {
        jw_key(&w, "lora");
        jw_array(&w);
        for (int i = 0; i < info->n_loras; i++) {
            jw_object(&w);
            jw_kstring(&w, "digest", info->loras[i].digest);
            jw_kdouble(&w, "multiplier", info->loras[i].multiplier);
            jw_kstring(&w, "expert", lora_expert_name(info->loras[i].expert));
            if (info->loras[i].include)
                jw_kstring(&w, "include", info->loras[i].include);
            if (info->loras[i].exclude)
                jw_kstring(&w, "exclude", info->loras[i].exclude);
            jw_end_object(&w);
        }
        jw_end_array(&w);
    }
    jw_end_object(&w);
}

int batch_identity(char out[65], const char *run_config, const engine_info *info, err *e)
{
    str all = STR_INIT;
    int rc = 0;
    str_add(&all, "wanscope run, format 1\n");
    str_add(&all, run_config);
    str_add(&all, "\n");
    batch_checkpoints_json(&all, info);
    str_addf(&all, "\n%s\n", info->precision);
    if (all.failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for the identity of a run");
    else
        sha256_text(str_text(&all), out);
    str_release(&all);
    return rc;
}

/* ---- folder ---- */

char *batch_name(const config *cfg, const char *config_path)
{
    const char *from = cfg->batch.name[0] ? cfg->batch.name : config_path ? fs_basename(config_path) : "batch";
    char *name = str_dup(from);
    if (!name)
        return NULL;
    char *dot = cfg->batch.name[0] ? NULL : strrchr(name, '.');
    if (dot && dot != name && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0))
        *dot = '\0';
    for (char *c = name; *c; c++)
        if (!isalnum((unsigned char)*c) && !strchr("._-", *c))
            *c = '-';
    if (name[0] == '.')
        name[0] = '-';
    if (!name[0]) {
        free(name);
        name = str_dup("batch");
    }
    return name;
}

char *batch_folder(const config *cfg, const char *name, time_t now)
{
    char stamp[32] = "";
    struct tm local;
    if (cfg->output.use_timestamp && localtime_r(&now, &local))
        strftime(stamp, sizeof stamp, "-%Y%m%d-%H%M%S", &local);
    char *leaf = str_format("%s%s", name, stamp);
    char *path = leaf ? fs_join(cfg->output.dir, leaf) : NULL;
    free(leaf);
    return path;
}

/* What makes a folder one that is in use: anything but the leftovers of a start that was cut short. */
static int find_content(char **found, const char *dir, err *e)
{
    *found = NULL;
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    struct dirent *entry;
    while (!*found && (entry = readdir(d))) {
        const char *n = entry->d_name;
        if (strcmp(n, ".") == 0 || strcmp(n, "..") == 0 || strcmp(n, "template.txt") == 0 || str_ends_with(n, ".part"))
            continue;
        if (!(*found = str_dup(n))) {
            closedir(d);
            return ERR(e, ERR_MEMORY, "out of memory");
        }
    }
    closedir(d);
    return 0;
}

int batch_check_new(const char *dir, const char *config_text, err *e)
{
    int rc = 0;
    char *found = NULL, *path = NULL, *there = NULL;
    if (fs_exists(dir) && !fs_is_dir(dir))
        return ERR(e, ERR_CONFIG, "%s: a file of that name is in the way of the batch's folder; choose another batch.name or output.dir", dir);
    TRY(find_content(&found, dir, e));
    if (!found)
        goto out;
    path = fs_join(dir, "config.yaml");
    if (!path) {
        rc = ERR(e, ERR_MEMORY, "out of memory");
        goto out;
    }
    err ignored = { 0 };
    if (!fs_exists(path))
        rc = ERR(e, ERR_CONFIG, "%s: the folder exists and holds '%s' but no batch; choose another batch.name or output.dir", dir, found);
    else if (fs_read_text(&there, NULL, path, &ignored) == 0 && config_text && strcmp(there, config_text) == 0)
        rc = ERR(e, ERR_CONFIG, "%s: this very batch exists; go on with it: wanscope run --resume %s", dir, dir);
    else
        rc = ERR(e, ERR_CONFIG, "%s: a batch with other settings exists there; choose another --batch-name or set output.use_timestamp, or go on "
                 "with that one as it was: wanscope run --resume %s", dir, dir);
out:
    free(found);
    free(path);
    free(there);
    return rc;
}

static int write_in(const char *dir, const char *name, const char *text, err *e)
{
    char *path = fs_join(dir, name);
    int rc = path ? fs_write_atomic(path, text, strlen(text), e) : ERR(e, ERR_MEMORY, "out of memory");
    free(path);
    return rc;
}

int batch_create(manifest **m, const char *dir, const char *config_text, const char *template_text, err *e)
{
    int rc = 0;
    *m = NULL;
    TRY(batch_check_new(dir, config_text, e));
    TRY(fs_mkdirs(dir, e));
    TRY(manifest_open(m, dir, MANIFEST_WRITE, e));
    TRY(batch_check_new(dir, config_text, e));      /* another process may have been quicker than the lock */
    TRY(write_in(dir, "template.txt", template_text, e));
    TRY(write_in(dir, "config.yaml", config_text, e));      /* last: with it the folder is a batch */
out:
    if (rc) {
        manifest_close(*m);
        *m = NULL;
    }
    return rc;
}

static int remove_parts(const char *dir, err *e)
{
    int rc = 0;
    DIR *d = opendir(dir);
    if (!d)
        return 0;
    struct dirent *entry;
    while (!rc && (entry = readdir(d))) {
        if (!str_ends_with(entry->d_name, ".part"))
            continue;
        char *path = fs_join(dir, entry->d_name);
        rc = path ? fs_remove_tree(path, e) : ERR(e, ERR_MEMORY, "out of memory");
        free(path);
    }
    closedir(d);
    return rc;
}

int batch_reopen(manifest **m, const char *dir, err *e)
{
    *m = NULL;
    int rc = manifest_open(m, dir, MANIFEST_WRITE, e);
    if (!rc)
        rc = remove_parts(dir, e);
    if (rc) {
        manifest_close(*m);
        *m = NULL;
    }
    return rc;
}
