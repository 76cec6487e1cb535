. tests/e2e/lib.sh

KILLS=${KILLS:-20}
config sweep.yaml '[a|b|c] (ca) [d|]'
sed -i 's/width: 48, height: 32, frames: 5/width: 64, height: 64, frames: 9/' sweep.yaml
"$W" run --config sweep.yaml --output-dir whole >/dev/null 2>whole.err || bad whole "$(tail -1 whole.err)"
digests whole/sweep >a
manifest whole/sweep >ma
began=$(date +%s%N)
"$W" run --config sweep.yaml --output-dir again >/dev/null 2>&1
took=$(( ($(date +%s%N) - began) / 1000000 ))

kills=0 most=0 starts=0
while [ $kills -lt $KILLS ]; do
    if [ -f broken/sweep/config.yaml ]; then set -- --resume broken/sweep; else set -- --config sweep.yaml --output-dir broken; fi
    starts=$((starts + 1))
    before=$(ls -d broken/sweep/runs/*/* 2>/dev/null | wc -l)
    "$W" run "$@" >/dev/null 2>>kills.err &
    pid=$!
    sleep "$(awk -v t=$took -v r=$RANDOM 'BEGIN { printf "%.3f", t / 1000 * r / 32768 }')"
    if kill -9 $pid 2>/dev/null; then kills=$((kills + 1)); fi
    wait $pid 2>/dev/null
    done_now=$(cat broken/sweep/manifest.jsonl 2>/dev/null | grep -c '"state":"done"')
    folders=$(ls -d broken/sweep/runs/*/* 2>/dev/null | wc -l)
    [ $((folders - done_now)) -gt $most ] && most=$((folders - done_now))
    if [ "$done_now" -ge 12 ]; then        # complete: begin anew until enough kills have fallen into the work
        digests broken/sweep >b
        cmp -s a b || { bad killed-and-resumed "after $kills kills a batch differs from an unbroken one: $(diff a b | head -2 | tr '\n' ' ')"; break; }
        rm -rf broken
    fi
done
if [ -f broken/sweep/config.yaml ]; then "$W" run --resume broken/sweep >/dev/null 2>last.err; else "$W" run --config sweep.yaml --output-dir broken >/dev/null 2>last.err; fi
digests broken/sweep >b
manifest broken/sweep >mb
if cmp -s a b; then ok "killed-$kills-times-resumed-same-bytes"; else bad killed-resumed-same-bytes "$(diff a b | head -3 | tr '\n' ' ') $(tail -1 last.err)"; fi
if cmp -s ma mb; then ok killed-resumed-same-manifest; else bad killed-resumed-same-manifest "$(diff ma mb | head -3 | tr '\n' ' ')"; fi
if [ $most -le 1 ]; then ok at-most-one-run-redone; else bad at-most-one-run-redone "$most run folders without a record after a kill"; fi
check no-parts "half-written files are left:" sh -c '! find broken -name "*.part" | grep .'

# an interrupt: prompt, clean, resumable
"$W" run --config sweep.yaml --output-dir int --steps 60 >/dev/null 2>int.err &
pid=$!
for i in $(seq 100); do [ -d int/sweep/runs ] && break; sleep 0.1; done
sleep 0.3
kill -INT $pid
wait $pid
rc=$?
if [ $rc -eq 130 ]; then ok interrupt-130; else bad interrupt-130 "status $rc: $(tail -1 int.err)"; fi
if grep -q "go on with: wanscope run --resume int/sweep" int.err; then ok interrupt-says-how; else bad interrupt-says-how "$(tail -1 int.err)"; fi
check interrupt-no-parts "half-written files are left:" sh -c '! find int -name "*.part" | grep .'
check interrupt-no-half-run "a half-made run is left:" sh -c 'test $(ls -d int/sweep/runs/*/* 2>/dev/null | wc -l) = $(grep -c done int/sweep/manifest.jsonl 2>/dev/null || echo 0)'

# damage is found by its digest and repaired
f=$(find broken/sweep -name video.mp4 | sort | head -1)
printf x >>"$f"
rm -f "$(find broken/sweep -name trace.h5 | sort | tail -1)"
says damage-found 0 "is made again" "$W" run --resume broken/sweep
digests broken/sweep >b
check damage-repaired "a damaged run was not repaired:" cmp a b
f=broken/sweep/manifest.jsonl
head -c $(( $(stat -c %s $f) - 40 )) $f >t && cp t $f
check torn-line "a torn last line stops the resume:" "$W" run --resume broken/sweep
digests broken/sweep >b
manifest broken/sweep >mb
check torn-line-same "after a torn line the batch differs:" cmp a b
check torn-line-manifest "after a torn line the manifest differs:" cmp ma mb

# two processes
"$W" run --config sweep.yaml --output-dir two --steps 60 >/dev/null 2>two.err &
pid=$!
for i in $(seq 100); do [ -d two/sweep/runs ] && break; sleep 0.1; done
says two-processes 2 "another" "$W" run --resume two/sweep
kill -9 $pid
wait $pid 2>/dev/null

says resume-nothing 2 "there is no such folder to resume" "$W" run --resume nowhere
mkdir -p empty
says resume-no-batch 2 "it has no config.yaml" "$W" run --resume empty
says resume-with-set 2 "--steps cannot be given with it" "$W" run --resume broken/sweep --steps 4
