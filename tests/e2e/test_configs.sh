# Every shipped config runs: large models with a tiny stand-in, few steps, one variation, one seed.
. tests/e2e/lib.sh

# two experts of the tiny model as a Wan 2.2 folder
mkdir -p pair/high_noise_model pair/low_noise_model
for x in high low; do cp "$MODEL/config.json" "$MODEL/diffusion_pytorch_model.safetensors" pair/${x}_noise_model/; done
cp -r "$MODEL/google" "$MODEL"/*.pth pair/

# the same two as a HoloCine folder; its T5 reads as many tokens as captions have
mkdir -p scenes/HoloCine_dit/full scenes/HoloCine_dit/sparse
for kind in full sparse; do
    for x in high low; do cp "$MODEL/diffusion_pytorch_model.safetensors" scenes/HoloCine_dit/$kind/${kind}_${x}_noise.safetensors; done
    sed 's/"text_len": 16/"text_len": 1024/' "$MODEL/config.json" >scenes/HoloCine_dit/$kind/config.json
done
cp -r "$MODEL/google" "$MODEL"/*.pth scenes/

# what the VACE configs ask for: weights for the tiny model, an image, depth maps
vace_module vace.safetensors
st depth.safetensors "depth 5 32 32"
"$W" generate --ckpt-dir "$MODEL" --prompt ca --device cpu --video-size 32 32 --video-length 1 --infer-steps 1 --seed 1 --output-type images --save-path img >/dev/null 2>&1
vace="--set model.vace=vace.safetensors --set vace.scale_by_step={}"

# and as a causal one
mkdir -p causal
cp -r "$MODEL/config.json" "$MODEL/google" "$MODEL"/*.pth causal/
cp "$MODEL/diffusion_pytorch_model.safetensors" causal/longlive_base.safetensors

for c in "$REPO"/configs/*.yaml; do
    name=$(basename "$c" .yaml)
    model=$MODEL frames=5 more=
    case $name in
    wan22_*) model=$TMP/pair ;;
    holocine_full) model=$TMP/scenes frames=21 ;;
    holocine_demo) model=$REPO/experiments/shapes/checkpoint/holocine frames=13
        more="--set model.dit=$model/holocine_shapes.safetensors --set model.dit_low=$model/holocine_shapes.safetensors" ;;
    holocine_sparse) model=$TMP/scenes/HoloCine_dit/sparse/sparse_high_noise.safetensors frames=21 more="--set shots.cut_frames=[5,9,13,17]" ;;
    longlive) model=$TMP/causal frames=249 ;;      # long enough for its switch
    vace_r2v) more="$vace --set vace.references=$(echo img/*/frame/frame_000.png)" ;;
    longlive_demo) model=$TMP/causal frames=249 more="--set model.vae= --set model.t5= --set model.tokenizer=" ;;
    vace_demo) more="$vace --set vace.control=depth.safetensors" ;;
    vace_depth) more="$vace --set vace.control=depth.safetensors" ;;
    esac
    check "config-$name" "the shipped config fails:" "$W" run --config "$c" --output-dir out --batch-name "$name" --device cpu --quiet --videos-per-variation 1 \
        --set model.path="$model" --set video.width=32 --set video.height=32 --set video.frames=$frames $more --set sampling.steps=2 --set batch.limit=1 \
        --set output.use_timestamp=false --set capture.attention.steps=all --set capture.attention.layers=all --set schedules.guidance={}
    check "config-$name-video" "it left no video:" sh -c "ls out/$name/runs/*/s*/video.mp4"
done

# the experts really take turns
if command -v h5dump >/dev/null 2>&1; then
check two-experts "the experts do not follow the boundary:" sh -c "'$W' run --config '$REPO/configs/wan22_a14b.yaml' --output-dir out --batch-name turns --device cpu --quiet --videos-per-variation 1 \
    --set model.path=$TMP/pair --set video.width=32 --set video.height=32 --set video.frames=5 --set sampling.steps=6 --set batch.limit=1 --set output.use_timestamp=false \
    --store-latents && h5dump -d /expert out/turns/runs/*/s*/trace.h5 2>/dev/null | tr -d '\n ' | grep -q '0,0.*1,1'"
else
    skip two-experts "no h5dump"
fi
