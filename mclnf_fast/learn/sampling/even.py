"""Choose samples by Fisher information, evenly along a curve through them: unbiased, and of less variance than
independent draws of the same density."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_positive_int, check_unit_interval, values_can_be_read
from mclnf_fast.ops.bank_fit.guided import Blocks, Density, density, mixed_scores, places
from mclnf_fast.ops.draw_ids.reference import WINDOW, even_parts

CURVE_BITS = 12  # cells of a curve per axis


class EvenSampler:
    """Draws the mini-batches of M modules whose pools have the same n items: more where a gradient is long in the
    Fisher metric, and everywhere evenly. `ops.bank_fit` draws the same by its rule "guided", without a stop.

        p_i = mix sqrt(q_i) / sum_j sqrt(q_j) + (1 - mix) / n              as `FisherSampler`
        draw k of step s is the item at which the running sum of p along the curve passes u,
        u = (k + (v_s + e) / window) / batch,    e uniform in [0, 1), v a permutation of 0 ... window - 1

    Every u is uniform in its own stratum of 1 / batch, so `mean_k l_k / (n p_k)` is an unbiased estimate of the pool's
    mean loss, whatever q (stratified sampling; Zhao & Zhang, "Accelerating Minibatch Stochastic Gradient Descent using
    Stratified Sampling", arXiv 1405.3080). Neighbors on a space-filling curve are neighbors in space, where residuals
    and gradients are alike: each batch covers the signal like a grid, and within `window` steps every stratum is
    covered without a gap. The residual of a single item forgets within a few steps what it was, since each step's
    noise moves it; what lasts is where a signal is hard. So scores are kept for blocks of neighbors, as running means.
    The draws of a window, the steps 0 ... 15, 16 ... 31 and so on, follow the scores as they were at its first step.

    Args:
        curve: int64 [n], the items in an order in which neighbors are alike; None: their own order.
        items: n.
        modules: M.
        mix: share of the Fisher-guided part, in [0, 1); 0: even draws without scores.
        smooth: weight of a new score in a block's running mean, in (0, 1].
        block: neighbors on the curve that share a score.
        seed, task: of the random numbers, which are counted as those of `ops.draw_ids`.

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
        seed: int = 0,
        task: int = 0,
    ) -> None:
        self.items, self.modules = check_positive_int(items, "items"), check_positive_int(modules, "modules")
        self.mix = check_unit_interval(mix, "mix")
        if not 0 < float(smooth) <= 1:
            raise ValueError(f"smooth must be above 0 and at most 1, got {smooth}")
        if curve is not None and (curve.shape != (items,) or not bool((curve.sort().values == _range(items)).all())):
            raise ValueError(f"curve must hold every item 0 ... {items - 1} once, got {tuple(curve.shape)}")
        self.smooth, self.seed, self.task = float(smooth), seed, task
        self._item = _range(items) if curve is None else curve.cpu()
        self._place = torch.empty_like(self._item).scatter_(0, self._item, _range(items))
        self.block = check_positive_int(block, "block")
        self.blocks = Blocks(torch.full((modules,), items), block, -(-items // block))
        # -1 is unknown: 0 is a score, that of samples which are fitted exactly.
        self.scores = torch.full((modules, self.blocks.most), -1.0, dtype=torch.float64)
        self.window = self.scores.clone()  # the scores that the draws of the current window follow
        self._ahead: tuple[tuple[int, int], Tensor, Tensor | None] | None = None

    def move(self, device: torch.device | str) -> None:
        """Move the scores to the device on which they are changed next, by `draw` and `update` too."""
        if self.scores.device == torch.device(device):
            return
        # Up without a wait; a GPU is waited for on the way back.
        self.scores, self.window = (ops.uploaded(t, device) for t in (self.scores, self.window))
        self._item, self._place = (ops.uploaded(t, device) for t in (self._item, self._place))
        self.blocks = self.blocks._replace(samples=ops.uploaded(self.blocks.samples, device))
        self._ahead = None  # its ids are where the scores were

    def draw(self, count: int, step: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor | None]:
        """Return `count` items per module in step number `step` of steps from 0; `generator` is not needed here.

        Returns: ids int64 [M, count] and weights [M, count] = 1 / (n p), None while they are all 1.
        """
        check_positive_int(count, "count")
        key = (step // WINDOW, count)
        if step % WINDOW == 0:
            self.window = self.scores.clone()
        if step % WINDOW == 0 or self._ahead is None or self._ahead[0] != key:
            # All steps of a window at once: drawing is then a small part of a step.
            self._ahead = (key, *self._draw_window(*key))
        _, items, weights = self._ahead
        turn = step % WINDOW
        return items[:, turn], None if weights is None else weights[:, turn]

    def _draw_window(self, window: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Return the draws of all steps of a window, [M, WINDOW, count]."""
        modules = torch.arange(self.modules).repeat_interleave(WINDOW)
        steps = window * WINDOW + torch.arange(WINDOW).repeat(self.modules)
        # Hundreds of small operations, and the same numbers on every device: on the CPU.
        parts = even_parts(self.seed, self.task, modules, steps, count).reshape(self.modules, -1)
        parts = ops.uploaded(parts, self.scores.device)
        place, weights = places(parts, count, self.blocks, self._density(self.window))
        shape = (self.modules, WINDOW, count)
        return self._item[place].reshape(shape), None if weights is None else weights.float().reshape(shape)

    def _density(self, scores: Tensor) -> Density | None:
        return density(scores, self.blocks, self.mix) if self.mix > 0 else None

    @torch.no_grad()
    def update(self, ids: Tensor, q: Tensor, weights: Tensor | None = None) -> None:
        """Take in the scores q [M, k] of items ids [M, k], for the windows to come; `weights` are not needed here.

        Raises ValueError if a score is not finite or negative; on a GPU, which is not waited for, nothing is looked at.
        """
        if self.mix == 0:
            return
        if values_can_be_read(q) and not bool((torch.isfinite(q) & (q >= 0)).all()):
            raise ValueError("q must be finite and not negative, got a score that is not")
        self.scores = mixed_scores(self.scores, self._place[ids] // self.block, q, self.smooth)

    def probabilities(self) -> Tensor:
        """Return p of every item by the latest scores, [M, n]; each row sums to 1."""
        self.move("cpu")
        found = self._density(self.scores)
        even = torch.full((self.modules, self.items), 1 / self.items, dtype=torch.float32)
        if found is None:
            return even
        p = (found.mass / self.blocks.sizes).repeat_interleave(self.block, 1)[:, self._place]
        return torch.where(found.known[:, None], p.float(), even)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that decides the next draws (copies)."""
        return {"scores": self.scores.cpu().clone(), "window": self.window.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises ValueError if an entry is missing or of another shape.

        Of an older state, which has the draws of its window themselves, the scores are taken: the draws to come follow
        them.
        """
        shape = tuple(self.scores.shape)
        window = "scores" if "ahead.items" in state and "window" not in state else "window"
        for key in ("scores", window):
            if key not in state or tuple(state[key].shape) != shape:
                got = tuple(state[key].shape) if key in state else "nothing"
                raise ValueError(f"state[{key!r}] must be {shape}, got {got}")
        self.move("cpu")
        self.scores, self.window = (state[key].detach().cpu().double().clone() for key in ("scores", window))
        self._ahead = None


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
