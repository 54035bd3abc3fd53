"""Synthetic runs of the protocol, as `metrics.json` of before it had a version held them; the figures mean nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mclnf_fast.fields.io import save_tensors
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.record import CityRecord, InitializationRecord, SignalRecord, record_from_json

# name: category, PSNR at step 1 and in the end, how soon it gets there, dB that a task loses a task
KINDS: dict[str, tuple[str, float, float, float, float]] = {
    "offline": ("OL", 11.0, 31.0, 0.9, 0.0),
    "finetune": ("CL", 10.0, 21.0, 0.9, 5.0),
    "er": ("CL", 10.0, 26.0, 0.9, 2.0),
    "ewc": ("CL", 10.0, 22.5, 0.8, 4.0),
    "maml_cl": ("CML", 20.0, 24.0, 2.0, 4.0),
    "maml_offline": ("MOL", 22.0, 33.0, 0.8, 0.0),
    "oml": ("MCL", 19.0, 25.5, 2.0, 2.5),
    "mod": ("MCL", 23.0, 36.0, 0.7, 0.0),
    "mim": ("MCL", 23.0, 36.6, 0.8, 0.0),
    "mim_weight": ("MCL", 21.0, 33.0, 0.8, 0.0),
}


def signals(metrics: dict[str, Any]) -> SignalRecord:
    """The record of a run of signals; without anything in it, of one that measured nothing."""
    record = record_from_json({"system": "image", **{k: v for k, v in metrics.items() if v is not None}})
    assert isinstance(record, SignalRecord)
    return record


def statistics(metrics: dict[str, Any]) -> Statistics:
    return Statistics(signals(metrics))


def city(metrics: dict[str, Any]) -> CityRecord:
    record = record_from_json({"system": "city", **metrics})
    assert isinstance(record, CityRecord)
    return record


def initializations(metrics: dict[str, Any]) -> InitializationRecord:
    record = record_from_json({"system": "ct", **metrics})
    assert isinstance(record, InitializationRecord)
    return record


def log_steps(last: int) -> list[int]:
    steps = [1 << b for b in range(last.bit_length())]
    return steps if steps[-1] == last else [*steps, last]


def method_row(key: str, rng: np.random.Generator, signals: int, tasks: int, last: int, measure: str) -> dict[str, Any]:
    category, low, high, rate, lost = KINDS[key]
    steps = [0, *log_steps(last)]
    spread = rng.normal(0, 1.0, signals)

    def psnr(step: int) -> np.ndarray:
        share = min(1.0, np.log2(1 + step) / 12) ** rate
        return low + (high - low) * share + spread

    curve = {s: psnr(s) + rng.normal(0, 0.05, signals) for s in steps}
    end = curve[last]
    second = {s: (v - 5) / 40 if measure == "ssim" else v - 12 for s, v in curve.items()}
    drop = lost * rng.uniform(0.8, 1.2, signals)
    level = [end + i * 0.5 + lost * tasks / 2 for i in range(tasks)]
    before = [low - 2 + 0 * end for _ in range(tasks)]
    matrix = [
        [level[i] - drop * (k - i) if i <= k else before[i] + 0.3 * drop * (k + 1) for i in range(tasks)]
        for k in range(tasks)
    ]
    row: dict[str, Any] = {
        "category": category,
        "curve": {"psnr": {str(s): v.tolist() for s, v in curve.items()}},
        "before": [b.tolist() for b in before],
        "seconds": 1e-3 * last * (1.1 if key == "mim" else 1.0),
        "seconds_per_step": 1.1e-3 if key == "mim" else 1e-3,
        "steps": last * (tasks if category not in ("OL", "MOL") else 1),
        "points_per_step": 512,
        "peak_bytes_per_step": 3_500_000 + 1000 * len(key),
        "parameters": 50_000 + len(key),
    }
    row["curve"][measure] = {str(s): v.tolist() for s, v in second.items()}
    if category not in ("OL", "MOL"):
        row["matrix"] = [[cell.tolist() for cell in line] for line in matrix]
    if key in ("mod", "mim"):
        fine = sorted({*steps, *range(32, last + 1, 32)} - {0})
        row["fine"] = {"steps": fine, "psnr": [(curve[s] if s in curve else psnr(s)).tolist() for s in fine]}
    return row


def run_metrics(
    kind: str = "image",
    *,
    methods: Sequence[str] = tuple(KINDS),
    seeds: int = 3,
    signals: int = 6,
    tasks: int = 4,
    last: int = 4096,
) -> dict[str, Any]:
    """A metrics.json of `run image|video|audio`."""
    rng = np.random.default_rng(7)
    measure = "si_sdr" if kind == "audio" else "ssim"
    names = {"image": "patch", "video": "frames", "audio": "window"}
    outer = list(range(0, 2001, 50))

    def start(low: float) -> dict[str, Any]:
        train = [low + 12 * (1 - np.exp(-s / 400)) + rng.normal(0, 0.4) for s in outer]
        curve = [[s, v, v - 0.8 if s % 250 == 0 else None] for s, v in zip(outer, train)]
        return {"curve": curve, "seconds": 61.5, "outer_steps": 2000, "parameters": 50_000}

    return {
        "system": kind,
        "title": {"image": "faces, 2 x 2 patches", "video": "hands, groups of frames", "audio": "speech, 1 s"}[kind],
        "command": f"mclnf-fast run {kind} --data faces --seeds {seeds}",
        "machine": "a machine, 2 cores",
        "versions": {"torch": "2.13.0"},
        "backends": {"bank_mse": "cpu"},
        "config": {"steps": last},
        "notes": ["a note"],
        "tasks": [f"{names[kind]} {i + 1}" for i in range(tasks)],
        "signals": {"train": ["a"], "validation": ["b"], "test": [f"{kind}_{i:02d}" for i in range(signals)]},
        "metrics": ["psnr", measure],
        "steps": log_steps(last),
        "rate": 16000.0 if kind == "audio" else None,
        "seeds": {
            str(seed): {
                "starts": {"modules": start(15.0), "joint": start(13.0), "oml": start(12.0)},
                "methods": {m: method_row(m, rng, signals, tasks, last, measure) for m in methods},
            }
            for seed in range(seeds)
        },
        "pictures": [],
        "seconds_total": 1234.5,
        "phases": {"data": 1.0, "meta-training": 180.0, "learning": 1000.0, "pictures": 5.0},
    }


def write_run(folder: Path, metrics: dict[str, Any], truth: torch.Tensor | None = None) -> Path:
    """A finished run folder with predictions: the truth, noisy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if truth is not None:
        save_tensors(folder / "predictions/truth.safetensors", {"values": truth}, {})
        for i, m in enumerate(next(iter(metrics["seeds"].values()))["methods"]):
            made = torch.Generator().manual_seed(i)
            noisy = (truth + 0.02 * (i + 1) * torch.randn(truth.shape, generator=made)).clamp(0, 1)
            save_tensors(folder / f"predictions/{m}.safetensors", {"values": noisy}, {})
    return folder


def values(kind: str, signals: int = 2) -> torch.Tensor:
    """Small signals of a kind, as `Signals.values`."""
    shape = {"image": (signals, 20, 24, 3), "video": (signals, 8, 12, 16, 3), "audio": (signals, 1600, 1)}[kind]
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))
