#include "experiments/run_setup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/fs.h"
#include "core/base/log.h"
#include "experiments/interrupt.h"

#define TRY(call) do { if ((rc = (call))) goto out; } while (0)

#define DEFAULT_CONFIG "configs/default.yaml"

const char RUN_OPTIONS_HELP[] =
    "  --config FILE                 the settings (without it: configs/default.yaml); docs/config.md lists them\n"
    "  --template TEXT | @FILE       prompt with alternatives, e.g. 'a [red|blue] (ball)'; in place of prompt.template\n"
    "  --set SECTION.KEY=VALUE       replaces one setting; may be repeated\n"
    "  --output-dir DIR              folder that batches are made in (output.dir)\n"
    "  --batch-name NAME             name of the batch's folder (batch.name)\n"
    "  --videos-per-variation N      seeds per variation; video k of every variation has seed + k\n"
    "  --seed S                      seed of video 0 of every variation\n"
    "  --store-latents               store the latents of every step in trace.h5\n"
    "  --store-attention             store attention maps of the marked words in trace.h5\n"
    "  --device DEVICE               auto, cpu, cuda, cuda:N\n"
    "  --precision exact|bf16|fp8    arithmetic on a GPU (model.precision)\n"
    "  --model PATH                  checkpoint folder or file (model.path)\n"
    "  --lora FILE[:MULTIPLIER][@EXPERT]  an adapter to merge (model.lora)\n"
    "  --steps N  --guidance-scale G  --shift S  --solver NAME  --negative-prompt TEXT\n"
    "  --width W  --height H  --frames F  --fps R  --max-variations N  --threads N\n"
    "  --blocks-to-swap N  --max-device-memory 8GiB\n"
    "                                the settings of these names\n"
    "  --resume DIR                  go on with the batch in DIR, with its own config.yaml\n"
    "  --quiet | --verbose           less or more on stderr\n"
    "  --help, --version\n"
    "\n"
    "Underscores may stand for hyphens: --output_dir is --output-dir.\n";

static const flag_spec FLAGS[] = {
    { "config", 1, NULL, NULL, NULL },
    { "template", 1, "prompt.template", NULL, NULL },
    { "set", 1, NULL, NULL, NULL },
    { "output-dir", 1, "output.dir", NULL, NULL },
    { "batch-name", 1, "batch.name", NULL, NULL },
    { "videos-per-variation", 1, "batch.videos_per_variation", NULL, NULL },
    { "seed", 1, "model.seed", NULL, NULL },
    { "store-latents", 0, "capture.latents.enabled", "true", NULL },
    { "store-attention", 0, "capture.attention.enabled", "true", NULL },
    { "device", 1, "model.device", NULL, NULL },
    { "model", 1, "model.path", NULL, NULL },
    { "precision", 1, "model.precision", NULL, NULL },
    { "lora", 1, "model.lora", NULL, NULL },
    { "steps", 1, "sampling.steps", NULL, NULL },
    { "guidance-scale", 1, "sampling.guidance_scale", NULL, NULL },
    { "cfg-scale", 1, "sampling.guidance_scale", NULL, NULL },
    { "shift", 1, "sampling.shift", NULL, NULL },
    { "solver", 1, "sampling.solver", NULL, NULL },
    { "negative-prompt", 1, "prompt.negative", NULL, NULL },
    { "width", 1, "video.width", NULL, NULL },
    { "height", 1, "video.height", NULL, NULL },
    { "frames", 1, "video.frames", NULL, NULL },
    { "fps", 1, "video.fps", NULL, NULL },
    { "duration", 1, "video.duration", NULL, NULL },
    { "max-variations", 1, "batch.limit", NULL, NULL },
    { "threads", 1, "model.threads", NULL, NULL },
    { "blocks-to-swap", 1, "memory.blocks_to_swap", NULL, NULL },
    { "max-device-memory", 1, "memory.budget", NULL, NULL },
    { "resume", 1, NULL, NULL, NULL },
    { "quiet", 0, NULL, NULL, NULL },
    { "verbose", 0, NULL, NULL, NULL },
    { "json", 0, NULL, NULL, NULL },
    { "dry-run", 0, NULL, NULL, NULL },
};
static const size_t N_FLAGS = sizeof FLAGS / sizeof *FLAGS;

/* The assignments that the flags stand for, in their order. */
static int assignments(const flags *f, char ***out, int *n, err *e)
{
    char **sets = calloc(f->n_items + 1, sizeof *sets);
    *n = 0;
    *out = sets;
    if (!sets)
        return ERR(e, ERR_MEMORY, "out of memory for the command line");
    for (size_t i = 0; i < f->n_items; i++) {
        const flag_item *item = &f->items[i];
        const char *name = item->spec->name, *value = item->values[0];
        char *set = NULL;
        if (strcmp(name, "set") == 0)
            set = str_dup(value);
        else if (strcmp(name, "template") == 0 && value[0] == '@')
            set = str_format("prompt.template_file=%s", value + 1);
        else if (strcmp(name, "template") == 0)
            set = str_format("prompt.template=%s", value);
        else if (item->spec->key)
            set = str_format("%s=%s", item->spec->key, item->spec->n_values ? value : item->spec->value);
        else
            continue;
        if (!set)
            return ERR(e, ERR_MEMORY, "out of memory for the command line");
        sets[(*n)++] = set;
    }
    return 0;
}

/* A batch is resumed as it was: a changed setting would make runs that do not belong together. */
static int refuse_changes(const flags *f, err *e)
{
    for (size_t i = 0; i < f->n_items; i++) {
        const flag_spec *spec = f->items[i].spec;
        bool changes = spec->key || strcmp(spec->name, "set") == 0 || strcmp(spec->name, "template") == 0 || strcmp(spec->name, "config") == 0;
        bool same_bytes = strcmp(spec->name, "threads") == 0 || strcmp(spec->name, "blocks-to-swap") == 0 || strcmp(spec->name, "max-device-memory") == 0;
        if (changes && !same_bytes)
            return ERR(e, ERR_ARG, "--resume goes on with the batch's own config.yaml, so --%s cannot be given with it; for other settings start "
                       "another batch with --config", spec->name);
    }
    return 0;
}

static char *without_slashes(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    return str_dupn(path, n);
}

static int load(run_setup *s, err *e)
{
    int rc = 0, n = 0;
    char **sets = NULL, *path = NULL;
    config_notes notes = { 0 };
    TRY(assignments(&s->f, &sets, &n, e));
    if (s->resume) {
        TRY(refuse_changes(&s->f, e));
        s->dir = without_slashes(flags_value(&s->f, "resume"));
        path = s->dir ? fs_join(s->dir, "config.yaml") : NULL;
        if (!path) {
            rc = ERR(e, ERR_MEMORY, "out of memory");
            goto out;
        }
        if (!fs_is_dir(s->dir)) {
            rc = ERR(e, ERR_ARG, "%s: there is no such folder to resume; give the folder of a batch, such as outputs/<batch>", s->dir);
            goto out;
        }
        if (!fs_exists(path)) {
            rc = ERR(e, ERR_ARG, "%s: not the folder of a batch: it has no config.yaml (a batch that was stopped before its first line leaves none: start "
                     "it again with --config)", s->dir);
            goto out;
        }
    } else {
        s->config_path = flags_value(&s->f, "config");
        if (!s->config_path && fs_exists(DEFAULT_CONFIG))
            s->config_path = DEFAULT_CONFIG;
        if (!s->config_path) {
            rc = ERR(e, ERR_ARG, "no settings: give --config FILE (there is no " DEFAULT_CONFIG " in this folder)");
            goto out;
        }
        path = str_dup(s->config_path);
        if (!path) {
            rc = ERR(e, ERR_MEMORY, "out of memory");
            goto out;
        }
    }
    if ((rc = config_load(&s->cfg, path, (const char *const *)sets, n, &notes, e))) {
        flags_name_option(&s->f, e);
        goto out;
    }
    s->loaded = true;
    for (int i = 0; i < notes.n; i++)
        log_msg(LOG_INFO, "%s", notes.items[i]);
out:
    config_notes_release(&notes);
    for (int i = 0; sets && i < n; i++)
        free(sets[i]);
    free(sets);
    free(path);
    return rc;
}

static int check_outputs(const run_setup *s, err *e)
{
    const config *c = &s->cfg;
    const engine_info *info = runner_info(s->r);
    if (!c->output.video && !c->output.preview && !c->latents.enabled && !c->latents.velocity && !c->attention.enabled)
        return ERR(e, ERR_CONFIG, "nothing would be stored: switch on output.video, output.preview, capture.latents.enabled or "
                   "capture.attention.enabled");
    if ((c->output.video || c->output.preview) && !info->vae)
        return ERR(e, ERR_CONFIG, "%s has no VAE, so no video can be made: set model.vae, or switch output.video and output.preview off",
                   c->model.path[0] ? c->model.path : c->model.dit);
    if (!info->t5)
        return ERR(e, ERR_CONFIG, "%s has no text encoder: set model.t5 to models_t5_umt5-xxl-enc-bf16.pth or its like",
                   c->model.path[0] ? c->model.path : c->model.dit);
    return 0;
}

int run_setup_open(run_setup *s, int command, int argc, char **argv, err *e)
{
    int rc = 0;
    memset(s, 0, sizeof *s);
    TRY(flags_parse(&s->f, command == SETUP_RUN ? "run" : "plan", FLAGS, N_FLAGS, argc, argv, e));
    if (s->f.help || s->f.version)
        return 0;
    const char *stray = command == SETUP_RUN ? "json" : "dry-run";
    if (flags_given(&s->f, stray)) {
        rc = ERR(e, ERR_ARG, "--%s belongs to 'wanscope %s'", stray, command == SETUP_RUN ? "plan" : "run");
        goto out;
    }
    if (flags_given(&s->f, "quiet"))
        log_set_level(LOG_WARN);
    else if (flags_given(&s->f, "verbose"))
        log_set_level(LOG_DEBUG);
    s->resume = flags_given(&s->f, "resume");
    TRY(load(s, e));
    TRY(batch_enumerate(&s->b, &s->cfg, e));
    s->name = batch_name(&s->cfg, s->config_path);
    if (!s->resume)
        s->dir = s->name ? batch_folder(&s->cfg, s->name, time(NULL)) : NULL;
    char *kept = s->name ? str_dup(s->name) : NULL;
    if (!s->name || !s->dir || !kept) {
        free(kept);
        rc = ERR(e, ERR_MEMORY, "out of memory");
        goto out;
    }
    free(s->cfg.batch.name);      /* so that the resolved file names the same batch, whatever it is called itself */
    s->cfg.batch.name = kept;
    TRY(runner_open(&s->r, &s->cfg, e));
    TRY(check_outputs(s, e));
    TRY(config_write(&s->cfg, &s->config_text, e));
    if (s->config_text.failed)
        rc = ERR(e, ERR_MEMORY, "out of memory for the resolved configuration");
out:
    return rc;
}

void run_setup_close(run_setup *s)
{
    runner_close(s->r);
    batch_release(&s->b);
    if (s->loaded)
        config_release(&s->cfg);
    flags_release(&s->f);
    str_release(&s->config_text);
    free(s->name);
    free(s->dir);
    free(s->done);
    memset(s, 0, sizeof *s);
}

int run_setup_identity(run_setup *s, const variation *v, int64_t seed, char out[65], err *e)
{
    str text = STR_INIT;
    int rc = batch_run_config(&text, &s->cfg, v->marked, seed, e);
    if (!rc)
        rc = batch_identity(out, str_text(&text), runner_info(s->r), e);
    str_release(&text);
    return rc;
}

int run_setup_look(run_setup *s, const manifest *m, err *e)
{
    int rc = 0;
    s->n_done = 0;
    free(s->done);
    s->done = calloc(s->b.n_runs < SIZE_MAX ? (size_t)s->b.n_runs + 1 : SIZE_MAX, 1);
    if (!s->done)
        return ERR(e, ERR_MEMORY, "out of memory for a list of %" PRIu64 " runs: choose some with batch.limit or batch.variations", s->b.n_runs);
    if (!m || !manifest_count(m))
        return 0;
    for (uint64_t i = 0; !rc && i < s->b.n_runs; i++) {
        variation v = { 0 };
        int64_t seed;
        char identity[65], *why = NULL, *id = NULL;
        TRY(interrupt_check(e));
        TRY(batch_run(&s->b, i, &v, &seed, e));
        id = manifest_run_id((int64_t)v.number, seed);
        if (!id)
            rc = ERR(e, ERR_MEMORY, "out of memory");
        if (!rc && manifest_find(m, id) && !(rc = run_setup_identity(s, &v, seed, identity, e))) {
            s->done[i] = manifest_run_is_done(m, id, identity, true, &why);
            s->n_done += s->done[i];
            if (!s->done[i] && why)
                log_msg(LOG_INFO, "run %s is made again: %s", id, why);
        }
        free(why);
        free(id);
        variation_release(&v);
    }
out:
    return rc;
}
