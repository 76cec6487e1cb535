"""Clips of one, two or three shots with captions as HoloCine writes them, on top of generator.py.

    python3 shots.py --list                                prints the evaluation prompts
    python3 shots.py --out FOLDER [--count 16] [--seed 1]  writes clips (NNNN.npy) and shots.jsonl, for measure_shots.py

A clip has 33 frames (9 latent frames).  Cuts fall on frames 4n+1, where a latent frame begins, and a shot lasts at least
two latent frames.  Every shot has one object; what shots share may be said once, in the caption of the scene.  Objects move as
fast as in clips of one shot, or slower where a shot is longer than those.
"""
import argparse
import itertools
import json
import os

import torch

import generator

FRAMES = 33
LATENT_FRAMES = 9
SHORTEST = 2                # latent frames of a shot
SHARED = {"background": 0.6, "size": 0.4, "colour": 0.25, "shape": 0.25}        # chance that all shots have the same
SAID_ONCE = 0.7             # chance that what is shared is said in the caption of the scene, not in every shot's
GLOBAL, PER_SHOT, CUT = "[global caption]", "[per shot caption]", "[shot cut]"

# ------------------------------------------------------------------------------------------------- clips


def latent_starts(shots, latents=LATENT_FRAMES):
    """Every way to place the first latent frames of `shots` shots: a list of tuples that begin with 0."""
    return [(0, *c) for c in itertools.combinations(range(SHORTEST, latents - SHORTEST + 1), shots - 1)
            if all(b - a >= SHORTEST for a, b in zip(c, c[1:]))]


def cut_frames(starts):
    """First frames of all shots but the first: latent frame l > 0 holds frames 4l-3 ... 4l."""
    return [4 * l - 3 for l in starts[1:]]


def automatic_starts(shots):
    """The latent starts of evenly spaced cuts, as the engine places them (ties to even, as Python rounds)."""
    return (0, *((4 * round((round(i * FRAMES / shots) - 1) / 4)) // 4 + 1 for i in range(1, shots)))


def lengths_of(starts, frames=FRAMES):
    edges = [0, *cut_frames(starts), frames]
    return [b - a for a, b in zip(edges, edges[1:])]


def sample(n, shots, seed, grammar=None, odds=None, upright=False):
    """n scenes for every shot, and which attributes are shared: list of Scenes, dict of [n] bool.

    `odds`: fields of generator.Weights.  `upright`: what spins begins its shot upright, not at any angle.
    """
    grammar = grammar or generator.Grammar()
    weights = generator.Weights(count={1: 1.0}, rules=[], **(odds or {}))
    drawn = [generator.sample_scenes(n, seed + 7919 * k, weights, grammar) for k in range(shots)]
    rng = torch.Generator().manual_seed(seed + 1)
    shared = {name: torch.rand(n, generator=rng) < chance for name, chance in SHARED.items()}
    parts = []
    for k, scenes in enumerate(drawn):
        value = {name: getattr(scenes, name) for name in ("background", "shape", "colour", "size", "motion")}
        for name, same in shared.items():
            first = getattr(drawn[0], name)
            value[name] = torch.where(same if first.ndim == 1 else same[:, None], first, value[name])
        shapes, motions = list(grammar.shapes), list(grammar.motions)
        for shape, motion in grammar.excluded:            # a shared shape may forbid the motion drawn before
            clash = (value["shape"] == shapes.index(shape)) & (value["motion"] == motions.index(motion))
            value["motion"] = torch.where(clash, motions.index("still"), value["motion"])
        part = generator.place(scenes.count, value, torch.Generator().manual_seed(seed + 13 * k), grammar)
        if upright:                                       # angles are those of the middle
            part.angle = torch.tensor([m.turn / 2 for m in grammar.motions.values()])[part.motion]
        parts.append(part)
    return parts, shared


def tracks(parts, starts, frames=FRAMES, grammar=None):
    """Tracks of clips whose shots begin at the same latent frames."""
    lengths = lengths_of(starts, frames)
    return generator.join([generator.tracks(p, max(generator.FRAMES, n), grammar) for p, n in zip(parts, lengths)], lengths)


# ---------------------------------------------------------------------------------------------- captions


def captions(parts, shared, seed, grammar=None):
    """(caption of the scene, captions of the shots) of every clip."""
    grammar = grammar or generator.Grammar()
    rng = torch.Generator().manual_seed(seed)
    n, unsaid = len(parts[0]), generator.Weights().unsaid
    once = {k: (same & (torch.rand(n, generator=rng) < SAID_ONCE)).tolist() for k, same in shared.items()}
    if len(parts) == 1:                                   # with one shot everything is shared
        once = {k: (torch.rand(n, generator=rng) < 0.3).tolist() for k in SHARED}
    words = [generator.describe(p, grammar) for p in parts]
    said = {k: (torch.rand(n, len(parts), generator=rng) >= chance).tolist() for k, chance in unsaid.items()}
    result = []
    for i in range(n):
        first, background = words[0][i]
        scene = grammar.sentence([{k: first[0][k] for k in ("shape", "colour", "size") if once[k][i]}],
                                 background if once["background"][i] else None)
        lines = []
        for k, described in enumerate(words):
            (thing,), background = described[i]
            spoken = {a: w for a, w in thing.items() if said[a][i][k] and not (a in once and once[a][i])}
            tell = said["background"][i][k] and not once["background"][i]
            lines.append(grammar.sentence([spoken], background if tell else None))
        result.append((scene, lines))
    return result


def prompt(scene, lines):
    """The whole text, as the engine joins it."""
    return f"{GLOBAL} {scene} This scene contains {len(lines)} shots. {PER_SHOT} " + f" {CUT} ".join(lines)


class Words:
    """The tokenizer of the checkpoint without sentencepiece: the pieces of every word, most likely first.

    No piece of this vocabulary holds a space but at its front, so words are independent of each other.
    """

    def __init__(self, folder):
        with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
            vocabulary = json.load(f)["model"]["vocab"]
        self.scores = {piece: (score, i) for i, (piece, score) in enumerate(vocabulary) if i > 2}
        self.known = {}

    def word(self, word):
        """[(id, characters)] of the best split of a word with its space in front."""
        if word not in self.known:
            text = "\u2581" + word
            best = [(0.0, [])] + [None] * len(text)
            for end in range(1, len(text) + 1):
                for start in range(end):
                    piece = self.scores.get(text[start:end])
                    if piece and best[start] and (best[end] is None or best[start][0] + piece[0] > best[end][0]):
                        best[end] = (best[start][0] + piece[0], best[start][1] + [(piece[1], end - start)])
            if best[-1] is None:
                raise ValueError(f"{word!r} cannot be spelled")
            self.known[word] = best[-1][1]
        return self.known[word]

    def encode(self, text, length):
        """ids [length] padded with 0, and (begin, end) characters of each token before </s>.

        `text` has single spaces.  The space before a word belongs to the word's first piece; the first word's has none.
        """
        ids, spans, at = [], [], -1
        for word in text.split(" "):
            for number, size in self.word(word):
                spans.append((max(at, 0), max(at + size, 1)))
                ids.append(number)
                at += size
        if len(ids) > length - 1:
            raise ValueError(f"{len(ids) + 1} tokens do not fit {length}: {text}")
        return ids + [1] + [0] * (length - 1 - len(ids)), spans


def visible(text, spans, shots, length):
    """allow [shots, length] bool: the text positions that the tokens of each shot see (docs/holocine.md)."""
    first, second = text.index(GLOBAL), text.index(PER_SHOT)
    parts, at, k = [(-1, first, second)], second, 0
    while (cut := text.find(CUT, at)) >= 0:
        parts.append((k, at, cut + len(CUT)))
        at, k = cut + len(CUT), k + 1
    parts.append((k, at, len(text)))
    ranges = {}
    for i, (begin, end) in enumerate(spans):
        part = next((p for p, a, b in parts if end > a and begin < b), None)
        if part is not None:
            ranges[part] = (ranges.get(part, (i,))[0], i + 1)
    allow = torch.zeros(shots, length, dtype=torch.bool)
    last = max(end for _, end in ranges.values())
    for k in range(shots):
        for begin, end in (ranges[-1], ranges[k]):
            allow[k, begin:end + 1] = True                # one token more than the range holds, as upstream
        allow[k, last + 1:] = True
    return allow


# ----------------------------------------------------------------------------------- what attention may see


def shot_ids(starts):
    """[LATENT_FRAMES] long: the shot of each latent frame."""
    return torch.bucketize(torch.arange(LATENT_FRAMES), torch.tensor(starts), right=True) - 1


def sparse_bias(shot, tokens_per_frame):
    """Additive bias [B, L, L] of sparse attention between shots; shot [B, LATENT_FRAMES].

    A shot sees itself and the first latent frame of every shot; its own first frame counts twice, which is ln 2 on
    the scores.
    """
    first = torch.ones_like(shot, dtype=torch.bool)
    first[:, 1:] = shot[:, 1:] != shot[:, :-1]
    own = (shot[:, :, None] == shot[:, None, :]).float()
    count = own + first[:, None, :].float()
    return count.log().clamp_min(-1e4).repeat_interleave(tokens_per_frame, 1).repeat_interleave(tokens_per_frame, 2)


# -------------------------------------------------------------------------------------------- evaluation


def evaluation_set(grammar=None, two=60, three=60):
    """[(scene, captions, starts)]: clips of two and three shots, neighbours of different colours, every attribute said.

    Every other clip says its background in the scene's caption, the others a background a shot; the third of them
    with cuts that are not evenly spaced.
    """
    grammar = grammar or generator.Grammar()
    colours, shapes, motions = list(grammar.colours), list(grammar.shapes), list(grammar.motions)
    sizes, backgrounds = list(grammar.sizes), list(grammar.backgrounds)
    rng = torch.Generator().manual_seed(90210)
    result = []

    def pick(table):
        return table[int(torch.randint(len(table), (1,), generator=rng))]

    for i in range(two + three):
        shots = 2 if i < two else 3
        shared = pick(backgrounds) if i % 2 == 0 else None
        lines, before = [], None
        for _ in range(shots):
            colour = pick([c for c in colours if c != before])
            shape = pick(shapes)
            motion = pick([m for m in motions if (shape, m) not in grammar.excluded])
            thing = dict(shape=shape, colour=colour, size=pick(sizes), motion=motion)
            lines.append(grammar.sentence([thing], None if shared else pick(backgrounds)))
            before = colour
        starts = automatic_starts(shots) if i % 3 else pick(latent_starts(shots))
        result.append((grammar.sentence([{}], shared), lines, starts))
    return result


def main():
    parser = argparse.ArgumentParser(description="synthetic clips of several shots")
    parser.add_argument("--list", action="store_true", help="print the evaluation prompts with their cuts")
    parser.add_argument("--out")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.list:
        for scene, lines, starts in evaluation_set():
            print(cut_frames(starts), prompt(scene, lines))
    if args.out:
        import numpy as np
        os.makedirs(args.out, exist_ok=True)
        with open(os.path.join(args.out, "shots.jsonl"), "w", encoding="utf-8") as f:
            for i in range(args.count):
                count = 2 + i % 2
                choices = latent_starts(count)
                starts = choices[i // 2 % len(choices)]
                parts, shared = sample(1, count, args.seed + 100 * i)
                scene, lines = captions(parts, shared, args.seed + 100 * i)[0]
                frames = generator.to_bytes(generator.render(tracks(parts, starts))[0])[0]
                name = f"{i:04d}.npy"
                np.save(os.path.join(args.out, name), frames.numpy())
                f.write(json.dumps({"file": name, "scene": scene, "captions": lines, "cuts": cut_frames(starts)}) + "\n")


if __name__ == "__main__":
    main()
