"""Generates head phantoms of the Shepp-Logan family: ellipses, pictures, and line integrals in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.data.procedural.checks import check_count_and_seed, check_size
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError

SHEPP_LOGAN = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
"""The modified Shepp-Logan phantom (P. Toft, "The Radon Transform", 1996, table B.3): density, half axes, middle (x to
the right, y up, the picture is [-1, 1] both ways), turn in degrees counter-clockwise."""
EDGE = 4  # samples per pixel and side
VENTRICLES = (2, 3)  # rows of the two large dark ellipses


def draw_phantoms(count: int, seed: int = 0, jitter: float = 1.0) -> Tensor:
    """Return ellipses [P, 10, 6] of heads around the modified Shepp-Logan phantom.

    Columns are those of `SHEPP_LOGAN`, turns in radians. Size, shape, turn and position of the head, and those and the
    density of each part in it, are uniform about the classic ones; no density falls below 0 or rises above 1, and no
    head leaves the disc that all rays cross.

    Args:
        count: P; those of a smaller count are the first of a larger one.
        seed: seed of the whole family.
        jitter: distance from the classic one, 0 (it is that) to 1.

    Raises:
        InputError: a number out of range.

    >>> draw_phantoms(2).shape
    torch.Size([2, 10, 6])
    """
    check_count_and_seed(count, seed)
    if not 0 <= jitter <= 1:
        raise InputError(f"jitter: must be in 0 ... 1, was {jitter!r}")
    return torch.stack([_draw(torch.Generator().manual_seed(seed * 1_000_003 + k), jitter) for k in range(count)])


def phantom_pictures(ellipses: Tensor, size: int, samples: int = EDGE) -> Tensor:
    """Return densities float32 [P, size, size, 1] of ellipses [P, E, 6]; a pixel is the mean of `samples`^2 points.

    >>> phantom_pictures(draw_phantoms(2), 16).shape
    torch.Size([2, 16, 16, 1])
    """
    side = size * samples
    axis = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    x, y = axis[None, :], -axis[:, None]
    pictures = []
    for head in ellipses.double():
        values = torch.zeros(side, side, dtype=torch.float64)
        for ellipse in head:
            values += ellipse[0] * _inside(ellipse, x, y)
        pictures.append(values.reshape(size, samples, size, samples).mean((1, 3)))
    empty = torch.empty(0, size, size, dtype=torch.float64)
    return (torch.stack(pictures) if pictures else empty)[..., None].clamp(0, 1).to(torch.float32)


def phantom_projections(ellipses: Tensor, angles: Tensor, detectors: int) -> Tensor:
    """Return exact parallel projections [P, V, D] of ellipses [P, E, 6], as `render.project` has them of pictures.

    Detector d of D sees the line x cos t + y sin t = s at s = (2 d + 1) / D - 1; its value is the density's mean over
    the picture's side, so the line integral over 2:

        integral = sum_e 2 rho a b sqrt(w^2 - u^2) / w^2,  w^2 = a^2 cos^2(t - turn) + b^2 sin^2(t - turn),
        u = s - (x_e cos t + y_e sin t), if |u| < w

    Args:
        ellipses: see `draw_phantoms`.
        angles: t [P, V] or [V], radians.
        detectors: D.

    >>> phantom_projections(draw_phantoms(1), torch.zeros(3), 9).shape
    torch.Size([1, 3, 9])
    """
    e = ellipses.double()[:, None, None]  # [P, 1, 1, E, 6]
    t = angles.double().expand(len(ellipses), angles.shape[-1])[:, :, None, None]
    s = ((2 * torch.arange(detectors, dtype=torch.float64) + 1) / detectors - 1)[None, None, :, None]
    density, a, b, x, y, turn = e.unbind(-1)
    wide = (a * (t - turn).cos()).square() + (b * (t - turn).sin()).square()
    off = s - (x * t.cos() + y * t.sin())
    integral = 2 * density * a * b * (wide - off.square()).clamp(min=0).sqrt() / wide
    return (integral.sum(-1) / 2).to(torch.float32)


def procedural_phantoms(
    count: int = 64, size: int = 256, *, seed: int = 0, test: int = 8, validation: int = 0, jitter: float = 1.0
) -> SignalSets:
    """Generate pictures of `draw_phantoms` in sets, images [S, size, size, 1].

    Args:
        count, seed, jitter: see `draw_phantoms`.
        size: pixels of a side, at least 16.
        test: number of pictures, the last, to test on.
        validation: number of pictures, those before, to validate on; the rest is to train.

    Raises:
        InputError: a number out of range.

    >>> procedural_phantoms(3, 16, test=1).train.values.shape
    torch.Size([2, 16, 16, 1])
    """
    check_size(size, 16, 2048)
    pictures = phantom_pictures(draw_phantoms(count, seed, jitter), size)
    signals = Signals("image", tuple(f"phantom {k:03d}" for k in range(count)), pictures)
    notes = (f"{count} procedural phantoms of seed {seed}",)
    return split_procedural("Head phantoms", signals, test, validation, notes)


def _draw(generator: torch.Generator, jitter: float) -> Tensor:
    """Return one head [10, 6]: the first draw whose densities lie in 0 ... 1, within the disc."""
    while True:
        head = _jittered(2 * torch.rand(10, 6, generator=generator, dtype=torch.float64) - 1, jitter)
        # Drawn again instead of clamped: clamped densities would pile up at 0 and 1.
        values = torch.stack([ellipse[0] * _inside(ellipse, *_probes()) for ellipse in head]).sum(0)
        reach = head[0, 3:5].norm() + head[0, 1:3].max()
        if float(values.min()) >= -1e-9 and float(values.max()) <= 1 + 1e-9 and float(reach) <= 1:
            return head


def _jittered(noise: Tensor, jitter: float) -> Tensor:
    """Return ellipses [10, 6] of noise [10, 6] in -1 ... 1; row 0 moves the whole head, the others their ellipse."""
    parts = torch.tensor(SHEPP_LOGAN, dtype=torch.float64)
    parts[:, 5] = torch.deg2rad(parts[:, 5])
    head, ellipse_noise = jitter * noise[0], jitter * noise[1:]
    brain = 0.2 + 0.1 * head[0]
    parts[2:, 0] = parts[2:, 0] * (1 + 0.5 * ellipse_noise[1:, 0])
    for k in VENTRICLES:  # from as empty as in the classic one, to half as dense as the tissue around them
        parts[k, 0] = -brain * (1 - 0.25 * (jitter + ellipse_noise[k - 1, 0]))
    parts[0, 0] = 1 - 0.15 * (jitter + head[1])
    # Densities add up: the second ellipse takes the skull's density away again inside of it.
    parts[1, 0] = brain - parts[0, 0]
    parts[1:, 1:3] *= 1 + torch.cat((0.02 * ellipse_noise[:1, 1:3], 0.25 * ellipse_noise[1:, 1:3]))
    parts[2:, 3:5] += 0.05 * ellipse_noise[1:, 3:5]
    parts[2:, 5] += math.radians(12) * ellipse_noise[1:, 5]
    return _moved(parts, 0.9 + 0.1 * (1 - jitter) + 0.1 * head[2], 0.05 * head[3:5], math.radians(15) * head[5])


def _moved(parts: Tensor, scale: Tensor, shift: Tensor, turn: Tensor) -> Tensor:
    """Return ellipses scaled and turned about the middle, then shifted."""
    x, y = scale * parts[:, 3], scale * parts[:, 4]
    middle = torch.stack((turn.cos() * x - turn.sin() * y, turn.sin() * x + turn.cos() * y), 1) + shift
    return torch.cat((parts[:, :1], scale * parts[:, 1:3], middle, parts[:, 5:] + turn), 1)


def _inside(ellipse: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return whether points lie in an ellipse [6]."""
    _, a, b, mx, my, turn = ellipse
    u, v = x - mx, y - my
    along, across = turn.cos() * u + turn.sin() * v, -turn.sin() * u + turn.cos() * v
    return (along / a).square() + (across / b).square() <= 1


def _probes() -> tuple[Tensor, Tensor]:
    """Return the points at which the densities of a draw are checked, x [1, 97] and y [97, 1]."""
    axis = torch.linspace(-1, 1, 97, dtype=torch.float64)
    return axis[None, :], axis[:, None]
