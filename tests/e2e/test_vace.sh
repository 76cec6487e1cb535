# VACE on the command line: references, control videos, depth and masks on a tiny stand-in.
. tests/e2e/lib.sh
vace_module vace.safetensors
if ! "$W" generate --ckpt-dir "$MODEL" --prompt ca --device cpu --video-size 32 48 --video-length 5 --infer-steps 1 --seed 1 --output-type images --save-path img >/dev/null 2>&1; then
    bad vace-images "no images to work with"
    exit 0
fi
frames=$(echo img/*/frame)
cp "$frames/frame_000.png" a.png
cp "$frames/frame_004.png" b.png
SMALL="--device cpu --video-size 32 48 --infer-steps 2 --seed 3 --no-metadata --shift 5"
"$W" generate --ckpt-dir "$MODEL" --prompt ca $SMALL --video-length 9 --save-path nine.mp4 >/dev/null 2>&1
"$W" generate --ckpt-dir "$MODEL" --prompt ba --device cpu --video-size 48 48 --infer-steps 2 --seed 5 --video-length 5 --save-path square.mp4 >/dev/null 2>&1
G="$W generate --ckpt-dir $MODEL --prompt ca $SMALL --video-length 5"
V="$G --vace vace.safetensors"
check vace-plain "generate fails:" $G --save-path plain.mp4
check vace-r2v "--ref-image fails:" $V --save-path r2v.mp4 --ref-image a.png b.png
check vace-r2v-acts "references change nothing:" sh -c '! cmp -s plain.mp4 r2v.mp4'
check vace-r2v-again "the same references fail:" $V --save-path r2v2.mp4 --ref_image a.png --ref_image b.png
check vace-same "two runs differ:" cmp r2v.mp4 r2v2.mp4
check vace-zero "--vace-scale 0 fails:" $V --save-path zero.mp4 --ref-image a.png b.png --control-video nine.mp4 --vace-scale 0
check vace-zero-same "scale 0 is not the video without:" cmp plain.mp4 zero.mp4
says vace-unused 0 "the videos are those without VACE" $V --save-path unused.mp4
check vace-unused-same "VACE weights alone change the video:" cmp plain.mp4 unused.mp4
check vace-control "--control-video fails:" $V --save-path control.mp4 --control-video nine.mp4
check vace-control-acts "a control video changes nothing:" sh -c '! cmp -s plain.mp4 control.mp4'
check vace-whole "--control-timing whole fails:" $V --save-path whole.mp4 --control-video nine.mp4 --control-timing whole
check vace-whole-acts "the control video's timing changes nothing:" sh -c '! cmp -s control.mp4 whole.mp4'
check vace-whole-short "a short control video cannot be spread:" $W generate --ckpt-dir $MODEL --prompt ca $SMALL --video-length 9 --vace vace.safetensors --save-path spread.mp4 --control-video square.mp4 --mask-video square.mp4 --control-timing whole
check vace-depth "--control-type depth fails:" $V --save-path depth.mp4 --control-video nine.mp4 --control-type depth --depth-normalise frame --depth-smooth 3
check vace-depth-inverted "--depth-invert fails:" $V --save-path inverted.mp4 --control-video nine.mp4 --control-type depth --depth-normalise frame --depth-smooth 3 --depth-invert
check vace-depth-differs "inverting depth changes nothing:" sh -c '! cmp -s depth.mp4 inverted.mp4'
check vace-edges "--control-type edges fails:" $V --save-path edges.mp4 --control-video nine.mp4 --control-type edges
check vace-mask "--mask-video with an image fails:" $V --save-path mask.mp4 --control-video nine.mp4 --mask-video a.png
check vace-mask-video "--mask-video with a video and references fails:" $V --save-path both.mp4 --control-video square.mp4 --mask-video nine.mp4 --ref-image a.png
if command -v ffprobe >/dev/null 2>&1; then
    got=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,nb_read_frames -of csv=p=0 r2v.mp4)
    if [ "$got" = "48,32,5" ]; then ok vace-frames; else bad vace-frames "frames of references are decoded: expected 48,32,5, found $got"; fi
else
    skip vace-frames "no ffprobe"
fi
if command -v ffmpeg >/dev/null 2>&1 && ffmpeg -v error -i a.png -q:v 2 a.jpg 2>/dev/null; then
    check vace-jpeg "a JPEG as a reference fails:" $V --save-path jpeg.mp4 --ref-image a.jpg
else
    skip vace-jpeg "no ffmpeg that writes JPEG"
fi

# numbers as depth
st depth.safetensors "depth 5 16 24"
check vace-numbers "depth from a file of numbers fails:" $V --save-path numbers.mp4 --control-video depth.safetensors --control-type depth
st short.safetensors "depth 4 16 24"
says vace-numbers-short 2 "the depth has 4 frames, but video.frames is 5" $V --save-path x.mp4 --control-video short.safetensors --control-type depth
st flat.safetensors "depth 16 24"
says vace-numbers-flat 2 "are [16, 24], expected [frames, height, width]" $V --save-path x.mp4 --control-video flat.safetensors --control-type depth
says vace-numbers-video 2 "set vace.control_type to depth" $V --save-path x.mp4 --control-video depth.safetensors
st nan.safetensors "depth 5 16 24"
head -c "$(($(stat -c %s nan.safetensors) - 7680))" nan.safetensors >nan2.safetensors
head -c 7680 /dev/zero | tr '\000' '\377' >>nan2.safetensors
says vace-numbers-nan 2 "NaN or infinity in frame 0" $V --save-path x.mp4 --control-video nan2.safetensors --control-type depth
printf 'no array' >bad.npy
says vace-npy 2 "no .npy file" $V --save-path x.mp4 --control-video bad.npy --control-type depth

says vace-missing 2 "nothing.png: there is no such file (vace.references)" $V --save-path x.mp4 --ref-image nothing.png
says vace-missing-control 2 "there is no such file (vace.control)" $V --save-path x.mp4 --control-video nothing.mp4
says vace-five 2 "names 5 images, at most 4" $V --save-path x.mp4 --ref-image a.png a.png a.png a.png a.png
says vace-no-weights 2 "has no VACE weights: set model.vace" $G --save-path x.mp4 --ref-image a.png
says vace-base 2 "plain base model, which belongs into model.path" $G --save-path x.mp4 --ref-image a.png --vace "$MODEL"
says vace-short 2 "has 5 frames, but video.frames is 9" $W generate --ckpt-dir $MODEL --prompt ca $SMALL --video-length 9 --vace vace.safetensors --save-path x.mp4 --control-video square.mp4
says vace-picture 2 "this is one picture" $V --save-path x.mp4 --control-video a.png
says vace-damaged 2 "bad.npy" $V --save-path x.mp4 --mask-video bad.npy
says vace-number-reference 2 "a reference is an image" $V --save-path x.mp4 --ref-image depth.safetensors
says vace-scale 2 "vace.scale" $V --save-path x.mp4 --ref-image a.png --vace-scale much
says vace-shots 2 "shots.cut_frames and section vace exclude each other" "$W" generate --ckpt-dir "$MODEL" $SMALL --global-caption ca --shot-captions ba ca --video-length 21 --vace vace.safetensors --save-path x.mp4 --ref-image a.png
check vace-slg "references with skip-layer guidance fail:" $V --save-path slg.mp4 --ref-image a.png b.png --slg-layers 0 --slg-end 1
check vace-slg-acts "skip-layer guidance beside references changes nothing:" sh -c '! cmp -s r2v.mp4 slg.mp4'
if command -v ffprobe >/dev/null 2>&1; then
    A="$W generate --ckpt-dir $MODEL --device cpu --vace vace.safetensors"
    check vace-recorded "generate with its parameters fails:" $A --prompt ca --video-size 32 48 --video-length 5 --infer-steps 2 --seed 3 --ref-image a.png b.png \
        --control-video nine.mp4 --control-type depth --control-timing whole --depth-normalise frame --depth-smooth 3 --depth-invert --vace-scale 0.5 --save-path first.mp4
    check vace-from-video "--from-video with conditions fails:" $A --from-video first.mp4 --save-path second.mp4
    check vace-from-video-same "the repeated video is another:" cmp first.mp4 second.mp4
    cp a.png kept.png
    cp b.png a.png
    says vace-from-video-changed 0 "references, control video or mask are not what made first.mp4" $A --from-video first.mp4 --save-path third.mp4
    cp kept.png a.png
else
    skip vace-from-video "no ffprobe"
fi
says vace-scale-large 0 "beyond the usual 0 to 2" $V --save-path large.mp4 --ref-image a.png --vace-scale 3

# in a batch: shipped configs, scales by step and block, identity, trace
config sweep.yaml ca
sed -i -e "s|model: {|model: {vace: vace.safetensors, |" -e 's/videos_per_variation: 2/videos_per_variation: 1/' sweep.yaml
echo 'vace: {references: [a.png], scale: 0.5, scale_by_step: {0: 1, 2: 0.5}, scale_by_block: [1, 0.5]}' >>sweep.yaml
check vace-batch "a batch with references fails:" "$W" run --config sweep.yaml --quiet
check vace-batch-done "finished runs are made again:" sh -c "'$W' run --resume outputs/sweep 2>&1 | grep -q '(all before)'"
if command -v h5dump >/dev/null 2>&1; then
    check vace-trace "the trace does not hold the reference's frame:" sh -c 'h5dump -H -d /latents outputs/sweep/runs/*/s7/trace.h5 | grep -q "( 4, 16, 3, 4, 6 )" && h5dump -a /reference_frames outputs/sweep/runs/*/s7/trace.h5 | grep -q 1 && h5dump -a /checkpoints outputs/sweep/runs/*/s7/trace.h5 | grep -q conditions'
else
    skip vace-trace "no h5dump"
fi
cp b.png a.png
says vace-batch-changed 0 "is made again" "$W" run --resume outputs/sweep
check vace-plan "plan fails:" "$W" plan --config sweep.yaml
says vace-blocks 2 "has 3 factors, but the model has 2 VACE blocks" "$W" run --config sweep.yaml --batch-name z --set 'vace.scale_by_block=[1, 1, 1]'
says vace-steps 2 "names step 7, but there are 3 steps" "$W" run --config sweep.yaml --batch-name z --set 'vace.scale_by_step={0: 1, 7: 0}'
says vace-many 2 "at most 4 are possible" "$W" run --config sweep.yaml --batch-name z --set 'vace.references=[a.png, a.png, a.png, a.png, a.png]'
check vace-refusals-leave-nothing "a refused batch left a folder:" test ! -e outputs/z
check vace-refusals-write-nothing "a refused command wrote a file:" test ! -e x.mp4
