"""The causal form of the shapes DiT in PyTorch: training over a whole clip at once, and generation block by block.

Weights are those of wan_torch.WanDiT.  As in LongLive, a block is 3 latent frames that see each other; it also sees the
sink (the first block) and the two blocks before it, at timestep 0, with keys rotated by their absolute positions.
After a change of caption the last blocks are read again with the new one.
"""
import torch
import torch.nn.functional as F

import wan_torch as wan

BLOCK, LOOK_BACK = 3, 2                 # latent frames a block; blocks before it that stay in a window of 12 frames
STEPS = (1000.0, 937.5, 2500 / 3, 625.0)     # LongLive's timesteps: 1000, 750, 500, 250 through shift 5


class BlockCausal(wan.Block):
    """A transformer block over Q blocks of n tokens each, which see other blocks through a table."""

    def forward(self, x, e0, context, rope, table, bias, words):
        """x [B, Q, n, D] float32; e0 [B, Q, 6, D]; context [B, C, m, D]; rope cos and sin [B, Q, n, d/2]; table [Q, K]
        names the blocks that each block sees, bias [Q, 1, K n] is -inf for those that count as absent; words [Q] chooses
        the context."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation[:, None] + e0).unsqueeze(3).unbind(2)
        dtype, (b, blocks, n, width), heads = context.dtype, x.shape, self.self_attn.heads
        a = self.self_attn
        h = (wan.layer_norm(x) * (1 + scale1) + shift1).to(dtype)
        q = turn(a.norm_q(wan.linear(a.q, h)).unflatten(-1, (heads, -1)), rope)
        k = turn(a.norm_k(wan.linear(a.k, h)).unflatten(-1, (heads, -1)), rope)
        v = wan.linear(a.v, h).unflatten(-1, (heads, -1))
        k, v = (t.index_select(1, table.flatten()).view(b * blocks, -1, heads, width // heads) for t in (k, v))
        mask = bias.to(dtype).expand(b, blocks, n, -1).reshape(b * blocks, 1, n, -1)
        y = F.scaled_dot_product_attention(q.flatten(0, 1).transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask)
        x = x + wan.linear(a.o, y.transpose(1, 2).reshape(b, blocks, n, width)).float() * gate1
        a = self.cross_attn
        h = wan.layer_norm(x, self.norm3.weight, self.norm3.bias).to(dtype)
        q = a.norm_q(wan.linear(a.q, h)).view(b * blocks, n, heads, -1)
        k = a.norm_k(wan.linear(a.k, context)).index_select(1, words).view(b * blocks, -1, heads, width // heads)
        v = wan.linear(a.v, context).index_select(1, words).view(b * blocks, -1, heads, width // heads)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        x = x + wan.linear(a.o, y.transpose(1, 2).reshape(b, blocks, n, width)).float()
        h = (wan.layer_norm(x) * (1 + scale2) + shift2).to(dtype)
        h = wan.linear(self.ffn[2], F.gelu(wan.linear(self.ffn[0], h), approximate="tanh"))
        return x + h.float() * gate2


def turn(x, rope):
    """Rotate the adjacent pairs of x [..., n, heads, d] by angles whose cos and sin are [..., n, d/2]."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = (t.unsqueeze(-2) for t in rope)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def make_causal(dit):
    for block in dit.blocks:
        block.__class__ = BlockCausal
    return dit


def rope_of(dit, start, height, width):
    """cos and sin [*start.shape, tokens of a block, d/2] of blocks whose first frames are at positions `start`."""
    d = dit.dim // dit.heads
    sizes = (d - 4 * (d // 6), 2 * (d // 6))
    grid = torch.stack(torch.meshgrid(*(torch.arange(s) for s in (BLOCK, height, width)), indexing="ij"), -1).view(-1, 3)
    grid = grid.to(start.device, torch.float64)
    parts = []
    for axis, size in ((0, sizes[0]), (1, sizes[1]), (2, sizes[1])):
        theta = 10000.0 ** (-2.0 * torch.arange(size // 2, dtype=torch.float64, device=start.device) / size)
        at = grid[:, axis] + (start[..., None].double() if axis == 0 else 0 * start[..., None].double())
        parts.append(at[..., None] * theta)
    angle = torch.cat(parts, -1)
    return angle.cos().float(), angle.sin().float()


def embed_text(dit, text):
    """[..., n, text_dim] -> [..., text_len, D] in the compute dtype."""
    text = F.pad(text, (0, 0, 0, dit.text_len - text.shape[-2])).to(dit.compute_dtype)
    return wan.linear(dit.text_embedding[2], F.gelu(wan.linear(dit.text_embedding[0], text), approximate="tanh"))


def run(dit, x, t, text, start, table, bias, words):
    """x [B, Q, C, 3, H, W], timesteps t [B, Q], text [B, C, n, text_dim], positions start [B, Q] -> velocity like x."""
    b, blocks, c, frames, height, width = x.shape
    height, width = height // 2, width // 2
    patches = x.view(b, blocks, c, frames, height, 2, width, 2).permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(b, blocks, -1, 4 * c)
    dtype = dit.compute_dtype
    tokens = F.linear(patches.to(dtype), dit.patch_embedding.weight.flatten(1).to(dtype),
                      dit.patch_embedding.bias.to(dtype)).float()
    features = dit.time_features(t.flatten())
    e = wan.linear(dit.time_embedding[2], F.silu(wan.linear(dit.time_embedding[0], features)))
    e0 = wan.linear(dit.time_projection[1], F.silu(e)).view(b, blocks, 6, dit.dim)
    context = embed_text(dit, text)
    rope = rope_of(dit, start, height, width)
    for block in dit.blocks:
        tokens = block(tokens, e0, context, rope, table, bias, words)
    shift, scale = (dit.head.modulation[:, None] + e.view(b, blocks, 1, dit.dim)).unsqueeze(3).unbind(2)
    out = wan.linear(dit.head.head, wan.layer_norm(tokens) * (1 + scale) + shift)
    out = out.view(b, blocks, frames, height, width, 2, 2, c).permute(0, 1, 7, 2, 3, 5, 4, 6)
    return out.reshape(x.shape)


class Plan:
    """Who sees whom when a clip of n blocks is trained at once.

    Query blocks: n clean ones, `again` ones that are read again with the second caption, n noisy ones.  The caption
    changes at block `cut`.  `gap`: the blocks after the first come from much later in the clip, so that the sink stays what
    it is; else a change within the first window (block 4 at the latest) computes the sink again too, as LongLive does.
    """
    AGAIN = 4

    def __init__(self, n, cut, gap, tokens, device):
        whole = not gap and cut <= self.AGAIN
        again = list(range(cut)) if whole else list(range(max(1, cut - self.AGAIN + 1), cut))
        slot = {c: n + i for i, c in enumerate(again)}

        def past(b):
            seen = sorted({c for c in (0, b - 2, b - 1) if 0 <= c < b})
            return [slot.get(c, c) if b >= cut and c < cut else c for c in seen]

        rows = [past(b) + [b] for b in range(n)]
        sink = [] if whole else [0]
        rows += [sink + [slot[c] for c in again] if i < len(again) else [n + i] for i in range(self.AGAIN)]
        rows += [past(b) + [n + self.AGAIN + b] for b in range(n)]
        wide = 2 + LOOK_BACK
        self.source = torch.tensor((again + [0] * self.AGAIN)[:self.AGAIN], device=device)     # what is read again
        self.table = torch.tensor([r + [r[-1]] * (wide - len(r)) for r in rows], device=device)
        absent = torch.tensor([[0.0] * len(r) + [float("-inf")] * (wide - len(r)) for r in rows], device=device)
        self.bias = absent.repeat_interleave(tokens, 1)[:, None]
        later = [int(b >= cut) for b in range(n)]
        self.words = torch.tensor(later + [1] * self.AGAIN + later, device=device)
        weight = torch.ones(n, device=device)
        weight[0] = 0                       # trained by imitation of the teacher
        if gap:
            weight[1] = 0                   # does not see where the objects came from
        self.weight = weight
        self.noisy = n + self.AGAIN


class Clip:
    """Generation block by block as the engine does it: caches of keys by layer, in blocks."""

    def __init__(self, dit):
        self.dit = dit

    def call(self, x, t, starts, seen, keep):
        """x [B, m, C, 3, H, W] at block positions `starts`: they see each other and the cached blocks `seen`."""
        dit = self.dit
        b, m = x.shape[:2]
        start = torch.tensor(starts, device=x.device).expand(b, m) * BLOCK
        return run_cached(dit, x, torch.full((b, m), t, device=x.device), self.text, start,
                          [[layer[c] for c in seen] for layer in self.cache], keep)

    @torch.no_grad()
    def generate(self, text, count, noise, switch=None, text2=None, steps=STEPS):
        """count blocks; noise(shape) gives normal numbers; at block `switch` text2 takes over -> [B, C, 3 count, H, W]."""
        self.text = text
        self.cache = [dict() for _ in self.dit.blocks]
        done = []
        for i in range(count):
            if switch is not None and i == switch:
                self.text = text2
                first = max(0, i - 4)
                again = torch.stack(done[first:i], 1)
                whole = first == 0
                seen = [] if whole else [0]
                use = list(range(first, i)) if whole else list(range(first + 1, i))
                keys = self.call(again[:, [c - first for c in use]], 0.0, use, seen, True)[1]
                for layer, got in zip(self.cache, keys):
                    for c, kv in zip(use, got):
                        layer[c] = kv
            seen = sorted({c for c in (0, i - 2, i - 1) if 0 <= c < i})
            x = noise((len(text), 16, BLOCK, 16, 16))
            for k, t in enumerate(steps):
                v = self.call(x[:, None], t, [i], seen, False)[0][:, 0]
                x0 = x - t / 1000 * v
                if k + 1 < len(steps):
                    s = steps[k + 1] / 1000
                    x = (1 - s) * x0 + s * noise(x0.shape)
            done.append(x0)
            keys = self.call(x0[:, None], 0.0, [i], seen, True)[1]
            for layer, got in zip(self.cache, keys):
                layer[i] = got[0]
                layer.pop(i - 5, None) if i > 5 else None
        return torch.cat(done, 2)


def run_cached(dit, x, t, text, start, cached, keep):
    """As run() for generation: blocks see each other and cached (k, v) [B, n, heads, d] -> velocity, keys by layer."""
    b, m, c, frames, height, width = x.shape
    height, width = height // 2, width // 2
    patches = x.reshape(b, m, c, frames, height, 2, width, 2).permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(b, m, -1, 4 * c)
    dtype = dit.compute_dtype
    x = F.linear(patches.to(dtype), dit.patch_embedding.weight.flatten(1).to(dtype), dit.patch_embedding.bias.to(dtype)).float()
    e = wan.linear(dit.time_embedding[2], F.silu(wan.linear(dit.time_embedding[0], dit.time_features(t.flatten()))))
    e0 = wan.linear(dit.time_projection[1], F.silu(e)).view(b, m, 6, dit.dim)
    context = embed_text(dit, text)
    rope = rope_of(dit, start, height, width)
    keys = []
    for block, old in zip(dit.blocks, cached):
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation[:, None] + e0).unsqueeze(3).unbind(2)
        a, heads = block.self_attn, block.self_attn.heads
        h = (wan.layer_norm(x) * (1 + scale1) + shift1).to(dtype)
        q = turn(a.norm_q(wan.linear(a.q, h)).unflatten(-1, (heads, -1)), rope).flatten(1, 2)
        k = turn(a.norm_k(wan.linear(a.k, h)).unflatten(-1, (heads, -1)), rope)
        v = wan.linear(a.v, h).unflatten(-1, (heads, -1))
        if keep:
            keys.append([(k[:, i], v[:, i]) for i in range(m)])
        k_all = torch.cat([o[0] for o in old] + [k.flatten(1, 2)], 1)
        v_all = torch.cat([o[1] for o in old] + [v.flatten(1, 2)], 1)
        y = F.scaled_dot_product_attention(*(u.transpose(1, 2) for u in (q, k_all, v_all)))
        x = x + wan.linear(a.o, y.transpose(1, 2).reshape(x.shape)).float() * gate1
        a = block.cross_attn
        h = wan.layer_norm(x, block.norm3.weight, block.norm3.bias).to(dtype)
        q = a.norm_q(wan.linear(a.q, h)).flatten(1, 2).unflatten(-1, (heads, -1))
        k = a.norm_k(wan.linear(a.k, context)).unflatten(-1, (heads, -1))
        v = wan.linear(a.v, context).unflatten(-1, (heads, -1))
        y = F.scaled_dot_product_attention(*(u.transpose(1, 2) for u in (q, k, v)))
        x = x + wan.linear(a.o, y.transpose(1, 2).reshape(x.shape)).float()
        h = (wan.layer_norm(x) * (1 + scale2) + shift2).to(dtype)
        x = x + wan.linear(block.ffn[2], F.gelu(wan.linear(block.ffn[0], h), approximate="tanh")).float() * gate2
    shift, scale = (dit.head.modulation[:, None] + e.view(b, m, 1, dit.dim)).unsqueeze(3).unbind(2)
    out = wan.linear(dit.head.head, wan.layer_norm(x) * (1 + scale) + shift)
    out = out.view(b, m, frames, height, width, 2, 2, c).permute(0, 1, 7, 2, 3, 5, 4, 6)
    return out.reshape(b, m, c, frames, 2 * height, 2 * width), keys
