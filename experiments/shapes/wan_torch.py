"""The Wan text-to-video model in PyTorch: umT5 encoder, DiT and Wan 2.1 VAE.

Batched and written for training on one GPU.  Parameter names are those of the original checkpoint files, so
`state_dict()` of each model is what the files hold.  Parameters stay float32; the arithmetic runs in the dtype
of the input (VAE) or of `compute_dtype` (DiT, umT5), with normalisations, the residual stream and the softmax
in float32.

Shapes use B batch, C channels, T latent frames, F pixel frames, L tokens, D model width, N text positions.
"""
import functools
import json
import math
import os

import torch
import torch.nn.functional as F
from torch import nn

# The constants that every Wan 2.1 pipeline applies to its latents, one pair per latent channel.
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


def linear(layer, x):
    """Apply an nn.Linear whose parameters are float32 in the dtype of x."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


# ---------------------------------------------------------------------------------------------------- umT5


@functools.lru_cache
def relative_buckets(length, device=None):
    """Bucket numbers [length, length] of key position minus query position: 32 buckets, distances to 128."""
    table = torch.empty(length, dtype=torch.long)
    edges = ((91, 15), (64, 14), (46, 13), (32, 12), (23, 11), (16, 10), (12, 9), (8, 8))
    for distance in range(length):
        table[distance] = next((b for edge, b in edges if distance >= edge), distance)
    index = torch.arange(length)
    offset = index[None, :] - index[:, None]
    return (table[offset.abs()] + 16 * (offset > 0)).to(device)


class T5Norm(nn.Module):
    """Root-mean-square norm over the last axis, eps 1e-6, no mean subtraction."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x.float()
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class T5Attention(nn.Module):
    def __init__(self, dim, dim_attn, heads):
        super().__init__()
        self.heads = heads
        for name in "qkv":
            setattr(self, name, nn.Linear(dim, dim_attn, bias=False))
        self.o = nn.Linear(dim_attn, dim, bias=False)
        head_dim = dim_attn // heads
        nn.init.normal_(self.q.weight, std=(dim * head_dim) ** -0.5)
        nn.init.normal_(self.k.weight, std=dim ** -0.5)
        nn.init.normal_(self.v.weight, std=dim ** -0.5)
        nn.init.normal_(self.o.weight, std=dim_attn ** -0.5)

    def forward(self, x, bias):
        """x [B, N, dim], bias [B, heads, N, N] added to the unscaled scores."""
        b, n, _ = x.shape
        q, k, v = (linear(getattr(self, c), x).view(b, n, self.heads, -1).transpose(1, 2) for c in "qkv")
        weights = torch.softmax((q @ k.transpose(-1, -2)).float() + bias, -1).to(v.dtype)
        return linear(self.o, (weights @ v).transpose(1, 2).reshape(b, n, -1))


class T5FeedForward(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, hidden, bias=False))
        self.fc1 = nn.Linear(dim, hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)
        nn.init.normal_(self.gate[0].weight, std=dim ** -0.5)
        nn.init.normal_(self.fc1.weight, std=dim ** -0.5)
        nn.init.normal_(self.fc2.weight, std=hidden ** -0.5)

    def forward(self, x):
        return linear(self.fc2, linear(self.fc1, x) * F.gelu(linear(self.gate[0], x), approximate="tanh"))


class T5Bias(nn.Module):
    def __init__(self, buckets, heads):
        super().__init__()
        self.embedding = nn.Embedding(buckets, heads)
        nn.init.normal_(self.embedding.weight, std=0.1)


class T5Block(nn.Module):
    def __init__(self, dim, dim_attn, hidden, heads, buckets):
        super().__init__()
        self.norm1 = T5Norm(dim)
        self.attn = T5Attention(dim, dim_attn, heads)
        self.norm2 = T5Norm(dim)
        self.ffn = T5FeedForward(dim, hidden)
        self.pos_embedding = T5Bias(buckets, heads)


class UMT5Encoder(nn.Module):
    """The umT5 encoder: a relative-position table in every layer and no 1/sqrt(d) in the attention."""

    def __init__(self, vocab, dim=128, dim_attn=128, hidden=256, heads=2, layers=2, buckets=32):
        super().__init__()
        self.compute_dtype = torch.float32
        self.token_embedding = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(T5Block(dim, dim_attn, hidden, heads, buckets) for _ in range(layers))
        self.norm = T5Norm(dim)

    def forward(self, ids):
        """ids [B, N] padded with 0 -> states [B, N, dim] float32; rows at padded positions are not zeroed here."""
        mask = (ids != 0)[:, None, None, :]
        buckets = relative_buckets(ids.shape[1], ids.device)
        x = self.token_embedding(ids).float()
        for block in self.blocks:
            bias = block.pos_embedding.embedding(buckets).permute(2, 0, 1)[None].float()
            bias = torch.where(mask, bias, torch.full_like(bias, -1e30))
            x = x + block.attn(block.norm1(x).to(self.compute_dtype), bias).float()
            x = x + block.ffn(block.norm2(x).to(self.compute_dtype)).float()
        return self.norm(x)

    def context(self, ids):
        """What the DiT receives: the states with the rows of padded positions set to exact zeros."""
        return self(ids) * (ids != 0)[..., None]


def t5_from_state(state):
    """Build an encoder whose sizes are read off a state dict (heads: columns of a position table)."""
    vocab, dim = state["token_embedding.weight"].shape
    buckets, heads = state["blocks.0.pos_embedding.embedding.weight"].shape
    model = UMT5Encoder(vocab, dim, state["blocks.0.attn.q.weight"].shape[0],
                        state["blocks.0.ffn.fc1.weight"].shape[0], heads,
                        1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks.")), buckets)
    model.load_state_dict({k: v.float() for k, v in state.items()})
    return model


# ----------------------------------------------------------------------------------------------------- DiT


def rope_angles(frames, height, width, head_dim):
    """Angles [frames*height*width, head_dim/2] in float64: time, then rows, then columns."""
    sizes = (head_dim - 4 * (head_dim // 6), 2 * (head_dim // 6), 2 * (head_dim // 6))
    parts = []
    for axis, (size, count) in enumerate(zip(sizes, (frames, height, width))):
        theta = 10000.0 ** (-2.0 * torch.arange(size // 2, dtype=torch.float64) / size)
        angle = torch.arange(count, dtype=torch.float64)[:, None] * theta
        shape = [1, 1, 1, size // 2]
        shape[axis] = count
        parts.append(angle.view(shape).expand(frames, height, width, size // 2))
    return torch.cat(parts, -1).reshape(frames * height * width, head_dim // 2)


def rotate(x, cos, sin):
    """Rotate the adjacent pairs of x [B, L, heads, d] by the angles whose cos and sin are [L, d/2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def layer_norm(x, weight=None, bias=None):
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, 1e-6)


class HeadlessRMS(nn.Module):
    """RMS norm over the full width, before the split into heads."""

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * self.weight).to(x.dtype)


class Attention(nn.Module):
    """Attention with normalised queries and keys; rotary positions when `rope` is given."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        for name in "qkvo":
            setattr(self, name, nn.Linear(dim, dim))
            nn.init.xavier_uniform_(getattr(self, name).weight)
            nn.init.zeros_(getattr(self, name).bias)
        self.norm_q = HeadlessRMS(dim)
        self.norm_k = HeadlessRMS(dim)

    def forward(self, x, source, rope=None, bias=None):
        """x [B, L, D] asks, source [B, M, D] answers -> [B, L, D]; bias [B, 1, L, M] is added to the scores."""
        b, n, _ = x.shape
        q = self.norm_q(linear(self.q, x)).view(b, n, self.heads, -1)
        k = self.norm_k(linear(self.k, source)).view(b, source.shape[1], self.heads, -1)
        v = linear(self.v, source).view(b, source.shape[1], self.heads, -1)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        bias = None if bias is None else bias.to(q.dtype)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), bias)
        return linear(self.o, y.transpose(1, 2).reshape(b, n, -1))


class Block(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = Attention(dim, heads)
        self.ffn = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))
        for layer in (self.ffn[0], self.ffn[2]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.modulation = nn.Parameter(torch.zeros(1, 6, dim))

    def forward(self, x, e0, context, rope, self_bias=None, text_bias=None):
        """x [B, L, D] float32, e0 [B, 6, D] float32, context [B, N, D] -> [B, L, D] float32."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + e0).unsqueeze(2).unbind(1)
        dtype = context.dtype
        h = (layer_norm(x) * (1 + scale1) + shift1).to(dtype)
        x = x + self.self_attn(h, h, rope, self_bias).float() * gate1
        h = layer_norm(x, self.norm3.weight, self.norm3.bias).to(dtype)
        x = x + self.cross_attn(h, context, None, text_bias).float()
        h = (layer_norm(x) * (1 + scale2) + shift2).to(dtype)
        h = linear(self.ffn[2], F.gelu(linear(self.ffn[0], h), approximate="tanh"))
        return x + h.float() * gate2


class Head(nn.Module):
    def __init__(self, dim, out_dim):
        super().__init__()
        self.head = nn.Linear(dim, 4 * out_dim)
        self.modulation = nn.Parameter(torch.zeros(1, 2, dim))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class WanDiT(nn.Module):
    """The text-to-video diffusion transformer, patch (1, 2, 2)."""

    def __init__(self, dim=256, ffn_dim=1024, num_heads=4, num_layers=6, text_dim=128, text_len=32,
                 in_dim=16, out_dim=16, freq_dim=256):
        super().__init__()
        self.compute_dtype = torch.float32
        self.dim, self.heads, self.freq_dim, self.out_dim, self.text_len = dim, num_heads, freq_dim, out_dim, text_len
        self.patch_embedding = nn.Conv3d(in_dim, dim, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(nn.Linear(text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, ffn_dim) for _ in range(num_layers))
        self.head = Head(dim, out_dim)
        nn.init.xavier_uniform_(self.patch_embedding.weight.data.view(dim, -1))
        nn.init.zeros_(self.patch_embedding.bias)
        for layer in (self.text_embedding[0], self.text_embedding[2], self.time_embedding[0],
                      self.time_embedding[2], self.time_projection[1]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self._rope = {}

    def rope(self, frames, height, width, device):
        """cos and sin [L, head_dim/2] float32 of a token grid, made once per grid and device."""
        key = (frames, height, width, str(device))
        if key not in self._rope:
            angles = rope_angles(frames, height, width, self.dim // self.heads)
            self._rope[key] = (angles.cos().float().to(device), angles.sin().float().to(device))
        return self._rope[key]

    def time_features(self, t):
        """t [B], 1000 times the noise level -> [B, freq_dim] float32, cosines first."""
        half = self.freq_dim // 2
        omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angle = t.double()[:, None] * omega
        return torch.cat((angle.cos(), angle.sin()), -1).float()

    def forward(self, x, features, text, rope, self_bias=None, text_bias=None):
        """x [B, C, T, H, W]; features of `time_features`; text [B, n, text_dim] with n <= text_len -> velocity like x.

        self_bias [B, 1, L, L] and text_bias [B, 1, L, text_len] are added to the scores of the two attentions.
        """
        b, c, frames, height, width = x.shape
        height, width = height // 2, width // 2
        patches = x.view(b, c, frames, height, 2, width, 2).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, -1, 4 * c)
        weight = self.patch_embedding.weight.flatten(1)
        dtype = self.compute_dtype
        tokens = F.linear(patches.to(dtype), weight.to(dtype), self.patch_embedding.bias.to(dtype)).float()
        e = linear(self.time_embedding[2], F.silu(linear(self.time_embedding[0], features)))
        e0 = linear(self.time_projection[1], F.silu(e)).view(b, 6, self.dim)
        text = F.pad(text, (0, 0, 0, self.text_len - text.shape[1])).to(dtype)
        context = linear(self.text_embedding[2], F.gelu(linear(self.text_embedding[0], text), approximate="tanh"))
        for block in self.blocks:
            tokens = block(tokens, e0, context, rope, self_bias, text_bias)
        shift, scale = (self.head.modulation + e[:, None]).unsqueeze(2).unbind(1)
        out = linear(self.head.head, layer_norm(tokens) * (1 + scale) + shift)
        out = out.view(b, frames, height, width, 2, 2, self.out_dim).permute(0, 6, 1, 2, 4, 3, 5)
        return out.reshape(b, self.out_dim, frames, 2 * height, 2 * width)

    def velocity(self, x, t, text):
        """Convenience for sampling: x [B, C, T, H, W], t [B] in 0..1000, text [B, n, text_dim]."""
        rope = self.rope(x.shape[2], x.shape[3] // 2, x.shape[4] // 2, x.device)
        return self(x, self.time_features(t), text, rope)


def dit_from_config(config, state=None):
    """Build a DiT from the keys of config.json; text_dim is read off the state dict."""
    text_dim = 128 if state is None else state["text_embedding.0.weight"].shape[1]
    model = WanDiT(config["dim"], config["ffn_dim"], config["num_heads"], config["num_layers"], text_dim,
                   config["text_len"], config["in_dim"], config["out_dim"], config["freq_dim"])
    if state is not None:
        model.load_state_dict({k: v.float() for k, v in state.items()})
    return model


# ----------------------------------------------------------------------------------------------------- VAE


def temporal_stack(x, taps=3):
    """x [B, C, T, H, W] -> [B, taps*C, T, H, W]: each frame beside the `taps - 1` frames before it (zeros first)."""
    t = x.shape[2]
    x = F.pad(x, (0, 0, 0, 0, taps - 1, 0))
    return torch.cat([x[:, :, i:i + t] for i in range(taps)], 1)


def per_frame(x):
    """[B, C, T, H, W] -> [B*T, C, H, W]; no copy when x is channels-last."""
    b, c, t, h, w = x.shape
    return x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)


def per_clip(x, b):
    """[B*T, C, H, W] -> [B, C, T, H, W]."""
    return x.unflatten(0, (b, -1)).permute(0, 2, 1, 3, 4)


class CausalConv3d(nn.Conv3d):
    """Convolution over a whole clip with 2 zero frames before it, which equals the chunked pass with its cache.

    With `planar` set it runs as one 2-D convolution over the three stacked frames: the same sum, and faster on
    a GPU for few channels.
    """
    planar = False

    def __init__(self, cin, cout, kernel=3):
        super().__init__(cin, cout, kernel)

    def forward(self, x):
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if self.kernel_size[0] == 1:
            return F.conv3d(x, weight, bias)
        if not CausalConv3d.planar:
            return F.conv3d(F.pad(x, (0, 0, 0, 0, 2, 0)), weight, bias, padding=(0, 1, 1))
        flat = weight.transpose(1, 2).flatten(1, 2)
        return per_clip(F.conv2d(per_frame(temporal_stack(x)), flat, bias, padding=1), x.shape[0])


class PixelNorm(nn.Module):
    """x / max(|x|, 1e-12) * sqrt(C) * gamma over the channels of each pixel."""

    def __init__(self, dim, axes):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim, *([1] * axes)))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.square().sum(1, keepdim=True).clamp_min(1e-24))
        return (y * (math.sqrt(x.shape[1]) * self.gamma)).to(x.dtype)


class Residual(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.residual = nn.Sequential(PixelNorm(cin, 3), nn.SiLU(), CausalConv3d(cin, cout),
                                      PixelNorm(cout, 3), nn.SiLU(), nn.Identity(), CausalConv3d(cout, cout))
        if cin != cout:
            self.shortcut = CausalConv3d(cin, cout, 1)

    def forward(self, x):
        skip = self.shortcut(x) if hasattr(self, "shortcut") else x
        return skip + self.residual(x)


class FrameAttention(nn.Module):
    """Single-head attention over the pixels of each frame."""

    def __init__(self, dim):
        super().__init__()
        self.norm = PixelNorm(dim, 2)
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x):
        b, c, t, h, w = x.shape
        y = self.norm(per_frame(x)).flatten(2).transpose(1, 2)
        qkv = F.linear(y, self.to_qkv.weight.flatten(1).to(x.dtype), self.to_qkv.bias.to(x.dtype))
        q, k, v = qkv.unsqueeze(1).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        y = F.linear(y, self.proj.weight.flatten(1).to(x.dtype), self.proj.bias.to(x.dtype))
        return x + y.view(b, t, h, w, c).permute(0, 4, 1, 2, 3)


class TimeConv(nn.Conv3d):
    """The (3, 1, 1) kernel of a temporal resampler; its call is written out in the resamplers."""

    def __init__(self, cin, cout):
        super().__init__(cin, cout, (3, 1, 1))


class Down(nn.Module):
    """Halve rows and columns; with `temporal`, 1 + 2n frames become 1 + n."""

    def __init__(self, dim, temporal):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim, 3, 2))
        if temporal:
            self.time_conv = TimeConv(dim, dim)

    def forward(self, x):
        conv = self.resample[1]
        y = F.conv2d(F.pad(per_frame(x), (0, 1, 0, 1)), conv.weight.to(x.dtype), conv.bias.to(x.dtype), 2)
        y = per_clip(y, x.shape[0])
        if hasattr(self, "time_conv") and y.shape[2] > 1:
            conv = self.time_conv                      # the first frame passes as it is
            later = F.conv3d(y, conv.weight.to(x.dtype), conv.bias.to(x.dtype), (2, 1, 1))
            y = torch.cat((y[:, :, :1], later), 2)
        return y


class Up(nn.Module):
    """Double rows and columns and halve the channels; with `temporal`, 1 + n frames become 1 + 2n."""

    def __init__(self, dim, temporal):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(dim, dim // 2, 3))
        if temporal:
            self.time_conv = TimeConv(dim, 2 * dim)

    def forward(self, x):
        b, c = x.shape[:2]
        if hasattr(self, "time_conv") and x.shape[2] > 1:
            conv = self.time_conv                      # the first frame takes no part, not even as history
            y = F.conv3d(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)), conv.weight.to(x.dtype), conv.bias.to(x.dtype))
            y = torch.stack((y[:, :c], y[:, c:]), 3).flatten(2, 3)
            x = torch.cat((x[:, :, :1], y), 2)
        y = per_frame(x).repeat_interleave(2, 2).repeat_interleave(2, 3)
        conv = self.resample[1]
        return per_clip(F.conv2d(y, conv.weight.to(x.dtype), conv.bias.to(x.dtype), padding=1), b)


class Coder(nn.Module):
    """The encoder or the decoder: conv1, stages, middle, head, in the order of execution given by `encoder`."""

    def __init__(self, dim, z_dim, encoder):
        super().__init__()
        wide = 4 * dim
        stages = []
        if encoder:
            self.conv1 = CausalConv3d(3, dim)
            for cin, cout, last in ((dim, dim, 0), (dim, 2 * dim, 1), (2 * dim, wide, 2), (wide, wide, 3)):
                stages += [Residual(cin, cout), Residual(cout, cout)]
                if last < 3:
                    stages.append(Down(cout, last > 0))
            self.downsamples = nn.Sequential(*stages)
        else:
            self.conv1 = CausalConv3d(z_dim, wide)
            for cin, cout, stage in ((wide, wide, 0), (wide // 2, wide, 1), (wide // 2, 2 * dim, 2), (dim, dim, 3)):
                stages += [Residual(cin, cout), Residual(cout, cout), Residual(cout, cout)]
                if stage < 3:
                    stages.append(Up(cout, stage < 2))
            self.upsamples = nn.Sequential(*stages)
        self.middle = nn.Sequential(Residual(wide, wide), FrameAttention(wide), Residual(wide, wide))
        last = wide if encoder else dim
        self.head = nn.Sequential(PixelNorm(last, 3), nn.SiLU(), CausalConv3d(last, 2 * z_dim if encoder else 3))

    def forward(self, x):
        x = self.conv1(x)
        if hasattr(self, "downsamples"):
            return self.head(self.middle(self.downsamples(x)))
        return self.head(self.upsamples(self.middle(x)))


class WanVAE(nn.Module):
    """The Wan 2.1 VAE, stride (4, 8, 8): 4n + 1 frames become n + 1 latent frames."""

    def __init__(self, dim=16, z_dim=16):
        super().__init__()
        self.encoder = Coder(dim, z_dim, True)
        self.conv1 = CausalConv3d(2 * z_dim, 2 * z_dim, 1)
        self.conv2 = CausalConv3d(z_dim, z_dim, 1)
        self.decoder = Coder(dim, z_dim, False)

    def moments(self, video):
        """video [B, 3, F, H, W] in [-1, 1] -> mean and log variance [B, z, T, H/8, W/8] before normalisation."""
        return self.conv1(self.encoder(video)).chunk(2, 1)

    def encode(self, video):
        """video [B, 3, F, H, W] in [-1, 1] -> latents with the published mean and deviation taken out, float32."""
        mean, std = latent_scale(video.device)
        return (self.moments(video)[0].float() - mean) * (1 / std)

    def raw_decode(self, z):
        """Decode latents in the VAE's own scale, without clamping."""
        return self.decoder(self.conv2(z))

    def decode(self, latents, dtype=torch.float32, clamp=True):
        """Normalised latents [B, z, T, h, w] -> video [B, 3, 1 + 4(T-1), 8h, 8w] in [-1, 1], float32."""
        mean, std = latent_scale(latents.device)
        video = self.raw_decode((latents / (1 / std) + mean).to(dtype)).float()
        return video.clamp(-1, 1) if clamp else video


def latent_scale(device):
    """The published latent mean and deviation, [1, 16, 1, 1, 1] float32."""
    return (torch.tensor(LATENT_MEAN, device=device).view(1, -1, 1, 1, 1),
            torch.tensor(LATENT_STD, device=device).view(1, -1, 1, 1, 1))


@torch.no_grad()
def fold_latent_scale(vae, mean, std):
    """Rescale the 1x1x1 convolutions so that latents of measured `mean` and `std` [16] get the published ones.

    The encoder's output becomes (mu - mean) / std * published_std + published_mean, its log variance moves with
    it, and the decoder's first convolution undoes the change, so that reconstructions stay the same.
    """
    want_mean = torch.tensor(LATENT_MEAN, device=mean.device)
    want_std = torch.tensor(LATENT_STD, device=mean.device)
    gain = want_std / std
    z = len(mean)
    w1, b1 = vae.conv1.weight, vae.conv1.bias
    w1[:z] *= gain.view(-1, 1, 1, 1, 1)
    b1[:z] = (b1[:z] - mean) * gain + want_mean
    b1[z:] += 2 * gain.log()
    w2, b2 = vae.conv2.weight, vae.conv2.bias
    b2 += (w2[:, :, 0, 0, 0] * (mean - want_mean / gain)).sum(1)
    w2 /= gain.view(1, -1, 1, 1, 1)


def vae_from_state(state):
    """Build a VAE whose width is read off a state dict."""
    model = WanVAE(state["encoder.conv1.weight"].shape[0], state["conv2.weight"].shape[0])
    model.load_state_dict({k: v.float() for k, v in state.items()})
    return model


# --------------------------------------------------------------------------------------------------- files

T5_FILE = "models_t5_umt5-xxl-enc-bf16.pth"
VAE_FILE = "Wan2.1_VAE.pth"
DIT_FILE = "diffusion_pytorch_model.safetensors"
TOKENIZER_DIR = "google/umt5-xxl"


def load_folder(folder, device="cpu"):
    """Read a checkpoint folder in the original layout -> (config, t5, dit, vae), float32, in eval mode."""
    from safetensors.torch import load_file
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    t5 = t5_from_state(torch.load(os.path.join(folder, T5_FILE), map_location="cpu", weights_only=True))
    dit = dit_from_config(config, load_file(os.path.join(folder, DIT_FILE)))
    vae = vae_from_state(torch.load(os.path.join(folder, VAE_FILE), map_location="cpu", weights_only=True))
    return config, t5.to(device).eval(), dit.to(device).eval(), vae.to(device).eval()


# ------------------------------------------------------------------------------------------------ sampling


def euler_sigmas(steps, shift):
    """Noise levels [steps + 1]: linspace(1, 0) passed through the shift."""
    s = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return shift * s / (1 + (shift - 1) * s)


@torch.no_grad()
def sample_euler(dit, text, empty, noise, steps=20, shift=3.0, guidance=4.0, dtype=torch.float32):
    """Guided Euler sampling: noise [B, 16, T, h, w] float32, text and empty [B, n, text_dim] -> latents.

    `dtype` is that of the matrix products; latents and guidance stay float32.
    """
    previous, dit.compute_dtype = dit.compute_dtype, dtype
    sigmas = euler_sigmas(steps, shift).tolist()
    x = noise.clone()
    for now, after in zip(sigmas[:-1], sigmas[1:]):
        t = torch.full((len(x),), 1000 * now, device=x.device, dtype=torch.float64)
        with_text = dit.velocity(x, t, text)
        without = dit.velocity(x, t, empty)
        x = x + (after - now) * (without + guidance * (with_text - without))
    dit.compute_dtype = previous
    return x
