#!/usr/bin/env python3
"""The opponent of `wanscope bench`: the same shapes in PyTorch on the same GPU, in the same words.

The models are those of experiments/shapes/wan_torch.py with random weights: matrices in bf16 (or f32), residual stream,
norms and modulation in f32, attention by scaled_dot_product_attention with one named kernel.  Every case is run as written
(eager) and through torch.compile.  The VAE is streamed with a cache of two frames a convolution, as upstream decodes.

Prints the columns of `wanscope bench --format csv`; tests/bench/compare.py lays the two beside each other.
"""
import argparse
import contextlib
import csv
import json
import math
import os
import signal
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "experiments", "shapes"))
import wan_torch  # noqa: E402

PEAK_OPS, PEAK_BYTES = 989e12, 4.3e12       # as wanscope bench: an H200's dense bf16 products, its measured copy rate
COLUMNS = ("engine", "what", "case", "model", "size", "frames", "precision", "shape", "repeats", "median_ms", "min_ms",
           "max_ms", "p99_ms", "tflop", "gbyte", "floor_ops_ms", "floor_bytes_ms", "distance", "tflop_s", "frames_s", "sm_mhz", "note")
WHAT = ("attention", "gemm", "block", "forward", "vae", "t5", "longlive", "sparse", "vace")
SIZES = {"480p": (832, 480), "720p": (1280, 720)}
MODELS = {   # dim, ffn, heads, layers, text_len, text_dim, VACE layers, VAE dim, umT5 (vocab, dim, attn, ffn, heads, layers)
    "1.3b": (1536, 8960, 12, 30, 512, 4096, tuple(range(0, 30, 2)), 96, (256384, 4096, 4096, 10240, 64, 24)),
    "14b": (5120, 13824, 40, 40, 512, 4096, tuple(range(0, 40, 5)), 96, (256384, 4096, 4096, 10240, 64, 24)),
    "tiny": (256, 512, 2, 2, 32, 64, (0,), 8, (256, 64, 64, 128, 2, 2)),
}
KERNELS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}


class TooLong(Exception):
    pass


@contextlib.contextmanager
def limit(seconds):
    """Raises TooLong in the block when it takes longer."""
    def stop(*_):
        raise TooLong(f"took more than {seconds} s")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(1, int(seconds)))
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    def __init__(self, o):
        self.o, self.rows = o, []
        self.device = torch.device(o.device)
        self.cuda = self.device.type == "cuda"
        self.dim, self.ffn, self.heads, self.layers, self.text_len, self.text_dim, self.vace, self.vae_dim, self.t5 = MODELS[o.model]
        self.width, self.height = SIZES[o.size] if o.size in SIZES else (int(v) for v in o.size.split("x"))
        self.F, self.H, self.W = (o.frames - 1) // 4 + 1, self.height // 8, self.width // 8
        self.per_frame = self.H // 2 * (self.W // 2)
        self.L = self.F * self.per_frame
        self.dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
        self.item = 2 if o.precision == "bf16" else 4
        self.kernels = [k for k in o.kernels.split(",") if k]
        self.begin = time.monotonic()
        self.out = open(o.output, "w", newline="") if o.output else sys.stdout
        if o.format == "csv":
            for k, v in self.machine().items():
                print(f"# {k}: {v}", file=self.out)
            csv.writer(self.out).writerow(COLUMNS)
            self.out.flush()

    def machine(self):
        m = {"torch": torch.__version__, "device": "CPU"}
        if self.cuda:
            m.update(device=torch.cuda.get_device_name(), cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
        return m

    def clock(self):
        """MHz of the multiprocessors now, or nothing where the driver's library is not there for Python."""
        try:
            return torch.cuda.clock_rate() if self.cuda else ""
        except Exception:
            return ""

    # ---- measuring ----

    def randn(self, *shape, dtype=None, std=1.0):
        return torch.randn(*shape, device=self.device, dtype=dtype or self.dtype) * std

    def times(self, fn, repeats=None):
        """Milliseconds of each repeat, after two calls that do not count."""
        for _ in range(2):
            fn()
        out = []
        for _ in range(repeats or self.o.repeat):
            if self.cuda:
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                a.record()
                fn()
                b.record()
                b.synchronize()
                out.append(a.elapsed_time(b))
            else:
                t = time.perf_counter()
                fn()
                out.append(1e3 * (time.perf_counter() - t))
        return out

    def row(self, engine, what, case, shape, ms, flops, nbytes, note="", frames=0):
        median = statistics.median(ms)
        floor_ops, floor_bytes = 1e3 * flops / PEAK_OPS, 1e3 * nbytes / PEAK_BYTES
        floor = max(floor_ops, floor_bytes)
        r = dict(zip(COLUMNS, (engine, what, case, self.o.model, f"{self.width}x{self.height}", self.o.frames, self.o.precision,
                               shape, len(ms), *(f"{v:.4f}" for v in (median, min(ms), max(ms), sorted(ms)[math.ceil(0.99 * len(ms)) - 1])),
                               f"{flops * 1e-12:.4f}", f"{nbytes * 1e-9:.4f}", f"{floor_ops:.4f}", f"{floor_bytes:.4f}",
                               f"{median / floor:.3f}" if floor else "", f"{flops / median * 1e-9:.2f}",
                               f"{1e3 * frames / median:.3f}" if frames else "", self.clock(), note)))
        self.rows.append(r)
        if self.o.format == "csv":
            csv.writer(self.out).writerow([r[c] for c in COLUMNS])
            self.out.flush()

    def case(self, name, fn):
        """Runs one case; what goes wrong or takes too long is said and costs no other case."""
        left = self.o.limit - (time.monotonic() - self.begin)
        if left < 3:
            print(f"{name}: left out, the time of --limit is over", file=sys.stderr)
            return
        try:
            with limit(min(left, self.o.case_limit)), torch.no_grad():
                fn()
        except Exception as e:     # any: an opponent that cannot run a case must not end the others
            print(f"{name}: {type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}", file=sys.stderr, flush=True)
            if self.cuda:
                torch.cuda.synchronize()
        if self.cuda:
            torch.cuda.empty_cache()

    def modes(self):
        return [m for m in ("eager", "compile") if m in self.o.modes.split(",")]

    def sdpa(self, kernel):
        return sdpa_kernel(KERNELS[kernel]) if self.cuda else contextlib.nullcontext()

    # ---- counts ----

    def attention_flops(self, n, m):
        return 4 * n * m * self.dim

    def block_flops(self, n, m, text=True):
        """One block over n tokens that see m; `text`: the keys and values of the text are computed too."""
        d, t = self.dim, self.text_len
        return 2 * n * (6 * d * d + 2 * d * self.ffn) + (4 * t * d * d if text else 0) + self.attention_flops(n, m) + self.attention_flops(n, t)

    def block_weights(self):
        return self.item * (8 * self.dim ** 2 + 2 * self.dim * self.ffn)

    # ---- cases ----

    def attention(self):
        for case, n, m in (("self", self.L, self.L), ("cross", self.L, self.text_len)):
            for kernel in self.kernels:
                def run(case=case, n=n, m=m, kernel=kernel):
                    q, k, v = (self.randn(1, self.heads, s, self.dim // self.heads) for s in (n, m, m))
                    with self.sdpa(kernel):
                        ms = self.times(lambda: F.scaled_dot_product_attention(q, k, v))
                    self.row(f"torch-{kernel}", "attention", case, f"q[{n} {self.dim}] kv[{m} {self.dim}] heads {self.heads}", ms,
                             self.attention_flops(n, m), self.item * self.dim * 2 * (n + m))
                self.case(f"attention {case} {kernel}", run)

    def gemm(self):
        n = self.L
        for case, r, k, o in (("proj", n, self.dim, self.dim), ("ffn-up", n, self.dim, self.ffn), ("ffn-down", n, self.ffn, self.dim)):
            def run(case=case, r=r, k=k, o=o):
                x, w, b = self.randn(r, k), self.randn(o, k, std=k ** -0.5), self.randn(o)
                fn = (lambda: F.gelu(F.linear(x, w, b), approximate="tanh")) if case == "ffn-up" else lambda: F.linear(x, w, b)
                for mode in self.modes():
                    f = torch.compile(fn, dynamic=False) if mode == "compile" else fn
                    self.row(f"torch-{mode}", "gemm", case, f"[{r} {k}] x [{o} {k}]", self.times(f), 2 * r * k * o,
                             self.item * (r * k + k * o + r * o))
            self.case(f"gemm {case}", run)

    def dit(self, layers):
        """A DiT with random weights of the scale of real ones, matrices in the type they are multiplied in."""
        with torch.device("meta"):
            model = wan_torch.WanDiT(self.dim, self.ffn, self.heads, layers, self.text_dim, self.text_len)
        return self.fill(model)

    def fill(self, model, dtype=None):
        for name, p in list(model.named_parameters()):
            exact = "norm" in name or "gamma" in name or "modulation" in name or name.startswith(("time_", "head."))
            half = not exact and (p.ndim >= 2 or name.endswith(".bias"))
            t = torch.empty(p.shape, device=self.device, dtype=(dtype or self.dtype) if half else torch.float32)
            if "norm" in name or "gamma" in name:
                t.fill_(0 if name.endswith("bias") else 1)
            else:
                t.normal_(std=0.02 if p.ndim == 1 else (p[0].numel() if "modulation" not in name else self.dim) ** -0.5)
            owner = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
            setattr(owner, name.rpartition(".")[2], nn.Parameter(t, requires_grad=False))
        model.compute_dtype = dtype or self.dtype
        return model.eval()

    def inputs(self, model, frames=None):
        frames = frames or self.F
        return (self.randn(1, 16, frames, self.H, self.W, dtype=torch.float32),
                model.time_features(torch.tensor([987.0], device=self.device, dtype=torch.float64)),
                self.randn(1, self.text_len, self.dim), model.rope(frames, self.H // 2, self.W // 2, self.device))

    def tokens(self, model, x, features):
        b, c, frames, h, w = x.shape
        patches = x.view(b, c, frames, h // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)
        tokens = F.linear(patches.to(self.dtype), model.patch_embedding.weight.flatten(1), model.patch_embedding.bias).float()
        e = wan_torch.linear(model.time_embedding[2], F.silu(wan_torch.linear(model.time_embedding[0], features)))
        return tokens, e, wan_torch.linear(model.time_projection[1], F.silu(e)).view(b, 6, self.dim)

    def head(self, model, tokens, e, shape):
        b, c, frames, h, w = shape
        shift, scale = (model.head.modulation + e[:, None]).unsqueeze(2).unbind(1)
        out = wan_torch.linear(model.head.head, wan_torch.layer_norm(tokens) * (1 + scale) + shift)
        return out.view(b, frames, h // 2, w // 2, 2, 2, c).permute(0, 6, 1, 2, 4, 3, 5).reshape(shape)

    def pick(self, mode):
        """How one block is called: all blocks share one compiled function."""
        call = lambda block, x, e0, context, rope: block(x, e0, context, rope)  # noqa: E731
        return torch.compile(call, dynamic=False) if mode == "compile" else call

    def forward_flops(self):
        d = self.dim
        return self.layers * self.block_flops(self.L, self.L) + 2 * self.L * d * 128

    def block(self):
        kernel = self.kernels[0]
        model = self.dit(1)
        x, features, context, rope = self.inputs(model)
        with torch.no_grad():
            tokens, _, e0 = self.tokens(model, x, features)
        for mode in self.modes():
            def run(mode=mode):
                call = self.pick(mode)
                with self.sdpa(kernel):
                    ms = self.times(lambda: call(model.blocks[0], tokens, e0, context, rope))
                self.row(f"torch-{mode}", "block", "cond", f"tokens {self.L} text {self.text_len}", ms, self.block_flops(self.L, self.L),
                         self.block_weights() + 8 * self.L * self.dim, f"sdpa {kernel}")
            self.case(f"block {mode}", run)

    def forward(self):
        kernel = self.kernels[0]
        model = self.dit(self.layers)
        x, features, context, rope = self.inputs(model)
        for mode in self.modes():
            def run(mode=mode):
                call = self.pick(mode)

                def once():
                    tokens, e, e0 = self.tokens(model, x, features)
                    for block in model.blocks:
                        tokens = call(block, tokens, e0, context, rope)
                    return self.head(model, tokens, e, x.shape)
                with self.sdpa(kernel):
                    ms = self.times(once, self.o.repeat_long)
                self.row(f"torch-{mode}", "forward", "cond", f"latents [16 {self.F} {self.H} {self.W}] tokens {self.L}", ms,
                         self.forward_flops(), self.layers * self.block_weights() + 8 * 16 * self.F * self.H * self.W, f"sdpa {kernel}")
            self.case(f"forward {mode}", run)

    def vace_case(self):
        kernel = self.kernels[0]
        model = self.dit(self.layers)
        hints = self.dit(len(self.vace))
        after = [self.randn(self.dim, self.dim, std=self.dim ** -0.5) for _ in self.vace]
        before = self.randn(self.dim, self.dim, std=self.dim ** -0.5)
        patch = self.randn(self.dim, 96 * 4, std=384 ** -0.5)
        x, features, context, rope = self.inputs(model)
        control = self.randn(1, 96, self.F, self.H, self.W, dtype=torch.float32)
        for mode in self.modes():
            def run(mode=mode):
                call = self.pick(mode)

                def once():
                    tokens, e, e0 = self.tokens(model, x, features)
                    p = control.view(1, 96, self.F, self.H // 2, 2, self.W // 2, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(1, -1, 384)
                    c = F.linear(F.linear(p.to(self.dtype), patch), before).float() + tokens
                    add = {}
                    for i, block in enumerate(hints.blocks):
                        c = call(block, c, e0, context, rope)
                        add[self.vace[i]] = F.linear(c.to(self.dtype), after[i])
                    for i, block in enumerate(model.blocks):
                        tokens = call(block, tokens, e0, context, rope)
                        if i in add:
                            tokens = tokens + add[i].float()
                    return self.head(model, tokens, e, x.shape)
                with self.sdpa(kernel):
                    ms = self.times(once, self.o.repeat_long)
                n, d = len(self.vace), self.dim
                self.row(f"torch-{mode}", "vace", "cond", f"latents [16 {self.F} {self.H} {self.W}] hints {n}", ms,
                         self.forward_flops() + n * self.block_flops(self.L, self.L) + 2 * self.L * (d * 384 + (n + 1) * d * d),
                         (self.layers + n) * self.block_weights() + self.item * (n + 1) * d * d, f"sdpa {kernel}")
            self.case(f"vace {mode}", run)

    def sparse(self):
        """HoloCine's plan: each shot sees itself and the first frame of every shot; one SDPA a shot over gathered keys."""
        n_shots = max(2, self.o.frames // 40)
        first = [i * self.F // n_shots for i in range(n_shots)]
        shots = [(a * self.per_frame, b * self.per_frame) for a, b in zip(first, first[1:] + [self.F])]
        heads = [torch.arange(a, a + self.per_frame) for a, _ in shots]
        index = [torch.cat([torch.arange(a, b)] + heads).to(self.device) for a, b in shots]
        flops = sum(self.attention_flops(b - a, len(i)) for (a, b), i in zip(shots, index))
        for kernel in self.kernels:
            def run(kernel=kernel):
                q, k, v = (self.randn(1, self.heads, self.L, self.dim // self.heads) for _ in range(3))

                def once():
                    return torch.cat([F.scaled_dot_product_attention(q[:, :, a:b], k[:, :, i], v[:, :, i])
                                      for (a, b), i in zip(shots, index)], 2)
                with self.sdpa(kernel):
                    self.row(f"torch-{kernel}", "sparse", "attention", f"q[{self.L} {self.dim}] kv[{self.L} {self.dim}] heads {self.heads}",
                             self.times(once), flops, self.item * self.dim * 4 * self.L, f"{n_shots} shots; with the gathering of the keys")
            self.case(f"sparse {kernel}", run)

    # ---- umT5 ----

    def t5_case(self):
        vocab, dim, attn, ffn, heads, layers = self.t5
        n = self.text_len
        with torch.device("meta"):
            model = wan_torch.UMT5Encoder(vocab, dim, attn, ffn, heads, layers)
        self.fill(model)
        for block in model.blocks:
            block.attn.q.weight.mul_((attn // heads) ** -0.5)
        ids = torch.randint(1, vocab, (1, n), device=self.device)
        biases = [b.pos_embedding.embedding(wan_torch.relative_buckets(n, self.device)).permute(2, 0, 1)[None].float() for b in model.blocks]

        def one(block, x, bias):
            x = x + block.attn(block.norm1(x).to(self.dtype), bias).float()
            return x + block.ffn(block.norm2(x).to(self.dtype)).float()
        flops = layers * (2 * n * (4 * dim * attn + 3 * dim * ffn) + 4 * n * n * attn)
        for mode in self.modes():
            def run(mode=mode):
                call = torch.compile(one, dynamic=False) if mode == "compile" else one

                def once():
                    x = model.token_embedding(ids).float()
                    for block, bias in zip(model.blocks, biases):
                        x = call(block, x, bias)
                    return model.norm(x)
                self.row(f"torch-{mode}", "t5", "encode", f"tokens {n}", self.times(once), flops,
                         self.item * layers * (4 * dim * attn + 3 * dim * ffn))
            self.case(f"t5 {mode}", run)

    # ---- VAE ----

    def vae_counts(self, frames, item):
        """Operations of all convolutions of the decoder, and bytes of their inputs, outputs and weights."""
        d, z, ops, moved = self.vae_dim, 16, 0, 0

        def conv(t, h, w, cin, cout, taps, shrink=1):
            nonlocal ops, moved
            ops += 2 * t * h * w * cin * cout * taps
            moved += item * (t * h * w * (cin / shrink + cout) + cin * cout * taps)
        t, h, w = frames, self.H, self.W
        conv(t, h, w, z, z, 1)
        conv(t, h, w, z, 4 * d, 27)
        for _ in range(4):
            conv(t, h, w, 4 * d, 4 * d, 27)
        conv(t, h, w, 4 * d, 12 * d, 1)
        conv(t, h, w, 4 * d, 4 * d, 1)
        ops += t * 4 * (h * w) ** 2 * 4 * d
        for cin, cout, stage in ((4 * d, 4 * d, 0), (2 * d, 4 * d, 1), (2 * d, 2 * d, 2), (d, d, 3)):
            for r in range(3):
                conv(t, h, w, cin, cout, 27)
                conv(t, h, w, cout, cout, 27)
                if cin != cout:
                    conv(t, h, w, cin, cout, 1)
                cin = cout
            if stage < 2:
                conv(t - 1, h, w, cout, 2 * cout, 3)
                t = 1 + 2 * (t - 1)
            if stage < 3:
                h, w = 2 * h, 2 * w
                conv(t, h, w, cout, cout // 2, 9, 4)
        conv(t, h, w, d, 3, 27)
        return ops, moved

    def vae(self):
        variants = (("bf16", torch.bfloat16, False, False), ("bf16-planar", torch.bfloat16, True, False),
                    ("bf16-compile", torch.bfloat16, True, True), ("tf32", torch.float32, False, False))
        for name, dtype, planar, compiled in variants:
            def run(name=name, dtype=dtype, planar=planar, compiled=compiled):
                torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
                torch.backends.cudnn.benchmark = True
                with torch.device("meta"):
                    model = wan_torch.WanVAE(self.vae_dim)
                self.fill(model, dtype)
                latents = self.randn(1, 16, self.F, self.H, self.W, dtype=torch.float32)
                ms = self.times(lambda: decode(model, latents, dtype, Stream(planar, compiled)), self.o.repeat_long)
                ops, moved = self.vae_counts(self.F, 2 if dtype == torch.bfloat16 else 4)
                self.row(f"torch-{name}", "vae", "decode", f"latents [16 {self.F} {self.H} {self.W}]", ms, ops, moved,
                         "streamed; a latent frame at a time; frames stay on the GPU", self.o.frames)
            if ("compile" in self.modes() or not compiled) and (self.cuda or dtype == torch.float32):
                self.case(f"vae {name}", run)

    # ---- LongLive ----

    def longlive(self):
        """Blocks of 3 latent frames that see 12: 4 denoising calls and one that fills the cache, then the decoder."""
        kernel, n, window = self.kernels[0], 3 * self.per_frame, 12 * self.per_frame
        model = self.dit(self.layers)
        with torch.device("meta"):
            vae = wan_torch.WanVAE(self.vae_dim)
        self.fill(vae, self.dtype)
        k, v = ([self.randn(1, window, self.dim) for _ in model.blocks] for _ in range(2))
        ck, cv = ([self.randn(1, self.heads, self.text_len, self.dim // self.heads) for _ in model.blocks] for _ in range(2))
        x, features, _, rope = self.inputs(model, 3)
        split = lambda t: t.view(1, t.shape[1], self.heads, -1).transpose(1, 2)  # noqa: E731

        def one(block, x, e0, rope, k, v, ck, cv):
            shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation + e0).unsqueeze(2).unbind(1)
            h = (wan_torch.layer_norm(x) * (1 + scale1) + shift1).to(self.dtype)
            a = block.self_attn
            q = wan_torch.rotate(a.norm_q(F.linear(h, a.q.weight, a.q.bias)).view(1, n, self.heads, -1), *rope)
            k[:, -n:] = wan_torch.rotate(a.norm_k(F.linear(h, a.k.weight, a.k.bias)).view(1, n, self.heads, -1), *rope).flatten(2)
            v[:, -n:] = F.linear(h, a.v.weight, a.v.bias)
            y = F.scaled_dot_product_attention(q.transpose(1, 2), split(k), split(v)).transpose(1, 2).reshape(1, n, -1)
            x = x + F.linear(y, a.o.weight, a.o.bias).float() * gate1
            c = block.cross_attn
            h = wan_torch.layer_norm(x, block.norm3.weight, block.norm3.bias).to(self.dtype)
            q = split(c.norm_q(F.linear(h, c.q.weight, c.q.bias)))
            y = F.scaled_dot_product_attention(q, ck, cv).transpose(1, 2).reshape(1, n, -1)
            x = x + F.linear(y, c.o.weight, c.o.bias).float()
            h = (wan_torch.layer_norm(x) * (1 + scale2) + shift2).to(self.dtype)
            h = F.linear(F.gelu(F.linear(h, block.ffn[0].weight, block.ffn[0].bias), approximate="tanh"), block.ffn[2].weight, block.ffn[2].bias)
            return x + h.float() * gate2
        flops = 5 * self.layers * self.block_flops(n, window, False)
        nbytes = 5 * self.layers * (self.block_weights() + 2 * self.item * window * self.dim)
        for mode in self.modes():
            def run(mode=mode):
                call = torch.compile(one, dynamic=False) if mode == "compile" else one
                latents = None

                def block():
                    nonlocal latents
                    latents = x
                    for step in range(5):
                        tokens, e, e0 = self.tokens(model, latents, features)
                        for i, b in enumerate(model.blocks):
                            tokens = call(b, tokens, e0, rope, k[i], v[i], ck[i], cv[i])
                        flow = self.head(model, tokens, e, x.shape)
                        if step < 4:
                            latents = (latents - 0.5 * flow) * 0.5 + 0.5 * torch.randn_like(latents)
                with self.sdpa(kernel):
                    ms = self.times(block)
                    self.row(f"torch-{mode}", "longlive", "block", f"tokens {n} keys {window}", ms, flops, nbytes, f"sdpa {kernel}", 12)
                    torch.backends.cudnn.benchmark = True
                    state = Stream(True, mode == "compile")
                    decode(vae, x, self.dtype, state)

                    def whole():
                        block()
                        decode(vae, latents, self.dtype, state)
                    ms = self.times(whole)
                    ops, moved = self.vae_counts(3, self.item)
                    self.row(f"torch-{mode}", "longlive", "block+vae", f"tokens {n} keys {window}", ms, flops + ops, nbytes + moved,
                             f"sdpa {kernel}; frames stay on the GPU", 12)
            self.case(f"longlive {mode}", run)

    def run(self):
        cases = {"attention": self.attention, "gemm": self.gemm, "block": self.block, "forward": self.forward, "vae": self.vae,
                 "t5": self.t5_case, "longlive": self.longlive, "sparse": self.sparse, "vace": self.vace_case}
        for what in self.o.what or WHAT:
            self.guard(what, cases[what])
        if self.o.format == "json":
            json.dump({"machine": self.machine(), "results": self.rows}, self.out, indent=1)
            print(file=self.out)

    def guard(self, what, fn):
        """Building a model can fail too (memory); its cases set their own limits."""
        try:
            with torch.no_grad():
                fn()
        except Exception as e:
            print(f"{what}: {type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}", file=sys.stderr, flush=True)
        if self.cuda:
            torch.cuda.empty_cache()


# ---- the VAE's decoder with a memory of two frames a convolution ----

def norm_silu(x, gamma, width):
    y = x.float()
    y = y * torch.rsqrt(y.square().sum(1, keepdim=True).clamp_min(1e-24))
    return F.silu((y * (width * gamma)).to(x.dtype))


class Stream:
    """What one clip's decoding remembers, by layer; and how it computes: a convolution over three frames as one in the plane over
    their stacked channels, channels last; norms and activations compiled."""
    compiled = None

    def __init__(self, planar=False, compiled=False):
        self.past, self.started, self.planar = {}, False, planar
        self.norm_silu = norm_silu
        if compiled:
            torch._dynamo.config.recompile_limit = 64
            Stream.compiled = Stream.compiled or torch.compile(norm_silu, dynamic=False)
            self.norm_silu = Stream.compiled

    def active(self, norm, x):
        return self.norm_silu(x, norm.gamma, math.sqrt(x.shape[1]))

    def history(self, key, x):
        """x with the two frames before it; remembers the last two."""
        past = self.past.get(key)
        if past is None:
            past = torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1)
        y = torch.cat((past, x), 2)
        self.past[key] = y[:, :, -2:].clone()
        return y


def conv_step(m, x, s):
    if m.kernel_size[0] == 1:
        return F.conv3d(x, m.weight, m.bias)
    y = s.history(id(m), x)
    if not s.planar:
        return F.conv3d(y, m.weight, m.bias, padding=(0, 1, 1))
    if not hasattr(m, "flat"):
        m.flat = m.weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    t = x.shape[2]
    stacked = wan_torch.per_frame(torch.cat([y[:, :, i:i + t] for i in range(3)], 1)).contiguous(memory_format=torch.channels_last)
    return wan_torch.per_clip(F.conv2d(stacked, m.flat, m.bias, padding=1), x.shape[0])


def residual_step(m, x, s):
    skip = conv_step(m.shortcut, x, s) if hasattr(m, "shortcut") else x
    norm1, _, conv1, norm2, _, _, conv2 = m.residual
    x = conv_step(conv1, s.active(norm1, x), s)
    return skip + conv_step(conv2, s.active(norm2, x), s)


def up_step(m, x, s):
    b, c = x.shape[:2]
    if hasattr(m, "time_conv") and s.started:
        y = F.conv3d(s.history(id(m), x), m.time_conv.weight, m.time_conv.bias)
        x = torch.stack((y[:, :c], y[:, c:]), 3).flatten(2, 3)
    conv = m.resample[1]
    y = F.interpolate(wan_torch.per_frame(x), scale_factor=2, mode="nearest-exact")
    return wan_torch.per_clip(F.conv2d(y, conv.weight, conv.bias, padding=1), b)


def step(m, x, s):
    if isinstance(m, wan_torch.Residual):
        return residual_step(m, x, s)
    if isinstance(m, wan_torch.Up):
        return up_step(m, x, s)
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):     # one head of 384, too wide for the others
        return m(x)


def decode(model, latents, dtype, s):
    """Normalised latents [1, 16, T, h, w], the next of the clip of stream `s` -> the frames of the last of them."""
    mean, std = wan_torch.latent_scale(latents.device)
    z = conv_step(model.conv2, (latents / (1 / std) + mean).to(dtype), s)
    frames = None
    for t in range(z.shape[2]):
        x = z[:, :, t:t + 1]
        x = conv_step(model.decoder.conv1, x, s)
        for m in (*model.decoder.middle, *model.decoder.upsamples):
            x = step(m, x, s)
        norm, _, conv = model.decoder.head
        frames = conv_step(conv, s.active(norm, x), s).float().clamp(-1, 1)
        s.started = True
    return frames


def check(o):
    """The streamed decoder against the whole-clip one of wan_torch, on the CPU."""
    torch.manual_seed(1)
    model = wan_torch.WanVAE(8).eval()
    latents = torch.randn(1, 16, 4, 4, 6)
    with torch.no_grad():
        want = model.decode(latents)
        worst = 0
        for planar in (False, True):
            s = Stream(planar)
            got = [decode(model, latents[:, :, t:t + 1], torch.float32, s) for t in range(4)]
            worst = max(worst, (torch.cat(got, 2) - want).abs().max().item())
    print(f"streamed decoders: largest difference {worst:.2e} of values up to {want.abs().max().item():.2f}")
    return 0 if worst < 1e-4 else 1


def main():
    p = argparse.ArgumentParser(description="The shapes of `wanscope bench` in PyTorch.")
    p.add_argument("what", nargs="*", choices=[[], *WHAT], help="all when none is named: " + ", ".join(WHAT))
    p.add_argument("--model", default="1.3b", choices=MODELS)
    p.add_argument("--size", default="480p", help="480p, 720p or WIDTHxHEIGHT")
    p.add_argument("--frames", type=int, default=81)
    p.add_argument("--precision", default="bf16", choices=("bf16", "exact"))
    p.add_argument("--repeat", type=int, default=10)
    p.add_argument("--repeat-long", type=int, default=3, help="of whole forwards and of the VAE")
    p.add_argument("--device", default="cuda")
    p.add_argument("--kernels", default="cudnn,flash", help="attention kernels; the first one works in the models")
    p.add_argument("--modes", default="eager,compile")
    p.add_argument("--format", default="csv", choices=("csv", "json"))
    p.add_argument("--output")
    p.add_argument("--limit", type=float, default=600, help="seconds in all; what does not fit is named")
    p.add_argument("--case-limit", type=float, default=60, help="seconds a case, compilation included")
    p.add_argument("--check", action="store_true", help="only compare the streamed decoder with the whole-clip one")
    o = p.parse_args()
    if o.check:
        return check(o)
    torch.manual_seed(1)
    Bench(o).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
