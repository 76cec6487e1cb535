"""Measure decoded videos against their captions, from pixels alone.

    python3 measure.py BATCH_FOLDER                    a wanscope batch: manifest.jsonl, runs/.../video.mp4
    python3 measure.py FOLDER --captions FILE          videos in name order, one caption a line; with S videos a
                                                       caption (--seeds S) the videos of a caption are adjacent
    options: --json FILE  --jobs N  --list-errors

Videos are .mp4 (any file ffmpeg reads), .y4m or .npy (uint8 [F, H, W, 3]).  For every video the largest object is cut
out of the background and described by three words: colour, shape, motion.  Only at the end are these compared with
the words of the caption; nothing before that sees it.  Only numpy is needed, and the ffmpeg program for encoded
videos.
"""
import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

COLOURS = {"red": (230, 40, 40), "yellow": (240, 220, 40), "green": (40, 200, 60),
           "cyan": (40, 210, 220), "blue": (50, 70, 235), "magenta": (220, 50, 210)}
SHAPES = ("circle", "square", "triangle", "star")
MOTIONS = {"left": "moving left", "right": "moving right", "up": "moving up", "down": "moving down",
           "still": "standing still", "growing": "growing", "spinning": "spinning"}
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "star": 5}

CONTRAST = 48.0         # smallest colour distance (0..441) from the background that counts as an object
SMALLEST = 30           # pixels
RAYS = 72

# ------------------------------------------------------------------------------------------------- reading


def read_video(path):
    """Frames uint8 [F, H, W, 3] of any supported file."""
    if path.endswith(".npy"):
        return np.load(path)
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "image2pipe", "-vcodec", "ppm", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    frames, position = [], 0
    while position < len(data):
        head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", data[position:position + 64])
        width, height = int(head[1]), int(head[2])
        position += head.end()
        frames.append(np.frombuffer(data, np.uint8, width * height * 3, position).reshape(height, width, 3))
        position += width * height * 3
    return np.stack(frames)


def find_videos(folder, captions, seeds):
    """List of (path, caption, seed)."""
    manifest = os.path.join(folder, "manifest.jsonl")
    if captions is None and os.path.exists(manifest):
        runs = {}
        with open(manifest, encoding="utf-8") as f:
            for line in filter(str.strip, f):              # the last line of a run counts
                run = json.loads(line)
                if run["state"] == "done" and video_of(run):
                    runs[run["run"]] = (os.path.join(folder, video_of(run)), run["variation"]["clean_prompt"], run["seed"])
        return list(runs.values())
    with open(captions, encoding="utf-8") as f:
        lines = [line.strip() for line in f if line.strip()]
    paths = sorted(os.path.join(d, name) for d, _, files in os.walk(folder) for name in files
                   if name.endswith((".npy", ".mp4", ".y4m")))
    if len(paths) != len(lines) * seeds:
        raise SystemExit(f"{len(paths)} videos in {folder}, but {len(lines)} captions x {seeds} seeds")
    return [(path, lines[i // seeds], i % seeds) for i, path in enumerate(paths)]


def video_of(run):
    """The path of the video of a manifest line (docs/formats.md), or None."""
    files = run["files"]
    return next((files[name]["path"] for name in ("video.mp4", "video.y4m") if name in files), None)


# ---------------------------------------------------------------------------------------------- segmenting


def background_colour(frames):
    """Median colour of the outermost 2 pixels of every frame; frames float [F, H, W, 3]."""
    edge = np.concatenate([frames[:, :2].reshape(-1, 3), frames[:, -2:].reshape(-1, 3),
                           frames[:, :, :2].reshape(-1, 3), frames[:, :, -2:].reshape(-1, 3)])
    return np.median(edge, 0)


def components(mask):
    """4-connected components of a boolean image: labels [H, W] (0 outside) and pixel counts by label.

    Runs of pixels in a row are joined to the runs they touch in the row above (union-find).
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    step = np.diff(padded, axis=1)
    rows, starts = np.nonzero(step == 1)
    _, ends = np.nonzero(step == -1)
    parent = list(range(len(rows)))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first = np.searchsorted(rows, np.arange(height + 1))
    for row in range(1, height):
        above, here = first[row - 1], first[row]
        while above < first[row] and here < first[row + 1]:
            if starts[here] < ends[above] and starts[above] < ends[here]:
                parent[root(here)] = root(above)
            if ends[above] <= ends[here]:
                above += 1
            else:
                here += 1
    names, index = np.unique([root(i) for i in range(len(rows))], return_inverse=True)
    labels = np.zeros((height, width), np.int32)
    for row, start, end, label in zip(rows, starts, ends, index):
        labels[row, start:end] = label + 1
    return labels, np.bincount(labels.ravel(), minlength=len(names) + 1)


def dilate(mask, times):
    for _ in range(times):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def largest_object(frame, background):
    """Colour [3] and coverage [H, W] in [0, 1] of the largest object of a frame, or None; also the object count.

    The coverage of a pixel is how far its colour has gone from the background towards the object's.
    """
    difference = frame - background
    distance = np.sqrt((difference ** 2).sum(-1))
    labels, counts = components(distance > CONTRAST)
    counts[0] = 0
    if counts.max() < SMALLEST:
        return None, 0
    inside = labels == counts.argmax()
    strong = inside & (distance >= np.quantile(distance[inside], 0.4))
    colour = np.median(frame[strong], 0)
    direction = colour - background
    length = np.sqrt((direction ** 2).sum())
    if length < CONTRAST:
        return None, 0
    coverage = np.clip(difference @ direction / length ** 2, 0, 1)
    labels, again = components(inside & (coverage > 0.5))
    again[0] = 0
    if again.max() < SMALLEST:
        return None, 0
    coverage = coverage * dilate(labels == again.argmax(), 2)
    return (colour, coverage), int((counts >= SMALLEST).sum())


# --------------------------------------------------------------------------------------------- describing


def hue(rgb):
    """Hue in degrees and saturation in [0, 1] of a colour 0..255."""
    r, g, b = (float(v) for v in rgb)
    low, high = min(r, g, b), max(r, g, b)
    if high - low < 1e-6:
        return 0.0, 0.0
    if high == r:
        angle = (g - b) / (high - low) % 6
    elif high == g:
        angle = (b - r) / (high - low) + 2
    else:
        angle = (r - g) / (high - low) + 4
    return 60 * angle, (high - low) / high


def colour_word(rgb):
    """The palette colour of the nearest hue; "none" for a gray."""
    angle, saturation = hue(rgb)
    if saturation < 0.25:
        return "none"
    return min(COLOURS, key=lambda name: abs((angle - hue(COLOURS[name])[0] + 180) % 360 - 180))


def radial_profile(coverage):
    """Centroid (x, y), area, and the outline's distance from the centroid along RAYS directions, in pixels.

    Along every ray the coverage is summed, which gives the radius of a star-shaped outline to sub-pixel accuracy.
    """
    height, width = coverage.shape
    area = coverage.sum()
    x = (coverage.sum(0) * np.arange(width)).sum() / area
    y = (coverage.sum(1) * np.arange(height)).sum() / area
    step = 0.5
    reach = np.arange(step / 2, 90, step)
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    px = np.clip(x + np.sin(angles)[:, None] * reach, -1, width)       # clockwise from straight up
    py = np.clip(y - np.cos(angles)[:, None] * reach, -1, height)
    padded = np.pad(coverage, 2)
    ix, iy = np.floor(px).astype(int), np.floor(py).astype(int)
    fx, fy = px - ix, py - iy
    ix, iy = ix + 2, iy + 2
    value = ((padded[iy, ix] * (1 - fx) + padded[iy, ix + 1] * fx) * (1 - fy)
             + (padded[iy + 1, ix] * (1 - fx) + padded[iy + 1, ix + 1] * fx) * fy)
    return x, y, area, value.sum(1) * step


def harmonics(profile):
    """Complex Fourier coefficients 1..10 of a radial profile over its mean."""
    return np.fft.rfft(profile)[1:11] / profile.sum()


def ideal_profile(shape):
    """The radial profile of an ideal outline, circumradius 1."""
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    if shape == "circle":
        return np.ones(RAYS)
    points = SYMMETRY[shape]
    valley = 0.45 if shape == "star" else np.cos(np.pi / points)
    half = np.pi / points
    turn = np.abs((angles + half) % (2 * half) - half)
    vx, vy = valley * np.cos(half), valley * np.sin(half)
    # the ray at `turn` meets the edge from (1, 0) to (vx, vy)
    return vy / (vy * np.cos(turn) + (1 - vx) * np.sin(turn))


TEMPLATES = {shape: np.abs(harmonics(ideal_profile(shape))) for shape in SHAPES}


def shape_word(amplitudes):
    """The shape whose ideal harmonic amplitudes are nearest; amplitudes [frames, 10], their median is compared."""
    median = np.median(amplitudes, 0)
    errors = {shape: float(np.sqrt(((median - ideal) ** 2).sum())) for shape, ideal in TEMPLATES.items()}
    best = min(errors, key=errors.get)
    return (best if errors[best] < 0.12 else "none"), errors


def slope(times, values):
    """Change of a least-squares line over the whole clip (times run from 0 to 1)."""
    times = times - times.mean()
    return float((times * (values - values.mean())).sum() / (times ** 2).sum())


def motion_word(times, x, y, area, angle):
    """The motion, from centroid track (pixels), area track, and orientation track (degrees; None for a circle).

    Thresholds are for 128-pixel pictures: nominal travel 44 pixels, growth of the radius from 0.65 to 1.35 of the
    middle (area ratio 4.3), turn 96 degrees.  What lies between moving and still is "unclear".
    """
    dx, dy = slope(times, x), slope(times, y)
    travel, other = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    growth = np.exp(slope(times, np.log(area)))
    turn = slope(times, angle) if angle is not None else 0.0
    numbers = {"dx": round(dx, 2), "dy": round(dy, 2), "area_ratio": round(float(growth), 3), "turn": round(turn, 1)}
    moving, growing, spinning = travel > 14, growth > 1.7, abs(turn) > 30
    if moving + growing + spinning > 1:
        return "mixed", numbers
    if moving:
        if other > 0.4 * travel:
            return "mixed", numbers
        return (("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")), numbers
    if growing:
        return "growing", numbers
    if spinning:
        return "spinning", numbers
    if travel < 6 and 0.8 < growth < 1.25 and abs(turn) < 12:
        return "still", numbers
    return "unclear", numbers


def describe_video(frames):
    """frames uint8 [F, H, W, 3] -> dict with colour, shape, motion and the numbers behind them."""
    frames = frames.astype(np.float32)
    scale = 128.0 / frames.shape[2]
    background = background_colour(frames)
    rows = []
    for index, frame in enumerate(frames):
        found, count = largest_object(frame, background)
        if found is not None:
            colour, coverage = found
            rows.append((index, colour, *radial_profile(coverage), count))
    nothing = {"colour": "none", "shape": "none", "motion": "none", "objects": 0}
    if len(rows) < 0.7 * len(frames):
        return nothing
    index, colour, x, y, area, profile, count = (np.array(column) for column in zip(*rows))
    waves = np.array([harmonics(p) for p in profile])
    shape, errors = shape_word(np.abs(waves))
    angle = None
    if SYMMETRY.get(shape):
        order = SYMMETRY[shape]
        angle = -np.degrees(np.unwrap(np.angle(waves[:, order - 1]))) / order
    times = index / (len(frames) - 1)
    motion, numbers = motion_word(times, x * scale, y * scale, area, angle)
    return {"colour": colour_word(np.median(colour, 0)), "shape": shape, "motion": motion,
            "objects": int(np.median(count)), "rgb": [round(float(v)) for v in np.median(colour, 0)],
            "shape_error": round(min(errors.values()), 4), **numbers}


# ----------------------------------------------------------------------------------------------- comparing


def words_of(caption):
    """What a single-shape caption asks for: dict of the attributes it names."""
    asked = {}
    for attribute, names in (("colour", COLOURS), ("shape", SHAPES)):
        found = [n for n in names if re.search(rf"\b{n}\b", caption)]
        if found:
            asked[attribute] = found[0]
    for name, phrase in MOTIONS.items():
        if phrase in caption:
            asked["motion"] = name
    return asked


def measure_one(job):
    path, caption, seed = job
    return {"file": path, "caption": caption, "seed": seed, **describe_video(read_video(path))}


def summarise(results):
    """Accuracy per attribute, per word, and the confusions."""
    summary = {"videos": len(results)}
    for attribute in ("colour", "shape", "motion"):
        pairs = [(words_of(r["caption"])[attribute], r[attribute]) for r in results
                 if attribute in words_of(r["caption"])]
        table = {}
        for want, got in pairs:
            table.setdefault(want, {}).setdefault(got, 0)
            table[want][got] += 1
        summary[attribute] = {
            "accuracy": sum(w == g for w, g in pairs) / max(len(pairs), 1),
            "per_word": {w: row.get(w, 0) / sum(row.values()) for w, row in table.items()},
            "confusion": table}
    asked = [(words_of(r["caption"]), r) for r in results]
    summary["all_three"] = sum(all(r[k] == v for k, v in a.items()) for a, r in asked) / max(len(results), 1)
    return summary


def print_summary(summary):
    print(f"{summary['videos']} videos")
    for attribute in ("colour", "shape", "motion"):
        part = summary[attribute]
        print(f"\n{attribute:8s} {100 * part['accuracy']:6.2f} %")
        for word, share in part["per_word"].items():
            wrong = {g: n for g, n in part["confusion"][word].items() if g != word}
            print(f"  {word:10s} {100 * share:6.2f} %  {'read as ' + str(wrong) if wrong else ''}")
    print(f"\nall three {100 * summary['all_three']:.2f} %")


def main():
    parser = argparse.ArgumentParser(description="measure videos of single shapes against their captions")
    parser.add_argument("folder")
    parser.add_argument("--captions", help="text file, one caption a line")
    parser.add_argument("--seeds", type=int, default=1, help="videos per caption, when --captions is given")
    parser.add_argument("--json", help="write summary and every reading here")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--list-errors", action="store_true")
    args = parser.parse_args()
    jobs = find_videos(args.folder, args.captions, args.seeds)
    with ProcessPoolExecutor(args.jobs) as pool:
        results = list(pool.map(measure_one, jobs, chunksize=4))
    summary = summarise(results)
    if args.list_errors:
        for r in results:
            wrong = {k: r[k] for k, v in words_of(r["caption"]).items() if r[k] != v}
            if wrong:
                print(f"{r['file']}  {r['caption']!r} seed {r['seed']}: {wrong}", file=sys.stderr)
    print_summary(summary)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"summary": summary, "videos": results}, f, indent=1)


if __name__ == "__main__":
    main()
