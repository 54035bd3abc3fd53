"""SGD on a loss weighted by Fisher information, held against its bound: `python -m benchmarks.weighted_sgd`.

A linear field fitted to samples with heavy-tailed noise. Its loss is least squares, so the smoothness L, the minimum of
the frozen weighted loss and the second moment s^2 of the gradients at the points visited are known, and
`learn.weighted_sgd_bound` can be drawn beside what was measured. Writes `benchmarks/results/weighted_sgd.json` and
`.png` (about fifteen seconds on one core).
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.plot import INK, OURS, PALE
from mclnf_fast.learn import FimConfig, FisherScorer, clipped_weights, weighted_sgd_bound
from mclnf_fast.spec import FieldSpec

RESULTS = pathlib.Path(__file__).parent / "results"
LAMBDAS, CLIP = (0.0, 0.25, 1.0), 4.0
BROKEN = 60.0  # how far off the broken sample is; the others lie within 3
SHARE = 0.04  # of the largest step size that the bound allows


class Problem(NamedTuple):
    """rows [n, d] (coordinates and a one for the bias), targets [n], Fisher scores [n] at theta = 0, L."""

    rows: Tensor
    y: Tensor
    scores: Tensor
    smoothness: float


class Run(NamedTuple):
    """Mean over the runs of |grad L_w|^2 at every step, the largest s^2 met, and L_w(theta_0) - L_w*."""

    squared: list[float]
    second_moment: float
    gap: float


def problem(n: int = 1024, seed: int = 0) -> Problem:
    """Return targets of a plane, a little noise, and one sample that is far off (a broken pixel, say); scores by the
    diagonal empirical Fisher of a bank of one linear layer."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, generator=g, dtype=torch.float64) * 2 - 1
    y = x.sum(1) + 0.1 * torch.randn(n, generator=g, dtype=torch.float64)
    y[0] += BROKEN
    spec = FieldSpec(3, 1, hidden_layers=0)
    scorer = FisherScorer(spec, 1, FimConfig(source="batch"))
    start = (x.new_zeros(1, 3, 1), x.new_zeros(1, 1))
    scores = scorer(start, x, torch.tensor([0, n]), -y[:, None]).scores
    rows = torch.cat((x, torch.ones_like(x[:, :1])), 1)
    return Problem(rows, y, scores, rows.square().sum(1).max().item())


def sgd(p: Problem, weights: Tensor, lr: float, steps: int, runs: int = 64, seed: int = 1) -> Run:
    """`runs` runs from theta = 0 side by side, one uniform sample a step; l_j = (row_j theta - y_j)^2 / 2."""
    root = weights.sqrt()[:, None]
    best = torch.linalg.lstsq(root * p.rows, root * p.y[:, None]).solution[:, 0]

    def loss(theta: Tensor) -> float:
        return (weights * (p.rows @ theta - p.y).square()).mean().item() / 2

    g = torch.Generator().manual_seed(seed)
    theta = p.rows.new_zeros(runs, p.rows.shape[1])
    length = p.rows.square().sum(1)
    each, squared, moment = torch.arange(runs), [], 0.0
    for _ in range(steps):
        r = theta @ p.rows.T - p.y  # [runs, n]
        squared.append(((r * weights) @ p.rows / len(p.y)).square().sum(1).mean().item())
        moment = max(moment, (r.square() @ length).max().item() / len(p.y))
        j = torch.randint(len(p.y), (runs,), generator=g)
        theta = theta - lr * (weights[j] * r[each, j])[:, None] * p.rows[j]
    return Run(squared, moment, loss(torch.zeros_like(best)) - loss(best))


def running_means(values: list[float], steps: list[int]) -> list[float]:
    """(1/T) sum of the first T values, for every T."""
    total = torch.tensor(values, dtype=torch.float64).cumsum(0)
    return [(total[t - 1] / t).item() for t in steps]


def measure(steps: int = 8192, runs: int = 64) -> dict[str, Any]:
    """Measure everything that the picture shows."""
    p = problem()
    logged = sorted({min(steps, round(2 ** (k / 4))) for k in range(4 * math.ceil(math.log2(steps)) + 1)})
    normed = p.scores / p.scores.mean()
    found: dict[str, Any] = {
        "samples": len(p.y),
        "runs": runs,
        "clip": CLIP,
        "share_of_the_largest_step": SHARE,
        "smoothness": p.smoothness,
        "largest_score": normed.max().item(),
        "steps": logged,
        "clipped": [],
    }
    for lam in LAMBDAS:
        lr = SHARE / (p.smoothness * (1 + lam * CLIP))
        run = sgd(p, clipped_weights(p.scores, lam, CLIP), lr, steps, runs)
        known = {"smoothness": p.smoothness, "second_moment": run.second_moment, "lam": lam, "largest": CLIP}
        found["clipped"].append(
            {
                "lam": lam,
                "lr": lr,
                "gap": run.gap,
                "second_moment": run.second_moment,
                "measured": running_means(run.squared, logged),
                "bound": [weighted_sgd_bound(run.gap, lr, t, **known) for t in logged],
            }
        )
    last = found["clipped"][-1]
    free = clipped_weights(p.scores, last["lam"], math.inf)
    run = sgd(p, free, last["lr"], steps, runs)
    found["unclipped"] = {
        "lam": last["lam"],
        "lr": last["lr"],
        "largest_weight": free.max().item(),
        "lr_allowed": 1 / (p.smoothness * free.max().item()),
        "measured": running_means(run.squared, logged),
    }
    # What stands in for B without a clip, as samples are added: it grows with their number.
    sizes = [2**k for k in range(6, 15)]
    largest = [(q.scores.max() / q.scores.mean()).item() for q in (problem(n) for n in sizes)]
    found["growth"] = {"samples": sizes, "largest_score": largest}
    return found


def draw(data: dict[str, Any], path: pathlib.Path) -> None:
    """Write the PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes: Any = figure.subplots(1, 4)
    for ax, row in zip(axes, data["clipped"]):
        if ax is not axes[0]:
            ax.sharey(axes[0])
        _line(ax, data["steps"], row["bound"], INK, "bound", dashed=True)
        _line(ax, data["steps"], row["measured"], OURS, "measured")
        ax.tick_params(labelleft=ax is axes[0])
        lam, most = row["lam"], 1 + row["lam"] * data["clip"]
        ax.set_title(f"λ = {lam:g}: weights in [1, {most:g}]" if lam else "λ = 0: no weights", fontsize=10, color=INK)
    axes[0].set_ylabel(r"mean of $|\nabla L_w|^2$ over the first $T$ steps", fontsize=9)
    axes[0].legend(frameon=False, fontsize=9, loc="lower left")
    ax, row, free = axes[3], data["clipped"][-1], data["unclipped"]
    times = free["lr"] / free["lr_allowed"]
    without = f"no clip: weights to {free['largest_weight']:.0f},\nstep {times:.1f} times the limit"
    clipped = f"clip {data['clip']:g}: weights to {1 + row['lam'] * data['clip']:g}"
    for values, color, name in ((free["measured"], "#0072b2", without), (row["measured"], OURS, clipped)):
        _line(ax, data["steps"], [v / values[0] for v in values], color, name)
    ax.set_ylim(0.05, 30)
    ax.set_title(f"λ = {row['lam']:g}, the same step size", fontsize=10, color=INK)
    ax.set_ylabel(r"the same, over its value at $T = 1$", fontsize=9)
    ax.legend(frameon=False, fontsize=9, loc="upper left")
    figure.suptitle(
        f"SGD on least squares with frozen Fisher weights, one sample of {data['samples']} broken; "
        f"mean of {data['runs']} runs",
        fontsize=11,
        color=INK,
    )
    figure.savefig(path, dpi=130)


def _line(ax: Any, steps: list[int], values: list[float], color: str, name: str, *, dashed: bool = False) -> None:
    ax.loglog(steps, values, color=color, label=name, linewidth=1.8, linestyle="--" if dashed else "-")
    ax.set_xlabel("T", fontsize=9)
    ax.grid(color=PALE, linewidth=0.6)
    ax.tick_params(labelsize=8)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weighted_sgd", description=about)
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the JSON and the picture")
    parser.add_argument("--steps", type=int, default=8192)
    parser.add_argument("--runs", type=int, default=64)
    args = parser.parse_args(argv)
    command = f"{parser.prog} --steps {args.steps} --runs {args.runs}"
    data = {"command": command, "torch": torch.__version__, **measure(args.steps, args.runs)}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "weighted_sgd.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    draw(data, path.with_suffix(".png"))
    for row in data["clipped"]:
        print(f"lambda {row['lam']:<5g} measured {row['measured'][-1]:.3g}, bound {row['bound'][-1]:.3g}")
    free = data["unclipped"]
    times, change = free["lr"] / free["lr_allowed"], free["measured"][-1] / free["measured"][0]
    print(f"no clip: largest weight {free['largest_weight']:.0f}, step {times:.1f} times the limit; ", end="")
    print(f"the mean squared gradient ends at {change:.2g} of its first value")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
