"""Random legal calls of every op: the compiled kernels are as near to float64 as the reference of the same dtype.

A short form runs with the others; `MCLNF_FUZZ_CASES=100000` makes as many calls, `MCLNF_FUZZ_SEED` repeats
some of them. Sizes are small and odd on purpose: no points, empty modules, one module, widths around a register's.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from typing import Any

import bank_cases
import pytest
import torch
from bank_step_cases import State
from grid_cases import GRIDS
from torch import Tensor

import mclnf_fast as mf

CASES = int(os.environ.get("MCLNF_FUZZ_CASES", "900"))
SEED = int(os.environ.get("MCLNF_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 64, 65, 96, 128, 129)
# Without kinks: where a relu's argument changes sign by rounding, its derivative is another number and both are right.
SMOOTH = ("sine", "softplus", "tanh", "sigmoid")


@dataclasses.dataclass
class Call:
    """A call of an op: its arguments, and those that it is differentiated by."""

    op: str
    arguments: dict[str, Any]
    leaves: tuple[str, ...] = ()

    def to(self, dtype: torch.dtype) -> Call:
        """Return the call with its fractions in another dtype."""
        return Call(self.op, {k: _map(lambda t: t.to(dtype), v) for k, v in self.arguments.items()}, self.leaves)

    def moved(self, seed: int) -> Call:
        """Return the call with its fractions moved by half a unit of their last place, up or down at random."""
        generator = torch.Generator().manual_seed(seed)

        def move(t: Tensor) -> Tensor:
            side = torch.randint(0, 2, t.shape, generator=generator).to(t) * 2 - 1
            return t.double().mul(1 + side.double() * torch.finfo(t.dtype).eps / 2).to(t.dtype)

        return Call(self.op, {k: _map(move, v) for k, v in self.arguments.items()}, self.leaves)

    def run(self, backend: str) -> dict[str, Tensor]:
        """Return results and gradients, each under its name."""
        arguments = {k: _map(Tensor.clone, v) for k, v in self.arguments.items()}
        leaves = [t.requires_grad_() for name in self.leaves for t in _tensors(arguments[name])]
        out = getattr(mf.ops, self.op)(**arguments, backend=backend)
        results = dict(zip(getattr(out, "_fields", ("out",)), [out] if isinstance(out, Tensor) else out, strict=False))
        results = {k: v for k, v in results.items() if isinstance(v, Tensor)}
        if leaves:
            generator = torch.Generator().manual_seed(1)
            total = torch.zeros((), dtype=torch.float64)
            for value in results.values():
                if value.requires_grad:
                    cotangent = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                    total = total + (value.double() * cotangent).sum()
            gradients = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else []
            results |= {f"gradient {k}": g for k, g in enumerate(gradients) if g is not None}
        return {k: v.detach() for k, v in results.items()}


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value) if isinstance(value, list) else []


def _map(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Change the tensors of fractions in a value."""
    if isinstance(value, Tensor):
        return change(value) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, list)) for v in value):
        return type(value)(_map(change, v) for v in value)
    return value


def a_spec(rng: random.Random, in_dim: int = 0, out_dim: int = 0) -> mf.FieldSpec:
    """Return a random network, with coordinates and values as asked for."""
    kinds = [(n, e) for n, e in bank_cases.ENCODINGS.values() if not in_dim or n == in_dim]
    dims, encoding = rng.choice(kinds)
    hidden = rng.choice((0, 1, 1, 2, 3, 5))
    return mf.FieldSpec(
        dims,
        out_dim or rng.choice((1, 2, 3, 4, 9)),
        width=rng.choice(WIDTHS),
        hidden_layers=hidden,
        activation=rng.choice(SMOOTH),
        output_activation=rng.choice(("none", *SMOOTH)),
        encoding=encoding,
        w0=rng.choice((0.5, 1.0, 3.0)),
        skips=tuple(layer for layer in range(1, hidden + 1) if rng.random() < 0.3),
    )


def a_bank(rng: random.Random, spec: mf.FieldSpec, most: int = 40) -> dict[str, Any]:
    """Return x, offsets, weights and biases of random modules, some without points."""
    counts = [rng.choice((0, 1, 2, 3, 15, 16, 17, rng.randint(0, most))) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    case = bank_cases.make(spec, counts, torch.float64, rng.randrange(2**31))
    return {"x": case.x, "offsets": case.offsets, "weights": case.weights, "biases": case.biases, "spec": spec}


def normal(rng: random.Random, *shape: int) -> Tensor:
    """Return float64 numbers that follow the seed of the calls."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)), dtype=torch.float64)


def bank_mlp(rng: random.Random) -> Call:
    return Call("bank_mlp", a_bank(rng, a_spec(rng)), ("x", "weights", "biases"))


def bank_mse(rng: random.Random) -> Call:
    spec = a_spec(rng)
    given = a_bank(rng, spec)
    points = len(given["x"])
    given |= {"target": normal(rng, points, spec.out_dim), "reduction": rng.choice(("mean", "sum"))}
    if rng.random() < 0.5:
        given["sample_weight"] = normal(rng, points).abs()
    return Call("bank_mse", given, ("weights", "biases"))


def bank_ray_mse(rng: random.Random) -> Call:
    spec = a_spec(rng, 3, 4)
    samples = [[rng.choice((1, 2, 5, 16)) for _ in range(rng.randint(0, 6))] for _ in range(rng.choice((1, 2, 4)))]
    case = bank_cases.make(spec, [sum(s) for s in samples], torch.float64, rng.randrange(2**31))
    lengths = torch.tensor([0, *(n for s in samples for n in s)])
    rays = len(lengths) - 1
    given = {
        "x": case.x, "weights": case.weights, "biases": case.biases, "spec": spec,
        "rays": lengths.cumsum(0), "ray_offsets": torch.tensor([0, *(len(s) for s in samples)]).cumsum(0),
        "deltas": normal(rng, len(case.x)).abs(), "target": normal(rng, rays, 3),
        "reduction": rng.choice(("mean", "sum")),
        "shading": mf.Shading(
            density_activation=rng.choice(("exp", "exp", "relu")),
            density_first=rng.random() < 0.5,
            max_raw_density=rng.choice((float("inf"), 0.5)),
            background=rng.choice(("black", "white", (0.1, 0.2, 0.3))),
        ),
    }  # fmt: skip
    if rng.random() < 0.5:
        given["ray_weight"] = normal(rng, rays).abs()
    return Call("bank_ray_mse", given, ("weights", "biases"))


def fisher_scores(rng: random.Random) -> Call:
    spec = a_spec(rng)
    given = a_bank(rng, spec)
    points = len(given["x"])
    given |= {"grad_y": normal(rng, points, spec.out_dim), "grads": rng.random() < 0.7, "damping": 0.1}
    given["fisher"] = None
    if rng.random() < 0.5:
        given["fisher"] = tuple([t.square() for t in given[name]] for name in ("weights", "biases"))
    return Call("fisher_scores", given)


def composite(rng: random.Random) -> Call:
    counts = torch.tensor([rng.choice((0, 1, 2, 7, 16, 33)) for _ in range(rng.randint(1, 9))])
    samples, channels = int(counts.sum()), rng.choice((1, 3, 4))
    edges = normal(rng, samples).abs().cumsum(0)
    given: dict[str, Any] = {
        "density": normal(rng, samples).abs() * rng.choice((0.1, 1.0, 30.0)),
        "color": normal(rng, samples, channels),
        "t_starts": edges,
        "t_ends": edges + normal(rng, samples).abs(),
        "packed_info": torch.stack((counts.cumsum(0) - counts, counts), 1),
    }
    if rng.random() < 0.5:
        given["background"] = normal(rng, *rng.choice(((channels,), (len(counts), channels))))
    leaves = ("density", "color", "t_starts", "t_ends", "background")
    return Call("composite", given, tuple(name for name in leaves if name in given))


def grid_encode(rng: random.Random) -> Call:
    dims, grid = rng.choice([g for name, g in GRIDS.items() if "nearest" not in name])
    counts = [rng.choice((0, 1, 3, 16, 17)) for _ in range(rng.choice((1, 2, 3)))]
    layout = grid.layout(dims)
    tables = normal(rng, len(counts), layout.entries, grid.features)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return Call("grid_encode", {"x": normal(rng, sum(counts), dims), "offsets": offsets, "tables": tables,
                                "encoding": grid}, ("tables",))  # fmt: skip


def some_rays(rng: random.Random) -> dict[str, Any]:
    """Return rays that mostly meet a box, and its occupancy."""
    count = rng.choice((0, 1, 5, 17))
    low = normal(rng, 3)
    box = torch.stack((low, low + 0.1 + normal(rng, 3).abs()))
    origins = normal(rng, count, 3) * 3
    toward = box.mean(0) - origins + 0.3 * normal(rng, count, 3)
    if count and rng.random() < 0.3:
        toward[0, rng.randrange(3)] = 0.0
    occupancy = None
    if rng.random() < 0.6:
        occupancy = normal(rng, *(rng.choice((1, 2, 5)) for _ in range(3))) > 0
    return {"origins": origins, "directions": toward, "aabb": box, "occupancy": occupancy}


def march_rays(rng: random.Random) -> Call:
    given = some_rays(rng) | rng.choice(({"bins": rng.choice((1, 2, 9, 64))}, {"step": 0.07}))
    return Call("march_rays", given | {"stratified": rng.random() < 0.5, "seed": rng.randrange(99)})


CALLS = (bank_mlp, bank_mse, bank_ray_mse, fisher_scores, composite, grid_encode, march_rays)
SHARE = {bank_mlp: 3, bank_mse: 2}


def assert_as_exact(
    compiled: list[Tensor],
    same: list[Tensor],
    exact: list[Tensor],
    said: str,
    nearby: Callable[[], list[list[Tensor]]] = list,
) -> None:
    """Bound each relative error by 16 times the worst of the reference in the same dtype, and some rounding.

    nearby: results of the reference for arguments that differ by rounding, asked for where the bound is passed: of
    three points the reference may be exact by luck, while a deep sine network changes by more than its error.

    The worst of the call, since a small tensor may be exact by luck, and relative to at least a twentieth of the
    largest result, since a small one may be what cancellation left. A call in float64 has no truth beyond itself, so
    that its rounding is all that it may have.
    """
    rounding = 1e-10 if exact[0].dtype == same[0].dtype else 16 * torch.finfo(same[0].dtype).eps
    sizes = [bank_cases.rms(t) if t.numel() else 0.0 for t in exact]
    sizes = [max(size, 0.05 * max(sizes), 1e-30) for size in sizes]
    worst = max(bank_cases.rms(s.double() - e) / size for s, e, size in zip(same, exact, sizes) if e.numel())
    for k, (value, truth, size) in enumerate(zip(compiled, exact, sizes)):
        assert value.shape == truth.shape, f"result {k}: {value.shape} is not {truth.shape}; {said}"
        assert value.dtype == same[k].dtype, f"result {k}: {value.dtype} is not {same[k].dtype}; {said}"
        error = bank_cases.rms(value.double() - truth) / size if value.numel() else 0.0
        if error > 16 * worst + rounding:
            others = [bank_cases.rms(near[k].double() - truth) / size for near in nearby()]
            worst = max([worst, *others])
        assert error <= 16 * worst + rounding, f"result {k}: relative error {error:.3g}, reference {worst:.3g}; {said}"


@pytest.mark.parametrize("draw", CALLS, ids=lambda f: f.__name__)
def test_a_random_call_is_as_exact_as_the_reference(need: Callable[..., str], draw: Callable[..., Call]) -> None:
    need(draw.__name__, "cpu")
    for case in range(CASES * SHARE.get(draw, 1) // (len(CALLS) + 3)):
        rng = random.Random(f"{SEED} {draw.__name__} {case}")
        call, dtype = draw(rng), rng.choice((torch.float32, torch.float32, torch.float64))
        said = f"MCLNF_FUZZ_SEED={SEED}, case {case} of {draw.__name__} in {dtype}: {call}"
        single = call.to(dtype)
        compiled, same = single.run("cpu"), single.run("reference")
        assert compiled.keys() == same.keys(), said
        if draw is march_rays:  # positions alone: the same bits
            assert all(torch.equal(compiled[name], same[name]) for name in same), said
            continue
        exact = single.to(torch.float64).run("reference")
        if any(t.numel() for t in exact.values()):
            lists = [list(results.values()) for results in (compiled, same, exact)]

            def nearby(call: Call = single) -> list[list[Tensor]]:
                return [list(call.moved(k).run("reference").values()) for k in range(4)]

            assert_as_exact(*lists, said, nearby)


def test_a_random_step_is_that_of_the_reference(need: Callable[..., str]) -> None:
    need("bank_step", "cpu")
    for case in range(CASES // 20):
        rng = random.Random(f"{SEED} bank_step {case}")
        torch.manual_seed(rng.randrange(2**31))
        kind, dtype = rng.choice(("adam", "sgd")), rng.choice((torch.float32, torch.float64))
        shapes = tuple(tuple(rng.choice((1, 3, 8, 17)) for _ in range(rng.choice((0, 1, 2)))) for _ in range(3))
        state = State(rng.choice((1, 2, 5)), shapes, dtype, kind)
        options: dict[str, Any] = {
            "betas": rng.choice(((0.9, 0.999), (0.0, 0.99), (0.5, 0.0))),
            "eps": rng.choice((1e-8, 1e-3)),
            "trust": state.trust if rng.random() < 0.5 else None,
            "active": torch.rand(len(state.step)) < 0.7 if rng.random() < 0.5 else None,
        }
        wide = dict(options)
        if options["trust"] is not None:
            wide["trust"] = state.copy(torch.float64).trust
        compiled, same = state.copy().run("cpu", **options), state.copy().run("reference", **options)
        exact = state.copy(torch.float64).run("reference", **wide)
        said = f"MCLNF_FUZZ_SEED={SEED}, case {case} of bank_step"
        assert_as_exact(compiled.changed, same.changed, exact.changed, said)
