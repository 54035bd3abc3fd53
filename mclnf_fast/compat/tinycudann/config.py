"""Reads a config dict: every key once, checked, and an error for each key that nobody reads."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Mapping, Sequence


class Config:
    """A config dict of tiny-cuda-nn while it is read.

    Names are compared without regard to case, as there. `owner` begins every message.

    Example:
        >>> config = Config("encoding_config", {"otype": "frequency", "n_frequencies": 4})
        >>> config.name("otype", "OneBlob", ("Frequency", "OneBlob")), config.whole("n_frequencies", 12)
        ('Frequency', 4)
        >>> config.close()
    """

    def __init__(self, owner: str, values: object) -> None:
        if not isinstance(values, Mapping):
            raise TypeError(f"{owner} must be a dict, got {type(values).__name__}")
        self.owner = owner
        self._values = values
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: object) -> object:
        """Return the value of a key, or the default if the dict has none."""
        self._read.add(key)
        return self._values.get(key, default)

    def whole(self, key: str, default: int, least: int = 1, most: int | None = None) -> int:
        """Return an int of at least `least` and at most `most`."""
        value = self.get(key, default)
        limits = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            number = operator.index(value)
            if number >= least and (most is None or number <= most):
                return number
        raise ValueError(f"{self.owner}: {key} must be {limits}, got {value!r}")

    def number(self, key: str, default: float) -> float:
        """Return a finite number."""
        value = self.get(key, default)
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        raise ValueError(f"{self.owner}: {key} must be a finite number, got {value!r}")

    def name(self, key: str, default: str, known: Sequence[str]) -> str:
        """Return one of the `known` names."""
        value = self.get(key, default)
        for name in known:
            if isinstance(value, str) and value.lower() == name.lower():
                return name
        raise ValueError(f"{self.owner}: {key} must be one of {', '.join(known)}, got {value!r}")

    def only(self, key: str, value: object, reason: str) -> None:
        """Raise ValueError if a key has another than the one value that is supported."""
        actual = self.get(key, value)
        if actual != value:
            raise ValueError(f"{self.owner}: {key} must be {value!r} ({reason}), got {actual!r}")

    def close(self) -> None:
        """Raise ValueError if the dict has a key that was not asked for."""
        unknown = [repr(key) for key in self._values if key not in self._read]
        if unknown:
            known = ", ".join(sorted(self._read))
            raise ValueError(f"{self.owner}: keys must be among {known}, got {', '.join(unknown)} as well")
