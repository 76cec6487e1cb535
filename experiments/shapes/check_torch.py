"""Check wan_torch.py against recorded values of the reference model.

    python3 check_torch.py DIR

DIR is a checkpoint folder in the original layout with `golden.safetensors` beside the weights (tensors `t5.N.ids`,
`t5.N.out`, `dit.x`, `dit.N.t`, `dit.N.out`, `dit.odd.*`, `vae.z`, `vae.dec`, `vae.z1`, `vae.dec1`, `vae.video`,
`vae.enc`).  Everything runs in float32 on the CPU.  Prints one line a tensor: largest error over largest value.
"""
import os
import sys

import torch
from safetensors.torch import load_file

import wan_torch as wan


@torch.no_grad()
def main(folder):
    golden = load_file(os.path.join(folder, "golden.safetensors"))
    _, t5, dit, vae = wan.load_folder(folder)
    failed = 0

    def check(name, got, limit):
        nonlocal failed
        want = golden[name]
        error = ((got.reshape(want.shape) - want).abs().max() / want.abs().max()).item()
        failed += not error <= limit
        print(f"{name:12s} {error:.2e}  limit {limit:.0e}  {'ok' if error <= limit else 'DIFFERS'}")

    count = sum(k.startswith("t5.") and k.endswith(".ids") for k in golden)
    states, lengths = [], []
    for n in range(count):
        ids = golden[f"t5.{n}.ids"].long()
        states.append(t5(ids))
        lengths.append(int((ids != 0).sum()))
        check(f"t5.{n}.out", states[-1], 3e-5)
    text = [golden[f"t5.{n}.out"][None, :lengths[n]] for n in (0, 1)]
    for n in range(3):
        check(f"dit.{n}.out", dit.velocity(golden["dit.x"][None], golden[f"dit.{n}.t"], text[0]), 1e-5)
    check("dit.odd.out", dit.velocity(golden["dit.odd.x"][None], torch.tensor([500.0]), text[1]), 1e-5)
    for planar in (False, True):
        wan.CausalConv3d.planar = planar
        print(f"vae as {'stacked 2-D' if planar else '3-D'} convolutions")
        check("vae.dec", vae.decode(golden["vae.z"][None], clamp=False), 1e-5)
        check("vae.dec1", vae.decode(golden["vae.z1"][None], clamp=False), 1e-5)
        check("vae.enc", vae.encode(golden["vae.video"][None]), 1e-5)
    before = vae.decode(vae.encode(golden["vae.video"][None]), clamp=False)
    latents = vae.moments(golden["vae.video"][None])[0]
    wan.fold_latent_scale(vae, latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4)))
    folded = vae.encode(golden["vae.video"][None])
    moved = max(folded.mean((0, 2, 3, 4)).abs().max().item(), (folded.std((0, 2, 3, 4)) - 1).abs().max().item())
    change = (vae.decode(folded, clamp=False) - before).abs().max().item()
    ok = moved < 1e-4 and change < 1e-4
    failed += not ok
    print(f"fold         latent statistics off by {moved:.1e}, reconstruction moved by {change:.1e}  {'ok' if ok else 'DIFFERS'}")
    return failed


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(1 if main(sys.argv[1]) else 0)
