"""Names of initializations that are compared."""

from __future__ import annotations

from typing import Literal

StartName = Literal["standard", "matched", "shuffled", "meta"]
