"""mclnf_fast: a fast engine for many small neural fields that learn one after another and do not forget."""

from mclnf_fast import ops
from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.fields import FieldBank, load_bank, save_bank
from mclnf_fast.info import info
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

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Composite",
    "FieldBank",
    "FieldSpec",
    "Frequency",
    "HashGrid",
    "Identity",
    "InputError",
    "LogFrequency",
    "Shading",
    "SphericalHarmonics",
    "TriPlane",
    "info",
    "load_bank",
    "ops",
    "save_bank",
]
