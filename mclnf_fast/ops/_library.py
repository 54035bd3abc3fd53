"""Loads the compiled libraries, once; one that is missing or does not load is a reason, never a failed
import."""

from __future__ import annotations

import functools
import pathlib

import torch

_FOLDER = pathlib.Path(__file__).resolve().parent.parent


@functools.cache
def why_not(library: str) -> str | None:
    """Why the library `"cpu"` or `"cuda"` is not loaded; None where it is."""
    path = _FOLDER / f"_C_{library}.so"
    if not path.exists():
        return (
            f"the compiled {library} library is not part of this install (reinstall with "
            + ("a C++ compiler" if library == "cpu" else "nvcc and a C++ compiler")
            + " at hand and without MCLNF_NO_EXT"
            + ("" if library == "cpu" else " or MCLNF_NO_CUDA")
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
    return None


def available(library: str = "cpu") -> bool:
    """Whether the library is loaded; loads it at the first call."""
    return why_not(library) is None
