"""Fine-tune the shapes checkpoint into a causal model in LongLive's layout.

    python3 train_causal.py --out FOLDER [--start FOLDER/causal.safetensors | longlive_base.pt] [--seconds 100] [--seed 1]

Writes FOLDER/causal.safetensors (averaged weights, bfloat16) and prints a table of its pixels over 24 blocks.  Calls with
--start go on from such a file with a new optimiser state and other clips.  `export` makes longlive_base.pt of it:

    python3 train_causal.py --start FOLDER/causal.safetensors --export longlive_base.pt

Every clip is trained at once (causal_torch.Plan): clean blocks at timestep 0, noisy ones at LongLive's four noise levels
or any other.  What a block shows follows from the blocks before and the caption, so the regression to the clip's own
latents has one answer and few steps are enough; only the first block has many.  It learns to
imitate the shipped checkpoint, which denoises the same noise with guidance in ten steps.  Part of the clips are seen
through the model's own estimates in place of the clean past, against drift.
"""
import argparse
import copy
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

import causal_torch as causal
import endless
import generator
import measure
import wan_torch as wan
from words import Words

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCKS = 8
PIXELS = 12 * BLOCKS - 3
CUTS = tuple(range(2, BLOCKS))
SETTINGS = dict(clips=1728, batch=32, first_batch=128, pairs=1600, lr=5e-4, warmup=40, ema=0.99, own=0.5, far=1000, first=0.5,
                teacher_steps=(10, 9, 8, 6), guidance=4.0, levels=(1.0, 0.7, 0.5, 0.3), free=0.25,
                odds={}, change=1.0, object=0.0, refresh_every=0, refresh_pairs=160)
# odds: fields of generator.Weights for clips and first blocks; change: weight of the first block with a new caption, half of the
# excess for the block after it; object: additional weight of what objects cover; refresh_every: steps between new clips
TINY = dict(clips=2, batch=1, first_batch=2, pairs=4, refresh_pairs=2, warmup=1, teacher_steps=(2, 1, 1, 1))


@torch.no_grad()
def encode(vae, frames, batch):
    scale = wan.latent_scale(frames.device)
    mean = vae.moments(frames.to(torch.bfloat16 if frames.is_cuda else torch.float32))[0].float()
    return ((mean - scale[0]) / scale[1]).to(torch.bfloat16)


def read(path):
    """The DiT's tensors out of a safetensors file or one in LongLive's layout."""
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file
        return load_file(path)
    return {k.removeprefix("model."): v for k, v in torch.load(path, map_location="cpu", weights_only=True)["generator"].items()}


def weights(cfg):
    return generator.Weights(**{"count": {1: 0.85, 2: 0.15}, **cfg["odds"]})


class Pool:
    """Clips in buckets of one change of caption each; half of every bucket's kind begins long after the first block."""

    def __init__(self, vae, t5, words, text_len, cfg, seed, device):
        start = time.time()
        self.vae, self.t5, self.words, self.text_len, self.device = vae, t5, words, text_len, device
        kinds = [(cut, gap) for cut in CUTS for gap in (False, True)][:cfg["clips"]]
        self.each, self.weights, self.seed, self.made = cfg["clips"] // len(kinds), weights(cfg), seed, 0
        self.buckets = [self.bucket(cut, gap) for cut, gap in kinds]
        if device == "cuda":
            torch.cuda.synchronize()
        all_latents = torch.cat([b[2][:8].float() for b in self.buckets])
        print(f"{cfg['clips']} clips in {time.time() - start:.1f} s, latents mean {all_latents.mean():.3f} std "
              f"{all_latents.std():.3f}", flush=True)

    def bucket(self, cut, gap):
        """(cut, gap, latents and covered shares [N, blocks, C or 1, 3, h, w], text [N, 2, n, text_dim])"""
        each, device, seed = self.each, self.device, self.seed + 1000 * self.made
        batch = 16 if device == "cuda" else 1
        self.made += 1
        before, after, lines = endless.sample(each, seed, self.weights)
        rng = torch.Generator().manual_seed(seed)
        first = torch.randint(30, 3000, (each,), generator=rng) if gap else torch.zeros(each, dtype=torch.long)
        latents, covered = [], []
        for i in range(0, each, batch):
            a, b = (s[i:i + batch].to(device) for s in (before, after))
            at = first[i:i + batch].to(device)
            paint = lambda begin, frames: generator.render(endless.tracks(a, b, at + 12 * cut - 3, begin, frames))[:2]
            last = lambda v: v.contiguous(memory_format=torch.channels_last_3d)
            frames, cover = paint(at, PIXELS)
            x = encode(self.vae, last(frames), batch)
            if gap:
                x = torch.cat((encode(self.vae, last(paint(0 * at, 9)[0]), batch), x[:, :, 3:]), 2)
            cover = F.max_pool2d(F.avg_pool2d(cover, 8), 3, 1, 1)
            latents.append(x)
            covered.append(torch.cat((cover[:, :1], cover[:, 1:].unflatten(1, (-1, 4)).mean(2)), 1)[:, None].to(x.dtype))
        latents, covered = (torch.cat(v).unflatten(2, (BLOCKS, 3)).transpose(1, 2).contiguous() for v in (latents, covered))
        ids = torch.tensor([self.words.encode(l, self.text_len) for l in lines], device=device)
        return cut, gap, latents, covered, torch.stack([self.t5.context(i) for i in ids], 1)

    def refresh(self):
        """New clips in place of the oldest bucket's."""
        k = self.made % len(self.buckets)
        self.buckets[k] = self.bucket(*self.buckets[k][:2])


@torch.no_grad()
def imitation(teacher, t5, words, text_len, cfg, seed, device):
    """Noisy first blocks, their levels and texts, and what the teacher makes of them -> tensors, one row an example.

    From pure noise the teacher makes clips of 5 latent frames; these, noised again to the other levels, are its next tasks.
    """
    start, n, drawn = time.time(), cfg["pairs"], weights(cfg)
    lines = [c[0] for c in generator.captions(generator.sample_scenes(n, seed, drawn), seed, drawn)]
    text = t5.context(torch.tensor(words.encode(lines, text_len), device=device))
    empty = t5.context(torch.tensor(words.encode([""], text_len), device=device))
    rows, clean = [], torch.zeros(n, 16, 5, 16, 16, device=device)
    for t, steps, share in zip(causal.STEPS, cfg["teacher_steps"], cfg["levels"]):
        sigma = t / 1000
        unshifted = sigma / (3 - 2 * sigma)                       # inverse of shift 3
        grid = [3 * u / (1 + 2 * u) for u in (unshifted * (1 - k / steps) for k in range(steps + 1))]
        for i in range(0, int(n * share), 800):
            part = slice(i, min(i + 800, int(n * share)))
            x = x_t = (1 - sigma) * clean[part] + sigma * torch.randn_like(clean[part])
            for now, after in zip(grid[:-1], grid[1:]):
                when = torch.full((len(x),), 1000 * now, dtype=torch.float64, device=device)
                v, w = (teacher.velocity(x, when, c) for c in (text[part], empty.expand(len(x), -1, -1)))
                x = x + (after - now) * (w + cfg["guidance"] * (v - w))
            if sigma == 1:
                clean[part] = x
            rows.append((x_t[:, :, :3].clone(), torch.full((len(x),), sigma, device=device), text[part],
                         ((x_t - x) / sigma)[:, :, :3].clone()))
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{sum(len(r[0]) for r in rows)} first blocks by the teacher in {time.time() - start:.1f} s", flush=True)
    return [torch.cat(part) for part in zip(*rows)]


def estimate(dit, clean, noisy, sigma, text, start, plan):
    """Velocities [B, n, C, 3, H, W] of the noisy blocks."""
    x = torch.cat((clean, clean.index_select(1, plan.source), noisy), 1)
    t = torch.cat((torch.zeros(len(x), plan.noisy, device=x.device), 1000 * sigma), 1)
    at = torch.cat((start, start.index_select(1, plan.source), start), 1)
    return causal.run(dit, x, t, text, at, plan.table, plan.bias, plan.words)[:, plan.noisy:]


def levels(cfg, shape, device):
    """One of the four noise levels, or any."""
    four = torch.tensor(causal.STEPS, device=device)[torch.randint(4, shape, device=device)] / 1000
    u = torch.rand(shape, device=device)
    return torch.where(torch.rand(shape, device=device) < cfg["free"], 3 * u / (1 + 2 * u), four)


def loss_of(dit, pool, plans, pairs, cfg, own, device):
    cut, gap, latents, covered, text = pool.buckets[torch.randint(len(pool.buckets), (1,)).item()]
    plan, batch = plans[cut, gap], cfg["batch"]
    pick = torch.randint(len(latents), (batch,), device=device)
    x0, text, weight = latents[pick].float(), text[pick], 1 + cfg["object"] * covered[pick].float()
    start = torch.arange(BLOCKS, device=device).expand(batch, -1) * causal.BLOCK
    if gap:
        far = torch.randint(cfg["far"] // causal.BLOCK - BLOCKS, (batch, 1), device=device)
        near = torch.rand(batch, 1, device=device) < 0.5
        start = start + torch.where(near, far // 10, far) * causal.BLOCK * (start > 0)
    clean = x0
    view = lambda s: s[..., None, None, None, None]
    if torch.rand(1).item() < own:
        with torch.no_grad():                            # what the model itself would have left
            sigma, noise = levels(cfg, (batch, BLOCKS), device), torch.randn_like(x0)
            noisy = (1 - view(sigma)) * x0 + view(sigma) * noise
            guess = noisy - view(sigma) * estimate(dit, clean, noisy, sigma, text, start, plan)
            guess[:, 0] = x0[:, 0]
            clean = torch.where(view(torch.rand(batch, BLOCKS, device=device) < 0.8), guess, x0)
    else:
        clean = x0 + torch.randn_like(x0) * view(0.15 * torch.rand(batch, 1, device=device) * (torch.rand(batch, 1, device=device) < 0.5))
    sigma, noise = levels(cfg, (batch, BLOCKS), device), torch.randn_like(x0)
    noisy = (1 - view(sigma)) * x0 + view(sigma) * noise
    error = (estimate(dit, clean, noisy, sigma, text, start, plan) - (noise - x0)).square()
    error = (error * (weight / weight.mean())).mean((2, 3, 4, 5))
    later = (error * plan.weight).sum() / (batch * plan.weight.sum())
    pick = torch.randint(len(pairs[0]), (cfg["first_batch"],), device=device)
    x, sigma, text, want = (p[pick] for p in pairs)
    alone = torch.zeros(1, 1, dtype=torch.long, device=device)
    got = causal.run(dit, x[:, None], 1000 * sigma[:, None], text[:, None], alone.expand(len(x), 1), alone,
                     torch.zeros(1, 1, x.shape[2] * x.shape[3] * x.shape[4] // 4, device=device), alone[0])[:, 0]
    first = (got - want).square().mean()
    return later + cfg["first"] * first, {"later": later.detach(), "first": first.detach()}


# ---------------------------------------------------------------------------------------------------- pixels

BLOCKS_SHOWN = (0, 3, 7, 11, 12, 13, 16, 20, 23)
TEST = [("a red circle moving left on a white background", "a blue square moving left on a white background"),
        ("a large green star standing still on a black background", "a yellow triangle moving up on a black background"),
        ("a medium cyan square spinning on a gray background", "a magenta circle moving down on a gray background"),
        ("a yellow triangle moving right on a black background", "a large red star spinning on a black background"),
        ("a blue square growing on a white background", "a green star growing on a white background"),
        ("a magenta star moving up on a gray background", "a cyan triangle moving up on a gray background"),
        ("a small red square moving down on a black background", "a large blue circle standing still on a black background"),
        ("a green circle standing still on a gray background", "a red star moving right on a gray background")]


def _describe(job):
    clip, block, frames, caption = job
    seen, asked = measure.describe_video(frames), measure.words_of(caption)
    return clip, block, seen["colour"] == asked["colour"], seen["shape"] == asked["shape"], seen


@torch.no_grad()
def pixels(dit, vae, t5, words, text_len, device, out, seeds=3, count=24, switch=12):
    """A table by block: share of videos whose colour and shape are those of the present caption."""
    start = time.time()
    texts = [t5.context(torch.tensor(words.encode([pair[k] for pair in TEST] * seeds, text_len), device=device)) for k in (0, 1)]
    rng = torch.Generator(device).manual_seed(11)
    latents = causal.Clip(dit).generate(texts[0], count, lambda s: torch.randn(s, generator=rng, device=device), switch, texts[1])
    jobs, keep = [], []
    for i in range(len(latents)):
        video = generator.to_bytes(vae.decode(latents[i:i + 1], torch.bfloat16 if device == "cuda" else torch.float32))[0].cpu().numpy()
        for b in [b for b in BLOCKS_SHOWN if b < count]:
            jobs.append((i, b, video[max(0, 12 * b - 3):12 * b + 9], TEST[i % len(TEST)][int(b >= switch)]))
        if i < len(TEST):
            keep.append(np.concatenate([video[12 * b + 4] for b in BLOCKS_SHOWN if b < count], 1))
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1)) as pool:
        seen = list(pool.map(_describe, jobs, chunksize=4))
    print("block        " + " ".join(f"{b:5d}" for b in BLOCKS_SHOWN if b < count))
    for name, k in (("colour", 2), ("shape", 3)):
        print(f"{name:12s} " + " ".join(f"{100 * np.mean([s[k] for s in seen if s[1] == b]):5.0f}" for b in BLOCKS_SHOWN if b < count))
    for s in seen:
        if not (s[2] and s[3]) and s[1] in (0, 11, 23):
            print(f"  clip {s[0]} block {s[1]}: {s[4]['colour']} {s[4]['shape']} {s[4]['motion']}, error {s[4].get('shape_error')}")
    np.save(os.path.join(out, "causal_frames.npy"), np.concatenate(keep, 0)[::1, ::1])
    print(f"{len(latents)} clips of {count} blocks in {time.time() - start:.1f} s", flush=True)


# --------------------------------------------------------------------------------------------------- training


def train(args, device):
    from safetensors.torch import save_file
    began = time.time()
    cfg = {**SETTINGS, **(TINY if args.tiny else {}), "lr": args.lr, "own": args.own, **json.loads(args.settings)}
    torch.manual_seed(args.seed)
    config, t5, teacher, vae = wan.load_folder(args.checkpoint, device)
    for m in (t5, teacher, vae):
        m.requires_grad_(False)
    words, text_len = Words(os.path.join(args.checkpoint, wan.TOKENIZER_DIR)), config["text_len"]
    teacher.compute_dtype = t5.compute_dtype = torch.bfloat16
    dit = causal.make_causal(wan.dit_from_config(config, read(args.start or os.path.join(args.checkpoint, wan.DIT_FILE)))).to(device)
    dit.compute_dtype = torch.bfloat16
    tokens = 3 * 8 * 8
    plans = {(cut, gap): causal.Plan(BLOCKS, cut, gap, tokens, device) for cut in CUTS for gap in (False, True)}
    for (cut, gap), plan in plans.items():
        plan.weight[cut:cut + 2] *= torch.tensor((cfg["change"], (1 + cfg["change"]) / 2), device=device)[:BLOCKS - cut]
    pool = Pool(vae, t5, words, text_len, cfg, 1_000_000 * args.seed, device)
    pairs = imitation(teacher, t5, words, text_len, cfg, 1_000_000 * args.seed + 500_000, device)
    renewed, oldest = {**cfg, "pairs": cfg["refresh_pairs"]}, 0
    if not (args.tiny or args.eager):
        for block in dit.blocks:
            block.compile(dynamic=False)
    params = list(dit.parameters())
    optimizer = torch.optim.AdamW(params, lr=cfg["lr"], betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda")
    mean = copy.deepcopy({k: v.detach().clone() for k, v in dit.state_dict().items()})
    names = list(dict(dit.named_parameters()))
    live, step, sums, first_step = dict(dit.named_parameters()), 0, {}, None
    end = args.seconds - args.reserve
    while True:
        spent = time.time() - began
        share = 0.0 if first_step is None else (spent - first_step) / max(end - first_step, 1e-9)
        if share >= 1 or (args.tiny and step >= 3):
            break
        if cfg["refresh_every"] and step % cfg["refresh_every"] == cfg["refresh_every"] - 1 and share < 0.9:
            pool.refresh()
            fresh = imitation(teacher, t5, words, text_len, renewed, 1_000_000 * args.seed + 500_000 + step, device)
            place = torch.arange(oldest, oldest + len(fresh[0]), device=device) % len(pairs[0])
            for old, new in zip(pairs, fresh):
                old[place] = new
            oldest += len(fresh[0])
        for group in optimizer.param_groups:
            group["lr"] = cfg["lr"] * min(1, (step + 1) / cfg["warmup"]) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        loss, parts = loss_of(dit, pool, plans, pairs, cfg, cfg["own"] if step > 20 or args.tiny else 0.0, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        decay = min(cfg["ema"], (1 + step) / (10 + step))
        torch._foreach_lerp_([mean[n] for n in names], [live[n].detach() for n in names], 1 - decay)
        for key, value in parts.items():
            sums[key] = sums.get(key, 0) + value
        if step == 30 or step % 100 == 0 or step < 3:
            if device == "cuda":
                torch.cuda.synchronize()
            done = {k: round(float(v), 4) for k, v in sums.items()}
            width = {1: 1, 2: 1, 30: 28, 100: 70}.get(step, 100)
            print(f"step {step} {time.time() - began:.1f} s " + json.dumps({k: round(v / width, 4) for k, v in done.items()}), flush=True)
            sums = {}
        if first_step is None and step == 30:            # the clock of the learning rate starts after the compilation
            first_step = time.time() - began
    os.makedirs(args.out, exist_ok=True)
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in mean.items()}, os.path.join(args.out, "causal.safetensors"))
    print(f"{step} steps, {time.time() - began:.1f} s", flush=True)
    final = causal.make_causal(wan.dit_from_config(config, {k: v.to(torch.bfloat16).float() for k, v in mean.items()})).to(device).eval()
    pixels(final, vae, t5, words, text_len, device, args.out, **(dict(seeds=1, count=4, switch=2) if args.tiny else {}))
    print(f"all in {time.time() - began:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description="fine-tune the shapes checkpoint into a causal model")
    parser.add_argument("--checkpoint", default=os.path.join(HERE, "checkpoint"), help="the shipped one: start and teacher")
    parser.add_argument("--start", help="go on from these weights")
    parser.add_argument("--out", default="causal-out")
    parser.add_argument("--seconds", type=float, default=110, help="of the whole call")
    parser.add_argument("--reserve", type=float, default=14, help="of them for the table at the end")
    parser.add_argument("--lr", type=float, default=SETTINGS["lr"])
    parser.add_argument("--own", type=float, default=SETTINGS["own"], help="share of steps with the model's own past")
    parser.add_argument("--settings", default="{}", help="JSON that replaces some of SETTINGS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--export", metavar="FILE", help="write the weights of --start as longlive_base.pt and stop")
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a few steps on the CPU, to test the code")
    args = parser.parse_args()
    if args.export:
        torch.save({"generator": {"model." + k: v for k, v in read(args.start).items()}}, args.export)
        return
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.suppress_errors = True
    wan.CausalConv3d.planar = True
    train(args, "cpu" if args.tiny else "cuda")


if __name__ == "__main__":
    main()
