"""The grid ops as torch sees them: schemas, shapes, tracing, transforms, misuse."""

from __future__ import annotations

import itertools

import places
import pytest
import torch
from grid_cases import Case, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError

OPS = torch.ops.mclnf_fast
NAMES = ("grid_encode_fwd", "grid_encode_bwd", "grid_encode_bwd_bwd")
compiled = places.backends("grid_encode", reference=False)
ops = pytest.mark.parametrize("op", NAMES)
grids = pytest.mark.parametrize("name", ["smooth_2d", "plane_sum"])


def arguments(op: str, case: Case) -> list[object]:
    """What the op takes, in order."""
    given = [case.x, case.offsets, case.tables]
    net = list(case.grid.layout(case.x.shape[1]).packed)
    grad_y = torch.randn(case.x.shape[0], case.grid.out_dim(case.x.shape[1]), dtype=case.x.dtype)
    return {
        "grid_encode_fwd": [*given, *net],
        "grid_encode_bwd": [*given, grad_y, *net, True, True],
        "grid_encode_bwd_bwd": [
            *given, grad_y, torch.rand_like(case.x), torch.rand_like(case.tables), *net, True, True, True
        ],
    }[op]  # fmt: skip


@compiled
@ops
@grids
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(need, backend: str, op: str, name: str, dtype: torch.dtype, requires: bool) -> None:
    need("grid_encode", backend)
    case = make(name, [4, 0, 5], dtype)
    if requires and op != "grid_encode_bwd_bwd":
        case.require()
    torch.library.opcheck(getattr(OPS, op), tuple(arguments(op, case)))


@compiled
@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_opcheck_of_a_partial_backward(need, backend: str, needs: tuple[bool, bool]) -> None:
    need("grid_encode", backend)
    given = arguments("grid_encode_bwd", make("smooth_2d", [4, 0, 5]))
    torch.library.opcheck(OPS.grid_encode_bwd, (*given[:-2], *needs))


@compiled
@pytest.mark.parametrize("needs", list(itertools.product((True, False), repeat=3)))
@pytest.mark.parametrize("directions", [(True, True), (True, False), (False, True)])
def test_opcheck_of_a_partial_double_backward(
    need, backend: str, directions: tuple[bool, bool], needs: tuple[bool, bool, bool]
) -> None:
    need("grid_encode", backend)
    given = arguments("grid_encode_bwd_bwd", make("smooth_2d", [4, 0, 5]))
    along = [v if there else None for v, there in zip(given[4:6], directions)]
    if needs[1] and not directions[0]:
        with pytest.raises(RuntimeError, match="the gradient of tables needs tangent_x"):
            OPS.grid_encode_bwd_bwd(*given[:4], *along, *given[6:8], *needs)
        return
    torch.library.opcheck(OPS.grid_encode_bwd_bwd, (*given[:4], *along, *given[6:8], *needs))


def test_the_list_of_ops_is_complete() -> None:
    """A new op of this family needs a row above."""
    found = [s.name.partition("::") for s in torch._C._jit_get_all_schemas()]
    mine = {n for space, _, n in found if space == "mclnf_fast" and n.startswith("grid_")}
    assert mine in (set(), set(NAMES))  # none where the library is not built


@places.backends("grid_encode")
@grids
def test_compiles_whole(need, name: str, backend: str) -> None:
    need("grid_encode", backend)
    case = make(name, [6, 0, 4]).require()

    def loss(x: Tensor, tables: Tensor) -> Tensor:
        return mf.ops.grid_encode(x, case.offsets, tables, case.grid, backend=backend).square().sum()

    wanted = torch.autograd.grad(loss(*case.leaves), case.leaves)
    with places.unaided():
        value = torch.compile(loss, fullgraph=backend != "reference", backend="aot_eager")(*case.leaves)
        for found, want in zip(torch.autograd.grad(value, case.leaves), wanted):
            torch.testing.assert_close(found, want)


@compiled
def test_torch_func_takes_the_reference(need, backend: str) -> None:
    case = make("smooth_3d", [4, 0, 5], torch.float64)

    def loss(x: Tensor, backend: str = "auto") -> Tensor:
        return mf.ops.grid_encode(x, case.offsets, case.tables, case.grid, backend=backend).square().sum()

    found = torch.func.grad(loss)(case.x)
    want = torch.autograd.grad(loss(case.x.requires_grad_(), "reference"), case.x)[0]
    torch.testing.assert_close(found, want)
    many = torch.rand(3, 9, 3, dtype=torch.float64)
    each = torch.stack([loss(x, "reference") for x in many])
    torch.testing.assert_close(torch.func.vmap(loss)(many), each)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(many)[2], torch.func.grad(loss)(many[2]))
    with pytest.raises(BackendError, match=rf"backend '{backend}' can't serve .*torch.func.*Remedy"):
        torch.func.grad(lambda x: loss(x, backend))(case.x.detach())


@compiled
@ops
@grids
def test_raw_ops_refuse_arguments_that_do_not_fit(need, backend: str, op: str, name: str) -> None:
    """Whatever one argument is, a raw op raises: it never reads or writes where it should not."""
    need("grid_encode", backend)
    given = arguments(op, make(name, [4, 0, 5]))

    def refused(value: object) -> list[object]:
        if isinstance(value, Tensor):
            bad: list[object] = [value[:-1], value[None], value.to(torch.float16)]
            if value.dtype != torch.int64 or value.is_cuda:  # whose values are looked at on the CPU alone
                return bad
            return [*bad, value.flip(0), value - 1, value * 1000]
        if isinstance(value, list) and isinstance(value[0], int):
            changed = [[*value[:k], v, *value[k + 1 :]] for k in range(len(value)) for v in (-1, 2**40, 2**31 - 1)]
            return [*changed, value[:-1], [*value, 1], []]
        if isinstance(value, list):
            return [[], [*value, 1.0], value[::-1], [float("nan"), 1.0], [0.0, float("inf")]]
        return []

    tried = 0
    for k, value in enumerate(given):
        for bad in refused(value):
            with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
                getattr(OPS, op)(*given[:k], bad, *given[k + 1 :])
            tried += 1
    assert tried > 55


@compiled
def test_a_level_that_does_not_fit_its_table_is_refused(need, backend: str) -> None:
    need("grid_encode", backend)
    x, offsets, tables, ints, floats = arguments("grid_encode_fwd", make("smooth_2d", [4, 0, 5]))
    first = slice(7, 12)  # cells, entries, hashed, axes
    assert ints[first] == [3, 16, 0, 0, 1]
    for level, text in (
        ([4, 16, 0, 0, 1], "a dense level has more nodes than entries"),
        ([3, 15, 1, 0, 1], "a power of two entries"),
        ([3, 16, 0, 0, 2], "reads a coordinate that is not there"),
        ([3, 8, 1, 0, 1], r"tables must be \[M, "),
    ):
        with pytest.raises(RuntimeError, match=text):
            OPS.grid_encode_fwd(x, offsets, tables, [*ints[:7], *level, *ints[12:]], floats)
