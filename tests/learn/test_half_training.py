"""Fields trained step by step in half types are as good as in float32: with all roundings, which the reference has on
every processor."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import BankOptimizer, Params
from mclnf_fast.learn.mixed import half_copies

MODULES, SIDE, STEPS, LR = 4, 24, 200, 2e-3
SPEC = mf.FieldSpec(2, 1, 32, 2, activation="sine(30)")


def trained(copies: Callable[[Params], Params]) -> float:
    """The mean PSNR in dB of smooth pictures, one per module, when every step takes its loss at `copies` of the
    parameters."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, SIDE)
    x = torch.cartesian_prod(axis, axis).repeat(MODULES, 1)
    offsets = torch.arange(MODULES + 1) * SIDE**2
    coarse = torch.rand(MODULES, 1, 8, 8, generator=generator)
    target = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").flatten()[:, None]
    init = initial_parameters(SPEC, 1, generator=generator)
    params = tuple(p.repeat(MODULES, *[1] * (p.dim() - 1)).requires_grad_() for p in init)
    learned = copies(params)
    optimizer = BankOptimizer(learned, masters=None if learned is params else params)
    layers = len(params) // 2
    for step in range(STEPS):
        optimizer.set_lr(LR * (1.01 - step / STEPS))
        loss = mf.ops.bank_mse(x, offsets, learned[:layers], learned[layers:], target, SPEC, backend="reference")
        optimizer.step(torch.autograd.grad(loss.sum(), learned))
    return float(-10 * loss.detach().log10().mean())


@functools.cache
def wide() -> float:
    return trained(lambda params: params)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_copies_cost_next_to_nothing(half: torch.dtype) -> None:
    assert wide() > 45
    assert abs(trained(lambda params: half_copies(params, half)) - wide()) < 0.5


def test_a_rounded_first_layer_costs_decibels() -> None:
    """What the first layer's weights and the biases in float32 are for: so the bound above can be missed."""
    everything = trained(lambda params: tuple(p.detach().bfloat16().requires_grad_() for p in params))
    assert everything < wide() - 3
