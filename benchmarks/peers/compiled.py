"""torch.compile of the stacked bmm; compiling is not timed."""

from __future__ import annotations

import shutil

import torch

from benchmarks.contender import Contender
from benchmarks.peers import bmm
from benchmarks.work.bank import Bank


def missing() -> str | None:
    """On a CPU inductor needs a C++ compiler."""
    return None if shutil.which("g++") or shutil.which("clang++") else "torch.compile finds no C++ compiler"


def _evaluator(work: Bank) -> bmm.Layers:
    torch.compiler.reset()
    return bmm.evaluator(work, lambda f: torch.compile(f, fullgraph=True, dynamic=False))


def forward(work: Bank) -> Contender:
    """The forward."""
    return bmm.forward_with(work, _evaluator(work))


def forward_backward(work: Bank) -> Contender:
    """Forward and backward, both compiled."""
    return bmm.gradients_with(work, _evaluator(work))


def squared_error(work: Bank) -> Contender:
    """Squared error and its gradients; the network is what is compiled."""
    return bmm.errors_with(work, _evaluator(work))


OPS = {"forward": forward, "forward_backward": forward_backward, "squared_error": squared_error}
