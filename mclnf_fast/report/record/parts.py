"""The pieces that the records of all systems are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

Figure = float | None  # a finite number; None if it was not measured or is not finite


class Facts(TypedDict):
    """The facts of a run that its process knows before anything is learned, as arguments of every record."""

    system: str
    command: str
    machine: str
    versions: Mapping[str, str]
    backends: Mapping[str, str]
    config: Mapping[str, object]


@dataclass(frozen=True)
class Picture:
    """A picture of a run: its kind (which section shows it), its file relative to the run folder, its caption.

    >>> Picture("curve", "images/curve.png").caption
    ''
    """

    kind: str
    file: str
    caption: str = ""


@dataclass(frozen=True)
class Names:
    """The names of the signals, objects, photos or images of a run, by what they were used for."""

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def by_use(self) -> dict[str, tuple[str, ...]]:
        """Use -> names, without uses that have none."""
        names = {"train": self.train, "validation": self.validation, "test": self.test}
        return {use: value for use, value in names.items() if value}


@dataclass(frozen=True)
class MetaTraining:
    """How an initialization was meta-learned.

    Attributes:
        curve: rows (outer step, PSNR in dB on training tasks) or, with validation tasks, (outer step, PSNR on training
            tasks, PSNR on validation tasks).
        checks: rows (outer step, PSNR in dB) of a check that only reports.
        seconds: of the outer steps.
        outer_steps: how many there were.
        parameters: of the network.
        source: the run folder that the initialization was taken from; None if this run learned it.
    """

    curve: tuple[tuple[Figure, ...], ...] = ()
    checks: tuple[tuple[Figure, ...], ...] = ()
    seconds: Figure = None
    outer_steps: int | None = None
    parameters: int | None = None
    source: str | None = None


@dataclass(frozen=True)
class Trivial:
    """An answer that nobody has to learn, such as silence: its name, and measure -> one figure per test signal."""

    name: str = ""
    measures: Mapping[str, tuple[Figure, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """How the rate of each initialization was chosen: `choices` tried on `tasks` not tested on, `steps` of each."""

    choices: int = 0
    tasks: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Comparison:
    """`mim` against `mod` in a city.

    Attributes:
        mim_steps_to_mod_final: block -> first logged step at which `mim` has `mod`'s final PSNR, None if it never has.
        mim_over_mod_seconds: ratio of their training times.
    """

    mim_steps_to_mod_final: Mapping[str, int | None] = field(default_factory=dict)
    mim_over_mod_seconds: Figure = None


@dataclass(frozen=True)
class BlockFacts:
    """What a block of a city is learned from and judged by.

    Attributes:
        train, test: how many views.
        box: its box, lowest and highest corner in the units of the data, without the margin of its cell.
        missed: share of the rays of its training views that miss its cell, and are not learned.
        mean_color: PSNR in dB, mean over the test views, of pictures that show the mean color of the training views:
            what nobody has to learn.
    """

    train: int = 0
    test: int = 0
    box: tuple[tuple[float, ...], ...] = ()
    missed: Figure = None
    mean_color: Figure = None


@dataclass(frozen=True)
class Views:
    """The views of the test objects of single-view fields, one entry per object.

    Attributes:
        known: how many views an object was learned from.
        curve: the views that are scored over the steps.
        tested: how many views are scored at the end.
        shown: the views in the pictures.
    """

    known: tuple[int, ...] = ()
    curve: tuple[tuple[int, ...], ...] = ()
    tested: tuple[int, ...] = ()
    shown: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Orbit:
    """The turn around one object: its name, how many frames, and whether the truth could be rendered."""

    object: str = ""
    frames: int = 0
    rendered: bool = False


@dataclass(frozen=True)
class Photos:
    """How photos of a place were used.

    Attributes:
        left: the columns (first, one after the last) that are learned from.
        pairs: the pairs of test photos whose weights are interpolated, and `shown_pair`, the one in the pictures.
        others: how many places of other photos each field was rendered from.
        near, far: the ends of the rays in the units of the data; `scale`: field units per data unit.
    """

    left: tuple[int, ...] = ()
    pairs: tuple[tuple[int, ...], ...] = ()
    shown_pair: tuple[int, ...] | None = None
    others: int = 0
    near: Figure = None
    far: Figure = None
    scale: Figure = None
