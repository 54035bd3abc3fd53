"""Summarize what the methods of a city run have learned, for metrics.json and metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mclnf_fast.learn.methods import MIM, Mod
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.protocol import Protocol
from mclnf_fast.metrics import steps_to_reach
from mclnf_fast.report.record import CityResults, Comparison
from mclnf_fast.tasks.rays import PosedImages


def finished_modules(protocol: Protocol) -> list[Params]:
    """Return the finished modules of a method, tensors [1, ...] each; of one network, that alone."""
    method = protocol.method
    return method.modules if isinstance(method, Mod) else [method.params_of(0)]


def stack(modules: Sequence[Params]) -> Params:
    """Return modules [1, ...] side by side as one bank's parameters [M, ...].

    >>> stack([(torch.zeros(1, 2),), (torch.ones(1, 2),)])[0].shape
    torch.Size([2, 2])
    """
    return tuple(torch.cat(tensors) for tensors in zip(*modules))


def psnr_matrix(protocol: Protocol) -> list[list[float | None]]:
    """Return the held-out PSNR [k][i] in dB of block i after block k; None: not measured."""
    return [[None if value is None else value[0] for value in row] for row in protocol.matrix]


def psnr_curves(protocol: Protocol) -> list[dict[int, float]]:
    """Return the held-out PSNR in dB of each block by steps on it."""
    return [{step: values[0] for step, values in sorted(curve.items())} for curve in protocol.curves]


def summary(protocol: Protocol) -> CityResults:
    """Return the results of a method, but for SSIM. A joint method has None for what it was before the end."""
    matrix, curves = psnr_matrix(protocol), psnr_curves(protocol)
    last = matrix[-1]
    after_own = [row[k] for k, row in enumerate(matrix)]
    drops = [a - b for a, b in zip(after_own, last) if a is not None and b is not None]
    # A resumed run may lack the curve of a block that another process had finished: only common steps have a mean.
    steps = sorted(set.intersection(*(set(c) for c in curves)))
    tasks, method = 1 if protocol.joint else protocol.tasks_done, protocol.method
    rays = type(method).batches * method.config.batch * protocol.budget * tasks
    return CityResults(
        psnr_mean=sum(v for v in last if v is not None) / len(last),
        psnr_first_task_after_own=after_own[0],
        psnr_first_task_after_all=last[0],
        # None if a block is missing: a mean over the others would not compare with that of all.
        forgetting=sum(drops) / len(drops) if len(drops) == len(last) and not protocol.joint else None,
        psnr_at_step={step: sum(c[step] for c in curves) / len(curves) for step in steps},
        psnr_at_step_by_task=tuple(curves),
        matrix=tuple((*row, *[None] * (len(last) - len(row))) for row in matrix),
        seconds=protocol.seconds,
        evaluation_seconds=protocol.evaluation_seconds,
        parameters=sum(p.numel() for params in finished_modules(protocol) for p in params),
        steps_per_block=protocol.plan.steps,
        steps_total=protocol.budget * tasks,
        rays=rays,
        operations=6 * rays * _samples_per_ray(protocol) * sum(p.numel() for p in finished_modules(protocol)[0]),
        category=method.category,
        fisher=method.config.fim.use if isinstance(method, MIM) else "none",
    )


def _samples_per_ray(protocol: Protocol) -> int:
    task = protocol.tasks[0]
    assert isinstance(task, PosedImages)
    return task.settings.samples_per_ray


def events(protocols: Mapping[str, Protocol]) -> list[dict[str, Any]]:
    """Return one row per logged step and one per end of a block, in the order in which they happened."""
    rows: list[dict[str, Any]] = []
    for k in range(max(protocol.tasks_done for protocol in protocols.values())):
        for name, protocol in protocols.items():
            if k >= protocol.tasks_done:  # a resumed run: this method was not as far as the others
                continue
            tasks = protocol.tasks
            rows += [
                {"method": name, "block": tasks[k].name, "step": step, "psnr": value}
                for step, value in psnr_curves(protocol)[k].items()
            ]
            after = {tasks[i].name: v for i, v in enumerate(psnr_matrix(protocol)[k]) if v is not None}
            if after:
                rows.append({"method": name, "after": tasks[k].name, "psnr": after})
    return rows


def comparison(protocols: Mapping[str, Protocol]) -> Comparison | None:
    """Return after how many steps `mim` is as good as `mod` at the end, per block, and how much longer it takes; None
    if one of them did not run."""
    if not {"mod", "mim"} <= set(protocols):
        return None
    mod, mim = protocols["mod"], protocols["mim"]
    reached = {}
    for task, plain, guided in zip(mod.tasks, psnr_curves(mod), psnr_curves(mim)):
        steps, values = zip(*guided.items())
        reached[task.name] = steps_to_reach(steps, values, plain[mod.plan.steps])
    return Comparison(reached, mim.seconds / mod.seconds)
