"""Options that have no effect beside the others: named, not passed over in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import METHODS, unread_options
from mclnf_fast.systems.common.config_file import options_of, value_of

Idle = dict[str, str]
"""Flag without dashes, or the group that it begins with -> when it has no effect, such as "without data"."""


REPLACED = "with data"
"""When options of procedural data have no effect: a folder stands in their place, as was meant."""


def name_idle(config: object, baseline: object, idle: Idle) -> list[str]:
    """Return a sentence per option that was changed and has no effect.

    Args:
        config: the options of a run.
        baseline: the same before anybody changed them: those of the preset, or of a saved configuration.
        idle: what has no effect in this configuration.

    Raises InputError if it is one of the data: the run would learn from something else than was meant.

    >>> from mclnf_fast.systems.common.options import SystemConfig, RunOptions
    >>> changed = SystemConfig(RunOptions(threads=2))
    >>> name_idle(changed, SystemConfig(), {"device": "without a GPU"})
    []
    >>> name_idle(changed, SystemConfig(), {"threads": "with a GPU"})
    ['threads has no effect with a GPU, got 2']
    """
    sentences = []
    for option in options_of(type(config)):
        when = next((w for key, w in idle.items() if option.flag == key or option.flag.startswith(f"{key}.")), None)
        value = value_of(config, option)
        # What presets bring is nobody's wish: of them a run may have more than it uses.
        if when is not None and value != value_of(baseline, option):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            sentences.append(f"{option.flag} has no effect {when}, got {shown}")
            if option.path[0] == "data" and when != REPLACED:
                raise InputError(f"{sentences[-1]}: leave it out")
    return sentences


def flags(names: Iterable[str], when: str, group: str = "") -> Idle:
    """Return fields of a group, or without one of options without a prefix, as flags without effect.

    >>> flags(["inner_lr"], "with init random", "meta")
    {'meta.inner-lr': 'with init random'}
    """
    prefix = f"{group}." if group else ""
    return {prefix + name.replace("_", "-"): when for name in names}


def idle_of_methods(methods: Sequence[str], fim: FimConfig, ewc_online: bool, guided_meta: bool = False) -> Idle:
    """Return the options of methods that none of these methods reads, and of Fisher information what it leaves unread.

    Args:
        methods: names of the methods of a run.
        fim: what is done with Fisher information.
        ewc_online: whether EWC is online.
        guided_meta: whether meta-training is guided by Fisher information too.

    >>> idle_of_methods(["er"], FimConfig(), False)["fim"]
    'with these methods'
    """
    unread = dict.fromkeys(unread_options(methods), "with these methods")
    idle = {name if name == "fim" else f"adapt.{name.replace('_', '-')}": when for name, when in unread.items()}
    if not ewc_online:
        idle.setdefault("adapt.ewc-decay", "without adapt.ewc-online")
    # Plugins may read all of `fim`, and meta-training draws and weights by it in its own way.
    if "fim" in idle or guided_meta or not all(METHODS[name].__module__.startswith("mclnf_fast.") for name in methods):
        return idle
    if fim.source == "batch":
        idle["fim.decay"] = "with fim.source batch"
    uses = {fim.use} | ({"weight"} if "mim_weight" in methods else set())
    if not uses & {"weight", "both"}:
        idle |= flags(("form", "lam", "norm", "clip"), f"with fim.use {fim.use}", "fim")
    if not uses & {"sample", "both"}:
        idle |= flags(("draws", "mix", "smooth", "refresh"), f"with fim.use {fim.use}", "fim")
    return idle


def collected(config: object) -> Idle:
    """Return what the groups of a configuration say has no effect in them.

    >>> from mclnf_fast.systems.common.options import SystemConfig
    >>> collected(SystemConfig())
    {}
    """
    idle: Idle = {}
    for group in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass, as every configuration
        own = getattr(getattr(config, group.name), "idle", None)
        idle |= own() if own is not None else {}
    return idle
