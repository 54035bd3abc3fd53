"""Cameras on a circle around what other cameras look at; its center and the world's up are read from those."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

PARALLEL = 1e-3  # optical axes within about two degrees of each other do not determine where they meet
UPRIGHT = 0.25  # largest ratio of the first two eigenvalues at which the cameras' right axes count as lying in a plane
HIGHEST = 0.95  # sine of the elevation; from straight above there is no way around


def middle_of(cameras: Cameras) -> Tensor:
    """Return the point where the optical axes of V cameras meet, float64 [3], scene units.

    It is the point p of least squared distance to all axes,

        sum_v (I - d_v d_v^T) p = sum_v (I - d_v d_v^T) o_v,

    with the position o_v and the direction d_v of each; the origin if the axes are nearly parallel.

    >>> middle_of(Cameras(look_at(4 * torch.eye(3), torch.zeros(3, 3)), 8.0, 8.0, 4.0, 4.0, 8, 8)).abs().max() < 1e-6
    tensor(True)
    """
    pose = cameras.c2w.double().cpu()
    d = pose[:, :, 2]
    across = torch.eye(3, dtype=torch.float64) - d[:, :, None] * d[:, None, :]
    total = across.sum(0)
    if not len(pose) or float(torch.linalg.eigvalsh(total)[0]) < PARALLEL * len(pose):
        return torch.zeros(3, dtype=torch.float64)
    return torch.linalg.solve(total, (across @ pose[:, :, 3:]).sum(0))[:, 0]


def up_of(cameras: Cameras) -> Tensor:
    """Return the world's up direction, float64 [3], of length 1.

    Cameras that are held upright have their right axes in one plane; its normal, on the side of the pictures' tops, is
    up. If the right axes lie in no plane, up is the mean direction of the pictures' tops.

    >>> up_of(Cameras(look_at(torch.tensor([[4.0, 0, 1], [0, 4.0, 1]]), torch.zeros(2, 3)), 8, 8, 4, 4, 8, 8)).round()
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    pose = cameras.c2w.double().cpu()
    top, right = pose[:, :, 1].sum(0), pose[:, :, 0]
    values, axes = torch.linalg.eigh(right.T @ right)
    if float(values[0]) < UPRIGHT * float(values[1]):
        return axes[:, 0] if float(axes[:, 0] @ top) >= 0 else -axes[:, 0]
    if float(top.norm()) < PARALLEL * len(pose):
        return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return top / top.norm()


def orbit(cameras: Cameras, frames: int) -> Cameras:
    """Return cameras on a full circle around what `cameras` look at, counter-clockwise as seen from above.

    The circle begins on the side of the first camera, and its first frame is not repeated at its end. Distance, focal
    length and principal point are the means of the cameras'; the elevation is the median of those above the horizon (of
    all, if none is), seen from where their axes meet. They are pinholes, whatever lenses the cameras have: nobody has
    taken these pictures, and straight edges stay straight in them.

    Args:
        cameras: V, at least 1.
        frames: number of cameras to return, at least 1.

    Raises:
        InputError: no camera or no frame; cameras that stand where their axes meet.

    >>> inputs = Cameras(look_at(torch.tensor([[4.0, 0, 1], [0, 4.0, 1]]), torch.zeros(2, 3)), 8, 8, 4, 4, 8, 8)
    >>> len(orbit(inputs, 24))
    24
    """
    if frames < 1 or not len(cameras):
        raise InputError(f"frames, cameras: must be at least 1 each, were {frames} and {len(cameras)}")
    middle, up = middle_of(cameras), up_of(cameras)
    position = cameras.centers.double().cpu() - middle
    distance = position.norm(dim=1)
    if not float(distance.min()) > 0:
        raise InputError("cameras: must stand away from where their axes meet, one does not")
    sines = (position @ up) / distance
    # Above the horizon only: few scenes have anything below the ground that they stand on.
    sine = float((sines[sines > 0] if bool((sines > 0).any()) else sines).median().clamp(-HIGHEST, HIGHEST))
    side = position[0] - (position[0] @ up) * up
    if float(side.norm()) < PARALLEL * float(distance[0]):  # straight above: the bottom of its picture is its side
        side = -cameras.c2w[0, :, 1].double().cpu()
        side = side - (side @ up) * up
    side = side / side.norm()
    frame = torch.stack((side, torch.linalg.cross(up, side), up), 1)  # its z is up
    turn = torch.arange(frames, dtype=torch.float64) * (2 * math.pi / frames)
    cosine = math.sqrt(1 - sine**2)
    local = distance.mean() * torch.stack((cosine * turn.cos(), cosine * turn.sin(), torch.full_like(turn, sine)), 1)
    pose = frame @ look_at(local, torch.zeros_like(local))
    pose[:, :, 3] += middle
    means = (float(getattr(cameras, name).double().mean()) for name in ("fx", "fy", "cx", "cy"))
    fx, fy, cx, cy = (torch.tensor(mean, dtype=torch.float32) for mean in means)
    return Cameras(pose.to(torch.float32), fx, fy, cx, cy, cameras.width, cameras.height)


def nearest(cameras: Cameras, others: Cameras) -> Tensor:
    """Return, for each of `others` [F], the index of the nearest camera by angle, int64 [F].

    Angles are seen from where the axes of `cameras` meet.

    >>> inputs = Cameras(look_at(torch.tensor([[4.0, 0, 1], [0, 4.0, 1]]), torch.zeros(2, 3)), 8, 8, 4, 4, 8, 8)
    >>> nearest(inputs, inputs).tolist()
    [0, 1]
    """
    middle = middle_of(cameras)
    ours, theirs = (torch.nn.functional.normalize(c.centers.double().cpu() - middle, dim=1) for c in (cameras, others))
    return (theirs @ ours.T).argmax(1)
