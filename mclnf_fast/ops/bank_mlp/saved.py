"""When the compiled forward saves the hidden activations for the backward, and how many.

Computing them again costs a forward: a quarter of a training step, in arithmetic. Saving them costs their way to
memory and back, which beside the arithmetic of AVX-512 is slow: on two cores of a Zen 5, saved against computed
again, a forward and backward took 0.80 to 0.90 of the time while they stayed in the caches (4 MiB at width 64, 8 MiB
at 128), 0.93 to 1.1 beyond at width 128 and below, and 0.87 at width 256 however many there were. Narrower vectors
take twice as long for the arithmetic and no longer for the way: with AVX2 (Zen 4, two cores) it took 0.75 to 0.85
from width 64 on, from 2 to 256 MiB, and 0.86 to 1.0 at width 32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.spec import FieldSpec

PADDING = 63  # points per module at most: the kernels save whole panels of up to 64
MIB = 1 << 20
MOST = 512 * MIB  # of one call: a program that holds several of them has that much of each


@functools.cache
def _most_at_width(mean: float) -> int:
    """Return how many bytes are saved of a network of this mean hidden width."""
    if torch.ops.mclnf_fast.cpu_instruction_set() != "avx512":
        return MOST if mean >= 48 else 4 * MIB
    return MOST if mean >= 192 else 8 * MIB if mean >= 96 else 4 * MIB


def saved_values(x: Tensor, parameters: Sequence[Tensor], spec: FieldSpec) -> int:
    """Return the number of values to save of this call, 0 for none.

    Activations are saved of eager float32 tensors alone, if one of them requires a gradient and the activation needs
    no pre-activations for its derivative.

    >>> saved_values(torch.rand(8, 2), [torch.rand(1, 2, 16)], FieldSpec(2, 1, 16, 1))
    0
    """
    if not parameters[0].dim():  # the op refuses it
        return 0
    modules, points = parameters[0].shape[0], x.shape[0]
    if points < (PADDING + 1) * modules or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return 0
    if spec.activation not in ("relu", "none") or any(t.dtype != torch.float32 for t in (x, *parameters)):
        return 0
    widths = [columns for _, columns in spec.layer_shapes[:-1]]
    if not widths:
        return 0
    values = sum(widths) * (points + PADDING * modules)
    if 4 * values > _most_at_width(sum(widths) / len(widths)) or not any(t.requires_grad for t in (x, *parameters)):
        return 0
    return values
