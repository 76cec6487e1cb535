#!/bin/sh
# References and depth, measured: 6 colours x 4 shapes, seed 42, on the CPU.  From the repository's root:
#   experiments/shapes/quality_vace.sh [said|unsaid|both|depth]      needs python3 with torch and numpy, and ffmpeg
# said    a reference alone, the caption names its background (the default): "a shape moving left on a white background"
# unsaid  a reference alone, the caption does not: "a shape moving left"
# both    colour by a reference, outline and way by depth maps of the next shape: "a shape"
# depth   depth maps alone: "a COLOUR shape"
# Makes batches in outputs/vace-quality/KIND ($OUT) and prints how often the video has the colour, shape and motion asked for and, with
# depth, how far its centre is from the maps'.  CAPTION, GUIDANCE (4) and VACE (the file) replace these.
set -e
W=${W:-bin/wanscope} kind=${1:-said}
out=${OUT:-outputs/vace-quality/$kind} reference= control=
case $kind in
said) caption="a shape moving left on a white background" reference=1 ;;
unsaid) caption="a shape moving left" reference=1 ;;
both) caption="a shape" reference=1 control=1 ;;
depth) caption= control=1 ;;                          # by colour, below
*) echo "unknown kind $kind" >&2; exit 2 ;;
esac

# $out/COLOUR-SHAPE/reference.png, depth.npy and what the video shall show; with depth the four ways take turns
mkdir -p "$out"
python3 - "$out" "$kind" >"$out/list" <<'PY'
import os
import sys
sys.path.insert(0, "experiments/shapes")
import conditions
import numpy as np
out, kind = sys.argv[1:]
shapes, ways = ("circle", "square", "triangle", "star"), ("left", "right", "up", "down")
for i, colour in enumerate(("red", "yellow", "green", "cyan", "blue", "magenta")):
    for k, shape in enumerate(shapes):
        folder = os.path.join(out, f"{colour}-{shape}")
        os.makedirs(folder, exist_ok=True)
        outline, way = shapes[(k + (kind == "both")) % 4], ways[(i + k) % 4] if kind in ("both", "depth") else "left"
        conditions.write_png(os.path.join(folder, "reference.png"), conditions.picture(colour, shape))
        np.save(os.path.join(folder, "depth.npy"), conditions.depth_maps(outline, way, 4)[0])
        print(folder, colour, outline, way)
PY
while read -r folder colour outline way; do
    [ "$kind" != depth ] || caption="a $colour shape"
    "$W" run --config configs/vace_demo.yaml --output-dir "$folder" --batch-name video --device cpu --quiet --set output.use_timestamp=false \
        --set "model.vace=${VACE:-experiments/shapes/vace/vace.safetensors}" --set "vace.control=${control:+$folder/depth.npy}" \
        --set "vace.references=[${reference:+$folder/reference.png}]" --set capture.latents.enabled=false \
        --set "prompt.template=${CAPTION-$caption}" --set "sampling.guidance_scale=${GUIDANCE:-4}" </dev/null >/dev/null
done <"$out/list"
python3 - "$out/list" "$control" <<'PY'
import glob
import sys
sys.path.insert(0, "experiments/shapes")
import measure
import numpy as np
rows, far = [], []
for folder, *asked in (line.split() for line in open(sys.argv[1])):
    frames = measure.read_video(glob.glob(folder + "/video/runs/*/*/video.mp4")[0])
    seen = measure.describe_video(frames)
    rows.append([seen[k] == word for k, word in zip(("colour", "shape", "motion"), asked)])
    off = []
    for frame, near in zip(frames.astype(np.float32), np.load(folder + "/depth.npy")) if sys.argv[2] else ():
        found = measure.largest_object(frame, measure.background_colour(frame[None]))[0]
        if found is not None:
            x, y = (2 * np.average(np.arange(64), weights=near.sum(axis)) + 0.5 for axis in (0, 1))
            cx, cy = measure.radial_profile(found[1])[:2]
            off.append(float(np.hypot(cx - x, cy - y)))
    far += [np.mean(off) if off else 99.0] if sys.argv[2] else []
    print(f"{' '.join(asked)}: {seen['colour']} {seen['shape']} {seen['motion']}" + (f", centre off by {far[-1]:.1f}" if far else ""))
print(f"{len(rows)} videos: colour {sum(r[0] for r in rows)}, shape {sum(r[1] for r in rows)}, motion {sum(r[2] for r in rows)}, all three "
      f"{sum(map(all, rows))}" + (f"; centre off by {np.median(far):.2f} pixels (median), {sum(f < 3 for f in far)} below 3" if far else ""))
PY
