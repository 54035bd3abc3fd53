"""The systems that `mclnf-fast run` knows: those of this package, and those of installed plugins.

A plugin registers a system without touching this package, by an entry point of the group `mclnf_fast.systems` that
names a `System`:

    [project.entry-points."mclnf_fast.systems"]
    echo = "my_package.echo:SYSTEM"
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pathlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from mclnf_fast.systems.common.options import SystemConfig

GROUP = "mclnf_fast.systems"
Run = Callable[["SystemConfig", str], pathlib.Path]
Defaults = Callable[[str, Sequence[str]], "SystemConfig"]


@dataclass(frozen=True)
class System:
    """One system of `mclnf-fast run NAME`.

    Attributes:
        help: its line in `mclnf-fast --help`.
        run: `run(config, command)` does the job and returns the run folder; `command` is the command line, for the
            report.
        defaults: `defaults(name, words)` returns the configuration from which the command line `words` is read: a
            dataclass that derives from `systems.common.options.SystemConfig`.

    Both functions may be given as "module:name", so that listing the systems imports none of them.

    >>> System("learn nothing", "json:loads", "json:dumps").help
    'learn nothing'
    """

    help: str
    run: str | Run
    defaults: str | Defaults

    def functions(self) -> tuple[Run, Defaults]:
        """Return (run, defaults), imported now. Raises ImportError, AttributeError if one is not there."""
        return _resolved(self.run), _resolved(self.defaults)


def _resolved(reference: str | Callable) -> Callable:
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    function: Callable = getattr(importlib.import_module(module), name)
    return function


def _own(help: str, package: str, run: str) -> System:
    folder = f"mclnf_fast.systems.{package}"
    return System(help, f"{folder}.job:{run}", f"{folder}.options:defaults_of")


SYSTEMS = {
    "city": _own("learn a city block by block without forgetting", "city", "run_city"),
    "image": _own("learn images patch by patch, by every method side by side", "signals", "run_signals"),
    "video": _own("the same with videos, frame group by frame group", "signals", "run_signals"),
    "audio": _own("the same with sound, window by window", "signals", "run_signals"),
    "single-view": _own(
        "learn an initialization for objects of a category, fine-tune it on one view, and show the others",
        "single_view",
        "run_single_view",
    ),
    "photos": _own(
        "learn an initialization for photos of a place under many lights, fine-tune it on one, and go from light to "
        "light",
        "photos",
        "run_photos",
    ),
    "image-start": _own(
        "learn an initialization for images by MAML that fits an unseen one in two steps",
        "image_start",
        "run_image_start",
    ),
    "ct": _own(
        "learn an initialization for CT slices that reconstructs an unseen one from few projections", "ct", "run_ct"
    ),
}
"""The systems of this package by name."""


def _plugins() -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def system_names() -> list[str]:
    """Return the names of all systems, those of plugins after those of this package; imports no plugin.

    >>> system_names()[:2]
    ['city', 'image']
    """
    # From the metadata of installed packages: importing every plugin would slow each command down.
    return list(dict.fromkeys([*SYSTEMS, *_plugins()]))


def find_system(name: str) -> System:
    """Return the system of a name.

    Raises InputError if there is none, or it is a plugin that is broken or takes a name of this package; the message
    names the plugin's distribution.

    >>> find_system("city").help
    'learn a city block by block without forgetting'
    """
    point = _plugins().get(name)
    if name in SYSTEMS:
        if point is not None:
            raise InputError(f"run {name}: the plugin {_source(point)} must take another name, {name} is taken")
        return SYSTEMS[name]
    if point is None:
        near = difflib.get_close_matches(name, system_names(), n=1)
        raise InputError(
            f"run must be followed by the name of a system ({', '.join(system_names())}), "
            f"got {name[:80] or 'nothing'}" + "".join(f"; did you mean {one}?" for one in near)
        )
    return _loaded(point)


def _loaded(point: importlib.metadata.EntryPoint) -> System:
    try:
        system = point.load()
    except Exception as error:  # whatever a plugin does while it is imported
        raise InputError(f"run {point.name}: the plugin {_source(point)} is broken: {error!r}") from error
    if not isinstance(system, System):
        raise InputError(
            f"run {point.name}: the plugin {_source(point)} must name a mclnf_fast.systems.System, "
            f"got {type(system).__name__}"
        )
    return system


def _source(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.value} of the package {point.dist.name if point.dist else 'unknown'}"


def system_lines() -> Iterable[tuple[str, str]]:
    """Yield (name, help) of every system; a broken plugin has its error in place of the help.

    >>> dict(system_lines())["city"]
    'learn a city block by block without forgetting'
    """
    for name in system_names():
        # One broken plugin must not hide the others, nor the systems of this package.
        try:
            system = find_system(name)
            point = None if name in SYSTEMS else _plugins()[name]
            origin = f" (plugin {point.dist.name})" if point is not None and point.dist is not None else ""
            yield name, system.help + origin
        except InputError as error:
            yield name, str(error).partition(": ")[2]
