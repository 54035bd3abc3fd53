"""Turn many signals that share their coordinates into one task: coordinates in, values out, a module per signal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn.params import Params, split_pair
from mclnf_fast.learn.sampled import SampledLoss, StepSamples
from mclnf_fast.learn.task import Batch, Points
from mclnf_fast.metrics import MOST_PSNR, mse_to_psnr
from mclnf_fast.ops.bank_fit import FitData
from mclnf_fast.spec import FieldSpec

CHUNK = 1 << 18  # points evaluated at once: the outputs of a whole video would not fit


class CoordTask:
    """S signals that share their coordinates, as a `learn.ScoredTask`.

    A sample is a coordinate, its loss the mean over channels of the squared error.

    Args:
        name: of the task.
        x: coordinates [n, d].
        y: values [S, n, C].
        spec: of the field that learns them.
        backend: of the ops.
        curve: the coordinates in an order in which neighbors are alike, int64 [n]; None: their own order.

    Raises ValueError if the shapes do not fit.

    >>> task = CoordTask("ramps", torch.rand(6, 2), torch.rand(3, 6, 1), FieldSpec(2, 1, 8, 1))
    >>> task.modules, task.samples
    (3, 6)
    >>> x, y = task.draw(4, torch.Generator().manual_seed(0))
    >>> x.shape, y.shape
    (torch.Size([3, 4, 2]), torch.Size([3, 4, 1]))
    """

    def __init__(
        self,
        name: str,
        x: Tensor,
        y: Tensor,
        spec: FieldSpec,
        backend: str = "auto",
        curve: Tensor | None = None,
    ) -> None:
        if x.dim() != 2 or y.dim() != 3 or y.shape[1] != x.shape[0] or not x.numel():
            raise ValueError(f"y must be [S, n, C] with x [n, d], got {tuple(y.shape)} and {tuple(x.shape)}")
        self.name, self.x, self.y, self.spec, self.backend = name, x.contiguous(), y.contiguous(), spec, backend
        self.curve = curve
        # A view, since `y` is contiguous: a copy would hold every value twice.
        self._flat_y = self.y.reshape(-1, self.y.shape[-1])
        self._row = torch.arange(len(y))[:, None] * x.shape[0]  # where a signal begins in it, on the CPU as ids are

    @property
    def modules(self) -> int:
        """S."""
        return self.y.shape[0]

    @property
    def samples(self) -> int:
        """n, the coordinates of a signal."""
        return self.x.shape[0]

    @property
    def items(self) -> int:
        """n: every coordinate is an item."""
        return self.x.shape[0]

    def draw(self, count: int, generator: torch.Generator, modules: Tensor | None = None) -> Batch:
        """Return x [S, count, d] and y [S, count, C], uniform with replacement; of the signals `modules` [T] if
        given."""
        rows = self.modules if modules is None else len(modules)
        return self.take(torch.randint(self.items, (rows, count), generator=generator), modules)

    def take(self, ids: Tensor, modules: Tensor | None = None) -> Batch:
        """Return the samples of int64 ids [S, k]; of the signals `modules` [T], row t of ids [T, k] of modules[t]."""
        row = self._row if modules is None else self._row.index_select(0, modules.cpu())
        if modules is None and ids.device.type != "cpu":  # a CUDA graph holds no copy
            row = torch.arange(len(self.y), device=ids.device)[:, None] * len(self.x)
        # Where the ids are, and one copy to the device for both.
        places = ops.uploaded(torch.stack((ids, ids + row.to(ids.device))).flatten(1), self.x.device)
        # Half the time of `x[ids]`, which looks at every dimension of the ids.
        x, y = self.x.index_select(0, places[0]), self._flat_y.index_select(0, places[1])
        return x.reshape(*ids.shape, -1), y.reshape(*ids.shape, -1)

    def fit_data(self) -> FitData | None:
        """Return the samples as they lie, for `ops.bank_fit`; None in a subclass with draws, a loss or scores of its
        own."""
        names = ("draw", "take", "draw_in", "loss", "points")
        plain = (getattr(type(self), name) is getattr(CoordTask, name) for name in names)
        return FitData(self.x, self.y) if all(plain) else None

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor | None]:
        return self.take(items), None

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: Tensor | int = 0) -> Tensor:
        return coord_loss(params, batch, self.spec, weights, self.backend)

    def points(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Points:
        return coord_points(params, batch, self.spec, self.backend)

    def outputs(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Iterator[Points]:
        x, y = batch
        for c in range(y.shape[-1]):
            # One channel at a time: with ones in all of them their gradients would add up before they are squared.
            channel = torch.zeros_like(y).flatten(0, 1)
            channel[:, c] = 1.0
            yield Points(x.flatten(0, 1), _offsets(x), channel, None, len(channel))

    @torch.no_grad()
    def predict(self, params: Params) -> Tensor:
        """Return the field at every coordinate: params [S, ...] -> [S, n, C]."""
        # Memory is that of all modules at once, so more modules take fewer coordinates each.
        step = max(1, CHUNK // self.modules)
        weights, biases = split_pair(params)
        pieces = []
        for begin in range(0, self.items, step):
            x = self.x[begin : begin + step]
            offsets = ops.offsets_of_equal_shares(self.modules, len(x), x.device)
            y = ops.bank_mlp(x.repeat(self.modules, 1), offsets, weights, biases, self.spec, self.backend)
            pieces.append(y.reshape(self.modules, len(x), -1))
        return torch.cat(pieces, 1)

    def squared_errors(self, values: Tensor) -> Tensor:
        """Return the sum of squared errors of predicted values [S, n, C], clamped to [0, 1], per signal: fp64 [S]."""
        # fp64: a sum over the values of a whole video in fp32 can lose the small errors.
        return (values.clamp(0, 1).double() - self.y.double()).square().sum((1, 2))

    def evaluate(self, params: Params) -> Tensor:
        """Return the PSNR of each signal over this task's samples in dB, at most `MOST_PSNR`, fp64 [S]; values are
        clamped to [0, 1]."""
        errors = self.squared_errors(self.predict(params)) / (self.items * self.y.shape[-1])
        return mse_to_psnr(errors).clamp(max=MOST_PSNR)

    @staticmethod
    def joined(tasks: Sequence[CoordTask]) -> CoordTask:
        """Return all tasks as one whose samples come in any order, with the network of the first."""
        x, y = torch.cat([task.x for task in tasks]), torch.cat([task.y for task in tasks], 1)
        # Without a curve: only Fisher-guided draws follow one, and no joint method of the table makes any.
        return CoordTask("all tasks", x, y, tasks[0].spec, tasks[0].backend)


def coord_loss(
    params: Params, batch: Batch, spec: FieldSpec, weights: Tensor | None = None, backend: str = "auto"
) -> Tensor:
    """Return the mean over a module's samples and channels of the weighted squared error; twice differentiable.

    Args:
        params: tensors [M, ...].
        batch: x [M, k, d] and y [M, k, C].
        weights: [M, k]; None: ones. The mean is over samples, not over weights.

    Returns: [M].
    """
    x, y = batch
    layers, biases = split_pair(params)
    return ops.bank_mse(
        x.flatten(0, 1),
        _offsets(x),
        layers,
        biases,
        y.flatten(0, 1),
        spec,
        None if weights is None else weights.flatten(),
        backend=backend,
    )


def whole_loss(task: CoordTask, modules: Tensor | None = None) -> SampledLoss:
    """Return the loss over all samples of a task in every step: `(params [S, ...], step) -> [S]`.

    Args:
        modules: int64 [T], the signals to learn, module m on modules[m]; None: all.

    >>> from mclnf_fast.fields import initial_parameters
    >>> task = CoordTask("ramps", torch.rand(6, 2), torch.rand(3, 6, 1), FieldSpec(2, 1, 8, 1))
    >>> whole_loss(task)(initial_parameters(task.spec, 3), 0).shape
    torch.Size([3])
    """
    y = task.y if modules is None else task.y.index_select(0, modules.to(task.y.device))
    # Outside of the loss: the batch is the same in every step, and a copy in each would be for nothing.
    batch = (task.x.repeat(len(y), 1, 1), y)

    def loss(params: Params, step: int) -> Tensor:
        return coord_loss(params, batch, task.spec, None, task.backend)

    return SampledLoss(loss, lambda steps: StepSamples(FitData(task.x, y), None), task.spec, task.backend)


def pixel_places(height: int, width: int) -> Tensor:
    """Return the places [H W, 2] of pixels, row by row: (row / H, column / W), in [0, 1) as in arXiv 2012.02189.

    >>> pixel_places(1, 2).tolist()
    [[0.0, 0.0], [0.0, 0.5]]
    """
    rows, columns = torch.arange(height, dtype=torch.float32) / height, torch.arange(width, dtype=torch.float32) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def coord_points(params: Params, batch: Batch, spec: FieldSpec, backend: str | None = "auto") -> Points:
    """Return the points of a batch with the gradient of each sample's own loss in the outputs (see `Points`)."""
    x, y = batch
    flat, offsets = x.flatten(0, 1), _offsets(x)
    # In closed form: the gradient of a squared error in the outputs takes no backward.
    with torch.no_grad():
        layers, biases = split_pair(params)
        error = ops.bank_mlp(flat, offsets, layers, biases, spec, backend) - y.flatten(0, 1)
    # The derivative of the mean over C channels of the squared error.
    return Points(flat, offsets, error.mul_(2.0 / y.shape[-1]), None, len(flat))


def _offsets(x: Tensor) -> Tensor:
    return ops.offsets_of_equal_shares(len(x), x.shape[1], x.device)
