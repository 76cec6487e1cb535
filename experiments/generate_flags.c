/* The options of wanscope generate and their help: those of H1111's Wan 2.2 script, and our own. */
#include "experiments/generate_internal.h"

const char GENERATE_HELP[] =
    "usage: wanscope generate --prompt TEXT --ckpt-dir PATH --save-path PATH [options]\n"
    "\n"
    "Makes one video from a prompt and prints its path. The prompt is taken as it is: brackets and parentheses have no\n"
    "meaning here ('wanscope run' expands templates). Settings that are not given are those the model's authors recommend.\n"
    "\n"
    "model\n"
    "  --ckpt-dir PATH | --model PATH   folder as its authors publish it, or a single file\n"
    "  --dit FILE                       diffusion model, in place of the one found there\n"
    "  --dit-high-noise FILE --dit-low-noise FILE    the two experts of Wan 2.2 A14B\n"
    "  --dual-dit-boundary B            noise level at which the experts change (0.875)\n"
    "  --t5 FILE  --vae FILE  --tokenizer DIR\n"
    "  --lora-weight FILE...            adapters of the low-noise expert or the only model; --lora-weight-high FILE... those of\n"
    "                                   the high-noise one: for both, name a file in both\n"
    "  --lora-multiplier M...           one an adapter, in their order (1); --lora-multiplier-high M...\n"
    "  --include-patterns RE...  --exclude-patterns RE...    one an adapter, '' for none: tensors of it that are merged (docs/lora.md);\n"
    "                                   --include-patterns-high RE...  --exclude-patterns-high RE...\n"
    "  --fp8-scaled                     the weights of the blocks rounded to 8 bits (docs/lora.md)\n"
    "  --task NAME                      t2v-1.3B, t2v-14B, t2v-A14B, longlive-1.3B: checked against the files\n"
    "  --device auto|cpu|cuda|cuda:N  --precision exact|bf16|fp8   --threads N\n"
    "  --blocks-to-swap N               transformer blocks kept in host memory and streamed; --max-device-memory 8GiB chooses it\n"
    "\n"
    "video\n"
    "  --prompt TEXT  --negative-prompt TEXT (empty: the official one, with\n"
    "                                   --negative-default none the empty text)\n"
    "  --video-size H W (256 256), or --height H --width W: multiples of 16\n"
    "  --video-length N | --frames N    4n+1 frames (81)\n"
    "  --fps R                          (16; HoloCine 15)\n"
    "  --infer-steps N | --steps N      (50; Wan A14B 40)\n"
    "  --guidance-scale G               1 switches guidance off (5; Wan A14B 4 and 3)\n"
    "  --guidance-scale-low G           of the low-noise expert\n"
    "  --cfg-skip-mode M --cfg-apply-ratio R    leave guidance out of some steps (docs/config.md)\n"
    "  --slg-layers A,B --slg-mode original|uncond --slg-scale S --slg-start R --slg-end R    skip-layer guidance\n"
    "  --use-context-windows            for videos longer than the model's length: --context-length N (81) --context-overlap N (30)\n"
    "                                   --context-schedule NAME --context-fuse-method NAME --context-stride N --context-closed-loop\n"
    "  --flow-shift S | --shift S       (5; Wan A14B 12)\n"
    "  --sample-solver NAME | --solver NAME    unipc, dpm++, flowmatch, or a name of sampling.solver\n"
    "  --seed N                         (random; -1 too)\n"
    "  --cpu-noise | --cuda-noise       noise of PyTorch's CPU (default) or CUDA generator\n"
    "\n"
    "VACE (docs/vace.md)\n"
    "  --vace FILE                      VACE weights for the model; not needed where the model is the VACE release\n"
    "  --ref-image FILE...              up to 4 images of what should appear\n"
    "  --control-video FILE             a video to follow; --control-type video|depth|edges says how\n"
    "  --control-timing first|whole     its first frames, or all of them spread over the video (mask too)\n"
    "  --depth-normalise none|clip|frame  --depth-invert  --depth-smooth N\n"
    "  --mask-video FILE                video or image, white where the video is made anew\n"
    "  --vace-scale S                   strength of all of these (1)\n"
    "\n"
    "several shots (HoloCine; docs/holocine.md)\n"
    "  --global-caption TEXT --shot-captions TEXT TEXT ...    in place of --prompt; needs --video-length\n"
    "  --prompt '[global caption] ... [per shot caption] ... [shot cut] ...'    the same as one text; needs the cuts\n"
    "  --shot-cut-frames N N ...        first frame of each shot but the first (with captions: evenly spaced)\n"
    "  --sparse true|false              sparse attention between shots (as the checkpoint's name says)\n"
    "  --shot-mask-type id|normalized|alternating    for checkpoints with 17 input channels\n"
    "  --shot-spans cleaned|raw  --lenient-shots  --latent-dtype f32|bf16    as upstream computes\n"
    "\n"
    "  --from-file FILE                 a video for each line of FILE: 'prompt --d seed --w width --h height --f frames --s steps\n"
    "                                   --g guidance --fs shift --n negative'; '#' begins a comment; --save-path is a folder\n"
    "\n"
    "repeating\n"
    "  --from-video FILE                everything but the model as the .mp4 or .png FILE says it was made; further options win\n"
    "\n"
    "output\n"
    "  --save-path PATH | --output PATH    a file (.mp4, .y4m, for latents .safetensors) or a folder, in which the name is\n"
    "                                   made of date, time and seed\n"
    "  --output-type video|images|latent|both    both: video and latent\n"
    "  --crf N                          0 lossless .. 51 (10)\n"
    "  --preview N                      every N steps a rough look at the latents, previews/latent_preview.mp4 beside the video\n"
    "  --preview-suffix TEXT            behind the name of that file\n"
    "  --no-metadata                    leave the parameters out of the file\n"
    "\n"
    "LongLive (video block by block; docs/longlive.md)\n"
    "  --prompt 'A [at 21] B'           B rules from latent frame 21 on\n"
    "  --blocks N                       length in blocks of 12 frames (the first has 9), in place of --video-length\n"
    "  --stdout y4m                     frames to standard output as they are made; needs no --save-path. To watch:\n"
    "                                   wanscope generate ... --stdout y4m | ffplay -\n"
    "  --resume-dir DIR                 keeps states in DIR and goes on from the one found there; removed at the end\n"
    "\n"
    "  --quiet | --verbose | --help | --version\n";

#define TEXT_ONLY "image-to-video and Fun-Control models are not in this build; --ref-image, --control-video and --mask-video condition a VACE model"
#define MERGE "'wanscope convert IN OUT --lora FILE:0.8' writes a model with adapters merged"

const flag_spec GENERATE_FLAGS[] = {
    { "prompt", 1, NULL, NULL, NULL },
    { "negative-prompt", 1, "prompt.negative", NULL, NULL },
    { "negative-default", 1, "prompt.negative_default", NULL, NULL },
    { "ckpt-dir", 1, "model.path", NULL, NULL },
    { "model", 1, "model.path", NULL, NULL },
    { "task", 1, NULL, NULL, NULL },
    { "dit", 1, "model.dit", NULL, NULL },
    { "dit-high-noise", 1, "model.dit", NULL, NULL },
    { "dit-low-noise", 1, "model.dit_low", NULL, NULL },
    { "dual-dit-boundary", 1, "sampling.boundary", NULL, NULL },
    { "t5", 1, "model.t5", NULL, NULL },
    { "vae", 1, "model.vae", NULL, NULL },
    { "tokenizer", 1, "model.tokenizer", NULL, NULL },
    { "lora-weight", FLAG_LIST, NULL, NULL, NULL },
    { "lora-multiplier", FLAG_LIST, NULL, NULL, NULL },
    { "lora-weight-high", FLAG_LIST, NULL, NULL, NULL },
    { "lora-multiplier-high", FLAG_LIST, NULL, NULL, NULL },
    { "vace", 1, "model.vace", NULL, NULL },
    { "ref-image", FLAG_LIST, NULL, NULL, NULL },
    { "control-video", 1, "vace.control", NULL, NULL },
    { "control-type", 1, "vace.control_type", NULL, NULL },
    { "control-timing", 1, "vace.control_timing", NULL, NULL },
    { "mask-video", 1, "vace.mask", NULL, NULL },
    { "vace-scale", 1, "vace.scale", NULL, NULL },
    { "depth-normalise", 1, "vace.depth_normalise", NULL, NULL },
    { "depth-invert", 0, "vace.depth_invert", "true", NULL },
    { "depth-smooth", 1, "vace.depth_smooth", NULL, NULL },
    { "device", 1, "model.device", NULL, NULL },
    { "precision", 1, "model.precision", NULL, NULL },
    { "threads", 1, "model.threads", NULL, NULL },
    { "text-len", 1, "model.text_len", NULL, NULL },
    { "video-size", 2, "video.height", "video.width", NULL },
    { "width", 1, "video.width", NULL, NULL },
    { "height", 1, "video.height", NULL, NULL },
    { "video-length", 1, "video.frames", NULL, NULL },
    { "frames", 1, "video.frames", NULL, NULL },
    { "num-frames", 1, "video.frames", NULL, NULL },
    { "fps", 1, "video.fps", NULL, NULL },
    { "infer-steps", 1, "sampling.steps", NULL, NULL },
    { "steps", 1, "sampling.steps", NULL, NULL },
    { "guidance-scale", 1, "sampling.guidance_scale", NULL, NULL },
    { "guidance-scale-low", 1, "sampling.guidance_scale_low", NULL, NULL },
    { "flow-shift", 1, "sampling.shift", NULL, NULL },
    { "shift", 1, "sampling.shift", NULL, NULL },
    { "sample-solver", 1, "sampling.solver", NULL, NULL },
    { "solver", 1, "sampling.solver", NULL, NULL },
    { "seed", 1, NULL, NULL, NULL },
    { "cpu-noise", 0, "sampling.noise", "torch-cpu", NULL },
    { "cuda-noise", 0, "sampling.noise", "torch-cuda", NULL },
    { "from-video", 1, NULL, NULL, NULL },
    { "from-file", 1, NULL, NULL, NULL },
    { "blocks", 1, "causal.blocks", NULL, NULL },
    { "lora-alpha", 1, "causal.lora_alpha", NULL, NULL },
    { "stdout", 1, NULL, NULL, NULL },
    { "resume-dir", 1, NULL, NULL, NULL },
    { "save-path", 1, NULL, NULL, NULL },
    { "output", 1, NULL, NULL, NULL },
    { "output-type", 1, NULL, NULL, NULL },
    { "crf", 1, "video.crf", NULL, NULL },
    { "quality", 1, "video.quality", NULL, NULL },
    { "preview", 1, NULL, NULL, NULL },
    { "preview-suffix", 1, NULL, NULL, NULL },
    { "no-metadata", 0, NULL, NULL, NULL },
    { "quiet", 0, NULL, NULL, NULL },
    { "verbose", 0, NULL, NULL, NULL },
    /* of H1111: they choose how its program computes, not what */
    { "attn-mode", 1, NULL, "ignored", NULL },
    { "compile", 0, NULL, "ignored", NULL },
    { "blocks-to-swap", 1, "memory.blocks_to_swap", NULL, NULL },
    { "max-device-memory", 1, "memory.budget", NULL, NULL },
    { "vae-cache-cpu", 0, NULL, "ignored", NULL },
    { "vae-dtype", 1, NULL, "ignored", NULL },
    { "dtype", 1, NULL, "ignored", NULL },
    { "fp8", 0, NULL, "ignored", NULL },
    { "fp8-scaled", 0, "model.fp8_scaled", "true", NULL },
    { "fp8-fast", 0, NULL, "ignored", NULL },
    { "fp8-t5", 0, NULL, "ignored", NULL },
    { "mixed-dtype", 0, NULL, "ignored", NULL },
    { "lycoris", 0, NULL, "ignored", NULL },
    { "tiled", 0, NULL, "ignored", NULL },
    { "enable-vram-management", 0, NULL, "ignored", NULL },
    { "offload-device", 1, NULL, "ignored", NULL },
    { "compile-args", FLAG_LIST, NULL, "ignored", NULL },
    { "global-caption", 1, NULL, NULL, NULL },
    { "shot-captions", FLAG_LIST, NULL, NULL, NULL },
    { "shot-cut-frames", FLAG_LIST, NULL, NULL, NULL },
    { "shot-mask-type", 1, "shots.mask_type", NULL, NULL },
    { "sparse", 1, "shots.sparse", NULL, NULL },
    { "shot-spans", 1, "shots.spans", NULL, NULL },
    { "lenient-shots", 0, "shots.strict", "false", NULL },
    { "family", 1, "model.family", NULL, NULL },
    { "latent-dtype", 1, "sampling.latent_dtype", NULL, NULL },
    /* of H1111: known, not in this build */
    { "image-path", 1, NULL, NULL, TEXT_ONLY },
    { "end-image-path", 1, NULL, NULL, TEXT_ONLY },
    { "video-path", 1, NULL, NULL, TEXT_ONLY },
    { "strength", 1, NULL, NULL, TEXT_ONLY },
    { "v2v-low-noise-only", 0, NULL, NULL, TEXT_ONLY },
    { "v2v-use-i2v", 0, NULL, NULL, TEXT_ONLY },
    { "control-path", 1, NULL, NULL, TEXT_ONLY },
    { "control-start", 1, NULL, NULL, TEXT_ONLY },
    { "control-end", 1, NULL, NULL, TEXT_ONLY },
    { "control-weight", 1, NULL, NULL, TEXT_ONLY },
    { "control-falloff-percentage", 1, NULL, NULL, TEXT_ONLY },
    { "extend-video", 1, NULL, NULL, TEXT_ONLY },
    { "extend-frames", 1, NULL, NULL, TEXT_ONLY },
    { "frames-to-check", 1, NULL, NULL, TEXT_ONLY },
    { "motion-frames", 1, NULL, NULL, TEXT_ONLY },
    { "force-low-noise", 0, NULL, NULL, TEXT_ONLY },
    { "force-high-noise", 0, NULL, NULL, TEXT_ONLY },
    { "extension-dual-dit-boundary", 1, NULL, NULL, TEXT_ONLY },
    { "inject-motion-timesteps", 1, NULL, NULL, TEXT_ONLY },
    { "injection-strength", 1, NULL, NULL, TEXT_ONLY },
    { "motion-noise-ratio", 1, NULL, NULL, TEXT_ONLY },
    { "color-match", 1, NULL, NULL, TEXT_ONLY },
    { "clip", 1, NULL, NULL, TEXT_ONLY },
    { "latent-path", 1, NULL, NULL, "this build decodes the latents it has just made, not stored ones" },
    { "save-merged-model", 1, NULL, NULL, MERGE },
    { "include-patterns", FLAG_LIST, NULL, NULL, NULL },
    { "exclude-patterns", FLAG_LIST, NULL, NULL, NULL },
    { "include-patterns-high", FLAG_LIST, NULL, NULL, NULL },
    { "exclude-patterns-high", FLAG_LIST, NULL, NULL, NULL },
    { "cfg-skip-mode", 1, "sampling.cfg_skip_mode", NULL, NULL },
    { "cfg-apply-ratio", 1, "sampling.cfg_apply_ratio", NULL, NULL },
    { "slg-layers", 1, "sampling.slg_layers", NULL, NULL },
    { "slg-scale", 1, "sampling.slg_scale", NULL, NULL },
    { "slg-start", 1, "sampling.slg_start", NULL, NULL },
    { "slg-end", 1, "sampling.slg_end", NULL, NULL },
    { "slg-mode", 1, "sampling.slg_mode", NULL, NULL },
    { "use-context-windows", 0, "sampling.context_windows", "true", NULL },
    { "context-length", 1, "sampling.context_length", NULL, NULL },
    { "context-overlap", 1, "sampling.context_overlap", NULL, NULL },
    { "context-schedule", 1, "sampling.context_schedule", NULL, NULL },
    { "context-stride", 1, "sampling.context_stride", NULL, NULL },
    { "context-closed-loop", 0, "sampling.context_closed_loop", "true", NULL },
    { "context-fuse-method", 1, "sampling.context_fuse_method", NULL, NULL },
    { "context-dim", 1, NULL, "ignored", NULL },
    { "trim-tail-frames", 1, NULL, NULL, "this build keeps every frame: ask for fewer with --video-length" },
};
const size_t N_GENERATE_FLAGS = sizeof GENERATE_FLAGS / sizeof *GENERATE_FLAGS;
