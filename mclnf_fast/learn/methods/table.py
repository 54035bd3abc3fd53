"""The one table of methods: what each is called, how its line is drawn, one sentence, and the class.

Every list of methods (options, reports, plots) is read from it. Packages add methods through entry points of the group
`mclnf_fast.methods`, each a `MethodEntry` or a subclass of `Method`; programs through `register_method`.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mclnf_fast.errors import InputError
from mclnf_fast.learn.methods.base import Category, Method
from mclnf_fast.learn.methods.er import ER
from mclnf_fast.learn.methods.ewc import EWC
from mclnf_fast.learn.methods.finetune import FineTune
from mclnf_fast.learn.methods.maml_cl import MAMLCL
from mclnf_fast.learn.methods.maml_offline import MAMLOffline
from mclnf_fast.learn.methods.mim import MIM
from mclnf_fast.learn.methods.mim_weight import MIMWeight
from mclnf_fast.learn.methods.mod import Mod
from mclnf_fast.learn.methods.mod_even import ModEven
from mclnf_fast.learn.methods.mod_random import ModRandom
from mclnf_fast.learn.methods.offline import Offline
from mclnf_fast.learn.methods.oml import OML

GROUP = "mclnf_fast.methods"
# (color, on a dark page, marker) of methods that bring none.
SPARE = (
    ("#3c6e71", "#86c5c9", "X"),
    ("#b3261e", "#ff8f85", "H"),
    ("#4d5a00", "#c3cf72", "p"),
    ("#5b5bd6", "#a3a3ff", "8"),
)


@dataclass(frozen=True)
class MethodEntry:
    """A method and how it is shown everywhere.

    Colors of one category stay apart under each of the three color blindnesses; between categories the dash (which
    belongs to the category) and the marker distinguish lines whose colors do not.

    Args:
        name: on a command line and in metrics.json: small letters, digits and underscores.
        method: the class.
        title: in tables and plots.
        color, dark: on white and on a dark page, `#rrggbb`.
        marker: as matplotlib names it.
        sentence: what it does, for the legend of a page.

    Raises InputError if an argument is of another form.

    >>> entry("mim").title, entry("mim").category
    ('ours (MIM)', 'MCL')
    """

    name: str
    method: type[Method]
    title: str
    color: str
    dark: str
    marker: str
    sentence: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise InputError(f"name of a method must be small letters, digits and underscores, got {self.name!r}")
        if not (isinstance(self.method, type) and issubclass(self.method, Method)):
            raise InputError(f"method of {self.name} must be a subclass of Method, got {self.method!r}")
        for name in ("color", "dark"):
            if not re.fullmatch(r"#[0-9a-f]{6}", getattr(self, name)):
                raise InputError(f"{name} of method {self.name} must be #rrggbb, got {getattr(self, name)!r}")

    @property
    def category(self) -> Category:
        """The kind of learning: OL, CL, CML, MOL or MCL (arXiv 2504.05806, Table 1)."""
        return self.method.category


# In the order of MCL-NF's Table 1, by category.
BUILT_IN = (
    MethodEntry("offline", Offline, "offline", "#8a919e", "#a6adbb", "s",
                "one network, all tasks at once, from a random initialization"),
    MethodEntry("finetune", FineTune, "fine-tuning", "#008f6b", "#3fcaa1", "v",
                "one network that is trained on task after task"),
    MethodEntry("er", ER, "ER", "#b98a00", "#e0bd4a", "^",
                "fine-tuning with samples of earlier tasks replayed from a reservoir: twice the samples per step"),
    MethodEntry("ewc", EWC, "EWC", "#5c3a21", "#c79b78", "<",
                "fine-tuning with a penalty on changes of parameters that earlier tasks depend on"),
    MethodEntry("mod_random", ModRandom, "modules, random", "#c060e4", "#d9a0f5", "d",
                "one module per task, from a random initialization instead of the meta-learned one"),
    MethodEntry("maml_cl", MAMLCL, "MAML + CL", "#7a4fd0", "#b79cff", "D",
                "fine-tuning from an initialization that MAML learned"),
    MethodEntry("maml_offline", MAMLOffline, "MAML, offline", "#1b1e24", "#e8eaee", "P",
                "one network, all tasks at once, from the initialization that MAML learned"),
    MethodEntry("oml", OML, "OML", "#7d1d4f", "#e58bb8", ">",
                "one network of which the last layers are trained; the first were meta-learned through sequences of "
                "tasks"),
    MethodEntry("mod", Mod, "ours (mod)", "#0072b2", "#62b5ea", "o",
                "one module per task, from one meta-learned initialization; modules of earlier tasks are frozen"),
    MethodEntry("mod_even", ModEven, "mod, even draws", "#267f7f", "#7fd4d0", "p",
                "the modules, their samples drawn evenly without scores: what MIM is without Fisher information"),
    MethodEntry("mim", MIM, "ours (MIM)", "#c44e00", "#ff9a57", "*",
                "the modules, with Fisher information deciding which samples they are trained on"),
    MethodEntry("mim_weight", MIMWeight, "MIM (weights)", "#1c10a5", "#8fa8ff", "h",
                "the paper's form: Fisher scores weight the loss"),
)  # fmt: skip


class MethodTable(Mapping[str, type[Method]]):
    """Name -> class of every method, in the order in which they are shown; `entries` has how each is shown.

    Plugins are imported when the table is first read, not when the package is: a broken one then fails with a message
    of its own, and `import mclnf_fast` stays as fast as it is.
    """

    def __init__(self, built_in: Sequence[MethodEntry]) -> None:
        self._entries = {one.name: one for one in built_in}
        self._broken: dict[str, str] = {}
        self._complete = False

    @property
    def entries(self) -> Mapping[str, MethodEntry]:
        """Name -> entry, those of plugins last; without those of broken plugins, which `broken` has."""
        if not self._complete:
            added, self._broken = _plugins(self._entries)
            self._entries |= added
            self._complete = True
        return self._entries

    @property
    def broken(self) -> Mapping[str, str]:
        """Name of the entry point -> the line that reports why its plugin cannot be used."""
        self.entries  # noqa: B018  # loads the plugins
        return self._broken

    def add(self, one: MethodEntry) -> None:
        """Add a method. Raise InputError if another one has its name."""
        # Not against `entries`: to add a method would then import every plugin.
        _check_new(one, self._entries)
        self._entries[one.name] = one

    def remove(self, name: str) -> None:
        """Take a method out, as tests of added ones do."""
        del self._entries[name]

    def __getitem__(self, name: str) -> type[Method]:
        return self.entries[name].method

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


METHODS = MethodTable(BUILT_IN)
"""Name -> class of every method."""


def entry(name: str) -> MethodEntry:
    """Return how a method is shown. Raise InputError if there is no such method.

    >>> entry("ewc").title
    'EWC'
    """
    check_methods([name])
    return METHODS.entries[name]


def register_method(one: MethodEntry) -> None:
    """Add a method to the table: it can then be named in options, run, tabled and plotted as the others are.

    Raises InputError if another method has its name.

    >>> from mclnf_fast.learn.methods import FineTune
    >>> class SlowFineTune(FineTune):
    ...     "Fine-tuning at a tenth of the rate."
    ...     def rate(self, step):
    ...         return super().rate(step) / 10
    >>> register_method(entry_of("slow_finetune_example", SlowFineTune))
    >>> METHODS["slow_finetune_example"].category
    'CL'
    >>> METHODS.remove("slow_finetune_example")
    """
    METHODS.add(one)


def entry_of(name: str, method: type[Method]) -> MethodEntry:
    """Return the entry of a method that brings none: its name as the title, a spare color and marker, and the first
    line of its docstring.

    >>> entry_of("my_method", Mod).title
    'my method'
    """
    # By the letters of the name: a color stays whatever else is installed, and `hash` differs between processes.
    color, dark, marker = SPARE[sum(name.encode()) % len(SPARE)]
    sentence = (method.__doc__ or "").strip().partition("\n")[0].rstrip(".")
    return MethodEntry(name, method, name.replace("_", " "), color, dark, marker, sentence)


def check_methods(names: Sequence[str], option: str = "methods") -> None:
    """Raise InputError if there are no names, or one is not that of a method.

    >>> check_methods(["mod", "mim"])
    """
    if not names:
        raise InputError(f"{option} must name at least one of {', '.join(METHODS)}, got none")
    if unknown := [name for name in names if name not in METHODS]:
        # A broken plugin may not stop runs that do not ask for it; here it may be the reason.
        reasons = "".join(f"; {line}" for line in METHODS.broken.values())
        raise InputError(f"{option} must be among {', '.join(METHODS)}, got {', '.join(unknown)}{reasons}")


def unread_options(names: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of `AdaptConfig` that belong to methods, none of them among these: they change nothing.

    >>> unread_options(["mim", "er"])
    ('ewc_lam', 'ewc_online', 'ewc_decay', 'fast_layers')
    """
    methods = [METHODS[name] for name in names]
    known = [entry.method for entry in BUILT_IN]
    # A method of a plugin may read anything.
    if not all(method in known for method in methods):
        return ()
    read = {option for method in methods for option in method.options}
    return tuple(dict.fromkeys(option for method in known for option in method.options if option not in read))


def _plugins(known: Mapping[str, MethodEntry]) -> tuple[dict[str, MethodEntry], dict[str, str]]:
    """Return the methods of installed packages, and one line per plugin that cannot be used, by entry point."""
    added: dict[str, MethodEntry] = {}
    broken: dict[str, str] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        package = point.dist.name if point.dist is not None else "unknown"
        try:
            value = point.load()
            one = value if isinstance(value, MethodEntry) else entry_of(point.name, value)
            _check_new(one, {**known, **added})
        except Exception as error:  # whatever a package raises at import
            broken[point.name] = f"plugin {point.value} of the package {package} is broken: {error!r}"
        else:
            added[one.name] = one
    return added, broken


def _check_new(one: MethodEntry, known: Mapping[str, MethodEntry]) -> None:
    if one.name in known and known[one.name] != one:
        raise InputError(f"name of a method must be new, got {one.name}, which {known[one.name].method} has")
