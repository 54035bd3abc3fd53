"""When the compiled forward saves the hidden activations for the backward, and how many.

Computing them again costs a forward: a quarter of a training step, in arithmetic. Saving them costs their way to memory
and back, which beside a core's arithmetic is slow: on two cores of a Zen 5, saved against computed again, a forward and
backward took 0.80 to 0.90 of the time while they stayed in the caches (4 MiB at width 64, 8 MiB at 128), 0.93 to 1.1
beyond at width 128 and below, and 0.87 at width 256 however many there were.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.spec import FieldSpec

PADDING = 63  # points per module at most: the kernels save whole panels of up to 64
MIB = 1 << 20


def saved_values(x: Tensor, parameters: Sequence[Tensor], spec: FieldSpec) -> int:
    """Return the number of values to save of this call, 0 for none.

    Activations are saved of eager float32 tensors alone, if one of them requires a gradient and the activation needs
    no pre-activations for its derivative.

    >>> saved_values(torch.rand(8, 2), [torch.rand(1, 2, 16)], FieldSpec(2, 1, 16, 1))
    0
    """
    if x.dtype != torch.float32 or spec.activation not in ("relu", "none"):
        return 0
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return 0
    modules, points = parameters[0].shape[0], x.shape[0]
    widths = [columns for _, columns in spec.layer_shapes[:-1]]
    if points < (PADDING + 1) * modules or not widths:
        return 0
    values = sum(widths) * (points + PADDING * modules)
    mean = sum(widths) / len(widths)
    most = 512 * MIB if mean >= 192 else 8 * MIB if mean >= 96 else 4 * MIB
    if 4 * values > most or not any(t.requires_grad for t in (x, *parameters)):
        return 0
    return values
