/* The table of settings, and the keys of old configs. docs/config.md is generated from both. */
#include <stdlib.h>
#include <string.h>

#include "experiments/config_internal.h"

static const char *const FAMILIES[] = { "auto", "wan2.1", "wan2.2-a14b", "holocine", "vace", "longlive", NULL };
static const char *const PRECISIONS[] = { "exact", "bf16", "fp8", NULL };
static const char *const SOLVERS[] = { "unipc", "dpmpp", "diffusers_unipc", "diffusers_euler", "diffsynth_euler",
                                       NULL };
static const char *const NOISES[] = { "torch-cpu", "torch-cuda", NULL };
static const char *const LATENT_DTYPES[] = { "f32", "bf16", NULL };
static const char *const STORE_DTYPES[] = { "f32", "f16", NULL };
static const char *const NEGATIVES[] = { "wan", "none", NULL };
static const char *const WEIGHTINGS[] = { "multiply", "interpolation", "norm_preserving", "none", NULL };
static const char *const GUIDANCES[] = { "linear", "step", "cosine", NULL };
static const char *const PROMPTS[] = { "slerp", "lerp", "step", NULL };
static const char *const CFG_SKIPS[] = { "none", "early", "late", "early_late", "middle", "alternate", NULL };
static const char *const SLG_MODES[] = { "original", "uncond", NULL };
static const char *const WINDOW_SCHEDULES[] = { "standard_static", "standard_uniform", "looped_uniform", "batched", NULL };
static const char *const WINDOW_FUSES[] = { "pyramid", "flat", "overlap-linear", "relative", NULL };
static const char *const SPARSES[] = { "auto", "false", "true", NULL };
static const char *const SHOT_CHANNELS[] = { "none", "id", "normalized", "alternating", NULL };
static const char *const SPANS[] = { "cleaned", "raw", NULL };
static const char *const CONTROLS[] = { "video", "depth", "edges", NULL };
static const char *const TIMINGS[] = { "first", "whole", NULL };
static const char *const NORMALISES[] = { "none", "clip", "frame", NULL };
static const char *const DRAWS[] = { "block", "clip", NULL };
static const char *const OFFLOADS[] = { "auto", "none", "all", NULL };

/* Fields of the lists that bending reads (harness.md 5.6, 5.7). */
static const char *const BENDING_CONFIG[] = {
    "token", "mode", "amplify_factor", "angle", "crop_rotated", "translate_x", "translate_y", "flip_horizontal",
    "flip_vertical", "scale_factor", "kernel_size", "sigma", "sharpen_amount", "region", "region_feather", "strength",
    "apply_to_layers", "apply_to_timesteps", "padding_mode", "renormalize", "preserve_sparsity",
    "should_debug_visualize", NULL
};
static const char *const BENDING_OPERATION[] = {
    "operation", "parameter_name", "range", "steps", "values", "target_token", "apply_to_timesteps", "apply_to_layers",
    "strength", "padding_mode", "renormalize", "extra_params", NULL
};

#define AT(field) offsetof(config, field)

#define INT(key, field, low, high, fallback, help) \
    { key, SETTING_INT, AT(field), low, high, 0, 0, NULL, 0, fallback, help }
#define INT_OF(key, field, low, high, multiple, rest, flags, fallback, help) \
    { key, SETTING_INT, AT(field), low, high, multiple, rest, NULL, flags, fallback, help }
#define DOUBLE(key, field, low, high, flags, fallback, help) \
    { key, SETTING_DOUBLE, AT(field), low, high, 0, 0, NULL, flags, fallback, help }
#define ENUM(key, field, names, fallback, help) \
    { key, SETTING_ENUM, AT(field), 0, 0, 0, 0, names, 0, fallback, help }
#define OTHER(key, type, field, fallback, help) \
    { key, type, AT(field), 0, 0, 0, 0, NULL, 0, fallback, help }
#define BOOL(key, field, fallback, help) OTHER(key, SETTING_BOOL, field, fallback, help)
#define TEXT(key, field, fallback, help) OTHER(key, SETTING_TEXT, field, fallback, help)
#define LATER(key, type, field, low, high, multiple, rest, names, fallback, help) \
    { key, type, AT(field), low, high, multiple, rest, names, QUIET_DEFAULT, fallback, help }
#define PATH(key, field, help) OTHER(key, SETTING_PATH, field, "", help)

const setting SETTINGS[] = {
    PATH("model.path", model.path, "checkpoint: a folder as its authors publish it, or a single file"),
    PATH("model.dit", model.dit, "diffusion model (of a pair: the high-noise expert), in place of the one in "
                                 "model.path"),
    PATH("model.dit_low", model.dit_low, "low-noise expert, in place of the one in model.path"),
    PATH("model.t5", model.t5, "umT5 text encoder, in place of the one in model.path"),
    PATH("model.vae", model.vae, "VAE, in place of the one in model.path"),
    PATH("model.tokenizer", model.tokenizer, "folder with spiece.model or tokenizer.json, in place of the one in "
                                             "model.path"),
    ENUM("model.family", model.family, FAMILIES, "auto", "what the checkpoint is; auto tells it from the files"),
    OTHER("model.device", SETTING_DEVICE, model.device, "auto", "auto takes a GPU when there is one"),
    ENUM("model.precision", model.precision, PRECISIONS, "bf16",
         "arithmetic on the GPU: exact is f32 throughout, fp8 multiplies in 8 bits: faster, with its error in docs/speed.md; the CPU always computes in f32"),
    INT("model.seed", model.seed, 0, 9.2e18, "42", "noise of video 0 of every variation; video k has seed + k"),
    INT("model.text_len", model.text_len, 0, 4096, "0", "tokens the prompt is padded to; 0 takes the checkpoint's own"),
    INT("model.threads", model.threads, 0, 4096, "0", "threads of the CPU, 0 for all cores; results do not depend on "
                                                      "it"),
    BOOL("model.clean_ftfy", model.clean_ftfy, "true", "repair broken characters in prompts as official Wan does with "
                                                       "ftfy"),

    LATER("model.lora", SETTING_LORAS, model.lora, 0, 0, 0, 0, NULL, "[]",
          "adapters merged into the weights, e.g. [{path: style.safetensors, multiplier: 0.8, expert: both}]; with two experts, expert "
          "high or low takes one; include and exclude choose tensors by a regular expression: lora.md"),
    LATER("model.fp8_scaled", SETTING_BOOL, model.fp8_scaled, 0, 0, 0, 0, NULL, "false",
          "round the matrices of the blocks to 8-bit floats with a scale each, as 'wanscope convert --fp8-scaled' would"),
    LATER("model.vace", SETTING_PATH, model.vace, 0, 0, 0, 0, NULL, "",
          "VACE weights for this base: the release, or a file with only its vace_* tensors; not needed where model.path is the release"),

    INT_OF("video.width", video.width, 16, 8192, 16, 0, 0, "832", "pixels"),
    INT_OF("video.height", video.height, 16, 8192, 16, 0, 0, "480", "pixels"),
    INT_OF("video.frames", video.frames, 1, 100001, 4, 1, 0, "81", "frames; 4 frames are one step of latent time"),
    DOUBLE("video.fps", video.fps, 0.1, 240, MAY_BE_AUTO, "auto", "frame rate of the file; the model knows none; auto: 16, "
                                                                  "HoloCine 15"),
    INT("video.crf", video.crf, 0, 51, "10", "quality of the file: 0 lossless, 10 very good, 23 small"),
    DOUBLE("video.duration", video.duration, 0.01, 100000, MAY_BE_AUTO | ONLY_READ, "auto",
           "seconds, in place of frames: becomes the nearest 4k+1 frames at video.fps"),
    DOUBLE("video.quality", video.quality, 0, 10, MAY_BE_AUTO | ONLY_READ, "auto",
           "quality as imageio counts it, in place of crf: 10 is best, 8 is crf 10"),

    { "sampling.solver", SETTING_ENUM, AT(sampling.solver), 0, 0, 0, 0, SOLVERS, MAY_BE_AUTO, "auto",
      "unipc and dpmpp as official Wan, diffusers_* as diffusers, diffsynth_euler as DiffSynth; auto: unipc, HoloCine "
      "diffsynth_euler" },
    INT_OF("sampling.steps", sampling.steps, 1, 1000, 0, 0, MAY_BE_AUTO, "auto",
           "model calls; auto: 50, Wan 2.2 A14B 40, LongLive 4 a block"),
    DOUBLE("sampling.shift", sampling.shift, 0.01, 1000, MAY_BE_AUTO, "auto",
           "shift of the noise schedule; auto: 5, Wan 2.2 A14B 12, diffusers solvers below 720 pixels 3"),
    DOUBLE("sampling.guidance_scale", sampling.guidance_scale, 0, 1000, MAY_BE_AUTO, "auto",
           "weight of the prompt, with two experts that of the high-noise one; auto: 5, Wan 2.2 A14B 4, LongLive 1 (no other)"),
    DOUBLE("sampling.guidance_scale_low", sampling.guidance_scale_low, 0, 1000, MAY_BE_AUTO, "auto",
           "the same for the low-noise expert; auto: guidance_scale when that is given, else 3"),
    DOUBLE("sampling.boundary", sampling.boundary, 0, 1, MAY_BE_AUTO, "auto",
           "noise level from which on up the high-noise expert works; auto: 0.875"),
    ENUM("sampling.noise", sampling.noise, NOISES, "torch-cpu", "whose random numbers start the video, on any device"),
    INT("sampling.noise_sms", sampling.noise_sms, 1, 4096, "132", "torch-cuda: multiprocessors of the GPU to "
                                                                  "reproduce (H100, H200: 132)"),
    INT_OF("sampling.noise_threads_per_sm", sampling.noise_threads_per_sm, 256, 4096, 256, 0, 0, "2048",
           "torch-cuda: threads of one multiprocessor (RTX 30 and 40: 1536)"),
    ENUM("sampling.latent_dtype", sampling.latent_dtype, LATENT_DTYPES, "f32",
         "bf16: latents, guidance, update and timestep are rounded as DiffSynth's pipeline does; needs diffsynth_euler"),
    ENUM("sampling.cfg_skip_mode", sampling.cfg_skip, CFG_SKIPS, "none",
         "steps that are not guided, for speed: early, late, both ends, the middle, or every so many"),
    DOUBLE("sampling.cfg_apply_ratio", sampling.cfg_ratio, 0, 1, 0, "1", "share of the steps that are guided, with "
                                                                         "cfg_skip_mode"),
    OTHER("sampling.slg_layers", SETTING_RANGES, sampling.slg_layers, "",
          "skip-layer guidance: transformer blocks, from 0, that the worse of two predictions leaves out; empty: none of "
          "it"),
    DOUBLE("sampling.slg_scale", sampling.slg_scale, 0, 1000, 0, "3", "its weight, in mode original"),
    DOUBLE("sampling.slg_start", sampling.slg_start, 0, 1, 0, "0", "first step of it, as a share of the steps"),
    DOUBLE("sampling.slg_end", sampling.slg_end, 0, 1, 0, "0.3", "step before which it ends, as a share of the steps"),
    ENUM("sampling.slg_mode", sampling.slg_mode, SLG_MODES, "original",
         "original: a third model call a step; uncond: the unconditional call itself leaves the blocks out"),
    LATER("sampling.context_windows", SETTING_BOOL, sampling.context_windows, 0, 0, 0, 0, NULL, "false",
          "compute each step on overlapping stretches of the video and average: for videos longer than the model's length"),
    LATER("sampling.context_length", SETTING_INT, sampling.context_length, 1, 100001, 0, 0, NULL, "81",
          "frames of a window; videos up to that length are computed as a whole"),
    LATER("sampling.context_overlap", SETTING_INT, sampling.context_overlap, 0, 100001, 0, 0, NULL, "30", "frames that neighbouring windows share"),
    LATER("sampling.context_schedule", SETTING_ENUM, sampling.context_schedule, 0, 0, 0, 0, WINDOW_SCHEDULES, "standard_static",
          "where windows lie: evenly with the last one at the end; the same at several spacings; running over the end; one behind the other without overlap"),
    LATER("sampling.context_stride", SETTING_INT, sampling.context_stride, 1, 32, 0, 0, NULL, "1",
          "uniform schedules: at so many spacings (1, 2, 4 ...) of the frames of a window"),
    LATER("sampling.context_closed_loop", SETTING_BOOL, sampling.context_closed_loop, 0, 0, 0, 0, NULL, "false",
          "uniform schedules: windows begin up to the last frame"),
    LATER("sampling.context_fuse_method", SETTING_ENUM, sampling.context_fuse, 0, 0, 0, 0, WINDOW_FUSES, "pyramid",
          "weights where windows overlap: most in the middle, equal, ramps over the overlap, or a running average by nearness to the middle"),

    TEXT("prompt.template", prompt.template, "", "the prompt, with alternatives and marks: templates.md"),
    { "prompt.template_file", SETTING_PATH, AT(prompt.template_file), 0, 0, 0, 0, NULL, ONLY_READ, "",
      "file with the template, in place of prompt.template" },
    { "prompt.timeline", SETTING_TIMELINE, AT(prompt.timeline), 0, 0, 0, 0, NULL, ONLY_READ, "[]",
      "prompts that follow each other in one causal video, by latent frame, in place of prompt.template; may be given as "
      "'prompts' at the top" },
    TEXT("prompt.negative", prompt.negative, "", "negative prompt"),
    ENUM("prompt.negative_default", prompt.negative_default, NEGATIVES, "wan",
         "what an empty negative prompt means: wan is the official Chinese one, none is the empty text"),
    ENUM("prompt.weighting", prompt.weighting, WEIGHTINGS, "multiply",
         "how (word:1.5) acts on the text embedding; norm_preserving is accepted and changes nothing"),

    { "shots.global_caption", SETTING_TEXT, AT(shots.global_caption), 0, 0, 0, 0, NULL, ONLY_READ, "",
      "what all shots have in common; with captions in place of prompt.template: holocine.md" },
    { "shots.captions", SETTING_TEXTS, AT(shots.captions), 0, 0, 0, 0, NULL, ONLY_READ, "[]",
      "one caption a shot; they may hold alternatives and marks like a template" },
    OTHER("shots.cut_frames", SETTING_FRAMES, shots.cut_frames, "auto",
          "first frame of each shot but the first; auto: evenly spaced with captions, else an ordinary video; [] one shot"),
    ENUM("shots.sparse", shots.sparse, SPARSES, "auto",
         "sparse attention between shots; auto: for checkpoints named sparse_*"),
    ENUM("shots.mask_type", shots.mask_type, SHOT_CHANNELS, "none",
         "what the 17th input channel says, for checkpoints that have one"),
    ENUM("shots.spans", shots.spans, SPANS, "cleaned",
         "text in which captions are looked for: what is tokenised, or the text before cleaning as upstream"),
    BOOL("shots.strict", shots.strict, "true",
         "refuse prompts and cuts that do not fit; false: go on without a mask as upstream"),

    OTHER("schedules.guidance", SETTING_GUIDANCE, schedules.guidance, "{}", "guidance scale by step, e.g. {0: 7, 10: "
                                                                            "3}"),
    ENUM("schedules.guidance_interpolation", schedules.guidance_interpolation, GUIDANCES, "linear",
         "between two steps"),
    OTHER("schedules.prompt", SETTING_PROMPTS, schedules.prompt, "{}",
          "prompt by step, in place of the template's, e.g. {0: \"a cat\", 10: \"a dog\"}"),
    ENUM("schedules.prompt_interpolation", schedules.prompt_interpolation, PROMPTS, "slerp", "between two steps"),

    LATER("vace.references", SETTING_PATHS, vace.references, 0, 0, 0, 0, NULL, "[]",
          "images of what should appear, up to 4; fitted on white"),
    LATER("vace.control", SETTING_PATH, vace.control, 0, 0, 0, 0, NULL, "",
          "video to follow, at least video.frames long unless control_timing is whole; depth also as .npy or .safetensors [frames, height, width]"),
    LATER("vace.control_type", SETTING_ENUM, vace.control_type, 0, 0, 0, 0, CONTROLS, "video",
          "video takes it as it is; depth reads depth maps (near = bright); edges draws a plain stand-in for depth from the video's edges"),
    LATER("vace.control_timing", SETTING_ENUM, vace.control_timing, 0, 0, 0, 0, TIMINGS, "first",
          "first takes as many frames as the video has from the beginning of control and mask; whole spreads all of theirs over it"),
    LATER("vace.mask", SETTING_PATH, vace.mask, 0, 0, 0, 0, NULL, "",
          "video or image, white where the video is made anew, black where vace.control is kept; without it everywhere"),
    LATER("vace.scale", SETTING_DOUBLE, vace.scale, 0, 10, 0, 0, NULL, "1", "strength of the conditions; 0 is exactly the video without them"),
    LATER("vace.scale_by_step", SETTING_GUIDANCE, vace.scale_by_step, 0, 0, 0, 0, NULL, "{}",
          "in place of vace.scale, by step, linear between, e.g. {0: 1, 20: 0.5}"),
    LATER("vace.scale_by_block", SETTING_NUMBERS, vace.scale_by_block, 0, 10, 0, 0, NULL, "[]",
          "one more factor a VACE block (1.3B: 15, 14B: 8)"),
    LATER("vace.depth_normalise", SETTING_ENUM, vace.depth_normalise, 0, 0, 0, 0, NORMALISES, "none",
          "depth to 0..1: none expects it there, clip stretches the range of the whole clip, frame that of each frame"),
    LATER("vace.depth_invert", SETTING_BOOL, vace.depth_invert, 0, 0, 0, 0, NULL, "false", "for depth that is bright where it is far"),
    LATER("vace.depth_smooth", SETTING_INT, vace.depth_smooth, 1, 99, 2, 1, NULL, "1", "mean over so many frames of depth, against flicker"),

    INT_OF("causal.blocks", causal.blocks, 1, 25000, 0, 0, MAY_BE_AUTO | ONLY_READ, "auto",
           "length of the video in blocks, in place of video.frames"),
    INT("causal.frames_per_block", causal.frames_per_block, 1, 1024, "3", "latent frames that are made together"),
    INT("causal.window", causal.window, -1, 1024, "12", "latent frames whose keys are kept, sink and block included; -1 "
                                                        "keeps the whole clip"),
    INT("causal.sink", causal.sink, 0, 1024, "3", "latent frames at the beginning whose keys stay; at most a block"),
    BOOL("causal.global_sink", causal.global_sink, "true", "the sink survives a switch of the prompt"),
    BOOL("causal.warp", causal.warp, "true", "timesteps pass through the shift, as in LongLive; false as in Scope"),
    OTHER("causal.timesteps", SETTING_WORDS, causal.timesteps, "[]",
          "1000 to 1, falling; empty: spread evenly over sampling.steps, for 4 steps 1000,750,500,250"),
    DOUBLE("causal.context_noise", causal.context_noise, 0, 1000, 0, "0", "timestep of the calls that fill the cache"),
    BOOL("causal.hard_cut", causal.hard_cut, "false", "begin afresh, with a visible cut, after 1024 latent frames, where "
                                                      "the model's positions end"),
    ENUM("causal.draws", causal.draws, DRAWS, "block",
         "noise of a generator a block, which needs no length, or of one for the clip, as LongLive's own script"),
    PATH("causal.lora", causal.lora, "LongLive's adapter; empty: lora.pt beside the model; none: the base alone"),
    DOUBLE("causal.lora_alpha", causal.lora_alpha, 0, 1000000, 0, "0", "alpha of the adapter; 0: its rank"),
    INT("causal.save_every", causal.save_every, 0, 100000, "10", "blocks between two saved states, from which a killed "
                                                                 "run goes on; 0 for none"),

    INT("memory.blocks_to_swap", memory.blocks_to_swap, 0, 1000, "0", "transformer blocks kept in host memory and "
                                                                      "streamed, with the same result; 0: as few as fit"),
    ENUM("memory.offload", memory.offload, OFFLOADS, "auto",
         "what leaves the device while it is not needed: auto what does not fit, none nothing, all everything"),
    { "memory.budget", SETTING_BYTES, AT(memory.budget), 0, 9007199254740992.0, 0, 0, NULL, 0, "0",
      "device memory to use, e.g. 16GiB; 0 for all there is" },

    BOOL("capture.latents.enabled", latents.enabled, "false", "store the latents of the steps in trace.h5"),
    ENUM("capture.latents.dtype", latents.dtype, STORE_DTYPES, "f32", "type in the file"),
    INT("capture.latents.every", latents.every, 1, 1000, "1", "store every n-th step; the noise and the result are "
                                                              "always stored"),
    BOOL("capture.latents.velocity", latents.velocity, "false", "store the guided model output too"),
    INT("capture.latents.compression", latents.compression, 0, 9, "4", "gzip level, 0 for none"),

    BOOL("capture.attention.enabled", attention.enabled, "false", "store cross-attention maps of words in trace.h5"),
    OTHER("capture.attention.words", SETTING_WORDS, attention.words, "[]", "words to store; empty: those marked in "
                                                                           "the template"),
    OTHER("capture.attention.steps", SETTING_RANGES, attention.steps, "all", "which steps, from 0"),
    INT("capture.attention.every", attention.every, 1, 1000, "1", "of these every n-th"),
    OTHER("capture.attention.layers", SETTING_RANGES, attention.layers, "all", "which transformer blocks, from 0"),
    OTHER("capture.attention.heads", SETTING_HEADS, attention.heads, "mean", "one average, or these heads, from 0"),
    ENUM("capture.attention.dtype", attention.dtype, STORE_DTYPES, "f32", "type in the file"),
    INT("capture.attention.compression", attention.compression, 0, 9, "4", "gzip level, 0 for none"),

    BOOL("bending.enabled", bending.enabled, "false", "attention bending; not available in this version"),
    BOOL("bending.apply_to_output", bending.apply_to_output, "false", "bend what the model sees, not only what is "
                                                                      "stored"),
    BOOL("bending.apply_before_softmax", bending.apply_before_softmax, "false", "bend scores, not probabilities"),
    { "bending.configs", SETTING_SHAPE, 0, 0, 0, 0, 0, BENDING_CONFIG, ONLY_READ, "[]",
      "bendings applied to every video" },
    BOOL("bending.variations.enabled", bending.variations_enabled, "false", "a sweep over bendings"),
    BOOL("bending.variations.generate_baseline", bending.generate_baseline, "true", "also a video without bending"),
    BOOL("bending.variations.renormalize", bending.renormalize, "false", "make probabilities sum to 1 again"),
    { "bending.variations.operations", SETTING_SHAPE, 0, 0, 0, 0, 0, BENDING_OPERATION, ONLY_READ, "[]",
      "the bendings of the sweep" },

    TEXT("batch.name", batch.name, "", "name of the batch; empty: that of the config file"),
    INT("batch.videos_per_variation", batch.videos_per_variation, 1, 1000000, "1", "videos (seeds) of every variation"),
    OTHER("batch.variations", SETTING_RANGES, batch.variations, "all", "which variations of the template, from 0"),
    INT("batch.limit", batch.limit, 0, 1000000000, "0", "at most so many variations; 0 for no limit"),
    INT("batch.max_failures", batch.max_failures, 0, 1000000000, "0", "stop after so many failed runs; 0 for never"),

    TEXT("output.dir", output.dir, "outputs", "folder that batches are made in"),
    BOOL("output.use_timestamp", output.use_timestamp, "true", "put date and time behind the name of the batch"),
    BOOL("output.video", output.video, "true", "write video.mp4"),
    BOOL("output.preview", output.preview, "true", "write preview.png"),
};
const int N_SETTINGS = (int)(sizeof SETTINGS / sizeof *SETTINGS);

#define SAME(old, key) { old, key, OLD_SAME, NULL }
#define DEAD(old, note) { old, NULL, OLD_DEAD, note }

const old_key OLD_KEYS[] = {
    SAME("model_settings.seed", "model.seed"),
    SAME("model_settings.cfg_scale", "sampling.guidance_scale"),
    SAME("model_settings.steps", "sampling.steps"),
    SAME("model_settings.model_id", "model.path"),
    SAME("model_settings.device", "model.device"),
    DEAD("model_settings.sampler", "it never chose a solver; sampling.solver does"),
    DEAD("model_settings.eta", "it never had an effect"),
    DEAD("model_settings.clip_skip", "it never had an effect"),

    { "memory_settings.use_sequential_cpu_offload", "memory.offload", OLD_OFFLOAD, NULL },
    { "memory_settings.offload_text_encoder_to_cpu", "memory.offload", OLD_OFFLOAD, NULL },
    { "memory_settings.offload_vae_to_cpu", "memory.offload", OLD_OFFLOAD, NULL },
    DEAD("memory_settings.enable_memory_optimization", "memory is planned before a run starts"),
    DEAD("memory_settings.clear_cache_between_videos", "there is no cache to clear"),
    DEAD("memory_settings.reload_model_for_large_models", "a checkpoint is loaded once a batch"),
    DEAD("memory_settings.use_gradient_checkpointing", "it concerns training only"),
    DEAD("memory_settings.enable_memory_efficient_attention", "attention never stores tokens x tokens"),
    DEAD("memory_settings.secondary_gpu_device", "maps are reduced where they are made"),

    SAME("video_settings.width", "video.width"),
    SAME("video_settings.height", "video.height"),
    SAME("video_settings.fps", "video.fps"),
    SAME("video_settings.duration", "video.duration"),
    SAME("video_settings.frames", "video.frames"),

    DEAD("prompt_settings.enable_weighting", "it never had an effect"),
    DEAD("prompt_settings.variation_weight", "it never had an effect"),
    DEAD("prompt_settings.base_weight", "it never had an effect"),
    DEAD("prompt_settings.enable_prompt_weighting", "it never had an effect"),
    { "prompt_settings.use_weighted_embeddings", "prompt.weighting", OLD_WEIGHTED, NULL },
    SAME("prompt_settings.embedding_method", "prompt.weighting"),
    SAME("prompt_settings.negative_prompt", "prompt.negative"),

    SAME("latent_analysis_settings.store_latents", "capture.latents.enabled"),
    SAME("latent_analysis_settings.storage_interval", "capture.latents.every"),
    SAME("latent_analysis_settings.storage_dtype", "capture.latents.dtype"),
    { "latent_analysis_settings.compress_latents", "capture.latents.compression", OLD_COMPRESS, NULL },
    DEAD("latent_analysis_settings.latent_storage_format", "latents are stored in trace.h5"),
    DEAD("latent_analysis_settings.auto_decode", "videos are written while the batch runs"),

    SAME("attention_analysis_settings.store_attention", "capture.attention.enabled"),
    SAME("attention_analysis_settings.storage_interval", "capture.attention.every"),
    SAME("attention_analysis_settings.storage_dtype", "capture.attention.dtype"),
    { "attention_analysis_settings.compress_attention", "capture.attention.compression", OLD_COMPRESS, NULL },
    { "attention_analysis_settings.store_per_head", "capture.attention.heads", OLD_PER_HEAD, NULL },
    DEAD("attention_analysis_settings.store_per_block", "every chosen layer is stored on its own: "
                                                        "capture.attention.layers"),
    DEAD("attention_analysis_settings.tokenizer_name", "there is one tokenizer, the model's: model.tokenizer"),
    DEAD("attention_analysis_settings.storage_format", "maps are stored in trace.h5"),
    DEAD("attention_analysis_settings.store_individual_tokens", "it never had an effect"),
    DEAD("attention_analysis_settings.attention_threshold", "it never had an effect"),
    DEAD("attention_analysis_settings.spatial_downsample_factor", "it never had an effect"),
    DEAD("attention_analysis_settings.store_aggregated_attention", "averages are made by attention-export"),
    DEAD("attention_analysis_settings.aggregated_storage_format", "averages are made by attention-export"),
    DEAD("attention_analysis_settings.auto_generate_videos", "overlays are made by attention-export"),
    DEAD("attention_analysis_settings.auto_generate_per_video", "overlays are made by attention-export"),
    DEAD("attention_analysis_settings.auto_decode", "overlays are made by attention-export"),
    DEAD("attention_analysis_settings.visualization_params", "overlays are made by attention-export"),

    { "cfg_schedule_settings.enabled", "schedules.guidance", OLD_SCHEDULE, NULL },
    SAME("cfg_schedule_settings.schedule", "schedules.guidance"),
    SAME("cfg_schedule_settings.interpolation", "schedules.guidance_interpolation"),
    DEAD("cfg_schedule_settings.apply_to_guidance_2", "it never had an effect"),
    DEAD("cfg_schedule_settings.verbose", "the guidance of every step is in trace.h5"),
    DEAD("cfg_schedule_settings.force_cfg", "it never had an effect"),

    { "prompt_schedule_settings.enabled", "schedules.prompt", OLD_SCHEDULE, NULL },
    SAME("prompt_schedule_settings.schedule", "schedules.prompt"),
    SAME("prompt_schedule_settings.interpolation", "schedules.prompt_interpolation"),
    DEAD("prompt_schedule_settings.verbose", "it only printed more"),

    SAME("attention_bending_settings.enabled", "bending.enabled"),
    SAME("attention_bending_settings.configs", "bending.configs"),
    SAME("attention_bending_settings.apply_to_output", "bending.apply_to_output"),
    SAME("attention_bending_settings.apply_before_softmax", "bending.apply_before_softmax"),
    DEAD("attention_bending_settings.device", "it never had an effect"),
    SAME("attention_bending_variations.enabled", "bending.variations.enabled"),
    SAME("attention_bending_variations.generate_baseline", "bending.variations.generate_baseline"),
    SAME("attention_bending_variations.renormalize", "bending.variations.renormalize"),
    SAME("attention_bending_variations.operations", "bending.variations.operations"),

    SAME("prompts", "prompt.timeline"),
    SAME("videos_per_variation", "batch.videos_per_variation"),
    SAME("batch_name", "batch.name"),
    SAME("output_dir", "output.dir"),
    SAME("use_timestamp", "output.use_timestamp"),
};
const int N_OLD_KEYS = (int)(sizeof OLD_KEYS / sizeof *OLD_KEYS);

const setting *setting_find(const char *key)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (!strcmp(SETTINGS[i].key, key))
            return &SETTINGS[i];
    return NULL;
}

const old_key *old_key_find(const char *key)
{
    for (int i = 0; i < N_OLD_KEYS; i++)
        if (!strcmp(OLD_KEYS[i].old, key))
            return &OLD_KEYS[i];
    return NULL;
}

static bool lies_below(const char *key, const char *prefix, size_t n)
{
    return !strncmp(key, prefix, n) && key[n] == '.';
}

bool is_section(const char *prefix)
{
    size_t n = strlen(prefix);
    for (int i = 0; i < N_SETTINGS; i++)
        if (lies_below(SETTINGS[i].key, prefix, n))
            return true;
    for (int i = 0; i < N_OLD_KEYS; i++)
        if (lies_below(OLD_KEYS[i].old, prefix, n))
            return true;
    return false;
}

static const char *last_part(const char *key)
{
    const char *dot = strrchr(key, '.');
    return dot ? dot + 1 : key;
}

/* First the right name in the wrong place ("sampling.seed"), then a near name in the same section, then a near key. */
const char *nearest_key(const char *key)
{
    const char *word = last_part(key), *known[256], *names[256];
    int n = 0;
    size_t section = (size_t)(word - key);
    for (int i = 0; i < N_SETTINGS; i++)
        if (!strcmp(last_part(SETTINGS[i].key), word))
            return SETTINGS[i].key;
    for (int i = 0; i < N_SETTINGS + N_OLD_KEYS && n < 256; i++) {
        const char *k = i < N_SETTINGS ? SETTINGS[i].key : OLD_KEYS[i - N_SETTINGS].old;
        if (!strncmp(k, key, section) && !strchr(k + section, '.')) {
            names[n] = last_part(k);
            known[n++] = k;
        }
    }
    const char *near = section ? str_nearest(word, names, (size_t)n) : NULL;
    for (int i = 0; near && i < n; i++)
        if (names[i] == near)
            return known[i];
    n = 0;
    for (int i = 0; i < N_SETTINGS && n < 256; i++)
        known[n++] = SETTINGS[i].key;
    for (int i = 0; i < N_OLD_KEYS && n < 256; i++)
        known[n++] = OLD_KEYS[i].old;
    if ((near = str_nearest(key, known, (size_t)n)))
        return near;
    /* a section on its own: "sampleing:" */
    static const char *const SECTIONS[] = { "model", "video", "sampling", "prompt", "shots", "schedules", "vace", "causal",
                                            "memory", "capture",
                                            "capture.latents", "capture.attention", "bending", "batch", "output" };
    return str_nearest(key, SECTIONS, sizeof SECTIONS / sizeof *SECTIONS);
}
