"""A small synthetic run of a city: four methods, three blocks, and pictures of 12 x 16 pixels."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


def _row(base: float, drop: float) -> dict[str, Any]:
    matrix = [[base - i - drop * (k - i) if i <= k else None for i in range(3)] for k in range(3)]
    return {
        "psnr_mean": float(np.mean(matrix[-1])),
        "ssim_mean": 0.7123,
        "psnr_first_task_after_own": matrix[0][0],
        "psnr_first_task_after_all": matrix[-1][0],
        "forgetting": drop,
        "psnr_at_step": {"1": base - 10, "4": base - 8, "16": base - 5, "64": base - 1},
        "seconds": 12.5,
        "parameters": 4096,
        "steps_per_block": 64,
        "matrix": matrix,
    }


@pytest.fixture
def summary() -> dict[str, dict[str, Any]]:
    rows = {
        "mim": _row(24.5, 0.0),
        "mod": _row(24.25, 0.0),
        "finetune": _row(22.0, 2.0),
        "mod_random": _row(23.0, 0.0),
    }
    rows["mod_random"]["psnr_at_step"]["16"] = 14.0
    return rows


@pytest.fixture
def many(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same with all ten methods; two of them met all blocks at once."""
    rows = metrics["summary"]
    rows |= {m: _row(20.0 + i, 1.0) for i, m in enumerate(("oml", "maml_cl", "ewc", "er"))}
    for i, m in enumerate(("offline", "maml_offline")):
        none = [None] * 3
        rows[m] = {**_row(23.5 + i, 0.0), "matrix": [none, none, [23.5, 23.0, 22.0 + i]], "psnr_mean": 22.8 + i / 3}
        rows[m] |= {"psnr_first_task_after_own": None, "forgetting": None}
    metrics["starts"] = {"joint": {"seconds": 9.0, "steps": 2, "curve": [[1, 12.0], [2, 15.0]]}}
    return metrics


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).random((12, 16, 3))


@pytest.fixture
def metrics(summary: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "title": "A test city",
        "blocks": ["one", "two", "three"],
        "machine": "a machine, 2 cores",
        "versions": {"torch": "2.13.0"},
        "seconds_total": 125.0,
        "phases": {"meta": 10.0, "mim": 12.5, "pictures": 0.5},
        "meta": {"seconds": 10.0, "steps": 20, "curve": [[0, 12.0], [10, 15.0], [20, 16.0]]},
        "city": {"mim": 21.5},
        "summary": summary,
        "comparison": {"mim_steps_to_mod_final": {"block_1": 48, "block_2": None}},
        "pictures": [{"file": "images/a.png", "kind": "triptych", "caption": "the first picture"}],
        "command": "mclnf-fast run city",
        "notes": ["a note"],
    }


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a package, and all in it, impossible to import."""

    def block(package: str) -> None:
        real = builtins.__import__

        def guarded(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == package or name.startswith(package + "."):
                raise ImportError(f"No module named {name!r}")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", guarded)

    return block


@pytest.fixture
def run_dir(tmp_path: Path, picture: np.ndarray) -> Path:
    from mclnf_fast.report import save_png

    save_png(tmp_path / "images" / "a.png", picture)
    (tmp_path / "config.yaml").write_text("seed: 0 # <tag>\n")
    return tmp_path
