"""mclnf_fast: a fast engine for many small neural fields that learn one after another and do not forget."""

from __future__ import annotations

import importlib
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from mclnf_fast.cpus import wait_briefly
from mclnf_fast.errors import BackendError, InputError

__version__ = "0.1.0"

wait_briefly()  # before the first import of torch

# The command line answers these itself, in 0.1 s: the import of torch would make it two seconds.
_TEXT_ALONE: tuple[list[str], ...] = ([], ["-h"], ["--help"], ["--version"], ["run", "-h"], ["run", "--help"])

if pathlib.Path(sys.argv[0]).stem != "mclnf-fast" or sys.argv[1:] not in _TEXT_ALONE:
    from mclnf_fast import ops
    from mclnf_fast.fields import FieldBank, FieldDataset, load_bank, save_bank
    from mclnf_fast.info import info, warn_if_untested
    from mclnf_fast.shading import Shading
    from mclnf_fast.spec import (
        Composite,
        FieldSpec,
        Frequency,
        HashGrid,
        Identity,
        LogFrequency,
        SphericalHarmonics,
        TriPlane,
    )

    warn_if_untested()

if TYPE_CHECKING:
    from mclnf_fast import optim
    from mclnf_fast.artifacts import load, pretrained
    from mclnf_fast.systems.fit.api import fit

__all__ = [
    "BackendError",
    "Composite",
    "FieldBank",
    "FieldDataset",
    "FieldSpec",
    "Frequency",
    "HashGrid",
    "Identity",
    "InputError",
    "LogFrequency",
    "Shading",
    "SphericalHarmonics",
    "TriPlane",
    "fit",
    "info",
    "load",
    "load_bank",
    "ops",
    "optim",
    "pretrained",
    "save_bank",
]


def __getattr__(name: str) -> Any:
    # They know every system, and so nearly the whole package: `import mclnf_fast` alone needs torch and numpy only.
    if name == "optim":
        return importlib.import_module("mclnf_fast.optim")
    if name == "fit":
        from mclnf_fast.systems.fit.api import fit

        return fit
    if name in ("load", "pretrained"):
        from mclnf_fast import artifacts

        return getattr(artifacts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
