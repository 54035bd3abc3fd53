"""What the PyTorch peers share: the encoding and the layers as a good user writes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mclnf_fast import spec as sp

LOW = (torch.bfloat16, torch.float16)


def frequencies(spec: sp.FieldSpec, device: str | torch.device = "cpu") -> Tensor:
    """[octaves] in float64, of a Frequency encoding without its input, or none of no encoding: those that the cases
    use."""
    if isinstance(spec.encoding, sp.Identity):
        return torch.empty(0, dtype=torch.float64, device=device)
    if not isinstance(spec.encoding, sp.Frequency) or spec.encoding.include_input:
        raise ValueError(f"the peers write out Frequency(n) alone, got {spec.encoding!r}")
    return torch.tensor(spec.encoding.frequencies, dtype=torch.float64, device=device)


def encode(x: Tensor, freqs: Tensor) -> Tensor:
    """x [..., d] -> [..., 2 d octaves], laid out as ours, or x itself without any. Low precision is encoded in
    float32: octave 10 of a bfloat16 angle is noise."""
    if not len(freqs):
        return x
    wide = x.float() if x.dtype in LOW else x
    angles = wide[..., None, :] * freqs[:, None].to(wide)
    return torch.stack((angles.sin(), angles.cos()), -2).flatten(-3).to(x.dtype)


def activate(z: Tensor, spec: sp.FieldSpec | None) -> Tensor:
    """Return a hidden layer's activation: relu, or the sine of a spec that has one."""
    return torch.sin(spec.w0 * z) if spec is not None and spec.activation == "sine" else torch.relu(z)


class Sine(nn.Module):
    """sin(w0 z), as SIREN's authors write it."""

    def __init__(self, w0: float) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, z: Tensor) -> Tensor:
        return torch.sin(self.w0 * z)


class Encode(nn.Module):
    """`encode` as the first layer of a Sequential."""

    def __init__(self, freqs: Tensor) -> None:
        super().__init__()
        self.freqs = freqs

    def forward(self, x: Tensor) -> Tensor:
        return encode(x, self.freqs)


def sequential(
    spec: sp.FieldSpec, weights: Sequence[Tensor], biases: Sequence[Tensor], with_encoding: bool = True
) -> nn.Sequential:
    """Return one module [in, out], [out] per layer, as nn.Sequential of Linear and ReLU or sine."""
    layers: list[nn.Module] = [Encode(frequencies(spec, weights[0].device))] if with_encoding else []
    for k, (w, b) in enumerate(zip(weights, biases)):
        linear = nn.Linear(w.shape[0], w.shape[1], dtype=w.dtype, device=w.device)
        with torch.no_grad():
            linear.weight.copy_(w.t())
            linear.bias.copy_(b)
        layers.append(linear)
        if k < spec.hidden_layers:
            layers.append(Sine(spec.w0) if spec.activation == "sine" else nn.ReLU())
    return nn.Sequential(*layers)


def linears(net: nn.Module) -> list[nn.Linear]:
    """Return the Linear layers, in order."""
    return [layer for layer in net.modules() if isinstance(layer, nn.Linear)]


def parameters(nets: Sequence[nn.Module]) -> list[Tensor]:
    """Weights, then biases, of every network: network by network."""
    return [p for net in nets for p in (*(k.weight for k in linears(net)), *(k.bias for k in linears(net)))]


def stacked(grads: Sequence[Tensor], layers: int, modules: int) -> list[Tensor]:
    """Return gradients in the order of `parameters` -> [M, in, out] of every layer, then [M, out]."""
    rows = [grads[m * 2 * layers : (m + 1) * 2 * layers] for m in range(modules)]
    return [torch.stack([r[k].t() if k < layers else r[k] for r in rows]) for k in range(2 * layers)]


def bmm_mlp(
    features: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: sp.FieldSpec | None = None
) -> Tensor:
    """features [M, n, F] -> [M, n, out]: a baddbmm a layer, ReLU between, or the sine of `spec`."""
    h = features
    for k, (w, b) in enumerate(zip(weights, biases)):
        h = torch.baddbmm(b[:, None], h, w)
        if k + 1 < len(weights):
            h = activate(h, spec)
    return h


def padding(counts: Sequence[int], device: str | torch.device = "cpu") -> tuple[Tensor, Tensor]:
    """For modules of unequal counts: rows int64 [M, longest] of each module's points (its first one repeated), and
    places int64 [N] of every point in the padded result, flat."""
    longest = max(counts)
    starts = torch.tensor([0, *itertools.accumulate(counts)], device=device)[:-1]
    step = torch.arange(longest, device=device)
    real = step < torch.tensor(counts, device=device)[:, None]
    rows = torch.where(real, starts[:, None] + step, 0)
    return rows, real.flatten().nonzero()[:, 0]
