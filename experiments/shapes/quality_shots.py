"""The quality of the multi-shot checkpoint, measured on videos that wanscope itself makes.

    python3 quality_shots.py --out FOLDER [--clips 24] [--sparse] [--bin ../../bin/wanscope] [--guidance 4] [--steps 20]

Every n-th evaluation prompt of shots.py, half of them with two shots and half with three; videos that are there already are not made
again.  Needs torch (for the prompts), numpy and ffmpeg.
"""
import argparse
import json
import os
import subprocess

import measure_shots
import shots

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    parser = argparse.ArgumentParser(description="measure the multi-shot checkpoint on wanscope's own videos")
    parser.add_argument("--out", required=True)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--guidance", type=float, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--bin", default=os.path.join(HERE, "..", "..", "bin", "wanscope"))
    parser.add_argument("--list-errors", action="store_true")
    args = parser.parse_args()
    folder = os.path.join(args.out, "sparse" if args.sparse else "full")
    os.makedirs(folder, exist_ok=True)
    model = os.path.join(HERE, "checkpoint", "holocine")
    dit = os.path.join(model, "holocine_shapes.safetensors")
    chosen = shots.evaluation_set()
    chosen = [chosen[i * len(chosen) // args.clips] for i in range(args.clips)]
    with open(os.path.join(folder, "shots.jsonl"), "w", encoding="utf-8") as f:
        for i, (scene, lines, starts) in enumerate(chosen):
            name = f"{i:04d}.mp4"
            path = os.path.join(folder, name)
            if not os.path.exists(path):
                subprocess.run([args.bin, "generate", "--model", model, "--dit-high-noise", dit, "--dit-low-noise", dit, "--family", "holocine",
                                "--device", "cpu", "--video-size", "128", "128", "--video-length", str(shots.FRAMES), "--infer-steps", str(args.steps),
                                "--flow-shift", "3", "--guidance-scale", str(args.guidance), "--negative-default", "none", "--seed", str(1000 + i),
                                "--global-caption", scene, "--shot-captions", *lines, "--shot-cut-frames", *map(str, shots.cut_frames(starts)),
                                "--sparse", "true" if args.sparse else "false", "--fps", "8", "--save-path", path, "--quiet"],
                               check=True, stdout=subprocess.DEVNULL)
            f.write(json.dumps({"file": name, "scene": scene, "captions": lines, "cuts": shots.cut_frames(starts)}) + "\n")
    clips = measure_shots.measure_all(list(measure_shots.jobs_of(folder)), min(8, os.cpu_count() or 1))
    if args.list_errors:
        for c in clips:
            wrong = [{k: s[k] for k, v in s["asked"].items() if s[k] != v} for s in c["shots"]]
            if any(wrong) or c["cuts"] != c["found"]:
                print(c["file"], c["captions"], "cuts", c["cuts"], "found", c["found"], wrong)
    measure_shots.print_summary(measure_shots.summarise(clips))


if __name__ == "__main__":
    main()
