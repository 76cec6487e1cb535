# LongLive on a tiny stand-in: prompts on a timeline, kill and resume, live frames, sentences.
. tests/e2e/lib.sh

stand_in() { mkdir -p "$1"; cp -r "$MODEL/config.json" "$MODEL/google" "$MODEL"/*.pth "$1"; cp "$MODEL/diffusion_pytorch_model.safetensors" "$1/longlive_base.safetensors"; chmod -R u+w "$1"; }
stand_in ll
python3 - ll/lora.safetensors <<'PY'
import json, random, struct, sys
random.seed(1)
head, data = {"__metadata__": {"format": "pt"}}, b""
for i in range(2):
    for m, rows, cols in (("self_attn.q", 48, 48), ("ffn.0", 80, 48)):
        for side, shape in (("A", [4, cols]), ("B", [rows, 4])):
            raw = struct.pack(f"<{shape[0] * shape[1]}f", *(random.gauss(0, 0.2) for _ in range(shape[0] * shape[1])))
            head[f"base_model.model.blocks.{i}.{m}.lora_{side}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
text = json.dumps(head).encode()
text += b" " * (-len(text) % 8)
open(sys.argv[1], "wb").write(struct.pack("<Q", len(text)) + text + data)
PY

cat >ll.yaml <<YAML
model: {path: $TMP/ll, device: cpu, seed: 7}
video: {width: 32, height: 32, fps: 8}
causal: {blocks: 40, save_every: 3}
prompts:
  - {at: 0, text: "a [c=dog|cat] near a (tree)"}
  - {at: 21, text: "a [=c] in the (park) (tree)"}
capture:
  latents: {enabled: true}
  attention: {enabled: true, layers: "1"}
batch: {name: long, videos_per_variation: 1}
output: {use_timestamp: false}
YAML

check run "a causal batch fails:" "$W" run --config ll.yaml --output-dir whole --quiet
digests whole/long >a
check files "files are missing:" sh -c 'for v in 0000-dog 0001-cat; do for f in video.mp4 preview.png trace.h5; do test -s whole/long/runs/$v/s7/$f || exit 1; done; done'
check no-states-left "states are left:" sh -c '! test -e whole/long/resume'
check config-has-template "the prompts are not in the resolved template:" grep -q 'near a (tree) \[at 21\] a ' whole/long/config.yaml
check frames "not 477 frames:" sh -c 'test "$(ffprobe -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0 whole/long/runs/0000-dog/s7/video.mp4)" = 477'
"$W" run --config whole/long/config.yaml --output-dir again --quiet >/dev/null 2>&1
digests again/long >b
check resolved-config-same-bytes "the resolved config gives other bytes:" cmp a b

if command -v h5dump >/dev/null 2>&1; then
    f=whole/long/runs/0000-dog/s7/trace.h5
    check trace-shape "not 5 rows of 120 frames:" sh -c "h5dump -H -d /latents $f | grep -q '( 5, 16, 120, 4, 4 )'"
    check trace-prompts "the switch is not at block 7:" sh -c "h5dump -y -w 0 -d /block_prompts $f | tr -d ' \n' | grep -q '{0,0,0,0,0,0,0,1,1,'"
    check trace-timeline "no timeline:" sh -c "h5dump -a /timeline $f | grep -q 'a dog in the park'"
    check trace-words "not both prompts' words:" sh -c "h5dump -d /attention/words $f | grep -q '\"tree\", \"park\"'"
    check trace-solver "the solver is not few_step:" sh -c "h5dump -a /solver $f | grep -q few_step"
    # the first prompt has no 'park': its maps are zeros before the switch, not after
    check trace-absent-word "a word that the prompt lacks has a map:" sh -c "h5dump -y -w 0 -d /attention/maps -s 0,0,0,1,0,0,0 -c 1,1,1,1,21,2,2 $f | sed -n '/DATA {/,/}/p' | grep -v DATA | grep '[0-9]' >absent && ! grep -q '[1-9]' absent"
    check trace-present-word "a word has no map after the switch:" sh -c "h5dump -y -w 0 -d /attention/maps -s 0,0,0,1,21,0,0 -c 1,1,1,1,3,2,2 $f | grep -q '0\.[0-9]'"
else
    skip trace-shape "no h5dump"
fi
check analyse "the analysis cannot read the batch:" "$BIN/latent-analyze" all --batch-dir whole/long
"$W" run --config ll.yaml --output-dir noswitch --quiet --set prompt.template='a [c=dog|cat] near a (tree)' --set batch.limit=1 >/dev/null 2>&1
check switch-changes "the switch changes nothing:" sh -c '! cmp -s whole/long/runs/0000-dog/s7/video.mp4 noswitch/long/runs/0000-dog/s7/video.mp4'

# a run can be killed at any block: the same bytes
KILLS=${CAUSAL_KILLS:-12}
began=$(date +%s%N)
"$W" run --config ll.yaml --output-dir timed --quiet >/dev/null 2>&1
took=$(( ($(date +%s%N) - began) / 1000000 ))
kills=0 went_on=0 rounds=0 same=1
while [ $kills -lt "$KILLS" ]; do
    if [ -f broken/long/config.yaml ]; then set -- --resume broken/long; else set -- --config ll.yaml --output-dir broken; fi
    "$W" run "$@" >/dev/null 2>>kills.err &
    pid=$!
    sleep "$(awk -v t=$took -v r=$RANDOM 'BEGIN { printf "%.3f", 0.05 + 0.7 * t / 1000 * r / 32768 }')"
    kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null
    if [ "$(cat broken/long/manifest.jsonl 2>/dev/null | grep -c '"state":"done"')" -ge 2 ]; then
        digests broken/long >b
        cmp -s a b || same=0
        rm -rf broken
    fi
done
if [ -f broken/long/config.yaml ]; then "$W" run --resume broken/long >/dev/null 2>>kills.err; else "$W" run --config ll.yaml --output-dir broken >/dev/null 2>>kills.err; fi
digests broken/long >b
cmp -s a b || same=0
went_on=$(grep -c "goes on after block" kills.err)
if [ $same = 1 ]; then ok "killed-$kills-times-same-bytes"; else bad killed-same-bytes "$(diff a b | head -2 | tr '\n' ' ')"; fi
if [ "$went_on" -ge 1 ]; then ok went-on-from-states; else bad went-on-from-states "no resumed run used a state"; fi
check no-states-after-kills "states are left:" sh -c '! test -e broken/long/resume'

# generate: video, live frames, resume folder
gen() { "$W" generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --fps 8 "$@"; }
check generate "generate fails:" gen --prompt 'a dog [at 6] a cat' --blocks 6 --save-path g.mp4 --quiet
check generate-frames "not 69 frames:" sh -c 'test "$(ffprobe -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0 g.mp4)" = 69'
gen --prompt 'a dog [at 6] a cat' --blocks 6 --stdout y4m --save-path g.y4m --quiet >pipe.y4m 2>pipe.err
check stdout-same-as-file "the pipe differs from the file:" cmp pipe.y4m g.y4m
gen --prompt 'a dog [at 6] a cat' --blocks 6 --stdout y4m --quiet 2>/dev/null | head -c 2000 >short.y4m
check stdout-begins "a reader that leaves early gets nothing:" sh -c 'cmp -n 2000 short.y4m pipe.y4m'
{ gen --prompt 'a dog' --blocks 40 --stdout y4m --quiet 2>gone.err; echo $? >gone.rc; } | head -c 100 >/dev/null
check stdout-gone "a reader that leaves is not said:" sh -c 'test "$(cat gone.rc)" = 2 && grep -q "standard output: frame .* cannot be written: Broken pipe" gone.err'
mkdir -p keep && echo mine >keep/mine.txt
for t in 0.2 0.3 0.4; do
    timeout -s KILL $t "$W" generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --fps 8 --prompt 'a dog [at 6] a cat' --blocks 40 --save-path r.mp4 \
        --resume-dir keep --quiet >/dev/null 2>&1
done
check resume-dir-no-half-video "a killed run left a video under its final name:" sh -c '! test -e r.mp4'
check resume-dir "generate with a resume folder fails:" gen --prompt 'a dog [at 6] a cat' --blocks 40 --save-path r.mp4 --resume-dir keep --quiet
gen --prompt 'a dog [at 6] a cat' --blocks 40 --save-path r2.mp4 --quiet >/dev/null 2>&1
check resume-dir-same-bytes "the resumed video differs:" cmp r.mp4 r2.mp4
check resume-dir-keeps-mine "a user's file in the resume folder is gone, or states are left:" sh -c 'test "$(ls keep)" = mine.txt'
check prefix "10 blocks are not the beginning of 12:" sh -c "
    '$W' generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --prompt 'a dog' --blocks 3 --save-path p3.y4m --quiet &&
    '$W' generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --prompt 'a dog' --blocks 5 --save-path p5.y4m --quiet &&
    cmp -n \$(stat -c %s p3.y4m) p3.y4m p5.y4m"

# the adapter counts
check lora-none "a run without the adapter fails:" "$W" run --config ll.yaml --output-dir base --quiet --set causal.lora=none --set batch.limit=1 --set causal.blocks=8
"$W" run --config ll.yaml --output-dir with --quiet --set batch.limit=1 --set causal.blocks=8 >/dev/null 2>&1
check lora-counts "the adapter changes nothing:" sh -c '! cmp -s base/long/runs/0000-dog/s7/video.mp4 with/long/runs/0000-dog/s7/video.mp4'
check lora-in-metadata "the adapter's digest is not in the video:" sh -c "ffprobe -v error -show_entries format_tags=comment -of default=nw=1:nk=1 with/long/runs/0000-dog/s7/video.mp4 | grep -q '\"adapter\":\"[0-9a-f]'"

# further adapters come on top of LongLive's own
st style.safetensors "blocks.0.self_attn.q.lora_A.weight 2 48" "blocks.0.self_attn.q.lora_B.weight 48 2"
check lora-style "an adapter on LongLive fails:" gen --prompt 'a dog' --blocks 3 --save-path style.y4m --quiet --lora-weight style.safetensors --lora-multiplier 400
gen --prompt 'a dog' --blocks 3 --save-path plain.y4m --quiet >/dev/null 2>&1
check lora-style-acts "an adapter on LongLive changes nothing:" sh -c '! cmp -s style.y4m plain.y4m'
check lora-style-in-metadata "both adapters are not in the video:" sh -c "'$W' generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --prompt 'a dog' --blocks 3 --save-path style.mp4 \
    --quiet --lora-weight style.safetensors && ffprobe -v error -show_entries format_tags=comment -of default=nw=1:nk=1 style.mp4 | grep '\"adapter\":\"[0-9a-f]' | grep -q '\"lora\":\['"

# repeating a video
check from-video "--from-video of a causal video fails:" "$W" generate --ckpt-dir ll --device cpu --from-video g.mp4 --save-path g2.mp4 --quiet
check from-video-same "the repeated video is another:" cmp g.mp4 g2.mp4
check from-video-settings "generate with other settings fails:" gen --prompt 'a dog' --blocks 4 --save-path h.mp4 --quiet --from-video g.mp4 --steps 2 --lora-alpha 2
check from-video-settings-again "--from-video of it fails:" "$W" generate --ckpt-dir ll --device cpu --from-video h.mp4 --save-path h2.mp4 --quiet
check from-video-settings-same "the repeated video is another:" cmp h.mp4 h2.mp4

# VACE on a causal model: conditions block by block
vace_module vace.safetensors
"$W" generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 3 --prompt 'a tree' --blocks 1 --output-type images --save-path img --quiet >/dev/null 2>&1
cp "$(find img -name frame_000.png | head -1)" a.png
cp "$(find img -name frame_008.png | head -1)" b.png
gen --prompt 'a cat' --blocks 5 --save-path control.mp4 --quiet >/dev/null 2>&1
gen --prompt 'a dog [at 3] a cat' --blocks 4 --save-path without.y4m --quiet >/dev/null 2>&1
V="$W generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --fps 8 --quiet --vace vace.safetensors"
check vace-reference "a reference on LongLive fails:" $V --prompt 'a dog [at 3] a cat' --blocks 4 --ref-image a.png b.png --save-path reference.y4m
check vace-reference-acts "a reference changes nothing:" sh -c '! cmp -s without.y4m reference.y4m'
$V --prompt 'a dog [at 3] a cat' --blocks 4 --ref-image a.png b.png --save-path reference2.y4m >/dev/null 2>&1
check vace-reference-same "two runs differ:" cmp reference.y4m reference2.y4m
$V --prompt 'a dog [at 3] a cat' --blocks 4 --ref-image b.png --save-path other.y4m >/dev/null 2>&1
check vace-reference-counts "another reference gives the same video:" sh -c '! cmp -s other.y4m reference.y4m'
check vace-zero "--vace-scale 0 on LongLive fails:" $V --prompt 'a dog [at 3] a cat' --blocks 4 --ref-image a.png --control-video control.mp4 --vace-scale 0 --save-path zero.y4m
check vace-zero-same "scale 0 is not the video without:" cmp without.y4m zero.y4m
check vace-control "a control video on LongLive fails:" $V --prompt 'a dog [at 3] a cat' --blocks 4 --control-video control.mp4 --save-path steered.y4m
check vace-control-acts "a control video changes nothing:" sh -c '! cmp -s without.y4m steered.y4m'
check vace-depth "depth with references and a mask fails:" $V --prompt 'a dog' --blocks 4 --ref-image a.png --control-video control.mp4 --control-type depth --depth-normalise clip --mask-video a.png --save-path depth.y4m
# a block sees the conditions of its own frames: a longer clip begins like the shorter one
$V --prompt 'a dog [at 3] a cat' --blocks 5 --control-video control.mp4 --save-path steered5.y4m >/dev/null 2>&1
check vace-prefix "4 blocks are not the beginning of 5:" sh -c 'cmp -n $(stat -c %s steered.y4m) steered.y4m steered5.y4m'
check vace-run "a batch with references fails:" "$W" run --config ll.yaml --output-dir vaced --quiet --set batch.limit=1 --set causal.blocks=8 --set model.vace="$TMP/vace.safetensors" \
    --set "vace.references=[$TMP/a.png]" --set 'vace.scale_by_step={0: 1, 3: 0.5}'
if command -v h5dump >/dev/null 2>&1; then
    check vace-trace "references take latent frames, which they do not in causal runs:" sh -c "h5dump -H vaced/long/runs/0000-dog/s7/trace.h5 | grep -q '( 5, 16, 24, 4, 4 )' && ! h5dump -H vaced/long/runs/0000-dog/s7/trace.h5 | grep -q reference_frames"
else
    skip vace-trace "no h5dump"
fi
for t in 0.3 0.5; do
    timeout -s KILL $t $V --prompt 'a dog [at 3] a cat' --blocks 40 --ref-image a.png --save-path vr.mp4 --resume-dir vkeep >/dev/null 2>&1
done
check vace-resume "resuming with references fails:" $V --prompt 'a dog [at 3] a cat' --blocks 40 --ref-image a.png --save-path vr.mp4 --resume-dir vkeep
$V --prompt 'a dog [at 3] a cat' --blocks 40 --ref-image a.png --save-path vr2.mp4 >/dev/null 2>&1
check vace-resume-same "the resumed video differs:" cmp vr.mp4 vr2.mp4
# a control video and a mask are encoded as their blocks are made: a run killed behind a state encodes them again up to there, to the same bytes;
# depth that is smoothed over time waits in memory, the others in their files
killed() {
    local name=$1 pid
    shift
    set -- --config ll.yaml --set model.vace="$TMP/vace.safetensors" --set vace.control="$TMP/r2.mp4" --set vace.mask="$TMP/g.mp4" --set vace.control_timing=whole --set causal.save_every=2 "$@"
    check "vace-$name-batch" "a batch with a control video and a mask fails:" "$W" run "$@" --output-dir "$name-whole" --quiet
    "$W" run "$@" --output-dir "$name-killed" >/dev/null 2>&1 &
    pid=$!
    for i in $(seq 1000); do ls "$name-killed"/long/resume/*/state.safetensors >/dev/null 2>&1 && break; sleep 0.02; done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    says "vace-$name-went-on" 0 "goes on after block" "$W" run --resume "$name-killed/long"
    digests "$name-whole/long" >sa
    digests "$name-killed/long" >sb
    check "vace-$name-killed-same" "the run that was killed differs:" cmp sa sb
}
killed video
killed depth --set vace.control_type=depth --set vace.depth_normalise=clip --set vace.depth_smooth=5
# what a block would find out is found out before the first
"$W" generate --ckpt-dir ll --device cpu --width 32 --height 32 --seed 7 --prompt 'a dog' --blocks 5 --save-path whole.y4m --quiet >/dev/null 2>&1
head -c $(( $(stat -c %s whole.y4m) * 7 / 8 )) whole.y4m >cut.y4m
says vace-cut 2 "cut.y4m" $V --prompt 'a dog' --blocks 5 --control-video cut.y4m --save-path never.y4m
says vace-cut-mask 2 "cut.y4m" $V --prompt 'a dog' --blocks 5 --control-video whole.y4m --mask-video cut.y4m --save-path never.y4m
check vace-cut-writes-nothing "a video was begun:" sh -c '! ls never.y4m*'
says vace-many 2 "a block has 3 latent frames and a reference takes the place of one" $V --prompt 'a dog' --blocks 3 --ref-image a.png b.png a.png b.png --save-path never.y4m
says vace-short 2 "has 57 frames, but video.frames is 69" $V --prompt 'a dog' --blocks 6 --control-video control.mp4 --save-path never.y4m

stand_in alone
check inspect-lora "inspect does not name the adapter:" sh -c "'$W' inspect ll | grep -q 'adapter: .*lora.safetensors' && '$W' inspect alone | grep -q 'adapter: lora.pt not found'"
says lora-missing 0 "no lora.pt beside" "$W" run --config ll.yaml --output-dir alone-out --model alone --set batch.limit=1 --set causal.blocks=8

# bad input
bad_set() { says "$1" 2 "$2" "$W" run --config ll.yaml --output-dir never --set "$3"; }
bad_set bad-blocks "expected a whole number from 1 to 25000" causal.blocks=0
bad_set bad-frames "no multiple of causal.frames_per_block 3: the nearest lengths are 69 and 81 video frames" video.frames=73
bad_set bad-window "causal.window is 4 latent frames, but a sink of 3 and a block of 3 need at least 6" causal.window=4
bad_set bad-sink "the sink must fit in the first block" causal.sink=4
bad_set bad-per-block "expected a whole number from 1 to 1024" causal.frames_per_block=0
bad_set bad-length "the model's rotary table ends after 1024: make at most 4089 video frames, or set causal.hard_cut" causal.blocks=400
bad_set bad-timesteps "entry 1 is 'x', expected a whole number from 1 to 1000" causal.timesteps=1000,x
bad_set rising-timesteps "the entries must fall" causal.timesteps=500,1000
says bad-steps 2 "causal.timesteps has 2 entries" "$W" run --config ll.yaml --output-dir never --steps 4 --set causal.timesteps=1000,500
bad_set bad-guidance "LongLive takes no guidance" sampling.guidance_scale=5
says bad-shots 2 "shots.cut_frames is set, but the model is LongLive: it knows no shots" gen --global-caption a --shot-captions dog cat --video-length 69 --save-path t.mp4
bad_set bad-slg "sampling.slg_layers is set, but the model is LongLive" sampling.slg_layers=1
bad_set bad-cfg-skip "sampling.cfg_skip_mode is set, but the model is LongLive" sampling.cfg_skip_mode=late
bad_set bad-latents "sampling.latent_dtype is set, but the model is LongLive" sampling.latent_dtype=bf16
bad_set bad-references "has no VACE weights: set model.vace" "vace.references=[$TMP/a.png]"
bad_set bad-vace "style.safetensors" model.vace=style.safetensors
says bad-preview 2 "looks at a video that is denoised as a whole" gen --prompt x --save-path t.mp4 --preview 1
says bad-from-file 2 "--from-file makes several videos, and --stdout is for one" gen --from-file ll.yaml --save-path many --stdout y4m
bad_set bad-schedule "LongLive makes a block in a few unguided steps" 'schedules.guidance={0: 5}'
bad_set bad-lora "nowhere.pt: cannot open the file" causal.lora=nowhere.pt
bad_set not-a-lora "this is no adapter: no tensor is named lora_A" causal.lora="$TMP/ll/longlive_base.safetensors"
bad_set late-switch "begins at latent frame 300, but the video has 120 latent frames" 'prompts=[{at: 0, text: a dog}, {at: 300, text: a cat}]'
bad_set falling-switch "expected one after 9" 'prompts=[{at: 0, text: a}, {at: 9, text: b}, {at: 9, text: c}]'
bad_set first-switch "the first prompt begins at latent frame 3, expected 0" 'prompts=[{at: 3, text: a}]'
bad_set no-text "without 'text'" 'prompts=[{at: 0}]'
bad_set unknown-in-list "unknown key 'txt'" 'prompts=[{at: 0, txt: a}]'
bad_set empty-part "the prompt from latent frame 9 on is empty" 'prompt.template=a dog [at 9]'
bad_set falling-marks "must rise from 0" 'prompt.template=a dog [at 9] a cat [at 6] a tree'
bad_set mark-across "goes beyond its prompt" 'prompt.template=a (dog [at 9] a cat) near'
says both-prompts 2 "prompts and prompt.template are both given" "$W" run --config <(sed 's/^prompts:/prompt: {template: "a dog"}\nprompts:/' ll.yaml) --output-dir never
says not-causal 2 "only a causal model (LongLive) can follow" "$W" run --config ll.yaml --output-dir never --model "$MODEL"
says wrong-family 2 "model.family is longlive" "$W" run --config ll.yaml --output-dir never --model "$MODEL" --set model.family=longlive --set prompt.template='a dog'
says stdout-not-causal 2 "--stdout belongs to models that make video block by block" "$W" generate --ckpt-dir "$MODEL" --prompt x --stdout y4m
says stdout-format 2 "y4m is what can be written there" gen --prompt x --stdout avi
says wrong-task 2 "the files hold a bidirectional model" "$W" generate --ckpt-dir "$MODEL" --prompt x --save-path t.mp4 --task longlive-1.3B
says resume-file 2 "a file of that name is in the way" gen --prompt x --save-path t.mp4 --resume-dir keep/mine.txt
check bad-input-writes-nothing "bad input left a batch:" test ! -e never

# a state that is not the run's, or damaged: said, and the run begins anew with the same bytes
"$W" run --config ll.yaml --output-dir hurt --set batch.limit=1 --quiet >/dev/null 2>&1 &
pid=$!
for i in $(seq 200); do ls hurt/long/resume/*/state.safetensors >/dev/null 2>&1 && break; sleep 0.02; done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
state=$(ls hurt/long/resume/*/state.safetensors 2>/dev/null | head -1)
if [ -n "$state" ]; then
    printf 'x' | dd of="$state" bs=1 seek=$(( $(stat -c %s "$state") - 9 )) conv=notrunc 2>/dev/null
    says damaged-state 0 "the state of the clip is damaged" "$W" run --resume hurt/long
    check damaged-state-same-bytes "the run after a damaged state differs:" cmp hurt/long/runs/0000-dog/s7/trace.h5 whole/long/runs/0000-dog/s7/trace.h5
else
    bad damaged-state "no state was saved in time"
fi
