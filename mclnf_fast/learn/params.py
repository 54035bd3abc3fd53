"""Define the parameters of a bank as `learn` takes them: a flat tuple of stacked tensors.

A *bank* is M modules of one architecture. Its `Params` are every weight and then every bias, each tensor
`[M, ...]`. A *shared initialization* is the same tuple with M = 1. Nothing here knows what the network
computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor

Params = tuple[Tensor, ...]
ParamPair = tuple[Sequence[Tensor], Sequence[Tensor]]
LossFn = Callable[[Params, int], Tensor]
HALVES = (torch.bfloat16, torch.float16)


def check_params(params: Sequence[Tensor], name: str = "params", mixed: bool = False) -> Params:
    """Return `params` as a tuple after checking it is a bank: floats that share dtype, device and M; `mixed`: float32
    ones beside those of one half type.

    Raises: TypeError, if it is not a sequence of floating-point tensors; ValueError, if it is empty or M
    differs.

    >>> len(check_params([torch.zeros(3, 2, 4), torch.zeros(3, 4)]))
    2
    """
    if isinstance(params, Tensor) or not isinstance(params, Sequence):
        raise TypeError(f"{name} must be a tuple of tensors [M, ...], got {type(params).__name__}")
    if len(params) == 0:
        raise ValueError(f"{name} must hold at least one tensor [M, ...], got an empty sequence")
    tensors = [p for p in params if isinstance(p, Tensor)]
    halves = [p.dtype for p in tensors if p.dtype in HALVES] if mixed else []
    allowed = [halves[0], torch.float32] if halves else [p.dtype for p in tensors[:1]]
    for i, p in enumerate(params):
        if not isinstance(p, Tensor) or not p.is_floating_point():
            got = f"a {p.dtype} tensor" if isinstance(p, Tensor) else type(p).__name__
            raise TypeError(f"{name}[{i}] must be a floating-point tensor [M, ...], got {got}")
        check_tensor(f"{name}[{i}]", p)
        if p.dim() == 0 or p.shape[0] != params[0].shape[0]:
            raise ValueError(
                f"{name}[{i}] must be [M, ...] with the M of {name}[0] {tuple(params[0].shape)}, got {tuple(p.shape)}"
            )
        if p.dtype not in allowed or p.device != params[0].device:
            want = " or ".join(map(str, allowed))
            raise ValueError(f"{name}[{i}] must be {want} on {params[0].device}, got {p.dtype} on {p.device}")
    return tuple(params)


def check_like(other: Sequence[Tensor], params: Params, name: str) -> Params:
    """Check that `other` has one tensor per parameter, of the same shape. Raises: TypeError, ValueError.

    >>> params = (torch.zeros(3, 2, 4), torch.zeros(3, 4))
    >>> len(check_like([torch.ones(3, 2, 4), torch.ones(3, 4)], params, "fisher"))
    2
    """
    if isinstance(other, Tensor) or not isinstance(other, Sequence):
        raise TypeError(f"{name} must be a tuple of tensors like the parameters, got {type(other).__name__}")
    if len(other) != len(params):
        raise ValueError(f"{name} must hold {len(params)} tensors like the parameters, got {len(other)}")
    for i, (t, p) in enumerate(zip(other, params, strict=True)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name}[{i}] must be a tensor {tuple(p.shape)}, got {type(t).__name__}")
        check_tensor(f"{name}[{i}]", t)
        if t.shape != p.shape:
            raise ValueError(f"{name}[{i}] must be {tuple(p.shape)} like its parameter, got {tuple(t.shape)}")
    return tuple(other)


def check_shared(init: Sequence[Tensor], name: str = "init") -> Params:
    """Check that `init` is a shared initialization (a bank with M = 1). Raises: TypeError, ValueError.

    >>> len(check_shared([torch.zeros(1, 2, 4)]))
    1
    """
    params = check_params(init, name)
    if params[0].shape[0] != 1:
        raise ValueError(f"{name} must be a shared initialization with M = 1, got M = {params[0].shape[0]}")
    return params


def check_modules(modules: int | Iterable[int] | Tensor, num_modules: int, name: str = "modules") -> list[int]:
    """Return the module ids as a list of distinct ints in [0, M).

    Raises: TypeError for a boolean mask; IndexError for an id out of range; ValueError for an id given twice.

    >>> check_modules(torch.tensor([2, 0]), 3)
    [2, 0]
    """
    if isinstance(modules, Tensor):
        # A mask read as ids would name the modules 0 and 1, whatever it marks.
        if modules.is_floating_point() or modules.dtype == torch.bool:
            raise TypeError(f"{name} must be module ids (int64), got a {modules.dtype} tensor")
        ids = [int(m) for m in modules.flatten().tolist()]
    else:
        ids = [modules] if isinstance(modules, int) else [int(m) for m in modules]
    for m in ids:
        if not 0 <= m < num_modules:
            raise IndexError(f"{name} must be ids in [0, {num_modules}), got {m}")
    # Values of two entries with one id (rates, scores) would overwrite each other in an order that torch leaves open.
    if len(set(ids)) != len(ids):
        raise ValueError(f"{name} must name each module once, got {ids}")
    return ids


def flatten_pair(pair: ParamPair) -> Params:
    """Return (weights, biases), the pair that ops take, as the flat tuple weights + biases that `learn` takes.

    >>> len(flatten_pair(([torch.zeros(3, 2, 4)], [torch.zeros(3, 4)])))
    2
    """
    weights, biases = pair
    return (*weights, *biases)


def split_pair(params: Sequence[Tensor]) -> tuple[Params, Params]:
    """Return the flat tuple weights + biases as (weights, biases), without tables of grids (`fields.split_params` knows
    those).

    Raises: ValueError, if the two halves cannot be of equal length, or the second holds what is no bias [M, out].

    >>> weights, biases = split_pair((torch.zeros(3, 2, 4), torch.zeros(3, 4)))
    >>> weights[0].shape, biases[0].shape
    (torch.Size([3, 2, 4]), torch.Size([3, 4]))
    """
    if len(params) % 2:
        raise ValueError(f"params must hold as many biases as weights, got {len(params)} tensors")
    half = len(params) // 2
    for i, (weight, bias) in enumerate(zip(params[:half], params[half:], strict=True)):
        # An even number of tables of grids passes the check above: the shapes show that they are no biases.
        if bias.shape != weight.shape[:1] + weight.shape[2:]:
            raise ValueError(
                f"params[{half + i}] must be the bias {(*weight.shape[:1], *weight.shape[2:])} of params[{i}], "
                f"got {tuple(bias.shape)}"
            )
    return tuple(params[:half]), tuple(params[half:])


def part_of(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the entries `name.<key>` of a state, as {key: tensor}.

    >>> part_of({"method.made": torch.tensor(3), "seconds": torch.tensor(1.0)}, "method")
    {'made': tensor(3)}
    """
    # With the dot: without it "method" would take the entries of "methods" too.
    return {key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")}


def per_module(vector: Tensor, like: Tensor) -> Tensor:
    """View a vector [M] as [M, 1, ..., 1] so that it broadcasts against `like` [M, ...].

    >>> per_module(torch.ones(3), torch.zeros(3, 2, 4)).shape
    torch.Size([3, 1, 1])
    """
    return vector.reshape(-1, *([1] * (like.dim() - 1)))


def repeated(params: Sequence[Tensor], modules: int) -> Params:
    """Return an initialization [1, ...] as a bank [M, ...], every module bit-equal; gradients add up into it.

    >>> repeated((torch.tensor([[1.0, 2.0]]),), 2)[0].tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    # repeat, not expand: a stride of 0 over modules would send kernels down their slow path.
    return tuple(p.repeat(modules, *([1] * (p.dim() - 1))) for p in params)


def interpolated(a: Sequence[Tensor], b: Sequence[Tensor], weights: Tensor) -> Params:
    """Return K modules on the straight way from others to others: a, b [K, ...] or [1, ...], weights [K] -> tensors [K,
    ...].

    Module k is a + weights[k] (b - a), and at the weights 0 and 1 the very bits of `a` and `b`. Raises: TypeError,
    ValueError.

    >>> interpolated((torch.tensor([[0.0]]),), (torch.tensor([[4.0]]),), torch.tensor([0.0, 0.25, 1.0]))[0].tolist()
    [[0.0], [1.0], [4.0]]
    """
    tensors = []
    for p, q in zip(check_params(a, "a"), check_like(b, check_params(a, "a"), "b"), strict=True):
        if p.shape[0] not in (1, len(weights)):
            raise ValueError(f"a and b must have 1 module or {len(weights)}, one a weight, got {p.shape[0]}")
        w = per_module(weights.to(p), p)
        tensors.append(torch.where(w == 0, p, torch.where(w == 1, q, torch.lerp(p, q, w))))
    return tuple(tensors)
