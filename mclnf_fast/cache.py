"""Where the package keeps what it has made and can make again: generated scenes, tuned tiles."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "MCLNF_FAST_CACHE"


def folder() -> Path:
    """`$MCLNF_FAST_CACHE`, or `~/.cache/mclnf_fast`."""
    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "mclnf_fast"
