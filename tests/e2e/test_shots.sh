# Multi-shot videos from the command line and from YAML, on a tiny stand-in for HoloCine: two experts named as theirs.
. tests/e2e/lib.sh

for kind in full sparse; do
    mkdir -p scene/HoloCine_dit/$kind
    for x in high low; do cp "$MODEL/diffusion_pytorch_model.safetensors" scene/HoloCine_dit/$kind/${kind}_${x}_noise.safetensors; done
    sed 's/"text_len": 16/"text_len": 256/' "$MODEL/config.json" >scene/HoloCine_dit/$kind/config.json
done
cp -r "$MODEL/google" "$MODEL"/*.pth scene/
FULL=$TMP/scene/HoloCine_dit/full/full_high_noise.safetensors
SPARSE=$TMP/scene/HoloCine_dit/sparse/sparse_high_noise.safetensors

# frames NAME WHY A B: ok when two videos show the same
frames() {
    command -v ffmpeg >/dev/null 2>&1 || { skip "$1" "no ffmpeg"; return; }
    check "$1" "$2" sh -c "ffmpeg -v error -i $3 -f rawvideo -y 1.raw && ffmpeg -v error -i $4 -f rawvideo -y 2.raw && cmp 1.raw 2.raw"
}

# ---- generate: captions, one text, and the same from YAML ----
B="$W generate --device cpu --video-size 32 48 --infer-steps 2 --seed 3 --ckpt-dir"
G="$B $FULL --video-length 13"
RAW='[global caption] a cat. This scene contains 3 shots. [per shot caption] red [shot cut] two (big) dogs [shot cut] [character1], "blue"'
check shots-structured "captions fail:" $G --global-caption " a cat." --shot-captions red "two (big) dogs" '[character1], "blue"' --save-path a.mp4
check shots-raw "the same as one text fails:" $G --prompt "$RAW" --shot-cut-frames 5 9 --save-path b.mp4
frames shots-same "captions and the same text give different videos:" a.mp4 b.mp4
check shots-repeated-flags "repeated flags fail:" $G --global_caption " a cat." --shot_captions red --shot_captions "two (big) dogs" --shot_captions '[character1], "blue"' \
    --shot_cut_frames 6 --shot_cut_frames 9 --save-path c.mp4
check shots-repeated-same "repeated flags lose captions:" cmp a.mp4 c.mp4
check shots-plain "a prompt without marks fails:" $G --prompt "a cat" --save-path plain.mp4
check shots-length "a length that is not 4n+1 fails:" $B $FULL --video-length 12 --global-caption " a cat." --shot-captions red "two (big) dogs" '[character1], "blue"' --save-path d.mp4
check shots-length-same "12 frames do not become 13:" cmp a.mp4 d.mp4
check shots-sparse "the sparse checkpoint fails:" $B $SPARSE --video-length 13 --prompt "$RAW" --shot-cut-frames 5 9 --save-path s.mp4
check shots-sparse-differs "sparse attention gives the same video:" sh -c '! cmp -s a.mp4 s.mp4'
check shots-sparse-by-flag "--sparse true fails:" $G --prompt "$RAW" --shot-cut-frames 5 9 --sparse true --save-path t.mp4
frames shots-sparse-same "--sparse true and the sparse checkpoint of the same weights differ:" s.mp4 t.mp4
check shots-one "one shot fails:" $G --global-caption "a cat" --shot-captions "red, and blue" --save-path one.mp4
check shots-one-raw "one shot as text fails:" $G --prompt "[global caption] a cat This scene contains 1 shots. [per shot caption] red, and blue" --shot-cut-frames none --save-path one-raw.mp4
frames shots-one-same "one shot as caption and as text differ:" one.mp4 one-raw.mp4
check shots-bf16 "--latent-dtype bf16 fails:" $G --prompt "$RAW" --shot-cut-frames 5 9 --latent-dtype bf16 --save-path bf16.mp4
check shots-lenient "--lenient-shots fails:" $G --prompt "red [shot cut] blue" --shot-cut-frames 5 --lenient-shots --save-path l.mp4
check shots-experts "experts given one by one fail:" $B scene --dit-high-noise $FULL --dit-low-noise ${FULL%high_noise.safetensors}low_noise.safetensors --video-length 13 \
    --prompt "$RAW" --shot-cut-frames 5 9 --save-path e.mp4
check shots-experts-same "experts given one by one make another video:" cmp b.mp4 e.mp4
if command -v ffprobe >/dev/null 2>&1; then
    got=$(ffprobe -v error -select_streams v -show_entries stream=r_frame_rate -of csv=p=0 a.mp4)
    if [ "$got" = "15/1" ]; then ok shots-fps; else bad shots-fps "expected 15/1, found $got"; fi
    check shots-metadata "cuts and prompt are not in the file:" sh -c "ffprobe -v error -show_entries format_tags=comment -of csv=p=0 a.mp4 | grep -F cut_frames | grep -F 'contains 3 shots' | grep -qF diffsynth_euler"
else
    skip shots-fps "no ffprobe"
fi

check shots-from-video "--from-video of a multi-shot video fails:" $B scene --from-video t.mp4 --save-path t2.mp4
check shots-from-video-same "the repeated video is another:" cmp t.mp4 t2.mp4

if command -v ffmpeg >/dev/null 2>&1; then
    check shots-preview "--preview fails:" $G --prompt "$RAW" --shot-cut-frames 5 9 --preview 1 --save-path p.mp4
    ffmpeg -v error -i previews/latent_preview.mp4 -f rawvideo -pix_fmt gray -y p.raw
    corner() { od -An -tu1 -j $((48 * 32 * $1 + 49)) -N 1 p.raw | tr -d ' '; }
    if [ "$(corner 0)" -gt 220 ] && [ "$(corner 1)" -lt 220 ] && [ "$(corner 2)" -gt 220 ] && [ "$(corner 3)" -gt 220 ]; then ok shots-preview-edges
    else bad shots-preview-edges "edges of the frames are $(corner 0) $(corner 1) $(corner 2) $(corner 3), expected white where a shot begins"; fi
else
    skip shots-preview "no ffmpeg"
fi

cat >scene.yaml <<YAML
model: {path: $FULL, device: cpu, seed: 3}
video: {width: 48, height: 32, frames: 13}
sampling: {steps: 2}
shots:
  global_caption: "a [cat|dog]."
  captions: [red, "two \\\\(big\\\\) dogs", "[character1], \\"blue\\""]
batch: {name: scene}
output: {use_timestamp: false}
YAML
check shots-yaml "a config with captions fails:" "$W" run --config scene.yaml --quiet --output-dir out
frames shots-yaml-same "YAML and flags give different videos:" a.mp4 "out/scene/runs/0000*/s3/video.mp4"
check shots-yaml-alternatives "the alternatives of a caption are not both made:" sh -c "test \$(ls -d out/scene/runs/*/s3 | wc -l) = 2"
check shots-yaml-resolved "the resolved config lacks the cuts:" grep -q "cut_frames: \[5, 9\]" out/scene/config.yaml
check shots-yaml-again "the resolved config does not run:" "$W" run --config out/scene/config.yaml --quiet --set output.dir=out2
check shots-yaml-again-same "the resolved config makes other runs:" sh -c "cmp out/scene/runs/0001*/s3/video.mp4 out2/scene/runs/0001*/s3/video.mp4"

# ---- traces ----
check shots-trace "a trace of shots fails:" "$W" run --config scene.yaml --quiet --output-dir out3 --max-variations 1 --store-latents --store-attention --set 'capture.attention.words=[red, cat]'
T3=$(ls out3/scene/runs/*/s3/trace.h5)
if command -v h5dump >/dev/null 2>&1; then
    check shots-trace-cuts "the first frames are wrong:" sh -c "h5dump -d /shots/first_frames $T3 | grep -q '(0): 0, 5, 9' && h5dump -d /shots/first_latents $T3 | grep -q '(0): 0, 2, 3'"
    check shots-trace-latents "the shots of the latent frames are wrong:" sh -c "h5dump -d /shots/latent_shot $T3 | grep -q '(0): 0, 0, 1, 2'"
    check shots-trace-captions "the captions are wrong:" sh -c "h5dump -d /shots/captions $T3 | grep -q 'two (big) dogs' && h5dump -d /shots/global_caption $T3 | grep -q 'contains 3 shots'"
    check shots-trace-tokens "the token spans are missing:" sh -c "h5dump -d /shots/token_begin $T3 && h5dump -d /shots/token_end $T3 && h5dump -d /shots/global_tokens $T3 | grep -q '(0): 0, '"
    check shots-trace-plain "an ordinary video has shots:" sh -c "'$W' run --config scene.yaml --quiet --output-dir out5 --store-latents --template cat && ! h5dump -n 1 out5/scene/runs/*/s3/trace.h5 | grep /shots"
else
    skip shots-trace-cuts "no h5dump"
fi
check shots-trace-again "a second trace fails:" "$W" run --config scene.yaml --quiet --output-dir out4 --max-variations 1 --store-latents --store-attention --set 'capture.attention.words=[red, cat]'
check shots-trace-same "two traces of one run differ:" sh -c "cmp $T3 out4/scene/runs/*/s3/trace.h5"
check shots-trace-compare "compare does not read a trace with shots:" "$W" compare $T3 out4/scene/runs/*/s3/trace.h5

X="$BIN/attention-export --batch-dir out3/scene --word red"
if [ -x "$BIN/attention-export" ]; then
    check shots-map "the map of one shot fails:" $X --format csv --shot 0
    check shots-map-frames "the map of shot 0 has other frames than 0 and 1:" sh -c "test \"\$(cut -d, -f1 out3/scene/analysis/attention/*red*shot0.csv | sort -u | tr '\n' ' ')\" = '0 1 frame '"
    check shots-map-other "the map of another shot fails:" $X --format csv --shot 2
    check shots-map-blocked "a word of the first caption is seen in another shot:" sh -c "tail -n +2 out3/scene/analysis/attention/*red*shot2.csv | awk -F, '\$1 != 3 || \$4 != 0 { exit 1 }'"
    check shots-map-overlay "an overlay of one shot fails:" $X --format png --overlay --shot 1
    says shots-map-none 2 "the video has 3 shots, numbered from 0" $X --format csv --shot 3
    says shots-map-mp4 2 "--shot cuts frames out" $X --format mp4 --shot 1
else
    skip shots-map "no attention-export in this build"
fi

# ---- what is refused, each in a sentence ----
N="$G --save-path x.mp4"
says shots-both-modes 2 "not both" $N --prompt a --global-caption b --shot-captions c
says shots-no-captions 2 "--global-caption requires --shot-captions" $N --global-caption b
says shots-no-global 2 "--shot-captions requires --global-caption" $N --shot-captions b
says shots-no-length 2 "--video-length required for structured multi-shot input" $B $FULL --save-path x.mp4 --global-caption b --shot-captions c d
says shots-empty-list 2 "needs one or more values after it" $N --global-caption b --shot-captions
says shots-count 2 "Expected 2 shot cuts for 3 shots, got 1" $N --global-caption a --shot-captions b c d --shot-cut-frames 5
says shots-range 2 "Shot cut frame 13 out of range [1, 12]" $N --global-caption a --shot-captions b c --shot-cut-frames 13
says shots-range-zero 2 "Shot cut frame 0 out of range [1, 12]" $N --global-caption a --shot-captions b c --shot-cut-frames 0
says shots-order 2 "Shot cut frames must be in ascending order: 5 comes behind 9" $N --global-caption a --shot-captions b c d --shot-cut-frames 9 5
says shots-collide 2 "the cuts 1 and 2 both fall on frame 5" $N --global-caption a --shot-captions b c d --shot-cut-frames 4 6
says shots-round-out 2 "falls on frame 13 (cuts are at 4n+1), where the video of 13 frames has ended" $N --global-caption a --shot-captions b c --shot-cut-frames 12
says shots-too-many 2 "5 shots do not fit into a video of 13 frames" $N --global-caption a --shot-captions b c d e f
says shots-not-a-frame 2 "entry 1 of shots.cut_frames is 'soon'" $N --global-caption a --shot-captions b c --shot-cut-frames soon
says shots-empty-caption 2 "the caption of shot 2 is empty" $N --global-caption a --shot-captions b " "
says shots-raw-no-cuts 2 "the prompt has captions for 3 shots and no cuts are given, so no shot could be told its caption: set shots.cut_frames, evenly spaced that is [5, 9]" $N --prompt "$RAW"
says shots-raw-count 2 "Expected 2 shot cuts for 3 shots, got 1" $N --prompt "$RAW" --shot-cut-frames 5
says shots-raw-no-global 2 "has no [global caption] mark" $N --prompt "[per shot caption] a [shot cut] b" --shot-cut-frames 5
says shots-raw-no-shots 2 "no [per shot caption] mark" $N --prompt "[global caption] a" --shot-cut-frames 5
says shots-raw-early-cut 2 "[shot cut] stands before [per shot caption]" $N --prompt "[global caption] a [shot cut] [per shot caption] b" --shot-cut-frames 5
says shots-raw-open-end 2 "the prompt ends with [shot cut]" $N --prompt "[global caption] a [per shot caption] b [shot cut]" --shot-cut-frames 5
says shots-truncated 2 "since the end of the prompt is cut off: shorten it" $N --prompt "[global caption] $(printf 'cat %.0s' $(seq 300)) [per shot caption] b [shot cut] c" --shot-cut-frames 5
says shots-mask-type 2 "takes 16 channels, not 17" $N --prompt "$RAW" --shot-cut-frames 5 9 --shot-mask-type normalized
says shots-sparse-no-cuts 2 "sparse attention is between shots; set shots.cut_frames" $B $SPARSE --video-length 13 --prompt "a cat" --save-path x.mp4
says shots-bf16-solver 2 "set sampling.solver to diffsynth_euler (found unipc)" $N --prompt "$RAW" --shot-cut-frames 5 9 --latent-dtype bf16 --sample-solver unipc
says shots-family 2 "is one model and HoloCine has two experts" "$W" generate --ckpt-dir "$MODEL" --family holocine --prompt a --save-path x.mp4
R="$W run --config scene.yaml --quiet --output-dir bad"
says shots-yaml-both 2 "prompt.template and shots.captions are both given" sh -c "sed 's/^shots:/prompt: {template: a}\nshots:/' scene.yaml >both.yaml; '$W' run --config both.yaml --quiet --output-dir bad"
says shots-yaml-mark 2 "a caption holds the mark [shot cut]" $R --set 'shots.captions=["a [shot cut] b", c]'
says shots-yaml-one-text 2 "shots.captions is 'a, b', expected a list of texts" sh -c "sed 's/captions: .*/captions: \"a, b\"/' scene.yaml >one.yaml; '$W' run --config one.yaml --quiet --output-dir bad"
says shots-yaml-blend 2 "set schedules.prompt_interpolation to step" $R --set "schedules.prompt={0: '[global caption] a [per shot caption] b', 1: '[global caption] a [per shot caption] c'}" --set 'shots.cut_frames=[5,9]'
says shots-yaml-variation 2 "variation 1: the caption of shot 1 is empty" $R --set shots.captions='["[a|]", b, c]'
check shots-refusals-write-nothing "a refused command wrote something:" sh -c 'test ! -e x.mp4 && test ! -e bad'
