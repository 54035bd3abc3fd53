"""Small whole runs of a system in this process: their metrics and predictions, and runs that are interrupted."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from torch import Tensor

from mclnf_fast.cli import main
from mclnf_fast.fields.io import load_tensors


def metrics_of(folder: pathlib.Path) -> dict[str, Any]:
    """Return the metrics of a finished run."""
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def run_system(system: str, options: list[str], out: pathlib.Path, *words: object) -> dict[str, Any]:
    """Run a system into a new folder, and return its metrics."""
    assert main(["run", system, *options, "--out", str(out), *map(str, words)]) == 0
    return metrics_of(out)


def results(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of all initializations without their seconds."""
    return {n: {k: v for k, v in row.items() if k != "seconds"} for n, row in metrics["initializations"].items()}


def predictions(folder: pathlib.Path, name: str) -> Tensor:
    """Return the stored values of a prediction."""
    return load_tensors(folder / "predictions" / f"{name}.safetensors")[0]["values"]


class CountedCalls:
    """A method that counts its calls and, from `limit` calls on, raises KeyboardInterrupt in their place.

    A limit of None never interrupts, so that the same counter follows a resumed run.
    """

    def __init__(self, patch: pytest.MonkeyPatch, owner: type, name: str, limit: int | None = None) -> None:
        original = getattr(owner, name)
        self.count, self.limit = 0, limit

        def counted(*arguments: Any, **options: Any) -> Any:
            if self.count == self.limit:
                raise KeyboardInterrupt
            self.count += 1
            return original(*arguments, **options)

        patch.setattr(owner, name, counted)
