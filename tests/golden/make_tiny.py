"""Make tests/golden/wan-tiny: a tiny random checkpoint in the original layout and what PyTorch computes with it.

    python3 make_tiny.py FOLDER

Needs torch, safetensors and sentencepiece. The keys are those that tests/golden_wan.c reads.
"""
import io
import json
import os
import sys

import numpy as np
import sentencepiece
import torch
from safetensors.torch import save_file

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "experiments", "shapes"))
import wan_torch as wan  # noqa: E402

TEXT_LEN = 16
TEXTS = ["a kiss between two men", "a  dog &amp; a cat,\tnear a tree", "", "two women and a zebra in a very long park near a tree with a dog and a cat and a man"]
WORDS = "a kiss between two men women man dog cat and near tree in the park with very long , & &amp;".split()


def tokenizer(folder):
    os.makedirs(folder, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 50 + list("abcdefghijklmnopqrstuvwxyz")), model_writer=model, model_type="unigram",
        vocab_size=80, hard_vocab_limit=False, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>",
        unk_piece="<unk>", normalization_rule_name="identity", num_threads=1, minloglevel=2)
    with open(os.path.join(folder, "spiece.model"), "wb") as f:
        f.write(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def cases(sp):
    import html
    out = []
    for text in TEXTS:
        clean = " ".join(html.unescape(html.unescape(text)).split())
        ids = sp.encode(clean)[:TEXT_LEN - 1] + [1]
        out.append({"text": text, "cleaned": clean, "ids": ids + [0] * (TEXT_LEN - len(ids)),
                    "mask": [1] * len(ids) + [0] * (TEXT_LEN - len(ids))})
    return out


def shake(model, seed, scale):
    """Random weights, no zeros and no ones left; norms near 1."""
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=g)
        gain = p.dim() == 1 and "bias" not in name or "gamma" in name
        fan = max(1, p[0].numel()) if p.dim() > 1 else 1
        p.data = (1 + 0.1 * noise if gain else noise * (0.1 if p.dim() == 1 else scale / fan ** 0.5)).bfloat16().float()


def field(x, t):
    return 0.7 * np.sin(np.float32(1.3) * x + np.float32(2.0) * np.float32(t) / np.float32(1000)) + np.float32(0.1) * x


@torch.no_grad()
def main(folder):
    sp = tokenizer(os.path.join(folder, "google", "umt5-xxl"))
    listed = cases(sp)
    torch.manual_seed(7)
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": 48, "eps": 1e-6, "ffn_dim": 80, "freq_dim": 32, "in_dim": 16,
              "out_dim": 16, "num_heads": 2, "num_layers": 2, "text_len": TEXT_LEN}
    t5 = wan.UMT5Encoder(sp.vocab_size() + 5, dim=24, dim_attn=32, hidden=40, heads=2, layers=2).eval()
    dit = wan.WanDiT(48, 80, 2, 2, 24, TEXT_LEN, 16, 16, 32).eval()
    vae = wan.WanVAE(dim=4).eval()
    shake(t5, 1, 0.6)
    shake(dit, 2, 0.8)
    shake(vae, 3, 1.2)
    torch.save({k: v.bfloat16() for k, v in t5.state_dict().items()}, os.path.join(folder, wan.T5_FILE))
    torch.save({k: v.bfloat16() for k, v in vae.state_dict().items()}, os.path.join(folder, wan.VAE_FILE))
    save_file({k: v.bfloat16().contiguous() for k, v in dit.state_dict().items()}, os.path.join(folder, wan.DIT_FILE))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
    with open(os.path.join(folder, "tokenizer_cases.json"), "w") as f:
        json.dump(listed, f, indent=0)

    out, rows = {}, []
    for n, case in enumerate(listed):
        ids = torch.tensor([case["ids"]])
        states = t5(ids)
        rows.append(states[:, :sum(case["mask"])])
        out[f"t5.{n}.ids"] = ids.int()
        out[f"t5.{n}.out"] = states[0]
    g = torch.Generator().manual_seed(11)
    out["dit.x"] = torch.randn(16, 2, 4, 6, generator=g)
    for n, t in enumerate((999.0, 500.0, 3.5)):
        out[f"dit.{n}.t"] = torch.tensor([t])
        out[f"dit.{n}.out"] = dit.velocity(out["dit.x"][None], torch.tensor([t], dtype=torch.float64), rows[0])[0]
    out["dit.odd.x"] = torch.randn(16, 3, 2, 10, generator=g)
    out["dit.odd.out"] = dit.velocity(out["dit.odd.x"][None], torch.tensor([500.0], dtype=torch.float64), rows[1])[0]
    out["vae.z"] = torch.randn(16, 3, 2, 4, generator=g)
    out["vae.z1"] = torch.randn(16, 1, 4, 2, generator=g)
    out["vae.dec"] = vae.decode(out["vae.z"][None], clamp=False)[0]
    out["vae.dec1"] = vae.decode(out["vae.z1"][None], clamp=False)[0]
    out["vae.video"] = torch.rand(3, 9, 16, 32, generator=g) * 2 - 1
    out["vae.enc"] = vae.encode(out["vae.video"][None])[0]

    # the Euler rule of DiffSynth (wan-engine.md 7.1), and a whole run with it
    steps, shift, guidance = 5, 3.0, 4.0
    step = np.float32(-1.0 / steps)
    x = [np.float32(np.float64(step) * i + 1.0) if i < (steps + 1) // 2 else np.float32(-np.float64(step) * (steps - i)) for i in range(steps)]
    sigma = np.array([np.float32(shift) * v / (np.float32(1) + np.float32(shift - 1) * v) for v in x], np.float32)
    t = sigma * np.float32(1000)
    after = np.append(sigma, np.float32(0))
    noise = torch.randn(1, 4, 2, 3, 5, generator=g)
    out["sampler.noise"] = noise
    cur, path = noise.numpy().copy(), []
    for i in range(steps):
        cur = (cur + field(cur, t[i]).astype(np.float32) * np.float32(after[i + 1] - after[i])).astype(np.float32)
        path.append(cur)
    name = f"sampler.diffsynth_euler.{steps}.{int(shift)}"
    out[name + ".timesteps"], out[name + ".sigmas"], out[name + ".traj"] = torch.tensor(t), torch.tensor(sigma), torch.tensor(np.stack(path))
    noise = torch.randn(16, 2, 4, 6, generator=g)
    cur, latents, velocity = noise[None], [], []
    for i in range(steps):
        when = torch.tensor([float(t[i])], dtype=torch.float64)
        c, u = dit.velocity(cur, when, rows[0]), dit.velocity(cur, when, rows[2])
        v = u + guidance * (c - u)
        cur = cur + v * float(after[i + 1] - after[i])
        latents.append(cur[0])
        velocity.append(v[0])
    out.update({"e2e.noise": noise, "e2e.timesteps": torch.tensor(t), "e2e.latents": torch.stack(latents),
                "e2e.velocity": torch.stack(velocity), "e2e.video": vae.decode(cur)[0]})
    with open(os.path.join(folder, "e2e.json"), "w") as f:
        json.dump({"prompt": TEXTS[0], "negative_prompt": TEXTS[2], "steps": steps, "shift": shift, "guidance_scale": guidance,
                   "solver": "diffsynth_euler"}, f, indent=1)
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(folder, "golden.safetensors"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
