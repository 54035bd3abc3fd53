"""Split a network as OML does (Javed & White, arXiv 1905.12588): slow representation, fast prediction part."""

from __future__ import annotations

from typing import NamedTuple

from mclnf_fast.learn.params import Params


class FastPart(NamedTuple):
    """The part of a network that an inner loop trains.

    update: one bool per tensor. clip_value: inner gradients are clamped to +- this; None: not.
    """

    update: tuple[bool, ...]
    clip_value: float | None = 10.0


def fast_mask(params: Params, fast_layers: int) -> tuple[bool, ...]:
    """Return for each tensor of the flat tuple (weights, then biases) whether it belongs to the last `fast_layers`
    layers.

    Raises ValueError if that would be all layers or none.

    >>> import torch
    >>> fast_mask((torch.zeros(1, 2, 4), torch.zeros(1, 4, 1), torch.zeros(1, 4), torch.zeros(1, 1)), 1)
    (False, True, False, True)
    """
    layers = len(params) // 2
    # All layers would be plain MAML, and none would leave the inner loop nothing to train.
    if not 1 <= fast_layers < layers:
        raise ValueError(f"fast_layers must lie in 1 ... {layers - 1}, got {fast_layers}")
    half = tuple(layer >= layers - fast_layers for layer in range(layers))
    return half + half
