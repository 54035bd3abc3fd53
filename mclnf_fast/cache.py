"""The folder for files that can be made again: procedural scenes, tuned tiles."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MCLNF_FAST_CACHE"


def folder() -> Path:
    """Return `$MCLNF_FAST_CACHE`, or `~/.cache/mclnf_fast` if it is not set.

    >>> isinstance(folder(), Path)
    True
    """
    path = os.environ.get(VARIABLE)
    return Path(path).expanduser() if path else Path.home() / ".cache" / "mclnf_fast"
