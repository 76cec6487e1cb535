. tests/e2e/lib.sh

config sweep.yaml
check run "a sweep fails:" "$W" run --config sweep.yaml
check files "a run lacks a file:" sh -c 'test $(find outputs/sweep/runs -name video.mp4 -o -name trace.h5 -o -name preview.png | wc -l) = 24'
check no-parts "half-written files are left:" sh -c '! find . -name "*.part" | grep .'
check batch-files "the batch lacks a file:" test -s outputs/sweep/config.yaml -a -s outputs/sweep/template.txt -a -s outputs/sweep/manifest.jsonl
check log "no log:" test -s logs/sweep.log
check stdout-is-data "stdout is not the list of videos:" sh -c "'$W' run --config sweep.yaml --output-dir o2 2>/dev/null | xargs -n1 test -s"
digests outputs/sweep >a
digests o2/sweep >b
check same-twice "two runs of one config differ:" cmp a b
manifest outputs/sweep >ma
manifest o2/sweep >mb
check same-manifest "two manifests of one config differ:" cmp ma mb

"$W" run --config outputs/sweep/config.yaml --output-dir o3 >/dev/null 2>&1
digests o3/sweep >b
check resolved-config-same "the resolved config gives other bytes:" cmp a b
check resolved-config-fixpoint "the resolved config of the resolved config differs:" sh -c 'grep -v "^ *dir:" outputs/sweep/config.yaml >c1; grep -v "^ *dir:" o3/sweep/config.yaml >c2; cmp c1 c2'

for n in 1 2; do "$W" run --config sweep.yaml --output-dir "threads$n" --threads $n >/dev/null 2>&1; done
digests threads1/sweep >b
digests threads2/sweep >c
check threads-same "1 and 2 threads differ:" cmp b c
check threads-same-as-all "1 and all threads differ:" cmp a b

"$W" run --config sweep.yaml --output-dir plain --set capture.latents.enabled=false --set capture.attention.enabled=false >/dev/null 2>&1
(cd outputs/sweep && sha256sum runs/*/*/video.mp4) >va
(cd plain/sweep && sha256sum runs/*/*/video.mp4) >vb
check capture-changes-no-video "capture changes the video:" cmp va vb
"$W" run --config sweep.yaml --output-dir latents --set capture.attention.enabled=false >/dev/null 2>&1
t=$(cd outputs/sweep && find runs -name trace.h5 | sort | head -1)
python3 - "outputs/sweep/$t" "latents/sweep/$t" <<'PY' >h5.log 2>&1
import sys
try:
    import h5py
except ImportError:
    sys.exit(77)
a, b = (h5py.File(p) for p in sys.argv[1:])
assert (a["latents"][...] == b["latents"][...]).all()
m = a["attention/maps"]
assert m.shape[0] == 3 and m.shape[2] == 1 and m.shape[3] == 1, m.shape
PY
case $? in
0) ok capture-changes-no-latents ;;
77) "$W" run --config sweep.yaml --output-dir latents2 --set capture.attention.layers=0 >/dev/null 2>&1
    "$W" compare "outputs/sweep/$t" "latents2/sweep/$t" >cmp.log 2>&1
    if grep -q latents cmp.log && ! grep -qi "latents.*equal\|latents.*same" cmp.log; then bad capture-changes-no-latents "$(head -3 cmp.log)"; else ok capture-changes-no-latents; fi ;;
*) bad capture-changes-no-latents "$(tail -1 h5.log)" ;;
esac
check compare-same "compare finds a difference between equal traces:" "$W" compare "outputs/sweep/$t" "o2/sweep/$t"

if command -v ffprobe >/dev/null 2>&1; then
    v=$(find outputs/sweep -name video.mp4 | sort | head -1)
    got=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,r_frame_rate,nb_read_frames -of csv=p=0 "$v")
    if [ "$got" = "48,32,8/1,5" ]; then ok ffprobe-video; else bad ffprobe-video "expected 48,32,8/1,5, found $got"; fi
    check ffprobe-comment "the parameters are not in the comment:" sh -c "ffprobe -v error -show_entries format_tags=comment -of csv=p=0 $v | grep -q seed"
else
    skip ffprobe-video "no ffprobe"
fi

says exists 2 "this very batch exists; go on with it: wanscope run --resume outputs/sweep" "$W" run --config sweep.yaml
says exists-other 2 "a batch with other settings exists there" "$W" run --config sweep.yaml --steps 4
says resume-of-done 0 "8 of 8 runs done (all before)" "$W" run --resume outputs/sweep
digests outputs/sweep >b
check resume-changes-nothing "resuming a finished batch changed a file:" cmp a b
says dry-run 0 "nothing was written" "$W" run --config sweep.yaml --output-dir dry --dry-run
check dry-run-writes-nothing "--dry-run wrote something:" test ! -e dry
check dry-run-lists "--dry-run does not list the runs:" sh -c "'$W' run --config sweep.yaml --output-dir dry --dry-run 2>/dev/null | grep -c 'to do' | grep -qx 8"
check dry-run-resume "--dry-run --resume does not see the finished runs:" sh -c "'$W' run --resume outputs/sweep --dry-run 2>/dev/null | cut -f4 | sort -u | grep -qx done"
check plan "plan fails:" "$W" plan --config sweep.yaml
check plan-json "plan --json is no JSON:" sh -c "'$W' plan --config sweep.yaml --json | python3 -c 'import json,sys; d=json.load(sys.stdin); assert d[\"runs\"]==8'"
check plan-writes-nothing "plan wrote something:" test ! -e outputs/plan
check paired-seeds "seeds do not pair up:" sh -c 'for d in outputs/sweep/runs/*; do ls $d | tr "\n" " "; echo; done | sort -u | wc -l | grep -qx 1'

config weights.yaml '(ca:[1|1.5]) d'
check weights "prompt weights fail:" "$W" run --config weights.yaml --batch-name weights --videos-per-variation 1
check weights-act "a weight changes nothing:" sh -c 'set -- outputs/weights/runs/*/s7/video.mp4; ! cmp -s $1 $2'
"$W" run --config weights.yaml --batch-name none --videos-per-variation 1 --set prompt.weighting=none >/dev/null 2>&1
check weights-none "weights act although prompt.weighting is none:" python3 - <<'PY'
import glob, subprocess, sys
from hashlib import sha256
def frames(p): return subprocess.run(["ffmpeg", "-v", "error", "-i", p, "-f", "rawvideo", "-"], capture_output=True).stdout
import shutil
if shutil.which("ffmpeg"):
    a, b = (frames(p) for p in sorted(glob.glob("outputs/none/runs/*/s7/video.mp4")))
    assert a == b and a
PY
config schedule.yaml 'a'
says guidance-schedule 0 "runs done" "$W" run --config schedule.yaml --batch-name gs --set 'schedules.guidance={0: 6, 2: 1}'
says prompt-schedule 0 "runs done" "$W" run --config schedule.yaml --batch-name ps --set 'schedules.prompt={0: "a (ca)", 2: "b (ca)"}'
says prompt-schedule-word-moves 1 "does not have the same tokens" "$W" run --config schedule.yaml --batch-name pm --set 'schedules.prompt={0: "a (ca)", 2: "b b b (ca)"}'
says prompt-schedule-variations 2 "replaces the prompt of every step" "$W" run --config sweep.yaml --batch-name pv --set 'schedules.prompt={0: a, 2: b}'
"$W" run --config schedule.yaml --batch-name one --set 'schedules.prompt={0: "b (ca)"}' >/dev/null 2>&1
"$W" run --config schedule.yaml --batch-name two --template 'b (ca)' >/dev/null 2>&1
t1=$(find outputs/one -name trace.h5 | sort | head -1) t2=$(find outputs/two -name trace.h5 | sort | head -1)
"$W" compare "$t1" "$t2" >cmp.log 2>&1
if grep -q "/latents" cmp.log && grep "/latents" cmp.log | grep -qv "equal"; then bad one-keyframe-is-the-prompt "$(head -2 cmp.log)"; else ok one-keyframe-is-the-prompt; fi
says duplicates-reported 0 "have the same text" "$W" run --config sweep.yaml --batch-name dup --template '[a|a] (ca)'
says word-missing 0 "does not stand in" "$W" run --config sweep.yaml --batch-name miss --template 'a (ca)' --set 'capture.attention.words=[zebra]'
