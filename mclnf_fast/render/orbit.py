"""A smooth way around what cameras look at: its middle and its up, read from the cameras, and cameras on a circle."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, look_at

PARALLEL = 1e-3  # optical axes within about two degrees of each other do not say where they meet
UPRIGHT = 0.25  # of the next eigenvalue: so flat must the cameras' right axes lie
HIGHEST = 0.95  # sine of the elevation; from right above there is no way around


def middle_of(cameras: Cameras) -> Tensor:
    """Where the optical axes of V cameras meet, float64 [3]: the point p of least squared distance to all of them,

        sum_v (I - d_v d_v^T) p = sum_v (I - d_v d_v^T) o_v,

    with o_v where a camera stands and d_v where it looks; the origin where the axes are nearly parallel."""
    pose = cameras.c2w.double().cpu()
    d = pose[:, :, 2]
    across = torch.eye(3, dtype=torch.float64) - d[:, :, None] * d[:, None, :]
    total = across.sum(0)
    if not len(pose) or float(torch.linalg.eigvalsh(total)[0]) < PARALLEL * len(pose):
        return torch.zeros(3, dtype=torch.float64)
    return torch.linalg.solve(total, (across @ pose[:, :, 3:]).sum(0))[:, 0]


def up_of(cameras: Cameras) -> Tensor:
    """The world's up, float64 [3], of length 1: what the right axes of all cameras are across to, as those of cameras
    held upright are, towards the tops of the pictures; where they do not agree, the mean of the pictures' tops."""
    pose = cameras.c2w.double().cpu()
    top, right = pose[:, :, 1].sum(0), pose[:, :, 0]
    values, axes = torch.linalg.eigh(right.T @ right)
    if float(values[0]) < UPRIGHT * float(values[1]):
        return axes[:, 0] if float(axes[:, 0] @ top) >= 0 else -axes[:, 0]
    if float(top.norm()) < PARALLEL * len(pose):
        return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return top / top.norm()


def orbit(cameras: Cameras, frames: int) -> Cameras:
    """Cameras on a full circle around what `cameras` look at, at one elevation, counter-clockwise as seen from above,
    from the side where the first of them stands; the first frame is not repeated.

    Distance, focal length and principal point are the means of the cameras'; the elevation is the median of those above
    the horizon (of all, if none is), seen from where their axes meet.

    Args:
        cameras: V of them, at least 1.
        frames: how many to make, at least 1.

    Raises:
        InputError: no camera or no frame; cameras that stand where their axes meet.
    """
    if frames < 1 or not len(cameras):
        raise InputError(f"frames, cameras: must be at least 1 each, were {frames} and {len(cameras)}")
    middle, up = middle_of(cameras), up_of(cameras)
    place = cameras.centers.double().cpu() - middle
    away = place.norm(dim=1)
    if not float(away.min()) > 0:
        raise InputError("cameras: must stand away from where their axes meet, one does not")
    sines = (place @ up) / away
    sine = float((sines[sines > 0] if bool((sines > 0).any()) else sines).median().clamp(-HIGHEST, HIGHEST))
    first = place[0] - (place[0] @ up) * up
    if float(first.norm()) < PARALLEL * float(away[0]):  # it stands right above
        first = -cameras.c2w[0, :, 1].double().cpu()
        first = first - (first @ up) * up
    first = first / first.norm()
    frame = torch.stack((first, torch.linalg.cross(up, first), up), 1)  # its z is up
    turn = torch.arange(frames, dtype=torch.float64) * (2 * math.pi / frames)
    flat = math.sqrt(1 - sine**2)
    local = away.mean() * torch.stack((flat * turn.cos(), flat * turn.sin(), torch.full_like(turn, sine)), 1)
    pose = frame @ look_at(local, torch.zeros_like(local))
    pose[:, :, 3] += middle
    means = (float(getattr(cameras, name).double().mean()) for name in ("fx", "fy", "cx", "cy"))
    fx, fy, cx, cy = (torch.tensor(mean) for mean in means)
    return Cameras(pose.to(torch.float32), fx, fy, cx, cy, cameras.width, cameras.height)


def nearest(cameras: Cameras, others: Cameras) -> Tensor:
    """For each of `others` [F], which of `cameras` stands nearest as seen from where their axes meet: int64 [F]."""
    middle = middle_of(cameras)
    ours, theirs = (torch.nn.functional.normalize(c.centers.double().cpu() - middle, dim=1) for c in (cameras, others))
    return (theirs @ ours.T).argmax(1)
