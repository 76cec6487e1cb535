# The shipped multi-shot checkpoint: three shots, full and sparse, checked from pixels with nothing but ffmpeg and awk.
. tests/e2e/lib.sh
CK=$REPO/experiments/shapes/checkpoint/holocine
command -v ffmpeg >/dev/null 2>&1 || { skip demo-shots "no ffmpeg"; exit 0; }

run() {
    "$W" run --config "$REPO/configs/holocine_demo.yaml" --output-dir out --batch-name "$1" --device cpu --quiet --set output.use_timestamp=false \
        --set model.path="$CK" --set model.dit="$CK/holocine_shapes.safetensors" --set model.dit_low="$CK/holocine_shapes.safetensors" \
        --set batch.limit=1 --set shots.sparse="$2" --set capture.latents.enabled=false
}

# What every frame of a video of 33 frames of 128 x 128 shows: colour, share of its bounding box, its number of pixels; and the two
# frames that differ most from the one before.
look() {
    ffmpeg -v error -i "$1" -f rawvideo -pix_fmt rgb24 -y look.raw && od -An -v -tu1 -w3 look.raw | awk '
    BEGIN { f = 0 }
    function close_frame() {
        best = "none"; most = 60
        for (h in n) if (n[h] > most) { most = n[h]; best = h }
        print "frame", f, best, best == "none" ? 0 : n[best] / ((x1[best] - x0[best] + 1) * (y1[best] - y0[best] + 1)), best == "none" ? 0 : n[best]
        split("", n)
    }
    { p = (NR - 1) % 16384; r = $1; g = $2; b = $3
      if (f > 0) { d = (r - R[p]) ^ 2 + (g - G[p]) ^ 2 + (b - B[p]) ^ 2; if (d > 3600) changed++ }
      R[p] = r; G[p] = g; B[p] = b
      h = r > g + 70 && r > b + 70 ? "red" : r > b + 70 && g > b + 70 ? "yellow" : g > r + 70 && g > b + 70 ? "green" : b > r + 70 && b > g + 70 ? "blue" : ""
      if (h != "") { x = p % 128; y = int(p / 128)
          if (!n[h]++) { x0[h] = x1[h] = x; y0[h] = y1[h] = y }
          if (x < x0[h]) x0[h] = x; if (x > x1[h]) x1[h] = x; if (y < y0[h]) y0[h] = y; if (y > y1[h]) y1[h] = y }
      if (p == 16383) { if (f > 0) print "change", f, changed; close_frame(); changed = 0; f++ } }'
}

for kind in full:false sparse:true; do
    name=demo-${kind%:*}
    check "$name" "the demo fails:" run "$name" "${kind#*:}"
    look "out/$name/runs/"*/s42/video.mp4 >look.txt
    # the shots of the config: a large red circle, a large blue square, a large green triangle, from frames 0, 9 and 21 on
    awk '$1 == "frame" { n++; want = $2 < 9 ? "red" : $2 < 21 ? "blue" : "green"; right += $3 == want } END { exit !(n == 33 && right >= 31) }' look.txt &&
        ok "$name-colours" || bad "$name-colours" "$(awk '$1 == "frame" { printf "%s ", $3 }' look.txt)"
    awk '$1 == "frame" { s = $2 < 9 ? 0 : $2 < 21 ? 1 : 2; sum[s] += $4; n[s]++ }
         END { c = sum[0] / n[0]; q = sum[1] / n[1]; t = sum[2] / n[2]; exit !(c > 0.70 && c < 0.87 && q > 0.87 && t > 0.40 && t < 0.66) }' look.txt &&
        ok "$name-shapes" || bad "$name-shapes" "shares of the bounding box: $(awk '$1 == "frame" { printf "%.2f ", $4 }' look.txt)"
    got=$(grep '^change' look.txt | sort -k3,3nr | head -2 | awk '{ print $2 }' | sort -n | tr '\n' ' ')
    if [ "$got" = "9 21 " ]; then ok "$name-cuts"; else bad "$name-cuts" "most changes at frames $got, expected 9 and 21"; fi
done
check demo-differ "full and sparse attention give the same video:" sh -c '! cmp -s out/demo-full/runs/*/s42/video.mp4 out/demo-sparse/runs/*/s42/video.mp4'
