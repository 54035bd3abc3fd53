"""The answers to a slice's projections without a network: filtered back-projection, scikit-image's, if it is installed,
and the best linear estimate of a slice from other slices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.errors import InputError, pip_install
from mclnf_fast.metrics import psnr
from mclnf_fast.render.parallel_beam import back_project

Reconstruct = Callable[[Tensor, Tensor], Tensor]
"""(sinograms [T, V, N] as `project` returns them, angles [V]) -> slices [T, N, N], not clipped."""
SWEEPS = (3, 10, 30)  # of SART over all projections
RIDGES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
RELAXATIONS = (0.05, 0.1, 0.15, 0.3, 0.6, 1.0)
MISSING = f"scikit-image is not installed ({pip_install('ct')}): without its SART and Hann-filtered inverse"


def skimage_installed() -> bool:
    """Return whether scikit-image can be imported."""
    try:
        import skimage.transform  # noqa: F401  # its absence is what is asked for
    except ImportError:
        return False
    return True


def hann(sinograms: Tensor, angles: Tensor) -> Tensor:
    """Return scikit-image's filtered back-projection with the ramp under a Hann window, which damps the noise that the
    ramp alone enlarges.

    Args:
        sinograms: [T, V, N], as `project` returns them.
        angles: [V] in radians.

    Returns: [T, N, N], not clipped. Raises: InputError if scikit-image is missing.
    """
    transform = _transform("hann")
    degrees = np.rad2deg(angles.numpy().astype(np.float64))
    slices = [transform.iradon(lines.T, theta=degrees, filter_name="hann") for lines in _centered(sinograms, angles)]
    return torch.from_numpy(np.stack(slices)).to(sinograms)


def sart(sinograms: Tensor, angles: Tensor, relaxation: float, sweeps: int) -> Tensor:
    """Return scikit-image's simultaneous algebraic reconstruction (SART), nowhere below 0, after some sweeps.

    Args:
        sinograms: [T, V, N], as `project` returns them.
        angles: [V] in radians.
        relaxation: share of each correction that is made.
        sweeps: over all projections.

    Returns: [T, N, N], not clipped above. Raises: InputError if scikit-image is missing.
    """
    transform = _transform("sart")
    degrees, slices = np.rad2deg(angles.numpy().astype(np.float64)), []
    for lines in _centered(sinograms, angles):
        picture = None
        for _ in range(sweeps):
            picture = transform.iradon_sart(
                np.ascontiguousarray(lines.T), degrees, image=picture, clip=(0.0, 1.0), relaxation=relaxation
            )
        slices.append(np.asarray(picture))
    return torch.from_numpy(np.stack(slices)).to(sinograms)


def best_sart(sinograms: Tensor, angles: Tensor, truth: Tensor) -> tuple[float, int]:
    """Return the relaxation of `RELAXATIONS` and the number of sweeps of `SWEEPS` with the highest mean PSNR on slices
    [T, N, N] that are not tested on."""
    grid = [(relaxation, sweeps) for relaxation in RELAXATIONS for sweeps in SWEEPS]
    made = [sart(sinograms, angles, *choice).clamp(0, 1) for choice in grid]
    return grid[int(np.argmax([float(psnr(slices, truth, keep_first=True).mean()) for slices in made]))]


def linear_estimate(slices: Tensor, sinograms: Tensor, ridge: float) -> Reconstruct:
    """Return the linear estimate of a slice from its projections that fits other slices best (ridge regression).

    Args:
        slices: [S, N, N], known.
        sinograms: [S, V, N], their projections, at the angles at which others will be measured.
        ridge: weight of the coefficients' squares, over the mean square of the projections about their mean.

    >>> slices, sinograms = torch.eye(2).reshape(2, 1, 2)[:, [0, 0]], torch.eye(2).reshape(2, 1, 2)
    >>> linear_estimate(slices, sinograms, 1e-9)(sinograms[:1], torch.zeros(1)).round().tolist()
    [[[1.0, 0.0], [1.0, 0.0]]]
    """
    x, p = slices.flatten(1).double().cpu(), sinograms.flatten(1).double().cpu()
    mean_x, mean_p = x.mean(0), p.mean(0)
    x, p = x - mean_x, p - mean_p
    gram = p @ p.T  # in the slices, which are fewer than pixels
    # Of one slice alone the projections do not differ: the estimate is then that slice.
    gram += ridge * gram.trace().clamp(min=1e-12) * torch.eye(len(p), dtype=torch.float64)

    def reconstruct(lines: Tensor, angles: Tensor) -> Tensor:
        shares = torch.linalg.solve(gram, p @ (lines.flatten(1).double().cpu() - mean_p).T)
        return (mean_x + shares.T @ x).reshape(len(lines), *slices.shape[1:]).to(lines)

    return reconstruct


def best_linear(known: tuple[Tensor, Tensor], tried: tuple[Tensor, Tensor], angles: Tensor) -> Reconstruct:
    """Return the linear estimate from known slices [S, N, N] and sinograms [S, V, N] with the ridge of `RIDGES` that is
    best on others [T, N, N], [T, V, N]."""
    truth, lines = tried
    estimates = [linear_estimate(*known, ridge) for ridge in RIDGES]
    scores = [float(psnr(e(lines, angles).clamp(0, 1), truth, keep_first=True).mean()) for e in estimates]
    return estimates[int(np.argmax(scores))]


class Classical(NamedTuple):
    """A reconstruction, and the relaxation and sweeps that were chosen for it; None if it has none."""

    reconstruct: Reconstruct
    relaxation: float | None = None
    sweeps: int | None = None


def classical(sinograms: Tensor, angles: Tensor, truth: Tensor) -> dict[str, Classical]:
    """Return the reconstructions that are there, by name; scikit-image's only if it is installed.

    Args: sinograms [T, V, N], angles [V] and truth [T, N, N] of slices that are not tested on, on which SART gets its
    relaxation and its sweeps as the initializations get their rate.

    >>> from mclnf_fast.render.parallel_beam import even_angles, project
    >>> pictures = torch.zeros(1, 16, 16)
    >>> list(classical(project(pictures, even_angles(3)), even_angles(3), pictures))[0]
    'fbp'
    """
    found = {"fbp": Classical(back_project)}
    if skimage_installed():
        best = best_sart(sinograms, angles, truth)
        found |= {"hann": Classical(hann), "sart": Classical(lambda lines, at: sart(lines, at, *best), *best)}
    return found


def _transform(name: str):  # type: ignore[no-untyped-def]  # a module without types
    try:
        from skimage import transform
    except ImportError as error:
        raise InputError(f"{name} needs scikit-image: {pip_install('ct')}") from error
    return transform


def _centered(sinograms: Tensor, angles: Tensor) -> np.ndarray:
    """Return line integrals in pixels [T, V, N] about scikit-image's center: pixel N // 2, and not the middle of the
    picture. Moved by a fraction of a detector, as a sum of waves: linear interpolation would blur them.
    """
    count = sinograms.shape[-1]
    lines = count * sinograms.detach().cpu().numpy().astype(np.float64)
    if count % 2:
        return lines  # the two centers are one
    cos, sin = (f(angles.numpy().astype(np.float64)) for f in (np.cos, np.sin))
    moved = 0.5 - 0.5 * (cos - sin)  # detectors between the two, by the angle: rows go down, and y up
    padded = 2 * count  # nothing may come in again at the other end
    waves = np.fft.rfftfreq(padded)
    turned = np.fft.rfft(lines, padded) * np.exp(-2j * math.pi * waves * moved[:, None])
    return np.fft.irfft(turned, padded)[..., :count]
