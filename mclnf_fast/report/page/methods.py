"""The methods of the continual learning protocol: their names, kinds of learning, and how their lines are drawn.

A kind of learning has one dash, a method one color and one marker. Colors of one kind stay apart under each of the
three color blindnesses; between kinds, dash and marker distinguish lines whose colors do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Dash = Literal["solid"] | tuple[float, tuple[float, ...]]  # as matplotlib takes it

# The categories of the paper's table, in its order (arXiv 2504.05806, Table 1's caption).
CATEGORIES: dict[str, str] = {
    "OL": "offline learning: random initialization, all tasks at once",
    "CL": "continual learning: random initialization, task after task",
    "CML": "continual meta-learning: meta-learned initialization, then plain learning, task after task",
    "MOL": "meta-offline learning: meta-learned initialization, all tasks at once",
    "MCL": "meta-continual learning: meta-trained through the sequence of tasks",
}
JOINT = ("OL", "MOL")  # they see all tasks at once: nothing can be forgotten
DASHES: dict[str, Dash] = {
    "OL": (0, (1.2, 1.6)),
    "CL": (0, (5.0, 2.0)),
    "CML": (0, (6.0, 1.8, 1.4, 1.8)),
    "MOL": (0, (1.2, 1.6)),
    "MCL": "solid",
}


@dataclass(frozen=True)
class Look:
    """How a method, or an initialization, is shown everywhere.

    Attributes:
        key: its name in metrics.json.
        name: its name in tables and plots.
        category: its kind of learning, a key of `CATEGORIES`; "" for an initialization.
        color, dark: on white and on a dark page, `#rrggbb`.
        marker: as matplotlib names it.
        sentence: what it does, for the legend of a page.
    """

    key: str
    name: str
    category: str
    color: str
    dark: str
    marker: str
    sentence: str = ""


_KNOWN = (
    Look("offline", "offline", "OL", "#8a919e", "#a6adbb", "s",
         "one network, all tasks at once, from a random initialization"),
    Look("finetune", "fine-tuning", "CL", "#008f6b", "#3fcaa1", "v",
         "one network that is trained on task after task"),
    Look("er", "ER", "CL", "#b98a00", "#e0bd4a", "^",
         "fine-tuning with samples of earlier tasks replayed from a reservoir: twice the samples per step"),
    Look("ewc", "EWC", "CL", "#5c3a21", "#c79b78", "<",
         "fine-tuning with a penalty on changes of parameters that earlier tasks depend on"),
    Look("mod_random", "modules, random", "CL", "#c060e4", "#d9a0f5", "d",
         "one module per task, from a random initialization instead of the meta-learned one"),
    Look("maml_cl", "MAML + CL", "CML", "#7a4fd0", "#b79cff", "D",
         "fine-tuning from an initialization that MAML learned"),
    Look("maml_offline", "MAML, offline", "MOL", "#1b1e24", "#e8eaee", "P",
         "one network, all tasks at once, from the initialization that MAML learned"),
    Look("oml", "OML", "MCL", "#7d1d4f", "#e58bb8", ">",
         "one network of which the last layers are trained; the first were meta-learned through sequences of tasks"),
    Look("mod", "ours (mod)", "MCL", "#0072b2", "#62b5ea", "o",
         "one module per task, from one meta-learned initialization; modules of earlier tasks are frozen"),
    Look("mim", "ours (MIM)", "MCL", "#c44e00", "#ff9a57", "*",
         "the modules, with Fisher information deciding which samples they are trained on"),
    Look("mim_weight", "MIM (weights)", "MCL", "#1c10a5", "#8fa8ff", "h",
         "the paper's form: Fisher scores weight the loss"),
)  # fmt: skip
METHOD_KEYS = tuple(m.key for m in _KNOWN)
_BY_KEY = {m.key: m for m in _KNOWN}
_SPARE = (
    ("#3c6e71", "#86c5c9", "X"),
    ("#b3261e", "#ff8f85", "H"),
    ("#4d5a00", "#c3cf72", "p"),
    ("#5b5bd6", "#a3a3ff", "8"),
)


def method(key: str, category: str | None = None) -> Look:
    """Return how a method is shown; one from outside the package gets its key as its name and a spare color.

    Args:
        key: the name of the method in metrics.json.
        category: of a method that is not in the table; anything but one of `CATEGORIES` becomes MCL for variants of
            `mod` and `mim`, and CL else.

    >>> method("mim").name, method("my_method", "OL").name
    ('ours (MIM)', 'my method')
    """
    if key in _BY_KEY:
        return _BY_KEY[key]
    if category not in CATEGORIES:
        category = "MCL" if key.startswith(("mod", "mim")) else "CL"
    color, dark, marker = _SPARE[sum(key.encode()) % len(_SPARE)]
    return Look(key, key.replace("_", " "), category, color, dark, marker)


def in_order(keys: Iterable[str]) -> list[str]:
    """Return keys in the order in which they are shown everywhere: by category, unknown ones last, as they came.

    >>> in_order(["new", "mim", "offline", "mim"])
    ['offline', 'mim', 'new']
    """
    unique = list(dict.fromkeys(keys))
    return [k for k in METHOD_KEYS if k in unique] + [k for k in unique if k not in _BY_KEY]


def looks(categories: Mapping[str, str | None]) -> dict[str, Look]:
    """Return how methods are shown, in order; `categories`: method -> the category that its run recorded.

    >>> list(looks({"mim": None, "er": "CL"}))
    ['er', 'mim']
    """
    return {key: method(key, categories[key]) for key in in_order(categories)}
