"""`mclnf-fast tune`: times candidates for every entry of the table of tiles and saves the fastest.

A candidate counts if its results agree with the reference in float64 and are the same twice. Time alone chooses among
those: a tile that spills a few values may well be the fastest. Each is timed on a bank of large modules, or of small
ones for the small tiles; entries one after another, the others as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.encodings import Frequency
from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.ops import _triton
from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.ops.bank_mlp.triton import ops
from mclnf_fast.ops.bank_mlp.triton.candidates import Entry, alone, entries
from mclnf_fast.ops.triton import tiles
from mclnf_fast.ops.triton.precision import multiplying
from mclnf_fast.ops.triton.table import Tiles, built_in
from mclnf_fast.spec import FieldSpec

# Norm of the error by that of the values, beyond twice the reference's in the same type: a rounding that turns a relu
# on or off moves the gradients of few points by much.
TOLERANCE = {"half": 5e-2, "tf32": 2e-2, "ieee": 1e-4}

Timer = Callable[[Callable[[], object]], float]
"""Returns the seconds that a call takes."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Points and modules of the timed problems, with large and with small modules, and of the checked one."""

    large: tuple[int, int] = (1 << 18, 16)
    small: tuple[int, int] = (1 << 16, 4096)
    checked: tuple[int, int] = (3000, 7)


DRY = Sizes((128, 2), (48, 3), (70, 3))


@dataclasses.dataclass(frozen=True)
class Row:
    """The result for an entry: seconds of the table's own choice (None: it was refused) and of the best."""

    entry: str
    before: Any
    seconds: float | None
    best: Any
    best_seconds: float | None
    tried: int
    refused: dict[str, str]


@dataclasses.dataclass
class Problem:
    """A bank of equal modules, and calls of its forward or backward."""

    spec: FieldSpec
    x: Tensor
    offsets: Tensor
    weights: list[Tensor]
    biases: list[Tensor]
    grad_y: Tensor

    def call(self, back: bool) -> list[Tensor]:
        """Return the outputs, or with `back` the gradients, by the Triton kernels."""
        bank = (self.x, self.offsets, self.weights, self.biases)
        ints, floats = self.spec.packed
        if not back:
            return [ops.forward(*bank, list(ints), list(floats))]
        grad_x, grad_w, grad_b = ops.backward(*bank, self.grad_y, list(ints), list(floats), True, True)
        return [grad_x, *grad_w, *grad_b]

    def reference(self, back: bool, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return the same by the reference, in this dtype if it is given."""
        x, *rest = (t.to(dtype or t.dtype).detach().requires_grad_() for t in (self.x, *self.weights, *self.biases))
        layers = len(self.weights)
        y = reference.bank_mlp(x, self.offsets, rest[:layers], rest[layers:], self.spec)
        return list(torch.autograd.grad(y, [x, *rest], self.grad_y.to(y.dtype))) if back else [y.detach()]


def problem(entry: Entry, points: int, modules: int, device: torch.device) -> Problem:
    """Return a bank of NeRF's network at the entry's width."""
    spec = FieldSpec(3, 4, entry.width, 4, encoding=Frequency(10))
    half = torch.bfloat16 if device.type == "cuda" else torch.float16  # the interpreter multiplies no bfloat16
    dtype = half if entry.kind == "half" else torch.float32
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float32, generator=g).to(device)

    return Problem(
        spec,
        0.5 * normal(points, 3),
        (torch.arange(modules + 1) * points // modules).to(device),
        [
            (normal(modules, *s) * s[0] ** -0.5).to(dtype if l > 0 else torch.float32)
            for l, s in enumerate(spec.layer_shapes)
        ],
        [0.3 * normal(modules, s[1]) for s in spec.layer_shapes],
        normal(points, 4),
    )


def agrees(results: Sequence[Tensor], same: Sequence[Tensor], truth: Sequence[Tensor], kind: str) -> bool:
    """Return whether every tensor is near the truth, `same` being the reference's in the same type; NaN is not."""
    return all(
        float((f.double() - t).norm()) <= 2 * float((s.double() - t).norm()) + TOLERANCE[kind] * float(t.norm()) + 1e-9
        for f, s, t in zip(results, same, truth, strict=True)
    )


def on_gpu(call: Callable[[], object]) -> float:
    """Return the median of twenty runs, by events of the device, after three."""
    for _ in range(3):
        call()
    seconds = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)


def by_the_clock(call: Callable[[], object]) -> float:
    """Return the seconds of one run."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(
    entry: Entry, table: Tiles, device: torch.device, timer: Timer, sizes: Sizes
) -> tuple[dict[Any, float], dict]:
    """Return the seconds of the candidates that count, and why the others do not. The table's own choice is one of
    them."""
    points, modules = sizes.small if entry.small else sizes.large
    timed, checked = problem(entry, points, modules, device), problem(entry, *sizes.checked, device)
    seconds: dict[Any, float] = {}
    refused: dict[str, str] = {}
    with multiplying(entry.kind == "tf32"):
        same = checked.reference(entry.backward)
        truth = checked.reference(entry.backward, torch.float64)
        for option in dict.fromkeys([entry.chosen(table), *entry.options]):
            with tiles.using(alone(entry, table, option)):
                try:
                    once, twice = checked.call(entry.backward), checked.call(entry.backward)
                    right = agrees(once, same, truth, entry.kind)
                    timed.call(entry.backward)  # compiles
                    if not right:
                        refused[str(option)] = "its results are wrong"
                    elif not all(map(torch.equal, once, twice)):
                        refused[str(option)] = "its results are not the same twice"
                    else:
                        seconds[option] = timer(lambda: timed.call(entry.backward))
                except Exception as error:  # a shape that is too large fails in Triton or on the device, in many ways
                    refused[str(option)] = f"{type(error).__name__}: {error}".splitlines()[0]
    return seconds, refused


def tune(
    device: torch.device,
    timer: Timer | None = None,
    sizes: Sizes | None = None,
    only: str = "*",
    report: Callable[[str], object] = print,
) -> tuple[Tiles, list[Row]]:
    """Return the fastest table of the device, and the result for each entry whose name the pattern `only` matches.

    An entry for which no candidate counts stays as it is.
    """
    gpu = device.type == "cuda"
    timer, sizes = timer or (on_gpu if gpu else by_the_clock), sizes or (Sizes() if gpu else DRY)
    fastest = built_in(tiles.architecture(device))
    rows = []
    for entry in entries(fastest):
        if not fnmatch.fnmatch(entry.name, only):
            continue
        seconds, refused = measure(entry, fastest, device, timer, sizes)
        before = entry.chosen(fastest)
        best = min(seconds, key=lambda option: seconds[option], default=before)
        rows.append(Row(entry.name, before, seconds.get(before), best, seconds.get(best), len(seconds), refused))
        fastest = entry.placed(fastest, best)
        report(_line(rows[-1]))
    return fastest, rows


def _line(row: Row) -> str:
    def text(seconds: float | None) -> str:
        return "refused" if seconds is None else f"{seconds * 1e6:.0f} us"

    result = "as it was" if row.best == row.before else f"{text(row.best_seconds)} with {row.best}"
    return f"{row.entry:<26}{text(row.seconds):>12} -> {result} ({row.tried} counted, {len(row.refused)} refused)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--out", metavar="FILE", help="file of the table; default: in the cache, where it is read from")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="entries to settle, such as 'forward half *'")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny sizes on the CPU under Triton's interpreter: tries, measures nothing",
    )


def main(options: argparse.Namespace) -> int:
    """Run the command. Raises InputError and BackendError if it can't tune."""
    device = torch.device("cpu") if options.dry_run else _gpu()
    if (reason := _triton.why_not(device, torch.float32)) is not None:
        raise BackendError(f"tune: Triton can't serve {device}: {reason}")
    arch = tiles.architecture(device)
    fastest, rows = tune(device, only=options.only)
    if not rows:
        raise InputError(f"--only must take an entry, got {options.only!r}; they are {_names(arch)}")
    if options.dry_run and options.out is None:
        print("a dry run saves nothing without --out")
        return 0
    arch = 0 if options.dry_run else arch  # no device takes what the interpreter has timed
    path = pathlib.Path(options.out) if options.out else tiles.default_path(arch)
    tiles.write(path, fastest, arch, torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter")
    print(f"saved in {path}" + (f": set {tiles.VARIABLE} to it" if options.out else ""))
    return 0


def _names(arch: int) -> str:
    return ", ".join(entry.name for entry in entries(built_in(arch)))


def _gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise InputError("tune needs a GPU, torch sees none; --dry-run tries it on the CPU (with TRITON_INTERPRET=1)")
    return torch.device("cuda", torch.cuda.current_device())
