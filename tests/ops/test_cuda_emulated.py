"""The CUDA kernels without a GPU: compiled with g++, each block's threads run on the CPU (cuda_emulation). Here the
emulation itself and marching; compositing is in test_composite_emulated.py."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import emulated_cuda
import pytest
import torch
from torch import Tensor

from mclnf_fast.ops.march import march_rays

ORDERS = ("forward", "reverse", "random:1", "random:2")


def order(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", name)


@pytest.mark.parametrize("name", ORDERS)
def test_barriers_and_shuffles(emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    order(monkeypatch, name)
    for count in (1, 95, 96, 97, 5000):
        x = torch.randint(0, 1000, (count,)).float()  # whose sums are exact
        wanted = [part.sum() for part in x.split(96)]
        assert emulated.sum_blocks(x, 0).tolist() == wanted


def test_threads_come_in_the_order_asked_for(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(name: str) -> list[int]:
        order(monkeypatch, name)
        return emulated.order_of_threads(torch.zeros(1), 3, 40).tolist()

    assert found("forward") == list(range(120))
    assert found("reverse") == list(range(119, -1, -1))
    assert found("random:1") == found("random:1") != found("random:2")
    assert sorted(found("random:1")) == list(range(120))
    with pytest.raises(RuntimeError, match="forward, reverse or random:SEED, got backwards"):
        found("backwards")


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (2, "thread 0 waits at __syncthreads, but thread 48 has ended"),
        (3, "waits at __shfl_down_sync for the lanes 4294967295, but thread 5 waits at __syncthreads"),
        (4, "thread 0 waits at __syncthreads, but thread 32 waits at __shfl_down_sync"),
        (8, r"thread (3|35|67) calls __shfl_sync for the lanes 65520, of which it is none"),
    ],
)
def test_threads_that_miss_each_other_are_an_error(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str, fault: int, text: str
) -> None:
    order(monkeypatch, name)
    with pytest.raises(RuntimeError, match=text):
        emulated.sum_blocks(torch.rand(96), fault)
    assert torch.isfinite(emulated.sum_blocks(torch.rand(96), 0)).all()  # and the next launch is whole


def test_a_missing_barrier_shows_in_some_order(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, right = torch.rand(960), []
    for name in ORDERS:
        order(monkeypatch, name)
        right.append(torch.equal(emulated.sum_blocks(x, 1), emulated.sum_blocks(x, 0)))
    assert not all(right)


@pytest.mark.parametrize("name", ORDERS)
def test_blocks_that_run_together_meet(emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Numbers go round from block to block; without either of the two waits they do not in any order."""
    order(monkeypatch, name)
    for blocks, rounds in ((1, 1), (3, 2), (8, 5)):
        expected = torch.arange(64.0 * blocks).view(blocks, 64).roll(rounds, 0).flatten()
        for fault in (0, 1, 2):
            result = emulated.ring_of_blocks(torch.zeros(1), blocks, rounds, fault, True)
            assert torch.equal(result, expected) == (fault == 0 or blocks == 1)


@pytest.mark.parametrize("name", ORDERS)
def test_blocks_that_wait_in_vain_are_an_error(emulated: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """For one that has left, for one that is not launched together with them, and for more than the device holds."""
    order(monkeypatch, name)
    for fault, together in ((3, True), (0, False)):
        with pytest.raises(RuntimeError, match="thread 0 waits at wait_for, but nothing else can run"):
            emulated.ring_of_blocks(torch.zeros(1), 3, 2, fault, together)
    with pytest.raises(RuntimeError, match="too many blocks in cooperative launch"):
        emulated.ring_of_blocks(torch.zeros(1), 13, 1, 0, True)
    assert torch.isfinite(emulated.ring_of_blocks(torch.zeros(1), 3, 1, 0, True)).all()  # and the next launch is whole


@pytest.mark.skipif(os.environ.get("MCLNF_EMULATION_SANITIZE") == "1", reason="the sanitizer has no such memory")
def test_memory_that_was_not_written_is_nan(emulated: Any) -> None:
    assert emulated.sum_blocks(torch.rand(960), 6).isnan().all()  # shared memory
    assert emulated.sum_blocks(torch.rand(960), 7).isnan().all()  # a lane outside of the mask


def test_a_launch_of_nothing_is_refused(emulated: Any) -> None:
    for blocks, threads in ((0, 32), (1, 0), (1, 1025)):
        with pytest.raises(RuntimeError, match="invalid configuration"):
            emulated.order_of_threads(torch.zeros(1), blocks, threads)


def random_rays(rays: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Some along an axis, some of no direction."""
    origins, directions = torch.randn(rays, 3, dtype=dtype) * 1.5, torch.randn(rays, 3, dtype=dtype)
    directions[: rays // 5, 0] = 0
    directions[: rays // 7, 1] = 0
    directions[: rays // 10] = 0
    return origins, directions


def check_march(
    emulated: Any, rays: int, dtype: torch.dtype, occupancy: Tensor | None, options: dict[str, Any]
) -> list[Tensor]:
    """The very samples of the reference, with near and far as numbers and as tensors; those of the latter."""
    aabb = torch.tensor([[-1.0, -1.2, -0.7], [1.0, 0.9, 1.0]], dtype=dtype)
    origins, directions = random_rays(rays, dtype)
    near, far = torch.rand(rays, dtype=dtype), 1 + torch.rand(rays, dtype=dtype)
    grid = occupancy if occupancy is None or occupancy.dim() == 4 else occupancy[None]
    found: list[Tensor] = []
    for limits in ((None, None, 0.3, 1.7), (near, far, 0.0, 0.0)):
        wanted = march_rays(
            origins, directions, occupancy, aabb, **options, backend="reference",
            near=0.3 if limits[0] is None else near, far=1.7 if limits[1] is None else far,
        )  # fmt: skip
        found = emulated.march_rays_fwd(
            origins, directions, grid, aabb, *limits, options.get("bins", 0), options.get("step", 0.0),
            options.get("stratified", False), options.get("seed", 0), options.get("early_stop_eps", 0.0),
        )  # fmt: skip
        for field, a, b in zip(wanted._fields, found, wanted, strict=True):
            assert torch.equal(a, b), (field, rays)
    return found


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", ["none", "bool", "levels", "density"])
@pytest.mark.parametrize("options", [{"bins": 1}, {"bins": 32}, {"bins": 65}, {"step": 0.03}], ids=str)
@pytest.mark.parametrize("stratified", [False, True])
def test_march_keeps_the_very_samples_of_the_reference(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, grid: str, options: dict, stratified: bool
) -> None:
    occupancy = {
        "none": None,
        "bool": torch.rand(7, 9, 11) < 0.4,
        "levels": torch.rand(3, 7, 8, 5) < 0.4,
        "density": torch.rand(2, 4, 5, 6).sub(0.3) * 10,
    }[grid]
    options = options | {"stratified": stratified, "seed": -3, "early_stop_eps": 0.01 if grid == "density" else 0.0}
    for rays, name in ((0, "forward"), (1, "reverse"), (17, "random:1"), (129, "forward"), (500, "random:2")):
        order(monkeypatch, name)
        check_march(emulated, rays, dtype, occupancy, options)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", ORDERS[:2])
@pytest.mark.parametrize("options", [{"bins": 1500}, {"step": 7e-4}], ids=str)
def test_march_beyond_the_bins_whose_bits_are_kept(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, options: dict, name: str
) -> None:
    """More than 1024 bins a ray; light ends before them on some rays and behind them on others."""
    order(monkeypatch, name)
    occupancy = torch.rand(1, 5, 6, 7).sub(0.5) * 3

    def march(grid: Tensor | None, eps: float) -> list[Tensor]:
        torch.manual_seed(1)  # the same rays
        return check_march(emulated, 200, torch.float32, grid, options | {"early_stop_eps": eps})

    (bins, _, _, every), (_, _, _, occupied), (starts, _, _, lit) = (
        march(None, 0),
        march(occupancy, 0),
        march(occupancy, 0.8),
    )
    before = behind = 0
    for (first, count), (_, all_occupied), (at, kept) in zip(every.tolist(), occupied.tolist(), lit.tolist()):
        if 0 < kept < all_occupied and count > 1024:
            last = starts[at + kept - 1]
            before += int(last < bins[first + 1024])
            behind += int(last >= bins[first + 1024])
    assert before > 0
    assert behind > 0


def test_march_refuses_too_many_bins(emulated: Any) -> None:
    origins, directions = torch.tensor([[-3.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    with pytest.raises(RuntimeError, match="step must give at most"):
        emulated.march_rays_fwd(origins, directions, None, box, None, None, 0.0, 9.0, 0, 1e-8, False, 0, 0.0)


def sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the address sanitizer's runtime and the kernels compiled with it."""
    names = [
        subprocess.run(["g++", f"-print-file-name={n}"], capture_output=True, text=True, check=True).stdout.strip()
        for n in ("libasan.so", "libstdc++.so")
    ]
    if not all(os.path.isabs(name) for name in names):
        pytest.skip("g++ has no address sanitizer here")
    environment = {
        **os.environ,
        "MCLNF_EMULATION_SANITIZE": "1",
        "LD_PRELOAD": " ".join(names),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "PYTHONPATH": os.pathsep.join([str(emulated_cuda.ROOT), str(pathlib.Path(__file__).parent)]),
    }
    return subprocess.run(
        [sys.executable, *arguments], cwd=emulated_cuda.ROOT, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("emulated")
@pytest.mark.skipif(os.environ.get("MCLNF_SANITIZE_TESTS", "0") != "1", reason="MCLNF_SANITIZE_TESTS is not 1")
@pytest.mark.skipif(os.environ.get("MCLNF_EMULATION_SANITIZE") == "1", reason="it is this test that runs the others")
def test_nothing_reaches_outside_of_memory() -> None:
    """The tests of the emulated kernels once more with the address sanitizer, which first must see what is wrong."""
    for fault, text in ((5, "heap-buffer-overflow"), (9, "global-buffer-overflow")):
        call = f"import emulated_cuda, torch; emulated_cuda.load().sum_blocks(torch.rand(1000), {fault})"
        done = sanitized("-c", call)
        assert done.returncode != 0
        assert text in done.stderr, done.stderr[-2000:]
        assert "faults.cu" in done.stderr
    files = sorted(str(path) for path in pathlib.Path(__file__).parent.glob("test_*_emulated.py"))
    files.remove(str(pathlib.Path(__file__).with_name("test_bank_emulated.py")))  # the CPU's instructions
    done = sanitized("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *files)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert " passed" in done.stdout
