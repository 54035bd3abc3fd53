"""What a training step starts on a GPU and waits for, counted without one: no method may come to more."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Launches and waits per step, by `python -m benchmarks.launches`; they may only fall. The bars are 8 and 0 for images,
# 20 and 0 for the city. A step of meta-training is an outer one, for which there is no bar; docs/gpu.md says more.
MOST: dict[str, tuple[float, float]] = {
    "images: offline": (0.69, 0),
    "images: finetune": (0.57, 0),
    "images: er": (0.57, 0),
    "images: ewc": (0.57, 0),
    "images: mod_random": (0.57, 0),
    "images: maml_cl": (0.63, 0),
    "images: maml_offline": (0.57, 0),
    "images: oml": (1.07, 0),
    "images: mod": (0.57, 0),
    "images: mod_even": (0.63, 0),
    "images: mim": (0.69, 0),
    "images: mim_weight": (4, 0),
    "city: offline": (5.32, 0),
    "city: finetune": (3.13, 0),
    "city: er": (3.13, 0),
    "city: ewc": (3.13, 0),
    "city: mod_random": (3.13, 0),
    "city: maml_cl": (3.13, 0),
    "city: maml_offline": (5.32, 0),
    "city: oml": (3.88, 0),
    "city: mod": (3.13, 0),
    "city: mod_even": (3.19, 0),
    "city: mim": (13.69, 0),
    "city: mim_weight": (4, 0),
    "meta: maml": (50, 0),
    "meta: maml first order": (50, 0),
    "meta: reptile": (38, 0),
    "meta: reptile, adam": (38, 0),
    "meta: oml": (42, 0),
    "meta: mim, weights": (824, 2),
    "meta: gradncp": (573, 4),
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, whose launches are counted")
def test_launches_and_waits_only_fall(tmp_path: pathlib.Path) -> None:
    # In a process of its own: what the package saves for a simulated GPU would stay.
    command = [sys.executable, "-m", "benchmarks.launches", "--json", str(tmp_path / "rows.json")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert set(rows) == set(MOST)
    more = {name: row for name, row in rows.items() if row[0] > MOST[name][0] or row[1] > MOST[name][1]}
    assert not more, f"more launches or waits per step than {[MOST[name] for name in more]}"


def test_what_is_counted() -> None:
    """Each kind of operator, on tensors small enough to count by hand."""
    code = """
import torch
from benchmarks.launches.device import SimulatedGpu
from mclnf_fast import ops

with SimulatedGpu() as gpu:
    def counted(function, *arguments):
        gpu.launches.clear(), gpu.waits.clear()
        result = function(*arguments)
        print(sum(gpu.launches.values()), sum(gpu.waits.values()))
        return result

    x = counted(lambda: torch.rand(4, 3).to("cuda"))  # copied from pageable memory: 1 1
    assert x.device.type == "cuda" and x.is_cuda
    counted(lambda: (x + 1).sum())  # two kernels: 2 0
    counted(lambda: x.view(3, 4).t()[1:])  # views: 0 0
    counted(lambda: torch.empty(5, device="cuda"))  # memory: 0 0
    counted(lambda: torch.zeros(5, device="cuda"))  # 1 0
    counted(lambda: x.sum().item())  # kernel, copy: 2 1
    counted(lambda: x[x[:, 0] > -1])  # comparison, mask, gather: 4 1
    counted(lambda: x[torch.tensor([0])])  # indices from the host: 2 1
    counted(lambda: ops.uploaded(torch.tensor([0]), "cuda"))  # from pinned memory: 1 0
    counted(lambda: torch.tensor([1.0], device="cuda"))  # 1 1
    counted(lambda: x.tolist())  # 0 1
    counted(lambda: torch.repeat_interleave(torch.arange(2, device="cuda"), x[:2, 0].ceil().long()))  # 6 1
    p = x.clone().requires_grad_()
    loss = (p * p).sum()
    counted(lambda: torch.autograd.grad(loss, p))  # ones, two products, a sum: 4 0
    offsets = ops.offsets_of_equal_shares(2, 2, x.device)
    assert offsets is ops.offsets_of_equal_shares(2, 2, x.device)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    counts = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    expected = [(1, 1), (2, 0), (0, 0), (0, 0), (1, 0), (2, 1), (4, 1), (2, 1), (1, 0), (1, 1), (0, 1), (6, 1), (4, 0)]
    assert counts == expected


def test_a_step_is_replayed_only_if_it_is_the_same_every_time() -> None:
    """A graph is a launch and a copy of each input; a number of the host, a fresh tensor and a wait are found."""
    code = """
import logging
import torch
from benchmarks.launches.device import SimulatedGpu
from mclnf_fast.learn.graphs import GraphedStep

logging.disable()
with SimulatedGpu() as gpu:
    total, calls, cuda = torch.zeros(3, device="cuda"), [0], torch.device("cuda", 0)
    held = [torch.zeros(3, device="cuda")]

    def plain(x):
        return (total.add_(2 * x).sum(),)

    def counting(x):
        calls[0] += 1
        return (x * calls[0],)

    def renewing(x):
        held[0] = held[0] + x
        return (held[0],)

    def waiting(x):
        return (x * x.sum().item(),)

    def copying(x):
        return (x + torch.ones(3).pin_memory().to("cuda", non_blocking=True),)

    for step in (plain, counting, renewing, waiting, copying):
        graphed, x, started, found = GraphedStep(step, step.__name__, cuda), torch.rand(3), [], None
        for _ in range(5):
            gpu.launches.clear(), gpu.waits.clear()
            try:
                graphed(x)
            except AssertionError as error:
                found = str(error).partition(":")[0]
                break
            started.append(sum(gpu.launches.values()))
        print(step.__name__, *started, sum(gpu.waits.values()), found or graphed.reason, sep=";")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    refused = "operation not permitted when stream is capturing"
    assert done.stdout.splitlines() == [
        "plain;4;4;3;2;2;0;None",  # copy and three kernels, twice; copy, clone and graph; copy and graph
        "counting;2;2;0;a replay would not be the step",
        "renewing;2;2;0;a replay would not be the step",
        f"waiting;4;4;5;4;4;1;{refused}: _local_scalar_dense waits for the device",
        f"copying;3;3;4;3;3;0;{refused}: _to_copy (copy) from or to the host",
    ]


def test_what_follows_from_shared_offsets_is_computed_once() -> None:
    from mclnf_fast.ops._constants import following, shared_offsets

    offsets, made = shared_offsets(3, 4, torch.device("cpu")), []

    def counts() -> torch.Tensor:
        made.append(1)
        return offsets.diff()

    assert following(offsets, "counts", counts) is following(offsets, "counts", counts)
    assert following(offsets, "counts", counts).tolist() == [4, 4, 4]
    assert len(made) == 1
    # What somebody changes is forgotten.
    shared_offsets.cache_clear()
    changed = shared_offsets(3, 4, torch.device("cpu"))
    following(changed, "counts", changed.diff)
    changed[3] += 1
    assert following(changed, "counts", changed.diff).tolist() == [4, 4, 5]
    shared_offsets.cache_clear()
    # Offsets of a caller may change between two calls.
    own = offsets.clone()
    first = following(own, "counts", own.diff)
    own += 1
    assert following(own, "counts", own.diff) is not first
