# The shipped demos with their own weights, cut short: do their pixels show what was asked for?
. tests/e2e/lib.sh
cd "$REPO" || exit 1
run() { "$W" run --config "configs/$1.yaml" --output-dir "$TMP/out" --device cpu --quiet --set batch.limit=1 --set output.use_timestamp=false "${@:2}"; }

# colour and shape of videos, whole or block by block; measure.py needs numpy, and ffmpeg to read videos
reads() { python3 -c 'import numpy' 2>/dev/null && command -v ffmpeg >/dev/null 2>&1; }

check longlive-demo "the demo fails:" run longlive_demo --set causal.blocks=4 --set 'prompts=[{at: 0, text: a red circle moving left on a white background}, {at: 6, text: a blue square moving left on a white background}]'
if reads; then
    check longlive-demo-pixels "a block does not show what its prompt says:" sh -c "python3 experiments/shapes/measure_blocks.py '$TMP/out/longlive_demo' --jobs 1 >'$TMP/blocks' && test \$(grep -c '100%   100%  100%    100%' '$TMP/blocks') = 4"
else
    skip longlive-demo-pixels "no numpy or no ffmpeg"
fi
check vace-demo "the demo fails:" run vace_demo --steps 8
if reads; then
    check vace-demo-pixels "colour, outline or way are not what prompt and depth say:" python3 - "$TMP/out/vace_demo" <<'PY'
import glob, sys
sys.path.insert(0, "experiments/shapes")
import measure
import numpy as np
path = glob.glob(sys.argv[1] + "/runs/*/*/video.mp4")[0]
frames = measure.read_video(path).astype(np.float32)
seen = measure.describe_video(frames)
assert (seen["colour"], seen["shape"], seen["motion"]) == ("red", "star", "right"), seen
depth = np.load("experiments/shapes/vace/depth.npy")
for frame, near in zip(frames, depth):      # the object is where the depth maps have it
    coverage = measure.largest_object(frame, measure.background_colour(frames))[0][1]
    y, x = (2 * np.average(np.arange(64), weights=near.sum(axis)) + 0.5 for axis in (1, 0))
    cx, cy = measure.radial_profile(coverage)[:2]
    assert abs(cx - x) < 4 and abs(cy - y) < 4, (cx, cy, x, y)
PY
else
    skip vace-demo-pixels "no numpy or no ffmpeg"
fi

# the reference alone: colour and outline come from the picture, the caption has only the way
check vace-reference "the demo with a reference fails:" run vace_demo --batch-name reference --set vace.control= --set 'vace.references=[experiments/shapes/vace/reference.png]' \
    --set 'prompt.template=a shape moving left'
if reads; then
    check vace-reference-pixels "colour and outline are not the reference's:" python3 - "$TMP/out/reference" <<'PY'
import glob, sys
sys.path.insert(0, "experiments/shapes")
import measure
seen = measure.describe_video(measure.read_video(glob.glob(sys.argv[1] + "/runs/*/*/video.mp4")[0]))
assert (seen["colour"], seen["shape"], seen["motion"]) == ("magenta", "star", "left"), seen
PY
else
    skip vace-reference-pixels "no numpy or no ffmpeg"
fi

# the same VACE tensors on the causal demo: nobody trained them together
check vace-on-longlive "the causal demo with depth fails:" run longlive_demo --batch-name both --set causal.blocks=3 --set 'prompts=[{at: 0, text: a red (shape)}]' --set model.vace=experiments/shapes/vace/vace.safetensors \
    --set vace.control=experiments/shapes/vace/depth.npy --set vace.control_type=depth --set vace.depth_normalise=clip --set vace.control_timing=whole
if reads; then
    check vace-on-longlive-pixels "colour, outline or way are not what prompt and depth say:" python3 - "$TMP/out/both" <<'PY'
import glob, sys
sys.path.insert(0, "experiments/shapes")
import measure
seen = measure.describe_video(measure.read_video(glob.glob(sys.argv[1] + "/runs/*/*/video.mp4")[0]))
assert (seen["colour"], seen["shape"], seen["motion"]) == ("red", "star", "right"), seen
PY
else
    skip vace-on-longlive-pixels "no numpy or no ffmpeg"
fi
