# Every shipped config runs: large models with a tiny stand-in, few steps, one variation, one seed.
. tests/e2e/lib.sh

# two experts of the tiny model as a Wan 2.2 folder
mkdir -p pair/high_noise_model pair/low_noise_model
for x in high low; do cp "$MODEL/config.json" "$MODEL/diffusion_pytorch_model.safetensors" pair/${x}_noise_model/; done
cp -r "$MODEL/google" "$MODEL"/*.pth pair/

# and as a causal one
mkdir -p causal
cp -r "$MODEL/config.json" "$MODEL/google" "$MODEL"/*.pth causal/
cp "$MODEL/diffusion_pytorch_model.safetensors" causal/longlive_base.safetensors

for c in "$REPO"/configs/*.yaml; do
    name=$(basename "$c" .yaml)
    model=$MODEL more=video.frames=5
    case $name in
        wan22_*) model=$TMP/pair ;;
        longlive) model=$TMP/causal more=causal.blocks=21 ;;      # long enough for its switch
    esac
    check "config-$name" "the shipped config fails:" "$W" run --config "$c" --output-dir out --batch-name "$name" --device cpu --quiet --videos-per-variation 1 \
        --set model.path="$model" --set video.width=32 --set video.height=32 --set $more --set sampling.steps=2 --set batch.limit=1 \
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
