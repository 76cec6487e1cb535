"""Synthetic videos of moving shapes, with captions.

Three layers, each of which can be replaced without touching the others:

1. `Grammar` and `Weights` (data): which words exist, what they mean in pixels, and how often each is drawn.
   `Weights.rules` changes the odds of one attribute where others have given values, so a deliberately
   unbalanced caption distribution is a JSON file and no code.
2. `sample_scenes` -> `Scenes`: the attributes of every object (indices into the grammar's tables) and its free
   choices (place, exact size, start angle).  `captions` says a scene in words.
3. `tracks` -> `Tracks`: where every object is, how large, how turned, in which colour, frame by frame.  A cut
   between shots is `join([tracks_a, tracks_b], [9, 8])`: tracks are cut and joined in time.  `render` paints any
   tracks: frames, the share of each pixel covered by objects, and a depth map.

    python3 generator.py --out FOLDER [--count 16] [--seed 1] [--weights FILE]     writes clips and captions.txt
    python3 generator.py --list                                                  prints the evaluation captions

Everything is vectorised over the batch in torch and runs on the CPU or a GPU.  Pixels are in [-1, 1], x to the
right, y down, angles in radians clockwise, lengths in pixels.
"""
import argparse
import itertools
import json
import math
import os
from dataclasses import dataclass, field, fields

import torch

SIZE = 128          # pixels, both axes
FRAMES = 17

# ------------------------------------------------------------------------------------------------- grammar


@dataclass(frozen=True)
class Shape:
    """A star-shaped outline: `points` tips at the circumradius, the valleys between them at `valley` times it.

    A regular polygon has its edge midpoints as valleys; a polygon of 64 sides is a circle to 0.03 pixels.
    `scale` times the nominal size gives the circumradius, so that the shapes of one size look equally large.
    """
    points: int
    valley: float
    scale: float
    angle: float = 0.0          # of the first tip, clockwise from straight up, when the shape stands upright


@dataclass(frozen=True)
class Motion:
    """Change over a whole clip, spread evenly: travel in pixels, turn in radians, relative growth of the radius."""
    phrase: str
    dx: float = 0.0
    dy: float = 0.0
    turn: float = 0.0
    growth: float = 0.0


def polygon(points, scale, angle=0.0):
    return Shape(points, math.cos(math.pi / points), scale, angle)


@dataclass
class Grammar:
    """The words and what they mean.  Every table maps a word to its meaning; order gives the index."""
    shapes: dict = field(default_factory=lambda: {
        "circle": polygon(64, 1.0),
        "square": polygon(4, 1.2, math.pi / 4),
        "triangle": polygon(3, 1.3),
        "star": Shape(5, 0.45, 1.35),
    })
    colours: dict = field(default_factory=lambda: {
        "red": (230, 40, 40), "yellow": (240, 220, 40), "green": (40, 200, 60),
        "cyan": (40, 210, 220), "blue": (50, 70, 235), "magenta": (220, 50, 210),
    })
    sizes: dict = field(default_factory=lambda: {"small": 15.0, "medium": 20.0, "large": 26.0})
    backgrounds: dict = field(default_factory=lambda: {
        "black": (10, 10, 10), "gray": (128, 128, 128), "white": (245, 245, 245),
    })
    motions: dict = field(default_factory=lambda: {
        "left": Motion("moving left", dx=-44.0),
        "right": Motion("moving right", dx=44.0),
        "up": Motion("moving up", dy=-44.0),
        "down": Motion("moving down", dy=44.0),
        "still": Motion("standing still"),
        "growing": Motion("growing", growth=0.7),
        "spinning": Motion("spinning", turn=math.radians(96)),
    })
    # A circle looks the same at every angle, so nobody could see it spin: the pair does not exist.
    excluded: tuple = (("circle", "spinning"),)

    def tables(self):
        return {"shape": self.shapes, "colour": self.colours, "size": self.sizes, "motion": self.motions,
                "background": self.backgrounds}

    def words(self):
        """Every word that a caption can hold."""
        text = " ".join([*self.shapes, *self.colours, *self.sizes, *self.backgrounds,
                         *(m.phrase for m in self.motions.values()), "a and on background shape"])
        return sorted(set(text.split()))

    def noun_phrase(self, shape=None, colour=None, size=None, motion=None):
        parts = ["a", size, colour, shape or "shape", motion and self.motions[motion].phrase]
        return " ".join(p for p in parts if p)

    def sentence(self, objects, background=None):
        """objects: one dict or two of shape, colour, size, motion (missing or None: not said)."""
        text = " and ".join(self.noun_phrase(**o) for o in objects)
        return text + (f" on a {background} background" if background else "")


@dataclass
class Weights:
    """How often each value is drawn, as data.

    `count`: number of objects.  `shape` ... `background`: odds by word; a missing word has odds 1.  `unsaid`: chance
    that a caption leaves an attribute out.  `rules`: list of {"when": {attribute: word, ...}, "then": {attribute:
    {word: odds}}}; `when` may also hold "count".  Rules are applied in order to every object they match, drawing
    the attribute again.
    """
    count: dict = field(default_factory=lambda: {1: 0.7, 2: 0.3})
    shape: dict = field(default_factory=dict)
    colour: dict = field(default_factory=dict)
    size: dict = field(default_factory=dict)
    motion: dict = field(default_factory=dict)
    background: dict = field(default_factory=dict)
    unsaid: dict = field(default_factory=lambda: {"size": 0.3, "background": 0.2, "colour": 0.05, "motion": 0.05,
                                                   "shape": 0.03})
    rules: list = field(default_factory=lambda: [{"when": {"count": 2}, "then": {"size": {"large": 0.0}}}])

    @classmethod
    def load(cls, path):
        with open(path) as f:
            data = json.load(f)
        if "count" in data:
            data["count"] = {int(k): v for k, v in data["count"].items()}
        return cls(**data)


# ------------------------------------------------------------------------------------------------- sampling

OBJECTS = 2         # slots in a scene; a scene of one object leaves the second unused
TRAVEL_SPREAD = 0.1
SIZE_SPREAD = 0.05
MARGIN = 2.0        # pixels between an object and the edge of the picture


@dataclass
class Scenes:
    """B scenes: indices [B] or [B, OBJECTS] (long), free choices [B, OBJECTS] (float)."""
    count: torch.Tensor
    background: torch.Tensor
    shape: torch.Tensor
    colour: torch.Tensor
    size: torch.Tensor
    motion: torch.Tensor
    radius: torch.Tensor        # circumradius at mid-clip
    pace: torch.Tensor          # factor on the travel of the motion
    x: torch.Tensor             # centre at mid-clip
    y: torch.Tensor
    angle: torch.Tensor         # at mid-clip, added to the upright angle
    depth: torch.Tensor         # 0 near, 1 far; the background is at 1

    def __len__(self):
        return len(self.count)

    def map(self, f):
        return Scenes(**{k.name: f(getattr(self, k.name)) for k in fields(self)})

    def to(self, device):
        return self.map(lambda v: v.to(device))

    def __getitem__(self, index):
        return self.map(lambda v: v[index])


def _odds(table, weights):
    return torch.tensor([float(weights.get(word, 1.0)) for word in table])


def _draw(odds, shape, rng):
    return torch.multinomial(odds, math.prod(shape), True, generator=rng).view(shape)


def sample_scenes(n, seed, weights=None, grammar=None):
    """Draw n scenes (on the CPU; move them with `.to`).  The same seed gives the same scenes."""
    weights, grammar = weights or Weights(), grammar or Grammar()
    rng = torch.Generator().manual_seed(seed)
    tables = grammar.tables()
    counts = sorted(weights.count)
    count = torch.tensor(counts)[_draw(torch.tensor([float(weights.count[c]) for c in counts]), (n,), rng)]
    value = {"background": _draw(_odds(tables["background"], weights.background), (n,), rng)}
    for name in ("shape", "colour", "size", "motion"):
        value[name] = _draw(_odds(tables[name], getattr(weights, name)), (n, OBJECTS), rng)
    for rule in weights.rules:
        match = torch.ones(n, OBJECTS, dtype=torch.bool)
        for name, want in rule["when"].items():
            if name == "count":
                match &= (count == want)[:, None]
            else:
                index = list(tables[name]).index(want)
                match &= value[name][:, None] == index if name == "background" else value[name] == index
        for name, odds in rule["then"].items():
            if name == "background":
                fresh = _draw(_odds(tables[name], odds), (n,), rng)
                value[name] = torch.where(match[:, 0], fresh, value[name])
            else:
                fresh = _draw(_odds(tables[name], odds), (n, OBJECTS), rng)
                value[name] = torch.where(match, fresh, value[name])
    shapes, motions = list(tables["shape"]), list(tables["motion"])
    for shape, motion in grammar.excluded:                    # draw the motion again among the allowed ones
        odds = _odds(tables["motion"], weights.motion)
        odds[motions.index(motion)] = 0
        fresh = _draw(odds, (n, OBJECTS), rng)
        clash = (value["shape"] == shapes.index(shape)) & (value["motion"] == motions.index(motion))
        value["motion"] = torch.where(clash, fresh, value["motion"])
    return place(count, value, rng, grammar)


def place(count, value, rng, grammar, tries=12):
    """Fill in the free choices of scenes whose words are fixed: `value` holds the index tensors by attribute.

    Objects stay inside the picture for the whole clip.  Of `tries` placements of a pair, the one whose objects
    keep furthest apart is taken.
    """
    n = len(count)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=rng)

    table = {k: list(t.values()) for k, t in grammar.tables().items()}
    scale = torch.tensor([s.scale for s in table["shape"]])[value["shape"]]
    radius = torch.tensor(table["size"])[value["size"]] * scale * uniform(1 - SIZE_SPREAD, 1 + SIZE_SPREAD, n, OBJECTS)
    pace = uniform(1 - TRAVEL_SPREAD, 1 + TRAVEL_SPREAD, n, OBJECTS)
    moves = {k: torch.tensor([getattr(m, k) for m in table["motion"]])[value["motion"]]
             for k in ("dx", "dy", "turn", "growth")}
    reach = radius * (1 + moves["growth"] / 2) + MARGIN
    centre, extent = {}, {}
    for axis, step in (("x", "dx"), ("y", "dy")):
        extent[axis] = moves[step] * pace
        room = (SIZE / 2 - reach - extent[axis].abs() / 2).clamp_min(0)
        centre[axis] = SIZE / 2 + room[..., None] * uniform(-1, 1, n, OBJECTS, tries)
    gap = torch.full((n, tries), float("inf"))
    for tau in (-0.5, 0.0, 0.5):
        at = {a: centre[a] + (tau * extent[a])[..., None] for a in "xy"}
        apart = torch.hypot(at["x"][:, 0] - at["x"][:, 1], at["y"][:, 0] - at["y"][:, 1])
        gap = torch.minimum(gap, apart - reach.sum(1, keepdim=True))
    best = torch.where(count > 1, gap.argmax(1), 0)
    pick = best[:, None, None].expand(n, OBJECTS, 1)
    turned = uniform(0, 2 * math.pi, n, OBJECTS)
    return Scenes(count=count, background=value["background"], shape=value["shape"], colour=value["colour"],
                  size=value["size"], motion=value["motion"], radius=radius, pace=pace,
                  x=centre["x"].gather(2, pick)[..., 0], y=centre["y"].gather(2, pick)[..., 0],
                  angle=torch.where(moves["turn"] != 0, turned, 0.0), depth=uniform(0.1, 0.9, n, OBJECTS))


def scenes_of(descriptions, seed, grammar=None):
    """Scenes for given descriptions: (objects, background) with objects a list of dicts of all four attributes."""
    grammar = grammar or Grammar()
    tables = {k: list(t) for k, t in grammar.tables().items()}
    count = torch.tensor([len(objects) for objects, _ in descriptions])
    value = {"background": torch.tensor([tables["background"].index(b) for _, b in descriptions])}
    for name in ("shape", "colour", "size", "motion"):
        value[name] = torch.tensor([[tables[name].index(objects[min(k, len(objects) - 1)][name])
                                     for k in range(OBJECTS)] for objects, _ in descriptions])
    return place(count, value, torch.Generator().manual_seed(seed), grammar)


def describe(scenes, grammar=None):
    """The full description of every scene: list of (objects, background)."""
    grammar = grammar or Grammar()
    words = {k: list(t) for k, t in grammar.tables().items()}
    columns = {k: getattr(scenes, k).tolist() for k in ("shape", "colour", "size", "motion")}
    result = []
    for i, (count, background) in enumerate(zip(scenes.count.tolist(), scenes.background.tolist())):
        objects = [{k: words[k][columns[k][i][j]] for k in columns} for j in range(count)]
        result.append((objects, words["background"][background]))
    return result


def captions(scenes, seed, weights=None, grammar=None, variants=1):
    """Captions of every scene, `variants` drawings of what is left unsaid: list of lists of strings."""
    weights, grammar = weights or Weights(), grammar or Grammar()
    rng = torch.Generator().manual_seed(seed)
    said = {name: (torch.rand(len(scenes), variants, OBJECTS, generator=rng) >= chance).tolist()
            for name, chance in weights.unsaid.items()}
    result = []
    for i, (objects, background) in enumerate(describe(scenes, grammar)):
        lines = []
        for v in range(variants):
            spoken = [{k: w for k, w in o.items() if k not in said or said[k][i][v][j]} for j, o in enumerate(objects)]
            keep = "background" not in said or said["background"][i][v][0]
            lines.append(grammar.sentence(spoken, background if keep else None))
        result.append(lines)
    return result


# ------------------------------------------------------------------------------------------- tracks, pixels


@dataclass
class Tracks:
    """State of every object in every frame: [B, F, K] (rgb [B, F, K, 3]) and the background's rgb [B, F, 3]."""
    x: torch.Tensor
    y: torch.Tensor
    radius: torch.Tensor
    angle: torch.Tensor
    points: torch.Tensor
    valley: torch.Tensor
    depth: torch.Tensor
    visible: torch.Tensor
    rgb: torch.Tensor
    background: torch.Tensor


def _rgb(table, index):
    colours = torch.tensor(list(table.values()), dtype=torch.float32, device=index.device)
    return colours[index] / 127.5 - 1


def tracks(scenes, frames=FRAMES, grammar=None):
    """One shot: every object follows its motion evenly from the first frame to the last."""
    grammar = grammar or Grammar()
    device = scenes.x.device

    def of(items, name, index):
        return torch.tensor([float(getattr(i, name)) for i in items.values()], device=device)[index][:, None]

    n = len(scenes)
    tau = (torch.arange(frames, device=device) / max(frames - 1, 1) - 0.5)[None, :, None]
    still = torch.zeros_like(tau)
    move = {k: of(grammar.motions, k, scenes.motion) for k in ("dx", "dy", "turn", "growth")}
    shape = {k: of(grammar.shapes, k, scenes.shape) for k in ("points", "valley", "angle")}
    pace = scenes.pace[:, None]
    used = torch.arange(OBJECTS, device=device) < scenes.count[:, None]
    return Tracks(
        x=scenes.x[:, None] + tau * move["dx"] * pace,
        y=scenes.y[:, None] + tau * move["dy"] * pace,
        radius=scenes.radius[:, None] * (1 + tau * move["growth"]),
        angle=scenes.angle[:, None] + shape["angle"] + tau * move["turn"],
        points=shape["points"] + still, valley=shape["valley"] + still,
        depth=scenes.depth[:, None] + still,
        visible=used[:, None].expand(n, frames, OBJECTS),
        rgb=_rgb(grammar.colours, scenes.colour)[:, None].expand(n, frames, OBJECTS, 3),
        background=_rgb(grammar.backgrounds, scenes.background)[:, None].expand(n, frames, 3))


def join(parts, lengths):
    """Cut between shots: the first lengths[i] frames of every part, one after the other."""
    return Tracks(**{f.name: torch.cat([getattr(p, f.name)[:, :n] for p, n in zip(parts, lengths)], 1)
                     for f in fields(Tracks)})


def signed_distance(x, y, radius, angle, points, valley):
    """Distance in pixels from (x, y) to the outline of a Shape at the origin, negative inside.

    The plane is folded onto half a tooth of the outline, whose edge is the segment from a tip to a valley.
    """
    sector = 2 * math.pi / points
    turn = torch.atan2(x, -y) - angle                        # clockwise from straight up
    turn = (turn - sector * torch.round(turn / sector)).abs()
    length = torch.sqrt(x * x + y * y)
    px, py = length * torch.cos(turn), length * torch.sin(turn)
    vx, vy = radius * valley * torch.cos(sector / 2), radius * valley * torch.sin(sector / 2)
    ex, ey = vx - radius, vy
    share = (((px - radius) * ex + py * ey) / (ex * ex + ey * ey)).clamp(0, 1)
    dx, dy = px - radius - share * ex, py - share * ey
    inside = ex * py - ey * (px - radius) > 0
    distance = torch.sqrt(dx * dx + dy * dy)
    return torch.where(inside, -distance, distance)


def render(t, size=SIZE):
    """Paint tracks -> frames [B, 3, F, size, size] in [-1, 1], cover [B, F, size, size] in [0, 1], depth alike.

    Edges are anti-aliased over one pixel.  Nearer objects (smaller depth) hide farther ones.  A pixel's depth is that
    of the nearest object covering more than half of it, else 1.
    """
    device = t.x.device
    order = t.depth.argsort(-1, descending=True)
    t = Tracks(**{f.name: getattr(t, f.name) if f.name == "background" else
                  getattr(t, f.name).gather(2, order[..., None].expand_as(t.rgb) if f.name == "rgb" else order)
                  for f in fields(Tracks)})
    grid = torch.arange(size, device=device) + 0.5
    image = t.background[..., None, None].expand(*t.background.shape, size, size)
    cover = torch.zeros(*t.x.shape[:2], size, size, device=device)
    depth = torch.ones_like(cover)
    for k in range(t.x.shape[2]):
        def at(v):
            return v[:, :, k, None, None]
        inside = signed_distance(grid - at(t.x), grid[:, None] - at(t.y), at(t.radius), at(t.angle),
                                 at(t.points), at(t.valley))
        alpha = (0.5 - inside).clamp(0, 1) * at(t.visible)
        image = image + alpha[:, :, None] * (t.rgb[:, :, k, :, None, None] - image)
        cover = torch.maximum(cover, alpha)
        depth = torch.where(alpha > 0.5, at(t.depth), depth)
    return image.transpose(1, 2), cover, depth


def to_bytes(frames):
    """[B, 3, F, H, W] in [-1, 1] -> uint8 [B, F, H, W, 3], truncating as the engine does."""
    return ((frames.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 4, 1)


# ------------------------------------------------------------------------------------- evaluation captions


def evaluation_set(grammar=None):
    """All single-shape captions: colour x shape x motion in full, size and background by a fixed rotation.

    Returns a list of (caption, (objects, background)); every size and every background is equally frequent.
    """
    grammar = grammar or Grammar()
    sizes, backgrounds = list(grammar.sizes), list(grammar.backgrounds)
    result = []
    for colour, shape, motion in itertools.product(grammar.colours, grammar.shapes, grammar.motions):
        if (shape, motion) in grammar.excluded:
            continue
        i = len(result)
        size, background = sizes[i % len(sizes)], backgrounds[i // len(sizes) % len(backgrounds)]
        objects = [dict(shape=shape, colour=colour, size=size, motion=motion)]
        result.append((grammar.sentence(objects, background), (objects, background)))
    return result


def main():
    parser = argparse.ArgumentParser(description="synthetic shape videos")
    parser.add_argument("--list", action="store_true", help="print the evaluation captions")
    parser.add_argument("--out", help="write clips here as NNNN.npy (uint8 [F, H, W, 3]) with captions.txt")
    parser.add_argument("--evaluation", action="store_true", help="one clip per evaluation caption instead of a sample")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--weights", help="JSON file with fields of Weights")
    args = parser.parse_args()
    if args.list:
        print("\n".join(caption for caption, _ in evaluation_set()))
    if args.out:
        import numpy as np
        os.makedirs(args.out, exist_ok=True)
        weights = Weights.load(args.weights) if args.weights else Weights()
        if args.evaluation:
            chosen = evaluation_set()
            scenes, lines = scenes_of([d for _, d in chosen], args.seed), [c for c, _ in chosen]
        else:
            scenes = sample_scenes(args.count, args.seed, weights)
            lines = [c[0] for c in captions(scenes, args.seed, weights)]
        for i in range(len(scenes)):
            frames = to_bytes(render(tracks(scenes[i:i + 1]))[0])[0]
            np.save(os.path.join(args.out, f"{i:04d}.npy"), frames.numpy())
        with open(os.path.join(args.out, "captions.txt"), "w") as f:
            f.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
