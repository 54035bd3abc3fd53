"""How methods are shown, from the one table of methods, and how the lines of their kinds of learning are dashed.

A kind of learning has one dash, a method one color and one marker. Colors of one kind stay apart under each of the
three color blindnesses; between kinds, dash and marker distinguish lines whose colors do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from mclnf_fast.learn.methods import METHODS
from mclnf_fast.learn.methods.table import SPARE

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


def method(key: str, category: str | None = None) -> Look:
    """Return how a method is shown; one that is not in the table gets its key as its name and a spare color.

    The table is `learn.methods.METHODS`; a run may hold methods of packages that are not installed here.

    Args:
        key: the name of the method in metrics.json.
        category: of a method that is not in the table; anything but one of `CATEGORIES` becomes MCL for variants of
            `mod` and `mim`, and CL else.

    >>> method("mim").name, method("my_method", "OL").name
    ('ours (MIM)', 'my method')
    """
    entry = METHODS.entries.get(key)
    if entry is not None:
        return Look(key, entry.title, entry.category, entry.color, entry.dark, entry.marker, entry.sentence)
    if category not in CATEGORIES:
        category = "MCL" if key.startswith(("mod", "mim")) else "CL"
    # By its letters, so that it has one color in all runs; `hash` of a string changes with the process.
    color, dark, marker = SPARE[sum(key.encode()) % len(SPARE)]
    return Look(key, key.replace("_", " "), category, color, dark, marker)


def in_order(keys: Iterable[str]) -> list[str]:
    """Return keys in the order in which they are shown everywhere: by category, in it that of the table, others last.

    >>> in_order(["new", "mim", "offline", "mim"])
    ['offline', 'new', 'mim']
    """
    unique = list(dict.fromkeys(keys))
    known = [k for k in METHODS if k in unique] + [k for k in unique if k not in METHODS]
    return sorted(known, key=lambda k: _rank(method(k).category))


def _rank(category: str) -> int:
    # Methods of plugins stand last in the table: by it alone a category would be listed twice.
    return list(CATEGORIES).index(category)


def looks(categories: Mapping[str, str | None]) -> dict[str, Look]:
    """Return how methods are shown, in order; `categories`: method -> the category that its run recorded.

    >>> list(looks({"mim": None, "er": "CL"}))
    ['er', 'mim']
    """
    shown = {key: method(key, categories[key]) for key in in_order(categories)}
    return dict(sorted(shown.items(), key=lambda item: _rank(item[1].category)))
