"""torch.compile of the stacked bmm; compiling is not timed."""

from __future__ import annotations

import importlib.util
import shutil

import torch

from benchmarks.contender import Contender, Unsupported
from benchmarks.peers import bmm
from benchmarks.work.bank import Bank
from benchmarks.work.fitting import Fit


def missing() -> str | None:
    """Inductor needs a C++ compiler: on a CPU for its kernels, on a GPU for what launches Triton's."""
    return None if shutil.which("g++") or shutil.which("clang++") else "torch.compile finds no C++ compiler"


def _evaluator(work: Bank) -> bmm.Layers:
    if work.device == "cuda" and importlib.util.find_spec("triton") is None:
        raise Unsupported("torch.compile needs triton on a GPU, which is not installed")
    torch.compiler.reset()
    return bmm.evaluator(work, lambda f: torch.compile(f, fullgraph=True, dynamic=False))


def forward(work: Bank) -> Contender:
    """Return the forward."""
    return bmm.forward_with(work, _evaluator(work))


def forward_backward(work: Bank) -> Contender:
    """Forward and backward, both compiled."""
    return bmm.gradients_with(work, _evaluator(work))


def squared_error(work: Bank) -> Contender:
    """Squared error and its gradients; the network is what is compiled."""
    return bmm.errors_with(work, _evaluator(work))


def fit_loop(work: Fit) -> Contender:
    """Return the loop with its network compiled."""
    torch.compiler.reset()
    return bmm.fit_with("compile", work, lambda f: torch.compile(f, fullgraph=True, dynamic=False))


OPS = {"fit_loop": fit_loop, "forward": forward, "forward_backward": forward_backward, "squared_error": squared_error}
