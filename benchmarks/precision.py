"""What training in half types costs in PSNR: `python -m benchmarks.precision` runs a small image and a small city in
float32, bf16 and fp16, with the same draws.

On a CPU without dot products of bf16 pairs by the reference, which has all roundings on every device (about ten
minutes on one core); `--device cuda` by the kernels. Prints a row per run and writes
`benchmarks/results/precision.json`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Sequence

from mclnf_fast.cli import main as run_command

RESULTS = pathlib.Path(__file__).parent / "results"
PRECISIONS = ("fp32", "bf16", "fp16")
RUNS = {
    "image": [
        "--size", "64", "--limit", "6", "--test", "4", "--patches", "1", "1", "--methods", "mod_random",
        "--steps", "1024", "--width", "64",
    ],
    "city": ["--quick", "--init", "random", "--methods", "mod_random", "--steps", "256"],
}  # fmt: skip


def psnr_of(system: str, folder: pathlib.Path) -> float:
    """Return the mean PSNR of a finished run in dB."""
    metrics = json.loads((folder / "metrics.json").read_text())
    if system == "city":
        return float(metrics["methods"]["mod_random"]["psnr_mean"])
    curve = metrics["seeds"]["0"]["methods"]["mod_random"]["curve"]["psnr"]
    last = curve[max(curve, key=int)]
    return float(sum(last) / len(last))


def main(words: Sequence[str] | None = None) -> None:
    """Run all of them, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="reference")
    options = parser.parse_args(words)
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for system, own in RUNS.items():
            results[system] = {}
            for precision in PRECISIONS:
                out = pathlib.Path(folder) / f"{system}-{precision}"
                where = ["--device", options.device, "--backend", options.backend, "--out", str(out)]
                if run_command(["run", system, *own, *where, "--precision", precision]) != 0:
                    raise SystemExit(f"run {system} --precision {precision} failed")
                results[system][precision] = psnr_of(system, out)
    for system, row in results.items():
        print(system, *(f"{precision} {value:.2f} dB" for precision, value in row.items()))
    about = {"device": options.device, "backend": options.backend, "psnr": results}
    (RESULTS / "precision.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
