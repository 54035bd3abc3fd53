"""How float32 is multiplied by the Triton kernels follows torch's setting, whichever of its interfaces has made it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.ops.triton.precision import multiplying, precision

CUDA = torch.backends.cuda.matmul


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Begin and end with nothing set: by the legacy interface, which sets two states, then by the present one."""

    def reset() -> None:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        CUDA.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"

    reset()
    yield
    reset()


def legacy(value: bool) -> None:
    CUDA.allow_tf32 = value


def product(value: str) -> None:
    CUDA.fp32_precision = value


def device(value: str) -> None:
    torch.backends.cudnn.fp32_precision = value  # of all of CUDA's operations, whatever its name


def everything(value: str) -> None:
    torch.backends.fp32_precision = value


def state() -> tuple[str, ...]:
    try:
        by_name = torch.get_float32_matmul_precision()
    except RuntimeError:  # as torch does where its interfaces disagree
        by_name = "mixed"
    return CUDA.fp32_precision, torch.backends.cudnn.fp32_precision, torch.backends.fp32_precision, by_name


Step = tuple[Callable[..., None], object]
BY_NAME = torch.set_float32_matmul_precision
WAYS: dict[str, tuple[list[Step], str]] = {
    "nothing": ([], "ieee"),
    "legacy": ([(legacy, True)], "tf32"),
    "legacy, taken back": ([(legacy, True), (legacy, False)], "ieee"),
    "high": ([(BY_NAME, "high")], "tf32"),
    "medium": ([(BY_NAME, "medium")], "tf32"),
    "highest": ([(BY_NAME, "high"), (BY_NAME, "highest")], "ieee"),
    "product": ([(product, "tf32")], "tf32"),
    "product, taken back": ([(product, "tf32"), (product, "ieee")], "ieee"),
    "device": ([(device, "tf32")], "tf32"),
    "everything": ([(everything, "tf32")], "tf32"),
    "everything, in a type that CUDA has no products of": ([(everything, "bf16")], "ieee"),
    "the nearest wins: product": ([(everything, "tf32"), (device, "tf32"), (product, "ieee")], "ieee"),
    "the nearest wins: device": ([(everything, "tf32"), (device, "ieee")], "ieee"),
    "the nearest wins: tf32": ([(everything, "ieee"), (device, "ieee"), (product, "tf32")], "tf32"),
    "mixed: legacy, then product": ([(legacy, True), (product, "ieee")], "ieee"),
    "mixed: by name, then product": ([(BY_NAME, "highest"), (product, "tf32")], "tf32"),
    "mixed: product, then by name": ([(product, "ieee"), (BY_NAME, "high")], "tf32"),
    "mixed: legacy and everything": ([(legacy, False), (everything, "tf32")], "ieee"),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_setting_is_read_whichever_way_it_was_made(way: str) -> None:
    steps, expected = WAYS[way]
    for choose, value in steps:
        choose(value)
    assert precision(torch.float32) == expected
    assert precision(torch.float16) == precision(torch.bfloat16) == "tf32"


@pytest.mark.parametrize("choose", [product, device, everything])
def test_an_op_runs_where_only_the_present_interface_asks_for_tf32(triton_case, choose: Callable[[str], None]) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 16, 1), [5, 20])
    exact = case.run("triton")
    choose("tf32")
    torch.testing.assert_close(case.run("triton"), exact, rtol=0, atol=3e-2)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("tf32", [False, True])
def test_a_setting_for_a_while_is_given_back(way: str, tf32: bool) -> None:
    steps, expected = WAYS[way]
    for choose, value in steps:
        choose(value)
    before = state()
    with contextlib.suppress(ZeroDivisionError), multiplying(tf32):
        assert precision(torch.float32) == ("tf32" if tf32 else "ieee")
        _ = 1 // 0
    assert precision(torch.float32) == expected
    assert before == state()


def test_what_was_inherited_is_inherited_again() -> None:
    everything("tf32")
    with multiplying(False):
        assert precision(torch.float32) == "ieee"
    everything("ieee")
    assert precision(torch.float32) == "ieee"
    with multiplying(True):
        assert precision(torch.float32) == "tf32"
    everything("tf32")
    assert precision(torch.float32) == "tf32"
