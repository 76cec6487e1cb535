"""Measure videos of a causal model block by block against the caption in force, from pixels alone.

    python3 measure_blocks.py BATCH_FOLDER... [--json FILE]    wanscope batches: manifest.jsonl, runs/.../video.mp4

A caption is in force from the block at which it begins: `... [at 33] ...` counts latent frames, a block is 3 of them, 9 video frames
for the first and 12 for each later one.  Colour and shape of every block are read as measure.py reads a video, of its frames
alone, and the words are compared at the end.  "in step" says in how many videos every block so far was right.
"""
import argparse
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor

import measure


def captions_of(prompt):
    """[(first latent frame, text)] of a prompt with marks."""
    parts = re.split(r"\s*\[at (\d+)\]\s*", prompt)
    return [(0, parts[0])] + [(int(at), text) for at, text in zip(parts[1::2], parts[2::2])]


def blocks_of(job):
    path, prompt, seed = job
    video, captions, result = measure.read_video(path), captions_of(prompt), []
    for block in range((len(video) + 3) // 12):
        asked = measure.words_of([text for at, text in captions if 3 * block >= at][-1])
        seen = measure.describe_video(video[max(0, 12 * block - 3):12 * block + 9])
        result.append({"block": block, "colour": seen["colour"] == asked.get("colour", seen["colour"]),
                       "shape": seen["shape"] == asked.get("shape", seen["shape"]), "seen": seen})
    return {"file": path, "prompt": prompt, "seed": seed, "blocks": result}


def main():
    parser = argparse.ArgumentParser(description="measure causal videos block by block")
    parser.add_argument("folders", nargs="+", metavar="folder")
    parser.add_argument("--json", help="write every reading here")
    parser.add_argument("--jobs", type=int, default=min(8, os.cpu_count() or 1))
    args = parser.parse_args()
    with ProcessPoolExecutor(args.jobs) as pool:
        videos = list(pool.map(blocks_of, [v for f in args.folders for v in measure.find_videos(f, None, 1)]))
    count = min(len(v["blocks"]) for v in videos)
    print(f"{len(videos)} videos of {count} blocks\nblock  colour  shape  both  in step")
    for b in range(count):
        rows = [v["blocks"][b] for v in videos]
        so_far = [all(x["colour"] and x["shape"] for x in v["blocks"][:b + 1]) for v in videos]
        print(f"{b:5d} {100 * sum(r['colour'] for r in rows) / len(rows):6.0f}% {100 * sum(r['shape'] for r in rows) / len(rows):5.0f}% "
              f"{100 * sum(r['colour'] and r['shape'] for r in rows) / len(rows):4.0f}% {100 * sum(so_far) / len(so_far):6.0f}%")
    for v in videos:
        wrong = [f"{x['block']} ({x['seen']['colour']} {x['seen']['shape']})" for x in v["blocks"] if not (x["colour"] and x["shape"])]
        if wrong:
            print(f"{os.path.dirname(v['file']).split('runs/')[-1]}  \"{v['prompt']}\": {len(wrong)} wrong, blocks {', '.join(wrong[:6])}{' ...' if len(wrong) > 6 else ''}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(videos, f, indent=1)


if __name__ == "__main__":
    main()
