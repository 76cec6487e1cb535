"""Train the shapes checkpoint: tokenizer, VAE, then DiT and umT5 together, then the files of the original layout.

    python3 train.py vae    --state STATE [--minutes 7.5]
    python3 train.py dit    --state STATE [--minutes 7.5]
    python3 train.py export --state STATE --out checkpoint

`vae` and `dit` stop after --minutes with everything saved in STATE and go on from there when called again; each
prints `done` once it has made all its steps.  If only the small `dit_final.pt` (averaged weights) is left of a
piece, `dit` goes on from that with a new optimiser state, and the log says so.  One GPU; on the CPU only with --tiny, which is a test of the code.
The tokenizer is rebuilt by every stage that needs it (it is the same every time).
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
import torch.nn.functional as F

import generator
import tokenizer as tokens
import wan_torch as wan

HERE = os.path.dirname(os.path.abspath(__file__))
SCRIPTS = ("train.py", "generator.py", "wan_torch.py", "tokenizer.py")
LATENT_CHANNELS = 16

VAE = dict(dim=16, steps=7100, lr=8e-4, warmup=200, crop=64, crop_batch=16, crop_share=0.634, full_batch=8, ema=0.998,
           kl=1e-6, latent_noise=0.1, object_weight=4.0, first_frame_weight=1.5, seed=1000)
DIT = dict(dim=256, ffn_dim=1024, num_heads=4, num_layers=6, text_len=32, freq_dim=256,
           t5_dim=128, t5_attn=128, t5_ffn=256, t5_heads=2, t5_layers=2,
           steps=21500, lr=1e-3, warmup=500, batch=256, ema=0.9995, shift=3.0, drop=0.1, pool=32768, refresh=2048,
           refresh_every=1000, variants=4, seed=2000)
TINY = dict(vae=dict(dim=4, steps=3, crop_batch=1, full_batch=1, warmup=1),
            dit=dict(dim=48, ffn_dim=64, num_heads=2, num_layers=1, t5_dim=16, t5_attn=16, t5_ffn=32, steps=4,
                     warmup=1, batch=2, pool=4, refresh=2, refresh_every=2,
                     variants=2))


# ------------------------------------------------------------------------------------------------- plumbing


class Clock:
    """Wall-clock budget of one call."""

    def __init__(self, minutes):
        self.start, self.limit = time.time(), 60 * minutes

    def seconds(self):
        return time.time() - self.start

    def over(self):
        return self.seconds() > self.limit


def rate(step, cfg):
    """Learning rate: linear warm-up, then half a cosine to zero at the last step."""
    if step < cfg["warmup"]:
        return cfg["lr"] * (step + 1) / cfg["warmup"]
    return cfg["lr"] * 0.5 * (1 + math.cos(math.pi * (step - cfg["warmup"]) / (cfg["steps"] - cfg["warmup"])))


def make_optimizer(modules):
    """AdamW; weight decay on matrices and kernels only."""
    params = [p for m in modules for p in m.parameters()]
    groups = [{"params": [p for p in params if p.ndim > 1 and p.numel() > 4096], "weight_decay": 0.01},
              {"params": [p for p in params if not (p.ndim > 1 and p.numel() > 4096)], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), fused=params[0].is_cuda)


class Average:
    """Exponential moving average of the parameters of some modules."""

    def __init__(self, modules, decay):
        self.decay = decay
        self.live = [p for m in modules for p in m.parameters()]
        self.models = [copy.deepcopy(m).eval().requires_grad_(False) for m in modules]
        self.mean = [p for m in self.models for p in m.parameters()]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.mean, self.live, 1 - decay)


def save(path, value):
    torch.save(value, path + ".part")
    os.replace(path + ".part", path)


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True) if os.path.exists(path) else None


class Trainer:
    """What both stages share: modules, their average, optimiser, resume, log."""

    def __init__(self, name, modules, cfg, args):
        self.name, self.cfg, self.args, self.modules = name, cfg, args, modules
        self.path = os.path.join(args.state, name + ".pt")
        self.clock = Clock(args.minutes)
        self.optimizer = make_optimizer(modules)
        self.average = Average(modules, cfg["ema"])
        self.step, self.log, self.spent, self.pieces = 0, [], 0.0, 0
        state = load(self.path)
        if state:
            for module, value in zip(modules, state["modules"]):
                module.load_state_dict(value)
            for module, value in zip(self.average.models, state["average"]):
                module.load_state_dict(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.log = state["step"], state["log"]
            self.spent, self.pieces = state["spent"], state["pieces"]
        self.restart = None              # the step at which a lost optimiser state was begun anew
        self.params = [p for m in modules for p in m.parameters()]
        self.sums, self.since = {}, 0

    def continue_from(self, weights, record):
        """Go on from averaged weights alone, where the full state is lost: the optimiser starts anew."""
        for module, average, value in zip(self.modules, self.average.models, weights):
            module.load_state_dict(value)
            average.load_state_dict(value)
        self.step, self.log, self.spent = record["steps"], record["log"], record["seconds"]
        self.pieces, self.restart = record["pieces"], record["steps"]
        self.log.append({"step": self.step, "note": "continued from averaged bfloat16 weights, new optimiser state"})

    def finished(self):
        return self.step >= self.cfg["steps"]

    def update(self, loss, parts):
        """One optimiser step; `parts` are detached losses to log."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.step, self.cfg)
            if self.restart is not None:
                group["lr"] *= min(1.0, (self.step - self.restart + 1) / 200)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        self.optimizer.step()
        self.step += 1
        self.average.update(self.step)
        for key, value in parts.items():
            self.sums[key] = self.sums.get(key, 0) + value.detach()
        self.since += 1
        if self.step % self.args.log_every == 0 or self.finished():
            entry = {"step": self.step, **{k: round(float(v) / self.since, 6) for k, v in self.sums.items()}}
            self.sums, self.since = {}, 0
            self.log.append(entry)
            print(self.name, json.dumps(entry), f"{self.clock.seconds():.0f} s", flush=True)

    def record(self):
        """What the provenance says about this stage."""
        return {"settings": self.cfg, "steps": self.step, "seconds": round(self.spent + self.clock.seconds()),
                "pieces": self.pieces + 1, "log": self.log}

    def save(self):
        save(self.path, {"modules": [m.state_dict() for m in self.modules],
                         "average": [m.state_dict() for m in self.average.models],
                         "optimizer": self.optimizer.state_dict(), "step": self.step, "log": self.log,
                         "spent": self.spent + self.clock.seconds(), "pieces": self.pieces + 1, "config": self.cfg})
        print(f"{self.name}: {'done' if self.finished() else 'to be continued'} at step {self.step} of "
              f"{self.cfg['steps']}, {self.spent + self.clock.seconds():.0f} s in all", flush=True)


def compiled(f, args):
    return f if args.tiny or args.eager else torch.compile(f, dynamic=False)


# ------------------------------------------------------------------------------------------------- the VAE


def crop_tracks(t, size):
    """Shift tracks so that a `size` window near an object, at a multiple of 8, starts at the origin."""
    b = t.x.shape[0]
    device = t.x.device
    which = (torch.rand(b, device=device) * t.visible[:, 0].sum(1)).long()
    mid = t.x.shape[1] // 2

    def origin(centre):
        at = centre[torch.arange(b, device=device), mid, which] - size / 2 + (torch.rand(b, device=device) - 0.5) * size * 1.2
        return (at.clamp(0, generator.SIZE - size) / 8).round()[:, None, None] * 8

    t.x, t.y = t.x - origin(t.x), t.y - origin(t.y)
    return t


def vae_loss(vae, frames, cover, noise, eps, cfg):
    """frames [B, 3, F, H, W] and cover [B, F, H, W] -> loss and its parts."""
    mean, log_var = (m.float() for m in vae.moments(frames.to(torch.bfloat16)))
    log_var = log_var.clamp(-30, 10)
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    spread = mean.detach().std((0, 2, 3, 4), keepdim=True)
    z = mean + (0.5 * log_var).exp() * eps + cfg["latent_noise"] * spread * noise
    error = vae.raw_decode(z.to(torch.bfloat16)).float() - frames
    near = F.max_pool2d(cover, 7, 1, 3)
    weight = 1 + cfg["object_weight"] * near[:, None]
    weight = torch.cat((weight[:, :, :1] * cfg["first_frame_weight"], weight[:, :, 1:]), 2)
    weight = weight / weight.mean()
    loss = (weight * (error.square() + 0.1 * error.abs())).mean()
    return loss + cfg["kl"] * kl, {"loss": loss, "mse": error.square().mean(), "first": error[:, :, 0].square().mean(),
                                   "kl": kl, "spread": spread.mean()}


def new_vae(cfg, device):
    torch.manual_seed(cfg["seed"])
    vae = wan.WanVAE(cfg["dim"])
    with torch.no_grad():
        vae.conv1.bias[LATENT_CHANNELS:] -= 6.0               # start with little noise on the latents
    return vae.to(device)


def train_vae(args, device):
    cfg = {**VAE, **(TINY["vae"] if args.tiny else {})}
    vae = new_vae(cfg, device)
    trainer = Trainer("vae", [vae], cfg, args)
    step_loss, paint = compiled(vae_loss, args), compiled(generator.render, args)
    scenes, cursor, block = None, 0, 4096
    while not trainer.finished() and not trainer.clock.over():
        cropped = trainer.step < cfg["crop_share"] * cfg["steps"]
        batch = cfg["crop_batch"] if cropped else cfg["full_batch"]
        if scenes is None or cursor + batch > block:
            scenes, cursor = generator.sample_scenes(block, cfg["seed"] + 1 + trainer.step).to(device), 0
        with torch.no_grad():
            t = generator.tracks(scenes[cursor:cursor + batch])
            size = cfg["crop"] if cropped else generator.SIZE
            frames, cover, _ = paint(crop_tracks(t, size) if cropped else t, size)
            frames = frames.contiguous(memory_format=torch.channels_last_3d)
        cursor += batch
        grid = (batch, LATENT_CHANNELS, (generator.FRAMES + 3) // 4, size // 8, size // 8)
        noise, eps = torch.randn(grid, device=device), torch.randn(grid, device=device)
        trainer.update(*step_loss(vae, frames, cover, noise, eps, cfg))
    if trainer.finished():
        finish_vae(trainer, device, args)
    trainer.save()


@torch.no_grad()
def finish_vae(trainer, device, args):
    """Measure the latents of the averaged VAE and fold their mean and deviation into its 1x1x1 convolutions."""
    vae = trainer.average.models[0]
    path = os.path.join(args.state, "vae_final.pt")
    count, batch = (2, 2) if args.tiny else (1024, 16)
    scenes = generator.sample_scenes(count, 777).to(device)
    total, square, number = 0, 0, 0
    for i in range(0, count, batch):
        mean = vae.moments(generator.render(generator.tracks(scenes[i:i + batch]))[0])[0].double()
        total = total + mean.sum((0, 2, 3, 4))
        square = square + mean.square().sum((0, 2, 3, 4))
        number += mean[:, 0].numel()
    mean = total / number
    std = (square / number - mean.square()).sqrt()
    print("latent mean", [round(v, 3) for v in mean.tolist()], "std", [round(v, 3) for v in std.tolist()])
    wan.fold_latent_scale(vae, mean.float(), std.float())
    weights = {k: v.half().cpu() for k, v in vae.state_dict().items()}
    psnr = reconstruction(wan.vae_from_state(weights).to(device), device, 2 if args.tiny else 128)
    trainer.log.append({"step": trainer.step, **psnr})
    save(path, {"weights": weights, "record": trainer.record()})
    print("vae", json.dumps(psnr), flush=True)


@torch.no_grad()
def reconstruction(vae, device, clips=128, seed=424242, batch=8):
    """PSNR in dB (range 2, all pixels of all frames) of decode(encode(x)) over held-out clips, float32."""
    scenes = generator.sample_scenes(clips, seed).to(device)
    errors = []
    for i in range(0, clips, batch):
        x = generator.render(generator.tracks(scenes[i:i + batch]))[0]
        errors.append((vae.decode(vae.encode(x)) - x).square().mean((1, 3, 4)))
    errors = torch.cat(errors)
    db = lambda mse: round(-10 * math.log10(mse.item() / 4), 2)
    return {"psnr": db(errors.mean()), "psnr_first_frame": db(errors[:, 0].mean()),
            "psnr_mean_of_clips": round((-10 * (errors.mean(1) / 4).log10()).mean().item(), 2), "clips": clips}


# -------------------------------------------------------------------------------------------- DiT and umT5


class Pool:
    """Encoded clips for the DiT: latents [N, 16, T, h, w] bfloat16, caption ids [N, variants, text_len] int16.

    A part of it is made anew now and then, so that training sees ever more clips.
    """

    def __init__(self, vae, tok, cfg, seed, device, args):
        self.cfg, self.tok, self.seed, self.device = cfg, tok, seed, device
        self.batch, self.cursor, self.made = min(64, cfg["pool"]), 0, 0
        scale = wan.latent_scale(device)

        def encode(frames):
            mean = vae.moments(frames.to(torch.bfloat16))[0].float()
            return ((mean - scale[0]) / scale[1]).to(torch.bfloat16)

        self.encode, self.paint = compiled(encode, args), compiled(generator.render, args)
        start = time.time()
        self.latents, self.ids = self.make(cfg["pool"])
        print(f"pool of {cfg['pool']} clips in {time.time() - start:.0f} s, latents mean "
              f"{self.latents.float().mean():.3f} std {self.latents.float().std():.3f}", flush=True)

    @torch.no_grad()
    def make(self, count):
        seed = self.seed + 1000 * self.made
        self.made += 1
        scenes = generator.sample_scenes(count, seed)
        lines = generator.captions(scenes, seed, variants=self.cfg["variants"])
        ids = self.tok.encode([c for group in lines for c in group], self.cfg["text_len"])
        ids = torch.tensor(ids, dtype=torch.int16).view(count, self.cfg["variants"], -1).to(self.device)
        scenes, latents = scenes.to(self.device), []
        for i in range(0, count, self.batch):
            frames = self.paint(generator.tracks(scenes[i:i + self.batch]))[0]
            latents.append(self.encode(frames.contiguous(memory_format=torch.channels_last_3d)))
        return torch.cat(latents), ids

    def refresh(self, count):
        """Replace the oldest `count` clips by new ones."""
        place = torch.arange(self.cursor, self.cursor + count, device=self.device) % self.cfg["pool"]
        self.latents[place], self.ids[place] = self.make(count)
        self.cursor += count


def dit_loss(dit, t5, x0, ids, noise, sigma, rope):
    """Flow matching: x0 and noise [B, 16, T, h, w] float32, sigma [B] -> mean squared error of the velocity."""
    level = sigma.view(-1, 1, 1, 1, 1)
    x = (1 - level) * x0 + level * noise
    velocity = dit(x, dit.time_features(1000 * sigma), t5.context(ids), rope)
    return (velocity - (noise - x0)).square().mean((1, 2, 3, 4))


def train_dit(args, device):
    cfg = {**DIT, **(TINY["dit"] if args.tiny else {})}
    vae_state = load(os.path.join(args.state, "vae_final.pt"))
    if vae_state is None:
        raise SystemExit("train the VAE to its end first: there is no vae_final.pt in the state folder")
    vae = wan.vae_from_state(vae_state["weights"]).to(device).eval().requires_grad_(False)
    folder = os.path.join(args.state, "tokenizer")
    tokens.train(folder)
    tok = tokens.Tokenizer(folder)
    torch.manual_seed(cfg["seed"])
    t5 = wan.UMT5Encoder(len(tok), cfg["t5_dim"], cfg["t5_attn"], cfg["t5_ffn"], cfg["t5_heads"], cfg["t5_layers"]).to(device)
    dit = wan.WanDiT(cfg["dim"], cfg["ffn_dim"], cfg["num_heads"], cfg["num_layers"], cfg["t5_dim"], cfg["text_len"],
                     LATENT_CHANNELS, LATENT_CHANNELS, cfg["freq_dim"]).to(device)
    t5.compute_dtype = dit.compute_dtype = torch.bfloat16
    trainer = Trainer("dit", [dit, t5], cfg, args)
    light = load(os.path.join(args.state, "dit_final.pt"))
    if trainer.step == 0 and light:
        trainer.continue_from((light["dit"], light["t5"]), light["record"])
    pool = Pool(vae, tok, cfg, cfg["seed"] + 1 + trainer.pieces, device, args)
    rope = dit.rope(*(n // k for n, k in zip(pool.latents.shape[2:], (1, 2, 2))), pool.latents.device)
    step_loss = compiled(dit_loss, args)
    empty = torch.tensor(tok.encode([""], cfg["text_len"]), device=device)
    torch.manual_seed(cfg["seed"] + 100 + trainer.pieces)
    while not trainer.finished() and not trainer.clock.over():
        if (trainer.step + 1) % cfg["refresh_every"] == 0:
            pool.refresh(cfg["refresh"])
        pick = torch.randint(cfg["pool"], (cfg["batch"],), device=device)
        variant = torch.randint(cfg["variants"], (cfg["batch"],), device=device)
        row = pool.ids[pick, variant].long()
        row = torch.where(torch.rand(cfg["batch"], 1, device=device) < cfg["drop"], empty, row)
        u = (torch.arange(cfg["batch"], device=device) + torch.rand(cfg["batch"], device=device)) / cfg["batch"]
        sigma = cfg["shift"] * u / (1 + (cfg["shift"] - 1) * u)
        x0 = pool.latents[pick].float()
        losses = step_loss(dit, t5, x0, row, torch.randn_like(x0), sigma, rope)
        trainer.update(losses.mean(), {"loss": losses.mean()})
    trainer.save()
    weights = [{k: v.to(torch.bfloat16).cpu() for k, v in m.state_dict().items()} for m in trainer.average.models]
    save(os.path.join(args.state, "dit_final.pt"), {"dit": weights[0], "t5": weights[1], "record": trainer.record()})


# -------------------------------------------------------------------------------------------------- export


def export(args, device):
    """Write the checkpoint folder in the original layout, with its provenance."""
    from safetensors.torch import save_file
    vae, dit = (load(os.path.join(args.state, name)) for name in ("vae_final.pt", "dit_final.pt"))
    os.makedirs(args.out, exist_ok=True)
    cfg = dit["record"]["settings"]
    config = {"_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": cfg["dim"], "eps": 1e-06,
              "ffn_dim": cfg["ffn_dim"], "freq_dim": cfg["freq_dim"], "in_dim": LATENT_CHANNELS, "model_type": "t2v",
              "num_heads": cfg["num_heads"], "num_layers": cfg["num_layers"], "out_dim": LATENT_CHANNELS,
              "text_len": cfg["text_len"]}
    with open(os.path.join(args.out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
        f.write("\n")
    save_file({k: v.contiguous() for k, v in dit["dit"].items()}, os.path.join(args.out, wan.DIT_FILE))
    torch.save(dit["t5"], os.path.join(args.out, wan.T5_FILE))
    torch.save(vae["weights"], os.path.join(args.out, wan.VAE_FILE))
    tokens.train(os.path.join(args.out, wan.TOKENIZER_DIR))
    names = [os.path.relpath(os.path.join(d, f), args.out) for d, _, files in os.walk(args.out) for f in files]
    provenance = {
        "made_by": "experiments/shapes/train.py",
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "data": "synthetic videos made by generator.py from the seeds in the settings; no other data",
        "scripts_sha256": {name: digest(os.path.join(HERE, name)) for name in SCRIPTS},
        "files_sha256": {name: digest(os.path.join(args.out, name)) for name in sorted(names) if name != "provenance.json"},
        "parameters": {name: sum(v.numel() for v in part.values())
                       for name, part in (("dit", dit["dit"]), ("t5", dit["t5"]), ("vae", vae["weights"]))},
        "vae": vae["record"], "dit": dit["record"],
    }
    with open(os.path.join(args.out, "provenance.json"), "w") as f:
        json.dump(provenance, f, indent=1)
        f.write("\n")
    print("wrote", args.out, provenance["parameters"],
          {n: os.path.getsize(os.path.join(args.out, n)) for n in sorted(names)})


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description="train the shapes checkpoint")
    parser.add_argument("stage", choices=("vae", "dit", "export"))
    parser.add_argument("--state", required=True, help="folder for everything needed to go on later")
    parser.add_argument("--out", default=os.path.join(HERE, "checkpoint"))
    parser.add_argument("--minutes", type=float, default=7.5, help="stop and save after this long")
    parser.add_argument("--log-every", type=int, default=250)
    parser.add_argument("--eager", action="store_true", help="no torch.compile")
    parser.add_argument("--tiny", action="store_true", help="toy sizes on the CPU, to test the code")
    args = parser.parse_args()
    os.makedirs(args.state, exist_ok=True)
    device = "cpu" if args.tiny else "cuda"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.cache_size_limit = 64
    wan.CausalConv3d.planar = True
    {"vae": train_vae, "dit": train_dit, "export": export}[args.stage](args, device)


if __name__ == "__main__":
    main()
