#!/bin/sh
# The quality of the shipped checkpoint, measured on videos that wanscope itself makes: every single-shape caption of
# captions.txt with four seeds, read by measure.py from pixels alone. From the repository's root; can be interrupted and repeated.
#   experiments/shapes/quality.sh [OUTPUT_DIR]          needs python3 with numpy
set -eu
out=${1:-outputs}
bin=${BIN:-bin}
here=experiments/shapes
template=$out/shapes-quality.template
mkdir -p "$out"
{ printf '['; tr '\n' '|' < "$here/captions.txt" | sed 's/|$//'; printf ']'; } > "$template"
if [ -f "$out/shapes-quality/config.yaml" ]; then
    "$bin/wanscope" run --resume "$out/shapes-quality" --quiet
else
    "$bin/wanscope" run --config configs/default.yaml --template "@$template" --output-dir "$out" --batch-name shapes-quality --videos-per-variation 4 \
        --set capture.latents.enabled=false --set capture.attention.enabled=false --set output.use_timestamp=false --set output.preview=false --quiet
fi >/dev/null
python3 "$here/measure.py" "$out/shapes-quality" --json "$out/shapes-quality/quality.json"
