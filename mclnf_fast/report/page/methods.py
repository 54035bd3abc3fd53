"""The methods of MCL-NF's protocol: what each is called, what kind of learning it is, and how its line is drawn.

A kind of learning has one dash, a method one colour and one marker. Colours of one kind stay apart under each of
the three colour blindnesses, and between kinds dash and marker tell where the colour does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# The categories of the paper's table, in its order (arXiv 2504.05806, Table 1's caption).
CATEGORIES: dict[str, str] = {
    "OL": "offline learning: random start, all tasks at once",
    "CL": "continual learning: random start, task after task",
    "CML": "continual meta-learning: learned start, then plain learning, task after task",
    "MOL": "meta-offline learning: learned start, all tasks at once",
    "MCL": "meta-continual learning: meta-trained through the sequence of tasks",
}
JOINT = ("OL", "MOL")  # they see all tasks at once: nothing that could be forgotten
DASHES: dict[str, Any] = {
    "OL": (0, (1.2, 1.6)),
    "CL": (0, (5.0, 2.0)),
    "CML": (0, (6.0, 1.8, 1.4, 1.8)),
    "MOL": (0, (1.2, 1.6)),
    "MCL": "solid",
}


@dataclass(frozen=True)
class Method:
    """How a method is shown. `key` is its name in metrics.json."""

    key: str
    name: str
    category: str
    colour: str
    dark: str  # the colour on a dark page
    marker: str  # as matplotlib names it
    explain: str = ""


_KNOWN = (
    Method("offline", "offline", "OL", "#8a919e", "#a6adbb", "s", "one network, all tasks at once, random start"),
    Method("finetune", "fine-tuning", "CL", "#008f6b", "#3fcaa1", "v", "one network that goes on learning"),
    Method("er", "ER", "CL", "#b98a00", "#e0bd4a", "^", "fine-tuning with samples replayed from a reservoir"),
    Method("ewc", "EWC", "CL", "#5c3a21", "#c79b78", "<", "fine-tuning, held back by what mattered to earlier tasks"),
    Method("maml_cl", "MAML + CL", "CML", "#7a4fd0", "#b79cff", "D", "fine-tuning from a meta-learned start"),
    Method("maml_offline", "MAML, offline", "MOL", "#1b1e24", "#e8eaee", "P", "all tasks at once, meta-learned start"),
    Method("oml", "OML", "MCL", "#7d1d4f", "#e58bb8", ">", "a slow representation under a fast prediction part"),
    Method("mod", "ours (mod)", "MCL", "#0072b2", "#62b5ea", "o", "a module a task, from one meta-learned start"),
    Method("mim", "ours (MIM)", "MCL", "#c44e00", "#ff9a57", "*", "the modules, and Fisher information on the samples"),
    Method("mim_weight", "MIM (weights)", "MCL", "#1c10a5", "#8fa8ff", "h", "the paper's form: scores weight the loss"),
)
METHOD_KEYS = tuple(m.key for m in _KNOWN)
_BY_KEY = {m.key: m for m in _KNOWN}
_SPARE = (
    ("#3c6e71", "#86c5c9", "X"),
    ("#b3261e", "#ff8f85", "h"),
    ("#4d5a00", "#c3cf72", "p"),
    ("#5b5bd6", "#a3a3ff", "d"),
)


def method(key: str, category: str | None = None) -> Method:
    """A method by its key; one unknown here keeps its key as its name, and gets a spare colour and marker.

    Args:
        category: of a method that is unknown here; one of `CATEGORIES`, anything else becomes MCL's for
            variants of `mod` and `mim` and CL's else.
    """
    if key in _BY_KEY:
        return _BY_KEY[key]
    if category not in CATEGORIES:
        category = "MCL" if key.startswith(("mod", "mim")) else "CL"
    colour, dark, marker = _SPARE[sum(key.encode()) % len(_SPARE)]
    return Method(key, key.replace("_", " "), category, colour, dark, marker)


def in_order(keys: Iterable[str]) -> list[str]:
    """Keys in the order in which they are shown everywhere: by category, known ones first, others as they came."""
    given = list(dict.fromkeys(keys))
    return [k for k in METHOD_KEYS if k in given] + [k for k in given if k not in _BY_KEY]
