"""Measure clips of several shots against their captions, from pixels alone.

    python3 measure_shots.py FOLDER [--json FILE] [--list-errors] [--jobs N]

FOLDER holds either shots.jsonl (lines of file, scene, captions, cuts: shots.py and evaluate_shots.py write it) or the runs of
wanscope batches (manifest.jsonl beside runs/), whose prompts and cuts are read from the manifest.

Cuts are found in the pixels: with S shots asked for, the S - 1 frames at which most of the picture changes must be the cuts
asked for.  Jumps are other frames that change more than half as much as the smallest cut.  The frames between the cuts asked for
are described as measure.py describes a clip, each shot by itself.
"""
import argparse
import json
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import measure

CHANGED = 60.0          # colour distance (0..441) between two frames at which a pixel has changed
SHORT = 8               # shots of fewer frames show too little of a motion to tell it
MARKS = ("[global caption]", "[per shot caption]", "[shot cut]")


def changes(frames):
    """Share of pixels that changed since the frame before: [F - 1]."""
    step = np.diff(frames.astype(np.float32), axis=0)
    return (np.sqrt((step ** 2).sum(-1)) > CHANGED).mean((1, 2))


def found_cuts(frames, count):
    """The `count` frames at which most changes, ascending, and how many others change more than half as much as the least of them."""
    share = changes(frames)
    order = np.argsort(-share, kind="stable")
    least = share[order[count - 1]] if count else np.inf
    return sorted(int(i) + 1 for i in order[:count]), int((share[order[count:]] > least / 2).sum())


def describe_shots(frames, cuts):
    """(cuts found and jumps, description of each shot, background colour of each shot)."""
    edges = [0, *cuts, len(frames)]
    pieces = [frames[a:b] for a, b in zip(edges, edges[1:])]
    grays = [[round(float(v)) for v in measure.background_colour(p.astype(np.float32))] for p in pieces]
    return found_cuts(frames, len(cuts)), [measure.describe_video(p) for p in pieces], grays


def background_word(rgb):
    return min((("black", 10), ("gray", 128), ("white", 245)), key=lambda b: abs(sum(rgb) / 3 - b[1]))[0]


def asked_of(scene, caption):
    """What a shot should show: words of its caption, and of the scene's where its own says nothing."""
    asked = {**measure.words_of(scene), **measure.words_of(caption)}
    for text in (scene, caption):
        found = re.search(r"on a (black|gray|white) background", text)
        if found:
            asked["background"] = found[1]
    return asked


def take_apart(text):
    """(scene, captions) of a prompt in HoloCine's form."""
    scene, rest = text.split(MARKS[1], 1)
    scene = re.sub(r"This scene contains \d+ shots\.", "", scene.replace(MARKS[0], "")).strip()
    return scene, [part.strip() for part in rest.split(MARKS[2])]


def jobs_of(folder):
    listed = os.path.join(folder, "shots.jsonl")
    if os.path.exists(listed):
        with open(listed, encoding="utf-8") as f:
            for line in filter(str.strip, f):
                clip = json.loads(line)
                yield os.path.join(folder, clip["file"]), clip["scene"], clip["captions"], clip["cuts"]
        return
    for place, _, names in sorted(os.walk(folder)):
        if "manifest.jsonl" not in names:
            continue
        runs = {}
        with open(os.path.join(place, "manifest.jsonl"), encoding="utf-8") as f:
            for line in filter(str.strip, f):              # the last line of a run counts
                run = json.loads(line)
                if run["state"] == "done" and measure.video_of(run):
                    runs[run["run"]] = run
        for run in runs.values():
            scene, captions = take_apart(run["variation"]["clean_prompt"])
            yield os.path.join(place, measure.video_of(run)), scene, captions, cuts_of(place)


def cuts_of(batch):
    """The cuts of a batch, from its resolved config."""
    with open(os.path.join(batch, "config.yaml"), encoding="utf-8") as f:
        found = re.search(r"^\s*cut_frames:\s*\[([^\]]*)\]", f.read(), re.M)
    if not found:
        raise SystemExit(f"{batch}/config.yaml names no cuts in a list")
    return [int(v) for v in found[1].split(",") if v.strip()]


def measure_one(job):
    path, scene, captions, cuts = job
    frames = measure.read_video(path)
    (found, jumps), shots, grays = describe_shots(frames, cuts)
    edges = [0, *cuts, len(frames)]
    for shot, caption, gray, begin, end in zip(shots, captions, grays, edges, edges[1:]):
        shot["asked"] = asked_of(scene, caption)
        if end - begin < SHORT:
            shot["asked"].pop("motion", None)
        shot["background"] = background_word(gray)
    return {"file": path, "scene": scene, "captions": captions, "cuts": cuts, "found": found, "jumps": jumps, "shots": shots}


def summarise(clips):
    """Shares that are right, over all shots and all clips."""
    shots = [s for c in clips for s in c["shots"]]
    result = {"clips": len(clips), "shots": len(shots), "cuts": sum(c["cuts"] == c["found"] for c in clips) / max(len(clips), 1),
              "jumps": sum(c["jumps"] > 0 for c in clips) / max(len(clips), 1)}
    for name in ("colour", "shape", "motion", "background"):
        pairs = [(s["asked"][name], s[name]) for s in shots if name in s["asked"]]
        result[name] = sum(a == b for a, b in pairs) / max(len(pairs), 1)
        result[name + "_wrong"] = {}
        for a, b in pairs:
            if a != b:
                key = f"{a} read as {b}"
                result[name + "_wrong"][key] = result[name + "_wrong"].get(key, 0) + 1
    result["colour_and_shape"] = sum(all(s[k] == s["asked"][k] for k in ("colour", "shape") if k in s["asked"])
                                     for s in shots) / max(len(shots), 1)
    return result


def print_summary(r):
    print(f"{r['clips']} clips, {r['shots']} shots; cuts on the right frames in {100 * r['cuts']:.1f} %, "
          f"jumps besides them in {100 * r['jumps']:.1f} %")
    print(f"colour and shape {100 * r['colour_and_shape']:.1f} %")
    for name in ("colour", "shape", "motion", "background"):
        print(f"{name:10s} {100 * r[name]:6.2f} %  {r[name + '_wrong'] or ''}")


def measure_all(jobs, workers):
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(measure_one, jobs, chunksize=2))


def main():
    parser = argparse.ArgumentParser(description="measure clips of several shots against their captions")
    parser.add_argument("folder")
    parser.add_argument("--json")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1))
    parser.add_argument("--list-errors", action="store_true")
    args = parser.parse_args()
    clips = measure_all(list(jobs_of(args.folder)), args.jobs)
    summary = summarise(clips)
    if args.list_errors:
        for c in clips:
            wrong = [{k: s[k] for k, v in s["asked"].items() if s[k] != v} for s in c["shots"]]
            if any(wrong) or c["cuts"] != c["found"]:
                print(c["file"], c["captions"], "cuts", c["cuts"], "found", c["found"], wrong, file=sys.stderr)
    print_summary(summary)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"summary": summary, "clips": clips}, f, indent=1)


if __name__ == "__main__":
    main()
