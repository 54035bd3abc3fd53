"""What training in half types costs in PSNR: `python -m benchmarks.precision` runs small images, with several seeds,
and a small city in float32, bf16 and fp16, with the same initializations and draws.

On a CPU without dot products of bf16 pairs by the reference, which has all roundings on every device (twenty minutes on
one core); `--device cuda` by the kernels. Steps are made by `ops.bank_fit`, all in one call, or with `--step-by-step`
one after another through `ops.bank_mse` and the optimizer. Prints a row per run and writes
`benchmarks/results/precision.json`, or `precision_steps.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

from mclnf_fast.cli import main as run_command
from mclnf_fast.learn.methods import base

RESULTS = pathlib.Path(__file__).parent / "results"
PRECISIONS = ("fp32", "bf16", "fp16")
RUNS = {
    "image": [
        "--size", "64", "--limit", "6", "--test", "4", "--patches", "1", "1", "--methods", "mod_random",
        "--steps", "1024", "--width", "64", "--seeds", "0", "1", "2", "3",
    ],
    "city": ["--quick", "--init", "random", "--methods", "mod_random", "--steps", "256"],
}  # fmt: skip


def psnr_of(system: str, folder: pathlib.Path) -> list[float]:
    """Return the mean PSNR of a finished run in dB, by seed."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if system == "city":
        return [float(metrics["methods"]["mod_random"]["psnr_mean"])]
    curves = [row["methods"]["mod_random"]["curve"]["psnr"] for row in metrics["seeds"].values()]
    return [statistics.fmean(curve[max(curve, key=int)]) for curve in curves]


def row(precision: str, values: Sequence[float], base: Sequence[float]) -> str:
    """Return a line of the table: the mean, and its difference from float32's with the error of the mean over seeds.

    >>> row("bf16", [20.0, 21.0], [20.1, 21.3])
    'bf16 20.50 dB, -0.20 +- 0.10 dB'
    """
    differences = [value - other for value, other in zip(values, base, strict=True)]
    several = len(differences) > 1
    error = f" +- {statistics.stdev(differences) / math.sqrt(len(differences)):.2f}" if several else ""
    return f"{precision} {statistics.fmean(values):.2f} dB, {statistics.fmean(differences):+.2f}{error} dB"


def main(words: Sequence[str] | None = None) -> None:
    """Run all of them, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="reference")
    parser.add_argument("--step-by-step", action="store_true")
    options = parser.parse_args(words)
    if options.step_by_step:
        base.fit_steps = lambda *_: None  # no fit serves
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for system, own in RUNS.items():
            results[system] = {}
            for precision in PRECISIONS:
                out = pathlib.Path(folder) / f"{system}-{precision}"
                where = ["--device", options.device, "--backend", options.backend, "--out", str(out)]
                if run_command(["run", system, *own, *where, "--precision", precision]) != 0:
                    raise SystemExit(f"run {system} --precision {precision} failed")
                results[system][precision] = psnr_of(system, out)
    for system, by_precision in results.items():
        for precision, values in by_precision.items():
            print(system, row(precision, values, by_precision["fp32"]))
    about = {"device": options.device, "backend": options.backend, "psnr": results}
    name = "precision_steps.json" if options.step_by_step else "precision.json"
    (RESULTS / name).write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
