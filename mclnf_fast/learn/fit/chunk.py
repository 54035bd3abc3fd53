"""Modules that are fitted side by side, in calls of a fraction of a second."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.fit.options import FitOptions
from mclnf_fast.learn.fit.source import Samples
from mclnf_fast.learn.fit.summary import FitSummary
from mclnf_fast.learn.params import Params, part_of, split_pair
from mclnf_fast.learn.sampling.even import curve_order
from mclnf_fast.metrics import MOST_PSNR, log_steps, mse_to_psnr
from mclnf_fast.ops import bank_fit, bank_mse
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitRule, FitState, Watch
from mclnf_fast.spec import FieldSpec

SECONDS = 0.25  # of a call: Ctrl-C waits for its end
POINTS = 1 << 18  # evaluated at once
NOT_FINITE = "its samples are not all finite (NaN or infinity): it keeps its initialization"


class FitPlan(NamedTuple):
    """What all chunks of a fit have in common."""

    spec: FieldSpec
    steps: int
    stop_loss: float | None
    rule: FitRule
    options: FitOptions

    @property
    def losses_at(self) -> tuple[int, ...]:
        """Numbers of the steps whose losses are kept."""
        return log_steps(self.steps)


class Chunk:
    """Successive modules with their samples, and how far they are.

    A module that has no more samples than a batch takes all of them in every step, so there are two groups, of which
    each is a call of `ops.bank_fit`. No bit depends on the modules beside it, nor on the cut into calls.

    Args:
        plan: of the fit.
        first: number of its first module, which its draws depend on.
        samples: of the modules.
        params: their parameters [m, ...]; changed in place.
    """

    def __init__(self, plan: FitPlan, first: int, samples: Sequence[Samples], params: Params) -> None:
        self.plan, self.samples, self.seconds = plan, samples, 0.0
        whole = [plan.options.draws == "whole" or len(s.x) <= plan.options.batch for s in samples]
        members = {"drawn": [m for m, w in enumerate(whole) if not w], "whole": [m for m, w in enumerate(whole) if w]}
        self._groups = {name: _Group(self, first, ids, params, name) for name, ids in members.items() if ids}
        self._small = [m for m in members["whole"] if len(samples[m].x) < plan.options.batch]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def done(self) -> bool:
        """Whether no module has a step to make."""
        return not any(group.active for group in self._groups.values())

    @property
    def share(self) -> float:
        """The share of the steps that is made; a module that has ended counts as one with all its steps."""
        return sum(group.made for group in self._groups.values()) / (self.plan.steps * len(self))

    def advance(self) -> None:
        """Make steps for a fraction of a second."""
        began = time.perf_counter()
        for group in self._groups.values():
            if group.active:
                group.advance(SECONDS)
        self.seconds += time.perf_counter() - began

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors: with it the chunk goes on to the same bits."""
        seconds = torch.tensor(self.seconds, dtype=torch.float64)
        groups = {f"{name}.{k}": t for name, group in self._groups.items() for k, t in group.tensors().items()}
        return {"seconds": seconds, **groups}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state that `tensors` returned. Raises KeyError, ValueError, RuntimeError if it doesn't fit."""
        for name, group in self._groups.items():
            group.load(part_of(tensors, name))
        self.seconds = float(tensors["seconds"])

    @torch.no_grad()
    def finish(self) -> tuple[Params, FitSummary]:
        """Return the parameters [m, ...] and what came of them."""
        count = len(self)
        params = [p.new_empty(count, *p.shape[1:]) for p in self._some.state.params]
        mse, faults = torch.full((count,), torch.nan, dtype=torch.float64), {}
        steps, ends = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        losses = torch.full((len(self.plan.losses_at), count), torch.nan)
        for group in self._groups.values():
            for to, values in zip(params, group.state.params):
                to[group.ids] = values
            mse[group.ids] = group.errors().double().cpu()
            steps[group.ids], ends[group.ids] = group.state.steps.cpu(), group.ends.cpu()
            losses[:, group.ids] = group.losses.float().cpu()
        for m in range(count):
            if ends[m] == FitEnd.DIVERGED:
                finite = self._finite(m)
                faults[m] = _diverged(int(steps[m])) if finite else NOT_FINITE
        notes = []
        if self._small and self.plan.options.draws != "whole":
            notes.append(f"modules with fewer than {self.plan.options.batch} samples took all of them in every step")
        names, about = [s.name for s in self.samples], [s.about for s in self.samples]
        # An error of exactly 0 has an infinite PSNR, which has no mean.
        psnr = mse_to_psnr(mse.nan_to_num(1.0), self.plan.options.peak).clamp(max=MOST_PSNR)
        psnr = psnr.where(mse.isfinite(), torch.nan)
        summary = FitSummary(names, about, psnr, steps, ends, self.plan.losses_at, losses, faults, notes=notes)
        summary.seconds = self.seconds
        return tuple(params), summary

    @property
    def _some(self) -> _Group:
        return next(iter(self._groups.values()))

    def _finite(self, m: int) -> bool:
        return all(bool(t.isfinite().all()) for t in self.samples[m][:2])


def _diverged(steps: int) -> str:
    return f"it diverged after {steps} steps and keeps its last finite state; a smaller lr may cure it"


def _ordered(samples: Sequence[Samples]) -> list[Samples]:
    """Return samples in an order in which neighbors are alike: even draws then cover a signal evenly."""
    result: list[Samples] = []
    before, order, x = None, None, None
    for one in samples:
        if one.x is not before:
            before, order = one.x, curve_order(one.x)
            x = one.x[order]
        assert x is not None
        result.append(one._replace(x=x, y=one.y[order]))
    return result


class _Group:
    """Modules of a chunk that draw by one rule."""

    def __init__(self, chunk: Chunk, first: int, ids: Sequence[int], params: Params, name: str) -> None:
        plan, samples = chunk.plan, [chunk.samples[m] for m in ids]
        device, options = samples[0].x.device, plan.options
        self.plan, self.ids = plan, torch.tensor(ids)
        numbers = (first + self.ids).to(device)
        self.draws = Draws("whole", seed=options.seed, modules=numbers)
        if name == "drawn":
            self.draws = Draws(options.draws, options.batch, options.seed, modules=numbers)
        self.shared = all(s.x is samples[0].x for s in samples)
        if name == "drawn" and options.draws == "even":
            samples = _ordered(samples)
        if self.shared:
            self.data = FitData(samples[0].x, torch.stack([s.y for s in samples]))
        else:
            sizes = torch.tensor([0, *(len(s.x) for s in samples)], device=device)
            self.data = FitData(torch.cat([s.x for s in samples]), torch.cat([s.y for s in samples]), sizes.cumsum(0))
        # All modules of a chunk are of one group as a rule: then their parameters are not copied.
        chosen = params if len(ids) == len(params[0]) else tuple(p[self.ids.to(device)] for p in params)
        self.state = FitState.begin(chosen, plan.rule.kind)
        self.losses = self.data.x.new_full((len(plan.losses_at), len(ids)), torch.nan)
        # FROZEN: at work. A module whose samples are not finite would learn until the first of them is drawn.
        self.ends = torch.full((len(ids),), int(FitEnd.FROZEN), device=device)
        finite = torch.tensor([chunk._finite(m) for m in ids], device=device)
        self.ends[~finite] = int(FitEnd.DIVERGED)
        self._steps = 1  # of the next call

    @property
    def active(self) -> int:
        """Number of the modules that have steps to make."""
        return int((self.ends == int(FitEnd.FROZEN)).sum())

    @property
    def made(self) -> int:
        """Steps that are made, or need not be."""
        return int(self.state.steps.where(self.ends == int(FitEnd.FROZEN), self.plan.steps).sum())

    def advance(self, seconds: float) -> None:
        """Make steps for about so many seconds."""
        working = self.ends == int(FitEnd.FROZEN)
        made = int(self.state.steps[working][0])  # all that have not ended are equally far
        count = min(self._steps, self.plan.steps - made)
        plan, began = self.plan, time.perf_counter()
        log = bank_fit(
            self.state,
            self.data,
            plan.spec,
            working.long() * count,
            draws=self.draws,
            rule=plan.rule,
            watch=Watch(plan.losses_at, (), plan.stop_loss, plan.options.check_every),
            backend=plan.options.backend,
        )
        ended = working & (log.ends != int(FitEnd.STEPS))
        bool(ended.any())  # waits for a GPU, which may only just have begun
        pace = (time.perf_counter() - began) / count
        # At most four times as many: the first call pays for threads and caches, and is no measure.
        self._steps = max(1, min(4 * self._steps, int(seconds / max(pace, 1e-9))))
        self.losses = log.losses.where(log.losses.isfinite() | self.losses.isnan(), self.losses)
        self.ends = log.ends.where(ended | (working & (self.state.steps == plan.steps)), self.ends)

    def errors(self) -> Tensor:
        """Return the mean squared error of every module over all its samples, [m]; NaN if they are not finite."""
        weights, biases = split_pair(self.state.params)
        x, target, offsets = self.data[:3]
        count = len(self.ids)
        if offsets is None:
            offsets = torch.arange(count + 1, device=x.device) * len(x)
        errors, begin = [], 0
        while begin < count:
            # As many modules as make POINTS samples, at least one.
            end = int(torch.searchsorted(offsets, offsets[begin] + POINTS, right=True)) - 1
            end = min(count, max(begin + 1, end))
            rows = slice(int(offsets[begin]), int(offsets[end]))
            points = x.repeat(end - begin, 1) if self.shared else x[rows]
            values = target[begin:end].flatten(0, 1) if self.shared else target[rows]
            w, b = ([t[begin:end] for t in tensors] for tensors in (weights, biases))
            errors.append(bank_mse(points, offsets[begin : end + 1] - offsets[begin], w, b, values, self.plan.spec))
            begin = end
        return torch.cat(errors)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.state.tensors(), "losses": self.losses, "ends": self.ends}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        mine = self.tensors()
        if mine.keys() != tensors.keys():
            raise ValueError(f"the state must hold {sorted(mine)}, got {sorted(tensors)}")
        for name, tensor in mine.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(f"{name} must have shape {list(tensor.shape)}, got {list(tensors[name].shape)}")
            tensor.copy_(tensors[name])
