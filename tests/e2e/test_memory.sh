# Blocks in host memory: the same bytes; memory settings and what they say. On the CPU, where blocks pass through the same code.
. tests/e2e/lib.sh

config sweep.yaml
check run "a sweep fails:" "$W" run --config sweep.yaml
digests outputs/sweep >a
for n in 1 2; do
    check "swap-$n" "a sweep with swapped blocks fails:" "$W" run --config sweep.yaml --output-dir "swap$n" --blocks-to-swap $n
    digests "swap$n/sweep" >b
    check "swap-$n-same" "$n swapped blocks change the result:" cmp a b
done
check offload "a sweep with offload all fails:" "$W" run --config sweep.yaml --output-dir off --set memory.offload=all --max-device-memory 1GiB
digests off/sweep >b
check offload-same "memory settings change the result:" cmp a b
cat outputs/sweep/manifest.jsonl | grep -o '"identity":"[^"]*"' | sort >ia
cat swap2/sweep/manifest.jsonl | grep -o '"identity":"[^"]*"' | sort >ib
check identity "swapped blocks change what a run is:" cmp ia ib
says swap-too-many 2 "memory.blocks_to_swap is 3, but $MODEL has 2 transformer blocks: use 0 to 2" "$W" run --config sweep.yaml --output-dir no --blocks-to-swap 3
check nothing-left "a refused batch leaves files:" sh -c '! test -e no/sweep/runs'
says plan-too-many 2 "use 0 to 2" "$W" plan --config sweep.yaml --blocks-to-swap 3
says swap-negative 2 "memory.blocks_to_swap" "$W" run --config sweep.yaml --blocks-to-swap=-1
says swap-text 2 "memory.blocks_to_swap" "$W" run --config sweep.yaml --blocks-to-swap many
says budget-text 2 "memory.budget" "$W" run --config sweep.yaml --max-device-memory lots
says budget-on-cpu 0 "memory.budget has no effect on the CPU" "$W" plan --config sweep.yaml --max-device-memory 1GiB
"$W" plan --config sweep.yaml --blocks-to-swap 2 --json >plan.json 2>/dev/null
check plan-json "the forecast does not name the blocks:" grep -q '"blocks_to_swap": *2' plan.json
check plan-bands "the forecast does not say in how many bands is decoded:" grep -q '"decode_bands": *1' plan.json
cp -r swap1 half
rm -rf half/sweep/runs/*/s8
check resume "a batch is not resumed with other memory settings:" "$W" run --resume half/sweep --blocks-to-swap 2
digests half/sweep >b
check resume-same "a batch resumed with swapped blocks differs:" cmp a b
check generate "generate with swapped blocks fails:" "$W" generate --ckpt-dir "$MODEL" --prompt 'a cat' --device cpu --video-size 32 48 --video-length 5 \
    --infer-steps 2 --seed 3 --blocks_to_swap 1 --save-path swapped.mp4
"$W" generate --ckpt-dir "$MODEL" --prompt 'a cat' --device cpu --video-size 32 48 --video-length 5 --infer-steps 2 --seed 3 --save-path plain.mp4 >/dev/null 2>&1
check generate-same "generate with swapped blocks gives another video:" cmp swapped.mp4 plain.mp4
