"""The public scan: it checks its arguments, and a backend computes."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_bool, check_number, check_tensor, values_can_be_read
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import in_transform, refuse_mapped
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, cuda_library, register
from mclnf_fast.ops.segment_scan import autograd, reference

_DTYPES = (torch.float32, torch.float64)

autograd.join()


def segment_scan(
    factor: Tensor | None,
    term: Tensor | None,
    packed_info: Tensor,
    *,
    initial: float = 0.0,
    exclusive: bool = False,
    reverse: bool = False,
    backend: str | None = "auto",
) -> Tensor:
    """Return the states of `h_k = factor_k h_(k-1) + term_k` along each segment of a flat tensor.

    Sums are scans of a term alone, products those of a factor alone with `initial=1`. Differentiable any number of
    times, also through factors of 0: nothing is divided. Deterministic on every backend; a float32 state is a double
    on the CPU.

    Args:
        factor: [N], float32 or float64; None: 1 throughout.
        term: [N], like factor; None: 0 throughout. One of the two must be given.
        packed_info: int64 [R, 2], (first sample, count) of each segment, in any order and without overlap; samples of
            no segment have result and gradient 0. Its values are checked on the CPU only.
        initial: the state before the first sample of each segment.
        exclusive: whether the result of a sample is the state before it, instead of the state behind it.
        reverse: whether the segments are scanned from their last sample to the first.
        backend: "auto", "cuda", "cpu" or "reference". Inside torch.func transforms and forward-mode differentiation
            the reference serves.

    Raises:
        TypeError: an argument is no tensor or has a wrong dtype.
        ValueError: a wrong shape, device or packed_info.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> values, rays = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 1], [1, 3]])
        >>> segment_scan(None, values, rays), segment_scan(values, None, rays, initial=1.0, exclusive=True)
        (tensor([1., 2., 5., 9.]), tensor([1., 1., 2., 6.]))
    """
    values, name = (term, "term") if factor is None else (factor, "factor")
    if values is None:
        raise ValueError("factor or term must be a tensor [N], got None for both")
    check_tensor(name, values, (None,), _DTYPES, what="[N]")
    size, device = values.shape[0], values.device
    if term is not None:
        check_tensor("term", term, (size,), values.dtype, device, "[N]")
    check_tensor("packed_info", packed_info, (None, 2), torch.int64, device, "[R, 2]")
    refuse_mapped("packed_info", packed_info)
    check_number("initial", initial)
    check_bool("exclusive", exclusive)
    check_bool("reverse", reverse)
    function = _OP.serving(backend, device, values.dtype)
    result: Tensor = function(factor, term, packed_info, float(initial), exclusive, reverse)
    return result


def _reference(
    factor: Tensor | None, term: Tensor | None, packed_info: Tensor, initial: float, exclusive: bool, reverse: bool
) -> Tensor:
    _check_segments(packed_info, _size(factor, term))
    return reference.segment_scan(factor, term, packed_info, initial, exclusive, reverse)


def _cpu(factor: Tensor | None, term: Tensor | None, packed_info: Tensor, *options: object) -> Tensor:
    try:  # the kernel checks packed_info on its way through it
        return _compiled(factor, term, packed_info, *options)
    except RuntimeError:
        _check_segments(packed_info, _size(factor, term))
        raise


def _compiled(*arguments: object) -> Tensor:
    result: Tensor = COMPILED.segment_scan_fwd(*arguments)
    return result


def _size(factor: Tensor | None, term: Tensor | None) -> int:
    values = term if factor is None else factor
    return 0 if values is None else values.shape[0]


def _check_segments(packed_info: Tensor, samples: int) -> None:
    if not values_can_be_read(packed_info) or in_transform():
        return
    first, count = packed_info.unbind(1)
    bad = (first < 0) | (count < 0) | (count > samples - first)
    order = torch.where(count > 0, first, samples).argsort()  # those without a sample at the end
    overlaps = (first + count)[order][:-1] > torch.where(count > 0, first, samples)[order][1:]
    bad[order[1:]] |= overlaps
    if bool(bad.any()):
        row = int(bad.to(torch.uint8).argmax())
        raise ValueError(
            f"packed_info must hold (first, count) within the {samples} samples and without overlap, got "
            f"packed_info[{row}] = {packed_info[row].tolist()}"
        )


_OP = register(
    "segment_scan",
    cuda=Backend(cuda_library, _compiled),
    cpu=Backend(by_dtype(cpu_library, _DTYPES), _cpu),
    reference=Backend(always, _reference),
)
