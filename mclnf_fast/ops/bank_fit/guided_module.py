"""The definition of one module's Fisher-guided draws and scores, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.guide import Guide, blocks_of
from mclnf_fast.ops.bank_fit.guided import Blocks, density, mixed_scores, places
from mclnf_fast.ops.bank_fit.types import FitData
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.draw_ids.reference import WINDOW, even_parts
from mclnf_fast.ops.fisher import fisher_scores
from mclnf_fast.ops.fisher.running import mean_damping, running_mean


class GuidedModule:
    """Module m of a call: its draws, the scores of a step's samples, and what these leave in the state."""

    def __init__(self, call: FitCall, guide: Guide, m: int) -> None:
        assert isinstance(call.data, FitData)
        self.call, self.guide, self.state = call, guide, call.state.guide
        self.m, self.row = m, slice(m, m + 1)
        self.samples = call.data.sizes[self.row].to(call.numbers.device)
        self.blocks = Blocks(self.samples, guide.block, blocks_of(self.samples, guide.block))
        begin = 0 if call.data.offsets is None else int(call.data.offsets[m])
        self.curve = None if guide.curve is None else guide.curve[begin : begin + int(self.samples)]
        self.place, self.ids = torch.empty(0), torch.empty(0)
        self.weights: Tensor | None = None

    def draw(self, k: int) -> tuple[Tensor, Tensor | None]:
        """Return the samples int64 [batch] of step k and what each counts [batch]; None: one."""
        draws, found = self.call.draws, None
        if self.state is not None:
            if k % WINDOW == 0:
                self.state.window[self.row] = self.state.scores[self.row]
            found = density(self.state.window[self.row, : self.blocks.most], self.blocks, self.guide.mix)
        step = torch.full_like(self.samples, k)
        parts = even_parts(draws.seed, draws.task, self.call.numbers[self.row], step, draws.batch)
        self.place, weights = places(parts, draws.batch, self.blocks, found)
        self.ids = self.place[0] if self.curve is None else self.curve[self.place[0]]
        self.weights = None if weights is None else weights[0].to(self.call.data.x.dtype)
        return self.ids, self.weights

    def scored(self, k: int, params: list[Tensor], moving: list[int]) -> tuple[Tensor, ...] | None:
        """Return the scores [batch] of the samples drawn last (none of a module's first batch), and the diagonal Fisher
        of their losses; None if step k scores nothing."""
        if self.state is None or k % self.guide.refresh:
            return None
        assert isinstance(self.call.data, FitData)
        x, target, weight = (t if t is None else t[self.ids] for t in self.call.data.module(self.m))
        assert x is not None
        assert target is not None
        layers, offsets, spec = len(params) // 2, torch.tensor([0, len(x)], device=x.device), self.call.spec
        bank = params[:layers], params[layers:]
        # The derivative of the mean over outputs of the squared error.
        grad_y = (bank_mlp(x, offsets, *bank, spec, "reference") - target) * (2.0 / spec.out_dim)
        for factor in (weight, self.weights):
            grad_y = grad_y if factor is None else grad_y * factor[:, None]
        known = [f[self.row] for f in self.state.fisher]
        damping = mean_damping([known[i] for i in moving], self.guide.damping)
        # Layers that stay count for nothing.
        against = [f + damping if i in moving else torch.full_like(f, torch.inf) for i, f in enumerate(known)]
        pair = against[:layers], against[layers:]
        result = fisher_scores(x, offsets, *bank, grad_y, pair, spec, damping=0.0, backend="reference")
        scores = result.scores if self.weights is None else result.scores / self.weights.square()
        first = int(self.state.batches[self.m]) == 0
        return (scores[:0] if first else scores, *result.fisher[0], *result.fisher[1])

    def take_in(self, scored: tuple[Tensor, ...], moving: list[int]) -> None:
        """Take in what `scored` returned."""
        assert self.state is not None
        scores, *fisher = scored
        row, count = self.row, self.blocks.most
        if len(scores):
            block = self.place // self.guide.block
            own = self.state.scores[row, :count]
            self.state.scores[row, :count] = mixed_scores(own, block, scores[None], self.guide.smooth)
        first = self.state.batches[row] == 0
        rate = torch.full(first.shape, 1.0 - self.guide.decay, dtype=torch.float64, device=first.device)
        rate = rate.masked_fill(first, 1.0)
        for i in moving:
            self.state.fisher[i][row] = running_mean(self.state.fisher[i][row], fisher[i], rate)
        self.state.batches[self.m] += 1
