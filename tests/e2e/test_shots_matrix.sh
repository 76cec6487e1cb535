# The testing matrix of the upstream guide (single shot, three shots with automatic cuts, five with cuts of their own, 8-bit weights,
# adapters) on a tiny stand-in for HoloCine, at the authors' length of 241 frames. Bytes must be equal where a feature must not change
# the result; where it may, how much it does is printed.
. tests/e2e/lib.sh

mkdir -p scene/HoloCine_dit/full
for x in high low; do cp "$MODEL/diffusion_pytorch_model.safetensors" scene/HoloCine_dit/full/full_${x}_noise.safetensors; done
sed 's/"text_len": 16/"text_len": 256/' "$MODEL/config.json" >scene/HoloCine_dit/full/config.json
cp -r "$MODEL/google" "$MODEL"/*.pth scene/
FULL=$TMP/scene/HoloCine_dit/full/full_high_noise.safetensors
LOW=${FULL%high_noise.safetensors}low_noise.safetensors
command -v ffprobe >/dev/null 2>&1 && PROBE=1 || PROBE=

# gen NAME MODEL ARGS...: NAME.mp4 and NAME_latent.safetensors
gen() {
    local name=$1 model=$2
    shift 2
    "$W" generate --ckpt-dir "$model" --device cpu --video-size 32 32 --video-length 241 --infer-steps 4 --seed 5 --output-type both --save-path "$name.mp4" "$@"
}
# cuts NAME LIST: the cuts in the metadata of NAME.mp4
cuts() {
    [ "$PROBE" ] || { skip "$1-cuts" "no ffprobe"; return; }
    check "$1-cuts" "the cuts are not $2:" sh -c "ffprobe -v error -show_entries format_tags=comment -of csv=p=0 $1.mp4 | tr -d ' \"\n' | grep -qF 'cut_frames:[$2]'"
}
# latents NAME A B: equal, number by number
latents() { check "$1" "latents differ:" "$W" compare "$2"_latent.safetensors "$3"_latent.safetensors; }
# apart NAME A B: not equal; says how far apart
apart() {
    local rc=0
    "$W" compare "$2"_latent.safetensors "$3"_latent.safetensors >diff.txt 2>&1 || rc=$?
    case $rc in
    0) bad "$1" "both are the same" ;;
    1) ok "$1 # $(grep -o 'largest difference [^)]*)' diff.txt | head -1)" ;;
    *) bad "$1" "compare failed: $(tail -1 diff.txt)" ;;
    esac
}

# ---- single shot ----
check matrix-single "one shot fails:" gen single "$FULL" --global-caption "a cat" --shot-captions "red, and blue"
cuts single ""
check matrix-single-plain "an ordinary video fails:" gen plain "$FULL" --prompt "[global caption] a cat This scene contains 1 shots. [per shot caption] red, and blue" --lenient-shots
check matrix-single-sparse "one sparse shot fails:" gen single-sparse "$FULL" --global-caption "a cat" --shot-captions "red, and blue" --sparse true
apart matrix-single-sparse-acts single single-sparse      # its own first frame counts twice

# ---- three shots, automatic cuts ----
check matrix-three "three shots fail:" gen three "$FULL" --global-caption "a cat" --shot-captions red blue "two dogs"
cuts three 81,161
check matrix-three-given "the same cuts given fail:" gen given "$FULL" --global-caption "a cat" --shot-captions red blue "two dogs" --shot-cut-frames 81 161
latents matrix-three-same three given

# ---- five shots, cuts of their own ----
FIVE="--shot-cut-frames 49 93 137 189"
check matrix-five "five shots fail:" gen five "$FULL" --global-caption "a cat" --shot-captions red blue "two dogs" "a ball" "a box" $FIVE
cuts five 49,93,137,189
check matrix-five-text "five shots as one text fail:" gen five-text "$FULL" $FIVE \
    --prompt "[global caption] a cat This scene contains 5 shots. [per shot caption] red [shot cut] blue [shot cut] two dogs [shot cut] a ball [shot cut] a box"
latents matrix-five-same five five-text
check matrix-five-windows "five shots in context windows fail:" gen windows "$FULL" --global-caption "a cat" --shot-captions red blue "two dogs" "a ball" "a box" $FIVE \
    --use-context-windows
apart matrix-five-windows-act five windows
check matrix-five-one-window "one window over everything fails:" gen one-window "$FULL" --global-caption "a cat" --shot-captions red blue "two dogs" "a ball" "a box" $FIVE \
    --use-context-windows --context-length 241
latents matrix-five-one-window-same five one-window

# ---- 8-bit weights ----
mkdir -p small
cp scene/HoloCine_dit/full/config.json small/
for x in high low; do "$W" convert scene/HoloCine_dit/full/full_${x}_noise.safetensors small/full_${x}_noise.safetensors --fp8-scaled >/dev/null; done
THREE="--global-caption cat --shot-captions red blue dogs"
check matrix-fp8-base "three short captions fail:" gen base "$FULL" $THREE
check matrix-fp8 "--fp8-scaled fails:" gen fp8 "$FULL" $THREE --fp8-scaled
check matrix-fp8-file "8-bit experts fail:" gen fp8-file scene --dit-high-noise small/full_high_noise.safetensors --dit-low-noise small/full_low_noise.safetensors $THREE
latents matrix-fp8-same fp8 fp8-file
apart matrix-fp8-error base fp8

# ---- adapters, one an expert ----
st a.safetensors "blocks.0.self_attn.q.lora_A.weight 2 48" "blocks.0.self_attn.q.lora_B.weight 48 2"
st b.safetensors "lora_unet_blocks_1_cross_attn_k.lora_down.weight 2 48" "lora_unet_blocks_1_cross_attn_k.lora_up.weight 48 2"
mkdir -p merged
cp scene/HoloCine_dit/full/config.json merged/
"$W" convert "$FULL" merged/full_high_noise.safetensors --lora a.safetensors:300 --dtype f32 >/dev/null
"$W" convert "$LOW" merged/full_low_noise.safetensors --lora b.safetensors:200 --dtype f32 >/dev/null
check matrix-lora "adapters fail:" gen lora "$FULL" $THREE --lora-weight-high a.safetensors --lora-multiplier-high 300 --lora-weight b.safetensors --lora-multiplier 200
check matrix-lora-file "merged experts fail:" gen merged scene --dit-high-noise merged/full_high_noise.safetensors --dit-low-noise merged/full_low_noise.safetensors $THREE
latents matrix-lora-same lora merged
apart matrix-lora-acts base lora
