"""Write what conditions the VACE demo: a reference picture and depth maps of a scene of generator.py.

    python3 conditions.py --out FOLDER [--colour magenta] [--shape star] [--motion right] [--seed 4]

FOLDER/reference.png shows the object, large and upright on white; FOLDER/depth.npy (uint8 [17, 64, 64], near = bright) is the scene in
which an object of that shape moves.
"""
import argparse
import os
import struct
import zlib

import numpy as np
import torch

import generator


def write_png(path, rgb):
    """rgb uint8 [H, W, 3]"""
    height, width, _ = rgb.shape
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def picture(colour, shape, radius=34.0, grammar=None):
    """uint8 [128, 128, 3]: one object in the middle of a white picture."""
    grammar = grammar or generator.Grammar()
    scene = generator.scenes_of([([dict(shape=shape, colour=colour, size="large", motion="still")], "white")], 0, grammar)
    t = generator.tracks(scene, 1, grammar)
    t.x, t.y = torch.full_like(t.x, generator.SIZE / 2), torch.full_like(t.y, generator.SIZE / 2)
    t.radius = torch.full_like(t.radius, radius * grammar.shapes[shape].scale)
    return generator.to_bytes(generator.render(t)[0])[0, 0].numpy()


def depth_maps(shape, motion, seed, grammar=None):
    """uint8 [17, 64, 64], near = bright, and the clip itself uint8 [17, 128, 128, 3]."""
    scene = generator.scenes_of([([dict(shape=shape, colour="red", size="large", motion=motion)], "white")], seed, grammar)
    frames, _, depth = generator.render(generator.tracks(scene))
    near = (1 - depth[0]) / (1 - depth[0]).max()
    near = torch.nn.functional.avg_pool2d(near[:, None], 2)[:, 0]
    return (near * 255).round().to(torch.uint8).numpy(), generator.to_bytes(frames)[0].numpy()


def main():
    parser = argparse.ArgumentParser(description="reference picture and depth maps for the VACE demo")
    parser.add_argument("--out", required=True)
    parser.add_argument("--colour", default="magenta")
    parser.add_argument("--shape", default="star")
    parser.add_argument("--motion", default="right")
    parser.add_argument("--seed", type=int, default=4)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    write_png(os.path.join(args.out, "reference.png"), picture(args.colour, args.shape))
    np.save(os.path.join(args.out, "depth.npy"), depth_maps(args.shape, args.motion, args.seed)[0])


if __name__ == "__main__":
    main()
