"""The peers: one file each, imported only when a case names it.

A file has `missing() -> str | None`, why the peer can't take part here, and `OPS`, a mapping of problem to a function
that gives the peer's contender.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

from benchmarks.contender import Contender, Unsupported
from benchmarks.work import Work

FILES = {
    "loop": "loop",
    "bmm": "bmm",
    "in turn": "in_turn",
    "compile": "compiled",
    "func": "func",
    "jax": "jax_peer",
    "formula": "formula",
    "backpack": "backpack_peer",
    "opacus": "opacus_peer",
    "torchopt": "torchopt_peer",
    "torchopt loop": "torchopt_loop",
    "reference": "reference",
    "adam fused": "adam_fused",
    "adam foreach": "adam_foreach",
    "ops": "unfused",
    "tinycudann": "tinycudann_peer",
    "nerfacc": "nerfacc_peer",
}

TITLES = {
    "loop": "loop over nn.Modules, PyTorch",
    "bmm": "stacked bmm, PyTorch",
    "in turn": "one after another, PyTorch",
    "compile": "torch.compile of the stacked bmm",
    "func": "torch.func (vmap, grad)",
    "jax": "jax.jit(vmap)",
    "formula": "the formula in plain PyTorch",
    "backpack": "BackPACK",
    "opacus": "Opacus",
    "torchopt": "TorchOpt MetaSGD",
    "torchopt loop": "TorchOpt MetaSGD, a task at a time",
    "reference": "our PyTorch reference",
    "adam fused": "torch.optim.Adam(fused=True)",
    "adam foreach": "torch.optim.Adam(foreach=True)",
    "ops": "our ops, one by one",
    "tinycudann": "tiny-cuda-nn (a call a network)",
    "nerfacc": "nerfacc",
}


def _file(name: str) -> ModuleType:
    return importlib.import_module(f"benchmarks.peers.{FILES[name]}")


@functools.cache
def missing(name: str) -> str | None:
    """Return why a peer can't take part on this machine; None if it can."""
    if name not in FILES:
        raise ValueError(f"a peer must be one of {', '.join(FILES)}, got {name!r}")
    reason: str | None = _file(name).missing()
    return reason


def contender(name: str, op: str, work: Work) -> Contender:
    """Return the peer's contender for a problem. Raises Unsupported where it has none."""
    found = _file(name).OPS
    if op not in found:
        raise Unsupported(f"{name} does not do {op}")
    built: Contender = found[op](work)
    built.name = built.peer = name
    return built


def importable(module: str, package: str | None = None) -> str | None:
    """Return the reason for `missing`: None where `module` imports."""
    try:
        importlib.import_module(module)
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return f"{package or module} is not installed"
        return f"{package or module} does not import ({type(error).__name__}: {said})"
    return None
