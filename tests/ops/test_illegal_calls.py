"""Calls of every op that are wrong in one argument: each is refused by an error that names the argument.

Wrong types, layouts, memory that was freed, dtypes, devices, shapes and values, drawn at random: the seed is in the
message of a failure, and `MCLNF_FUZZ_SEED` sets it.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from legal_calls import CALLS, Call, run
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import BackendError

SEED = int(os.environ.get("MCLNF_FUZZ_SEED", random.SystemRandom().randrange(1 << 30)))
BACKENDS = ("auto", "cpu", "reference")
DTYPE = torch.float32

Path = tuple[str | int, ...]
Wrong = tuple[str, Any]


def leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The tensors and plain values of a call, with their places in it; a list, too, is one."""
    yield path, value
    if isinstance(value, (list, tuple)):
        for k, inner in enumerate(value):
            yield from leaves(inner, (*path, k))


def replaced(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    first, *rest = path
    if isinstance(value, dict):
        return {**value, first: replaced(value[first], tuple(rest), new)}
    return type(value)(replaced(v, tuple(rest), new) if k == first else v for k, v in enumerate(value))


def freed(t: Tensor, size: int) -> Tensor:
    t = t.detach().clone()
    t.untyped_storage().resize_(size)
    return t


def wrong_layouts(t: Tensor) -> Iterator[Wrong]:
    if t.dim():
        yield "sparse", t.to_sparse()
    if t.dim() == 2:
        yield "CSR", t.to_sparse_csr()
    if t.dtype == torch.float32 and 1 <= t.dim() <= 4:
        yield "MKL-DNN", t.to_mkldnn()


def wrong_memory(t: Tensor) -> Iterator[Wrong]:
    if t.numel():
        yield "freed", freed(t, 0)
    if t.numel() > 1:
        yield "cut short", freed(t, (t.numel() - 1) * t.element_size())


def wrong_dtypes(t: Tensor) -> Iterator[Wrong]:
    for dtype in (torch.int32, torch.complex64, torch.uint8, torch.float64, torch.float32, torch.int64, torch.bool):
        if dtype != t.dtype:
            yield str(dtype), t.to(dtype)


def wrong_shapes(t: Tensor) -> Iterator[Wrong]:
    yield "one axis more", t[None]
    if t.dim():
        yield "one axis less", t[0]
        yield "last axis cut", t[..., :-1]
        yield "first axis longer", torch.cat((t, t[:1]))


TYPES: tuple[Any, ...] = ("no", object(), {"a": 1}, [[1.0]], 3 + 2j, torch.float32, b"x", range(2))

VALUES: dict[str, tuple[Any, ...]] = {
    "backend": (["cpu"], 3, "gpu", ("cpu",), {}, b"cpu"),
    "reduction": (None, "no", 3, ["mean"]),
    "early_stop_eps": (None, "0.1", math.nan, -0.1, 1.0, [0.1], True),
    "stratified": ("no", None, 1, [True]),
    "last_behind": ("no", None, 1),
    "grads": ("no", None, 1),
    "damping": (None, "no", -1.0, math.nan, [1.0], True),
    "num_samples": ("no", -1, 2.5, True),
    "seed": (None, "no", 2.5, 1 << 64, True),
    "bins": (0, -3, "no", 2.5, True, 1 << 30),
    "near": (None, "no", math.nan, [0.1], True),
    "far": (None, "no", math.nan, [0.1], True),
    "max_raw_density": (None, "no", math.nan, [1.0]),
    "density": (None, "no", 3, ["exp"]),
    "color": (None, "no", 3, ["exp"]),
    "kind": (None, "no", 3, ["adam"]),
    "betas": (None, "no", 0.9, (0.9,), (0.9, 1.0), (math.nan, 0.9), ("a", "b"), (0.9, None), [0.9, 0.9, 0.9]),
    "eps": (None, "no", -1.0, math.nan, math.inf, [1.0], True),
    "lr": (None, "no", -1.0, math.nan, math.inf, [1.0], True),
    "spec": (None, "no", 3, object()),
    "encoding": (None, "no", 3, object()),
    "shading": ("relu", 0, "", {}, object()),
    "trust": ("no", 3, (1.0,), ("a", [], []), (math.nan, [], []), (-1.0, [], []), (None, [], [])),
    "batch": (None, 0, -3, "no", 2.5, True),
    "draws.batch": (None, 0, -3, "no", 2.5, True, 4, 1 << 40),
    "rule": (None, "no", 3, ["even"]),
    "draws.rule": (None, "no", 3, ["even"]),
    "task": (None, -1, "no", 2.5, 1 << 24, True),
    "draws.task": (None, -1, "no", 2.5, 1 << 24, True),
    "draws.seed": (None, "no", 2.5, 1 << 64, True),
    "steps": (None, -1, "no", 2.5, 1 << 32, True, -torch.ones(2).long()),
    "state.steps": (-torch.ones(2).long(), torch.tensor([0, 1 << 32])),
    "sizes": (torch.tensor([0, 4]), torch.tensor([1 << 32, 4])),
    "modules": (torch.tensor([-1, 4]), torch.tensor([1 << 32, 4])),
    "draws.modules": (torch.tensor([-1, 4]), torch.tensor([1 << 32, 4])),
    "data.offsets": (torch.tensor([0, 8, 7]), torch.tensor([1, 3, 7]), torch.tensor([0, 3, 6])),
    "draws.guide.curve": (torch.tensor([2, 0, 1, 1, 3, 2, 2]), torch.tensor([3, 0, 1, 1, 3, 2, 0])),
    "draws.guide.mix": (None, "no", -0.1, 1.0, math.nan, [0.5], True),
    "draws.guide.smooth": (None, "no", 0.0, 1.5, math.nan, [0.5], True),
    "draws.guide.block": (None, 0, -3, "no", 2.5, True),
    "draws.guide.refresh": (None, 0, -3, "no", 2.5, True),
    "draws.guide.decay": (None, "no", -0.1, 1.0, math.nan, [0.5], True),
    "draws.guide.damping": (None, "no", 0.0, -1.0, math.nan, [0.5], True),
    "state.guide.batches": (-torch.ones(2).long(),),
    "rule.schedule": (None, "no", 3, object()),
    "rule.kind": (None, "no", 3, ["adam"], "sgd"),
    "rule.betas": (None, "no", 0.9, (0.9,), (0.9, 1.0), (math.nan, 0.9), ("a", "b"), (0.9, None)),
    "rule.eps": (None, "no", -1.0, math.nan, math.inf, [1.0], True),
    "rule.trust": ("no", 3, (1.0,), ("a", [], []), (math.nan, [], []), (-1.0, [], []), (None, [], [])),
    "watch.losses_at": (None, 3, "no", (0,), (2, 1), (1, 1), (1.5,), (True,)),
    "watch.params_at": (None, 3, "no", (0,), (2, 1), (1, 1), (1.5,)),
    "watch.stop_loss": ("no", -1.0, math.nan, [1.0], True),
    "watch.check_every": (None, 0, "no", 2.5, True),
    "frozen_layers": (None, -1, "no", 2.5, 2, True),
    "clip_value": (0.0, -1.0, "no", math.nan, math.inf, [1.0], True),
    "first_order": (None, "no", 1),
    "batches.ids": (torch.full((3, 2, 2), 3), -torch.ones(3, 2, 2).long()),
    "packed_info": (
        torch.tensor([[0, 3], [2, 1], [4, 5]]), torch.tensor([[0, 3], [3, 0], [4, 6]]), -torch.ones(3, 2).long(),
    ),
    "sample_ids": (torch.tensor([0, 0, 1, 2, 1, 3, 5]), -torch.ones(7).long()),
    "offsets": (torch.tensor([0, 8, 7]), torch.tensor([1, 3, 7]), torch.tensor([0, 3, 6])),
    "rays": (torch.tensor([0, 5, 3, 5, 9]), torch.tensor([0, 3, 3, 5, 8])),
    "ray_offsets": (torch.tensor([0, 9, 4]), torch.tensor([1, 2, 4])),
}  # fmt: skip

NOT_NAN = (
    "origins",
    "directions",
    "aabb",
    "occupancy",
    "near",
    "far",
    "lr",
    "step",
    "fisher",
    "state.guide.scores",
    "state.guide.window",
    "state.guide.fisher",
)
OPTIONAL = ("sample_weight", "ray_weight", "background", "packed_info", "occupancy", "sample_ids", "fisher", "active",
            "trust", "num_samples", "shading", "backend", "modules", "data.offsets", "data.weight", "draws.modules",
            "draws.guide.curve", "rule.trust", "watch.stop_loss", "batches.weights", "mask", "factor",
            "term")  # fmt: skip
LEGAL = {
    ("march_rays", "occupancy", "one axis more"),
    ("march_rays", "occupancy", "last axis cut"),
    ("march_rays", "occupancy", "first axis longer"),
    ("render_rays", "occupancy", "one axis more"),
    ("render_rays", "occupancy", "last axis cut"),
    ("render_rays", "occupancy", "first axis longer"),
    ("render_rays", "occupancy", "torch.bool"),
    ("bank_adapt", "lr", "one axis less"),
    ("traverse_grids", "cells", "last axis cut"),
}  # of another shape or dtype, but allowed


def wrong_values(name: str, value: Any) -> Iterator[Wrong]:
    for bad in VALUES.get(name, ()):
        yield repr(bad)[:40], bad
    if name in NOT_NAN and isinstance(value, Tensor) and value.is_floating_point():
        t = value.clone()
        t.view(-1)[random.randrange(t.numel())] = math.nan
        yield "NaN", t


def wrong(op: str, call: Call) -> Iterator[tuple[str, Path, str, Any]]:
    """Every (class, place, what, new value) that the call must be refused for."""
    for name, argument in call.items():
        for path, value in leaves(argument, (name,)):
            label = "".join([str(path[0]), *(f"[{k}]" for k in path[1:])])
            if isinstance(value, Tensor):
                kinds: dict[str, Callable[[Tensor], Iterator[Wrong]]] = {
                    "layout": wrong_layouts, "memory": wrong_memory, "dtype": wrong_dtypes, "shape": wrong_shapes,
                }  # fmt: skip
                for kind, make in kinds.items():
                    for what, new in make(value):
                        if (op, name, what) not in LEGAL:
                            yield kind, path, f"{label}, {what}", new
                yield "device", path, f"{label} on meta", value.to("meta")
            if isinstance(value, (Tensor, list)) or (isinstance(value, tuple) and name == "fisher"):
                for new in (*TYPES, *(() if name in OPTIONAL and len(path) == 1 else (None,))):
                    yield "type", path, f"{label} = {new!r}", new
            for what, new in wrong_values(name, value) if len(path) == 1 or isinstance(value, Tensor) else ():
                if len(path) == 1 or what == "NaN":
                    yield "value", path, f"{label} = {what}", new


@contextlib.contextmanager
def autocast(on: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16) if on else contextlib.nullcontext():
        yield


def refusal(op: str, call: Call, on: bool) -> BaseException | None:
    with autocast(on), torch.no_grad():
        try:
            run(op, call)
        except Exception as error:
            return error
    return None


def says(error: BaseException, names: list[str]) -> bool:
    """Whether the error is one of ours and names an argument."""
    ours = isinstance(error, (TypeError, ValueError, IndexError, BackendError)) and type(error).__module__ != "torch"
    return ours and any(re.search(rf"(?<![\w.]){re.escape(name)}\b", str(error)) for name in names)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", CALLS)
def test_the_calls_are_legal(op: str, backend: str, need: Callable[..., str]) -> None:
    need(op, backend)
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            run(op, {**CALLS[op](dtype), "backend": backend})


@pytest.mark.parametrize("op", CALLS)
def test_every_wrong_argument_is_named(op: str) -> None:
    random.seed(SEED)
    torch.manual_seed(SEED)
    calls = {"backend": "auto", **CALLS[op](DTYPE)}
    compiled = ops.why_not(op, "cpu", torch.device("cpu"), DTYPE) is None
    backends, silent = BACKENDS if compiled else ("auto", "reference"), []
    for kind, path, what, new in wrong(op, calls):
        fresh = CALLS[op](DTYPE)  # an op in place must not have changed it
        for backend in backends:
            call, on = replaced({"backend": backend, **fresh}, path, new), random.random() < 0.4
            error = refusal(op, call, on)
            # A tensor of another shape, dtype or device than the others may be the right one: any of them is named.
            names = list(calls) if kind in ("shape", "dtype", "device") else [str(path[0])]
            if error is None or not says(error, names):
                got = "no error" if error is None else f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
                silent.append(f"{kind}: {what} ({call['backend']}{', autocast' if on else ''}): {got}")
    assert not silent, f"MCLNF_FUZZ_SEED={SEED}: {len(silent)} calls of {op}\n" + "\n".join(silent)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("bank_mlp", "weights"),
        ("bank_mlp", "x"),
        ("composite", "color"),
        ("grid_encode", "tables"),
        ("grid_encode", "x"),
    ],
)
def test_memory_that_is_freed_before_the_backward(op: str, name: str, need: Callable[..., str]) -> None:
    """As sharding does that does not gather again: a backward that read it would end the process."""
    need(op, "cpu")
    call = CALLS[op](DTYPE)
    leaves = call[name] if isinstance(call[name], list) else [call[name]]
    for t in leaves:
        t.requires_grad_()
    result = run(op, {**call, "backend": "cpu"})
    loss = (result if isinstance(result, Tensor) else result[0]).square().sum()
    leaves[0].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=f"mclnf_fast: .*{name}.* must have memory, but its storage was freed"):
        torch.autograd.grad(loss, leaves)
