"""Correctness comes first: what a contender computed against a float64 truth, before anything is timed."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs


@dataclasses.dataclass
class Verdict:
    """errors: for each output the root mean square of the difference over that of the truth (infinite where shapes
    differ or something is not finite). reason: None where every one is within its tolerance."""

    errors: dict[str, float]
    reason: str | None


def relative_error(value: Tensor, truth: Tensor) -> float:
    """rms(value - truth) / rms(truth); infinite where `value` has another shape or is not finite."""
    if value.shape != truth.shape:
        return float("inf")
    if truth.numel() == 0:
        return 0.0
    difference = value.detach().to(truth) - truth
    scale = float(truth.square().mean().sqrt())
    found = float(difference.square().mean().sqrt()) / (scale or 1.0)
    return found if found == found else float("inf")


def own_truth(contender: Contender, truth: Outputs) -> Outputs:
    """Return the outputs that a contender must have, by their names without its prefix. Raises ValueError where none
    is."""
    mine: Outputs = {}
    for full, tensor in truth.items():
        part, colon, name = full.rpartition(":")
        if part + colon == contender.part and (not contender.only or name in contender.only):
            mine[name] = tensor
    if not mine:
        raise ValueError(f"{contender.name}: the truth has nothing for part {contender.part!r}, only {sorted(truth)}")
    return mine


def judge(contender: Contender, truth: Outputs, tolerance: dict[str, float]) -> Verdict:
    """Compare every output that the truth has. `tolerance` has a bound for each name, or one under "" for all; with a
    contender's part in front, for that part alone."""
    values = contender.values()
    errors: dict[str, float] = {}
    reasons: list[str] = []
    for name, wanted in own_truth(contender, truth).items():
        if name not in values:
            errors[name] = float("inf")
            reasons.append(f"{name} is missing")
            continue
        value = values[name]
        if contender.share < 1:  # the first rows
            wanted = wanted[: value.shape[0]]
        errors[name] = relative_error(value, wanted)
        keys = (contender.part + name, contender.part, name, "")
        bound = next((tolerance[key] for key in keys if key in tolerance), 0.0)
        if not errors[name] <= bound:
            shapes = "" if value.shape == wanted.shape else f", shape {list(value.shape)} for {list(wanted.shape)}"
            reasons.append(f"{name}: error {errors[name]:.2g}, at most {bound:.2g} is right{shapes}")
    return Verdict(errors, "; ".join(reasons) or None)


def flat(prefix: str, tensors: list[Tensor] | tuple[Tensor, ...]) -> Outputs:
    """Return a list of tensors as named outputs."""
    return {f"{prefix}{k}": t.detach() for k, t in enumerate(tensors)}


def joined(name: str, tensors: list[Tensor] | tuple[Tensor, ...]) -> Outputs:
    """Return tensors [M, ...] side by side as one output [M, -1]: one error for a whole set of parameters."""
    return {name: torch.cat([t.detach().reshape(t.shape[0], -1) for t in tensors], 1)}
