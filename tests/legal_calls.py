"""A legal call of every op as keyword arguments, for tests that change an argument or put it into a transform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.bank_adapt import Batches
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRays, FitRule, FitState, Guide, GuideState, Schedule, Watch
from mclnf_fast.shading import SCENE_SHADING

Call = dict[str, Any]


def _bank(spec: mf.FieldSpec, modules: int, dtype: torch.dtype) -> Call:
    weights = [torch.randn(modules, *shape, dtype=dtype) * shape[0] ** -0.5 for shape in spec.layer_shapes]
    biases = [0.3 * torch.randn(modules, shape[1], dtype=dtype) for shape in spec.layer_shapes]
    return {"weights": weights, "biases": biases, "spec": spec}


def bank_mlp(dtype: torch.dtype) -> Call:
    spec = mf.FieldSpec(2, 3, 8, 2, activation="tanh", encoding=mf.Frequency(2))
    return {"x": torch.rand(7, 2, dtype=dtype), "offsets": torch.tensor([0, 3, 7]), **_bank(spec, 2, dtype)}


def bank_mse(dtype: torch.dtype) -> Call:
    more = {"target": torch.rand(7, 3, dtype=dtype), "sample_weight": torch.rand(7, dtype=dtype), "reduction": "mean"}
    return {**bank_mlp(dtype), **more}


def bank_ray_mse(dtype: torch.dtype) -> Call:
    return {
        "x": torch.rand(9, 3, dtype=dtype),
        "rays": torch.tensor([0, 3, 3, 5, 9]),
        "ray_offsets": torch.tensor([0, 2, 4]),
        **_bank(mf.FieldSpec(3, 4, 8, 1, activation="tanh"), 2, dtype),
        "deltas": torch.rand(9, dtype=dtype) + 0.1,
        "target": torch.rand(4, 3, dtype=dtype),
        "shading": mf.Shading("exp", max_raw_density=9.0),
        "ray_weight": torch.rand(4, dtype=dtype),
        "background": torch.rand(3, dtype=dtype),
        "reduction": "sum",
    }


def composite(dtype: torch.dtype) -> Call:
    starts = torch.rand(9, dtype=dtype)
    return {
        "density": torch.rand(9, dtype=dtype) * 2,
        "color": torch.rand(9, 3, dtype=dtype),
        "t_starts": starts,
        "t_ends": starts + 0.1 + torch.rand(9, dtype=dtype),
        "packed_info": torch.tensor([[0, 3], [3, 0], [4, 5]]),
        "background": torch.rand(3, dtype=dtype),
        "early_stop_eps": 0.0,
    }


def grid_encode(dtype: torch.dtype) -> Call:
    grid = mf.HashGrid(levels=2, features=2, base=3, finest=5, interpolation="smoothstep")
    return {
        "x": torch.rand(7, 2, dtype=dtype) * 1.8 - 0.9,
        "offsets": torch.tensor([0, 3, 7]),
        "tables": torch.randn(2, grid.layout(2).entries, 2, dtype=dtype),
        "encoding": grid,
    }


def _rays(dtype: torch.dtype) -> Call:
    box = torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=dtype)
    return {"origins": torch.rand(5, 3, dtype=dtype) - 2, "directions": torch.rand(5, 3, dtype=dtype) + 1, "aabb": box}


def march_rays(dtype: torch.dtype) -> Call:
    return {
        **_rays(dtype),
        "occupancy": torch.rand(3, 4, 5) + 0.1,
        "bins": 6,
        "near": torch.rand(5, dtype=dtype),
        "far": torch.rand(5, dtype=dtype) + 5,
        "stratified": True,
        "seed": 3,
        "early_stop_eps": 0.01,
    }


def render_rays(dtype: torch.dtype) -> Call:
    return {
        **_rays(dtype),
        "ray_offsets": torch.tensor([0, 2, 5]),
        **_bank(mf.FieldSpec(6, 4, 8, 1), 2, dtype),
        "occupancy": torch.rand(3, 4, 5) + 0.1,
        "view_directions": torch.rand(5, 3, dtype=dtype),
        "bins": 6,
        "near": 0.1,
        "far": 9.0,
        "background": torch.rand(3, dtype=dtype),
        "density": "exp",
        "color": "sigmoid",
        "max_raw_density": 9.0,
        "last_behind": False,
        "early_stop_eps": 0.01,
    }


def traverse_grids(dtype: torch.dtype) -> Call:
    enters = torch.rand(5, 2, dtype=dtype)
    return {
        "origins": torch.rand(5, 3, dtype=dtype) - 2,
        "directions": torch.rand(5, 3, dtype=dtype) + 1,
        "cells": torch.rand(2, 3, 4, 5) < 0.6,
        "aabbs": torch.tensor([[-1.0] * 3 + [1.0] * 3, [-2.0] * 3 + [2.0] * 3], dtype=dtype),
        "enters": enters,
        "exits": enters + torch.rand(5, 2, dtype=dtype) + 0.1,
        "hits": torch.rand(5, 2) < 0.9,
        "near": torch.rand(5, dtype=dtype) / 2,
        "far": torch.rand(5, dtype=dtype) + 5,
        "step": 0.1,
        "cone": 0.02,
        "limit": 9,
        "mask": torch.tensor([True, True, False, True, True]),
    }


def segment_scan(dtype: torch.dtype) -> Call:
    return {
        "factor": torch.rand(9, dtype=dtype) + 0.5,
        "term": torch.rand(9, dtype=dtype),
        "packed_info": torch.tensor([[0, 3], [3, 0], [4, 5]]),
        "initial": 0.5,
        "exclusive": False,
        "reverse": True,
    }


def fisher_scores(dtype: torch.dtype) -> Call:
    call = bank_mlp(dtype)
    fisher = tuple([torch.rand_like(t) for t in call[name]] for name in ("weights", "biases"))
    more = {
        "grad_y": torch.rand(7, 3, dtype=dtype),
        "fisher": fisher,
        "sample_ids": torch.tensor([0, 0, 1, 2, 1, 3, 4]),
    }
    return {**call, **more, "damping": 1e-6, "grads": True, "num_samples": 5}


def bank_step(dtype: torch.dtype) -> Call:
    def like(low: float) -> list[Tensor]:
        return [torch.rand(2, 3, 4, dtype=dtype) + low, torch.rand(2, 4, dtype=dtype) + low]

    return {
        "params": like(0.0),
        "grads": like(-0.5),
        "exp_avg": like(-0.5),
        "exp_avg_sq": like(0.0),
        "step": torch.tensor([1.0, 4.0], dtype=torch.float64),
        "lr": torch.tensor([1e-2, 1e-3], dtype=torch.float64),
        "active": torch.tensor([True, True]),
        "kind": "adam",
        "betas": (0.9, 0.99),
        "eps": 1e-8,
        "trust": (0.5, like(0.0), like(0.0)),
    }


def draw_ids(dtype: torch.dtype) -> Call:
    return {
        "sizes": torch.tensor([9, 4]),
        "batch": 5,
        "steps": torch.tensor([0, 17]),
        "rule": "even",
        "seed": 3,
        "task": 1,
        "modules": torch.tensor([1, 0]),
    }


def bank_adapt(dtype: torch.dtype) -> Call:
    """Its samples and batches are records, as those of `bank_fit`."""
    return {
        **_bank(mf.FieldSpec(2, 3, 8, 1, activation="tanh"), 2, dtype),
        "data.x": torch.rand(7, 2, dtype=dtype),
        "data.target": torch.rand(7, 3, dtype=dtype),
        "data.offsets": torch.tensor([0, 3, 7]),
        "data.weight": torch.rand(7, dtype=dtype),
        "steps": 3,
        "lr": torch.rand(3, 2, dtype=dtype),
        "batches.ids": torch.tensor([[[0, 1], [3, 2]], [[2, 0], [0, 0]], [[1, 1], [2, 3]]]),
        "batches.weights": torch.rand(3, 2, 2, dtype=dtype),
        "frozen_layers": 1,
        "clip_value": 0.5,
        "first_order": False,
    }


def bank_fit(dtype: torch.dtype) -> Call:
    """Its arguments are records: "data.x" is the field x of data."""
    spec = mf.FieldSpec(2, 3, 8, 1, activation="tanh")
    data = {
        "data.x": torch.rand(7, 2, dtype=dtype),
        "data.target": torch.rand(7, 3, dtype=dtype),
        "data.offsets": torch.tensor([0, 3, 7]),
        "data.weight": torch.rand(7, dtype=dtype),
    }
    return _fit(spec, dtype) | data


def bank_ray_fit(dtype: torch.dtype) -> Call:
    """`bank_fit` on rays."""
    spec = mf.FieldSpec(6, 4, 8, 1, activation="tanh")
    origins = torch.nn.functional.normalize(torch.randn(7, 3, dtype=dtype), dim=1) * 3
    data = {
        "data.origins": origins,
        "data.directions": -origins / 3,
        "data.colors": torch.rand(7, 3, dtype=dtype),
        "data.offsets": torch.tensor([0, 3, 7]),
        "data.shading": SCENE_SHADING,
        "data.samples_per_ray": 5,
        "data.near": 0.5,
        "data.far": 4.0,
        "data.jitter": True,
        "data.view": -origins / 3,
        "data.weight": torch.rand(7, dtype=dtype),
    }
    return _fit(spec, dtype) | data


def bank_guided_fit(dtype: torch.dtype) -> Call:
    """`bank_fit` with the draw rule "guided"."""
    call = bank_fit(dtype) | {"draws.rule": "guided"}
    guide = {"curve": torch.tensor([2, 0, 1, 1, 3, 2, 0]), "mix": 0.7, "smooth": 0.2, "block": 3, "refresh": 2}
    state = {
        "scores": torch.tensor([[1.5, -1.0], [0.0, 2.0]], dtype=torch.float64),
        "window": torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64),
        "fisher": [torch.rand_like(p) for p in call["state.params"]],
        "batches": torch.tensor([1, 2]),
    }
    call |= {f"draws.guide.{name}": value for name, value in {**guide, "decay": 0.8, "damping": 1e-3}.items()}
    return call | {f"state.guide.{name}": value for name, value in state.items()}


def _fit(spec: mf.FieldSpec, dtype: torch.dtype) -> Call:
    bank = _bank(spec, 2, dtype)

    def like(low: float) -> list[Tensor]:
        return [torch.rand_like(p) + low for p in (*bank["weights"], *bank["biases"])]

    return {
        "state.params": [*bank["weights"], *bank["biases"]],
        "state.exp_avg": like(-0.5),
        "state.exp_avg_sq": like(0.0),
        "state.steps": torch.tensor([1, 4]),
        "spec": spec,
        "steps": torch.tensor([2, 1]),
        "draws.rule": "uniform",
        "draws.batch": 3,
        "draws.seed": 3,
        "draws.task": 1,
        "draws.modules": torch.tensor([1, 0]),
        "rule.schedule": Schedule(1e-3),
        "rule.kind": "adam",
        "rule.betas": (0.9, 0.99),
        "rule.eps": 1e-8,
        "rule.trust": (0.5, like(0.0), like(0.0)),
        "rule.frozen_layers": 1,
        "watch.losses_at": (2, 3),
        "watch.params_at": (3,),
        "watch.stop_loss": torch.tensor([0.0, 0.1], dtype=torch.float64),
        "watch.check_every": 2,
    }


RECORDS = {"state": FitState, "data": FitData, "draws": Draws, "rule": FitRule, "watch": Watch, "batches": Batches}

CALLS: dict[str, Callable[[torch.dtype], Call]] = {
    make.__name__: make
    for make in (
        bank_mlp, bank_mse, bank_ray_mse, composite, grid_encode, march_rays, render_rays, fisher_scores, bank_step,
        draw_ids, bank_adapt, bank_fit, bank_ray_fit, bank_guided_fit, traverse_grids, segment_scan,
    )
}  # fmt: skip


def run(op: str, call: Call) -> Any:
    arguments: Call = {}
    records: dict[str, Call] = {}
    for name, value in call.items():
        record, _, field = name.rpartition(".")
        (records.setdefault(record, {}) if record else arguments)[field] = value
    if "origins" in records.get("data", ()):
        arguments["data"] = FitRays(**records.pop("data"))
    for record, kind in (("draws", Guide), ("state", GuideState)):
        if f"{record}.guide" in records:
            records[record]["guide"] = kind(**records.pop(f"{record}.guide"))
    arguments |= {name: RECORDS[name](**fields) for name, fields in records.items()}
    return getattr(mf.ops, {"bank_ray_fit": "bank_fit", "bank_guided_fit": "bank_fit"}.get(op, op))(**arguments)
