"""Loads the compiled libraries, once; one that is missing, stale or broken is a reason, never a failed import."""

from __future__ import annotations

import functools
import importlib
import pathlib

import torch

import mclnf_fast
from mclnf_fast import packing
from mclnf_fast.ops import schemas

_FOLDER = pathlib.Path(__file__).resolve().parent.parent


@functools.cache
def why_not(library: str) -> str | None:
    """Return why the library `"cpu"` or `"cuda"` is not loaded; None if it is."""
    path = _FOLDER / f"_C_{library}.so"
    if library == "cuda" and not path.exists():
        try:
            wheel = importlib.import_module("mclnf_fast_cuda")
        except ImportError:
            pass
        else:
            if wheel.__version__ != (version := mclnf_fast.__version__):
                return f"mclnf-fast-cuda {wheel.__version__} is of another version than mclnf-fast {version}"
            path = pathlib.Path(wheel.__path__[0]) / path.name
    if not path.exists():
        return (
            f"the compiled {library} library is not part of this install (reinstall with "
            + ("a C++ compiler" if library == "cpu" else "nvcc, a C++ compiler and a torch that has CUDA")
            + " at hand and without MCLNF_NO_EXT"
            + ("" if library == "cpu" else " or MCLNF_NO_CUDA, or install the wheel mclnf-fast-cuda")
            + "; pip install -v shows why it was left out)"
        )
    if library == "cuda":
        if not torch.cuda.is_available():
            return "torch sees no CUDA device"
        if (reason := why_not("cpu")) is not None:  # the schemas are there
            return reason
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"the compiled {library} library does not load ({error}); reinstall for this torch {torch.__version__}"
    return _stale() if library == "cpu" else None


def _stale() -> str | None:
    """Return why the loaded library is of another version than this package; None if it is not.

    Without the check a library left over from before an edit would run a `tanh` network as a `sigmoid` one, or fail in
    the middle of a call.
    """
    if (name := schemas.difference("mclnf_fast", schemas.COMPILED)) is not None:
        return f"the compiled library is of another version than this package (its op {name} differs); build it again"
    if torch.ops.mclnf_fast.name_table() != packing.name_table():
        return "the compiled library numbers the names of csrc/names.h otherwise than this package; build it again"
    return None


def available(library: str = "cpu") -> bool:
    """Return whether the library is loaded; loads it at the first call."""
    return why_not(library) is None


def why_not_loaded(library: str) -> str | None:
    """Return why a compiled library, `"cpu"` or `"cuda"`, is not loaded; None if it is.

    >>> from mclnf_fast import ops
    >>> ops.why_not_loaded("cpu") is None or "library" in ops.why_not_loaded("cpu")
    True
    """
    return why_not(library)
