"""Train VACE tensors for the shapes checkpoint, which itself stays as it is.

    python3 train_vace.py --out FOLDER [--start FOLDER/vace.safetensors] [--seconds 100] [--seed 1]

Writes FOLDER/vace.safetensors (vace_blocks.*, vace_patch_embedding.*, averaged, bfloat16) and prints a table measured from
pixels.  Three kinds of conditions: a reference image (one object on a plain ground; the caption mostly leaves out colour
and shape, which the video must take from it), a depth video (near = bright; the place and outline of the objects), both.
As in the release the reference is a latent frame in front of the video's, denoised along, and its hints are blocks
of the main kind that begin as copies of the main blocks.

With --teacher FILE (tensors that follow depth already) the clips give the noisy latents only, and what to make of them is
learned from a teacher that is told in words what the reference shows: the checkpoint alone, or with FILE's hints of the
depth.  That target has none of the spread of the clips.  Without a text the teacher knows no reference, and the model
learns so: guidance then amplifies what the reference says as it does words.
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
from torch import nn

import generator
import measure
import wan_torch as wan
from words import Words

HERE = os.path.dirname(os.path.abspath(__file__))
LAYERS = (0, 3)                         # the main blocks after which hints are added
CHANNELS = 96
SETTINGS = dict(clips=3456, batch=160, lr=1e-3, warmup=60, ema=0.995, drop=0.1, depth_share=0.3, both=0.3, shift=7.0, own=(0.4, 0.1))
TAUGHT = dict(drop=0.3, depth_share=0.12, both=0.2, own=(0.1, 0.1), ema=0.998, shift=3.0, high=(0.5, 0.9))     # high: share, lowest level
UNSAID = {"full": dict(size=0.4, motion=0.2, background=0.2), "short": dict(size=0.4, motion=0.05, colour=0.9, shape=0.9, background=0.5),
          "bare": dict(size=0.7, motion=0.7, colour=0.9, shape=0.9, background=0.5)}          # of the first object, by kind of caption
TINY = dict(clips=4, batch=2, warmup=1)


class HintBlock(wan.Block):
    def __init__(self, dim, heads, hidden, first):
        super().__init__(dim, heads, hidden)
        if first:
            self.before_proj = nn.Linear(dim, dim)
            nn.init.zeros_(self.before_proj.weight)
            nn.init.zeros_(self.before_proj.bias)
        self.after_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.after_proj.weight)
        nn.init.zeros_(self.after_proj.bias)


class Vace(nn.Module):
    """The tensors of a VACE file for a DiT.

    Half of the heads of the hint blocks begin with queries near zero, so that they look at all tokens alike: what the
    reference shows reaches every frame from the first step on.  Heads that look at places learn the way only slowly.
    """

    def __init__(self, dit):
        super().__init__()
        hidden = dit.blocks[0].ffn[0].out_features
        self.vace_blocks = nn.ModuleList(HintBlock(dit.dim, dit.heads, hidden, i == 0) for i in range(len(LAYERS)))
        for block, layer in zip(self.vace_blocks, LAYERS):
            block.load_state_dict(dit.blocks[layer].state_dict(), strict=False)
            block.self_attn.norm_q.weight.data[:dit.dim // 2] *= 0.05
        self.vace_patch_embedding = nn.Conv3d(CHANNELS, dit.dim, (1, 2, 2), (1, 2, 2))
        nn.init.normal_(self.vace_patch_embedding.weight, std=0.02)
        nn.init.zeros_(self.vace_patch_embedding.bias)


def patches(x, conv, dtype):
    b, c, frames, height, width = x.shape
    x = x.view(b, c, frames, height // 2, 2, width // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)
    return F.linear(x.to(dtype), conv.weight.flatten(1).to(dtype), conv.bias.to(dtype)).float()


def velocity(dit, vace, x, t, text, conditions, scale=1.0):
    """As WanDiT.velocity with conditions [B, 96, T, h, w]; hint i is added after main block LAYERS[i], none where `vace` is None."""
    b, c, frames, height, width = x.shape
    rope = dit.rope(frames, height // 2, width // 2, x.device)
    dtype = dit.compute_dtype
    tokens = patches(x, dit.patch_embedding, dtype)
    e = wan.linear(dit.time_embedding[2], F.silu(wan.linear(dit.time_embedding[0], dit.time_features(t))))
    e0 = wan.linear(dit.time_projection[1], F.silu(e)).view(b, 6, dit.dim)
    text = F.pad(text, (0, 0, 0, dit.text_len - text.shape[1])).to(dtype)
    context = wan.linear(dit.text_embedding[2], F.gelu(wan.linear(dit.text_embedding[0], text), approximate="tanh"))
    if vace is not None:
        hint = wan.linear(vace.vace_blocks[0].before_proj, patches(conditions, vace.vace_patch_embedding, dtype).to(dtype)).float() + tokens
    for i, block in enumerate(dit.blocks):
        tokens = block(tokens, e0, context, rope)
        if vace is not None and i in LAYERS:
            k = LAYERS.index(i)
            hint = vace.vace_blocks[k](hint, e0, context, rope)
            tokens = tokens + scale * wan.linear(vace.vace_blocks[k].after_proj, hint.to(dtype)).float()
    shift, gain = (dit.head.modulation + e[:, None]).unsqueeze(2).unbind(1)
    out = wan.linear(dit.head.head, wan.layer_norm(tokens) * (1 + gain) + shift)
    out = out.view(b, frames, height // 2, width // 2, 2, 2, c).permute(0, 6, 1, 2, 4, 3, 5)
    return out.reshape(x.shape)


# ------------------------------------------------------------------------------------------------------ data


@torch.no_grad()
def encode(vae, frames):
    scale = wan.latent_scale(frames.device)
    mean = vae.moments(frames.to(torch.bfloat16 if frames.is_cuda else torch.float32))[0].float()
    return ((mean - scale[0]) / scale[1]).to(torch.bfloat16)


def portrait(scenes, seed, grammar):
    """One picture of the first object of every scene: near the middle, upright, on a plain ground -> [B, 3, 1, H, W]."""
    n, device = len(scenes), scenes.x.device
    rng = torch.Generator().manual_seed(seed)
    uniform = lambda low, high, *shape: (low + (high - low) * torch.rand(*shape, generator=rng)).to(device)
    ground = torch.multinomial(torch.tensor([0.15, 0.15, 0.7]), n, True, generator=rng).to(device)      # mostly white
    t = generator.tracks(scenes, 1, grammar)
    scale = torch.tensor([s.scale for s in grammar.shapes.values()], device=device)[scenes.shape]
    upright = torch.tensor([s.angle for s in grammar.shapes.values()], device=device)[scenes.shape]
    t.x, t.y = (generator.SIZE / 2 + uniform(-6, 6, n, 1, generator.OBJECTS) for _ in "xy")
    t.radius = (uniform(26, 44, n, generator.OBJECTS) * scale)[:, None]
    t.angle = upright[:, None]
    t.visible = t.visible & (torch.arange(generator.OBJECTS, device=device) == 0)
    t.background = generator._rgb(grammar.backgrounds, ground)[:, None]
    return generator.render(t)[0]


def depth_video(depth):
    """[B, F, H, W], 0 near .. 1 far -> [B, 3, F, H, W] in [-1, 1], near = bright, stretched to the whole range."""
    near = 1 - depth
    near = near / near.amax((1, 2, 3), keepdim=True).clamp_min(1e-3)
    return (2 * near - 1)[:, None].expand(-1, 3, -1, -1, -1).contiguous()


def conditions_of(latents, grey, reference=None, depth=None):
    """[B, 96, T (+1), h, w]: 16 inactive, 16 reactive, 64 of the mask, all ones; a reference in front with zeros."""
    b, _, frames, height, width = latents.shape
    ones = torch.ones(b, 64, frames, height, width, device=latents.device, dtype=latents.dtype)
    grey = grey.to(latents.dtype).expand(b, -1, -1, -1, -1)
    c = torch.cat((grey, grey if depth is None else depth, ones), 1)
    if reference is None:
        return c
    front = torch.cat((reference, torch.zeros(b, 80, 1, height, width, device=c.device, dtype=c.dtype)), 1)
    return torch.cat((front, c), 2)


class Pool:
    def __init__(self, vae, t5, words, text_len, cfg, seed, device):
        start, grammar = time.time(), generator.Grammar()
        n, batch = cfg["clips"], min(96, cfg["clips"])
        scenes = generator.sample_scenes(n, seed, generator.Weights(count={1: 0.85, 2: 0.15}), grammar)
        rng = torch.Generator().manual_seed(seed + 1)
        lines = {kind + told: [] for kind in UNSAID for told in ("", " told")}         # "told": with what the reference shows
        for objects, background in generator.describe(scenes, grammar):
            for kind, chances in UNSAID.items():
                silent = {k for k, chance in chances.items() if torch.rand(1, generator=rng).item() < chance}
                for told, quiet in (("", silent), (" told", silent - {"colour", "shape"})):
                    first = {k: w for k, w in objects[0].items() if k not in quiet}
                    lines[kind + told].append(grammar.sentence([first] + objects[1:], None if "background" in quiet else background))
        self.text = {k: t5.context(torch.tensor(words.encode(l, text_len), device=device)).to(torch.bfloat16) for k, l in lines.items()}
        self.empty = t5.context(torch.tensor(words.encode([""], text_len), device=device)).to(torch.bfloat16)
        parts = {"video": [], "reference": [], "depth": [], "weight": []}
        for i in range(0, n, batch):
            some = scenes[i:i + batch].to(device)
            frames, cover, depth = generator.render(generator.tracks(some))
            cover = F.max_pool2d(F.avg_pool2d(cover, 8), 3, 1, 1)
            cover = torch.cat((cover[:, :1], cover[:, 1:].unflatten(1, (-1, 4)).mean(2)), 1)[:, None]
            parts["weight"].append(torch.cat((torch.full_like(cover[:, :, :1], 0.3), 0.3 + 3 * cover), 2))      # objects count most
            last = lambda v: v.contiguous(memory_format=torch.channels_last_3d)
            parts["video"].append(encode(vae, last(frames)))
            parts["depth"].append(encode(vae, last(depth_video(depth))))
            parts["reference"].append(encode(vae, last(portrait(some, seed + 2 + i, grammar))))
        self.video, self.reference, self.depth, self.weight = (torch.cat(parts[k]) for k in ("video", "reference", "depth", "weight"))
        self.grey = encode(vae, torch.zeros(1, 3, generator.FRAMES, generator.SIZE, generator.SIZE, device=device))
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"{n} clips in {time.time() - start:.1f} s", flush=True)


def loss_of(dit, vace, pool, cfg, share, device):
    """`share`: how far the training has come, 0 to 1."""
    batch = cfg["batch"]
    pick = torch.randint(len(pool.video), (batch,), device=device)
    x0 = pool.video[pick]
    alone = torch.rand(1).item() < cfg["depth_share"]
    if alone:
        c, text = conditions_of(x0, pool.grey, depth=pool.depth[pick]), pool.text["full"][pick]
    else:
        chance = lambda: torch.rand(batch, 1, 1, 1, 1, device=device)
        steer = chance() < cfg["both"]
        depth = torch.where(steer, pool.depth[pick], pool.grey.expand(batch, -1, -1, -1, -1))
        # the video's own first frame is the easier picture to learn from: more often in the beginning
        reference = torch.where(chance() < cfg["own"][0] + (cfg["own"][1] - cfg["own"][0]) * share, x0[:, :, :1], pool.reference[pick])
        c, text = conditions_of(x0, pool.grey, reference, depth), pool.text["short"][pick]
        x0 = torch.cat((reference, x0), 2)
    text = torch.where(torch.rand(batch, 1, 1, device=device) < cfg["drop"], pool.empty, text)
    u = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
    sigma = cfg["shift"] * u / (1 + (cfg["shift"] - 1) * u)
    x0, level = x0.float(), sigma.view(-1, 1, 1, 1, 1)
    noise = torch.randn_like(x0)
    v = velocity(dit, vace, (1 - level) * x0 + level * noise, 1000 * sigma, text.float(), c)
    weight = pool.weight[pick][:, :, -x0.shape[2]:]
    return (weight * (v - (noise - x0)).square()).sum() / (weight.sum() * x0.shape[1]), "depth" if alone else "reference"


def taught_loss(dit, vace, teacher, pool, cfg, device):
    """The distance from a teacher that reads in the caption what the model has to see in the reference."""
    batch, u = cfg["batch"], torch.rand(1).item()
    kind = "depth" if u < cfg["depth_share"] else "both" if u < cfg["depth_share"] + cfg["both"] else "reference"
    pick = torch.randint(len(pool.video), (batch,), device=device)
    x0 = pool.video[pick]
    caption = {"depth": "full", "both": "bare", "reference": "short"}[kind]
    dropped = torch.rand(batch, 1, 1, device=device) < cfg["drop"]
    text, told = (torch.where(dropped, pool.empty, pool.text[k][pick]).float() for k in (caption, caption + " told"))
    depth = None if kind == "reference" else pool.depth[pick]
    alone = conditions_of(x0, pool.grey, depth=depth)
    u = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
    sigma = cfg["shift"] * u / (1 + (cfg["shift"] - 1) * u)
    often, least = cfg["high"]
    sigma = torch.where(torch.rand(batch, device=device) < often, least + (1 - least) * torch.rand(batch, device=device), sigma)
    level, x0 = sigma.view(-1, 1, 1, 1, 1), x0.float()
    noise = torch.randn_like(x0)
    x = (1 - level) * x0 + level * noise
    with torch.no_grad():
        want = velocity(dit, None if depth is None else teacher, x, 1000 * sigma, told, alone)
    weight, c = pool.weight[pick][:, :, -x0.shape[2]:] if kind != "reference" else torch.ones_like(x0[:, :1]), alone
    if kind != "depth":
        own = torch.rand(batch, 1, 1, 1, 1, device=device) < cfg["own"][0]
        reference = torch.where(own, pool.video[pick][:, :, :1], pool.reference[pick])
        c = conditions_of(pool.video[pick], pool.grey, reference, depth)
        noise = torch.randn_like(x0[:, :, :1])
        x = torch.cat(((1 - level) * reference.float() + level * noise, x), 2)
        want = torch.cat((noise - reference.float(), want), 2)
        weight = torch.cat((torch.full_like(weight[:, :, :1], 0.1), weight), 2)
    v = velocity(dit, vace, x, 1000 * sigma, text, c)
    return (weight * (v - want).square()).sum() / (weight.sum() * x0.shape[1]), kind


# ---------------------------------------------------------------------------------------------------- pixels


def _look(job):
    frames, want = job
    seen = measure.describe_video(frames)
    where = []
    for frame, target in zip(frames, want["frames"] if want["frames"] is not None else []):
        spots = []
        for f in (frame, target):
            found = measure.largest_object(f.astype(np.float32), measure.background_colour(f[None].astype(np.float32)))[0]
            spots.append(None if found is None else measure.radial_profile(found[1])[:2])
        if None not in spots:
            where.append(math.hypot(spots[0][0] - spots[1][0], spots[0][1] - spots[1][1]))
    return seen["colour"] == want["colour"], seen["shape"] == want["shape"], seen["motion"] == want["motion"], float(np.mean(where)) if where else 99.0


@torch.no_grad()
def sample(dit, vace, text, empty, conditions, noise, steps=20, shift=3.0, guidance=4.0):
    sigmas, x = wan.euler_sigmas(steps, shift).tolist(), noise.clone()
    for now, after in zip(sigmas[:-1], sigmas[1:]):
        t = torch.full((len(x),), 1000 * now, device=x.device, dtype=torch.float64)
        v, w = (velocity(dit, vace, x, t, c, conditions) for c in (text, empty.float().expand(len(x), -1, -1)))
        x = x + (after - now) * (w + guidance * (v - w))
    return x


@torch.no_grad()
def pixels(dit, vace, vae, t5, words, text_len, pool, device, out, count=48, steps=20):
    start, grammar = time.time(), generator.Grammar()
    scenes = generator.sample_scenes(count, 987_654, generator.Weights(count={1: 1.0}), grammar)
    told = [{**o[0], "background": ground} for o, ground in generator.describe(scenes, grammar)]
    other = scenes.map(lambda v: v.roll(1, 0)).to(device)           # depth of another clip: its place and outline
    scenes = scenes.to(device)
    frames = generator.render(generator.tracks(scenes))[0]
    depth = encode(vae, depth_video(generator.render(generator.tracks(scenes))[2]))
    other_depth = encode(vae, depth_video(generator.render(generator.tracks(other))[2]))
    other_frames = generator.to_bytes(generator.render(generator.tracks(other))[0]).cpu().numpy()
    reference = encode(vae, portrait(scenes, 5, grammar))
    real = generator.to_bytes(frames).cpu().numpy()
    empty = pool.empty
    embed = lambda lines: t5.context(torch.tensor(words.encode(lines, text_len), device=device))
    motion = [grammar.motions[o["motion"]].phrase for o in told]
    rng = torch.Generator(device).manual_seed(3)
    jobs, names, keep = [], [], []
    cases = {"reference": (reference, None, [f"a shape {m}" for m in motion]),
             "reference, background said": (reference, None,
                                            [f"a shape {m} on a {o['background']} background" for m, o in zip(motion, told)]),
             "depth": (None, depth, [f"a {o['colour']} shape" for o in told]),
             "reference and another's depth": (reference, other_depth, ["a shape"] * count)}
    for name, (ref, control, lines) in cases.items():
        x = torch.zeros(count, 16, 5, 16, 16, device=device, dtype=torch.bfloat16)
        c = conditions_of(x, pool.grey, ref, control)
        noise = torch.randn(count, 16, c.shape[2], 16, 16, generator=rng, device=device)
        latents = sample(dit, vace, embed(lines), empty, c, noise, steps)[:, :, -5:]
        for i in range(0, count, 8):
            video = generator.to_bytes(vae.decode(latents[i:i + 8])).cpu().numpy()
            for k, frames in enumerate(video):
                o = told[i + k]
                want = dict(colour=o["colour"], shape=o["shape"] if control is not other_depth else told[(i + k - 1) % count]["shape"],
                            motion=o["motion"] if control is not other_depth else told[(i + k - 1) % count]["motion"],
                            frames=None if control is None else real[i + k] if control is depth else other_frames[i + k])
                jobs.append((frames, want))
                names.append(name)
            if i == 0:
                keep.append(np.concatenate([np.concatenate([f[8] for f in video], 1), np.concatenate([f[16] for f in video], 1)], 0))
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1)) as workers:
        seen = list(workers.map(_look, jobs, chunksize=4))
    for name in cases:
        rows = [s for s, n in zip(seen, names) if n == name]
        print(f"{name:30s} colour {100 * np.mean([r[0] for r in rows]):5.1f} shape {100 * np.mean([r[1] for r in rows]):5.1f} "
              f"motion {100 * np.mean([r[2] for r in rows]):5.1f} centre off by {np.median([r[3] for r in rows]):5.2f} px (median), "
              f"{100 * np.mean([r[3] < 3 for r in rows]):.0f} % below 3 px")
    np.save(os.path.join(out, "vace_frames.npy"), np.concatenate(keep, 0))
    print(f"{len(jobs)} videos in {time.time() - start:.1f} s", flush=True)


# --------------------------------------------------------------------------------------------------- training


def train(args, device):
    from safetensors.torch import load_file, save_file
    began = time.time()
    cfg = {**SETTINGS, **(TAUGHT if args.teacher else {}), **(TINY if args.tiny else {}), **json.loads(args.settings)}
    torch.manual_seed(args.seed)
    config, t5, dit, vae = wan.load_folder(args.checkpoint, device)
    for m in (t5, dit, vae):
        m.requires_grad_(False)
    words, text_len = Words(os.path.join(args.checkpoint, wan.TOKENIZER_DIR)), config["text_len"]
    dit.compute_dtype = t5.compute_dtype = torch.bfloat16
    vace = Vace(dit).to(device)
    if args.start:
        vace.load_state_dict({k: v.float() for k, v in load_file(args.start).items()})
    teacher = None
    if args.teacher:
        teacher = Vace(dit).to(device).requires_grad_(False)
        teacher.load_state_dict({k: v.float() for k, v in load_file(args.teacher).items()})
    if args.look_around:
        for block in vace.vace_blocks:
            block.self_attn.norm_q.weight.data[:dit.dim // 2] *= 0.05
    pool = Pool(vae, t5, words, text_len, cfg, 100_000 * args.seed + 77, device)
    params, names = list(vace.parameters()), [k for k, _ in vace.named_parameters()]
    mean = {k: v.detach().clone() for k, v in vace.named_parameters()}
    optimizer = torch.optim.AdamW(params, lr=cfg["lr"], betas=(0.9, 0.98), weight_decay=0.0, fused=device == "cuda")
    plain = copy.deepcopy(dit)
    if not (args.tiny or args.eager):
        for block in (*dit.blocks, *vace.vace_blocks, *(teacher.vace_blocks if teacher else ())):
            block.compile(dynamic=False)
    end, step, sums, counts, first_step = args.seconds - args.reserve, 0, {}, {}, None
    while True:
        spent = time.time() - began
        share = 0.0 if first_step is None else (spent - first_step) / max(end - first_step, 1e-9)
        if share >= 1 or (args.tiny and step >= 4):
            break
        for group in optimizer.param_groups:
            group["lr"] = cfg["lr"] * min(1, (step + 1) / cfg["warmup"]) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        loss, kind = taught_loss(dit, vace, teacher, pool, cfg, device) if teacher else loss_of(dit, vace, pool, cfg, share, device)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        step += 1
        decay = min(cfg["ema"], (1 + step) / (10 + step))
        torch._foreach_lerp_([mean[n] for n in names], [p.detach() for p in params], 1 - decay)
        sums[kind], counts[kind] = sums.get(kind, 0) + loss.detach(), counts.get(kind, 0) + 1
        if step in (1, 2, 40) or step % 200 == 0:
            print(f"step {step} {time.time() - began:.1f} s " + json.dumps({k: round(float(sums[k]) / counts[k], 5) for k in sums}), flush=True)
            sums, counts = {}, {}
        if first_step is None and step == 40:
            first_step = time.time() - began
    os.makedirs(args.out, exist_ok=True)
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in mean.items()}, os.path.join(args.out, "vace.safetensors"))
    print(f"{step} steps, {time.time() - began:.1f} s", flush=True)
    final = Vace(plain).to(device)
    final.load_state_dict({k: v.to(torch.bfloat16).float() for k, v in mean.items()})
    pixels(plain, final, vae, t5, words, text_len, pool, device, args.out, **(dict(count=2, steps=2) if args.tiny else {}))
    print(f"all in {time.time() - began:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description="train VACE tensors for the shapes checkpoint")
    parser.add_argument("--checkpoint", default=os.path.join(HERE, "checkpoint"))
    parser.add_argument("--start", help="go on from these tensors")
    parser.add_argument("--teacher", help="learn from the checkpoint, told the reference in words, and these tensors, shown the depth")
    parser.add_argument("--look-around", action="store_true", help="set half of the heads back to looking at all tokens alike")
    parser.add_argument("--out", default="vace-out")
    parser.add_argument("--seconds", type=float, default=110, help="of the whole call")
    parser.add_argument("--reserve", type=float, default=12, help="of them for the table at the end")
    parser.add_argument("--settings", default="{}", help="JSON that replaces some of SETTINGS")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a few steps on the CPU, to test the code")
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.cache_size_limit = 64
    torch._dynamo.config.suppress_errors = True
    wan.CausalConv3d.planar = True
    train(args, "cpu" if args.tiny else "cuda")


if __name__ == "__main__":
    main()
