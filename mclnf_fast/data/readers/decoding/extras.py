"""Imports the optional packages of the extras `media` and `meshes` when they are first needed."""

from __future__ import annotations

import importlib
from typing import Any

from mclnf_fast.errors import InputError, pip_install


class MissingExtraError(InputError):
    """A package of an extra is not installed.

    It is no fault of a file, so readers never skip a file for it: a folder of videos read without `av` would otherwise
    end as a folder of which every file is corrupt.

    >>> issubclass(MissingExtraError, InputError)
    True
    """


def import_extra(module: str, purpose: str, extra: str = "media") -> Any:
    """Return the module, imported.

    Args:
        module: name of the module.
        purpose: the data that it reads, for the message.
        extra: the extra of `mclnf-fast` that installs it.

    Raises:
        MissingExtraError: it is not installed, or its own libraries are missing.

    >>> import_extra("math", "numbers").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        missing = getattr(error, "name", None) or module
        raise MissingExtraError(f"reading {purpose} needs the package {missing}: {pip_install(extra)}") from None


def error_reason(error: Exception) -> str:
    """Return the message of another library's error in one line, without the path that our own message begins with.

    >>> error_reason(FileNotFoundError(2, "No such file or directory", "a.png"))
    'No such file or directory'
    """
    return " ".join(str(getattr(error, "strerror", None) or error).split())
