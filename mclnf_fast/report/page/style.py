"""What every table, plot and picture of a run shares: names and colours of the methods, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mclnf_fast.errors import InputError

METHODS = ("mim", "mod", "oml", "maml_cl", "ewc", "er", "finetune", "mod_random", "maml_offline", "offline")

METHOD_NAMES: dict[str, str] = {
    "mim": "modules + Fisher",
    "mod": "modules",
    "oml": "OML",
    "maml_cl": "MAML + CL",
    "ewc": "EWC",
    "er": "replay (ER)",
    "finetune": "one network, fine-tuned",
    "mod_random": "modules, random start",
    "maml_offline": "MAML, offline",
    "offline": "offline",
}

# Okabe and Ito's colour-blind-safe set, the yellows left out: they don't carry text on white.
PALETTE: dict[str, str] = {
    "mim": "#c44e00",
    "mod": "#0072b2",
    "oml": "#7d1d4f",
    "maml_cl": "#7a4fd0",
    "ewc": "#5c3a21",
    "er": "#8f6a00",
    "finetune": "#008f6b",
    "mod_random": "#a8558a",
    "maml_offline": "#1b1e24",
    "offline": "#6b7280",
}
# The same hues, light enough for text on a dark page.
PALETTE_DARK: dict[str, str] = {
    "mim": "#ff9a57",
    "mod": "#62b5ea",
    "oml": "#e58bb8",
    "maml_cl": "#b79cff",
    "ewc": "#c79b78",
    "er": "#e0bd4a",
    "finetune": "#3fcaa1",
    "mod_random": "#e093c2",
    "maml_offline": "#e8eaee",
    "offline": "#a6adbb",
}
_SPARE = ("#7a6a00", "#5b5bd6", "#8c4a2f", "#3c6e71", "#6b7280")
_SPARE_DARK = ("#d8c448", "#a3a3ff", "#d49a7c", "#86c5c9", "#a6adbb")

MODULAR = ("mim", "mod", "mod_random")  # methods whose modules are frozen once their block is learned
JOINT = ("maml_offline", "offline")  # methods that meet all blocks at once


def colour(method: str, *, dark: bool = False) -> str:
    """The colour of a method, `#rrggbb`; a method unknown here gets one of a few spare ones."""
    spare = _SPARE_DARK if dark else _SPARE
    return (PALETTE_DARK if dark else PALETTE).get(method) or spare[sum(method.encode()) % len(spare)]


def name(method: str) -> str:
    """What a method is called in a table or a picture."""
    return METHOD_NAMES.get(method, method)


def ordered(methods: Iterable[str]) -> list[str]:
    """The methods in the order in which they are shown everywhere; unknown ones last, as they came."""
    given = list(methods)
    return [m for m in METHODS if m in given] + [m for m in given if m not in METHODS]


def finite(value: object) -> float | None:
    """`value` as a finite float; None for None, NaN, infinities, booleans and what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def db(value: object, *, sign: bool = False, unit: bool = False) -> str:
    """A figure in dB with two decimals, `-` where it is missing. A rounded zero has no sign."""
    number = finite(value)
    if number is None:
        return "-"
    text = f"{number:+.2f}" if sign else f"{number:.2f}"
    if float(text) == 0.0:
        text = "0.00"
    return f"{text} dB" if unit else text


def duration(seconds: object) -> str:
    """`0.4 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`; `-` where it is missing."""
    number = finite(seconds)
    if number is None:
        return "-"
    if number < 99.95:
        return f"{number:.1f} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def matrix_of(row: Mapping[str, Any]) -> list[list[float | None]]:
    """R[k][i] of one method of the summary, PSNR of block i after block k; what is no number is None."""
    matrix = row.get("matrix")
    if not isinstance(matrix, list | tuple):
        return []
    return [[finite(v) for v in line] for line in matrix if isinstance(line, list | tuple)]


def steps_of(row: Mapping[str, Any]) -> dict[int, float]:
    """PSNR by step of one method of the summary, in the order of the steps."""
    curve = row.get("psnr_at_step")
    if not isinstance(curve, Mapping):
        return {}
    pairs = [(int(s), finite(v)) for s, v in curve.items() if str(s).isdigit()]
    return {s: v for s, v in sorted(pairs, key=lambda p: p[0]) if v is not None}


def check_extra() -> None:
    """To ask before a run. Raises: InputError, naming the extra, if matplotlib or jinja2 is missing."""
    for module in ("matplotlib", "jinja2"):
        try:
            __import__(module)
        except ImportError:
            raise InputError(missing_extra(module)) from None


def missing_extra(module: str) -> str:
    """What to say where `module` cannot be imported."""
    return f"the report needs {module}, which is not installed: pip install 'mclnf-fast[report]'"
