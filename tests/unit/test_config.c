/* Configs: every setting, old keys, --set, the resolved file, messages, shipped files, the reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/fs.h"
#include "experiments/config_internal.h"
#include "experiments/template.h"

#define MODEL "model: {path: m}\n"

static config load(const char *text, config_notes *notes)
{
    config c;
    err e = { 0 };
    if (config_parse(&c, text, strlen(text), "t.yaml", NULL, 0, notes, &e))
        fail_msg("%s\n%s", text, e.text);
    return c;
}

/* text without a model gets one, so that the message is about what is tested */
static void check_error(const char *text, const char *want)
{
    config c;
    err e = { 0 };
    int rc = config_parse(&c, text, strlen(text), "t.yaml", NULL, 0, NULL, &e);
    if (rc == 0)
        fail_msg("should be refused: %s", text);
    assert_int_equal(err_exit_code(rc), 2);
    if (!strstr(e.text, want))
        fail_msg("%s\ngives\n  %s\nexpected\n  %s", text, e.text, want);
    config_release(&c);
}

static void check_set_error(const char *set, const char *want)
{
    config c;
    err e = { 0 };
    const char *sets[] = { "model.path=m", set };
    if (config_load(&c, NULL, sets, 2, NULL, &e) == 0)
        fail_msg("should be refused: --set %s", set);
    if (!strstr(e.text, want))
        fail_msg("--set %s gives\n  %s\nexpected\n  %s", set, e.text, want);
}

static void test_defaults(void **state)
{
    (void)state;
    config c;
    err e = { 0 };
    const char *sets[] = { "model.path=m" };
    assert_int_equal(config_load(&c, NULL, sets, 1, NULL, &e), 0);
    assert_int_equal(c.video.width, 832);
    assert_int_equal(c.video.frames, 81);
    assert_true(c.video.fps == CONFIG_AUTO);
    assert_int_equal(c.sampling.solver, CONFIG_AUTO);
    assert_int_equal(c.sampling.steps, CONFIG_AUTO);
    assert_int_equal(c.model.seed, 42);
    assert_true(c.attention.layers.all && c.attention.steps.all && c.attention.heads.mean);
    assert_string_equal(c.model.device, "auto");
    assert_true(c.output.video && c.output.preview && c.model.clean_ftfy);
    assert_string_equal(config_negative_prompt(&c), CONFIG_WAN_NEGATIVE);
    assert_string_equal(config_enum_name("sampling.solver", SOLVER_DPMPP), "dpmpp");
    for (int i = 0; i < SOLVER_COUNT; i++)
        assert_string_equal(config_enum_name("sampling.solver", i),
                            ((const char *[]){ "unipc", "dpmpp", "diffusers_unipc", "diffusers_euler",
                                               "diffsynth_euler" })[i]);
    assert_string_equal(config_enum_name("sampling.solver", 99), "");
    assert_string_equal(config_enum_name("no.such", 0), "");
    config_release(&c);
}

static void test_resolve(void **state)
{
    (void)state;
    err e = { 0 };
    config c = load(MODEL, NULL);
    assert_int_equal(config_resolve(&c, "wan2.1", &e), 0);
    assert_true(c.sampling.steps == 50 && c.sampling.shift == 5 && c.sampling.guidance_scale == 5);
    config_release(&c);
    c = load(MODEL, NULL);
    assert_int_equal(config_resolve(&c, "wan2.2-a14b", &e), 0);
    assert_true(c.sampling.steps == 40 && c.sampling.shift == 12 && c.sampling.guidance_scale == 4 &&
                c.sampling.guidance_scale_low == 3 && c.sampling.boundary == 0.875);
    config_release(&c);
    c = load(MODEL "sampling: {guidance_scale: 6, solver: diffusers_unipc}\nvideo: {width: 512, height: 512}\n", NULL);
    assert_int_equal(config_resolve(&c, "wan2.2-a14b", &e), 0);
    assert_true(c.sampling.guidance_scale_low == 6);
    config_release(&c);
    c = load(MODEL "sampling: {solver: diffusers_unipc}\nvideo: {width: 512, height: 512}\n", NULL);
    assert_int_equal(config_resolve(&c, "wan2.1", &e), 0);
    assert_true(c.sampling.shift == 3);
    config_release(&c);
    c = load(MODEL "capture: {attention: {enabled: true, steps: '0,60'}}\n", NULL);
    assert_int_equal(config_resolve(&c, "wan2.1", &e), ERR_CONFIG);
    assert_non_null(strstr(e.text, "asks for step 60, but there are 50 steps, numbered from 0"));
    config_release(&c);
}

static const char EVERYTHING[] =
    "model: {path: a b, dit: d, dit_low: l, t5: t, vae: v, tokenizer: k, family: wan2.2-a14b, device: 'cuda:3', "
    "precision: fp8,\n"
    "        seed: 9007199254740993, text_len: 48, threads: 2, clean_ftfy: no}\n"
    "video: {width: 64, height: 48, frames: 5, fps: 23.976, crf: 0}\n"
    "sampling: {solver: euler, steps: 7, shift: 2.5, guidance_scale: 0.1, guidance_scale_low: 1e-5, boundary: 0.9,\n"
    "           noise: torch-cuda, noise_sms: 128, noise_threads_per_sm: 1536, latent_dtype: bfloat16}\n"
    "prompt: {template: \"a [b|c] (d:1.5)\\nline \\\"q\\\" 猫 \\x85\", negative: ' x ', negative_default: none, "
    "weighting: interpolation}\n"
    "schedules: {guidance: {10: -3.5, 0: 7}, guidance_interpolation: cosine, prompt: {3: 'a (cat)', 0: \"dog: x\"},\n"
    "            prompt_interpolation: lerp}\n"
    "memory: {blocks_to_swap: 3, offload: all, budget: 1.5GiB}\n"
    "capture:\n"
    "  latents: {enabled: on, dtype: float16, every: 2, velocity: yes, compression: 9}\n"
    "  attention: {enabled: true, words: [cat, 'a, b'], steps: [0, 2-3, 5], every: 3, layers: '3,1,2', heads: 0-1, "
    "dtype: f16,\n"
    "              compression: 0}\n"
    "bending: {apply_to_output: true, variations: {generate_baseline: false}}\n"
    "batch: {name: n, videos_per_variation: 4, variations: '1', limit: 5, max_failures: 6}\n"
    "output: {dir: o, use_timestamp: false, video: false, preview: false}\n";

static void test_values(void **state)
{
    (void)state;
    config c = load(EVERYTHING, NULL);
    assert_string_equal(c.model.path, "a b");
    assert_int_equal(c.model.family, FAMILY_WAN22_A14B);
    assert_string_equal(c.model.device, "cuda:3");
    assert_int_equal(c.model.precision, PRECISION_FP8);
    assert_true(c.model.seed == 9007199254740993);
    assert_false(c.model.clean_ftfy);
    assert_true(c.video.fps == 23.976 && c.video.crf == 0);
    assert_int_equal(c.sampling.solver, SOLVER_DIFFSYNTH_EULER);
    assert_int_equal(c.sampling.noise, CONFIG_NOISE_TORCH_CUDA);
    assert_int_equal(c.sampling.latent_dtype, LATENT_BF16);
    assert_string_equal(c.prompt.template, "a [b|c] (d:1.5)\nline \"q\" 猫 \xc2\x85");
    assert_string_equal(config_negative_prompt(&c), " x ");
    assert_int_equal(c.schedules.guidance.n, 2);
    assert_true(c.schedules.guidance.steps[0] == 0 && c.schedules.guidance.values[1] == -3.5);
    assert_string_equal(c.schedules.prompt.texts[0], "dog: x");
    assert_true(c.memory.budget == 1610612736);
    assert_int_equal(c.latents.dtype, STORE_F16);
    assert_int_equal(c.attention.words.n, 2);
    assert_string_equal(c.attention.words.items[1], "a, b");
    str s = STR_INIT;
    int_ranges_print(&c.attention.steps, &s);
    assert_string_equal(str_text(&s), "0,2-3,5");
    assert_int_equal(c.attention.layers.n, 1);
    assert_true(int_ranges_contains(&c.attention.layers, 3) && !int_ranges_contains(&c.attention.layers, 0));
    assert_true(!c.attention.heads.mean && c.attention.heads.n == 1);
    assert_false(c.bending.generate_baseline);
    str_release(&s);
    config_release(&c);
}

static void check_write(config *c)
{
    str s = STR_INIT, again = STR_INIT;
    err e = { 0 };
    config d;
    config_notes notes = { 0 };
    assert_int_equal(config_write(c, &s, &e), 0);
    if (config_parse(&d, str_text(&s), s.len, "written.yaml", NULL, 0, &notes, &e))
        fail_msg("%s\n%s", e.text, str_text(&s));
    assert_int_equal(notes.n, 0);
    assert_true(config_equal(c, &d));
    assert_int_equal(config_write(&d, &again, &e), 0);
    assert_string_equal(str_text(&s), str_text(&again));
    str_release(&s);
    str_release(&again);
    config_release(&d);
}

static void test_write(void **state)
{
    (void)state;
    config c = load(EVERYTHING, NULL), d = load(MODEL, NULL);
    check_write(&c);
    check_write(&d);
    assert_false(config_equal(&c, &d));
    config_release(&d);
    /* a long text on one line */
    char *text = malloc(20000);
    assert_non_null(text);
    memset(text, 'x', 19999);
    text[19999] = 0;
    free(c.prompt.template);
    c.prompt.template = text;
    int_ranges_release(&c.batch.variations);
    check_write(&c);
    str s = STR_INIT;
    assert_int_equal(config_write(&c, &s, NULL), 0);
    assert_non_null(strstr(str_text(&s), "\ncapture:\n  latents:\n    enabled: true\n    dtype: f16\n"));
    assert_non_null(strstr(str_text(&s), "\n  attention:\n    enabled: true\n    words: [\"cat\", \"a, b\"]\n    "
                                         "steps: \"0,2-3,5\"\n"));
    assert_null(strstr(str_text(&s), "duration"));
    str_release(&s);
    config_release(&c);
}

static void test_old_config(void **state)
{
    (void)state;
    static const char OLD[] =
        "model_settings:\n  seed: 7\n  sampler: unipc\n  cfg_scale: 6.5\n  steps: 20\n  eta: 0.0\n  clip_skip: 1\n  "
        "model_id: m\n  device: auto\n"
        "memory_settings:\n  enable_memory_optimization: true\n  use_sequential_cpu_offload: true\n  "
        "secondary_gpu_device: null\n"
        "video_settings:\n  width: 848\n  height: 480\n  fps: 24\n  duration: 4.0\n  frames: null\n"
        "prompt_settings:\n  use_weighted_embeddings: false\n  embedding_method: multiply\n  negative_prompt: blurry\n"
        "latent_analysis_settings:\n  store_latents: true\n  storage_interval: 2\n  storage_dtype: float16\n  "
        "compress_latents: false\n"
        "attention_analysis_settings:\n  store_attention: true\n  storage_interval: 5\n  store_per_head: true\n"
        "  visualization_params: {figsize: [12, 8]}\n"
        "cfg_schedule_settings:\n  enabled: false\n  schedule: {0: 7.0}\n  interpolation: cosine\n"
        "prompt_schedule_settings:\n  enabled: true\n  schedule: {0: a, 10: b}\n  interpolation: slerp\n"
        "attention_bending_settings:\n  enabled: false\n  configs:\n    - {token: cat, mode: scale, scale_factor: "
        "1.2}\n"
        "attention_bending_variations:\n  enabled: false\n  operations: [{operation: scale, range: [0.5, 1.5], steps: "
        "3}]\n"
        "videos_per_variation: 3\noutput_dir: out\nbatch_name: null\nuse_timestamp: true\n";
    config_notes notes = { 0 };
    config c = load(OLD, &notes);
    assert_int_equal(c.model.seed, 7);
    assert_true(c.sampling.guidance_scale == 6.5 && c.sampling.steps == 20);
    assert_string_equal(c.model.path, "m");
    assert_int_equal(c.memory.offload, OFFLOAD_ALL);
    assert_int_equal(c.video.frames, 97);   /* 96 is not 4k+1 */
    assert_true(c.video.fps == 24);
    assert_int_equal(c.prompt.weighting, WEIGHTING_NONE);
    assert_string_equal(c.prompt.negative, "blurry");
    assert_true(c.latents.enabled && c.latents.every == 2);
    assert_true(c.latents.dtype == STORE_F16 && c.latents.compression == 0);
    assert_true(c.attention.enabled && c.attention.every == 5 && c.attention.heads.all);
    assert_int_equal(c.schedules.guidance.n, 0);
    assert_int_equal(c.schedules.prompt.n, 2);
    assert_int_equal(c.batch.videos_per_variation, 3);
    assert_string_equal(c.output.dir, "out");
    assert_int_equal(notes.n, 7);
    assert_string_equal(notes.items[0], "t.yaml:3: 'model_settings.sampler' is ignored: it never chose a solver; "
                                        "sampling.solver does");
    assert_string_equal(notes.items[6], "t.yaml: 4 s at 24 frames a second: 97 frames (4k+1)");
    check_write(&c);
    config_release(&c);
    config_notes_release(&notes);
}

static void test_set(void **state)
{
    (void)state;
    config c;
    err e = { 0 };
    static const char TEXT[] = MODEL "video: {frames: 5}\nprompt: {template: a}\nschedules: {guidance: {0: 5}}\n";
    const char *sets[] = {
        "video.frames=9", "prompt.template=x [a|b] = c", "schedules.guidance={0: 7, 10: 3}",
        "capture.attention.words=cat, dog",
        "capture.attention.layers=[1, 2]", "sampling.shift=auto", "model_settings.seed=5",
        "capture.latents.enabled=yes",
        "capture.attention.words=[one]", "batch.name=", "capture.attention.steps=",
    };
    assert_int_equal(config_parse(&c, TEXT, strlen(TEXT), "t.yaml", sets, sizeof sets / sizeof *sets, NULL, &e), 0);
    assert_int_equal(c.video.frames, 9);
    assert_string_equal(c.prompt.template, "x [a|b] = c");
    assert_int_equal(c.schedules.guidance.n, 2);
    assert_int_equal(c.attention.words.n, 1);
    assert_string_equal(c.attention.words.items[0], "one");
    assert_int_equal(c.attention.layers.n, 1);
    assert_int_equal(c.model.seed, 5);
    assert_true(c.latents.enabled && !c.attention.steps.all && c.attention.steps.n == 0);
    check_write(&c);
    config_release(&c);
    /* duration of --set beats frames of the file */
    const char *duration[] = { "video.duration=2" };
    assert_int_equal(config_parse(&c, TEXT, strlen(TEXT), "t.yaml", duration, 1, NULL, &e), 0);
    assert_int_equal(c.video.frames, 33);
    config_release(&c);
    check_set_error("video.frames", "--set video.frames: expected section.key=value");
    check_set_error("=1", "expected section.key=value");
    check_set_error("video.frame=5", "--set video.frame=5: unknown key 'video.frame'; did you mean 'video.frames'?");
    check_set_error("video.frames=6", "--set video.frames=6: video.frames is 6, expected a whole number from 1 to "
                                      "100001 of the form 4k+1; "
                    "the nearest are 5 and 9");
    check_set_error("schedules.guidance={0: x}", "--set schedules.guidance={0: x}: schedules.guidance: step 0 has a "
                                                 "text, expected a finite");
    check_set_error("schedules.guidance={0", "--set schedules.guidance={0: ");
    check_set_error("prompt.template=a [b", "--set prompt.template=a [b: prompt.template:1:3: '[' is never closed");
    check_set_error("prompt.template=a\xff", "byte 17 (0xff) is not valid UTF-8");
    check_set_error("model_settings.eta=1", "'model_settings.eta' is a key of old configs; it never had an effect");
    check_set_error("latent_analysis_settings.compress_latents=no", "is a key of old configs; set "
                                                                    "capture.latents.compression");
    check_set_error("model.path=", "no checkpoint is given; set model.path");
}

static void test_errors(void **state)
{
    (void)state;
    check_error("sampling:\n  guidence_scale: 5\n", "t.yaml:2:3: unknown key 'sampling.guidence_scale'; did you mean "
                                                    "'sampling.guidance_scale'?");
    check_error("sampling:\n  seed: 5\n", "t.yaml:2:3: unknown key 'sampling.seed'; did you mean 'model.seed'?");
    check_error("modle:\n  seed: 5\n", "t.yaml:1:1: unknown key 'modle'; did you mean 'model'?");
    check_error("seed: 5\n", "t.yaml:1:1: unknown key 'seed'; did you mean 'model.seed'?");
    check_error("model_settings:\n  cfg_scal: 5\n", "did you mean 'model_settings.cfg_scale'?");
    check_error("zzzzqqqq: 5\n", "t.yaml:1:1: unknown key 'zzzzqqqq'; docs/config.md lists all keys");
    check_error("model: 5\n", "t.yaml:1:8: the section 'model' is a number, expected a mapping of settings");
    check_error("- a\n", "t.yaml:1:1: the file is a list, expected sections");
    check_error("", "t.yaml: no checkpoint is given; set model.path");
    check_error("model: {seed: 1}\nmodel_settings: {seed: 2}\n", "t.yaml:2:18: model.seed is already given at line 1");
    check_error("model: {seed: 1, seed: 2}\n", "t.yaml:1:18: the key 'seed' is already given at line 1");
    check_error("video: {width: abc}\n", "t.yaml:1:16: video.width is 'abc', expected a whole number from 16 to 8192, "
                                         "a multiple of 16");
    check_error("video: {width: 100}\n", "video.width is 100, expected a whole number from 16 to 8192, a multiple of "
                                         "16; the nearest are 96 and 112");
    check_error("video: {width: 8200}\n", "video.width is '8200', expected a whole number from 16 to 8192");
    check_error("video: {width: -16}\n", "video.width is '-16', expected");
    check_error("video: {width: 64.0}\n", "video.width is '64.0', expected a whole number");
    check_error("video: {width: [64]}\n", "video.width is a list, expected a whole number");
    check_error("video: {width: '64'}\n", "video.width is '64', expected a whole number");
    check_error("video: {frames: 64}\n", "video.frames is 64, expected a whole number from 1 to 100001 of the form "
                                         "4k+1; the nearest are 61 and 65");
    check_error("video: {fps: .nan}\n", "video.fps is '.nan', expected a number from 0.1 to 240");
    check_error("sampling: {shift: 0}\n", "sampling.shift is '0', expected a number from 0.01 to 1000, or auto");
    check_error("sampling: {steps: 0}\n", "sampling.steps is '0', expected a whole number from 1 to 1000, or auto");
    check_error("sampling: {solver: unpc}\n", "sampling.solver is 'unpc', expected unipc, dpmpp, diffusers_unipc, "
                                              "diffusers_euler or "
                "diffsynth_euler, or auto; did you mean 'unipc'?");
    check_error("model: {device: gpu}\n", "model.device is 'gpu', expected auto, cpu, cuda or cuda:N");
    check_error("model: {device: 'cuda:x'}\n", "model.device is 'cuda:x', expected");
    check_error("model: {clean_ftfy: 1}\n", "model.clean_ftfy is '1', expected true or false");
    check_error("prompt: {template: [a, b]}\n", "prompt.template is a list, expected a text; a text that begins with "
                                                "'[' needs quotes");
    check_error(MODEL "prompt:\n  template: 'a [b'\n", "t.yaml:3:13: prompt.template:1:3: '[' is never closed");
    check_error(MODEL "prompt: {template: a, template_file: b}\n", "prompt.template and prompt.template_file are both "
                                                                   "given");
    check_error(MODEL "prompt: {template_file: /nonexistent/t.txt}\n", "t.yaml:2:25: prompt.template_file: ");
    check_error("memory: {budget: 5 XB}\n", "memory.budget is '5 XB', expected a number of bytes like 0, 512MiB or "
                                            "16GB");
    check_error("memory: {budget: 99999999TB}\n", "memory.budget is '99999999TB', expected");
    check_error("capture: {attention: {steps: 5-2}}\n", "t.yaml:1:30: capture.attention.steps is 5-2, which runs "
                                                        "backwards");
    check_error("capture: {attention: {steps: 5-}}\n", "capture.attention.steps is '5-', expected 'all' or numbers "
                                                       "and ranges");
    check_error("capture: {attention: {steps: '1,'}}\n", "which ends in a comma");
    check_error("capture: {attention: {steps: -1}}\n", "capture.attention.steps is '-1', expected");
    check_error("capture: {attention: {layers: mean}}\n", "capture.attention.layers is 'mean', expected 'all' or");
    check_error("capture: {attention: {heads: ''}}\n", "capture.attention.heads is empty, expected mean, all");
    check_error("capture: {attention: {heads: {a: 1}}}\n", "capture.attention.heads is a mapping, expected mean, all");
    check_error("capture: {attention: {layers: [all, 1]}}\n", "a list with 'all' in it");
    check_error("capture: {attention: {layers: [[1]]}}\n", "capture.attention.layers is a list, expected");
    check_error("capture: {attention: {words: [a, '']}}\n", "capture.attention.words holds an empty word");
    check_error("capture: {attention: {words: 'a,,b'}}\n", "expected words with single commas between");
    check_error(MODEL "sampling: {steps: 4}\ncapture: {attention: {enabled: true, steps: 0-4}}\n",
                "t.yaml:3:45: capture.attention.steps asks for step 4, but there are 4 steps, numbered from 0");
    check_error("schedules: {guidance: [1]}\n", "schedules.guidance is a list, expected a mapping of steps to numbers");
    check_error("schedules: {guidance: {a: 1}}\n", "schedules.guidance: 'a' at line 1 is no step, expected a whole "
                                                   "number from 0");
    check_error("schedules: {guidance: {-1: 1}}\n", "'-1' at line 1 is no step");
    check_error("schedules: {guidance: {1: 1, 0x1: 2}}\n", "schedules.guidance: step 1 given twice");
    check_error("schedules: {guidance: {0: .inf}}\n", "step 0 has a text, expected a finite number");
    check_error("schedules: {prompt: {0: ''}}\n", "schedules.prompt: step 0 has an empty text, expected a prompt");
    check_error("schedules: {prompt: {0: [a, b]}}\n", "step 0 has a list, expected a prompt; a text that begins with "
                                                      "'[' needs quotes");
    check_error(MODEL "schedules: {prompt: {0: 'a [b|c]'}}\n", "schedules.prompt, step 0 has 2 variations, expected "
                                                               "one prompt");
    check_error(MODEL "schedules: {prompt: {5: 'a [b'}}\n", "t.yaml:2:21: schedules.prompt, step 5:1:3: '[' is never "
                                                            "closed");
    check_error(MODEL "bending: {enabled: true}\n", "t.yaml:2:20: attention bending is not available in this version "
                                                    "of wanscope; set "
                "bending.enabled to false");
    check_error(MODEL "attention_bending_variations: {enabled: true}\n", "set bending.variations.enabled to false");
    check_error("bending: {configs: {a: 1}}\n", "bending.configs is a mapping, expected a list of mappings");
    check_error("bending: {configs: [1]}\n", "entry 0 of bending.configs (line 1) is a number, expected a mapping");
    check_error("bending: {configs: [{tokn: a}]}\n", "entry 0 of bending.configs has an unknown key 'tokn' (line 1); "
                                                     "did you mean 'token'?");
    check_error("cfg_schedule_settings: {enabled: 5}\n", "cfg_schedule_settings.enabled is '5', expected true or "
                                                         "false");
    check_error(MODEL "video: {crf: 1, quality: 5}\n", "video.quality and video.crf are both given");
    check_error(MODEL "video: {duration: 90000}\n", "is 1440000 frames; at most 100001 are possible");
    check_error(MODEL "prompt: {template: 'a [b|c]'}\nbatch: {variations: '0,2'}\n", "asks for variation 2, but the "
                                                                                     "template has 2, numbered from 0");
    check_error(MODEL "batch: {name: a/b}\n", "batch.name is 'a/b', expected the name of a folder");
    check_error(MODEL "output: {dir: ''}\n", "output.dir is empty");
    check_error("video: {width: &w 64}\n", "anchors ('&w') are not supported");
    config c;
    err e = { 0 };
    assert_int_equal(config_load(&c, "/nonexistent/c.yaml", NULL, 0, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.text, "/nonexistent/c.yaml"));
}

/* Paths and template files beside the config are found from anywhere. */
static void test_paths(void **state)
{
    (void)state;
    const char *tmp = getenv("TEST_TMP");
    char *dir = fs_join(tmp ? tmp : "/tmp", "config_test"), *sub = fs_join(dir, "ckpt"), *yaml = fs_join(dir, "c.yaml"),
         *text = fs_join(dir, "t.txt");
    err e = { 0 };
    config c;
    static const char YAML[] = "model: {path: ckpt, vae: missing.pth}\nprompt: {template_file: t.txt}\n";
    assert_int_equal(fs_mkdirs(sub, &e), 0);
    assert_int_equal(fs_write_atomic(yaml, YAML, strlen(YAML), &e), 0);
    assert_int_equal(fs_write_atomic(text, "a [b|c]\n", 8, &e), 0);
    if (config_load(&c, yaml, NULL, 0, NULL, &e))
        fail_msg("%s", e.text);
    assert_string_equal(c.model.path, sub);
    assert_string_equal(c.model.vae, "missing.pth");
    assert_string_equal(c.prompt.template, "a [b|c]");
    assert_string_equal(c.prompt.template_file, "");
    check_write(&c);
    config_release(&c);
    const char *sets[] = { "prompt.template=x" };
    assert_int_equal(config_load(&c, yaml, sets, 1, NULL, &e), 0);
    assert_string_equal(c.prompt.template, "x");
    config_release(&c);
    assert_int_equal(fs_write_atomic(text, "a [b|c\n", 7, &e), 0);
    assert_int_equal(config_load(&c, yaml, NULL, 0, NULL, &e), ERR_ARG);
    assert_non_null(strstr(e.text, "c.yaml:2:25: prompt.template:1:3: '[' is never closed"));
    assert_int_equal(fs_remove_tree(dir, &e), 0);
    free(dir);
    free(sub);
    free(yaml);
    free(text);
}

static void test_shipped(void **state)
{
    (void)state;
    static const struct { const char *name; uint64_t variations; } SHIPPED[] = {
        { "default", 6 }, { "fast_test", 1 }, { "wan_1_3b", 2 }, { "wan_14b", 4 }, { "wan_14b_optimized", 4 },
        { "wan22_a14b", 4 },
        { "high_quality", 2 }, { "latent_analysis_example", 6 }, { "attention_example", 2 }, { "romantic_scenes", 4 },
        { "holocine_full", 2 }, { "holocine_sparse", 2 },
    };
    for (size_t i = 0; i < sizeof SHIPPED / sizeof *SHIPPED; i++) {
        char path[96];
        config c;
        config_notes notes = { 0 };
        prompt_template *t;
        err e = { 0 };
        snprintf(path, sizeof path, "configs/%s.yaml", SHIPPED[i].name);
        if (config_load(&c, path, NULL, 0, &notes, &e))
            fail_msg("%s", e.text);
        assert_int_equal(notes.n, 0);
        assert_int_equal(template_parse(&t, c.prompt.template, strlen(c.prompt.template), path, &e), 0);
        if (template_count(t) != SHIPPED[i].variations)
            fail_msg("%s has %llu variations, expected %llu", path, (unsigned long long)template_count(t),
                     (unsigned long long)SHIPPED[i].variations);
        check_write(&c);
        assert_int_equal(config_resolve(&c, i == 5 ? "wan2.2-a14b" : i >= 10 ? "holocine" : "wan2.1", &e), 0);
        assert_true(c.sampling.steps > 0 && c.sampling.shift > 0);
        check_write(&c);
        template_free(t);
        config_release(&c);
    }
}

/* docs/config.md holds the reference as it is generated; the right one is written beside the tests' files. */
static void test_reference(void **state)
{
    (void)state;
    str want = STR_INIT;
    char *doc;
    size_t len;
    err e = { 0 };
    config_reference(&want);
    assert_false(want.failed);
    for (int i = 0; i < N_SETTINGS; i++) {
        assert_int_equal(SETTINGS[i].offset < sizeof(config), true);
        for (int k = 0; k < i; k++)
            assert_string_not_equal(SETTINGS[i].key, SETTINGS[k].key);
    }
    for (int i = 0; i < N_OLD_KEYS; i++) {
        assert_null(setting_find(OLD_KEYS[i].old));
        assert_true(!OLD_KEYS[i].key == (OLD_KEYS[i].kind == OLD_DEAD));
        if (OLD_KEYS[i].key)
            assert_non_null(setting_find(OLD_KEYS[i].key));
    }
    if (fs_read_text(&doc, &len, "docs/config.md", &e))
        fail_msg("%s", e.text);
    if (!strstr(doc, str_text(&want))) {
        const char *tmp = getenv("TEST_TMP");
        char *path = fs_join(tmp ? tmp : "/tmp", "config_reference.md");
        fs_write_atomic(path, str_text(&want), want.len, NULL);
        fail_msg("docs/config.md is not up to date: put the tables of %s into it", path);
    }
    free(doc);
    str_release(&want);
}

static void test_schedules(void **state)
{
    (void)state;
    guidance_schedule g = { 0 };
    prompt_schedule p = { 0 };
    err e = { 0 };
    int a, b;
    double t;
    assert_true(guidance_schedule_at(&g, GUIDANCE_LINEAR, 3, 5.5) == 5.5);
    assert_int_equal(guidance_schedule_add(&g, 10, 2, &e), 0);
    assert_int_equal(guidance_schedule_add(&g, 2, 6, &e), 0);
    assert_int_equal(guidance_schedule_add(&g, 2, 6, &e), ERR_CONFIG);
    assert_true(guidance_schedule_at(&g, GUIDANCE_LINEAR, 0, 0) == 6);
    assert_true(guidance_schedule_at(&g, GUIDANCE_LINEAR, 4, 0) == 5);
    assert_true(guidance_schedule_at(&g, GUIDANCE_STEP, 9, 0) == 6);
    assert_true(guidance_schedule_at(&g, GUIDANCE_STEP, 10, 0) == 2);
    assert_true(guidance_schedule_at(&g, GUIDANCE_COSINE, 99, 0) == 2);
    assert_true(guidance_schedule_at(&g, GUIDANCE_COSINE, 4, 0) > 5.41 && guidance_schedule_at(&g, GUIDANCE_COSINE, 4,
                                                                                               0) < 5.42);
    assert_int_equal(prompt_schedule_add(&p, 8, "b", &e), 0);
    assert_int_equal(prompt_schedule_add(&p, 4, "a", &e), 0);
    prompt_schedule_at(&p, PROMPT_SLERP, 5, &a, &b, &t);
    assert_true(a == 0 && b == 1 && t == 0.25);
    prompt_schedule_at(&p, PROMPT_STEP, 5, &a, &b, &t);
    assert_true(a == 0 && b == 0 && t == 0);
    prompt_schedule_at(&p, PROMPT_LERP, 1, &a, &b, &t);
    assert_true(a == 0 && t == 0);
    prompt_schedule_at(&p, PROMPT_LERP, 8, &a, &b, &t);
    assert_true(a == 1 && t == 0);
    guidance_schedule_release(&g);
    prompt_schedule_release(&p);
}

static void test_ranges(void **state)
{
    (void)state;
    static const struct { const char *text, *want; int64_t of_ten; } CASES[] = {
        { "0-10,15", "0-10,15", 10 }, { "all", "all", 10 }, { "5,4,3", "3-5", 3 }, { "1-3, 2-6 ,9", "1-6,9", 7 }, { "",
                                                                                                                    "",
                                                                                                                    0 },
        { " 7 - 8 ", "7-8", 2 }, { "0,2,4,6,8,1,3,5,7", "0-8", 9 }, { "12", "12", 0 },
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        int_ranges r, again;
        err e = { 0 };
        str s = STR_INIT;
        assert_int_equal(int_ranges_parse(&r, CASES[i].text, &e), 0);
        int_ranges_print(&r, &s);
        assert_string_equal(str_text(&s), CASES[i].want);
        assert_int_equal(int_ranges_count(&r, 10), CASES[i].of_ten);
        int64_t n = 0;
        for (int64_t k = 0; k < 10; k++)
            n += int_ranges_contains(&r, k);
        assert_int_equal(n, CASES[i].of_ten);
        assert_int_equal(int_ranges_parse(&again, str_text(&s), &e), 0);
        assert_true(int_ranges_equal(&r, &again));
        int_ranges_release(&r);
        int_ranges_release(&again);
        str_release(&s);
    }
    int_ranges r;
    err e = { 0 };
    assert_int_equal(int_ranges_parse(&r, "99999999999", &e), ERR_CONFIG);
    assert_int_equal(int_ranges_parse(&r, "99999999999999999999999", &e), ERR_CONFIG);
    assert_int_equal(int_ranges_parse(&r, "1 2", &e), ERR_CONFIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_resolve), cmocka_unit_test(test_values),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_old_config), cmocka_unit_test(test_set), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_shipped), cmocka_unit_test(test_reference), cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_ranges),
    };
#ifndef HAVE_YAML
    (void)tests;
    puts("skipped: this build has no libyaml");
    return 0;
#else
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
#endif
}
