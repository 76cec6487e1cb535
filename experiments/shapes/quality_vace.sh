#!/bin/sh
# References alone, measured: 6 colours x 4 shapes, "a shape moving left on a white background", seed 42, on the CPU. Makes batches in
# outputs/vace-quality and prints how often the video has the reference's colour and shape.
set -e
W=${W:-bin/wanscope} out=${OUT:-outputs/vace-quality}
for colour in red yellow green cyan blue magenta; do
    for shape in circle square triangle star; do
        python3 experiments/shapes/conditions.py --out "$out/$colour-$shape" --colour $colour --shape $shape
        "$W" run --config configs/vace_demo.yaml --output-dir "$out/$colour-$shape" --batch-name video --device cpu --quiet --set output.use_timestamp=false \
            --set vace.control= --set "vace.references=[$out/$colour-$shape/reference.png]" --set capture.latents.enabled=false \
            --set 'prompt.template=a shape moving left on a white background'
    done
done
python3 - "$out" <<'PY'
import glob
import os
import sys
sys.path.insert(0, "experiments/shapes")
import measure
rows = []
for path in sorted(glob.glob(sys.argv[1] + "/*/video/runs/*/*/video.mp4")):
    colour, shape = os.path.relpath(path, sys.argv[1]).split("/")[0].split("-")
    seen = measure.describe_video(measure.read_video(path))
    rows.append((seen["colour"] == colour, seen["shape"] == shape, seen["motion"] == "left"))
    print(f"{colour} {shape}: {seen['colour']} {seen['shape']} {seen['motion']}")
print(f"{len(rows)} videos: colour {sum(r[0] for r in rows)}, shape {sum(r[1] for r in rows)}, motion {sum(r[2] for r in rows)}")
PY
