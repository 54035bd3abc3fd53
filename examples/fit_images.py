"""Fit many images side by side: a bank with a SIREN per image, trained by the fused squared error.

    python examples/fit_images.py            # 16 drawn portraits of 64 x 64
    python examples/fit_images.py --quick    # 4 of them, a few seconds

`mf.fit` does all of this in one call; here every part of a step can be changed.
Your own pictures: replace `procedural_faces` by `mclnf_fast.data.load_images(folder, size=64)`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.data import procedural_faces


def pixel_grid(size: int) -> Tensor:
    """Return the coordinates [size * size, 2] of an image's pixels, row by row, from -1 to 1."""
    axis = torch.linspace(-1, 1, size)
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


@torch.no_grad()
def psnr(bank: mf.FieldBank, x: Tensor, images: Tensor) -> Tensor:
    """Return the PSNR [M] in dB of each module against its image [M, n, 3]."""
    error = (bank(x.expand(len(bank), -1, -1)) - images).square().mean((1, 2))
    return -10 * error.log10()


def main(quick: bool = False) -> dict[str, float]:
    """Train the bank and return the mean PSNR before and after."""
    count, size, steps, batch = (4, 32, 100, 256) if quick else (16, 64, 1000, 512)
    torch.manual_seed(0)
    images = procedural_faces(count, size, test=count, validation=0).test.values.reshape(count, -1, 3)
    x = pixel_grid(size)

    spec = mf.FieldSpec(in_dim=2, out_dim=3, width=64, hidden_layers=3, activation="sine(30)")
    bank = mf.FieldBank(spec, modules=count)
    optimizer = mf.optim.Adam(bank, lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / steps))
    before = psnr(bank, x, images).mean()
    for step in range(steps):
        ids = torch.randint(len(x), (count, batch))
        target = images.gather(1, ids[..., None].expand(-1, -1, 3))
        # One loss per module [M]; its gradients come out of the sweep that evaluates it.
        losses = bank.mse(x[ids], target)
        optimizer.zero_grad()
        # The sum and not the mean: a module's gradient must not depend on how many others there are.
        losses.sum().backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (steps // 4) == 0:
            print(f"step {step + 1}: {psnr(bank, x, images).mean():.2f} dB")
    after = psnr(bank, x, images)
    print(f"{count} images: {before:.2f} dB before, {after.mean():.2f} dB after, the worst {after.min():.2f} dB")
    return {"before": float(before), "after": float(after.mean())}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    main(parser.parse_args().quick)
