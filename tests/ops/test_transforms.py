"""torch.func and forward-mode differentiation of every op: right, or refused by name.

The truth is reverse mode through the compiled CPU kernels, which `gradcheck` of the other tests proves.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from legal_calls import CALLS, Call, run
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian as reverse_hessian
from torch.autograd.functional import jacobian as reverse_jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mclnf_fast.errors import BackendError

DIFFERENTIABLE: dict[str, tuple[str, ...]] = {
    "bank_mlp": ("x", "weights", "biases"),
    "bank_mse": ("x", "weights", "biases", "target", "sample_weight"),
    "bank_ray_mse": ("x", "weights", "biases", "deltas", "target", "ray_weight", "background"),
    "composite": ("density", "color", "t_starts", "t_ends", "background"),
    "grid_encode": ("x", "tables"),
    "segment_scan": ("factor", "term"),
}
CASES = [(op, name) for op, names in DIFFERENTIABLE.items() for name in names]
CONSTANT = {
    "march_rays": ("origins", "directions", "aabb", "near", "far"),
    "traverse_grids": ("origins", "directions", "aabbs", "enters", "exits", "near", "far"),
    "render_rays": ("origins", "directions", "aabb", "weights", "biases", "view_directions", "background"),
    "fisher_scores": ("x", "weights", "biases", "grad_y"),
    "bank_step": ("params", "grads", "exp_avg", "exp_avg_sq"),
    "bank_adapt": ("weights", "biases", "lr", "data.x", "data.target", "data.weight", "batches.weights"),
}
each_case = pytest.mark.parametrize(("op", "name"), CASES, ids=[f"{op}-{name}" for op, name in CASES])
each_constant = pytest.mark.parametrize(("op", "name"), [(op, n) for op, names in CONSTANT.items() for n in names])


def legal(op: str, name: str) -> tuple[Call, Tensor]:
    """A call, and the argument that is worked on (of a list, its last tensor)."""
    call = CALLS[op](torch.float64)
    return call, call[name][-1] if isinstance(call[name], list) else call[name]


def function(op: str, name: str, call: Call, backend: str = "auto") -> Callable[[Tensor], Tensor]:
    """The op as a function of one argument: all that it returns, as one vector."""

    def f(value: Tensor) -> Tensor:
        given = [*call[name][:-1], value] if isinstance(call[name], list) else value
        result: Any = run(op, {**call, name: given, "backend": backend})
        return result.flatten() if isinstance(result, Tensor) else torch.cat([t.flatten() for t in result])

    return f


def scalar(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda value: f(value).sin().sum()


@contextlib.contextmanager
def dual(value: Tensor, tangent: Tensor) -> Iterator[Tensor]:
    with forward_ad.dual_level():
        yield forward_ad.make_dual(value, tangent)


@each_case
def test_first_derivatives(op: str, name: str, need: Callable[..., str]) -> None:
    need(op, "cpu", torch.float64)
    call, value = legal(op, name)
    f, direction = function(op, name, call), torch.randn_like(value)
    truth = reverse_jacobian(function(op, name, call, "cpu"), value)
    assert float(truth.abs().max()) > 0
    along = (truth * direction).flatten(1).sum(1)
    result, tangent = jvp(f, (value,), (direction,))
    torch.testing.assert_close(result, f(value))
    torch.testing.assert_close(tangent, along)
    with dual(value, direction) as twin:
        torch.testing.assert_close(forward_ad.unpack_dual(f(twin)).tangent, along)
    cotangent = torch.randn_like(result)
    torch.testing.assert_close(vjp(f, value)[1](cotangent)[0], torch.einsum("o,o...->...", cotangent, truth))
    torch.testing.assert_close(jacrev(f)(value), truth)
    torch.testing.assert_close(jacfwd(f)(value), truth)


@each_case
def test_gradients_mapped_and_second_derivatives(op: str, name: str, need: Callable[..., str]) -> None:
    need(op, "cpu", torch.float64)
    call, value = legal(op, name)
    value = value[:1] if op == "grid_encode" and name == "x" else value  # a Hessian is large
    call = {**call, "offsets": torch.tensor([0, 0, 1])} if op == "grid_encode" and name == "x" else call
    f, compiled = scalar(function(op, name, call)), scalar(function(op, name, call, "cpu"))
    torch.testing.assert_close(grad(f)(value), reverse_jacobian(compiled, value))
    many = torch.stack([value, value * 1.01, value * 0.98])
    torch.testing.assert_close(vmap(f)(many), torch.stack([compiled(v) for v in many]))
    torch.testing.assert_close(vmap(grad(f))(many), torch.stack([reverse_jacobian(compiled, v) for v in many]))
    if value.numel() <= 60:
        torch.testing.assert_close(hessian(f)(value), reverse_hessian(compiled, value))


@each_case
def test_a_compiled_backend_by_name_is_refused(op: str, name: str, need: Callable[..., str]) -> None:
    need(op, "cpu", torch.float64)
    call, value = legal(op, name)
    f, direction = function(op, name, call, "cpu"), torch.ones_like(value)
    text = rf"(bank_mlp|{op}): backend 'cpu' can't serve .*torch.func.*Remedy: use backend='auto'"
    with pytest.raises(BackendError, match=text):
        jvp(f, (value,), (direction,))
    with pytest.raises(BackendError, match=text):
        vmap(f)(value[None])
    with pytest.raises(BackendError, match=text):
        grad(scalar(f))(value)
    with dual(value, direction) as twin, pytest.raises(BackendError, match=text):
        f(twin)


@each_constant
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_an_op_without_a_derivative_refuses_it_by_name(op: str, name: str, backend: str) -> None:
    """Else its constant result would pass for a derivative of 0."""
    call, value = legal(op, name)

    def f(given: Tensor) -> Tensor:
        changed = [*call[name][:-1], given] if isinstance(call[name], list) else given
        run(op, {**call, name: changed, "backend": backend})
        return given.sum()

    text = f"{op}: must be called outside" if op == "fisher_scores" else f"{op}: {name} must be a constant inside"
    for transformed in (lambda: jvp(f, (value,), (value,)), lambda: grad(f)(value), lambda: vmap(f)(value[None])):
        with pytest.raises(RuntimeError, match=text):
            transformed()
    with dual(value, value) as twin, pytest.raises(RuntimeError, match=text):
        f(twin)


@pytest.mark.parametrize("op", ["march_rays", "traverse_grids", "render_rays", "bank_step"])
def test_an_op_without_a_derivative_serves_as_a_constant_of_a_transform(op: str) -> None:
    call = CALLS[op](torch.float64)

    def f(factor: Tensor) -> Tensor:
        with torch.no_grad():
            result = run(op, call)
        return factor * (1.0 if result is None else result[0].sum())

    one = torch.tensor(1.0, dtype=torch.float64)
    want = 1.0 if op == "bank_step" else float(run(op, call)[0].sum())
    assert float(grad(f)(one)) == pytest.approx(want)
    assert float(jvp(f, (one,), (one,))[1]) == pytest.approx(want)


def test_what_an_op_must_know_is_not_mapped_over() -> None:
    for op, name in (("bank_mlp", "offsets"), ("bank_ray_mse", "rays"), ("composite", "packed_info"),
                     ("grid_encode", "offsets"), ("segment_scan", "packed_info")):  # fmt: skip
        call = CALLS[op](torch.float32)

        def f(given: Tensor, op: str = op, name: str = name, call: Call = call) -> Tensor:
            result = run(op, {**call, name: given})
            return result if isinstance(result, Tensor) else result[0]

        with pytest.raises(ValueError, match=f"{name} must be the same for every mapped call"):
            vmap(f)(call[name][None])


@pytest.mark.parametrize("op", ["bank_mlp", "composite"])
def test_a_compiled_transform_is_right(op: str, need: Callable[..., str]) -> None:
    """A trace of torch.compile must not take the compiled op, which would drop the tangent."""
    need(op, "cpu")
    call, value = legal(op, DIFFERENTIABLE[op][0])
    f, direction = scalar(function(op, DIFFERENTIABLE[op][0], call)), torch.randn_like(value)

    def along(value: Tensor) -> Tensor:
        return jvp(f, (value,), (direction,))[1]

    want = (reverse_jacobian(f, value) * direction).sum()
    torch.testing.assert_close(torch.compile(along, backend="aot_eager")(value), want)
    torch.testing.assert_close(torch.compile(grad(f), backend="aot_eager")(value), reverse_jacobian(f, value))
