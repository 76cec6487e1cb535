"""Write a folder in the layout of Wan2.1-T2V-1.3B or -14B with random weights, to measure whole runs (memory, time) where the released
weights are not.

    python3 tests/bench/random_checkpoint.py --model 1.3b --out /tmp/wan [--t5-layers 2] [--device cuda]

Matrices are normal with deviation 1/sqrt(fan-in), norms 1, biases 0. With --t5-layers 2 the text encoder is that much smaller; its layers have
the real size, so where it is read layer by layer it takes the memory of all 24. The tokenizer is that of the shipped checkpoint.
"""
import argparse
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = os.path.join(HERE, "..", "..", "experiments", "shapes")
sys.path.insert(0, SHAPES)
import wan_torch as wan

SIZES = {"1.3b": dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30), "14b": dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40)}


def weights(model, device, seed):
    """Parameters in bf16, on the CPU; the model is on the meta device."""
    g = torch.Generator(device).manual_seed(seed)
    out = {}
    for name, p in model.named_parameters():
        if p.dim() > 1 and "gamma" not in name and "modulation" not in name:
            w = torch.randn(p.shape, generator=g, device=device, dtype=torch.float32) / max(1, p[0].numel()) ** 0.5
        elif "modulation" in name:
            w = torch.randn(p.shape, generator=g, device=device, dtype=torch.float32) / p.shape[-1] ** 0.5
        else:
            w = torch.zeros(p.shape, device=device) if "bias" in name else torch.ones(p.shape, device=device)
        out[name] = w.bfloat16().cpu().contiguous()
    return out


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description="write a checkpoint folder with random weights of the released sizes")
    parser.add_argument("--model", choices=SIZES, default="1.3b")
    parser.add_argument("--out", required=True)
    parser.add_argument("--t5-layers", type=int, default=24)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    size = SIZES[args.model]
    with torch.device("meta"):
        dit = wan.WanDiT(size["dim"], size["ffn_dim"], size["num_heads"], size["num_layers"], 4096, 512, 16, 16, 256)
        t5 = wan.UMT5Encoder(256384, dim=4096, dim_attn=4096, hidden=10240, heads=64, layers=args.t5_layers)
        vae = wan.WanVAE(dim=96)
    save_file(weights(dit, args.device, args.seed), os.path.join(args.out, wan.DIT_FILE))
    torch.save(weights(t5, args.device, args.seed + 1), os.path.join(args.out, wan.T5_FILE))
    torch.save(weights(vae, args.device, args.seed + 2), os.path.join(args.out, wan.VAE_FILE))
    config = {"_class_name": "WanModel", "model_type": "t2v", "eps": 1e-6, "freq_dim": 256, "in_dim": 16, "out_dim": 16, "text_len": 512, **size}
    with open(os.path.join(args.out, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    shutil.copytree(os.path.join(SHAPES, "checkpoint", "google"), os.path.join(args.out, "google"), dirs_exist_ok=True)
    print(f"{args.out}: {sum(os.path.getsize(os.path.join(args.out, n)) for n in os.listdir(args.out) if os.path.isfile(os.path.join(args.out, n))) / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
