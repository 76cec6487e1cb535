"""Shape videos without an end, whose caption may change while they run.

The scenes are those of generator.py; what a caption says of movement goes on for ever: an object that moves turns round
at the edge of the picture, a growing one pulsates between 0.65 and 1.35 of its radius, a spinning one keeps spinning.
The first 17 frames have the distribution of generator.py's clips.  At a change of caption every object stays where it
is and takes the colour, shape, size and motion of the new caption at once, upright or at the middle of its pulse;
what the new caption does not say stays as it was.
"""
import math
from dataclasses import fields

import torch

import generator
from generator import FRAMES, MARGIN, OBJECTS, SIZE, Grammar, Scenes, Tracks, Weights

CHANGE = 0.65           # chance of each attribute to be another one after a change of caption


def reflect(start, travel, low, high):
    """Position after `travel` from `start` between two walls, as a ball goes to and fro."""
    span = (high - low).clamp_min(1e-3)
    way = torch.remainder(start - low + travel, 2 * span)
    return low + torch.where(way > span, 2 * span - way, way)


def triangle(time, period):
    """0 at 0, 1 at half the period, 0 at the period."""
    phase = torch.remainder(time, period) / period
    return 1 - (2 * phase - 1).abs()


def _table(grammar, scenes):
    """What the words of the scenes mean, [B, K] each."""
    device = scenes.x.device

    def of(items, name, index):
        return torch.tensor([float(getattr(i, name)) for i in items.values()], device=device)[index]

    values = {k: of(grammar.motions, k, scenes.motion) for k in ("dx", "dy", "turn", "growth")}
    values.update({k: of(grammar.shapes, k, scenes.shape) for k in ("points", "valley", "angle", "scale")})
    values["nominal"] = torch.tensor(list(grammar.sizes.values()), device=device)[scenes.size]
    return values


def _track(scenes, grammar, time, x, y, radius, pulse, turned, pace):
    """Tracks from a state at time 0: time [B, F] in frames, the rest [B, K]."""
    v = {k: m[:, None] for k, m in _table(grammar, scenes).items()}
    clock = time[:, :, None]
    step = clock / (FRAMES - 1) * pace[:, None]
    reach = radius * (1 + v["growth"][:, 0] / 2) + MARGIN
    low, high = reach[:, None], SIZE - reach[:, None]
    size = 1 + v["growth"] * (triangle(clock + pulse[:, None], 2.0 * (FRAMES - 1)) - 0.5)
    shown = torch.arange(OBJECTS, device=x.device) < scenes.count[:, None]
    frames = time.shape[1]
    still = torch.zeros_like(step)
    return Tracks(
        x=reflect(x[:, None], v["dx"] * step, low, high), y=reflect(y[:, None], v["dy"] * step, low, high),
        radius=radius[:, None] * size,
        angle=v["angle"] + turned[:, None] + v["turn"] * clock / (FRAMES - 1),
        points=v["points"] + still, valley=v["valley"] + still, depth=scenes.depth[:, None] + still,
        visible=shown[:, None].expand(-1, frames, -1),
        rgb=generator._rgb(grammar.colours, scenes.colour)[:, None].expand(-1, frames, -1, -1),
        background=generator._rgb(grammar.backgrounds, scenes.background)[:, None].expand(-1, frames, -1))


def tracks(before, after, cut, first, frames, grammar=None):
    """Frames first .. first + frames - 1 [B each] of clips that show `before` until frame `cut` [B], then `after`."""
    grammar = grammar or Grammar()
    v = _table(grammar, before)
    device = before.x.device
    half = 0.5 * before.pace
    angle = before.angle - v["turn"] / 2
    start = dict(x=before.x - v["dx"] * half, y=before.y - v["dy"] * half, radius=before.radius,
                 pulse=torch.zeros_like(before.x), turned=angle, pace=before.pace)
    time = first[:, None] + torch.arange(frames, device=device)[None]
    a = _track(before, grammar, time, **start)
    at_cut = _track(before, grammar, cut[:, None].to(time.dtype), **start)
    w = _table(grammar, after)
    ratio = before.radius / (v["nominal"] * v["scale"])                # the exact size of this object
    radius = w["nominal"] * w["scale"] * ratio
    # what goes on spinning or pulsating in the same shape and motion does not start anew
    same = (before.motion == after.motion)
    turned = torch.where(same & (before.shape == after.shape) & (w["turn"] != 0), at_cut.angle[:, 0] - w["angle"],
                         torch.zeros_like(angle))
    pulse = torch.where(same, torch.remainder(cut[:, None].to(angle.dtype), 2.0 * (FRAMES - 1)),
                        torch.full_like(angle, (FRAMES - 1) / 2))
    reach = radius * (1 + w["growth"] / 2) + MARGIN
    # an object that goes on with its motion keeps its direction, another sets out as the caption says
    later = _track(before, grammar, (cut[:, None] + 1).to(time.dtype), **start)
    back = same & (((later.x - at_cut.x)[:, 0] * w["dx"] + (later.y - at_cut.y)[:, 0] * w["dy"]) < 0)
    new = dict(x=at_cut.x[:, 0].clamp(reach, SIZE - reach), y=at_cut.y[:, 0].clamp(reach, SIZE - reach),
               radius=radius, pulse=pulse, turned=turned, pace=before.pace * torch.where(back, -1.0, 1.0))
    b = _track(after, grammar, (time - cut[:, None]).clamp_min(0), **new)
    late = time >= cut[:, None]
    result = {}
    for f in fields(Tracks):
        left, right = getattr(a, f.name), getattr(b, f.name)
        result[f.name] = torch.where(late.view(*late.shape, *[1] * (left.ndim - 2)), right, left)
    return Tracks(**result)


def sample(count, seed, weights=None, grammar=None):
    """`count` clips with a change of caption: scenes before, scenes after, and the captions of both (two lists)."""
    weights, grammar = weights or Weights(count={1: 0.85, 2: 0.15}), grammar or Grammar()
    before, after = (generator.sample_scenes(count, seed + k, weights, grammar) for k in (0, 500_000_011))
    rng = torch.Generator().manual_seed(seed + 7)
    shapes, motions, sizes = list(grammar.shapes), list(grammar.motions), list(grammar.sizes)

    def flip(chance, *shape):
        return torch.rand(*shape, generator=rng) < chance

    two = {k: torch.where(flip(CHANGE, count, OBJECTS), getattr(after, k), getattr(before, k))
           for k in ("shape", "colour", "size", "motion")}
    ground = torch.where(flip(0.3, count), after.background, before.background)
    said = {k: ~flip(weights.unsaid[k], count, 2, OBJECTS) for k in ("shape", "colour", "size", "motion")}
    ground_said = ~flip(weights.unsaid["background"], count, 2)
    for k in two:                                          # unsaid: as before
        two[k] = torch.where(said[k][:, 1], two[k], getattr(before, k))
    ground = torch.where(ground_said[:, 1], ground, before.background)
    many = before.count > 1
    large = (two["size"] == sizes.index("large")) & many[:, None]
    two["size"] = torch.where(large, before.size, two["size"])
    for shape, motion in grammar.excluded:
        clash = (two["shape"] == shapes.index(shape)) & (two["motion"] == motions.index(motion))
        two["motion"] = torch.where(clash, motions.index("still"), two["motion"])
        said["motion"][:, 1] |= clash
    after = Scenes(count=before.count, background=ground, radius=before.radius, pace=before.pace, x=before.x, y=before.y,
                   angle=before.angle, depth=before.depth, **two)
    lines = []
    for turn, scenes in enumerate((before, after)):
        group = []
        for i, (objects, background) in enumerate(generator.describe(scenes, grammar)):
            spoken = [{k: w for k, w in o.items() if said[k][i, turn, j]} for j, o in enumerate(objects)]
            group.append(grammar.sentence(spoken, background if ground_said[i, turn] else None))
        lines.append(group)
    return before, after, lines
