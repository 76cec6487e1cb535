#!/bin/sh
# The demo of the README: a template sweep with the shipped checkpoint, its analysis, and maps of one word.
# Run again it only makes what is missing: finished runs are kept.
set -eu
BIN=${BIN:-bin}
OUT=${DEMO_OUT:-outputs}
batch=$OUT/demo
start=$(date +%s)
if [ -f "$batch/config.yaml" ]; then
    "$BIN/wanscope" run --resume "$batch"
else
    "$BIN/wanscope" run --config configs/default.yaml --output-dir "$OUT" --batch-name demo --set output.use_timestamp=false
fi
"$BIN/latent-analyze" all --batch-dir "$batch"
"$BIN/attention-export" --batch-dir "$batch" --word "${DEMO_WORD:-circle}" --format png
"$BIN/attention-export" --batch-dir "$batch" --word "${DEMO_WORD:-circle}" --format mp4 --overlay
echo
echo "done in $(($(date +%s) - start)) s. Look at:"
echo "  $batch/runs/*/*/video.mp4 and preview.png      the videos"
echo "  $batch/runs/*/*/trace.h5                       latents and attention maps, for h5py"
echo "  $batch/analysis/                               tables and plots"
