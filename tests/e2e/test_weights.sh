# Adapters and 8-bit weights on the command line.
. tests/e2e/lib.sh

st kohya.safetensors "lora_unet_blocks_0_self_attn_q.lora_down.weight 2 48" "lora_unet_blocks_0_self_attn_q.lora_up.weight 48 2"
st peft.safetensors "base_model.model.blocks.0.self_attn.q.lora_A.weight 2 48" "base_model.model.blocks.0.self_attn.q.lora_B.weight 48 2"
st extra.safetensors "blocks.0.self_attn.q.lora_A.weight 2 48" "blocks.0.self_attn.q.lora_B.weight 48 2" "text_model.0.q.lora_A.weight 2 8" "text_model.0.q.lora_B.weight 8 2" \
    "blocks.7.self_attn.q.lora_A.weight 2 48" "blocks.7.self_attn.q.lora_B.weight 48 2" "blocks.8.self_attn.q.lora_A.weight 2 48" "blocks.8.self_attn.q.lora_B.weight 48 2"

G="$W generate --ckpt-dir $MODEL --prompt ca --device cpu --video-size 32 48 --video-length 5 --infer-steps 2 --seed 3 --no-metadata"
check plain "generate fails:" $G --save-path plain.mp4
check lora "--lora-weight fails:" $G --save-path kohya.mp4 --lora-weight kohya.safetensors --lora-multiplier 400
check lora-peft "--lora-weight with PEFT names fails:" $G --save-path peft.mp4 --lora_weight peft.safetensors --lora_multiplier 400
check lora-acts "the adapter changes nothing:" sh -c '! cmp -s plain.mp4 kohya.mp4'
check lora-namings-agree "two namings of one adapter differ:" cmp kohya.mp4 peft.mp4
check lora-two "two adapters fail:" $G --save-path two.mp4 --lora-weight kohya.safetensors peft.safetensors --lora-multiplier 100 300
check lora-zero "multiplier 0 fails:" $G --save-path zero.mp4 --lora-weight kohya.safetensors --lora-multiplier 0
check lora-zero-same "multiplier 0 changes the video:" cmp plain.mp4 zero.mp4
says lora-unmatched 0 "3 of 4 adapted modules have no place in this model and are left out: 2 x blocks_*_self_attn_q, text_model.0.q.lora_A.weight" \
    $G --save-path extra.mp4 --lora-weight extra.safetensors --lora-multiplier 400
check lora-unmatched-same "the matching module is not merged:" cmp kohya.mp4 extra.mp4
says lora-missing 2 "nothing.safetensors" $G --save-path x.mp4 --lora-weight nothing.safetensors
says lora-high 2 "meant for the high-noise expert" $G --save-path x.mp4 --lora-weight-high kohya.safetensors
says lora-many-multipliers 2 "more values than --lora-weight has files (1)" $G --save-path x.mp4 --lora-weight kohya.safetensors --lora-multiplier 1 2
says lora-word 2 "'much': expected a number" $G --save-path x.mp4 --lora-weight kohya.safetensors --lora-multiplier much
says lora-nothing 2 "needs one or more values" $G --save-path x.mp4 --lora-weight
says lora-not-one 2 "holds no adapter" $G --save-path x.mp4 --lora-weight "$MODEL/diffusion_pytorch_model.safetensors"
check lora-include "--include-patterns fails:" $G --save-path in.mp4 --lora-weight extra.safetensors --lora-multiplier 400 --include-patterns 'blocks\.0\.'
check lora-include-same "only the matching module should be merged:" cmp kohya.mp4 in.mp4
check lora-exclude "--exclude-patterns fails:" $G --save-path ex.mp4 --lora-weight extra.safetensors --lora-multiplier 400 --exclude-patterns 'text_model|blocks\.[78]'
check lora-exclude-same "modules that are left out are merged:" cmp kohya.mp4 ex.mp4
check lora-second-pattern "a pattern of the second adapter alone fails:" $G --save-path sec.mp4 --lora-weight kohya.safetensors extra.safetensors --lora-multiplier 400 1 --include-patterns '' 'blocks\.0'
says lora-pattern-nothing 2 "the patterns leave none of the 8 tensors" $G --save-path x.mp4 --lora-weight extra.safetensors --include-patterns nothing
says lora-pattern-broken 2 "is no regular expression" $G --save-path x.mp4 --lora-weight extra.safetensors --exclude-patterns '('
says lora-pattern-python 2 "write [0-9] for" $G --save-path x.mp4 --lora-weight extra.safetensors --exclude-patterns 'blocks\.\d'
says lora-many-patterns 2 "--include-patterns has more values than --lora-weight has files (1)" $G --save-path x.mp4 --lora-weight kohya.safetensors --include-patterns a b

# in a batch: digest and multiplier enter the identity, so a changed adapter makes runs again
config sweep.yaml ca
sed -i -e "s|model: {|model: {lora: [\"kohya.safetensors:400\"], |" -e 's/videos_per_variation: 2/videos_per_variation: 1/' sweep.yaml
check lora-batch "a batch with an adapter fails:" "$W" run --config sweep.yaml --quiet
check lora-batch-config "config.yaml does not name the adapter:" grep -q 'lora: \[{path: "kohya.safetensors", multiplier: 4e+02, expert: both}\]' outputs/sweep/config.yaml
check lora-batch-done "finished runs are made again:" sh -c "'$W' run --resume outputs/sweep 2>&1 | grep -q '(all before)'"
cp peft.safetensors kohya.safetensors
says lora-batch-changed 0 "is made again" "$W" run --resume outputs/sweep
if command -v h5dump >/dev/null 2>&1; then
    check lora-trace "the trace does not name the adapter:" sh -c 'h5dump -a /checkpoints outputs/sweep/runs/*/s7/trace.h5 | grep -q "lora.*multiplier.*400"'
else
    skip lora-trace "no h5dump"
fi
check lora-set "--lora fails:" "$W" run --config sweep.yaml --quiet --batch-name other --lora kohya.safetensors:2@low
says lora-set-key 2 "did you mean 'multiplier'" "$W" run --config sweep.yaml --batch-name z --set 'model.lora=[{path: a, multiplyer: 2}]'
says lora-set-expert 2 "expected both, high or low" "$W" run --config sweep.yaml --batch-name z --set 'model.lora=[{path: a, expert: middle}]'
says lora-set-path 2 "has no path" "$W" run --config sweep.yaml --batch-name z --set 'model.lora=[{multiplier: 2}]'

# written again: 8-bit, multiplied out, merged
mkdir -p conv
cp "$MODEL/config.json" conv/
st kohya.safetensors "lora_unet_blocks_0_self_attn_q.lora_down.weight 2 48" "lora_unet_blocks_0_self_attn_q.lora_up.weight 48 2"
D="$W generate --t5 $MODEL/models_t5_umt5-xxl-enc-bf16.pth --vae $MODEL/Wan2.1_VAE.pth --tokenizer $MODEL/google/umt5-xxl --prompt ca --device cpu --video-size 32 48 --video-length 5 --infer-steps 2 --seed 3 --no-metadata"
check convert-fp8 "convert --fp8-scaled fails:" sh -c "'$W' convert $MODEL conv/fp8.safetensors --fp8-scaled >conv/out && grep -q '^quantised.20 tensors' conv/out && grep -q '^relative error.0.02' conv/out"
check convert-fp8-inspect "the 8-bit file is not whole:" sh -c "'$W' inspect conv/fp8.safetensors | grep -q 'complete: nothing missing'"
check convert-back "convert --dtype bf16 fails:" "$W" convert conv/fp8.safetensors conv/back.safetensors --dtype bf16
check fp8-runs "the 8-bit model does not run:" $D --model conv/fp8.safetensors --save-path fp8.mp4
check back-runs "the multiplied-out model does not run:" $D --model conv/back.safetensors --save-path back.mp4
check fp8-same "8-bit weights and the same multiplied out differ:" cmp fp8.mp4 back.mp4
check fp8-on-load "--fp8-scaled fails:" $G --fp8-scaled --save-path load.mp4
check fp8-on-load-same "weights rounded on load and a file of them differ:" cmp fp8.mp4 load.mp4
says fp8-on-load-twice 2 "is F8_E4M3 already" $D --model conv/fp8.safetensors --fp8-scaled --save-path x.mp4
check fp8-costs "8-bit weights give the video of the originals:" sh -c '! cmp -s plain.mp4 fp8.mp4'
check convert-lora "convert --lora fails:" "$W" convert "$MODEL" conv/merged.safetensors --lora kohya.safetensors:400 --dtype f32
check merged-runs "the merged model does not run:" $D --model conv/merged.safetensors --save-path merged.mp4
check merged-same "a merged file and merging on loading differ:" cmp kohya.mp4 merged.mp4
check convert-lora-fp8 "convert --lora --fp8-scaled fails:" "$W" convert "$MODEL" conv/both.safetensors --lora kohya.safetensors --fp8-scaled
says convert-twice 2 "is F8_E4M3 already" "$W" convert conv/fp8.safetensors conv/x.safetensors --fp8-scaled
says convert-exists 2 "exists already" "$W" convert "$MODEL" conv/fp8.safetensors --fp8-scaled
says convert-nothing 2 "nothing to do" "$W" convert "$MODEL" conv/x.safetensors
says convert-ending 2 "must end in .safetensors" "$W" convert "$MODEL" conv/x.bin --fp8-scaled
says convert-no-model 2 "this is no diffusion model" "$W" convert "$MODEL/models_t5_umt5-xxl-enc-bf16.pth" conv/x.safetensors --fp8-scaled
says convert-dtype 2 "expected f32, f16 or bf16" "$W" convert "$MODEL" conv/x.safetensors --dtype fp8
says convert-paths 2 "expected two paths" "$W" convert "$MODEL"
says convert-option 2 "unknown option --fp9" "$W" convert "$MODEL" conv/x.safetensors --fp9
says convert-lora-other 2 "holds no adapter" "$W" convert "$MODEL" conv/x.safetensors --lora "$MODEL/diffusion_pytorch_model.safetensors"
check convert-help "convert --help fails:" "$W" convert --help
check convert-no-parts "half-written files are left:" sh -c '! ls conv | grep -E "part$|^x"'
