"""Optional packages of the extras `media` and `meshes`, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from mclnf_fast.errors import InputError


class MissingExtraError(InputError):
    """A package is missing: no file's fault, so that no file is skipped for it."""


def extra(module: str, what: str, name: str = "media") -> Any:
    """The module; an error that names the extra (`name`) where it is not installed."""
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        missing = getattr(error, "name", None) or module
        raise MissingExtraError(
            f"reading {what} needs the package {missing}: pip install 'mclnf-fast[{name}]'"
        ) from None


def reason(error: Exception) -> str:
    """What an error of another library says, in one line and without the path."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
