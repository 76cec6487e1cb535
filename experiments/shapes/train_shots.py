"""Fine-tune the shapes checkpoint to clips of several shots, in HoloCine's layout: first the VAE, then DiT and umT5.

    python3 train_shots.py vae    --out FOLDER --seconds 90                       writes FOLDER/vae.pt
    python3 train_shots.py dit    --out FOLDER --seconds 90 --vae vae.pt [--from DIT_AND_T5.pt] [--rates 8e-4 4e-4]
    python3 train_shots.py sample --out FOLDER --vae vae.pt --from DIT_AND_T5.pt [--clips 120]
    python3 train_shots.py export --out FOLDER --vae vae.pt --from DIT_AND_T5.pt

--from also takes a folder that `export` wrote, and --vae the VAE in it.

The VAE of one-shot clips smears a cut over the ten frames after it, so it learns cuts first.  `dit` starts from the shipped
checkpoint or goes on from averaged weights of an earlier piece with a new optimiser and other clips; the learning rate runs from the first
to the second of --rates over its time.  Half of the clips of a batch see each other as in HoloCine's sparse attention,
the others fully; one prompt in ten is empty and unmasked, as the negative pass is.  One GPU; --tiny tests the code on the CPU.
"""
import argparse
import copy
import datetime
import hashlib
import json
import math
import os
import time

import torch

import generator
import measure_shots
import shots
import train
import wan_torch as wan

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(HERE, "checkpoint")
SCRIPTS = ("train_shots.py", "shots.py", "train.py", "generator.py", "wan_torch.py")
TEXT_LEN = 192
DIT_NAME = "holocine_shapes.safetensors"
VAE = dict(frames=17, crop=64, crop_batch=32, full_batch=8, full_every=3, ema=0.995, kl=1e-6, latent_noise=0.1, object_weight=4.0,
           first_frame_weight=1.5, rate=6e-4, warmup=50, block=1536, cuts=(0.15, 0.45, 0.4), seed=31000)
DIT = dict(batch=64, ema=0.998, shift=3.0, drop=0.1, sparse=0.5, pool=4096, part=64, refresh=256, refresh_every=80, variants=3,
           shots=(0.1, 0.4, 0.5), warmup=50, seed=32000, odds={}, upright=False)     # odds, upright: see shots.sample


class Budget:
    """The share of a time budget that is used up."""

    def __init__(self, seconds):
        self.begin, self.seconds_given = time.time(), seconds

    def seconds(self):
        return time.time() - self.begin

    def share(self):
        return min(1.0, self.seconds() / self.seconds_given)


class Captured:
    """Loss and gradients of one batch shape as a CUDA graph, which spares the launches; plain on the CPU."""

    def __init__(self, loss, params, example, graph):
        self.loss, self.params, self.graph = loss, params, None
        if not graph:
            return
        self.inputs = [v.clone() for v in example]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.run(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(recorded):
                self.parts = self.run(self.inputs)
            self.graph = recorded
        except RuntimeError as e:
            print("not captured, launched one by one:", str(e)[:300], flush=True)

    def run(self, inputs):
        torch._foreach_zero_([p.grad for p in self.params])
        loss, parts = self.loss(*inputs)
        loss.backward()
        return {k: v.detach() for k, v in parts.items()}

    def __call__(self, *inputs):
        if self.graph is None:
            return self.run(inputs)
        for mine, given in zip(self.inputs, inputs):
            mine.copy_(given)
        self.graph.replay()
        return self.parts


class Tuner:
    """Optimiser, average and log of one piece of fine-tuning."""

    def __init__(self, name, modules, cfg, args):
        self.name, self.cfg, self.args, self.step, self.log, self.sums, self.since = name, cfg, args, 0, [], {}, 0
        self.params = [p for m in modules for p in m.parameters()]
        for p in self.params:
            p.grad = torch.zeros_like(p)
        self.optimizer, self.average = train.make_optimizer(modules), train.Average(modules, cfg["ema"])
        self.budget = Budget(args.seconds)

    def update(self, parts, rate):
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / self.cfg["warmup"])
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.step += 1
        self.average.update(self.step)
        for key, value in parts.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach().clone()
        self.since += 1
        if self.step % self.args.log_every == 0:
            entry = {"step": self.step, **{k: round(float(v) / self.since, 6) for k, v in self.sums.items()}}
            self.sums, self.since = {}, 0
            self.log.append(entry)
            print(self.name, json.dumps(entry), f"{self.budget.seconds():.0f} s", flush=True)

    def record(self, before=None):
        pieces = (before or []) + [{"settings": self.cfg, "steps": self.step, "seconds": round(self.budget.seconds()), "log": self.log}]
        return pieces

    def over(self):
        return self.budget.share() >= 1 or (self.args.tiny and self.step >= 3)


def choose(shares):
    """An index drawn with the given shares."""
    return int(torch.multinomial(torch.tensor(shares), 1))


def shipped(device):
    """The checkpoint that fine-tuning starts from: config, umT5, DiT, VAE, in float32."""
    config, t5, dit, vae = wan.load_folder(SHIPPED, device)
    return config, t5, dit, vae


# ------------------------------------------------------------------------------------------------- the VAE


def train_vae(args, device):
    cfg = {**VAE, **(dict(crop_batch=1, full_batch=1, block=4, full_every=2) if args.tiny else {})}
    torch.manual_seed(cfg["seed"])
    vae = shipped(device)[3].requires_grad_(True).train()
    tuner = Tuner("vae", [vae], cfg, args)
    latents = (cfg["frames"] + 3) // 4
    graphs, pools, cursor = {}, None, 0

    def loss(frames, cover, noise, eps):
        return train.vae_loss(vae, frames, cover, noise, eps, cfg)

    while not tuner.over():
        full = tuner.step % cfg["full_every"] == cfg["full_every"] - 1
        batch, size = (cfg["full_batch"], generator.SIZE) if full else (cfg["crop_batch"], cfg["crop"])
        if pools is None or cursor + batch > cfg["block"]:
            pools = [generator.sample_scenes(cfg["block"], cfg["seed"] + 17 * tuner.step + k).to(device) for k in range(3)]
            cursor = 0
        count = 1 + choose(cfg["cuts"])
        choices = shots.latent_starts(count, latents) or shots.latent_starts(2, latents)
        starts = choices[int(torch.randint(len(choices), (1,)))]
        with torch.no_grad():
            t = shots.tracks([p[cursor:cursor + batch] for p in pools[:len(starts)]], starts, cfg["frames"])
            frames, cover, _ = generator.render(t if full else train.crop_tracks(t, size), size)
            frames = frames.contiguous(memory_format=torch.channels_last_3d)
        cursor += batch
        grid = (batch, train.LATENT_CHANNELS, latents, size // 8, size // 8)
        given = (frames, cover, torch.randn(grid, device=device), torch.randn(grid, device=device))
        if size not in graphs:
            graphs[size] = Captured(loss, tuner.params, given, device == "cuda")
            print(f"captured {size} at {tuner.budget.seconds():.0f} s", flush=True)
        share = tuner.budget.share()
        tuner.update(graphs[size](*given), cfg["rate"] * 0.5 * (1 + math.cos(math.pi * share)))
    vae = tuner.average.models[0]
    del graphs, tuner.optimizer
    with torch.no_grad():
        mean, std = latent_moments(vae, device, 4 if args.tiny else 256)
    print("latent mean", [round(v, 3) for v in mean.tolist()], "std", [round(v, 3) for v in std.tolist()])
    wan.fold_latent_scale(vae, mean.float(), std.float())
    weights = {k: v.half().cpu().contiguous() for k, v in vae.state_dict().items()}
    psnr = reconstruction(wan.vae_from_state(weights).to(device), device, 2 if args.tiny else 48)
    tuner.log.append({"step": tuner.step, **psnr})
    print("vae", tuner.step, "steps", json.dumps(psnr), flush=True)
    train.save(os.path.join(args.out, "vae.pt"), {"weights": weights, "record": tuner.record()})


def clips(count, seed, device, part, number=None, odds=None, upright=False):
    """Frames of random clips in parts of equal cuts: yields (frames, scenes of the shots, what is shared, starts)."""
    torch.manual_seed(seed)
    for i in range(0, count, part):
        n = number or 1 + choose(DIT["shots"])
        choices = shots.latent_starts(n)
        starts = choices[int(torch.randint(len(choices), (1,)))]
        parts, shared = shots.sample(min(part, count - i), n, seed + 1000 + i, None, odds, upright)
        frames = generator.render(shots.tracks([p.to(device) for p in parts], starts))[0]
        yield frames.contiguous(memory_format=torch.channels_last_3d), parts, shared, starts


@torch.no_grad()
def latent_moments(vae, device, count):
    total, square, number = 0, 0, 0
    for frames, _, _, _ in clips(count, 555, device, min(count, 16)):
        mean = vae.moments(frames)[0].double()
        total, square = total + mean.sum((0, 2, 3, 4)), square + mean.square().sum((0, 2, 3, 4))
        number += mean[:, 0].numel()
    mean = total / number
    return mean, (square / number - mean.square()).sqrt()


@torch.no_grad()
def reconstruction(vae, device, count):
    """PSNR in dB (range 2) over held-out clips of three shots: of all frames, and of the four frames after cuts."""
    every, after = [], []
    for frames, _, _, starts in clips(count, 424242, device, min(count, 8), 3):
        error = (vae.decode(vae.encode(frames)) - frames).square().mean((1, 3, 4))
        every.append(error.flatten())
        after += [error[:, c:c + 4].flatten() for c in shots.cut_frames(starts)]
    db = lambda parts: round(-10 * math.log10(torch.cat(parts).mean().item() / 4), 2)
    return {"psnr": db(every), "psnr_after_cuts": db(after), "clips": count}


# -------------------------------------------------------------------------------------------- DiT and umT5


class Pool:
    """Encoded clips: latents, shot of each latent frame, and for each caption variant ids and what each shot sees."""

    def __init__(self, vae, words, cfg, seed, device):
        self.vae, self.words, self.cfg, self.seed, self.device, self.made, self.cursor = vae, words, cfg, seed, device, 0, 0
        self.scale = wan.latent_scale(device)
        self.data = self.make(cfg["pool"])

    @torch.no_grad()
    def make(self, count):
        cfg, rows = self.cfg, [[], [], [], []]
        self.made += 1
        seed = self.seed + 100000 * self.made
        for frames, parts, shared, starts in clips(count, seed, self.device, cfg["part"], None, cfg["odds"], cfg["upright"]):
            mean = self.vae.moments(frames.to(torch.bfloat16))[0].float()
            rows[0].append(((mean - self.scale[0]) / self.scale[1]).to(torch.bfloat16))
            shot = shots.shot_ids(starts)
            rows[1].append(shot.expand(len(frames), -1).to(self.device))
            ids, allow = [], []
            for v in range(cfg["variants"]):
                texts = [shots.prompt(*c) for c in shots.captions(parts, shared, seed + v)]
                for text in texts:
                    row, spans = self.words.encode(text, TEXT_LEN)
                    seen = shots.visible(text, spans, len(parts), TEXT_LEN)
                    ids.append(row)
                    allow.append(seen[[min(k, len(parts) - 1) for k in range(3)]])
            shape = (cfg["variants"], len(frames))
            rows[2].append(torch.tensor(ids, dtype=torch.int16).view(*shape, TEXT_LEN).transpose(0, 1).to(self.device))
            rows[3].append(torch.stack(allow).view(*shape, 3, TEXT_LEN).transpose(0, 1).to(self.device))
        return [torch.cat(r) for r in rows]

    def refresh(self, count):
        place = torch.arange(self.cursor, self.cursor + count, device=self.device) % self.cfg["pool"]
        for old, new in zip(self.data, self.make(count)):
            old[place] = new
        self.cursor += count


def text_bias(allow, shot, tokens_per_frame):
    """allow [B, 3, N], shot [B, T] -> [B, 1, L, N], 0 or -1e4."""
    rows = allow.gather(1, shot[..., None].expand(-1, -1, allow.shape[2])).repeat_interleave(tokens_per_frame, 1)
    return torch.where(rows, 0.0, -1e4)[:, None]


def shot_loss(dit, t5, x0, ids, noise, sigma, features, self_bias, words_bias, rope):
    level = sigma.view(-1, 1, 1, 1, 1)
    x = (1 - level) * x0 + level * noise
    velocity = dit(x, features, t5.context(ids), rope, self_bias, words_bias)
    loss = (velocity - (noise - x0)).square().mean()
    return loss, {"loss": loss}


def read(source):
    """DiT, umT5 and their record, from a piece of training or from a folder in the shipped layout."""
    if not os.path.isdir(source):
        return torch.load(source, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file
    with open(os.path.join(source, "provenance.json"), encoding="utf-8") as f:
        record = json.load(f)["dit"]
    return {"dit": load_file(os.path.join(source, DIT_NAME)), "record": record,
            "t5": torch.load(os.path.join(source, wan.T5_FILE), map_location="cpu", weights_only=True)}


def read_vae(path):
    """The VAE's weights and record, from a piece of training or from a folder in the shipped layout."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if "weights" in state:
        return state
    with open(os.path.join(os.path.dirname(path), "provenance.json"), encoding="utf-8") as f:
        return {"weights": state, "record": json.load(f)["vae"]}


def models(args, device):
    """DiT and umT5 to go on from, with the record of what was done to them."""
    config, t5, dit, _ = shipped("cpu")
    record = []
    if args.source:
        state = read(args.source)
        dit.load_state_dict({k: v.float() for k, v in state["dit"].items()})
        t5.load_state_dict({k: v.float() for k, v in state["t5"].items()})
        record = state["record"]
    dit.text_len = TEXT_LEN
    return config, dit.to(device), t5.to(device), record


def train_dit(args, device):
    cfg = {**DIT, **(dict(batch=2, pool=4, part=2, refresh=2, refresh_every=2, variants=2) if args.tiny else {})}
    cfg.update(json.loads(args.settings), rates=args.rates)
    cfg["pool"] = min(args.pool, cfg["pool"])
    torch.manual_seed(cfg["seed"])
    words = shots.Words(os.path.join(SHIPPED, wan.TOKENIZER_DIR))
    _, dit, t5, before = models(args, device)
    dit.train(), t5.train()
    dit.compute_dtype = t5.compute_dtype = torch.bfloat16
    if device == "cuda":
        wan.Block.forward = torch.compile(wan.Block.forward, dynamic=False)
    vae = wan.vae_from_state(read_vae(args.vae)["weights"]).to(device).eval().requires_grad_(False)
    tuner = Tuner("dit", [dit, t5], cfg, args)
    pool = Pool(vae, words, cfg, cfg["seed"] + 7 * len(before), device)
    std = pool.data[0].float().std().item()
    print(f"pool of {cfg['pool']} clips at {tuner.budget.seconds():.0f} s, latents std {std:.3f}", flush=True)
    latents = pool.data[0]
    rope = dit.rope(latents.shape[2], latents.shape[3] // 2, latents.shape[4] // 2, device)
    per_frame = latents.shape[3] * latents.shape[4] // 4
    empty = torch.tensor([1] + [0] * (TEXT_LEN - 1), device=device)
    torch.manual_seed(cfg["seed"] + 1 + len(before))
    batch, step = cfg["batch"], None

    def loss(x0, ids, noise, sigma, features, self_bias, words_bias):
        return shot_loss(dit, t5, x0, ids, noise, sigma, features, self_bias, words_bias, rope)

    while not tuner.over():
        if (tuner.step + 1) % cfg["refresh_every"] == 0 and tuner.budget.share() < 0.9:
            pool.refresh(cfg["refresh"])
        pick = torch.randint(cfg["pool"], (batch,), device=device)
        variant = torch.randint(cfg["variants"], (batch,), device=device)
        x0, shot = pool.data[0][pick].float(), pool.data[1][pick]
        dropped = torch.rand(batch, 1, device=device) < cfg["drop"]
        ids = torch.where(dropped, empty, pool.data[2][pick, variant].long())
        allow = pool.data[3][pick, variant] | dropped[..., None]
        u = (torch.arange(batch, device=device) + torch.rand(batch, device=device)) / batch
        sigma = cfg["shift"] * u / (1 + (cfg["shift"] - 1) * u)
        sparse = torch.rand(batch, 1, 1, device=device) < cfg["sparse"]
        self_bias = (shots.sparse_bias(shot, per_frame) * sparse)[:, None].to(torch.bfloat16)
        given = (x0, ids, torch.randn_like(x0), sigma, dit.time_features(1000 * sigma), self_bias,
                 text_bias(allow, shot, per_frame).to(torch.bfloat16))
        if step is None:
            step = Captured(loss, tuner.params, given, device == "cuda")
            print(f"captured at {tuner.budget.seconds():.0f} s", flush=True)
        first, last = cfg["rates"]
        tuner.update(step(*given), first + (last - first) * tuner.budget.share())
    print(f"dit: {tuner.step} steps in {tuner.budget.seconds():.0f} s", flush=True)
    weights = [{k: v.to(torch.bfloat16).cpu().contiguous() for k, v in m.state_dict().items()} for m in tuner.average.models]
    train.save(os.path.join(args.out, "dit.pt"), {"dit": weights[0], "t5": weights[1], "record": tuner.record(before)})


# ------------------------------------------------------------------------------------------------ sampling


@torch.no_grad()
def sample_shots(dit, t5, words, clips, noise, sparse, steps, shift, guidance):
    """Guided Euler sampling of (scene, captions, starts), masks in the conditional pass only -> latents."""
    device = noise.device
    per_frame = noise.shape[3] * noise.shape[4] // 4
    ids, allow, shot = [], [], []
    for scene, lines, starts in clips:
        text = shots.prompt(scene, lines)
        row, spans = words.encode(text, TEXT_LEN)
        ids.append(row)
        allow.append(shots.visible(text, spans, len(lines), TEXT_LEN)[[min(k, len(lines) - 1) for k in range(3)]])
        shot.append(shots.shot_ids(starts))
    shot = torch.stack(shot).to(device)
    own = shots.sparse_bias(shot, per_frame)[:, None] if sparse else None
    bias = text_bias(torch.stack(allow).to(device), shot, per_frame)
    text = t5.context(torch.tensor(ids, device=device))
    empty = t5.context(torch.tensor([[1] + [0] * (TEXT_LEN - 1)], device=device)).expand_as(text)
    rope = dit.rope(noise.shape[2], noise.shape[3] // 2, noise.shape[4] // 2, device)
    x, sigmas = noise.clone(), wan.euler_sigmas(steps, shift).tolist()
    for now, after in zip(sigmas[:-1], sigmas[1:]):
        features = dit.time_features(torch.full((len(x),), 1000 * now, device=device, dtype=torch.float64))
        cond = dit(x, features, text, rope, own, bias)
        uncond = dit(x, features, empty, rope, own)
        x = x + (after - now) * (uncond + guidance * (cond - uncond))
    return x


@torch.no_grad()
def sample(args, device):
    """Sample the evaluation prompts, full and sparse, and print what the pixels show."""
    import numpy as np
    _, dit, t5, _ = models(args, device)
    dit.eval(), t5.eval()
    dit.compute_dtype = t5.compute_dtype = torch.bfloat16 if device == "cuda" else torch.float32
    vae = wan.vae_from_state(read_vae(args.vae)["weights"]).to(device).eval()
    words = shots.Words(os.path.join(SHIPPED, wan.TOKENIZER_DIR))
    chosen = shots.evaluation_set(two=args.clips // 2, three=args.clips - args.clips // 2)
    began = time.time()
    for guidance in args.guidance:
        for sparse in (False, True):
            folder = os.path.join(args.videos, f"{'sparse' if sparse else 'full'}-{guidance:g}")
            os.makedirs(folder, exist_ok=True)
            with open(os.path.join(folder, "shots.jsonl"), "w", encoding="utf-8") as f:
                for i in range(0, len(chosen), 60):
                    part = chosen[i:i + 60]
                    noise = torch.cat([torch.randn(1, 16, shots.LATENT_FRAMES, 16, 16, generator=torch.Generator().manual_seed(42 + i + k))
                                       for k in range(len(part))]).to(device)
                    latents = sample_shots(dit, t5, words, part, noise, sparse, args.steps, args.shift, guidance)
                    for k, (scene, lines, starts) in enumerate(part):
                        frames = generator.to_bytes(vae.decode(latents[k:k + 1]))[0].cpu().numpy()
                        np.save(os.path.join(folder, f"{i + k:04d}.npy"), frames)
                        f.write(json.dumps({"file": f"{i + k:04d}.npy", "scene": scene, "captions": lines, "cuts": shots.cut_frames(starts)}) + "\n")
            measured = measure_shots.measure_all(list(measure_shots.jobs_of(folder)), min(16, os.cpu_count()))
            summary = measure_shots.summarise(measured)
            write_json(args.videos, f"{os.path.basename(folder)}.json", summary)
            print(f"== {os.path.basename(folder)} at {time.time() - began:.0f} s")
            measure_shots.print_summary(summary)


# -------------------------------------------------------------------------------------------------- export


def write_json(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def export(args, device):
    """Write the checkpoint: one DiT for both experts, its text encoder, its VAE and its provenance."""
    from safetensors.torch import save_file
    state, vae = read(args.source), read_vae(args.vae)
    with open(os.path.join(SHIPPED, "config.json"), encoding="utf-8") as f:
        config = {**json.load(f), "text_len": TEXT_LEN}
    write_json(args.out, "config.json", config)
    save_file(state["dit"], os.path.join(args.out, DIT_NAME))
    torch.save(state["t5"], os.path.join(args.out, wan.T5_FILE))
    torch.save(vae["weights"], os.path.join(args.out, wan.VAE_FILE))
    names = ["config.json", DIT_NAME, wan.T5_FILE, wan.VAE_FILE]
    write_json(args.out, "provenance.json", {
        "made_by": "experiments/shapes/train_shots.py", "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": args.device_name, "from": "experiments/shapes/checkpoint",
        "data": "synthetic clips made by shots.py from the seeds in the settings; no other data",
        "scripts_sha256": {n: digest(os.path.join(HERE, n)) for n in SCRIPTS},
        "files_sha256": {n: digest(os.path.join(args.out, n)) for n in names}, "vae": vae["record"], "dit": state["record"]})
    print({n: os.path.getsize(os.path.join(args.out, n)) for n in names})


def main():
    parser = argparse.ArgumentParser(description="fine-tune the shapes checkpoint to several shots")
    parser.add_argument("stage", choices=("vae", "dit", "sample", "export"))
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--vae")
    parser.add_argument("--from", dest="source")
    parser.add_argument("--rates", type=float, nargs=2, default=(8e-4, 4e-4))
    parser.add_argument("--settings", default="{}", help="JSON that replaces some of DIT")
    parser.add_argument("--pool", type=int, default=1 << 20, help="at most this many clips in memory")
    parser.add_argument("--log-every", type=int, default=200)
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--videos", default="videos", help="where `sample` writes clips")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--guidance", type=float, nargs="+", default=(4.0,))
    parser.add_argument("--device-name", default="NVIDIA H200")
    parser.add_argument("--tiny", action="store_true", help="a few steps on the CPU, to test the code")
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    device = "cpu" if args.tiny or args.stage == "export" or not torch.cuda.is_available() else "cuda"
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    wan.CausalConv3d.planar = True
    {"vae": train_vae, "dit": train_dit, "sample": sample, "export": export}[args.stage](args, device)


if __name__ == "__main__":
    main()
