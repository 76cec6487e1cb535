"""Evaluate a checkpoint folder in PyTorch, without the engine: what the weights can do at best.

    python3 evaluate.py psnr        --checkpoint DIR [--clips 256]
    python3 evaluate.py reconstruct --checkpoint DIR --out FOLDER      evaluation clips through the VAE
    python3 evaluate.py sample      --checkpoint DIR --out FOLDER [--seeds 4] [--steps 20] [--shift 3] [--guidance 6]
                                    [--captions FILE] [--dtype float32]

The last two write one .npy a video (uint8 [F, H, W, 3]) in caption order, seeds adjacent, and captions.txt, as
measure.py reads them.  The noise of a seed is torch.randn of a CPU generator, so it is the engine's `torch-cpu` noise.
"""
import argparse
import json
import os

import numpy as np
import torch

import generator
import tokenizer as tokens
import train
import wan_torch as wan


def write(out, names, videos):
    os.makedirs(out, exist_ok=True)
    for name, frames in zip(names, generator.to_bytes(videos).cpu().numpy()):
        np.save(os.path.join(out, name + ".npy"), frames)


@torch.no_grad()
def sample(args, device):
    config, t5, dit, vae = wan.load_folder(args.checkpoint, device)
    tok = tokens.Tokenizer(os.path.join(args.checkpoint, wan.TOKENIZER_DIR))
    if args.captions:
        with open(args.captions, encoding="utf-8") as f:
            lines = [line.strip() for line in f if line.strip()]
    else:
        lines = [caption for caption, _ in generator.evaluation_set()]
    dtype = getattr(torch, args.dtype)
    noise = {s: torch.randn(1, 16, 5, 16, 16, generator=torch.Generator().manual_seed(s)).to(device)
             for s in range(args.first_seed, args.first_seed + args.seeds)}
    jobs = [(i, s) for i in range(len(lines)) for s in noise]
    empty = t5.context(torch.tensor(tok.encode([""], config["text_len"]), device=device))
    for start in range(0, len(jobs), args.batch):
        part = jobs[start:start + args.batch]
        text = t5.context(torch.tensor(tok.encode([lines[i] for i, _ in part], config["text_len"]), device=device))
        latents = wan.sample_euler(dit, text, empty.expand(len(part), -1, -1), torch.cat([noise[s] for _, s in part]),
                                   args.steps, args.shift, args.guidance, dtype)
        videos = torch.cat([vae.decode(latents[i:i + 8]) for i in range(0, len(part), 8)])
        write(args.out, [f"{i:04d}-s{s}" for i, s in part], videos)
    with open(os.path.join(args.out, "captions.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    print(f"{len(jobs)} videos in {args.out}")


@torch.no_grad()
def reconstruct(args, device):
    vae = wan.load_folder(args.checkpoint, device)[3]
    chosen = generator.evaluation_set()
    scenes = generator.scenes_of([d for _, d in chosen], args.first_seed).to(device)
    for i in range(0, len(chosen), 8):
        frames = generator.render(generator.tracks(scenes[i:i + 8]))[0]
        write(args.out, [f"{j:04d}" for j in range(i, i + len(frames))], vae.decode(vae.encode(frames)))
    with open(os.path.join(args.out, "captions.txt"), "w", encoding="utf-8") as f:
        f.write("\n".join(caption for caption, _ in chosen) + "\n")


def psnr(args, device):
    vae = wan.load_folder(args.checkpoint, device)[3]
    print(json.dumps(train.reconstruction(vae, device, args.clips)))


def main():
    parser = argparse.ArgumentParser(description="evaluate a shapes checkpoint in PyTorch")
    parser.add_argument("what", choices=("psnr", "reconstruct", "sample"))
    parser.add_argument("--checkpoint", default=os.path.join(train.HERE, "checkpoint"))
    parser.add_argument("--out", default="evaluation")
    parser.add_argument("--captions")
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--guidance", type=float, default=6.0)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False
    {"psnr": psnr, "reconstruct": reconstruct, "sample": sample}[args.what](args, device)


if __name__ == "__main__":
    main()
