"""Choose samples by Fisher information, evenly along a curve through them: unbiased, and of less variance than
independent draws of the same density."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int, check_unit_interval

WINDOW = 16  # steps after which the draws have been everywhere
CURVE_BITS = 12  # cells of a curve per axis


class EvenSampler:
    """Draws the mini-batches of M modules whose pools have the same n items: more where a gradient is long in the
    Fisher metric, and everywhere evenly.

        p_i = mix sqrt(q_i) / sum_j sqrt(q_j) + (1 - mix) / n              as `FisherSampler`
        draw k of step s is the item at which the running sum of p along the curve passes u,
        u = (k + (v_s + e) / window) / batch,    e uniform in [0, 1), v a permutation of 0 ... window - 1

    Every u is uniform in its own stratum of 1 / batch, so `mean_k l_k / (n p_k)` is an unbiased estimate of the pool's
    mean loss, whatever q (stratified sampling; Zhao & Zhang, "Accelerating Minibatch Stochastic Gradient Descent using
    Stratified Sampling", arXiv 1405.3080). Neighbors on a space-filling curve are neighbors in space, where residuals
    and gradients are alike: each batch covers the signal like a grid, and within `window` steps every stratum is
    covered without a gap. The residual of a single item forgets within a few steps what it was, since each step's
    noise moves it; what lasts is where a signal is hard. So scores are kept for blocks of neighbors, as running means.

    Args:
        curve: int64 [n], the items in an order in which neighbors are alike; None: their own order.
        items: n.
        modules: M.
        mix: share of the Fisher-guided part, in [0, 1); 0: even draws without scores.
        smooth: weight of a new score in a block's running mean, in (0, 1].
        block: neighbors on the curve that share a score.
        device: where ids and weights shall be.

    Raises: TypeError, ValueError, naming the argument.
    """

    def __init__(
        self,
        items: int,
        modules: int,
        curve: Tensor | None = None,
        *,
        mix: float = 0.8,
        smooth: float = 0.1,
        block: int = 16,
        device: torch.device | str = "cpu",
    ) -> None:
        self.items, self.modules = check_positive_int(items, "items"), check_positive_int(modules, "modules")
        self.mix = check_unit_interval(mix, "mix")
        if not 0 < float(smooth) <= 1:
            raise ValueError(f"smooth must be above 0 and at most 1, got {smooth}")
        if curve is not None and (curve.shape != (items,) or not bool((curve.sort().values == _range(items)).all())):
            raise ValueError(f"curve must hold every item 0 ... {items - 1} once, got {tuple(curve.shape)}")
        self.smooth, self.device = float(smooth), torch.device(device)
        self._item = (_range(items) if curve is None else curve).to(self.device)
        self._place = torch.empty_like(self._item).scatter_(0, self._item, _range(items).to(self.device))
        self.block = check_positive_int(block, "block")
        self.blocks = -(-items // block)
        self._size = torch.full((self.blocks,), float(block), dtype=torch.float32, device=self.device)
        self._size[-1] = items - (self.blocks - 1) * block
        # -1 is unknown: 0 is a score, that of samples which are fitted exactly.
        self.scores = torch.full((modules, self.blocks), -1.0, dtype=torch.float32, device=self.device)
        self._ahead: tuple[Tensor, Tensor | None] | None = None
        self._spread()

    def draw(self, count: int, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return `count` items per module in step number `step` of steps from 0.

        Returns: ids int64 [M, count] and weights [M, count] = 1 / (n p), None while they are all 1.
        """
        check_positive_int(count, "count")
        turn = step % WINDOW
        if turn == 0 or self._ahead is None or self._ahead[0].shape[2] != count:  # the first step may stand anywhere
            self._ahead = self._draw_window(count, generator)
        items, weights = self._ahead
        return items[:, turn], None if weights is None else weights[:, turn]

    def _draw_window(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return the draws of all steps of a window at once, [M, WINDOW, count]: drawing is then a small part of a
        step."""
        turns = torch.rand(self.modules, WINDOW, dtype=torch.float32, generator=generator).argsort(1)[:, :, None]
        jitter = torch.rand(self.modules, WINDOW, count, dtype=torch.float32, generator=generator)
        u = ((torch.arange(count) + (turns + jitter) / WINDOW) / count).to(self.device)
        if self._sum is None:
            # Rounding in fp32 can bring u to 1, which lies behind the last item.
            return self._item[(u * self.items).long().clamp_(max=self.items - 1)], None
        assert self._mass is not None
        u = u.flatten(1)
        block = torch.searchsorted(self._sum, u, right=True).clamp_(max=self.blocks - 1)
        mass, size = self._mass.gather(1, block), self._size[block]
        inside = ((u - (self._sum.gather(1, block) - mass)) / mass).clamp_(0.0, 1.0) * size
        place = block * self.block + torch.minimum(inside.long(), size.long() - 1)
        shape = (self.modules, WINDOW, count)
        return self._item[place].reshape(shape), (size / (self.items * mass)).reshape(shape)

    @torch.no_grad()
    def update(self, ids: Tensor, q: Tensor, weights: Tensor | None = None) -> None:
        """Take in the scores q [M, k] of items ids [M, k], for the windows to come; `weights` are not needed here.

        Raises ValueError if a score is not finite or negative (on the CPU).
        """
        if self.mix == 0:
            return
        if q.device.type == "cpu" and not bool((torch.isfinite(q) & (q >= 0)).all()):
            raise ValueError("q must be finite and not negative, got a score that is not")
        block = self._place[ids] // self.block
        q = q.to(self.scores)
        count = torch.zeros_like(self.scores).scatter_add_(1, block, torch.ones_like(q))
        mean = torch.zeros_like(self.scores).scatter_add_(1, block, q) / count.clamp(min=1)
        share = 1 - (1 - self.smooth) ** count  # as if they had come one by one
        # A first score counts whole: it would be mixed with the -1 that stands for none.
        known = torch.where(self.scores < 0, mean, torch.lerp(self.scores, mean, share))
        self.scores = torch.where(count > 0, known, self.scores)
        self._spread()

    def _spread(self) -> None:
        """Renew the mass of each block and its running sum; None while nothing is known."""
        self._mass: Tensor | None = None
        self._sum: Tensor | None = None
        seen = self.scores >= 0
        if self.mix == 0 or not bool(seen.any()):
            return
        uniform = self._size / self.items
        root = torch.where(seen, self.scores.clamp(min=0), 0.0).sqrt() * self._size
        mean = root.sum(1, keepdim=True) / (seen * self._size).sum(1, keepdim=True).clamp(min=1.0)
        root = torch.where(seen, root, mean * self._size)  # a block that was never met counts as the others do
        total = root.sum(1, keepdim=True)
        share = torch.where(total > 0, root / torch.where(total > 0, total, 1.0), uniform)
        # The uniform share bounds every weight by 1 / (1 - mix), however small the score of a block.
        self._mass = torch.lerp(uniform.expand_as(share), share, self.mix)
        # Divided by the sum as it was rounded: the last running sum is then exactly 1, with no u behind it.
        running = self._mass.cumsum(1)
        self._mass, self._sum = self._mass / running[:, -1:], running / running[:, -1:]

    def probabilities(self) -> Tensor:
        """Return p of every item, [M, n]; each row sums to 1."""
        if self._mass is None:
            return torch.full((self.modules, self.items), 1 / self.items, dtype=torch.float32, device=self.device)
        return (self._mass / self._size).repeat_interleave(self.block, 1)[:, self._place]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that decides the next draws, except for the generator (copies)."""
        # The draws of the window go along: made anew in a resumed run, they would be others.
        state = {"scores": self.scores.clone()}
        if self._ahead is not None:
            state["ahead.items"] = self._ahead[0].clone()
            if self._ahead[1] is not None:
                state["ahead.weights"] = self._ahead[1].clone()
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises ValueError if an entry is missing or of another shape."""
        shape = tuple(self.scores.shape)
        if "scores" not in state or tuple(state["scores"].shape) != shape:
            got = tuple(state["scores"].shape) if "scores" in state else "nothing"
            raise ValueError(f"state['scores'] must be {shape}, got {got}")
        self.scores = state["scores"].to(self.device)
        items, weights = (state[k].to(self.device) if k in state else None for k in ("ahead.items", "ahead.weights"))
        if items is not None and (items.dim() != 3 or items.shape[:2] != (self.modules, WINDOW)):
            raise ValueError(f"state['ahead.items'] must be [{self.modules}, {WINDOW}, k], got {tuple(items.shape)}")
        self._ahead = None if items is None else (items, weights)
        self._spread()


def _range(count: int) -> Tensor:
    return torch.arange(count)


def hilbert_order(shape: tuple[int, ...]) -> Tensor:
    """Return the cells of a grid along the Hilbert curve of the smallest cube around it: flat row-major ids int64 [n].

    Neighbors on it are neighbors in the grid, but for jumps where the curve leaves a grid that is no such cube
    (Skilling, "Programming the Hilbert curve", 2004).

    >>> hilbert_order((2, 2)).tolist()
    [0, 1, 3, 2]
    """
    cells = torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, len(shape))
    # A grid of one cell needs no bit, but a shift by -1 is an error.
    return _along_curve(cells, max(1, (max(shape) - 1).bit_length()))


def curve_order(x: Tensor) -> Tensor:
    """Return points [n, d] along the Hilbert curve of the box around them: their ids, int64 [n].

    Of points with more than 31 coordinates the order is their own.

    >>> curve_order(torch.tensor([[0.0, 0.0], [0.0, 9.0], [2.0, 0.0], [2.0, 9.0]])).tolist()
    [0, 1, 3, 2]
    """
    n, d = x.shape
    if n < 2 or not 0 < d <= 31:
        return torch.arange(n, device=x.device)
    # Each axis by its own range: a clip of 16 frames is as long in time as it is wide.
    bits = min(CURVE_BITS, 62 // d)
    values = x.detach().double().nan_to_num(0.0, 0.0, 0.0)
    low, high = values.amin(0), values.amax(0)
    cells = ((values - low) / (high - low).clamp(min=1e-300) * ((1 << bits) - 1)).round().long()
    return _along_curve(cells, bits)


def _along_curve(cells: Tensor, bits: int) -> Tensor:
    """Return cells int64 [n, d] of a cube with 2^bits a side along its Hilbert curve: their ids [n]."""
    axes = list(cells.unbind(1))
    level = 1 << (bits - 1)
    while level > 1:
        low = level - 1
        for i in range(len(axes)):
            flip = (axes[i] & level) != 0
            swap = torch.where(flip, 0, (axes[0] ^ axes[i]) & low)
            axes[0] = torch.where(flip, axes[0] ^ low, axes[0] ^ swap)
            if i:
                axes[i] = axes[i] ^ swap
        level >>= 1
    # A Gray code, in which successive places on the curve differ in one bit.
    for i in range(1, len(axes)):
        axes[i] = axes[i] ^ axes[i - 1]
    turn = torch.zeros_like(axes[0])
    level = 1 << (bits - 1)
    while level > 1:
        turn = torch.where((axes[-1] & level) != 0, turn ^ (level - 1), turn)
        level >>= 1
    index = torch.zeros_like(turn)
    for bit in range(bits - 1, -1, -1):
        for axis in axes:
            index = (index << 1) | (((axis ^ turn) >> bit) & 1)
    return index.argsort(stable=True)
