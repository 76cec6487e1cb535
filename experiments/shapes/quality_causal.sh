#!/bin/sh
# The causal demo, measured: 8 pairs of captions x 2 seeds (42, 43), 24 blocks each with the change at block 12, on the CPU.
# Makes batches in outputs/causal-quality and prints docs/shapes.md's table. The captions are those of train_causal.py.
set -e
W=${W:-bin/wanscope} out=${OUT:-outputs/causal-quality} n=0
while IFS='|' read -r first then; do
    n=$((n + 1))
    "$W" run --config configs/longlive_demo.yaml --output-dir "$out" --batch-name "pair$n" --device cpu --quiet --videos-per-variation 2 \
        --set "prompts=[{at: 0, text: $first}, {at: 36, text: $then}]" --set output.use_timestamp=false \
        --set capture.latents.enabled=false --set capture.attention.enabled=false
done <<'PAIRS'
a red circle moving left on a white background|a blue square moving left on a white background
a large green star standing still on a black background|a yellow triangle moving up on a black background
a medium cyan square spinning on a gray background|a magenta circle moving down on a gray background
a yellow triangle moving right on a black background|a large red star spinning on a black background
a blue square growing on a white background|a green star growing on a white background
a magenta star moving up on a gray background|a cyan triangle moving up on a gray background
a small red square moving down on a black background|a large blue circle standing still on a black background
a green circle standing still on a gray background|a red star moving right on a gray background
PAIRS
python3 experiments/shapes/measure_blocks.py "$out"/pair*
