#!/bin/bash
# What a GPU can get wrong: the unit tests that know it, op tests also under compute-sanitizer (memory, races, barriers), the goldens in every
# precision, and runs that must give the same bytes twice. Prints a line a part as it ends. Called by `make test-cuda`.
#   BUILD, BIN      where the programs are
#   GOLDEN_DIRS     folders of golden outputs;  MODEL  a checkpoint folder for the runs made twice
#   SANITIZE=0      leaves compute-sanitizer out;  SANITIZE_SECONDS  limit of each tool (150)
set -u
BUILD=${BUILD:-build/cpu}
BIN=${BIN:-bin}
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
export CMOCKA_MESSAGE_OUTPUT=TAP TEST_DEVICE=cuda TEST_TMP=$TMP
passed=0 failed=0 skipped=0
begin=$SECONDS

line() {    # NAME PASSED FAILED WHY
    passed=$((passed + $2)) failed=$((failed + $3))
    printf '%3d s  %-44s %s passed, %s failed%s\n' $((SECONDS - begin)) "$1" "$2" "$3" "${4:+  $4}"
}

SANITIZER=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
tools="memcheck racecheck synccheck"
if [ "${SANITIZE:-1}" = 0 ] || [ -z "$SANITIZER" ]; then
    echo "compute-sanitizer is ${SANITIZER:+left out}${SANITIZER:-not found (it comes with the CUDA toolkit)}: its three parts are skipped"
    tools= skipped=3
fi
units= ops=          # all that know TEST_DEVICE; of these the ones for the sanitizers
for s in $(grep -l TEST_DEVICE tests/unit/test_*.c); do
    t=$BUILD/unit/$(basename "$s" .c)
    [ -x "$t" ] || continue
    units="$units $t"
    case "$s" in */test_ops*) ops="$ops $t" ;; esac
done

if [ -z "$units" ]; then
    echo "the unit tests are skipped, and the sanitizers with them: cmocka was not found (make setup)"
    tools= skipped=$((skipped + 1))
fi

# the slow ones run beside the others, one process a tool and program
for tool in $tools; do
    for t in $ops; do
        n=$tool.$(basename "$t")
        (timeout "${SANITIZE_SECONDS:-150}" "$SANITIZER" --tool "$tool" --error-exitcode 99 --launch-timeout 120 "$t" >"$TMP/$n.log" 2>&1; echo $? >"$TMP/$n.rc") &
    done
done

for t in $units; do
    timeout 300 "$t" >"$TMP/out" 2>&1
    rc=$?
    skip=$(grep -c '# SKIP' "$TMP/out")            # cmocka writes "not ok N # SKIP"
    good=$(grep '^ok ' "$TMP/out" | grep -vc '# SKIP') bad=$(grep '^not ok ' "$TMP/out" | grep -vc '# SKIP')
    skipped=$((skipped + skip))
    [ $rc -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
    [ $((good + bad)) -gt 0 ] || bad=1
    line "$(basename "$t")" "$good" "$bad" "$([ $rc -eq 0 ] || echo "status $rc")$([ "$skip" -eq 0 ] || echo "$skip skipped")"
    [ "$bad" -eq 0 ] || grep -v '^ok' "$TMP/out" | head -20
done

for precision in exact bf16 fp8; do
    for d in $GOLDEN_DIRS; do
        [ -f "$d/golden.safetensors" ] || continue
        timeout 120 "$BIN/golden-check" "$d" --device cuda --precision $precision >"$TMP/out" 2>&1
        rc=$?
        good=$(grep -c '  pass$' "$TMP/out") bad=$(grep -c '  FAIL$' "$TMP/out")
        [ $rc -eq 0 ] || [ "$bad" -gt 0 ] || bad=1
        line "golden-check $(basename "$d") $precision" "$good" "$bad"
        if [ "$bad" -gt 0 ]; then grep -A1 'FAIL$' "$TMP/out" | head -12; [ $rc -le 1 ] || tail -1 "$TMP/out"; fi
        # the errors of a rounding precision are of interest themselves: the largest of each stage, as a share of its norm
        [ $precision = exact ] || awk '/ norm / { s = $1; sub(/[.].*/, "", s); for (i = 2; i < NF; i++) if ($i == "norm" && $(i + 1) + 0 >= m[s] + 0) m[s] = $(i + 1) }
            END { for (s in m) printf "           %-20s largest error %s\n", s, m[s] }' "$TMP/out" | sort
    done
done

MODEL=${MODEL:-experiments/shapes/checkpoint}
for precision in exact bf16 fp8; do
    for i in 1 2; do
        mkdir -p "$TMP/$precision.$i"
        "$BIN/wanscope" generate --ckpt-dir $MODEL --prompt "a red circle moving left" --device cuda --precision $precision --video-size 128 128 \
            --video-length 17 --infer-steps 6 --seed 7 --output-type both --save-path "$TMP/$precision.$i/a.y4m" >"$TMP/out" 2>&1 || cat "$TMP/out"
    done
    same=0
    for f in "$TMP/$precision.1"/*; do
        [ -f "$f" ] && cmp -s "$f" "$TMP/$precision.2/$(basename "$f")" && same=$((same + 1))
    done
    if [ "$same" -ge 2 ]; then line "the same bytes twice, $precision" 1 0; else line "the same bytes twice, $precision" 0 1 "$same of 2 files are equal"; fi
    # nor may it matter whether passes are recorded as CUDA graphs, or where the weights lie
    for how in graphs swap; do
        graphs=1 more=
        [ $how = graphs ] && graphs=0 || more="--blocks-to-swap 1"
        WANSCOPE_CUDA_GRAPHS=$graphs "$BIN/wanscope" generate --ckpt-dir $MODEL --prompt "a red circle moving left" --device cuda --precision $precision --video-size 128 128 \
            --video-length 17 --infer-steps 6 --seed 7 $more --save-path "$TMP/$precision.$how.y4m" >"$TMP/out" 2>&1 || cat "$TMP/out"
        if cmp -s "$TMP/$precision.1/a.y4m" "$TMP/$precision.$how.y4m"; then line "the same bytes $([ $how = graphs ] && echo without graphs || echo with a swapped block), $precision" 1 0
        else line "the same bytes $([ $how = graphs ] && echo without graphs || echo with a swapped block), $precision" 0 1; fi
    done
done

# several shots, full and sparse, as recorded passes and op by op, and with a block in host memory
SHOTS=${SHOTS:-experiments/shapes/checkpoint/holocine}
shots() {    # NAME ARGS...
    local name=$1
    shift
    "$BIN/wanscope" generate --ckpt-dir "$SHOTS" --dit-high-noise "$SHOTS/holocine_shapes.safetensors" --dit-low-noise "$SHOTS/holocine_shapes.safetensors" \
        --global-caption "a shape on a gray background" --shot-captions "a red circle" "a blue square" "a green triangle" --video-size 128 128 \
        --video-length 33 --infer-steps 6 --seed 7 --device ${DEVICE:-cuda} --save-path "$TMP/$name.y4m" "$@" >"$TMP/out" 2>&1 || cat "$TMP/out"
}
for sparse in false true; do
    for precision in exact bf16 fp8; do
        shots shots --sparse $sparse --precision $precision
        WANSCOPE_CUDA_GRAPHS=0 shots shots.ops --sparse $sparse --precision $precision
        shots shots.swap --sparse $sparse --precision $precision --blocks-to-swap 1
        bad=0
        for how in ops swap; do cmp -s "$TMP/shots.y4m" "$TMP/shots.$how.y4m" || bad=$((bad + 1)); done
        line "three shots, sparse $sparse, $precision: the same bytes" $((2 - bad)) $bad
        rm -f "$TMP"/shots*.y4m
    done
done

# latents alone, as some of several made by one process, and in a sweep that was killed and resumed
several() {    # ARGS...
    "$BIN/wanscope" generate --ckpt-dir $MODEL --device ${DEVICE:-cuda} --video-size 128 128 --video-length 17 --infer-steps 6 --seed 7 --output-type latent "$@" >"$TMP/out" 2>&1 ||
        cat "$TMP/out"
}
several --prompt "a red circle moving left" --save-path "$TMP/red.safetensors"
several --prompt "a blue square moving up" --save-path "$TMP/blue.safetensors"
printf 'a red circle moving left\na blue square moving up\na red circle moving left\n' >"$TMP/prompts"
several --from-file "$TMP/prompts" --save-path "$TMP/three"
good=0 n=0
for f in "$TMP/three"/*.safetensors; do
    n=$((n + 1)) of=red
    [ $n -ne 2 ] || of=blue
    "$BIN/wanscope" compare "$TMP/$of.safetensors" "$f" >/dev/null 2>&1 && good=$((good + 1))
done
line "latents alone or as one of three: the same" $good $((3 - good))

if "$BIN/wanscope" plan --config configs/default.yaml --device cpu >/dev/null 2>&1; then
    fresh=("$BIN/wanscope" run --config configs/default.yaml --device ${DEVICE:-cuda} --output-dir "$TMP" --template 'a large [red|blue] (circle) moving right'
        --videos-per-variation 2 --set output.use_timestamp=false --set sampling.steps=6 --quiet --batch-name)
    "${fresh[@]}" whole >"$TMP/out" 2>&1 || cat "$TMP/out"
    "${fresh[@]}" killed >"$TMP/out" 2>&1 &
    pid=$!
    for i in $(seq 300); do grep -q '"state":"done"' "$TMP/killed/manifest.jsonl" 2>/dev/null && break; sleep 0.1; done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    "$BIN/wanscope" run --resume "$TMP/killed" --quiet >"$TMP/out" 2>&1 || cat "$TMP/out"
    good=0
    for f in "$TMP"/whole/runs/*/*/trace.h5; do
        cmp -s "$f" "$TMP/killed/${f#$TMP/whole/}" && good=$((good + 1))
    done
    line "a sweep killed and resumed: the same traces" $good $((4 - good))
else
    echo "the sweep that is killed and resumed is skipped: this build has no YAML (make setup)"
    skipped=$((skipped + 1))
fi

# each of these ends with an error when a second call gives other bytes or NaN; blocks of the real width, few tokens
for precision in exact bf16 fp8; do
    if "$BIN/wanscope" bench forward vace vae --model 1.3b --size 256x256 --frames 9 --repeat 1 --device cuda --precision $precision >"$TMP/out" 2>&1; then
        line "1.3B of random weights twice, $precision" 1 0
    else
        line "1.3B of random weights twice, $precision" 0 1 "$(tail -1 "$TMP/out")"
    fi
done

wait
for tool in $tools; do
    for t in $ops; do
        n=$tool.$(basename "$t")
        rc=$(cat "$TMP/$n.rc")
        summary=$(grep -h 'ERROR SUMMARY\|RACECHECK SUMMARY' "$TMP/$n.log" | tail -1 | sed 's/^=* *//')
        # racecheck does not know all the ways in which cuBLAS's own kernels (nvjet_*) wait for their copies; ours are held to none
        if [ "$tool" = racecheck ] && [ "$rc" -eq 99 ] && grep -q '^=* Error: Race reported .* nvjet_' "$TMP/$n.log" &&
            ! grep -E '^=* (Error|Warning):' "$TMP/$n.log" | grep -qv ' at nvjet_' && ! grep '^not ok' "$TMP/$n.log" | grep -qv '# SKIP'; then
            rc=0 summary="$summary, none in our kernels (cuBLAS: nvjet_*)"
        fi
        if [ "$rc" -eq 0 ] && [ -n "$summary" ]; then
            line "$tool $(basename "$t")" 1 0 "$summary"
        else
            [ "$rc" -ne 124 ] || summary="took more than ${SANITIZE_SECONDS:-150} s"
            line "$tool $(basename "$t")" 0 1 "status $rc; $summary"
            grep -m 12 '^=========\|^not ok' "$TMP/$n.log"
        fi
    done
done
echo "$passed passed, $failed failed, $skipped skipped in $((SECONDS - begin)) s"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
