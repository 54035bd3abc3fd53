"""Load the result of a run, look at it from a camera of your own, and add a module without touching the others.

    python examples/load_and_render.py outputs/city/TIME    # the folder of a finished `mclnf-fast run city`
    python examples/load_and_render.py --quick              # learns a tiny city first, some seconds

The picture is written to `city.png` (`--out FILE`).
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import torch
from PIL import Image

import mclnf_fast as mf
from mclnf_fast import cli
from mclnf_fast.render import Cameras


def tiny_run(folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of a run that learned a city for a few steps."""
    cli.main(["run", "city", "--quick", "--steps", "16", "--methods", "mod_random", "--out", str(folder)])
    return folder


def camera_above(box: torch.Tensor, size: int) -> Cameras:
    """Return a camera that looks straight down on a box [2, 3] and sees all of it.

    A camera looks along its own -z with y up, so that without a rotation it looks down in a scene whose z is up.
    """
    low, high = box
    center, side = (low + high) / 2, float((high - low)[:2].max())
    height = float(high[2]) + side  # one side above the roofs, where 53 degrees see a side of the ground
    pose = torch.cat((torch.eye(3), torch.tensor([[float(center[0])], [float(center[1])], [height]])), 1)
    return Cameras(pose[None], fx=size, fy=size, cx=size / 2, cy=size / 2, width=size, height=size)


def main(run: str | None = None, quick: bool = False, out: str = "city.png") -> dict[str, float]:
    """Render and extend a result; return the picture's contrast and whether the old modules are bit-equal."""
    with tempfile.TemporaryDirectory() as folder:
        city = mf.load(run or tiny_run(pathlib.Path(folder) / "run"))
    box = city.cells.hull()
    print(f"{city.system}: {', '.join(city.modules)}; box {box.tolist()}")

    picture = city.render(camera_above(box, 64 if quick else 512))[0]  # uint8 [H, W, 3]
    Image.fromarray(picture.numpy()).save(out)
    print(f"a view from above: {out}")

    points = box[0] + torch.rand(1000, 3) * (box[1] - box[0])
    before = city.evaluate(points)  # raw outputs [1000, 4]: density and color before shading, NaN outside of all cells
    beside = city.cells.boxes[0] + torch.tensor([2 * float(box[1, 0] - box[0, 0]), 0.0, 0.0])
    index = city.append(name="new block", box=beside)  # its module starts as the shared initialization
    same = torch.equal(before.nan_to_num(), city.evaluate(points).nan_to_num())
    print(f"module {index} added, {len(city.modules)} in all; the others are bit-equal: {same}")
    return {"contrast": float(picture.float().std()), "same": float(same), "modules": len(city.modules)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", help="folder of a run of city; default: learn a tiny one first")
    parser.add_argument("--quick", action="store_true", help="a small picture")
    parser.add_argument("--out", default="city.png", help="the picture")
    options = parser.parse_args()
    main(options.run, options.quick, options.out)
